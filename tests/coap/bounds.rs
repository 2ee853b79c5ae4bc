//! The limits of the state that peers can cause.

use tombolo::message::ContentFormat;
use tombolo::proto::Holder;
use tombolo::proto::coap::{Code, Response, Settings, Type};

use super::support::*;

#[test]
fn one_peer_with_too_many_unanswered_requests_hears_4_29() {
    let mut bench = Bench::default();
    let exchanges: Vec<_> = (0..24).map(|id| bench.request(DEVICE, &post(id, b"x"))).collect();
    let sent = bench.reply(DEVICE, &post(24, b"x"));
    assert_eq!((parse(&sent[0]).code, uint(&parse(&sent[0]), 14)), (Code::TOO_MANY_REQUESTS, Some(1)));
    assert!(bench.feed(proven(2), &post(24, b"x")).is_some(), "others are served");
    bench.respond(exchanges[5], &changed());
    assert!(bench.feed(DEVICE, &post(24, b"x")).is_some(), "and it again when one is answered");
}

#[test]
fn responses_nobody_acknowledges_count_as_unanswered() {
    let mut bench = Bench::default();
    let exchanges: Vec<_> = (0..24).map(|id| bench.request(DEVICE, &post(id, b"x"))).collect();
    bench.pass(seconds(1.0));
    exchanges.into_iter().for_each(|exchange| bench.respond(exchange, &changed()));
    bench.sent();
    assert_eq!(parse(&bench.reply(DEVICE, &post(24, b"x"))[0]).code, Code::TOO_MANY_REQUESTS);
    bench.pass(seconds(93.0));
    bench.sent();
    assert!(bench.feed(DEVICE, &post(25, b"x")).is_some(), "given up, all of them");
}

#[test]
fn too_many_unanswered_requests_in_all_are_5_03() {
    let mut bench = Bench::new(Settings { pending: 100, ..Settings::default() });
    for peer in 0..100 {
        bench.request(proven(peer), &post(1, b"x"));
    }
    let sent = bench.reply(proven(100), &post(1, b"x"));
    assert_eq!((parse(&sent[0]).code, uint(&parse(&sent[0]), 14)), (Code::SERVICE_UNAVAILABLE, Some(1)));
}

#[test]
fn the_sessions_of_one_device_share_what_it_may_leave_unanswered() {
    let mut bench = Bench::new(Settings { pending: 400, ..Settings::default() });
    let (greedy, modest) = (
        Holder { number: 1, max_sessions: 64, max_handshakes: Holder::HANDSHAKES },
        Holder { number: 2, max_sessions: 4, max_handshakes: Holder::HANDSHAKES },
    );
    let mut exchanges = Vec::new();
    for peer in 0..64 {
        for id in 0..10 {
            let datagram = post(id, b"x");
            let request = bench.feed_of(greedy, proven(peer), &datagram);
            exchanges.extend(request.map(|request| request.exchange));
        }
    }
    assert_eq!(exchanges.len(), 50, "an eighth of all");
    let sent = bench.sent();
    assert_eq!(sent.len(), 640 - 50);
    assert!(sent.iter().all(|(_, answer)| parse(answer).code == Code::TOO_MANY_REQUESTS));
    for id in 0..24 {
        assert!(bench.feed_of(modest, proven(100), &post(id, b"x")).is_some(), "its own");
    }
    // An unacknowledged response still counts, an acknowledged one does not.
    bench.pass(seconds(1.0));
    bench.respond(exchanges[0], &changed());
    let separate = parse(&bench.sent().pop().expect("an answer").1).message_id.0;
    assert!(bench.feed_of(greedy, proven(0), &post(99, b"x")).is_none());
    bench.sent();
    bench.feed_of(greedy, proven(0), &empty(Type::Acknowledgement, separate));
    assert!(bench.feed_of(greedy, proven(0), &post(100, b"x")).is_some());
}

#[test]
fn requests_nobody_answers_are_abandoned_in_the_end() {
    let mut bench = Bench::default();
    bench.request(DEVICE, &post(1, b"x"));
    bench.pass(seconds(600.0));
    assert_eq!((bench.endpoint.pending_count(), bench.endpoint.memory()), (0, 0));
    assert_eq!((bench.endpoint.counters().abandoned, bench.endpoint.poll_timeout()), (1, None));
}

#[test]
fn memory_stays_in_its_bound_and_the_newest_are_remembered() {
    let settings = Settings { memory: 256 << 10, ..Settings::default() };
    let mut bench = Bench::new(settings.clone());
    for round in 0..40u16 {
        for peer in 0..500 {
            let exchange = bench.request(proven(peer), &post(round, b"x"));
            bench.respond(exchange, &changed());
        }
        bench.sent();
        bench.pass(seconds(1.0));
        assert!(bench.endpoint.memory() <= settings.memory);
    }
    assert!(bench.endpoint.counters().forgotten > 0);
    for peer in 0..500 {
        assert_eq!(bench.reply(proven(peer), &post(39, b"x")).len(), 1, "the newest of {peer}");
    }
}

