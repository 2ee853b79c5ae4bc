//! Local MQTT clients: mosquitto's programs in both versions, and paho, through the gateway to the
//! broker.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tombolo_test_support::{Daemon, Folder, Mosquitto, Pki, Subscriber, free_tcp_port, printed, wait_for};

use super::{SITE, Site, binary};

/// A client `pump-2` with the password `sesame-sesame`.
pub const PUMP: &str = r#"
[role.sensor.downlink.set]
topic = "{prefix}/{device}/down/set/#"
path = "set/{rest}"
[device.pump-2]
role = "sensor"
password-file = "pump-2.password"
"#;
/// The listener on a Unix socket.
pub const SOCKET: &str = "[mqtt]\ninsecure-listen = [\"unix:mqtt.sock\"]\n";

/// A gateway whose clients have what `prepare` writes.
pub fn site(name: &str, prepare: impl FnOnce(&Folder, &Pki) -> String) -> Site {
    let folder = Folder::new(name);
    folder.write("door-7.psk", format!("text:{}", super::KEY));
    folder.write("pump-2.password", "text:sesame-sesame\n");
    let pki = Pki::new(folder.path());
    let broker = Mosquitto::start(folder.path(), &pki, "");
    let witness = Subscriber::start(&broker, folder.path(), "tombolo/#", "%t\t%p\t%C\t%P\t%r");
    let extra = format!("{SITE}{PUMP}{}", prepare(&folder, &pki));
    let daemon = Daemon::start_with(binary(), &folder, broker.tls_port, &pki.ca(), &extra, str::to_owned);
    wait_for("the listener", || daemon.log().contains("listening for MQTT"));
    Site { daemon, witness, broker, pki, folder }
}

pub fn on_socket(name: &str) -> Site {
    site(name, |_, _| SOCKET.to_owned())
}

/// Runs a program of mosquitto's clients to its end.
fn mosquitto(program: &str, target: &[&str], arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(target).args(arguments).stdin(Stdio::null());
    command.output().expect("mosquitto-clients is installed")
}

pub fn socket(site: &Site) -> String {
    site.folder.join("mqtt.sock").display().to_string()
}

pub fn publish(site: &Site, arguments: &[&str]) -> Output {
    let socket = socket(site);
    mosquitto("mosquitto_pub", &["--unix", &socket, "-u", "pump-2", "-P", "sesame-sesame"], arguments)
}

const UP: &str = "tombolo/gw/pump-2/up";

#[test]
fn a_publish_of_every_version_and_qos_arrives_as_a_reading_of_its_device() {
    let site = on_socket("mqtt-arrive");
    for version in ["mqttv311", "mqttv5"] {
        for qos in ["0", "1", "2"] {
            let path = format!("t/{version}/{qos}");
            let output = publish(&site, &["-V", version, "-q", qos, "-t", &path, "-m", "21.5"]);
            assert!(output.status.success(), "{}", printed(&output));
            let topic = format!("{UP}/{path}");
            wait_for(&topic, || !site.arrived(&topic).is_empty());
            assert_eq!(site.arrived(&topic)[0][1], "21.5");
            assert!(site.arrived(&topic)[0][3].contains("device:pump-2"));
        }
    }
    let typed = ["-V", "mqttv5", "-q", "1", "-D", "publish", "content-type", "application/json"];
    publish(&site, &[&typed[..], &["-t", "t/typed", "-m", "{}"]].concat());
    let topic = format!("{UP}/t/typed");
    wait_for(&topic, || !site.arrived(&topic).is_empty());
    assert_eq!(site.arrived(&topic)[0][2], "application/json");
    let shown = site.daemon.command(&["device", "show", "pump-2"]).1;
    assert!(shown.contains("online") && shown.contains("7 accepted"), "{shown}");
}

