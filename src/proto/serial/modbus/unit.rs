//! One unit on the bus: what is asked of it next, what it has said, and when it is due.
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
//! probe, a read whose answer has a shape that no other has. Units answer in order; so once a probe
//! is answered, only answers to other probes can be outstanding, and those are told from all
//! others.

use std::time::{Duration, Instant};

use super::change::Changes;
use super::map::{self, Value};
use super::pdu::{Answer, EXCEPTION, Exception, Request, Shape};
use super::plan::{self, Block};
use super::settings;

/// Most unanswered requests remembered, to recognise late answers.
const UNANSWERED_MAX: usize = 4;
/// After so many failures in a row a unit counts as down.
const DOWN_AFTER: u32 = 3;

/// Whether a unit answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was not asked yet.
    Unknown,
    /// Its last answer is newer than three failures.
    Up,
    /// Three requests in a row had no answer.
    Down,
}

/// What has happened with a unit, since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests sent.
    pub requests: u64,
    /// Answers, exceptions included.
    pub answers: u64,
    /// Answers that were exceptions.
    pub exceptions: u64,
    /// Requests after which nothing came from it.
    pub silent: u64,
    /// Requests after which only bytes came that are no frame.
    pub damaged: u64,
    /// Answers that came after their time.
    pub late: u64,
    /// Polls completed.
    pub polls: u64,
    /// Polls left out because the bus was busy or the unit did not answer.
    pub skipped: u64,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To see that answers are in step.
    Probe,
    /// One of the blocks.
    Block,
}

/// What an answer led to.
#[derive(Debug, PartialEq)]
pub(super) enum Progress {
    /// More is to be asked at once.
    More,
    /// The poll is done.
    Done,
}

/// A register the unit refuses to be read, told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) register: usize,
    pub(super) exception: Exception,
}

#[derive(Debug)]
pub(super) struct Unit {
    pub(super) settings: settings::Unit,
    pub(super) state: State,
    pub(super) failures: u32,
    pub(super) due: Instant,
    /// Asked since an unanswering unit had its last turn.
    pub(super) served: bool,
    pub(super) counters: Counters,
    blocks: Vec<Block>,
    probe: Option<Request>,
    in_step: bool,
    position: usize,
    values: Vec<Option<Value>>,
    changes: Changes,
    refused: Vec<Refusal>,
    slot: Instant,
    unanswered: Vec<(Shape, Instant)>,
}

impl Unit {
    pub(super) fn new(settings: settings::Unit, now: Instant) -> Unit {
        let blocks = plan::blocks(&settings.registers, settings.limits);
        Unit {
            probe: plan::probe(&blocks),
            blocks,
            values: vec![None; settings.registers.len()],
            settings,
            state: State::Unknown,
            failures: 0,
            due: now,
            served: false,
            counters: Counters::default(),
            in_step: false,
            position: 0,
            changes: Changes::default(),
            refused: Vec::new(),
            slot: now,
            unanswered: Vec::new(),
        }
    }

    /// The line is there again: due at once, and nothing known of what is still to come.
    pub(super) fn start(&mut self, now: Instant) {
        self.in_step = false;
        self.slot = now;
        self.due = now;
        self.restart();
    }

    fn restart(&mut self) {
        self.position = 0;
        self.values.fill(None);
    }

    /// What to ask next; `None` if its map has nothing that can be asked.
    pub(super) fn next_request(&self) -> Option<(Purpose, Request)> {
        match &self.probe {
            Some(probe) if !self.in_step => Some((Purpose::Probe, probe.clone())),
            _ => Some((Purpose::Block, self.blocks.get(self.position)?.request()?)),
        }
    }

