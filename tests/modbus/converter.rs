//! Converters in the network as they are found: one that misses a request that comes too soon, one
//! that gives up for a dead unit with an exception that units send, too, and one behind which a
//! register is refused for good.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tombolo::proto::serial::modbus::bus::{Medium, State};
use tombolo::proto::serial::modbus::map::Kind;
use tombolo::proto::serial::modbus::pdu::Table;
use tombolo::proto::serial::modbus::settings::Unit;
use tombolo::proto::serial::modbus::{Bus, Settings};

use crate::support::{World, frame, ms, register, settings, unit};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const NETWORK: [Medium; 3] = [Medium::Header, Medium::Network, Medium::Unnumbered];

type Answers = Vec<(Duration, Vec<u8>)>;

/// A unit with these holding registers, one each.
fn with(address: u8, registers: &[u16], timeout: Duration, period: Duration) -> Unit {
    let named = |at: &u16| register(&format!("r{at}"), Table::Holding, *at, Kind::U16);
    let registers = registers.iter().map(named).collect();
    Unit { registers, timeout, period, ..unit(address) }
}

fn behind(medium: Medium, settings: Settings) -> World {
    let mut world = World::new(settings.clone());
    world.bus = Bus::new(settings, world.now, 7);
    match medium {
        Medium::Header => world.bus.answers_are_numbered(),
        other => world.bus.is_behind(other),
    }
    world.bus.line_up(world.now);
    world
}

/// What a register holds: its unit and address, and a number that changes each two seconds.
fn value(now: Duration, unit: u8, at: u16) -> u16 {
    u16::from(unit) << 13 | (at & 0x3f) << 7 | u16::try_from(now.as_secs() / 2 % 128).unwrap()
}

/// The right answer's body.
fn body(now: Duration, request: &[u8]) -> Vec<u8> {
    let at = u16::from_be_bytes([request[2], request[3]]);
    let quantity = u16::from_be_bytes([request[4], request[5]]);
    let words = (at..at + quantity).flat_map(|at| value(now, request[0], at).to_be_bytes());
    [&[request[0], request[1], (2 * quantity) as u8][..], &words.collect::<Vec<u8>>()].concat()
}

fn asks_for(request: &[u8], at: u16) -> bool {
    let first = u16::from_be_bytes([request[2], request[3]]);
    let quantity = u16::from_be_bytes([request[4], request[5]]);
    (first..first + quantity).contains(&at)
}

/// Readings of the units, and those with a value that is none of its register's.
fn judged(world: &World, units: &[u8]) -> Vec<(usize, usize)> {
    let of = |index: usize| {
        let readings = world.readings(index);
        let is_wrong = |text: &String| {
            let values: std::collections::BTreeMap<String, u16> = serde_json::from_str(text).unwrap();
            values.iter().any(|(name, value)| {
                let at: u16 = name[1..].parse().unwrap();
                value >> 7 != u16::from(units[index]) << 6 | at
            })
        };
        (readings.len(), readings.iter().filter(|(_, text)| is_wrong(text)).count())
    };
    (0..units.len()).map(of).collect()
}

/// The requests to this unit.
fn asked(world: &World, unit: u8) -> usize {
    world.requests.iter().filter(|(_, body)| body[0] == unit).count()
}

/// Units behind a converter that misses each request that comes sooner than so long after an
/// answer; and how many it has missed.
fn resting(world: &mut World, units: &[u8], rest: Duration) -> Rc<Cell<usize>> {
    let (last, missed) = (Rc::new(Cell::new(None::<Duration>)), Rc::new(Cell::new(0)));
    for address in units {
        let (clock, last, missed) = (world.clock(), last.clone(), missed.clone());
        world.behave(*address, move |request| -> Answers {
            let now = clock.get();
            if last.get().is_some_and(|last| now < last + rest) {
                missed.set(missed.get() + 1);
                return Vec::new();
            }
            let answer = frame(&body(now, request));
            // As long as the line of this world takes.
            let speed = crate::support::SPEED;
            last.set(Some(now + speed.characters(8) + ms(4) + speed.characters(answer.len())));
            vec![(ms(4), answer)]
        });
    }
    missed
}

