//! What `tombolo check` and `tombolo reload` say beside brokers that do not do what they should,
//! and after a fault was mended.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::binary;
use super::check_messages::packet;
use super::{SITE, Site};
use tombolo_test_support::{Daemon, Folder, free_tcp_port, wait_for};

/// A finding of that level that has all these words.
fn found(text: &str, level: &str, words: &[&str]) -> bool {
    text.lines().any(|line| line.starts_with(level) && words.iter().all(|word| line.contains(word)))
}

/// A broker over plain MQTT 5 that writes down the client ids it hears.
struct Script {
    port: u16,
    ids: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone, Copy)]
struct Manner {
    /// Answers a PUBLISH.
    acknowledges: bool,
    /// Accepts this client id alone.
    only: Option<&'static str>,
    /// Accepts this password alone.
    password: Option<&'static str>,
    /// Refuses with this code.
    code: u8,
    /// Answers a SUBSCRIBE.
    answers_subscribe: bool,
    /// Its Maximum Packet Size.
    largest: Option<u8>,
    /// Closes the connection over a SUBSCRIBE.
    closes_on_subscribe: bool,
    /// Refuses filters with this in them (0x87).
    unreadable: Option<&'static str>,
    /// Answers a PUBLISH on topics with this in them by this code.
    refuses: Option<(&'static str, u8)>,
}

/// The connection of each client id.
type Standing = Mutex<HashMap<String, TcpStream>>;

const ORDINARY: Manner = Manner {
    acknowledges: true,
    only: None,
    password: None,
    code: 0x85,
    answers_subscribe: true,
    closes_on_subscribe: false,
    largest: None,
    unreadable: None,
    refuses: None,
};

impl Script {
    fn start(manner: Manner) -> Script {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let ids = Arc::new(Mutex::new(Vec::new()));
        let heard = ids.clone();
        let standing = Arc::new(Standing::default());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (heard, standing) = (heard.clone(), standing.clone());
                std::thread::spawn(move || serve(stream, manner, &heard, &standing));
            }
        });
        Script { port, ids }
    }

    fn ids(&self) -> Vec<String> {
        self.ids.lock().expect("nobody panicked").clone()
    }
}

fn serve(
    mut stream: TcpStream,
    manner: Manner,
    heard: &Mutex<Vec<String>>,
    standing: &Standing,
) -> Option<()> {
    let (_, connect) = packet(&mut stream)?;
    // Protocol name, version, flags, keep alive, properties, client id (MQTT 5.0 §3.1).
    let properties = usize::from(*connect.get(10)?);
    let at = 11 + properties;
    let length = usize::from(u16::from_be_bytes([*connect.get(at)?, *connect.get(at + 1)?]));
    let id = String::from_utf8_lossy(connect.get(at + 2..at + 2 + length)?).into_owned();
    heard.lock().ok()?.push(id.clone());
    let knows = |password: &str| connect.ends_with(password.as_bytes());
    let refuses = manner.only.is_some_and(|only| only != id) || !manner.password.is_none_or(knows);
    let code = if refuses { manner.code } else { 0 };
    // Whom it accepts takes the place of the one before (MQTT 5.0 §3.1.4).
    if code == 0
        && let Some(mut before) = standing.lock().ok()?.insert(id, stream.try_clone().ok()?)
    {
        let _ = before.write_all(&[0xE0, 1, 0x8E]);
        let _ = before.shutdown(std::net::Shutdown::Both);
    }
    match manner.largest {
        Some(largest) => stream.write_all(&[0x20, 8, 0, code, 5, 0x27, 0, 0, 0, largest]).ok()?,
        None => stream.write_all(&[0x20, 3, 0, code, 0]).ok()?,
    }
    while let Some((first, body)) = packet(&mut stream).filter(|_| code == 0) {
        match first >> 4 {
            // Beside the handle that stands for its client id.
            8 if manner.closes_on_subscribe => return stream.shutdown(std::net::Shutdown::Both).ok(),
            8 if !manner.answers_subscribe => {}
            8 => {
                let codes = filters(&body).into_iter().map(|filter| {
                    if manner.unreadable.is_some_and(|part| filter.contains(part)) { 0x87 } else { 0 }
                });
                let codes: Vec<u8> = codes.collect();
                let head = [0x90, 3 + codes.len() as u8, body[0], body[1], 0];
                stream.write_all(&[&head[..], &codes].concat()).ok()?;
            }
            3 if manner.acknowledges && first & 6 != 0 => {
                let topic = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                let name = String::from_utf8_lossy(&body[2..topic]);
                let refused = manner.refuses.filter(|(part, _)| name.contains(part));
                let code = refused.map_or(0, |(_, code)| code);
                stream.write_all(&[0x40, 3, body[topic], body[topic + 1], code]).ok()?;
            }
            3 => {}
            12 => stream.write_all(&[0xD0, 0]).ok()?,
            _ => return None,
        }
    }
    None
}

