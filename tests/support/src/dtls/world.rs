//! An engine, its clients and the network between them, in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tombolo::proto::dtls::server::{Certificates, Settings};
use tombolo::proto::dtls::{
    CloseCause, Engine, HandshakeFailure, Keyring, Limits, PeerIdentity, ServerEngine, SessionId, Sink,
};
use tombolo::proto::{Holder, Route};

use super::Start;
use super::client::{Client, Config};
use super::pki::Pki;

/// What the network does to datagrams. Percentages; delays in milliseconds.
#[derive(Clone, Copy)]
pub struct Network {
    pub loss: u64,
    pub duplication: u64,
    pub delay: u64,
    pub jitter: u64,
}

/// Everything arrives once, in order, after 10 ms.
pub const FINE: Network = Network { loss: 0, duplication: 0, delay: 10, jitter: 0 };

/// What the engine's sink was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Connected(SessionId, u16, PeerIdentity),
    Data(SessionId, Vec<u8>),
    Closed(SessionId, CloseCause),
    Failed(u16, HandshakeFailure),
    Moved(SessionId, u16),
}

pub struct Recorder {
    pub told: Vec<Told>,
    pub sent: Vec<(Route, Vec<u8>)>,
    pub largest: usize,
    /// Most bytes a datagram may have; a larger one fails the test.
    pub largest_allowed: usize,
    /// Sessions any identity may have.
    pub max_sessions: u32,
    /// Handshakes any identity may complete a minute.
    pub max_handshakes: u32,
    /// Identities that are no device's, as they are shown.
    pub nobodies: Vec<String>,
    /// Records of sessions that are not known, by port.
    pub unknown: Vec<u16>,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder {
            told: Vec::new(),
            sent: Vec::new(),
            largest: 0,
            largest_allowed: usize::MAX,
            max_sessions: Holder::SESSIONS,
            max_handshakes: Holder::HANDSHAKES,
            nobodies: Vec::new(),
            unknown: Vec::new(),
        }
    }
}

/// An identity's number.
fn number(identity: &PeerIdentity) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    identity.hash(&mut hasher);
    hasher.finish()
}

impl Sink for Recorder {
    fn claim(&mut self, identity: &PeerIdentity) -> Option<Holder> {
        let is_somebody = !self.nobodies.contains(&format!("{identity:?}"));
        is_somebody.then(|| Holder {
            number: number(identity),
            max_sessions: self.max_sessions,
            max_handshakes: self.max_handshakes,
        })
    }
    fn unknown_session(&mut self, route: &Route) {
        self.unknown.push(route.remote.port());
    }
    fn transmit(&mut self, route: &Route, datagram: &[u8]) {
        self.largest = self.largest.max(datagram.len());
        assert!(self.largest <= self.largest_allowed, "{} bytes", self.largest);
        self.sent.push((*route, datagram.to_vec()));
    }
    fn connected(&mut self, session: SessionId, route: &Route, identity: &PeerIdentity) {
        self.told.push(Told::Connected(session, route.remote.port(), identity.clone()));
    }
    fn data(&mut self, session: SessionId, plaintext: &[u8]) {
        self.told.push(Told::Data(session, plaintext.to_vec()));
    }
    fn closed(&mut self, session: SessionId, cause: CloseCause) {
        self.told.push(Told::Closed(session, cause));
    }
    fn failed(&mut self, route: &Route, failure: &HandshakeFailure) {
        self.told.push(Told::Failed(route.remote.port(), failure.clone()));
    }
    fn moved(&mut self, session: SessionId, route: &Route) {
        self.told.push(Told::Moved(session, route.remote.port()));
    }
}

type Flying = Reverse<(Instant, u64, bool, u16, Vec<u8>)>;

