//! Reads the configuration files of the state directory.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::path::Path;

use super::{StateFile, judge};
use crate::durable::atomic_file::{AtomicFile, Condition, list, name_before};
use crate::durable::folder::StateFolder;
use crate::durable::io::OnDisk;

/// The `*.toml` of a folder in name order; hidden files are ignored, and a folder that does not
/// exist is empty.
///
/// # Errors
/// It is not a folder, or cannot be read.
pub(in crate::config) fn read(folder: &Path, max_bytes: u64) -> Result<Vec<StateFile>, Condition> {
    let disk = OnDisk::new(folder);
    let mut names = match list(&disk) {
        Err(Condition::Missing) => return Ok(Vec::new()),
        names => names?,
    };
    names.retain(|name| name.ends_with(".toml") && !name.starts_with('.'));
    names.sort();
    let look = |name: String| {
        let path = folder.join(&name);
        let text = AtomicFile::new(&name, max_bytes, 0o600).look(&disk, |bytes| judge(&path, bytes));
        match text {
            // Deleted since the folder was listed.
            Err(Condition::Missing) if !disk.has(&name) => None,
            Err(Condition::Missing) => {
                Some(StateFile { path, text: Err(Condition::Damaged("it links to nothing".to_owned())) })
            }
            text => Some(StateFile { path, text }),
        }
    };
    Ok(names.into_iter().filter_map(look).collect())
}

/// The damaged files of a folder that were set aside, in name order; empty if it cannot be read.
pub fn set_aside(folder: &Path) -> Vec<String> {
    let mut names = OnDisk::new(folder).names().unwrap_or_default();
    names.retain(|name| name_before(name).is_some());
    names.sort();
    names
}
