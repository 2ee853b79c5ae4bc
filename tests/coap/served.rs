//! The endpoint as a client that observes (RFC 7641): values whose acknowledgement waits, blocks of
//! notifications, and relations that end.

use std::time::Duration;

use tombolo::message::ContentFormat;
use tombolo::proto::Holder;
use tombolo::proto::coap::block::Block;
use tombolo::proto::coap::endpoint::client::{REST_WITHIN, Unsent};
use tombolo::proto::coap::{Ask, BlockRefused, Code, Notice, NoticeKind, Outcome, PeerId, RequestId, Type};

use super::support::*;

const HOLDER: Holder = Holder { number: 1, max_sessions: 1, max_handshakes: Holder::HANDSHAKES };

fn wanted(observe: bool) -> Ask {
    Ask {
        path: "s/temp".to_owned(),
        query: Some("u=C&a".to_owned()),
        accept: Some(ContentFormat(60)),
        block_exponent: None,
        observe,
        limit: 4096,
    }
}

/// Asks, and the datagram that is sent.
fn ask(bench: &mut Bench, peer: PeerId, again: Option<RequestId>, observe: bool) -> (RequestId, Vec<u8>) {
    let request = bench.endpoint.ask(bench.now, HOLDER, peer, again, &wanted(observe)).unwrap();
    (request, bench.sent_one())
}

/// A relation with the device; its token.
fn observing(bench: &mut Bench) -> (RequestId, Vec<u8>) {
    let (request, datagram) = ask(bench, DEVICE, None, true);
    let sent = parse(&datagram);
    let token = sent.token.as_bytes().to_vec();
    let answer =
        message(Type::Acknowledgement, Code::CONTENT, sent.message_id.0, &token, &[(6, &[1])], b"20");
    assert!(bench.reply(DEVICE, &answer).is_empty());
    let first = notice(bench);
    assert_eq!((first.kind, first.observe, first.held), (NoticeKind::Piggybacked, Some(1), None));
    assert_eq!((first.request, first.max_age_s, &first.payload[..]), (request, 60, &b"20"[..]));
    (request, token)
}

fn notice(bench: &mut Bench) -> Notice {
    bench.endpoint.poll_notice().expect("a notice")
}

fn notification(confirmable: bool, id: u16, token: &[u8], number: u8, payload: &[u8]) -> Vec<u8> {
    let kind = if confirmable { Type::Confirmable } else { Type::NonConfirmable };
    message(kind, Code::CONTENT, id, token, &[(6, &[number]), (14, &[9])], payload)
}

fn replies(bench: &mut Bench) -> Vec<Outcome> {
    std::iter::from_fn(|| bench.endpoint.poll_reply()).map(|reply| reply.outcome).collect()
}

#[test]
fn a_registration_has_observe_path_query_and_accept_and_a_poll_no_observe() {
    let mut bench = Bench::default();
    let (_, datagram) = ask(&mut bench, DEVICE, None, true);
    let sent = parse(&datagram);
    assert_eq!((sent.message_type, sent.code, sent.payload), (Type::Confirmable, GET, &b""[..]));
    let numbers: Vec<(u16, &[u8])> = sent.options.map(|option| (option.number, option.value)).collect();
    let expected: [(u16, &[u8]); 6] =
        [(6, b""), (11, b"s"), (11, b"temp"), (15, b"u=C"), (15, b"a"), (17, &[60])];
    assert_eq!(numbers, expected);
    let (_, datagram) = ask(&mut bench, proven(2), None, false);
    assert_eq!(uint(&parse(&datagram), 6), None);
    let refused = bench.endpoint.ask(bench.now, HOLDER, STRANGER, None, &wanted(true));
    assert_eq!(refused, Err(Unsent::Unproven));
}

