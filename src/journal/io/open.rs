//! Opens the journal's directory: locking, format version, report.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::directory::{self, Directory};
use super::disk::Disk;
use crate::journal::recovery::RecoveryError;
use crate::journal::settings::Settings;
use crate::journal::storage::StorageError;
use crate::journal::store::{Seeds, Store, StoreReport};
use crate::message::Lane;

/// Why the journal cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// Another process has it open. Stop that one, or configure another directory.
    InUse {
        /// The journal's directory.
        path: PathBuf,
    },
    /// The directory cannot be created, locked or renamed.
    Directory {
        /// The journal's directory.
        path: PathBuf,
        /// The error.
        error: std::io::Error,
    },
    /// A file in it cannot be opened or listed.
    Storage {
        /// The journal's directory.
        path: PathBuf,
        /// The error.
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

/// What was found when the journal was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Lanes and the rejected store.
    pub store: StoreReport,
    /// A journal of an unknown format version was moved to this path, and a new one was created.
    pub moved_aside: Option<PathBuf>,
    /// A journal that had been moved aside is in use again.
    pub taken_up: Option<PathBuf>,
    /// Journals moved aside that are not in use: they need another version, or this journal must be
    /// empty when it is opened.
    pub waiting: Vec<PathBuf>,
}

pub(super) type Opened = (Store<Disk>, Directory, Seeds, OpenReport);

pub(super) fn open_store(settings: &Settings) -> Result<Opened, OpenError> {
    let path = &settings.directory;
    let mut report = OpenReport::default();
    let seeds = draw_seeds();
    let mut directory = Directory::lock(path)?;
    let mut opened = try_store(settings, seeds)?;
    if opened.is_none() {
        report.moved_aside = Some(directory.move_aside()?);
        directory = Directory::lock(path)?;
        opened = try_store(settings, seeds)?;
    }
    let known = directory::asides(path).into_iter().find(|(_, known)| *known);
    if let Some((aside, _)) = known.filter(|_| opened.as_ref().is_some_and(|(store, _)| is_drained(store))) {
        directory.replace_by(&aside)?;
        directory = Directory::lock(path)?;
        opened = try_store(settings, seeds)?;
        report.taken_up = Some(aside);
    }
    report.waiting = directory::asides(path).into_iter().map(|(path, _)| path).collect();
    let Some((store, found)) = opened else {
        // The directory is new, or all its headers were read and have the supported version.
        return Err(OpenError::Storage { path: path.clone(), error: StorageError::Other(5) });
    };
    report.store = found;
    Ok((store, directory, seeds, report))
}

/// `None` if it has another major version.
fn try_store(settings: &Settings, seeds: Seeds) -> Result<Option<(Store<Disk>, StoreReport)>, OpenError> {
    let disk = Arc::new(Disk::new(&settings.directory));
    match Store::open(Instant::now(), disk, settings, seeds) {
        Ok(opened) => Ok(Some(opened)),
        Err(RecoveryError::OtherVersion(_)) => Ok(None),
        Err(RecoveryError::Storage(error)) => {
            Err(OpenError::Storage { path: settings.directory.clone(), error })
        }
    }
}

fn is_drained(store: &Store<Disk>) -> bool {
    store.rejected_status().records == 0
        && Lane::ALL.into_iter().all(|lane| {
            let view = store.view(lane);
            view.released + 1 == view.next_sequence && store.losses(lane).is_empty()
        })
}

fn draw_seeds() -> Seeds {
    let random = || {
        let mut bytes = [0; 8];
        if aws_lc_rs::rand::fill(&mut bytes).is_err() {
            // Fallback without a random source: the clock's nanoseconds differ between openings.
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            bytes = (now.unwrap_or(Duration::ZERO).as_nanos() as u64).to_le_bytes();
        }
        u64::from_le_bytes(bytes)
    };
    Seeds { runs: [random(), random()], salt: random(), boot: boot_id(random) }
}

/// The kernel's boot id; a random one if the kernel has none.
fn boot_id(random: impl Fn() -> u64) -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    match u128::from_str_radix(&digits, 16) {
        Ok(id) if digits.len() == 32 => id.to_be_bytes(),
        _ => (u128::from(random()) << 64 | u128::from(random())).to_le_bytes(),
    }
}
