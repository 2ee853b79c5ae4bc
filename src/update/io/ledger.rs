//! What is written down of an installation while it is judged: the record, the history, the floor.
//!
//! A disk that is full or read-only must not keep a version that does not work: what is decided is
//! done, and what could not be written is named. The room that the records need is set aside before
//! anything is installed ([`Root::reserve`](super::root::Root::reserve)).
//!
//! | cannot be written | then |
//! |---|---|
//! | at the begin of an installation | nothing is installed |
//! | while a version is judged | it is judged, and READY is told |
//! | while it is taken back | it is taken back; what it is counted as is written by the next run |
//! | while it is taken back because of the broker alone | it stays: an outage denies no version |
//! | that a boot is ordered | it is not ordered |
//! | the floor | it is not confirmed; the next run of `tombolo update apply` tries it again |

use std::fs::File;
use std::path::PathBuf;

use super::history;
use crate::durable::atomic_file::{AtomicFile, Retrieved};
use crate::durable::folder::StateFolder;
use crate::update::history::{Event, History, What};
use crate::update::installation::Installation;

const RECORD: AtomicFile<'static> = AtomicFile::new(NAME, 16 * 1024, 0o644).with_copy();
/// The record's name.
const NAME: &str = "installation.json";

/// It. All calls block.
pub trait Ledger {
    /// The last installation.
    ///
    /// # Errors
    /// One sentence: it is there, and cannot be read.
    fn installation(&self) -> Result<Option<Installation>, String>;

    /// What became of versions.
    ///
    /// # Errors
    /// As [`Ledger::installation`].
    fn history(&self) -> Result<History, String>;

    /// Writes the record.
    ///
    /// # Errors
    /// One sentence; it is what it was, or what it was to be.
    fn write(&self, record: &Installation) -> Result<(), String>;

    /// Changes the history.
    ///
    /// # Errors
    /// One sentence; it is what it was, or what it was to be.
    fn change(&self, act: &dyn Fn(&mut History)) -> Result<(), String>;

    /// Raises the floor to a version that works.
    ///
    /// # Errors
    /// One sentence; it is what it was, or higher.
    fn raise(&self, version: &str, scheme: &str) -> Result<(), String>;

    /// Has the programs that are begun while this is there hold the folder, too.
    ///
    /// # Errors
    /// One sentence.
    fn share(&self) -> Result<Option<Shared>, String>;

    /// Remembers what could not be written, to be named at the end. True if it was written.
    fn keep(&self, written: Result<(), String>) -> bool;

    /// Adds to the history, once an attempt.
    ///
    /// # Errors
    /// As [`Ledger::change`].
    fn record(
        &self,
        of: &Installation,
        what: What,
        at: Option<&str>,
        cause: Option<&str>,
    ) -> Result<(), String> {
        self.change(&|history| history.record(event(of, what, at, cause)))
    }
}

/// While this is there, every program that is begun holds the folder as long as it runs: also when
/// the one that began it was killed.
pub struct Shared {
    _file: File,
}

impl Shared {
    /// By a file that those programs inherit.
    pub fn of(file: File) -> Shared {
        Shared { _file: file }
    }
}

/// Of an installation.
pub fn event(of: &Installation, what: What, at: Option<&str>, cause: Option<&str>) -> Event {
    Event {
        version: of.version.clone(),
        what,
        at: at.map(str::to_owned),
        cause: cause.map(str::to_owned),
        attempt: Some(of.attempt.clone()).filter(|attempt| !attempt.is_empty()),
    }
}

/// The two files of it that are written whole.
pub struct Records<F> {
    /// Where they are.
    pub files: F,
    /// Its name.
    pub shown: PathBuf,
}

impl<F: StateFolder> Records<F> {
    /// As [`Ledger::installation`].
    ///
    /// # Errors
    /// As it.
    pub fn installation(&self) -> Result<Option<Installation>, String> {
        let found: Retrieved<Installation> = RECORD.read(&self.files, Installation::parse);
        let is_new = found.is_new();
        match (found.value, found.defects.first()) {
            (Some(record), _) => Ok(Some(record)),
            (None, Some(defect)) if !is_new => Err(format!(
                "{}: {defect}; delete {NAME} and its copy there: the version that runs stays then, and is not judged",
                self.shown.display()
            )),
            (None, _) => Ok(None),
        }
    }

    /// As [`Ledger::history`].
    ///
    /// # Errors
    /// As it.
    pub fn history(&self) -> Result<History, String> {
        history::read_in(&self.files, &self.shown)
    }

    /// As [`Ledger::write`].
    ///
    /// # Errors
    /// As it.
    pub fn write(&self, record: &Installation) -> Result<(), String> {
        let written = RECORD.write(&self.files, &record.encode());
        written.map_err(|error| format!("{} cannot be written: {error}", self.shown.display()))
    }

    /// As [`Ledger::change`].
    ///
    /// # Errors
    /// As it.
    pub fn change(&self, act: &dyn Fn(&mut History)) -> Result<(), String> {
        history::change_public(&self.files, &self.shown, act)
    }
}
