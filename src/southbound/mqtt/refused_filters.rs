//! The refused filters of subscriptions for people: of each device how many, and the newest.
//!
//! Many clients do not show that a subscription was refused: they are connected, and nothing comes.

use std::time::Instant;

use super::newest::Newest;
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
    by_device: Newest<RefusedFilter>,
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
        let last = RefusedFilter { at: now, filter: newest.chars().take(SHOWN_MAX).collect() };
        self.by_device.note(device, (count, last.clone()), most, is_known);
        last
    }

    /// How many of a device, and the newest.
    pub(super) fn of(&self, device: DeviceIndex) -> Option<(u64, &RefusedFilter)> {
        self.by_device.of(device)
    }
}
