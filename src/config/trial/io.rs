//! Reads, writes and deletes the record of a trial; and the time.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::io;
use std::path::{Path, PathBuf};

use nix::time::{ClockId, clock_gettime};

use super::{CANDIDATE_MAX, FILE_NAME, Moment, Trial};
use crate::config::Paths;
use crate::durable::atomic_file::{AtomicFile, Condition};
use crate::durable::io::{OnDisk, create_directory, is_denied, sync_folder, write_atomically};
use crate::update::io::untrusted::{Folder, read_below};

/// Two texts, escaped.
const RECORD_MAX: u64 = 8 * CANDIDATE_MAX;

/// What was before a trial whose file was edited meanwhile.
pub const KEPT: &str = "config-before-trial.toml";

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
        // Others than the service's user may not look: see [`is_closed`].
        Err(Condition::Unreadable(_)) if is_closed(state_dir) => Ok(None),
        Err(condition) => Err(condition),
    }
}

/// Whether this user may not see if there is a record: then [`read`] finds none.
pub fn is_closed(state_dir: &Path) -> bool {
    is_denied(&state_dir.join(FILE_NAME))
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

/// What [`revert`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reverted {
    /// The file is as it was before the trial.
    PutBack,
    /// It was so already.
    AsBefore,
    /// The file was changed or deleted during the trial, and is left as it is. What was there
    /// before is in this file of the state directory, if there was anything.
    Left(Option<PathBuf>),
}

/// Puts back what was there before, and deletes the record. Not if the file is not the candidate's
/// any more: then it stays, and what was before is kept in the state directory, as [`KEPT`].
///
/// # Errors
/// As the system says; then the record is still there, and what was before is loaded all the same.
pub fn revert(state_dir: &Path, trial: &Trial) -> io::Result<Reverted> {
    let now = text_of(state_dir, &trial.file)?;
    let done = if now == trial.before {
        Reverted::AsBefore
    } else if now.as_ref() == Some(&trial.candidate) {
        match &trial.before {
            Some(before) => put(state_dir, &trial.file, before)?,
            None => take_away(state_dir, &trial.file)?,
        }
        Reverted::PutBack
    } else {
        Reverted::Left(trial.before.as_ref().map(|before| keep(state_dir, before)).transpose()?)
    };
    remove(state_dir)?;
    Ok(done)
}

/// Writes what was before the trial where no loader reads it, and not at a place that the record
/// names: the service's user can write the record, and root acts on it here.
fn keep(state_dir: &Path, before: &str) -> io::Result<PathBuf> {
    let kept = state_dir.join(KEPT);
    write_atomically(&kept, before.as_bytes(), 0o600)?;
    Ok(kept)
}

/// The name of a drop-in below the state directory.
fn below<'f>(state_dir: &Path, file: &'f Path) -> Option<&'f str> {
    let name = file.file_name()?.to_str()?;
    (file.parent()? == state_dir.join(Paths::CONF_D)).then_some(name)
}

/// Whether that is the main file or a drop-in of this gateway. The service's user can write the
/// record, and what root writes at a place that it names would be any file of the system.
pub fn is_ours(config: &Path, state_dir: &Path, file: &Path) -> bool {
    let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (Some(folder), Some(name)) = (file.parent(), file.file_name().and_then(|name| name.to_str())) else {
        return false;
    };
    let is_main = Some(name) == config.file_name().and_then(|name| name.to_str())
        && whole(folder) == whole(config.parent().unwrap_or(Path::new("")));
    let is_drop_in = name.ends_with(".toml") && !name.starts_with('.');
    is_main
        || is_drop_in && (below(state_dir, file).is_some() || whole(folder) == whole(&Paths::conf_d(config)))
}

/// The text of a configuration file; `None`: there is none. One below the state directory is not
/// read over a link: its user may have put it there.
///
/// # Errors
/// As the system says.
pub fn text_of(state_dir: &Path, file: &Path) -> io::Result<Option<String>> {
    let read = match below(state_dir, file) {
        None => std::fs::read_to_string(file),
        Some(name) => read_below(state_dir, &Path::new(Paths::CONF_D).join(name), CANDIDATE_MAX)
            .and_then(|bytes| String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())),
    };
    match read {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a configuration file, whole or not at all: one below the state directory as a file of its
/// user, 0600, and never over a link; another one as [`write_keeping_mode`].
///
/// # Errors
/// As the system says.
pub fn put(state_dir: &Path, file: &Path, text: &str) -> io::Result<()> {
    let Some(name) = below(state_dir, file) else {
        if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)?;
        }
        return write_keeping_mode(file, text);
    };
    create_directory(state_dir)?;
    // What is at the folder's name may change meanwhile: the folder is held.
    let held = Folder::make(state_dir, Paths::CONF_D)?;
    write_atomically(&held.path().join(name), text.as_bytes(), 0o600)
}

