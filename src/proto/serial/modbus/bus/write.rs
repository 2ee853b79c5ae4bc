//! Writes on a bus: one at a time, between polls, and each read back.
//!
//! ```text
//!  waiting ──the unit's answers are in step, no poll is under way──> fetch ──> write ──> check ──> over
//!     │                                                            (of a part)  │  ^      │  ^ 0.1 s, 0.3 s
//!     └─ until: the unit did not answer                          exception 6 ───┘         └──┘ another value
//! ```
//!
//! * Between the first request of a write and its end the line is kept for it, so that nothing of
//!   the gateway comes between reading the rest of a register and writing it. That are four
//!   time-outs and a second at most.
//! * After a write each unit that is due has its turn before the next write begins, and no unit a
//!   second one: neither keeps the other from the line.
//! * A write is not sent before the unit's answers are in step ([`Unit::is_sure`]): a late answer
//!   to a poll is never taken for the rest of a register, nor for what was read back.
//! * A gateway in the network may put the number and the unit of a request on the answer to the one
//!   before, and nothing shows it. So there the rest of a register is read until it was the same
//!   four times, and once more than answers may come late. The same is done on a serial port if an
//!   answer of the unit was late or missing not long ago: answers may overtake each other.
//! * The answer to a write proves little: an adapter may echo the request, and some units
//!   acknowledge what they do not keep. What counts is what is read back. So an answer that is
//!   missing or names something else is followed by the same reading.
//!
//! No failure of a write makes a unit count as failing: many are silent to what they do not take.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::doubt::Trust;
use super::super::fault::Failure;
use super::super::frame;
use super::super::pdu::{Answer, Exception, Request};
use super::super::unit::{Purpose, Unit};
use super::super::write::{Job, Written};
use super::{Bus, Exchange, Line, Medium, State};

/// After an answer that may pass, or another value than was written, the next try.
const AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(300)];
/// So often the rest of a register is asked for.
const FETCHES: usize = 6;
/// Where a gateway may put the number of a request on the answer to an earlier one, the rest of a
/// register is read until so many answers in a row are the same: the last of them is its own if the
/// gateway is less than that late. And at most so often.
const READS: (usize, usize) = (4, 10);
/// On a serial port one read is enough, unless an answer of the unit was late or missing not long
/// ago: then that may come in place of this one's, whatever came between.
const READS_OF_LINE: usize = 1;
/// So many answers to its reads may be those to earlier requests.
const DOUBTFUL: usize = 8;

/// The write of a bus, and what became of earlier ones.
#[derive(Debug, Default)]
pub(super) struct Writes {
    present: Option<Writing>,
    over: VecDeque<(u64, Written)>,
    /// So many units that are due have their turn first.
    polls_first: usize,
    /// The adapter was seen to receive its own transmissions.
    is_echoed: bool,
}

impl Writes {
    /// A poll has its turn.
    pub(super) fn note_poll(&mut self) {
        self.polls_first = self.polls_first.saturating_sub(1);
    }

    /// Whether the echo of a read came.
    pub(super) fn note_echo(&mut self, is_echo: bool) {
        self.is_echoed |= is_echo;
    }
}

#[derive(Debug)]
struct Writing {
    number: u64,
    unit: usize,
    job: Job,
    step: Step,
    /// A request of it was sent, and the line is its own.
    is_begun: bool,
    /// The unit was asked out of its turn for it.
    is_hurried: bool,
    /// It begins before, or not at all.
    until: Instant,
    /// Not before.
    at: Instant,
    /// Tries of the present step that were in vain.
    tries: usize,
    fetches: usize,
    doubtful: usize,
    /// Reads of it that were answered, where one is not enough, and how many of the last are the
    /// same.
    read: usize,
    alike: usize,
    /// The register before.
    before: Vec<u8>,
    /// Why it is not known whether the write was carried out.
    doubt: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Fetch,
    Write,
    Check,
}

impl Writing {
    fn request(&self) -> Option<Request> {
        match self.step {
            Step::Fetch | Step::Check => self.job.read(),
            Step::Write => self.job.write(&self.before),
        }
    }

    fn go(&mut self, step: Step, now: Instant) {
        (self.step, self.tries, self.at) = (step, 0, now);
    }

    /// Whether it is tried again.
    fn again(&mut self, now: Instant) -> bool {
        let Some(pause) = AGAIN.get(self.tries) else { return false };
        self.tries += 1;
        self.at = now + *pause;
        true
    }
}

/// Where the write stands.
enum Stand {
    /// There is none, or a poll is under way.
    None,
    /// The line is kept for it, and it is sent then.
    Holds(Instant),
    /// Its unit is asked out of turn first.
    Hurries,
    /// It waits, and is given up then.
    Waits(Instant),
}

/// Why a write is given up whose unit answers.
const LATE: &str = "its answers come late, and may be those to earlier requests";

