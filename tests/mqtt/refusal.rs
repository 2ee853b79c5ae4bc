//! What the broker refuses, and how it says so.

use std::time::Duration;

use tombolo::message::Lane;
use tombolo::northbound::outbox::POISON;
use tombolo::northbound::publisher::Event as PublisherEvent;
use tombolo::northbound::settings::Protocol;
use tombolo::northbound::uplink::Event;

use crate::support::broker::{Delivered, Reply};
use crate::support::{World, bare_settings, settings};

/// Answers so to what is said on `bad`, and well to all else.
fn on_bad(reply: Reply) -> Box<dyn FnMut(&Delivered) -> Reply> {
    Box::new(move |delivered| if delivered.topic == "bad" { reply } else { Reply::Ack(0) })
}

fn ten_with_a_bad_third(world: &mut World) {
    for number in 1..=10 {
        let topic = if number == 3 { "bad" } else { "good" };
        world.store(Lane::Normal, topic, number.to_string().as_bytes());
    }
}

const THE_OTHERS: [&str; 9] = ["1", "2", "4", "5", "6", "7", "8", "9", "10"];

#[test]
fn a_refusal_for_good_puts_the_record_aside_and_all_others_flow() {
    for code in [0x87, 0x90, 0x95, 0x99] {
        let mut world = World::new(bare_settings());
        world.broker.policy = on_bad(Reply::Ack(code));
        ten_with_a_bad_third(&mut world);
        world.settle();
        assert_eq!(world.outbox.rejected, [(Lane::Normal, 3, code)]);
        assert_eq!(world.payloads(), THE_OTHERS);
        assert_eq!(world.outbox.waiting(Lane::Normal), 0);
        assert_eq!(world.broker.links, 1);
        assert_eq!(world.uplink.status().counters.rejected, 1);
    }
}

#[test]
fn any_other_refusal_stops_the_lane_and_is_tried_again_ever_more_seldom() {
    for code in [0x80, 0x83, 0x91, 0x97, 0xC5] {
        let mut world = World::new(bare_settings());
        world.broker.policy = on_bad(Reply::Ack(code));
        ten_with_a_bad_third(&mut world);
        world.store(Lane::High, "good", b"high");
        world.run_for(Duration::from_secs(1200));
        let waits: Vec<_> = world
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Publisher(PublisherEvent::LaneStopped { wait, code: c, lane: Lane::Normal }) => {
                    assert_eq!(*c, code);
                    Some(wait.as_secs())
                }
                _ => None,
            })
            .collect();
        assert_eq!(waits[..10], [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert!(world.outbox.rejected.is_empty());
        assert_eq!(world.outbox.released[1], [1, 2], "order holds: the third is waited for");
        assert_eq!(world.outbox.released[0], [1], "the other lane flows");
        world.broker.policy = Box::new(|_| Reply::Ack(0));
        world.run_for(Duration::from_secs(301));
        assert_eq!(world.outbox.waiting(Lane::Normal), 0);
        assert_eq!(world.broker.delivered.len(), 11, "none was sent twice that had been taken");
    }
}

#[test]
fn a_broker_that_refuses_everything_for_now_is_not_flooded() {
    let mut world = World::new(bare_settings());
    world.broker.policy = Box::new(|_| Reply::Ack(0x97));
    for _ in 0..5000 {
        world.store(Lane::Normal, "a", b"1");
    }
    world.run_for(Duration::from_secs(3600));
    let sent = world.uplink.status().counters.sent;
    assert!(sent < 1000 + 30, "one window, then one record a try: {sent}");
    world.broker.policy = Box::new(|_| Reply::Ack(0));
    world.run_for(Duration::from_secs(301 + 5));
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
}

#[test]
fn a_record_over_the_brokers_maximum_packet_size_is_put_aside_unsent() {
    let mut world = World::new(bare_settings());
    world.broker.maximum_packet_size = Some(500);
    world.store(Lane::Normal, "a", b"1");
    world.store(Lane::Normal, "a", &[b'x'; 600]);
    world.store(Lane::Normal, "a", b"2");
    world.settle();
    assert_eq!(world.payloads(), ["1", "2"]);
    assert_eq!(world.outbox.rejected, [(Lane::Normal, 2, 0x95)]);
}

#[test]
fn when_the_rejected_store_is_full_that_lane_stops_until_there_is_room() {
    let mut world = World::new(bare_settings());
    world.outbox.rejected_room = 0;
    world.broker.policy = on_bad(Reply::Ack(0x87));
    ten_with_a_bad_third(&mut world);
    world.store(Lane::High, "good", b"high");
    world.run_for(Duration::from_secs(60));
    world.store(Lane::Normal, "good", b"11");
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.outbox.released[1], [1, 2]);
    assert_eq!(world.outbox.released[0], [1]);
    assert!(!world.payloads().contains(&"11".to_owned()), "the lane reads nothing new");
    assert!(world.count(|e| matches!(e, Event::Publisher(PublisherEvent::RejectedFull { .. }))) > 2);
    world.outbox.rejected_room = 1;
    world.run_for(Duration::from_secs(301));
    assert_eq!(world.outbox.rejected, [(Lane::Normal, 3, 0x87)]);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
}

