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
//! are told from all others. Where all reads of a map have one shape, one of them is the probe: its
//! answer is not used, and the unit is left alone until all that is outstanding has come, or until
//! it was silent for longer than any answer takes: six time-outs, or twice the age of the latest
//! answer if that is more, at most twenty. As it answers in order, one answer after the other would
//! come within that. An answer that is left over shows that a unit is out of step after all. Where
//! answers say which request they answer (Modbus TCP) none of this is needed.
//!
//! A read that had no answer three times while the unit answers others is changed, in this order:
//! asked after a pause, if nothing was ever answered sooner after an answer; taken apart, at its
//! gaps and then in the middle; left out for a time that doubles, if it is one value only. Until a
//! part was answered it is *suspect*: it is read after all others, and when it fails the reading is
//! published without it. Between two polls there are turns for suspects alone.
//!
//! Some converters, and so each unit behind them, miss a request that comes too soon after any
//! answer on the line. So a pause of at most [`SMALL_PAUSE`] counts from the last answer of
//! whatever unit, a longer one from the unit's own.
//!
//! A register that did not arrive in [`learn::MISSED`] polls in a row is named, whatever the cause.
//!
//! Noise is a property of the line, not of the unit. A damaged answer teaches nothing: the read is
//! repeated. Noise damages requests, too, and then the unit is silent; so a read that was answered
//! before must fail twelve times in a row. Only an answer that breaks off at the same length
//! sixteen times in a row counts like silence: an adapter or a unit with a small buffer does that.
//!
//! Some units answer every second request only: each block would be silent, and each probe be
//! answered, for ever. After three such cycles, before a read is taken apart, it is repeated once
//! in place of the probe, when none of its answers can still come. If that helps, silence is dealt
//! with in this way until it does not help.
//!
//! A unit whose answers come late, twice without one in time between, is waited for longer, and so
//! is one that answers the same read late each time: half as long again as the last answer took, at
//! most four time-outs ([`wait_max`]). After three failures without any frame from it the
//! configured time-out holds again, so that a unit that is gone costs the others no more.
//!
//! A read that failed last time is *shaky*: it is read after the others, and if it fails again the
//! reading is published without it, so that one group does not keep back the others.
//!
//! What was learned may have been a passing matter. Ten minutes later, then after twice as long and
//! so on up to a day, and when a unit that was down is up again, one poll is made as configured: if
//! all of it is answered, what was learned is forgotten; with its first failure it is in force
//! again.

mod write;

use std::time::{Duration, Instant};

use super::super::{State, wait_max};
use super::change::Changes;
use super::fault::{Failing, Failure, Lost, Medium, Misfit};
use super::learn::{self, Learned, Obstacle};
use super::map::{self, Value};
use super::pdu::{Answer, EXCEPTION, Exception, Request, Shape};
use super::plan::{self, Block, Widths};
use super::settings;

/// Most unanswered requests remembered, to detect late responses.
const UNANSWERED_MAX: usize = 32;
/// Consecutive failures after which a unit counts as down.
const DOWN_AFTER: u32 = 3;
/// After so many reads in a row without a value a unit that answers counts as degraded.
const DEGRADED_AFTER: u32 = 3;
/// Shortest and longest silence, in time-outs, after which no answer can still come: the least is
/// more than any answer takes that comes up to four time-outs late.
const STILL_TO_COME: (u32, u32) = (6, 20);
/// If the port is open again so soon, or so soon after the last answer or failure, a poll goes on
/// where it was.
const RESUME: Duration = Duration::from_secs(15);
/// So often in a row a block is asked for whole again that was refused by an exception that may
/// pass.
const WHOLE_AGAIN_MAX: u32 = 3;
/// So long after an exception that may pass the same block is asked for again, so often in a poll.
const AGAIN: [Duration; 3] = [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(300)];
/// Requests in a row whose answer came from another address, after which that is named.
const FOREIGN: u32 = 3;
/// On the first opening answers to requests of an earlier process may still come: a unit whose
/// answers cannot be told apart is asked after so many time-outs, or the longest time if that is
/// less, but not less than one.
const FIRST_REST: (u32, Duration) = (3, Duration::from_secs(10));
/// Pauses up to this cost the other units on the line little.
const SMALL_PAUSE: Duration = learn::PAUSES[0];
/// With so many failures within one poll, what was read is published.
const ATTEMPTS_MAX: u32 = 3;

/// After this it is tried for the first time whether what was learned is still needed; doubles up
/// to [`TRIAL_EVERY`].
const TRIAL_FIRST: Duration = Duration::from_secs(600);
/// The longest time between two such trials.
const TRIAL_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Not sooner after the last trial than this, for a unit that was down.
const TRIAL_AGAIN: Duration = Duration::from_secs(3600);

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

