//! Filters of local-subscribe rules: what a subscriber does not get although it may.

use super::super::bus::{Grant, LocalRule, LocalRules};
use super::*;
use crate::gate::condition::{Test, When};
use crate::gate::field::FieldPointer;
use crate::gate::filter::PATHS_MAX;
use crate::gate::settings::ReadingFilter;

fn rule(name_: &str, topic: &str, filter: ReadingFilter) -> LocalRule {
    LocalRule {
        name: name(name_),
        from: None,
        topic: topic.to_owned(),
        deny: false,
        grant: Grant::ALL,
        content_formats: Vec::new(),
        filter,
    }
}

fn settings(subscribe: Vec<LocalRule>) -> Settings {
    let publish = vec![rule("all", "home/#", ReadingFilter::default())];
    let local = vec![(name("sensor"), LocalRules { publish, subscribe })];
    Settings { local, mirror: Some("{device}/{path}".to_owned()), ..Settings::default() }
}

/// A sender, and a receiver with a session that subscribed to everything.
fn world(subscribe: Vec<LocalRule>, qos: Qos) -> (World, ConnectionNumber, ConnectionNumber) {
    let mut world = World::with(settings(subscribe), 1_000);
    let sender = world.client(HELLO);
    let receiver = world.client(Hello { client_id: "r", clean: false, expiry: Some(3_600), ..HELLO });
    world.say(receiver, &super::subscribe("#", SubOpts::new().set_qos(qos)));
    world.heard(receiver);
    (world, sender, receiver)
}

fn on_change() -> ReadingFilter {
    ReadingFilter { on_change: true, ..ReadingFilter::default() }
}

/// What the receiver gets of these payloads on a topic, sent with this QoS one after another.
fn gets(
    world: &mut World,
    (sender, receiver): (ConnectionNumber, ConnectionNumber),
    qos: Qos,
    topic: &str,
    payloads: &[&str],
) -> Vec<String> {
    let mut all = Vec::new();
    for payload in payloads {
        world.say(sender, &publish(true, topic, qos, 7, payload.as_bytes()));
        world.heard(sender);
        all.extend(world.received(receiver).into_iter().map(|(_, payload, _)| payload));
    }
    all
}

#[test]
fn what_equals_the_message_before_on_its_topic_is_held_back_with_either_qos_and_counted() {
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
        let (mut world, sender, receiver) = world(vec![rule("home", "home/#", on_change())], qos);
        let mut got =
            |topic: &str, payloads: &[&str]| gets(&mut world, (sender, receiver), qos, topic, payloads);
        assert_eq!(got("home/a", &["1", "1", "2", "2", "1"]), ["1", "2", "1"], "{qos:?}");
        assert_eq!(got("home/b", &["1"]), ["1"], "another topic");
        assert_eq!(world.intake.take_local_filtered(), 2, "{qos:?}");
        assert_eq!(world.intake.take_local_filtered(), 0);
    }
}

#[test]
fn each_subscriber_is_measured_by_what_it_got_itself() {
    let (mut world, sender, receiver) = world(vec![rule("home", "home/#", on_change())], Qos::AtMostOnce);
    let both = (sender, receiver);
    assert_eq!(gets(&mut world, both, Qos::AtMostOnce, "home/a", &["1"]), ["1"]);
    let late = world.client(Hello { client_id: "late", ..HELLO });
    world.say(late, &super::subscribe("home/+", SubOpts::new()));
    world.heard(late);
    assert_eq!(gets(&mut world, (sender, late), Qos::AtMostOnce, "home/a", &["1", "1"]), ["1"]);
    assert!(world.received(receiver).is_empty());
    // A subscription that is new begins anew.
    world.say(receiver, &super::subscribe("home/a", SubOpts::new()));
    world.heard(receiver);
    assert_eq!(gets(&mut world, both, Qos::AtMostOnce, "home/a", &["1", "1"]), ["1"]);
}

