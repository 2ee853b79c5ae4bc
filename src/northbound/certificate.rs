//! The few fields of an X.509 certificate we must read ourselves (RFC 5280 §4.1): version,
//! validity, names. No verification happens here; that is rustls's.

use crate::clock::UnixTime;
use crate::proto::der::{Der, OBJECT_IDENTIFIER};
use crate::proto::dtls::server::ListOutline;
use crate::proto::dtls::server::outline::Outline;

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// 1, 2 or 3. TLS needs 3.
    pub version: u8,
    /// From when it is valid.
    pub not_before: UnixTime,
    /// Until when.
    pub not_after: UnixTime,
    /// The subject's common name, if it has one.
    pub subject: Option<String>,
    /// The issuer's common name, if it has one.
    pub issuer: Option<String>,
}

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

impl Certificate {
    /// Reads a DER certificate; `None` if it is none.
    pub fn parse(der: &[u8]) -> Option<Certificate> {
        let Outline { version, not_before, not_after, subject, issuer, .. } = Outline::read(der)?;
        let (subject, issuer) = (common_name(subject), common_name(issuer));
        Some(Certificate { version, not_before, not_after, subject, issuer })
    }
}

/// What there is to know of a revocation list (RFC 5280 §5.1) beside whom it revokes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationList {
    /// When it was made.
    pub this_update: UnixTime,
    /// When the next one comes, if that is said.
    pub next_update: Option<UnixTime>,
    /// Its issuer's common name, if it has one.
    pub issuer: Option<String>,
}

impl RevocationList {
    /// Reads a DER list; `None` if it is none.
    pub fn parse(der: &[u8]) -> Option<RevocationList> {
        let ListOutline { issuer, this_update, next_update } = ListOutline::read(der)?;
        Some(RevocationList { this_update, next_update, issuer: common_name(issuer) })
    }
}

/// The first common name in a Name (RFC 5280 §4.1.2.4).
fn common_name(name: &[u8]) -> Option<String> {
    let mut names = Der(name);
    while let Some((_, set)) = names.element() {
        let mut set = Der(set);
        while let Some((_, attribute)) = set.element() {
            let mut attribute = Der(attribute);
            if attribute.expect(OBJECT_IDENTIFIER)? == COMMON_NAME {
                let (_, text) = attribute.element()?;
                let text = String::from_utf8_lossy(text);
                return Some(text.chars().filter(|c| !c.is_control()).take(64).collect());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["broker.test".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "broker.test");
        change(&mut params);
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn version_validity_and_names_are_read() {
        let der = made(|params| {
            params.not_before = rcgen::date_time_ymd(2024, 2, 29);
            params.not_after = rcgen::date_time_ymd(2106, 3, 1);
        });
        let certificate = Certificate::parse(&der).unwrap();
        assert_eq!(certificate.version, 3);
        assert_eq!(certificate.not_before.to_string(), "2024-02-29T00:00:00.000Z");
        assert_eq!(certificate.not_after.to_string(), "2106-03-01T00:00:00.000Z");
        assert_eq!(certificate.subject.as_deref(), Some("broker.test"));
        assert_eq!(certificate.issuer.as_deref(), Some("broker.test"));
    }

    fn list(next: i32) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "Door CA");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 2, 29),
            next_update: rcgen::date_time_ymd(next, 3, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&rcgen::Issuer::new(params, &key)).unwrap().der().to_vec()
    }

    #[test]
    fn a_revocation_list_says_until_when_it_counts() {
        let read = RevocationList::parse(&list(2106)).unwrap();
        assert_eq!(read.this_update.to_string(), "2024-02-29T00:00:00.000Z");
        assert_eq!(read.next_update.unwrap().to_string(), "2106-03-01T00:00:00.000Z");
        assert!(read.issuer.unwrap().contains("Door CA"));
        let der = list(2030);
        for length in 0..der.len() {
            let _ = RevocationList::parse(&der[..length]);
        }
    }

    #[test]
    fn cut_or_altered_bytes_never_panic() {
        let der = made(|_| {});
        for length in 0..der.len() {
            let _ = Certificate::parse(&der[..length]);
        }
        for place in 0..der.len() {
            for value in [0, 1, 0x7F, 0x80, 0x84, 0xFF] {
                let mut altered = der.clone();
                altered[place] = value;
                let _ = Certificate::parse(&altered);
            }
        }
    }
}
