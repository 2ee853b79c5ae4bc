//! Answers that may be those to another request are not used, and the unit is read all the same.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tombolo::proto::serial::modbus::bus::{Medium, State};
use tombolo::proto::serial::modbus::learn::Obstacle;
use tombolo::proto::serial::modbus::map::Kind;
use tombolo::proto::serial::modbus::pdu::{Exception, Table};
use tombolo::proto::serial::modbus::settings::Unit;
use tombolo::proto::serial::modbus::{Bus, Event};
use tombolo::splitmix::SplitMix64;

use crate::support::{self, World, answer, frame, ms, register, settings, unit};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

type Answers = Vec<(Duration, Vec<u8>)>;

/// A unit with these registers, each named after its address, which is its value.
fn with(address: u8, registers: &[u16], period: u64, timeout: u64) -> Unit {
    let named = |at: &u16| register(&format!("r{at}"), Table::Holding, *at, Kind::U16);
    Unit {
        registers: registers.iter().map(named).collect(),
        period: ms(period),
        timeout: ms(timeout),
        ..unit(address)
    }
}

fn world(units: Vec<Unit>) -> World {
    let timeout = units[0].timeout;
    let mut settings = settings(units);
    settings.timeout = timeout;
    World::new(settings)
}

/// The false values in a unit's readings; each register holds its own address.
fn exchanged(world: &World, unit: usize) -> Vec<(Duration, String)> {
    let is_false = |payload: &String| {
        let values: serde_json::Value = serde_json::from_str(payload).unwrap();
        let values = values.as_object().unwrap().clone();
        values.into_iter().any(|(name, value)| name[1..].parse().ok() != value.as_u64())
    };
    world.readings(unit).into_iter().filter(|(_, payload)| is_false(payload)).collect()
}

fn whole(world: &World, unit: usize, count: usize) -> usize {
    world.readings(unit).iter().filter(|(_, payload)| payload.matches(':').count() == count).count()
}

/// A converter that hands on each answer with the next request only, from this time to that.
fn held(world: &World, from: Duration, to: Duration) -> impl FnMut(&[u8]) -> Answers + use<> {
    let clock = world.clock();
    let mut kept: Option<Vec<u8>> = None;
    move |request| {
        let whole = frame(&answer(request));
        if clock.get() < from || clock.get() >= to {
            kept = None;
            return vec![(ms(20), whole)];
        }
        kept.replace(whole).map(|before| (ms(20), before)).into_iter().collect()
    }
}

const MAPS: [&[u16]; 6] = [
    &[0, 40],
    &[0, 40, 100],
    &[0, 1, 40, 41, 100, 101],
    &[0, 1, 40, 41, 42, 100],
    &[0, 1, 2, 3, 40, 41, 42, 43, 100],
    &[5],
];

#[test]
fn a_converter_that_delivers_each_answer_with_the_next_request_exchanges_no_values_and_is_named() {
    for map in MAPS {
        for (from, timeout, period) in
            [(0, 1_000, 3_000), (30, 1_000, 2_000), (0, 300, 10_000), (40, 300, 1_000)]
        {
            let what = format!("{map:?} from {from} s, {timeout} ms, each {period} ms");
            let mut world = world(vec![with(1, map, period, timeout)]);
            let behaviour = held(&world, from * SECOND, Duration::MAX);
            world.behave(1, behaviour);
            world.run(10 * MINUTE);
            assert_eq!(exchanged(&world, 0), [], "{what}");
            let polls = 600_000 / period as usize;
            let count = whole(&world, 0, map.len());
            assert!(count >= polls / 2, "{what}: {count} of {polls}, {:?}", world.bus.failing(0));
            if map.len() > 1 {
                assert!(world.bus.is_one_behind(0), "{what}");
            }
            assert_eq!(world.bus.state(0), Some(State::Up), "{what}");
            assert_eq!(world.bus.obstacles(0).count(), 0, "{what}");
        }
    }
}

#[test]
fn a_converter_that_is_in_step_again_is_asked_once_for_each_read() {
    for map in [MAPS[0], MAPS[2], MAPS[3]] {
        let mut world = world(vec![with(1, map, 2_000, 1_000)]);
        let behaviour = held(&world, 30 * SECOND, 90 * SECOND);
        world.behave(1, behaviour);
        world.run(3 * MINUTE);
        assert_eq!(exchanged(&world, 0), [], "{map:?}");
        assert!(!world.bus.is_one_behind(0), "{map:?}");
        let before = (world.requests.len(), world.readings(0).len());
        world.run(MINUTE);
        let (requests, readings) = (world.requests.len() - before.0, world.readings(0).len() - before.1);
        assert_eq!((readings, requests % readings), (30, 0), "{map:?}: {requests}");
        assert!(requests / readings <= 3, "{map:?}: {requests}");
    }
}

#[test]
fn an_answer_that_a_converter_holds_from_an_earlier_process_is_not_used() {
    let mut world = world(vec![with(1, &[0, 40], 2_000, 1_000)]);
    let mut kept = Some(frame(&[1, 3, 2, 0, 40]));
    world.behave(1, move |request| {
        let whole = frame(&answer(request));
        kept.replace(whole).map(|before| (ms(20), before)).into_iter().collect()
    });
    world.run(MINUTE);
    assert_eq!(exchanged(&world, 0), []);
    assert!(whole(&world, 0, 2) >= 28, "{}", whole(&world, 0, 2));
}

