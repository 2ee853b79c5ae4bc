//! What MQTT 5 has with a message on its way to local subscribers: properties, expiry, Subscription
//! Identifiers; and QoS 2.

use super::*;
use mqtt::packet::{
    ContentType, CorrelationData, GenericPacket, GenericPacketTrait as _, MessageExpiryInterval,
    PayloadFormat, PayloadFormatIndicator, ResponseTopic, SubscriptionIdentifier, TopicAliasMaximum,
    UserProperty,
};

/// Properties that are forwarded, user properties twice and in an order.
fn properties() -> Vec<Property> {
    vec![
        PayloadFormatIndicator::new(PayloadFormat::String).unwrap().into(),
        ContentType::new("text/x-own").unwrap().into(),
        UserProperty::new("b", "2").unwrap().into(),
        ResponseTopic::new("home/door-7/answer").unwrap().into(),
        CorrelationData::new(vec![0, 1]).unwrap().into(),
        UserProperty::new("a", "1").unwrap().into(),
        UserProperty::new("a", "1").unwrap().into(),
    ]
}

const TOPIC: &str = "home/door-7/x";

fn message(qos: Qos, retain: bool, properties: Vec<Property>) -> Vec<u8> {
    let mut publish = v5_0::Publish::builder().topic_name(TOPIC).unwrap().qos(qos).retain(retain);
    if qos != Qos::AtMostOnce {
        publish = publish.packet_id(9);
    }
    publish.payload(b"1".to_vec()).props(properties).build().unwrap().to_continuous_buffer()
}

fn subscribing(filters: &[(&str, Qos)], identifier: Option<u32>) -> Vec<u8> {
    let entry = |(filter, qos): &(&str, Qos)| SubEntry::new(*filter, SubOpts::new().set_qos(*qos)).unwrap();
    let entries = filters.iter().map(entry).collect::<Vec<_>>();
    let properties: Vec<Property> =
        identifier.into_iter().map(|number| SubscriptionIdentifier::new(number).unwrap().into()).collect();
    let subscribe = v5_0::Subscribe::builder().packet_id(3).entries(entries);
    subscribe.props(properties).build().unwrap().to_continuous_buffer()
}

/// The publishes that a client gets.
fn publishes(world: &mut World, client: ConnectionNumber) -> Vec<v5_0::Publish> {
    world.carry();
    let publishes = world.heard(client).into_iter().filter(|(kind, _)| kind >> 4 == 3);
    let read = |(kind, body): (u8, Vec<u8>)| v5_0::Publish::parse(kind & 15, body.into()).unwrap().0;
    publishes.map(read).collect()
}

fn expiry(publish: &v5_0::Publish) -> Option<u32> {
    publish.props().iter().find_map(|property| match property {
        Property::MessageExpiryInterval(seconds) => Some(seconds.val()),
        _ => None,
    })
}

fn identifiers(publish: &v5_0::Publish) -> Vec<u32> {
    let of = |property: &Property| match property {
        Property::SubscriptionIdentifier(identifier) => Some(identifier.val()),
        _ => None,
    };
    publish.props().iter().filter_map(of).collect()
}

const AWAY: Hello<'_> = Hello { client_id: "r", clean: false, expiry: Some(3_600), ..HELLO };

#[test]
fn the_properties_of_a_message_reach_local_subscribers_unaltered_and_in_order() {
    let mut world = local(None);
    let sender = world.client(HELLO);
    let receiver = world.client(Hello { client_id: "r", ..HELLO });
    let old = world.client(Hello { client_id: "old", ..OLD });
    world.say(receiver, &subscribing(&[("home/#", Qos::ExactlyOnce)], None));
    let entries = vec![SubEntry::new("home/#", SubOpts::new()).unwrap()];
    let plain = v3_1_1::Subscribe::builder().packet_id(3).entries(entries).build().unwrap();
    world.say(old, &plain.to_continuous_buffer());
    world.heard(old);
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
        world.say(sender, &message(qos, true, properties()));
        let got = publishes(&mut world, receiver);
        assert_eq!((got.len(), got[0].qos(), got[0].dup()), (1, qos, false));
        assert_eq!(got[0].props(), &properties(), "{qos:?}");
        if qos == Qos::ExactlyOnce {
            world.say(sender, &pubrel(9));
        }
        let plain = [&[0, TOPIC.len() as u8][..], TOPIC.as_bytes(), b"1"].concat();
        assert_eq!(world.heard(old), [(0x30, plain)], "3.1.1 has none");
    }
    // A retained message has them too.
    world.say(sender, &subscribing(&[("home/+/x", Qos::AtMostOnce)], Some(5)));
    let got = publishes(&mut world, sender);
    let with_identifier = [properties(), vec![SubscriptionIdentifier::new(5).unwrap().into()]].concat();
    assert_eq!((got.len(), got[0].retain(), got[0].props()), (1, true, &with_identifier));
}

