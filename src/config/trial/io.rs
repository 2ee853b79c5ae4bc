//! Reads, writes and deletes the record of a trial; and the time.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::io;
use std::path::Path;

use nix::time::{ClockId, clock_gettime};

use super::{CANDIDATE_MAX, FILE_NAME, Moment, Trial};
use crate::durable::atomic_file::{AtomicFile, Condition};
use crate::durable::io::{OnDisk, sync_folder, write_atomically};

/// Two texts, escaped.
const RECORD_MAX: u64 = 8 * CANDIDATE_MAX;

/// The boot and its time.
pub fn moment() -> Moment {
    let boot = crate::system::io::boot_id().map(|id| format!("{:032x}", u128::from_be_bytes(id)));
    let now_ms = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(u64::MAX, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        seconds.saturating_mul(1_000) + u64::try_from(time.tv_nsec()).unwrap_or(0) / 1_000_000
    });
    Moment { boot, now_ms }
}

/// The record in this state directory, if there is one.
///
/// # Errors
/// Why it cannot be used: it cannot be read, or is damaged.
pub fn read(state_dir: &Path) -> Result<Option<Trial>, Condition> {
    let disk = OnDisk::new(state_dir);
    match AtomicFile::new(FILE_NAME, RECORD_MAX, 0o600).look(&disk, Trial::parse) {
        Ok(trial) => Ok(Some(trial)),
        Err(Condition::Missing) => Ok(None),
        // Others than the service's user may not look.
        Err(Condition::Unreadable(_)) if may_not_look(&state_dir.join(FILE_NAME)) => Ok(None),
        Err(condition) => Err(condition),
    }
}

fn may_not_look(file: &Path) -> bool {
    std::fs::File::open(file).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Writes it, durably.
///
/// # Errors
/// As the system says; then there is none, or the one before.
pub fn write(state_dir: &Path, trial: &Trial) -> io::Result<()> {
    write_atomically(&state_dir.join(FILE_NAME), &trial.encode(), 0o600)
}

/// Deletes it, durably: the file that is there is confirmed. One that is not there is deleted
/// already.
///
/// # Errors
/// As the system says.
pub fn remove(state_dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(state_dir.join(FILE_NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_folder(state_dir),
    }
}

/// Puts back what was there before, and deletes the record. Not if the file is not the candidate's
/// any more: then only the record goes.
///
/// # Errors
/// As the system says; then the record is still there, and what was before is loaded all the same.
pub fn revert(state_dir: &Path, trial: &Trial) -> io::Result<()> {
    let now = match std::fs::read_to_string(&trial.file) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if now.as_ref() == Some(&trial.candidate) {
        match &trial.before {
            Some(before) => write_keeping_mode(&trial.file, before)?,
            None => {
                std::fs::remove_file(&trial.file)?;
                sync_folder(trial.file.parent().unwrap_or(Path::new(".")))?;
            }
        }
    }
    remove(state_dir)
}

/// Replaces a file whole or not at all; it keeps owner, group and mode. A new one has mode 0644.
///
/// # Errors
/// As the system says; then it is as it was, but perhaps for its owner and group.
pub fn write_keeping_mode(file: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let before = std::fs::metadata(file).ok();
    let mode = before.as_ref().map_or(0o644, |about| about.mode() & 0o777);
    write_atomically(file, text.as_bytes(), mode)?;
    let Some(before) = before else { return Ok(()) };
    let now = std::fs::metadata(file)?;
    if (now.uid(), now.gid()) != (before.uid(), before.gid()) {
        // Otherwise the service may not be able to read it any more.
        chown(file, Some(before.uid()), Some(before.gid()))?;
    }
    Ok(())
}
