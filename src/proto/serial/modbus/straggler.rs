//! Answers that a gateway gave up, and that may still come to it from its line.
//!
//! ```text
//!  none ──a request is given up──> one may come ──six time-outs later──> none
//!                                       │
//!        of its shape: each read until two answers in a row are the same, or three came
//! ```
//!
//! Some gateways put the number and the unit of the present request on what comes then, and from
//! then on they are one answer late. Over Modbus TCP without numbers, and where frames of a line
//! come through the network, the unit alone is enough for that. When it comes, nobody knows: it can
//! be before a read is sent, or between a read and its repetition. So as long as it may come, what
//! the values show is no proof that it has not, and a read that is sent twice is not sure. But of
//! the answers to one read that is repeated one at most is another's: two that are the same are
//! right, and of three values the last one of two that are near to each other is ([`likely`]).
//! Where several may come, as many more must be the same, or twice as many more come.
//!
//! Other answers to the same read may be used by [`Relay`](super::relay) as always: those of a
//! shape that nothing has that may still come.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use super::map::Value;
use super::pdu::{EXCEPTION, Shape};

/// Most that are remembered, each for one unit and shape. Beyond them any answer is one that may
/// still come.
const GIVEN_UP_MAX: usize = 64;
/// So many at most are reckoned with.
pub(super) const LATE_MAX: usize = 8;
/// Values are near to each other that differ by no more than this part of the greatest of them: a
/// hundredth is more than what is measured changes by from one request to the next, and less than
/// the step of what jumps, as a sign, a direction beside north or the number of a state.
const NEAR: f64 = 0.01;
/// And nothing is shown by it where a value of another register differs by no more than this part,
/// as those of the phases of one mains do.
const ALIKE: f64 = 0.05;

/// What the answers to one read show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing may come that could be taken for this answer.
    Free,
    /// The read is to be sent again.
    Again,
    /// The last answer is right.
    Right,
    /// Most of the last ones are right.
    Most,
}

/// The last answers to a read, of which most are its own.
#[derive(Debug)]
pub(super) struct Several<'a> {
    /// None if the last answer is right.
    pub(super) answers: &'a [Vec<u8>],
    /// The last answers to other reads that may be among them; `None`: one that is not known may
    /// be.
    pub(super) others: Option<Vec<Vec<u8>>>,
}

/// One that may still come.
#[derive(Clone, Copy, Debug)]
struct GivenUp {
    unit: u8,
    shape: Shape,
    until: Instant,
    times: u32,
}

/// What may still come to the gateway, and the answers to the present read.
#[derive(Clone, Debug, Default)]
pub(super) struct Stragglers {
    given_up: Vec<GivenUp>,
    /// Until then any shape may come.
    any: Option<Instant>,
    /// When the first request of the present read was sent.
    begun: Option<Instant>,
    answers: Vec<Vec<u8>>,
    /// So many of the last answers are the same.
    alike: usize,
}

impl Stragglers {
    /// A request has no answer, and may have until then.
    pub(super) fn gave_up(&mut self, now: Instant, unit: u8, shape: Shape, until: Instant) {
        self.begin(now);
        self.given_up.retain(|known| known.until > now);
        let mut known = self.given_up.iter_mut();
        if let Some(known) = known.find(|known| (known.unit, known.shape) == (unit, shape)) {
            known.until = known.until.max(until);
            known.times = known.times.saturating_add(1);
        } else if self.given_up.len() < GIVEN_UP_MAX {
            self.given_up.push(GivenUp { unit, shape, until, times: 1 });
        } else {
            self.any = self.any.max(Some(until));
        }
    }

    /// The connection was closed for so long, in which nothing could come.
    pub(super) fn suspend(&mut self, now: Instant, closed: Duration) {
        let was_open = |until: &&mut Instant| **until + closed > now;
        let known = self.given_up.iter_mut().map(|known| &mut known.until);
        known.chain(self.any.as_mut()).filter(was_open).for_each(|until| *until += closed);
    }

    /// Takes over what may still come from the line of before a reload.
    pub(super) fn adopt(&mut self, before: &Stragglers) {
        self.given_up.clone_from(&before.given_up);
        self.any = before.any;
    }

