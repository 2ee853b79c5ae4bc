//! The rejected store: records that the broker refused permanently, kept until the operator retries
//! or discards them. docs/journal-format.md §5.
//!
//! It is one append-only file. A file that cannot be read completely gets another suffix: its
//! entries still count, and it is read again until all of it can be read; new entries go to a new
//! file.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::frame::{self, Fields, HEADER, Kind};
use super::record;
use super::recovery::{RecoveryError, read_header};
use super::scan::{self, BAD_PAGES, Scanner};
use super::segment::{self, HEADER_BLOCK, Header, HeaderBlock};
use super::settings::REJECTED_BYTES_MAX;
use super::storage::{Folder, Storage, StorageError, StoredFile};
use crate::message::{Lane, RecordId};

/// The lane byte of its header.
const LANE: u8 = 2;
const FIXED: usize = 24;
/// Bytes beyond the limit for Removed frames, so that records can be removed from a full store.
const OVER: u32 = 64 * 1024;
const FOLDER: Folder = Folder::Rejected;
/// Numbers skipped because an unreadable file may have used them.
const NUMBERS_SKIPPED: u64 = 1 << 20;
/// An unreadable file is read again after this time, which doubles up to a minute;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// after this time the interval grows up to a day.
const HOUR: Duration = Duration::from_secs(3600);
const LONGEST_RETRY: Duration = Duration::from_secs(86_400);
/// Bytes per write when the store is rewritten.
const WRITE_BYTES: usize = 256 * 1024;
/// Most files kept whose content was damaged.
const DAMAGED_KEPT: usize = 4;
/// What a place that cannot be read is called.
const EIO: i32 = 5;

/// The index entry of a rejected record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectedEntry {
    /// Its number in the store.
    pub number: u64,
    /// Its lane.
    pub lane: Lane,
    /// Its record id in the lane.
    pub id: RecordId,
    /// The reason code of the PUBACK (MQTT 5.0 §3.4.2.1).
    pub reason: u8,
    /// The number of its file.
    source: u64,
    offset: u32,
    length: u32,
}

impl RejectedEntry {
    fn bytes(&self) -> u64 {
        frame::padded(self.length as usize) as u64
    }
}

/// What was found at the opening.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RejectedReport {
    /// Records in it.
    pub records: usize,
    /// Records that were in it and are damaged now.
    pub lost: u64,
    /// Files that cannot be read completely, and why.
    pub unread: Vec<(String, StorageError)>,
    /// Files with an invalid header; they get the suffix `.damaged`.
    pub damaged_files: Vec<String>,
}

/// The lowest reason that is no reason code: from here to 0xFF (docs/journal-format.md §5).
const OWN_REASONS: u8 = 0xFD;

/// The entries by number, and how many have a reason that is no reason code.
#[derive(Clone, Default)]
struct Index {
    entries: BTreeMap<u64, RejectedEntry>,
    own_reasons: [u64; 3],
}

impl Index {
    /// True if it was not there.
    fn insert(&mut self, entry: RejectedEntry) -> bool {
        let before = self.entries.insert(entry.number, entry);
        self.count(before, -1);
        self.count(Some(entry), 1);
        before.is_none()
    }

    fn remove(&mut self, number: u64) -> Option<RejectedEntry> {
        let removed = self.entries.remove(&number);
        self.count(removed, -1);
        removed
    }

    fn count(&mut self, entry: Option<RejectedEntry>, by: i64) {
        let own = entry.and_then(|entry| entry.reason.checked_sub(OWN_REASONS));
        if let Some(count) = own.and_then(|own| self.own_reasons.get_mut(usize::from(own))) {
            *count = count.saturating_add_signed(by);
        }
    }
}

/// How many records of the store have a reason that is no reason code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnReasons([u64; 3]);

impl OwnReasons {
    /// Those with this one; 0 for a reason code.
    pub fn count(&self, reason: u8) -> u64 {
        let own = reason.checked_sub(OWN_REASONS).and_then(|own| self.0.get(usize::from(own)));
        own.copied().unwrap_or_default()
    }
}

