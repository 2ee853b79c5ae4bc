//! Whether the serial ports are there, and whether something else of the machine wants them too.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::cli::output::plural;
use crate::config::{Finding, Settings};
use crate::control::snapshot::{SerialUnit, Status};
use crate::control::verdict::{DOUBTFUL, LATE, SETTLED_BY, is_between};
use crate::southbound::serial::io::find::{self, Unresolved};
use crate::southbound::serial::line_time::{self, Demand};
use crate::southbound::serial::settings::{Port, PortName};

/// Most registers that a finding lists.
const SHOWN: usize = 3;

/// A finding or more for each port. Nothing is opened: a running daemon has it.
pub fn ports(settings: &Settings) -> Vec<Finding> {
    let own = settings.serial.iter().flat_map(|port| one(port, Path::new("/")));
    own.chain(twice(&settings.serial)).chain(line_times(&settings.serial)).collect()
}

/// Ports whose names are different and mean one device: the second can never be opened.
fn twice(ports: &[Port]) -> Vec<Finding> {
    let mut devices: Vec<(&Port, PathBuf)> = Vec::new();
    let mut findings = Vec::new();
    for port in ports {
        let Some(device) = find::device(&port.port) else { continue };
        let same = devices.iter().find(|(other, is)| *is == device && other.port != port.port);
        if let Some((other, _)) = same {
            let message = format!(
                "{} and the port of serial {}, {}, are one device, {}",
                port.port,
                other.name,
                other.port,
                device.display()
            );
            let finding = Finding::fail(format!("serial {}", port.name), message);
            let finding = finding.key(format!("serial.{}.port", port.name));
            findings.push(
                finding.advice(
                    "write port in the same way in both, so that they share it; or give each its own",
                ),
            );
        }
        devices.push((port, device));
    }
    findings
}

/// The lines whose devices cannot be asked as often as the files say, by computation.
fn line_times(ports: &[Port]) -> Vec<Finding> {
    let mut lines: BTreeMap<String, (&Port, Vec<Demand>)> = BTreeMap::new();
    for port in ports {
        let line = lines.entry(port.port.to_string()).or_insert((port, Vec::new()));
        line.1.extend(line_time::demands(port));
    }
    let told = |(port, demands): &(&Port, Vec<Demand>)| {
        let message = line_time::overload(demands)?;
        let finding = Finding::warn(format!("serial {}", port.name), message);
        Some(finding.key(format!("serial.{}", port.name)).advice(line_time::ADVICE))
    };
    lines.values().filter_map(told).collect()
}

