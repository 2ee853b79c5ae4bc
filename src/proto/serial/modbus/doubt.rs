//! Whether an answer may be used, where answers do not say which request they answer.
//!
//! ```text
//!  nothing outstanding ──a request without an answer──> outstanding: the request
//!          ^                                                  │ an answer of its shape
//!          │ an answer of no outstanding shape                v
//!          └──────────── or twice in step ────── outstanding: the last request, and so on
//! ```
//!
//! Units, and the converters before them, hand on answers in order, each at most once. So an answer
//! is that to the last request, or to an outstanding one of the same shape; then those before have
//! come, and the last one's is outstanding in its place. It is used only if every request that it
//! may answer asked the same, not long ago. So in doubt each read is sent once more than answers
//! may be outstanding, and the values of two reads are never exchanged.
//!
//! What is outstanding is forgotten with time, but for one: some converters deliver an answer only
//! with the next request, however late. That one is forgotten when the answers show that they are
//! in step: the answers to a read that is repeated are the same, and not that to the read before,
//! twice. Where all values are the same there is nothing to exchange, and no read is repeated
//! ([`Doubt::used`]) until one is another. If instead the first one equals the answer to the read
//! before, and not the one that follows it, answers come one request late ([`Doubt::is_behind`]).

use std::time::{Duration, Instant};

use super::pdu::{Answer, EXCEPTION, Request, Shape};

/// Most requests remembered whose answers may still come.
const OPEN_MAX: usize = 32;
/// Most answers of one run that are kept.
const RUN_MAX: usize = 4;
/// So often the answers must show that they are in step.
pub(super) const IN_STEP: u32 = 2;
/// So often they must show that they come one request late.
pub(super) const BEHIND: u32 = 3;
/// Where there is one read only, its answer can be old, but no other's; and at an opening nothing
/// failed: so many without a sign that answers come late are enough.
pub(super) const PLAIN: u32 = 20;
/// So many that were all the same: nothing can be exchanged until one is not.
pub(super) const EQUAL: u32 = 20;

/// What a request answers that may be that to an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// It can only be that to the last request.
    Sure,
    /// It may be that to an earlier request, which asked the same a short time ago.
    Alike,
    /// It may be that to another request.
    Doubtful,
}

impl Trust {
    /// What both allow.
    pub(super) fn and(self, other: Trust) -> Trust {
        match (self, other) {
            (Trust::Doubtful, _) | (_, Trust::Doubtful) => Trust::Doubtful,
            (Trust::Alike, _) | (_, Trust::Alike) => Trust::Alike,
            (Trust::Sure, Trust::Sure) => Trust::Sure,
        }
    }
}

/// A request whose answer may still come.
#[derive(Clone, Debug)]
struct Open {
    /// `None`: one that nobody knows, of before the port was opened.
    request: Option<Request>,
    asked: Instant,
}

impl Open {
    fn may_bring(&self, request: &Request, is_exception: bool) -> bool {
        let Some(own) = &self.request else { return true };
        match is_exception {
            true => own.function() == request.function(),
            false => own.answer() == request.answer(),
        }
    }
}

/// A late answer.
#[derive(Clone, Debug)]
pub(super) struct Late {
    /// The request that it answers at the earliest, and when that was sent.
    pub(super) request: Request,
    pub(super) asked: Instant,
    /// When the last request was sent that it may answer.
    pub(super) last_asked: Instant,
    /// There is one such request only.
    pub(super) is_certain: bool,
}

/// The answers to one read that is repeated.
#[derive(Clone, Debug, Default)]
struct Run {
    request: Option<Request>,
    /// The answer to the read before.
    before: Option<Vec<u8>>,
    answers: Vec<Vec<u8>>,
    /// When the first request of it was sent.
    begun: Option<Instant>,
    is_over: bool,
    /// What came before was an exception: if answers came one request late, one would be first.
    is_after_exception: bool,
}

/// What may still come of the requests to one unit.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubt {
    /// Answers carry the number of a request, which may be put on the answer to another one, if
    /// that has its function.
    is_numbered: bool,
    open: Vec<Open>,
    run: Run,
    in_step: u32,
    behind: u32,
    plain: u32,
    /// Reads in a row whose second answer is nearer to the first than that to the answer before.
    near: u32,
    /// The last answer, and how many before it were the same.
    last: Vec<u8>,
    equal: u32,
    /// What may still come is forgotten as long as each answer is the same as the last one.
    is_calm: bool,
    /// It is in doubt only because the port was opened.
    is_of_opening: bool,
    /// What a gateway gave up may still come: nothing that is in step now is so for good.
    is_early: bool,
    /// More than one is held back, perhaps: none is forgotten with time.
    is_several: bool,
    /// When the last request was sent that was not answered.
    lost_at: Option<Instant>,
}

impl Doubt {
    /// Answers carry the number of a request.
    pub(super) fn set_numbered(&mut self, is_numbered: bool) {
        self.is_numbered = is_numbered;
    }

    /// Whether what a gateway gave up may still come.
    /// `is_several`: more than one, perhaps for ever.
    pub(super) fn set_early(&mut self, is_early: bool, is_several: bool) {
        (self.is_early, self.is_several) = (is_early, is_several);
    }

