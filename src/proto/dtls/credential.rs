//! Pre-shared keys by identity (RFC 4279).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

type Key = Zeroizing<Box<[u8]>>;

/// PSK identities and their keys. Cheap to clone; swapped whole on reload; keys are wiped from memory
/// with the last clone.
#[derive(Clone, Default)]
pub struct Keyring {
    keys: Arc<HashMap<Box<[u8]>, Key>>,
}

impl Keyring {
    /// From pairs of identity and key; `1..=65535` bytes each, which is the caller's to check. Of
    /// two pairs with one identity the later counts.
    pub fn new<I, K>(pairs: impl IntoIterator<Item = (I, K)>) -> Keyring
    where
        I: Into<Box<[u8]>>,
        K: Into<Box<[u8]>>,
    {
        let keys = pairs.into_iter().map(|(identity, key)| (identity.into(), Zeroizing::new(key.into())));
        Keyring { keys: Arc::new(keys.collect()) }
    }

    /// The key of an identity.
    pub fn key(&self, identity: &[u8]) -> Option<&[u8]> {
        self.keys.get(identity).map(|key| &key[..])
    }

    /// Whether both hold the same key for `identity`. Meant for two keyrings of one owner, so the
    /// time it takes is no secret.
    pub fn agrees(&self, other: &Keyring, identity: &[u8]) -> bool {
        matches!((self.key(identity), other.key(identity)), (Some(a), Some(b)) if a == b)
    }

    /// How many identities there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
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
}
