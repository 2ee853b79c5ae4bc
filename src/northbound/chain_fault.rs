//! What is wrong with the certificates a broker presented, in words that name the certificate and
//! the way out.
//!
//! The verifier has refused the chain already; its error says which rule was broken, not by which
//! certificate. Here the chain is looked at again: who issued whom (RFC 5280 §4.1.2.4, names only),
//! with which signature algorithm, with how long a key. Nothing is accepted because of this.

use std::fmt;

use aws_lc_rs::digest;
use rustls::pki_types::{CertificateDer, UnixTime as TlsTime};
use rustls::{CertificateError, Error, OtherError, RootCertStore};

use super::certificate::Certificate;
use crate::clock::UnixTime;
use crate::proto::der::{BIT_STRING, INTEGER, OBJECT_IDENTIFIER, SEQUENCE, expect};

/// 1.2.840.113549.1.1.1
const RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01];
/// The shortest RSA key that aws-lc-rs verifies with.
const RSA_BITS_MIN: usize = 2048;

/// Signature algorithms that are refused because of their hash.
const WEAK: [(&[u8], &str); 6] = [
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x05], "SHA-1"),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x04], "MD5"),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x02], "MD2"),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x01], "SHA-1"),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x38, 0x04, 0x03], "SHA-1"),
    (&[0x2B, 0x0E, 0x03, 0x02, 0x1D], "SHA-1"),
];

/// The verdict, as an error rustls hands through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainFault {
    /// What is wrong, in words for the owner.
    pub text: String,
    /// SHA-256 of the broker's public key, for `upstream.pin-sha256`.
    pub pin: Option<[u8; 32]>,
}

impl fmt::Display for ChainFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ChainFault {}

impl From<ChainFault> for Error {
    fn from(fault: ChainFault) -> Error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(std::sync::Arc::new(fault))))
    }
}

/// The fault in an error, if it is one of ours.
pub fn of(error: &Error) -> Option<&ChainFault> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner.downcast_ref(),
        _ => None,
    }
}

/// The parts of a certificate that its place in a chain depends on, in DER.
struct Outline<'d> {
    issuer: &'d [u8],
    subject: &'d [u8],
    public_key: &'d [u8],
    algorithm: &'d [u8],
}

