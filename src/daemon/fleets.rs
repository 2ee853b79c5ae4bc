//! The devices that fleets have made, kept in `{state-dir}/fleet-devices` from one process to the
//! next.
//!
//! Read once at the start; written whole when a device was made or went, off the path's thread, at
//! most every [`EVERY`], and once more at the stop. A file that is damaged is set aside and named;
//! one that the disk does not give is left as it is and asked for again, and nothing is written
//! over it meanwhile. After a power cut the devices of the last seconds may be missing: they are
//! made again when they come.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::kept_text;
use crate::durable::atomic_file::{AtomicFile, Retrieved};
use crate::durable::io::OnDisk;
use crate::gate::Gate;
use crate::gate::roll::{MAX_BYTES, Roll};
use crate::message::Name;

/// The file's name in the state directory.
pub const FILE: &str = "fleet-devices";
/// The file.
pub const ROLL: AtomicFile<'_> = AtomicFile::new(FILE, MAX_BYTES, 0o600);

/// Between two writes.
const EVERY: Duration = Duration::from_secs(5);
/// Between two attempts where the disk errs.
const RETRY: Duration = Duration::from_secs(60);
/// How long a stop waits for a write under way.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// What came of a write: what is on disk now, or why it is not.
type Written = Result<String, String>;
/// What was read, and the names under which damage was set aside.
type Found = (Retrieved<Roll>, Vec<String>);

/// See the module.
pub struct FleetKeeper {
    directory: PathBuf,
    /// What is on disk, as far as is known.
    stored: Option<String>,
    /// Of the gate's devices, when they were last handed over.
    revision: Option<u64>,
    wrote_at: Option<Instant>,
    writing: Option<Receiver<Written>>,
    reading: Option<Receiver<Found>>,
    /// The disk does not give the file.
    is_unread: bool,
    failing: Option<String>,
    /// Under which names damaged files were set aside by this process.
    aside: Vec<String>,
}

/// Reads the roll, whether or not the daemon runs: `None` where there is none that is good.
pub fn read(state_dir: &Path) -> Option<Roll> {
    ROLL.look(&OnDisk::with_patience(state_dir, Duration::ZERO), Roll::parse).ok()
}

impl FleetKeeper {
    /// Reads the file and gives the gate its devices back. Returns also the ids of those that are
    /// nobody's any more: their retained status is to be cleared. Blocks; at the start only.
    pub fn open(now: Instant, state_dir: &Path, gate: &mut Gate) -> (FleetKeeper, Vec<Name>) {
        let mut keeper = FleetKeeper {
            directory: state_dir.to_owned(),
            stored: None,
            revision: None,
            wrote_at: None,
            writing: None,
            reading: None,
            is_unread: false,
            failing: None,
            aside: Vec::new(),
        };
        let _ = crate::durable::atomic_file::sweep(&OnDisk::new(state_dir), FILE);
        let gone = keeper.take(now, retrieve(state_dir), gate);
        (keeper, gone)
    }

    /// What is wrong, one sentence each, beside what is `known`: a reload finds files that were set
    /// aside by itself.
    pub fn problems(&self, known: &[String]) -> Vec<String> {
        let aside = kept_text::set_aside(&self.directory, &self.aside, known);
        self.failing.iter().cloned().chain(aside).collect()
    }

    /// Once a second: writes what changed. Never waits for the disk. Returns ids as
    /// [`FleetKeeper::open`] does.
    pub fn care(&mut self, now: Instant, gate: &mut Gate) -> Vec<Name> {
        if let Some(written) = self.writing.as_ref().and_then(|writing| writing.try_recv().ok()) {
            self.writing = None;
            self.settle(written);
        }
        let mut gone = Vec::new();
        if let Some(found) = self.reading.as_ref().and_then(|reading| reading.try_recv().ok()) {
            self.reading = None;
            gone = self.take(now, found, gate);
        }
        let pause = if self.failing.is_some() { RETRY } else { EVERY };
        let is_due = self.wrote_at.is_none_or(|at| now.saturating_duration_since(at) >= pause);
        if !is_due || self.writing.is_some() || self.reading.is_some() {
            return gone;
        }
        let directory = self.directory.clone();
        if self.is_unread {
            self.wrote_at = Some(now);
            let (sender, receiver) = channel();
            tokio::task::spawn_blocking(move || sender.send(retrieve(&directory)));
            self.reading = Some(receiver);
        } else if self.revision != Some(gate.fleet_revision()) {
            self.revision = Some(gate.fleet_revision());
            self.wrote_at = Some(now);
            let (roll, stored) = (gate.roll(), self.stored.clone());
            let (sender, receiver) = channel();
            tokio::task::spawn_blocking(move || sender.send(write(&directory, roll, stored)));
            self.writing = Some(receiver);
        }
        gone
    }

