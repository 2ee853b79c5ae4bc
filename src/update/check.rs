//! What a repository's verified metadata means: the order of the steps of a check.
//!
//! 1. The floor: metadata older than what was seen is refused, whatever its signatures, and so is
//!    metadata by keys of another root.json than the one that was accepted.
//! 2. Expiry, by our own clock rules: a check begins only while the clock is trusted. `tough`'s own
//!    check reads the system clock, and remembers what it read; one start in 2036 would then stop
//!    every check until 2036.
//! 3. The decision, by [`eligibility`].
//!
//! The floor rises after 1, so that it also holds against a repository that is stale now.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::eligibility::{self, Decision, Installed, Objections};
use super::floor::{Floor, Fork, MetadataRole, MetadataVersions, Refusal, Rollback, Trust};
use super::offer::Offer;
use super::status::State;
use crate::clock::UnixTime;

/// So long before the repository's root.json expires, gateways say so: nobody but its owner can
/// sign it anew, and no later check finds anything.
pub const ROOT_SOON: Duration = Duration::from_secs(30 * 86_400);

/// What to say of a root.json that expires at `until`; `None`: not within [`ROOT_SOON`], or `now`
/// is not known.
pub fn root_ends(until: UnixTime, now: Option<UnixTime>) -> Option<String> {
    let left = until.0.saturating_sub(now?.0);
    (u128::from(left) < ROOT_SOON.as_millis()).then(|| {
        format!("the repository's root.json expires at {until}, and nothing is found from then on: its owner has to sign it anew")
    })
}

/// Metadata whose signatures and hashes were verified.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// Of each role.
    pub versions: MetadataVersions,
    /// By which keys.
    pub trust: Trust,
    /// The role that expires first, and when.
    pub expires: (MetadataRole, UnixTime),
    /// When root.json expires.
    pub root_until: UnixTime,
    /// The targets that are firmware.
    pub offers: Vec<Offer>,
    /// Targets that are ours and cannot be used: one sentence each, at most 16.
    pub unusable: Vec<String>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The repository could not be asked.
    Unreachable(String),
    /// What it offers does not verify: one sentence.
    Invalid(String),
    /// It offers what is older than what was seen.
    Rollback(Rollback),
    /// Its keys come from another root.json than the one that was accepted.
    Fork(Fork),
    /// The daemon would refuse it by what it has seen, and root has not.
    OfDaemon(Refusal),
    /// Its settings were replaced meanwhile.
    Dropped,
    /// Its metadata expired: nobody signed it anew, or somebody holds back what is new.
    Stale {
        /// Which.
        role: MetadataRole,
        /// Since when.
        since: UnixTime,
    },
    /// Nothing can be judged while the clock is not trusted.
    ClockUntrusted,
    /// A file of our own: the root of trust, the floor.
    Local(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unreachable(text) => write!(f, "the repository cannot be asked: {text}"),
            Fault::Invalid(text) => write!(f, "the repository's metadata is refused: {text}"),
            Fault::Rollback(rollback) => rollback.fmt(f),
            Fault::Fork(fork) => fork.fmt(f),
            Fault::OfDaemon(refusal) => write!(f, "{refusal}; the daemon saw that, and root has not yet"),
            Fault::Dropped => f.write_str("[update] was changed meanwhile: ask again"),
            Fault::Stale { role, since } => {
                write!(f, "{}.json expired at {since}: the repository was not signed anew", role.as_str())
            }
            Fault::ClockUntrusted => {
                f.write_str(
                    "the clock is not trusted, so the metadata's expiry cannot be judged; `tombolo clock` says why",
                )
            }
            Fault::Local(text) => f.write_str(text),
        }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        match refusal {
            Refusal::Rollback(rollback) => Fault::Rollback(rollback),
            Refusal::Fork(fork) => Fault::Fork(fork),
        }
    }
}

impl Fault {
    /// The state it leaves.
    pub fn state(&self) -> State {
        match self {
            Fault::Stale { .. } => State::Stale,
            _ => State::Error,
        }
    }

