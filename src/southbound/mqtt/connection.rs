//! One connection of a client: bytes to packets, packets to bytes, and its times.
//!
//! ```text
//! Opening ──CONNECT──> Verifying ──password right──> Open ──> Ended
//!    │                    │ wrong, or not in time: Refusing, for a second ─^
//!    └ no CONNECT in time, or not the first packet ────────────┘
//! ```
//!
//! `mqtt-protocol-core` in the server role keeps the rules of the protocol: what may be sent when,
//! topic aliases. It is handed whole packets only, whose length was checked before, so that an
//! unidentified peer makes it allocate nothing.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mqtt::connection::{ConnectionOptions, role};
use mqtt::packet::{GenericPacket, GenericPacketTrait as _, Property};
use mqtt::result_code::{ConnectReasonCode, DisconnectReasonCode, MqttError};
use mqtt_protocol_core::mqtt;
use rustls_pki_types::CertificateDer;

use super::credential::CredentialName;
use super::framing::{Frame, WILL, frame, header_length};
use super::packet::{self, Hello, Inbound, Version, Welcome};
use super::settings::{CONNECT_MAX, CONNECT_WITHIN, PACKET_MAX, RECEIVE_MAXIMUM, TOPIC_MAX, UNREAD_MAX};
use super::user_name::with_empty_user_name;
use crate::clock::UnixTime;
use crate::proto::dtls::PeerIdentity;

/// The packet type PUBLISH, the upper four bits of a first byte (MQTT 5.0 §2.1.2).
const PUBLISH: u8 = 3;
/// The packet type CONNECT.
const CONNECT: u8 = 1;
/// The packet types whose flags are 2.
const PUBREL: u8 = 6;
const SUBSCRIBE: u8 = 8;
const UNSUBSCRIBE: u8 = 10;
/// Its Will QoS, of which 3 is none.
const WILL_QOS: u8 = 0x18;
/// Its Will QoS and Will Retain.
const WILL_DETAILS: u8 = 0x38;
/// The first bytes of PUBREC and PUBCOMP.
const PUBREC: u8 = 0x50;
const PUBCOMP: u8 = 0x70;
/// CONNACK of MQTT 3.1.1 with return code 1, unacceptable protocol version: the answer to every
/// version that is not spoken, in the form that older clients read (MQTT 3.1.1 §3.1.2.2).
const UNACCEPTABLE_VERSION: [u8; 4] = [0x20, 2, 0, 1];

/// Who is at the other end of a connection, as far as the transport says.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The address; `None` for a Unix socket.
    pub address: Option<IpAddr>,
    /// What its TLS certificate says, if it has shown a valid one.
    pub identity: Option<PeerIdentity>,
    /// When that certificate is not valid any more.
    pub expires: Option<UnixTime>,
    /// The chain of that certificate, its own first; kept only for a session that may outlive its
    /// connection.
    pub chain: Option<Rc<[CertificateDer<'static>]>>,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No CONNECT yet.
    Opening { until: Instant },
    /// The password waits to be verified, until then.
    Verifying { until: Instant },
    /// Refused; the CONNACK goes out at this time.
    Refusing { at: Instant, code: ConnectReasonCode },
    /// CONNACK was sent.
    Open,
    /// Nothing more is read; what is to be sent is still sent.
    Ended,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// DISCONNECT from the client.
    ByClient,
    /// The network connection was lost or closed.
    Lost,
    /// Nothing came for one and a half keep-alives.
    Silent,
    /// No CONNECT in time.
    NoConnect,
    /// The connect was refused.
    Refused(ConnectReasonCode),
    /// Another connection has the same client id.
    TakenOver,
    /// The device has its `max-sessions`; this was the oldest.
    Replaced,
    /// The device was removed or disabled.
    Removed,
    /// The device is there, and this, which proved its client, is not its any more.
    Withdrawn(CredentialName),
    /// Its certificate is not trusted any more, for this reason.
    Revoked(String),
    /// A reload removed the address that it came to.
    Unlistened,
    /// A 3.1.1 publish was refused, for this reason.
    Denied(&'static str),
    /// The client broke the protocol, or sent more than was allowed.
    Protocol(String),
    /// Its token, the key of its token, or its certificate expired.
    Expired,
    /// The gateway stops.
    Stopping,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::ByClient => f.write_str("DISCONNECT"),
            Ended::Lost => f.write_str("connection closed by the client or the network"),
            Ended::Silent => f.write_str("keep-alive timeout"),
            Ended::NoConnect => f.write_str("no CONNECT in time"),
            Ended::Refused(code) => write!(f, "connect refused: {code}"),
            Ended::TakenOver => f.write_str("session taken over by another connection"),
            Ended::Replaced => f.write_str("its device has max-sessions connections; this was the oldest"),
            Ended::Removed => f.write_str("device removed or disabled"),
            Ended::Withdrawn(credential) => write!(f, "its {credential} was changed or removed"),
            Ended::Revoked(reason) => f.write_str(reason),
            Ended::Unlistened => f.write_str("a reload removed the address that it came to"),
            Ended::Denied(reason) => write!(f, "publish refused ({reason}), which MQTT 3.1.1 cannot say"),
            Ended::Protocol(what) => write!(f, "protocol error: {what}"),
            Ended::Expired => f.write_str("its token or certificate expired"),
            Ended::Stopping => f.write_str("the gateway stops"),
        }
    }
}

