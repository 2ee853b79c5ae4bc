//! The packets of both versions as one vocabulary: what a client sends, and what it is answered.
//!
//! `mqtt-protocol-core` parses and encodes; here the versions are told apart once, so that the rest
//! of the listener is written for both. A packet that cannot be built, because a text is too long
//! for the wire, is left out (`None`); all texts come from this program and are short.

use std::time::Duration;

use mqtt::packet::{GenericPacket, Properties, Property, Qos, v3_1_1, v5_0};
use mqtt::result_code::{
    ConnectReasonCode, ConnectReturnCode, DisconnectReasonCode, PubackReasonCode, PubcompReasonCode,
    PubrecReasonCode, SubackReasonCode, SubackReturnCode, UnsubackReasonCode,
};
use mqtt_protocol_core::mqtt;
use zeroize::Zeroizing;

use super::bus::{BusMessage, Options};
use super::settings::{PACKET_MAX, TOPIC_ALIAS_MAXIMUM};
use crate::message::ContentFormat;

/// Which MQTT is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1 (protocol level 4).
    V3_1_1,
    /// MQTT 5.0 (protocol level 5).
    V5,
}

impl Version {
    /// The name in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V3_1_1 => "3.1.1",
            Version::V5 => "5",
        }
    }
}

/// A packet of a client, as far as it concerns the listener.
pub(super) enum Inbound {
    /// CONNECT
    Connect(Box<Hello>),
    /// PUBLISH
    Publish(Message),
    /// PUBREL of this packet id.
    Pubrel(u16),
    /// SUBSCRIBE
    Subscribe { id: u16, entries: Vec<(String, Options)> },
    /// UNSUBSCRIBE
    Unsubscribe { id: u16, filters: Vec<String> },
    /// PINGREQ; the library has answered it.
    Ping,
    /// DISCONNECT
    Disconnect {
        /// Reason code 0x04: the will is published.
        with_will: bool,
        /// A Session Expiry Interval.
        session_expiry: Option<Duration>,
    },
    /// Of a publish to it.
    Puback {
        /// The packet id.
        id: u16,
        /// The reason code; 0 on 3.1.1.
        code: u8,
    },
    /// PUBREC of a publish to it.
    Pubrec {
        /// The packet id.
        id: u16,
        /// The reason code; 0 on 3.1.1.
        code: u8,
    },
    /// PUBCOMP of this packet id.
    Pubcomp(u16),
    /// PUBLISH of QoS 2 that has come on this connection before, by its packet id.
    Repeated(u16),
    /// AUTH, a packet that only a client may get, or one with what no client may send.
    Unexpected,
}

/// A CONNECT.
pub(super) struct Hello {
    pub(super) version: Version,
    pub(super) client_id: String,
    pub(super) clean: bool,
    /// `None` = off.
    pub(super) keep_alive: Option<Duration>,
    pub(super) will: Option<Will>,
    pub(super) username: Option<String>,
    pub(super) password: Option<Zeroizing<Vec<u8>>>,
    /// As asked for. On 3.1.1 a session that is not clean has no end.
    pub(super) session_expiry: Duration,
    /// Publishes of QoS 1 and 2 that it takes at once.
    pub(super) receive_maximum: u16,
    /// Extended authentication, which is not offered.
    pub(super) has_method: bool,
    pub(super) has_authentication_data: bool,
    /// Whether it may be sent Reason Strings.
    pub(super) wants_reasons: bool,
}

/// A message that a client leaves for the case that its connection is lost.
#[derive(Clone, Debug)]
pub(super) struct Will {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) content_format: Option<ContentFormat>,
    pub(super) delay: Duration,
    /// The Message Expiry Interval.
    pub(super) expiry: Option<Duration>,
    /// What local subscribers get with it, as on the wire.
    pub(super) properties: Vec<u8>,
}

/// A PUBLISH.
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: mqtt::ArcPayload,
    pub(super) qos: Qos,
    /// Of QoS 1 and 2.
    pub(super) id: u16,
    pub(super) retain: bool,
    pub(super) content_format: Option<ContentFormat>,
    /// The Message Expiry Interval.
    pub(super) expiry: Option<Duration>,
    /// What local subscribers get with it, as on the wire.
    pub(super) properties: Vec<u8>,
}

