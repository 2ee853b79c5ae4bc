//! When to try again, and with which version of MQTT: a pure decision after each failed or lost connection.
//!
//! | what happened | next attempt |
//! |---|---|
//! | unreachable, silent, lost | 1 s, doubling to 5 min, each time drawn anew from the upper half |
//! | CONNACK 0x01 / 0x84, or three closes before any CONNACK | 3.1.1, if the owner said `auto`; 5 again an hour later |
//! | credentials refused | 30 s, doubling to 5 min: locking an account out helps nobody |
//! | 0x8E, or lost within 10 s of CONNACK, again and again | 1 min, doubling to 5 min: somebody else has our client id |
//!
//! A working 3.1.1 connection is never broken to try 5: the hour only decides what the next attempt speaks.

use std::time::{Duration, Instant};

use super::settings::Protocol;
use super::wire::Version;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);
const CREDENTIALS_FIRST: Duration = Duration::from_secs(30);
const TAKEN_OVER_FIRST: Duration = Duration::from_secs(60);
/// A connection lost sooner after its CONNACK may have been taken over.
pub const QUICK: Duration = Duration::from_secs(10);
/// A connection that lasted so long has no rival.
const PEACE: Duration = Duration::from_secs(600);
/// So many take-overs told by 0x8E in a row are a rival.
const TAKE_OVERS: u32 = 3;
/// So many quick losses without a word in a row are probably one.
const QUICK_LOSSES: u32 = 5;
/// So many closes before any CONNACK make us try 3.1.1.
const CLOSES: u32 = 3;
const TRY_V5_AGAIN: Duration = Duration::from_secs(3600);

/// How an attempt or a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// DNS, TCP or TLS failed, or the broker did not answer in time.
    Unreachable,
    /// TLS or CONNACK says that we are not who may connect.
    CredentialsRefused,
    /// The broker closed the connection after CONNECT and before any CONNACK.
    ClosedBeforeConnack,
    /// CONNACK 0x01 or 0x84.
    VersionRefused,
    /// Any other refusal by CONNACK.
    Refused,
    /// The connection had its CONNACK and is gone.
    Lost {
        /// How long after CONNACK.
        lasted: Duration,
        /// What it was, as far as it bears on a take-over.
        how: Lost,
    },
}

/// How a connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// DISCONNECT 0x8E.
    TakenOver,
    /// Closed without a word.
    Closed,
    /// For a reason that explains itself: another DISCONNECT code, silence, a record under suspicion, our own wish.
    Explained,
}

/// What is worth telling beside the time of the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// From now on 3.1.1 is spoken.
    FellBack,
    /// The client id is probably used elsewhere.
    ClientIdElsewhere,
}

/// The memory of attempts.
#[derive(Clone, Debug)]
pub struct Reconnect {
    protocol: Protocol,
    random: u64,
    failures: u32,
    refusals: u32,
    closes: u32,
    quick_losses: u32,
    take_overs: u32,
    fell_back: Option<Instant>,
    trying_v5_again: bool,
    attempt_at: Instant,
}

impl Reconnect {
    /// The first attempt is due at once. `seed` spreads a fleet's attempts.
    pub fn new(now: Instant, protocol: Protocol, seed: u64) -> Reconnect {
        Reconnect {
            protocol,
            random: seed,
            failures: 0,
            refusals: 0,
            closes: 0,
            quick_losses: 0,
            take_overs: 0,
            fell_back: None,
            trying_v5_again: false,
            attempt_at: now,
        }
    }

    /// When the next attempt is due.
    pub fn attempt_at(&self) -> Instant {
        self.attempt_at
    }

    /// Makes the next attempt due at once and forgets how long it was to wait: something was changed.
    pub fn retry_now(&mut self, now: Instant) {
        self.failures = 0;
        self.refusals = 0;
        self.attempt_at = now;
    }

    /// Which version the attempt beginning at `now` speaks.
    pub fn version(&mut self, now: Instant) -> Version {
        match self.protocol {
            Protocol::V5 => Version::V5,
            Protocol::V3_1_1 => Version::V3_1_1,
            Protocol::Auto => match self.fell_back {
                Some(since) if now < since + TRY_V5_AGAIN => Version::V3_1_1,
                Some(_) => {
                    self.trying_v5_again = true;
                    Version::V5
                }
                None => Version::V5,
            },
        }
    }

    /// CONNACK came with success over `version`.
    pub fn handle_accepted(&mut self, version: Version) {
        self.closes = 0;
        self.refusals = 0;
        if version == Version::V5 {
            self.fell_back = None;
        }
        self.trying_v5_again = false;
    }

