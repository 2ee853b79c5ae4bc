//! What may still come of a unit's requests, and whether it could be taken for another's answer.
//!
//! Units answer in order, and an RTU answer does not say which request it answers; see
//! [`unit`](super). Where all reads of a map have one shape, one of them is the probe, and in doubt
//! each read is repeated until its answer cannot be another's ([`Doubt`](super::super::doubt)). If
//! more than a few answers may still come, the unit is first left alone until they have, or until
//! it was silent for longer than any answer takes: six time-outs, or twice the age of the latest
//! answer if that is more, at most twenty. An answer that is left over shows that a unit is out of
//! step after all.
//!
//! A converter that delivers each answer with the next request makes answers come one request late.
//! Where that shows by their lengths, a read is repeated as soon as the answer of the one before
//! has come in its place.
//!
//! A unit whose answers come late, twice without one in time between, is waited for longer, and so
//! is one that answers the same read late each time; see `lateness`.

use std::time::{Duration, Instant};

use super::super::super::State;
use super::super::doubt::Trust;
use super::super::fault::Failure;
use super::super::learn::{self, Obstacle};
use super::super::pdu::{Answer, Exception, Request, Shape};
use super::Unit;

/// Shortest and longest silence, in time-outs, after which no answer can still come: the least is
/// more than any answer takes that comes up to four time-outs late.
const STILL_TO_COME: (u32, u32) = (6, 20);
/// So many time-outs old a request may be whose answer is used for a later one that asks the same.
const ALIKE: u32 = 3;
/// And at least so old: where no answer was ever seen to come late, and where one was.
const ALIKE_LEAST: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(2));
/// If more answers than this may still come that could be taken for another's, they are waited for.
const SEVERAL: usize = 3;
/// After so many reads that were sent twice the second request is sent at once, so often.
const HASTY: (u32, u32) = (5, 2);
/// So long each read must have been sent more than once for that to be told.
const DOUBLED: Duration = Duration::from_secs(60);
/// Late answers in a row in place of that to the next request, after which answers are said to come
/// one request late.
const BEHIND: u32 = 3;

impl Unit {
    /// Answers carry the number of the request.
    pub(in super::super) fn set_numbered(&mut self) {
        self.is_numbered = true;
        self.doubt.set_numbered(true);
    }

    /// Whether what a gateway gave up may still come to it.
    /// `is_several`: more than one answer, perhaps for ever.
    pub(in super::super) fn note_awaited(&mut self, is_awaited: bool, is_several: bool) {
        self.doubt.set_early(is_awaited, is_several);
    }

    /// Its line is later than can be reckoned with. Whether that is to be told of it.
    pub(in super::super) fn lose_step(&mut self) -> bool {
        self.restart();
        (self.attempts, self.behind) = (0, 0);
        (self.is_displaced, self.is_sent_again) = (false, false);
        self.doubt.reset();
        // One that is down stays so: but this is why nobody knows more of it.
        let is_news = self.failing != Some(Failure::OutOfStep);
        self.failing = Some(Failure::OutOfStep);
        if self.state != State::Down {
            self.state = State::Degraded;
        }
        is_news
    }

    /// Its turn begins anew, as its last answer is not used.
    pub(in super::super) fn turn_again(&mut self) {
        self.restart();
    }

    /// Nothing of its line is outstanding. `was_lost`: until now nothing was polled.
    pub(in super::super) fn resynced(&mut self, now: Instant, was_lost: bool) {
        self.doubt.reset();
        (self.is_resting, self.owed, self.still) = (false, None, Duration::ZERO);
        (self.doubled_since, self.is_doubled, self.doubled) = (None, false, 0);
        (self.undecided, self.is_left_over) = (0, false);
        self.restart();
        if self.state != State::Down {
            self.in_step = true;
        }
        // Units that are dead would be asked one after the other, and begin the doubt anew.
        if self.state != State::Down || was_lost {
            self.due = now;
        }
    }

