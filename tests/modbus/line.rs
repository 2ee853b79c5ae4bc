//! Noise, damage, echoes, exceptions and strangers on the line.

use std::time::Duration;

use proptest::prelude::*;
use tombolo::proto::serial::modbus::learn::Obstacle;
use tombolo::proto::serial::modbus::map::Kind;
use tombolo::proto::serial::modbus::pdu::{Exception, Table};
use tombolo::proto::serial::modbus::{Event, Failure};

use crate::support::{World, answer, frame, meter, ms, register, settings, unit};

#[test]
fn an_answer_is_found_wherever_the_bytes_are_cut() {
    for cut in 1..7 {
        let mut world = World::new(settings(vec![unit(1)]));
        world.behave(1, move |request| {
            let bytes = frame(&answer(request));
            let cut = cut.min(bytes.len() - 1);
            vec![(ms(5), bytes[..cut].to_vec()), (ms(30), bytes[cut..].to_vec())]
        });
        world.run(Duration::from_secs(10));
        assert_eq!(world.readings(0).len(), 10, "cut at {cut}");
        assert_eq!(world.bus.noise(), 0);
    }
}

#[test]
fn noise_before_an_answer_does_no_harm_however_much_it_is() {
    for noise in [1, 2, 3, 20, 40, 255, 600] {
        let mut settings = settings(vec![unit(1)]);
        settings.timeout = Duration::from_secs(1);
        settings.units[0].timeout = Duration::from_secs(1);
        let mut world = World::new(settings);
        world.behave(1, move |request| {
            let noise: Vec<u8> = (0..noise).map(|at: u32| (at * 7 + 3) as u8 | 0x40).collect();
            vec![(ms(5), [noise, frame(&answer(request))].concat())]
        });
        world.run(Duration::from_secs(10));
        assert!(world.readings(0).len() >= 9, "{noise} bytes");
    }
}

#[test]
fn noise_that_looks_like_the_beginning_of_an_answer_does_no_harm() {
    for noise in [&[1u8][..], &[1, 3], &[1, 3, 2], &[1, 3, 2, 0], &[0, 3, 0xF0], &[1, 0x83], &[7, 3, 250, 1]]
    {
        let mut world = World::new(settings(vec![unit(1)]));
        world.behave(1, move |request| vec![(ms(5), [noise, &frame(&answer(request))[..]].concat())]);
        world.run(Duration::from_secs(10));
        assert_eq!(world.readings(0).len(), 10, "{noise:?}");
    }
}

