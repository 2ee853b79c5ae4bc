//! Attackers as processes of their own: what they do takes nothing from the test that watches, and
//! nothing stops them but the gateway.
//!
//! Such a process is this test binary, told by [`ATTACK`] what to do. It ends when it has done so,
//! or when its standard input does, and so with the test at the latest.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tombolo::splitmix::SplitMix64;

use super::KEY;
use tombolo_test_support::dtls::client::{self, Client, Config, ECDHE_PSK_CCM8};

const ATTACK: &str = "TOMBOLO_TEST_ATTACK";

/// What an attacker does.
#[derive(Clone, Copy)]
pub enum Attack {
    /// Spoofed hellos and garbage as fast as it can, and handshakes with wrong keys if its number
    /// is even: until so many datagrams are sent and so many seconds gone.
    Mixed { datagrams: u64, seconds: u64 },
    /// So many spoofed hellos a second from many addresses, until it is stopped.
    Hellos { per_second: u64 },
    /// So many sessions with the key of `door-7`, one after the other, each from another port.
    Sessions { count: u64 },
}

/// One that attacks.
pub struct Attacker(Option<Child>);

/// What it has done.
#[derive(Debug, Default)]
pub struct Done {
    /// Datagrams.
    pub sent: u64,
    /// Handshakes tried.
    pub handshakes: u64,
    /// Handshakes that gave it a session.
    pub sessions: u64,
}

impl Attacker {
    /// Starts the attacker of that number.
    pub fn start(attack: Attack, gateway: SocketAddr, number: u64) -> Attacker {
        let (kind, first, second) = match attack {
            Attack::Mixed { datagrams, seconds } => ("mixed", datagrams, seconds),
            Attack::Hellos { per_second } => ("hellos", per_second, 0),
            Attack::Sessions { count } => ("sessions", count, 0),
        };
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "attacker::attack", "--nocapture"])
            .env(ATTACK, format!("{kind} {gateway} {number} {first} {second}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started");
        Attacker(Some(child))
    }

    /// Stops it, if it does not do so by itself.
    pub fn stop(mut self) -> Done {
        drop(self.0.as_mut().expect("not stopped yet").stdin.take());
        self.wait()
    }

    /// Waits until it has done what it was to do.
    pub fn wait(mut self) -> Done {
        let child = self.0.as_mut().expect("not stopped yet");
        let mut said = String::new();
        child.stdout.take().expect("piped").read_to_string(&mut said).expect("text");
        assert!(child.wait().expect("a child").success(), "{said}");
        let report = said.lines().find_map(|line| line.split_once("attacked ")).expect("a report").1;
        let mut numbers = report.split(' ').map(|number| number.parse().expect("a number"));
        let mut next = || numbers.next().expect("three numbers");
        Done { sent: next(), handshakes: next(), sessions: next() }
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Not a test: the process of an attacker, which other tests start.
#[test]
fn attack() {
    let Ok(asked) = std::env::var(ATTACK) else { return };
    let parts: Vec<&str> = asked.split(' ').collect();
    let [kind, gateway, numbers @ ..] = &parts[..] else { panic!("{asked}") };
    let numbers: Vec<u64> = numbers.iter().map(|number| number.parse().expect("a number")).collect();
    let over = Arc::new(AtomicBool::new(false));
    let its_over = over.clone();
    thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        its_over.store(true, Ordering::Relaxed);
    });
    let mut sender = Sender::new(gateway.parse().expect("an address"), numbers[0], over);
    match *kind {
        "mixed" => sender.mixed(numbers[0], numbers[1], Duration::from_secs(numbers[2])),
        "hellos" => sender.hellos(numbers[1]),
        "sessions" => sender.sessions(numbers[1]),
        _ => panic!("{asked}"),
    }
    // After "test attacker::attack ... ", which ends no line.
    println!("\nattacked {} {} {}", sender.done.sent, sender.done.handshakes, sender.done.sessions);
}

/// The attacker, in its process.
struct Sender {
    socket: UdpSocket,
    gateway: SocketAddr,
    random: SplitMix64,
    done: Done,
    over: Arc<AtomicBool>,
}

/// A socket at that address; all of 127/8 is ours.
fn socket_at(address: [u8; 4]) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::from(address), 0)).expect("an address of 127/8");
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    socket
}

