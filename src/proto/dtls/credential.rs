//! Pre-shared keys by identity (RFC 4279).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

type Key = Zeroizing<Box<[u8]>>;

/// PSK identities and their keys. Cheap to clone; replaced as a whole on reload; keys are wiped
/// from memory with the last clone.
#[derive(Clone, Default)]
pub struct Keyring {
    keys: Arc<HashMap<Box<[u8]>, Key>>,
    /// The lengths of all keys.
    lengths: Arc<[u16]>,
}

impl Keyring {
    /// A keyring of pairs of identity and key; the caller ensures `1..=65535` bytes each. Of two
    /// pairs with one identity, the later one counts.
    pub fn new<I, K>(pairs: impl IntoIterator<Item = (I, K)>) -> Keyring
    where
        I: Into<Box<[u8]>>,
        K: Into<Box<[u8]>>,
    {
        let keys = pairs.into_iter().map(|(identity, key)| (identity.into(), Zeroizing::new(key.into())));
        let keys: HashMap<Box<[u8]>, Key> = keys.collect();
        let mut lengths: Vec<u16> =
            keys.values().map(|key| u16::try_from(key.len()).unwrap_or(u16::MAX)).collect();
        lengths.sort_unstable();
        Keyring { keys: Arc::new(keys), lengths: lengths.into() }
    }

    /// The length in bytes of one of the keys, chosen by the random number `drawn`. It is the
    /// length for the decoy key of an unknown identity, because the computation time depends on the
    /// length of the key.
    pub fn length_of_any(&self, drawn: u64) -> usize {
        let at = ((u128::from(drawn) * self.lengths.len() as u128) >> 64) as usize;
        self.lengths.get(at).copied().map_or(16, usize::from)
    }

    /// The key of an identity.
    pub fn key(&self, identity: &[u8]) -> Option<&[u8]> {
        self.keys.get(identity).map(|key| &key[..])
    }

    /// Whether both have the same key for `identity`. It compares two keyrings of this gateway, so
    /// its timing is not secret.
    pub fn agrees(&self, other: &Keyring, identity: &[u8]) -> bool {
        matches!((self.key(identity), other.key(identity)), (Some(a), Some(b)) if a == b)
    }

    /// The number of identities.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} identities)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_compared_and_never_shown() {
        let one = Keyring::new([(*b"a", *b"secret"), (*b"b", *b"hidden")]);
        let two = Keyring::new([(*b"a", *b"secret"), (*b"b", *b"other!")]);
        assert_eq!(one.key(b"a"), Some(&b"secret"[..]));
        assert_eq!(one.key(b"c"), None);
        assert!(one.agrees(&two, b"a"));
        assert!(!one.agrees(&two, b"b"));
        assert!(!one.agrees(&two, b"c"));
        assert_eq!(format!("{one:?}"), "Keyring(2 identities)");
    }

    #[test]
    fn the_lengths_of_keys_that_are_not_there_are_as_those_that_are() {
        let keyring = Keyring::new((0..100u8).map(|n| ([n], vec![n; if n < 75 { 16 } else { 40 }])));
        let drawn = (0..1_000u64).map(|n| n * (u64::MAX / 1_000));
        let (mut short, mut long) = (0, 0);
        for length in drawn.map(|drawn| keyring.length_of_any(drawn)) {
            match length {
                16 => short += 1,
                40 => long += 1,
                other => panic!("{other}"),
            }
        }
        assert!((740..=760).contains(&short) && short + long == 1_000, "{short}");
        assert_eq!(keyring.length_of_any(u64::MAX), 40);
        assert_eq!(Keyring::default().length_of_any(7), 16);
    }
}
