//! `tombolo serial`: lists the serial ports, traces the bytes of one, and forgets what a unit
//! taught.
//!
//! A port that the running daemon has open is traced through the daemon, so that no bytes are lost
//! to it; another port is opened by this command.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use serde_json::json;

use super::Context;
use super::args::{SerialCommand, SerialTraceArguments};
use super::error::CommandError;
use super::output::plural;
use crate::clock::UnixTime;
use crate::config::scalar::{did_you_mean, format_hex};
use crate::control::io::client::{ANSWER, ClientError};
use crate::control::protocol::Request;
use crate::control::snapshot::{SerialPort, Status};
use crate::control::trace::Traced;
use crate::southbound::serial::io::find::{self, Found};
use crate::southbound::serial::io::{Opened, open_device};
use crate::southbound::serial::line_time::ADVICE;
use crate::southbound::serial::settings::{Line, Port, PortName};
use crate::telemetry::io::hinted;
use crate::telemetry::text::Escaped;

/// Bytes shown in one line.
const ROW: usize = 16;

/// Runs the command.
///
/// # Errors
/// [`CommandError::Failed`] if a port cannot be traced.
pub fn run(context: &Context, command: SerialCommand) -> Result<(), CommandError> {
    match command {
        SerialCommand::List => list(context),
        SerialCommand::Trace(arguments) => trace(context, &arguments),
        SerialCommand::Relearn(arguments) => relearn(context, arguments.unit),
    }
}

fn relearn(context: &Context, unit: String) -> Result<(), CommandError> {
    let request = Request::SerialRelearn { device: unit.clone() };
    let answer = context.daemon()?.ask(&request, ANSWER)?;
    if context.out.json {
        return Ok(context.out.object(&answer)?);
    }
    let unit = Escaped(&unit);
    Ok(context.out.line(match answer.get("forgotten").and_then(serde_json::Value::as_bool) {
        Some(false) => format!("nothing was found out of {unit}; it is asked as configured"),
        _ => format!("what was found out of {unit} is forgotten; it is asked as configured again"),
    })?)
}

fn list(context: &Context) -> Result<(), CommandError> {
    let found = find::all();
    if context.out.json {
        return Ok(context.out.object(&json!({ "ports": found }))?);
    }
    if found.is_empty() {
        super::note(
            "no serial port found; if an adapter is plugged in but not listed, its kernel module is missing",
        );
    }
    let all: Vec<&Found> = found.iter().collect();
    for port in &found {
        context.out.text(&describe(port, port.is_shared(&all)))?;
    }
    // What the running daemon found out of the units of its buses, also behind converters in the
    // network.
    if let Ok(status) =
        context.daemon().and_then(|mut daemon| daemon.ask_for::<Status>(&Request::Status {}, ANSWER))
    {
        context.out.text(&hinted(&told(&status)))?;
    }
    Ok(())
}

