//! Commands that ask the running daemon, against a fake one with fixed answers.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::thread::JoinHandle;

use serde_json::{Value, json};
use tokio::sync::oneshot;

use tombolo::control::api::{AclQuestion, Control, RejectedAction, Reply};
use tombolo::control::io::server::Server;
use tombolo::control::protocol::{Code, Failure, Selection};
use tombolo::control::snapshot::{
    DevicePage, DeviceState, ExportPage, Gateway, Lane, Queue, RejectedPage, RejectedRecord, Session,
    SessionPage, Status, Uplink,
};
use tombolo::control::tail::{Outcome, Reading, Tail};
use tombolo::message::{Method, RecordId};

use crate::place::Place;

struct Hub {
    tail: Tail,
    /// `None`: it has no upstream.
    connected: Option<bool>,
}

impl Control for Hub {
    fn status(&mut self) -> Status {
        Status {
            gateway: Gateway {
                id: "tb-test".into(),
                version: env!("CARGO_PKG_VERSION").into(),
                uptime_s: 70,
                ..Gateway::default()
            },
            counters: json!({ "tombolo_journal_stored_readings_total": 5 }),
            ..Status::default()
        }
    }

    /// Only one of a fleet, which was seen a moment ago.
    fn devices(&mut self, device: Option<&str>, _: Option<&str>) -> Result<DevicePage, Failure> {
        if device != Some("new-1") {
            return Err(Failure::new(Code::NotFound, "no such device here"));
        }
        let state = DeviceState {
            id: "new-1".into(),
            role: "sensor".into(),
            fleet: Some("doors".into()),
            online: true,
            ..DeviceState::default()
        };
        Ok(DevicePage { devices: vec![state], ..DevicePage::default() })
    }

    fn sessions(&mut self, device: Option<&str>) -> SessionPage {
        let session = |device: &str, connection_id| Session {
            device: device.into(),
            peer: "192.0.2.7:5683".into(),
            suite: "TLS_PSK_WITH_AES_128_CCM_8".into(),
            connection_id,
            extended_master_secret: !connection_id,
            since_s: 3_600,
            idle_s: 5,
        };
        let mut sessions = vec![session("door-7", true), session("door-8", false)];
        sessions.retain(|session| device.is_none_or(|id| session.device == id));
        SessionPage { sessions, more: device.is_none() }
    }

    fn queue(&mut self, reply: Reply) {
        let queue = Queue {
            lanes: [(
                "normal".to_owned(),
                Lane { records: 2, bytes: 100, max_bytes: 1000, ..Lane::default() },
            )]
            .into(),
            ..Queue::default()
        };
        reply.ok(&queue);
    }

    fn skip(&mut self, records: Vec<String>, reply: Reply) {
        reply.ok(&json!({ "records": records.len() }));
    }

    fn import(&mut self, file: String, all: bool, reply: Reply) {
        if file.ends_with("0c.seg.damaged") && !all {
            reply.ok(&json!({ "records": 190, "left_out": 10, "missing": 1 }));
        } else {
            reply.fail(Failure::new(Code::Failed, format!("{file}: the file cannot be read: gone")));
        }
    }

    fn rejected(&mut self, action: RejectedAction, reply: Reply) {
        let record = |n: u64| RejectedRecord {
            record: RecordId { run: 1, sequence: n }.to_string(),
            device: "door-7".into(),
            topic: "a\u{1b}[2J".into(),
            bytes: 3,
            received: None,
            reason: "not authorized (0x87)".into(),
        };
        match action {
            RejectedAction::List { after: None } => {
                reply.ok(&RejectedPage { records: vec![record(1), record(2)], more: true, unreadable: 0 });
            }
            RejectedAction::List { after: Some(after) } if after == record(2).record => {
                reply.ok(&RejectedPage { records: vec![record(3)], more: false, unreadable: 0 });
            }
            RejectedAction::Export { after } if after < 3 => {
                let record = json!({ "id": RecordId { run: 1, sequence: after + 1 }.to_string() });
                reply.ok(&ExportPage { records: vec![record], last: Some(after + 1), unreadable: 0 });
            }
            RejectedAction::Export { .. } => reply.ok(&ExportPage::default()),
            RejectedAction::Retry(Selection::All) => reply.ok(&json!({ "records": 3 })),
            _ => reply.fail(Failure::new(Code::NotFound, "there is no such record in rejected")),
        }
    }

