//! Whether a version that was just installed stays.
//!
//! It is judged from outside the daemon, by `tombolo health --wait`, which sees what an operator
//! would see. Two questions, kept apart: does the version *work* (journal open, listeners up, no
//! restarts), and does it *reach the broker*? A version that does not work is rolled back. One that
//! works and does not reach the broker may only have met an outage: it is rolled back once, and
//! only if the version before it was connected within the hour before the update; otherwise it
//! stays, and is `pending` until the broker was reached.
//!
//! A disk that is full, read-only or failing refuses the readings of every version: nothing is
//! taken back for it, where the version before would meet the same disk, and nothing is marked good
//! or confirmed that has not stored a reading since.
//!
//! | local health | broker | decision |
//! |---|---|---|
//! | good for [`STEADY`] | reached | the slot is good, and the floor rises |
//! | good for [`STEADY`] | not yet, time is left | the slot is good; wait for the broker |
//! | good | not reached in time; it was connected before; not rolled back by this yet | roll back |
//! | good | not reached in time, otherwise | pending |
//! | not good | | wait; when the time is over, roll back, and count a failure of its own |
//! | good, and the disk stores no readings | | wait; when the time is over, it stays unconfirmed |
//! | restarted [`RESTARTS_MAX`] times or more | | roll back at once, and count a failure of its own |

use std::time::{Duration, Instant};

/// For so long the daemon must be healthy before a slot is good.
pub const STEADY: Duration = Duration::from_secs(60);
/// Restarts of the unit, since somebody looks, that are a loop.
pub const RESTARTS_MAX: u32 = 5;
/// Failures of its own that deny a version.
pub const FAILURES_MAX: u32 = 2;

/// What was seen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Since the version was started first.
    pub running: Duration,
    /// How long the journal has been open and the listeners up without a break; `None`: they are
    /// not.
    pub healthy: Option<Duration>,
    /// For how long of that the disk has refused no readings; `None`: it refuses them now.
    pub storing: Option<Duration>,
    /// Restarts of the unit since somebody looks.
    pub restarts: u32,
    /// The broker accepted a connection of this version.
    pub is_connected: bool,
    /// The version before was connected within the hour before the update.
    pub was_connected: bool,
    /// This version was rolled back before because it did not reach the broker.
    pub was_rolled_back_for_broker: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Wait,
    /// The slot may boot again; go on waiting for the broker.
    MarkGood,
    /// The slot is good, and nothing older is installed any more.
    Confirm,
    /// It works and has not reached the broker: it stays, unconfirmed.
    Pending,
    /// It works, and the disk refuses readings: it stays, not marked good and unconfirmed.
    Withheld,
    /// Back to the version before.
    RollBack {
        /// Its own fault, which counts towards its denial. An outage does not.
        is_own_fault: bool,
    },
}

/// Judges. `steady`: [`STEADY`], unless asked for otherwise; `timeout` is `health-timeout`.
pub fn judge(seen: Observation, steady: Duration, timeout: Duration) -> Verdict {
    let is_over = seen.running >= timeout;
    if seen.restarts >= RESTARTS_MAX {
        return Verdict::RollBack { is_own_fault: true };
    }
    if seen.healthy.is_none_or(|healthy| healthy < steady) {
        return if is_over { Verdict::RollBack { is_own_fault: true } } else { Verdict::Wait };
    }
    if seen.storing.is_none_or(|storing| storing < steady) {
        return if is_over { Verdict::Withheld } else { Verdict::Wait };
    }
    match (seen.is_connected, is_over) {
        (true, _) => Verdict::Confirm,
        (false, false) => Verdict::MarkGood,
        (false, true) if seen.was_connected && !seen.was_rolled_back_for_broker => {
            Verdict::RollBack { is_own_fault: false }
        }
        (false, true) => Verdict::Pending,
    }
}