/// What the running daemon counts of its ports: units whose values do not arrive.
pub fn told(status: &Status, ports: &[Port]) -> Vec<Finding> {
    let computed: Vec<String> = line_times(ports).into_iter().map(|found| found.message).collect();
    let mut findings = Vec::new();
    for (name, port) in &status.serial {
        let subject = format!("serial {name}");
        // What follows from the files alone is said by their findings.
        if let Some(why) = port.overload.as_ref().filter(|why| !computed.contains(why)) {
            let message = format!("as measured: {why}");
            findings.push(Finding::warn(&subject, message).advice(line_time::ADVICE));
        }
        for (id, unit) in &port.units {
            let left_out: Vec<String> =
                unit.left_out.iter().take(SHOWN).map(|(field, why)| format!("{field} ({why})")).collect();
            let more = unit.left_out.len().saturating_sub(SHOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let without = format!("{}{more}", left_out.join(", "));
            let reason = unit.reason.as_deref();
            // What the bus has measured is more than a guess.
            let rest = unit.rest_advised_ms.map(|ms| {
                format!(
                    "no request sooner than {ms} ms after an answer on the line was ever answered: set pause = \
                     \"{ms}ms\" in [serial.{name}.modbus]"
                )
            });
            let (is_behind, surplus, answer_times) = (unit.one_behind, unit.surplus, unit.answer_times);
            // Its values arrive, though it counts as degraded.
            let is_read = reason == Some(LATE);
            let unit = unit.address;
            if is_behind {
                let message = format!("unit {unit}, {id}: its answers come one request late");
                let advice = "restart the converter or gateway, or replace it: it delivers each answer with the next \
                              request; until then each read is sent twice";
                findings.push(Finding::warn(&subject, message).advice(advice));
            } else if port.units[id].doubled {
                let message = format!("unit {unit}, {id}: each read is sent more than once: {DOUBTFUL}");
                findings.push(Finding::warn(&subject, message).advice(SETTLED_BY));
            }
            if surplus > 0 && port.other_master == 0 {
                let message = format!("unit {unit}, {id}: it sends frames that nothing was asked for");
                let advice =
                    "give each unit of the line an address of its own, and let no other master ask it";
                findings.push(Finding::warn(&subject, message).advice(advice));
            }
            if answer_times > 0 {
                let message = format!("unit {unit}, {id}: its answers come {answer_times} times");
                let advice = "the unit, a repeater or a converter sends them again: look at its settings, and for a second \
                              one on the line; the copies are not used, and cost the line time";
                findings.push(Finding::warn(&subject, message).advice(advice));
            }
            let is_failing = !is_read && matches!(port.units[id].state.as_str(), "degraded" | "down");
            if is_behind && is_failing {
                // That is the reason, and all that there is to be done.
            } else if port.units[id].state == "degraded" && !is_read {
                let message = match reason {
                    Some(reason) => format!("unit {unit}, {id}: {reason}"),
                    // An older daemon does not say why.
                    None => format!(
                        "unit {unit}, {id}: it answers, but none of its values can be read: {without}"
                    ),
                };
                let advice = match reason {
                    Some(reason) if reason.contains("as by a gateway") => {
                        "look at its power, its wiring and its address on the line behind the gateway"
                    }
                    _ => special(&port.units[id])
                        .unwrap_or("compare table, address and numbering of its registers with the manual"),
                };
                findings.push(Finding::warn(&subject, message).advice(rest.as_deref().unwrap_or(advice)));
            } else if port.units[id].state == "down" {
                let message = format!("unit {unit}, {id}: {}", reason.unwrap_or("it does not answer"));
                let advice = if reason.is_some_and(|reason| reason.contains("transaction-id")) {
                    "late answers are told from others as on a serial line then"
                } else if port.port.contains("tcp://") {
                    "look at its power, its address, the converter's own settings, and whether the port is one of \
                     tcp:// (RTU) or modbus-tcp://"
                } else {
                    "look at its power, its wiring (A and B), its address and the port's baud and parity"
                };
                findings.push(Finding::warn(&subject, message).advice(rest.as_deref().unwrap_or(advice)));
            } else if !left_out.is_empty() {
                let message = format!("unit {unit}, {id}: its readings come without {without}");
                let advice = special(&port.units[id])
                    .unwrap_or("take these registers out with enabled = false, or correct their addresses");
                findings.push(Finding::warn(&subject, message).advice(rest.as_deref().unwrap_or(advice)));
            }
        }
        if port.other_master > 0 {
            let message = format!(
                "another master is on this line: {} of it were seen",
                plural(port.other_master, "request")
            );
            let advice = "let one master ask alone, or let both ask less often: its answers are told from those to the \
                          gateway only as long as its requests are seen";
            findings.push(Finding::warn(&subject, message).advice(advice));
        }
        if port.lost_readings > 0 {
            let message = format!(
                "{} lost: the journal could not take them, and there was no room for more in memory",
                plural(port.lost_readings, "reading")
            );
            let advice = "make room on the journal's disk, or look at why it fails: `tombolo queue` says what it has; the count \
                          begins anew with the next start of the gateway";
            findings.push(Finding::warn(&subject, message).advice(advice));
        }
        findings.extend(
            port.telnet.iter().chain(&port.illegible).map(|why| Finding::warn(&subject, why.clone())),
        );
        if let Some(asked) = &port.asked {
            let (questions, answers) = (asked.questions, asked.answers);
            let what = match asked.state.as_str() {
                "down" => Some(asked.reason.as_deref().unwrap_or("it does not answer")),
                "degraded" => Some(asked.reason.as_deref().unwrap_or("its answers are no readings")),
                _ => None,
            };
            findings.extend(what.map(|what| {
                let message = format!("{what} ({answers} answers to {questions} questions)");
                let advice = "compare poll, baud, parity and framing with the device's manual; if it must be woken before it \
                              answers, set wake";
                Finding::warn(&subject, message).advice(advice)
            }));
        }
        if let Some(reason) = port.reason.as_ref().filter(|_| port.state == "retrying" && !is_between(port)) {
            let message = format!("the daemon cannot open {}: {reason}", port.port);
            findings.push(Finding::warn(&subject, message).advice("it tries again by itself"));
        }
    }
    findings
}

/// What to do about registers that are left out, where addresses are not what is wrong.
fn special(unit: &SerialUnit) -> Option<&'static str> {
    let is = |what: &str| unit.left_out.values().any(|why| why.contains(what));
    let has = |code: u8| {
        let (named, bare) = (format!("exception {code},"), format!("exception {code}"));
        unit.left_out.values().any(|why| why.starts_with(&named) || *why == bare)
    };
    if unit.reason.as_ref().is_some_and(|why| why.contains("later than can be reckoned with")) {
        return Some(
            "restart the converter or gateway, or raise the timeout of its line; it is asked again by itself",
        );
    }
    if unit.reason.as_ref().is_some_and(|why| why.contains("byte-count")) {
        return Some("set byte-count for the unit, or in its template");
    }
    if is("numbering = \"manual\"") {
        return Some(
            "manuals count from 40001, 30001 and 10001, units from 0: set numbering = \"manual\" for the unit, or in its \
             template; or correct these addresses",
        );
    }
    Some(if has(5) || has(6) {
        "the unit says that it is busy, which may pass: ask it less often (period, pause)"
    } else if has(4) {
        "the unit says that it failed: some do so for registers that they do not have; take these out with enabled = \
         false, or look at the unit itself"
    } else if has(8) {
        "the unit says that its memory is damaged: look at the unit itself"
    } else if is("exception ") && !(1..=3).any(has) {
        "look the exception up in the unit's manual; to do without these registers, set enabled = false"
    } else if is("raise timeout") {
        "raise timeout"
    } else if is("only damaged answers") {
        "the unit or the adapter may cut long answers: set max-registers; or look at baud, parity and termination"
    } else if is("answers are damaged") || unit.reason.as_ref().is_some_and(|why| why.contains("are damaged"))
    {
        "look at baud, parity, termination and wiring; shorter requests suffer less: set max-registers"
    } else if is("did not arrive") {
        "compare what `tombolo status` counts of the unit: silent, damaged and late; if the line needs a rest after \
         each answer, set pause under modbus"
    } else if is("no answer") {
        "correct their addresses, or take them out with enabled = false; if the unit needs more than 1 s between \
         requests, set pause"
    } else {
        return None;
    })
}

