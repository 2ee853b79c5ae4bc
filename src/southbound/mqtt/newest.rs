//! What was refused, for people: of each device how many, and the newest.

use crate::gate::DeviceIndex;
use crate::number_map::NumberMap;

/// Those that are kept: one of each device, at most.
#[derive(Debug)]
pub(super) struct Newest<T> {
    by_device: NumberMap<DeviceIndex, (u64, T)>,
}

impl<T> Default for Newest<T> {
    fn default() -> Newest<T> {
        Newest { by_device: NumberMap::default() }
    }
}

impl<T> Newest<T> {
    /// Keeps the newest of `count`. `is_known`: whether there still is a device; `most`: how many
    /// there are.
    pub(super) fn note(
        &mut self,
        device: DeviceIndex,
        (count, newest): (u64, T),
        most: usize,
        is_known: impl Fn(DeviceIndex) -> bool,
    ) {
        if self.by_device.len() >= most {
            self.by_device.retain(|device, _| is_known(*device));
        }
        let before = self.by_device.get(&device).map_or(0, |(count, _)| *count);
        self.by_device.insert(device, (before + count, newest));
    }

    /// How many of a device, and the newest.
    pub(super) fn of(&self, device: DeviceIndex) -> Option<(u64, &T)> {
        self.by_device.get(&device).map(|(count, newest)| (*count, newest))
    }
}
