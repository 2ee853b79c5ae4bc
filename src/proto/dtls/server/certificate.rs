//! Verification of devices with certificates or raw public keys, and the server's own credentials
//! (RFC 5280, RFC 7250).
//!
//! A path leads from the device's certificate through the certificates it sent and the configured
//! intermediates to a configured anchor. The structure of the chain is checked first ([`outline`]),
//! so that rustls-webpki, which checks the rest, has only one path to verify. The result is a
//! [`CertificateIdentity`] with its path, which is checked again during the session
//! ([`Trust::holds`]); the gate maps it to a device.
//!
//! While the clock is not trusted, the chain is verified at a time that has certainly passed, but
//! not before the notBefore of the certificates that the device sent; and again at a later time, if
//! the only fault is that a configured certificate is not valid yet.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
};
use rustls_pki_types::{
    CertificateDer, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime,
};
use webpki::aws_lc_rs as algorithms;
use webpki::{EndEntityCert, Error, KeyUsage, RawPublicKeyEntity, VerifiedPath};

use super::certification::{Above, AuthorityId, CertificationPath, Link, Paths};
use super::identity::CertificateIdentity;
use super::name::{DistinguishedName, content};
use super::outline::{self, Malformed, Outline};
use super::revocation::{self, KeyId, List, ListPolicy, Signer, is_signed, key_id, may_sign_lists};
use super::schedule::hash;
use crate::clock;

/// `ecdsa_secp256r1_sha256` and `ecdsa_secp384r1_sha384`, as the hash and signature pairs of RFC
/// 5246 §7.4.1.4.1.
pub(super) const ECDSA_SHA256: u16 = 0x0403;
pub(super) const ECDSA_SHA384: u16 = 0x0503;

/// Signature algorithms in chains; the handshake signatures of devices are ECDSA ([`verify`]).
pub(super) const CHAIN: [&dyn SignatureVerificationAlgorithm; 9] = [
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ED25519,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
];
/// Most certificates between the device's certificate and the anchor: the limit of rustls-webpki.
const DEPTH_MAX: usize = 6;
/// Most signatures that rustls-webpki verifies for one chain.
const SIGNATURES_MAX: u32 = 100;
/// Bytes of a revocation list that are hashed in the time of one signature verification.
const BYTES_A_SIGNATURE: usize = 64 * 1024;

/// Why a device's chain was not accepted.
#[derive(Debug)]
pub(super) enum ChainFault {
    /// Its structure is invalid; no signature was verified.
    Malformed(Malformed),
    /// There is no path to an anchor, or it is not valid.
    Path(Error),
}

/// The fault of a device's certificate, and the unproven names in it, escaped and cut.
pub(super) fn refusal(fault: &ChainFault, first: Option<&[u8]>) -> String {
    let error = match fault {
        // The names are unproven, but help to identify the device in the log.
        ChainFault::Malformed(malformed) => return named(malformed.to_string(), first),
        ChainFault::Path(error) => error,
    };
    let date = |time: &UnixTime| clock::UnixTime::from_secs(time.as_secs());
    let why = match error {
        Error::CertExpired { not_after, .. } => format!("it expired on {}", date(not_after)),
        Error::CertNotValidYet { not_before, .. } => format!("it is not valid before {}", date(not_before)),
        Error::CertRevoked => "it is revoked".to_owned(),
        Error::CrlExpired { next_update, .. } => format!(
            "the revocation list of one of its CAs expired on {}, and coap.crl-expired is \"refuse\"",
            date(next_update)
        ),
        Error::UnknownRevocationStatus => {
            "no revocation list came from coap.crl-url yet, and coap.crl-expired is \"refuse\"".to_owned()
        }
        Error::UnknownIssuer => "it leads to no CA in coap.client-ca-file".to_owned(),
        Error::CaUsedAsEndEntity => "it is a CA's own, not a device's".to_owned(),
        Error::UnsupportedCertVersion => "it is not of X.509 version 3".to_owned(),
        Error::BadDer => "it cannot be read".to_owned(),
        other => other.to_string(),
    };
    named(why, first)
}

