//! The ciphers (RFC 6655 §3–§4, RFC 5288 §3, RFC 7905 §2). CCM is RustCrypto's, the others
//! aws-lc-rs's.
//!
//! Keys are stored unexpanded and expanded for each record: for AES that costs some tens of
//! nanoseconds, and saves about a kilobyte per session.

use aes::Aes128Enc;
use aws_lc_rs::aead::{self, LessSafeKey, Nonce, UnboundKey};
use ccm::Ccm;
use ccm::aead::{AeadInOut, KeyInit};
use ccm::consts::{U8, U12, U16};

/// The AEAD cipher of a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aead {
    /// AES-128-CCM with a tag of 8 bytes.
    Ccm8,
    /// AES-128-CCM with a tag of 16 bytes.
    Ccm,
    /// AES-128-GCM.
    Gcm,
    /// ChaCha20-Poly1305; its nonce is implied by the record's number.
    ChaCha,
}

/// Longest tag, in bytes.
const TAG_MAX: usize = 16;

impl Aead {
    pub fn key_length(self) -> usize {
        if self == Aead::ChaCha { 32 } else { 16 }
    }

    /// Bytes of the implicit nonce part, which is from the key block.
    pub fn iv_length(self) -> usize {
        if self == Aead::ChaCha { 12 } else { 4 }
    }

    /// Bytes of the explicit nonce part in each record.
    pub fn explicit_length(self) -> usize {
        if self == Aead::ChaCha { 0 } else { 8 }
    }

    pub fn tag_length(self) -> usize {
        if self == Aead::Ccm8 { 8 } else { 16 }
    }

    /// Bytes that protection adds to a record.
    pub fn overhead(self) -> usize {
        self.explicit_length() + self.tag_length()
    }

    /// Records that fail authentication until a session is closed. With a tag of 8 bytes the
    /// probability of a forgery is then 2^-40; the other limits follow RFC 9147 §4.5.3.
    pub fn failures_max(self) -> u64 {
        match self {
            Aead::Ccm8 => 1 << 24,
            Aead::Ccm => 1 << 23,
            Aead::Gcm | Aead::ChaCha => 1 << 36,
        }
    }

    /// Encrypts `out[from..]` in place and appends the tag. `None` only for a key of the wrong
    /// length.
    pub fn seal(
        self,
        key: &[u8],
        nonce: &[u8; 12],
        aad: &[u8],
        out: &mut Vec<u8>,
        from: usize,
    ) -> Option<()> {
        let mut tag = [0; TAG_MAX];
        let content = &mut out[from..];
        match self {
            Aead::Ccm8 => {
                let cipher = Ccm::<Aes128Enc, U8, U12>::new_from_slice(key).ok()?;
                let made = cipher.encrypt_inout_detached(nonce.into(), aad, content.into()).ok()?;
                tag[..8].copy_from_slice(&made);
            }
            Aead::Ccm => {
                let cipher = Ccm::<Aes128Enc, U16, U12>::new_from_slice(key).ok()?;
                let made = cipher.encrypt_inout_detached(nonce.into(), aad, content.into()).ok()?;
                tag.copy_from_slice(&made);
            }
            Aead::Gcm | Aead::ChaCha => {
                let nonce = Nonce::assume_unique_for_key(*nonce);
                let made = self.native(key)?.seal_in_place_separate_tag(nonce, aead::Aad::from(aad), content);
                tag.copy_from_slice(made.ok()?.as_ref());
            }
        }
        out.extend(&tag[..self.tag_length()]);
        Some(())
    }

    /// Decrypts in place. Returns the length of the plaintext at the front of `content`. `None` if
    /// it is not authentic; the contents of `content` are then unspecified.
    pub fn open(self, key: &[u8], nonce: &[u8; 12], aad: &[u8], content: &mut [u8]) -> Option<usize> {
        let length = content.len().checked_sub(self.tag_length())?;
        match self {
            Aead::Ccm8 => {
                let cipher = Ccm::<Aes128Enc, U8, U12>::new_from_slice(key).ok()?;
                let (content, tag) = content.split_at_mut(length);
                let tag = <&[u8; 8]>::try_from(&*tag).ok()?;
                cipher.decrypt_inout_detached(nonce.into(), aad, content.into(), tag.into()).ok()?;
            }
            Aead::Ccm => {
                let cipher = Ccm::<Aes128Enc, U16, U12>::new_from_slice(key).ok()?;
                let (content, tag) = content.split_at_mut(length);
                let tag = <&[u8; 16]>::try_from(&*tag).ok()?;
                cipher.decrypt_inout_detached(nonce.into(), aad, content.into(), tag.into()).ok()?;
            }
            Aead::Gcm | Aead::ChaCha => {
                let nonce = Nonce::assume_unique_for_key(*nonce);
                self.native(key)?.open_in_place(nonce, aead::Aad::from(aad), content).ok()?;
            }
        }
        Some(length)
    }

    fn native(self, key: &[u8]) -> Option<LessSafeKey> {
        let algorithm = if self == Aead::Gcm { &aead::AES_128_GCM } else { &aead::CHACHA20_POLY1305 };
        UnboundKey::new(algorithm, key).ok().map(LessSafeKey::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_and_nothing_else_does() {
        for aead in [Aead::Ccm8, Aead::Ccm, Aead::Gcm, Aead::ChaCha] {
            let key = vec![7; aead.key_length()];
            let mut sealed = b"front".to_vec();
            sealed.extend(b"content");
            aead.seal(&key, &[1; 12], b"about", &mut sealed, 5).unwrap();
            assert_eq!(sealed.len(), 12 + aead.tag_length());
            assert!(sealed.starts_with(b"front"));
            let mut opened = sealed[5..].to_vec();
            assert_eq!(aead.open(&key, &[1; 12], b"about", &mut opened), Some(7));
            assert!(opened.starts_with(b"content"));
            assert_eq!(aead.open(&key, &[2; 12], b"about", &mut sealed[5..].to_vec()), None);
            assert_eq!(aead.open(&key, &[1; 12], b"other", &mut sealed[5..].to_vec()), None);
            for at in 5..sealed.len() {
                let mut wrong = sealed[5..].to_vec();
                wrong[at - 5] ^= 1;
                assert_eq!(aead.open(&key, &[1; 12], b"about", &mut wrong), None);
            }
            for length in 0..aead.tag_length() {
                assert_eq!(aead.open(&key, &[1; 12], b"about", &mut vec![0; length]), None);
            }
        }
    }

    /// The keystream of the first content block is that of counter 1 (RFC 3610 §2.3).
    #[test]
    fn ccm_counts_its_blocks_from_the_first() {
        let mut content = vec![0; 16];
        Aead::Ccm8.seal(&[0; 16], &[0; 12], &[], &mut content, 0).unwrap();
        // CTR block 1 under an all-zero key: AES(02 00…00 00 00 01).
        use aes::cipher::{BlockCipherEncrypt, KeyInit};
        let mut block = [0; 16];
        (block[0], block[15]) = (2, 1);
        let mut block = block.into();
        Aes128Enc::new(&[0; 16].into()).encrypt_block(&mut block);
        assert_eq!(content[..16], block[..]);
    }
}
