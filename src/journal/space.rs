//! When a full disk has space again.
//!
//! A retry writes, so after an error it comes later and later, up to a minute ([`Trouble`]). In the
//! meantime the free space is looked at, which writes nothing: when it has risen, the retry is made
//! at once, so that devices are refused for seconds and not for a minute. A quota is not seen this
//! way; there the minute remains.
//!
//! [`Trouble`]: super::pool::Trouble

use std::time::{Duration, Instant};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Longest time between two looks, after retries that failed although space had risen.
const LOOK_MAX: Duration = Duration::from_secs(60);
/// Least rise of the free space, in bytes, for which a retry is made.
const RISE: u64 = 256 * 1024;

/// Watches the free space while the disk is full.
#[derive(Debug, Default)]
pub(super) struct SpaceWatch(Option<Watching>);

#[derive(Debug)]
struct Watching {
    look_at: Instant,
    /// The least free space since the last retry.
    least: u64,
    pause: Duration,
}

impl SpaceWatch {
    /// When [`SpaceWatch::look`] must be called, if it watches.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.as_ref().map(|watching| watching.look_at)
    }

    /// Returns whether a retry is worth it now. `is_full`: the last error was that of a full disk;
    /// `needed`: bytes of a segment; `free`: the free bytes, if the system tells them.
    pub(super) fn look(
        &mut self,
        now: Instant,
        is_full: bool,
        needed: u64,
        free: impl FnOnce() -> Option<u64>,
    ) -> bool {
        if !is_full {
            self.0 = None;
            return false;
        }
        let Some(watching) = &mut self.0 else {
            let start = |least| Watching { look_at: now + LOOK_EVERY, least, pause: LOOK_EVERY };
            self.0 = free().map(start);
            return false;
        };
        if now < watching.look_at {
            return false;
        }
        let risen = match free() {
            Some(free) if free >= needed && free >= watching.least.saturating_add(RISE) => {
                watching.least = free;
                // If this retry fails, the next one is later: it may be a quota, not space.
                watching.pause = (watching.pause * 2).min(LOOK_MAX);
                true
            }
            Some(free) => {
                watching.least = watching.least.min(free);
                false
            }
            None => false,
        };
        watching.look_at = now + watching.pause;
        risen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_that_rises_and_helps_nobody_is_tried_later_and_later() {
        let (start, mut watch) = (Instant::now(), SpaceWatch::default());
        let mut now = start;
        assert!(!watch.look(now, true, 1000, || Some(0)));
        let mut retries = Vec::new();
        for round in 1..2000 {
            now += Duration::from_secs(1);
            if watch.look(now, true, 1000, || Some(round * RISE)) {
                retries.push((now - start).as_secs());
            }
        }
        assert_eq!(retries[..6], [2, 6, 14, 30, 62, 122]);
        assert!(retries.windows(2).all(|pair| pair[1] - pair[0] <= 60));
        assert!(!watch.look(now, false, 1000, || None));
        assert_eq!(watch.deadline(), None);
    }

    #[test]
    fn what_is_too_little_for_a_segment_or_no_rise_is_not_tried() {
        let (mut now, mut watch) = (Instant::now(), SpaceWatch::default());
        let mut look = |free| {
            now += LOOK_EVERY;
            watch.look(now, true, 4 * RISE, || Some(free))
        };
        assert!(!look(2 * RISE));
        assert!(!look(3 * RISE), "too little");
        assert!(!look(RISE));
        assert!(look(4 * RISE), "it has risen since it was least");
    }
}
