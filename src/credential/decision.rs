//! When a certificate is renewed: a pure decision, by the wall clock and what was tried before.
//!
//! | the certificate | the decision |
//! |---|---|
//! | is valid and not yet due, or the clock is not trusted | [`Decision::Wait`] |
//! | is due | [`Decision::Renew`], with the certificate itself |
//! | is due, and an attempt failed lately | [`Decision::RetryAt`] |
//! | has expired or is missing | [`Decision::UseBootstrap`]: enrol anew, by what the source takes for that |
//! | has expired or is missing, and nothing can enrol | [`Decision::Expired`]: a person has to |
//! | is refused by its peer, again and again, or a person asks | as if it were due |
//!
//! **Due** is at 66 % of the life, 10 % of it sooner or later: each gateway has its own place in
//! that span, which follows from its id, so that a thousand gateways do not ask in one hour. The
//! life begins with notBefore, or when this gateway obtained the certificate if that was later. So
//! a certificate that was backdated, or is cut short by its issuer's end, is not due again at once
//! (step cli #523 renewed every 4 s).
//!
//! **After a failure** it is asked again after 60 s, then twice as long each time, up to 6 h, a
//! tenth of the life, and 15 min once 90 % of the life have passed.
//!
//! **The clock.** While it is not trusted nothing is due and nothing has expired: a board that
//! boots in 1970 or in 2046 keeps its certificate. A missing certificate is asked for all the same,
//! since without it there may be no connection that could ever set the clock right. So is one that
//! a person asks for, and one in place of what the peer refuses: neither follows from this clock.
//! What was tried in the future, by a clock that was wrong then, is not waited for.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::time::Duration;

use crate::clock::UnixTime;
use crate::splitmix::SplitMix64;

/// Least time between two attempts.
pub const SPACING: Duration = Duration::from_secs(60);
/// Longest wait after a failure.
pub const LONGEST: Duration = Duration::from_secs(6 * 3600);
/// Longest wait once nine tenths of the life have passed, or the certificate is gone.
pub const LONGEST_LATE: Duration = Duration::from_secs(15 * 60);
/// A certificate that expires within this time is near its end.
pub const NEAR_END: Duration = Duration::from_secs(86_400);
/// Default of `renew-at`, in percent.
pub const RENEW_AT: u8 = 66;
/// Of the life, in percent: how far a gateway's own place is from [`RENEW_AT`].
const SPREAD: u64 = 10;
/// From this share of the life on, in percent, it is late.
const LATE: u64 = 90;
/// 9999-12-31T23:59:59Z: "no well-defined expiration date" (RFC 5280 §4.1.2.5).
pub const NEVER: UnixTime = UnixTime::from_secs(253_402_300_799);

/// What is said of a `renew-before` that has no effect.
pub const BEFORE_TOO_LONG: &str = "renew-before is longer than 90 % of its life, so the next one is asked for at 66 % of it; \
                                   set a shorter renew-before, or renew-at";

/// When a certificate is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewAt {
    /// After this share of its life, in percent, `10 ..= 90`.
    Share(u8),
    /// So long before it expires. Where that is more than 90 % of the life, [`RENEW_AT`] counts.
    Before(Duration),
}

impl Default for RenewAt {
    fn default() -> RenewAt {
        RenewAt::Share(RENEW_AT)
    }
}

/// What a certificate's owner configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// When it is due.
    pub renew_at: RenewAt,
    /// What this gateway's place in the span follows from: its id and the certificate's name.
    pub seed: String,
    /// Whether the source can issue without a valid certificate: with a bootstrap certificate, a
    /// password, or a program that has its own ways.
    pub may_enroll: bool,
    /// Certificates come by hand, or from another program: none is ever ordered.
    pub by_hand: bool,
}

/// From when until when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// notBefore
    pub not_before: UnixTime,
    /// notAfter: the last second it is valid.
    pub not_after: UnixTime,
}

