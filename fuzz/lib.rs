//! An engine of our own with two devices, for the targets: the first has a connection id, the
//! second none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tombolo::clock::UnixTime;
use tombolo::proto::dtls::server::export::{ImportError, Origin, Purpose, StoreKey};
use tombolo::proto::dtls::server::{Certificates, Clock, ServerKey, Settings, Trust};
use tombolo::proto::dtls::{CloseCause, Engine, HandshakeFailure, Keyring, Limits, ServerEngine, SessionId};
use tombolo_test_support::dtls::client::{Client, Config, Own};
use tombolo_test_support::dtls::{Chain, Recorder, Told, YEAR_2026, device_params, own, route, server_key};

pub struct World {
    pub now: Instant,
    pub engine: ServerEngine,
    pub clients: [Client; 2],
    pub ports: [u16; 2],
    pub sessions: [SessionId; 2],
    recorder: Recorder,
    rounds: u64,
}

fn config(device: usize) -> Config {
    let cid = (device == 0).then(|| vec![1, 2, 3]);
    Config { cid, ..Config::psk(["one", "two"][device], ["key-one", "key-two"][device]) }
}

/// A device whose chain is four certificates below a root, and the gateway's own.
pub struct Authorities {
    root: Vec<u8>,
    server: Arc<ServerKey>,
    /// What the device shows.
    pub device: Arc<Own>,
}

impl Authorities {
    pub fn new() -> Authorities {
        let issuers = Chain::new();
        let device = own(device_params("door-7"), issuers.lowest(), &issuers.above_der(), false);
        let server = server_key(&issuers.root, false);
        Authorities { root: issuers.root.der().to_vec(), server, device }
    }

    pub fn certificates(&self) -> Certificates {
        let trust = Trust::new(vec![self.root.clone()], Vec::new(), &[], [[7; 32]]).expect("a trust");
        Certificates { key: Some(self.server.clone()), trust: trust.into() }
    }
}

impl World {
    pub fn new(now: Instant) -> World {
        World::with(now, Authorities::new().certificates())
    }

    pub fn with(now: Instant, certificates: Certificates) -> World {
        let keyring = Keyring::new([(*b"one", *b"key-one"), (*b"two", *b"key-two")]);
        let limits = Limits {
            half_open: 8,
            half_open_per_source: 6,
            handshakes_burst: u32::MAX,
            hellos_per_second: u32::MAX,
            hellos_per_source: u32::MAX,
            work_burst: u32::MAX,
            ..Limits::default()
        };
        let settings = Settings { limits, mtu: 300, ..Settings::default() };
        let mut engine = ServerEngine::new(now, settings, keyring, certificates, &[1; 32]);
        engine.set_clock(Clock { time: UnixTime::from_secs(YEAR_2026), trusted: true });
        let mut world = World {
            now,
            engine,
            clients: [0, 1].map(|device| Client::new(config(device))),
            ports: [1, 2],
            sessions: [SessionId(0); 2],
            recorder: Recorder { max_handshakes: u32::MAX, ..Recorder::default() },
            rounds: 0,
        };
        for device in 0..2 {
            world.join_again(device, &[]);
            assert!(world.clients[device].connected, "the first handshakes are undisturbed");
        }
        world
    }

    /// Takes what the engine said of this kind. No handshake may have failed by a defect.
    fn take(&mut self, is_wanted: impl Fn(&Told) -> bool) -> Vec<Told> {
        self.recorder.told.retain(|told| {
            let Told::Failed(_, failure) = told else { return true };
            assert_ne!(*failure, HandshakeFailure::Fault);
            let _ = failure.to_string();
            false
        });
        self.recorder.told.extract_if(.., |told| is_wanted(told)).collect()
    }

    /// Which sessions are over.
    fn closed(&mut self) -> Vec<(SessionId, CloseCause)> {
        let closed = self.take(|told| matches!(told, Told::Closed(..)));
        closed
            .into_iter()
            .filter_map(|told| if let Told::Closed(id, cause) = told { Some((id, cause)) } else { None })
            .collect()
    }

    /// Which sessions began, and at what port.
    fn connected(&mut self) -> Vec<(SessionId, u16)> {
        let connected = self.take(|told| matches!(told, Told::Connected(..)));
        connected
            .into_iter()
            .filter_map(|told| if let Told::Connected(id, at, _) = told { Some((id, at)) } else { None })
            .collect()
    }

    pub fn inject(&mut self, port: u16, datagram: &[u8]) -> Vec<Vec<u8>> {
        self.recorder.sent.clear();
        self.engine.handle_datagram(self.now, route(port), &mut datagram.to_vec(), &mut self.recorder);
        self.take(|_| false);
        self.recorder.sent.drain(..).filter(|sent| sent.0.remote.port() == port).map(|sent| sent.1).collect()
    }

    /// The input delivered no data, and moved or closed no session.
    pub fn expect_silence(&mut self) {
        assert_eq!(self.take(|_| true), []);
    }

    pub fn forget(&mut self) {
        self.take(|told| matches!(told, Told::Data(..) | Told::Moved(..)));
        for device in 0..2 {
            self.engine.confirm_address(self.sessions[device]);
        }
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.engine.handle_timeout(self.now, &mut self.recorder);
        assert!(self.engine.poll_timeout().is_none_or(|deadline| deadline > self.now));
        self.recorder.sent.clear();
    }

