//! Whether a line hands on answers one request late, from one unit to the next.
//!
//! Some converters hold an answer back and deliver it with the next request, whichever unit that is
//! for. Some put the address of that unit on it, and then it fits the request if it is as long.
//!
//! ```text
//!  in step ──a request of a unit that answered is lost──> in doubt ──twice in step, or by a length──> in step
//!                                                            │
//!                                                            └─ as often late ──> behind: the same, and told
//! ```
//!
//! In doubt an answer may be that to the request before, of whatever unit. So it is used only if
//! that asked the same, or has an answer of another shape: a read is sent once more than otherwise.
//! What ends the doubt is an answer that cannot be that to the request before, or reads that were
//! sent twice and show by their values that they are in step, as in
//! [`Doubt`](super::doubt::Doubt), or if these always change, by how near they are to each other. A
//! unit that is dead begins no doubt again and again: only its first failure does. Where all values
//! are the same there is nothing to exchange. An opening of the port begins one, too: an earlier
//! process may have asked before.
//!
//! With one unit on the line all this is known of the unit itself, and nothing is done here. But
//! what a gateway gave up ([`Stragglers`]) is known of the line: as long as it may come, nothing
//! ends a doubt. While answers are named as one request late, each read is sent twice: an answer
//! whose length says that it is not that to the request before may be an earlier one's.
//!
//! How late the line may be is counted ([`Relay::late`]): each request has one answer at most, so
//! no more are on their way than requests were given up. Time alone takes none away, for a gateway
//! may keep an answer for ever. But when a request has no answer, nothing was kept; then those are
//! gone that were given up longer ago than any answer takes. A read that shows that another answer
//! came begins that time anew: the request that it belonged to may be a slow one, whose own answer
//! is under way in its turn. Beyond what can be reckoned with ([`Relay::is_out_of_step`]) no answer
//! is used, until [`bus`](super::bus) shows that none is left.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::doubt::{BEHIND, EQUAL, IN_STEP, PLAIN, Sign, Trust, distance};
use super::pdu::{Answer, EXCEPTION, Request, Shape};
use super::straggler::{LATE_MAX, Several, Stragglers, Verdict};

/// So many of the last requests are looked at for the shape of a late answer.
const SHAPES: usize = 3;
/// With one unit on the line so many late answers are reckoned with: it is known of the unit which.
const LATE_OF_ONE: usize = 3;
/// If more answers may come, those count that are over by time only.
const UNPROVEN_MAX: usize = 4;
/// The same where so many may come without them.
const UNPROVEN_LATE: usize = 3;
/// So many reads at most are known by their last answers, and so many of these.
const KNOWN_MAX: (usize, usize) = (256, 4);
/// More requests that were given up are not counted.
const DEBTS_MAX: usize = 64;

/// How often is counted that the answer to the request before came in place of one.
const DISPLACED_MAX: u32 = 2 * BEHIND;

/// One request.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    /// The address of the unit.
    unit: u8,
    request: Request,
}

/// What is known of a read.
#[derive(Clone, Debug)]
struct Known {
    of: Asked,
    asked: Instant,
    answers: VecDeque<Vec<u8>>,
}

/// What the line hands on from one unit to the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Relay {
    is_shared: bool,
    in_doubt: bool,
    /// Until when each answer may still be under way that was given up, or that another one came in
    /// place of: later it has come to the gateway, or never will.
    debts: Vec<Instant>,
    /// One that a unit may have sent an exception in place of.
    maybe: Option<Instant>,
    /// The longest time that an answer takes.
    rest: Duration,
    /// A read showed that another answer came in place of its own: until then any may.
    slip: Option<Instant>,
    /// The present read began before that.
    is_slipping: bool,
    /// More may come than can be reckoned with: no answer is used.
    is_out_of_step: bool,
    /// The last request was answered with data.
    is_flowing: bool,
    /// Whether some are over by time only is to be shown before the next answer is used.
    needs_proof: bool,
    /// So many are over by time, and by a request without an answer, and nothing proves it yet.
    unproven: usize,
    present: Option<Asked>,
    previous: Option<Asked>,
    /// Requests before the present read, the last one first.
    earlier: VecDeque<Asked>,
    /// The shapes of the answers to the last requests before the present one, the last one first,
    /// since the port was opened.
    shapes: VecDeque<Shape>,
    /// The last answer with data, the one before the present read was sent, and the first to it.
    last: Vec<u8>,
    before: Vec<u8>,
    first: Vec<u8>,
    /// What the last answer with data was to, and whether the one before the present read was to
    /// the same read: then it says nothing of another one that is late.
    last_of: Option<Asked>,
    is_own_before: bool,
    /// A request of the present read was lost: nobody knows what changed meanwhile.
    is_broken: bool,
    /// Requests and answers of the present read until now, and whether the answers are the same.
    times: usize,
    answers: usize,
    is_alike: bool,
    /// Reads in a row that were sent twice and whose second answer is nearer to the first than that
    /// to the answer before.
    near: u32,
    /// How many in a row were the same.
    equal: u32,
    in_step: u32,
    behind: u32,
    /// So often the answer to the request before, of another unit, came in place of one, less the
    /// reads that show that none did.
    displaced: u32,
    /// Another answer came in place of one to the present read.
    is_again: bool,
    /// The last different answers to each read, and when it was last asked.
    known: Vec<Known>,
    /// More reads are asked for than are known.
    is_much: bool,
    /// Since when answers may come late.
    since: Option<Instant>,
    /// What a gateway gave up.
    stragglers: Stragglers,
    /// The answers to the present read.
    run: Vec<Vec<u8>>,
    /// When a request was last given up.
    owed_at: Option<Instant>,
    /// What may come may be an answer to any read.
    is_any: bool,
    /// A gateway hands answers on, or what is one.
    is_gateway: bool,
    /// When the port was closed.
    closed: Option<Instant>,
    /// What the answers to the present read show of that.
    verdict: Option<Verdict>,
}

