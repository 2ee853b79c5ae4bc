//! The MQTT side: from the bytes of local clients to readings for the pipeline, and from
//! completions to acknowledgements.
//!
//! ```text
//! handle_opened ── handle_bytes ─> connection ─> packets ─┬─ CONNECT ─> identity ─> session
//!                                                         └─ PUBLISH ─> pipeline ─ refused, qos = 0: answered in turn
//! take_output <─ acknowledgements in order <─ session <─ handle_completion ─ journaled
//! ```
//!
//! A client is a device: it proves so by the TLS certificate or by user name and password, and
//! nobody is anonymous. The topic of a publish is a path in the device's own space, so the rules,
//! the quota and the mapping are those of every other transport.
//!
//! **Bounds.** Of a client that is not identified: [`CONNECT_MAX`](super::settings::CONNECT_MAX)
//! bytes, for [`CONNECT_WITHIN`](super::settings::CONNECT_WITHIN). Of a device: its role's
//! `max-sessions` sessions (a new one replaces its own oldest), [`CONNECTS_MAX`] connects a minute.
//! Of a session: [`RECEIVE_MAXIMUM`] publishes on their way, [`SUBSCRIPTIONS_MAX`] subscriptions.
//! In all: `max-clients` connections, and as many sessions without one.

mod delivery;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use mqtt_protocol_core::mqtt::packet::{Qos, RetainHandling};
use mqtt_protocol_core::mqtt::result_code::{
    ConnectReasonCode, DisconnectReasonCode, PubackReasonCode, SubackReasonCode, UnsubackReasonCode,
};

pub use self::delivery::{Delivered, NotDelivered};
use super::answer::{self, Denial};
use super::bus::{
    Allowed, BusMessage, BusRequest, LocalRules, Options, Retained, Subscription, is_topic, mirrored,
};
use super::connection::{Connection, Ended, Source, State};
use super::filter::{Filter, FilterError};
use super::packet::{self, Hello, Inbound, Message, Version, Welcome, Will};
use super::session::{Acknowledgement, Session};
use super::settings::{
    CLIENT_ID_MAX, CONNECTS_MAX, CONNECTS_PER, DenyOn311, RECEIVE_MAXIMUM, RECEIVED_MAX, SESSION_EXPIRY_MAX,
    SUBSCRIPTIONS_MAX, Settings,
};
use super::verification::{Requested, Verification, Verifications};
use crate::clock::Moment;
use crate::gate::settings::Role;
use crate::gate::stage::{DeviceIndex, Malformed, Received, Refusal};
use crate::message::{ContentFormat, Method, Name, Path};
use crate::pipeline::{Disposition, Pipeline, ReadingStore};
use crate::proto::Holder;
use crate::proto::address::{MqttTicket, Ticket};
use crate::telemetry::counters::{Counter, Counters};

/// A refused password is answered this long after it came, whatever it cost.
const REFUSE_AFTER: Duration = Duration::from_secs(1);

/// With more bytes than this waiting for the shell, a client gets no more local messages.
const UNSENT_MAX: usize = 64 << 10;
/// The same for retained messages, which come all at once.
const RETAINED_UNSENT_MAX: usize = 256 << 10;

/// A reading that was accepted, of whatever transport.
#[derive(Clone, Copy, Debug)]
pub struct Accepted<'a> {
    /// Its device.
    pub device: &'a str,
    /// Its path.
    pub path: &'a str,
    /// Its payload; empty if it deletes a retained one.
    pub payload: &'a [u8],
    /// Its content format.
    pub content_format: Option<ContentFormat>,
    /// Its rule has it retained.
    pub retain: bool,
}

/// The number of a connection; never used again in a process.
pub type ConnectionNumber = u64;

/// What a shell or the log has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client is connected.
    Connected {
        /// Its device.
        device: Name,
        /// Its client id.
        client_id: String,
        /// Its address; `None` for a Unix socket.
        address: Option<IpAddr>,
        /// The version it speaks.
        version: Version,
    },
    /// A connect was refused.
    Refused {
        /// Its address; `None` for a Unix socket.
        address: Option<IpAddr>,
        /// The user name it gave, at most 128 bytes of it.
        username: Option<String>,
        /// Why.
        reason: &'static str,
    },
    /// A connected client is gone.
    Disconnected {
        /// Its device; `None` if the device is not known any more.
        device: Option<Name>,
        /// Its client id.
        client_id: String,
        /// Why.
        reason: Ended,
    },
}

/// What is due at a time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Connection(ConnectionNumber),
    Session(u64),
}

/// The connects of a device in the current minute.
struct Connects {
    since: Instant,
    count: u32,
}

/// The downlink rules of a role as filters over paths: deny, filter.
type DownlinkFilters = Vec<(bool, Filter)>;

/// All state of the MQTT side.
pub struct Intake {
    max_clients: usize,
    deny_on_311: DenyOn311,
    downlink: HashMap<Name, DownlinkFilters>,
    local: HashMap<Name, LocalRules>,
    mirror: Option<String>,
    retained: Retained,
    bus: VecDeque<BusRequest>,
    /// Sessions that are on the bus.
    on_bus: usize,
    retained_dropped: u64,
    connections: HashMap<ConnectionNumber, Connection>,
    sessions: HashMap<u64, Session>,
    /// The sessions of each device, the one that connected last at the end.
    by_device: HashMap<DeviceIndex, Vec<u64>>,
    connects: HashMap<DeviceIndex, Connects>,
    verifications: Verifications,
    /// Connections that have a session.
    clients: usize,
    next_connection: ConnectionNumber,
    next_session: u64,
    due: BinaryHeap<Reverse<(Instant, Due)>>,
    ready: VecDeque<ConnectionNumber>,
    events: VecDeque<Event>,
    /// What became of messages for clients.
    delivered: VecDeque<(u64, Delivered)>,
}

