//! One unit on the bus: its next request, its values, and when it is due.
//!
//! ```text
//!            any answer                      answer                     last block
//!  unsure ────────────────> in step, block 0 ───────> block 1 … ──────────────────> reading, due next period
//!    ^  probe                    │ no answer
//!    └───────────────────────────┘ due after the back-off
//! ```
//!
//! An RTU answer does not say which request it answers. After a request without an answer, a late
//! one may still come, and would be taken for the answer to the next request of the same shape; and
//! then every answer for that of the request before. So such a unit is *unsure*: it is first sent a
//! probe, a read of values of its map whose answer has a shape that no other has. Units answer in
//! order; so once a probe is answered, only answers to other probes can be outstanding, and those
//! are told from all others. Where answers say which request they answer (Modbus TCP) nothing is
//! waited for, and nothing is in doubt until a request has no answer: then a gateway to a line may
//! put the number of the next request on the answer that is late.
//!
//! A read that failed last time is *shaky*: it is read after the others, and if it fails again the
//! reading is published without it, so that one group does not keep back the others.
//!
//! | part | content |
//! |---|---|
//! | `part` | one read, and how it does |
//! | `outstanding` | what may still come |
//! | `reading` | what the answers of a poll bring |
//! | `learning` | what failures teach |
//! | `learned` | how that is kept, put to the test and forgotten |
//! | `reason` | what is said of it |

mod learned;
mod learning;
mod outstanding;
mod part;
mod reading;
mod reason;

mod write;

use std::time::{Duration, Instant};

use super::super::State;
use super::super::lateness::Lateness;
use super::change::Changes;
use super::copies::Copies;
use super::doubt::{Doubt, Trust};
use super::fault::{Failure, Lost};
use super::learn::Obstacle;
use super::map::Value;
use super::misfit::Misfit;
use super::patience::{Patience, Surplus};
use super::pdu::{Answer, Request};
use super::plan::{self, Block, Widths};
use super::rest::Rest;
use super::settings;
use super::straggler::Several;
use learned::{TRIAL_EVERY, Trial};
use part::{Halved, Part};

/// Consecutive failures after which a unit counts as down.
const DOWN_AFTER: u32 = 3;
/// After so many reads in a row without a value a unit that answers counts as degraded.
const DEGRADED_AFTER: u32 = 3;
/// If the port is open again so soon, or so soon after the last answer or failure, a poll goes on
/// where it was.
const RESUME: Duration = Duration::from_secs(15);
/// On the first opening answers to requests of an earlier process may still come: a unit whose
/// answers cannot be told apart is asked after so many time-outs, or the longest time if that is
/// less, but not less than one.
const FIRST_REST: (u32, Duration) = (3, Duration::from_secs(10));
/// With so many failures within one poll, what was read is published.
const ATTEMPTS_MAX: u32 = 3;

/// Counters of a unit since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests sent.
    pub requests: u64,
    /// Responses, including exceptions.
    pub answers: u64,
    /// Exception responses.
    pub exceptions: u64,
    /// Requests without any response.
    pub silent: u64,
    /// Requests followed only by bytes that are not a frame.
    pub damaged: u64,
    /// Responses that came after the timeout.
    pub late: u64,
    /// Answers of another length or function than was asked for.
    pub misfits: u64,
    /// Milliseconds that its answers took, in all: each from the request to its end.
    pub busy_ms: u64,
    /// Polls completed.
    pub polls: u64,
    /// Polls skipped because the bus was busy or the unit did not respond.
    pub skipped: u64,
    /// Answers and values of polls that were not used, as nothing showed that they are its own.
    pub withheld: u64,
}

/// The purpose of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To see that answers are in step.
    Probe,
    /// One of the blocks.
    Block,
}

/// The result of a response.
#[derive(Debug, PartialEq)]
pub(super) enum Progress {
    /// The poll continues with another request.
    More,
    /// The poll is complete.
    Done,
    /// The turn was for suspects only, and there are none left.
    End,
    /// The turn is over, and the next one is set.
    Wait,
}

