//! What holds a device back beyond its rules and its quota, and whether it heeds it: kept for each
//! device that was held back since the start, in one allocation.
//!
//! A 4.29 names with Max-Age when the device may send again. A device that keeps sending before
//! that is muted: all its readings over CoAP are refused, with a Max-Age that grows.
//!
//! | state | event | becomes |
//! |---|---|---|
//! | heeds | refused before the time it was told, [`IGNORED_MAX`] more often than forgiven | muted for [`MUTE_MIN`], or twice the last time |
//! | heeds | a reading passes | [`FORGIVEN`] of those are forgiven |
//! | muted | sends | muted from now on anew, after [`IGNORED_MAX`] more of these for twice as long |
//! | muted | is silent for that long | heeds |
//!
//! A device that keeps to its quota for as long as its last mute was, or [`CALM`] if that is more,
//! begins with [`MUTE_MIN`] again.

use std::time::{Duration, Instant};

/// So many more ignored refusals than forgiven ones mute a device: more than a burst that is under
/// way when the first is answered.
pub const IGNORED_MAX: u32 = 64;
/// Ignored refusals that one passed reading makes up for. A device is muted only if it keeps
/// sending more than about nine times as much as its quota.
pub const FORGIVEN: u64 = 8;
/// The first mute.
pub const MUTE_MIN: Duration = Duration::from_secs(10);
/// The longest one.
pub const MUTE_MAX: Duration = Duration::from_secs(15 * 60);
/// See above.
pub const CALM: Duration = Duration::from_secs(60);
/// Fewer readings that the quota refuses are not told of.
const EXCESS_LEAST: u64 = 10;
/// A tally is shown as present for so long.
pub const RECENT: Duration = Duration::from_secs(10 * 60);

/// What held a device back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limited {
    mute: Mute,
    excess: Excess,
    /// Readings that were not stored, because its records have its share of the lane.
    pub over_share: Tally,
    /// Handshakes and MQTT connects that were refused because it had too many in a minute.
    pub too_often: Tally,
}

/// What the quota refuses of a device. Both counts are halved each [`RECENT`], so that what was
/// long ago counts little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Excess {
    /// When the counts were halved last, or began.
    since: Option<Instant>,
    last: Option<Instant>,
    refused: u32,
    /// What its readings that passed are counted from.
    passed: u64,
}

/// How often something was, and when last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How often; saturates.
    pub count: u32,
    /// When last.
    pub last: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mute {
    /// Until when it was told to wait.
    told: Option<Instant>,
    /// Ignored refusals that are not forgiven.
    ignored: u32,
    /// Its readings that had passed when it was refused last.
    passed: u64,
    /// While it is muted: until when, if it is silent. Later: until when it was.
    until: Option<Instant>,
    /// The last mute.
    span: Duration,
    /// How often it was muted.
    count: u32,
}

impl Excess {
    fn count(&mut self, now: Instant, passed: u64, lately: u64) {
        let old = |at: Option<Instant>, span| at.is_none_or(|at| now.saturating_duration_since(at) >= span);
        if old(self.last, RECENT) {
            // What has used the quota up just before belongs to it.
            let passed = passed.saturating_sub(lately);
            *self = Excess { since: Some(now), passed, ..Excess::default() };
        } else if old(self.since, RECENT) {
            let own = passed.saturating_sub(self.passed);
            (self.since, self.refused, self.passed) = (Some(now), self.refused / 2, passed - own / 2);
        }
        self.refused = self.refused.saturating_add(1);
        self.last = Some(now);
    }

    /// Readings refused of late, of how many, and how long ago the last one; if most were.
    fn most(&self, now: Instant, passed: u64) -> Option<(u64, u64, Duration)> {
        let ago = now.saturating_duration_since(self.last?);
        let (refused, passed) = (u64::from(self.refused), passed.saturating_sub(self.passed));
        let is_most = refused >= EXCESS_LEAST && refused > passed && ago < RECENT;
        is_most.then_some((refused, refused + passed, ago))
    }
}

impl Tally {
    fn count(&mut self, now: Instant) {
        self.count = self.count.saturating_add(1);
        self.last = Some(now);
    }

    /// Whether it was within the last [`RECENT`].
    pub fn is_recent(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now.saturating_duration_since(last) < RECENT)
    }
}