#[test]
fn a_unit_that_loses_every_tenth_answer_is_read_nearly_always_though_all_have_one_length() {
    for percent in [5, 10] {
        let mut world = world(vec![with(1, &[0, 40], 3_000, 1_000), unit(2)]);
        let mut dice = SplitMix64::new(3);
        world.behave(
            1,
            move |request| {
                if dice.next_u64() % 100 < percent { Vec::new() } else { support::meter(request) }
            },
        );
        world.run(10 * MINUTE);
        assert_eq!(exchanged(&world, 0), []);
        let count = whole(&world, 0, 2);
        assert!(count >= if percent == 10 { 165 } else { 180 }, "{percent} %: {count} of 200");
        assert_eq!(world.bus.obstacles(0).count(), 0);
    }
}

/// A unit whose registers have this value, from the number of the request on; it is silent to those
/// requests.
fn valued(value: impl Fn(u16, u16) -> u16, silent: &'static [u16]) -> impl FnMut(&[u8]) -> Answers {
    let mut count = 0;
    move |request| {
        count += 1;
        let mut body = answer(request);
        for (at, word) in (u16::from(request[3])..).zip(body[3..].chunks_exact_mut(2)) {
            word.copy_from_slice(&value(at, count).to_be_bytes());
        }
        if silent.contains(&count) { Vec::new() } else { vec![(ms(5), frame(&body))] }
    }
}

/// Readings and requests of one more minute.
fn a_minute(world: &mut World) -> (usize, usize) {
    let before = (world.readings(0).len(), world.requests.len());
    world.run(MINUTE);
    (world.readings(0).len() - before.0, world.requests.len() - before.1)
}

#[test]
fn a_good_unit_is_sent_each_read_once() {
    let values: [fn(u16, u16) -> u16; 3] = [|at, _| at, |_, _| 7, |_, count| count];
    for map in MAPS {
        for (kind, value) in values.into_iter().enumerate() {
            let mut world = world(vec![with(1, map, 2_000, 1_000)]);
            world.behave(1, valued(value, &[]));
            world.run(MINUTE);
            let (readings, requests) = a_minute(&mut world);
            let blocks = map.windows(2).filter(|pair| pair[1] - pair[0] > 8).count() + 1;
            assert_eq!((readings, requests), (30, 30 * blocks), "{map:?} {kind}");
        }
    }
}

#[test]
fn reads_whose_values_are_all_the_same_are_read_and_after_a_lost_answer_not_repeated_for_long() {
    let mut world = world(vec![with(1, &[0, 40], 2_000, 1_000)]);
    world.behave(1, valued(|_, _| 7, &[20]));
    world.run(5 * MINUTE);
    assert!(whole(&world, 0, 2) >= 148);
    assert!(!world.bus.is_one_behind(0));
    assert_eq!(a_minute(&mut world), (30, 60));
}

#[test]
fn values_that_were_all_the_same_for_long_are_not_exchanged_when_they_differ() {
    for map in [&[0, 40][..], &[0, 40, 100]] {
        let mut world = world(vec![with(1, map, 2_000, 1_000)]);
        let clock = world.clock();
        let mut kept: Option<Vec<u8>> = None;
        world.behave(1, move |request| {
            let mut body = answer(request);
            if clock.get() < 5 * MINUTE {
                body[3..].fill(0);
            }
            // From the first minute on each answer comes with the next request.
            let before = if clock.get() < MINUTE { Some(frame(&body)) } else { kept.replace(frame(&body)) };
            before.map(|before| (ms(20), before)).into_iter().collect()
        });
        world.run(5 * MINUTE);
        assert!(world.readings(0).len() >= 140, "{map:?}: {}", world.readings(0).len());
        world.run(5 * MINUTE);
        // One of zero may still be on its way.
        let is_early = |at: &Duration| *at < 5 * MINUTE + 4 * SECOND;
        let exchanged: Vec<_> = exchanged(&world, 0).into_iter().filter(|(at, _)| !is_early(at)).collect();
        assert_eq!(exchanged, [], "{map:?}");
        assert!(world.bus.is_one_behind(0), "{map:?}");
    }
}

/// An exception, and the data so long after it.
fn deferring(code: u8, after: u64, every: usize) -> impl FnMut(&[u8]) -> Answers {
    let mut count = 0;
    move |request| {
        count += 1;
        let whole = frame(&answer(request));
        match count % every {
            0 => vec![(ms(20), frame(&[1, request[1] | 0x80, code])), (ms(after), whole)],
            _ => vec![(ms(20), whole)],
        }
    }
}

