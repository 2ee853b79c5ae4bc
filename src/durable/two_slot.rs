//! A small record that is written often: two slots in one file, written in turn.
//!
//! An [atomic file](super::atomic_file) costs a new file, a rename and two syncs for each write.
//! Here a write goes into the slot that does not hold the newest version, and one `fdatasync`
//! follows. A torn write leaves the other slot.
//!
//! ```text
//! NAME   | slot 0 | slot 1 |     each a multiple of 4096 bytes
//! slot   magic 4 | major 1, minor 1 | unused 2 | generation 8 | length 4 | CRC 4 | content
//! ```
//!
//! Integers are little-endian; the CRC (CRC-32C) covers bytes 0–19 and the content. The generation
//! counts the writes from 1; the highest is the newest.
//!
//! | at the moment of a power cut | what is read afterwards |
//! |---|---|
//! | the file is being made, its name not yet durable | nothing, or the first version |
//! | within a write | the version before, or the new one; never neither |
//! | behind a write that returned `Ok` | the new one |
//!
//! # What is damage
//!
//! A slot that was read and holds neither zeros nor a version, twice, the second time past the page
//! cache ([`Storage::pause`]). Then the other slot counts. Whether a damaged slot held a version
//! that was durable, or one whose write was torn, nothing can tell; [`TwoSlot::conditions`] says
//! that there is one.
//!
//! A slot that the disk does not give (EIO) is no damage. It may hold a newer version than the
//! other one: then [`TwoSlot::read`] is an error, the older version can be had only by asking for
//! it ([`TwoSlot::last_known`]), and [`TwoSlot::write`] reads it again before it writes anything.

use std::io;
use std::time::Duration;

use super::storage::{Storage, StoredFile};

/// Bytes in front of a slot's content.
const HEAD: usize = 24;
/// What a disk writes at once, or a multiple of it.
const PAGE: usize = 4096;
/// Before what looks damaged is read once more.
const SECOND_LOOK: Duration = Duration::from_secs(1);
const MINOR: u8 = 0;
/// So many files without a sound slot are kept; a later one is deleted.
const ASIDE_MAX: u32 = 8;

/// One kind of record.
#[derive(Clone, Copy, Debug)]
pub struct SlotFormat {
    /// The file's name in its folder. `NAME.new` is it while it is made, `NAME.damaged-N` one of
    /// which no slot is sound any more.
    pub name: &'static str,
    /// The first bytes of each slot.
    pub magic: [u8; 4],
    /// A slot of another major version is not read, and not written over.
    pub major: u8,
    /// Most bytes of content.
    pub content_max: usize,
}

/// What a slot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotCondition {
    /// It was never written to.
    Empty,
    /// The version of this generation.
    Sound(u64),
    /// It was read, and is not what was written: why, in half a sentence.
    Damaged(String),
    /// Of this major version.
    OtherVersion(u8),
    /// The disk does not give it: what the system says.
    Unreadable(String),
}

/// A slot's content, as it was parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Slot {
    Empty,
    Sound { generation: u64, content: Vec<u8> },
    Damaged(String),
    OtherVersion(u8),
    Unreadable(String),
}

impl Slot {
    fn generation(&self) -> Option<u64> {
        match self {
            Slot::Sound { generation, .. } => Some(*generation),
            _ => None,
        }
    }

    fn condition(&self) -> SlotCondition {
        match self {
            Slot::Empty => SlotCondition::Empty,
            Slot::Sound { generation, .. } => SlotCondition::Sound(*generation),
            Slot::Damaged(why) => SlotCondition::Damaged(why.clone()),
            Slot::OtherVersion(major) => SlotCondition::OtherVersion(*major),
            Slot::Unreadable(why) => SlotCondition::Unreadable(why.clone()),
        }
    }
}

impl SlotFormat {
    /// Bytes from one slot to the next.
    fn stride(&self) -> usize {
        (HEAD + self.content_max).next_multiple_of(PAGE)
    }

    /// The newest sound version in a whole file that somebody else wrote.
    pub fn newest_in(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let slots = bytes.chunks_exact(self.stride()).take(2).map(|slot| self.parse(slot));
        let sound = slots.filter_map(|slot| match slot {
            Slot::Sound { generation, content } => Some((generation, content)),
            _ => None,
        });
        sound.max_by_key(|(generation, _)| *generation).map(|(_, content)| content)
    }

    /// The file's length, in bytes.
    pub fn file_bytes(&self) -> u64 {
        2 * self.stride() as u64
    }

