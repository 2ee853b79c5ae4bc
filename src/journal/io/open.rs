//! Opens the journal's directory: locking, format version, report.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::directory::{self, Directory};
use super::disk::Disk;
use crate::journal::open_error::OpenError;
use crate::journal::recovery::RecoveryError;
use crate::journal::settings::Settings;
use crate::journal::storage::StorageError;
use crate::journal::store::{Seeds, Store, StoreReport};
use crate::message::Lane;
use crate::system;

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
    let mut opened = try_store(&directory, settings, seeds)?;
    if opened.is_none() {
        report.moved_aside = Some(directory.move_aside()?);
        directory = Directory::lock(path)?;
        opened = try_store(&directory, settings, seeds)?;
    }
    let known = directory::asides(path).into_iter().find(|(_, known)| *known);
    if let Some((aside, _)) = known.filter(|_| opened.as_ref().is_some_and(|(store, _)| is_drained(store))) {
        directory.replace_by(&aside)?;
        directory = Directory::lock(path)?;
        opened = try_store(&directory, settings, seeds)?;
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
fn try_store(
    directory: &Directory,
    settings: &Settings,
    seeds: Seeds,
) -> Result<Option<(Store<Disk>, StoreReport)>, OpenError> {
    let disk = Arc::new(directory.disk());
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
        if system::io::fill_random(&mut bytes).is_err() {
            // Without a source of chance: the clock's nanoseconds are at least not the same twice.
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            bytes = (now.unwrap_or(Duration::ZERO).as_nanos() as u64).to_le_bytes();
        }
        u64::from_le_bytes(bytes)
    };
    Seeds { runs: [random(), random()], salt: random(), boot: boot_id(random) }
}

/// The kernel's boot id; a random one if the kernel has none.
fn boot_id(random: impl Fn() -> u64) -> [u8; 16] {
    system::io::boot_id().unwrap_or_else(|| (u128::from(random()) << 64 | u128::from(random())).to_le_bytes())
}
