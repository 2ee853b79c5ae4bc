//! One read of a unit, and how it does.

use std::time::{Duration, Instant};

use super::super::fault::{Failure, Lost};
use super::super::learn::{self, Obstacle};
use super::super::pdu::{Exception, Request};
use super::super::plan::Block;

/// A block and how it does.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) block: Block,
    /// Failures in a row that were no damage, while the unit answered others.
    pub(super) failures: u32,
    /// It failed when it was asked for last.
    pub(super) shaky: bool,
    /// So many bytes its answer had, in place of more, and so often in a row.
    pub(super) cut: (usize, u32),
    /// Damaged answers since the last good one, each followed by a good one to a shorter read.
    pub(super) spoiled: u32,
    /// It came of a read whose answers were damaged.
    pub(super) is_of_damage: bool,
    /// Its last failure was a damaged answer.
    pub(super) is_damaged: bool,
    /// A gateway said why it did not answer.
    pub(super) gateway: Option<Exception>,
    /// What it brought when it was answered last.
    pub(super) last: Option<Vec<u8>>,
    /// It was refused with this exception so often in a row.
    pub(super) refusal: Option<(Exception, u8)>,
    /// It came of a read that failed, and was not answered yet.
    pub(super) suspect: bool,
    /// It was answered.
    pub(super) proven: bool,
    /// Not asked for before then; and how long it was left out.
    pub(super) aside: Option<(Instant, Duration)>,
    /// Of which read it is a half, as an index into `halved`.
    pub(super) half_of: Option<usize>,
}

impl Part {
    pub(super) fn new(block: Block) -> Part {
        Part {
            block,
            failures: 0,
            shaky: false,
            cut: (0, 0),
            spoiled: 0,
            is_of_damage: false,
            is_damaged: false,
            gateway: None,
            last: None,
            refusal: None,
            suspect: false,
            proven: false,
            aside: None,
            half_of: None,
        }
    }

    pub(super) fn is_doubtful(&self) -> bool {
        self.suspect || self.aside.is_some()
    }

    /// Whether it has a turn between two polls. A damaged answer now and then is no question.
    pub(super) fn is_in_question(&self) -> bool {
        self.suspect || self.failures > 0 || self.spoiled > 1 && self.block.members.len() > 1
    }

    /// What its failure may teach. Damage shows that it is answered.
    pub(super) fn blame(&mut self, lost: Lost) -> Obstacle {
        self.is_damaged = lost.obstacle().is_none();
        self.gateway = match lost.failure {
            Failure::Gateway(exception) => Some(exception),
            _ => None,
        };
        if let Some(why) = lost.obstacle() {
            self.cut = (0, 0);
            return why;
        }
        let times = if lost.came || self.cut.0 != lost.bytes { 0 } else { self.cut.1 };
        self.cut = (lost.bytes, times + 1);
        self.failures = 0;
        Obstacle::Damage
    }

    /// Its answer was damaged, and then this read was answered: whether that was once too often.
    pub(super) fn is_spoiled(&mut self, answered: &Request) -> bool {
        let length = self.block.request().map_or(0, |request| request.answer().length);
        self.spoiled = self.spoiled.saturating_add(u32::from(answered.answer().length < length));
        match self.block.members.len() {
            1 => self.cut.1 >= learn::CUT_ALIKE,
            _ => self.spoiled >= learn::DAMAGED,
        }
    }

    /// Failures in a row after which it is changed.
    pub(super) fn failures_max(&self) -> u32 {
        match (self.aside.is_some(), self.proven) {
            (true, _) => 1,
            (false, false) => learn::FAILURES,
            (false, true) => learn::FAILURES_PROVEN,
        }
    }
}

/// A read without gaps that was taken apart in the middle.
#[derive(Clone, Debug)]
pub(super) struct Halved {
    /// Halves not answered yet.
    pub(super) left: usize,
    /// A half was not answered either.
    pub(super) failed: bool,
    /// Registers of the longer half.
    pub(super) quantity: u16,
    /// Because its answers were damaged.
    pub(super) is_of_damage: bool,
}
