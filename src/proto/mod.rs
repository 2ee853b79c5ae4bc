//! Protocol cores: bytes and `now` in; bytes, events and the next deadline out. No socket, clock,
//! file or task here.

use std::net::{IpAddr, SocketAddr};

pub mod address;
pub mod coap;
pub(crate) mod der;
pub mod dtls;
pub mod pem;
pub mod serial;

/// The addresses of a datagram, and so of its answer, which is sent from the address that the
/// datagram was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// The local address that the peer sent to (IP_PKTINFO); `None` if the system did not report
    /// it.
    pub local: Option<IpAddr>,
    /// The index of the shell's socket.
    pub socket: u16,
}

/// The owner of sessions, exchanges and bodies that are bounded together: one device, identified by
/// its proven credential, over all its sessions and addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Unique for each holder.
    pub number: u64,
    /// Most sessions at once; 0 counts as 1. The other limits of a session are multiplied by it.
    pub max_sessions: u32,
    /// Handshakes that it may complete a minute; 0 counts as 1. The burst is the same, or twice its
    /// `max_sessions` if that is more.
    pub max_handshakes: u32,
}

impl Holder {
    /// The default of a role's `max-sessions`.
    pub const SESSIONS: u32 = 4;
    /// The default of a role's `max-handshakes`.
    pub const HANDSHAKES: u32 = 120;
    /// The share of one holder is at most this fraction of the total.
    const PARTS: usize = 8;

    /// The holder's limit of a resource of which one session may have `per_session` and all
    /// together `all`.
    pub fn share(&self, per_session: usize, all: usize) -> usize {
        let own = per_session.saturating_mul(self.max_sessions.max(1) as usize);
        own.min((all / Holder::PARTS).max(per_session))
    }
}
