//! The address of a peer, as the key of the session table.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::proto::Route;

/// A peer as the network shows it: its address, and the socket of ours it came to. As bytes, since
/// there are two of each peer: address 16 (IPv4 mapped into IPv6), port 2, socket 2, scope 4.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerAddress([u8; 24]);

impl PeerAddress {
    /// Fixed bytes, different for different addresses.
    pub fn to_bytes(&self) -> [u8; 24] {
        self.0
    }

    pub(super) fn port(&self) -> u16 {
        u16::from_be_bytes([self.0[16], self.0[17]])
    }

    /// Who is held to answer for a handshake: an IPv4 address, or the /64 an IPv6 host can choose
    /// from.
    pub(super) fn source(&self) -> IpAddr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.0[..16]);
        match Ipv6Addr::from(octets).to_canonical() {
            IpAddr::V6(v6) => {
                let network = v6.to_bits() & (u128::MAX << 64);
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            v4 => v4,
        }
    }
}

impl From<&Route> for PeerAddress {
    /// Without the flow label, which is of the packet, not of the peer.
    fn from(route: &Route) -> PeerAddress {
        let (ip, scope) = match route.remote {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
            SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
        };
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&ip.octets());
        bytes[16..18].copy_from_slice(&route.remote.port().to_be_bytes());
        bytes[18..20].copy_from_slice(&route.socket.to_be_bytes());
        bytes[20..].copy_from_slice(&scope.to_be_bytes());
        PeerAddress(bytes)
    }
}

impl fmt::Debug for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerAddress({}…, port {})", self.source(), self.port())
    }
}
