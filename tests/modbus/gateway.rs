//! Gateways of Modbus TCP to a serial line that put the number and the unit of the present request
//! on the answer to the one before: nothing in such an answer is wrong but its values.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tombolo::proto::serial::modbus::Bus;
use tombolo::proto::serial::modbus::bus::{Medium, State};
use tombolo::proto::serial::modbus::map::{Kind, Register};
use tombolo::proto::serial::modbus::pdu::Table;
use tombolo::proto::serial::modbus::settings::Unit;
use tombolo::proto::serial::modbus::write::{Access, Job, Written};
use tombolo::splitmix::SplitMix64;

use crate::support::{World, frame, ms, register, settings, unit};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Where answers are put that come too late.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kept {
    /// In one place for the whole line.
    OfLine,
    /// In one place for each unit and function.
    OfFunction,
}

/// How the lateness begins.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Begin {
    /// The gateway says that the unit did not answer.
    Exception(u8),
    Silence,
    Closing,
}

/// What the registers hold: their unit and address, and a count that rises with each read or
/// stands still.
#[derive(Clone, Default)]
struct Line {
    written: BTreeMap<(u8, u16), u16>,
    count: u16,
    changes: bool,
    kept: BTreeMap<(u8, u8), Vec<u8>>,
    is_late: bool,
    /// It was before the first request.
    was_late: bool,
    /// What was written, without the unit.
    writes: Vec<u16>,
}

impl Line {
    fn value(&mut self, unit: u8, address: u16) -> u16 {
        self.count = (self.count + u16::from(self.changes)) % 128;
        let own = u16::from(unit) << 13 | (address & 0x3f) << 7 | self.count;
        self.written.get(&(unit, address)).copied().unwrap_or(own)
    }

    /// The body of the answer, without the unit.
    fn answer(&mut self, body: &[u8]) -> Vec<u8> {
        let at = u16::from_be_bytes([body[2], body[3]]);
        let second = u16::from_be_bytes([body[4], body[5]]);
        if body[1] == 6 {
            self.written.insert((body[0], at), second);
            self.writes.push(second);
            return body[1..].to_vec();
        }
        let words = (at..at + second).flat_map(|at| self.value(body[0], at).to_be_bytes());
        let words: Vec<u8> = words.collect();
        [vec![body[1], (2 * second) as u8], words].concat()
    }
}

struct Gateway {
    world: World,
    line: Rc<RefCell<Line>>,
}

/// A gateway that is in time until ten seconds have passed, then late once, and from then on one
/// answer behind, until `end`.
fn gateway(units: Vec<Unit>, kept: Kept, begin: Begin, changes: bool, end: Duration) -> Gateway {
    let addresses: Vec<u8> = units.iter().map(|unit| unit.address).collect();
    let (mut world, settings) = (World::new(settings(units.clone())), settings(units));
    world.bus = Bus::new(settings, world.now, 7);
    world.bus.answers_are_numbered();
    world.bus.line_up(world.now);
    let line = Rc::new(RefCell::new(Line { changes, ..Line::default() }));
    for address in addresses {
        let (line, clock) = (line.clone(), world.clock());
        world.behave(address, move |body| {
            let mut line = line.borrow_mut();
            let own = line.answer(body);
            let named = |answer: &[u8]| frame(&[&body[..1], answer].concat());
            if !line.was_late && clock.get() < 10 * SECOND || clock.get() >= end {
                line.kept.clear();
                return vec![(ms(10), named(&own))];
            }
            let place = match kept {
                Kept::OfLine => (0, 0),
                Kept::OfFunction => (body[0], body[1]),
            };
            if let Some(before) = line.kept.get_mut(&place) {
                return vec![(ms(10), named(&std::mem::replace(before, own)))];
            }
            if line.is_late || body[1] != 3 {
                return vec![(ms(10), named(&own))];
            }
            line.is_late = true;
            line.kept.insert(place, own);
            match begin {
                Begin::Exception(code) => vec![(ms(150), named(&[body[1] | 0x80, code]))],
                Begin::Silence => Vec::new(),
                Begin::Closing => vec![(ms(50), Vec::new())],
            }
        });
    }
    Gateway { world, line }
}

pub fn with(address: u8, registers: &[u16]) -> Unit {
    let named = |at: &u16| register(&format!("r{at}"), Table::Holding, *at, Kind::U16);
    Unit { registers: registers.iter().map(named).collect(), ..unit(address) }
}

