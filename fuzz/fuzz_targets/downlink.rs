//! Commands: the mailbox's file, the packets of a broker, topics, and a device's answers to
//! requests. The first byte chooses.

#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use tombolo::clock::{Moment, UnixTime};
use tombolo::downlink::log::Entry;
use tombolo::downlink::mailbox::Mailbox;
use tombolo::downlink::router::{Directory, Router};
use tombolo::downlink::settings::{RoleDownlink, Settings};
use tombolo::gate::{DownlinkRule, MailboxLimits};
use tombolo::message::Name;
use tombolo::northbound::inbound;
use tombolo::northbound::wire::Version;
use tombolo::proto::Holder;
use tombolo::proto::address::Peer;
use tombolo::proto::coap::{Ask, Endpoint, Method, Outgoing};
use tombolo::proto::dtls::SessionId;

struct Site;

impl Directory for Site {
    fn device(&self, id: &str) -> Option<(Name, Name)> {
        Some((Name::parse(id).ok()?, Name::parse("r").ok()?))
    }

    fn devices_of(&self, _: &Name) -> Vec<Name> {
        Name::parse("d").into_iter().collect()
    }

    fn takes_copies(&self, id: &str) -> bool {
        id == "d"
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else { return };
    match first % 5 {
        0 => file(data),
        1 => {
            for version in [Version::V5, Version::V3_1_1] {
                if let Some((first, body)) = data.split_first() {
                    let _ = inbound::parse_pubrel(version, *first, body);
                    if let Some(message) = inbound::parse_publish(version, *first, body) {
                        assert!(message.payload.len() <= message.payload_length && !message.topic.is_empty());
                    }
                }
            }
        }
        2 => {
            let (topic, rule) = data.split_at(data.len() / 2);
            if let (Ok(topic), Ok(rule)) = (std::str::from_utf8(topic), std::str::from_utf8(rule)) {
                route(topic, rule);
            }
        }
        3 => device(data),
        _ => observed(data),
    }
});

/// Frames as they may stand in a file: kind, number, length, content.
fn file(mut data: &[u8]) {
    let mut entries = Vec::new();
    while let [kind, number, length, rest @ ..] = data {
        let (content, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        entries.push(Entry { kind: *kind, number: u64::from(*number), content: content.to_vec() });
        data = rest;
    }
    let mut mailbox = Mailbox::new(1, &entries);
    let now = Instant::now();
    mailbox.expire(&Moment { now, boottime_ms: u64::MAX, wall: None, ages_from: Some(UnixTime(0)) });
    while mailbox.poll_event().is_some() {}
    let held = mailbox.len();
    if let Some(image) = mailbox.poll_batch(now).and_then(|batch| batch.image) {
        assert_eq!(Mailbox::new(1, &image).len(), held, "what is written is what is held");
    }
}

fn route(topic: &str, filter: &str) {
    let rule = |name, deny| DownlinkRule {
        deny,
        ..DownlinkRule::new(Name::parse(name).unwrap(), filter, "{1}/{rest}")
    };
    let router = Router::new(&Settings {
        prefix: "p".to_owned(),
        gateway: "g".to_owned(),
        command: Some("p/{device}/down/{path}".to_owned()),
        request: Some("p/{device}/request/{id}/{path}".to_owned()),
        reply: Some("p/{device}/reply/{path}".to_owned()),
        remote: Default::default(),
        filters: Vec::new(),
        served: Default::default(),
        roles: vec![RoleDownlink {
            name: Name::parse("r").unwrap(),
            rules: vec![rule("a", false), DownlinkRule::new(Name::parse("b").unwrap(), "p/{device}/down/#", "{rest}")],
            mailbox: MailboxLimits::default(),
        }],
    });
    let _ = router.route(topic, &Site);
    if let Some(request) = router.request(topic) {
        let _ = router.route(&request.topic, &Site);
    }
}

/// Datagrams of a device that is observed, each with a choice and its length before it.
fn observed(mut data: &[u8]) {
    let mut endpoint = Endpoint::new(Default::default(), 1);
    let now = Instant::now();
    let peer = Peer::Session(SessionId(1)).id();
    let holder = Holder { number: 1, max_sessions: 1, max_handshakes: Holder::HANDSHAKES };
    let ask = |observe| Ask {
        path: "a".to_owned(),
        query: None,
        accept: None,
        block_exponent: None,
        observe,
        limit: 4096,
    };
    let (mut last, mut buffer) = (None, Vec::new());
    while let [choice, length, rest @ ..] = data {
        match choice % 4 {
            0 => last = endpoint.ask(now, holder, peer, None, &ask(choice & 4 > 0)).ok().or(last),
            1 => drop(endpoint.ask(now, holder, peer, last, &ask(true))),
            2 => last.into_iter().for_each(|request| endpoint.forget_ask(request)),
            _ => {}
        }
        let (datagram, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        let _ = endpoint.handle_datagram(now, peer, datagram);
        while let Some(notice) = endpoint.poll_notice() {
            assert!(notice.payload.len() <= 4096);
            match (notice.held, choice & 8 > 0) {
                (Some(held), true) => endpoint.acknowledge_value(held),
                (Some(held), false) => endpoint.leave_value(held),
                (None, _) => {}
            }
        }
        while endpoint.poll_transmit(&mut buffer).is_some() {}
        data = rest;
    }
    endpoint.forget(peer);
    assert_eq!((endpoint.ask_count(), endpoint.request_count()), (0, 0));
}

/// Datagrams of a device that was asked, each with its length before it.
fn device(mut data: &[u8]) {
    let mut endpoint = Endpoint::new(Default::default(), 1);
    let now = Instant::now();
    let peer = Peer::Session(SessionId(1)).id();
    let holder = Holder { number: 1, max_sessions: 1, max_handshakes: Holder::HANDSHAKES };
    let outgoing = Outgoing { method: Method::Put, path: "a/b", content_format: None, payload: b"x" };
    let mut asked = 0;
    let mut buffer = Vec::new();
    while let [length, rest @ ..] = data {
        if endpoint.request(now, holder, peer, &outgoing).is_ok() {
            asked += 1;
        }
        let (datagram, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        let _ = endpoint.handle_datagram(now, peer, datagram);
        while endpoint.poll_transmit(&mut buffer).is_some() {}
        data = rest;
    }
    endpoint.forget(peer);
    let mut ended = 0;
    while let Some(reply) = endpoint.poll_reply() {
        ended += usize::from(reply.outcome != tombolo::proto::coap::Outcome::Acknowledged);
    }
    assert_eq!(asked, ended, "each request has one end");
}