impl Inbound {
    /// Its packet identifier, which is never 0; `None` if a packet of its kind has none.
    pub(super) fn id(&self) -> Option<u16> {
        match self {
            Inbound::Publish(message) if message.qos == Qos::AtMostOnce => None,
            Inbound::Publish(Message { id, .. })
            | Inbound::Puback { id, .. }
            | Inbound::Pubrec { id, .. }
            | Inbound::Pubrel(id)
            | Inbound::Pubcomp(id)
            | Inbound::Subscribe { id, .. }
            | Inbound::Unsubscribe { id, .. } => Some(*id),
            Inbound::Repeated(_)
            | Inbound::Connect(_)
            | Inbound::Ping
            | Inbound::Disconnect { .. }
            | Inbound::Unexpected => None,
        }
    }
}

/// Session Expiry Interval 0xFFFFFFFF: the session does not expire (MQTT 5.0 §3.1.2.11.2).
const NEVER: u32 = u32::MAX;

fn expiry(seconds: u32) -> Duration {
    if seconds == NEVER { Duration::MAX } else { Duration::from_secs(seconds.into()) }
}

/// Reads a packet that the library has parsed and accepted.
pub(super) fn read(packet: GenericPacket<u16>) -> Inbound {
    match packet {
        GenericPacket::V3_1_1Connect(connect) => Inbound::Connect(Box::new(Hello {
            version: Version::V3_1_1,
            client_id: connect.client_id().to_owned(),
            clean: connect.clean_session(),
            keep_alive: keep_alive(connect.keep_alive()),
            will: connect.will_topic().map(|topic| Will {
                topic: topic.to_owned(),
                payload: connect.will_payload().unwrap_or_default().to_vec(),
                qos: connect.will_qos() as u8,
                retain: connect.will_retain(),
                content_format: None,
                delay: Duration::ZERO,
                expiry: None,
                properties: Vec::new(),
            }),
            username: connect.user_name().map(str::to_owned),
            password: connect.password().map(|password| Zeroizing::new(password.to_vec())),
            session_expiry: if connect.clean_session() { Duration::ZERO } else { Duration::MAX },
            receive_maximum: u16::MAX,
            has_method: false,
            has_authentication_data: false,
            wants_reasons: false,
        })),
        GenericPacket::V5_0Connect(connect)
            if !is_of_client(connect.will_props()) || !is_of_client(connect.props()) =>
        {
            Inbound::Unexpected
        }
        GenericPacket::V5_0Connect(connect) => Inbound::Connect(Box::new(hello(&connect))),
        // The library takes U+0000 (MQTT 5.0 §1.5.4).
        GenericPacket::V3_1_1Publish(publish) if publish.topic_name().contains('\0') => Inbound::Unexpected,
        GenericPacket::V5_0Publish(publish) if publish.topic_name().contains('\0') => Inbound::Unexpected,
        // DUP on QoS 0 (MQTT 5.0 §3.3.1.1).
        GenericPacket::V3_1_1Publish(publish) if publish.dup() && publish.qos() == Qos::AtMostOnce => {
            Inbound::Unexpected
        }
        GenericPacket::V5_0Publish(publish) if publish.dup() && publish.qos() == Qos::AtMostOnce => {
            Inbound::Unexpected
        }
        GenericPacket::V3_1_1Publish(publish) => Inbound::Publish(Message {
            topic: publish.topic_name().to_owned(),
            payload: publish.payload().clone(),
            qos: publish.qos(),
            id: publish.packet_id().unwrap_or_default(),
            retain: publish.retain(),
            content_format: None,
            expiry: None,
            properties: Vec::new(),
        }),
        GenericPacket::V5_0Publish(publish) if !is_of_client(publish.props()) => Inbound::Unexpected,
        GenericPacket::V5_0Publish(publish) => Inbound::Publish(Message {
            topic: publish.topic_name().to_owned(),
            payload: publish.payload().clone(),
            qos: publish.qos(),
            id: publish.packet_id().unwrap_or_default(),
            retain: publish.retain(),
            content_format: content_format(publish.props()),
            expiry: message_expiry(publish.props()),
            properties: forwarded(publish.props()),
        }),
        GenericPacket::V3_1_1Puback(puback) => Inbound::Puback { id: puback.packet_id(), code: 0 },
        GenericPacket::V5_0Puback(puback) => Inbound::Puback {
            id: puback.packet_id(),
            code: puback.reason_code().map_or(0, |code| code as u8),
        },
        GenericPacket::V3_1_1Pubrec(pubrec) => Inbound::Pubrec { id: pubrec.packet_id(), code: 0 },
        GenericPacket::V5_0Pubrec(pubrec) => Inbound::Pubrec {
            id: pubrec.packet_id(),
            code: pubrec.reason_code().map_or(0, |code| code as u8),
        },
        GenericPacket::V3_1_1Pubcomp(pubcomp) => Inbound::Pubcomp(pubcomp.packet_id()),
        GenericPacket::V5_0Pubcomp(pubcomp) => Inbound::Pubcomp(pubcomp.packet_id()),
        GenericPacket::V3_1_1Pubrel(pubrel) => Inbound::Pubrel(pubrel.packet_id()),
        GenericPacket::V5_0Pubrel(pubrel) => Inbound::Pubrel(pubrel.packet_id()),
        GenericPacket::V3_1_1Subscribe(subscribe) => {
            Inbound::Subscribe { id: subscribe.packet_id(), entries: entries(subscribe.entries(), None) }
        }
        // Two Subscription Identifiers (MQTT 5.0 §3.8.2.1.2).
        GenericPacket::V5_0Subscribe(subscribe)
            if subscribe
                .props()
                .iter()
                .filter(|p| matches!(p, Property::SubscriptionIdentifier(_)))
                .count()
                > 1 =>
        {
            Inbound::Unexpected
        }
        GenericPacket::V5_0Subscribe(subscribe) => Inbound::Subscribe {
            id: subscribe.packet_id(),
            entries: entries(
                subscribe.entries(),
                subscribe.props().iter().find_map(|property| match property {
                    Property::SubscriptionIdentifier(identifier) => Some(identifier.val()),
                    _ => None,
                }),
            ),
        },
        GenericPacket::V3_1_1Unsubscribe(unsubscribe) => Inbound::Unsubscribe {
            id: unsubscribe.packet_id(),
            filters: unsubscribe.entries().iter().map(|filter| filter.as_str().to_owned()).collect(),
        },
        GenericPacket::V5_0Unsubscribe(unsubscribe) => Inbound::Unsubscribe {
            id: unsubscribe.packet_id(),
            filters: unsubscribe.entries().iter().map(|filter| filter.as_str().to_owned()).collect(),
        },
        GenericPacket::V3_1_1Pingreq(_) | GenericPacket::V5_0Pingreq(_) => Inbound::Ping,
        GenericPacket::V3_1_1Disconnect(_) => Inbound::Disconnect { with_will: false, session_expiry: None },
        GenericPacket::V5_0Disconnect(disconnect) => Inbound::Disconnect {
            // Any other code than 0x00 keeps the will (MQTT 5.0 §3.1.2.5).
            with_will: disconnect
                .reason_code()
                .is_some_and(|code| code != DisconnectReasonCode::NormalDisconnection),
            session_expiry: disconnect.props().iter().flatten().find_map(|property| match property {
                Property::SessionExpiryInterval(seconds) => Some(expiry(seconds.val())),
                _ => None,
            }),
        },
        _ => Inbound::Unexpected,
    }
}