    /// An attempt over `version` failed, or its connection is gone: decides the next attempt.
    pub fn handle_outcome(&mut self, now: Instant, version: Version, outcome: Outcome) -> Option<Notice> {
        let mut notice = None;
        let mut least = FIRST;
        let mut step = self.failures;
        self.failures = self.failures.saturating_add(1);
        match outcome {
            Outcome::Unreachable => {
                // Nobody takes over what cannot be reached: the broker was away.
                self.quick_losses = 0;
            }
            Outcome::CredentialsRefused => {
                (least, step) = (CREDENTIALS_FIRST, self.refusals);
                self.refusals = self.refusals.saturating_add(1);
            }
            Outcome::VersionRefused => {
                if self.may_change_version() {
                    notice = self.change_version(now, version);
                    step = 0;
                }
            }
            Outcome::ClosedBeforeConnack => {
                self.closes += 1;
                let enough = if self.trying_v5_again { 1 } else { CLOSES };
                if self.closes >= enough && self.may_change_version() {
                    notice = self.change_version(now, version);
                }
            }
            Outcome::Refused => {}
            Outcome::Lost { lasted, how } => {
                if lasted >= QUICK {
                    self.quick_losses = 0;
                    (self.failures, step) = (1, 0);
                }
                if lasted >= PEACE {
                    self.take_overs = 0;
                }
                match how {
                    Lost::TakenOver => self.take_overs += 1,
                    Lost::Closed if lasted < QUICK => self.quick_losses += 1,
                    Lost::Closed | Lost::Explained => {}
                }
                let fights = (self.take_overs.saturating_sub(TAKE_OVERS - 1))
                    .max(self.quick_losses.saturating_sub(QUICK_LOSSES - 1));
                if fights > 0 {
                    (least, step) = (TAKEN_OVER_FIRST, fights - 1);
                    notice = Some(Notice::ClientIdElsewhere);
                }
            }
        }
        let longest = least.saturating_mul(1 << step.min(20)).min(LONGEST);
        self.attempt_at = now + self.draw(longest);
        notice
    }

    fn may_change_version(&self) -> bool {
        self.protocol == Protocol::Auto
    }

    fn change_version(&mut self, now: Instant, from: Version) -> Option<Notice> {
        self.closes = 0;
        self.trying_v5_again = false;
        match from {
            Version::V5 => {
                self.fell_back = Some(now);
                Some(Notice::FellBack)
            }
            // That did not help either: begin again at the top.
            Version::V3_1_1 => {
                self.fell_back = None;
                None
            }
        }
    }