/// A block and how it does.
#[derive(Clone, Debug)]
struct Part {
    block: Block,
    /// Failures in a row that were no damage, while the unit answered others.
    failures: u32,
    /// It failed when it was asked for last.
    shaky: bool,
    /// So many bytes its answer had, in place of more, and so often in a row.
    cut: (usize, u32),
    /// Its last failure was a damaged answer.
    is_damaged: bool,
    /// A gateway said why it did not answer.
    gateway: Option<Exception>,
    /// It came of a read that failed, and was not answered yet.
    suspect: bool,
    /// It was answered.
    proven: bool,
    /// Not asked for before then; and how long it was left out.
    aside: Option<(Instant, Duration)>,
    /// Of which read it is a half, as an index into `halved`.
    half_of: Option<usize>,
}

impl Part {
    fn new(block: Block) -> Part {
        Part {
            block,
            failures: 0,
            shaky: false,
            cut: (0, 0),
            is_damaged: false,
            gateway: None,
            suspect: false,
            proven: false,
            aside: None,
            half_of: None,
        }
    }

    fn is_doubtful(&self) -> bool {
        self.suspect || self.aside.is_some()
    }

    /// Whether it has a turn between two polls.
    fn is_in_question(&self) -> bool {
        self.suspect || self.failures > 0
    }

    /// What its failure may teach; `None` for damage, which shows that it is answered.
    fn blame(&mut self, lost: Lost) -> Option<Obstacle> {
        self.is_damaged = lost.obstacle().is_none();
        self.gateway = match lost.failure {
            Failure::Gateway(exception) => Some(exception),
            _ => None,
        };
        if let Some(why) = lost.obstacle() {
            self.cut = (0, 0);
            return Some(why);
        }
        let times = if lost.came || self.cut.0 != lost.bytes { 0 } else { self.cut.1 };
        self.cut = (lost.bytes, times + 1);
        self.failures = 0;
        (times + 1 >= learn::CUT_ALIKE).then_some(Obstacle::Damage)
    }

    /// Failures in a row after which it is changed.
    fn failures_max(&self) -> u32 {
        match (self.aside.is_some(), self.proven) {
            (true, _) => 1,
            (false, false) => learn::FAILURES,
            (false, true) => learn::FAILURES_PROVEN,
        }
    }
}

/// How long before a request there was no answer; longest if there never was.
#[derive(Clone, Copy, Debug)]
struct Silence {
    /// Of the unit.
    own: Duration,
    /// Of any on the line.
    line: Duration,
}

/// A read without gaps that was taken apart in the middle.
#[derive(Clone, Debug)]
struct Halved {
    /// Halves not answered yet.
    left: usize,
    /// A half was not answered either.
    failed: bool,
    /// Registers of the longer half.
    quantity: u16,
}

/// What was learned, while a poll is made without it.
#[derive(Debug)]
struct Trial {
    pause: Duration,
    widths: Widths,
    parts: Vec<Part>,
    halved: Vec<Halved>,
    refused: Vec<Refusal>,
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
    /// Counts changes of what was learned.
    pub(super) revision: u64,
    parts: Vec<Part>,
    halved: Vec<Halved>,
    /// Reads that show that answers are in step, and whether the answer has a shape of its own.
    probes: Vec<(Request, bool)>,
    /// Which of them is next.
    probe_at: usize,
    in_step: bool,
    /// Answers say which request they answer.
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
    /// How long an answer is waited for, as was learned; zero: as configured.
    wait: Duration,
    /// The wait was lengthened, which is to be told.
    is_wait_news: bool,
    /// Late answers in a row without one in time.
    lates: u32,
    /// The least age that the last late answer can have.
    late_after: Duration,
    /// Failures in a row without any frame from it.
    mute: u32,
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
    unanswered: Vec<(Shape, Instant)>,
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
    /// So often a read failed sooner after an answer on the line than any was answered, and not
    /// after a longer silence.
    hurried: u32,
    /// Which of [`learn::PAUSES`] is being tried, and for which read.
    trying: Option<(usize, Block)>,
    has_tried_pauses: bool,
    pause: Duration,
    widths: Widths,
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
            revision: 0,
            in_step: false,
            is_numbered: false,
            is_left_over: false,
            is_interrupted: false,
            openings: 0,
            ended_at: None,
            latest: Duration::ZERO,
            wait: Duration::ZERO,
            is_wait_news: false,
            lates: 0,
            late_after: Duration::ZERO,
            mute: 0,
            closed_at: None,
            still: Duration::ZERO,
            position: 0,
            asked: None,
            learning: false,
            changes: Changes::default(),
            refused: Vec::new(),
            slot: now,
            slot_due: now,
            unanswered: Vec::new(),
            blame: None,
            failing: None,
            misfit: None,
            is_late: false,
            crossed: None,
            foreign: None,
            attempts: 0,
            is_unanswered: false,
            cycles: 0,
            repeat: Repeat::Unknown,
            is_repeat: false,
            answered_at: None,
            silence: Silence { own: Duration::MAX, line: Duration::MAX },
            soonest: None,
            hurried: 0,
            trying: None,
            has_tried_pauses: false,
            pause: Duration::ZERO,
            widths: Widths::default(),
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

