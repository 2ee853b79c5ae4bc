//! Groups the registers of a map into as few requests as the limits allow.
//!
//! Reading a few unused registers costs less than another request: at 9600 baud the overhead of a
//! request with its response and silences is about 25 ms, the time of 12 registers. But a unit may
//! refuse addresses that do not exist; then the block is split until only the refused register is
//! separate.

use serde::{Deserialize, Serialize};

use super::map::Register;
use super::pdu::{Request, Shape, Table};

/// Limits of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most registers per request; `1..=125`. For bits 16 times as many.
    pub max_registers: u16,
    /// Most unused registers between two used ones. For bits 16 times as many.
    pub max_gap: u16,
}

/// Most bits or registers of one read of each table; 0: as many as are configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Widths {
    /// Bits of [`Table::Coil`].
    #[serde(skip_serializing_if = "is_zero")]
    pub coil: u16,
    /// Bits of [`Table::Discrete`].
    #[serde(skip_serializing_if = "is_zero")]
    pub discrete: u16,
    /// Registers of [`Table::Holding`].
    #[serde(skip_serializing_if = "is_zero")]
    pub holding: u16,
    /// Registers of [`Table::Input`].
    #[serde(skip_serializing_if = "is_zero")]
    pub input: u16,
}

fn is_zero(number: &u16) -> bool {
    *number == 0
}

impl Widths {
    /// That of a table.
    pub fn of(&self, table: Table) -> u16 {
        match table {
            Table::Coil => self.coil,
            Table::Discrete => self.discrete,
            Table::Holding => self.holding,
            Table::Input => self.input,
        }
    }

    /// Changes that of a table.
    pub fn set(&mut self, table: Table, width: u16) {
        match table {
            Table::Coil => self.coil = width,
            Table::Discrete => self.discrete = width,
            Table::Holding => self.holding = width,
            Table::Input => self.input = width,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Widths::default()
    }

    /// The least of those of registers; 0: none.
    pub fn registers(&self) -> u16 {
        [self.holding, self.input].into_iter().filter(|width| *width > 0).min().unwrap_or_default()
    }

    /// The least of those of bits; 0: none.
    pub fn bits(&self) -> u16 {
        [self.coil, self.discrete].into_iter().filter(|width| *width > 0).min().unwrap_or_default()
    }
}

/// Registers read by one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The table.
    pub table: Table,
    /// The first address.
    pub address: u16,
    /// The number of registers or bits.
    pub quantity: u16,
    /// The registers in it, as indexes into the map, by address.
    pub members: Vec<usize>,
    /// The unit answers it with so many bytes of data.
    pub answer_bytes: Option<u8>,
    /// Its answer says how many registers it has, and not how many bytes.
    pub counts_registers: bool,
}

impl Block {
    /// The smallest that holds these registers, given by address; `None` without any.
    pub(super) fn of(registers: &[Register], members: &[usize]) -> Option<Block> {
        let first = registers.get(*members.first()?)?;
        let end = members.iter().filter_map(|index| registers.get(*index)).map(Register::end).max()?;
        let quantity = u16::try_from(end - u32::from(first.address)).ok()?;
        let answer_bytes = first.answer_bytes;
        Some(Block {
            table: first.table,
            address: first.address,
            quantity,
            members: members.to_vec(),
            answer_bytes,
            counts_registers: first.counts_registers,
        })
    }

    /// The request that reads it; `None` only if the map exceeds the limits of the protocol.
    pub fn request(&self) -> Option<Request> {
        let request = Request::read(self.table, self.address, self.quantity).ok()?;
        let request = request.counted_in_registers(self.counts_registers);
        Some(match self.answer_bytes {
            Some(bytes) => request.answered_with(bytes),
            None => request,
        })
    }
}

/// The fewest blocks that read all `registers` within `limits`. A register longer than
/// `max_registers` is a separate block.
pub fn blocks(registers: &[Register], limits: Limits) -> Vec<Block> {
    blocks_within(registers, limits, Widths::default())
}

