//! Who a sender is: from what its transport proved, never from what it says.
//!
//! Every device has a slot, found by its id or by its PSK identity. A [`DeviceIndex`] names the slot and
//! its generation; the generation moves on when the device is removed or given another key, so an index
//! kept by a session of before is noticed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::presence::Presence;
use super::quota::Bucket;
use super::settings::{self, Psk};
use super::stage::{DeviceIndex, Identified, Received, Refused};
use crate::message::Name;

/// All devices.
#[derive(Debug, Default)]
pub(super) struct Registry {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_id: HashMap<Name, u32>,
    by_psk: HashMap<Box<[u8]>, u32>,
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
    psk: Option<Psk>,
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

    fn index(&self, slot: u32) -> Option<DeviceIndex> {
        Some(DeviceIndex::new(slot, self.slots.get(slot as usize)?.generation))
    }

    pub(super) fn by_id(&self, id: &str) -> Option<DeviceIndex> {
        self.index(*self.by_id.get(id)?)
    }

    pub(super) fn by_psk(&self, identity: &[u8]) -> Option<DeviceIndex> {
        self.index(*self.by_psk.get(identity)?)
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

    /// Takes a device in, or its new settings if its id is known. `bucket` is what it starts with; for a
    /// known one `keeps_bucket(old role)` says whether it goes on with the one it has.
    /// Returns its slot and, if it has another key now, what it was before.
    pub(super) fn put(
        &mut self,
        device: settings::Device,
        role: u32,
        offline_after: Duration,
        bucket: Bucket,
        keeps_bucket: impl FnOnce(u32) -> bool,
        now: Instant,
    ) -> (u32, Option<Gone>) {
        if let Some(slot) = self.by_id.get(device.id.as_str()).copied()
            && let Some(Slot { generation, entry: Some(entry) }) = self.slots.get_mut(slot as usize)
        {
            if !keeps_bucket(entry.role) {
                entry.state.bucket = bucket;
            }
            let mut gone = None;
            if entry.psk != device.psk {
                gone = Some(Gone { device: DeviceIndex::new(slot, *generation), id: entry.id.clone() });
                *generation = generation.wrapping_add(1);
            }
            (entry.label, entry.psk, entry.role, entry.offline_after) =
                (device.label, device.psk, role, offline_after);
            return (slot, gone);
        }
        let state = State {
            bucket,
            presence: Presence::new(now),
            accepted: 0,
            accepted_bytes: 0,
            refused: Refused::default(),
        };
        let id = device.id.clone();
        let entry =
            Some(Entry { id: device.id, label: device.label, psk: device.psk, role, offline_after, state });
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
        (slot, None)
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

    /// Finds the PSK identities anew. Two devices with the same one were sorted out before.
    pub(super) fn index_psk(&mut self) {
        self.by_psk.clear();
        for (at, slot) in (0_u32..).zip(&self.slots) {
            if let Some(psk) = slot.entry.as_ref().and_then(|entry| entry.psk.as_ref()) {
                self.by_psk.insert(psk.identity.as_slice().into(), at);
            }
        }
    }
}

/// The first step: *these bytes are from this device*.
pub(super) fn identify<'a>(device: DeviceIndex, id: &'a Name, received: Received<'a>) -> Identified<'a> {
    Identified::new(device, id, received)
}
