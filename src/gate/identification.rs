//! Finds the device for the credentials that a transport authenticated: PSK identity, certificate
//! or key.
//!
//! | credential | identifies |
//! |---|---|
//! | PSK identity | the device configured with it |
//! | MQTT user name, with its password | the device configured with it |
//! | JSON Web Token ([`jwt`](super::jwt)) | the device that it names, by its registered keys |
//! | raw public key | the device configured with it |
//! | certificate | the one device configured with its key, or with one of its names and (if set) its issuer |
//! | certificate that no device is configured with | the one fleet whose pattern matches one of its names, and the device with the id in that name |
//!
//! All names of a certificate have the same weight ([`NameKind`]). If they match two devices, or no
//! device and two ids of fleets, the certificate is ambiguous and identifies no device. A
//! configured device has precedence over a fleet. The id or certificate of a device that is
//! switched off or disabled identifies no device.
//!
//! Every look-up uses a keyed hash, so its timing does not reveal near matches.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::Gate;
use super::certificate::{self, NameKind};
use super::identity::Entry;
use super::jwt::JwtKey;
use super::login::Login;
use super::plan::Plan;
use super::proof::{Ambiguous, Holder, issued_by};
use super::quota::Bucket;
use super::roll::Roll;
use super::settings::{self, Device, Psk};
use super::stage::DeviceIndex;
use crate::clock::UnixTime;
use crate::message::Name;
use crate::proto::dtls::PeerIdentity;
use crate::proto::dtls::server::DistinguishedName;

/// Why a credential identifies no device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unidentified {
    /// No device and no fleet has this credential.
    Unknown,
    /// The certificate's names match several devices.
    Ambiguous {
        /// The ids of two of them.
        ids: Vec<Name>,
    },
    /// The certificate has more than 32 names.
    TooManyNames,
    /// It identifies a device that is switched off or disabled, or an id that no fleet may use.
    Withheld {
        /// The id, if it came from a fleet's pattern.
        id: Option<Name>,
    },
    /// A device of another fleet, or a configured device, has this id already.
    IdTaken {
        /// The fleet whose pattern matches.
        fleet: Name,
        /// The id.
        id: Name,
    },
    /// The fleet has its maximum number of devices.
    FleetFull {
        /// The fleet.
        fleet: Name,
        /// `max-devices`
        max_devices: u32,
    },
}

impl fmt::Display for Unidentified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unidentified::Unknown => f.write_str("no device and no fleet is configured for it"),
            Unidentified::Ambiguous { ids } => {
                f.write_str("its names match several devices")?;
                for (at, id) in ids.iter().enumerate() {
                    write!(f, "{}{id}", if at == 0 { ": " } else { ", " })?;
                }
                f.write_str("; issue one that names one device")
            }
            Unidentified::TooManyNames => f.write_str("it has more than 32 names"),
            Unidentified::Withheld { id: None } => f.write_str("its device is switched off or disabled"),
            Unidentified::Withheld { id: Some(id) } => {
                write!(f, "the id {id} is switched off, disabled or reserved")
            }
            Unidentified::IdTaken { fleet, id } => {
                write!(f, "fleet {fleet} gives it the id {id}, which another device has already")
            }
            Unidentified::FleetFull { fleet, max_devices } => {
                write!(
                    f,
                    "fleet {fleet} already has {max_devices} devices; raise its max-devices to admit more"
                )
            }
        }
    }
}

impl std::error::Error for Unidentified {}

/// A device has used its new PSK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextPskUsed {
    /// The device.
    pub id: Name,
    /// The PSK that it has used.
    pub used: Psk,
    /// The one that was in use beside it.
    pub before: Option<Psk>,
}

/// The result of looking up credentials.
enum Found {
    Device(DeviceIndex),
    /// A new device: the index of its fleet in the plan, and its id.
    New(usize, Name),
}

impl Gate {
    /// The device that has these credentials. A device of a fleet is created here at its first
    /// session.
    ///
    /// # Errors
    /// [`Unidentified`]: close the session and log the reason.
    pub fn identify(&mut self, now: Instant, peer: &PeerIdentity) -> Result<DeviceIndex, Unidentified> {
        match self.find(peer)? {
            Found::Device(device) => {
                self.note_next_psk(device, peer);
                Ok(device)
            }
            Found::New(fleet, id) => self.enlist(now, fleet, id),
        }
    }

    /// Notes that a device has used the PSK that is to replace another.
    fn note_next_psk(&mut self, device: DeviceIndex, peer: &PeerIdentity) {
        if let PeerIdentity::Psk(identity) = peer
            && let Some(entry) = self.devices.entry(device)
            && let Some(next) = entry.described.next_psk.as_ref()
            && *next.psk.identity == **identity
        {
            let Device { id, psk, .. } = &*entry.described;
            let used = NextPskUsed { id: id.clone(), used: next.psk.clone(), before: psk.clone() };
            if !self.next_psk_used.contains(&used) {
                // At most one for each key that the device had, which take a reload each.
                self.next_psk_used.push_back(used);
            }
        }
    }

