//! The hub: one thread's worth of state, and what happens to a datagram, a completion, a deadline.
//!
//! ```text
//! receive ─> engine ─> Sink::data ─> endpoint ─> gate ─> journal.append(ticket = exchange)
//! complete(ticket) ─> endpoint.respond(2.04 | 5.03)
//! flush: endpoint.poll_transmit ─> engine.send ─> Sink::transmit ─> sendmmsg
//! ```
//!
//! Everything here runs between two awaits of the tasks in [`run`](super::run): no locks, no
//! channels, no allocation a reading. The engine calls [`Path`] back while it works, which is why the
//! two are apart.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify as Wake;

use super::clock::SystemClock;
use super::keeping::{Found, Sessions};
use super::link::Link;
use super::proof::Proofs;
use super::watched::Waiting;
use crate::clock::Moment;
use crate::control::tail::{Outcome, Reading, Tail};
use crate::gate::settings::QoS;
use crate::gate::stage::{Reason, Received, Refusal};
use crate::gate::{DeviceIndex, Gate, Unidentified};
use crate::journal::{self, Journal, Refused};
use crate::message::{ContentFormat, PathBuffer};
use crate::proto::address::{Peer, PeerId, SerialTicket, Ticket};
use crate::proto::coap::{self, Endpoint, Exchange, Request, Response};
use crate::proto::dtls::server::Certificates;
use crate::proto::dtls::{CloseCause, Engine, HandshakeFailure, PeerIdentity, SendError, SessionId, Sink};
use crate::proto::{Holder, Route};
use crate::southbound::coap::answer;
use crate::southbound::coap::io::{Inbox, Outgoing, Socket};
use crate::southbound::coap::plain::Plain;
use crate::southbound::coap::resource::{self, Resource};
use crate::southbound::coap::stray::{self, Mistake, Strays};
use crate::southbound::serial::Verdict;
use crate::telemetry::counters::{Counter, Counters};
use crate::telemetry::limited::Limiter;

/// What the network may make us say, by kind; each has a limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Said {
    /// A handshake failed.
    Handshake,
    /// A reading was refused.
    Refused,
    /// A reading could not be stored.
    Unstored,
    /// A serial frame was no reading.
    Unreadable,
    /// A unit on a bus answered too late.
    LateAnswer,
}

/// All state of the path.
pub struct Hub {
    /// The DTLS sessions.
    pub engine: Box<dyn Engine>,
    /// What of them outlives the process.
    pub sessions: Sessions,
    /// Everything behind them.
    pub path: Path,
    /// The sessions were left to the next process: nothing more is done with them.
    left: bool,
    datagram: Vec<u8>,
}

/// What the engine hands plaintext to, and all that follows.
pub struct Path {
    /// All clocks as they stood when this round began.
    pub moment: Moment,
    clock: Arc<SystemClock>,
    endpoint: Endpoint,
    /// Who may say what.
    pub gate: Gate,
    journal: Rc<RefCell<Journal>>,
    /// The uplink, for what is not journaled.
    pub uplink: Rc<Link>,
    outgoing: Outgoing,
    sessions: HashMap<SessionId, DeviceIndex>,
    plain: Plain,
    /// Whom all plain CoAP senders are.
    insecure: Option<DeviceIndex>,
    /// Sessions of an earlier process are being taken over.
    pub restoring: bool,
    /// Sessions made and ended in this round.
    established: Vec<SessionId>,
    closed: Vec<SessionId>,
    /// Sessions whose device is gone: ended after the round.
    ending: Vec<SessionId>,
    proofs: Proofs,
    /// Why the gate refused the last identity the engine asked about; taken when the engine reports the failure.
    unclaimed: Option<Unidentified>,
    /// Source addresses whose datagrams cannot be served.
    pub strays: Strays,
    /// When a device was last refused because the table of sessions is full.
    pub full: Option<Instant>,
    tail: Tail,
    watched: Waiting,
    /// Tickets of serial readings that the journal has finished with, and whether they are stored.
    serial_done: Vec<(SerialTicket, bool)>,
    /// Where answers to CoAP nodes on serial lines go, by the port's number.
    serial_out: HashMap<u32, Rc<SerialOut>>,
    /// What happened so far.
    pub counters: Counters,
    limiter: Limiter<Said>,
}

