//! One harness for both DTLS engines: a client, a network in virtual time around an engine
//! ([`World`]), certificates.

pub mod client;
pub mod pki;
mod world;

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use tombolo::clock::UnixTime;
#[cfg(feature = "dimpl")]
use tombolo::proto::dtls::DimplEngine;
use tombolo::proto::dtls::server::{Certificates, Clock, Settings};
use tombolo::proto::dtls::{Engine, Limits, ServerEngine};

pub use pki::*;
pub use world::*;

use self::client::{Client, Config};

/// A client of a server on loopback, and the socket it sends from, once it is connected; each
/// number has an address of its own.
pub fn connect(number: usize, port: u16, config: Config) -> (Client, UdpSocket) {
    let [_, a, b, c] = (number as u32 + 257).to_be_bytes();
    let socket = UdpSocket::bind((Ipv4Addr::new(127, a, b, c), 0)).expect("all of 127/8 is ours");
    socket.connect((Ipv4Addr::LOCALHOST, port)).expect("an address");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let mut client = Client::new(config);
    let mut out = client.start(Instant::now());
    let mut buffer = [0; 2_048];
    while !client.connected {
        for datagram in out.drain(..) {
            // Refused while the server is still starting.
            let _ = socket.send(&datagram);
        }
        let received = socket.recv(&mut buffer);
        let now = Instant::now();
        out = match received {
            Ok(length) => client.handle_datagram(now, &buffer[..length]),
            Err(_) => client.handle_timeout(now),
        };
        assert!(client.deadline.is_some() || client.connected, "it gave up: {:?}", client.alerts);
    }
    (client, socket)
}

/// An engine as tests of both make it: with the keys of [`keyring`], and nothing but limits.
pub trait Start: Engine + Sized {
    /// Most bytes of a datagram it sends in a handshake.
    const LARGEST_DATAGRAM: usize;

    /// `run` seeds its secrets.
    fn start(now: Instant, limits: Limits, run: u8) -> Self;
}

impl Start for ServerEngine {
    const LARGEST_DATAGRAM: usize = usize::MAX;

    fn start(now: Instant, limits: Limits, run: u8) -> ServerEngine {
        engine(now, Settings { limits, ..Settings::default() }, Certificates::default(), run)
    }
}

#[cfg(feature = "dimpl")]
impl Start for DimplEngine {
    const LARGEST_DATAGRAM: usize = 1_280;

    fn start(now: Instant, limits: Limits, run: u8) -> DimplEngine {
        DimplEngine::new(now, limits, keyring(), &[run; 32]).expect("an engine")
    }
}

/// When [`engine`] thinks it is.
pub const YEAR_2026: u64 = 1_780_000_000;

/// The server of our own, with the keys of [`keyring`].
pub fn engine(now: Instant, settings: Settings, certificates: Certificates, run: u8) -> ServerEngine {
    let mut engine = ServerEngine::new(now, settings, keyring(), certificates, &[run; 32]);
    engine.set_clock(Clock { time: UnixTime::from_secs(YEAR_2026), trusted: true });
    engine
}
