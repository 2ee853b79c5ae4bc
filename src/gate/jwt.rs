//! JSON Web Tokens as MQTT passwords (RFC 7519, RFC 7515), signed by a key that the device keeps
//! and whose public half is registered.
//!
//! | of the token | must be |
//! |---|---|
//! | `alg` | the algorithm of a registered key: ES256, EdDSA or RS256. The key decides, never the token |
//! | `crit` | absent: no extension is understood |
//! | `aud` | the audience, or a list with it |
//! | `iat`, `exp` | there, at most [`LIFE_MAX`] apart, `exp` not past |
//! | `iat`, `nbf` | not ahead, where the clock is trusted |
//!
//! Device clocks drift: every time has [`DRIFT`] of tolerance. Without a trusted clock `exp` is
//! compared with a time that has certainly passed, as certificates are (decision 0016): a gateway
//! without a clock battery must not lock its devices out. The claims are judged before the
//! signature, which costs most.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::clock::UnixTime;
use crate::proto::der::{BIT_STRING, Der, INTEGER, OBJECT_IDENTIFIER, SEQUENCE};
use crate::proto::dtls::server::Clock;
use crate::telemetry::text::Escaped;

/// Most registered keys of a device.
pub const KEYS_MAX: usize = 4;
/// Longest token, in bytes.
pub const TOKEN_MAX: usize = 4_096;
/// How far the clock of a device may be off.
pub const DRIFT: Duration = Duration::from_secs(600);
/// Longest time from `iat` to `exp`, without [`DRIFT`].
pub const LIFE_MAX: Duration = Duration::from_secs(86_400);
/// Characters of a text of a token that are shown.
const SHOWN: usize = 64;
/// Audiences of a token that are shown.
const SHOWN_AUDIENCES: usize = 4;
/// Largest SubjectPublicKeyInfo, in bytes: RSA with 4,096 bits has 550.
const INFO_MAX: usize = 600;
/// Bits of an RSA modulus.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=4_096;
/// `id-ecPublicKey` (RFC 5480 §2.1.1)
const EC: &[u8] = b"\x2a\x86\x48\xce\x3d\x02\x01";
/// `secp256r1`
const P256: &[u8] = b"\x2a\x86\x48\xce\x3d\x03\x01\x07";
/// `id-Ed25519` (RFC 8410 §3)
const ED_25519: &[u8] = b"\x2b\x65\x70";
/// `rsaEncryption` (RFC 8017 appendix A.1)
const RSA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";

/// The algorithm of a registered key (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
}

impl SignatureAlgorithm {
    /// Its name in `alg`.
    pub fn as_str(self) -> &'static str {
        match self {
            SignatureAlgorithm::Es256 => "ES256",
            SignatureAlgorithm::EdDsa => "EdDSA",
            SignatureAlgorithm::Rs256 => "RS256",
        }
    }
}

/// A registered public key.
#[derive(Clone, PartialEq, Eq)]
pub struct JwtKey {
    /// What it signs with.
    pub algorithm: SignatureAlgorithm,
    /// From this time on it is not taken any more; `None` = never.
    pub until: Option<UnixTime>,
    /// Since when it is registered, as far as that is known.
    pub since: Option<UnixTime>,
    /// Its SubjectPublicKeyInfo in DER.
    info: Arc<[u8]>,
    /// Where in it the key itself begins.
    start: usize,
}

impl fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwtKey({}, until {:?})", self.algorithm.as_str(), self.until)
    }
}

/// Why a public key cannot be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFault {
    /// It is no SubjectPublicKeyInfo.
    Malformed,
    /// Another algorithm, curve or size.
    Unsupported,
}

impl fmt::Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyFault::Malformed => "is not a public key (SubjectPublicKeyInfo)",
            KeyFault::Unsupported => {
                "is of a kind that is not taken: use P-256 (ES256), Ed25519 (EdDSA) or RSA with 2,048 to 4,096 bits (RS256)"
            }
        })
    }
}

impl JwtKey {
    /// The key in a SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// [`KeyFault`]
    pub fn parse(info: &[u8], until: Option<UnixTime>) -> Result<JwtKey, KeyFault> {
        let (algorithm, start) = kind(info).ok_or(KeyFault::Malformed)?.ok_or(KeyFault::Unsupported)?;
        Ok(JwtKey { algorithm, until, since: None, info: info.into(), start })
    }

