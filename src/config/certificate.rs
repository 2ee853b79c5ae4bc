//! The content of the certificate files of `[coap]`: the gateway's key and chain, the trust anchors
//! for devices, and the revocation lists.
//!
//! Bytes in, material out; [`validate`](super::validate) handles the configuration keys and the
//! files. Either all of it is valid or none is used: a certificate without its key, or a CA without
//! its revocation list, would accept or refuse the wrong devices. Only the gateway's own
//! certificate with its key may be missing beside CAs that are valid: then no device connects with
//! a certificate until it is there.

use std::path::PathBuf;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer};

use crate::proto::dtls::server::bundle::{Authorities, public_key_hash};
use crate::proto::dtls::server::{Certificates, ListPolicy, ServerKey, Trust};

/// Largest file of certificates or revocations, in bytes.
pub const FILE_MAX: u64 = 4 << 20;
/// The tag of a DER `SEQUENCE`.
const SEQUENCE: u8 = 0x30;

/// The content of all certificate files, parsed and valid.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// The gateway's key with its certificate chain.
    pub key: Option<Arc<ServerKey>>,
    /// The gateway's certificate chain in DER, its own certificate first.
    pub chain: Vec<Vec<u8>>,
    /// The trust anchors and intermediates for devices.
    pub authorities: Authorities,
    /// The revocation lists of the file, in DER.
    pub revocation_lists: Vec<Vec<u8>>,
    /// Key or chain cannot be used at the start: there is none until the files are put right.
    pub key_fault: bool,
    /// Those that were fetched and fit the anchors.
    pub fetched_lists: Vec<Vec<u8>>,
    /// What becomes of a device while lists have expired or did not come yet.
    pub list_policy: ListPolicy,
    /// Lists are configured, and something of `[coap]` cannot be used: there are none.
    pub lists_fault: bool,
    /// The file of `chain`, if there is one.
    pub chain_file: Option<PathBuf>,
    /// The file of `authorities`, if there is one.
    pub authorities_file: Option<PathBuf>,
}

impl Material {
    /// The material for the engine, with the raw public keys of the devices.
    pub fn certificates(&self, public_keys: impl IntoIterator<Item = [u8; 32]>) -> Certificates {
        let Authorities { anchors, intermediates } = self.authorities.clone();
        let lists = [&self.revocation_lists[..], &self.fetched_lists[..]].concat();
        let trust = Trust::new(anchors, intermediates, &lists, public_keys)
            .expect("the anchors and lists were read before")
            .with_list_policy(self.list_policy);
        Certificates { key: self.key.clone(), trust: trust.into() }
    }

    /// The same with other lists fetched; one that does not fit the anchors is left out.
    #[must_use]
    pub fn with_fetched(&self, lists: &[Vec<u8>]) -> Material {
        let mut material = self.clone();
        let fits = |list: &&Vec<u8>| fit(&self.authorities, std::slice::from_ref(*list)).is_ok();
        material.fetched_lists = lists.iter().filter(fits).cloned().collect();
        material.list_policy.missing = material.fetched_lists.is_empty();
        material
    }
}

/// Parses a certificate chain in PEM, or one certificate in DER.
///
/// # Errors
/// The fault, as a text to append to the file's name.
pub fn chain(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let bytes = unmarked(bytes);
    if bytes.first() == Some(&SEQUENCE) {
        return Ok(vec![bytes.to_vec()]);
    }
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match found {
        Ok(found) if found.is_empty() => Err("holds no certificate in PEM form".to_owned()),
        Ok(found) => Ok(found.into_iter().map(|certificate| certificate.to_vec()).collect()),
        Err(_) => Err("is not complete PEM".to_owned()),
    }
}

/// Without the byte order mark that some editors put before a text.
fn unmarked(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(&[0xEF, 0xBB, 0xBF]).unwrap_or(bytes)
}

/// Our key: PEM or DER, PKCS #8 or SEC 1.
///
/// # Errors
/// The fault, as a text to append to the file's name; it contains nothing of the file.
pub fn server_key(chain: Vec<Vec<u8>>, bytes: &[u8]) -> Result<ServerKey, String> {
    let owned;
    let bytes = unmarked(bytes);
    let der = if bytes.first() == Some(&SEQUENCE) {
        bytes
    } else {
        let encrypted = bytes.windows(9).any(|window| window == b"ENCRYPTED");
        owned = PrivateKeyDer::from_pem_slice(bytes).map_err(|_| match encrypted {
            true => {
                "is encrypted, and the daemon cannot ask for its passphrase; `openssl pkey -in KEY -out NEW` \
                     decrypts it"
                    .to_owned()
            }
            false => "holds no private key in PEM form".to_owned(),
        })?;
        owned.secret_der()
    };
    ServerKey::new(chain, der).map_err(|error| format!("cannot be used: {error}"))
}

/// Parses trust anchors and intermediates.
///
/// # Errors
/// The fault, as a text to append to the file's name.
pub fn authorities(bytes: &[u8]) -> Result<Authorities, String> {
    let authorities =
        Authorities::divide(chain(bytes)?).map_err(|error| format!("cannot be used: {error}"))?;
    let (anchors, none) = (authorities.anchors.clone(), std::iter::empty());
    Trust::new(anchors, Vec::new(), &[], none).map_err(|error| format!("cannot be used: {error}"))?;
    Ok(authorities)
}