    /// The line was shown to be in step.
    pub(super) fn reset(&mut self) {
        *self = Doubt { is_numbered: self.is_numbered, ..Doubt::default() };
    }

    /// Whether nothing can still come.
    pub(super) fn is_none(&self) -> bool {
        self.open.is_empty() && !self.is_calm
    }

    /// Whether answers come one request late, by their values.
    pub(super) fn is_behind(&self) -> bool {
        self.behind >= BEHIND
    }

    /// Nothing can still come.
    pub(super) fn clear(&mut self) {
        *self = Doubt { behind: self.behind, is_numbered: self.is_numbered, ..Doubt::default() };
    }

    /// An answer may come that nobody of this process asked for.
    pub(super) fn expect_unknown(&mut self, now: Instant) {
        self.is_of_opening = self.is_none();
        self.lost_at = Some(now);
        self.end_calm(now);
        self.push(Open { request: None, asked: now });
    }

    /// What was forgotten may still come.
    fn end_calm(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_calm) {
            self.push(Open { request: None, asked: now });
        }
    }

    /// A request was not answered.
    pub(super) fn unanswered(&mut self, request: &Request, asked: Instant) {
        (self.in_step, self.behind, self.near) = (0, 0, 0);
        self.repeated(request, asked);
    }

    /// A request is sent once more to wake the unit.
    pub(super) fn repeated(&mut self, request: &Request, asked: Instant) {
        self.run = Run::default();
        self.is_of_opening = false;
        self.lost_at = Some(asked);
        self.end_calm(asked);
        self.push(Open { request: Some(request.clone()), asked });
    }

    /// The answer to the request before came in place of that to this one: which is held back now,
    /// and alone.
    pub(super) fn displaced(&mut self, request: &Request, asked: Instant) {
        self.unanswered(request, asked);
        self.open.drain(..self.open.len().saturating_sub(1));
    }

    fn push(&mut self, open: Open) {
        if self.open.len() == OPEN_MAX {
            self.open.remove(0);
        }
        self.open.push(open);
    }

    /// No answer can still come that was asked for so long ago, nor so long after the one before;
    /// `held`: except the last one, which may come with the next request only.
    pub(super) fn settle(&mut self, now: Instant, after: Duration, heard: Option<Instant>, held: bool) {
        let is_heard = heard.is_some_and(|heard| now.saturating_duration_since(heard) < after);
        if is_heard || held && self.is_several {
            return;
        }
        let last = self.open.len().saturating_sub(usize::from(held));
        let mut at = 0;
        self.open.retain(|open| {
            at += 1;
            at > last || now.saturating_duration_since(open.asked) < after
        });
    }

    /// The port was closed for so long, in which nothing could come.
    pub(super) fn suspend(&mut self, closed: Duration) {
        self.open.iter_mut().for_each(|open| open.asked += closed);
    }

    /// How many answers may still come that could be taken for that to one of these requests.
    pub(super) fn mistakable(&self, of: &[Request]) -> usize {
        self.open.iter().filter(|open| of.iter().any(|request| open.may_bring(request, false))).count()
    }

    /// Whether an answer of this shape may still come.
    pub(super) fn may_bring(&self, shape: Shape) -> bool {
        self.open.iter().any(|open| open.request.as_ref().is_none_or(|own| own.answer() == shape))
    }

    /// Whether the last request without an answer was sent so long ago, or longer.
    pub(super) fn is_settled(&self, now: Instant, after: Duration) -> bool {
        self.lost_at.is_none_or(|at| now.saturating_duration_since(at) >= after)
    }

    /// An answer came after the request was sent. `limit`: how old a request may be whose answer is
    /// used.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        (request, asked): (&Request, Instant),
        answer: Answer<'_>,
        limit: Duration,
    ) -> Trust {
        let is_exception = matches!(answer, Answer::Exception(_));
        match answer {
            Answer::Data(data) => {
                if self.last != data {
                    self.end_calm(asked);
                }
                self.heard((request, asked), data);
            }
            _ => self.run = Run { is_after_exception: true, ..Run::default() },
        }
        let Some(first) = self.open.iter().position(|open| open.may_bring(request, is_exception)) else {
            self.run.begun = None;
            if self.is_early {
                return Trust::Sure;
            }
            // Those before have come. One who numbers answers may keep those of other functions.
            let is_numbered = self.is_numbered;
            let is_other = |own: &Request| own.function() != request.function();
            self.open.retain(|open| is_numbered && open.request.as_ref().is_some_and(is_other));
            if self.open.is_empty() {
                (self.in_step, self.behind, self.plain, self.near) = (0, 0, 0, 0);
            }
            return Trust::Sure;
        };
        let begun = self.run.begun;
        let is_same = |open: &Open| {
            // However slowly the unit is asked, repeating has an end.
            let is_of_run = begun.is_some_and(|begun| open.asked >= begun);
            let is_recent = is_of_run || now.saturating_duration_since(open.asked) <= limit;
            open.request.as_ref() == Some(request) && is_recent
        };
        let mut fitting = self.open.iter().filter(|open| open.may_bring(request, is_exception));
        let trust = if fitting.all(is_same) { Trust::Alike } else { Trust::Doubtful };
        self.open.drain(..=first);
        self.push(Open { request: Some(request.clone()), asked });
        trust
    }

    fn heard(&mut self, (request, asked): (&Request, Instant), data: &[u8]) {
        if self.run.is_over || self.run.request.as_ref() != Some(request) {
            let before = self.run.answers.pop();
            let is_after_exception = self.run.is_after_exception && self.run.request.is_none();
            self.run = Run { request: Some(request.clone()), before, is_after_exception, ..Run::default() };
        }
        self.equal = if self.last == data { self.equal.saturating_add(1) } else { 0 };
        self.last = data.to_vec();
        self.run.begun = self.run.begun.or(Some(asked));
        self.run.answers.truncate(RUN_MAX - 1);
        self.run.answers.push(data.to_vec());
    }

    /// The last answer was used although another one may still come. Whether it is news that
    /// answers come one request late. `is_alone`: there is no other read.
    pub(super) fn used(&mut self, is_alone: bool) -> bool {
        self.run.is_over = true;
        let was_behind = self.is_behind();
        if self.is_early {
            (self.in_step, self.near, self.plain) = (0, 0, 0);
            return false;
        }
        match self.run.sign() {
            Some(Sign::InStep) => (self.in_step, self.behind, self.plain) = (self.in_step + 1, 0, 0),
            Some(Sign::Behind) => {
                (self.in_step, self.behind, self.near) = (0, self.behind.saturating_add(1), 0);
            }
            None => self.plain = self.plain.saturating_add(1),
        }
        if let Some(is_near) = self.run.is_near() {
            self.near = if is_near { self.near.saturating_add(1) } else { 0 };
        }
        // A number is seldom the wrong one: where all values always change, it is enough that those
        // of one read are near to each other.
        let is_near = self.is_numbered && self.near >= PLAIN;
        let is_plain = (is_alone || self.is_of_opening && !self.is_numbered) && self.plain >= PLAIN;
        let is_calm = self.equal >= EQUAL;
        if self.in_step >= IN_STEP || (is_plain || is_near || is_calm) && self.behind == 0 {
            let is_calm = is_calm && self.in_step < IN_STEP;
            let last = std::mem::take(&mut self.last);
            self.clear();
            (self.last, self.is_calm) = (last, is_calm);
        }
        if self.is_behind() && !self.is_several {
            // No more than one is held back.
            self.open.drain(..self.open.len().saturating_sub(1));
        }
        self.is_behind() && !was_behind
    }

    /// A frame came that is not the answer waited for: if it is a late one, of which request.
    pub(super) fn late(&mut self, pdu: &[u8]) -> Option<Late> {
        let function = *pdu.first()?;
        let fits = |open: &Open| {
            let Some(request) = &open.request else { return false };
            match function {
                EXCEPTION.. => request.function() | EXCEPTION == function,
                1..=4 => request.parse_answer(pdu).is_ok(),
                _ => request.function() == function && usize::from(request.answer().length) == pdu.len(),
            }
        };
        let at = self.open.iter().position(fits)?;
        // Those before may never be answered.
        let last = self.open.iter().rposition(fits).unwrap_or(at);
        let last_asked = self.open.get(last)?.asked;
        let Open { request, asked, .. } = self.open.remove(at);
        Some(Late { request: request?, asked, last_asked, is_certain: at == last })
    }
}

