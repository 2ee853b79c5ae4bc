//! What became of versions: failures, denials, the hold; kept in one small file.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::health::FAILURES_MAX;
use super::version::VERSION_MAX;

/// Most entries kept; the oldest go first, those that deny a version last of all.
const EVENTS_MAX: usize = 64;
/// Most versions that the owner denies; one more is refused, and none is dropped for it.
pub const DENIED_MAX: usize = 32;
/// Most versions denied in all, those that failed included.
const DENIED_ALL_MAX: usize = 64;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The version it happened to.
    pub version: String,
    /// What.
    pub what: What,
    /// When, RFC 3339; absent while the clock was not trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Why, one sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The attempt it belongs to; absent: none, or not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
}

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// The image is here and verified.
    Downloaded,
    /// The backend began.
    Installing,
    /// It runs, works, and has reached the broker.
    Confirmed,
    /// It runs and works, and has not reached the broker.
    Pending,
    /// The version before runs again, because this one did not work.
    FailedItself,
    /// The version before runs again, because this one did not reach the broker.
    FailedToConnect,
    /// It could not be installed.
    NotInstalled,
    /// The version before runs again, because the owner wanted it.
    RolledBack,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Oldest first, at most 64.
    #[serde(default)]
    pub events: Vec<Event>,
    /// Versions denied, by failures or by the owner, at most 64.
    #[serde(default)]
    pub denied: Vec<String>,
    /// No update is installed until it is released.
    #[serde(default)]
    pub held: bool,
}

impl Event {
    /// Whether the other one, of the same attempt, says nothing more.
    fn covers(&self, other: &Event) -> bool {
        let was_taken_back = matches!(self.what, What::FailedToConnect | What::RolledBack);
        let is_known = self.what == other.what || (was_taken_back && other.what == What::FailedItself);
        is_known && self.version == other.version && self.attempt.is_some() && self.attempt == other.attempt
    }
}

/// Why a version is not denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotDenied {
    /// It is none.
    NoVersion,
    /// As many are denied as can be.
    Full,
}

impl fmt::Display for NotDenied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotDenied::NoVersion => f.write_str("it is no version: it is empty or too long"),
            NotDenied::Full => write!(
                f,
                "{DENIED_MAX} versions are denied, which is all that are kept; `tombolo update denied clear VERSION` \
                 makes room, and `tombolo update hold` keeps every version away"
            ),
        }
    }
}

impl History {
    /// Adds an event; the second failure of its own denies the version. What is known of the same
    /// attempt already is not added again, nor is a version that was taken back counted as one that
    /// went by itself.
    pub fn record(&mut self, event: Event) {
        if self.events.iter().any(|past| past.covers(&event)) {
            return;
        }
        let version = event.version.clone();
        self.events.push(event);
        let failures =
            self.events.iter().filter(|past| past.version == version && past.what == What::FailedItself);
        if failures.count() >= FAILURES_MAX as usize {
            // Where 64 others are denied, its failures alone hold it back.
            let _ = self.deny_failed(&version);
        }
        while self.events.len() > EVENTS_MAX {
            self.events.remove(0);
        }
    }

    /// Denies a version by the owner's word. One that is denied already stays so.
    ///
    /// # Errors
    /// [`NotDenied`]; then nothing changed.
    pub fn deny(&mut self, version: &str) -> Result<(), NotDenied> {
        self.deny_within(version, DENIED_MAX)
    }

    /// Denies a version that ran here and is not to run again.
    ///
    /// # Errors
    /// [`NotDenied`]; then nothing changed.
    pub fn deny_failed(&mut self, version: &str) -> Result<(), NotDenied> {
        self.deny_within(version, DENIED_ALL_MAX)
    }

    fn deny_within(&mut self, version: &str, most: usize) -> Result<(), NotDenied> {
        match version {
            _ if version.is_empty() || version.len() > VERSION_MAX => Err(NotDenied::NoVersion),
            _ if self.denied.iter().any(|denied| denied == version) => Ok(()),
            _ if self.denied.len() >= most => Err(NotDenied::Full),
            _ => {
                self.denied.push(version.to_owned());
                Ok(())
            }
        }
    }

    /// Allows a denied version again, with its failures forgotten; all of them for `None`. Says how
    /// many.
    pub fn clear(&mut self, version: Option<&str>) -> usize {
        let is_meant = |other: &str| version.is_none_or(|version| version == other);
        let before = self.denied.len();
        self.denied.retain(|denied| !is_meant(denied));
        self.events.retain(|event| event.what != What::FailedItself || !is_meant(&event.version));
        before - self.denied.len()
    }

