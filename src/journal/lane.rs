//! Writes one lane: a chain of segments, of which the newest grows commit by commit.
//!
//! ```text
//!   spare ──take──> prepared ──first commit──> active ──full, or an error──> sealed ──trim durable──> freed ──> spare
//! ```
//!
//! Invariants: sequences are committed in order and without a gap; nothing counts before its sync has succeeded; after an error the
//! segment is never written again; a file is freed only once the trim that passes it is durable.
//! docs/journal-format.md §6.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::loss::{Control, LossCause};
use super::pool::Trouble;
use super::range::RangeSet;
use super::scan;
use super::segment::{self, HEADER_BLOCK, Layout, Run, Segment};
use super::settings::{LaneSettings, WhenFull};
use super::storage::{Folder, Storage, StorageError};
use super::view::{ActiveView, LaneView};
use crate::message::{Lane, RecordId};

/// The segment being written, and how much of it is durable.
pub(super) struct Active<F> {
    pub(super) segment: Segment,
    pub(super) file: Arc<F>,
    /// What readers may see; its marks may lag, its end is in `end`.
    pub(super) shared: Arc<Segment>,
    /// Durable end.
    pub(super) end: u32,
    /// Read from `hot` on, the file is in the page cache.
    pub(super) hot: u32,
    /// An Opening is to be written before anything else.
    pub(super) opening: bool,
    /// The header and the Checkpoint are written and not yet synced.
    pub(super) fresh: bool,
    /// It has its footer.
    pub(super) footed: bool,
}

/// A segment's file that nothing needs any more.
pub(super) struct Freed {
    pub(super) name: String,
    pub(super) size: u64,
}

/// The writing end of a lane.
pub(super) struct LaneWriter<S: Storage> {
    pub(super) lane: Lane,
    pub(super) folder: Folder,
    pub(super) layout: Layout,
    pub(super) bounds: LaneSettings,
    pub(super) run: Run,
    pub(super) salt: u64,
    pub(super) sealed: VecDeque<Arc<Segment>>,
    pub(super) sealed_view: Arc<[Arc<Segment>]>,
    pub(super) active: Option<Active<S::File>>,
    pub(super) prepared: Option<(u64, Arc<S::File>)>,
    pub(super) next_number: u64,
    pub(super) next_sequence: u64,
    pub(super) control: Control,
    pub(super) durable_released: u64,
    pub(super) settled: RangeSet,
    pub(super) freed: Vec<Freed>,
    pub(super) trouble: Option<Trouble>,
    /// No room for control frames.
    pub(super) control_trouble: Option<Trouble>,
    pub(super) failures: u32,
    pub(super) release_since: Option<Instant>,
    pub(super) dropped: u64,
    /// The opening found records missing that no durable loss names yet.
    pub(super) unnamed_gaps: bool,
}

/// What recovery hands over; see [`super::recovery`].
pub(super) struct Recovered<F> {
    pub(super) sealed: Vec<Segment>,
    pub(super) active: Option<(Segment, F)>,
    pub(super) control: Control,
    pub(super) next_sequence: u64,
    pub(super) next_number: u64,
    pub(super) settled: RangeSet,
    /// Records named as lost for the first time.
    pub(super) missing: u64,
    pub(super) free: Vec<(String, u64)>,
}

impl<S: Storage> LaneWriter<S> {
    #[expect(clippy::too_many_arguments, reason = "called once, each is what it says")]
    pub(super) fn new(
        now: Instant,
        lane: Lane,
        layout: Layout,
        bounds: LaneSettings,
        run: u64,
        boot: [u8; 16],
        salt: u64,
        found: Recovered<S::File>,
    ) -> LaneWriter<S> {
        let run = Run { first_sequence: found.next_sequence, run, boot };
        let active = found.active.map(|(segment, file)| Active {
            shared: Arc::new(segment.clone()),
            end: segment.end,
            hot: segment.end,
            opening: true,
            fresh: false,
            footed: false,
            file: Arc::new(file),
            segment,
        });
        let mut writer = LaneWriter {
            lane,
            folder: Folder::of(lane),
            layout,
            bounds,
            run,
            salt,
            sealed: found.sealed.into_iter().map(Arc::new).collect(),
            sealed_view: Arc::from([]),
            active,
            prepared: None,
            next_number: found.next_number,
            next_sequence: found.next_sequence,
            durable_released: found.control.released,
            control: found.control,
            settled: found.settled,
            freed: found.free.into_iter().map(|(name, size)| Freed { name, size }).collect(),
            trouble: None,
            control_trouble: None,
            failures: 0,
            release_since: Some(now),
            dropped: 0,
            unnamed_gaps: found.missing > 0,
        };
        writer.settle();
        writer.free();
        writer.publish_sealed();
        writer
    }

    // What others want to know.

    /// The sequence the next committed record must have.
    pub(super) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    pub(super) fn run(&self) -> u64 {
        self.run.run
    }

    pub(super) fn control(&self) -> &Control {
        &self.control
    }

