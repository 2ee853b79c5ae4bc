//! JSON Web Tokens as the MQTT password (RFC 7519, RFC 7515 §7.1): what is signed, and how long it
//! serves. [`io::jwt`](super::io::jwt) reads the key and signs.
//!
//! | claim | value |
//! |---|---|
//! | `aud` | as configured |
//! | `sub` | the MQTT client id |
//! | `iat` | 60 s ago, for brokers whose clock is behind ours |
//! | `exp` | `iat` and the lifetime |
//!
//! A token is made for each connection, and none while the clock is not trusted: its times would
//! mean nothing. At [`RENEW_AT`] of what remains of its life the connection is replaced, before the
//! broker ends it.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::clock::UnixTime;

/// How far in the past a token is issued.
pub const ISSUED_BEFORE: Duration = Duration::from_secs(60);
/// Percent of a password's life after which the connection is replaced.
pub const RENEW_AT: u32 = 80;

/// How tokens are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSettings {
    /// The claim `aud`.
    pub audience: String,
    /// From `iat` to `exp`, `5 min ..= 24 h`, default 1 h.
    pub lifetime: Duration,
    /// Must fit the key.
    pub algorithm: JwtAlgorithm,
    /// The private key, PEM; read for each token.
    pub key_file: PathBuf,
}

/// A signature algorithm (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwtAlgorithm {
    /// ECDSA on P-256 with SHA-256; the default.
    Es256,
    /// Ed25519.
    EdDsa,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
}

impl JwtAlgorithm {
    /// As the header has it.
    pub const fn name(self) -> &'static str {
        match self {
            JwtAlgorithm::Es256 => "ES256",
            JwtAlgorithm::EdDsa => "EdDSA",
            JwtAlgorithm::Rs256 => "RS256",
        }
    }
}

/// The bytes to be signed: header and claims (RFC 7515 §5.1).
pub fn signing_input(settings: &JwtSettings, client_id: &str, now: UnixTime) -> String {
    let issued = now.as_secs().saturating_sub(ISSUED_BEFORE.as_secs());
    let header = serde_json::json!({ "alg": settings.algorithm.name(), "typ": "JWT" });
    let claims = serde_json::json!({
        "aud": settings.audience,
        "sub": client_id,
        "iat": issued,
        "exp": issued + settings.lifetime.as_secs(),
    });
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

/// The token: what was signed, and the signature (for ES256 r and s, 32 bytes each; RFC 7518 §3.4).
pub fn token(signing_input: &str, signature: &[u8]) -> String {
    format!("{signing_input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// How long a token that is made now serves.
pub fn life(settings: &JwtSettings) -> Duration {
    settings.lifetime.saturating_sub(ISSUED_BEFORE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_issued_a_minute_ago_for_its_lifetime() {
        let settings = JwtSettings {
            audience: "project-7".to_owned(),
            lifetime: Duration::from_secs(3600),
            algorithm: JwtAlgorithm::Es256,
            key_file: PathBuf::new(),
        };
        let input = signing_input(&settings, "gw-\"7", UnixTime::from_secs(1_700_000_060));
        let parts: Vec<serde_json::Value> = input
            .split('.')
            .map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap())
            .collect();
        assert_eq!(parts[0], serde_json::json!({ "alg": "ES256", "typ": "JWT" }));
        let expected = serde_json::json!({
            "aud": "project-7", "sub": "gw-\"7", "iat": 1_700_000_000, "exp": 1_700_003_600,
        });
        assert_eq!(parts[1], expected);
        assert_eq!(token("a.b", &[0xff, 0xfe]), "a.b.__4");
        assert_eq!(life(&settings), Duration::from_secs(3540));
    }
}