/// The filters of a SUBSCRIBE (MQTT 5.0 §3.8), whose properties have less than 128 bytes.
fn filters(body: &[u8]) -> Vec<String> {
    let mut rest = &body[3 + usize::from(body[2])..];
    let mut found = Vec::new();
    while let [high, low, after @ ..] = rest {
        let (filter, options) = after.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        found.push(String::from_utf8_lossy(filter).into_owned());
        rest = &options[1..];
    }
    found
}

fn gateway(folder: &Folder, port: u16) -> Daemon {
    gateway_with(folder, port, "")
}

/// The same with another line in `[upstream]`.
fn gateway_with(folder: &Folder, port: u16, extra: &str) -> Daemon {
    folder.write("door-7.psk", format!("text:{}", super::KEY));
    let plain = |text: &str| {
        let lines = text.lines().map(|line| match line.starts_with("url = ") {
            true => format!("url = \"mqtt://127.0.0.1:{port}\"\ninsecure = true\nprotocol = \"5\"\n{extra}"),
            false => line.to_owned(),
        });
        lines.filter(|line| !line.starts_with("ca-file")).collect::<Vec<_>>().join("\n")
    };
    Daemon::start_with(binary(), folder, port, folder.path(), SITE, plain)
}

fn connected(daemon: &Daemon) -> bool {
    daemon.status()["upstream"]["connected"] == true
}

#[test]
fn a_broker_that_acknowledges_nothing_is_a_failure() {
    let folder = Folder::new("silent");
    let script = Script::start(Manner { acknowledges: false, ..ORDINARY });
    let daemon = gateway(&folder, script.port);
    wait_for("CONNACK", || connected(&daemon));
    let (status, text) = daemon.command(&["check"]);
    assert_eq!(status, 1, "{text}");
    assert!(found(&text, "fail", &["upstream: ", "the broker acknowledges nothing"]), "{text}");
    assert!(!text.contains("it takes readings"), "{text}");
    // Longer than a second it is said what is waited for.
    assert!(text.contains("asking the running gateway to publish …"), "{text}");
}

#[test]
fn a_rule_whose_topic_the_broker_refuses_is_named_with_its_place() {
    // What is invalid is so for real readings as well; what is not allowed may be so alone.
    for (name, code, level) in [("invalid", 0x90, "fail"), ("denied", 0x87, "warn")] {
        let folder = Folder::new(&format!("rule-{name}"));
        let script = Script::start(Manner { refuses: Some(("/alarm/", code)), ..ORDINARY });
        let mut daemon = gateway(&folder, script.port);
        wait_for("CONNACK", || connected(&daemon));
        let words = ["rule alarm of role sensor at ", ".toml:", "tombolo/gw/door-7/up/alarm/tombolo-check"];
        let (status, text) = daemon.command(&["check"]);
        assert!(found(&text, level, &words), "{text}");
        assert_eq!(status, i32::from(level == "fail"), "{text}");
        assert!(found(&text, "ok", &["readings: taken on", "rule telemetry of role sensor"]), "{text}");
        daemon.stop();
        let (_, text) = daemon.command(&["check"]);
        assert!(found(&text, level, &words), "{text}");
    }
}

#[test]
fn a_broker_that_answers_no_subscription_is_named_by_the_running_gateway() {
    let folder = Folder::new("no-suback");
    let script = Script::start(Manner { answers_subscribe: false, ..ORDINARY });
    let daemon = gateway(&folder, script.port);
    let words = "not proven: the subscription to tombolo/gw/gateway/status: the broker does not answer it";
    let named = || daemon.command(&["status"]).1.contains(words);
    wait_for("it is named", named);
    assert_eq!(daemon.status()["ok"], true, "no reading depends on it");
    let (_, text) = daemon.command(&["check"]);
    assert!(found(&text, "warn", &[words]), "{text}");
}