fn named(why: String, first: Option<&[u8]>) -> String {
    let der = first.filter(|der| der.len() <= outline::BYTES_MAX).map(CertificateDer::from);
    match der.as_ref().and_then(|der| EndEntityCert::try_from(der).ok()) {
        Some(leaf) => format!("{why}; it says {}", CertificateIdentity::of(&leaf, None)),
        None => why,
    }
}

/// Why configured certificates or keys cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialError(pub String);

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CredentialError {}

/// The server's key, with its certificate chain if there is one.
pub struct ServerKey {
    /// The server's certificate first, then its intermediates; empty if there is only a raw public
    /// key.
    chain: Vec<Vec<u8>>,
    key: EcdsaKeyPair,
    public_key: Vec<u8>,
    curve: Curve,
}

/// The supported curves (RFC 8422 §5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Curve {
    P256 = 23,
    P384 = 24,
}

impl Curve {
    pub fn find(number: u16) -> Option<Curve> {
        [Curve::P256, Curve::P384].into_iter().find(|curve| *curve as u16 == number)
    }

    /// The size of an uncompressed point in bytes.
    pub fn point_length(self) -> usize {
        if self == Curve::P256 { 65 } else { 97 }
    }
}

impl ServerKey {
    /// A server key from a P-256 or P-384 key in DER (PKCS #8 or SEC 1, RFC 5915), and its
    /// certificate chain in DER, which may be empty.
    ///
    /// # Errors
    /// [`CredentialError`]: the key is malformed, or does not match the certificate.
    pub fn new(chain: Vec<Vec<u8>>, key: &[u8]) -> Result<ServerKey, CredentialError> {
        let fault = |what: &str| CredentialError(what.to_owned());
        let p256 = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, key);
        let p384 = || EcdsaKeyPair::from_private_key_der(&ECDSA_P384_SHA384_ASN1_SIGNING, key);
        let (key, curve) = p256
            .map(|key| (key, Curve::P256))
            .or_else(|_| p384().map(|key| (key, Curve::P384)))
            .map_err(|_| fault("the key is not one on P-256 or P-384"))?;
        let public_key = public_key_info(curve, key.public_key().as_ref());
        if let Some(first) = chain.first() {
            let certificate = CertificateDer::from(&first[..]);
            let certificate = EndEntityCert::try_from(&certificate)
                .map_err(|error| CredentialError(format!("the certificate cannot be read: {error}")))?;
            if certificate.subject_public_key_info().as_ref() != public_key {
                return Err(fault("the key is not that of the certificate"));
            }
        }
        if chain.iter().map(|certificate| certificate.len() + 3).sum::<usize>() > super::reassembly::BUDGET {
            return Err(fault("the certificate chain is longer than 16 kB"));
        }
        Ok(ServerKey { chain, key, public_key, curve })
    }

    pub(super) fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// The DER SubjectPublicKeyInfo, which devices can pin as a raw public key.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    pub(super) fn curve(&self) -> Curve {
        self.curve
    }

    pub(super) fn algorithm(&self) -> u16 {
        match self.curve {
            Curve::P256 => ECDSA_SHA256,
            Curve::P384 => ECDSA_SHA384,
        }
    }

    /// Shows that a device can verify what this key signs: a message is signed as in
    /// ServerKeyExchange (RFC 8422 §5.4) and verified by the certificate. Without a certificate
    /// there is nothing to show.
    ///
    /// # Errors
    /// [`CredentialError`]: a device would refuse it.
    pub fn prove(&self) -> Result<(), CredentialError> {
        let fault = |what: &str| CredentialError(what.to_owned());
        let Some(first) = self.chain.first() else { return Ok(()) };
        let message = [&self.public_key[..], b"ServerKeyExchange"].concat();
        let signature = self.sign(&message).ok_or_else(|| fault("the key cannot sign"))?;
        let algorithm = match self.curve {
            Curve::P256 => webpki::aws_lc_rs::ECDSA_P256_SHA256,
            Curve::P384 => webpki::aws_lc_rs::ECDSA_P384_SHA384,
        };
        let first = CertificateDer::from(&first[..]);
        EndEntityCert::try_from(&first)
            .and_then(|certificate| certificate.verify_signature(algorithm, &message, &signature))
            .map_err(|error| CredentialError(format!("a device would refuse it: {error}")))
    }

    /// Signs `message`. The library generates the random values of the signature.
    pub(super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let algorithm = if self.curve == Curve::P256 { &digest::SHA256 } else { &digest::SHA384 };
        let signature = self.key.sign_digest(&digest::digest(algorithm, message)).ok()?;
        Some(signature.as_ref().to_vec())
    }
}

