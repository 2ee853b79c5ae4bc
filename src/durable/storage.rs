//! What a store needs of a disk whose files stay open: one flat folder, read and written in place.
//!
//! The rules of a real disk are kept: nothing is durable before [`StoredFile::sync`], no name
//! before [`Storage::sync_names`], and after a failed sync nobody knows what was written.

use std::io;
use std::time::Duration;

/// The folder. All calls block.
pub trait Storage: Send + 'static {
    /// An open file.
    type File: StoredFile;

    /// Opens a file that is there, for reading and, where the disk allows it, writing; and its
    /// size.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or as the system says.
    fn open(&self, name: &str) -> io::Result<(Self::File, u64)>;

    /// Makes an empty file, in place of one that has this name.
    ///
    /// # Errors
    /// As the system says.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Moves a file, replacing what has that name. Atomic; durable once the names are synced.
    ///
    /// # Errors
    /// As the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Deletes a file; one that is not there is deleted.
    ///
    /// # Errors
    /// As the system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the names durable.
    ///
    /// # Errors
    /// As the system says.
    fn sync_names(&self) -> io::Result<()>;

    /// Whether there is a file of this name.
    fn has(&self, name: &str) -> bool {
        self.open(name).is_ok()
    }

    /// Holds the folder against every other process and thread that does so, as long as the value
    /// is there. For a folder that only one writes it does nothing.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`]: somebody else held it all the time. As the system says.
    fn hold(&self) -> io::Result<Box<dyn Send>> {
        Ok(Box::new(()))
    }

    /// Waits before what looks damaged is read once more. False: enough was waited for; the first
    /// reading is believed.
    fn pause(&self, _time: Duration) -> bool {
        false
    }
}

/// An open file of a [`Storage`].
pub trait StoredFile: Send + 'static {
    /// Fills `buffer` from `offset` on; returns how much of it, less only at the end of the file.
    ///
    /// # Errors
    /// As the system says.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Drops what the page cache has of the file, so that the next reading is the disk's, as far as
    /// the system does that.
    fn forget_cached(&self) {}

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// As the system says; then any part of `bytes` may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything written durable (`fdatasync`).
    ///
    /// # Errors
    /// As the system says; calling it again proves nothing.
    fn sync(&self) -> io::Result<()>;
}
