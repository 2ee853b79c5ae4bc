//! Writes one lane: a chain of segments, of which the newest grows with each commit.
//!
//! ```text
//!   spare ──take──> prepared ──first commit──> active ──full, or an error──> sealed ──trim durable──> freed ──> spare
//! ```
//!
//! Invariants: sequences are committed in order and without gaps; nothing counts as stored before
//! its sync has succeeded; after an error the segment is never written again; a file is freed only
//! when the trim that passes it is durable. docs/journal-format.md §6.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::aside::{AsideCause, AsideRange};
use super::loss::{Control, LossCause};
use super::pool::Trouble;
use super::range::RangeSet;
use super::recovered::Recovered;
use super::recovery::{Opened, Resolution};
use super::retention::{self, Decision};
use super::scan;
use super::segment::{self, HEADER_BLOCK, Layout, Run, Segment};
use super::settings::{LaneSettings, WhenFull};
use super::shelf::Shelf;
use super::storage::{Folder, Storage, StorageError, StoredFile};
use super::view::{ActiveView, LaneView, Recent};
use crate::message::{Lane, RecordId};

/// Bytes of the frame of a reading of 64 KiB with the longest names, about.
pub(super) const LARGEST_READING: u64 = 72 << 10;

/// The error for a file that cannot be opened.
const EIO: i32 = 5;

/// The segment being written, and how much of it is durable.
pub(super) struct Active<F> {
    pub(super) segment: Segment,
    pub(super) file: Arc<F>,
    /// The segment as readers see it; its marks may lag, its end is in `end`.
    pub(super) shared: Arc<Segment>,
    /// The end of the durable frames.
    pub(super) end: u32,
    /// The bytes written last.
    pub(super) recent: Arc<Recent>,
    /// Whether an Opening frame must be written first.
    pub(super) opening: bool,
    /// Whether the header and the Checkpoint are written but not synced.
    pub(super) fresh: bool,
    /// Whether it has its footer.
    pub(super) footed: bool,
}

