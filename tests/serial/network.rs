//! Units behind converters in the network: pymodbus as Modbus TCP server and as a converter that
//! passes the line's bytes on; and units that are silent where the standard wants an exception.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tombolo::proto::serial::modbus::frame::crc16;

use crate::Site;
use tombolo_test_support::{free_tcp_port, wait_for, wait_within};

/// pymodbus behind a TCP port.
struct Converter(Child);

impl Converter {
    fn start(port: u16, framer: &str) -> Converter {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin/python");
        assert!(python.exists(), "tests/run peers makes {}", python.display());
        let mut child = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/modbus/pymodbus_units.py"))
            .args([&port.to_string(), framer])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("pymodbus starts");
        let mut said = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut said).expect("a line");
        assert_eq!(said, "ready\n");
        Converter(child)
    }
}

impl Drop for Converter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn bus(name: &str, port: &str) -> String {
    format!(
        "[serial.{name}]\nport = \"{port}\"\n[serial.{name}.modbus]\ntimeout = \"2s\"\nbackoff = \"100ms\"\n"
    )
}

fn unit(bus: &str, address: u8, more: &str) -> String {
    format!(
        "[serial.{bus}.unit.{address}]\nid = \"u{address}\"\nrole = \"meter\"\nperiod = \"200ms\"\n{more}"
    )
}

#[test]
fn units_behind_converters_are_read_with_and_without_the_header_and_again_when_the_converter_is_back() {
    let (plain, header) = (free_tcp_port(), free_tcp_port());
    let _line = Converter::start(plain, "rtu");
    let mut gateway = Some(Converter::start(header, "socket"));
    let value = "register.v.address = 0\nregister.w.address = 1\n";
    let site = Site::new("network", |_| {
        bus("line", &format!("tcp://127.0.0.1:{plain}"))
            + &unit("line", 11, value)
            + &bus("plc", &format!("modbus-tcp://127.0.0.1:{header}/"))
            + &unit("plc", 12, value)
            + &unit("plc", 13, value)
    });
    wait_for("readings of all", || ["u11", "u12", "u13"].iter().all(|id| site.payloads(id).len() >= 3));
    for (id, number) in [("u11", 11), ("u12", 12), ("u13", 13)] {
        let expected = format!("{{\"v\":{number},\"w\":{number}}}");
        assert!(site.payloads(id).iter().all(|payload| *payload == expected), "{:?}", site.payloads(id));
    }
    let (code, text) = site.daemon.command(&["check", "--offline"]);
    assert_eq!(code, 0, "{text}");
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.contains("plc: open") && text.contains("unit 12, u12: up"), "{text}");
    drop(gateway.take());
    wait_for("the loss to be noticed", || !site.is_open("plc"));
    let before = site.payloads("u12").len();
    let line = site.payloads("u11").len();
    wait_for("the other bus goes on", || site.payloads("u11").len() >= line + 3);
    gateway = Some(Converter::start(header, "socket"));
    wait_for("readings again", || site.payloads("u12").len() >= before + 3);
    drop(gateway);
}

/// Serves units over a converter: what `answer` makes of a request's body, or nothing.
fn serve(listener: TcpListener, answer: fn(&[u8]) -> Option<Vec<u8>>) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 8];
            while stream.read_exact(&mut request).is_ok() {
                if let Some(mut body) = answer(&request[..6]) {
                    body.extend(crc16(&body).to_le_bytes());
                    if stream.write_all(&body).is_err() {
                        break;
                    }
                }
            }
        }
    });
}

/// Units 7 and 10 are silent to a read over register 2; unit 9 refuses everything, and unit 10
/// everything else; others are silent.
fn silent(request: &[u8]) -> Option<Vec<u8>> {
    let address = u16::from_be_bytes([request[2], request[3]]);
    let quantity = u16::from_be_bytes([request[4], request[5]]);
    match request[0] {
        9 => Some(vec![9, request[1] | 0x80, 2]),
        10 if !(address..address + quantity).contains(&2) => Some(vec![10, request[1] | 0x80, 2]),
        7 if !(address..address + quantity).contains(&2) => {
            let mut body = vec![7, request[1], (2 * quantity) as u8];
            (address..address + quantity).for_each(|word| body.extend(word.to_be_bytes()));
            Some(body)
        }
        _ => None,
    }
}