impl fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerKey({:?}, {} certificates)", self.curve, self.chain.len())
    }
}

/// SubjectPublicKeyInfo of an uncompressed point (RFC 5480 §2).
pub(super) fn public_key_info(curve: Curve, point: &[u8]) -> Vec<u8> {
    const P256: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
    const P384: &[u8] =
        b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00";
    [if curve == Curve::P256 { P256 } else { P384 }, point].concat()
}

/// The trust anchors, intermediates, revocation lists and raw public keys for devices.
#[derive(Default)]
pub struct Trust {
    anchors: Vec<TrustAnchor<'static>>,
    intermediates: Vec<Intermediate>,
    /// The standing of each CA among anchors and intermediates.
    authorities: HashMap<AuthorityId, Standing>,
    revoked: Vec<List>,
    policy: ListPolicy,
    /// Upper bounds of the cost of verifying a chain.
    work: Work,
    raw_public_keys: HashSet<[u8; 32]>,
    /// A hash of everything.
    digest: [u8; 32],
}

/// A configured CA below an anchor.
struct Intermediate {
    der: CertificateDer<'static>,
    subject: Box<[u8]>,
    issuer: Box<[u8]>,
    key: Box<[u8]>,
    serial: Box<[u8]>,
    not_before: clock::UnixTime,
    not_after: clock::UnixTime,
}

/// Upper bounds of the cost of verifying a chain, in signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Work {
    /// Most paths from one name to an anchor, because several configured CAs may have one name. The
    /// signatures of each path are verified.
    ways: u32,
    /// The longest path, in configured certificates.
    depth: u32,
    /// The cost of verifying revocation lists that are not verified yet.
    lists: u32,
}

impl Default for Work {
    fn default() -> Self {
        Work { ways: 1, depth: 0, lists: 0 }
    }
}

/// The standing of a configured CA. An anchor is always trusted; an intermediate as long as its
/// certificate and those above it are valid. A session may end at a CA that was an anchor when the
/// session began and is an intermediate now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Until(clock::UnixTime),
    Revoked,
}

impl Standing {
    const ALWAYS: Standing = Standing::Until(clock::UnixTime(u64::MAX));

    /// The better of two.
    fn or(self, other: Standing) -> Standing {
        match (self, other) {
            (Standing::Until(one), Standing::Until(other)) => Standing::Until(one.max(other)),
            (Standing::Until(_), Standing::Revoked) => self,
            (Standing::Revoked, _) => other,
        }
    }

    /// The worse of two.
    fn and(self, other: Standing) -> Standing {
        match (self, other) {
            (Standing::Until(one), Standing::Until(other)) => Standing::Until(one.min(other)),
            _ => Standing::Revoked,
        }
    }
}

impl Intermediate {
    fn read(der: Vec<u8>) -> Option<Intermediate> {
        let outline = Outline::read(&der)?;
        let (subject, issuer, key) = (outline.subject.into(), outline.issuer.into(), outline.key.into());
        let (serial, not_before, not_after) = (outline.serial.into(), outline.not_before, outline.not_after);
        Some(Intermediate { der: der.into(), subject, issuer, key, serial, not_before, not_after })
    }
}

/// Why an identity that was verified is no longer valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lapse {
    /// A certificate of its path is revoked.
    Revoked,
    /// A certificate of its path has expired.
    Expired,
    /// The CA at the end of its path was removed from the configuration.
    AnchorRemoved,
    /// Its path is unknown.
    NoPath,
}