#[test]
fn what_may_not_pass_is_refused_in_the_words_of_each_version() {
    let site = on_socket("mqtt-refuse");
    let denied = publish(&site, &["-V", "mqttv5", "-q", "1", "-t", "nowhere", "-m", "1"]);
    assert!(printed(&denied).contains("Not authorized"), "{}", printed(&denied));
    let socket = socket(&site);
    for (arguments, words) in [
        (&["-u", "pump-2", "-P", "wrong"][..], "bad user name"),
        (&["-u", "nobody", "-P", "x"], "bad user name"),
        (&[], "not authorised|not authorized"),
    ] {
        for version in ["mqttv311", "mqttv5"] {
            let target = [&["--unix", &socket, "-V", version], arguments].concat();
            let output = mosquitto("mosquitto_pub", &target, &["-q", "1", "-t", "t/x", "-m", "1"]);
            let text = printed(&output).to_lowercase();
            assert!(!output.status.success() && words.split('|').any(|word| text.contains(word)), "{text}");
        }
    }
    let list = ["-C", "1", "-W", "3", "-V", "mqttv5", "-u", "pump-2", "-P", "sesame-sesame", "-d"];
    let target = ["--unix", socket.as_str()];
    let own = mosquitto("mosquitto_sub", &target, &[&list[..], &["-t", "set/led"]].concat());
    assert!(printed(&own).contains("Subscribed (mid: 1): 0"), "{}", printed(&own));
    let foreign = mosquitto("mosquitto_sub", &target, &[&list[..], &["-t", "other/#"]].concat());
    assert!(printed(&foreign).contains("135"), "{}", printed(&foreign));
    assert!(site.arrived(&format!("{UP}/nowhere")).is_empty());
}

#[test]
fn tls_clients_are_known_by_password_or_certificate() {
    let port = free_tcp_port();
    let site = site("mqtt-tls", |folder, pki| {
        let (certificate, key) = pki.issue("gateway", &["localhost", "127.0.0.1"]);
        let _ = folder;
        format!(
            "[mqtt]\nlisten = [\"127.0.0.1:{port}\"]\ncertificate-file = \"{}\"\nkey-file = \"{}\"\n\
             client-ca-file = \"{}\"\n[device.cam-9]\nrole = \"sensor\"\ncertificate-dns = \"cam-9.example\"\n",
            certificate.display(),
            key.display(),
            pki.ca().display()
        )
    });
    let (ca, port) = (site.pki.ca().display().to_string(), port.to_string());
    let target = ["-h", "localhost", "-p", &port, "--cafile", &ca, "-V", "mqttv5", "-q", "1"];
    let password = ["-u", "pump-2", "-P", "sesame-sesame", "-t", "t/tls", "-m", "1"];
    let output = mosquitto("mosquitto_pub", &target, &password);
    assert!(output.status.success(), "{}", printed(&output));
    let (certificate, key) = site.pki.issue("cam-9", &["cam-9.example"]);
    let files = [certificate.display().to_string(), key.display().to_string()];
    let certified = ["--cert", &files[0], "--key", &files[1], "-t", "t/tls", "-m", "2"];
    let output = mosquitto("mosquitto_pub", &target, &certified);
    assert!(output.status.success(), "{}", printed(&output));
    for (device, payload) in [("pump-2", "1"), ("cam-9", "2")] {
        let topic = format!("tombolo/gw/{device}/up/t/tls");
        wait_for(&topic, || !site.arrived(&topic).is_empty());
        assert_eq!(site.arrived(&topic)[0][1], payload);
    }
    // A certificate of nobody's is no way in, and neither is none.
    let (certificate, key) = site.pki.issue("stranger", &["stranger.example"]);
    let files = [certificate.display().to_string(), key.display().to_string()];
    let strange = ["--cert", &files[0], "--key", &files[1], "-t", "t/tls", "-m", "3"];
    for arguments in [&strange[..], &["-t", "t/tls", "-m", "3"]] {
        let output = mosquitto("mosquitto_pub", &target, arguments);
        assert!(!output.status.success(), "{}", printed(&output));
    }
}