/// What became of a unit that is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// A value arrives, and none did before.
    Up,
    /// It answers, but none of its values arrives.
    Degraded,
    /// A register is left out, told once.
    Refused { register: usize, why: Obstacle },
    /// It wants to be asked otherwise than planned.
    Learned,
}

/// A register that is left out of the readings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) register: usize,
    pub(super) why: Obstacle,
}

/// Whether a read is repeated after a silence, in place of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeat {
    /// Not tried.
    Unknown,
    /// Being tried.
    Trying,
    /// It helps.
    Helps,
    /// It does not.
    Fails,
}

/// How long before a request there was no answer; longest if there never was.
#[derive(Clone, Copy, Debug)]
struct Silence {
    /// Of the unit.
    own: Duration,
    /// Of any on the line.
    line: Duration,
}

#[derive(Debug)]
pub(super) struct Unit {
    pub(super) settings: settings::Unit,
    pub(super) state: State,
    pub(super) failures: u32,
    pub(super) due: Instant,
    /// Whether it was polled since a failing unit was last polled.
    pub(super) served: bool,
    pub(super) counters: Counters,
    /// The silence on the line that it wants.
    pub(super) rest: Rest,
    /// Counts changes of what was learned.
    pub(super) revision: u64,
    /// Exceptions in a row.
    pub(super) refusals: u8,
    /// Those of them in a row with which a gateway may give up for a unit that is dead.
    given_up: u8,
    /// After several such ones it gave a value: it refuses reads by itself.
    is_itself: bool,
    parts: Vec<Part>,
    halved: Vec<Halved>,
    /// Reads that show that answers are in step, and whether the answer has a shape of its own.
    probes: Vec<(Request, bool)>,
    /// Which of them is next.
    probe_at: usize,
    in_step: bool,
    /// Answers say which request they answer; after a failure that may be the wrong one.
    pub(super) is_numbered: bool,
    /// An answer was left over since its last turn began.
    is_left_over: bool,
    /// Its poll was interrupted because the port was closed, and goes on.
    is_interrupted: bool,
    /// Openings of the port since its last answer.
    openings: u32,
    /// When its last request was answered or failed.
    ended_at: Option<Instant>,
    /// The greatest age of an answer that came late.
    latest: Duration,
    /// How late its answers come, at least.
    lateness: Lateness,
    /// The wait was lengthened, which is to be told.
    is_wait_news: bool,
    /// When the port was closed; and for how long after its opening an answer may still come that
    /// could be taken for another's.
    closed_at: Option<Instant>,
    still: Duration,
    position: usize,
    asked: Option<usize>,
    /// This turn is for suspects only.
    learning: bool,
    values: Vec<Option<Value>>,
    /// For each register: whether it arrived in this poll, and in how many polls before it did not.
    arrived: Vec<bool>,
    missed: Vec<u32>,
    changes: Changes,
    refused: Vec<Refusal>,
    /// When the next poll is due without its jitter, and with it.
    slot: Instant,
    slot_due: Instant,
    /// What may still come.
    doubt: Doubt,
    /// When an answer was last missing, or came late.
    missed_at: Option<Instant>,
    /// When its last frame came, late or not.
    heard_at: Option<Instant>,
    /// It is left alone until that has come.
    is_resting: bool,
    /// Late answers in a row in place of that to the next request; the last request had such a one,
    /// and is sent again.
    behind: u32,
    is_displaced: bool,
    is_sent_again: bool,
    patience: Patience,
    /// The last answer came behind an exception, or is one behind which data was waited for.
    is_deferred: bool,
    /// Since when each of its reads is sent more than once, whether the present one was, and so
    /// often it was asked for at once after its own answer to find out whether it takes that.
    doubled_since: Option<Instant>,
    is_doubled: bool,
    doubled: u32,
    hasty: u32,
    /// The last answers to the present read, if most of them are its own.
    several: Vec<Vec<u8>>,
    /// Those to other reads that may be among them; `None`: one that is not known may be.
    others: Option<Vec<Vec<u8>>>,
    /// They do not show a value that came in this poll; and so in so many polls in a row.
    is_undecided: bool,
    undecided: u32,
    /// The request whose data may still come behind an exception.
    owed: Option<(Request, Instant)>,
    surplus: Surplus,
    copies: Copies,
    /// The block that failed last, how, and after how much silence it was asked for.
    blame: Option<(Block, Obstacle, Silence)>,
    /// How the last request failed, if the last one did.
    failing: Option<Failure>,
    /// The last answer of another length or function.
    misfit: Option<Misfit>,
    /// A late answer came since the last good one.
    is_late: bool,
    /// One of its frames came while the unit of this address was asked, since the last good answer.
    pub(super) crossed: Option<u8>,
    /// Its last answer named this other unit, and was used all the same; and which was told.
    answers_as: Option<u8>,
    told_as: Option<u8>,
    /// In place of its answers frames of this address came that lateness does not explain, so often
    /// in a row.
    foreign: Option<(u8, u32)>,
    /// Failures within the present poll.
    attempts: u32,
    /// The last request was a block that had no answer.
    is_unanswered: bool,
    /// Such blocks in a row, each with an answered probe behind it.
    cycles: u32,
    repeat: Repeat,
    /// The present block is asked for again, after a silence.
    is_repeat: bool,
    /// When its last answer came.
    answered_at: Option<Instant>,
    /// Before the present request.
    silence: Silence,
    /// The shortest before a request that was answered.
    soonest: Option<Silence>,
    /// The shortest time after any answer on the line at which it was asked in vain.
    ignored_after: Option<Duration>,
    /// The last request that was lost, and how long after an answer on the line it was sent.
    lost_soon: Option<(Request, Duration)>,
    /// So often a read failed sooner after an answer on the line than any was answered, and not
    /// after a longer silence.
    hurried: u32,
    /// Which of [`learn::PAUSES`] is being tried, and for which read.
    trying: Option<(usize, Block)>,
    has_tried_pauses: bool,
    pause: Duration,
    widths: Widths,
    /// The same without what damaged answers taught.
    kept_widths: Widths,
    /// Reads in a row without a value.
    barren: u32,
    /// The blocks before one was taken apart because of an exception that may pass.
    whole: Option<Vec<Part>>,
    whole_again: u32,
    /// The block that was refused last by such an exception, and so often it was asked for again.
    again: Option<(Block, usize)>,
    /// That was in vain for a block in this poll: others are asked for again once only.
    is_in_vain: bool,
    trial: Option<Trial>,
    /// When what was learned is put to the test next, and how long after that again.
    trial_at: Instant,
    trial_wait: Duration,
    /// Trials until now.
    trials: u32,
    /// When it last was.
    tried_at: Option<Instant>,
}

