//! The commit of a lane: one write and one sync, continued in the next segment when one is full or
//! failed. docs/journal-format.md §6.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::aside::AsideCause;
use super::frame::{self, Kind};
use super::lane::{Active, Freed, LaneWriter};
use super::loss::{Control, LossCause};
use super::pool::{Pool, Trouble};
use super::record::Batch;
use super::retention::{self, Decision};
use super::segment::{HEADER_BLOCK, Header, RUNS_MAX, Run, Segment, segment_name};
use super::settings::WhenFull;
use super::storage::{Storage, StorageError, StoredFile};
use crate::splitmix::SplitMix64;

/// A trim that no commit contains is committed alone after this time,
pub const TRIM_AFTER: Duration = Duration::from_secs(1);
/// or after this many released records.
pub const TRIM_RECORDS: u64 = 1_000;
/// Bytes of an Opening frame.
const OPENING: u32 = 48;

/// Why records of a batch were not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The lane is full and refuses records.
    LaneFull,
    /// The disk failed.
    Disk(StorageError),
    /// The active segment is full, and no file for another one can be made.
    NoSegment(StorageError),
}

/// The result of committing a batch: its first `records` are durable, the others failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Outcome {
    /// The number of durable records.
    pub records: usize,
    /// Why the others failed; `None` if all are durable.
    pub failure: Option<Failure>,
}

/// A part of a batch that was written and not synced yet.
struct Part {
    /// Its end in the batch, in bytes.
    to: usize,
    /// The number of records.
    records: usize,
    /// Whether it contains all control state.
    control: bool,
}

/// The step at which the disk failed.
enum Stage {
    Write,
    Sync,
}

impl<S: Storage> LaneWriter<S> {
    /// When control state must be committed even if no record was appended.
    pub(super) fn control_deadline(&self) -> Option<Instant> {
        if !self.is_control_dirty() {
            return None;
        }
        let since = self.release_since?;
        let many = self.control.released - self.durable_released >= TRIM_RECORDS;
        let at = if many || self.control.has_new_loss() { since } else { since + TRIM_AFTER };
        let trouble = self.trouble.or(self.control_trouble);
        Some(trouble.map_or(at, |trouble| at.max(trouble.retry_at)))
    }

    fn is_control_dirty(&self) -> bool {
        self.control.released > self.durable_released || self.control.is_dirty()
    }

    fn is_control_due(&self, now: Instant, force: bool) -> bool {
        self.is_control_dirty() && (force || self.control_deadline().is_some_and(|at| at <= now))
    }

    /// Commits a batch, whose sequences begin at `next_sequence`, with the pending control state.
    /// With `force`, control state is committed even without a record.
    pub(super) fn commit(
        &mut self,
        now: Instant,
        storage: &S,
        pool: &mut Pool<S>,
        batch: &mut Batch,
        force: bool,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let bytes = batch.bytes.len();
        if let Some(trouble) = self.trouble.filter(|trouble| now < trouble.retry_at) {
            outcome.failure = (bytes > 0).then_some(Failure::Disk(trouble.error));
            return outcome;
        }
        let mut from = 0;
        while from < bytes || self.unnamed_gaps || self.trouble.is_some() || self.is_control_due(now, force) {
            match self.commit_part(now, storage, pool, &mut batch.bytes, from, bytes) {
                Ok(part) => {
                    from = part.to;
                    outcome.records += part.records;
                    self.failures = 0;
                    self.trouble = None;
                    self.control_trouble = None;
                }
                Err(failure) => {
                    self.note_failure(now, failure, from == bytes);
                    outcome.failure = (from < bytes).then_some(failure);
                    break;
                }
            }
        }
        batch.bytes.truncate(bytes);
        self.free();
        outcome
    }

