//! What may still come of a unit's requests, and whether it could be taken for another's answer.
//!
//! Units answer in order, and an RTU answer does not say which request it answers; see
//! [`unit`](super). Where all reads of a map have one shape, one of them is the probe: its answer
//! is not used, and the unit is left alone until all that is outstanding has come, or until it was
//! silent for longer than any answer takes: six time-outs, or twice the age of the latest answer if
//! that is more, at most twenty. As it answers in order, one answer after the other would come
//! within that. An answer that is left over shows that a unit is out of step after all.
//!
//! A unit whose answers come late, twice without one in time between, is waited for longer, and so
//! is one that answers the same read late each time; see `lateness`.

use std::time::{Duration, Instant};

use super::super::learn::Obstacle;
use super::super::pdu::{Answer, EXCEPTION, Shape};
use super::Unit;
use super::part::Part;

/// Most unanswered requests remembered, to detect late responses.
const UNANSWERED_MAX: usize = 32;
/// Shortest and longest silence, in time-outs, after which no answer can still come: the least is
/// more than any answer takes that comes up to four time-outs late.
const STILL_TO_COME: (u32, u32) = (6, 20);

impl Unit {
    /// For so long an answer to its last request may still come.
    pub(in super::super) fn rest(&self) -> Duration {
        self.still_to_come(self.timeout())
    }

    /// The port was closed. A converter keeps what comes meanwhile, so time until it is open again
    /// does not count.
    pub(in super::super) fn closed(&mut self, now: Instant) {
        self.closed_at = Some(now);
        // A unit in step is waiting for what is still to come.
        let is_waiting = self.in_step && !self.is_numbered && self.is_mistakable();
        self.still = if is_waiting { self.due.saturating_duration_since(now) } else { Duration::ZERO };
    }

    /// Takes over from the unit of this address of before a reload what may still come.
    pub(in super::super) fn adopt(&mut self, before: &Unit) {
        self.unanswered.clone_from(&before.unanswered);
        (self.ended_at, self.latest, self.closed_at) = (before.ended_at, before.latest, before.closed_at);
        // The map may be another one, and with it what can be mistaken.
        self.in_step = self.unanswered.is_empty() && before.in_step;
    }

    /// An answer came to this request, or to an earlier one whose answer has this shape: then that
    /// one's is still to come. The unit answers in order, so those before have come. Whether it can
    /// only be the answer to this one.
    pub(super) fn account(&mut self, shape: Shape, asked: Instant, answer: Answer<'_>) -> bool {
        let is_exception = matches!(answer, Answer::Exception(_));
        let fits = |of: &Shape| *of == shape || is_exception && of.function == shape.function;
        match self.unanswered.iter().position(|(of, _)| fits(of)).filter(|_| !self.is_numbered) {
            Some(at) => {
                self.unanswered.drain(..=at);
                self.remember(shape, asked);
                false
            }
            None => {
                self.unanswered.clear();
                true
            }
        }
    }

    /// Whether an answer that is still to come could be taken for that to a block.
    pub(super) fn is_mistakable(&self) -> bool {
        let of = |part: &Part| part.block.request().map(|request| request.answer());
        let is_like = |shape: &Shape| self.parts.iter().any(|part| of(part) == Some(*shape));
        self.unanswered.iter().any(|(shape, _)| is_like(shape))
    }

    /// A frame of this unit came while nothing was asked of it, and nothing is outstanding: one of
    /// its answers may have been taken for another's. Its next turn begins with a probe.
    pub(in super::super) fn left_over(&mut self) {
        self.is_left_over = !self.is_numbered;
    }

    /// After so much silence none of its answers can still come.
    pub(super) fn still_to_come(&self, timeout: Duration) -> Duration {
        let (least, most) = STILL_TO_COME;
        (2 * self.latest).clamp(timeout * least, timeout * most)
    }

    pub(super) fn remember(&mut self, shape: Shape, asked: Instant) {
        if self.unanswered.len() == UNANSWERED_MAX {
            self.unanswered.remove(0);
        }
        self.unanswered.push((shape, asked));
    }

    /// How long an answer is waited for: as configured, or as was learned while something comes
    /// from the unit.
    pub(in super::super) fn timeout(&self) -> Duration {
        self.lateness.timeout(self.settings.timeout)
    }

    /// A frame of this unit that is not the answer waited for: if it is a late one, how long after
    /// its request it came. `other`: the other unit that is being asked; then one later than
    /// any answer is waited for may be that one's.
    pub(in super::super) fn late(&mut self, now: Instant, pdu: &[u8], other: Option<u8>) -> Option<Duration> {
        let function = *pdu.first()?;
        let fits = |shape: &Shape| match function {
            EXCEPTION.. => shape.function | EXCEPTION == function,
            1..=4 if pdu.get(1).is_none_or(|count| usize::from(*count) + 2 != pdu.len()) => false,
            _ => shape.function == function && usize::from(shape.length) == pdu.len(),
        };
        let at = self.unanswered.iter().position(|(shape, _)| fits(shape))?;
        let last = self.unanswered.iter().rposition(|(shape, _)| fits(shape)).unwrap_or(at);
        // Those before may never be answered.
        let least = self
            .unanswered
            .get(last)
            .map_or(Duration::ZERO, |(_, asked)| now.saturating_duration_since(*asked));
        let (shape, asked) = self.unanswered.remove(at);
        if other.is_some() && least > self.settings.timeout * STILL_TO_COME.1 {
            return None;
        }
        self.counters.late += 1;
        self.lateness.heard();
        // Of several that it may answer, nobody knows how long it took.
        if at == last && self.lateness.late(least, self.settings.timeout) {
            self.is_wait_news = true;
            self.revision += 1;
        }
        // It is slow, not silent.
        if let Some((block, why, _)) = &mut self.blame
            && block.request().is_some_and(|request| request.answer() == shape)
        {
            *why = Obstacle::Late;
        }
        match other {
            None => self.is_late = true,
            Some(_) => self.crossed = other,
        }
        self.latest = self.latest.max(now.saturating_duration_since(asked));
        // A unit in step is waiting for what is still to come.
        let timeout = self.settings.timeout;
        if self.in_step && self.is_mistakable() {
            // The next one may take as long.
            self.due = self.due.max(now + self.still_to_come(timeout));
        } else if self.in_step && now < self.due {
            // All have come.
            self.due = self.due.min(now + timeout).max(self.slot.min(self.due));
        }
        Some(now.saturating_duration_since(asked))
    }

    /// Whether the wait was lengthened since this was asked last.
    pub(in super::super) fn take_wait_news(&mut self) -> bool {
        std::mem::take(&mut self.is_wait_news)
    }
}