#[test]
fn the_log_does_not_say_that_readings_come_of_a_unit_of_which_none_do() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    serve(listener, silent);
    let site = Site::new("none-come", |_| {
        bus("bus1", &format!("tcp://{address}")).replace("2s", "300ms")
            + &unit("bus1", 10, "register.r2.address = 2\nregister.r40.address = 40\n")
    });
    let left_out = || site.ports()["bus1"]["units"]["u10"]["left_out"].clone();
    wait_within(Duration::from_secs(60), "it to be known", || {
        left_out()["r2"].is_string() && left_out()["r40"].is_string()
    });
    wait_for("its state", || site.ports()["bus1"]["units"]["u10"]["state"] == "degraded");
    let log = site.daemon.log();
    let own: Vec<&str> = log.lines().filter(|line| line.contains("device=u10")).collect();
    assert!(own.iter().any(|line| line.contains("a register cannot be read and is left out")), "{own:?}");
    assert!(own.iter().any(|line| line.contains("none of its values can be read")), "{own:?}");
    let says_so = |line: &&&str| {
        line.contains("readings come")
            || line.contains("unit answers") && !line.contains("but none of its values")
    };
    assert_eq!(own.iter().find(says_so), None);
    assert!(site.payloads("u10").is_empty());
}

#[test]
fn a_silent_register_is_named_its_neighbours_arrive_and_a_restart_remembers_it() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    serve(listener, silent);
    let mut site = Site::new("silent", |_| {
        let four: String = (0..4).map(|at| format!("register.r{at}.address = {at}\n")).collect();
        bus("bus1", &format!("tcp://{address}")).replace("2s", "300ms")
            + &unit("bus1", 7, &four)
            + &unit("bus1", 9, &four)
    });
    let unit = |site: &Site, id: &str| site.ports()["bus1"]["units"][id].clone();
    wait_within(Duration::from_secs(60), "it to be known", || {
        unit(&site, "u7")["left_out"]["r2"].is_string()
    });
    let arrived = site.payloads("u7").len();
    wait_for("its neighbours", || site.payloads("u7").len() >= arrived + 3);
    assert_eq!(site.payloads("u7").pop().unwrap(), r#"{"r0":0,"r1":1,"r3":3}"#);
    assert_eq!(unit(&site, "u7")["state"], "up");
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.contains("without r2: no answer to a read of it alone"), "{text}");
    let (_, text) = site.daemon.command(&["check", "--offline"]);
    assert!(
        text.contains("unit 7, u7: its readings come without r2 (no answer to a read of it alone)"),
        "{text}"
    );
    assert!(text.contains("unit 9, u9: it answers, but none of its values can be read"), "{text}");
    // One that answers and gives no value is not there.
    assert_eq!(unit(&site, "u9")["state"], "degraded");
    wait_for("what is told of it", || site.told("u9").is_some_and(|told| told["unit"] == "degraded"));
    let told = site.told("u9").unwrap();
    assert_eq!(told["online"], json!(false));
    assert!(told["reason"].as_str().unwrap().contains("r0: exception 2"), "{told}");
    site.daemon.stop();
    assert!(site.folder.join("state/modbus-learned").exists());
    site.daemon.resume();
    let arrived = site.payloads("u7").len();
    wait_for("readings", || site.payloads("u7").len() >= arrived + 3);
    let unit = unit(&site, "u7");
    assert!(unit["left_out"]["r2"].is_string(), "{unit}");
    assert_eq!(unit["silent"], 0, "nothing is asked in vain after a restart: {unit}");
}

/// Unit 3 has the registers 0 to 9 and refuses all others.
fn refusing(request: &[u8]) -> Option<Vec<u8>> {
    let address = u16::from_be_bytes([request[2], request[3]]);
    let quantity = u16::from_be_bytes([request[4], request[5]]);
    if address + quantity > 10 {
        return Some(vec![request[0], request[1] | 0x80, 2]);
    }
    let mut body = vec![request[0], request[1], (2 * quantity) as u8];
    (address..address + quantity).for_each(|word| body.extend(word.to_be_bytes()));
    Some(body)
}