    /// An answer came that is not used, whatever it says.
    pub(in super::super) fn count_unused(&mut self, now: Instant, asked: Instant, answer: Answer<'_>) {
        self.counters.answers += 1;
        self.counters.exceptions += u64::from(matches!(answer, Answer::Exception(_)));
        let took = now.saturating_duration_since(asked).as_millis();
        self.counters.busy_ms = self.counters.busy_ms.saturating_add(u64::try_from(took).unwrap_or(u64::MAX));
        (self.answered_at, self.heard_at, self.ended_at) = (Some(now), Some(now), Some(now));
    }

    /// So many readings in a row came without a value that could not be told from others'.
    pub(in super::super) fn undecided(&self) -> u32 {
        self.undecided
    }

    /// Whether a read of its map has an answer of this shape.
    pub(in super::super) fn asks(&self, shape: Shape) -> bool {
        let polls = self.parts.iter().filter_map(|part| part.block.request());
        let probes = self.probes.iter().map(|(request, _)| request);
        polls.chain(probes.cloned()).any(|request| request.answer() == shape)
    }

    /// The shapes of the answers to its reads.
    pub(in super::super) fn shapes(&self) -> impl Iterator<Item = Shape> {
        self.parts.iter().filter_map(|part| Some(part.block.request()?.answer()))
    }

    /// For so long an answer to its last request may still come.
    pub(in super::super) fn rest(&self) -> Duration {
        self.still_to_come(self.timeout())
    }

    /// The port was closed. A converter keeps what comes meanwhile, so time until it is open again
    /// does not count.
    pub(in super::super) fn closed(&mut self, now: Instant) {
        self.closed_at = Some(now);
        self.still = if self.is_resting { self.due.saturating_duration_since(now) } else { Duration::ZERO };
    }

    /// Takes over from the unit of this address of before a reload what may still come, and what
    /// shows that its answers are those to others. Of the same device also the silence that it
    /// wants.
    pub(in super::super) fn adopt(&mut self, before: &Unit) {
        self.doubt.clone_from(&before.doubt);
        (self.behind, self.is_displaced) = (before.behind, before.is_displaced);
        (self.doubled_since, self.is_doubled) = (before.doubled_since, before.is_doubled);
        if self.settings.id == before.settings.id {
            self.rest = before.rest;
        }
        self.doubt.set_numbered(self.is_numbered);
        (self.ended_at, self.latest, self.closed_at) = (before.ended_at, before.latest, before.closed_at);
        // The map may be another one, and with it what can be mistaken.
        self.in_step = self.doubt.is_none() && before.in_step;
    }

    /// An answer came: whether it can be that to another request.
    pub(super) fn account(
        &mut self,
        now: Instant,
        (request, asked): (&Request, Instant),
        answer: Answer<'_>,
    ) -> Trust {
        if !self.is_numbered {
            self.settle_owed((request, asked), answer);
        }
        // One that is repeated after a silence is waited for, so its request is old.
        let least = if self.latest.is_zero() { ALIKE_LEAST.0 } else { ALIKE_LEAST.1 };
        let limit = if self.is_repeat { Duration::MAX } else { (self.timeout() * ALIKE).max(least) };
        self.doubt.answered(now, (request, asked), answer, limit)
    }

    /// Behind an exception the data was waited for in vain. It may come later, and so in place of
    /// that to the next request: so another read waits until it has.
    fn settle_owed(&mut self, (request, asked): (&Request, Instant), answer: Answer<'_>) {
        let is_deferred = std::mem::take(&mut self.is_deferred);
        let is_data = matches!(answer, Answer::Data(_));
        if is_deferred && !is_data || is_data && self.owed.is_some() {
            self.owed = Some((request.clone(), asked));
        }
    }

