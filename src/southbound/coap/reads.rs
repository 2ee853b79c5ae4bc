//! How often a device may ask for what the gateway has for it: messages of the broker, firmware,
//! the time, the list of its resources. Its readings have the quota of its role; these have this
//! one: far more than a device that waits for its answers needs, so that one that does not takes
//! little time from the others.

use std::collections::HashMap;
use std::time::Instant;

use crate::gate::stage::DeviceIndex;

/// GETs of a device at once.
pub const READS_BURST: u32 = 8_192;
/// And so many more in a second.
pub const READS_PER_SECOND: u32 = 512;

/// What each device has left. One that has all of it is not kept.
#[derive(Default)]
pub struct Reads {
    devices: HashMap<DeviceIndex, Allowance>,
    /// When those that have all of it were looked for.
    swept: Option<Instant>,
}

struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowance {
    fn refill(&mut self, now: Instant) {
        let millis = now.saturating_duration_since(self.since).as_millis();
        let earned = u32::try_from(millis * u128::from(READS_PER_SECOND) / 1_000).unwrap_or(u32::MAX);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(READS_BURST);
            self.since = now;
        }
    }
}

impl Reads {
    /// Whether the device may ask once more now.
    pub fn take(&mut self, now: Instant, device: DeviceIndex) -> bool {
        // One is full again after sixteen seconds.
        let swept = *self.swept.get_or_insert(now);
        if now.saturating_duration_since(swept).as_secs() >= 60 {
            self.swept = Some(now);
            self.devices.retain(|_, allowance| {
                allowance.refill(now);
                allowance.left < READS_BURST
            });
        }
        let allowance = self.devices.entry(device).or_insert(Allowance { left: READS_BURST, since: now });
        allowance.refill(now);
        let may = allowance.left > 0;
        allowance.left = allowance.left.saturating_sub(1);
        may
    }
}
