//! A configuration file on trial: `tombolo config apply FILE --confirm 10min`.
//!
//! The new file is put in its place, and beside it, in the state directory, a durable record says
//! what was there before and until when the trial lasts. Whoever loads the configuration judges the
//! record by the file that is there now, the boot and `CLOCK_BOOTTIME`:
//!
//! | the file | the record | what is loaded |
//! |---|---|---|
//! | is the candidate | this boot, before its end | the candidate |
//! | is the candidate | another boot, or after its end | what was there before |
//! | is anything else | – | the file: the record says nothing about it |
//!
//! So nothing has to happen for the old configuration to come back, and nothing has to be written:
//! not after a power cut, not on a full disk, not when the session of the person who tried it is
//! gone. To confirm is to delete the record. Decision 0023 has the reasons.
//!
//! Pure; [`io`] reads and writes the record.

pub mod io;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::layer::LayerText;

/// The record's name in the state directory.
pub const FILE_NAME: &str = "config-trial.json";
/// Largest candidate, in bytes.
pub const CANDIDATE_MAX: u64 = 1 << 20;
/// The version of the record.
const VERSION: u32 = 1;

/// The record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// [`VERSION`].
    version: u32,
    /// The configuration file that was replaced or added.
    pub file: PathBuf,
    /// Its new text.
    pub candidate: String,
    /// Its text before; `None` = it did not exist.
    pub before: Option<String>,
    /// The boot that it began in.
    boot: String,
    /// When it ends, in milliseconds of `CLOCK_BOOTTIME`.
    ends_ms: u64,
}

/// When it is, for a trial.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The kernel's boot id; `None` = it has none, and every trial is over.
    pub boot: Option<String>,
    /// `CLOCK_BOOTTIME` in milliseconds.
    pub now_ms: u64,
}

/// How a trial stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The candidate is in force for this long yet.
    Pending(Duration),
    /// It was not confirmed in time: what was before is in force.
    Over,
    /// The file is neither the candidate's nor as it was: the record is of no use.
    Unrelated,
}

impl Trial {
    /// A trial that begins now. `None`: the kernel has no boot id, so it could not end at a reboot.
    pub fn begin(
        file: &Path,
        candidate: String,
        before: Option<String>,
        moment: &Moment,
        lasts: Duration,
    ) -> Option<Trial> {
        let lasts = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        Some(Trial {
            version: VERSION,
            file: file.to_owned(),
            candidate,
            before,
            boot: moment.boot.clone()?,
            ends_ms: moment.now_ms.saturating_add(lasts),
        })
    }

    /// How it stands, if `text` is in the file now.
    pub fn stands(&self, text: Option<&str>, moment: &Moment) -> Standing {
        if text != Some(self.candidate.as_str()) || self.before.as_ref() == Some(&self.candidate) {
            return Standing::Unrelated;
        }
        match moment.boot.as_ref() == Some(&self.boot) && moment.now_ms < self.ends_ms {
            true => Standing::Pending(Duration::from_millis(self.ends_ms - moment.now_ms)),
            false => Standing::Over,
        }
    }

    /// Puts what was before in the place of a candidate whose trial is over. `layers` are the main
    /// file and the drop-ins, or those of the state directory.
    pub fn apply(&self, layers: &mut Vec<LayerText>, moment: &Moment) -> Standing {
        let at = layers.iter().position(|layer| layer.path == self.file);
        let standing = self.stands(at.map(|at| layers[at].text.as_str()), moment);
        if let (Standing::Over, Some(at)) = (standing, at) {
            match &self.before {
                Some(before) => layers[at].text.clone_from(before),
                None => drop(layers.remove(at)),
            }
        }
        standing
    }

    /// When it ends, in milliseconds of `CLOCK_BOOTTIME`.
    pub fn ends_ms(&self) -> u64 {
        self.ends_ms
    }

    /// Parses a record.
    ///
    /// # Errors
    /// What is wrong with it, as a clause.
    pub fn parse(bytes: &[u8]) -> Result<Trial, String> {
        let trial: Trial =
            serde_json::from_slice(bytes).map_err(|error| format!("it is not a record: {error}"))?;
        match trial.version {
            VERSION => Ok(trial),
            other => Err(format!("it is of version {other}")),
        }
    }

    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts, a path and numbers are JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;

    const FILE: &str = "/etc/tombolo/conf.d/50-x.toml";

    fn moment(boot: &str, now_ms: u64) -> Moment {
        Moment { boot: Some(boot.to_owned()), now_ms }
    }

    fn trial(before: Option<&str>) -> Trial {
        let lasts = Duration::from_secs(600);
        Trial::begin(Path::new(FILE), "new".into(), before.map(str::to_owned), &moment("a", 1_000), lasts)
            .unwrap()
    }

    fn layers(text: &str) -> Vec<LayerText> {
        let layer = |path: &str, text: &str| LayerText {
            origin: Origin::DropIn,
            path: path.into(),
            text: text.into(),
        };
        vec![layer("/etc/tombolo/tombolo.toml", "main"), layer(FILE, text)]
    }

    #[test]
    fn the_candidate_is_in_force_until_its_time_is_over_in_this_boot() {
        let trial = trial(Some("old"));
        let apply = |text: &str, moment: &Moment| {
            let mut layers = layers(text);
            let standing = trial.apply(&mut layers, moment);
            (standing, layers.into_iter().map(|layer| layer.text).collect::<Vec<_>>())
        };
        let left = Standing::Pending(Duration::from_millis(1));
        assert_eq!(apply("new", &moment("a", 600_999)), (left, vec!["main".into(), "new".into()]));
        assert_eq!(apply("new", &moment("a", 601_000)), (Standing::Over, vec!["main".into(), "old".into()]));
        // After a reboot, whatever its clock says.
        assert_eq!(apply("new", &moment("b", 0)).0, Standing::Over);
        assert_eq!(apply("new", &Moment::default()).0, Standing::Over);
        // Changed by hand since: nobody's trial.
        assert_eq!(
            apply("newer", &moment("b", 0)),
            (Standing::Unrelated, vec!["main".into(), "newer".into()])
        );
    }

    #[test]
    fn a_file_that_was_new_is_left_out_when_its_trial_is_over() {
        let mut layers = layers("new");
        assert_eq!(trial(None).apply(&mut layers, &moment("b", 0)), Standing::Over);
        assert_eq!(layers.len(), 1);
        // Killed between the record and the file: it is not there.
        assert_eq!(trial(None).apply(&mut layers, &moment("a", 0)), Standing::Unrelated);
    }

    #[test]
    fn a_record_reads_back_and_a_damaged_one_is_refused() {
        let trial = trial(Some("old\n\"#"));
        assert_eq!(Trial::parse(&trial.encode()), Ok(trial.clone()));
        assert!(Trial::parse(b"").is_err());
        let newer = String::from_utf8(trial.encode()).unwrap().replace("\"version\":1", "\"version\":2");
        assert!(Trial::parse(newer.as_bytes()).unwrap_err().contains("version 2"));
    }
}