impl Unit {
    pub(super) fn new(settings: settings::Unit, now: Instant) -> Unit {
        let mut unit = Unit {
            probes: Vec::new(),
            probe_at: 0,
            parts: Vec::new(),
            halved: Vec::new(),
            values: vec![None; settings.registers.len()],
            arrived: vec![false; settings.registers.len()],
            missed: vec![0; settings.registers.len()],
            settings,
            state: State::Unknown,
            failures: 0,
            due: now,
            served: false,
            counters: Counters::default(),
            rest: Rest::default(),
            revision: 0,
            refusals: 0,
            given_up: 0,
            is_itself: false,
            in_step: false,
            is_numbered: false,
            is_left_over: false,
            is_interrupted: false,
            openings: 0,
            ended_at: None,
            latest: Duration::ZERO,
            lateness: Lateness::default(),
            is_wait_news: false,
            closed_at: None,
            still: Duration::ZERO,
            position: 0,
            asked: None,
            learning: false,
            changes: Changes::default(),
            refused: Vec::new(),
            slot: now,
            slot_due: now,
            doubt: Doubt::default(),
            missed_at: None,
            heard_at: None,
            is_resting: false,
            behind: 0,
            is_displaced: false,
            is_sent_again: false,
            patience: Patience::default(),
            is_deferred: false,
            doubled_since: None,
            is_doubled: false,
            doubled: 0,
            hasty: 0,
            several: Vec::new(),
            others: None,
            is_undecided: false,
            undecided: 0,
            owed: None,
            surplus: Surplus::default(),
            copies: Copies::default(),
            blame: None,
            failing: None,
            misfit: None,
            is_late: false,
            crossed: None,
            answers_as: None,
            told_as: None,
            foreign: None,
            attempts: 0,
            is_unanswered: false,
            cycles: 0,
            repeat: Repeat::Unknown,
            is_repeat: false,
            answered_at: None,
            silence: Silence { own: Duration::MAX, line: Duration::MAX },
            soonest: None,
            ignored_after: None,
            lost_soon: None,
            hurried: 0,
            trying: None,
            has_tried_pauses: false,
            pause: Duration::ZERO,
            widths: Widths::default(),
            kept_widths: Widths::default(),
            barren: 0,
            whole: None,
            whole_again: 0,
            again: None,
            is_in_vain: false,
            trial: None,
            trial_at: now + TRIAL_EVERY,
            trial_wait: TRIAL_EVERY,
            trials: 0,
            tried_at: None,
        };
        unit.plan();
        unit
    }

