//! What the failures of a unit teach: a pause before each request, shorter reads, and what it never
//! answers for.
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
//! Noise is a property of the line, not of the unit. It damages requests, too, and then the unit is
//! silent; so a read that was answered before must fail twelve times in a row. A damaged answer is
//! asked for again. If a read of several registers had [`learn::DAMAGED`] of them since its last
//! good one, and shorter reads were answered each time, it is taken apart: an adapter with a small
//! buffer, or a line on which only short frames come through, is read so. A single register whose
//! answer breaks off at the same length sixteen times in a row counts as silent.
//!
//! Some units answer every second request only: each block would be silent, and each probe be
//! answered, for ever. After three such cycles, before a read is taken apart, it is repeated once
//! in place of the probe, when none of its answers can still come. If that helps, silence is dealt
//! with in this way until it does not help.

use std::time::{Duration, Instant};

use super::super::super::State;
use super::super::learn::{self, Obstacle};
use super::super::pdu::{Exception, Request};
use super::super::plan::{self, Block};
use super::learned::TRIAL_FIRST;
use super::part::{Halved, Part};
use super::{News, Refusal, Repeat, Silence, Unit};

/// Pauses up to this cost the other units on the line little.
const SMALL_PAUSE: Duration = learn::PAUSES[0];
/// More exceptions than this with which gateways give up, in a row and without a value: as many as
/// one read is repeated at once.
const GIVEN_UP: u8 = 3;
/// So often a read must have been refused alike for that to be no other one's answer.
const PROVEN: u8 = 3;

impl Unit {
    /// Not before this is it asked again: a pause after an answer that was learned, or is being
    /// tried. `line_at`: when the last answer of any unit came.
    pub(in super::super) fn open_at(&self, line_at: Option<Instant>) -> Option<Instant> {
        let trial = self.trying.as_ref().and_then(|(step, _)| learn::PAUSES.get(*step));
        let pause = self.pause.max(trial.copied().unwrap_or_default());
        let small = line_at.filter(|_| !pause.is_zero()).map(|at| at + pause.min(SMALL_PAUSE));
        let second = self.surplus.pause(line_at.unwrap_or(self.due), self.settings.timeout);
        // One who numbers answers tells a copy from the next answer.
        let second = if self.is_numbered { Duration::ZERO } else { second };
        small.max(self.answered_at.map(|at| at + pause.max(second)))
    }

    /// This request was answered: how long after an answer on the line the last one was sent that
    /// was lost. On a line with one unit, of the same request only: it may be one that the unit
    /// never answers, and no other unit shows that the line takes requests as soon.
    pub(in super::super) fn take_missed(&mut self, request: &Request, is_shared: bool) -> Option<Duration> {
        self.lost_soon.take_if(|(lost, _)| is_shared || lost == request).map(|(_, after)| after)
    }

    /// An exception came for a read. Some gateways give up for a dead unit with one that units
    /// send, too: whether it is one of those, as all that come are. A unit that refuses one read
    /// only gives a value for another one before that.
    pub(in super::super) fn is_given_up_for(&mut self, exception: Exception, request: &Request) -> bool {
        if !matches!(exception, Exception::DEVICE_FAILURE | Exception::BUSY) {
            self.given_up = 0;
            return false;
        }
        let known = |at: &usize| {
            let why = Obstacle::Exception(exception);
            self.refused.iter().any(|refusal| refusal.register == *at && refusal.why == why)
        };
        let part = self.parts.iter().find(|part| part.block.request().as_ref() == Some(request));
        let is_known =
            self.state == State::Up && part.is_some_and(|part| part.block.members.iter().all(known));
        if self.is_itself || self.trial.is_some() || is_known {
            return false;
        }
        self.given_up = self.given_up.saturating_add(1);
        self.given_up > GIVEN_UP
    }

    /// It gave values.
    pub(super) fn is_there(&mut self) {
        self.is_itself |= self.given_up > GIVEN_UP;
        self.given_up = 0;
    }

    /// The read that is asked for was refused by the same exception again and again: that is the
    /// answer to it, and no other.
    pub(in super::super) fn is_proven(&self, exception: Exception, request: &Request) -> bool {
        let part = self.parts.iter().find(|part| part.block.request().as_ref() == Some(request));
        let known = part.and_then(|part| part.refusal);
        exception.is_of_request() && known.is_some_and(|(own, times)| own == exception && times >= PROVEN)
    }

    /// The line was found to want a rest after each answer. Whether that is new of it.
    pub(in super::super) fn rest_on_line(&mut self, now: Instant) -> bool {
        if !self.pause.is_zero() || self.trial.is_some() || self.settings.pause >= SMALL_PAUSE {
            return false;
        }
        (self.pause, self.trying, self.hurried) = (SMALL_PAUSE, None, 0);
        self.parts.iter_mut().for_each(|part| part.failures = 0);
        self.test_soon(now);
        true
    }