#[test]
fn a_manuals_number_that_is_refused_is_named_as_that_in_the_log_by_status_check_and_serial_list() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    serve(listener, refusing);
    let site = Site::new("manual", |_| {
        let both = "register.plain.address = 5\nregister.number.address = 40002\n";
        let input = "register.x = { address = 30001, table = \"input\" }\n";
        let said = "numbering = \"wire\"\nregister.x.address = 40002\n";
        bus("bus1", &format!("tcp://{address}"))
            + &unit("bus1", 3, both)
            + &unit("bus1", 4, input)
            + &unit("bus1", 5, said)
    });
    let of = |id: &str| site.ports()["bus1"]["units"][id].clone();
    wait_for("what is refused", || {
        of("u3")["left_out"]["number"].is_string()
            && ["u4", "u5"].iter().all(|id| of(id)["left_out"]["x"].is_string())
    });
    let refused = "exception 2, illegal data address";
    let hint = |number: u32| {
        format!("{refused}; manuals count so; if {number} is a manual's number, set numbering = \"manual\"")
    };
    assert_eq!(of("u3")["left_out"]["number"], hint(40_002).as_str());
    assert_eq!(of("u4")["left_out"]["x"], hint(30_001).as_str());
    assert_eq!(of("u5")["left_out"]["x"], refused, "its numbering is said");
    wait_for("readings", || !site.payloads("u3").is_empty());
    assert_eq!(site.payloads("u3")[0], r#"{"plain":5}"#);
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.contains(&format!("without number: {}", hint(40_002))), "{text}");
    let (_, text) = site.daemon.command(&["serial", "list"]);
    assert!(text.contains(&format!("without number: {}", hint(40_002))), "{text}");
    let (_, text) = site.daemon.command(&["check", "--offline"]);
    let without = format!("unit 3, u3: its readings come without number ({})", hint(40_002));
    assert!(text.contains(&without), "{text}");
    let none = format!("unit 4, u4: it answers, but none of its values can be read (x: {})", hint(30_001));
    assert!(text.contains(&none), "{text}");
    let advice = "set numbering = \"manual\" for the unit, or in its template; or correct these addresses";
    assert!(text.matches(advice).count() >= 2, "{text}");
    wait_for("what is told of a unit without a value", || {
        let told = site.told("u4").and_then(|told| Some(told["reason"].as_str()?.to_owned()));
        told.is_some_and(|reason| reason.contains(&hint(30_001)))
    });
    let log = site.daemon.log();
    let line = |id: &str| {
        let mut own = log.lines().filter(|line| line.contains(&format!("device={id}")));
        own.find(|line| line.contains("unit refuses a register")).unwrap_or_default().to_owned()
    };
    assert!(line("u3").contains("40002 is a manual's number"), "{log}");
    assert!(line("u5").contains(refused) && !line("u5").contains("manual"), "{log}");
}