    /// A device handshakes anew from where it is; `forged` comes from its address before each of
    /// its flights.
    pub fn join_again(&mut self, device: usize, forged: &[u8]) {
        let port = self.ports[device];
        let mut client = Client::new(config(device));
        let mut up = client.start(self.now);
        let mut rounds = 0;
        while !up.is_empty() && !client.connected && rounds < 10 {
            rounds += 1;
            if !forged.is_empty() {
                self.inject(port, forged);
            }
            let down: Vec<_> = up.iter().flat_map(|datagram| self.inject(port, datagram)).collect();
            up = down.iter().flat_map(|datagram| client.handle_datagram(self.now, datagram)).collect();
        }
        // Another device's session at this address, if it has a connection id, stays; so does ours
        // until then.
        for (session, cause) in self.closed() {
            assert_eq!((session, cause), (self.sessions[device], CloseCause::Replaced));
        }
        let connected = self.connected();
        if let Some((session, at)) = connected.last() {
            assert_eq!(*at, port);
            assert!(client.connected);
            if self.sessions[device] != SessionId(0) && self.engine.session(self.sessions[device]).is_some() {
                self.engine.close(self.now, self.sessions[device], &mut self.recorder);
                self.closed();
            }
            self.sessions[device] = *session;
            self.clients[device] = client;
        }
    }

    /// Another than these devices handshakes at a port of its own. Whether it had a session, which
    /// is over then.
    pub fn try_to_join(&mut self, port: u16, config: Config) -> bool {
        let mut client = Client::new(config);
        let mut up = client.start(self.now);
        for _ in 0..4 {
            let down: Vec<_> = up.iter().flat_map(|datagram| self.inject(port, datagram)).collect();
            up = down.iter().flat_map(|datagram| client.handle_datagram(self.now, datagram)).collect();
        }
        let connected = self.connected();
        for (session, at) in &connected {
            assert_eq!(*at, port);
            self.engine.close(self.now, *session, &mut self.recorder);
        }
        // A handshake that was not finished.
        self.pass(Duration::from_secs(120));
        self.recorder = Recorder::default();
        !connected.is_empty()
    }

    /// The first device is somewhere else now.
    pub fn carry(&mut self, port: u16) {
        self.ports[0] = port;
    }

    pub fn export(&mut self, device: usize, key: &StoreKey) -> Option<Vec<u8>> {
        self.engine.export(self.now, key, self.sessions[device], Purpose::Store)
    }

    /// As from the store, and as from the process before.
    pub fn import(&mut self, key: &StoreKey, sealed: &[u8]) -> Result<SessionId, ImportError> {
        self.import_from(key, sealed, Origin::Handover)
            .or_else(|_| self.import_from(key, sealed, Origin::Store { runs: 1 }))
    }

    fn import_from(
        &mut self,
        key: &StoreKey,
        sealed: &[u8],
        origin: Origin,
    ) -> Result<SessionId, ImportError> {
        let imported = self.engine.import(self.now, key, sealed, origin, &mut self.recorder);
        self.connected();
        if let Ok(session) = imported {
            assert!(!self.sessions.contains(&session));
            let _ = self.engine.send(self.now, session, b"x", &mut self.recorder);
            self.engine.close(self.now, session, &mut self.recorder);
            self.recorder.sent.clear();
        }
        // One that cannot be resumed is kept for its alert, whatever the import says, and may be
        // replaced by the next.
        let sessions = self.sessions;
        self.take(|told| matches!(told, Told::Closed(session, _) if !sessions.contains(session)));
        imported
    }

    /// Both devices are still heard, each as itself, and still hear.
    pub fn check(&mut self) {
        // Hours of forgeries end a session, as they must (RFC 9147 §4.5.3 counts them so): then all
        // begins anew.
        let closed = self.closed();
        if closed.iter().any(|(_, cause)| *cause == CloseCause::Forgery) {
            *self = World::new(self.now);
        } else {
            assert_eq!(closed, []);
        }
        self.recorder = Recorder::default();
        for device in 0..2 {
            self.rounds += 1;
            let data = self.rounds.to_be_bytes();
            let record = self.clients[device].send(&data);
            self.inject(self.ports[device], &record);
            let heard = self.take(|told| matches!(told, Told::Data(..)));
            assert_eq!(heard, [Told::Data(self.sessions[device], data.to_vec())], "it is not heard");
            self.engine.confirm_address(self.sessions[device]);
            self.engine.send(self.now, self.sessions[device], &data, &mut self.recorder).expect("a session");
            let (to, down) = self.recorder.sent.pop().expect("one datagram");
            assert_eq!(to.remote.port(), self.ports[device]);
            let client = &mut self.clients[device];
            client.received.clear();
            client.nonces.clear();
            client.numbers.clear();
            client.handle_datagram(self.now, &down);
            assert_eq!(client.received, [data.to_vec()]);
        }
        assert_eq!(self.closed(), []);
        assert_eq!(self.engine.counters().faults, 0);
        assert_eq!(self.engine.session_count(), 2);
        assert!(self.engine.half_open_count() <= 8);
        self.recorder = Recorder::default();
    }
}