    /// The unit answers: so the read that failed before did not fail because it is not there.
    pub(super) fn settle_blame(&mut self, now: Instant, answered: &Request, news: &mut Vec<News>) {
        let Some((block, why, silence)) = self.blame.take() else { return };
        let Some(index) = self.parts.iter().position(|part| part.block == block) else { return };
        if block.request().as_ref() == Some(answered) {
            (self.parts[index].failures, self.parts[index].spoiled) = (0, 0);
            if why == Obstacle::Damage {
                return;
            }
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
        if why == Obstacle::Damage {
            if self.parts[index].is_spoiled(answered) {
                self.trying.take_if(|(_, tried)| *tried == block);
                self.take_apart(now, index, why, news);
            } else if self.parts[index].spoiled >= learn::DAMAGED {
                // It cannot be split: it is asked for once a poll.
                self.parts[index].suspect = false;
                self.fail_half(index);
            }
            return;
        }
        let part = &mut self.parts[index];
        part.failures += 1;
        let enough = match why {
            Obstacle::Late => part.failures_max().min(learn::FAILURES),
            _ => part.failures_max(),
        };
        let timeout = self.settings.timeout;
        if why == Obstacle::Late && part.failures >= enough && self.lateness.lengthen(timeout) {
            self.trying.take_if(|(_, tried)| *tried == block);
            self.parts[index].failures = 0;
            self.revision += 1;
            news.push(News::Learned);
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
        self.take_apart(now, index, why, news);
    }

    /// A read fails again and again while others are answered: it is split, or left out for a time
    /// if it is of one register.
    pub(super) fn take_apart(&mut self, now: Instant, index: usize, why: Obstacle, news: &mut Vec<News>) {
        let part = &mut self.parts[index];
        (part.failures, part.spoiled) = (0, 0);
        let block = part.block.clone();
        let is_of_damage = part.is_of_damage || why == Obstacle::Damage;
        let is_news = part.aside.is_none();
        self.revision += 1;
        if is_news {
            self.trial_wait = TRIAL_FIRST;
            self.trial_at = now + TRIAL_FIRST;
        }
        self.whole = None;
        let waited = part.aside.take().map_or(Duration::ZERO, |(_, waited)| waited);
        self.fail_half(index);
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
                (Obstacle::Misfit, _) => self.misfit.map_or(why, Obstacle::Answers),
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
            self.halved.push(Halved { left: 2, failed: false, quantity, is_of_damage });
            self.halved.len() - 1
        });
        self.parts.remove(index);
        let part = |block| Part { suspect: true, half_of, is_of_damage, ..Part::new(block) };
        let parts = parts.into_iter().map(part);
        self.parts.extend(parts);
        self.find_probes();
    }

    /// If this is a half of a read, that was not too wide alone.
    pub(super) fn fail_half(&mut self, index: usize) {
        let half_of = self.parts.get_mut(index).and_then(|part| part.half_of.take());
        if let Some(halved) = half_of.and_then(|id| self.halved.get_mut(id)) {
            halved.failed = true;
        }
    }

    /// It answers each probe and no block: whether it is tried first whether a block is answered
    /// that is repeated.
    pub(super) fn may_repeat(&mut self, why: Obstacle) -> bool {
        let may =
            why == Obstacle::Silence && self.cycles >= learn::FAILURES && self.repeat == Repeat::Unknown;
        if may {
            self.repeat = Repeat::Trying;
        }
        may
    }

    /// A half was answered: if all halves of a read were, it was too wide.
    pub(super) fn learn_width(&mut self, now: Instant, index: usize, news: &mut Vec<News>) {
        self.revision += 1;
        let Some(id) = self.parts[index].half_of.take() else { return };
        let Some(halved) = self.halved.get_mut(id) else { return };
        halved.left = halved.left.saturating_sub(1);
        if halved.left > 0 || halved.failed {
            return;
        }
        let table = self.parts[index].block.table;
        let (width, known, is_of_damage) = (halved.quantity, self.widths.of(table), halved.is_of_damage);
        if known == 0 || width < known {
            self.widths.set(table, width);
            if !is_of_damage {
                self.kept_widths.set(table, width);
            }
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
                Part { suspect: true, is_of_damage, ..Part::new(Block { members, ..block }) }
            });
            let blocks: Vec<Part> = blocks.collect();
            let count = blocks.len().max(1);
            self.parts.splice(at..=at, blocks);
            at += count;
        }
        self.find_probes();
    }

    pub(super) fn refuse(&mut self, register: usize, why: Obstacle, news: &mut Vec<News>) {
        let refusal = Refusal { register, why };
        if !self.refused.contains(&refusal) {
            self.refused.retain(|known| known.register != register);
            self.refused.push(refusal);
            news.push(News::Refused { register, why });
        }
    }
}
