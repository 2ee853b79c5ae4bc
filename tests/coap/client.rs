//! The endpoint as a client: requests of ours, and every way in which a peer may answer them.

use tombolo::message::ContentFormat;
use tombolo::proto::Holder;
use tombolo::proto::coap::endpoint::client::Unsent;
use tombolo::proto::coap::{Code, Method, Outcome, Outgoing, PeerId, Reply, RequestId, Type};

use super::support::*;

const HOLDER: Holder = Holder { number: 1, max_sessions: 1, max_handshakes: Holder::HANDSHAKES };

fn outgoing(payload: &[u8]) -> Outgoing<'_> {
    Outgoing { method: Method::Put, path: "set/level", content_format: Some(ContentFormat::TEXT), payload }
}

fn ask(bench: &mut Bench, peer: PeerId) -> RequestId {
    bench.endpoint.request(bench.now, HOLDER, peer, &outgoing(b"40")).unwrap()
}

fn replies(bench: &mut Bench) -> Vec<Outcome> {
    std::iter::from_fn(|| bench.endpoint.poll_reply()).map(|reply| reply.outcome).collect()
}

fn content(payload: &[u8]) -> Outcome {
    Outcome::Response { code: Code::CONTENT, content_format: None, payload: payload.to_vec(), partial: false }
}

#[test]
fn a_request_has_its_path_format_and_payload_and_its_piggybacked_response_ends_it() {
    let mut bench = Bench::default();
    let request = ask(&mut bench, DEVICE);
    let datagram = bench.sent_one();
    let sent = parse(&datagram);
    assert_eq!((sent.message_type, sent.code, sent.payload), (Type::Confirmable, PUT, &b"40"[..]));
    let path: Vec<&[u8]> = sent.options.values(11).collect();
    assert_eq!((path, uint(&sent, 12)), (vec![&b"set"[..], b"level"], Some(0)));
    let token = sent.token.as_bytes().to_vec();
    let answer =
        message(Type::Acknowledgement, Code::CONTENT, sent.message_id.0, &token, &[(12, b"")], b"yes");
    assert!(bench.reply(DEVICE, &answer).is_empty());
    let outcome = Outcome::Response {
        code: Code::CONTENT,
        content_format: Some(ContentFormat::TEXT),
        payload: b"yes".to_vec(),
        partial: false,
    };
    assert_eq!(bench.endpoint.poll_reply(), Some(Reply { request, outcome }));
    bench.pass(seconds(300.0));
    assert!(bench.sent().is_empty() && bench.endpoint.request_count() == 0);
}

#[test]
fn a_request_without_any_answer_is_sent_five_times_and_given_up_within_93_seconds() {
    let mut bench = Bench::default();
    ask(&mut bench, DEVICE);
    let first = bench.sent_one();
    let mut again = 0;
    for _ in 0..930 {
        bench.pass(seconds(0.1));
        for (_, datagram) in bench.sent() {
            assert_eq!(datagram, first, "the same message");
            again += 1;
        }
    }
    assert_eq!(again, 4);
    assert_eq!(replies(&mut bench), [Outcome::Unanswered]);
}

#[test]
fn an_empty_acknowledgement_stops_the_repetition_and_a_separate_response_is_acknowledged() {
    for message_type in [Type::Confirmable, Type::NonConfirmable] {
        let mut bench = Bench::default();
        ask(&mut bench, DEVICE);
        let datagram = bench.sent_one();
        let sent = parse(&datagram);
        assert!(bench.reply(DEVICE, &empty(Type::Acknowledgement, sent.message_id.0)).is_empty());
        assert_eq!(replies(&mut bench), [Outcome::Acknowledged]);
        bench.pass(seconds(100.0));
        assert!(bench.sent().is_empty());
        let answer = message(message_type, Code::CONTENT, 7, sent.token.as_bytes(), &[], b"late");
        let acknowledged = bench.reply(DEVICE, &answer);
        let expected = match message_type {
            Type::Confirmable => vec![empty(Type::Acknowledgement, 7)],
            _ => vec![],
        };
        assert_eq!(acknowledged, expected);
        assert_eq!(replies(&mut bench), [content(b"late")]);
        // Its repetition: our acknowledgement was lost.
        assert_eq!(bench.reply(DEVICE, &answer), expected);
        assert!(replies(&mut bench).is_empty());
    }
}

