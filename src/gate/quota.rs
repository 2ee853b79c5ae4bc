//! The quota of a device: two token buckets, for messages and for payload bytes, in exact integer
//! arithmetic.
//!
//! A token is divided into shares: one message costs `per` (in nanoseconds) shares, and each
//! nanosecond adds `messages` shares. Nothing is rounded, so in any span `t` at most
//! `burst + messages · t / per` messages pass. A bucket takes 48 bytes.
//!
//! [`Bucket::check`] takes no tokens. [`Bucket::take`] takes them when all other checks of the
//! reading have passed, and [`Bucket::give_back`] returns them if the journal cannot store it.

use std::fmt;
use std::time::{Duration, Instant};

use super::settings::Quota;

/// Shortest period of a quota.
pub const PER_MIN: Duration = Duration::from_millis(1);
/// Longest period of a quota.
pub const PER_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// A [`Quota`] prepared for arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// Shares added per nanosecond to the message bucket; `bytes` likewise for the byte bucket.
    messages: u64,
    bytes: u64,
    /// Shares of one token.
    token: u64,
    /// Capacity of the message bucket in shares. Below 2^119: `bytes` has 64 bits, `PER_MAX` 55.
    messages_full: u128,
    bytes_full: u128,
}

impl Quota {
    /// # Errors
    /// [`QuotaError`]: it would never let a message pass, or its period is out of range.
    pub fn check(&self) -> Result<(), QuotaError> {
        if self.messages == 0 || self.burst == 0 {
            return Err(QuotaError::NoMessages);
        }
        if self.bytes == 0 {
            return Err(QuotaError::NoBytes);
        }
        if !(PER_MIN..=PER_MAX).contains(&self.per) {
            return Err(QuotaError::Period);
        }
        Ok(())
    }
}

impl Rate {
    /// A quota that fails [`Quota::check`] is clamped; its role is closed anyway.
    pub(super) fn new(quota: &Quota) -> Rate {
        // 366 days are below 2^55 ns.
        let token = quota.per.clamp(PER_MIN, PER_MAX).as_nanos() as u64;
        let (burst, bytes) = (quota.burst.max(1), quota.bytes.max(1));
        Rate {
            messages: u64::from(quota.messages.max(1)),
            bytes,
            token,
            messages_full: u128::from(burst) * u128::from(token),
            bytes_full: u128::from(bytes) * u128::from(token),
        }
    }

    fn cost(&self, bytes: usize) -> u128 {
        bytes as u128 * u128::from(self.token)
    }
}

/// The tokens of one device. Full at start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    at: Instant,
    messages: u128,
    bytes: u128,
}

impl Bucket {
    pub(super) fn full(rate: &Rate, now: Instant) -> Bucket {
        Bucket { at: now, messages: rate.messages_full, bytes: rate.bytes_full }
    }

