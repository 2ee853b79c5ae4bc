//! The credentials of devices, and the index that finds a device by its credentials.
//!
//! Every look-up uses a keyed hash, so its timing does not reveal near matches.

use std::collections::HashMap;
use std::sync::Arc;

use super::certificate::{CertificateName, NameKind};
use super::jwt::JwtKey;
use super::login::Login;
use super::settings::{self, Device, NextPsk, Psk, Withheld};
use crate::proto::dtls::server::{CertificateIdentity, DistinguishedName};

/// The credentials of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Proof {
    pub(super) psk: Option<Psk>,
    pub(super) certificate: Option<CertificateName>,
    pub(super) public_key: Option<[u8; 32]>,
    pub(super) login: Option<Login>,
    pub(super) jwt_keys: Box<[JwtKey]>,
    pub(super) next_psk: Option<Box<NextPsk>>,
    /// The fleet it belongs to, if any.
    pub(super) fleet: Option<Arc<settings::Fleet>>,
}

impl Proof {
    /// Whether there is any.
    pub(super) fn is_there(&self) -> bool {
        *self != Proof::default()
    }

    /// Whether all that proved the device before still does: its sessions may go on.
    pub(super) fn includes(&self, before: &Proof) -> bool {
        fn kept<T: PartialEq>(now: &Option<T>, before: &Option<T>) -> bool {
            before.is_none() || now == before
        }
        let next = |proof: &Proof| proof.next_psk.as_ref().map(|next| next.psk.clone());
        // The new key has replaced the one before: its own sessions go on, and those of the one
        // before are closed because its identity is no device's any more.
        let is_promoted = before.next_psk.is_some() && next(before) == self.psk && self.next_psk.is_none();
        (is_promoted || (kept(&self.psk, &before.psk) && kept(&next(self), &next(before))))
            && kept(&self.certificate, &before.certificate)
            && kept(&self.public_key, &before.public_key)
            && kept(&self.login, &before.login)
            && before.jwt_keys.iter().all(|key| self.jwt_keys.contains(key))
            && self.fleet == before.fleet
    }

    pub(super) fn of(device: &mut Device) -> Proof {
        Proof {
            psk: device.psk.take(),
            certificate: device.certificate.take(),
            public_key: device.public_key.take(),
            login: device.login.take(),
            jwt_keys: std::mem::take(&mut device.jwt_keys).into(),
            next_psk: device.next_psk.take().map(Box::new),
            fleet: None,
        }
    }
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
    pub(super) fn new<'a>(known: impl Iterator<Item = (u32, &'a Proof)>, withheld: &Withheld) -> Proofs {
        let mut proofs = Proofs::default();
        for (slot, proof) in known {
            if proof.fleet.is_some() {
                continue;
            }
            let Proof { psk, certificate, public_key, login, next_psk, .. } = proof;
            for psk in psk.iter().chain(next_psk.as_ref().map(|next| &next.psk)) {
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
