//! The handover: a file in memory, from one process to the next, used once.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use crate::session_store::{Number, handover};

const NAME: &str = "sessions";
/// More than any handover has.
const MAX: u64 = 64 << 20;

fn path(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join(NAME)
}

fn is_in_memory(file: &File) -> bool {
    fstatfs(file).is_ok_and(|system| system.filesystem_type() == TMPFS_MAGIC)
}

/// Leaves sessions, longest idle first, for the next start. False: the directory is not in memory,
/// so that a copy of the file could come back; then nothing is left.
///
/// # Errors
/// As the system says; then nothing is left.
pub fn leave_handover(
    runtime_dir: &Path,
    boot: &[u8; 16],
    sessions: &[(Number, Vec<u8>)],
) -> io::Result<bool> {
    let path = path(runtime_dir);
    remove(&path)?;
    if !is_in_memory(&File::open(runtime_dir)?) {
        return Ok(false);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let written = file.write_all(&handover::encode(boot, sessions));
    if written.is_err() {
        remove(&path)?;
    }
    written.map(|()| true)
}

/// The handover of the process before this one, if it was written in this boot. The file is removed
/// before it is read, so that it is used once. Without a boot id it is only removed.
pub fn take_handover(runtime_dir: &Path, boot: Option<&[u8; 16]>) -> Vec<(Number, Vec<u8>)> {
    let path = path(runtime_dir);
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path);
    let Ok(file) = opened else { return Vec::new() };
    // Whether or not it is used.
    let (Ok(()), Some(boot)) = (remove(&path), boot) else { return Vec::new() };
    let ours = |about: &fs::Metadata| {
        about.is_file()
            && about.uid() == nix::unistd::geteuid().as_raw()
            && about.mode() & 0o077 == 0
            && about.nlink() == 0
    };
    let mut bytes = Vec::new();
    let is_ours = file.metadata().is_ok_and(|about| ours(&about)) && is_in_memory(&file);
    if !is_ours || file.take(MAX).read_to_end(&mut bytes).is_err() {
        return Vec::new();
    }
    let sessions = handover::parse(boot, &bytes).unwrap_or_default();
    sessions.into_iter().map(|(number, sealed)| (number, sealed.to_vec())).collect()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
