//! What the gateway publishes for `tombolo check`, and checks that connect beside it.

use std::time::Duration;

use tombolo::message::Lane;
use tombolo::northbound::settings::{Protocol, Settings};
use tombolo::northbound::uplink::{Event, ReadingAnswer};

use crate::support::{World, settings};
use tombolo_test_support::broker::Reply;

const TOPIC: &str = "tombolo/g/door-7/up/t/tombolo-check";

fn world(reply: Reply) -> World {
    let mut world = World::new(settings());
    world.broker.policy = Box::new(move |it| if it.topic == TOPIC { reply } else { Reply::Ack(0) });
    world.settle();
    world
}

/// Publishes for a check, and waits for what becomes of it.
fn tried(world: &mut World) -> Option<ReadingAnswer> {
    let now = world.moment.now;
    assert!(world.uplink.begin_reading(now, TOPIC, false));
    world.settle();
    world.uplink.take_reading_answer()
}

#[test]
fn what_is_published_for_a_check_is_answered_alone_and_readings_go_on() {
    for code in [0, 0x87] {
        let mut world = world(Reply::Ack(code));
        assert_eq!(tried(&mut world), Some(ReadingAnswer::Acknowledged(code)));
        assert_eq!(world.uplink.take_reading_answer(), None, "once");
        let sent = world.broker.delivered.iter().find(|it| it.topic == TOPIC);
        assert_eq!(sent.is_some(), code == 0);
        assert!(sent.is_none_or(|it| it.payload.is_empty() && it.user("check") == Some("true")), "{sent:?}");
        world.store(Lane::Normal, "a", b"1");
        world.settle();
        assert!(world.broker.delivered.iter().any(|it| it.topic == "a"));
        let status = world.status();
        assert_eq!((status.suspect_count, status.left_out.len(), status.connections), (0, 0, 1));
    }
}

#[test]
fn a_broker_that_closes_over_it_suspects_no_reading_and_names_no_rival() {
    let mut world = world(Reply::Close);
    for _ in 0..8 {
        assert_eq!(tried(&mut world), Some(ReadingAnswer::Closed));
        world.store(Lane::Normal, "a", b"1");
        world.run_for(Duration::from_secs(60));
    }
    let status = world.status();
    assert!(!status.rival && status.closes == 0 && status.suspect_count == 0, "{status:?}");
    assert!(status.connected && status.left_out.is_empty(), "{status:?}");
    assert_eq!(world.broker.delivered.iter().filter(|it| it.topic == "a").count(), 8);
}

#[test]
fn one_that_is_not_answered_is_given_up_and_a_late_answer_means_nothing() {
    let mut world = world(Reply::Hold);
    assert_eq!(tried(&mut world), None);
    world.store(Lane::Normal, "a", b"1");
    world.run_for(Duration::from_secs(11));
    assert_eq!(world.uplink.take_reading_answer(), Some(ReadingAnswer::Silent));
    assert!(world.broker.delivered.iter().any(|it| it.topic == "a"), "the readings wait no longer");
    // Another one would have the same packet identifier (MQTT 5.0 §2.2.1).
    let now = world.moment.now;
    assert!(!world.uplink.may_try_readings() && !world.uplink.begin_reading(now, TOPIC, false));
    // PUBACK of the packet id of what is published for checks.
    let late = [0x40, 2, 0xFD, 0xE9];
    world.uplink.handle_bytes(&world.moment, &mut world.outbox, &late);
    world.settle();
    let status = world.status();
    assert!(status.connected && status.counters.unknown_answers == 0, "{status:?}");
    assert_eq!(world.uplink.take_reading_answer(), None);
    assert!(world.uplink.may_try_readings());
}

#[test]
fn over_mqtt_3_1_1_or_without_a_connection_nothing_is_published_for_a_check() {
    let mut world = World::new(Settings { protocol: Protocol::V3_1_1, ..settings() });
    let now = world.moment.now;
    assert!(!world.uplink.begin_reading(now, TOPIC, false) && !world.uplink.may_try_readings());
    world.settle();
    let now = world.moment.now;
    assert!(!world.uplink.begin_reading(now, TOPIC, false) && !world.uplink.may_try_readings());
}

#[test]
fn connections_that_end_for_a_check_name_no_rival_and_the_next_one_waits_for_its_end() {
    let mut world = World::new(settings());
    world.settle();
    for round in 1..=8 {
        let now = world.moment.now;
        assert!(!world.uplink.announce_beside(now, 1, Some(now + Duration::from_secs(90))));
        // DISCONNECT with "session taken over".
        world.uplink.handle_bytes(&world.moment, &mut world.outbox, &[0xE0, 1, 0x8E]);
        world.run_for(Duration::from_secs(5));
        assert!(!world.status().connected, "it would end the check's connection in turn");
        let now = world.moment.now;
        assert!(world.uplink.announce_beside(now, 1, None));
        world.run_for(Duration::from_secs(2));
        let status = world.status();
        assert!(status.connected && !status.rival && status.closes == 0, "{status:?}");
        assert_eq!(status.connections, round + 1);
    }
    assert_eq!(world.count(|event| *event == Event::EndedForCheck), 8);
    // A check that is killed says nothing at its end: the connection comes back all the same.
    let now = world.moment.now;
    world.uplink.announce_beside(now, 1, Some(now + Duration::from_secs(90)));
    world.uplink.handle_bytes(&world.moment, &mut world.outbox, &[0xE0, 1, 0x8E]);
    world.run_for(Duration::from_secs(91));
    assert!(world.status().connected);
    // Later it is a rival's doing again.
    for _ in 0..4 {
        world.uplink.handle_bytes(&world.moment, &mut world.outbox, &[0xE0, 1, 0x8E]);
        world.run_for(Duration::from_secs(300));
    }
    assert!(world.count(|event| *event == Event::ClientIdElsewhere) > 0);
}

#[test]
fn the_next_connection_waits_for_every_check_that_is_said_to_last_and_for_none_that_is_over() {
    let mut world = World::new(settings());
    world.settle();
    let announce = |world: &mut World, by: u32, seconds: Option<u64>| {
        let now = world.moment.now;
        world.uplink.announce_beside(now, by, seconds.map(|seconds| now + Duration::from_secs(seconds)))
    };
    for by in [1, 2] {
        assert!(!announce(&mut world, by, Some(10)));
    }
    world.uplink.handle_bytes(&world.moment, &mut world.outbox, &[0xE0, 1, 0x8E]);
    assert!(announce(&mut world, 1, None), "the first is over");
    for _ in 0..6 {
        world.run_for(Duration::from_secs(3));
        assert!(!world.status().connected, "the second lasts");
        assert!(announce(&mut world, 2, Some(10)));
    }
    // It is killed.
    world.run_for(Duration::from_secs(11));
    assert!(world.status().connected && !world.status().rival);
    // What the broker ends afterwards, it does not end for a check.
    assert!(!announce(&mut world, 1, Some(10)) && !announce(&mut world, 1, None));
    world.uplink.handle_bytes(&world.moment, &mut world.outbox, &[0xE0, 0]);
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.count(|event| *event == Event::EndedForCheck), 1);
}
