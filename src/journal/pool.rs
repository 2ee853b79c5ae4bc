//! Spare files for new segments: made in advance, zeroed in small slices between commits, and
//! recycled.
//!
//! One file is the reserve. Records never use it, so trims, losses and a clean shutdown have room
//! on a full disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::segment::{self, Layout};
use super::storage::{Folder, Storage, StorageError, StoredFile};

/// Bytes of zeros written and synced at once: small, so that a waiting commit is hardly delayed.
const SLICE: u32 = 256 * 1024;
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// An error and its next retry: after 1 s, doubled each time up to 60 s.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trouble {
    /// The last error.
    pub(super) error: StorageError,
    /// The time of the next retry.
    pub(super) retry_at: Instant,
    backoff: Duration,
}

impl Trouble {
    pub(super) fn after(before: Option<Trouble>, error: StorageError, now: Instant) -> Trouble {
        let backoff = before.map_or(FIRST_BACKOFF, |b| (b.backoff * 2).min(LONGEST_BACKOFF));
        Trouble { error, retry_at: now + backoff, backoff }
    }

    /// Whether the disk was full.
    pub(super) fn is_full(&self) -> bool {
        self.error == StorageError::Full
    }

    /// Retries at once what failed on a full disk; the back-off goes on if it fails again.
    pub(super) fn retry_full(&mut self, now: Instant) {
        if self.is_full() {
            self.retry_at = now;
        }
    }
}

/// An open file and its name in `spare/`.
pub(super) struct Spare<F> {
    name: String,
    file: Arc<F>,
}

struct Making<F> {
    name: String,
    file: F,
    done: u32,
}

pub(super) struct Pool<S: Storage> {
    layout: Layout,
    limit: usize,
    ready: Vec<Spare<S::File>>,
    making: Option<Making<S::File>>,
    next_serial: u64,
    trouble: Option<Trouble>,
}

impl<S: Storage> Pool<S> {
    /// Reuses files from an earlier opening. Incomplete files, files of another size, and files
    /// beyond `limit` are deleted.
    pub(super) fn open(storage: &S, layout: Layout, limit: usize) -> Pool<S> {
        let mut pool = Pool { layout, limit, ready: Vec::new(), making: None, next_serial: 1, trouble: None };
        for (name, size) in storage.list(Folder::Spare).unwrap_or_default() {
            let spare = segment::parse_name(&name, "spare");
            let Some(serial) = spare.or(segment::parse_name(&name, "new")) else { continue };
            pool.next_serial = pool.next_serial.max(serial.saturating_add(1));
            let usable = spare.is_some() && size == u64::from(layout.size) && pool.ready.len() < limit;
            match usable.then(|| storage.open(Folder::Spare, &name)) {
                Some(Ok(file)) => pool.ready.push(Spare { name, file: Arc::new(file) }),
                // A file that cannot be deleted now is deleted at the next opening.
                _ => {
                    let _ = storage.remove(Folder::Spare, &name);
                }
            }
        }
        pool
    }

