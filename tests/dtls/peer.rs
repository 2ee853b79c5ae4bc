//! Real clients over loopback: what our own client agrees with us on need not be what others do.
//!
//! A client that is not installed is passed over, unless `TOMBOLO_TEST_PEERS=all`, as `tests/run`
//! sets it.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tombolo::proto::Route;
use tombolo::proto::dtls::{
    CloseCause, DimplEngine, Engine, HandshakeFailure, Keyring, Limits, PeerIdentity, SessionId, Sink,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// An engine on a socket of its own. It answers CoAP requests with 2.05 and echoes anything else.
struct Server {
    port: u16,
    seen: Arc<Watched>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    identities: Vec<Vec<u8>>,
    data: Vec<Vec<u8>>,
    closed: Vec<CloseCause>,
    failed: Vec<HandshakeFailure>,
}

/// What was seen, and a bell for who waits for it.
#[derive(Default)]
struct Watched {
    seen: Mutex<Seen>,
    bell: Condvar,
}

impl Watched {
    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().unwrap());
        self.bell.notify_all();
    }
}

struct Shell<'s> {
    socket: &'s UdpSocket,
    seen: &'s Watched,
    answers: Vec<(SessionId, Vec<u8>)>,
}

impl Sink for Shell<'_> {
    fn transmit(&mut self, route: &Route, datagram: &[u8]) {
        // A client that is gone already refuses it; nothing to do about that.
        let _ = self.socket.send_to(datagram, route.remote);
    }
    fn connected(&mut self, _: SessionId, _: &Route, identity: &PeerIdentity) {
        let PeerIdentity::Psk(identity) = identity else { return };
        self.seen.note(|seen| seen.identities.push(identity.to_vec()));
    }
    fn data(&mut self, session: SessionId, plaintext: &[u8]) {
        self.seen.note(|seen| seen.data.push(plaintext.to_vec()));
        let answer = match plaintext {
            // A confirmable request: 2.05 with its message id and token, payload "tied".
            [first, _, id @ ..] if first >> 4 == 4 && id.len() >= 2 => {
                let token = usize::from(first & 15);
                let mut answer = vec![0x60 | first & 15, 0x45];
                answer.extend(&plaintext[2..4 + token]);
                answer.extend(b"\xfftied");
                answer
            }
            other => other.to_vec(),
        };
        self.answers.push((session, answer));
    }
    fn closed(&mut self, _: SessionId, cause: CloseCause) {
        self.seen.note(|seen| seen.closed.push(cause));
    }
    fn failed(&mut self, _: &Route, failure: &HandshakeFailure) {
        self.seen.note(|seen| seen.failed.push(failure.clone()));
    }
}

impl Server {
    fn start() -> Server {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let port = socket.local_addr().unwrap().port();
        let (seen, stop) = (Arc::new(Watched::default()), Arc::new(AtomicBool::new(false)));
        let (its_seen, its_stop) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || serve(&socket, &its_seen, &its_stop));
        Server { port, seen, stop, thread: Some(thread) }
    }

    /// Waits until what was seen is as wished.
    fn wait(&self, wish: impl Fn(&Seen) -> bool) -> bool {
        let seen = self.seen.seen.lock().unwrap();
        let (_seen, waited) = self.seen.bell.wait_timeout_while(seen, PATIENCE, |seen| !wish(seen)).unwrap();
        !waited.timed_out()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.seen.lock().unwrap()
    }
}

fn serve(socket: &UdpSocket, seen: &Watched, stop: &AtomicBool) {
    let keys = Keyring::new([(*b"dev-1", *b"0123456789abcdef")]);
    let mut engine = DimplEngine::new(Instant::now(), Limits::default(), keys, &[3; 32]).unwrap();
    let mut shell = Shell { socket, seen, answers: Vec::new() };
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let received = socket.recv_from(&mut buffer);
        let now = Instant::now();
        if let Ok((length, remote)) = received {
            let route = Route { remote, local: None, socket: 0 };
            engine.handle_datagram(now, route, &mut buffer[..length], &mut shell);
        }
        for (session, answer) in std::mem::take(&mut shell.answers) {
            let _ = engine.send(now, session, &answer, &mut shell);
        }
        engine.handle_timeout(now, &mut shell);
    }
    engine.close_all(Instant::now(), &mut shell);
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))));
        }
    }
}