    /// Whether the next check may do better soon: then it comes earlier than a period later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Fault::Unreachable(_) | Fault::ClockUntrusted)
    }
}

/// Judges verified metadata. `floor` is raised where it may be; it is to be written if the second
/// value is true, before anything is done by the decision.
pub fn judge(
    metadata: &Metadata,
    floor: &mut Floor,
    installed: &Installed,
    objections: &Objections,
    now: Option<UnixTime>,
) -> (Result<Decision, Fault>, bool) {
    if let Err(refusal) = floor.admit(metadata.versions, &metadata.trust) {
        return (Err(refusal.into()), false);
    }
    let is_raised = floor.raise(metadata.versions, &metadata.trust);
    let (role, since) = metadata.expires;
    let result = match now {
        None => Err(Fault::ClockUntrusted),
        Some(now) if now >= since => Err(Fault::Stale { role, since }),
        Some(_) => match metadata.offers.is_empty().then(|| metadata.unusable.first()).flatten() {
            // Nothing is left of what is ours: "up to date" would hide a fault.
            Some(fault) => Err(Fault::Invalid(fault.clone())),
            None => Ok(eligibility::decide(installed, objections, &metadata.offers, now)),
        },
    };
    (result, is_raised)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Name;

    const EXPIRES: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn metadata(timestamp: u64) -> Metadata {
        Metadata {
            versions: MetadataVersions { root: 1, timestamp, snapshot: 1, targets: 1 },
            trust: Trust::default(),
            expires: (MetadataRole::Timestamp, EXPIRES),
            root_until: EXPIRES,
            offers: Vec::new(),
            unusable: Vec::new(),
        }
    }

    fn installed() -> Installed {
        let gateway = Name::parse("g").expect("a name");
        Installed { gateway, version: Some("1".to_owned()), compatible: None, hardware: None }
    }

    fn judged(
        metadata: &Metadata,
        floor: &mut Floor,
        now: Option<UnixTime>,
    ) -> (Result<Decision, Fault>, bool) {
        judge(metadata, floor, &installed(), &Objections::default(), now)
    }

    #[test]
    fn the_floor_comes_before_everything_and_rises_also_by_stale_metadata() {
        let mut floor = Floor::default();
        let (result, raised) = judged(&metadata(5), &mut floor, Some(EXPIRES));
        assert_eq!(result, Err(Fault::Stale { role: MetadataRole::Timestamp, since: EXPIRES }));
        assert!(raised);
        let before = UnixTime(EXPIRES.0 - 1);
        let (result, raised) = judged(&metadata(4), &mut floor, Some(before));
        assert!(matches!(result, Err(Fault::Rollback(_))));
        assert!(!raised);
        assert_eq!(judged(&metadata(5), &mut floor, Some(before)), (Ok(Decision::UpToDate), false));
    }

    #[test]
    fn the_end_of_root_is_said_a_month_before_and_not_earlier() {
        let before = |seconds: u64| Some(UnixTime(EXPIRES.0 - seconds * 1000));
        assert_eq!(root_ends(EXPIRES, before(30 * 86_400)), None);
        assert!(root_ends(EXPIRES, before(30 * 86_400 - 1)).is_some_and(|text| text.contains("2027-01-15")));
        assert_eq!(root_ends(EXPIRES, None), None);
    }

    #[test]
    fn without_a_trusted_clock_nothing_is_judged() {
        let (result, _) = judged(&metadata(1), &mut Floor::default(), None);
        assert_eq!(result, Err(Fault::ClockUntrusted));
    }

    #[test]
    fn a_repository_of_targets_that_cannot_be_used_is_not_up_to_date() {
        let mut metadata = metadata(1);
        metadata.unusable.push("the target \"x\" cannot be used".to_owned());
        let (result, _) = judged(&metadata, &mut Floor::default(), Some(UnixTime(0)));
        assert!(matches!(result, Err(Fault::Invalid(_))));
    }
}
