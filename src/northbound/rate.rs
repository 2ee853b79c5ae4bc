//! How fast publishes go out: the owner's caps, and a limit of our own that the broker's complaints
//! lower.
//!
//! | what | rate |
//! |---|---|
//! | `max-publish-rate`, `max-byte-rate` | kept in every second, whichever it is |
//! | 0x93, 0x96, 0x97, or publishes left unanswered | half of what the broker took in its best second lately, but at least 1 a second; once for all that was sent before, and not again until something was taken |
//! | success | a tenth more every 2 s while the limit holds something back, else every 10 s |
//! | near the rate at which the broker complained last, if that is 5 a second or more | waits there: 1 min at first, twice as long after each further complaint, up to an hour |
//!
//! Everything that is published counts: records, the gateway's own messages, readings of `qos = 0`
//! rules.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The lowest rate, in publishes a second.
pub const LOWEST: f64 = 1.0;
/// What a broker that complained before it had taken much is believed to take.
const START: f64 = 20.0;
/// From this limit on there is none.
const UNLIMITED: f64 = 20_000.0;
const RAISE_WHILE_HELD: Duration = Duration::from_secs(2);
const RAISE_ELSE: Duration = Duration::from_secs(10);
const RAISE_BY: f64 = 1.1;
/// A broker that complains of less is not believed to mean the rate: the limit does not wait there.
const SLOW: f64 = 5.0;
/// So near to the last complaint the limit waits.
const NEAR: f64 = 0.9;
const WAIT_FIRST: Duration = Duration::from_secs(60);
const WAIT_LONGEST: Duration = Duration::from_secs(3600);
/// A cap that lets something go sooner does not hold it back.
const SOON: Duration = Duration::from_millis(1);
/// Seconds over which what the broker took is remembered.
const SECONDS: usize = 10;

/// A bucket that lets at most so much through in any one second.
#[derive(Clone, Debug)]
struct CapBucket {
    rate: f64,
    depth: f64,
    tokens: f64,
    at: Instant,
}

impl CapBucket {
    fn new(now: Instant, most: f64) -> CapBucket {
        let mut bucket = CapBucket { rate: 0.0, depth: 0.0, tokens: 0.0, at: now };
        bucket.set(most);
        bucket.tokens = bucket.depth;
        bucket
    }

    /// In any second at most the whole part of `depth + rate` passes, which is a little less than
    /// `most + 1`.
    fn set(&mut self, most: f64) {
        self.depth = 1.0 + most / 100.0;
        self.rate = most * 0.99 - 0.01;
        self.tokens = self.tokens.min(self.depth);
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.rate).min(self.depth);
        self.at = now;
    }

    /// When `least` tokens are there.
    fn ready_at(&self, least: f64) -> Instant {
        let missing = (least - self.tokens).max(0.0);
        // Rounded up, so that it is ready then.
        self.at + Duration::from_secs_f64(missing / self.rate) + Duration::from_nanos(1)
    }
}

/// The rate.
#[derive(Clone, Debug)]
pub struct PublishRate {
    cap: Option<f64>,
    publishes: Option<CapBucket>,
    bytes: Option<CapBucket>,
    /// Our own, in publishes a second.
    limit: Option<f64>,
    /// The rate the broker complained at last, and until when the limit stays below.
    complaint: Option<(f64, Instant)>,
    wait: Duration,
    lowered_at: Option<Instant>,
    raised_at: Instant,
    held_back: bool,
    /// The broker took something since the limit was lowered: otherwise it is not about the rate.
    taken_since: bool,
    /// What the broker took, by second: counted from `began`.
    taken: VecDeque<(u64, u32)>,
    began: Instant,
}

impl PublishRate {
    /// With the owner's caps; 0 = none.
    pub fn new(now: Instant, publishes: u32, bytes: u64) -> PublishRate {
        let cap = (publishes > 0).then_some(f64::from(publishes));
        PublishRate {
            cap,
            publishes: cap.map(|rate| CapBucket::new(now, rate)),
            bytes: (bytes > 0).then(|| CapBucket::new(now, bytes as f64)),
            limit: None,
            complaint: None,
            wait: WAIT_FIRST,
            lowered_at: None,
            raised_at: now,
            held_back: false,
            taken_since: false,
            taken: VecDeque::new(),
            began: now,
        }
    }

    /// Publishes a second at most, if anything limits them.
    pub fn limit(&self) -> Option<f64> {
        match (self.limit, self.cap) {
            (Some(limit), Some(cap)) => Some(limit.min(cap)),
            (limit, cap) => limit.or(cap),
        }
    }

