//! One MQTT connection as a client, without I/O: CONNECT, CONNACK, keep-alive, subscription,
//! DISCONNECT.
//!
//! ```text
//! new ──CONNECT──> Opening ──CONNACK 0──> Open ──> Ended
//!                     │ CONNACK ≠ 0, close,          ^
//!                     └ or 20 s of nothing ──────────┘
//! ```
//!
//! `mqtt-protocol-core` holds the protocol's rules. PUBLISH and PUBACK of the hot path pass beside
//! it ([`super::wire`]) with packet ids of their own range, so that the two never meet: publishes
//! take `1..=`[`PUBLISH_ID_MAX`], the library's packets what is above. The library's store stays
//! off; the journal alone retransmits. Where commands are wanted the session outlives the
//! connection, and messages of the broker pass beside the library, too ([`super::inbound`]); else
//! it starts clean and takes messages of QoS 0 only.
//!
//! **A dead peer.** A PINGREQ goes out when nothing was sent or nothing was received for the
//! keep-alive, and already after 15 s without a byte while answers are due; if then nothing at all
//! comes for the ping time-out, the connection is dead, whatever TCP believes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mqtt::connection::{ConnectionOptions, role};
use mqtt::packet::{GenericPacket, GenericPacketTrait as _, Property, Qos, v3_1_1, v5_0};
use mqtt::result_code::DisconnectReasonCode;
use mqtt_protocol_core::mqtt;

use super::inbound::{self, Answer, InboundMessage};
use super::reason_code;
use super::wire::{self, Acknowledgement, Framed, Version, packet_type};

/// Highest packet id used for publishes; greater ones belong to subscriptions.
pub const PUBLISH_ID_MAX: u16 = 65_000;
/// Greatest packet accepted from the broker, told to it in CONNECT.
pub const RECEIVE_LIMIT: u32 = 128 * 1024;
/// How long the broker may take to answer CONNECT.
pub const CONNACK_WITHIN: Duration = Duration::from_secs(20);
/// Without a byte for so long while answers are due, the peer is asked whether it lives.
const IMPATIENT_AFTER: Duration = Duration::from_secs(15);
/// The packet id of a publish for `tombolo check`.
pub const APART_ID: u16 = PUBLISH_ID_MAX + 1;
/// The number of the subscription to commands; further ones are those up to [`UNSUBSCRIBE`].
pub const COMMANDS: u16 = 2;
/// The number of an UNSUBSCRIBE.
const UNSUBSCRIBE: u16 = 9;
/// The packet id of the first subscription; the next ones have those below it.
const SUBSCRIBE_ID: u16 = u16::MAX;

/// What CONNECT says.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Which MQTT.
    pub version: Version,
    /// Who we are to the broker.
    pub client_id: String,
    /// `5 s ..= 65,535 s`.
    pub keep_alive: Duration,
    /// MQTT user name.
    pub username: Option<String>,
    /// MQTT password.
    pub password: Option<Vec<u8>>,
    /// What the broker says for us when we are gone.
    pub will: Option<Will>,
    /// How long the broker keeps the session; `None`: it starts clean, and ends with the
    /// connection.
    pub session_expiry: Option<Duration>,
}

/// The will message (MQTT 5.0 §3.1.2.5).
#[derive(Clone, Debug)]
pub struct Will {
    /// Its topic.
    pub topic: String,
    /// Its payload, JSON.
    pub payload: Vec<u8>,
    /// QoS 1, else 0.
    pub at_least_once: bool,
    /// The retain flag.
    pub retain: bool,
}

/// What the broker says with a CONNACK or a DISCONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAnswer {
    /// A reason code of MQTT 5, or in a CONNACK a return code `1..=5` of 3.1.1, as it came.
    pub code: u8,
    /// The broker's own words.
    pub reason: Option<String>,
    /// The server it names instead of itself (Server Reference).
    pub server: Option<String>,
}

