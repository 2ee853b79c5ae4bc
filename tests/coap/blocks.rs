//! Bodies larger than a datagram.

use tombolo::message::ContentFormat;
use tombolo::proto::Holder;
use tombolo::proto::coap::block::Block;
use tombolo::proto::coap::{Code, FirstBlock, Response, Type};

use super::support::*;

fn block(number: u32, more: bool, size_exponent: u8) -> Vec<u8> {
    let value = Block { number, more, size_exponent }.to_uint().to_be_bytes();
    value[value.iter().take_while(|b| **b == 0).count()..].to_vec()
}

fn put(id: u16, number: u32, more: bool, payload: &[u8]) -> Vec<u8> {
    message(
        Type::Confirmable,
        PUT,
        id,
        &id.to_be_bytes(),
        &[(11, b"log"), (12, b"\x2a"), (27, &block(number, more, 6))],
        payload,
    )
}

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i / 7) as u8).collect()
}

#[test]
fn a_body_in_blocks_is_handed_up_once_it_is_whole() {
    let mut bench = Bench::default();
    let body = body(64 << 10);
    let last = body.len() / 1024 - 1;
    for (number, part) in body.chunks(1024).enumerate() {
        let datagram = put(number as u16, number as u32, number < last, part);
        if number < last {
            let sent = bench.reply(DEVICE, &datagram);
            let answer = parse(&sent[0]);
            assert_eq!(answer.code, Code::CONTINUE);
            assert_eq!(uint(&answer, 27), Some((number as u32) << 4 | 8 | 6));
            assert_eq!(answer.token.as_bytes(), (number as u16).to_be_bytes());
            assert_eq!(bench.reply(DEVICE, &datagram), sent, "a duplicate");
            continue;
        }
        let request = bench.feed(DEVICE, &datagram).unwrap();
        assert!(request.is_blockwise() && *request.payload == body[..]);
        assert_eq!(request.head().content_format(), Some(ContentFormat::OCTET_STREAM));
        let exchange = request.exchange;
        bench.respond(exchange, &changed());
        let sent = bench.sent_one();
        assert_eq!(
            (parse(&sent).code, uint(&parse(&sent), 27)),
            (Code::CHANGED, Some((last as u32) << 4 | 6))
        );
        assert_eq!(bench.reply(DEVICE, &datagram), [sent], "a duplicate of the last");
    }
    assert_eq!(bench.endpoint.counters().requests, 1);
}

#[test]
fn a_body_of_one_block_is_a_request_like_any_other() {
    let mut bench = Bench::default();
    let datagram = put(1, 0, false, b"small");
    let request = bench.feed(DEVICE, &datagram).unwrap();
    assert!(!request.is_blockwise());
    let exchange = request.exchange;
    bench.respond(exchange, &changed());
    assert_eq!(uint(&parse(&bench.sent_one()), 27), Some(6));
}

#[test]
fn a_gap_is_4_08_and_the_transfer_waits_for_the_right_block() {
    let mut bench = Bench::default();
    bench.reply(DEVICE, &put(1, 0, true, &[1; 1024]));
    let sent = bench.reply(DEVICE, &put(2, 2, true, &[1; 1024]));
    assert_eq!(parse(&sent[0]).code, Code::REQUEST_ENTITY_INCOMPLETE);
    assert_eq!(bench.feed(DEVICE, &put(3, 1, false, &[1; 10])).unwrap().payload.len(), 1034);
}

/// A block of 16 bytes to `path`, with these Request-Tag options and this query.
fn tagged(id: u16, path: &[u8], query: &[u8], tags: &[&[u8]], number: u32, more: bool, fill: u8) -> Vec<u8> {
    let value = block(number, more, 0);
    let mut options: Vec<(u16, &[u8])> = vec![(11, path)];
    if !query.is_empty() {
        options.push((15, query));
    }
    options.push((27, &value));
    options.extend(tags.iter().map(|tag| (292, *tag)));
    message(Type::Confirmable, POST, id, b"", &options, &[fill; 16])
}

