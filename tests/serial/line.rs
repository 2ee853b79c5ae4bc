//! A meter that speaks in lines: to the broker, with fields, refused, reloaded, traced.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::{Device, Site, binary};
use tombolo_test_support::wait_for;

fn port(folder: &crate::Folder, name: &str, more: &str) -> String {
    let path = folder.join(name);
    format!("[serial.{name}]\nport = \"{}\"\nframing = \"line\"\nrole = \"meter\"\n{more}", path.display())
}

#[test]
fn lines_of_a_meter_arrive_as_json_under_the_path_of_their_sensor() {
    let site = Site::new("fields", |folder| {
        let keys = "form = \"json\"\npattern = '^(?<id>\\w+) T=(?<t>\\S+)$'\npath = \"m/{id}\"\n[serial.meter.field.t]\nfactor = 0.1\n";
        port(folder, "meter", keys)
    });
    let mut meter = Device::plugged_in(site.folder.join("meter"));
    site.wait_until_open("meter");
    // The first line may have begun before the port was open; an empty one says that it has not.
    meter.say(b"\r\na7 T=235\r\nnoise\r\nb2 T=-40\r\nc3 T=warm\r\n\xff\xfe\r\nup/../x T=1\r\n");
    wait_for("two readings", || site.arrived("meter").len() >= 2);
    wait_for("the frames that are none", || site.ports()["meter"]["unreadable"] == 4);
    let arrived = site.arrived("meter");
    assert_eq!(arrived[0], ("m/a7".to_owned(), br#"{"id":"a7","t":23.5}"#.to_vec()));
    assert_eq!(arrived[1], ("m/b2".to_owned(), br#"{"id":"b2","t":-4}"#.to_vec()));
    assert_eq!(arrived.len(), 2);
    assert_eq!(site.ports()["meter"]["readings"], 2);
}

#[test]
fn a_local_client_gets_a_copy_of_what_is_read_and_of_nothing_that_is_refused() {
    let site = Site::new("mirror", |folder| {
        folder.write("board.password", "text:sesame-sesame\n");
        let board = "[mqtt]\ninsecure-listen = [\"unix:mqtt.sock\"]\nmirror = \"readings/{device}/{path}\"\n\
                     [role.board.local-subscribe.readings]\ntopic = \"readings/#\"\n\
                     [device.board]\nrole = \"board\"\npassword-file = \"board.password\"\n";
        let pattern = "pattern = '^(?<id>\\S+) T=(?<t>\\S+)$'\nform = \"json\"\npath = \"{id}\"\n";
        format!("{}{board}", port(folder, "meter", pattern))
    });
    wait_for("the listener", || site.daemon.log().contains("listening for MQTT"));
    let seen = site.folder.join("seen");
    let socket = site.folder.join("mqtt.sock");
    let mut subscriber = Command::new("mosquitto_sub")
        .arg("--unix")
        .arg(&socket)
        .args(["-u", "board", "-P", "sesame-sesame", "-V", "mqttv5", "-q", "1", "-t", "readings/#"])
        .args(["-F", "%t %q %p"])
        .stdout(Stdio::from(std::fs::File::create(&seen).expect("a file")))
        .spawn()
        .expect("mosquitto-clients is installed");
    let lines = || std::fs::read_to_string(&seen).unwrap_or_default();
    let mut meter = Device::plugged_in(site.folder.join("meter"));
    site.wait_until_open("meter");
    // It has subscribed when it gets the first of these.
    wait_for("the subscriber", || {
        meter.say(b"\r\ndata T=0\r\n");
        lines().contains("readings/meter/data 1 ")
    });
    // No rule allows `other`: neither the broker nor a local client gets it.
    meter.say(b"other T=1\r\ndata T=2\r\ndata T=3\r\n");
    wait_for("the copies", || lines().contains(r#""t":3}"#));
    wait_for("the readings", || site.payloads("meter").iter().any(|text| text.contains(r#""t":3}"#)));
    let _ = subscriber.kill();
    let _ = subscriber.wait();
    let text = lines();
    let new: Vec<&str> = text.lines().filter(|line| !line.contains(r#""t":0}"#)).collect();
    let expected =
        [r#"readings/meter/data 1 {"id":"data","t":2}"#, r#"readings/meter/data 1 {"id":"data","t":3}"#];
    assert_eq!(new, expected);
    assert!(site.arrived("meter").iter().all(|(path, _)| path != "other"));
}

#[test]
fn a_port_lives_by_its_roles_rules_and_quota() {
    let site = Site::new("rules", |folder| {
        let strict = "[role.strict]\nquota = { messages = 1, bytes = \"1KiB\", per = \"1h\", burst = 3 }\n\
                      [role.strict.uplink.data]\npath = \"data\"\n";
        let one = port(folder, "one", "").replace("\"meter\"", "\"strict\"");
        format!("{strict}{one}{}", port(folder, "two", "path = \"other\"\n"))
    });
    let mut devices = ["one", "two"].map(|name| Device::plugged_in(site.folder.join(name)));
    site.wait_until_open("one");
    site.wait_until_open("two");
    for device in &mut devices {
        device.say(b"\n1\n2\n3\n4\n5\n");
    }
    wait_for("three of five", || site.arrived("one").len() == 3);
    wait_for("refusals", || {
        let ports = site.ports();
        ports["one"]["refused"] == 2 && ports["two"]["refused"] == 5
    });
    assert_eq!(site.payloads("one"), ["1", "2", "3"]);
    assert!(site.arrived("two").is_empty());
    wait_for("the refusal in the log", || {
        let log = site.daemon.log();
        log.lines().any(|line| line.contains("reading refused") && line.contains("device=one"))
    });
}

#[test]
fn what_a_device_writes_in_its_own_characters_and_with_a_comma_arrives_as_utf_8_and_numbers() {
    let site = Site::new("notation", |folder| {
        let scale = "charset = \"windows-1252\"\ndecimal = \",\"\nform = \"json\"\n\
                     pattern = '^(?<name>\\S+) (?<t>\\S+) \\xB0C (?<v>\\S+)$'\n[serial.scale.field.v]\ndecimal = \".\"\n";
        port(folder, "scale", scale) + &port(folder, "display", "charset = \"latin-1\"\n")
    });
    let mut scale = Device::plugged_in(site.folder.join("scale"));
    let mut display = Device::plugged_in(site.folder.join("display"));
    site.wait_until_open("scale");
    site.wait_until_open("display");
    scale.say(b"\r\nT\xFCr\x80 21,5 \xB0C 2.50\r\n\x81 21,5 \xB0C 2.50\r\nx 21.5 \xB0C 2,50\r\n");
    display.say(b"\r\n21 \xB0C\r\n");
    wait_for("the readings", || site.arrived("scale").len() >= 2 && !site.arrived("display").is_empty());
    let expected = [r#"{"name":"Tür€","t":21.5,"v":2.50}"#, r#"{"name":"x","t":"21.5","v":"2,50"}"#];
    assert_eq!(site.payloads("scale"), expected);
    assert_eq!(site.payloads("display"), ["21 °C"]);
    // 81 is no character of Windows-1252.
    wait_for("the one that is no text", || site.ports()["scale"]["unreadable"] == 1);
}

#[test]
fn a_talkative_line_of_which_its_quota_refuses_most_is_warned_about_with_the_key_to_raise() {
    let site = Site::new("talkative", |folder| {
        let strict = "[role.strict]\nquota = { messages = 1, bytes = \"1KiB\", per = \"1h\", burst = 3 }\n\
                      [role.strict.uplink.data]\npath = \"data\"\n";
        let one = port(folder, "one", "").replace("\"meter\"", "\"strict\"");
        format!("{strict}{one}{}", port(folder, "two", ""))
    });
    let mut devices = ["one", "two"].map(|name| Device::plugged_in(site.folder.join(name)));
    site.wait_until_open("one");
    site.wait_until_open("two");
    let check = || site.daemon.command(&["check", "--offline"]).1;
    let advice =
        "raise messages, bytes or burst in quota of [role.strict], or let the device send less often";
    // A few that are refused are no news. What used the quota up just before counts.
    assert!(devices.iter_mut().all(|device| device.say(b"\n1\n2\n3\n4\n5\n")));
    wait_for("two refusals", || site.ports()["one"]["refused"] == 2);
    assert!(!check().contains("its quota refused"), "{}", check());
    for device in &mut devices {
        assert!((6..26).all(|number| device.say(format!("{number}\n").as_bytes())));
    }
    wait_for("refusals", || site.ports()["one"]["refused"] == 22 && site.arrived("two").len() == 25);
    let text = check();
    let warned: Vec<&str> = text.lines().filter(|line| line.contains("its quota refused")).collect();
    let [line] = warned[..] else { panic!("{text}") };
    assert!(
        line.starts_with("warn") && line.contains("device one: its quota refused 22 of 25 readings (88 %)"),
        "{line}"
    );
    assert!(text.contains(advice), "{text}");
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.contains("one: its quota refused 22 of 25 readings (88 %)"), "{text}");
    assert_eq!(site.arrived("one").len(), 3);
}

#[test]
fn a_reload_adds_changes_and_takes_out_ports_and_leaves_the_others_open() {
    let site = Site::new("reload", |folder| port(folder, "stays", "") + &port(folder, "changes", ""));
    let mut devices = ["stays", "changes", "comes"].map(|name| Device::plugged_in(site.folder.join(name)));
    site.wait_until_open("stays");
    site.wait_until_open("changes");
    let text = std::fs::read_to_string(site.daemon.config()).unwrap();
    let changed = text.replace(&port(&site.folder, "changes", ""), &port(&site.folder, "comes", ""));
    std::fs::write(site.daemon.config(), changed.clone()).unwrap();
    site.daemon.signal(nix::sys::signal::Signal::SIGHUP);
    wait_for("the new port", || site.ports().get("comes").is_some_and(|port| port["state"] == "open"));
    assert!(!site.ports().contains_key("changes"));
    devices[0].say(b"\nstayed\n");
    devices[2].say(b"\ncame\n");
    wait_for("both", || site.payloads("stays") == ["stayed"] && site.payloads("comes") == ["came"]);
    assert_eq!(site.ports()["stays"]["lost"], 0);
    // Another framing opens it anew.
    std::fs::write(
        site.daemon.config(),
        changed.replace("comes\"\nframing = \"line\"", "comes\"\nframing = \"slip\""),
    )
    .unwrap();
    site.daemon.signal(nix::sys::signal::Signal::SIGHUP);
    wait_for("slip", || {
        devices[2].say(b"\xC0slip\xC0");
        site.payloads("comes").contains(&"slip".to_owned())
    });
}

#[test]
fn what_goes_over_a_port_can_be_watched_through_the_daemon_and_without_it() {
    let mut site = Site::new("trace", |folder| port(folder, "meter", ""));
    let mut meter = Device::plugged_in(site.folder.join("meter"));
    site.wait_until_open("meter");
    let device = site.folder.join("meter");
    let device = device.to_str().unwrap();
    let watch = |config: &std::path::Path, port: &str| {
        let mut child = Command::new(binary())
            .arg("--config")
            .arg(config)
            .args(["serial", "trace", port, "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It says on standard error that it watches.
        let mut said = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, said, lines)
    };
    // By its path, too: the daemon has it open, so this command could not open it.
    let (mut child, said, _) = watch(site.daemon.config(), device);
    assert!(said.contains("watching meter through the daemon"), "{said}");
    child.kill().unwrap();
    child.wait().unwrap();
    let (mut child, said, mut lines) = watch(site.daemon.config(), "meter");
    assert!(said.contains("through the daemon"), "{said}");
    meter.say(b"\nhello\n");
    let first: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!((first["direction"].as_str(), first["port"].as_str()), (Some("in"), Some("meter")));
    assert!(first["hex"].as_str().unwrap().starts_with("0a68"), "{first}");
    child.kill().unwrap();
    child.wait().unwrap();
    // The daemon loses nothing by being watched.
    wait_for("the reading", || site.payloads("meter") == ["hello"]);

    site.daemon.stop();
    let (mut child, said, mut lines) = watch(site.daemon.config(), "meter");
    assert!(said.contains("9600 baud"), "{said}");
    meter.say(b"again");
    let first: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(first["hex"], "616761696e");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_line_of_which_no_frame_is_a_reading_is_not_fine_until_one_is() {
    let site = Site::new("illegible", |folder| {
        let summed = port(folder, "summed", "checksum = \"crc16-modbus\"\n");
        port(folder, "scale", "form = \"json\"\npattern = '^W=(?<t>[-0-9.]+)'\n") + &summed
    });
    let mut devices = ["scale", "summed"].map(|name| Device::plugged_in(site.folder.join(name)));
    site.wait_until_open("scale");
    site.wait_until_open("summed");
    let (_, text) = site.daemon.command(&["status"]);
    assert!(!text.contains("frames in a row"), "{text}");
    for device in &mut devices {
        device.say(b"\n");
        device.say(&b"T=21.5 C\n".repeat(30));
    }
    for (name, words) in [
        ("scale", "one of them \"T=21.5 C\": the pattern does not match; compare pattern"),
        ("summed", "the checksum is wrong; compare checksum"),
    ] {
        let seen = || site.ports()[name]["illegible"].as_str().is_some_and(|why| why.contains(words));
        wait_for("the judgement", seen);
        let (_, text) = site.daemon.command(&["status"]);
        assert!(text.contains("NOT FINE") && text.contains(&format!("serial port {name}: ")), "{text}");
        assert!(text.contains(words), "{text}");
        let (_, text) = site.daemon.command(&["check", "--offline"]);
        assert!(text.lines().any(|line| line.starts_with("warn") && line.contains(words)), "{text}");
        let (_, text) = site.daemon.command(&["device", "show", name]);
        assert!(text.contains("degraded") && text.contains(words), "{text}");
    }
    wait_for("the gateway's status", || {
        let problems = site.told("gateway").map(|told| told["problems"].to_string()).unwrap_or_default();
        problems.contains("serial port scale: ") && problems.contains("serial port summed: ")
    });
    devices[0].say(b"W=3.5\nT=21.5\n");
    wait_for("the end of it", || site.ports()["scale"].get("illegible").is_none());
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.contains("serial port summed: ") && !text.contains("serial port scale: "), "{text}");
}