    /// What is left out of the readings, and why.
    pub(super) fn refused(&self) -> &[Refusal] {
        &self.refused
    }

    /// The blocks as they are planned, within what was learned of their width.
    fn plan(&mut self) {
        let blocks = plan::blocks_within(&self.settings.registers, self.settings.limits, self.widths);
        self.parts = blocks.into_iter().map(Part::new).collect();
        self.halved.clear();
        self.find_probes();
    }

    /// Those within what was answered before come first.
    fn find_probes(&mut self) {
        self.probe_at = 0;
        let registers = &self.settings.registers;
        let all: Vec<&Block> = self.parts.iter().map(|part| &part.block).collect();
        let of = |wanted: fn(&&Part) -> bool| -> Vec<&Block> {
            self.parts.iter().filter(wanted).map(|part| &part.block).collect()
        };
        let proven = of(|part| part.aside.is_none() && part.proven);
        let others = of(|part| part.aside.is_none() && !part.proven);
        let aside = of(|part| part.aside.is_some());
        let probes = [proven, others, aside].map(|from| plan::probes(registers, &from, &all));
        self.probes = probes.concat();
    }

    /// The line is there again: due once answers to earlier requests have come, one timeout from
    /// now; three where it is open for the first time, an earlier process may have asked, and the
    /// answers to two reads cannot be told apart. A short interruption changes nothing: some
    /// converters close the connection after each answer, in place of one, or when it is idle.
    pub(super) fn start(&mut self, now: Instant) {
        self.openings = self.openings.saturating_add(1);
        let closed = self.closed_at.take().map(|at| now.saturating_duration_since(at));
        if let Some(closed) = closed {
            self.doubt.suspend(closed);
        }
        let still = std::mem::take(&mut self.still);
        // Without a shape of its own a probe shows no more than the listening, unless an answer may
        // still come.
        let has_shape = self.has_shape();
        let is_first = closed.is_none() && self.ended_at.is_none();
        let (times, longest) = FIRST_REST;
        let timeout = self.timeout();
        let listen = match self.is_numbered {
            // Where the line is closed again and again before a request, it goes out at once.
            false if self.openings > DOWN_AFTER => Duration::ZERO,
            false if is_first && !has_shape && self.parts.len() > 1 => {
                (timeout * times).min(longest).max(timeout)
            }
            false => timeout,
            true => Duration::ZERO,
        };
        let is_soon = |at: Instant| now.saturating_duration_since(at) <= RESUME;
        if closed.is_some_and(|closed| closed <= RESUME) || self.ended_at.is_some_and(is_soon) {
            let is_clean = self.is_numbered || self.in_step;
            self.due = self.due.max(if is_clean { now + still } else { now + listen });
            return;
        }
        // One who numbers answers may be one request late since another process asked.
        if (!self.is_numbered || is_first) && !has_shape && self.parts.len() > 1 {
            self.doubt.expect_unknown(now);
        }
        self.in_step = !has_shape && (self.is_numbered || self.doubt.is_none());
        self.blame = None;
        self.slot = now + listen;
        self.slot_due = self.slot;
        self.due = self.slot;
        self.restart();
    }

