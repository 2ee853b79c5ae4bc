//! How late the answers of a device come, and how long they are waited for because of it.
//!
//! ```text
//!  as configured ──two late in a row, within the longest wait──> half as long again as the last
//!        ^                                                                   │
//!        └──three failures in a row without any frame: until one comes───────┘
//! ```
//!
//! A row of late answers ends with one that is surely in time. What was learned stays until it is
//! forgotten: one in time may have been in time because of it. Which answer is a late one, and to
//! which question, is decided by those who ask: a Modbus unit ([`modbus`](super::modbus)) and a
//! device that is sent a question ([`poll`](super::poll)).

use std::time::Duration;

use super::wait_max;

/// Late answers in a row, without one in time, after which an answer is waited for longer.
const LATES: u32 = 2;
/// Failures in a row without any frame after which the configured time-out holds.
const MUTE: u32 = 3;

/// The lateness of one device. The configured time-out is an argument, as it may be another one
/// after a reload.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lateness {
    /// How long an answer is waited for, as was learned; zero: as configured.
    wait: Duration,
    /// Late answers in a row without one in time, since the wait was lengthened last.
    row: u32,
    /// The age of the last late answer, at least.
    last: Duration,
    /// Failures in a row without any frame from the device.
    mute: u32,
}

impl Lateness {
    /// With a wait that was learned before; one of zero is none.
    pub(super) fn with_wait(wait: Duration) -> Lateness {
        Lateness { wait, ..Lateness::default() }
    }

    /// The wait that was learned; zero: none.
    pub(super) fn wait(&self) -> Duration {
        self.wait
    }

    /// How long an answer is waited for now: as configured, or as was learned while something comes
    /// from the device.
    pub(super) fn timeout(&self, configured: Duration) -> Duration {
        let learned = if self.mute < MUTE { self.wait } else { Duration::ZERO };
        learned.max(configured)
    }

    /// Nothing came, or nothing good.
    pub(super) fn failed(&mut self) {
        self.mute = self.mute.saturating_add(1);
    }

    /// A frame came from the device.
    pub(super) fn heard(&mut self) {
        self.mute = 0;
    }

    /// An answer came that can only be to the last question, and in time.
    pub(super) fn in_time(&mut self) {
        self.row = 0;
    }

    /// An answer came so long after its question. Whether answers are waited for longer from now
    /// on.
    pub(super) fn late(&mut self, after: Duration, configured: Duration) -> bool {
        self.heard();
        self.last = after;
        self.row = self.row.saturating_add(1);
        self.row >= LATES && self.lengthen(configured)
    }

    /// The wait becomes half as long again as the last late answer took; whether it does. One that
    /// was later than the longest wait changes nothing.
    pub(super) fn lengthen(&mut self, configured: Duration) -> bool {
        let most = wait_max(configured);
        let wait = self.last.max(self.timeout(configured)).mul_f64(1.5).min(most);
        if self.last > most || wait <= self.wait {
            return false;
        }
        (self.wait, self.row) = (wait, 0);
        true
    }

    /// Forgets the wait that was learned.
    pub(super) fn forget_wait(&mut self) {
        (self.wait, self.row) = (Duration::ZERO, 0);
    }

    /// How late the last answer was, if none was in time since and the wait was not lengthened for
    /// it.
    pub(super) fn row_at(&self) -> Option<Duration> {
        (self.row > 0).then_some(self.last)
    }

    /// How late the last late answer was, and the longest wait, if that is beyond it.
    pub(super) fn beyond(&self, configured: Duration) -> Option<(Duration, Duration)> {
        let most = wait_max(configured);
        (self.last > most).then_some((self.last, most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn two_late_answers_in_a_row_make_the_wait_half_as_long_again() {
        let mut lateness = Lateness::default();
        assert_eq!(lateness.timeout(SECOND), SECOND);
        assert!(!lateness.late(ms(1_200), SECOND));
        assert_eq!(lateness.row_at(), Some(ms(1_200)));
        lateness.in_time();
        assert_eq!(lateness.row_at(), None);
        assert!(!lateness.late(ms(1_200), SECOND), "one in time was between");
        assert!(lateness.late(ms(1_400), SECOND));
        assert_eq!((lateness.wait(), lateness.timeout(SECOND)), (ms(2_100), ms(2_100)));
        assert_eq!(lateness.row_at(), None);
        // Once more, and never beyond four time-outs.
        assert!(!lateness.late(ms(2_300), SECOND));
        assert!(lateness.late(ms(3_900), SECOND));
        assert_eq!(lateness.wait(), 4 * SECOND);
        assert!(!lateness.late(ms(4_000), SECOND) && !lateness.late(ms(4_000), SECOND));
    }

    #[test]
    fn answers_later_than_the_longest_wait_teach_nothing_and_are_told_with_it() {
        let mut lateness = Lateness::default();
        assert_eq!(lateness.beyond(SECOND), None);
        for _ in 0..5 {
            assert!(!lateness.late(ms(4_500), SECOND));
        }
        assert_eq!(
            (lateness.wait(), lateness.beyond(SECOND)),
            (Duration::ZERO, Some((ms(4_500), 4 * SECOND)))
        );
        assert_eq!(lateness.row_at(), Some(ms(4_500)));
        lateness.forget_wait();
        assert_eq!(lateness.row_at(), None);
        // With another time-out it is within.
        assert_eq!(lateness.beyond(2 * SECOND), None);
        assert!(!lateness.late(ms(4_500), 2 * SECOND) && lateness.late(ms(4_500), 2 * SECOND));
        assert_eq!(lateness.wait(), ms(6_750));
        lateness.forget_wait();
        assert_eq!(lateness.timeout(2 * SECOND), 2 * SECOND);
    }

    #[test]
    fn without_any_frame_the_configured_time_out_holds_and_with_one_the_learned() {
        let mut lateness = Lateness::with_wait(3 * SECOND);
        for expected in [3, 3, 1, 1] {
            lateness.failed();
            assert_eq!(lateness.timeout(SECOND), expected * SECOND);
        }
        lateness.heard();
        assert_eq!(lateness.timeout(SECOND), 3 * SECOND);
        (0..3).for_each(|_| lateness.failed());
        assert!(!lateness.late(2 * SECOND, SECOND));
        assert_eq!(lateness.timeout(SECOND), 3 * SECOND, "a late one is a frame, too");
        // A longer time-out that is configured since holds.
        assert_eq!(lateness.timeout(5 * SECOND), 5 * SECOND);
    }

    #[test]
    fn one_read_that_is_late_each_time_lengthens_the_wait_although_others_are_in_time() {
        let mut lateness = Lateness::default();
        assert!(!lateness.late(ms(1_200), SECOND));
        lateness.in_time();
        assert!(lateness.lengthen(SECOND));
        assert_eq!(lateness.wait(), ms(1_800));
        assert!(!Lateness::with_wait(4 * SECOND).lengthen(SECOND), "it is the longest");
    }
}
