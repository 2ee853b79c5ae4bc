//! Connections that a converter in the network gives up when they are idle.
//!
//! Many do not close such a connection: they answer the next bytes with its end, and each poll with
//! a period beyond their limit fails. So when a connection ends directly after bytes were sent on
//! it, and it was idle before, the next ones that would find it as idle go over a new connection.
//! If new connections end in the same way, that is not the reason, and this stops.

use std::time::{Duration, Instant};

/// Idle for less than this no connection is given up.
const IDLE_LEAST: Duration = Duration::from_secs(1);
/// So soon after bytes were sent a connection ends that was given up before.
const AT_ONCE: Duration = Duration::from_secs(1);
/// After so many new connections that end before an answer, idleness is not the reason.
const REFUTED: u32 = 3;

/// What is known of the connections to one converter.
#[derive(Debug, Default)]
pub struct Idle {
    /// When something last came or was sent, or the connection was made.
    used: Option<Instant>,
    /// When bytes were sent that nothing came after yet, and how long it was idle before.
    pending: Option<(Instant, Duration)>,
    /// The longest that one was idle, and answered.
    longest: Duration,
    limit: Option<Duration>,
    refuted: u32,
    is_told: bool,
}

impl Idle {
    /// A connection was made.
    pub fn opened(&mut self, now: Instant) {
        (self.used, self.pending) = (Some(now), None);
    }

    /// Whether the connection is to be replaced before bytes are sent now.
    pub fn is_stale(&self, now: Instant) -> bool {
        self.limit.is_some_and(|limit| self.idle(now) >= limit)
    }

    /// Bytes are sent now.
    pub fn sent(&mut self, now: Instant) {
        self.pending.get_or_insert((now, self.idle(now)));
        self.used = Some(now);
    }

    /// Bytes came.
    pub fn received(&mut self, now: Instant) {
        if let Some((_, idle)) = self.pending.take() {
            self.longest = self.longest.max(idle);
            self.limit = self.limit.map(|limit| limit.max(self.longest));
            self.refuted = 0;
        }
        self.used = Some(now);
    }

    /// The connection ended. Whether that is because it was idle before bytes were sent on it.
    pub fn closed(&mut self, now: Instant) -> bool {
        let Some((at, idle)) = self.pending.take() else { return false };
        if now.saturating_duration_since(at) > AT_ONCE || self.refuted >= REFUTED {
            return false;
        }
        if idle >= IDLE_LEAST && idle > self.longest {
            self.limit = Some((idle / 2).max(self.longest).max(IDLE_LEAST));
            return true;
        }
        if self.limit.is_some() {
            self.refuted += 1;
            self.limit = self.limit.filter(|_| self.refuted < REFUTED);
        }
        false
    }

    /// The longest that a connection may be idle, once, when it is found out.
    pub fn poll_news(&mut self) -> Option<Duration> {
        let limit = self.limit.filter(|_| !self.is_told)?;
        self.is_told = true;
        Some(limit)
    }

    fn idle(&self, now: Instant) -> Duration {
        self.used.map_or(Duration::ZERO, |used| now.saturating_duration_since(used))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    /// One request a period over a converter that gives up connections idle for longer than
    /// `limit`, and answers all others. How many had no answer, and how many connections there
    /// were.
    fn run(period: Duration, limit: Duration, count: u32) -> (u32, u32) {
        let mut now = Instant::now();
        let mut idle = Idle::default();
        idle.opened(now);
        let (mut used, mut lost, mut connections) = (now, 0, 1);
        for _ in 0..count {
            now += period;
            if idle.is_stale(now) {
                idle.opened(now);
                (used, connections) = (now, connections + 1);
            }
            idle.sent(now);
            if now - used > limit {
                lost += 1;
                assert!(idle.closed(now + 20 * MS));
                idle.opened(now + 200 * MS);
                (used, connections) = (now + 200 * MS, connections + 1);
            } else {
                idle.received(now + 50 * MS);
                used = now + 50 * MS;
            }
        }
        (lost, connections)
    }

    #[test]
    fn a_connection_that_is_given_up_when_idle_is_replaced_before_it_is_used_again() {
        assert_eq!(run(10 * SECOND, 5 * SECOND, 100), (1, 101));
        assert_eq!(run(10 * SECOND, 9_900 * MS, 100), (1, 101));
        // One that is not given up in the period stays.
        assert_eq!(run(10 * SECOND, 11 * SECOND, 100), (0, 1));
    }

    #[test]
    fn it_is_told_once() {
        let now = Instant::now();
        let mut idle = Idle::default();
        idle.opened(now);
        assert_eq!(idle.poll_news(), None);
        for at in [10 * SECOND, 14 * SECOND] {
            idle.sent(now + at);
            assert!(idle.closed(now + at + MS));
            idle.opened(now + at + MS);
        }
        assert_eq!((idle.poll_news(), idle.poll_news()), (Some(2 * SECOND - MS / 2), None));
    }

    #[test]
    fn a_converter_that_ends_new_connections_too_does_not_get_more_of_them() {
        let now = Instant::now();
        let mut idle = Idle::default();
        idle.opened(now);
        idle.sent(now + 10 * SECOND);
        assert!(idle.closed(now + 10 * SECOND + MS));
        for count in 2..10 {
            let at = now + 10 * SECOND * count;
            idle.opened(at);
            idle.sent(at + MS);
            assert!(!idle.closed(at + 2 * MS));
        }
        idle.opened(now + 100 * SECOND);
        assert!(!idle.is_stale(now + 200 * SECOND));
        idle.sent(now + 200 * SECOND);
        assert!(!idle.closed(now + 200 * SECOND + MS), "it is not tried again");
    }

    #[test]
    fn a_connection_that_ends_long_after_the_request_or_was_just_used_was_not_idle() {
        let now = Instant::now();
        let mut idle = Idle::default();
        idle.opened(now);
        idle.sent(now + 10 * SECOND);
        assert!(!idle.closed(now + 12 * SECOND));
        idle.opened(now + 13 * SECOND);
        idle.sent(now + 13 * SECOND + 300 * MS);
        assert!(!idle.closed(now + 13 * SECOND + 310 * MS));
        // And one that ends while nothing is asked is opened again as it is.
        idle.opened(now + 14 * SECOND);
        assert!(!idle.closed(now + 30 * SECOND));
        assert!(!idle.is_stale(now + 60 * SECOND));
    }
}
