//! The CoAP side: from decrypted or plain messages to readings for the pipeline, and from
//! completions to responses.
//!
//! ```text
//! handle_session_data ─┐                                  ┌─ not a reading, refused, qos = 0: answered at once
//! handle_plain ────────┼─> endpoint ─> resource ─> pipeline ─ journaled: answered by handle_completion
//! handle_message ──────┘                                  │
//! poll_transmit <──────── endpoint <──────────────────────┘
//! request, notify ──────> endpoint ─> poll_reply           commands to devices
//!                         GET ──────> poll_fetch ─> answer_fetch
//!                         /firmware > poll_firmware ─> answer_firmware
//! ```
//!
//! The device of each DTLS session is looked up once, when the session is established. All plain
//! senders are one device, the `insecure-device`. [`Intake::poll_ended`] returns the sessions whose
//! device was removed, which the engine must close.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::answer;
use super::fetch::Fetch;
use super::firmware::FirmwareFetch;
use super::heard::Heard;
use super::plain::Plain;
use super::reads::Reads;
use super::reported::{Reported, Reports};
use super::resource::{self, Buffers, Resource};
use super::return_routability::ReturnRoutability;
use super::stray::Strays;
use crate::clock::Moment;
use crate::gate::Unidentified;
use crate::gate::stage::{DeviceIndex, Received, Refusal};
use crate::journal::Refused;
use crate::message::{ContentFormat, Method};
use crate::pipeline::{Disposition, Pipeline, ReadingStore};
use crate::proto::address::{Peer, PeerId, Ticket};
use crate::proto::coap::block::Block;
use crate::proto::coap::endpoint::client::Unsent;
use crate::proto::coap::{self, Code, Endpoint, Exchange, FirstBlock, Request, Response};
use crate::proto::dtls::{PeerIdentity, SessionId};
use crate::proto::{Holder, Route};
use crate::telemetry::counters::Counter;

/// All state of the CoAP side.
pub struct Intake {
    endpoint: Endpoint,
    sessions: HashMap<SessionId, DeviceIndex>,
    plain: Plain,
    /// The device of all plain CoAP senders.
    insecure: Option<DeviceIndex>,
    /// Sessions whose device was removed.
    ended: VecDeque<SessionId>,
    return_routability: ReturnRoutability,
    reads: Reads,
    heard: Heard,
    /// Devices heard since they were polled last.
    contacts: VecDeque<DeviceIndex>,
    /// GETs that wait for their answer.
    fetches: VecDeque<Fetch>,
    /// GETs of firmware that wait for their answer.
    firmware: VecDeque<FirmwareFetch>,
    /// Which readings have a firmware version, and those that had one.
    pub reports: Reports,
    /// Sessions that have ended since they were polled last.
    gone: VecDeque<SessionId>,
    /// Source addresses whose datagrams cannot be processed.
    pub strays: Strays,
}

impl Intake {
    /// A CoAP side without sessions and senders.
    pub fn new(endpoint: Endpoint) -> Intake {
        Intake {
            endpoint,
            sessions: HashMap::new(),
            plain: Plain::default(),
            insecure: None,
            ended: VecDeque::new(),
            return_routability: ReturnRoutability::default(),
            reads: Reads::default(),
            heard: Heard::default(),
            contacts: VecDeque::new(),
            fetches: VecDeque::new(),
            firmware: VecDeque::new(),
            reports: Reports::default(),
            gone: VecDeque::new(),
            strays: Strays::default(),
        }
    }

    /// Sets the device of all plain CoAP senders; with `None` they are answered 4.01.
    pub fn set_insecure(&mut self, device: Option<DeviceIndex>) {
        self.insecure = device;
    }

    /// A session was established or restored: looks up its device.
    ///
    /// # Errors
    /// The identity belongs to no device now, although the engine has accepted it; the session must
    /// be closed.
    pub fn handle_connected<S: ReadingStore>(
        &mut self,
        now: Instant,
        session: SessionId,
        identity: &PeerIdentity,
        pipeline: &mut Pipeline<S>,
    ) -> Result<DeviceIndex, Unidentified> {
        match pipeline.gate.identify(now, identity) {
            Ok(device) => {
                self.sessions.insert(session, device);
                self.heard.note(device, Peer::Session(session), None);
                Ok(device)
            }
            Err(unidentified) => {
                self.ended.push_back(session);
                Err(unidentified)
            }
        }
    }

