//! The parts of a whole MQTT packet, for those who look at packets that go by: where the payload of
//! a PUBLISH begins, where the password of a CONNECT stands, and what a packet is in a few words.

use super::wire::{self, Version, packet_type};

/// What a password is overwritten with.
const HIDDEN: u8 = b'*';
/// CONNECT (MQTT 5.0 §3.1).
const CONNECT: u8 = 1;
/// Flags of CONNECT (MQTT 5.0 §3.1.2.3).
const WILL: u8 = 0x04;
const PASSWORD: u8 = 0x40;
const USERNAME: u8 = 0x80;
/// The protocol level of MQTT 5.0.
const LEVEL_5: u8 = 5;

/// Reads a packet from its beginning.
struct Reader<'a> {
    packet: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Behind the fixed header.
    fn body(packet: &'a [u8]) -> Option<Reader<'a>> {
        let mut reader = Reader { packet, at: 1 };
        reader.variable()?;
        Some(reader)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.packet.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn short(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    /// A string, or binary data.
    fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.short()?;
        self.take(length.into())
    }

    fn variable(&mut self) -> Option<usize> {
        let (value, used) = wire::parse_variable(self.packet.get(self.at..)?)?;
        self.at += used;
        Some(value)
    }

    fn properties(&mut self) -> Option<()> {
        let length = self.variable()?;
        self.take(length).map(drop)
    }
}

fn kind(packet: &[u8]) -> u8 {
    packet.first().map_or(0, |first| first >> 4)
}

/// Where the payload of a PUBLISH begins; the packet's length for any other, or if it is malformed.
pub fn payload_at(version: Version, packet: &[u8]) -> usize {
    let publish = || {
        let mut reader = Reader::body(packet)?;
        reader.string()?;
        if packet.first()? & 0x06 != 0 {
            reader.short()?;
        }
        if version == Version::V5 {
            reader.properties()?;
        }
        Some(reader.at)
    };
    match kind(packet) {
        packet_type::PUBLISH => publish().unwrap_or(packet.len()),
        _ => packet.len(),
    }
}

/// A CONNECT with asterisks for its password; `None` for any other packet. Of a malformed one, all
/// behind the fixed header is hidden.
pub fn without_password(packet: &[u8]) -> Option<Vec<u8>> {
    if kind(packet) != CONNECT {
        return None;
    }
    let mut copy = packet.to_vec();
    let (from, to) = password(packet).unwrap_or((2, packet.len()));
    copy.get_mut(from..to).unwrap_or_default().fill(HIDDEN);
    Some(copy)
}

/// From where to where the password stands; an empty range if there is none.
fn password(packet: &[u8]) -> Option<(usize, usize)> {
    let mut reader = Reader::body(packet)?;
    reader.string()?;
    let (level, flags) = (reader.byte()?, reader.byte()?);
    reader.short()?;
    if level == LEVEL_5 {
        reader.properties()?;
    }
    reader.string()?;
    if flags & WILL != 0 {
        if level == LEVEL_5 {
            reader.properties()?;
        }
        reader.string()?;
        reader.string()?;
    }
    if flags & USERNAME != 0 {
        reader.string()?;
    }
    if flags & PASSWORD == 0 {
        return Some((reader.at, reader.at));
    }
    let length = usize::from(reader.short()?);
    let from = reader.at;
    reader.take(length)?;
    Some((from, from + length))
}

/// What a packet is: `PUBLISH a/b qos 1 id 7 retain`. The text of a topic is not escaped. The
/// packet may be cut off behind what is told.
pub fn describe(packet: &[u8]) -> String {
    let name = match kind(packet) {
        CONNECT => "CONNECT",
        packet_type::CONNACK => "CONNACK",
        packet_type::PUBLISH => "PUBLISH",
        packet_type::PUBACK => "PUBACK",
        5 => "PUBREC",
        packet_type::PUBREL => "PUBREL",
        7 => "PUBCOMP",
        8 => "SUBSCRIBE",
        9 => "SUBACK",
        10 => "UNSUBSCRIBE",
        11 => "UNSUBACK",
        12 => "PINGREQ",
        13 => "PINGRESP",
        packet_type::DISCONNECT => "DISCONNECT",
        15 => "AUTH",
        _ => "malformed packet",
    };
    let mut text = name.to_owned();
    let Some(mut reader) = Reader::body(packet) else { return text };
    let first = packet.first().copied().unwrap_or_default();
    match kind(packet) {
        packet_type::PUBLISH => {
            let topic = reader.string().map(String::from_utf8_lossy).unwrap_or_default();
            let qos = first >> 1 & 3;
            text.push_str(&format!(" {topic} qos {qos}"));
            if let Some(id) = (qos > 0).then(|| reader.short()).flatten() {
                text.push_str(&format!(" id {id}"));
            }
            if first & 1 != 0 {
                text.push_str(" retain");
            }
        }
        packet_type::PUBACK => {
            if let Some(id) = reader.short() {
                let code = reader.byte().unwrap_or_default();
                text.push_str(&format!(" id {id} code 0x{code:02x}"));
            }
        }
        packet_type::CONNACK => {
            if let Some(code) = reader.short().map(|both| both & 0xFF) {
                text.push_str(&format!(" code 0x{code:02x}"));
            }
        }
        packet_type::DISCONNECT => {
            if let Some(code) = reader.byte() {
                text.push_str(&format!(" code 0x{code:02x}"));
            }
        }
        _ => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

    use crate::northbound::session::{Opening, Session, Will};
    use crate::northbound::wire::{Publish, push_publish};

    fn connect(version: Version, has_will: bool, password: Option<&str>) -> Vec<u8> {
        let will = has_will.then(|| Will {
            topic: "t".to_owned(),
            payload: b"{\"online\":false}".to_vec(),
            at_least_once: true,
            retain: true,
        });
        let opening = Opening {
            version,
            client_id: "tb-test".to_owned(),
            keep_alive: Duration::from_secs(60),
            username: Some("user".to_owned()),
            password: password.map(|password| password.as_bytes().to_vec()),
            will,
            session_expiry: None,
        };
        Session::new(Instant::now(), &opening).outgoing().clone()
    }

    #[test]
    fn the_payload_of_a_publish_begins_behind_its_properties() {
        for (version, packet_id) in
            [(Version::V5, Some(7)), (Version::V5, None), (Version::V3_1_1, Some(7)), (Version::V3_1_1, None)]
        {
            let publish = Publish {
                topic: b"a/b",
                packet_id,
                retain: true,
                properties: &[0x01, 0x01],
                payload: b"payload",
            };
            let mut packet = Vec::new();
            push_publish(&mut packet, version, 1_000, &publish).unwrap();
            assert_eq!(&packet[payload_at(version, &packet)..], b"payload");
        }
        assert_eq!(payload_at(Version::V5, &[0x40, 2, 0, 7]), 4);
    }

    #[test]
    fn a_password_is_overwritten_and_nothing_else() {
        for version in [Version::V5, Version::V3_1_1] {
            for will in [false, true] {
                let packet = connect(version, will, Some("sesame"));
                let hidden = without_password(&packet).unwrap();
                assert_eq!(hidden.len(), packet.len());
                assert!(!String::from_utf8_lossy(&hidden).contains("sesame"));
                assert!(hidden.ends_with(b"user\0\x06******"), "{hidden:?}");
                assert_eq!(hidden[..hidden.len() - 6], packet[..packet.len() - 6]);
                let bare = connect(version, will, None);
                assert_eq!(without_password(&bare), Some(bare));
            }
        }
        assert_eq!(without_password(&[0xC0, 0]), None);
    }

    #[test]
    fn packets_are_described_in_a_few_words() {
        let mut packet = Vec::new();
        let publish =
            Publish { topic: b"a/b", packet_id: Some(7), retain: true, properties: &[], payload: b"x" };
        push_publish(&mut packet, Version::V5, 1_000, &publish).unwrap();
        assert_eq!(describe(&packet), "PUBLISH a/b qos 1 id 7 retain");
        assert_eq!(describe(&[0x40, 3, 0, 7, 0x87]), "PUBACK id 7 code 0x87");
        assert_eq!(describe(&[0x20, 3, 0, 0x86, 0]), "CONNACK code 0x86");
        assert_eq!(describe(&[0xC0, 0]), "PINGREQ");
        assert_eq!(describe(&[]), "malformed packet");
    }

    proptest! {
        #[test]
        fn hostile_packets_never_panic_and_a_malformed_connect_shows_nothing(
            mut packet in proptest::collection::vec(any::<u8>(), 0..64)
        ) {
            let _ = (payload_at(Version::V5, &packet), describe(&packet), without_password(&packet));
            if let Some(first) = packet.first_mut() {
                *first = 0x10;
            }
            let _ = without_password(&packet);
        }
    }
}