fn keep_alive(seconds: u16) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

fn entries(entries: &[mqtt::packet::SubEntry], identifier: Option<u32>) -> Vec<(String, Options)> {
    let one = |entry: &mqtt::packet::SubEntry| {
        let options = entry.sub_opts();
        let options = Options {
            qos: options.qos(),
            no_local: options.nl(),
            retain_as_published: options.rap(),
            retain_handling: options.rh(),
            identifier,
        };
        (entry.topic_filter().to_owned(), options)
    };
    entries.iter().map(one).collect()
}

fn hello(connect: &v5_0::Connect) -> Hello {
    let mut hello = Hello {
        version: Version::V5,
        client_id: connect.client_id().to_owned(),
        clean: connect.clean_start(),
        keep_alive: keep_alive(connect.keep_alive()),
        will: connect.will_topic().map(|topic| Will {
            topic: topic.to_owned(),
            payload: connect.will_payload().unwrap_or_default().to_vec(),
            qos: connect.will_qos() as u8,
            retain: connect.will_retain(),
            content_format: content_format(connect.will_props()),
            delay: Duration::ZERO,
            expiry: message_expiry(connect.will_props()),
            properties: forwarded(connect.will_props()),
        }),
        username: connect.user_name().map(str::to_owned),
        password: connect.password().map(|password| Zeroizing::new(password.to_vec())),
        session_expiry: Duration::ZERO,
        receive_maximum: u16::MAX,
        has_method: false,
        has_authentication_data: false,
        wants_reasons: true,
    };
    for property in connect.props() {
        match property {
            Property::SessionExpiryInterval(seconds) => hello.session_expiry = expiry(seconds.val()),
            Property::ReceiveMaximum(maximum) => hello.receive_maximum = maximum.val(),
            Property::AuthenticationMethod(_) => hello.has_method = true,
            Property::AuthenticationData(_) => hello.has_authentication_data = true,
            Property::RequestProblemInformation(wanted) => hello.wants_reasons = wanted.val() != 0,
            _ => {}
        }
    }
    let delay = connect.will_props().iter().find_map(|property| match property {
        Property::WillDelayInterval(seconds) => Some(Duration::from_secs(seconds.val().into())),
        _ => None,
    });
    if let Some(will) = &mut hello.will {
        will.delay = delay.unwrap_or_default();
    }
    hello
}

