//! What the fleet is told: the retained JSON on the update topic, `tombolo update check --json` and
//! the lines of `status`.

use serde::Serialize;

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
        let sha256 = offer.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
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
    /// Percent fetched, while `downloading`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<u8>,
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
        };
    }

    /// A check ended without an answer. What was found available before stays said, because it is
    /// still true that it was offered and signed.
    pub fn handle_fault(&mut self, state: State, reason: String, now: Option<UnixTime>) {
        self.state = state;
        self.reason = Some(reason);
        self.checked_at = now.map(|now| now.to_string());
    }
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
                "reason": "version 2.0.0: updates are held: see `tombolo update hold`",
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
}
