//! The registry's files: read all, add one, remove one; with or without a running daemon.
//!
//! Files are created and deleted atomically ([`durable`](crate::durable)). A file has mode 0600 and
//! the folder's owner, also if root adds it, so that the daemon can read it. Writers use a lock;
//! readers need none.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;
use zeroize::Zeroizing;

use super::{FILE_MAX, FileText, Registry, check_new, check_remove, generated_key, render};
use crate::config::Loaded;
use crate::config::finding::{Finding, Place};
use crate::durable::atomic_file::{AtomicFile, Condition, list};
use crate::durable::folder::StateFolder as _;
use crate::durable::io::{OnDisk, create_directory, give_to_owner_of, sync_folder, write_atomically};
use crate::gate::Device;
use crate::system::io::fill_random;

/// The lock file of writers.
const LOCK: &str = ".lock";
/// The mode of its files, which contain keys.
const MODE: u32 = 0o600;

/// Reads all devices in `directory`; a directory that does not exist is empty, unless
/// `previous` has devices of it, which stay. Hidden files and
/// files without the suffix `.toml` are ignored.
pub fn load(directory: &Path, previous: Option<&Registry>) -> Registry {
    let mut exposed = Vec::new();
    let mut registry = match read_all(directory, &mut exposed) {
        Ok(files) => Registry::assemble(files, previous),
        // It is made with the first device and stays: one that is gone is a fault, not an order.
        Err(Condition::Missing) if previous.is_some_and(|previous| previous.entries().len() > 0) => {
            let mut registry = previous.cloned().unwrap_or_default();
            let devices = registry.entries().len();
            registry.findings = vec![gone(directory, devices)];
            registry
        }
        Err(Condition::Missing) => Registry::default(),
        Err(condition) => {
            let mut registry = previous.cloned().unwrap_or_default();
            registry.findings = vec![unreadable(directory, &condition)];
            registry
        }
    };
    if let Some(first) = exposed.first() {
        let place = Place { file: first.clone(), line: None };
        let others = exposed.len() - 1;
        let message = match others {
            0 => "this key can be read by every user of this machine".to_owned(),
            n => format!("this key and {n} more can be read by every user of this machine"),
        };
        let finding = Finding::warn("devices", message).at(Some(&place));
        registry.findings.push(finding.advice(format!("chmod 0600 {}/*.toml", directory.display())));
    }
    registry
}

fn gone(directory: &Path, devices: usize) -> Finding {
    let place = Place { file: directory.display().to_string().into(), line: None };
    let these =
        if devices == 1 { "its device stays".to_owned() } else { format!("its {devices} devices stay") };
    let message = format!("the registry is gone; {these} in use until the next restart");
    Finding::fail("devices", message)
        .at(Some(&place))
        .advice("restore it from a backup; to go on without them, make an empty folder there and reload")
}

fn unreadable(directory: &Path, condition: &Condition) -> Finding {
    let place = Place { file: directory.display().to_string().into(), line: None };
    let advice = match condition {
        Condition::Unreadable(_) => {
            "run this as root or as the folder's owner; else see in `dmesg` what the disk has"
        }
        Condition::Damaged(_) | Condition::Missing => "move it aside",
    };
    Finding::fail("devices", format!("the registry {condition}")).at(Some(&place)).advice(advice)
}

fn read_all(directory: &Path, exposed: &mut Vec<Arc<str>>) -> Result<Vec<FileText>, Condition> {
    let folder = OnDisk::new(directory);
    let mut files = Vec::new();
    for name in list(&folder)? {
        let Some(id) = name.strip_suffix(".toml").filter(|id| !id.starts_with('.')) else { continue };
        let path = directory.join(&name);
        let file: Arc<str> = path.display().to_string().into();
        let text = AtomicFile::new(&name, FILE_MAX, MODE).look(&folder, text_of);
        match &text {
            Ok(_) if fs::metadata(&path).is_ok_and(|about| about.mode() & 0o007 != 0) => {
                exposed.push(file.clone());
            }
            // Removed since the folder was listed.
            Err(Condition::Missing) if !folder.has(&name) => continue,
            _ => {}
        }
        files.push(FileText { id: id.to_owned(), file, text });
    }
    // The order of a folder depends on the file system; that of findings must not.
    files.sort_by(|a, b| a.id.cmp(&b.id));
    exposed.sort();
    Ok(files)
}

