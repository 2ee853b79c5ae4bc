//! The refused filters of subscriptions for people: of each device how many, and the newest.
//!
//! Many clients do not show that a subscription was refused: they are connected, and nothing comes.

use std::collections::HashMap;
use std::time::Instant;

use crate::gate::DeviceIndex;

/// Most characters kept of a filter.
const SHOWN_MAX: usize = 128;

/// A refused filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedFilter {
    /// When.
    pub at: Instant,
    /// The filter, at most 128 characters of it.
    pub filter: String,
}

/// Those that are kept: one of each device, at most.
#[derive(Debug, Default)]
pub(super) struct RefusedFilters {
    by_device: HashMap<DeviceIndex, (u64, RefusedFilter)>,
}

impl RefusedFilters {
    /// Keeps the newest of `count`, and returns it. `is_known`: whether there still is a device;
    /// `most`: how many there are.
    pub(super) fn note(
        &mut self,
        now: Instant,
        device: DeviceIndex,
        (count, newest): (u64, &str),
        most: usize,
        is_known: impl Fn(DeviceIndex) -> bool,
    ) -> RefusedFilter {
        if self.by_device.len() >= most {
            self.by_device.retain(|device, _| is_known(*device));
        }
        let last = RefusedFilter { at: now, filter: newest.chars().take(SHOWN_MAX).collect() };
        let before = self.by_device.get(&device).map_or(0, |(count, _)| *count);
        self.by_device.insert(device, (before + count, last.clone()));
        last
    }

    /// How many of a device, and the newest.
    pub(super) fn of(&self, device: DeviceIndex) -> Option<(u64, &RefusedFilter)> {
        self.by_device.get(&device).map(|(count, last)| (*count, last))
    }
}
