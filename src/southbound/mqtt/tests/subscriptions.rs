//! Subscriptions as they are made, replaced and ended, and the client's Maximum Packet Size.

use super::*;
use mqtt::packet::RetainHandling;

/// The first byte of UNSUBACK.
const UNSUBACK: u8 = 0xB0;

fn unsubscribe(id: u16, filters: &[&str]) -> Vec<u8> {
    let unsubscribe = v5_0::Unsubscribe::builder().packet_id(id).entries(filters.to_vec()).unwrap();
    unsubscribe.build().unwrap().to_continuous_buffer()
}

#[test]
fn each_filter_has_its_code_in_order_and_what_is_unsubscribed_brings_nothing_more() {
    let mut world = local(None);
    let client = world.client(HELLO);
    let entry = |filter: &str, qos| SubEntry::new(filter, SubOpts::new().set_qos(qos)).unwrap();
    let entries = vec![
        entry("home/#", Qos::AtMostOnce),
        entry("nowhere/x/#", Qos::AtLeastOnce),
        entry("home/+/x", Qos::AtLeastOnce),
        entry("home/door-7/y", Qos::ExactlyOnce),
    ];
    let subscribe = v5_0::Subscribe::builder().packet_id(700).entries(entries).build().unwrap();
    world.say(client, &subscribe.to_continuous_buffer());
    assert_eq!(world.heard(client), [(SUBACK, vec![2, 188, 0, 0, 0x87, 1, 2])]);
    // Many clients do not show it: it is told here.
    let index = world.pipeline.gate.device_by_id("door-7").expect("a device");
    let (count, last) = world.intake.refused_filters_of(index).expect("one");
    assert_eq!((count, last.filter.as_str()), (1, "nowhere/x/#"));
    let say = |world: &mut World, path: &str| {
        world.say(client, &publish(true, &format!("home/door-7/{path}"), Qos::AtMostOnce, 0, b"1"));
        world.received(client).len()
    };
    assert_eq!((say(&mut world, "x"), say(&mut world, "z")), (1, 1));
    // Letter by letter: `home/+/y` is none of them.
    world.say(client, &unsubscribe(701, &["home/+/y", "home/#", "home/#"]));
    assert_eq!(world.heard(client), [(UNSUBACK, vec![2, 189, 0, 0x11, 0, 0x11])]);
    assert_eq!((say(&mut world, "x"), say(&mut world, "z"), say(&mut world, "y")), (1, 0, 1));
    world.say(client, &unsubscribe(702, &["home/+/x", "home/door-7/y"]));
    assert_eq!(world.heard(client), [(UNSUBACK, vec![2, 190, 0, 0, 0])]);
    assert_eq!((say(&mut world, "x"), say(&mut world, "y")), (0, 0));
}

#[test]
fn a_filter_of_which_a_deny_rule_holds_back_everything_is_refused_in_both_versions() {
    let mut world = local(None);
    // `home/+/secret` is denied.
    for (filter, code) in [
        ("home/door-7/secret", 0x87),
        ("home/+/secret", 0x87),
        ("+/door-7/secret", 0x87),
        ("home/+/+", 2),
        ("home/door-7/secret/#", 2),
        ("home/#", 2),
    ] {
        let client = world.client(HELLO);
        world.say(client, &subscribe(filter, SubOpts::new().set_qos(Qos::ExactlyOnce)));
        assert_eq!(world.heard(client), [(SUBACK, vec![0, 3, 0, code])], "{filter}");
        let old = world.client(Hello { client_id: "old", ..OLD });
        let entries = vec![SubEntry::new(filter, SubOpts::new().set_qos(Qos::ExactlyOnce)).unwrap()];
        let bytes = v3_1_1::Subscribe::builder().packet_id(3).entries(entries).build().unwrap();
        world.say(old, &bytes.to_continuous_buffer());
        let code = if code == 2 { 2 } else { 0x80 };
        assert_eq!(world.heard(old), [(SUBACK, vec![0, 3, code])], "{filter}");
    }
    // What it was refused last is known.
    let index = world.pipeline.gate.device_by_id("door-7").expect("a device");
    let (count, last) = world.intake.refused_filters_of(index).expect("some");
    assert_eq!((count, last.filter.as_str()), (6, "+/door-7/secret"));
}

