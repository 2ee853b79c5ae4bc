//! Devices, an engine and its store on a disk that loses power, is put back to older states and is
//! cloned: no nonce comes twice under one key, no record is taken twice, and every device goes on
//! or shakes hands anew.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use tombolo::proto::dtls::server::export::{ImportError, Origin, Purpose, StoreKey};
use tombolo::proto::dtls::server::{Certificates, Settings};
use tombolo::proto::dtls::{Engine, ServerEngine, SessionId};
use tombolo::session_store::log::Log;
use tombolo::session_store::session_numbers::SessionNumbers;
use tombolo::splitmix::SplitMix64;

use tombolo_test_support::dtls::client::{Client, Config};
use tombolo_test_support::dtls::{Recorder, Told, World, engine, route};
use tombolo_test_support::journal::disk::{Cut, FakeDisk};
use tombolo_test_support::session_store::harness::Fake;

const DEVICES: u16 = 6;
/// From where the attacker sends what he has recorded.
const ELSEWHERE: u16 = 40_000;

fn key() -> StoreKey {
    StoreKey::new(&[42; 32])
}

/// What one gateway keeps.
struct Keeping {
    log: Log<Fake>,
    numbers: SessionNumbers,
}

/// Opens the store on `disk` and takes over what is in it, handed over or stored.
fn start(
    engine: &mut ServerEngine,
    recorder: &mut Recorder,
    now: std::time::Instant,
    disk: FakeDisk,
    handed: &[(u64, Vec<u8>)],
) -> Keeping {
    let (mut log, kept, _) = Log::open(Fake(disk)).expect("it opens");
    let _ = log.begin();
    let mut numbers = SessionNumbers::new(log.next_number());
    let mut taken = HashSet::new();
    for (number, sealed) in handed {
        let session = engine.import(now, &key(), sealed, Origin::Handover, recorder).expect("an import");
        numbers.restored(session, *number);
        taken.insert(*number);
    }
    for kept in kept.iter().filter(|kept| !taken.contains(&kept.number)) {
        let origin = Origin::Store { runs: log.run() - kept.run };
        match engine.import(now, &key(), &kept.sealed, origin, recorder) {
            Ok(session) => numbers.restored(session, kept.number),
            // Two that one device made at one address, when the end of the first was lost.
            Err(ImportError::Twice) => numbers.refused(kept.number),
            Err(refused) => panic!("{refused}"),
        }
    }
    recorder.told.clear();
    Keeping { log, numbers }
}

struct Life {
    world: World,
    keeping: Keeping,
    disk: FakeDisk,
    runs: u8,
    /// The records each device of now has sent, by port.
    recorded: BTreeMap<u16, Vec<Vec<u8>>>,
    taken: HashSet<Vec<u8>>,
    next: u64,
    /// Clients that shook hands anew, kept for their nonces.
    gone: Vec<Client>,
    handshakes: u64,
    continued: u64,
}

impl Life {
    fn new() -> Life {
        let mut world = World::fine();
        let disk = FakeDisk::default();
        let now = world.now;
        let keeping = start(&mut world.engine, &mut world.recorder, now, disk.clone(), &[]);
        Life {
            world,
            keeping,
            disk,
            runs: 10,
            recorded: BTreeMap::new(),
            taken: HashSet::new(),
            next: 0,
            gone: Vec::new(),
            handshakes: 0,
            continued: 0,
        }
    }