#[test]
fn tls_handshakes_that_stall_hold_up_no_other_client_and_are_said() {
    use std::io::{Read as _, Write as _};
    let port = free_tcp_port();
    let site = site("mqtt-stall", |_, pki| {
        let (certificate, key) = pki.issue("gateway", &["localhost"]);
        let files = [certificate.display(), key.display()].map(|path| path.to_string());
        format!(
            "[mqtt]\nlisten = [\"127.0.0.1:{port}\"]\ncertificate-file = \"{}\"\nkey-file = \"{}\"\n",
            files[0], files[1]
        )
    });
    // Nothing at all, half of a record's header, and the beginning of a ClientHello of 508 bytes.
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 7, 7, 7];
    let mut stalled: Vec<TcpStream> = [0, 3, 5, 9, hello.len(), hello.len()]
        .into_iter()
        .map(|length| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
            stream.write_all(&hello[..length]).expect("it takes them");
            stream.set_nonblocking(true).expect("a socket");
            stream
        })
        .collect();
    let ca = site.pki.ca().display().to_string();
    let port = port.to_string();
    let target = ["-h", "localhost", "-p", &port, "--cafile", &ca, "-V", "mqttv5", "-q", "1"];
    let login = ["-u", "pump-2", "-P", "sesame-sesame", "-t", "t/through", "-m", "1"];
    let output = mosquitto("mosquitto_pub", &target, &login);
    assert!(output.status.success(), "{}", printed(&output));
    // One after the other they would be over by now, each after its time.
    let last = stalled.last_mut().expect("one").read(&mut [0]);
    let is_open = last.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(is_open, "the handshake that came last is still waited for: {last:?}");
    wait_for("the log", || {
        let log = site.daemon.log();
        log.lines().any(|line| {
            line.contains("TLS handshake of an MQTT client failed") && line.contains("it took too long")
        })
    });
    for stream in &mut stalled {
        stream.set_nonblocking(false).expect("a socket");
        stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).expect("a socket");
        let left = stream.read(&mut [0]);
        assert!(!left.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "it is closed");
    }
    assert!(mosquitto("mosquitto_pub", &target, &login).status.success());
}

#[test]
fn clients_that_do_not_accept_the_certificate_are_counted_and_said_with_the_way_out() {
    let port = free_tcp_port();
    let site = site("mqtt-distrust", |_, pki| {
        let (certificate, key) = pki.issue("gateway", &["localhost"]);
        let files = [certificate.display(), key.display()].map(|path| path.to_string());
        format!(
            "[mqtt]\nlisten = [\"127.0.0.1:{port}\"]\ncertificate-file = \"{}\"\nkey-file = \"{}\"\n",
            files[0], files[1]
        )
    });
    let folder = site.folder.join("other");
    std::fs::create_dir_all(&folder).expect("a folder");
    let (own, other) = (site.pki.ca(), Pki::new(&folder).ca());
    let port = port.to_string();
    let publish = |ca: &std::path::Path| {
        let ca = ca.display().to_string();
        let target = ["-h", "localhost", "-p", &port, "--cafile", &ca, "-V", "mqttv5", "-q", "1"];
        let login = ["-u", "pump-2", "-P", "sesame-sesame", "-t", "t/x", "-m", "1"];
        mosquitto("mosquitto_pub", &target, &login).status.success()
    };
    assert!(publish(&own));
    for _ in 0..12 {
        assert!(!publish(&other));
    }
    let status = || -> serde_json::Value {
        serde_json::from_str(&site.daemon.command(&["status", "--json"]).1).expect("JSON")
    };
    let failed = "tombolo_mqtt_failed_handshakes_total";
    wait_for("the counters", || status()["counters"][failed] == 12);
    let status = status();
    assert_eq!(status["counters"]["tombolo_mqtt_distrusted_handshakes_total"], 12, "{status}");
    assert_eq!(status["counters"]["tombolo_mqtt_completed_handshakes_total"], 1, "{status}");
    let last = &status["mqtt"]["last_failed_handshake"];
    assert!(last["peer"] == "127.0.0.1" && last["reason"].to_string().contains("alert"), "{last}");
    for command in [&["status"][..], &["check", "--offline"]] {
        let said = site.daemon.command(command).1;
        assert!(said.contains("do not accept the gateway's certificate"), "{command:?}: {said}");
        assert!(said.contains("mqtt.certificate-file"), "{command:?}: {said}");
    }
    let is_line = |line: &&str| {
        line.contains("TLS handshake of an MQTT client failed") && line.contains("peer=127.0.0.1")
    };
    let lines = site.daemon.log().lines().filter(is_line).count();
    assert!((1..12).contains(&lines), "{lines} lines");
}

