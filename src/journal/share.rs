//! The share of each lane that a device takes, so that one device within its quota cannot fill a
//! lane.
//!
//! A lane is counted in [`PARTS`] parts by sequence. A part is counted for the devices whose
//! records are in it until all of it is released, so a device that is refused is taken again when
//! the oldest part has left the lane. What was stored before the journal was opened is of no
//! device.
//!
//! | situation | counted |
//! |---|---|
//! | a record is taken | for its device, in the newest part |
//! | its commit fails | no longer |
//! | a part is released, rejected or dropped | no longer |
//! | the lane is empty | nothing |
//!
//! A device takes at most 400 bytes here for each lane it has records in, and nothing else.

use std::collections::{HashMap, VecDeque};

use super::settings::LaneSettings;
use crate::message::Lane;

/// Parts in which a lane is counted.
const PARTS: usize = 16;
/// Bytes are counted in units of so many, rounded up, so that a part of 64 GiB has room.
const UNIT: u64 = 16;

/// Both lanes.
#[derive(Debug)]
pub struct Shares([LaneShares; 2]);

/// What one device has in a lane, and may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Bytes of its records since the journal was opened.
    pub bytes: u64,
    /// Most of them.
    pub max_bytes: u64,
}

#[derive(Debug)]
struct LaneShares {
    max_bytes: u64,
    part_bytes: u64,
    by_device: HashMap<Box<str>, usize>,
    uses: Vec<Use>,
    free: Vec<usize>,
    parts: VecDeque<Part>,
    /// The number of the oldest part.
    first: u64,
    /// Taken and not committed, oldest first.
    pending: VecDeque<Pending>,
}

/// The units of a device in each part; the place of a part is its number modulo [`PARTS`].
#[derive(Clone, Debug, Default)]
struct Use([u32; PARTS]);

#[derive(Clone, Copy, Debug)]
struct Part {
    /// The newest sequence in it.
    last: u64,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    part: u64,
    units: u32,
    /// `None`: of no device.
    at: Option<usize>,
}

impl Shares {
    /// Nothing is counted yet; the lanes have these bounds.
    pub fn new(bounds: &[LaneSettings; 2]) -> Shares {
        Shares(bounds.map(|bounds| {
            let mut lane = LaneShares {
                max_bytes: 0,
                part_bytes: 0,
                by_device: HashMap::new(),
                uses: Vec::new(),
                free: Vec::new(),
                parts: VecDeque::new(),
                first: 0,
                pending: VecDeque::new(),
            };
            lane.bound(&bounds);
            lane
        }))
    }

    /// Sets new bounds; what is counted stays.
    pub fn set_bounds(&mut self, bounds: &[LaneSettings; 2]) {
        for (lane, bounds) in self.0.iter_mut().zip(bounds) {
            lane.bound(bounds);
        }
    }

    /// Whether a record of this device and size keeps it within its share.
    pub fn allows(&self, lane: Lane, device: &str, size: usize) -> bool {
        let share = self.of(lane, device);
        share.bytes.saturating_add(size as u64) <= share.max_bytes
    }

    /// What a device has in a lane.
    pub fn of(&self, lane: Lane, device: &str) -> Share {
        let lane = &self.0[lane.index()];
        let bytes = lane.by_device.get(device).map_or(0, |at| lane.uses[*at].bytes());
        Share { bytes, max_bytes: lane.max_bytes }
    }

    /// Counts a record that was taken; `None`: for no device. Its commit is told by
    /// [`Shares::complete`], in the order of the lane.
    pub fn take(&mut self, lane: Lane, device: Option<&str>, sequence: u64, size: usize) {
        let lane = &mut self.0[lane.index()];
        let is_room = lane.parts.back().is_some_and(|part| part.bytes < lane.part_bytes);
        // A lane whose oldest part is released late has no place for another one.
        if !is_room && lane.parts.len() < PARTS {
            lane.parts.push_back(Part { last: sequence, bytes: 0 });
        }
        let part = lane.first + lane.parts.len() as u64 - 1;
        if let Some(newest) = lane.parts.back_mut() {
            newest.last = newest.last.max(sequence);
            newest.bytes += size as u64;
        }
        let units = u32::try_from((size as u64).div_ceil(UNIT)).unwrap_or(u32::MAX);
        let at = device.map(|device| lane.place(device));
        if let Some(at) = at {
            let counted = &mut lane.uses[at].0[place(part)];
            *counted = counted.saturating_add(units);
        }
        lane.pending.push_back(Pending { part, units, at });
    }

    /// The oldest record of the lane that was not completed is stored, or it is not.
    pub fn complete(&mut self, lane: Lane, stored: bool) {
        let lane = &mut self.0[lane.index()];
        let Some(pending) = lane.pending.pop_front() else { return };
        // The place of a released part is of another part, perhaps of another device.
        if let Some(at) = pending.at.filter(|_| !stored && pending.part >= lane.first) {
            let counted = &mut lane.uses[at].0[place(pending.part)];
            *counted = counted.saturating_sub(pending.units);
        }
    }

    /// All records of a lane up to and including this one are released.
    pub fn release(&mut self, lane: Lane, through: u64) {
        let lane = &mut self.0[lane.index()];
        while lane.parts.front().is_some_and(|part| part.last <= through) {
            lane.drop_oldest_part();
        }
    }

    /// Whether all records of a lane that were counted are stored, or are not.
    pub fn is_settled(&self, lane: Lane) -> bool {
        self.0[lane.index()].pending.is_empty()
    }

    /// The lane is empty.
    pub fn clear(&mut self, lane: Lane) {
        let lane = &mut self.0[lane.index()];
        while !lane.parts.is_empty() {
            lane.drop_oldest_part();
        }
    }
}