#[test]
fn a_broker_that_lets_the_gateway_write_alone_is_not_proven_and_no_fault() {
    let folder = Folder::new("write-only");
    let script = Script::start(Manner { unreadable: Some("/gateway/"), ..ORDINARY });
    let mut daemon = gateway(&folder, script.port);
    let words = "not proven: the subscription to tombolo/gw/gateway/status: the broker refuses it";
    wait_for("it is named", || daemon.command(&["status"]).1.contains(words));
    let status = daemon.status();
    assert!(status["ok"] == true && status["reasons"].as_array().is_some_and(Vec::is_empty), "{status}");
    let (status, text) = daemon.command(&["check"]);
    assert!(status == 0 && found(&text, "warn", &[words]), "{text}");
    daemon.stop();
    let (status, text) = daemon.command(&["check"]);
    assert!(status == 0 && found(&text, "warn", &["subscription", "gateway/status"]), "{text}");
}

#[test]
fn a_subscription_that_a_rule_needs_and_the_broker_refuses_fails_in_check_and_in_status() {
    let folder = Folder::new("no-commands");
    let rule = "[role.sensor.downlink.all]\ntopic = \"{prefix}/{device}/down/#\"\npath = \"{rest}\"\n";
    folder.write("conf.d/50.toml", rule);
    let script = Script::start(Manner { unreadable: Some("/down/"), ..ORDINARY });
    let mut daemon = gateway(&folder, script.port);
    let words = ["tombolo/gw/+/down/#", "rule all of role sensor", "(0x87)"];
    let named = |text: &str| words.iter().all(|word| text.contains(word));
    wait_for("it is named", || named(&daemon.status()["reasons"].to_string()));
    assert_eq!(daemon.status()["ok"], false);
    let (status, text) = daemon.command(&["check"]);
    assert!(status == 1 && found(&text, "fail", &words), "{text}");
    assert!(!text.lines().any(|line| line.starts_with("warn") && named(line)), "said once: {text}");
    daemon.stop();
    let (status, text) = daemon.command(&["check"]);
    assert!(status == 1 && found(&text, "fail", &words), "{text}");
    // One that is accepted is no failure.
    let accepting = Script::start(ORDINARY);
    let url = format!("{rule}[upstream]\nurl = \"mqtt://127.0.0.1:{}\"\n", accepting.port);
    folder.write("conf.d/50.toml", url);
    let (status, text) = daemon.command(&["check"]);
    // This one delivers nothing, so more is not proven.
    assert!(
        status == 0 && found(&text, "warn", &["not proven that commands come", words[0], words[1]]),
        "{text}"
    );
}

#[test]
fn beside_a_running_gateway_its_client_id_is_never_used_connected_or_not() {
    let folder = Folder::new("beside");
    let mut daemon = gateway(&folder, free_tcp_port());
    wait_for("a failed attempt", || daemon.status()["upstream"]["last_error"].is_string());
    let script = Script::start(ORDINARY);
    let url = format!("[upstream]\nurl = \"mqtt://127.0.0.1:{}\"\n", script.port);
    folder.write("conf.d/50.toml", url);
    for _ in 0..3 {
        daemon.command(&["check"]);
    }
    let ids = script.ids();
    assert!(ids.len() >= 3 && ids.iter().all(|id| id == "gw-check"), "{ids:?}");
    daemon.stop();
    daemon.command(&["check"]);
    assert!(script.ids()[ids.len()..].iter().all(|id| id == "gw"), "{:?}", script.ids());
    assert!(script.ids().len() > ids.len());
}

#[test]
fn a_broker_that_binds_the_client_id_fails_neither_beside_the_gateway_nor_in_its_place() {
    let folder = Folder::new("binds");
    let script = Script::start(Manner { only: Some("gw"), ..ORDINARY });
    let mut daemon = gateway(&folder, script.port);
    wait_for("CONNACK", || connected(&daemon));
    folder.write("conf.d/50.toml", "[upstream]\nkeep-alive = \"50s\"\n");
    let (status, text) = daemon.command(&["check"]);
    assert_eq!(status, 0, "{text}");
    assert!(found(&text, "warn", &["upstream mqtt: not proven", "gw-check"]), "{text}");
    assert!(connected(&daemon));
    assert_eq!(script.ids().iter().filter(|id| *id == "gw").count(), 1, "{:?}", script.ids());
    daemon.stop();
    let (status, text) = daemon.command(&["check"]);
    assert_eq!(script.ids().last().map(String::as_str), Some("gw"), "{text}");
    assert!(found(&text, "ok", &["upstream mqtt: MQTT 5"]), "{text}");
    // It acknowledges, and what is published does not come back.
    assert_eq!(status, 0, "{text}");
}

