//! Statements of the standard that no other test is about, by their numbers in
//! docs/mqtt-conformance.md.

use super::super::connection::{Connection, State};
use super::super::packet::{Inbound, Welcome};
use super::*;
use mqtt::packet::{AuthenticationData, AuthenticationMethod, MessageExpiryInterval, Property};

/// What a client that is not let in hears, and that it is closed then.
fn refusal(world: &mut World, connect: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let client = world.open();
    world.say(client, connect);
    world.pass(Duration::from_secs(2));
    let heard = world.heard(client);
    assert!(world.is_closed(client) && world.intake.counts() == (0, 0));
    heard
}

#[test]
fn a_disconnect_has_no_reason_string_that_makes_it_larger_than_the_client_takes() {
    const MOST: usize = 60;
    // Fixed header, reason code, length of the properties; identifier and length of the text.
    let fits = MOST - 4 - 3;
    for (length, expected) in [(fits, MOST), (fits + 1, 4)] {
        let connect = v5_0::Connect::builder().client_id("c").unwrap().clean_start(true);
        let most = mqtt::packet::MaximumPacketSize::new(MOST as u32).unwrap();
        let connect = connect.props(vec![most.into()]).build().unwrap();
        let now = Instant::now();
        let mut connection = Connection::new(now, Source::default());
        connection.push(now, &connect.to_continuous_buffer());
        let Ok(Some(Inbound::Connect(hello))) = connection.next(now) else { panic!("no CONNECT") };
        (connection.version, connection.wants_reasons) = (Some(hello.version), hello.wants_reasons);
        let welcome = Welcome { session_present: false, assigned: None, session_expiry: None };
        assert!(connection.welcome(hello.version, &welcome));
        connection.state = State::Open;
        connection.output().clear();
        connection.disconnect(DisconnectReasonCode::MaximumConnectTime, Some(&"r".repeat(length)));
        let sent = connection.output().clone();
        assert!(sent.len() <= expected && sent[..1] == [DISCONNECT] && sent[2] == 0xA0, "{sent:02x?}");
        assert_eq!(sent.ends_with(b"rr"), length == fits, "{sent:02x?}");
    }
}

/// With the first of these bytes replaced by one that no text of UTF-8 has.
fn ill_formed(mut bytes: Vec<u8>, text: &[u8]) -> Vec<u8> {
    let at = bytes.windows(text.len()).position(|window| window == text).expect("it is there");
    bytes[at] = 0xff;
    bytes
}

#[test]
fn what_a_connect_offers_and_is_not_taken_is_answered_with_its_code_and_closed() {
    for (five, code) in [(true, 0x85), (false, 2)] {
        let mut bytes = Hello { five, client_id: "a\u{1}b", ..HELLO }.bytes();
        for character in [1, 0] {
            let at = bytes.windows(3).position(|part| part == [b'a', 1, b'b']).unwrap_or_default();
            bytes[at + 1] = character;
            let heard = refusal(&mut World::new(), &bytes);
            assert_eq!((heard[0].0, &heard[0].1[..2]), (CONNACK, &[0, code][..]), "{character}");
        }
    }
    // The topic of a will with U+0000.
    for (five, code) in [(true, 0x90), (false, 5)] {
        let mut bytes = Hello { five, will: Some(("t/\u{1}x", 0)), ..HELLO }.bytes();
        let at = bytes.windows(3).position(|part| part == [b'/', 1, b'x']).unwrap_or_default();
        bytes[at + 1] = 0;
        let heard = refusal(&mut World::new(), &bytes);
        assert_eq!((heard[0].0, &heard[0].1[..2]), (CONNACK, &[0, code][..]));
    }
    let method = Property::from(AuthenticationMethod::new("SCRAM-SHA-256").unwrap());
    let data = Property::from(AuthenticationData::new(b"n,,n=door-7".to_vec()).unwrap());
    // Data without a method is a Protocol Error (§3.1.2.11.10).
    for (properties, code) in
        [(vec![method.clone()], 0x8C), (vec![method, data.clone()], 0x8C), (vec![data], 0x82)]
    {
        let connect = v5_0::Connect::builder().client_id("c").unwrap().clean_start(true);
        let connect = connect.user_name("door-7").unwrap().password("sesame").unwrap();
        let connect = connect.props(properties).build().unwrap().to_continuous_buffer();
        let heard = refusal(&mut World::new(), &connect);
        assert_eq!((heard[0].0, &heard[0].1[..2]), (CONNACK, &[0, code][..]));
    }
}

