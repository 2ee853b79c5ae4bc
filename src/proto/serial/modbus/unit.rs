//! One unit on the bus: its next request, its values, and when it is due.
//!
//! ```text
//!            any answer                      answer                     last block
//!  unsure ────────────────> in step, block 0 ───────> block 1 … ──────────────────> reading, due next period
//!    ^  probe                    │ no answer
//!    └───────────────────────────┘ due after the back-off
//! ```
//!
//! An RTU response does not identify its request. After a timeout, a late response may still come
//! and would be mistaken for the response to the next request of the same shape, and so on for each
//! following one. So after a timeout the unit is *unsure*: it first gets a probe, a read whose
//! response has a unique shape. Units respond in order, so after the response to a probe only
//! responses to other probes can be outstanding, which are distinguishable.

use std::time::{Duration, Instant};

use super::change::Changes;
use super::map::{self, Value};
use super::pdu::{Answer, EXCEPTION, Exception, Request, Shape};
use super::plan::{self, Block};
use super::settings;

/// Most unanswered requests remembered, to detect late responses.
const UNANSWERED_MAX: usize = 4;
/// Consecutive failures after which a unit counts as down.
const DOWN_AFTER: u32 = 3;

/// Whether a unit responds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No request was sent yet.
    Unknown,
    /// It has responded, and not failed three times in a row since.
    Up,
    /// Three requests in a row failed.
    Down,
}

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
    /// Polls completed.
    pub polls: u64,
    /// Polls skipped because the bus was busy or the unit did not respond.
    pub skipped: u64,
}

/// The purpose of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A probe, to synchronise requests and responses.
    Probe,
    /// A block of registers.
    Block,
}

/// The result of a response.
#[derive(Debug, PartialEq)]
pub(super) enum Progress {
    /// The poll continues with another request.
    More,
    /// The poll is complete.
    Done,
}

/// A register that the unit refuses to read; reported once.
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
    /// Whether it was polled since a failing unit was last polled.
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

    /// The port was opened: the unit is due at once, and unsure.
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

    /// The next request; `None` if its map has no valid request.
    pub(super) fn next_request(&self) -> Option<(Purpose, Request)> {
        match &self.probe {
            Some(probe) if !self.in_step => Some((Purpose::Probe, probe.clone())),
            _ => Some((Purpose::Block, self.blocks.get(self.position)?.request()?)),
        }
    }

    /// Handles a response. Returns also whether the unit has just come up.
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
            // An exception also shows that responses are in step.
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
                    // A part may have the shape of the old probe. Responses to old probes have
                    // already come, because this exception came after them.
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

    /// Completes a poll: writes the reading to `payload` if it must be published, and sets the next
    /// due time.
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

    /// Ends a poll: the next one is due at the next multiple of the period, regardless of the
    /// duration of the poll.
    pub(super) fn schedule(&mut self, now: Instant, jitter: Duration) {
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
        self.due = self.slot + jitter;
    }

    /// The request sent at `asked` failed. Returns whether the unit has just gone down.
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

    /// Handles a frame of this unit that is not the expected response: if it is a late one, returns
    /// the time since its request.
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

    /// The last reading was refused.
    pub(super) fn forget_published(&mut self) {
        self.changes.forget();
    }
}