    /// Until when a cap of the owner's lets nothing go, and its key. What the broker's complaints
    /// hold back is not meant.
    pub fn capped_until(&self, now: Instant) -> Option<(&'static str, Instant)> {
        let publishes =
            self.publishes.iter().filter(|_| self.limit.is_none()).map(|of| ("max-publish-rate", of));
        let all = publishes.chain(self.bytes.iter().map(|of| ("max-byte-rate", of)));
        all.map(|(key, bucket)| (key, bucket.ready_at(1.0)))
            .filter(|(_, at)| *at > now + SOON)
            .max_by_key(|(_, at)| *at)
    }

    /// The limit of our own, if the broker's complaints made one.
    pub fn lowered_to(&self) -> Option<f64> {
        self.limit
    }

    /// Whether it cannot be lowered any more.
    pub fn is_lowest(&self) -> bool {
        self.limit.is_some_and(|limit| limit <= LOWEST)
    }

    /// Whether a publish may go at `now`.
    pub fn allows(&mut self, now: Instant) -> bool {
        let mut allowed = true;
        if let Some(bucket) = &mut self.publishes {
            bucket.fill(now);
            allowed = bucket.tokens >= 1.0;
        }
        if let Some(bucket) = &mut self.bytes {
            bucket.fill(now);
            allowed &= bucket.tokens >= 1.0;
        }
        self.held_back |= !allowed;
        allowed
    }

    /// A publish of so many bytes went.
    pub fn take(&mut self, bytes: usize) {
        if let Some(bucket) = &mut self.publishes {
            bucket.tokens -= 1.0;
        }
        if let Some(bucket) = &mut self.bytes {
            // Greater than what is there: the next ones wait for it.
            bucket.tokens -= bytes as f64;
        }
    }

    /// When [`PublishRate::allows`] says yes again, as far as it can be told.
    pub fn ready_at(&self) -> Instant {
        let buckets = self.publishes.iter().chain(&self.bytes);
        buckets.map(|bucket| bucket.ready_at(1.0)).max().unwrap_or(self.began)
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs()
    }

    /// The broker took a publish.
    pub fn handle_taken(&mut self, now: Instant) {
        let second = self.second(now);
        match self.taken.back_mut() {
            Some((newest, count)) if *newest == second => *count = count.saturating_add(1),
            _ => {
                self.taken.push_back((second, 1));
                if self.taken.len() > SECONDS {
                    self.taken.pop_front();
                }
            }
        }
        self.taken_since = true;
        if self.limit.is_some() {
            self.raise(now);
        }
    }

    fn raise(&mut self, now: Instant) {
        let Some(limit) = self.limit else { return };
        let every = if self.held_back { RAISE_WHILE_HELD } else { RAISE_ELSE };
        if now.saturating_duration_since(self.raised_at) < every {
            return;
        }
        let raised = limit * RAISE_BY;
        let near = |(at, until): (f64, Instant)| at >= SLOW && raised > at * NEAR && now < until;
        if self.complaint.is_some_and(near) {
            return;
        }
        self.raised_at = now;
        self.held_back = false;
        self.set(now, (raised < UNLIMITED).then_some(raised));
    }

    fn set(&mut self, now: Instant, limit: Option<f64>) {
        self.limit = limit;
        match (self.limit(), &mut self.publishes) {
            (None, bucket) => *bucket = None,
            (Some(rate), Some(bucket)) => {
                bucket.fill(now);
                bucket.set(rate);
            }
            (Some(rate), bucket) => *bucket = Some(CapBucket::new(now, rate)),
        }
    }

