//! The refused connects for people: the newest of all, and of each device that one claimed to be.
//!
//! Anybody may claim to be a device: it counts against nobody, and is shown only.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use crate::gate::DeviceIndex;
use crate::message::Name;

/// A refused connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedConnect {
    /// When.
    pub at: Instant,
    /// Its address; `None` for a Unix socket.
    pub address: Option<IpAddr>,
    /// The user name it gave, at most 128 characters of it.
    pub username: Option<String>,
    /// The device that it claimed to be: by the user name, or by its token.
    pub device: Option<Name>,
    /// Why.
    pub reason: String,
}

/// Those that are kept: one of each device, at most.
#[derive(Debug, Default)]
pub(super) struct RefusedConnects {
    last: Option<RefusedConnect>,
    by_device: HashMap<DeviceIndex, (u64, RefusedConnect)>,
}

impl RefusedConnects {
    /// Keeps one. `is_known`: whether there still is a device; `most`: how many there are.
    pub(super) fn note(
        &mut self,
        device: Option<DeviceIndex>,
        refused: RefusedConnect,
        most: usize,
        is_known: impl Fn(DeviceIndex) -> bool,
    ) {
        if let Some(device) = device {
            if self.by_device.len() >= most {
                self.by_device.retain(|device, _| is_known(*device));
            }
            let before = self.by_device.get(&device).map_or(0, |(count, _)| *count);
            self.by_device.insert(device, (before + 1, refused.clone()));
        }
        self.last = Some(refused);
    }

    /// The newest of all.
    pub(super) fn last(&self) -> Option<&RefusedConnect> {
        self.last.as_ref()
    }

    /// How many claimed to be a device, and the newest.
    pub(super) fn of(&self, device: DeviceIndex) -> Option<(u64, &RefusedConnect)> {
        self.by_device.get(&device).map(|(count, last)| (*count, last))
    }
}