/// Most messages to one serial line that wait; the oldest goes, as a datagram would get lost.
const SERIAL_OUT_MAX: usize = 64;

/// CoAP messages to a node on a serial line.
pub struct SerialOut {
    queue: RefCell<VecDeque<Vec<u8>>>,
    wake: Rc<Wake>,
}

impl SerialOut {
    /// Wakes `wake` when there is something.
    pub fn new(wake: Rc<Wake>) -> SerialOut {
        SerialOut { queue: RefCell::default(), wake }
    }

    /// The next message.
    pub fn pop(&self) -> Option<Vec<u8>> {
        self.queue.borrow_mut().pop_front()
    }

    fn push(&self, message: &[u8]) {
        let mut queue = self.queue.borrow_mut();
        if queue.len() >= SERIAL_OUT_MAX {
            queue.pop_front();
        }
        queue.push_back(message.to_vec());
        self.wake.notify_one();
    }
}

/// Where a reading went.
enum Way {
    /// On its way to disk: its ticket comes back.
    Journal,
    /// By a rule with `qos = 0`, straight to the uplink.
    Past,
}

/// Why a reading went nowhere.
enum Unstored {
    Refused(Refusal),
    Journal(Refused),
}

impl Hub {
    /// Puts the parts together.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        engine: Box<dyn Engine>,
        sessions: Sessions,
        endpoint: Endpoint,
        gate: Gate,
        journal: Rc<RefCell<Journal>>,
        uplink: Rc<Link>,
        clock: Arc<SystemClock>,
        tail: Tail,
    ) -> Hub {
        let path = Path {
            moment: clock.moment(),
            clock,
            endpoint,
            gate,
            journal,
            uplink,
            outgoing: Outgoing::default(),
            sessions: HashMap::new(),
            plain: Plain::default(),
            insecure: None,
            restoring: false,
            established: Vec::new(),
            closed: Vec::new(),
            ending: Vec::new(),
            proofs: Proofs::default(),
            unclaimed: None,
            strays: Strays::default(),
            full: None,
            tail,
            watched: Waiting::default(),
            serial_done: Vec::new(),
            serial_out: HashMap::new(),
            counters: Counters::default(),
            limiter: Limiter::new(Default::default()),
        };
        Hub { engine, sessions, path, left: false, datagram: Vec::with_capacity(2048) }
    }

    /// Takes what one `recvmmsg` brought on a DTLS socket.
    pub fn receive(&mut self, inbox: &mut Inbox) {
        self.path.begin();
        for (route, datagram) in inbox.drain() {
            self.path.counters.count(Counter::DatagramsReceived);
            if is_plain_coap(datagram) {
                self.path.stray(&route, Mistake::PlainOnDtlsPort);
            }
            self.engine.handle_datagram(self.path.moment.now, route, datagram, &mut self.path);
        }
    }

    /// Takes what one `recvmmsg` brought on a plain socket: all from the one `insecure-device`.
    pub fn receive_plain(&mut self, inbox: &mut Inbox) {
        self.path.begin();
        for (route, datagram) in inbox.drain() {
            self.path.counters.count(Counter::DatagramsReceived);
            if stray::looks_like_dtls(datagram) {
                self.path.stray(&route, Mistake::DtlsOnPlainPort);
            }
            let (peer, forgotten) = self.path.plain.peer(&route);
            if let Some(forgotten) = forgotten {
                self.path.endpoint.forget(forgotten);
            }
            match self.path.insecure {
                Some(device) => self.path.message(peer, device, datagram),
                None => self.path.stranger(peer, datagram),
            }
        }
    }

    /// Answers what the journal has finished with.
    pub fn complete(&mut self) {
        self.path.begin();
        loop {
            let next = self.path.journal.borrow_mut().poll_completion();
            let Some(completion) = next else { break };
            if let Some(ticket) = Ticket::unpack(completion.ticket.0) {
                self.path.completed(ticket, completion.result.is_ok());
            }
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self) {
        self.path.begin();
        let now = self.path.moment.now;
        if !self.left && self.engine.poll_timeout().is_some_and(|at| at <= now) {
            self.engine.handle_timeout(now, &mut self.path);
        }
        if self.path.endpoint.poll_timeout().is_some_and(|at| at <= now) {
            self.path.endpoint.handle_timeout(now);
        }
        self.path.say_suppressed();
    }

    /// When [`Hub::handle_timeout`] is wanted next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadlines =
            [self.engine.poll_timeout(), self.path.endpoint.poll_timeout(), self.path.limiter.poll_timeout()];
        deadlines.into_iter().flatten().min()
    }

    /// Sends all answers that wait.
    pub fn flush(&mut self, sockets: &[Socket]) {
        let now = self.path.moment.now;
        for session in std::mem::take(&mut self.path.ending) {
            if !self.left {
                self.engine.close(now, session, &mut self.path);
            }
        }
        while let Some(session) = self.path.proofs.poll() {
            self.engine.confirm_address(session);
        }
        while let Some(peer) = self.path.endpoint.poll_transmit(&mut self.datagram) {
            self.path.counters.count(Counter::DatagramsSent);
            match peer.peer() {
                Peer::Plain(_) => {
                    if let Some(route) = self.path.plain.route(peer) {
                        self.path.outgoing.push(route, &self.datagram);
                    }
                }
                Peer::Serial(port) => {
                    if let Some(out) = self.path.serial_out.get(&port) {
                        out.push(&self.datagram);
                    }
                }
                Peer::Session(session) if !self.left => self.send(now, session),
                Peer::Session(_) => {}
            }
        }
        self.follow();
        while let Some(event) = self.path.endpoint.poll_event() {
            log::trace!(event:? = event; "CoAP exchange ended");
        }
        if !self.path.outgoing.is_empty() {
            self.path.outgoing.flush(sockets);
            let failed = std::mem::take(&mut self.path.outgoing.failed);
            self.path.counters.add(Counter::DatagramsUnsent, failed);
        }
    }

    /// Sends what is in `datagram`.
    fn send(&mut self, now: Instant, session: SessionId) {
        match self.engine.send(now, session, &self.datagram, &mut self.path) {
            Ok(()) => {}
            Err(SendError::UnknownSession | SendError::Fault) => {
                self.path.endpoint.forget(Peer::Session(session).id());
            }
            // The device does not hear it, as if it were lost. What it repeats later may pass.
            Err(SendError::TooLarge) => self.path.counters.count(Counter::DatagramsUnsent),
            Err(SendError::Unproven) => {
                self.path.counters.count(Counter::DatagramsUnsent);
                let id = super::run::random().map(u16::from_be_bytes).ok();
                let ping = id.and_then(|id| self.path.proofs.ask(now, session, id));
                if let Some(ping) = ping {
                    let _ = self.engine.send(now, session, &ping, &mut self.path);
                }
            }
        }
    }

    /// Tells the store what became of sessions.
    fn follow(&mut self) {
        let Path { moment, closed, established, .. } = &mut self.path;
        match &mut self.sessions {
            Sessions::Kept(keeping) if !(closed.is_empty() && established.is_empty()) => {
                keeping.follow(moment.now, closed, established, &mut *self.engine);
            }
            _ => {
                closed.clear();
                established.clear();
            }
        }
    }

    /// Takes over the sessions of an earlier process; once, before anything is received.
    pub fn restore(&mut self, found: Found) {
        self.path.begin();
        super::keeping::restore(self, found);
    }

    /// The last round: sessions that are kept are left as they are, all others get a close_notify. `in_order`: no
    /// fault is the reason.
    pub fn leave(&mut self, in_order: bool) {
        self.path.begin();
        super::keeping::leave(self, in_order);
        self.follow();
        self.left = true;
    }

    /// Takes over what a reload changed, `certificates` if they did: whoever lost his key or his place loses his session.
    pub fn replace(
        &mut self,
        prepared: crate::gate::Prepared,
        keyring: crate::proto::dtls::Keyring,
        certificates: Option<Certificates>,
        insecure: Option<&str>,
    ) {
        self.path.begin();
        let now = self.path.moment.now;
        let replaced = self.path.gate.replace(prepared, now);
        self.engine.replace_keyring(now, keyring, &mut self.path);
        if let Some(certificates) = certificates {
            self.engine.replace_certificates(now, certificates, &mut self.path);
        }
        let path = &mut self.path;
        path.sessions.retain(|&session, device| {
            // Whoever proved himself by what now belongs to another, or to nobody, begins anew.
            let identity = self.engine.session(session).map(|info| info.identity);
            let same = identity.and_then(|identity| path.gate.recognise(identity)) == Some(*device);
            if !same {
                path.ending.push(session);
            }
            same
        });
        path.set_insecure(insecure);
        for gone in replaced.removed {
            path.uplink.clear_device(gone.id.as_str());
        }
    }

    /// Requests handed to the journal and not answered yet.
    pub fn pending(&self) -> usize {
        self.path.endpoint.pending_count()
    }

    /// What the endpoint has counted.
    pub fn coap(&self) -> &coap::Counters {
        self.path.endpoint.counters()
    }
}

