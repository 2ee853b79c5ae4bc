//! Ten thousand sessions from one process to the next over a real disk.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tombolo::proto::Route;
use tombolo::proto::dtls::server::export::{Origin, Purpose, StoreKey};
use tombolo::proto::dtls::server::{Certificates, Settings};
use tombolo::proto::dtls::{
    CloseCause, Engine, HandshakeFailure, Keyring, Limits, PeerIdentity, ServerEngine, SessionId, Sink,
};
use tombolo::session_store::io::{Opened, Store, leave_handover, take_handover};
use tombolo::session_store::session_numbers::SessionNumbers;

use crate::real::Folder;
use tombolo_test_support::dtls::client::{Client, Config};

const COUNT: usize = 10_000;

#[derive(Default)]
struct Recorder {
    sent: Vec<Vec<u8>>,
    connected: Vec<(SessionId, PeerIdentity)>,
    data: usize,
}

impl Sink for Recorder {
    fn transmit(&mut self, _: &Route, datagram: &[u8]) {
        self.sent.push(datagram.to_vec());
    }
    fn connected(&mut self, session: SessionId, _: &Route, identity: &PeerIdentity) {
        self.connected.push((session, identity.clone()));
    }
    fn data(&mut self, _: SessionId, _: &[u8]) {
        self.data += 1;
    }
    fn closed(&mut self, _: SessionId, cause: CloseCause) {
        panic!("{cause:?}");
    }
    fn failed(&mut self, _: &Route, failure: &HandshakeFailure) {
        panic!("{failure}");
    }
}

fn route(n: usize) -> Route {
    let [_, _, high, low] = (n as u32).to_be_bytes();
    Route { remote: SocketAddr::from(([10, 0, high, low], 5_684)), local: None, socket: 0 }
}

fn identity(n: usize) -> String {
    format!("device-{n}")
}

fn engine(now: Instant, keyring: &Keyring, seed: u8) -> ServerEngine {
    let limits = Limits::new(COUNT, 1_024, Duration::from_secs(86_400));
    let settings = Settings { limits, ..Settings::default() };
    ServerEngine::new(now, settings, keyring.clone(), Certificates::default(), &[seed; 32])
}

fn restored(
    engine: &mut ServerEngine,
    recorder: &mut Recorder,
    now: Instant,
    key: &StoreKey,
    sealed: &[u8],
    origin: Origin,
) {
    engine.import(now, key, sealed, origin, recorder).expect("it is taken over");
}

#[test]
fn ten_thousand_sessions_are_taken_over_from_the_store_and_from_a_handover() {
    let now = Instant::now();
    let keyring = Keyring::new((0..COUNT).map(|n| (identity(n).into_bytes(), b"0123456789abcdef".to_vec())));
    let folder = Folder::new();
    let path = folder.0.join("sessions");
    let Opened { mut store, key, next, .. } = Store::open(&path).unwrap();
    let mut numbers = SessionNumbers::new(next);
    let (mut first, mut recorder, mut clients) = (engine(now, &keyring, 1), Recorder::default(), Vec::new());
    // One a millisecond: the engine looks at 5,000 hellos of strangers a second.
    let begun = now;
    for n in 0..COUNT {
        let now = begun + Duration::from_millis(n as u64);
        let mut client = Client::new(Config::psk(&identity(n), "0123456789abcdef"));
        let mut up = client.start(now);
        while !up.is_empty() {
            for datagram in &mut up {
                first.handle_datagram(now, route(n), datagram, &mut recorder);
            }
            let sent = std::mem::take(&mut recorder.sent);
            up = sent.iter().flat_map(|datagram| client.handle_datagram(now, datagram)).collect();
        }
        let (session, _) = recorder.connected.pop().expect("a session");
        numbers.established(session, first.export(now, &key, session, Purpose::Store).unwrap());
        store.submit(numbers.batch().unwrap());
        clients.push(client);
    }
    let now = begun + Duration::from_millis(COUNT as u64);
    store.close();
    let status = store.status();
    assert_eq!(status.stored, COUNT);
    let mut handed = Vec::new();
    let mut sessions = Vec::new();
    first.sessions(&mut |info| sessions.push(info.session));
    for session in sessions {
        let sealed = first.export(now, &key, session, Purpose::Handover).unwrap();
        handed.push((numbers.number(session).unwrap(), sealed));
    }
    drop((first, store));

    // As after a power cut.
    let begin = Instant::now();
    let Opened { store, key, kept, run, .. } = Store::open(&path).unwrap();
    let opened = begin.elapsed();
    let mut second = engine(now, &keyring, 2);
    recorder.connected.clear();
    for kept in &kept {
        let origin = Origin::Store { runs: run - kept.run };
        restored(&mut second, &mut recorder, now, &key, &kept.sealed, origin);
    }
    let imported = begin.elapsed() - opened;
    assert_eq!(second.session_count(), COUNT);
    for (n, (_, known)) in recorder.connected.iter().enumerate() {
        assert_eq!(
            *known,
            PeerIdentity::Psk(identity(n).into_bytes().into()),
            "in the order of their handshakes"
        );
    }
    println!(
        "{} bytes, {} written; opened in {opened:?}, taken over in {imported:?}",
        status.bytes, status.written
    );
    drop(store);

    // As after a restart of the service.
    let memory = Folder::below("/dev/shm");
    assert!(leave_handover(&memory.0, &[1; 16], &handed).unwrap());
    let begin = Instant::now();
    let taken = take_handover(&memory.0, Some(&[1; 16]));
    assert_eq!(taken, handed);
    let mut third = engine(now, &keyring, 3);
    for (_, sealed) in &taken {
        restored(&mut third, &mut recorder, now, &key, sealed, Origin::Handover);
    }
    println!("handed over in {:?}", begin.elapsed());
    for (n, client) in clients.iter_mut().enumerate() {
        let mut record = client.send(b"x");
        third.handle_datagram(now, route(n), &mut record, &mut recorder);
    }
    assert_eq!(recorder.data, COUNT);
}
