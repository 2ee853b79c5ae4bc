//! Readings that are not committed yet: in flight to the journal, or waiting because they cannot be
//! accepted now.
//!
//! | state | next |
//! |---|---|
//! | waiting | offered again, oldest first; when accepted: in flight |
//! | in flight | committed: removed; failed: waiting, in its old position |
//!
//! Bounded in number and bytes. Beyond the limit the oldest waiting reading is lost and counted; if
//! none waits, the copy of the oldest one in flight is dropped, so that it is lost if its commit
//! fails.

use std::collections::VecDeque;

use crate::message::{ContentFormat, Stamp};
use crate::proto::serial::reading::Reading;

/// Most readings kept for one port.
pub const READINGS_MAX: usize = 1000;
/// Most payload bytes kept for one port.
pub const BYTES_MAX: usize = 256 * 1024;
/// Least limit of readings for one of many devices on a port.
const READINGS_LEAST: usize = 16;
/// Least limit of bytes for one of many devices on a port: 2 MiB for the maximum of 247.
const BYTES_LEAST: usize = 8 * 1024;

/// Limits of the readings kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Most readings.
    pub readings: usize,
    /// Most bytes of their payloads.
    pub bytes: usize,
}

impl Bounds {
    /// The limits of each of `devices` on one port.
    pub fn share(devices: usize) -> Bounds {
        let devices = devices.max(1);
        Bounds {
            readings: (READINGS_MAX / devices).max(READINGS_LEAST),
            bytes: (BYTES_MAX / devices).max(BYTES_LEAST),
        }
    }
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds::share(1)
    }
}

/// A reading kept in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The path within the device.
    pub path: String,
    /// The content format of the payload.
    pub content_format: Option<ContentFormat>,
    /// The payload.
    pub payload: Vec<u8>,
    /// When it was received.
    pub stamp: Stamp,
}

impl Held {
    /// Copies a reading.
    pub fn of(reading: &Reading<'_>, stamp: Stamp) -> Held {
        Held {
            path: reading.path.as_str().to_owned(),
            content_format: reading.content_format,
            payload: reading.payload.to_vec(),
            stamp,
        }
    }
}

/// All readings of one device that are not committed.
#[derive(Debug, Default)]
pub struct Pending {
    bounds: Bounds,
    in_flight: VecDeque<(u32, Held)>,
    waiting: VecDeque<Held>,
    bytes: usize,
    lost: u64,
    /// Of these, since none waited last.
    losing: u64,
}

impl Pending {
    /// An empty buffer with these limits.
    pub fn new(bounds: Bounds) -> Pending {
        Pending { bounds, ..Pending::default() }
    }

