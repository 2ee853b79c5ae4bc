//! What a write needs of its unit: whether its answers can be told from late ones, and that the
//! answers to the reads around a write are accounted for like those of polls.

use std::time::Instant;

use super::super::pdu::Shape;
use super::{DOWN_AFTER, Unit};

impl Unit {
    /// Whether an answer of this shape can only be that to a request that is sent now.
    pub(in super::super) fn is_sure(&self, now: Instant, shape: Option<Shape>) -> bool {
        if self.is_numbered {
            return true;
        }
        // Then its wait for what was outstanding is over, as when its turn begins.
        let is_quiet = self.is_mistakable() && self.due <= now;
        let is_apart = || self.unanswered.iter().all(|(of, _)| Some(*of) != shape);
        self.in_step && !self.is_left_over && (is_quiet || is_apart())
    }

    /// Whether a turn of its own before it is due can show that its answers are in step: it failed
    /// once or twice, and rests. One that is down is asked in its back-off, for a write, too.
    pub(in super::super) fn may_be_hurried(&self) -> bool {
        (1..DOWN_AFTER).contains(&self.failures) && !self.in_step
    }

    /// A request of a write is sent.
    pub(in super::super) fn write_sent(&mut self, now: Instant) {
        if self.is_mistakable() && self.due <= now {
            self.unanswered.clear();
        }
        self.counters.requests += 1;
    }

    /// It was answered.
    pub(in super::super) fn write_answered(&mut self, now: Instant, asked: Instant, is_exception: bool) {
        self.counters.answers += 1;
        self.counters.exceptions += u64::from(is_exception);
        let took = now.saturating_duration_since(asked).as_millis();
        self.counters.busy_ms = self.counters.busy_ms.saturating_add(u64::try_from(took).unwrap_or(u64::MAX));
        self.answered_at = Some(now);
        self.ended_at = Some(now);
        self.openings = 0;
    }

    /// It had no answer; `is_read`: to a read, whose late answer could be taken for another's.
    /// It counts as no failure of the unit: many are silent to what they do not take.
    pub(in super::super) fn write_lost(&mut self, now: Instant, shape: Shape, asked: Instant, is_read: bool) {
        self.counters.silent += 1;
        self.ended_at = Some(now);
        self.remember(shape, asked);
        if is_read {
            self.in_step = false;
        }
    }
}