/// What was done before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// When the certificate came into use, by a trusted clock.
    pub obtained: Option<UnixTime>,
    /// When one was asked for last, and did not come into use.
    pub last_attempt: Option<UnixTime>,
    /// How often in a row that failed.
    pub failures: u32,
    /// A new one is wanted before it is due: a person asked, or the one before had to be taken
    /// back. It stays so until there is one.
    pub asked: bool,
    /// Whether the peer refuses the present one.
    pub refused: Refused,
}

/// Whether the peer refuses the present certificate, again and again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refused {
    /// It does not.
    #[default]
    No,
    /// It does.
    Yes,
    /// It does, and says that the certificate has expired.
    AsExpired,
}

/// The clock, with the verdict on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// What it says.
    pub now: UnixTime,
    /// Whether it is trusted.
    pub trusted: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing until then.
    Wait(UnixTime),
    /// Ask for the next certificate with the present one.
    Renew,
    /// It is due, and an attempt failed: ask again then.
    RetryAt(UnixTime),
    /// Ask for a certificate as if it were the first.
    UseBootstrap,
    /// There is none that is valid, and nothing to enrol with.
    Expired,
}

impl Validity {
    /// Its length, in milliseconds, from `begin` on.
    fn life(&self, begin: UnixTime) -> u64 {
        self.not_after.0.saturating_sub(begin.0)
    }

    /// Whether `now` is after its end. It is valid through the whole second of notAfter.
    pub fn has_expired(&self, now: UnixTime) -> bool {
        now.0 > self.not_after.0.saturating_add(999)
    }
}

/// When a certificate is due, whatever was tried.
pub fn due(validity: Validity, obtained: Option<UnixTime>, settings: &Settings) -> UnixTime {
    let begin = begin(validity, obtained);
    let life = validity.life(begin);
    // Within -SPREAD ..= SPREAD percent of the span, in thousandths of a percent.
    let place = place(&settings.seed);
    let share = |percent: u64, of: u64| {
        let thousandths = (percent * 1000).saturating_add(place).saturating_sub(SPREAD * 1000);
        (u128::from(of) * u128::from(thousandths) / 100_000) as u64
    };
    let default = |percent: u8| begin.0.saturating_add(share(u64::from(percent), life));
    UnixTime(match settings.renew_at {
        RenewAt::Share(percent) => default(percent),
        RenewAt::Before(before) => {
            let before = u64::try_from(before.as_millis()).unwrap_or(u64::MAX);
            let before = u64::try_from(u128::from(before) * u128::from(90_000 + place) / 100_000);
            match before.unwrap_or(u64::MAX) {
                before if u128::from(before) * 100 > u128::from(life) * u128::from(LATE) => default(RENEW_AT),
                before => validity.not_after.0.saturating_sub(before),
            }
        }
    })
}

/// Whether `renew-before` is more of the life than [`LATE`] percent, so that [`RENEW_AT`] counts
/// in its place.
pub fn is_before_too_long(validity: Validity, obtained: Option<UnixTime>, renew_at: RenewAt) -> bool {
    let RenewAt::Before(before) = renew_at else { return false };
    let life = validity.life(begin(validity, obtained));
    validity.not_after < NEVER && before.as_millis() * 100 > u128::from(life) * u128::from(LATE)
}

/// A gateway's own place, `0 ..= 2 * SPREAD * 1000`.
fn place(seed: &str) -> u64 {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(seed);
    SplitMix64::new(hash).below(2 * SPREAD * 1000 + 1)
}

fn begin(validity: Validity, obtained: Option<UnixTime>) -> UnixTime {
    let obtained = obtained.filter(|at| *at <= validity.not_after);
    obtained.unwrap_or_default().max(validity.not_before)
}

/// Whether so little of the life is left that nothing is lost by what may cost the connection: a
/// tenth, and at most [`NEAR_END`].
pub fn is_near_end(validity: Validity, obtained: Option<UnixTime>, now: UnixTime) -> bool {
    let life = Duration::from_millis(validity.life(begin(validity, obtained)));
    let left = Duration::from_millis(validity.not_after.0.saturating_sub(now.0));
    left <= (life / 10).min(NEAR_END)
}

