//! The gateway's own topics: statuses, the will's late word, clearing.

use std::time::Duration;

use tombolo::message::Lane;
use tombolo::northbound::publisher::Event as PublisherEvent;
use tombolo::northbound::settings::Protocol;
use tombolo::northbound::uplink::Event;

use crate::support::{STATUS, World, settings};
use tombolo_test_support::broker::Reply;

fn online(world: &World) -> bool {
    let status: serde_json::Value = serde_json::from_slice(&world.broker.retained[STATUS]).unwrap();
    status["online"] == true
}

#[test]
fn the_status_is_published_after_every_connack_before_anything_else() {
    let mut world = World::new(settings());
    world.store(Lane::Normal, "a", b"1");
    world.settle();
    assert_eq!(world.broker.delivered[0].topic, STATUS);
    assert!(world.broker.delivered[0].retain && online(&world));
    assert_eq!(world.broker.delivered[0].content_type.as_deref(), Some("application/json"));
    world.kill_broker();
    assert!(!online(&world), "the will");
    world.broker.reachable = true;
    world.run_for(Duration::from_secs(10));
    assert!(online(&world));
}

#[test]
fn a_late_will_over_our_status_is_set_right() {
    for protocol in [Protocol::V5, Protocol::V3_1_1] {
        let mut settings = settings();
        settings.protocol = protocol;
        let mut world = World::new(settings);
        world.run_for(Duration::from_secs(1));
        // The will of the connection before comes now.
        let offline = br#"{"online":false,"gateway":"g"}"#.to_vec();
        world.broker.retained.insert(STATUS.to_owned(), offline.clone());
        let link = world.link.as_mut().unwrap();
        world.broker.send_message(link, STATUS, &offline);
        let bytes = std::mem::take(&mut link.outgoing);
        world.uplink.handle_bytes(&world.moment, &mut world.outbox, &bytes);
        world.settle();
        assert!(online(&world));
        assert_eq!(world.count(|event| *event == Event::StatusRepaired), 1);
    }
}

#[test]
fn one_who_keeps_saying_we_are_offline_is_answered_ever_more_seldom() {
    let mut world = World::new(settings());
    world.run_for(Duration::from_secs(1));
    for _ in 0..600 {
        let link = world.link.as_mut().unwrap();
        world.broker.send_message(link, STATUS, br#"{"online":false}"#);
        let bytes = std::mem::take(&mut link.outgoing);
        world.uplink.handle_bytes(&world.moment, &mut world.outbox, &bytes);
        world.run_for(Duration::from_secs(1));
    }
    let repaired = world.count(|event| *event == Event::StatusRepaired);
    assert!((5..20).contains(&repaired), "{repaired}");
    world.run_for(Duration::from_secs(300));
    assert!(online(&world));
}

#[test]
fn device_statuses_are_retained_replaced_and_cleared() {
    let mut world = World::new(settings());
    let topic = "tombolo/g/door-7/status";
    world.uplink.set_device_status("door-7", b"{\"n\":1}".to_vec());
    world.uplink.set_device_status("door-7", b"{\"n\":2}".to_vec());
    world.settle();
    assert_eq!(world.broker.retained[topic], b"{\"n\":2}");
    assert_eq!(world.broker.delivered.iter().filter(|d| d.topic == topic).count(), 1);
    world.uplink.clear_device_status("door-7");
    world.settle();
    assert!(!world.broker.retained.contains_key(topic));
}

#[test]
fn a_status_set_while_offline_or_not_acknowledged_goes_out_later() {
    let mut world = World::new(settings());
    world.settle();
    world.broker.policy = Box::new(|_| Reply::Hold);
    world.uplink.set_device_status("door-7", b"{\"n\":1}".to_vec());
    world.settle();
    world.kill_broker();
    world.uplink.set_device_status("door-8", b"{\"n\":2}".to_vec());
    world.broker.policy = Box::new(|_| Reply::Ack(0));
    world.broker.reachable = true;
    world.broker.delivered.clear();
    // The first was alone in flight when the connection went: the next one has to stand without
    // them first.
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.broker.retained["tombolo/g/door-7/status"], b"{\"n\":1}");
    assert_eq!(world.broker.retained["tombolo/g/door-8/status"], b"{\"n\":2}");
    assert_eq!(world.broker.delivered[0].topic, STATUS, "the gateway's own comes first");
}