impl Path {
    /// Reads the clocks, once a round.
    fn begin(&mut self) {
        self.moment = self.clock.moment();
    }

    /// Says whom all plain CoAP senders are.
    pub fn set_insecure(&mut self, device: Option<&str>) {
        self.insecure = device.and_then(|id| self.gate.device_by_id(id));
    }

    /// How many sessions stand.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Whose a session is.
    pub fn session_device(&self, session: SessionId) -> Option<DeviceIndex> {
        self.sessions.get(&session).copied()
    }

    /// A plain sender while the `insecure-device` is not (or no longer) known.
    fn stranger(&mut self, peer: PeerId, datagram: &[u8]) {
        let now = self.moment.now;
        if let Some(request) = self.endpoint.handle_datagram(now, peer, datagram) {
            self.counters.count(Counter::RefusedUnknownDevice);
            self.endpoint.respond(now, request.exchange, &answer::refused(&Refusal::UnknownDevice));
        }
    }

    fn message(&mut self, peer: PeerId, device: DeviceIndex, datagram: &[u8]) {
        // All plain CoAP belongs to one device, and no address is proven: each address has bounds of its own.
        let own = Holder { number: peer.to_bits(), max_sessions: 1 };
        let holder = if peer.is_unproven() { own } else { self.gate.holder(device).unwrap_or(own) };
        if let Some(request) = self.endpoint.handle_datagram_of(self.moment.now, holder, peer, datagram) {
            self.counters.count(Counter::CoapRequests);
            self.request(device, &request);
        }
    }

