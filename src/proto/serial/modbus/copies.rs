//! Answers that come more than once: a repeater, a converter or a unit sends each frame again.
//!
//! A copy can come when the next request is under way, and fits that if it asks for as much.
//! Nothing in it is wrong but its values: they are those of an answer that came a moment ago. So on
//! a line whose answers have no number, an answer to a read is *held* if it is the same as a
//! recent one to
//! another read of the unit, and not what this read brought the last time. What comes behind it is
//! the answer then, the last one of what comes; if nothing comes in the time of an answer, the
//! values are the same. If that was so three times, and no copy was ever seen, nothing is held any
//! more until one is: a unit whose values are often the same would be slow for nothing.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::pdu::{Answer, Request};

/// Answers of a unit that are remembered.
const RECENT: usize = 4;
/// So long at least, and so many time-outs.
const FRESH: (Duration, u32) = (Duration::from_secs(3), 3);
/// Answers that were held in vain, after which none is.
const IN_VAIN: u8 = 3;

#[derive(Clone, Debug)]
struct Recent {
    request: Request,
    data: Vec<u8>,
    at: Instant,
    copies: u32,
}

/// The last answers of one unit.
#[derive(Clone, Debug, Default)]
pub(super) struct Copies {
    recent: VecDeque<Recent>,
    in_vain: u8,
}

/// A copy that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    /// So long after its answer.
    pub(super) after: Duration,
    /// With it the answer has come so often.
    pub(super) times: u32,
}

impl Copies {
    /// An answer was taken.
    pub(super) fn answered(&mut self, now: Instant, request: &Request, data: &[u8]) {
        self.recent.retain(|known| known.request != *request);
        self.recent.truncate(RECENT - 1);
        let (request, data) = (request.clone(), data.to_vec());
        self.recent.push_front(Recent { request, data, at: now, copies: 0 });
    }

    /// Whether an answer to this read may be the copy of one to another.
    pub(super) fn may_be_one(
        &self,
        now: Instant,
        request: &Request,
        data: &[u8],
        (before, timeout): (Option<&[u8]>, Duration),
    ) -> bool {
        let is_it = |known: &Recent| {
            let is_other = known.request != *request && known.request.answer() == request.answer();
            is_other && known.data == data && is_fresh(now, known.at, timeout)
        };
        // Of reads that were never answered nobody knows whether their values are often the same.
        let most = if before.is_none() { 1 } else { IN_VAIN };
        self.in_vain < most && before != Some(data) && self.recent.iter().any(is_it)
    }

    /// What was held is the answer.
    pub(super) fn was_none(&mut self) {
        self.in_vain = self.in_vain.saturating_add(1);
    }

    /// A copy of this answer came in place of another one's.
    pub(super) fn was_one(&mut self, now: Instant, data: &[u8]) -> Option<Copy> {
        let known = self.recent.iter_mut().find(|known| known.data == data)?;
        Some(note(known, &mut self.in_vain, now))
    }

    /// A frame came while late answers are reckoned with: how long after the answer that it may be
    /// the copy of.
    pub(super) fn resembles(&self, now: Instant, pdu: &[u8], timeout: Duration) -> Option<Duration> {
        let is_it = |known: &&Recent| {
            let answer = known.request.parse_answer(pdu);
            is_fresh(now, known.at, timeout) && matches!(answer, Ok(Answer::Data(data)) if data == known.data)
        };
        let known = self.recent.iter().find(is_it)?;
        Some(now.saturating_duration_since(known.at))
    }

    /// A frame came that nothing is outstanding for: if it is a copy, of what.
    pub(super) fn came(&mut self, now: Instant, pdu: &[u8], timeout: Duration) -> Option<Copy> {
        let is_it = |known: &&mut Recent| {
            let answer = known.request.parse_answer(pdu);
            is_fresh(now, known.at, timeout) && matches!(answer, Ok(Answer::Data(data)) if data == known.data)
        };
        let known = self.recent.iter_mut().find(is_it)?;
        Some(note(known, &mut self.in_vain, now))
    }
}

fn note(known: &mut Recent, in_vain: &mut u8, now: Instant) -> Copy {
    known.copies = known.copies.saturating_add(1);
    *in_vain = 0;
    Copy { after: now.saturating_duration_since(known.at), times: known.copies.saturating_add(1) }
}

fn is_fresh(now: Instant, at: Instant, timeout: Duration) -> bool {
    let (least, times) = FRESH;
    now.saturating_duration_since(at) <= (timeout * times).max(least)
}

#[cfg(test)]
mod tests {
    use super::super::pdu::Table;
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);

    fn read(address: u16) -> Request {
        Request::read(Table::Holding, address, 1).unwrap()
    }

    #[test]
    fn the_values_of_another_read_are_held_unless_they_are_its_own_of_before() {
        let now = Instant::now();
        let mut copies = Copies::default();
        copies.answered(now, &read(0), &[0, 7]);
        let may = |copies: &Copies, at: Instant, data: &[u8], before: Option<&[u8]>| {
            copies.may_be_one(at, &read(1), data, (before, TIMEOUT))
        };
        assert!(may(&copies, now, &[0, 7], None) && may(&copies, now, &[0, 7], Some(&[0, 6])));
        assert!(!may(&copies, now, &[0, 7], Some(&[0, 7])) && !may(&copies, now, &[0, 8], None));
        assert!(!may(&copies, now + 4 * TIMEOUT, &[0, 7], None));
        assert!(!copies.may_be_one(now, &read(0), &[0, 7], (None, TIMEOUT)));
        (0..3).for_each(|_| copies.was_none());
        assert!(!may(&copies, now, &[0, 7], None));
        let copy = copies.came(now + TIMEOUT, &[3, 2, 0, 7], TIMEOUT);
        assert_eq!(copy, Some(Copy { after: TIMEOUT, times: 2 }));
        assert!(may(&copies, now, &[0, 7], None));
        assert_eq!(copies.was_one(now, &[0, 7]).map(|copy| copy.times), Some(3));
        assert_eq!(copies.came(now, &[3, 2, 0, 8], TIMEOUT), None);
    }
}
