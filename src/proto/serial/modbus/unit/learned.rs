//! What was learned of a unit: kept over a restart, put to the test, and forgotten.
//!
//! It may have been a passing matter. Ten minutes later, then after twice as long and so on up to a
//! day, and when a unit that was down is up again, one poll is made as configured: if all of it is
//! answered, what was learned is forgotten; with its first failure it is in force again. What
//! damaged answers taught may be the line's fault: it is put to the test each hour at least, and
//! not kept over a restart.

use std::time::{Duration, Instant};

use super::super::super::State;
use super::super::super::lateness::Lateness;
use super::super::learn::{self, Learned, Obstacle};
use super::super::plan::{self, Block, Widths};
use super::part::{Halved, Part};
use super::{Refusal, Repeat, Unit};

/// After this it is tried for the first time whether what was learned is still needed; doubles up
/// to [`TRIAL_EVERY`].
pub(super) const TRIAL_FIRST: Duration = Duration::from_secs(600);
/// The longest time between two such trials.
pub(super) const TRIAL_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Not sooner after the last trial than this, for a unit that was down; and the longest time
/// between two of them where answers were damaged.
pub(super) const TRIAL_AGAIN: Duration = Duration::from_secs(3600);

/// What was learned, while a poll is made without it.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) pause: Duration,
    pub(super) widths: Widths,
    pub(super) kept_widths: Widths,
    pub(super) parts: Vec<Part>,
    pub(super) halved: Vec<Halved>,
    pub(super) refused: Vec<Refusal>,
}

impl Unit {
    /// Takes over what was learned before; what belongs to another map is left out.
    pub(in super::super) fn recall(&mut self, learned: &Learned, now: Instant) {
        self.pause = learned.pause();
        self.lateness = Lateness::with_wait(learned.wait(self.settings.timeout));
        self.widths = learned.widths();
        self.kept_widths = self.widths;
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
    pub(in super::super) fn relearn(&mut self, now: Instant) -> bool {
        let had = !self.learned().is_empty() || !self.refused.is_empty();
        self.trial = None;
        (self.pause, self.widths, self.kept_widths) = (Duration::ZERO, Widths::default(), Widths::default());
        self.lateness.forget_wait();
        (self.trying, self.has_tried_pauses) = (None, false);
        (self.soonest, self.ignored_after) = (None, None);
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

    /// What to keep over a restart.
    pub(in super::super) fn learned(&self) -> Learned {
        let registers = &self.settings.registers;
        let (pause, widths, kept, parts) = match (&self.trial, &self.whole) {
            (Some(trial), _) => (trial.pause, trial.widths, trial.kept_widths, &trial.parts),
            (None, whole) => {
                (self.pause, self.widths, self.kept_widths, whole.as_ref().unwrap_or(&self.parts))
            }
        };
        let is_of_damage = widths != kept || parts.iter().any(|part| part.is_of_damage);
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
            timeout_ms: ms(self.lateness.wait()),
            widths: kept,
            map: learn::fingerprint(registers, self.settings.limits),
            reads: if reads == planned || is_of_damage { Vec::new() } else { reads },
            silent: silent.collect(),
            damage: is_of_damage.then_some(widths),
            ..Learned::default()
        }
    }

    /// Something was learned: it is put to the test soon.
    pub(super) fn test_soon(&mut self, now: Instant) {
        self.revision += 1;
        self.trial_wait = TRIAL_FIRST;
        self.trial_at = now + TRIAL_FIRST;
    }

    /// One poll without the pause that was learned; without one, as it is planned.
    pub(super) fn begin_trial(&mut self, now: Instant) {
        let is_busy = self.trying.is_some() || self.whole.is_some() || self.trial.is_some();
        let is_learning = self.blame.is_some() || self.parts.iter().any(Part::is_in_question);
        if is_busy || is_learning || !self.in_step || self.state != State::Up {
            // At the next poll, then.
            return;
        }
        let learned = self.learned();
        let most = if learned.damage.is_some() { TRIAL_AGAIN } else { TRIAL_EVERY };
        self.trial_at = now + self.trial_wait.min(most);
        self.trial_wait = (self.trial_wait * 2).min(TRIAL_EVERY);
        if !learned.is_testable() {
            return;
        }
        // The one after the other: a unit may have got quicker and still be narrow.
        let is_of_pause = !self.pause.is_zero() && self.trials.is_multiple_of(2);
        self.trials = self.trials.wrapping_add(1);
        self.tried_at = Some(now);
        self.trial = Some(Trial {
            pause: self.pause,
            widths: self.widths,
            kept_widths: self.kept_widths,
            parts: self.parts.clone(),
            halved: self.halved.clone(),
            refused: self.refused.clone(),
        });
        if is_of_pause {
            self.pause = Duration::ZERO;
        } else {
            (self.widths, self.kept_widths) = (Widths::default(), Widths::default());
            self.plan();
        }
    }

    /// What was learned is in force again, after a failure in a trial. Whether there was one.
    pub(super) fn end_trial(&mut self) -> bool {
        let Some(trial) = self.trial.take() else { return false };
        (self.pause, self.widths, self.kept_widths) = (trial.pause, trial.widths, trial.kept_widths);
        (self.parts, self.halved, self.refused) = (trial.parts, trial.halved, trial.refused);
        self.blame = None;
        self.find_probes();
        self.restart();
        true
    }

    /// Whether an exception says that a trial failed: not if this very read was refused before.
    pub(super) fn is_refused_in_trial(&self, block: &Block) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.parts.iter().all(|part| part.block != *block))
    }
}
