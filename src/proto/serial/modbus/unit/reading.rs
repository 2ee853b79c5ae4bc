//! What the answers of one poll bring, and the reading that is made of it.
//!
//! A register that did not arrive in [`learn::MISSED`] polls in a row is named, whatever the cause.

use std::time::{Duration, Instant};

use super::super::super::State;
use super::super::learn::{self, Obstacle};
use super::super::map;
use super::super::pdu::{Answer, Exception};
use super::super::plan::{self, Block};
use super::super::straggler;
use super::learned::TRIAL_AGAIN;
use super::part::Part;
use super::{DEGRADED_AFTER, News, Progress, Repeat, Unit};

/// So long after an exception that may pass the same block is asked for again, so often in a poll.
const AGAIN: [Duration; 3] = [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(300)];
/// So often in a row a block is asked for whole again that was refused by an exception that may
/// pass.
const WHOLE_AGAIN_MAX: u32 = 3;

impl Unit {
    pub(super) fn block_answered(
        &mut self,
        now: Instant,
        answer: Answer<'_>,
        news: &mut Vec<News>,
    ) -> Progress {
        let Some(index) = self.asked.take().filter(|index| *index < self.parts.len()) else {
            return Progress::Done;
        };
        let part = &mut self.parts[index];
        let was_doubtful = part.is_doubtful();
        (part.failures, part.suspect, part.proven) = (0, false, true);
        (part.shaky, part.cut, part.spoiled) = (false, (0, 0), 0);
        (part.is_damaged, part.gateway) = (false, None);
        part.refusal = match (answer, part.refusal) {
            (Answer::Exception(own), Some((known, times))) if own == known => {
                Some((own, times.saturating_add(1)))
            }
            (Answer::Exception(own), _) => Some((own, 1)),
            (Answer::Data(_) | Answer::Done, _) => None,
        };
        if part.aside.take().is_some() {
            self.revision += 1;
        }
        let block = part.block.clone();
        match answer {
            Answer::Data(data) => {
                self.parts[index].last = Some(data.to_vec());
                let several = std::mem::take(&mut self.several);
                let others = self.others.take();
                for member in &block.members {
                    let of =
                        |data: &[u8]| map::decode(&self.settings.registers[*member], block.address, data);
                    let value = match &several[..] {
                        [] => of(data),
                        several => {
                            let others = others
                                .as_ref()
                                .map(|others| others.iter().map(|data| of(data)).collect::<Vec<_>>());
                            let values = several.iter().map(|data| of(data)).collect();
                            straggler::likely(values, others.as_deref())
                        }
                    };
                    self.is_undecided |= value.is_none() && of(data).is_some();
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
                    let is_of_damage = self.parts[index].is_of_damage;
                    let parts = parts.into_iter().map(|block| Part { is_of_damage, ..Part::new(block) });
                    self.parts.splice(index..=index, parts);
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
    pub(super) fn is_asked_again(&mut self, now: Instant, exception: Exception, block: &Block) -> bool {
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
    pub(super) fn has_value(&self) -> bool {
        let is_read = |at: usize| self.values.get(at).is_some_and(Option::is_some);
        let registers = self.settings.registers.iter().enumerate();
        registers.into_iter().any(|(at, register)| is_read(at) && register.exponent.is_none_or(is_read))
    }

    /// The poll is done: writes the reading to `payload` if it is to be published, and sets the
    /// next due time.
    pub(in super::super) fn complete(
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
        let is_undecided = std::mem::take(&mut self.is_undecided);
        self.undecided = if is_undecided { self.undecided.saturating_add(1) } else { 0 };
        self.counters.withheld += u64::from(is_undecided);
        let publish = has_value && self.changes.decide(now, self.settings.publish, registers, &self.values);
        if publish {
            map::write_json(registers, &self.values, payload);
        }
        self.is_itself &= has_value;
        if !has_value && !is_undecided {
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
        if self.awaits_owed(now) {
            self.rest_for_owed(now);
        }
        publish
    }

    pub(super) fn degrade(&mut self, news: &mut Vec<News>) {
        if self.state != State::Degraded {
            self.state = State::Degraded;
            news.push(News::Degraded);
        }
    }

    /// The last reading was refused.
    pub(in super::super) fn forget_published(&mut self) {
        self.changes.forget();
    }
}