#[test]
fn connections_that_stay_silent_keep_no_client_out_and_are_said() {
    let port = free_tcp_port();
    let site = site("mqtt-silent", |_, _| format!("[mqtt]\ninsecure-listen = [\"127.0.0.1:{port}\"]\n"));
    let silent: Vec<TcpStream> =
        (0..600).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("a connection")).collect();
    let target = ["-h", "127.0.0.1", "-p", &port.to_string(), "-u", "pump-2", "-P", "sesame-sesame"];
    let output = mosquitto("mosquitto_pub", &target, &["-q", "1", "-t", "t/through", "-m", "1"]);
    assert!(output.status.success(), "{}", printed(&output));
    let problems = site.daemon.status()["problems"].to_string();
    assert!(problems.contains("512 connections that do not identify themselves"), "{problems}");
    wait_for("the log", || site.daemon.log().contains("the oldest of the network that has most is closed"));
    drop(silent);
}

#[test]
fn a_device_added_by_command_connects_by_the_printed_line_and_is_cut_off_when_removed() {
    let site = on_socket("mqtt-device");
    for (id, password) in [("node-red", None), ("chosen", Some("text:my own password"))] {
        let mut arguments = vec!["device", "add", id, "--role", "sensor", "--password"];
        arguments.extend(password);
        let (status, text) = site.daemon.command(&arguments);
        assert_eq!(status, 0, "{text}");
        let line = text.lines().find(|line| line.contains("mosquitto_pub")).expect("a line to try").trim();
        let output = Command::new("sh").args(["-c", line]).output().expect("a shell");
        assert!(output.status.success() && output.stdout.is_empty(), "{line}: {}", printed(&output));
        let topic = format!("tombolo/gw/{id}/up/t/temperature");
        wait_for(&topic, || !site.arrived(&topic).is_empty());
        let file =
            std::fs::read_to_string(site.folder.join(&format!("state/devices/{id}.toml"))).expect("a file");
        assert!(!file.contains("my own password") && file.contains("password = "), "{file}");
    }
    let socket = socket(&site);
    let subscribe = |username: &str, password: &str| {
        let mut command = Command::new("mosquitto_sub");
        command.args(["--unix", &socket, "-u", username, "-P", password, "-V", "mqttv5", "-t", "set/#"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("mosquitto-clients is installed")
    };
    let mut all = [subscribe("chosen", "my own password"), subscribe("pump-2", "sesame-sesame")];
    let clients = || site.daemon.status()["mqtt"]["clients"].clone();
    wait_for("the clients", || clients() == 2);
    let before = site.daemon.log().matches("MQTT").count();
    let (status, text) = site.daemon.command(&["device", "remove", "chosen"]);
    assert_eq!(status, 0, "{text}");
    wait_for("the end of the client", || clients() == 1);
    assert!(all[1].try_wait().expect("a process").is_none(), "a client that is not concerned stays");
    // A reload that takes its address away ends the other too.
    let config = std::fs::read_to_string(site.daemon.config()).expect("a file");
    let without = config.replace("insecure-listen = [\"unix:mqtt.sock\"]", "");
    std::fs::write(site.daemon.config(), without).expect("a file");
    let (status, text) = site.daemon.command(&["reload"]);
    assert_eq!(status, 0, "{text}");
    wait_for("nobody", || clients() == 0);
    assert!(site.daemon.log().matches("MQTT").count() > before, "the log says so");
    std::fs::write(site.daemon.config(), config).expect("a file");
    let (status, text) = site.daemon.command(&["reload"]);
    assert_eq!(status, 0, "{text}");
    assert!(publish(&site, &["-q", "1", "-t", "t/again", "-m", "1"]).status.success());
    for client in &mut all {
        let _ = client.kill();
        let _ = client.wait();
    }
}

/// Local rules, and readings of all transports for who may receive them.
pub const LOCAL: &str = r#"
[role.sensor.local-publish.home]
topic = "home/{device}/#"
[role.sensor.local-subscribe.home]
topic = "home/#"
[role.sensor.local-subscribe.readings]
topic = "readings/#"
"#;

#[test]
fn local_clients_see_each_other_and_the_readings_of_all_transports() {
    let site = site("mqtt-bus", |_, _| format!("{SOCKET}mirror = \"readings/{{device}}/{{path}}\"\n{LOCAL}"));
    let socket = socket(&site);
    let login = ["--unix", &socket, "-u", "pump-2", "-P", "sesame-sesame"];
    let seen = site.folder.join("seen");
    let mut subscriber = Command::new("mosquitto_sub")
        .args(login)
        .args(["-V", "mqttv5", "-q", "1", "-t", "home/#", "-t", "readings/#", "-v"])
        .stdout(Stdio::from(std::fs::File::create(&seen).expect("a file")))
        .spawn()
        .expect("mosquitto-clients is installed");
    let lines = || std::fs::read_to_string(&seen).unwrap_or_default();
    // It is on the bus when it gets the first of these.
    let mut number = 0;
    wait_for("the subscriber", || {
        number += 1;
        publish(&site, &["-V", "mqttv311", "-q", "1", "-t", "home/pump-2/try", "-m", &number.to_string()]);
        lines().contains("home/pump-2/try")
    });
    let before = lines().lines().count();
    for round in 0..50 {
        let text = round.to_string();
        publish(&site, &["-V", "mqttv5", "-q", "2", "-t", "home/pump-2/lamp", "-m", &text]);
    }
    site.post(&["-e", "21.5"], "t/env");
    wait_for("the reading of a CoAP device", || lines().contains("readings/door-7/t/env 21.5"));
    wait_for("all messages", || lines().lines().count() >= before + 51);
    let text = lines();
    let lamps: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("home/pump-2/lamp ")).collect();
    let expected: Vec<String> = (0..50).map(|round: u32| round.to_string()).collect();
    assert_eq!(lamps, expected, "once each, in order, under their own topic");
    let denied = publish(&site, &["-V", "mqttv5", "-q", "1", "-t", "home/door-7/lamp", "-m", "1"]);
    assert!(printed(&denied).contains("Not authorized"), "{}", printed(&denied));
    assert!(site.arrived(&format!("{UP}/home/pump-2/lamp")).is_empty(), "nothing of it goes upstream");
    // A retained message is there for one that comes later, also after the subscriber has gone.
    let _ = subscriber.kill();
    let _ = subscriber.wait();
    publish(&site, &["-V", "mqttv5", "-q", "1", "-r", "-t", "home/pump-2/mode", "-m", "auto"]);
    let late = ["-V", "mqttv5", "-t", "home/+/mode", "-C", "1", "-W", "10", "-F", "%t %p %r"];
    let late = mosquitto("mosquitto_sub", &login, &late);
    assert_eq!(printed(&late).trim(), "home/pump-2/mode auto 1");
}

/// A subscriber of QoS 0, whose messages come over the bus, and what it gets: topic, payload, QoS,
/// retained.
struct Listener {
    process: std::process::Child,
    seen: std::path::PathBuf,
}

impl Listener {
    fn start(site: &Site, client_id: &str, version: &str, filters: &[&str]) -> Listener {
        let seen = site.folder.join(&format!("seen-{client_id}"));
        let mut command = Command::new("mosquitto_sub");
        command.args(["--unix", &socket(site), "-u", "pump-2", "-P", "sesame-sesame", "-V", version]);
        command.args(["-i", client_id, "-q", "0", "-F", "%t %p %q %r"]);
        if version == "mqttv5" {
            // An alias for each filter would bring messages under another topic.
            command.args(["-D", "connect", "topic-alias-maximum", "10"]);
        }
        for filter in filters {
            command.args(["-t", filter]);
        }
        let file = std::fs::File::create(&seen).expect("a file");
        let process =
            command.stdin(Stdio::null()).stdout(file).spawn().expect("mosquitto-clients is installed");
        Listener { process, seen }
    }

    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.seen).unwrap_or_default();
        text.split_inclusive('\n').filter_map(|line| Some(line.strip_suffix('\n')?.to_owned())).collect()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Publishes each line, from one client.
fn publish_lines(site: &Site, arguments: &[&str], lines: &[String]) {
    use std::io::Write as _;
    let mut command = Command::new("mosquitto_pub");
    command.args(["--unix", &socket(site), "-u", "pump-2", "-P", "sesame-sesame", "-l"]).args(arguments);
    let mut process = command.stdin(Stdio::piped()).spawn().expect("mosquitto-clients is installed");
    let mut input = process.stdin.take().expect("a pipe");
    for line in lines {
        writeln!(input, "{line}").expect("it reads");
    }
    drop(input);
    assert!(process.wait().expect("a process").success());
}

#[test]
fn subscribers_of_qos_0_get_each_message_once_in_order_whenever_they_come_and_go() {
    let site =
        site("mqtt-bus-0", |_, _| format!("{SOCKET}mirror = \"readings/{{device}}/{{path}}\"\n{LOCAL}"));
    publish(&site, &["-V", "mqttv5", "-q", "1", "-r", "-t", "home/pump-2/mode", "-m", "auto"]);
    let mode = "home/pump-2/mode auto 0 1".to_owned();
    let numbers = |from: u32, to: u32| (from..to).map(|number| number.to_string()).collect::<Vec<_>>();
    let of = |topic: &str, numbers: Vec<String>| {
        numbers.into_iter().map(|number| format!("home/pump-2/{topic} {number} 0 0")).collect::<Vec<_>>()
    };
    // What is retained shows that it has subscribed; overlapping filters bring it once each.
    let wide = ["home/#", "home/pump-2/#", "home/+/lamp", "readings/#"];
    let first = Listener::start(&site, "first", "mqttv5", &wide);
    let second = Listener::start(&site, "second", "mqttv311", &["home/+/lamp", "home/+/mode"]);
    wait_for("what is retained", || first.lines().len() >= 2 && !second.lines().is_empty());
    assert_eq!((first.lines(), second.lines()), (vec![mode.clone(); 2], vec![mode.clone()]));
    // Whatever its QoS, it comes with QoS 0.
    for (version, qos, topic) in [
        ("mqttv5", "0", "home/pump-2/lamp"),
        ("mqttv311", "1", "home/pump-2/fan"),
        ("mqttv5", "2", "home/pump-2/lamp"),
    ] {
        publish_lines(&site, &["-V", version, "-q", qos, "-t", topic], &numbers(0, 100));
    }
    site.post(&["-e", "21.5"], "t/env");
    let reading = "readings/door-7/t/env 21.5 0 0".to_owned();
    wait_for("all messages", || first.lines().len() >= 303 && second.lines().len() >= 201);
    let lamps = [of("lamp", numbers(0, 100)), of("lamp", numbers(0, 100))];
    let [before, after] = lamps.clone();
    let all = [vec![mode.clone(); 2], before, of("fan", numbers(0, 100)), after, vec![reading]].concat();
    assert_eq!(first.lines(), all);
    assert_eq!(second.lines(), [vec![mode.clone()], lamps.concat()].concat());
    // One that comes late has what is retained and what is published from then on; others stay,
    // and one that goes holds up nobody.
    let late = Listener::start(&site, "late", "mqttv5", &["home/#"]);
    wait_for("what is retained", || !late.lines().is_empty());
    drop(first);
    publish_lines(&site, &["-V", "mqttv311", "-q", "0", "-t", "home/pump-2/lamp"], &numbers(100, 150));
    wait_for("the rest", || late.lines().len() >= 51 && second.lines().len() >= 251);
    assert_eq!(late.lines(), [vec![mode.clone()], of("lamp", numbers(100, 150))].concat());
    assert_eq!(second.lines().split_off(201), of("lamp", numbers(100, 150)));
    let counters = site.daemon.status()["counters"].clone();
    assert_eq!(counters["tombolo_mqtt_missed_bus_messages_total"], 0);
    assert_eq!(counters["tombolo_mqtt_dropped_local_messages_total"], 0);
}

#[test]
fn client_ids_with_wildcards_and_slashes_come_again_and_again_and_hold_up_nobody() {
    let site = site("mqtt-odd-ids", |_, _| format!("{SOCKET}{LOCAL}"));
    let neighbour = Listener::start(&site, "neighbour", "mqttv5", &["home/+/mode", "home/+/x"]);
    let mut number = 0;
    wait_for("the neighbour", || {
        number += 1;
        let number = number.to_string();
        publish(&site, &["-V", "mqttv5", "-q", "1", "-r", "-t", "home/pump-2/mode", "-m", &number]);
        !neighbour.lines().is_empty()
    });
    let socket = socket(&site);
    let login = ["--unix", &socket, "-u", "pump-2", "-P", "sesame-sesame"];
    let mut came = 0;
    for id in ["+", "#", "/", "$SYS/a", "a/+/#", "a$b"] {
        for version in ["mqttv5", "mqttv311", "mqttv5"] {
            // It subscribes, gets what is retained, and leaves; then it publishes.
            let subscribed = ["-i", id, "-V", version, "-q", "0", "-t", "home/+/mode", "-C", "1", "-W", "30"];
            let output = mosquitto("mosquitto_sub", &login, &subscribed);
            assert!(output.status.success(), "{id}: {}", printed(&output));
            let published = ["-i", id, "-V", version, "-q", "1", "-t", "home/pump-2/x", "-m", id];
            let output = mosquitto("mosquitto_pub", &login, &published);
            assert!(output.status.success(), "{id}: {}", printed(&output));
            came += 1;
            let of = |line: &&String| line.starts_with("home/pump-2/x ");
            wait_for("the neighbour to get it", || neighbour.lines().iter().filter(of).count() >= came);
            let lines = neighbour.lines();
            assert_eq!(lines.last().map(String::as_str), Some(&*format!("home/pump-2/x {id} 0 0")));
        }
    }
}

/// Publishes 1, 2, 3, … with paho in QoS 1 or 2, and prints each that was acknowledged.
const PAHO: &str = r#"
import sys, threading, time
import paho.mqtt.client as mqtt
path, version, qos = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="paho", protocol=version, transport="unix",
                     **({} if version == 5 else {"clean_session": False}))