impl<'d> Outline<'d> {
    fn parse(der: &'d [u8]) -> Option<Outline<'d>> {
        let (certificate, _) = expect(SEQUENCE, der)?;
        let (body, rest) = expect(SEQUENCE, certificate)?;
        let (algorithm, _) = expect(SEQUENCE, rest)?;
        let (algorithm, _) = expect(OBJECT_IDENTIFIER, algorithm)?;
        let rest = expect(0xA0, body).map_or(body, |(_version, rest)| rest);
        let (_serial, rest) = expect(INTEGER, rest)?;
        let (_algorithm, rest) = expect(SEQUENCE, rest)?;
        let (issuer, rest) = expect(SEQUENCE, rest)?;
        let (_validity, rest) = expect(SEQUENCE, rest)?;
        let (subject, rest) = expect(SEQUENCE, rest)?;
        let (_, after) = expect(SEQUENCE, rest)?;
        let public_key = &rest[..rest.len() - after.len()];
        Some(Outline { issuer, subject, public_key, algorithm })
    }

    /// Bits of its RSA key; `None`: it has another kind.
    fn rsa_bits(&self) -> Option<usize> {
        let (info, _) = expect(SEQUENCE, self.public_key)?;
        let (algorithm, rest) = expect(SEQUENCE, info)?;
        let (kind, _) = expect(OBJECT_IDENTIFIER, algorithm)?;
        if kind != RSA {
            return None;
        }
        let (bits, _) = expect(BIT_STRING, rest)?;
        let (key, _) = expect(SEQUENCE, bits.get(1..)?)?;
        let (modulus, _) = expect(INTEGER, key)?;
        let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
        let first = modulus.first()?;
        Some(modulus.len() * 8 - first.leading_zeros() as usize)
    }
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo, the pin of RFC 7469 §2.4.
pub fn pin(certificate: &[u8]) -> Option<[u8; 32]> {
    let outline = Outline::parse(certificate)?;
    digest::digest(&digest::SHA256, outline.public_key).as_ref().try_into().ok()
}

/// A certificate by its common name.
fn name(certificate: &[u8]) -> String {
    let subject = Certificate::parse(certificate).and_then(|read| read.subject);
    subject.map_or_else(|| "a certificate without a common name".to_owned(), |name| format!("\"{name}\""))
}

fn issuer_name(certificate: &[u8]) -> String {
    let issuer = Certificate::parse(certificate).and_then(|read| read.issuer);
    issuer.map_or_else(|| "an issuer without a common name".to_owned(), |name| format!("\"{name}\""))
}

/// Puts words to what the verifier refused, and adds the pin of the broker's key.
pub fn explain(
    error: Error,
    host: &str,
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    anchors: &RootCertStore,
) -> Error {
    let Error::InvalidCertificate(reason) = &error else { return error };
    let presented: Vec<&[u8]> =
        std::iter::once(leaf.as_ref()).chain(others.iter().map(AsRef::as_ref)).collect();
    let text = match reason {
        CertificateError::UnknownIssuer => unknown_issuer(&presented, anchors),
        // An algorithm the verifier lacks, or a key too short for it, shows up as any of these.
        CertificateError::BadSignature => short_key(&presented).or_else(|| weak_hash(&presented)),
        CertificateError::NotValidForNameContext { presented: names, .. } if names.is_empty() => {
            let own = Certificate::parse(leaf).and_then(|read| read.subject);
            let own = own.map(|own| format!(" \"{own}\"")).unwrap_or_default();
            Some(format!(
                "the broker's certificate{own} has no subject alternative name, and a common name does not count (RFC 9525); \
                 have it issued anew with subjectAltName = {}",
                alternative(host)
            ))
        }
        _ => {
            // Too long for a line: it lists every algorithm there is.
            let unsupported = format!("{reason:?}").contains("UnsupportedSignatureAlgorithm");
            unsupported
                .then(|| weak_hash(&presented).or_else(|| short_key(&presented)).unwrap_or_else(|| {
                    "a certificate of the broker's chain is signed with an algorithm that is not supported; RSA with \
                     SHA-256 or ECDSA with P-256 is"
                        .to_owned()
                }))
        }
    };
    // A pin forgives no revocation.
    let about_lists = matches!(
        reason,
        CertificateError::Revoked
            | CertificateError::UnknownRevocationStatus
            | CertificateError::ExpiredRevocationListContext { .. }
    );
    let pin = pin(leaf).filter(|_| !about_lists);
    let text = text.unwrap_or_else(|| explain_certificate(reason, host));
    ChainFault { text, pin }.into()
}

/// A certificate of the broker's chain is on a revocation list.
pub fn revoked(certificate: &[u8]) -> Error {
    let serial = crate::proto::dtls::server::outline::Outline::read(certificate);
    let serial: String =
        serial.iter().flat_map(|read| read.serial).map(|byte| format!("{byte:02X}")).collect();
    let text = format!(
        "the certificate {} (serial number {serial}) of the broker's chain was revoked by {}; its owner has to replace it",
        name(certificate),
        issuer_name(certificate)
    );
    ChainFault { text, pin: None }.into()
}

/// What a verifier refused, in words.
pub fn explain_certificate(error: &CertificateError, host: &str) -> String {
    let day = |time: &TlsTime| UnixTime::from_secs(time.as_secs()).to_string()[..10].to_owned();
    match error {
        CertificateError::UnknownIssuer => {
            "the broker's certificate is signed by a CA that is not trusted; set upstream.ca-file to that CA's \
             certificate"
                .to_owned()
        }
        CertificateError::NotValidForName => {
            format!("the broker's certificate is not for `{host}`; use the name it is for in upstream.url")
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            let names: Vec<_> = presented.iter().map(|name| bare_name(name)).collect();
            // With a wildcard alone there is nothing to be copied.
            let way_out = match names.iter().all(|name| name.starts_with("`*.")) && !names.is_empty() {
                true => format!(
                    "`*` stands for one label of a name below a domain: use such a name in upstream.url, or have the \
                     certificate issued anew with subjectAltName = {}",
                    alternative(host)
                ),
                false => "use that name in upstream.url".to_owned(),
            };
            let names = if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") };
            format!("the broker's certificate is not for `{host}` but for {names}; {way_out}")
        }
        CertificateError::Expired => "the broker's certificate has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, time } => format!(
            "the broker's certificate, or one it is signed with, expired on {}; the gateway judges it at {}",
            day(not_after),
            day(time)
        ),
        CertificateError::NotValidYet => "the broker's certificate is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { not_before, time } => format!(
            "the broker's certificate, or one it is signed with, is not valid before {}; the gateway judges it at {}; \
             is this machine's clock right? `tombolo clock` shows what it is judged by",
            day(not_before),
            day(time)
        ),
        CertificateError::Revoked => "the broker's certificate has been revoked".to_owned(),
        CertificateError::ExpiredRevocationListContext { next_update, .. } => format!(
            "the revocation list of a CA of the broker's chain expired on {}, and upstream.crl-expired is \"refuse\"; \
             put a new one into upstream.crl-file where that is set; `tombolo status` says why none is fetched from \
             upstream.crl-url",
            day(next_update)
        ),
        CertificateError::UnknownRevocationStatus => {
            "no revocation list could be fetched from upstream.crl-url yet, and upstream.crl-expired is \"refuse\"; \
             `tombolo status` says why"
                .to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the broker's certificate is not for TLS servers (extended key usage)".to_owned()
        }
        CertificateError::BadSignature => {
            "the signature in the broker's certificate is wrong; is the CA in upstream.ca-file an older one of \
             the same name?"
                .to_owned()
        }
        other => {
            let text = format!("{other:?}");
            if text.contains("CaUsedAsEndEntity") {
                "the broker uses a CA certificate as its own; issue it one of its own and keep the CA in \
                 upstream.ca-file"
                    .to_owned()
            } else if text.contains("UnsupportedCertVersion") {
                "the broker's certificate is X.509 version 1, which TLS refuses; issue it anew as version 3"
                    .to_owned()
            } else if text.contains("UnsupportedCriticalExtension") {
                "a certificate of the broker's chain has a critical extension that is not known here; have it issued anew \
                 without it, or with it not critical"
                    .to_owned()
            } else if text.contains("EndEntityUsedAsCa") {
                "the broker's certificate is issued by one that is no CA's; have it issued by a CA's, with the basic \
                 constraint CA:TRUE"
                    .to_owned()
            } else if text.contains("PathLenConstraintViolated") || text.contains("NameConstraintViolation") {
                "a CA of the broker's chain may not issue what it has issued (path length or name constraint); have the \
                 broker's certificate issued by another"
                    .to_owned()
            } else {
                // The rule's name, without what is around it.
                let rule = text.rsplit('(').next().unwrap_or(&text).trim_end_matches(')');
                format!("the broker's certificate is refused: {rule}")
            }
        }
    }
}

