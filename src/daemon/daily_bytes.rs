//! The bytes that the lanes have used of their `daily-bytes`, kept in `{state-dir}/daily-bytes`
//! from one process to the next.
//!
//! What is written is ahead of what was used, by a part of the limit: so after a power cut the
//! count is at most that part too high, and too low only if the disk failed. A stop writes the
//! exact count. Without a limit nothing is written.

use std::path::Path;
use std::time::Instant;

use super::kept_text::{KeptText, Shape};
use super::link::Link;
use crate::clock::Moment;
use crate::northbound::budget::{Budget, Spent};

/// The file's name in the state directory.
pub const FILE: &str = "daily-bytes";
/// What the file may be.
pub const SHAPE: Shape = Shape { max_bytes: 4096, has_copy: true };
/// The file is written so often a day for each lane.
const PARTS: u64 = 64;

/// See the module.
pub struct DailyBytes {
    kept: KeptText,
    /// What was written last.
    written: Option<Spent>,
}

impl DailyBytes {
    /// Reads it and gives the uplink what was used. Blocks; at the start only.
    pub fn open(state_dir: &Path, link: &Link, limits: [Option<u64>; 2]) -> DailyBytes {
        let cost = "after a restart the daily-bytes of the lanes are counted anew";
        let (kept, spent) = KeptText::open(state_dir, FILE, SHAPE, cost, Spent::parse);
        link.budget(|budget| {
            spent.iter().for_each(|spent| budget.restore(spent));
            budget.set_limits(limits);
        });
        DailyBytes { kept, written: None }
    }

    /// Once a second: writes what is due. Never waits for the disk.
    pub fn care(&mut self, now: Instant, moment: &Moment, link: &Link) {
        if let Some(spent) = self.kept.retry(now, Spent::parse) {
            link.budget(|budget| budget.recall(&spent));
        }
        let budget = link.budget(|budget| {
            budget.advance(moment);
            budget.clone()
        });
        let Some(next) = ahead(&budget, self.written.as_ref().filter(|_| self.kept.is_stored())) else {
            return;
        };
        if self.kept.is_ready(now) {
            self.written = Some(next);
            self.kept.write(now, next.encode());
        }
    }

    /// At the stop. Blocks.
    pub fn close(&mut self, link: &Link) {
        let budget = link.budget(|budget| budget.clone());
        if budget.limits() != [None; 2] || self.written.is_some() {
            self.kept.close(&budget.spent().encode());
        }
    }

    /// What is wrong, one sentence each, beside what is `known`.
    pub fn problems(&self, known: &[String]) -> Vec<String> {
        self.kept.problems(known)
    }
}

/// What is to be written, if what is `written` does not cover what was used.
fn ahead(budget: &Budget, written: Option<&Spent>) -> Option<Spent> {
    let (spent, limits) = (budget.spent(), budget.limits());
    if limits == [None; 2] {
        return None;
    }
    let covers = |written: &Spent| {
        let is_covered = |at: usize| limits[at].is_none() || spent.used[at] <= written.used[at];
        written.day == spent.day && written.lasted_ms <= spent.lasted_ms && is_covered(0) && is_covered(1)
    };
    // An untrusted day is known by how long it lasted: an hour is lost at most.
    let is_recent = |written: &Spent| {
        spent.day.is_some() || spent.lasted_ms.saturating_sub(written.lasted_ms) < 3_600_000
    };
    if written.is_some_and(|written| covers(written) && is_recent(written)) {
        return None;
    }
    let ahead = |at: usize| {
        let limit = limits[at].unwrap_or(0);
        // No further than the limit: what is beyond it is not used either.
        spent.used[at].max((spent.used[at] + limit.div_ceil(PARTS)).min(limit))
    };
    Some(Spent { used: [ahead(0), ahead(1)], ..spent })
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;
    use crate::clock::UnixTime;
    use crate::message::Lane;

    fn at(hours: u64, wall: Option<u64>) -> Moment {
        let boottime_ms = hours * 3_600_000;
        Moment { now: Instant::now(), boottime_ms, wall: wall.map(UnixTime), ages_from: None }
    }

    #[test]
    fn the_record_is_ahead_of_what_was_used_and_written_a_few_times_a_day() {
        let mut budget = Budget::default();
        assert_eq!(ahead(&budget, None), None, "without a limit nothing is written");
        budget.set_limits([None, Some(64_000)]);
        budget.advance(&at(0, Some(20_000 * 86_400_000)));
        let (mut written, mut writes) = (None, 0);
        for _ in 0..70_000 / 100 {
            budget.take(Lane::Normal, 100);
            if let Some(next) = ahead(&budget, written.as_ref()) {
                assert!(next.used[1] >= budget.spent().used[1]);
                assert!(next.used[1] <= budget.spent().used[1] + 1_000);
                (written, writes) = (Some(next), writes + 1);
            }
            if !budget.allows(Lane::Normal) {
                break;
            }
        }
        assert!((58..=65).contains(&writes), "{writes}");
        // The next day is written at once.
        budget.advance(&at(24, Some(20_001 * 86_400_000)));
        let next = ahead(&budget, written.as_ref()).expect("another day");
        assert_eq!((next.day, next.used), (Some(20_001), [0, 1_000]));
    }

    #[test]
    fn without_a_trusted_clock_it_is_written_every_hour() {
        let mut budget = Budget::default();
        budget.set_limits([Some(1), None]);
        budget.advance(&at(0, None));
        let mut written = ahead(&budget, None);
        assert!(written.is_some());
        let mut writes = 0;
        for minutes in 0..600 {
            let moment = Moment { boottime_ms: minutes * 60_000, ..at(0, None) };
            budget.advance(&moment);
            if let Some(next) = ahead(&budget, written.as_ref()) {
                (written, writes) = (Some(next), writes + 1);
            }
        }
        assert_eq!(writes, 9);
    }
}
