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
//! `max-sessions` sessions (a new one replaces its own oldest), `max-handshakes` connects a minute.
//! One that waits for its password to be verified: [`VERIFY_WITHIN`].
//! Refused publishes of a device: [`RATE`](super::refusal_rate::RATE) a second, beyond which its
//! connection is not read from.
//! Of a session: [`RECEIVE_MAXIMUM`] publishes on their way, [`SUBSCRIPTIONS_MAX`] subscriptions.
//! In all: `max-clients` connections, and as many sessions without one.

mod delivery;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use mqtt_protocol_core::mqtt::packet::{Qos, RetainHandling};
use mqtt_protocol_core::mqtt::result_code::{
    ConnectReasonCode, DisconnectReasonCode, PubackReasonCode, SubackReasonCode, UnsubackReasonCode,
};
use rustls_pki_types::CertificateDer;

pub use self::delivery::{Delivered, NotDelivered};
use super::answer::{self, Denial};
use super::bus::{BusMessage, BusRequest, Options, Retained, Subscription, is_topic, mirrored};
use super::connection::{Connection, Ended, ProofEnd, Source, State};
use super::credential::Credential;
use super::denied_again::DeniedAgain;
use super::filter::{Filter, FilterError};
use super::local_rights::{Allowed, LocalRights, Reception};
use super::packet::{self, Hello, Inbound, Message, Version, Welcome, Will};
use super::refusal_rate::RefusalRate;
use super::refused_connects::{RefusedConnect, RefusedConnects};
use super::refused_filters::{RefusedFilter, RefusedFilters};
use super::session::{Acknowledgement, Session};
use super::settings::{
    CLIENT_ID_MAX, CONNECTS_PER, DenyOn311, RECEIVE_MAXIMUM, RECEIVED_MAX, SESSION_EXPIRY_MAX,
    SUBSCRIPTIONS_MAX, Settings, VERIFY_WITHIN,
};
use super::signature_rate::SignatureRate;
use super::verification::{Requested, Verification, Verifications, Verified};
use crate::clock::{Moment, UnixTime};
use crate::gate::settings::Role;
use crate::gate::stage::{DeviceIndex, Malformed, Received, Refusal};
use crate::gate::{DeviceView, LocalSize};
use crate::message::{ContentFormat, Method, Name, Path};
use crate::number_map::NumberMap;
use crate::pipeline::{Disposition, Pipeline, ReadingStore};
use crate::proto::Holder;
use crate::proto::address::{MqttTicket, Ticket};
use crate::proto::dtls::server::Clock;
use crate::telemetry::counters::{Counter, Counters};

mod connect;
mod local;

use local::{allowed, unsubscribe};

