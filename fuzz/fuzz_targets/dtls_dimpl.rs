//! Arbitrary datagrams to the `dimpl` engine: none causes a panic, and none closes the session of a
//! device.
//!
//! One engine handles all inputs. An input is a script: one byte selects the kind of each step.
#![no_main]

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dimpl::{Config, Dtls, Output, PskResolver};
use libfuzzer_sys::fuzz_target;
use tombolo::proto::Route;
use tombolo::proto::dtls::{
    CloseCause, DimplEngine, Engine, HandshakeFailure, Keyring, Limits, PeerIdentity, SessionId, Sink,
};

const KEY: &[u8] = b"0123456789abcdef";
/// The device's port; other ports send arbitrary datagrams.
const DEVICE: u16 = 1;

struct Key;

impl PskResolver for Key {
    fn resolve(&self, _identity: &[u8]) -> Option<Vec<u8>> {
        Some(KEY.to_vec())
    }
}

#[derive(Default)]
struct Recorder {
    sent: Vec<(u16, Vec<u8>)>,
    heard: Vec<Vec<u8>>,
    session: Option<SessionId>,
}

impl Sink for Recorder {
    fn transmit(&mut self, route: &Route, datagram: &[u8]) {
        self.sent.push((route.remote.port(), datagram.to_vec()));
    }
    fn connected(&mut self, session: SessionId, route: &Route, identity: &PeerIdentity) {
        assert_eq!(route.remote.port(), DEVICE);
        assert_eq!(*identity, PeerIdentity::Psk(b"dev"[..].into()));
        assert_eq!(self.session, None, "the one before was closed");
        self.session = Some(session);
    }
    fn data(&mut self, session: SessionId, plaintext: &[u8]) {
        assert_eq!(self.session, Some(session));
        self.heard.push(plaintext.to_vec());
    }
    fn closed(&mut self, session: SessionId, cause: CloseCause) {
        assert_eq!(cause, CloseCause::Replaced);
        assert_eq!(self.session.take(), Some(session));
    }
    fn failed(&mut self, _: &Route, failure: &HandshakeFailure) {
        assert_ne!(*failure, HandshakeFailure::Fault);
        let _ = failure.to_string();
    }
}

struct World {
    now: Instant,
    engine: DimplEngine,
    recorder: Recorder,
    config: Arc<Config>,
    device: Dtls,
    rounds: u64,
}

fn drain(dtls: &mut Dtls) -> (Vec<Vec<u8>>, bool) {
    let (mut scratch, mut out, mut connected) = (vec![0; 65_536], Vec::new(), false);
    loop {
        match dtls.poll_output(&mut scratch) {
            Output::Packet(packet) => out.push(packet.to_vec()),
            Output::Connected => connected = true,
            Output::Timeout(_) => return (out, connected),
            _ => {}
        }
    }
}

impl World {
    fn new() -> World {
        let now = Instant::now();
        let config = Config::builder()
            .with_psk_client(b"dev".to_vec(), Arc::new(Key))
            .dtls13_cipher_suites(&[])
            .build()
            .expect("a client configuration");
        let config = Arc::new(config);
        let keyring = Keyring::new([(*b"dev", KEY.to_vec()), (*b"two", KEY.to_vec())]);
        let limits = Limits {
            half_open: 8,
            half_open_per_source: 6,
            handshakes_burst: u32::MAX,
            hellos_per_second: u32::MAX,
            ..Limits::default()
        };
        let mut world = World {
            now,
            engine: DimplEngine::new(now, limits, keyring, &[1; 32]).expect("an engine"),
            recorder: Recorder::default(),
            device: Dtls::new_12_psk(config.clone(), now),
            config,
            rounds: 0,
        };
        assert!(world.handshake(&[]), "the first handshake is undisturbed");
        world
    }

    fn inject(&mut self, port: u16, datagram: &[u8]) -> Vec<Vec<u8>> {
        let route = Route { remote: ([192, 0, 2, 1], port).into(), local: None, socket: 0 };
        self.engine.handle_datagram(self.now, route, &mut datagram.to_vec(), &mut self.recorder);
        self.recorder.sent.drain(..).filter(|sent| sent.0 == port).map(|sent| sent.1).collect()
    }

    /// The device handshakes anew; `forged` comes from its address before each of its flights.
    fn handshake(&mut self, forged: &[u8]) -> bool {
        let mut device = Dtls::new_12_psk(self.config.clone(), self.now);
        device.set_active(true);
        device.handle_timeout(self.now).expect("a client begins");
        let (mut up, mut connected) = drain(&mut device);
        while !up.is_empty() {
            if !forged.is_empty() {
                self.inject(DEVICE, forged);
            }
            let down: Vec<_> = up.iter().flat_map(|datagram| self.inject(DEVICE, datagram)).collect();
            up.clear();
            for datagram in down {
                if device.handle_packet(&datagram).is_err() {
                    return false;
                }
                let (out, done) = drain(&mut device);
                up.extend(out);
                connected |= done;
            }
        }
        if connected {
            self.device = device;
        }
        connected
    }