#[test]
fn transfers_with_other_request_tags_do_not_mix() {
    let mut bench = Bench::default();
    let tags: [&[&[u8]]; 4] = [&[], &[b""], &[b"a"], &[b"a", b"b"]];
    for (id, tags) in (1..).zip(tags) {
        let sent = bench.reply(DEVICE, &tagged(id, b"log", b"", tags, 0, true, id as u8));
        assert_eq!(parse(&sent[0]).code, Code::CONTINUE);
    }
    for id in (1..=4).rev() {
        let tags = tags[usize::from(id) - 1];
        let datagram = tagged(10 + id, b"log", b"", tags, 1, false, id as u8);
        assert_eq!(*bench.feed(DEVICE, &datagram).unwrap().payload, [id as u8; 32]);
    }
}

#[test]
fn transfers_with_other_queries_do_not_mix() {
    let mut bench = Bench::default();
    bench.reply(DEVICE, &tagged(1, b"log", b"n=1", &[], 0, true, 1));
    bench.reply(DEVICE, &tagged(2, b"log", b"n=2", &[], 0, true, 2));
    let datagram = tagged(3, b"log", b"n=1", &[], 1, false, 1);
    assert_eq!(*bench.feed(DEVICE, &datagram).unwrap().payload, [1; 32]);
    let datagram = tagged(4, b"log", b"n=2", &[], 1, false, 2);
    assert_eq!(*bench.feed(DEVICE, &datagram).unwrap().payload, [2; 32]);
}

#[test]
fn without_a_request_tag_the_newest_transfer_wins_and_a_late_block_is_4_08() {
    let mut bench = Bench::default();
    for number in 0..3 {
        bench.reply(DEVICE, &tagged(number as u16, b"log", b"", &[], number, true, 1));
    }
    bench.reply(DEVICE, &tagged(10, b"log", b"", &[], 0, true, 2));
    let sent = bench.reply(DEVICE, &tagged(3, b"log", b"", &[], 3, true, 1));
    assert_eq!(parse(&sent[0]).code, Code::REQUEST_ENTITY_INCOMPLETE);
    let datagram = tagged(11, b"log", b"", &[], 1, false, 2);
    assert_eq!(*bench.feed(DEVICE, &datagram).unwrap().payload, [2; 32], "the newer one is whole");
    // A body in one message is newer, too.
    bench.reply(DEVICE, &tagged(20, b"log", b"", &[], 0, true, 3));
    assert!(bench.feed(DEVICE, &tagged(21, b"log", b"", &[], 0, false, 4)).is_some());
    bench.sent();
    let sent = bench.reply(DEVICE, &tagged(22, b"log", b"", &[], 1, false, 3));
    assert_eq!(parse(&sent[0]).code, Code::REQUEST_ENTITY_INCOMPLETE);
}

#[test]
fn without_a_request_tag_a_late_last_block_is_not_taken_for_the_newer_transfers() {
    let mut bench = Bench::default();
    bench.reply(DEVICE, &tagged(1, b"log", b"", &[], 0, true, 1));
    bench.reply(DEVICE, &tagged(10, b"log", b"", &[], 0, true, 2));
    // It comes exactly where the newer one goes on.
    let sent = bench.reply(DEVICE, &tagged(2, b"log", b"", &[], 1, false, 1));
    assert_eq!(parse(&sent[0]).code, Code::REQUEST_ENTITY_INCOMPLETE);
    let datagram = tagged(11, b"log", b"", &[], 1, false, 2);
    assert_eq!(*bench.feed(DEVICE, &datagram).unwrap().payload, [2; 32], "the newer one is whole");
}

