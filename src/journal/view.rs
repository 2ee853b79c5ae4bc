//! What the writing end of a lane shows its readers: which segments there are and how far they are durable.

use std::sync::Arc;

use super::segment::Segment;

/// A lane as of its last commit. Cheap to clone.
#[derive(Debug)]
pub struct LaneView<F> {
    /// Sealed segments, oldest first.
    pub sealed: Arc<[Arc<Segment>]>,
    /// The one being written, if anything in it is durable.
    pub active: Option<ActiveView<F>>,
    /// Sequence of the next record to be committed.
    pub next_sequence: u64,
    /// All up to this one have left.
    pub released: u64,
}

/// The durable part of the segment being written.
#[derive(Debug)]
pub struct ActiveView<F> {
    /// Its marks and runs; its end is the one below.
    pub segment: Arc<Segment>,
    /// To read it.
    pub file: Arc<F>,
    /// Where its durable frames end.
    pub end: u32,
    /// What lies behind was written since the opening.
    pub hot: u32,
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
        ActiveView { segment: self.segment.clone(), file: self.file.clone(), end: self.end, hot: self.hot }
    }
}

/// Where a record is to be found.
#[derive(Debug)]
pub struct Place<'v, F> {
    /// Its segment.
    pub segment: &'v Arc<Segment>,
    /// Sequence of the segment's last durable record.
    pub last_sequence: u64,
    /// Where the segment's durable frames end.
    pub end: u32,
    /// If it is the one being written.
    pub active: Option<&'v ActiveView<F>>,
}

impl<F> LaneView<F> {
    /// Where `sequence` is to be found, or else the first record behind it; `None` behind all of them.
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
