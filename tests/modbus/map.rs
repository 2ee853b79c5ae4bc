//! Register maps: the fewest requests, exhaustively in the small.

use std::time::Duration;

use proptest::prelude::*;
use tombolo::proto::serial::modbus::change::Publish;
use tombolo::proto::serial::modbus::map::{
    Charset, Half, Kind, Order, Register, decode, resolve, write_json,
};
use tombolo::proto::serial::modbus::pdu::{Request, Table};
use tombolo::proto::serial::modbus::plan::{Block, Limits, blocks, probes, split};

use crate::support::{World, frame, ms, register, settings, unit};

fn holding(address: u16, registers: u16) -> Register {
    register(&format!("{address}+{registers}"), Table::Holding, address, Kind::String(registers))
}

/// Whether these may stand in one request.
fn fits(group: &[&Register], limits: Limits) -> bool {
    let mut end = u32::from(group[0].address);
    for register in group {
        if u32::from(register.address) > end + u32::from(limits.max_gap) {
            return false;
        }
        end = end.max(register.end());
    }
    end - u32::from(group[0].address) <= u32::from(limits.max_registers)
}

/// The fewest groups, by trying every way to cut the sorted list.
fn fewest(sorted: &[&Register], limits: Limits) -> usize {
    if sorted.is_empty() {
        return 0;
    }
    let firsts = (1..=sorted.len()).filter(|first| *first == 1 || fits(&sorted[..*first], limits));
    firsts.map(|first| 1 + fewest(&sorted[first..], limits)).min().unwrap()
}

#[test]
fn every_small_map_is_read_in_the_fewest_requests() {
    // All subsets of ten addresses, each one or two registers long in all alternations.
    for wanted in 1u32..1 << 10 {
        for long in [0, wanted, 0x155 & wanted] {
            let registers: Vec<Register> = (0..10)
                .filter(|bit| wanted >> bit & 1 == 1)
                .map(|bit| holding(bit, 1 + (long >> bit & 1) as u16))
                .collect();
            for limits in [(125, 0), (125, 2), (3, 1), (2, 9), (5, 3)] {
                let limits = Limits { max_registers: limits.0, max_gap: limits.1 };
                let sorted: Vec<&Register> = registers.iter().collect();
                let blocks = blocks(&registers, limits);
                assert_eq!(blocks.len(), fewest(&sorted, limits), "{wanted:b} {long:b} {limits:?}");
                let mut members: Vec<usize> = blocks.iter().flat_map(|block| block.members.clone()).collect();
                members.sort_unstable();
                assert!(members.into_iter().eq(0..registers.len()), "each register once");
                for block in &blocks {
                    assert!(block.quantity <= limits.max_registers.max(2));
                    for index in &block.members {
                        let register = &registers[*index];
                        assert!(register.address >= block.address);
                        assert!(register.end() <= u32::from(block.address) + u32::from(block.quantity));
                    }
                }
            }
        }
    }
}

#[test]
fn tables_are_never_mixed_and_bits_have_their_own_bounds() {
    let limits = Limits { max_registers: 125, max_gap: 8 };
    let bits: Vec<Register> =
        (0..2_100).map(|at| register(&at.to_string(), Table::Coil, at, Kind::Bool(None))).collect();
    let quantities: Vec<u16> = blocks(&bits, limits).iter().map(|block| block.quantity).collect();
    assert_eq!(quantities, [2000, 100]);
    let mixed: Vec<Register> = [Table::Input, Table::Coil, Table::Holding, Table::Discrete]
        .into_iter()
        .map(|table| register(table.as_str(), table, 5, Kind::Bool(None)))
        .collect();
    assert_eq!(blocks(&mixed, limits).len(), 4);
}

