//! Readings that are not committed yet: those on their way to disk, and those the journal does not
//! take at present.
//!
//! | state | then |
//! |---|---|
//! | waiting | offered again, oldest first, until taken: in flight |
//! | in flight | committed: gone; failed: waiting, in its old place |
//!
//! Bounded in number and bytes. Over the bound the oldest waiting one is lost and counted; if none
//! waits, the oldest in flight is no longer kept against a failure of the disk.

use std::collections::VecDeque;

use crate::message::{ContentFormat, Stamp};
use crate::proto::serial::reading::Reading;

/// Most readings kept for one port.
pub const READINGS_MAX: usize = 1000;
/// Most bytes of payload kept for one port.
pub const BYTES_MAX: usize = 256 * 1024;
/// Fewest readings kept for one of many devices on a port.
const READINGS_LEAST: usize = 16;
/// Fewest bytes kept for one of many devices on a port: 2 MiB for the 247 there can be.
const BYTES_LEAST: usize = 8 * 1024;

/// How much may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Readings.
    pub readings: usize,
    /// Bytes of their payloads.
    pub bytes: usize,
}

impl Bounds {
    /// The share of each of so many devices on one port.
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

/// A reading kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Where.
    pub path: String,
    /// What it is.
    pub content_format: Option<ContentFormat>,
    /// The bytes.
    pub payload: Vec<u8>,
    /// When it came.
    pub stamp: Stamp,
}

impl Held {
    /// A copy.
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
}

impl Pending {
    /// Room for so much.
    pub fn new(bounds: Bounds) -> Pending {
        Pending { bounds, ..Pending::default() }
    }

    /// How much there is room for.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Whether none waits: a new reading may go straight to the journal.
    pub fn is_clear(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many wait, and how many are on their way.
    pub fn counts(&self) -> (usize, usize) {
        (self.waiting.len(), self.in_flight.len())
    }

    /// How many were lost for want of room.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Keeps one that was taken under the ticket of this count, until it is committed.
    pub fn hold(&mut self, count: u32, held: Held) {
        self.bytes += held.payload.len();
        self.in_flight.push_back((count, held));
        self.shrink();
    }

    /// Keeps one that was not taken.
    pub fn wait(&mut self, held: Held) {
        self.bytes += held.payload.len();
        self.waiting.push_back(held);
        self.shrink();
    }

    /// The one that has waited longest.
    pub fn first(&self) -> Option<&Held> {
        self.waiting.front()
    }

    /// The first was taken under the ticket of this count: it is on its way.
    pub fn first_taken(&mut self, count: u32) {
        if let Some(held) = self.waiting.pop_front() {
            self.in_flight.push_back((count, held));
        }
    }

    /// The first is not wanted: it was refused, or went another way.
    pub fn first_gone(&mut self) {
        if let Some(held) = self.waiting.pop_front() {
            self.bytes -= held.payload.len();
        }
    }

    /// What was on its way has arrived, or has not.
    pub fn complete(&mut self, count: u32, stored: bool) {
        let Some(at) = self.in_flight.iter().position(|(known, _)| *known == count) else { return };
        let Some((_, held)) = self.in_flight.remove(at) else { return };
        if stored {
            self.bytes -= held.payload.len();
        } else {
            // Those that fail together come back in order: each goes behind those older than
            // itself.
            let behind =
                self.waiting.iter().take_while(|other| other.stamp.boottime_ms <= held.stamp.boottime_ms);
            let behind = behind.count();
            self.waiting.insert(behind, held);
        }
    }

    /// Takes over what another had, as the older ones; nothing of it is on its way any more.
    pub fn adopt(&mut self, mut other: Pending) {
        let older = other.in_flight.drain(..).map(|(_, held)| held).chain(other.waiting.drain(..));
        let mut waiting: VecDeque<Held> = older.collect();
        waiting.append(&mut self.waiting);
        self.waiting = waiting;
        self.bytes += other.bytes;
        self.lost += other.lost;
        self.shrink();
    }

    fn shrink(&mut self) {
        let Bounds { readings, bytes } = self.bounds;
        while self.waiting.len() + self.in_flight.len() > readings || self.bytes > bytes {
            if let Some(held) = self.waiting.pop_front() {
                self.bytes -= held.payload.len();
                self.lost += 1;
            } else if let Some((_, held)) = self.in_flight.pop_front() {
                self.bytes -= held.payload.len();
            } else {
                return;
            }
        }
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
        assert_eq!((pending.counts().0, pending.lost()), (READINGS_MAX, 5));
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
        new.wait(held(3, 3));
        new.adopt(old);
        assert_eq!(new.counts(), (3, 0));
        assert_eq!(new.first().unwrap().stamp.boottime_ms, 1);
        assert_eq!(new.bytes, 9);
    }
}