    /// Whether data is owed that could be taken for that to the next request: then the unit is left
    /// alone.
    pub(super) fn awaits_owed(&mut self, now: Instant) -> bool {
        let Some((owed, _)) = &self.owed else { return false };
        let next = self.current(now).and_then(|at| self.parts.get(at)?.block.request());
        next.is_some_and(|next| next != *owed && next.answer() == owed.answer())
    }

    /// It is left alone so long for what is owed.
    pub(super) fn rest_for_owed(&mut self, now: Instant) {
        self.due = self.due.max(now + self.still_to_come(self.timeout()));
    }

    /// A frame came while nothing was asked of it, or another unit was: if it is the data that is
    /// owed, how long after its request.
    fn take_owed(&mut self, now: Instant, pdu: &[u8]) -> Option<Duration> {
        let (owed, asked) = self.owed.as_ref()?;
        let after = now.saturating_duration_since(*asked);
        matches!(owed.parse_answer(pdu), Ok(Answer::Data(_))).then_some(after)
    }

    /// How many answers may still come that could be taken for that to a block.
    pub(in super::super) fn mistakable(&self) -> usize {
        let blocks: Vec<Request> = self.parts.iter().filter_map(|part| part.block.request()).collect();
        self.doubt.mistakable(&blocks)
    }

    /// So many may come that the unit is left alone first; whether it is. After a probe: any, if
    /// its answers come late, or if the read after it was silent again.
    pub(super) fn rests(&mut self, now: Instant, timeout: Duration, is_probe: bool) -> bool {
        // Nor is anything sent at once that may be too soon for it.
        let is_prompt = self.latest.is_zero() && (self.cycles == 0 || self.is_quick());
        let is_quick = self.is_numbered || !is_probe || is_prompt;
        let most = if is_quick { SEVERAL } else { 0 };
        let is_many = self.mistakable() > most;
        self.is_resting = is_many && (!is_quick || self.parts.len() > 1);
        if self.is_resting {
            self.due = now + self.still_to_come(timeout);
        }
        self.is_resting
    }

    /// A request had no answer. A unit with one read is not left alone as long as it answers; but
    /// if the answers to many requests may still come, as many in a row would have to be answered,
    /// and on a line that loses some each one lost would be one more.
    pub(super) fn rest_alone(&mut self, now: Instant) {
        if self.is_numbered || self.parts.len() > 1 || self.mistakable() <= SEVERAL {
            return;
        }
        self.is_resting = true;
        self.due = self.due.max(now + self.still_to_come(self.timeout()));
    }

    /// Whether it ever answered a request that came soon after an answer.
    pub(in super::super) fn is_quick(&self) -> bool {
        self.soonest.is_some_and(|soonest| soonest.own < learn::PAUSES[0])
    }

    /// A read is to be sent again: whether a while after its answer, as nothing is known of whether
    /// the unit may be asked at once. Where that lasts, it is found out: it costs the line the
    /// time.
    pub(in super::super) fn is_spared(&mut self) -> bool {
        if self.is_quick() {
            return false;
        }
        self.doubled = self.doubled.saturating_add(1);
        let is_tried = self.doubled >= HASTY.0 && self.hasty < HASTY.1 && self.latest.is_zero();
        self.hasty += u32::from(is_tried);
        !is_tried
    }

    /// Whether each of its reads is sent more than once, and has been for long.
    pub(in super::super) fn is_doubled(&self, now: Instant) -> bool {
        self.doubled_since.is_some_and(|since| now.saturating_duration_since(since) >= DOUBLED)
    }

    /// Whether no other request of the map has an answer that can be taken for that to the next
    /// probe: those that failed are passed over.
    pub(super) fn has_shape(&self) -> bool {
        let probe = self.probes.get(self.probe_at % self.probes.len().max(1));
        probe.is_some_and(|(_, distinct)| *distinct)
    }

    /// Its turn begins with a probe whose answer has a shape of its own, if it has one: whether.
    pub(in super::super) fn show_step(&mut self) -> bool {
        let may = self.has_shape() && !self.is_interrupted && self.failures == 0;
        self.in_step &= !may;
        may
    }

