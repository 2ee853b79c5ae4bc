//! The cryptography provider of `dimpl`, with its cookie check replaced.
//!
//! `dimpl` has a cookie secret for each instance, which would be state for every hello. It computes
//! HMAC-SHA256 through [`HmacProvider::hmac_sha256`] only for cookies; the key schedule uses
//! [`HmacProvider::hmac`]. So that one call can return the cookie that was already verified.

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

/// The provider for `dimpl`.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider { hmac_provider: &HMAC, ..REAL.clone() }
}

/// While `call` runs, an instance on this thread accepts `cookie` as its own.
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
