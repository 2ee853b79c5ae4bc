//! The store's directory on the real disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::libc;

use super::OpenError;
use crate::session_store::storage::{Storage, StoredFile};

/// The directory, locked as long as this lives.
pub(super) struct Directory {
    _lock: Flock<File>,
}

impl Directory {
    /// Makes it if it is not there, and locks it.
    pub(super) fn lock(path: &Path) -> Result<Directory, OpenError> {
        let failed = |error: io::Error| OpenError::Failed(path.to_path_buf(), error);
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => sync(path.parent().unwrap_or(path)).map_err(failed)?,
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

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
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
    sync(directory)
}

/// Its files.
pub(super) struct Disk {
    directory: PathBuf,
}

impl Disk {
    pub(super) fn new(directory: &Path) -> Disk {
        Disk { directory: directory.to_path_buf() }
    }
}

impl Storage for Disk {
    type File = File;

    fn open(&self, name: &str) -> io::Result<(File, u64)> {
        let path = self.directory.join(name);
        // A named pipe must not make the daemon wait for a writer.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let open = |write| OpenOptions::new().read(true).write(write).custom_flags(flags).open(&path);
        // On a disk that is read-only what is stored can still be read.
        let file = match open(true) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EROFS | libc::EACCES)) => open(false)?,
            other => other?,
        };
        let size = file.metadata()?.len();
        Ok((file, size))
    }

    fn create(&self, name: &str) -> io::Result<File> {
        self.remove(name)?;
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(self.directory.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.directory.join(from), self.directory.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.directory.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn sync_names(&self) -> io::Result<()> {
        sync(&self.directory)
    }
}

impl StoredFile for File {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match FileExt::read_at(self, &mut buffer[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