#[test]
fn behind_a_converter_in_the_network_the_rest_that_a_line_wants_is_found_out_and_kept_for_each_request() {
    let map: Vec<u16> = (0..8).map(|at| 2 * at).collect();
    // A gateway of Modbus TCP keeps the pauses of its line itself.
    for medium in [Medium::Network] {
        for (timeout, period, backoff) in
            [(ms(200), ms(500), ms(200)), (SECOND, SECOND, ms(200)), (ms(300), 2 * SECOND, SECOND)]
        {
            for rest in [ms(30), ms(60), ms(90)] {
                let what = format!("{medium:?} {timeout:?} {period:?} {rest:?}");
                let units = vec![with(1, &map, timeout, period), with(2, &map, timeout, period)];
                let wanted = Settings { backoff, backoff_max: 2 * SECOND, timeout, ..settings(units) };
                let mut world = behind(medium, wanted);
                let missed = resting(&mut world, &[1, 2], rest);
                world.run(MINUTE);
                assert!((0..2).all(|unit| !world.bus.is_one_behind(unit)), "{what}");
                let (before, lost) = (judged(&world, &[1, 2]), missed.get());
                world.run(MINUTE);
                let after = judged(&world, &[1, 2]);
                let polls = (MINUTE.as_millis() / period.as_millis()) as usize;
                for (unit, ((count, wrong), (earlier, _))) in after.iter().zip(&before).enumerate() {
                    assert_eq!(*wrong, 0, "{what}");
                    let readings = count - earlier;
                    assert!(readings * 100 >= polls * 95, "{what} unit {unit}: {readings} of {polls}");
                    assert_eq!(world.bus.state(unit), Some(State::Up), "{what}");
                    assert!(!world.bus.is_doubled(unit), "{what}");
                }
                assert!(missed.get() <= lost + 1, "{what}: {} missed", missed.get() - lost);
            }
        }
    }
}

/// Behaves like a gateway that waits for a dead unit and gives up with this exception.
fn dead(world: &mut World, address: u8, patience: Duration, exception: u8) {
    world
        .behave(address, move |request| vec![(patience, frame(&[request[0], request[1] | 0x80, exception]))]);
}

/// Answers at once, but to reads of one register.
fn refusing(world: &mut World, address: u8, at: Option<u16>, exception: u8) {
    let clock = world.clock();
    world.behave(address, move |request| {
        let own = body(clock.get(), request);
        match at.is_some_and(|at| asks_for(request, at)) {
            true => vec![(ms(10), frame(&[request[0], request[1] | 0x80, exception]))],
            false => vec![(ms(10), frame(&own))],
        }
    });
}

