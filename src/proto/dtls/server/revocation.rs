//! Revocation lists (RFC 5280 §5): the certificates that each revokes, and its CA.
//!
//! A list applies to the CA that signed it, identified by name and key, because a CA that changes
//! its key keeps its name. A list with the name of a configured CA is verified when it is read.
//! Otherwise it is verified when a device first sends a CA certificate with its name; until then
//! its revocations apply, because the list is configured by the operator.

use std::sync::{Mutex, PoisonError};

use rustls_pki_types::SignatureVerificationAlgorithm;
use webpki::CertRevocationList;

use super::certificate::CHAIN;
use super::name::content;
use super::outline::Outline;
use super::schedule::hash;
use crate::proto::der::Der;

/// The id of a CA's key: the first half of the SHA-256 of the content of its SubjectPublicKeyInfo.
pub(super) type KeyId = [u8; 16];

/// The id of the key in a SubjectPublicKeyInfo, or in the content of one.
pub(super) fn key_id(info: &[u8]) -> KeyId {
    let (mut id, whole) = (KeyId::default(), hash(content(info)));
    let half = &whole[..size_of::<KeyId>()];
    id.copy_from_slice(half);
    id
}

/// Most keys for which a list stores the result of its verification; further keys count as its
/// signer.
const KEYS_MAX: usize = 16;

/// A configured CA as a possible signer of lists.
pub(super) struct Signer<'c> {
    /// The content of its `Name`.
    pub subject: &'c [u8],
    /// Its SubjectPublicKeyInfo, or the content of that.
    pub key: &'c [u8],
    /// Whether its key usage allows it (cRLSign).
    pub may_sign: bool,
}

/// The signers of a list.
enum Signers {
    /// These configured CAs.
    Known(Box<[KeyId]>),
    /// No configured CA has its name. The list in DER, and the results of its verification with
    /// other keys.
    Unknown(Box<[u8]>, Mutex<Vec<(KeyId, bool)>>),
}

/// One revocation list.
pub(super) struct List {
    list: CertRevocationList<'static>,
    signers: Signers,
}

impl List {
    /// Parses a list in DER.
    ///
    /// # Errors
    /// The fault, as a text to append to "a revocation list".
    pub fn read(der: &[u8], configured: &[Signer<'_>]) -> Result<List, String> {
        let list = webpki::OwnedCertRevocationList::from_der(der).map_err(|error| match error {
            webpki::Error::MalformedExtensions => {
                "cannot be read: it needs the extensions CRL number and authority key identifier (RFC 5280 §5.2)"
                    .to_owned()
            }
            error => format!("cannot be read: {error}"),
        })?;
        let list = CertRevocationList::from(list);
        let named: Vec<&Signer<'_>> =
            configured.iter().filter(|signer| signer.subject == content(list.issuer())).collect();
        if named.is_empty() {
            return Ok(List { list, signers: Signers::Unknown(der.into(), Mutex::default()) });
        }
        let signed = named.iter().filter(|signer| signer.may_sign && is_signed(der, signer.key));
        let mut signers: Vec<KeyId> = signed.map(|signer| key_id(signer.key)).collect();
        signers.dedup();
        if signers.is_empty() {
            let name = super::DistinguishedName::from_der(list.issuer());
            let name = name.map_or_else(|| "a configured CA".to_owned(), |name| name.to_string());
            return Err(match named.iter().any(|signer| signer.may_sign) {
                true => format!("of {name} is not signed by the key of that CA"),
                false => format!("of {name} may not be signed by its key (key usage cRLSign)"),
            });
        }
        Ok(List { list, signers: Signers::Known(signers.into()) })
    }

    /// Whether it revokes this certificate; `key` is the key of the certificate's issuer, if known.
    pub fn revokes(&self, issuer: &[u8], key: Option<&KeyId>, serial: &[u8]) -> bool {
        content(self.list.issuer()) == content(issuer)
            && key.is_none_or(|key| self.may_be_of(key))
            && !matches!(self.list.find_serial(serial), Ok(None))
    }

    /// Whether it may be for the CA with this key.
    fn may_be_of(&self, key: &KeyId) -> bool {
        match &self.signers {
            Signers::Known(signers) => signers.contains(key),
            Signers::Unknown(_, tried) => {
                let tried = tried.lock().unwrap_or_else(PoisonError::into_inner);
                tried.iter().find(|(tried, _)| tried == key).is_none_or(|(_, is_signed)| *is_signed)
            }
        }
    }

    /// A certificate of this CA was verified: verifies the list with its key, once, if no
    /// configured CA has its name.
    pub fn meet(&self, subject: &[u8], info: &[u8]) {
        let Signers::Unknown(der, tried) = &self.signers else { return };
        if content(self.list.issuer()) != content(subject) {
            return;
        }
        let id = key_id(info);
        let mut tried = tried.lock().unwrap_or_else(PoisonError::into_inner);
        if tried.len() < KEYS_MAX && !tried.iter().any(|(tried, _)| *tried == id) {
            tried.push((id, is_signed(der, info)));
        }
    }

    /// Whether it is verified only when a device sends its CA.
    pub fn is_unverified(&self) -> bool {
        matches!(self.signers, Signers::Unknown(..))
    }

    /// The `Name` of its issuer, and the keys of the configured CAs that signed it.
    pub fn signers(&self) -> (&[u8], &[KeyId]) {
        match &self.signers {
            Signers::Known(signers) => (self.list.issuer(), signers),
            Signers::Unknown(..) => (self.list.issuer(), &[]),
        }
    }
}

/// Whether the key of a SubjectPublicKeyInfo, or of its content, made the signature of a list or
/// certificate (RFC 5280 §5.1.1).
pub(super) fn is_signed(signed: &[u8], info: &[u8]) -> bool {
    let signed = || {
        let mut parts = Der(Der(signed).element()?.1);
        let whole = parts.0;
        parts.element()?;
        let message = &whole[..whole.len() - parts.0.len()];
        let (_, algorithm) = parts.element()?;
        let (_, signature) = parts.element()?;
        Some((message, algorithm, signature.strip_prefix(&[0])?))
    };
    let key = || {
        let mut parts = Der(content(info));
        let (_, algorithm) = parts.element()?;
        let (_, key) = parts.element()?;
        Some((algorithm, key.strip_prefix(&[0])?))
    };
    let (Some((message, algorithm, signature)), Some((key_algorithm, key))) = (signed(), key()) else {
        return false;
    };
    CHAIN.iter().any(|candidate: &&dyn SignatureVerificationAlgorithm| {
        *candidate.signature_alg_id() == *algorithm
            && *candidate.public_key_alg_id() == *key_algorithm
            && candidate.verify_signature(key, message, signature).is_ok()
    })
}

/// Whether a CA's certificate says that its key may sign lists; one that cannot be read says
/// nothing.
pub(super) fn may_sign_lists(certificate: &[u8]) -> bool {
    Outline::read(certificate).is_none_or(|outline| outline.may_sign_lists())
}