    /// A first error may be caused by one bad block: the next commit tries another segment at once.
    /// After a second error, or one that another segment cannot avoid, the lane refuses records and
    /// waits. Without a file for another segment it continues in the current one.
    fn note_failure(&mut self, now: Instant, failure: Failure, control: bool) {
        match failure {
            Failure::LaneFull => {}
            Failure::NoSegment(error) if self.active.is_some() => {
                if control {
                    self.control_trouble = Some(Trouble::after(self.control_trouble, error, now));
                }
            }
            Failure::Disk(error) | Failure::NoSegment(error) => {
                self.failures += 1;
                if self.failures > 1 || self.trouble.is_some() || error != StorageError::Other(EIO) {
                    self.trouble = Some(Trouble::after(self.trouble, error, now));
                }
            }
        }
    }

    /// Writes as much of `batch[from..bytes]` as fits into one segment, and control state after the
    /// last record.
    fn commit_part(
        &mut self,
        now: Instant,
        storage: &S,
        pool: &mut Pool<S>,
        batch: &mut Vec<u8>,
        from: usize,
        bytes: usize,
    ) -> Result<Part, Failure> {
        // The frames of the opening get a separate commit: a reader must find the Opening frame
        // before the records of its run. Losses found at the opening are written first, in frames
        // that begin no commit; otherwise the next opening would count torn records as acknowledged
        // ones.
        let alone = self.unnamed_gaps || self.active.as_ref().is_some_and(|active| active.opening);
        let bytes = if alone { from } else { bytes };
        let rest = alone.then(|| batch.split_off(from));
        let part = self.commit_frames(now, storage, pool, batch, from, bytes);
        if let Some(rest) = rest {
            batch.truncate(from);
            batch.extend_from_slice(&rest);
        }
        if part.is_ok() {
            self.unnamed_gaps = false;
        }
        part
    }

    fn commit_frames(
        &mut self,
        now: Instant,
        storage: &S,
        pool: &mut Pool<S>,
        batch: &mut Vec<u8>,
        from: usize,
        bytes: usize,
    ) -> Result<Part, Failure> {
        let first = (from < bytes).then(|| step(&batch[from..]));
        self.make_room(now, storage, pool, first)?;
        let Some(mut active) = self.active.take() else { return Err(Failure::Disk(StorageError::Full)) };
        active.footed = false;
        let begin = active.segment.end;
        let mut begins_commit = !active.fresh && !self.unnamed_gaps;
        let preamble = self.opening(&mut active, &mut begins_commit);
        let mut part = self.lay_out(&mut active, batch, from, bytes, &mut begins_commit);
        if part.to == bytes && !active.fresh {
            part.control = self.add_control(&mut active, batch, part.records, &mut begins_commit);
        }
        let frames = if part.to == bytes { &batch[from..] } else { &batch[from..part.to] };
        let footer = (part.to < bytes).then(|| {
            active.footed = true;
            self.footer(&active.segment, self.next_sequence + part.records as u64)
        });
        let at = begin + preamble.len() as u32;
        let limit = active.segment.layout.frame_limit;
        match write(&*active.file, &[(begin, &preamble), (at, frames), (limit, &footer.unwrap_or_default())])
        {
            Ok(()) => {
                active.recent.write(begin, &preamble);
                active.recent.write(at, frames);
                self.next_sequence += part.records as u64;
                if part.control {
                    self.durable_released = self.control.released;
                    self.control.committed();
                    self.release_since = None;
                }
                active.commit();
                self.active = Some(active);
                Ok(part)
            }
            Err((error, stage)) => {
                self.abandon(active, stage);
                Err(Failure::Disk(error))
            }
        }
    }

    /// The Opening frame, if another run begins here.
    fn opening(&self, active: &mut Active<S::File>, begins_commit: &mut bool) -> Vec<u8> {
        let mut out = Vec::new();
        if active.opening {
            let run = Run { first_sequence: self.next_sequence, ..self.run };
            frame::encode(&mut out, Kind::Opening, run.first_sequence, |out| {
                out.extend_from_slice(&run.run.to_le_bytes());
                out.extend_from_slice(&run.boot);
            });
            frame::seal(&mut out, active.segment.seed, std::mem::take(begins_commit));
            active.segment.end += out.len() as u32;
            match active.segment.runs.last_mut() {
                Some(last) if last.first_sequence == run.first_sequence => *last = run,
                _ => active.segment.runs.push(run),
            }
        }
        out
    }

