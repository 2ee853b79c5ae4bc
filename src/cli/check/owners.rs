//! Whether the gateway may use every file of its state directory.
//!
//! A gateway that was started once as root, or restored by root from a backup, has files that its
//! own user may not open. Some of them are missed only much later: a segment of the journal when
//! its records are sent.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, Uid, access};

use crate::config::Finding;
use crate::config::inventory::BEFORE_RESTORE;
use crate::config::io::user_name;

/// Most entries that are looked at.
const LOOKED_AT: usize = 50_000;
/// The folders whose files the daemon opens for writing; it replaces all others as a whole.
const WRITTEN: [&str; 2] = ["journal", "sessions"];

/// The finding about what the owner of the state directory, as which the gateway runs, may not use.
/// Only that user and root can tell.
pub fn judge(state_dir: &Path) -> Option<Finding> {
    let owner = std::fs::metadata(state_dir).ok()?.uid();
    let own = Uid::effective().as_raw();
    // Root may use all.
    if owner == 0 || (own != owner && own != 0) {
        return None;
    }
    let mut refused = Vec::new();
    let mut looked = 0;
    let mut folders: Vec<(PathBuf, bool)> = vec![(state_dir.to_owned(), false)];
    while let Some((folder, written)) = folders.pop() {
        // One that cannot be listed is refused already.
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            looked += 1;
            let path = entry.path();
            let Ok(about) = path.symlink_metadata() else { continue };
            // Root's on purpose.
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(BEFORE_RESTORE)) {
                continue;
            }
            if looked > LOOKED_AT || about.is_symlink() {
                continue;
            }
            let written = written || folder == state_dir && WRITTEN.iter().any(|name| path.ends_with(name));
            let usable = match own == owner {
                true => is_open(&path, &about, written),
                false => about.uid() == owner || is_open_to_all(&about, written),
            };
            if !usable {
                refused.push((path, about.uid()));
            } else if about.is_dir() {
                folders.push((path, written));
            }
        }
    }
    refused.sort();
    told(state_dir, owner, &refused)
}

/// Whether this process may use it.
fn is_open(path: &Path, about: &Metadata, written: bool) -> bool {
    let needed = match (about.is_dir(), written) {
        (true, _) => AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK,
        (false, true) => AccessFlags::R_OK | AccessFlags::W_OK,
        (false, false) => AccessFlags::R_OK,
    };
    // A file system that is read-only is another fault.
    matches!(access(path, needed), Ok(()) | Err(nix::errno::Errno::EROFS))
}

/// Whether every user may use it.
fn is_open_to_all(about: &Metadata, written: bool) -> bool {
    let needed = match (about.is_dir(), written) {
        (true, _) => 0o007,
        (false, true) => 0o006,
        (false, false) => 0o004,
    };
    about.mode() & needed == needed
}

fn told(state_dir: &Path, owner: u32, refused: &[(PathBuf, u32)]) -> Option<Finding> {
    let (first, of) = refused.first()?;
    let (user, shown) = (user_name(owner), state_dir.display());
    let more = match refused.len() - 1 {
        0 => String::new(),
        more => format!("; nor may it use {more} more"),
    };
    if *of == owner {
        let message = format!(
            "{}: the gateway's user, {user}, may not read and write it, by its mode{more}",
            first.display()
        );
        return Some(Finding::fail("state", message).advice(format!("chmod -R u+rwX {shown}")));
    }
    let message = format!(
        "{} belongs to {}, and the gateway, which runs as {user}, may not use it{more}",
        first.display(),
        user_name(*of)
    );
    let advice = format!("it was perhaps started once as root; as root, chown -R {user}: {shown}");
    Some(Finding::fail("state", message).advice(advice))
}