#[test]
fn each_field_of_a_connect_is_there_as_its_flag_says_and_is_utf_8() {
    let mut passed = Vec::new();
    for five in [true, false] {
        let all = Hello { five, client_id: "client-id", will: Some(("t/will", 0)), ..HELLO }.bytes();
        let none = Hello { five, username: None, password: None, ..HELLO }.bytes();
        let flagged = |bytes: &[u8], flag: u8| {
            let mut bytes = bytes.to_vec();
            bytes[9] ^= flag;
            bytes
        };
        let texts: [&[u8]; 3] = [b"client-id", b"t/will", b"door-7"];
        for bytes in [flagged(&all, 0x80), flagged(&all, 0x40), flagged(&none, 0x80), flagged(&none, 0xC0)]
            .into_iter()
            .chain(texts.map(|text| ill_formed(all.clone(), text)))
        {
            let mut world = World::new();
            let client = world.open();
            world.say(client, &bytes);
            if !world.is_closed(client) || world.intake.counts() != (0, 0) {
                passed.push((five, bytes));
            }
        }
    }
    assert!(passed.is_empty(), "{passed:02x?}");
}

#[test]
fn both_strings_of_a_user_property_are_utf_8_and_a_byte_order_mark_is_a_character() {
    let mut world = World::new();
    let client = world.client(Hello { client_id: "\u{feff}c", ..HELLO });
    let events: Vec<Event> = std::iter::from_fn(|| world.intake.poll_event()).collect();
    let is_it =
        |event: &Event| matches!(event, Event::Connected { client_id, .. } if client_id == "\u{feff}c");
    assert!(events.iter().any(is_it), "{events:?}");
    assert!(!world.is_closed(client));
    let property = mqtt::packet::UserProperty::new("the-key", "the-value").unwrap();
    let publish = v5_0::Publish::builder().topic_name("t/x").unwrap().qos(Qos::AtMostOnce);
    let publish = publish.props(vec![property.into()]).build().unwrap().to_continuous_buffer();
    for text in [&b"the-key"[..], b"the-value"] {
        let mut world = World::new();
        let client = world.client(HELLO);
        world.say(client, &ill_formed(publish.clone(), text));
        assert!(world.is_closed(client) && world.taken().is_empty());
    }
}

#[test]
fn a_clean_start_has_no_session_and_no_connack_has_response_information() {
    const KEPT: Hello<'_> = Hello { clean: false, expiry: Some(3_600), ..HELLO };
    let mut world = World::new();
    for (clean, present) in [(false, 0), (false, 1), (true, 0)] {
        let client = world.connect(Hello { clean, ..KEPT });
        let heard = world.heard(client);
        let (connack, _) = v5_0::Connack::parse(&heard[0].1).unwrap();
        assert_eq!(heard[0].1[0], present, "clean start: {clean}");
        let is_information = |property: &Property| matches!(property, Property::ResponseInformation(_));
        assert!(!connack.props().iter().any(is_information));
        world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
    }
}

#[test]
fn a_client_without_an_id_is_told_the_one_that_it_got_and_comes_back_with_it() {
    const KEPT: Hello<'_> = Hello { clean: false, expiry: Some(3_600), ..HELLO };
    let mut world = World::new();
    let assigned = |world: &mut World, client| {
        let heard = world.heard(client);
        let (connack, _) = v5_0::Connack::parse(&heard[0].1).unwrap();
        let id = connack.props().iter().find_map(|property| match property {
            Property::AssignedClientIdentifier(id) => Some(id.val().to_owned()),
            _ => None,
        });
        (heard[0].1[0], id)
    };
    let nameless = world.connect(Hello { client_id: "", ..KEPT });
    let (present, id) = assigned(&mut world, nameless);
    let id = id.filter(|id| !id.is_empty()).expect("an Assigned Client Identifier");
    assert_eq!(present, 0);
    world.intake.handle_closed(&world.moment, nameless, &mut world.pipeline);
    // Another without an id is another client, and one that has an id is not told any.
    let other = world.connect(Hello { client_id: "", ..KEPT });
    let (present, other) = assigned(&mut world, other);
    assert!(present == 0 && other.is_some_and(|other| other != id));
    let again = world.connect(Hello { client_id: &id, ..KEPT });
    assert_eq!(assigned(&mut world, again), (1, None));
    // 3.1.1 cannot tell it: such a client is taken where it has nothing to come back to.
    world.client(Hello { client_id: "", ..OLD });
    let heard = refusal(&mut World::new(), &Hello { client_id: "", clean: false, ..OLD }.bytes());
    assert_eq!(heard, [(CONNACK, vec![0, 2])]);
}