#[test]
fn a_dead_band_and_a_minimum_interval_hold_back_and_what_is_no_number_passes() {
    let field = FieldPointer::parse("/t").expect("a pointer");
    let band =
        ReadingFilter { dead_band: Some(0.5), dead_band_field: Some(field), ..ReadingFilter::default() };
    let seldom = ReadingFilter { min_interval: Some(Duration::from_secs(10)), ..ReadingFilter::default() };
    let rules = vec![rule("band", "home/t", band), rule("seldom", "home/s", seldom)];
    let (mut world, sender, receiver) = world(rules, Qos::AtMostOnce);
    let both = (sender, receiver);
    let payloads = ["{\"t\":1}", "{\"t\":1.5}", "{\"t\":1.6}", "no number", "{\"t\":1.6}"];
    let got = gets(&mut world, both, Qos::AtMostOnce, "home/t", &payloads);
    assert_eq!(got, ["{\"t\":1}", "{\"t\":1.6}", "no number", "{\"t\":1.6}"]);
    assert_eq!(gets(&mut world, both, Qos::AtMostOnce, "home/s", &["1", "2"]), ["1"]);
    world.moment.now += Duration::from_secs(10);
    assert_eq!(gets(&mut world, both, Qos::AtMostOnce, "home/s", &["3", "4"]), ["3"]);
}

#[test]
fn what_conditions_hold_back_is_counted_and_is_no_message_before() {
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
        let field = FieldPointer::parse("/t").expect("a pointer");
        let when = When::new(vec![vec![(Some(field), Test::Above(30.0))]]).expect("few comparisons");
        let hot = ReadingFilter { when, ..on_change() };
        let (mut world, sender, receiver) = world(vec![rule("hot", "home/#", hot)], qos);
        let both = (sender, receiver);
        let payloads = ["{\"t\":31}", "{\"t\":30}", "{\"t\":31}", "{}", "no number", "{\"t\":32}"];
        let got = gets(&mut world, both, qos, "home/t", &payloads);
        assert_eq!(got, ["{\"t\":31}", "{}", "no number", "{\"t\":32}"], "{qos:?}");
        assert_eq!(world.intake.take_local_filtered(), 2, "{qos:?}");
    }
}

#[test]
fn a_message_that_one_rule_lets_through_is_delivered_and_one_of_another_type_is_not() {
    let json = LocalRule {
        content_formats: vec![Some(crate::message::ContentFormat::JSON)],
        ..rule("json", "+/t/#", ReadingFilter::default())
    };
    let rules =
        vec![rule("home", "home/#", on_change()), rule("loud", "home/loud", ReadingFilter::default()), json];
    let (mut world, sender, receiver) = world(rules, Qos::AtMostOnce);
    let both = (sender, receiver);
    assert_eq!(gets(&mut world, both, Qos::AtMostOnce, "home/loud", &["1", "1"]), ["1", "1"]);
    assert_eq!(world.intake.take_local_filtered(), 0);
    let now = world.moment.now;
    for (content_format, count) in [(None, 0), (Some(crate::message::ContentFormat::JSON), 1)] {
        let accepted = super::super::Accepted {
            device: "door-7",
            path: "t/env",
            payload: b"1",
            content_format,
            retain: false,
        };
        world.intake.handle_accepted(now, &accepted);
        assert_eq!(world.received(receiver).len(), count, "{content_format:?}");
    }
    assert_eq!(world.intake.take_local_filtered(), 0, "a type that no rule takes is not allowed");
}

