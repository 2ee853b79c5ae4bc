//! Messages of the broker for devices: read from PUBLISH, answered by PUBACK, PUBREC and PUBCOMP.
//!
//! The library is passed by: an answer is sent when the message is durable, which is later, and its
//! store would not survive the process. Duplicates are the mailbox's to recognise.

use std::sync::Arc;

use mqtt::packet::{Property, Qos, v3_1_1, v5_0};
use mqtt_protocol_core::mqtt;

use super::wire::Version;

/// Messages of QoS 1 and 2 that may be unanswered, told to the broker in CONNECT (MQTT 5.0
/// §3.1.2.11.3).
pub const RECEIVE_MAXIMUM: u16 = 64;
/// Longest topic, response topic and correlation data that are handed on, in bytes.
const TEXT_MAX: usize = 1024;
/// Longest payload that is handed on, in bytes; of a longer one only the length is known.
const PAYLOAD_KEPT: usize = 16 << 10;

/// A message as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InboundMessage {
    /// The topic; one of more than 1,024 bytes is cut.
    pub topic: String,
    /// The payload; one of more than 16 KiB is cut.
    pub payload: Vec<u8>,
    /// The length of the whole payload.
    pub payload_length: usize,
    /// `0..=2`.
    pub qos: u8,
    /// Of QoS 1 and 2.
    pub packet_id: u16,
    /// The broker sent it before.
    pub duplicate: bool,
    /// It comes because of a subscription.
    pub retained: bool,
    /// Where the sender wants the response.
    pub response_topic: Option<String>,
    /// What the sender knows the response by.
    pub correlation: Option<Vec<u8>>,
    /// A property was too long, so the message cannot be carried out: which.
    pub too_long: Option<&'static str>,
    /// Seconds until it expires.
    pub expires_s: Option<u32>,
    /// The media type of the payload.
    pub content_type: Option<String>,
    /// The user property `method`.
    pub method: Option<String>,
    /// The user property `content-format`.
    pub content_format: Option<String>,
}

/// An answer to a message of QoS 1 or 2 (MQTT 5.0 §3.4 to §3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of QoS 1.
    Puback,
    /// Of QoS 2.
    Pubrec,
    /// To PUBREL.
    Pubcomp,
}

/// Reads a PUBLISH; `None` if it is malformed. `first` is the first byte of its fixed header.
pub fn parse_publish(version: Version, first: u8, body: &[u8]) -> Option<InboundMessage> {
    let body: Arc<[u8]> = body.into();
    let number = |qos: Qos| match qos {
        Qos::AtMostOnce => 0,
        Qos::AtLeastOnce => 1,
        Qos::ExactlyOnce => 2,
    };
    let mut message = InboundMessage::default();
    match version {
        Version::V3_1_1 => {
            let (publish, _) = v3_1_1::Publish::parse(first & 0x0F, body).ok()?;
            message.set(publish.topic_name(), publish.payload().as_slice());
            (message.qos, message.packet_id) = (number(publish.qos()), publish.packet_id().unwrap_or(0));
            (message.duplicate, message.retained) = (publish.dup(), publish.retain());
        }
        Version::V5 => {
            let (publish, _) = v5_0::Publish::parse(first & 0x0F, body).ok()?;
            message.set(publish.topic_name(), publish.payload().as_slice());
            (message.qos, message.packet_id) = (number(publish.qos()), publish.packet_id().unwrap_or(0));
            (message.duplicate, message.retained) = (publish.dup(), publish.retain());
            for property in publish.props() {
                message.take(property);
            }
        }
    }
    // Topic aliases were not allowed, and an id of 0 is none (MQTT 5.0 §2.2.1, §3.3.2.3.4).
    let is_sound = !message.topic.is_empty() && (message.qos == 0 || message.packet_id != 0);
    is_sound.then_some(message)
}

impl InboundMessage {
    fn set(&mut self, topic: &str, payload: &[u8]) {
        self.payload_length = payload.len();
        self.payload = payload[..payload.len().min(PAYLOAD_KEPT)].to_vec();
        if topic.len() > TEXT_MAX {
            self.too_long = Some("topic");
        }
        self.topic = topic.chars().take(TEXT_MAX).collect();
    }

