//! Readings of `qos = 0` rules while they are suspected of bringing the connection down: what went
//! before a close may be its cause, and nothing answers them.

use std::time::{Duration, Instant};

use crate::northbound::strikes::Strikes;

/// A reading sent so shortly before a close may be its cause.
const SUSPICIOUS: Duration = Duration::from_secs(5);
/// How long they are dropped once suspected.
const PAUSE: Duration = Duration::from_secs(300);
/// After a close that may be about a record or a message of our own none is sent for so long.
const CAREFUL: Duration = Duration::from_secs(10);
/// So many closes shortly after them.
const STRIKES: u8 = 3;

/// When they were sent, and when they may be.
#[derive(Clone, Copy, Debug)]
pub struct VolatileDoubt {
    sent_at: Option<Instant>,
    strikes: Strikes,
    /// None is sent before: a close is being looked into.
    careful_until: Option<Instant>,
}

impl Default for VolatileDoubt {
    fn default() -> VolatileDoubt {
        VolatileDoubt { sent_at: None, strikes: Strikes::new(STRIKES, PAUSE), careful_until: None }
    }
}

impl VolatileDoubt {
    /// Some were sent.
    pub fn note_sent(&mut self, now: Instant) {
        self.sent_at = Some(now);
    }

    /// Whether a close at `now` may be because of them.
    pub fn may_be_cause(&self, now: Instant) -> bool {
        self.sent_at.is_some_and(|at| now < at + SUSPICIOUS)
    }

    /// The connection was closed, and nothing else had been sent. Whether they are dropped from now
    /// on.
    pub fn strike(&mut self, now: Instant) -> bool {
        self.strikes.strike(now)
    }

    /// Whether they are dropped at `now`.
    pub fn is_paused(&self, now: Instant) -> bool {
        self.strikes.is_left_out(now)
    }

    /// A close may be about something else: they stay out of the way.
    pub fn be_careful(&mut self, now: Instant) {
        self.careful_until = Some(now + CAREFUL);
    }

    /// Whether they wait at `now`, while a close is being looked into.
    pub fn is_careful(&self, now: Instant) -> bool {
        self.careful_until.is_some_and(|until| now < until)
    }
}