    pub(super) fn settled(&self) -> &RangeSet {
        &self.settled
    }

    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.trouble
    }

    /// Records dropped since it was last asked, for the log.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Bytes of all its files on disk.
    pub(super) fn used_bytes(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|segment| u64::from(segment.layout.size)).sum();
        let freed: u64 = self.freed.iter().map(|freed| freed.size).sum();
        let active = self.active.as_ref().map_or(0, |active| active.segment.layout.size);
        let prepared = self.prepared.as_ref().map_or(0, |_| self.layout.size);
        sealed + freed + u64::from(active) + u64::from(prepared)
    }

    /// Bytes of frames not yet freed.
    pub(super) fn stored_bytes(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|segment| u64::from(segment.end - HEADER_BLOCK)).sum();
        sealed + self.active.as_ref().map_or(0, |active| u64::from(active.end - HEADER_BLOCK))
    }

    /// Bytes of frames of records that still find room; `making`: whether new segments can be made.
    pub(super) fn room(&self, making: bool) -> u64 {
        let active = self.active.as_ref().map_or(0, |active| {
            u64::from(active.segment.layout.records_limit.saturating_sub(active.segment.end))
        });
        let size = u64::from(self.layout.size);
        let more = match self.bounds.when_full {
            _ if !making => 0,
            WhenFull::DropOldest => return u64::MAX,
            WhenFull::Refuse => self.bounds.max_bytes.saturating_sub(self.used_bytes()) / size,
        };
        active + (more + u64::from(self.prepared.is_some())) * u64::from(self.layout.room())
    }

    /// The id of a record, as far as its segment is known.
    pub(super) fn id_of(&self, sequence: u64) -> RecordId {
        let active = self.active.as_ref().map(|active| &active.segment);
        let run = match active.filter(|active| active.first_sequence <= sequence) {
            Some(active) => active.run_of(sequence).run,
            None => {
                let after = self.sealed.partition_point(|s| s.first_sequence <= sequence);
                let segment = self.sealed.get(after.saturating_sub(1)).map(Arc::as_ref).or(active);
                segment.map_or(self.run.run, |segment| segment.run_of(sequence).run)
            }
        };
        RecordId { run, sequence }
    }

    /// What readers need; cheap.
    pub(super) fn view(&self) -> LaneView<S::File> {
        LaneView {
            sealed: self.sealed_view.clone(),
            // A fresh one holds nothing durable.
            active: self.active.as_ref().filter(|active| active.end > HEADER_BLOCK).map(|active| {
                ActiveView {
                    segment: active.shared.clone(),
                    file: active.file.clone(),
                    end: active.end,
                    hot: active.hot,
                }
            }),
            next_sequence: self.next_sequence,
            released: self.control.released,
        }
    }

    /// The body of a stored reading, from the disk.
    pub(super) fn read(&self, storage: &S, sequence: u64) -> Result<Option<Vec<u8>>, StorageError> {
        if let Some(active) = self.active.as_ref().filter(|a| a.segment.first_sequence <= sequence) {
            return Ok(scan::find_reading(&active.file, &active.segment, sequence));
        }
        let after = self.sealed.partition_point(|s| s.first_sequence <= sequence);
        let Some(segment) = after.checked_sub(1).and_then(|at| self.sealed.get(at)) else {
            return Ok(None);
        };
        match storage.open(self.folder, &segment.name()) {
            Ok(file) => Ok(scan::find_reading(&file, segment, sequence)),
            Err(StorageError::Missing) => Ok(None),
            Err(error) => Err(error),
        }
    }

    // What leaves.

    /// All records up to and with `through` may go.
    pub(super) fn release(&mut self, now: Instant, through: u64) {
        let through = through.min(self.next_sequence - 1);
        if through > self.control.released {
            self.control.released = through;
            self.settle();
            self.release_since.get_or_insert(now);
        }
    }

    /// One record may go, whatever is with those before it.
    pub(super) fn settle_one(&mut self, now: Instant, sequence: u64) {
        if sequence > self.control.released && sequence < self.next_sequence {
            self.settled.insert(sequence, sequence);
            self.settle();
            self.release_since.get_or_insert(now);
        }
    }

    /// Records are lost. Those that have left or are named as lost already are not counted again.
    pub(super) fn lose(&mut self, now: Instant, first: u64, last: u64, cause: LossCause) {
        let first = first.max(self.control.released + 1);
        let last = last.min(self.next_sequence - 1);
        for (first, last) in self.settled.missing_in(first, last) {
            let active = self.active.iter().map(|active| &active.segment);
            let segments = self.sealed.iter().map(Arc::as_ref).chain(active);
            for (first, last) in segment::pieces(segments, first, last) {
                self.control.lose(cause, last.sequence - first.sequence + 1, first, last);
            }
            self.settled.insert(first, last);
        }
        self.settle();
        self.release_since.get_or_insert(now);
    }

    /// A record that had left the lane for the rejected store is given up.
    pub(super) fn discard(&mut self, now: Instant, id: RecordId) {
        self.release_since.get_or_insert(now);
        self.control.lose(LossCause::Discarded, 1, id, id);
    }

    pub(super) fn loss_published(&mut self, now: Instant, number: u64, count: u64) {
        self.control.published(number, count);
        self.release_since.get_or_insert(now);
    }

    /// Asks for a Checkpoint behind all else: with it, the next opening knows that nothing is missing at the end.
    pub(super) fn ask_checkpoint(&mut self) {
        // Where nothing was written since the opening there is nothing to be sure of.
        if self.active.as_ref().is_some_and(|active| !active.opening) {
            self.control.ask_checkpoint();
        }
    }

    fn settle(&mut self) {
        if let Some(end) = self.settled.end_of(self.control.released + 1) {
            self.control.released = end;
        }
        self.settled.forget_through(self.control.released);
    }

    pub(super) fn publish_sealed(&mut self) {
        self.sealed_view = self.sealed.iter().cloned().collect();
    }

    /// Lets go of the segments a durable trim has passed. Their files stay until [`LaneWriter::maintain`].
    pub(super) fn free(&mut self) {
        let before = self.sealed.len();
        while let Some(oldest) =
            self.sealed.front().filter(|oldest| oldest.last_sequence <= self.durable_released)
        {
            self.freed.push(Freed { name: oldest.name(), size: u64::from(oldest.layout.size) });
            self.sealed.pop_front();
        }
        if self.sealed.len() != before {
            self.publish_sealed();
        }
    }
}
