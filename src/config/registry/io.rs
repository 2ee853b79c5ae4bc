//! The registry's files: read all, add one or thousands, change one, remove one; with or without a
//! running daemon.
//!
//! **Import.** All files are written into `.import-new`, which is renamed to `.import`: from then
//! on the devices are there. They are then moved beside the others; a writer that was killed
//! meanwhile leaves that to the next one. Readers read `.import` first, so a file that is moved is
//! not missed.
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

use super::{
    Entry, FILE_MAX, FileText, OverlapEnd, Promoted, Registry, check_change, check_new, check_remove,
    generated_key, parse, render_entry,
};
use crate::clock::UnixTime;
use crate::config::Loaded;
use crate::config::finding::{Finding, Place};
use crate::durable::atomic_file::{AtomicFile, Condition, list};
use crate::durable::folder::StateFolder as _;
use crate::durable::io::{OnDisk, create_directory, give_to_owner_of, sync_folder, write_atomically};
use crate::gate::on_behalf::CHILDREN_MAX;
use crate::gate::{Device, Fault};
use crate::message::Name;
use crate::system::io::fill_random;

/// The lock file of writers.
const LOCK: &str = ".lock";
/// The folder of devices that were imported and are not moved yet.
const IMPORT: &str = ".import";
/// The folder of devices that are being imported.
const IMPORT_NEW: &str = ".import-new";
/// A clock before this time, 2025-01-01, was never set: no date is written.
const NO_DATE_BEFORE: UnixTime = UnixTime::from_secs(1_735_689_600);
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
    let mut files = Vec::new();
    let import = directory.join(IMPORT);
    if import.symlink_metadata().is_ok_and(|about| about.is_dir()) {
        match read_folder(&import, &mut files, exposed) {
            // Moved away meanwhile.
            Ok(()) | Err(Condition::Missing) => {}
            Err(condition) => return Err(condition),
        }
    }
    read_folder(directory, &mut files, exposed)?;
    // The order of a folder depends on the file system; that of findings must not. Of a file that
    // was moved meanwhile the second is taken.
    files.reverse();
    files.sort_by(|a, b| a.id.cmp(&b.id));
    files.dedup_by(|later, kept| later.id == kept.id);
    exposed.sort();
    Ok(files)
}

/// Appends the files of one folder.
fn read_folder(
    directory: &Path,
    files: &mut Vec<FileText>,
    exposed: &mut Vec<Arc<str>>,
) -> Result<(), Condition> {
    let folder = OnDisk::new(directory);
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
    Ok(())
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

/// A new random key of 16 bytes, 128 bits: what DTLS libraries of constrained devices take at
/// least.
///
/// # Errors
/// The system's random number generator failed.
pub fn random_key_bytes() -> io::Result<Zeroizing<Vec<u8>>> {
    let mut key = Zeroizing::new(vec![0; 16]);
    fill_random(&mut key)?;
    Ok(key)
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
    let _lock = begin(&directory).map_err(failed)?;
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
    write_atomically(&path, render_entry(&dated(device)).as_bytes(), MODE).map_err(failed)?;
    Ok(path)
}

/// A new device whose keys are of today.
fn dated(device: &Device) -> Entry {
    let today = today();
    let mut device = device.clone();
    device.jwt_keys.iter_mut().for_each(|key| key.since = key.since.or(today));
    let (psk_since, password_since) =
        (today.filter(|_| device.psk.is_some()), today.filter(|_| device.login.is_some()));
    Entry { psk_since, password_since, ..Entry::new(device, "".into()) }
}

/// The time, if the clock was ever set.
pub fn today() -> Option<UnixTime> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(UnixTime::from_secs(since.as_secs())).filter(|now| *now >= NO_DATE_BEFORE)
}

/// Changes a device of the registry; a running daemon uses it after its next reload. `change` gets
/// it as it is in its file. Returns the file.
///
/// # Errors
/// A finding: there is no such device in the registry; what `change` says; what it makes
/// contradicts another device; the file cannot be written.
pub fn change(
    loaded: &Loaded,
    id: &str,
    change: impl FnOnce(&mut Entry) -> Result<(), String>,
) -> Result<PathBuf, Box<Finding>> {
    check_remove(id, loaded)?;
    change_in(&loaded.settings.paths.devices(), id, |entry| {
        let role = entry.device.role.clone();
        change(entry).map_err(|message| Box::new(Finding::fail(format!("device {id}"), message)))?;
        // It can be cut off while a fault disables its role.
        let with_role = entry.enabled || entry.device.role != role;
        check_change(&entry.device, loaded, with_role)
    })
}