fn one(port: &Port, root: &Path) -> Vec<Finding> {
    let subject = format!("serial {}", port.name);
    if let PortName::Tcp { .. } = port.port {
        // Most converters serve one connection only, and that is the daemon's.
        return vec![Finding::ok(&subject, format!("{} is asked by the daemon alone", port.port))];
    }
    let path = match find::resolve(&port.port) {
        Ok(path) => path,
        // That does not pass by itself.
        Err(why @ Unresolved::Ambiguous(_)) => {
            let key = format!("serial.{}.port", port.name);
            let finding = Finding::fail(&subject, format!("{}: {why}", port.port)).key(key);
            return vec![finding.advice("see `tombolo serial list`; the daemon waits until there is one")];
        }
        Err(why @ Unresolved::Missing) => return vec![absent(&subject, port, &why.to_string())],
    };
    let device = match std::fs::canonicalize(&path) {
        Ok(device) => device,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return vec![absent(&subject, port, "it is not there")];
        }
        Err(error) => return vec![absent(&subject, port, &error.to_string())],
    };
    let Some(found) = std::fs::metadata(&device).ok().filter(|found| found.file_type().is_char_device())
    else {
        let message = format!("{} is not a serial port", device.display());
        return vec![Finding::fail(&subject, message).advice("see `tombolo serial list`")];
    };
    // Those of every serial driver are of this class. Pseudo-terminals are of none.
    if let Some(class) = class(found.rdev(), root).filter(|class| class != "tty") {
        let message = format!("{} is not a serial port, but a device of the class {class}", device.display());
        return vec![Finding::fail(&subject, message).advice("see `tombolo serial list`")];
    }
    let shown = device.display();
    let name = device.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut findings = Vec::new();
    if consoles(root).contains(&name) {
        let message =
            format!("the kernel's console is on {shown}: it writes there, and a login may wait for answers");
        let advice = format!(
            "take console={name} out of the kernel's command line, and `systemctl mask serial-getty@{name}`"
        );
        findings.push(Finding::warn(&subject, message).advice(advice));
    }
    if probed(&name, found.rdev(), root) {
        let message = format!("ModemManager runs and sends commands to {shown} whenever it is plugged in");
        let advice =
            "remove ModemManager, or set ENV{ID_MM_DEVICE_IGNORE}=\"1\" for the adapter in a udev rule";
        findings.push(Finding::warn(&subject, message).advice(advice));
    }
    if findings.is_empty() {
        let named = port.port.to_string();
        findings.push(Finding::ok(
            &subject,
            match device == Path::new(&named) {
                true => format!("{shown} is there"),
                false => format!("{named} is {shown}"),
            },
        ));
    }
    findings
}

