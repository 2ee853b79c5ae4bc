//! Real clients over loopback: what our own client agrees with us on need not be what others do.
//!
//! A client that is not installed is passed over, unless `TOMBOLO_TEST_PEERS=all`, as `tests/run` sets it.

use std::io::{BufRead as _, BufReader, Write};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use tombolo::clock::UnixTime;
use tombolo::proto::Route;
use tombolo::proto::dtls::server::{Certificates, Clock, ServerKey, Settings, Trust};
use tombolo::proto::dtls::{
    CloseCause, Engine, HandshakeFailure, Keyring, PeerIdentity, ServerEngine, SessionId, Sink,
};

use crate::world::{YEAR_2026, authority, device_params, hash};

const PATIENCE: Duration = Duration::from_secs(20);

/// An engine on a socket of its own. It answers CoAP requests with 2.05 and echoes anything else.
struct Server {
    port: u16,
    seen: Arc<Watched>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    identities: Vec<PeerIdentity>,
    sessions: Vec<(&'static str, bool)>,
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
        self.seen.note(|seen| seen.identities.push(identity.clone()));
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
        Server::with(Settings::default(), Certificates::default())
    }

    fn with(settings: Settings, certificates: Certificates) -> Server {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let port = socket.local_addr().unwrap().port();
        let (seen, stop) = (Arc::new(Watched::default()), Arc::new(AtomicBool::new(false)));
        let (its_seen, its_stop) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || serve(&socket, &its_seen, &its_stop, settings, certificates));
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

fn serve(
    socket: &UdpSocket,
    seen: &Watched,
    stop: &AtomicBool,
    settings: Settings,
    certificates: Certificates,
) {
    let keys = Keyring::new([(*b"dev-1", *b"0123456789abcdef")]);
    let mut engine = ServerEngine::new(Instant::now(), settings, keys, certificates, &[3; 32]);
    engine.set_clock(Clock { time: UnixTime::from_secs(YEAR_2026), trusted: true });
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
        let mut sessions = Vec::new();
        engine.sessions(&mut |info| sessions.push((info.suite, info.extended_master_secret)));
        if !sessions.is_empty() {
            seen.note(|seen| seen.sessions = sessions);
        }
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
    let child = Command::new(program)
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
    assert_eq!(seen.identities, [PeerIdentity::Psk(b"dev-1"[..].into())]);
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
    assert_eq!(server.seen().identities, [PeerIdentity::Psk(b"dev-1"[..].into())]);
}

/// A client that sends what comes in on its standard input. Returns what the server saw, if there is one.
fn echo(server: &Server, program: &str, arguments: &[&str]) -> bool {
    let Some(mut client) = start(program, arguments) else { return false };
    let mut input = client.stdin.take().unwrap();
    let is_there = server.wait(|seen| !seen.identities.is_empty() || !seen.failed.is_empty());
    if !is_there || server.seen().identities.is_empty() {
        drop(input);
        let output = client.wait_with_output().unwrap();
        let failed = format!("{:?}", server.seen().failed);
        panic!(
            "no handshake with {program} {arguments:?}: {failed} {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    input.write_all(b"hello tombolo\n").unwrap();
    let heard = server.wait(|seen| seen.data.contains(&b"hello tombolo\n".to_vec()));
    // It must not see the end of its input before it has seen the echo.
    let output = BufReader::new(client.stdout.take().unwrap());
    let (line, lines) = mpsc::channel();
    let reader =
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|l| line.send(l)));
    let mut text = String::new();
    while !text.contains("hello tombolo") {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => text += &line,
            Err(_) => break,
        }
    }
    drop((input, lines));
    if !text.contains("hello tombolo") {
        let _ = client.kill();
    }
    let output = client.wait_with_output().unwrap();
    let _ = reader.join();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(heard && text.contains("hello tombolo"), "{program} {arguments:?} {heard}: {text} {errors}");
    true
}

const KEY: &str = "30313233343536373839616263646566";