#[test]
fn a_message_says_how_long_it_lasts_and_is_not_sent_when_it_has_expired() {
    let mut world = local(None);
    let sender = world.client(HELLO);
    let receiver = world.client(AWAY);
    world.say(receiver, &subscribing(&[("home/#", Qos::AtLeastOnce)], None));
    let lasts = |seconds| vec![MessageExpiryInterval::new(seconds).unwrap().into()];
    world.say(sender, &message(Qos::AtMostOnce, false, lasts(6)));
    assert_eq!(publishes(&mut world, receiver).iter().map(expiry).collect::<Vec<_>>(), [Some(6)]);
    world.intake.handle_closed(&world.moment, receiver, &mut world.pipeline);
    for seconds in [1, 6] {
        world.say(sender, &message(Qos::AtLeastOnce, true, lasts(seconds)));
    }
    world.pass(Duration::from_secs(3));
    let receiver = world.connect(AWAY);
    let got = publishes(&mut world, receiver);
    assert_eq!(got.iter().map(expiry).collect::<Vec<_>>(), [Some(3)], "one has expired");
    assert_eq!(world.intake.take_local_expired(), 1);
    // The retained one lasts as long.
    for (wait, found) in [(0, 1), (4, 0)] {
        world.pass(Duration::from_secs(wait));
        world.say(sender, &subscribing(&[("home/+/x", Qos::AtMostOnce)], None));
        assert_eq!(publishes(&mut world, sender).len(), found);
    }
    assert_eq!(world.intake.take_local_expired(), 1);
}

#[test]
fn a_message_has_the_identifiers_of_all_subscriptions_that_it_is_for() {
    let mut world = local(None);
    let sender = world.client(HELLO);
    let receiver = world.client(Hello { client_id: "r", ..HELLO });
    world.say(
        receiver,
        &subscribing(&[("home/#", Qos::AtMostOnce), ("home/other", Qos::AtMostOnce)], Some(7)),
    );
    world.say(receiver, &subscribing(&[("home/+/x", Qos::ExactlyOnce)], Some(268_435_455)));
    world.say(receiver, &subscribing(&[("home/door-7/#", Qos::AtLeastOnce)], None));
    for qos in [Qos::AtMostOnce, Qos::ExactlyOnce] {
        world.say(sender, &message(qos, false, Vec::new()));
        let got = publishes(&mut world, receiver);
        assert_eq!((got.len(), got[0].qos()), (1, qos), "once, with the highest QoS");
        assert_eq!(identifiers(&got[0]), [7, 268_435_455]);
    }
    // A subscription that is made again has the new one, or none.
    world.say(receiver, &subscribing(&[("home/+/x", Qos::AtMostOnce)], None));
    world.heard(receiver);
    world.say(sender, &message(Qos::AtMostOnce, false, Vec::new()));
    assert_eq!(identifiers(&publishes(&mut world, receiver)[0]), [7]);
}

#[test]
fn a_message_comes_once_with_the_highest_qos_of_the_filters_of_a_client_of_3_1_1_too() {
    let mut world = local(None);
    let sender = world.client(OLD);
    let receiver = world.client(Hello { client_id: "r", ..OLD });
    for (filter, qos) in
        [("home/#", Qos::AtMostOnce), ("home/+/x", Qos::ExactlyOnce), ("home/door-7/#", Qos::AtLeastOnce)]
    {
        world.say(receiver, &subscribe_in(false, filter, SubOpts::new().set_qos(qos)));
    }
    world.heard(receiver);
    let came = |world: &mut World, qos| {
        world.say(sender, &publish(false, TOPIC, qos, 9, b"1"));
        if qos == Qos::ExactlyOnce {
            world.say(sender, &pubrel(9));
        }
        world.carry();
        world.kinds(receiver)
    };
    for (qos, first) in [(Qos::AtMostOnce, 0x30), (Qos::AtLeastOnce, 0x32), (Qos::ExactlyOnce, 0x34)] {
        assert_eq!(came(&mut world, qos), [first]);
    }
    // A subscription that is made again replaces the one before.
    world.say(receiver, &subscribe_in(false, "home/+/x", SubOpts::new()));
    world.heard(receiver);
    assert_eq!(came(&mut world, Qos::ExactlyOnce), [0x32]);
}

