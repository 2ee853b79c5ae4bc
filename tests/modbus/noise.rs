//! Noise is a property of the line: nothing that it taught is kept.

use std::time::Duration;

use proptest::prelude::*;
use tombolo::proto::serial::modbus::Event;
use tombolo::proto::serial::modbus::bus::State;
use tombolo::proto::serial::modbus::learn::{Learned, Notebook, Obstacle};
use tombolo::proto::serial::modbus::map::{Kind, Register};
use tombolo::proto::serial::modbus::pdu::Table;
use tombolo::proto::serial::modbus::settings::Unit;

use crate::support::{self, Behaviour, World, answer, frame, ms, register, settings, unit};

const MINUTE: Duration = Duration::from_secs(60);

type Answers = Vec<(Duration, Vec<u8>)>;

fn with(addresses: impl IntoIterator<Item = u16>) -> Unit {
    let registers = addresses.into_iter().map(|at| register(&format!("r{at}"), Table::Input, at, Kind::U16));
    Unit { registers: registers.collect(), ..unit(1) }
}

fn whole(registers: &[Register]) -> String {
    let fields: Vec<String> =
        registers.iter().map(|register| format!("\"{}\":{}", register.name, register.address)).collect();
    format!("{{{}}}", fields.join(","))
}

/// Numbers without a pattern, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// What a hit does to a frame.
#[derive(Clone, Copy, Debug)]
enum Hit {
    /// A byte is another one.
    Flip,
    /// The frame breaks off anywhere.
    Cut,
    /// The last byte is lost.
    Last,
    /// Other bytes come in its place.
    Garbage,
    /// Any of these.
    Any,
}

fn hit(dice: &mut Dice, hit: Hit, bytes: &mut Vec<u8>) {
    let at = dice.below(bytes.len() as u64) as usize;
    match hit {
        Hit::Flip => bytes[at] ^= 1 << dice.below(8),
        Hit::Cut => bytes.truncate(at),
        Hit::Last => drop(bytes.pop()),
        Hit::Garbage => bytes.iter_mut().for_each(|byte| *byte = dice.below(256) as u8),
        Hit::Any => {
            let kinds = [Hit::Flip, Hit::Cut, Hit::Last, Hit::Garbage];
            let kind = kinds[dice.below(4) as usize];
            self::hit(dice, kind, bytes);
        }
    }
}

/// A unit at the end of a line on which so many frames in a hundred are hit, requests and answers,
/// until then.
fn noisy(
    world: &World,
    percent: u64,
    kind: Hit,
    seed: u64,
    until: Duration,
) -> impl FnMut(&[u8]) -> Answers + use<> {
    let (clock, mut dice) = (world.clock(), Dice(seed));
    move |request| {
        let is_noisy = clock.get() < until;
        // A unit drops a request with a wrong checksum.
        if is_noisy && dice.below(100) < percent {
            return Vec::new();
        }
        let mut bytes = frame(&answer(request));
        if is_noisy && dice.below(100) < percent {
            hit(&mut dice, kind, &mut bytes);
        }
        if bytes.is_empty() { Vec::new() } else { vec![(ms(5), bytes)] }
    }
}

/// In a minute all readings come once a period and are whole.
fn check_after(world: &mut World, meter: &Unit) -> Result<(), TestCaseError> {
    let before = world.readings(0).len();
    world.run(MINUTE);
    let readings = world.readings(0).split_off(before);
    let expected = whole(&meter.registers);
    prop_assert!((59..=61).contains(&readings.len()), "{} {:?}", readings.len(), world.bus.learned(0));
    prop_assert!(readings.iter().all(|(_, payload)| *payload == expected), "{:?}", readings.last());
    prop_assert_eq!(world.bus.state(0), Some(State::Up));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn once_the_noise_ends_all_readings_come_at_their_period(
        percent in 1u64..=20,
        kind in prop_oneof![Just(Hit::Flip), Just(Hit::Cut), Just(Hit::Last), Just(Hit::Garbage), Just(Hit::Any)],
        seed in any::<u64>(),
        minutes in 1u32..40,
        map in prop_oneof![
            Just(vec![0u16]), Just((0..20).collect()), Just(vec![0, 100, 200]), Just(vec![0, 1, 2, 9, 60, 61]),
        ],
    ) {
        let meter = with(map);
        let mut world = World::new(settings(vec![meter.clone(), unit(2)]));
        let behaviour = noisy(&world, percent, kind, seed, MINUTE * minutes);
        world.behave(1, behaviour);
        world.run(MINUTE * minutes);
        // Some back-offs, and nothing like the trial of a day.
        world.run(MINUTE);
        check_after(&mut world, &meter)?;
    }
}