impl Sender {
    fn new(gateway: SocketAddr, number: u64, over: Arc<AtomicBool>) -> Sender {
        // Another source than the devices', as it is in the field.
        let socket = socket_at([127, 9, 9, 9]);
        Sender { socket, gateway, random: SplitMix64::new(number), done: Done::default(), over }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn chance(&mut self) -> u64 {
        self.random.next_u64()
    }

    fn send(&mut self, datagram: &[u8]) {
        let _ = self.socket.send_to(datagram, self.gateway);
        self.done.sent += 1;
    }

    fn mixed(&mut self, number: u64, datagrams: u64, time: Duration) {
        let began = Instant::now();
        while !self.is_over() && (self.done.sent < datagrams || began.elapsed() < time) {
            self.spoofed_hellos(30);
            for _ in 0..10 {
                self.garbage();
            }
            // One that waits for answers does not saturate anything: only every other one does.
            if number.is_multiple_of(2) {
                let suite = [client::PSK_CCM8, ECDHE_PSK_CCM8][self.done.handshakes as usize % 2];
                self.wrong_key(suite);
            }
        }
    }

    /// Hellos whose answers nobody hears, none like another.
    fn spoofed_hellos(&mut self, count: usize) {
        let mut hello = Client::new(Config::psk("door-7", "x")).start(Instant::now()).remove(0);
        for _ in 0..count {
            hello[30..38].copy_from_slice(&self.chance().to_be_bytes());
            self.send(&hello);
        }
    }

    fn garbage(&mut self) {
        let length = 1 + self.chance() as usize % 200;
        let mut bytes: Vec<u8> = (0..length).map(|_| self.chance() as u8).collect();
        // Half of it begins like a record.
        if self.chance().is_multiple_of(2) {
            let head = [20 + self.chance() as u8 % 7, 0xfe, 0xfd, 0, self.chance() as u8 % 2];
            bytes.splice(0..0, head);
        }
        self.send(&bytes);
    }

    /// A handshake with a wrong key, from the first hello to the Finished, from a port of its own.
    fn wrong_key(&mut self, suite: u16) {
        let config = Config { suites: vec![suite], ..Config::psk("door-7", "not-the-key") };
        self.socket = socket_at([127, 9, 9, 9]);
        self.done.handshakes += 1;
        // Hello, hello with cookie, Finished. Whether anybody answers is the gateway's business.
        self.shake(config, 3);
    }

    /// At most so many flights; whether that made a session.
    fn shake(&mut self, config: Config, flights: usize) -> bool {
        let mut client = Client::new(config);
        let mut out = client.start(Instant::now());
        let mut buffer = [0; 4_096];
        for _ in 0..flights {
            for datagram in std::mem::take(&mut out) {
                self.send(&datagram);
            }
            let Ok((length, _)) = self.socket.recv_from(&mut buffer) else { break };
            out = client.handle_datagram(Instant::now(), &buffer[..length]);
            if client.connected || !client.alerts.is_empty() {
                break;
            }
        }
        client.connected
    }

    fn hellos(&mut self, per_second: u64) {
        let sources: Vec<UdpSocket> = (0..=255).map(|last| socket_at([127, 9, 8, last])).collect();
        let mut hello = Client::new(Config::psk("door-7", "x")).start(Instant::now()).remove(0);
        let began = Instant::now();
        while !self.is_over() {
            // As many as should have gone by now, however long the system let it wait.
            let due = began.elapsed().as_millis() as u64 * per_second / 1_000;
            while self.done.sent < due {
                hello[30..38].copy_from_slice(&self.chance().to_be_bytes());
                let _ = sources[self.done.sent as usize % sources.len()].send_to(&hello, self.gateway);
                self.done.sent += 1;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn sessions(&mut self, count: u64) {
        for number in 0..count {
            if self.is_over() {
                break;
            }
            self.socket = socket_at([127, 9, 7, number as u8]);
            let _ = self.socket.set_read_timeout(Some(Duration::from_secs(2)));
            self.done.handshakes += 1;
            self.done.sessions += u64::from(self.shake(Config::psk("door-7", KEY), 6));
        }
    }
}
