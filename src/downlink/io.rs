//! The thread that makes the mailbox's batches durable: one at a time, each with one sync. The
//! path's thread never waits for the disk.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::Notify;

use super::log::{Batch, Committed, Entry, MailboxLog};
use crate::durable::io::{Files, create_directory};
use crate::system::io::random;

#[derive(Default)]
struct State {
    batch: Option<Batch>,
    committed: Option<Committed>,
    closing: bool,
    bytes: u64,
    written: u64,
    busy_since: Option<Instant>,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    wake: Arc<Notify>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The open file and its thread.
pub struct MailboxFile {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What was found at the start.
pub struct Found {
    /// The file.
    pub file: MailboxFile,
    /// What it has.
    pub entries: Vec<Entry>,
    /// What was wrong with it, in sentences.
    pub defects: Vec<String>,
}

impl MailboxFile {
    /// Opens the mailbox in `directory`, or makes it; `wake` is notified of each batch that is
    /// done. Takes as long as reading it takes.
    ///
    /// # Errors
    /// Why there is none: it cannot be read, or not made.
    pub fn open(directory: &Path, wake: Arc<Notify>) -> Result<Found, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
        create_directory(directory).map_err(failed)?;
        let epoch = random().map(u32::from_le_bytes).map_err(failed)?;
        let (log, entries, report) = MailboxLog::open(Files::new(directory), epoch).map_err(failed)?;
        let mut defects = Vec::new();
        if report.damaged > 0 {
            defects.push(format!(
                "{} bytes of the mailbox are damaged: commands may be lost; its undamaged parts are used",
                report.damaged
            ));
        }
        if let Some((major, name)) = report.moved_aside {
            defects
                .push(format!("the mailbox has the unknown version {major} and was moved aside as {name}"));
        }
        let shared = Arc::new(Shared { state: Mutex::default(), work: Condvar::new(), wake });
        shared.lock().bytes = log.bytes();
        let writer = shared.clone();
        let thread = std::thread::Builder::new().name("tombolo-mailbox".to_owned());
        let thread = Some(thread.spawn(move || write(&writer, log)).map_err(failed)?);
        Ok(Found { file: MailboxFile { shared, thread }, entries, defects })
    }

    /// Hands over a batch; the one before must have been polled.
    pub fn submit(&self, batch: Batch) {
        self.shared.lock().batch = Some(batch);
        self.shared.work.notify_one();
    }

    /// What became of the batch, once.
    pub fn poll_committed(&self) -> Option<Committed> {
        self.shared.lock().committed.take()
    }

    /// The size of the file and the bytes written since the start.
    pub fn bytes(&self) -> (u64, u64) {
        let state = self.shared.lock();
        (state.bytes, state.written)
    }

    /// Since when the disk has been at it.
    pub fn busy_since(&self) -> Option<Instant> {
        self.shared.lock().busy_since
    }

    /// Writes what was handed over and ends the thread.
    pub fn close(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so itself.
            drop(thread.join());
        }
    }
}

impl Drop for MailboxFile {
    fn drop(&mut self) {
        self.close();
    }
}

fn write(shared: &Shared, mut log: MailboxLog<Files>) {
    loop {
        let mut state = shared.lock();
        let batch = loop {
            if let Some(batch) = state.batch.take() {
                break batch;
            }
            if state.closing {
                return;
            }
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        state.busy_since = Some(Instant::now());
        drop(state);
        let committed = log.commit(&batch);
        let mut state = shared.lock();
        state.committed = Some(committed);
        (state.bytes, state.written, state.busy_since) = (log.bytes(), log.bytes_written(), None);
        drop(state);
        shared.wake.notify_one();
    }
}