/// Disables a device by its file alone, whatever is wrong with the configuration. Returns the file.
///
/// # Errors
/// A finding: the file cannot be read or written.
pub fn disable_in(directory: &Path, id: &Name) -> Result<PathBuf, Box<Finding>> {
    change_in(directory, id.as_str(), |entry| {
        entry.enabled = false;
        Ok(())
    })
}

/// The new PSK of a device takes the place of the one before, with its date; see
/// [`Entry::promote_psk`]. Of a device that was removed meanwhile, nothing is to be done.
///
/// # Errors
/// A finding: the file cannot be read or written.
pub fn promote_psk(directory: &Path, id: &str, end: &OverlapEnd) -> Result<Promoted, Box<Finding>> {
    if matches!(directory.join(format!("{id}.toml")).try_exists(), Ok(false)) {
        return Ok(Promoted::Nothing);
    }
    let mut promoted = Promoted::Nothing;
    change_in(directory, id, |entry| {
        promoted = entry.promote_psk(end, today());
        Ok(())
    })?;
    Ok(promoted)
}

fn change_in(
    directory: &Path,
    id: &str,
    change: impl FnOnce(&mut Entry) -> Result<(), Box<Finding>>,
) -> Result<PathBuf, Box<Finding>> {
    let path = directory.join(format!("{id}.toml"));
    let file: Arc<str> = path.display().to_string().into();
    let place = Place { file: file.clone(), line: None };
    let fault = |message: String, advice: &str| {
        Box::new(Finding::fail(format!("device {id}"), message).at(Some(&place)).advice(advice))
    };
    let failed = |error: io::Error| fault(format!("cannot be written: {error}"), way_out(&error));
    let _lock = begin(directory).map_err(failed)?;
    let read = AtomicFile::new(&format!("{id}.toml"), FILE_MAX, MODE).look(&OnDisk::new(directory), text_of);
    let text =
        read.map_err(|condition| fault(condition.to_string(), "run this as root or as the folder's owner"))?;
    let mut entry = parse(id, &file, &text)?;
    change(&mut entry)?;
    // Another process may have added a device since the configuration was read.
    let now = load(directory, None);
    let mut others = now.entries().filter(|other| other.device.id.as_str() != id);
    if let Some((other, by)) = others.find_map(|other| Some((other, entry.device.shares(&other.device)?))) {
        return Err(fault(format!("device {} has the same {by}", other.device.id), "use another identity"));
    }
    write_atomically(&path, render_entry(&entry).as_bytes(), MODE).map_err(failed)?;
    Ok(path)
}

/// Adds many devices, all or none, whatever happens meanwhile. A running daemon uses them after
/// its next reload.
///
/// # Errors
/// The findings of all devices that cannot be added: nothing is added then.
pub fn import(loaded: &Loaded, devices: &[Device]) -> Result<(), Vec<Finding>> {
    let findings = check_import(loaded, devices);
    if !findings.is_empty() {
        return Err(findings);
    }
    let directory = loaded.settings.paths.devices();
    let failed = |error: io::Error| {
        let place = Place { file: directory.display().to_string().into(), line: None };
        let finding = Finding::fail("devices", format!("cannot be written: {error}; nothing was imported"));
        vec![finding.at(Some(&place)).advice(way_out(&error))]
    };
    create_directory(&directory).map_err(failed)?;
    let _lock = begin(&directory).map_err(failed)?;
    let now = load(&directory, None);
    if let Some(device) = devices.iter().find(|device| now.has_file(device.id.as_str())) {
        let message = "was added meanwhile; nothing was imported";
        return Err(vec![Finding::fail(format!("device {}", device.id), message)]);
    }
    let staging = directory.join(IMPORT_NEW);
    write_import(&directory, &staging, devices)
        .and_then(|()| fs::rename(&staging, directory.join(IMPORT)))
        .map_err(|error| {
        let _ = fs::remove_dir_all(&staging);
        failed(error)
    })?;
    // It is done; what cannot be moved now is moved by the next writer.
    let _ = sync_folder(&directory).and_then(|()| finish_import(&directory));
    Ok(())
}