#[test]
fn a_retained_message_begins_a_subscription_and_the_next_is_measured_against_it() {
    let (mut world, sender, receiver) = world(vec![rule("home", "home/#", on_change())], Qos::AtMostOnce);
    let retained = |payload: &[u8]| {
        let publish =
            v5_0::Publish::builder().topic_name("home/lamp").unwrap().qos(Qos::AtMostOnce).retain(true);
        publish.payload(payload.to_vec()).build().unwrap().to_continuous_buffer()
    };
    world.say(sender, &retained(b"on"));
    assert_eq!(world.received(receiver).len(), 1);
    // The same subscription again is no new one, and gets the state again all the same.
    world.say(receiver, &super::subscribe("#", SubOpts::new()));
    assert_eq!(world.received(receiver), [got("home/lamp", "on", true)]);
    world.say(sender, &retained(b"on"));
    assert!(world.received(receiver).is_empty());
    world.say(sender, &retained(b"off"));
    assert_eq!(world.received(receiver), [got("home/lamp", "off", false)]);
}

#[test]
fn a_message_that_is_dropped_for_want_of_room_holds_nothing_back() {
    let (mut world, sender, receiver) = world(vec![rule("home", "home/#", on_change())], Qos::AtMostOnce);
    let large = vec![b'x'; 60_000];
    for number in 0..3_u8 {
        let mut payload = large.clone();
        payload[0] = number;
        world.say(sender, &publish(true, "home/big", Qos::AtMostOnce, 0, &payload));
        world.carry();
    }
    world.say(sender, &publish(true, "home/a", Qos::AtMostOnce, 0, b"1"));
    world.carry();
    assert!(world.pipeline.counters.value(Counter::MqttLocalDropped) > 0);
    let mut bytes = Vec::new();
    world.intake.take_output(world.moment.now, receiver, &mut bytes);
    assert_eq!(gets(&mut world, (sender, receiver), Qos::AtMostOnce, "home/a", &["1", "1"]), ["1"]);
}

#[test]
fn what_is_remembered_is_bounded_and_survives_a_connection_and_a_reload_of_other_rules() {
    let (mut world, sender, receiver) = world(vec![rule("home", "home/#", on_change())], Qos::AtLeastOnce);
    let both = (sender, receiver);
    for number in 0..=PATHS_MAX {
        let topic = format!("home/{number}");
        assert_eq!(gets(&mut world, both, Qos::AtLeastOnce, &topic, &["1"]), ["1"]);
        world.say(receiver, &puback(number as u16 + 1));
        world.moment.now += Duration::from_secs(1);
    }
    // The topic whose message is oldest was forgotten; the newest are not.
    assert!(gets(&mut world, both, Qos::AtLeastOnce, &format!("home/{PATHS_MAX}"), &["1"]).is_empty());
    assert_eq!(gets(&mut world, both, Qos::AtLeastOnce, "home/0", &["1"]), ["1"]);
    world.say(receiver, &puback(PATHS_MAX as u16 + 2));

    world.intake.handle_closed(&world.moment, receiver, &mut world.pipeline);
    world.say(sender, &publish(true, "home/0", Qos::AtLeastOnce, 9, b"1"));
    assert_eq!(world.intake.queued_count(), 0, "the session knows what it got");
    let more = vec![rule("home", "home/#", on_change()), rule("more", "other/#", ReadingFilter::default())];
    world.intake.replace(&settings(more), &roles());
    let World { intake, moment, pipeline, .. } = &mut world;
    intake.review(moment, pipeline);
    world.say(sender, &publish(true, "home/0", Qos::AtLeastOnce, 9, b"1"));
    assert_eq!(world.intake.queued_count(), 0);
    // A changed filter has nothing to measure against.
    let band = ReadingFilter { dead_band: Some(0.0), ..on_change() };
    world.intake.replace(&settings(vec![rule("home", "home/#", band)]), &roles());
    let World { intake, moment, pipeline, .. } = &mut world;
    intake.review(moment, pipeline);
    world.say(sender, &publish(true, "home/0", Qos::AtLeastOnce, 9, b"1"));
    assert_eq!(world.intake.queued_count(), 1);
}

fn puback(id: u16) -> Vec<u8> {
    v5_0::Puback::builder().packet_id(id).build().unwrap().to_continuous_buffer()
}
