//! The counters of a port.

use crate::proto::serial::framing;

/// What a port did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes and frames.
    pub framing: framing::Counters,
    /// Readings committed, or passed on by a rule with `qos = 0`.
    pub readings: u64,
    /// Frames that were no reading; on a bus, those from nobody who was asked.
    pub unreadable: u64,
    /// Readings that no rule or quota allowed.
    pub refused: u64,
    /// On a bus: requests of another master.
    pub rivals: u64,
    /// Readings lost because the journal did not take them for too long.
    pub lost: u64,
}