    /// Adds the shares since the last call; a `now` before the last one counts as the last one.
    fn refill(&mut self, rate: &Rate, now: Instant) {
        let Some(elapsed) = now.checked_duration_since(self.at) else { return };
        // An overflow, after 584 years, fills every bucket anyway.
        let elapsed = u128::from(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
        self.at = now;
        let messages = self.messages.saturating_add(elapsed * u128::from(rate.messages));
        let bytes = self.bytes.saturating_add(elapsed * u128::from(rate.bytes));
        self.messages = messages.min(rate.messages_full);
        self.bytes = bytes.min(rate.bytes_full);
    }

    /// Whether one message of `bytes` may pass at `now`. Takes nothing.
    ///
    /// # Errors
    /// Seconds, rounded up and at least 1, after which it may pass if nothing else passes until
    /// then. `u32::MAX` if `bytes` exceeds the bucket; the gate refuses such a message as too large
    /// before.
    pub(super) fn check(&mut self, rate: &Rate, now: Instant, bytes: usize) -> Result<(), u32> {
        self.refill(rate, now);
        let cost = rate.cost(bytes);
        if self.messages >= u128::from(rate.token) && self.bytes >= cost {
            return Ok(());
        }
        Err(self.wait(rate, cost))
    }

    #[cold]
    fn wait(&self, rate: &Rate, cost: u128) -> u32 {
        if cost > rate.bytes_full {
            return u32::MAX;
        }
        let messages =
            u128::from(rate.token).saturating_sub(self.messages).div_ceil(u128::from(rate.messages));
        let bytes = cost.saturating_sub(self.bytes).div_ceil(u128::from(rate.bytes));
        let seconds = messages.max(bytes).div_ceil(1_000_000_000);
        u32::try_from(seconds).unwrap_or(u32::MAX).max(1)
    }

    /// Takes the tokens of a message of `bytes` that passed [`Bucket::check`].
    pub(super) fn take(&mut self, rate: &Rate, bytes: usize) {
        self.messages = self.messages.saturating_sub(u128::from(rate.token));
        self.bytes = self.bytes.saturating_sub(rate.cost(bytes));
    }

    /// Returns the tokens of a message of `bytes` that passed the gate but could not be stored.
    pub(super) fn give_back(&mut self, rate: &Rate, bytes: usize) {
        self.messages = (self.messages + u128::from(rate.token)).min(rate.messages_full);
        self.bytes = self.bytes.saturating_add(rate.cost(bytes)).min(rate.bytes_full);
    }

    /// Messages that have passed so lately that their tokens are not there again, as of the last
    /// check.
    pub(super) fn taken(&self, rate: &Rate) -> u64 {
        let taken = rate.messages_full.saturating_sub(self.messages) / u128::from(rate.token);
        u64::try_from(taken).unwrap_or(u64::MAX)
    }

    /// The whole messages and bytes that could pass at `now`.
    pub(super) fn left(mut self, rate: &Rate, now: Instant) -> (u32, u64) {
        self.refill(rate, now);
        let token = u128::from(rate.token);
        let (messages, bytes) = (self.messages / token, self.bytes / token);
        (u32::try_from(messages).unwrap_or(u32::MAX), u64::try_from(bytes).unwrap_or(u64::MAX))
    }
}

/// Why a quota is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaError {
    /// `messages` or `burst` is 0.
    NoMessages,
    /// `bytes` is 0.
    NoBytes,
    /// `per` is not within 1 ms and 366 days.
    Period,
}

impl fmt::Display for QuotaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            QuotaError::NoMessages => "messages and burst must be at least 1: with 0 no message could pass",
            QuotaError::NoBytes => "bytes must be at least 1: with 0 no payload could pass",
            QuotaError::Period => "per must be from 1 ms to 366 days",
        })
    }
}