    fn reload(&mut self, reply: Reply) {
        if self.tail.is_watched() {
            self.tail.push(&Reading {
                received: None,
                boottime_ms: 0,
                device: "door-7",
                method: Method::Post,
                path: "t/env",
                query: None,
                topic: Some("tombolo/g/door-7/up/t/env"),
                bytes: 14,
                preview: b"21.5",
                outcome: Outcome::Stored(RecordId { run: 1, sequence: 2 }),
                reason: None,
            });
        }
        reply.ok(&json!({}));
    }

    fn explain(&mut self, asked: &AclQuestion<'_>) -> Result<Value, String> {
        let AclQuestion { device, method, path, .. } = *asked;
        let method = Method::parse(method).ok_or("no method")?;
        Ok(
            json!({ "device": device, "method": method.as_str(), "path": path, "allowed": path == "t", "why": "because" }),
        )
    }

    fn uplink_check(&mut self, reply: Reply) {
        reply.ok(&Uplink {
            configured: self.connected.is_some(),
            connected: self.connected == Some(true),
            broker: Some("b:8883".into()),
            echo_ms: (self.connected == Some(true)).then_some(12),
            last_error: (self.connected == Some(false)).then(|| "connection refused".into()),
            ..Uplink::default()
        });
    }
}

/// A daemon's control socket in the place; ends with the value.
struct Daemon {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    fn start(socket: &Path, connected: impl Into<Option<bool>>) -> Daemon {
        let (socket, connected) = (socket.to_owned(), connected.into());
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut server = Server::start(&socket).unwrap();
                let mut hub = Hub { tail: server.tail().clone(), connected };
                ready.send(()).unwrap();
                tokio::select! {
                    _ = stopped => {}
                    () = async { loop { server.next_call().await.dispatch(&mut hub) } } => {}
                }
            });
        });
        is_ready.recv().unwrap();
        Daemon { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn with_daemon() -> (Place, Daemon) {
    let place = Place::new();
    let daemon = Daemon::start(&place.path("run/control.sock"), true);
    (place, daemon)
}

#[test]
fn without_a_daemon_the_socket_and_the_way_out_are_named() {
    let place = Place::new();
    for line in ["status", "queue", "tail", "reload", "queue rejected list"] {
        place.run(line).failed(1, &["not running", "run/control.sock", "tombolo.toml run` in another"]);
    }
}

#[test]
fn status_is_one_object_or_a_few_lines() {
    let (place, _daemon) = with_daemon();
    let json = place.run("--json status").json();
    for key in ["gateway", "upstream", "journal", "devices", "counters", "clock"] {
        assert!(json.get(key).is_some(), "{key} in {json}");
    }
    assert_eq!(json["upstream"]["connected"], false);
    assert_eq!(json["journal"]["records"], 0);
    assert_eq!(json["clock"]["trusted"], false);
    let text = place.run("status").fine();
    assert!(text.contains("gateway   tb-test") && text.contains("readings  5 stored"), "{text}");
}

#[test]
fn the_sessions_are_listed_and_shown_with_their_device() {
    let (place, _daemon) = with_daemon();
    let json = place.run("--json status --sessions").json();
    assert_eq!((json["sessions"].as_array().map(Vec::len), &json["more"]), (Some(2), &json!(true)));
    let listed = place.run("status --sessions");
    let line = "door-7  192.0.2.7:5683  1 h  5 s   TLS_PSK_WITH_AES_128_CCM_8, connection id, no extended master secret";
    assert!(
        listed.out.contains(line) && listed.err.contains("there are more"),
        "{}{}",
        listed.out,
        listed.err
    );
    place.run("device add door-8 --role sensor --psk").fine();
    let shown = place.run("--json device show door-8").json();
    assert_eq!(shown["sessions"][0]["connection_id"], false);
    assert_eq!(shown["sessions"].as_array().map(Vec::len), Some(1));
    let text = place.run("device show door-8").fine();
    assert!(text.contains("from 192.0.2.7:5683 for 1 h, last heard 5 s ago, TLS_PSK"), "{text}");
}

#[test]
fn a_device_that_only_the_daemon_knows_yet_is_shown() {
    let (place, _daemon) = with_daemon();
    let text = place.run("device show new-1").fine();
    assert!(text.contains("fleet") && text.contains("doors") && text.contains("online"), "{text}");
    assert_eq!(place.run("--json device show new-1").json()["fleet"], "doors");
    place.run("device show other").failed(1, &["there is no device other"]);
    place.run("device show new-1 --key").failed(1, &["there is no device new-1"]);
}

#[test]
fn a_fault_in_the_configuration_does_not_keep_status_from_the_daemon() {
    let (place, _daemon) = with_daemon();
    place.write("conf.d/90-wrong.toml", "[gateway]\nid = 7\n");
    place.run("status").fine();
}

#[test]
fn the_queue_has_the_keys_scripts_rely_on_and_rejected_is_read_page_by_page() {
    let (place, _daemon) = with_daemon();
    let json = place.run("--json queue").json();
    assert_eq!(json["lanes"]["normal"]["records"], 2);
    for key in ["records", "bytes", "oldest", "max_bytes", "dropped"] {
        assert!(json["lanes"]["normal"].get(key).is_some(), "{key} in {json}");
    }
    assert!(json.get("rejected").is_some());
    let listed = place.run("--json queue rejected list").fine();
    let ids: Vec<Value> =
        listed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["record"].clone()).collect();
    assert_eq!(ids, [1, 2, 3].map(|n| json!(format!("0000000000000001-{n}"))));
    let text = place.run("queue rejected list").fine();
    assert!(!text.contains('\x1b') && text.contains("not authorized"), "{text}");
    assert!(place.run("queue rejected retry --all").fine().contains("3 records"));
    place.run("queue rejected drop 0000000000000001-9").failed(1, &["no such record"]);
    assert!(place.run("queue skip 0000000000000001-9").fine().contains("1 record"));
    place.run("queue skip 9").failed(2, &["\"9\" is not a record id"]);
}