/// When what proves an identity expires. Certificates and tokens are judged by different clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ProofEnd {
    Certificate(UnixTime),
    Token(UnixTime),
}

/// One connection.
pub(super) struct Connection {
    pub(super) source: Source,
    pub(super) state: State,
    /// `None` until CONNECT.
    pub(super) version: Option<Version>,
    /// The CONNECT, while its password is verified.
    pub(super) hello: Option<Box<Hello>>,
    /// The session it has, from CONNACK on.
    pub(super) session: Option<u64>,
    /// When the proof of its identity expires.
    pub(super) proof_ends: Option<ProofEnd>,
    /// When its token itself expires, however long the key that signed it is taken.
    pub(super) token_ends: Option<UnixTime>,
    pub(super) keep_alive: Option<Duration>,
    pub(super) wants_reasons: bool,
    /// Publishes of QoS 1 and 2 that the client takes at once.
    pub(super) receive_maximum: usize,
    /// Nothing is read from it until then: too many of its publishes were refused.
    pub(super) held_until: Option<Instant>,
    /// Since when nothing is read from it because as many of its publishes are not answered as it
    /// may have on their way.
    unread_since: Option<Instant>,
    /// When the last packet came.
    pub(super) last_received: Instant,
    /// Packets are waiting for the shell, or it is to close the connection: it has been told.
    pub(super) is_announced: bool,
    library: mqtt::Connection<role::Server>,
    input: Vec<u8>,
    /// How much of `input` is handled.
    taken: usize,
    output: Vec<u8>,
    /// Packet ids whose PUBREL was sent again on this connection. The library, which has not seen
    /// their publish, would count them wrongly against the client's Receive Maximum.
    resumed: Vec<u16>,
    /// Packet ids whose PUBREL was sent, and whose PUBCOMP has not come.
    released: Vec<u16>,
    /// The publish of QoS 2 that has just come again.
    repeated: Option<u16>,
    /// The library wants the connection closed, and why.
    fault: Option<String>,
}

impl Connection {
    pub(super) fn new(now: Instant, source: Source) -> Connection {
        let options = ConnectionOptions::new().maximum_packet_size_recv(PACKET_MAX as u32);
        let mut library =
            mqtt::Connection::<role::Server>::with_options(mqtt::Version::Undetermined, options);
        library.set_auto_pub_response(false); // only after the commit
        library.set_auto_ping_response(true);
        Connection {
            source,
            state: State::Opening { until: now + CONNECT_WITHIN },
            version: None,
            hello: None,
            session: None,
            proof_ends: None,
            token_ends: None,
            keep_alive: None,
            wants_reasons: false,
            receive_maximum: usize::from(u16::MAX),
            held_until: None,
            unread_since: None,
            last_received: now,
            is_announced: false,
            library,
            input: Vec::new(),
            taken: 0,
            output: Vec::new(),
            resumed: Vec::new(),
            released: Vec::new(),
            repeated: None,
            fault: None,
        }
    }

