//! Known faults of other implementations, one case each, and other malformed messages.

use tombolo::proto::coap::{Code, Type};

use super::support::*;

const RESET_OF_1: &[u8] = b"\x70\x00\x00\x01";

#[test]
fn a_ping_is_answered_by_a_reset() {
    let mut bench = Bench::default();
    assert_eq!(bench.reply(DEVICE, b"\x40\x00\x00\x01"), [RESET_OF_1]);
    assert_eq!(bench.endpoint.counters().pings, 1);
}

#[test]
fn a_version_other_than_1_is_silently_ignored() {
    let mut bench = Bench::default();
    for version in [0u8, 2, 3] {
        let mut datagram = post(1, b"x");
        datagram[0] = datagram[0] & 0x3f | version << 6;
        assert!(bench.reply(DEVICE, &datagram).is_empty());
    }
}

#[test]
fn a_token_length_of_9_to_15_is_a_format_error() {
    let mut bench = Bench::default();
    for length in 9..=15u8 {
        let mut datagram = vec![0x40 | length, 2, 0, 1];
        datagram.extend([0x55; 15]);
        assert_eq!(bench.reply(DEVICE, &datagram), [RESET_OF_1]);
        datagram[0] |= 0x10;
        assert!(bench.reply(DEVICE, &datagram).is_empty(), "non-confirmable: ignored");
    }
}

#[test]
fn a_payload_marker_without_a_payload_is_a_format_error() {
    let mut bench = Bench::default();
    assert_eq!(bench.reply(DEVICE, b"\x40\x02\x00\x01\xb1t\xff"), [RESET_OF_1]);
    assert!(bench.reply(DEVICE, b"\x50\x02\x00\x01\xb1t\xff").is_empty());
}

#[test]
fn an_empty_code_with_trailing_bytes_is_a_format_error() {
    let mut bench = Bench::default();
    assert_eq!(bench.reply(DEVICE, b"\x40\x00\x00\x01\xb1t"), [RESET_OF_1]);
    assert_eq!(bench.reply(DEVICE, b"\x42\x00\x00\x01to"), [RESET_OF_1]);
    assert!(bench.reply(DEVICE, b"\x50\x00\x00\x01").is_empty(), "an empty non-confirmable message");
    assert_eq!(bench.endpoint.counters().malformed, 3);
}

#[test]
fn an_option_number_past_65535_is_refused() {
    let mut bench = Bench::default();
    assert_eq!(bench.reply(DEVICE, b"\x40\x02\x00\x01\xe0\xff\xff\x10"), [RESET_OF_1]);
    assert_eq!(bench.reply(DEVICE, b"\x40\x02\x00\x01\xe0\xfe\xf2\xe0\xff\xff"), [RESET_OF_1]);
}

#[test]
fn an_unknown_critical_option_is_4_02_and_named() {
    let mut bench = Bench::default();
    let datagram = message(Type::Confirmable, POST, 1, b"tk", &[(11, b"t"), (65001, b"?")], b"x");
    let sent = bench.reply(DEVICE, &datagram);
    let answer = parse(&sent[0]);
    assert_eq!((answer.message_type, answer.code), (Type::Acknowledgement, Code::BAD_OPTION));
    assert_eq!((answer.message_id.0, answer.token.as_bytes()), (1, &b"tk"[..]));
    assert_eq!(answer.payload, b"option 65001");
}

#[test]
fn an_unknown_critical_option_in_a_non_confirmable_request_rejects_it() {
    let mut bench = Bench::default();
    let datagram = message(Type::NonConfirmable, POST, 1, b"tk", &[(11, b"t"), (65001, b"?")], b"x");
    assert_eq!(bench.reply(DEVICE, &datagram), [RESET_OF_1]);
}

#[test]
fn an_unknown_elective_option_is_ignored() {
    let mut bench = Bench::default();
    let datagram = message(Type::Confirmable, POST, 1, b"tk", &[(11, b"t"), (65000, b"?")], b"x");
    assert!(bench.feed(DEVICE, &datagram).is_some());
}

#[test]
fn a_duplicate_confirmable_gets_the_stored_response_and_is_handed_up_once() {
    let mut bench = Bench::default();
    let exchange = bench.request(DEVICE, &post(1, b"21.5"));
    bench.respond(exchange, &changed());
    let first = bench.sent_one();
    for _ in 0..3 {
        bench.pass(seconds(60.0));
        assert_eq!(bench.reply(DEVICE, &post(1, b"21.5")), [&first[..]]);
    }
    assert_eq!((bench.endpoint.counters().requests, bench.endpoint.counters().duplicates), (1, 3));
}

