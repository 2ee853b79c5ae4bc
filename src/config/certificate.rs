//! What the certificate files of `[coap]` hold: our key and chain, whom of the devices to believe,
//! what is revoked.
//!
//! Bytes in, material out; [`validate`](super::validate) has the keys of the configuration and the
//! files. Either all of it is good or none is used: a certificate without its key, or a CA without
//! its revocation list, would let in or keep out others than its owner meant.

use std::sync::Arc;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, SubjectPublicKeyInfoDer,
};

use crate::proto::dtls::server::bundle::{Authorities, public_key_hash};
use crate::proto::dtls::server::{Certificates, ServerKey, Trust};

/// Largest file of certificates or revocations, in bytes.
pub const FILE_MAX: u64 = 4 << 20;
/// Bytes a DER `SEQUENCE` begins with.
const SEQUENCE: u8 = 0x30;

/// All of it, read and good.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// What we show.
    pub key: Option<Arc<ServerKey>>,
    /// What we show besides the key, in DER: ours first.
    pub chain: Vec<Vec<u8>>,
    /// Whom we believe.
    pub authorities: Authorities,
    /// Revocation lists in DER.
    pub revocation_lists: Vec<Vec<u8>>,
}

impl Material {
    /// For the engine, with the raw public keys of the devices there are.
    pub fn certificates(&self, public_keys: impl IntoIterator<Item = [u8; 32]>) -> Certificates {
        let Authorities { anchors, intermediates } = self.authorities.clone();
        let trust = Trust::new(anchors, intermediates, &self.revocation_lists, public_keys)
            .expect("the anchors and lists were read before");
        Certificates { key: self.key.clone(), trust: trust.into() }
    }
}

/// A chain of certificates, PEM or one in DER.
///
/// # Errors
/// What is wrong, in words that follow the file's name.
pub fn chain(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let bytes = unmarked(bytes);
    if bytes.first() == Some(&SEQUENCE) {
        return Ok(vec![bytes.to_vec()]);
    }
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match found {
        Ok(found) if found.is_empty() => Err("holds no certificate in PEM form".to_owned()),
        Ok(found) => Ok(found.into_iter().map(|certificate| certificate.to_vec()).collect()),
        Err(_) => Err("is no whole PEM".to_owned()),
    }
}

/// Without the byte order mark that some editors put before a text.
fn unmarked(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(&[0xEF, 0xBB, 0xBF]).unwrap_or(bytes)
}

/// Our key: PEM or DER, PKCS #8 or SEC 1.
///
/// # Errors
/// What is wrong, in words that follow the file's name; nothing of the file is repeated.
pub fn server_key(chain: Vec<Vec<u8>>, bytes: &[u8]) -> Result<ServerKey, String> {
    let owned;
    let bytes = unmarked(bytes);
    let der = if bytes.first() == Some(&SEQUENCE) {
        bytes
    } else {
        let encrypted = bytes.windows(9).any(|window| window == b"ENCRYPTED");
        owned = PrivateKeyDer::from_pem_slice(bytes).map_err(|_| match encrypted {
            true => "is encrypted, and the daemon has nobody to ask for its password; `openssl pkey -in KEY -out NEW` decrypts it".to_owned(),
            false => "holds no private key in PEM form".to_owned(),
        })?;
        owned.secret_der()
    };
    ServerKey::new(chain, der).map_err(|error| format!("cannot be used: {error}"))
}

/// Anchors and intermediates.
///
/// # Errors
/// What is wrong, in words that follow the file's name.
pub fn authorities(bytes: &[u8]) -> Result<Authorities, String> {
    let authorities =
        Authorities::divide(chain(bytes)?).map_err(|error| format!("cannot be used: {error}"))?;
    let (anchors, none) = (authorities.anchors.clone(), std::iter::empty());
    Trust::new(anchors, Vec::new(), &[], none).map_err(|error| format!("cannot be used: {error}"))?;
    Ok(authorities)
}

/// Revocation lists, PEM or one in DER.
///
/// # Errors
/// What is wrong, in words that follow the file's name.
pub fn revocation_lists(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let bytes = unmarked(bytes);
    let lists = if bytes.first() == Some(&SEQUENCE) {
        vec![bytes.to_vec()]
    } else {
        let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(bytes).collect();
        let found = found.map_err(|_| "is no whole PEM".to_owned())?;
        found.into_iter().map(|list| list.to_vec()).collect()
    };
    if lists.is_empty() {
        return Err("holds no revocation list in PEM form".to_owned());
    }
    let none = std::iter::empty();
    Trust::new(Vec::new(), Vec::new(), &lists, none).map_err(|error| format!("cannot be used: {error}"))?;
    Ok(lists)
}

/// Whether each list in the name of a configured CA is that CA's.
///
/// # Errors
/// What is wrong, in words that follow the name of the lists' file.
pub fn fit(authorities: &Authorities, lists: &[Vec<u8>]) -> Result<(), String> {
    let Authorities { anchors, intermediates } = authorities.clone();
    let trust = Trust::new(anchors, intermediates, lists, std::iter::empty());
    trust.map(drop).map_err(|error| format!("cannot be used: {error}"))
}

/// A device's public key, out of a file that has the key (SubjectPublicKeyInfo) or a certificate of
/// it, PEM or DER.
///
/// # Errors
/// What is wrong, in words that follow the file's name.
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
            Err("holds a private key, which stays on its device".to_owned())
        }
        Err(_) => Err("holds neither a public key nor a certificate in PEM form".to_owned()),
    }
}

/// `sha256:` and 64 hexadecimal digits.
pub fn parse_key_hash(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix("sha256:")?;
    super::scalar::parse_hex(digits.as_bytes())?.as_slice().try_into().ok()
}

/// As [`parse_key_hash`] reads it.
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