    /// Its SubjectPublicKeyInfo in DER.
    pub fn info(&self) -> &[u8] {
        &self.info
    }

    /// SHA-256 of its SubjectPublicKeyInfo: its name.
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, &self.info).as_ref());
        hash
    }

    /// Whether it is not taken any more.
    pub fn is_expired(&self, clock: Clock) -> bool {
        self.until.is_some_and(|until| until <= clock.time)
    }

    /// When a token expires that this key has signed and that expires itself at `end`.
    pub fn cut(&self, end: UnixTime) -> UnixTime {
        self.until.map_or(end, |until| until.min(end))
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match self.algorithm {
            SignatureAlgorithm::Es256 => &ECDSA_P256_SHA256_FIXED,
            SignatureAlgorithm::EdDsa => &ED25519,
            SignatureAlgorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
        };
        let key = self.info.get(self.start..).unwrap_or_default();
        UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
    }
}

/// The algorithm of a SubjectPublicKeyInfo (RFC 5280 §4.1.2.7), and where the key itself begins.
fn kind(info: &[u8]) -> Option<Option<(SignatureAlgorithm, usize)>> {
    let mut whole = Der(info);
    let mut content = Der(whole.expect(SEQUENCE)?);
    whole.end()?;
    let mut algorithm = Der(content.expect(SEQUENCE)?);
    let id = algorithm.expect(OBJECT_IDENTIFIER)?;
    // The first byte tells how many bits at the end are unused: none.
    let key = content.expect(BIT_STRING)?.strip_prefix(&[0])?;
    content.end()?;
    let start = info.len().checked_sub(key.len())?;
    let found = match id {
        EC if algorithm.expect(OBJECT_IDENTIFIER) == Some(P256) => {
            (key.len() == 65 && key.first() == Some(&4)).then_some(SignatureAlgorithm::Es256)
        }
        ED_25519 => (key.len() == 32).then_some(SignatureAlgorithm::EdDsa),
        RSA => {
            let mut numbers = Der(Der(key).expect(SEQUENCE)?);
            let modulus = numbers.expect(INTEGER)?;
            let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
            let unused = modulus.first().map_or(0, |first| first.leading_zeros() as usize);
            RSA_BITS.contains(&(8 * modulus.len() - unused)).then_some(SignatureAlgorithm::Rs256)
        }
        _ => None,
    };
    Some(found.filter(|_| info.len() <= INFO_MAX).map(|algorithm| (algorithm, start)))
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwtFault {
    /// It is no token in compact form (RFC 7515 §7.1), or longer than [`TOKEN_MAX`].
    Malformed,
    /// It needs an extension.
    Critical,
    /// It is for somebody else.
    Audience,
    /// It has no `exp` or no `iat`.
    Endless,
    /// Its life is longer than [`LIFE_MAX`].
    TooLong,
    /// Its `exp` is past.
    Expired,
    /// Its `iat` or `nbf` is ahead.
    Early,
    /// No key of its device has its algorithm.
    Algorithm,
    /// The only key of its device that has its algorithm is expired.
    KeyExpired,
    /// No key of its device made its signature.
    Signature,
}

impl JwtFault {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            JwtFault::Malformed => "the token is malformed",
            JwtFault::Critical => "the token needs an extension (crit), and none is known",
            JwtFault::Audience => "the token has another audience (aud)",
            JwtFault::Endless => "the token has no exp or no iat",
            JwtFault::TooLong => "the token is valid for more than 24 hours",
            JwtFault::Expired => "the token expired",
            JwtFault::Early => "the token is not valid yet (iat, nbf)",
            JwtFault::Algorithm => "no key of the device has the token's algorithm",
            JwtFault::KeyExpired => "the device's key for the token's algorithm expired",
            JwtFault::Signature => "the token's signature is of no key of the device",
        }
    }
}

/// Whether a password has the form of a token: three parts, the first the beginning of a JSON
/// object in base64url.
pub fn is_token(password: &[u8]) -> bool {
    password.starts_with(b"ey") && password.iter().filter(|byte| **byte == b'.').count() == 2
}

