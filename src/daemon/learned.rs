//! What Modbus units taught by their silence, kept in `{state-dir}/modbus-learned` from one process
//! to the next.
//!
//! Read once at the start; written whole when something was learned, off the path's thread, at most
//! every [`EVERY`], and once more at the stop. A file that is damaged or cannot be read counts as
//! empty: all of it is found out again, at the cost of some time-outs.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use crate::durable::atomic_file::AtomicFile;
use crate::durable::io::OnDisk;
use crate::proto::serial::modbus::learn::Notebook;

/// The file's name in the state directory.
pub const FILE: &str = "modbus-learned";
/// Largest file, in bytes.
const MAX_BYTES: u64 = 4 << 20;
const NOTEBOOK: AtomicFile<'_> = AtomicFile::new(FILE, MAX_BYTES, 0o600);
/// Between two writes.
const EVERY: Duration = Duration::from_secs(30);
/// Between two attempts where the disk errs.
const RETRY: Duration = Duration::from_secs(300);

/// Reads what was learned, whether or not the daemon runs; empty where there is none that is good.
pub fn read(state_dir: &Path) -> Notebook {
    NOTEBOOK.look(&OnDisk::with_patience(state_dir, Duration::ZERO), Notebook::parse).unwrap_or_default()
}

/// See the module.
pub struct Keeper {
    directory: PathBuf,
    stored: Notebook,
    next_at: Option<Instant>,
    writing: Option<(Notebook, Receiver<Result<(), String>>)>,
    is_failing: bool,
}

impl Keeper {
    /// Reads the file. Blocks; at the start only.
    pub fn open(state_dir: &Path) -> (Keeper, Notebook) {
        let folder = OnDisk::new(state_dir);
        let _ = crate::durable::atomic_file::sweep(&folder, FILE);
        let retrieved = NOTEBOOK.read(&folder, Notebook::parse);
        if retrieved.value.is_none() && !retrieved.is_new() {
            for defect in &retrieved.defects {
                log::warn!(reason:% = defect; "what Modbus units taught is not known and is found out again");
            }
        }
        let _ = NOTEBOOK.mend(&folder, &retrieved);
        let notebook = retrieved.value.unwrap_or_default();
        let keeper = Keeper {
            directory: state_dir.to_owned(),
            stored: notebook.clone(),
            next_at: None,
            writing: None,
            is_failing: false,
        };
        (keeper, notebook)
    }

    /// Once a second: writes what changed. Never waits for the disk.
    pub fn care(&mut self, now: Instant, notebook: impl FnOnce() -> Notebook) {
        if let Some((notebook, receiver)) = self.writing.take() {
            match receiver.try_recv() {
                Ok(result) => self.settle(now, result, notebook),
                Err(TryRecvError::Empty) => self.writing = Some((notebook, receiver)),
                Err(TryRecvError::Disconnected) => self.settle(now, Err("it broke off".to_owned()), notebook),
            }
        }
        if self.writing.is_some() || self.next_at.is_some_and(|at| now < at) {
            return;
        }
        self.next_at = Some(now + EVERY);
        let notebook = notebook();
        if notebook == self.stored {
            return;
        }
        let directory = self.directory.clone();
        let (sender, receiver) = channel();
        let bytes = encode(&notebook);
        tokio::task::spawn_blocking(move || sender.send(write(&directory, &bytes)));
        self.writing = Some((notebook, receiver));
    }

    /// At the stop: writes what is not written yet, and waits for it.
    pub fn close(&mut self, notebook: &Notebook) {
        if *notebook != self.stored
            && let Err(reason) = write(&self.directory, &encode(notebook))
        {
            log::warn!(reason; "what Modbus units taught could not be stored; it is found out again");
        }
    }

    fn settle(&mut self, now: Instant, result: Result<(), String>, notebook: Notebook) {
        match result {
            Ok(()) => {
                self.stored = notebook;
                self.is_failing = false;
            }
            Err(reason) => {
                self.next_at = Some(now + RETRY);
                if !std::mem::replace(&mut self.is_failing, true) {
                    log::warn!(reason; "what Modbus units taught cannot be stored; trying on");
                }
            }
        }
    }
}

/// As bytes; without the reads of single maps if they would be too many.
fn encode(notebook: &Notebook) -> Vec<u8> {
    let text = notebook.encode();
    if text.len() as u64 <= MAX_BYTES {
        return text.into_bytes();
    }
    let mut short = notebook.clone();
    short.units.values_mut().for_each(|unit| unit.reads.clear());
    short.encode().into_bytes()
}

fn write(directory: &Path, bytes: &[u8]) -> Result<(), String> {
    NOTEBOOK.write(&OnDisk::new(directory), bytes).map_err(|error| error.to_string())
}