/// A gateway with a password in a file, at a broker that takes this client id alone.
fn bound(name: &str, code: u8) -> (Folder, Script, Daemon) {
    let folder = Folder::new(name);
    let script = Script::start(Manner { only: Some("gw"), password: Some("goodpass"), code, ..ORDINARY });
    let file = folder.write("password", "goodpass\n");
    folder.write(
        "conf.d/50.toml",
        format!("[upstream]\nusername = \"bob\"\npassword-file = \"{}\"\n", file.display()),
    );
    let daemon = gateway(&folder, script.port);
    wait_for("CONNACK", || connected(&daemon));
    (folder, script, daemon)
}

fn connections(daemon: &Daemon) -> u64 {
    let connected = &daemon.status()["counters"]["tombolo_northbound_connected_sessions_total"];
    connected.as_u64().expect("a number")
}

#[test]
fn a_broker_that_binds_the_client_id_proves_changed_files_by_the_gateways_own() {
    for (name, code) in [("bound-id", 0x85), ("bound-all", 0x87)] {
        let (folder, script, daemon) = bound(name, code);
        let before = connections(&daemon);
        // The same password, written anew.
        folder.write("password", "goodpass");
        let (status, text) = daemon.command(&["check"]);
        assert!(found(&text, "warn", &["files that [upstream] names have changed"]), "{text}");
        assert!(text.contains("gw-check") && text.contains("tombolo --config"), "{text}");
        // What is said to be about the client id is no failure.
        assert_eq!(status == 0, code == 0x85, "{text}");
        // Of 0x87 nobody knows: both are named, and what tells them apart.
        let both =
            ["either it does not accept what is in the files, or it takes no other client id", "shows which"];
        assert_eq!(found(&text, "fail", &both), code == 0x87, "{text}");
        let (status, text) = daemon.command(&["reload"]);
        assert_eq!(status, 0, "{text}");
        assert!(connected(&daemon) && connections(&daemon) == before + 1, "one with the new file");
        assert_eq!(script.ids().last().map(String::as_str), Some("gw"));
        let (status, text) = daemon.command(&["check"]);
        assert!(status == 0 && !text.contains("have changed"), "{text}");
        let shown = daemon.status();
        assert!(shown["upstream"]["last_error"].is_null(), "no rival is suspected: {shown}");
    }
}

#[test]
fn a_broker_that_binds_the_client_id_refuses_a_wrong_password_and_the_connection_stands() {
    let (folder, _script, daemon) = bound("bound-wrong", 0x87);
    let before = connections(&daemon);
    folder.write("password", "badpass");
    let (status, text) = daemon.command(&["reload"]);
    assert!(status == 3 && text.contains("the gateway's own client id fails, too"), "{status} {text}");
    assert!(connected(&daemon) && connections(&daemon) == before);
    assert_eq!(daemon.status()["ok"], false);
    let (status, text) = daemon.command(&["check"]);
    assert!(status == 1 && found(&text, "fail", &["are not proven", "not authorized"]), "{text}");
    folder.write("password", "goodpass");
    let (status, text) = daemon.command(&["reload"]);
    assert_eq!(status, 0, "{text}");
    let (status, text) = daemon.command(&["check"]);
    assert_eq!(status, 0, "{text}");
}

#[test]
fn a_reload_without_the_ca_file_fails_and_names_it_and_the_problem_ends() {
    let site = Site::new("lost-ca", "");
    wait_for("the broker", || connected(&site.daemon));
    let ca = std::fs::read(site.pki.ca()).unwrap();
    std::fs::remove_file(site.pki.ca()).unwrap();
    let (status, text) = site.daemon.command(&["reload"]);
    assert_eq!(status, 3, "{text}");
    assert!(
        text.contains("reloaded, but the files of [upstream] cannot be used") && text.contains("ca.pem"),
        "{text}"
    );
    let told = || site.daemon.command(&["status"]).1.contains("the files of [upstream] cannot be used");
    assert!(told());
    assert!(found(&site.daemon.command(&["check"]).1, "fail", &["ca.pem"]));
    std::fs::write(site.pki.ca(), ca).unwrap();
    assert_eq!(site.daemon.command(&["reload"]).0, 0);
    assert!(!told());
}