proptest! {
    /// Any map: within the protocol's bounds, each register once, a probe like no block, and taking
    /// apart ends with single registers.
    #[test]
    fn every_map_can_be_asked_for(
        wanted in proptest::collection::vec((0u16..400, 0u8..4, 0u8..8), 1..60),
        max_registers in 4u16..=125, max_gap in 0u16..=124,
    ) {
        let tables = [Table::Coil, Table::Discrete, Table::Holding, Table::Input];
        let registers: Vec<Register> = wanted.iter().enumerate().map(|(index, (address, table, kind))| {
            let table = tables[usize::from(*table)];
            let kinds = [Kind::U16, Kind::I32, Kind::F64, Kind::Bool(Some(3)), Kind::String(4), Kind::U64, Kind::F32, Kind::I16];
            let kind = if table.has_bits() { Kind::Bool(None) } else { kinds[usize::from(*kind)] };
            register(&index.to_string(), table, *address, kind)
        }).collect();
        let plan = blocks(&registers, Limits { max_registers, max_gap });
        let mut members: Vec<usize> = plan.iter().flat_map(|block| block.members.clone()).collect();
        members.sort_unstable();
        prop_assert!(members.into_iter().eq(0..registers.len()));
        let mut work = plan;
        loop {
            let shapes: Vec<_> = work.iter().map(|block| block.request().unwrap().answer()).collect();
            let all: Vec<&Block> = work.iter().collect();
            let found = probes(&registers, &all, &all);
            prop_assert!(!found.is_empty());
            for (probe, distinct) in &found {
                prop_assert_eq!(*distinct, !shapes.contains(&probe.answer()));
            }
            let Some(at) = work.iter().position(|block| block.members.len() > 1) else { break };
            let parts = split(&registers, &work[at]).unwrap();
            prop_assert!(parts.len() > 1);
            work.splice(at..=at, parts);
        }
        prop_assert_eq!(work.len(), registers.len());
    }

    /// No bytes make a decoder panic, or anything but JSON.
    #[test]
    fn every_answer_becomes_json(
        data in proptest::collection::vec(any::<u8>(), 0..40), register in any_register(), exponent in any::<[u8; 2]>(),
    ) {
        let value = decode(&register, 1, &data);
        let is_whole = data.len() >= 4 + 2 * usize::from(register.kind.quantity());
        // Where the answer is of another length, the value is at its beginning: not here.
        prop_assert_eq!(value.is_some(), is_whole);
        let at_begin = Register { address: 1, ..register.clone() };
        let is_short = register.answer_bytes.is_some() && register.kind.is_whole() && !data.is_empty();
        let is_there = data.len() >= 2 * usize::from(register.kind.quantity()) || is_short;
        prop_assert_eq!(decode(&at_begin, 1, &data).is_some(), is_there);
        // With the register that scales it, if it has one.
        let scale = Register { name: "scale".to_owned(), kind: Kind::I16, ..Register::default() };
        let of_scale = decode(&scale, 0, &exponent);
        let registers = [register.clone(), scale];
        for values in [[value.clone(), of_scale.clone()], [value.clone(), None], [decode(&at_begin, 1, &data), of_scale]] {
            let mut values = values;
            let (was_read, has_scale) = (values[0].is_some(), values[1].is_some());
            resolve(&registers, &mut values);
            let mut out = Vec::new();
            write_json(&registers, &values, &mut out);
            let back: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let back = back.as_object().unwrap();
            let is_told = was_read && (has_scale || register.exponent.is_none());
            prop_assert_eq!(back.contains_key(&register.name), is_told);
            let Some(told) = back.get(&register.name) else { continue };
            let fits = match register.kind {
                Kind::String(_) => told.is_string() || told.is_null(),
                Kind::Bool(_) => told.is_boolean() || told.is_null(),
                _ if !register.bits.is_empty() => told.is_object() || told.is_null(),
                _ => told.is_number() || told.is_null() || told.is_string() && !register.names.is_empty(),
            };
            prop_assert!(fits, "{register:?} {told}");
        }
    }
}