    /// The next device that has used its new PSK, in the order of use: the one before is to be
    /// taken away.
    pub fn poll_next_psk_used(&mut self) -> Option<NextPskUsed> {
        self.next_psk_used.pop_front()
    }

    /// The new PSK that a device has used, if that was not polled yet.
    pub fn next_psk_used(&self, id: &str) -> Option<&Psk> {
        self.next_psk_used.iter().rev().find(|used| used.id.as_str() == id).map(|used| &used.used)
    }

    /// Devices with two PSKs, and until when. The cost is proportional to the number of devices.
    pub fn overlaps(&self) -> impl Iterator<Item = (&Name, UnixTime)> {
        let two =
            self.devices.iter().filter_map(|(_, entry)| Some((entry, entry.described.next_psk.as_ref()?)));
        two.map(|(entry, next)| (&entry.described.id, next.until))
    }

    /// As [`Gate::identify`], but never creates a device.
    pub fn recognise(&self, peer: &PeerIdentity) -> Option<DeviceIndex> {
        match self.find(peer) {
            Ok(Found::Device(device)) => Some(device),
            _ => None,
        }
    }

    /// Whether an id is that of a device that is switched off or disabled.
    pub fn is_withheld(&self, id: &str) -> bool {
        self.plan.withheld.contains(id)
    }

    /// The device that has this MQTT user name, with the hash of its password, which proves it.
    pub fn login(&self, username: &str) -> Option<(DeviceIndex, &Login)> {
        let device = self.devices.index(self.proofs.username(username)?)?;
        Some((device, self.login_of(device)?))
    }

    /// The user name and the hash of the password of a device, if it has them.
    pub fn login_of(&self, device: DeviceIndex) -> Option<&Login> {
        self.devices.entry(device)?.described.login.as_deref()
    }

    /// The keys whose JSON Web Tokens prove that a client is this device; none if it has none.
    pub fn jwt_keys(&self, id: &str) -> Option<(DeviceIndex, &[JwtKey])> {
        let device = self.devices.by_id(id)?;
        let keys = self.jwt_keys_of(device);
        (!keys.is_empty()).then_some((device, keys))
    }

    /// The keys of a device; none if it has none, or the index is stale.
    pub fn jwt_keys_of(&self, device: DeviceIndex) -> &[JwtKey] {
        self.devices.entry(device).map_or(&[][..], |entry| &entry.described.jwt_keys)
    }

    fn find(&self, peer: &PeerIdentity) -> Result<Found, Unidentified> {
        let proofs = &self.proofs;
        let device = |holder: Holder| {
            let slot = holder.ok_or(Unidentified::Withheld { id: None })?;
            self.devices.index(slot).map(Found::Device).ok_or(Unidentified::Unknown)
        };
        match peer {
            PeerIdentity::Psk(identity) => device(Some(proofs.psk(identity).ok_or(Unidentified::Unknown)?)),
            PeerIdentity::RawPublicKey(hash) => device(proofs.key(hash).ok_or(Unidentified::Unknown)?),
            PeerIdentity::Certificate(identity) => {
                let names = certificate::names(identity).ok_or(Unidentified::TooManyNames)?;
                let issuer = DistinguishedName::from_der(&identity.issuer);
                match proofs
                    .certificate(identity, &names, issuer.as_ref())
                    .map_err(|Ambiguous(slots)| Unidentified::Ambiguous { ids: self.ids(slots) })?
                {
                    Some(holder) => device(holder),
                    None => self.find_in_fleets(&names, issuer.as_ref()),
                }
            }
        }
    }

    /// The ids of devices in these slots.
    fn ids(&self, slots: [Holder; 2]) -> Vec<Name> {
        let devices = slots.into_iter().flatten().filter_map(|slot| self.devices.index(slot));
        devices.filter_map(|device| Some(self.devices.entry(device)?.described.id.clone())).collect()
    }

