//! The two packets of the hot path, PUBLISH out and PUBACK in, and the framing round all packets.
//!
//! Everything else of MQTT goes through `mqtt-protocol-core`. These two are done here because there
//! is one of each for every record: written straight into the output buffer and read straight out
//! of the input buffer they cost a tenth of what building packet objects costs. It also lets a
//! PUBACK carry reason codes the standard gives only to DISCONNECT (0x95), which some brokers send.

use super::reason_code;

/// The user property `check` with the value `true` (MQTT 5.0 §3.3.2.3.7): what is published for
/// `tombolo check` has it.
pub const CHECK_PROPERTY: &[u8] = b"\x26\x00\x05check\x00\x04true";

/// Which MQTT is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1 (protocol level 4)
    V3_1_1,
    /// MQTT 5.0 (protocol level 5)
    V5,
}

impl Version {
    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V3_1_1 => "3.1.1",
            Version::V5 => "5",
        }
    }
}

/// Packet types, the upper four bits of a packet's first byte (MQTT 5.0 §2.1.2).
pub mod packet_type {
    /// CONNACK
    pub const CONNACK: u8 = 2;
    /// PUBLISH
    pub const PUBLISH: u8 = 3;
    /// PUBACK
    pub const PUBACK: u8 = 4;
    /// PUBREL
    pub const PUBREL: u8 = 6;
    /// DISCONNECT
    pub const DISCONNECT: u8 = 14;
}

/// What stands at the beginning of received bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Framed<'a> {
    /// One whole packet.
    Packet {
        /// Its type, the upper four bits of the first byte.
        packet_type: u8,
        /// Everything behind the fixed header.
        body: &'a [u8],
        /// Fixed header and body.
        whole: &'a [u8],
    },
    /// Not all of a packet yet.
    Incomplete,
    /// The length is not a valid variable byte integer, or the packet is longer than allowed.
    Malformed,
}

/// Splits the first packet off (MQTT 5.0 §2.1). `limit` is the greatest packet accepted, header
/// included.
pub fn split(bytes: &[u8], limit: usize) -> Framed<'_> {
    let Some(&first) = bytes.first() else {
        return Framed::Incomplete;
    };
    let mut length = 0usize;
    for (index, shift) in [(1, 0), (2, 7), (3, 14), (4, 21)] {
        let Some(&byte) = bytes.get(index) else {
            return Framed::Incomplete;
        };
        length |= usize::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            let end = index + 1 + length;
            if end > limit {
                return Framed::Malformed;
            }
            return match bytes.get(..end) {
                Some(whole) => Framed::Packet { packet_type: first >> 4, body: &whole[index + 1..], whole },
                None => Framed::Incomplete,
            };
        }
    }
    Framed::Malformed
}

/// An answer to a QoS 1 publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Which publish, `1..=65535`.
    pub packet_id: u16,
    /// The MQTT 5 reason code, 0 on 3.1.1; from 0x80 a refusal.
    pub code: u8,
}

/// Reads the body of a PUBACK (MQTT 3.1.1 §3.4, MQTT 5.0 §3.4); `None` if it is malformed.
pub fn parse_puback(version: Version, body: &[u8]) -> Option<Acknowledgement> {
    let (id, rest) = body.split_first_chunk::<2>()?;
    let packet_id = u16::from_be_bytes(*id);
    if packet_id == 0 {
        return None;
    }
    match (version, rest) {
        (_, []) => Some(Acknowledgement { packet_id, code: reason_code::SUCCESS }),
        (Version::V5, [code]) => Some(Acknowledgement { packet_id, code: *code }),
        (Version::V5, [code, properties @ ..]) => {
            let (length, used) = parse_variable(properties)?;
            (used + length == properties.len()).then_some(Acknowledgement { packet_id, code: *code })
        }
        (Version::V3_1_1, _) => None,
    }
}

