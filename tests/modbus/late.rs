//! Answers that come after their time are never taken for another request's.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use tombolo::proto::serial::modbus::learn::{Learned, Obstacle};
use tombolo::proto::serial::modbus::map::Kind;
use tombolo::proto::serial::modbus::pdu::Table;
use tombolo::proto::serial::modbus::{Event, Settings};
use tombolo::splitmix::SplitMix64;

use crate::support::{World, answer, frame, ms, register, settings, unit};

/// The value of every register is the number of the request it answers, so a reading tells which
/// request it came from.
fn numbered(
    world: &mut World,
    address: u8,
    longest: u8,
    delay: impl Fn(u16) -> Option<Duration> + 'static,
) -> Rc<Cell<u16>> {
    let count = Rc::new(Cell::new(0u16));
    let shared = count.clone();
    world.behave(address, move |request| {
        shared.set(shared.get() + 1);
        let mut body =
            if request[5] > longest { vec![request[0], request[1] | 0x80, 2] } else { answer(request) };
        for word in body[3..].chunks_exact_mut(2) {
            word.copy_from_slice(&shared.get().to_be_bytes());
        }
        delay(shared.get()).map(|delay| (delay, frame(&body))).into_iter().collect()
    });
    count
}

/// Every reading came from the requests just before it, whatever the unit's delays are.
fn check(delays: &'static [u64], blocks: &[(&str, u16)]) {
    check_with(delays, blocks, 125);
}

/// The same with a unit that answers so many registers at once at most.
fn check_with(delays: &'static [u64], blocks: &[(&str, u16)], longest: u8) {
    let mut slow = unit(1);
    slow.registers =
        blocks.iter().map(|(name, address)| register(name, Table::Holding, *address, Kind::U16)).collect();
    let mut world = World::new(settings(vec![slow, unit(2)]));
    numbered(&mut world, 1, longest, |count| Some(ms(delays[usize::from(count) % delays.len()])));
    world.run(Duration::from_secs(200));
    // During the first one a block may still be taken apart.
    let readings: Vec<_> = world.asked.iter().filter(|(unit, ..)| *unit == 0).skip(1).collect();
    assert!(readings.len() > 5, "{}", readings.len());
    let requests: Vec<&[u8]> =
        world.requests.iter().filter(|(_, body)| body[0] == 1).map(|(_, body)| &body[..]).collect();
    for (_, asked, payload) in readings {
        let values: serde_json::Value = serde_json::from_str(payload).unwrap();
        for (name, address) in blocks {
            // After a failure a reading may come without the block that failed.
            let Some(value) = values.get(*name) else { continue };
            let number = value.as_u64().unwrap() as usize;
            let body = requests[number - 1];
            let first = u16::from_be_bytes([body[2], body[3]]);
            let span = first..first + u16::from_be_bytes([body[4], body[5]]);
            assert!(span.contains(address), "{payload}: request {number} was for {span:?}");
            // The blocks of one poll are the last requests, each sent twice in doubt.
            assert!(asked - number <= 2 * blocks.len(), "{payload}: {number} of {asked}");
        }
    }
    assert_eq!(world.readings(1).len(), 200, "the other unit is not disturbed");
}

#[test]
fn an_answer_later_than_its_time_out_is_not_used() {
    check(&[5, 5, 5, 5, 350], &[("a", 0)]);
}

#[test]
fn an_answer_later_than_several_back_offs_is_not_used() {
    check(&[5, 5, 5, 5, 2_500, 5, 5, 5, 5, 9_000], &[("a", 0)]);
}

#[test]
fn late_answers_in_a_row_are_not_used() {
    check(&[5, 5, 400, 400, 400, 5, 5, 5, 5], &[("a", 0)]);
    check(&[5, 5, 1_400, 1_400, 310, 1_400, 5, 5, 5, 5], &[("a", 0)]);
    check(&[5, 5, 5, 5, 5, 1_450, 5, 5, 5, 5], &[("a", 0)]);
}

#[test]
fn with_several_blocks_none_gets_anothers_answer() {
    check(&[5, 5, 5, 5, 1_300, 5, 5], &[("a", 0), ("b", 100), ("c", 200)]);
    check(&[5, 5, 5, 5, 350], &[("a", 0), ("b", 100), ("c", 200)]);
}

#[test]
fn after_a_block_was_taken_apart_the_probe_is_still_like_no_part() {
    const F: u64 = 5;
    for delays in [
        &[F, F, F, F, F, F, F, F, 350][..],
        &[F, F, F, F, F, F, F, F, F, F, F, F, F, 1_450, F, F, F],
        &[F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, 2_500],
        &[F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, 9_000],
    ] {
        check_with(delays, &[("a", 0), ("b", 1), ("c", 2)], 1);
    }
}