#[test]
fn blocks_of_the_wanted_size_are_asked_for_from_the_first_one_on() {
    // RFC 7959 §2.3, §2.4, §2.6; in the order of the option numbers.
    for observe in [true, false] {
        let mut bench = Bench::default();
        let wanted = Ask { block_exponent: Some(2), ..wanted(observe) };
        bench.endpoint.ask(bench.now, HOLDER, DEVICE, None, &wanted).unwrap();
        let datagram = bench.sent_one();
        let sent = parse(&datagram);
        assert_eq!(
            uint(&sent, 23).and_then(Block::from_uint),
            Some(Block { number: 0, more: false, size_exponent: 2 })
        );
        let first = Block { number: 0, more: true, size_exponent: 2 }.to_uint() as u8;
        let token = sent.token.as_bytes().to_vec();
        let (id, payload) = (sent.message_id.0, [7; 64]);
        let answer =
            message(Type::Acknowledgement, Code::CONTENT, id, &token, &[(4, b"e"), (23, &[first])], &payload);
        let next = bench.reply(DEVICE, &answer).remove(0);
        let named = uint(&parse(&next), 23).and_then(Block::from_uint);
        assert_eq!(named, Some(Block { number: 1, more: false, size_exponent: 2 }));
        let sent = parse(&next);
        let (id, token) = (sent.message_id.0, sent.token.as_bytes().to_vec());
        let last = Block { number: 1, more: false, size_exponent: 2 }.to_uint() as u8;
        let answer =
            message(Type::Acknowledgement, Code::CONTENT, id, &token, &[(4, b"e"), (23, &[last])], b"end");
        assert!(bench.reply(DEVICE, &answer).is_empty());
        let found = notice(&mut bench);
        assert_eq!((found.payload.len(), found.partial, found.blockwise), (67, false, true));
    }
}

#[test]
fn a_confirmable_notification_is_acknowledged_when_that_is_decided_and_handed_up_once_until_then() {
    let mut bench = Bench::default();
    let (request, token) = observing(&mut bench);
    let datagram = notification(true, 7, &token, 2, b"21");
    assert!(bench.reply(DEVICE, &datagram).is_empty(), "not acknowledged yet");
    let found = notice(&mut bench);
    assert_eq!((found.request, found.observe, found.max_age_s), (request, Some(2), 9));
    assert!(bench.reply(DEVICE, &datagram).is_empty() && bench.endpoint.poll_notice().is_none());
    bench.endpoint.acknowledge_value(found.held.unwrap());
    assert_eq!(bench.sent_one(), empty(Type::Acknowledgement, 7));
    // Its acknowledgement was lost.
    assert_eq!(bench.reply(DEVICE, &datagram), [empty(Type::Acknowledgement, 7)]);
    assert!(bench.endpoint.poll_notice().is_none());
    // Twice decided about is once.
    bench.endpoint.reject_value(found.held.unwrap());
    assert!(bench.sent().is_empty());
}

#[test]
fn a_value_that_is_left_is_handed_up_again_and_one_that_is_rejected_gets_a_reset() {
    let mut bench = Bench::default();
    let (request, token) = observing(&mut bench);
    let datagram = notification(true, 7, &token, 2, b"21");
    bench.reply(DEVICE, &datagram);
    let held = notice(&mut bench).held.unwrap();
    bench.endpoint.leave_value(held);
    assert!(bench.sent().is_empty());
    assert!(bench.reply(DEVICE, &datagram).is_empty());
    let held = notice(&mut bench).held.unwrap();
    bench.endpoint.forget_ask(request);
    bench.endpoint.reject_value(held);
    assert_eq!(bench.sent_one(), empty(Type::Reset, 7));
    assert_eq!(bench.endpoint.ask_count(), 0);
}

#[test]
fn a_notification_that_nobody_expects_gets_a_reset_whatever_its_type() {
    let mut bench = Bench::default();
    let (request, token) = observing(&mut bench);
    for (peer, token) in [(proven(2), &token[..]), (DEVICE, &[1, 2, 3, 4]), (DEVICE, b"abc")] {
        for confirmable in [true, false] {
            let datagram = notification(confirmable, 9, token, 2, b"x");
            assert_eq!(bench.reply(peer, &datagram), [empty(Type::Reset, 9)], "{token:?}");
        }
    }
    assert!(bench.endpoint.poll_notice().is_none());
    bench.endpoint.forget_ask(request);
    assert_eq!(bench.reply(DEVICE, &notification(false, 10, &token, 3, b"x")), [empty(Type::Reset, 10)]);
    // Nothing proves that a plain address is where it came from.
    assert!(bench.reply(STRANGER, &notification(false, 11, &token, 3, b"x")).is_empty());
    // What is no notification is ignored, as before.
    let response = message(Type::NonConfirmable, Code::CONTENT, 12, b"abc", &[], b"x");
    assert!(bench.reply(DEVICE, &response).is_empty());
}