#[test]
fn a_separate_response_whose_acknowledgement_was_lost_ends_the_request_too() {
    let mut bench = Bench::default();
    ask(&mut bench, DEVICE);
    let datagram = bench.sent_one();
    let token = parse(&datagram).token;
    bench.reply(DEVICE, &message(Type::Confirmable, Code::CONTENT, 7, token.as_bytes(), &[], b"x"));
    assert_eq!(replies(&mut bench), [content(b"x")]);
    bench.pass(seconds(100.0));
    assert!(bench.sent().is_empty(), "it is not repeated");
}

#[test]
fn a_reset_ends_the_request_and_what_does_not_match_changes_nothing() {
    let mut bench = Bench::default();
    ask(&mut bench, DEVICE);
    let datagram = bench.sent_one();
    let sent = parse(&datagram);
    let id = sent.message_id.0;
    let token = sent.token.as_bytes().to_vec();
    let strange: [&[u8]; 4] = [
        &message(Type::Acknowledgement, Code::CONTENT, id, b"else", &[], b"x"),
        &message(Type::Acknowledgement, Code::CONTENT, id.wrapping_add(1), &token, &[], b"x"),
        &empty(Type::Acknowledgement, id.wrapping_add(1)),
        &message(Type::Acknowledgement, POST, id, &token, &[], b"x"),
    ];
    for datagram in strange {
        bench.reply(DEVICE, datagram);
    }
    // The right token from another peer.
    bench.reply(proven(2), &message(Type::NonConfirmable, Code::CONTENT, 1, &token, &[], b"x"));
    assert!(replies(&mut bench).is_empty());
    bench.reply(DEVICE, &empty(Type::Reset, id));
    assert_eq!(replies(&mut bench), [Outcome::Reset]);
}

#[test]
fn one_request_is_outstanding_and_the_next_one_follows_its_acknowledgement() {
    let mut bench = Bench::default();
    ask(&mut bench, DEVICE);
    ask(&mut bench, DEVICE);
    let datagram = bench.sent_one();
    let first = parse(&datagram);
    let next = bench.reply(DEVICE, &empty(Type::Acknowledgement, first.message_id.0));
    assert_eq!(next.len(), 1);
    assert_ne!(parse(&next[0]).token, first.token);
}

#[test]
fn a_peer_that_is_forgotten_ends_its_requests_and_no_others() {
    let mut bench = Bench::default();
    ask(&mut bench, DEVICE);
    ask(&mut bench, proven(2));
    bench.endpoint.forget(DEVICE);
    assert_eq!(replies(&mut bench), [Outcome::Gone]);
    assert_eq!(bench.endpoint.request_count(), 1);
}

#[test]
fn a_response_that_is_not_whole_or_not_understood_says_so() {
    // More blocks follow; a critical option that is unknown.
    for option in [(23, &b"\x0e"[..]), (9, b"x")] {
        let mut bench = Bench::default();
        ask(&mut bench, DEVICE);
        let datagram = bench.sent_one();
        let sent = parse(&datagram);
        let answer = message(
            Type::Acknowledgement,
            Code::CONTENT,
            sent.message_id.0,
            sent.token.as_bytes(),
            &[option],
            b"part",
        );
        bench.reply(DEVICE, &answer);
        let outcome = replies(&mut bench).remove(0);
        assert!(matches!(outcome, Outcome::Response { partial: true, .. }), "{outcome:?}");
    }
}

#[test]
fn a_response_after_the_request_was_abandoned_is_rejected() {
    let mut bench = Bench::default();
    let request = ask(&mut bench, DEVICE);
    let datagram = bench.sent_one();
    let sent = parse(&datagram);
    bench.endpoint.abandon(request);
    assert_eq!(bench.endpoint.request_count(), 1, "one that is not acknowledged ends by itself");
    bench.reply(DEVICE, &empty(Type::Acknowledgement, sent.message_id.0));
    bench.endpoint.abandon(request);
    let answer = message(Type::Confirmable, Code::CONTENT, 7, sent.token.as_bytes(), &[], b"x");
    assert_eq!(bench.reply(DEVICE, &answer), [empty(Type::Reset, 7)]);
}

#[test]
fn a_plain_peer_is_never_asked() {
    let mut bench = Bench::default();
    let asked = bench.endpoint.request(bench.now, HOLDER, STRANGER, &outgoing(b"x"));
    assert_eq!(asked, Err(Unsent::Unproven));
    assert!(bench.sent().is_empty());
}

#[test]
fn readings_are_answered_while_a_request_is_under_way() {
    let mut bench = Bench::default();
    ask(&mut bench, DEVICE);
    bench.sent();
    let exchange = bench.request(DEVICE, &post(1, b"x"));
    bench.respond(exchange, &changed());
    assert_eq!(parse(&bench.sent_one()).code, Code::CHANGED);
}