    fn request(&mut self, device: DeviceIndex, request: &Request<'_>) {
        let mut buffer = PathBuffer::default();
        match resource::find(request, &mut buffer) {
            Resource::Reading { path, method } => {
                let received = Received {
                    path,
                    method,
                    payload: &request.payload,
                    content_format: request.content_format(),
                    blockwise: request.is_blockwise(),
                    stamp: self.moment.stamp(),
                };
                self.reading(device, request.exchange, received);
            }
            Resource::Core => {
                let links = resource::links(self.gate.uplink_patterns(device));
                let response = Response::content(ContentFormat::LINK_FORMAT, links.as_bytes());
                self.endpoint.respond(self.moment.now, request.exchange, &response);
            }
            Resource::Answer(response) => {
                if response.code == coap::Code::BAD_REQUEST {
                    self.counters.count(Counter::RefusedPath);
                }
                self.endpoint.respond(self.moment.now, request.exchange, &response);
            }
        }
    }

    fn reading(&mut self, device: DeviceIndex, exchange: Exchange, received: Received<'_>) {
        let response = match self.store(device, Ticket::Coap { exchange, method: received.method }, received)
        {
            Ok(Way::Journal) => return,
            Ok(Way::Past) => answer::taken(received.method),
            Err(Unstored::Refused(refusal)) => {
                if let (Refusal::UnknownDevice, Peer::Session(session)) = (&refusal, exchange.peer().peer()) {
                    self.sessions.remove(&session);
                    self.ending.push(session);
                }
                answer::refused(&refusal)
            }
            Err(Unstored::Journal(_)) => answer::unavailable(),
        };
        self.endpoint.respond(self.moment.now, exchange, &response);
    }

    /// Begins a round of a serial port.
    pub fn begin_serial(&mut self) {
        self.begin();
    }

