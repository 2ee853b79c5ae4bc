//! What a state file needs of a disk: one flat folder of small files.
//!
//! The rules of a real disk are kept: no name is durable before [`StateFolder::sync_names`], and
//! after a failed sync nobody knows what was written.

use std::io;
use std::time::Duration;

use zeroize::Zeroizing;

/// Why a file was not read.
#[derive(Debug)]
pub enum ReadFault {
    /// There is none.
    Missing,
    /// A folder, a device, a socket, a pipe.
    NotAFile,
    /// More than the bytes asked for.
    TooLarge,
    /// The system did not hand it over.
    Failed(io::Error),
}

/// The folder. All calls block.
pub trait StateFolder {
    /// The whole content of a file of at most `max_bytes`. `afresh`: what the page cache has of it
    /// is dropped first, as far as the system does that.
    ///
    /// # Errors
    /// [`ReadFault`]. Never more than `max_bytes` are read, and a pipe is not waited for.
    fn read(&self, name: &str, max_bytes: u64, afresh: bool) -> Result<Zeroizing<Vec<u8>>, ReadFault>;

    /// Writes a new file beside `name`, under a hidden name nobody else uses, of that mode, and
    /// syncs its content. Returns its name.
    ///
    /// # Errors
    /// As the system says; then nothing is left.
    fn write_beside(&self, name: &str, bytes: &[u8], mode: u32) -> io::Result<String>;

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

    /// Whether anything has this name. What cannot be asked is taken to be there.
    fn has(&self, name: &str) -> bool;

    /// All names.
    ///
    /// # Errors
    /// As the system says.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Waits before something is tried again. False: enough was waited for; it is not tried again.
    fn pause(&self, time: Duration) -> bool;
}