impl Bus {
    /// Writes a value of a unit ([`Settings::units`](super::Settings::units)), once the line is
    /// free for it; it begins within `within` or not at all. [`Bus::poll_written`] tells what came
    /// of it, under `number`. Whether it is taken: one at a time is.
    pub fn write(&mut self, now: Instant, number: u64, unit: usize, job: Job, within: Duration) -> bool {
        self.tick(now);
        if self.writes.present.is_some() || unit >= self.units.len() || matches!(self.line, Line::Down) {
            return false;
        }
        let step = if job.is_partial() { Step::Fetch } else { Step::Write };
        self.writes.present = Some(Writing {
            number,
            unit,
            job,
            step,
            is_begun: false,
            is_hurried: false,
            until: now + within,
            at: now,
            tries: 0,
            fetches: 0,
            doubtful: 0,
            read: 0,
            alike: 0,
            before: Vec::new(),
            doubt: None,
        });
        true
    }

    /// Whether there is one.
    pub(super) fn has_write(&self) -> bool {
        self.writes.present.is_some()
    }

    /// Nothing that comes can be told from other answers: ends the write, if there is one.
    /// `written` is what became of it; it is told whether the request that writes was sent.
    pub(super) fn refuse_write(&mut self, written: impl FnOnce(bool) -> Written) {
        let Some(writing) = &self.writes.present else { return };
        let is_sent = writing.is_begun && writing.step == Step::Check;
        self.end_write(written(is_sent));
    }

    /// What became of a write.
    pub fn poll_written(&mut self) -> Option<(u64, Written)> {
        self.writes.over.pop_front()
    }

    /// Whether the last request may be sent a second time.
    pub fn is_repeatable(&self) -> bool {
        !matches!(&self.line, Line::Waiting(exchange) if exchange.of_write && exchange.request.function() > 4)
    }

    /// The bus is given up with the write that is under way, or the line was closed.
    pub fn interrupt_write(&mut self) {
        let Some(writing) = self.writes.present.take() else { return };
        let was_sent = matches!(&self.line, Line::Waiting(exchange) if exchange.of_write) && !self.to_send;
        let written = match (writing.step, writing.doubt) {
            (Step::Write, _) if was_sent => Written::Unknown,
            (Step::Fetch | Step::Write, _) => Written::Unsent,
            (Step::Check, None) => Written::Unconfirmed(
                "the unit acknowledged it; the line was closed before it was read back".into(),
            ),
            (Step::Check, Some(_)) => Written::Unknown,
        };
        self.writes.over.push_back((writing.number, written));
    }

    fn end_write(&mut self, written: Written) {
        if let Some(writing) = self.writes.present.take() {
            self.writes.over.push_back((writing.number, written));
            self.writes.polls_first = self.polls_due(self.clock).count();
        }
    }

    fn polls_due(&self, now: Instant) -> impl Iterator<Item = &Unit> {
        self.units.iter().filter(move |unit| unit.failures == 0 && unit.due <= now)
    }

    fn stand(&self, now: Instant) -> Stand {
        let Some(writing) = &self.writes.present else { return Stand::None };
        let Some(unit) = self.units.get(writing.unit) else { return Stand::None };
        if writing.is_begun {
            return Stand::Holds(writing.at.max(self.open_for(unit)));
        }
        if self.current.is_some() {
            return Stand::None;
        }
        let is_poll_first = self.writes.polls_first > 0 && self.polls_due(now).next().is_some();
        if now >= writing.until || is_poll_first {
            return Stand::Waits(writing.until);
        }
        let shape = writing.job.read().map(|read| read.answer());
        match unit.is_sure(now, shape) {
            true => Stand::Holds(writing.at.max(self.open_for(unit))),
            false if unit.may_be_hurried() && !writing.is_hurried => Stand::Hurries,
            false => Stand::Waits(writing.until),
        }
    }

    /// When something is to be done on an idle line.
    pub(super) fn next_turn(&self) -> Option<Instant> {
        let soonest = self.open_at().max(self.clock);
        let own = match self.stand(self.clock) {
            Stand::None => None,
            Stand::Holds(at) => return Some(at.max(self.open_at())),
            Stand::Hurries => Some(soonest),
            Stand::Waits(until) => Some(until.max(self.open_at())),
        };
        own.into_iter().chain(self.next_begin()).min()
    }

