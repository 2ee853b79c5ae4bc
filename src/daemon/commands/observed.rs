//! What devices fetch and observe: the answers to their GETs, registrations, and notifications that
//! no command brings.
//!
//! | GET of a path | answered with |
//! |---|---|
//! | that no rule offers | 4.03 |
//! | with a message | 2.05 with ETag and Max-Age; 2.03 if the device has it |
//! | without one | 4.04; with Observe 0 an empty 2.05: what will come is observed |
//! | with Observe 0 | the same with Observe, once the relation is durable |

use std::time::Instant;

use super::{Commands, SideCarrier, Sides};
use crate::clock::Moment;
use crate::daemon::reading_store::Readings;
use crate::downlink::observe::{Formats, Registration};
use crate::message::Name;
use crate::proto::address::{Peer, PeerId};
use crate::proto::coap::{Code, Outcome, Response};
use crate::session_store::io::persistence::SessionPersistence;
use crate::southbound::coap::{Fetch, Intake};

/// Max-Age of an observed path without a message, in seconds: a notification comes before it ends.
const EMPTY_MAX_AGE: u32 = 86_400;

impl Commands {
    /// Takes the GETs of devices and the ends of their sessions.
    pub(super) fn take_fetches(
        &mut self,
        moment: &Moment,
        coap: &mut Intake,
        pipeline: &Readings,
        sessions: &SessionPersistence,
    ) {
        while let Some(session) = coap.poll_gone() {
            if self.mailbox.relation_count() > 0 {
                let peer = Peer::Session(session).id();
                self.mailbox.end_relations(|registration| registration.peer == Some(peer));
            }
        }
        for fetch in std::mem::take(&mut self.early) {
            self.take_fetch(moment, coap, pipeline, sessions, fetch, false);
        }
        while let Some(fetch) = coap.poll_fetch() {
            self.take_fetch(moment, coap, pipeline, sessions, fetch, true);
        }
    }

    fn take_fetch(
        &mut self,
        moment: &Moment,
        coap: &mut Intake,
        pipeline: &Readings,
        sessions: &SessionPersistence,
        fetch: Fetch,
        may_wait: bool,
    ) {
        let now = moment.now;
        let forbidden = Response::new(Code::FORBIDDEN).diagnostic("no rule");
        let Some(view) = pipeline.gate.device(now, fetch.device) else {
            return coap.answer_fetch(now, &fetch, &forbidden);
        };
        let (device, role) = (view.id.clone(), view.role.clone());
        let peer = fetch.peer();
        if fetch.observe == Some(1) {
            let ended = |registration: &Registration| {
                registration.peer == Some(peer.id()) && registration.token == fetch.token
            };
            self.mailbox.end_relations(ended);
        }
        if !self.router.offers(&role, &fetch.path) {
            return coap.answer_fetch(now, &fetch, &forbidden);
        }
        let value = self.mailbox.value(&device, &fetch.path, moment);
        let format = value.and_then(|(value, _)| value.content_format);
        if value.is_some() && fetch.accept.is_some_and(|accept| format != Some(accept)) {
            let response = Response::new(Code::NOT_ACCEPTABLE).diagnostic("not in this format");
            return coap.answer_fetch(now, &fetch, &response);
        }
        if fetch.observe == Some(0) && self.defect.is_none() && self.file.is_some() {
            let session = match peer {
                Peer::Session(session) => sessions.number(session),
                Peer::Serial(_) | Peer::Plain(_) => None,
            };
            // A session gets its number at the end of the round in which it was established.
            if session.is_none() && may_wait && sessions.is_open() && matches!(peer, Peer::Session(_)) {
                self.early.push(fetch);
                self.wake.notify_one();
                return;
            }
            let formats = match (value.is_some(), fetch.accept) {
                (false, None) => Formats::Any,
                (false, accept) => Formats::Only(accept),
                (true, _) => Formats::Only(format),
            };
            let registration = Registration {
                device: device.clone(),
                path: fetch.path.clone(),
                peer: Some(peer.id()),
                session,
                token: fetch.token,
                block: fetch.block,
                formats,
            };
            self.next_ticket += 1;
            if self.mailbox.observe(now, registration, self.next_ticket) {
                self.registrations.insert(self.next_ticket, (device, fetch));
                return;
            }
        }
        self.answer_fetch(moment, coap, &device, &fetch, None);
    }

    /// The registration with this ticket is durable as `relation`, or there is none.
    pub(super) fn handle_related(
        &mut self,
        moment: &Moment,
        coap: &mut Intake,
        ticket: u64,
        relation: Option<u64>,
    ) {
        let Some((device, fetch)) = self.registrations.remove(&ticket) else { return };
        self.answer_fetch(moment, coap, &device, &fetch, relation);
        if let Some(relation) = relation {
            self.counts.observed += 1;
            self.mailbox.note_notified(moment.now, relation, relation);
        }
    }

