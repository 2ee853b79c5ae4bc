//! The store on a real disk: its directory, its key, and the thread that writes, so that the path
//! never waits.
//!
//! A commit begins [`GATHER`] after there is something to write, but not before [`rest`] has passed
//! since the last: what comes in meanwhile goes with it. After a fault everything is tried again
//! after [`RETRY`].
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

mod disk;
mod key;
pub mod persistence;
mod relay;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::disk::Directory;
use self::key::KeptKey;
pub use self::relay::{leave_handover, take_handover};
use super::log::{Log, Report};
use super::{Batch, Kept, Number};
use crate::durable::io::{Files, OnDisk};
use crate::proto::dtls::server::export::StoreKey;

/// So long what is new waits for more.
pub const GATHER: Duration = Duration::from_secs(1);
/// At least so long from one commit to the next.
const REST: Duration = Duration::from_secs(5);
/// Bytes for each second of rest.
const PACE: u64 = 16 << 10;
/// From one fault to the next attempt.
const RETRY: Duration = Duration::from_secs(10);

/// Why there is no store. The daemon runs without.
#[derive(Debug)]
pub enum OpenError {
    /// Another process has it.
    InUse(PathBuf),
    /// The system said so of this file or directory.
    Failed(PathBuf, io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::InUse(path) => {
                write!(
                    f,
                    "{} is in use by another tombolo; stop that one, or give each its own state-dir",
                    path.display()
                )
            }
            OpenError::Failed(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for OpenError {}

/// An open store and what it had.
pub struct Opened {
    /// The store.
    pub store: Store,
    /// What seals its sessions.
    pub key: StoreKey,
    /// Its sessions, in the order they were established.
    pub kept: Vec<Kept>,
    /// The run that begins now.
    pub run: u32,
    /// The first free number.
    pub next: Number,
    /// What was found besides.
    pub report: Report,
    /// What was wrong with the key of before, in one sentence; then there is a new one, and what it
    /// sealed is gone.
    pub key_defect: Option<String>,
}

/// How it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Sessions durably stored.
    pub stored: usize,
    /// Size of the log in bytes.
    pub bytes: u64,
    /// Bytes written since the start.
    pub written: u64,
    /// Why nothing is stored at present.
    pub trouble: Option<String>,
    /// Since when the disk has been at it.
    pub busy_since: Option<Instant>,
}

#[derive(Default)]
struct State {
    batch: Batch,
    since: Option<Instant>,
    closing: bool,
    status: Status,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The open store; locked against other processes as long as it lives.
pub struct Store {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    _directory: Directory,
}

impl Store {
    /// Opens what is in `directory`, or makes it. Takes as long as reading it takes.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(directory: &Path) -> Result<Opened, OpenError> {
        let failed = |error| OpenError::Failed(directory.to_path_buf(), error);
        let locked = Directory::lock(directory)?;
        let disk = Files::new(directory);
        let KeptKey { key, is_new, defect } =
            key::load_or_make(&disk, &OnDisk::new(directory)).map_err(failed)?;
        if is_new {
            // What another key has sealed nobody can open.
            super::storage::Storage::remove(&disk, super::log::NAME).map_err(failed)?;
        }
        let (mut log, kept, report) = Log::open(disk).map_err(failed)?;
        let begun = log.begin();
        let (run, next) = (log.run(), log.next_number());
        let shared = Arc::new(Shared { state: Mutex::default(), work: Condvar::new() });
        let mut writer = Writer { shared: shared.clone(), log, backlog: Batch::default(), retry: None };
        writer.note(begun);
        let thread = std::thread::Builder::new().name("tombolo-session".to_owned());
        let thread = Some(thread.spawn(move || writer.run()).map_err(failed)?);
        let store = Store { shared, thread, _directory: locked };
        Ok(Opened { store, key, kept, run, next, report, key_defect: defect })
    }

    /// Hands over what is to be committed next; `batch` is empty afterwards. Never waits for the
    /// disk.
    pub fn submit(&self, batch: &mut Batch) {
        let mut state = self.shared.lock();
        state.batch.merge(batch);
        if state.since.is_none() && !state.batch.is_empty() {
            state.since = Some(Instant::now());
            self.shared.work.notify_one();
        }
    }

    /// How it stands as of the last commit.
    pub fn status(&self) -> Status {
        self.shared.lock().status.clone()
    }

    /// Commits what there is and ends the thread.
    pub fn close(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so itself.
            drop(thread.join());
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

/// Deletes what a store has left in `directory`, which is not an error if it is not there.
///
/// # Errors
/// [`OpenError`].
pub fn clear(directory: &Path) -> Result<(), OpenError> {
    if !directory.exists() {
        return Ok(());
    }
    let _locked = Directory::lock(directory)?;
    disk::clear(directory).map_err(|error| OpenError::Failed(directory.to_path_buf(), error))
}

/// How long after writing so many bytes nothing more is written.
fn rest(bytes: u64) -> Duration {
    REST.max(Duration::from_secs(bytes / PACE))
}

struct Writer {
    shared: Arc<Shared>,
    log: Log<Files>,
    /// What could not be written.
    backlog: Batch,
    retry: Option<Instant>,
}

impl Writer {
    fn run(mut self) {
        let shared = self.shared.clone();
        let mut resting: Option<Instant> = None;
        loop {
            let mut state = shared.lock();
            let now = loop {
                let now = Instant::now();
                let due = match self.retry {
                    Some(retry) => Some(retry),
                    None => state.since.map(|since| (since + GATHER).max(resting.unwrap_or(since))),
                };
                if state.closing || due.is_some_and(|due| due <= now) {
                    break now;
                }
                state = match due {
                    Some(due) => {
                        let waited = shared.work.wait_timeout(state, due - now);
                        waited.unwrap_or_else(PoisonError::into_inner).0
                    }
                    None => shared.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                };
            };
            let mut batch = std::mem::take(&mut state.batch);
            state.since = None;
            state.status.busy_since = Some(now);
            let closing = state.closing;
            drop(state);
            self.backlog.merge(&mut batch);
            if !self.backlog.is_empty() || !self.log.is_sound() {
                let before = self.log.bytes_written();
                let result = self.log.commit(&self.backlog);
                if result.is_ok() {
                    self.backlog = Batch::default();
                } else {
                    self.backlog.ended.clear();
                }
                self.note(result);
                resting = Some(Instant::now() + rest(self.log.bytes_written() - before));
            }
            shared.lock().status.busy_since = None;
            if closing {
                return;
            }
        }
    }

    /// Says how it went, once.
    fn note(&mut self, result: io::Result<()>) {
        self.retry = result.is_err().then(|| Instant::now() + RETRY);
        let trouble = result.err().map(|error| error.to_string());
        let mut state = self.shared.lock();
        match (&trouble, &state.status.trouble) {
            (Some(reason), None) => {
                log::warn!(reason = reason.as_str(); "DTLS sessions cannot be stored; after a restart devices must handshake again");
            }
            (None, Some(_)) => log::info!("DTLS sessions are stored again"),
            _ => {}
        }
        state.status.trouble = trouble;
        state.status.stored = self.log.len();
        state.status.bytes = self.log.bytes();
        state.status.written = self.log.bytes_written();
    }
}
