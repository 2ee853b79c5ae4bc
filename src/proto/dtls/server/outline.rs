//! Checks the structure of a certificate chain before any signature is verified (RFC 5246 §7.4.2:
//! each certificate directly certifies the one before it), so that verifying it never becomes a
//! search.
//!
//! rustls-webpki searches for a path among all certificates it is given; with nine self-made CAs of
//! one name it tries their permutations, which took 131 ms for 3 kB. A chain that passes here has
//! one order, and so one path.
//!
//! It also reads notAfter and key usage, which rustls-webpki does not show. The DER is not checked
//! strictly here; a chain that passes is parsed again by rustls-webpki.

use std::fmt;

use crate::clock::UnixTime;
use crate::proto::der::{
    BIT_STRING, BOOLEAN, CONTEXT_0, CONTEXT_3, Der, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE,
};

/// Most certificates that a device may send: its own and three above it. A self-issued root may
/// follow, which is ignored.
pub const CERTIFICATES_MAX: usize = 4;
/// Most bytes of all of them, the root included.
pub const BYTES_MAX: usize = 8 * 1024;

/// The fields of a certificate, unverified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outline<'c> {
    /// 1, 2 or 3; rustls-webpki takes 3 alone.
    pub version: u8,
    /// The content of its DER `INTEGER`.
    pub serial: &'c [u8],
    /// The content of its issuer's `Name`.
    pub issuer: &'c [u8],
    /// The content of its subject's `Name`.
    pub subject: &'c [u8],
    /// The content of its SubjectPublicKeyInfo.
    pub key: &'c [u8],
    /// notBefore.
    pub not_before: UnixTime,
    /// notAfter: the last second it is valid.
    pub not_after: UnixTime,
    /// Key usage (RFC 5280 §4.2.1.3), bit 0 first; `None` if the extension is absent.
    pub key_usage: Option<u8>,
}

/// `digitalSignature`, `keyCertSign`, `cRLSign` (RFC 5280 §4.2.1.3)
const DIGITAL_SIGNATURE: u8 = 0x80;
const KEY_CERT_SIGN: u8 = 0x04;
const CRL_SIGN: u8 = 0x02;
/// `id-ce-keyUsage`
const KEY_USAGE: &[u8] = b"\x55\x1d\x0f";

impl<'c> Outline<'c> {
    /// Parses a certificate in DER (RFC 5280 §4.1); `None` if it is malformed. Malformed extensions
    /// are left to rustls-webpki.
    pub fn read(certificate: &'c [u8]) -> Option<Outline<'c>> {
        let mut whole = Der(certificate);
        let mut signed = Der(whole.expect(SEQUENCE)?);
        whole.end()?;
        let mut body = Der(signed.expect(SEQUENCE)?);
        let version = match body.optional(CONTEXT_0) {
            Some(version) => Der(version).expect(INTEGER)?.last()?.checked_add(1)?,
            // The version is present only from version 2 on.
            None => 1,
        };
        let serial = body.expect(INTEGER)?;
        body.expect(SEQUENCE)?; // the signature's algorithm
        let issuer = body.expect(SEQUENCE)?;
        let mut validity = Der(body.expect(SEQUENCE)?);
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        let subject = body.expect(SEQUENCE)?;
        let key = body.expect(SEQUENCE)?;
        let key_usage = key_usage(body);
        Some(Outline { version, serial, issuer, subject, key, not_before, not_after, key_usage })
    }

    /// Whether its key may make the signature of a handshake (RFC 5246 §7.4.6).
    pub fn may_sign(&self) -> bool {
        self.key_usage.is_none_or(|usage| usage & DIGITAL_SIGNATURE != 0)
    }

    /// Whether its key may sign certificates (RFC 5280 §6.1.4).
    pub fn may_certify(&self) -> bool {
        self.key_usage.is_none_or(|usage| usage & KEY_CERT_SIGN != 0)
    }

    /// Whether its key may sign revocation lists (RFC 5280 §6.3.3).
    pub fn may_sign_lists(&self) -> bool {
        self.key_usage.is_none_or(|usage| usage & CRL_SIGN != 0)
    }
}

/// The first eight bits of the extension keyUsage; none set if the extension is malformed, so that
/// the key may be used for nothing.
fn key_usage(behind_the_key: Der<'_>) -> Option<u8> {
    let mut rest = behind_the_key;
    while let Some((tag, content)) = rest.element() {
        if tag != CONTEXT_3 {
            continue;
        }
        let mut extensions = Der(Der(content).expect(SEQUENCE)?);
        while let Some(extension) = extensions.expect(SEQUENCE) {
            let mut extension = Der(extension);
            if extension.expect(OBJECT_IDENTIFIER) != Some(KEY_USAGE) {
                continue;
            }
            extension.optional(BOOLEAN); // `critical`
            let Some(value) = extension.expect(OCTET_STRING) else { return Some(0) };
            // The number of unused bits, then the bits.
            let bits = Der(value).expect(BIT_STRING).unwrap_or_default();
            return Some(bits.get(1).copied().unwrap_or(0));
        }
    }
    None
}

/// Why a chain is refused. No signature was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// More than [`CERTIFICATES_MAX`].
    TooMany(usize),
    /// More than [`BYTES_MAX`].
    TooLong(usize),
    /// The certificate with this number, from 1, is malformed.
    Unreadable(usize),
    /// The certificate with this number, from 1, was not issued by the next one.
    Misplaced(usize),
    /// Two certificates have one subject.
    SameSubject,
    /// Two certificates have one key.
    SameKey,
    /// The key usage of the certificate with this number, from 1, does not allow its use.
    WrongUsage(usize),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::TooMany(count) => {
                write!(f, "the chain has {count} certificates; {CERTIFICATES_MAX} are taken, beside the root")
            }
            Malformed::TooLong(bytes) => write!(f, "the chain has {bytes} bytes; {BYTES_MAX} are taken"),
            Malformed::Unreadable(number) => write!(f, "certificate {number} of the chain cannot be read"),
            Malformed::Misplaced(number) => {
                write!(f, "certificate {number} of the chain was not issued by the one after it")
            }
            Malformed::SameSubject => f.write_str("two certificates of the chain have one subject"),
            Malformed::SameKey => f.write_str("two certificates of the chain have one key"),
            Malformed::WrongUsage(1) => {
                f.write_str("its key usage does not allow signatures (digitalSignature)")
            }
            Malformed::WrongUsage(number) => {
                write!(f, "certificate {number} of the chain may not issue others (keyCertSign)")
            }
        }
    }
}