    fn take(&mut self, property: &Property) {
        match property {
            Property::ResponseTopic(topic) if topic.val().len() <= TEXT_MAX => {
                self.response_topic = Some(topic.val().to_owned());
            }
            Property::ResponseTopic(_) => self.too_long = Some("response topic"),
            Property::CorrelationData(data) if data.val().len() <= TEXT_MAX => {
                self.correlation = Some(data.val().to_vec());
            }
            Property::CorrelationData(_) => self.too_long = Some("correlation data"),
            Property::MessageExpiryInterval(expiry) => self.expires_s = Some(expiry.val()),
            Property::ContentType(text) if text.val().len() <= 255 => {
                self.content_type = Some(text.val().to_owned());
            }
            Property::UserProperty(pair) if pair.val().len() <= 32 => match pair.key() {
                "method" => self.method = Some(pair.val().to_owned()),
                "content-format" => self.content_format = Some(pair.val().to_owned()),
                _ => {}
            },
            _ => {}
        }
    }
}

/// The packet id of a PUBREL; `None` if it is malformed.
pub fn parse_pubrel(version: Version, first: u8, body: &[u8]) -> Option<u16> {
    let (id, rest) = body.split_first_chunk::<2>()?;
    let id = u16::from_be_bytes(*id);
    let is_sound = id != 0 && first & 0x0F == 0x02 && (version == Version::V5 || rest.is_empty());
    is_sound.then_some(id)
}

/// Appends an answer: success, which is not written out (MQTT 5.0 §3.4.2.1).
pub fn push_answer(out: &mut Vec<u8>, answer: Answer, packet_id: u16) {
    let first = match answer {
        Answer::Puback => 0x40,
        Answer::Pubrec => 0x50,
        Answer::Pubcomp => 0x70,
    };
    let [high, low] = packet_id.to_be_bytes();
    out.extend_from_slice(&[first, 2, high, low]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_properties_of_a_request_are_read() {
        let properties = vec![
            mqtt::packet::ResponseTopic::new("app/answers").unwrap().into(),
            mqtt::packet::CorrelationData::new(b"\x00\x01").unwrap().into(),
            mqtt::packet::MessageExpiryInterval::new(30).unwrap().into(),
            mqtt::packet::UserProperty::new("method", "GET").unwrap().into(),
        ];
        let packet = v5_0::Publish::builder()
            .topic_name("tombolo/gw/door-7/down/t")
            .unwrap()
            .qos(Qos::ExactlyOnce)
            .packet_id(7u16)
            .dup(true)
            .props(properties)
            .payload(b"1".to_vec())
            .build()
            .unwrap();
        let bytes = packet.to_continuous_buffer();
        let message = parse_publish(Version::V5, bytes[0], &bytes[2..]).unwrap();
        assert_eq!(
            (message.qos, message.packet_id, message.duplicate, message.retained),
            (2, 7, true, false)
        );
        assert_eq!(message.response_topic.as_deref(), Some("app/answers"));
        assert_eq!(message.correlation.as_deref(), Some(&b"\x00\x01"[..]));
        assert_eq!((message.expires_s, message.method.as_deref()), (Some(30), Some("GET")));
        assert_eq!((message.topic.as_str(), &message.payload[..]), ("tombolo/gw/door-7/down/t", &b"1"[..]));
    }

    #[test]
    fn a_pubrel_has_its_flags_and_an_id() {
        assert_eq!(parse_pubrel(Version::V5, 0x62, &[0, 9]), Some(9));
        assert_eq!(parse_pubrel(Version::V5, 0x62, &[0, 9, 0x92, 0]), Some(9));
        assert_eq!(parse_pubrel(Version::V3_1_1, 0x62, &[0, 9, 0]), None);
        assert_eq!(parse_pubrel(Version::V5, 0x60, &[0, 9]), None);
        assert_eq!(parse_pubrel(Version::V5, 0x62, &[0, 0]), None);
    }

    #[test]
    fn an_answer_is_four_bytes_in_both_versions() {
        let mut out = Vec::new();
        push_answer(&mut out, Answer::Pubrec, 0x0102);
        push_answer(&mut out, Answer::Puback, 3);
        push_answer(&mut out, Answer::Pubcomp, 4);
        assert_eq!(out, [0x50, 2, 1, 2, 0x40, 2, 0, 3, 0x70, 2, 0, 4]);
    }
}