#[test]
fn an_export_is_a_line_a_record_in_a_new_file_that_nobody_else_can_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let (place, _daemon) = with_daemon();
    let file = place.path("export.jsonl");
    let line = format!("queue rejected export {}", file.display());
    assert!(place.run(&line).fine().contains("3 records"));
    let text = std::fs::read_to_string(&file).unwrap();
    let ids: Vec<Value> =
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone()).collect();
    assert_eq!(ids, [1, 2, 3].map(|n| json!(format!("0000000000000001-{n}"))));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    place.run(&line).failed(1, &["exists already", "export.jsonl"]);
    assert_eq!(place.run("queue rejected export -").out, text);
}

#[test]
fn explain_asks_the_rules_in_force_and_its_exit_status_is_the_answer() {
    let (place, _daemon) = with_daemon();
    assert_eq!(place.run("--json acl explain x post t").json()["allowed"], true);
    let refused = place.run("acl explain x PUT u");
    assert_eq!(refused.status, 1);
    assert!(
        refused.out.contains("x PUT u is refused") && refused.out.contains("rules in force"),
        "{}",
        refused.out
    );
}

#[test]
fn explain_without_a_daemon_asks_the_files() {
    let place = Place::new();
    place.run("device add door-7 --role sensor --psk").fine();
    let allowed = place.run("--json acl explain door-7 POST t/env").json();
    assert_eq!((&allowed["allowed"], &allowed["rule"]), (&json!(true), &json!("telemetry")));
    let denied = place.run("acl explain door-7 POST t/secret");
    assert_eq!(denied.status, 1);
    assert!(
        denied.out.contains("secret: path t/secret, denies") && denied.out.contains("not running"),
        "{}",
        denied.out
    );
    assert_eq!(place.run("acl explain nobody POST t").status, 1);
}

