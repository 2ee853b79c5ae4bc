//! [`Storage`] on a real file system.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::statvfs::statvfs;

use crate::durable::io::give_to_owner_of;
use crate::journal::storage::{Folder, SECOND_LOOK, Storage, StorageError, StoredFile};

/// The journal's directory, with a subdirectory per folder.
#[derive(Clone, Debug)]
pub struct Disk {
    directory: PathBuf,
    held: Option<Arc<Held>>,
}

/// A directory that is open, by which another one at its path is told from it.
#[derive(Debug)]
struct Held {
    path: PathBuf,
    open: File,
}

impl Held {
    /// Whether it is at its path. If the system does not tell, it counts as there: a sync of its
    /// files says whether the disk works.
    fn is_there(&self) -> bool {
        match (fs::metadata(&self.path), self.open.metadata()) {
            (Ok(there), Ok(open)) => (there.dev(), there.ino()) == (open.dev(), open.ino()),
            (Err(error), _) => {
                !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
            }
            (Ok(_), Err(_)) => true,
        }
    }
}

impl Disk {
    /// Storage in this directory, which must exist.
    pub fn new(directory: &Path) -> Disk {
        Disk { directory: directory.to_path_buf(), held: None }
    }

    /// Storage in the directory that is open. Nothing is written once another one, or none, is at
    /// its path: it would not be found at the next start.
    pub(super) fn held(directory: &Path, open: &File) -> Disk {
        let path = directory.to_path_buf();
        let held = open.try_clone().ok().map(|open| Arc::new(Held { path: path.clone(), open }));
        Disk { directory: path, held }
    }

    fn is_there(&self) -> Result<(), StorageError> {
        match &self.held {
            Some(held) if !held.is_there() => Err(StorageError::Gone),
            _ => Ok(()),
        }
    }

    fn file(&self, file: File, read_only: bool) -> DiskFile {
        DiskFile { held: self.held.clone(), ..DiskFile::new(file, read_only) }
    }

    fn path(&self, folder: Folder, name: &str) -> PathBuf {
        self.directory.join(folder.as_str()).join(name)
    }

    /// Opens a regular file by its path, for reading.
    ///
    /// # Errors
    /// [`StorageError`] of the system call.
    pub(super) fn open_path(&self, path: &Path) -> Result<DiskFile, StorageError> {
        // Opening a pipe would block without O_NONBLOCK.
        let open = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
        let file = check(open)?;
        match check(file.metadata())?.is_file() {
            true => Ok(DiskFile::new(file, true)),
            false => Err(StorageError::Other(nix::libc::EINVAL)),
        }
    }

    /// The directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    fn make_folder(&self, folder: Folder) -> io::Result<()> {
        let path = self.directory.join(folder.as_str());
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(()) => self.give(&File::open(&path)?),
        }
        File::open(&self.directory)?.sync_all()
    }

    /// What root makes belongs to the owner of the directory, so that a gateway that root ran once
    /// in somebody's folder can be run by that user again. If the system refuses, the journal works
    /// all the same.
    fn give(&self, file: &File) {
        let _ = give_to_owner_of(&self.directory, file);
    }
}

/// An open file of a [`Disk`].
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    /// The file system was read-only when the file was opened; it is opened again for writing as
    /// soon as possible.
    read_only: bool,
    writing: OnceLock<File>,
    /// The directory it is in.
    held: Option<Arc<Held>>,
}

impl DiskFile {
    fn new(file: File, read_only: bool) -> DiskFile {
        DiskFile { file, read_only, writing: OnceLock::new(), held: None }
    }

    /// Whether what was written is found again at its path: the file has a name, and the directory
    /// is where it was opened.
    fn is_there(&self) -> bool {
        let Some(held) = &self.held else { return true };
        self.file.metadata().is_ok_and(|about| about.nlink() > 0) && held.is_there()
    }

    fn writing(&self) -> io::Result<&File> {
        if !self.read_only {
            return Ok(&self.file);
        }
        if let Some(file) = self.writing.get() {
            return Ok(file);
        }
        // By its descriptor, because the file may have been renamed.
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(self.writing.get_or_init(|| file))
    }
}