/// Readings of all units, and the false values in them.
pub fn judged(world: &World, units: &[u8]) -> (usize, Vec<(Duration, u8, String)>) {
    let (mut count, mut wrong) = (0, Vec::new());
    for (index, unit) in units.iter().enumerate() {
        for (at, payload) in world.readings(index) {
            let values: BTreeMap<String, u16> = serde_json::from_str(&payload).unwrap();
            let is_right = |name: &str, value: u16| {
                let address: u16 = name[1..].parse().unwrap();
                value >> 7 == u16::from(*unit) << 6 | address & 0x3f
            };
            count += 1;
            if !values.iter().all(|(name, value)| is_right(name, *value)) {
                wrong.push((at, *unit, payload));
            }
        }
    }
    (count, wrong)
}

const BEGINS: [Begin; 4] = [Begin::Exception(11), Begin::Exception(10), Begin::Silence, Begin::Closing];

#[test]
fn a_gateway_that_puts_the_present_number_on_the_answer_before_publishes_no_value_of_another_register() {
    for kept in [Kept::OfLine, Kept::OfFunction] {
        for begin in BEGINS {
            for changes in [false, true] {
                let what = format!("{kept:?} {begin:?} {changes}");
                let units = vec![with(1, &[2, 40]), with(2, &[2, 40]), with(3, &[2, 40])];
                let mut gateway = gateway(units, kept, begin, changes, Duration::MAX);
                gateway.world.run(5 * MINUTE);
                let (count, wrong) = judged(&gateway.world, &[1, 2, 3]);
                assert_eq!(wrong, [], "{what}");
                assert!(count > 3 * 270, "{what}: {count}");
                for unit in 0..3 {
                    assert_eq!(gateway.world.bus.state(unit), Some(State::Up), "{what}");
                }
                if !changes {
                    // All that can be known is known, and told.
                    let behind = (0..3).filter(|unit| gateway.world.bus.is_one_behind(*unit)).count();
                    assert!(behind > 0, "{what}");
                }
            }
        }
    }
}

#[test]
fn reads_of_several_lengths_are_read_right_behind_such_a_gateway() {
    for kept in [Kept::OfLine, Kept::OfFunction] {
        for changes in [false, true] {
            let what = format!("{kept:?} {changes}");
            let units = vec![with(1, &[2, 40]), with(2, &[4, 5]), with(3, &[1, 20, 50])];
            let mut gateway = gateway(units, kept, Begin::Exception(11), changes, Duration::MAX);
            gateway.world.run(5 * MINUTE);
            let (count, wrong) = judged(&gateway.world, &[1, 2, 3]);
            assert_eq!(wrong, [], "{what}");
            assert!(count > 250, "{what}: {count}");
        }
    }
}

#[test]
fn an_answer_of_another_length_with_the_present_number_is_told_as_that() {
    let units = vec![with(1, &[2]), with(2, &[4, 5])];
    let mut gateway = gateway(units, Kept::OfLine, Begin::Exception(11), false, Duration::MAX);
    let mut said = String::new();
    for _ in 0..400 {
        gateway.world.run(ms(50));
        said.extend((0..2).filter_map(|unit| gateway.world.bus.failing(unit)).map(|why| why.to_string()));
    }
    assert!(!said.contains("carry the transaction identifier of an earlier request"), "{said}");
    assert!(said.contains("one request late") || said.contains("the gateway at the port is late"), "{said}");
}

#[test]
fn a_gateway_that_is_in_step_again_is_asked_once_for_each_read() {
    for changes in [false, true] {
        let units = vec![with(1, &[2, 40]), with(2, &[2, 40])];
        let mut gateway = gateway(units, Kept::OfLine, Begin::Exception(11), changes, 60 * SECOND);
        gateway.world.run(3 * MINUTE);
        let before = (gateway.world.requests.len(), judged(&gateway.world, &[1, 2]).0);
        gateway.world.run(MINUTE);
        let (count, wrong) = judged(&gateway.world, &[1, 2]);
        let requests = gateway.world.requests.len() - before.0;
        assert_eq!((wrong, requests), (Vec::new(), 2 * (count - before.1)), "{changes}");
        assert!(!gateway.world.bus.is_one_behind(0));
    }
}

