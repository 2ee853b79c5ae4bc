//! State files on the real disk, and what else has to be durable there: folders, single files.
//!
//! What is made belongs to its folder's owner, also when root makes it: otherwise the service could
//! not read it.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

mod files;
pub mod regular;

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use zeroize::Zeroizing;

pub use self::files::Files;

use super::atomic_file::AtomicFile;
use super::folder::{ReadFault, StateFolder};

/// How long one [`OnDisk`] waits in all, however many of its files cannot be read: a start must not
/// take for ever.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A folder of the real disk. It need not exist for reading.
pub struct OnDisk {
    path: PathBuf,
    patience: Cell<Duration>,
    follows_links: bool,
}

impl OnDisk {
    /// That folder, with [`PATIENCE`].
    pub fn new(path: &Path) -> OnDisk {
        OnDisk::with_patience(path, PATIENCE)
    }

    /// That folder; whoever reads waits so long in all before something is tried again.
    pub fn with_patience(path: &Path, patience: Duration) -> OnDisk {
        OnDisk { path: path.to_path_buf(), patience: Cell::new(patience), follows_links: true }
    }

    /// The same where a symbolic link in the place of a file is damage, whatever it leads to: for
    /// what nobody but this gateway writes.
    #[must_use]
    pub fn without_links(self) -> OnDisk {
        OnDisk { follows_links: false, ..self }
    }
}

impl StateFolder for OnDisk {
    fn read(&self, name: &str, max_bytes: u64, afresh: bool) -> Result<Zeroizing<Vec<u8>>, ReadFault> {
        let (mut file, about) = open(&self.path.join(name), max_bytes, self.follows_links)?;
        if afresh {
            // Where the file system does not do this, the second reading is as good as the first.
            let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        }
        content(&mut file, &about, max_bytes)
    }

    fn write_beside(&self, name: &str, bytes: &[u8], mode: u32) -> io::Result<String> {
        let beside = format!(".{name}.{}", u64::from_ne_bytes(crate::system::io::random()?));
        let path = self.path.join(&beside);
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
            give_to_owner_of(&self.path, &file)?;
            // Whatever the umask took away.
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.write_all(bytes)?;
            file.sync_all()
        })();
        if written.is_err() {
            let _ = fs::remove_file(&path);
        }
        written.map(|()| beside)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        remove_file(&self.path.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        sync_folder(&self.path)
    }

    fn has(&self, name: &str) -> bool {
        let found = self.path.join(name).symlink_metadata();
        !found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        // What is no UTF-8 is nobody's file here.
        let name = |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name().into_string().ok());
        fs::read_dir(&self.path)?.filter_map(|entry| name(entry).transpose()).collect()
    }

    fn pause(&self, time: Duration) -> bool {
        let Some(rest) = self.patience.get().checked_sub(time) else { return false };
        self.patience.set(rest);
        std::thread::sleep(time);
        true
    }
}

impl From<io::Error> for ReadFault {
    fn from(error: io::Error) -> ReadFault {
        match error.kind() {
            // A folder on the way that is none: so is what was looked for in it.
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ReadFault::Missing,
            _ => ReadFault::Failed(error),
        }
    }
}

fn open(path: &Path, max_bytes: u64, follows_links: bool) -> Result<(File, Metadata), ReadFault> {
    // A named pipe must not make whoever looks wait for a writer.
    let links = if follows_links { OFlag::empty() } else { OFlag::O_NOFOLLOW };
    let opened = OpenOptions::new().read(true).custom_flags((OFlag::O_NONBLOCK | links).bits()).open(path);
    let file = match opened {
        Err(error) if !follows_links && error.raw_os_error() == Some(nix::libc::ELOOP) => {
            return Err(ReadFault::NotAFile);
        }
        // A socket.
        Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) => return Err(ReadFault::NotAFile),
        other => other?,
    };
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(ReadFault::NotAFile);
    }
    if about.len() > max_bytes {
        return Err(ReadFault::TooLarge);
    }
    Ok((file, about))
}

fn content(file: &mut File, about: &Metadata, max_bytes: u64) -> Result<Zeroizing<Vec<u8>>, ReadFault> {
    // Large enough not to grow, which would leave copies of a secret behind.
    let room = usize::try_from(about.len()).unwrap_or(0) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    // It has grown since.
    if bytes.len() as u64 > max_bytes { Err(ReadFault::TooLarge) } else { Ok(bytes) }
}

/// Whether this user may not open it. A pipe in its place is not waited for.
pub fn is_denied(path: &Path) -> bool {
    let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    opened.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Writes a file whole or not at all: beside its place, synced, renamed, the folder synced. It
/// belongs to the folder's owner.
///
/// # Errors
/// As the system says; then the file is as it was.
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().and_then(OsStr::to_str).ok_or(io::ErrorKind::InvalidFilename)?;
    AtomicFile::new(name, u64::MAX, mode).write(&OnDisk::new(parent(path)), bytes)
}

/// Makes a folder, 0700 and its parent's owner's, unless it is there.
///
/// # Errors
/// As the system says.
pub fn create_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = parent(directory);
    fs::create_dir_all(parent)?;
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    give_to_owner_of(parent, &File::open(directory)?)?;
    sync_folder(parent)
}

/// Root makes files for the service's user; nobody else can give files away, nor needs to.
///
/// # Errors
/// As the system says.
pub fn give_to_owner_of(folder: &Path, file: &File) -> io::Result<()> {
    if nix::unistd::geteuid().is_root() {
        let owner = fs::metadata(folder)?;
        fchown(file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

/// Removes a file; one that is not there is removed already.
fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes a folder's names durable.
///
/// # Errors
/// As the system says.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