#[test]
fn a_late_answer_is_told_with_how_late_it_was() {
    let mut world = World::new(settings(vec![unit(1), unit(2)]));
    let count = numbered(&mut world, 1, 125, |count| Some(if count == 5 { ms(700) } else { ms(5) }));
    world.run(Duration::from_secs(10));
    assert!(count.get() > 10);
    let late: Vec<Duration> = world
        .events
        .iter()
        .filter_map(|(_, event)| match event {
            Event::Late { unit: 0, after } => Some(*after),
            _ => None,
        })
        .collect();
    let [after] = late[..] else { panic!("{late:?}") };
    assert!(after > ms(700) && after < ms(750), "{after:?}");
    assert_eq!(world.bus.counters(0).unwrap().late, 1);
    assert_eq!(world.bus.strangers(), 0);
}

#[test]
fn anothers_late_answer_does_not_end_the_waiting() {
    // Unit 1's answer comes while unit 2, which is slow but in time, is waited for.
    let mut world = World::new(settings(vec![unit(1), unit(2)]));
    numbered(&mut world, 1, 125, |count| Some(if count % 4 == 0 { ms(380) } else { ms(5) }));
    numbered(&mut world, 2, 125, |_| Some(ms(250)));
    world.run(Duration::from_secs(60));
    // In doubt it is sent its read twice, and the last answer comes after the minute.
    assert!(world.readings(1).len() >= 59);
    assert_eq!(world.bus.counters(1).unwrap().silent + world.bus.counters(1).unwrap().damaged, 0);
    assert!(world.bus.counters(0).unwrap().late > 5);
}