/// What the answers of a run show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    InStep,
    Behind,
}

impl Sign {
    /// That of a read that was sent twice. `before`: the answer before it.
    pub(super) fn of(before: &[u8], first: &[u8], last: &[u8]) -> Option<Sign> {
        if before == last || before.len() != last.len() {
            return None;
        }
        match (first == last, first == before) {
            (true, _) => Some(Sign::InStep),
            (false, true) => Some(Sign::Behind),
            (false, false) => None,
        }
    }
}

/// How far two answers are from each other: that of the first registers in which they differ, and
/// none where they have different lengths.
pub(super) fn distance(one: &[u8], other: &[u8]) -> Option<u64> {
    let whole = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let mut words = one.chunks(4).zip(other.chunks(4)).map(|(one, other)| whole(one).abs_diff(whole(other)));
    (one.len() == other.len()).then(|| words.find(|difference| *difference > 0).unwrap_or_default())
}

impl Run {
    /// Whether the second answer is nearer to the first than that to the answer before; `None` if
    /// one of them is missing.
    fn is_near(&self) -> Option<bool> {
        let [first, .., last] = &self.answers[..] else { return None };
        let before = self.before.as_ref()?;
        Some(distance(first, last)? < distance(first, before)?)
    }

    fn sign(&self) -> Option<Sign> {
        let [first, others @ ..] = &self.answers[..] else { return None };
        let last = others.last()?;
        let is_settled = others.iter().all(|answer| answer == last);
        if self.is_after_exception {
            return (is_settled && first == last).then_some(Sign::InStep);
        }
        Sign::of(self.before.as_ref()?, first, last).filter(|_| is_settled)
    }
}
