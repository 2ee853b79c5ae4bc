//! The files that a lane has set aside or will set aside, and their lists. docs/journal-format.md
//! §9.
//!
//! ```text
//!   in the chain ──its list is durable──> a trim may pass its records ──trim──> leaving ──renamed──> away ──imported──> deleted
//! ```
//!
//! Invariant: an unreadable record counts as passed only when it is in a durable list.

use std::sync::Arc;
use std::time::Instant;

use super::aside::{Aside, AsideCause, AsideRange, LIST_MAX};
use super::pool::Trouble;
use super::scan;
use super::segment::segment_name;
use super::storage::{Folder, Storage, StorageError, StoredFile};
use crate::message::Lane;

/// The location of a file on the shelf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the chain of the lane's segments.
    Chain,
    /// No longer in the chain, but not renamed yet.
    Leaving,
    /// Renamed.
    Away,
}

/// A file on the shelf, with records that were not read.
#[derive(Clone, Debug)]
pub(super) struct Shelved {
    pub(super) aside: Aside,
    pub(super) place: Place,
    /// The cause according to its file suffix, if it has one.
    named: Option<AsideCause>,
    /// Bytes of the file, if it is no longer in the chain.
    pub(super) size: u64,
    /// Whether the list on the disk is up to date.
    pub(super) saved: bool,
    /// The list cannot be read: its content is unknown, and the file must not be changed.
    pub(super) unread: bool,
    /// Sequences that count as passed when the list is durable.
    pub(super) waiting: Vec<(u64, u64)>,
}

impl Shelved {
    /// A file that is not renamed yet; `saved`: its list is on the disk.
    pub(super) fn new(aside: Aside, place: Place, size: u64, saved: bool) -> Shelved {
        Shelved { aside, place, named: None, size, saved, unread: false, waiting: Vec::new() }
    }

    /// A file that was renamed with the suffix of `cause`.
    pub(super) fn away(aside: Aside, cause: AsideCause, size: u64) -> Shelved {
        let (place, named, waiting) = (Place::Away, Some(cause), Vec::new());
        Shelved { aside, place, named, size, saved: true, unread: false, waiting }
    }

    fn cause(&self) -> AsideCause {
        self.named.unwrap_or(self.aside.cause())
    }

    pub(super) fn file_name(&self) -> String {
        format!("{}.{}", segment_name(self.aside.number), self.cause().as_str())
    }
}

/// All files that a lane has set aside.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    items: Vec<Shelved>,
    trouble: Option<Trouble>,
    /// The published list; rebuilt when something changes.
    shown: Arc<[Aside]>,
}

impl Shelf {
    pub(super) fn new(mut items: Vec<Shelved>) -> Shelf {
        items.sort_by_key(|item| item.aside.number);
        let mut shelf = Shelf { items, ..Shelf::default() };
        shelf.show();
        shelf
    }

    fn show(&mut self) {
        self.shown = self.items.iter().map(|item| item.aside.clone()).collect();
    }

    /// The published list.
    pub(super) fn shown(&self) -> Arc<[Aside]> {
        self.shown.clone()
    }

    pub(super) fn has(&self, number: u64) -> bool {
        self.items.iter().any(|item| item.aside.number == number)
    }

    /// Bytes of the files that have left the chain. Only the space of damaged ones can be reclaimed
    /// at any time.
    pub(super) fn bytes(&self) -> u64 {
        self.left().map(|item| item.size).sum()
    }

    /// Bytes that can be reclaimed for new records.
    pub(super) fn reclaimable(&self) -> u64 {
        self.left()
            .filter(|item| item.cause() == AsideCause::Damaged && !item.unread)
            .map(|item| item.size)
            .sum()
    }

    fn left(&self) -> impl Iterator<Item = &Shelved> {
        self.items.iter().filter(|item| item.place != Place::Chain)
    }

    /// Adds records of a segment; with `waits`, they count as passed when the list is durable.
    pub(super) fn note(&mut self, lane: Lane, number: u64, range: AsideRange, waits: bool) {
        if !self.has(number) {
            self.items.push(Shelved::new(Aside::new(lane, number), Place::Chain, 0, false));
            self.items.sort_by_key(|item| item.aside.number);
        }
        if let Some(item) = self.items.iter_mut().find(|item| item.aside.number == number) {
            item.aside.add(range);
            item.saved = false;
            if waits {
                item.waiting.push((range.first.sequence, range.last.sequence));
            }
        }
        self.show();
    }

    /// The oldest record that does not count as passed yet.
    pub(super) fn first_waiting(&self) -> Option<u64> {
        self.items.iter().flat_map(|item| &item.waiting).map(|(first, _)| *first).min()
    }

    /// Returns whether the file of this segment must be kept; the shelf then owns it.
    pub(super) fn leave(&mut self, number: u64, size: u64) -> bool {
        let item = self.items.iter_mut().find(|item| item.aside.number == number);
        if let Some(item) = item.filter(|item| item.place == Place::Chain) {
            (item.place, item.size) = (Place::Leaving, size);
            return true;
        }
        false
    }