#[test]
fn a_fault_is_named_once_and_one_that_was_mended_wants_a_reload() {
    let site = Site::new("mended", "");
    wait_for("the broker", || connected(&site.daemon));
    site.folder.write("conf.d/60.toml", "[role.sensor]\nmax-payload = \"1MiB\"\n");
    let (status, text) = site.daemon.command(&["check"]);
    assert_eq!(status, 1, "{text}");
    assert!(!text.contains("as the service sees it"), "{text}");
    assert_eq!(text.matches("role.sensor.max-payload").count(), 1, "{text}");
    site.daemon.command(&["reload"]);
    std::fs::remove_file(site.folder.join("conf.d/60.toml")).unwrap();
    let (_, text) = site.daemon.command(&["check"]);
    assert!(!text.lines().any(|line| line.starts_with("fail")), "{text}");
    assert!(found(&text, "warn", &["reload"]), "{text}");
}

#[test]
fn what_differs_is_named_with_its_object_and_nothing_else_is() {
    let site = Site::new("differs", "");
    wait_for("the broker", || connected(&site.daemon));
    site.folder.write("door-7.psk", "text:another-another-77");
    site.folder.write(
        "conf.d/60.toml",
        "[role.sensor.uplink.more]\npath = \"more/+\"\n[gateway]\nlabel = \"barn\"\n\
         [topics]\nreply = \"x/{device}/{path}\"\n[mqtt]\nmax-clients = 7\n",
    );
    let (_, text) = site.daemon.command(&["check"]);
    for words in [
        ["device.door-7: the running gateway still uses its earlier key", "reload"],
        ["role.sensor: the running gateway still uses its earlier rules", "reload"],
        ["gateway.label: the running gateway still uses none", "reload"],
        ["commands: the running gateway still uses what it was before", "reload"],
        ["mqtt: the running gateway still uses what it was before", "reload"],
    ] {
        assert!(found(&text, "warn", &words), "{words:?} in {text}");
    }
    site.folder.write(
        "conf.d/60.toml",
        format!(
            "[upstream]\nurl = \"mqtt://127.0.0.1:{}\"\ninsecure = true\nca-file = \"\"\n",
            site.broker.plain_port
        ),
    );
    let (_, text) = site.daemon.command(&["check"]);
    assert!(found(&text, "warn", &["upstream.url: the running gateway still uses mqtts://"]), "{text}");
    for key in ["upstream.ca-file", "upstream.pin-sha256", "upstream.alpn", "upstream.tls-min"] {
        assert!(!text.contains(&format!("{key}: the running")), "{key} in {text}");
    }
}

/// A running gateway without a broker, with what `[mqtt]` says beside its role.
fn local(name: &str, mqtt: impl FnOnce(&Folder) -> String) -> (Folder, Daemon) {
    let folder = Folder::new(name);
    folder.write("door-7.psk", format!("text:{}", super::KEY));
    let extra = format!("{SITE}{}", mqtt(&folder));
    let port = free_tcp_port();
    let daemon = Daemon::start_with(binary(), &folder, port, &folder.join("none.pem"), &extra, |text| {
        let (before, rest) = text.split_once("[upstream]").expect("an upstream");
        let (_, after) = rest.split_once("\n[").expect("another table");
        format!("{before}[{after}")
    });
    (folder, daemon)
}

#[test]
fn a_certificate_of_mqtt_that_clients_refuse_is_a_reason_in_status_and_one_failure_in_check() {
    let (_folder, daemon) = local("truth-mqtt-expired", |folder| {
        let pki = tombolo_test_support::Pki::new(folder.path());
        pki.issue_with("old", &["localhost"], |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        });
        "[mqtt]\nlisten = [\"127.0.0.1:0\"]\ncertificate-file = \"old.pem\"\nkey-file = \"old.key\"\n"
            .to_owned()
    });
    let (status, said) = daemon.command(&["check", "--offline"]);
    let about = said.lines().filter(|line| line.starts_with("fail") && line.contains("expired on 2021"));
    assert!(status == 1 && about.count() == 1, "{said}");
    let problems = daemon.status()["problems"].to_string();
    assert!(problems.contains("old.pem expired on 2021-01-01"), "{problems}");
    assert_eq!(daemon.status()["ok"], false);
}

