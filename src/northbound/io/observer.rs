//! What follows the uplink from outside: what became of records, and the packets themselves.

use std::net::SocketAddr;

use crate::northbound::settled::Settled;
use crate::northbound::wire::Version;

/// Follows an uplink, on its thread; nothing here may block.
pub trait Observer {
    /// What became of records, in the order in which it was decided.
    fn settled(&self, settled: &[Settled]);

    /// Whether packets are wanted at all. Asked before each round.
    fn wants_packets(&self) -> bool;

    /// One whole MQTT packet of this version, without TLS.
    fn packet(&self, broker: SocketAddr, version: Version, direction: Direction, packet: &[u8]);
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the broker.
    In,
    /// To the broker.
    Out,
}
