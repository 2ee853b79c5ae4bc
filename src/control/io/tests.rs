use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::oneshot;

use super::client::{ANSWER, Client, ClientError, Shown};
use super::places::{CONNECTIONS_MAX, SLOW_MAX, TAILS_MAX};
use super::server::{BindError, Server};
use crate::control::api::{AclQuestion, Control, RejectedAction, Reply};
use crate::control::protocol::{Code, Failure, REQUEST_MAX, Request, Response, Selection};
use crate::control::snapshot::{Queue, Session, SessionPage, Status, Uplink};
use crate::control::tail::{Outcome, Reading, Tail};
use crate::message::{Method, RecordId};

/// Answers what a hub would, and shows one reading a reload.
struct Hub {
    tail: Tail,
    answered: u64,
    kept: Vec<Reply>,
}

impl Control for Hub {
    fn status(&mut self) -> Status {
        self.answered += 1;
        let mut status = Status::default();
        status.gateway.id = "tb-test".into();
        status.gateway.uptime_s = self.answered;
        status
    }

    fn sessions(&mut self, device: Option<&str>) -> SessionPage {
        let session = Session { device: device.unwrap_or("any").to_owned(), ..Session::default() };
        SessionPage { sessions: vec![session], more: false }
    }

    fn queue(&mut self, reply: Reply) {
        reply.ok(&Queue::default());
    }

    fn skip(&mut self, records: Vec<String>, reply: Reply) {
        reply.ok(&serde_json::json!({ "records": records.len() }));
    }

    fn rejected(&mut self, action: RejectedAction, reply: Reply) {
        match action {
            RejectedAction::List { .. } => self.kept.push(reply),
            RejectedAction::Export { .. } | RejectedAction::Retry(_) => drop(reply),
            RejectedAction::Drop(Selection::All) => reply.ok(&serde_json::json!({ "records": 3 })),
            RejectedAction::Drop(_) => reply.fail(Failure::new(Code::NotFound, "no such record")),
        }
    }

    fn import(&mut self, file: String, all: bool, reply: Reply) {
        reply.ok(&serde_json::json!({ "file": file, "all": all }));
    }

    fn reload(&mut self, reply: Reply) {
        for bytes in 0..20 {
            self.tail.push(&Reading {
                received: None,
                boottime_ms: 0,
                device: "door-7",
                method: Method::Post,
                path: "t/env",
                query: None,
                topic: Some("a"),
                bytes,
                preview: b"21.5",
                outcome: Outcome::Stored(RecordId { run: 1, sequence: bytes as u64 }),
                reason: None,
            });
        }
        reply.ok(&serde_json::json!({ "watched": self.tail.is_watched() }));
    }

    fn explain(&mut self, asked: &AclQuestion<'_>) -> Result<serde_json::Value, String> {
        let AclQuestion { device, method, path, .. } = *asked;
        let method = Method::parse(method).ok_or("no method")?;
        Ok(serde_json::json!({ "device": device, "method": method.as_str(), "path": path }))
    }

    fn uplink_check(&mut self, reply: Reply) {
        reply.ok(&Uplink { connected: true, ..Uplink::default() });
    }
}

/// A daemon's end on its own thread, in a folder of its own; both end with the value.
struct Daemon {
    folder: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Daemon {
    fn start(name: &str) -> Daemon {
        let folder = std::env::temp_dir().join(format!("tombolo-control-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("control.sock");
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut server = Server::start(&socket).unwrap();
                ready.send(()).unwrap();
                let mut hub = Hub { tail: server.tail().clone(), answered: 0, kept: Vec::new() };
                tokio::select! {
                    _ = stopped => {}
                    () = async { loop { server.next_call().await.dispatch(&mut hub) } } => {}
                }
            });
        });
        is_ready.recv().unwrap();
        Daemon { folder, stop: Some(stop), thread: Some(thread) }
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    fn raw(&self) -> (UnixStream, BufReader<UnixStream>) {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        (stream.try_clone().unwrap(), BufReader::new(stream))
    }