    /// Whether bytes of the client are handled now.
    pub(super) fn is_taking(&self) -> bool {
        matches!(self.state, State::Opening { .. } | State::Open)
    }

    /// When something is due, if nothing comes until then.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Opening { until } | State::Verifying { until } => Some(until),
            State::Refusing { at, .. } => Some(at),
            State::Open => {
                // What it sends meanwhile is not seen, so it is not silent.
                let silent = || self.keep_alive.map(|keep_alive| self.last_received + keep_alive / 2 * 3);
                self.held_until.or_else(silent)
            }
            State::Ended => None,
        }
    }

    /// Nothing more is read from the client: as many of its publishes are not answered as may be.
    pub(super) fn leave_unread(&mut self, now: Instant) {
        self.unread_since.get_or_insert(now);
    }

    /// What the client sends meanwhile is not seen, so it is not silent, for [`UNREAD_MAX`] at
    /// most.
    pub(super) fn excuse_silence(&mut self, now: Instant) {
        if self.unread_since.is_some_and(|since| now < since + UNREAD_MAX) {
            self.last_received = now;
        }
    }

    /// The client is read from again. Its keep-alive begins anew if it was not.
    pub(super) fn read_on(&mut self, now: Instant) {
        if self.unread_since.take().is_some() {
            self.last_received = now;
        }
    }

    /// Bytes of the client that are not handled yet.
    pub(super) fn unhandled(&self) -> usize {
        self.input.len() - self.taken
    }

    /// Bytes to be sent.
    pub(super) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Keeps received bytes until [`Connection::next`].
    pub(super) fn push(&mut self, now: Instant, bytes: &[u8]) {
        self.last_received = now;
        self.input.extend_from_slice(bytes);
    }

    /// The next packet, if there is a whole one.
    ///
    /// # Errors
    /// What the client did against the protocol; what it is to be told was written.
    pub(super) fn next(&mut self, now: Instant) -> Result<Option<Inbound>, String> {
        loop {
            let rest = &self.input[self.taken..];
            if self.state != State::Open && rest.first().is_some_and(|first| first >> 4 != CONNECT) {
                return Err("the first packet is not CONNECT".to_owned());
            }
            let limit = if self.state == State::Open { PACKET_MAX } else { CONNECT_MAX };
            let length = match frame(rest) {
                Frame::Incomplete => None,
                Frame::Of(length) if length > limit => {
                    self.disconnect(DisconnectReasonCode::PacketTooLarge, None);
                    return Err(format!("a packet of {length} bytes; at most {limit} are taken"));
                }
                Frame::Of(length) => rest.get(..length).map(|_| length),
                Frame::Malformed => {
                    self.disconnect(DisconnectReasonCode::MalformedPacket, None);
                    return Err("the length of a packet is malformed".to_owned());
                }
            };
            let Some(length) = length else {
                self.input.drain(..self.taken);
                self.taken = 0;
                if self.input.is_empty() {
                    self.input = Vec::new(); // an idle client costs nothing
                }
                return Ok(None);
            };
            let start = self.taken;
            self.taken += length;
            self.last_received = now;
            if self.input[start] >> 4 == CONNECT {
                limit_aliases(&mut self.input[start..start + length]);
            }
            if has_reserved_bits(&self.input[start..start + length]) {
                self.disconnect(DisconnectReasonCode::MalformedPacket, None);
                return Err("reserved bits of a packet are set".to_owned());
            }
            let whole = &self.input[start..start + length];
            if whole[0] >> 4 == PUBLISH && topic_length(whole) > TOPIC_MAX {
                self.disconnect(DisconnectReasonCode::TopicNameInvalid, None);
                return Err(format!("a topic of more than {TOPIC_MAX} bytes"));
            }
            // PUBREC again is answered with PUBREL again, whatever it says now (MQTT 5.0 §4.3.3);
            // the library would take it for a protocol error.
            if let Some(id) = id_of(PUBREC, whole).filter(|id| self.released.contains(id)) {
                return Ok(Some(Inbound::Pubrec { id, code: 0 }));
            }
            if let Some(id) = id_of(PUBCOMP, whole) {
                self.released.retain(|known| *known != id);
                if let Some(at) = self.resumed.iter().position(|known| *known == id) {
                    return Ok(Some(Inbound::Pubcomp(self.resumed.swap_remove(at))));
                }
            }
            let bare = if whole[0] >> 4 == CONNECT { with_empty_user_name(whole) } else { None };
            let mut cursor = mqtt::common::Cursor::new(bare.as_deref().unwrap_or(whole));
            let events = self.library.recv(&mut cursor);
            let received = self.follow(events);
            if let Some(fault) = self.fault.take() {
                return Err(fault);
            }
            if let Some(id) = self.repeated.take() {
                return Ok(Some(Inbound::Repeated(id)));
            }
            if let Some(packet) = received {
                let mut read = packet::read(packet);
                if let (Inbound::Connect(hello), true) = (&mut read, bare.is_some()) {
                    hello.username = None;
                }
                return Ok(Some(read));
            }
        }
    }

    /// Does what the library wants; the packet it has received.
    fn follow(&mut self, events: Vec<mqtt::connection::Event>) -> Option<GenericPacket<u16>> {
        use mqtt::connection::Event as E;
        let mut received = None;
        for event in events {
            match event {
                // PUBREC to a publish that came before: it is sent by the session, after its
                // commit.
                E::RequestSendPacket { packet: GenericPacket::V3_1_1Pubrec(pubrec), .. } => {
                    self.repeated = Some(pubrec.packet_id());
                }
                E::RequestSendPacket { packet: GenericPacket::V5_0Pubrec(pubrec), .. } => {
                    self.repeated = Some(pubrec.packet_id());
                }
                E::RequestSendPacket { packet, .. } => {
                    self.output.extend_from_slice(&packet.to_continuous_buffer());
                }
                E::NotifyPacketReceived(packet) => received = Some(packet),
                E::NotifyError(MqttError::UnsupportedProtocolVersion) if self.version.is_none() => {
                    if self.output.is_empty() {
                        self.output.extend_from_slice(&UNACCEPTABLE_VERSION);
                    }
                    self.fault = Some("a version of MQTT that is not spoken".to_owned());
                }
                E::NotifyError(error) => self.fault = Some(format!("{error:?}")),
                E::RequestClose => {
                    self.fault.get_or_insert_with(|| "not as the standard says".to_owned());
                }
                // The deadlines are kept here, and publishes to clients have ids of the session.
                E::RequestTimerReset { .. } | E::RequestTimerCancel(_) | E::NotifyPacketIdReleased(_) => {}
            }
        }
        received
    }

    /// Sends a CONNACK of success. The library sees it without the Receive Maximum, which is kept
    /// by the session: the library would end the connection where reading no more is enough.
    /// Returns whether the client takes a packet of this size.
    pub(super) fn welcome(&mut self, version: Version, welcome: &Welcome<'_>) -> bool {
        use mqtt::connection::Event as E;
        let Some(plain) = packet::welcome(version, welcome, None) else { return false };
        let Some(whole) = packet::welcome(version, welcome, Some(RECEIVE_MAXIMUM)) else { return false };
        let sent = self.library.send(plain).into_iter().any(|e| matches!(e, E::RequestSendPacket { .. }));
        if sent {
            self.output.extend_from_slice(&whole.to_continuous_buffer());
        }
        sent
    }

    /// Sends a packet, if the client takes one of this size. Returns whether it was sent.
    pub(super) fn send(&mut self, packet: Option<GenericPacket<u16>>) -> bool {
        use mqtt::connection::Event as E;
        let before = self.output.len();
        for event in packet.into_iter().flat_map(|packet| self.library.send(packet)) {
            if let E::RequestSendPacket { packet, .. } = event {
                self.output.extend_from_slice(&packet.to_continuous_buffer());
            }
        }
        self.output.len() > before
    }

    /// Sends a publish of QoS 1 or 2. Returns whether the client takes one of this size.
    pub(super) fn send_publish(&mut self, id: u16, packet: GenericPacket<u16>) -> bool {
        // The ids are those of the session, which never uses one twice at once.
        let _ = self.library.register_packet_id(id);
        let is_sent = self.send(Some(packet));
        if !is_sent {
            let _ = self.library.release_packet_id(id);
        }
        is_sent
    }

    /// Sends PUBREL; `resumed`: for a publish of an earlier connection.
    pub(super) fn send_pubrel(&mut self, id: u16, resumed: bool) {
        let packet = self.version.and_then(|version| packet::pubrel(version, id));
        let is_again = self.released.contains(&id);
        if !is_again {
            self.released.push(id);
        }
        if !is_again && !resumed {
            self.send(packet);
        } else if let Some(packet) = packet {
            self.output.extend_from_slice(&packet.to_continuous_buffer());
            if !is_again {
                self.resumed.push(id);
            }
        }
    }

    /// Sends a DISCONNECT, where the version has one and it is allowed.
    pub(super) fn disconnect(&mut self, code: DisconnectReasonCode, reason: Option<&str>) {
        if self.version == Some(Version::V5) && self.state == State::Open {
            let reason = reason.filter(|_| self.wants_reasons);
            if !self.send(packet::disconnect(code, reason)) && reason.is_some() {
                self.send(packet::disconnect(code, None));
            }
        }
    }

    /// Ends it: nothing more is read.
    pub(super) fn end(&mut self) {
        self.state = State::Ended;
        (self.input, self.taken, self.hello) = (Vec::new(), 0, None);
    }
}

