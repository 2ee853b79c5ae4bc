//! What keeps state for commands: an observer that is notified, a device that is sent a large
//! command in blocks, and the mailbox between broker, disk and delivery. The first byte chooses.

#![no_main]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use tombolo::clock::Moment;
use tombolo::downlink::command::{Command, Outcome, State, Status};
use tombolo::downlink::log::{Committed, Entry};
use tombolo::downlink::mailbox::{Arrival, Event, Mailbox, Take};
use tombolo::downlink::observe::{Formats, Registration};
use tombolo::gate::{Deliver, MailboxLimits};
use tombolo::message::{ContentFormat, Name, Stamp};
use tombolo::proto::Holder;
use tombolo::proto::address::Peer;
use tombolo::proto::coap::{
    Endpoint, Message, Method, Outcome as Told, Outgoing, PeerId, Response, Token,
};
use tombolo::proto::dtls::SessionId;

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else { return };
    match first % 3 {
        0 => notify(data),
        1 => blocks(data),
        _ => mailbox(data),
    }
});

const PEER: PeerId = Peer::Session(SessionId(1)).id();
const HOLDER: Holder = Holder { number: 1, max_sessions: 1, max_handshakes: Holder::HANDSHAKES };

/// The next step: what to do, and up to 255 bytes for it.
fn step<'d>(data: &mut &'d [u8]) -> Option<(u8, &'d [u8])> {
    let [choice, length, rest @ ..] = *data else { return None };
    let (bytes, rest) = rest.split_at(usize::from(*length).min(rest.len()));
    *data = rest;
    Some((*choice, bytes))
}

fn sent(endpoint: &mut Endpoint) {
    let mut buffer = Vec::new();
    while endpoint.poll_transmit(&mut buffer).is_some() {
        assert!(Message::parse(&buffer).is_ok(), "what is sent is valid");
    }
}

/// The gateway as the server of an observed path: notifications, and what the observer says to
/// them.
fn notify(mut data: &[u8]) {
    let mut endpoint = Endpoint::new(Default::default(), 1);
    let mut now = Instant::now();
    let body = [b'x'; 3_000];
    let (mut token, mut sequence, mut begun, mut ended) = (Token::default(), 0, 0, 0);
    while let Some((choice, bytes)) = step(&mut data) {
        match choice % 4 {
            0 => {
                sequence += 1;
                let length = bytes.first().map_or(0, |byte| usize::from(*byte) * 12).min(body.len());
                let response = Response {
                    observe: Some(sequence),
                    ..Response::content(ContentFormat::TEXT, &body[..length])
                };
                let sent = endpoint.notify(now, HOLDER, PEER, (token, None), &response);
                begun += usize::from(sent.is_ok());
            }
            1 => now += Duration::from_millis(bytes.iter().map(|byte| u64::from(*byte) * 40).sum()),
            _ => {
                if let Some(request) = endpoint.handle_datagram(now, PEER, bytes) {
                    if request.observe() == Some(0) {
                        token = request.token;
                    }
                    let exchange = request.exchange;
                    endpoint.respond(now, exchange, &Response::content(ContentFormat::TEXT, &body));
                }
            }
        }
        endpoint.handle_timeout(now);
        while endpoint.poll_reply().is_some() {
            ended += 1;
        }
        assert!(ended <= begun, "a notification has one end");
        sent(&mut endpoint);
    }
    endpoint.forget(PEER);
    while endpoint.poll_reply().is_some() {
        ended += 1;
    }
    assert_eq!((ended, endpoint.request_count()), (begun, 0), "each notification has one end");
}

/// The gateway as the client of a large request: the device asks for smaller blocks, for others, or
/// talks nonsense.
fn blocks(mut data: &[u8]) {
    let mut endpoint = Endpoint::new(Default::default(), 1);
    let mut now = Instant::now();
    let body = [b'x'; 16 << 10];
    let (mut begun, mut ended) = (0, 0);
    while let Some((choice, bytes)) = step(&mut data) {
        match choice % 4 {
            0 => {
                let length = bytes.first().map_or(0, |byte| usize::from(*byte) * 65).min(body.len());
                let method = [Method::Put, Method::Post, Method::Fetch, Method::IPatch];
                let method = method[usize::from(choice >> 2) % method.len()];
                let outgoing = Outgoing {
                    method,
                    path: "a/b",
                    content_format: Some(ContentFormat::TEXT),
                    payload: &body[..length],
                };
                begun += usize::from(endpoint.request(now, HOLDER, PEER, &outgoing).is_ok());
            }
            1 => now += Duration::from_millis(bytes.iter().map(|byte| u64::from(*byte) * 40).sum()),
            _ => drop(endpoint.handle_datagram(now, PEER, bytes)),
        }
        endpoint.handle_timeout(now);
        while let Some(reply) = endpoint.poll_reply() {
            ended += usize::from(reply.outcome != Told::Acknowledged);
        }
        assert!(ended <= begun, "a request has one end");
        sent(&mut endpoint);
    }
    endpoint.forget(PEER);
    while let Some(reply) = endpoint.poll_reply() {
        ended += usize::from(reply.outcome != Told::Acknowledged);
    }
    assert_eq!((ended, endpoint.request_count()), (begun, 0), "each request has one end");
}

