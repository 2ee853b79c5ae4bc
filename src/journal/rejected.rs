//! The rejected store: records the broker refused for good, kept until their owner decides. docs/journal-format.md §5.

use std::collections::BTreeMap;

use super::frame::{self, Fields, HEADER, Kind};
use super::record;
use super::scan::{self, Scanner};
use super::segment::{self, HEADER_BLOCK, Header, HeaderBlock};
use super::storage::{Folder, Storage, StorageError, StoredFile};
use crate::message::{Lane, RecordId};

/// The lane byte of its header.
const LANE: u8 = 2;
const FIXED: usize = 24;
/// Room beyond the bound for Removed frames, so that a full store can be emptied.
const OVER: u32 = 64 * 1024;
const FOLDER: Folder = Folder::Rejected;

/// What is known of a rejected record without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectedEntry {
    /// Its number in the store.
    pub number: u64,
    /// The lane it was in.
    pub lane: Lane,
    /// The id it had there.
    pub id: RecordId,
    /// The PUBACK's reason code.
    pub reason: u8,
    offset: u32,
    length: u32,
}

/// Why a record could not be put into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectError {
    /// It is full.
    Full,
    /// The disk did not take it.
    Disk(StorageError),
}

pub(super) struct RejectedStore<S: Storage> {
    max_bytes: u64,
    file: Option<S::File>,
    number: u64,
    seed: u32,
    salt: u64,
    end: u32,
    live_bytes: u64,
    next_entry: u64,
    entries: BTreeMap<u64, RejectedEntry>,
    /// A write or sync failed: the file must be written anew before anything is added.
    broken: bool,
}

impl<S: Storage> RejectedStore<S> {
    /// Reads the store. A damaged entry is left out; how many are missing cannot be known, so they are not counted.
    ///
    /// # Errors
    /// As the storage says.
    pub(super) fn open(storage: &S, max_bytes: u64, salt: u64) -> Result<Self, StorageError> {
        let mut store = RejectedStore {
            // Offsets are 32 bits wide.
            max_bytes: max_bytes.min(1 << 30),
            file: None,
            number: 0,
            seed: 0,
            salt,
            end: HEADER_BLOCK,
            live_bytes: 0,
            next_entry: 1,
            entries: BTreeMap::new(),
            broken: false,
        };
        let mut numbers = Vec::new();
        for (name, size) in storage.list(FOLDER)? {
            if let Some(number) = segment::parse_name(&name, "log") {
                numbers.push((number, size));
            } else if segment::parse_name(&name, "new").is_some() {
                // Half written; if it cannot be deleted it is met again.
                let _ = storage.remove(FOLDER, &name);
            }
        }
        numbers.sort_unstable();
        while let Some((number, size)) = numbers.pop() {
            store.number = store.number.max(number);
            let file = storage.open(FOLDER, &log_name(number))?;
            let mut block = Vec::new();
            scan::read_region(&file, 0, HEADER_BLOCK as usize, &mut block);
            match Header::parse_block(&block) {
                HeaderBlock::Valid(header, _) if header.lane == LANE && header.number == number => {
                    store.load(file, &header, size);
                    break;
                }
                _ => {
                    let name = log_name(number);
                    let _ = storage.rename((FOLDER, &name), (FOLDER, &format!("{name}.damaged")));
                }
            }
        }
        for (number, _) in numbers {
            let _ = storage.remove(FOLDER, &log_name(number));
        }
        Ok(store)
    }

    fn load(&mut self, file: S::File, header: &Header, size: u64) {
        self.seed = header.seed();
        self.next_entry = header.first_sequence;
        let limit = size.min(u64::from(u32::MAX / 2)) as u32;
        let mut scanner = Scanner::new(&file, self.seed, HEADER_BLOCK, limit);
        while let Some((offset, frame)) = scanner.next_frame() {
            self.end = offset + frame.step() as u32;
            match frame.kind {
                Kind::Rejected => {
                    if let Some(entry) = parse_entry(frame.sequence, offset, frame.body) {
                        self.live_bytes += frame.step() as u64;
                        self.next_entry = self.next_entry.max(frame.sequence + 1);
                        self.entries.insert(frame.sequence, entry);
                    }
                }
                Kind::Removed => self.forget(frame.sequence),
                _ => {}
            }
        }
        self.file = Some(file);
    }

    fn forget(&mut self, number: u64) {
        if let Some(entry) = self.entries.remove(&number) {
            self.live_bytes -= frame::padded(entry.length as usize) as u64;
        }
    }

