//! The devices, and the step that identifies the sender of a reading from what its transport
//! authenticated, not from its payload.
//!
//! Every device has a slot, found by its id or by its credentials ([`proof`](super::proof)). A
//! [`DeviceIndex`] is a slot and its generation. The generation is incremented when the device is
//! removed, so an index that an older session holds is detected as stale. It stays when credentials
//! change: each session is judged by the credential that proved it, and those of the device's other
//! credentials go on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::filter::Filtered;
use super::filter::Remembered;
use super::last_filtered::LastFiltered;
use super::last_refusal::LastRefusal;
use super::limited::Limited;
use super::presence::Presence;
use super::proof::{Proofs, has_credential};
use super::quota::{Bucket, Rate};
use super::settings::{self, Device, SharedDevice, Withheld};
use super::stage::{DeviceIndex, Identified, Received, Refusal, Refused};
use crate::message::Name;
use crate::slots::{Key, Slots};

/// All devices.
#[derive(Debug, Default)]
pub(super) struct Devices {
    slots: Slots<Entry>,
    by_id: HashMap<Name, u32>,
    /// The number of devices of each fleet that has any.
    fleet_sizes: HashMap<Name, usize>,
}

/// One device.
#[derive(Debug)]
pub(super) struct Entry {
    /// What the settings say of it, or its fleet; its role there may be another one.
    pub(super) described: SharedDevice,
    /// The fleet it belongs to, if any.
    pub(super) fleet: Option<Arc<settings::Fleet>>,
    /// The index of its role in the plan.
    pub(super) role: u32,
    pub(super) offline_after: Duration,
    pub(super) state: State,
}

/// The runtime state of a device.
#[derive(Debug)]
pub(super) struct State {
    pub(super) bucket: Bucket,
    pub(super) presence: Presence,
    pub(super) accepted: u64,
    pub(super) accepted_bytes: u64,
    pub(super) refused: Refused,
    /// Readings that passed and were not published.
    pub(super) filtered: u64,
    /// What its filters measure against.
    pub(super) remembered: Option<Box<Remembered>>,
    /// Under which rules that was: those of its role at the last reload.
    pub(super) filtering: u64,
    /// Readings that passed and that the journal did not take.
    pub(super) unstored: u32,
    /// Messages to local clients that passed; saturates.
    pub(super) local: u32,
    pub(super) last_filtered: Option<Box<LastFiltered>>,
    pub(super) last_refusal: Option<Box<LastRefusal>>,
    /// What held it back, if something did.
    pub(super) limited: Option<Box<Limited>>,
    /// Since when it is counted.
    pub(super) since: Instant,
}

impl Entry {
    /// A device of a fleet, created when its certificate is first seen.
    pub(super) fn of_fleet(
        fleet: &Arc<settings::Fleet>,
        id: Name,
        role: u32,
        offline_after: Duration,
        bucket: Bucket,
        now: Instant,
    ) -> Entry {
        let (label, tags) = (fleet.label.clone(), fleet.tags.clone());
        let described = Device { label, tags, ..Device::new(id, fleet.role.clone()) }.into();
        let state = State::new(bucket, now);
        Entry { described, fleet: Some(fleet.clone()), role, offline_after, state }
    }

    /// The fleet it belongs to, if any.
    pub(super) fn fleet_name(&self) -> Option<&Name> {
        self.fleet.as_ref().map(|fleet| &fleet.name)
    }

    /// Whether it has a credential of its own.
    pub(super) fn has_credential(&self) -> bool {
        self.fleet.is_some() || has_credential(&self.described)
    }
}

impl State {
    fn new(bucket: Bucket, now: Instant) -> State {
        State {
            bucket,
            presence: Presence::new(now),
            accepted: 0,
            accepted_bytes: 0,
            refused: Refused::default(),
            filtered: 0,
            remembered: None,
            filtering: 0,
            unstored: 0,
            local: 0,
            last_filtered: None,
            last_refusal: None,
            limited: None,
            since: now,
        }
    }

    /// Counts a reading that is not published, and keeps why, for the user to see.
    pub(super) fn note_filtered(&mut self, now: Instant, filtered: &Filtered<'_>) {
        self.filtered += 1;
        self.last_filtered.get_or_insert_with(|| Box::new(LastFiltered::new(now))).replace(now, filtered);
    }

    /// What has passed and used the quota: readings, and messages to local clients.
    pub(super) fn passed(&self) -> u64 {
        self.accepted + self.filtered + u64::from(self.local)
    }

    /// Keeps a refusal by the limits or rules of a role, for the user to see.
    pub(super) fn note_refusal_of(
        &mut self,
        now: Instant,
        path: &str,
        refusal: &Refusal,
        rule: Option<&Name>,
        rate: &Rate,
    ) {
        if matches!(refusal, Refusal::OverQuota { .. }) {
            let (passed, lately) = (self.passed(), self.bucket.taken(rate));
            self.limited.get_or_insert_default().note_over_quota(now, passed, lately);
        }
        self.note_refusal(now, path, refusal, rule);
    }

    /// Keeps another refusal, for the user to see.
    pub(super) fn note_refusal(&mut self, now: Instant, path: &str, refusal: &Refusal, rule: Option<&Name>) {
        match &mut self.last_refusal {
            Some(last) => last.replace(now, path, refusal, rule),
            empty => *empty = Some(Box::new(LastRefusal::new(now, path, refusal, rule))),
        }
    }
}