/// See the module. Clients are known by their port.
pub struct World<E = ServerEngine> {
    pub now: Instant,
    pub engine: E,
    pub clients: BTreeMap<u16, Client>,
    pub network: Network,
    pub recorder: Recorder,
    chance: u64,
    order: u64,
    flying: BinaryHeap<Flying>,
    /// When clients want their timers; a client whose deadline has changed since is passed over.
    timers: BTreeSet<(Instant, u16)>,
}

/// The keys of `dev-0` to `dev-9999`: `key-0` and so on.
pub fn keyring() -> Keyring {
    static KEYRING: OnceLock<Keyring> = OnceLock::new();
    let pairs = || (0..10_000).map(|n| (format!("dev-{n}").into_bytes(), format!("key-{n}").into_bytes()));
    KEYRING.get_or_init(|| Keyring::new(pairs())).clone()
}

/// Ports from here on are at another address.
pub const ELSEWHERE: u16 = 61_000;

pub fn route(port: u16) -> Route {
    let host = if port >= ELSEWHERE { 9 } else { 7 };
    Route { remote: SocketAddr::from(([192, 0, 2, host], port)), local: None, socket: 0 }
}

/// The client `dev-{n}`, with its key.
pub fn psk(n: u16) -> Config {
    Config::psk(&format!("dev-{n}"), &format!("key-{n}"))
}

impl World<ServerEngine> {
    pub fn new(settings: Settings, certificates: Certificates, network: Network, seed: u64) -> World {
        World::around(|now| super::engine(now, settings, certificates, 7), network, seed)
    }

    pub fn certified(pki: &Pki) -> World {
        World::new(Settings::default(), pki.certificates(), FINE, 1)
    }

    pub fn psk(n: u16) -> Config {
        psk(n)
    }
}

impl<E: Start> World<E> {
    pub fn limited(limits: Limits, network: Network, seed: u64) -> World<E> {
        let mut world = World::around(|now| E::start(now, limits, 7), network, seed);
        world.recorder.largest_allowed = E::LARGEST_DATAGRAM;
        world
    }

    pub fn fine() -> World<E> {
        World::limited(Limits::default(), FINE, 1)
    }
}

impl<E: Engine> World<E> {
    fn around(engine: impl FnOnce(Instant) -> E, network: Network, seed: u64) -> World<E> {
        let now = Instant::now();
        World {
            now,
            engine: engine(now),
            clients: BTreeMap::new(),
            network,
            recorder: Recorder::default(),
            chance: seed * 2 + 1,
            order: 0,
            flying: BinaryHeap::new(),
            timers: BTreeSet::new(),
        }
    }