/// Why a record could not be added to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectError {
    /// It is full.
    Full,
    /// The disk did not take it.
    Disk(StorageError),
}

/// A file of the store.
struct Source<F> {
    /// `None` if its header cannot be read.
    file: Option<F>,
    name: String,
    seed: u32,
    /// Why not all of it could be read.
    unread: Option<StorageError>,
    /// Whether part of it is damaged; then it is kept when the store is rewritten.
    damaged: bool,
}

/// The result of reading a file.
struct Loaded<F> {
    file: F,
    header: Header,
    entries: Vec<RejectedEntry>,
    removed: BTreeSet<u64>,
    end: u32,
    /// The number of entries that were in it and are missing.
    missing: u64,
    next_entry: u64,
    unread: Option<StorageError>,
}

/// The retry schedule of files that could not be read.
#[derive(Clone, Copy, Debug)]
struct Retry {
    at: Instant,
    backoff: Duration,
    since: Instant,
}

enum LoadError {
    Io(StorageError),
    OtherVersion(u16),
    /// Its header is invalid.
    Damaged,
}

pub(super) struct RejectedStore<S: Storage> {
    max_bytes: u64,
    /// The files by number; `current` is the one that is written.
    sources: BTreeMap<u64, Source<S::File>>,
    current: Option<u64>,
    /// The highest file number.
    number: u64,
    salt: u64,
    end: u32,
    live_bytes: u64,
    next_entry: u64,
    index: Index,
    /// Removed entries of files that are no longer written.
    gone: BTreeSet<u64>,
    /// A write or sync failed: the file must be rewritten before anything is added.
    broken: bool,
    /// Whether older files with the suffix of the current one still count.
    counts_older: bool,
    lost: u64,
    retry: Option<Retry>,
    /// The current file lacks records whose loss the next opening would count again: it is
    /// rewritten at this time.
    rewrite_at: Option<Instant>,
}

impl<S: Storage> RejectedStore<S> {
    /// Reads the store. `seen`: the next number and the number of entries according to the witness.
    ///
    /// # Errors
    /// [`RecoveryError::OtherVersion`], or its folder cannot be listed.
    pub(super) fn open(
        now: Instant,
        storage: &S,
        max_bytes: u64,
        salt: u64,
        seen: Option<(u64, u64)>,
    ) -> Result<(Self, RejectedReport), RecoveryError> {
        let mut store = RejectedStore {
            max_bytes: max_bytes.min(REJECTED_BYTES_MAX),
            sources: BTreeMap::new(),
            current: None,
            number: 0,
            salt,
            end: HEADER_BLOCK,
            live_bytes: 0,
            next_entry: 1,
            index: Index::default(),
            gone: BTreeSet::new(),
            broken: false,
            counts_older: false,
            lost: 0,
            retry: None,
            rewrite_at: None,
        };
        let mut report = RejectedReport::default();
        let (mut logs, mut unreadable, mut unfinished, mut old) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (name, _) in storage.list(FOLDER).map_err(RecoveryError::Storage)? {
            if let Some(number) = segment::parse_name(&name, "log") {
                logs.push(number);
            } else if let Some(number) = segment::parse_name(&name, "log.unreadable") {
                unreadable.push(number);
            } else if segment::parse_name(&name, "new").is_some() {
                unfinished.push(name);
            } else if segment::parse_name(&name, "log.damaged").is_some() {
                old.push(name);
            }
        }
        logs.sort_unstable();
        store.number = logs.iter().chain(&unreadable).copied().max().unwrap_or(0);
        for number in unreadable {
            store.read_unreadable(now, storage, number, &mut report)?;
        }
        let mut damaged = false;
        let mut older = false;
        while let Some(number) = logs.pop() {
            let next = seen.map_or(1, |(next, _)| next);
            match store.read_log(now, storage, number, next, &mut report)? {
                true => {
                    older = store.counts_older;
                    break;
                }
                false => damaged = true,
            }
        }
        if older {
            for number in std::mem::take(&mut logs) {
                let (from, to) = (log_name(number), unreadable_name(number));
                if storage.rename((FOLDER, &from), (FOLDER, &to)).is_ok() {
                    store.read_unreadable(now, storage, number, &mut report)?;
                }
            }
        }
        if store.current.is_none() && store.sources.values().any(|source| source.unread.is_some()) {
            store.next_entry += NUMBERS_SKIPPED;
        }
        if store.sources.len() <= 1 {
            store.gone.clear();
        }
        if damaged && let Some((_, entries)) = seen {
            store.lost += entries.saturating_sub(store.index.entries.len() as u64);
        }
        // The remaining files are older than the last rewrite, or incomplete; one that cannot be
        // deleted now is found again at the next opening.
        if report.unread.is_empty() && !damaged {
            old.sort_unstable();
            old.truncate(old.len().saturating_sub(DAMAGED_KEPT));
            let logs = logs.into_iter().map(log_name);
            for name in logs.chain(unfinished).chain(old) {
                let _ = storage.remove(FOLDER, &name);
            }
        }
        report.records = store.index.entries.len();
        report.lost = store.lost;
        Ok((store, report))
    }