    /// Takes over what was learned before; what belongs to another map is left out.
    pub(super) fn recall(&mut self, learned: &Learned, now: Instant) {
        self.pause = learned.pause();
        self.wait = learned.wait(self.settings.timeout);
        self.widths = learned.widths();
        self.plan();
        let registers = &self.settings.registers;
        if let Some(blocks) = learned.blocks(registers, self.settings.limits) {
            self.parts = blocks.into_iter().map(Part::new).collect();
            for part in &mut self.parts {
                if let [only] = part.block.members[..]
                    && learned.silent.contains(&registers[only].name)
                {
                    part.aside = Some((now + learn::ASIDE, learn::ASIDE));
                    self.refused.push(Refusal { register: only, why: Obstacle::Silence });
                }
            }
            self.find_probes();
        }
        if learned.is_testable() {
            self.test_soon(now);
        }
    }

    /// Forgets what was learned: it is asked as configured again.
    pub(super) fn relearn(&mut self, now: Instant) -> bool {
        let had = !self.learned().is_empty() || !self.refused.is_empty();
        self.trial = None;
        (self.pause, self.widths) = (Duration::ZERO, Widths::default());
        (self.wait, self.lates) = (Duration::ZERO, 0);
        (self.trying, self.has_tried_pauses, self.soonest) = (None, false, None);
        self.hurried = 0;
        (self.blame, self.whole, self.whole_again) = (None, None, 0);
        (self.repeat, self.cycles) = (Repeat::Unknown, 0);
        self.refused.clear();
        self.plan();
        self.revision += 1;
        self.in_step = false;
        self.due = now;
        self.restart();
        had
    }

    /// Something was learned: it is put to the test soon.
    fn test_soon(&mut self, now: Instant) {
        self.revision += 1;
        self.trial_wait = TRIAL_FIRST;
        self.trial_at = now + TRIAL_FIRST;
    }

    /// How it failed last, if it did, and did not answer since.
    pub(super) fn failing(&self) -> Option<Failing> {
        let misfit = self.misfit.filter(|_| self.failing == Some(Failure::Misfit));
        let medium = Medium::default();
        let most = wait_max(self.settings.timeout);
        let beyond = (self.is_late && self.late_after > most).then_some((self.late_after, most));
        let (is_late, crossed) = (self.is_late, self.crossed);
        Some(Failing { failure: self.failing?, misfit, is_late, beyond, crossed, medium })
    }

    /// How long an answer is waited for: as configured, or as was learned while something comes
    /// from the unit.
    pub(super) fn timeout(&self) -> Duration {
        let learned = if self.mute < DOWN_AFTER { self.wait } else { Duration::ZERO };
        learned.max(self.settings.timeout)
    }

    /// The wait becomes half as long again as a late answer took; whether it does. One that was
    /// later than the longest wait changes nothing.
    fn lengthen(&mut self) -> bool {
        let most = wait_max(self.settings.timeout);
        let wait = self.late_after.max(self.timeout()).mul_f64(1.5).min(most);
        if self.late_after > most || wait <= self.wait {
            return false;
        }
        (self.wait, self.is_wait_news, self.lates) = (wait, true, 0);
        self.revision += 1;
        true
    }

    /// Whether the wait was lengthened since this was asked last.
    pub(super) fn take_wait_news(&mut self) -> bool {
        std::mem::take(&mut self.is_wait_news)
    }

    /// A request to it failed. `sure`: meanwhile a frame of this other address came that lateness
    /// does not explain; `maybe`: one that may be a late one. The address from which its answers
    /// come, once that is certain: then what seemed late was not.
    pub(super) fn foreign(&mut self, sure: Option<u8>, maybe: Option<u8>) -> Option<u8> {
        self.foreign = match (sure, self.foreign) {
            (Some(address), Some((known, times))) if known == address => Some((known, times + 1)),
            (Some(address), _) => Some((address, 1)),
            (None, known) => known.filter(|(address, _)| maybe == Some(*address)),
        };
        let address = self.answers_from()?;
        self.wait = Duration::ZERO;
        Some(address)
    }

    /// The other address from which its answers come, if that is certain.
    pub(super) fn answers_from(&self) -> Option<u8> {
        self.foreign.filter(|(_, times)| *times >= FOREIGN).map(|(address, _)| address)
    }

    /// Whether it answers its own requests.
    pub(super) fn is_healthy(&self) -> bool {
        self.failures == 0 && self.state == State::Up
    }