/// A device whose sessions must be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// The index it had, which is stale now.
    pub device: DeviceIndex,
    /// Its id.
    pub id: Name,
}

impl Devices {
    /// The entry of a device that is still the one meant.
    pub(super) fn entry(&self, device: DeviceIndex) -> Option<&Entry> {
        self.slots.get(device.key())
    }

    /// As `entry`, mutable.
    pub(super) fn entry_mut(&mut self, device: DeviceIndex) -> Option<&mut Entry> {
        self.slots.get_mut(device.key())
    }

    /// The device in this slot, with its index.
    pub(super) fn at(&mut self, slot: u32) -> Option<(DeviceIndex, &mut Entry)> {
        Some((self.index(slot)?, self.slots.at_mut(slot)?))
    }

    pub(super) fn index(&self, slot: u32) -> Option<DeviceIndex> {
        self.slots.key_at(slot).map(DeviceIndex::new)
    }

    pub(super) fn by_id(&self, id: &str) -> Option<DeviceIndex> {
        self.index(*self.by_id.get(id)?)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (DeviceIndex, &Entry)> {
        self.slots.iter().map(|(key, entry)| (DeviceIndex::new(key), entry))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Entry)> {
        self.slots.iter_mut().map(|(key, entry)| (key.index, entry))
    }

    /// Adds a device, or replaces the settings of the device with the same id. `bucket` is its
    /// initial quota; a known device keeps its bucket if `keeps_bucket(old role)` is true. Returns
    /// the slot.
    pub(super) fn put(
        &mut self,
        device: SharedDevice,
        role: u32,
        offline_after: Duration,
        bucket: Bucket,
        keeps_bucket: impl FnOnce(u32) -> bool,
        now: Instant,
    ) -> u32 {
        if let Some(slot) = self.by_id.get(device.id.as_str()).copied()
            && let Some(key) = self.slots.key_at(slot)
            && let Some(entry) = self.slots.get_mut(key)
        {
            if !keeps_bucket(entry.role) {
                entry.state.bucket = bucket;
                if let Some(limited) = &mut entry.state.limited {
                    limited.pardon();
                }
            }
            if entry.described.tags != device.tags {
                // The same reading may have another topic now.
                entry.state.remembered = None;
            }
            (entry.described, entry.fleet) = (device, None);
            (entry.role, entry.offline_after) = (role, offline_after);
            return slot;
        }
        let state = State::new(bucket, now);
        let entry = Entry { described: device, fleet: None, role, offline_after, state };
        self.insert(entry)
    }

    /// Reserves exactly `devices` slots: a vector that grows on demand may take nearly twice the
    /// memory.
    pub(super) fn reserve(&mut self, devices: usize) {
        self.by_id.reserve(devices.saturating_sub(self.slots.len()));
        self.slots.reserve(devices);
    }

    /// Adds a device whose id is new.
    pub(super) fn insert(&mut self, entry: Entry) -> u32 {
        if let Some(fleet) = entry.fleet_name() {
            *self.fleet_sizes.entry(fleet.clone()).or_default() += 1;
        }
        let id = entry.described.id.clone();
        let slot = self.slots.insert(entry).index;
        self.by_id.insert(id, slot);
        slot
    }

    /// The slots of devices of fleets, those seen last first.
    pub(super) fn of_fleets(&self) -> Vec<u32> {
        let mut slots: Vec<_> = self
            .iter()
            .filter(|(_, entry)| entry.fleet.is_some())
            .map(|(device, entry)| (entry.state.presence.last_seen(), device.slot() as u32))
            .collect();
        slots.sort_unstable_by(|a, b| b.cmp(a));
        slots.into_iter().map(|(_, slot)| slot).collect()
    }

    /// How many devices a fleet has.
    pub(super) fn fleet_size(&self, fleet: &Name) -> usize {
        self.fleet_sizes.get(fleet).copied().unwrap_or_default()
    }

    /// Removes all devices for whose slot `kept` is false, and returns them.
    pub(super) fn retain(&mut self, kept: impl Fn(u32) -> bool) -> Vec<Gone> {
        let keys: Vec<Key> = self.slots.iter().map(|(key, _)| key).filter(|key| !kept(key.index)).collect();
        let mut removed = Vec::new();
        for key in keys {
            if let Some(entry) = self.slots.remove(key) {
                self.by_id.remove(entry.described.id.as_str());
                removed.push(Gone { device: DeviceIndex::new(key), id: entry.described.id.clone() });
            }
        }
        removed
    }

    /// Rebuilds the index of credentials and the number of devices of each fleet.
    pub(super) fn proofs(&mut self, withheld: &Withheld) -> Proofs {
        self.fleet_sizes.clear();
        for fleet in self.slots.iter().filter_map(|(_, entry)| entry.fleet_name()) {
            *self.fleet_sizes.entry(fleet.clone()).or_default() += 1;
        }
        let configured = self.slots.iter().filter(|(_, entry)| entry.fleet.is_none());
        Proofs::new(configured.map(|(key, entry)| (key.index, &*entry.described)), withheld)
    }
}

/// The first stage: the sender of the reading is `device`.
pub(super) fn identify<'a>(device: DeviceIndex, id: &'a Name, received: Received<'a>) -> Identified<'a> {
    Identified::new(device, id, received)
}
