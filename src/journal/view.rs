//! The view of a lane for its readers: the segments and their durable parts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::segment::Segment;

/// A lane as of its last commit. Cheap to clone.
#[derive(Debug)]
pub struct LaneView<F> {
    /// Sealed segments, oldest first.
    pub sealed: Arc<[Arc<Segment>]>,
    /// The active segment, if anything in it is durable.
    pub active: Option<ActiveView<F>>,
    /// Sequence of the next record to be committed.
    pub next_sequence: u64,
    /// All records up to this sequence are released.
    pub released: u64,
}

/// The durable part of the active segment.
#[derive(Debug)]
pub struct ActiveView<F> {
    /// Its marks and runs; its end is in `end`.
    pub segment: Arc<Segment>,
    /// Its file, for reading.
    pub file: Arc<F>,
    /// Where its durable frames end.
    pub end: u32,
    /// The bytes written to it last.
    pub recent: Arc<Recent>,
}

/// The bytes last written to a segment, in memory, so that records just committed are not read from
/// the disk.
#[derive(Debug, Default)]
pub struct Recent(Mutex<Tail>);

#[derive(Debug, Default)]
struct Tail {
    /// The offset of `bytes` in the file.
    base: u32,
    bytes: Vec<u8>,
}

/// Least number of bytes kept, if that many were written.
const KEPT: usize = 128 * 1024;

impl Recent {
    fn lock(&self) -> MutexGuard<'_, Tail> {
        // The data is consistent after each of the calls below, so a poisoned lock is harmless.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends what was written at `offset`.
    pub fn write(&self, offset: u32, bytes: &[u8]) {
        let mut tail = self.lock();
        if tail.base + tail.bytes.len() as u32 != offset {
            tail.base = offset;
            tail.bytes.clear();
        }
        if tail.bytes.len() + bytes.len() > 2 * KEPT {
            let gone = tail.bytes.len() - KEPT.saturating_sub(bytes.len()).min(tail.bytes.len());
            tail.bytes.drain(..gone);
        }
        tail.bytes.extend_from_slice(&bytes[bytes.len().saturating_sub(2 * KEPT)..]);
        tail.base = offset + bytes.len() as u32 - tail.bytes.len() as u32;
    }

    /// Reads `length` bytes from `offset` on into `out`; false if not all of them are kept.
    pub fn read(&self, offset: u32, length: u32, out: &mut Vec<u8>) -> bool {
        let tail = self.lock();
        let bytes = offset
            .checked_sub(tail.base)
            .and_then(|at| tail.bytes.get(at as usize..at as usize + length as usize));
        out.clear();
        out.extend_from_slice(bytes.unwrap_or_default());
        bytes.is_some()
    }
}

impl<F> Clone for LaneView<F> {
    fn clone(&self) -> Self {
        LaneView {
            sealed: self.sealed.clone(),
            active: self.active.clone(),
            next_sequence: self.next_sequence,
            released: self.released,
        }
    }
}

impl<F> Clone for ActiveView<F> {
    fn clone(&self) -> Self {
        ActiveView {
            segment: self.segment.clone(),
            file: self.file.clone(),
            end: self.end,
            recent: self.recent.clone(),
        }
    }
}

/// The location of a record.
#[derive(Debug)]
pub struct Place<'v, F> {
    /// Its segment.
    pub segment: &'v Arc<Segment>,
    /// Sequence of the segment's last durable record.
    pub last_sequence: u64,
    /// Where the segment's durable frames end.
    pub end: u32,
    /// The active segment, if that is it.
    pub active: Option<&'v ActiveView<F>>,
}

impl<F> LaneView<F> {
    /// The location of `sequence`, or of the first record after it; `None` after the last record.
    pub fn locate(&self, sequence: u64) -> Option<Place<'_, F>> {
        if sequence >= self.next_sequence {
            return None;
        }
        if let Some(active) = self.active.as_ref().filter(|a| a.segment.first_sequence <= sequence) {
            return Some(self.active_place(active));
        }
        let at = self.sealed.partition_point(|segment| segment.last_sequence < sequence);
        match self.sealed.get(at) {
            Some(segment) => {
                Some(Place { segment, last_sequence: segment.last_sequence, end: segment.end, active: None })
            }
            None => self.active.as_ref().map(|active| self.active_place(active)),
        }
    }

    fn active_place<'v>(&'v self, active: &'v ActiveView<F>) -> Place<'v, F> {
        Place {
            segment: &active.segment,
            last_sequence: self.next_sequence - 1,
            end: active.end,
            active: Some(active),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_last_is_read_back_and_nothing_else(
            lengths in proptest::collection::vec(1usize..200_000, 1..40),
        ) {
            let (recent, mut all) = (Recent::default(), vec![0; 8192]);
            for (index, length) in lengths.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..length).map(|at| (at * 7 + index) as u8).collect();
                recent.write(all.len() as u32, &bytes);
                all.extend_from_slice(&bytes);
                let kept = KEPT.min(all.len() - 8192);
                let mut out = Vec::new();
                prop_assert!(recent.read((all.len() - kept) as u32, kept as u32, &mut out));
                prop_assert_eq!(&out[..], &all[all.len() - kept..]);
                prop_assert!(!recent.read(all.len() as u32, 1, &mut out));
                prop_assert!(recent.lock().bytes.len() <= 2 * KEPT);
            }
        }
    }
}