/// A token that was read; its signature is not verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Token<'t> {
    signed: &'t [u8],
    signature: Vec<u8>,
    algorithm: String,
    claims: Map<String, Value>,
}

impl<'t> Token<'t> {
    /// Reads a token in compact form.
    ///
    /// # Errors
    /// [`JwtFault::Malformed`], [`JwtFault::Critical`]
    pub fn parse(password: &'t [u8]) -> Result<Token<'t>, JwtFault> {
        let fault = JwtFault::Malformed;
        if password.len() > TOKEN_MAX {
            return Err(fault);
        }
        let dot = password.iter().rposition(|byte| *byte == b'.').ok_or(fault)?;
        let (signed, signature) = (&password[..dot], &password[dot + 1..]);
        let middle = signed.iter().position(|byte| *byte == b'.').ok_or(fault)?;
        let object = |part: &[u8]| match serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?) {
            Ok(Value::Object(object)) => Some(object),
            _ => None,
        };
        let header = object(&signed[..middle]).ok_or(fault)?;
        let claims = object(&signed[middle + 1..]).ok_or(fault)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| fault)?;
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(fault)?.to_owned();
        if header.contains_key("crit") {
            return Err(JwtFault::Critical);
        }
        Ok(Token { signed, signature, algorithm, claims })
    }

    /// The claim `sub`, if it is a text.
    pub fn subject(&self) -> Option<&str> {
        self.claims.get("sub")?.as_str()
    }

    /// Judges the token by the keys of its device. Returns when it expires, with [`DRIFT`], and the
    /// key that has signed it, which may [end it sooner](JwtKey::cut).
    ///
    /// # Errors
    /// [`JwtFault`]
    pub fn verify<'k>(
        &self,
        keys: &'k [JwtKey],
        audience: &str,
        clock: Clock,
    ) -> Result<(UnixTime, &'k JwtKey), JwtFault> {
        let is_for = |audience: &str| match self.claims.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(all)) => all.iter().any(|one| one == audience),
            _ => false,
        };
        if !is_for(audience) {
            return Err(JwtFault::Audience);
        }
        let (Some(issued), Some(end)) = (self.time("iat")?, self.time("exp")?) else {
            return Err(JwtFault::Endless);
        };
        let end = later(end, DRIFT);
        if end <= clock.time {
            return Err(JwtFault::Expired);
        }
        if end > later(later(issued, LIFE_MAX), DRIFT) {
            return Err(JwtFault::TooLong);
        }
        let begin = self.time("nbf")?.map_or(issued, |begin| begin.max(issued));
        if clock.trusted && begin > later(clock.time, DRIFT) {
            return Err(JwtFault::Early);
        }
        let mut fault = JwtFault::Algorithm;
        for key in keys.iter().filter(|key| key.algorithm.as_str() == self.algorithm) {
            if key.is_expired(clock) {
                fault = if fault == JwtFault::Algorithm { JwtFault::KeyExpired } else { fault };
            } else if key.verifies(self.signed, &self.signature) {
                return Ok((end, key));
            } else {
                fault = JwtFault::Signature;
            }
        }
        Err(fault)
    }

    /// Why it is refused, with what it says and what is expected; for people.
    pub fn explain(&self, fault: JwtFault, keys: &[JwtKey], audience: &str, clock: Clock) -> String {
        let times = |names: &[&str]| {
            let times = names.iter().filter_map(|name| Some((name, self.time(name).ok()??)));
            times.map(|(name, time)| format!("{name} {time}, ")).collect::<String>()
        };
        let detail = match fault {
            JwtFault::Audience => match self.claims.get("aud") {
                Some(Value::String(one)) => format!("{}, not {}", quoted(one), quoted(audience)),
                Some(Value::Array(all)) => {
                    let texts = all.iter().filter_map(Value::as_str).take(SHOWN_AUDIENCES).map(quoted);
                    format!("{}, none of them {}", texts.collect::<Vec<_>>().join(", "), quoted(audience))
                }
                _ => format!("none, not {}", quoted(audience)),
            },
            JwtFault::Expired => format!("{}and it is {} here", times(&["exp"]), clock.time),
            JwtFault::Early => format!("{}and it is {} here", times(&["iat", "nbf"]), clock.time),
            JwtFault::Algorithm => {
                let mut own: Vec<&str> = keys.iter().map(|key| key.algorithm.as_str()).collect();
                own.dedup();
                format!("{}, not {}", quoted(&self.algorithm), own.join(" or "))
            }
            _ => return fault.as_str().to_owned(),
        };
        format!("{}: {detail}", fault.as_str())
    }

    /// A NumericDate (RFC 7519 §2), which may have a fraction.
    fn time(&self, name: &str) -> Result<Option<UnixTime>, JwtFault> {
        let Some(value) = self.claims.get(name) else { return Ok(None) };
        // Until the year 9999; a fraction is cut off.
        let seconds = value.as_f64().filter(|seconds| (0.0..253_402_300_800.0).contains(seconds));
        seconds.map(|seconds| Some(UnixTime((seconds * 1_000.0) as u64))).ok_or(JwtFault::Malformed)
    }
}