    /// Whether its answers come one request late.
    pub(in super::super) fn is_behind(&self) -> bool {
        self.doubt.is_behind() || self.behind >= BEHIND
    }

    /// The request that failed last: whether a late answer came in place of its own.
    pub(in super::super) fn was_late(&mut self, is_late: bool) {
        self.behind = if is_late { self.behind.saturating_add(1) } else { self.behind };
        self.is_displaced = is_late;
    }

    /// A frame of this unit came while nothing was asked of it, and nothing is outstanding: one of
    /// its answers may have been taken for another's. Its next turn begins with a probe.
    pub(in super::super) fn left_over(&mut self, now: Instant, pdu: &[u8]) {
        if self.is_copy(now, pdu) {
            return;
        }
        if let Some(after) = self.copies.resembles(now, pdu, self.settings.timeout) {
            self.surplus.hinted(now, after);
        }
        self.is_left_over = !self.is_numbered;
        self.patience.unasked();
        let after = self.answered_at.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        self.surplus.came(now, after);
    }

    /// Whether a frame is the same as one of its last answers.
    pub(in super::super) fn resembles(&self, now: Instant, pdu: &[u8]) -> bool {
        self.copies.resembles(now, pdu, self.settings.timeout).is_some()
    }

    /// Whether a frame that nothing is outstanding for is the copy of an answer, which is counted.
    pub(in super::super) fn is_copy(&mut self, now: Instant, pdu: &[u8]) -> bool {
        // A late answer can be the same as one that came.
        if self.is_behind() || !self.doubt.is_none() {
            return false;
        }
        let copy = self.copies.came(now, pdu, self.settings.timeout);
        copy.into_iter().for_each(|copy| self.surplus.copied(now, copy));
        copy.is_some()
    }

    /// Whether this answer may be the copy of one to another read.
    pub(in super::super) fn may_be_copy(&self, now: Instant, request: &Request, data: &[u8]) -> bool {
        let part = self.parts.iter().find(|part| part.block.request().as_ref() == Some(request));
        let before = part.and_then(|part| part.last.as_deref());
        !self.is_behind() && self.copies.may_be_one(now, request, data, (before, self.settings.timeout))
    }

    /// What was held was the answer, or a copy of another one.
    pub(in super::super) fn judge_held(&mut self, now: Instant, data: &[u8], is_copy: bool) {
        if !is_copy {
            return self.copies.was_none();
        }
        let copy = self.copies.was_one(now, data);
        copy.into_iter().for_each(|copy| self.surplus.copied(now, copy));
    }

    /// An answer with data was taken.
    pub(in super::super) fn note_taken(&mut self, now: Instant, request: &Request, data: &[u8]) {
        self.copies.answered(now, request, data);
    }

    /// How often its answers come, and how many copies came, if that is no accident.
    pub(in super::super) fn copied(&self) -> Option<(u32, u64)> {
        self.surplus.copies()
    }

    /// Frames that it sent without being asked, if they are no accident.
    pub(in super::super) fn surplus(&self) -> u64 {
        self.surplus.frames()
    }

    /// Whether the next request may have to wake it.
    pub(in super::super) fn may_knock(&self, now: Instant) -> bool {
        let since = |at: Option<Instant>| at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        // A shorter silence can be too short for it, and a slow unit does not sleep.
        let is_rested = self.answered_at.is_none_or(|at| now >= at + learn::PAUSES[learn::PAUSES.len() - 1]);
        let is_slow = !self.latest.is_zero() || !self.lateness.wait().is_zero();
        let is_learning = self.trying.is_some() || !self.pause.is_zero() || self.trial.is_some();
        let (failures, timeout) = (if is_rested { self.failures } else { 0 }, self.settings.timeout);
        let may = self.patience.may_sleep(failures, since(self.ended_at), timeout);
        // A gateway that says that it does not answer would answer both requests.
        let is_of_gateway = matches!(self.failing, Some(Failure::Gateway(_)));
        may && !self.is_numbered && !is_slow && !is_learning && !is_of_gateway
    }