    /// Takes a reading of a serial port. Its ticket comes back in [`Path::serial_done`].
    pub fn serial_reading(&mut self, device: &str, ticket: SerialTicket, received: Received<'_>) -> Verdict {
        let Some(device) = self.gate.device_by_id(device) else { return Verdict::Refused };
        match self.store(device, Ticket::Serial(ticket), received) {
            Ok(Way::Journal) => Verdict::Taken,
            Ok(Way::Past) => Verdict::Passed,
            Err(Unstored::Refused(Refusal::OverQuota { .. })) => Verdict::OverQuota,
            Err(Unstored::Refused(_) | Unstored::Journal(Refused::TooLarge)) => Verdict::Refused,
            Err(Unstored::Journal(_)) => Verdict::Unavailable,
        }
    }

    /// A CoAP message of the node on a serial line.
    pub fn serial_message(&mut self, port: u32, device: &str, message: &[u8]) {
        let Some(device) = self.gate.device_by_id(device) else { return };
        self.gate.seen(self.moment.now, device);
        self.message(Peer::Serial(port).id(), device, message);
    }

    /// From now on, what is to go to the node on this line goes here; `None`: there is none any more.
    pub fn connect_serial(&mut self, port: u32, out: Option<Rc<SerialOut>>) {
        match out {
            Some(out) => drop(self.serial_out.insert(port, out)),
            None => {
                if self.serial_out.remove(&port).is_some() {
                    self.endpoint.forget(Peer::Serial(port).id());
                }
            }
        }
    }

    /// A serial device gave a sign of life.
    pub fn serial_alive(&mut self, device: &str) {
        if let Some(index) = self.gate.device_by_id(device) {
            self.gate.seen(self.moment.now, index);
        }
    }

    /// Whether a line of this kind may be written now.
    pub fn may_say(&mut self, kind: Said) -> bool {
        self.limiter.permit(self.moment.now, kind)
    }

    /// A frame of a serial port was no reading.
    pub fn serial_unreadable(&mut self, device: &str, reason: &dyn std::fmt::Display) {
        self.serial_alive(device);
        if self.may_say(Said::Unreadable) {
            log::info!(device = device, reason:% = reason; "frame without a reading");
        }
    }

    /// Serial readings that the journal has finished with since the last call.
    pub fn serial_done(&mut self) -> Vec<(SerialTicket, bool)> {
        std::mem::take(&mut self.serial_done)
    }

    /// The gate, then the journal.
    fn store(
        &mut self,
        device: DeviceIndex,
        ticket: Ticket,
        received: Received<'_>,
    ) -> Result<Way, Unstored> {
        let now = self.moment.now;
        let mapped = match self.gate.admit(now, device, received) {
            Ok(mapped) => mapped,
            Err(refusal) => {
                self.refused(device, received, &refusal);
                return Err(Unstored::Refused(refusal));
            }
        };
        self.counters.count(Counter::ReadingsAdmitted);
        if mapped.qos() == QoS::AtMostOnce {
            self.counters.count(Counter::ReadingsUnpromised);
            if self.tail.is_watched() {
                let content = mapped.content();
                show(&self.tail, &self.moment, &content, Outcome::Passed);
            }
            self.uplink.offer(&mapped);
            return Ok(Way::Past);
        }
        match self.journal.borrow_mut().append(&mapped, journal::Ticket(ticket.pack())) {
            Ok(id) => {
                self.counters.add(Counter::BytesStored, received.payload.len() as u64);
                if self.tail.is_watched() {
                    self.watched.keep(ticket, id, &mapped.content());
                }
                Ok(Way::Journal)
            }
            Err(refused) => {
                self.counters.count(Counter::ReadingsUnstored);
                if self.limiter.permit(now, Said::Unstored) {
                    log::warn!(device = mapped.content().device, path = received.path.as_str(), reason:? = refused;
                        "reading not stored");
                }
                self.gate.give_back(device, received.payload.len());
                Err(Unstored::Journal(refused))
            }
        }
    }

