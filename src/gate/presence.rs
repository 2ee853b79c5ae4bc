//! Which devices are online, and when to publish a change.
//!
//! A device is online from its first activity (a reading, accepted or refused; a session) until it
//! has been silent for its `offline-after`. The published state and the current state are kept
//! separately:
//!
//! | published | current | action |
//! |---|---|---|
//! | nothing | online | publish at once |
//! | nothing | silent since the start | publish offline after `offline-after` |
//! | x | not x | publish, at least 60 s after the last publication |
//! | online | online, active since | publish `last_seen`, at least 15 minutes after the last publication |
//! | x | x | none |
//!
//! Every device has at most one valid entry in a heap of due times, so the cost of a poll depends
//! on the devices that are due, not on all devices, and activity of an online device only stores
//! the time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::stage::DeviceIndex;
use crate::message::Name;

/// Least time between two published changes of one device.
pub const CHANGE_INTERVAL: Duration = Duration::from_secs(60);
/// Least time between two publications that only refresh `last_seen`.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(15 * 60);

/// A presence to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceChange {
    /// The device's index.
    pub device: DeviceIndex,
    /// Its id.
    pub id: Name,
    /// Whether it is online.
    pub online: bool,
    /// Its last activity since the gate was created, if any.
    pub last_seen: Option<Instant>,
}

/// The presence of one device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Presence {
    last_seen: Option<Instant>,
    told: Told,
    /// The due time of its valid heap entry.
    due: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum Told {
    /// Nothing was published; the device is known since `since`.
    Nothing { since: Instant },
    /// A state was published, but must be published again.
    Outdated,
    /// This state was published at `at`.
    State { online: bool, last_seen: Option<Instant>, at: Instant },
}

/// The result of [`Presence::decide`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Tell,
    LookAgain(Instant),
    Nothing,
}

impl Presence {
    pub(super) fn new(now: Instant) -> Presence {
        Presence { last_seen: None, told: Told::Nothing { since: now }, due: None }
    }

    pub(super) fn last_seen(&self) -> Option<Instant> {
        self.last_seen
    }

    pub(super) fn online(&self, now: Instant, offline_after: Duration) -> bool {
        self.last_seen.is_some_and(|seen| now.saturating_duration_since(seen) < offline_after)
    }

    /// Marks the published state as outdated, so that it is published again.
    pub(super) fn outdate(&mut self) {
        if let Told::State { .. } = self.told {
            self.told = Told::Outdated;
        }
    }

    fn decide(&self, now: Instant, offline_after: Duration) -> Next {
        let online = self.online(now, offline_after);
        let (told, last_seen, at) = match self.told {
            Told::Outdated => return Next::Tell,
            Told::Nothing { .. } if online => return Next::Tell,
            Told::Nothing { since } => return at_or_now(since.checked_add(offline_after), now),
            Told::State { online, last_seen, at } => (online, last_seen, at),
        };
        if online != told {
            return at_or_now(at.checked_add(CHANGE_INTERVAL), now);
        }
        if !online {
            return Next::Nothing;
        }
        let refresh = at.checked_add(REFRESH_INTERVAL);
        if self.last_seen != last_seen && refresh.is_some_and(|refresh| refresh <= now) {
            return Next::Tell;
        }
        let goes_offline = self.last_seen.and_then(|seen| seen.checked_add(offline_after));
        let refresh = refresh.filter(|refresh| *refresh > now).or_else(|| now.checked_add(REFRESH_INTERVAL));
        match [refresh, goes_offline].into_iter().flatten().min() {
            Some(at) => Next::LookAgain(at),
            None => Next::Nothing,
        }
    }
}

fn at_or_now(at: Option<Instant>, now: Instant) -> Next {
    match at {
        Some(at) if at <= now => Next::Tell,
        Some(at) => Next::LookAgain(at),
        None => Next::Nothing,
    }
}

/// The due times of all devices.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The slot of each device by due time; an entry that differs from the device's `due` is
    /// skipped.
    heap: BinaryHeap<Reverse<(Instant, u32)>>,
}

impl Queue {
    /// Clears the queue and reserves room for `devices`, so that later calls do not allocate.
    pub(super) fn reset(&mut self, devices: usize) {
        self.heap.clear();
        // Each device has one valid entry, and may have one stale entry from before its first
        // activity.
        self.heap.reserve(devices.saturating_mul(2));
    }

    /// Reserves room for one more device, `devices` in total.
    pub(super) fn make_room(&mut self, devices: usize) {
        self.heap.reserve(devices.saturating_mul(2).saturating_sub(self.heap.len()));
    }

    /// Schedules a device again after [`Queue::reset`].
    pub(super) fn schedule(
        &mut self,
        slot: u32,
        presence: &mut Presence,
        now: Instant,
        offline_after: Duration,
    ) {
        presence.due = None;
        match presence.decide(now, offline_after) {
            Next::Tell => self.push(slot, presence, now),
            Next::LookAgain(at) => self.push(slot, presence, at),
            Next::Nothing => {}
        }
    }

    fn push(&mut self, slot: u32, presence: &mut Presence, at: Instant) {
        presence.due = Some(at);
        self.heap.push(Reverse((at, slot)));
    }

    /// Records activity of a device.
    pub(super) fn seen(&mut self, slot: u32, presence: &mut Presence, now: Instant) {
        let first = presence.last_seen.is_none();
        if presence.last_seen.is_none_or(|seen| seen < now) {
            presence.last_seen = Some(now);
        }
        // A device published as online is scheduled early enough already, as is one that waits for
        // [`CHANGE_INTERVAL`]. A device published as offline is not scheduled; a device without a
        // published state is scheduled for its `offline-after`.
        if presence.due.is_none() || (first && presence.due.is_some_and(|due| due > now)) {
            self.push(slot, presence, now);
        }
    }