    /// An answer came. `true` with it: the unit is up now and was not before.
    pub(super) fn answered(
        &mut self,
        purpose: Purpose,
        answer: Answer<'_>,
        refusals: &mut Vec<Refusal>,
    ) -> (Progress, bool) {
        self.counters.answers += 1;
        self.failures = 0;
        let came_up = self.state != State::Up;
        self.state = State::Up;
        if let Answer::Exception(_) = answer {
            self.counters.exceptions += 1;
        }
        if purpose == Purpose::Probe {
            // An exception shows as well that it answers in order.
            self.in_step = true;
            return (Progress::More, came_up);
        }
        let registers = &self.settings.registers;
        let Some(block) = self.blocks.get(self.position) else { return (Progress::Done, came_up) };
        match answer {
            Answer::Data(data) => {
                for index in &block.members {
                    self.values[*index] = map::decode(&registers[*index], block.address, data);
                    self.refused.retain(|refusal| refusal.register != *index);
                }
            }
            Answer::Exception(exception) => {
                let parts = if exception.blames_address() { plan::split(registers, block) } else { None };
                if let Some(parts) = parts {
                    self.blocks.splice(self.position..=self.position, parts);
                    // A part may have the old probe's shape. Answers to old probes have come, for
                    // this exception has.
                    self.probe = plan::probe(&self.blocks);
                    return (Progress::More, came_up);
                }
                for register in block.members.iter().copied() {
                    let refusal = Refusal { register, exception };
                    if !self.refused.contains(&refusal) {
                        self.refused.retain(|known| known.register != register);
                        self.refused.push(refusal.clone());
                        refusals.push(refusal);
                    }
                }
            }
            Answer::Done => {}
        }
        self.position += 1;
        let progress = if self.position < self.blocks.len() { Progress::More } else { Progress::Done };
        (progress, came_up)
    }

    /// The poll is done: writes the reading to `payload` if it is to be published, and sets the
    /// next due time.
    pub(super) fn complete(&mut self, now: Instant, jitter: Duration, payload: &mut Vec<u8>) -> bool {
        self.counters.polls += 1;
        let registers = &self.settings.registers;
        let publish = self.values.iter().any(Option::is_some)
            && self.changes.decide(now, self.settings.publish, registers, &self.values);
        if publish {
            map::write_json(registers, &self.values, payload);
        }
        self.schedule(now, jitter);
        publish
    }

    /// Ends a poll: the next one is due in the next free slot of the period, so that the rhythm
    /// stays whatever a poll takes.
    pub(super) fn schedule(&mut self, now: Instant, jitter: Duration) {
        self.restart();
        let period = self.settings.period.max(Duration::from_millis(1));
        let late = now.saturating_duration_since(self.slot);
        let missed = u32::try_from(late.as_nanos() / period.as_nanos()).unwrap_or(u32::MAX);
        self.counters.skipped += u64::from(missed);
        // Ages without an answer start a new rhythm.
        self.slot = period
            .checked_mul(missed.saturating_add(1))
            .and_then(|step| self.slot.checked_add(step))
            .filter(|slot| *slot > now)
            .unwrap_or(now + period);
        self.due = self.slot + jitter;
    }

    /// No answer came to what was asked at `asked`. `true`: the unit is down now and was not
    /// before.
    pub(super) fn failed(&mut self, now: Instant, asked: Instant, shape: Shape, backoff: Duration) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.in_step = false;
        self.due = now + backoff;
        self.restart();
        if self.unanswered.len() == UNANSWERED_MAX {
            self.unanswered.remove(0);
        }
        self.unanswered.push((shape, asked));
        let went_down = self.failures >= DOWN_AFTER && self.state != State::Down;
        if went_down {
            self.state = State::Down;
        }
        went_down
    }

    /// A frame of this unit that is not the answer waited for: if it is a late one, how long after
    /// its request it came.
    pub(super) fn late(&mut self, now: Instant, pdu: &[u8]) -> Option<Duration> {
        let function = *pdu.first()?;
        let fits = |shape: &Shape| match function {
            EXCEPTION.. => shape.function | EXCEPTION == function,
            _ => shape.function == function && usize::from(shape.length) == pdu.len(),
        };
        let at = self.unanswered.iter().position(|(shape, _)| fits(shape))?;
        let (_, asked) = self.unanswered.remove(at);
        self.counters.late += 1;
        Some(now.saturating_duration_since(asked))
    }

    /// The last reading was not delivered.
    pub(super) fn forget_published(&mut self) {
        self.changes.forget();
    }
}
