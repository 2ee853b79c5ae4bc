//! Reads whose answers are known by their function or length, and how late a line is by them.
//!
//! Answers come in order, and each request adds one at most. So of a *class* of reads whose
//! answers nothing else on the line has, and of which none is on its way, the first answer
//! that comes is that to the first request: as many are kept as requests of the class were
//! sent after it. Then all of other classes have come that were sent before. Two classes take
//! turns: so what is left of one is never taken for an answer to the next. The third drains a
//! gateway: what an unknown unit answers to it is of neither.

use std::collections::VecDeque;
use std::time::Instant;

use super::super::pdu::{Answer, Exception, Request, Table};
use super::super::unit::Unit;

/// Of a line whose polls use all functions, the registers that a probe reads: as many as no
/// poll.
const QUANTITIES: std::ops::RangeInclusive<u16> = 1..=125;
/// The two that take turns, and the one that drains.
const CLASSES: usize = 3;
pub(super) const DRAIN: usize = 2;
/// Of so many probes is known that no answer came.
const OPEN_MAX: usize = 64;

/// What is known of the probes on their way.
#[derive(Debug, Default)]
pub(super) struct Classes {
    /// Answers to it may be on their way.
    is_dirty: [bool; 2],
    /// Units refuse it with exceptions that may be those to polls.
    is_refused: [bool; CLASSES],
    /// The one in turn, and how many requests were sent since its first one that has no
    /// answer.
    turn: usize,
    sent: usize,
    /// Those that have no answer: of which class, and when each was sent.
    open: VecDeque<(usize, Instant)>,
    /// The addresses of units that were seen to answer: their silence shows nothing.
    answered: Vec<u8>,
}

/// A read of a class, for one unit.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) request: Request,
    /// An exception can be no poll's.
    pub(super) is_function_free: bool,
}

/// Whose answer a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Probes,
    Others,
    /// An exception that may be either's.
    Unclear,
    /// The gateway says that it has none.
    Gateways,
}

impl Probe {
    /// Whether this answers such a read, and nothing else.
    fn is_shown_by(&self, pdu: &[u8]) -> bool {
        self.whose(pdu) == Whose::Probes
    }

    pub(super) fn whose(&self, pdu: &[u8]) -> Whose {
        match self.request.parse_answer(pdu) {
            Ok(Answer::Exception(exception)) if exception.is_of_gateway() => Whose::Gateways,
            Ok(Answer::Exception(_)) if self.is_function_free => Whose::Probes,
            Ok(Answer::Exception(_)) => Whose::Unclear,
            Ok(_) => Whose::Probes,
            Err(_) => match pdu {
                // Damaged or of a length of its own: no poll has the function.
                [function, ..] if self.is_function_free && *function == self.request.function() => {
                    Whose::Probes
                }
                [_, code] if pdu[0] >= 128 && Exception(*code).is_of_gateway() => Whose::Gateways,
                _ => Whose::Others,
            },
        }
    }
}

impl Classes {
    /// The next ones begin a turn of their own, if one is free of those that are on their way.
    pub(super) fn begin(&mut self) {
        let other = 1 - self.turn;
        let own = self.turn;
        if !self.is_dirty[own] {
            self.sent = 0;
        } else if !self.is_dirty[other] && !self.is_refused[other] {
            (self.turn, self.sent) = (other, 0);
        }
    }

    pub(super) fn turn(&self) -> usize {
        self.turn
    }

    /// A probe of the turn is sent.
    pub(super) fn note_sent(&mut self, now: Instant) {
        self.is_dirty[self.turn] = true;
        self.sent += 1;
        if self.open.len() >= OPEN_MAX {
            self.open.pop_front();
        }
        self.open.push_back((self.turn, now));
    }

    /// The class of the probe that this answers, if it answers one.
    fn class_of(&self, units: &[Unit], pdu: &[u8]) -> Option<usize> {
        let is_of = |class| self.probe(class, units, None).is_some_and(|probe| probe.is_shown_by(pdu));
        (0..DRAIN).find(|class| is_of(*class))
    }

    /// An answer to a probe came, of whatever turn.
    pub(super) fn note_came(&mut self, units: &[Unit], pdu: &[u8]) {
        let Some(class) = self.class_of(units, pdu) else { return };
        if let Some(at) = self.open.iter().position(|(of, _)| *of == class) {
            self.open.remove(at);
        }
    }

