//! Which rejected records are sent once more, and when. Not for what the broker refused for good
//! ([`Cause::is_definitive`]).
//!
//! Of each topic one record is tried, the oldest: after the interval, and after each failure twice
//! as long later, up to a day. When the broker has taken it, the others of its topic follow, a
//! batch at a time. So a topic that stays denied costs one publish a day, and one that is allowed
//! again is made good within minutes of being found out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::reason_code::Cause;
use super::suspicion::TopicKey;
use crate::message::RecordId;

/// The longest time between two tries.
const LONGEST: Duration = Duration::from_secs(86_400);
/// Records of a topic sent again at once, after one was taken.
const BATCH: usize = 100;
/// Topics remembered.
const TOPICS_MAX: usize = 1024;
/// The store is looked at so often at most.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// A rejected record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryCandidate {
    /// Its number in the store; the lowest was rejected first.
    pub number: u64,
    /// The id it had when it was rejected first.
    pub original: RecordId,
    /// Its topic.
    pub topic: TopicKey,
    /// Why it was rejected.
    pub cause: Cause,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    next_at: Instant,
    step: u32,
    /// The newest record under way.
    probe: Option<RecordId>,
    /// The broker took the probe: the next batch may go.
    open: bool,
    /// Before records were chosen last.
    was_open: bool,
}

/// The plan.
#[derive(Clone, Debug)]
pub struct Retry {
    interval: Duration,
    topics: BTreeMap<TopicKey, Plan>,
    look_at: Instant,
}

impl Retry {
    /// Tries after `interval`.
    pub fn new(now: Instant, interval: Duration) -> Retry {
        // What was rejected before this process began waits for its interval as well.
        Retry { interval, topics: BTreeMap::new(), look_at: now }
    }