/// `DnsName("x")` and the like as `x`.
fn bare_name(name: &str) -> String {
    let inner = name.split('"').nth(1).unwrap_or(name);
    format!("`{inner}`")
}

/// What the handshake's signature could not be verified with.
pub fn explain_signature(error: Error, leaf: &CertificateDer<'_>) -> Error {
    match short_key(&[leaf.as_ref()]) {
        Some(text) => ChainFault { text, pin: None }.into(),
        None => error,
    }
}

/// `DNS:host` or `IP:address`.
fn alternative(host: &str) -> String {
    let kind = if host.parse::<std::net::IpAddr>().is_ok() { "IP" } else { "DNS" };
    format!("{kind}:{host}")
}

fn unknown_issuer(presented: &[&[u8]], anchors: &RootCertStore) -> Option<String> {
    // Upwards by names, until nobody presented is the issuer.
    let mut at = 0;
    let mut top = Outline::parse(presented[at])?;
    for _ in 0..presented.len() {
        if top.issuer == top.subject {
            break;
        }
        let next = presented
            .iter()
            .position(|der| Outline::parse(der).is_some_and(|other| other.subject == top.issuer));
        match next {
            Some(next) if next != at => {
                at = next;
                top = Outline::parse(presented[at])?;
            }
            _ => break,
        }
    }
    let own = name(presented[at]);
    if let Some(text) = weak_hash(presented) {
        return Some(text);
    }
    if top.issuer == top.subject {
        return Some(if at == 0 {
            format!(
                "the broker's certificate {own} is self-signed and not trusted; set upstream.ca-file to it, or upstream.pin-sha256 \
                 to its key"
            )
        } else {
            format!(
                "the broker's certificate leads to the CA {own}, which is not trusted; set upstream.ca-file to that CA's certificate"
            )
        });
    }
    let issuer = issuer_name(presented[at]);
    let same_name = anchors.roots.iter().any(|anchor| anchor.subject.as_ref() == top.issuer);
    Some(if same_name {
        format!(
            "the trusted CA {issuer} has not signed {own}; is the one in upstream.ca-file an older one of the same name?"
        )
    } else if at == 0 {
        format!(
            "the broker's certificate {own} was issued by {issuer}, which is not trusted, and the broker does not send it along; if that \
             is an intermediate certificate, have the broker send it (its full chain), else set upstream.ca-file to it"
        )
    } else {
        format!(
            "the broker sends a chain up to {own}, whose issuer {issuer} is not trusted and not sent along; set upstream.ca-file \
             to {issuer}, or have the broker send its full chain"
        )
    })
}

