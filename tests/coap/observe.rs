//! Notifications to observers (RFC 7641), and bodies of requests in blocks (RFC 7959).

use tombolo::message::ContentFormat;
use tombolo::proto::Holder;
use tombolo::proto::coap::block::Block;
use tombolo::proto::coap::endpoint::client::Unsent;
use tombolo::proto::coap::{Code, Method, Outcome, Outgoing, RequestId, Response, Token, Type};

use super::support::*;

const HOLDER: Holder = Holder { number: 1, max_sessions: 1, max_handshakes: Holder::HANDSHAKES };

fn notification(payload: &[u8]) -> Response<'_> {
    let response =
        Response { observe: Some(0x1_000_007), etag: Some(b"tag"), ..Response::new(Code::CONTENT) };
    Response { payload, ..response }.max_age(60)
}

fn notify(bench: &mut Bench, block: Option<Block>, payload: &[u8]) -> RequestId {
    let key = (Token::new(b"obs").unwrap(), block);
    bench.endpoint.notify(bench.now, HOLDER, DEVICE, key, &notification(payload)).unwrap()
}

fn replies(bench: &mut Bench) -> Vec<Outcome> {
    std::iter::from_fn(|| bench.endpoint.poll_reply()).map(|reply| reply.outcome).collect()
}

#[test]
fn a_notification_has_the_token_of_its_registration_and_24_bits_of_its_number() {
    let mut bench = Bench::default();
    notify(&mut bench, None, b"on");
    let datagram = bench.sent_one();
    let sent = parse(&datagram);
    assert_eq!((sent.message_type, sent.code, sent.payload), (Type::Confirmable, Code::CONTENT, &b"on"[..]));
    assert_eq!((sent.token.as_bytes(), uint(&sent, 6), uint(&sent, 14)), (&b"obs"[..], Some(7), Some(60)));
    assert!(bench.reply(DEVICE, &empty(Type::Acknowledgement, sent.message_id.0)).is_empty());
    assert_eq!(replies(&mut bench), [Outcome::Acknowledged]);
    assert_eq!(bench.endpoint.request_count(), 0, "it is over");
    bench.pass(seconds(300.0));
    assert!(bench.sent().is_empty());
}

#[test]
fn a_registration_is_answered_with_observe_and_a_plain_get_without() {
    let mut bench = Bench::default();
    let register = message(Type::Confirmable, GET, 1, b"obs", &[(6, b""), (11, b"t")], b"");
    let request = bench.feed(DEVICE, &register).unwrap();
    assert_eq!((request.observe(), request.token.as_bytes()), (Some(0), &b"obs"[..]));
    let exchange = request.exchange;
    bench.respond(exchange, &notification(b"on"));
    assert_eq!(uint(&parse(&bench.sent_one()), 6), Some(7));
    let get = bench.request(DEVICE, &message(Type::Confirmable, GET, 2, b"x", &[(11, b"t")], b""));
    bench.respond(get, &Response { observe: None, ..notification(b"on") });
    assert_eq!(uint(&parse(&bench.sent_one()), 6), None);
}

#[test]
fn a_reset_a_silent_peer_and_one_that_is_gone_end_a_notification_and_a_response_does_not() {
    let mut bench = Bench::default();
    let request = notify(&mut bench, None, b"on");
    let datagram = bench.sent_one();
    let id = parse(&datagram).message_id.0;
    // What only an answer to a request could be.
    let odd = message(Type::Acknowledgement, Code::CONTENT, id, b"obs", &[], b"x");
    bench.reply(DEVICE, &odd);
    assert!(replies(&mut bench).is_empty(), "{request:?}");
    bench.reply(DEVICE, &empty(Type::Reset, id));
    assert_eq!(replies(&mut bench), [Outcome::Reset]);
    notify(&mut bench, None, b"on");
    bench.pass(seconds(94.0));
    assert_eq!(replies(&mut bench), [Outcome::Unanswered]);
    notify(&mut bench, None, b"on");
    bench.endpoint.forget(DEVICE);
    assert_eq!(replies(&mut bench), [Outcome::Gone]);
    let key = (Token::default(), None);
    let told = bench.endpoint.notify(bench.now, HOLDER, STRANGER, key, &notification(b""));
    assert_eq!(told, Err(Unsent::Unproven));
}