impl Relay {
    /// The line has several units, and answers do not say which request they answer.
    pub(super) fn set_shared(&mut self, is_shared: bool) {
        *self = Relay { is_shared, is_gateway: self.is_gateway, ..Relay::default() };
    }

    /// A gateway is at the port.
    pub(super) fn set_gateway(&mut self) {
        self.is_gateway = true;
    }

    /// The port was closed. A gateway keeps what comes meanwhile.
    pub(super) fn closed(&mut self, now: Instant) {
        self.closed = self.closed.or(Some(now));
    }

    /// The port is open again: what a gateway gave up may come as long after that as before.
    pub(super) fn resumed(&mut self, now: Instant) {
        if let Some(closed) = self.closed.take() {
            let closed = now.saturating_duration_since(closed);
            self.stragglers.suspend(now, closed);
            let was_open = |until: &&mut Instant| **until + closed > now;
            let all = self.debts.iter_mut().chain(self.maybe.as_mut()).chain(self.slip.as_mut());
            all.filter(was_open).for_each(|until| *until += closed);
        }
    }

    /// The port was opened: nobody knows what was asked before.
    pub(super) fn opened(&mut self) {
        (self.present, self.previous) = (None, None);
        self.earlier.clear();
        self.shapes.clear();
        if self.is_shared && !self.in_doubt {
            (self.in_doubt, self.in_step, self.near) = (true, 0, 0);
        }
    }

    /// Takes over from the line of before a reload what it does.
    pub(super) fn adopt(&mut self, before: &Relay) {
        if self.is_shared {
            (self.in_doubt, self.behind, self.displaced) = (before.in_doubt, before.behind, before.displaced);
        }
        self.stragglers.adopt(&before.stragglers);
        self.debts.clone_from(&before.debts);
        (self.maybe, self.slip, self.rest) = (before.maybe, before.slip, before.rest);
        (self.is_out_of_step, self.closed) = (before.is_out_of_step, before.closed);
    }

    /// A gateway gave the present request up, or nobody knows what it does: its answer may come
    /// until then. That of a unit that is dead, too; `is_live`: it is none.
    pub(super) fn gave_up(&mut self, now: Instant, until: Instant, is_live: bool) {
        if let Some(Asked { unit, request }) = &self.present {
            self.stragglers.gave_up(now, *unit, request.answer(), until);
        }
        self.note_rest(until.saturating_duration_since(now));
        self.abandon(now);
        self.is_flowing = false;
        // Nothing was kept, or it would have been handed on: what is not under way is gone, unless
        // the gateway hands on nothing for a while. So how many these were is counted.
        self.unproven = (self.unproven + self.settle_over(now)).min(DEBTS_MAX);
        // Of a doubt that no request began that was given up, one may be on its way as well.
        let is_more = self.in_doubt && is_live && self.debts.is_empty();
        self.is_any |= is_more;
        self.owed_at = Some(now);
        for _ in 0..1 + usize::from(is_more) {
            self.owe(until);
        }
        self.suspect();
    }

    fn owe(&mut self, until: Instant) {
        let present = self.present.as_ref().and_then(|of| self.known.iter().find(|known| known.of == *of));
        self.since = self.since.or(present.map(|known| known.asked));
        if self.debts.len() < DEBTS_MAX {
            self.debts.push(until);
        } else if let Some(last) = self.debts.last_mut() {
            *last = until.max(*last);
        }
    }

    /// Nothing is kept: what is not under way is gone.
    fn settle_over(&mut self, now: Instant) -> usize {
        let before = self.late();
        self.debts.retain(|until| now < *until);
        self.maybe = self.maybe.filter(|until| now < *until);
        before - self.late()
    }

