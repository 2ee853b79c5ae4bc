//! What is not as the standard has it closes the connection, and nothing of it is taken.

use super::*;

fn string(bytes: &[u8]) -> Vec<u8> {
    [&[0, bytes.len() as u8][..], bytes].concat()
}

/// A packet of this first byte and body.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first, body.len() as u8][..], body].concat()
}

/// A PUBLISH of QoS 0 with these properties.
fn publish_raw(topic: &[u8], properties: &[u8]) -> Vec<u8> {
    packet(0x30, &[&string(topic)[..], &[properties.len() as u8], properties, b"1"].concat())
}

/// Whether it closes the connection of the client that sends it, and nothing else.
fn closes(hello: Hello<'_>, bytes: &[u8]) -> bool {
    let mut world = local(None);
    let other = world.client(Hello { client_id: "other", ..HELLO });
    let client = world.client(hello);
    world.say(client, bytes);
    assert!(world.taken().is_empty() && !world.is_closed(other));
    let heard = world.kinds(client);
    assert!(!heard.contains(&CONNACK), "there is one CONNACK: {bytes:02x?}");
    world.is_closed(client)
}

#[test]
fn a_packet_that_is_malformed_in_either_version_closes_the_connection() {
    let mut passed = Vec::new();
    for five in [true, false] {
        let hello = Hello { five, ..HELLO };
        let none: &[u8] = if five { &[0] } else { &[] };
        let filter =
            |filter: &[u8], options: u8| [&[0, 1][..], none, &string(filter)[..], &[options]].concat();
        let plain = |topic: &[u8]| packet(0x30, &[&string(topic)[..], none, b"1"].concat());
        for bytes in [
            hello.bytes(),                       // a second CONNECT
            packet(0x20, &[0, 0]),               // CONNACK
            packet(0xD0, &[]),                   // PINGRESP
            packet(0x00, &[]),                   // reserved
            packet(0x80, &filter(b"home/#", 0)), // reserved flags
            packet(0xA0, &[&[0, 1][..], none, &string(b"home/#")].concat()),
            packet(0x60, &[0, 1]),
            packet(0xC1, &[]),
            packet(0xE1, &[]),
            packet(0x36, &[&string(b"t/x")[..], &[0, 1], none, b"1"].concat()), // QoS 3
            plain(b"t/\0"),
            plain(b"t/\xff"),
            plain(b"t/\xed\xa0\x80"),                    // a surrogate
            packet(0x82, &[&[0, 1][..], none].concat()), // no filter
            packet(0xA2, &[&[0, 1][..], none].concat()),
            packet(0x82, &filter(b"home/#", 3)),    // QoS 3
            packet(0x82, &filter(b"home/#", 0xC0)), // reserved bits
            packet(0x82, &filter(b"home/\xff", 0)),
            packet(0x50, &[0, 1]),         // PUBREC of nothing
            packet(0x30, &[0, 200, b'x']), // shorter than its topic
        ] {
            if !closes(hello, &bytes) {
                passed.push((five, bytes));
            }
        }
    }
    for bytes in [
        packet(0xF0, &[]),                        // AUTH
        publish_raw(b"t/x", &[0x23, 0, 0]),       // alias 0
        publish_raw(b"", &[0x23, 0, 1]),          // an alias without a topic
        publish_raw(b"t/x", &[0x01, 2]),          // payload format 2
        publish_raw(b"t/x", &[0x01, 1, 0x01, 1]), // twice
        publish_raw(b"t/x", &[0x11, 0, 0, 0, 1]), // of CONNECT
        publish_raw(b"t/x", &[0x7f]),             // unknown
        publish_raw(b"t/x", &[0x03, 0, 1, 0xff]), // a Content Type that is not UTF-8
        publish_raw(b"t/x", &[0x08, 0, 1, 0xff]), // a Response Topic
        publish_raw(b"t/x", &[0x03, 0, 1, 0]),    // U+0000
        publish_raw(b"t/x", &[0x08, 0, 1, 0]),
        publish_raw(b"t/x", &[0x26, 0, 1, b'k', 0, 1, 0]),
        publish_raw(b"t/x", &[0x26, 0, 1, 0, 0, 1, b'v']),
        packet(0x82, &[&[0, 1, 2, 0x0b, 0][..], &string(b"home/#"), &[0]].concat()), // identifier 0
        packet(0x82, &[&[0, 1, 0][..], &string(b"home/#"), &[0x30]].concat()),       // retain handling 3
    ] {
        if !closes(HELLO, &bytes) {
            passed.push((true, bytes));
        }
    }
    assert!(passed.is_empty(), "{passed:02x?}");
}

#[test]
fn a_connect_that_is_malformed_is_not_accepted() {
    let mut passed = Vec::new();
    for five in [true, false] {
        let good = Hello { five, ..HELLO }.bytes();
        let flags = good[9];
        for (at, byte) in [
            (9, flags | 1),    // reserved
            (9, flags | 0x08), // a QoS without a will
            (9, flags | 0x20), // retain without a will
            (9, flags | 0x1C), // a will of QoS 3
            (0, 0x11),         // reserved flags
            (7, b'X'),         // the protocol's name
            (3, 5),            // and its length
        ] {
            let mut world = World::new();
            let mut bytes = good.clone();
            bytes[at] = byte;
            let client = world.open();
            world.say(client, &bytes);
            world.pass(CONNECT_WITHIN);
            if !world.is_closed(client) || world.intake.counts() != (0, 0) {
                passed.push((five, at, byte));
            }
        }
    }
    assert!(passed.is_empty(), "{passed:02x?}");
}