#[test]
fn what_was_asked_before_a_restart_is_not_used_after_it() {
    let mut world = World::new(settings(vec![unit(1)]));
    world.bus.line_down(world.now);
    world.bus.line_up(world.now);
    // Answers of the very shape the poll asks for come right after the port was opened, before the
    // first one of our own.
    world.inject(ms(2), &frame(&[1, 3, 2, 0xBA, 0xD0]));
    world.inject(ms(15), &frame(&[1, 3, 2, 0xBA, 0xD0]));
    world.run(Duration::from_secs(5));
    let payloads: Vec<String> = world.readings(0).into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(payloads, vec![r#"{"value":0}"#; 5]);
    assert_eq!(world.bus.strangers(), 2);
}

/// The registers of the maps below, each read alone: two or four with a shape in common.
const MAPS: [[bool; 4]; 3] = [[false; 4], [true, true, false, false], [true; 4]];
const ADDRESSES: [(&str, u64); 4] = [("a", 0), ("b", 40), ("c", 80), ("d", 120)];

/// How many values of these readings are those of other registers.
fn exchanged(readings: &[(Duration, String)], wide: [bool; 4]) -> usize {
    let of = |payload: &String| {
        let values: serde_json::Value = serde_json::from_str(payload).unwrap();
        let is_false = |((name, address), wide): &((&str, u64), bool)| {
            let expected = if *wide { address << 16 | (address + 1) } else { *address };
            values.get(*name).is_some_and(|value| value.as_u64() != Some(expected))
        };
        ADDRESSES.into_iter().zip(wide).filter(is_false).count()
    };
    readings.iter().map(|(_, payload)| of(payload)).sum()
}

/// A unit with one of [`MAPS`] that answers in order, and so many of 100 requests late by up to
/// `late_max` time-outs.
fn often_late(map: usize, period: u64, percent: u64, late_max: u64, seed: u64, default: bool) -> World {
    let mut slow = unit(1);
    let kind = |wide: bool| if wide { Kind::U32 } else { Kind::U16 };
    slow.registers = ADDRESSES
        .into_iter()
        .zip(MAPS[map])
        .map(|((name, address), wide)| register(name, Table::Holding, address as u16, kind(wide)))
        .collect();
    slow.period = ms(period);
    let mut settings = settings(vec![slow]);
    if default {
        settings.units[0].timeout = Duration::from_secs(1);
        (settings.timeout, settings.backoff) = (Settings::TIMEOUT, Settings::BACKOFF);
    }
    let timeout = settings.units[0].timeout.as_millis() as u64;
    let mut world = World::new(settings);
    let mut random = SplitMix64::new(seed);
    world.behave(1, move |request| {
        let is_late = random.next_u64() % 100 < percent;
        let late = timeout + random.next_u64() % (timeout * (late_max - 1));
        vec![(ms(if is_late { late } else { 3 }), frame(&answer(request)))]
    });
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// It may take up to six time-outs for an answer, each after the one before.
    #[test]
    fn a_unit_that_answers_in_order_and_often_late_never_has_its_values_exchanged(
        map in 0usize..3,
        period in 500u64..10_000,
        percent in 1u64..45,
        late_max in 2u64..7,
        seed in any::<u64>(),
        default in any::<bool>(),
    ) {
        let mut world = often_late(map, period, percent, late_max, seed, default);
        world.run(Duration::from_secs(2_000));
        let readings = world.readings(0);
        prop_assert_eq!(exchanged(&readings, MAPS[map]), 0, "{:?}", readings);
        prop_assert!(world.bus.counters(0).unwrap().late > 0 || percent < 10);
    }
}

#[test]
fn a_unit_that_is_now_and_then_late_is_read_all_the_same() {
    for map in 0..3 {
        let mut world = often_late(map, 10_000, 2, 5, 7, true);
        world.run(Duration::from_secs(36_000));
        let readings = world.readings(0);
        assert!(readings.len() > 3_000, "{map}: {}", readings.len());
    }
}

#[test]
fn an_answer_later_than_is_waited_for_costs_few_false_readings_as_it_is_noticed_by_the_one_left_over() {
    let (mut all, mut wrong, mut beyond) = (0, 0, 0);
    for seed in 0..40 {
        let mut world = often_late(0, 2_000, 3, 40, seed, false);
        world.run(Duration::from_secs(4_000));
        let readings = world.readings(0);
        let mut false_readings: Vec<usize> = Vec::new();
        for (at, reading) in readings.iter().enumerate() {
            if exchanged(std::slice::from_ref(reading), MAPS[0]) > 0 {
                false_readings.push(at);
            }
        }
        all += readings.len();
        wrong += false_readings.len();
        beyond += world.bus.counters(0).unwrap().silent;
        // They do not stay exchanged.
        let longest = false_readings.chunk_by(|a, b| a + 1 == *b).map(<[usize]>::len).max().unwrap_or(0);
        assert!(longest <= 2, "seed {seed}: {false_readings:?}");
    }
    println!("{wrong} false of {all} readings, {beyond} unanswered in time");
}

#[test]
fn a_read_that_is_always_answered_late_is_halved_and_named_if_it_is_one_register() {
    let mut slow = unit(1);
    slow.registers = (0..20).map(|at| register(&format!("r{at}"), Table::Holding, at, Kind::U16)).collect();
    slow.registers.push(register("slow", Table::Holding, 100, Kind::U16));
    let mut world = World::new(settings(vec![slow]));
    world.behave(1, |request| {
        let is_late = request[5] > 8 || request[3] == 100;
        vec![(ms(if is_late { 1_250 } else { 3 }), frame(&answer(request)))]
    });
    world.run(Duration::from_secs(300));
    let (_, last) = world.readings(0).pop().unwrap();
    assert_eq!(last.matches(':').count(), 20, "{last}");
    assert!(world.bus.learned(0).unwrap().widths().registers() <= 8);
    assert_eq!(world.bus.obstacles(0).collect::<Vec<_>>(), [(20, Obstacle::Late)]);
}

#[test]
fn noise_as_long_as_an_answer_before_a_late_one_does_not_exchange_the_values() {
    let mut slow = unit(1);
    slow.registers = ADDRESSES[..2]
        .iter()
        .map(|(name, address)| register(name, Table::Holding, *address as u16, Kind::U16))
        .collect();
    slow.period = Duration::from_secs(5);
    // The back-off is 1 s, twice as long after the first failure.
    for late in [1_050, 1_080, 1_150, 1_250, 2_050] {
        let mut world = World::new(settings(vec![slow.clone()]));
        let mut count = 0;
        world.behave(1, move |request| {
            count += 1;
            let whole = frame(&answer(request));
            if count % 7 == 0 {
                vec![(ms(3), vec![0x55; whole.len()]), (ms(late), whole)]
            } else {
                vec![(ms(3), whole)]
            }
        });
        world.run(Duration::from_secs(600));
        let readings = world.readings(0);
        assert!(readings.len() > 60, "{late}: {}", readings.len());
        assert_eq!(exchanged(&readings, MAPS[0]), 0, "{late}: {readings:?}");
    }
}

/// A unit that takes this long for each answer, with the registers of a map, asked once in 10 s.
fn always_late(map: usize, late: u64) -> World {
    with_timeout(map, late, false)
}

/// The same; `default`: with a timeout of a second.
fn with_timeout(map: usize, late: u64, default: bool) -> World {
    let mut world = often_late(map, 10_000, 0, 2, 7, default);
    world.behave(1, move |request| vec![(ms(late), frame(&answer(request)))]);
    world
}

#[test]
fn a_unit_whose_answers_always_come_after_the_timeout_is_read_once_that_is_learned() {
    let slow = [310, 450, 700, 900, 1_100].map(|late| (late, false));
    let slower = [1_100, 1_800, 2_500].map(|late| (late, true));
    for (late, default) in slow.into_iter().chain(slower) {
        for (map, pattern) in MAPS.into_iter().enumerate() {
            // Here an answer that comes to the next request has no number.
            for is_numbered in [false, !default] {
                let mut world = with_timeout(map, late, default);
                if is_numbered {
                    world.bus.answers_are_numbered();
                }
                world.run(Duration::from_secs(1_800));
                let readings = world.readings(0);
                let failing = world.bus.failing(0);
                // Four of the longest take a little more than a period.
                let least = if late > 2_000 { 85 } else { 150 };
                assert!(readings.len() >= least, "{late} {map}: {} {failing:?}", readings.len());
                assert_eq!(exchanged(&readings, pattern), 0, "{late} {map}");
                let learned = world.bus.learned(0).unwrap().timeout_ms;
                assert!(
                    learned > late && learned <= if default { 4_000 } else { 1_200 },
                    "{late} {map}: {learned}"
                );
                assert!(world.count(|event| *event == Event::Learned { unit: 0 }) >= 1);
                assert_eq!(world.bus.obstacles(0).count(), 0);
                assert!(readings.iter().rev().take(100).all(|(_, last)| last.matches(':').count() == 4));
            }
        }
    }
}

#[test]
fn one_read_whose_answer_is_always_late_is_waited_for() {
    for is_numbered in [false, true] {
        let mut slow = unit(1);
        slow.period = Duration::from_secs(5);
        slow.registers = vec![
            register("a", Table::Holding, 0, Kind::U16),
            register("b", Table::Holding, 40, Kind::U16),
            register("c", Table::Holding, 80, Kind::U32),
        ];
        let mut world = World::new(settings(vec![slow]));
        if is_numbered {
            world.bus.answers_are_numbered();
        }
        world
            .behave(1, |request| vec![(ms(if request[3] == 40 { 600 } else { 3 }), frame(&answer(request)))]);
        world.run(Duration::from_secs(600));
        let readings = world.readings(0);
        let last: Vec<_> = readings.iter().rev().take(80).map(|(_, payload)| payload.as_str()).collect();
        assert!(last.iter().all(|last| *last == r#"{"a":0,"b":40,"c":5242961}"#), "{last:?}");
        assert_eq!(last.len(), 80);
    }
}

#[test]
fn answers_later_than_the_longest_wait_are_named_with_both() {
    let mut world = always_late(0, 1_250);
    world.run(Duration::from_secs(300));
    assert_eq!(world.readings(0), []);
    let said = world.bus.failing(0).unwrap().to_string();
    assert!(said.contains("later than the longest wait (1200 ms); raise timeout, to 1900ms"), "{said}");
    assert_eq!(world.bus.learned(0).unwrap().timeout_ms, 0);
}

#[test]
fn a_wait_that_was_learned_is_kept_over_a_restart_and_forgotten_when_told_to() {
    let mut world = always_late(0, 900);
    world.run(Duration::from_secs(300));
    let learned = world.bus.learned(0).unwrap();
    assert!(!learned.is_empty());
    let mut again = always_late(0, 900);
    let now = again.now;
    again.bus.recall(now, |_| Some(learned.clone()));
    again.run(Duration::from_secs(100));
    assert_eq!(again.bus.counters(0).unwrap().silent, 0);
    assert!(again.readings(0).len() >= 9);
    let now = again.now;
    assert!(again.bus.relearn(now, 0));
    assert!(again.bus.learned(0).unwrap().is_empty());
    // A file says no more than what could have been learned.
    let mut other = always_late(0, 5);
    let now = other.now;
    let false_one = Learned { timeout_ms: 600_000, ..Learned::default() };
    other.bus.recall(now, |_| Some(false_one.clone()));
    assert_eq!(other.bus.learned(0).unwrap().timeout_ms, 1_200);
}

#[test]
fn a_unit_that_is_gone_is_waited_for_no_longer_than_is_configured() {
    let mut world = always_late(0, 900);
    world.run(Duration::from_secs(300));
    assert!(world.bus.learned(0).unwrap().timeout_ms > 900);
    world.behave(1, |_| Vec::new());
    let before = world.requests.len();
    world.run(Duration::from_secs(300));
    let failed: Vec<Duration> = world
        .events
        .iter()
        .filter(|(at, event)| matches!(event, Event::Failed { .. }) && *at > Duration::from_secs(300))
        .map(|(at, _)| *at)
        .collect();
    let waits: Vec<Duration> =
        world.requests[before..].iter().zip(&failed).map(|((asked, _), failed)| *failed - *asked).collect();
    assert!(waits.len() > 5 && waits[..3].iter().all(|wait| *wait > ms(900)), "{waits:?}");
    assert!(waits[3..].iter().all(|wait| *wait < ms(350)), "{waits:?}");
    // It is there again, and as slow as before.
    world.behave(1, |request| vec![(ms(900), frame(&answer(request)))]);
    let before = world.readings(0).len();
    world.run(Duration::from_secs(300));
    assert!(world.readings(0).len() > before + 15);
}

#[test]
fn an_answer_that_is_late_now_and_then_does_not_make_the_wait_longer() {
    let mut world = World::new(settings(vec![unit(1)]));
    let mut count = 0;
    world.behave(1, move |request| {
        count += 1;
        vec![(ms(if count % 5 == 0 { 450 } else { 5 }), frame(&answer(request)))]
    });
    world.run(Duration::from_secs(600));
    assert!(world.bus.counters(0).unwrap().late > 50);
    assert_eq!(world.bus.learned(0).unwrap().timeout_ms, 0);
}

#[test]
fn an_answer_within_the_timeout_that_noise_kept_from_being_used_does_not_make_the_wait_longer() {
    let mut world = World::new(settings(vec![unit(1)]));
    world.behave(1, |request| {
        let whole = frame(&answer(request));
        vec![(ms(3), vec![0x55; whole.len()]), (ms(150), whole)]
    });
    world.run(Duration::from_secs(600));
    let counters = world.bus.counters(0).unwrap();
    assert!(counters.late > 5 && counters.damaged > 5, "{counters:?}");
    assert_eq!(world.bus.learned(0).unwrap().timeout_ms, 0);
}

#[test]
fn an_answer_that_may_be_for_an_earlier_request_does_not_end_a_row_of_late_ones() {
    let mut world = World::new(settings(vec![unit(1)]));
    // The first comes late, before the second request; that to the second in time for the third,
    // for which it may be; that to the third late again.
    let delays = [700, 2_400, 600];
    let mut count = 0;
    world.behave(1, move |request| {
        count += 1;
        vec![(ms(delays.get(count - 1).copied().unwrap_or(5)), frame(&answer(request)))]
    });
    world.run(Duration::from_secs(6));
    let bus = world.bus.counters(0).unwrap();
    assert!(bus.silent == bus.late && bus.late >= 2, "{bus:?}");
    let learned = world.bus.learned(0).unwrap().timeout_ms;
    assert!((900..=1_200).contains(&learned), "two late answers, none that is surely in time: {learned}");
}

#[test]
fn after_a_restart_a_late_answer_is_not_taken_for_another_registers() {
    for after in [5, 30, 200, 500] {
        let mut two = unit(1);
        two.registers =
            vec![register("a", Table::Holding, 10, Kind::U16), register("b", Table::Holding, 60, Kind::U16)];
        let mut world = World::new(settings(vec![two]));
        world.behave(1, |request| vec![(ms(200), frame(&answer(request)))]);
        // The earlier process asked for the other one.
        world.inject(ms(after), &frame(&[1, 3, 2, 0, 60]));
        world.run(Duration::from_secs(20));
        let readings = world.readings(0);
        assert!(readings.len() >= 18, "{after}: {readings:?}");
        assert!(readings.iter().all(|(_, payload)| payload == r#"{"a":10,"b":60}"#), "{after}: {readings:?}");
    }
}

#[test]
fn a_read_that_was_answered_in_time_and_is_not_any_more_is_waited_for_soon() {
    let mut slow = unit(1);
    slow.period = Duration::from_secs(2);
    slow.registers = vec![
        register("a", Table::Holding, 0, Kind::U16),
        register("b", Table::Holding, 40, Kind::U16),
        register("c", Table::Holding, 80, Kind::U32),
    ];
    let mut world = World::new(settings(vec![slow]));
    world.run(Duration::from_secs(60));
    world.behave(1, |request| vec![(ms(if request[3] == 40 { 600 } else { 3 }), frame(&answer(request)))]);
    world.run(Duration::from_secs(20));
    let before = world.readings(0).len();
    world.run(Duration::from_secs(60));
    let readings = world.readings(0);
    assert!(readings.len() >= before + 29);
    assert!(readings[before..].iter().all(|(_, payload)| payload.contains("\"b\":40")), "{readings:?}");
}