#[test]
fn the_data_that_a_unit_sends_after_exception_5_or_6_is_that_of_the_read_it_was_asked_for() {
    for map in [&[0, 1, 40, 41][..], &[0, 40], &[0, 1, 40, 41, 100, 101], &[0]] {
        for (code, after, timeout, every) in
            [(5, 180, 300, 1), (6, 180, 300, 1), (5, 180, 1_000, 1), (5, 130, 300, 7), (6, 800, 1_000, 1)]
        {
            let what = format!("{map:?}, {code}, {after} of {timeout} ms, every {every}");
            let mut world = world(vec![with(1, map, 5_000, timeout)]);
            world.behave(1, deferring(code, after, every));
            world.run(10 * MINUTE);
            assert_eq!(exchanged(&world, 0), [], "{what}");
            assert!(whole(&world, 0, map.len()) >= 110, "{what}: {}", whole(&world, 0, map.len()));
            assert_eq!(world.bus.obstacles(0).count(), 0, "{what}");
        }
    }
}

/// Another master asks the same unit this often for as many registers, and is answered 50 ms after.
fn rival(world: &mut World, every: u64, quantity: u8, is_answered: bool) -> Rc<Cell<Duration>> {
    let busy = Rc::new(Cell::new(Duration::ZERO));
    for at in (every..600_000).step_by(every as usize) {
        let request = [1, 3, 0, 200, 0, quantity];
        world.inject(ms(at), &frame(&request));
        if is_answered {
            world.inject(ms(at + 50), &frame(&answer(&request)));
        }
    }
    let (clock, busy_until) = (world.clock(), busy.clone());
    world.behave(1, move |request| {
        // It is at the other's request then, and misses this one.
        let into = Duration::from_nanos(clock.get().as_nanos() as u64 % ms(every).as_nanos() as u64);
        if clock.get() > ms(every) && into < ms(60) { Vec::new() } else { support::meter(request) }
    });
    busy_until
}

#[test]
fn the_answer_to_another_masters_request_is_not_used_and_the_other_master_is_counted() {
    for (every, quantity, map, least) in [
        (230, 2, &[0, 1, 40, 41][..], 500),
        (1_070, 2, &[0, 1, 40, 41], 550),
        (1_070, 1, &[0, 40], 550),
        (1_070, 4, &[0, 1, 40, 41], 550),
        (930, 1, &[0], 550),
    ] {
        let what = format!("each {every} ms for {quantity}, {map:?}");
        let mut world = world(vec![with(1, map, 1_000, 300)]);
        rival(&mut world, every, quantity, true);
        world.run(10 * MINUTE);
        assert_eq!(exchanged(&world, 0), [], "{what}");
        assert!(whole(&world, 0, map.len()) >= least, "{what}: {}", whole(&world, 0, map.len()));
        assert!(world.bus.rivals() as u64 > 590_000 / every * 9 / 10, "{what}: {}", world.bus.rivals());
        assert_eq!(world.bus.state(0), Some(State::Up), "{what}");
    }
}

#[test]
fn another_master_whose_requests_are_not_answered_keeps_the_bus_from_asking_for_a_time_out_only() {
    let mut world = world(vec![with(2, &[0], 1_000, 300)]);
    for at in 0..6_000 {
        world.inject(ms(100 * at + 50), &frame(&[9, 3, 0, 0, 0, 1]));
    }
    world.run(9 * MINUTE);
    assert!(world.readings(0).len() >= 500, "{}", world.readings(0).len());
    assert_eq!(world.bus.strangers(), 0);
}

#[test]
fn another_master_that_asks_one_unit_costs_its_neighbours_no_request() {
    let mut world = world(vec![with(1, &[0], 1_000, 300), with(2, &[20], 1_000, 300)]);
    // It asks while the answer to the gateway is on its way, and the unit answers both.
    world.behave(1, |request| vec![(ms(100), frame(&answer(request)))]);
    for at in (10_050..600_000).step_by(5_000) {
        let request = [1, 3, 0, 200, 0, 1];
        world.inject(ms(at), &frame(&request));
        world.inject(ms(at + 20), &frame(&answer(&request)));
    }
    world.run(10 * MINUTE);
    let (own, other) = (world.bus.counters(0).unwrap(), world.bus.counters(1).unwrap());
    assert!(own.silent > 50, "{own:?}");
    // Each read is sent twice at first, until the line shows that it is in step.
    assert!((600..=603).contains(&other.requests), "{other:?}");
    assert_eq!((exchanged(&world, 0), exchanged(&world, 1)), (Vec::new(), Vec::new()));
}

#[test]
fn two_units_at_one_address_are_named_and_their_answers_kept_apart() {
    let mut world = world(vec![with(1, &[0, 1, 40, 41], 1_000, 300)]);
    world.behave(1, |request| {
        let mut other = request.to_vec();
        other[3] += 7;
        vec![(ms(5), frame(&answer(request))), (ms(20), frame(&answer(&other)))]
    });
    world.run(5 * MINUTE);
    assert!(exchanged(&world, 0).len() <= 3, "{:?}", exchanged(&world, 0));
    assert!(world.bus.surplus(0) > 100, "{}", world.bus.surplus(0));
    assert!(world.readings(0).len() >= 280, "{}", world.readings(0).len());
}

/// A unit that is asleep so long after its last request; the one that wakes it is lost.
fn asleep(world: &World, window: u64) -> impl FnMut(&[u8]) -> Answers + use<> {
    let clock = world.clock();
    let mut last = None;
    move |request| {
        let now = clock.get();
        let is_awake = last.replace(now).is_some_and(|last| now < last + ms(window));
        if is_awake { vec![(ms(20), frame(&answer(request)))] } else { Vec::new() }
    }
}

