//! Compares the two DTLS engines through the same trait and with the same client, in one process;
//! then as servers on a UDP socket, together with libcoap's server with OpenSSL ([`process`]).
//!
//! `cargo bench --bench dtls [sessions]`. A handshake is the engine's work from the first hello to
//! the session; an echo is the work of decrypting a record of 64 bytes and encrypting another. The
//! client's work is not counted. Bytes are the engine's memory per session after its device has
//! sent data, without the allocator's overhead. Nothing is sent over a network.

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::{Duration, Instant};

use rcgen::CertificateParams;
use tombolo::clock::UnixTime;
use tombolo::proto::dtls::server::{Certificates, Clock, Settings, Trust};
use tombolo::proto::dtls::{
    CloseCause, Engine, HandshakeFailure, Keyring, Limits, PeerIdentity, ServerEngine, SessionId, Sink,
};
use tombolo::proto::{Holder, Route};
use tombolo_test_support::dtls::client::{self, Client, Config, Own};
use tombolo_test_support::dtls::{Chain, Issuer, YEAR_2026, authority, hash, own, server_key};

mod process;

/// The system's allocator, counting what is held.
struct Counting;

static HELD: AtomicIsize = AtomicIsize::new(0);

// Safety: everything is the system allocator's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size() as isize, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Keeps datagrams in buffers it has already.
#[derive(Default)]
struct Shell {
    sent: Vec<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    session: Option<SessionId>,
    heard: usize,
    /// How many handshakes failed, where that is what is measured.
    refusals: Option<usize>,
}

impl Sink for Shell {
    fn transmit(&mut self, _: &Route, datagram: &[u8]) {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend(datagram);
        self.sent.push(buffer);
    }
    fn claim(&mut self, _: &PeerIdentity) -> Option<Holder> {
        // One certificate for as many sessions as are measured.
        Some(Holder { number: 1, max_sessions: u32::MAX, max_handshakes: u32::MAX })
    }
    fn connected(&mut self, session: SessionId, _: &Route, _: &PeerIdentity) {
        self.session = Some(session);
    }
    fn data(&mut self, session: SessionId, plaintext: &[u8]) {
        self.session = Some(session);
        self.heard += plaintext.len();
    }
    fn closed(&mut self, _: SessionId, cause: CloseCause) {
        panic!("{cause:?}");
    }
    fn failed(&mut self, _: &Route, failure: &HandshakeFailure) {
        assert!(self.refusals.is_some(), "{failure}");
        self.refusals = self.refusals.map(|refusals| refusals + 1);
    }
}

fn route(n: usize) -> Route {
    let [_, _, high, low] = (n as u32).to_be_bytes();
    Route { remote: SocketAddr::from(([10, 0, high, low], 5_684)), local: None, socket: 0 }
}

fn measure(name: &str, engine: &mut dyn Engine, sessions: usize, config: impl Fn(usize) -> Config) {
    let mut now = Instant::now();
    let mut shell = Shell::default();
    let mut spent = Duration::ZERO;
    let mut clients = Vec::with_capacity(sessions);
    let mut held = 0;
    for n in 0..sessions {
        let mut client = Client::new(config(n));
        let mut up = client.start(now);
        while !up.is_empty() {
            let before = HELD.load(Ordering::Relaxed);
            let start = Instant::now();
            for datagram in &mut up {
                engine.handle_datagram(now, route(n), datagram, &mut shell);
            }
            spent += start.elapsed();
            let sent = std::mem::take(&mut shell.sent);
            held += HELD.load(Ordering::Relaxed)
                - before
                - sent.iter().map(|datagram| datagram.capacity() as isize).sum::<isize>()
                - (sent.capacity() * size_of::<Vec<u8>>()) as isize;
            up = sent.iter().flat_map(|datagram| client.handle_datagram(now, datagram)).collect();
        }
        assert!(client.connected);
        clients.push(client);
        now += Duration::from_millis(1);
    }
    let handshake = spent / sessions as u32;

    const ROUNDS: usize = 10;
    let mut best = Duration::MAX;
    for round in 0..ROUNDS {
        let mut records: Vec<Vec<u8>> = clients.iter_mut().map(|client| client.send(&[7; 64])).collect();
        shell.spare.extend((0..1).map(|_| Vec::with_capacity(256)));
        shell.sent.reserve(4);
        let before = HELD.load(Ordering::Relaxed);
        let start = Instant::now();
        for (n, record) in records.iter_mut().enumerate() {
            engine.handle_datagram(now, route(n), record, &mut shell);
            let session = shell.session.take().expect("the record opens");
            engine.send(now, session, &[8; 64], &mut shell).expect("it is open");
            while let Some(buffer) = shell.sent.pop() {
                shell.spare.push(buffer);
            }
        }
        best = best.min(start.elapsed());
        if round == 0 {
            held += HELD.load(Ordering::Relaxed) - before;
        }
        now += Duration::from_secs(1);
    }
    println!(
        "{name:<44} {:>7.1} µs a handshake {:>6.2} µs a 64-byte echo {:>7} bytes a session",
        handshake.as_secs_f64() * 1e6,
        best.as_secs_f64() * 1e6 / sessions as f64,
        held / sessions as isize,
    );
}

