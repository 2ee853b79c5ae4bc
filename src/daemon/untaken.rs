//! For how long records have waited of which the broker took none, though it is there.
//!
//! | what happens | the time |
//! |---|---|
//! | nothing waits | none |
//! | a record is taken | begins anew |
//! | the connection is replaced, because nothing was answered on it | goes on |
//! | there has been no connection for [`AWAY`] | none: that is an outage, which is said elsewhere |

use std::time::{Duration, Instant};

/// Without a connection for so long the broker is away.
pub const AWAY: Duration = Duration::from_secs(120);

/// What is known of the uplink at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The connection stands.
    pub connected: bool,
    /// Since when it is so.
    pub since: Instant,
    /// When the broker took a record last, over all connections.
    pub taken_at: Option<Instant>,
    /// Records that wait to be sent or answered.
    pub records: u64,
}

/// Counts it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Untaken {
    /// Since when, and when one was taken last then.
    since: Option<(Instant, Option<Instant>)>,
}

impl Untaken {
    /// For how long at `now`. To be asked again and again: it begins with the first question.
    pub fn waited(&mut self, now: Instant, seen: &Seen) -> Duration {
        let is_away = !seen.connected && now.saturating_duration_since(seen.since) >= AWAY;
        if seen.records == 0 || is_away {
            self.since = None;
            return Duration::ZERO;
        }
        let (since, _) = match self.since {
            Some(held) if held.1 == seen.taken_at => held,
            _ => (now, seen.taken_at),
        };
        self.since = Some((since, seen.taken_at));
        now.saturating_duration_since(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A broker that stands since the start, took nothing, while one record waits.
    fn seen(start: Instant) -> Seen {
        Seen { connected: true, since: start, taken_at: None, records: 1 }
    }

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn waited(untaken: &mut Untaken, now: Instant, seen: &Seen) -> u64 {
        untaken.waited(now, seen).as_secs()
    }

    #[test]
    fn a_broker_that_takes_nothing_is_counted_from_the_first_record_that_waits() {
        let start = Instant::now();
        let mut untaken = Untaken::default();
        let idle = Seen { records: 0, ..seen(start) };
        assert_eq!(waited(&mut untaken, at(start, 900), &idle), 0);
        assert_eq!(waited(&mut untaken, at(start, 1_000), &seen(start)), 0);
        assert_eq!(waited(&mut untaken, at(start, 1_130), &seen(start)), 130);
        assert_eq!(waited(&mut untaken, at(start, 1_140), &idle), 0, "it is all gone");
        assert_eq!(waited(&mut untaken, at(start, 1_200), &seen(start)), 0, "and begins anew");
    }

    #[test]
    fn each_record_taken_begins_it_anew() {
        let start = Instant::now();
        let mut untaken = Untaken::default();
        for second in (0..600).step_by(60) {
            let taken_at = Some(at(start, second));
            assert_eq!(waited(&mut untaken, at(start, second), &Seen { taken_at, ..seen(start) }), 0);
            assert_eq!(waited(&mut untaken, at(start, second + 59), &Seen { taken_at, ..seen(start) }), 59);
        }
        let taken_at = Some(at(start, 540));
        assert_eq!(waited(&mut untaken, at(start, 700), &Seen { taken_at, ..seen(start) }), 160);
    }

    #[test]
    fn connections_that_are_replaced_do_not_end_it_and_an_outage_does() {
        let start = Instant::now();
        let mut untaken = Untaken::default();
        let mut second = 0;
        // Every 30 s the connection is replaced, for 2 s there is none.
        while second < 300 {
            let up = Seen { since: at(start, second), ..seen(start) };
            assert_eq!(waited(&mut untaken, at(start, second + 28), &up), second + 28 - 28);
            let down = Seen { connected: false, since: at(start, second + 30), ..seen(start) };
            assert_eq!(waited(&mut untaken, at(start, second + 31), &down), second + 3);
            second += 32;
        }
        let down = Seen { connected: false, since: at(start, second), ..seen(start) };
        assert!(waited(&mut untaken, at(start, second) + AWAY - Duration::from_secs(1), &down) > 300);
        assert_eq!(waited(&mut untaken, at(start, second) + AWAY, &down), 0, "the broker is away");
        let back = Seen { since: at(start, second + 200), ..seen(start) };
        assert_eq!(waited(&mut untaken, at(start, second + 201), &back), 0);
        assert_eq!(waited(&mut untaken, at(start, second + 321), &back), 120);
    }
}