impl std::error::Error for QuotaError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEFAULT: Quota = Quota { messages: 60, bytes: 64 * 1024, per: Duration::from_secs(60), burst: 20 };

    fn pass(bucket: &mut Bucket, rate: &Rate, now: Instant, bytes: usize) -> Result<(), u32> {
        bucket.check(rate, now, bytes)?;
        bucket.take(rate, bytes);
        Ok(())
    }

    #[test]
    fn a_bucket_starts_full_and_refills_at_its_rate() {
        let (rate, start) = (Rate::new(&DEFAULT), Instant::now());
        let mut bucket = Bucket::full(&rate, start);
        for _ in 0..20 {
            assert_eq!(pass(&mut bucket, &rate, start, 10), Ok(()));
        }
        assert_eq!(pass(&mut bucket, &rate, start, 10), Err(1));
        let almost = start + Duration::from_secs(1) - Duration::from_nanos(1);
        assert_eq!(pass(&mut bucket, &rate, almost, 10), Err(1));
        assert_eq!(pass(&mut bucket, &rate, start + Duration::from_secs(1), 10), Ok(()));
        assert_eq!(pass(&mut bucket, &rate, start + Duration::from_secs(1), 10), Err(1));
        // A day of silence fills the bucket to the burst, not to a day of messages.
        assert_eq!(bucket.left(&rate, start + Duration::from_secs(86_400)), (20, 65_536));
    }

    #[test]
    fn the_wait_is_rounded_up_to_whole_seconds() {
        let quota = Quota { messages: 1, per: Duration::from_millis(2_500), burst: 1, ..DEFAULT };
        let (rate, start) = (Rate::new(&quota), Instant::now());
        let mut bucket = Bucket::full(&rate, start);
        assert_eq!(pass(&mut bucket, &rate, start, 0), Ok(()));
        assert_eq!(bucket.check(&rate, start, 0), Err(3));
        assert_eq!(bucket.check(&rate, start + Duration::from_millis(500), 0), Err(2));
        assert_eq!(bucket.check(&rate, start + Duration::from_millis(501), 0), Err(2));
        assert_eq!(bucket.check(&rate, start + Duration::from_millis(2_500), 0), Ok(()));
    }

    #[test]
    fn bytes_are_a_bucket_of_their_own() {
        let quota = Quota { messages: 1_000, bytes: 100, per: Duration::from_secs(10), burst: 1_000 };
        let (rate, start) = (Rate::new(&quota), Instant::now());
        let mut bucket = Bucket::full(&rate, start);
        assert_eq!(pass(&mut bucket, &rate, start, 100), Ok(()));
        assert_eq!(pass(&mut bucket, &rate, start, 0), Ok(()));
        assert_eq!(pass(&mut bucket, &rate, start, 95), Err(10));
        assert_eq!(pass(&mut bucket, &rate, start, 101), Err(u32::MAX));
        bucket.give_back(&rate, 100);
        assert_eq!(pass(&mut bucket, &rate, start, 100), Ok(()));
    }

    #[test]
    fn a_refusal_and_a_clock_that_steps_back_cost_nothing() {
        let (rate, start) = (Rate::new(&DEFAULT), Instant::now());
        let later = start + Duration::from_secs(5);
        let mut bucket = Bucket::full(&rate, later);
        for _ in 0..20 {
            pass(&mut bucket, &rate, later, 0).unwrap();
        }
        for _ in 0..100 {
            assert_eq!(bucket.check(&rate, start, 0), Err(1));
        }
        assert_eq!(bucket.check(&rate, later + Duration::from_secs(1), 0), Ok(()));
    }

    #[test]
    fn quotas_that_let_nothing_pass_are_refused() {
        let refused = |quota: Quota| quota.check().unwrap_err();
        assert_eq!(refused(Quota { messages: 0, ..DEFAULT }), QuotaError::NoMessages);
        assert_eq!(refused(Quota { burst: 0, ..DEFAULT }), QuotaError::NoMessages);
        assert_eq!(refused(Quota { bytes: 0, ..DEFAULT }), QuotaError::NoBytes);
        assert_eq!(refused(Quota { per: Duration::ZERO, ..DEFAULT }), QuotaError::Period);
        assert_eq!(refused(Quota { per: Duration::MAX, ..DEFAULT }), QuotaError::Period);
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let quota = Quota { messages: u32::MAX, bytes: u64::MAX, per: PER_MAX, burst: u32::MAX };
        let (rate, start) = (Rate::new(&quota), Instant::now());
        let mut bucket = Bucket::full(&rate, start);
        assert_eq!(pass(&mut bucket, &rate, start, usize::MAX), Ok(()));
        bucket.give_back(&rate, usize::MAX);
        if let Some(later) = start.checked_add(Duration::from_secs(u64::from(u32::MAX) * 1_000)) {
            assert_eq!(bucket.left(&rate, later), (u32::MAX, u64::MAX));
        }
    }

    fn quota() -> impl Strategy<Value = Quota> {
        (1..200_u32, 1..5_000_u64, 1_000_000..20_000_000_000_u64, 1..50_u32).prop_map(
            |(messages, bytes, per, burst)| Quota { messages, bytes, per: Duration::from_nanos(per), burst },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn no_span_of_time_admits_more_than_burst_and_rate(
            quota in quota(),
            steps in prop::collection::vec((0..3_000_000_000_u64, 0..2_000_usize), 1..120),
        ) {
            let (rate, start) = (Rate::new(&quota), Instant::now());
            let mut bucket = Bucket::full(&rate, start);
            let mut at = 0_u64;
            let mut passed: Vec<(u64, u128)> = Vec::new();
            for (wait, bytes) in steps {
                // Half of the steps come at the same moment as the one before.
                at += if wait % 2 == 0 { 0 } else { wait };
                let now = start + Duration::from_nanos(at);
                match pass(&mut bucket, &rate, now, bytes) {
                    Ok(()) => passed.push((at, bytes as u128)),
                    Err(u32::MAX) => prop_assert!(bytes as u64 > quota.bytes),
                    Err(seconds) => {
                        // The returned wait is sufficient; one second less is not.
                        let mut copy = bucket;
                        let wait = Duration::from_secs(u64::from(seconds));
                        prop_assert_eq!(copy.check(&rate, now + wait, bytes), Ok(()));
                        let mut copy = bucket;
                        prop_assert!(copy.check(&rate, now + wait - Duration::from_secs(1), bytes).is_err());
                    }
                }
            }
            let per = quota.per.as_nanos();
            for first in 0..passed.len() {
                let (mut messages, mut bytes) = (0_u128, 0_u128);
                for (end, size) in &passed[first..] {
                    messages += 1;
                    bytes += size;
                    let span = u128::from(end - passed[first].0);
                    prop_assert!(messages * per <= u128::from(quota.burst) * per + u128::from(quota.messages) * span);
                    prop_assert!(bytes * per <= u128::from(quota.bytes) * per + u128::from(quota.bytes) * span);
                }
            }
        }
    }
}