    fn restart(&mut self) {
        self.is_interrupted = false;
        self.is_repeat = false;
        self.position = 0;
        self.asked = None;
        self.learning = false;
        self.values.fill(None);
        self.arrived.fill(false);
        // One suspect after the other: pauses are tried with one read at a time.
        self.parts.sort_by_key(|part| (part.is_doubtful(), part.shaky && !part.is_doubtful()));
    }

    /// Its turn begins.
    pub(super) fn begin(&mut self, now: Instant) {
        let was_resting = std::mem::take(&mut self.is_resting);
        self.owed = None;
        if std::mem::take(&mut self.is_interrupted) {
            if self.is_repeat {
                self.doubt.settle(now, Duration::ZERO, None, true);
            }
            return;
        }
        self.learning = now < self.slot;
        (self.again, self.is_in_vain) = (None, false);
        self.rewind();
        if !self.learning && now >= self.trial_at {
            self.begin_trial(now);
        }
        if std::mem::take(&mut self.is_left_over) {
            self.in_step = false;
        }
        let is_one = self.parts.len() == 1;
        if self.in_step || self.is_numbered && !is_one || was_resting && is_one {
            self.settle(now);
        }
    }

    /// What cannot come any more is not reckoned with.
    pub(super) fn settle(&mut self, now: Instant) {
        // The answers to one read cannot be exchanged.
        let heard = self.heard_at.filter(|_| self.parts.len() > 1);
        // One whose late answers come by themselves is behind no converter that keeps them.
        let held = self.parts.len() > 1 && (self.latest.is_zero() || self.is_behind());
        self.doubt.settle(now, self.still_to_come(self.timeout()), heard, held);
    }

    /// The port was closed between two requests of its poll.
    pub(super) fn interrupted(&mut self) {
        self.is_interrupted = true;
    }

    /// The port is closed each time before it can be asked: whether it counts as down from now on,
    /// and did not before.
    pub(super) fn is_kept_from_being_asked(&mut self, now: Instant) -> bool {
        let overdue = 3 * (self.settings.period + self.settings.timeout);
        let is_kept = self.openings >= DOWN_AFTER
            && matches!(self.state, State::Up | State::Degraded)
            && self.ended_at.is_none_or(|at| now.saturating_duration_since(at) > overdue);
        if is_kept {
            self.state = State::Down;
            self.failing = Some(Failure::Closed);
        }
        is_kept
    }

    fn rewind(&mut self) {
        self.position = 0;
        self.asked = None;
    }

    /// The next block to ask for.
    fn current(&self, now: Instant) -> Option<usize> {
        (self.position..self.parts.len()).find(|index| {
            let part = &self.parts[*index];
            let is_due = part.aside.is_none_or(|(again, _)| again <= now);
            is_due && (!self.learning || part.is_in_question())
        })
    }

    /// What to ask next; `None` if nothing is to be asked in this turn.
    pub(super) fn next_request(&self, now: Instant) -> Option<(Purpose, Request)> {
        if !self.in_step && !self.probes.is_empty() {
            let (probe, _) = self.probes.get(self.probe_at % self.probes.len())?;
            return Some((Purpose::Probe, probe.clone()));
        }
        Some((Purpose::Block, self.parts.get(self.current(now)?)?.block.request()?))
    }