#[test]
fn a_gateway_that_lacks_a_port_is_not_said_to_have_its_ports() {
    let (folder, daemon) =
        local("truth-mqtt-file", |_| "[mqtt]\ninsecure-listen = [\"unix:mqtt.sock\"]\n".to_owned());
    let has_all = |said: &str| found(said, "ok", &["daemon: tombolo", "runs and has its ports"]);
    let (_, said) = daemon.command(&["check", "--offline"]);
    assert!(has_all(&said), "{said}");
    folder.write("other.sock", "");
    let config = std::fs::read_to_string(daemon.config()).expect("the configuration");
    folder.write("tombolo.toml", config.replace("unix:mqtt.sock", "unix:other.sock"));
    let (_, said) = daemon.command(&["check", "--offline"]);
    assert!(found(&said, "fail", &["other.sock cannot be had: what is there is no socket"]), "{said}");
    daemon.command(&["reload"]);
    let lacks = || daemon.status()["problems"].to_string().contains("what is there is no socket");
    wait_for("the listener's trouble", lacks);
    let (status, said) = daemon.command(&["check", "--offline"]);
    assert!(status == 1 && !has_all(&said), "{said}");
    assert!(found(&said, "fail", &["not listening on unix:", "no socket"]), "{said}");
}

#[test]
fn a_limit_of_the_owners_that_keeps_publishes_back_is_named_and_not_the_broker() {
    let folder = Folder::new("truth-capped");
    let script = Script::start(ORDINARY);
    let daemon = gateway_with(&folder, script.port, "max-byte-rate = 1");
    wait_for("CONNACK", || connected(&daemon));
    let (status, text) = daemon.command(&["check"]);
    assert!(found(&text, "warn", &["upstream.max-byte-rate", "keeps readings back"]), "{text}");
    let words = ["[upstream] max-byte-rate keeps publishes back", "raise it"];
    assert!(status == 1 && found(&text, "fail", &words), "{text}");
    assert!(!text.contains("acknowledges nothing") && !text.contains("allow tombolo/"), "{text}");
    assert_eq!(daemon.status()["upstream"]["capped_by"], "max-byte-rate");
}

#[test]
fn a_close_over_a_subscription_is_not_said_of_the_publish_after_it() {
    let folder = Folder::new("truth-close-subscribe");
    let script = Script::start(Manner { closes_on_subscribe: true, ..ORDINARY });
    let mut daemon = gateway(&folder, script.port);
    daemon.stop();
    let (_, text) = daemon.command(&["check"]);
    assert!(
        found(&text, "warn", &["upstream publish", "closes the connection over a subscription"]),
        "{text}"
    );
    let taken = ["upstream readings: taken on", "rule alarm", "rule telemetry"];
    assert!(found(&text, "ok", &taken), "{text}");
    assert!(!text.contains("it closes the connection; allow"), "{text}");
}

#[test]
fn readings_wait_for_no_answer_to_a_subscription() {
    let folder = Folder::new("truth-no-suback");
    let script = Script::start(Manner { answers_subscribe: false, ..ORDINARY });
    let daemon = gateway(&folder, script.port);
    wait_for("CONNACK", || connected(&daemon));
    let (status, text) = daemon.command(&["device", "test", "door-7", "--path", "t/a"]);
    assert!(status == 0 && text.contains("acknowledged"), "{text}");
    assert!(daemon.status()["upstream"]["since_s"].as_u64().is_some_and(|seconds| seconds < 9), "{text}");
    let (_, text) = daemon.command(&["check"]);
    assert!(!text.contains("acknowledges nothing"), "{text}");
}

#[test]
fn where_no_reading_fits_none_is_said_to_be_taken_and_the_size_is_the_cause() {
    let folder = Folder::new("truth-small-packets");
    let script = Script::start(Manner { largest: Some(60), ..ORDINARY });
    let daemon = gateway(&folder, script.port);
    wait_for("the status", || daemon.status()["upstream"]["left_out"].to_string().contains("60 bytes"));
    let (status, text) = daemon.command(&["check"]);
    assert!(status == 1 && !text.contains("taken on"), "{text}");
    assert!(text.contains("packets of 60 bytes") && !text.contains("the broker refuses"), "{text}");
    assert!(!text.contains("allow tombolo/"), "{text}");
}