#[test]
fn tail_shows_a_reading_a_line_and_ends_with_the_daemon() {
    for (line, expected) in [
        ("tail", "door-7 POST t/env → tombolo/g/door-7/up/t/env 14 B stored 0000000000000001-2"),
        ("--json tail door-7", "\"record\":\"0000000000000001-2\""),
    ] {
        let (place, daemon) = with_daemon();
        let mut child = place.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        // Each change of the registry makes this daemon show a reading to whoever already watches.
        let (sender, lines) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            out.lines().for_each(|line| sender.send(line.unwrap()).unwrap());
        });
        let first = (0..).find_map(|n| {
            place.run(&format!("device add d{n} --role sensor --psk")).fine();
            lines.try_recv().ok()
        });
        assert!(first.as_ref().is_some_and(|first| first.contains(expected)), "{first:?}");
        drop(daemon);
        assert_eq!(child.wait().unwrap().code(), Some(1));
        while lines.recv().is_ok() {}
        reader.join().unwrap();
    }
}

#[test]
fn adding_a_device_has_the_daemon_take_it_up() {
    let (place, _daemon) = with_daemon();
    let said = place.run("device add door-7 --role sensor --psk").fine();
    assert!(said.contains("tombolo.toml tail shows"), "{said}");
    let said = place.run("device remove door-7").fine();
    assert!(said.contains("sessions are closed"), "{said}");
}

#[test]
fn reload_says_that_it_is_done() {
    let (place, _daemon) = with_daemon();
    assert_eq!(place.run("reload").fine(), "reloaded\n");
    place.run("--json reload").json();
}

#[test]
fn check_asks_the_daemon_about_ports_and_uplink() {
    let place = Place::new();
    place.run("init --url mqtts://127.0.0.1:1").fine();
    let _daemon = Daemon::start(&place.path("run/control.sock"), true);
    let out = place.run("check").fine();
    assert!(out.contains("acknowledged in 12 ms") && out.contains("runs and has its ports"), "{out}");
    assert!(!out.contains("ports: ") && !out.contains("upstream tcp"), "{out}");
}

#[test]
fn check_before_the_first_reload_says_to_reload_and_does_not_fail_for_it() {
    let place = Place::new();
    place.run("init --url mqtts://127.0.0.1:1").fine();
    let _daemon = Daemon::start(&place.path("run/control.sock"), None);
    let ran = place.run("check");
    assert!(!ran.out.contains("none configured"), "{}", ran.out);
    let fails: Vec<&str> = ran.out.lines().filter(|line| line.starts_with("fail")).collect();
    assert_eq!(fails.len(), 1, "{fails:?}");
    assert!(fails[0].starts_with("fail  upstream tcp: "), "{fails:?}");
    let warned = ran
        .out
        .lines()
        .any(|line| line.starts_with("warn  daemon: ") && line.ends_with("tombolo.toml reload"));
    assert!(warned, "{}", ran.out);
}

#[test]
fn check_shows_the_step_that_fails_while_the_daemon_is_not_connected() {
    let place = Place::new();
    place.run("init --url mqtts://127.0.0.1:1").fine();
    let mut daemon = Some(Daemon::start(&place.path("run/control.sock"), false));
    for said_by_daemon in [true, false] {
        let ran = place.run("check");
        assert_eq!(ran.status, 1, "{}{}", ran.out, ran.err);
        assert_eq!(ran.out.contains("not connected to b:8883"), said_by_daemon, "{}", ran.out);
        let tcp = ran.out.lines().find(|line| line.starts_with("fail  upstream tcp: "));
        assert!(tcp.is_some_and(|line| line.contains("127.0.0.1") && line.contains("; ")), "{}", ran.out);
        daemon.take();
    }
}