impl Trust {
    /// The trust material from anchors, intermediates and revocation lists in DER, and SHA-256
    /// hashes of the SubjectPublicKeyInfo of raw public keys.
    ///
    /// # Errors
    /// [`CredentialError`]: which of them cannot be read, or is a list in the name of a configured
    ///                      CA that is not signed by it.
    pub fn new(
        anchors: Vec<Vec<u8>>,
        intermediates: Vec<Vec<u8>>,
        revocation_lists: &[Vec<u8>],
        raw_public_keys: impl IntoIterator<Item = [u8; 32]>,
    ) -> Result<Trust, CredentialError> {
        let mut believed = Vec::with_capacity(anchors.len());
        for anchor in &anchors {
            let der = CertificateDer::from(&anchor[..]);
            let anchor = webpki::anchor_from_trusted_cert(&der)
                .map_err(|error| CredentialError(format!("an anchor cannot be read: {error}")))?;
            believed.push(anchor.to_owned());
        }
        let intermediates_digest = digest(intermediates.iter().map(|certificate| &certificate[..]));
        // A malformed configured certificate is ignored here; `check` reports it.
        let intermediates: Vec<Intermediate> =
            intermediates.into_iter().filter_map(Intermediate::read).collect();
        let above = believed.iter().zip(&anchors).map(|(anchor, der)| Signer {
            subject: content(&anchor.subject),
            key: &anchor.subject_public_key_info,
            may_sign: may_sign_lists(der),
        });
        let below = intermediates.iter().map(|intermediate| Signer {
            subject: &intermediate.subject,
            key: &intermediate.key,
            may_sign: may_sign_lists(&intermediate.der),
        });
        let signers: Vec<Signer<'_>> = above.chain(below).collect();
        let (mut revoked, mut work) = (Vec::new(), Work::default());
        for list in revocation_lists {
            let cost = 1 + u32::try_from(list.len() / BYTES_A_SIGNATURE).unwrap_or(u32::MAX / 256);
            let list = List::read(list, &signers)
                .map_err(|what| CredentialError(format!("a revocation list {what}")))?;
            work.lists = work.lists.saturating_add(if list.is_unverified() { cost } else { 0 });
            revoked.push(list);
        }
        let raw_public_keys: HashSet<[u8; 32]> = raw_public_keys.into_iter().collect();
        let mut keys: Vec<&[u8]> = raw_public_keys.iter().map(|key| &key[..]).collect();
        keys.sort_unstable();
        let parts = [
            digest(anchors.iter().map(|anchor| &anchor[..])),
            intermediates_digest,
            digest(revocation_lists.iter().map(|list| &list[..])),
            digest(keys),
        ];
        let mut trust = Trust {
            anchors: believed,
            intermediates,
            authorities: HashMap::new(),
            revoked,
            policy: ListPolicy::default(),
            work,
            raw_public_keys,
            digest: digest(parts.iter().map(|part| &part[..])),
        };
        trust.authorities = trust.standings();
        (trust.work.ways, trust.work.depth) = trust.ways();
        Ok(trust)
    }