/// A unit whose frames of more bytes than this are hit until then.
fn hit_if_longer(
    world: &World,
    most: usize,
    kind: Hit,
    until: Duration,
) -> impl FnMut(&[u8]) -> Answers + use<> {
    let (clock, mut dice) = (world.clock(), Dice(4));
    move |request| {
        let mut bytes = frame(&answer(request));
        if bytes.len() > most && clock.get() < until {
            hit(&mut dice, kind, &mut bytes);
        }
        if bytes.is_empty() { Vec::new() } else { vec![(ms(5), bytes)] }
    }
}

/// What is kept of the first unit over a restart.
fn kept(world: &World) -> Learned {
    let mut notebook = Notebook::default();
    notebook.put("meter", world.bus.learned(0).unwrap(), |_| true);
    let kept = Notebook::parse(notebook.encode().as_bytes()).unwrap();
    kept.units.get("meter").cloned().unwrap_or_default()
}

/// That its values do not come at all while only the long read is damaged helps nobody; that it
/// stays narrow for ever after a noisy hour neither.
#[test]
fn a_read_of_which_only_damaged_answers_come_is_halved_until_the_line_is_better() {
    for (kind, period) in [(Hit::Flip, 1), (Hit::Cut, 1), (Hit::Garbage, 1), (Hit::Last, 1), (Hit::Flip, 60)]
    {
        let meter = Unit { period: Duration::from_secs(period), ..with(0..20) };
        let mut world = World::new(settings(vec![meter.clone()]));
        let behaviour = hit_if_longer(&world, 20, kind, 40 * MINUTE);
        world.behave(1, behaviour);
        world.run(4 * MINUTE);
        let before = world.readings(0).len();
        world.run(5 * MINUTE);
        let readings = world.readings(0).split_off(before);
        assert!(readings.len() as u64 >= 290 / period, "{kind:?} {period} {}", readings.len());
        assert!(readings.iter().all(|(_, payload)| *payload == whole(&meter.registers)), "{kind:?}");
        assert_eq!(world.bus.state(0), Some(State::Up));
        let learned = world.bus.learned(0).unwrap();
        assert_eq!(learned.in_force().registers(), 5, "{kind:?} {learned:?}");
        assert!(world.count(|event| *event == Event::Learned { unit: 0 }) >= 1);
        // It may be the line: it is not kept over a restart.
        assert!(kept(&world).is_empty(), "{kind:?} {learned:?}");
        // While the line is noisy, that it is put to the test costs a reading at most.
        let before = world.readings(0).len();
        world.run(30 * MINUTE);
        let count = (world.readings(0).len() - before) as u64;
        assert!(count + 30 >= 30 * 60 / period && count + 3 >= 30 * 60 / period / 2, "{kind:?} {count}");
        // Within the hour after the noise it is asked as configured.
        world.run(65 * MINUTE);
        assert!(world.bus.learned(0).unwrap().is_empty(), "{kind:?} {:?}", world.bus.learned(0));
        let widest = world.requests.iter().rev().take(3).map(|(_, body)| body[5]).max();
        assert_eq!(widest, Some(20), "{kind:?}");
    }
}

#[test]
fn a_converter_of_64_bytes_is_read_and_put_to_the_test_each_hour() {
    let meter = with(0..60);
    let mut world = World::new(settings(vec![meter.clone(), unit(2)]));
    world.behave(1, |request| {
        let mut bytes = frame(&answer(request));
        bytes.truncate(64);
        vec![(ms(5), bytes)]
    });
    world.run(2 * MINUTE);
    assert_eq!(world.bus.learned(0).unwrap().in_force().registers(), 15);
    check_after(&mut world, &meter).unwrap();
    let (start, from) = (world.elapsed(), world.requests.len());
    let readings = world.readings(0).len();
    world.run(24 * 60 * MINUTE);
    let asked = world.requests.split_off(from);
    let trials: Vec<Duration> =
        asked.iter().filter(|(_, body)| body[0] == 1 && body[5] == 60).map(|(at, _)| *at - start).collect();
    assert!((23..=30).contains(&trials.len()), "{trials:?}");
    assert!(world.readings(0).len() - readings >= 24 * 3_600 - 3 * trials.len());
    assert_eq!(world.bus.counters(1).unwrap().silent, 0, "the other unit is not disturbed");
}

#[test]
fn a_width_learned_by_silence_is_kept_although_damage_taught_a_shorter_one() {
    let mut meter = with(0..40);
    meter.registers.push(register("h", Table::Holding, 0, Kind::U16));
    let mut world = World::new(settings(vec![meter]));
    world.behave(1, |request| if request[5] > 20 { Vec::new() } else { support::meter(request) });
    world.run(3 * MINUTE);
    assert_eq!(kept(&world).widths().registers(), 20);
    let mut spoilt = 0u8;
    world.behave(1, move |request| {
        let mut bytes = frame(&answer(request));
        spoilt = spoilt.wrapping_add(1);
        if request[5] > 10 {
            bytes[5] ^= spoilt | 1;
        }
        if request[5] > 20 { Vec::new() } else { vec![(ms(5), bytes)] }
    });
    world.run(3 * MINUTE);
    assert_eq!(world.bus.learned(0).unwrap().in_force().registers(), 10);
    assert_eq!(kept(&world).widths().registers(), 20);
}

