//! The warnings before a certificate expires: at 30, 14, 7 and 1 days.
//!
//! A certificate that lives for a week would always be below 30 days; so a warning also needs that
//! less than [`REST`] of its life is left, which is after the latest due time
//! ([`decision`](super::decision)): a renewal that works warns of nothing.

use super::decision::{NEVER, Validity};
use crate::clock::UnixTime;

/// Of the life, in percent, from when on the end is near.
const REST: u64 = 20;
const DAY_MS: u64 = 86_400_000;

/// How near the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// 30 days or fewer.
    Days30,
    /// 14 days or fewer.
    Days14,
    /// 7 days or fewer.
    Days7,
    /// A day or less.
    Day1,
    /// It has expired.
    Expired,
}

/// Whole days until it expires, rounded down; negative once it has. `None`: it has no end.
pub fn days_left(validity: Validity, now: UnixTime) -> Option<i64> {
    if validity.not_after >= NEVER {
        return None;
    }
    let ms = i128::from(validity.not_after.0) - i128::from(now.0);
    i64::try_from(ms.div_euclid(i128::from(DAY_MS))).ok()
}

/// The warning that is due at `now`, a time that is trusted.
pub fn step(validity: Validity, now: UnixTime) -> Option<Step> {
    if validity.has_expired(now) {
        return Some(Step::Expired);
    }
    let left = validity.not_after.0.saturating_sub(now.0);
    let life = validity.not_after.0.saturating_sub(validity.not_before.0);
    if u128::from(left) * 100 > u128::from(life) * u128::from(REST) {
        return None;
    }
    let steps = [(1, Step::Day1), (7, Step::Days7), (14, Step::Days14), (30, Step::Days30)];
    steps.into_iter().find(|(days, _)| left <= days * DAY_MS).map(|(_, step)| step)
}

/// What of the warnings was said already: each step once a certificate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    of: Option<Validity>,
    step: Option<Step>,
}

impl Said {
    /// The step to be said now, if it is a new one.
    pub fn poll(&mut self, validity: Option<Validity>, now: Option<UnixTime>) -> Option<Step> {
        if self.of != validity {
            *self = Said { of: validity, step: None };
        }
        let step = step(validity?, now?)?;
        let is_new = self.step.is_none_or(|said| step > said);
        is_new.then(|| {
            self.step = Some(step);
            step
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;
    const NOW: u64 = 1_782_864_000;

    fn valid(days: u64) -> Validity {
        Validity { not_before: UnixTime::from_secs(NOW), not_after: UnixTime::from_secs(NOW + days * DAY) }
    }

    fn at(days: f64) -> UnixTime {
        UnixTime(NOW * 1000 + (days * 86_400_000.0) as u64)
    }

    #[test]
    fn each_step_is_said_once_and_all_again_of_the_next_certificate() {
        let mut said = Said::default();
        let mut steps = Vec::new();
        for hour in 0..=366 * 24 {
            let now = at(f64::from(hour) / 24.0);
            steps.extend(said.poll(Some(valid(365)), Some(now)).map(|step| (hour / 24, step)));
        }
        let days = [(335, Step::Days30), (351, Step::Days14), (358, Step::Days7), (364, Step::Day1)];
        assert_eq!(steps[..4], days);
        assert_eq!(steps[4..], [(365, Step::Expired)]);
        assert_eq!(said.poll(Some(valid(370)), Some(at(366.0))), Some(Step::Days7));
        assert_eq!(said.poll(Some(valid(370)), Some(at(366.0))), None);
        assert_eq!(said.poll(Some(valid(3)), None), None, "not by a clock that is not trusted");
    }

    #[test]
    fn a_short_certificate_warns_only_when_its_renewal_is_overdue() {
        for (days, until) in [(7.0, 5.6), (1.0, 0.8), (1.0 / 288.0, 0.8 / 288.0)] {
            let end = (days * 86_400.0) as u64;
            let of =
                Validity { not_before: UnixTime::from_secs(NOW), not_after: UnixTime::from_secs(NOW + end) };
            assert_eq!(step(of, at(until * 0.99)), None, "{days}");
            assert!(step(of, at(until * 1.01)).is_some(), "{days}");
        }
    }

    #[test]
    fn days_left_are_whole_and_negative_afterwards() {
        assert_eq!(days_left(valid(30), at(0.5)), Some(29));
        assert_eq!(days_left(valid(30), at(30.5)), Some(-1));
        let never = Validity { not_before: UnixTime::from_secs(NOW), not_after: NEVER };
        assert_eq!((days_left(never, at(0.0)), step(never, at(0.0))), (None, None));
    }
}