/// A text from outside in quotes: harmless, and not longer than [`SHOWN`] characters.
pub fn quoted(text: &str) -> String {
    let begin: String = text.chars().take(SHOWN).collect();
    let more = if begin.len() < text.len() { "…" } else { "" };
    format!("\"{}{more}\"", Escaped(&begin))
}

fn later(time: UnixTime, by: Duration) -> UnixTime {
    UnixTime(time.0.saturating_add(by.as_millis() as u64))
}

#[cfg(test)]
pub(crate) mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
        RsaKeyPair,
    };
    use serde_json::json;

    use super::*;
    use crate::proto::der::encode;

    /// 2026-01-01
    pub(crate) const NOW: UnixTime = UnixTime::from_secs(1_767_225_600);

    pub(crate) enum Signer {
        Ec(EcdsaKeyPair),
        Ed(Ed25519KeyPair),
        Rsa(RsaKeyPair),
    }

    impl Signer {
        pub(crate) fn new(algorithm: SignatureAlgorithm) -> Signer {
            match algorithm {
                SignatureAlgorithm::Es256 => {
                    Signer::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key pair"))
                }
                SignatureAlgorithm::EdDsa => Signer::Ed(Ed25519KeyPair::generate().expect("a key pair")),
                SignatureAlgorithm::Rs256 => {
                    Signer::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key pair"))
                }
            }
        }

        pub(crate) fn info(&self) -> Vec<u8> {
            let (id, key) = match self {
                Signer::Ec(pair) => {
                    let id = [encode(OBJECT_IDENTIFIER, EC), encode(OBJECT_IDENTIFIER, P256)].concat();
                    (id, pair.public_key().as_ref().to_vec())
                }
                Signer::Ed(pair) => {
                    (encode(OBJECT_IDENTIFIER, ED_25519), pair.public_key().as_ref().to_vec())
                }
                Signer::Rsa(pair) => {
                    let id = [encode(OBJECT_IDENTIFIER, RSA), vec![5, 0]].concat();
                    (id, pair.public_key().as_ref().to_vec())
                }
            };
            let key = encode(BIT_STRING, &[vec![0], key].concat());
            encode(SEQUENCE, &[encode(SEQUENCE, &id), key].concat())
        }

        pub(crate) fn key(&self) -> JwtKey {
            JwtKey::parse(&self.info(), None).expect("a key")
        }

        fn sign(&self, message: &[u8]) -> Vec<u8> {
            let random = SystemRandom::new();
            match self {
                Signer::Ec(pair) => pair.sign(&random, message).expect("a signature").as_ref().to_vec(),
                Signer::Ed(pair) => pair.sign(message).as_ref().to_vec(),
                Signer::Rsa(pair) => {
                    let mut signature = vec![0; pair.public_modulus_len()];
                    pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).expect("a signature");
                    signature
                }
            }
        }

        pub(crate) fn token(&self, header: &Value, claims: &Value) -> String {
            let signed = unsigned(header, claims);
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(self.sign(signed.as_bytes())))
        }
    }

    pub(crate) fn unsigned(header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}", part(header), part(claims))
    }

    pub(crate) fn claims(issued: i64, end: i64) -> Value {
        let now = NOW.as_secs() as i64;
        json!({ "aud": "gw", "iat": now + issued, "exp": now + end })
    }

    fn judged(keys: &[JwtKey], token: &str, trusted: bool) -> Result<UnixTime, JwtFault> {
        assert!(is_token(token.as_bytes()));
        let token = Token::parse(token.as_bytes())?;
        token.verify(keys, "gw", Clock { time: NOW, trusted }).map(|(end, key)| key.cut(end))
    }

    #[test]
    fn each_algorithm_verifies_its_own_tokens_and_no_others() {
        let all = [SignatureAlgorithm::Es256, SignatureAlgorithm::EdDsa, SignatureAlgorithm::Rs256];
        let signers = all.map(Signer::new);
        let keys: Vec<JwtKey> = signers.iter().map(Signer::key).collect();
        for (signer, algorithm) in signers.iter().zip(all) {
            assert_eq!(signer.key().algorithm, algorithm);
            let token = signer.token(&json!({ "alg": algorithm.as_str() }), &claims(0, 3_600));
            let end = later(NOW, Duration::from_secs(4_200));
            assert_eq!(judged(&keys, &token, true), Ok(end));
            let other = Signer::new(algorithm);
            let forged = other.token(&json!({ "alg": algorithm.as_str() }), &claims(0, 3_600));
            assert_eq!(judged(&keys, &forged, true), Err(JwtFault::Signature), "another device's key");
            for wrong in all.into_iter().filter(|wrong| *wrong != algorithm) {
                let lies = signer.token(&json!({ "alg": wrong.as_str() }), &claims(0, 3_600));
                assert_eq!(judged(&keys, &lies, true), Err(JwtFault::Signature));
                assert_eq!(judged(&[signer.key()], &lies, true), Err(JwtFault::Algorithm));
            }
            // One changed byte anywhere.
            for at in (0..token.len()).step_by(7) {
                let mut changed = token.clone().into_bytes();
                changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
                if let Ok(token) = Token::parse(&changed) {
                    let clock = Clock { time: NOW, trusted: true };
                    // The last character of a signature may have unused bits.
                    assert!(token.verify(&keys, "gw", clock).is_err() || at == changed.len() - 1, "{at}");
                }
            }
        }
    }

    #[test]
    fn no_algorithm_of_the_tokens_choice_is_taken() {
        let signer = Signer::new(SignatureAlgorithm::Es256);
        let keys = [signer.key()];
        for none in ["none", "None", "", "HS256", "ES384", "RS256", "es256"] {
            let body = unsigned(&json!({ "alg": none }), &claims(0, 60));
            assert_eq!(judged(&keys, &format!("{body}."), true), Err(JwtFault::Algorithm), "{none}");
            // HS256 with the public key, which everybody may know, as its secret.
            let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, keys[0].info());
            let mac = URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&secret, body.as_bytes()));
            assert_eq!(judged(&keys, &format!("{body}.{mac}"), true), Err(JwtFault::Algorithm), "{none}");
        }
        let extended =
            signer.token(&json!({ "alg": "ES256", "crit": ["b64"], "b64": false }), &claims(0, 60));
        assert_eq!(judged(&keys, &extended, true), Err(JwtFault::Critical));
    }

    #[test]
    fn the_times_of_a_token_have_ten_minutes_of_drift_and_a_day_at_most() {
        let signer = Signer::new(SignatureAlgorithm::EdDsa);
        let keys = [signer.key()];
        let header = json!({ "alg": "EdDSA", "typ": "JWT" });
        let of = |claims: &Value, trusted| judged(&keys, &signer.token(&header, claims), trusted).err();
        for (issued, end, expected) in [
            (-3_600, -599, None),
            (-3_600, -600, Some(JwtFault::Expired)),
            (600, 3_600, None),
            (601, 3_600, Some(JwtFault::Early)),
            (0, 86_400, None),
            (0, 86_401, Some(JwtFault::TooLong)),
        ] {
            assert_eq!(of(&claims(issued, end), true), expected, "{issued} {end}");
        }
        let mut late = claims(0, 3_600);
        late["nbf"] = json!(NOW.as_secs() + 601);
        assert_eq!(of(&late, true), Some(JwtFault::Early));
        late["nbf"] = json!(NOW.as_secs() as f64 + 599.5);
        assert_eq!(of(&late, true), None);
        // A clock that is not trusted refuses what has certainly expired, and nothing else.
        assert_eq!(of(&claims(601, 3_600), false), None);
        assert_eq!(of(&claims(-3_600, -600), false), Some(JwtFault::Expired));
        for missing in ["iat", "exp"] {
            let mut claims = claims(0, 60);
            claims.as_object_mut().expect("an object").remove(missing);
            assert_eq!(of(&claims, true), Some(JwtFault::Endless));
            claims[missing] = json!("soon");
            assert_eq!(of(&claims, true), Some(JwtFault::Malformed));
        }
        for (audience, expected) in [
            (json!("other"), Some(JwtFault::Audience)),
            (json!(["other", "gw"]), None),
            (json!([]), Some(JwtFault::Audience)),
            (Value::Null, Some(JwtFault::Audience)),
        ] {
            let mut claims = claims(0, 60);
            claims["aud"] = audience;
            assert_eq!(of(&claims, true), expected);
        }
    }

    #[test]
    fn a_refusal_is_explained_with_what_came_and_what_is_expected() {
        let signer = Signer::new(SignatureAlgorithm::EdDsa);
        let keys = [signer.key()];
        let clock = Clock { time: NOW, trusted: true };
        let said = |header: Value, claims: &Value| {
            let text = signer.token(&header, claims);
            let token = Token::parse(text.as_bytes()).expect("a token");
            let fault = token.verify(&keys, "gw", clock).expect_err("a fault");
            token.explain(fault, &keys, "gw", clock)
        };
        let of = |audience: Value| {
            let mut claims = claims(0, 60);
            claims["aud"] = audience;
            said(json!({ "alg": "EdDSA" }), &claims)
        };
        let begin = "the token has another audience (aud)";
        assert_eq!(of(json!("gw2")), format!("{begin}: \"gw2\", not \"gw\""));
        assert_eq!(of(json!(["a", "b"])), format!("{begin}: \"a\", \"b\", none of them \"gw\""));
        assert_eq!(of(Value::Null), format!("{begin}: none, not \"gw\""));
        let hostile = of(json!(format!("\u{1b}[2J\u{202e}{}", "x".repeat(2_000))));
        assert!(hostile.chars().all(crate::telemetry::text::is_harmless) && hostile.len() < 250, "{hostile}");
        let expired = said(json!({ "alg": "EdDSA" }), &claims(-7_200, -3_600));
        assert!(
            expired.starts_with("the token expired: exp ") && expired.contains(&NOW.to_string()),
            "{expired}"
        );
        let other = said(json!({ "alg": "HS256" }), &claims(0, 60));
        assert_eq!(other, "no key of the device has the token's algorithm: \"HS256\", not EdDSA");
    }

    #[test]
    fn a_key_is_taken_until_its_date_and_ends_what_it_opened() {
        let signer = Signer::new(SignatureAlgorithm::Es256);
        let token = signer.token(&json!({ "alg": "ES256" }), &claims(0, 3_600));
        let until = |seconds: i64| {
            let until = UnixTime::from_secs((NOW.as_secs() as i64 + seconds) as u64);
            JwtKey { until: Some(until), ..signer.key() }
        };
        assert_eq!(judged(&[until(0)], &token, true), Err(JwtFault::KeyExpired));
        assert_eq!(judged(&[until(0), until(60)], &token, true), Ok(later(NOW, Duration::from_secs(60))));
    }

    #[test]
    fn what_is_no_key_of_a_known_kind_is_refused() {
        let good = Signer::new(SignatureAlgorithm::Es256).info();
        for length in 0..good.len() {
            assert_eq!(JwtKey::parse(&good[..length], None), Err(KeyFault::Malformed));
        }
        let mut other = good.clone();
        other[21] ^= 1; // in the curve
        assert_eq!(JwtKey::parse(&other, None), Err(KeyFault::Unsupported));
        for bytes in [&b"x"[..], b"ey.a", b"ey.a.b", b"eyJ.e30.e30", b"ey\xff..", b".."] {
            assert_eq!(Token::parse(bytes), Err(JwtFault::Malformed));
        }
    }
}