    fn client(&self) -> Client {
        Client::connect(&self.socket()).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn line(reader: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line
}

#[test]
fn one_connection_asks_several_times() {
    let daemon = Daemon::start("several");
    let mut client = daemon.client();
    for asked in 1..=3 {
        let status: Status = client.ask_for(&Request::Status {}, ANSWER).unwrap();
        assert_eq!(status.gateway.uptime_s, asked);
    }
    let dropped = client.ask(&Request::RejectedDrop { records: Selection::All }, ANSWER).unwrap();
    assert_eq!(dropped["records"], 3);
}

#[test]
fn failures_and_answers_never_given_are_told_apart() {
    let daemon = Daemon::start("failures");
    let mut client = daemon.client();
    let explain = |method: &str| Request::AclExplain {
        device: "x".into(),
        method: method.into(),
        path: "t".into(),
        content_format: None,
        bytes: None,
        payload: None,
        retain: false,
    };
    assert_eq!(client.ask(&explain("put"), ANSWER).unwrap()["method"], "PUT");
    match client.ask(&explain("GET"), ANSWER) {
        Err(ClientError::Failed(failure)) => assert_eq!(failure.code, Code::BadRequest),
        other => panic!("{other:?}"),
    }
    match client.ask(&Request::RejectedRetry { records: Selection::All }, ANSWER) {
        Err(ClientError::Failed(failure)) => assert_eq!(failure.code, Code::Unavailable),
        other => panic!("{other:?}"),
    }
    match client.ask(&Request::RejectedList { after: None }, Duration::from_millis(50)) {
        Err(error @ ClientError::Broken { .. }) => {
            assert!(error.to_string().contains("does not answer"), "{error}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_hostile_client_gets_an_error_a_line_and_the_next_request_still_works() {
    let daemon = Daemon::start("hostile");
    let (mut stream, mut reader) = daemon.raw();
    stream.write_all(b"\xff\xfe\n\n{\"request\":\"format-disk\"}\r\n[1\n{\"request\":\"status\"}\n").unwrap();
    for expected in ["bad-request", "format-disk", "bad-request", "tb-test"] {
        let line = line(&mut reader);
        assert!(line.contains(expected), "{line}");
        assert!(Response::parse(line.as_bytes()).is_ok());
    }
}

#[test]
fn an_endless_line_is_refused_and_the_connection_closed() {
    let daemon = Daemon::start("endless");
    let (mut stream, mut reader) = daemon.raw();
    let writer = std::thread::spawn(move || while stream.write_all(&[b'x'; 8192]).is_ok() {});
    let said = line(&mut reader);
    assert!(said.contains("bad-request") && said.contains(&REQUEST_MAX.to_string()), "{said}");
    writer.join().unwrap();
}

fn is_busy(answer: &Result<serde_json::Value, ClientError>, said: &str) -> bool {
    match answer {
        Err(ClientError::Failed(failure)) => failure.code == Code::Busy && failure.message.contains(said),
        _ => false,
    }
}

#[test]
fn tails_do_not_take_the_places_of_short_requests_and_one_too_many_is_told_so() {
    let daemon = Daemon::start("tails");
    let mut tails: Vec<_> = (0..TAILS_MAX).map(|_| daemon.client().tail(None, 0).unwrap()).collect();
    let refused = daemon.client().tail(None, 0).map(drop).unwrap_err();
    assert!(refused.to_string().contains("16 tails are open already; end one of them"), "{refused}");
    daemon.client().ask(&Request::Status {}, ANSWER).unwrap();
    daemon.client().ask(&Request::Reload {}, ANSWER).unwrap();
    tails.pop();
    // The server sees the close when it sees it.
    assert!((0..1000).any(|_| daemon.client().tail(None, 0).is_ok()));
}

#[test]
fn clients_that_send_nothing_or_half_a_request_make_room_for_those_that_ask() {
    let daemon = Daemon::start("silent");
    let mut silent: Vec<_> = (0..3 * CONNECTIONS_MAX).map(|_| daemon.raw()).collect();
    for (stream, _) in &mut silent {
        // Those that were closed do not take it.
        let _ = stream.write_all(b"{\"request\"");
    }
    for _ in 0..3 {
        daemon.client().ask(&Request::Status {}, ANSWER).unwrap();
    }
    let said = line(&mut silent[0].1);
    assert!(said.contains("busy") && said.contains("no request came"), "{said}");
}

#[test]
fn requests_that_wait_for_the_disk_are_bounded_and_short_ones_still_answered() {
    let daemon = Daemon::start("slow-requests");
    let request = br#"{"request":"rejected-list"}"#;
    let mut held: Vec<_> = (0..SLOW_MAX).map(|_| daemon.raw()).collect();
    for (stream, _) in &mut held {
        stream.write_all(&[&request[..], b"\n"].concat()).unwrap();
    }
    // Until the server has read all of them, one more is taken too, and then never answered.
    let list = Request::RejectedList { after: None };
    let busy = (0..1000)
        .any(|_| is_busy(&daemon.client().ask(&list, Duration::from_millis(20)), "in progress already"));
    assert!(busy);
    daemon.client().ask(&Request::Status {}, ANSWER).unwrap();
    held.clear();
}

#[test]
fn root_finds_a_place_when_others_have_theirs() {
    let places = super::places::Places::new();
    let others: Vec<_> = std::iter::from_fn(|| places.connect(false).ok()).collect();
    assert_eq!(others.len(), CONNECTIONS_MAX - super::places::RESERVED);
    let failure = places.connect(false).unwrap_err();
    assert!(failure.message.contains("56 control connections already"), "{failure}");
    let own = places.connect(true).unwrap();
    let waiting = places.wait(own);
    let taken = places.connect(false).unwrap();
    assert!(waiting.take().is_none(), "the one without a request has lost its place");
    drop(taken);
    drop(others);
    assert!(places.connect(false).is_ok());
}

#[test]
fn a_tail_shows_readings_until_it_goes_and_costs_nothing_after() {
    let daemon = Daemon::start("tail");
    let mut tailing = daemon.client().tail(Some("door-7".into()), 0).unwrap();
    let mut client = daemon.client();
    assert_eq!(client.ask(&Request::Reload {}, ANSWER).unwrap()["watched"], true);
    for bytes in 0..20 {
        match tailing.next() {
            Some(Ok(Shown::Item(item))) => assert_eq!((item.bytes, item.path.as_str()), (bytes, "t/env")),
            other => panic!("{other:?}"),
        }
    }
    drop(tailing);
    let unwatched = (0..1000).any(|_| client.ask(&Request::Reload {}, ANSWER).unwrap()["watched"] == false);
    assert!(unwatched);
}

#[test]
fn a_tail_that_does_not_read_holds_nobody_up_and_hears_what_it_missed() {
    let daemon = Daemon::start("slow");
    let mut tailing = daemon.client().tail(None, 0).unwrap();
    let mut client = daemon.client();
    let rounds = 2000;
    for _ in 0..rounds {
        client.ask(&Request::Reload {}, ANSWER).unwrap();
    }
    let (mut shown, mut missed) = (0, 0);
    while shown + missed < rounds * 20 {
        match tailing.next() {
            Some(Ok(Shown::Item(_))) => shown += 1,
            Some(Ok(Shown::Missed(count))) => missed += count,
            other => panic!("{other:?} after {shown} shown and {missed} missed"),
        }
    }
    assert_eq!(shown + missed, rounds * 20);
    assert!(missed > 0);
}

#[test]
fn the_socket_is_for_its_owner_and_group_and_goes_with_the_daemon() {
    let daemon = Daemon::start("mode");
    let socket = daemon.socket();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o7777, 0o660);
    assert_eq!(std::fs::read_dir(&daemon.folder).unwrap().count(), 1);
    drop(daemon);
    assert!(!socket.exists());
    assert!(matches!(Client::connect(&socket), Err(ClientError::NotRunning { .. })));
}

fn bind_once(socket: &Path) -> Result<(), BindError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { Server::start(socket).map(drop) })
}

#[test]
fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
    let daemon = Daemon::start("live");
    match bind_once(&daemon.socket()) {
        Err(error @ BindError::InUse { .. }) => {
            assert!(error.to_string().contains("another tombolo"), "{error}")
        }
        other => panic!("{other:?}"),
    }
    daemon.client().ask(&Request::Status {}, ANSWER).unwrap();
    let dead = daemon.folder.join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let error = Client::connect(&dead).unwrap_err();
    assert!(error.to_string().contains("systemctl start tombolo"), "{error}");
    assert!(error.to_string().contains("dead.sock"), "{error}");
    bind_once(&dead).unwrap();
    let file = daemon.folder.join("file");
    std::fs::write(&file, "kept").unwrap();
    assert!(matches!(bind_once(&file), Err(BindError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
}

#[test]
fn whatever_a_daemon_sends_a_client_reads_it_or_says_it_cannot() {
    let folder = std::env::temp_dir().join(format!("tombolo-control-{}-garbled", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let socket = folder.join("control.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let lines: &[&[u8]] = &[b"", b"\n", b"{\"ok\"\n", b"{\"item\":{}}\n", b"\xff\n", b"{\"ok\":7}\n"];
    for sent in lines {
        let client = Client::connect(&socket).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(sent).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut client = client;
        let answer: Result<Uplink, _> = client.ask_for(&Request::UplinkCheck {}, ANSWER);
        assert!(
            matches!(answer, Err(ClientError::Garbled { .. } | ClientError::Broken { .. })),
            "{sent:?}: {answer:?}"
        );
        drop(client);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_long_wait_goes_on_while_the_daemon_lives_and_ends_soon_where_it_gives_no_sign_of_life() {
    let (within, silence) = (Duration::from_secs(600), Duration::from_millis(100));
    // It keeps this reply for ever, and answers others.
    let daemon = Daemon::start("alive");
    let mut client = daemon.client();
    let list = Request::RejectedList { after: None };
    let answer = client.ask_attended(&list, Duration::from_millis(700), silence);
    assert!(matches!(&answer, Err(ClientError::Broken { .. })), "{answer:?}");
    drop(daemon);
    // As one that was stopped: the system accepts, and nobody reads.
    let folder = std::env::temp_dir().join(format!("tombolo-control-{}-lifeless", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let socket = folder.join("control.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut client = Client::connect(&socket).unwrap();
    let answer = client.ask_attended(&Request::Reload {}, within, silence);
    let Err(error @ ClientError::Lifeless { .. }) = answer else { panic!("{answer:?}") };
    assert!(error.to_string().contains("no sign of life"), "{error}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn an_answer_that_drips_is_given_up_at_the_deadline_of_the_whole() {
    let folder = std::env::temp_dir().join(format!("tombolo-control-{}-drips", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let socket = folder.join("control.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    // Each byte comes long before the time of the answer is over, and the last one long after.
    let (within, bytes) = (Duration::from_millis(400), 1000);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let dripper = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for _ in 0..bytes {
            let is_left = stream.write_all(b" ").is_err();
            let pace = stopped.recv_timeout(Duration::from_millis(10));
            if is_left || pace != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                return;
            }
        }
    });
    let mut client = Client::connect(&socket).unwrap();
    let answer = client.ask(&Request::Health {}, within);
    match answer {
        Err(ClientError::Broken { error, .. }) => assert_eq!(error.kind(), std::io::ErrorKind::TimedOut),
        other => panic!("{other:?}"),
    }
    drop((client, stop));
    dripper.join().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
}