    /// The standing of the configured CAs, from names and revocation lists only.
    fn standings(&self) -> HashMap<AuthorityId, Standing> {
        let mut named: HashMap<&[u8], Vec<usize>> = HashMap::new();
        for (at, intermediate) in self.intermediates.iter().enumerate() {
            named.entry(&*intermediate.subject).or_default().push(at);
        }
        let anchors: HashSet<&[u8]> = self.anchors.iter().map(|anchor| content(&anchor.subject)).collect();
        let own = |ca: &Intermediate| {
            let above = self.anchors.iter().filter(|anchor| content(&anchor.subject) == &*ca.issuer);
            let above = above.map(|anchor| &*anchor.subject_public_key_info);
            let beside = named.get(&*ca.issuer).into_iter().flatten().map(|at| &*self.intermediates[*at].key);
            let key = above.chain(beside).find(|key| is_signed(&ca.der, key)).map(key_id);
            match self.is_revoked(&ca.issuer, key.as_ref(), &ca.serial) {
                true => Standing::Revoked,
                false => Standing::Until(ca.not_after),
            }
        };
        let own: Vec<Standing> = self.intermediates.iter().map(own).collect();
        // Each round goes one certificate further up; the depth bounds the number of rounds.
        let mut standings = own.clone();
        for _ in 0..DEPTH_MAX {
            let above = |intermediate: &Intermediate| match named.get(&*intermediate.issuer) {
                _ if anchors.contains(&*intermediate.issuer) => Standing::ALWAYS,
                Some(found) => found.iter().map(|at| standings[*at]).fold(Standing::Revoked, Standing::or),
                None => Standing::ALWAYS,
            };
            let next = self.intermediates.iter().zip(&own).map(|(ca, own)| own.and(above(ca)));
            standings = next.collect();
        }
        let mut authorities: HashMap<AuthorityId, Standing> =
            self.anchors.iter().map(|anchor| (id_of(anchor), Standing::ALWAYS)).collect();
        for (intermediate, standing) in self.intermediates.iter().zip(standings) {
            let Ok(ca) = webpki::anchor_from_trusted_cert(&intermediate.der) else { continue };
            let known = authorities.entry(id_of(&ca)).or_insert(standing);
            *known = known.or(standing);
        }
        authorities
    }

    /// Whether there are trust anchors.
    pub(super) fn has_anchors(&self) -> bool {
        !self.anchors.is_empty()
    }

    pub(super) fn has_raw_public_keys(&self) -> bool {
        !self.raw_public_keys.is_empty()
    }

    pub(super) fn knows(&self, key_hash: &[u8; 32]) -> bool {
        self.raw_public_keys.contains(key_hash)
    }

    /// Whether a list revokes the certificate with this issuer and serial number; the issuer's key
    /// may be unknown.
    fn is_revoked(&self, issuer: &[u8], key: Option<&KeyId>, serial: &[u8]) -> bool {
        self.revoked.iter().any(|list| list.revokes(issuer, key, serial))
    }

    /// The same with another way with lists that have expired, or are not there yet.
    #[must_use]
    pub fn with_list_policy(mut self, policy: ListPolicy) -> Trust {
        self.policy = policy;
        if policy != ListPolicy::default() {
            let flags = [u8::from(policy.refuse_expired), u8::from(policy.missing)];
            self.digest = digest([&self.digest[..], &flags[..]]);
        }
        self
    }

