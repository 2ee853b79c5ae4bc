//! What is suspected of a topic: that the broker refuses all that is published on it.

use std::time::{Duration, Instant};

use super::pace::SPACING;
use crate::northbound::reason_code::Cause;

/// Records of a topic condemned one by one before all that wait are condemned with the next.
const GROUP: u32 = 3;
/// Between two trials of a topic all of whose records are condemned, at most.
const SPACING_MAX: Duration = Duration::from_secs(15);
/// The same for a topic that is not answered: each trial holds the connection up.
const SILENT_SPACING_MAX: Duration = Duration::from_secs(300);

/// A doubted topic.
#[derive(Debug)]
pub struct TopicDoubt {
    /// What it is called, once a trial has shown it.
    pub name: Option<Box<str>>,
    /// Records refused since one was taken.
    row: u32,
    /// Records condemned since a reading on it was taken, and groups of them.
    condemned: u32,
    /// The last refusal: its cause and send number.
    pub cause: Cause,
    /// See [`TopicDoubt::cause`].
    pub since: u64,
    /// The broker closed the connection right after it had refused one of its records.
    closes: bool,
    /// A record on it was refused since such a close.
    refused_since: bool,
    touched: Instant,
}

impl TopicDoubt {
    /// The first record on it was refused, under the number `serial`.
    pub fn new(now: Instant, cause: Cause, serial: u64) -> TopicDoubt {
        TopicDoubt {
            name: None,
            row: 0,
            condemned: 0,
            cause,
            since: serial,
            closes: false,
            refused_since: false,
            touched: now,
        }
    }

    /// Whether its newcomers wait.
    pub fn is_gated(&self) -> bool {
        self.row >= 2 && !self.judges_each()
    }

    /// Enough of its records were condemned for what they contain: each is judged for itself. Not
    /// where each would cost a connection.
    pub fn judges_each(&self) -> bool {
        self.condemned >= GROUP && self.cause.is_about_content() && !self.closes
    }

    /// Whether the broker closes the connection over its records after it refused them.
    pub fn closes(&self) -> bool {
        self.closes
    }

    /// The broker closed the connection right after it had refused one.
    pub fn handle_close(&mut self) {
        (self.closes, self.refused_since) = (true, false);
    }

    /// Whether the next record that is condemned is condemned for all that wait.
    pub fn is_condemned(&self) -> bool {
        self.condemned >= GROUP
    }

    /// A record on it was refused; `another`: one not suspected before.
    pub fn handle_refused(&mut self, now: Instant, serial: u64, cause: Cause, another: bool) {
        self.row = self.row.saturating_add(u32::from(another));
        self.cause = cause;
        // Only the next one shows that no close followed.
        self.closes &= !std::mem::replace(&mut self.refused_since, true);
        self.since = self.since.max(serial);
        self.touched = now;
    }

    /// A record on it was taken. Whether its newcomers waited.
    pub fn handle_taken(&mut self) -> bool {
        let was_gated = self.is_gated();
        (self.row, self.condemned) = (0, 0);
        was_gated
    }

    /// A record on it was condemned.
    pub fn handle_condemned(&mut self, now: Instant) {
        self.condemned += 1;
        self.touched = now;
    }

    /// While nothing was taken it could not show that it is not at fault: its newcomers go on.
    /// Whether they waited.
    pub fn give_another_chance(&mut self, now: Instant) -> bool {
        let may = self.is_gated() && self.condemned == 0;
        if may {
            (self.row, self.touched) = (0, now);
        }
        may
    }

    /// When the next of its records that was never sent is to be tried.
    pub fn trial_due(&self, now: Instant) -> Instant {
        let longest = if self.cause == Cause::Silent { SILENT_SPACING_MAX } else { SPACING_MAX };
        let spacing = SPACING.saturating_mul(1 << self.condemned.min(16)).min(longest);
        if self.condemned == 0 { now } else { now.max(self.touched + spacing) }
    }

    /// Whether nothing happened to it for so long.
    pub fn is_older_than(&self, now: Instant, age: Duration) -> bool {
        now.saturating_duration_since(self.touched) >= age
    }
}
