//! What the fleet is told: the retained JSON on the update topic, `tombolo update check --json` and
//! the lines of `status`.

use serde::Serialize;

use super::apt::Candidate;
use super::eligibility::Decision;
use super::offer::Offer;
use crate::clock::UnixTime;

/// The states there are; the names are what scripts read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Not checked yet since the start.
    Unknown,
    /// Nothing newer for this gateway.
    UpToDate,
    /// There is a newer version for it.
    Available,
    /// There is a newer version, and not for it now: see the reason.
    Ineligible,
    /// It is being fetched.
    Downloading,
    /// It is here and verified, and waits for its window.
    Ready,
    /// It is being installed.
    Installing,
    /// It runs, and is not confirmed.
    Pending,
    /// It was rolled back, or could not be installed.
    Failed,
    /// The repository's metadata expired: it was not signed anew.
    Stale,
    /// The check did not come to an end.
    Error,
}

/// The version offered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Available {
    /// Its version.
    pub version: String,
    /// The target's name; of apt, the package's.
    pub target: String,
    /// Its size, if that is known.
    pub bytes: Option<u64>,
    /// Its SHA-256 in hexadecimal, if that is known.
    pub sha256: Option<String>,
    /// What changed.
    pub notes: Option<String>,
}

impl From<&Offer> for Available {
    fn from(offer: &Offer) -> Available {
        let sha256 = offer.sha256_hex();
        Available {
            version: offer.version.clone(),
            target: offer.target.clone(),
            bytes: Some(offer.bytes),
            sha256: Some(sha256),
            notes: offer.notes.clone(),
        }
    }
}

/// All that is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Where it stands.
    pub state: State,
    /// The version that runs.
    pub installed: Option<String>,
    /// The newer version, where there is one for this gateway.
    pub available: Option<Available>,
    /// Why it is as it is: one sentence.
    pub reason: Option<String>,
    /// When the last check ended, RFC 3339; absent while the clock was not trusted.
    pub checked_at: Option<String>,
    /// When a check last came to an answer, RFC 3339.
    pub good_at: Option<String>,
    /// Percent fetched, `0..=100`, while `downloading`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<u8>,
    /// Why the last attempt to install the available version failed, one sentence; where the state
    /// is a newer one, and until the next attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Status {
    /// Before the first check.
    pub fn new(installed: Option<String>) -> Status {
        let state = State::Unknown;
        Status {
            state,
            installed,
            available: None,
            reason: None,
            checked_at: None,
            good_at: None,
            progress: None,
            failure: None,
        }
    }

    /// A check came to an answer.
    pub fn handle_decision(&mut self, decision: &Decision, installed: Option<String>, now: Option<UnixTime>) {
        let (state, available, reason) = match decision {
            Decision::UpToDate => (State::UpToDate, None, None),
            Decision::Available(offer) => (State::Available, Some(Available::from(&**offer)), None),
            Decision::Ineligible { version, reason } => {
                (State::Ineligible, None, Some(format!("version {version}: {reason}")))
            }
        };
        let at = now.map(|now| now.to_string());
        *self = Status {
            state,
            installed,
            available,
            reason,
            checked_at: at.clone(),
            good_at: at.or_else(|| self.good_at.take()),
            progress: None,
            failure: None,
        };
    }

    /// A check of apt's candidate came to an answer. `package`: its name.
    pub fn handle_candidate(
        &mut self,
        candidate: &Candidate,
        package: &str,
        installed: Option<String>,
        now: Option<UnixTime>,
    ) {
        let (state, available, reason) = match candidate {
            Candidate::UpToDate => (State::UpToDate, None, None),
            Candidate::Available(version) => {
                let target = package.to_owned();
                let available =
                    Available { version: version.clone(), target, bytes: None, sha256: None, notes: None };
                (State::Available, Some(available), None)
            }
            Candidate::Ineligible { version, reason } => {
                (State::Ineligible, None, Some(format!("version {version}: {reason}")))
            }
            Candidate::Stale(since) => (
                State::Stale,
                None,
                Some(format!(
                    "apt has not read its lists since {since}; `apt update`, or apt-daily.timer, reads them"
                )),
            ),
            Candidate::Unknown => (
                State::Error,
                None,
                Some(format!("apt knows no package {package}; is its repository configured?")),
            ),
        };
        let at = now.map(|now| now.to_string());
        let good = (state != State::Error).then(|| at.clone()).flatten();
        *self = Status {
            state,
            installed,
            available,
            reason,
            checked_at: at,
            good_at: good.or_else(|| self.good_at.take()),
            progress: None,
            failure: None,
        };
    }

    /// A check ended without an answer. What was found available before stays said, because it is
    /// still true that it was offered and signed.
    pub fn handle_fault(&mut self, state: State, reason: String, now: Option<UnixTime>) {
        self.state = state;
        self.reason = Some(reason);
        self.checked_at = now.map(|now| now.to_string());
    }

    /// As it is shown while the image is fetched: what a check found comes first, and only of a
    /// version that is available it is said how far it has come.
    pub fn with_fetch(&self, fetch: &Fetch) -> Status {
        let mut shown = self.clone();
        if self.state != State::Available {
            return shown;
        }
        let bytes = self.available.as_ref().and_then(|available| available.bytes).unwrap_or_default();
        let percent = |have: u64| {
            let share = u128::from(have) * 100 / u128::from(bytes.max(1));
            Some(u8::try_from(share.min(100)).unwrap_or(100))
        };
        match fetch {
            Fetch::None => {}
            Fetch::Running { have } => (shown.state, shown.progress) = (State::Downloading, percent(*have)),
            Fetch::Waiting { have, reason } => {
                (shown.state, shown.progress) = (State::Downloading, percent(*have));
                shown.reason = Some(reason.clone());
            }
            Fetch::Failed(reason) => (shown.state, shown.reason) = (State::Error, Some(reason.clone())),
            Fetch::Ready => shown.state = State::Ready,
        }
        shown
    }

    /// What installs does not install it, for that reason.
    pub fn refuse(&mut self, reason: Option<&str>) {
        let is_found = matches!(self.state, State::Available | State::Ready | State::Downloading);
        if let Some(reason) = reason.filter(|_| is_found) {
            self.failure = Some(reason.to_owned());
        }
    }

    /// As it is published: progress in steps of ten.
    pub fn coarse(mut self) -> Status {
        self.progress = self.progress.map(|percent| percent / 10 * 10);
        self
    }

    /// Whether another says the same but for the times of the checks.
    pub fn says_the_same(&self, other: &Status) -> bool {
        let timeless = |status: &Status| Status { checked_at: None, good_at: None, ..status.clone() };
        timeless(self) == timeless(other)
    }
}