    /// Handles the decrypted content of one DTLS record.
    pub fn handle_session_data<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        session: SessionId,
        plaintext: &[u8],
        pipeline: &mut Pipeline<S>,
    ) {
        let Some(&device) = self.sessions.get(&session) else { return };
        self.note_contact(moment.now, Peer::Session(session), device);
        if self.return_routability.take(session, plaintext) {
            return;
        }
        self.handle_message(moment, Peer::Session(session), device, plaintext, pipeline);
    }

    /// The line of a port leads to this device.
    pub fn connect_line(&mut self, port: u32, device: DeviceIndex) {
        self.heard.note_first(device, Peer::Serial(port));
    }

    /// A device has proven by a datagram, or by a handshake, that it is there.
    pub fn note_contact(&mut self, now: Instant, peer: Peer, device: DeviceIndex) {
        self.heard.note(device, peer, Some(now));
        if self.contacts.back() != Some(&device) {
            self.contacts.push_back(device);
        }
    }

    /// The next device that was heard; to be called until `None` after each round.
    pub fn poll_contact(&mut self) -> Option<DeviceIndex> {
        self.contacts.pop_front()
    }

    /// The next GET of a device for a message of the broker; to be called until `None` after each
    /// round.
    pub fn poll_fetch(&mut self) -> Option<Fetch> {
        self.fetches.pop_front()
    }

    /// Answers one.
    pub fn answer_fetch(&mut self, now: Instant, fetch: &Fetch, response: &Response<'_>) {
        self.respond(now, fetch.exchange, response);
    }

    /// The next GET of firmware; to be called until `None` after each round.
    pub fn poll_firmware(&mut self) -> Option<FirmwareFetch> {
        self.firmware.pop_front()
    }

    /// Answers one.
    pub fn answer_firmware(&mut self, now: Instant, fetch: &FirmwareFetch, response: &Response<'_>) {
        self.respond(now, fetch.exchange, response);
    }

    /// The next firmware version that a device reported in a reading; to be called until `None`
    /// after each round.
    pub fn poll_reported(&mut self) -> Option<Reported> {
        self.reports.poll()
    }

    /// The next session that has ended; to be called until `None` after each round.
    pub fn poll_gone(&mut self) -> Option<SessionId> {
        self.gone.pop_front()
    }

    /// Sends a confirmable notification to an observer that is known by `token`, in blocks of the
    /// size of `block` if that is given. [`Intake::poll_reply`] tells what becomes of it.
    ///
    /// # Errors
    /// [`Unsent`].
    pub fn notify(
        &mut self,
        now: Instant,
        holder: Holder,
        peer: PeerId,
        (token, block): (coap::Token, Option<Block>),
        response: &Response<'_>,
    ) -> Result<coap::RequestId, Unsent> {
        self.endpoint.notify(now, holder, peer, (token, block), response)
    }

    /// The session or line by which a device was heard last, and when in this process.
    pub fn heard(&self, device: DeviceIndex) -> Option<(Peer, Option<Instant>)> {
        self.heard.get(device)
    }

    /// Sends a request to a device. [`Intake::poll_reply`] tells what becomes of it.
    ///
    /// # Errors
    /// [`Unsent`].
    pub fn request(
        &mut self,
        now: Instant,
        holder: Holder,
        peer: Peer,
        outgoing: &coap::Outgoing<'_>,
    ) -> Result<coap::RequestId, Unsent> {
        self.endpoint.request(now, holder, peer.id(), outgoing)
    }

    /// What became of a request to a device.
    pub fn poll_reply(&mut self) -> Option<coap::Reply> {
        self.endpoint.poll_reply()
    }

    /// Waits no longer for the response to a request that was acknowledged.
    pub fn abandon(&mut self, request: coap::RequestId) {
        self.endpoint.abandon(request);
    }

    /// Asks a device for a resource that it serves. [`Intake::poll_notice`] gives what it says,
    /// [`Intake::poll_reply`] tells why it says nothing. With `again` the GET of a relation is sent
    /// anew.
    ///
    /// # Errors
    /// [`Unsent`].
    pub fn ask(
        &mut self,
        now: Instant,
        holder: Holder,
        peer: Peer,
        again: Option<coap::RequestId>,
        ask: &coap::Ask,
    ) -> Result<coap::RequestId, Unsent> {
        self.endpoint.ask(now, holder, peer.id(), again, ask)
    }

    /// Nothing more is wanted of this GET.
    pub fn forget_ask(&mut self, request: coap::RequestId) {
        self.endpoint.forget_ask(request);
    }

    /// What a device says of a resource that it serves.
    pub fn poll_notice(&mut self) -> Option<coap::Notice> {
        self.endpoint.poll_notice()
    }

    /// Acknowledges a value.
    pub fn acknowledge_value(&mut self, held: coap::Held) {
        self.endpoint.acknowledge_value(held);
    }

    /// Answers a value with Reset.
    pub fn reject_value(&mut self, held: coap::Held) {
        self.endpoint.reject_value(held);
    }

    /// Leaves a value without an answer: the device sends it again.
    pub fn leave_value(&mut self, held: coap::Held) {
        self.endpoint.leave_value(held);
    }

    /// Takes a value of a resource that a device serves as its reading; nothing is answered here.
    pub fn handle_served<'p, S: ReadingStore>(
        &mut self,
        now: Instant,
        device: DeviceIndex,
        number: u64,
        received: Received<'_>,
        pipeline: &'p mut Pipeline<S>,
    ) -> Disposition<'p> {
        self.take_reading(now, device, Ticket::Served(number), received, pipeline)
    }

    /// All devices that have a session or a line, and where each was heard last.
    pub fn all_heard(&self) -> impl Iterator<Item = (DeviceIndex, Peer)> {
        self.heard.iter()
    }

    /// The peer address of a session changed. Returns its device.
    pub fn handle_moved(&mut self, session: SessionId) -> Option<DeviceIndex> {
        self.return_routability.forget(session);
        self.session_device(session)
    }

    /// A session was closed. Returns its device.
    pub fn handle_closed(&mut self, session: SessionId) -> Option<DeviceIndex> {
        self.forget(session);
        self.return_routability.forget(session);
        self.gone.push_back(session);
        let device = self.sessions.remove(&session)?;
        self.heard.forget(device, Peer::Session(session));
        Some(device)
    }

    /// Handles a datagram from a plain socket.
    pub fn handle_plain<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        route: &Route,
        datagram: &[u8],
        pipeline: &mut Pipeline<S>,
    ) {
        let (peer, forgotten) = self.plain.peer(route);
        if let Some(forgotten) = forgotten {
            self.endpoint.forget(forgotten);
        }
        match self.insecure {
            Some(device) => self.handle_message(moment, peer.peer(), device, datagram, pipeline),
            None => {
                let own =
                    Holder { number: peer.to_bits(), max_sessions: 1, max_handshakes: Holder::HANDSHAKES };
                let counters = &mut pipeline.counters;
                let refuse = |_: &FirstBlock<'_>| {
                    counters.count(Counter::RefusedUnknownDevice);
                    Err(answer::refused(&Refusal::UnknownDevice))
                };
                let request = self.endpoint.handle_datagram_judged(moment.now, own, peer, datagram, refuse);
                if let Some(request) = request {
                    pipeline.counters.count(Counter::RefusedUnknownDevice);
                    self.respond(moment.now, request.exchange, &answer::refused(&Refusal::UnknownDevice));
                }
            }
        }
    }

    /// Handles a CoAP message of a device.
    pub fn handle_message<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        peer: Peer,
        device: DeviceIndex,
        datagram: &[u8],
        pipeline: &mut Pipeline<S>,
    ) {
        let id = peer.id();
        // All plain senders are one device and no address is proven, so each address has its own
        // limits.
        let own = Holder { number: id.to_bits(), max_sessions: 1, max_handshakes: Holder::HANDSHAKES };
        let holder = match peer {
            Peer::Plain(_) => own,
            Peer::Session(_) | Peer::Serial(_) => pipeline.gate.holder(device).unwrap_or(own),
        };
        let Intake { endpoint, sessions, ended, .. } = self;
        let request = endpoint.handle_datagram_judged(moment.now, holder, id, datagram, |first| {
            judge(moment, device, first, pipeline).inspect_err(|response| {
                if let (Code::UNAUTHORIZED, Peer::Session(session)) = (response.code, peer) {
                    sessions.remove(&session);
                    ended.push_back(session);
                }
            })
        });
        if let Some(request) = request {
            pipeline.counters.count(Counter::CoapRequests);
            self.handle_request(moment, device, &request, pipeline);
        }
    }

    fn handle_request<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        device: DeviceIndex,
        request: &Request<'_>,
        pipeline: &mut Pipeline<S>,
    ) {
        let mut buffers = Buffers::default();
        let found = resource::find(&request.head(), &mut buffers);
        let is_read = matches!(
            found,
            Resource::Value(_) | Resource::Firmware(_) | Resource::Time { .. } | Resource::Core
        );
        // All plain senders are one device.
        let is_own = !matches!(request.peer().peer(), Peer::Plain(_));
        if is_read && is_own && !self.reads.take(moment.now, device) {
            pipeline.counters.count(Counter::CoapReadsRefused);
            let response = Response::new(Code::TOO_MANY_REQUESTS).max_age(1).diagnostic("too many GETs");
            return self.respond(moment.now, request.exchange, &response);
        }
        match found {
            Resource::Reading { path, query, method } => {
                let received = Received {
                    path,
                    query,
                    method,
                    payload: &request.payload,
                    content_format: request.head().content_format(),
                    blockwise: request.is_blockwise(),
                    stamp: moment.stamp(),
                };
                self.handle_reading(moment.now, device, request.exchange, received, pipeline);
            }
            Resource::Malformed { method, malformed } => {
                let (path, bytes) = (resource::shown_path(&request.head()), request.payload.len());
                let refusal = pipeline.handle_malformed(moment.now, device, method, &path, bytes, malformed);
                let response = answer::refused(refusal);
                self.respond(moment.now, request.exchange, &response);
            }
            Resource::Value(path) => match request.peer().peer() {
                // Whoever can send from an address is not known to be the device.
                Peer::Plain(_) => {
                    let response = Response::new(Code::FORBIDDEN).diagnostic("not without DTLS");
                    self.respond(moment.now, request.exchange, &response);
                }
                Peer::Session(_) | Peer::Serial(_) => {
                    pipeline.gate.seen(moment.now, device);
                    self.fetches.push_back(Fetch::new(device, path.as_str(), request));
                }
            },
            Resource::Firmware(path) => {
                let parsed = match request.peer().peer() {
                    Peer::Plain(_) => Err(Response::new(Code::FORBIDDEN).diagnostic("not without DTLS")),
                    Peer::Session(_) | Peer::Serial(_) => {
                        pipeline.gate.seen(moment.now, device);
                        FirmwareFetch::parse(device, path, request)
                    }
                };
                match parsed {
                    Ok(fetch) => self.firmware.push_back(fetch),
                    Err(response) => self.respond(moment.now, request.exchange, &response),
                }
            }
            Resource::Time { cbor } => match moment.wall {
                Some(wall) => {
                    let format = if cbor { ContentFormat::CBOR } else { ContentFormat::TEXT };
                    let body = resource::time(wall.0 / 1000, cbor);
                    let response = Response::content(format, &body).max_age(0);
                    self.respond(moment.now, request.exchange, &response);
                }
                None => {
                    let response = Response::new(Code::SERVICE_UNAVAILABLE).max_age(60);
                    let response = response.diagnostic("the clock is not trusted");
                    self.respond(moment.now, request.exchange, &response);
                }
            },
            Resource::Core => {
                let links = resource::links(pipeline.gate.uplink_patterns(device));
                let response = Response::content(ContentFormat::LINK_FORMAT, links.as_bytes());
                self.respond(moment.now, request.exchange, &response);
            }
            Resource::Answer(response) => {
                if response.code == Code::BAD_REQUEST {
                    pipeline.counters.count(Counter::RefusedPath);
                }
                self.respond(moment.now, request.exchange, &response);
            }
        }
    }

    fn handle_reading<S: ReadingStore>(
        &mut self,
        now: Instant,
        device: DeviceIndex,
        exchange: Exchange,
        received: Received<'_>,
        pipeline: &mut Pipeline<S>,
    ) {
        let ticket = Ticket::Coap { exchange, method: received.method };
        let disposition = self.take_reading(now, device, ticket, received, pipeline);
        let response = match disposition {
            Disposition::Journaled => return,
            Disposition::Passed | Disposition::Filtered => answer::taken(received.method),
            Disposition::Refused(refusal) => {
                if let (Refusal::UnknownDevice, Peer::Session(session)) = (refusal, exchange.peer().peer()) {
                    self.sessions.remove(&session);
                    self.ended.push_back(session);
                }
                answer::refused(refusal)
            }
            Disposition::Unstored(Refused::DeviceShare) => answer::over_share(),
            Disposition::Unstored(_) => answer::unavailable(),
        };
        self.respond(now, exchange, &response);
    }

    /// Takes a reading to the pipeline, and looks whether it reports a firmware version.
    fn take_reading<'p, S: ReadingStore>(
        &mut self,
        now: Instant,
        device: DeviceIndex,
        ticket: Ticket,
        received: Received<'_>,
        pipeline: &'p mut Pipeline<S>,
    ) -> Disposition<'p> {
        let version = self.reports.look(&pipeline.gate, now, device, &received);
        let disposition = pipeline.handle_reading(now, device, ticket, received);
        let is_taken =
            matches!(disposition, Disposition::Journaled | Disposition::Passed | Disposition::Filtered);
        if let Some(version) = version.filter(|_| is_taken) {
            self.reports.push(device, version);
        }
        disposition
    }

    /// The store has committed or refused the reading of a request: answers 2.04, for DELETE 2.02,
    /// or 5.03.
    pub fn handle_completion(&mut self, now: Instant, exchange: Exchange, method: Method, stored: bool) {
        let response = if stored { answer::taken(method) } else { answer::unavailable() };
        self.respond(now, exchange, &response);
    }

    fn respond(&mut self, now: Instant, exchange: Exchange, response: &Response<'_>) {
        self.endpoint.respond(now, exchange, response);
    }

    /// Handles due timers: empty acknowledgements, retransmissions.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.endpoint.poll_timeout().is_some_and(|at| at <= now) {
            self.endpoint.handle_timeout(now);
        }
    }

    /// When [`Intake::handle_timeout`] must be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.endpoint.poll_timeout()
    }

    /// Replaces the content of `buffer` with the next message and returns its destination.
    /// [`Intake::route`] gives the address of a plain peer.
    pub fn poll_transmit(&mut self, buffer: &mut Vec<u8>) -> Option<Peer> {
        self.endpoint.poll_transmit(buffer).map(PeerId::peer)
    }

    /// The next event of the endpoint, for trace logs.
    pub fn poll_event(&mut self) -> Option<coap::Event> {
        self.endpoint.poll_event()
    }

    /// The next session that the engine must close because its device was removed.
    pub fn poll_ended(&mut self) -> Option<SessionId> {
        self.ended.pop_front()
    }

    /// The next session whose new peer address passed the return routability check.
    pub fn poll_reachable(&mut self) -> Option<SessionId> {
        self.return_routability.poll()
    }

    /// The ping for the return routability check of a session; `None` if one was sent less than 2 s
    /// ago. `id` must be random.
    pub fn probe(&mut self, now: Instant, session: SessionId, id: u16) -> Option<[u8; 4]> {
        self.return_routability.ask(now, session, id)
    }

    /// The address of a plain peer; `None` if it is no longer known.
    pub fn route(&self, peer: Peer) -> Option<&Route> {
        self.plain.route(peer.id())
    }

    /// Drops the unanswered requests of a session.
    pub fn forget(&mut self, session: SessionId) {
        self.endpoint.forget(Peer::Session(session).id());
    }

    /// Drops the unanswered requests of the node on a serial line.
    pub fn forget_line(&mut self, port: u32) {
        self.heard.forget_line(Peer::Serial(port));
        self.endpoint.forget(Peer::Serial(port).id());
    }

    /// Marks the sessions for closing whose device is no longer the same, after a reload.
    pub fn review_sessions(&mut self, mut is_same: impl FnMut(SessionId, DeviceIndex) -> bool) {
        let Intake { sessions, ended, heard, .. } = self;
        sessions.retain(|&session, device| {
            let same = is_same(session, *device);
            if !same {
                heard.forget(*device, Peer::Session(session));
                ended.push_back(session);
            }
            same
        });
    }

    /// The device of a session.
    pub fn session_device(&self, session: SessionId) -> Option<DeviceIndex> {
        self.sessions.get(&session).copied()
    }

    /// The device of all plain senders.
    pub fn insecure(&self) -> Option<DeviceIndex> {
        self.insecure
    }

    /// The device of a peer over UDP; `None` for a node on a serial line, whose port knows it.
    pub fn device_of(&self, peer: Peer) -> Option<DeviceIndex> {
        match peer {
            Peer::Session(session) => self.session_device(session),
            Peer::Plain(_) => self.insecure,
            Peer::Serial(_) => None,
        }
    }

    /// Requests handed to the journal and not answered yet.
    pub fn pending_count(&self) -> usize {
        self.endpoint.pending_count()
    }

    /// The counters of the endpoint.
    pub fn counters(&self) -> &coap::Counters {
        self.endpoint.counters()
    }
}