    /// A probe showed that nothing is kept, or none can show it: what is over by time is over.
    pub(super) fn proved(&mut self, now: Instant) {
        (self.needs_proof, self.unproven) = (false, 0);
        self.settle_over(now);
    }

    /// Whether several answers may come of which some are over by time only, and the line answers.
    pub(super) fn wants_proof(&self) -> bool {
        self.is_flowing && (self.is_much_unproven() || !self.is_within())
    }

    /// Whether the last answer may not be used before that is shown.
    pub(super) fn needs_proof(&self) -> bool {
        self.needs_proof
    }

    fn most(&self) -> usize {
        if self.is_shared { LATE_MAX } else { LATE_OF_ONE }
    }

    /// Whether so many late answers can be reckoned with.
    pub(super) fn may_be_late_by(&self, late: usize) -> bool {
        late <= self.most()
    }

    /// Whether those can that may come.
    pub(super) fn is_within(&self) -> bool {
        self.late() + self.unproven <= self.most()
    }

    /// So many answers are reckoned with: those that may come, and where they are many with those
    /// that are over by time and by a request without an answer, until it is shown that none of
    /// them is kept. A gateway that hands answers on in order is silent while it waits for a slow
    /// one, and keeps all behind it.
    fn reckoned(&self) -> usize {
        let all = self.late() + self.unproven;
        if self.is_much_unproven() { all } else { self.late() }
    }

    /// Whether that is to be shown soon.
    fn is_much_unproven(&self) -> bool {
        let is_much = self.late() >= UNPROVEN_LATE || self.late() + self.unproven > UNPROVEN_MAX;
        self.unproven > 0 && is_much
    }

    /// An answer takes so long at most.
    pub(super) fn note_rest(&mut self, rest: Duration) {
        self.rest = self.rest.max(rest);
    }

    /// So many other answers came in place of some: these are under way from now on.
    fn slipped(&mut self, now: Instant, times: usize) {
        let until = now + self.rest;
        // Which have come, nobody knows: at least those are left that may take longest.
        self.debts.sort_unstable();
        self.debts.iter_mut().take(times).for_each(|debt| *debt = until.max(*debt));
        (self.slip, self.is_slipping) = (Some(until), true);
    }

    /// The present read ends without an answer that is used. Those that came to it may all have
    /// been others': then as many requests that were sent since are the ones still to be answered.
    fn abandon(&mut self, now: Instant) {
        let times = std::mem::take(&mut self.run).len();
        if times > 0 && !self.debts.is_empty() {
            self.slipped(now, times);
        }
    }

    /// The last answer is used: whether those to the same read before it show that others came.
    fn note_slips(&mut self, now: Instant) {
        let run = std::mem::take(&mut self.run);
        let Some((last, before)) = run.split_last().filter(|_| !self.debts.is_empty()) else { return };
        let Some(present) = &self.present else { return };
        let others = self.known.iter().filter(|known| known.of != *present);
        let others: Vec<&Vec<u8>> = others.flat_map(|known| &known.answers).chain([&self.before]).collect();
        let is_others = |answer: &&Vec<u8>| {
            let own = distance(answer, last);
            let mut known = others.iter().filter(|other| other.len() == answer.len());
            // What is nearer to another read's is that one's.
            *answer != last && known.any(|other| distance(answer, other) <= own)
        };
        let times = before.iter().filter(is_others).count();
        if times > 0 {
            self.slipped(now, times);
        }
    }

    /// Whether an answer as long as that to the present request may be another one's.
    fn may_be_others(&self) -> bool {
        let Some(present) = &self.present else { return true };
        let Some(since) = self.since.filter(|_| !self.is_much && !self.is_any) else { return true };
        self.known.iter().any(|known| {
            let is_alike = known.of.request.answer() == present.request.answer();
            is_alike && known.of != *present && known.asked >= since
        })
    }

    /// Whether more than one answer is kept, and none was given up for so long that all have come.
    pub(super) fn is_kept_late(&self, now: Instant) -> bool {
        let is_old = |at: Instant| now.saturating_duration_since(at) > 2 * self.rest;
        self.debts.len() > 1 && self.owed_at.is_some_and(is_old)
    }

    /// So many answers to earlier requests may come before that to the present one.
    pub(super) fn late(&self) -> usize {
        self.debts.len() + usize::from(self.maybe.is_some())
    }

    /// Whether more of them may come than can be reckoned with: no answer is used.
    pub(super) fn is_out_of_step(&self) -> bool {
        self.is_out_of_step
    }

    /// Nothing shows any more whose answers come.
    pub(super) fn lose_step(&mut self) {
        (self.is_out_of_step, self.needs_proof) = (true, false);
        (self.behind, self.displaced) = (0, 0);
    }