/// How far the image of the available version has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fetch {
    /// Nobody asked for it.
    #[default]
    None,
    /// It comes.
    Running {
        /// Bytes that are here.
        have: u64,
    },
    /// It goes on later.
    Waiting {
        /// Bytes that are here.
        have: u64,
        /// Why not now, one sentence.
        reason: String,
    },
    /// It does not come before the next check: one sentence.
    Failed(String),
    /// It is here and verified.
    Ready,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::eligibility::Reason;

    #[test]
    fn a_script_reads_these_keys() {
        let mut status = Status::new(Some("1.0.0".to_owned()));
        let decision = Decision::Ineligible { version: "2.0.0".to_owned(), reason: Reason::Held };
        status.handle_decision(&decision, Some("1.0.0".to_owned()), Some(UnixTime::from_secs(1_800_000_000)));
        let json = serde_json::to_value(&status).expect("it is JSON");
        assert_eq!(
            json,
            serde_json::json!({
                "state": "ineligible", "installed": "1.0.0", "available": null,
                "reason": "version 2.0.0: updates are held: `tombolo update release` ends that",
                "checked_at": "2027-01-15T08:00:00.000Z", "good_at": "2027-01-15T08:00:00.000Z",
            })
        );
    }

    #[test]
    fn a_fault_keeps_the_last_good_time() {
        let mut status = Status::new(None);
        status.handle_decision(&Decision::UpToDate, None, Some(UnixTime::from_secs(1_800_000_000)));
        status.handle_fault(State::Error, "no route".to_owned(), Some(UnixTime::from_secs(1_800_000_060)));
        assert_eq!(status.good_at.as_deref(), Some("2027-01-15T08:00:00.000Z"));
        assert_eq!(status.checked_at.as_deref(), Some("2027-01-15T08:01:00.000Z"));
        status.handle_decision(&Decision::UpToDate, None, None);
        assert_eq!((status.checked_at.as_deref(), status.good_at.is_some()), (None, true));
    }

    fn available() -> Status {
        let available = Available {
            version: "2".to_owned(),
            target: "t".to_owned(),
            bytes: Some(1000),
            sha256: None,
            notes: None,
        };
        Status { state: State::Available, available: Some(available), ..Status::new(Some("1".to_owned())) }
    }

    #[test]
    fn the_fetch_is_shown_of_an_available_version_alone() {
        let running = Fetch::Running { have: 429 };
        let shown = available().with_fetch(&running);
        assert_eq!(
            (shown.state, shown.progress, shown.clone().coarse().progress),
            (State::Downloading, Some(42), Some(40))
        );
        assert_eq!(available().with_fetch(&Fetch::Ready).state, State::Ready);
        let mut refused = available();
        refused.handle_fault(State::Error, "a rollback".to_owned(), None);
        for fetch in [running, Fetch::Ready] {
            assert_eq!(refused.with_fetch(&fetch), refused);
        }
        assert!(refused.available.is_some());
    }

    #[test]
    fn another_time_of_the_check_says_nothing_new() {
        let later = Status { checked_at: Some("2026-12-01T00:00:00.000Z".to_owned()), ..available() };
        assert!(later.says_the_same(&available()));
        assert!(!available().with_fetch(&Fetch::Ready).says_the_same(&available()));
    }
}
