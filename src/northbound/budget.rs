//! How many bytes a lane may publish in a day, for uplinks that are paid by the byte.
//!
//! Counted are PUBLISH packets of readings, as written to the connection, repeated ones included;
//! not the gateway's own messages, nor what TLS and TCP add. A lane that has used up its bytes
//! waits in the journal until the next day; the other lane goes on.
//!
//! | the clock | a day ends |
//! |---|---|
//! | is trusted | at midnight UTC |
//! | is not trusted | 24 h after it began, in which the gateway ran |
//! | becomes trusted within a day | at midnight of the day it is then: what was used counts for it |
//! | is set back over midnight | 24 h after it began: nothing is given back |

use std::time::Duration;

use crate::clock::{DAY_MS, Moment};
use crate::durable::checked_text;
use crate::message::Lane;

/// Bytes used of each lane, and the most of a day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// By [`Lane::index`]; `None`: as many as there are.
    limits: [Option<u64>; 2],
    used: [u64; 2],
    /// The days from 1970-01-01 to this one; `None` while it is not known.
    day: Option<u64>,
    /// How long this day has lasted, at the boot time of the last look.
    lasted_ms: u64,
    looked_ms: Option<u64>,
}

/// What is kept across restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// The days from 1970-01-01 to this one; `None`: not known.
    pub day: Option<u64>,
    /// How long the day has lasted while the gateway ran, in milliseconds.
    pub lasted_ms: u64,
    /// Bytes used, by [`Lane::index`].
    pub used: [u64; 2],
}

/// How one lane stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneBudget {
    /// Bytes used on this day.
    pub used: u64,
    /// Most of them.
    pub limit: u64,
    /// Until the next day.
    pub left: Duration,
    /// The next day begins at midnight UTC.
    pub by_clock: bool,
}

impl LaneBudget {
    /// Whether nothing more may be published today.
    pub fn is_used_up(&self) -> bool {
        self.used >= self.limit
    }
}

impl Budget {
    /// Goes on with what was kept.
    pub fn restore(&mut self, spent: &Spent) {
        (self.day, self.lasted_ms, self.used) = (spent.day, spent.lasted_ms, spent.used);
        self.looked_ms = None;
    }

    /// Takes up what was kept of this day, which the disk did not give at the start.
    pub fn recall(&mut self, spent: &Spent) {
        // A period without a day is this one only where it has not ended in the meantime.
        let is_this = match (spent.day, self.day) {
            (Some(day), Some(today)) => day == today,
            (Some(_), None) => true,
            (None, _) => spent.lasted_ms.saturating_add(self.lasted_ms) < DAY_MS,
        };
        if is_this {
            for (used, before) in self.used.iter_mut().zip(spent.used) {
                *used = used.saturating_add(before);
            }
            self.day = self.day.or(spent.day);
            self.lasted_ms = self.lasted_ms.saturating_add(spent.lasted_ms);
        }
    }

    /// Sets the limits, by [`Lane::index`]. What was used stays.
    pub fn set_limits(&mut self, limits: [Option<u64>; 2]) {
        self.limits = limits;
    }

    /// What is to be kept.
    pub fn spent(&self) -> Spent {
        Spent { day: self.day, lasted_ms: self.lasted_ms, used: self.used }
    }

    /// The limits, by [`Lane::index`].
    pub fn limits(&self) -> [Option<u64>; 2] {
        self.limits
    }

    /// Looks at the clocks: perhaps it is another day.
    pub fn advance(&mut self, moment: &Moment) {
        let before = self.looked_ms.replace(moment.boottime_ms).unwrap_or(moment.boottime_ms);
        self.lasted_ms = self.lasted_ms.saturating_add(moment.boottime_ms.saturating_sub(before));
        let today = moment.wall.map(|wall| wall.0 / DAY_MS);
        let is_over = match (self.day, today) {
            (Some(day), Some(today)) if today > day => true,
            // It may have begun before the clock was trusted.
            (Some(day), Some(today)) if today == day => false,
            _ => self.lasted_ms >= DAY_MS,
        };
        if is_over {
            (self.lasted_ms, self.used, self.day) = (0, [0; 2], today);
        }
        self.day = self.day.max(today);
    }

