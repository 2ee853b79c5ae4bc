//! Resolves PSK identities to keys for `dimpl`, and records the identity, for which `dimpl` has no
//! getter.

use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::proto::dtls::Keyring;

/// Returns keys and stores the last requested identity.
pub(super) struct Resolver {
    inner: Mutex<Inner>,
}

struct Inner {
    keyring: Keyring,
    claim: Option<Claim>,
}

/// The identity a client claims in its key exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub identity: Box<[u8]>,
    /// Whether there is a key for it. If not, `dimpl` continues with a random key, so that the
    /// client cannot tell.
    pub known: bool,
}

impl Resolver {
    pub fn new(keyring: Keyring) -> Resolver {
        Resolver { inner: Mutex::new(Inner { keyring, claim: None }) }
    }

    /// The identity requested since the last call.
    pub fn take_claim(&self) -> Option<Claim> {
        self.lock().claim.take()
    }

    /// Returns the keyring used so far.
    pub fn replace(&self, keyring: Keyring) -> Keyring {
        std::mem::replace(&mut self.lock().keyring, keyring)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing is left half done under this lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// A panic elsewhere leaves the lock's content whole, see `lock`.
impl UnwindSafe for Resolver {}
impl RefUnwindSafe for Resolver {}

impl ::dimpl::PskResolver for Resolver {
    fn resolve(&self, identity: &[u8]) -> Option<Vec<u8>> {
        let mut inner = self.lock();
        // The copy is dimpl's; it is not wiped when the session ends.
        let key = inner.keyring.key(identity).map(<[u8]>::to_vec);
        inner.claim = Some(Claim { identity: identity.into(), known: key.is_some() });
        key
    }
}