fn weak_hash(presented: &[&[u8]]) -> Option<String> {
    presented.iter().find_map(|der| {
        let outline = Outline::parse(der)?;
        // The signature of a root on itself is never verified.
        if outline.issuer == outline.subject && presented.len() > 1 {
            return None;
        }
        let (_, hash) = WEAK.iter().find(|(oid, _)| *oid == outline.algorithm)?;
        Some(format!(
            "the certificate {} of the broker's chain is signed with {hash}, which can be forged and is refused; have it issued \
             anew with SHA-256",
            name(der)
        ))
    })
}

fn short_key(presented: &[&[u8]]) -> Option<String> {
    presented.iter().find_map(|der| {
        let bits = Outline::parse(der)?.rsa_bits().filter(|bits| *bits < RSA_BITS_MIN)?;
        Some(format!(
            "the certificate {} of the broker's chain has an RSA key of {bits} bits; at least {RSA_BITS_MIN} are needed: have it \
             issued anew with a longer key, or with ECDSA P-256",
            name(der)
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(name: &str) -> (rcgen::CertificateParams, rcgen::KeyPair) {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        (params, rcgen::KeyPair::generate().unwrap())
    }

    fn said(presented: &[rcgen::Certificate], anchors: &[&rcgen::Certificate]) -> String {
        let mut roots = RootCertStore::empty();
        anchors.iter().for_each(|anchor| roots.add(anchor.der().clone()).unwrap());
        let error = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let others: Vec<_> = presented[1..].iter().map(|other| other.der().clone()).collect();
        let explained = explain(error, "broker.test", presented[0].der(), &others, &roots);
        of(&explained).expect("a fault").text.clone()
    }

    #[test]
    fn what_the_verifier_calls_by_a_name_of_its_own_has_words_for_the_owner() {
        let said = |error: webpki::Error| {
            explain_certificate(
                &CertificateError::Other(OtherError(std::sync::Arc::new(error))),
                "broker.test",
            )
        };
        for (error, words) in [
            (webpki::Error::UnsupportedCriticalExtension, "critical extension that is not known here"),
            (webpki::Error::EndEntityUsedAsCa, "issued by one that is no CA's"),
            (webpki::Error::PathLenConstraintViolated, "may not issue"),
            (webpki::Error::NameConstraintViolation, "may not issue"),
            // What has no words at least is no debug text.
            (webpki::Error::BadDer, "is refused: BadDer"),
        ] {
            let text = said(error);
            assert!(text.contains(words) && !text.contains("OtherError"), "{text}");
        }
    }

    #[test]
    fn a_wildcard_is_no_name_that_can_be_copied() {
        let said = |names: &[&str]| {
            let presented = names.iter().map(|name| format!("DnsName(\"{name}\")")).collect();
            let expected = rustls::pki_types::ServerName::try_from("broker.test").unwrap().to_owned();
            explain_certificate(
                &CertificateError::NotValidForNameContext { expected, presented },
                "broker.test",
            )
        };
        assert!(said(&["*.broker.test"]).contains("stands for one label"));
        assert!(!said(&["*.broker.test"]).contains("use that name"));
        assert!(said(&["other.test"]).ends_with("`other.test`; use that name in upstream.url"));
    }

    #[test]
    fn the_issuer_that_is_missing_is_named() {
        let (mut root, root_key) = made("Root");
        root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let (mut middle, middle_key) = made("Middle");
        middle.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root_certificate = root.self_signed(&root_key).unwrap();
        let root = rcgen::Issuer::new(root, root_key);
        let middle_certificate = middle.signed_by(&middle_key, &root).unwrap();
        let middle = rcgen::Issuer::new(middle, middle_key);
        let (leaf, leaf_key) = made("broker");
        let leaf = || leaf.signed_by(&leaf_key, &middle).unwrap();
        let (mut other, other_key) = made("Root");
        other.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let other = other.self_signed(&other_key).unwrap();

        let text = said(&[leaf()], &[&root_certificate]);
        assert!(text.contains("\"broker\" was issued by \"Middle\", which is not trusted, and"), "{text}");
        let text = said(&[leaf(), middle_certificate.clone()], &[]);
        assert!(text.contains("up to \"Middle\", whose issuer \"Root\""), "{text}");
        let text = said(&[leaf(), middle_certificate.clone(), root_certificate.clone()], &[]);
        assert!(text.contains("leads to the CA \"Root\", which is not trusted"), "{text}");
        let text = said(&[leaf(), middle_certificate], &[&other]);
        assert!(text.contains("\"Root\" has not signed \"Middle\""), "{text}");
        let text = said(&[root_certificate], &[]);
        assert!(text.contains("self-signed") && text.contains("pin-sha256"), "{text}");
    }

    #[test]
    fn a_pin_is_the_hash_of_the_public_key_as_openssl_computes_it() {
        let (params, key) = made("broker");
        let certificate = params.self_signed(&key).unwrap();
        use rcgen::PublicKeyData as _;
        let expected = digest::digest(&digest::SHA256, &key.subject_public_key_info());
        assert_eq!(pin(certificate.der()).unwrap(), expected.as_ref());
        assert_eq!(pin(&certificate.der()[..40]), None);
    }

    #[test]
    fn altered_certificates_never_panic() {
        let (params, key) = made("broker");
        let der = params.self_signed(&key).unwrap().der().to_vec();
        for place in 0..der.len() {
            for value in [0, 0x80, 0xFF] {
                let mut altered = der.clone();
                altered[place] = value;
                let _ = pin(&altered);
                let presented = [&altered[..], &der];
                let _ = (weak_hash(&presented), short_key(&presented));
                let _ = unknown_issuer(&presented, &RootCertStore::empty());
            }
        }
    }
}