/// What is sent in a step: which body, block number, whether more follow, Message ID, Token.
type Sent = (u8, u32, bool, u16, &'static [u8]);

/// Feeds blocks of 16 bytes to one resource; for each, the body that was handed up, or the code of
/// the answer.
fn outcome(steps: &[Sent]) -> Vec<Result<Vec<u8>, Code>> {
    let mut bench = Bench::default();
    steps
        .iter()
        .map(|&(which, number, more, id, token)| {
            let value = block(number, more, 0);
            let options: [(u16, &[u8]); 2] = [(11, b"log"), (27, &value)];
            let datagram = message(Type::Confirmable, POST, id, token, &options, &[which; 16]);
            let handed = bench.feed(DEVICE, &datagram);
            match handed.map(|request| (request.exchange, request.payload.to_vec())) {
                Some((exchange, body)) => {
                    bench.respond(exchange, &changed());
                    bench.sent();
                    Ok(body)
                }
                None => Err(parse(&bench.sent_one()).code),
            }
        })
        .collect()
}

#[test]
fn blocks_of_ended_transfers_are_never_taken_into_a_newer_one() {
    let late = Err(Code::REQUEST_ENTITY_INCOMPLETE);
    let (a, b, c) = (b"aa" as &[u8], b"bb" as &[u8], b"cc" as &[u8]);
    // Of an abandoned transfer, behind a complete one; by Token, by Message ID, and by both.
    for (a, b, c) in [(a, b, c), (b"", b"", b"")] {
        let out = outcome(&[
            (1, 0, true, 1, a),
            (2, 0, true, 3, b),
            (2, 1, false, 4, b),
            (3, 0, true, 5, c),
            (1, 1, false, 2, a),
            (3, 1, false, 6, c),
        ]);
        assert_eq!((&out[2], &out[4], &out[5]), (&Ok(vec![2; 32]), &late, &Ok(vec![3; 32])));
        // In the middle of the newer one.
        let out = outcome(&[
            (1, 0, true, 1, a),
            (2, 0, true, 3, b),
            (2, 1, false, 4, b),
            (3, 0, true, 5, c),
            (1, 1, true, 2, a),
            (3, 1, true, 6, c),
            (3, 2, false, 7, c),
        ]);
        assert_eq!((&out[4], &out[6]), (&late, &Ok(vec![3; 48])));
        // After more blocks of each.
        let out = outcome(&[
            (1, 0, true, 1, a),
            (1, 1, true, 2, a),
            (2, 0, true, 4, b),
            (2, 1, true, 5, b),
            (2, 2, false, 6, b),
            (3, 0, true, 7, c),
            (3, 1, true, 8, c),
            (1, 2, false, 3, a),
            (3, 2, false, 9, c),
        ]);
        assert_eq!((&out[4], &out[7], &out[8]), (&Ok(vec![2; 48]), &late, &Ok(vec![3; 48])));
    }
    // By Token alone, where Message IDs are random.
    let out = outcome(&[
        (1, 0, true, 0x7000, a),
        (2, 0, true, 0x1000, b),
        (2, 1, false, 0xA000, b),
        (3, 0, true, 0x4000, c),
        (1, 1, false, 0xD000, a),
        (3, 1, false, 0x2000, c),
    ]);
    assert_eq!((&out[4], &out[5]), (&late, &Ok(vec![3; 32])));
}

#[test]
fn the_last_block_of_a_complete_body_sent_again_is_4_08_and_not_taken_into_the_next_body() {
    let late = Err(Code::REQUEST_ENTITY_INCOMPLETE);
    let (b, c) = (b"bb" as &[u8], b"cc" as &[u8]);
    let out = outcome(&[
        (2, 0, true, 3, b),
        (2, 1, false, 4, b),
        // The same body's, while no other is under way.
        (2, 1, false, 5, b),
        (3, 0, true, 6, c),
        (2, 1, false, 7, b),
        (3, 1, false, 8, c),
    ]);
    assert_eq!((&out[1], &out[2]), (&Ok(vec![2; 32]), &late));
    assert_eq!((&out[4], &out[5]), (&late, &Ok(vec![3; 32])));
}

#[test]
fn a_body_in_one_message_leaves_the_abandoned_transfer_known() {
    let late = Err(Code::REQUEST_ENTITY_INCOMPLETE);
    let out = outcome(&[
        (1, 0, true, 1, b"aa"),
        (2, 0, false, 3, b"bb"),
        (3, 0, true, 5, b"cc"),
        (1, 1, false, 2, b"aa"),
        (3, 1, false, 6, b"cc"),
    ]);
    assert_eq!((&out[1], &out[3], &out[4]), (&Ok(vec![2; 16]), &late, &Ok(vec![3; 32])));
}

#[test]
fn a_device_with_one_token_for_all_sends_body_after_body() {
    // Message IDs that are counted, over their end, and random ones.
    for ids in [|at: u16| at.wrapping_add(0xFFFA), |at: u16| at.wrapping_mul(0x9E37)] {
        let steps: Vec<Sent> = (0..60u16)
            .map(|at| (at as u8 / 3, u32::from(at % 3), at % 3 < 2, ids(at), b"t" as &[u8]))
            .collect();
        for (at, out) in outcome(&steps).into_iter().enumerate() {
            match at % 3 {
                2 => assert_eq!(out, Ok(vec![at as u8 / 3; 48]), "{at}"),
                _ => assert_eq!(out, Err(Code::CONTINUE), "{at}"),
            }
        }
    }
}

#[test]
fn a_refusal_comes_at_the_first_block_once_and_duplicates_hear_it_again() {
    let mut bench = Bench::default();
    let holder = Holder { number: 1, max_sessions: 1, max_handshakes: Holder::HANDSHAKES };
    let (datagram, mut asked) = (tagged(1, b"log", b"", &[], 0, true, 1), 0);
    for _ in 0..3 {
        let refuse = |first: &FirstBlock<'_>| {
            asked += 1;
            assert_eq!((first.bytes, first.payload.len()), (16, 16));
            Err(Response::new(Code::FORBIDDEN))
        };
        assert!(
            bench.endpoint.handle_datagram_judged(bench.now, holder, DEVICE, &datagram, refuse).is_none()
        );
        let sent = bench.sent_one();
        assert_eq!((parse(&sent).code, uint(&parse(&sent), 27)), (Code::FORBIDDEN, Some(8)));
    }
    assert_eq!(asked, 1);
    let sent = bench.reply(DEVICE, &tagged(2, b"log", b"", &[], 1, true, 1));
    assert_eq!(parse(&sent[0]).code, Code::REQUEST_ENTITY_INCOMPLETE, "nothing was begun");
}