    /// Sends the next request of a write, if it is its turn. Whether nothing else may be sent now.
    pub(super) fn begin_write(&mut self, now: Instant) -> bool {
        match self.stand(now) {
            Stand::None => false,
            Stand::Holds(at) if at > now => true,
            Stand::Holds(_) => self.send_write(now),
            Stand::Hurries => {
                if let Some(writing) = &mut self.writes.present {
                    writing.is_hurried = true;
                    self.units[writing.unit].begin(now);
                    self.current = Some(writing.unit);
                }
                false
            }
            Stand::Waits(until) if until <= now => {
                let unit = self.writes.present.as_ref().and_then(|writing| self.units.get(writing.unit));
                let is_read = unit.is_some_and(|unit| unit.failures == 0 && unit.state == State::Up);
                let why = if is_read { LATE } else { "the unit did not answer before it" };
                self.end_write(Written::Unasked(why.into()));
                false
            }
            Stand::Waits(_) => false,
        }
    }

    /// Nobody knows to which requests the answers to its reads are.
    fn end_doubtful(&mut self) {
        let Some(writing) = &mut self.writes.present else { return };
        let why = LATE;
        let written = match (writing.step, writing.doubt.take()) {
            (Step::Fetch | Step::Write, _) => Written::Unasked(format!("the register is read first: {why}")),
            (Step::Check, None) => Written::Unconfirmed(format!("the unit acknowledged it; {why}")),
            (Step::Check, Some(doubt)) => Written::Timeout(format!("{doubt}; {why}")),
        };
        self.end_write(written);
    }

    fn send_write(&mut self, now: Instant) -> bool {
        let Some(writing) = &mut self.writes.present else { return false };
        let Some(request) = writing.request() else {
            // Jobs are made of registers that there can be.
            self.end_write(Written::Unasked("it has no request".into()));
            return false;
        };
        let is_first = !std::mem::replace(&mut writing.is_begun, true);
        let index = writing.unit;
        let deadline = now + self.cost(&self.units[index], &request);
        let unit = &mut self.units[index];
        if is_first {
            unit.settle(now);
        }
        unit.write_sent();
        self.relay.asked(now, unit.settings.address, &request);
        self.classes.note_other();
        frame::encode(unit.settings.address, &request, &mut self.sent);
        self.to_send = true;
        self.receiver.clear();
        self.rival = None;
        self.begun = Some(now);
        let is_write = request.function() > 4;
        let echo = self.settings.echo || is_write && self.writes.is_echoed;
        let exchange = Exchange::new(index, Purpose::Block, request, now, deadline);
        self.line = Line::Waiting(Exchange { echo, of_write: true, ..exchange });
        true
    }

    /// A request of the write was answered, and the line is free.
    /// `line`: whether it can be that to the request of another unit.
    pub(super) fn write_answered(
        &mut self,
        now: Instant,
        exchange: &Exchange,
        answer: Answer<'_>,
        line: Trust,
    ) {
        let mut trust = line;
        if let Some(unit) = self.units.get_mut(exchange.unit) {
            unit.note_awaited(self.relay.awaits(now), self.relay.awaits_several());
            trust = unit.write_answered(now, (&exchange.request, exchange.asked), answer).and(line);
        }
        let late = self.relay.late().max(self.units.get(exchange.unit).map_or(0, Unit::mistakable));
        let was_late = self.units.get(exchange.unit).is_some_and(|unit| unit.was_just_late(now));
        let least = match self.medium == Medium::Line && !was_late {
            true => READS_OF_LINE,
            false => READS.0.max(late + 1),
        };
        let most = READS.1.max(2 * least);
        let Some(writing) = &mut self.writes.present else { return };
        if trust == Trust::Doubtful && exchange.request.function() <= 4 {
            // The read is sent again: what came may be the answer to an earlier one.
            writing.doubtful += 1;
            if writing.doubtful >= DOUBTFUL {
                self.end_doubtful();
            }
            return;
        }
        let reads_back = writing.job.reads_back();
        match (writing.step, answer) {
            (Step::Fetch, Answer::Data(data)) => {
                let is_same =
                    writing.read > 0 && writing.job.write(&writing.before) == writing.job.write(data);
                writing.read += 1;
                writing.alike = if is_same { writing.alike + 1 } else { 1 };
                writing.before = data.to_vec();
                if writing.alike >= least {
                    writing.go(Step::Write, now);
                } else if writing.read >= most {
                    let why = "the rest of the register is another each time it is read";
                    self.end_write(Written::Unasked(why.into()));
                }
            }
            (Step::Write, Answer::Done) if reads_back => writing.go(Step::Check, now),
            (Step::Write, Answer::Done) => {
                let value = writing.job.wanted();
                self.end_write(Written::Done(value));
            }
            (Step::Check, Answer::Data(data)) if writing.job.is_in(data) => {
                let value = writing.job.shown(data);
                self.end_write(Written::Done(value));
            }
            (Step::Check, Answer::Data(data)) => {
                if !writing.again(now) {
                    let held = String::from_utf8_lossy(&writing.job.shown(data)).into_owned();
                    let wanted = String::from_utf8_lossy(&writing.job.wanted()).into_owned();
                    let written = match writing.doubt.take() {
                        None => Written::Unconfirmed(format!(
                            "the unit acknowledged {wanted} and has {held} when it is read back"
                        )),
                        Some(doubt) => {
                            Written::Timeout(format!("{doubt}; the unit has {held} when it is read back"))
                        }
                    };
                    self.end_write(written);
                }
            }
            // It has it, and needs time: what is read back decides.
            (Step::Write, Answer::Exception(Exception::ACKNOWLEDGE)) => {
                let why = "the unit says that it needs time for it (exception 5, acknowledge)";
                match reads_back {
                    true => {
                        writing.doubt = Some(why.to_owned());
                        writing.go(Step::Check, now + AGAIN[0]);
                    }
                    false => self.end_write(Written::Unconfirmed(why.to_owned())),
                }
            }
            (Step::Fetch | Step::Write, Answer::Exception(exception)) => {
                let may_pass = exception == Exception::BUSY;
                if !(may_pass && writing.again(now)) {
                    self.end_write(Written::Exception(exception));
                }
            }
            (Step::Check, Answer::Exception(exception)) => {
                if !(exception.may_pass_later() && writing.again(now)) {
                    let why = writing.doubt.take();
                    let why = why.unwrap_or_else(|| "the unit acknowledged it".to_owned());
                    self.end_write(Written::Unconfirmed(format!(
                        "{why}; it cannot be read back: {exception}; read-back = false does without"
                    )));
                }
            }
            // The answer to a read has data, that to a write has none.
            (Step::Fetch | Step::Check, Answer::Done) | (Step::Write, Answer::Data(_)) => {}
        }
    }

