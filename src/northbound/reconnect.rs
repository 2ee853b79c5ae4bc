//! When to try again: a pure decision after each failed or lost connection.
//!
//! | what happened | next attempt |
//! |---|---|
//! | another variant or address is to be tried | within a quarter of a second |
//! | lost while the culprit is searched and others were taken | 1 s, doubling to 4 s |
//! | unreachable, silent, refused | 2 s, doubling to 5 min |
//! | lost | 5 s, doubling to 5 min; 30 s where the broker said that it is away |
//! | credentials refused | 1 min, doubling to 5 min: locking an account out helps nobody |
//! | 0x8E, or over MQTT 3.1.1 lost within moments of CONNACK, again and again | 2 min, doubling to 5 min: somebody else has our client id |
//!
//! Each wait is drawn from the whole span (*full jitter*), so that the gateways of a broker that
//! restarts come back one after the other; the last two from its upper half. The draws follow from
//! the gateway's id: no two gateways have the same.
//!
//! Somebody who waits for the connection may have the next attempt made within 5 s, twice a minute;
//! not after refused credentials, nor while somebody else has our client id.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::time::{Duration, Instant};

use crate::splitmix::SplitMix64;

const AT_ONCE: Duration = Duration::from_millis(250);
const SEARCH_FIRST: Duration = Duration::from_secs(1);
const SEARCH_LONGEST: Duration = Duration::from_secs(4);
const FIRST: Duration = Duration::from_secs(2);
const LOST_FIRST: Duration = Duration::from_secs(5);
const AWAY_FIRST: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(300);
const CREDENTIALS_FIRST: Duration = Duration::from_secs(60);
const TAKEN_OVER_FIRST: Duration = Duration::from_secs(120);
/// Where somebody waits, the next attempt is within this.
const HURRIED: Duration = Duration::from_secs(5);
/// Between two attempts that were made for somebody who waits.
const HURRY_EVERY: Duration = Duration::from_secs(30);
/// No wait is shorter.
const LEAST: Duration = Duration::from_millis(100);
/// A connection lost sooner after its CONNACK did not last.
pub const QUICK: Duration = Duration::from_secs(10);
/// A connection that lasted so long has no rival.
pub const PEACE: Duration = Duration::from_secs(600);
/// So many take-overs told by 0x8E in a row are a rival.
const TAKE_OVERS: u32 = 3;
/// So many quick losses without a word in a row are probably one.
const QUICK_LOSSES: u32 = 5;

/// How an attempt or a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was ended by us, or failed in a way that makes another variant or address the next.
    TryAnother,
    /// DNS, TCP or TLS failed, or the broker did not answer in time.
    Unreachable,
    /// TLS or CONNACK says that we are not who may connect.
    CredentialsRefused,
    /// The broker refused CONNECT otherwise, or closed the connection instead of answering it.
    Refused,
    /// The broker said that it is away for a while.
    Away,
    /// The connection had its CONNACK and is gone.
    Lost {
        /// How long after CONNACK.
        lasted: Duration,
        /// What it was.
        how: Lost,
    },
}

/// How a connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// DISCONNECT 0x8E.
    TakenOver,
    /// Closed without a word, as a broker does that cannot say that it was a take-over.
    Closed,
    /// DISCONNECT with a code that says that the broker is away, or that another is to be used.
    Away,
    /// Over something in flight, while readings were taken: the culprit is searched.
    Search,
    /// For a reason that explains itself: another DISCONNECT code, silence, our own wish.
    Explained,
}

/// The memory of attempts.
#[derive(Clone, Debug)]
pub struct Reconnect {
    random: SplitMix64,
    failures: u32,
    refusals: u32,
    searches: u32,
    quick_losses: u32,
    take_overs: u32,
    attempt_at: Instant,
    /// The present wait is as long as it is for a reason of its own.
    is_patient: bool,
    hurried_at: Option<Instant>,
}

impl Reconnect {
    /// The first attempt is due at once. `gateway`: the id the waits follow from.
    pub fn new(now: Instant, gateway: &str) -> Reconnect {
        Reconnect {
            random: SplitMix64::new(BuildHasherDefault::<DefaultHasher>::default().hash_one(gateway)),
            failures: 0,
            refusals: 0,
            searches: 0,
            quick_losses: 0,
            take_overs: 0,
            attempt_at: now,
            is_patient: false,
            hurried_at: None,
        }
    }

    /// When the next attempt is due.
    pub fn attempt_at(&self) -> Instant {
        self.attempt_at
    }

    /// Makes the next attempt due at once and forgets how long it was to wait: something was
    /// changed.
    pub fn retry_now(&mut self, now: Instant) {
        self.failures = 0;
        self.refusals = 0;
        self.attempt_at = now;
    }