    /// Reads the newest log; false if it is not one.
    fn read_log(
        &mut self,
        now: Instant,
        storage: &S,
        number: u64,
        next: u64,
        report: &mut RejectedReport,
    ) -> Result<bool, RecoveryError> {
        let name = log_name(number);
        let mut loaded = load::<S>(storage, &name, number, next, false);
        if matches!(&loaded, Err(LoadError::Damaged))
            || loaded.as_ref().is_ok_and(|loaded| loaded.missing > 0)
        {
            storage.wait_for_second_look();
            let before = loaded.as_ref().map_or(u64::MAX, |loaded| loaded.missing);
            loaded = load::<S>(storage, &name, number, next, true);
            if let Ok(loaded) = &mut loaded {
                loaded.missing = loaded.missing.min(before);
            }
        }
        match loaded {
            Err(LoadError::OtherVersion(major)) => return Err(RecoveryError::OtherVersion(major)),
            Err(LoadError::Damaged) => {
                let _ = storage.rename((FOLDER, &name), (FOLDER, &format!("{name}.damaged")));
                report.damaged_files.push(name);
                return Ok(false);
            }
            Err(LoadError::Io(error)) => {
                report.unread.push((name.clone(), error));
                let source = Source { file: None, name, seed: 0, unread: Some(error), damaged: false };
                self.sources.insert(number, source);
                self.put_by(now, storage, number);
            }
            Ok(loaded) => {
                let unread = loaded.unread;
                report.unread.extend(unread.map(|error| (name.clone(), error)));
                self.lost += loaded.missing;
                self.rewrite_at = (loaded.missing > 0).then_some(now);
                self.end = loaded.end;
                self.counts_older = loaded.header.uncertain_from == 1;
                self.current = Some(number);
                self.take(loaded, number, name);
                if unread.is_some() {
                    self.put_by(now, storage, number);
                }
            }
        }
        Ok(true)
    }

    /// Reads a file that was put by earlier (renamed because it was unreadable).
    fn read_unreadable(
        &mut self,
        now: Instant,
        storage: &S,
        number: u64,
        report: &mut RejectedReport,
    ) -> Result<(), RecoveryError> {
        let name = unreadable_name(number);
        match load::<S>(storage, &name, number, 0, false) {
            Err(LoadError::OtherVersion(major)) => return Err(RecoveryError::OtherVersion(major)),
            Err(error) => {
                // A file with an invalid header was not classified as damaged while it was in use,
                // because a later read may succeed.
                let error = if let LoadError::Io(error) = error { error } else { StorageError::Other(EIO) };
                report.unread.push((name.clone(), error));
                let source = Source { file: None, name, seed: 0, unread: Some(error), damaged: false };
                self.sources.insert(number, source);
            }
            Ok(loaded) => {
                report.unread.extend(loaded.unread.map(|error| (name.clone(), error)));
                self.take(loaded, number, name);
            }
        }
        self.retry.get_or_insert(Retry { at: now + FIRST_RETRY, backoff: FIRST_RETRY, since: now });
        Ok(())
    }