    /// Drawn from the upper half of `longest`, and never under 1 s.
    fn draw(&mut self, longest: Duration) -> Duration {
        // splitmix64: any seed will do, and nothing here needs secrecy.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        let half = longest.max(2 * FIRST) / 2;
        let part = half.as_millis() as u64;
        (half + Duration::from_millis(z % (part + 1))).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: Outcome = Outcome::Lost { lasted: Duration::from_secs(2), how: Lost::Closed };

    fn auto() -> (Reconnect, Instant) {
        let now = Instant::now();
        (Reconnect::new(now, Protocol::Auto, 7), now)
    }

    /// Fails once at the due time; how long until the next attempt.
    fn fail(reconnect: &mut Reconnect, now: &mut Instant, outcome: Outcome) -> (Duration, Option<Notice>) {
        let version = reconnect.version(*now);
        let notice = reconnect.handle_outcome(*now, version, outcome);
        let wait = reconnect.attempt_at() - *now;
        *now = reconnect.attempt_at();
        (wait, notice)
    }

    #[test]
    fn the_wait_doubles_from_one_second_to_five_minutes_and_is_jittered() {
        let (mut reconnect, mut now) = auto();
        let waits: Vec<_> = (0..14).map(|_| fail(&mut reconnect, &mut now, Outcome::Unreachable).0).collect();
        assert!(waits.iter().all(|w| (FIRST..=LONGEST).contains(w)), "{waits:?}");
        assert!(waits[0] <= 2 * FIRST);
        assert!(waits[13] >= LONGEST / 2);
        let mut other = Reconnect::new(now, Protocol::Auto, 8);
        let others: Vec<_> = (0..14).map(|_| fail(&mut other, &mut now, Outcome::Unreachable).0).collect();
        assert_ne!(waits, others);
    }

    #[test]
    fn a_refused_version_falls_back_at_once_and_5_is_tried_again_after_an_hour() {
        let (mut reconnect, mut now) = auto();
        assert_eq!(reconnect.version(now), Version::V5);
        let (wait, notice) = fail(&mut reconnect, &mut now, Outcome::VersionRefused);
        assert_eq!(notice, Some(Notice::FellBack));
        assert!(wait <= 2 * FIRST);
        assert_eq!(reconnect.version(now), Version::V3_1_1);
        reconnect.handle_accepted(Version::V3_1_1);
        now += Duration::from_secs(3599);
        assert_eq!(reconnect.version(now - Duration::from_secs(10)), Version::V3_1_1);
        now += Duration::from_secs(10);
        assert_eq!(reconnect.version(now), Version::V5);
        // Still not: one close is enough this time.
        let (_, notice) = fail(&mut reconnect, &mut now, Outcome::ClosedBeforeConnack);
        assert_eq!(notice, Some(Notice::FellBack));
        assert_eq!(reconnect.version(now), Version::V3_1_1);
    }

    #[test]
    fn three_closes_before_connack_fall_back_but_network_faults_never_do() {
        let (mut reconnect, mut now) = auto();
        for _ in 0..50 {
            fail(&mut reconnect, &mut now, Outcome::Unreachable);
        }
        assert_eq!(reconnect.version(now), Version::V5);
        fail(&mut reconnect, &mut now, Outcome::ClosedBeforeConnack);
        fail(&mut reconnect, &mut now, Outcome::ClosedBeforeConnack);
        assert_eq!(reconnect.version(now), Version::V5);
        fail(&mut reconnect, &mut now, Outcome::ClosedBeforeConnack);
        assert_eq!(reconnect.version(now), Version::V3_1_1);
        for _ in 0..3 {
            fail(&mut reconnect, &mut now, Outcome::ClosedBeforeConnack);
        }
        assert_eq!(reconnect.version(now), Version::V5, "3.1.1 was no better");
    }

    #[test]
    fn a_version_the_owner_named_is_kept() {
        let mut now = Instant::now();
        let mut reconnect = Reconnect::new(now, Protocol::V5, 1);
        for _ in 0..5 {
            assert_eq!(fail(&mut reconnect, &mut now, Outcome::VersionRefused).1, None);
            assert_eq!(reconnect.version(now), Version::V5);
        }
    }

    #[test]
    fn refused_credentials_are_never_tried_tightly() {
        let (mut reconnect, mut now) = auto();
        for _ in 0..10 {
            let (wait, _) = fail(&mut reconnect, &mut now, Outcome::CredentialsRefused);
            assert!(wait >= CREDENTIALS_FIRST / 2, "{wait:?}");
        }
    }

    #[test]
    fn a_rival_for_the_client_id_makes_us_wait_minutes_and_say_so() {
        let taken = Outcome::Lost { lasted: Duration::from_secs(2), how: Lost::TakenOver };
        let (mut reconnect, mut now) = auto();
        assert_eq!(fail(&mut reconnect, &mut now, taken).1, None);
        assert_eq!(fail(&mut reconnect, &mut now, taken).1, None);
        let (wait, notice) = fail(&mut reconnect, &mut now, taken);
        assert_eq!(notice, Some(Notice::ClientIdElsewhere));
        assert!(wait >= Duration::from_secs(30));
        let (wait, _) = fail(&mut reconnect, &mut now, taken);
        assert!(wait >= Duration::from_secs(60));
    }

    #[test]
    fn quick_losses_without_a_word_are_suspected_only_after_five_and_not_while_the_broker_comes_and_goes() {
        let (mut reconnect, mut now) = auto();
        for _ in 0..20 {
            assert_eq!(fail(&mut reconnect, &mut now, LOST).1, None);
            fail(&mut reconnect, &mut now, Outcome::Unreachable);
        }
        let (mut reconnect, mut now) = auto();
        for _ in 0..4 {
            assert_eq!(fail(&mut reconnect, &mut now, LOST).1, None);
        }
        assert_eq!(fail(&mut reconnect, &mut now, LOST).1, Some(Notice::ClientIdElsewhere));
    }

    #[test]
    fn a_connection_that_lasted_begins_at_one_second_again() {
        let (mut reconnect, mut now) = auto();
        for _ in 0..10 {
            fail(&mut reconnect, &mut now, Outcome::Unreachable);
        }
        let lost = Outcome::Lost { lasted: Duration::from_secs(60), how: Lost::Closed };
        assert!(fail(&mut reconnect, &mut now, lost).0 <= 2 * FIRST);
    }
}