/// The findings of devices that cannot be added together.
pub fn check_import(loaded: &Loaded, devices: &[Device]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = std::collections::HashMap::new();
    let mut named: std::collections::HashMap<&str, Vec<&Device>> = std::collections::HashMap::new();
    for device in devices {
        let subject = || format!("device {}", device.id);
        findings.extend(check_new(device, loaded).err().map(|finding| *finding));
        let mut proofs = vec![("id", device.id.as_str().as_bytes().to_vec())];
        proofs.extend(device.psks().map(|psk| ("PSK identity", psk.identity.clone())));
        proofs.extend(device.public_key.map(|key| ("public key", key.to_vec())));
        let login = device.login.as_ref();
        proofs.extend(login.map(|login| ("MQTT user name", login.username.clone().into_bytes())));
        for proof in proofs {
            let by = proof.0;
            if let Some(other) = seen.insert(proof, &device.id) {
                let message = format!("device {other} of the import has the same {by}");
                findings.push(Finding::fail(subject(), message).advice("give each device one of its own"));
            }
        }
        if let Some(name) = device.certificate.as_ref().map(|certificate| certificate.name()) {
            let others = named.entry(name).or_default();
            if let Some((other, by)) = others.iter().find_map(|o| Some((o, device.shares(o)?))) {
                let message = format!("device {} of the import has the same {by}", other.id);
                findings.push(Finding::fail(subject(), message).advice("give each device one of its own"));
            }
            others.push(device);
        }
    }
    // What the devices of the import are to each other.
    let has_parent: std::collections::HashSet<&Name> =
        devices.iter().filter(|device| device.parent.is_some()).map(|device| &device.id).collect();
    let mut sizes: std::collections::HashMap<&Name, usize> = std::collections::HashMap::new();
    for known in loaded.known.iter().filter_map(|known| known.parent()) {
        *sizes.entry(known).or_default() += 1;
    }
    for device in devices {
        let Some(parent) = &device.parent else { continue };
        let size = sizes.entry(parent).or_default();
        *size += 1;
        let fault = if *parent != device.id && has_parent.contains(parent) {
            Fault::ParentIsChild { parent: parent.clone() }
        } else if *size == CHILDREN_MAX + 1 {
            Fault::TooManyChildren { parent: parent.clone() }
        } else {
            continue;
        };
        let finding = Finding::fail(format!("device {}", device.id), fault.to_string());
        findings.push(finding.advice("name the device that forwards its readings"));
    }
    findings
}

/// Writes the files of an import, and makes them durable.
fn write_import(directory: &Path, staging: &Path, devices: &[Device]) -> io::Result<()> {
    use std::io::Write as _;
    fs::create_dir(staging)?;
    give_to_owner_of(directory, &File::open(staging)?)?;
    for device in devices {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(MODE);
        let mut file = options.open(staging.join(format!("{}.toml", device.id)))?;
        give_to_owner_of(directory, &file)?;
        file.write_all(render_entry(&dated(device)).as_bytes())?;
        file.sync_all()?;
    }
    sync_folder(staging)
}

/// Moves the devices of an import beside the others. The lock excludes other writers.
fn finish_import(directory: &Path) -> io::Result<()> {
    let import = directory.join(IMPORT);
    if !import.symlink_metadata().is_ok_and(|about| about.is_dir()) {
        return Ok(());
    }
    for entry in fs::read_dir(&import)? {
        let entry = entry?;
        fs::rename(entry.path(), directory.join(entry.file_name()))?;
    }
    sync_folder(directory)?;
    fs::remove_dir(&import)?;
    sync_folder(directory)
}

/// Locks the registry for a writer, and puts in order what a writer that was killed left behind.
fn begin(directory: &Path) -> io::Result<File> {
    let lock = lock(directory)?;
    sweep(directory);
    finish_import(directory)?;
    Ok(lock)
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
    let _ = fs::remove_dir_all(directory.join(IMPORT_NEW));
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
    remove_file_in(&loaded.settings.paths.devices(), id)
}

/// Removes a device by its file alone, whatever is wrong with the configuration. Returns the path
/// of the removed file.
///
/// # Errors
/// A finding: the file cannot be removed.
pub fn remove_in(directory: &Path, id: &Name) -> Result<PathBuf, Box<Finding>> {
    remove_file_in(directory, id.as_str())
}

fn remove_file_in(directory: &Path, id: &str) -> Result<PathBuf, Box<Finding>> {
    let path = directory.join(format!("{id}.toml"));
    let failed = |error: io::Error| {
        let place = Place { file: path.display().to_string().into(), line: None };
        let finding = Finding::fail(format!("device {id}"), format!("cannot be removed: {error}"));
        Box::new(finding.at(Some(&place)).advice(way_out(&error)))
    };
    let _lock = begin(directory).map_err(failed)?;
    fs::remove_file(&path).and_then(|()| sync_folder(directory)).map_err(failed)?;
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
