//! What a write needs of its unit: whether its answers can be told from late ones, and that the
//! answers to the reads around a write are accounted for like those of polls.

use std::time::Instant;

use super::super::doubt::Trust;
use super::super::pdu::{Answer, Request, Shape};
use super::{DOWN_AFTER, Unit};

impl Unit {
    /// Whether an answer of this shape can only be that to a request that is sent now.
    pub(in super::super) fn is_sure(&self, now: Instant, shape: Option<Shape>) -> bool {
        if self.is_numbered {
            return true;
        }
        // Then its wait for what was outstanding is over, as when its turn begins. Only a converter
        // that delivers an answer with the next request could still have one.
        let is_over = || {
            self.due <= now
                && !self.is_behind()
                && self.doubt.is_settled(now, self.still_to_come(self.timeout()))
        };
        let is_apart = || shape.is_none_or(|shape| !self.doubt.may_bring(shape));
        self.in_step && !self.is_left_over && (is_apart() || is_over())
    }

    /// Whether a turn of its own before it is due can show that its answers are in step: it failed
    /// once or twice, and rests. One that is down is asked in its back-off, for a write, too.
    pub(in super::super) fn may_be_hurried(&self) -> bool {
        (1..DOWN_AFTER).contains(&self.failures) && !self.in_step
    }

    /// Whether an answer of it was late or missing so lately that one may still come, whatever came
    /// after it: answers may overtake each other.
    pub(in super::super) fn was_just_late(&self, now: Instant) -> bool {
        self.missed_at.is_some_and(|at| now.saturating_duration_since(at) < self.longest_wait())
    }

    /// A request of a write is sent.
    pub(in super::super) fn write_sent(&mut self) {
        self.counters.requests += 1;
    }

    /// It was answered: whether that can be the answer to another request.
    pub(in super::super) fn write_answered(
        &mut self,
        now: Instant,
        (request, asked): (&Request, Instant),
        answer: Answer<'_>,
    ) -> Trust {
        self.counters.answers += 1;
        self.counters.exceptions += u64::from(matches!(answer, Answer::Exception(_)));
        let took = now.saturating_duration_since(asked).as_millis();
        self.counters.busy_ms = self.counters.busy_ms.saturating_add(u64::try_from(took).unwrap_or(u64::MAX));
        // What it may have taken the place of still comes.
        let trust = self.account(now, (request, asked), answer);
        self.answered_at = Some(now);
        self.heard_at = Some(now);
        self.ended_at = Some(now);
        self.openings = 0;
        trust
    }

    /// It had no answer. It counts as no failure of the unit: many are silent to what they do not
    /// take.
    pub(in super::super) fn write_lost(&mut self, now: Instant, request: &Request, asked: Instant) {
        self.counters.silent += 1;
        (self.ended_at, self.missed_at) = (Some(now), Some(now));
        self.doubt.unanswered(request, asked);
        // The late answer to a read could be taken for another's.
        if request.function() <= 4 {
            self.in_step = false;
        }
    }
}