    /// Adds the entries of a file.
    fn take(&mut self, loaded: Loaded<S::File>, number: u64, name: String) {
        let Loaded { file, header, entries, removed, missing, next_entry, unread, .. } = loaded;
        self.next_entry = self.next_entry.max(next_entry);
        for entry in entries {
            if !self.gone.contains(&entry.number) && self.index.insert(entry) {
                self.live_bytes += entry.bytes();
            }
        }
        for removed in removed {
            self.forget(removed);
            self.gone.insert(removed);
        }
        let source = Source { file: Some(file), name, seed: header.seed(), unread, damaged: missing > 0 };
        self.sources.insert(number, source);
    }

    /// Puts an unreadable file by: it gets another suffix, and the next record goes to another
    /// file.
    fn put_by(&mut self, now: Instant, storage: &S, number: u64) {
        if self.current == Some(number) {
            self.current = None;
            self.next_entry += NUMBERS_SKIPPED;
        }
        self.retry.get_or_insert(Retry { at: now + FIRST_RETRY, backoff: FIRST_RETRY, since: now });
        let Some(source) = self.sources.get_mut(&number) else { return };
        let name = unreadable_name(number);
        // On a read-only file system it keeps its name and is found again.
        if storage.rename((FOLDER, &source.name), (FOLDER, &name)).is_ok() {
            source.name = name;
            let _ = storage.sync_folder(FOLDER);
        }
    }

    fn forget(&mut self, number: u64) {
        if let Some(entry) = self.index.remove(number) {
            self.live_bytes -= entry.bytes();
        }
    }

    /// Retries unreadable files; returns the number of records found to be lost. `counted`: whether
    /// every loss reported so far is durable.
    pub(super) fn maintain(&mut self, now: Instant, storage: &S, counted: bool) -> u64 {
        let before = self.lost;
        if counted && self.rewrite_at.is_some_and(|at| at <= now) {
            // If it fails, the loss may be counted twice, which is better than not at all.
            self.rewrite_at = self.rewrite(now, storage, &[]).is_err().then_some(now + MINUTE);
        }
        self.retry_unread(now, storage);
        self.lost - before
    }

    fn retry_unread(&mut self, now: Instant, storage: &S) {
        let Some(retry) = self.retry.filter(|retry| retry.at <= now) else { return };
        let waiting: Vec<u64> =
            self.sources.keys().copied().filter(|number| Some(*number) != self.current).collect();
        for number in waiting {
            self.read_again(now, storage, number);
        }
        let left = self.sources.keys().any(|number| Some(*number) != self.current);
        let longest = if now < retry.since + HOUR { MINUTE } else { LONGEST_RETRY };
        let backoff = (retry.backoff * 2).min(longest);
        self.retry = left.then_some(Retry { at: now + backoff, backoff, ..retry });
    }

    /// Reads a file put by again. When it can be read completely, its entries move to the current
    /// file.
    fn read_again(&mut self, now: Instant, storage: &S, number: u64) {
        let Some(source) = self.sources.get_mut(&number) else { return };
        let name = source.name.clone();
        let mut first = load::<S>(storage, &name, number, 0, true);
        if let Ok(Loaded { missing: before @ 1.., unread: None, .. }) = first {
            storage.wait_for_second_look();
            first = load::<S>(storage, &name, number, 0, true);
            if let Ok(loaded) = &mut first {
                loaded.missing = loaded.missing.min(before);
            }
        }
        let loaded = match first {
            Ok(loaded) => loaded,
            Err(error) => {
                if let LoadError::Io(error) = error {
                    source.unread = Some(error);
                }
                return;
            }
        };
        let (unread, missing) = (loaded.unread, loaded.missing);
        self.take(loaded, number, name.clone());
        if unread.is_some() || self.rewrite(now, storage, &[number]).is_err() {
            return;
        }
        self.lost += missing;
        let taken = self.sources.remove(&number);
        // Deleted only after its entries are durable elsewhere.
        let kept = missing > 0 || taken.is_some_and(|source| source.damaged);
        let _ = if kept {
            storage.rename((FOLDER, &name), (FOLDER, &format!("{}.damaged", log_name(number))))
        } else {
            storage.remove(FOLDER, &name)
        };
    }