    fn genuine(&mut self, data: &[u8]) -> Vec<u8> {
        self.device.send_application_data(data).expect("an open session");
        drain(&mut self.device).0.remove(0)
    }

    fn step(&mut self, kind: u8, bytes: &[u8]) {
        let port = u16::from(kind >> 4);
        match kind & 15 {
            // Anything, from the device's address or another.
            0..=3 => drop(self.inject(DEVICE, bytes)),
            4 => drop(self.inject(2 + port, bytes)),
            // One of the device's own records, changed.
            5 | 6 => {
                let mut record = self.genuine(bytes);
                for change in bytes.chunks_exact(2) {
                    let at = usize::from(change[0]) % record.len();
                    record[at] ^= change[1];
                }
                self.inject(DEVICE, &record);
            }
            // A record with an honest length, so that its content is what counts.
            7..=9 => {
                let [content_type, epoch, sequence, fragment @ ..] = bytes else { return };
                let mut record =
                    vec![20 + content_type % 6, 0xfe, 0xfd, 0, epoch % 3, 0, 0, 0, 0, 0, *sequence];
                record.extend((fragment.len() as u16).to_be_bytes());
                record.extend(fragment);
                self.inject(if kind & 15 == 9 { 2 + port } else { DEVICE }, &record);
            }
            // A hello with a good cookie, and then whatever follows.
            10 | 11 => {
                let port = if kind & 15 == 10 { 2 + port } else { DEVICE };
                let Some((random, rest)) = bytes.split_first() else { return };
                let hello = |cookie: &[u8], sequence: u8| {
                    let mut body = vec![0xfe, 0xfd];
                    body.extend([*random; 32]);
                    body.extend([0, cookie.len() as u8]);
                    body.extend(cookie);
                    body.extend([0, 2, 0xc0, 0xa8, 1, 0, 0, 4, 0, 23, 0, 0]);
                    let mut message =
                        vec![1, 0, 0, body.len() as u8, 0, sequence, 0, 0, 0, 0, 0, body.len() as u8];
                    message.extend(body);
                    let mut record =
                        vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, sequence, 0, message.len() as u8];
                    record.extend(message);
                    record
                };
                let request = self.inject(port, &hello(&[], 0));
                let cookie = &request[0][28..60];
                self.inject(port, &hello(cookie, 1));
                self.inject(port, rest);
                let exchange =
                    b"\x16\xfe\xfd\0\0\0\0\0\0\0\x02\0\x11\x10\0\0\x05\0\x02\0\0\0\0\0\x05\0\x03dev";
                self.inject(port, exchange);
                self.inject(port, rest);
                // And a Finished made without the key.
                if *random & 1 == 1 {
                    self.inject(port, b"\x14\xfe\xfd\0\0\0\0\0\0\0\x03\0\x01\x01");
                    let mut finished = b"\x16\xfe\xfd\0\x01\0\0\0\0\0\0\0\x28".to_vec();
                    finished.extend((0..40).map(|at| rest.get(at).copied().unwrap_or(*random)));
                    self.inject(port, &finished);
                }
            }
            12 => drop(self.handshake(bytes)),
            // Time passes.
            _ => {
                self.now += Duration::from_millis(bytes.len() as u64 * u64::from(port + 1) * 10);
                self.engine.handle_timeout(self.now, &mut self.recorder);
                let deadline = self.engine.poll_timeout().expect("one session waits for its expiry");
                assert!(deadline > self.now);
            }
        }
        self.recorder.heard.clear();
        self.recorder.sent.clear();
    }

    /// The device is still heard, and still hears.
    fn check(&mut self) {
        self.rounds += 1;
        let data = self.rounds.to_be_bytes();
        let record = self.genuine(&data);
        self.inject(DEVICE, &record);
        assert_eq!(self.recorder.heard, [data.to_vec()], "the device is not heard");
        self.recorder.heard.clear();
        let session = self.recorder.session.expect("a session");
        self.engine.send(self.now, session, &data, &mut self.recorder).expect("an open session");
        let (_, down) = self.recorder.sent.pop().expect("one datagram");
        self.device.handle_packet(&down).expect("a good record");
        let mut scratch = vec![0; 65_536];
        assert!(
            matches!(self.device.poll_output(&mut scratch), Output::ApplicationData(heard) if heard == data)
        );
        drain(&mut self.device);
        assert_eq!(self.engine.counters().faults, 0);
        assert_eq!(self.engine.session_count(), 1);
        assert!(self.engine.half_open_count() <= 8);
    }
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::new(World::new());
}

fuzz_target!(|data: &[u8]| {
    WORLD.with_borrow_mut(|world| {
        let mut rest = data;
        while let [kind, length, behind @ ..] = rest {
            let (bytes, behind) = behind.split_at(usize::from(*length).min(behind.len()));
            world.step(*kind, bytes);
            rest = behind;
        }
        world.check();
    });
});
