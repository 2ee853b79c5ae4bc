//! Files that the service cannot read, brought to where it can.
//!
//! A CA in `/root`, a key of mode 0600: what `init` is given is copied beside the main file, with
//! the owner and mode that the service needs. A file that another program renews in place is not: a
//! copy would go out of date without a sign. Where the main file's folder is read-only, the copies
//! are in `{state-dir}/secrets`, and belong to the owner of the state directory.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use crate::config::init::place::SECRETS;
use crate::config::io::{Withheld, withheld};
use crate::durable::io::write_atomically;
use crate::update::io::untrusted::Folder;

/// Folders whose files are renewed in place.
const LIVE: [&str; 3] = ["/etc/letsencrypt", "/var/lib/acme", "/etc/step"];
/// Largest file copied.
const FILE_MAX: u64 = 4 << 20;

/// A file brought to the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Where it was.
    pub from: PathBuf,
    /// Where the service reads it; the same place if only group and mode were changed.
    pub to: PathBuf,
}

/// What is to be done with one file.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The copy.
    pub copied: Copied,
    secret: bool,
    group: Option<u32>,
}

/// Plans a file. `None`: the service can read it, or it cannot be copied by this user. `is_below`:
/// copies go below the state directory. A file that is there already is left to its owner, who
/// might put a link in its place.
///
/// # Errors
/// A sentence: it is another program's, or something else is where the copy would be.
pub fn plan(
    file: &Path,
    secret: bool,
    config: &Path,
    state_dir: &Path,
    is_below: bool,
    force: bool,
) -> Result<Option<Plan>, String> {
    let Some(Withheld { group, .. }) = withheld(file, config, state_dir) else { return Ok(None) };
    if !nix::unistd::Uid::effective().is_root() {
        return Ok(None);
    }
    let shown = file.display();
    if LIVE.iter().any(|folder| file.starts_with(folder)) || file.is_symlink() {
        return Err(format!(
            "{shown} cannot be read by the service, and is not copied because another program renews it; let the service's \
             group read it where it is, or have that program copy it to /etc/tombolo and run tombolo reload"
        ));
    }
    let folder = config.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let name = file.file_name().ok_or_else(|| format!("{shown} is no file"))?;
    if is_below && file.starts_with(state_dir) {
        return Ok(None);
    }
    let to = match (file.starts_with(&folder), secret) {
        _ if is_below => state_dir.join(SECRETS).join(name),
        (true, _) => file.to_owned(),
        (false, true) => folder.join("secrets").join(name),
        (false, false) => folder.join(name),
    };
    if to != file && !force && to.exists() && fs::read(&to).ok() != fs::read(file).ok() {
        return Err(format!(
            "{} exists already and is not {shown}; look at it first, then add --force to replace it",
            to.display()
        ));
    }
    Ok(Some(Plan { copied: Copied { from: file.to_owned(), to }, secret, group }))
}

/// Does it. `below`: the state directory, where the copies are in it.
///
/// # Errors
/// As the system says.
pub fn carry_out(plan: &Plan, below: Option<&Path>) -> io::Result<()> {
    let Plan { copied: Copied { from, to }, secret, group } = plan;
    let mode = if *secret { 0o640 } else { 0o644 };
    let read = || {
        if fs::metadata(from)?.len() > FILE_MAX {
            return Err(io::Error::other("it is larger than any key or certificate"));
        }
        Ok(zeroize::Zeroizing::new(fs::read(from)?))
    };
    if let Some(state_dir) = below {
        let bytes = read()?;
        // Held, so that a link in its place is not followed.
        let folder = Folder::make(state_dir, SECRETS)?;
        let name = to.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        return write_atomically(&folder.path().join(name), &bytes, 0o600);
    }
    if from != to {
        let bytes = read()?;
        if let Some(folder) = to.parent().filter(|folder| !folder.exists()) {
            fs::create_dir_all(folder)?;
            fs::set_permissions(folder, fs::Permissions::from_mode(if *secret { 0o2750 } else { 0o755 }))?;
            chown(folder, Some(0), *group)?;
        }
        // Closed to all until it has its group.
        write_atomically(to, &bytes, 0o600)?;
    }
    chown(to, if from == to { None } else { Some(0) }, group.filter(|_| *secret))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
}
