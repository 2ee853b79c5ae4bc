//! A converter in the network that closes the connection: after each answer, or in place of one.

use std::time::Duration;

use tombolo::proto::serial::modbus::bus::State;
use tombolo::proto::serial::modbus::learn::Obstacle;
use tombolo::proto::serial::modbus::map::Kind;
use tombolo::proto::serial::modbus::pdu::{Exception, Table};
use tombolo::proto::serial::modbus::settings::Unit;
use tombolo::proto::serial::modbus::{Event, Failure};

use crate::support::{self, World, frame, ms, register, settings, unit};

const MINUTE: Duration = Duration::from_secs(60);

fn with(addresses: &[u16]) -> Unit {
    let named = |address: &u16| register(&format!("r{address}"), Table::Holding, *address, Kind::U16);
    let mut meter = unit(1);
    meter.registers = addresses.iter().map(named).collect();
    meter
}

fn covers(request: &[u8], address: u16) -> bool {
    let first = u16::from_be_bytes([request[2], request[3]]);
    (first..first + u16::from_be_bytes([request[4], request[5]])).contains(&address)
}

#[test]
fn a_converter_that_closes_after_each_answer_gives_whole_readings() {
    for is_numbered in [true, false] {
        for addresses in [&[0, 1][..], &[0, 40], &[0, 1, 40, 80]] {
            let mut world = World::new(settings(vec![with(addresses)]));
            if is_numbered {
                world.bus.answers_are_numbered();
            }
            world.behave(1, |request| [support::meter(request), vec![(ms(1), Vec::new())]].concat());
            world.run(MINUTE);
            let readings = world.readings(0);
            assert!(readings.len() >= 40, "{addresses:?}: {}", readings.len());
            let fields = |payload: &String| payload.matches(':').count();
            assert!(readings.iter().all(|(_, payload)| fields(payload) == addresses.len()), "{readings:?}");
            assert_eq!(world.bus.state(0), Some(State::Up));
            assert_eq!(world.bus.counters(0).unwrap().silent, 0);
        }
    }
}

#[test]
fn a_read_for_which_the_connection_is_closed_is_taken_apart_like_one_without_an_answer() {
    let mut world = World::new(settings(vec![with(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 30])]));
    world.bus.answers_are_numbered();
    world.behave(
        1,
        |request| {
            if covers(request, 7) { vec![(ms(5), Vec::new())] } else { support::meter(request) }
        },
    );
    world.run(5 * MINUTE);
    assert_eq!(world.bus.obstacles(0).collect::<Vec<_>>(), [(7, Obstacle::Silence)]);
    assert_eq!(world.bus.state(0), Some(State::Up));
    let (_, last) = world.readings(0).pop().unwrap();
    assert_eq!(last.matches(':').count(), 9, "{last}");
}

#[test]
fn a_unit_for_which_the_connection_is_closed_each_time_is_down_and_never_up() {
    let mut world = World::new(settings(vec![with(&[0, 1])]));
    world.behave(1, |_| vec![(ms(5), Vec::new())]);
    world.run(5 * MINUTE);
    assert_eq!(world.bus.state(0), Some(State::Down));
    assert_eq!(world.count(|event| matches!(event, Event::Up { .. })), 0);
    let down = Event::Down { unit: 0, failure: Failure::Closed };
    assert_eq!(world.count(|event| *event == down), 1);
    assert!(world.requests.len() < 20, "{}", world.requests.len());
    world.behave(1, support::meter);
    world.run(5 * MINUTE);
    assert_eq!(world.bus.state(0), Some(State::Up));
}

#[test]
fn a_unit_that_can_no_longer_be_asked_because_the_connection_is_closed_at_once_is_down() {
    let mut world = World::new(settings(vec![with(&[0, 1])]));
    world.run(MINUTE);
    assert_eq!(world.bus.state(0), Some(State::Up));
    for _ in 0..100 {
        world.bus.line_down(world.now);
        world.now += ms(500);
        world.bus.line_up(world.now);
    }
    world.run(Duration::ZERO);
    assert_eq!(world.bus.state(0), Some(State::Down));
    world.run(MINUTE);
    assert_eq!(world.bus.state(0), Some(State::Up));
}