    pub(crate) fn encode(&self, generation: u64, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + content.len());
        out.extend(self.magic);
        out.extend([self.major, MINOR, 0, 0]);
        out.extend(generation.to_le_bytes());
        out.extend((content.len() as u32).to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out), content);
        out.extend(crc.to_le_bytes());
        out.extend(content);
        out
    }

    fn parse(&self, bytes: &[u8]) -> Slot {
        if bytes.len() < self.stride() {
            return Slot::Damaged("it is cut short".to_owned());
        }
        if bytes.iter().all(|byte| *byte == 0) {
            return Slot::Empty;
        }
        self.parse_sound(bytes).unwrap_or_else(|| Slot::Damaged("its checksum is wrong".to_owned()))
    }

    fn parse_sound(&self, bytes: &[u8]) -> Option<Slot> {
        let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
        let length = u32::from_le_bytes(*head[16..].first_chunk()?) as usize;
        let content = rest.get(..length)?;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head[..20]), content);
        if head[..4] != self.magic || head[20..] != crc.to_le_bytes() {
            return None;
        }
        let generation = u64::from_le_bytes(*head[8..].first_chunk()?);
        match head[4] {
            major if major != self.major => Some(Slot::OtherVersion(major)),
            _ if length > self.content_max || generation == 0 => None,
            _ => Some(Slot::Sound { generation, content: content.to_vec() }),
        }
    }
}

/// The open record.
pub struct TwoSlot<S: Storage> {
    storage: S,
    format: SlotFormat,
    /// `None`: there is none yet.
    file: Option<S::File>,
    slots: [Slot; 2],
    /// The highest generation that may be in the file.
    generation: u64,
    /// The newest version is known to be durable. One that was read may have come from the page
    /// cache, after a sync that failed in an earlier process.
    is_durable: bool,
}