#[test]
fn what_a_unit_taught_stays_over_a_reload_and_its_removal_and_is_found_out_again_where_its_file_is_damaged() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    serve(listener, silent);
    let four: String = (0..4).map(|at| format!("register.r{at}.address = {at}\n")).collect();
    let own = unit("bus1", 7, &four);
    let mut site = Site::new("taught", |_| {
        bus("bus1", &format!("tcp://{address}")).replace("2s", "300ms") + &own + &unit("bus1", 9, &four)
    });
    let of = |site: &Site| site.ports()["bus1"]["units"]["u7"].clone();
    let knows = |site: &Site| of(site)["left_out"]["r2"].is_string();
    let is_read = |site: &Site, what: &str| {
        let arrived = site.payloads("u7").len();
        wait_within(Duration::from_secs(60), what, || site.payloads("u7").len() >= arrived + 3);
        assert_eq!(site.payloads("u7").pop().unwrap(), r#"{"r0":0,"r1":1,"r3":3}"#, "{what}");
        assert_eq!(of(site)["state"], "up", "{what}");
    };
    let reload = |site: &Site, change: &dyn Fn(&str) -> String| {
        let text = std::fs::read_to_string(site.daemon.config()).expect("the configuration");
        std::fs::write(site.daemon.config(), change(&text)).expect("the new one");
        site.daemon.signal(nix::sys::signal::Signal::SIGHUP);
    };
    wait_within(Duration::from_secs(60), "it to be known", || knows(&site));
    // Whether or not this machine has a serial port.
    let (code, text) = site.daemon.command(&["serial", "list"]);
    assert!(
        code == 0 && text.contains("bus1 unit 7, u7:  without r2: no answer to a read of it alone"),
        "{text}"
    );
    // Another unit comes, and the bus begins anew.
    reload(&site, &|text| format!("{text}{}", unit("bus1", 12, &four)));
    wait_for("the new one", || site.ports()["bus1"]["units"]["u12"].is_object());
    is_read(&site, "after a reload");
    assert!(knows(&site) && of(&site)["silent"] == 0, "{}", of(&site));
    // It is removed, and comes back.
    reload(&site, &|text| text.replace(&own, ""));
    wait_for("its end", || of(&site).is_null());
    reload(&site, &|text| format!("{text}{own}"));
    wait_for("its return", || of(&site).is_object());
    is_read(&site, "after its removal");
    assert!(knows(&site) && of(&site)["silent"] == 0, "{}", of(&site));
    site.daemon.stop();
    let file = site.folder.join("state/modbus-learned");
    for (name, damage) in [("bytes", b"\0\xff{\"units\":".to_vec()), ("too long", vec![b' '; 5 << 20])] {
        site.daemon.stop();
        std::fs::write(&file, &damage).unwrap();
        site.daemon.resume();
        wait_within(Duration::from_secs(60), "it to be found out", || knows(&site));
        is_read(&site, name);
        let log = site.daemon.log();
        assert!(
            log.contains("what Modbus units taught is not known and is found out again"),
            "{name}: {log}"
        );
    }
    site.daemon.stop();
    let last: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(last["units"]["u7"]["silent"], json!(["r2"]), "{last}");
}

/// One connection after the other, each closed after its first answer.
fn serve_once_each(listener: TcpListener, answer: fn(&[u8]) -> Option<Vec<u8>>) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 8];
            if stream.read_exact(&mut request).is_ok()
                && let Some(mut body) = answer(&request[..6])
            {
                body.extend(crc16(&body).to_le_bytes());
                let _ = stream.write_all(&body);
            }
        }
    });
}