#[test]
fn a_message_of_qos_2_is_delivered_exactly_once_over_lost_connections() {
    for five in [true, false] {
        let mut world = local(None);
        let hello = Hello { five, receive_maximum: five.then_some(1), ..AWAY };
        let sender = world.client(HELLO);
        let receiver = world.client(hello);
        let entries = vec![SubEntry::new("home/#", SubOpts::new().set_qos(Qos::ExactlyOnce)).unwrap()];
        let subscribe = match five {
            true => GenericPacket::<u16>::from(
                v5_0::Subscribe::builder().packet_id(3).entries(entries).build().unwrap(),
            ),
            false => v3_1_1::Subscribe::builder().packet_id(3).entries(entries).build().unwrap().into(),
        };
        world.say(receiver, &subscribe.to_continuous_buffer());
        assert_eq!(*world.heard(receiver)[0].1.last().unwrap(), 2, "QoS 2 is granted");
        world.say(sender, &message(Qos::ExactlyOnce, false, Vec::new()));
        let lose = |world: &mut World, receiver| {
            world.intake.handle_closed(&world.moment, receiver, &mut world.pipeline);
            world.connect(hello)
        };
        assert_eq!(world.kinds(receiver), [0x34], "PUBLISH with QoS 2");
        // No PUBREC: again, with DUP.
        let receiver = lose(&mut world, receiver);
        assert_eq!(world.kinds(receiver), [CONNACK, 0x3C]);
        let pubrec = [0x50, 2, 0, 1];
        world.say(receiver, &pubrec);
        assert_eq!(world.heard(receiver), [(0x62, vec![0, 1])], "PUBREL");
        // PUBREC again: PUBREL again, and no protocol error.
        world.say(receiver, &pubrec);
        assert_eq!(world.heard(receiver), [(0x62, vec![0, 1])]);
        // No PUBCOMP: PUBREL again, and never the message.
        for _ in 0..2 {
            let receiver = lose(&mut world, receiver);
            let heard = world.heard(receiver);
            assert_eq!(heard[1..], [(0x62, vec![0, 1])]);
        }
        let receiver = lose(&mut world, receiver);
        world.heard(receiver);
        // On this connection PUBREL was sent for a publish of an earlier one.
        world.say(receiver, &[pubrec, pubrec].concat());
        assert_eq!(world.heard(receiver), [(0x62, vec![0, 1]), (0x62, vec![0, 1])]);
        assert_eq!(world.intake.queued_count(), 1);
        world.say(receiver, &[PUBCOMP, 2, 0, 1]);
        assert_eq!(world.intake.queued_count(), 0);
        assert!(!world.is_closed(receiver));
        let receiver = lose(&mut world, receiver);
        assert_eq!(world.kinds(receiver), [CONNACK]);
        // The next one finds room for one, and one that the client refuses is over.
        world.say(sender, &[pubrel(9), message(Qos::ExactlyOnce, false, Vec::new())].concat());
        assert_eq!(world.kinds(receiver), [0x34]);
        if five {
            world.say(receiver, &[PUBREC, 3, 0, 2, 0x97]);
            assert_eq!((world.kinds(receiver), world.intake.queued_count()), (vec![], 0));
        }
    }
}

#[test]
fn what_only_a_server_may_say_in_a_publish_closes_the_connection() {
    let response = |topic: &str| ResponseTopic::new(topic).unwrap().into();
    for property in [SubscriptionIdentifier::new(1).unwrap().into(), response("home/#"), response("+")] {
        let mut world = local(None);
        let client = world.client(HELLO);
        world.say(client, &message(Qos::AtMostOnce, false, vec![property]));
        assert_eq!(world.heard(client), [(DISCONNECT, vec![DisconnectReasonCode::ProtocolError as u8])]);
        assert!(world.is_closed(client));
    }
}