    /// When [`Shelf::work`] should be called next.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let wanted = self.items.iter().any(|item| !item.saved || item.unread || item.place == Place::Leaving);
        wanted.then(|| self.trouble.map_or(now, |trouble| trouble.retry_at))
    }

    /// Why nothing can be written now.
    pub(super) fn trouble(&self) -> Option<StorageError> {
        self.trouble.map(|trouble| trouble.error)
    }

    /// Whether the disk is full.
    pub(super) fn is_full(&self) -> bool {
        self.trouble.is_some_and(|trouble| trouble.is_full())
    }

    /// A full disk has space again.
    pub(super) fn retry_full(&mut self, now: Instant) {
        self.trouble.iter_mut().for_each(|trouble| trouble.retry_full(now));
    }

    /// Writes lists and renames files; returns the sequences that count as passed now.
    pub(super) fn work<S: Storage>(&mut self, now: Instant, storage: &S, folder: Folder) -> Vec<(u64, u64)> {
        let mut passed = Vec::new();
        if self.deadline(now).is_none_or(|at| at > now) {
            return passed;
        }
        let (mut renamed, mut failed) = (false, None);
        for item in &mut self.items {
            // A file that always fails does not block the others.
            match keep(item, storage, folder, &mut renamed) {
                Ok(()) => passed.append(&mut item.waiting),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if renamed {
            // If the rename is not durable, the file is found under its old name with its list, and
            // renamed again.
            let _ = storage.sync_folder(folder);
        }
        self.trouble = failed.map(|error| Trouble::after(self.trouble, error, now));
        self.show();
        passed
    }

    /// Deletes the oldest file that has left the chain, to make room; with `any`, also an
    /// unreadable one. Returns its list.
    pub(super) fn evict<S: Storage>(&mut self, storage: &S, folder: Folder, any: bool) -> Option<Aside> {
        let may = |item: &Shelved| {
            item.place == Place::Away && !item.unread && (any || item.cause() == AsideCause::Damaged)
        };
        let at = self.items.iter().position(may)?;
        remove(storage, folder, &self.items[at]).ok()?;
        let item = self.items.remove(at);
        self.show();
        Some(item.aside)
    }

    /// These records of this file are in their lane again; `None` = all on its list.
    pub(super) fn taken<S: Storage>(
        &mut self,
        storage: &S,
        folder: Folder,
        number: u64,
        taken: Option<&[(u64, u64)]>,
    ) {
        let Some(at) = self.items.iter().position(|item| item.aside.number == number) else { return };
        let item = &mut self.items[at];
        match taken {
            Some(taken) => {
                taken.iter().for_each(|(first, last)| item.aside.remove(*first, *last));
                item.saved = false;
            }
            None => item.aside.ranges.clear(),
        }
        if item.aside.ranges.is_empty() && item.place == Place::Away && remove(storage, folder, item).is_ok()
        {
            self.items.remove(at);
        }
        self.show();
    }
}

/// Makes the list durable, then renames the file.
fn keep<S: Storage>(
    item: &mut Shelved,
    storage: &S,
    folder: Folder,
    renamed: &mut bool,
) -> Result<(), StorageError> {
    if item.unread {
        if let Some(list) = read_list(storage, item.aside.lane, &item.aside.list_name())? {
            list.ranges.into_iter().for_each(|range| item.aside.add(range));
        }
        item.unread = false;
    }
    if !item.saved {
        save(storage, folder, &item.aside)?;
        item.saved = true;
    }
    if item.place == Place::Leaving {
        let from = segment_name(item.aside.number);
        match storage.rename((folder, &from), (folder, &item.file_name())) {
            // It was deleted by hand.
            Ok(()) | Err(StorageError::Missing) => {}
            Err(error) => return Err(error),
        }
        (item.place, item.named) = (Place::Away, Some(item.cause()));
        *renamed = true;
    }
    Ok(())
}

/// Reads the list of a file; `None` if there is none or it is incomplete.
///
/// # Errors
/// The disk failed to read it.
pub(super) fn read_list<S: Storage>(
    storage: &S,
    lane: Lane,
    name: &str,
) -> Result<Option<Aside>, StorageError> {
    let mut bytes = Vec::new();
    match storage.open(Folder::of(lane), name) {
        Ok(file) => scan::read_region(&file, 0, LIST_MAX, &mut bytes)?,
        Err(StorageError::Missing) => return Ok(None),
        Err(error) => return Err(error),
    }
    Ok(Aside::parse(&bytes).filter(|aside| aside.lane == lane && aside.list_name() == name))
}

fn save<S: Storage>(storage: &S, folder: Folder, aside: &Aside) -> Result<(), StorageError> {
    let name = aside.list_name();
    let new = format!("{name}.new");
    // Left from a failed attempt; it usually does not exist.
    storage.remove(folder, &new)?;
    let file = storage.create(folder, &new)?;
    file.write_at(0, aside.encode().as_bytes())?;
    file.sync()?;
    storage.rename((folder, &new), (folder, &name))?;
    storage.sync_folder(folder)
}

/// The list is deleted last: without it, it is unknown which records to import from the file.
fn remove<S: Storage>(storage: &S, folder: Folder, item: &Shelved) -> Result<(), StorageError> {
    storage.remove(folder, &item.file_name())?;
    storage.remove(folder, &item.aside.list_name())
}