    /// Makes the next attempt due at that time, and not before.
    pub fn wait_until(&mut self, at: Instant) {
        (self.attempt_at, self.is_patient) = (at, true);
    }

    /// Somebody waits for the connection: brings the next attempt forward. How long later ones are
    /// to wait stays. False if nothing is brought forward.
    pub fn hurry(&mut self, now: Instant) -> bool {
        let is_soon = self.attempt_at <= now + HURRIED;
        let was_hurried = self.hurried_at.is_some_and(|at| now.saturating_duration_since(at) < HURRY_EVERY);
        if is_soon || was_hurried || self.is_patient {
            return false;
        }
        self.hurried_at = Some(now);
        self.attempt_at = now + self.draw(HURRIED);
        true
    }

    /// Whether the client id is probably used elsewhere, by the connections until now.
    pub fn has_rival(&self) -> bool {
        self.fights() > 0
    }

    /// How often a rival was met since it is taken for one.
    fn fights(&self) -> u32 {
        let take_overs = self.take_overs.saturating_sub(TAKE_OVERS - 1);
        take_overs.max(self.quick_losses.saturating_sub(QUICK_LOSSES - 1))
    }

    /// CONNACK came with success, and the connection is used.
    pub fn handle_accepted(&mut self) {
        self.refusals = 0;
    }

    /// An attempt failed, or its connection is gone: decides the next attempt. Whether the client
    /// id is probably used elsewhere.
    pub fn handle_outcome(&mut self, now: Instant, outcome: Outcome) -> bool {
        let mut rival = false;
        let step = self.failures;
        if outcome != Outcome::TryAnother {
            self.failures = self.failures.saturating_add(1);
        }
        let wait = match outcome {
            Outcome::TryAnother => self.draw(AT_ONCE),
            Outcome::Unreachable => {
                // Nobody takes over what cannot be reached: the broker was away.
                self.quick_losses = 0;
                self.draw(span(FIRST, step))
            }
            Outcome::Refused => self.draw(span(FIRST, step)),
            Outcome::Away => self.draw(span(AWAY_FIRST, step)),
            Outcome::CredentialsRefused => {
                let step = self.refusals;
                self.refusals = self.refusals.saturating_add(1);
                self.draw_late(span(CREDENTIALS_FIRST, step))
            }
            Outcome::Lost { lasted, how } => {
                let step = if lasted >= QUICK { 0 } else { step };
                self.failures = step.saturating_add(1);
                if lasted >= QUICK {
                    (self.quick_losses, self.searches) = (0, 0);
                }
                if lasted >= PEACE {
                    self.take_overs = 0;
                }
                match how {
                    Lost::TakenOver => self.take_overs += 1,
                    Lost::Closed if lasted < QUICK => self.quick_losses += 1,
                    _ => {}
                }
                let fights = self.fights();
                rival = fights > 0;
                if rival {
                    self.draw_late(span(TAKEN_OVER_FIRST, fights - 1))
                } else if how == Lost::Search {
                    self.failures = 0;
                    let longest = span(SEARCH_FIRST, self.searches).min(SEARCH_LONGEST);
                    self.searches += 1;
                    self.draw(longest)
                } else {
                    let first = if how == Lost::Away { AWAY_FIRST } else { LOST_FIRST };
                    self.draw(span(first, step))
                }
            }
        };
        self.attempt_at = now + wait;
        self.is_patient = rival || outcome == Outcome::CredentialsRefused;
        rival
    }

    /// Drawn from the whole of `longest`.
    fn draw(&mut self, longest: Duration) -> Duration {
        Duration::from_millis(self.random.below(longest.as_millis() as u64 + 1)).max(LEAST)
    }

    /// Drawn from the upper half of `longest`.
    fn draw_late(&mut self, longest: Duration) -> Duration {
        longest / 2 + self.draw(longest / 2)
    }
}