/// Parses revocation lists in PEM, or one in DER.
///
/// # Errors
/// The fault, as a text to append to the file's name.
pub fn revocation_lists(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let lists = crate::northbound::revocation::parse(bytes)?;
    let none = std::iter::empty();
    Trust::new(Vec::new(), Vec::new(), &lists, none).map_err(|error| format!("cannot be used: {error}"))?;
    Ok(lists)
}

/// Checks that each list whose issuer is a configured CA is signed by that CA.
///
/// # Errors
/// The fault, as a text to append to the name of the file with the lists.
pub fn fit(authorities: &Authorities, lists: &[Vec<u8>]) -> Result<(), String> {
    let Authorities { anchors, intermediates } = authorities.clone();
    let trust = Trust::new(anchors, intermediates, lists, std::iter::empty());
    trust.map(drop).map_err(|error| format!("cannot be used: {error}"))
}

/// The SubjectPublicKeyInfo in DER of a file with it or with a certificate of it, PEM or DER.
///
/// # Errors
/// The fault, as a text to append to the file's name.
pub fn public_key_info(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let bytes = unmarked(bytes);
    let of_certificate = |der: &[u8]| {
        let der = CertificateDer::from(der);
        let leaf = webpki::EndEntityCert::try_from(&der).ok()?;
        Some(leaf.subject_public_key_info().to_vec())
    };
    if bytes.first() == Some(&SEQUENCE) {
        return Ok(of_certificate(bytes).unwrap_or_else(|| bytes.to_vec()));
    }
    if let Ok(key) = SubjectPublicKeyInfoDer::from_pem_slice(bytes) {
        return Ok(key.to_vec());
    }
    let certificate = CertificateDer::from_pem_slice(bytes).ok().and_then(|der| of_certificate(&der));
    certificate.ok_or_else(|| match PrivateKeyDer::from_pem_slice(bytes) {
        Ok(_) => {
            "contains a private key; use the public key, and keep the private key on the device".to_owned()
        }
        Err(_) => "holds neither a public key nor a certificate in PEM form".to_owned(),
    })
}

/// The SHA-256 of a device's public key, from a file with the key (SubjectPublicKeyInfo) or a
/// certificate of it, PEM or DER.
///
/// # Errors
/// The fault, as a text to append to the file's name.
pub fn public_key(bytes: &[u8]) -> Result<[u8; 32], String> {
    let bytes = unmarked(bytes);
    let hash = |der: &[u8]| public_key_hash(der).map_err(|error| format!("cannot be used: {error}"));
    if bytes.first() == Some(&SEQUENCE) {
        return hash(bytes);
    }
    if let Ok(key) = SubjectPublicKeyInfoDer::from_pem_slice(bytes) {
        return hash(&key);
    }
    match CertificateDer::from_pem_slice(bytes) {
        Ok(certificate) => hash(&certificate),
        Err(_) if PrivateKeyDer::from_pem_slice(bytes).is_ok() => {
            Err("contains a private key; use the public key, and keep the private key on the device"
                .to_owned())
        }
        Err(_) => Err("holds neither a public key nor a certificate in PEM form".to_owned()),
    }
}

/// `sha256:` and 64 hexadecimal digits.
pub fn parse_key_hash(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix("sha256:")?;
    super::scalar::parse_hex(digits.as_bytes())?.as_slice().try_into().ok()
}

/// Formats a hash in the form that [`parse_key_hash`] reads.
pub fn format_key_hash(hash: &[u8; 32]) -> String {
    format!("sha256:{}", super::scalar::format_hex(hash))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};

    use super::*;

    #[test]
    fn a_public_key_is_the_same_in_every_form() {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["x".to_owned()]).unwrap().self_signed(&key).unwrap();
        let hash = public_key(&key.subject_public_key_info()).unwrap();
        assert_eq!(public_key(key.public_key_pem().as_bytes()), Ok(hash));
        assert_eq!(public_key(certificate.der()), Ok(hash));
        assert_eq!(public_key(certificate.pem().as_bytes()), Ok(hash));
        assert_eq!(parse_key_hash(&format_key_hash(&hash)), Some(hash));
        for text in ["", "sha256:", "sha256:00", "sha1:00", &format!("sha256:{}", "0g".repeat(32))] {
            assert_eq!(parse_key_hash(text), None, "{text}");
        }
        let private = public_key(key.serialize_pem().as_bytes()).unwrap_err();
        assert!(private.contains("private key"), "{private}");
        assert!(public_key(b"hello").is_err());
    }

    #[test]
    fn a_key_and_a_chain_are_taken_from_pem_and_der() {
        let key = KeyPair::generate().unwrap();
        let other = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["x".to_owned()]).unwrap().self_signed(&key).unwrap();
        let pem = chain(certificate.pem().as_bytes()).unwrap();
        assert_eq!(pem, chain(certificate.der()).unwrap());
        assert!(server_key(pem.clone(), key.serialize_pem().as_bytes()).is_ok());
        assert!(server_key(pem.clone(), &key.serialize_der()).is_ok());
        let wrong = server_key(pem, other.serialize_pem().as_bytes()).unwrap_err();
        assert_eq!(wrong, "cannot be used: the key is not that of the certificate");
        let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(server_key(vec![], encrypted).unwrap_err().contains("is encrypted"));
        assert!(chain(b"").is_err() && authorities(b"x").is_err() && revocation_lists(b"x").is_err());
    }
}