    /// Whether the store is to be looked at.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.look_at
    }

    /// Chooses among all records in the store, which come in the order of their numbers: those to
    /// send again, and their topics.
    pub fn decide(
        &mut self,
        now: Instant,
        candidates: impl IntoIterator<Item = RetryCandidate>,
    ) -> Vec<(u64, TopicKey)> {
        self.look_at = now + (self.interval / 4).max(LOOK_EVERY);
        let mut chosen = Vec::new();
        let mut sent: BTreeMap<TopicKey, usize> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for candidate in candidates.into_iter().filter(|candidate| !candidate.cause.is_definitive()) {
            let topic = candidate.topic;
            if self.topics.len() >= TOPICS_MAX && !self.topics.contains_key(&topic) {
                continue;
            }
            seen.insert(topic);
            let plan = self.topics.entry(topic).or_insert(Plan {
                next_at: now + self.interval,
                step: 0,
                probe: None,
                open: false,
                was_open: false,
            });
            let count = sent.entry(topic).or_default();
            let may = if plan.open { *count < BATCH } else { *count == 0 && now >= plan.next_at };
            if may {
                *count += 1;
                plan.probe = Some(candidate.original);
                chosen.push((candidate.number, topic));
            }
        }
        for (topic, _) in sent.into_iter().filter(|(_, count)| *count > 0) {
            if let Some(plan) = self.topics.get_mut(&topic) {
                plan.was_open = plan.open;
                if !plan.open {
                    plan.step = plan.step.saturating_add(1);
                }
                plan.open = false;
                plan.next_at = now
                    + self.interval.saturating_mul(1 << plan.step.min(16)).min(LONGEST.max(self.interval));
            }
        }
        // A topic with nothing left, and nothing under way for long, is done with.
        self.topics
            .retain(|topic, plan| seen.contains(topic) || (plan.probe.is_some() && now < plan.next_at));
        chosen
    }

    /// A record that was chosen found no room in its lane: its topic is met again at the next look.
    pub fn handle_no_room(&mut self, now: Instant, topic: TopicKey) {
        let Some(plan) = self.topics.get_mut(&topic).filter(|plan| plan.next_at > now + LOOK_EVERY) else {
            return;
        };
        plan.open = plan.was_open;
        plan.step = plan.step.saturating_sub(u32::from(!plan.was_open));
        plan.next_at = now + LOOK_EVERY;
        self.look_at = self.look_at.min(now + LOOK_EVERY);
    }

    /// The broker has a record that was rejected before.
    pub fn handle_recovered(&mut self, now: Instant, original: RecordId) {
        for plan in self.topics.values_mut().filter(|plan| plan.probe == Some(original)) {
            (plan.open, plan.step, plan.probe) = (true, 0, None);
            self.look_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn candidate(number: u64, topic: &str, cause: Cause) -> RetryCandidate {
        RetryCandidate {
            number,
            original: RecordId { run: 1, sequence: number },
            topic: TopicKey::of(topic),
            cause,
        }
    }

    fn numbers(chosen: Vec<(u64, TopicKey)>) -> Vec<u64> {
        chosen.into_iter().map(|(number, _)| number).collect()
    }

    fn denied(count: u64) -> Vec<RetryCandidate> {
        (1..=count).map(|number| candidate(number, "a", Cause::Code(0x87))).collect()
    }

    #[test]
    fn one_record_of_a_topic_is_tried_ever_more_seldom() {
        let start = Instant::now();
        let mut retry = Retry::new(start, HOUR);
        let mut tries = Vec::new();
        for minute in 0..60 * 24 * 7 {
            let now = start + minute * Duration::from_secs(60);
            if retry.is_due(now) && !retry.decide(now, denied(500)).is_empty() {
                tries.push(minute / 60);
            }
        }
        assert_eq!(tries[..5], [1, 3, 7, 15, 31]);
        assert!(tries.windows(2).skip(5).all(|pair| pair[1] - pair[0] == 24), "{tries:?}");
    }

    #[test]
    fn when_it_is_taken_the_others_follow_batch_by_batch() {
        let start = Instant::now();
        let mut retry = Retry::new(start, HOUR);
        let mut store = denied(250);
        assert!(retry.decide(start, store.iter().copied()).is_empty());
        let mut now = start + HOUR;
        let mut sizes = Vec::new();
        for _ in 0..4 {
            assert!(retry.is_due(now));
            let chosen = numbers(retry.decide(now, store.iter().copied()));
            sizes.push(chosen.len());
            store.retain(|candidate| !chosen.contains(&candidate.number));
            now += Duration::from_secs(1);
            for number in chosen {
                retry.handle_recovered(now, RecordId { run: 1, sequence: number });
            }
        }
        assert_eq!(sizes, [1, 100, 100, 49]);
    }

    #[test]
    fn what_finds_no_room_in_its_lane_is_met_again_soon_and_costs_no_step() {
        let start = Instant::now();
        let mut retry = Retry::new(start, HOUR);
        retry.decide(start, denied(3));
        let mut now = start + HOUR;
        for _ in 0..5 {
            assert_eq!(numbers(retry.decide(now, denied(3))), [1]);
            retry.handle_no_room(now, TopicKey::of("a"));
            now += LOOK_EVERY;
            assert!(retry.is_due(now));
        }
        retry.decide(now, denied(3));
        retry.handle_recovered(now, RecordId { run: 1, sequence: 1 });
        assert_eq!(numbers(retry.decide(now, denied(3))), [1, 2, 3]);
        retry.handle_no_room(now, TopicKey::of("a"));
        assert_eq!(numbers(retry.decide(now + LOOK_EVERY, denied(3))), [1, 2, 3], "the batch, not one of it");
    }

    #[test]
    fn what_is_definitive_is_never_tried() {
        let start = Instant::now();
        let mut retry = Retry::new(start, HOUR);
        for cause in [Cause::Code(0x90), Cause::Code(0x99), Cause::Skipped] {
            for hour in 0..100 {
                assert!(
                    retry.decide(start + hour * HOUR, [candidate(1, "a", cause)]).is_empty(),
                    "{cause:?}"
                );
            }
        }
        for cause in [Cause::Code(0x80), Cause::Code(0x83), Cause::Code(0x97), Cause::Closed, Cause::Silent] {
            let mut retry = Retry::new(start, HOUR);
            retry.decide(start, [candidate(1, "a", cause)]);
            assert_eq!(numbers(retry.decide(start + HOUR, [candidate(1, "a", cause)])), [1], "{cause:?}");
        }
    }
}
