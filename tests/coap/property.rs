//! Property tests over arbitrary input.

use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use tombolo::proto::coap::encoder::Encoder;
use tombolo::proto::coap::{
    Code, Endpoint, Exchange, Message, MessageId, PeerId, Response, Settings, Token, Type,
};

use super::support::{proven, unproven};

/// A small generator (SplitMix64).
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ word >> 31
    }
}

fn encode(message: &Message<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let Message { message_type, code, message_id, token, options, payload } = *message;
    let encoder = Encoder::new(&mut bytes, message_type, code, message_id, &token);
    let encoder = options.fold(encoder, |encoder, option| encoder.option(option.number, option.value));
    encoder.payload(payload).finish().unwrap();
    bytes
}

/// Bytes that look like a message often enough to get past the first checks.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let head = (0u8..16, 0u8..=8, 0u8..8, 0u8..5);
    let option = (0u8..=15, vec(any::<u8>(), 0..16));
    let options = vec((prop_oneof![Just(11u8), Just(1), Just(0), 0u8..=15], option), 0..6);
    let likely =
        (head, options, vec(any::<u8>(), 0..40)).prop_map(|((kind, code, class, id), options, payload)| {
            let mut bytes =
                vec![0x40 | (kind & 3) << 4, if class > 5 { class << 5 | code } else { code }, 0, id];
            for (delta, (_, value)) in options {
                bytes.push(delta << 4 | value.len().min(12) as u8);
                bytes.extend_from_slice(&value[..value.len().min(12)]);
            }
            if !payload.is_empty() {
                bytes.push(0xff);
                bytes.extend(payload);
            }
            bytes
        });
    prop_oneof![1 => vec(any::<u8>(), 0..64), 4 => likely]
}

#[derive(Clone, Debug)]
enum Step {
    Feed(u64, Vec<u8>),
    Answer(usize, u8, Vec<u8>),
    Pass(u64),
    Forget(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u64..4, datagram()).prop_map(|(peer, bytes)| Step::Feed(peer, bytes)),
        4 => (any::<usize>(), any::<u8>(), vec(any::<u8>(), 0..1500)).prop_map(|(which, code, payload)| Step::Answer(which, code, payload)),
        2 => (0u64..200_000).prop_map(Step::Pass),
        1 => (0u64..4).prop_map(Step::Forget),
    ]
}

fn peer(number: u64) -> PeerId {
    if number.is_multiple_of(2) { proven(number) } else { unproven(number) }
}

