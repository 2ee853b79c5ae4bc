//! What the registry takes away from a configuration in force while the files of a new one cannot
//! be used: a device that is disabled or removed is cut off all the same.
//!
//! Nothing else of the registry is taken up then. What is added or changed there was not judged
//! together with the rules, and waits for files that can be used.

use std::sync::Arc;

use super::registry::Registry;
use super::{DeviceSource, Known, Loaded};

impl Loaded {
    /// This configuration without the devices that `registry`, as it is now, has disabled or does
    /// not have any more; `None`: there is no such device. One whose file cannot be read stays.
    pub fn without_withdrawn(&self, registry: Registry) -> Option<Loaded> {
        let is_disabled = |id: &str| registry.entry(id).is_some_and(|entry| !entry.enabled);
        let is_withdrawn = |known: &&Known| {
            let is_in_use = known.source == DeviceSource::Registry && known.usable;
            is_in_use && (is_disabled(&known.id) || !registry.has_file(&known.id))
        };
        let withdrawn: Vec<String> =
            self.known.iter().filter(is_withdrawn).map(|known| known.id.clone()).collect();
        if withdrawn.is_empty() {
            return None;
        }
        let is_one = |id: &str| withdrawn.iter().any(|one| one == id);
        let mut left = self.clone();
        left.known.retain(|known| !is_one(&known.id) || is_disabled(&known.id));
        for known in left.known.iter_mut().filter(|known| is_one(&known.id)) {
            (known.usable, known.switched_off) = (false, true);
        }
        let gate = &mut left.settings.gate;
        for device in gate.devices.iter().filter(|device| is_disabled(device.id.as_str())) {
            // No fleet takes its id or its certificate meanwhile.
            gate.withheld.add(device);
        }
        gate.devices.retain(|device| !is_one(device.id.as_str()));
        left.settings.downlink.served.devices.retain(|id, _| !is_one(id.as_str()));
        let keys = left.settings.gate.devices.iter().filter_map(|device| device.public_key);
        left.settings.coap.certificates = left.certificates.certificates(keys);
        left.registry = Arc::new(registry);
        Some(left)
    }
}