#[test]
fn a_unit_that_must_be_woken_by_a_request_is_read() {
    for map in [&[0][..], &[0, 40], &[0, 1, 40, 41], &[0, 1, 40, 41, 100]] {
        for (window, timeout, period) in [
            (500, 300, 5_000),
            (1_000, 300, 5_000),
            (1_000, 1_000, 5_000),
            (2_000, 1_000, 5_000),
            (2_500, 1_000, 10_000),
            (4_000, 1_000, 10_000),
            (8_000, 1_000, 10_000),
        ] {
            let what = format!("{map:?}, {window} ms, {timeout} ms, each {period} ms");
            let mut world = world(vec![with(1, map, period, timeout), unit(2)]);
            let behaviour = asleep(&world, window);
            world.behave(1, behaviour);
            world.run(10 * MINUTE);
            let polls = 600_000 / period as usize;
            assert!(whole(&world, 0, map.len()) >= polls * 8 / 10, "{what}: {}", whole(&world, 0, map.len()));
            assert_eq!(exchanged(&world, 0), [], "{what}");
            assert_eq!(world.bus.state(0), Some(State::Up), "{what}");
            assert!(world.readings(1).len() >= 580, "{what}: {}", world.readings(1).len());
        }
    }
}

#[test]
fn a_line_that_says_busy_so_soon_after_any_answer_is_given_the_silence_it_wants() {
    for rest in [50, 100, 150, 300] {
        let maps: [&[u16]; 3] = [&[0, 1, 40, 41], &[5, 50], &[6]];
        let mut units = Vec::new();
        for (address, map) in (1..).zip(maps) {
            units.push(with(address, map, 3_000, 1_000));
        }
        let mut world = world(units);
        let last = Rc::new(Cell::new(Duration::ZERO));
        for address in 1..=3 {
            let (clock, last) = (world.clock(), last.clone());
            world.behave(address, move |request| {
                let now = clock.get();
                let is_busy = now < last.get() + ms(rest);
                last.set(now + ms(30));
                let body = if is_busy { vec![request[0], request[1] | 0x80, 6] } else { answer(request) };
                vec![(ms(20), frame(&body))]
            });
        }
        world.run(2 * MINUTE);
        let before: Vec<usize> = (0..3).map(|unit| whole(&world, unit, maps[unit].len())).collect();
        world.run(8 * MINUTE);
        for unit in 0..3 {
            let count = whole(&world, unit, maps[unit].len()) - before[unit];
            assert!(count >= 155, "{rest} ms, {unit}: {count} of 160, {:?}", world.bus.rest(unit));
            assert_eq!(exchanged(&world, unit), []);
        }
        let pauses: Vec<Duration> = (0..3).map(|unit| world.bus.rest(unit)).collect();
        assert!(pauses.iter().any(|pause| *pause >= ms(rest.min(50))), "{rest}: {pauses:?}");
    }
}

#[test]
fn a_unit_that_was_busy_for_a_while_slows_no_other_and_is_asked_as_before_soon_after() {
    for busy in [6, 9, 15, 30, 60] {
        let units =
            vec![with(1, &[4, 5], 500, 200), with(2, &[4], 500, 200), with(3, &[0, 20, 40], 500, 200)];
        let mut world = world(units);
        let (clock, left) = (world.clock(), Cell::new(busy));
        world.behave(3, move |request| {
            let is_busy = clock.get() > 10 * SECOND && left.get() > 0;
            left.set(left.get() - u32::from(is_busy));
            let body = if is_busy { vec![request[0], request[1] | 0x80, 6] } else { answer(request) };
            vec![(ms(10), frame(&body))]
        });
        world.run(5 * MINUTE);
        // Nearly each poll of the others: for ten seconds the line is kept silent for the third.
        for unit in [0, 1] {
            assert!(world.readings(unit).len() >= 540, "{busy}, {unit}: {}", world.readings(unit).len());
            assert_eq!(world.bus.rest(unit), Duration::ZERO, "{busy}");
        }
        assert_eq!(world.bus.rest(2), Duration::ZERO, "{busy}");
        let before = whole(&world, 2, 3);
        world.run(MINUTE);
        assert!(whole(&world, 2, 3) - before >= 119, "{busy}: {}", whole(&world, 2, 3) - before);
    }
}

#[test]
fn a_unit_that_is_busy_for_ever_from_the_opening_costs_the_others_little() {
    for medium in ["a line", "Modbus TCP"] {
        for others in [&[&[4, 5][..], &[2, 20], &[1, 12, 25]][..], &[&[2, 20], &[2, 20], &[2, 20]], &[&[2]]] {
            let maps = others.iter().zip(2..).map(|(map, address)| with(address, map, 400, 200));
            let units: Vec<Unit> = std::iter::once(with(1, &[2, 20], 400, 200)).chain(maps).collect();
            let count = units.len();
            let mut whole = settings(units);
            whole.timeout = ms(200);
            let mut world = World::new(whole.clone());
            if medium == "Modbus TCP" {
                world.bus = Bus::new(whole, world.now, 7);
                world.bus.answers_are_numbered();
                world.bus.line_up(world.now);
            }
            world.behave(1, |request| vec![(ms(10), frame(&[request[0], request[1] | 0x80, 6]))]);
            world.run(MINUTE);
            let before: Vec<usize> = (1..count).map(|unit| world.readings(unit).len()).collect();
            world.run(2 * MINUTE);
            for (unit, before) in (1..count).zip(before) {
                let what = format!("{medium} {others:?}: unit {}", unit + 1);
                assert!(before >= 100, "{what}: {before} of 150");
                let after = world.readings(unit).len() - before;
                assert!(after >= 295, "{what}: {after} of 300");
            }
            assert_eq!(world.bus.rest(0), Duration::ZERO, "{medium} {others:?}");
        }
    }
}

