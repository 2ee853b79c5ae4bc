//! Real clients over loopback: what our own client agrees with us on need not be what others do.
//!
//! A client that is not installed is passed over, unless `TOMBOLO_TEST_PEERS=all`, as `tests/run`
//! sets it. What `tests/run peers` builds is found in `target/peers/bin`: clients in Python, and
//! those of `foreign/`.

mod coap;
mod gnutls;
mod mbedtls;
mod openssl;
mod restart;
mod tinydtls;
mod wolfssl;

use std::io::{BufRead as _, BufReader, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use tombolo::clock::UnixTime;
use tombolo::proto::Route;
use tombolo::proto::dtls::server::export::{Origin, Purpose, StoreKey};
use tombolo::proto::dtls::server::{Certificates, Clock, ServerKey, Settings, Trust};
use tombolo::proto::dtls::{
    CloseCause, Engine, HandshakeFailure, Keyring, PeerIdentity, ServerEngine, SessionId, SessionInfo, Sink,
};

use crate::world::{YEAR_2026, authority, device_params, hash};

const PATIENCE: Duration = Duration::from_secs(60);

/// An engine on a socket of its own. It answers CoAP requests with 2.05 and echoes anything else.
struct Server {
    port: u16,
    seen: Arc<Watched>,
    stop: Arc<AtomicBool>,
    /// How often it is to be replaced by another that has only what was stored.
    restarts: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

/// What the engine says of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    suite: &'static str,
    extended_master_secret: bool,
    connection_id: bool,
}

/// A session without a connection id.
fn shown(suite: &'static str, extended_master_secret: bool) -> Shown {
    Shown { suite, extended_master_secret, connection_id: false }
}

#[derive(Default)]
struct Seen {
    identities: Vec<PeerIdentity>,
    sessions: Vec<Shown>,
    moves: usize,
    data: Vec<Vec<u8>>,
    closed: Vec<CloseCause>,
    failed: Vec<HandshakeFailure>,
    restarts: u32,
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
    fn moved(&mut self, _: SessionId, _: &Route) {
        self.seen.note(|seen| seen.moves += 1);
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
        let restarts = Arc::new(AtomicU32::new(0));
        let (its_seen, its_stop, its_restarts) = (seen.clone(), stop.clone(), restarts.clone());
        let thread = std::thread::spawn(move || {
            serve(&socket, &its_seen, &its_stop, &its_restarts, settings, certificates);
        });
        Server { port, seen, stop, restarts, thread: Some(thread) }
    }

    /// Goes on as the next process does after a power cut; meanwhile nothing answers at its port,
    /// not even the system.
    fn restart(&self) {
        let wanted = self.restarts.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(self.wait(|seen| seen.restarts == wanted));
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
    restarts: &AtomicU32,
    settings: Settings,
    certificates: Certificates,
) {
    let start = |run: u32| {
        let keys = Keyring::new([(*b"dev-1", *b"0123456789abcdef")]);
        let (settings, certificates) = (settings.clone(), certificates.clone());
        let mut engine =
            ServerEngine::new(Instant::now(), settings, keys, certificates, &[3 + run as u8; 32]);
        engine.set_clock(Clock { time: UnixTime::from_secs(YEAR_2026), trusted: true });
        engine
    };
    let (mut engine, mut run) = (start(0), 0);
    let mut shell = Shell { socket, seen, answers: Vec::new() };
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        if restarts.load(Ordering::Relaxed) > run {
            run += 1;
            let (now, key) = (Instant::now(), StoreKey::new(&[1; 32]));
            let mut sessions = Vec::new();
            engine.sessions(&mut |info| sessions.push(info.session));
            let stored =
                sessions.into_iter().filter_map(|session| engine.export(now, &key, session, Purpose::Store));
            let stored: Vec<Vec<u8>> = stored.collect();
            engine = start(run);
            for sealed in stored {
                engine.import(now, &key, &sealed, Origin::Store { runs: 1 }, &mut shell).expect("an import");
            }
            seen.note(|seen| seen.restarts = run);
        }
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
        engine.sessions(&mut |info| {
            let SessionInfo { suite, extended_master_secret, connection_id, .. } = info;
            sessions.push(Shown { suite, extended_master_secret, connection_id });
        });
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

/// A client that sends what comes in on its standard input, and prints what comes back.
struct Talk {
    client: Child,
    lines: mpsc::Receiver<String>,
    reader: JoinHandle<()>,
    called: String,
}

impl Talk {
    /// Starts a client, if there is one, and sees it through its handshake.
    fn begin(server: &Server, program: &str, arguments: &[&str]) -> Option<Talk> {
        let mut client = start(program, arguments)?;
        let output = BufReader::new(client.stdout.take().unwrap());
        let (line, lines) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            let _ = output.lines().map_while(Result::ok).try_for_each(|text| line.send(text));
        });
        let talk = Talk { client, lines, reader, called: format!("{program} {arguments:?}") };
        server.wait(|seen| !seen.identities.is_empty() || !seen.failed.is_empty());
        let failed = format!("{:?}", server.seen().failed);
        let is_in = !server.seen().identities.is_empty();
        if !is_in {
            talk.give_up(&format!("no handshake: {failed}"));
        }
        Some(talk)
    }

    /// It sends a line of its own, and prints what the server echoes.
    fn echo(mut self, server: &Server, line: &str) -> Talk {
        let data = format!("{line}\n").into_bytes();
        self.client.stdin.as_mut().unwrap().write_all(&data).unwrap();
        if !server.wait(|seen| seen.data.contains(&data)) {
            self.give_up(&format!("{line:?} did not come"));
        }
        let mut text = String::new();
        while !text.contains(line) {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(more) => text += &more,
                Err(_) => self.give_up(&format!("{line:?} did not come back, but {text:?}")),
            }
        }
        self
    }

    /// Its input ends, and so does it. Returns what it said on standard error.
    fn end(mut self) -> String {
        drop(self.client.stdin.take());
        let output = self.client.wait_with_output().unwrap();
        self.reader.join().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// For a client that does not go by itself.
    fn kill(mut self) -> String {
        let _ = self.client.kill();
        self.end()
    }

    fn give_up(self, why: &str) -> ! {
        let called = self.called.clone();
        panic!("{called}: {why}: {}", self.kill())
    }
}

/// One line there and back. Returns whether there is such a client.
fn echo(server: &Server, program: &str, arguments: &[&str]) -> bool {
    let talk = Talk::begin(server, program, arguments);
    talk.map(|talk| talk.echo(server, "hello tombolo").end()).is_some()
}

/// The key of dev-1.
const KEY: &str = "30313233343536373839616263646566";

/// Files of a device: a chain of four certificates under the root, and its key. The server has such
/// a chain too.
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
        let above = three.pem() + &two.pem() + &one.pem();
        std::fs::write(folder.join("chain.pem"), device.pem() + &above).unwrap();
        // For clients that take the device's own apart.
        std::fs::write(folder.join("above.pem"), above).unwrap();
        std::fs::write(folder.join("device.key"), key.serialize_pem()).unwrap();
        std::fs::write(folder.join("root.pem"), root.pem()).unwrap();
        std::fs::write(folder.join("public.pem"), key.public_key_pem()).unwrap();
        let server_key = KeyPair::generate_for(algorithm).unwrap();
        let names = ["localhost".to_owned()];
        let server = CertificateParams::new(names).unwrap().signed_by(&server_key, &three).unwrap();
        let chain = [server.der(), three.der(), two.der(), one.der()].map(|der| der.to_vec());
        let server = ServerKey::new(chain.to_vec(), &server_key.serialize_der()).unwrap();
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