/// A variable byte integer (MQTT 5.0 §1.5.5), and how many bytes it takes.
pub(super) fn parse_variable(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (index, shift) in [(0, 0), (1, 7), (2, 14), (3, 21)] {
        let byte = *bytes.get(index)?;
        value |= usize::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

/// Greatest value of a variable byte integer (MQTT 5.0 §1.5.5).
pub const VARIABLE_MAX: usize = 268_435_455;

/// How many bytes `value` takes as a variable byte integer: `1..=4`.
pub fn variable_size(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// Appends `value` as a variable byte integer; `value` is at most [`VARIABLE_MAX`].
pub fn push_variable(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Appends a UTF-8 string with its two length bytes; what is over 65,535 bytes is cut off.
pub fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    let length = text.len().min(usize::from(u16::MAX));
    out.extend_from_slice(&(length as u16).to_be_bytes());
    out.extend_from_slice(&text[..length]);
}

/// A PUBLISH ready to be written.
#[derive(Clone, Copy, Debug)]
pub struct Publish<'a> {
    /// `1..=65,535` bytes, no wildcard.
    pub topic: &'a [u8],
    /// `Some` = QoS 1, `None` = QoS 0.
    pub packet_id: Option<u16>,
    /// The retain flag.
    pub retain: bool,
    /// Encoded MQTT 5 properties without their length; ignored on 3.1.1.
    pub properties: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
}

/// The PUBLISH would be greater than the broker, or MQTT, allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// What it would have been, in bytes.
    pub size: usize,
}

/// Appends one PUBLISH (MQTT 5.0 §3.3) of at most `limit` bytes, header included.
///
/// # Errors
/// [`TooLarge`]; `out` is then unchanged.
pub fn push_publish(
    out: &mut Vec<u8>,
    version: Version,
    limit: usize,
    publish: &Publish<'_>,
) -> Result<(), TooLarge> {
    let properties = match version {
        Version::V5 => variable_size(publish.properties.len()) + publish.properties.len(),
        Version::V3_1_1 => 0,
    };
    let identifier = if publish.packet_id.is_some() { 2 } else { 0 };
    let remaining = 2 + publish.topic.len() + identifier + properties + publish.payload.len();
    let size = 1 + variable_size(remaining) + remaining;
    if size > limit || remaining > VARIABLE_MAX || publish.topic.len() > usize::from(u16::MAX) {
        return Err(TooLarge { size });
    }
    out.reserve(size);
    let qos = u8::from(publish.packet_id.is_some()) << 1;
    out.push(0x30 | qos | u8::from(publish.retain));
    push_variable(out, remaining);
    push_string(out, publish.topic);
    if let Some(id) = publish.packet_id {
        out.extend_from_slice(&id.to_be_bytes());
    }
    if version == Version::V5 {
        push_variable(out, publish.properties.len());
        out.extend_from_slice(publish.properties);
    }
    out.extend_from_slice(publish.payload);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_split_off_only_when_it_is_whole() {
        let bytes = [0x40, 2, 0, 7, 0xD0, 0];
        assert_eq!(split(&bytes[..1], 100), Framed::Incomplete);
        assert_eq!(split(&bytes[..3], 100), Framed::Incomplete);
        let Framed::Packet { packet_type, body, whole } = split(&bytes, 100) else { panic!() };
        assert_eq!((packet_type, body, whole), (4, &bytes[2..4], &bytes[..4]));
    }

    #[test]
    fn a_length_of_five_bytes_or_over_the_limit_is_malformed() {
        assert_eq!(split(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1], usize::MAX), Framed::Malformed);
        assert_eq!(split(&[0x30, 0xFF, 0x7F], 1000), Framed::Malformed);
    }

    #[test]
    fn a_puback_is_read_in_all_its_forms() {
        let ack = |code| Some(Acknowledgement { packet_id: 7, code });
        assert_eq!(parse_puback(Version::V3_1_1, &[0, 7]), ack(0));
        assert_eq!(parse_puback(Version::V5, &[0, 7]), ack(0));
        assert_eq!(parse_puback(Version::V5, &[0, 7, 0x10]), ack(0x10));
        assert_eq!(parse_puback(Version::V5, &[0, 7, 0x95, 0]), ack(0x95));
        assert_eq!(parse_puback(Version::V5, &[0, 7, 0x87, 4, 0x1F, 0, 1, b'x']), ack(0x87));
        assert_eq!(parse_puback(Version::V5, &[0, 7, 0x87, 9, 0x1F]), None);
        assert_eq!(parse_puback(Version::V5, &[0, 0]), None);
        assert_eq!(parse_puback(Version::V5, &[0]), None);
        assert_eq!(parse_puback(Version::V3_1_1, &[0, 7, 0]), None);
    }

    #[test]
    fn the_size_limit_counts_the_header() {
        let publish =
            Publish { topic: b"t", packet_id: Some(1), retain: false, properties: &[], payload: b"x" };
        let mut out = Vec::new();
        assert_eq!(push_publish(&mut out, Version::V5, 8, &publish), Err(TooLarge { size: 9 }));
        assert!(out.is_empty());
        push_publish(&mut out, Version::V5, 9, &publish).unwrap();
        assert_eq!(out, [0x32, 7, 0, 1, b't', 0, 1, 0, b'x']);
    }
}