/// Maps a system error to the class that decides how the journal reacts.
pub fn storage_error(error: &io::Error) -> StorageError {
    match error.raw_os_error() {
        Some(28 | 122) => StorageError::Full,
        Some(30) => StorageError::ReadOnly,
        Some(2) => StorageError::Missing,
        Some(number) => StorageError::Other(number),
        // An error made by std, such as a write of zero bytes, counts as EIO.
        None => StorageError::Other(5),
    }
}

fn check<T>(result: io::Result<T>) -> Result<T, StorageError> {
    result.map_err(|error| storage_error(&error))
}

impl Storage for Disk {
    type File = DiskFile;

    fn list(&self, folder: Folder) -> Result<Vec<(String, u64)>, StorageError> {
        let entries = match fs::read_dir(self.directory.join(folder.as_str())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => check(other)?,
        };
        let mut out = Vec::new();
        for entry in entries {
            let entry = check(entry)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            match entry.metadata() {
                Ok(metadata) if metadata.is_file() => out.push((name, metadata.len())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // If the metadata cannot be read, opening will fail too and report the error.
                Err(_) => out.push((name, 0)),
            }
        }
        Ok(out)
    }

    fn open(&self, folder: Folder, name: &str) -> Result<DiskFile, StorageError> {
        let path = self.path(folder, name);
        // On a read-only file system, stored records can still be read.
        let both = OpenOptions::new().read(true).write(true).open(&path);
        match both {
            Err(error) if matches!(error.raw_os_error(), Some(30 | 13)) => {
                check(File::open(&path)).map(|file| self.file(file, true))
            }
            other => check(other).map(|file| self.file(file, false)),
        }
    }

    fn create(&self, folder: Folder, name: &str) -> Result<DiskFile, StorageError> {
        self.is_there()?;
        let path = self.path(folder, name);
        let create = || OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        match create() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                check(self.make_folder(folder))?;
                check(create())
            }
            other => check(other),
        }
        .inspect(|file| self.give(file))
        .map(|file| self.file(file, false))
    }

    fn rename(&self, from: (Folder, &str), to: (Folder, &str)) -> Result<(), StorageError> {
        self.is_there()?;
        let (from, target) = (self.path(from.0, from.1), self.path(to.0, to.1));
        match fs::rename(&from, &target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && from.exists() => {
                check(self.make_folder(to.0))?;
                check(fs::rename(&from, &target))
            }
            other => check(other),
        }
    }

    fn remove(&self, folder: Folder, name: &str) -> Result<(), StorageError> {
        // Another journal that is there now has files of the same names.
        self.is_there()?;
        match fs::remove_file(self.path(folder, name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => check(other),
        }
    }

    fn sync_folder(&self, folder: Folder) -> Result<(), StorageError> {
        check(File::open(self.directory.join(folder.as_str())).and_then(|file| file.sync_all()))
    }

    fn free_bytes(&self) -> Option<u64> {
        let space = statvfs(&self.directory).ok()?;
        #[allow(clippy::useless_conversion, reason = "both are narrower on 32-bit targets")]
        let free = u64::from(space.blocks_available()).saturating_mul(u64::from(space.fragment_size()));
        Some(free)
    }

    fn wait_for_second_look(&self) {
        std::thread::sleep(SECOND_LOOK);
    }
}

impl StoredFile for DiskFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, StorageError> {
        let mut read = 0;
        while read < buffer.len() {
            match self.file.read_at(&mut buffer[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(storage_error(&error)),
            }
        }
        Ok(read)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        check(self.writing().and_then(|file| file.write_all_at(bytes, offset)))
    }

    fn sync(&self) -> Result<(), StorageError> {
        check(self.writing().and_then(File::sync_data))?;
        // Afterwards: what was deleted or moved meanwhile is not acknowledged either.
        if self.is_there() { Ok(()) } else { Err(StorageError::Gone) }
    }

    fn forget_cache(&self) {
        // Only advice: on a file system without support the cache is read, as without it.
        let _ = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
}