#[test]
fn resets_for_a_flood_of_notifications_are_bounded() {
    let mut bench = Bench::default();
    let mut resets = 0;
    for id in 0..1_000 {
        resets += bench.reply(DEVICE, &notification(false, id, b"none", 2, b"x")).len();
    }
    assert_eq!(resets, 64);
    bench.pass(seconds(1.0));
    assert_eq!(bench.reply(DEVICE, &notification(false, 1_001, b"none", 2, b"x")).len(), 1);
}

#[test]
fn values_that_are_held_are_bounded_for_each_peer() {
    let mut bench = Bench::default();
    let (_, token) = observing(&mut bench);
    for id in 0..1_000 {
        assert!(bench.reply(DEVICE, &notification(true, id, &token, 2, b"x")).is_empty());
    }
    let held = std::iter::from_fn(|| bench.endpoint.poll_notice()).count();
    assert_eq!((held, bench.endpoint.ask_count()), (24, 25));
    bench.endpoint.forget(DEVICE);
    assert_eq!(bench.endpoint.ask_count(), 0);
    assert_eq!(replies(&mut bench), [Outcome::Gone]);
}

#[test]
fn a_relation_is_renewed_by_the_same_token_and_notifications_meanwhile_are_notifications() {
    let mut bench = Bench::default();
    let (request, token) = observing(&mut bench);
    let (again, datagram) = ask(&mut bench, DEVICE, Some(request), true);
    let sent = parse(&datagram);
    assert_eq!((again, sent.token.as_bytes()), (request, &token[..]));
    bench.reply(DEVICE, &notification(false, 3, &token, 5, b"22"));
    assert_eq!(notice(&mut bench).kind, NoticeKind::Notification);
    let answer =
        message(Type::Acknowledgement, Code::CONTENT, sent.message_id.0, &token, &[(6, &[6])], b"23");
    assert!(bench.reply(DEVICE, &answer).is_empty());
    assert_eq!(notice(&mut bench).kind, NoticeKind::Piggybacked);
    bench.pass(seconds(100.0));
    assert!(bench.sent().is_empty() && replies(&mut bench).is_empty());
    // Over another session it is another relation.
    let (other, _) = ask(&mut bench, proven(2), Some(request), true);
    assert_ne!(other, request);
}

#[test]
fn an_answer_in_a_message_of_its_own_is_held_too_and_one_without_observe_ends_the_relation() {
    let mut bench = Bench::default();
    let (request, datagram) = ask(&mut bench, DEVICE, None, true);
    let sent = parse(&datagram);
    let token = sent.token.as_bytes().to_vec();
    bench.reply(DEVICE, &empty(Type::Acknowledgement, sent.message_id.0));
    assert_eq!(replies(&mut bench), [Outcome::Acknowledged]);
    assert!(bench.reply(DEVICE, &notification(true, 4, &token, 1, b"20")).is_empty());
    let first = notice(&mut bench);
    assert_eq!((first.kind, first.request), (NoticeKind::Separate, request));
    bench.endpoint.acknowledge_value(first.held.unwrap());
    bench.sent();
    let error = message(Type::NonConfirmable, Code::NOT_FOUND, 5, &token, &[], b"");
    bench.reply(DEVICE, &error);
    let last = notice(&mut bench);
    assert_eq!((last.code, last.observe), (Code::NOT_FOUND, None));
    assert_eq!(bench.endpoint.ask_count(), 0);
    assert_eq!(bench.reply(DEVICE, &notification(true, 6, &token, 2, b"x")), [empty(Type::Reset, 6)]);
}

#[test]
fn a_reset_silence_and_an_unknown_critical_option_end_a_relation() {
    let mut bench = Bench::default();
    let (_, datagram) = ask(&mut bench, DEVICE, None, true);
    bench.reply(DEVICE, &empty(Type::Reset, parse(&datagram).message_id.0));
    assert_eq!(replies(&mut bench), [Outcome::Reset]);
    ask(&mut bench, DEVICE, None, true);
    bench.pass(seconds(100.0));
    assert_eq!(replies(&mut bench), [Outcome::Unanswered]);
    bench.sent();
    let (_, token) = observing(&mut bench);
    let strange = message(Type::Confirmable, Code::CONTENT, 8, &token, &[(6, &[2]), (65_001, b"x")], b"y");
    assert_eq!(bench.reply(DEVICE, &strange), [empty(Type::Reset, 8)]);
    assert_eq!(replies(&mut bench), [Outcome::Unintelligible(65_001)]);
    assert_eq!((bench.endpoint.ask_count(), bench.endpoint.request_count()), (0, 0));
}