/// What the shell is to do after it has sent the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read on.
    Read,
    /// Read nothing for now.
    Wait,
    /// Close the connection.
    Close,
}

impl Intake {
    /// Without clients. `seed`: 32 random bytes of this process alone.
    pub fn new(settings: &Settings, roles: &[Role], seed: &[u8; 32]) -> Intake {
        let mut intake = Intake {
            max_clients: settings.max_clients,
            deny_on_311: settings.deny_on_311,
            downlink: HashMap::new(),
            local: HashMap::new(),
            mirror: None,
            retained: Retained::default(),
            bus: VecDeque::new(),
            on_bus: 0,
            retained_dropped: 0,
            connections: HashMap::new(),
            sessions: HashMap::new(),
            by_device: HashMap::new(),
            connects: HashMap::new(),
            verifications: Verifications::new(seed),
            clients: 0,
            next_connection: 0,
            next_session: 0,
            due: BinaryHeap::new(),
            ready: VecDeque::new(),
            events: VecDeque::new(),
            delivered: VecDeque::new(),
        };
        intake.replace(settings, roles);
        intake
    }

    /// Takes over changed settings and rules; clients stay connected.
    pub fn replace(&mut self, settings: &Settings, roles: &[Role]) {
        (self.max_clients, self.deny_on_311) = (settings.max_clients, settings.deny_on_311);
        self.mirror = settings.mirror.clone();
        self.local = settings.local.iter().cloned().collect();
        let filters = |role: &Role| {
            let rules = role.downlink.iter();
            rules.filter_map(|rule| Some((rule.deny, Filter::of_template(&rule.path)?))).collect()
        };
        self.downlink = roles.iter().map(|role| (role.name.clone(), filters(role))).collect();
    }

    /// Clients that are connected, and sessions without a connection.
    pub fn counts(&self) -> (usize, usize) {
        (self.clients, self.sessions.len() - self.clients)
    }

    /// The connections of a device.
    pub fn clients_of(&self, device: DeviceIndex) -> usize {
        let sessions = self.by_device.get(&device).into_iter().flatten();
        sessions.filter(|number| self.sessions.get(number).is_some_and(|s| s.connection.is_some())).count()
    }

    /// Publishes that are not acknowledged yet.
    pub fn pending_count(&self) -> usize {
        self.sessions.values().map(Session::unanswered_count).sum()
    }

    /// A connection was accepted, its TLS handshake done.
    pub fn handle_opened(&mut self, now: Instant, source: Source) -> ConnectionNumber {
        let number = self.next_connection;
        self.next_connection += 1;
        self.connections.insert(number, Connection::new(now, source));
        self.arm_connection(number);
        number
    }