    /// The names, sorted, of the configured CAs that had a revocation list in `before` and have
    /// none now.
    pub fn without_list_since(&self, before: &Trust) -> Vec<String> {
        let listed = |name: &[u8], key: &KeyId| {
            let signs = |list: &List| {
                let (issuer, signers) = list.signers();
                content(issuer) == name && signers.contains(key)
            };
            self.revoked.iter().any(signs)
        };
        let anchors =
            self.anchors.iter().map(|anchor| (content(&anchor.subject), &*anchor.subject_public_key_info));
        let below = self.intermediates.iter().map(|ca| (&*ca.subject, &*ca.key));
        let configured: HashSet<(&[u8], KeyId)> =
            anchors.chain(below).map(|(name, key)| (name, key_id(key))).collect();
        let lists = before.revoked.iter().map(List::signers);
        let had = lists.flat_map(|(issuer, signers)| signers.iter().map(move |key| (content(issuer), *key)));
        let lost = had.filter(|ca| configured.contains(ca) && !listed(ca.0, &ca.1));
        let name = |(name, _): (&[u8], KeyId)| DistinguishedName::from_der(name).map(|name| name.to_string());
        let mut names: Vec<String> =
            lost.map(|ca| name(ca).unwrap_or_else(|| "a CA with an unusual name".to_owned())).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Checks a verified path again: no certificate of it is revoked or expired, and its anchor is
    /// still configured, as an anchor or as an intermediate. Other anchors do not matter.
    pub(super) fn holds(&self, identity: &CertificateIdentity, clock: Clock) -> Result<(), Lapse> {
        let path = identity.path().ok_or(Lapse::NoPath)?;
        let Standing::Until(until) = *self.authorities.get(&path.above.anchor).ok_or(Lapse::AnchorRemoved)?
        else {
            return Err(Lapse::Revoked);
        };
        let above = path.above.links.iter().map(|link| (&*link.issuer, &*link.serial));
        let mut all = [(&*identity.issuer, identity.serial())].into_iter().chain(above).enumerate();
        if all.any(|(at, (issuer, serial))| self.is_revoked(issuer, path.above.keys.get(at), serial)) {
            return Err(Lapse::Revoked);
        }
        // The time is the current time, or, if the clock is not trusted, one that has certainly
        // passed.
        if path.ends().min(until).as_secs() < clock.time.as_secs() { Err(Lapse::Expired) } else { Ok(()) }
    }

    /// The earliest notAfter of the path of an identity, including a former anchor that is an
    /// intermediate now.
    pub(super) fn ends(&self, identity: &CertificateIdentity) -> Option<clock::UnixTime> {
        let path = identity.path()?;
        match self.authorities.get(&path.above.anchor) {
            Some(Standing::Until(until)) => Some(path.ends().min(*until)),
            _ => Some(path.ends()),
        }
    }

    /// The largest number of configured paths from one name to an anchor, and the length of the
    /// longest one.
    fn ways(&self) -> (u32, u32) {
        let mut ends: HashMap<&[u8], u32> = HashMap::new();
        for anchor in &self.anchors {
            *ends.entry(content(&anchor.subject)).or_default() += 1;
        }
        let (mut ways, mut depth) = (ends.clone(), 0);
        for round in 1..=DEPTH_MAX as u32 {
            let mut next = ends.clone();
            for intermediate in &self.intermediates {
                let above = ways.get(&*intermediate.issuer).copied().unwrap_or(0);
                let sum = next.entry(&*intermediate.subject).or_default();
                *sum = sum.saturating_add(above).min(SIGNATURES_MAX);
            }
            if next == ways {
                break;
            }
            (ways, depth) = (next, round);
        }
        (ways.into_values().max().unwrap_or(1).max(1), depth)
    }

    /// The most signatures that verifying a device's chain may need: those of the chain as sent,
    /// and the same number with the configured intermediates, for each path to an anchor. While the
    /// clock is not trusted, differing paths may be tried at two times. Revocation lists of CAs
    /// that only devices send are verified after the path.
    pub(super) fn work(&self, is_trusted: bool) -> u32 {
        if self.anchors.is_empty() {
            return 0;
        }
        let Work { ways, depth, lists } = self.work;
        let way = outline::CERTIFICATES_MAX as u32 + depth.saturating_sub(1);
        let once = ways.saturating_mul(way).min(SIGNATURES_MAX);
        let sent = if self.intermediates.is_empty() { 1 } else { 2 };
        let times = if is_trusted || ways == 1 { 1 } else { 2 };
        (once * sent * times).saturating_add(lists)
    }

    /// Verifies a chain, the device's certificate first. It is verified as sent, continued by
    /// configured intermediates; if that fails, the device's certificate is verified with only the
    /// configured ones, which may have been renewed since.
    pub(super) fn verify(
        &self,
        chain: &[&[u8]],
        clock: Clock,
        paths: &mut Paths,
    ) -> Result<CertificateIdentity, ChainFault> {
        let chain = outline::judge(chain).map_err(ChainFault::Malformed)?;
        let (first, rest) = chain.split_first().ok_or(ChainFault::Path(Error::BadDer))?;
        let verdict = self.verify_with(first, rest, clock, paths);
        let issuer = Outline::read(first).map(|outline| outline.issuer);
        let is_configured = self.intermediates.iter().any(|configured| Some(&*configured.subject) == issuer);
        match verdict {
            Err(ChainFault::Path(_)) if is_configured && !rest.is_empty() => {
                self.verify_with(first, &[], clock, paths).or(verdict)
            }
            _ => verdict,
        }
    }

    /// The configured intermediates that continue a chain by name, without those whose name occurs
    /// in it. So there is a choice only between configured intermediates with one name.
    fn continuation(&self, chain: &[&[u8]]) -> Vec<&Intermediate> {
        let sent: Vec<Outline<'_>> =
            chain.iter().filter_map(|certificate| Outline::read(certificate)).collect();
        let mut wanted: Vec<&[u8]> = sent.last().map(|last| last.issuer).into_iter().collect();
        let mut found: Vec<&Intermediate> = Vec::new();
        let mut at = 0;
        while let Some(name) = wanted.get(at).copied() {
            at += 1;
            if sent.iter().any(|certificate| certificate.subject == name) {
                continue;
            }
            for next in self.intermediates.iter().filter(|intermediate| *intermediate.subject == *name) {
                found.push(next);
                if !wanted.contains(&&*next.issuer) {
                    wanted.push(&next.issuer);
                }
            }
        }
        found
    }

    fn verify_with(
        &self,
        first: &[u8],
        rest: &[&[u8]],
        clock: Clock,
        paths: &mut Paths,
    ) -> Result<CertificateIdentity, ChainFault> {
        let der = CertificateDer::from(first);
        let leaf = EndEntityCert::try_from(&der).map_err(ChainFault::Path)?;
        let continuation = self.continuation(&[&[first], rest].concat());
        let intermediates: Vec<CertificateDer<'_>> = rest
            .iter()
            .map(|der| CertificateDer::from(*der))
            .chain(continuation.iter().map(|intermediate| CertificateDer::from(&intermediate.der[..])))
            .collect();
        // The library uses only the first list of a name; here all lists apply, each for the key
        // that signed it.
        let check = |time: UnixTime| {
            let at = clock::UnixTime::from_secs(time.as_secs());
            let judge =
                |path: &VerifiedPath<'_>| revocation::judge(&self.revoked, self.policy, &leaf, path, at);
            let usage = KeyUsage::client_auth();
            leaf.verify_for_usage(&CHAIN, &self.anchors, &intermediates, time, usage, None, Some(&judge))
        };
        let at = |time: clock::UnixTime| UnixTime::since_unix_epoch(Duration::from_millis(time.0));
        let (time, later) = self.times(first, rest, &continuation, clock);
        let mut verdict = check(at(time));
        if matches!(verdict, Err(Error::CertNotValidYet { .. })) && later > time {
            verdict = check(at(later));
        }
        let verified = verdict.map_err(ChainFault::Path)?;
        let path = certification(first, &verified, paths)?;
        Ok(CertificateIdentity::of(&leaf, Some(path)))
    }
}

impl Trust {
    /// The times at which a chain is verified: twice the current time if the clock is trusted.
    /// Otherwise the earliest time at which the certificates sent can be valid, and the earliest at
    /// which all configured certificates that continue the chain are also valid.
    fn times(
        &self,
        first: &[u8],
        rest: &[&[u8]],
        continuation: &[&Intermediate],
        clock: Clock,
    ) -> (clock::UnixTime, clock::UnixTime) {
        let sent: Vec<Outline<'_>> =
            [&[first], rest].concat().into_iter().filter_map(Outline::read).collect();
        let Some(device) = sent.first().filter(|_| !clock.trusted) else {
            return (clock.time, clock.time);
        };
        // Certificates above a possible anchor need not be valid.
        let is_anchor =
            |ca: &Outline<'_>| self.anchors.iter().any(|anchor| content(&anchor.subject) == ca.subject);
        let below = 1 + sent[1..].iter().take_while(|ca| !is_anchor(ca)).count();
        let begins = |time: clock::UnixTime, ca: &Outline<'_>| time.max(ca.not_before);
        let time = sent[..below].iter().fold(clock.time, begins);
        let configured =
            continuation.iter().map(|ca| ca.not_before).filter(|begin| *begin <= device.not_after);
        (time, configured.fold(sent.iter().fold(time, begins), clock::UnixTime::max))
    }
}

/// The part of a path that sessions keep.
fn certification(
    first: &[u8],
    verified: &VerifiedPath<'_>,
    paths: &mut Paths,
) -> Result<CertificationPath, ChainFault> {
    let mut links = Vec::new();
    for (number, certificate) in (2..).zip(verified.intermediate_certificates()) {
        let der = certificate.der();
        let outline = Outline::read(&der).ok_or(ChainFault::Malformed(Malformed::Unreadable(number)))?;
        // The key usage of configured intermediates is checked here.
        if !outline.may_certify() {
            return Err(ChainFault::Malformed(Malformed::WrongUsage(number)));
        }
        links.push(Link {
            issuer: certificate.issuer().into(),
            serial: certificate.serial().into(),
            not_after: outline.not_after,
        });
    }
    let not_after = Outline::read(first).ok_or(ChainFault::Malformed(Malformed::Unreadable(1)))?.not_after;
    let issuers = verified.intermediate_certificates().map(|ca| key_id(&ca.subject_public_key_info()));
    let keys = issuers.chain([key_id(&verified.anchor().subject_public_key_info)]).collect();
    let above = paths.share(Above { links: links.into(), keys, anchor: id_of(verified.anchor()) });
    Ok(CertificationPath { above, not_after })
}

fn id_of(anchor: &TrustAnchor<'_>) -> AuthorityId {
    let constraints = anchor.name_constraints.as_ref().map_or(&[][..], |constraints| &constraints[..]);
    digest([content(&anchor.subject), &anchor.subject_public_key_info, constraints])
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust({} anchors, {} raw keys)", self.anchors.len(), self.raw_public_keys.len())
    }
}