    /// The earliest due time.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// The slot of a device that is due, for [`Queue::tell`].
    pub(super) fn pop(&mut self, now: Instant) -> Option<(u32, Instant)> {
        match self.heap.peek() {
            Some(Reverse((at, _))) if *at <= now => self.heap.pop().map(|Reverse((at, slot))| (slot, at)),
            _ => None,
        }
    }

    /// Whether the popped device is online, if that must be published.
    pub(super) fn tell(
        &mut self,
        slot: u32,
        due: Instant,
        presence: &mut Presence,
        now: Instant,
        offline_after: Duration,
    ) -> Option<bool> {
        if presence.due != Some(due) {
            return None;
        }
        let told = presence.decide(now, offline_after) == Next::Tell;
        let online = presence.online(now, offline_after);
        if told {
            presence.told = Told::State { online, last_seen: presence.last_seen, at: now };
        }
        self.schedule(slot, presence, now, offline_after);
        told.then_some(online)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const MINUTE: Duration = Duration::from_secs(60);

    /// One device under virtual time.
    struct World {
        start: Instant,
        now: Instant,
        offline_after: Duration,
        presence: Presence,
        queue: Queue,
    }

    impl World {
        fn new(offline_after: Duration) -> World {
            let start = Instant::now();
            let mut world = World {
                start,
                now: start,
                offline_after,
                presence: Presence::new(start),
                queue: Queue::default(),
            };
            world.queue.reset(1);
            world.queue.schedule(0, &mut world.presence, start, offline_after);
            world
        }

        fn seen(&mut self) {
            self.queue.seen(0, &mut self.presence, self.now);
        }

        /// All publications until `end`, each with its second since the start, jumping from due
        /// time to due time.
        fn until(&mut self, end: Duration) -> Vec<(u64, bool)> {
            let mut told = Vec::new();
            let end = self.start + end;
            loop {
                while let Some((slot, due)) = self.queue.pop(self.now) {
                    let after = self.offline_after;
                    if let Some(online) = self.queue.tell(slot, due, &mut self.presence, self.now, after) {
                        told.push(((self.now - self.start).as_secs(), online));
                    }
                }
                match self.queue.poll_timeout() {
                    Some(at) if at <= end => self.now = at,
                    _ => break,
                }
            }
            self.now = end;
            told
        }
    }

    #[test]
    fn the_first_sign_of_life_is_told_at_once_and_silence_after_an_hour() {
        let mut world = World::new(HOUR);
        assert_eq!(world.until(10 * MINUTE), []);
        world.seen();
        assert_eq!(world.until(3 * HOUR), [(600, true), (600 + 3600, false)]);
        world.seen();
        assert_eq!(world.until(4 * HOUR - MINUTE), [(3 * 3600, true)]);
    }

    #[test]
    fn a_device_silent_from_the_start_is_told_offline_once() {
        let mut world = World::new(HOUR);
        assert_eq!(world.until(48 * HOUR), [(3600, false)]);
    }

    #[test]
    fn last_seen_is_refreshed_every_quarter_of_an_hour_at_most() {
        let mut world = World::new(HOUR);
        let mut told = Vec::new();
        for second in (0..2 * 3600).step_by(10) {
            told.extend(world.until(Duration::from_secs(second)));
            world.seen();
        }
        let times: Vec<u64> = told.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [0, 900, 1800, 2700, 3600, 4500, 5400, 6300]);
        assert!(told.iter().all(|(_, online)| *online));
    }

    #[test]
    fn a_flapping_device_is_told_once_a_minute_at_most() {
        let mut world = World::new(Duration::from_secs(5));
        let mut told = Vec::new();
        // Activity every 7 s: offline 2 s before each.
        for second in (0..1800).step_by(7) {
            told.extend(world.until(Duration::from_secs(second)));
            world.seen();
        }
        assert!(told.len() > 10, "{told:?}");
        assert!(
            told.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 60 && pair[1].1 != pair[0].1),
            "{told:?}"
        );
    }

    #[test]
    fn a_change_that_is_undone_within_the_minute_is_not_told() {
        let mut world = World::new(Duration::from_secs(5));
        world.seen();
        assert_eq!(world.until(Duration::from_secs(58)), [(0, true)]);
        world.seen();
        assert_eq!(world.until(Duration::from_secs(62)), []);
        assert_eq!(world.until(Duration::from_secs(70)), [(63, false)]);
    }

    #[test]
    fn what_changed_while_nobody_asked_is_told_as_it_is_now() {
        let mut world = World::new(HOUR);
        world.seen();
        // The uplink is down for a day; polling resumes after it.
        world.now = world.start + 24 * HOUR;
        assert_eq!(world.until(25 * HOUR), [(24 * 3600, false)]);
    }

    #[test]
    fn what_was_told_can_be_told_again() {
        let mut world = World::new(HOUR);
        world.seen();
        assert_eq!(world.until(MINUTE), [(0, true)]);
        world.presence.outdate();
        world.queue.reset(1);
        world.queue.schedule(0, &mut world.presence, world.now, HOUR);
        assert_eq!(world.until(2 * MINUTE), [(60, true)]);
    }

    #[test]
    fn the_heap_holds_two_entries_a_device_at_most() {
        let mut world = World::new(HOUR);
        for second in 0..10_000 {
            world.until(Duration::from_secs(second));
            world.seen();
            // The stale entry from the first activity is removed when it becomes due.
            assert!(world.queue.heap.len() <= if second < 3_600 { 2 } else { 1 });
        }
    }
}