/// Whether a client may publish with these: without a Subscription Identifier, and with a Response
/// Topic that is one (MQTT 5.0 §3.3.2.3.5, §3.3.4). What others are to get has no character for
/// which they may end their connection (§1.5.4).
fn is_of_client(properties: &Properties) -> bool {
    properties.iter().all(|property| match property {
        Property::SubscriptionIdentifier(_) => false,
        Property::ResponseTopic(topic) => {
            let topic = topic.val();
            !topic.is_empty() && !topic.contains(['+', '#']) && is_text(topic)
        }
        Property::ContentType(text) => is_text(text.val()),
        Property::UserProperty(pair) => is_text(pair.key()) && is_text(pair.val()),
        _ => true,
    })
}

/// Whether a text has neither U+0000 nor a control character or non-character: a receiver may close
/// its connection for these, as mosquitto's does (MQTT 5.0 §1.5.4).
pub(super) fn is_text(text: &str) -> bool {
    let is_none =
        |c: char| matches!(c as u32 & 0xFFFF, 0xFFFE | 0xFFFF) || ('\u{FDD0}'..='\u{FDEF}').contains(&c);
    !text.chars().any(|c| c.is_control() || is_none(c))
}

/// The Message Expiry Interval (MQTT 5.0 §3.3.2.3.3).
fn message_expiry(properties: &Properties) -> Option<Duration> {
    properties.iter().find_map(|property| match property {
        Property::MessageExpiryInterval(seconds) => Some(Duration::from_secs(seconds.val().into())),
        _ => None,
    })
}

/// The properties that a server forwards unaltered and in order (MQTT 5.0 §3.3.2.3), as on the
/// wire.
fn forwarded(properties: &Properties) -> Vec<u8> {
    let wanted = properties.iter().filter(|property| {
        use Property as P;
        matches!(
            property,
            P::PayloadFormatIndicator(_)
                | P::ContentType(_)
                | P::ResponseTopic(_)
                | P::CorrelationData(_)
                | P::UserProperty(_)
        )
    });
    wanted.flat_map(Property::to_continuous_buffer).collect()
}

/// Reads what [`forwarded`] wrote.
fn properties(mut bytes: &[u8]) -> Option<Properties> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (property, length) = Property::parse(bytes).ok()?;
        all.push(property);
        bytes = bytes.get(length..)?;
    }
    Some(all)
}

/// The Content Type, if CoAP has a number for it.
fn content_format(properties: &Properties) -> Option<ContentFormat> {
    let text = properties.iter().find_map(|property| match property {
        Property::ContentType(text) => Some(text.val()),
        _ => None,
    })?;
    ContentFormat::from_media_type(text)
}

/// CONNACK of a success.
pub(super) struct Welcome<'w> {
    pub(super) session_present: bool,
    /// The client id, if the client had none.
    pub(super) assigned: Option<&'w str>,
    /// The session's expiry, if it is not as asked for.
    pub(super) session_expiry: Option<Duration>,
}