client.username_pw_set("pump-2", "sesame-sesame")
client.reconnect_delay_set(0.1, 0.2)
client.max_inflight_messages_set(50)
numbers, early, lock = {}, {}, threading.Lock()
def told(number, good):
    if good:
        print(number, flush=True)
def on_publish(client, userdata, mid, reason, properties):
    good = not (version == 5 and reason.is_failure)
    with lock:
        if mid in numbers:
            told(numbers.pop(mid), good)
        else:
            early[mid] = good
client.on_publish = on_publish
client.connect(path, 1883, 30)
client.loop_start()
for number in range(1, 1_000_000):
    # Not under the lock: paho has locks of its own.
    mid = client.publish(f"t/paho/{qos}", str(number), qos=qos).mid
    with lock:
        if mid in early:
            told(number, early.pop(mid))
        else:
            numbers[mid] = number
    while len(numbers) > 200:
        time.sleep(0.001)
"#;

fn paho(site: &Site, version: &str, qos: &str) -> std::process::Child {
    let script = site.folder.write("publish.py", PAHO);
    Command::new(python())
        .arg(script)
        .args([&socket(site), version, qos])
        .stdout(Stdio::from(std::fs::File::create(site.folder.join("acknowledged")).expect("a file")))
        .stderr(Stdio::from(std::fs::File::create(site.folder.join("paho.log")).expect("a file")))
        .spawn()
        .expect("tests/run peers installs paho-mqtt")
}