    /// Whether a lane may publish. The last publish may go beyond the limit by its own length.
    pub fn allows(&self, lane: Lane) -> bool {
        self.limits[lane.index()].is_none_or(|limit| self.used[lane.index()] < limit)
    }

    /// A publish of a lane has so many bytes.
    pub fn take(&mut self, lane: Lane, bytes: usize) {
        let used = &mut self.used[lane.index()];
        *used = used.saturating_add(bytes as u64);
    }

    /// How long the day still lasts at the last look.
    pub fn left(&self, moment: &Moment) -> Duration {
        let ms = match moment.wall {
            Some(wall) => DAY_MS - wall.0 % DAY_MS,
            None => DAY_MS.saturating_sub(self.lasted_ms),
        };
        Duration::from_millis(ms)
    }

    /// How a lane with a limit stands.
    pub fn of(&self, lane: Lane, moment: &Moment) -> Option<LaneBudget> {
        let limit = self.limits[lane.index()]?;
        let by_clock = moment.wall.is_some();
        Some(LaneBudget { used: self.used[lane.index()], limit, left: self.left(moment), by_clock })
    }
}

const MAGIC: &str = "tombolo-daily-bytes 1";

impl Spent {
    /// As text, for a file.
    pub fn encode(&self) -> String {
        let day = self.day.map_or_else(|| "-".to_owned(), |day| day.to_string());
        let [high, normal] = self.used;
        let lasted = self.lasted_ms;
        checked_text::seal(format!("{MAGIC}\nday {day}\nlasted {lasted}\nhigh {high}\nnormal {normal}\n"))
    }