    /// Whether it can be the answer to a probe, which has not come yet.
    pub(super) fn may_be_late(&self, units: &[Unit], pdu: &[u8]) -> bool {
        let is_open = |class| self.open.iter().any(|(of, _)| *of == class);
        !self.open.is_empty() && self.class_of(units, pdu).is_some_and(is_open)
    }

    /// Answers to probes of the other class may be under way that were sent since then.
    pub(super) fn outstanding(&self, since: Option<Instant>) -> usize {
        let is_it =
            |(class, at): &&(usize, Instant)| *class != self.turn && since.is_none_or(|since| *at > since);
        self.open.iter().filter(is_it).count()
    }

    /// The same of both.
    pub(super) fn all_outstanding(&self, since: Option<Instant>) -> usize {
        self.open.iter().filter(|(_, at)| since.is_none_or(|since| *at > since)).count()
    }

    /// A request of another kind is sent, whose answer comes after those that are on their
    /// way.
    pub(super) fn note_other(&mut self) {
        if self.is_dirty[self.turn] {
            self.sent = self.sent.saturating_add(1);
        }
    }

    /// Whether a unit was seen to answer them.
    pub(super) fn is_answered(&self, address: u8) -> bool {
        self.answered.contains(&address)
    }

    /// What was answered with nothing late says little of when something is: a unit that is
    /// silent then is asked again.
    pub(super) fn forget_answered(&mut self) {
        self.answered.clear();
    }

    /// How many were sent in this turn.
    pub(super) fn sent(&self) -> usize {
        self.sent
    }

    /// An answer of the turn came: so many others are kept, of the turn, all of them.
    pub(super) fn came(&mut self, address: u8) -> usize {
        let late = self.sent.saturating_sub(1);
        self.sent = late;
        if late == 0 && !self.answered.contains(&address) {
            self.answered.push(address);
        }
        self.is_dirty = [false; 2];
        self.is_dirty[self.turn] = late > 0;
        late
    }

    /// What is refused shows nothing.
    pub(super) fn refuse(&mut self) {
        self.is_refused[self.turn] = true;
        self.begin();
    }

    /// The read of a class that this unit is sent; `units`: all of the line.
    pub(super) fn probe(&self, class: usize, units: &[Unit], unit: Option<&Unit>) -> Option<Probe> {
        if self.is_refused.get(class).is_some_and(|is_refused| *is_refused) {
            return None;
        }
        let registers = || units.iter().flat_map(|unit| &unit.settings.registers);
        let is_free = |table: &Table| registers().all(|register| register.table != *table);
        let tables = [Table::Input, Table::Discrete, Table::Coil, Table::Holding];
        let free: Vec<Table> = tables.into_iter().filter(is_free).collect();
        if let Some(table) = free.get(class) {
            let request = Request::read(*table, 0, 1).ok()?;
            return Some(Probe { request, is_function_free: true });
        }
        // A table of the map, and as many as nothing else has, from where something is read.
        let table = registers().map(|register| register.table).find(|table| !table.has_bits());
        let table = table.or_else(|| registers().map(|register| register.table).next())?;
        let of = unit.map(|unit| &unit.settings.registers[..]).unwrap_or_default();
        let address = of.iter().filter(|register| register.table == table).map(|register| register.address);
        let address = address.min().unwrap_or_default();
        let step = if table.has_bits() { 8 } else { 1 };
        let is_asked = |request: &Request| {
            let shape = request.answer();
            let is_alone = registers().any(|register| {
                let own = Request::read(register.table, register.address, register.quantity());
                own.is_ok_and(|own| own.answer() == shape)
            });
            is_alone || units.iter().any(|unit| unit.asks(shape))
        };
        let reads = QUANTITIES.filter_map(|of| Request::read(table, 0, of * step).ok());
        let own = reads.into_iter().filter(|request| !is_asked(request)).nth(class - free.len())?;
        let quantity = if table.has_bits() {
            u16::from(own.answer().length - 2) * 8
        } else {
            u16::from(own.answer().length - 2) / 2
        };
        let address = address.min(u16::MAX - quantity);
        let request = Request::read(table, address, quantity).ok()?;
        Some(Probe { request, is_function_free: false })
    }
}