#[test]
fn damage_while_no_shorter_read_is_answered_halves_nothing() {
    // Two reads of one length, of which one is always damaged.
    let mut meter = with([0, 1]);
    meter.registers.push(register("h", Table::Holding, 0, Kind::U16));
    meter.registers.push(register("i", Table::Holding, 1, Kind::U16));
    let mut world = World::new(settings(vec![meter]));
    let mut count = 0u8;
    world.behave(1, move |request| {
        let mut bytes = frame(&answer(request));
        count = count.wrapping_add(1);
        if request[1] == 3 || request[5] == 1 {
            bytes[3] ^= count | 1;
        }
        vec![(ms(5), bytes)]
    });
    world.run(10 * MINUTE);
    assert!(world.bus.counters(0).unwrap().damaged > 100);
    assert!(world.bus.learned(0).unwrap().is_empty(), "{:?}", world.bus.learned(0));
}

#[test]
fn an_answer_that_always_breaks_off_at_the_same_length_is_asked_for_in_parts() {
    // As an adapter does whose buffer holds 32 bytes.
    let meter = with(0..20);
    let mut world = World::new(settings(vec![meter.clone()]));
    world.behave(1, |request| {
        let mut bytes = frame(&answer(request));
        bytes.truncate(32);
        vec![(ms(5), bytes)]
    });
    world.run(5 * MINUTE);
    assert_eq!(world.bus.learned(0).unwrap().in_force().registers(), 10);
    check_after(&mut world, &meter).unwrap();
}

#[test]
fn a_byte_of_the_lines_turning_does_not_hide_a_silence() {
    let meter = with([0, 5]);
    let mut world = World::new(settings(vec![meter.clone()]));
    world.behave(1, |request| {
        let is_single = request[5] == 1;
        if is_single { support::meter(request) } else { vec![(ms(1), vec![0xFF])] }
    });
    world.run(MINUTE);
    check_after(&mut world, &meter).unwrap();
}

#[test]
fn what_noise_taught_before_anything_was_answered_is_forgotten_after_ten_minutes() {
    let meter = with(0..20);
    let mut world = World::new(settings(vec![meter.clone()]));
    let clock = world.clock();
    world.behave(1, move |request| {
        if clock.get() < MINUTE && request[5] > 4 { Vec::new() } else { support::meter(request) }
    });
    world.run(MINUTE);
    assert!(world.bus.learned(0).unwrap().widths().registers() > 0);
    world.run(11 * MINUTE);
    assert!(world.bus.learned(0).unwrap().is_empty(), "{:?}", world.bus.learned(0));
    check_after(&mut world, &meter).unwrap();
}

#[test]
fn a_register_that_was_there_and_is_no_more_is_still_found_out() {
    let meter = with([0, 1, 2, 3]);
    let mut world = World::new(settings(vec![meter.clone()]));
    world.run(MINUTE);
    world.behave(1, |request| {
        let first = u16::from_be_bytes([request[2], request[3]]);
        let is_there = !(first..first + u16::from(request[5])).contains(&2);
        if is_there { support::meter(request) } else { Vec::new() }
    });
    world.run(4 * MINUTE);
    assert_eq!(world.bus.obstacles(0).collect::<Vec<_>>(), [(2, Obstacle::Silence)]);
    let without = whole(&[&meter.registers[..2], &meter.registers[3..]].concat());
    assert_eq!(world.readings(0).pop().unwrap().1, without);
}