    /// It was shown that no answer to an earlier request is left, but so many to the requests which
    /// showed it; they may come until then.
    pub(super) fn resynced(&mut self, now: Instant, left: usize, until: Instant) {
        self.stragglers = Stragglers::default();
        (self.is_out_of_step, self.present, self.previous) = (false, None, None);
        (self.needs_proof, self.unproven) = (false, 0);
        self.earlier.clear();
        self.settle();
        self.leave(now, left, until);
    }

    /// So many answers to probes may come until then.
    pub(super) fn leave(&mut self, now: Instant, left: usize, until: Instant) {
        if left > 0 {
            (self.since, self.owed_at) = (self.since.or(Some(now)), Some(now));
            (0..left).for_each(|_| self.owe(until));
            self.suspect();
        }
    }

    /// The same where an exception came that a unit sends, too, or another answer to it.
    pub(super) fn may_have_given_up(&mut self, now: Instant, until: Instant) {
        if let Some(Asked { unit, request }) = &self.present {
            self.stragglers.may_have_given_up(now, *unit, request.answer(), until);
        }
        self.note_rest(until.saturating_duration_since(now));
        self.maybe = self.maybe.max(Some(until));
        self.suspect();
    }

    /// The present request was sent twice and answered once: the other answer may come.
    pub(super) fn sent_twice(&mut self, now: Instant, until: Instant) {
        if let Some(Asked { unit, request }) = &self.present {
            self.stragglers.gave_up(now, *unit, request.answer(), until);
        }
        self.note_rest(until.saturating_duration_since(now));
        self.owed_at = Some(now);
        self.owe(until);
        self.suspect();
    }

    /// The answer to another request, of this shape, came in place of that to the present one,
    /// which may come until then in its turn.
    pub(super) fn took_place(&mut self, now: Instant, came: Option<Shape>, until: Instant) {
        if let Some(shape) = came {
            self.stragglers.came_in_place(now, shape);
        }
        if let Some(Asked { unit, request }) = &self.present {
            self.stragglers.gave_up(now, *unit, request.answer(), until);
        }
        self.note_rest(until.saturating_duration_since(now));
        // As many as before are on their way.
        if self.debts.is_empty() {
            self.owe(until);
        }
        self.abandon(now);
        self.slipped(now, 1);
        self.suspect();
    }

    /// Whether a probe may end a doubt that nothing else has ended: nothing that was given up may
    /// come any more, and nothing shows that answers are late.
    pub(super) fn is_unsettled(&self, now: Instant) -> bool {
        self.is_shared && self.in_doubt && !self.is_behind() && !self.awaits(now)
    }

    /// An answer of this unit came late, under the number of its own request.
    pub(super) fn came_late(&mut self, unit: u8, pdu: &[u8]) {
        if self.stragglers.came(unit, pdu) && !self.debts.is_empty() {
            self.debts.remove(0);
        }
    }

    /// A unit of the line shows that its answers may be those to others.
    pub(super) fn suspect(&mut self) {
        if self.is_shared {
            (self.in_doubt, self.in_step, self.near) = (true, 0, 0);
        }
    }

