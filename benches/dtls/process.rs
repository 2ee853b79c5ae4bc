//! The engines as processes on a UDP socket, beside `coap-server-openssl`
//! (`apt install libcoap3-bin`), all measured from outside and driven by the same client: CPU time
//! of the process with what the kernel does for it, and resident memory. Each answers a confirmable
//! PUT of 64 bytes with 64 bytes.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tombolo::proto::dtls::server::{Certificates, Settings};
use tombolo::proto::dtls::{
    CloseCause, DimplEngine, Engine, HandshakeFailure, Keyring, Limits, PeerIdentity, ServerEngine,
    SessionId, Sink,
};
use tombolo::proto::{Holder, Route};

use tombolo_test_support::dtls::client::{self, Config};
use tombolo_test_support::dtls::connect;
use tombolo_test_support::{cpu_time, resident_kb};

const SERVE: &str = "TOMBOLO_BENCH_SERVE";
const KEY: &str = "0123456789abcdef";
/// Requests of each session.
const ECHOES: usize = 10;

/// Answers, and keeps what it has to say until the engine is done.
struct Shell<'s> {
    socket: &'s UdpSocket,
    answers: Vec<(SessionId, Vec<u8>)>,
}

impl Sink for Shell<'_> {
    fn transmit(&mut self, route: &Route, datagram: &[u8]) {
        self.socket.send_to(datagram, route.remote).expect("loopback takes it");
    }
    fn claim(&mut self, _: &PeerIdentity) -> Option<Holder> {
        Some(Holder { number: 1, max_sessions: u32::MAX, max_handshakes: u32::MAX })
    }
    fn connected(&mut self, _: SessionId, _: &Route, _: &PeerIdentity) {}
    fn data(&mut self, session: SessionId, plaintext: &[u8]) {
        // Acknowledgement, 2.04, the same message id, no token, 64 bytes.
        let mut answer = vec![0x60, 0x44, plaintext[2], plaintext[3], 0xff];
        answer.extend([7; 64]);
        self.answers.push((session, answer));
    }
    fn closed(&mut self, _: SessionId, _: CloseCause) {}
    fn failed(&mut self, _: &Route, failure: &HandshakeFailure) {
        panic!("{failure}");
    }
}

/// Where this process was started by [`compare`]: serves until it is killed, or who started it is
/// gone.
pub fn serve_if_asked() -> bool {
    let Ok(asked) = std::env::var(SERVE) else { return false };
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let (kind, port) = asked.split_once(' ').expect("an engine and a port");
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port.parse().expect("a port"))).expect("it is free");
    let limits = Limits::new(100_000, 1_024, Duration::from_secs(86_400));
    let keyring = Keyring::new([(b"dev".to_vec(), KEY.as_bytes().to_vec())]);
    let now = Instant::now();
    let mut engine: Box<dyn Engine> = match kind {
        "dimpl" => Box::new(DimplEngine::new(now, limits, keyring, &[5; 32]).expect("an engine")),
        _ => {
            let settings = Settings { limits, ..Settings::default() };
            Box::new(ServerEngine::new(now, settings, keyring, Certificates::default(), &[5; 32]))
        }
    };
    let mut shell = Shell { socket: &socket, answers: Vec::new() };
    let mut buffer = vec![0; 2_048];
    loop {
        let (length, remote) = socket.recv_from(&mut buffer).expect("a datagram");
        let route = Route { remote, local: None, socket: 0 };
        let now = Instant::now();
        engine.handle_datagram(now, route, &mut buffer[..length], &mut shell);
        for (session, answer) in std::mem::take(&mut shell.answers) {
            engine.send(now, session, &answer, &mut shell).expect("it is open");
        }
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure(name: &str, mut command: Command, port: u16, suite: u16, sessions: usize) {
    let started = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let server = match started {
        Ok(child) => Killed(child),
        Err(error) => return println!("{name}: not here: {error}"),
    };
    let pid = server.0.id();
    let (mut handshakes, mut echoes) = (Duration::ZERO, Duration::ZERO);
    let mut resident = 0;
    let warm = sessions / 10;
    for number in 0..warm + sessions {
        if number == warm {
            (handshakes, echoes) = (Duration::ZERO, Duration::ZERO);
            resident = resident_kb(pid);
        }
        let before = cpu_time(pid);
        let config = Config::psk("dev", KEY).with_suite(suite);
        let (mut client, socket) = connect(number, port, config);
        let between = cpu_time(pid);
        let mut buffer = [0; 2_048];
        for echo in 0..ECHOES as u8 {
            // PUT coaps://…/example_data
            let mut request = vec![0x40, 3, number as u8, echo, 0xbc];
            request.extend(b"example_data\xff");
            request.extend([8; 64]);
            socket.send(&client.send(&request)).expect("loopback takes it");
            while client.received.len() <= usize::from(echo) {
                let length = socket.recv(&mut buffer).expect("an answer");
                client.handle_datagram(Instant::now(), &buffer[..length]);
            }
            assert!(client.received[usize::from(echo)].len() >= 64, "the answer has 64 bytes");
        }
        handshakes += between - before;
        echoes += cpu_time(pid) - between;
    }
    let per = |spent: Duration, count: usize| spent.as_secs_f64() * 1e6 / count as f64;
    println!(
        "{name:<44} {:>7.1} µs a handshake {:>6.1} µs a 64-byte echo {:>7} bytes a session",
        per(handshakes, sessions),
        per(echoes, sessions * ECHOES),
        (resident_kb(pid) - resident) * 1_024 / sessions as u64,
    );
}

/// All three, one after the other.
pub fn compare(sessions: usize) {
    println!("as processes, with sockets and the kernel's part; {sessions} sessions");
    let free =
        || UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    for (name, kind, suite) in [
        ("dimpl PSK_AES_128_CCM_8", "dimpl", client::PSK_CCM8),
        ("own   PSK_AES_128_CCM_8", "own", client::PSK_CCM8),
        ("own   PSK_AES_128_GCM", "own", client::PSK_GCM),
    ] {
        let port = free();
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.env(SERVE, format!("{kind} {port}"));
        measure(name, command, port, suite, sessions);
    }
    let port = free() & !1;
    let mut command = Command::new("coap-server-openssl");
    command.args(["-e", "-v", "0", "-A", "127.0.0.1", "-p", &port.to_string(), "-h", "", "-k", KEY]);
    measure("coap-server-openssl PSK_AES_128_GCM", command, port + 1, client::PSK_GCM, sessions);
}
