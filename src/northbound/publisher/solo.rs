//! What must be in flight with nothing else, so that a close or silence names it: a suspect that
//! may bring the connection down, or a message of the gateway's own that is suspected.

use std::time::{Duration, Instant};

use crate::northbound::suspicion::RecordPlace;

/// Before a trial at the lowest rate nothing is sent for so long, and between two trials with
/// nothing else in flight.
pub const QUIET: Duration = Duration::from_secs(1);
/// For so long a suspect in flight keeps all others back; a close later than that names nobody.
pub const ALONE_WITHIN: Duration = Duration::from_secs(5);

/// What is in flight with nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Alone {
    /// `None`: a message of the gateway's own.
    pub place: Option<RecordPlace>,
    /// When it was sent.
    pub at: Instant,
}

/// The one, and when the last one ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Solo {
    current: Option<Alone>,
    ended_at: Option<Instant>,
}

impl Solo {
    /// What is in flight alone.
    pub fn current(&self) -> Option<Alone> {
        self.current
    }

    /// When the last one was answered.
    pub fn ended_at(&self) -> Option<Instant> {
        self.ended_at
    }

    /// Not before then may another go.
    pub fn again_at(&self, now: Instant) -> Option<Instant> {
        self.ended_at.map(|at| at + QUIET).filter(|at| *at > now)
    }

    /// This one was sent.
    pub fn begin(&mut self, now: Instant, place: Option<RecordPlace>) {
        self.current = Some(Alone { place, at: now });
    }

    /// It was answered.
    pub fn end(&mut self, now: Instant) {
        self.current = None;
        self.ended_at = Some(now);
    }

    /// The connection came or went.
    pub fn reset(&mut self) {
        self.current = None;
    }

    /// Whether it is a record.
    pub fn is_record(&self) -> bool {
        self.current.is_some_and(|alone| alone.place.is_some())
    }
}