#[test]
fn one_notification_is_outstanding_and_a_large_one_is_the_first_block_in_the_size_that_was_asked_for() {
    let mut bench = Bench::default();
    let block = Some(Block { number: 0, more: false, size_exponent: 2 });
    notify(&mut bench, block, &[7; 100]);
    notify(&mut bench, None, &[7; 2_000]);
    let datagram = bench.sent_one();
    let first = parse(&datagram);
    assert_eq!((first.payload.len(), uint(&first, 23)), (64, Some(0x0a)), "block 0 of 64 bytes, and more");
    let next = bench.reply(DEVICE, &empty(Type::Acknowledgement, first.message_id.0));
    let second = parse(&next[0]);
    assert_eq!((second.payload.len(), uint(&second, 23)), (1_024, Some(0x0e)));
    assert!(uint(&second, 6).is_some() && second.options.values(4).next().is_some());
}

/// Block1 and payload.
type SentBlock = (Option<Block>, Vec<u8>);

/// Sends this body; `device` answers each block by code and Block1. What was sent, and the outcome.
fn transfer(
    body: &[u8],
    mut device: impl FnMut(Option<Block>, usize) -> (Code, Option<Block>),
) -> (Vec<SentBlock>, Outcome) {
    let mut bench = Bench::default();
    let outgoing =
        Outgoing { method: Method::Put, path: "fw", content_format: Some(ContentFormat(42)), payload: body };
    bench.endpoint.request(bench.now, HOLDER, DEVICE, &outgoing).unwrap();
    let mut blocks = Vec::new();
    let mut datagram = bench.sent_one();
    for _ in 0..2_000 {
        let sent = parse(&datagram);
        assert_eq!((sent.code, uint(&sent, 12)), (PUT, Some(42)));
        let block = uint(&sent, 27).map(|value| Block::from_uint(value).unwrap());
        let size1 = uint(&sent, 60);
        assert_eq!(size1.is_some(), block.is_some_and(|block| block.number == 0));
        assert!(size1.is_none_or(|size| size as usize == body.len()));
        blocks.push((block, sent.payload.to_vec()));
        let (code, answer) = device(block, sent.payload.len());
        let value = answer.map(|block| block.to_uint().to_be_bytes());
        let options: Vec<(u16, &[u8])> = value.iter().map(|value| (27, &value[1..])).collect();
        let token = sent.token.as_bytes().to_vec();
        let answer = message(Type::Acknowledgement, code, sent.message_id.0, &token, &options, b"");
        let next = bench.reply(DEVICE, &answer);
        match next.into_iter().next() {
            Some(next) => datagram = next,
            None => return (blocks, replies(&mut bench).pop().unwrap()),
        }
    }
    panic!("the transfer does not end");
}

fn code_of(outcome: &Outcome) -> Code {
    match outcome {
        Outcome::Response { code, .. } | Outcome::InPart { code, .. } => *code,
        other => panic!("{other:?}"),
    }
}

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

#[test]
fn a_body_larger_than_a_block_goes_in_blocks_and_the_last_answer_is_the_outcome() {
    let (blocks, outcome) = transfer(&body(2_500), |block, _| match block.unwrap().more {
        true => (Code::CONTINUE, block),
        false => (Code::CHANGED, block),
    });
    assert_eq!(code_of(&outcome), Code::CHANGED);
    let sizes: Vec<usize> = blocks.iter().map(|(_, payload)| payload.len()).collect();
    assert_eq!(sizes, [1_024, 1_024, 452]);
    assert_eq!(blocks.concat_payload(), body(2_500));
    let (one, _) = transfer(&body(1_024), |block, _| (Code::CHANGED, block));
    assert_eq!((one.len(), one[0].0), (1, None), "one that fits has no Block1");
}

/// The Request-Tags of the blocks of a request, until the device has all of it.
fn request_tags(bench: &mut Bench, length: usize) -> Vec<Vec<Vec<u8>>> {
    let body = body(length);
    let outgoing = Outgoing { method: Method::Put, path: "fw", content_format: None, payload: &body };
    bench.endpoint.request(bench.now, HOLDER, DEVICE, &outgoing).unwrap();
    let (mut tags, mut datagram) = (Vec::new(), bench.sent_one());
    loop {
        let sent = parse(&datagram);
        tags.push(sent.options.values(292).map(<[u8]>::to_vec).collect());
        let block = uint(&sent, 27).map(|value| Block::from_uint(value).unwrap());
        let code = if block.is_some_and(|block| block.more) { Code::CONTINUE } else { Code::CHANGED };
        let value = block.map(|block| block.to_uint().to_be_bytes());
        let options: Vec<(u16, &[u8])> = value.iter().map(|value| (27, &value[1..])).collect();
        let (id, token) = (sent.message_id.0, sent.token.as_bytes());
        let answer = message(Type::Acknowledgement, code, id, token, &options, b"");
        match bench.reply(DEVICE, &answer).into_iter().next() {
            Some(next) => datagram = next,
            None => return tags,
        }
    }
}

