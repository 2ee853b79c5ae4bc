//! What the journal needs of a disk: four flat folders of files that are read and written at
//! offsets and synced.
//!
//! The cores see only this, so they run on a disk in memory that loses power at any write. The
//! rules of a real disk are kept: nothing is durable before [`StoredFile::sync`], no name before
//! [`Storage::sync_folder`], and after a failed sync nobody knows what was written.

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
    /// All of them.
    pub const ALL: [Folder; 5] = [Folder::High, Folder::Normal, Folder::Spare, Folder::Rejected, Folder::Top];

    /// The folder of a lane's segments.
    pub fn of(lane: Lane) -> Folder {
        match lane {
            Lane::High => Folder::High,
            Lane::Normal => Folder::Normal,
        }
    }

    /// Its name in the journal's directory.
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

/// The folders. All calls block.
pub trait Storage: Send + Sync + 'static {
    /// An open file.
    type File: StoredFile;

    /// Names and sizes of the plain files in a folder; a folder that is not there is empty.
    ///
    /// # Errors
    /// As the system says.
    fn list(&self, folder: Folder) -> Result<Vec<(String, u64)>, StorageError>;

    /// Opens a file that is there, for reading and, where the disk allows it, writing.
    ///
    /// # Errors
    /// [`StorageError::Missing`], or as the system says.
    fn open(&self, folder: Folder, name: &str) -> Result<Self::File, StorageError>;

    /// Makes an empty file that is not there yet, and its folder.
    ///
    /// # Errors
    /// [`StorageError::Full`], [`StorageError::ReadOnly`], or as the system says.
    fn create(&self, folder: Folder, name: &str) -> Result<Self::File, StorageError>;

    /// Moves a file, replacing what has that name. Atomic; durable once both folders are synced.
    ///
    /// # Errors
    /// As the system says.
    fn rename(&self, from: (Folder, &str), to: (Folder, &str)) -> Result<(), StorageError>;

    /// Deletes a file.
    ///
    /// # Errors
    /// As the system says.
    fn remove(&self, folder: Folder, name: &str) -> Result<(), StorageError>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// As the system says.
    fn sync_folder(&self, folder: Folder) -> Result<(), StorageError>;

    /// Lets at least [`SECOND_LOOK`] pass. What was read and did not check is read again after
    /// that, past the page cache ([`StoredFile::forget_cache`]): damage is what did not check
    /// twice.
    fn wait_for_second_look(&self);
}

/// Least time between two readings of a place before it counts as damaged.
pub const SECOND_LOOK: Duration = Duration::from_secs(1);

/// An open file of a [`Storage`].
pub trait StoredFile: Send + Sync + 'static {
    /// Fills `buffer` from `offset` on; returns how much of it, less only at the end of the file.
    ///
    /// # Errors
    /// As the system says.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, StorageError>;

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// As the system says; then any part of `bytes` may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StorageError>;

    /// Makes everything written durable (`fdatasync`).
    ///
    /// # Errors
    /// As the system says; then nothing is known about what was written since the last success, and
    /// calling it again proves nothing.
    fn sync(&self) -> Result<(), StorageError>;

    /// Asks the system to read from the disk what is read next, not from the page cache
    /// (`posix_fadvise`, `DONTNEED`).
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

/// Why the disk did not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageError {
    /// No room (ENOSPC, EDQUOT).
    Full,
    /// The file system is read-only (EROFS).
    ReadOnly,
    /// There is no such file.
    Missing,
    /// Anything else, by the system's number.
    Other(i32),
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StorageError::Full => f.write_str("no space left on the disk"),
            StorageError::ReadOnly => f.write_str("the file system is read-only"),
            StorageError::Missing => f.write_str("the file is gone"),
            StorageError::Other(number) => write!(f, "{}", std::io::Error::from_raw_os_error(*number)),
        }
    }
}

impl std::error::Error for StorageError {}
