//! The revocation lists that a broker's chain is judged by: where they come from, and how a file of
//! them is read.
//!
//! A list counts for the CA that signed it. One in the name of a CA in `ca-file` must be signed by
//! it; one of another CA counts once the broker presents that CA. What a list of the operator's
//! file has wrong is an error; a list that was fetched and does not fit any more is left out.

use std::path::PathBuf;

use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject as _;

use crate::proto::dtls::server::{ListPolicy, RevocationLists};

/// The tag of a DER `SEQUENCE`.
const SEQUENCE: u8 = 0x30;
/// Lists in one file at most.
pub const LISTS_MAX: usize = 64;

/// `crl-file`, `crl-url` and `crl-expired` of `[upstream]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevocationSettings {
    /// The operator's file.
    pub file: Option<PathBuf>,
    /// The file with what was fetched from `crl-url`; `None`: nothing is fetched.
    pub fetched: Option<PathBuf>,
    /// Whether a chain is refused while the lists of one of its CAs have expired.
    pub refuse_expired: bool,
}

/// Parses revocation lists in PEM, or one in DER.
///
/// # Errors
/// The fault, as a text to append to the file's name.
pub fn parse(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let bytes = bytes.strip_prefix(&[0xEF, 0xBB, 0xBF]).unwrap_or(bytes);
    let lists: Vec<Vec<u8>> = if bytes.first() == Some(&SEQUENCE) {
        vec![bytes.to_vec()]
    } else {
        let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(bytes).collect();
        let found = found.map_err(|_| "is not complete PEM".to_owned())?;
        found.into_iter().map(|list| list.to_vec()).collect()
    };
    match lists.len() {
        0 => Err("holds no revocation list in PEM form".to_owned()),
        count if count > LISTS_MAX => {
            Err(format!("holds {count} revocation lists; at most {LISTS_MAX} are read"))
        }
        _ => Ok(lists),
    }
}

/// The lists of the operator's file and those fetched, for a connection. `configured`: the trusted
/// CA certificates in DER. `fetched`: `None` if nothing is fetched; empty if nothing came yet.
///
/// # Errors
/// The fault of a list in the operator's file, as a text to append to its name.
pub fn lists(
    own: &[Vec<u8>],
    fetched: Option<&[Vec<u8>]>,
    configured: &[Vec<u8>],
    refuse_expired: bool,
) -> Result<RevocationLists, String> {
    let signers = || configured.iter().map(Vec::as_slice);
    let fits = |list: &&Vec<u8>| {
        let one = std::slice::from_ref(*list);
        RevocationLists::new(one, signers(), ListPolicy::default()).is_ok()
    };
    let fetched_usable: Vec<Vec<u8>> = fetched.into_iter().flatten().filter(fits).cloned().collect();
    let missing = fetched.is_some() && fetched_usable.is_empty();
    let all = [own, &fetched_usable].concat();
    RevocationLists::new(&all, signers(), ListPolicy { refuse_expired, missing })
        .map_err(|what| format!("cannot be used: a revocation list {what}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A list of nobody, made in 2025 and to be renewed on 2026-01-01: DER and PEM.
    pub(crate) fn list() -> (Vec<u8>, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2025, 1, 1),
            next_update: rcgen::date_time_ymd(2026, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&rcgen::Issuer::new(params, &key)).unwrap();
        (list.der().to_vec(), list.pem().unwrap())
    }

    #[test]
    fn lists_are_read_from_pem_and_der_and_their_number_is_bounded() {
        let (der, pem) = list();
        assert_eq!(parse(&der).unwrap(), std::slice::from_ref(&der));
        assert_eq!(parse(pem.repeat(2).as_bytes()).unwrap(), [der.clone(), der]);
        assert!(parse(b"").unwrap_err().contains("holds no revocation list"));
        assert!(parse(&pem.as_bytes()[..pem.len() - 30]).is_err());
        assert!(parse(pem.repeat(LISTS_MAX + 1).as_bytes()).unwrap_err().contains("at most 64"));
    }

    #[test]
    fn where_lists_are_expected_and_none_came_that_is_said_to_the_judge() {
        let (der, _) = list();
        assert!(lists(&[], None, &[], true).unwrap().is_empty());
        assert!(lists(&[], Some(&[]), &[], false).unwrap().is_empty());
        assert!(!lists(&[], Some(&[]), &[], true).unwrap().is_empty(), "refused for want of a list");
        assert!(!lists(&[der], None, &[], false).unwrap().is_empty());
        let error = lists(&[b"0x".to_vec()], None, &[], false).err().unwrap();
        assert!(error.contains("cannot be used"), "{error}");
        assert!(lists(&[], Some(&[b"0x".to_vec()]), &[], false).is_ok(), "what was fetched refuses nothing");
    }
}