    /// The request that [`Unit::next_request`] told is sent now. `line_at`: when the last answer of
    /// any unit came.
    pub(super) fn sent(&mut self, now: Instant, line_at: Option<Instant>) {
        let since = |at: Option<Instant>| at.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        let (own, line) = (since(self.answered_at), since(line_at));
        self.silence = Silence { own, line: line.min(own) };
        self.asked = self.current(now);
        self.counters.requests += 1;
        self.served = true;
    }

    /// An answer came. `line`: whether it can be that to the request of another unit. `several`:
    /// the answers to this read, if most of them are its own.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        (purpose, request, asked): (Purpose, &Request, Instant),
        (answer, line): (Answer<'_>, Trust),
        several: Several<'_>,
        news: &mut Vec<News>,
    ) -> Progress {
        (self.several, self.others) = (several.answers.to_vec(), several.others);
        let timeout = self.timeout();
        self.counters.answers += 1;
        let took = now.saturating_duration_since(asked).as_millis();
        self.counters.busy_ms = self.counters.busy_ms.saturating_add(u64::try_from(took).unwrap_or(u64::MAX));
        let was_failing = self.failures > 0 && self.answered_at.is_some();
        self.failures = 0;
        self.failing = None;
        self.lateness.heard();
        let by_unit = self.account(now, (request, asked), answer);
        let trust = by_unit.and(line);
        self.is_sent_again = false;
        if by_unit == Trust::Sure {
            self.behind = 0;
            self.lateness.in_time();
            (self.is_late, self.crossed, self.foreign) = (false, None, None);
        }
        self.answered_at = Some(now);
        self.heard_at = Some(now);
        self.ended_at = Some(now);
        self.openings = 0;
        let Silence { own, line } = self.silence;
        self.soonest = Some(self.soonest.map_or(self.silence, |soonest| Silence {
            own: soonest.own.min(own),
            line: soonest.line.min(line),
        }));
        match answer {
            Answer::Exception(_) => self.counters.exceptions += 1,
            Answer::Data(_) | Answer::Done if trust != Trust::Doubtful => self.is_there(),
            Answer::Data(_) | Answer::Done => {}
        }
        match purpose {
            // An exception shows as well that it answers in order.
            Purpose::Probe => {
                self.in_step = true;
                self.cycles += u32::from(std::mem::take(&mut self.is_unanswered));
                let is_read = |part: &&mut Part| part.block.request().as_ref() == Some(request);
                self.parts.iter_mut().filter(is_read).for_each(|part| part.proven = true);
                self.settle_blame(now, request, news);
                if self.barren >= DEGRADED_AFTER {
                    self.degrade(news);
                }
                self.rewind();
                // What another process asked for may come first.
                let is_alone = self.parts.len() == 1 && was_failing && trust == Trust::Sure;
                let current = self.current(now).filter(|_| trust == Trust::Alike || is_alone);
                if current.and_then(|at| self.parts[at].block.request()).as_ref() == Some(request) {
                    // It is the first read as well.
                    self.asked = current;
                    return self.use_answer(now, answer, by_unit, news);
                }
                if self.rests(now, timeout, true) {
                    return Progress::Wait;
                }
                if self.awaits_owed(now) {
                    self.rest_for_owed(now);
                    return Progress::Wait;
                }
                self.more(now)
            }
            Purpose::Block if trust == Trust::Doubtful => {
                // Whatever it is the answer to: the read is sent again.
                self.asked = None;
                self.is_doubled = true;
                self.doubled_since = self.doubled_since.or(Some(now));
                if self.rests(now, timeout, false) {
                    return Progress::Wait;
                }
                Progress::More
            }
            Purpose::Block => {
                self.cycles = 0;
                if !std::mem::take(&mut self.is_doubled) {
                    (self.doubled_since, self.doubled) = (None, 0);
                }
                if std::mem::take(&mut self.is_repeat) {
                    self.repeat = Repeat::Helps;
                    self.blame = None;
                }
                let progress = self.use_answer(now, answer, by_unit, news);
                if progress == Progress::More && self.awaits_owed(now) {
                    self.is_interrupted = true;
                    self.rest_for_owed(now);
                    return Progress::Wait;
                }
                progress
            }
        }
    }