/// A register of any type, with any of what its type can have.
fn any_register() -> impl Strategy<Value = Register> {
    let kinds = [
        Kind::Bool(None),
        Kind::Bool(Some(9)),
        Kind::U8(Half::High),
        Kind::U8(Half::Low),
        Kind::I8(Half::High),
        Kind::I8(Half::Low),
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::U64,
        Kind::I64,
        Kind::F32,
        Kind::F64,
        Kind::Bcd(2),
        Kind::Bcd(4),
        Kind::Bcd(8),
        Kind::String(7),
    ];
    let charsets = [Charset::Utf8, Charset::Latin1, Charset::Windows1252];
    let absent = proptest::option::of(proptest::collection::vec(any::<u8>(), 2..9));
    let texts = (".{1,20}", proptest::sample::select(charsets.to_vec()), any::<bool>());
    let numbers = (any::<f64>(), any::<f64>(), proptest::option::of(1..=u64::MAX), any::<i64>(), 0_u8..64);
    let flags = any::<[bool; 6]>();
    let answer = proptest::option::of(1_u8..=250);
    (proptest::sample::select(kinds.to_vec()), absent, texts, numbers, flags, answer).prop_map(
        |(kind, absent, (name, charset, narrow), (scale, offset, mask, raw, bit), flags, answer_bytes)| {
            let [has_bits, has_names, is_scaled, words, bytes, has_exponent] = flags;
            let order = |is_little| if is_little { Order::Little } else { Order::Big };
            // As the configuration allows them.
            let is_plain = kind.is_whole() && !matches!(kind, Kind::Bcd(_));
            let (has_bits, has_names) = (has_bits && is_plain, has_names && kind.is_whole());
            Register {
                kind,
                absent,
                charset,
                narrow,
                answer_bytes,
                mask: mask.filter(|_| is_plain),
                scale: if is_scaled { scale } else { 1.0 },
                offset: if is_scaled { offset } else { 0.0 },
                words: order(words),
                bytes: order(bytes),
                bits: if has_bits {
                    vec![(bit, "on".to_owned()), (63 - bit, "off".to_owned())]
                } else {
                    Vec::new()
                },
                names: if has_names {
                    vec![(raw, "known".to_owned()), (0, "none".to_owned())]
                } else {
                    Vec::new()
                },
                exponent: (has_exponent && kind.is_number() && !has_bits).then_some(1),
                // The name of the other register is taken.
                ..register(&format!("x{name}"), Table::Holding, 3, kind)
            }
        },
    )
}

#[test]
fn a_probe_asks_for_whole_values_of_the_map_and_for_nothing_else() {
    let limits = Limits { max_registers: 125, max_gap: 8 };
    let probe = |registers: &[Register]| {
        let plan = blocks(registers, limits);
        let all: Vec<&Block> = plan.iter().collect();
        probes(registers, &all, &all).into_iter().next()
    };
    // No two registers for a lone one, no half of a number of two.
    let lone = [register("a", Table::Holding, 7, Kind::U16)];
    assert_eq!(probe(&lone), Some((Request::read(Table::Holding, 7, 1).unwrap(), false)));
    let long = [register("a", Table::Input, 7, Kind::U32)];
    assert_eq!(probe(&long), Some((Request::read(Table::Input, 7, 2).unwrap(), false)));
    let two = [register("a", Table::Input, 7, Kind::U32), register("b", Table::Input, 9, Kind::U16)];
    assert_eq!(probe(&two), Some((Request::read(Table::Input, 7, 2).unwrap(), true)));
    // Eight coils are answered with as many bytes as one.
    let coils = |count: u16| -> Vec<Register> {
        (0..count).map(|at| register(&at.to_string(), Table::Coil, at, Kind::Bool(None))).collect()
    };
    assert_eq!(probe(&coils(8)), Some((Request::read(Table::Coil, 0, 1).unwrap(), false)));
    assert_eq!(probe(&coils(9)), Some((Request::read(Table::Coil, 0, 1).unwrap(), true)));
    assert_eq!(probe(&[]), None);
}

#[test]
fn on_change_only_changes_beyond_the_dead_band_are_published() {
    let mut quiet = unit(1);
    quiet.publish = Publish::OnChange { max_unchanged: Some(Duration::from_secs(30)) };
    quiet.registers[0].scale = 0.1;
    quiet.registers[0].dead_band = 0.5;
    let mut world = World::new(settings(vec![quiet]));
    let mut value = 2300u16;
    world.behave(1, move |request| {
        value += 1;
        let mut body = vec![1, 3, (2 * request[5])];
        (0..request[5]).for_each(|_| body.extend(value.to_be_bytes()));
        vec![(ms(5), frame(&body))]
    });
    world.run(Duration::from_secs(60));
    let readings = world.readings(0);
    assert!((9..=10).contains(&readings.len()), "{readings:?}");
    assert_eq!(readings[0].1, r#"{"value":230.1}"#);
    assert_eq!(readings[1].1, r#"{"value":230.7}"#);
    let polls = world.bus.counters(0).unwrap().polls;
    assert_eq!(polls, 60);
    // Refused further on: the next poll says it again.
    world.bus.forget_published(0);
    world.run(Duration::from_secs(1));
    assert_eq!(world.readings(0).len(), readings.len() + 1);
}