#[test]
fn any_topic_alias_maximum_of_a_client_is_taken_and_none_is_used() {
    for most in [0, 1, u16::MAX] {
        let mut world = local(None);
        let connect = v5_0::Connect::builder().client_id("c").unwrap().clean_start(true);
        let connect = connect.user_name("door-7").unwrap().password("sesame").unwrap();
        let properties = vec![
            UserProperty::new("a", "1").unwrap().into(),
            TopicAliasMaximum::new(most).unwrap().into(),
            mqtt::packet::SessionExpiryInterval::new(9).unwrap().into(),
        ];
        let client = world.open();
        world.say(client, &connect.props(properties).build().unwrap().to_continuous_buffer());
        assert_eq!(world.kinds(client), [CONNACK], "{most}");
        world.say(client, &subscribing(&[("home/#", Qos::AtMostOnce)], None));
        for _ in 0..2 {
            world.say(client, &message(Qos::AtMostOnce, false, Vec::new()));
            world.carry();
            // The topic, no alias, properties of a length of zero.
            let whole = [&[0, TOPIC.len() as u8][..], TOPIC.as_bytes(), &[0], b"1"].concat();
            let heard = world.heard(client);
            assert_eq!(heard.into_iter().find(|(kind, _)| *kind == 0x30), Some((0x30, whole)));
        }
    }
}

#[test]
fn a_will_goes_to_local_subscribers_with_its_qos_retain_flag_properties_and_expiry() {
    let mut world = local(None);
    let receiver = world.client(Hello { client_id: "r", ..HELLO });
    world.say(receiver, &subscribing(&[("home/#", Qos::ExactlyOnce)], None));
    world.heard(receiver);
    let leaves = |world: &mut World, delay: u32, lasts: u32| {
        let of_will: Vec<Property> = vec![
            mqtt::packet::WillDelayInterval::new(delay).unwrap().into(),
            MessageExpiryInterval::new(lasts).unwrap().into(),
        ];
        let connect = v5_0::Connect::builder().client_id("w").unwrap().clean_start(true);
        let connect = connect.user_name("door-7").unwrap().password("sesame").unwrap();
        let session = mqtt::packet::SessionExpiryInterval::new(60).unwrap();
        let connect = connect.props(vec![session.into()]);
        let connect = connect.will_message(TOPIC, b"gone".to_vec(), Qos::ExactlyOnce, true).unwrap();
        let connect = connect.will_props([of_will, properties()].concat()).build().unwrap();
        let client = world.intake.handle_opened(world.moment.now, Source::default());
        world.say(client, &connect.to_continuous_buffer());
        world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
        world.pass(Duration::from_secs(u64::from(delay) + 1));
    };
    leaves(&mut world, 0, 30);
    let got = publishes(&mut world, receiver);
    assert_eq!((got.len(), got[0].qos(), got[0].retain()), (1, Qos::ExactlyOnce, false));
    let kept =
        got[0].props().iter().filter(|property| !matches!(property, Property::MessageExpiryInterval(_)));
    assert_eq!(kept.cloned().collect::<Vec<_>>(), properties());
    // The interval begins when it is published, and a later subscriber gets what is left of it.
    leaves(&mut world, 5, 3);
    assert_eq!(publishes(&mut world, receiver).len(), 1);
    world.say(receiver, &subscribing(&[("home/+/x", Qos::AtMostOnce)], None));
    assert_eq!(
        publishes(&mut world, receiver).iter().map(|publish| publish.retain()).collect::<Vec<_>>(),
        [true]
    );
    world.pass(Duration::from_secs(4));
    world.say(receiver, &subscribing(&[("home/#", Qos::AtMostOnce)], None));
    assert_eq!(publishes(&mut world, receiver).len(), 0, "it has expired");
}