#[test]
fn units_whose_values_are_alike_and_always_change_are_asked_a_second_time_at_once_and_that_is_told() {
    let float = || vec![register("v", Table::Holding, 0, Kind::F32)];
    let units: Vec<Unit> =
        (1..=10).map(|address| Unit { registers: float(), period: ms(1_000), ..unit(address) }).collect();
    let mut settings = settings(units);
    settings.speed = tombolo::proto::serial::modbus::frame::Speed { baud: 115_200, bits: 10 };
    let mut world = World::new(settings);
    let dice = Rc::new(RefCell::new(SplitMix64::new(5)));
    for address in 1..=10 {
        let dice = dice.clone();
        world.behave(address, move |request| {
            let noise = (dice.borrow_mut().next_u64() % 65_536) as f32 / 65_536.0;
            let body = [&[request[0], request[1], 4][..], &(230.0 + noise).to_be_bytes()].concat();
            vec![(ms(10), frame(&body))]
        });
    }
    world.run(2 * MINUTE);
    let count = |world: &World| (0..10).map(|unit| world.readings(unit).len()).sum::<usize>();
    let before = (count(&world), world.requests.len());
    world.run(MINUTE);
    // All of them, with two requests each.
    assert_eq!((count(&world) - before.0, world.requests.len() - before.1), (600, 1_200));
    assert!((0..10).all(|unit| world.bus.is_doubled(unit)));
}

#[test]
fn a_unit_that_is_busy_with_its_own_work_teaches_no_silence() {
    let mut world = world(vec![with(1, &[0, 40], 3_000, 1_000), unit(2)]);
    world.behave(1, |request| match request[3] {
        40 => vec![(ms(20), frame(&[1, 0x83, 6]))],
        _ => support::meter(request),
    });
    world.run(10 * MINUTE);
    assert_eq!(world.bus.rest(0), Duration::ZERO);
    assert_eq!(world.bus.obstacles(0).collect::<Vec<_>>(), [(1, Obstacle::Exception(Exception::BUSY))]);
}

#[test]
fn answers_that_are_always_one_register_longer_are_named_by_their_length_and_not_called_late() {
    for map in [&[0, 1, 40][..], &[0, 40], &[0, 1, 2, 40, 41, 80]] {
        let mut world = world(vec![with(1, map, 3_000, 1_000)]);
        world.behave(1, |request| {
            let mut longer = request.to_vec();
            longer[5] += 1;
            vec![(ms(20), frame(&answer(&longer)))]
        });
        world.run(5 * MINUTE);
        assert_eq!(world.readings(0), []);
        assert_eq!(world.bus.state(0), Some(State::Degraded), "{map:?}");
        let said = world.bus.failing(0).unwrap().to_string();
        assert!(said.contains("bytes where"), "{map:?}: {said}");
        assert_eq!(world.bus.counters(0).unwrap().late, 0, "{map:?}");
    }
}

/// How a converter hands answers on that come one request late.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Relayed {
    /// Each frame with the next request, as it is.
    Frames,
    /// The values of each, under the address and with the function of the next request.
    Values,
}

/// A converter before all units that is one request late from this time to that; `value`: what a
/// register of a unit has then.
fn relayed(
    world: &mut World,
    how: Relayed,
    (from, to): (Duration, Duration),
    value: fn(u8, u16, u64) -> u16,
) {
    // At the beginning it holds what an earlier process asked for.
    let kept = Rc::new(RefCell::new(from.is_zero().then(|| vec![1, 3, 2, 0xBA, 0xD0])));
    let addresses: Vec<u8> =
        (0..world.bus.unit_count()).map(|index| world.bus.unit(index).unwrap().address).collect();
    for address in addresses {
        let (clock, kept) = (world.clock(), kept.clone());
        world.behave(address, move |request| {
            let now = clock.get();
            let mut body = answer(request);
            for (at, word) in (u16::from(request[3])..).zip(body[3..].chunks_exact_mut(2)) {
                word.copy_from_slice(&value(request[0], at, now.as_millis() as u64).to_be_bytes());
            }
            if now < from || now >= to {
                kept.take();
                return vec![(ms(20), frame(&body))];
            }
            let mut before = kept.borrow_mut().replace(body);
            if how == Relayed::Values
                && let Some(before) = &mut before
            {
                before[..2].copy_from_slice(&request[..2]);
            }
            before.map(|before| (ms(20), frame(&before))).into_iter().collect()
        });
    }
}

