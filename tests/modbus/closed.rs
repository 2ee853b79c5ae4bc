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