#[test]
fn all_blocks_of_a_body_have_its_request_tag_and_the_next_body_has_another() {
    let mut bench = Bench::default();
    let (first, second) = (request_tags(&mut bench, 3_000), request_tags(&mut bench, 3_000));
    for tags in [&first, &second] {
        assert_eq!(tags.len(), 3);
        assert!(tags.iter().all(|tag| *tag == tags[0] && tag.len() == 1 && !tag[0].is_empty()), "{tags:?}");
    }
    assert_ne!(first[0], second[0]);
    assert_eq!(request_tags(&mut bench, 1_024), [Vec::<Vec<u8>>::new()], "one message needs none");
}

trait Payloads {
    fn concat_payload(&self) -> Vec<u8>;
}

impl Payloads for Vec<SentBlock> {
    fn concat_payload(&self) -> Vec<u8> {
        self.iter().flat_map(|(_, payload)| payload.clone()).collect()
    }
}

#[test]
fn a_device_that_applies_each_block_by_itself_gets_all_of_them() {
    // RFC 7959 §2.3: M = 0 in the answer to a block that is not the last one.
    for length in [2_500, 2_048] {
        let (blocks, outcome) = transfer(&body(length), |block, _| {
            (Code::CHANGED, block.map(|block| Block { more: false, ..block }))
        });
        assert_eq!(code_of(&outcome), Code::CHANGED);
        assert_eq!(blocks.concat_payload(), body(length));
    }
    let (blocks, outcome) = transfer(&body(2_500), |block, _| {
        (Code::FORBIDDEN, block.map(|block| Block { more: false, ..block }))
    });
    assert_eq!((blocks.len(), code_of(&outcome)), (1, Code::FORBIDDEN), "a refusal ends it");
    let other = Some(Block { number: 1, more: false, size_exponent: 6 });
    let (blocks, outcome) = transfer(&body(2_500), |_, _| (Code::CHANGED, other));
    assert_eq!(blocks.len(), 1, "the number of another block");
    let in_part =
        |code, sent, names_another_block| Outcome::InPart { code, sent, of: 2_500, names_another_block };
    assert_eq!(outcome, in_part(Code::CHANGED, 1_024, true));
}

#[test]
fn a_device_that_takes_the_first_block_for_the_whole_is_no_success() {
    // RFC 7959 §2.3, §2.9: success without a Block1 option, to a block that is not the last one.
    let in_part = |code, sent| Outcome::InPart { code, sent, of: 2_500, names_another_block: false };
    for code in [Code::CHANGED, Code::CREATED, Code::CONTENT, Code::CONTINUE] {
        let (blocks, outcome) = transfer(&body(2_500), |_, _| (code, None));
        assert_eq!((blocks.len(), outcome), (1, in_part(code, 1_024)));
    }
    let (blocks, outcome) = transfer(&body(2_500), |block, _| match block.unwrap().number {
        0 => (Code::CONTINUE, block),
        _ => (Code::CHANGED, None),
    });
    assert_eq!((blocks.len(), outcome), (2, in_part(Code::CHANGED, 2_048)));
    // To the last one it is the outcome: nothing is missing.
    let (blocks, outcome) = transfer(&body(2_500), |block, _| match block.unwrap().more {
        true => (Code::CONTINUE, block),
        false => (Code::CHANGED, None),
    });
    assert_eq!((blocks.len(), code_of(&outcome)), (3, Code::CHANGED));
    assert!(matches!(outcome, Outcome::Response { .. }));
    // A refusal is what it says.
    let (_, outcome) = transfer(&body(2_500), |_, _| (Code::BAD_OPTION, None));
    assert!(matches!(outcome, Outcome::Response { code: Code::BAD_OPTION, .. }), "{outcome:?}");
}