    /// An answer of this unit came late and under its own number: it comes no second time.
    /// Whether it was expected.
    pub(super) fn came(&mut self, unit: u8, pdu: &[u8]) -> bool {
        let is_it = |known: &&mut GivenUp| {
            let is_function =
                pdu.first().is_some_and(|function| function & !EXCEPTION == known.shape.function);
            let is_whole = pdu.first().is_some_and(|function| function & EXCEPTION != 0)
                || pdu.len() == usize::from(known.shape.length);
            known.unit == unit && is_function && is_whole
        };
        let Some(known) = self.given_up.iter_mut().find(is_it) else { return false };
        known.times = known.times.saturating_sub(1);
        self.given_up.retain(|known| known.times > 0);
        true
    }

    /// An answer of this function and length, of whatever unit, came in place of another one: it
    /// comes no second time.
    pub(super) fn came_in_place(&mut self, now: Instant, shape: Shape) {
        let is_it = |known: &&mut GivenUp| known.shape == shape && now < known.until;
        if let Some(known) = self.given_up.iter_mut().find(is_it) {
            known.times = known.times.saturating_sub(1);
        }
        self.given_up.retain(|known| known.times > 0);
    }

    /// The same where something came in its place that is more likely all: it is one at most.
    pub(super) fn may_have_given_up(&mut self, now: Instant, unit: u8, shape: Shape, until: Instant) {
        let mut known = self.given_up.iter_mut().filter(|known| known.until > now);
        match known.find(|known| (known.unit, known.shape) == (unit, shape)) {
            Some(known) => known.until = known.until.max(until),
            None => self.gave_up(now, unit, shape, until),
        }
        self.begin(now);
    }

    /// Another read is sent, or the same after a loss.
    pub(super) fn begin(&mut self, now: Instant) {
        self.begun = Some(now);
        self.answers.clear();
        self.alike = 0;
    }

    /// Whether anything may still come.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.any.is_some_and(|until| now < until) || self.given_up.iter().any(|known| now < known.until)
    }

    /// Whether one of this shape may still come.
    pub(super) fn may_bring(&self, now: Instant, shape: Shape) -> bool {
        self.any.is_some_and(|until| now < until)
            || self.given_up.iter().any(|known| known.shape == shape && now < known.until)
    }

    /// The present read was answered. `late`: so many of the answers to it may be others'; and
    /// whether they may be in any case.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        shape: Shape,
        data: &[u8],
        (late, is_sure): (usize, bool),
    ) -> Verdict {
        let since = self.begun.unwrap_or(now);
        let is_any = is_sure || self.any.is_some_and(|until| since < until);
        if !is_any && !self.given_up.iter().any(|known| known.shape == shape && since < known.until) {
            self.answers.clear();
            return Verdict::Free;
        }
        let is_same = self.answers.last().is_some_and(|before| before == data);
        self.alike = if is_same { self.alike + 1 } else { 1 };
        let enough = 2 * late + 1;
        self.answers.push(data.to_vec());
        self.answers.drain(..self.answers.len().saturating_sub(enough));
        match self.answers.len() {
            _ if self.alike > late => Verdict::Right,
            count if count == enough => Verdict::Most,
            _ => Verdict::Again,
        }
    }

    /// The last answers to the present read.
    pub(super) fn answers(&self) -> &[Vec<u8>] {
        &self.answers
    }
}

