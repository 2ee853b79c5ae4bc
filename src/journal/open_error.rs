//! Why the journal cannot be opened.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::journal::storage::StorageError;

/// Operation not permitted, and permission denied (errno(3)).
const EPERM: i32 = 1;
const EACCES: i32 = 13;

/// The journal cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// Another process has it open. Stop that one, or configure another directory.
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// The directory cannot be made, locked or renamed.
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file in it cannot be opened or listed.
    Storage {
        /// Which directory.
        path: PathBuf,
        /// Why.
        error: StorageError,
    },
    /// A thread cannot be started.
    Thread(std::io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::InUse { path } => write!(
                f,
                "the journal in {} is in use by another process: perhaps this gateway runs already; `tombolo status` shows it",
                path.display()
            ),
            OpenError::Directory { path, error } => {
                write!(f, "the journal's directory {}: {error}", path.display())?;
                give(f, path, error.kind() == std::io::ErrorKind::PermissionDenied)
            }
            OpenError::Storage { path, error } => {
                write!(f, "the journal in {}: {error}", path.display())?;
                give(f, path, matches!(error, StorageError::Other(EPERM | EACCES)))
            }
            OpenError::Thread(error) => write!(f, "the journal's thread cannot be started: {error}"),
        }
    }
}

/// The way out where a file belongs to another user.
fn give(f: &mut fmt::Formatter<'_>, path: &Path, denied: bool) -> fmt::Result {
    if !denied {
        return Ok(());
    }
    let shown = path.display();
    write!(
        f,
        "; it belongs to another user: run the gateway as that user or, if it was once started as root by mistake, give it \
         back as root: chown -R USER: {shown}"
    )
}

impl std::error::Error for OpenError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_of_another_user_is_given_back_by_a_command_that_is_named() {
        let path = PathBuf::from("/srv/gw/state/journal");
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let said = OpenError::Directory { path: path.clone(), error: denied }.to_string();
        assert!(said.contains("chown -R USER: /srv/gw/state/journal"), "{said}");
        let said = OpenError::Storage { path: path.clone(), error: StorageError::Other(EACCES) }.to_string();
        assert!(said.contains("chown -R USER: /srv/gw/state/journal"), "{said}");
        let said = OpenError::Storage { path, error: StorageError::Full }.to_string();
        assert!(!said.contains("chown"), "{said}");
    }
}