/// Whether nine tenths of the life have passed.
pub fn is_late(validity: Validity, obtained: Option<UnixTime>, now: UnixTime) -> bool {
    let begin = begin(validity, obtained);
    let passed = now.0.saturating_sub(begin.0);
    u128::from(passed) * 100 >= u128::from(validity.life(begin)) * u128::from(LATE)
}

/// How long it may be waited because a source says "not yet": until nine tenths of the life have
/// passed, and then until its end; `None`: it is over, and nothing bounds it any more.
pub fn longest_delay(validity: Validity, obtained: Option<UnixTime>, now: UnixTime) -> Option<Duration> {
    if validity.has_expired(now) {
        return None;
    }
    let begin = begin(validity, obtained);
    let late = begin.0.saturating_add((u128::from(validity.life(begin)) * u128::from(LATE) / 100) as u64);
    // It is valid through the whole second of notAfter.
    let end = validity.not_after.0.saturating_add(1_000);
    let until = if now.0 < late { late } else { end };
    Some(Duration::from_millis(until.saturating_sub(now.0)))
}

/// When what decided nothing is repeated, after so many times in a row: where the present
/// certificate serves with patience, since each time may cost its connection.
pub fn repeat_in(
    times: u32,
    present: Option<Validity>,
    obtained: Option<UnixTime>,
    clock: Clock,
    serves: bool,
) -> Duration {
    let Some(present) = present.filter(|_| serves) else { return back_off(times, None, true) };
    if !clock.trusted {
        return back_off(times, None, false);
    }
    let life = Duration::from_millis(present.life(begin(present, obtained)));
    let left = Duration::from_millis(present.not_after.0.saturating_sub(clock.now.0));
    let wait = back_off(times, Some(life), is_late(present, obtained, clock.now));
    wait.min(left / 4).max(SPACING)
}

/// How long to wait after so many failures in a row.
pub fn back_off(failures: u32, life: Option<Duration>, late: bool) -> Duration {
    let longest = if late { LONGEST_LATE } else { LONGEST };
    let of_life = life.map_or(longest, |life| life / 10);
    let doubled = SPACING.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1).min(20)));
    doubled.min(longest).min(of_life).max(SPACING)
}

