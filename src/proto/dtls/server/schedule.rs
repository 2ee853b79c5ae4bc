//! From secrets to keys (RFC 5246 §5, §6.3, §8.1, §7.4.9; RFC 4279 §2; RFC 5489 §2; RFC 7627 §4).

use aws_lc_rs::{digest, tls_prf};
use zeroize::Zeroizing;

use super::aead::Aead;
use super::protection::Keys;
use super::wire::Write as _;

/// Bytes of `verify_data`.
pub(super) const VERIFY_DATA: usize = 12;

/// The master secret.
pub(super) type Master = Zeroizing<[u8; 48]>;

/// The TLS pseudo-random function with SHA-256 (RFC 5246 §5). `None` if the library fails, which
/// happens only if memory is exhausted.
fn prf(secret: &[u8], label: &[u8], seed: &[u8], out: &mut [u8]) -> Option<()> {
    let secret = tls_prf::Secret::new(&tls_prf::P_SHA256, secret).ok()?;
    out.copy_from_slice(secret.derive(label, seed, out.len()).ok()?.as_ref());
    Some(())
}

/// SHA-256.
pub(super) fn hash(content: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, content).as_ref());
    out
}

/// The premaster secret of a key exchange with a pre-shared key. Without an ECDHE secret, zeros
/// with the length of the key replace it (RFC 4279 §2).
pub(super) fn psk_premaster(ecdhe: Option<&[u8]>, key: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut premaster =
        Zeroizing::new(Vec::with_capacity(4 + key.len() + ecdhe.map_or(key.len(), <[u8]>::len)));
    match ecdhe {
        Some(secret) => premaster.vector16(secret),
        None => {
            premaster.extend((key.len() as u16).to_be_bytes());
            premaster.resize(2 + key.len(), 0);
        }
    }
    premaster.vector16(key);
    premaster
}

/// What the master secret is bound to.
pub(super) enum Bound<'h> {
    /// The whole handshake up to and including ClientKeyExchange (RFC 7627 §4).
    Handshake(&'h [u8]),
    /// The two randoms, the client's first.
    Randoms(&'h [u8; 64]),
}

pub(super) fn master_secret(premaster: &[u8], bound: Bound<'_>) -> Option<Master> {
    let mut master = Zeroizing::new([0; 48]);
    match bound {
        Bound::Handshake(transcript) => {
            prf(premaster, b"extended master secret", &hash(transcript), &mut master[..])?;
        }
        Bound::Randoms(randoms) => prf(premaster, b"master secret", randoms, &mut master[..])?,
    }
    Some(master)
}

/// The keys from the key block. AEADs have no MAC keys. `randoms` has the client's first; the key
/// expansion uses the reverse order.
pub(super) fn keys(master: &Master, aead: Aead, randoms: &[u8; 64]) -> Option<Keys> {
    let mut seed = [0; 64];
    seed[..32].copy_from_slice(&randoms[32..]);
    seed[32..].copy_from_slice(&randoms[..32]);
    let length = 2 * (aead.key_length() + aead.iv_length());
    let mut block = Zeroizing::new([0; 88]);
    prf(&master[..], b"key expansion", &seed, &mut block[..length])?;
    Some(Keys::from_block(aead, &block[..length]))
}

/// `verify_data` of a Finished. `label` is `client finished` or `server finished`.
pub(super) fn verify_data(master: &Master, label: &[u8], transcript: &[u8]) -> Option<[u8; VERIFY_DATA]> {
    let mut out = [0; VERIFY_DATA];
    prf(&master[..], label, &hash(transcript), &mut out)?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_premaster_without_ecdhe_has_zeros_in_its_place() {
        assert_eq!(psk_premaster(None, b"key")[..], *b"\0\x03\0\0\0\0\x03key");
        assert_eq!(psk_premaster(Some(&[9, 8]), b"key")[..], *b"\0\x02\x09\x08\0\x03key");
    }

    /// The test vector of the TLS working group's list for P_SHA256 (tlsprftest, 2009).
    #[test]
    fn the_function_is_that_of_the_vector() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
        };
        let mut out = [0; 100];
        prf(
            &hex("9bbe436ba940f017b17652849a71db35"),
            b"test label",
            &hex("a0ba9f936cda311827a6f796ffd5198c"),
            &mut out,
        )
        .unwrap();
        assert_eq!(out[..16], hex("e3f229ba727be17b8d122620557cd453"));
    }
}
