//! Groups the registers of a map into as few requests as the limits allow.
//!
//! Reading a few unused registers costs less than another request: at 9600 baud the overhead of a
//! request with its response and silences is about 25 ms, the time of 12 registers. But a unit may
//! refuse addresses that do not exist; then the block is split until only the refused register is
//! separate.

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
}

impl Block {
    fn of(registers: &[Register], members: &[usize]) -> Option<Block> {
        let first = registers.get(*members.first()?)?;
        let end = members.iter().filter_map(|index| registers.get(*index)).map(Register::end).max()?;
        let quantity = u16::try_from(end - u32::from(first.address)).ok()?;
        Some(Block { table: first.table, address: first.address, quantity, members: members.to_vec() })
    }

    /// The request that reads it; `None` only if the map exceeds the limits of the protocol.
    pub fn request(&self) -> Option<Request> {
        Request::read(self.table, self.address, self.quantity).ok()
    }
}

/// The fewest blocks that read all `registers` within `limits`. A register longer than
/// `max_registers` is a separate block.
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
                if registers[group[0]].table == register.table && fits(start, end) =>
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

/// A read whose response cannot be mistaken for that of a block, because it has another shape.
///
/// It reads the beginning of a block if possible, so that its addresses exist; else more than a
/// block, else another table, because an exception is sufficient as a response. `None` without
/// blocks, or if they use all shapes.
pub fn probe(blocks: &[Block]) -> Option<Request> {
    let used: Vec<Shape> = blocks.iter().filter_map(Block::request).map(|request| request.answer()).collect();
    let free = |table: Table, address: u16, quantity: u16| {
        let request = Request::read(table, address, quantity).ok()?;
        (!used.contains(&request.answer())).then_some(request)
    };
    let beginning =
        |block: &Block| (1..block.quantity).find_map(|quantity| free(block.table, block.address, quantity));
    let longer = |block: &Block| {
        (1..=block.table.read_max()).find_map(|quantity| free(block.table, block.address, quantity))
    };
    let tables = [Table::Holding, Table::Input, Table::Coil, Table::Discrete];
    let elsewhere = || {
        tables.iter().find_map(|table| (1..=table.read_max()).find_map(|quantity| free(*table, 0, quantity)))
    };
    let found = blocks.iter().find_map(beginning).or_else(|| blocks.iter().find_map(longer));
    found.or_else(|| if blocks.is_empty() { None } else { elsewhere() })
}
