//! A deterministic random generator: HMAC-SHA-256 over a counter, with the key replaced after each
//! draw, so that earlier output cannot be computed from the current state.

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

/// A random generator; see the module.
pub(super) struct Chance {
    key: Zeroizing<[u8; 32]>,
}

impl Chance {
    /// A generator for one purpose; different purposes of one seed are independent.
    pub fn new(seed: &[u8; 32], purpose: &[u8]) -> Chance {
        Chance { key: derive(seed, purpose) }
    }

    pub fn fill(&mut self, out: &mut [u8]) {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.key[..]);
        for (number, chunk) in (1u32..).zip(out.chunks_mut(32)) {
            let block = hmac::sign(&key, &number.to_be_bytes());
            chunk.copy_from_slice(&block.as_ref()[..chunk.len()]);
        }
        self.key.copy_from_slice(hmac::sign(&key, &[0; 4]).as_ref());
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }
}

/// A key for one purpose.
pub(super) fn derive(seed: &[u8; 32], purpose: &[u8]) -> Zeroizing<[u8; 32]> {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, seed), purpose);
    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(tag.as_ref());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_differ_by_seed_purpose_and_time() {
        let mut one = Chance::new(&[1; 32], b"a");
        let first: [u8; 40] = one.array();
        let drawn =
            [first, one.array(), Chance::new(&[1; 32], b"b").array(), Chance::new(&[2; 32], b"a").array()];
        for (at, value) in drawn.iter().enumerate() {
            assert!(drawn[..at].iter().all(|other| other != value));
        }
        assert_eq!(Chance::new(&[1; 32], b"a").array::<40>(), first);
    }
}