/// Of several values of one register in the order in which they came, of which less than half are
/// another's: the one that more than half are, if there is one; so many have its own among them.
/// Else the last one of those that more than half are near to. That is its own only if no other
/// register has a value that is near to them: so not if one of `others` is, or if these are not
/// known. If none are near to each other, its own values jump, and another's may lie between them.
/// What is no number must be the same in more than half.
pub(super) fn likely(values: Vec<Option<Value>>, others: Option<&[Option<Value>]>) -> Option<Value> {
    let number = |value: &Option<Value>| value.as_ref().and_then(Value::number);
    let half = values.len() / 2;
    let is_most = |value: &&Option<Value>| values.iter().filter(|other| other == value).count() > half;
    if let Some(most) = values.iter().find(is_most) {
        return most.clone();
    }
    let others = others?;
    if !values.iter().all(|value| number(value).is_some()) {
        return None;
    }
    let mut sorted: Vec<(usize, f64)> =
        values.iter().enumerate().filter_map(|(at, value)| Some((at, number(value)?))).collect();
    sorted.sort_by(|(_, one), (_, other)| one.partial_cmp(other).unwrap_or(Ordering::Equal));
    let is_near = |most: &&[(usize, f64)]| {
        let ends = most.first().zip(most.last());
        ends.is_some_and(|((_, least), (_, greatest))| {
            let size = least.abs().max(greatest.abs());
            let is_others = |other: &Option<Value>| {
                let far = ALIKE * size;
                number(other).is_some_and(|other| other >= least - far && other <= greatest + far)
            };
            greatest - least <= NEAR * size && !others.iter().any(is_others)
        })
    };
    let near = sorted.windows(half + 1).filter(is_near).flatten().map(|(at, _)| *at);
    near.max().and_then(|at| values.get(at).cloned()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Shape = Shape { function: 3, length: 6 };
    const SHORT: Shape = Shape { function: 3, length: 4 };

    #[test]
    fn a_read_of_the_shape_that_may_still_come_is_sent_until_two_in_a_row_or_three_in_all_came() {
        let now = Instant::now();
        let mut stragglers = Stragglers::default();
        assert_eq!(stragglers.answered(now, SHORT, &[0, 1], (1, false)), Verdict::Free);
        stragglers.gave_up(now, 4, SHORT, now + Duration::from_secs(6));
        assert!(stragglers.is_open(now) && !stragglers.is_open(now + Duration::from_secs(6)));
        assert_eq!(stragglers.answered(now, LONG, &[0, 1, 0, 2], (1, false)), Verdict::Free);
        assert_eq!(stragglers.answered(now, SHORT, &[0, 1], (1, false)), Verdict::Again);
        assert_eq!(stragglers.answered(now, SHORT, &[0, 1], (1, false)), Verdict::Right);
        stragglers.begin(now);
        assert_eq!(stragglers.answered(now, SHORT, &[0, 1], (1, false)), Verdict::Again);
        assert_eq!(stragglers.answered(now, SHORT, &[0, 2], (1, false)), Verdict::Again);
        assert_eq!(stragglers.answered(now, SHORT, &[0, 3], (1, false)), Verdict::Most);
        assert_eq!(stragglers.answers(), [[0, 1], [0, 2], [0, 3]]);
        // What began before its end is judged by what could come then.
        let later = now + Duration::from_secs(7);
        assert_eq!(stragglers.answered(later, SHORT, &[0, 4], (1, false)), Verdict::Most);
        stragglers.begin(later);
        assert_eq!(stragglers.answered(later, SHORT, &[0, 4], (1, false)), Verdict::Free);
    }

    #[test]
    fn where_two_may_come_three_must_be_the_same_or_five_come() {
        let now = Instant::now();
        let mut stragglers = Stragglers::default();
        for unit in [4, 5] {
            stragglers.gave_up(now, unit, SHORT, now + Duration::from_secs(6));
        }
        for (value, expected) in [
            (1, Verdict::Again),
            (1, Verdict::Again),
            (2, Verdict::Again),
            (2, Verdict::Again),
            (2, Verdict::Right),
        ] {
            assert_eq!(stragglers.answered(now, SHORT, &[0, value], (2, false)), expected);
        }
        stragglers.begin(now);
        for value in 0..4 {
            assert_eq!(stragglers.answered(now, SHORT, &[0, value], (2, false)), Verdict::Again);
        }
        assert_eq!(stragglers.answered(now, SHORT, &[0, 9], (2, false)), Verdict::Most);
        assert!(!stragglers.is_open(now + Duration::from_secs(6)));
    }

    #[test]
    fn an_answer_that_came_late_under_its_own_number_is_not_expected_any_more() {
        let now = Instant::now();
        let mut stragglers = Stragglers::default();
        for _ in 0..2 {
            stragglers.gave_up(now, 4, SHORT, now + Duration::from_secs(6));
        }
        stragglers.came(4, &[3, 4, 0, 1, 0, 2]);
        stragglers.came(5, &[3, 2, 0, 1]);
        stragglers.came(4, &[3, 2, 0, 1]);
        assert!(stragglers.is_open(now));
        stragglers.came(4, &[0x83, 2]);
        assert!(!stragglers.is_open(now));
    }

    #[test]
    fn while_the_connection_is_closed_the_time_of_what_may_still_come_stands_still() {
        let now = Instant::now();
        let of = Duration::from_secs;
        let mut stragglers = Stragglers::default();
        stragglers.gave_up(now, 4, SHORT, now + of(6));
        stragglers.gave_up(now, 5, SHORT, now + of(1));
        // Closed from the second second on.
        stragglers.suspend(now + of(60), of(58));
        assert!(stragglers.is_open(now + of(63)) && !stragglers.is_open(now + of(64)));
    }

    #[test]
    fn with_more_than_are_remembered_any_answer_may_be_another_ones() {
        let now = Instant::now();
        let mut stragglers = Stragglers::default();
        for unit in 0..=64 {
            stragglers.gave_up(now, unit, SHORT, now + Duration::from_secs(6));
        }
        assert_eq!(stragglers.answered(now, LONG, &[0, 1, 0, 2], (1, false)), Verdict::Again);
    }

    #[test]
    fn of_several_values_the_last_one_of_most_that_are_near_to_each_other_is_taken_or_none() {
        let likely = |values: Vec<Option<Value>>| likely(values, Some(&[]));
        let of = |values: [u64; 3]| likely(values.map(|value| Some(Value::Unsigned(value))).to_vec());
        assert_eq!(of([230, 5, 231]), Some(Value::Unsigned(231)));
        assert_eq!(of([900, 231, 230]), Some(Value::Unsigned(230)));
        // Another one that is alike comes first, most likely.
        assert_eq!(of([229, 231, 230]), Some(Value::Unsigned(230)));
        assert_eq!(of([0, 7, 0]), Some(Value::Unsigned(0)));
        // Each may be another's, and the middle one, too.
        for jumping in [[359, 49, 1], [2, 1, 0], [230, 235, 240]] {
            assert_eq!(of(jumping), None);
        }
        let signed = [-95, 48, 95].map(|value| Some(Value::Signed(value)));
        assert_eq!(likely(signed.to_vec()), None);
        // Of five, two may be others'.
        assert_eq!(
            likely([5, 5, 230, 231, 232].map(|value| Some(Value::Unsigned(value))).to_vec()),
            Some(Value::Unsigned(232))
        );
        assert_eq!(likely([5, 5, 1, 231, 232].map(|value| Some(Value::Unsigned(value))).to_vec()), None);
        let texts = ["on", "on", "off", "alarm", "no"].map(|text| Some(Value::Text(text.to_owned())));
        assert_eq!(likely(texts.to_vec()), None);
        assert_eq!(
            likely(vec![Some(Value::Bool(true)), None, Some(Value::Bool(true))]),
            Some(Value::Bool(true))
        );
        let texts = ["off", "alarm", "on"].map(|text| Some(Value::Text(text.to_owned())));
        assert_eq!(likely(texts.to_vec()), None);
        assert_eq!(likely(vec![Some(Value::Null), Some(Value::Single(1.5)), Some(Value::Single(9.0))]), None);
    }

    #[test]
    fn no_value_is_taken_that_may_be_that_of_another_register_which_has_values_alike() {
        let all = |values: &[u64]| -> Vec<Option<Value>> {
            values.iter().map(|value| Some(Value::Unsigned(*value))).collect()
        };
        let of = |values: [u64; 3], others: &[u64]| likely(all(&values), Some(&all(others)));
        assert_eq!(of([2300, 2310, 2305], &[2290]), None);
        assert_eq!(of([2300, 500, 2305], &[2290]), None);
        assert_eq!(of([2300, 500, 2305], &[500]), Some(Value::Unsigned(2305)));
        // More than half are the same, so one of them is its own.
        assert_eq!(of([2300, 2310, 2300], &[2290]), Some(Value::Unsigned(2300)));
        // Nobody knows what another one has.
        assert_eq!(likely(all(&[2300, 2310, 2305]), None), None);
        assert_eq!(likely(all(&[2300, 2310, 2310]), None), Some(Value::Unsigned(2310)));
    }
}