/// Whether the flags of a whole packet are not as they have to be (MQTT 5.0 §2.1.3), or in a
/// CONNECT the reserved one is set or those of a will without one (§3.1.2.3). The library checks
/// neither.
fn has_reserved_bits(whole: &[u8]) -> bool {
    let is_connect = whole[0] >> 4 == CONNECT;
    let flags = match whole[0] >> 4 {
        PUBLISH => return false,
        PUBREL | SUBSCRIBE | UNSUBSCRIBE => 2,
        _ => 0,
    };
    let reserved = || {
        let flags = level_at(whole).and_then(|at| whole.get(at + 1)).copied().unwrap_or_default();
        flags & 1 != 0 || flags & WILL == 0 && flags & WILL_DETAILS != 0 || flags & WILL_QOS == WILL_QOS
    };
    whole[0] & 15 != flags || is_connect && reserved()
}

/// Where the protocol level of a whole CONNECT is: behind the protocol's name.
fn level_at(whole: &[u8]) -> Option<usize> {
    let at = header_length(whole);
    let name = u16::from_be_bytes(*whole.get(at..)?.first_chunk::<2>()?);
    Some(at + 2 + usize::from(name))
}

/// Sets the Topic Alias Maximum of a whole CONNECT to 1. It is for aliases towards the client, of
/// which none is used; the library makes room for as many, and panics if there are 0.
fn limit_aliases(whole: &mut [u8]) -> Option<()> {
    let mut at = level_at(whole)?;
    if *whole.get(at)? != mqtt::Version::V5_0 as u8 {
        return None;
    }
    // Protocol level, flags, keep-alive; then as a packet has it: one byte, and a length.
    at += 3;
    let Frame::Of(length) = frame(whole.get(at..)?) else { return None };
    let end = at + length;
    at += header_length(whole.get(at..)?);
    while at < end {
        let (property, length) = Property::parse(whole.get(at..end)?).ok()?;
        if matches!(property, Property::TopicAliasMaximum(_)) {
            whole.get_mut(at + 1..at + 3)?.copy_from_slice(&1_u16.to_be_bytes());
        }
        at += length;
    }
    Some(())
}

/// The packet id of a whole acknowledgement with this first byte (MQTT 5.0 §3.5.2, §3.7.2).
fn id_of(kind: u8, whole: &[u8]) -> Option<u16> {
    match *whole {
        [first, length, high, low, ..] if first == kind && length < 0x80 => {
            Some(u16::from_be_bytes([high, low]))
        }
        _ => None,
    }
}

/// The length of the topic in a whole PUBLISH; 0 where there is none.
fn topic_length(whole: &[u8]) -> usize {
    let header = header_length(whole);
    match whole.get(header..header + 2) {
        Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
        _ => 0,
    }
}