    /// When [`RejectedStore::maintain`] should be called next; `counted` as there.
    pub(super) fn deadline(&self, counted: bool) -> Option<Instant> {
        let rewrite = self.rewrite_at.filter(|_| counted);
        self.retry.map(|retry| retry.at).into_iter().chain(rewrite).min()
    }

    /// Why a part of it cannot be read.
    pub(super) fn unread(&self) -> Option<StorageError> {
        self.sources.values().find_map(|source| source.unread)
    }

    /// Records lost from it since it was opened.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// For the witness: the number of the next entry of the current file, and the number of
    /// entries.
    pub(super) fn seen(&self) -> (u64, u64) {
        self.current.map_or((0, 0), |_| (self.next_entry, self.index.entries.len() as u64))
    }

    /// All entries, oldest first.
    pub(super) fn entries(&self) -> impl Iterator<Item = &RejectedEntry> {
        self.index.entries.values()
    }

    /// The number of entries.
    pub(super) fn len(&self) -> usize {
        self.index.entries.len()
    }

    pub(super) fn entry(&self, number: u64) -> Option<&RejectedEntry> {
        self.index.entries.get(&number)
    }

    /// How many of its entries have a reason that is no reason code.
    pub(super) fn own_reasons(&self) -> OwnReasons {
        OwnReasons(self.index.own_reasons)
    }

    /// The bytes of its entries.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Bytes of frames for which there is room.
    pub(super) fn room(&self) -> u64 {
        self.max_bytes.saturating_sub(self.live_bytes + u64::from(HEADER_BLOCK))
    }

    /// Reads the body of an entry's reading; `None` if there is no such entry or its checksum is
    /// wrong.
    ///
    /// # Errors
    /// The disk failed to read it.
    pub(super) fn read(&self, number: u64) -> Result<Option<Vec<u8>>, StorageError> {
        let Some(entry) = self.index.entries.get(&number) else { return Ok(None) };
        let Some(frame) = self.read_frame(entry, false)? else { return Ok(None) };
        Ok(frame.get(HEADER + FIXED..).map(<[u8]>::to_vec))
    }

    /// Reads the frame of an entry; `None` if its checksum is wrong.
    fn read_frame(&self, entry: &RejectedEntry, fresh: bool) -> Result<Option<Vec<u8>>, StorageError> {
        let source = self.sources.get(&entry.source).ok_or(StorageError::Missing)?;
        let file = source.file.as_ref().ok_or(StorageError::Other(EIO))?;
        if fresh {
            file.forget_cache();
        }
        let mut bytes = Vec::new();
        scan::read_region(file, entry.offset, entry.length as usize, &mut bytes)?;
        let valid = matches!(frame::parse(&bytes, source.seed), frame::Parsed::Valid(_));
        Ok(valid.then_some(bytes))
    }

    /// Adds records durably, all or none.
    pub(super) fn add(
        &mut self,
        now: Instant,
        storage: &S,
        records: &[(Lane, RecordId, u8, Vec<u8>)],
    ) -> Result<(), RejectError> {
        let mut bytes = Vec::new();
        let mut places = Vec::new();
        for (index, (lane, id, reason, reading)) in records.iter().enumerate() {
            places.push(bytes.len());
            let number = self.next_entry + index as u64;
            frame::encode(&mut bytes, Kind::Rejected, number, |out| {
                out.extend_from_slice(&[*reason, *lane as u8, 0, 0, 0, 0, 0, 0]);
                out.extend_from_slice(&id.run.to_le_bytes());
                out.extend_from_slice(&id.sequence.to_le_bytes());
                out.extend_from_slice(reading);
            });
        }
        if bytes.len() as u64 > self.room() {
            return Err(RejectError::Full);
        }
        let full = u64::from(self.end) + bytes.len() as u64 > self.max_bytes;
        if self.current.is_none() || self.broken || full {
            self.rewrite(now, storage, &[]).map_err(RejectError::Disk)?;
        }
        let begin = self.append(&mut bytes).map_err(RejectError::Disk)?;
        let source = self.number;
        for (index, at) in places.into_iter().enumerate() {
            let number = self.next_entry + index as u64;
            let length = frame::encoded_length(&bytes[at..]);
            let body = &bytes[at + HEADER..at + length];
            if let Some(entry) = parse_entry(number, source, begin + at as u32, body) {
                self.live_bytes += entry.bytes();
                self.index.insert(entry);
            }
        }
        self.next_entry += records.len() as u64;
        Ok(())
    }

