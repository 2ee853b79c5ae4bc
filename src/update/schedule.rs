//! When the next check is due.
//!
//! | after | the next check |
//! |---|---|
//! | the start | within 10 minutes, or the period if that is shorter |
//! | a check that ended with an answer | one period later, ± 10 % |
//! | a check that failed | 1 min, 2 min, 4 min … later, at most one period |
//! | a hint | at once, but at most one check by hints in 10 minutes; hints meanwhile are one |
//! | `tombolo update check` | at once |
//!
//! While the clock is not trusted no check begins: metadata could not be judged by its expiry. What
//! is due waits, and begins when the clock is trusted. All times are monotonic.

use std::time::{Duration, Instant};

use crate::splitmix::SplitMix64;

/// At most one check by hints in this time.
const HINT_PAUSE: Duration = Duration::from_secs(600);
/// The first check is within this time after the start.
const FIRST_WITHIN: Duration = Duration::from_secs(600);
const RETRY: Duration = Duration::from_secs(60);

/// The plan of checks.
pub struct Schedule {
    period: Duration,
    random: SplitMix64,
    due: Instant,
    failures: u32,
    /// A check runs.
    is_checking: bool,
    /// The last check that a hint caused.
    hinted: Option<Instant>,
    is_clock_trusted: bool,
}

impl Schedule {
    /// `seed` is the gateway's own, so that a fleet does not check at the same time.
    pub fn new(now: Instant, period: Duration, seed: u64) -> Schedule {
        let mut random = SplitMix64::new(seed);
        let due = now + random.up_to(FIRST_WITHIN.min(period));
        Schedule {
            period,
            random,
            due,
            failures: 0,
            is_checking: false,
            hinted: None,
            is_clock_trusted: false,
        }
    }

    /// Another period, by a reload. A check that would be due later than one new period is moved to
    /// it.
    pub fn set_period(&mut self, now: Instant, period: Duration) {
        self.period = period;
        self.due = self.due.min(now + period);
    }

    /// The verdict on the clock, now.
    pub fn handle_clock(&mut self, is_trusted: bool) {
        self.is_clock_trusted = is_trusted;
    }

    /// Somebody asks for a check: begin it as soon as none runs.
    pub fn handle_request(&mut self, now: Instant) {
        self.due = self.due.min(now);
    }

    /// A hint from the broker. Its content counts for nothing.
    pub fn handle_hint(&mut self, now: Instant) -> bool {
        let earliest = self.hinted.map_or(now, |last| (last + HINT_PAUSE).max(now));
        let is_earlier = earliest < self.due;
        if is_earlier {
            self.due = earliest;
            self.hinted = Some(earliest);
        }
        is_earlier
    }

    /// A check ended: with an answer of any kind, or by a failure on the way.
    pub fn handle_end(&mut self, now: Instant, succeeded: bool) {
        self.is_checking = false;
        self.failures = if succeeded { 0 } else { self.failures.saturating_add(1) };
        let wait = match self.failures {
            0 => self.period.mul_f64(0.9) + self.random.up_to(self.period.mul_f64(0.2)),
            failures => RETRY.saturating_mul(1 << (failures - 1).min(16)).min(self.period),
        };
        self.due = now + wait;
    }

    /// Whether a check is to begin now. After `true`, [`Schedule::handle_end`] must follow.
    pub fn poll_check(&mut self, now: Instant) -> bool {
        let begins = !self.is_checking && self.is_clock_trusted && self.due <= now;
        self.is_checking |= begins;
        begins
    }

    /// When [`Schedule::poll_check`] is to be asked again; `None`: not before another call.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.is_checking && self.is_clock_trusted).then_some(self.due)
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const MINUTE: Duration = Duration::from_secs(60);

    fn schedule(now: Instant, seed: u64) -> Schedule {
        let mut schedule = Schedule::new(now, 6 * HOUR, seed);
        schedule.handle_clock(true);
        schedule
    }

    /// Runs the check that is due next and says when it began.
    fn next(schedule: &mut Schedule, succeeds: bool) -> Instant {
        let at = schedule.poll_timeout().expect("one is due");
        assert!(!schedule.poll_check(at - Duration::from_millis(1)), "too early");
        assert!(schedule.poll_check(at));
        assert!(!schedule.poll_check(at), "twice");
        schedule.handle_end(at, succeeds);
        at
    }

    #[test]
    fn checks_are_a_period_apart_with_a_tenth_of_jitter() {
        let now = Instant::now();
        let mut schedule = schedule(now, 1);
        let mut last = next(&mut schedule, true);
        assert!(last <= now + 10 * MINUTE);
        for _ in 0..100 {
            let at = next(&mut schedule, true);
            let apart = at - last;
            assert!(apart >= HOUR.mul_f64(5.4) && apart <= HOUR.mul_f64(6.6), "{apart:?}");
            last = at;
        }
    }

    #[test]
    fn a_fleet_that_starts_at_once_does_not_check_at_once() {
        let now = Instant::now();
        let mut first: Vec<Instant> = (0..1000).map(|seed| schedule(now, seed).due).collect();
        first.sort();
        let most = first
            .iter()
            .map(|from| first.iter().filter(|at| (*from..*from + MINUTE).contains(*at)).count())
            .max();
        assert!(most < Some(200), "{most:?} of 1,000 in one minute of ten");
    }

    #[test]
    fn failures_wait_longer_each_time_and_at_most_a_period() {
        let now = Instant::now();
        let mut schedule = schedule(now, 1);
        let mut last = next(&mut schedule, false);
        for minutes in [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360] {
            let at = next(&mut schedule, false);
            assert_eq!(at - last, minutes * MINUTE);
            last = at;
        }
        next(&mut schedule, true);
        assert_eq!(schedule.failures(), 0);
    }

    #[test]
    fn hints_cause_one_check_in_ten_minutes_however_many_there_are() {
        let now = Instant::now();
        let mut schedule = schedule(now, 1);
        let first = next(&mut schedule, true);
        let mut checks = 0;
        for second in 0..3600 {
            let at = first + Duration::from_secs(second);
            schedule.handle_hint(at);
            if schedule.poll_check(at) {
                checks += 1;
                schedule.handle_end(at, true);
            }
        }
        assert_eq!(checks, 6);
    }

    #[test]
    fn while_the_clock_is_not_trusted_no_check_begins_and_then_at_once() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now, HOUR, 1);
        schedule.handle_request(now);
        assert!(!schedule.poll_check(now + 48 * HOUR));
        assert_eq!(schedule.poll_timeout(), None);
        schedule.handle_clock(true);
        assert!(schedule.poll_check(now + 48 * HOUR));
    }

    #[test]
    fn a_request_during_a_check_is_kept_by_nobody_and_after_it_by_the_plan() {
        let now = Instant::now();
        let mut schedule = schedule(now, 1);
        schedule.handle_request(now);
        assert!(schedule.poll_check(now));
        schedule.handle_request(now);
        schedule.handle_end(now, true);
        assert!(!schedule.poll_check(now));
    }

    #[test]
    fn a_shorter_period_counts_at_once() {
        let now = Instant::now();
        let mut schedule = schedule(now, 1);
        let at = next(&mut schedule, true);
        schedule.set_period(at, HOUR);
        assert!(schedule.poll_timeout() <= Some(at + HOUR));
    }
}