    /// Sets the offsets and CRCs of the frames from `from` on, as many as fit.
    fn lay_out(
        &self,
        active: &mut Active<S::File>,
        batch: &mut [u8],
        from: usize,
        bytes: usize,
        begins_commit: &mut bool,
    ) -> Part {
        let segment = &mut active.segment;
        let mut part = Part { to: from, records: 0, control: active.fresh };
        while part.to < bytes && segment.end + step(&batch[part.to..]) <= segment.layout.records_limit {
            let length = frame::seal(&mut batch[part.to..], segment.seed, std::mem::take(begins_commit));
            segment.note(self.next_sequence + part.records as u64, segment.end);
            segment.end += length as u32;
            part.to += length;
            part.records += 1;
        }
        part
    }

    /// Appends the pending control frames if they fit; returns whether all did.
    fn add_control(
        &self,
        active: &mut Active<S::File>,
        batch: &mut Vec<u8>,
        records: usize,
        begins_commit: &mut bool,
    ) -> bool {
        let begin = batch.len();
        self.encode_control(self.next_sequence + records as u64, batch);
        let length = (batch.len() - begin) as u32;
        if active.segment.end + length > active.segment.layout.frame_limit {
            batch.truncate(begin);
            return false;
        }
        let mut at = begin;
        while at < batch.len() {
            at += frame::seal(&mut batch[at..], active.segment.seed, std::mem::take(begins_commit));
        }
        active.segment.end += length;
        true
    }

    fn encode_control(&self, next_sequence: u64, out: &mut Vec<u8>) {
        let control = &self.control;
        if control.needs_checkpoint() {
            encode_checkpoint(control, next_sequence, out);
            return;
        }
        for (report, published) in control.dirty() {
            frame::encode(out, Kind::Loss, 0, |out| report.encode(published, out));
        }
        if control.released > self.durable_released {
            frame::encode(out, Kind::Trim, control.released, |_| ());
        }
    }

    fn footer(&self, segment: &Segment, next_sequence: u64) -> Vec<u8> {
        let mut checkpoint = self.control.released.to_le_bytes().to_vec();
        self.control.encode(next_sequence, &mut checkpoint);
        segment.encode_footer(&checkpoint)
    }

    /// Ensures an active segment with room for a record of `record` bytes, or for the pending
    /// control frames.
    fn make_room(
        &mut self,
        now: Instant,
        storage: &S,
        pool: &mut Pool<S>,
        record: Option<u32>,
    ) -> Result<(), Failure> {
        let mut may_go_on = false;
        if let Some(active) = &self.active {
            let layout = active.segment.layout;
            let opening = if active.opening { OPENING } else { 0 };
            let fits = match record {
                Some(size) => active.segment.end + opening + size <= layout.records_limit,
                None => {
                    let mut control = Vec::new();
                    self.encode_control(self.next_sequence, &mut control);
                    active.segment.end + opening + control.len() as u32 <= layout.frame_limit
                }
            };
            let held = self.held_bytes();
            let may = record.is_none() || self.admits(held);
            may_go_on = may && fits && !(active.opening && active.segment.runs.len() >= RUNS_MAX);
            if may_go_on && (record.is_none() || !self.exchanges(held)) {
                return Ok(());
            }
        }
        let (number, file) = match self.take_next(now, storage, pool, record.is_some()) {
            // A full disk has no file to exchange it for.
            Err(Failure::NoSegment(_)) if may_go_on => return Ok(()),
            taken => taken?,
        };
        self.seal();
        self.activate(now, number, file)
    }