/// Answers the requests for the blocks of `body`; `etag` of each.
fn serve(bench: &mut Bench, mut datagram: Vec<u8>, body: &[u8], etag: &dyn Fn(u32) -> u8) -> (Notice, usize) {
    for requests in 1..100 {
        let sent = parse(&datagram);
        let block = uint(&sent, 23).and_then(Block::from_uint).expect("a block is asked for");
        assert_eq!(uint(&sent, 6), None, "no Observe in the requests for the rest");
        let end = (block.offset() + block.size()).min(body.len());
        let answered = Block { more: end < body.len(), ..block }.to_uint().to_be_bytes();
        let options: [(u16, &[u8]); 2] = [(4, &[etag(block.number)]), (23, &answered[1..])];
        let (id, token) = (sent.message_id.0, sent.token.as_bytes().to_vec());
        let part = &body[block.offset().min(end)..end];
        let answer = message(Type::Acknowledgement, Code::CONTENT, id, &token, &options, part);
        let next = bench.reply(DEVICE, &answer);
        if let Some(notice) = bench.endpoint.poll_notice() {
            assert!(next.is_empty());
            return (notice, requests);
        }
        datagram = next.into_iter().next().expect("the next block is asked for");
    }
    panic!("no end");
}

/// The first block of a notification.
fn first_block(id: u16, token: &[u8], number: u8, body: &[u8]) -> Vec<u8> {
    let options: [(u16, &[u8]); 3] = [(4, &[1]), (6, &[number]), (23, &[0x0e])];
    message(Type::Confirmable, Code::CONTENT, id, token, &options, &body[..1_024])
}

#[test]
fn the_rest_of_a_notification_in_blocks_is_fetched_by_another_token() {
    let mut bench = Bench::default();
    let (request, token) = observing(&mut bench);
    let body: Vec<u8> = (0..3_000u32).map(|number| number as u8).collect();
    let sent = bench.reply(DEVICE, &first_block(7, &token, 2, &body));
    assert_eq!(sent[0], empty(Type::Acknowledgement, 7), "the rest has to be asked for");
    assert_ne!(parse(&sent[1]).token.as_bytes(), &token[..]);
    let (found, requests) = serve(&mut bench, sent[1].clone(), &body, &|_| 1);
    assert_eq!((requests, found.request, found.observe), (2, request, Some(2)));
    assert!(found.payload == body && !found.partial && found.blockwise && found.held.is_none());
    // The relation goes on.
    bench.reply(DEVICE, &notification(false, 8, &token, 3, b"20"));
    assert_eq!(notice(&mut bench).payload, b"20");
}

#[test]
fn a_value_that_changes_meanwhile_or_is_more_than_the_limit_is_partial() {
    let body = vec![7; 3_000];
    let mut bench = Bench::default();
    let (_, token) = observing(&mut bench);
    let sent = bench.reply(DEVICE, &first_block(7, &token, 2, &body));
    let (changed, _) = serve(&mut bench, sent[1].clone(), &body, &|number| number as u8);
    assert!(changed.partial, "{changed:?}");
    let endless = vec![7; 1 << 16];
    let sent = bench.reply(DEVICE, &first_block(8, &token, 3, &endless));
    let (long, requests) = serve(&mut bench, sent[1].clone(), &endless, &|_| 1);
    assert!(long.partial && long.payload.len() <= 4_096 && requests <= 4, "{requests}");
    // While the rest of one is fetched, that of another is not.
    bench.reply(DEVICE, &first_block(9, &token, 4, &body));
    assert_eq!(bench.reply(DEVICE, &first_block(10, &token, 5, &body)).len(), 1, "the acknowledgement");
    let second = notice(&mut bench);
    assert!(second.partial && second.observe == Some(5));
}

#[test]
fn a_rest_that_is_acknowledged_and_never_answered_is_given_up_and_the_relation_goes_on() {
    let (body, mut bench) = (vec![7; 3_000], Bench::default());
    let (_, token) = observing(&mut bench);
    let sent = bench.reply(DEVICE, &first_block(7, &token, 2, &body));
    bench.reply(DEVICE, &empty(Type::Acknowledgement, parse(&sent[1]).message_id.0));
    bench.pass(REST_WITHIN - Duration::from_secs(1));
    assert!(bench.endpoint.poll_notice().is_none());
    bench.pass(Duration::from_secs(1));
    let given_up = notice(&mut bench);
    assert!(given_up.partial && given_up.observe == Some(2));
    let sent = bench.reply(DEVICE, &first_block(8, &token, 3, &body));
    let (found, _) = serve(&mut bench, sent[1].clone(), &body, &|_| 1);
    assert!(found.payload == body && !found.partial);
}

