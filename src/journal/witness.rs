//! The witness: the state after the last commit, written after each commit without a sync.
//! docs/journal-format.md §8.
//!
//! Correctness does not depend on it. It answers one question that the segments cannot: whether
//! records are missing at their end, where no later frame tells. It is never ahead of the segments.
//! After a process ends it is up to date, because the page cache survives; after a power cut it is
//! as old as the last writeback of the page, usually at most 30 s.

use super::frame::{Fields, SEQUENCE_MAX};
use super::storage::{Folder, Storage, StorageError, StoredFile};

/// The name of its file in the journal's directory.
pub const NAME: &str = "witness";
/// Size of the file in bytes: two slots in two pages, written alternately.
const SIZE: usize = 8192;
const SLOT: usize = 4096;
const RECORD: usize = 128;
const MAGIC: &[u8; 8] = b"TOMBSEEN";
const VERSION: u16 = 1;

/// The state of one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneWitness {
    /// The sequence of the next record.
    pub next_sequence: u64,
    /// All records up to this sequence were durably released.
    pub released: u64,
    /// The last run in its newest segment; 0 if there was none. If another run follows it, a
    /// version without a witness has written since.
    pub run: u64,
    /// The number of its newest segment; 0 if there was none.
    pub number: u64,
}

impl Default for LaneWitness {
    fn default() -> LaneWitness {
        LaneWitness { next_sequence: 1, released: 0, run: 0, number: 0 }
    }
}

/// The state after a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Witness {
    /// The lanes, by [`Lane::index`](crate::message::Lane::index).
    pub lanes: [LaneWitness; 2],
    /// Number of the next entry of the rejected store, and the number of entries.
    pub rejected: (u64, u64),
}

impl Witness {
    fn encode(&self, counter: u64) -> [u8; RECORD] {
        let mut out = [0; RECORD];
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        let [high, normal] =
            self.lanes.map(|lane| [lane.next_sequence, lane.released, lane.run, lane.number]);
        let rejected = [self.rejected.0, self.rejected.1];
        let values = [counter].into_iter().chain(high).chain(normal).chain(rejected);
        for (index, value) in values.enumerate() {
            out[16 + index * 8..24 + index * 8].copy_from_slice(&value.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out[..RECORD - 4]);
        out[RECORD - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<(u64, Witness)> {
        let record = bytes.get(..RECORD)?;
        if record[RECORD - 4..] != crc32c::crc32c(&record[..RECORD - 4]).to_le_bytes() {
            return None;
        }
        let mut fields = Fields(record);
        if fields.bytes(8)? != MAGIC || fields.u16()? != VERSION {
            return None;
        }
        fields.bytes(6)?;
        let counter = fields.u64()?;
        let mut lane = || {
            let (next_sequence, released) = (fields.u64()?, fields.u64()?);
            Some(LaneWitness { next_sequence, released, run: fields.u64()?, number: fields.u64()? })
        };
        let lanes = [lane()?, lane()?];
        let witness = Witness { lanes, rejected: (fields.u64()?, fields.u64()?) };
        let is_sound =
            |lane: &LaneWitness| lane.next_sequence <= SEQUENCE_MAX && lane.released < lane.next_sequence;
        let sound = witness.lanes.iter().all(is_sound)
            && witness.rejected.0 <= SEQUENCE_MAX
            && witness.rejected.1 < witness.rejected.0.max(1);
        sound.then_some((counter, witness))
    }
}

/// The witness file.
pub(super) struct WitnessFile<S: Storage> {
    file: Option<S::File>,
    counter: u64,
    /// The last content written or read.
    last: Option<Witness>,
    /// Whether it is not completely durable.
    dirty: bool,
    /// Whether it replaced another file, which may reappear after a power cut until the folder is
    /// synced.
    renewed: bool,
}

impl<S: Storage> WitnessFile<S> {
    /// Reads the file; `None` if it does not exist or is invalid.
    pub(super) fn open(storage: &S) -> (WitnessFile<S>, Option<Witness>) {
        let file = storage.open(Folder::Top, NAME).ok();
        let mut bytes = vec![0; SIZE];
        let read = file.as_ref().and_then(|file| file.read_at(0, &mut bytes).ok()).unwrap_or(0);
        bytes.truncate(read);
        let slots = [0, SLOT].map(|at| bytes.get(at..).and_then(Witness::decode));
        let newest = slots.into_iter().flatten().max_by_key(|(counter, _)| *counter);
        let counter = newest.map_or(0, |(counter, _)| counter);
        let witness = newest.map(|(_, witness)| witness);
        (WitnessFile { file, counter, last: witness, dirty: false, renewed: false }, witness)
    }

    /// The last content written or read.
    pub(super) fn last(&self) -> Option<Witness> {
        self.last
    }

    /// Writes the state after a commit.
    pub(super) fn note(&mut self, storage: &S, witness: Witness) {
        if self.last != Some(witness) && self.try_note(storage, witness).is_err() {
            // An outdated witness is allowed.
            (self.file, self.last) = (None, None);
        }
    }

    /// Makes it durable, or else deletes it, before files are recycled that an older witness would
    /// report as containing records. Returns false if neither is possible now.
    pub(super) fn sync(&mut self, storage: &S) -> bool {
        let in_place = |renewed: bool| !renewed || storage.sync_folder(Folder::Top).is_ok();
        let synced = |file: &S::File| file.sync().is_ok() && in_place(self.renewed);
        if !self.dirty || self.file.as_ref().is_some_and(synced) {
            (self.dirty, self.renewed) = (false, false);
            return true;
        }
        (self.file, self.last) = (None, None);
        let gone = storage.remove(Folder::Top, NAME).and_then(|()| storage.sync_folder(Folder::Top));
        self.dirty = gone.is_err();
        !self.dirty
    }

    fn try_note(&mut self, storage: &S, witness: Witness) -> Result<(), StorageError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                (self.dirty, self.renewed) = (true, true);
                storage.remove(Folder::Top, NAME)?;
                let file = storage.create(Folder::Top, NAME)?;
                file.write_at(0, &[0; SIZE])?;
                file
            }
        };
        self.counter += 1;
        let at = if self.counter.is_multiple_of(2) { 0 } else { SLOT };
        self.dirty = true;
        file.write_at(at as u64, &witness.encode(self.counter))?;
        self.file = Some(file);
        self.last = Some(witness);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_a_flipped_bit_is_noticed() {
        let high = LaneWitness { next_sequence: 5, released: 2, run: 77, number: 3 };
        let normal = LaneWitness { next_sequence: 1 << 40, released: 7, run: u64::MAX, number: 9 };
        let witness = Witness { lanes: [high, normal], rejected: (9, 4) };
        let bytes = witness.encode(77);
        assert_eq!(Witness::decode(&bytes), Some((77, witness)));
        for bit in 0..RECORD * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Witness::decode(&flipped), None, "bit {bit}");
        }
    }
}