#[test]
fn a_converter_that_closes_the_connection_after_each_answer_or_in_place_of_one_is_read_and_logged_seldom() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    serve_once_each(listener, silent);
    let site = Site::new("closing", |_| {
        let three = "register.r0.address = 0\nregister.r1.address = 1\nregister.r40.address = 40\n";
        bus("bus1", &format!("tcp://{address}")).replace("2s", "300ms") + &unit("bus1", 7, three)
    });
    wait_within(Duration::from_secs(60), "readings", || site.payloads("u7").len() >= 5);
    assert!(site.payloads("u7").iter().all(|payload| payload == r#"{"r0":0,"r1":1,"r40":40}"#));
    assert_eq!(site.ports()["bus1"]["units"]["u7"]["state"], "up");
    let lost = site.ports()["bus1"]["lost"].as_u64().unwrap();
    assert!(lost > 5, "{lost}");
    let log = site.daemon.log();
    let lines = log.lines().filter(|line| line.contains("serial port ")).count();
    assert!(lines <= 10, "{log}");
}

/// Serves asked devices over a converter, a connection after the other: `between` gets each
/// connection first, with its number from 0, and then each question its answer, until it is `None`:
/// then the connection stays open until its other end closes it.
fn asked(
    listener: TcpListener,
    between: impl Fn(u64, &mut std::net::TcpStream) + Send + 'static,
    mut answer: impl FnMut(u64, &[u8]) -> Option<Vec<u8>> + Send + 'static,
) {
    std::thread::spawn(move || {
        for (number, stream) in (0..).zip(listener.incoming()) {
            let Ok(mut stream) = stream else { return };
            between(number, &mut stream);
            let mut question = [0; 2];
            while stream.read_exact(&mut question).is_ok() {
                if let Some(bytes) = answer(number, &question)
                    && stream.write_all(&bytes).is_err()
                {
                    break;
                }
            }
        }
    });
}

/// Two devices on one line; `two` is asked once an hour.
fn two_asked(port: u16) -> String {
    let device = |name: &str, question: &str, period: &str| {
        format!(
            "[serial.{name}]\nport = \"tcp://127.0.0.1:{port}\"\nframing = \"line\"\nrole = \"meter\"\n\
             poll = '{question}\\r'\npoll-period = \"{period}\"\npoll-timeout = \"400ms\"\n"
        )
    };
    device("one", "A", "500ms") + &device("two", "B", "1h")
}

#[test]
fn the_answer_to_a_question_of_before_a_reload_is_not_taken_for_another_devices() {
    let port = free_tcp_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port");
    let (heard, is_asked) = std::sync::mpsc::channel();
    asked(
        listener,
        |number, stream| {
            if number == 0 {
                return;
            }
            // The answer to the other one comes late: at the first question, or unasked.
            let _ = stream.set_read_timeout(Some(Duration::from_millis(800)));
            let _ = stream.read(&mut [0; 2]);
            let _ = stream.set_read_timeout(None);
            let _ = stream.write_all(b"b\r\n");
        },
        move |number, question| {
            if question == b"B\r" {
                let _ = heard.send(());
            }
            (number > 0 || question == b"A\r").then(|| b"a\r\n".to_vec())
        },
    );
    let site = Site::new("asked-reload", |_| two_asked(port));
    is_asked.recv_timeout(Duration::from_secs(60)).expect("a question to the other");
    let text = std::fs::read_to_string(site.daemon.config()).unwrap();
    let at = text.find("[serial.two]").unwrap();
    std::fs::write(site.daemon.config(), &text[..at]).unwrap();
    site.daemon.signal(nix::sys::signal::Signal::SIGHUP);
    wait_for("the reload", || !site.ports().contains_key("two"));
    let before = site.payloads("one").len();
    wait_for("readings", || site.payloads("one").len() >= before + 3);
    assert!(site.payloads("one").iter().all(|payload| payload == "a"), "{:?}", site.payloads("one"));
}

#[test]
fn a_device_for_which_a_converter_closes_is_down_and_the_other_on_its_line_is_read() {
    let port = free_tcp_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut question = [0; 2];
            while stream.read_exact(&mut question).is_ok() && question == *b"B\r" {
                let _ = stream.write_all(b"b\r\n");
            }
        }
    });
    let site = Site::new("closer", |_| two_asked(port).replace("1h", "500ms"));
    wait_within(Duration::from_secs(60), "the other's readings", || site.payloads("two").len() >= 3);
    wait_within(Duration::from_secs(60), "its state", || site.ports()["one"]["asked"]["state"] == "down");
    let port = &site.ports()["one"];
    assert_eq!(port["asked"]["reason"], "the connection is closed in place of an answer");
    assert!(port["asked"]["closed"].as_u64() >= Some(3), "{port}");
    assert!(site.payloads("two").iter().all(|payload| payload == "b"));
}

