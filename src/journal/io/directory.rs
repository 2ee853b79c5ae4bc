//! The journal's directory: it is locked by one process, and moved aside if it has another format
//! version.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::disk::Disk;
use crate::durable::io::create_directory;
use crate::journal::open_error::OpenError;
use crate::journal::segment::{Header, HeaderBlock, parse_name};
use crate::journal::storage::{Folder, Storage, StoredFile};

/// The directory, locked until this is dropped.
pub(super) struct Directory {
    path: PathBuf,
    lock: Flock<File>,
}

impl Directory {
    /// Creates the directory if it does not exist, for the owner of the folder that it is in, and
    /// locks it.
    pub(super) fn lock(path: &Path) -> Result<Directory, OpenError> {
        let failed = |error: io::Error| OpenError::Directory { path: path.to_path_buf(), error };
        if path.exists() && !path.is_dir() {
            let text = "it is a file in the place of a folder: move it aside";
            return Err(failed(io::Error::new(io::ErrorKind::NotADirectory, text)));
        }
        if !path.is_dir() {
            create_directory(path).map_err(failed)?;
        }
        let file = File::open(path).map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Directory { path: path.to_path_buf(), lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(OpenError::InUse { path: path.to_path_buf() }),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }

    /// Its files, as long as it is at its path.
    pub(super) fn disk(&self) -> Disk {
        Disk::held(&self.path, &self.lock)
    }

    /// Renames it to the first free `….unknown-N` and releases the lock.
    pub(super) fn move_aside(self) -> Result<PathBuf, OpenError> {
        let target = (1..).map(|n| aside(&self.path, n)).find(|path| !path.exists());
        let target = target.unwrap_or_else(|| aside(&self.path, 0));
        self.rename_to(&target)?;
        Ok(target)
    }

    fn rename_to(self, target: &Path) -> Result<(), OpenError> {
        let failed = |error: io::Error| OpenError::Directory { path: target.to_path_buf(), error };
        fs::rename(&self.path, target).map_err(failed)?;
        match self.path.parent() {
            Some(parent) => File::open(parent).and_then(|file| file.sync_all()).map_err(failed),
            None => Ok(()),
        }
    }

    /// Replaces this journal, which is empty, by one that was moved aside.
    pub(super) fn replace_by(self, aside: &Path) -> Result<(), OpenError> {
        let path = self.path.clone();
        let mut emptied = path.clone().into_os_string();
        emptied.push(".emptied");
        let emptied = PathBuf::from(emptied);
        // Left from an earlier attempt; it usually does not exist.
        drop(fs::remove_dir_all(&emptied));
        self.rename_to(&emptied)?;
        fs::rename(aside, &path).map_err(|error| OpenError::Directory { path, error })?;
        drop(fs::remove_dir_all(&emptied));
        Ok(())
    }
}

fn aside(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(format!(".unknown-{number}"));
    PathBuf::from(name)
}

/// Journals moved aside earlier, and whether this version can read them.
pub(super) fn asides(path: &Path) -> Vec<(PathBuf, bool)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.unknown-");
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.strip_prefix(&prefix))
            .and_then(|number| number.parse().ok());
        if let Some(number) = number {
            found.push((number, entry.path()));
        }
    }
    found.sort();
    found.into_iter().map(|(_, path)| (is_known(&path), path)).map(|(known, path)| (path, known)).collect()
}

/// Whether all headers with a version have the supported one.
fn is_known(path: &Path) -> bool {
    let disk = Disk::new(path);
    let mut ours = false;
    for (folder, extension) in [(Folder::High, "seg"), (Folder::Normal, "seg"), (Folder::Rejected, "log")] {
        for (name, _) in disk.list(folder).unwrap_or_default() {
            if parse_name(&name, extension).is_none() {
                continue;
            }
            let mut block = vec![0; 4096];
            let read = disk.open(folder, &name).and_then(|file| file.read_at(0, &mut block)).unwrap_or(0);
            match Header::parse_block(&block[..read]) {
                HeaderBlock::Valid(..) => ours = true,
                HeaderBlock::OtherVersion(_) => return false,
                HeaderBlock::Free | HeaderBlock::Damaged => {}
            }
        }
    }
    ours
}
