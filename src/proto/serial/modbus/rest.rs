//! The silence that a unit wants after each answer on its line, learned when it says that it is
//! busy.
//!
//! ```text
//!  none ──busy each time so soon after an answer──> 100 ms ──the same──> 200 ms, 300 ms, 500 ms
//!    ^                                                 │
//!    └── values come without it <── after 10 s, then after twice as long and so on: without it
//! ```
//!
//! Some converters answer a request that comes too soon after the last answer of any unit in the
//! unit's name: exception 6. The units themselves are not busy. A unit that is busy with its own
//! work is so after a longer silence, too, or other units of the line answer as soon as that: then
//! nothing is learned. One that was busy for a while is asked as before soon after.

use std::time::{Duration, Instant};

use super::pdu::{Answer, Exception};

/// Silences that are tried, one after the other.
const RESTS: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(300),
    Duration::from_millis(500),
];
/// So often in a row without data as soon as that after an answer.
const BUSY: u32 = 6;
/// If even the longest does not help, none is tried for so long. So long it is remembered after
/// what silence a unit was busy all the same.
const IN_VAIN: Duration = Duration::from_secs(3600);
/// After so long the unit is asked without it again; after twice as long if that was in vain, and
/// so on, at most after so long.
const TRIAL: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3600));
/// In a trial so many answers in a row decide.
const DECISIVE: u32 = 2;

/// What one unit of a line wants.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rest {
    pause: Duration,
    /// Busy so often in a row.
    busy: u32,
    /// The longest silence after which it was busy, and when.
    longest: Duration,
    longest_at: Option<Instant>,
    not_before: Option<Instant>,
    /// When it is asked without a pause again, and how long after that the next time.
    trial_at: Option<Instant>,
    wait: Duration,
    /// Busy so often in a row although the pause was kept, whether data came after it ever, and
    /// whether other units answered sooner meanwhile.
    vain: u32,
    is_helped: bool,
    is_others: bool,
    /// The pause that a trial does without, and the answers in a row that it did not take.
    left_out: Option<(Duration, u32)>,
}

impl Rest {
    /// The silence before each request to the unit, after an answer of any unit.
    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    /// Another unit answered a request that was sent after so long a silence: if with data, the
    /// line takes it.
    pub(super) fn other_answered(&mut self, answer: Answer<'_>, silence: Duration) {
        if !matches!(answer, Answer::Exception(_)) && silence <= self.longest {
            self.busy = 0;
        }
        self.is_others |= !matches!(answer, Answer::Exception(_)) && silence < self.pause;
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
        self.judge_pause(now, answer, silence);
        self.judge_trial(answer, silence);
        if self.trial_at.is_some_and(|at| now >= at) && self.busy == 0 {
            self.left_out = Some((std::mem::take(&mut self.pause), 0));
            self.wait = (self.wait * 2).min(TRIAL.1);
            self.trial_at = None;
            return;
        }
        if let Some((pause, _)) = self.left_out {
            if self.busy >= DECISIVE && !self.is_helped {
                self.give_up(now);
            } else if self.busy >= DECISIVE {
                // It is wanted after all.
                (self.pause, self.left_out) = (pause, None);
                self.trial_at = Some(now + self.wait);
                (self.busy, self.longest) = (0, Duration::ZERO);
            }
            return;
        }
        if self.busy < BUSY || self.not_before.is_some_and(|at| now < at) {
            return;
        }
        self.lengthen(now);
    }

    /// The next longer pause is tried, or none any more.
    fn lengthen(&mut self, now: Instant) {
        match RESTS.into_iter().find(|rest| *rest > self.longest && *rest > self.pause) {
            Some(rest) => {
                self.pause = rest;
                self.wait = self.wait.max(TRIAL.0);
                self.trial_at = Some(now + self.wait);
                (self.vain, self.is_helped, self.is_others) = (0, false, false);
                (self.busy, self.longest) = (0, Duration::ZERO);
            }
            None => self.give_up(now),
        }
    }

    /// No pause helps.
    fn give_up(&mut self, now: Instant) {
        (self.pause, self.not_before) = (Duration::ZERO, Some(now + IN_VAIN));
        (self.trial_at, self.wait, self.left_out) = (None, Duration::ZERO, None);
        (self.vain, self.is_helped, self.is_others) = (0, false, false);
        (self.busy, self.longest) = (0, Duration::ZERO);
    }

    /// A unit that is as busy after the pause does not want it; and none, if others of its line
    /// answer sooner.
    fn judge_pause(&mut self, now: Instant, answer: Answer<'_>, silence: Duration) {
        if self.pause.is_zero() || silence < self.pause {
            return;
        }
        match answer {
            Answer::Exception(Exception::BUSY) => self.vain += 1,
            Answer::Exception(_) => return,
            Answer::Data(_) | Answer::Done => (self.vain, self.is_helped) = (0, true),
        }
        if self.vain >= BUSY && self.is_others {
            self.give_up(now);
        } else if self.vain >= BUSY {
            self.lengthen(now);
        }
    }

    /// Values that came sooner than after the pause that is left out show that it is not wanted.
    fn judge_trial(&mut self, answer: Answer<'_>, silence: Duration) {
        let is_data = !matches!(answer, Answer::Exception(_));
        if let Some((pause, fine)) = &mut self.left_out
            && is_data
            && silence < *pause
        {
            *fine += 1;
            if *fine >= BUSY {
                (self.left_out, self.wait) = (None, Duration::ZERO);
            }
        }
    }
}