    /// Bytes came on a connection.
    pub fn handle_bytes<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        number: ConnectionNumber,
        bytes: &[u8],
        pipeline: &mut Pipeline<S>,
    ) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if connection.state != State::Ended {
            connection.push(moment.now, bytes);
            self.process(moment, number, pipeline);
        }
    }

    /// The network connection is gone.
    pub fn handle_closed<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        number: ConnectionNumber,
        pipeline: &mut Pipeline<S>,
    ) {
        self.end(moment, number, Ended::Lost, pipeline);
        self.connections.remove(&number);
    }

    /// The password that [`Intake::poll_verification`] handed out is right, or wrong.
    pub fn handle_verified<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        right: bool,
        pipeline: &mut Pipeline<S>,
    ) {
        let Some((number, device)) = self.verifications.complete(moment.now, right) else { return };
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let Some(hello) = connection.hello.take() else { return };
        if right {
            self.accept(moment, number, device, &hello, pipeline);
            self.process(moment, number, pipeline);
        } else {
            let code = ConnectReasonCode::BadUserNameOrPassword;
            self.refuse(moment.now, number, code, hello.username.as_deref(), "wrong password", pipeline);
        }
    }

    /// The journal is done with a publish.
    pub fn handle_completion<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        ticket: MqttTicket,
        stored: bool,
        pipeline: &mut Pipeline<S>,
    ) {
        let Some(session) = self.sessions.get_mut(&ticket.session) else { return };
        if !stored {
            pipeline.gate.note_unstored(session.device);
        }
        let outcome = if stored { Ok(()) } else { Err(answer::NOT_STORED) };
        if session.complete(ticket.count, outcome)
            && let Some(number) = session.connection
        {
            self.acknowledge(moment, number, pipeline);
            // What waited for this answer.
            self.process(moment, number, pipeline);
        }
    }

    /// Does what is due.
    pub fn handle_timeout<S: ReadingStore>(&mut self, moment: &Moment, pipeline: &mut Pipeline<S>) {
        let now = moment.now;
        while let Some(Reverse((at, due))) = self.due.peek().copied() {
            if at > now {
                break;
            }
            self.due.pop();
            match due {
                Due::Connection(number) => {
                    let Some(connection) = self.connections.get_mut(&number) else { continue };
                    match (connection.deadline(), connection.state) {
                        (Some(at), _) if at > now => self.arm_connection(number),
                        (Some(_), State::Opening { .. }) => {
                            self.end(moment, number, Ended::NoConnect, pipeline);
                        }
                        (Some(_), State::Refusing { code, .. }) => {
                            if let Some(version) = connection.version {
                                connection.send(packet::refusal(version, code));
                            }
                            self.end(moment, number, Ended::Refused(code), pipeline);
                        }
                        (Some(_), State::Open) => {
                            connection.disconnect(DisconnectReasonCode::KeepAliveTimeout, None);
                            self.end(moment, number, Ended::Silent, pipeline);
                        }
                        _ => {}
                    }
                }
                Due::Session(number) => self.session_due(moment, number, pipeline),
            }
        }
    }

    /// When [`Intake::handle_timeout`] is wanted next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// The next connection that has something to be sent, or is to be closed.
    pub fn poll_ready(&mut self) -> Option<ConnectionNumber> {
        let number = self.ready.pop_front()?;
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.is_announced = false;
        }
        Some(number)
    }

    /// Whether the client of a connection is identified.
    pub fn is_identified(&self, number: ConnectionNumber) -> bool {
        self.connections.get(&number).is_some_and(|connection| connection.session.is_some())
    }

    /// Appends what is to be sent on a connection to `out`, and says what is to be done then.
    pub fn take_output(&mut self, number: ConnectionNumber, out: &mut Vec<u8>) -> Next {
        let Some(connection) = self.connections.get_mut(&number) else { return Next::Close };
        let output = connection.output();
        if out.is_empty() {
            std::mem::swap(out, output);
        } else {
            out.append(output);
        }
        *connection.output() = Vec::new();
        match connection.state {
            State::Ended => Next::Close,
            State::Open if is_busy(connection, &self.sessions) => Next::Wait,
            State::Opening { .. } | State::Open => Next::Read,
            State::Verifying | State::Refusing { .. } => Next::Wait,
        }
    }

    /// Whether [`Intake::poll_verification`] has one now.
    pub fn has_verification(&self) -> bool {
        self.verifications.is_next()
    }

    /// The next password to be verified off the path's thread; one at a time.
    pub fn poll_verification(&mut self) -> Option<Verification> {
        self.verifications.poll()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// After a reload: cuts off the clients of devices that are gone or have other credentials, and
    /// those whose certificate is now another device's.
    pub fn review<S: ReadingStore>(&mut self, moment: &Moment, pipeline: &mut Pipeline<S>) {
        let gate = &pipeline.gate;
        let stays = |session: &Session, connection: Option<&Connection>| {
            gate.id(session.device).is_some()
                && connection.and_then(|connection| connection.source.identity.as_ref()).is_none_or(
                    // One that is of no device has shown a password.
                    |identity| gate.recognise(identity).is_none_or(|device| device == session.device),
                )
        };
        let gone: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, session)| {
                !stays(session, session.connection.and_then(|number| self.connections.get(&number)))
            })
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            if let Some(session) = self.sessions.get_mut(&number) {
                // A device that may not publish any more leaves no will either.
                (session.will, session.will_at, session.expiry) = (None, None, Duration::ZERO);
                if let Some(connection) = session.connection {
                    if let Some(connection) = self.connections.get_mut(&connection) {
                        connection.disconnect(DisconnectReasonCode::NotAuthorized, None);
                    }
                    self.end(moment, connection, Ended::Removed, pipeline);
                }
            }
            self.remove_session(number);
        }
        let gate = &pipeline.gate;
        let mut rejudged = Vec::new();
        for (at, session) in &mut self.sessions {
            let Some(view) = gate.device(moment.now, session.device) else { continue };
            (session.publishes, session.receives) = allowed(self.local.get(view.role), view.id.as_str());
            let receives = &session.receives;
            // What was granted stays granted, and brings what the new rules allow.
            for subscription in &mut session.subscriptions {
                subscription.is_local = receives.filter(&subscription.filter);
            }
            rejudged.push(*at);
        }
        rejudged.into_iter().for_each(|at| self.follow_bus(at));
        self.verifications.review(|device| gate.id(device).is_some());
        self.connects.retain(|device, _| gate.id(*device).is_some());
    }

    /// The gateway stops: says goodbye to all clients. Their wills are published.
    pub fn leave<S: ReadingStore>(&mut self, moment: &Moment, pipeline: &mut Pipeline<S>) {
        let numbers: Vec<ConnectionNumber> = self.connections.keys().copied().collect();
        for number in numbers {
            if let Some(connection) = self.connections.get_mut(&number) {
                connection.disconnect(DisconnectReasonCode::ServerShuttingDown, None);
            }
            self.end(moment, number, Ended::Stopping, pipeline);
        }
    }

    /// Handles the packets that are there.
    fn process<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        number: ConnectionNumber,
        pipeline: &mut Pipeline<S>,
    ) {
        loop {
            let Some(connection) = self.connections.get_mut(&number) else { return };
            if !connection.is_taking() {
                // What a client sends before its CONNACK waits, up to a bound.
                if connection.unhandled() > super::settings::CONNECT_MAX && connection.state != State::Ended {
                    let what = "too many bytes before CONNACK".to_owned();
                    self.end(moment, number, Ended::Protocol(what), pipeline);
                }
                break;
            }
            if is_busy(connection, &self.sessions) {
                break;
            }
            let Some(connection) = self.connections.get_mut(&number) else { return };
            match connection.next(moment.now) {
                Ok(Some(packet)) => self.handle_packet(moment, number, packet, pipeline),
                Ok(None) => break,
                Err(what) => {
                    self.end(moment, number, Ended::Protocol(what), pipeline);
                    break;
                }
            }
        }
        self.announce(number);
    }

    fn handle_packet<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        number: ConnectionNumber,
        packet: Inbound,
        pipeline: &mut Pipeline<S>,
    ) {
        let session = self.connections.get(&number).and_then(|connection| connection.session);
        if let Some(session) = session.and_then(|session| self.sessions.get(&session)) {
            pipeline.gate.seen(moment.now, session.device);
        }
        match packet {
            Inbound::Connect(hello) => self.handle_connect(moment, number, hello, pipeline),
            Inbound::Publish(message) => self.handle_publish(moment, number, &message, pipeline),
            Inbound::Pubrel(id) => {
                let session = session.and_then(|session| self.sessions.get_mut(&session));
                let known = session.is_some_and(|session| session.release(id));
                self.send(number, |version| packet::pubcomp(version, id, known));
            }
            Inbound::Puback { id, code } => self.handle_puback(session, id, code),
            Inbound::Subscribe { identifier: true, .. } => {
                let code = DisconnectReasonCode::SubscriptionIdentifiersNotSupported;
                self.reject(
                    moment,
                    number,
                    code,
                    "a subscription identifier, which is not offered",
                    pipeline,
                );
            }
            Inbound::Subscribe { id, entries, .. } => {
                let codes = entries
                    .iter()
                    .map(|(filter, options)| self.subscribe(moment.now, session, filter, *options, pipeline))
                    .collect::<Vec<_>>();
                self.send(number, |version| {
                    packet::suback(version, id, codes.iter().map(|(code, _)| *code).collect())
                });
                for ((filter, options), (_, is_new)) in entries.iter().zip(&codes) {
                    self.send_retained(number, session, filter, options, *is_new);
                }
            }
            Inbound::Unsubscribe { id, filters } => {
                let at = session;
                let session = session.and_then(|session| self.sessions.get_mut(&session));
                let subscriptions = session.map(|session| &mut session.subscriptions);
                let codes = unsubscribe(subscriptions, &filters);
                if let Some(at) = at {
                    self.follow_bus(at);
                }
                self.send(number, |version| packet::unsuback(version, id, codes));
            }
            Inbound::Ping => {}
            Inbound::Disconnect { with_will, session_expiry } => {
                if let Some(session) = session.and_then(|session| self.sessions.get_mut(&session)) {
                    if !with_will {
                        session.will = None;
                    }
                    if let Some(expiry) = session_expiry {
                        if session.expiry.is_zero() && !expiry.is_zero() {
                            let what = "a session expiry after none (MQTT 5.0 §3.14.2.2.2)";
                            let code = DisconnectReasonCode::ProtocolError;
                            return self.reject(moment, number, code, what, pipeline);
                        }
                        session.expiry = expiry.min(SESSION_EXPIRY_MAX);
                    }
                }
                self.end(moment, number, Ended::ByClient, pipeline);
            }
            Inbound::Unexpected => {
                let code = DisconnectReasonCode::ProtocolError;
                self.reject(moment, number, code, "a packet that a server does not take", pipeline);
            }
        }
    }

    /// A client that goes on like this is disconnected.
    fn reject<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        number: ConnectionNumber,
        code: DisconnectReasonCode,
        what: &str,
        pipeline: &mut Pipeline<S>,
    ) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.disconnect(code, None);
        }
        self.end(moment, number, Ended::Protocol(what.to_owned()), pipeline);
    }

    fn handle_connect<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        number: ConnectionNumber,
        hello: Box<Hello>,
        pipeline: &mut Pipeline<S>,
    ) {
        use ConnectReasonCode as Code;
        let now = moment.now;
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.version = Some(hello.version);
        connection.wants_reasons = hello.wants_reasons;
        let username = hello.username.clone();
        let username = username.as_deref();
        if hello.has_method {
            let reason = "an authentication method, which is not offered";
            return self.refuse(now, number, Code::BadAuthenticationMethod, username, reason, pipeline);
        }
        let is_nameless_session =
            hello.client_id.is_empty() && !hello.clean && hello.version == Version::V3_1_1;
        if hello.client_id.len() > CLIENT_ID_MAX || is_nameless_session {
            let reason = "client id too long, or empty for a session that is kept";
            return self.refuse(now, number, Code::ClientIdentifierNotValid, username, reason, pipeline);
        }
        if hello.will.as_ref().is_some_and(|will| Path::parse(&will.topic).is_err()) {
            let reason = "the topic of its will is not a path";
            return self.refuse(now, number, Code::TopicNameInvalid, username, reason, pipeline);
        }
        // A certificate identifies by itself; one that is of no device leaves the password.
        if let Some(identity) = &connection.source.identity
            && let Ok(device) = pipeline.gate.identify(now, identity)
        {
            return self.accept(moment, number, device, &hello, pipeline);
        }
        let (Some(name), Some(password)) = (username, &hello.password) else {
            let reason = "neither a password nor a certificate of a device";
            return self.refuse(now, number, Code::NotAuthorized, username, reason, pipeline);
        };
        let Some((device, hash)) = pipeline.gate.login(name) else {
            let reason = "no device has this user name";
            return self.refuse(now, number, Code::BadUserNameOrPassword, username, reason, pipeline);
        };
        if !hash.is_costly() {
            return match hash.verify(password) {
                true => self.accept(moment, number, device, &hello, pipeline),
                false => {
                    let code = Code::BadUserNameOrPassword;
                    self.refuse(now, number, code, username, "wrong password", pipeline);
                }
            };
        }
        let (hash, password) = (hash.clone(), password.clone());
        let verification = Verification { connection: number, device, hash, password };
        match self.verifications.request(now, connection.source.address, verification) {
            Requested::Right => self.accept(moment, number, device, &hello, pipeline),
            Requested::Waits => {
                connection.hello = Some(hello);
                connection.state = State::Verifying;
            }
            Requested::Full => {
                let reason = "too many passwords wait to be verified";
                self.refuse(now, number, Code::ServerBusy, username, reason, pipeline);
            }
            Requested::Paused => {
                let reason = "too many wrong passwords from this address";
                self.refuse(now, number, Code::ConnectionRateExceeded, username, reason, pipeline);
            }
        }
    }

    /// Refuses a connect, after [`REFUSE_AFTER`].
    fn refuse<S: ReadingStore>(
        &mut self,
        now: Instant,
        number: ConnectionNumber,
        code: ConnectReasonCode,
        username: Option<&str>,
        reason: &'static str,
        pipeline: &mut Pipeline<S>,
    ) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.state = State::Refusing { at: connection.last_received.max(now) + REFUSE_AFTER, code };
        pipeline.counters.count(Counter::MqttConnectsRefused);
        let username = username.map(|name| name.chars().take(128).collect());
        self.events.push_back(Event::Refused { address: connection.source.address, username, reason });
        self.arm_connection(number);
    }

    /// The client is this device.
    fn accept<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        number: ConnectionNumber,
        device: DeviceIndex,
        hello: &Hello,
        pipeline: &mut Pipeline<S>,
    ) {
        use ConnectReasonCode as Code;
        let now = moment.now;
        let username = hello.username.as_deref();
        // It may have been removed while its password was verified.
        let Some(id) = pipeline.gate.id(device).cloned() else {
            return self.refuse(now, number, Code::NotAuthorized, username, "device removed", pipeline);
        };
        let connects = self.connects.entry(device).or_insert(Connects { since: now, count: 0 });
        if now.saturating_duration_since(connects.since) >= CONNECTS_PER {
            *connects = Connects { since: now, count: 0 };
        }
        connects.count += 1;
        if connects.count > CONNECTS_MAX {
            let reason = "its device connects more than 120 times a minute";
            return self.refuse(now, number, Code::ConnectionRateExceeded, username, reason, pipeline);
        }
        let (client_id, assigned) = match hello.client_id.as_str() {
            "" => (format!("auto-{number}"), true),
            given => (given.to_owned(), false),
        };
        let sessions = self.by_device.get(&device).into_iter().flatten().copied();
        let before =
            sessions.into_iter().find(|at| self.sessions.get(at).is_some_and(|s| *s.client_id == *client_id));
        if let Some(other) = before.and_then(|at| self.sessions.get(&at)?.connection) {
            if let Some(connection) = self.connections.get_mut(&other) {
                connection.disconnect(DisconnectReasonCode::SessionTakenOver, None);
            }
            self.end(moment, other, Ended::TakenOver, pipeline);
        }
        // A session that does not outlive its connection is gone by now.
        let mut before = before.filter(|at| self.sessions.contains_key(at));
        if let Some(at) = before.filter(|_| hello.clean) {
            // Its will is due when it ends (MQTT 5.0 §3.1.3.2.2).
            self.publish_will(moment, at, pipeline);
            self.remove_session(at);
            before = None;
        }
        if before.is_none() && !self.make_room(moment, device, pipeline) {
            let reason = "as many clients as max-clients are connected";
            return self.refuse(now, number, Code::QuotaExceeded, username, reason, pipeline);
        }
        let at = before.unwrap_or_else(|| {
            self.next_session += 1;
            self.sessions.insert(self.next_session, Session::new(device, &client_id));
            self.next_session
        });
        let of_device = self.by_device.entry(device).or_default();
        of_device.retain(|other| *other != at);
        of_device.push(at);
        let expiry = hello.session_expiry.min(SESSION_EXPIRY_MAX);
        let rules = pipeline.gate.device(now, device).and_then(|view| self.local.get(view.role));
        if let Some(session) = self.sessions.get_mut(&at) {
            (session.publishes, session.receives) = allowed(rules, id.as_str());
            session.connection = Some(number);
            (session.expiry, session.expires_at) = (expiry, None);
            (session.will, session.will_at) = (hello.will.clone(), None);
        }
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.session = Some(at);
        connection.keep_alive = hello.keep_alive;
        connection.last_received = now;
        let welcome = Welcome {
            session_present: before.is_some(),
            assigned: assigned.then_some(client_id.as_str()),
            session_expiry: (expiry != hello.session_expiry).then_some(expiry),
        };
        connection.welcome(hello.version, &welcome);
        connection.state = State::Open;
        self.clients += 1;
        let (address, version) = (connection.source.address, hello.version);
        pipeline.gate.seen(now, device);
        pipeline.counters.count(Counter::MqttConnectsAccepted);
        self.events.push_back(Event::Connected { device: id, client_id, address, version });
        self.arm_connection(number);
        self.announce(number);
        self.follow_bus(at);
    }

    /// Makes room for one more session of a device: its own oldest goes if it has as many as it may
    /// have, one without a connection first. Returns whether there is room.
    fn make_room<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        device: DeviceIndex,
        pipeline: &mut Pipeline<S>,
    ) -> bool {
        let holder = pipeline.gate.holder(device);
        let max = holder.map_or(Holder::SESSIONS, |holder| holder.max_sessions).max(1) as usize;
        while let Some(own) = self.by_device.get(&device).filter(|own| own.len() >= max) {
            let absent = |at: &&u64| self.sessions.get(at).is_none_or(|s| s.connection.is_none());
            let Some(oldest) = own.iter().find(absent).or(own.first()).copied() else { break };
            if let Some(other) = self.sessions.get(&oldest).and_then(|session| session.connection) {
                if let Some(connection) = self.connections.get_mut(&other) {
                    connection.disconnect(DisconnectReasonCode::QuotaExceeded, None);
                }
                self.end(moment, other, Ended::Replaced, pipeline);
            }
            self.publish_will(moment, oldest, pipeline);
            self.remove_session(oldest);
        }
        if self.clients >= self.max_clients {
            return false;
        }
        // Sessions without a connection are as many as clients may be; the next to expire goes.
        if self.sessions.len() - self.clients >= self.max_clients {
            let absent = self.sessions.iter().filter(|(_, session)| session.connection.is_none());
            if let Some(at) = absent.min_by_key(|(_, session)| session.expires_at).map(|(at, _)| *at) {
                self.publish_will(moment, at, pipeline);
                self.remove_session(at);
            }
        }
        true
    }

    fn handle_publish<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        number: ConnectionNumber,
        message: &Message,
        pipeline: &mut Pipeline<S>,
    ) {
        pipeline.counters.count(Counter::MqttPublishes);
        let Some(at) = self.connections.get(&number).and_then(|connection| connection.session) else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&at) else { return };
        let exactly_once = message.qos == Qos::ExactlyOnce;
        let is_answered = message.qos != Qos::AtMostOnce;
        if exactly_once && session.is_repeated(message.id) {
            return self.acknowledge(moment, number, pipeline);
        }
        if exactly_once && session.received_count() >= RECEIVED_MAX {
            let code = DisconnectReasonCode::ReceiveMaximumExceeded;
            let what = "too many publishes of QoS 2 without PUBREL";
            return self.reject(moment, number, code, what, pipeline);
        }
        let count = session.next_count();
        let ticket = MqttTicket { session: at, count };
        let device = session.device;
        let (topic, payload) = (message.topic.as_str(), message.payload.as_slice());
        let content_format = message.content_format;
        // An uplink rule, else a local-publish rule.
        let is_reading = Path::parse(topic).is_ok_and(|path| pipeline.gate.has_rule(device, path));
        let is_local = !is_reading && is_topic(topic) && session.publishes.topic(topic);
        let outcome = if is_local {
            let admitted = pipeline.handle_local(moment.now, device, topic, payload.len());
            let outcome = admitted.map_err(answer::refused);
            if outcome.is_ok() {
                let retain = message.retain;
                let message = BusMessage { topic, payload, content_format, retain, sender: at };
                self.publish_locally(&message);
            }
            Some(outcome)
        } else {
            offer(moment, device, ticket, topic, payload, message.retain, content_format, pipeline)
        };
        let Some(session) = self.sessions.get_mut(&at) else { return };
        if outcome == Some(Err(UNKNOWN)) {
            let code = DisconnectReasonCode::NotAuthorized;
            return self.reject(moment, number, code, "its device is not known any more", pipeline);
        }
        if is_answered {
            session.note_publish(count, message.id, exactly_once, outcome);
            self.acknowledge(moment, number, pipeline);
        }
    }

    /// Sends the acknowledgements whose turn it is.
    fn acknowledge<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        number: ConnectionNumber,
        pipeline: &mut Pipeline<S>,
    ) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let Some(version) = connection.version else { return };
        let session = connection.session.and_then(|session| self.sessions.get_mut(&session));
        let Some(session) = session else { return };
        let mut denied = None;
        while let Some(Acknowledgement { id, exactly_once, outcome }) = session.poll_acknowledgement() {
            let (code, reason) = match outcome {
                Ok(()) => (PubackReasonCode::Success, None),
                Err(denial) if version == Version::V3_1_1 => {
                    if denial.is_temporary || self.deny_on_311 == DenyOn311::Close {
                        denied = Some(denial.reason);
                        break;
                    }
                    (PubackReasonCode::Success, None)
                }
                Err(denial) => (denial.code, Some(denial.reason).filter(|_| connection.wants_reasons)),
            };
            connection.send(packet::acknowledgement(version, id, exactly_once, code, reason));
        }
        match denied {
            Some(reason) => self.end(moment, number, Ended::Denied(reason), pipeline),
            None => self.announce(number),
        }
    }

    /// Judges one entry of a SUBSCRIBE: the paths of the device's own downlink, and what a
    /// local-subscribe rule lets it receive. Returns whether the subscription is a new one, too.
    fn subscribe<S: ReadingStore>(
        &mut self,
        now: Instant,
        session: Option<u64>,
        filter: &str,
        options: Options,
        pipeline: &mut Pipeline<S>,
    ) -> (SubackReasonCode, bool) {
        let filter = match Filter::parse(filter) {
            Ok(filter) => filter,
            Err(FilterError::Shared) => return (SubackReasonCode::SharedSubscriptionsNotSupported, false),
            Err(FilterError::Invalid) => return (SubackReasonCode::TopicFilterInvalid, false),
        };
        let Some((at, session)) = session.and_then(|at| Some((at, self.sessions.get_mut(&at)?))) else {
            return (SubackReasonCode::UnspecifiedError, false);
        };
        let role = pipeline.gate.device(now, session.device).map(|view| view.role.clone());
        let rules = role.and_then(|role| self.downlink.get(&role));
        let is_downlink =
            rules.is_some_and(|rules| rules.iter().any(|(deny, paths)| !deny && paths.overlaps(&filter)));
        let is_local = session.receives.filter(&filter);
        if !is_downlink && !is_local {
            pipeline.counters.count(Counter::MqttSubscriptionsRefused);
            return (SubackReasonCode::NotAuthorized, false);
        }
        let before = session.subscriptions.len();
        session.subscriptions.retain(|known| known.filter != filter);
        let is_new = session.subscriptions.len() == before;
        if session.subscriptions.len() >= SUBSCRIPTIONS_MAX {
            pipeline.counters.count(Counter::MqttSubscriptionsRefused);
            return (SubackReasonCode::QuotaExceeded, false);
        }
        // Copies of local messages are QoS 0.
        let qos = match (is_downlink, options.qos) {
            (false, _) => Qos::AtMostOnce,
            // Messages of the broker are published with QoS 1 at most.
            (true, Qos::ExactlyOnce) => Qos::AtLeastOnce,
            (true, qos) => qos,
        };
        session.subscriptions.push(Subscription { filter, is_local, is_downlink, options });
        self.follow_bus(at);
        let code = match qos {
            Qos::AtMostOnce => SubackReasonCode::GrantedQos0,
            Qos::AtLeastOnce => SubackReasonCode::GrantedQos1,
            Qos::ExactlyOnce => SubackReasonCode::GrantedQos2,
        };
        (code, is_new)
    }

    /// Sends the retained messages that a subscription is to begin with (MQTT 5.0 §3.3.1.3).
    fn send_retained(
        &mut self,
        number: ConnectionNumber,
        session: Option<u64>,
        filter: &str,
        options: &Options,
        is_new: bool,
    ) {
        let is_wanted = match options.retain_handling {
            RetainHandling::SendRetained => true,
            RetainHandling::SendRetainedIfNotExists => is_new,
            RetainHandling::DoNotSendRetained => false,
        };
        let session = session.and_then(|session| self.sessions.get(&session));
        let (Some(session), Some(connection)) = (session, self.connections.get_mut(&number)) else { return };
        let wanted = session.subscriptions.iter().find(|known| known.filter.as_str() == filter);
        let (Some(subscription), Some(version)) = (wanted.filter(|known| known.is_local), connection.version)
        else {
            return;
        };
        if is_wanted {
            for message in self.retained.matching(&subscription.filter) {
                if connection.output().len() < RETAINED_UNSENT_MAX && session.receives.topic(message.topic) {
                    connection.send(packet::publish(version, &message, true));
                }
            }
        }
        self.announce(number);
    }

    /// Joins the bus for a session, or leaves it.
    fn follow_bus(&mut self, at: u64) {
        let Some(session) = self.sessions.get_mut(&at) else { return };
        let wants = session.wants_bus();
        if wants != session.is_on_bus {
            session.is_on_bus = wants;
            self.on_bus = if wants { self.on_bus + 1 } else { self.on_bus - 1 };
            self.bus.push_back(if wants { BusRequest::Join(at) } else { BusRequest::Leave(at) });
        }
    }

    /// Publishes a message to local clients.
    fn publish_locally(&mut self, message: &BusMessage<'_>) {
        if message.retain && !self.retained.put(message) {
            self.retained_dropped += 1;
        }
        if self.on_bus > 0 {
            self.bus.push_back(BusRequest::Publish(message.encode()));
        }
    }

    /// A reading of any transport was accepted: copies it to local clients, if `mirror` is set.
    pub fn handle_accepted(&mut self, reading: &Accepted<'_>) {
        let Some(template) = &self.mirror else { return };
        let topic = mirrored(template, reading.device, reading.path);
        if is_topic(&topic) {
            let Accepted { payload, content_format, retain, .. } = *reading;
            let message = BusMessage { topic: &topic, payload, content_format, retain, sender: 0 };
            self.publish_locally(&message);
        }
    }

    /// The bus has a message for a session.
    pub fn handle_bus(&mut self, at: u64, bytes: &[u8], counters: &mut Counters) {
        let Some(message) = BusMessage::decode(bytes) else { return };
        let Some(session) = self.sessions.get(&at).filter(|session| session.is_on_bus) else { return };
        let Some(number) = session.connection else { return };
        let mut wanted = None;
        for subscription in session.subscriptions.iter().filter(|known| known.is_local) {
            let is_own = message.sender == at && subscription.options.no_local;
            if !is_own && subscription.filter.matches(message.topic) {
                wanted = Some(wanted.unwrap_or(false) || subscription.options.retain_as_published);
            }
        }
        let Some(keeps_retain) = wanted.filter(|_| session.receives.topic(message.topic)) else { return };
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let Some(version) = connection.version else { return };
        if connection.output().len() >= UNSENT_MAX {
            return counters.count(Counter::MqttLocalDropped);
        }
        connection.send(packet::publish(version, &message, keeps_retain && message.retain));
        counters.count(Counter::MqttLocalDelivered);
        self.announce(number);
    }

    /// Retained messages that were not kept for want of room, since this was asked last.
    pub fn take_retained_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.retained_dropped)
    }

    /// Whether accepted readings are to be handed to [`Intake::handle_accepted`].
    pub fn mirrors(&self) -> bool {
        self.mirror.is_some()
    }

    /// What is to be done on the bus next.
    pub fn poll_bus(&mut self) -> Option<BusRequest> {
        self.bus.pop_front()
    }

    /// A connection is over; what is still to be sent on it is sent.
    fn end<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        number: ConnectionNumber,
        reason: Ended,
        pipeline: &mut Pipeline<S>,
    ) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if connection.state == State::Ended {
            return;
        }
        connection.end();
        let session = connection.session.take();
        self.verifications.forget(number);
        self.announce(number);
        let Some(at) = session else {
            if !matches!(reason, Ended::Refused(_) | Ended::Lost) {
                pipeline.counters.count(Counter::MqttConnectsRefused);
            }
            return;
        };
        self.clients -= 1;
        let Some(session) = self.sessions.get_mut(&at) else { return };
        let gone = std::mem::take(&mut session.deliveries);
        self.delivered.extend(gone.into_values().map(|number| (number, Delivered::Gone)));
        session.disconnected();
        let now = moment.now;
        session.expires_at = Some(now + session.expiry);
        session.will_at = session.will.as_ref().map(|will| now + will.delay.min(session.expiry));
        let device = pipeline.gate.id(session.device).cloned();
        let client_id = session.client_id.to_string();
        self.events.push_back(Event::Disconnected { device, client_id, reason });
        self.follow_bus(at);
        self.session_due(moment, at, pipeline);
    }

    /// Publishes the will and ends the session, each if it is its time.
    fn session_due<S: ReadingStore>(&mut self, moment: &Moment, at: u64, pipeline: &mut Pipeline<S>) {
        let Some(session) = self.sessions.get(&at).filter(|session| session.connection.is_none()) else {
            return;
        };
        let now = moment.now;
        let is_over = session.expires_at.is_none_or(|end| end <= now);
        if session.will_at.is_some_and(|will| will <= now) || is_over {
            self.publish_will(moment, at, pipeline);
        }
        if is_over {
            self.remove_session(at);
        } else if let Some(next) = self.sessions.get(&at).and_then(Session::deadline) {
            self.arm(next, Due::Session(at));
        }
    }

    /// Publishes the will of a session without a connection, if it has one.
    fn publish_will<S: ReadingStore>(&mut self, moment: &Moment, at: u64, pipeline: &mut Pipeline<S>) {
        let Some(session) = self.sessions.get_mut(&at).filter(|session| session.connection.is_none()) else {
            return;
        };
        session.will_at = None;
        let Some(Will { topic, payload, retain, content_format, .. }) = session.will.take() else { return };
        let ticket = MqttTicket { session: at, count: session.next_count() };
        // Nobody waits for its outcome: a refusal is counted and logged as every other.
        let _ = offer(moment, session.device, ticket, &topic, &payload, retain, content_format, pipeline);
    }

    fn remove_session(&mut self, at: u64) {
        let Some(session) = self.sessions.remove(&at) else { return };
        if session.is_on_bus {
            self.on_bus -= 1;
            self.bus.push_back(BusRequest::Leave(at));
        }
        if let Some(own) = self.by_device.get_mut(&session.device) {
            own.retain(|other| *other != at);
            if own.is_empty() {
                self.by_device.remove(&session.device);
            }
        }
    }

    fn send(
        &mut self,
        number: ConnectionNumber,
        make: impl FnOnce(Version) -> Option<mqtt_protocol_core::mqtt::packet::GenericPacket<u16>>,
    ) {
        if let Some(connection) = self.connections.get_mut(&number)
            && let Some(version) = connection.version
        {
            connection.send(make(version));
            self.announce(number);
        }
    }

    /// Tells the shell that a connection has something to send, or is over.
    fn announce(&mut self, number: ConnectionNumber) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let has_news = !connection.output().is_empty() || connection.state == State::Ended;
        if has_news && !connection.is_announced {
            connection.is_announced = true;
            self.ready.push_back(number);
        }
    }

    fn arm_connection(&mut self, number: ConnectionNumber) {
        if let Some(at) = self.connections.get(&number).and_then(Connection::deadline) {
            self.arm(at, Due::Connection(number));
        }
    }

    /// Entries of what is gone stay until they are due, unless there are too many of them.
    fn arm(&mut self, at: Instant, due: Due) {
        self.due.push(Reverse((at, due)));
        if self.due.len() > 8 * (self.connections.len() + self.sessions.len()) + 1_024 {
            let connections = self.connections.iter();
            let connections = connections.filter_map(|(n, c)| Some((c.deadline()?, Due::Connection(*n))));
            let absent = self.sessions.iter().filter(|(_, session)| session.connection.is_none());
            let sessions = absent.filter_map(|(n, s)| Some((s.deadline()?, Due::Session(*n))));
            self.due = connections.chain(sessions).map(Reverse).collect();
        }
    }
}