#[test]
fn an_acknowledgement_with_flags_is_malformed_and_one_without_is_taken() {
    for five in [true, false] {
        // First byte of what the client sends, its QoS, and what it has to have sent before.
        for (kind, qos, before) in [
            (0x40, Qos::AtLeastOnce, None),
            (0x50, Qos::ExactlyOnce, None),
            (0x70, Qos::ExactlyOnce, Some(packet(0x50, &[0, 1]))),
        ] {
            for flags in [0, 1, 2, 4, 8] {
                let mut world = local(None);
                let client = world.client(Hello { five, ..HELLO });
                world.say(client, &subscribe_in(five, "home/#", SubOpts::new().set_qos(qos)));
                world.say(client, &publish(five, "home/door-7/x", Qos::ExactlyOnce, 1, b"1"));
                world.say(client, before.as_deref().unwrap_or_default());
                let sent = world.kinds(client);
                assert!(sent.contains(&(0x30 | (qos as u8) << 1)), "{sent:02x?}");
                world.say(client, &packet(kind | flags, &[0, 1]));
                assert_eq!(world.is_closed(client), flags != 0, "{five} {kind:#x} {flags}");
            }
        }
    }
}

#[test]
fn a_topic_with_a_wildcard_or_without_a_letter_is_refused() {
    for topic in ["t/+", "home/door-7/#", "+"] {
        let mut world = local(None);
        let client = world.client(HELLO);
        let body = [&string(topic.as_bytes())[..], &[0, 1, 0], b"1"].concat();
        world.say(client, &packet(0x32, &body));
        let heard = world.heard(client);
        assert_eq!((heard.len(), acknowledged(&heard[0])), (1, (PUBACK, 1, 0x90)), "{topic}");
        // 3.1.1 has no code for it.
        let body = [&string(topic.as_bytes())[..], &[0, 1], b"1"].concat();
        let old = world.client(Hello { client_id: "old", ..OLD });
        world.say(old, &packet(0x32, &body));
        assert!(world.heard(old).is_empty() && world.is_closed(old), "{topic}");
    }
    assert!(!closes(HELLO, &packet(0x30, &[&string(b"t/#")[..], &[0], b"1"].concat())));
    assert!(!closes(OLD, &packet(0x30, &[&string(b"t/#")[..], b"1"].concat())));
    assert!(closes(OLD, &packet(0x32, &[&string(b"")[..], &[0, 1], b"1"].concat())));
    assert!(closes(HELLO, &publish_raw(b"", &[])));
}

#[test]
fn what_the_library_lets_through_of_a_connect_a_publish_and_a_subscribe_is_not_taken() {
    for five in [true, false] {
        // A will of QoS 3, whose fields are there.
        let mut bytes = Hello { five, will: Some(("t/will", 0)), ..HELLO }.bytes();
        bytes[9] |= 0x18;
        let mut world = World::new();
        let client = world.open();
        world.say(client, &bytes);
        assert!(world.is_closed(client) && world.intake.counts() == (0, 0));
        // DUP on QoS 0.
        let mut bytes = publish(five, "t/a", Qos::AtMostOnce, 0, b"1");
        bytes[0] |= 8;
        assert!(closes(if five { HELLO } else { OLD }, &bytes));
        let mut world = World::new();
        let client = world.open();
        world.say(client, &Hello { five, client_id: "a\u{1}b", ..HELLO }.bytes());
        assert_eq!(world.intake.counts(), (0, 0));
    }
    // Two Subscription Identifiers.
    let twice = packet(0x82, &[&[0, 3, 4, 0x0B, 1, 0x0B, 2][..], &string(b"t/#"), &[0]].concat());
    assert!(closes(HELLO, &twice));
}

#[test]
fn a_client_that_takes_no_connack_is_let_go() {
    let connect = v5_0::Connect::builder().client_id("c").unwrap().clean_start(true);
    let connect = connect.user_name("door-7").unwrap().password("sesame").unwrap();
    let maximum = mqtt::packet::MaximumPacketSize::new(5).unwrap();
    let connect = connect.props(vec![maximum.into()]).build().unwrap();
    let mut world = World::new();
    let client = world.open();
    world.say(client, &connect.to_continuous_buffer());
    assert!(world.is_closed(client));
    assert_eq!(world.intake.counts(), (0, 0));
}

#[test]
fn an_assigned_client_id_is_no_other_clients() {
    for five in [true, false] {
        let mut world = World::new();
        // The third connection is the second or the third, however they are counted.
        let named = ["auto-2", "auto-3"].map(|id| world.client(Hello { five, client_id: id, ..HELLO }));
        let nameless = world.client(Hello { five, client_id: "", ..HELLO });
        assert!(!world.is_closed(nameless) && named.into_iter().all(|client| !world.is_closed(client)));
    }
}