#[test]
fn the_block_that_a_device_wants_fresh_is_sent_again_with_its_echo() {
    let mut bench = Bench::default();
    let body = body(2_500);
    let outgoing = Outgoing { method: Method::Put, path: "fw", content_format: None, payload: &body };
    bench.endpoint.request(bench.now, HOLDER, DEVICE, &outgoing).unwrap();
    let mut datagram = bench.sent_one();
    let (mut taken, mut tags, mut asked) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        let sent = parse(&datagram);
        let block = uint(&sent, 27).map(|value| Block::from_uint(value).unwrap()).unwrap();
        let echo: Vec<&[u8]> = sent.options.values(252).collect();
        tags.extend(sent.options.values(292).map(<[u8]>::to_vec));
        let (id, token) = (sent.message_id.0, sent.token.as_bytes());
        // Each block is challenged once.
        let answer = match echo[..] {
            [] => {
                asked.push(block.number);
                message(
                    Type::Acknowledgement,
                    Code::UNAUTHORIZED,
                    id,
                    token,
                    &[(252, &[block.number as u8])],
                    b"",
                )
            }
            [value] => {
                assert_eq!(value, [block.number as u8]);
                taken.extend_from_slice(sent.payload);
                let value = block.to_uint().to_be_bytes();
                let code = if block.more { Code::CONTINUE } else { Code::CHANGED };
                message(Type::Acknowledgement, code, id, token, &[(27, &value[1..])], b"")
            }
            _ => panic!("more than one"),
        };
        match bench.reply(DEVICE, &answer).into_iter().next() {
            Some(next) => datagram = next,
            None => break,
        }
    }
    assert_eq!((asked, taken), (vec![0, 1, 2], body));
    assert!(tags.len() == 6 && tags.iter().all(|tag| *tag == tags[0]), "one body: {tags:?}");
    assert_eq!(code_of(&replies(&mut bench)[0]), Code::CHANGED);
}

#[test]
fn a_device_that_wants_smaller_blocks_gets_them_from_the_next_one_on() {
    let (blocks, outcome) = transfer(&body(3_000), |block, _| {
        let block = block.unwrap();
        let answer = Block { size_exponent: block.size_exponent.min(3), ..block };
        (if block.more { Code::CONTINUE } else { Code::CHANGED }, Some(answer))
    });
    assert_eq!(code_of(&outcome), Code::CHANGED);
    assert_eq!(blocks.concat_payload(), body(3_000));
    let second = blocks[1].0.unwrap();
    assert_eq!((second.number, second.size_exponent), (8, 3), "RFC 7959 figure 8: 1,024 bytes are there");
}

#[test]
fn a_device_that_finds_the_first_message_too_large_gets_it_again_in_its_size() {
    for length in [3_000, 600] {
        let (blocks, outcome) = transfer(&body(length), |block, bytes| match block {
            _ if bytes > 128 => {
                (Code::REQUEST_ENTITY_TOO_LARGE, Some(Block { number: 0, more: false, size_exponent: 3 }))
            }
            Some(block) if block.more => (Code::CONTINUE, Some(block)),
            block => (Code::CHANGED, block),
        });
        assert_eq!(code_of(&outcome), Code::CHANGED, "{length}");
        assert_eq!(blocks[1..].to_vec().concat_payload(), body(length));
    }
}

#[test]
fn a_device_that_answers_nonsense_ends_the_transfer_and_never_loops() {
    let at = |number, size_exponent| Some(Block { number, more: true, size_exponent });
    type Answer = (Code, Option<Block>);
    let answers: [Answer; 6] = [
        (Code::CONTINUE, None),
        (Code::CONTINUE, at(7, 6)),
        (Code::REQUEST_ENTITY_TOO_LARGE, None),
        (Code::REQUEST_ENTITY_TOO_LARGE, at(0, 6)),
        (Code::REQUEST_ENTITY_INCOMPLETE, at(0, 6)),
        (Code::FORBIDDEN, at(0, 2)),
    ];
    for answer in answers {
        let (blocks, outcome) = transfer(&body(5_000), |_, _| answer);
        assert_eq!((blocks.len(), code_of(&outcome)), (1, answer.0), "{answer:?}");
    }
    let mut count = 0;
    let (blocks, _) = transfer(&body(5_000), |_, _| {
        count += 1;
        (Code::REQUEST_ENTITY_TOO_LARGE, at(0, 6u8.saturating_sub(count)))
    });
    assert!(blocks.len() <= 7, "each size once");
}

#[test]
fn a_peer_that_goes_silent_in_the_middle_of_a_body_is_given_up() {
    let mut bench = Bench::default();
    let body = body(5_000);
    let outgoing = Outgoing { method: Method::Put, path: "fw", content_format: None, payload: &body };
    bench.endpoint.request(bench.now, HOLDER, DEVICE, &outgoing).unwrap();
    let datagram = bench.sent_one();
    let sent = parse(&datagram);
    let block: [u8; 4] = Block { number: 0, more: true, size_exponent: 6 }.to_uint().to_be_bytes();
    let token = sent.token.as_bytes();
    let go_on =
        message(Type::Acknowledgement, Code::CONTINUE, sent.message_id.0, token, &[(27, &block[1..])], b"");
    assert_eq!(bench.reply(DEVICE, &go_on).len(), 1);
    assert!(bench.reply(DEVICE, &go_on).is_empty(), "a repetition");
    bench.pass(seconds(94.0));
    assert_eq!(replies(&mut bench), [Outcome::Unanswered]);
    assert_eq!(bench.endpoint.request_count(), 0);
}
