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

/// All devices.
#[derive(Debug, Default)]
pub(super) struct Devices {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_id: HashMap<Name, u32>,
    /// Devices of each fleet that has any.
    fleet_sizes: HashMap<Name, usize>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    entry: Option<Entry>,
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

impl Devices {
    /// The entry of a device that is still the one meant.
    pub(super) fn entry(&self, device: DeviceIndex) -> Option<&Entry> {
        let slot = self.slots.get(device.slot())?;
        if slot.generation == device.generation() { slot.entry.as_ref() } else { None }
    }

    /// The same, to change.
    pub(super) fn entry_mut(&mut self, device: DeviceIndex) -> Option<&mut Entry> {
        let slot = self.slots.get_mut(device.slot())?;
        if slot.generation == device.generation() { slot.entry.as_mut() } else { None }
    }

    /// The device in this slot, with its index.
    pub(super) fn at(&mut self, slot: u32) -> Option<(DeviceIndex, &mut Entry)> {
        let Slot { generation, entry } = self.slots.get_mut(slot as usize)?;
        Some((DeviceIndex::new(slot, *generation), entry.as_mut()?))
    }

    pub(super) fn index(&self, slot: u32) -> Option<DeviceIndex> {
        Some(DeviceIndex::new(slot, self.slots.get(slot as usize)?.generation))
    }

    pub(super) fn by_id(&self, id: &str) -> Option<DeviceIndex> {
        self.index(*self.by_id.get(id)?)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (DeviceIndex, &Entry)> {
        self.slots.iter().enumerate().filter_map(|(at, slot)| {
            Some((DeviceIndex::new(at as u32, slot.generation), slot.entry.as_ref()?))
        })
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Entry)> {
        self.slots.iter_mut().enumerate().filter_map(|(at, slot)| Some((at as u32, slot.entry.as_mut()?)))
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
            && let Some(Slot { generation, entry: Some(entry) }) = self.slots.get_mut(slot as usize)
        {
            if !keeps_bucket(entry.role) {
                entry.state.bucket = bucket;
            }
            let mut gone = None;
            if entry.proof != proof {
                gone = Some(Gone { device: DeviceIndex::new(slot, *generation), id: entry.id.clone() });
                *generation = generation.wrapping_add(1);
            }
            (entry.label, entry.proof, entry.role, entry.offline_after) =
                (device.label, proof, role, offline_after);
            return (slot, gone);
        }
        let state = State::new(bucket, now);
        let entry = Entry { id: device.id, label: device.label, proof, role, offline_after, state };
        (self.insert(entry), None)
    }

    /// Makes room for so many devices at once, and no more: a vector that grows by itself may be
    /// nearly twice as long.
    pub(super) fn reserve(&mut self, devices: usize) {
        let more = devices.saturating_sub(self.slots.len());
        self.slots.reserve_exact(more);
        self.by_id.reserve(more);
    }

    /// Takes in a device whose id is new.
    pub(super) fn insert(&mut self, entry: Entry) -> u32 {
        if let Some(fleet) = entry.fleet() {
            *self.fleet_sizes.entry(fleet.clone()).or_default() += 1;
        }
        let id = entry.id.clone();
        let entry = Some(entry);
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize].entry = entry;
                slot
            }
            None => {
                self.slots.push(Slot { generation: 0, entry });
                (self.slots.len() - 1) as u32
            }
        };
        self.by_id.insert(id, slot);
        slot
    }

    /// The slots of devices of fleets, those seen last first.
    pub(super) fn of_fleets(&self) -> Vec<u32> {
        let mut slots: Vec<_> = self
            .iter()
            .filter(|(_, entry)| entry.fleet().is_some())
            .map(|(device, entry)| (entry.state.presence.last_seen(), device.slot() as u32))
            .collect();
        slots.sort_unstable_by(|a, b| b.cmp(a));
        slots.into_iter().map(|(_, slot)| slot).collect()
    }

    /// How many devices a fleet has.
    pub(super) fn fleet_size(&self, fleet: &Name) -> usize {
        self.fleet_sizes.get(fleet).copied().unwrap_or_default()
    }

    /// Removes all devices whose slot is not `kept`, and says which they were.
    pub(super) fn retain(&mut self, kept: impl Fn(u32) -> bool) -> Vec<Gone> {
        let mut removed = Vec::new();
        for (at, slot) in (0_u32..).zip(&mut self.slots) {
            if kept(at) {
                continue;
            }
            if let Some(entry) = slot.entry.take() {
                self.by_id.remove(entry.id.as_str());
                removed.push(Gone { device: DeviceIndex::new(at, slot.generation), id: entry.id });
                slot.generation = slot.generation.wrapping_add(1);
                self.free.push(at);
            }
        }
        removed
    }

    /// Who has what, found anew; and how many devices each fleet has.
    pub(super) fn proofs(&mut self, withheld: &Withheld) -> Proofs {
        self.fleet_sizes.clear();
        for slot in &self.slots {
            if let Some(fleet) = slot.entry.as_ref().and_then(Entry::fleet) {
                *self.fleet_sizes.entry(fleet.clone()).or_default() += 1;
            }
        }
        let known =
            (0_u32..).zip(&self.slots).filter_map(|(at, slot)| Some((at, &slot.entry.as_ref()?.proof)));
        Proofs::new(known, withheld)
    }
}

/// The first step: *these bytes are from this device*.
pub(super) fn identify<'a>(device: DeviceIndex, id: &'a Name, received: Received<'a>) -> Identified<'a> {
    Identified::new(device, id, received)
}