    /// Whether an answer may be that to the request before.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.in_doubt || self.is_behind()
    }

    /// Whether what was given up may still come.
    pub(super) fn awaits(&self, now: Instant) -> bool {
        self.stragglers.is_open(now) || self.debts.iter().any(|until| now < *until)
    }

    /// Whether more than one may still come to a unit that is alone on its line, at any time. Of
    /// one that never sent data nothing is used.
    pub(super) fn awaits_several(&self) -> bool {
        !self.is_shared && self.late() > 1 && !self.last.is_empty()
    }

    /// The last answers to the present read, if most of them are right and nobody knows which.
    pub(super) fn several(&self) -> Several<'_> {
        if self.verdict != Some(Verdict::Most) {
            return Several { answers: &[], others: None };
        }
        Several { answers: self.stragglers.answers(), others: self.others() }
    }

    /// The last answers to other reads that may come in place of that to the present one; `None` if
    /// one of them is not known.
    fn others(&self) -> Option<Vec<Vec<u8>>> {
        let present = self.present.as_ref()?;
        let since = self.since.filter(|_| !self.is_much && !self.is_any)?;
        let mut others = Vec::new();
        for known in &self.known {
            let is_alike = known.of.request.answer() == present.request.answer() && known.of != *present;
            if !is_alike || known.asked < since {
                continue;
            }
            if known.answers.is_empty() {
                return None;
            }
            others.extend(known.answers.iter().cloned());
        }
        Some(others)
    }

    /// A read is sent.
    fn note_asked(&mut self, now: Instant, of: &Asked) {
        if let Some(known) = self.known.iter_mut().find(|known| known.of == *of) {
            known.asked = now;
            return;
        }
        let (reads, _) = KNOWN_MAX;
        if self.known.len() >= reads {
            // Those that are not asked for any more are of no use.
            let since = self.since;
            self.known.retain(|known| since.is_some_and(|since| known.asked >= since));
        }
        self.is_much = self.known.len() >= reads;
        if !self.is_much {
            self.known.push(Known { of: of.clone(), asked: now, answers: VecDeque::new() });
        }
    }

    /// The last answer is the present read's own.
    fn note_own(&mut self, data: &[u8]) {
        let Some(present) = &self.present else { return };
        let Some(known) = self.known.iter_mut().find(|known| known.of == *present) else { return };
        if known.answers.front().is_some_and(|last| last == data) {
            return;
        }
        known.answers.push_front(data.to_vec());
        known.answers.truncate(KNOWN_MAX.1);
    }

    /// Whether answers are handed on late.
    pub(super) fn is_behind(&self) -> bool {
        self.is_displaced() || self.behind >= BEHIND
    }

    /// Whether the answer to the request before comes in place of each: then the next one is that
    /// to the present request.
    pub(super) fn is_displaced(&self) -> bool {
        self.displaced >= BEHIND
    }

    /// A request is sent.
    pub(super) fn asked(&mut self, now: Instant, unit: u8, request: &Request) {
        let asked = Asked { unit, request: request.clone() };
        if self.present.as_ref() != Some(&asked) {
            self.stragglers.begin(now);
            self.note_asked(now, &asked);
            self.before.clone_from(&self.last);
            self.is_own_before = self.last_of.as_ref() == Some(&asked);
            (self.times, self.answers, self.is_again, self.is_broken) = (0, 0, false, false);
            self.run.clear();
            self.is_slipping = self.slip.is_some_and(|until| now < until);
            if let Some(present) = &self.present {
                self.earlier.push_front(present.clone());
            }
            self.earlier.truncate(LATE_MAX);
        }
        self.times += 1;
        self.previous = self.present.replace(asked);
        if let Some(previous) = &self.previous {
            self.shapes.push_front(previous.request.answer());
            self.shapes.truncate(SHAPES);
        }
    }

    /// Whether an answer of this shape, in place of that to the present request, may be a late one
    /// to an earlier request, of whatever unit. It cannot be if none of the last requests on the
    /// line has such an answer, and none that was given up.
    pub(super) fn may_be_late(&self, now: Instant, shape: Shape) -> bool {
        // What was asked before the port was opened may have had any shape.
        let is_unknown = self.shapes.len() < SHAPES || self.reckoned() > SHAPES;
        is_unknown || self.shapes.contains(&shape) || self.stragglers.may_bring(now, shape)
    }

    /// Whether this frame is the answer to the request before and not that to the present one.
    pub(super) fn is_displacing(&self, unit: u8, pdu: &[u8]) -> bool {
        let (Some(previous), Some(present)) = (&self.previous, &self.present) else { return false };
        let fits = |asked: &Asked| match pdu.first() {
            Some(function @ EXCEPTION..) => function & !EXCEPTION == asked.request.function(),
            _ => asked.request.parse_answer(pdu).is_ok(),
        };
        let is_other = unit != present.unit || !fits(present);
        let is_named = unit == previous.unit || unit == present.unit;
        self.is_shared && is_other && is_named && fits(previous)
    }

    /// The present request had no answer. `is_first`: its unit did not fail before. `is_displaced`:
    /// the answer to the request before came in place of its own.
    pub(super) fn lost(&mut self, is_first: bool, is_displaced: bool) {
        let is_of_other = self.present.as_ref().zip(self.previous.as_ref());
        let is_of_other = is_of_other.is_some_and(|(present, previous)| present.unit != previous.unit);
        if is_displaced && is_of_other {
            self.displaced = (self.displaced + 1).min(DISPLACED_MAX);
            self.is_again = true;
        }
        self.is_broken = true;
        if self.is_shared && (is_first || is_displaced) {
            self.near = 0;
            (self.in_doubt, self.in_step) = (true, 0);
        }
    }

    /// The present request was answered: whether that can be the answer to another one. `is_named`:
    /// its unit's answers come one request late.
    pub(super) fn answered(&mut self, now: Instant, answer: Answer<'_>, is_named: bool) -> Trust {
        self.is_flowing = matches!(answer, Answer::Data(_));
        // One read that is alone has no other's answer.
        if !self.is_within() && (self.is_shared || !self.earlier.is_empty()) {
            let open = self.debts.iter().filter(|until| now < **until).count();
            match self.may_be_late_by(open) {
                true => self.needs_proof = true,
                false => self.lose_step(),
            }
        }
        if self.is_out_of_step || self.needs_proof {
            self.verdict = None;
            return Trust::Doubtful;
        }
        let is_named = self.is_shared && (is_named || self.is_behind());
        self.verdict = match (answer, &self.present) {
            (Answer::Data(data), Some(present)) => {
                // Of one unit alone nothing tells when it is over but the time.
                let late = self.reckoned().max(1);
                let is_sure = self.is_shared && (late > 1 || self.is_slipping) && self.may_be_others();
                // One that is late again and again is so without a word, once it is one answer
                // late.
                Some(self.stragglers.answered(now, present.request.answer(), data, (late, is_sure)))
            }
            _ => None,
        };
        let trust = match self.by_order(now, answer) {
            Trust::Sure if is_named && self.times == 1 && self.verdict.is_some() => Trust::Doubtful,
            trust => trust,
        };
        let trust = match self.verdict {
            Some(Verdict::Again) => Trust::Doubtful,
            Some(Verdict::Right | Verdict::Most) => trust.and(Trust::Alike),
            Some(Verdict::Free) | None => trust,
        };
        if let Answer::Data(data) = answer {
            self.run.push(data.to_vec());
            if trust != Trust::Doubtful {
                self.note_slips(now);
                self.note_own(data);
            }
        }
        trust
    }

    /// Whether it can be that to the request before.
    fn by_order(&mut self, now: Instant, answer: Answer<'_>) -> Trust {
        let Some(present) = self.present.as_ref() else { return Trust::Sure };
        let late = self.reckoned().max(1);
        let is_same = self.times > late;
        // What is not known may have had any shape.
        let before = (late + 1).saturating_sub(self.times);
        let may_be = is_same
            || self.earlier.len() < before
            || self.earlier.iter().take(before).any(|asked| match answer {
                Answer::Exception(_) => asked.request.function() == present.request.function(),
                _ => asked.request.answer() == present.request.answer(),
            });
        if let Answer::Data(data) = answer {
            self.equal = if self.last == data { self.equal.saturating_add(1) } else { 0 };
            self.last = data.to_vec();
            self.last_of = Some(present.clone());
            if self.answers == 0 {
                (self.first, self.is_alike) = (data.to_vec(), true);
            }
            self.is_alike &= self.first == data;
        } else {
            self.first.clear();
        }
        self.answers += 1;
        let is_early = self.awaits(now);
        // The first request may not have been answered, and one more shows nothing new.
        let is_second = is_same && self.answers == late + 1 && matches!(answer, Answer::Data(_));
        let sign = Sign::of(&self.before, &self.first, &self.last);
        let sign = sign.filter(|sign| is_second && (self.is_alike || *sign == Sign::Behind));
        if sign == Some(Sign::Behind) && self.is_gateway && self.in_doubt && self.debts.is_empty() {
            // Nobody knows since when.
            self.is_any = true;
            self.owe(now + self.rest);
        }
        if !self.is_shared {
            self.show_one(sign, is_early);
            return Trust::Sure;
        }
        if !self.in_doubt {
            return Trust::Sure;
        }
        if is_early {
            // What is in step now may not be so a moment later.
            (self.in_step, self.near) = (0, 0);
        }
        if !may_be && self.times > 1 {
            // It may be that to the request before, which asked the same.
            return Trust::Alike;
        }
        if !may_be {
            if !is_early {
                self.settle();
            }
            return Trust::Sure;
        }
        if !is_same {
            let is_calm = self.equal >= EQUAL && matches!(answer, Answer::Data(_));
            return if is_calm { Trust::Alike } else { Trust::Doubtful };
        }
        match sign {
            Some(Sign::InStep) if is_early => {}
            Some(Sign::InStep) => {
                self.in_step += 1;
                // An answer that is late now and then is no converter's.
                self.was_in_place();
            }
            Some(Sign::Behind) if self.is_own_before || self.is_broken => {}
            Some(Sign::Behind) => {
                (self.in_step, self.behind, self.near) = (0, self.behind.saturating_add(1), 0);
            }
            None if !is_second || is_early => {}
            None => {
                let is_near = distance(&self.first, &self.last) < distance(&self.first, &self.before);
                self.near = if is_near { self.near.saturating_add(1) } else { 0 };
            }
        }
        if self.in_step >= IN_STEP || self.near >= PLAIN {
            self.settle();
        }
        Trust::Alike
    }

    /// With one unit on the line its own doubt says what may be used. Here is known what was given
    /// up, until its reads show that nothing is late.
    fn show_one(&mut self, sign: Option<Sign>, is_early: bool) {
        self.in_step = match sign {
            Some(Sign::InStep) if !is_early => self.in_step + 1,
            Some(Sign::InStep) | None => self.in_step,
            Some(Sign::Behind) => 0,
        };
        if self.in_step >= IN_STEP {
            (self.in_step, self.maybe) = (0, None);
            self.debts.clear();
        }
    }

    /// A read shows that no other answer came in its place. One that was sent again
    /// because one did shows nothing.
    fn was_in_place(&mut self) {
        if !self.is_again {
            self.displaced = self.displaced.saturating_sub(1);
        }
    }

    fn settle(&mut self) {
        self.debts.clear();
        (self.since, self.is_any) = (None, false);
        (self.in_doubt, self.maybe, self.slip, self.is_slipping) = (false, None, None, false);
        (self.in_step, self.behind, self.near, self.displaced) = (0, 0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::pdu::{Exception, Table};
    use super::*;

    fn read(address: u16, quantity: u16) -> Request {
        Request::read(Table::Holding, address, quantity).unwrap()
    }

    fn doubtful() -> Relay {
        let mut relay = Relay::default();
        relay.set_shared(true);
        relay.asked(Instant::now(), 1, &read(0, 1));
        relay.lost(true, false);
        relay
    }

    /// Asks, and is answered.
    fn ask(relay: &mut Relay, unit: u8, address: u16, quantity: u16, answer: &[u8]) -> Trust {
        relay.asked(Instant::now(), unit, &read(address, quantity));
        relay.answered(Instant::now(), Answer::Data(answer), false)
    }

    #[test]
    fn after_a_lost_request_an_answer_as_long_as_its_own_is_another_units_until_the_read_is_repeated() {
        let mut relay = doubtful();
        assert_eq!(ask(&mut relay, 2, 7, 1, &[0, 1]), Trust::Doubtful);
        assert_eq!(ask(&mut relay, 2, 7, 1, &[0, 7]), Trust::Alike);
        // The first one shows nothing, as no answer was before it.
        for _ in 0..2 {
            assert_eq!(ask(&mut relay, 2, 9, 1, &[0, 7]), Trust::Doubtful);
            assert!(!relay.is_behind());
            assert_eq!(ask(&mut relay, 2, 9, 1, &[0, 9]), Trust::Alike);
            assert_eq!(ask(&mut relay, 2, 7, 1, &[0, 9]), Trust::Doubtful);
            assert_eq!(ask(&mut relay, 2, 7, 1, &[0, 7]), Trust::Alike);
        }
        assert!(relay.is_behind());
        // In step again.
        assert_eq!(ask(&mut relay, 1, 0, 1, &[0, 5]), Trust::Doubtful);
        assert_eq!(ask(&mut relay, 1, 0, 1, &[0, 5]), Trust::Alike);
        assert_eq!(ask(&mut relay, 2, 7, 1, &[0, 7]), Trust::Doubtful);
        assert_eq!(ask(&mut relay, 2, 7, 1, &[0, 7]), Trust::Alike);
        assert!(!relay.is_behind());
        assert_eq!(ask(&mut relay, 2, 9, 1, &[0, 9]), Trust::Sure);
    }

    #[test]
    fn an_answer_of_another_length_or_function_than_the_lost_one_ends_the_doubt() {
        let mut relay = doubtful();
        assert_eq!(ask(&mut relay, 2, 7, 2, &[0, 7, 0, 8]), Trust::Sure);
        assert_eq!(ask(&mut relay, 1, 0, 1, &[0, 7]), Trust::Sure);
        assert_eq!(ask(&mut relay, 2, 0, 1, &[0, 7]), Trust::Sure);
        let mut relay = doubtful();
        relay.asked(Instant::now(), 2, &Request::read(Table::Input, 0, 1).unwrap());
        assert_eq!(relay.answered(Instant::now(), Answer::Exception(Exception::BUSY), false), Trust::Sure);
        let mut relay = doubtful();
        relay.asked(Instant::now(), 2, &read(9, 5));
        assert_eq!(
            relay.answered(Instant::now(), Answer::Exception(Exception::BUSY), false),
            Trust::Doubtful
        );
        relay.asked(Instant::now(), 2, &read(9, 5));
        assert_eq!(relay.answered(Instant::now(), Answer::Exception(Exception::BUSY), false), Trust::Alike);
    }

    #[test]
    fn a_unit_that_failed_before_and_a_line_with_one_unit_begin_no_doubt() {
        let mut relay = Relay::default();
        relay.set_shared(true);
        relay.asked(Instant::now(), 1, &read(0, 1));
        relay.lost(false, false);
        assert_eq!(ask(&mut relay, 2, 7, 1, &[0, 1]), Trust::Sure);
        let mut relay = doubtful();
        relay.set_shared(false);
        relay.asked(Instant::now(), 1, &read(0, 1));
        relay.lost(true, false);
        assert_eq!(ask(&mut relay, 1, 7, 1, &[0, 1]), Trust::Sure);
    }

    #[test]
    fn while_all_values_are_the_same_no_read_is_repeated_and_with_the_first_other_one_it_is() {
        let mut relay = doubtful();
        for _ in 0..=EQUAL {
            ask(&mut relay, 2, 7, 1, &[0, 0]);
        }
        for unit in [1, 2, 1, 2] {
            assert_eq!(ask(&mut relay, unit, 3, 1, &[0, 0]), Trust::Alike);
        }
        assert_eq!(ask(&mut relay, 1, 3, 1, &[0, 4]), Trust::Doubtful);
        assert_eq!(ask(&mut relay, 2, 3, 1, &[0, 4]), Trust::Doubtful);
    }

    #[test]
    fn what_was_asked_before_the_port_was_opened_may_have_any_length() {
        let mut relay = doubtful();
        relay.opened();
        assert_eq!(ask(&mut relay, 2, 7, 2, &[0, 1, 0, 2]), Trust::Doubtful);
    }

    #[test]
    fn the_answer_to_another_units_request_in_place_of_its_own_is_known_by_address_or_length() {
        let mut relay = Relay::default();
        relay.set_shared(true);
        relay.asked(Instant::now(), 1, &read(0, 2));
        relay.asked(Instant::now(), 2, &read(0, 1));
        let long = [3, 4, 0, 1, 0, 2];
        assert!(relay.is_displacing(1, &long) && relay.is_displacing(2, &long));
        assert!(!relay.is_displacing(3, &long) && !relay.is_displacing(2, &[3, 2, 0, 1]));
        assert!(!relay.is_displacing(2, &[3, 6, 0, 1, 0, 2, 0, 3]));
        assert!(relay.is_displacing(1, &[0x83, 2]) && !relay.is_displacing(2, &[0x83, 2]));
        for _ in 0..3 {
            assert!(!relay.is_behind());
            relay.lost(false, true);
        }
        assert!(relay.is_behind());
        // That to the second of two is that to the first, and shows nothing.
        assert_eq!(ask(&mut relay, 2, 0, 1, &[0, 1]), Trust::Alike);
        assert!(relay.is_behind());
        // Named as late, it is sent twice although its length shows that it is its own.
        assert_eq!(ask(&mut relay, 1, 0, 2, &[0, 1, 0, 2]), Trust::Doubtful);
        assert_eq!(ask(&mut relay, 1, 0, 2, &[0, 1, 0, 2]), Trust::Sure);
        assert!(!relay.is_behind());
        // A unit's own are, too, but show nothing of the line.
        relay.asked(Instant::now(), 1, &read(0, 1));
        assert!(relay.is_displacing(1, &long));
        (0..3).for_each(|_| relay.lost(false, true));
        assert!(!relay.is_behind());
    }

    #[test]
    fn a_read_of_a_unit_that_is_named_as_one_request_late_is_sent_twice_on_a_line_in_step() {
        let mut relay = Relay::default();
        relay.set_shared(true);
        let mut ask = |is_named: bool| {
            relay.asked(Instant::now(), 2, &read(7, 1));
            relay.answered(Instant::now(), Answer::Data(&[0, 7]), is_named)
        };
        assert_eq!((ask(true), ask(true)), (Trust::Doubtful, Trust::Sure));
        relay.asked(Instant::now(), 1, &read(7, 1));
        assert_eq!(relay.answered(Instant::now(), Answer::Data(&[0, 7]), false), Trust::Sure);
    }

    #[test]
    fn an_answer_that_is_late_now_and_then_is_not_called_one_request_late() {
        let mut relay = Relay::default();
        relay.set_shared(true);
        for _ in 0..9 {
            assert_eq!(relay.displaced, 0);
            relay.asked(Instant::now(), 1, &read(0, 1));
            relay.answered(Instant::now(), Answer::Data(&[0, 1]), false);
            relay.asked(Instant::now(), 2, &read(0, 1));
            relay.lost(false, true);
            // In time again, and own.
            assert_eq!(ask(&mut relay, 3, 0, 1, &[0, 3]), Trust::Doubtful);
            assert_eq!(ask(&mut relay, 3, 0, 1, &[0, 3]), Trust::Alike);
            assert!(!relay.is_behind());
        }
    }

    #[test]
    fn values_that_always_change_show_by_their_distance_that_answers_are_in_step() {
        for is_late in [false, true] {
            let mut relay = doubtful();
            let mut kept = [0, 0];
            for count in 0..60_u8 {
                for unit in [1, 2] {
                    for second in [0, 1] {
                        let own = [unit, 4 * count + second];
                        let answer = if is_late { std::mem::replace(&mut kept, own) } else { own };
                        ask(&mut relay, unit, 7, 1, &answer);
                    }
                }
            }
            assert_eq!(relay.in_doubt, is_late);
        }
    }
}