    /// What to keep over a restart.
    pub(super) fn learned(&self) -> Learned {
        let registers = &self.settings.registers;
        let (pause, widths, parts) = match (&self.trial, &self.whole) {
            (Some(trial), _) => (trial.pause, trial.widths, &trial.parts),
            (None, whole) => (self.pause, self.widths, whole.as_ref().unwrap_or(&self.parts)),
        };
        let mut reads: Vec<(String, u16, u16)> = parts
            .iter()
            .map(|part| (part.block.table.as_str().to_owned(), part.block.address, part.block.quantity))
            .collect();
        reads.sort();
        let mut planned: Vec<(String, u16, u16)> = plan::blocks(registers, self.settings.limits)
            .into_iter()
            .map(|block| (block.table.as_str().to_owned(), block.address, block.quantity))
            .collect();
        planned.sort();
        let silent = parts.iter().filter(|part| part.aside.is_some()).flat_map(|part| {
            part.block.members.iter().filter_map(|index| Some(registers.get(*index)?.name.clone()))
        });
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Learned {
            pause_ms: ms(pause),
            timeout_ms: ms(self.wait),
            widths,
            map: learn::fingerprint(registers, self.settings.limits),
            reads: if reads == planned { Vec::new() } else { reads },
            silent: silent.collect(),
            ..Learned::default()
        }
    }

    /// What is left out of the readings, and why.
    pub(super) fn refused(&self) -> &[Refusal] {
        &self.refused
    }

