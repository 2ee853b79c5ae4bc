//! The registry's files: read all, add one, remove one; with or without a running daemon.
//!
//! A file appears and disappears whole: written beside its place, synced, renamed, and the folder synced. It is 0600 and belongs to
//! the folder's owner, also when root adds it, or the daemon could not read it. Those who change the registry wait for each other at
//! a lock; readers need none.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;
use zeroize::Zeroizing;

use super::{FILE_MAX, FileText, Registry, check_new, check_remove, generated_key, render};
use crate::config::finding::{Finding, Place};
use crate::config::{Loaded, io::random_bytes};
use crate::gate::Device;

/// The lock of those who change the registry.
const LOCK: &str = ".lock";

/// Reads all of `directory`; one that does not exist is empty. Files that end in anything but `.toml`, and hidden ones, are passed over.
pub fn load(directory: &Path, previous: Option<&Registry>) -> Registry {
    let mut exposed = Vec::new();
    let mut registry = match read_all(directory, &mut exposed) {
        Ok(files) => Registry::assemble(files, previous),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Registry::default(),
        Err(error) => {
            let mut registry = previous.cloned().unwrap_or_default();
            registry.findings = vec![unreadable(directory, &error)];
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

fn unreadable(directory: &Path, error: &io::Error) -> Finding {
    let place = Place { file: directory.display().to_string().into(), line: None };
    let finding = Finding::fail("devices", format!("the registry cannot be read: {error}")).at(Some(&place));
    finding.advice("run this as root or as the folder's owner")
}

fn read_all(directory: &Path, exposed: &mut Vec<Arc<str>>) -> io::Result<Vec<FileText>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let Some(id) = Path::new(&name).to_str().and_then(|name| name.strip_suffix(".toml")) else {
            continue;
        };
        if id.starts_with('.') {
            continue;
        }
        let path = directory.join(&name);
        let file: Arc<str> = path.display().to_string().into();
        let text = match read_one(&path) {
            Ok((text, mode)) => {
                if mode & 0o007 != 0 {
                    exposed.push(file.clone());
                }
                Ok(text)
            }
            // Removed since the folder was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => Err(error.to_string()),
        };
        files.push(FileText { id: id.to_owned(), file, text });
    }
    // The order of a folder is the file system's; that of findings should not be.
    files.sort_by(|a, b| a.id.cmp(&b.id));
    exposed.sort();
    Ok(files)
}

fn read_one(path: &Path) -> io::Result<(Zeroizing<String>, u32)> {
    // A named pipe in the folder must not stop the daemon.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if metadata.len() > FILE_MAX {
        return Err(io::Error::other("it is larger than 16 KiB"));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1));
    file.take(FILE_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8(std::mem::take(&mut *bytes)).map(Zeroizing::new);
    // What is not text is dropped with the error: wiped first.
    text.map(|text| (text, metadata.mode())).map_err(|error| {
        drop(Zeroizing::new(error.into_bytes()));
        io::Error::other("it is not UTF-8")
    })
}

/// A new random key: see [`generated_key`].
///
/// # Errors
/// The system has no randomness to give.
pub fn random_key() -> io::Result<Zeroizing<Vec<u8>>> {
    let mut random = Zeroizing::new([0; 22]);
    random_bytes(&mut *random)?;
    Ok(generated_key(&random))
}

/// Adds a device; a running daemon takes it up at its next reload. Returns the file.
///
/// # Errors
/// A finding: the id or the PSK identity exists, in configuration or in the registry, with the place; there is no such role; the
/// file cannot be written.
pub fn add(loaded: &Loaded, device: &Device) -> Result<PathBuf, Box<Finding>> {
    check_new(device, loaded)?;
    let directory = loaded.settings.paths.devices();
    let path = directory.join(format!("{}.toml", device.id));
    let failed = |error: io::Error| {
        let place = Place { file: path.display().to_string().into(), line: None };
        let finding = Finding::fail(format!("device {}", device.id), format!("cannot be written: {error}"));
        Box::new(finding.at(Some(&place)).advice("run this as root or as the folder's owner"))
    };
    create_directory(&directory).map_err(failed)?;
    let _lock = lock(&directory).map_err(failed)?;
    sweep(&directory);
    // Somebody else may have added one since the configuration was read.
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
    write_atomically(&path, render(device).as_bytes(), 0o600).map_err(failed)?;
    Ok(path)
}

/// Removes what a writer left that was killed before its rename; under the lock nobody else is writing. It holds a key.
fn sweep(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with('.') && name.contains(".toml.")) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Removes a device from the registry; a running daemon ends its session at its next reload. Returns the file that was.
///
/// # Errors
/// A finding: there is no such device; it stands in configuration, with file and line; the file cannot be removed.
pub fn remove(loaded: &Loaded, id: &str) -> Result<PathBuf, Box<Finding>> {
    check_remove(id, loaded)?;
    let directory = loaded.settings.paths.devices();
    let path = directory.join(format!("{id}.toml"));
    let failed = |error: io::Error| {
        let place = Place { file: path.display().to_string().into(), line: None };
        let finding = Finding::fail(format!("device {id}"), format!("cannot be removed: {error}"));
        Box::new(finding.at(Some(&place)).advice("run this as root or as the folder's owner"))
    };
    let _lock = lock(&directory).map_err(failed)?;
    fs::remove_file(&path).and_then(|()| sync(&directory)).map_err(failed)?;
    Ok(path)
}

/// Makes a folder, 0700 and its parent's owner's, unless it is there.
pub(crate) fn create_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = parent(directory);
    fs::create_dir_all(parent)?;
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    give_to_owner_of(parent, &File::open(directory)?)?;
    sync(parent)
}

/// Writes a file whole or not at all: beside its place, synced, renamed, the folder synced. It belongs to the folder's owner.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = parent(path);
    let name = path.file_name().unwrap_or(OsStr::new("file")).to_string_lossy();
    let mut random = [0; 8];
    random_bytes(&mut random)?;
    let beside = folder.join(format!(".{name}.{}", u64::from_ne_bytes(random)));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        give_to_owner_of(folder, &file)?;
        // Whatever the umask took away.
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        sync(folder)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Root makes files for the service's user; nobody else can give files away, nor needs to.
fn give_to_owner_of(folder: &Path, file: &File) -> io::Result<()> {
    if nix::unistd::geteuid().is_root() {
        let owner = fs::metadata(folder)?;
        fchown(file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Held until dropped. Waits for whoever has it.
fn lock(directory: &Path) -> io::Result<File> {
    let path = directory.join(LOCK);
    let mut options = OpenOptions::new();
    // Not through a link: whoever owns the folder could lead root elsewhere.
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