    fn find_in_fleets(
        &self,
        names: &[(NameKind, Box<str>)],
        issuer: Option<&DistinguishedName>,
    ) -> Result<Found, Unidentified> {
        let mut found = BTreeSet::new();
        for (number, (fleet, _)) in self.plan.fleets.iter().enumerate() {
            let pattern = &fleet.certificate;
            if !issued_by(&pattern.issuer, issuer) {
                continue;
            }
            let fitting = names.iter().filter(|(kind, _)| *kind == pattern.kind);
            found.extend(fitting.filter_map(|(_, name)| Some((number, pattern.id(name)?))));
        }
        let (number, id) = found.pop_first().ok_or(Unidentified::Unknown)?;
        if let Some((_, other)) = found.pop_first() {
            // Two fleets may give it one id.
            let mut ids = vec![id, other];
            ids.dedup();
            return Err(Unidentified::Ambiguous { ids });
        }
        if self.plan.withholds(&id) {
            return Err(Unidentified::Withheld { id: Some(id) });
        }
        let fleet = &self.plan.fleets[number].0;
        match self.devices.by_id(id.as_str()).and_then(|device| Some((device, self.devices.entry(device)?))) {
            None => Ok(Found::New(number, id)),
            Some((device, entry)) if entry.fleet_name() == Some(&fleet.name) => Ok(Found::Device(device)),
            Some(_) => Err(Unidentified::IdTaken { fleet: fleet.name.clone(), id }),
        }
    }

    fn enlist(&mut self, now: Instant, number: usize, id: Name) -> Result<DeviceIndex, Unidentified> {
        let unknown = Unidentified::Unknown;
        let (fleet, role_index) = self.plan.fleets.get(number).ok_or(unknown.clone())?;
        let role = self.plan.roles.get(*role_index as usize).ok_or(unknown.clone())?;
        if self.devices.fleet_size(&fleet.name) >= fleet.max_devices as usize {
            let (fleet, max_devices) = (fleet.name.clone(), fleet.max_devices);
            return Err(Unidentified::FleetFull { fleet, max_devices });
        }
        let offline_after = fleet.offline_after.unwrap_or(role.offline_after);
        let entry =
            Entry::of_fleet(fleet, id, *role_index, offline_after, Bucket::full(&role.rate, now), now);
        let slot = self.devices.insert(entry);
        self.fleet_revision += 1;
        self.presence.make_room(self.devices.len());
        if let Some((_, entry)) = self.devices.at(slot) {
            self.presence.schedule(slot, &mut entry.state.presence, now, offline_after);
        }
        self.devices.index(slot).ok_or(unknown)
    }

    /// Makes the devices of an earlier process again, as far as their fleets still are and may have
    /// them. None of them is there yet: one that does not come is told offline after its
    /// `offline-after`. Returns the ids that are nobody's any more.
    pub fn restore_fleets(&mut self, now: Instant, roll: &Roll) -> Vec<Name> {
        let mut gone = Vec::new();
        for page in roll.pages() {
            let number = self.plan.fleets.iter().position(|(fleet, _)| page.is_of(fleet));
            for id in &page.devices {
                if self.devices.by_id(id.as_str()).is_some() {
                    continue;
                }
                let fleet = number.filter(|_| !self.plan.withholds(id));
                if fleet.is_none_or(|number| self.enlist(now, number, id.clone()).is_err()) {
                    gone.push(id.clone());
                }
            }
        }
        gone
    }

    /// Changes when a device of a fleet came, or may have gone.
    pub fn fleet_revision(&self) -> u64 {
        self.fleet_revision
    }

    /// How many devices each fleet has, in the settings' order, and how many it may have.
    pub fn fleets(&self) -> impl Iterator<Item = (&settings::Fleet, usize)> {
        self.plan.fleets.iter().map(|(fleet, _)| (&**fleet, self.devices.fleet_size(&fleet.name)))
    }

    /// Sorts out which of the devices that fleets have made go on, and as what: the slots kept, by
    /// `keep`.
    pub(super) fn review_fleets(&mut self, before: Option<&Plan>, now: Instant, mut keep: impl FnMut(u32)) {
        let Gate { plan, devices, .. } = self;
        let mut room: Vec<usize> = plan.fleets.iter().map(|(fleet, _)| fleet.max_devices as usize).collect();
        for slot in devices.of_fleets() {
            let Some((_, entry)) = devices.at(slot) else { continue };
            let Some(old) = &entry.fleet else { continue };
            let same = |(fleet, _): &(Arc<settings::Fleet>, u32)| {
                fleet.name == old.name && fleet.certificate == old.certificate
            };
            let Some(number) = plan.fleets.iter().position(same) else { continue };
            let (fleet, role_index) = &plan.fleets[number];
            let Some(role) = plan.roles.get(*role_index as usize) else { continue };
            if plan.withholds(&entry.described.id) || room[number] == 0 {
                continue;
            }
            room[number] -= 1;
            let old = before.and_then(|plan| plan.roles.get(entry.role as usize));
            if old.is_none_or(|old| old.quota != role.quota) {
                entry.state.bucket = Bucket::full(&role.rate, now);
            }
            if entry.described.tags != fleet.tags {
                entry.state.remembered = None;
            }
            let described = &mut *entry.described;
            (described.label, described.tags) = (fleet.label.clone(), fleet.tags.clone());
            (entry.role, entry.fleet) = (*role_index, Some(fleet.clone()));
            entry.offline_after = fleet.offline_after.unwrap_or(role.offline_after);
            keep(slot);
        }
    }
}
