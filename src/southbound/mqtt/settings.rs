//! The settings of the local MQTT listener, already validated, and the limits that are not
//! configured.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::bus::LocalRules;
use super::tls::Material;
use crate::message::Name;

/// Largest packet accepted, in bytes, header included: a payload of 64 KiB with topic and
/// properties.
pub const PACKET_MAX: usize = 72 << 10;
/// Largest packet accepted before the client is identified, in bytes: a CONNECT with its will.
pub const CONNECT_MAX: usize = 16 << 10;
/// Longest topic in a PUBLISH, in bytes. The longest path is shorter; a topic between the two is
/// refused by itself, a longer one closes the connection.
pub const TOPIC_MAX: usize = 1_024;
/// Longest client id, in bytes.
pub const CLIENT_ID_MAX: usize = 256;
/// The Receive Maximum told to clients of MQTT 5. With as many publishes that are not answered,
/// nothing more is read from a client of either version: some send all they have at a reconnect.
pub const RECEIVE_MAXIMUM: u16 = 100;
/// While that lasts a client is not disconnected as silent, but no longer than this: behind a disk
/// that does not come back nobody knows whether it is still there.
pub const UNREAD_MAX: Duration = Duration::from_secs(600);
/// Packet ids of QoS 2 that one session may have between PUBLISH and PUBREL.
pub const RECEIVED_MAX: usize = 1_000;
/// Topic aliases that one connection may set; each costs at most [`TOPIC_MAX`] bytes.
pub const TOPIC_ALIAS_MAXIMUM: u16 = 16;
/// Subscriptions of one session.
pub const SUBSCRIPTIONS_MAX: usize = 64;
/// Most bytes of messages that are kept for all sessions together.
pub const QUEUED_TOTAL_MAX: usize = 16 << 20;
/// Longest time a session outlives its connection; a client that asks for longer gets this.
pub const SESSION_EXPIRY_MAX: Duration = Duration::from_secs(7 * 86_400);
/// A connection that has not sent a whole CONNECT after this time is closed.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A password that is costly to verify waits so long at most; its connect is then refused.
pub const VERIFY_WITHIN: Duration = Duration::from_secs(30);
/// In which time a device has the `max-handshakes` connects of its role; more are refused.
pub const CONNECTS_PER: Duration = Duration::from_secs(60);

/// `[mqtt]`
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// TLS addresses; default none.
    pub listen: Vec<SocketAddr>,
    /// Addresses without TLS, of this machine alone; default none.
    pub insecure_listen: Vec<PlainAddress>,
    /// Certificate, key and anchors for TLS. `None`: there is no TLS address, or its files cannot
    /// be used.
    pub tls: Option<Arc<Material>>,
    /// Most clients connected at once; default 1,000.
    pub max_clients: usize,
    /// The local rules of each role that has any.
    pub local: Vec<(Name, LocalRules)>,
    /// The topic under which accepted readings are copied to local clients, with `{device}` and
    /// `{path}`; default none.
    pub mirror: Option<String>,
    /// What a token has to name as its audience; `None` = the gateway's id.
    pub jwt_audience: Option<String>,
    /// Most messages of QoS 1 and 2 that are kept for one session, `0 ..= 10,000`; default 100. 0:
    /// none, and subscriptions to local messages are granted QoS 0.
    pub max_queued: usize,
    /// Percent of the room for retained messages that those of one device may take, `1..=100`;
    /// default 50.
    pub retained_share: u8,
    /// What becomes of a 3.1.1 client whose QoS 1 or 2 publish is denied; default
    /// [`DenyOn311::Close`].
    pub deny_on_311: DenyOn311,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            listen: Vec::new(),
            insecure_listen: Vec::new(),
            tls: None,
            max_clients: Settings::MAX_CLIENTS,
            local: Vec::new(),
            mirror: None,
            jwt_audience: None,
            max_queued: Settings::MAX_QUEUED,
            retained_share: Settings::RETAINED_SHARE,
            deny_on_311: DenyOn311::default(),
        }
    }
}

impl Settings {
    /// `mirror = true`.
    pub const MIRROR: &str = "{device}/{path}";
    /// Default of `max-queued`.
    pub const MAX_QUEUED: usize = 100;
    /// Default of `retained-share`.
    pub const RETAINED_SHARE: u8 = 50;
    /// Default of `max-clients`.
    pub const MAX_CLIENTS: usize = 1_000;

    /// Whether any address is configured.
    pub fn is_on(&self) -> bool {
        !self.listen.is_empty() || !self.insecure_listen.is_empty()
    }
}

/// Whether only one of two addresses can be listened on: one is the port of all addresses, and the
/// other is among these. Linux has `[::]` take IPv4 too, unless `net.ipv6.bindv6only` is set.
pub fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let takes =
        |all: SocketAddr, one: SocketAddr| all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    one.port() == other.port() && one.port() != 0 && one != other && (takes(one, other) || takes(other, one))
}

/// An address without TLS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PlainAddress {
    /// A loopback address.
    Loopback(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl PlainAddress {
    /// The address, where it is one of TCP.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            PlainAddress::Loopback(address) => Some(*address),
            PlainAddress::Unix(_) => None,
        }
    }
}

impl fmt::Display for PlainAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlainAddress::Loopback(address) => address.fmt(f),
            PlainAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// MQTT 3.1.1 has no negative PUBACK: what is done instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DenyOn311 {
    /// The connection is closed (MQTT 3.1.1 §3.3.5).
    #[default]
    Close,
    /// The publish is acknowledged and dropped; it is counted as refused.
    Drop,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_collide_where_one_is_the_port_of_all() {
        let of = |text: &str| -> SocketAddr { text.parse().expect("an address") };
        for (one, other, expected) in [
            ("0.0.0.0:1883", "127.0.0.1:1883", true),
            ("[::]:1883", "127.0.0.1:1883", true),
            ("[::]:1883", "[::1]:1883", true),
            ("[::]:1883", "0.0.0.0:1883", true),
            ("0.0.0.0:1883", "[::1]:1883", false),
            ("0.0.0.0:1883", "127.0.0.1:8883", false),
            ("127.0.0.1:1883", "127.0.0.2:1883", false),
            ("0.0.0.0:0", "127.0.0.1:0", false),
        ] {
            assert_eq!(collide(of(one), of(other)), expected, "{one} {other}");
            assert_eq!(collide(of(other), of(one)), expected, "{other} {one}");
        }
    }
}