#[test]
fn a_wrong_checksum_is_never_used_and_costs_no_whole_time_out() {
    let mut world = World::new(settings(vec![unit(1)]));
    let mut count = 0;
    world.behave(1, move |request| {
        count += 1;
        let mut bytes = frame(&answer(request));
        if count % 5 == 0 {
            bytes[3] ^= 0x10;
        }
        vec![(ms(5), bytes)]
    });
    world.run(Duration::from_secs(60));
    assert!(world.readings(0).iter().all(|(_, payload)| payload == r#"{"value":0}"#));
    let counters = world.bus.counters(0).unwrap();
    assert!(counters.damaged > 5 && counters.silent == 0, "{counters:?}");
    // Given up 50 ms after the last byte, not after 300 ms.
    let failed = world.events.iter().position(|(_, event)| matches!(event, Event::Failed { .. })).unwrap();
    let (at, _) = world.events[failed];
    let (asked, _) = world.requests.iter().rev().find(|(asked, _)| *asked < at).unwrap();
    assert!(at - *asked < ms(100), "{:?}", at - *asked);
}

#[test]
fn an_answer_with_another_length_function_or_unit_is_not_used() {
    for wrong in [
        vec![1, 3, 4, 0, 1, 0, 2],
        vec![1, 4, 2, 0, 1],
        vec![2, 3, 2, 0, 1],
        vec![1, 3, 0],
        vec![1, 6, 0, 0, 0, 1],
    ] {
        let mut world = World::new(settings(vec![unit(1)]));
        let sent = wrong.clone();
        world.behave(1, move |_| vec![(ms(5), frame(&sent))]);
        world.run(Duration::from_secs(20));
        assert_eq!(world.readings(0), [], "{wrong:?}");
        let counters = world.bus.counters(0).unwrap();
        assert!(counters.silent + counters.damaged + counters.misfits > 3, "{wrong:?} {counters:?}");
    }
}

#[test]
fn the_line_may_echo_reads_without_being_told() {
    for address in [0, 0x02FF, 0x03FF, 0x0800] {
        let mut echoing = unit(1);
        echoing.registers = vec![register("value", Table::Holding, address, Kind::U16)];
        let bit = |at: u16| register(&format!("bit-{at}"), Table::Coil, address + at, Kind::Bool(None));
        echoing.registers.extend((0..20).map(bit));
        let mut world = World::new(settings(vec![echoing]));
        world.behave(1, |request| {
            let echo = frame(request);
            vec![(ms(0), echo[..3].to_vec()), (ms(0), echo[3..].to_vec()), (ms(5), frame(&answer(request)))]
        });
        world.run(Duration::from_secs(10));
        assert_eq!(world.readings(0).len(), 10, "{address}");
        assert_eq!(world.bus.strangers(), 0);
    }
}

#[test]
fn a_babbling_line_delays_requests_by_a_time_out_only_and_is_survived() {
    let mut world = World::new(settings(vec![unit(1)]));
    world.run(Duration::from_secs(2));
    for step in 0..3_000 {
        // Never quiet for the 4 ms of the standard.
        world.inject(ms(step * 3), &[0x55, 0xAA, 0x01, 0x03, 0xFF]);
    }
    world.run(Duration::from_secs(10));
    // Asked while it babbles, and answered where the answer came through whole.
    let during = world.requests.iter().filter(|(at, _)| (3..11).contains(&at.as_secs())).count();
    assert!(during >= 2, "{during}");
    world.run(Duration::from_secs(60));
    assert_eq!(world.bus.state(0), Some(tombolo::proto::serial::modbus::bus::State::Up));
    assert!(world.bus.noise() > 1_000);
}

#[test]
fn another_masters_traffic_is_counted_and_not_used() {
    let mut world = World::new(settings(vec![unit(1)]));
    world.run(Duration::from_secs(1));
    for step in 0..20 {
        world.inject(ms(step * 500 + 250), &frame(&[9, 3, 2, 0, 1]));
    }
    world.run(Duration::from_secs(10));
    assert_eq!(world.bus.strangers(), 20);
    assert_eq!(world.readings(0).len(), 11);
}

#[test]
fn an_exception_is_told_once_and_the_rest_is_read() {
    let mut two = unit(1);
    two.registers =
        vec![register("good", Table::Holding, 0, Kind::U16), register("bad", Table::Input, 0, Kind::U16)];
    let mut world = World::new(settings(vec![two]));
    world.behave(
        1,
        |request| {
            if request[1] == 4 { vec![(ms(5), frame(&[1, 0x84, 1]))] } else { meter(request) }
        },
    );
    world.run(Duration::from_secs(10));
    assert_eq!(world.readings(0).len(), 10);
    assert!(world.readings(0).iter().all(|(_, payload)| payload == r#"{"good":0}"#));
    let refused =
        Event::Refused { unit: 0, register: 1, why: Obstacle::Exception(Exception::ILLEGAL_FUNCTION) };
    assert_eq!(world.count(|event| *event == refused), 1);
    assert_eq!(world.count(|event| matches!(event, Event::Failed { .. })), 0);
    world.behave(1, meter);
    world.run(Duration::from_secs(1));
    assert_eq!(world.readings(0).pop().unwrap().1, r#"{"good":0,"bad":0}"#);
    world.behave(
        1,
        |request| {
            if request[1] == 4 { vec![(ms(5), frame(&[1, 0x84, 1]))] } else { meter(request) }
        },
    );
    world.run(Duration::from_secs(5));
    assert_eq!(world.count(|event| *event == refused), 2, "told again after it had been read");
}

/// A unit that has only the addresses in `has`, and refuses any request that touches another.
fn picky(has: &'static [u16]) -> impl FnMut(&[u8]) -> Vec<(Duration, Vec<u8>)> {
    move |request| {
        let address = u16::from_be_bytes([request[2], request[3]]);
        let quantity = u16::from_be_bytes([request[4], request[5]]);
        if (address..address + quantity).all(|address| has.contains(&address)) {
            meter(request)
        } else {
            vec![(ms(5), frame(&[request[0], request[1] | 0x80, 2]))]
        }
    }
}

#[test]
fn a_block_with_an_address_the_unit_lacks_is_taken_apart_until_the_rest_can_be_read() {
    let mut gaps = unit(1);
    gaps.registers = [0, 1, 2, 5, 6, 9]
        .iter()
        .map(|address| register(&format!("r{address}"), Table::Holding, *address, Kind::U16))
        .collect();
    let mut world = World::new(settings(vec![gaps]));
    // 3, 4, 7, 8 are not there, and neither is 2, which is wanted.
    world.behave(1, picky(&[0, 1, 5, 6, 9]));
    world.run(Duration::from_secs(10));
    let readings = world.readings(0);
    assert_eq!(readings.len(), 10);
    assert!(
        readings.iter().all(|(_, payload)| payload == r#"{"r0":0,"r1":1,"r5":5,"r6":6,"r9":9}"#),
        "{readings:?}"
    );
    let refused: Vec<&Event> = world
        .events
        .iter()
        .map(|(_, event)| event)
        .filter(|event| matches!(event, Event::Refused { .. }))
        .collect();
    assert_eq!(
        refused,
        [&Event::Refused { unit: 0, register: 2, why: Obstacle::Exception(Exception::ILLEGAL_DATA_ADDRESS) }]
    );
    let before = world.requests.len();
    world.run(Duration::from_secs(10));
    // 0–1 or 0 and 1, 2, 5–6, 9: found once, then kept.
    assert!((world.requests.len() - before) / 10 <= 5);
}

#[test]
fn silence_and_damage_are_told_apart() {
    for (bytes, failure) in [(Vec::new(), Failure::Silent), (vec![1, 3, 2], Failure::Damaged)] {
        let mut world = World::new(settings(vec![unit(1)]));
        world.behave(1, move |_| if bytes.is_empty() { Vec::new() } else { vec![(ms(5), bytes.clone())] });
        world.run(Duration::from_secs(5));
        assert!(
            world.count(|event| matches!(event, Event::Failed { failure: found, .. } if *found == failure))
                >= 2
        );
        assert_eq!(world.count(|event| matches!(event, Event::Down { .. })), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is on the line, only true readings are published, and once the noise is over the
    /// unit is read again.
    #[test]
    fn no_noise_makes_a_reading_or_stops_the_bus(
        noise in proptest::collection::vec((0u64..4_000, proptest::collection::vec(any::<u8>(), 1..40)), 0..60),
        delays in proptest::collection::vec(0u64..600, 1..12),
    ) {
        let mut world = World::new(settings(vec![unit(1), unit(2)]));
        let mut count = 0;
        world.behave(1, move |request| {
            count += 1;
            vec![(ms(delays[count % delays.len()]), frame(&answer(request)))]
        });
        for (at, bytes) in &noise {
            world.inject(ms(*at), bytes);
        }
        world.run(Duration::from_secs(5));
        world.behave(1, meter);
        world.run(Duration::from_secs(200));
        for unit in 0..2 {
            let readings = world.readings(unit);
            let all_true = readings.iter().all(|(_, payload)| payload == r#"{"value":0}"#);
            prop_assert!(all_true);
            prop_assert!(readings.iter().filter(|(at, _)| *at > Duration::from_secs(195)).count() >= 9);
        }
    }
}