    fn take_next(
        &mut self,
        now: Instant,
        storage: &S,
        pool: &mut Pool<S>,
        for_record: bool,
    ) -> Result<(u64, Arc<S::File>), Failure> {
        let more = if self.prepared.is_some() { 0 } else { self.layout.size };
        if more > 0 {
            self.clear_shelf(now, storage);
        }
        let decision = retention::decide(&self.bounds, self.held_bytes(), more);
        if for_record && decision == Decision::Refuse && !self.is_drained() {
            return Err(Failure::LaneFull);
        }
        if let Some(prepared) = self.prepared.take() {
            return Ok(prepared);
        }
        // Dropping, trimming or an exchange frees a segment, so these may use the reserve.
        let reserve = !for_record || decision != Decision::Take;
        self.take_from_pool(now, storage, pool, reserve).map_err(Failure::NoSegment)
    }

    /// Deletes files set aside to make room for a new segment: damaged ones always, unreadable ones
    /// only if the lane drops its oldest records.
    fn clear_shelf(&mut self, now: Instant, storage: &S) {
        let any = self.bounds.when_full == WhenFull::DropOldest;
        while self.used_bytes() + u64::from(self.layout.size) > self.bounds.max_bytes {
            let Some(aside) = self.shelf.evict(storage, self.folder, any) else { return };
            let unreadable = aside.ranges.iter().filter(|range| range.cause == AsideCause::Unreadable);
            for range in unreadable {
                self.control.lose(LossCause::Dropped, range.records, range.first, range.last);
                self.dropped += range.records;
                self.release_since.get_or_insert(now);
            }
        }
    }

    fn take_from_pool(
        &mut self,
        now: Instant,
        storage: &S,
        pool: &mut Pool<S>,
        reserve: bool,
    ) -> Result<(u64, Arc<S::File>), StorageError> {
        // A new number for each attempt, because a file that cannot be replaced may have this name.
        let number = self.next_number;
        self.next_number += 1;
        let file = pool.take(storage, self.folder, &segment_name(number), reserve, now)?;
        Ok((number, file))
    }

    /// Seals the active segment with its footer. The footer is only an index: without it the
    /// segment is scanned.
    fn seal(&mut self) {
        let Some(active) = self.active.take() else { return };
        if !active.footed {
            let footer = self.footer(&active.segment, self.next_sequence);
            let _ = write(&*active.file, &[(active.segment.layout.frame_limit, &footer)]);
        }
        self.sealed.push_back(Arc::new(active.segment));
        self.publish_sealed();
    }

    /// Begins a segment with header block and Checkpoint. The Checkpoint names the records dropped
    /// to make room for it.
    fn activate(&mut self, now: Instant, number: u64, file: Arc<S::File>) -> Result<(), Failure> {
        if self.bounds.when_full == WhenFull::DropOldest {
            self.drop_oldest(now);
        }
        self.salt = SplitMix64::new(self.salt).next_u64();
        let header = Header {
            lane: self.lane as u8,
            size: self.layout.size,
            number,
            run: self.run.run,
            salt: self.salt,
            first_sequence: self.next_sequence,
            boot: self.run.boot,
            // Excludes the records dropped for this segment: they must not count until its
            // Checkpoint, which names them, is durable.
            released: self.durable_released,
            uncertain_from: match self.uncertain {
                Some((from, next)) if next == self.next_sequence => from,
                _ => 0,
            },
        };
        let mut bytes = header.encode_block();
        let begin = bytes.len();
        encode_checkpoint(&self.control, self.next_sequence, &mut bytes);
        frame::seal(&mut bytes[begin..], header.seed(), true);
        let mut segment = Segment::new(&header, self.layout);
        segment.end = bytes.len() as u32;
        let written = file.write_at(0, &bytes);
        let active = Active {
            shared: Arc::new(segment.clone()),
            segment,
            file,
            end: HEADER_BLOCK,
            recent: Arc::default(),
            opening: false,
            fresh: true,
            footed: false,
        };
        match written {
            Ok(()) => {
                active.recent.write(begin as u32, &bytes[begin..]);
                self.active = Some(active);
                Ok(())
            }
            Err(error) => {
                self.abandon(active, Stage::Write);
                Err(Failure::Disk(error))
            }
        }
    }

