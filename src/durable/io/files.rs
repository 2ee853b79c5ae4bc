//! A folder of the real disk whose files stay open: what an [append log](super::super::append_log)
//! and a [two-slot record](super::super::two_slot) are kept in.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg, PosixFadviseAdvice, posix_fadvise};
use nix::libc;

use super::{give_to_owner_of, remove_file, sync_folder};
use crate::durable::storage::{Storage, StoredFile};

/// Whoever holds a folder writes one record: longer than this it takes on no disk.
const HOLD_WITHIN: Duration = Duration::from_secs(20);
const HOLD_AGAIN: Duration = Duration::from_millis(20);
/// By which a folder is held. The folder itself, and a file that everybody may read, could be
/// locked by any user of the machine; this one is its owner's alone.
const LOCK: &str = "records.lock";

/// The folder. Its files are made with mode 0600 and belong to its owner.
pub struct Files {
    path: PathBuf,
    patience: Cell<Duration>,
}

impl Files {
    /// That folder; what looks damaged is not looked at again. For what may be lost.
    pub fn new(path: &Path) -> Files {
        Files::with_patience(path, Duration::ZERO)
    }

    /// That folder; so long is waited in all before something is looked at again.
    pub fn with_patience(path: &Path, patience: Duration) -> Files {
        Files { path: path.to_path_buf(), patience: Cell::new(patience) }
    }

    /// The file by which the folder is held; `None`: it cannot be made, because nothing is written
    /// on that disk.
    fn lock(&self) -> io::Result<Option<File>> {
        loop {
            match self.open(LOCK) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => return other.map(|(file, _)| Some(file)),
            }
            let path = self.path.join(LOCK);
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
                Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => return Ok(None),
                // Somebody else made it a moment ago.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(file) => {
                    give_to_owner_of(&self.path, &file)?;
                    return Ok(Some(file));
                }
            }
        }
    }

    fn hold_within(&self, patience: Duration) -> io::Result<Box<dyn Send>> {
        let Some(mut file) = self.lock()? else { return Ok(Box::new(())) };
        let begun = Instant::now();
        loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(held) => return Ok(Box::new(held)),
                Err((file, nix::Error::EWOULDBLOCK)) if begun.elapsed() < patience => file,
                Err((file, nix::Error::EWOULDBLOCK)) => {
                    let (path, by) = (self.path.join(LOCK), holder(&file));
                    let text = format!("{} is held by {by}", path.display());
                    return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
                }
                Err((_, error)) => return Err(error.into()),
            };
            std::thread::sleep(HOLD_AGAIN);
        }
    }
}

/// Which program has locked that file, as far as the kernel says it.
fn holder(file: &File) -> String {
    let pid = || {
        let inode = file.metadata().ok()?.ino().to_string();
        let locks = fs::read_to_string("/proc/locks").ok()?;
        locks.lines().find_map(|line| {
            // 1: FLOCK  ADVISORY  WRITE 1234 fd:01:131 0 EOF
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_it = words.get(1) == Some(&"FLOCK") && words.get(5)?.rsplit(':').next()? == inode;
            words.get(4)?.parse::<u32>().ok().filter(|pid| is_it && *pid > 0)
        })
    };
    match pid() {
        Some(pid) => {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("process {pid} ({})", name.trim())
        }
        None => "another program".to_owned(),
    }
}

impl Storage for Files {
    type File = File;

    fn open(&self, name: &str) -> io::Result<(File, u64)> {
        let path = self.path.join(name);
        // A named pipe must not make the daemon wait for a writer.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let open = |write| OpenOptions::new().read(true).write(write).custom_flags(flags).open(&path);
        let refused = |what: &str, kind| {
            io::Error::new(kind, format!("{} is {what}, not a file; move it away", path.display()))
        };
        // On a disk that is read-only what is stored can still be read.
        let file = match open(true) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EROFS | libc::EACCES)) => open(false)?,
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                return Err(refused("a symbolic link", io::ErrorKind::InvalidInput));
            }
            Err(error) if error.raw_os_error() == Some(libc::EISDIR) => {
                return Err(refused("a folder", io::ErrorKind::IsADirectory));
            }
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
                return Err(refused("a socket", io::ErrorKind::InvalidInput));
            }
            other => other?,
        };
        let about = file.metadata()?;
        match about.is_file() {
            true => Ok((file, about.len())),
            false => Err(refused("a pipe or device", io::ErrorKind::InvalidInput)),
        }
    }

    fn create(&self, name: &str) -> io::Result<File> {
        self.remove(name)?;
        let path = self.path.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        give_to_owner_of(&self.path, &file)?;
        Ok(file)
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

    fn hold(&self) -> io::Result<Box<dyn Send>> {
        self.hold_within(HOLD_WITHIN)
    }

    fn pause(&self, time: Duration) -> bool {
        let Some(rest) = self.patience.get().checked_sub(time) else { return false };
        self.patience.set(rest);
        std::thread::sleep(time);
        true
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

    fn forget_cached(&self) {
        // Where the file system does not do this, the second reading is as good as the first.
        let _ = posix_fadvise(self, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn what_is_no_file_is_named_with_its_path_and_not_waited_for() {
        let folder = std::env::temp_dir().join(format!("tombolo-files-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("a-folder")).expect("made");
        mkfifo(&folder.join("a-pipe"), Mode::S_IRWXU).expect("made");
        symlink("elsewhere", folder.join("a-link")).expect("made");
        for (name, kind) in
            [("a-folder", "a folder"), ("a-pipe", "a pipe or device"), ("a-link", "a symbolic link")]
        {
            let error = Files::new(&folder).open(name).map(|_| ()).expect_err(name).to_string();
            let path = folder.join(name).display().to_string();
            assert_eq!(error, format!("{path} is {kind}, not a file; move it away"));
            // A pipe without a writer.
            assert!(!crate::durable::io::is_denied(&folder.join(name)), "{name}");
        }
        fs::remove_dir_all(folder).expect("there");
    }

    #[test]
    fn a_folder_is_held_by_a_file_that_other_users_cannot_open_and_what_holds_it_is_named() {
        let folder = std::env::temp_dir().join(format!("tombolo-held-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("made");
        // What any user may do with a folder that everybody may read.
        let opened = File::open(&folder).expect("there");
        let theirs = Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error);
        let files = Files::new(&folder);
        let held = files.hold_within(Duration::ZERO).expect("held all the same");
        let mode = fs::metadata(folder.join(LOCK)).expect("made").mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = files.hold_within(Duration::ZERO).map(|_| ()).expect_err("held once").to_string();
        let named = format!("records.lock is held by process {} (", std::process::id());
        assert!(error.contains(&named), "{error}");
        drop(held);
        assert!(files.hold_within(Duration::ZERO).is_ok());
        drop(theirs);
        fs::remove_dir_all(folder).expect("there");
    }
}