/// One hash of all.
fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let joined: Vec<u8> = parts.into_iter().flat_map(hash).collect();
    hash(&joined)
}

/// The time for verification, and whether the clock is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The current time if trusted, else a time that has certainly passed.
    pub time: clock::UnixTime,
    /// Whether it is the current time.
    pub trusted: bool,
}

/// A peer's public key from its Certificate message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PeerKey {
    Certificate(Vec<u8>),
    Raw(Vec<u8>),
}

/// Verifies `signature` over `message` with `key`: ECDSA with SHA-256 or SHA-384 on either curve.
pub(super) fn verify(key: &PeerKey, algorithm: u16, message: &[u8], signature: &[u8]) -> bool {
    let candidates: [&dyn SignatureVerificationAlgorithm; 2] = match algorithm {
        ECDSA_SHA256 => [algorithms::ECDSA_P256_SHA256, algorithms::ECDSA_P384_SHA256],
        ECDSA_SHA384 => [algorithms::ECDSA_P256_SHA384, algorithms::ECDSA_P384_SHA384],
        _ => return false,
    };
    candidates.into_iter().any(|candidate| match key {
        PeerKey::Certificate(der) => EndEntityCert::try_from(&CertificateDer::from(&der[..]))
            .is_ok_and(|certificate| certificate.verify_signature(candidate, message, signature).is_ok()),
        PeerKey::Raw(der) => RawPublicKeyEntity::try_from(&SubjectPublicKeyInfoDer::from(&der[..]))
            .is_ok_and(|key| key.verify_signature(candidate, message, signature).is_ok()),
    })
}

/// Whether a raw public key is well formed.
pub(super) fn is_readable(spki: &[u8]) -> bool {
    RawPublicKeyEntity::try_from(&SubjectPublicKeyInfoDer::from(spki)).is_ok()
}

/// The server's key and the trust material for devices. Cheap to clone; replaced as a whole.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    /// The server's key; without it ECDHE_ECDSA is not negotiated.
    pub key: Option<Arc<ServerKey>>,
    /// The trust material.
    pub trust: Arc<Trust>,
}

impl PartialEq for Certificates {
    /// Whether both have the same key and trust material.
    fn eq(&self, other: &Certificates) -> bool {
        let shown = |certificates: &Certificates| {
            certificates.key.as_ref().map(|key| (key.chain.clone(), key.public_key.clone()))
        };
        self.trust.digest == other.trust.digest && shown(self) == shown(other)
    }
}

impl Eq for Certificates {}
