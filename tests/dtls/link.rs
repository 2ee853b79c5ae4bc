//! An engine, its clients and the network between them, in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tombolo::proto::dtls::{
    CloseCause, DimplEngine, Engine, HandshakeFailure, Keyring, Limits, PeerIdentity, SessionId, Sink,
};
use tombolo::proto::{Holder, Route};

use crate::client::Client;

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
    Connected(SessionId, u16, Vec<u8>),
    Data(SessionId, Vec<u8>),
    Closed(SessionId, CloseCause),
    Failed(u16, HandshakeFailure),
}

pub struct Recorder {
    pub told: Vec<Told>,
    pub sent: Vec<(Route, Vec<u8>)>,
    /// Sessions any identity may have.
    pub max_sessions: u32,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder { told: Vec::new(), sent: Vec::new(), max_sessions: Holder::SESSIONS }
    }
}

impl Sink for Recorder {
    fn claim(&mut self, identity: &PeerIdentity) -> Option<Holder> {
        let PeerIdentity::Psk(identity) = identity else { panic!("{identity:?}") };
        let number = identity.iter().fold(7, |number, byte| number * 31 + u64::from(*byte));
        (**identity != *b"dev-9999").then_some(Holder { number, max_sessions: self.max_sessions })
    }
    fn transmit(&mut self, route: &Route, datagram: &[u8]) {
        assert!(datagram.len() <= 1_280);
        self.sent.push((*route, datagram.to_vec()));
    }
    fn connected(&mut self, session: SessionId, route: &Route, identity: &PeerIdentity) {
        let PeerIdentity::Psk(identity) = identity else { panic!("{identity:?}") };
        self.told.push(Told::Connected(session, route.remote.port(), identity.to_vec()));
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
}

type Flying = Reverse<(Instant, u64, bool, u16, Vec<u8>)>;

/// See the module. Clients are known by their port.
pub struct World {
    pub now: Instant,
    pub engine: DimplEngine,
    pub clients: BTreeMap<u16, Client>,
    pub network: Network,
    pub recorder: Recorder,
    chance: u64,
    order: u64,
    flying: BinaryHeap<Flying>,
    /// When clients want their timers; one that changed its mind is found out when it is due.
    timers: BTreeSet<(Instant, u16)>,
}

pub fn keyring() -> Keyring {
    Keyring::new((0..10_000).map(|n| (format!("dev-{n}").into_bytes(), format!("key-{n}").into_bytes())))
}

pub fn route(port: u16) -> Route {
    Route { remote: SocketAddr::from(([192, 0, 2, 7], port)), local: None, socket: 0 }
}

impl World {
    pub fn new(limits: Limits, network: Network, seed: u64) -> World {
        let now = Instant::now();
        World {
            now,
            engine: DimplEngine::new(now, limits, keyring(), &[7; 32]).unwrap(),
            clients: BTreeMap::new(),
            network,
            recorder: Recorder::default(),
            chance: seed * 2 + 1,
            order: 0,
            flying: BinaryHeap::new(),
            timers: BTreeSet::new(),
        }
    }

    pub fn fine() -> World {
        World::new(Limits::default(), FINE, 1)
    }

    pub fn chance(&mut self, below: u64) -> u64 {
        self.chance =
            self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 33) % below
    }

    /// A client `dev-{n}` with its own key begins its handshake from port `n`.
    pub fn join(&mut self, n: u16) {
        self.join_as(n, &format!("dev-{n}"), &format!("key-{n}"));
    }

    pub fn join_as(&mut self, port: u16, identity: &str, key: &str) {
        let mut client = Client::new(self.now, identity, key);
        let hello = client.handle_timeout(self.now);
        self.clients.insert(port, client);
        self.upward(port, hello);
    }

    /// The client forgets everything; what was under way to it or from it is lost.
    pub fn reboot(&mut self, port: u16) {
        let now = self.now;
        self.flying.retain(|Reverse(flying)| flying.3 != port);
        let client = self.clients.get_mut(&port).unwrap();
        client.reboot(now);
        let hello = client.handle_timeout(now);
        self.upward(port, hello);
    }

    pub fn client_sends(&mut self, port: u16, data: &[u8]) {
        let out = self.clients.get_mut(&port).unwrap().send(data);
        self.upward(port, out);
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

    /// A client with a session. Returns the session.
    pub fn connected(&mut self, n: u16) -> SessionId {
        self.join(n);
        self.run(Duration::from_secs(1));
        let told = self.told();
        let session = told.iter().find_map(|told| match told {
            Told::Connected(session, port, _) if *port == n => Some(*session),
            _ => None,
        });
        session.unwrap_or_else(|| panic!("{n} did not connect: {told:?}"))
    }

    /// Both directions work.
    pub fn assert_alive(&mut self, port: u16, session: SessionId) {
        self.told();
        self.clients.get_mut(&port).unwrap().received.clear();
        self.client_sends(port, b"up");
        self.run(Duration::from_millis(100));
        let told = self.told();
        assert!(told.contains(&Told::Data(session, b"up".to_vec())), "{told:?}");
        self.engine.send(self.now, session, b"down", &mut self.recorder).unwrap();
        self.run(Duration::from_millis(100));
        assert_eq!(self.clients[&port].received, [b"down".to_vec()]);
    }
}