    /// # Errors
    /// Why it is not what was written, in half a sentence.
    pub fn parse(bytes: &[u8]) -> Result<Spent, String> {
        let damaged = || "its checksum is wrong".to_owned();
        let mut lines = checked_text::open(bytes)?.lines();
        if lines.next() != Some(MAGIC) {
            return Err("it is of another version".to_owned());
        }
        let mut spent = Spent::default();
        for (key, value) in lines.filter_map(|line| line.split_once(' ')) {
            let number = || value.parse::<u64>().map_err(|_| damaged());
            match key {
                "day" if value == "-" => spent.day = None,
                "day" => spent.day = Some(number()?),
                "lasted" => spent.lasted_ms = number()?,
                "high" => spent.used[Lane::High.index()] = number()?,
                "normal" => spent.used[Lane::Normal.index()] = number()?,
                _ => {}
            }
        }
        Ok(spent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixTime;
    use std::time::Instant;

    const HOUR: u64 = 3_600_000;

    fn at(boottime_ms: u64, wall: Option<u64>) -> Moment {
        Moment { now: Instant::now(), boottime_ms, wall: wall.map(UnixTime), ages_from: None }
    }

    /// 1,000 bytes a day of the normal lane.
    fn budget(moment: &Moment) -> Budget {
        let mut budget = Budget::default();
        budget.set_limits([None, Some(1_000)]);
        budget.advance(moment);
        budget
    }

    #[test]
    fn what_the_disk_gives_late_counts_with_what_was_used_since_if_it_is_of_this_day() {
        let noon = 20_000 * DAY_MS + 12 * HOUR;
        let kept = |day| Spent { day, lasted_ms: HOUR, used: [1, 700] };
        for (day, used) in [(Some(20_000), 1_000), (Some(19_999), 300), (None, 1_000)] {
            let mut budget = budget(&at(0, Some(noon)));
            budget.take(Lane::Normal, 300);
            budget.recall(&kept(day));
            assert_eq!(
                (budget.spent().used[1], budget.allows(Lane::Normal)),
                (used, used < 1_000),
                "{day:?}"
            );
        }
        // A clock that is not known yet does not lose the day.
        let mut budget = budget(&at(0, None));
        budget.recall(&kept(Some(20_000)));
        assert_eq!((budget.spent().day, budget.spent().used[1]), (Some(20_000), 700));
        budget.advance(&at(HOUR, Some(noon)));
        assert_eq!(budget.spent().used[1], 700);
    }

    #[test]
    fn a_lane_that_has_used_its_bytes_waits_for_midnight_and_the_other_goes_on() {
        let evening = 20_000 * DAY_MS + 22 * HOUR;
        let mut budget = budget(&at(0, Some(evening)));
        budget.take(Lane::Normal, 999);
        assert!(budget.allows(Lane::Normal));
        budget.take(Lane::Normal, 100);
        budget.take(Lane::High, 100_000);
        assert!(!budget.allows(Lane::Normal) && budget.allows(Lane::High));
        let told = budget.of(Lane::Normal, &at(0, Some(evening))).expect("a limit");
        assert_eq!((told.used, told.left, told.by_clock), (1_099, Duration::from_secs(7_200), true));
        assert!(told.is_used_up() && budget.of(Lane::High, &at(0, None)).is_none());
        budget.advance(&at(2 * HOUR - 1, Some(evening + 2 * HOUR - 1)));
        assert!(!budget.allows(Lane::Normal));
        budget.advance(&at(2 * HOUR, Some(evening + 2 * HOUR)));
        assert_eq!((budget.allows(Lane::Normal), budget.spent().used), (true, [0, 0]));
    }

    #[test]
    fn without_a_trusted_clock_a_day_is_24_h_of_running() {
        let mut budget = budget(&at(5 * HOUR, None));
        budget.take(Lane::Normal, 1_000);
        budget.advance(&at(28 * HOUR, None));
        assert!(!budget.allows(Lane::Normal));
        assert_eq!(budget.left(&at(28 * HOUR, None)), Duration::from_secs(3_600));
        // A restart, which a board spends without its clock.
        let spent = budget.spent();
        let mut budget = super::tests::budget(&at(0, None));
        budget.restore(&spent);
        budget.advance(&at(7, None));
        assert!(!budget.allows(Lane::Normal));
        budget.advance(&at(HOUR + 7, None));
        assert!(budget.allows(Lane::Normal));
    }

    #[test]
    fn a_clock_that_becomes_trusted_gives_nothing_back_before_its_midnight() {
        let mut budget = budget(&at(0, None));
        budget.take(Lane::Normal, 1_000);
        let noon = 20_000 * DAY_MS + 12 * HOUR;
        budget.advance(&at(HOUR, Some(noon)));
        assert_eq!((budget.allows(Lane::Normal), budget.spent().day), (false, Some(20_000)));
        budget.advance(&at(13 * HOUR, Some(noon + 12 * HOUR)));
        assert!(budget.allows(Lane::Normal));
    }

    #[test]
    fn a_clock_that_lies_gives_no_more_than_one_day() {
        let wrong = 30_000 * DAY_MS;
        let mut budget = budget(&at(0, Some(wrong)));
        budget.take(Lane::Normal, 1_000);
        // It is corrected by years, goes to and fro over midnight, and stands still.
        for (hours, wall) in [(1, 20_000 * DAY_MS + HOUR), (2, 19_999 * DAY_MS), (3, 19_999 * DAY_MS + HOUR)]
        {
            budget.advance(&at(hours * HOUR, Some(wall)));
            assert!(!budget.allows(Lane::Normal), "{hours}");
        }
        budget.advance(&at(4 * HOUR, None));
        assert!(!budget.allows(Lane::Normal));
        budget.advance(&at(24 * HOUR, None));
        assert!(budget.allows(Lane::Normal), "24 h have passed since it began");
    }

    #[test]
    fn a_limit_that_is_raised_counts_what_was_used() {
        let mut budget = budget(&at(0, None));
        budget.take(Lane::Normal, 1_000);
        budget.set_limits([None, Some(1_500)]);
        assert!(budget.allows(Lane::Normal));
        budget.take(Lane::Normal, 500);
        assert!(!budget.allows(Lane::Normal));
        budget.set_limits([None, None]);
        assert!(budget.allows(Lane::Normal));
    }

    #[test]
    fn what_is_kept_is_read_again_and_damage_is_found() {
        for day in [None, Some(20_000)] {
            let spent = Spent { day, lasted_ms: 7, used: [1, u64::MAX] };
            let text = spent.encode();
            assert_eq!(Spent::parse(text.as_bytes()), Ok(spent));
            assert!(Spent::parse(text.replace("high 1", "high 2").as_bytes()).is_err());
            assert!(Spent::parse(&text.as_bytes()[..text.len() - 1]).is_err());
        }
        assert!(Spent::parse(b"").is_err() && Spent::parse(b"\xff").is_err());
    }
}