/// What a running daemon says of the devices behind its ports: one line for each thing that is not
/// as configured.
fn told(status: &Status) -> String {
    let mut lines = Vec::new();
    for (name, port) in &status.serial {
        let name = Escaped(name);
        lines.extend(port.overload.as_ref().map(|why| format!("{name}: {}; {ADVICE}", Escaped(why))));
        lines.extend(port.telnet.as_ref().map(|why| format!("{name}: {}", Escaped(why))));
        lines.extend(port.illegible.as_ref().map(|why| format!("{name}: {}", Escaped(why))));
        if let Some(asked) = &port.asked
            && let Some(reason) = &asked.reason
        {
            lines.push(format!("{name}, {}: {}", Escaped(&asked.state), Escaped(reason)));
        }
        for (id, unit) in &port.units {
            let own = super::status::serial_unit_faults(unit);
            let address = unit.address;
            lines.extend(
                own.iter().map(|line| format!("{name} unit {address}, {}:{}", Escaped(id), Escaped(line))),
            );
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Describes one port, with a block for the configuration. `is_shared`: another port has the same
/// `usb:` name.
fn describe(port: &Found, is_shared: bool) -> String {
    let mut text = format!("{}", Escaped(&port.device.display().to_string()));
    for part in [&port.product, &port.driver, &port.usb].into_iter().flatten() {
        text.push_str(&format!("  {}", Escaped(part)));
    }
    text.push('\n');
    for link in port.by_id.iter().chain(&port.by_path) {
        text.push_str(&format!("  {}\n", Escaped(&link.display().to_string())));
    }
    // The by-id link names the adapter, the by-path link its USB socket; both are persistent. Of
    // two identical adapters only one has a by-id link, and not always the same one.
    let stable = match is_shared {
        true => port.by_path.first(),
        false => port.by_id.first().or(port.by_path.first()),
    };
    let stable = stable.unwrap_or(&port.device);
    if let Some(usb) = port.usb.as_ref().filter(|_| is_shared) {
        text.push_str(&format!(
            "  another port has the name {} too, so that name is refused; use the by-path name\n",
            Escaped(usb)
        ));
    }
    let name = port.device.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    text.push_str(&format!(
        "\n    [serial.{name}]\n    port = {:?}\n    baud = 9600\n    framing = \"line\"\n    role = \"sensor\"  # \
         needs [role.sensor], with a rule for path\n    path = \"t/reading\"\n    # Or, where Modbus units are on it, in place of framing, role and path:\n    \
         #[serial.{name}.unit.1]\n    #id = \"meter-1\"\n    #role = \"sensor\"\n    #path = \"t/meter\"\n    \
         #template = \"eastron-sdm120\"\n\n",
        stable.display().to_string()
    ));
    text
}

fn trace(context: &Context, arguments: &SerialTraceArguments) -> Result<(), CommandError> {
    let mut sink = Sink::new(context, arguments)?;
    let name = name_of(context, &arguments.port).unwrap_or_else(|| arguments.port.clone());
    match context.daemon().and_then(|daemon| daemon.trace(name.clone())) {
        Ok(tracing) => {
            super::note(format_args!("watching {} through the daemon; Ctrl-C ends it", Escaped(&name)));
            if let Some(why) = not_open(context, &name) {
                super::note(why);
            }
            for traced in tracing {
                match traced? {
                    Ok(traced) => sink.take(&traced)?,
                    Err(count) => super::note(format_args!("{} not shown: too slow", plural(count, "piece"))),
                }
            }
            return Err(CommandError::failed("the daemon has ended"));
        }
        // The daemon has no such port, or does not run, so the port is free.
        Err(ClientError::NotRunning { .. } | ClientError::Failed(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let (device, line) = place(context, arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::failed(format_args!("no runtime: {error}")))?;
    runtime.block_on(async {
        let mut port = open_device(&device, &line)
            .map_err(|why| CommandError::failed(format_args!("{}: {why}", device.display())))?;
        super::note(format_args!("reading {} at {} baud; Ctrl-C ends it", device.display(), line.baud));
        read(&mut port, &arguments.port, &mut sink).await
    })
}

/// The status of the daemon, if it can be asked.
fn status(context: &Context) -> Option<Status> {
    let asked = context.daemon().and_then(|mut daemon| daemon.ask_for(&Request::Status {}, ANSWER));
    asked.ok()
}

/// The name of the port of this device file or USB adapter, if the daemon has it open: so nobody
/// else can open it.
fn name_of(context: &Context, device: &str) -> Option<String> {
    let is_device = device.starts_with('/') || device.starts_with("usb:");
    let device = is_device.then(|| find::device(&PortName::parse(device)?)).flatten()?;
    let status = status(context)?;
    let mut open = status.serial.into_iter().filter(|(_, port)| port.state == "open");
    let of_daemon = |port: &SerialPort| find::device(&PortName::parse(port.device.as_ref()?)?);
    open.find(|(_, port)| of_daemon(port).as_ref() == Some(&device)).map(|(name, _)| name)
}

/// Why nothing is to be seen of a port, if the daemon does not have it open.
fn not_open(context: &Context, name: &str) -> Option<String> {
    let status = status(context)?;
    let port = status.serial.get(name).filter(|port| port.state != "open")?;
    let reason = port.reason.as_deref().unwrap_or("its reason is not known");
    Some(format!("{} is not open: {reason}; it is tried again, and shown once it is", Escaped(name)))
}

async fn read(port: &mut Opened, name: &str, sink: &mut Sink<'_>) -> Result<(), CommandError> {
    let begun = Instant::now();
    let mut chunk = [0; 4096];
    loop {
        let length = match port.read(&mut chunk).await {
            Ok(0) => return Err(CommandError::failed("the port hung up")),
            Ok(length) => length,
            Err(error) => return Err(CommandError::failed(error)),
        };
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        sink.take(&Traced {
            port: name.to_owned(),
            at: UnixTime(since.as_millis().try_into().unwrap_or(u64::MAX)).to_string(),
            boottime_ms: begun.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
            direction: "in".to_owned(),
            hex: format_hex(chunk.get(..length).unwrap_or_default()),
            event: None,
        })?;
    }
}

/// The device file of a port by its configured name or its path, and its line parameters.
fn place(context: &Context, arguments: &SerialTraceArguments) -> Result<(PathBuf, Line), CommandError> {
    let asked = |line: Line| Line { baud: arguments.baud.unwrap_or(line.baud), ..line };
    if arguments.port.starts_with('/') || arguments.port.starts_with("usb:") {
        let name = PortName::parse(&arguments.port).ok_or_else(|| {
            CommandError::Usage("a USB port is usb:VVVV:PPPP or usb:VVVV:PPPP:SERIAL".to_owned())
        })?;
        let device = find::resolve(&name)
            .map_err(|why| CommandError::failed(format_args!("{}: {why}", arguments.port)))?;
        return Ok((device, asked(Line::default())));
    }
    let loaded = context.load()?;
    let port = loaded.settings.serial.iter().find(|port| port.name.as_str() == arguments.port);
    if let Some(Port { port: name @ PortName::Tcp { .. }, .. }) = port {
        return Err(CommandError::failed(format_args!("{name} can be watched only while the daemon runs")));
    }
    let port = port.ok_or_else(|| {
        let names = loaded.settings.serial.iter().map(|port| port.name.as_str());
        let has_unit = |port: &&Port| port.devices().any(|id| id.as_str() == arguments.port);
        let bus = loaded.settings.serial.iter().find(has_unit);
        let known: Vec<&str> = names.clone().collect();
        let advice = match (bus, did_you_mean(&arguments.port, names)) {
            (Some(bus), _) => format!("it is a unit of {0}: `tombolo serial trace {0}`", bus.name),
            (None, Some(near)) => format!("did you mean {near}?"),
            (None, None) if known.is_empty() => "name a device like /dev/ttyUSB0".to_owned(),
            (None, None) => format!("there are: {}; or name a device like /dev/ttyUSB0", known.join(", ")),
        };
        CommandError::failed(format_args!("there is no usable [serial.{}]; {advice}", arguments.port))
    })?;
    let device = find::resolve(&port.port)
        .map_err(|why| CommandError::failed(format_args!("{}: {why}", port.port)))?;
    Ok((device, asked(port.line)))
}

/// The output of traced bytes.
struct Sink<'a> {
    context: &'a Context,
    file: Option<Rotated>,
}

impl<'a> Sink<'a> {
    fn new(context: &'a Context, arguments: &SerialTraceArguments) -> Result<Sink<'a>, CommandError> {
        let file = match &arguments.file {
            Some(path) => Some(
                Rotated::open(path, arguments.max_bytes, arguments.keep)
                    .map_err(|error| CommandError::failed(format_args!("{}: {error}", path.display())))?,
            ),
            None => None,
        };
        Ok(Sink { context, file })
    }

    fn take(&mut self, traced: &Traced) -> Result<(), CommandError> {
        let text = if self.context.out.json {
            serde_json::to_string(traced).map_err(CommandError::failed)? + "\n"
        } else {
            rows(traced)
        };
        match &mut self.file {
            Some(file) => file
                .write(text.as_bytes())
                .map_err(|error| CommandError::failed(format_args!("{}: {error}", file.path.display()))),
            None => Ok(self.context.out.verbatim(&text)?),
        }
    }
}

/// The text form: `12:00:01.123Z in  32 33 2e 35 0d 0a  |23.5..|`, sixteen bytes per line.
fn rows(traced: &Traced) -> String {
    let clock = traced.at.split_once('T').map_or("", |(_, time)| time);
    let head = format!("{} {:<4}", Escaped(clock), Escaped(&traced.direction).to_string());
    if let Some(event) = &traced.event {
        return format!("{head} {}\n", Escaped(event));
    }
    let digits: Vec<&str> =
        traced.hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or("??")).collect();
    let mut text = String::new();
    for row in digits.chunks(ROW) {
        let shown: String = row
            .iter()
            .map(|pair| u8::from_str_radix(pair, 16).unwrap_or(0))
            .map(|byte| if (0x20..0x7F).contains(&byte) { char::from(byte) } else { '.' })
            .collect();
        text.push_str(&format!("{head} {:<47}  |{shown}|\n", row.join(" ")));
    }
    text
}

/// A file that is rotated when it is full: `FILE`, `FILE.1`, `FILE.2`, …; the oldest is deleted.
struct Rotated {
    path: PathBuf,
    file: std::fs::File,
    length: u64,
    max: u64,
    keep: u32,
}

impl Rotated {
    fn open(path: &Path, max: u64, keep: u32) -> io::Result<Rotated> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        let length = file.metadata()?.len();
        Ok(Rotated { path: path.to_owned(), file, length, max, keep })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.length > 0 && self.length + bytes.len() as u64 > self.max {
            let numbered = |number: u32| {
                let mut name = self.path.clone().into_os_string();
                name.push(format!(".{number}"));
                PathBuf::from(name)
            };
            for number in (1..self.keep).rev() {
                let _ = std::fs::rename(numbered(number), numbered(number + 1));
            }
            if self.keep > 0 {
                std::fs::rename(&self.path, numbered(1))?;
            } else {
                std::fs::remove_file(&self.path)?;
            }
            *self = Rotated::open(&self.path, self.max, self.keep)?;
        }
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_hexadecimal_and_as_text_and_cannot_draw() {
        let traced = Traced {
            at: "2026-01-01T12:00:01.123Z".into(),
            direction: "in".into(),
            hex: format_hex(b"T=23.5\x1b[2J\r\n0123456"),
            ..Traced::default()
        };
        assert_eq!(
            rows(&traced),
            "12:00:01.123Z in   54 3d 32 33 2e 35 1b 5b 32 4a 0d 0a 30 31 32 33  |T=23.5.[2J..0123|\n\
             12:00:01.123Z in   34 35 36                                         |456|\n"
        );
        let event = Traced { direction: "port".into(), event: Some("open".into()), ..traced };
        assert_eq!(rows(&event), "12:00:01.123Z port open\n");
    }

    #[test]
    fn what_the_daemon_found_out_of_each_unit_is_listed_by_port_and_unit_and_cannot_draw() {
        use crate::control::snapshot::{SerialAsked, SerialUnit};
        let left_out = [("r2\u{1b}[2J".to_owned(), "no answer to a read of it alone".to_owned())].into();
        let narrow = SerialUnit {
            address: 7,
            learned_pause_ms: 300,
            learned_timeout_ms: 1_500,
            learned_max_registers: 10,
            left_out,
            ..SerialUnit::default()
        };
        let late = SerialUnit { address: 9, one_behind: true, learned_rest_ms: 200, ..SerialUnit::default() };
        let doubled = SerialUnit { address: 12, doubled: true, ..SerialUnit::default() };
        let fine = SerialUnit { address: 13, state: "up".to_owned(), ..SerialUnit::default() };
        let units = [("a", narrow), ("b", late), ("c", doubled), ("d", fine)];
        let bus = SerialPort {
            units: units.map(|(id, unit)| (id.to_owned(), unit)).into(),
            overload: Some("140 % of the line's time".to_owned()),
            telnet: Some("the converter speaks telnet".to_owned()),
            ..SerialPort::default()
        };
        let asked = SerialAsked {
            state: "down".to_owned(),
            reason: Some("it does not answer\n".to_owned()),
            ..SerialAsked::default()
        };
        let scale = SerialPort { asked: Some(asked), ..SerialPort::default() };
        let serial = [("bus1".to_owned(), bus), ("scale".to_owned(), scale)].into();
        let text = told(&Status { serial, ..Status::default() });
        let lines: Vec<&str> = text.lines().collect();
        for (at, begin) in [
            "bus1: 140 % of the line's time; ",
            "bus1: the converter speaks telnet",
            "bus1 unit 7, a:  asked 300 ms after its last answer",
            "bus1 unit 7, a:  waited for 1500 ms",
            "bus1 unit 7, a:  asked for at most 10 registers",
            "bus1 unit 7, a:  without r2",
            "bus1 unit 9, b:  its answers come one request late",
            "bus1 unit 9, b:  asked 200 ms after any answer on the line",
            "bus1 unit 12, c:  each read is sent more than once",
            "scale, down: it does not answer",
        ]
        .into_iter()
        .enumerate()
        {
            assert!(lines.get(at).is_some_and(|line| line.starts_with(begin)), "{begin}: {text}");
        }
        assert_eq!(lines.len(), 10, "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert_eq!(told(&Status::default()), "");
    }

    #[test]
    fn a_full_file_is_moved_aside_and_the_oldest_goes() {
        let folder = std::env::temp_dir().join(format!("tombolo-trace-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("trace");
        let mut file = Rotated::open(&path, 10, 2).unwrap();
        for text in ["one.....", "two.....", "three...", "four...."] {
            file.write(text.as_bytes()).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!([read("trace"), read("trace.1"), read("trace.2")], ["four....", "three...", "two....."]);
        assert!(!folder.join("trace.3").exists());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_port_found_comes_with_a_block_for_the_configuration_that_loads_as_it_is_and_as_a_bus() {
        let port = Found {
            device: "/dev/ttyUSB0".into(),
            by_id: vec!["/dev/serial/by-id/usb-FTDI-if00-port0".into()],
            usb: Some("usb:0403:6001:A50285BI".into()),
            ..Found::default()
        };
        let text = describe(&port, false);
        let twin =
            Found { by_path: vec!["/dev/serial/by-path/pci-usb-0:1:1.0-port0".into()], ..port.clone() };
        assert!(describe(&twin, true).contains("port = \"/dev/serial/by-path/pci-usb-0:1:1.0-port0\""));
        let (head, block) = text.split_once("\n\n").unwrap();
        assert_eq!(head, "/dev/ttyUSB0  usb:0403:6001:A50285BI\n  /dev/serial/by-id/usb-FTDI-if00-port0");
        assert!(
            block.starts_with("    [serial.ttyUSB0]\n    port = \"/dev/serial/by-id/usb-FTDI-if00-port0\"\n")
        );

        let top = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = std::env::temp_dir().join(format!("tombolo-block-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("conf.d")).unwrap();
        std::fs::create_dir_all(folder.join("modbus")).unwrap();
        std::fs::copy(top.join("config/tombolo.toml"), folder.join("tombolo.toml")).unwrap();
        let template = "modbus/eastron-sdm120.toml";
        std::fs::copy(top.join("config/examples").join(template), folder.join(template)).unwrap();
        let bus = |line: &str| {
            let line = line.trim_start();
            let of_lines = ["framing", "role", "path"].iter().any(|key| line.starts_with(key));
            (!of_lines).then(|| line.strip_prefix('#').unwrap_or(line).to_owned())
        };
        let as_bus: Vec<String> =
            block.lines().filter(|line| !line.contains("# Or")).filter_map(bus).collect();
        for (text, devices) in [(block.to_owned(), "ttyUSB0"), (as_bus.join("\n"), "meter-1")] {
            std::fs::write(folder.join("conf.d/20-serial.toml"), &text).unwrap();
            let mut options = crate::config::io::Options::new(folder.join("tombolo.toml"));
            options.environment =
                vec![("TOMBOLO_PATHS__STATE_DIR".into(), folder.join("state").display().to_string())];
            let loaded = crate::config::io::load(&options, None).unwrap();
            let complaints: Vec<String> = loaded
                .findings
                .iter()
                .filter(|finding| finding.level != crate::config::Level::Ok && finding.subject != "upstream")
                .map(ToString::to_string)
                .collect();
            assert_eq!(complaints, [""; 0], "{text}");
            let ids: Vec<&str> =
                loaded.settings.gate.devices.iter().map(|device| device.id.as_str()).collect();
            assert_eq!(ids, [devices]);
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