    /// An answer to a block, which is used.
    fn use_answer(
        &mut self,
        now: Instant,
        answer: Answer<'_>,
        by_unit: Trust,
        news: &mut Vec<News>,
    ) -> Progress {
        let is_alone = self.parts.len() == 1;
        if by_unit == Trust::Alike && self.doubt.used(is_alone) {
            news.push(News::Learned);
        }
        let is_data = matches!(answer, Answer::Data(_));
        let progress = self.block_answered(now, answer, news);
        if is_data && self.has_shape() && !self.is_behind() && self.mistakable() > 0 {
            self.in_step = false;
        }
        progress
    }

    fn more(&self, now: Instant) -> Progress {
        match (self.current(now), self.learning) {
            (Some(_), _) => Progress::More,
            (None, false) => Progress::Done,
            (None, true) => Progress::End,
        }
    }

    /// Ends a turn that was for suspects only, or had nothing to ask.
    pub(super) fn end_turn(&mut self, now: Instant, jitter: Duration) {
        if now < self.slot {
            self.due = self.slot_due;
            self.restart();
        } else {
            self.schedule(now, jitter);
        }
    }

    /// Ends a poll: the next one is due in the next free slot of the period, so that the rhythm
    /// stays whatever a poll takes.
    fn schedule(&mut self, now: Instant, jitter: Duration) {
        self.attempts = 0;
        self.restart();
        let period = self.settings.period.max(Duration::from_millis(1));
        let late = now.saturating_duration_since(self.slot);
        let missed = u32::try_from(late.as_nanos() / period.as_nanos()).unwrap_or(u32::MAX);
        self.counters.skipped += u64::from(missed);
        // After a long time without a response, the schedule restarts.
        self.slot = period
            .checked_mul(missed.saturating_add(1))
            .and_then(|step| self.slot.checked_add(step))
            .filter(|slot| *slot > now)
            .unwrap_or(now + period);
        self.slot_due = self.slot + jitter;
        self.due = self.slot_due;
    }