impl<S: Storage> TwoSlot<S> {
    /// Reads what is there. Writes nothing.
    ///
    /// # Errors
    /// As the system says: the file is there and cannot be opened. What cannot be read of it is no
    /// error here.
    pub fn open(storage: S, format: SlotFormat) -> io::Result<TwoSlot<S>> {
        let file = match storage.open(format.name) {
            Ok((file, _)) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let slots = [Slot::Empty, Slot::Empty];
        let mut record = TwoSlot { storage, format, file, slots, generation: 0, is_durable: false };
        record.look();
        Ok(record)
    }

    /// Reads both slots.
    fn look(&mut self) {
        let Some(file) = &self.file else { return };
        let mut slots = [0, 1].map(|index| self.look_at(file, index));
        let is_damaged = |slot: &Slot| matches!(slot, Slot::Damaged(_));
        if slots.iter().any(is_damaged) && self.storage.pause(SECOND_LOOK) {
            file.forget_cached();
            slots = [0, 1].map(|index| self.look_at(file, index));
        }
        // The second generation is the other slot's, so it cannot be empty then.
        let newest = slots.iter().filter_map(Slot::generation).max().unwrap_or(0);
        if newest > 1 {
            for slot in slots.iter_mut().filter(|slot| **slot == Slot::Empty) {
                *slot = Slot::Damaged("it holds nothing but zeros".to_owned());
            }
        }
        self.generation = newest.max(self.generation);
        self.slots = slots;
    }

    fn look_at(&self, file: &S::File, index: usize) -> Slot {
        let mut bytes = vec![0; self.format.stride()];
        let at = (index * self.format.stride()) as u64;
        match file.read_at(at, &mut bytes).or_else(|_| file.read_at(at, &mut bytes)) {
            Ok(length) => self.format.parse(&bytes[..length]),
            Err(error) => Slot::Unreadable(error.to_string()),
        }
    }

    /// What each slot holds.
    pub fn conditions(&self) -> [SlotCondition; 2] {
        [self.slots[0].condition(), self.slots[1].condition()]
    }

    /// The newest version; `None`: there never was one, or none is left.
    ///
    /// # Errors
    /// A slot cannot be read, or is of another version: a newer version than the one that is known
    /// may be in it. [`TwoSlot::conditions`] says more.
    pub fn read(&self) -> io::Result<Option<&[u8]>> {
        let name = self.format.name;
        for slot in &self.slots {
            match slot {
                Slot::Unreadable(why) => {
                    return Err(io::Error::other(format!("a slot of {name} cannot be read: {why}")));
                }
                Slot::OtherVersion(major) => {
                    return Err(io::Error::other(format!("a slot of {name} is of version {major}")));
                }
                _ => {}
            }
        }
        Ok(self.last_known())
    }

    /// The newest version that can be read, though a newer one may be in the other slot.
    pub fn last_known(&self) -> Option<&[u8]> {
        let sound = self.slots.iter().filter_map(|slot| match slot {
            Slot::Sound { generation, content } => Some((*generation, &content[..])),
            _ => None,
        });
        sound.max_by_key(|(generation, _)| *generation).map(|(_, content)| content)
    }

    /// The generation of the newest version that can be read; 0: there is none.
    pub fn generation(&self) -> u64 {
        self.slots.iter().filter_map(Slot::generation).max().unwrap_or(0)
    }

    /// Makes a new version durable. A slot that could not be read is read once more before.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`]: it is longer than [`SlotFormat::content_max`]. As
    /// [`TwoSlot::read`]: nothing was written. As the system says: the version before is intact;
    /// the new one may be there or not until a write succeeds.
    pub fn write(&mut self, content: &[u8]) -> io::Result<()> {
        if content.len() > self.format.content_max {
            let max = self.format.content_max;
            let what = format!("{} has room for {max} bytes, not {}", self.format.name, content.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        if self.slots.iter().any(|slot| matches!(slot, Slot::Unreadable(_))) {
            self.look();
        }
        self.read()?;
        let generation = self.generation.saturating_add(1);
        let mut bytes = self.format.encode(generation, content);
        let is_damaged = |slot: &Slot| matches!(slot, Slot::Damaged(_));
        if self.generation() == 0 && self.slots.iter().any(is_damaged) {
            // Kept for a person who looks into it.
            self.set_aside()?;
            (self.file, self.slots) = (None, [Slot::Empty, Slot::Empty]);
        }
        let index = match &self.file {
            None => {
                self.make(&bytes)?;
                0
            }
            Some(file) => {
                let index = self.target();
                if !self.is_durable {
                    self.confirm(file, 1 - index)?;
                }
                if matches!(self.slots[index], Slot::Damaged(_)) {
                    // Perhaps the file ends before its end.
                    bytes.resize(self.format.stride(), 0);
                }
                // Whatever comes of it, the generation may be in the file from now on.
                self.generation = generation;
                file.write_at((index * self.format.stride()) as u64, &bytes)?;
                file.sync()?;
                index
            }
        };
        self.is_durable = true;
        self.generation = generation;
        self.slots[index] = Slot::Sound { generation, content: content.to_vec() };
        Ok(())
    }

    /// Writes the newest version once more where it is: before the other slot, which may hold the
    /// last durable one, is written over. The file's name may not be durable either: an earlier
    /// process may have ended behind the rename.
    fn confirm(&self, file: &S::File, index: usize) -> io::Result<()> {
        self.storage.sync_names()?;
        let Slot::Sound { generation, content } = &self.slots[index] else { return Ok(()) };
        let bytes = self.format.encode(*generation, content);
        file.write_at((index * self.format.stride()) as u64, &bytes)?;
        file.sync()
    }

    /// The slot that does not hold the newest version.
    fn target(&self) -> usize {
        usize::from(self.slots[0].generation() > self.slots[1].generation())
    }

    /// Makes the file, with the first version in it.
    fn make(&mut self, first: &[u8]) -> io::Result<()> {
        let new = format!("{}.new", self.format.name);
        let made = (|| {
            let file = self.storage.create(&new)?;
            let mut bytes = first.to_vec();
            bytes.resize(2 * self.format.stride(), 0);
            file.write_at(0, &bytes)?;
            file.sync()?;
            self.storage.rename(&new, self.format.name)?;
            self.storage.sync_names()?;
            Ok(file)
        })();
        match made {
            Ok(file) => {
                (self.file, self.slots) = (Some(file), [Slot::Empty, Slot::Empty]);
                Ok(())
            }
            Err(error) => {
                // The next attempt makes it anew.
                drop(self.storage.remove(&new));
                Err(error)
            }
        }
    }

    fn set_aside(&self) -> io::Result<()> {
        let name = self.format.name;
        let mut aside = (1..=ASIDE_MAX).map(|n| format!("{name}.damaged-{n}"));
        let moved = match aside.find(|aside| !self.storage.has(aside)) {
            Some(aside) => self.storage.rename(name, &aside),
            None => self.storage.remove(name),
        };
        match moved {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.storage.sync_names()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: SlotFormat = SlotFormat { name: "record", magic: *b"TBtt", major: 1, content_max: 100 };

    fn slot(bytes: &[u8]) -> Vec<u8> {
        let mut slot = bytes.to_vec();
        slot.resize(FORMAT.stride(), 0);
        slot
    }

    #[test]
    fn a_slot_is_read_as_it_was_written_and_as_nothing_else() {
        let bytes = FORMAT.encode(7, b"content");
        let sound = Slot::Sound { generation: 7, content: b"content".to_vec() };
        assert_eq!((FORMAT.parse(&slot(&bytes)), FORMAT.stride()), (sound, 4096));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = slot(&bytes);
                damaged[at] ^= 1 << bit;
                assert!(matches!(FORMAT.parse(&damaged), Slot::Damaged(_)), "{at}");
            }
        }
        assert!(matches!(FORMAT.parse(&bytes), Slot::Damaged(_)), "shorter than a slot");
        assert_eq!(FORMAT.parse(&slot(&[])), Slot::Empty);
    }

    #[test]
    fn another_version_is_told_from_damage_and_no_length_is_believed() {
        let other = SlotFormat { major: 9, ..FORMAT };
        assert_eq!(FORMAT.parse(&slot(&other.encode(3, b"x"))), Slot::OtherVersion(9));
        for length in [101u32, 4096, u32::MAX] {
            let mut bytes = slot(&FORMAT.encode(3, &[1; 100]));
            bytes[16..20].copy_from_slice(&length.to_le_bytes());
            assert!(matches!(FORMAT.parse(&bytes), Slot::Damaged(_)), "{length}");
        }
        assert!(matches!(FORMAT.parse(&slot(&FORMAT.encode(0, b"x"))), Slot::Damaged(_)));
    }
}