    /// The number of spare files, including the reserve.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Why no file can be made now.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.trouble
    }

    /// The error may be over.
    pub(super) fn retry_full(&mut self, now: Instant) {
        self.trouble.iter_mut().for_each(|trouble| trouble.retry_full(now));
    }

    /// Moves a spare file into a lane with its new name; with `reserve`, even the last one. If
    /// there is no spare, one is made at once.
    pub(super) fn take(
        &mut self,
        storage: &S,
        folder: Folder,
        name: &str,
        reserve: bool,
        now: Instant,
    ) -> Result<Arc<S::File>, StorageError> {
        let least = usize::from(!reserve);
        if self.ready.len() <= least {
            self.refuse_in_trouble(now)?;
            while !self.make_slice(storage, now)? {}
        }
        let spare = self.ready.pop().ok_or(StorageError::Full)?;
        if let Err(error) = storage.rename((Folder::Spare, &spare.name), (folder, name)) {
            // The error belongs to the lane; the spare file still exists.
            self.ready.push(spare);
            return Err(error);
        }
        let moved = storage.sync_folder(folder).and_then(|()| storage.sync_folder(Folder::Spare));
        match moved {
            Ok(()) => Ok(spare.file),
            Err(error) => {
                // Its current name is unknown; the next opening finds it by its header.
                self.trouble = Some(Trouble::after(self.trouble, error, now));
                Err(error)
            }
        }
    }

    fn refuse_in_trouble(&self, now: Instant) -> Result<(), StorageError> {
        match self.trouble {
            Some(trouble) if now < trouble.retry_at => Err(trouble.error),
            _ => Ok(()),
        }
    }

    /// Does one step towards `wanted` spare files; returns whether more work can be done now.
    pub(super) fn work(&mut self, storage: &S, wanted: usize, now: Instant) -> bool {
        if self.ready.len() >= wanted.min(self.limit.max(1) + 2) {
            self.trouble = None;
            return false;
        }
        if self.refuse_in_trouble(now).is_err() {
            return false;
        }
        self.make_slice(storage, now).is_ok()
    }

    /// When to call [`Pool::work`] again after an error.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.trouble.map(|trouble| trouble.retry_at)
    }

    /// Writes one slice of zeros; returns whether the file is complete.
    fn make_slice(&mut self, storage: &S, now: Instant) -> Result<bool, StorageError> {
        match self.try_slice(storage) {
            Ok(ready) => {
                if ready {
                    self.trouble = None;
                }
                Ok(ready)
            }
            Err(error) => {
                self.trouble = Some(Trouble::after(self.trouble, error, now));
                if let Some(making) = self.making.take() {
                    // Its space is needed now; if it cannot be deleted, the next opening deletes
                    // it.
                    let _ = storage.remove(Folder::Spare, &making.name);
                }
                Err(error)
            }
        }
    }

    fn try_slice(&mut self, storage: &S) -> Result<bool, StorageError> {
        if self.making.is_none() {
            let name = format!("{:016x}.new", self.next_serial);
            self.next_serial += 1;
            let file = storage.create(Folder::Spare, &name)?;
            self.making = Some(Making { name, file, done: 0 });
        }
        let Some(making) = &mut self.making else { return Ok(false) };
        let length = SLICE.min(self.layout.size - making.done);
        making.file.write_at(u64::from(making.done), &vec![0; length as usize])?;
        if making.done == 0 {
            making.file.write_at(0, &segment::free_block())?;
        }
        making.file.sync()?;
        making.done += length;
        if making.done < self.layout.size {
            return Ok(false);
        }
        let Some(making) = self.making.take() else { return Ok(false) };
        let name = making.name.replace(".new", ".spare");
        if let Err(error) = storage.rename((Folder::Spare, &making.name), (Folder::Spare, &name)) {
            let _ = storage.remove(Folder::Spare, &making.name);
            return Err(error);
        }
        self.ready.push(Spare { name, file: Arc::new(making.file) });
        Ok(true)
    }

    /// Takes a file from a lane: kept as a spare if needed, else deleted. The release of its
    /// records must be durable.
    pub(super) fn recycle(
        &mut self,
        storage: &S,
        folder: Folder,
        name: &str,
        size: u64,
        now: Instant,
    ) -> Result<(), StorageError> {
        self.refuse_in_trouble(now)?;
        let done = self.try_recycle(storage, folder, name, size);
        self.trouble = done.err().map(|error| Trouble::after(self.trouble, error, now));
        done
    }

    fn try_recycle(
        &mut self,
        storage: &S,
        folder: Folder,
        name: &str,
        size: u64,
    ) -> Result<(), StorageError> {
        if size != u64::from(self.layout.size) || self.ready.len() >= self.limit.max(1) {
            return storage.remove(folder, name);
        }
        let file = storage.open(folder, name)?;
        file.write_at(0, &segment::free_block())?;
        file.sync()?;
        let spare = format!("{:016x}.spare", self.next_serial);
        self.next_serial += 1;
        storage.rename((folder, name), (Folder::Spare, &spare))?;
        self.ready.push(Spare { name: spare, file: Arc::new(file) });
        Ok(())
    }
}
