//! Encrypts and decrypts records (RFC 6347 §4.1.2, RFC 9146 §4–§5).
//!
//! | | additional data |
//! |---|---|
//! | without a connection id | epoch and number 8, type 1, version 2, length of the plaintext 2 |
//! | with one | ff × 8, 25, length of the connection id 1, 25, version 2, epoch and number 8, connection id, length of the inner plaintext 2 |
//!
//! The connection id is that of the record, so the two directions differ, and one may have none.
//!
//! The explicit part of a nonce is 40 random bits, drawn for each session and run of the process,
//! and a counter of 24 bits; when the counter is exhausted, the random bits are drawn again. So a
//! session can continue from a file of any age: uniqueness of nonces does not depend on the file.
//! The receiver reads the explicit part from the record.

use zeroize::Zeroizing;

use super::aead::Aead;
use super::chance::Chance;
use super::replay::Window;
use super::wire::{self, Incoming, TLS12_CID};
use crate::proto::dtls::alert;
use crate::proto::dtls::record::{ALERT, PLAINTEXT_MAX, VERSION_1_2};

/// The protected epoch; there is only one, because there is no renegotiation.
pub(super) const EPOCH: u16 = 1;
/// The end of record numbers (RFC 6347 §4.1); the next constant is their end if they are the
/// nonces.
const SEQUENCE_END: u64 = 1 << 48;
const NONCES_END: u64 = 1 << 32;
/// Record numbers reserved for the records that close the session.
const LAST_WORDS: u64 = 16;
/// The record number, and so the nonce, of the alert that ends a session of an earlier process. It
/// is above all numbers of data in any process, so that no nonce is repeated although it is not
/// known which numbers were used; and the record has the same content each time. It is not higher
/// because wolfSSL 5.5 drops a record numbered 2^33 or more above the last one.
const FAREWELL: u64 = NONCES_END;
/// The counter in an explicit nonce.
const COUNTER: u64 = (1 << 24) - 1;

/// Keys and fixed nonce parts of both directions; wiped when dropped.
pub(super) struct Keys {
    pub aead: Aead,
    bytes: Zeroizing<Box<[u8]>>,
}

impl Keys {
    /// From a key block: client key, server key, client IV, server IV (RFC 5246 §6.3). Its
    /// length is the cipher's.
    pub fn from_block(aead: Aead, block: &[u8]) -> Keys {
        Keys { aead, bytes: Zeroizing::new(block.into()) }
    }

    /// The key block.
    pub fn block(&self) -> &[u8] {
        &self.bytes
    }

    fn side(&self, server: usize) -> (&[u8], &[u8]) {
        let (key, iv) = (self.aead.key_length(), self.aead.iv_length());
        (&self.bytes[server * key..][..key], &self.bytes[2 * key + server * iv..][..iv])
    }

    fn client(&self) -> (&[u8], &[u8]) {
        self.side(0)
    }

    fn server(&self) -> (&[u8], &[u8]) {
        self.side(1)
    }

    fn nonce(&self, iv: &[u8], explicit: &[u8], number: u64) -> [u8; 12] {
        let mut nonce = [0; 12];
        if explicit.is_empty() {
            nonce[4..].copy_from_slice(&number.to_be_bytes());
            nonce.iter_mut().zip(iv).for_each(|(byte, iv)| *byte ^= iv);
        } else {
            nonce[..4].copy_from_slice(iv);
            nonce[4..].copy_from_slice(explicit);
        }
        nonce
    }
}

/// One side of a session's record layer, and what it has seen of the other.
pub(super) struct Protection {
    pub keys: Keys,
    /// The number of the next sent record.
    pub next_sequence: u64,
    nonce: u64,
    pub window: Window,
    /// Records that failed authentication.
    pub failures: u64,
}

/// A decrypted record.
pub(super) struct Opened {
    pub content_type: u8,
    /// Bytes of plaintext, at the front of the scratch buffer.
    pub length: usize,
    /// Whether it is the newest of its session.
    pub newest: bool,
}

/// Why a record was not decrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// A replay, or too old to tell.
    Replay,
    /// Not authentic, or malformed.
    Bad,
}

impl Protection {
    pub fn new(keys: Keys, chance: &mut Chance) -> Protection {
        let nonce = first_nonce(chance);
        Protection { keys, next_sequence: 0, nonce, window: Window::default(), failures: 0 }
    }