/// Deletes a configuration file, durably.
///
/// # Errors
/// As the system says.
pub fn take_away(state_dir: &Path, file: &Path) -> io::Result<()> {
    match below(state_dir, file) {
        None => {
            std::fs::remove_file(file)?;
            sync_folder(file.parent().unwrap_or(Path::new(".")))
        }
        Some(name) => {
            let held = Folder::open(state_dir, Paths::CONF_D)?;
            std::fs::remove_file(held.path().join(name))?;
            sync_folder(held.path())
        }
    }
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    fn trial(name: &str, before: Option<&str>, now: Option<&str>) -> (PathBuf, Trial) {
        let top = std::env::temp_dir().join(format!("tombolo-trial-{name}-{}", std::process::id()));
        fs::create_dir_all(&top).unwrap();
        let file = top.join("50-x.toml");
        let moment = Moment { boot: Some("a".into()), now_ms: 0 };
        let made =
            Trial::begin(&file, "new".into(), before.map(str::to_owned), &moment, Duration::from_secs(9));
        let made = made.unwrap();
        write(&top, &made).unwrap();
        if let Some(now) = now {
            fs::write(&file, now).unwrap();
        }
        (top, made)
    }

    #[test]
    fn a_record_is_believed_about_configuration_files_alone() {
        let (config, state) = (Path::new("/nowhere/gw/tombolo.toml"), Path::new("/nowhere/state"));
        let is = |file: &str| is_ours(config, state, Path::new(file));
        for ours in ["gw/tombolo.toml", "gw/conf.d/50-x.toml", "state/conf.d/50-x.toml"] {
            assert!(is(&format!("/nowhere/{ours}")), "{ours}");
        }
        for other in [
            "etc/passwd",
            "gw/other.toml",
            "gw/conf.d/.x.toml",
            "gw/conf.d/x",
            "gw/conf.d/../../etc/cron.d/x.toml",
            "state/conf.d/x/50.toml",
            "state/config-trial.json",
        ] {
            assert!(!is(&format!("/nowhere/{other}")), "{other}");
        }
        assert!(!is("tombolo.toml") && !is("/"));
    }

    #[test]
    fn below_the_state_directory_no_link_is_followed() {
        let top = std::env::temp_dir().join(format!("tombolo-trial-below-{}", std::process::id()));
        let (state, other) = (top.join("state"), top.join("other"));
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("50-x.toml"), "secret").unwrap();
        let file = state.join("conf.d/50-x.toml");
        assert_eq!(text_of(&state, &file).unwrap(), None);
        put(&state, &file, "mine").unwrap();
        assert_eq!(text_of(&state, &file).unwrap().as_deref(), Some("mine"));
        take_away(&state, &file).unwrap();
        assert!(!file.exists());
        std::os::unix::fs::symlink(other.join("50-x.toml"), &file).unwrap();
        assert!(text_of(&state, &file).is_err());
        put(&state, &file, "mine").unwrap();
        assert_eq!(fs::read_to_string(other.join("50-x.toml")).unwrap(), "secret");
        fs::remove_dir_all(state.join("conf.d")).unwrap();
        std::os::unix::fs::symlink(&other, state.join("conf.d")).unwrap();
        assert!(text_of(&state, &file).is_err() && put(&state, &file, "mine").is_err());
        assert!(take_away(&state, &file).is_err() && other.join("50-x.toml").exists());
        fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn a_file_that_was_edited_during_its_trial_is_left_and_what_was_before_is_kept() {
        for (name, before, now, wanted, kept) in [
            ("back", Some("old"), Some("new"), "PutBack", None),
            ("same", Some("old"), Some("old"), "AsBefore", None),
            ("edited", Some("old"), Some("mine"), "Left", Some("old")),
            ("deleted", Some("old"), None, "Left", Some("old")),
            ("added", None, Some("mine"), "Left", None),
            ("gone", None, None, "AsBefore", None),
        ] {
            let (top, trial) = trial(name, before, now);
            let done = revert(&top, &trial).unwrap();
            assert!(format!("{done:?}").starts_with(wanted), "{name}: {done:?}");
            let beside = fs::read_to_string(top.join(KEPT)).ok();
            assert_eq!(beside.as_deref(), kept, "{name}");
            let text = fs::read_to_string(&trial.file).ok();
            let is = if wanted == "PutBack" { before } else { now };
            assert_eq!(text.as_deref(), is, "{name}");
            assert_eq!(read(&top), Ok(None), "{name}");
            fs::remove_dir_all(top).unwrap();
        }
    }
}