    /// Counts, logs and shows what did not pass.
    fn refused(&mut self, device: DeviceIndex, received: Received<'_>, refusal: &Refusal) {
        let now = self.moment.now;
        self.counters.count(counter_of(refusal.reason()));
        let permit = self.limiter.permit(now, Said::Refused);
        if !permit && !self.tail.is_watched() {
            return;
        }
        let Some(view) = self.gate.device(now, device) else { return };
        if permit {
            log::info!(device = view.id.as_str(), path = received.path.as_str(), reason:% = refusal; "reading refused");
        }
        let code = answer::refused(refusal).code;
        self.tail.push(&Reading {
            received: self.moment.wall,
            device: view.id.as_str(),
            method: received.method,
            path: received.path.as_str(),
            topic: None,
            bytes: received.payload.len(),
            outcome: Outcome::Refused(code.class(), code.detail()),
            reason: Some(refusal),
        });
    }

    /// Notes a datagram that cannot be served; logs it once an hour for each source address.
    fn stray(&mut self, route: &Route, mistake: Mistake) {
        // A dual-stack socket shows IPv4 addresses as IPv4-mapped IPv6 addresses.
        let source = route.remote.ip().to_canonical();
        if self.strays.note(self.moment.now, source, mistake) {
            log::warn!(peer:% = route.remote, reason = mistake.advice(); "datagrams of this source cannot be served");
        }
    }

    /// Somebody proved who he is, and is nobody here.
    fn unidentified(&mut self, route: &Route, identity: &PeerIdentity, reason: &Unidentified) {
        self.counters.count(Counter::HandshakesUnknownIdentity);
        let source = route.remote.ip().to_canonical();
        if !self.limiter.permit_from(self.moment.now, Said::Handshake, source) {
            return;
        }
        let peer: SocketAddr = route.remote;
        match identity {
            PeerIdentity::Certificate(certificate) => {
                log::warn!(peer:% = peer, reason:% = reason, certificate:% = certificate; "certificate of no device");
            }
            other => {
                log::warn!(peer:% = peer, reason:% = reason, identity:? = other; "identity of no device")
            }
        }
    }

    fn completed(&mut self, ticket: Ticket, stored: bool) {
        self.counters.count(if stored { Counter::ReadingsStored } else { Counter::ReadingsUnstored });
        match ticket {
            Ticket::Serial(ticket) => self.serial_done.push((ticket, stored)),
            Ticket::Coap { exchange, method } => {
                let response = if stored { answer::taken(method) } else { answer::unavailable() };
                self.endpoint.respond(self.moment.now, exchange, &response);
            }
        }
        if let Some(watched) = self.watched.completed(ticket, stored) {
            self.tail.push(&Reading {
                received: self.moment.wall,
                device: &watched.device,
                method: watched.method,
                path: &watched.path,
                topic: Some(&watched.topic),
                bytes: watched.bytes,
                outcome: Outcome::Stored(watched.id),
                reason: None,
            });
        }
    }

    fn say_suppressed(&mut self) {
        let now = self.moment.now;
        while let Some(suppressed) = self.limiter.poll_event(now) {
            self.counters.add(Counter::LinesSuppressed, suppressed.count);
            log::warn!(kind:? = suppressed.kind, suppressed = suppressed.count; "lines left out");
        }
    }
}

fn show(tail: &Tail, moment: &Moment, content: &crate::message::Content<'_>, outcome: Outcome) {
    tail.push(&Reading {
        received: moment.wall,
        device: content.device,
        method: content.method,
        path: content.path,
        topic: Some(content.topic),
        bytes: content.payload.len(),
        outcome,
        reason: None,
    });
}

/// Whether a datagram on a DTLS port is a CoAP request or ping in the clear. No DTLS record begins like one.
fn is_plain_coap(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first >> 6 == 1)
        && coap::Message::parse(datagram)
            .is_ok_and(|message| message.code.is_request() || message.code == coap::Code::EMPTY)
}

impl Sink for Path {
    fn transmit(&mut self, route: &Route, datagram: &[u8]) {
        self.outgoing.push(route, datagram);
    }

    fn claim(&mut self, identity: &PeerIdentity) -> Option<Holder> {
        self.unclaimed = None;
        match self.gate.identify(self.moment.now, identity) {
            Ok(device) => self.gate.holder(device),
            Err(unidentified) => {
                self.unclaimed = Some(unidentified);
                None
            }
        }
    }

    fn unknown_session(&mut self, route: &Route) {
        self.stray(route, Mistake::UnknownSession);
    }

