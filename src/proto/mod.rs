//! Protocol cores: bytes and `now` in; bytes, events and the next deadline out. No socket, clock, file or task here.

use std::net::{IpAddr, SocketAddr};

pub mod coap;
pub mod dtls;
pub mod serial;

/// Where a datagram came from, and so where its answer goes: back from the very address it was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// The address of ours the peer sent to (IP_PKTINFO); `None` where the system did not say.
    pub local: Option<IpAddr>,
    /// Which of the shell's sockets.
    pub socket: u16,
}