    fn answer_fetch(
        &mut self,
        moment: &Moment,
        coap: &mut Intake,
        device: &Name,
        fetch: &Fetch,
        relation: Option<u64>,
    ) {
        let observe = relation.map(|relation| relation as u32);
        let Some((value, left_s)) = self.mailbox.value(device, &fetch.path, moment) else {
            let response = match observe {
                Some(_) => Response { observe, ..Response::new(Code::CONTENT) }.max_age(EMPTY_MAX_AGE),
                None => Response::new(Code::NOT_FOUND).diagnostic("no message"),
            };
            return coap.answer_fetch(moment.now, fetch, &response);
        };
        let etag = value.etag();
        let has_it = fetch.etags.iter().any(|known| known[..] == etag);
        let response = Response {
            code: if has_it { Code::VALID } else { Code::CONTENT },
            etag: Some(&etag),
            observe,
            content_format: value.content_format.filter(|_| !has_it),
            payload: if has_it { &[] } else { &value.payload },
            ..Response::new(Code::CONTENT).max_age(left_s)
        };
        let bytes = value.payload.len();
        let part = if has_it { Some(0..bytes) } else { fetch.part(bytes) };
        coap.answer_fetch(moment.now, fetch, &response);
        self.counts.fetched += 1;
        let Some(part) = part else { return };
        let is_last = part.end == bytes;
        self.delivery.handle_part(device, &fetch.path, part, &mut self.mailbox);
        if is_last {
            self.mailbox.handle_fetched(device, &fetch.path);
        }
    }

    /// Sends a notification that no command brings: its number is durable.
    pub(super) fn send_refresh(
        &mut self,
        moment: &Moment,
        coap: &mut Intake,
        pipeline: &Readings,
        relation: u64,
    ) {
        let Some(found) = self.mailbox.relation(relation) else { return };
        let (registration, sequence) = (found.registration.clone(), found.sequence);
        let index = pipeline.gate.device_by_id(registration.device.as_str());
        let holder = index.and_then(|index| pipeline.gate.holder(index));
        let (Some(holder), Some(peer)) = (holder, registration.peer) else {
            return self.mailbox.handle_refreshed(relation);
        };
        let value = self.mailbox.value(&registration.device, &registration.path, moment);
        let etag = value.map(|(value, _)| value.etag());
        let response = Response {
            etag: etag.as_ref().map(|etag| &etag[..]),
            observe: Some(sequence as u32),
            content_format: value.and_then(|(value, _)| value.content_format),
            payload: value.map_or(&[], |(value, _)| &value.payload[..]),
            ..Response::new(Code::CONTENT).max_age(value.map_or(EMPTY_MAX_AGE, |(_, left_s)| left_s))
        };
        let key = (registration.token, registration.block);
        match coap.notify(moment.now, holder, peer, key, &response) {
            Ok(request) => {
                self.refreshes.insert(request, relation);
                self.mailbox.note_notified(moment.now, relation, sequence);
            }
            Err(_) => self.mailbox.handle_refreshed(relation),
        }
    }

    /// What became of such a notification (RFC 7641 §3.6, §4.5).
    pub(super) fn handle_refreshed(&mut self, relation: u64, outcome: &Outcome) {
        match outcome {
            Outcome::Acknowledged => self.mailbox.handle_refreshed(relation),
            _ => self.mailbox.end_relation(relation),
        }
    }

    /// Begins the notifications that are due, of devices that are awake.
    pub(super) fn refresh_relations(&mut self, now: Instant, sides: &mut Sides<'_>, pipeline: &Readings) {
        for relation in self.mailbox.relations_due(now) {
            let Some(found) = self.mailbox.relation(relation) else { continue };
            let device = found.registration.device.clone();
            let Commands { router, lines, requests, counts, .. } = self;
            let mut carrier = SideCarrier::new(sides, &pipeline.gate, (router, lines), requests, counts);
            if carrier.is_awake(now, &device) {
                self.mailbox.refresh(relation);
            }
        }
    }

    /// The sessions of the process before are there: so are their relations.
    pub fn attach(&mut self, now: Instant, sessions: &[(u64, Name, PeerId)]) {
        let find = |number: u64, device: &Name| {
            let is_it = |(known, id, _): &&(u64, Name, PeerId)| *known == number && id == device;
            sessions.iter().find(is_it).map(|(_, _, peer)| *peer)
        };
        self.mailbox.attach(now, find);
    }
}