#[test]
fn a_dead_unit_for_which_a_gateway_gives_up_is_backed_off_from_whatever_the_exception() {
    let map: Vec<u16> = (0..6).map(|at| 12 * at).collect();
    for medium in NETWORK {
        for exception in [4, 6, 10, 11] {
            for died in [Duration::ZERO, 20 * SECOND] {
                let what = format!("{medium:?} {exception} {died:?}");
                let units = (1..=3).map(|unit| with(unit, &map, SECOND, 2 * SECOND)).collect();
                let mut world = behind(medium, settings(units));
                (1..=3).for_each(|unit| refusing(&mut world, unit, None, 0));
                world.run(died);
                dead(&mut world, 3, ms(900), exception);
                world.run(MINUTE);
                let before = (asked(&world, 3), judged(&world, &[1, 2, 3]));
                world.run(5 * MINUTE);
                let requests = asked(&world, 3) - before.0;
                // The back-off has come to a minute.
                assert!((3..=8).contains(&requests), "{what}: {requests}");
                let after = judged(&world, &[1, 2, 3]);
                assert!(after.iter().all(|(_, wrong)| *wrong == 0), "{what}: {after:?}");
                for (after, before) in after.iter().zip(&before.1).take(2) {
                    let readings = after.0 - before.0;
                    assert!(readings >= 140, "{what}: {readings}");
                }
                let state = world.bus.state(2).unwrap();
                assert!(matches!(state, State::Down | State::Degraded), "{what}: {state:?}");
                let said = world.bus.failing(2).unwrap().to_string();
                assert!(said.contains(&format!("exception {exception}")), "{what}: {said}");
                // It is there again.
                refusing(&mut world, 3, None, 0);
                world.run(2 * MINUTE);
                let again = judged(&world, &[1, 2, 3])[2];
                assert!(again.0 - after[2].0 >= 25, "{what}: {again:?}");
                assert_eq!((again.1, world.bus.state(2)), (0, Some(State::Up)), "{what}");
                assert_eq!(world.bus.obstacles(2).count(), 0, "{what}");
            }
        }
    }
}

#[test]
fn a_unit_that_refuses_one_read_as_a_gateway_does_for_a_dead_one_is_read_without_it() {
    for medium in NETWORK {
        for exception in [4, 6] {
            for map in [vec![0, 2, 4, 6], vec![0, 20, 40, 60], vec![6, 7, 8, 40]] {
                let what = format!("{medium:?} {exception} {map:?}");
                let refused = map[0];
                let units = (1..=2).map(|unit| with(unit, &map, SECOND, 2 * SECOND)).collect();
                let mut world = behind(medium, settings(units));
                refusing(&mut world, 1, Some(refused), exception);
                refusing(&mut world, 2, None, 0);
                world.run(2 * MINUTE);
                let before = judged(&world, &[1, 2]);
                world.run(MINUTE);
                let after = judged(&world, &[1, 2]);
                for unit in 0..2 {
                    let readings = after[unit].0 - before[unit].0;
                    // A unit that says that it is busy is asked again after a while.
                    let least = if exception == 6 { 8 } else { 28 };
                    assert!(readings >= least, "{what} unit {unit}: {readings}");
                }
                assert_eq!((after[0].1, after[1].1), (0, 0), "{what}");
                let left: Vec<usize> = world.bus.obstacles(0).map(|(register, _)| register).collect();
                assert_eq!((left, world.bus.state(0)), (vec![0], Some(State::Up)), "{what}");
                let (_, text) = world.readings(0).pop().unwrap();
                assert_eq!(text.matches(':').count(), map.len() - 1, "{what}: {text}");
            }
        }
    }
}

#[test]
fn a_register_that_is_refused_for_good_costs_the_line_no_second_request() {
    for medium in NETWORK {
        for exception in [1, 2, 3] {
            for map in [vec![0, 20], vec![0, 2, 4, 6, 8, 10]] {
                let what = format!("{medium:?} {exception} {map:?}");
                let units = (1..=3).map(|unit| with(unit, &map, SECOND, SECOND)).collect();
                let mut world = behind(medium, settings(units));
                refusing(&mut world, 1, Some(map[1]), exception);
                (2..=3).for_each(|unit| refusing(&mut world, unit, None, 0));
                world.run(MINUTE);
                let before = (1..=3).map(|unit| asked(&world, unit)).collect::<Vec<_>>();
                let read = judged(&world, &[1, 2, 3]);
                world.run(2 * MINUTE);
                for unit in 0..3_usize {
                    let requests = asked(&world, unit as u8 + 1) - before[unit];
                    // Of the first all registers are read alone, or both.
                    let each = match (unit, map.len()) {
                        (_, 2) => 2,
                        (0, count) => count,
                        _ => 1,
                    };
                    assert!(requests <= 120 * each + 10, "{what} unit {unit}: {requests}");
                    let readings = judged(&world, &[1, 2, 3])[unit];
                    assert!(readings.0 - read[unit].0 >= 119, "{what} unit {unit}: {readings:?}");
                    assert_eq!(readings.1, 0, "{what}");
                    assert!(!world.bus.is_doubled(unit), "{what}");
                }
            }
        }
    }
}

