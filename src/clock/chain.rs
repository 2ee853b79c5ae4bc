//! The time at which an upstream certificate chain is verified, and what the result proves about
//! the clock.
//!
//! | clock | verification time of the chain |
//! |---|---|
//! | trusted | the clock's time; if the floor is later, the chain must also not be expired at the floor |
//! | trusted, but so far only because the kernel reports it as synchronised | the clock's time; if the chain is expired or not yet valid then: as if not trusted |
//! | not trusted, or in doubt | the floor; if the only fault is *not valid yet*, the notBefore of each presented certificate, the earliest first |
//!
//! A chain that had expired at the floor is refused, and every other check applies. A clock in
//! doubt is then tried as well: a chain that is also valid at its time, and whose leaf is valid for
//! at most [`LEAF_MAX`], proves the clock.

use std::time::Duration;

use super::{UnixTime, WallClock};

/// Longest validity of a leaf that counts as evidence for the time.
pub const LEAF_MAX: Duration = Duration::from_secs(400 * 86_400);

/// Most presented certificates whose notBefore is tried; a peer may send hundreds.
pub const PRESENTED_MAX: usize = 10;

/// The validity of a verified path without the trust anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainValidity {
    /// The newest notBefore on the path: a time that has certainly passed.
    pub not_before: UnixTime,
    /// The earliest notAfter on the path.
    pub not_after: UnixTime,
    /// The total validity of the leaf.
    pub leaf: Duration,
}

impl ChainValidity {
    /// For a path whose dates cannot be read: it is no evidence for the time.
    pub const UNKNOWN: ChainValidity =
        ChainValidity { not_before: UnixTime(0), not_after: UnixTime(u64::MAX), leaf: Duration::MAX };

    /// Whether being valid at a time is evidence for that time.
    pub fn is_evidence(&self) -> bool {
        self.leaf <= LEAF_MAX
    }

    /// Whether the path is valid at `time`.
    pub fn contains(&self, time: UnixTime) -> bool {
        self.not_before <= time && time <= self.not_after
    }
}

/// Why a chain is not accepted at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault<E> {
    /// A certificate of it is not valid before a later time.
    NotYetValid(E),
    /// A certificate of it has expired.
    Expired(E),
    /// Another fault, independent of the time.
    Other(E),
}

impl<E> Fault<E> {
    /// The verifier's error.
    pub fn into_error(self) -> E {
        match self {
            Fault::NotYetValid(error) | Fault::Expired(error) | Fault::Other(error) => error,
        }
    }
}

/// An accepted chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The verified path.
    pub path: ChainValidity,
    /// The path that is also valid at the time of a clock in doubt.
    pub doubted: Option<ChainValidity>,
}

impl Accepted {
    /// Passes the evidence to the clock. Call it after the peer has proved possession of the leaf's
    /// key.
    pub fn teach(&self, clock: &dyn WallClock) {
        clock.learn(self.path);
        if let Some(path) = self.doubted {
            clock.learn(path);
        }
    }
}

/// Verifies a chain by the rules of this module. `verify` checks everything at a given time and
/// returns the path; `not_befores` are those of all presented certificates, in the path or not.
///
/// # Errors
/// The verifier's error: at the clock's time or the floor, or a fault that is independent of the
/// time.
pub fn accept<E>(
    clock: &dyn WallClock,
    not_befores: impl IntoIterator<Item = UnixTime>,
    verify: impl Fn(UnixTime) -> Result<ChainValidity, Fault<E>>,
) -> Result<Accepted, E> {
    let at_floor = |floor| at_floor(floor, not_befores, &verify).map_err(Fault::into_error);
    if let Some(now) = clock.wall() {
        match verify(now) {
            Ok(path) => {
                if clock.floor() > now {
                    at_floor(clock.floor())?;
                }
                return Ok(Accepted { path, doubted: None });
            }
            Err(Fault::Expired(_) | Fault::NotYetValid(_)) if clock.is_refutable() => {}
            Err(fault) => return Err(fault.into_error()),
        }
    }
    let path = at_floor(clock.floor())?;
    let doubted = clock.doubted().and_then(|time| verify(time).ok());
    Ok(Accepted { path, doubted })
}