#[test]
fn a_record_the_broker_closes_the_connection_over_is_sent_alone_and_then_put_aside() {
    for (reply, protocol) in [
        (Reply::Close, Protocol::V5),
        (Reply::Close, Protocol::V3_1_1),
        (Reply::Disconnect(0x87), Protocol::V5),
        (Reply::Disconnect(0x99), Protocol::V5),
    ] {
        let mut settings = bare_settings();
        settings.protocol = protocol;
        let mut world = World::new(settings);
        world.broker.policy = on_bad(reply);
        ten_with_a_bad_third(&mut world);
        world.run_for(Duration::from_secs(120));
        assert_eq!(world.outbox.rejected, [(Lane::Normal, 3, POISON)], "{reply:?}");
        assert_eq!(world.outbox.waiting(Lane::Normal), 0, "{reply:?}");
        assert_eq!(world.payloads(), THE_OTHERS);
        assert_eq!(world.broker.links, 5, "three closes, one alone, and on");
    }
}

#[test]
fn of_a_window_full_of_records_only_the_culprit_is_put_aside() {
    // The broker closes at the bad one without having answered those before it.
    let mut world = World::new(bare_settings());
    let mut held = 0;
    world.broker.policy = Box::new(move |delivered| match delivered.topic.as_str() {
        "bad" => Reply::Close,
        _ if held < 60 => {
            held += 1;
            Reply::Hold
        }
        _ => Reply::Ack(0),
    });
    for number in 0..40 {
        let topic = if number == 20 { "bad" } else { "good" };
        world.store(Lane::Normal, topic, number.to_string().as_bytes());
    }
    world.run_for(Duration::from_secs(600));
    assert_eq!(world.outbox.rejected, [(Lane::Normal, 21, POISON)]);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
}

#[test]
fn two_poisons_in_two_lanes_are_both_found() {
    let mut world = World::new(bare_settings());
    world.broker.policy = on_bad(Reply::Close);
    for lane in Lane::ALL {
        for topic in ["good", "bad", "good"] {
            world.store(lane, topic, b"1");
        }
    }
    world.run_for(Duration::from_secs(1800));
    assert_eq!(world.outbox.rejected.len(), 2);
    assert_eq!(world.payloads().len(), 4);
    assert_eq!(world.outbox.waiting(Lane::High) + world.outbox.waiting(Lane::Normal), 0);
}

#[test]
fn a_network_that_breaks_or_a_broker_that_restarts_accuses_no_record() {
    let mut world = World::new(bare_settings());
    world.broker.policy = Box::new(|_| Reply::Disconnect(0x8B)); // server shutting down
    ten_with_a_bad_third(&mut world);
    world.run_for(Duration::from_secs(3600));
    assert!(world.outbox.rejected.is_empty());
    // Silence, again and again, with the same record in flight.
    world.broker.policy = Box::new(|_| Reply::Hold);
    world.broker.answers_pings = false;
    world.run_for(Duration::from_secs(3600));
    assert!(world.outbox.rejected.is_empty());
    world.broker.policy = Box::new(|_| Reply::Ack(0));
    world.run_for(Duration::from_secs(600));
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
}

#[test]
fn a_status_topic_the_broker_closes_over_costs_the_status_and_no_record() {
    let mut world = World::new(settings());
    world.broker.policy =
        Box::new(|delivered| if delivered.topic.ends_with("/status") { Reply::Close } else { Reply::Ack(0) });
    for number in 1..=10 {
        world.store(Lane::Normal, "good", number.to_string().as_bytes());
    }
    world.run_for(Duration::from_secs(600));
    assert!(world.outbox.rejected.is_empty());
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    assert_eq!(world.count(|e| matches!(e, Event::Publisher(PublisherEvent::OwnPaused { .. }))), 1);
    // An hour of peace but for the device statuses, which are given up just so.
    world.uplink.set_device_status("door-7", b"{}".to_vec());
    world.store(Lane::Normal, "good", b"11");
    world.run_for(Duration::from_secs(900));
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    assert!(world.outbox.rejected.is_empty());
    assert_eq!(world.count(|e| matches!(e, Event::Publisher(PublisherEvent::OwnPaused { .. }))), 2);
    assert!(world.uplink.is_connected());
}

#[test]
fn a_subscription_the_broker_closes_over_is_left_out() {
    let mut world = World::new(settings());
    world.broker.subscribe_reply = Reply::Close;
    world.store(Lane::Normal, "good", b"1");
    world.run_for(Duration::from_secs(600));
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    assert!(world.uplink.is_connected());
    assert!(world.outbox.rejected.is_empty());
}

#[test]
fn volatile_readings_the_broker_closes_over_pause_and_stored_ones_flow() {
    use tombolo::message::{Content, Envelope, Method};
    let mut world = World::new(bare_settings());
    world.broker.policy = on_bad(Reply::Close);
    for second in 0..600 {
        if second % 10 == 0 {
            world.store(Lane::Normal, "good", b"1");
        }
        let content = Content {
            device: "d",
            path: "p",
            topic: "bad",
            method: Method::Post,
            content_format: None,
            retain: false,
            envelope: Envelope::None,
            expires_s: None,
            received: world.moment.stamp(),
            payload: b"",
        };
        world.uplink.push_volatile(&content);
        world.run_for(Duration::from_secs(1));
    }
    assert!(world.count(|e| matches!(e, Event::Publisher(PublisherEvent::VolatilePaused))) >= 1);
    assert!(world.outbox.waiting(Lane::Normal) <= 1);
    assert!(world.outbox.rejected.is_empty());
    assert!(world.broker.links < 40, "{}", world.broker.links);
}
