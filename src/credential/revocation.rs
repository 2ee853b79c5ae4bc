//! Revocation lists that are fetched: whether what came may take the place of what is stored.
//!
//! A list is signed, so it is not the server that is believed: it may be asked by plain HTTP, and
//! over HTTPS its certificate is not judged. What is believed is a list that one of the configured
//! CAs has signed and that is not older than the one stored. The last good lists are kept on disk.

use std::path::PathBuf;
use std::time::Duration;

use crate::https::url::HttpsUrl;
pub use crate::https::url::UrlError;
use crate::northbound::certificate::RevocationList;
use crate::northbound::revocation::parse;
use crate::northbound::settings::TlsSettings;
use crate::proto::dtls::server::{ListOutline, ListPolicy, RevocationLists};

/// Their folder in the state directory.
pub const FOLDER: &str = "revocation";
/// Greatest answer and file, in bytes.
pub const BYTES_MAX: usize = 4 << 20;

/// Whose certificates the lists are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The broker's.
    Upstream,
    /// The devices'.
    Coap,
}

impl Side {
    /// The table of the configuration.
    pub const fn table(self) -> &'static str {
        match self {
            Side::Upstream => "upstream",
            Side::Coap => "coap",
        }
    }

    /// The file with the lists, PEM.
    pub const fn file(self) -> &'static str {
        match self {
            Side::Upstream => "upstream.pem",
            Side::Coap => "coap.pem",
        }
    }
}

/// The CAs that lists must be signed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anchors {
    /// Those the broker is verified with.
    Broker(Box<TlsSettings>),
    /// Those of a file, PEM or DER.
    File(PathBuf),
}

/// One URL and what is done with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetching {
    /// Whose certificates the lists are about.
    pub side: Side,
    /// `crl-url`
    pub url: HttpsUrl,
    /// `crl-period`
    pub period: Duration,
    /// `{state-dir}/revocation`
    pub folder: PathBuf,
    /// Which signatures count.
    pub anchors: Anchors,
    /// What its share of the spread follows from.
    pub seed: String,
}

impl Fetching {
    /// The file with the lists.
    pub fn file(&self) -> PathBuf {
        self.folder.join(self.side.file())
    }
}

/// A URL of lists.
///
/// # Errors
/// [`UrlError`]
pub fn parse_url(text: &str) -> Result<HttpsUrl, UrlError> {
    HttpsUrl::parse_plain_too(text)
}

/// What came, judged against the configured CAs (DER) and what is stored. `Ok(None)`: nothing new.
///
/// # Errors
/// Why it is not taken, in one sentence.
pub fn judge(bytes: &[u8], anchors: &[Vec<u8>], stored: &[Vec<u8>]) -> Result<Option<Vec<Vec<u8>>>, String> {
    let lists = parse(bytes).map_err(|what| format!("the answer {what}"))?;
    for list in &lists {
        is_signed(list, anchors)?;
    }
    for list in stored {
        // A CA that is not configured any more needs no list.
        if is_signed(list, anchors).is_err() {
            continue;
        }
        let Some(before) = ListOutline::read(list) else { continue };
        let others = lists.iter().filter_map(|list| ListOutline::read(list));
        let newest =
            others.filter(|other| other.issuer == before.issuer).map(|other| other.this_update).max();
        match newest {
            None => {
                return Err(format!(
                    "the answer has no list of {} any more, of which one is stored",
                    issuer(list)
                ));
            }
            Some(newest) if newest < before.this_update => {
                return Err(format!(
                    "the list of {} in the answer is of {newest}, older than the stored one of {}",
                    issuer(list),
                    before.this_update
                ));
            }
            Some(_) => {}
        }
    }
    Ok((lists != stored).then_some(lists))
}

/// Whether a configured CA has signed the list.
fn is_signed(list: &[u8], anchors: &[Vec<u8>]) -> Result<(), String> {
    let signers = anchors.iter().map(Vec::as_slice);
    let read = RevocationLists::new(&[list.to_vec()], signers, ListPolicy::default())
        .map_err(|what| format!("a revocation list in the answer {what}"))?;
    match read.is_foreign(0) {
        false => Ok(()),
        true => Err(format!(
            "the revocation list in the answer is of {}, which is none of the configured CAs; add its certificate to the CA file",
            issuer(list)
        )),
    }
}

/// The issuer of a list by its common name.
pub fn issuer(list: &[u8]) -> String {
    let issuer = RevocationList::parse(list).and_then(|read| read.issuer);
    issuer.map_or_else(|| "a CA without a common name".to_owned(), |name| format!("{name:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ca {
        certificate: Vec<u8>,
        issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    }

    fn ca(name: &str) -> Ca {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        Ca { certificate, issuer: rcgen::Issuer::new(params, key) }
    }

    fn list(ca: &Ca, year: i32) -> Vec<u8> {
        let params = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(year, 1, 1),
            next_update: rcgen::date_time_ymd(year + 1, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&ca.issuer).unwrap().der().to_vec()
    }

    #[test]
    fn a_list_of_a_configured_ca_is_taken_and_one_of_another_is_not() {
        let (one, other) = (ca("One"), ca("Other"));
        let anchors = [one.certificate.clone()];
        let good = list(&one, 2025);
        assert_eq!(judge(&good, &anchors, &[]), Ok(Some(vec![good.clone()])));
        assert_eq!(judge(&good, &anchors, std::slice::from_ref(&good)), Ok(None), "nothing new");
        let error = judge(&list(&other, 2025), &anchors, &[]).unwrap_err();
        assert!(error.contains("\"Other\", which is none of the configured CAs"), "{error}");
        let forged = list(&ca("One"), 2030);
        let error = judge(&forged, &anchors, &[]).unwrap_err();
        assert!(error.contains("is not signed by the key of that CA"), "{error}");
        for garbage in [&b"<html>not found</html>"[..], b"", b"0\x82", &good[..good.len() - 1]] {
            assert!(judge(garbage, &anchors, &[]).is_err());
        }
    }

    #[test]
    fn an_older_list_does_not_take_the_place_of_a_newer_one() {
        let one = ca("One");
        let anchors = [one.certificate.clone()];
        let (old, new) = (list(&one, 2024), list(&one, 2025));
        assert_eq!(judge(&new, &anchors, std::slice::from_ref(&old)), Ok(Some(vec![new.clone()])));
        let error = judge(&old, &anchors, std::slice::from_ref(&new)).unwrap_err();
        assert!(error.contains("older than the stored one"), "{error}");
    }

    #[test]
    fn a_list_that_is_missing_is_named_unless_its_ca_is_gone_too() {
        let (one, two) = (ca("One"), ca("Two"));
        let stored = [list(&one, 2025), list(&two, 2025)];
        let only = list(&one, 2026);
        let both = [one.certificate.clone(), two.certificate.clone()];
        let error = judge(&only, &both, &stored).unwrap_err();
        assert!(error.contains("no list of \"Two\" any more"), "{error}");
        assert!(judge(&only, &both[..1], &stored).unwrap().is_some());
    }
}
