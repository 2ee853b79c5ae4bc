//! The endpoint as a client: requests of ours, and every way in which a peer may answer them.

use tombolo::message::ContentFormat;
use tombolo::proto::Holder;
use tombolo::proto::coap::block::Block;
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
fn a_response_to_a_put_that_is_not_whole_says_so() {
    let mut bench = Bench::default();
    ask(&mut bench, DEVICE);
    let datagram = bench.sent_one();
    let sent = parse(&datagram);
    let (id, token) = (sent.message_id.0, sent.token.as_bytes());
    let answer = message(Type::Acknowledgement, Code::CONTENT, id, token, &[(23, b"\x0e")], b"part");
    assert!(bench.reply(DEVICE, &answer).is_empty(), "nothing is asked for: the PUT would run again");
    let outcome = replies(&mut bench).remove(0);
    assert!(matches!(outcome, Outcome::Response { partial: true, .. }), "{outcome:?}");
}

/// Numbers and values.
type Options<'o> = &'o [(u16, &'o [u8])];

#[test]
fn a_response_with_a_critical_option_that_is_unknown_is_rejected() {
    // OSCORE; Uri-Path, which no response has; a Block2 of five bytes; a second one.
    let second: Options<'_> = &[(23, b"\x06"), (23, b"\x16")];
    let cases: [(Options<'_>, u16); 4] =
        [(&[(9, b"x")], 9), (&[(11, b"x")], 11), (&[(23, b"12345")], 23), (second, 23)];
    for (options, number) in cases {
        for separate in [None, Some(Type::Confirmable), Some(Type::NonConfirmable)] {
            let mut bench = Bench::default();
            ask(&mut bench, DEVICE);
            let datagram = bench.sent_one();
            let sent = parse(&datagram);
            let token = sent.token.as_bytes();
            let (kind, id) = separate.map_or((Type::Acknowledgement, sent.message_id.0), |kind| (kind, 7));
            let answered = bench.reply(DEVICE, &message(kind, Code::CONTENT, id, token, options, b"x"));
            let rejected = (kind == Type::Confirmable).then(|| empty(Type::Reset, 7));
            assert_eq!(answered, rejected.into_iter().collect::<Vec<_>>());
            assert_eq!(replies(&mut bench), [Outcome::Unintelligible(number)]);
            bench.pass(seconds(300.0));
            assert!(bench.sent().is_empty());
        }
    }
    // One that is elective is passed over.
    let mut bench = Bench::default();
    ask(&mut bench, DEVICE);
    let datagram = bench.sent_one();
    let sent = parse(&datagram);
    let (id, token) = (sent.message_id.0, sent.token.as_bytes());
    bench.reply(DEVICE, &message(Type::Acknowledgement, Code::CONTENT, id, token, &[(2048, b"x")], b"x"));
    assert_eq!(replies(&mut bench), [content(b"x")]);
}

/// A device with this body: answers each request with the block that it asks for, of at most
/// `exponent`; the outcome, and how many requests it had.
fn get_from(device: &dyn Fn(usize) -> Vec<u8>, etag: &dyn Fn(u32) -> u8, exponent: u8) -> (Outcome, usize) {
    let mut bench = Bench::default();
    let outgoing = Outgoing { method: Method::Get, path: "log", content_format: None, payload: b"" };
    bench.endpoint.request(bench.now, HOLDER, DEVICE, &outgoing).unwrap();
    let mut datagram = bench.sent_one();
    for requests in 1..1_000 {
        let sent = parse(&datagram);
        let asked = uint(&sent, 23).and_then(Block::from_uint);
        assert_eq!(asked.is_none(), requests == 1, "{requests}");
        let block = asked.unwrap_or(Block { number: 0, more: false, size_exponent: exponent });
        let body = device(requests);
        let end = (block.offset() + block.size()).min(body.len());
        let answered = Block { more: end < body.len(), ..block }.to_uint().to_be_bytes();
        let options: [(u16, &[u8]); 2] = [(4, &[etag(block.number)]), (23, &answered[1..])];
        let (id, token) = (sent.message_id.0, sent.token.as_bytes());
        let part = &body[block.offset().min(end)..end];
        let answer = message(Type::Acknowledgement, Code::CONTENT, id, token, &options, part);
        let next = bench.reply(DEVICE, &answer);
        if let Some(outcome) = replies(&mut bench).pop() {
            assert!(next.is_empty() && bench.endpoint.request_count() == 0);
            return (outcome, requests);
        }
        datagram = next.into_iter().next().expect("the next block is asked for");
    }
    panic!("no end");
}

#[test]
fn the_further_blocks_of_a_response_to_a_get_are_asked_for() {
    let body: Vec<u8> = (0..5_000u32).map(|number| number as u8).collect();
    for (exponent, requests) in [(6, 5), (2, 79)] {
        assert_eq!(get_from(&|_| body.clone(), &|_| 1, exponent), (content(&body), requests));
    }
    let exact = vec![7; 2_048];
    assert_eq!(get_from(&|_| exact.clone(), &|_| 1, 6), (content(&exact), 2));
}

#[test]
fn a_response_that_is_too_long_or_changes_meanwhile_is_told_in_part() {
    let partial = |payload: &[u8]| Outcome::Response {
        code: Code::CONTENT,
        content_format: None,
        payload: payload.to_vec(),
        partial: true,
    };
    let endless = vec![7; 1 << 20];
    assert_eq!(get_from(&|_| endless.clone(), &|_| 1, 6), (partial(&endless[..16 << 10]), 16));
    let whole = vec![7; 16 << 10];
    assert_eq!(get_from(&|_| whole.clone(), &|_| 1, 6), (content(&whole), 16));
    let body = vec![7; 5_000];
    let changed = get_from(&|_| body.clone(), &|number| u8::from(number >= 2), 6);
    assert_eq!(changed, (partial(&body[..2_048]), 3));
    // It became shorter meanwhile, so that there is no such block.
    let shorter = get_from(&|request| vec![7; if request == 1 { 5_000 } else { 1_024 }], &|_| 1, 6);
    assert_eq!(shorter, (content(&body[..1_024]), 2));
}

#[test]
fn a_peer_that_is_silent_after_the_first_block_has_answered_in_part() {
    let mut bench = Bench::default();
    let outgoing = Outgoing { method: Method::Get, path: "log", content_format: None, payload: b"" };
    bench.endpoint.request(bench.now, HOLDER, DEVICE, &outgoing).unwrap();
    let datagram = bench.sent_one();
    let sent = parse(&datagram);
    let (id, token) = (sent.message_id.0, sent.token.as_bytes());
    let part = [7; 1_024];
    let answer = message(Type::Acknowledgement, Code::CONTENT, id, token, &[(23, b"\x0e")], &part);
    assert_eq!(bench.reply(DEVICE, &answer).len(), 1);
    bench.pass(seconds(100.0));
    let outcome = replies(&mut bench).remove(0);
    assert!(
        matches!(&outcome, Outcome::Response { partial: true, payload, .. } if *payload == part),
        "{outcome:?}"
    );
    assert_eq!(bench.endpoint.request_count(), 0);
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

/// Answers the message with this code and, if there is one, an Echo option; what is sent then.
fn challenge(
    bench: &mut Bench,
    datagram: &[u8],
    separate: Option<Type>,
    echo: Option<&[u8]>,
) -> Vec<Vec<u8>> {
    let sent = parse(datagram);
    let options: Vec<(u16, &[u8])> = echo.iter().map(|echo| (252, *echo)).collect();
    let (kind, id) = separate.map_or((Type::Acknowledgement, sent.message_id.0), |kind| (kind, 77));
    let answer = message(kind, Code::UNAUTHORIZED, id, sent.token.as_bytes(), &options, b"fresh?");
    bench.reply(DEVICE, &answer)
}

#[test]
fn a_request_that_a_device_wants_fresh_is_sent_once_more_with_its_echo_another_id_and_another_token() {
    // RFC 9175 §2.3, §4.2.
    for separate in [None, Some(Type::Confirmable), Some(Type::NonConfirmable)] {
        let mut bench = Bench::default();
        let request = ask(&mut bench, DEVICE);
        let first = bench.sent_one();
        let mut next = challenge(&mut bench, &first, separate, Some(b"12345678"));
        if separate == Some(Type::Confirmable) {
            assert!(next.contains(&empty(Type::Acknowledgement, 77)), "{next:?}");
            next.retain(|datagram| parse(datagram).code == PUT);
        }
        assert_eq!(next.len(), 1);
        let (before, again) = (parse(&first), parse(&next[0]));
        assert_eq!((again.code, again.payload, again.message_type), (PUT, &b"40"[..], Type::Confirmable));
        assert_ne!(again.message_id, before.message_id);
        assert_ne!(again.token, before.token);
        assert_eq!(again.options.values(252).collect::<Vec<_>>(), [b"12345678"]);
        assert!(bench.endpoint.poll_reply().is_none(), "it is not over");
        // A late repetition of the challenge is nobody's.
        let late = message(
            Type::NonConfirmable,
            Code::UNAUTHORIZED,
            78,
            before.token.as_bytes(),
            &[(252, b"x")],
            b"",
        );
        assert!(bench.reply(DEVICE, &late).is_empty() && bench.endpoint.poll_reply().is_none());
        let (id, token) = (again.message_id.0, again.token.as_bytes().to_vec());
        bench.reply(DEVICE, &message(Type::Acknowledgement, Code::CONTENT, id, &token, &[], b"yes"));
        assert_eq!(bench.endpoint.poll_reply(), Some(Reply { request, outcome: content(b"yes") }));
        bench.pass(seconds(300.0));
        assert!(bench.sent().is_empty() && bench.endpoint.request_count() == 0);
    }
}

#[test]
fn a_device_that_wants_a_request_fresh_may_name_smaller_blocks_for_it() {
    // RFC 7959 §2.3: also a body that went in one message before.
    for bytes in [2_000, 500] {
        let mut bench = Bench::default();
        let body = vec![7; bytes];
        let outgoing = Outgoing { method: Method::Put, path: "fw", content_format: None, payload: &body };
        bench.endpoint.request(bench.now, HOLDER, DEVICE, &outgoing).unwrap();
        let mut datagram = bench.sent_one();
        let wanted = Block { number: 0, more: bytes > 1_024, size_exponent: 2 };
        let wanted = [wanted.to_uint() as u8];
        for (block, options) in [(0, &[(27, &wanted[..]), (252, b"e")][..]), (1, &[(27, &wanted[..])][..])] {
            let sent = parse(&datagram);
            let (id, token) = (sent.message_id.0, sent.token.as_bytes());
            let code = if block == 0 { Code::UNAUTHORIZED } else { Code::CONTINUE };
            let answer = message(Type::Acknowledgement, code, id, token, options, b"");
            datagram = bench.reply(DEVICE, &answer).remove(0);
            let sent = parse(&datagram);
            let named = uint(&sent, 27).and_then(Block::from_uint);
            assert_eq!(named, Some(Block { number: block, more: true, size_exponent: 2 }), "{bytes}");
            assert_eq!((sent.payload.len(), sent.options.values(252).count()), (64, usize::from(block == 0)));
        }
    }
}

#[test]
fn the_response_to_a_request_with_echo_may_come_separately_and_its_session_may_end() {
    let mut bench = Bench::default();
    let request = ask(&mut bench, DEVICE);
    let first = bench.sent_one();
    let next = challenge(&mut bench, &first, None, Some(b"e")).remove(0);
    let again = parse(&next);
    bench.reply(DEVICE, &empty(Type::Acknowledgement, again.message_id.0));
    assert_eq!(replies(&mut bench), [Outcome::Acknowledged]);
    let token = again.token.as_bytes().to_vec();
    bench.reply(DEVICE, &message(Type::NonConfirmable, Code::CONTENT, 9, &token, &[], b"late"));
    assert_eq!(bench.endpoint.poll_reply(), Some(Reply { request, outcome: content(b"late") }));

    let _ = ask(&mut bench, DEVICE);
    let first = bench.sent_one();
    assert_eq!(challenge(&mut bench, &first, None, Some(b"e")).len(), 1);
    bench.endpoint.forget(DEVICE);
    assert_eq!(replies(&mut bench), [Outcome::Gone]);
    assert_eq!(bench.endpoint.request_count(), 0);
}

#[test]
fn a_device_that_is_never_satisfied_and_an_echo_that_is_none_end_the_request() {
    let unauthorized = |outcomes: Vec<Outcome>| match &outcomes[..] {
        [Outcome::Response { code, payload, .. }] => {
            (*code, &payload[..]) == (Code::UNAUTHORIZED, &b"fresh?"[..])
        }
        _ => false,
    };
    // It asks again although the message had its option.
    let mut bench = Bench::default();
    ask(&mut bench, DEVICE);
    let first = bench.sent_one();
    let next = challenge(&mut bench, &first, None, Some(b"1")).remove(0);
    assert!(challenge(&mut bench, &next, None, Some(b"2")).is_empty());
    assert!(unauthorized(replies(&mut bench)));
    // None, an empty one, and one of more than 40 bytes (§2.2.1).
    for echo in [None, Some(&b""[..]), Some(&[7; 41][..])] {
        let mut bench = Bench::default();
        ask(&mut bench, DEVICE);
        let first = bench.sent_one();
        assert!(challenge(&mut bench, &first, None, echo).is_empty(), "{echo:?}");
        assert!(unauthorized(replies(&mut bench)));
    }
    // With another code it means nothing to a request that is over.
    let mut bench = Bench::default();
    ask(&mut bench, DEVICE);
    let first = bench.sent_one();
    let sent = parse(&first);
    let (id, token) = (sent.message_id.0, sent.token.as_bytes());
    let answer = message(Type::Acknowledgement, Code::CONTENT, id, token, &[(252, b"e")], b"x");
    assert!(bench.reply(DEVICE, &answer).is_empty());
    assert_eq!(replies(&mut bench), [content(b"x")]);
}

/// A body of 16 KiB, each block of which the device answers so often with 4.01 and Echo: how many
/// of these it sent, and what came of the request.
fn challenged(times: usize) -> (usize, Vec<Outcome>) {
    let mut bench = Bench::default();
    let body = vec![7; 16 << 10];
    let outgoing = Outgoing { method: Method::Put, path: "fw", content_format: None, payload: &body };
    bench.endpoint.request(bench.now, HOLDER, DEVICE, &outgoing).unwrap();
    let mut datagram = bench.sent_one();
    let (mut challenges, mut of_block) = (0, 0);
    loop {
        let sent = parse(&datagram);
        let (id, token) = (sent.message_id.0, sent.token.as_bytes());
        let block = Block::from_uint(uint(&sent, 27).unwrap()).unwrap();
        let answer = if of_block < times {
            (challenges, of_block) = (challenges + 1, of_block + 1);
            message(Type::Acknowledgement, Code::UNAUTHORIZED, id, token, &[(252, b"e")], b"")
        } else {
            of_block = 0;
            let code = if block.more { Code::CONTINUE } else { Code::CHANGED };
            let value = block.to_uint().to_be_bytes();
            message(Type::Acknowledgement, code, id, token, &[(27, &value[1..])], b"")
        };
        match bench.reply(DEVICE, &answer).into_iter().next() {
            Some(next) => datagram = next,
            None => return (challenges, replies(&mut bench)),
        }
    }
}

#[test]
fn each_block_of_a_long_transfer_may_be_wanted_fresh_once_and_not_twice() {
    let (challenges, outcomes) = challenged(1);
    assert_eq!(challenges, 16);
    assert!(matches!(outcomes[..], [Outcome::Response { code: Code::CHANGED, .. }]), "{outcomes:?}");
    let (challenges, outcomes) = challenged(2);
    assert_eq!(challenges, 2);
    assert!(matches!(outcomes[..], [Outcome::Response { code: Code::UNAUTHORIZED, .. }]), "{outcomes:?}");
}