/// The false values of a unit whose registers have a value that tells unit and register.
fn of_others(world: &World, unit: usize) -> Vec<(Duration, String)> {
    let address = world.bus.unit(unit).unwrap().address;
    let is_false = |payload: &String| {
        let values: serde_json::Value = serde_json::from_str(payload).unwrap();
        values.as_object().unwrap().iter().any(|(name, value)| {
            let at: u64 = name[1..].parse().unwrap();
            value.as_u64().unwrap() / 64 != u64::from(address) * 128 + at
        })
    };
    world.readings(unit).into_iter().filter(|(_, payload)| is_false(payload)).collect()
}

/// Unit and register, and nothing that changes.
fn still(unit: u8, at: u16, _: u64) -> u16 {
    (u16::from(unit) * 128 + at) * 64
}

/// The same, with seconds.
fn second(unit: u8, at: u16, now: u64) -> u16 {
    still(unit, at, now) + (now / 1_000 % 64) as u16
}

/// Maps of several units behind one converter: of one length, of single reads, of several lengths.
const SHARED: [&[&[u16]]; 5] = [
    &[&[0, 40], &[1, 60]],
    &[&[0], &[20]],
    &[&[0], &[0], &[0]],
    &[&[0, 1], &[20]],
    &[&[0, 1, 40], &[5], &[7, 8, 60]],
];

#[test]
fn a_converter_that_answers_one_request_late_under_the_next_units_address_exchanges_no_values() {
    for maps in SHARED {
        for (value, what) in [(still as fn(u8, u16, u64) -> u16, "still"), (second, "seconds")] {
            for (period, timeout) in [(3_000, 300), (3_000, 1_000), (1_000, 300)] {
                let units = (1..).zip(maps).map(|(at, map)| with(at, map, period, timeout)).collect();
                let mut world = world(units);
                relayed(&mut world, Relayed::Values, (40 * SECOND, Duration::MAX), value);
                world.run(10 * MINUTE);
                for (unit, map) in maps.iter().enumerate() {
                    let what = format!("{maps:?} {what} {period} {timeout} unit {unit}");
                    assert_eq!(of_others(&world, unit), [], "{what}");
                    let count = whole(&world, unit, map.len());
                    let polls = 600_000 / period as usize;
                    assert!(count >= polls * 7 / 10, "{what}: {count} of {polls}");
                    assert!(world.bus.is_one_behind(unit), "{what}");
                }
            }
        }
    }
}

#[test]
fn a_gateway_that_starts_before_such_a_converter_takes_no_answer_of_before_for_its_own() {
    for maps in SHARED {
        let units = (1..).zip(maps).map(|(at, map)| with(at, map, 3_000, 300)).collect();
        let mut world = world(units);
        relayed(&mut world, Relayed::Values, (Duration::ZERO, Duration::MAX), second);
        world.run(5 * MINUTE);
        for (unit, map) in maps.iter().enumerate() {
            assert_eq!(of_others(&world, unit), [], "{maps:?} unit {unit}");
            assert!(
                whole(&world, unit, map.len()) >= 70,
                "{maps:?} {unit}: {}",
                whole(&world, unit, map.len())
            );
        }
    }
}

#[test]
fn several_units_behind_a_converter_that_delivers_each_answer_with_the_next_request_are_read_and_named() {
    for maps in SHARED {
        for from in [Duration::ZERO, 40 * SECOND] {
            let units = (1..).zip(maps).map(|(at, map)| with(at, map, 3_000, 300)).collect();
            let mut world = world(units);
            relayed(&mut world, Relayed::Frames, (from, Duration::MAX), second);
            world.run(5 * MINUTE);
            let before: Vec<usize> =
                maps.iter().enumerate().map(|(unit, map)| whole(&world, unit, map.len())).collect();
            world.run(5 * MINUTE);
            for (unit, map) in maps.iter().enumerate() {
                let what = format!("{maps:?} from {from:?} unit {unit}");
                assert_eq!(of_others(&world, unit), [], "{what}");
                let count = whole(&world, unit, map.len()) - before[unit];
                assert!(count >= 80, "{what}: {count} of 100, {:?}", world.bus.failing(unit));
                assert!(world.bus.is_one_behind(unit), "{what}");
                // What came in place of an answer says nothing of the read.
                if maps == SHARED[0] && from.is_zero() {
                    assert!(
                        world.bus.learned(unit).unwrap().is_empty(),
                        "{what}: {:?}",
                        world.bus.learned(unit)
                    );
                }
                assert_eq!(world.bus.obstacles(unit).count(), 0, "{what}");
                assert_eq!(world.bus.state(unit), Some(State::Up), "{what}");
            }
        }
    }
}