#[test]
fn a_will_without_the_retain_flag_is_not_retained() {
    let mut world = local(None);
    let receiver = world.client(Hello { client_id: "r", ..HELLO });
    world.say(receiver, &subscribe("home/#", SubOpts::new()));
    world.heard(receiver);
    let client = world.client(Hello { client_id: "w", will: Some(("home/door-7/gone", 0)), ..HELLO });
    world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
    let of = |retained| ("home/door-7/gone".to_owned(), "gone".to_owned(), retained);
    assert_eq!(world.received(receiver), [of(false)]);
    let late = world.client(Hello { client_id: "late", ..HELLO });
    world.say(late, &subscribe("home/#", SubOpts::new()));
    assert_eq!(world.received(late), []);
}

#[test]
fn the_dup_flag_of_a_sender_is_not_that_of_the_copies() {
    let mut world = local(None);
    let sender = world.client(HELLO);
    let receiver = world.client(Hello { client_id: "r", ..HELLO });
    world.say(receiver, &subscribe("home/#", SubOpts::new().set_qos(Qos::AtLeastOnce)));
    world.heard(receiver);
    let mut again = one(5, "home/door-7/x");
    again[0] |= 8;
    world.say(sender, &again);
    world.carry();
    // PUBLISH of QoS 1 has the first byte 0x32.
    assert_eq!(world.kinds(receiver), [0x32]);
}

#[test]
fn what_is_not_a_publish_goes_on_where_a_client_takes_no_more_of_them() {
    let mut world = local(None);
    let sender = world.client(HELLO);
    let receiver = world.client(Hello { client_id: "r", receive_maximum: Some(1), ..HELLO });
    world.say(receiver, &subscribe("home/#", SubOpts::new().set_qos(Qos::AtLeastOnce)));
    world.heard(receiver);
    for id in [1, 2] {
        world.say(sender, &one(id, "home/door-7/x"));
    }
    world.carry();
    assert_eq!(world.kinds(receiver), [0x32], "the second waits");
    world.say(receiver, &[&PINGREQ[..], &subscribe("home/door-7/#", SubOpts::new())].concat());
    assert_eq!(world.kinds(receiver), [PINGRESP, SUBACK]);
}

#[test]
fn no_local_on_a_shared_subscription_is_refused_as_those_are() {
    let mut world = local(None);
    let client = world.client(HELLO);
    world.say(client, &subscribe("$share/group/home/#", SubOpts::new().set_nl(true)));
    assert_eq!(world.heard(client), [(SUBACK, vec![0, 3, 0, 0x9E])]);
}

#[test]
fn a_message_that_was_sent_does_not_expire() {
    const AWAY: Hello<'_> = Hello { client_id: "r", clean: false, expiry: Some(3_600), ..HELLO };
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let mut world = local(None);
        let sender = world.client(HELLO);
        let receiver = world.client(AWAY);
        world.say(receiver, &subscribe("home/#", SubOpts::new().set_qos(qos)));
        world.heard(receiver);
        let publish = v5_0::Publish::builder().topic_name("home/door-7/x").unwrap().qos(qos).packet_id(9);
        let expiry = MessageExpiryInterval::new(2).unwrap();
        let publish = publish.payload(b"1".to_vec()).props(vec![expiry.into()]).build().unwrap();
        world.say(sender, &publish.to_continuous_buffer());
        world.carry();
        let first = 0x30 | (qos as u8) << 1;
        assert_eq!(world.kinds(receiver), [first]);
        world.intake.handle_closed(&world.moment, receiver, &mut world.pipeline);
        world.pass(Duration::from_secs(5));
        let receiver = world.connect(AWAY);
        world.carry();
        assert_eq!(world.kinds(receiver), [CONNACK, first | 8], "it is sent again");
        assert_eq!(world.intake.take_local_expired(), 0);
    }
}