#[test]
fn a_unit_that_stays_dead_behind_a_gateway_costs_the_others_a_second_request_only_while_its_answer_may_come()
{
    let units = vec![with(1, &[2, 40]), with(2, &[2, 40])];
    let mut gateway = gateway(units, Kept::OfLine, Begin::Exception(11), true, Duration::ZERO);
    gateway.world.behave(2, |body| vec![(ms(100), frame(&[body[0], body[1] | 0x80, 11]))]);
    let asked = |world: &World, unit: u8| world.requests.iter().filter(|(_, body)| body[0] == unit).count();
    gateway.world.run(2 * MINUTE);
    for _ in 0..5 {
        let before = (asked(&gateway.world, 1), asked(&gateway.world, 2));
        gateway.world.run(MINUTE);
        // Two reads each second, and for each request to the other so many more: until six
        // time-outs are over, and until the values show that none came.
        let (own, other) = (asked(&gateway.world, 1) - before.0, asked(&gateway.world, 2) - before.1);
        assert!(own <= 120 + other * 36, "{own}, {other}");
    }
    // Nobody knows what the other would answer: while it may, values that change are withheld.
    let count = judged(&gateway.world, &[1]).0;
    let withheld = gateway.world.bus.counters(0).unwrap().withheld;
    assert!(count >= 395 && count + withheld as usize >= 420, "{count} {withheld}");
}

pub fn masked() -> Register {
    let access = Access { min: None, max: None, multiple: false, read_back: true };
    let field = register("m", Table::Holding, 30, Kind::U16);
    Register { mask: Some(0x00f0), write: Some(access), ..field }
}

/// Writes a part of a register each twelve seconds. What became of them, and what else of the
/// register was written.
fn write_parts(gateway: &mut Gateway, times: u64) -> (Vec<Written>, Vec<u16>) {
    let mut outcomes = Vec::new();
    for number in 0..times {
        let job = Job::new(&[masked()], "m", (number % 16).to_string().as_bytes()).unwrap();
        assert!(gateway.world.bus.write(gateway.world.now, number, 0, job, 10 * SECOND));
        gateway.world.run(12 * SECOND);
        outcomes.extend(std::iter::from_fn(|| gateway.world.bus.poll_written()).map(|(_, written)| written));
    }
    let line = gateway.line.borrow();
    (outcomes, line.writes.iter().map(|word| word & 0xff0f).filter(|rest| *rest != 0xa50a).collect())
}

#[test]
fn a_part_of_a_register_is_written_behind_such_a_gateway_without_harm_to_the_rest() {
    for kept in [Kept::OfLine, Kept::OfFunction] {
        for begin in BEGINS {
            for changes in [false, true] {
                let what = format!("{kept:?} {begin:?} {changes}");
                let units = vec![with(1, &[2, 40]), with(2, &[2, 40])];
                let mut gateway = gateway(units, kept, begin, changes, Duration::MAX);
                gateway.line.borrow_mut().written.insert((1, 30), 0xa50a);
                gateway.world.run(5 * SECOND);
                let (outcomes, harm) = write_parts(&mut gateway, 20);
                assert_eq!(harm, Vec::<u16>::new(), "{what}");
                let done = outcomes.iter().filter(|written| matches!(written, Written::Done(_))).count();
                let least = if kept == Kept::OfFunction { 18 } else { 2 };
                assert!(done >= least, "{what}: {outcomes:?}");
                assert_eq!(judged(&gateway.world, &[1, 2]).1, [], "{what}");
            }
        }
    }
}

#[test]
fn behind_a_gateway_that_was_late_before_the_first_request_nothing_is_exchanged_and_nothing_harmed() {
    for kept in [Kept::OfLine, Kept::OfFunction] {
        for changes in [false, true] {
            let what = format!("{kept:?} {changes}");
            let units = vec![with(1, &[2, 40]), with(2, &[2, 40])];
            let mut gateway = gateway(units, kept, Begin::Silence, changes, Duration::MAX);
            let mut line = gateway.line.borrow_mut();
            line.written.insert((1, 30), 0xa50a);
            (line.is_late, line.was_late) = (true, true);
            for place in [(0, 0), (1, 3), (2, 3)] {
                line.kept.insert(place, vec![3, 2, 0x12, 0x34]);
            }
            drop(line);
            gateway.world.run(2 * MINUTE);
            let (outcomes, harm) = write_parts(&mut gateway, 5);
            assert_eq!(harm, Vec::<u16>::new(), "{what}");
            let done = outcomes.iter().filter(|written| matches!(written, Written::Done(_))).count();
            assert!(done == 5 || kept == Kept::OfLine, "{what}: {outcomes:?}");
            let (count, wrong) = judged(&gateway.world, &[1, 2]);
            assert_eq!(wrong, [], "{what}");
            assert!(count > 200, "{what}: {count}");
        }
    }
}