#[test]
fn a_converter_that_speaks_telnet_is_named_until_it_does_not() {
    let begin = std::sync::Arc::new(std::sync::Mutex::new(&b"\xFF\xFD\x03\xFF\xFB\x01"[..]));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let sent = begin.clone();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let Ok(mut stream) = stream else { return };
            let first = *sent.lock().expect("its lock");
            let _ = stream.write_all(first);
            // It answers as a scale does, and closes each connection after a while.
            let mut question = [0; 2];
            for _ in 0..2 + number % 2 {
                if stream.read_exact(&mut question).is_err() {
                    break;
                }
                // Each FF of the data is doubled.
                let _ = stream.write_all(b"W\xFF\xFF\r\n");
            }
        }
    });
    let bus = TcpListener::bind("127.0.0.1:0").expect("a port");
    let bus_port = bus.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for stream in bus.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.write_all(b"\xFF\xFB\x2C");
            std::thread::spawn(move || while stream.read(&mut [0; 64]).is_ok_and(|length| length > 0) {});
        }
    });
    let more = "form = \"raw\"\npattern = '(?-u)^W\\xFF$'\n";
    let site = Site::new("telnet", |_| {
        two_asked(port).replace("poll-timeout", &format!("{more}poll-timeout")).replace("1h", "500ms")
            + &crate::network::bus("plc", &format!("tcp://127.0.0.1:{bus_port}")).replace("2s", "100ms")
            + &unit("plc", 7, "[serial.plc.unit.7.register.v]\naddress = 0\n")
    });
    let words =
        "speaks telnet (RFC 854, RFC 2217): its connection begins with ff fd 03; switch it to raw TCP";
    let said =
        |name: &str| site.ports()[name]["telnet"].as_str().is_some_and(|why| why.contains("speaks telnet"));
    for name in ["one", "two", "plc"] {
        wait_for("what the converter speaks", || said(name));
    }
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.contains("NOT FINE") && text.contains(words), "{text}");
    let (_, text) = site.daemon.command(&["check", "--offline"]);
    let warned =
        text.lines().filter(|line| line.starts_with("warn") && line.contains("speaks telnet")).count();
    assert_eq!(warned, 3, "{text}");
    let (_, text) = site.daemon.command(&["serial", "list"]);
    assert!(
        text.lines().any(|line| line.starts_with("one: the converter at ") && line.contains(words)),
        "{text}"
    );
    wait_for("the reason of the device", || {
        let (_, text) = site.daemon.command(&["device", "show", "one"]);
        text.contains("speaks telnet")
    });
    let connections = site.ports()["one"]["lost"].as_u64().unwrap_or_default() + 3;
    wait_for("more connections", || site.ports()["one"]["lost"].as_u64() >= Some(connections));
    let log = site.daemon.log();
    assert_eq!(log.matches("speaks telnet").count(), 2, "once for each line: {log}");
    *begin.lock().expect("its lock") = b"";
    for name in ["one", "two"] {
        wait_for("the end of it", || !said(name));
    }
}

/// Serves units over a converter that gives up a connection which was idle for more than a second:
/// it closes it at the next request, and answers all others. Counts its connections.
fn serve_while_busy(listener: TcpListener, has_header: bool) -> std::sync::Arc<std::sync::atomic::AtomicU64> {
    let count = std::sync::Arc::<std::sync::atomic::AtomicU64>::default();
    let counted = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let mut used = std::time::Instant::now();
            let mut request = [0; 12];
            let length = if has_header { 12 } else { 8 };
            while stream.read_exact(&mut request[..length]).is_ok() {
                if used.elapsed() > Duration::from_secs(1) {
                    break;
                }
                let body = if has_header { &request[6..12] } else { &request[..6] };
                let mut answer = vec![body[0], body[1], 2, 0, 5];
                if has_header {
                    answer = [&request[..4], &[0, 5], &answer[..]].concat();
                } else {
                    answer.extend(crc16(&answer).to_le_bytes());
                }
                if stream.write_all(&answer).is_err() {
                    break;
                }
                used = std::time::Instant::now();
            }
        }
    });
    count
}

#[test]
fn a_converter_that_gives_up_idle_connections_costs_one_failure_at_most_and_is_named_once() {
    let bind = || TcpListener::bind("127.0.0.1:0").expect("a port");
    let (plain, header) = (bind(), bind());
    let addresses = [&plain, &header].map(|listener| listener.local_addr().expect("its address"));
    let counts = [serve_while_busy(plain, false), serve_while_busy(header, true)];
    let site = Site::new("idle", |_| {
        let slow =
            |bus: &str, address| unit(bus, address, "register.v.address = 0\n").replace("200ms", "1500ms");
        bus("line", &format!("tcp://{}", addresses[0]))
            + &slow("line", 11)
            + &bus("plc", &format!("modbus-tcp://{}", addresses[1]))
            + &slow("plc", 12)
    });
    wait_within(Duration::from_secs(60), "readings", || {
        ["u11", "u12"].iter().all(|id| site.payloads(id).len() >= 5)
    });
    let unit = |bus: &str, id: &str| site.ports()[bus]["units"][id].clone();
    assert_eq!(unit("line", "u11")["silent"], 1, "{}", unit("line", "u11"));
    assert_eq!(unit("plc", "u12")["silent"], 0, "{}", unit("plc", "u12"));
    assert!(counts.iter().all(|count| count.load(std::sync::atomic::Ordering::Relaxed) >= 4));
    let log = site.daemon.log();
    let told = log.lines().filter(|line| line.contains("gives up a connection that is idle")).count();
    assert_eq!(told, 2, "{log}");
}