#[test]
fn the_key_for_answers_of_another_length_is_not_advised_where_the_line_is_merely_late() {
    let mut misfits = 0;
    for (how, maps) in
        [Relayed::Frames, Relayed::Values].into_iter().flat_map(|how| SHARED.map(|maps| (how, maps)))
    {
        for from in [Duration::ZERO, 40 * SECOND] {
            for medium in [Medium::Line, Medium::Network, Medium::Header] {
                let units: Vec<Unit> = (1..).zip(maps).map(|(at, map)| with(at, map, 3_000, 300)).collect();
                let mut world = world(units.clone());
                world.bus = Bus::new(settings(units), world.now, 7);
                match medium {
                    Medium::Header => world.bus.answers_are_numbered(),
                    other => world.bus.is_behind(other),
                }
                world.bus.line_up(world.now);
                relayed(&mut world, how, (from, Duration::MAX), second);
                let what = format!("{how:?} {maps:?} from {from:?}, {medium:?}");
                for _ in 0..60 {
                    world.run(5 * SECOND);
                    for unit in 0..maps.len() {
                        let misfit = world.bus.failing(unit).and_then(|failing| failing.misfit);
                        let is_advised = misfit.is_some_and(|misfit| misfit.may_be_configured());
                        assert!(!is_advised, "{what}: {misfit:?}");
                    }
                }
                let advised = |event: &Event| matches!(event, Event::Misfit { is_configurable: true, .. });
                assert_eq!(world.count(advised), 0, "{what}");
                let is_of_length = |event: &Event| matches!(event, Event::Misfit { function, asked_function, .. } if function == asked_function);
                misfits += world.count(is_of_length);
            }
        }
    }
    assert!(misfits > 10, "answers of another length are among what comes late: {misfits}");
}

#[test]
fn the_key_for_answers_of_another_length_is_advised_on_a_line_with_others_that_is_in_step() {
    let mut world =
        world(vec![with(1, &[0, 40], 3_000, 300), with(2, &[5], 3_000, 300), with(3, &[7], 3_000, 300)]);
    world.behave(3, |request| vec![(ms(5), frame(&[&[request[0], 3, 12][..], &[0; 12]].concat()))]);
    world.run(5 * MINUTE);
    assert!(world.bus.failing(2).unwrap().misfit.unwrap().may_be_configured());
    assert!(world.count(|event| matches!(event, Event::Misfit { is_configurable: true, unit: 2, .. })) > 3);
}

#[test]
fn that_a_line_is_one_request_late_is_known_after_a_reload() {
    let units = || vec![with(1, &[0], 3_000, 300), with(2, &[0], 3_000, 300)];
    let mut world = world(units());
    relayed(&mut world, Relayed::Frames, (Duration::ZERO, Duration::MAX), second);
    world.run(5 * MINUTE);
    assert!(world.bus.is_one_behind(0) && world.bus.is_one_behind(1));
    let mut next = Bus::new(settings(units()), world.now, 7);
    next.adopt(&mut world.bus, world.now);
    assert!(next.is_one_behind(0) && next.is_one_behind(1));
}

#[test]
fn a_converter_before_several_units_that_is_in_step_again_is_asked_once_for_each_read() {
    for how in [Relayed::Frames, Relayed::Values] {
        for maps in SHARED {
            let units = (1..).zip(maps).map(|(at, map)| with(at, map, 3_000, 300)).collect();
            let mut world = world(units);
            relayed(&mut world, how, (40 * SECOND, 160 * SECOND), second);
            world.run(5 * MINUTE);
            let before = (world.requests.len(), world.readings(0).len());
            world.run(MINUTE);
            let blocks = |map: &&[u16]| map.windows(2).filter(|pair| pair[1] - pair[0] > 8).count() + 1;
            let all: usize = maps.iter().map(blocks).sum();
            assert_eq!(world.readings(0).len() - before.1, 20, "{how:?} {maps:?}");
            assert_eq!(world.requests.len() - before.0, 20 * all, "{how:?} {maps:?}");
            assert!(!world.bus.is_one_behind(0), "{how:?} {maps:?}");
            assert!((0..maps.len()).all(|unit| of_others(&world, unit).is_empty()), "{how:?} {maps:?}");
        }
    }
}

#[test]
fn a_unit_of_a_line_that_loses_an_answer_costs_its_good_neighbours_no_request_for_long() {
    let mut world =
        world(vec![with(1, &[0, 40], 2_000, 300), with(2, &[1, 60], 2_000, 300), with(3, &[5], 2_000, 300)]);
    relayed(&mut world, Relayed::Values, (Duration::MAX, Duration::MAX), second);
    world.run(MINUTE);
    // Dead from now on.
    world.behave(1, |_| Vec::new());
    world.run(10 * SECOND);
    let asked = |world: &World| world.requests.iter().filter(|(_, body)| body[0] != 1).count();
    let before = (asked(&world), world.readings(1).len(), world.readings(2).len());
    world.run(10 * MINUTE);
    assert_eq!((world.readings(1).len() - before.1, world.readings(2).len() - before.2), (300, 300));
    assert!(asked(&world) - before.0 <= 904, "{}", asked(&world) - before.0);
    assert_eq!((of_others(&world, 1), of_others(&world, 2)), (Vec::new(), Vec::new()));
}

#[test]
fn the_data_that_comes_after_the_timeout_behind_exception_5_or_6_is_that_of_the_read_it_was_asked_for() {
    for map in [&[0, 1, 40, 41][..], &[0, 40], &[0, 1, 40, 41, 100, 101], &[0]] {
        for (code, after, timeout, every) in [
            (5, 330, 300, 1),
            (6, 330, 300, 1),
            (5, 630, 300, 1),
            (5, 1_200, 1_000, 1),
            (6, 1_200, 1_000, 3),
            (5, 330, 300, 7),
        ] {
            let what = format!("{map:?}, {code}, {after} of {timeout} ms, every {every}");
            let mut world = world(vec![with(1, map, 5_000, timeout)]);
            world.behave(1, deferring(code, after, every));
            world.run(10 * MINUTE);
            assert_eq!(exchanged(&world, 0), [], "{what}");
            assert!(whole(&world, 0, map.len()) >= 60, "{what}: {}", whole(&world, 0, map.len()));
            assert_eq!(world.bus.obstacles(0).count(), 0, "{what}");
        }
    }
}

