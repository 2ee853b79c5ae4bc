//! Which requests read a map: neighbouring registers together, in as few requests as the bounds
//! allow.
//!
//! Reading a few registers that nobody wants costs less than another request: at 9600 baud a
//! request with its answer and silences takes about 25 ms beyond its data, as long as 12 registers.
//! But a unit may refuse addresses it does not have; then the block is taken apart until only the
//! register at fault is alone.

use super::map::Register;
use super::pdu::{Request, Shape, Table};

/// Bounds of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most registers one request reads; `1..=125`. Bits: 16 times as many.
    pub max_registers: u16,
    /// Most unwanted registers between two wanted ones. Bits: 16 times as many.
    pub max_gap: u16,
}

/// Registers read by one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where.
    pub table: Table,
    /// The first address.
    pub address: u16,
    /// How many.
    pub quantity: u16,
    /// The registers in it, as indexes into the map, by address.
    pub members: Vec<usize>,
    /// The unit answers it with so many bytes of data.
    pub answer_bytes: Option<u8>,
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
        })
    }

    /// The request that reads it; `None` only for a map that breaks the protocol's bounds.
    pub fn request(&self) -> Option<Request> {
        let request = Request::read(self.table, self.address, self.quantity).ok()?;
        Some(match self.answer_bytes {
            Some(bytes) => request.answered_with(bytes),
            None => request,
        })
    }
}

/// The fewest blocks that read all `registers` within `limits`. A register longer than
/// `max_registers` is a block of its own.
pub fn blocks(registers: &[Register], limits: Limits) -> Vec<Block> {
    let mut order: Vec<usize> = (0..registers.len()).collect();
    order.sort_by_key(|index| (registers[*index].table, registers[*index].address, registers[*index].end()));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut open: Option<(u32, u32)> = None;
    for index in order {
        let register = &registers[index];
        let factor = if register.table.has_bits() { 16 } else { 1 };
        let longest =
            (u32::from(limits.max_registers) * factor).clamp(1, u32::from(register.table.read_max()));
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

/// Takes a block apart that its unit refuses: at its gaps, and if it has none in the middle. `None`
/// if it holds one register only.
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
/// that no block of `all` has; those that have come first.
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
    let whole = from.iter().filter_map(|block| block.request()).take(PROBES_MAX);
    found.extend(whole.map(|request| (request, false)));
    found
}