pub fn python() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin/python")
}

/// Kills the gateway three times under a client that publishes 1, 2, 3, … and writes those that
/// were acknowledged to `file`; ends the client. Each of them arrives on `topic`.
pub fn nothing_acknowledged_is_lost(
    site: &mut Site,
    mut client: std::process::Child,
    file: &str,
    topic: &str,
) {
    let acknowledged = |site: &Site| -> Vec<String> {
        let text = std::fs::read_to_string(site.folder.join(file)).unwrap_or_default();
        // The last line may be half written.
        text.split_inclusive('\n').filter_map(|line| Some(line.strip_suffix('\n')?.to_owned())).collect()
    };
    for _ in 1..=3 {
        let before = acknowledged(site).len();
        wait_for("acknowledgements", || acknowledged(site).len() > before + 200);
        site.daemon.kill();
        site.daemon.spawn();
    }
    let before = acknowledged(site).len();
    wait_for("the client to come back", || acknowledged(site).len() > before);
    let _ = client.kill();
    let _ = client.wait();
    let promised = acknowledged(site);
    let arrived = || -> std::collections::HashSet<String> {
        site.arrived(topic).into_iter().map(|fields| fields[1].clone()).collect()
    };
    wait_for("everything that was promised", || {
        let arrived = arrived();
        promised.iter().all(|number| arrived.contains(number))
    });
}

