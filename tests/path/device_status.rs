//! `tombolo device list|show|test`, `tail` and `trace` beside the whole daemon.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

use super::device::Device;
use super::{KEY, Site, binary};
use tombolo_test_support::dtls::client::Config;
use tombolo_test_support::wait_for;

fn command(site: &Site, line: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("--config").arg(site.daemon.config()).args(line).stdin(Stdio::null());
    command
}

fn run(site: &Site, line: &[&str]) -> Output {
    command(site, line).output().expect("it runs")
}

fn objects(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// A command that streams; ends with the value.
struct Stream {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Stream {
    fn start(site: &Site, line: &[&str]) -> Stream {
        let mut command = command(site, line);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Stream { child, lines, seen: Vec::new() }
    }

    /// Waits for a line.
    fn expect(&mut self, what: &str, mut is_it: impl FnMut(&str) -> bool) -> String {
        let mut found = None;
        wait_for(what, || {
            self.seen.extend(self.lines.try_iter());
            found = self.seen.iter().find(|line| is_it(line)).cloned();
            found.is_some()
        });
        found.unwrap_or_default()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_device_is_shown_as_it_runs_and_a_test_goes_through_to_the_puback() {
    let site = Site::new("device-status", "");
    let before = objects(&run(&site, &["--json", "device", "list"]));
    assert_eq!((before.len(), &before[0]["online"]), (1, &Value::Bool(false)));

    let mut device = Device::connect(site.daemon.coaps, Config::psk("door-7", KEY)).expect("a session");
    assert!(device.post("t/env", b"21.5"));
    let refused = device.request(2, "x/y", b"1").expect("an answer");
    assert!(refused[1] == 0x83 && refused.ends_with(b"\xffno rule"), "{refused:?}");
    let mut shown = Value::Null;
    wait_for("the delivery", || {
        shown = objects(&run(&site, &["--json", "device", "show", "door-7"])).remove(0);
        shown["delivered"] == 1
    });
    assert_eq!((&shown["online"], &shown["session_count"]), (&Value::Bool(true), &Value::from(1)));
    assert_eq!((&shown["accepted"], &shown["refused"]), (&Value::from(1), &Value::from(1)));
    assert_eq!(shown["last_refusal"]["path"], "x/y");
    assert_eq!(shown["last_refusal"]["reason"], "no_rule");
    assert!(shown["sessions"][0]["peer"].is_string() && shown["psk_identity"] == "door-7", "{shown}");
    let text = String::from_utf8(run(&site, &["device", "show", "door-7"]).stdout).expect("text");
    assert!(text.contains("1 accepted, 1 delivered, 1 refused") && text.contains("x/y: no rule"), "{text}");

    let test = run(&site, &["--json", "device", "test", "door-7"]);
    let steps = objects(&test);
    let names: Vec<&str> = steps.iter().filter_map(|step| step["step"].as_str()).collect();
    assert_eq!(names, ["identity", "rule", "topic", "quota", "stored", "sent", "acknowledged"]);
    assert!(test.status.success() && steps.iter().all(|step| step["ok"] == true), "{steps:?}");
    wait_for("the reading of the test", || {
        let lines = site.witness.lines();
        lines.iter().any(|line| line.contains("/door-7/up/") && line.contains("tombolo device test"))
    });
    let published = site.arrived("tombolo/gw/door-7/up/t/test");
    assert!(published.iter().any(|fields| fields[3].contains("test:true")), "{published:?}");
    // It is the operator's reading, not the device's.
    let after = objects(&run(&site, &["--json", "device", "show", "door-7"])).remove(0);
    assert_eq!((&after["accepted"], &after["refused"]), (&Value::from(1), &Value::from(1)));
    assert_eq!(after["delivered"], shown["delivered"]);

    for (line, text) in [
        (vec!["device", "test", "door-7", "--path", "x/y"], "step rule failed"),
        (vec!["device", "test", "dor-7"], "did you mean door-7?"),
        (vec!["tail", "dor-7"], "did you mean door-7?"),
        (vec!["trace", "dor-7"], "did you mean door-7?"),
    ] {
        let failed = run(&site, &line);
        let said = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert!(failed.status.code() == Some(1) && said.contains(text), "{line:?}: {said}");
    }
}

#[test]
fn a_trace_of_a_serial_device_is_refused_with_the_command_that_shows_its_bytes() {
    let port = "[serial.meter]\nport = \"/dev/serial/by-id/none\"\nbaud = 9600\nframing = \"line\"\nrole = \"sensor\"\n";
    let site = Site::new("trace-serial", port);
    let refused = run(&site, &["trace", "meter"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("serial trace meter"), "{said}");
}

#[test]
fn a_test_chooses_no_alarm_and_asks_where_it_cannot_tell() {
    let roles = r#"
[role.alarms.uplink.alarm]
path = "alarm/+"
lane = "high"
[role.alarms.uplink.state]
path = "state"
retain = true
[role.both.uplink.one]
path = "one/#"
[role.both.uplink.two]
path = "two/+/x"
[role.both.uplink.alarm]
path = "alarm/+"
lane = "high"
[device.siren]
role = "alarms"
psk-identity = "siren"
psk-file = "siren.psk"
[device.meter]
role = "both"
psk-identity = "meter"
psk-file = "meter.psk"
"#;
    let site = Site::new("device-test-choice", roles);
    site.folder.write("siren.psk", "text:sesame-sesame-78");
    site.folder.write("meter.psk", "text:sesame-sesame-79");
    let (status, text) = site.daemon.command(&["reload"]);
    assert_eq!(status, 0, "{text}");
    for (device, words) in [
        (
            "siren",
            "only rules in lane high or with retain = true let a reading pass; choose one with --path: alarm/test (rule alarm), state (rule state)",
        ),
        (
            "meter",
            "several rules let a reading pass; choose one with --path: one/test (rule one), two/test/x (rule two)",
        ),
    ] {
        let (status, text) = site.daemon.command(&["device", "test", device]);
        assert!(status == 1 && text.contains(words), "{text}");
    }
    let (status, text) = site.daemon.command(&["device", "test", "siren", "--path", "alarm/7", "--dry-run"]);
    assert!(status == 0 && text.contains("tombolo/gw/siren/up/alarm/7 (lane high)"), "{text}");
    let (status, text) = site.daemon.command(&["device", "test", "meter", "--path", "two/7/x"]);
    assert_eq!(status, 0, "{text}");
    let (topic, stored) = (text.find("tombolo/gw/meter/up/two/7/x"), text.find("on disk after"));
    assert!(topic.is_some() && topic < stored, "{text}");
    wait_for("the reading", || !site.arrived("tombolo/gw/meter/up/two/7/x").is_empty());
    assert!(site.arrived("tombolo/gw/siren/up/alarm/7").is_empty(), "it was dry");
}

#[test]
fn a_test_names_the_step_that_the_broker_stops() {
    let mut site = Site::new("device-test", "");
    site.broker.stop();
    wait_for("the loss of the broker", || {
        let status = objects(&run(&site, &["--json", "status"])).remove(0);
        status["upstream"]["connected"] == false
    });
    let test = run(&site, &["--json", "device", "test", "door-7"]);
    let steps = objects(&test);
    let last = steps.last().expect("a step");
    assert_eq!((test.status.code(), last["step"].as_str()), (Some(1), Some("sent")));
    assert!(last["text"].as_str().is_some_and(|text| text.contains("not connected")), "{last}");
    site.broker.resume();
    wait_for("the reading, later", || {
        site.witness.lines().iter().any(|line| line.contains("tombolo device test"))
            || run(&site, &["--json", "queue"]).stdout.windows(11).any(|bytes| bytes == b"\"records\":0")
    });
}

#[test]
fn tail_begins_with_what_was_and_shows_payloads_deliveries_and_failed_handshakes() {
    let site = Site::new("tail-last", "");
    let mut device = Device::connect(site.daemon.coaps, Config::psk("door-7", KEY)).expect("a session");
    for path in ["t/one", "t/two", "t/three"] {
        assert!(device.post(path, b"21.5"));
    }
    let mut tail = Stream::start(&site, &["tail", "door-7", "--last", "2"]);
    let first = tail.expect("the last", |line| line.contains("t/three"));
    assert!(first.contains("\"21.5\"") && !tail.seen.iter().any(|line| line.contains("t/one")), "{first}");
    assert!(device.post("t/four", &[0, 1, 255]));
    tail.expect("the payload", |line| line.contains("t/four") && line.contains("hex:0001ff"));
    tail.expect("the delivery", |line| line.contains("t/four delivered"));
    let (gateway, wrong) = (site.daemon.coaps, Config::psk("door-7", "another-key-1234"));
    assert!(Device::connect(gateway, wrong).is_none());
    let failed = tail.expect("the handshake", |line| line.contains("handshake failed"));
    assert!(failed.contains("wrong key") && failed.contains("(device door-7)"), "{failed}");
    let mut json = Stream::start(&site, &["--json", "tail"]);
    let item = json.expect("the handshake as JSON", |line| line.contains("handshake_failed"));
    let item: Value = serde_json::from_str(&item).expect("JSON");
    assert!(item["time"].is_string() && item["peer"].is_string() && item["identity"] == "door-7", "{item}");
}

#[test]
fn a_trace_shows_decrypted_messages_without_payload_and_never_the_password() {
    let site = Site::new("trace", "");
    let mut device = Device::connect(site.daemon.coaps, Config::psk("door-7", KEY)).expect("a session");
    let mut trace = Stream::start(&site, &["--json", "trace", "door-7"]);
    let mut uplink = Stream::start(&site, &["trace", "uplink", "--payload"]);
    let pcap = site.folder.join("door-7.pcap");
    let name = pcap.display().to_string();
    let capture = Stream::start(&site, &["trace", "door-7", "--pcap", &name]);
    let uplink_pcap = site.folder.join("uplink.pcap");
    let uplink_name = uplink_pcap.display().to_string();
    let uplink_capture = Stream::start(&site, &["trace", "uplink", "--payload", "--pcap", &uplink_name]);
    // Whoever traces does so once the first message is there.
    wait_for("the traces", || {
        assert!(device.post("t/env", b"secret-21.5"));
        trace.seen.extend(trace.lines.try_iter());
        uplink.seen.extend(uplink.lines.try_iter());
        let file = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |file| file.len());
        !trace.seen.is_empty()
            && uplink.seen.iter().any(|line| line.contains("PUBACK"))
            && file(&pcap) > 24
            && file(&uplink_pcap) > 300
    });
    let request = trace.expect("the request", |line| line.contains("\"direction\":\"in\""));
    let request: Value = serde_json::from_str(&request).expect("JSON");
    assert!(
        request.get("payload_hex").is_none()
            && request["hex"].as_str().is_some_and(|hex| hex.ends_with("ff"))
    );
    trace.expect("the answer", |line| line.contains("\"direction\":\"out\""));
    let publish = uplink.expect("the publish", |line| line.contains("PUBLISH") && line.contains("/up/t/env"));
    assert!(publish.contains(" qos 1 ") && publish.contains("B payload"), "{publish}");
    uplink.expect("its payload", |line| line.contains("|secret-21.5|"));
    drop(capture);
    drop(uplink_capture);
    others_read(&pcap, "5683: [no cksum] UDP", "coap");
    others_read(&uplink_pcap, "1883: Flags [P.]", "mqtt");
    let bytes = std::fs::read(&pcap).expect("the capture");
    assert_eq!((&bytes[..4], &bytes[20..24]), (&[0xA1, 0xB2, 0xC3, 0xD4][..], &[0, 0, 0, 101][..]));
    assert!(bytes.windows(3).any(|part| part == b"env") && !bytes.windows(6).any(|part| part == b"secret"));
    assert_eq!(run(&site, &["trace", "door-7", "--pcap", &name]).status.code(), Some(1), "it exists");
    wait_for("both in the log", || {
        let log = site.daemon.log();
        log.contains("trace begins") && log.contains("trace ends") && log.contains("uid")
    });
}

/// Another program reads a capture: tcpdump, whose last word is the checksums, and where it is
/// installed tshark, which takes the messages apart.
fn others_read(pcap: &std::path::Path, words: &str, protocol: &str) {
    let read = Command::new("tcpdump").args(["-nn", "-vvv", "-r"]).arg(pcap).output();
    match read {
        Ok(read) => {
            let text = String::from_utf8_lossy(&read.stdout);
            let said = String::from_utf8_lossy(&read.stderr);
            assert!(read.status.success() && text.contains(words), "{text}{said}");
            for fault in ["bad", "incorrect", "invalid", "truncated"] {
                assert!(!text.contains(fault) && !said.contains(fault), "{text}{said}");
            }
        }
        Err(error) if std::env::var_os("TOMBOLO_TEST_PEERS").is_none_or(|peers| peers != "all") => {
            eprintln!("tcpdump is passed over: {error}");
        }
        Err(error) => panic!("tcpdump: {error}"),
    }
    if let Ok(read) = Command::new("tshark").arg("-r").arg(pcap).args(["-Y", protocol]).output() {
        assert!(
            read.status.success() && !read.stdout.is_empty(),
            "{}",
            String::from_utf8_lossy(&read.stderr)
        );
    }
}

/// Runs a command as a user who may read neither configuration nor registry; `None` without root.
fn run_as_nobody(site: &Site, line: &[&str]) -> Option<Output> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    // The target's folder may be closed to others.
    let copy = site.folder.join("tombolo");
    if !copy.exists() {
        let copied = Command::new("install").args(["-m", "755"]).arg(binary()).arg(&copy).status();
        assert!(copied.is_ok_and(|status| status.success()));
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy);
    command.arg("--config").arg(site.daemon.config()).args(line).stdin(Stdio::null());
    Some(command.output().expect("setpriv is there"))
}

#[test]
fn who_may_not_read_the_registry_gets_the_devices_from_the_daemon_or_an_error() {
    use std::os::unix::fs::PermissionsExt as _;
    let site = Site::new("device-nobody", "");
    let mode = |name: &str, mode| {
        let path = site.folder.join(name);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
    };
    let added = run(&site, &["device", "add", "door-8", "--role", "sensor", "--psk"]);
    assert!(added.status.success());
    mode("state", 0o700);
    mode("door-7.psk", 0o600);
    let Some(closed) = run_as_nobody(&site, &["device", "list"]) else { return };
    let said = String::from_utf8_lossy(&closed.stderr).into_owned();
    assert!(closed.status.code() == Some(1) && said.contains("cannot be read by this user"), "{said}");
    assert!(closed.stdout.is_empty(), "{:?}", closed.stdout);

    mode("run/control.sock", 0o666);
    let listed = run_as_nobody(&site, &["--json", "device", "list"]).expect("root");
    let ids: Vec<Value> = objects(&listed).into_iter().map(|device| device["id"].clone()).collect();
    assert_eq!((listed.status.code(), ids), (Some(0), vec![Value::from("door-7"), Value::from("door-8")]));
    let shown = run_as_nobody(&site, &["device", "show", "door-8"]).expect("root");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("not seen since the daemon started"));
    // The socket is enough to look, not to act in the place of a device or to read what it says.
    for line in [&["device", "test", "door-7"][..], &["trace", "door-7"][..]] {
        let refused = run_as_nobody(&site, line).expect("root");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && said.contains("or as root"), "{line:?}: {said}");
    }
}

#[test]
fn a_test_names_the_refusal_of_the_broker() {
    let folder = tombolo_test_support::Folder::new("device-test-acl");
    let allowed = "topic write tombolo/gw/gateway/#\ntopic write tombolo/gw/door-7/status\n\
                   topic write +/witness/ready\ntopic read #\n";
    let acl = folder.write("acl", allowed);
    let site = Site::with_broker("device-test-refused", "", &format!("acl_file {}", acl.display()));
    wait_for("the broker", || {
        objects(&run(&site, &["--json", "status"])).remove(0)["upstream"]["connected"] == true
    });
    let test = run(&site, &["--json", "device", "test", "door-7", "--path", "alarm/x"]);
    let steps = objects(&test);
    let last = steps.last().expect("a step");
    assert_eq!((test.status.code(), last["step"].as_str()), (Some(1), Some("acknowledged")));
    assert!(last["text"].as_str().is_some_and(|text| text.contains("0x87")), "{last}");
}

#[test]
fn what_a_device_was_refused_last_is_shown_for_every_transport_and_survives_a_reload() {
    let converter = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = converter.local_addr().expect("an address");
    let site = super::mqtt::site("last-refusal", |_, _| {
        format!(
            "{}[serial.meter]\nport = \"tcp://{address}\"\nframing = \"line\"\nrole = \"sensor\"\npath = \"m/x\"\n\
             [role.sensor.local-publish.not]\ntopic = \"home/#\"\ndeny = true\n",
            super::mqtt::SOCKET
        )
    });
    let mut device = Device::connect(site.daemon.coaps, Config::psk("door-7", KEY)).expect("a session");
    device.request(2, "x/y", b"1").expect("an answer");
    let (mut meter, _) = converter.accept().expect("the gateway connects");
    meter.write_all(b"\n21.5\n").expect("it is taken");
    super::mqtt::publish(&site, &["-V", "mqttv5", "-q", "1", "-t", "home/lamp", "-m", "1"]);
    // Its exit status does not show the refusal.
    Command::new("mosquitto_sub")
        .args(["--unix", &super::mqtt::socket(&site), "-u", "pump-2", "-P", "sesame-sesame", "-V", "mqttv5"])
        .args(["-q", "1", "-t", "other/#", "-C", "1", "-W", "10"])
        .output()
        .expect("mosquitto-clients is installed");
    let show = |id: &str| objects(&run(&site, &["--json", "device", "show", id])).remove(0);
    let last = |id: &str| {
        let refusal = &show(id)["last_refusal"];
        let text = |key: &str| refusal[key].as_str().unwrap_or_default().to_owned();
        [text("path"), text("reason"), text("rule")]
    };
    let is_shown = |when: &str| {
        let expected = [
            ("door-7", ["x/y", "no_rule", ""]),
            ("meter", ["m/x", "no_rule", ""]),
            ("pump-2", ["home/lamp", "denied", "not"]),
        ];
        for (id, expected) in expected {
            wait_for("the refusal", || show(id)["last_refusal"].is_object());
            assert_eq!(last(id), expected, "{id} {when}");
        }
        let filter = &show("pump-2")["last_refused_filter"]["filter"];
        assert_eq!(filter, "other/#", "{when}");
    };
    is_shown("at once");
    let mut config = std::fs::OpenOptions::new().append(true).open(site.daemon.config()).expect("a file");
    config.write_all(b"[role.other.uplink.x]\npath = \"x\"\n").expect("it is written");
    let (status, text) = site.daemon.command(&["reload"]);
    assert_eq!(status, 0, "{text}");
    is_shown("after a reload");
    let text = String::from_utf8(run(&site, &["device", "show", "pump-2"]).stdout).expect("text");
    assert!(text.contains("home/lamp: rule not denies the path [rule not]"), "{text}");
    assert!(text.contains("1 filter refused") && text.contains("other/#"), "{text}");
}
