//! Revocation lists (RFC 5280 §5): the certificates that each revokes, and its CA.
//!
//! A list applies to the CA that signed it, identified by name and key, because a CA that changes
//! its key keeps its name. A list with the name of a configured CA is verified when it is read.
//! Otherwise it is verified when a device first sends a CA certificate with its name; until then
//! its revocations apply, because the list is configured by the operator.

use std::sync::{Mutex, PoisonError};

use rustls_pki_types::SignatureVerificationAlgorithm;
use webpki::{CertRevocationList, EndEntityCert, Error, VerifiedPath};

use super::certificate::CHAIN;
use super::name::content;
use super::outline::Outline;
use super::schedule::hash;
use crate::clock::UnixTime;
use crate::proto::der::{Der, INTEGER, SEQUENCE};

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

/// Issuer and dates of a list (RFC 5280 §5.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListOutline<'l> {
    /// The content of its issuer's `Name`.
    pub issuer: &'l [u8],
    /// When it was made.
    pub this_update: UnixTime,
    /// When the next one comes, if that is said.
    pub next_update: Option<UnixTime>,
}

impl<'l> ListOutline<'l> {
    /// Reads a list in DER; `None` if it is none.
    pub fn read(der: &'l [u8]) -> Option<ListOutline<'l>> {
        let mut list = Der(Der(der).expect(SEQUENCE)?);
        let mut body = Der(list.expect(SEQUENCE)?);
        body.optional(INTEGER); // version
        body.expect(SEQUENCE)?; // the signature's algorithm
        let issuer = body.expect(SEQUENCE)?;
        let this_update = body.time()?;
        Some(ListOutline { issuer, this_update, next_update: body.time() })
    }
}

/// What to do with a list after its nextUpdate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListPolicy {
    /// A chain is refused while every list of one of its CAs has expired.
    pub refuse_expired: bool,
    /// Lists are expected and there is none yet: with `refuse_expired`, every chain is refused.
    pub missing: bool,
}

/// One revocation list.
pub(super) struct List {
    list: CertRevocationList<'static>,
    signers: Signers,
    next_update: Option<UnixTime>,
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
        let next_update = ListOutline::read(der).and_then(|outline| outline.next_update);
        let named: Vec<&Signer<'_>> =
            configured.iter().filter(|signer| signer.subject == content(list.issuer())).collect();
        if named.is_empty() {
            let signers = Signers::Unknown(der.into(), Mutex::default());
            return Ok(List { list, signers, next_update });
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
        Ok(List { list, signers: Signers::Known(signers.into()), next_update })
    }

    /// Whether it revokes this certificate; `key` is the key of the certificate's issuer, if known.
    pub fn revokes(&self, issuer: &[u8], key: Option<&KeyId>, serial: &[u8]) -> bool {
        content(self.list.issuer()) == content(issuer)
            && key.is_none_or(|key| self.may_be_of(key))
            && !matches!(self.list.find_serial(serial), Ok(None))
    }

    /// Whether it is a list of the CA with this name and key.
    fn is_of(&self, subject: &[u8], key: &KeyId) -> bool {
        content(self.list.issuer()) == content(subject) && self.may_be_of(key)
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

/// Checks a path with valid signatures against lists, each for the key that signed it. `time`: of
/// the verification.
pub(super) fn judge(
    lists: &[List],
    policy: ListPolicy,
    end_entity: &EndEntityCert<'_>,
    path: &VerifiedPath<'_>,
    time: UnixTime,
) -> Result<(), Error> {
    if policy.refuse_expired && policy.missing {
        return Err(Error::UnknownRevocationStatus);
    }
    if lists.is_empty() {
        return Ok(());
    }
    let anchor = path.anchor();
    let mut issuers = vec![(anchor.subject.to_vec(), anchor.subject_public_key_info.to_vec())];
    for ca in path.intermediate_certificates().rev() {
        issuers.push((ca.subject().to_vec(), ca.subject_public_key_info().to_vec()));
    }
    for (subject, key) in &issuers {
        lists.iter().for_each(|list| list.meet(subject, key));
    }
    let below = path.intermediate_certificates().rev().map(|ca| (ca.issuer(), ca.serial()));
    let below = below.chain([(end_entity.issuer(), end_entity.serial())]);
    let mut all = issuers.iter().zip(below);
    let revokes = |issuer: &[u8], key: &[u8], serial: &[u8]| {
        let key = key_id(key);
        lists.iter().any(|list| list.revokes(issuer, Some(&key), serial))
    };
    if all.any(|((_, key), (issuer, serial))| revokes(issuer, key, serial)) {
        return Err(Error::CertRevoked);
    }
    if !policy.refuse_expired {
        return Ok(());
    }
    for (subject, key) in &issuers {
        let key = key_id(key);
        let own = lists.iter().filter(|list| list.is_of(subject, &key));
        // A list without nextUpdate never expires.
        let ends = own.map(|list| list.next_update.unwrap_or(UnixTime(u64::MAX))).max();
        if let Some(next) = ends.filter(|next| next.as_secs() < time.as_secs()) {
            let at = |time: UnixTime| {
                rustls_pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(time.as_secs()))
            };
            return Err(Error::CrlExpired { time: at(time), next_update: at(next) });
        }
    }
    Ok(())
}

/// Revocation lists for the chain of a server: the same rules as for devices.
pub struct RevocationLists {
    lists: Vec<List>,
    policy: ListPolicy,
}

impl RevocationLists {
    /// Reads lists in DER. A list in the name of one of `configured`, CA certificates in DER, must
    /// be signed by it.
    ///
    /// # Errors
    /// The fault, as a text to append to "a revocation list".
    pub fn new<'c>(
        lists: &[Vec<u8>],
        configured: impl IntoIterator<Item = &'c [u8]>,
        policy: ListPolicy,
    ) -> Result<RevocationLists, String> {
        let outlines: Vec<(&[u8], Outline<'_>)> =
            configured.into_iter().filter_map(|der| Some((der, Outline::read(der)?))).collect();
        let signers: Vec<Signer<'_>> = outlines
            .iter()
            .map(|(der, ca)| Signer { subject: ca.subject, key: ca.key, may_sign: may_sign_lists(der) })
            .collect();
        let lists = lists.iter().map(|list| List::read(list, &signers)).collect::<Result<_, _>>()?;
        Ok(RevocationLists { lists, policy })
    }

    /// Whether no configured CA has the name of this list's issuer.
    pub fn is_foreign(&self, at: usize) -> bool {
        self.lists.get(at).is_some_and(List::is_unverified)
    }

    /// Whether nothing is judged.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty() && !(self.policy.refuse_expired && self.policy.missing)
    }

    /// Checks a path with valid signatures.
    ///
    /// # Errors
    /// [`Error::CertRevoked`], [`Error::CrlExpired`], or [`Error::UnknownRevocationStatus`] while
    /// lists are expected and there is none.
    pub fn judge(
        &self,
        end_entity: &EndEntityCert<'_>,
        path: &VerifiedPath<'_>,
        time: UnixTime,
    ) -> Result<(), Error> {
        judge(&self.lists, self.policy, end_entity, path, time)
    }

    /// The number, from 0, of the first certificate that a list revokes, by issuer and serial
    /// number alone: to name it, or to look at a chain again that was verified before.
    pub fn first_revoked<'c>(&self, chain: impl IntoIterator<Item = &'c [u8]>) -> Option<usize> {
        chain.into_iter().position(|der| {
            let Some(outline) = Outline::read(der) else { return false };
            self.lists.iter().any(|list| list.revokes(outline.issuer, None, outline.serial))
        })
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