    /// Takes in what another history has, in the order of the times.
    pub fn join(&mut self, other: &History) {
        self.held |= other.held;
        for version in &other.denied {
            if !self.denied.contains(version) {
                self.denied.push(version.clone());
            }
        }
        let new: Vec<Event> =
            other.events.iter().filter(|event| !self.events.contains(event)).cloned().collect();
        self.events.extend(new);
        // Those without a time come first.
        self.events.sort_by(|a, b| a.at.cmp(&b.at));
    }

    /// How often this version failed here, for whatever reason, since it was confirmed last.
    pub fn failures(&self, version: &str) -> u32 {
        let of_it = self.events.iter().rev().filter(|event| event.version == version);
        let since = of_it.take_while(|event| event.what != What::Confirmed);
        let failed = since.filter(|event| {
            matches!(event.what, What::FailedItself | What::FailedToConnect | What::NotInstalled)
        });
        u32::try_from(failed.count()).unwrap_or(u32::MAX)
    }

    /// Whether this version was rolled back because it did not reach the broker.
    pub fn was_rolled_back_for_broker(&self, version: &str) -> bool {
        self.events.iter().any(|event| event.version == version && event.what == What::FailedToConnect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(version: &str, what: What) -> Event {
        Event { version: version.to_owned(), what, at: None, cause: None, attempt: None }
    }

    #[test]
    fn two_failures_of_its_own_deny_a_version_and_outages_never_do() {
        let mut history = History::default();
        for _ in 0..9 {
            history.record(event("2.0.0", What::FailedToConnect));
        }
        history.record(event("2.0.0", What::FailedItself));
        history.record(event("3.0.0", What::FailedItself));
        assert!(history.denied.is_empty());
        history.record(event("2.0.0", What::FailedItself));
        assert_eq!(history.denied, ["2.0.0"]);
    }

    #[test]
    fn a_cleared_version_needs_two_new_failures() {
        let mut history = History::default();
        for _ in 0..2 {
            history.record(event("2.0.0", What::FailedItself));
        }
        assert_eq!(history.clear(Some("9.9.9")), 0);
        assert_eq!(history.clear(Some("2.0.0")), 1);
        history.record(event("2.0.0", What::FailedItself));
        assert!(history.denied.is_empty());
        assert_eq!((history.deny("1.0.0"), history.deny("1.0.1")), (Ok(()), Ok(())));
        assert_eq!(history.clear(None), 2);
    }

    #[test]
    fn one_attempt_is_one_failure_however_often_it_is_told() {
        let of = |attempt: &str, what| Event { attempt: Some(attempt.to_owned()), ..event("2.0.0", what) };
        let mut history = History::default();
        for _ in 0..3 {
            history.record(of("a", What::FailedItself));
        }
        // Taken back because of an outage, or by the owner: that it runs no more is no failure.
        for (attempt, what) in [("b", What::FailedToConnect), ("c", What::RolledBack)] {
            history.record(of(attempt, what));
            history.record(of(attempt, What::FailedItself));
        }
        assert_eq!(history.events.len(), 3);
        assert!(history.denied.is_empty());
        history.record(of("d", What::NotInstalled));
        history.record(of("d", What::FailedItself));
        assert_eq!(history.denied, ["2.0.0"], "another attempt is another failure");
    }

    #[test]
    fn it_stays_small() {
        let mut history = History::default();
        for n in 0..1000 {
            history.record(event(&n.to_string(), What::Confirmed));
        }
        assert_eq!(history.events.len(), EVENTS_MAX);
    }

    #[test]
    fn no_version_that_was_denied_is_dropped_for_another_one() {
        let mut history = History::default();
        let mut denied = Vec::new();
        for n in 0..DENIED_MAX {
            denied.push(n.to_string());
            assert_eq!(history.deny(&denied[n]), Ok(()), "{n}");
        }
        assert_eq!(history.deny("one more"), Err(NotDenied::Full));
        assert_eq!((history.deny("0"), history.deny("")), (Ok(()), Err(NotDenied::NoVersion)));
        assert_eq!(history.deny(&"1".repeat(129)), Err(NotDenied::NoVersion));
        // What fails here is denied all the same.
        for n in DENIED_MAX..1000 {
            for _ in 0..2 {
                history.record(event(&n.to_string(), What::FailedItself));
            }
            denied.extend((n < DENIED_ALL_MAX).then(|| n.to_string()));
        }
        assert_eq!(history.denied, denied);
        history.clear(Some("0"));
        assert_eq!(history.deny_failed("one more"), Ok(()));
    }
}