/// What the broker allows on this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// QoS 1 publishes that may await their answer.
    pub receive_maximum: u16,
    /// Whether QoS 1 is taken at all.
    pub at_least_once: bool,
    /// Whether the retain flag is taken.
    pub retain: bool,
    /// Greatest packet taken, in bytes.
    pub packet_size: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { receive_maximum: u16::MAX, at_least_once: true, retain: true, packet_size: u32::MAX }
    }
}

/// What a session reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// CONNACK with success.
    Accepted {
        /// What the broker allows.
        limits: Limits,
        /// The id the broker gave us, if it did not like ours.
        assigned_client_id: Option<String>,
        /// The broker knows the session of before.
        session_present: bool,
    },
    /// The answer to the subscription to commands, one code for each filter.
    CommandsSubscribed(Vec<u8>),
    /// A message, where commands are wanted.
    Inbound(Box<InboundMessage>),
    /// PUBREL for a message that was answered by PUBREC.
    Released(u16),
    /// A subscription's answer: a QoS, or from 0x80 a refusal.
    Subscribed {
        /// Which of this session's subscriptions, from 0.
        number: u16,
        /// The reason code.
        code: u8,
    },
    /// The answer to an UNSUBSCRIBE, whatever it is.
    Unsubscribed,
    /// A message on a subscribed topic.
    Message {
        /// Where.
        topic: String,
        /// What.
        payload: Vec<u8>,
    },
    /// All PINGREQs up to this number, counted from 1, are answered; so all that was sent before
    /// was read.
    PingAnswered(u64),
    /// No more of this connection: close it. The last event.
    Ended(Ended),
}

/// Why a session is over, as far as MQTT knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// CONNACK with another code than success.
    Refused(BrokerAnswer),
    /// DISCONNECT from the broker.
    Disconnected(BrokerAnswer),
    /// No CONNACK within [`CONNACK_WITHIN`].
    NoConnack,
    /// No byte within the ping time-out.
    Silent,
    /// The broker broke the protocol; what it did.
    Protocol(String),
}

/// One MQTT connection.
pub struct Session {
    connection: mqtt::Connection<role::Client>,
    version: Version,
    state: State,
    keep_alive: Duration,
    outgoing: Vec<u8>,
    partial: Vec<u8>,
    last_sent: Instant,
    last_received: Instant,
    answers_due_since: Option<Instant>,
    ping_sent_at: Option<Instant>,
    pings_sent: u64,
    pings_answered: u64,
    acknowledgements: Vec<Acknowledgement>,
    /// Commands are wanted.
    is_kept: bool,
    events: VecDeque<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opening { until: Instant },
    Open,
    Ended,
}

impl Session {
    /// Starts a session over a transport just opened: CONNECT stands in the output.
    pub fn new(now: Instant, opening: &Opening) -> Session {
        let version = match opening.version {
            Version::V5 => mqtt::Version::V5_0,
            Version::V3_1_1 => mqtt::Version::V3_1_1,
        };
        let options = ConnectionOptions::new().maximum_packet_size_recv(RECEIVE_LIMIT);
        let mut connection = mqtt::Connection::<role::Client>::with_options(version, options);
        connection.set_auto_pub_response(true);
        connection.set_pingreq_send_interval(Some(0)); // keep-alive is decided here
        let mut session = Session {
            connection,
            version: opening.version,
            state: State::Opening { until: now + CONNACK_WITHIN },
            keep_alive: opening.keep_alive,
            outgoing: Vec::new(),
            partial: Vec::new(),
            last_sent: now,
            last_received: now,
            answers_due_since: None,
            ping_sent_at: None,
            pings_sent: 0,
            pings_answered: 0,
            acknowledgements: Vec::new(),
            is_kept: opening.session_expiry.is_some(),
            events: VecDeque::new(),
        };
        match connect_packet(opening) {
            Some(packet) => {
                let events = session.connection.send(packet);
                session.handle_library(events);
            }
            None => session.end(Ended::Protocol("the CONNECT packet cannot be encoded".to_owned())),
        }
        session
    }

    /// The protocol spoken.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether CONNACK came and nothing ended the session since.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether the session is over.
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Whether CONNACK has not come yet.
    pub fn is_opening(&self) -> bool {
        matches!(self.state, State::Opening { .. })
    }