    /// All entries, oldest first.
    pub(super) fn entries(&self) -> impl Iterator<Item = &RejectedEntry> {
        self.entries.values()
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn entry(&self, number: u64) -> Option<&RejectedEntry> {
        self.entries.get(&number)
    }

    /// Bytes its entries take.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Bytes of frames that still find room.
    pub(super) fn room(&self) -> u64 {
        self.max_bytes.saturating_sub(self.live_bytes + u64::from(HEADER_BLOCK))
    }

    /// The body of the reading of an entry.
    pub(super) fn read(&self, number: u64) -> Option<Vec<u8>> {
        let entry = self.entries.get(&number)?;
        let mut bytes = Vec::new();
        scan::read_region(self.file.as_ref()?, entry.offset, entry.length as usize, &mut bytes);
        match frame::parse(&bytes, self.seed) {
            frame::Parsed::Valid(frame) => Some(frame.body.get(FIXED..)?.to_vec()),
            _ => None,
        }
    }

    /// Puts records in, durably, all or none.
    pub(super) fn add(
        &mut self,
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
        if self.file.is_none() || self.broken || u64::from(self.end) + bytes.len() as u64 > self.max_bytes {
            self.rewrite(storage).map_err(RejectError::Disk)?;
        }
        let begin = self.append(&mut bytes).map_err(RejectError::Disk)?;
        for (index, at) in places.into_iter().enumerate() {
            let number = self.next_entry + index as u64;
            let length = frame::encoded_length(&bytes[at..]);
            if let Some(entry) = parse_entry(number, begin + at as u32, &bytes[at + HEADER..at + length]) {
                self.live_bytes += frame::padded(length) as u64;
                self.entries.insert(number, entry);
            }
        }
        self.next_entry += records.len() as u64;
        Ok(())
    }

    /// Takes records out, durably.
    pub(super) fn remove(&mut self, storage: &S, numbers: &[u64]) -> Result<(), StorageError> {
        let mut bytes = Vec::new();
        for number in numbers.iter().filter(|number| self.entries.contains_key(number)) {
            frame::encode(&mut bytes, Kind::Removed, *number, |_| ());
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let appended = !self.broken
            && u64::from(self.end) + bytes.len() as u64 <= self.max_bytes + u64::from(OVER)
            && self.append(&mut bytes).is_ok();
        if appended {
            numbers.iter().for_each(|number| self.forget(*number));
            return Ok(());
        }
        let kept = self.entries.clone();
        let live_bytes = self.live_bytes;
        numbers.iter().for_each(|number| self.forget(*number));
        self.rewrite(storage).inspect_err(|_| {
            self.entries = kept;
            self.live_bytes = live_bytes;
        })
    }

    fn append(&mut self, bytes: &mut [u8]) -> Result<u32, StorageError> {
        let Some(file) = &self.file else { return Err(StorageError::Missing) };
        let mut at = 0;
        while at < bytes.len() {
            at += frame::seal(&mut bytes[at..], self.seed, at == 0);
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

    /// Writes all entries to a new file, which takes the place of the old one once it is durable.
    fn rewrite(&mut self, storage: &S) -> Result<(), StorageError> {
        let number = self.number + 1;
        let new = format!("{number:016x}.new");
        self.salt = self.salt.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(number);
        let header = Header {
            lane: LANE,
            size: 0,
            number,
            run: 0,
            salt: self.salt,
            first_sequence: self.next_entry,
            boot: [0; 16],
            released: 0,
        };
        // Left behind by an attempt that failed; most often it is not there.
        let _ = storage.remove(FOLDER, &new);
        let file = storage.create(FOLDER, &new)?;
        // Once it is renamed the new file counts, even if that is not known to be durable: the old one must not grow.
        self.broken = true;
        let written = self.write_entries(storage, &file, &header, &new);
        let (entries, end) = written.inspect_err(|_| {
            let _ = storage.remove(FOLDER, &new);
        })?;
        if self.file.is_some() {
            // If it stays, the next opening deletes it: the higher number counts.
            let _ = storage.remove(FOLDER, &log_name(self.number));
        }
        self.live_bytes = entries.values().map(|e| frame::padded(e.length as usize) as u64).sum();
        self.entries = entries;
        self.seed = header.seed();
        self.number = number;
        self.end = end;
        self.file = Some(file);
        self.broken = false;
        Ok(())
    }

    fn write_entries(
        &self,
        storage: &S,
        file: &S::File,
        header: &Header,
        name: &str,
    ) -> Result<(BTreeMap<u64, RejectedEntry>, u32), StorageError> {
        let mut entries = BTreeMap::new();
        let mut bytes = header.encode_block();
        let mut written = 0;
        for (number, entry) in &self.entries {
            let mut frame = Vec::new();
            if let Some(old) = &self.file {
                scan::read_region(old, entry.offset, entry.length as usize, &mut frame);
            }
            if !matches!(frame::parse(&frame, self.seed), frame::Parsed::Valid(_)) {
                // Damaged meanwhile: it stays behind with the old file.
                continue;
            }
            frame.resize(frame::padded(frame.len()), 0);
            frame::seal(&mut frame, header.seed(), true);
            entries.insert(*number, RejectedEntry { offset: written + bytes.len() as u32, ..*entry });
            bytes.extend_from_slice(&frame);
            if bytes.len() >= 256 * 1024 {
                file.write_at(u64::from(written), &bytes)?;
                written += bytes.len() as u32;
                bytes.clear();
            }
        }
        file.write_at(u64::from(written), &bytes)?;
        written += bytes.len() as u32;
        file.sync()?;
        storage.rename((FOLDER, name), (FOLDER, &log_name(header.number)))?;
        storage.sync_folder(FOLDER)?;
        Ok((entries, written))
    }
}

fn log_name(number: u64) -> String {
    format!("{number:016x}.log")
}

fn parse_entry(number: u64, offset: u32, body: &[u8]) -> Option<RejectedEntry> {
    let mut fields = Fields(body);
    let reason = fields.u8()?;
    let lane = *Lane::ALL.get(usize::from(fields.u8()?))?;
    fields.bytes(6)?;
    let id = RecordId { run: fields.u64()?, sequence: fields.u64()? };
    record::decode(fields.0)?;
    let length = (HEADER + body.len()) as u32;
    Some(RejectedEntry { number, lane, id, reason, offset, length })
}
