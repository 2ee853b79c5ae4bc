//! An engine of our own with two devices, for the targets: the first has a connection id, the
//! second none.
#![allow(dead_code, reason = "each target uses its part")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use tombolo::clock::UnixTime;
use tombolo::proto::Route;
use tombolo::proto::dtls::server::export::{ImportError, Origin, Purpose, StoreKey};
use tombolo::proto::dtls::server::{Certificates, Clock, ServerKey, Settings, Trust};
use tombolo::proto::dtls::{
    CloseCause, Engine, HandshakeFailure, Keyring, Limits, PeerIdentity, ServerEngine, SessionId, Sink,
};

#[path = "../tests/dtls_server/client.rs"]
pub mod client;

use client::{Client, Config};

#[derive(Default)]
pub struct Recorder {
    sent: Vec<(u16, Vec<u8>)>,
    heard: Vec<(SessionId, Vec<u8>)>,
    connected: Vec<(SessionId, u16)>,
    closed: Vec<(SessionId, CloseCause)>,
    moved: Vec<SessionId>,
}

impl Sink for Recorder {
    fn transmit(&mut self, route: &Route, datagram: &[u8]) {
        self.sent.push((route.remote.port(), datagram.to_vec()));
    }
    fn connected(&mut self, session: SessionId, route: &Route, _: &PeerIdentity) {
        self.connected.push((session, route.remote.port()));
    }
    fn data(&mut self, session: SessionId, plaintext: &[u8]) {
        self.heard.push((session, plaintext.to_vec()));
    }
    fn closed(&mut self, session: SessionId, cause: CloseCause) {
        self.closed.push((session, cause));
    }
    fn failed(&mut self, _: &Route, failure: &HandshakeFailure) {
        assert_ne!(*failure, HandshakeFailure::Fault);
        let _ = failure.to_string();
    }
    fn moved(&mut self, session: SessionId, _: &Route) {
        self.moved.push(session);
    }
}

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

/// A root, three authorities below it, and a device below these, whose chain is the four
/// certificates; and the gateway's own.
pub struct Authorities {
    /// The device's own first.
    pub chain: Vec<Vec<u8>>,
    root: Vec<u8>,
    device: rcgen::KeyPair,
    server: Arc<ServerKey>,
}

impl Authorities {
    pub fn new() -> Authorities {
        let params = |name: &str, is_ca: bool| {
            let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            if is_ca {
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            }
            params
        };
        let key = || rcgen::KeyPair::generate().expect("a key");
        let root = rcgen::CertifiedIssuer::self_signed(params("root", true), key()).expect("a root");
        let mut above = vec![root];
        for name in ["one", "two", "three"] {
            let next = rcgen::CertifiedIssuer::signed_by(params(name, true), key(), &above[above.len() - 1]);
            above.push(next.expect("an authority"));
        }
        let (device, gateway) = (key(), key());
        let own = params("door-7", false).signed_by(&device, &above[3]).expect("a certificate");
        let chain = std::iter::once(own.der().to_vec())
            .chain(above[1..].iter().rev().map(|authority| authority.der().to_vec()))
            .collect();
        let server = params("gateway", false).signed_by(&gateway, &above[0]).expect("a certificate");
        let server = ServerKey::new(vec![server.der().to_vec()], &gateway.serialize_der()).expect("a key");
        Authorities { chain, root: above[0].der().to_vec(), device, server: server.into() }
    }

    pub fn certificates(&self) -> Certificates {
        let trust = Trust::new(vec![self.root.clone()], Vec::new(), &[], [[7; 32]]).expect("a trust");
        Certificates { key: Some(self.server.clone()), trust: trust.into() }
    }