    /// Bytes to write; who writes some takes them away. Publishes are appended here.
    pub fn outgoing(&mut self) -> &mut Vec<u8> {
        &mut self.outgoing
    }

    /// Whether all bytes received so far made whole packets.
    pub fn is_between_packets(&self) -> bool {
        self.partial.is_empty()
    }

    /// Bytes waiting to be written.
    pub fn outgoing_len(&self) -> usize {
        self.outgoing.len()
    }

    /// Says that bytes were appended to or written from [`Session::outgoing`] at `now`.
    pub fn note_sent(&mut self, now: Instant) {
        self.last_sent = now;
    }

    /// Says whether answers are due, so that silence is suspicious sooner.
    pub fn set_answers_due(&mut self, now: Instant, due: bool) {
        self.answers_due_since = if due { self.answers_due_since.or(Some(now)) } else { None };
    }

    /// Takes received bytes, in any pieces.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        if self.state == State::Ended || bytes.is_empty() {
            return;
        }
        self.last_received = now;
        self.ping_sent_at = None;
        if self.partial.is_empty() {
            let used = self.handle_packets(now, bytes);
            self.partial.extend_from_slice(&bytes[used..]);
        } else {
            let mut held = std::mem::take(&mut self.partial);
            held.extend_from_slice(bytes);
            let used = self.handle_packets(now, &held);
            held.drain(..used);
            self.partial = held;
        }
        if self.state == State::Ended {
            self.partial = Vec::new();
        }
    }

    /// Handles all whole packets; how many bytes they were.
    fn handle_packets(&mut self, now: Instant, bytes: &[u8]) -> usize {
        let mut used = 0;
        while self.state != State::Ended {
            match wire::split(&bytes[used..], RECEIVE_LIMIT as usize) {
                Framed::Incomplete => break,
                Framed::Malformed => {
                    self.fail("a packet with a bad length, or longer than we told it to send");
                }
                Framed::Packet { packet_type, body, whole } => {
                    used += whole.len();
                    self.handle_packet(now, packet_type, body, whole);
                }
            }
        }
        used
    }

    fn handle_packet(&mut self, _now: Instant, kind: u8, body: &[u8], whole: &[u8]) {
        match kind {
            packet_type::PUBACK if self.state == State::Open => {
                match wire::parse_puback(self.version, body) {
                    Some(acknowledgement) => self.acknowledgements.push(acknowledgement),
                    None => self.fail("a malformed PUBACK"),
                }
            }
            packet_type::CONNACK => match body {
                _ if self.state == State::Open => self.fail("a second CONNACK"),
                [_, code, ..] if *code != reason_code::SUCCESS => {
                    let parsed = v5_0::Connack::parse(body).ok();
                    let properties = parsed.as_ref().map(|(packet, _)| packet.props().as_slice());
                    self.end(Ended::Refused(answer(*code, properties)));
                }
                _ => self.handle_by_library(whole),
            },
            _ if self.state != State::Open => self.fail("something else than CONNACK first"),
            packet_type::DISCONNECT if self.version == Version::V5 => {
                let code = body.first().copied().unwrap_or(reason_code::SUCCESS);
                let parsed = v5_0::Disconnect::parse(body).ok();
                let properties =
                    parsed.as_ref().and_then(|(packet, _)| Some(packet.props().as_ref()?.as_slice()));
                self.end(Ended::Disconnected(answer(code, properties)));
            }
            packet_type::PUBLISH if self.is_kept => self.handle_publish(whole[0], body),
            packet_type::PUBREL if self.is_kept => {
                match inbound::parse_pubrel(self.version, whole[0], body) {
                    Some(packet_id) => self.events.push_back(Event::Released(packet_id)),
                    None => self.fail("a malformed PUBREL"),
                }
            }
            // The subscription is at QoS 0 (MQTT 5.0 §3.8.4): answers to anything else could pile
            // up without end.
            packet_type::PUBLISH if whole[0] & 0x06 != 0 => {
                self.fail("a PUBLISH at a higher QoS than was granted")
            }
            packet_type::PUBREL => self.fail("a PUBREL for nothing"),
            _ => self.handle_by_library(whole),
        }
    }

    /// How many may be unanswered is the broker's to keep (Receive Maximum, MQTT 5.0 §4.9), and
    /// mosquitto does not always. A connection that ended over it would hold the readings back, so
    /// the reader waits instead while the messages are not taken.
    fn handle_publish(&mut self, first: u8, body: &[u8]) {
        match inbound::parse_publish(self.version, first, body) {
            Some(message) => self.events.push_back(Event::Inbound(Box::new(message))),
            None => self.fail("a malformed PUBLISH"),
        }
    }

    /// Answers a message of QoS 1 or 2, or a PUBREL.
    pub fn answer(&mut self, now: Instant, answer: Answer, packet_id: u16) {
        if self.state != State::Open {
            return;
        }
        inbound::push_answer(&mut self.outgoing, answer, packet_id);
        self.last_sent = now;
    }

    fn handle_by_library(&mut self, whole: &[u8]) {
        let mut cursor = mqtt::common::Cursor::new(whole);
        let events = self.connection.recv(&mut cursor);
        self.handle_library(events);
    }

    fn handle_library(&mut self, events: Vec<mqtt::connection::Event>) {
        use mqtt::connection::Event as E;
        for event in events {
            match event {
                E::RequestSendPacket { packet, .. } => {
                    self.outgoing.extend_from_slice(&packet.to_continuous_buffer());
                }
                E::NotifyPacketReceived(packet) => self.handle_received(packet),
                E::NotifyError(error) => self.end(Ended::Protocol(format!("{error:?}"))),
                E::RequestClose => {
                    self.end(Ended::Protocol("it sent a packet that does not fit what it answers".to_owned()))
                }
                // Our own timers decide, and ids of subscriptions are used once.
                E::RequestTimerReset { .. } | E::RequestTimerCancel(_) | E::NotifyPacketIdReleased(_) => {}
            }
        }
    }

    fn handle_received(&mut self, packet: GenericPacket<u16>) {
        match packet {
            GenericPacket::V5_0Connack(connack) => {
                let mut limits = Limits::default();
                let mut assigned_client_id = None;
                for property in connack.props() {
                    match property {
                        Property::ReceiveMaximum(p) => limits.receive_maximum = p.val(),
                        Property::MaximumQos(p) => limits.at_least_once = p.val() >= 1,
                        Property::RetainAvailable(p) => limits.retain = p.val() != 0,
                        Property::MaximumPacketSize(p) => limits.packet_size = p.val(),
                        Property::ServerKeepAlive(p) if p.val() > 0 => {
                            self.keep_alive = Duration::from_secs(p.val().into());
                        }
                        Property::AssignedClientIdentifier(p) => {
                            assigned_client_id = Some(p.val().to_owned());
                        }
                        // Aliases would save bytes only per topic; they are not used.
                        _ => {}
                    }
                }
                self.state = State::Open;
                let session_present = connack.session_present();
                self.events.push_back(Event::Accepted { limits, assigned_client_id, session_present });
            }
            GenericPacket::V3_1_1Connack(connack) => {
                self.state = State::Open;
                let session_present = connack.session_present();
                let limits = Limits::default();
                self.events.push_back(Event::Accepted { limits, assigned_client_id: None, session_present });
            }
            GenericPacket::V5_0Suback(suback) => {
                let code = suback.reason_codes().first().map_or(0x80, |code| *code as u8);
                let number = SUBSCRIBE_ID.saturating_sub(suback.packet_id());
                self.events.push_back(match number {
                    COMMANDS.. => Event::CommandsSubscribed(
                        suback.reason_codes().iter().map(|code| *code as u8).collect(),
                    ),
                    _ => Event::Subscribed { number, code },
                });
            }
            GenericPacket::V3_1_1Suback(suback) => {
                let code = suback.return_codes().first().map_or(0x80, |code| *code as u8);
                let number = SUBSCRIBE_ID.saturating_sub(suback.packet_id());
                self.events.push_back(match number {
                    COMMANDS.. => Event::CommandsSubscribed(
                        suback.return_codes().iter().map(|code| *code as u8).collect(),
                    ),
                    _ => Event::Subscribed { number, code },
                });
            }
            GenericPacket::V5_0Unsuback(_) | GenericPacket::V3_1_1Unsuback(_) => {
                self.events.push_back(Event::Unsubscribed);
            }
            GenericPacket::V5_0Publish(publish) => self.events.push_back(Event::Message {
                topic: publish.topic_name().to_owned(),
                payload: publish.payload().as_slice().to_vec(),
            }),
            GenericPacket::V3_1_1Publish(publish) => self.events.push_back(Event::Message {
                topic: publish.topic_name().to_owned(),
                payload: publish.payload().as_slice().to_vec(),
            }),
            GenericPacket::V5_0Pingresp(_) | GenericPacket::V3_1_1Pingresp(_) => {
                self.pings_answered = (self.pings_answered + 1).min(self.pings_sent);
                self.events.push_back(Event::PingAnswered(self.pings_answered));
            }
            _ => {}
        }
    }

    /// Subscribes to one topic filter at QoS 0; each number, `0..=8`, once a session.
    pub fn subscribe(&mut self, now: Instant, number: u16, filter: &str) {
        use mqtt::packet::{SubEntry, SubOpts};
        if let Ok(entry) = SubEntry::new(filter, SubOpts::new().set_qos(Qos::AtMostOnce)) {
            self.send_subscribe(now, number..number + 1, vec![entry]);
        }
    }

    /// Subscribes to commands: QoS 2, or 1 for a broker that has no more, and retained messages
    /// only with a subscription that is new (Retain Handling 1, MQTT 5.0 §3.8.3.1).
    pub fn subscribe_commands(&mut self, now: Instant, filters: &[String], at_least_once: bool) {
        use mqtt::packet::{RetainHandling, SubEntry, SubOpts};
        let qos = if at_least_once { Qos::AtLeastOnce } else { Qos::ExactlyOnce };
        let mut options = SubOpts::new().set_qos(qos);
        if self.version == Version::V5 {
            options = options.set_rh(RetainHandling::SendRetainedIfNotExists);
        }
        let entries: Result<Vec<_>, _> =
            filters.iter().map(|filter| SubEntry::new(filter.as_str(), options)).collect();
        if let Ok(entries) = entries {
            self.send_subscribe(now, COMMANDS..UNSUBSCRIBE, entries);
        }
    }

    /// With the first of these numbers that is free: a subscription that was not answered still has
    /// its packet identifier (MQTT 5.0 §2.2.1).
    fn send_subscribe(
        &mut self,
        now: Instant,
        mut numbers: std::ops::Range<u16>,
        entries: Vec<mqtt::packet::SubEntry>,
    ) {
        if self.state != State::Open {
            return;
        }
        let is_free = |number: &u16| self.connection.register_packet_id(SUBSCRIBE_ID - number).is_ok();
        let Some(number) = numbers.find(is_free) else { return };
        let id = SUBSCRIBE_ID - number;
        let packet: Option<GenericPacket<u16>> = match self.version {
            Version::V5 => {
                v5_0::Subscribe::builder().packet_id(id).entries(entries).build().ok().map(Into::into)
            }
            Version::V3_1_1 => {
                v3_1_1::Subscribe::builder().packet_id(id).entries(entries).build().ok().map(Into::into)
            }
        };
        if let Some(packet) = packet {
            let events = self.connection.send(packet);
            self.handle_library(events);
            self.last_sent = now;
        }
    }

    /// Publishes for a check, with QoS 1, no payload and the user property `check`: answered by an
    /// acknowledgement of [`APART_ID`]. Nothing else is to be in flight. False: it is too large.
    pub fn publish_apart(&mut self, now: Instant, limits: &Limits, topic: &str, retain: bool) -> bool {
        let publish = wire::Publish {
            topic: topic.as_bytes(),
            packet_id: Some(APART_ID),
            retain: retain && limits.retain,
            properties: wire::CHECK_PROPERTY,
            payload: b"",
        };
        let limit = limits.packet_size as usize;
        let fits = wire::push_publish(&mut self.outgoing, self.version, limit, &publish).is_ok();
        if fits {
            self.note_sent(now);
        }
        fits
    }

    /// Unsubscribes from these topic filters; once a session.
    pub fn unsubscribe(&mut self, now: Instant, filters: &[String]) {
        let id = SUBSCRIBE_ID - UNSUBSCRIBE;
        if self.state != State::Open || self.connection.register_packet_id(id).is_err() {
            return;
        }
        let packet: Option<GenericPacket<u16>> = match self.version {
            Version::V5 => {
                let builder = v5_0::Unsubscribe::builder().packet_id(id);
                let builder = builder.entries(filters.iter().map(String::as_str)).ok();
                builder.and_then(|builder| builder.build().ok()).map(Into::into)
            }
            Version::V3_1_1 => {
                let builder = v3_1_1::Unsubscribe::builder().packet_id(id);
                let builder = builder.entries(filters.iter().map(String::as_str)).ok();
                builder.and_then(|builder| builder.build().ok()).map(Into::into)
            }
        };
        if let Some(packet) = packet {
            let events = self.connection.send(packet);
            self.handle_library(events);
            self.last_sent = now;
        }
    }

    /// Sends a PINGREQ; its number, for [`Event::PingAnswered`].
    pub fn ping(&mut self, now: Instant) -> u64 {
        let packet: Option<GenericPacket<u16>> = match self.version {
            Version::V5 => v5_0::Pingreq::builder().build().ok().map(Into::into),
            Version::V3_1_1 => v3_1_1::Pingreq::builder().build().ok().map(Into::into),
        };
        if let (State::Open, Some(packet)) = (self.state, packet) {
            let events = self.connection.send(packet);
            self.handle_library(events);
            self.last_sent = now;
            self.pings_sent += 1;
            self.ping_sent_at.get_or_insert(now);
        }
        self.pings_sent
    }

    /// PINGREQs sent so far.
    pub fn pings_sent(&self) -> u64 {
        self.pings_sent
    }

    /// Says goodbye: DISCONNECT stands in the output, nothing more is received. `with_will`: the
    /// broker is to publish the will; 3.1.1 knows that only as closing without a word.
    pub fn disconnect(&mut self, with_will: bool) {
        if self.state == State::Open {
            match (with_will, self.version) {
                (false, _) => self.push_disconnect(DisconnectReasonCode::NormalDisconnection),
                (true, Version::V5) => self.push_disconnect(DisconnectReasonCode::DisconnectWithWillMessage),
                (true, Version::V3_1_1) => {}
            }
        }
        self.state = State::Ended;
    }

    fn push_disconnect(&mut self, code: DisconnectReasonCode) {
        let packet: Option<GenericPacket<u16>> = match self.version {
            Version::V5 => v5_0::Disconnect::builder().reason_code(code).build().ok().map(Into::into),
            Version::V3_1_1 => v3_1_1::Disconnect::builder().build().ok().map(Into::into),
        };
        if let Some(packet) = packet {
            self.outgoing.extend_from_slice(&packet.to_continuous_buffer());
        }
    }

    fn fail(&mut self, what: &str) {
        if self.state == State::Open && self.version == Version::V5 {
            self.push_disconnect(DisconnectReasonCode::ProtocolError);
        }
        self.end(Ended::Protocol(what.to_owned()));
    }

    fn end(&mut self, ended: Ended) {
        if self.state != State::Ended {
            self.state = State::Ended;
            self.events.push_back(Event::Ended(ended));
        }
    }

    /// Half the keep-alive, `5 s ..= 20 s`: what an answer to a ping may take.
    fn ping_timeout(&self) -> Duration {
        (self.keep_alive / 2).clamp(Duration::from_secs(5), Duration::from_secs(20))
    }

    /// When the next ping is due.
    fn ping_due(&self) -> Instant {
        let quiet = self.last_sent.min(self.last_received) + self.keep_alive;
        match self.answers_due_since {
            Some(since) => quiet.min(self.last_received.max(since) + IMPATIENT_AFTER),
            None => quiet,
        }
    }

    /// Acts on deadlines that passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            State::Opening { until } if now >= until => self.end(Ended::NoConnack),
            State::Open => match self.ping_sent_at {
                Some(sent) if now >= sent + self.ping_timeout() => {
                    if self.version == Version::V5 {
                        self.push_disconnect(DisconnectReasonCode::KeepAliveTimeout);
                    }
                    self.end(Ended::Silent);
                }
                None if now >= self.ping_due() => {
                    self.ping(now);
                }
                _ => {}
            },
            State::Opening { .. } | State::Ended => {}
        }
    }

    /// The next deadline.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Opening { until } => Some(until),
            State::Open => Some(match self.ping_sent_at {
                Some(sent) => sent + self.ping_timeout(),
                None => self.ping_due(),
            }),
            State::Ended => None,
        }
    }

    /// Exchanges `empty` for the answers to publishes received since the last call.
    pub fn take_acknowledgements(&mut self, empty: Vec<Acknowledgement>) -> Vec<Acknowledgement> {
        std::mem::replace(&mut self.acknowledgements, empty)
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

fn answer(code: u8, properties: Option<&[Property]>) -> BrokerAnswer {
    let mut answer = BrokerAnswer { code, reason: None, server: None };
    for property in properties.unwrap_or_default() {
        match property {
            Property::ReasonString(text) => answer.reason = Some(text.val().to_owned()),
            Property::ServerReference(text) => answer.server = Some(text.val().to_owned()),
            _ => {}
        }
    }
    answer
}

fn connect_packet(opening: &Opening) -> Option<GenericPacket<u16>> {
    let keep_alive = u16::try_from(opening.keep_alive.as_secs()).unwrap_or(u16::MAX);
    let qos = |will: &Will| if will.at_least_once { Qos::AtLeastOnce } else { Qos::AtMostOnce };
    // The two builders have the same methods and nothing in common.
    macro_rules! common {
        ($builder:expr) => {{
            let mut builder = $builder.client_id(opening.client_id.as_str()).ok()?.keep_alive(keep_alive);
            if let Some(will) = &opening.will {
                builder = builder
                    .will_message(will.topic.as_str(), will.payload.clone(), qos(will), will.retain)
                    .ok()?;
            }
            // MQTT 3.1.1 has no password without a user name (§3.1.2.9); an empty one will do.
            let unnamed = opening.version == Version::V3_1_1 && opening.password.is_some();
            if let Some(username) = opening.username.as_deref().or(unnamed.then_some("")) {
                builder = builder.user_name(username).ok()?;
            }
            if let Some(password) = &opening.password {
                builder = builder.password(password.clone()).ok()?;
            }
            builder
        }};
    }
    match opening.version {
        Version::V5 => {
            let clean = opening.session_expiry.is_none();
            let mut builder = common!(v5_0::Connect::builder().clean_start(clean));
            if let Some(expiry) = opening.session_expiry {
                let seconds = u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX);
                builder = builder.props(vec![
                    mqtt::packet::SessionExpiryInterval::new(seconds).ok()?.into(),
                    mqtt::packet::ReceiveMaximum::new(inbound::RECEIVE_MAXIMUM).ok()?.into(),
                ]);
            }
            if opening.will.is_some() {
                // Without a delay: the session ends with the connection, and a delay with it (MQTT
                // 5.0 §3.1.3.2.2).
                let properties = vec![mqtt::packet::ContentType::new("application/json").ok()?.into()];
                builder = builder.will_props(properties);
            }
            Some(builder.build().ok()?.into())
        }
        Version::V3_1_1 => {
            let clean = opening.session_expiry.is_none();
            Some(common!(v3_1_1::Connect::builder().clean_session(clean)).build().ok()?.into())
        }
    }
}
