//! For any input of peers and any responses of the gateway: no panic, only valid messages are sent,
//! limits hold, and all state expires.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use tombolo::message::ContentFormat;
use tombolo::proto::address::Peer;
use tombolo::proto::coap::{Code, Endpoint, Exchange, Message, PeerId, Response, Settings};
use tombolo::proto::dtls::SessionId;

fuzz_target!(|script: &[u8]| run(script));

/// Peers 0 and 1 are proven, 2 and 3 are not.
const PEERS: [PeerId; 4] = [
    Peer::Session(SessionId(0)).id(),
    Peer::Session(SessionId(1)).id(),
    Peer::Plain(0).id(),
    Peer::Plain(1).id(),
];

/// A script is a row of steps: one byte what to do and to whom, then a length byte and that many
/// bytes for it.
fn run(mut script: &[u8]) {
    let settings =
        Settings { memory: 8 << 10, pending: 40, bodies: 8 << 10, body: 4 << 10, ..Settings::default() };
    let bound = settings.memory + 64 * 32 + PEERS.len() * 512;
    let mut endpoint = Endpoint::new(settings, 5).with_echo(&[7; 32]);
    let mut now = Instant::now();
    let mut exchanges: Vec<Exchange> = Vec::new();
    let mut traffic = [(0usize, 0usize); PEERS.len()];
    let mut last = Vec::new();
    let body = [b'x'; 3_000];
    while let [step, length, rest @ ..] = script {
        let (bytes, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        script = rest;
        let who = usize::from(step & 3);
        match step >> 2 & 7 {
            0..=2 => last = bytes.to_vec(),
            3 => {
                // The same again, or with a byte changed.
                if let [position, value, ..] = bytes
                    && let Some(byte) = last.get_mut(usize::from(*position))
                {
                    *byte = *value;
                }
            }
            4 | 5 => {
                let Some(which) = bytes.first().and_then(|byte| exchanges.get(usize::from(*byte))) else {
                    continue;
                };
                let payload = &body[..bytes.get(1).map_or(0, |byte| usize::from(*byte) * 11).min(body.len())];
                let response = match bytes.get(2).unwrap_or(&0) & 3 {
                    0 => Response::new(Code::CHANGED),
                    1 => Response::content(ContentFormat::LINK_FORMAT, payload),
                    2 => Response { payload, ..Response::new(Code::SERVICE_UNAVAILABLE).max_age(30) },
                    _ => Response::new(Code(bytes[0])).size1(1024),
                };
                endpoint.respond(now, *which, &response);
            }
            6 => {
                now += Duration::from_millis(bytes.iter().map(|byte| u64::from(*byte) * 40).sum());
                endpoint.handle_timeout(now);
                assert!(endpoint.poll_timeout().is_none_or(|deadline| deadline > now));
            }
            _ => endpoint.forget(PEERS[who]),
        }
        if step >> 2 & 7 <= 3 {
            traffic[who].0 += last.len();
            if let Some(request) = endpoint.handle_datagram(now, PEERS[who], &last) {
                assert!(request.payload.len() <= 4 << 10 || !request.is_blockwise());
                if exchanges.len() < 256 {
                    exchanges.push(request.exchange);
                }
            }
        }
        drain(&mut endpoint, &mut traffic);
        assert!(endpoint.memory() <= bound);
        while endpoint.poll_event().is_some() {}
    }
    for _ in 0..1_000 {
        let Some(deadline) = endpoint.poll_timeout() else { break };
        now = now.max(deadline);
        endpoint.handle_timeout(now);
        drain(&mut endpoint, &mut traffic);
    }
    assert_eq!((endpoint.poll_timeout(), endpoint.memory(), endpoint.pending_count()), (None, 0, 0));
}

fn drain(endpoint: &mut Endpoint, traffic: &mut [(usize, usize); PEERS.len()]) {
    let mut buffer = Vec::new();
    while let Some(peer) = endpoint.poll_transmit(&mut buffer) {
        assert!(Message::parse(&buffer).is_ok());
        let who = PEERS.iter().position(|known| *known == peer).expect("only who was heard is answered");
        traffic[who].1 += buffer.len();
        let (received, sent) = traffic[who];
        let is_proven = !peer.is_unproven() || endpoint.counters().echoed > 0;
        assert!(is_proven || sent <= 3 * received, "{sent} bytes for {received}");
    }
}