#[test]
fn blocks_without_an_etag_of_two_notifications_are_not_put_together() {
    let [old, new] = [vec![1; 3_000], vec![2; 3_000]];
    let mut bench = Bench::default();
    let (_, token) = observing(&mut bench);
    let first = |id, number: u8, body: &[u8]| {
        let options: [(u16, &[u8]); 2] = [(6, &[number]), (23, &[0x0e])];
        message(Type::Confirmable, Code::CONTENT, id, &token, &options, &body[..1_024])
    };
    let before = bench.reply(DEVICE, &first(7, 2, &old));
    bench.reply(DEVICE, &first(8, 3, &new));
    let given_up = notice(&mut bench);
    assert!(given_up.partial && given_up.observe == Some(2), "{given_up:?}");
    // What comes to the request that was given up is for nobody.
    let late = parse(&before[1]);
    let token = late.token.as_bytes().to_vec();
    let options: [(u16, &[u8]); 1] = [(23, &[0x1e])];
    let answer =
        message(Type::Acknowledgement, Code::CONTENT, late.message_id.0, &token, &options, &old[..1_024]);
    let next = bench.reply(DEVICE, &answer);
    assert_eq!(next.len(), 1, "the rest of the newer one is asked for");
    let part = |number: u32, more| Block { number, more, size_exponent: 6 }.to_uint().to_be_bytes();
    let mut datagram = next[0].clone();
    for (number, more) in [(1, true), (2, false)] {
        let sent = parse(&datagram);
        let (id, token) = (sent.message_id.0, sent.token.as_bytes().to_vec());
        let (begin, end) = (number as usize * 1_024, ((number as usize + 1) * 1_024).min(new.len()));
        let option = part(number, more);
        let options: [(u16, &[u8]); 1] = [(23, &option[1..])];
        let answer = message(Type::Acknowledgement, Code::CONTENT, id, &token, &options, &new[begin..end]);
        let next = bench.reply(DEVICE, &answer);
        datagram = next.into_iter().next().unwrap_or_default();
    }
    let found = notice(&mut bench);
    assert!(found.payload == new && !found.partial && found.observe == Some(3));
}

#[test]
fn a_poll_whose_answer_comes_in_blocks_is_over_with_the_last() {
    let mut bench = Bench::default();
    let (request, datagram) = ask(&mut bench, DEVICE, None, false);
    let sent = parse(&datagram);
    let body: Vec<u8> = (0..2_000u32).map(|number| number as u8).collect();
    let (id, token) = (sent.message_id.0, sent.token.as_bytes().to_vec());
    let options: [(u16, &[u8]); 2] = [(4, &[1]), (23, &[0x0e])];
    let answer = message(Type::Acknowledgement, Code::CONTENT, id, &token, &options, &body[..1_024]);
    let next = bench.reply(DEVICE, &answer);
    let (found, _) = serve(&mut bench, next[0].clone(), &body, &|_| 1);
    assert!(found.request == request && found.payload == body && !found.partial);
    assert_eq!((bench.endpoint.ask_count(), bench.endpoint.request_count()), (0, 0));
    assert!(replies(&mut bench).is_empty());
}

