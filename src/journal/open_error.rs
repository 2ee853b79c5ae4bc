//! Why the journal cannot be opened.

use std::fmt;
use std::path::PathBuf;

use crate::journal::storage::StorageError;

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
            OpenError::InUse { path } => {
                write!(f, "the journal in {} is in use by another process", path.display())
            }
            OpenError::Directory { path, error } => {
                write!(f, "the journal's directory {}: {error}", path.display())
            }
            OpenError::Storage { path, error } => write!(f, "the journal in {}: {error}", path.display()),
            OpenError::Thread(error) => write!(f, "the journal's thread cannot be started: {error}"),
        }
    }
}

impl std::error::Error for OpenError {}