impl LaneShares {
    fn bound(&mut self, bounds: &LaneSettings) {
        let percent = u64::from(bounds.device_share.clamp(1, 100));
        // Below 2^57: at most 1 TiB.
        self.max_bytes = bounds.max_bytes.saturating_mul(percent) / 100;
        self.part_bytes = (bounds.max_bytes / PARTS as u64).max(1);
    }

    fn place(&mut self, device: &str) -> usize {
        if let Some(at) = self.by_device.get(device) {
            return *at;
        }
        let at = self.free.pop().unwrap_or_else(|| {
            self.uses.push(Use::default());
            self.uses.len() - 1
        });
        self.by_device.insert(device.into(), at);
        at
    }

    fn drop_oldest_part(&mut self) {
        let at = place(self.first);
        self.parts.pop_front();
        self.first += 1;
        let LaneShares { by_device, uses, free, .. } = self;
        by_device.retain(|_, device| {
            uses[*device].0[at] = 0;
            let is_used = uses[*device].0.iter().any(|units| *units > 0);
            if !is_used {
                free.push(*device);
            }
            is_used
        });
        if by_device.is_empty() {
            // A burst of many devices does not keep its memory.
            (*uses, *free) = (Vec::new(), Vec::new());
            by_device.shrink_to(64);
        }
    }
}

impl Use {
    fn bytes(&self) -> u64 {
        self.0.iter().map(|units| u64::from(*units)).sum::<u64>() * UNIT
    }
}

fn place(part: u64) -> usize {
    (part % PARTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::settings::WhenFull;

    const LANE: Lane = Lane::Normal;

    fn shares(max_bytes: u64, device_share: u8) -> Shares {
        Shares::new(&[LaneSettings { max_bytes, when_full: WhenFull::Refuse, device_share }; 2])
    }

    /// Takes records of 160 bytes until the device is refused; the sequence of the last one.
    fn fill(shares: &mut Shares, device: &str, mut sequence: u64) -> u64 {
        while shares.allows(LANE, device, 160) {
            sequence += 1;
            shares.take(LANE, Some(device), sequence, 160);
            shares.complete(LANE, true);
        }
        sequence
    }

    #[test]
    fn a_device_may_fill_its_share_and_the_others_have_theirs_all_the_same() {
        let mut shares = shares(32_000, 50);
        let last = fill(&mut shares, "loud", 0);
        assert_eq!((last, shares.of(LANE, "loud")), (100, Share { bytes: 16_000, max_bytes: 16_000 }));
        assert!(shares.allows(LANE, "calm", 160));
        assert!(shares.allows(Lane::High, "loud", 160), "the other lane is counted by itself");
        assert_eq!(fill(&mut shares, "calm", last), 200);
    }

    #[test]
    fn what_is_released_is_free_again_part_by_part() {
        let mut shares = shares(32_000, 50);
        let last = fill(&mut shares, "loud", 0);
        // A part is 2,000 bytes: 13 records of 160 bytes.
        shares.release(LANE, 12);
        assert!(!shares.allows(LANE, "loud", 160));
        shares.release(LANE, 13);
        assert_eq!(shares.of(LANE, "loud").bytes, 16_000 - 13 * 160);
        shares.release(LANE, last);
        assert_eq!(shares.of(LANE, "loud").bytes, 0);
        assert!(shares.0[LANE.index()].by_device.is_empty(), "it takes no memory");
    }

    #[test]
    fn a_commit_that_fails_costs_no_share_and_not_the_one_of_a_later_device() {
        let mut shares = shares(32_000, 50);
        shares.take(LANE, Some("loud"), 1, 160);
        assert!(!shares.is_settled(LANE));
        shares.complete(LANE, false);
        assert!(shares.is_settled(LANE));
        assert_eq!(shares.of(LANE, "loud").bytes, 0);
        // It fails only after its part was released, and its place is of another device.
        shares.take(LANE, Some("loud"), 2, 160);
        shares.release(LANE, 2);
        shares.take(LANE, Some("next"), 3, 160);
        shares.complete(LANE, false);
        assert_eq!(shares.of(LANE, "next").bytes, 160);
    }

    #[test]
    fn a_reply_of_no_device_keeps_the_order_of_completions() {
        let mut shares = shares(32_000, 50);
        shares.take(LANE, None, 1, 160);
        shares.take(LANE, Some("loud"), 2, 160);
        shares.complete(LANE, false);
        assert_eq!(shares.of(LANE, "loud").bytes, 160);
        shares.complete(LANE, false);
        assert_eq!(shares.of(LANE, "loud").bytes, 0);
    }

    #[test]
    fn a_lane_that_is_released_late_is_counted_all_the_same() {
        let mut shares = shares(32_000, 100);
        for sequence in 1..=1_000 {
            shares.take(LANE, Some("loud"), sequence, 160);
            shares.complete(LANE, true);
        }
        assert_eq!(shares.0[LANE.index()].parts.len(), PARTS);
        assert_eq!(shares.of(LANE, "loud").bytes, 160_000);
        shares.clear(LANE);
        assert_eq!(shares.of(LANE, "loud").bytes, 0);
    }

    #[test]
    fn a_lowered_share_counts_at_once_and_a_device_takes_at_most_what_is_written_above() {
        let mut shares = shares(32_000, 50);
        fill(&mut shares, "loud", 0);
        let bounds = LaneSettings { max_bytes: 32_000, when_full: WhenFull::Refuse, device_share: 60 };
        shares.set_bounds(&[bounds; 2]);
        assert!(shares.allows(LANE, "loud", 160));
        shares.set_bounds(&[LaneSettings { device_share: 10, ..bounds }; 2]);
        assert!(!shares.allows(LANE, "loud", 0));
        assert!(size_of::<Use>() <= 64);
    }
}
