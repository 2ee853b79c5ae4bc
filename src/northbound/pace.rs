//! A token bucket that limits how fast a backlog drains.

use std::time::{Duration, Instant};

/// Lets `rate` records a second through, at most a tenth of a second's worth at once.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Records a second; 0 = unlimited.
    rate: u32,
    /// In thousand-millionths of a record; negative after a record that could not be foreseen.
    tokens: i64,
    filled_at: Instant,
}

const RECORD: i64 = 1_000_000_000;

impl Pace {
    /// A full bucket.
    pub fn new(now: Instant, rate: u32) -> Pace {
        let mut pace = Pace { rate, tokens: 0, filled_at: now };
        pace.tokens = pace.capacity();
        pace
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

#[cfg(test)]
mod tests {
    use super::*;

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