/// Most new keys whose first use is told.
const NEW_KEYS_MAX: usize = 1_000;
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
    Refused(RefusedConnect),
    /// A filter of a subscription was refused; of several in one SUBSCRIBE the last.
    FilterRefused {
        /// Its device.
        device: Name,
        /// Its client id.
        client_id: String,
        /// The filter, at most 128 characters of it.
        filter: String,
    },
    /// A token was signed with a key that is new since a reload, the first one.
    NewKeyUsed {
        /// Its device.
        device: Name,
        /// The hash of the key.
        key: [u8; 32],
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
    /// A session without a connection ended before its time.
    SessionEnded {
        /// Its device; `None` if the device is not known any more.
        device: Option<Name>,
        /// Its client id.
        client_id: String,
        /// Messages that waited for it, which are dropped.
        queued: usize,
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
    local: HashMap<Name, LocalRights>,
    mirror: Option<String>,
    jwt_audience: Option<String>,
    max_queued: usize,
    /// Sessions with a subscription whose messages are queued.
    queueing: BTreeSet<u64>,
    /// Bytes of all queues.
    queued_bytes: usize,
    queued_dropped: u64,
    local_filtered: u64,
    local_expired: u64,
    /// When the clock of the bus began, by which messages expire.
    bus_began: Option<Instant>,
    /// By which tokens are judged.
    token_clock: Clock,
    /// Connections whose proof expires, by its kind and the time.
    proofs_end: BTreeSet<(ProofEnd, ConnectionNumber)>,
    retained: Retained,
    bus: VecDeque<BusRequest>,
    /// Sessions that are on the bus.
    on_bus: usize,
    retained_dropped: u64,
    /// Each apart: a map that grows has room for twice as many, and moves them all.
    connections: NumberMap<ConnectionNumber, Box<Connection>>,
    sessions: NumberMap<u64, Box<Session>>,
    /// The sessions of each device, the one that connected last at the end.
    by_device: NumberMap<DeviceIndex, Vec<u64>>,
    connects: NumberMap<DeviceIndex, Connects>,
    /// Of the devices of which publishes were refused.
    refusals: NumberMap<DeviceIndex, RefusalRate>,
    refused_connects: RefusedConnects,
    denied_again: DeniedAgain,
    refused_filters: RefusedFilters,
    verifications: Verifications,
    /// How many clients were refused because too many passwords waited, and when the last one.
    busy: (u64, Option<Instant>),
    /// The same because as many as `max-clients` were connected.
    full: (u64, Option<Instant>),
    signature_rate: SignatureRate,
    /// Keys of tokens that were added by a reload and not used yet, by device id.
    new_keys: BTreeSet<(String, [u8; 32])>,
    /// Incremented when these change.
    new_keys_revision: u64,
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

/// What clients are refused for that others take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// Passwords that wait to be verified.
    pub verifying: usize,
    /// How many clients were refused because of these, and when the last one.
    pub busy: (u64, Option<Instant>),
    /// The same because as many as `max-clients` were connected.
    pub full: (u64, Option<Instant>),
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
            jwt_audience: None,
            max_queued: settings.max_queued,
            queueing: BTreeSet::new(),
            queued_bytes: 0,
            queued_dropped: 0,
            local_filtered: 0,
            local_expired: 0,
            bus_began: None,
            token_clock: Clock { time: UnixTime(0), trusted: false },
            proofs_end: BTreeSet::new(),
            retained: Retained::new(settings.retained_share),
            bus: VecDeque::new(),
            on_bus: 0,
            retained_dropped: 0,
            connections: NumberMap::default(),
            sessions: NumberMap::default(),
            by_device: NumberMap::default(),
            connects: NumberMap::default(),
            refusals: NumberMap::default(),
            refused_connects: RefusedConnects::default(),
            denied_again: DeniedAgain::default(),
            refused_filters: RefusedFilters::default(),
            verifications: Verifications::new(seed),
            busy: (0, None),
            full: (0, None),
            signature_rate: SignatureRate::new(seed),
            new_keys: BTreeSet::new(),
            new_keys_revision: 0,
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
        self.max_queued = settings.max_queued;
        self.retained.set_share(settings.retained_share);
        (self.mirror, self.jwt_audience) = (settings.mirror.clone(), settings.jwt_audience.clone());
        let rights = |(role, rules): &(Name, _)| (role.clone(), LocalRights::compile(rules));
        self.local = settings.local.iter().map(rights).collect();
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

    /// What clients are refused for that others take.
    pub fn pressure(&self) -> Pressure {
        let verifying = self.verifications.waiting_count();
        Pressure { verifying, busy: self.busy, full: self.full }
    }

    /// The connections of a device.
    pub fn clients_of(&self, device: DeviceIndex) -> usize {
        let sessions = self.by_device.get(&device).into_iter().flatten();
        sessions.filter(|number| self.sessions.get(number).is_some_and(|s| s.connection.is_some())).count()
    }

    /// The newest connect that was refused.
    pub fn last_refused_connect(&self) -> Option<&RefusedConnect> {
        self.refused_connects.last()
    }

    /// How many refused connects claimed to be a device, and the newest.
    pub fn refused_connects_of(&self, device: DeviceIndex) -> Option<(u64, &RefusedConnect)> {
        self.refused_connects.of(device)
    }

    /// How many filters of a device were refused, and the newest.
    pub fn refused_filters_of(&self, device: DeviceIndex) -> Option<(u64, &RefusedFilter)> {
        self.refused_filters.of(device)
    }

    /// Devices whose client of MQTT 3.1.1 comes back with a publish for which it is disconnected
    /// each time, and how often it was.
    pub fn denied_again(&self, now: Instant) -> impl Iterator<Item = (DeviceIndex, u32)> {
        self.denied_again.devices(now)
    }

    /// Publishes that are not acknowledged yet.
    pub fn pending_count(&self) -> usize {
        self.sessions.values().map(|session| session.unanswered_count()).sum()
    }

    /// A connection was accepted, its TLS handshake done.
    pub fn handle_opened(&mut self, now: Instant, source: Source) -> ConnectionNumber {
        let number = self.next_connection;
        self.next_connection += 1;
        self.connections.insert(number, Box::new(Connection::new(now, source)));
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

    /// The journal is done with a publish.
    pub fn handle_completion<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        ticket: MqttTicket,
        stored: bool,
        pipeline: &mut Pipeline<S>,
    ) {
        let Some(session) = self.sessions.get_mut(&ticket.session) else { return };
        let outcome = if stored { Ok(()) } else { Err(answer::NOT_STORED) };
        if session.complete(ticket.count, outcome)
            && let Some(number) = session.connection
        {
            self.acknowledge(moment, number, pipeline);
            // What waited for this answer.
            if self.connections.get(&number).is_some_and(|connection| connection.unhandled() > 0) {
                self.process(moment, number, pipeline);
            }
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
                    if connection.held_until.take_if(|until| *until <= now).is_some() {
                        connection.last_received = now;
                        self.arm_connection(number);
                        self.process(moment, number, pipeline);
                        self.wake(number);
                        continue;
                    }
                    connection.excuse_silence(now);
                    match (connection.deadline(), connection.state) {
                        (Some(at), _) if at > now => self.arm_connection(number),
                        (Some(_), State::Opening { .. }) => {
                            self.end(moment, number, Ended::NoConnect, pipeline);
                        }
                        (Some(_), State::Verifying { .. }) => {
                            let seconds = VERIFY_WITHIN.as_secs();
                            let reason =
                                format!("its password waited {seconds} s to be verified: too many others do");
                            self.refuse_unverified(now, number, reason, pipeline);
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

    /// The times by which certificates and tokens are judged: disconnects the clients whose
    /// certificate or token expired. To be called every few seconds.
    pub fn set_clock<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        certificates: Clock,
        tokens: Clock,
        pipeline: &mut Pipeline<S>,
    ) {
        self.token_clock = tokens;
        let ends = [ProofEnd::Certificate(certificates.time), ProofEnd::Token(tokens.time)];
        let from = [ProofEnd::Certificate(UnixTime(0)), ProofEnd::Token(UnixTime(0))];
        let expired = from.into_iter().zip(ends).flat_map(|(from, end)| {
            self.proofs_end.range((from, ConnectionNumber::MIN)..=(end, ConnectionNumber::MAX))
        });
        for proof in expired.copied().collect::<Vec<_>>() {
            let (_, number) = proof;
            self.proofs_end.remove(&proof);
            if let Some(connection) = self.connections.get_mut(&number) {
                connection.disconnect(DisconnectReasonCode::MaximumConnectTime, Some("credential expired"));
            }
            self.end(moment, number, Ended::Expired, pipeline);
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

    /// Whether a connection does not count as unidentified any more: its client is identified, or
    /// waits for its password to be verified, which has bounds of its own.
    pub fn has_place(&self, number: ConnectionNumber) -> bool {
        self.connections.get(&number).is_some_and(|connection| {
            connection.session.is_some() || matches!(connection.state, State::Verifying { .. })
        })
    }

    /// Appends what is to be sent on a connection to `out`, and says what is to be done then.
    pub fn take_output(&mut self, now: Instant, number: ConnectionNumber, out: &mut Vec<u8>) -> Next {
        let Some(connection) = self.connections.get_mut(&number) else { return Next::Close };
        let output = connection.output();
        if out.is_empty() {
            std::mem::swap(out, output);
        } else {
            out.append(output);
        }
        *connection.output() = Vec::new();
        let session = connection.session.and_then(|session| self.sessions.get(&session));
        if connection.state == State::Open && session.is_some_and(|session| session.queue.has_waiting()) {
            // There may have been no room for them.
            self.send_queued(now, number);
        }
        let Some(connection) = self.connections.get_mut(&number) else { return Next::Close };
        match connection.state {
            State::Ended => Next::Close,
            State::Open if connection.held_until.is_some() => Next::Wait,
            State::Open if is_busy(connection, &self.sessions) => Next::Wait,
            State::Opening { .. } | State::Open => Next::Read,
            State::Verifying { .. } | State::Refusing { .. } => Next::Wait,
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

    /// After a reload: cuts off the clients of devices that are gone, and those whose own
    /// credential is not their device's any more. Others of the device go on.
    pub fn review<S: ReadingStore>(&mut self, moment: &Moment, pipeline: &mut Pipeline<S>) {
        let gate = &pipeline.gate;
        let why_gone = |session: &Session| match gate.id(session.device) {
            None => Some(Ended::Removed),
            Some(_) if session.credential.is_of(session.device, gate) => None,
            Some(_) => Some(Ended::Withdrawn(session.credential.name())),
        };
        let gone = self.sessions.iter().filter_map(|(at, session)| Some((*at, why_gone(session)?)));
        for (number, why) in gone.collect::<Vec<_>>() {
            if let Some(session) = self.sessions.get_mut(&number) {
                // What may not publish any more leaves no will either.
                (session.will, session.will_at, session.expiry) = (None, None, Duration::ZERO);
                if let Some(connection) = session.connection {
                    if let Some(connection) = self.connections.get_mut(&connection) {
                        connection.disconnect(DisconnectReasonCode::NotAuthorized, None);
                    }
                    self.end(moment, connection, why, pipeline);
                } else {
                    self.note_ended(number, why, pipeline);
                }
            }
            self.remove_session(number);
        }
        let gate = &pipeline.gate;
        let mut rejudged = Vec::new();
        for (at, session) in &mut self.sessions {
            let Some(view) = gate.device(moment.now, session.device) else { continue };
            (session.publishes, session.receives) = allowed(self.local.get(view.role), &view);
            let receives = &session.receives;
            for subscription in &mut session.subscriptions {
                subscription.review(receives.filter(&subscription.filter), self.max_queued);
            }
            rejudged.push(*at);
        }
        rejudged.into_iter().for_each(|at| self.follow_bus(at));
        let gate = &pipeline.gate;
        for (number, connection) in &mut self.connections {
            let session = connection.session.and_then(|at| self.sessions.get(&at));
            let session = session.map(|session| &**session);
            let Some(Session { device, credential: Credential::Token(key), .. }) = session else { continue };
            let known = gate.jwt_keys_of(*device).iter().find(|known| known.hash() == *key);
            // The registry has the end of the key, sooner or later than before; a token is taken no
            // longer than it says itself.
            let end = known.zip(connection.token_ends).map(|(key, end)| ProofEnd::Token(key.cut(end)));
            if let (Some(end), Some(before)) = (end, connection.proof_ends)
                && end != before
            {
                self.proofs_end.remove(&(before, *number));
                self.proofs_end.insert((end, *number));
                connection.proof_ends = Some(end);
            }
        }
        let before = self.new_keys.len();
        self.new_keys.retain(|(id, key)| {
            gate.jwt_keys(id).is_some_and(|(_, keys)| keys.iter().any(|known| known.hash() == *key))
        });
        self.new_keys_revision += u64::from(self.new_keys.len() != before);
        self.verifications.review(|device| gate.id(device).is_some());
        self.signature_rate.review(|device| gate.id(device).is_some());
        self.connects.retain(|device, _| gate.id(*device).is_some());
        self.refusals.retain(|device, _| gate.id(*device).is_some());
        self.denied_again.forget();
    }

    /// The gateway stops: says goodbye to all clients. Their wills are published, also those that
    /// would wait: sessions are in memory, so all end now (MQTT 5.0 §3.1.3.2.2).
    pub fn leave<S: ReadingStore>(&mut self, moment: &Moment, pipeline: &mut Pipeline<S>) {
        let numbers: Vec<ConnectionNumber> = self.connections.keys().copied().collect();
        for number in numbers {
            if let Some(connection) = self.connections.get_mut(&number) {
                connection.disconnect(DisconnectReasonCode::ServerShuttingDown, None);
            }
            self.end(moment, number, Ended::Stopping, pipeline);
        }
        let waiting = self.sessions.iter().filter(|(_, session)| session.will.is_some());
        let mut waiting: Vec<u64> = waiting.map(|(at, _)| *at).collect();
        waiting.sort_unstable();
        waiting.into_iter().for_each(|at| self.publish_will(moment, at, pipeline));
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
                connection.leave_unread(moment.now);
                break;
            }
            if connection.held_until.is_some() {
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
        if packet.id() == Some(0) {
            let what = "a packet identifier of 0 (MQTT 5.0 §2.2.1)";
            return self.reject(moment, number, DisconnectReasonCode::ProtocolError, what, pipeline);
        }
        match packet {
            Inbound::Connect(hello) => self.handle_connect(moment, number, hello, pipeline),
            Inbound::Publish(message) => self.handle_publish(moment, number, &message, pipeline),
            Inbound::Repeated(id) => {
                let session = session.and_then(|session| self.sessions.get_mut(&session));
                if session.is_some_and(|session| session.is_repeated(id)) {
                    self.acknowledge(moment, number, pipeline);
                }
            }
            Inbound::Puback { id, code } => {
                self.handle_puback(moment.now, number, id, code, &mut pipeline.counters);
            }
            Inbound::Pubrec { id, code } => {
                self.handle_pubrec(moment.now, number, id, code, &mut pipeline.counters);
            }
            Inbound::Pubcomp(id) => self.handle_puback(moment.now, number, id, 0, &mut pipeline.counters),
            Inbound::Pubrel(id) => {
                let session = session.and_then(|session| self.sessions.get_mut(&session));
                let is_stored = session.is_some_and(|session| session.release(id));
                self.send(number, |version| packet::pubcomp(version, id, is_stored));
            }

            Inbound::Subscribe { id, entries } => {
                let codes = entries
                    .iter()
                    .map(|(filter, options)| self.subscribe(moment.now, session, filter, *options, pipeline))
                    .collect::<Vec<_>>();
                // A new subscription is bounded by their number.
                let idle = codes.iter().filter(|(_, is_new)| !is_new).count();
                self.note_idle(moment.now, number, idle, &mut pipeline.counters);
                let answered = entries.iter().zip(&codes);
                let refused = answered.filter(|(_, (code, _))| *code as u8 >= 0x80);
                let refused: Vec<&str> = refused.map(|((filter, _), _)| filter.as_str()).collect();
                self.note_refused_filters(moment.now, session, &refused, pipeline);
                self.send(number, |version| {
                    packet::suback(version, id, codes.iter().map(|(code, _)| *code).collect())
                });
                for ((filter, options), (_, is_new)) in entries.iter().zip(&codes) {
                    self.send_retained(moment.now, number, session, filter, (options, *is_new));
                }
            }
            Inbound::Unsubscribe { id, filters } => {
                let at = session;
                self.note_idle(moment.now, number, filters.len(), &mut pipeline.counters);
                let session = session.and_then(|session| self.sessions.get_mut(&session));
                let subscriptions = session.map(|session| &mut session.subscriptions);
                let codes = unsubscribe(subscriptions, &filters);
                if let Some(at) = at {
                    self.follow_bus(at);
                }
                self.send(number, |version| packet::unsuback(version, id, codes));
            }
            Inbound::Ping => self.note_idle(moment.now, number, 1, &mut pipeline.counters),
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
        let (count, device, sender) = (session.next_count(), session.device, session.publisher);
        let expires = message.expiry.map(|interval| self.expires_at(moment.now, interval));
        let published = BusMessage {
            topic: message.topic.as_str(),
            payload: message.payload.as_slice(),
            content_format: message.content_format,
            retain: message.retain,
            qos: message.qos as u8,
            sender,
            expires,
            properties: message.properties.as_slice(),
        };
        let outcome = self.take(moment, at, count, &published, pipeline);
        if let Some(Err(_)) = outcome {
            self.note_refused(moment.now, number, (device, 1), &mut pipeline.counters);
        }
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

    /// Takes what a session publishes, its will too: by an uplink rule, else by a local-publish
    /// rule. `None`: it is on its way to disk.
    fn take<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        at: u64,
        count: u64,
        message: &BusMessage<'_>,
        pipeline: &mut Pipeline<S>,
    ) -> Option<Result<(), Denial>> {
        let session = self.sessions.get(&at)?;
        let (device, topic) = (session.device, message.topic);
        let is_reading = Path::parse(topic).is_ok_and(|path| pipeline.gate.has_rule(device, path));
        let granted = if !is_reading && is_topic(topic) { session.publishes.granted(topic) } else { None };
        if granted.is_none()
            && !is_reading
            && let (Ok(_), Some(rule)) = (Path::parse(topic), session.publishes.denying(topic))
        {
            let rule = rule.clone();
            let refusal = pipeline.handle_denied(moment.now, device, topic, message.payload.len(), rule);
            return Some(Err(answer::refused(refusal)));
        }
        let Some(granted) = granted else {
            return offer(moment, device, MqttTicket { session: at, count }, message, pipeline);
        };
        let Some(id) = pipeline.gate.id(device).cloned() else { return Some(Err(UNKNOWN)) };
        let (retain, qos) = (message.retain && granted.retain, message.qos.min(granted.qos));
        let message = BusMessage { retain, qos, ..*message };
        let room = if retain { self.room(moment.now, id.as_str(), &message) } else { Ok(()) };
        let size = LocalSize { payload: message.payload.len(), properties: message.properties.len() };
        let admitted = pipeline.handle_local(moment.now, device, topic, size, room);
        let outcome = admitted.map_err(answer::refused);
        if outcome.is_ok() {
            self.publish_locally(moment.now, id.as_str(), &message);
        }
        Some(outcome)
    }

    /// A client asks for what costs it nothing: filters that it has or may not have, UNSUBSCRIBE,
    /// PINGREQ. They count as refusals do.
    fn note_idle(&mut self, now: Instant, number: ConnectionNumber, count: usize, counters: &mut Counters) {
        let session = self.connections.get(&number).and_then(|connection| connection.session);
        let device = session.and_then(|at| self.sessions.get(&at)).map(|session| session.device);
        if let Some(device) = device.filter(|_| count > 0) {
            self.note_refused(now, number, (device, count), counters);
        }
    }

    /// So many were refused: after too many of them nothing is read for a moment.
    fn note_refused(
        &mut self,
        now: Instant,
        number: ConnectionNumber,
        (device, count): (DeviceIndex, usize),
        counters: &mut Counters,
    ) {
        let rate = self.refusals.entry(device).or_insert_with(|| RefusalRate::new(now));
        let Some(until) = rate.note(now, count) else { return };
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.held_until = Some(until);
            counters.count(Counter::MqttClientsHeld);
            self.arm_connection(number);
        }
    }

    /// Tells that filters of a SUBSCRIBE were refused: the newest stands for all of them.
    fn note_refused_filters<S: ReadingStore>(
        &mut self,
        now: Instant,
        session: Option<u64>,
        refused: &[&str],
        pipeline: &Pipeline<S>,
    ) {
        let Some(newest) = refused.last() else { return };
        let Some(session) = session.and_then(|session| self.sessions.get(&session)) else { return };
        let Some(device) = pipeline.gate.id(session.device) else { return };
        let is_known = |device| pipeline.gate.id(device).is_some();
        let (count, most) = (refused.len() as u64, pipeline.gate.device_count());
        let last = self.refused_filters.note(now, session.device, (count, newest), most, is_known);
        self.events.push_back(Event::FilterRefused {
            device: device.clone(),
            client_id: session.client_id.to_string(),
            filter: last.filter,
        });
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
        let device = session.device;
        let mut denied = None;
        while let Some(Acknowledgement { id, exactly_once, outcome }) = session.poll_acknowledgement() {
            let (code, reason) = match outcome {
                Ok(()) => {
                    self.denied_again.passed(device, &session.client_id);
                    (PubackReasonCode::Success, None)
                }
                Err(denial) if version == Version::V3_1_1 => {
                    if denial.is_temporary || self.deny_on_311 == DenyOn311::Close {
                        denied = Some((denial, (session.client_id.clone(), id)));
                        break;
                    }
                    (PubackReasonCode::Success, None)
                }
                Err(denial) => (denial.code, Some(denial.reason).filter(|_| connection.wants_reasons)),
            };
            let with = |reason| packet::acknowledgement(version, id, exactly_once, code, reason);
            if !connection.send(with(reason)) && reason.is_some() {
                connection.send(with(None)); // the client takes none as large as that
            }
        }
        match denied {
            Some((denial, cause)) => {
                if !denial.is_temporary {
                    self.denied_again.note(moment.now, device, cause, pipeline.gate.device_count());
                }
                self.end(moment, number, Ended::Denied(denial.reason), pipeline);
            }
            None => {
                if !is_busy(connection, &self.sessions) {
                    connection.read_on(moment.now);
                }
                self.announce(number);
            }
        }
    }

    /// The certificate that a connection has shown is not trusted any more.
    pub fn handle_revoked<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        number: ConnectionNumber,
        reason: String,
        pipeline: &mut Pipeline<S>,
    ) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        pipeline.counters.count(Counter::MqttRevoked);
        if let Some(session) = connection.session.and_then(|session| self.sessions.get_mut(&session)) {
            // As for a device that was removed: it leaves no will, and nothing waits for it.
            (session.will, session.will_at, session.expiry) = (None, None, Duration::ZERO);
        }
        connection.disconnect(DisconnectReasonCode::NotAuthorized, None);
        self.end(moment, number, Ended::Revoked(reason), pipeline);
    }

    /// Certificates are judged by other CAs or lists: the sessions without a connection end whose
    /// last client was proven by one that is not trusted any more, which `withdrawn` says, and why.
    /// Their messages are dropped, and their wills are not published.
    pub fn end_withdrawn<S: ReadingStore>(
        &mut self,
        withdrawn: impl Fn(&[CertificateDer<'_>]) -> Option<String>,
        pipeline: &mut Pipeline<S>,
    ) {
        let absent = self.sessions.iter().filter(|(_, session)| session.connection.is_none());
        let judged = absent.filter_map(|(at, session)| Some((*at, withdrawn(session.chain.as_ref()?)?)));
        let mut gone: Vec<(u64, String)> = judged.collect();
        gone.sort_unstable();
        for (at, why) in gone {
            self.note_ended(at, Ended::Revoked(why), pipeline);
            self.remove_session(at);
        }
    }

    /// Tells that a session without a connection ends before its time.
    fn note_ended<S: ReadingStore>(&mut self, at: u64, reason: Ended, pipeline: &mut Pipeline<S>) {
        let Some(session) = self.sessions.get(&at) else { return };
        if let Ended::Revoked(_) | Ended::Withdrawn(_) = reason {
            pipeline.counters.count(Counter::MqttSessionsWithdrawn);
        }
        let device = pipeline.gate.id(session.device).cloned();
        let (client_id, queued) = (session.client_id.to_string(), session.queue.len());
        self.events.push_back(Event::SessionEnded { device, client_id, queued, reason });
    }

    /// A reload removed the address that a client came to.
    pub fn handle_unlistened<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        number: ConnectionNumber,
        pipeline: &mut Pipeline<S>,
    ) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.disconnect(DisconnectReasonCode::AdministrativeAction, None);
        self.end(moment, number, Ended::Unlistened, pipeline);
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
        if let Some(end) = connection.proof_ends.take() {
            self.proofs_end.remove(&(end, number));
        }
        self.verifications.forget(number);
        self.announce(number);
        let Some(at) = session else {
            if !matches!(reason, Ended::Refused(_) | Ended::Lost | Ended::Unlistened) {
                pipeline.counters.count(Counter::MqttConnectsRefused);
            }
            return;
        };
        self.clients -= 1;
        let Some(session) = self.sessions.get_mut(&at) else { return };
        let gone = std::mem::take(&mut session.deliveries);
        self.delivered.extend(gone.into_values().map(|number| (number, Delivered::Gone)));
        session.disconnected();
        session.chain = session.chain.take().filter(|_| !session.expiry.is_zero());
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
        } else if let Some(next) = self.sessions.get(&at).and_then(|session| session.deadline()) {
            self.arm(next, Due::Session(at));
        }
    }

    /// Publishes the will of a session without a connection, if it has one.
    fn publish_will<S: ReadingStore>(&mut self, moment: &Moment, at: u64, pipeline: &mut Pipeline<S>) {
        let Some(session) = self.sessions.get_mut(&at).filter(|session| session.connection.is_none()) else {
            return;
        };
        session.will_at = None;
        let Some(will) = session.will.take() else { return };
        let (count, sender) = (session.next_count(), session.publisher);
        let expires = will.expiry.map(|interval| self.expires_at(moment.now, interval));
        let Will { topic, payload, qos, retain, content_format, properties, .. } = &will;
        let message = BusMessage {
            topic,
            payload,
            content_format: *content_format,
            retain: *retain,
            qos: *qos,
            sender,
            expires,
            properties,
        };
        // Nobody waits for its outcome: a refusal is counted and logged as every other.
        let _ = self.take(moment, at, count, &message, pipeline);
    }

    fn remove_session(&mut self, at: u64) {
        let Some(session) = self.sessions.remove(&at) else { return };
        self.queueing.remove(&at);
        self.queued_bytes -= session.queue.bytes();
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
        if !connection.output().is_empty() || connection.state == State::Ended {
            self.wake(number);
        }
    }

    /// Has the shell look at a connection, though there is nothing to be sent.
    fn wake(&mut self, number: ConnectionNumber) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if !connection.is_announced {
            connection.is_announced = true;
            self.ready.push_back(number);
        }
    }

    fn arm_connection(&mut self, number: ConnectionNumber) {
        if let Some(at) = self.connections.get(&number).and_then(|connection| connection.deadline()) {
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
fn is_busy(connection: &Connection, sessions: &NumberMap<u64, Box<Session>>) -> bool {
    let session = connection.session.and_then(|session| sessions.get(&session));
    session.is_some_and(|session| session.unanswered_count() >= usize::from(RECEIVE_MAXIMUM))
}

/// The outcome of a publish whose device is not known any more.
const UNKNOWN: Denial =
    Denial { code: PubackReasonCode::NotAuthorized, reason: "not known", is_temporary: false };

/// Offers a publish to the pipeline as a reading of its device. `None`: it is on its way to disk.
fn offer<S: ReadingStore>(
    moment: &Moment,
    device: DeviceIndex,
    ticket: MqttTicket,
    message: &BusMessage<'_>,
    pipeline: &mut Pipeline<S>,
) -> Option<Result<(), Denial>> {
    let BusMessage { topic, payload, content_format, retain, .. } = *message;
    // An empty retained message deletes the retained one (MQTT 5.0 §3.3.1.3).
    let method = if retain && payload.is_empty() { Method::Delete } else { Method::Post };
    let path = match Path::parse(topic) {
        Ok(path) => path,
        Err(error) => {
            let malformed = Malformed::Path(error);
            let shown: String = topic.chars().take(256).collect();
            let refusal =
                pipeline.handle_malformed_topic(moment.now, device, method, &shown, payload.len(), malformed);
            return Some(Err(answer::refused(refusal)));
        }
    };
    let stamp = moment.stamp();
    // The larger default limit of payloads: there is no datagram that it would have to fit into.
    let received = Received { path, query: None, method, payload, content_format, blockwise: true, stamp };
    match pipeline.handle_reading(moment.now, device, Ticket::Mqtt(ticket), received) {
        Disposition::Journaled => None,
        Disposition::Passed | Disposition::Filtered => Some(Ok(())),
        Disposition::Refused(Refusal::UnknownDevice) => Some(Err(UNKNOWN)),
        Disposition::Refused(refusal) => Some(Err(answer::refused(refusal))),
        Disposition::Unstored(refused) => Some(Err(answer::unstored(refused))),
    }
}
