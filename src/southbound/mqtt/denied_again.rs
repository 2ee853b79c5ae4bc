//! Devices whose client of MQTT 3.1.1 is disconnected for a refused publish, and comes back with
//! it.
//!
//! MQTT 3.1.1 has no answer that refuses a publish. A client that keeps what is not acknowledged
//! sends it first after each reconnect, so nothing that it has behind it gets through.

use std::time::{Duration, Instant};

use crate::gate::DeviceIndex;
use crate::number_map::NumberMap;

/// Fewer than this may be a mistake that was corrected.
const MANY: u32 = 3;
/// After so long without another the client has stopped: they reconnect within seconds, or a minute
/// or two.
const WITHIN: Duration = Duration::from_secs(300);

/// What a client is disconnected for: its identifier and that of the packet, which a publish keeps
/// when it is sent again (MQTT 3.1.1 §4.4).
pub(super) type Cause = (Box<str>, u16);

#[derive(Debug)]
struct Noted {
    cause: Cause,
    times: u32,
    at: Instant,
}

/// How often a client of each device was disconnected for one publish, and when last. Of several
/// clients of one device it is the last.
#[derive(Debug, Default)]
pub(super) struct DeniedAgain {
    by_device: NumberMap<DeviceIndex, Noted>,
}

impl DeniedAgain {
    /// Once more. `most`: how many devices there are; no more are kept but those of the last time.
    pub(super) fn note(&mut self, now: Instant, device: DeviceIndex, cause: Cause, most: usize) {
        if self.by_device.len() >= most {
            self.by_device.retain(|_, noted| noted.is_recent(now));
        }
        let times = match self.by_device.get(&device) {
            Some(noted) if noted.is_recent(now) && noted.cause == cause => noted.times.saturating_add(1),
            _ => 1,
        };
        self.by_device.insert(device, Noted { cause, times, at: now });
    }

    /// A publish of the client passed: nothing is in its way.
    pub(super) fn passed(&mut self, device: DeviceIndex, client_id: &str) {
        if self.by_device.get(&device).is_some_and(|noted| &*noted.cause.0 == client_id) {
            self.by_device.remove(&device);
        }
    }

    /// The rules are others: it may pass now.
    pub(super) fn forget(&mut self) {
        self.by_device.clear();
    }

    /// Those that come back, and how often they were disconnected.
    pub(super) fn devices(&self, now: Instant) -> impl Iterator<Item = (DeviceIndex, u32)> {
        let again =
            self.by_device.iter().filter(move |(_, noted)| noted.times >= MANY && noted.is_recent(now));
        again.map(|(device, noted)| (*device, noted.times))
    }
}

impl Noted {
    fn is_recent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < WITHIN
    }
}