    /// Lets time pass; devices answer pings; what is delivered is new; the store hears of all, and
    /// may commit.
    fn pass(&mut self, commit: bool) {
        for _ in 0..6 {
            self.world.run(Duration::from_millis(100));
            for port in 1..=DEVICES {
                let Some(client) = self.world.clients.get_mut(&port) else { continue };
                for data in std::mem::take(&mut client.received) {
                    if let [0x40, 0, high, low] = data[..] {
                        self.send(port, &[0x70, 0, high, low]);
                    }
                }
            }
        }
        let mut established = Vec::new();
        for told in self.world.told() {
            match told {
                Told::Connected(session, ..) => established.push(session),
                Told::Closed(session, _) => self.keeping.numbers.closed(session),
                Told::Data(_, payload) if payload[0] == b'n' => {
                    assert!(self.taken.insert(payload), "a record was taken twice");
                }
                _ => {}
            }
        }
        for session in established {
            let now = self.world.now;
            if let Some(sealed) = self.world.engine.export(now, &key(), session, Purpose::Store) {
                self.keeping.numbers.established(session, sealed);
            }
        }
        if commit && let Some(batch) = self.keeping.numbers.batch() {
            let batch = std::mem::take(batch);
            drop(self.keeping.log.commit(&batch));
        }
    }

    fn send(&mut self, port: u16, data: &[u8]) {
        let record = self.world.client(port).send(data);
        self.recorded.entry(port).or_default().push(record.clone());
        self.world.upward(port, vec![record]);
    }

    /// A device sends until something of it arrives; after so many attempts it shakes hands anew.
    fn speak(&mut self, port: u16) {
        for _ in 0..6 {
            if !self.world.clients.contains_key(&port) {
                break;
            }
            self.next += 1;
            let payload = format!("n{}", self.next).into_bytes();
            self.send(port, &payload);
            self.pass(true);
            if self.taken.contains(&payload) {
                self.continued += 1;
                return;
            }
        }
        self.gone.extend(self.world.clients.remove(&port));
        self.recorded.remove(&port);
        let cid = [None, Some(vec![]), Some(vec![port as u8; 3])][usize::from(port) % 3].clone();
        self.world.join(port, Config { cid, ..World::psk(port) });
        self.handshakes += 1;
        self.pass(true);
        assert!(self.world.client(port).connected, "{port} gets no session");
        self.next += 1;
        let payload = format!("n{}", self.next).into_bytes();
        self.send(port, &payload);
        self.pass(true);
        assert!(self.taken.contains(&payload), "{port} is not heard in its new session");
    }

    /// All that was ever sent comes once more, from its own address and from another.
    fn replay(&mut self) {
        for (port, records) in self.recorded.clone() {
            for record in records {
                for from in [port, ELSEWHERE] {
                    self.world.inject(from, &record);
                }
            }
        }
        self.pass(true);
    }

    /// This process is gone; another begins with what is on `disk`.
    fn restart(&mut self, disk: FakeDisk, handed: &[(u64, Vec<u8>)]) {
        self.runs += 1;
        let now = self.world.now;
        self.world.engine = engine(now, Settings::default(), Certificates::default(), self.runs);
        self.world.recorder.sent.clear();
        self.keeping = start(&mut self.world.engine, &mut self.world.recorder, now, disk.clone(), handed);
        self.disk = disk;
    }

    fn hand_over(&mut self) -> Vec<(u64, Vec<u8>)> {
        let mut sessions: Vec<SessionId> = Vec::new();
        self.world.engine.sessions(&mut |info| sessions.push(info.session));
        let now = self.world.now;
        sessions
            .into_iter()
            .filter_map(|session| {
                let number = self.keeping.numbers.number(session)?;
                Some((number, self.world.engine.export(now, &key(), session, Purpose::Handover)?))
            })
            .collect()
    }