fn text_of(bytes: &[u8]) -> Result<Zeroizing<String>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// A new random key: see [`generated_key`].
///
/// # Errors
/// The system's random number generator failed.
pub fn random_key() -> io::Result<Zeroizing<Vec<u8>>> {
    let mut random = Zeroizing::new([0; 22]);
    fill_random(&mut *random)?;
    Ok(generated_key(&random))
}

/// Adds a device; a running daemon uses it after its next reload. Returns the file.
///
/// # Errors
/// A finding: the id or the PSK identity exists, in configuration or in the registry, with the
/// place; there is no such role; the file cannot be written.
pub fn add(loaded: &Loaded, device: &Device) -> Result<PathBuf, Box<Finding>> {
    check_new(device, loaded)?;
    let directory = loaded.settings.paths.devices();
    let path = directory.join(format!("{}.toml", device.id));
    let failed = |error: io::Error| {
        let place = Place { file: path.display().to_string().into(), line: None };
        let finding = Finding::fail(format!("device {}", device.id), format!("cannot be written: {error}"));
        Box::new(finding.at(Some(&place)).advice(way_out(&error)))
    };
    create_directory(&directory).map_err(failed)?;
    let _lock = lock(&directory).map_err(failed)?;
    sweep(&directory);
    // Another process may have added a device since the configuration was read.
    let now = load(&directory, None);
    let twin = now.entries().find_map(|other| Some((other, device.shares(&other.device)?)));
    if let Some((other, by)) = twin {
        let place = Place { file: other.file.clone(), line: None };
        let message = format!("device {} has the same {by}", other.device.id);
        let finding = Finding::fail(format!("device {}", device.id), message).at(Some(&place));
        return Err(Box::new(finding.advice("use another identity")));
    }
    if path.symlink_metadata().is_ok() {
        return Err(failed(io::ErrorKind::AlreadyExists.into()));
    }
    write_atomically(&path, render(device).as_bytes(), MODE).map_err(failed)?;
    Ok(path)
}

fn way_out(error: &io::Error) -> &'static str {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded => "make room on this disk, then do it again",
        ReadOnlyFilesystem => "see in `dmesg` why the file system is read-only, then do it again",
        _ => "run this as root or as the folder's owner",
    }
}

/// Removes a temporary file of a writer that was killed before its rename, because it contains a
/// key. The lock excludes other writers.
fn sweep(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with('.') && name.contains(".toml.")) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Removes a device from the registry; a running daemon closes its sessions at its next reload.
/// Returns the path of the removed file.
///
/// # Errors
/// A finding: there is no such device; it is in the configuration, with file and line; the file
/// cannot be removed.
pub fn remove(loaded: &Loaded, id: &str) -> Result<PathBuf, Box<Finding>> {
    check_remove(id, loaded)?;
    let directory = loaded.settings.paths.devices();
    let path = directory.join(format!("{id}.toml"));
    let failed = |error: io::Error| {
        let place = Place { file: path.display().to_string().into(), line: None };
        let finding = Finding::fail(format!("device {id}"), format!("cannot be removed: {error}"));
        Box::new(finding.at(Some(&place)).advice(way_out(&error)))
    };
    let _lock = lock(&directory).map_err(failed)?;
    fs::remove_file(&path).and_then(|()| sync_folder(&directory)).map_err(failed)?;
    Ok(path)
}

/// Locks the registry until the result is dropped. Waits for another holder.
fn lock(directory: &Path) -> io::Result<File> {
    let path = directory.join(LOCK);
    let mut options = OpenOptions::new();
    // Does not follow a link, with which the folder's owner could redirect root.
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
    let file = options.open(path)?;
    give_to_owner_of(directory, &file)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => file.lock()?,
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(file)
}