#[test]
fn what_is_owed_of_the_last_read_of_a_poll_is_not_taken_for_the_first_of_the_next() {
    for map in [&[0, 40][..], &[0, 40, 80]] {
        for period in [300, 400, 500, 700, 1_000, 1_500, 2_000] {
            for (after, every) in [(330, 1), (450, 1), (630, 1), (630, 5), (900, 1), (900, 3)] {
                let what = format!("{map:?}, each {period} ms, {after} ms, every {every}");
                let mut world = world(vec![with(1, map, period, 300)]);
                let (last, mut count) = (map[map.len() - 1], 0);
                world.behave(1, move |request| {
                    let whole = frame(&answer(request));
                    count += usize::from(u16::from(request[3]) == last);
                    if u16::from(request[3]) == last && count % every == 0 {
                        return vec![(ms(20), frame(&[1, request[1] | 0x80, 5])), (ms(after), whole)];
                    }
                    vec![(ms(20), whole)]
                });
                world.run(2 * MINUTE);
                assert_eq!(exchanged(&world, 0), [], "{what}");
            }
        }
    }
}

/// Readings of 300, of a line that loses so many of 100 bytes of the answers to one read.
fn corroded(map: &[u16], percent: u64, seed: u64) -> usize {
    let mut settings = settings(vec![with(1, map, 2_000, 200)]);
    (settings.timeout, settings.backoff_max) = (ms(200), SECOND);
    let mut world = World::new(settings);
    let mut dice = SplitMix64::new(seed);
    world.behave(1, move |request| {
        let whole = frame(&answer(request)).into_iter();
        let left: Vec<u8> = whole.filter(|_| dice.next_u64() % 100 >= percent).collect();
        if left.is_empty() { Vec::new() } else { vec![(ms(10), left)] }
    });
    world.run(10 * MINUTE);
    assert_eq!(exchanged(&world, 0), []);
    world.readings(0).len()
}

#[test]
fn a_unit_with_one_read_is_read_as_often_as_its_answers_come_whole_on_a_line_that_loses_bytes() {
    // Nine bytes are whole with 0.9, 0.85 and 0.8 to the ninth power: 39, 23 and 13 %. In 600 s
    // there are so many requests: 600 / (1.2 s · (1 − p) / p + 2 s) polls, of at least half that
    // are asked for.
    let count = |percent| (1..=5).map(|seed| corroded(&[4, 5], percent, seed)).collect::<Vec<_>>();
    let counts = [10, 15, 20].map(count);
    let least = counts.iter().map(|counts| counts.iter().min().copied().unwrap_or_default());
    assert!(least.zip([90, 38, 12]).all(|(count, least)| count >= least), "{counts:?}");
}

/// Whole readings of 200, of a line that loses so many of 100 answers.
fn lossy(map: &[u16], percent: u64, timeout: u64, backoff: u64, seed: u64) -> usize {
    let mut settings = settings(vec![with(1, map, 3_000, timeout), unit(2)]);
    (settings.timeout, settings.backoff) = (ms(timeout), ms(backoff));
    let mut world = World::new(settings);
    let mut dice = SplitMix64::new(seed);
    world.behave(
        1,
        move |request| {
            if dice.next_u64() % 100 < percent { Vec::new() } else { support::meter(request) }
        },
    );
    world.run(10 * MINUTE);
    assert_eq!(exchanged(&world, 0), []);
    whole(&world, 0, map.len())
}

#[test]
fn a_unit_with_one_read_is_read_on_although_the_line_loses_answers() {
    for (percent, timeout, least) in [(10, 1_000, 150), (20, 1_000, 120), (40, 1_000, 55), (30, 300, 150)] {
        for seed in 1..=16 {
            let count = lossy(&[0], percent, timeout, 1_000, seed);
            assert!(count >= least, "{percent} %, {timeout} ms, {seed}: {count} of 200");
        }
    }
}

#[test]
fn a_unit_whose_answers_count_registers_is_read_if_that_is_configured_and_told_if_not() {
    for is_configured in [false, true] {
        let mut counting = with(1, &[0, 1, 40], 3_000, 300);
        counting.registers.iter_mut().for_each(|register| register.counts_registers = is_configured);
        let mut world = world(vec![counting]);
        world.behave(1, |request| {
            let mut body = answer(request);
            body[2] /= 2;
            vec![(ms(20), frame(&body))]
        });
        world.run(MINUTE);
        if is_configured {
            assert_eq!((whole(&world, 0, 3), exchanged(&world, 0)), (20, Vec::new()));
        } else {
            assert_eq!(world.readings(0), []);
            let said = world.bus.failing(0).unwrap().to_string();
            assert!(said.contains("say that they have 1, as many as registers; set byte-count"), "{said}");
        }
    }
}
