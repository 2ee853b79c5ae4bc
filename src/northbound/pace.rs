//! How fast a backlog drains: a token bucket, filled at the drain rate above what comes in
//! meanwhile, so that a backlog shrinks by the drain rate whatever comes in.

use std::time::{Duration, Instant};

/// Lets `rate` records a second through, at most a tenth of a second's worth at once.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Records a second above what comes in; 0 = unlimited.
    drain_rate: u32,
    /// Records a second.
    rate: u32,
    /// In thousand-millionths of a record; negative after a record that could not be foreseen.
    tokens: i64,
    filled_at: Instant,
}

const RECORD: i64 = 1_000_000_000;

impl Pace {
    /// A full bucket.
    pub fn new(now: Instant, rate: u32) -> Pace {
        let mut pace = Pace { drain_rate: rate, rate, tokens: 0, filled_at: now };
        pace.tokens = pace.capacity();
        pace
    }

    /// So many records a second come in.
    pub fn set_ingest(&mut self, now: Instant, ingest: u32) {
        if self.drain_rate != 0 {
            self.allows(now); // at the rate up to now
            self.rate = self.drain_rate.saturating_add(ingest);
        }
    }

    fn capacity(&self) -> i64 {
        (i64::from(self.rate) * RECORD / 10).max(RECORD)
    }

    /// Whether a record may pass at `now`.
    pub fn allows(&mut self, now: Instant) -> bool {
        if self.rate == 0 {
            return true;
        }
        let passed = now.saturating_duration_since(self.filled_at).as_nanos().min(10_000_000_000) as i64;
        if passed > 0 {
            self.tokens = (self.tokens + passed * i64::from(self.rate)).min(self.capacity());
            self.filled_at = now;
        }
        self.tokens >= RECORD
    }

    /// A record passed; also one that could not be asked before.
    pub fn take(&mut self) {
        if self.rate != 0 {
            self.tokens -= RECORD;
        }
    }

    /// When the next record may pass.
    pub fn ready_at(&self) -> Instant {
        if self.rate == 0 || self.tokens >= RECORD {
            return self.filled_at;
        }
        let wait = (RECORD - self.tokens) as u64 / u64::from(self.rate) + 1;
        self.filled_at + Duration::from_nanos(wait)
    }
}

/// How many records come into a lane, averaged over about ten seconds.
#[derive(Clone, Debug, Default)]
pub struct Ingest {
    newest: u64,
    measured_at: Option<Instant>,
    rate: f64,
}

impl Ingest {
    /// The newest record of the lane has the sequence `newest`. The records that came in a second,
    /// measured at most once a second.
    pub fn measure(&mut self, now: Instant, newest: u64) -> u32 {
        let Some(before) = self.measured_at else {
            (self.newest, self.measured_at) = (newest, Some(now));
            return 0;
        };
        let passed = now.saturating_duration_since(before).as_secs_f64();
        if passed >= 1.0 {
            let came = newest.saturating_sub(self.newest) as f64 / passed;
            let share = (passed / 10.0).min(1.0);
            self.rate += (came - self.rate) * share;
            (self.newest, self.measured_at) = (newest, Some(now));
        }
        self.rate.ceil() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_is_measured_and_comes_on_top() {
        let start = Instant::now();
        let mut ingest = Ingest::default();
        let mut pace = Pace::new(start, 10);
        let mut passed = 0;
        for ms in 0..60_000u64 {
            let now = start + Duration::from_millis(ms);
            pace.set_ingest(now, ingest.measure(now, ms / 20)); // 50 a second
            while pace.allows(now) {
                pace.take();
                passed += u64::from(ms >= 50_000);
            }
        }
        assert!((590..=612).contains(&passed), "{passed}");
    }

    #[test]
    fn a_second_lets_the_rate_through() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 1000);
        let mut passed = 0;
        for ms in 0..10_000u64 {
            while pace.allows(start + Duration::from_millis(ms)) {
                pace.take();
                passed += 1;
            }
        }
        assert!((10_000..=10_100).contains(&passed), "{passed}");
    }

    #[test]
    fn it_says_when_the_next_may_pass() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 2);
        assert!(pace.allows(start));
        pace.take();
        assert!(!pace.allows(start));
        assert!(!pace.allows(start + Duration::from_millis(499)));
        assert!(pace.allows(pace.ready_at()));
        assert!(pace.ready_at() <= start + Duration::from_millis(501));
    }
}