/// The same, within the widths that were learned of the unit.
pub fn blocks_within(registers: &[Register], limits: Limits, widths: Widths) -> Vec<Block> {
    let mut order: Vec<usize> = (0..registers.len()).collect();
    order.sort_by_key(|index| (registers[*index].table, registers[*index].address, registers[*index].end()));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut open: Option<(u32, u32)> = None;
    for index in order {
        let register = &registers[index];
        let factor = if register.table.has_bits() { 16 } else { 1 };
        let learned = Some(widths.of(register.table)).filter(|width| *width > 0).unwrap_or(u16::MAX);
        let most = (u32::from(limits.max_registers) * factor).min(learned.into());
        let longest = most.clamp(1, u32::from(register.table.read_max()));
        let fits = |start: u32, end: u32| {
            register.end().max(end) - start <= longest
                && u32::from(register.address) <= end + u32::from(limits.max_gap) * factor
        };
        let last = groups.last_mut();
        match (open, last) {
            (Some((start, end)), Some(group))
                if registers[group[0]].table == register.table
                    && register.answer_bytes.is_none()
                    && registers[group[0]].answer_bytes.is_none()
                    && fits(start, end) =>
            {
                group.push(index);
                open = Some((start, end.max(register.end())));
            }
            _ => {
                groups.push(vec![index]);
                open = Some((register.address.into(), register.end()));
            }
        }
    }
    groups.iter().filter_map(|group| Block::of(registers, group)).collect()
}

/// Splits a block that its unit refuses: at its gaps, or in the middle if it has none. `None` if it
/// has only one register.
pub fn split(registers: &[Register], block: &Block) -> Option<Vec<Block>> {
    let mut parts: Vec<Vec<usize>> = Vec::new();
    let mut end = None;
    for index in &block.members {
        let register = registers.get(*index)?;
        match (end, parts.last_mut()) {
            (Some(reached), Some(part)) if u32::from(register.address) <= reached => part.push(*index),
            _ => parts.push(vec![*index]),
        }
        end = end.max(Some(register.end()));
    }
    if parts.len() == 1 {
        let (low, high) = block.members.split_at(block.members.len() / 2);
        parts = vec![low.to_vec(), high.to_vec()];
    }
    let parts: Vec<Block> = parts.iter().filter_map(|part| Block::of(registers, part)).collect();
    (block.members.len() > 1).then_some(parts)
}

/// Most probes to choose from, of each kind.
const PROBES_MAX: usize = 4;

/// Reads by which a unit shows that it answers in step, each with whether its answer has a shape
/// that no block of `all` has; those that have come first, then short ones.
///
/// They read values of the map, whole and within the blocks of `from`, and nothing else: single
/// values, beginnings, and the blocks themselves.
pub fn probes(registers: &[Register], from: &[&Block], all: &[&Block]) -> Vec<(Request, bool)> {
    let used: Vec<Shape> =
        all.iter().filter_map(|block| block.request()).map(|request| request.answer()).collect();
    let mut found: Vec<(Request, bool)> = Vec::new();
    for block in from {
        let singles = block.members.iter().map(std::slice::from_ref);
        let beginnings = (2..block.members.len()).filter_map(|count| block.members.get(..count));
        for members in singles.chain(beginnings) {
            let part = Block::of(registers, members).filter(|part| part.quantity < block.quantity);
            let Some(request) = part.and_then(|part| part.request()) else { continue };
            let probe = (request, true);
            if found.len() < PROBES_MAX && !used.contains(&probe.0.answer()) && !found.contains(&probe) {
                found.push(probe);
            }
        }
    }
    // Where only short reads are answered, or in time, one of these is.
    let singles = from.iter().filter_map(|block| {
        let one =
            Block::of(registers, block.members.get(..1)?).filter(|one| one.quantity < block.quantity)?;
        one.request()
    });
    let singles: Vec<Request> = singles.take(PROBES_MAX).collect();
    let whole = from.iter().filter_map(|block| block.request()).take(PROBES_MAX);
    for request in singles.into_iter().chain(whole) {
        if !found.iter().any(|(known, _)| *known == request) {
            let distinct = !used.contains(&request.answer());
            found.push((request, distinct));
        }
    }
    found
}