/// What the daemon says when it is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// How long the process runs.
    pub uptime: Duration,
    /// The journal is open, and the listeners are up.
    pub works: bool,
    /// The disk takes no readings at present, so they are refused.
    pub refuses: bool,
    /// It has a broker to reach.
    pub has_broker: bool,
    /// The broker accepted a connection that stands.
    pub is_connected: bool,
    /// Connections that the broker accepted since the process began.
    pub connections: u64,
}

/// Looks again and again, and makes an [`Observation`] of it.
#[derive(Clone, Debug)]
pub struct Onlooker {
    began: Instant,
    healthy: Option<Instant>,
    storing: Option<Instant>,
    uptime: Duration,
    /// Connections of the process that are of before somebody looked.
    before: Option<u64>,
    /// The broker accepted one since: also one that fell between two looks.
    has_reached: bool,
    /// Somebody looked already, or what was before counts for nothing.
    has_looked: bool,
    was_connected: bool,
    was_rolled_back_for_broker: bool,
}

impl Onlooker {
    /// One that begins now. The two facts are those of the record and of the history.
    pub fn new(now: Instant, was_connected: bool, was_rolled_back_for_broker: bool) -> Onlooker {
        Onlooker {
            began: now,
            healthy: None,
            storing: None,
            uptime: Duration::ZERO,
            before: None,
            has_reached: false,
            has_looked: true,
            was_connected,
            was_rolled_back_for_broker,
        }
    }

    /// One that judges no version: a gateway that works at the first look has worked for as long as
    /// it runs.
    pub fn of_a_gateway(now: Instant) -> Onlooker {
        Onlooker { has_looked: false, ..Onlooker::new(now, false, false) }
    }