#[test]
fn openssl_is_echoed_with_every_psk_suite_it_has() {
    for (cipher, suite) in [
        ("PSK-AES128-CCM8", "TLS_PSK_WITH_AES_128_CCM_8"),
        ("PSK-AES128-CCM", "TLS_PSK_WITH_AES_128_CCM"),
        ("PSK-AES128-GCM-SHA256", "TLS_PSK_WITH_AES_128_GCM_SHA256"),
        ("PSK-CHACHA20-POLY1305", "TLS_PSK_WITH_CHACHA20_POLY1305_SHA256"),
        ("ECDHE-PSK-CHACHA20-POLY1305", "TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256"),
    ] {
        let server = Server::start();
        let connect = format!("127.0.0.1:{}", server.port);
        let cipher = format!("{cipher}:@SECLEVEL=0");
        let arguments =
            ["s_client", "-dtls1_2", "-quiet", "-no_ign_eof", "-psk_identity", "dev-1", "-psk", KEY];
        let arguments = [&arguments[..], &["-cipher", &cipher, "-connect", &connect]].concat();
        if echo(&server, "openssl", &arguments) {
            assert_eq!(server.seen().sessions[0], (suite, true));
        }
    }
}

#[test]
fn gnutls_is_echoed_with_every_psk_suite_it_has_with_and_without_ems() {
    for (exchange, cipher, suite) in [
        ("PSK", "AES-128-CCM-8", "TLS_PSK_WITH_AES_128_CCM_8"),
        ("PSK", "AES-128-CCM", "TLS_PSK_WITH_AES_128_CCM"),
        ("PSK", "AES-128-GCM", "TLS_PSK_WITH_AES_128_GCM_SHA256"),
        ("PSK", "CHACHA20-POLY1305", "TLS_PSK_WITH_CHACHA20_POLY1305_SHA256"),
        ("ECDHE-PSK", "CHACHA20-POLY1305", "TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256"),
    ] {
        for ems in [true, false] {
            let server = Server::start();
            let hash = if ems { "" } else { ":%NO_SESSION_HASH" };
            let priority =
                format!("NORMAL:-VERS-ALL:+VERS-DTLS1.2:-KX-ALL:+{exchange}:-CIPHER-ALL:+{cipher}{hash}");
            let port = server.port.to_string();
            let arguments = ["--udp", "--pskusername", "dev-1", "--pskkey", KEY, "--priority", &priority];
            let arguments = [&arguments[..], &["--port", &port, "127.0.0.1"]].concat();
            if exchange == "ECDHE-PSK" {
                // gnutls-cli 3.7 crashes when it shows such a session, with any server.
                let Some(mut client) = start("gnutls-cli", &arguments) else { continue };
                assert!(server.wait(|seen| seen.sessions == [(suite, ems)]), "{:?}", server.seen().failed);
                let _ = client.kill();
                let _ = client.wait();
            } else if echo(&server, "gnutls-cli", &arguments) {
                assert_eq!(server.seen().sessions[0], (suite, ems));
            }
        }
    }
}

/// Files of a device: a chain of four certificates under the root, and its key.
struct Files {
    folder: PathBuf,
    certificates: Certificates,
}

