//! CoAP over a serial line (draft-bormann-t2trg-slipmux-04): SLIP frames with a type in their first
//! byte.
//!
//! | first byte | frame |
//! |---|---|
//! | `0xA9` | a CoAP message and its frame check sequence |
//! | `0x0A` | diagnostic text |
//! | `0x45..=0x4F`, `0x60..=0x6F` | an IPv4 or IPv6 packet |
//!
//! The check sequence is FCS-16 of RFC 1662 over the first byte and the message, low byte first. A
//! wired node is one CoAP peer, which is identified by its port.

use super::framing::slip;

/// First byte of a CoAP message.
pub const CONFIGURATION: u8 = 0xA9;
/// First byte of diagnostic text.
pub const DIAGNOSTIC: u8 = 0x0A;
/// Bytes of a frame beyond its message.
pub const OVERHEAD: usize = 3;

/// The content of one SLIP frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A complete CoAP message.
    Coap(&'a [u8]),
    /// Diagnostic text.
    Diagnostic(&'a [u8]),
    /// An IP packet, which is ignored.
    Packet(&'a [u8]),
}

/// The frame has an unknown type, or its frame check sequence is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// Decodes the content of a SLIP frame without escapes.
///
/// # Errors
/// [`Broken`].
pub fn decode(frame: &[u8]) -> Result<Frame<'_>, Broken> {
    match frame {
        [CONFIGURATION, ..] => {
            let (body, check) = frame.split_last_chunk::<2>().ok_or(Broken)?;
            let message = body.get(1..).filter(|message| !message.is_empty()).ok_or(Broken)?;
            if u16::from_le_bytes(*check) == fcs(body) { Ok(Frame::Coap(message)) } else { Err(Broken) }
        }
        [DIAGNOSTIC, text @ ..] => Ok(Frame::Diagnostic(text)),
        [0x45..=0x4F | 0x60..=0x6F, ..] => Ok(Frame::Packet(frame)),
        _ => Err(Broken),
    }
}

/// Appends the SLIP frame of a CoAP message to `out`.
pub fn encode(message: &[u8], out: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(message.len() + OVERHEAD);
    body.push(CONFIGURATION);
    body.extend_from_slice(message);
    let check = fcs(&body);
    body.extend_from_slice(&check.to_le_bytes());
    slip::encode(&body, out);
}

/// FCS-16 (RFC 1662 §C.2).
fn fcs(bytes: &[u8]) -> u16 {
    !step(0xFFFF, bytes)
}

fn step(start: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(start, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 != 0 { crc >> 1 ^ 0x8408 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_check_sequence_is_that_of_ppp_and_begins_with_the_frames_kind() {
        // The catalogue's check value of CRC-16/X-25, and the state after 0xA9 that RIOT-OS starts
        // from.
        assert_eq!(fcs(b"123456789"), 0x906E);
        assert_eq!(step(0xFFFF, &[CONFIGURATION]), 0x374C);
    }

    #[test]
    fn frames_are_told_apart_by_their_first_byte() {
        assert_eq!(decode(b"\x0Abooted"), Ok(Frame::Diagnostic(b"booted")));
        assert_eq!(decode(b"\x60\0\0"), Ok(Frame::Packet(b"\x60\0\0")));
        for broken in [&b""[..], b"\xA9", b"\xA9\x40\x00\x12\x34\0\0", b"\xFF", b"\x41"] {
            assert_eq!(decode(broken), Err(Broken), "{broken:x?}");
        }
    }

    proptest! {
        #[test]
        fn messages_come_back_and_one_wrong_bit_is_noticed(message in prop::collection::vec(any::<u8>(), 1..200), at: prop::sample::Index, bit in 0..8) {
            let mut wire = Vec::new();
            encode(&message, &mut wire);
            prop_assert!(wire.starts_with(&[slip::END]) && wire.ends_with(&[slip::END]));
            let mut frame = vec![CONFIGURATION];
            frame.extend_from_slice(&message);
            let check = fcs(&frame);
            frame.extend_from_slice(&check.to_le_bytes());
            prop_assert_eq!(decode(&frame), Ok(Frame::Coap(&message)));
            let at = at.index(frame.len());
            frame[at] ^= 1_u8 << bit;
            prop_assert!(!matches!(decode(&frame), Ok(Frame::Coap(_))));
        }
    }
}