#[test]
fn a_session_has_at_most_64_subscriptions_and_one_that_it_has_is_made_again() {
    for (five, full) in [(true, 0x97), (false, 0x80)] {
        let mut world = local(None);
        let client = world.client(Hello { five, ..HELLO });
        let code = |world: &mut World, filter: &str| {
            world.say(client, &subscribe_in(five, filter, SubOpts::new()));
            world.pass(Duration::from_secs(60));
            let heard = world.heard(client);
            assert_eq!((heard.len(), heard[0].0), (1, SUBACK), "{filter}");
            *heard[0].1.last().expect("a code")
        };
        for number in 0..64 {
            assert_eq!(code(&mut world, &format!("home/{number}/+")), 0, "{number}");
        }
        assert_eq!(code(&mut world, "home/64/+"), full);
        assert_eq!(world.pipeline.counters.value(Counter::MqttSubscriptionsRefused), 1);
        assert_eq!(code(&mut world, "home/7/+"), 0, "it is there already");
        let mut gone = unsubscribe(4, &["home/7/+"]);
        if !five {
            // 3.1.1 has no properties.
            gone.remove(4);
            gone[1] -= 1;
        }
        world.say(client, &gone);
        world.heard(client);
        assert_eq!(code(&mut world, "home/64/+"), 0, "there is room again");
        assert_eq!(code(&mut world, "home/7/+"), full);
        // Another session has its own.
        let other = world.client(Hello { five, client_id: "other", ..HELLO });
        world.say(other, &subscribe_in(five, "home/64/+", SubOpts::new()));
        assert_eq!(*world.heard(other)[0].1.last().expect("a code"), 0);
    }
}

#[test]
fn a_client_that_subscribes_and_unsubscribes_without_end_joins_the_bus_once() {
    let mut world = local(None);
    let client = world.client(HELLO);
    for _ in 0..100 {
        let both = [subscribe("home/#", SubOpts::new()), unsubscribe(4, &["home/#"])].concat();
        world.say(client, &both);
        world.heard(client);
    }
    let requests: Vec<_> = std::iter::from_fn(|| world.intake.poll_bus()).collect();
    assert!(matches!(requests[..], [super::super::BusRequest::Join(_)]), "{requests:?}");
    world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
    assert!(matches!(world.intake.poll_bus(), Some(super::super::BusRequest::Leave(_))));
}

#[test]
fn a_message_that_was_sent_is_completed_though_its_subscription_is_gone() {
    let mut world = local(None);
    let kept = Hello { client_id: "r", clean: false, expiry: Some(60), ..HELLO };
    let sender = world.client(HELLO);
    let receiver = world.client(kept);
    world.say(receiver, &subscribe("home/#", SubOpts::new().set_qos(Qos::ExactlyOnce)));
    world.heard(receiver);
    world.say(sender, &[one(1, "home/door-7/x"), two(2, "home/door-7/x")].concat());
    assert_eq!(world.kinds(receiver), [0x32, 0x34]);
    world.say(receiver, &unsubscribe(4, &["home/#"]));
    world.heard(receiver);
    world.say(sender, &one(3, "home/door-7/x"));
    assert!(world.heard(receiver).is_empty());
    world.intake.handle_closed(&world.moment, receiver, &mut world.pipeline);
    let receiver = world.connect(kept);
    assert_eq!(world.kinds(receiver), [CONNACK, 0x3A, 0x3C], "both again, with their QoS");
    world.say(receiver, &[0x50, 2, 0, 2]);
    assert_eq!(world.heard(receiver), [(0x62, vec![0, 2])]);
}

#[test]
fn retain_handling_says_which_subscription_begins_with_what_is_retained() {
    use RetainHandling::{DoNotSendRetained, SendRetained, SendRetainedIfNotExists};
    for (handling, first, again) in
        [(SendRetained, 1, 1), (SendRetainedIfNotExists, 1, 0), (DoNotSendRetained, 0, 0)]
    {
        let mut world = local(None);
        let client = world.client(HELLO);
        let retained = v5_0::Publish::builder().topic_name("home/door-7/x").unwrap().retain(true);
        let retained = retained.qos(Qos::AtMostOnce).payload(b"1".to_vec()).build().unwrap();
        world.say(client, &retained.to_continuous_buffer());
        for expected in [first, again] {
            world.say(client, &subscribe("home/#", SubOpts::new().set_rh(handling)));
            assert_eq!(world.received(client).len(), expected, "{handling:?}");
        }
    }
}

