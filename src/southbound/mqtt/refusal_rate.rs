//! How many publishes of a device are refused without a pause, and how often it may ask for what
//! costs no quota.
//!
//! A refusal costs a little time and nothing of the device's quota, and a publish of QoS 0 is
//! answered by nothing that would slow its sender down. So does a filter in SUBSCRIBE that the
//! client has or may not have, one in UNSUBSCRIBE, and PINGREQ. A device has [`BURST`] refusals and
//! [`RATE`] a second; beyond, nothing is read from the connection for a moment, and the network
//! holds the sender up. Nothing is lost by it: what is read later is answered then.

use std::time::{Duration, Instant};

/// Refusals at once.
pub const BURST: u32 = 200;
/// Refusals a second.
pub const RATE: u32 = 100;
/// So many refusals are there when a pause ends.
const AFTER_PAUSE: u32 = 20;

/// The refusals that a device has left.
pub(super) struct RefusalRate {
    /// Less than none, if several of its connections go on.
    left: f64,
    since: Instant,
}

impl RefusalRate {
    pub(super) fn new(now: Instant) -> RefusalRate {
        RefusalRate { left: f64::from(BURST), since: now }
    }

    /// So many more. Returns until when nothing more is to be read.
    pub(super) fn note(&mut self, now: Instant, count: usize) -> Option<Instant> {
        let elapsed = now.saturating_duration_since(self.since).as_secs_f64();
        self.left = (self.left + elapsed * f64::from(RATE)).min(f64::from(BURST)) - count as f64;
        self.since = now;
        let missing = f64::from(AFTER_PAUSE) - self.left;
        (self.left < 0.0).then(|| now + Duration::from_secs_f64(missing / f64::from(RATE)))
    }
}
