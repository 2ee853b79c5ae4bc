//! One installation from its beginning to its end, as the root program records it: what it was
//! doing when the power was cut, and what a start afterwards means.
//!
//! The record belongs to root, everybody may read it; nobody but root is believed about it.
//!
//! ```text
//!  Installing ──> Installed ──reboot──> Judging ──> Confirmed
//!      │ └─ takes effect at once ────────^  │ └──> Pending ──broker reached──> Confirmed
//!      v                                    v
//!   Failed <──────── Reverting <─────── Failed health
//! ```

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::history::What;
use super::version::Scheme;

/// Longest cause that is kept, in bytes.
const CAUSE_MAX: usize = 400;

/// Why a version failed that does not run any more.
pub const WENT_BACK: &str =
    "the version before runs again: this one did not boot, or was taken back by somebody else";

/// Why the version before runs again, where the disk took no readings.
pub const WENT_BACK_UNSTORED: &str = "the disk took no readings, so this version was not marked good, and the boot \
     loader went back to the version before, or somebody else did; the version is not to blame";

/// Root's folder, beside a state directory: `/var/lib/tombolo-update` for `/var/lib/tombolo`.
pub fn folder_of(state_dir: &Path) -> PathBuf {
    let mut name = state_dir.file_name().unwrap_or_default().to_owned();
    name.push("-update");
    state_dir.with_file_name(name)
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The backend works.
    Installing,
    /// The backend is done, and the version runs after the next boot.
    Installed,
    /// It runs, and shows whether it works.
    Judging,
    /// It works, and has not reached the broker in time.
    Pending,
    /// The version before runs after the next boot.
    Reverting,
    /// It works and has reached the broker: the floor rose.
    Confirmed,
    /// It could not be installed, or does not run any more.
    Failed,
}

/// The record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installation {
    /// What is installed.
    pub version: String,
    /// By what versions are compared: `debian` or `semver`.
    pub scheme: String,
    /// What ran before, if that is known.
    pub previous: Option<String>,
    /// What installs: `rauc`, `apt` or `exec`.
    pub backend: String,
    /// How far it is.
    pub phase: Phase,
    /// Percent, while `installing`, where the backend says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<u8>,
    /// Why it failed or waits, one sentence of at most 400 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The version before was connected to the broker within the hour before.
    #[serde(default)]
    pub was_connected: bool,
    /// The backend was told that the version works.
    #[serde(default)]
    pub is_good: bool,
    /// Which attempt this is: text that no other one has; empty: not known. What is counted once an
    /// attempt is so counted once, however often a program was killed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub attempt: String,
    /// While it is taken back: what the history is to say of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<What>,
    /// The history says it.
    #[serde(default)]
    pub is_noted: bool,
    /// What installs was told to go back, and did: only the boot is still to come.
    #[serde(default)]
    pub is_ordered: bool,
    /// It works and reached the broker: written before the floor rises, so that nothing but the
    /// owner takes back a version for which it did.
    #[serde(default)]
    pub is_proven: bool,
    /// It worked, and was not marked good since, because the disk took no readings: a boot loader
    /// that goes back then does so for no fault of the version.
    #[serde(default)]
    pub is_unstored: bool,
    /// The boot in which the phase began.
    #[serde(default)]
    pub boot: Option<String>,
    /// When the phase began, RFC 3339; absent while the clock was not trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// What a start after a record means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Nothing is to be done.
    Over,
    /// The version runs, and is to be judged.
    Runs,
    /// It was judged, and found good; what is written down of that may not be all of it.
    Proven,
    /// The backend did not come to its end, and the version does not run.
    Interrupted,
    /// The reboot is still to come.
    AwaitsReboot,
    /// The version before runs though nobody here went back: the boot loader did, or an operator.
    WentBack,
    /// The version before runs, as was ordered.
    Reverted,
    /// The version runs though the version before was ordered.
    NotReverted,
    /// The version runs, and is to be taken back: the program that began that did not come to its
    /// end.
    Unreverted,
    /// Another version runs: somebody else installed it.
    Superseded,
    /// What runs cannot be told; nothing is concluded from that.
    Unknown,
}

impl Installation {
    /// Begins one.
    pub fn begin(version: &str, scheme: Scheme, previous: Option<String>, backend: &str) -> Installation {
        Installation {
            version: version.to_owned(),
            scheme: scheme.as_str().to_owned(),
            previous,
            backend: backend.to_owned(),
            phase: Phase::Installing,
            progress: None,
            cause: None,
            was_connected: false,
            is_good: false,
            attempt: String::new(),
            ending: None,
            is_noted: false,
            is_ordered: false,
            is_proven: false,
            is_unstored: false,
            boot: None,
            at: None,
        }
    }

    /// Goes on to a phase.
    pub fn enter(&mut self, phase: Phase, boot: Option<String>, at: Option<String>) {
        (self.phase, self.boot, self.at, self.progress) = (phase, boot, at, None);
    }

    /// Says why.
    pub fn because(&mut self, cause: &str) {
        let mut text = String::new();
        for c in cause.chars().map(|c| if c.is_control() { ' ' } else { c }) {
            if text.len() + c.len_utf8() > CAUSE_MAX {
                break;
            }
            text.push(c);
        }
        self.cause = Some(text);
    }