    /// What is seen now. `answer`: the daemon's; `None`: it gave none. `restarts`: of the unit.
    pub fn look(&mut self, now: Instant, answer: Option<Answered>, restarts: u32) -> Observation {
        let works = answer.filter(|answer| answer.works);
        // Another process than the one seen before: its health begins anew.
        let is_new = works.is_some_and(|answer| answer.uptime < self.uptime);
        if works.is_none() || is_new {
            self.healthy = None;
        }
        if self.healthy.is_none() || works.is_some_and(|answer| answer.refuses) {
            self.storing = None;
        }
        let running = now.saturating_duration_since(self.began);
        if let Some(answer) = works {
            if self.before.is_none() || is_new {
                self.before = Some(if answer.uptime < running { 0 } else { answer.connections });
            }
            let is_new_one = self.before.is_some_and(|before| answer.connections > before);
            self.has_reached |= answer.is_connected || !answer.has_broker || is_new_one;
            self.uptime = answer.uptime;
            let before = if self.has_looked { Duration::ZERO } else { answer.uptime };
            self.healthy = self.healthy.or(Some(now.checked_sub(before).unwrap_or(now)));
            self.storing = self.storing.or(Some(now.checked_sub(before).unwrap_or(now)));
            self.storing = self.storing.filter(|_| !answer.refuses);
        }
        self.has_looked = true;
        Observation {
            running,
            healthy: self.healthy.map(|since| now.saturating_duration_since(since)),
            storing: self.storing.map(|since| now.saturating_duration_since(since)),
            restarts,
            is_connected: self.has_reached,
            was_connected: self.was_connected,
            was_rolled_back_for_broker: self.was_rolled_back_for_broker,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1800);
    const GOOD: Observation = Observation {
        running: Duration::from_secs(120),
        healthy: Some(Duration::from_secs(100)),
        storing: Some(Duration::from_secs(100)),
        restarts: 0,
        is_connected: true,
        was_connected: true,
        was_rolled_back_for_broker: false,
    };

    #[test]
    fn a_version_that_works_and_reaches_the_broker_is_confirmed() {
        assert_eq!(judge(GOOD, STEADY, TIMEOUT), Verdict::Confirm);
        assert_eq!(judge(Observation { running: 2 * TIMEOUT, ..GOOD }, STEADY, TIMEOUT), Verdict::Confirm);
    }

    #[test]
    fn a_moment_of_health_is_not_enough() {
        let brief = Observation { healthy: Some(Duration::from_secs(59)), ..GOOD };
        assert_eq!(judge(brief, STEADY, TIMEOUT), Verdict::Wait);
    }

    #[test]
    fn an_outage_never_counts_against_a_version_and_rolls_back_at_most_once() {
        let offline = Observation { is_connected: false, ..GOOD };
        assert_eq!(judge(offline, STEADY, TIMEOUT), Verdict::MarkGood);
        let late = Observation { running: TIMEOUT, ..offline };
        assert_eq!(judge(late, STEADY, TIMEOUT), Verdict::RollBack { is_own_fault: false });
        let again = Observation { was_rolled_back_for_broker: true, ..late };
        assert_eq!(judge(again, STEADY, TIMEOUT), Verdict::Pending);
        let never_was = Observation { was_connected: false, ..late };
        assert_eq!(judge(never_was, STEADY, TIMEOUT), Verdict::Pending);
    }

    #[test]
    fn a_version_that_does_not_work_is_rolled_back_by_its_own_fault() {
        let broken = Observation { healthy: None, is_connected: false, ..GOOD };
        assert_eq!(judge(broken, STEADY, TIMEOUT), Verdict::Wait);
        let late = Observation { running: TIMEOUT, ..broken };
        assert_eq!(judge(late, STEADY, TIMEOUT), Verdict::RollBack { is_own_fault: true });
        let looping = Observation { restarts: RESTARTS_MAX, ..GOOD };
        assert_eq!(judge(looping, STEADY, TIMEOUT), Verdict::RollBack { is_own_fault: true });
    }

    /// A version from its start on: what is decided first, and after how many seconds.
    fn decided(answer: impl Fn(u64) -> Option<Answered>, restarts: impl Fn(u64) -> u32) -> (u64, Verdict) {
        let begin = Instant::now();
        let mut onlooker = Onlooker::new(begin, true, false);
        for second in 0.. {
            let now = begin + Duration::from_secs(second);
            let seen = onlooker.look(now, answer(second), restarts(second));
            match judge(seen, STEADY, TIMEOUT) {
                Verdict::Wait | Verdict::MarkGood => {}
                verdict => return (second, verdict),
            }
        }
        unreachable!("it ends with the time")
    }

    fn up(second: u64, is_connected: bool) -> Option<Answered> {
        let uptime = Duration::from_secs(second);
        Some(Answered { uptime, works: true, has_broker: true, is_connected, ..Answered::default() })
    }

    #[test]
    fn a_version_that_starts_slowly_and_connects_late_is_confirmed_then() {
        let answer = |second| (second >= 30).then(|| up(second - 30, second >= 600)).flatten();
        assert_eq!(decided(answer, |_| 0), (600, Verdict::Confirm));
        assert_eq!(decided(|second| up(second, true), |_| 0), (60, Verdict::Confirm));
    }

    #[test]
    fn a_connection_between_two_looks_counts_and_one_of_before_does_not() {
        let counted = |second: u64, connections| {
            let uptime = Duration::from_secs(second);
            Some(Answered { uptime, works: true, has_broker: true, connections, ..Answered::default() })
        };
        // It came and went between the looks of 99 and 100.
        assert_eq!(decided(|second| counted(second + 500, 3 + second / 100), |_| 0), (100, Verdict::Confirm));
        let verdict = decided(|second| counted(second + 500, 3), |_| 0);
        assert_eq!(verdict, (1800, Verdict::RollBack { is_own_fault: false }));
        // Of a process that began since, the first counts; and what was reached is reached.
        let restarted = |second: u64| if second < 10 { counted(500, 3) } else { counted(second - 10, 1) };
        assert_eq!(decided(restarted, |_| 0), (70, Verdict::Confirm));
        assert_eq!(decided(|second| up(second, second == 30), |_| 0), (60, Verdict::Confirm));
    }

    #[test]
    fn a_daemon_that_is_another_each_minute_never_becomes_steady() {
        let verdict = decided(|second| up(second % 50, true), |second| (second / 500) as u32);
        assert_eq!(verdict, (1800, Verdict::RollBack { is_own_fault: true }));
        let verdict = decided(|_| None, |second| (second / 2) as u32);
        assert_eq!(verdict, (10, Verdict::RollBack { is_own_fault: true }));
    }

    #[test]
    fn a_gateway_that_has_worked_for_long_is_steady_at_the_first_look_and_one_that_began_anew_is_not() {
        let begin = Instant::now();
        let at = |second| begin + Duration::from_secs(second);
        let steady = |seen: Observation| seen.healthy.is_some_and(|healthy| healthy >= STEADY);
        let mut onlooker = Onlooker::of_a_gateway(begin);
        assert!(steady(onlooker.look(at(0), up(90, true), 0)));
        // Another process since: its health begins anew.
        assert!(!steady(onlooker.look(at(1), up(0, true), 0)));
        assert!(steady(onlooker.look(at(61), up(60, true), 0)));
        // It did not work at the first look, however long it runs.
        let mut onlooker = Onlooker::of_a_gateway(begin);
        let broken = up(90, true).map(|answer| Answered { works: false, ..answer });
        assert!(!steady(onlooker.look(at(0), broken, 0)));
        assert!(!steady(onlooker.look(at(1), up(91, true), 0)));
        // A version that is judged is watched from the first look on.
        assert!(!steady(Onlooker::new(begin, true, false).look(at(0), up(90, true), 0)));
    }

    #[test]
    fn a_disk_that_refuses_readings_takes_no_version_back_and_lets_none_be_confirmed() {
        let refused = |second, refuses| up(second, true).map(|answer| Answered { refuses, ..answer });
        assert_eq!(decided(|second| refused(second, true), |_| 0), (1800, Verdict::Withheld));
        // An outage of the broker meanwhile is none of its faults either.
        let offline = |second| refused(second, true).map(|answer| Answered { is_connected: false, ..answer });
        assert_eq!(decided(offline, |_| 0), (1800, Verdict::Withheld));
        // Room was made: it is judged from then on; too late, it is not the fault of the version.
        assert_eq!(decided(|second| refused(second, second < 600), |_| 0), (660, Verdict::Confirm));
        assert_eq!(decided(|second| refused(second, second < 1790), |_| 0), (1800, Verdict::Withheld));
        // A loop of restarts is its fault on any disk.
        let looping = decided(|second| refused(second, true), |_| RESTARTS_MAX);
        assert_eq!(looping, (0, Verdict::RollBack { is_own_fault: true }));
        // It is not marked good before it stored.
        let full = Observation { storing: None, is_connected: false, ..GOOD };
        assert_eq!(judge(full, STEADY, TIMEOUT), Verdict::Wait);
    }

    #[test]
    fn a_gateway_whose_disk_refuses_readings_is_not_steady_at_the_first_look() {
        let begin = Instant::now();
        let full = up(90, true).map(|answer| Answered { refuses: true, ..answer });
        let mut onlooker = Onlooker::of_a_gateway(begin);
        assert_eq!(judge(onlooker.look(begin, full, 0), STEADY, Duration::ZERO), Verdict::Withheld);
        // And where it has stored all the time, it is.
        let mut onlooker = Onlooker::of_a_gateway(begin);
        assert_eq!(judge(onlooker.look(begin, up(90, true), 0), STEADY, TIMEOUT), Verdict::Confirm);
    }

    #[test]
    fn a_gateway_without_a_broker_is_judged_by_its_own_health() {
        let alone = |second| up(second, false).map(|answer| Answered { has_broker: false, ..answer });
        assert_eq!(decided(alone, |_| 0), (60, Verdict::Confirm));
    }
}