#[test]
fn a_status_that_is_too_much_is_tried_again_soon_and_one_refused_ever_more_seldom() {
    let mut world = World::new(settings());
    world.settle();
    world.broker.policy = Box::new(|_| Reply::Ack(0x97));
    world.uplink.set_device_status("door-7", b"{}".to_vec());
    world.run_for(Duration::from_secs(1));
    world.broker.policy = Box::new(|_| Reply::Ack(0));
    world.run_for(Duration::from_secs(6));
    assert!(world.broker.retained.contains_key("tombolo/g/door-7/status"));
    world.broker.policy = Box::new(|_| Reply::Ack(0x87));
    world.uplink.set_device_status("door-8", b"{}".to_vec());
    world.run_for(Duration::from_secs(60));
    let refused = |e: &Event| matches!(e, Event::Publisher(PublisherEvent::OwnRefused { topic, code: 0x87 }) if topic.contains("door-8"));
    assert_eq!(world.count(refused), 1);
    assert!(world.status().left_out.iter().any(|what| what.contains("door-8")));
    world.broker.policy = Box::new(|_| Reply::Ack(0));
    world.run_for(Duration::from_secs(120));
    assert!(world.broker.retained.contains_key("tombolo/g/door-8/status"));
    assert!(world.status().left_out.is_empty());
}

#[test]
fn a_broker_that_refuses_the_status_or_the_subscription_still_gets_the_records() {
    let mut world = World::new(settings());
    world.broker.policy = Box::new(|d| if d.topic == STATUS { Reply::Ack(0x87) } else { Reply::Ack(0) });
    world.broker.subscribe_reply = Reply::Ack(0x87);
    world.store(Lane::Normal, "a", b"1");
    world.settle();
    assert_eq!(world.payloads(), ["1"]);
    assert_eq!(world.count(|event| *event == Event::SubscriptionRefused { code: 0x87 }), 1);
    // Answers that never come do not hold anything up for long either.
    let mut world = World::new(settings());
    world.broker.policy = Box::new(|d| if d.topic == STATUS { Reply::Hold } else { Reply::Ack(0) });
    world.broker.subscribe_reply = Reply::Hold;
    world.store(Lane::Normal, "a", b"1");
    world.run_for(Duration::from_secs(25));
    assert!(world.payloads().contains(&"1".to_owned()));
}

/// The sentences about what the broker does not answer or deliver.
fn unheard(world: &World) -> Vec<String> {
    world.status().unheard
}

#[test]
fn a_subscription_that_is_never_answered_is_named_until_it_is() {
    for protocol in [Protocol::V5, Protocol::V3_1_1] {
        let mut settings = settings();
        settings.protocol = protocol;
        let mut world = World::new(settings);
        world.broker.subscribe_reply = Reply::Hold;
        world.store(Lane::Normal, "a", b"1");
        world.run_for(Duration::from_secs(60));
        assert!(world.payloads().contains(&"1".to_owned()), "readings flow all the same");
        let named = unheard(&world);
        assert!(
            named.iter().any(|text| text.contains("does not answer") && text.contains(STATUS)),
            "{named:?}"
        );
        // The next connection's is answered.
        world.broker.subscribe_reply = Reply::Ack(0);
        world.cut();
        world.run_for(Duration::from_secs(60));
        assert_eq!(unheard(&world), [""; 0]);
    }
}

#[test]
fn an_own_status_that_does_not_come_back_is_named_until_it_does() {
    for protocol in [Protocol::V5, Protocol::V3_1_1] {
        let mut settings = settings();
        settings.protocol = protocol;
        let mut world = World::new(settings);
        world.broker.delivers = false;
        world.store(Lane::Normal, "a", b"1");
        world.run_for(Duration::from_secs(15));
        assert_eq!(unheard(&world), [""; 0], "one may be lost: it has QoS 0");
        world.run_for(Duration::from_secs(15));
        let named = unheard(&world);
        assert!(
            named.len() == 1 && named[0].contains("does not deliver it") && named[0].contains(STATUS),
            "{named:?}"
        );
        assert!(world.status().connected && world.payloads().contains(&"1".to_owned()));
        // It is not said ever faster: a handful of messages an hour.
        let said = |world: &World| world.broker.delivered.iter().filter(|d| d.topic == STATUS).count();
        let before = said(&world);
        world.run_for(Duration::from_secs(3_600));
        assert!((10..=14).contains(&(said(&world) - before)), "{}", said(&world) - before);
        world.broker.delivers = true;
        world.run_for(Duration::from_secs(301));
        assert_eq!(unheard(&world), [""; 0]);
    }
}

#[test]
fn where_the_subscription_is_refused_no_echo_is_missed() {
    let mut world = World::new(settings());
    world.broker.delivers = false;
    world.broker.subscribe_reply = Reply::Ack(0x87);
    world.run_for(Duration::from_secs(60));
    let named = unheard(&world);
    assert!(
        named.len() == 1 && named[0].contains(STATUS) && named[0].contains("the broker refuses it"),
        "{named:?}"
    );
    // No reading depends on it, so it is no fault.
    assert!(world.status().left_out.is_empty(), "{:?}", world.status().left_out);
}