/// Starts a client; `None` if it is not installed and need not be.
fn start(program: &str, arguments: &[&str]) -> Option<Child> {
    // `tests/run peers` builds some.
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin").join(program);
    let child = Command::new(if built.exists() { built.as_os_str() } else { program.as_ref() })
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    match child {
        Ok(child) => Some(child),
        Err(error) if std::env::var_os("TOMBOLO_TEST_PEERS").is_none_or(|peers| peers != "all") => {
            eprintln!("passed over: {program}: {error}");
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

fn coap_client(program: &str, key: &str) -> Option<(Server, String)> {
    let server = Server::start();
    let url = format!("coaps://127.0.0.1:{}/t", server.port);
    let client = start(program, &["-m", "post", "-e", "21.5", "-B", "10", "-u", "dev-1", "-k", key, &url])?;
    let output = client.wait_with_output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Some((server, text))
}

fn coap_client_is_answered(program: &str) {
    let Some((server, text)) = coap_client(program, "0123456789abcdef") else { return };
    assert!(text.contains("tied"), "{text}");
    assert!(server.wait(|seen| seen.closed == [CloseCause::Peer]), "it says close_notify");
    let seen = server.seen();
    assert_eq!(seen.identities, [b"dev-1".to_vec()]);
    assert!(seen.data[0].ends_with(b"\xff21.5"));
    assert_eq!(seen.failed, []);
}

fn coap_client_with_a_wrong_key_is_named(program: &str) {
    let begin = Instant::now();
    let Some((server, text)) = coap_client(program, "another key") else { return };
    assert!(!text.contains("tied"), "{text}");
    let failure = HandshakeFailure::WrongKey(b"dev-1"[..].into());
    assert!(server.wait(|seen| seen.failed == [failure.clone()]));
    assert!(begin.elapsed() < Duration::from_secs(9), "the alert spares it the wait: {text}");
}

#[test]
fn libcoap_with_openssl_is_answered() {
    coap_client_is_answered("coap-client-openssl");
}

#[test]
fn libcoap_with_gnutls_is_answered() {
    coap_client_is_answered("coap-client-gnutls");
}

#[test]
fn libcoap_with_openssl_and_a_wrong_key_is_named() {
    coap_client_with_a_wrong_key_is_named("coap-client-openssl");
}

#[test]
fn libcoap_with_gnutls_and_a_wrong_key_is_named() {
    coap_client_with_a_wrong_key_is_named("coap-client-gnutls");
}

#[test]
fn aiocoap_with_tinydtls_is_answered() {
    let server = Server::start();
    let base = format!("coaps://127.0.0.1:{}", server.port);
    let credentials = std::env::temp_dir().join(format!("tombolo-dtls-{}.json", server.port));
    let content = format!(
        r#"{{"{base}/*": {{"dtls": {{"psk": {{"ascii": "0123456789abcdef"}},
            "client-identity": {{"ascii": "dev-1"}}}}}}}}"#
    );
    std::fs::write(&credentials, content).unwrap();
    let arguments = ["--credentials", credentials.to_str().unwrap(), "-m", "POST", "--payload", "21.5"];
    let client = start("aiocoap-client", &[&arguments[..], &[&format!("{base}/t")]].concat());
    let output = client.map(|client| client.wait_with_output().unwrap());
    std::fs::remove_file(&credentials).unwrap();
    let Some(output) = output else { return };
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("tied"), "{text}");
    assert_eq!(server.seen().identities, [b"dev-1".to_vec()]);
}

/// A client that sends what comes in on its standard input.
fn pipe_client_is_echoed(program: &str, arguments: impl Fn(u16) -> Vec<String>) {
    let server = Server::start();
    let arguments = arguments(server.port);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some(mut client) = start(program, &arguments) else { return };
    let mut input = client.stdin.take().unwrap();
    assert!(server.wait(|seen| !seen.identities.is_empty()), "no handshake with {program}");
    input.write_all(b"hello tombolo\n").unwrap();
    assert!(server.wait(|seen| seen.data.contains(&b"hello tombolo\n".to_vec())));
    // It must have read the echo before its input ends, for that ends it.
    let mut output = client.stdout.take().unwrap();
    let (send, received) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let mut byte = [0];
        while matches!(output.read(&mut byte), Ok(1)) {
            text.push(byte[0]);
            if text.ends_with(b"hello tombolo\n") && send.send(()).is_err() {
                break;
            }
        }
    });
    let echoed = received.recv_timeout(PATIENCE);
    drop(input);
    let _ = client.kill();
    let _ = client.wait();
    assert_eq!(echoed, Ok(()));
}

#[test]
fn openssl_s_client_is_echoed() {
    pipe_client_is_echoed("openssl", |port| {
        let connect = format!("127.0.0.1:{port}");
        let key = "30313233343536373839616263646566";
        ["s_client", "-dtls1_2", "-quiet", "-no_ign_eof", "-psk_identity", "dev-1", "-psk", key]
            .into_iter()
            .chain(["-cipher", "PSK-AES128-CCM8:@SECLEVEL=0", "-connect", &connect])
            .map(String::from)
            .collect()
    });
}

#[test]
fn gnutls_cli_is_echoed() {
    pipe_client_is_echoed("gnutls-cli", |port| {
        let priority = "NORMAL:-VERS-ALL:+VERS-DTLS1.2:-KX-ALL:+PSK:-CIPHER-ALL:+AES-128-CCM-8";
        ["--udp", "--pskusername", "dev-1", "--pskkey", "30313233343536373839616263646566"]
            .into_iter()
            .chain(["--priority", priority, "--port", &port.to_string(), "127.0.0.1"])
            .map(String::from)
            .collect()
    });
}

#[test]
fn openssl_without_our_suite_is_named_with_what_it_offered() {
    let server = Server::start();
    let connect = format!("127.0.0.1:{}", server.port);
    let arguments = ["s_client", "-dtls1_2", "-psk_identity", "dev-1", "-psk", "30", "-cipher"];
    let arguments = [&arguments[..], &["PSK-AES128-GCM-SHA256", "-connect", &connect]].concat();
    let Some(client) = start("openssl", &arguments) else { return };
    let output = client.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("handshake failure"), "the client is told: {text}");
    assert!(server.wait(|seen| !seen.failed.is_empty()));
    let failed = server.seen().failed.clone();
    assert_eq!(failed[0].to_string(), "no shared cipher suite; offered TLS_PSK_WITH_AES_128_GCM_SHA256");
}