    pub fn chance(&mut self, below: u64) -> u64 {
        self.chance =
            self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 33) % below
    }

    /// A client begins its handshake from `port`.
    pub fn join(&mut self, port: u16, config: Config) {
        let mut client = Client::new(config);
        let hello = client.start(self.now);
        self.clients.insert(port, client);
        self.upward(port, hello);
    }

    pub fn client(&mut self, port: u16) -> &mut Client {
        self.clients.get_mut(&port).expect("a client")
    }

    /// The client forgets everything; what was under way to it or from it is lost. What the engine
    /// sends on for what it was before, it cannot open.
    pub fn reboot(&mut self, port: u16) {
        self.flying.retain(|Reverse(flying)| flying.3 != port);
        let mut client = Client::new(self.client(port).config.clone());
        client.is_rebooted = true;
        let hello = client.start(self.now);
        self.clients.insert(port, client);
        self.upward(port, hello);
    }

    /// The client goes on from another port; what was under way to the old one is lost.
    pub fn carry(&mut self, from: u16, to: u16) {
        let client = self.clients.remove(&from).expect("a client");
        assert!(self.clients.insert(to, client).is_none());
        self.upward(to, Vec::new());
    }

    pub fn client_sends(&mut self, port: u16, data: &[u8]) {
        let out = self.client(port).send(data);
        self.upward(port, vec![out]);
    }

    /// Datagrams of a client set out for the engine.
    pub fn upward(&mut self, port: u16, datagrams: Vec<Vec<u8>>) {
        for datagram in datagrams {
            self.launch(true, port, datagram);
        }
        self.timers.extend(self.clients.get(&port).and_then(|client| client.deadline).map(|at| (at, port)));
    }

    /// A datagram reaches the engine now, whoever made it. Returns what the engine answers at once.
    pub fn inject(&mut self, port: u16, datagram: &[u8]) -> Vec<Vec<u8>> {
        let before = self.recorder.sent.len();
        self.engine.handle_datagram(self.now, route(port), &mut datagram.to_vec(), &mut self.recorder);
        self.recorder.sent.drain(before..).map(|(_, datagram)| datagram).collect()
    }

    fn launch(&mut self, upward: bool, port: u16, datagram: Vec<u8>) {
        let copies = if self.chance(100) < self.network.duplication { 2 } else { 1 };
        for _ in 0..copies {
            if self.chance(100) < self.network.loss {
                continue;
            }
            let jitter = if self.network.jitter > 0 { self.chance(self.network.jitter) } else { 0 };
            let at = self.now + Duration::from_millis(self.network.delay + jitter);
            self.order += 1;
            self.flying.push(Reverse((at, self.order, upward, port, datagram.clone())));
        }
    }

    /// Lets time pass until `until`, or nothing is left to happen before it.
    pub fn run_until(&mut self, until: Instant) {
        loop {
            for (route, datagram) in std::mem::take(&mut self.recorder.sent) {
                self.launch(false, route.remote.port(), datagram);
            }
            let arrival = self.flying.peek().map(|Reverse(flying)| flying.0);
            let timer = self.timers.first().map(|timer| timer.0);
            let next = [arrival, timer, self.engine.poll_timeout()].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            let now = self.now;
            if arrival.is_some_and(|arrival| arrival <= now) {
                let Reverse((_, _, upward, port, mut datagram)) = self.flying.pop().unwrap();
                if upward {
                    self.engine.handle_datagram(now, route(port), &mut datagram, &mut self.recorder);
                } else if let Some(client) = self.clients.get_mut(&port) {
                    let out = client.handle_datagram(now, &datagram);
                    self.upward(port, out);
                }
                continue;
            }
            while self.timers.first().is_some_and(|timer| timer.0 <= now) {
                let Some((at, port)) = self.timers.pop_first() else { break };
                let Some(client) = self.clients.get_mut(&port) else { continue };
                if client.deadline == Some(at) {
                    let out = client.handle_timeout(now);
                    self.upward(port, out);
                }
            }
            self.engine.handle_timeout(now, &mut self.recorder);
        }
        self.now = self.now.max(until);
        assert_eq!(self.engine.counters().faults, 0);
    }

    pub fn run(&mut self, duration: Duration) {
        self.run_until(self.now + duration);
    }

    pub fn told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.recorder.told)
    }

    /// The session of a client that has joined; panics if there is none within a second.
    pub fn session(&mut self, port: u16) -> SessionId {
        self.run(Duration::from_secs(1));
        let told = self.told();
        let session = told.iter().find_map(|told| match told {
            Told::Connected(session, at, _) if *at == port => Some(*session),
            _ => None,
        });
        let session = session.unwrap_or_else(|| panic!("{port} did not connect: {told:?}"));
        assert!(self.clients[&port].connected);
        session
    }

    pub fn connected(&mut self, port: u16, config: Config) -> SessionId {
        self.join(port, config);
        self.session(port)
    }

    /// Both directions work.
    pub fn assert_alive(&mut self, port: u16, session: SessionId) {
        self.told();
        self.client(port).received.clear();
        self.client_sends(port, b"up");
        self.run(Duration::from_millis(100));
        let told = self.told();
        assert!(told.contains(&Told::Data(session, b"up".to_vec())), "{told:?}");
        self.engine.send(self.now, session, b"down", &mut self.recorder).unwrap();
        self.run(Duration::from_millis(100));
        assert_eq!(self.clients[&port].received, [b"down".to_vec()]);
    }
}