    /// Appends one record to `out`. `cid` is the peer's connection id; if it is empty the record
    /// has none. `None` if the record numbers are exhausted; the session is closed before that
    /// ([`is_spent`](Protection::is_spent)).
    pub fn seal(
        &mut self,
        out: &mut Vec<u8>,
        content_type: u8,
        cid: &[u8],
        plaintext: &[u8],
        chance: &mut Chance,
    ) -> Option<()> {
        if self.next_sequence >= self.end() {
            return None;
        }
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.seal_numbered(out, content_type, sequence, cid, plaintext, chance)
    }

    /// The end of the record numbers.
    fn end(&self) -> u64 {
        if self.numbers_are_nonces() { NONCES_END } else { SEQUENCE_END }
    }

    /// Whether only the reserved record numbers are left.
    pub fn is_spent(&self) -> bool {
        self.next_sequence >= self.end() - LAST_WORDS
    }

    /// Sets the next record number to `written + leap`, or to `written` if the numbers are the
    /// nonces. `None` if that is out of range.
    pub fn leap(&mut self, written: u64, leap: u64) -> Option<()> {
        // If the numbers are the nonces, an imported session sends only the one alert, whose number
        // is fixed.
        let leap = if self.numbers_are_nonces() { 0 } else { leap };
        self.next_sequence = written.checked_add(leap)?;
        (!self.is_spent()).then_some(())
    }

    fn numbers_are_nonces(&self) -> bool {
        self.keys.aead.explicit_length() == 0
    }

    /// Appends the fatal alert that ends a session of an earlier process.
    pub fn seal_farewell(
        &mut self,
        out: &mut Vec<u8>,
        cid: &[u8],
        description: u8,
        chance: &mut Chance,
    ) -> Option<()> {
        let alert = [alert::FATAL, description];
        match self.numbers_are_nonces() {
            true => self.seal_numbered(out, ALERT, FAREWELL, cid, &alert, chance),
            false => self.seal(out, ALERT, cid, &alert, chance),
        }
    }

    fn seal_numbered(
        &mut self,
        out: &mut Vec<u8>,
        content_type: u8,
        sequence: u64,
        cid: &[u8],
        plaintext: &[u8],
        chance: &mut Chance,
    ) -> Option<()> {
        let aead = self.keys.aead;
        let outer_type = if cid.is_empty() { content_type } else { TLS12_CID };
        let start = wire::open_record(out, outer_type, EPOCH, sequence, cid);
        let explicit = self.nonce.to_be_bytes();
        let explicit = &explicit[..aead.explicit_length()];
        out.extend(explicit);
        let from = out.len();
        out.extend(plaintext);
        if !cid.is_empty() {
            out.push(content_type);
        }
        let number = u64::from(EPOCH) << 48 | sequence;
        let mut aad = [0; AAD_MAX];
        let aad = additional_data(&mut aad, content_type, number, cid, out.len() - from);
        let (key, iv) = self.keys.server();
        let nonce = self.keys.nonce(iv, explicit, number);
        // Incremented before its use, so that it cannot be reused after an error.
        self.nonce = match self.nonce & COUNTER {
            COUNTER => first_nonce(chance),
            _ => self.nonce + 1,
        };
        aead.seal(key, &nonce, aad, out, from)?;
        wire::close_record(out, start, cid.len());
        Some(())
    }

    /// Opens a record of [`EPOCH`] into `scratch`.
    pub fn open(&mut self, record: &Incoming<'_>, scratch: &mut Vec<u8>) -> Result<Opened, Closed> {
        if !self.window.permits(record.sequence) {
            return Err(Closed::Replay);
        }
        let (content_type, length) = self.decrypt(record, scratch).ok_or_else(|| {
            self.failures += 1;
            Closed::Bad
        })?;
        let newest = self.window.accept(record.sequence);
        Ok(Opened { content_type, length, newest })
    }

    fn decrypt(&self, record: &Incoming<'_>, scratch: &mut Vec<u8>) -> Option<(u8, usize)> {
        let aead = self.keys.aead;
        let (explicit, content) = record.fragment.split_at_checked(aead.explicit_length())?;
        let inner = content.len().checked_sub(aead.tag_length())?;
        // With a connection id the content type and the padding count as plaintext (RFC 9146 §5).
        if inner > PLAINTEXT_MAX {
            return None;
        }
        let number = u64::from(record.epoch) << 48 | record.sequence;
        let cid = record.cid.as_ref().map_or(&[][..], |cid| &cid[..]);
        let mut aad = [0; AAD_MAX];
        let aad = additional_data(&mut aad, record.content_type, number, cid, inner);
        let (key, iv) = self.keys.client();
        let nonce = self.keys.nonce(iv, explicit, number);
        scratch.clear();
        scratch.extend(content);
        let mut length = aead.open(key, &nonce, aad, scratch)?;
        let mut content_type = record.content_type;
        if record.cid.is_some() {
            // The inner plaintext: content, its type, any number of zeros (RFC 9146 §4).
            length = scratch[..length].iter().rposition(|byte| *byte != 0)?;
            content_type = scratch[length];
        }
        Some((content_type, length))
    }
}

