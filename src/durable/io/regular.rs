//! Files that others provide, such as keys and certificates: read whole, and only regular ones.
//!
//! Opening a named pipe waits for a writer, perhaps for ever, and a device may never end. What is
//! being read is remembered, so that whoever waits for it in vain can name it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::fcntl::OFlag;

/// Files that are being opened or read now, the oldest first.
static UNDER_WAY: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Why a file was not read.
#[derive(Debug)]
pub enum Fault {
    /// It is a folder, a pipe, a device or a socket.
    NotRegular,
    /// It has more bytes than is allowed: so many.
    TooLarge(u64),
    /// What the system says.
    System(io::Error),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NotRegular => {
                f.write_str("is not a regular file; put a file there, not a folder, pipe or device")
            }
            Fault::TooLarge(size) => write!(f, "has {size} bytes, which is too many"),
            Fault::System(error) => write!(f, "cannot be read: {error}"),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::System(error)
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> io::Error {
        match fault {
            Fault::System(error) => error,
            other => io::Error::new(io::ErrorKind::InvalidInput, other.to_string()),
        }
    }
}

/// Opens a regular file to read it; never waits for another process.
///
/// # Errors
/// [`Fault`]; what is no regular file is not opened.
pub fn open(path: &Path) -> Result<File, Fault> {
    // Opening a device may do something to it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(Fault::NotRegular);
    }
    // It may have been replaced meanwhile.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(Fault::NotRegular),
    }
}

/// Reads a regular file of at most `max` bytes.
///
/// # Errors
/// [`Fault`].
pub fn read(path: &Path, max: u64) -> Result<Vec<u8>, Fault> {
    let _noted = Noted::new(path);
    let file = open(path)?;
    let size = file.metadata()?.len();
    if size > max {
        return Err(Fault::TooLarge(size));
    }
    // In one piece: a secret leaves no copies behind.
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    let read = file.take(max.saturating_add(1)).read_to_end(&mut bytes)? as u64;
    if read > max {
        return Err(Fault::TooLarge(read));
    }
    Ok(bytes)
}

/// The file that has been read for longest and is not done: that of a network file system that does
/// not answer, for one.
pub fn under_way() -> Option<PathBuf> {
    UNDER_WAY.lock().ok()?.first().cloned()
}

struct Noted<'p>(&'p Path);

impl Noted<'_> {
    fn new(path: &Path) -> Noted<'_> {
        if let Ok(mut list) = UNDER_WAY.lock() {
            list.push(path.to_owned());
        }
        Noted(path)
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        if let Ok(mut list) = UNDER_WAY.lock()
            && let Some(place) = list.iter().position(|path| path == self.0)
        {
            list.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_a_folder_and_a_device_are_refused_at_once_and_a_file_is_read() {
        let folder = std::env::temp_dir().join(format!("tombolo-regular-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (pipe, file) = (folder.join("pipe"), folder.join("file"));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        std::fs::write(&file, b"abc").unwrap();
        for path in [&pipe, &folder, Path::new("/dev/zero")] {
            assert!(matches!(read(path, 10), Err(Fault::NotRegular)), "{}", path.display());
        }
        assert_eq!(read(&file, 3).unwrap(), b"abc");
        assert!(matches!(read(&file, 2), Err(Fault::TooLarge(3))));
        assert!(matches!(read(&folder.join("none"), 2), Err(Fault::System(_))));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