fn command(device: &Name, flags: u8, payload: &[u8]) -> Command {
    Command {
        device: device.clone(),
        path: ["a", "b/c"][usize::from(flags & 1)].to_owned(),
        topic: "t".to_owned(),
        method: [2, 3, 4, 1][usize::from(flags >> 1 & 3)],
        content_format: None,
        payload: payload.to_vec(),
        reply_topic: Some("r".to_owned()),
        correlation: None,
        wrapped: false,
        taken: Stamp { boottime_ms: 0, wall_ms: None },
        expires_s: 60,
        deliver: [Deliver::Request, Deliver::Auto, Deliver::Observe][usize::from(flags >> 3) % 3],
        idempotent: flags & 32 > 0,
        latest_wins: flags & 64 > 0,
        answer_within_s: 30,
    }
}

/// The file of the mailbox, as far as it has been written.
#[derive(Default)]
struct Disk(Vec<Entry>);

/// Messages of the broker, commits that fail, what the delivery does, observers, and crashes.
fn mailbox(mut data: &[u8]) {
    let devices = ["a", "b"].map(|name| Name::parse(name).unwrap());
    let limits = MailboxLimits { messages: 4, bytes: 2_048, ..MailboxLimits::default() };
    let (mut disk, mut boot, mut ticket) = (Disk::default(), 1, 0);
    let mut mailbox = Mailbox::new(boot, &[]);
    let start = Instant::now();
    let mut now = start;
    // How often an outcome was durable, by number: it must be there after a crash, or published.
    let mut ended: BTreeMap<u64, Status> = BTreeMap::new();
    while let Some((choice, bytes)) = step(&mut data) {
        let flags = bytes.first().copied().unwrap_or_default();
        let device = &devices[usize::from(flags >> 7)];
        let moment = |now: Instant| Moment {
            now,
            boottime_ms: now.saturating_duration_since(start).as_millis() as u64,
            wall: None,
            ages_from: None,
        };
        ticket += 1;
        let known: Vec<u64> = mailbox.view().map(|view| view.number).collect();
        let which = bytes.get(1).and_then(|byte| known.get(usize::from(*byte) % known.len().max(1))).copied();
        match choice % 12 {
            0 | 1 => {
                let id = u16::from(bytes.get(1).copied().unwrap_or_default() % 8) + 1;
                let arrival = Arrival {
                    now,
                    ticket,
                    topic_hash: u64::from(flags & 1),
                    hash: u64::from(bytes.get(2).copied().unwrap_or_default()),
                    packet: [None, Some((1, id)), Some((2, id))][usize::from(choice >> 4) % 3],
                    connection: u64::from(boot),
                    distinct: choice & 128 > 0,
                    again: flags & 16 > 0,
                    keeps_ids: true,
                    retained: flags & 8 > 0,
                };
                let mut made = command(device, flags, bytes);
                made.taken.boottime_ms = moment(now).boottime_ms;
                let taken = mailbox.take(&arrival, vec![(made, &limits)]);
                assert!(!matches!(taken, Take::Taken(all) if all.len() != 1));
            }
            2 => mailbox.handle_released(now, u16::from(flags % 8) + 1, ticket),
            3 => which.into_iter().for_each(|number| mailbox.begin(number)),
            4 => which.into_iter().for_each(|number| mailbox.unsend(number)),
            5 => {
                if let Some(number) = which.filter(|number| mailbox.state(*number) != Some(State::Ended)) {
                    mailbox.end(number, Outcome::of(Status::Code(0x44), "done"));
                }
            }
            6 => {
                let registration = Registration {
                    device: device.clone(),
                    path: ["a", "b/c"][usize::from(flags & 1)].to_owned(),
                    peer: Some(PEER),
                    session: Some(1),
                    token: Token::new(&bytes[..bytes.len().min(8)]).unwrap_or_default(),
                    block: None,
                    formats: Formats::Any,
                };
                let _ = mailbox.observe(now, registration, ticket);
            }
            7 => {
                now += Duration::from_secs(u64::from(flags));
                mailbox.expire(&moment(now));
            }
            8 => mailbox.handle_session_lost(),
            9 => mailbox.handle_settled(now, &[u16::from(flags % 8) + 1]),
            10 => {
                if let Some(batch) = mailbox.poll_batch(now) {
                    let fails = flags & 3 == 3;
                    if !fails {
                        match batch.image {
                            Some(image) => disk.0 = image,
                            None => disk.0.extend(batch.entries),
                        }
                    }
                    let error = fails.then(|| "no space".to_owned());
                    mailbox.handle_committed(now, &Committed { error, wants_image: flags & 4 > 0 });
                }
            }
            _ => {
                // The process ends, and the next one reads what was written.
                boot += 1;
                mailbox = Mailbox::new(boot, &disk.0);
                mailbox.attach(now, |_, _| (flags & 1 > 0).then_some(PEER));
                for (number, status) in &ended {
                    let found = mailbox.outcome(*number).map(|(_, outcome)| outcome.status);
                    assert_eq!(found, Some(*status), "an outcome that was durable is there: {number}");
                }
            }
        }
        while let Some(event) = mailbox.poll_event() {
            match event {
                Event::Reply(number) => {
                    let status = mailbox.outcome(number).expect("it has one").1.status;
                    ended.insert(number, status);
                    // It is published, or the process ends before that.
                    if choice & 64 > 0 {
                        ended.remove(&number);
                        mailbox.handle_published(number);
                    }
                }
                Event::Refresh(relation) => mailbox.handle_refreshed(relation),
                _ => {}
            }
        }
        assert!(mailbox.len() <= 2 * (limits.messages as usize + 4) + mailbox.ended());
        assert!(mailbox.relation_count() <= 2 * 16);
    }
}