    /// No answer came to a request. Whether the poll is complete without it: then
    /// [`Unit::complete`] is to be called, and [`Unit::try_again`].
    pub(super) fn failed(
        &mut self,
        now: Instant,
        (purpose, request, asked): (Purpose, &Request, Instant),
        lost: Lost,
        backoff: Duration,
    ) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.failing = Some(lost.failure);
        self.ended_at = Some(now);
        self.missed_at = Some(now);
        self.openings = 0;
        self.lateness.failed();
        if lost.obstacle() == Some(Obstacle::Silence) {
            let after = self.silence.line;
            self.ignored_after = Some(self.ignored_after.map_or(after, |least| least.min(after)));
            self.lost_soon = (!lost.is_displaced).then(|| (request.clone(), after));
        }
        let was_in_step = std::mem::take(&mut self.in_step);
        // What is left of an answer has come; of the only read a late one is no other's.
        if lost.is_displaced && (self.is_numbered || lost.is_behind) {
            self.doubt.displaced(request, asked);
        } else if !(lost.is_answer || self.parts.len() == 1 && lost.is_part) {
            self.doubt.unanswered(request, asked);
        }
        if lost.failure == Failure::Intruded && self.failures < DOWN_AFTER {
            // Nothing is known of the unit, or of the read.
            (self.is_interrupted, self.in_step, self.asked) = (true, was_in_step, None);
            self.due = now + backoff;
            return false;
        }
        let is_relayed = lost.is_displaced && lost.is_behind;
        let is_displaced = is_relayed || self.is_displaced && self.is_behind();
        if is_displaced && !self.is_sent_again {
            // The next answer is that to this request.
            (self.is_interrupted, self.asked) = (true, None);
            self.in_step = was_in_step || !is_relayed;
            self.is_sent_again = is_relayed || purpose == Purpose::Block;
            self.due = now;
            return false;
        }
        self.is_sent_again = false;
        if self.end_trial() {
            self.due = now + backoff;
            return false;
        }
        self.is_unanswered = purpose == Purpose::Block;
        if purpose == Purpose::Probe {
            self.cycles = 0;
        }
        if std::mem::take(&mut self.is_repeat) {
            self.repeat = Repeat::Fails;
        } else if matches!(self.repeat, Repeat::Trying | Repeat::Helps)
            && purpose == Purpose::Block
            && lost.obstacle() == Some(Obstacle::Silence)
        {
            // Its poll goes on with this block.
            (self.is_repeat, self.is_interrupted, self.is_unanswered) = (true, true, false);
            (self.in_step, self.asked, self.trying) = (true, None, None);
            self.due = now + backoff.max(self.still_to_come(self.timeout()));
            return false;
        }
        // What came in its place says nothing of the read.
        let is_read = purpose == Purpose::Block && !lost.is_displaced;
        let index = self.asked.filter(|index| is_read && *index < self.parts.len());
        let mut is_complete = false;
        if let Some(index) = index {
            self.attempts = self.attempts.saturating_add(1);
            let has_value = self.has_value();
            let part = &mut self.parts[index];
            let is_again = part.shaky || self.attempts >= ATTEMPTS_MAX;
            is_complete = !self.learning && (part.is_doubtful() || has_value && is_again);
            part.shaky = true;
            self.blame = Some((part.block.clone(), part.blame(lost), self.silence));
            if !has_value {
                self.barren = self.barren.saturating_add(1);
            }
            if !part.is_doubtful() {
                // Of those that fail, each is the first in its turn.
                let part = self.parts.remove(index);
                self.parts.push(part);
            }
        } else {
            self.probe_at += 1;
            // Nobody knows why, if it is not there.
            self.blame = self.blame.take().filter(|_| self.failures < DOWN_AFTER);
        }
        if !is_complete {
            self.due = now + backoff;
            if now < self.slot {
                self.due = self.due.min(self.slot_due);
            }
            self.rest_alone(now);
            self.restart();
        }
        is_complete
    }

    /// Whether its request is sent again because the answer to another one came in its place.
    pub(super) fn is_sent_again(&self) -> bool {
        self.is_sent_again
    }

    /// Whether it is polled in free time only: it failed, and is not to be retried in its turn, as
    /// once a unit that was up is.
    pub(super) fn is_put_off(&self) -> bool {
        // Where answers come late, their wait is long, and they come all the same.
        let is_late = !self.latest.is_zero() || !self.lateness.wait().is_zero();
        self.failures > 1 || self.failures == 1 && (self.state != State::Up || is_late)
    }

    /// After a poll that was complete without a suspect: the next turn comes before the next poll.
    pub(super) fn try_again(&mut self, at: Instant) {
        if self.parts.iter().any(|part| part.suspect) || self.blame.is_some() {
            self.due = self.due.min(at);
        }
    }

    /// Whether it counts as down from now on, or as degraded because what it answers does not fit,
    /// and did not before.
    pub(super) fn has_gone_down(&mut self) -> Option<State> {
        let is_there = match self.failing {
            Some(Failure::Misfit | Failure::Intruded) => true,
            // The unit may have said so itself.
            Some(Failure::Gateway(exception)) => !exception.is_of_gateway(),
            _ => false,
        };
        let to = if is_there { State::Degraded } else { State::Down };
        if self.failures < DOWN_AFTER || self.state == to {
            return None;
        }
        self.state = to;
        Some(to)
    }
}