#[test]
fn the_groups_that_answered_are_published_although_another_one_is_silent() {
    let mut meter = with([0, 1]);
    meter.period = MINUTE;
    meter.registers.push(register("h", Table::Holding, 0, Kind::U16));
    meter.registers.push(register("i", Table::Holding, 300, Kind::U16));
    for (function, address, without) in [
        (4, 0, r#"{"h":0,"i":300}"#),
        (3, 0, r#"{"r0":0,"r1":1,"i":300}"#),
        (3, 300, r#"{"r0":0,"r1":1,"h":0}"#),
    ] {
        for is_known in [false, true] {
            let mut world = World::new(settings(vec![meter.clone()]));
            let clock = world.clock();
            let begins = if is_known { 3 * MINUTE } else { Duration::ZERO };
            world.behave(1, move |request| {
                let is_it = request[1] == function && request[2..4] == u16::to_be_bytes(address);
                if is_it && clock.get() >= begins { Vec::new() } else { support::meter(request) }
            });
            world.run(begins + Duration::from_secs(10));
            let readings = world.readings(0);
            let last = readings.last().expect("a reading within ten seconds of the poll");
            assert_eq!(last.1, without, "{function} {address} {is_known}");
            assert!(last.0 >= begins, "{function} {address} {is_known}");
            world.run(10 * MINUTE);
            let count = world.readings(0).len() - readings.len();
            assert!((9..=11).contains(&count), "{count}");
        }
    }
}

#[test]
fn a_group_that_is_damaged_for_ever_keeps_back_no_other() {
    let mut meter = with([0, 1]);
    meter.registers.push(register("h", Table::Holding, 0, Kind::U16));
    let mut world = World::new(settings(vec![meter]));
    let mut count = 0u8;
    world.behave(1, move |request| {
        let mut bytes = frame(&answer(request));
        count = count.wrapping_add(1);
        if request[1] == 3 {
            bytes[3] ^= count | 1;
        }
        vec![(ms(5), bytes)]
    });
    world.run(MINUTE);
    let readings = world.readings(0);
    assert!(readings.len() >= 55, "{}", readings.len());
    assert!(readings.iter().all(|(_, payload)| payload == r#"{"r0":0,"r1":1}"#));
    assert_eq!(world.bus.state(0), Some(State::Up));
}

#[test]
fn a_unit_says_how_it_fails() {
    let silent = |_: &[u8]| -> Answers { Vec::new() };
    let damaged = |_: &[u8]| -> Answers { vec![(ms(5), vec![1, 3, 2, 0, 0, 0, 0])] };
    let other = |_: &[u8]| -> Answers { vec![(ms(5), frame(&[1, 3, 4, 0, 1, 0, 2]))] };
    let gateway = |request: &[u8]| -> Answers { vec![(ms(5), frame(&[1, request[1] | 0x80, 11]))] };
    let late = |request: &[u8]| -> Answers { vec![(ms(1_250), frame(&answer(request)))] };
    let cases: [(Behaviour, Option<State>, &str); 5] = [
        (Box::new(silent), Some(State::Down), "does not answer"),
        (Box::new(damaged), Some(State::Down), "only damaged answers come"),
        (Box::new(other), Some(State::Degraded), "answers 4 bytes where 2 are asked for"),
        (Box::new(gateway), Some(State::Down), "exception 11"),
        (Box::new(late), None, "later than the longest wait"),
    ];
    for (behaviour, state, text) in cases {
        let mut world = World::new(settings(vec![unit(1)]));
        world.behave(1, behaviour);
        world.run(Duration::from_secs(58));
        let failing = world.bus.failing(0).expect(text).to_string();
        assert!(failing.contains(text), "{failing}");
        assert!(
            state.is_none_or(|state| world.bus.state(0) == Some(state)),
            "{text} {:?}",
            world.bus.state(0)
        );
        world.behave(1, support::meter);
        world.run(2 * MINUTE);
        assert_eq!((world.bus.state(0), world.bus.failing(0)), (Some(State::Up), None), "{text}");
    }
}

#[test]
fn what_was_learned_can_be_discarded_at_once() {
    let meter = with([0, 5]);
    let mut world = World::new(settings(vec![meter.clone(), unit(2)]));
    let clock = world.clock();
    world.behave(1, move |request| {
        if clock.get() < MINUTE && request[5] > 1 { Vec::new() } else { support::meter(request) }
    });
    world.run(2 * MINUTE);
    assert!(!world.bus.learned(0).unwrap().is_empty());
    let now = world.now;
    assert!(world.bus.relearn(now, 0));
    assert!(!world.bus.relearn(now, 0), "nothing is left to be forgotten");
    assert!(world.bus.learned(0).unwrap().is_empty());
    world.run(Duration::from_secs(5));
    let widest = world.requests.iter().rev().take(12).map(|(_, body)| body[5]).max();
    assert_eq!(widest, Some(6));
    check_after(&mut world, &meter).unwrap();
}

#[test]
fn an_answer_that_breaks_off_after_the_units_address_is_damage_and_no_silence() {
    let meter = with(0..20);
    let mut world = World::new(settings(vec![meter]));
    let mut count = 0;
    world.behave(1, move |request| {
        if request[5] <= 4 {
            return support::meter(request);
        }
        // Of another length each time.
        count += 1;
        vec![(ms(1), request[..1 + count % 2].to_vec())]
    });
    world.run(MINUTE);
    assert!(world.bus.counters(0).unwrap().damaged >= 6);
    assert!(kept(&world).is_empty(), "{:?}", world.bus.learned(0));
}