#[test]
fn the_limit_of_the_judge_holds_for_size1_and_for_each_block() {
    let mut bench = Bench::default();
    let holder = Holder { number: 1, max_sessions: 1, max_handshakes: Holder::HANDSHAKES };
    let mut say = |datagram: &[u8]| {
        let judge = |_: &FirstBlock<'_>| Ok(40);
        assert!(bench.endpoint.handle_datagram_judged(bench.now, holder, DEVICE, datagram, judge).is_none());
        let sent = bench.sent_one();
        (parse(&sent).code, uint(&parse(&sent), 60))
    };
    let value = block(0, true, 0);
    let options: [(u16, &[u8]); 3] = [(11, b"log"), (27, &value), (60, &[41])];
    let too_large = (Code::REQUEST_ENTITY_TOO_LARGE, Some(40));
    assert_eq!(say(&message(Type::Confirmable, POST, 1, b"", &options, &[1; 16])), too_large, "Size1");
    assert_eq!(say(&tagged(2, b"log", b"", &[], 7, true, 1)), too_large, "a block number beyond it");
    assert_eq!(say(&tagged(3, b"log", b"", &[], 0, true, 1)).0, Code::CONTINUE);
    assert_eq!(say(&tagged(4, b"log", b"", &[], 1, true, 1)).0, Code::CONTINUE);
    assert_eq!(say(&tagged(5, b"log", b"", &[], 2, true, 1)), too_large);
}

#[test]
fn more_than_64_kib_is_4_13_with_the_size_taken() {
    let mut bench = Bench::default();
    let options: [(u16, &[u8]); 3] = [(11, b"log"), (27, &block(0, true, 6)), (60, &[1, 0, 1])];
    let told = message(Type::Confirmable, PUT, 1, b"", &options, &[0; 1024]);
    let sent = bench.reply(DEVICE, &told);
    assert_eq!(
        (parse(&sent[0]).code, uint(&parse(&sent[0]), 60)),
        (Code::REQUEST_ENTITY_TOO_LARGE, Some(65536))
    );
    for number in 0..64 {
        bench.reply(DEVICE, &put(10 + number, number.into(), true, &[0; 1024]));
    }
    let sent = bench.reply(DEVICE, &put(100, 64, false, b"!"));
    assert_eq!(
        (parse(&sent[0]).code, uint(&parse(&sent[0]), 60)),
        (Code::REQUEST_ENTITY_TOO_LARGE, Some(65536))
    );
}