/// Decides about the first block of a request: the largest body, in bytes, or the response that
/// refuses it.
fn judge<S: ReadingStore>(
    moment: &Moment,
    device: DeviceIndex,
    first: &FirstBlock<'_>,
    pipeline: &mut Pipeline<S>,
) -> Result<u32, Response<'static>> {
    let mut buffers = Buffers::default();
    match resource::find(&first.head, &mut buffers) {
        Resource::Reading { path, query, method } => {
            let received = Received {
                path,
                query,
                method,
                payload: first.payload,
                content_format: first.head.content_format(),
                blockwise: true,
                stamp: moment.stamp(),
            };
            pipeline.handle_first_block(moment.now, device, received, first.bytes).map_err(answer::refused)
        }
        Resource::Malformed { method, malformed } => {
            let path = resource::shown_path(&first.head);
            let bytes = first.payload.len();
            Err(answer::refused(
                pipeline.handle_malformed(moment.now, device, method, &path, bytes, malformed),
            ))
        }
        Resource::Core | Resource::Value(_) | Resource::Time { .. } | Resource::Firmware(_) => {
            Err(Response::new(Code::BAD_REQUEST).diagnostic("a GET has no body"))
        }
        Resource::Answer(response) => {
            if response.code == Code::BAD_REQUEST {
                pipeline.counters.count(Counter::RefusedPath);
            }
            Err(response)
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::super::reads::{READS_BURST, READS_PER_SECOND};
    use super::*;
    use crate::journal::Refused;
    use crate::pipeline::Event;
    use crate::pipeline::fake::FakeStore;
    use crate::proto::coap::encoder::Encoder;
    use crate::proto::coap::{Message, MessageId, Token, Type};

    const POST: Code = Code(2);
    const DELETE: Code = Code(4);

    struct World {
        moment: Moment,
        coap: Intake,
        pipeline: Pipeline<FakeStore>,
    }

    impl World {
        fn new() -> World {
            let now = Instant::now();
            World {
                moment: Moment { now, boottime_ms: 1, wall: None, ages_from: None },
                coap: Intake::new(Endpoint::new(Default::default(), 1)),
                pipeline: Pipeline::fake(now, 100),
            }
        }

        /// Sends a request of `door-7` from this peer.
        fn say(&mut self, peer: Peer, code: Code, id: u16, path: &str, payload: &[u8]) {
            let device = self.pipeline.gate.device_by_id("door-7").expect("the device is known");
            let datagram = request(code, id, path, payload);
            self.coap.handle_message(&self.moment, peer, device, &datagram, &mut self.pipeline);
        }

        fn complete(&mut self) {
            while self.pipeline.handle_completion() {
                while let Some(event) = self.pipeline.poll_event() {
                    let Event::Completed { ticket: Ticket::Coap { exchange, method }, stored } = event else {
                        panic!("{event:?}");
                    };
                    self.coap.handle_completion(self.moment.now, exchange, method, stored);
                }
            }
        }

        /// All sent messages: destination, Message ID, code.
        fn sent(&mut self) -> Vec<(Peer, u16, Code)> {
            let (mut sent, mut buffer) = (Vec::new(), Vec::new());
            while let Some(peer) = self.coap.poll_transmit(&mut buffer) {
                let message = Message::parse(&buffer).expect("a message");
                sent.push((peer, message.message_id.0, message.code));
            }
            sent
        }
    }

    fn request(code: Code, id: u16, path: &str, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let token = Token::new(b"tk").expect("a token");
        let encoder = Encoder::new(&mut bytes, Type::Confirmable, code, MessageId(id), &token);
        let encoder =
            path.split('/').fold(encoder, |encoder, segment| encoder.option(11, segment.as_bytes()));
        encoder.payload(payload).finish().expect("it fits");
        bytes
    }

    const A: Peer = Peer::Session(SessionId(7));
    const B: Peer = Peer::Serial(7);

    #[test]
    fn a_device_is_answered_when_its_reading_is_stored_and_a_delete_with_2_02() {
        let mut world = World::new();
        world.say(A, POST, 1, "t/env", b"21.5");
        world.say(B, DELETE, 2, "t/env", b"");
        world.say(A, DELETE, 3, "t/env", b"");
        world.say(B, POST, 4, "t/env", b"21.5");
        assert!(world.sent().is_empty(), "nothing is stored yet");
        // The readings complete in another order.
        world.pipeline.store().answer_newest();
        world.pipeline.store().answer(true);
        world.pipeline.store().answer(false);
        world.pipeline.store().answer(true);
        world.complete();
        assert_eq!(
            world.sent(),
            [
                (B, 4, Code::CHANGED),
                (A, 1, Code::CHANGED),
                (B, 2, Code::SERVICE_UNAVAILABLE),
                (A, 3, Code::DELETED)
            ]
        );
        assert_eq!(world.coap.pending_count(), 0);
    }

    #[test]
    fn a_device_that_asks_without_end_is_told_to_wait_and_its_readings_are_taken() {
        let mut world = World::new();
        let refused = |world: &mut World, count: u32| {
            (0..count).for_each(|id| world.say(A, Code(1), (id % 60_000) as u16, "time", b""));
            let codes = world.sent().into_iter().map(|(.., code)| code);
            codes.filter(|code| *code == Code::TOO_MANY_REQUESTS).count() as u32
        };
        // The clock is not trusted: the others are 5.03.
        assert_eq!(refused(&mut world, READS_BURST + 300), 300);
        world.say(A, POST, 61_000, "t/env", b"1");
        assert!(world.sent().is_empty(), "a reading waits until it is stored");
        world.moment.now += std::time::Duration::from_secs(300);
        assert_eq!(refused(&mut world, READS_BURST), 0);
        world.moment.now += std::time::Duration::from_secs(1);
        (0..READS_PER_SECOND + 44).for_each(|id| world.say(A, Code(1), 62_000 + id as u16, "time", b""));
        let codes = world.sent().into_iter().map(|(.., code)| code);
        let refused = codes.filter(|code| *code == Code::TOO_MANY_REQUESTS).count() as u32;
        assert_eq!(refused, 44);
    }

    #[test]
    fn what_is_not_stored_is_answered_at_once() {
        let mut world = World::new();
        world.say(A, POST, 1, "live/x", b"1");
        world.say(A, DELETE, 2, "live/x", b"");
        world.say(A, POST, 3, "x", b"1");
        world.pipeline.store().refuses = Some(Refused::Failing);
        world.say(A, POST, 4, "t/env", b"1");
        world.say(A, Code(1), 5, ".well-known/core", b"");
        world.say(A, POST, 6, "rd", b"1");
        let codes: Vec<Code> = world.sent().into_iter().map(|(.., code)| code).collect();
        assert_eq!(
            codes,
            [
                Code::CHANGED,
                Code::DELETED,
                Code::FORBIDDEN,
                Code::SERVICE_UNAVAILABLE,
                Code::CONTENT,
                Code::NOT_FOUND
            ]
        );
    }

    #[test]
    fn a_store_that_dies_is_5_03_for_what_waits_and_for_what_comes() {
        let mut world = World::new();
        world.say(A, POST, 1, "t/env", b"1");
        world.pipeline.store().die();
        world.say(A, POST, 2, "t/env", b"1");
        while world.pipeline.poll_event().is_some() {}
        world.complete();
        assert_eq!(world.sent(), [(A, 2, Code::SERVICE_UNAVAILABLE), (A, 1, Code::SERVICE_UNAVAILABLE)]);
    }

    #[test]
    fn a_completion_for_a_session_that_is_over_is_answered_to_nobody() {
        let mut world = World::new();
        world.say(A, POST, 1, "t/env", b"1");
        world.coap.handle_closed(SessionId(7));
        world.say(Peer::Session(SessionId(8)), POST, 1, "t/env", b"2");
        world.pipeline.store().answer(true);
        world.complete();
        assert!(world.sent().is_empty());
        world.pipeline.store().answer(true);
        world.complete();
        assert_eq!(world.sent(), [(Peer::Session(SessionId(8)), 1, Code::CHANGED)]);
    }

    #[test]
    fn plain_senders_are_the_insecure_device_or_nobody() {
        let mut world = World::new();
        let route = Route { remote: ([127, 0, 0, 1], 9).into(), local: None, socket: 1 };
        let World { moment, coap, pipeline } = &mut world;
        coap.handle_plain(moment, &route, &request(POST, 1, "t/env", b"1"), pipeline);
        coap.set_insecure(pipeline.gate.device_by_id("door-7"));
        coap.handle_plain(moment, &route, &request(POST, 2, "t/env", b"1"), pipeline);
        assert_eq!(pipeline.counters.value(Counter::RefusedUnknownDevice), 1);
        pipeline.store().answer(true);
        world.complete();
        assert_eq!(
            world.sent(),
            [(Peer::Plain(0), 1, Code::UNAUTHORIZED), (Peer::Plain(0), 2, Code::CHANGED)]
        );
        assert_eq!(world.coap.route(Peer::Plain(0)), Some(&route));
    }

    #[test]
    fn the_session_of_a_device_that_is_gone_is_named_to_be_closed() {
        let mut world = World::new();
        let device = world.pipeline.gate.device_by_id("door-7").expect("the device is known");
        world.coap.sessions.insert(SessionId(7), device);
        world.coap.sessions.insert(SessionId(8), device);
        world.coap.review_sessions(|session, _| session != SessionId(8));
        assert_eq!((world.coap.poll_ended(), world.coap.poll_ended()), (Some(SessionId(8)), None));
        let gateway = world.pipeline.gate.gateway().clone();
        let empty = crate::gate::Settings::empty(gateway);
        let now = world.moment.now;
        world.pipeline.gate.replace(empty, now);
        let World { moment, coap, pipeline } = &mut world;
        coap.handle_session_data(moment, SessionId(7), &request(POST, 1, "t/env", b"1"), pipeline);
        assert_eq!((coap.poll_ended(), coap.session_device(SessionId(7))), (Some(SessionId(7)), None));
        assert_eq!(world.sent(), [(A, 1, Code::UNAUTHORIZED)]);
    }

    /// A block of `door-7`, with these further options.
    fn say_block(
        world: &mut World,
        id: u16,
        path: &str,
        number: u32,
        options: &[(u16, &[u8])],
    ) -> (Code, Option<u32>) {
        let device = world.pipeline.gate.device_by_id("door-7").expect("the device is known");
        let block = coap::block::Block { number, more: true, size_exponent: 6 };
        let value = block.to_uint().to_be_bytes();
        let mut all: Vec<(u16, &[u8])> = path.split('/').map(|segment| (11, segment.as_bytes())).collect();
        all.extend_from_slice(options);
        all.push((27, &value[1..]));
        all.sort_by_key(|option| option.0);
        let mut datagram = Vec::new();
        let token = Token::default();
        let encoder = Encoder::new(&mut datagram, Type::Confirmable, POST, MessageId(id), &token);
        let encoder = all.iter().fold(encoder, |encoder, (number, value)| encoder.option(*number, value));
        encoder.payload(&[7; 1024]).finish().expect("a valid message");
        let peer = Peer::Session(SessionId(1));
        world.coap.handle_message(&world.moment, peer, device, &datagram, &mut world.pipeline);
        let mut buffer = Vec::new();
        world.coap.poll_transmit(&mut buffer).expect("an answer");
        let message = Message::parse(&buffer).expect("a message");
        let size1 = message.options.values(60).next();
        (message.code, size1.map(|value| value.iter().fold(0, |all, byte| all << 8 | u32::from(*byte))))
    }

    #[test]
    fn a_body_that_could_not_pass_is_refused_at_its_first_block() {
        let mut world = World::new();
        let mut say =
            |id, path, number, options: &[(u16, &[u8])]| say_block(&mut world, id, path, number, options);
        assert_eq!(say(1, "nowhere/x", 0, &[]).0, Code::FORBIDDEN);
        assert_eq!(say(2, "rd", 0, &[]).0, Code::NOT_FOUND);
        let too_large = (Code::REQUEST_ENTITY_TOO_LARGE, Some(65_536));
        assert_eq!(say(3, "t/x", 0, &[(60, &[1, 0, 1])]), too_large, "Size1");
        assert_eq!(say(4, "t/x", 64, &[]), too_large, "a block number beyond the limit");
        assert_eq!(say(5, "t/x", 3, &[]).0, Code::REQUEST_ENTITY_INCOMPLETE, "its beginning is not known");
        assert_eq!(say(6, "t/x", 0, &[(15, &[b'q'; 255])]).0, Code::BAD_REQUEST, "a query too long");
        assert_eq!(say(7, "t/x", 0, &[(60, &[8, 0])]).0, Code::CONTINUE);
        assert_eq!(say(8, "t/x", 1, &[]).0, Code::CONTINUE);
        let counters = &world.pipeline.counters;
        for counter in [Counter::RefusedNoRule, Counter::RefusedTooLarge, Counter::RefusedPath] {
            assert!(counters.value(counter) > 0, "{counter:?}");
        }
        assert_eq!(counters.value(Counter::CoapRequests), 0, "none was handed up");
    }

    #[test]
    fn a_body_over_quota_is_refused_at_its_first_block() {
        let mut world = World::new();
        world.pipeline = Pipeline::fake(world.moment.now, 1);
        assert_eq!(say_block(&mut world, 1, "t/x", 0, &[]).0, Code::CONTINUE, "it takes no token");
        world.say(Peer::Session(SessionId(2)), POST, 1, "t/x", b"1");
        assert_eq!(world.pipeline.counters.value(Counter::ReadingsAdmitted), 1);
        assert_eq!(say_block(&mut world, 2, "t/y", 0, &[]).0, Code::TOO_MANY_REQUESTS);
        assert_eq!(world.pipeline.counters.value(Counter::RefusedQuota), 1);
    }
}