    /// At the stop: what is not on disk yet is written. Blocks.
    pub fn close(&mut self, gate: &Gate) {
        if let Some(written) = self.writing.take().and_then(|writing| writing.recv_timeout(LAST_WRITE).ok()) {
            self.settle(written);
        }
        if !self.is_unread && self.revision != Some(gate.fleet_revision()) {
            self.revision = Some(gate.fleet_revision());
            let written = write(&self.directory, gate.roll(), self.stored.take());
            self.settle(written);
        }
    }

    fn settle(&mut self, written: Written) {
        match written {
            Ok(text) => (self.stored, self.failing) = (Some(text), None),
            Err(error) => {
                let path = self.directory.join(FILE);
                let failing = format!(
                    "{}: the list of fleets' devices is not stored: {error}; after a restart those not in it are \
                     unknown until they come",
                    path.display()
                );
                if self.failing.as_ref() != Some(&failing) {
                    log::error!("{failing}");
                }
                // Tried again.
                (self.failing, self.revision) = (Some(failing), None);
            }
        }
    }

    /// Gives the gate what was read, and keeps in mind what was not.
    fn take(&mut self, now: Instant, (retrieved, aside): Found, gate: &mut Gate) -> Vec<Name> {
        self.aside.extend(aside);
        self.is_unread = !retrieved.may_be_replaced();
        self.failing = None;
        for defect in retrieved.defects.iter().filter(|_| !retrieved.is_new()) {
            let shown = self.directory.join(&defect.name);
            let effect = "the devices of fleets are unknown until they come";
            log::error!("{}: {}; {effect}", shown.display(), defect.condition);
            if self.is_unread {
                self.failing = Some(format!("{}: {}; {effect}", shown.display(), defect.condition));
            }
        }
        let Some(roll) = retrieved.value else { return Vec::new() };
        let gone = gate.restore_fleets(now, &roll);
        log::info!(devices = gate.fleets().map(|(_, size)| size).sum::<usize>(), gone = gone.len(); "devices of fleets known again");
        if gone.is_empty() && self.revision.is_none() {
            self.stored = Some(roll.encode());
        }
        gone
    }
}

/// Reads the file; one that is damaged is set aside.
fn retrieve(directory: &Path) -> Found {
    let folder = OnDisk::new(directory);
    let retrieved = ROLL.read(&folder, Roll::parse);
    let aside = ROLL.mend(&folder, &retrieved).unwrap_or_else(|error| {
        log::error!(reason:% = error; "a damaged list of fleets' devices cannot be set aside");
        Vec::new()
    });
    (retrieved, aside)
}

/// Writes the roll, unless it is what is `stored`.
fn write(directory: &Path, roll: Roll, stored: Option<String>) -> Written {
    let is_empty = roll.pages().is_empty();
    let text = roll.encode();
    // Where there never was a fleet there is no file either.
    if stored.as_ref() == Some(&text) || (stored.is_none() && is_empty && !directory.join(FILE).exists()) {
        return Ok(text);
    }
    if text.len() as u64 > MAX_BYTES {
        return Err(format!("it would have more than {MAX_BYTES} bytes"));
    }
    match ROLL.write(&OnDisk::new(directory), text.as_bytes()) {
        Ok(()) => Ok(text),
        Err(error) => Err(error.to_string()),
    }
}
