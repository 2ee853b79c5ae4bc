//! The cryptography of `dimpl`, but for one question: whether a cookie is its own.
//!
//! `dimpl` draws a cookie secret for each instance, which is state for whoever says hello. It asks
//! for HMAC-SHA256 through [`HmacProvider::hmac_sha256`] for cookies alone; the key schedule goes
//! through [`HmacProvider::hmac`]. So the answer to that one call can be the cookie we have checked
//! ourselves.

use std::cell::Cell;
use std::sync::LazyLock;

use ::dimpl::CryptoError;
use ::dimpl::crypto::{CryptoProvider, HashAlgorithm, HmacProvider, aws_lc_rs};

use crate::proto::dtls::cookie::COOKIE;

thread_local! {
    static COOKIE_AT_HAND: Cell<Option<[u8; COOKIE]>> = const { Cell::new(None) };
}

#[derive(Debug)]
struct Hmac;

static HMAC: Hmac = Hmac;
static REAL: LazyLock<CryptoProvider> = LazyLock::new(aws_lc_rs::default_provider);

/// What `dimpl` is given instead of its default.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider { hmac_provider: &HMAC, ..REAL.clone() }
}

/// While `call` runs, `cookie` is what an instance of this thread takes for its own.
pub(super) fn with_cookie<R>(cookie: &[u8; COOKIE], call: impl FnOnce() -> R) -> R {
    COOKIE_AT_HAND.set(Some(*cookie));
    let result = call();
    COOKIE_AT_HAND.set(None);
    result
}

impl HmacProvider for Hmac {
    fn hmac_sha256(&self, key: &[u8], data: &[u8]) -> Result<[u8; 32], CryptoError> {
        match COOKIE_AT_HAND.get() {
            Some(cookie) => Ok(cookie),
            None => REAL.hmac_provider.hmac_sha256(key, data),
        }
    }

    fn hmac(
        &self,
        hash: HashAlgorithm,
        key: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CryptoError> {
        REAL.hmac_provider.hmac(hash, key, data, out)
    }
}
