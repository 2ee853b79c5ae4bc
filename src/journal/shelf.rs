//! The files a lane has set aside, or is going to, and the lists beside them.
//! docs/journal-format.md §9.
//!
//! ```text
//!   in the chain ──its list is durable──> a trim may pass its records ──trim──> leaving ──renamed──> away ──imported──> deleted
//! ```
//!
//! Invariant: a record that could not be read counts as passed only once it is in a durable list.

use std::sync::Arc;
use std::time::Instant;

use super::aside::{Aside, AsideCause, AsideRange, LIST_MAX};
use super::pool::Trouble;
use super::scan;
use super::segment::segment_name;
use super::storage::{Folder, Storage, StorageError, StoredFile};
use crate::message::Lane;

/// Where a file on the shelf is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Among the lane's segments.
    Chain,
    /// No longer, but under its old name.
    Leaving,
    /// Under its new name.
    Away,
}

/// A file with records that were not read.
#[derive(Clone, Debug)]
pub(super) struct Shelved {
    pub(super) aside: Aside,
    pub(super) place: Place,
    /// By its file's ending, where it has one.
    named: Option<AsideCause>,
    /// Bytes of the file, where it is no longer in the chain.
    pub(super) size: u64,
    /// The list on the disk says the same.
    pub(super) saved: bool,
    /// The disk does not give the list: what is on it is not known, and nothing may be done to the
    /// file.
    pub(super) unread: bool,
    /// Sequences that count as passed once it does.
    pub(super) waiting: Vec<(u64, u64)>,
}

impl Shelved {
    /// Not away yet; `saved`: its list is on the disk.
    pub(super) fn new(aside: Aside, place: Place, size: u64, saved: bool) -> Shelved {
        Shelved { aside, place, named: None, size, saved, unread: false, waiting: Vec::new() }
    }

    /// Away under the ending of `cause`.
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

/// All of a lane's.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    items: Vec<Shelved>,
    trouble: Option<Trouble>,
    /// What others are shown; made anew when something changes.
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

    /// What is on it.
    pub(super) fn shown(&self) -> Arc<[Aside]> {
        self.shown.clone()
    }

    pub(super) fn has(&self, number: u64) -> bool {
        self.items.iter().any(|item| item.aside.number == number)
    }

    /// Bytes of the files that have left the chain; those of damaged ones alone can be had back at
    /// any time.
    pub(super) fn bytes(&self) -> u64 {
        self.left().map(|item| item.size).sum()
    }

    /// Bytes that give way to new records.
    pub(super) fn reclaimable(&self) -> u64 {
        self.left()
            .filter(|item| item.cause() == AsideCause::Damaged && !item.unread)
            .map(|item| item.size)
            .sum()
    }

    fn left(&self) -> impl Iterator<Item = &Shelved> {
        self.items.iter().filter(|item| item.place != Place::Chain)
    }

    /// Notes records of a segment; `waits`: they count as passed once that is durable.
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

    /// Whether the file of this segment is to be kept; then it is the shelf's from now on.
    pub(super) fn leave(&mut self, number: u64, size: u64) -> bool {
        let item = self.items.iter_mut().find(|item| item.aside.number == number);
        if let Some(item) = item.filter(|item| item.place == Place::Chain) {
            (item.place, item.size) = (Place::Leaving, size);
            return true;
        }
        false
    }

    /// When there is something to write.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let wanted = self.items.iter().any(|item| !item.saved || item.unread || item.place == Place::Leaving);
        wanted.then(|| self.trouble.map_or(now, |trouble| trouble.retry_at))
    }

    /// Why nothing can be written at present.
    pub(super) fn trouble(&self) -> Option<StorageError> {
        self.trouble.map(|trouble| trouble.error)
    }

    /// Writes lists and renames files; which sequences count as passed now.
    pub(super) fn work<S: Storage>(&mut self, now: Instant, storage: &S, folder: Folder) -> Vec<(u64, u64)> {
        let mut passed = Vec::new();
        if self.deadline(now).is_none_or(|at| at > now) {
            return passed;
        }
        let (mut renamed, mut failed) = (false, None);
        for item in &mut self.items {
            // One that fails for ever holds no other up.
            match keep(item, storage, folder, &mut renamed) {
                Ok(()) => passed.append(&mut item.waiting),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if renamed {
            // Not durable it is found under its old name, with its list, and is renamed again.
            let _ = storage.sync_folder(folder);
        }
        self.trouble = failed.map(|error| Trouble::after(self.trouble, error, now));
        self.show();
        passed
    }

    /// Deletes the oldest file that has left the chain to make room; `any`: an unreadable one, too.
    /// What was in it.
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

    /// These records of this file are in their lane again; all that is on its list, if it is
    /// `None`.
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

/// Makes the list durable, then gives the file its name.
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
            // Somebody deleted it.
            Ok(()) | Err(StorageError::Missing) => {}
            Err(error) => return Err(error),
        }
        (item.place, item.named) = (Place::Away, Some(item.cause()));
        *renamed = true;
    }
    Ok(())
}

/// Reads the list beside a file; `None`: there is none, or it is not whole.
///
/// # Errors
/// The disk does not give it.
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
    // Left behind by an attempt that failed; most often it is not there.
    storage.remove(folder, &new)?;
    let file = storage.create(folder, &new)?;
    file.write_at(0, aside.encode().as_bytes())?;
    file.sync()?;
    storage.rename((folder, &new), (folder, &name))?;
    storage.sync_folder(folder)
}

/// The list goes last: without it nobody knows what is to be taken from the file.
fn remove<S: Storage>(storage: &S, folder: Folder, item: &Shelved) -> Result<(), StorageError> {
    storage.remove(folder, &item.file_name())?;
    storage.remove(folder, &item.aside.list_name())
}
