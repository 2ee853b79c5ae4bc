//! The journal's interface to the disk: flat folders with files that are read and written at
//! offsets and synced.
//!
//! The cores use only this interface, so tests run them on a disk in memory with a power cut at any
//! write. The rules of a real disk apply: content is durable only after [`StoredFile::sync`], a
//! name only after [`Storage::sync_folder`], and after a failed sync it is unknown what was
//! written.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::message::Lane;

/// A folder of the journal's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Folder {
    /// Segments of [`Lane::High`].
    High,
    /// Segments of [`Lane::Normal`].
    Normal,
    /// Files ready to become segments.
    Spare,
    /// The rejected store.
    Rejected,
    /// The journal's directory itself: the witness.
    Top,
}

impl Folder {
    /// All folders.
    pub const ALL: [Folder; 5] = [Folder::High, Folder::Normal, Folder::Spare, Folder::Rejected, Folder::Top];

    /// The folder of a lane's segments.
    pub fn of(lane: Lane) -> Folder {
        match lane {
            Lane::High => Folder::High,
            Lane::Normal => Folder::Normal,
        }
    }

    /// The folder's name in the journal's directory; empty for [`Folder::Top`].
    pub fn as_str(self) -> &'static str {
        match self {
            Folder::High => "high",
            Folder::Normal => "normal",
            Folder::Spare => "spare",
            Folder::Rejected => "rejected",
            Folder::Top => ".",
        }
    }
}

/// The folders of a journal. All calls block.
pub trait Storage: Send + Sync + 'static {
    /// An open file.
    type File: StoredFile;

    /// Names and sizes of the regular files in a folder; a folder that does not exist is empty.
    ///
    /// # Errors
    /// [`StorageError`] of the system call.
    fn list(&self, folder: Folder) -> Result<Vec<(String, u64)>, StorageError>;

    /// Opens an existing file for reading and, unless the file system is read-only, for writing.
    ///
    /// # Errors
    /// [`StorageError::Missing`], or another error of the system call.
    fn open(&self, folder: Folder, name: &str) -> Result<Self::File, StorageError>;

    /// Creates an empty file, which must not exist, and its folder.
    ///
    /// # Errors
    /// [`StorageError::Full`], [`StorageError::ReadOnly`], or another error of the system call.
    fn create(&self, folder: Folder, name: &str) -> Result<Self::File, StorageError>;

    /// Renames a file and replaces an existing one. Atomic; durable when both folders are synced.
    ///
    /// # Errors
    /// [`StorageError`] of the system call.
    fn rename(&self, from: (Folder, &str), to: (Folder, &str)) -> Result<(), StorageError>;

    /// Deletes a file.
    ///
    /// # Errors
    /// [`StorageError`] of the system call.
    fn remove(&self, folder: Folder, name: &str) -> Result<(), StorageError>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// [`StorageError`] of the system call.
    fn sync_folder(&self, folder: Folder) -> Result<(), StorageError>;

    /// Free bytes of the file system for this process, without quotas; `None` if it does not tell.
    fn free_bytes(&self) -> Option<u64>;

    /// Waits at least [`SECOND_LOOK`]. Content with a wrong checksum is read again after that,
    /// bypassing the page cache ([`StoredFile::forget_cache`]); if it is wrong again, it is
    /// damaged.
    fn wait_for_second_look(&self);
}

/// Least time between the two readings of a place after which it counts as damaged.
pub const SECOND_LOOK: Duration = Duration::from_secs(1);

/// An open file of a [`Storage`].
pub trait StoredFile: Send + Sync + 'static {
    /// Fills `buffer` from `offset` on; returns the number of bytes, fewer only at the end of the
    /// file.
    ///
    /// # Errors
    /// [`StorageError`] of the system call.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, StorageError>;

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// [`StorageError`] of the system call; any part of `bytes` may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StorageError>;

    /// Makes everything written durable (`fdatasync`), where it is found again.
    ///
    /// # Errors
    /// [`StorageError::Gone`], or another [`StorageError`] of the system call; it is then unknown
    /// what was written since the last success, and a later success does not prove that it is
    /// durable.
    fn sync(&self) -> Result<(), StorageError>;

    /// Drops the file from the page cache, so that the next read comes from the disk
    /// (`posix_fadvise`, `POSIX_FADV_DONTNEED`).
    fn forget_cache(&self);
}

impl<F: StoredFile> StoredFile for Arc<F> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, StorageError> {
        (**self).read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        (**self).write_at(offset, bytes)
    }
    fn sync(&self) -> Result<(), StorageError> {
        (**self).sync()
    }
    fn forget_cache(&self) {
        (**self).forget_cache();
    }
}

/// Not a directory (errno(3)).
const ENOTDIR: i32 = 20;

/// Why a disk operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageError {
    /// No room (ENOSPC, EDQUOT).
    Full,
    /// The file system is read-only (EROFS).
    ReadOnly,
    /// The file does not exist.
    Missing,
    /// The file that is written was deleted, or the journal's directory was deleted or moved: what
    /// is written there would not be found again.
    Gone,
    /// Any other error, with its `errno`.
    Other(i32),
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StorageError::Full => f.write_str("no space left on the disk"),
            StorageError::ReadOnly => f.write_str("the file system is read-only"),
            StorageError::Missing => f.write_str("there is no such file"),
            StorageError::Gone => f.write_str(
                "the journal's directory, or its file, was deleted or moved while the gateway runs: put it back, or \
                 restart the gateway, which begins with what is there then",
            ),
            StorageError::Other(ENOTDIR) => f.write_str(
                "a file is in the place of a folder: one of high, normal, rejected and spare in {state-dir}/journal; \
                 move it aside",
            ),
            StorageError::Other(number) => write!(f, "{}", std::io::Error::from_raw_os_error(*number)),
        }
    }
}

impl std::error::Error for StorageError {}