#[test]
fn a_will_of_3_1_1_goes_to_local_subscribers_with_its_qos_and_retain_flag() {
    for is_retained in [true, false] {
        let mut world = local(None);
        let receiver = world.client(Hello { client_id: "r", ..OLD });
        let exactly_once = SubOpts::new().set_qos(Qos::ExactlyOnce);
        world.say(receiver, &subscribe_in(false, "home/#", exactly_once));
        world.heard(receiver);
        let connect = v3_1_1::Connect::builder().client_id("w").unwrap().clean_session(true);
        let connect = connect.user_name("door-7").unwrap().password("sesame").unwrap();
        let connect = connect.will_message(TOPIC, b"gone".to_vec(), Qos::ExactlyOnce, is_retained).unwrap();
        let client = world.open();
        world.say(client, &connect.build().unwrap().to_continuous_buffer());
        world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
        assert_eq!(world.kinds(receiver), [0x34]);
        let late = world.client(Hello { client_id: "late", ..OLD });
        world.say(late, &subscribe_in(false, "home/+/x", exactly_once));
        let expected = if is_retained { vec![SUBACK, 0x35] } else { vec![SUBACK] };
        assert_eq!(world.kinds(late), expected);
    }
}

#[test]
fn a_text_for_which_a_subscriber_may_end_its_connection_ends_that_of_its_sender() {
    for text in ["a\0b", "\u{1}", "a\nb", "\u{7f}", "\u{85}", "\u{fdd0}", "\u{ffff}", "\u{1fffe}"] {
        let user = |key, val| UserProperty::new(key, val).map(Property::from);
        let each = [
            user("k", text),
            user(text, "v"),
            ContentType::new(text).map(Property::from),
            ResponseTopic::new(text).map(Property::from),
        ];
        // The library refuses to make some of them; those it makes are not taken.
        for property in each.into_iter().flatten() {
            let mut world = local(None);
            let receiver = world.client(Hello { client_id: "r", ..HELLO });
            world.say(receiver, &subscribing(&[("home/#", Qos::AtLeastOnce)], None));
            world.heard(receiver);
            let sender = world.client(HELLO);
            world.say(sender, &message(Qos::AtLeastOnce, true, vec![property.clone()]));
            assert!(world.is_closed(sender), "{property:?}");
            assert!(publishes(&mut world, receiver).is_empty());
            let connect = v5_0::Connect::builder().client_id("w").unwrap().clean_start(true);
            let connect = connect.user_name("door-7").unwrap().password("sesame").unwrap();
            let connect = connect.will_message(TOPIC, b"gone".to_vec(), Qos::AtMostOnce, true).unwrap();
            let Ok(connect) = connect.will_props(vec![property.clone()]).build() else { continue };
            let client = world.intake.handle_opened(world.moment.now, Source::default());
            world.say(client, &connect.to_continuous_buffer());
            assert!(world.is_closed(client), "{property:?}");
            assert!(publishes(&mut world, receiver).is_empty());
        }
    }
    for text in ["\u{20ac} \u{1F600}", "a\u{feff}b", ""] {
        let mut world = local(None);
        let sender = world.client(HELLO);
        let property = UserProperty::new("k", text).unwrap().into();
        world.say(sender, &message(Qos::AtLeastOnce, false, vec![property]));
        assert!(!world.is_closed(sender), "{text:?}");
    }
}

#[test]
fn what_has_expired_gives_way_to_what_is_to_be_retained() {
    let rules = Settings { local: local_rules(), retained_share: 1, ..Settings::default() };
    let mut world = World::with(rules, 10_000);
    let sender = world.client(HELLO);
    let lasts: Vec<Property> = vec![MessageExpiryInterval::new(1).unwrap().into()];
    let retained = |number: usize, lasts: &[Property]| {
        let publish = v5_0::Publish::builder().topic_name(format!("home/door-7/{number}")).unwrap();
        let publish = publish.qos(Qos::AtLeastOnce).packet_id(1).retain(true).payload(b"1".to_vec());
        publish.props(lasts.to_vec()).build().unwrap().to_continuous_buffer()
    };
    // One percent of 1,000 topics.
    let codes = |world: &mut World, number: usize, lasts: &[Property]| {
        world.say(sender, &retained(number, lasts));
        let heard = world.heard(sender);
        heard.iter().map(acknowledged).map(|(_, _, code)| code).collect::<Vec<_>>()
    };
    for number in 0..10 {
        // 0x10: nobody subscribes.
        assert!(codes(&mut world, number, &lasts).iter().all(|code| *code < 0x80));
    }
    assert!(codes(&mut world, 10, &[])[0] >= 0x80, "there is no room");
    world.pass(Duration::from_secs(3));
    assert!(codes(&mut world, 10, &[])[0] < 0x80);
    assert!(world.intake.take_local_expired() >= 10);
}