    /// Its request is sent once more.
    pub(in super::super) fn knocked(&mut self, request: &Request, asked: Instant, now: Instant) {
        let longer = now.saturating_duration_since(asked);
        for silence in [&mut self.silence.own, &mut self.silence.line] {
            *silence = silence.saturating_add(longer);
        }
        self.doubt.repeated(request, asked);
        self.counters.requests += 1;
        self.counters.silent += 1;
    }

    /// Whether data may follow this exception.
    pub(in super::super) fn may_defer(&self, exception: Exception) -> bool {
        !self.is_numbered && self.patience.may_defer(exception)
    }

    /// An answer came: one that was waited for behind an exception, to a request that was sent
    /// twice to wake the unit, or to one that would have been.
    pub(in super::super) fn came(
        &mut self,
        is_deferred: bool,
        is_knocked: bool,
        is_awake: bool,
        answer: Answer<'_>,
    ) {
        self.patience.answered(is_deferred, answer);
        self.is_deferred = is_deferred;
        match (is_knocked, is_awake) {
            (true, _) => self.patience.woke(),
            (false, true) => self.patience.was_awake(),
            (false, false) => {}
        }
    }

    /// A late answer came while nothing was asked: answers do not wait for the next request.
    pub(in super::super) fn late_by_itself(&mut self) {
        self.behind = 0;
        self.patience.unasked();
    }

    /// The time since the last answer of any unit before its last request.
    pub(in super::super) fn silence_on_line(&self) -> Duration {
        self.silence.line
    }

    /// After so much silence none of its answers can still come.
    pub(super) fn still_to_come(&self, timeout: Duration) -> Duration {
        let (least, most) = STILL_TO_COME;
        (2 * self.latest).clamp(timeout * least, timeout * most)
    }

    /// No answer takes longer.
    pub(super) fn longest_wait(&self) -> Duration {
        self.timeout() * STILL_TO_COME.1
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
        if let Some(after) = self.take_owed(now, pdu) {
            self.counters.late += 1;
            self.patience.was_owed();
            self.heard_at = Some(now);
            // The exception is in time each time: the wait is lengthened at once.
            let timeout = self.settings.timeout;
            if self.lateness.late(after, timeout) || self.lateness.lengthen(timeout) {
                self.is_wait_news = true;
                self.revision += 1;
            }
            // The next one may take as long.
            self.rest_for_owed(now);
            return Some(after);
        }
        let late = self.doubt.late(pdu)?;
        let least = now.saturating_duration_since(late.last_asked);
        let asked = late.asked;
        if other.is_some() && least > self.settings.timeout * STILL_TO_COME.1 {
            return None;
        }
        self.counters.late += 1;
        self.lateness.heard();
        (self.heard_at, self.missed_at) = (Some(now), Some(now));
        // Of several that it may answer, nobody knows how long it took; and one that comes within
        // the timeout was given up for another reason.
        let is_slow = late.is_certain && least >= self.settings.timeout;
        if is_slow && self.lateness.late(least, self.settings.timeout) {
            self.is_wait_news = true;
            self.revision += 1;
        }
        // It is slow, not silent.
        if let Some((block, why, _)) = &mut self.blame
            && block.request().is_some_and(|request| request.answer() == late.request.answer())
        {
            *why = Obstacle::Late;
        }
        match other {
            None => self.is_late = true,
            Some(_) => self.crossed = other,
        }
        self.latest = self.latest.max(now.saturating_duration_since(asked));
        let timeout = self.settings.timeout;
        if self.is_resting && self.mistakable() > 0 {
            // The next one may take as long.
            self.due = self.due.max(now + self.still_to_come(timeout));
        } else if self.is_resting && now < self.due {
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