    /// Drops the oldest records until there is room for one more segment.
    fn drop_oldest(&mut self, now: Instant) {
        // The segment just taken is in none of the lists.
        let mut used = self.held_bytes() + u64::from(self.layout.size);
        let mut through = 0;
        for segment in &self.sealed {
            if used + u64::from(self.layout.size) <= self.bounds.max_bytes {
                break;
            }
            through = segment.last_sequence;
            used -= segment.file_bytes;
        }
        let before: u64 = self.control.total(LossCause::Dropped);
        self.lose(now, self.control.released + 1, through, LossCause::Dropped);
        self.dropped += self.control.total(LossCause::Dropped) - before;
    }

    /// Abandons a segment after an error: it ends at its last successful commit.
    fn abandon(&mut self, mut active: Active<S::File>, stage: Stage) {
        let number = active.segment.number;
        if active.end == HEADER_BLOCK {
            // Nothing in it was committed. A failed write may be retried in this file, a failed
            // sync must not.
            match stage {
                Stage::Write => self.prepared = Some((number, active.file)),
                // Size 0: must not be recycled.
                Stage::Sync => self.freed.push(Freed { name: active.segment.name(), size: 0 }),
            }
            return;
        }
        let segment = &mut active.segment;
        segment.end = active.end;
        segment.last_sequence = self.next_sequence - 1;
        segment.marks.retain(|mark| mark.offset < active.end);
        if active.opening && segment.runs.len() > active.shared.runs.len() {
            segment.runs.pop();
        }
        self.sealed.push_back(Arc::new(active.segment));
        self.publish_sealed();
    }

    /// Writes the lists of set-aside files, recycles freed files, and prepares one segment; returns
    /// whether the pool should make a file for it.
    pub(super) fn maintain(&mut self, now: Instant, storage: &S, pool: &mut Pool<S>) -> bool {
        let folder = self.folder;
        for (first, last) in self.shelf.work(now, storage, folder) {
            self.settled.insert(first.max(self.control.released + 1), last);
            self.settle();
            self.release_since.get_or_insert(now);
        }
        // The bound was lowered.
        if self.held_bytes() > self.bounds.max_bytes
            && let Some((number, _)) = self.prepared.take()
        {
            self.freed.push(Freed { name: segment_name(number), size: u64::from(self.layout.size) });
        }
        self.freed.retain(|freed| pool.recycle(storage, folder, &freed.name, freed.size, now).is_err());
        let wanted = self.prepared.is_none()
            && retention::decide(&self.bounds, self.held_bytes(), self.layout.size) == Decision::Take;
        if wanted && pool.ready() > 1 {
            // The pool records the error and retries.
            self.prepared = self.take_from_pool(now, storage, pool, false).ok();
        }
        wanted && self.prepared.is_none()
    }
}

impl<F> Active<F> {
    /// Marks all written data as durable.
    fn commit(&mut self) {
        self.end = self.segment.end;
        let runs_changed = std::mem::take(&mut self.opening);
        self.fresh = false;
        if runs_changed || self.shared.marks.len() != self.segment.marks.len() {
            self.shared = Arc::new(self.segment.clone());
        }
    }
}

/// EIO, which may be caused by one bad block.
const EIO: i32 = 5;

fn step(frames: &[u8]) -> u32 {
    frame::padded(frame::encoded_length(frames)) as u32
}

fn encode_checkpoint(control: &Control, next_sequence: u64, out: &mut Vec<u8>) {
    frame::encode(out, Kind::Checkpoint, control.released, |out| control.encode(next_sequence, out));
}

fn write<F: StoredFile>(file: &F, pieces: &[(u32, &[u8])]) -> Result<(), (StorageError, Stage)> {
    for (at, bytes) in pieces.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        file.write_at(u64::from(*at), bytes).map_err(|error| (error, Stage::Write))?;
    }
    file.sync().map_err(|error| (error, Stage::Sync))
}