    /// What the device shows.
    pub fn device(&self) -> client::Own {
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
        let pkcs8 = self.device.serialize_der();
        client::Own {
            chain: self.chain.clone(),
            key: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8).expect("a key"),
            spki: rcgen::PublicKeyData::subject_public_key_info(&self.device),
            algorithm: 0x0403,
        }
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
            completed_per_minute: u32::MAX,
            ..Limits::default()
        };
        let settings = Settings { limits, mtu: 300, ..Settings::default() };
        let mut engine = ServerEngine::new(now, settings, keyring, certificates, &[1; 32]);
        engine.set_clock(Clock { time: UnixTime::from_secs(1_780_000_000), trusted: true });
        let mut world = World {
            now,
            engine,
            clients: [0, 1].map(|device| Client::new(config(device))),
            ports: [1, 2],
            sessions: [SessionId(0); 2],
            recorder: Recorder::default(),
            rounds: 0,
        };
        for device in 0..2 {
            world.join_again(device, &[]);
            assert!(world.clients[device].connected, "the first handshakes are undisturbed");
        }
        world
    }

    fn route(port: u16) -> Route {
        Route { remote: ([192, 0, 2, 1], port).into(), local: None, socket: 0 }
    }

    pub fn inject(&mut self, port: u16, datagram: &[u8]) -> Vec<Vec<u8>> {
        self.recorder.sent.clear();
        self.engine.handle_datagram(self.now, World::route(port), &mut datagram.to_vec(), &mut self.recorder);
        self.recorder.sent.drain(..).filter(|sent| sent.0 == port).map(|sent| sent.1).collect()
    }

    /// The input delivered no data, and moved or closed no session.
    pub fn expect_silence(&mut self) {
        assert!(self.recorder.heard.is_empty() && self.recorder.moved.is_empty());
        assert!(self.recorder.closed.is_empty() && self.recorder.connected.is_empty());
    }

    pub fn forget(&mut self) {
        self.recorder.heard.clear();
        self.recorder.moved.clear();
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
        for (session, cause) in std::mem::take(&mut self.recorder.closed) {
            assert_eq!((session, cause), (self.sessions[device], CloseCause::Replaced));
        }
        let connected = std::mem::take(&mut self.recorder.connected);
        if let Some((session, at)) = connected.last() {
            assert_eq!(*at, port);
            assert!(client.connected);
            if self.sessions[device] != SessionId(0) && self.engine.session(self.sessions[device]).is_some() {
                self.engine.close(self.now, self.sessions[device], &mut self.recorder);
                self.recorder.closed.clear();
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
        let connected = std::mem::take(&mut self.recorder.connected);
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
        self.recorder.connected.clear();
        if let Ok(session) = imported {
            assert!(!self.sessions.contains(&session));
            let _ = self.engine.send(self.now, session, b"x", &mut self.recorder);
            self.engine.close(self.now, session, &mut self.recorder);
            self.recorder.sent.clear();
        }
        // One that cannot be resumed is kept for its alert, whatever the import says, and may be
        // replaced by the next.
        let sessions = self.sessions;
        self.recorder.closed.retain(|(session, _)| sessions.contains(session));
        imported
    }

    /// Both devices are still heard, each as itself, and still hear.
    pub fn check(&mut self) {
        // Hours of forgeries end a session, as they must (RFC 9147 §4.5.3 counts them so): then all
        // begins anew.
        if self.recorder.closed.iter().any(|(_, cause)| *cause == CloseCause::Forgery) {
            *self = World::new(self.now);
        }
        assert!(self.recorder.closed.is_empty(), "{:?}", self.recorder.closed);
        self.recorder = Recorder::default();
        for device in 0..2 {
            self.rounds += 1;
            let data = self.rounds.to_be_bytes();
            let record = self.clients[device].send(&data);
            self.inject(self.ports[device], &record);
            assert_eq!(self.recorder.heard, [(self.sessions[device], data.to_vec())], "it is not heard");
            self.recorder.heard.clear();
            self.engine.confirm_address(self.sessions[device]);
            self.engine.send(self.now, self.sessions[device], &data, &mut self.recorder).expect("a session");
            let (port, down) = self.recorder.sent.pop().expect("one datagram");
            assert_eq!(port, self.ports[device]);
            let client = &mut self.clients[device];
            client.received.clear();
            client.nonces.clear();
            client.numbers.clear();
            client.handle_datagram(self.now, &down);
            assert_eq!(client.received, [data.to_vec()]);
        }
        assert!(self.recorder.closed.is_empty());
        assert_eq!(self.engine.counters().faults, 0);
        assert_eq!(self.engine.session_count(), 2);
        assert!(self.engine.half_open_count() <= 8);
        self.recorder = Recorder::default();
    }
}