#[test]
fn five_thousand_peers_with_full_memories_fit_and_vanish_when_idle() {
    let mut bench = Bench::default();
    for round in 0..40u16 {
        for peer in 0..5_000 {
            let exchange = bench.request(proven(peer), &post(round, b"x"));
            bench.respond(exchange, &changed());
        }
        bench.sent();
    }
    assert!(bench.endpoint.memory() < 7 << 20, "{}", bench.endpoint.memory());
    assert_eq!(bench.endpoint.counters().forgotten, 0);
    bench.pass(seconds(256.0));
    assert_eq!((bench.endpoint.memory(), bench.endpoint.peer_count()), (0, 0));
}

#[test]
fn forged_senders_crowd_out_only_each_other() {
    let mut bench = Bench::default();
    let exchange = bench.request(DEVICE, &post(1, b"x"));
    bench.respond(exchange, &changed());
    bench.sent();
    for number in 0..100_000 {
        if let Some(request) = bench.endpoint.handle_datagram(bench.now, unproven(number), &post(1, b"x")) {
            let exchange = request.exchange;
            bench.respond(exchange, &changed());
        }
        bench.sent();
    }
    assert!(bench.endpoint.memory() < (1 << 20) + 1_000);
    assert_eq!(bench.reply(DEVICE, &post(1, b"x")).len(), 1, "the proven peer is remembered");
}

/// Fetches a body the way clients do, and counts bytes both ways.
fn fetch(bench: &mut Bench, path: &[u8], body: &[u8]) -> (Vec<u8>, usize, usize, Code) {
    let (mut fetched, mut up, mut down) = (Vec::new(), 0, 0);
    let mut wanted = None;
    for id in 0.. {
        let value: Option<[u8; 2]> = wanted.map(u16::to_be_bytes);
        let mut options: Vec<(u16, &[u8])> = vec![(11, path)];
        options.extend(value.as_ref().map(|value| (23, &value[..])));
        let datagram = message(Type::Confirmable, GET, id, b"tk", &options, b"");
        up += datagram.len();
        let exchange = bench.request(STRANGER, &datagram);
        bench.respond(exchange, &Response::content(ContentFormat::LINK_FORMAT, body));
        let sent = bench.sent_one();
        down += sent.len();
        let part = parse(&sent);
        fetched.extend_from_slice(part.payload);
        match uint(&part, 23) {
            Some(block) if block & 8 != 0 => {
                wanted = Some(((fetched.len() / (16 << (block & 7))) as u16) << 4 | (block & 7) as u16);
            }
            _ => return (fetched, up, down, part.code),
        }
    }
    unreachable!()
}

#[test]
fn an_unproven_peer_gets_a_large_body_in_blocks_it_has_paid_for() {
    let mut bench = Bench::default();
    let body: Vec<u8> = (0..600).map(|i| i as u8).collect();
    let (fetched, up, down, code) = fetch(&mut bench, b".well-known-core", &body);
    assert_eq!((code, fetched), (Code::CONTENT, body));
    assert!(down <= 3 * up, "{down} bytes for {up}");
}

#[test]
fn an_unproven_peer_that_sends_too_little_hears_4_01() {
    let mut bench = Bench::default();
    let (fetched, up, down, code) = fetch(&mut bench, b"", &[b'x'; 600]);
    assert_eq!((code, fetched.len()), (Code::UNAUTHORIZED, 0));
    assert!(down <= 3 * up);
}

#[test]
fn an_unproven_peer_is_not_sent_the_same_for_ever() {
    let mut bench = Bench::default();
    let datagram = message(Type::Confirmable, POST, 1, b"longtokn", &[(11, b"t")], b"x");
    let exchange = bench.request(STRANGER, &datagram);
    bench.pass(seconds(1.0));
    bench.respond(exchange, &changed());
    bench.pass(seconds(200.0));
    let down: usize = bench.sent().iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(down <= 3 * datagram.len(), "{down} bytes for {}", datagram.len());
    assert!(bench.endpoint.counters().withheld > 0);
}

#[test]
fn a_reset_too_counts_against_an_unproven_peers_share() {
    let mut bench = Bench::default();
    let datagram = message(Type::NonConfirmable, POST, 1, b"", &[(11, b"t"), (65001, b"")], b"");
    assert_eq!(bench.reply(STRANGER, &datagram).len(), 1);
    let poor = message(Type::Confirmable, GET, 2, b"", &[], b"");
    let exchange = bench.request(STRANGER, &poor);
    let left = 3 * (datagram.len() + poor.len()) - 4;
    bench.respond(exchange, &Response::new(Code::NOT_FOUND).diagnostic(&"x".repeat(left - 4)));
    assert_eq!(parse(&bench.sent_one()).payload, b"", "one byte more than its share: the text goes");
}
