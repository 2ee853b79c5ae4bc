//! What strangers and a client without manners do to the others.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::{PASSWORD, connect};
use super::site::Site;

/// Connections of strangers a second, at most.
const CONNECTS: f64 = 5_000.0;
/// TLS handshakes that are begun and not ended.
const HANDSHAKES: usize = 500;
/// The client without manners.
pub const RUDE: usize = 0;

/// What is done.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Nothing.
    Calm,
    /// Connections with a wrong password.
    Strangers,
    /// TLS handshakes that never end, on all the places that the listener gives.
    Handshakes,
    /// A known client publishes to topics of 65,535 bytes.
    Topics,
    /// A known client subscribes to eight filters at a time.
    Subscriptions,
}

/// It goes on until it is dropped.
pub struct Flood {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
    begun: Instant,
}

impl Flood {
    /// Begins.
    pub fn start(kind: Kind, site: &Site) -> Flood {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted, plain, tls) = (stop.clone(), count.clone(), site.plain, site.tls);
        let thread = std::thread::spawn(move || {
            let go_on = || !stopped.load(Ordering::Relaxed);
            let count = || {
                counted.fetch_add(1, Ordering::Relaxed);
            };
            match kind {
                Kind::Calm => {}
                Kind::Strangers => strangers(plain, go_on, count),
                Kind::Handshakes => handshakes(tls, go_on, count),
                Kind::Topics => repeat(plain, &long_topic(), go_on, count),
                Kind::Subscriptions => repeat(plain, &subscribe(), go_on, count),
            }
        });
        Flood { stop, count, thread: Some(thread), begun: Instant::now() }
    }

    /// What was done a second.
    pub fn rate(&self) -> f64 {
        self.count.load(Ordering::Relaxed) as f64 / self.begun.elapsed().as_secs_f64()
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn open(address: SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
    stream.set_write_timeout(Some(Duration::from_millis(500))).ok()?;
    Some(stream)
}

fn strangers(address: SocketAddr, go_on: impl Fn() -> bool, count: impl Fn()) {
    let (begun, mut opened) = (Instant::now(), 0.0);
    // Some are open at a time, so that it does not wait for each answer.
    let mut open_ones = std::collections::VecDeque::new();
    while go_on() {
        if begun.elapsed().as_secs_f64() * CONNECTS < opened {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        opened += 1.0;
        if let Some(mut stream) = open(address)
            && stream.write_all(&connect(1, "a wrong password")).is_ok()
        {
            count();
            open_ones.push_back(stream);
        }
        if open_ones.len() > 64 {
            open_ones.pop_front();
        }
    }
}

fn handshakes(address: SocketAddr, go_on: impl Fn() -> bool, count: impl Fn()) {
    let mut open_ones: Vec<TcpStream> = Vec::new();
    while go_on() {
        open_ones.retain_mut(|stream| {
            let _ = stream.set_nonblocking(true);
            // Those that are closed are opened again.
            !matches!(stream.read(&mut [0; 64]), Ok(0))
        });
        while open_ones.len() < HANDSHAKES && go_on() {
            let Some(mut stream) = open(address) else { break };
            // The begin of a ClientHello.
            let _ = stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0]);
            count();
            open_ones.push(stream);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A known client that sends the same packet as fast as it is read, and connects again.
fn repeat(address: SocketAddr, packet: &[u8], go_on: impl Fn() -> bool, count: impl Fn()) {
    while go_on() {
        let Some(mut stream) = open(address) else { continue };
        if stream.write_all(&connect(RUDE, PASSWORD)).is_err() || stream.read(&mut [0; 4]).is_err() {
            continue;
        }
        let mut answers = [0; 4096];
        let _ = stream.set_nonblocking(true);
        'connection: while go_on() {
            let mut left = packet;
            while !left.is_empty() {
                match stream.write(left) {
                    Ok(written) => left = &left[written..],
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        std::thread::sleep(Duration::from_micros(200));
                    }
                    Err(_) => break 'connection,
                }
                if matches!(stream.read(&mut answers), Ok(0)) || !go_on() {
                    break 'connection;
                }
            }
            count();
        }
    }
}

fn with_length(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = body.len();
    loop {
        let digit = (length % 128) as u8;
        length /= 128;
        packet.push(if length > 0 { digit | 0x80 } else { digit });
        if length == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}

fn long_topic() -> Vec<u8> {
    let mut body = u16::MAX.to_be_bytes().to_vec();
    body.resize(2 + usize::from(u16::MAX), b'x');
    body.extend_from_slice(&[0, 1, b'1']);
    with_length(0x32, &body)
}

fn subscribe() -> Vec<u8> {
    let mut body = vec![0, 1];
    for number in 0..8 {
        let filter = format!("t/{number}/+/a/+/b/#");
        body.extend_from_slice(&(filter.len() as u16).to_be_bytes());
        body.extend_from_slice(filter.as_bytes());
        body.push(1);
    }
    with_length(0x82, &body)
}