    fn connected(&mut self, session: SessionId, route: &Route, identity: &PeerIdentity) {
        if self.restoring {
            self.counters.count(Counter::SessionsRestored);
        } else {
            self.counters.count(Counter::HandshakesCompleted);
            self.established.push(session);
        }
        let now = self.moment.now;
        let device = match self.gate.identify(now, identity) {
            Ok(device) => device,
            Err(unidentified) => {
                // A pre-shared key is in the keyring for a device only: there, this is a reload in between.
                self.ending.push(session);
                self.counters.count(Counter::SessionsClosed);
                return self.unidentified(route, identity, &unidentified);
            }
        };
        self.sessions.insert(session, device);
        if self.restoring {
            // That it was there once does not mean that it is there now.
            return;
        }
        self.gate.seen(now, device);
        if let Some(view) = self.gate.device(now, device) {
            log::debug!(device = view.id.as_str(), peer:% = route.remote, session = session.0; "session established");
        }
    }

    fn data(&mut self, session: SessionId, plaintext: &[u8]) {
        let Some(&device) = self.sessions.get(&session) else { return };
        if self.proofs.take(session, plaintext) {
            return;
        }
        self.message(Peer::Session(session).id(), device, plaintext);
    }

    fn closed(&mut self, session: SessionId, cause: CloseCause) {
        self.closed.push(session);
        self.endpoint.forget(Peer::Session(session).id());
        self.proofs.forget(session);
        // One of an earlier process that could not be resumed was never counted as completed or restored.
        let Some(device) = self.sessions.remove(&session) else { return };
        self.counters.count(Counter::SessionsClosed);
        if let Some(view) = self.gate.device(self.moment.now, device) {
            log::debug!(device = view.id.as_str(), session = session.0, reason = cause.as_str(); "session ended");
        }
    }

    fn failed(&mut self, route: &Route, failure: &HandshakeFailure) {
        self.counters.count(Counter::HandshakesFailed);
        if matches!(failure, HandshakeFailure::TableFull(_)) {
            self.full = Some(self.moment.now);
        }
        if let (HandshakeFailure::NoDevice(identity), Some(reason)) = (failure, self.unclaimed.take()) {
            return self.unidentified(route, identity, &reason);
        }
        if let HandshakeFailure::NoSharedCipherSuite { missing: Some(_), .. } = failure {
            let source = route.remote.ip().to_canonical();
            if self.strays.note(self.moment.now, source, Mistake::NotConfigured) {
                log::warn!(peer:% = route.remote, reason:% = failure; "handshake failed");
            }
            return;
        }
        if self.limiter.permit_from(self.moment.now, Said::Handshake, route.remote.ip().to_canonical()) {
            let peer: SocketAddr = route.remote;
            let proven = failure.proven().and_then(|identity| self.gate.recognise(identity));
            let claimed = || failure.identity().and_then(|identity| self.gate.identify_psk(identity));
            match proven.or_else(claimed) {
                Some(device) => {
                    let view = self.gate.device(self.moment.now, device);
                    let id = view.as_ref().map_or("", |view| view.id.as_str());
                    log::warn!(device = id, peer:% = peer, reason:% = failure; "handshake failed");
                }
                None => log::warn!(peer:% = peer, reason:% = failure; "handshake failed"),
            }
        }
    }

    fn moved(&mut self, session: SessionId, route: &Route) {
        self.proofs.forget(session);
        let Some(&device) = self.sessions.get(&session) else { return };
        self.gate.seen(self.moment.now, device);
        if let Some(view) = self.gate.device(self.moment.now, device) {
            log::debug!(device = view.id.as_str(), peer:% = route.remote, session = session.0; "session moved");
        }
    }
}

fn counter_of(reason: Reason) -> Counter {
    match reason {
        Reason::UnknownDevice => Counter::RefusedUnknownDevice,
        Reason::Reserved => Counter::RefusedReserved,
        Reason::NoRule => Counter::RefusedNoRule,
        Reason::Denied => Counter::RefusedDenied,
        Reason::NotAllowed => Counter::RefusedMethod,
        Reason::TooLarge => Counter::RefusedTooLarge,
        Reason::OverQuota => Counter::RefusedQuota,
        Reason::Topic => Counter::RefusedTopic,
    }
}