#[test]
fn a_part_of_a_register_whose_rest_changes_each_time_is_not_written_over_modbus_tcp() {
    let mut gateway = gateway(vec![with(1, &[2])], Kept::OfLine, Begin::Silence, true, Duration::ZERO);
    gateway.world.run(5 * SECOND);
    let (outcomes, _) = write_parts(&mut gateway, 1);
    let why = "the rest of the register is another each time it is read";
    assert_eq!(outcomes, [Written::Unasked(why.to_owned())]);
    assert!(gateway.line.borrow().writes.is_empty());
}

/// Three units with two values each, which are alike in all of them, and always others. A request
/// is lost after ten seconds; from then on each answer comes with the next request, if `is_late`.
fn alike(medium: Medium, is_late: bool) -> World {
    let units: Vec<Unit> = (1..=3).map(|address| with(address, &[3, 4])).collect();
    let (mut world, settings) = (World::new(settings(units.clone())), settings(units));
    world.bus = Bus::new(settings, world.now, 7);
    match medium {
        Medium::Header => world.bus.answers_are_numbered(),
        _ => world.bus.is_behind(medium),
    }
    world.bus.line_up(world.now);
    let line = Rc::new(RefCell::new((SplitMix64::new(3), None::<Vec<u8>>, false)));
    for address in 1..=3 {
        let (line, clock) = (line.clone(), world.clock());
        world.behave(address, move |body| {
            let (dice, kept, was_lost) = &mut *line.borrow_mut();
            let mut own = vec![body[1], 2 * body[5]];
            for at in body[3]..body[3] + body[5] {
                let noise = u16::try_from(dice.next_u64() % 64).unwrap();
                let value = (2_300 + noise) << 4 | u16::from(address) << 1 | u16::from(at & 1);
                own.extend(value.to_be_bytes());
            }
            let named = |pdu: &[u8]| vec![(ms(10), frame(&[&body[..1], pdu].concat()))];
            if clock.get() > 10 * SECOND && address == 2 && !std::mem::replace(was_lost, true) {
                *kept = is_late.then_some(own);
                return Vec::new();
            }
            match kept {
                Some(before) => named(&std::mem::replace(before, own)),
                None => named(&own),
            }
        });
    }
    world
}

/// Readings of them, and those with a value of another register.
fn judged_alike(world: &World) -> (usize, usize) {
    let readings =
        (0..3).flat_map(|unit| world.readings(unit).into_iter().map(move |(_, text)| (unit, text)));
    let is_wrong = |(unit, text): &(usize, String)| {
        let values: BTreeMap<String, u16> = serde_json::from_str(text).unwrap();
        values.iter().any(|(name, value)| value & 15 != (2 * *unit as u16 + 2) | u16::from(name == "r3"))
    };
    let all: Vec<_> = readings.collect();
    (all.len(), all.iter().filter(|reading| is_wrong(reading)).count())
}

const MEDIA: [Medium; 4] = [Medium::Header, Medium::Network, Medium::Unnumbered, Medium::Line];

#[test]
fn alike_values_that_always_change_are_read_once_again_where_one_of_them_can_be_asked_alone() {
    for medium in MEDIA {
        let mut world = alike(medium, false);
        world.run(3 * MINUTE);
        let before = (world.requests.len(), judged_alike(&world));
        assert_eq!(before.1.1, 0, "{medium:?}");
        world.run(MINUTE);
        let (count, wrong) = judged_alike(&world);
        let readings = count - before.1.0;
        assert_eq!((readings, wrong), (180, 0), "{medium:?}");
        assert_eq!(world.requests.len() - before.0, readings, "{medium:?}");
        assert!((0..3).all(|unit| !world.bus.is_doubled(unit)));
    }
}

#[test]
fn a_line_that_is_late_with_such_values_is_named_and_none_is_exchanged() {
    for medium in MEDIA {
        let mut world = alike(medium, true);
        world.run(5 * MINUTE);
        let (count, wrong) = judged_alike(&world);
        assert_eq!(wrong, 0, "{medium:?}");
        // What cannot be told from others is withheld.
        assert!(count > 30, "{medium:?}: {count}");
        let is_named = (0..3).any(|unit| world.bus.is_one_behind(unit));
        let withheld: u64 = (0..3).map(|unit| world.bus.counters(unit).unwrap().withheld).sum();
        assert!(is_named || world.bus.is_out_of_step() || withheld > 100, "{medium:?}");
    }
}
