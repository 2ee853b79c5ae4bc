//! The reason that is given is the one at fault.

use std::time::Duration;

use tombolo::proto::serial::modbus::bus::State;
use tombolo::proto::serial::modbus::learn::Obstacle;
use tombolo::proto::serial::modbus::map::Kind;
use tombolo::proto::serial::modbus::pdu::{Exception, Table};
use tombolo::proto::serial::modbus::{Event, Failure};

use crate::support::{World, answer, frame, meter, ms, register, settings, unit};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn answers_with_another_units_address_name_that_address() {
    for is_numbered in [false, true] {
        let mut world = World::new(settings(vec![unit(1)]));
        if is_numbered {
            world.bus.answers_are_numbered();
        }
        world.behave(1, |request| {
            let mut body = answer(request);
            body[0] = 9;
            vec![(ms(5), frame(&body))]
        });
        world.run(MINUTE);
        assert_eq!(world.count(|event| matches!(event, Event::Reading { .. })), 0);
        assert_eq!(world.count(|event| *event == Event::Down { unit: 0, failure: Failure::Foreign(9) }), 1);
        let why = world.bus.failing(0).unwrap().to_string();
        assert_eq!(why, "answers come from unit address 9 in place of its own");
    }
}

#[test]
fn two_units_with_each_others_address_are_named_as_that_and_not_as_late() {
    let mut world = World::new(settings(vec![unit(1), unit(2)]));
    for address in [1, 2] {
        world.behave(address, |request| {
            let mut body = answer(request);
            body[0] = 3 - body[0];
            vec![(ms(5), frame(&body))]
        });
    }
    world.run(10 * MINUTE);
    assert_eq!(world.count(|event| matches!(event, Event::Reading { .. })), 0);
    for index in [0, 1] {
        let said = world.bus.failing(index).unwrap().to_string();
        let expected = format!("answers come from unit address {} in place of its own", 2 - index);
        assert_eq!(said, expected);
    }
}

#[test]
fn a_slow_unit_is_told_to_be_late_and_its_silent_neighbour_to_be_silent() {
    let mut world = World::new(settings(vec![unit(1), unit(2)]));
    world.behave(1, |_| Vec::new());
    world.behave(2, |request| vec![(ms(1_250), frame(&answer(request)))]);
    world.run(10 * MINUTE);
    assert_eq!(world.bus.failing(0).unwrap().to_string(), "it does not answer");
    let said = world.bus.failing(1).unwrap().to_string();
    assert!(said.contains("raise timeout"), "{said}");
}

#[test]
fn a_byte_count_that_is_not_that_of_the_data_is_named_and_not_called_late() {
    let mut world = World::new(settings(vec![unit(1)]));
    world.behave(1, |request| {
        let mut body = answer(request);
        body[2] += 1;
        vec![(ms(5), frame(&body))]
    });
    world.run(MINUTE);
    assert_eq!(world.bus.counters(0).unwrap().late, 0);
    assert_eq!(world.bus.state(0), Some(State::Degraded));
    let why = world.bus.failing(0).unwrap().to_string();
    assert_eq!(why, "its answers have 2 bytes of data and say that they have 3");
}

#[test]
fn a_value_whose_scale_is_left_out_is_named_too() {
    let mut meter_of_two = unit(1);
    meter_of_two.registers = vec![
        register("w", Table::Holding, 14, Kind::U16),
        register("sf", Table::Holding, 15, Kind::I16),
        register("z", Table::Holding, 1, Kind::U16),
    ];
    meter_of_two.registers[0].exponent = Some(1);
    let mut world = World::new(settings(vec![meter_of_two]));
    world.behave(1, |request| {
        let first = u16::from(request[3]);
        let has_scale = (first..first + u16::from(request[5])).contains(&15);
        if has_scale { vec![(ms(5), frame(&[1, 0x83, 2]))] } else { meter(request) }
    });
    world.run(MINUTE);
    let expected = [(1, Obstacle::Exception(Exception(2))), (0, Obstacle::Scale)];
    assert_eq!(world.bus.obstacles(0).collect::<Vec<_>>(), expected);
    assert_eq!(world.readings(0).pop().unwrap().1, r#"{"z":1}"#);
}

#[test]
fn units_that_are_slow_but_healthy_are_never_named_as_having_each_others_address() {
    for delays in [[1_250, 1_400, 1_700], [1_250, 350, 1_250], [900, 1_100, 2_400], [2_000, 2_900, 3_100]] {
        let mut world = World::new(settings((1..=3).map(unit).collect()));
        for (address, delay) in (1..).zip(delays) {
            world.behave(address, move |request| vec![(ms(delay), frame(&answer(request)))]);
        }
        world.run(30 * MINUTE);
        let foreign = |event: &Event| {
            matches!(
                event,
                Event::Failed { failure: Failure::Foreign(_), .. }
                    | Event::Down { failure: Failure::Foreign(_), .. }
            )
        };
        assert_eq!(world.count(foreign), 0, "{delays:?}");
        for (index, delay) in delays.into_iter().enumerate() {
            match world.bus.failing(index).filter(|_| world.bus.state(index) == Some(State::Down)) {
                Some(failing) => assert!(failing.to_string().contains("timeout"), "{delays:?} {failing}"),
                None => assert!(delay <= 1_200, "{delays:?} {index}"),
            }
        }
    }
}

#[test]
fn a_unit_that_answers_twice_is_not_named_as_the_one_that_answers_for_its_silent_neighbour() {
    let mut world = World::new(settings(vec![unit(1), unit(2)]));
    world.behave(1, |_| Vec::new());
    world.behave(2, |request| {
        let whole = frame(&answer(request));
        // And again and again: some come while the other one is asked.
        [5, 150, 300, 450, 600].map(|after| (ms(after), whole.clone())).to_vec()
    });
    world.run(10 * MINUTE);
    assert_eq!(world.bus.failing(0).unwrap().to_string(), "it does not answer");
    assert!(world.readings(1).len() > 300);
}

#[test]
fn a_frame_of_another_address_now_and_then_is_not_called_the_units_answer() {
    let mut world = World::new(settings(vec![unit(1)]));
    let mut count = 0;
    world.behave(1, move |request| {
        count += 1;
        match count % 10 {
            // Another master is on the line, and this one's answer is lost.
            0 => vec![(ms(5), frame(&[9, 3, 2, 0, 7]))],
            1 | 2 => Vec::new(),
            _ => meter(request),
        }
    });
    world.run(10 * MINUTE);
    assert!(world.bus.strangers() > 5);
    let foreign = |event: &Event| matches!(event, Event::Failed { failure: Failure::Foreign(_), .. });
    assert_eq!(world.count(foreign), 0);
}