impl Files {
    fn new(p384: bool) -> Files {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique =
            format!("tombolo-dtls-server-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&folder).unwrap();
        let algorithm = if p384 { &rcgen::PKCS_ECDSA_P384_SHA384 } else { &rcgen::PKCS_ECDSA_P256_SHA256 };
        let root = authority("root", None);
        let one = authority("one", Some(&root));
        let two = authority("two", Some(&one));
        let three = authority("three", Some(&two));
        let key = KeyPair::generate_for(algorithm).unwrap();
        let device = device_params("door-7").signed_by(&key, &three).unwrap();
        let chain = device.pem() + &three.pem() + &two.pem() + &one.pem();
        std::fs::write(folder.join("chain.pem"), chain).unwrap();
        std::fs::write(folder.join("device.key"), key.serialize_pem()).unwrap();
        std::fs::write(folder.join("root.pem"), root.pem()).unwrap();
        std::fs::write(folder.join("public.pem"), key.public_key_pem()).unwrap();
        let server_key = KeyPair::generate_for(algorithm).unwrap();
        let names = ["localhost".to_owned()];
        let server = CertificateParams::new(names).unwrap().signed_by(&server_key, &root).unwrap();
        let server = ServerKey::new(vec![server.der().to_vec()], &server_key.serialize_der()).unwrap();
        let raw = [hash(&key.subject_public_key_info())];
        let trust = Trust::new(vec![root.der().to_vec()], Vec::new(), &[], raw).unwrap();
        let certificates = Certificates { key: Some(Arc::new(server)), trust: Arc::new(trust) };
        Files { folder, certificates }
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn openssl_is_echoed_with_a_chain_of_four_certificates_in_every_suite_and_size() {
    for (cipher, suite, p384, more) in [
        ("ECDHE-ECDSA-AES128-CCM8", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8", false, &[][..]),
        ("ECDHE-ECDSA-AES128-CCM", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM", false, &["-mtu", "300"]),
        ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", true, &[]),
        (
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            false,
            &["-maxfraglen", "512"],
        ),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", false, &[]),
    ] {
        let files = Files::new(p384);
        let server = Server::with(Settings { mtu: 300, ..Settings::default() }, files.certificates.clone());
        let connect = format!("127.0.0.1:{}", server.port);
        let cipher = format!("{cipher}:@SECLEVEL=0");
        let (chain, key, root) = (files.path("chain.pem"), files.path("device.key"), files.path("root.pem"));
        let arguments =
            ["s_client", "-dtls1_2", "-quiet", "-no_ign_eof", "-cipher", &cipher, "-connect", &connect];
        let mine =
            ["-cert", &chain, "-cert_chain", &chain, "-key", &key, "-CAfile", &root, "-verify_return_error"];
        if echo(&server, "openssl", &[&arguments[..], &mine, more].concat()) {
            assert_eq!(server.seen().sessions[0], (suite, true));
            let PeerIdentity::Certificate(facts) = server.seen().identities[0].clone() else { panic!() };
            assert_eq!(facts.uris[..], ["urn:dev:door-7".into()]);
        }
    }
}

#[test]
fn gnutls_is_echoed_with_certificates_and_with_raw_public_keys() {
    for (raw, cipher, suite) in [
        (false, "AES-128-CCM-8", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8"),
        (false, "AES-128-GCM", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
        (true, "AES-128-CCM-8", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8"),
        (true, "AES-128-CCM", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM"),
    ] {
        let files = Files::new(false);
        let server = Server::with(Settings::default(), files.certificates.clone());
        let types = if raw { ":-CTYPE-ALL:+CTYPE-CLI-RAWPK:+CTYPE-SRV-RAWPK" } else { "" };
        let priority =
            format!("NORMAL:-VERS-ALL:+VERS-DTLS1.2:-KX-ALL:+ECDHE-ECDSA:-CIPHER-ALL:+{cipher}{types}");
        let port = server.port.to_string();
        let (chain, key, root) = (files.path("chain.pem"), files.path("device.key"), files.path("root.pem"));
        let public = files.path("public.pem");
        let credentials: &[&str] = match raw {
            true => &["--rawpkfile", &public, "--rawpkkeyfile", &key, "--no-ca-verification"],
            false => &["--x509certfile", &chain, "--x509keyfile", &key, "--x509cafile", &root],
        };
        let arguments = ["--udp", "--priority", &priority, "--port", &port];
        if echo(&server, "gnutls-cli", &[&arguments[..], credentials, &["localhost"]].concat()) {
            assert_eq!(server.seen().sessions[0], (suite, true));
            let identity = server.seen().identities[0].clone();
            assert_eq!(matches!(identity, PeerIdentity::RawPublicKey(_)), raw);
        }
    }
}

#[test]
fn openssl_without_a_certificate_is_named() {
    let files = Files::new(false);
    let server = Server::with(Settings::default(), files.certificates.clone());
    let connect = format!("127.0.0.1:{}", server.port);
    let arguments =
        ["s_client", "-dtls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256", "-connect", &connect];
    let Some(client) = start("openssl", &arguments) else { return };
    let output = client.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("handshake failure"), "the client is told: {text}");
    assert!(server.wait(|seen| !seen.failed.is_empty()));
    let failed = server.seen().failed[0].to_string();
    assert_eq!(failed, "client's certificate refused: the client has none");
}

#[test]
fn openssl_without_our_suite_is_named_with_what_it_offered() {
    let server = Server::start();
    let connect = format!("127.0.0.1:{}", server.port);
    let arguments = ["s_client", "-dtls1_2", "-psk_identity", "dev-1", "-psk", "30", "-cipher"];
    let arguments = [&arguments[..], &["PSK-AES256-GCM-SHA384", "-connect", &connect]].concat();
    let Some(client) = start("openssl", &arguments) else { return };
    let output = client.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("handshake failure"), "the client is told: {text}");
    let failed = server.seen().failed.clone();
    assert_eq!(failed[0].to_string(), "no shared cipher suite (offered TLS_PSK_WITH_AES_256_GCM_SHA384)");
}
