//! What apt's candidate means. apt itself verified it, when it read its lists; nothing is asked of
//! the network here, and nothing is installed.

use std::cmp::Ordering;
use std::time::Duration;

use super::eligibility::{Objections, Reason};
use super::installed::AptPolicy;
use super::version::Scheme;
use crate::clock::UnixTime;

/// Lists that are older say little: nobody reads them anew.
pub const OLD_AFTER: Duration = Duration::from_secs(7 * 86_400);

/// What follows from it.
#[derive(Clone, Debug, PartialEq)]
pub enum Candidate {
    /// Nothing is newer.
    UpToDate,
    /// This version.
    Available(String),
    /// There is a newer one, and not for now.
    Ineligible {
        /// Which.
        version: String,
        /// Why not.
        reason: Reason,
    },
    /// Nothing is newer in lists that were read so long ago.
    Stale(UnixTime),
    /// apt knows no such package.
    Unknown,
}

/// Judges. `read_at`: when the lists were read last; `now`: the wall time, if it is trusted.
pub fn judge(
    policy: Option<&AptPolicy>,
    objections: &Objections,
    read_at: Option<UnixTime>,
    now: Option<UnixTime>,
) -> Candidate {
    let Some(policy) = policy else { return Candidate::Unknown };
    let newer = policy.candidate.as_ref().filter(|candidate| match &policy.installed {
        None => true,
        Some(installed) => Scheme::Debian.compare(candidate, installed) == Some(Ordering::Greater),
    });
    let Some(version) = newer.cloned() else {
        let is_old =
            |read: UnixTime, now: UnixTime| now.0.saturating_sub(read.0) > OLD_AFTER.as_millis() as u64;
        return match read_at.zip(now) {
            Some((read, now)) if is_old(read, now) => Candidate::Stale(read),
            _ => Candidate::UpToDate,
        };
    };
    let reason = match policy.installed {
        None => Some(Reason::NotKnownInstalled),
        Some(_) if objections.denied.contains(&version) => Some(Reason::Denied),
        Some(_) if objections.is_held => Some(Reason::Held),
        Some(_) if is_below(&version, objections.floor.as_deref()) => {
            Some(Reason::BelowFloor(objections.floor.clone().unwrap_or_default()))
        }
        Some(_) => None,
    };
    match reason {
        None => Candidate::Available(version),
        Some(reason) => Candidate::Ineligible { version, reason },
    }
}

fn is_below(version: &str, floor: Option<&str>) -> bool {
    floor.is_some_and(|floor| Scheme::Debian.compare(version, floor) == Some(Ordering::Less))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn policy(installed: Option<&str>, candidate: Option<&str>) -> AptPolicy {
        AptPolicy { installed: installed.map(str::to_owned), candidate: candidate.map(str::to_owned) }
    }

    fn judged(policy: &AptPolicy, objections: &Objections, age_days: u64) -> Candidate {
        let read = UnixTime::from_secs(NOW.as_secs() - age_days * 86_400);
        judge(Some(policy), objections, Some(read), Some(NOW))
    }

    #[test]
    fn a_newer_candidate_is_available_whatever_the_age_of_the_lists() {
        let newer = policy(Some("0.1.0"), Some("0.2.0~rc1"));
        for age in [0, 30] {
            assert_eq!(
                judged(&newer, &Objections::default(), age),
                Candidate::Available("0.2.0~rc1".to_owned())
            );
        }
    }

    #[test]
    fn the_same_or_an_older_one_is_none_and_old_lists_are_named() {
        for candidate in [Some("0.1.0"), Some("0.1.0~rc1"), None] {
            let policy = policy(Some("0.1.0"), candidate);
            assert_eq!(judged(&policy, &Objections::default(), 6), Candidate::UpToDate);
            assert!(matches!(judged(&policy, &Objections::default(), 8), Candidate::Stale(_)));
            assert_eq!(judge(Some(&policy), &Objections::default(), None, Some(NOW)), Candidate::UpToDate);
        }
    }

    #[test]
    fn what_is_held_denied_or_not_installed_is_not_available() {
        let newer = policy(Some("1"), Some("2"));
        let reason = |objections: &Objections, policy: &AptPolicy| match judged(policy, objections, 0) {
            Candidate::Ineligible { reason, .. } => reason,
            other => panic!("{other:?}"),
        };
        let held = Objections { is_held: true, ..Objections::default() };
        assert_eq!(reason(&held, &newer), Reason::Held);
        let denied = Objections { denied: vec!["2".to_owned()], ..held };
        let below = Objections { floor: Some("3".to_owned()), ..Objections::default() };
        assert_eq!(reason(&below, &newer), Reason::BelowFloor("3".to_owned()));
        assert_eq!(reason(&denied, &newer), Reason::Denied);
        assert_eq!(reason(&Objections::default(), &policy(None, Some("2"))), Reason::NotKnownInstalled);
        assert_eq!(judge(None, &Objections::default(), None, None), Candidate::Unknown);
    }
}
