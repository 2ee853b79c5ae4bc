//! Whether a line misses requests that come too soon after an answer, of whatever unit.
//!
//! Some converters take no request for a while after each answer, whichever unit either is for. A
//! unit finds out by itself what it wants ([`unit`](super::unit)), but only where its own reads
//! fail again and again. Behind a converter in the network reads are sent twice after each loss,
//! and each of the two can be lost so, now of this unit and now of that. So there it is counted for
//! the whole line, too:
//!
//! ```text
//!  none ──lost so soon after an answer, and then its unit answers after a rest──> one ──> … three: each unit is given the rest
//!    ^                                                                             │
//!    └────────────────── answered as soon as that, by whatever unit ───────────────┘
//! ```

use std::time::Duration;

use super::learn::{FAILURES, LINE_PAUSES};

/// Requests that a line missed, as it seems, because they came too soon.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Haste {
    missed: u32,
    /// The longest silence before one of them.
    longest: Duration,
}

impl Haste {
    /// A request was answered that was sent after so long a silence. `missed`: the silence before
    /// the last request to its unit that was lost. `soonest`: the shortest after which any was
    /// ever answered. Whether it is certain now that the line wants a rest.
    pub(super) fn answered(
        &mut self,
        silence: Duration,
        missed: Option<Duration>,
        soonest: Option<Duration>,
    ) -> bool {
        if silence <= self.longest || soonest.is_some_and(|soonest| soonest <= self.longest) {
            *self = Haste::default();
        }
        let (rest, _) = LINE_PAUSES;
        let is_sooner = |missed: &Duration| {
            silence >= rest && *missed < rest && soonest.is_none_or(|soonest| soonest > *missed)
        };
        if let Some(missed) = missed.filter(is_sooner) {
            self.missed += 1;
            self.longest = self.longest.max(missed);
        }
        let is_certain = self.missed >= FAILURES;
        if is_certain {
            *self = Haste::default();
        }
        is_certain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_line_wants_a_rest_if_three_requests_were_lost_and_none_was_answered_as_soon() {
        let mut haste = Haste::default();
        assert!(!haste.answered(ms(300), Some(ms(4)), None));
        assert!(!haste.answered(ms(300), None, Some(ms(300))));
        assert!(!haste.answered(ms(120), Some(ms(30)), Some(ms(120))));
        assert!(haste.answered(ms(120), Some(ms(4)), Some(ms(60))));
    }

    #[test]
    fn a_loss_shows_nothing_if_requests_were_answered_as_soon_or_it_came_late_enough() {
        let mut haste = Haste::default();
        for _ in 0..9 {
            assert!(!haste.answered(ms(300), Some(ms(4)), Some(ms(4))));
            assert!(!haste.answered(ms(300), Some(ms(100)), None));
            assert!(!haste.answered(ms(50), Some(ms(4)), None));
        }
        for _ in 0..9 {
            assert!(!haste.answered(ms(300), Some(ms(40)), Some(ms(60))));
            assert!(!haste.answered(ms(300), Some(ms(40)), Some(ms(60))));
            assert!(!haste.answered(ms(40), None, Some(ms(60))));
        }
    }
}