/// Answers so often, each so long after the one before, at each request or at each eleventh only,
/// and takes the next request then.
fn repeating(world: &mut World, address: u8, times: u64, apart: Duration, is_each: bool) {
    let clock = world.clock();
    let mut count = 0;
    world.behave(address, move |request| {
        count += 1;
        let answer = frame(&body(clock.get(), request));
        let times = if is_each || count % 11 == 7 { times } else { 1 };
        (0..times).map(|copy| (ms(4) + apart * copy as u32, answer.clone())).collect()
    });
}

#[test]
fn answers_that_come_several_times_are_none_to_other_reads_and_are_named() {
    for medium in [Medium::Line, Medium::Network, Medium::Unnumbered] {
        for times in [2, 3] {
            for apart in [Duration::ZERO, ms(50), ms(200)] {
                for is_each in [true, false] {
                    let what = format!("{medium:?} {times} {apart:?} {is_each}");
                    let map = [0, 20, 40];
                    let units = (1..=2).map(|unit| with(unit, &map, SECOND, 3 * SECOND)).collect();
                    let mut world = behind(medium, settings(units));
                    (1..=2).for_each(|unit| repeating(&mut world, unit, times, apart, is_each));
                    world.run(5 * MINUTE);
                    for (unit, (count, wrong)) in judged(&world, &[1, 2]).into_iter().enumerate() {
                        assert_eq!(wrong, 0, "{what} unit {unit}");
                        // Three reads with their copies take longer than a period.
                        let least = if apart == ms(200) { 40 } else { 80 };
                        assert!(count >= least, "{what} unit {unit}: {count}");
                        let (named, copies) = world.bus.copied(unit).expect(&what);
                        assert_eq!(u64::from(named), times, "{what}");
                        assert!(copies >= 3, "{what}: {copies}");
                        assert_eq!(world.bus.surplus(unit), 0, "{what}");
                        assert_eq!(world.bus.state(unit), Some(State::Up), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn copies_under_the_number_of_an_earlier_request_are_named_as_copies() {
    let map = [0, 20];
    let mut world = behind(Medium::Header, settings(vec![with(1, &map, SECOND, SECOND)]));
    refusing(&mut world, 1, None, 0);
    for _ in 0..4 {
        world.run(SECOND);
        let (_, request) = world.requests.last().unwrap().clone();
        let copy = frame(&body(world.elapsed() - ms(600), &request));
        world.bus.handle_late(world.now, &copy);
    }
    assert_eq!(world.bus.copied(0).map(|(times, _)| times), Some(2));
    assert_eq!(world.bus.surplus(0), 0);
}

#[test]
fn a_read_without_an_answer_is_named_where_the_only_other_one_is_refused_for_good() {
    for medium in NETWORK {
        for units in 1..=2 {
            let what = format!("{medium:?} {units}");
            let all = (1..=units).map(|unit| with(unit, &[2, 40], ms(200), ms(300))).collect();
            let mut world = behind(medium, settings(all));
            (1..=units).for_each(|unit| {
                world.behave(unit, |request| match asks_for(request, 2) {
                    true => Vec::new(),
                    false => vec![(ms(10), frame(&[request[0], request[1] | 0x80, 2]))],
                });
            });
            world.run(MINUTE);
            for unit in 0..usize::from(units) {
                let left: BTreeSet<usize> = world.bus.obstacles(unit).map(|(register, _)| register).collect();
                assert!(left.iter().eq(&[0, 1]), "{what}, unit {unit}: {left:?}");
                assert_eq!(world.bus.state(unit), Some(State::Degraded), "{what}");
            }
        }
    }
}