#[test]
fn a_block_whose_content_format_is_not_that_of_the_first_is_4_08_and_says_so() {
    let next = block(1, false, 6);
    type Options<'o> = &'o [(u16, &'o [u8])];
    let cases: [(Options<'_>, &str); 3] = [
        (&[(11, b"log"), (12, b"\x32"), (27, &next)], "Content-Format is not that of block 0"),
        (&[(11, b"log"), (27, &next)], "no Content-Format, but block 0 has one: send it in each block"),
        (&[(11, b"log"), (12, b"\x2a"), (17, b"\x32"), (27, &next)], "options are not those of block 0"),
    ];
    for (options, expected) in cases {
        let mut bench = Bench::default();
        bench.reply(DEVICE, &put(1, 0, true, &[1; 1024]));
        let sent = bench.reply(DEVICE, &message(Type::Confirmable, PUT, 2, b"", options, b"end"));
        let answer = parse(&sent[0]);
        assert_eq!(answer.code, Code::REQUEST_ENTITY_INCOMPLETE);
        let said = String::from_utf8_lossy(answer.payload);
        assert!(said.contains(expected), "{said}");
        // Sent as it should be, it is taken.
        assert!(bench.feed(DEVICE, &put(3, 1, false, b"end")).is_some());
    }
}

#[test]
fn a_block_that_is_not_full_or_of_size_7_is_4_00() {
    let mut bench = Bench::default();
    let sent = bench.reply(DEVICE, &put(1, 0, true, &[1; 1000]));
    assert_eq!(parse(&sent[0]).code, Code::BAD_REQUEST);
    let options: [(u16, &[u8]); 2] = [(11, b"log"), (27, &[0x0f])];
    let sent = bench.reply(DEVICE, &message(Type::Confirmable, PUT, 2, b"", &options, b"x"));
    assert_eq!(parse(&sent[0]).code, Code::BAD_REQUEST);
}

#[test]
fn two_paths_of_one_peer_do_not_mix() {
    let mut bench = Bench::default();
    let part = |id, path: &[u8], number, more| {
        let options = [(11, path), (27, &block(number, more, 0)[..])];
        message(Type::Confirmable, POST, id, b"", &options, &[path[0]; 16])
    };
    bench.reply(DEVICE, &part(1, b"a", 0, true));
    bench.reply(DEVICE, &part(2, b"b", 0, true));
    let datagram = part(3, b"a", 1, false);
    assert_eq!(*bench.feed(DEVICE, &datagram).unwrap().payload, [b'a'; 32]);
    let datagram = part(4, b"b", 1, false);
    assert_eq!(*bench.feed(DEVICE, &datagram).unwrap().payload, [b'b'; 32]);
}

#[test]
fn blocks_under_way_are_bounded_and_the_next_sender_hears_5_03() {
    let mut bench = Bench::default();
    let mut refused = 0;
    for peer in 0..1_000 {
        let peer = proven(peer);
        let sent = bench.reply(peer, &put(1, 0, true, &[0; 1024]));
        if parse(&sent[0]).code == Code::SERVICE_UNAVAILABLE {
            assert_eq!(uint(&parse(&sent[0]), 14), Some(93));
            refused += 1;
        }
    }
    assert_eq!(refused, 1_000 - 256);
    bench.pass(seconds(247.0));
    let sent = bench.reply(DEVICE, &put(2, 0, true, &[0; 1024]));
    assert_eq!(parse(&sent[0]).code, Code::CONTINUE);
}

fn get(id: u16, wanted: Option<(u32, u8)>) -> Vec<u8> {
    let value = wanted.map(|(number, size_exponent)| block(number, false, size_exponent));
    let mut options: Vec<(u16, &[u8])> = vec![(11, b".well-known"), (11, b"core")];
    if let Some(value) = &value {
        options.push((23, value));
    }
    options.push((28, b""));
    message(Type::Confirmable, GET, id, b"tk", &options, b"")
}

#[test]
fn a_large_body_is_fetched_block_by_block() {
    let mut bench = Bench::default();
    let body = body(5_000);
    let (mut fetched, mut etag) = (Vec::new(), None);
    for number in 0.. {
        let wanted = (number > 0).then_some((number, 6));
        let exchange = bench.request(DEVICE, &get(number as u16, wanted));
        bench.respond(exchange, &Response::content(ContentFormat::LINK_FORMAT, &body));
        let sent = bench.sent_one();
        assert!(sent.len() < 1_100);
        let part = parse(&sent);
        let tag = part.options.values(4).next().unwrap().to_vec();
        assert_eq!(*etag.get_or_insert(tag.clone()), tag, "one body, one ETag");
        assert_eq!(uint(&part, 28), Some(5_000));
        fetched.extend_from_slice(part.payload);
        let block = Block::from_uint(uint(&part, 23).unwrap()).unwrap();
        assert_eq!(block.number, number);
        if !block.more {
            break;
        }
    }
    assert_eq!(fetched, body);
}

#[test]
fn a_smaller_block_is_given_when_asked_for() {
    let mut bench = Bench::default();
    let body = body(100);
    let exchange = bench.request(DEVICE, &get(1, Some((0, 1))));
    bench.respond(exchange, &Response::content(ContentFormat::TEXT, &body));
    let sent = bench.sent_one();
    assert_eq!((uint(&parse(&sent), 23), parse(&sent).payload), (Some(8 | 1), &body[..32]));
    let exchange = bench.request(DEVICE, &get(2, Some((4, 1))));
    bench.respond(exchange, &Response::content(ContentFormat::TEXT, &body));
    assert_eq!(parse(&bench.sent_one()).code, Code::BAD_REQUEST, "beyond the end");
    let exchange = bench.request(DEVICE, &get(3, Some((4, 1))));
    bench.respond(exchange, &Response::new(Code::NOT_FOUND));
    assert_eq!(parse(&bench.sent_one()).code, Code::NOT_FOUND);
}

#[test]
fn a_large_answer_is_made_again_rather_than_kept() {
    let mut bench = Bench::default();
    let before = bench.endpoint.memory();
    for _ in 0..2 {
        let exchange = bench.request(DEVICE, &get(1, None));
        bench.respond(exchange, &Response::content(ContentFormat::TEXT, &[b'x'; 900]));
        assert_eq!(bench.sent().len(), 1);
    }
    assert!(bench.endpoint.memory() - before < 900);
}

#[test]
fn a_later_block_of_the_answer_to_a_post_is_4_00() {
    let mut bench = Bench::default();
    let options: [(u16, &[u8]); 2] = [(11, b"t"), (23, &block(1, false, 6))];
    let sent = bench.reply(DEVICE, &message(Type::Confirmable, POST, 1, b"", &options, b"x"));
    assert_eq!(parse(&sent[0]).code, Code::BAD_REQUEST);
}

#[test]
fn the_sessions_of_one_device_do_not_take_all_places_for_bodies() {
    let mut bench = Bench::default();
    let first = put(1, 0, true, &[7; 1_024]);
    let greedy = Holder { number: 1, max_sessions: 4, max_handshakes: Holder::HANDSHAKES };
    let mut codes = Vec::new();
    for peer in 0..64 {
        assert!(bench.feed_of(greedy, proven(peer), &first).is_none());
        codes.push(parse(&bench.sent_one()).code);
    }
    assert_eq!(codes.iter().filter(|code| **code == Code::CONTINUE).count(), 4);
    assert_eq!(codes.iter().filter(|code| **code == Code::SERVICE_UNAVAILABLE).count(), 60);
    for device in 2..17 {
        let modest = Holder { number: device, max_sessions: 4, max_handshakes: Holder::HANDSHAKES };
        assert!(bench.feed_of(modest, proven(100 * device), &first).is_none());
        assert_eq!(parse(&bench.sent_one()).code, Code::CONTINUE, "device {device}");
    }
}
