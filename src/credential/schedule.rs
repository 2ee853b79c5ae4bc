//! When something is fetched again that has no due time of its own: a revocation list, the CAs of
//! an EST server.
//!
//! Every `period`, up to a tenth of it sooner, so that a fleet does not ask all at once; after a
//! failure from 60 s on, doubling to 6 h, but never longer than the period. By the monotonic clock:
//! what is fetched is signed, so a clock that is wrong is no reason to wait.

use std::time::{Duration, Instant};

/// After the first failure.
const FIRST: Duration = Duration::from_secs(60);
/// The longest pause after a failure.
const LONGEST: Duration = Duration::from_secs(6 * 3600);
/// After a start with something in store: within so long.
const START: Duration = Duration::from_secs(600);

/// The times of one fetching.
#[derive(Clone, Debug)]
pub struct Schedule {
    period: Duration,
    /// `0..=1000`, of this gateway.
    spread: u32,
    due: Instant,
    failures: u32,
    last_error: Option<String>,
}

impl Schedule {
    /// Without anything in store the first is due at once.
    pub fn new(now: Instant, period: Duration, seed: &str, has_stored: bool) -> Schedule {
        let spread = crc32c::crc32c(seed.as_bytes()) % 1001;
        let wait = if has_stored { START.min(period / 10) * spread / 1000 } else { Duration::ZERO };
        Schedule { period, spread, due: now + wait, failures: 0, last_error: None }
    }

    /// Whether it is due.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.due
    }

    /// When it is due.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Fetches at once.
    pub fn ask(&mut self, now: Instant) {
        self.due = now;
    }

    /// How it went. `retry_after`: what the server asked for.
    pub fn handle_done(&mut self, now: Instant, done: Result<(), String>, retry_after: Option<Duration>) {
        let wait = match &done {
            Ok(()) => {
                self.failures = 0;
                self.period - self.period / 10 * self.spread / 1000
            }
            Err(_) => {
                let doubled = FIRST * 2u32.saturating_pow(self.failures.min(16));
                self.failures = self.failures.saturating_add(1);
                let longest = LONGEST.min(self.period);
                doubled.max(retry_after.unwrap_or_default()).min(longest)
            }
        };
        self.last_error = done.err();
        self.due = now + wait;
    }

    /// What the last attempt failed with.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn what_is_missing_is_fetched_at_once_and_what_is_stored_within_minutes() {
        let now = Instant::now();
        assert!(Schedule::new(now, DAY, "gw-1", false).is_due(now));
        let stored = Schedule::new(now, DAY, "gw-1", true);
        assert!(stored.is_due(now + START));
    }

    #[test]
    fn failures_double_the_pause_up_to_six_hours_and_success_ends_that() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now, DAY, "gw-1", false);
        let mut waits = Vec::new();
        for _ in 0..12 {
            schedule.handle_done(now, Err("away".to_owned()), None);
            waits.push(schedule.due().duration_since(now).as_secs());
        }
        assert_eq!(waits[..4], [60, 120, 240, 480]);
        assert_eq!(waits[11], 6 * 3600);
        assert_eq!(schedule.last_error(), Some("away"));
        schedule.handle_done(now, Ok(()), None);
        assert_eq!(schedule.last_error(), None);
        let wait = schedule.due().duration_since(now);
        assert!(wait <= DAY && wait >= DAY * 9 / 10, "{wait:?}");
        schedule.handle_done(now, Err("busy".to_owned()), Some(Duration::from_secs(3600)));
        assert_eq!(schedule.due().duration_since(now).as_secs(), 3600);
        schedule.handle_done(now, Err("busy".to_owned()), Some(Duration::MAX));
        assert_eq!(schedule.due().duration_since(now).as_secs(), 6 * 3600, "no server stops it for good");
    }

    #[test]
    fn a_thousand_gateways_do_not_ask_at_once() {
        let now = Instant::now();
        let mut dues: Vec<Duration> = (0..1000)
            .map(|n| {
                let mut schedule = Schedule::new(now, DAY, &format!("gw-{n}"), true);
                schedule.handle_done(now, Ok(()), None);
                schedule.due().duration_since(now)
            })
            .collect();
        dues.sort_unstable();
        let minute = Duration::from_secs(60);
        let most =
            dues.iter().map(|due| dues.iter().filter(|d| **d >= *due && **d < *due + minute).count()).max();
        assert!(most.unwrap() < 50, "{most:?} within a minute");
    }
}
