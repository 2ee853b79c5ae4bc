//! Parses configured files: divides CA certificates into anchors and intermediates, and reads the
//! public key of a device.

use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use webpki::{EndEntityCert, RawPublicKeyEntity};

use super::certificate::{CredentialError, Curve, public_key_info};
use super::schedule::hash;

/// Anchors and intermediates, in DER.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authorities {
    /// Trust anchors.
    pub anchors: Vec<Vec<u8>>,
    /// Intermediates, which may be part of a path to an anchor.
    pub intermediates: Vec<Vec<u8>>,
}

impl Authorities {
    /// Divides CA certificates in DER: a certificate whose issuer is among them is an intermediate;
    /// all others, and self-issued ones, are anchors.
    ///
    /// # Errors
    /// [`CredentialError`] with the number of the first malformed one, from 1.
    pub fn divide(certificates: Vec<Vec<u8>>) -> Result<Authorities, CredentialError> {
        let mut names = Vec::with_capacity(certificates.len());
        for (number, der) in (1..).zip(&certificates) {
            names.push(
                names_of(der).map_err(|error| {
                    CredentialError(format!("certificate {number} cannot be read: {error}"))
                })?,
            );
        }
        let mut divided = Authorities::default();
        for (at, (der, (subject, issuer))) in certificates.into_iter().zip(&names).enumerate() {
            let issued = names.iter().enumerate().any(|(other, (name, _))| other != at && name == issuer);
            if issuer != subject && issued {
                divided.intermediates.push(der);
            } else {
                divided.anchors.push(der);
            }
        }
        Ok(divided)
    }
}

/// Subject and issuer; an anchor of X.509 version 1 counts as self-issued.
fn names_of(der: &[u8]) -> Result<(Vec<u8>, Vec<u8>), webpki::Error> {
    let der = CertificateDer::from(der);
    match EndEntityCert::try_from(&der) {
        Ok(certificate) => Ok((certificate.subject().to_vec(), certificate.issuer().to_vec())),
        Err(error) => match webpki::anchor_from_trusted_cert(&der) {
            Ok(anchor) => Ok((anchor.subject.to_vec(), anchor.subject.to_vec())),
            Err(_) => Err(error),
        },
    }
}

/// The index of the first certificate of a chain that was not issued by the next one; `None` if the
/// chain is in order or malformed.
pub fn misplaced(chain: &[Vec<u8>]) -> Option<usize> {
    let names: Vec<_> = chain.iter().map(|der| names_of(der).ok()).collect::<Option<_>>()?;
    names.windows(2).position(|pair| pair[0].1 != pair[1].0)
}

/// SHA-256 of the SubjectPublicKeyInfo in `der`, which is either a SubjectPublicKeyInfo or a
/// certificate.
///
/// # Errors
/// [`CredentialError`]: it is neither, or its key is on another curve than P-256 and P-384.
pub fn public_key_hash(der: &[u8]) -> Result<[u8; 32], CredentialError> {
    let certificate = CertificateDer::from(der);
    let info = match EndEntityCert::try_from(&certificate) {
        Ok(certificate) => certificate.subject_public_key_info().to_vec(),
        Err(_) => {
            RawPublicKeyEntity::try_from(&SubjectPublicKeyInfoDer::from(der))
                .map_err(|_| CredentialError("neither a public key nor a certificate".to_owned()))?;
            der.to_vec()
        }
    };
    let usable = [Curve::P256, Curve::P384].into_iter().any(|curve| {
        let point = info.len().checked_sub(curve.point_length()).and_then(|start| info.get(start..));
        point.is_some_and(|point| public_key_info(curve, point) == info)
    });
    if usable {
        Ok(hash(&info))
    } else {
        Err(CredentialError("the key is not one on P-256 or P-384".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PublicKeyData as _};

    use super::*;
    use crate::proto::dtls::server::ServerKey;

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    /// Root, intermediate, leaf.
    fn chain() -> [Vec<u8>; 3] {
        let (root, middle, leaf) =
            (KeyPair::generate().unwrap(), KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let issuer = Issuer::new(params("root"), &root);
        let above = params("middle").signed_by(&middle, &issuer).unwrap();
        let below = Issuer::new(params("middle"), &middle);
        let last = params("leaf").signed_by(&leaf, &below).unwrap();
        [params("root").self_signed(&root).unwrap().der().to_vec(), above.der().to_vec(), last.der().to_vec()]
    }

    #[test]
    fn whoever_is_not_issued_by_another_of_the_heap_is_an_anchor() {
        let [root, middle, leaf] = chain();
        let divided = Authorities::divide(vec![leaf.clone(), middle.clone(), root.clone()]).unwrap();
        assert_eq!(divided, Authorities { anchors: vec![root], intermediates: vec![leaf, middle.clone()] });
        let alone = Authorities::divide(vec![middle.clone()]).unwrap();
        assert_eq!(alone, Authorities { anchors: vec![middle.clone()], intermediates: vec![] });
        let error = Authorities::divide(vec![middle, b"x".to_vec()]).unwrap_err();
        assert!(error.0.starts_with("certificate 2 cannot be read"), "{error}");
    }

    #[test]
    fn a_chain_in_the_wrong_order_is_noticed() {
        let [root, middle, leaf] = chain();
        assert_eq!(misplaced(&[leaf.clone(), middle.clone(), root.clone()]), None);
        assert_eq!(misplaced(std::slice::from_ref(&leaf)), None);
        assert_eq!(misplaced(&[leaf, root, middle]), Some(0));
    }

    #[test]
    fn a_key_has_one_hash_alone_and_in_its_certificate() {
        let key = KeyPair::generate().unwrap();
        let info = key.subject_public_key_info();
        let certificate = params("x").self_signed(&key).unwrap();
        assert_eq!(public_key_hash(&info), Ok(hash(&info)));
        assert_eq!(public_key_hash(certificate.der()), Ok(hash(&info)));
        let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().subject_public_key_info();
        assert!(public_key_hash(&other).is_err());
        for end in 0..info.len() {
            assert!(public_key_hash(&info[..end]).is_err());
        }
    }

    #[test]
    fn a_key_is_taken_in_either_form_on_either_curve() {
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let whole = key.serialize_der();
            assert_eq!(ServerKey::new(vec![], &whole).unwrap().public_key(), key.subject_public_key_info());
            // The OCTET STRING that PKCS #8 wraps is the SEC 1 form.
            let start = whole.windows(2).position(|pair| pair[0] == 0x04 && pair[1] > 48).unwrap();
            let skip = if whole[start + 1] == 0x81 { 3 } else { 2 };
            let inner = &whole[start + skip..];
            assert_eq!(ServerKey::new(vec![], inner).unwrap().public_key(), key.subject_public_key_info());
        }
        let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_der();
        assert!(ServerKey::new(vec![], &other).is_err());
    }
}