    /// A request of the write had no answer; `closed`: because the line was closed.
    pub(super) fn write_lost(&mut self, now: Instant, exchange: &Exchange, closed: bool) {
        let came = exchange.settled.is_some() && (self.receiver.has_noise() || exchange.unframed > 0);
        self.release(now);
        self.receiver.clear();
        let was_sent = !std::mem::take(&mut self.to_send);
        if let Some(unit) = self.units.get_mut(exchange.unit)
            && was_sent
        {
            let is_first = unit.failures == 0;
            unit.write_lost(now, &exchange.request, exchange.asked);
            let failure = exchange.gateway.map_or(Failure::Silent, Failure::Gateway);
            let is_open = self.medium.gives_up(failure) && (self.medium == Medium::Header || !came);
            let until = exchange.asked + unit.rest();
            match exchange.is_displaced {
                true if is_open => self.relay.took_place(now, exchange.in_place, until),
                false if is_open => self.relay.gave_up(now, until, is_first),
                _ => {}
            }
            self.relay.lost(is_first, exchange.is_displaced);
        }
        let Some(writing) = &mut self.writes.present else { return };
        if !was_sent {
            let why = "the port did not take it in time";
            return self.end_write(if closed { Written::Unsent } else { Written::Unasked(why.into()) });
        }
        match writing.step {
            Step::Fetch if closed => self.end_write(Written::Unsent),
            Step::Fetch => {
                (writing.fetches, writing.alike) = (writing.fetches + 1, 0);
                (writing.is_begun, writing.is_hurried) = (false, false);
                if writing.fetches >= FETCHES {
                    let why = "the unit does not answer the read of the register before it";
                    self.end_write(Written::Unasked(why.into()));
                }
            }
            Step::Write if closed => self.end_write(Written::Unknown),
            Step::Write => {
                let why = match exchange.gateway {
                    // It did not reach the line behind the gateway.
                    Some(exception @ Exception(10)) => return self.end_write(Written::Exception(exception)),
                    Some(exception) => {
                        format!("the gateway at the port has no answer from the unit ({exception})")
                    }
                    None if exchange.misfit => {
                        "the unit answered something else than its acknowledgement".to_owned()
                    }
                    None if came => "the unit's answer was damaged".to_owned(),
                    None => "the unit did not answer".to_owned(),
                };
                if writing.job.reads_back() {
                    writing.doubt = Some(why);
                    writing.go(Step::Check, now);
                } else if exchange.misfit {
                    self.end_write(Written::Unconfirmed(why));
                } else {
                    self.end_write(Written::Timeout(why));
                }
            }
            Step::Check => {
                // What was damaged has come, and is not to be expected any more; and behind the
                // answer to the request before the read is repeated.
                if (came || exchange.is_displaced) && !closed && writing.again(now) {
                    return;
                }
                let how = if closed { "the line was closed before" } else { "there is no answer when" };
                let written = match writing.doubt.take() {
                    None => Written::Unconfirmed(format!("the unit acknowledged it; {how} it is read back")),
                    Some(_) if closed => Written::Unknown,
                    Some(doubt) => Written::Timeout(format!("{doubt}; {how} it is read back")),
                };
                self.end_write(written);
            }
        }
    }
}