#[test]
fn nothing_that_comes_from_outside_ends_anything() {
    // A datagram from source port 0 is one of a peer like any other here: where an answer goes is
    // the shell's.
    let mut bench = Bench::default();
    for peer in [proven(0), unproven(u64::MAX)] {
        for datagram in [&b""[..], b"\x40", b"\xff\xff\xff\xff\xff", b"\x6f\xe0\x00\x00", &post(1, b"x")] {
            bench.feed(peer, datagram);
        }
    }
    bench.sent();
    assert!(bench.feed(DEVICE, &post(1, b"x")).is_some());
}

#[test]
fn an_unknown_method_is_4_05() {
    let mut bench = Bench::default();
    for code in 8..=31 {
        let sent = bench.reply(DEVICE, &message(Type::Confirmable, Code(code), 1, b"tk", &[], b""));
        assert_eq!(parse(&sent[0]).code, Code::METHOD_NOT_ALLOWED);
        assert_eq!(parse(&sent[0]).message_type, Type::Acknowledgement);
    }
    let sent = bench.reply(DEVICE, &message(Type::NonConfirmable, Code(8), 2, b"tk", &[], b""));
    assert_eq!(parse(&sent[0]).message_type, Type::NonConfirmable);
    assert_eq!(
        (parse(&sent[0]).code, parse(&sent[0]).token.as_bytes()),
        (Code::METHOD_NOT_ALLOWED, &b"tk"[..])
    );
}

#[test]
fn every_known_method_is_handed_up() {
    let mut bench = Bench::default();
    for code in 1..=7 {
        let datagram = message(Type::Confirmable, Code(code), code.into(), b"", &[(11, b"t")], b"");
        assert_eq!(bench.feed(DEVICE, &datagram).unwrap().method as u8, code);
    }
}

#[test]
fn a_proxy_option_is_5_05() {
    let mut bench = Bench::default();
    for (number, value) in [(35, &b"coap://elsewhere/x"[..]), (39, b"coap")] {
        let sent = bench.reply(DEVICE, &message(Type::Confirmable, GET, 1, b"", &[(number, value)], b""));
        assert_eq!(parse(&sent[0]).code, Code::PROXYING_NOT_SUPPORTED);
    }
}

#[test]
fn an_option_repeated_that_may_not_be_is_4_02() {
    let mut bench = Bench::default();
    let datagram = message(Type::Confirmable, POST, 1, b"", &[(3, b"a"), (3, b"b"), (11, b"t")], b"x");
    assert_eq!(parse(&bench.reply(DEVICE, &datagram)[0]).code, Code::BAD_OPTION);
}

#[test]
fn dots_in_a_path_are_4_00() {
    let mut bench = Bench::default();
    let datagram = message(Type::Confirmable, POST, 1, b"", &[(11, b"t"), (11, b"..")], b"x");
    assert_eq!(parse(&bench.reply(DEVICE, &datagram)[0]).code, Code::BAD_REQUEST);
}

#[test]
fn a_reserved_code_class_is_a_format_error() {
    let mut bench = Bench::default();
    for code in [0x21, 0x61, 0xc1, 0xe2] {
        assert_eq!(bench.reply(DEVICE, &[0x40, code, 0, 1]), [RESET_OF_1]);
        assert!(bench.reply(DEVICE, &[0x50, code, 0, 1]).is_empty());
    }
}

#[test]
fn responses_and_acknowledgements_of_nothing_are_rejected_or_ignored() {
    let mut bench = Bench::default();
    let content = |message_type| message(message_type, Code::CONTENT, 1, b"tk", &[], b"x");
    assert_eq!(bench.reply(DEVICE, &content(Type::Confirmable)), [RESET_OF_1]);
    assert!(bench.reply(DEVICE, &content(Type::NonConfirmable)).is_empty());
    assert!(bench.reply(DEVICE, &content(Type::Acknowledgement)).is_empty());
    assert!(bench.reply(DEVICE, &empty(Type::Acknowledgement, 1)).is_empty());
    assert!(bench.reply(DEVICE, &empty(Type::Reset, 1)).is_empty());
    assert!(bench.reply(DEVICE, b"\x60\x01\x00\x01").is_empty(), "a request in an acknowledgement");
    assert_eq!(bench.endpoint.peer_count(), 0, "none of it is remembered");
}
