//! Devices whose client of MQTT 3.1.1 is disconnected for a refused publish, and comes back with
//! it.
//!
//! MQTT 3.1.1 has no answer that refuses a publish. A client that keeps what is not acknowledged
//! sends it first after each reconnect, so nothing that it has behind it gets through.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::gate::DeviceIndex;

/// Fewer than this may be a mistake that was corrected.
const MANY: u32 = 3;
/// After so long without another the client has stopped: they reconnect within seconds, or a minute
/// or two.
const WITHIN: Duration = Duration::from_secs(300);

/// How often each device was disconnected, and when last.
#[derive(Debug, Default)]
pub(super) struct DeniedAgain {
    by_device: HashMap<DeviceIndex, (u32, Instant)>,
}

impl DeniedAgain {
    /// Once more. `most`: how many devices there are; no more are kept but those of the last time.
    pub(super) fn note(&mut self, now: Instant, device: DeviceIndex, most: usize) {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < WITHIN;
        if self.by_device.len() >= most {
            self.by_device.retain(|_, (_, at)| is_recent(*at));
        }
        let (count, at) = self.by_device.entry(device).or_insert((0, now));
        *count = if is_recent(*at) { count.saturating_add(1) } else { 1 };
        *at = now;
    }

    /// Those that come back, and how often they were disconnected.
    pub(super) fn devices(&self, now: Instant) -> impl Iterator<Item = (DeviceIndex, u32)> {
        let is_again =
            move |(count, at): &(u32, Instant)| *count >= MANY && now.saturating_duration_since(*at) < WITHIN;
        self.by_device
            .iter()
            .filter(move |(_, noted)| is_again(noted))
            .map(|(device, noted)| (*device, noted.0))
    }
}