/// Decides. `validity`: of the present certificate, if there is one.
pub fn decide(clock: Clock, validity: Option<Validity>, history: &History, settings: &Settings) -> Decision {
    let now = clock.now;
    let is_wanted = history.asked || history.refused != Refused::No;
    let (renewal, late, life) = match validity {
        None => (false, true, None),
        Some(validity) if !clock.trusted => {
            if !is_wanted {
                return Decision::Wait(due(validity, history.obtained, settings));
            }
            // Its dates say nothing by this clock, but the peer does.
            let is_over = history.refused == Refused::AsExpired && settings.may_enroll;
            (!is_over, true, None)
        }
        Some(validity) if validity.has_expired(now) => (false, true, None),
        Some(validity) => {
            let due = due(validity, history.obtained, settings);
            if now < due && !is_wanted {
                return Decision::Wait(due);
            }
            let life = validity.life(begin(validity, history.obtained));
            (true, is_late(validity, history.obtained, now), Some(Duration::from_millis(life)))
        }
    };
    if !renewal && !settings.may_enroll {
        return Decision::Expired;
    }
    // What lies in the future was noted by a clock that was wrong, or is so now.
    if let Some(last) = history.last_attempt.filter(|last| *last <= now) {
        let wait = back_off(history.failures, life, late);
        let at = UnixTime(last.0.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)));
        if now < at {
            return Decision::RetryAt(at);
        }
    }
    if renewal { Decision::Renew } else { Decision::UseBootstrap }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;
    /// 2026-07-01
    const NOW: u64 = 1_782_864_000;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::from_secs(seconds)
    }

    fn trusted(seconds: u64) -> Clock {
        Clock { now: at(seconds), trusted: true }
    }

    fn settings(seed: &str) -> Settings {
        Settings { renew_at: RenewAt::default(), seed: seed.to_owned(), may_enroll: true, by_hand: false }
    }

    fn valid(from: u64, life: u64) -> Validity {
        Validity { not_before: at(from), not_after: at(from + life) }
    }

    /// A gateway in virtual time: an issuer that answers, or does not.
    struct World {
        now: u64,
        held: Option<Validity>,
        history: History,
        settings: Settings,
        orders: Vec<u64>,
        bootstraps: u32,
    }

    impl World {
        fn new(seed: &str, life: u64) -> World {
            World {
                now: NOW,
                held: Some(valid(NOW, life)),
                history: History { obtained: Some(at(NOW)), ..History::default() },
                settings: settings(seed),
                orders: Vec::new(),
                bootstraps: 0,
            }
        }

        /// To the next moment at which something is to be done, or `until`. `issue`: what comes of
        /// an order.
        fn step(&mut self, until: u64, issue: &mut dyn FnMut(u64) -> Option<Validity>) {
            match decide(trusted(self.now), self.held, &self.history, &self.settings) {
                Decision::Wait(next) | Decision::RetryAt(next) => {
                    assert!(next > at(self.now), "a wait that is over");
                    self.now = next.0.div_ceil(1000).min(until);
                }
                Decision::Expired => self.now = until,
                decision => {
                    if decision == Decision::UseBootstrap {
                        self.bootstraps += 1;
                    }
                    self.orders.push(self.now);
                    match issue(self.now) {
                        Some(validity) => {
                            self.held = Some(validity);
                            self.history = History { obtained: Some(at(self.now)), ..History::default() };
                        }
                        None => {
                            self.history.failures += 1;
                            self.history.last_attempt = Some(at(self.now));
                        }
                    }
                }
            }
        }

        fn run(&mut self, until: u64, mut issue: impl FnMut(u64) -> Option<Validity>) {
            while self.now < until {
                self.step(until, &mut issue);
                if let Some(held) = self.held {
                    assert!(!held.has_expired(at(self.now)) || self.now >= until, "an outage");
                }
            }
        }
    }

    #[test]
    fn a_year_of_seven_day_certificates_has_no_outage() {
        for seed in ["a", "b", "c", "tb-1234"] {
            let mut world = World::new(seed, 7 * DAY);
            let mut seen = 0u64;
            // Every third order fails, and once the issuer is away for two days.
            world.run(NOW + 365 * DAY, |now| {
                seen += 1;
                let away = (NOW + 100 * DAY..NOW + 102 * DAY).contains(&now);
                (!seen.is_multiple_of(3) && !away).then(|| valid(now, 7 * DAY))
            });
            assert_eq!(world.bootstraps, 0);
            assert!((60..150).contains(&world.orders.len()), "{}", world.orders.len());
            assert!(world.orders.windows(2).all(|pair| pair[1] - pair[0] >= 60), "at least 60 s apart");
        }
    }

    #[test]
    fn a_thousand_gateways_are_spread_over_a_fifth_of_the_life() {
        let life = 100 * DAY;
        let dues: Vec<u64> = (0..1_000)
            .map(|n| due(valid(NOW, life), None, &settings(&format!("gw-{n}"))).as_secs() - NOW)
            .collect();
        assert!(dues.iter().all(|due| (56 * DAY..=76 * DAY).contains(due)));
        for day in 56..76 {
            let of_the_day = dues.iter().filter(|due| (day * DAY..(day + 1) * DAY).contains(due)).count();
            assert!((20..=90).contains(&of_the_day), "{of_the_day} on day {day}");
        }
    }

    #[test]
    fn nothing_is_due_and_nothing_has_expired_while_the_clock_is_not_trusted() {
        let (held, settings) = (Some(valid(NOW, 7 * DAY)), settings("a"));
        for now in [0, NOW, NOW + 6 * DAY, NOW + 20 * 365 * DAY] {
            let clock = Clock { now: at(now), trusted: false };
            let decision = decide(clock, held, &History::default(), &settings);
            assert!(matches!(decision, Decision::Wait(_)), "{now}: {decision:?}");
        }
        let clock = Clock { now: at(0), trusted: false };
        let missing = decide(clock, None, &History::default(), &settings);
        assert_eq!(missing, Decision::UseBootstrap, "in 1970 too");
    }

    #[test]
    fn a_clock_that_was_twenty_years_ahead_delays_nothing_afterwards() {
        let history =
            History { last_attempt: Some(at(NOW + 20 * 365 * DAY)), failures: 9, ..History::default() };
        let decision = decide(trusted(NOW + 6 * DAY), Some(valid(NOW, 7 * DAY)), &history, &settings("a"));
        assert_eq!(decision, Decision::Renew);
        // Nor does it make the life of what was obtained then begin after its end.
        let history = History { obtained: Some(at(NOW + 20 * 365 * DAY)), ..History::default() };
        let due = due(valid(NOW, 7 * DAY), history.obtained, &settings("a"));
        assert!(due < at(NOW + 6 * DAY));
    }

    #[test]
    fn a_machine_that_slept_past_the_due_time_renews_when_it_wakes() {
        let (held, settings) = (Some(valid(NOW, 7 * DAY)), settings("a"));
        let Decision::Wait(due) = decide(trusted(NOW), held, &History::default(), &settings) else {
            panic!()
        };
        let awake = due.as_secs() + DAY;
        assert_eq!(decide(trusted(awake), held, &History::default(), &settings), Decision::Renew);
        let late = decide(trusted(NOW + 8 * DAY), held, &History::default(), &settings);
        assert_eq!(late, Decision::UseBootstrap);
        let alone = Settings { may_enroll: false, ..settings };
        assert_eq!(decide(trusted(NOW + 8 * DAY), held, &History::default(), &alone), Decision::Expired);
    }

    #[test]
    fn failures_are_further_and_further_apart_and_closer_again_towards_the_end() {
        let mut world = World::new("a", 90 * DAY);
        world.run(NOW + 90 * DAY, |_| None);
        let gaps: Vec<u64> = world.orders.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(gaps[..3], [60, 120, 240]);
        assert_eq!(*gaps.iter().max().unwrap(), 6 * 3600);
        assert!(gaps[gaps.len() - 20..].iter().all(|gap| *gap == 15 * 60), "{:?}", &gaps[gaps.len() - 3..]);
        assert_eq!(world.bootstraps, 0);
        // Expired: the bootstrap certificate, as often.
        world.now = NOW + 91 * DAY;
        world.step(NOW + 92 * DAY, &mut |_| None);
        assert_eq!(world.bootstraps, 1);
    }

    #[test]
    fn what_is_due_by_its_dates_when_it_comes_is_not_renewed_in_a_loop() {
        // Backdated by most of its life; or `renew-before` is longer than the life.
        for renew_at in [RenewAt::default(), RenewAt::Before(Duration::from_secs(30 * DAY))] {
            let mut world = World::new("a", DAY);
            world.settings.renew_at = renew_at;
            world.run(NOW + 10 * DAY, |now| {
                Some(Validity { not_before: at(now - 30 * DAY), not_after: at(now + DAY) })
            });
            assert!((10..=20).contains(&world.orders.len()), "{renew_at:?}: {}", world.orders.len());
        }
    }

    #[test]
    fn the_last_tenth_of_a_life_is_near_its_end_and_of_a_long_one_the_last_day() {
        for (life, near) in [(300, 30), (7 * DAY, 7 * DAY / 10), (365 * DAY, DAY)] {
            let held = valid(NOW, life);
            let is_near = |left: u64| is_near_end(held, None, at(NOW + life - left));
            assert!(!is_near(near + 1) && is_near(near) && is_near(0), "{life}");
            assert!(is_near_end(held, None, at(NOW + 2 * life)), "{life}");
        }
        let endless = Validity { not_before: at(NOW), not_after: NEVER };
        assert!(!is_near_end(endless, None, at(NOW + 20 * 365 * DAY)));
    }

    #[test]
    fn renew_before_counts_from_the_end() {
        let before = Settings { renew_at: RenewAt::Before(Duration::from_secs(30 * DAY)), ..settings("a") };
        let due = due(valid(NOW, 90 * DAY), None, &before).as_secs();
        assert!((NOW + 57 * DAY..=NOW + 63 * DAY).contains(&due), "{}", (due - NOW) / DAY);
    }

    #[test]
    fn a_renew_before_that_is_longer_than_the_life_is_known_to_have_no_effect() {
        let month = RenewAt::Before(Duration::from_secs(30 * DAY));
        assert!(is_before_too_long(valid(NOW, 3600), None, month));
        assert!(!is_before_too_long(valid(NOW, 90 * DAY), None, month));
        // Taken into use late, its life is shorter.
        assert!(is_before_too_long(valid(NOW, 90 * DAY), Some(at(NOW + 60 * DAY)), month));
        assert!(!is_before_too_long(valid(NOW, 3600), None, RenewAt::default()));
    }

    #[test]
    fn a_certificate_without_end_is_not_due() {
        let held = Some(Validity { not_before: at(NOW), not_after: NEVER });
        let Decision::Wait(due) = decide(trusted(NOW), held, &History::default(), &settings("a")) else {
            panic!();
        };
        assert!(due > at(NOW + 4_000 * 365 * DAY));
    }

    #[test]
    fn what_a_person_asks_for_does_not_wait_until_it_is_due() {
        let asked = History { asked: true, ..History::default() };
        let decision = decide(trusted(NOW + DAY), Some(valid(NOW, 7 * DAY)), &asked, &settings("a"));
        assert_eq!(decision, Decision::Renew);
    }

    #[test]
    fn what_the_peer_refuses_is_replaced_long_before_it_is_due_and_not_in_a_loop() {
        let mut world = World::new("a", 300 * DAY);
        let early = |world: &World| decide(trusted(NOW + DAY), world.held, &world.history, &world.settings);
        assert!(matches!(early(&world), Decision::Wait(_)));
        world.history.refused = Refused::Yes;
        assert_eq!(early(&world), Decision::Renew);
        world.run(NOW + 2 * DAY, |_| None);
        let gaps: Vec<u64> = world.orders.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!((gaps[0], *gaps.iter().max().unwrap()), (60, 6 * 3600));
        assert!(world.orders.len() < 20, "{}", world.orders.len());
    }

    #[test]
    fn without_a_trusted_clock_a_person_and_a_peer_that_says_expired_are_heard_all_the_same() {
        let (held, settings) = (Some(valid(NOW, 7 * DAY)), settings("a"));
        for now in [0, NOW + 20 * 365 * DAY] {
            let clock = Clock { now: at(now), trusted: false };
            let asked = History { asked: true, ..History::default() };
            assert_eq!(decide(clock, held, &asked, &settings), Decision::Renew);
            let refused = |refused| History { refused, ..History::default() };
            assert_eq!(decide(clock, held, &refused(Refused::Yes), &settings), Decision::Renew);
            let expired = refused(Refused::AsExpired);
            assert_eq!(decide(clock, held, &expired, &settings), Decision::UseBootstrap);
            let alone = Settings { may_enroll: false, ..settings.clone() };
            assert_eq!(decide(clock, held, &expired, &alone), Decision::Renew, "its source may take it");
            let failed = History { last_attempt: Some(at(now)), failures: 1, ..asked };
            assert_eq!(decide(clock, held, &failed, &settings), Decision::RetryAt(at(now + 60)));
        }
    }

    #[test]
    fn five_minute_certificates_are_renewed_in_time() {
        let mut world = World::new("a", 300);
        let mut seen = 0u64;
        world.run(NOW + DAY, |now| {
            seen += 1;
            seen.is_multiple_of(2).then(|| valid(now, 300))
        });
        assert_eq!(world.bootstraps, 0);
    }
}