impl Limited {
    /// How long it is muted yet; `None`: it is not.
    pub fn muted_for(&self, now: Instant) -> Option<Duration> {
        let left = self.mute.until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// How often it was muted.
    pub fn mutes(&self) -> u32 {
        self.mute.count
    }

    /// A reading or a message to local clients was over quota, whether or not its device is told,
    /// when `passed` of the device had passed, `lately` of them just before.
    pub(super) fn note_over_quota(&mut self, now: Instant, passed: u64, lately: u64) {
        self.excess.count(now, passed, lately);
    }

    /// Whether its quota refuses most of what it sends, now that `passed` readings of it have
    /// passed: how many of how many, and how long ago the last one.
    pub fn over_quota(&self, now: Instant, passed: u64) -> Option<(u64, u64, Duration)> {
        self.excess.most(now, passed)
    }

    /// A reading comes. If the device is muted, it is refused for the seconds returned, and the
    /// silence begins anew.
    pub(super) fn handle_reading(&mut self, now: Instant) -> Option<u32> {
        self.muted_for(now)?;
        let mute = &mut self.mute;
        mute.ignored += 1;
        if mute.ignored >= IGNORED_MAX {
            mute.ignored = 0;
            mute.span = (mute.span * 2).min(MUTE_MAX);
        }
        mute.until = Some(now + mute.span);
        Some(seconds(mute.span))
    }

    /// A reading was over quota and is answered with this time in seconds, when `passed` readings
    /// of the device had passed. If that mutes it, it is refused for the seconds returned.
    pub(super) fn handle_over_quota(&mut self, now: Instant, retry_after_s: u32, passed: u64) -> Option<u32> {
        let mute = &mut self.mute;
        let forgiven = passed.saturating_sub(mute.passed).saturating_mul(FORGIVEN);
        mute.ignored = mute.ignored.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        mute.passed = passed;
        if mute.told.is_some_and(|told| now < told) {
            mute.ignored += 1;
        }
        // A time that is too far for the clock is none that it could ignore.
        mute.told = now.checked_add(Duration::from_secs(retry_after_s.into()));
        if mute.ignored < IGNORED_MAX {
            return None;
        }
        let is_calm =
            mute.until.is_none_or(|until| now.saturating_duration_since(until) >= mute.span.max(CALM));
        mute.span = if is_calm { MUTE_MIN } else { (mute.span * 2).min(MUTE_MAX) };
        (mute.ignored, mute.until) = (0, Some(now + mute.span));
        mute.count = mute.count.saturating_add(1);
        Some(seconds(mute.span))
    }

    /// Its quota changed: what it ignored was another one.
    pub(super) fn pardon(&mut self) {
        self.mute = Mute { count: self.mute.count, ..Mute::default() };
        self.excess = Excess::default();
    }

    pub(super) fn note_over_share(&mut self, now: Instant) {
        self.over_share.count(now);
    }

    pub(super) fn note_too_often(&mut self, now: Instant) {
        self.too_often.count(now);
    }
}

/// At most [`MUTE_MAX`].
fn seconds(span: Duration) -> u32 {
    span.as_secs() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// Refused over and over at one moment until it is muted; how often.
    fn flood(limited: &mut Limited, now: Instant, passed: u64) -> (u32, u32) {
        (1..)
            .find_map(|count| Some((count, limited.handle_over_quota(now, 1, passed)?)))
            .expect("it is muted")
    }

    #[test]
    fn a_device_that_waits_as_it_is_told_is_never_muted() {
        let mut limited = Limited::default();
        let mut now = Instant::now();
        for _ in 0..1_000 {
            assert_eq!(limited.handle_over_quota(now, 2, 0), None);
            now += 2 * S;
        }
        assert_eq!((limited.muted_for(now), limited.mutes()), (None, 0));
    }

    #[test]
    fn a_device_at_a_few_times_its_quota_that_hears_no_answer_is_not_muted() {
        let mut limited = Limited::default();
        let mut now = Instant::now();
        // One passes a second, and seven more are refused.
        for passed in 1..1_000 {
            for _ in 0..7 {
                assert_eq!(limited.handle_over_quota(now, 1, passed), None);
            }
            now += S;
        }
    }

    #[test]
    fn a_device_that_ignores_it_is_muted_and_heard_again_after_that_much_silence() {
        let mut limited = Limited::default();
        let now = Instant::now();
        // The first one told it.
        assert_eq!(flood(&mut limited, now, 20), (IGNORED_MAX + 1, 10));
        assert_eq!(limited.muted_for(now), Some(MUTE_MIN));
        // It sends again after 9 s, and the silence begins anew.
        assert_eq!(limited.handle_reading(now + 9 * S), Some(10));
        assert_eq!(limited.handle_reading(now + 18 * S), Some(10));
        assert_eq!(limited.muted_for(now + 27 * S), Some(S));
        assert_eq!(limited.handle_reading(now + 28 * S), None);
        assert_eq!((limited.muted_for(now + 28 * S), limited.mutes()), (None, 1));
    }

    #[test]
    fn a_mute_that_is_ignored_grows_up_to_the_longest_and_starts_again_with_the_first() {
        let mut limited = Limited::default();
        let mut now = Instant::now();
        flood(&mut limited, now, 20);
        let mut spans = Vec::new();
        for _ in 0..10 {
            for _ in 0..IGNORED_MAX {
                assert!(limited.handle_reading(now).is_some());
            }
            spans.extend(limited.muted_for(now).map(|left| left.as_secs()));
        }
        assert_eq!(spans, [20, 40, 80, 160, 320, 640, 900, 900, 900, 900]);
        // It is silent, and then the same again.
        now += MUTE_MAX;
        assert_eq!(limited.handle_reading(now), None);
        assert_eq!(flood(&mut limited, now, 21).1, 900, "not calm for long enough");
        now += MUTE_MAX + MUTE_MAX;
        assert_eq!((flood(&mut limited, now, 22).1, limited.mutes()), (10, 3));
    }

    #[test]
    fn a_changed_quota_ends_a_mute() {
        let mut limited = Limited::default();
        let now = Instant::now();
        flood(&mut limited, now, 20);
        limited.pardon();
        assert_eq!((limited.handle_reading(now), limited.mutes()), (None, 1));
        assert_eq!(flood(&mut limited, now, 20).1, 10);
    }

    #[test]
    fn a_quota_that_refuses_most_is_told_while_it_does_and_old_trouble_goes_away() {
        let mut limited = Limited::default();
        let mut now = Instant::now();
        let (mut passed, begun) = (500, now);
        // Each second one passes and four are refused.
        for second in 0..2_000 {
            passed += 1;
            (0..4).for_each(|_| limited.note_over_quota(now, passed, 0));
            assert_eq!(limited.over_quota(now, passed).is_some(), second >= 2, "{second}");
            now += S;
        }
        let (refused, all, ago) = limited.over_quota(now, passed).unwrap();
        assert_eq!((refused * 100 / all, ago), (80, S));
        assert!(all < 2 * 5 * RECENT.as_secs(), "what is long ago counts half: {all}");
        // It sends as it may from now on.
        assert!(limited.over_quota(now + RECENT - 2 * S, passed).is_some());
        assert_eq!(limited.over_quota(now + RECENT, passed), None);
        assert_eq!(limited.over_quota(now, passed + 10_000), None, "most pass");
        // Later only a few are refused.
        for _ in 0..50 {
            now += RECENT;
            limited.note_over_quota(now, passed, 0);
            assert_eq!(limited.over_quota(now, passed), None);
        }
        // Another quota, another count.
        (0..20).for_each(|_| limited.note_over_quota(now, passed, 0));
        assert!(limited.over_quota(now, passed).is_some() && now > begun);
        limited.pardon();
        assert_eq!(limited.over_quota(now, passed), None);
        // A burst passed, and some more came than the quota has.
        (0..20).for_each(|_| limited.note_over_quota(now, passed, 20));
        assert_eq!(limited.over_quota(now, passed), None);
        limited.note_over_quota(now, passed, 20);
        assert_eq!(limited.over_quota(now, passed), Some((21, 41, Duration::ZERO)));
    }

    #[test]
    fn it_takes_no_more_memory_than_is_written_in_the_documentation() {
        assert!(size_of::<Limited>() <= 160);
    }
}