#[test]
fn a_client_gets_nothing_larger_than_it_takes_and_goes_on() {
    let mut world = local(None);
    let connect = v5_0::Connect::builder().client_id("small").unwrap().clean_start(true);
    let connect = connect.user_name("door-7").unwrap().password("sesame").unwrap();
    let most = mqtt::packet::MaximumPacketSize::new(40).unwrap().into();
    let small = world.open();
    world.say(small, &connect.props(vec![most]).build().unwrap().to_continuous_buffer());
    assert_eq!(world.kinds(small), [CONNACK]);
    let sender = world.client(HELLO);
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
        world.say(small, &subscribe("home/#", SubOpts::new().set_qos(qos)));
        world.heard(small);
        world.say(sender, &publish(true, "home/door-7/x", Qos::ExactlyOnce, 1 + qos as u16, &[b'x'; 50]));
        world.say(sender, &publish(true, "home/door-7/x", Qos::AtLeastOnce, 9, b"small"));
        assert_eq!(world.received(small), [got("home/door-7/x", "small", false)]);
        let acknowledged: Vec<u8> = vec![0x40, 2, 0, 2 * (qos as u8)];
        world.say(small, &acknowledged[..if qos == Qos::AtMostOnce { 0 } else { 4 }]);
    }
    assert!(!world.is_closed(small));
    assert_eq!(world.intake.queued_count(), 0);
    // A refusal leaves its reason out rather than itself.
    let long = format!("nowhere/{}", "x".repeat(20));
    world.say(small, &one(1, &long));
    let heard = world.heard(small);
    assert_eq!((heard.len(), acknowledged(&heard[0])), (1, (PUBACK, 1, 0x87)));
}

#[test]
fn a_client_that_wants_no_reasons_gets_codes_alone() {
    let mut world = World::new();
    let reasons = world.client(HELLO);
    let connect = v5_0::Connect::builder().client_id("plain").unwrap().clean_start(true);
    let connect = connect.user_name("door-7").unwrap().password("sesame").unwrap();
    let none = mqtt::packet::RequestProblemInformation::new(0).unwrap().into();
    let plain = world.open();
    world.say(plain, &connect.props(vec![none]).build().unwrap().to_continuous_buffer());
    assert_eq!(world.kinds(plain), [CONNACK]);
    for client in [reasons, plain] {
        world.say(client, &[one(1, "nowhere"), two(2, "nowhere")].concat());
    }
    assert!(world.heard(reasons).iter().all(|(_, body)| body.len() > 5));
    assert_eq!(world.heard(plain), [(PUBACK, vec![0, 1, 0x87, 0]), (PUBREC, vec![0, 2, 0x87, 0])]);
    // An id that was refused is free for a new message.
    world.say(plain, &two(2, "t/x"));
    world.commit(true);
    assert_eq!(world.heard(plain), [(PUBREC, vec![0, 2])]);
}

#[test]
fn no_local_is_about_retained_messages_of_ones_own_too() {
    let mut world = local(None);
    let kept = Hello { client_id: "r", clean: false, expiry: Some(3_600), ..HELLO };
    let (client, other) = (world.client(kept), world.client(HELLO));
    let retained = |topic: &str| {
        let publish = v5_0::Publish::builder().topic_name(topic).unwrap().qos(Qos::AtMostOnce).retain(true);
        publish.payload(b"1".to_vec()).build().unwrap().to_continuous_buffer()
    };
    world.say(client, &retained("home/door-7/own"));
    world.say(other, &retained("home/door-7/other"));
    world.heard(client);
    for (no_local, expected) in [(true, vec!["other"]), (false, vec!["other", "own"])] {
        world.say(client, &subscribe("home/#", SubOpts::new().set_nl(no_local)));
        let mut got = world.received(client);
        got.sort();
        let all = expected.iter().map(|end| got_retained(end)).collect::<Vec<_>>();
        assert_eq!(got, all, "No Local {no_local}");
    }
    // The same client with a new session is the same publisher.
    let again = world.client(Hello { clean: true, ..kept });
    world.say(again, &subscribe("home/#", SubOpts::new().set_nl(true)));
    assert_eq!(world.received(again), [got_retained("other")]);
}

fn got_retained(end: &str) -> (String, String, bool) {
    got(&format!("home/door-7/{end}"), "1", true)
}
