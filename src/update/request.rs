//! When the daemon asks the root program to install, or to conclude a judgement.
//!
//! It asks by writing a file; the file's content counts for nothing, because what reads it trusts
//! nobody but root. It decides by itself what is to be installed, and whether now.
//!
//! | there is | the daemon asks |
//! |---|---|
//! | a version that is ready, the window is open, nothing is installed or judged | at once, then every 10 min |
//! | a version that failed here *n* times | 1 h, 2 h, 4 h … 1 day after the last failure |
//! | a version that is judged or pending, and the broker is reached | at once, then every minute |
//! | what root refused, and a check accepts; also outside of the window | at once, then every hour |

use std::time::{Duration, Instant};

/// The request's file in the update folder.
pub const REQUEST: &str = "request";

/// Between two requests to install.
const AGAIN: Duration = Duration::from_secs(600);
/// Between two requests to conclude.
const CONCLUDE_AGAIN: Duration = Duration::from_secs(60);
/// Between two requests to look again.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);
/// After the first failure of a version; twice as long after each further one.
const RETRY: Duration = Duration::from_secs(3600);
const RETRY_MAX: Duration = Duration::from_secs(86_400);
/// A connection that stands for so long reached the broker.
pub const STANDS: Duration = Duration::from_secs(5);

/// What there is to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing.
    Nothing,
    /// Install this version.
    Install {
        /// Which.
        version: String,
        /// How often it failed here.
        failures: u32,
        /// The maintenance window is open.
        is_open: bool,
    },
    /// A version that runs has reached the broker.
    Conclude,
    /// What was refused, for this reason, is in order.
    LookAgain(String),
}

/// What was asked.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    asked: Option<(Instant, Asked)>,
    /// The version that failed, how often, and when that was seen.
    failed: Option<(String, u32, Instant)>,
}

/// For what.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    Install(String),
    Conclude,
    LookAgain(String),
}

impl Requests {
    /// Whether the file is to be written now.
    pub fn poll(&mut self, now: Instant, wish: &Wish) -> bool {
        let since = |at: Instant| now.saturating_duration_since(at);
        let (what, pause) = match wish {
            Wish::Nothing => return false,
            Wish::Conclude => (Asked::Conclude, CONCLUDE_AGAIN),
            Wish::LookAgain(refused) => (Asked::LookAgain(refused.clone()), LOOK_AGAIN),
            Wish::Install { version, failures, is_open } => {
                if *failures > 0 {
                    let is_known = self
                        .failed
                        .as_ref()
                        .is_some_and(|(failed, count, _)| failed == version && count == failures);
                    if !is_known {
                        self.failed = Some((version.clone(), *failures, now));
                    }
                }
                if !is_open || self.retry_in(now, version).is_some() {
                    return false;
                }
                (Asked::Install(version.clone()), AGAIN)
            }
        };
        let is_asked = self.asked.as_ref().is_some_and(|(at, asked)| *asked == what && since(*at) < pause);
        if !is_asked {
            self.asked = Some((now, what));
        }
        !is_asked
    }

    /// How long until a version that failed is asked for again; `None`: not for that reason.
    pub fn retry_in(&self, now: Instant, version: &str) -> Option<Duration> {
        let (_, failures, at) = self.failed.as_ref().filter(|(failed, ..)| failed == version)?;
        let wait = RETRY.saturating_mul(1 << (failures.saturating_sub(1)).min(5)).min(RETRY_MAX);
        Some((*at + wait).saturating_duration_since(now)).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn install(failures: u32, is_open: bool) -> Wish {
        Wish::Install { version: "2".to_owned(), failures, is_open }
    }

    /// The minutes of two days at which it asks.
    fn asked(wish: &Wish) -> Vec<u32> {
        let (begin, mut requests) = (Instant::now(), Requests::default());
        (0..2 * 1440).filter(|minute| requests.poll(begin + *minute * MINUTE, wish)).collect()
    }

    #[test]
    fn a_ready_version_is_asked_for_in_the_window_alone_and_not_all_the_time() {
        assert_eq!(asked(&install(0, true))[..3], [0, 10, 20]);
        assert!(asked(&install(0, false)).is_empty());
        assert!(asked(&Wish::Nothing).is_empty());
        assert_eq!(asked(&Wish::Conclude)[..3], [0, 1, 2]);
        assert_eq!(asked(&Wish::LookAgain("a fork".to_owned()))[..3], [0, 60, 120]);
    }

    #[test]
    fn a_version_that_failed_waits_longer_each_time_and_at_most_a_day() {
        for (failures, minutes) in [(1, 60), (2, 120), (3, 240), (6, 1440), (40, 1440)] {
            assert_eq!(asked(&install(failures, true))[0], minutes, "{failures}");
        }
    }

    #[test]
    fn another_version_does_not_wait_for_the_one_that_failed() {
        let (now, mut requests) = (Instant::now(), Requests::default());
        assert!(!requests.poll(now, &install(1, true)));
        let other = Wish::Install { version: "3".to_owned(), failures: 0, is_open: true };
        assert!(requests.poll(now, &other));
        assert!(requests.retry_in(now, "2").is_some() && requests.retry_in(now, "3").is_none());
    }
}