#[test]
fn a_registration_that_a_device_wants_fresh_is_sent_once_more_with_its_echo_and_stands_by_its_new_token() {
    for observe in [true, false] {
        let mut bench = Bench::default();
        let (request, first) = ask(&mut bench, DEVICE, None, observe);
        let sent = parse(&first);
        let before = sent.token.as_bytes().to_vec();
        let answer = message(
            Type::Acknowledgement,
            Code::UNAUTHORIZED,
            sent.message_id.0,
            sent.token.as_bytes(),
            &[(252, b"12345678")],
            b"",
        );
        let next = bench.reply(DEVICE, &answer);
        assert_eq!(next.len(), 1);
        let again = parse(&next[0]);
        assert_eq!(again.options.values(252).collect::<Vec<_>>(), [b"12345678"]);
        assert_eq!(uint(&again, 6), observe.then_some(0));
        assert_ne!((again.token, again.message_id), (sent.token, sent.message_id));
        assert!(bench.endpoint.poll_notice().is_none());
        let token = again.token.as_bytes().to_vec();
        let answer =
            message(Type::Acknowledgement, Code::CONTENT, again.message_id.0, &token, &[(6, &[1])], b"20");
        assert!(bench.reply(DEVICE, &answer).is_empty());
        let first = notice(&mut bench);
        assert_eq!((first.request, &first.payload[..]), (request, &b"20"[..]));
        if !observe {
            assert_eq!(bench.endpoint.ask_count(), 0);
            continue;
        }
        bench.reply(DEVICE, &notification(false, 8, &token, 2, b"21"));
        assert_eq!((notice(&mut bench).request, bench.endpoint.ask_count()), (request, 1));
        // It is sent anew by the token that it stands by, without the option.
        let (same, datagram) = ask(&mut bench, DEVICE, Some(request), true);
        let sent = parse(&datagram);
        assert_eq!((same, sent.token.as_bytes(), sent.options.values(252).count()), (request, &token[..], 0));
        // A notification by the token of before is nobody's.
        let strange = notification(true, 9, &before, 3, b"x");
        assert_eq!(bench.reply(DEVICE, &strange), [empty(Type::Reset, 9)]);
        bench.endpoint.forget(DEVICE);
        assert_eq!(replies(&mut bench), [Outcome::Gone]);
        assert_eq!(bench.endpoint.ask_count(), 0);
    }
}

#[test]
fn the_rest_of_a_value_of_which_each_block_is_wanted_fresh_is_fetched() {
    // RFC 9175 §2.3: a 4.01 with Echo for each block, so for each a message more.
    let mut bench = Bench::default();
    let (request, token) = observing(&mut bench);
    let body: Vec<u8> = (0..750u32).map(|number| number as u8).collect();
    // The first of blocks of 64 bytes.
    let options: [(u16, &[u8]); 3] = [(4, &[1]), (6, &[2]), (23, &[0x0a])];
    let first = message(Type::Confirmable, Code::CONTENT, 7, &token, &options, &body[..64]);
    let mut datagram = bench.reply(DEVICE, &first).remove(1);
    for number in 1u8..12 {
        let sent = parse(&datagram);
        assert_eq!(sent.options.values(252).count(), 0);
        let (id, token) = (sent.message_id.0, sent.token.as_bytes());
        let answer = message(Type::Acknowledgement, Code::UNAUTHORIZED, id, token, &[(252, &[number])], b"");
        let again = bench.reply(DEVICE, &answer).into_iter().next().expect("the block is asked for again");
        let sent = parse(&again);
        assert_eq!(sent.options.values(252).collect::<Vec<_>>(), [[number]]);
        let block = uint(&sent, 23).and_then(Block::from_uint).expect("a block");
        let end = (block.offset() + block.size()).min(body.len());
        let answered = Block { more: end < body.len(), ..block }.to_uint().to_be_bytes();
        let (id, token) = (sent.message_id.0, sent.token.as_bytes());
        let options: [(u16, &[u8]); 2] = [(4, &[1]), (23, &answered[1..])];
        let answer =
            message(Type::Acknowledgement, Code::CONTENT, id, token, &options, &body[block.offset()..end]);
        match bench.reply(DEVICE, &answer).into_iter().next() {
            Some(next) => datagram = next,
            None => assert_eq!(number, 11),
        }
    }
    let found = notice(&mut bench);
    assert!(found.request == request && found.payload == body && !found.partial);
}

#[test]
fn a_device_that_refuses_a_block_again_with_its_echo_is_said_to_and_not_asked_for_ever() {
    let mut bench = Bench::default();
    let (_, token) = observing(&mut bench);
    let body = [7; 3_000];
    let mut datagram = bench.reply(DEVICE, &first_block(7, &token, 2, &body)).remove(1);
    for number in [1u8, 2] {
        let sent = parse(&datagram);
        let (id, token) = (sent.message_id.0, sent.token.as_bytes());
        let answer = message(Type::Acknowledgement, Code::UNAUTHORIZED, id, token, &[(252, &[number])], b"");
        let next = bench.reply(DEVICE, &answer);
        assert_eq!(next.len(), usize::from(number == 1), "once more, and no more");
        datagram = next.into_iter().next().unwrap_or_default();
    }
    let found = notice(&mut bench);
    assert_eq!(found.refused, Some(BlockRefused { code: Code::UNAUTHORIZED, had_echo: true }));
    assert!(found.partial && found.payload.len() == 1_024);
}