pub(super) fn welcome(
    version: Version,
    welcome: &Welcome<'_>,
    receive_maximum: Option<u16>,
) -> Option<GenericPacket<u16>> {
    if version == Version::V3_1_1 {
        let connack = v3_1_1::Connack::builder()
            .session_present(welcome.session_present)
            .return_code(ConnectReturnCode::Accepted);
        return Some(connack.build().ok()?.into());
    }
    let mut properties = vec![
        mqtt::packet::MaximumPacketSize::new(PACKET_MAX as u32).ok()?.into(),
        mqtt::packet::TopicAliasMaximum::new(TOPIC_ALIAS_MAXIMUM).ok()?.into(),
        mqtt::packet::SharedSubscriptionAvailable::new(0).ok()?.into(),
    ];
    if let Some(maximum) = receive_maximum {
        properties.push(mqtt::packet::ReceiveMaximum::new(maximum).ok()?.into());
    }
    if let Some(id) = welcome.assigned {
        properties.push(mqtt::packet::AssignedClientIdentifier::new(id).ok()?.into());
    }
    if let Some(expiry) = welcome.session_expiry {
        let seconds = u32::try_from(expiry.as_secs()).unwrap_or(NEVER);
        properties.push(mqtt::packet::SessionExpiryInterval::new(seconds).ok()?.into());
    }
    let connack = v5_0::Connack::builder()
        .session_present(welcome.session_present)
        .reason_code(ConnectReasonCode::Success)
        .props(properties);
    Some(connack.build().ok()?.into())
}

/// CONNACK of a refusal.
pub(super) fn refusal(version: Version, code: ConnectReasonCode) -> Option<GenericPacket<u16>> {
    Some(match version {
        Version::V3_1_1 => {
            let code = match code {
                ConnectReasonCode::ClientIdentifierNotValid => ConnectReturnCode::IdentifierRejected,
                ConnectReasonCode::BadUserNameOrPassword => ConnectReturnCode::BadUserNameOrPassword,
                ConnectReasonCode::ServerBusy
                | ConnectReasonCode::ServerUnavailable
                | ConnectReasonCode::QuotaExceeded
                | ConnectReasonCode::ConnectionRateExceeded => ConnectReturnCode::ServerUnavailable,
                _ => ConnectReturnCode::NotAuthorized,
            };
            v3_1_1::Connack::builder().session_present(false).return_code(code).build().ok()?.into()
        }
        Version::V5 => v5_0::Connack::builder().session_present(false).reason_code(code).build().ok()?.into(),
    })
}

/// PUBACK or PUBREC. `reason` is left out on 3.1.1, which has no codes either.
pub(super) fn acknowledgement(
    version: Version,
    id: u16,
    exactly_once: bool,
    code: PubackReasonCode,
    reason: Option<&str>,
) -> Option<GenericPacket<u16>> {
    let properties = || -> Option<Properties> {
        Some(match reason {
            Some(reason) => vec![mqtt::packet::ReasonString::new(reason).ok()?.into()],
            None => Vec::new(),
        })
    };
    Some(match (version, exactly_once) {
        (Version::V3_1_1, false) => v3_1_1::Puback::builder().packet_id(id).build().ok()?.into(),
        (Version::V3_1_1, true) => v3_1_1::Pubrec::builder().packet_id(id).build().ok()?.into(),
        (Version::V5, false) if code == PubackReasonCode::Success => {
            v5_0::Puback::builder().packet_id(id).build().ok()?.into()
        }
        (Version::V5, false) => {
            let puback = v5_0::Puback::builder().packet_id(id).reason_code(code).props(properties()?);
            puback.build().ok()?.into()
        }
        (Version::V5, true) if code == PubackReasonCode::Success => {
            v5_0::Pubrec::builder().packet_id(id).build().ok()?.into()
        }
        (Version::V5, true) => {
            let code = PubrecReasonCode::try_from(code as u8).unwrap_or(PubrecReasonCode::UnspecifiedError);
            let pubrec = v5_0::Pubrec::builder().packet_id(id).reason_code(code).props(properties()?);
            pubrec.build().ok()?.into()
        }
    })
}

/// PUBCOMP. `is_stored` also where the packet id is not known: PUBREL comes after a PUBREC, and for
/// 0x92 clients report a publish as failed that is stored.
pub(super) fn pubcomp(version: Version, id: u16, is_stored: bool) -> Option<GenericPacket<u16>> {
    Some(match (version, is_stored) {
        (Version::V3_1_1, _) => v3_1_1::Pubcomp::builder().packet_id(id).build().ok()?.into(),
        (Version::V5, true) => v5_0::Pubcomp::builder().packet_id(id).build().ok()?.into(),
        (Version::V5, false) => {
            let code = PubcompReasonCode::PacketIdentifierNotFound;
            v5_0::Pubcomp::builder().packet_id(id).reason_code(code).build().ok()?.into()
        }
    })
}

/// PUBREL of a publish to a client.
pub(super) fn pubrel(version: Version, id: u16) -> Option<GenericPacket<u16>> {
    Some(match version {
        Version::V3_1_1 => v3_1_1::Pubrel::builder().packet_id(id).build().ok()?.into(),
        Version::V5 => v5_0::Pubrel::builder().packet_id(id).build().ok()?.into(),
    })
}