/// A path that is valid at one of these times is also valid at its own newest notBefore, so trying
/// a notBefore that is not in the path accepts nothing more.
fn at_floor<E>(
    floor: UnixTime,
    not_befores: impl IntoIterator<Item = UnixTime>,
    verify: impl Fn(UnixTime) -> Result<ChainValidity, Fault<E>>,
) -> Result<ChainValidity, Fault<E>> {
    let mut fault = match verify(floor) {
        Err(fault @ Fault::NotYetValid(_)) => fault,
        verdict => return verdict,
    };
    let presented = not_befores.into_iter().take(PRESENTED_MAX);
    let mut later: Vec<UnixTime> = presented.filter(|&time| time > floor).collect();
    later.sort_unstable();
    later.dedup();
    for time in later {
        match verify(time) {
            Ok(path) => return Ok(path),
            // A fault that is independent of the time has precedence over a date.
            Err(Fault::Other(error)) => fault = Fault::Other(error),
            Err(Fault::NotYetValid(_) | Fault::Expired(_)) => {}
        }
    }
    Err(fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::sync::Mutex;

    struct Fixed {
        raw: u64,
        trusted: bool,
        floor: u64,
        refutable: bool,
        learned: Mutex<Vec<ChainValidity>>,
    }

    impl WallClock for Fixed {
        fn raw(&self) -> UnixTime {
            UnixTime(self.raw)
        }
        fn trusted(&self) -> bool {
            self.trusted
        }
        fn floor(&self) -> UnixTime {
            UnixTime(self.floor)
        }
        fn doubted(&self) -> Option<UnixTime> {
            (!self.trusted).then_some(UnixTime(self.raw))
        }
        fn is_refutable(&self) -> bool {
            self.refutable
        }
        fn learn(&self, chain: ChainValidity) {
            self.learned.lock().unwrap().push(chain);
        }
    }

    fn clock(raw: u64, trusted: bool, floor: u64) -> Fixed {
        Fixed { raw, trusted, floor, refutable: false, learned: Mutex::default() }
    }

    /// A verifier of certificates with these validities, the leaf first, which records the
    /// verification times.
    fn verifier<'a>(
        certificates: &'a [(u64, u64)],
        asked: &'a RefCell<Vec<u64>>,
    ) -> impl Fn(UnixTime) -> Result<ChainValidity, Fault<&'static str>> + 'a {
        move |time| {
            asked.borrow_mut().push(time.0);
            for &(from, to) in certificates {
                if time.0 < from {
                    return Err(Fault::NotYetValid("early"));
                }
                if time.0 > to {
                    return Err(Fault::Expired("late"));
                }
            }
            Ok(ChainValidity {
                not_before: UnixTime(certificates.iter().map(|c| c.0).max().unwrap()),
                not_after: UnixTime(certificates.iter().map(|c| c.1).min().unwrap()),
                leaf: Duration::from_millis(certificates[0].1 - certificates[0].0),
            })
        }
    }

    fn starts(certificates: &[(u64, u64)]) -> Vec<UnixTime> {
        certificates.iter().map(|certificate| UnixTime(certificate.0)).collect()
    }

    #[test]
    fn a_trusted_clock_decides_alone() {
        let (asked, certificates) = (RefCell::default(), [(100, 200)]);
        let verify = verifier(&certificates, &asked);
        let accept = |clock| accept(&clock, starts(&certificates), &verify);
        assert!(accept(clock(150, true, 120)).is_ok());
        assert_eq!(accept(clock(201, true, 120)), Err("late"));
        assert_eq!(accept(clock(99, true, 90)), Err("early"));
        assert_eq!(*asked.borrow(), [150, 201, 99]);
    }

    #[test]
    fn what_is_expired_at_the_floor_is_refused_whatever_the_clock_says() {
        let (asked, certificates) = (RefCell::default(), [(100, 200)]);
        let verify = verifier(&certificates, &asked);
        assert!(accept(&clock(150, true, 190), starts(&certificates), &verify).is_ok());
        assert_eq!(accept(&clock(150, true, 201), starts(&certificates), &verify), Err("late"));
    }

    #[test]
    fn an_untrusted_clock_is_replaced_by_the_floor_and_only_not_yet_valid_is_forgiven() {
        let (asked, certificates) = (RefCell::default(), [(400, 900), (300, 900)]);
        let verify = verifier(&certificates, &asked);
        let accepted = accept(&clock(5_000, false, 120), starts(&certificates), &verify).unwrap();
        assert_eq!((accepted.path.not_before, accepted.doubted), (UnixTime(400), None));
        assert_eq!(*asked.borrow(), [120, 300, 400, 5_000]);
        assert_eq!(accept(&clock(500, false, 901), starts(&certificates), &verify), Err("late"));
        let gap = [(300, 350), (400, 900)];
        assert_eq!(accept(&clock(500, false, 120), starts(&gap), verifier(&gap, &asked)), Err("early"));
    }

    #[test]
    fn what_is_wrong_at_any_time_is_named_rather_than_a_date() {
        let verify = |time: UnixTime| match time.0 {
            0..300 => Err::<ChainValidity, _>(Fault::NotYetValid("early")),
            300..400 => Err(Fault::Other("name")),
            _ => Err(Fault::Expired("late")),
        };
        assert_eq!(accept(&clock(0, false, 120), [300, 500].map(UnixTime), verify), Err("name"));
    }

    #[test]
    fn a_clock_in_doubt_is_tried_as_well_and_only_by_a_chain_that_is_accepted() {
        let (asked, certificates) = (RefCell::default(), [(300, 900)]);
        let verify = verifier(&certificates, &asked);
        let doubting = clock(700, false, 400);
        let accepted = accept(&doubting, [], &verify).unwrap();
        assert_eq!(accepted.doubted, Some(accepted.path));
        assert!(doubting.learned.lock().unwrap().is_empty(), "nothing is learned before the key is proven");
        accepted.teach(&doubting);
        assert_eq!(*doubting.learned.lock().unwrap(), [accepted.path, accepted.path]);
        // Expired at the floor but valid at a clock that was set back: refused.
        assert_eq!(accept(&clock(700, false, 1_000), [], &verify), Err("late"));
    }

    #[test]
    fn a_clock_that_only_the_kernel_vouches_for_gives_way_to_a_chain() {
        let (asked, certificates) = (RefCell::default(), [(300, 900)]);
        let verify = verifier(&certificates, &asked);
        for raw in [100, 5_000] {
            let clock = Fixed { refutable: true, ..clock(raw, true, 400) };
            let accepted = accept(&clock, starts(&certificates), &verify).unwrap();
            assert!(!accepted.path.contains(UnixTime(raw)));
        }
        let other = |_| Err(Fault::Other("name"));
        assert_eq!(accept(&Fixed { refutable: true, ..clock(500, true, 400) }, [], other), Err("name"));
    }

    #[test]
    fn a_peer_that_presents_a_thousand_certificates_is_verified_a_few_times() {
        let asked = RefCell::new(0);
        let endless = |_| {
            *asked.borrow_mut() += 1;
            Err::<ChainValidity, _>(Fault::NotYetValid("early"))
        };
        assert_eq!(accept(&clock(0, false, 120), (200..1_200).map(UnixTime), endless), Err("early"));
        assert_eq!(*asked.borrow(), PRESENTED_MAX + 1);
    }

    #[test]
    fn four_hundred_days_are_evidence_and_twenty_years_are_not() {
        let day = |days: u64| Duration::from_secs(days * 86_400);
        let of = |leaf| ChainValidity { not_before: UnixTime(0), not_after: UnixTime(u64::MAX), leaf };
        assert!(of(day(90)).is_evidence() && of(day(400)).is_evidence());
        assert!(!of(day(400) + Duration::from_secs(1)).is_evidence() && !of(day(7_305)).is_evidence());
        assert!(!ChainValidity::UNKNOWN.is_evidence());
    }
}