/// What a chain costs that is refused: from the flight that brings it to the alert, of each of so
/// many clients.
fn measure_refusal(name: &str, engine: &mut dyn Engine, count: usize, device: &Arc<Own>) {
    let mut now = Instant::now();
    let mut shell = Shell { refusals: Some(0), ..Shell::default() };
    let mut spent = Duration::ZERO;
    for n in 0..count {
        let mut client = Client::new(Config::certified(device));
        let mut up = client.start(now);
        for flight in 0..3 {
            let start = Instant::now();
            for datagram in &mut up {
                engine.handle_datagram(now, route(n), datagram, &mut shell);
            }
            // The first two are hellos.
            if flight == 2 {
                spent += start.elapsed();
            }
            let sent = std::mem::take(&mut shell.sent);
            up = sent.iter().flat_map(|datagram| client.handle_datagram(now, datagram)).collect();
        }
        assert_eq!(shell.refusals, Some(n + 1));
        now += Duration::from_millis(1);
    }
    let each = spent.as_secs_f64() * 1e6 / count as f64;
    println!("{name:<44} {each:>7.1} µs from the chain to the alert");
}

/// A device below so many authorities that have one name, and each of which has issued the next.
fn below_twins(count: usize) -> Arc<Own> {
    let mut all: Vec<Issuer> = Vec::new();
    for _ in 0..count {
        all.push(authority("same", all.last()));
    }
    device(&all[0], &all.iter().map(|issuer| issuer.der().to_vec()).collect::<Vec<_>>())
}

/// A device's key and certificate, and what it sends behind this.
fn device(issuer: &Issuer, above: &[Vec<u8>]) -> Arc<Own> {
    let params = CertificateParams::new(["door-7.example".to_owned()]).expect("parameters");
    own(params, issuer, above, false)
}

fn main() {
    if process::serve_if_asked() {
        return;
    }
    let argument = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let sessions: usize = argument.unwrap_or(10_000);
    let limits = Limits {
        half_open_per_source: 1 << 20,
        handshakes_burst: u32::MAX,
        hellos_per_second: u32::MAX,
        hellos_per_source: u32::MAX,
        work_burst: u32::MAX,
        ..Limits::new(sessions, 1 << 20, Duration::from_secs(24 * 60 * 60))
    };
    let pairs =
        (0..sessions).map(|n| (format!("dev-{n}").into_bytes(), format!("key-of-device-{n}").into_bytes()));
    let keyring = Keyring::new(pairs);
    let psk = |n: usize| Config::psk(&format!("dev-{n}"), &format!("key-of-device-{n}"));
    let chain = Chain::new();
    let root = &chain.root;
    let near = device(root, &[]);
    let remote = device(chain.lowest(), &chain.above_der());
    let (nine, three) = (below_twins(9), below_twins(3));
    // All signatures are good but the last, which another key than the root's made.
    let foreign = Chain::new();
    let foreign = device(foreign.lowest(), &foreign.above_der());
    let server = server_key(root, false);
    let trust = Trust::new(vec![root.der().to_vec()], Vec::new(), &[], [hash(&near.spki)]).expect("anchors");
    let certificates = Certificates { key: Some(server), trust: Arc::new(trust) };
    let ours = || {
        let settings = Settings { limits, ..Settings::default() };
        let mut engine =
            ServerEngine::new(Instant::now(), settings, keyring.clone(), certificates.clone(), &[5; 32]);
        engine.set_clock(Clock { time: UnixTime::from_secs(YEAR_2026), trusted: true });
        engine
    };
    println!("{sessions} sessions");
    #[cfg(feature = "dimpl")]
    {
        use tombolo::proto::dtls::DimplEngine;
        let mut dimpl =
            DimplEngine::new(Instant::now(), limits, keyring.clone(), &[5; 32]).expect("an engine");
        measure("dimpl PSK_AES_128_CCM_8", &mut dimpl, sessions, psk);
    }
    measure("own   PSK_AES_128_CCM_8", &mut ours(), sessions, psk);
    measure("own   PSK_AES_128_CCM_8, connection id", &mut ours(), sessions, |n| Config {
        cid: Some(vec![]),
        ..psk(n)
    });
    measure("own   PSK_AES_128_GCM", &mut ours(), sessions, |n| psk(n).with_suite(client::PSK_GCM));
    measure("own   PSK_CHACHA20_POLY1305", &mut ours(), sessions, |n| psk(n).with_suite(client::PSK_CHACHA));
    measure("own   ECDHE_PSK_AES_128_CCM_8", &mut ours(), sessions, |n| {
        psk(n).with_suite(client::ECDHE_PSK_CCM8)
    });
    let certified = |_: usize| Config::certified(&near);
    measure("own   ECDHE_ECDSA_AES_128_CCM_8, X.509", &mut ours(), sessions, certified);
    measure("own   ECDHE_ECDSA_AES_128_CCM_8, raw keys", &mut ours(), sessions, |n| Config {
        raw: true,
        ..certified(n)
    });
    measure("own   the same, a chain of 4 certificates", &mut ours(), sessions.min(2_000), |_| {
        Config::certified(&remote)
    });
    let refused = sessions.min(2_000);
    measure_refusal("own   10 certificates, nine CAs of one name", &mut ours(), refused, &nine);
    measure_refusal("own   4 certificates, three CAs of one name", &mut ours(), refused, &three);
    measure_refusal("own   4 certificates, of a root of that name", &mut ours(), refused, &foreign);
    process::compare(sessions.min(2_000));
}
