//! The store's directory on the real disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use nix::libc;

use super::OpenError;
use crate::durable::io::{give_to_owner_of, sync_folder};

/// The directory, locked as long as this lives.
pub(super) struct Directory {
    _lock: Flock<File>,
}

impl Directory {
    /// Makes it if it is not there, for the owner of the folder that it is in, and locks it.
    pub(super) fn lock(path: &Path) -> Result<Directory, OpenError> {
        let failed = |error: io::Error| OpenError::Failed(path.to_path_buf(), error);
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {
                let parent = path.parent().unwrap_or(path);
                // If the system refuses, the store works all the same.
                let _ = File::open(path).and_then(|folder| give_to_owner_of(parent, &folder));
                sync_folder(parent).map_err(failed)?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
        let folder =
            OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path);
        let folder = folder.map_err(failed)?;
        let mode = folder.metadata().map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            folder.set_permissions(fs::Permissions::from_mode(0o700)).map_err(failed)?;
        }
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Directory { _lock: lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(OpenError::InUse(path.to_path_buf())),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}

/// Deletes the store's files; others are left alone.
pub(super) fn clear(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let ours = |name: &str| ["key", "log"].contains(&name.split('.').next().unwrap_or(name));
        if name.to_str().is_some_and(ours) && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    sync_folder(directory)
}