    /// What it means that `running` runs, in this boot.
    pub fn arrive(&self, running: Option<&str>, boot: Option<&str>) -> Arrival {
        if matches!(self.phase, Phase::Confirmed | Phase::Failed) {
            return Arrival::Over;
        }
        if self.is_proven && matches!(self.phase, Phase::Judging | Phase::Pending) {
            return Arrival::Proven;
        }
        let Some(running) = running else { return Arrival::Unknown };
        let is_same_boot = self.boot.is_some() && self.boot.as_deref() == boot;
        let is_new = running == self.version;
        let is_old = self.previous.as_deref() == Some(running);
        match self.phase {
            // Only one program installs at a time, and it holds a lock: it is not at work any more.
            Phase::Installing if is_new => Arrival::Runs,
            Phase::Installing => Arrival::Interrupted,
            Phase::Reverting if is_old => Arrival::Reverted,
            Phase::Reverting if is_new && !self.is_ordered => Arrival::Unreverted,
            Phase::Installed | Phase::Reverting if is_same_boot => Arrival::AwaitsReboot,
            Phase::Reverting if is_new => Arrival::NotReverted,
            Phase::Reverting => Arrival::Reverted,
            _ if is_new => Arrival::Runs,
            _ if is_old => Arrival::WentBack,
            _ => Arrival::Superseded,
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// Half a sentence: what it is not.
    pub fn parse(bytes: &[u8]) -> Result<Installation, String> {
        if bytes.first() != Some(&b'{') {
            return Err("it is no record of an installation".to_owned());
        }
        serde_json::from_slice(bytes).map_err(|error| format!("it is no record of an installation: {error}"))
    }

    /// The record's content.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Its scheme.
    pub fn scheme(&self) -> Scheme {
        Scheme::parse(&self.scheme).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(phase: Phase) -> Installation {
        let mut record = Installation::begin("2", Scheme::Debian, Some("1".to_owned()), "rauc");
        record.enter(phase, Some("boot-1".to_owned()), None);
        record
    }

    #[test]
    fn each_start_after_a_power_cut_has_one_meaning() {
        for (phase, running, boot, meaning) in [
            (Phase::Installing, "1", "boot-1", Arrival::Interrupted),
            (Phase::Installing, "1", "boot-2", Arrival::Interrupted),
            (Phase::Installing, "2", "boot-2", Arrival::Runs),
            (Phase::Installed, "1", "boot-1", Arrival::AwaitsReboot),
            (Phase::Installed, "2", "boot-2", Arrival::Runs),
            (Phase::Installed, "1", "boot-2", Arrival::WentBack),
            (Phase::Installed, "3", "boot-2", Arrival::Superseded),
            (Phase::Judging, "2", "boot-1", Arrival::Runs),
            (Phase::Judging, "1", "boot-2", Arrival::WentBack),
            (Phase::Pending, "2", "boot-9", Arrival::Runs),
            (Phase::Pending, "1", "boot-9", Arrival::WentBack),
            (Phase::Reverting, "2", "boot-1", Arrival::Unreverted),
            (Phase::Reverting, "2", "boot-2", Arrival::Unreverted),
            (Phase::Reverting, "1", "boot-1", Arrival::Reverted),
            (Phase::Reverting, "1", "boot-2", Arrival::Reverted),
            (Phase::Confirmed, "1", "boot-2", Arrival::Over),
            (Phase::Failed, "2", "boot-2", Arrival::Over),
        ] {
            assert_eq!(at(phase).arrive(Some(running), Some(boot)), meaning, "{phase:?} {running} {boot}");
        }
        let mut ordered = at(Phase::Reverting);
        ordered.is_ordered = true;
        assert_eq!(ordered.arrive(Some("2"), Some("boot-1")), Arrival::AwaitsReboot);
        assert_eq!(ordered.arrive(Some("2"), Some("boot-2")), Arrival::NotReverted);
        assert_eq!(ordered.arrive(Some("1"), Some("boot-1")), Arrival::Reverted);
        for phase in [Phase::Judging, Phase::Pending] {
            let proven = Installation { is_proven: true, ..at(phase) };
            for running in [Some("2"), Some("1"), None] {
                assert_eq!(proven.arrive(running, Some("boot-1")), Arrival::Proven, "{running:?}");
            }
        }
        // The owner goes back from it.
        let owners = Installation { is_proven: true, ..at(Phase::Reverting) };
        assert_eq!(owners.arrive(Some("2"), Some("boot-1")), Arrival::Unreverted);
        assert_eq!(at(Phase::Judging).arrive(None, None), Arrival::Unknown);
        // A kernel without a boot id: a reboot that may be still to come is not waited for twice.
        assert_eq!(at(Phase::Installed).arrive(Some("1"), None), Arrival::WentBack);
    }

    #[test]
    fn it_is_read_as_it_was_written_and_a_cause_is_short_and_one_line() {
        let mut record = at(Phase::Failed);
        record.because(&"ä\n".repeat(1000));
        assert!(record.cause.as_ref().is_some_and(|cause| cause.len() <= CAUSE_MAX && !cause.contains('\n')));
        assert_eq!(Installation::parse(&record.encode()), Ok(record));
        for bytes in [&b""[..], b"[]", b"{}", b"{\"phase\": 7}"] {
            assert!(Installation::parse(bytes).is_err());
        }
    }
}
