//! The DTLS 1.2 record layer as far as it can be read without keys (RFC 6347 §4.1, §4.2.2).
//!
//! A datagram contains complete records. If one is malformed, the rest of the datagram is dropped;
//! the records before it are valid.

use super::alert;

/// Bytes of a record header.
pub const HEADER: usize = 13;
/// Bytes of a handshake message header.
pub const HANDSHAKE_HEADER: usize = 12;
/// Most bytes of plaintext in one record (RFC 5246 §6.2.1).
pub const PLAINTEXT_MAX: usize = 1 << 14;

/// `change_cipher_spec`
pub const CHANGE_CIPHER_SPEC: u8 = 20;
/// `alert`
pub const ALERT: u8 = 21;
/// `handshake`
pub const HANDSHAKE: u8 = 22;
/// `application_data`
pub const APPLICATION_DATA: u8 = 23;

/// DTLS 1.0 on the wire; still in the record header of a client's first hello.
pub const VERSION_1_0: u16 = 0xfeff;
/// DTLS 1.2 on the wire.
pub const VERSION_1_2: u16 = 0xfefd;

/// One record of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'d> {
    /// The content type.
    pub content_type: u8,
    /// 0 before any key, 1 after the first ChangeCipherSpec.
    pub epoch: u16,
    /// 48 bits, per epoch.
    pub sequence: u64,
    /// Header and fragment, as on the wire.
    pub bytes: &'d [u8],
}

impl<'d> Record<'d> {
    /// The bytes after the header; ciphertext from epoch 1 on.
    pub fn fragment(&self) -> &'d [u8] {
        &self.bytes[HEADER..]
    }
}

/// The records of `datagram`, up to the first malformed one; then one `None`, so that the caller
/// can count it.
pub fn records(datagram: &[u8]) -> impl Iterator<Item = Option<Record<'_>>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let record = first_record(rest);
        rest = match record {
            Some(record) => &rest[record.bytes.len()..],
            None => &[],
        };
        Some(record)
    })
}

fn first_record(bytes: &[u8]) -> Option<Record<'_>> {
    let header: &[u8; HEADER] = bytes.first_chunk()?;
    let version = u16::from_be_bytes([header[1], header[2]]);
    let epoch = u16::from_be_bytes([header[3], header[4]]);
    // A client that does not know the server's version yet may use 1.0, but only before there are
    // keys.
    if version != VERSION_1_2 && (version != VERSION_1_0 || epoch != 0) {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([header[11], header[12]]));
    Some(Record {
        content_type: header[0],
        epoch,
        sequence: header[5..11].iter().fold(0, |number, byte| number << 8 | u64::from(*byte)),
        bytes: bytes.get(..HEADER + length)?,
    })
}

/// One handshake message, or a fragment of one, in plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeFragment<'d> {
    /// `msg_type`
    pub message_type: u8,
    /// Length of the whole message, in bytes.
    pub length: usize,
    /// `message_seq`
    pub message_sequence: u16,
    /// The offset of these bytes in the message.
    pub offset: usize,
    /// The bytes.
    pub body: &'d [u8],
}

impl HandshakeFragment<'_> {
    /// Whether this is the complete message.
    pub fn is_whole(&self) -> bool {
        self.body.len() == self.length
    }
}

/// The handshake messages in the fragment of a plaintext record; `None` if it has no messages, or
/// incomplete or inconsistent ones.
pub fn handshake_fragments(fragment: &[u8]) -> Option<Vec<HandshakeFragment<'_>>> {
    let mut messages = Vec::new();
    let mut rest = fragment;
    loop {
        let header: &[u8; HANDSHAKE_HEADER] = rest.first_chunk()?;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
        let (length, offset, here) = (number(&header[1..4]), number(&header[6..9]), number(&header[9..12]));
        let body = rest[HANDSHAKE_HEADER..].get(..here)?;
        // An empty fragment of a non-empty message is invalid.
        if offset + here > length || (here == 0 && length > 0) {
            return None;
        }
        messages.push(HandshakeFragment {
            message_type: header[0],
            length,
            message_sequence: u16::from_be_bytes([header[4], header[5]]),
            offset,
            body,
        });
        rest = &rest[HANDSHAKE_HEADER + here..];
        if rest.is_empty() {
            return Some(messages);
        }
    }
}

/// Encodes a plaintext record.
pub fn plain_record(content_type: u8, sequence: u64, fragment: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER + fragment.len());
    record.push(content_type);
    record.extend(VERSION_1_2.to_be_bytes());
    record.extend([0; 2]);
    record.extend(&sequence.to_be_bytes()[2..]);
    record.extend((fragment.len() as u16).to_be_bytes());
    record.extend(fragment);
    record
}

/// Encodes an unfragmented handshake message; `body` must be shorter than 2^16 bytes.
pub fn handshake_message(message_type: u8, message_sequence: u16, body: &[u8]) -> Vec<u8> {
    let length = &(body.len() as u32).to_be_bytes()[1..];
    let mut message = Vec::with_capacity(HANDSHAKE_HEADER + body.len());
    message.push(message_type);
    message.extend(length);
    message.extend(message_sequence.to_be_bytes());
    message.extend([0; 3]);
    message.extend(length);
    message.extend(body);
    message
}

/// Encodes a fatal alert in plaintext, 15 bytes, for use before there are keys.
pub fn fatal_alert(sequence: u64, description: u8) -> Vec<u8> {
    plain_record(ALERT, sequence, &[alert::FATAL, description])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::dtls::alert::{DECRYPT_ERROR, HANDSHAKE_FAILURE};
    use crate::proto::dtls::handshake_type::CLIENT_KEY_EXCHANGE;

    #[test]
    fn records_stand_one_behind_the_other() {
        let mut datagram = fatal_alert(7, HANDSHAKE_FAILURE);
        datagram.extend(fatal_alert(8, DECRYPT_ERROR));
        let read: Vec<_> = records(&datagram).map(Option::unwrap).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].content_type, read[0].epoch, read[0].sequence), (ALERT, 0, 7));
        assert_eq!(read[1].fragment(), [alert::FATAL, DECRYPT_ERROR]);
    }

    #[test]
    fn what_follows_an_unreadable_record_is_dropped_and_what_precedes_it_stands() {
        let mut datagram = fatal_alert(7, HANDSHAKE_FAILURE);
        datagram.extend([22, 0xfe, 0xfd]);
        assert_eq!(records(&datagram).map(|r| r.is_some()).collect::<Vec<_>>(), [true, false]);
        let mut wrong_version = fatal_alert(7, HANDSHAKE_FAILURE);
        wrong_version[1] = 3;
        assert_eq!(records(&wrong_version).map(|r| r.is_some()).collect::<Vec<_>>(), [false]);
        assert_eq!(records(&[]).count(), 0);
    }

    #[test]
    fn handshake_messages_must_fill_their_record() {
        let whole = [16, 0, 0, 2, 0, 2, 0, 0, 0, 0, 0, 2, 0xaa, 0xbb];
        let read = handshake_fragments(&whole).unwrap();
        assert_eq!(read.len(), 1);
        assert!(read[0].is_whole());
        assert_eq!((read[0].message_type, read[0].message_sequence), (CLIENT_KEY_EXCHANGE, 2));
        assert_eq!(handshake_fragments(&[&whole[..], &whole[..]].concat()).unwrap().len(), 2);
        for end in 0..whole.len() {
            assert_eq!(handshake_fragments(&whole[..end]), None, "{end}");
        }
        let mut beyond = whole;
        beyond[8] = 1;
        assert_eq!(handshake_fragments(&beyond), None);
    }
}
