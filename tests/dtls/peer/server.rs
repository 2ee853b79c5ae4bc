//! An engine on a socket of its own, and what it was told.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tombolo::clock::UnixTime;
use tombolo::proto::Route;
use tombolo::proto::dtls::server::export::{Origin, Purpose, StoreKey};
use tombolo::proto::dtls::server::{Certificates, Clock, Settings};
use tombolo::proto::dtls::{
    CloseCause, Engine, HandshakeFailure, Keyring, PeerIdentity, ServerEngine, SessionId, SessionInfo, Sink,
};
use tombolo_test_support::PATIENCE;
use tombolo_test_support::dtls::YEAR_2026;

/// An engine on a socket of its own. It answers CoAP requests with 2.05 and echoes anything else.
pub struct Server {
    pub port: u16,
    seen: Arc<Watched>,
    stop: Arc<AtomicBool>,
    /// How often it is to be replaced by another that has only what was stored.
    restarts: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

/// What the engine says of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    pub suite: &'static str,
    pub extended_master_secret: bool,
    pub connection_id: bool,
}

/// A session without a connection id.
pub fn shown(suite: &'static str, extended_master_secret: bool) -> Shown {
    Shown { suite, extended_master_secret, connection_id: false }
}

#[derive(Default)]
pub struct Seen {
    pub identities: Vec<PeerIdentity>,
    pub sessions: Vec<Shown>,
    pub moves: usize,
    pub data: Vec<Vec<u8>>,
    pub closed: Vec<CloseCause>,
    pub failed: Vec<HandshakeFailure>,
    pub restarts: u32,
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
    /// The server of our own.
    pub fn start() -> Server {
        Server::with(Settings::default(), Certificates::default())
    }

    pub fn with(settings: Settings, certificates: Certificates) -> Server {
        Server::around(move |run| {
            let (settings, certificates) = (settings.clone(), certificates.clone());
            let mut engine =
                ServerEngine::new(Instant::now(), settings, keys(), certificates, &[3 + run as u8; 32]);
            engine.set_clock(Clock { time: UnixTime::from_secs(YEAR_2026), trusted: true });
            engine
        })
    }

    /// Any engine, made anew for each run.
    pub fn around<E: Engine>(start: impl Fn(u32) -> E + Send + 'static) -> Server {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let port = socket.local_addr().unwrap().port();
        let (seen, stop) = (Arc::new(Watched::default()), Arc::new(AtomicBool::new(false)));
        let restarts = Arc::new(AtomicU32::new(0));
        let (its_seen, its_stop, its_restarts) = (seen.clone(), stop.clone(), restarts.clone());
        let thread = std::thread::spawn(move || serve(&socket, &its_seen, &its_stop, &its_restarts, start));
        Server { port, seen, stop, restarts, thread: Some(thread) }
    }

    /// Goes on as the next process does after a power cut; meanwhile nothing answers at its port,
    /// not even the system.
    pub fn restart(&self) {
        let wanted = self.restarts.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(self.wait(|seen| seen.restarts == wanted));
    }

    /// Waits until what was seen is as wished.
    pub fn wait(&self, wish: impl Fn(&Seen) -> bool) -> bool {
        let seen = self.seen.seen.lock().unwrap();
        let (_seen, waited) = self.seen.bell.wait_timeout_while(seen, PATIENCE, |seen| !wish(seen)).unwrap();
        !waited.timed_out()
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.seen.lock().unwrap()
    }
}

/// The keys of `dev-1`, the only device.
pub fn keys() -> Keyring {
    Keyring::new([(*b"dev-1", *b"0123456789abcdef")])
}

fn serve<E: Engine>(
    socket: &UdpSocket,
    seen: &Watched,
    stop: &AtomicBool,
    restarts: &AtomicU32,
    start: impl Fn(u32) -> E,
) {
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