#[test]
fn a_read_refused_with_any_exception_but_a_gateways_is_taken_apart() {
    for code in (1..=9).chain([12, 64, 255]) {
        let mut world = World::new(settings(vec![with(&[0, 1, 2, 3, 4, 5])]));
        world.behave(1, move |request| {
            let refusal = vec![(ms(5), frame(&[1, 0x83, code]))];
            if covers(request, 3) { refusal } else { support::meter(request) }
        });
        world.run(MINUTE);
        assert_eq!(world.bus.obstacles(0).collect::<Vec<_>>(), [(3, Obstacle::Exception(Exception(code)))]);
        let (_, last) = world.readings(0).pop().unwrap();
        assert_eq!(last, r#"{"r0":0,"r1":1,"r2":2,"r4":4,"r5":5}"#, "{code}");
    }
}

#[test]
fn a_converter_that_closes_a_connection_when_it_is_idle_does_not_shorten_the_period() {
    for is_numbered in [true, false] {
        let mut meter = with(&[0, 40]);
        meter.period = MINUTE;
        let mut world = World::new(settings(vec![meter]));
        if is_numbered {
            world.bus.answers_are_numbered();
        }
        for _ in 0..120 {
            world.inject(Duration::from_secs(5), &[]);
            world.run(ms(5_200));
        }
        let readings = world.readings(0).len();
        assert!((10..=12).contains(&readings), "{is_numbered}: {readings}");
        assert!(world.requests.len() <= 30, "{is_numbered}: {}", world.requests.len());
        assert_eq!(world.bus.state(0), Some(State::Up));
    }
}

#[test]
fn a_connection_that_is_closed_before_earlier_answers_could_have_come_is_used_at_once() {
    let mut world = World::new(settings(vec![with(&[0, 1])]));
    world.inject(Duration::ZERO, &[]);
    world.run(ms(200));
    for _ in 0..100 {
        // For 200 ms; earlier answers are waited for 300 ms.
        world.inject(ms(200), &[]);
        world.run(ms(400));
    }
    let readings = world.readings(0).len();
    assert!(readings >= 15, "{readings}");
    assert_eq!(world.bus.state(0), Some(State::Up));
}

#[test]
fn how_late_an_answer_on_the_next_connection_is_does_not_count_the_time_without_one() {
    let mut world = World::new(settings(vec![with(&[0, 1])]));
    world.behave(1, |_| Vec::new());
    world.run(ms(50));
    assert_eq!(world.requests.len(), 1);
    world.bus.line_down(world.now);
    world.now += Duration::from_secs(3_600);
    world.bus.line_up(world.now);
    let asked = &world.requests[0].1;
    let late = frame(&support::answer(asked));
    world.inject(ms(50), &late);
    world.run(ms(200));
    let after = world.events.iter().find_map(|(_, event)| match event {
        Event::Late { after, .. } => Some(*after),
        _ => None,
    });
    assert!(after.is_some_and(|after| after < ms(200)), "{after:?}");
}

#[test]
fn what_may_still_come_is_waited_for_as_long_on_the_next_connection() {
    // 1.8 s after the probe, of which two were without a connection.
    for after in [20, 200, 1_000, 1_500] {
        let mut world = World::new(settings(vec![with(&[0, 40])]));
        let mut count = 0;
        world.behave(1, move |request| {
            count += 1;
            if count == 5 { Vec::new() } else { support::meter(request) }
        });
        while world.requests.len() < 6 {
            world.run(ms(10));
        }
        world.run(ms(50));
        world.bus.line_down(world.now);
        world.now += Duration::from_secs(2);
        world.bus.line_up(world.now);
        world.inject(ms(after), &frame(&[1, 3, 2, 0x12, 0x34]));
        world.run(MINUTE);
        let readings = world.readings(0);
        assert!(readings.len() > 50);
        assert!(readings.iter().all(|(_, payload)| !payload.contains("4660")), "{after}: {readings:?}");
    }
}
