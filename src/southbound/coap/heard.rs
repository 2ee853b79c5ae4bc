//! Where each device was heard: the session or line to ask it over.
//!
//! A device may have several sessions. The last one that it spoke over is asked; if that one ends,
//! the one before is, if it is still there.

use std::collections::HashMap;
use std::time::Instant;

use crate::gate::stage::DeviceIndex;
use crate::proto::address::Peer;

/// A peer, and when the device was heard over it; `None`: not in this process.
type At = (Peer, Option<Instant>);

/// See the module.
#[derive(Default)]
pub(super) struct Heard(HashMap<DeviceIndex, Places>);

struct Places {
    last: At,
    /// Few have one.
    before: Option<Box<At>>,
}

impl Places {
    fn is_before(&self, peer: Peer) -> bool {
        self.before.as_ref().is_some_and(|before| before.0 == peer)
    }
}

impl Heard {
    /// The device has this peer, or has just been heard over it.
    pub(super) fn note(&mut self, device: DeviceIndex, peer: Peer, at: Option<Instant>) {
        let places = self.0.entry(device).or_insert(Places { last: (peer, at), before: None });
        if places.last.0 != peer {
            places.before = Some(Box::new(places.last));
        }
        places.last = (peer, at);
    }

    /// The device has this peer, if it has no other.
    pub(super) fn note_first(&mut self, device: DeviceIndex, peer: Peer) {
        self.0.entry(device).or_insert(Places { last: (peer, None), before: None });
    }

    /// The peer is not the device's any more.
    pub(super) fn forget(&mut self, device: DeviceIndex, peer: Peer) {
        let Some(places) = self.0.get_mut(&device) else { return };
        if places.is_before(peer) {
            places.before = None;
        }
        if places.last.0 != peer {
            return;
        }
        match places.before.take() {
            Some(before) => places.last = *before,
            None => drop(self.0.remove(&device)),
        }
    }

    /// The peer, which is a line, is there no more.
    pub(super) fn forget_line(&mut self, line: Peer) {
        let of_line = self.0.iter().filter(|(_, places)| places.last.0 == line || places.is_before(line));
        let devices: Vec<DeviceIndex> = of_line.map(|(device, _)| *device).collect();
        devices.into_iter().for_each(|device| self.forget(device, line));
    }

    /// Where a device was heard last.
    pub(super) fn get(&self, device: DeviceIndex) -> Option<At> {
        self.0.get(&device).map(|places| places.last)
    }

    /// All devices, and where each was heard last.
    pub(super) fn iter(&self) -> impl Iterator<Item = (DeviceIndex, Peer)> {
        self.0.iter().map(|(device, places)| (*device, places.last.0))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;
    use crate::pipeline::Pipeline;
    use crate::pipeline::fake::FakeStore;

    /// Each device with a session has one.
    #[test]
    fn the_places_of_a_device_are_small() {
        assert!(size_of::<(DeviceIndex, Places)>() <= 48, "{}", size_of::<(DeviceIndex, Places)>());
    }

    #[test]
    fn a_device_whose_newer_session_ends_is_asked_over_the_older_one() {
        let pipeline: Pipeline<FakeStore> = Pipeline::fake(Instant::now(), 100);
        let device = pipeline.gate.device_by_id("door-7").expect("the device is known");
        let (mut heard, now) = (Heard::default(), Some(Instant::now()));
        let [old, new, line] = [1, 2, 9].map(Peer::Serial);
        heard.note(device, old, now);
        heard.note(device, new, now);
        heard.note(device, new, now);
        assert_eq!(heard.get(device), Some((new, now)));
        heard.forget(device, new);
        assert_eq!(heard.get(device), Some((old, now)));
        heard.note_first(device, line);
        assert_eq!(heard.get(device), Some((old, now)), "it has one");
        heard.forget(device, old);
        assert_eq!(heard.get(device), None);
        // The older one ends first.
        heard.note(device, old, now);
        heard.note(device, new, None);
        heard.forget(device, old);
        heard.forget(device, new);
        assert_eq!((heard.get(device), heard.iter().count()), (None, 0));
        heard.note(device, line, None);
        heard.note(device, new, None);
        heard.forget_line(line);
        heard.forget(device, new);
        assert_eq!(heard.get(device), None);
    }
}
