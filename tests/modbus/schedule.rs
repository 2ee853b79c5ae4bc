//! Whose turn it is: periods, jitter, rate limit, and units that do not answer.

use std::time::Duration;

use proptest::prelude::*;
use tombolo::proto::serial::modbus::bus::State;
use tombolo::proto::serial::modbus::map::Kind;
use tombolo::proto::serial::modbus::pdu::Table;
use tombolo::proto::serial::modbus::settings::Unit;
use tombolo::proto::serial::modbus::{Event, Failure};

use crate::support::{World, answer, frame, meter, ms, register, settings, unit};

const SECOND: Duration = Duration::from_secs(1);

fn silent(_: &[u8]) -> Vec<(Duration, Vec<u8>)> {
    Vec::new()
}

/// When units were asked, and what: a request that is sent once more within its time-out, to wake
/// the unit, is none of its own.
fn turns(world: &World) -> Vec<(Duration, &[u8])> {
    let mut turns: Vec<(Duration, &[u8])> = Vec::new();
    for (at, body) in &world.requests {
        let is_repeat = turns.last().is_some_and(|(before, same)| *same == body && *at < *before + ms(150));
        if !is_repeat {
            turns.push((*at, body));
        }
    }
    turns
}

#[test]
fn each_unit_is_polled_in_its_own_period_for_a_day_without_drift() {
    let mut slow = unit(2);
    slow.period = Duration::from_secs(60);
    let mut world = World::new(settings(vec![unit(1), slow]));
    world.run(Duration::from_secs(86_400));
    let readings = world.readings(0);
    assert_eq!(readings.len(), 86_400);
    assert_eq!(world.readings(1).len(), 1_440);
    for (second, (at, payload)) in readings.iter().enumerate() {
        let slot = SECOND * second as u32;
        assert!(*at >= slot && *at < slot + ms(150), "{second}: {at:?}");
        assert_eq!(payload, r#"{"value":0}"#);
    }
    assert_eq!(world.bus.counters(0).unwrap().skipped, 0);
}

#[test]
fn ten_units_of_which_three_are_dead_keep_the_live_ones_in_their_period() {
    let mut world = World::new(settings((1..=10).map(unit).collect()));
    let dead = [2u8, 5, 9];
    dead.iter().for_each(|address| world.behave(*address, silent));
    world.run(Duration::from_secs(600));
    for index in (0..10).filter(|index| !dead.contains(&(*index as u8 + 1))) {
        let readings = world.readings(index);
        // The first round meets each dead unit once, which takes the last ones a period; from then
        // on the dead get their turn in the free time of the bus only.
        assert!(readings.len() >= 599, "unit {index}: {}", readings.len());
        let settled = readings.iter().filter(|(at, _)| *at > Duration::from_secs(5));
        for (at, _) in settled {
            let within = Duration::from_nanos(at.as_nanos() as u64 % SECOND.as_nanos() as u64);
            assert!(within < ms(300), "unit {index} at {at:?}");
        }
    }
    for address in dead {
        let index = usize::from(address) - 1;
        assert_eq!(world.bus.state(index), Some(State::Down));
        // 1 + 2 + 4 + 8 + 16 + 32 + 60 + 60 + …: the back-off doubles up to its bound.
        let asked: Vec<Duration> =
            turns(&world).iter().filter(|(_, body)| body[0] == address).map(|(at, _)| *at).collect();
        assert!((14..=16).contains(&asked.len()), "{asked:?}");
        for (step, pair) in asked.windows(2).enumerate() {
            let backoff = SECOND * 2u32.pow(step as u32).min(60);
            let waited = pair[1] - pair[0];
            assert!(waited >= backoff && waited < backoff + 3 * SECOND, "{step}: {waited:?}");
        }
    }
    let downs = world.count(|event| matches!(event, Event::Down { failure: Failure::Silent, .. }));
    assert_eq!(downs, 3, "going down is told once each");
}

#[test]
fn on_a_full_bus_the_dead_cost_the_live_one_time_out_a_cycle() {
    // Seven live units ask for more than the line carries, so nothing is ever free.
    let units: Vec<_> = (1..=10)
        .map(|address| {
            let mut unit = unit(address);
            unit.period = ms(150);
            unit
        })
        .collect();
    let mut settings = settings(units);
    settings.backoff_max = SECOND;
    let mut world = World::new(settings);
    for address in [2, 5, 9] {
        world.behave(address, silent);
    }
    world.run(Duration::from_secs(300));
    let is_dead = |body: &[u8]| [2, 5, 9].contains(&body[0]);
    let requests: Vec<_> = turns(&world).into_iter().filter(|(at, _)| *at > Duration::from_secs(5)).collect();
    let mut live_since = std::collections::BTreeSet::new();
    let mut turns = 0;
    for (at, body) in &requests {
        if !is_dead(body) {
            live_since.insert(body[0]);
            continue;
        }
        assert!(turns == 0 || live_since.len() == 7, "at {at:?} only {live_since:?} had their turn before");
        live_since.clear();
        turns += 1;
    }
    // Neither are the dead forgotten.
    assert!(turns > 200, "{turns}");
    let live = world.bus.counters(0).unwrap();
    assert!(live.polls > 500 && live.skipped > 500, "{live:?}");
    assert!((1_990..=2_010).contains(&(live.polls + live.skipped)), "{live:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever dies and comes back when: a unit that answers is never asked later than the others'
    /// own turns and two time-outs after it was due, once the dead are known; and a unit that is
    /// alive at the end is up at the end.
    #[test]
    fn the_dead_never_delay_the_living(
        periods in proptest::collection::vec(2u64..20, 2..12),
        deaths in proptest::collection::vec((0usize..12, 0u64..60, 1u64..60), 0..20),
        jitter in 0u64..50,
    ) {
        let count = periods.len();
        let units = periods.iter().enumerate().map(|(index, period)| {
            let mut unit = unit(index as u8 + 1);
            (unit.period, unit.jitter) = (ms(period * 500), ms(jitter));
            unit
        });
        let mut settings = settings(units.collect());
        settings.backoff_max = Duration::from_secs(8);
        let mut world = World::new(settings);
        for index in 0..count {
            let own: Vec<(u64, u64)> =
                deaths.iter().filter(|(of, ..)| of % count == index).map(|(_, at, long)| (*at, at + long)).collect();
            let elapsed = world.clock();
            world.behave(index as u8 + 1, move |request| {
                let now = elapsed.get().as_secs();
                if own.iter().any(|(from, to)| (*from..*to).contains(&now)) { Vec::new() } else { meter(request) }
            });
        }
        world.run(Duration::from_secs(150));
        let turn = ms(60);
        for (index, period) in periods.iter().enumerate() {
            prop_assert_eq!(world.bus.state(index), Some(State::Up));
            let asked: Vec<Duration> =
                world.requests.iter().filter(|(_, body)| usize::from(body[0]) == index + 1).map(|(at, _)| *at).collect();
            // Everything has been alive again for long enough at 135 s.
            let calm: Vec<Duration> = asked.into_iter().filter(|at| *at > Duration::from_secs(135)).collect();
            let longest = ms(period * 500 + jitter) + turn * count as u32;
            prop_assert!(calm.windows(2).all(|pair| pair[1] - pair[0] <= longest), "unit {index}: {calm:?}");
        }
        // A unit that never died has a reading for nearly every period, whatever the others do.
        for (index, period) in periods.iter().enumerate() {
            if deaths.iter().all(|(of, ..)| of % count != index) {
                let polls = world.bus.counters(index).unwrap().polls;
                let due = 150_000 / (period * 500);
                // Each death of another may cost a time-out before it is known: three in a row at
                // worst for the shortest period.
                prop_assert!(polls + 2 + deaths.len() as u64 >= due, "unit {index}: {polls} of {due}");
            }
        }
    }
}

#[test]
fn a_unit_that_comes_back_is_polled_again_in_its_old_rhythm() {
    let mut world = World::new(settings(vec![unit(1), unit(2)]));
    world.run(Duration::from_secs(10));
    world.behave(2, silent);
    world.run(Duration::from_secs(100));
    assert_eq!(world.bus.state(1), Some(State::Down));
    world.behave(2, meter);
    world.run(Duration::from_secs(70));
    assert_eq!(world.bus.state(1), Some(State::Up));
    let ups = world.count(|event| matches!(event, Event::Up { unit: 1 }));
    assert_eq!(ups, 2);
    let (last, _) = world.readings(1).pop().unwrap();
    assert!(last > Duration::from_secs(179) && last.subsec_millis() < 300, "{last:?}");
    assert_eq!(world.readings(0).len(), 180);
}

#[test]
fn one_lost_answer_costs_one_reading() {
    let mut two = unit(1);
    two.registers.push(register("other", Table::Holding, 1, Kind::U16));
    let mut world = World::new(settings(vec![two]));
    let mut count = 0;
    world.behave(1, move |request| {
        count += 1;
        if count == 20 { Vec::new() } else { meter(request) }
    });
    world.run(Duration::from_secs(100));
    assert!(world.readings(0).len() >= 98, "{}", world.readings(0).len());
    assert_eq!(world.count(|event| matches!(event, Event::Failed { failures: 1, .. })), 1);
    assert_eq!(world.count(|event| matches!(event, Event::Down { .. })), 0);
}

#[test]
fn jitter_delays_each_poll_by_another_time_and_never_adds_up() {
    let mut jittery = unit(1);
    jittery.jitter = ms(400);
    let mut world = World::new(settings(vec![jittery]));
    world.run(Duration::from_secs(1_000));
    let readings = world.readings(0);
    assert_eq!(readings.len(), 1_000);
    let late: Vec<u128> = readings.iter().skip(1).map(|(at, _)| at.as_millis() % 1000).collect();
    assert!(late.iter().all(|late| *late < 500));
    let (early, middle) = (late.iter().filter(|late| **late < 150).count(), late.len() / 3);
    assert!(early > middle / 2 && early < middle * 2, "{early} of {}", late.len());
}

#[test]
fn requests_keep_their_silence_their_pause_and_their_rate() {
    let fast = |mut unit: Unit| {
        unit.period = ms(50);
        unit
    };
    let gaps = |interval: Duration, pause: Duration| {
        let mut settings = settings(vec![fast(unit(1)), fast(unit(2))]);
        settings.interval = interval;
        settings.units.iter_mut().for_each(|unit| unit.pause = pause);
        let mut world = World::new(settings);
        world.run(Duration::from_secs(20));
        let starts: Vec<Duration> = world.requests.iter().map(|(at, _)| *at).collect();
        (starts.len(), starts.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap())
    };
    // 8 characters there, 5 ms, 7 characters back, 3.5 characters of silence, at 1.146 ms each.
    let least = Duration::from_micros(1146 * 37 / 2 + 5000);
    let (full, gap) = gaps(Duration::ZERO, Duration::ZERO);
    assert!(gap >= least - ms(1) && gap < least + ms(1), "{gap:?} of {least:?}");
    assert!(full > 600);
    let (_, gap) = gaps(Duration::ZERO, ms(100));
    assert!(gap >= least + ms(99));
    let (count, gap) = gaps(ms(250), Duration::ZERO);
    assert!(gap >= ms(250) && count <= 81, "{gap:?} {count}");
}

#[test]
fn a_port_that_goes_blames_no_unit_and_one_that_comes_polls_all() {
    let mut world = World::new(settings(vec![unit(1), unit(2)]));
    world.run(Duration::from_millis(2_200));
    world.bus.line_down(world.now);
    assert_eq!(world.bus.poll_timeout(), None);
    world.run(Duration::from_secs(3_600));
    assert_eq!(world.count(|event| matches!(event, Event::Failed { .. })), 0);
    let before = world.requests.len();
    world.bus.line_up(world.now);
    world.run(ms(500));
    let mut after: Vec<u8> = world.requests[before..].iter().map(|(_, body)| body[0]).collect();
    // Once answers to requests of before have come; each may be sent twice, as the line may be out
    // of step.
    after.dedup();
    assert_eq!(after, [1, 2]);
}

#[test]
fn a_port_that_goes_during_a_request_fails_that_request_alone() {
    let mut world = World::new(settings(vec![unit(1), unit(2)]));
    world.run(Duration::from_millis(2_010));
    world.bus.line_down(world.now);
    world.run(Duration::from_secs(3_600));
    assert_eq!(world.count(|event| matches!(event, Event::Failed { failures: 1, .. })), 1);
    world.bus.line_up(world.now);
    world.run(Duration::from_secs(10));
    assert_eq!(world.count(|event| matches!(event, Event::Failed { .. })), 1);
    assert_eq!(world.count(|event| matches!(event, Event::Down { .. })), 0);
}

#[test]
fn uncollected_events_stop_the_asking_until_they_are_collected() {
    let mut world = World::new(settings(vec![unit(1)]));
    let mut buffer = Vec::new();
    let mut asked = 0;
    for _ in 0..10_000 {
        let Some(at) = world.bus.poll_timeout() else { break };
        world.now = world.now.max(at);
        world.bus.handle_timeout(world.now);
        while world.bus.poll_transmit(&mut buffer) {
            asked += 1;
            let bytes = meter(&buffer[..buffer.len() - 2]).remove(0).1;
            world.bus.handle_bytes(world.now + ms(5), &bytes);
        }
    }
    assert!((250..=300).contains(&asked), "{asked}");
    assert_eq!(world.bus.poll_timeout(), None);
    while world.bus.poll_event().is_some() {}
    assert!(world.bus.poll_timeout().is_some());
}

#[test]
fn a_map_in_several_blocks_is_read_in_one_go_and_makes_one_reading() {
    let mut several = unit(1);
    several.registers = vec![
        register("a", Table::Holding, 1, Kind::U16),
        register("b", Table::Holding, 1000, Kind::U32),
        register("c", Table::Input, 7, Kind::U16),
        register("d", Table::Coil, 9, Kind::Bool(None)),
        register("e", Table::Discrete, 10, Kind::Bool(None)),
    ];
    let mut world = World::new(settings(vec![several, unit(2)]));
    world.run(Duration::from_secs(10));
    let expected = r#"{"a":1,"b":65537001,"c":7,"d":true,"e":false}"#;
    assert!(world.readings(0).iter().all(|(_, payload)| payload == expected), "{:?}", world.readings(0));
    assert_eq!(world.readings(0).len(), 10);
    let order: Vec<u8> = world.requests.iter().take(12).map(|(_, body)| body[0]).collect();
    assert_eq!(order.windows(2).filter(|pair| pair[0] != pair[1]).count(), 3, "{order:?}");
}

#[test]
fn a_unit_whose_answers_come_late_is_asked_again_when_the_others_can_wait_and_one_that_lost_one_at_once() {
    for (late, least, most) in [(Some(380), 1_900, 2_600), (None, 1_000, 1_300)] {
        let mut world = World::new(settings(vec![unit(1), Unit { period: ms(250), ..unit(2) }]));
        let mut count = 0;
        world.behave(1, move |request| {
            count += 1;
            match late {
                Some(late) if count % 5 == 0 => vec![(ms(late), frame(&answer(request)))],
                None if count % 5 == 0 => Vec::new(),
                _ => meter(request),
            }
        });
        world.run(Duration::from_secs(120));
        let failed = world.events.iter().filter(|(_, event)| matches!(event, Event::Failed { unit: 0, .. }));
        let waits: Vec<Duration> = failed
            .filter_map(|(at, _)| {
                let next = world.requests.iter().find(|(asked, body)| asked > at && body[0] == 1)?;
                Some(next.0 - *at)
            })
            .collect();
        assert!(waits.len() > 10, "{waits:?}");
        assert!(waits.iter().all(|wait| (ms(least)..ms(most)).contains(wait)), "{late:?}: {waits:?}");
    }
}

#[test]
fn a_silent_unit_that_wants_a_pause_is_not_asked_once_more_within_it() {
    for (pause, is_woken) in [(0, true), (200, false)] {
        let mut world = World::new(settings(vec![Unit { pause: ms(pause), ..unit(1) }]));
        world.behave(1, silent);
        world.run(Duration::from_secs(60));
        let is_soon = world.requests.windows(2).any(|pair| pair[1].0 - pair[0].0 < ms(150));
        assert_eq!(is_soon, is_woken, "{pause}");
    }
}

#[test]
fn units_at_the_addresses_that_the_standard_reserves_are_polled_like_others() {
    let mut world = World::new(settings(vec![unit(247), unit(248), unit(255)]));
    world.run(Duration::from_secs(10));
    for (index, address) in [247_u8, 248, 255].into_iter().enumerate() {
        let asked = world.requests.iter().filter(|(_, request)| request[0] == address).count();
        let readings = world.readings(index);
        assert!(asked >= 9 && readings.len() >= 9, "{address}: {asked} {}", readings.len());
        assert!(readings.iter().all(|(_, payload)| payload == r#"{"value":0}"#), "{address}");
    }
    // As of any other, a late answer of one is not the other's.
    world.behave(255, |request| vec![(ms(400), frame(&answer(request)))]);
    world.run(Duration::from_secs(60));
    assert_eq!(world.bus.state(1), Some(State::Up));
    assert!(world.bus.counters(2).unwrap().late > 0);
}