proptest! {
    #[test]
    fn what_parses_is_written_again_as_it_was(bytes in datagram()) {
        if let Ok(message) = Message::parse(&bytes) {
            prop_assert_eq!(encode(&message), bytes);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = Message::parse(&bytes);
    }

    #[test]
    fn what_is_written_reads_back(
        kind in 0usize..4,
        code in 1u8..=31,
        id: u16,
        token in vec(any::<u8>(), 0..=8),
        mut options in vec((any::<u16>(), vec(any::<u8>(), 0..300)), 0..8),
        payload in vec(any::<u8>(), 0..300),
    ) {
        options.sort();
        let types = [Type::Confirmable, Type::NonConfirmable, Type::Acknowledgement, Type::Reset];
        let (code, token, options, payload) = match types[kind] {
            Type::Acknowledgement => (code | 0x40, token, options, payload),
            Type::Reset => (0, vec![], vec![], vec![]),
            _ => (code, token, options, payload),
        };
        let token = Token::new(&token).unwrap();
        let mut bytes = Vec::new();
        let encoder = Encoder::new(&mut bytes, types[kind], Code(code), MessageId(id), &token);
        let encoder = options.iter().fold(encoder, |encoder, (number, value)| encoder.option(*number, value));
        prop_assert_eq!(encoder.payload(&payload).finish(), Ok(bytes.len()));
        let message = Message::parse(&bytes).unwrap();
        prop_assert_eq!((message.message_type, message.code, message.message_id), (types[kind], Code(code), MessageId(id)));
        prop_assert_eq!((message.token, message.payload), (token, &payload[..]));
        let read: Vec<_> = message.options.map(|o| (o.number, o.value.to_vec())).collect();
        prop_assert_eq!(read, options);
    }

    #[test]
    fn whatever_happens_the_endpoint_keeps_its_bounds(steps in vec(step(), 0..200)) {
        let settings = Settings { memory: 16 << 10, pending: 64, bodies: 8 << 10, body: 4 << 10, ..Settings::default() };
        let memory = settings.memory;
        let mut endpoint = Endpoint::new(settings, 3);
        let mut now = Instant::now();
        let mut exchanges: Vec<Exchange> = Vec::new();
        let (mut up, mut down) = ([0usize; 4], [0usize; 4]);
        let mut buffer = Vec::new();
        for step in steps {
            match step {
                Step::Feed(number, bytes) => {
                    up[number as usize] += bytes.len();
                    if let Some(request) = endpoint.handle_datagram(now, peer(number), &bytes) {
                        prop_assert!(request.head().uri_path().all(|segment| segment.len() <= 255));
                        exchanges.push(request.exchange);
                    }
                }
                Step::Answer(which, code, payload) if !exchanges.is_empty() => {
                    let exchange = exchanges[which % exchanges.len()];
                    let code = [Code::CHANGED, Code::CONTENT, Code(code)][which % 3];
                    endpoint.respond(now, exchange, &Response { payload: &payload, ..Response::new(code) });
                }
                Step::Answer(..) => {}
                Step::Pass(milliseconds) => {
                    now += Duration::from_millis(milliseconds);
                    endpoint.handle_timeout(now);
                    prop_assert!(endpoint.poll_timeout().is_none_or(|deadline| deadline > now));
                }
                Step::Forget(number) => endpoint.forget(peer(number)),
            }
            while let Some(to) = endpoint.poll_transmit(&mut buffer) {
                prop_assert!(Message::parse(&buffer).is_ok(), "{:x?}", buffer);
                down[(to.to_bits() & 3) as usize] += buffer.len();
            }
            prop_assert!(down[1] <= 3 * up[1] && down[3] <= 3 * up[3]);
            prop_assert!(endpoint.memory() <= memory + 64 * 32 + 4 * 300);
        }
        for _ in 0..10_000 {
            let Some(deadline) = endpoint.poll_timeout() else { break };
            now = now.max(deadline);
            endpoint.handle_timeout(now);
            while endpoint.poll_transmit(&mut buffer).is_some() {}
        }
        prop_assert_eq!((endpoint.poll_timeout(), endpoint.memory(), endpoint.pending_count()), (None, 0, 0));
    }

    /// A device sends body after body in blocks to one resource, without Request-Tag. It abandons
    /// some of them; the network delays and doubles what it sent. What is handed up is one of the
    /// bodies, whole. The device tells its transfers apart by Tokens, by counted Message IDs, or
    /// by both.
    #[test]
    fn bodies_of_a_device_with_tokens_or_counted_message_ids_never_mix(
        kind in 0usize..3,
        seed: u16,
        bodies in vec((2u32..5, 0u32..8, vec((0u8..6, any::<proptest::sample::Index>()), 5)), 1..24),
    ) {
        let mut endpoint = Endpoint::new(Settings::default(), 5);
        let (now, mut random, mut sent) = (Instant::now(), SplitMix64(u64::from(seed)), 0u16);
        // What is still on the way; and what the device sends again as it was, with a new Message
        // ID, which only a Token can tell from a block of the next body.
        let mut network: Vec<Vec<u8>> = Vec::new();
        let mut whole: Vec<Vec<u8>> = Vec::new();
        let mut message_id = || {
            sent += 1;
            if kind == 1 { random.next() as u16 } else { seed.wrapping_add(sent) }
        };
        for (which, (blocks, stop, noise)) in (0u16..).zip(bodies) {
            let part = |number: u32| format!("{which:05}.{number:09} ").into_bytes();
            let token = which.to_be_bytes();
            let token: &[u8] = if kind == 2 { b"" } else { &token };
            for number in 0..blocks {
                let more = number + 1 < blocks;
                let value = [(number << 4 | u32::from(more) << 3) as u8];
                let options: [(u16, &[u8]); 2] = [(11, b"log"), (27, &value)];
                let make = |id| super::support::message(
                    Type::Confirmable, super::support::POST, id, token, &options, &part(number),
                );
                let datagram = make(message_id());
                let (act, index) = &noise[number as usize];
                let mut arriving = vec![];
                if *act < 3 && !network.is_empty() {
                    arriving.push((false, network.swap_remove(index.index(network.len()))));
                }
                if number == stop {
                    // Abandoned; this block comes later, or never.
                    network.push(datagram);
                    break;
                }
                if *act == 3 {
                    network.push(datagram.clone());
                }
                arriving.push((true, datagram));
                if *act == 4 && kind != 2 {
                    network.push(make(message_id()));
                }
                let mut goes_on = true;
                for (is_own, datagram) in arriving {
                    if let Some(request) = endpoint.handle_datagram(now, proven(1), &datagram) {
                        let exchange = request.exchange;
                        whole.push(request.payload.to_vec());
                        endpoint.respond(now, exchange, &Response::new(Code::CHANGED));
                    }
                    let mut buffer = Vec::new();
                    while endpoint.poll_transmit(&mut buffer).is_some() {
                        let code = Message::parse(&buffer).unwrap().code;
                        goes_on &= !is_own || code == Code::CONTINUE;
                    }
                }
                if !goes_on {
                    break;
                }
            }
        }
        for body in &whole {
            let first = &body[..5];
            for (number, part) in body.chunks(16).enumerate() {
                let right = [first, format!(".{number:09} ").as_bytes()].concat();
                prop_assert_eq!(part, &right[..], "{}", String::from_utf8_lossy(body));
            }
        }
    }

    /// Blocks of several bodies in any order, late ones among them: what is handed up is one of
    /// the bodies, whole; never parts of two.
    #[test]
    fn bodies_with_request_tags_never_mix(
        steps in vec((0usize..4, 0u32..4, 0usize..2), 1..120),
    ) {
        let mut endpoint = Endpoint::new(Settings::default(), 5);
        let now = Instant::now();
        // Each body has its own Request-Tag, except the first, which has none, and its own bytes.
        let body = |which: usize| -> Vec<u8> { (0..60).map(|at| (which * 64 + at) as u8).collect() };
        // The model: how many blocks of each body are in order.
        let mut held = [[0u32; 4]; 2];
        for (id, (which, number, from)) in (0u16..).zip(steps) {
            let all = body(which);
            let part = all.chunks(16).nth(number as usize).unwrap();
            let more = number < 3;
            let value = [(number << 4 | u32::from(more) << 3) as u8];
            let tag = [which as u8];
            let mut options: Vec<(u16, &[u8])> = vec![(11, b"log"), (27, &value)];
            if which > 0 {
                options.push((292, &tag));
            }
            let datagram = super::support::message(
                Type::Confirmable, super::support::POST, id, b"", &options, part,
            );
            let handed = endpoint.handle_datagram(now, proven(from as u64), &datagram);
            let count = &mut held[from][which];
            let whole = !more && *count == 3;
            *count = match number {
                0 => 1,
                _ if whole => 0,
                _ if number == *count => number + 1,
                _ => *count,
            };
            prop_assert_eq!(handed.is_some(), whole);
            if let Some(request) = handed {
                prop_assert_eq!(&request.payload[..], &all[..]);
                let exchange = request.exchange;
                endpoint.respond(now, exchange, &Response::new(Code::CHANGED));
            }
        }
    }
}