/// The file of a segment that is no longer needed.
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
    /// Set if there is no room for control frames.
    pub(super) control_trouble: Option<Trouble>,
    pub(super) failures: u32,
    pub(super) release_since: Option<Instant>,
    pub(super) dropped: u64,
    /// Whether the opening found missing records that no durable loss names yet.
    pub(super) unnamed_gaps: bool,
    /// Sequences from the first up to before the second may never have been used: the end of the
    /// chain could not be read at the opening.
    pub(super) uncertain: Option<(u64, u64)>,
    /// In that case: the totals of losses at the opening.
    pub(super) base: Option<[u64; 5]>,
    pub(super) shelf: Shelf,
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
            recent: Arc::default(),
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
            uncertain: found.uncertain_from.map(|from| (from, found.next_sequence)),
            base: found.base,
            shelf: Shelf::new(found.asides),
        };
        writer.settle();
        writer.free();
        writer.publish_sealed();
        writer
    }

    // Queries.

    /// The sequence the next committed record must have.
    pub(super) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    pub(super) fn run(&self) -> u64 {
        self.run.run
    }

    /// The last run in the newest segment, and the segment's number; 0 if there is none.
    pub(super) fn newest(&self) -> (u64, u64) {
        let active = self.active.as_ref().filter(|active| active.end > HEADER_BLOCK);
        let newest = active.map(|active| &active.segment).or(self.sealed.back().map(Arc::as_ref));
        newest.map_or((0, 0), |segment| (segment.runs.last().map_or(0, |run| run.run), segment.number))
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

    /// Whether the disk is full for it.
    pub(super) fn is_disk_full(&self) -> bool {
        let troubles = [self.trouble, self.control_trouble];
        troubles.iter().flatten().any(Trouble::is_full) || self.shelf.is_full()
    }

    /// A full disk has space again.
    pub(super) fn retry_full(&mut self, now: Instant) {
        let troubles = [&mut self.trouble, &mut self.control_trouble];
        troubles.into_iter().flatten().for_each(|trouble| trouble.retry_full(now));
        self.shelf.retry_full(now);
    }

    /// Records dropped since the last call, for the log.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Bytes of all its files on disk.
    pub(super) fn used_bytes(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|segment| segment.file_bytes).sum();
        let freed: u64 = self.freed.iter().map(|freed| freed.size).sum();
        let active = self.active.as_ref().map_or(0, |active| active.segment.layout.size);
        let prepared = self.prepared.as_ref().map_or(0, |_| self.layout.size);
        sealed + freed + u64::from(active) + u64::from(prepared) + self.shelf.bytes()
    }

    /// Those of them that are not deleted for new records.
    pub(super) fn held_bytes(&self) -> u64 {
        self.used_bytes() - self.shelf.reclaimable()
    }

    /// Bytes of frames not yet freed.
    pub(super) fn stored_bytes(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|segment| u64::from(segment.end - HEADER_BLOCK)).sum();
        sealed + self.active.as_ref().map_or(0, |active| u64::from(active.end - HEADER_BLOCK))
    }

    /// Bytes of record frames for which there is room; `making`: whether new segments can be made.
    pub(super) fn room(&self, making: bool) -> u64 {
        let drops = self.bounds.when_full == WhenFull::DropOldest;
        if drops && making {
            return u64::MAX;
        }
        let (held, segment) = (self.held_bytes(), u64::from(self.layout.room()));
        if making && self.exchanges(held) {
            return segment;
        }
        let more =
            if making { self.bounds.max_bytes.saturating_sub(held) / u64::from(self.layout.size) } else { 0 };
        let active = if self.admits(held) { self.active_room() } else { 0 };
        let prepared = self.prepared.is_some() && (drops || held <= self.bounds.max_bytes);
        active + (more + u64::from(prepared)) * segment
    }

    /// Bytes of record frames for which the active segment has room.
    fn active_room(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| {
            u64::from(active.segment.layout.records_limit.saturating_sub(active.segment.end))
        })
    }

    /// Whether records may be written to the active segment, for files of `held` bytes.
    ///
    /// A lane that refuses may be over its bound: the bound was lowered, or a segment was taken for
    /// a trim or a loss alone. Such a segment takes no records, or each restart would add another
    /// one to the lane. An only segment is used up, whatever its size, until all is released: see
    /// [`LaneWriter::exchanges`].
    pub(super) fn admits(&self, held: u64) -> bool {
        let drops = self.bounds.when_full == WhenFull::DropOldest;
        let is_only = || self.sealed.back().is_none_or(|last| last.last_sequence <= self.control.released);
        drops || held <= self.bounds.max_bytes || is_only()
    }

    /// Whether all records are released.
    pub(super) fn is_drained(&self) -> bool {
        self.control.released + 1 >= self.next_sequence
    }

    /// Whether the next record goes to a new segment in exchange for the active one, for files of
    /// `held` bytes: all records are released, but there is no room for another one within the
    /// bound, and the active one is used up, or of a time when segments were larger and so was the
    /// bound. Its file is freed by the same commit.
    pub(super) fn exchanges(&self, held: u64) -> bool {
        let size = self.prepared.as_ref().map_or(self.layout.size, |_| 0);
        let decision = retention::decide(&self.bounds, held, size);
        let is_used_up =
            || decision == Decision::Refuse && self.active_room() < u64::from(self.layout.room() / 2);
        let is_larger =
            || self.active.as_ref().is_some_and(|active| active.segment.layout.size > self.layout.size);
        self.is_drained() && decision != Decision::Take && (is_larger() || is_used_up())
    }

    /// Whether its limit is reached, so that it refuses readings or drops its oldest records.
    pub(super) fn is_full(&self) -> bool {
        match self.bounds.when_full {
            WhenFull::Refuse => self.room(true) < LARGEST_READING.min(self.layout.room().into()),
            WhenFull::DropOldest => {
                retention::decide(&self.bounds, self.held_bytes(), self.layout.size) == Decision::DropOldest
            }
        }
    }

    /// The id of a record; its run is 0 if its segment is unknown.
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

    /// The view for readers; cheap.
    pub(super) fn view(&self) -> LaneView<S::File> {
        LaneView {
            sealed: self.sealed_view.clone(),
            // A new segment has no durable frames.
            active: self.active.as_ref().filter(|active| active.end > HEADER_BLOCK).map(|active| {
                ActiveView {
                    segment: active.shared.clone(),
                    file: active.file.clone(),
                    end: active.end,
                    recent: active.recent.clone(),
                }
            }),
            next_sequence: self.next_sequence,
            released: self.control.released,
        }
    }

    /// Reads the body of a stored reading from the disk; with `fresh`, bypassing the page cache.
    /// `None` if it is not there or its checksum is wrong.
    ///
    /// # Errors
    /// The disk failed to read it.
    pub(super) fn read(
        &self,
        storage: &S,
        sequence: u64,
        fresh: bool,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        let find = |file: &S::File, segment: &Segment| {
            if fresh {
                file.forget_cache();
            }
            scan::find_reading(file, segment, sequence)
        };
        if let Some(active) = self.active.as_ref().filter(|a| a.segment.first_sequence <= sequence) {
            return find(&active.file, &active.segment);
        }
        match self.sealed_of(sequence) {
            None => Ok(None),
            Some(segment) if segment.unopened => Err(StorageError::Other(EIO)),
            Some(segment) => match storage.open(self.folder, &segment.name()) {
                Ok(file) => find(&file, segment),
                Err(StorageError::Missing) => Ok(None),
                Err(error) => Err(error),
            },
        }
    }

    fn sealed_of(&self, sequence: u64) -> Option<&Arc<Segment>> {
        let after = self.sealed.partition_point(|segment| segment.first_sequence <= sequence);
        after.checked_sub(1).and_then(|at| self.sealed.get(at))
    }

    /// The number of the segment that contains a record.
    pub(super) fn number_of(&self, sequence: u64) -> Option<u64> {
        let active = self.active.as_ref().map(|active| &active.segment);
        let active = active.filter(|active| active.first_sequence <= sequence).map(|active| active.number);
        active.or_else(|| self.sealed_of(sequence).map(|segment| segment.number))
    }

    /// The number of sequences in `first..=last` that may never have been used.
    pub(super) fn uncertain_in(&self, first: u64, last: u64) -> u64 {
        // Segments that could not be opened share one range.
        let mut uncertain = RangeSet::default();
        for (first, last) in self.sealed.iter().filter_map(|segment| segment.uncertain(first, last)) {
            uncertain.insert(first, last);
        }
        let settled = self.settled.common_in(first, last);
        let passed: u64 = settled.into_iter().map(|(first, last)| uncertain.count_in(first, last)).sum();
        uncertain.count_in(first, last) - passed
    }

    // Releases and losses.

    /// Releases all records up to and including `through`, except those that wait to be listed as
    /// unreadable.
    pub(super) fn release(&mut self, now: Instant, through: u64) {
        let waiting = self.shelf.first_waiting().map_or(u64::MAX, |first| first - 1);
        let through = through.min(self.next_sequence - 1).min(waiting);
        if through > self.control.released {
            self.control.released = through;
            self.settle();
            self.release_since.get_or_insert(now);
        }
    }

    /// Releases one record, regardless of the ones before it.
    pub(super) fn settle_one(&mut self, now: Instant, sequence: u64) {
        if sequence > self.control.released && sequence < self.next_sequence {
            self.settled.insert(sequence, sequence);
            self.settle();
            self.release_since.get_or_insert(now);
        }
    }

    /// Records are lost. Those already released or counted as lost are not counted again.
    pub(super) fn lose(&mut self, now: Instant, first: u64, last: u64, cause: LossCause) {
        let first = first.max(self.control.released + 1);
        let last = last.min(self.next_sequence - 1);
        for (first, last) in self.settled.missing_in(first, last) {
            for (first, last) in self.certain_pieces(first, last) {
                self.control.lose(cause, last.sequence - first.sequence + 1, first, last);
            }
            self.settled.insert(first, last);
        }
        self.settle();
        self.release_since.get_or_insert(now);
    }

    /// `first..=last` without sequences that may never have been used, split at the boundaries of
    /// runs.
    fn certain_pieces(&self, first: u64, last: u64) -> Vec<(RecordId, RecordId)> {
        let mut certain = RangeSet::default();
        certain.insert(first, last);
        let uncertain: Vec<_> = self.sealed.iter().filter_map(|s| s.uncertain(first, last)).collect();
        let mut left = Vec::new();
        let mut from = first;
        for (begin, end) in uncertain {
            if begin > from {
                left.push((from, begin - 1));
            }
            from = from.max(end + 1);
        }
        if from <= last {
            left.push((from, last));
        }
        let active = self.active.iter().map(|active| &active.segment);
        let segments = || self.sealed.iter().map(Arc::as_ref).chain(active.clone());
        left.into_iter().flat_map(|(first, last)| segment::pieces(segments(), first, last)).collect()
    }

    /// These records had wrong checksums in two readings: they are lost, and their file is kept.
    pub(super) fn damaged(&mut self, now: Instant, first: u64, last: u64) {
        let first = first.max(self.control.released + 1);
        let last = last.min(self.next_sequence - 1);
        for (first, last) in self.settled.missing_in(first, last) {
            for (first, last) in self.certain_pieces(first, last) {
                if let Some(number) = self.number_of(first.sequence) {
                    let records = last.sequence - first.sequence + 1;
                    let range =
                        AsideRange { cause: AsideCause::Damaged, first, last, records, joined: false };
                    self.shelf.note(self.lane, number, range, false);
                }
            }
        }
        self.lose(now, first, last, LossCause::Damaged);
    }

    /// Records were lost from the rejected store, and it is unknown which.
    pub(super) fn lose_unnamed(&mut self, now: Instant, count: u64) {
        self.release_since.get_or_insert(now);
        self.control.lose(LossCause::Damaged, count, RecordId::UNKNOWN, RecordId::UNKNOWN);
    }

    /// These records of a segment are unreadable: they are skipped when they are listed.
    pub(super) fn step_over(&mut self, number: u64, first: u64, last: u64) {
        let first = first.max(self.control.released + 1);
        for (first, last) in self.settled.missing_in(first, last.min(self.next_sequence - 1)) {
            let pieces = self.certain_pieces(first, last);
            let records = pieces.iter().map(|(first, last)| last.sequence - first.sequence + 1).sum();
            let range = AsideRange {
                cause: AsideCause::Unreadable,
                first: self.id_of(first),
                last: self.id_of(last),
                records,
                joined: false,
            };
            self.shelf.note(self.lane, number, range, true);
        }
    }

    /// Handles the result for segments that could not be opened before: opened, or given up.
    pub(super) fn take_up(&mut self, now: Instant, found: Resolution) {
        let numbers: Vec<u64> = found
            .opened
            .iter()
            .map(|opened| opened.segment.number)
            .chain(found.damaged.iter().copied())
            .chain(found.unreadable.iter().copied())
            .chain(found.free.iter().copied())
            .collect();
        let is_of = |segment: &Arc<Segment>| segment.unopened && numbers.contains(&segment.number);
        let group: Vec<Arc<Segment>> = self.sealed.iter().filter(|segment| is_of(segment)).cloned().collect();
        // Some of them were dropped to make room meanwhile: the rest is opened again.
        let (Some(oldest), Some(newest)) = (group.first(), group.last()) else { return };
        if group.len() != numbers.len() {
            return;
        }
        let (first, last) = (oldest.first_sequence, newest.last_sequence);
        let uncertain_from = newest.uncertain_from;
        let file_bytes = |number: u64| {
            group.iter().find(|segment| segment.number == number).map_or(0, |segment| segment.file_bytes)
        };
        let mut chain: Vec<Segment> = Vec::new();
        let mut unreadable = Vec::new();
        let mut damaged = Vec::new();
        let mut next = first;
        let mut opened = found.opened.into_iter().peekable();
        let mut controls = Vec::new();
        // The first sequence of the opened segments, if no unopened one is before it.
        let mut begins: Option<u64> = None;
        for number in sorted(&numbers) {
            let behind = opened.peek().map(begin_of);
            if opened.peek().is_some_and(|opened| opened.segment.number == number)
                && let Some(Opened { mut segment, control, unread_end, direct, uncertain_from: stated }) =
                    opened.next()
            {
                let end = opened.peek().map_or(last, |next| begin_of(next).saturating_sub(1));
                if let Some(from) = stated {
                    // Between the records found before it and its first record nothing was stored,
                    // as far as is known.
                    self.settled.insert(from.max(next), segment.first_sequence.saturating_sub(1));
                    begins.get_or_insert(from.max(next));
                }
                begins.get_or_insert(segment.first_sequence);
                let found = segment.last_sequence;
                if (direct || unread_end) && end > found {
                    segment.last_sequence = end;
                    segment.end = segment.layout.frame_limit;
                }
                let from = uncertain_from.map(|from| from.max(found + 1));
                segment.uncertain_from = from.filter(|from| *from <= segment.last_sequence);
                if let Some(from) = segment.uncertain_from.filter(|_| !unread_end) {
                    self.settled.insert(from, segment.last_sequence);
                }
                next = next.max(segment.last_sequence + 1);
                controls.extend(control);
                chain.push(segment);
                continue;
            }
            // Up to the next opened segment.
            let until = behind.map_or(last, |behind| behind.saturating_sub(1));
            if found.free.contains(&number) {
                self.freed.push(Freed { name: segment::segment_name(number), size: 0 });
                continue;
            }
            begins.get_or_insert(first);
            if found.unreadable.contains(&number) {
                unreadable.push((number, next, until));
                let run = group[0].runs[0];
                let bytes = file_bytes(number);
                let mut segment =
                    Segment::unopened(number, self.layout, bytes, next, until.max(next - 1), run);
                segment.uncertain_from = uncertain_from.filter(|from| *from <= until);
                next = next.max(until + 1);
                chain.push(segment);
            } else {
                damaged.push((number, next, until));
            }
        }
        let at = self.sealed.iter().position(is_of).unwrap_or(0);
        // Sequences that were only assumed to be used: no file contains them.
        if let Some(from) = uncertain_from.filter(|_| next <= last && damaged.is_empty()) {
            self.settled.insert(from.max(next), last);
        }
        let begins = begins.unwrap_or(first);
        if begins > first {
            // The segment before them contains more than was found in it.
            match at.checked_sub(1).and_then(|before| self.sealed.get_mut(before)) {
                Some(before) => {
                    let segment = Arc::make_mut(before);
                    segment.last_sequence = begins - 1;
                    segment.end = segment.layout.frame_limit;
                }
                None => self.lose(now, first, begins - 1, LossCause::Damaged),
            }
        }
        self.sealed.retain(|segment| !is_of(segment));
        let behind = self.sealed.split_off(at);
        self.sealed.extend(chain.into_iter().map(Arc::new));
        self.sealed.extend(behind);
        self.publish_sealed();
        for (number, first, last) in unreadable {
            self.step_over(number, first, last);
        }
        for (number, first, last) in damaged {
            self.give_up(now, (number, file_bytes(number)), (first, last), uncertain_from);
        }
        if let Some(base) = self.base {
            for control in &controls {
                self.control.take_in(control, &base);
                for (first, last) in control.lost_ranges() {
                    self.settled.insert(first, last);
                }
            }
            self.settle();
            self.release_since.get_or_insert(now);
        }
        self.free();
    }

    /// A file with an invalid header leaves the chain: records that only it can contain are lost,
    /// or were never stored.
    fn give_up(
        &mut self,
        now: Instant,
        (number, file_bytes): (u64, u64),
        (first, last): (u64, u64),
        uncertain_from: Option<u64>,
    ) {
        let certain = uncertain_from.map_or(last, |from| last.min(from - 1));
        let range = AsideRange {
            cause: AsideCause::Damaged,
            first: self.id_of(first),
            last: self.id_of(last.max(first)),
            records: (certain + 1).saturating_sub(first),
            joined: false,
        };
        self.shelf.note(self.lane, number, range, false);
        self.shelf.leave(number, file_bytes);
        self.lose(now, first, certain, LossCause::Damaged);
        self.settled.insert(first.max(certain + 1), last);
    }

    /// These records of a file set aside are in the lane again; `None` = all on its list.
    pub(super) fn imported(&mut self, storage: &S, number: u64, taken: Option<&[(u64, u64)]>) {
        self.shelf.taken(storage, self.folder, number, taken);
    }

    /// A record of the rejected store is discarded.
    pub(super) fn discard(&mut self, now: Instant, id: RecordId) {
        self.release_since.get_or_insert(now);
        self.control.lose(LossCause::Discarded, 1, id, id);
    }

    pub(super) fn loss_published(&mut self, now: Instant, number: u64, count: u64) {
        self.control.published(number, count);
        self.release_since.get_or_insert(now);
    }

    /// Requests a Checkpoint after all other frames, which tells the next opening that nothing is
    /// missing at the end.
    pub(super) fn ask_checkpoint(&mut self) {
        // If nothing was written since the opening, no Checkpoint is needed.
        if self.active.as_ref().is_some_and(|active| !active.opening) {
            self.control.ask_checkpoint();
        }
    }

    pub(super) fn settle(&mut self) {
        if let Some(end) = self.settled.end_of(self.control.released + 1) {
            self.control.released = end;
        }
        self.settled.forget_through(self.control.released);
    }

    pub(super) fn publish_sealed(&mut self) {
        self.sealed_view = self.sealed.iter().cloned().collect();
    }

    /// Whether the losses and the next sequence are also stored in a segment after the oldest
    /// sealed one. After an error there may be no active segment.
    fn is_told_behind(&self) -> bool {
        self.active.as_ref().is_some_and(|active| !active.fresh)
            || self.sealed.iter().skip(1).any(|segment| segment.end > HEADER_BLOCK)
    }

    /// Frees the segments that a durable trim has passed. Their files stay until
    /// [`LaneWriter::maintain`].
    pub(super) fn free(&mut self) {
        let before = self.sealed.len();
        while let Some(oldest) =
            self.sealed.front().filter(|oldest| oldest.last_sequence <= self.durable_released)
        {
            if !self.is_told_behind() {
                break;
            }
            let size = oldest.file_bytes;
            if !self.shelf.leave(oldest.number, size) {
                // A file that could not be opened is not reused.
                let size = if oldest.unopened { 0 } else { size };
                self.freed.push(Freed { name: oldest.name(), size });
            }
            self.sealed.pop_front();
        }
        if self.sealed.len() != before {
            self.publish_sealed();
        }
    }
}

fn sorted(numbers: &[u64]) -> Vec<u64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted
}

/// The sequence from which a segment knows what was stored.
fn begin_of(opened: &Opened) -> u64 {
    let first = opened.segment.first_sequence;
    opened.uncertain_from.map_or(first, |from| from.min(first))
}
