//! Puts the certificates a source gives in order: the one for our key first, each followed by its
//! issuer. Nothing is verified here; the renewal does that.

use crate::proto::der::{CONTEXT_0, Der, INTEGER, OBJECT_IDENTIFIER, SEQUENCE};
use crate::proto::dtls::server::outline::Outline;

/// Certificates of a chain at most.
pub const CHAIN_MAX: usize = 8;

/// Why there is no chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoChain {
    /// There is no certificate at all.
    Empty,
    /// None of them has the key of the request.
    OtherKey,
    /// The signing request cannot be read.
    Request,
    /// Issuers lead on beyond [`CHAIN_MAX`].
    TooLong,
}

impl std::fmt::Display for NoChain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            NoChain::Empty => "the answer holds no certificate",
            NoChain::OtherKey => "no certificate in the answer has the key of the request",
            NoChain::Request => "our own signing request cannot be read",
            NoChain::TooLong => "the chain in the answer has more than 8 certificates",
        })
    }
}

/// The content of the SubjectPublicKeyInfo of a signing request (RFC 2986 §4.1).
pub fn request_key(csr: &[u8]) -> Option<&[u8]> {
    let mut request = Der(Der(csr).expect(SEQUENCE)?);
    let mut info = Der(request.expect(SEQUENCE)?);
    info.expect(INTEGER)?; // version
    info.expect(SEQUENCE)?; // subject
    info.expect(SEQUENCE)
}

/// The chain for the key of `csr`: leaf first, then each issuer by its name, out of `issued` and
/// then of `known`. A self-issued root is left off, as a TLS peer has it or does not trust it.
///
/// # Errors
/// [`NoChain`]
pub fn order(csr: &[u8], issued: &[Vec<u8>], known: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, NoChain> {
    if issued.is_empty() {
        return Err(NoChain::Empty);
    }
    order_for(request_key(csr).ok_or(NoChain::Request)?, issued, known)
}

/// The same for a public key, the content of its SubjectPublicKeyInfo.
///
/// # Errors
/// [`NoChain`]
pub fn order_for(key: &[u8], issued: &[Vec<u8>], known: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, NoChain> {
    if issued.is_empty() {
        return Err(NoChain::Empty);
    }
    let read = |der: &Vec<u8>| -> Option<(Vec<u8>, Vec<u8>, Vec<u8>)> {
        let outline = Outline::read(der)?;
        Some((outline.key.to_vec(), outline.subject.to_vec(), outline.issuer.to_vec()))
    };
    let leaf = issued.iter().find(|der| read(der).is_some_and(|(found, ..)| found == key));
    let leaf = leaf.ok_or(NoChain::OtherKey)?;
    let mut chain = vec![leaf.clone()];
    while let Some((_, subject, issuer)) = chain.last().and_then(read)
        && subject != issuer
    {
        let of_issuer = |der: &&Vec<u8>| {
            !chain.contains(der) && read(der).is_some_and(|(_, subject, _)| subject == issuer)
        };
        let Some(next) = issued.iter().chain(known).find(of_issuer) else { break };
        if read(next).is_some_and(|(_, subject, issuer)| subject == issuer) {
            break;
        }
        if chain.len() == CHAIN_MAX {
            return Err(NoChain::TooLong);
        }
        chain.push(next.clone());
    }
    Ok(chain)
}

/// The object identifiers of the attributes of a signing request (RFC 2986 §4.1).
pub fn request_attributes(csr: &[u8]) -> Option<Vec<&[u8]>> {
    let mut request = Der(Der(csr).expect(SEQUENCE)?);
    let mut info = Der(request.expect(SEQUENCE)?);
    info.expect(INTEGER)?;
    info.expect(SEQUENCE)?;
    info.expect(SEQUENCE)?;
    let mut attributes = Der(info.expect(CONTEXT_0)?);
    let mut found = Vec::new();
    while let Some(attribute) = attributes.optional(SEQUENCE) {
        found.push(Der(attribute).expect(OBJECT_IDENTIFIER)?);
    }
    Some(found)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    pub struct Pki {
        pub root: Vec<u8>,
        pub middle: Vec<u8>,
        pub leaf: Vec<u8>,
        pub csr: Vec<u8>,
    }

    fn params(name: &str, is_ca: bool) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params
    }

    pub fn pki() -> Pki {
        let (root_key, middle_key, key) =
            (KeyPair::generate().unwrap(), KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let root = params("Root", true).self_signed(&root_key).unwrap().der().to_vec();
        let by_root = Issuer::new(params("Root", true), root_key);
        let middle = params("Middle", true).signed_by(&middle_key, &by_root).unwrap().der().to_vec();
        let by_middle = Issuer::new(params("Middle", true), middle_key);
        let leaf = params("gw", false).signed_by(&key, &by_middle).unwrap().der().to_vec();
        let csr = params("gw", false).serialize_request(&key).unwrap().der().to_vec();
        Pki { root, middle, leaf, csr }
    }

    #[test]
    fn a_chain_is_put_in_order_and_its_root_left_off() {
        let Pki { root, middle, leaf, csr } = pki();
        let expected = vec![leaf.clone(), middle.clone()];
        let ordered = order(&csr, &[root.clone(), middle.clone(), leaf.clone()], &[]);
        assert_eq!(ordered, Ok(expected.clone()));
        assert_eq!(order(&csr, std::slice::from_ref(&leaf), &[root, middle]), Ok(expected), "out of cacerts");
        assert_eq!(order(&csr, std::slice::from_ref(&leaf), &[]), Ok(vec![leaf]));
    }

    #[test]
    fn a_certificate_for_another_key_is_none_of_ours() {
        let (ours, other) = (pki(), pki());
        assert_eq!(order(&ours.csr, &[other.leaf, other.middle], &[]), Err(NoChain::OtherKey));
        assert_eq!(order(&ours.csr, &[], &[]), Err(NoChain::Empty));
        assert_eq!(order(b"x", &[ours.leaf], &[]), Err(NoChain::Request));
    }

    #[test]
    fn two_issuers_that_certify_each_other_do_not_loop() {
        let (a_key, b_key, key) =
            (KeyPair::generate().unwrap(), KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let spki = |key: &KeyPair| {
            let pem = key.serialize_pem();
            KeyPair::from_pem(&pem).unwrap()
        };
        let by_a = Issuer::new(params("A", true), spki(&a_key));
        let by_b = Issuer::new(params("B", true), spki(&b_key));
        let a = params("A", true).signed_by(&a_key, &by_b).unwrap().der().to_vec();
        let b = params("B", true).signed_by(&b_key, &by_a).unwrap().der().to_vec();
        let leaf = params("gw", false).signed_by(&key, &by_a).unwrap().der().to_vec();
        let csr = params("gw", false).serialize_request(&key).unwrap().der().to_vec();
        assert_eq!(order(&csr, &[a.clone(), leaf.clone(), b.clone()], &[]), Ok(vec![leaf, a, b]));
    }
}