/// Checks the structure of a chain, the device's certificate first. Returns the certificates to
/// verify: all except a root, because a root that the device sends proves nothing.
///
/// # Errors
/// [`Malformed`], the first fault.
pub fn judge<'a, 'c>(chain: &'a [&'c [u8]]) -> Result<&'a [&'c [u8]], Malformed> {
    if chain.len() > CERTIFICATES_MAX + 1 {
        return Err(Malformed::TooMany(chain.len()));
    }
    let bytes = chain.iter().map(|certificate| certificate.len()).sum();
    if bytes > BYTES_MAX {
        return Err(Malformed::TooLong(bytes));
    }
    let is_root =
        |certificate: &[u8]| Outline::read(certificate).is_some_and(|root| root.subject == root.issuer);
    let chain = match chain.split_last() {
        Some((last, rest)) if rest.len() == CERTIFICATES_MAX && is_root(last) => rest,
        _ => chain,
    };
    if chain.len() > CERTIFICATES_MAX {
        return Err(Malformed::TooMany(chain.len()));
    }
    let mut outlines = Vec::with_capacity(chain.len());
    for (number, certificate) in (1..).zip(chain) {
        outlines.push(Outline::read(certificate).ok_or(Malformed::Unreadable(number))?);
    }
    for (at, outline) in outlines.iter().enumerate() {
        if outlines[..at].iter().any(|before| before.subject == outline.subject) {
            return Err(Malformed::SameSubject);
        }
        if outlines[..at].iter().any(|before| before.key == outline.key) {
            return Err(Malformed::SameKey);
        }
        if outlines.get(at + 1).is_some_and(|next| next.subject != outline.issuer) {
            return Err(Malformed::Misplaced(at + 1));
        }
        if !(if at == 0 { outline.may_sign() } else { outline.may_certify() }) {
            return Err(Malformed::WrongUsage(at + 1));
        }
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
    };

    use super::*;

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    /// A certificate of `name` with this key, which says it was issued by `issuer`; that one's key
    /// signs nothing.
    fn made(name: &str, issuer: &str, key: &KeyPair) -> Vec<u8> {
        let other = KeyPair::generate().unwrap();
        params(name).signed_by(key, &Issuer::new(params(issuer), &other)).unwrap().der().to_vec()
    }

    /// How many of a chain are to be judged further.
    fn judged(chain: &[Vec<u8>]) -> Result<usize, Malformed> {
        judge(&chain.iter().map(Vec::as_slice).collect::<Vec<_>>()).map(<[&[u8]]>::len)
    }

    fn keys<const N: usize>() -> [KeyPair; N] {
        std::array::from_fn(|_| KeyPair::generate().unwrap())
    }

    #[test]
    fn a_chain_in_order_passes_and_every_other_is_named() {
        let [a, b, c, d, e] = keys();
        let chain = [made("a", "b", &a), made("b", "c", &b), made("c", "d", &c), made("d", "d", &d)];
        for length in 1..=4 {
            assert_eq!(judged(&chain[..length]), Ok(length));
        }
        let five = [&chain[..], &[made("e", "f", &e)]].concat();
        assert_eq!(judged(&five), Err(Malformed::TooMany(5)));
        let chain = [made("a", "b", &a), made("b", "c", &b), made("c", "d", &c), made("d", "e", &d)];
        let rooted = [&chain[..], &[made("e", "e", &e)]].concat();
        assert_eq!(judged(&rooted), Ok(4), "the root is left out");
        assert_eq!(judged(&[&rooted[..], &rooted[4..]].concat()), Err(Malformed::TooMany(6)));
        assert_eq!(judged(&[chain[0].clone(), chain[2].clone()]), Err(Malformed::Misplaced(1)));
        assert_eq!(
            judged(&[chain[0].clone(), chain[1].clone(), chain[3].clone()]),
            Err(Malformed::Misplaced(2))
        );
        assert_eq!(judged(&[chain[0].clone(), b"x".to_vec()]), Err(Malformed::Unreadable(2)));
        let twins = [made("a", "b", &a), made("b", "b", &b), made("b", "b", &c)];
        assert_eq!(judged(&twins), Err(Malformed::SameSubject));
        assert_eq!(judged(&[made("a", "b", &a), made("b", "c", &a)]), Err(Malformed::SameKey));
        assert_eq!(judged(&[made("a", "a", &a), made("a", "a", &a)]), Err(Malformed::SameSubject));
    }

    #[test]
    fn a_chain_of_more_bytes_than_allowed_is_not_read() {
        let [a, b] = keys();
        let long = made(&"x".repeat(5_000), "b", &a);
        let chain = [long.clone(), made("b", &"y".repeat(5_000), &b)];
        assert!(matches!(judged(&chain), Err(Malformed::TooLong(bytes)) if bytes > BYTES_MAX));
        assert_eq!(judged(&[long]), Ok(1));
    }

    #[test]
    fn a_key_that_is_for_something_else_is_noticed() {
        let [a, b] = keys();
        let with = |usages: &[KeyUsagePurpose]| {
            let mut params = params("a");
            params.is_ca = IsCa::NoCa;
            params.key_usages = usages.to_vec();
            params.signed_by(&a, &Issuer::new(self::params("b"), &b)).unwrap().der().to_vec()
        };
        let agreement = with(&[KeyUsagePurpose::KeyAgreement]);
        assert_eq!(Outline::read(&agreement).unwrap().key_usage, Some(0x08));
        assert_eq!(judged(&[agreement]), Err(Malformed::WrongUsage(1)));
        let signing = with(&[KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyAgreement]);
        assert_eq!(judged(std::slice::from_ref(&signing)), Ok(1));
        // A key for handshake signatures must not issue certificates.
        let mut issuer = params("b");
        issuer.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let issuer = issuer.self_signed(&b).unwrap().der().to_vec();
        assert_eq!(judged(&[signing, issuer]), Err(Malformed::WrongUsage(2)));
    }

    #[test]
    fn an_outline_says_what_the_certificate_says() {
        let [key] = keys();
        let mut params = params("door");
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x12, 0x34]));
        (params.not_before, params.not_after) = (date_time_ymd(1970, 1, 1), date_time_ymd(2049, 12, 31));
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let outline = Outline::read(&der).unwrap();
        assert_eq!(outline.serial, [0x12, 0x34]);
        assert_eq!(outline.subject, outline.issuer);
        assert_eq!(super::super::name::common_name(outline.subject).as_deref(), Some("door"));
        assert_eq!(outline.not_before, UnixTime(0));
        assert_eq!(outline.not_after, UnixTime::from_secs(2_524_521_600));
        assert_eq!(outline.key_usage, None);
        for end in 0..der.len() {
            assert_eq!(Outline::read(&der[..end]), None);
        }
    }
}