    /// A twin of this gateway, from a copy of its card, is sent all that devices send from now on,
    /// and its answers reach them.
    fn twin(&mut self, image: FakeDisk, seed: u8) {
        let now = self.world.now;
        let mut other = engine(now, Settings::default(), Certificates::default(), seed);
        let mut recorder = Recorder::default();
        start(&mut other, &mut recorder, now, image, &[]);
        for port in 1..=DEVICES {
            self.world.client(port).received.clear();
            for _ in 0..4 {
                let mut up = vec![self.world.client(port).send(b"to whom it may concern")];
                while let Some(mut record) = up.pop() {
                    self.world.inject(port, &record);
                    other.handle_datagram(now, route(port), &mut record, &mut recorder);
                    for (_, down) in recorder.sent.drain(..) {
                        let client = self.world.client(port);
                        client.handle_datagram(now, &down);
                        for data in std::mem::take(&mut client.received) {
                            if let [0x40, 0, high, low] = data[..] {
                                up.push(client.send(&[0x70, 0, high, low]));
                            }
                        }
                    }
                }
            }
        }
        // What it has to say itself.
        let mut sessions = Vec::new();
        other.sessions(&mut |info| sessions.push(info.session));
        for session in sessions {
            for _ in 0..5 {
                let _ = other.send(now, session, b"from the twin", &mut recorder);
            }
        }
        for (route, down) in recorder.sent.drain(..) {
            if let Some(client) = self.world.clients.get_mut(&route.remote.port()) {
                client.handle_datagram(now, &down);
            }
        }
        self.pass(true);
    }

    fn check_nonces(&self) -> usize {
        let clients = || self.gone.iter().chain(self.world.clients.values());
        for client in clients() {
            let distinct: HashSet<_> = client.nonces.iter().collect();
            assert_eq!(distinct.len(), client.nonces.len(), "a nonce came twice under one key");
        }
        clients().map(|client| client.nonces.len()).sum()
    }
}

#[test]
fn devices_go_on_or_shake_hands_anew_and_nothing_else() {
    for seed in 1..=6u64 {
        let mut life = Life::new();
        let mut random = SplitMix64::new(seed);
        let mut below = move |limit: u64| random.below(limit);
        (1..=DEVICES).for_each(|port| life.speak(port));
        assert_eq!(life.handshakes, u64::from(DEVICES));
        for round in 0..20 {
            let before = life.handshakes;
            match round % 4 {
                0 => {
                    // Some end or begin, and the power goes off somewhere in what is written about
                    // it.
                    life.disk.cut_at(life.disk.operations() + 1 + below(4));
                    for _ in 0..below(4) {
                        let port = 1 + below(u64::from(DEVICES)) as u16;
                        life.gone.extend(life.world.clients.remove(&port));
                        life.recorded.remove(&port);
                        life.speak(port);
                    }
                    let left = life.disk.after_power_cut(Cut::Some(below(1 << 30)));
                    life.restart(left, &[]);
                    life.replay();
                }
                1 => {
                    let left = life.disk.after_power_cut(Cut::Nothing);
                    life.restart(left, &[]);
                    life.replay();
                    (1..=DEVICES).for_each(|port| life.speak(port));
                    assert_eq!(life.handshakes, before, "all was committed: nobody shakes hands");
                }
                2 => {
                    let handed = life.hand_over();
                    assert_eq!(handed.len(), usize::from(DEVICES));
                    let left = life.disk.after_power_cut(Cut::Nothing);
                    life.restart(left, &handed);
                    life.replay();
                    let continued = life.continued;
                    for port in 1..=DEVICES {
                        life.speak(port);
                    }
                    assert_eq!((life.handshakes, life.continued - continued), (before, u64::from(DEVICES)));
                }
                _ => {
                    // A copy of the card; life goes on; the copy is put back.
                    let copy = life.disk.after_power_cut(Cut::Nothing);
                    let twin = life.disk.after_power_cut(Cut::Nothing);
                    life.twin(twin, 200 - round);
                    for _ in 0..below(10) {
                        life.speak(1 + below(u64::from(DEVICES)) as u16);
                    }
                    if below(2) == 0 {
                        let port = 1 + below(u64::from(DEVICES)) as u16;
                        life.gone.extend(life.world.clients.remove(&port));
                        life.recorded.remove(&port);
                        life.speak(port);
                    }
                    life.restart(copy, &[]);
                    life.replay();
                }
            }
            (1..=DEVICES).for_each(|port| life.speak(port));
            life.check_nonces();
        }
        assert!(life.check_nonces() > 300, "{}", life.check_nonces());
        assert!(life.continued > 3 * life.handshakes, "{} {}", life.continued, life.handshakes);
    }
}
