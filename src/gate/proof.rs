//! The credentials of devices, and the index that finds a device by its credentials.
//!
//! Every look-up uses a keyed hash, so its timing does not reveal near matches.

use std::collections::HashMap;

use super::certificate::{CertificateName, NameKind};
use super::settings::{Device, Withheld};
use crate::proto::dtls::server::{CertificateIdentity, DistinguishedName};

/// Whether a device has any credential.
pub(super) fn has_credential(device: &Device) -> bool {
    let Device { psk, certificate, public_key, login, jwt_keys, next_psk, .. } = device;
    psk.is_some()
        || certificate.is_some()
        || public_key.is_some()
        || login.is_some()
        || !jwt_keys.is_empty()
        || next_psk.is_some()
}

/// The names of a certificate lead to several devices: the slots of two.
pub(super) struct Ambiguous(pub(super) [Holder; 2]);

/// Whose something is: a slot, or nobody's although it is known.
pub(super) type Holder = Option<u32>;
/// Everybody with a certificate of one name, by issuer.
type Holders = Vec<(Option<DistinguishedName>, Holder)>;

/// Which credential belongs to which slot. Rebuilt when the configured devices change; devices of
/// fleets are found by their id.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    by_psk: HashMap<Box<[u8]>, u32>,
    by_name: HashMap<(NameKind, Box<str>), Holders>,
    by_key: HashMap<[u8; 32], Holder>,
    by_username: HashMap<Box<str>, u32>,
}

impl Proofs {
    /// What is `withheld` is nobody's; of two devices with the same the gate's plan took out both
    /// before.
    pub(super) fn new<'a>(known: impl Iterator<Item = (u32, &'a Device)>, withheld: &Withheld) -> Proofs {
        let mut proofs = Proofs::default();
        for (slot, device) in known {
            let Device { certificate, public_key, login, .. } = device;
            for psk in device.psks() {
                proofs.by_psk.insert(psk.identity.as_slice().into(), slot);
            }
            if let Some(certificate) = certificate {
                proofs.named(certificate, Some(slot));
            }
            if let Some(key) = public_key {
                proofs.by_key.insert(*key, Some(slot));
            }
            if let Some(login) = login {
                proofs.by_username.insert(login.username.as_str().into(), slot);
            }
        }
        for certificate in &withheld.certificates {
            proofs.named(certificate, None);
        }
        for key in &withheld.public_keys {
            proofs.by_key.entry(*key).or_insert(None);
        }
        proofs
    }

    fn named(&mut self, certificate: &CertificateName, holder: Holder) {
        let key = (certificate.kind, certificate.name.clone());
        self.by_name.entry(key).or_default().push((certificate.issuer.clone(), holder));
    }

    /// The slot of the device that has this PSK identity.
    pub(super) fn psk(&self, identity: &[u8]) -> Option<u32> {
        self.by_psk.get(identity).copied()
    }

    /// The slot of the device that has this MQTT user name.
    pub(super) fn username(&self, username: &str) -> Option<u32> {
        self.by_username.get(username).copied()
    }

    /// The holder of a raw public key.
    pub(super) fn key(&self, hash: &[u8; 32]) -> Option<Holder> {
        self.by_key.get(hash).copied()
    }

    /// The one holder of a certificate, if any device of the settings is one.
    pub(super) fn certificate(
        &self,
        identity: &CertificateIdentity,
        names: &[(NameKind, Box<str>)],
        issuer: Option<&DistinguishedName>,
    ) -> Result<Option<Holder>, Ambiguous> {
        let named = names.iter().filter_map(|name| self.by_name.get(name)).flatten();
        let named = named.filter(|(wanted, _)| issued_by(wanted, issuer)).map(|(_, holder)| *holder);
        let mut found: Option<Holder> = None;
        for holder in self.by_key.get(&identity.key_hash).copied().into_iter().chain(named) {
            found = match (found, holder) {
                (Some(Some(one)), Some(other)) if one != other => {
                    return Err(Ambiguous([Some(one), Some(other)]));
                }
                (Some(Some(one)), _) => Some(Some(one)),
                (_, holder) => Some(holder),
            };
        }
        Ok(found)
    }
}

pub(super) fn issued_by(wanted: &Option<DistinguishedName>, issuer: Option<&DistinguishedName>) -> bool {
    wanted.as_ref().is_none_or(|wanted| issuer.is_some_and(|issuer| issuer.agrees(wanted)))
}