/// SUBACK
pub(super) fn suback(version: Version, id: u16, codes: Vec<SubackReasonCode>) -> Option<GenericPacket<u16>> {
    Some(match version {
        Version::V3_1_1 => {
            let code = |code: SubackReasonCode| match code {
                SubackReasonCode::GrantedQos0 => SubackReturnCode::SuccessMaximumQos0,
                SubackReasonCode::GrantedQos1 => SubackReturnCode::SuccessMaximumQos1,
                SubackReasonCode::GrantedQos2 => SubackReturnCode::SuccessMaximumQos2,
                _ => SubackReturnCode::Failure,
            };
            let codes = codes.into_iter().map(code).collect();
            v3_1_1::Suback::builder().packet_id(id).return_codes(codes).build().ok()?.into()
        }
        Version::V5 => v5_0::Suback::builder().packet_id(id).reason_codes(codes).build().ok()?.into(),
    })
}

/// UNSUBACK
pub(super) fn unsuback(
    version: Version,
    id: u16,
    codes: Vec<UnsubackReasonCode>,
) -> Option<GenericPacket<u16>> {
    Some(match version {
        Version::V3_1_1 => v3_1_1::Unsuback::builder().packet_id(id).build().ok()?.into(),
        Version::V5 => v5_0::Unsuback::builder().packet_id(id).reason_codes(codes).build().ok()?.into(),
    })
}

/// How one client gets a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    /// The retain flag.
    pub(super) retain: bool,
    /// The Subscription Identifiers of the subscriptions that it is for.
    pub(super) identifiers: Vec<u32>,
    /// The Message Expiry Interval, in seconds.
    pub(super) expiry: Option<u32>,
}

/// PUBLISH of QoS 0, or with a packet id of QoS 1 or 2.
pub(super) fn publish(
    version: Version,
    message: &BusMessage<'_>,
    terms: &Terms,
    acknowledged: Option<Acknowledged>,
) -> Option<GenericPacket<u16>> {
    let (topic, payload) = (message.topic, message.payload.to_vec());
    let qos = match acknowledged {
        None => Qos::AtMostOnce,
        Some(Acknowledged { exactly_once: false, .. }) => Qos::AtLeastOnce,
        Some(Acknowledged { exactly_once: true, .. }) => Qos::ExactlyOnce,
    };
    Some(match version {
        Version::V3_1_1 => {
            let mut publish =
                v3_1_1::Publish::builder().topic_name(topic).ok()?.retain(terms.retain).payload(payload);
            if let Some(Acknowledged { id, again, .. }) = acknowledged {
                publish = publish.packet_id(id).dup(again);
            }
            publish.qos(qos).build().ok()?.into()
        }
        Version::V5 => {
            let mut publish =
                v5_0::Publish::builder().topic_name(topic).ok()?.retain(terms.retain).payload(payload);
            let mut properties = properties(message.properties)?;
            let has_type = properties.iter().any(|property| matches!(property, Property::ContentType(_)));
            let known = message.content_format.and_then(ContentFormat::media_type);
            if let Some(text) = known.filter(|_| !has_type) {
                properties.push(mqtt::packet::ContentType::new(text).ok()?.into());
            }
            if let Some(seconds) = terms.expiry {
                properties.push(mqtt::packet::MessageExpiryInterval::new(seconds).ok()?.into());
            }
            for identifier in &terms.identifiers {
                properties.push(mqtt::packet::SubscriptionIdentifier::new(*identifier).ok()?.into());
            }
            if let Some(Acknowledged { id, again, .. }) = acknowledged {
                publish = publish.packet_id(id).dup(again);
            }
            publish.qos(qos).props(properties).build().ok()?.into()
        }
    })
}

/// A publish of QoS 1 or 2 to a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledged {
    /// Its packet id.
    pub(super) id: u16,
    /// It was sent before, on another connection.
    pub(super) again: bool,
    /// QoS 2.
    pub(super) exactly_once: bool,
}

/// DISCONNECT; 3.1.1 has none from the server.
pub(super) fn disconnect(code: DisconnectReasonCode, reason: Option<&str>) -> Option<GenericPacket<u16>> {
    let mut builder = v5_0::Disconnect::builder().reason_code(code);
    if let Some(reason) = reason {
        builder = builder.props(vec![mqtt::packet::ReasonString::new(reason).ok()?.into()]);
    }
    Some(builder.build().ok()?.into())
}