fn absent(subject: &str, port: &Port, why: &str) -> Finding {
    let advice = "plug it in, or see `tombolo serial list`; the daemon waits for it";
    Finding::warn(subject, format!("{}: {why}", port.port)).advice(advice)
}

/// The kernel's class of a character device, if it has one.
fn class(number: u64, root: &Path) -> Option<String> {
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    let link = std::fs::read_link(root.join(format!("sys/dev/char/{major}:{minor}/subsystem"))).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// The terminals that are the kernel's console, by name.
fn consoles(root: &Path) -> Vec<String> {
    let active = std::fs::read_to_string(root.join("sys/class/tty/console/active")).unwrap_or_default();
    active.split_whitespace().map(str::to_owned).collect()
}

/// Whether ModemManager would look for a modem behind it: it runs, and no udev rule keeps it off.
fn probed(name: &str, number: u64, root: &Path) -> bool {
    // It looks at USB ports alone unless it is told otherwise.
    if !(name.starts_with("ttyUSB") || name.starts_with("ttyACM")) || !runs("ModemManager", root) {
        return false;
    }
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    let known = root.join(format!("run/udev/data/c{major}:{minor}"));
    let known = std::fs::read_to_string(known).unwrap_or_default();
    !known.lines().any(|line| matches!(line, "E:ID_MM_DEVICE_IGNORE=1" | "E:ID_MM_PORT_IGNORE=1"))
}

fn runs(program: &str, root: &Path) -> bool {
    let processes = std::fs::read_dir(root.join("proc")).into_iter().flatten().flatten();
    let comm = |folder: PathBuf| std::fs::read_to_string(folder.join("comm")).unwrap_or_default();
    processes.map(|entry| comm(entry.path())).any(|name| name.trim() == program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::snapshot::SerialPort;

    #[test]
    fn readings_that_were_lost_are_warned_of_with_their_number_and_a_pause_between_messages_is_not() {
        let found = |port: SerialPort| {
            let status = Status { serial: [("m".to_owned(), port)].into(), ..Status::default() };
            told(&status, &[]).into_iter().map(|found| found.message).collect::<Vec<String>>()
        };
        let lost = found(SerialPort { state: "open".into(), lost_readings: 157, ..SerialPort::default() });
        assert!(lost.len() == 1 && lost[0].starts_with("157 readings lost: the journal"), "{lost:?}");
        let reason = Some("it hung up".to_owned());
        let between = SerialPort { state: "retrying".into(), reason, readings: 3, ..SerialPort::default() };
        assert_eq!(found(between.clone()), [""; 0]);
        assert_eq!(found(SerialPort { since_s: 60, ..between }).len(), 1);
    }

    #[test]
    fn a_unit_that_is_degraded_or_down_and_a_register_left_out_are_warned_of() {
        let left_out = |fields: &[&str]| {
            fields.iter().map(|field| ((*field).to_owned(), "exception 2".to_owned())).collect()
        };
        let unit = |state: &str, fields: &[&str]| SerialUnit {
            address: 3,
            state: state.to_owned(),
            left_out: left_out(fields),
            ..SerialUnit::default()
        };
        let misfit = SerialUnit {
            reason: Some("it answers 12 bytes where 2 are asked for".into()),
            ..unit("degraded", &[])
        };
        let slow = SerialUnit {
            reason: Some("its answers come after the timeout; raise timeout".into()),
            ..unit("down", &[])
        };
        let units = [
            ("fits".to_owned(), misfit),
            ("good".to_owned(), unit("up", &[])),
            ("mute".to_owned(), unit("degraded", &["a", "b", "c", "d"])),
            ("part".to_owned(), unit("up", &["x"])),
            ("slow".to_owned(), slow),
        ];
        let bus = SerialPort { units: units.into(), ..SerialPort::default() };
        let serial = [("bus".to_owned(), bus)];
        let found = told(&Status { serial: serial.into(), ..Status::default() }, &[]);
        let found: Vec<String> = found.iter().map(|finding| finding.message.clone()).collect();
        assert_eq!(
            found,
            [
                "unit 3, fits: it answers 12 bytes where 2 are asked for",
                "unit 3, mute: it answers, but none of its values can be read: a (exception 2), b (exception 2), \
                 c (exception 2) and 1 more",
                "unit 3, part: its readings come without x (exception 2)",
                "unit 3, slow: its answers come after the timeout; raise timeout",
            ]
        );
    }

    #[test]
    fn another_master_frames_nobody_asked_for_and_answers_one_request_late_are_warned_of() {
        let found = |other_master: u64| {
            let unit = SerialUnit {
                address: 3,
                state: "up".into(),
                one_behind: true,
                surplus: 9,
                ..SerialUnit::default()
            };
            let bus =
                SerialPort { units: [("m".to_owned(), unit)].into(), other_master, ..SerialPort::default() };
            let serial = [("bus".to_owned(), bus)].into();
            let found = told(&Status { serial, ..Status::default() }, &[]);
            found.iter().map(|finding| finding.message.clone()).collect::<Vec<_>>()
        };
        let behind = "unit 3, m: its answers come one request late";
        assert_eq!(found(0), [behind, "unit 3, m: it sends frames that nothing was asked for"]);
        assert_eq!(found(2), [behind, "another master is on this line: 2 requests of it were seen"]);
    }

    #[test]
    fn a_unit_that_is_degraded_for_being_late_is_warned_of_once_and_so_is_one_in_doubt() {
        let found = |unit: SerialUnit| {
            let bus = SerialPort { units: [("m".to_owned(), unit)].into(), ..SerialPort::default() };
            let found = told(&Status { serial: [("bus".to_owned(), bus)].into(), ..Status::default() }, &[]);
            found.iter().map(|finding| finding.message.clone()).collect::<Vec<_>>()
        };
        let left_out = [("x".to_owned(), "exception 2".to_owned())].into();
        let late = SerialUnit {
            state: "degraded".into(),
            reason: Some(LATE.into()),
            one_behind: true,
            ..SerialUnit::default()
        };
        assert_eq!(found(late.clone()), ["unit 0, m: its answers come one request late"]);
        assert_eq!(
            found(SerialUnit { left_out, ..late })[1],
            "unit 0, m: its readings come without x (exception 2)"
        );
        let twice =
            found(SerialUnit { state: "up".into(), answer_times: 2, copies: 9, ..SerialUnit::default() });
        assert_eq!(twice, ["unit 0, m: its answers come 2 times"]);
        let doubled = found(SerialUnit { state: "up".into(), doubled: true, ..SerialUnit::default() });
        assert_eq!(doubled, [format!("unit 0, m: each read is sent more than once: {DOUBTFUL}")]);
    }

    #[test]
    fn the_key_for_a_peer_that_copies_no_transaction_identifier_is_named_once() {
        let reason = Some(modbus_failure().to_string());
        let unit = SerialUnit { state: "down".into(), reason, ..SerialUnit::default() };
        let bus = SerialPort { units: [("m".to_owned(), unit)].into(), ..SerialPort::default() };
        let found = told(&Status { serial: [("bus".to_owned(), bus)].into(), ..Status::default() }, &[]);
        let text = format!("{:?}", found[0]);
        assert_eq!(text.matches("transaction-id").count(), 1, "{text}");
    }

    fn modbus_failure() -> crate::proto::serial::modbus::bus::Failing {
        use crate::proto::serial::modbus::bus::{Failing, Medium};
        Failing {
            failure: crate::proto::serial::modbus::Failure::Misnumbered,
            misfit: None,
            is_late: false,
            is_displaced: false,
            is_behind: false,
            beyond: None,
            crossed: None,
            medium: Medium::Header,
        }
    }

    #[test]
    fn a_line_of_which_nothing_can_be_read_is_warned_of() {
        let why = "20 frames in a row gave no reading; compare pattern with what comes";
        let port = SerialPort { illegible: Some(why.into()), ..SerialPort::default() };
        let serial = [("scale".to_owned(), port), ("good".to_owned(), SerialPort::default())];
        let found = told(&Status { serial: serial.into(), ..Status::default() }, &[]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].subject.as_str(), found[0].message.as_str()), ("serial scale", why));
        let port = SerialPort { telnet: Some("the converter speaks telnet".into()), ..SerialPort::default() };
        let found = told(&Status { serial: [("scale".to_owned(), port)].into(), ..Status::default() }, &[]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].message, "the converter speaks telnet");
    }

    #[test]
    fn a_device_file_of_another_class_is_no_serial_port() {
        use crate::southbound::serial::settings::{Duty, Line};
        let root = std::env::temp_dir().join(format!("tombolo-class-{}", std::process::id()));
        // The numbers of /dev/null.
        let folder = root.join("sys/dev/char/1:3");
        std::fs::create_dir_all(&folder).unwrap();
        let port = Port {
            name: crate::message::Name::parse("a").unwrap(),
            port: PortName::parse("/dev/null").unwrap(),
            line: Line::default(),
            duty: Duty::Slipmux { max_message: 100 },
        };
        let said = |class: Option<&str>| {
            let link = folder.join("subsystem");
            let _ = std::fs::remove_file(&link);
            if let Some(class) = class {
                std::os::unix::fs::symlink(Path::new("../../../../class").join(class), &link).unwrap();
            }
            one(&port, &root).iter().map(Finding::sentence).collect::<Vec<_>>().join("; ")
        };
        let text = said(Some("mem"));
        assert!(text.contains("/dev/null is not a serial port, but a device of the class mem"), "{text}");
        for good in [Some("tty"), None] {
            let text = said(good);
            assert!(text.contains("/dev/null is there"), "{text}");
        }
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn one_adapter_under_two_names_is_named_and_a_shared_one_is_not() {
        use crate::southbound::serial::settings::{Duty, Line};
        let folder = std::env::temp_dir().join(format!("tombolo-twice-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let link = folder.join("by-id");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        let port = |name: &str, port: &str| Port {
            name: crate::message::Name::parse(name).unwrap(),
            port: PortName::parse(port).unwrap(),
            line: Line::default(),
            duty: Duty::Slipmux { max_message: 100 },
        };
        let link = link.to_str().unwrap();
        let found =
            twice(&[port("a", "/dev/null"), port("b", link), port("c", "/dev/null"), port("d", "/dev/zero")]);
        let said: Vec<String> =
            found.iter().map(|finding| format!("{}: {}", finding.subject, finding.message)).collect();
        let expected = |name: &str, own: &str, other: &str| {
            format!("serial {name}: {own} and the port of serial {other}, are one device, /dev/null")
        };
        assert_eq!(
            said,
            [expected("b", link, "a, /dev/null"), expected("c", "/dev/null", &format!("b, {link}")),]
        );
        assert!(twice(&[port("a", "tcp://h:1"), port("b", "/dev/zero"), port("c", "/nowhere")]).is_empty());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_line_that_is_measured_to_be_too_slow_is_warned_of() {
        let bus = SerialPort { overload: Some("140 % of the line's time".into()), ..SerialPort::default() };
        let serial = [("bus".to_owned(), bus)];
        let found = told(&Status { serial: serial.into(), ..Status::default() }, &[]);
        assert!(found.len() == 1 && found[0].message.contains("as measured: 140 %"), "{found:?}");
        assert!(found[0].advice.contains("lengthen period"));
    }

    #[test]
    fn the_advice_for_damaged_answers_and_for_registers_that_do_not_arrive_is_about_the_line() {
        use crate::proto::serial::modbus::learn::Obstacle;
        let unit = |reason: Option<&str>, why: Option<Obstacle>| SerialUnit {
            reason: reason.map(str::to_owned),
            left_out: why.into_iter().map(|why| ("r0".to_owned(), why.to_string())).collect(),
            ..SerialUnit::default()
        };
        let of = |unit: &SerialUnit| special(unit).unwrap_or_default();
        assert!(of(&unit(None, Some(Obstacle::Damaged))).contains("termination"));
        assert!(of(&unit(Some("its longer answers are damaged"), None)).contains("termination"));
        assert!(of(&unit(None, Some(Obstacle::Missed))).contains("set pause under modbus"));
    }

    #[test]
    fn the_pause_that_a_line_needs_is_advised_with_its_key_and_value() {
        let unit = |state: &str, why: Option<&str>| SerialUnit {
            state: state.to_owned(),
            left_out: why.into_iter().map(|why| ("x".to_owned(), why.to_owned())).collect(),
            rest_advised_ms: Some(350),
            ..SerialUnit::default()
        };
        for unit in
            [unit("up", Some("no answer to a read of it alone")), unit("down", None), unit("degraded", None)]
        {
            let bus = SerialPort { units: [("u".to_owned(), unit)].into(), ..SerialPort::default() };
            let status = Status { serial: [("bus1".to_owned(), bus)].into(), ..Status::default() };
            let advice = told(&status, &[])[0].advice.clone();
            assert!(advice.ends_with("set pause = \"350ms\" in [serial.bus1.modbus]"), "{advice}");
        }
    }

    #[test]
    fn the_advice_for_a_register_that_is_left_out_fits_the_reason() {
        use crate::proto::serial::modbus::learn::Obstacle;
        use crate::proto::serial::modbus::map::Register;
        use crate::proto::serial::modbus::pdu::Exception;
        let advice = |why: &str| {
            let left_out = [("x".to_owned(), why.to_owned())].into();
            let unit = SerialUnit { address: 3, state: "up".to_owned(), left_out, ..SerialUnit::default() };
            let bus = SerialPort { units: [("u".to_owned(), unit)].into(), ..SerialPort::default() };
            let status = Status { serial: [("bus".to_owned(), bus)].into(), ..Status::default() };
            told(&status, &[])[0].advice.clone()
        };
        assert!(advice("exception 2, illegal data address").contains("enabled = false"));
        let register = Register { address: 40_001, ..Register::default() };
        let manual = advice(&Obstacle::Exception(Exception(2)).of(&register));
        assert!(manual.contains("numbering = \"manual\"") && !manual.contains("enabled"), "{manual}");
        let busy = advice("exception 6, server device busy");
        assert!(busy.contains("may pass") && !busy.contains("enabled"), "{busy}");
        assert_eq!(advice("its answer comes after the timeout; raise timeout"), "raise timeout");
        assert!(advice("no answer to a read of it alone").contains("set pause"));
        let failed = advice("exception 4, server device failure");
        assert!(failed.contains("it failed") && !failed.contains("addresses"), "{failed}");
        assert!(advice("exception 8, memory parity error").contains("memory"));
        for other in ["exception 9", "exception 12", "exception 200"] {
            assert!(advice(other).contains("manual"), "{}", advice(other));
        }
        assert!(advice("only damaged answers to a read of it alone").contains("max-registers"));
    }

    #[test]
    fn who_else_wants_a_port_is_found_out_from_the_machines_own_files() {
        let root = std::env::temp_dir().join(format!("tombolo-wants-{}", std::process::id()));
        for folder in ["sys/class/tty/console", "proc/17", "run/udev/data"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        let number = nix::sys::stat::makedev(188, 3);
        std::fs::write(root.join("sys/class/tty/console/active"), "tty0 ttyS0\n").unwrap();
        assert_eq!(consoles(&root), ["tty0", "ttyS0"]);
        assert!(!probed("ttyUSB3", number, &root));
        std::fs::write(root.join("proc/17/comm"), "ModemManager\n").unwrap();
        assert!(probed("ttyUSB3", number, &root));
        assert!(!probed("ttyS0", number, &root));
        std::fs::write(root.join("run/udev/data/c188:3"), "I:1\nE:ID_MM_DEVICE_IGNORE=1\n").unwrap();
        assert!(!probed("ttyUSB3", number, &root));
        assert!(consoles(Path::new("/nowhere")).is_empty());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
