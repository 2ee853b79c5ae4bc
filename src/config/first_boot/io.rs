//! Does the steps of a first boot on the disk.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{MARKER, SERIAL, Serial, compare, parse_serial};
use crate::config::gateway_id::io::{draw, look, store};
use crate::config::gateway_id::{Choice, Making, PLAIN};
use crate::config::inventory::{Copied, RUNTIME, of_state};
use crate::durable::io::{regular, sync_folder, write_atomically};
use crate::message::Name;

/// Where a board says its serial number; a user may read the first two only.
pub const SERIAL_FILES: [&str; 3] = [
    "/proc/device-tree/serial-number",
    "/sys/firmware/devicetree/base/serial-number",
    "/sys/class/dmi/id/product_serial",
];

/// Whether the state directory was copied with its card, and no identity of its own was made yet.
/// What the disk does not say counts as marked: two gateways with one identity are worse than one
/// that does not start.
pub fn is_marked(state_dir: &Path) -> bool {
    match state_dir.join(MARKER).symlink_metadata() {
        Ok(_) => true,
        Err(error) => !matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
        ),
    }
}

/// Makes an identity of its own, and removes the marker. The daemon must not run.
///
/// `runtime_dir`: what the process before left there is removed, keys and sessions.
///
/// # Errors
/// The file and what the system says; the marker is still there then, and it can be tried again.
pub fn perform(state_dir: &Path, runtime_dir: &Path) -> Result<Name, (PathBuf, io::Error)> {
    let at = |path: PathBuf| move |error: io::Error| (path.clone(), error);
    for entry in RUNTIME.iter().filter(|entry| entry.copied == Copied::Removed) {
        let path = runtime_dir.join(entry.name);
        remove(&path).map_err(at(path))?;
    }
    for entry in fs::read_dir(state_dir).map_err(at(state_dir.to_owned()))? {
        let entry = entry.map_err(at(state_dir.to_owned()))?;
        let name = entry.file_name();
        let known = name.to_str().and_then(of_state);
        if known.is_some_and(|known| known.copied == Copied::Removed) {
            remove(&entry.path()).map_err(at(entry.path()))?;
        }
    }
    sync_folder(state_dir).map_err(at(state_dir.to_owned()))?;
    let decision = look(state_dir, None);
    let made = match &decision.choice {
        Choice::Known(made) => made.clone(),
        Choice::New(_) => draw(Making::First),
    };
    store(state_dir, &decision, &made).map_err(at(state_dir.join(PLAIN)))?;
    let marker = state_dir.join(MARKER);
    remove(&marker).map_err(at(marker.clone()))?;
    sync_folder(state_dir).map_err(at(state_dir.to_owned()))?;
    Ok(made.id)
}

/// Removes a file, or a folder and what is in it; a link itself, not what it leads to.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(about) if about.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Compares the board's serial number with the one stored, and stores it.
///
/// # Errors
/// It cannot be stored.
pub fn serial(state_dir: &Path, sources: &[impl AsRef<Path>]) -> io::Result<Serial> {
    let mut numbers =
        sources.iter().filter_map(|source| parse_serial(&regular::read(source.as_ref(), 4096).ok()?));
    let stored = regular::read(&state_dir.join(SERIAL), 4096).ok();
    let serial = compare(stored.as_deref().and_then(parse_serial), numbers.next());
    if let Serial::First(number) | Serial::Changed { to: number, .. } = &serial {
        write_atomically(&state_dir.join(SERIAL), format!("{number}\n").as_bytes(), 0o600)?;
    }
    Ok(serial)
}