    /// The broker complained of, or dropped, what was sent at `sent_at`. Whether the limit was
    /// lowered: a complaint of something sent before it was lowered last says nothing new.
    pub fn handle_complaint(&mut self, now: Instant, sent_at: Instant) -> bool {
        if self.lowered_at.is_some_and(|at| sent_at <= at) || self.lowered_at.is_some() && !self.taken_since {
            return false;
        }
        self.taken_since = false;
        let oldest = self.second(now).saturating_sub(60);
        let best = self.taken.iter().filter(|(second, _)| *second >= oldest).map(|(_, count)| *count).max();
        let best = f64::from(best.unwrap_or(0));
        let at = match self.limit() {
            Some(limit) if self.limit.is_some() => limit,
            limit => best.max(START).min(limit.unwrap_or(f64::MAX)),
        };
        self.lowered_at = Some(now);
        self.raised_at = now;
        self.held_back = false;
        let again = self.complaint.is_some_and(|(before, _)| at >= before * NEAR * NEAR);
        self.wait = if again { (self.wait * 2).min(WAIT_LONGEST) } else { WAIT_FIRST };
        self.complaint = Some((at, now + self.wait));
        self.set(now, Some((at / 2.0).max(LOWEST)));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends as much as it may for so long; when.
    fn drive(rate: &mut PublishRate, start: Instant, ms: u64, bytes: usize) -> Vec<u64> {
        let mut sent = Vec::new();
        for ms in 0..ms {
            let now = start + Duration::from_millis(ms);
            while (rate.publishes.is_some() || rate.bytes.is_some()) && rate.allows(now) {
                rate.take(bytes);
                sent.push(ms);
            }
        }
        sent
    }

    fn most_in_a_second(sent: &[u64]) -> usize {
        let within = |from: usize| sent.partition_point(|at| *at < sent[from] + 1000) - from;
        (0..sent.len()).map(within).max().unwrap_or(0)
    }

    #[test]
    fn in_no_second_more_than_the_cap_goes_and_in_the_long_run_nearly_as_much() {
        for cap in [1, 2, 7, 100, 1000, 5000] {
            let start = Instant::now();
            let mut rate = PublishRate::new(start, cap, 0);
            let sent = drive(&mut rate, start, 20_000, 100);
            assert!(most_in_a_second(&sent) <= cap as usize, "{cap}: {}", most_in_a_second(&sent));
            assert!(sent.len() as f64 >= f64::from(cap) * 20.0 * 0.95 - 2.0, "{cap}: {}", sent.len());
        }
    }

    #[test]
    fn bytes_are_capped_and_a_packet_greater_than_a_seconds_worth_still_passes() {
        let start = Instant::now();
        let mut rate = PublishRate::new(start, 0, 1000);
        let sent = drive(&mut rate, start, 10_000, 100);
        assert!((90..=101).contains(&sent.len()), "{}", sent.len());
        let mut rate = PublishRate::new(start, 0, 1000);
        let sent = drive(&mut rate, start, 10_000, 5000);
        assert_eq!(sent.len(), 2);
        assert!(rate.ready_at() > start);
        // The cap is named that lets nothing go, with its time.
        let mut rate = PublishRate::new(start, 1_000, 10);
        assert_eq!(rate.capped_until(start), None);
        rate.take(1_000);
        let (key, until) = rate.capped_until(start).unwrap();
        assert!(key == "max-byte-rate" && until > start + Duration::from_secs(99), "{key} {until:?}");
        assert_eq!(rate.capped_until(start + Duration::from_secs(110)), None);
    }

    #[test]
    fn it_says_when_the_next_may_go() {
        let start = Instant::now();
        let mut rate = PublishRate::new(start, 3, 0);
        let mut now = start;
        for _ in 0..50 {
            assert!(rate.allows(now));
            rate.take(1);
            assert!(!rate.allows(now));
            now = rate.ready_at();
        }
    }

    #[test]
    fn a_complaint_halves_what_the_broker_took_and_counts_once_for_all_that_was_sent_before() {
        let start = Instant::now();
        let mut rate = PublishRate::new(start, 0, 0);
        for _ in 0..400 {
            rate.handle_taken(start + Duration::from_millis(500));
        }
        let now = start + Duration::from_secs(2);
        assert!(rate.handle_complaint(now, start));
        assert_eq!(rate.limit(), Some(200.0));
        assert!(!rate.handle_complaint(now, start));
        let later = now + Duration::from_millis(1);
        assert!(!rate.handle_complaint(later, later), "nothing was taken since");
        rate.handle_taken(later);
        assert!(rate.handle_complaint(now + Duration::from_secs(1), later));
        assert_eq!(rate.limit(), Some(100.0));
        let mut now = now + Duration::from_secs(2);
        for _ in 0..20 {
            rate.handle_taken(now);
            rate.handle_complaint(now, now);
            now += Duration::from_secs(1);
        }
        assert_eq!(rate.limit(), Some(LOWEST));
    }

    #[test]
    fn success_raises_it_slowly_and_waits_below_where_the_broker_complained() {
        let start = Instant::now();
        let mut rate = PublishRate::new(start, 0, 0);
        for _ in 0..200 {
            rate.handle_taken(start);
        }
        rate.handle_complaint(start, start);
        assert_eq!(rate.limit(), Some(100.0));
        let mut reached = None;
        for second in 0..300u64 {
            let now = start + Duration::from_secs(second);
            drive(&mut rate, now, 1000, 1);
            rate.handle_taken(now + Duration::from_millis(999));
            if second == 55 {
                let limit = rate.limit().unwrap();
                assert!((160.0..=180.0).contains(&limit), "{limit}");
            }
            if rate.limit().is_some_and(|limit| limit > 200.0) && reached.is_none() {
                reached = Some(second);
            }
        }
        assert!((60..100).contains(&reached.unwrap()), "{reached:?}");
    }

    #[test]
    fn the_owners_cap_stays_whatever_the_broker_takes() {
        let start = Instant::now();
        let mut rate = PublishRate::new(start, 50, 0);
        rate.handle_complaint(start, start);
        assert_eq!(rate.limit(), Some(10.0));
        for second in 0..4000u64 {
            let now = start + Duration::from_secs(second);
            rate.allows(now);
            rate.handle_taken(now);
        }
        assert_eq!(rate.limit(), Some(50.0));
    }
}