    /// Not before this is it asked again: a pause after an answer that was learned, or is being
    /// tried. `line_at`: when the last answer of any unit came.
    pub(super) fn open_at(&self, line_at: Option<Instant>) -> Option<Instant> {
        let trial = self.trying.as_ref().and_then(|(step, _)| learn::PAUSES.get(*step));
        let pause = self.pause.max(trial.copied().unwrap_or_default());
        let small = line_at.filter(|_| !pause.is_zero()).map(|at| at + pause.min(SMALL_PAUSE));
        small.max(self.answered_at.map(|at| at + pause))
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

    /// The port was closed. A converter keeps what comes meanwhile, so time until it is open again
    /// does not count.
    pub(super) fn closed(&mut self, now: Instant) {
        self.closed_at = Some(now);
        // A unit in step is waiting for what is still to come.
        let is_waiting = self.in_step && !self.is_numbered && self.is_mistakable();
        self.still = if is_waiting { self.due.saturating_duration_since(now) } else { Duration::ZERO };
    }

    /// Takes over from the unit of this address of before a reload what may still come.
    pub(super) fn adopt(&mut self, before: &Unit) {
        self.unanswered.clone_from(&before.unanswered);
        (self.ended_at, self.latest, self.closed_at) = (before.ended_at, before.latest, before.closed_at);
        // The map may be another one, and with it what can be mistaken.
        self.in_step = self.unanswered.is_empty() && before.in_step;
    }

    /// For so long an answer to its last request may still come.
    pub(super) fn rest(&self) -> Duration {
        self.still_to_come(self.timeout())
    }

    /// The line is there again: due once answers to earlier requests have come, one timeout from
    /// now; three where it is open for the first time, an earlier process may have asked, and the
    /// answers to two reads cannot be told apart. A short interruption changes nothing: some
    /// converters close the connection after each answer, in place of one, or when it is idle.
    pub(super) fn start(&mut self, now: Instant) {
        self.openings = self.openings.saturating_add(1);
        let closed = self.closed_at.take().map(|at| now.saturating_duration_since(at));
        if let Some(closed) = closed {
            self.unanswered.iter_mut().for_each(|(_, asked)| *asked += closed);
        }
        let still = std::mem::take(&mut self.still);
        // Without a shape of its own a probe shows no more than the listening, unless an answer may
        // still come.
        let has_shape = self.probes.first().is_some_and(|(_, distinct)| *distinct);
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
        self.in_step = !has_shape && (self.is_numbered || self.unanswered.is_empty());
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
        if std::mem::take(&mut self.is_interrupted) {
            if self.is_repeat {
                self.unanswered.clear();
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
        if self.in_step {
            self.unanswered.clear();
        }
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

    /// One poll without the pause that was learned; without one, as it is planned.
    fn begin_trial(&mut self, now: Instant) {
        let is_busy = self.trying.is_some() || self.whole.is_some() || self.trial.is_some();
        let is_learning = self.blame.is_some() || self.parts.iter().any(Part::is_in_question);
        if is_busy || is_learning || !self.in_step || self.state != State::Up {
            // At the next poll, then.
            return;
        }
        self.trial_at = now + self.trial_wait;
        self.trial_wait = (self.trial_wait * 2).min(TRIAL_EVERY);
        if !self.learned().is_testable() {
            return;
        }
        // The one after the other: a unit may have got quicker and still be narrow.
        let is_of_pause = !self.pause.is_zero() && self.trials.is_multiple_of(2);
        self.trials = self.trials.wrapping_add(1);
        self.tried_at = Some(now);
        self.trial = Some(Trial {
            pause: self.pause,
            widths: self.widths,
            parts: self.parts.clone(),
            halved: self.halved.clone(),
            refused: self.refused.clone(),
        });
        if is_of_pause {
            self.pause = Duration::ZERO;
        } else {
            self.widths = Widths::default();
            self.plan();
        }
    }

    /// What was learned is in force again, after a failure in a trial. Whether there was one.
    fn end_trial(&mut self) -> bool {
        let Some(trial) = self.trial.take() else { return false };
        (self.pause, self.widths) = (trial.pause, trial.widths);
        (self.parts, self.halved, self.refused) = (trial.parts, trial.halved, trial.refused);
        self.blame = None;
        self.find_probes();
        self.restart();
        true
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

    /// An answer came.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        (purpose, request, asked): (Purpose, &Request, Instant),
        answer: Answer<'_>,
        timeout: Duration,
        news: &mut Vec<News>,
    ) -> Progress {
        self.counters.answers += 1;
        let took = now.saturating_duration_since(asked).as_millis();
        self.counters.busy_ms = self.counters.busy_ms.saturating_add(u64::try_from(took).unwrap_or(u64::MAX));
        self.failures = 0;
        self.failing = None;
        self.mute = 0;
        let is_clear = self.account(request.answer(), asked, answer);
        if is_clear {
            self.lates = 0;
            (self.is_late, self.crossed, self.foreign) = (false, None, None);
        }
        self.answered_at = Some(now);
        self.ended_at = Some(now);
        self.openings = 0;
        let Silence { own, line } = self.silence;
        self.soonest = Some(self.soonest.map_or(self.silence, |soonest| Silence {
            own: soonest.own.min(own),
            line: soonest.line.min(line),
        }));
        if let Answer::Exception(_) = answer {
            self.counters.exceptions += 1;
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
                if !self.is_mistakable() {
                    return self.more(now);
                }
                self.due = now + self.still_to_come(timeout);
                Progress::Wait
            }
            Purpose::Block => {
                self.cycles = 0;
                if std::mem::take(&mut self.is_repeat) {
                    self.repeat = Repeat::Helps;
                    self.blame = None;
                }
                let progress = self.block_answered(now, answer, news);
                if !self.is_mistakable() {
                    return progress;
                }
                self.in_step = false;
                if progress != Progress::More {
                    return progress;
                }
                self.due = now + self.still_to_come(timeout);
                Progress::Wait
            }
        }
    }

    /// An answer came to this request, or to an earlier one whose answer has this shape: then that
    /// one's is still to come. The unit answers in order, so those before have come. Whether it can
    /// only be the answer to this one.
    fn account(&mut self, shape: Shape, asked: Instant, answer: Answer<'_>) -> bool {
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
    fn is_mistakable(&self) -> bool {
        let of = |part: &Part| part.block.request().map(|request| request.answer());
        let is_like = |shape: &Shape| self.parts.iter().any(|part| of(part) == Some(*shape));
        self.unanswered.iter().any(|(shape, _)| is_like(shape))
    }

    /// A frame of this unit came while nothing was asked of it, and nothing is outstanding: one of
    /// its answers may have been taken for another's. Its next turn begins with a probe.
    pub(super) fn left_over(&mut self) {
        self.is_left_over = !self.is_numbered;
    }

    /// After so much silence none of its answers can still come.
    fn still_to_come(&self, timeout: Duration) -> Duration {
        let (least, most) = STILL_TO_COME;
        (2 * self.latest).clamp(timeout * least, timeout * most)
    }

    fn more(&self, now: Instant) -> Progress {
        match (self.current(now), self.learning) {
            (Some(_), _) => Progress::More,
            (None, false) => Progress::Done,
            (None, true) => Progress::End,
        }
    }

    fn block_answered(&mut self, now: Instant, answer: Answer<'_>, news: &mut Vec<News>) -> Progress {
        let Some(index) = self.asked.take().filter(|index| *index < self.parts.len()) else {
            return Progress::Done;
        };
        let part = &mut self.parts[index];
        let was_doubtful = part.is_doubtful();
        (part.failures, part.suspect, part.proven) = (0, false, true);
        (part.shaky, part.cut) = (false, (0, 0));
        (part.is_damaged, part.gateway) = (false, None);
        if part.aside.take().is_some() {
            self.revision += 1;
        }
        let block = part.block.clone();
        match answer {
            Answer::Data(data) => {
                for member in &block.members {
                    let value = map::decode(&self.settings.registers[*member], block.address, data);
                    self.values[*member] = value;
                    self.arrived[*member] = true;
                    self.missed[*member] = 0;
                    self.refused.retain(|refusal| refusal.register != *member);
                }
                if self.has_value() {
                    self.barren = 0;
                    if self.state != State::Up {
                        if self.state == State::Down {
                            self.repeat = Repeat::Unknown;
                            // It may be another one, or may have been set up anew.
                            let soonest = self.tried_at.map_or(now, |at| at + TRIAL_AGAIN);
                            self.trial_at = self.trial_at.min(soonest.max(now));
                        }
                        self.state = State::Up;
                        news.push(News::Up);
                    }
                }
            }
            Answer::Exception(_) if self.is_refused_in_trial(&block) => {
                self.end_trial();
                self.due = now;
                return Progress::Wait;
            }
            Answer::Exception(exception) if self.is_asked_again(now, exception, &block) => {
                self.position = index;
                return match self.due > now {
                    true => Progress::Wait,
                    false => Progress::More,
                };
            }
            Answer::Exception(exception) => {
                let parts = exception
                    .may_pass_smaller()
                    .then(|| plan::split(&self.settings.registers, &block))
                    .flatten();
                if let Some(parts) = parts {
                    if exception.may_pass_later()
                        && self.whole.is_none()
                        && self.whole_again < WHOLE_AGAIN_MAX
                    {
                        self.whole = Some(self.parts.clone());
                    }
                    self.parts.splice(index..=index, parts.into_iter().map(Part::new));
                    // A part may have the old probe's shape. Answers to old probes have come, for
                    // this exception has.
                    self.find_probes();
                    self.revision += 1;
                    if exception.may_pass_later() && self.whole.is_none() {
                        // It may have been a passing fault of the whole after all.
                        self.test_soon(now);
                    }
                    self.position = index;
                    return Progress::More;
                }
                for register in block.members.iter().copied() {
                    self.refuse(register, Obstacle::Exception(exception), news);
                }
                if self.whole.take().is_some() {
                    // It was no passing fault of the whole.
                    self.whole_again = WHOLE_AGAIN_MAX;
                }
            }
            Answer::Done => {}
        }
        self.position = index + 1;
        if let Some((step, _)) = self.trying.take_if(|(_, tried)| *tried == block) {
            self.pause = learn::PAUSES.get(step).copied().unwrap_or_default();
            self.test_soon(now);
            news.push(News::Learned);
            // What was taken apart before may have been too soon rather than too much.
            if self.parts.iter().any(|part| part.half_of.is_some() || part.suspect) {
                self.plan();
                self.due = now;
                self.restart();
                return Progress::Wait;
            }
        }
        if was_doubtful {
            self.learn_width(now, index, news);
        }
        self.more(now)
    }

    /// A unit that wakes up, or is busy, may answer the same request at once, or a little later:
    /// whether it is asked for this block again before anything is made of the exception.
    fn is_asked_again(&mut self, now: Instant, exception: Exception, block: &Block) -> bool {
        if !exception.may_pass_later() || self.trial.is_some() {
            return false;
        }
        let why = Obstacle::Exception(exception);
        let is_known =
            |at: &usize| self.refused.iter().any(|known| known.register == *at && known.why == why);
        // What is refused each time is asked for again at once only, and once.
        let is_in_vain = self.is_in_vain || block.members.iter().all(is_known);
        let most = if is_in_vain { 1 } else { AGAIN.len() };
        let times = self.again.as_ref().filter(|(of, _)| of == block).map_or(0, |(_, times)| *times);
        let Some(wait) = AGAIN.get(..most).and_then(|waits| waits.get(times)) else {
            self.is_in_vain = true;
            return false;
        };
        self.again = Some((block.clone(), times + 1));
        if !wait.is_zero() {
            (self.due, self.is_interrupted) = (now + *wait, true);
        } else {
            self.due = now;
        }
        true
    }

    /// Whether a value was read that a reading can have: a raw number is none without the register
    /// that scales it.
    fn has_value(&self) -> bool {
        let is_read = |at: usize| self.values.get(at).is_some_and(Option::is_some);
        let registers = self.settings.registers.iter().enumerate();
        registers.into_iter().any(|(at, register)| is_read(at) && register.exponent.is_none_or(is_read))
    }

    /// Whether an exception says that a trial failed: not if this very read was refused before.
    fn is_refused_in_trial(&self, block: &Block) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.parts.iter().all(|part| part.block != *block))
    }

    /// A half was answered: if all halves of a read were, it was too wide.
    fn learn_width(&mut self, now: Instant, index: usize, news: &mut Vec<News>) {
        self.revision += 1;
        let Some(id) = self.parts[index].half_of.take() else { return };
        let Some(halved) = self.halved.get_mut(id) else { return };
        halved.left = halved.left.saturating_sub(1);
        if halved.left > 0 || halved.failed {
            return;
        }
        let table = self.parts[index].block.table;
        let (width, known) = (halved.quantity, self.widths.of(table));
        if known == 0 || width < known {
            self.widths.set(table, width);
            self.test_soon(now);
            news.push(News::Learned);
        }
        // Those that are wider and were never answered are not asked for in vain.
        let (limits, widths) = (self.settings.limits, self.widths);
        let registers = &self.settings.registers;
        let mut at = self.position;
        while let Some(part) = self.parts.get(at) {
            if part.proven || part.block.table != table || part.block.quantity <= width {
                at += 1;
                continue;
            }
            let members: Vec<_> = part.block.members.iter().map(|index| registers[*index].clone()).collect();
            let blocks = plan::blocks_within(&members, limits, widths).into_iter().map(|block| {
                let members = block.members.iter().map(|at| part.block.members[*at]).collect();
                Part { suspect: true, ..Part::new(Block { members, ..block }) }
            });
            let blocks: Vec<Part> = blocks.collect();
            let count = blocks.len().max(1);
            self.parts.splice(at..=at, blocks);
            at += count;
        }
        self.find_probes();
    }

    fn refuse(&mut self, register: usize, why: Obstacle, news: &mut Vec<News>) {
        let refusal = Refusal { register, why };
        if !self.refused.contains(&refusal) {
            self.refused.retain(|known| known.register != register);
            self.refused.push(refusal);
            news.push(News::Refused { register, why });
        }
    }

    fn degrade(&mut self, news: &mut Vec<News>) {
        if self.state != State::Degraded {
            self.state = State::Degraded;
            news.push(News::Degraded);
        }
    }

    /// The unit answers: so the read that failed before did not fail because it is not there.
    fn settle_blame(&mut self, now: Instant, answered: &Request, news: &mut Vec<News>) {
        let Some((block, why, silence)) = self.blame.take() else { return };
        let Some(index) = self.parts.iter().position(|part| part.block == block) else { return };
        if block.request().as_ref() == Some(answered) {
            self.parts[index].failures = 0;
            let was_tried = self.trying.take_if(|(_, tried)| *tried == block).is_some();
            // The same read was answered, after a longer silence of the other units.
            let is_line = silence.line < SMALL_PAUSE && silence.own >= SMALL_PAUSE;
            if is_line && self.soonest.is_none_or(|soonest| soonest.line > silence.line) {
                self.hurried = self.hurried.saturating_add(1);
            }
            let may = !was_tried && self.trying.is_none() && self.pause.is_zero();
            if may && self.hurried >= learn::FAILURES {
                (self.trying, self.hurried) = (Some((0, block)), 0);
                return;
            }
            let _: bool = self.may_repeat(why);
            return;
        }
        let part = &mut self.parts[index];
        part.failures += 1;
        let enough = match why {
            Obstacle::Damage => 1,
            Obstacle::Late => part.failures_max().min(learn::FAILURES),
            _ => part.failures_max(),
        };
        if why == Obstacle::Late && part.failures >= enough && self.lengthen() {
            self.trying.take_if(|(_, tried)| *tried == block);
            self.parts[index].failures = 0;
            news.push(News::Learned);
            self.is_wait_news = false;
            return;
        }
        let part = &mut self.parts[index];
        let enough = if why == Obstacle::Late { part.failures_max() } else { enough };
        let tried = self.trying.take_if(|(_, tried)| *tried == block).map(|(step, _)| step);
        if tried.is_none() && part.failures < enough {
            return;
        }
        // Whether it may have been too soon: nothing that was asked as soon was ever answered.
        let is_sooner = |soonest: Silence| soonest.own > silence.own || soonest.line > silence.line;
        let is_too_soon = why != Obstacle::Late && self.soonest.is_none_or(is_sooner);
        let is_alone = part.block.members.len() == 1;
        let next = match tried {
            Some(step) => step + 1,
            // Another read is being tried.
            None if self.trying.is_some() => learn::PAUSES.len(),
            None if self.pause.is_zero() && (is_alone || !self.has_tried_pauses) => 0,
            None => learn::PAUSES.len(),
        };
        let longer = (next..learn::PAUSES.len()).find(|step| learn::PAUSES[*step] > silence.line);
        if let Some(step) = longer.filter(|_| is_too_soon) {
            self.trying = Some((step, block));
            self.has_tried_pauses = true;
            part.suspect = true;
            return;
        }
        if self.may_repeat(why) {
            return;
        }
        let part = &mut self.parts[index];
        part.failures = 0;
        let is_news = part.aside.is_none();
        self.revision += 1;
        if is_news {
            self.trial_wait = TRIAL_FIRST;
            self.trial_at = now + TRIAL_FIRST;
        }
        self.whole = None;
        let half_of = part.half_of.take();
        let waited = part.aside.take().map_or(Duration::ZERO, |(_, waited)| waited);
        if let Some(halved) = half_of.and_then(|id| self.halved.get_mut(id)) {
            halved.failed = true;
        }
        let Some(parts) = plan::split(&self.settings.registers, &block) else {
            self.parts[index].suspect = false;
            let others = self.parts.iter().enumerate();
            let is_last = others.filter(|(at, part)| *at != index && part.aside.is_none()).count() == 0;
            let longest = if is_last { learn::ASIDE } else { learn::ASIDE_MAX };
            let wait = (waited * 2).clamp(learn::ASIDE, longest);
            self.parts[index].aside = Some((now + wait, wait));
            // A gateway says why.
            let why = match (why, self.parts[index].gateway) {
                (Obstacle::Silence, Some(exception)) => Obstacle::Exception(exception),
                (why, _) => why,
            };
            for register in block.members {
                self.refuse(register, why, news);
            }
            self.find_probes();
            return;
        };
        let has_gap = parts.iter().map(|part| part.quantity).sum::<u16>() < block.quantity;
        let half_of = (!has_gap && parts.len() == 2).then(|| {
            let quantity = parts.iter().map(|part| part.quantity).max().unwrap_or(1);
            self.halved.push(Halved { left: 2, failed: false, quantity });
            self.halved.len() - 1
        });
        self.parts.remove(index);
        let parts = parts.into_iter().map(|block| Part { suspect: true, half_of, ..Part::new(block) });
        self.parts.extend(parts);
        self.find_probes();
    }

    /// It answers each probe and no block: whether it is tried first whether a block is answered
    /// that is repeated.
    fn may_repeat(&mut self, why: Obstacle) -> bool {
        let may =
            why == Obstacle::Silence && self.cycles >= learn::FAILURES && self.repeat == Repeat::Unknown;
        if may {
            self.repeat = Repeat::Trying;
        }
        may
    }

    /// The poll is done: writes the reading to `payload` if it is to be published, and sets the
    /// next due time.
    pub(super) fn complete(
        &mut self,
        now: Instant,
        jitter: Duration,
        payload: &mut Vec<u8>,
        news: &mut Vec<News>,
    ) -> bool {
        self.counters.polls += 1;
        if self.trial.take().is_some() {
            self.test_soon(now);
            news.push(News::Learned);
        }
        let registers = &self.settings.registers;
        let is_any = self.arrived.contains(&true);
        let missing: Vec<usize> = (0..registers.len()).filter(|at| is_any && !self.arrived[*at]).collect();
        for at in missing {
            self.missed[at] = self.missed[at].saturating_add(1);
            let is_named = self.refused.iter().any(|known| known.register == at);
            if self.missed[at] >= learn::MISSED && !is_named {
                let part = self.parts.iter().find(|part| part.block.members.contains(&at));
                let is_damaged = part.is_some_and(|part| part.is_damaged);
                self.refuse(at, if is_damaged { Obstacle::Damaged } else { Obstacle::Missed }, news);
            }
        }
        let registers = &self.settings.registers;
        map::resolve(registers, &mut self.values);
        let has_value = self.values.iter().any(Option::is_some);
        let publish = has_value && self.changes.decide(now, self.settings.publish, registers, &self.values);
        if publish {
            map::write_json(registers, &self.values, payload);
        }
        if !has_value {
            self.barren = self.barren.saturating_add(1);
            if self.barren >= DEGRADED_AFTER || self.state == State::Unknown {
                self.degrade(news);
            }
        }
        if let Some(whole) = self.whole.take() {
            self.whole_again += 1;
            self.parts = whole;
            self.find_probes();
        } else if self.whole_again < WHOLE_AGAIN_MAX {
            self.whole_again = 0;
        }
        self.schedule(now, jitter);
        publish
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
        self.openings = 0;
        self.mute = self.mute.saturating_add(1);
        self.in_step = false;
        if !lost.is_answer {
            self.remember(request.answer(), asked);
        }
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
        let index = self.asked.filter(|index| purpose == Purpose::Block && *index < self.parts.len());
        let mut is_complete = false;
        if let Some(index) = index {
            self.attempts = self.attempts.saturating_add(1);
            let has_value = self.has_value();
            let part = &mut self.parts[index];
            let is_again = part.shaky || self.attempts >= ATTEMPTS_MAX;
            is_complete = !self.learning && (part.is_doubtful() || has_value && is_again);
            part.shaky = true;
            self.blame = part.blame(lost).map(|why| (part.block.clone(), why, self.silence));
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
            self.restart();
        }
        is_complete
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
        let to = if self.failing == Some(Failure::Misfit) { State::Degraded } else { State::Down };
        if self.failures < DOWN_AFTER || self.state == to {
            return None;
        }
        self.state = to;
        Some(to)
    }

    fn remember(&mut self, shape: Shape, asked: Instant) {
        if self.unanswered.len() == UNANSWERED_MAX {
            self.unanswered.remove(0);
        }
        self.unanswered.push((shape, asked));
    }

    /// A frame of this unit with the function asked for, but not as long as asked for.
    pub(super) fn misfit(&mut self, misfit: Misfit) {
        self.counters.misfits += 1;
        self.misfit = Some(misfit);
    }

    /// A frame of this unit that is not the answer waited for: if it is a late one, how long after
    /// its request it came. `other`: the other unit that is being asked; then one later than
    /// any answer is waited for may be that one's.
    pub(super) fn late(&mut self, now: Instant, pdu: &[u8], other: Option<u8>) -> Option<Duration> {
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
        self.mute = 0;
        // Of several that it may answer, nobody knows how long it took.
        if at == last {
            self.late_after = least;
            self.lates = self.lates.saturating_add(1);
            if self.lates >= learn::LATES {
                let _: bool = self.lengthen();
            }
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

    /// The last reading was refused.
    pub(super) fn forget_published(&mut self) {
        self.changes.forget();
    }
}