/// Whether a client has as many publishes on their way as it may: what else it sends waits.
fn is_busy(connection: &Connection, sessions: &HashMap<u64, Session>) -> bool {
    let session = connection.session.and_then(|session| sessions.get(&session));
    session.is_some_and(|session| session.unanswered_count() >= usize::from(RECEIVE_MAXIMUM))
}

/// The outcome of a publish whose device is not known any more.
const UNKNOWN: Denial =
    Denial { code: PubackReasonCode::NotAuthorized, reason: "not known", is_temporary: false };

/// Offers a publish to the pipeline as a reading of its device. `None`: it is on its way to disk.
#[allow(clippy::too_many_arguments)]
fn offer<S: ReadingStore>(
    moment: &Moment,
    device: DeviceIndex,
    ticket: MqttTicket,
    topic: &str,
    payload: &[u8],
    retain: bool,
    content_format: Option<ContentFormat>,
    pipeline: &mut Pipeline<S>,
) -> Option<Result<(), Denial>> {
    // An empty retained message deletes the retained one (MQTT 5.0 §3.3.1.3).
    let method = if retain && payload.is_empty() { Method::Delete } else { Method::Post };
    let path = match Path::parse(topic) {
        Ok(path) => path,
        Err(error) => {
            let malformed = Malformed::Path(error);
            let shown: String = topic.chars().take(256).collect();
            let refusal =
                pipeline.handle_malformed(moment.now, device, method, &shown, payload.len(), malformed);
            return Some(Err(answer::refused(refusal)));
        }
    };
    let stamp = moment.stamp();
    // The larger default limit of payloads: there is no datagram that it would have to fit into.
    let received = Received { path, query: None, method, payload, content_format, blockwise: true, stamp };
    match pipeline.handle_reading(moment.now, device, Ticket::Mqtt(ticket), received) {
        Disposition::Journaled => None,
        Disposition::Passed => Some(Ok(())),
        Disposition::Refused(Refusal::UnknownDevice) => Some(Err(UNKNOWN)),
        Disposition::Refused(refusal) => Some(Err(answer::refused(refusal))),
        Disposition::Unstored(refused) => Some(Err(answer::unstored(refused))),
    }
}

/// What a device of a role with these rules may publish and receive.
fn allowed(rules: Option<&LocalRules>, device: &str) -> (Allowed, Allowed) {
    rules.map_or_else(Default::default, |rules| {
        (Allowed::new(&rules.publish, device), Allowed::new(&rules.subscribe, device))
    })
}

fn unsubscribe(subscriptions: Option<&mut Vec<Subscription>>, filters: &[String]) -> Vec<UnsubackReasonCode> {
    let mut nothing = Vec::new();
    let subscriptions = subscriptions.unwrap_or(&mut nothing);
    let mut one = |filter: &String| {
        let before = subscriptions.len();
        subscriptions.retain(|known| known.filter.as_str() != filter);
        match subscriptions.len() < before {
            true => UnsubackReasonCode::Success,
            false => UnsubackReasonCode::NoSubscriptionExisted,
        }
    };
    filters.iter().map(&mut one).collect()
}