    /// The limits.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Whether no reading waits, so that a new one may be offered at once.
    pub fn is_clear(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The number of waiting readings and of those in flight.
    pub fn counts(&self) -> (usize, usize) {
        (self.waiting.len(), self.in_flight.len())
    }

    /// The number of readings lost because of the limits.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Of these, those since readings wait without a break; 0 while none waits.
    pub fn losing(&self) -> u64 {
        self.losing
    }

    /// A reading went off the front of those that wait.
    fn moved_on(&mut self) {
        if self.waiting.is_empty() {
            self.losing = 0;
        }
    }

    /// Keeps a reading in flight, accepted with the ticket of this count, until it is committed.
    pub fn hold(&mut self, count: u32, held: Held) {
        self.bytes += held.payload.len();
        self.in_flight.push_back((count, held));
        self.shrink();
    }

    /// Keeps a reading that was not accepted.
    pub fn wait(&mut self, held: Held) {
        self.bytes += held.payload.len();
        self.waiting.push_back(held);
        self.shrink();
    }

    /// The reading that has waited longest.
    pub fn first(&self) -> Option<&Held> {
        self.waiting.front()
    }

    /// The first waiting reading was accepted with the ticket of this count and is in flight.
    pub fn first_taken(&mut self, count: u32) {
        if let Some(held) = self.waiting.pop_front() {
            self.in_flight.push_back((count, held));
            self.moved_on();
        }
    }

    /// Removes the first waiting reading: it was refused, or passed on without the journal.
    pub fn first_gone(&mut self) {
        if let Some(held) = self.waiting.pop_front() {
            self.bytes -= held.payload.len();
            self.moved_on();
        }
    }

    /// A reading in flight was committed (`stored`) or failed.
    pub fn complete(&mut self, count: u32, stored: bool) {
        let Some(at) = self.in_flight.iter().position(|(known, _)| *known == count) else { return };
        let Some((_, held)) = self.in_flight.remove(at) else { return };
        if stored {
            self.bytes -= held.payload.len();
        } else {
            // Failed readings return in order: each is inserted after the older ones.
            let behind =
                self.waiting.iter().take_while(|other| other.stamp.boottime_ms <= held.stamp.boottime_ms);
            let behind = behind.count();
            self.waiting.insert(behind, held);
        }
    }

    /// Takes over the readings of `other` as the older ones; its readings in flight wait again.
    pub fn adopt(&mut self, mut other: Pending) {
        let older = other.in_flight.drain(..).map(|(_, held)| held).chain(other.waiting.drain(..));
        let mut waiting: VecDeque<Held> = older.collect();
        waiting.append(&mut self.waiting);
        self.waiting = waiting;
        self.bytes += other.bytes;
        self.lost += other.lost;
        self.losing += other.losing;
        self.shrink();
    }

    fn shrink(&mut self) {
        let Bounds { readings, bytes } = self.bounds;
        while self.waiting.len() + self.in_flight.len() > readings || self.bytes > bytes {
            if let Some(held) = self.waiting.pop_front() {
                self.bytes -= held.payload.len();
                self.lost += 1;
                self.losing += 1;
            } else if let Some((_, held)) = self.in_flight.pop_front() {
                self.bytes -= held.payload.len();
            } else {
                break;
            }
        }
        self.moved_on();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(number: u64, size: usize) -> Held {
        Held {
            path: "data".into(),
            content_format: None,
            payload: vec![number as u8; size],
            stamp: Stamp { boottime_ms: number, wall_ms: None },
        }
    }

    #[test]
    fn what_fails_on_its_way_waits_again_in_its_old_place() {
        let mut pending = Pending::default();
        for number in 0..3 {
            pending.hold(number as u32, held(number, 1));
        }
        pending.wait(held(3, 1));
        pending.complete(0, true);
        pending.complete(1, false);
        pending.complete(2, false);
        pending.complete(7, false);
        let mut order = Vec::new();
        while let Some(first) = pending.first() {
            order.push(first.stamp.boottime_ms);
            pending.first_taken(9);
        }
        assert_eq!(order, [1, 2, 3]);
        assert_eq!((pending.counts(), pending.lost()), ((0, 3), 0));
    }

    #[test]
    fn the_newest_are_kept_and_the_rest_is_counted() {
        let mut pending = Pending::default();
        for number in 0..READINGS_MAX as u64 + 5 {
            pending.wait(held(number, 10));
        }
        assert_eq!(pending.first().unwrap().stamp.boottime_ms, 5);
        assert_eq!((pending.counts().0, pending.lost(), pending.losing()), (READINGS_MAX, 5, 5));
        for count in 0..READINGS_MAX as u32 {
            assert_eq!(pending.losing(), 5);
            pending.first_taken(count);
        }
        assert_eq!((pending.lost(), pending.losing()), (5, 0), "the journal has taken all that wait");
        let mut pending = Pending::default();
        for number in 0..10 {
            pending.wait(held(number, BYTES_MAX / 4));
        }
        assert_eq!((pending.counts().0, pending.lost()), (4, 6));
        pending.first_gone();
        assert_eq!(pending.bytes, 3 * (BYTES_MAX / 4));
    }

    #[test]
    fn devices_on_one_port_share_its_room() {
        let (one, ten, all) = (Bounds::share(1), Bounds::share(10), Bounds::share(247));
        assert_eq!((one.readings, one.bytes), (READINGS_MAX, BYTES_MAX));
        assert_eq!((ten.readings, ten.bytes), (100, BYTES_MAX / 10));
        assert_eq!((all.readings, all.bytes), (READINGS_LEAST, BYTES_LEAST));
        let mut pending = Pending::new(Bounds { readings: 2, bytes: 100 });
        (0..5).for_each(|number| pending.wait(held(number, 1)));
        assert_eq!((pending.counts().0, pending.lost()), (2, 3));
    }

    #[test]
    fn a_successor_takes_over_what_was_not_committed() {
        let (mut old, mut new) = (Pending::default(), Pending::default());
        old.hold(1, held(1, 3));
        old.wait(held(2, 3));
        old.lost = 4;
        new.lost = 1;
        new.wait(held(3, 3));
        new.adopt(old);
        assert_eq!((new.counts(), new.lost()), ((3, 0), 5));
        assert_eq!(new.first().unwrap().stamp.boottime_ms, 1);
        assert_eq!(new.bytes, 9);
    }
}
