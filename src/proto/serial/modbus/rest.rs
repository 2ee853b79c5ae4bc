//! The silence that a line wants after each answer, learned from units that say that they are busy.
//!
//! ```text
//!  none ──busy each time so soon after an answer──> 100 ms ──the same──> 200 ms, 300 ms, 500 ms
//! ```
//!
//! Some converters answer a request that comes too soon after the last answer of any unit in the
//! unit's name: exception 6. The units themselves are not busy. A unit that is busy with its own
//! work is so after a longer silence, too, or other units of the line answer as soon as that: then
//! nothing is learned. What was learned holds until the bus is set up anew.

use std::time::{Duration, Instant};

use super::pdu::{Answer, Exception};

/// Silences that are tried, one after the other.
const RESTS: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(300),
    Duration::from_millis(500),
];
/// So often in a row, for all units together, without data as soon as that after an answer.
const BUSY: u32 = 6;
/// If even the longest does not help, none is tried for so long. So long it is remembered after
/// what silence a unit was busy all the same.
const IN_VAIN: Duration = Duration::from_secs(3600);

/// The silence of one line.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rest {
    pause: Duration,
    /// Busy so often in a row.
    busy: u32,
    /// The longest silence after which one was busy, and when.
    longest: Duration,
    longest_at: Option<Instant>,
    not_before: Option<Instant>,
}

impl Rest {
    /// The silence before each request, after an answer of any unit.
    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    /// An answer came to a request that was sent after so long a silence.
    pub(super) fn answered(&mut self, now: Instant, answer: Answer<'_>, silence: Duration) {
        let [.., most] = RESTS;
        if self.longest_at.is_some_and(|at| now >= at + IN_VAIN) {
            self.longest = Duration::ZERO;
        }
        match answer {
            Answer::Exception(Exception::BUSY) if silence < most => {
                self.busy += 1;
                if silence >= self.longest {
                    (self.longest, self.longest_at) = (silence, Some(now));
                }
            }
            // After such a silence it is no matter of haste.
            Answer::Exception(Exception::BUSY) => self.busy = 0,
            Answer::Data(_) | Answer::Done if silence <= self.longest => self.busy = 0,
            _ => {}
        }
        if self.busy < BUSY || self.not_before.is_some_and(|at| now < at) {
            return;
        }
        match RESTS.into_iter().find(|rest| *rest > self.longest && *rest > self.pause) {
            Some(rest) => self.pause = rest,
            None => (self.pause, self.not_before) = (Duration::ZERO, Some(now + IN_VAIN)),
        }
        (self.busy, self.longest) = (0, Duration::ZERO);
    }
}