fn span(first: Duration, step: u32) -> Duration {
    first.saturating_mul(1 << step.min(20)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: Outcome = Outcome::Lost { lasted: Duration::from_secs(2), how: Lost::Closed };

    fn new() -> (Reconnect, Instant) {
        let now = Instant::now();
        (Reconnect::new(now, "g"), now)
    }

    /// Fails once at the due time; how long until the next attempt, and whether a rival is
    /// suspected.
    fn fail(reconnect: &mut Reconnect, now: &mut Instant, outcome: Outcome) -> (Duration, bool) {
        let rival = reconnect.handle_outcome(*now, outcome);
        let wait = reconnect.attempt_at() - *now;
        *now = reconnect.attempt_at();
        (wait, rival)
    }

    #[test]
    fn refused_credentials_are_never_tried_tightly() {
        let (mut reconnect, mut now) = new();
        for _ in 0..10 {
            let (wait, _) = fail(&mut reconnect, &mut now, Outcome::CredentialsRefused);
            assert!(wait >= CREDENTIALS_FIRST / 2, "{wait:?}");
        }
    }

    #[test]
    fn who_waits_has_an_attempt_made_within_seconds_twice_a_minute_and_later_waits_stay_long() {
        let (mut reconnect, mut now) = new();
        for _ in 0..20 {
            fail(&mut reconnect, &mut now, Outcome::Unreachable);
        }
        let mut attempts = 0;
        for second in 0..600 {
            let at = now + Duration::from_secs(second);
            if reconnect.hurry(at) {
                assert!(reconnect.attempt_at() <= at + HURRIED);
            }
            if reconnect.attempt_at() <= at {
                attempts += 1;
                reconnect.handle_outcome(at, Outcome::Unreachable);
            }
        }
        assert!((15..=40).contains(&attempts), "{attempts}");
        let longest = (0..50).map(|_| fail(&mut reconnect, &mut now, Outcome::Unreachable).0).max();
        assert!(longest > Some(Duration::from_secs(200)), "{longest:?}");
    }

    #[test]
    fn nobody_hurries_where_credentials_were_refused_or_somebody_else_has_the_client_id() {
        let (mut reconnect, mut now) = new();
        fail(&mut reconnect, &mut now, Outcome::CredentialsRefused);
        reconnect.handle_outcome(now, Outcome::CredentialsRefused);
        assert!(!reconnect.hurry(now));
        let taken = Outcome::Lost { lasted: Duration::from_secs(2), how: Lost::TakenOver };
        let (mut reconnect, mut now) = new();
        while !fail(&mut reconnect, &mut now, taken).1 {}
        reconnect.handle_outcome(now, taken);
        assert!(!reconnect.hurry(now));
    }

    #[test]
    fn a_rival_for_the_client_id_makes_us_wait_minutes_and_say_so() {
        let taken = Outcome::Lost { lasted: Duration::from_secs(2), how: Lost::TakenOver };
        let (mut reconnect, mut now) = new();
        assert!(!fail(&mut reconnect, &mut now, taken).1);
        assert!(!fail(&mut reconnect, &mut now, taken).1);
        let (wait, rival) = fail(&mut reconnect, &mut now, taken);
        assert!(rival);
        assert!(wait >= Duration::from_secs(60));
        let (wait, _) = fail(&mut reconnect, &mut now, taken);
        assert!(wait >= Duration::from_secs(120));
    }

    #[test]
    fn quick_losses_without_a_word_are_suspected_only_after_five_and_not_while_the_broker_comes_and_goes() {
        let (mut reconnect, mut now) = new();
        for _ in 0..20 {
            assert!(!fail(&mut reconnect, &mut now, LOST).1);
            fail(&mut reconnect, &mut now, Outcome::Unreachable);
        }
        let (mut reconnect, mut now) = new();
        for _ in 0..4 {
            assert!(!fail(&mut reconnect, &mut now, LOST).1);
        }
        assert!(fail(&mut reconnect, &mut now, LOST).1);
    }

    #[test]
    fn a_connection_that_lasted_begins_at_the_shortest_span_again() {
        let (mut reconnect, mut now) = new();
        for _ in 0..10 {
            fail(&mut reconnect, &mut now, Outcome::Unreachable);
        }
        let lost = Outcome::Lost { lasted: Duration::from_secs(60), how: Lost::Closed };
        assert!(fail(&mut reconnect, &mut now, lost).0 <= LOST_FIRST);
    }

    #[test]
    fn the_culprit_is_searched_at_seconds_however_often() {
        let (mut reconnect, mut now) = new();
        let search = Outcome::Lost { lasted: Duration::from_secs(1), how: Lost::Search };
        for _ in 0..50 {
            assert!(fail(&mut reconnect, &mut now, search).0 <= SEARCH_LONGEST);
        }
    }

    #[test]
    fn a_thousand_gateways_come_back_spread_over_the_span_and_each_as_before() {
        let now = Instant::now();
        let lost = Outcome::Lost { lasted: Duration::from_secs(3600), how: Lost::Closed };
        let wait = |number: u32| {
            let mut reconnect = Reconnect::new(now, &format!("tb-{number}"));
            reconnect.handle_outcome(now, lost);
            reconnect.attempt_at() - now
        };
        let mut by_second = [0u32; 5];
        for number in 0..1000 {
            by_second[wait(number).as_secs().min(4) as usize] += 1;
        }
        assert!(by_second.iter().all(|count| (140..260).contains(count)), "{by_second:?}");
        assert_eq!(wait(7), wait(7));
    }
}
