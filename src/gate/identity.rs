//! Who a sender is: from what its transport proved, never from what it says.
//!
//! Every device has a slot, found by its id, or by what it proves ([`proof`](super::proof)). A
//! [`DeviceIndex`] names the slot and its generation; the generation moves on when the device is
//! removed or proves itself another way, so an index kept by a session of before is noticed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::presence::Presence;
use super::proof::{Proof, Proofs};
use super::quota::Bucket;
use super::settings::{self, Withheld};
use super::stage::{DeviceIndex, Identified, Received, Refused};
use crate::message::Name;
use crate::slots::{Key, Slots};

/// All devices.
#[derive(Debug, Default)]
pub(super) struct Registry {
    slots: Slots<Entry>,
    by_id: HashMap<Name, u32>,
    /// Devices of each fleet that has any.
    fleet_sizes: HashMap<Name, usize>,
}

/// One device.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: Name,
    pub(super) label: Option<String>,
    pub(super) proof: Proof,
    /// Its role's place in the plan.
    pub(super) role: u32,
    pub(super) offline_after: Duration,
    pub(super) state: State,
}

/// What the gate keeps of a device while it runs.
#[derive(Debug)]
pub(super) struct State {
    pub(super) bucket: Bucket,
    pub(super) presence: Presence,
    pub(super) accepted: u64,
    pub(super) accepted_bytes: u64,
    pub(super) refused: Refused,
}

impl Entry {
    /// A device of a fleet, at first sight.
    pub(super) fn of_fleet(
        fleet: &Arc<settings::Fleet>,
        id: Name,
        role: u32,
        offline_after: Duration,
        bucket: Bucket,
        now: Instant,
    ) -> Entry {
        let proof = Proof { fleet: Some(fleet.clone()), ..Proof::default() };
        let state = State::new(bucket, now);
        Entry { id, label: fleet.label.clone(), proof, role, offline_after, state }
    }

    /// The fleet it is of.
    pub(super) fn fleet(&self) -> Option<&Name> {
        self.proof.fleet.as_ref().map(|fleet| &fleet.name)
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
        }
    }
}

/// A device whose sessions must end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// The index it had; stale now.
    pub device: DeviceIndex,
    /// Its id.
    pub id: Name,
}

impl Registry {
    /// The entry of a device that is still the one meant.
    pub(super) fn entry(&self, device: DeviceIndex) -> Option<&Entry> {
        self.slots.get(device.key())
    }

    /// The same, to change.
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

    /// Takes a device in, or its new settings if its id is known. `bucket` is what it starts with;
    /// for a known one `keeps_bucket(old role)` says whether it goes on with the one it has.
    /// Returns its slot and, if it proves itself another way now, what it was before.
    pub(super) fn put(
        &mut self,
        mut device: settings::Device,
        role: u32,
        offline_after: Duration,
        bucket: Bucket,
        keeps_bucket: impl FnOnce(u32) -> bool,
        now: Instant,
    ) -> (u32, Option<Gone>) {
        let proof = Proof::of(&mut device);
        if let Some(slot) = self.by_id.get(device.id.as_str()).copied()
            && let Some(key) = self.slots.key_at(slot)
            && let Some(entry) = self.slots.get_mut(key)
        {
            if !keeps_bucket(entry.role) {
                entry.state.bucket = bucket;
            }
            let stale = entry.proof != proof;
            let gone = stale.then(|| Gone { device: DeviceIndex::new(key), id: entry.id.clone() });
            (entry.label, entry.proof, entry.role, entry.offline_after) =
                (device.label, proof, role, offline_after);
            if stale {
                self.slots.renew(key);
            }
            return (slot, gone);
        }
        let state = State::new(bucket, now);
        let entry = Entry { id: device.id, label: device.label, proof, role, offline_after, state };
        (self.insert(entry), None)
    }

    /// Makes room for so many devices at once, and no more: a vector that grows by itself may be
    /// nearly twice as long.
    pub(super) fn reserve(&mut self, devices: usize) {
        self.by_id.reserve(devices.saturating_sub(self.slots.len()));
        self.slots.reserve(devices);
    }

    /// Takes in a device whose id is new.
    pub(super) fn insert(&mut self, entry: Entry) -> u32 {
        if let Some(fleet) = entry.fleet() {
            *self.fleet_sizes.entry(fleet.clone()).or_default() += 1;
        }
        let id = entry.id.clone();
        let slot = self.slots.insert(entry).index;
        self.by_id.insert(id, slot);
        slot
    }

    /// How many devices a fleet has.
    pub(super) fn fleet_size(&self, fleet: &Name) -> usize {
        self.fleet_sizes.get(fleet).copied().unwrap_or_default()
    }

    /// Removes all devices whose slot is not `kept`, and says which they were.
    pub(super) fn retain(&mut self, kept: impl Fn(u32) -> bool) -> Vec<Gone> {
        let keys: Vec<Key> = self.slots.iter().map(|(key, _)| key).filter(|key| !kept(key.index)).collect();
        let mut removed = Vec::new();
        for key in keys {
            if let Some(entry) = self.slots.remove(key) {
                self.by_id.remove(entry.id.as_str());
                removed.push(Gone { device: DeviceIndex::new(key), id: entry.id });
            }
        }
        removed
    }

    /// Who has what, found anew; and how many devices each fleet has.
    pub(super) fn proofs(&mut self, withheld: &Withheld) -> Proofs {
        self.fleet_sizes.clear();
        for fleet in self.slots.iter().filter_map(|(_, entry)| entry.fleet()) {
            *self.fleet_sizes.entry(fleet.clone()).or_default() += 1;
        }
        Proofs::new(self.slots.iter().map(|(key, entry)| (key.index, entry)), withheld)
    }
}

/// The first step: *these bytes are from this device*.
pub(super) fn identify<'a>(device: DeviceIndex, id: &'a Name, received: Received<'a>) -> Identified<'a> {
    Identified::new(device, id, received)
}
