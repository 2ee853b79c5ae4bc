//! The refused connects for people: the newest of all, and of each device that one claimed to be.
//!
//! Anybody may claim to be a device: it counts against nobody, and is shown only.

use std::net::IpAddr;
use std::time::Instant;

use super::newest::Newest;
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
    by_device: Newest<RefusedConnect>,
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
            self.by_device.note(device, (1, refused.clone()), most, is_known);
        }
        self.last = Some(refused);
    }

    /// The newest of all.
    pub(super) fn last(&self) -> Option<&RefusedConnect> {
        self.last.as_ref()
    }

    /// How many claimed to be a device, and the newest.
    pub(super) fn of(&self, device: DeviceIndex) -> Option<(u64, &RefusedConnect)> {
        self.by_device.of(device)
    }
}