    /// Removes records durably.
    pub(super) fn remove(&mut self, now: Instant, storage: &S, numbers: &[u64]) -> Result<(), StorageError> {
        let there: Vec<u64> =
            numbers.iter().copied().filter(|number| self.index.entries.contains_key(number)).collect();
        let mut bytes = Vec::new();
        for number in &there {
            frame::encode(&mut bytes, Kind::Removed, *number, |_| ());
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let appended = !self.broken
            && u64::from(self.end) + bytes.len() as u64 <= self.max_bytes + u64::from(OVER)
            && self.append(&mut bytes).is_ok();
        let kept = (self.index.clone(), self.live_bytes, self.gone.clone());
        for number in there {
            self.forget(number);
            if self.has_others() {
                self.gone.insert(number);
            }
        }
        if appended {
            return Ok(());
        }
        self.rewrite(now, storage, &[]).inspect_err(|_| {
            (self.index, self.live_bytes, self.gone) = kept;
        })
    }

    fn append(&mut self, bytes: &mut [u8]) -> Result<u32, StorageError> {
        let source =
            self.current.and_then(|number| self.sources.get(&number)).ok_or(StorageError::Missing)?;
        let file = source.file.as_ref().ok_or(StorageError::Missing)?;
        let mut at = 0;
        while at < bytes.len() {
            at += frame::seal(&mut bytes[at..], source.seed, at == 0);
        }
        let begin = self.end;
        match file.write_at(u64::from(begin), bytes).and_then(|()| file.sync()) {
            Ok(()) => {
                self.end += bytes.len() as u32;
                Ok(begin)
            }
            Err(error) => {
                self.broken = true;
                Err(error)
            }
        }
    }

    /// Whether one of the files that are no longer written still has the name of a current file.
    fn has_older_log(&self) -> bool {
        let others = self.sources.iter().filter(|(number, _)| Some(**number) != self.current);
        others.into_iter().any(|(_, source)| source.name.ends_with(".log"))
    }

    /// Whether there are files that are no longer written.
    fn has_others(&self) -> bool {
        self.sources.keys().any(|number| Some(*number) != self.current)
    }

    /// Writes the entries of the current file and of those in `merged` to a new file, which
    /// replaces it when it is durable.
    fn rewrite(&mut self, now: Instant, storage: &S, merged: &[u64]) -> Result<(), StorageError> {
        let mut checked = self.check(storage, merged);
        if let (Err(_), Some(current), true) = (&checked, self.current, merged.is_empty()) {
            // It cannot be read completely: it is put by, and new entries go to another file.
            self.put_by(now, storage, current);
            checked = self.check(storage, merged);
        }
        let (kept, damaged) = checked?;
        let number = self.number + 1;
        let new = format!("{number:016x}.new");
        self.salt = self.salt.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(number);
        let header = Header {
            lane: LANE,
            size: 0,
            number,
            // The number of entries that were in an earlier file.
            run: kept.len() as u64,
            salt: self.salt,
            first_sequence: self.next_entry,
            boot: [0; 16],
            released: 0,
            // 1: an earlier file that could not be renamed still counts.
            uncertain_from: u64::from(self.has_older_log()),
        };
        // Left from a failed attempt; it usually does not exist.
        storage.remove(FOLDER, &new)?;
        let file = storage.create(FOLDER, &new)?;
        // After the rename the new file counts, even if the rename is not known to be durable, so
        // the old one must not grow.
        self.broken = true;
        let written = self.write_entries(storage, &file, &header, &new, kept);
        let (entries, end) = written.inspect_err(|_| {
            let _ = storage.remove(FOLDER, &new);
        })?;
        if let Some(old) = self.current.and_then(|number| self.sources.remove(&number)) {
            // If it remains, the next opening deletes it, because the higher number counts.
            let _ = if old.damaged || !damaged.is_empty() {
                storage.rename((FOLDER, &old.name), (FOLDER, &format!("{}.damaged", old.name)))
            } else {
                storage.remove(FOLDER, &old.name)
            };
        }
        self.lost += damaged.len() as u64;
        for number in damaged {
            self.forget(number);
        }
        self.rewrite_at = None;
        for entry in entries.into_values() {
            self.index.insert(entry);
        }
        self.number = number;
        self.end = end;
        self.current = Some(number);
        let name = log_name(number);
        let source = Source { file: Some(file), name, seed: header.seed(), unread: None, damaged: false };
        self.sources.insert(number, source);
        self.broken = false;
        Ok(())
    }

    /// The entries of the current file and of those in `merged`, and the numbers of entries with
    /// wrong checksums in two readings.
    fn check(&self, storage: &S, merged: &[u64]) -> Result<(Vec<RejectedEntry>, Vec<u64>), StorageError> {
        let is_meant =
            |entry: &&RejectedEntry| Some(entry.source) == self.current || merged.contains(&entry.source);
        let (mut kept, mut damaged) = (Vec::new(), Vec::new());
        let mut looked_again = false;
        for entry in self.index.entries.values().filter(is_meant) {
            let mut frame = self.read_frame(entry, false)?;
            if frame.is_none() {
                if !std::mem::replace(&mut looked_again, true) {
                    storage.wait_for_second_look();
                }
                frame = self.read_frame(entry, true)?;
            }
            match frame {
                Some(_) => kept.push(*entry),
                None => damaged.push(entry.number),
            }
        }
        Ok((kept, damaged))
    }

    fn write_entries(
        &self,
        storage: &S,
        file: &S::File,
        header: &Header,
        name: &str,
        kept: Vec<RejectedEntry>,
    ) -> Result<(BTreeMap<u64, RejectedEntry>, u32), StorageError> {
        let mut entries = BTreeMap::new();
        let mut bytes = header.encode_block();
        let mut written = 0;
        let mut put = |frame: &mut Vec<u8>| -> Result<u32, StorageError> {
            frame.resize(frame::padded(frame.len()), 0);
            frame::seal(frame, header.seed(), true);
            let offset = written + bytes.len() as u32;
            bytes.extend_from_slice(frame);
            if bytes.len() >= WRITE_BYTES {
                file.write_at(u64::from(written), &bytes)?;
                written += bytes.len() as u32;
                bytes.clear();
            }
            Ok(offset)
        };
        for entry in kept {
            let mut frame = self.read_frame(&entry, false)?.ok_or(StorageError::Other(EIO))?;
            let offset = put(&mut frame)?;
            entries.insert(entry.number, RejectedEntry { source: header.number, offset, ..entry });
        }
        // Entries removed from a file that is no longer written must stay removed when it is read
        // again.
        for number in self.gone.iter().filter(|_| self.has_others()) {
            let mut frame = Vec::new();
            frame::encode(&mut frame, Kind::Removed, *number, |_| ());
            put(&mut frame)?;
        }
        file.write_at(u64::from(written), &bytes)?;
        written += bytes.len() as u32;
        file.sync()?;
        storage.rename((FOLDER, name), (FOLDER, &log_name(header.number)))?;
        storage.sync_folder(FOLDER)?;
        Ok((entries, written))
    }
}

/// Reads a file of the store. `next`: least number of the next entry; `fresh`: bypass the page
/// cache.
fn load<S: Storage>(
    storage: &S,
    name: &str,
    number: u64,
    next: u64,
    fresh: bool,
) -> Result<Loaded<S::File>, LoadError> {
    let sizes = storage.list(FOLDER).map_err(LoadError::Io)?;
    let size = sizes.iter().find(|(listed, _)| listed == name).map_or(0, |(_, size)| *size);
    let file = storage.open(FOLDER, name).map_err(LoadError::Io)?;
    if fresh {
        file.forget_cache();
    }
    let header = match read_header(&file).map_err(LoadError::Io)? {
        HeaderBlock::Valid(header, _) if header.lane == LANE && header.number == number => header,
        HeaderBlock::OtherVersion(major) => return Err(LoadError::OtherVersion(major)),
        _ => return Err(LoadError::Damaged),
    };
    let limit = size.min(u64::from(u32::MAX / 2)) as u32;
    let mut scanner = Scanner::new(&file, header.seed(), HEADER_BLOCK, limit, BAD_PAGES);
    let (mut entries, mut removed) = (BTreeMap::new(), BTreeSet::new());
    let (mut end, mut carried, mut commits) = (HEADER_BLOCK, 0, 0u64);
    let mut next_entry = header.first_sequence;
    // Missing numbers: how many, and how many commits had begun before them.
    let mut absent: Vec<(u64, u64)> = Vec::new();
    let mut removed_absent = 0;
    while let Some((offset, frame)) = scanner.next_frame() {
        end = offset + frame.step() as u32;
        let begins_commit = frame.begins_commit;
        match frame.kind {
            Kind::Rejected => {
                if frame.sequence < header.first_sequence {
                    carried += 1;
                } else if frame.sequence >= next_entry {
                    absent.push((frame.sequence - next_entry, commits));
                    next_entry = frame.sequence + 1;
                }
                if let Some(entry) = parse_entry(frame.sequence, number, offset, frame.body) {
                    entries.insert(frame.sequence, entry);
                }
            }
            Kind::Removed => {
                let there = entries.remove(&frame.sequence).is_some();
                let first = removed.insert(frame.sequence);
                // Its entry is damaged, but was removed anyway.
                removed_absent += u64::from(first && !there && frame.sequence >= header.first_sequence);
            }
            _ => {}
        }
        commits += u64::from(begins_commit);
    }
    let unread = match scanner.failed() {
        Some(error) => return Err(LoadError::Io(error)),
        None => scanner.has_hole(0, u32::MAX).then_some(StorageError::Other(EIO)),
    };
    // An entry torn by a crash, without a commit after it, was not rejected yet: its record is in
    // its lane.
    let mut missing: u64 = absent.iter().filter(|(_, at)| commits > *at).map(|(count, _)| count).sum();
    missing += next.saturating_sub(next_entry);
    missing = missing.saturating_sub(removed_absent) + header.run.saturating_sub(carried);
    if unread.is_some() {
        missing = 0;
    }
    next_entry = next_entry.max(next);
    let entries = entries.into_values().collect();
    Ok(Loaded { file, header, entries, removed, end, missing, next_entry, unread })
}

/// The content of one file of the store: records, missing records, and why a part could not be
/// read.
///
/// # Errors
/// The read error; `None` if its header is invalid.
pub(super) fn inspect<S: Storage>(
    storage: &S,
    name: &str,
    number: u64,
) -> Result<(u64, u64, Option<StorageError>), Option<StorageError>> {
    match load::<S>(storage, name, number, 0, true) {
        Ok(loaded) => Ok((loaded.entries.len() as u64, loaded.missing, loaded.unread)),
        Err(LoadError::Io(error)) => Err(Some(error)),
        Err(LoadError::Damaged | LoadError::OtherVersion(_)) => Err(None),
    }
}

fn log_name(number: u64) -> String {
    format!("{number:016x}.log")
}

fn unreadable_name(number: u64) -> String {
    format!("{}.unreadable", log_name(number))
}

fn parse_entry(number: u64, source: u64, offset: u32, body: &[u8]) -> Option<RejectedEntry> {
    let mut fields = Fields(body);
    let reason = fields.u8()?;
    let lane = *Lane::ALL.get(usize::from(fields.u8()?))?;
    fields.bytes(6)?;
    let id = RecordId { run: fields.u64()?, sequence: fields.u64()? };
    record::decode(fields.0)?;
    let length = (HEADER + body.len()) as u32;
    Some(RejectedEntry { number, lane, id, reason, source, offset, length })
}