/// Room for the longest additional data: that with a connection id of 255 bytes.
const AAD_MAX: usize = 23 + 255;

fn additional_data<'a>(
    room: &'a mut [u8; AAD_MAX],
    content_type: u8,
    number: u64,
    cid: &[u8],
    length: usize,
) -> &'a [u8] {
    let version = VERSION_1_2.to_be_bytes();
    let length = (length as u16).to_be_bytes();
    let mut end = 0;
    let mut put = |bytes: &[u8]| {
        room[end..end + bytes.len()].copy_from_slice(bytes);
        end += bytes.len();
    };
    if cid.is_empty() {
        put(&number.to_be_bytes());
        put(&[content_type]);
        put(&version);
    } else {
        put(&[0xff; 8]);
        put(&[TLS12_CID, cid.len() as u8, TLS12_CID]);
        put(&version);
        put(&number.to_be_bytes());
        put(cid);
    }
    put(&length);
    &room[..end]
}

fn first_nonce(chance: &mut Chance) -> u64 {
    u64::from_be_bytes(chance.array()) & !COUNTER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spent_counter_is_followed_by_other_random_bits() {
        let mut chance = Chance::new(&[1; 32], b"");
        let keys = Keys::from_block(Aead::Ccm8, &[5; 40]);
        let mut protection = Protection::new(keys, &mut chance);
        protection.nonce |= COUNTER - 1;
        let before = protection.nonce;
        let mut nonces = Vec::new();
        for _ in 0..3 {
            let mut out = Vec::new();
            protection.seal(&mut out, 23, &[], b"x", &mut chance).unwrap();
            nonces.push(u64::from_be_bytes(out[13..21].try_into().unwrap()));
        }
        assert_eq!(nonces[..2], [before, before + 1]);
        assert_ne!(nonces[2] & !COUNTER, before & !COUNTER);
        assert_eq!(nonces[2] & COUNTER, 0);
    }

    #[test]
    fn no_record_is_numbered_beyond_its_range() {
        let mut chance = Chance::new(&[1; 32], b"");
        for (aead, block, end) in [(Aead::Gcm, &[5; 40][..], 1 << 48), (Aead::ChaCha, &[5; 88], FAREWELL)] {
            let mut protection = Protection::new(Keys::from_block(aead, block), &mut chance);
            protection.next_sequence = end - LAST_WORDS - 1;
            assert!(!protection.is_spent());
            for _ in 0..=LAST_WORDS {
                let mut out = Vec::new();
                assert!(protection.seal(&mut out, 23, &[], b"x", &mut chance).is_some());
                assert!(protection.is_spent());
            }
            assert!(protection.seal(&mut Vec::new(), 23, &[], b"x", &mut chance).is_none());
        }
    }

    #[test]
    fn numbers_leap_where_they_are_not_the_nonces() {
        let mut chance = Chance::new(&[1; 32], b"");
        let mut gcm = Protection::new(Keys::from_block(Aead::Gcm, &[5; 40]), &mut chance);
        assert_eq!((gcm.leap(7, 1 << 40), gcm.next_sequence), (Some(()), 7 + (1 << 40)));
        assert_eq!(gcm.leap(7, (1 << 48) - 7), None);
        assert_eq!(gcm.leap(u64::MAX, 1), None);
        let mut chacha = Protection::new(Keys::from_block(Aead::ChaCha, &[5; 88]), &mut chance);
        assert_eq!((chacha.leap(7, 1 << 40), chacha.next_sequence), (Some(()), 7));
    }

    #[test]
    fn a_farewell_is_the_same_record_in_every_process_and_has_a_number_of_its_own() {
        let keys = || Keys::from_block(Aead::ChaCha, &[5; 88]);
        let mut records = Vec::new();
        for seed in 0..3 {
            let mut chance = Chance::new(&[seed; 32], b"");
            let mut protection = Protection::new(keys(), &mut chance);
            protection.next_sequence = u64::from(seed) * 1_000;
            let mut out = Vec::new();
            protection.seal_farewell(&mut out, &[], 80, &mut chance).unwrap();
            assert_eq!(protection.next_sequence, u64::from(seed) * 1_000);
            records.push(out);
        }
        assert!(records.iter().all(|record| *record == records[0]));
        assert_eq!(records[0][5..11], FAREWELL.to_be_bytes()[2..]);
    }
}