#[test]
fn nothing_that_was_acknowledged_is_lost_when_the_gateway_is_killed() {
    for (version, qos) in [("4", "1"), ("5", "1"), ("5", "2")] {
        let mut site = on_socket(&format!("mqtt-kill-{version}-{qos}"));
        let client = paho(&site, version, qos);
        nothing_acknowledged_is_lost(&mut site, client, "acknowledged", &format!("{UP}/t/paho/{qos}"));
    }
}

#[test]
fn a_client_gets_messages_of_the_broker_on_the_paths_it_subscribed_to_once_it_is_there() {
    let site = on_socket("mqtt-downlink");
    wait_for("the broker", || site.daemon.status()["upstream"]["connected"] == true);
    let port = site.broker.plain_port.to_string();
    let command = |path: &str, payload: &str| {
        let topic = format!("tombolo/gw/pump-2/down/set/{path}");
        let target = ["-h", "127.0.0.1", "-p", port.as_str(), "-V", "5", "-q", "2"];
        let output = mosquitto("mosquitto_pub", &target, &["-t", &topic, "-m", payload]);
        assert!(output.status.success(), "{}", printed(&output));
    };
    let taken = |count: u64| {
        wait_for("it to be taken", || {
            site.daemon.status()["counters"]["tombolo_downlink_taken_commands_total"] == count
        });
    };
    // The subscription upstream may take a moment longer.
    wait_for("the first one", || {
        command("other", "0");
        site.daemon.status()["counters"]["tombolo_downlink_taken_commands_total"] != 0
    });
    let before = site.daemon.status()["counters"]["tombolo_downlink_taken_commands_total"].as_u64().unwrap();
    command("speed", "40");
    command("speed", "41");
    taken(before + 2);
    for (version, expected) in [("mqttv5", "set/speed 40\nset/speed 41\n"), ("mqttv311", "set/speed 42\n")] {
        if version == "mqttv311" {
            command("speed", "42");
            taken(before + 3);
        }
        let count = expected.lines().count().to_string();
        let socket = socket(&site);
        let target = ["--unix", &socket, "-u", "pump-2", "-P", "sesame-sesame", "-V", version];
        let output = mosquitto(
            "mosquitto_sub",
            &target,
            &["-q", "1", "-t", "set/speed", "-C", &count, "-W", "30", "-F", "%t %p"],
        );
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{version}: {}", printed(&output));
    }
    let told = || site.arrived("tombolo/gw/pump-2/reply/set/speed");
    wait_for("the outcomes", || told().len() >= 3);
    assert!(told().iter().all(|fields| fields[3].contains("status:notified")), "{:?}", told());
    assert!(site.arrived("tombolo/gw/pump-2/reply/set/other").is_empty(), "it waits for a subscriber");
}
