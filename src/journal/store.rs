//! The journal without threads and clocks: both lanes, the rejected store, and the files they
//! share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::aside::{Aside, AsideCause};
use super::commit::Outcome;
use super::lane::{LARGEST_READING, LaneWriter};
use super::loss::{LossCause, LossReport};
use super::pool::{Pool, Trouble};
use super::range::RangeSet;
use super::record::Batch;
use super::recovery::{self, LaneReport, RecoveryError, Resolution};
use super::rejected::{OwnReasons, RejectError, RejectedEntry, RejectedReport, RejectedStore};
use super::retention;
use super::segment::Segment;
use super::settings::{LaneSettings, Settings, WhenFull};
use super::space::SpaceWatch;
use super::storage::{SECOND_LOOK, Storage, StorageError};
use super::view::LaneView;
use super::witness::{LaneWitness, Witness, WitnessFile};
use crate::message::{Lane, RecordId};

/// Most bytes of records moved to the rejected store in one commit.
const REJECTS_AT_ONCE: usize = 512 * 1024;

/// The error for content that differs from what was written.
const EIO: i32 = 5;

/// Time for which a record to reject may be unreadable before it is listed as unreadable.
const UNREAD_MAX: Duration = Duration::from_secs(3600);

/// Random values, drawn by the shell at each opening.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// The lanes' runs, by [`Lane::index`].
    pub runs: [u64; 2],
    /// The seed of the segments' salts.
    pub salt: u64,
    /// The system's boot id.
    pub boot: [u8; 16],
}

/// The report of opening the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreReport {
    /// The lanes, by [`Lane::index`].
    pub lanes: [LaneReport; 2],
    /// The rejected store.
    pub rejected: RejectedReport,
}

/// How one lane stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneStatus {
    /// Records stored and not released.
    pub records: u64,
    /// Approximate bytes of these records.
    pub bytes: u64,
    /// Bytes of all the lane's files.
    pub file_bytes: u64,
    /// Its limit in bytes.
    pub max_bytes: u64,
    /// Its limit is reached: there is no room for the largest reading, and soon for none.
    pub full: bool,
    /// What it does then.
    pub drops_oldest: bool,
    /// Totals of lost records, in the order of [`LossCause::ALL`].
    pub lost: [u64; 5],
    /// Why the disk cannot be written now.
    pub trouble: Option<StorageError>,
    /// Because of that trouble some readings are refused; else there is room in the file in use,
    /// and only the next one cannot be made.
    pub refuses: bool,
    /// Records that could not be read, in files set aside: not lost, and not in `records`.
    pub unreadable: u64,
    /// Segments that cannot be opened now.
    pub unopened: u64,
    /// Files set aside, or to be set aside.
    pub set_aside: u64,
    /// Why a file cannot be set aside now.
    pub shelf_trouble: Option<StorageError>,
}

impl LaneStatus {
    /// Total of acknowledged records that were lost. Torn records of a last commit were never
    /// acknowledged and are not included.
    pub fn lost_records(&self) -> u64 {
        let counted = LossCause::ALL.iter().zip(self.lost).filter(|(cause, _)| **cause != LossCause::Torn);
        counted.map(|(_, count)| count).sum()
    }
}

/// The state of the rejected store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RejectedStatus {
    /// Records in it.
    pub records: u64,
    /// Of these, those that are there for another reason than a reason code.
    pub own_reasons: OwnReasons,
    /// Bytes of these records.
    pub bytes: u64,
    /// Its limit in bytes.
    pub max_bytes: u64,
    /// Bytes of frames for which there is room.
    pub room: u64,
    /// Why it accepts no records now.
    pub trouble: Option<RejectError>,
    /// Why it cannot be read completely now.
    pub unread: Option<StorageError>,
    /// Records that were in it and are lost, since it was opened.
    pub lost: u64,
}

/// Both lanes and the rejected store on one storage. Every call except the queries may block on the
/// disk.
pub struct Store<S: Storage> {
    storage: Arc<S>,
    pool: Pool<S>,
    lanes: [LaneWriter<S>; 2],
    rejected: RejectedStore<S>,
    rejected_max: u64,
    /// Records to move to the rejected store: sequence → reason code.
    rejects: [BTreeMap<u64, u8>; 2],
    reject_trouble: Option<(RejectError, Trouble)>,
    /// The sequence up to which the uplink has released, ahead of pending rejects.
    wanted: [u64; 2],
    /// Entries to remove when the next commit of the lanes is durable.
    removals: Vec<u64>,
    /// Records to reject that were not found: they are read again, bypassing the page cache, before
    /// they count as damaged.
    doubtful: BTreeMap<(usize, u64), Instant>,
    /// Records to reject that are unreadable, and since when.
    unread: BTreeMap<(usize, u64), Instant>,
    wants_spare: usize,
    witness: WitnessFile<S>,
    space: SpaceWatch,
}

impl<S: Storage> Store<S> {
    /// Reads the journal and prepares it for writing. Neither damage nor unreadable files prevent
    /// the opening.
    ///
    /// # Errors
    /// [`RecoveryError`].
    pub fn open(
        now: Instant,
        storage: Arc<S>,
        settings: &Settings,
        seeds: Seeds,
    ) -> Result<(Store<S>, StoreReport), RecoveryError> {
        let layout = retention::layout(settings);
        let (witness, seen) = WitnessFile::open(&*storage);
        let mut report = StoreReport::default();
        // Nothing is renamed or deleted before all is read, so that files of another version are
        // not changed.
        let mut open = |lane: Lane| {
            let index = lane.index();
            let seen = seen.unwrap_or_default().lanes[index];
            let (found, lane_report) = recovery::recover(&*storage, lane, layout, seen)?;
            report.lanes[index] = lane_report;
            let salt = seeds.salt.rotate_left(index as u32 * 32);
            let bounds = settings.lanes[index];
            Ok(LaneWriter::new(now, lane, layout, bounds, seeds.runs[index], seeds.boot, salt, found))
        };
        let mut lanes = [open(Lane::High)?, open(Lane::Normal)?];
        let (rejected, rejected_report) = RejectedStore::open(
            now,
            &*storage,
            settings.rejected_max_bytes,
            !seeds.salt,
            seen.map(|seen| seen.rejected),
        )?;
        report.rejected = rejected_report;
        let unnamed = report.rejected.lost;
        if unnamed > 0 {
            lanes[Lane::Normal.index()].lose_unnamed(now, unnamed);
        }
        for entry in rejected.entries() {
            let lane: &mut LaneWriter<S> = &mut lanes[entry.lane.index()];
            // It was moved there, and the crash came before the trim.
            if lane.id_of(entry.id.sequence) == entry.id {
                lane.settle_one(now, entry.id.sequence);
            }
        }
        let pool = Pool::open(&*storage, layout, retention::spares(settings, layout));
        let wanted = [lanes[0].control().released, lanes[1].control().released];
        let store = Store {
            storage,
            pool,
            lanes,
            rejected,
            rejected_max: settings.rejected_max_bytes,
            rejects: Default::default(),
            reject_trouble: None,
            wanted,
            removals: Vec::new(),
            doubtful: BTreeMap::new(),
            unread: BTreeMap::new(),
            wants_spare: 1,
            witness,
            space: SpaceWatch::default(),
        };
        Ok((store, report))
    }

    fn lane(&self, lane: Lane) -> &LaneWriter<S> {
        &self.lanes[lane.index()]
    }

    // Calls of the reading end.

    /// Releases all records up to and including `through`.
    pub fn release(&mut self, now: Instant, lane: Lane, through: u64) {
        let wanted = &mut self.wanted[lane.index()];
        *wanted = through.max(*wanted);
        self.release_wanted(now, lane);
    }

    fn release_wanted(&mut self, now: Instant, lane: Lane) {
        let index = lane.index();
        let wanted = self.wanted[index];
        let through = self.rejects[index].keys().next().map_or(wanted, |first| wanted.min(first - 1));
        self.lanes[index].release(now, through);
    }

    /// Moves a record to the rejected store. Until it is durable there, the trim stays before it.
    pub fn reject(&mut self, lane: Lane, sequence: u64, reason: u8) {
        let writer = self.lane(lane);
        if sequence > writer.control().released
            && sequence < writer.next_sequence()
            && !writer.settled().contains(sequence)
        {
            self.rejects[lane.index()].insert(sequence, reason);
        }
    }

    /// Counts records as lost: they will never be published.
    pub fn lose(&mut self, now: Instant, lane: Lane, first: u64, last: u64, cause: LossCause) {
        self.lanes[lane.index()].lose(now, first, last, cause);
    }

    /// These records had wrong checksums in two readings: they are lost, and the file is kept.
    pub fn damaged(&mut self, now: Instant, lane: Lane, first: u64, last: u64) {
        self.lanes[lane.index()].damaged(now, first, last);
    }

    /// These records of a segment are unreadable while others are readable: they are listed, and
    /// the file is kept for a later import.
    pub fn step_over(&mut self, lane: Lane, number: u64, first: u64, last: u64) {
        self.lanes[lane.index()].step_over(number, first, last);
    }

    /// Handles the result for segments that could not be opened earlier.
    pub(super) fn take_up(&mut self, now: Instant, lane: Lane, found: Resolution) {
        self.lanes[lane.index()].take_up(now, found);
    }

    /// For tests on a disk in memory: opens segments that could not be opened earlier, as the
    /// reading thread does; with `give_up`, those that still cannot be opened are unreadable.
    ///
    /// # Errors
    /// A segment still cannot be opened; never with `give_up`.
    #[doc(hidden)]
    pub fn open_unopened(&mut self, now: Instant, lane: Lane, give_up: bool) -> Result<(), StorageError> {
        loop {
            let sealed = self.lane(lane).view().sealed;
            let unopened = |segment: &&Arc<Segment>| {
                let holds_any = segment.first_sequence <= segment.last_sequence;
                segment.unopened && holds_any && !self.lane(lane).shelf.has(segment.number)
            };
            let Some(at) = sealed.iter().position(|segment| unopened(&segment)) else { return Ok(()) };
            let group: Vec<_> = sealed[at..].iter().take_while(|segment| segment.unopened).cloned().collect();
            let resolve = |fresh| recovery::resolve(&*self.storage, lane, &group, give_up, fresh);
            let mut found = resolve(false).map_err(|(_, error)| error)?;
            if !found.damaged.is_empty() {
                self.storage.wait_for_second_look();
                found = resolve(true).map_err(|(_, error)| error)?;
            }
            self.take_up(now, lane, found);
        }
    }

    /// These records of a file set aside are durable in their lane again; `None` = all on its list.
    pub fn imported(&mut self, lane: Lane, number: u64, taken: Option<&[(u64, u64)]>) {
        self.lanes[lane.index()].imported(&*self.storage, number, taken);
    }

    /// The broker has acknowledged the report of a loss with this count.
    pub fn loss_published(&mut self, now: Instant, lane: Lane, number: u64, count: u64) {
        self.lanes[lane.index()].loss_published(now, number, count);
    }

    // Calls for the operator's commands.

    /// The entries of the rejected store, oldest first.
    pub fn rejected(&self) -> impl Iterator<Item = &RejectedEntry> {
        self.rejected.entries()
    }

    /// The entry and body of a rejected reading, for [`super::record::decode`]. `None` if there is
    /// no such entry or it cannot be read now.
    pub fn read_rejected(&self, number: u64) -> Option<(RejectedEntry, Vec<u8>)> {
        Some((*self.rejected.entry(number)?, self.rejected.read(number).ok().flatten()?))
    }

    /// Discards a rejected record: its loss is committed, then it is removed. Returns false if
    /// there is no such entry.
    pub fn discard_rejected(&mut self, now: Instant, number: u64) -> bool {
        let Some(entry) = self.rejected.entry(number).copied() else { return false };
        if !self.removals.contains(&number) {
            self.lanes[entry.lane.index()].discard(now, entry.id);
            self.removals.push(number);
        }
        true
    }

    /// Removes rejected records that are in their lane again.
    ///
    /// # Errors
    /// [`StorageError`] of the storage; the records are then in both places.
    pub fn remove_rejected(&mut self, now: Instant, numbers: &[u64]) -> Result<(), StorageError> {
        self.rejected.remove(now, &*self.storage, numbers)
    }

    // Commits.

    /// Commits a batch for each lane, by [`Lane::index`], with the control state that is due, or
    /// all of it with `force`. The batches keep their bytes; the caller clears them.
    pub fn commit(&mut self, now: Instant, batches: &mut [Batch; 2], force: bool) -> [Outcome; 2] {
        self.move_rejected(now);
        for lane in Lane::ALL {
            self.release_wanted(now, lane);
        }
        let (storage, pool) = (&*self.storage, &mut self.pool);
        let force = force || !self.removals.is_empty();
        let mut outcomes = [Outcome::default(); 2];
        for ((lane, batch), outcome) in self.lanes.iter_mut().zip(batches).zip(&mut outcomes) {
            *outcome = lane.commit(now, storage, pool, batch, force);
        }
        self.finish_removals(now);
        self.note_witness();
        outcomes
    }

    fn note_witness(&mut self) {
        // The witness states that everything below the next sequence was committed, which is not
        // true until torn records are marked as such.
        let before = self.witness.last().unwrap_or_default().lanes;
        let of = |lane: &LaneWriter<S>| match lane.unnamed_gaps {
            true => before[lane.lane.index()],
            false => LaneWitness {
                next_sequence: lane.next_sequence(),
                released: lane.durable_released,
                run: lane.newest().0,
                number: lane.newest().1,
            },
        };
        let [high, normal] = &self.lanes;
        let witness = Witness { lanes: [of(high), of(normal)], rejected: self.rejected.seen() };
        self.witness.note(&*self.storage, witness);
    }

    /// Removes entries whose loss is durable, so that every discarded entry is reported.
    fn finish_removals(&mut self, now: Instant) {
        let waiting = self
            .reject_trouble
            .is_some_and(|(error, trouble)| error != RejectError::Full && now < trouble.retry_at);
        if !waiting && !self.removals.is_empty() && self.lanes.iter().all(|lane| !lane.control().is_dirty()) {
            let removals = std::mem::take(&mut self.removals);
            match self.rejected.remove(now, &*self.storage, &removals) {
                // There is room again for waiting rejects.
                Ok(()) => self.reject_trouble = None,
                Err(error) => {
                    self.removals = removals;
                    self.reject_failed(now, RejectError::Disk(error));
                }
            }
        }
    }

    /// Moves records that the broker refused. They are durable in the rejected store before a trim
    /// passes them.
    fn move_rejected(&mut self, now: Instant) {
        if self.reject_trouble.is_some_and(|(_, trouble)| now < trouble.retry_at) {
            return;
        }
        let mut moved = true;
        for lane in Lane::ALL {
            while !self.rejects[lane.index()].is_empty() {
                if !self.move_some(now, lane) {
                    // Records of the other lane may be readable.
                    moved = false;
                    break;
                }
            }
        }
        if moved {
            self.reject_trouble = None;
        }
    }

    fn move_some(&mut self, now: Instant, lane: Lane) -> bool {
        let index = lane.index();
        let mut records = Vec::new();
        let mut bytes = 0;
        // Some may have been dropped to make room in the meantime.
        let released = self.lanes[index].control().released;
        self.rejects[index].retain(|sequence, _| *sequence > released);
        for (sequence, reason) in self.rejects[index].clone() {
            let doubt = self.doubtful.get(&(index, sequence)).copied();
            match self.lanes[index].read(&*self.storage, sequence, doubt.is_some()) {
                Ok(Some(body)) => {
                    self.doubtful.remove(&(index, sequence));
                    self.unread.remove(&(index, sequence));
                    bytes += body.len();
                    records.push((lane, self.lanes[index].id_of(sequence), reason, body));
                }
                Ok(None) if doubt.is_some_and(|since| now >= since + SECOND_LOOK) => {
                    self.doubtful.remove(&(index, sequence));
                    self.lanes[index].damaged(now, sequence, sequence);
                    self.rejects[index].remove(&sequence);
                }
                Ok(None) => {
                    self.doubtful.entry((index, sequence)).or_insert(now);
                    return self.reject_failed(now, RejectError::Disk(StorageError::Other(EIO)));
                }
                Err(error) => {
                    // After the same time as for reading, it is listed as unreadable.
                    let since = *self.unread.entry((index, sequence)).or_insert(now);
                    if now < since + UNREAD_MAX {
                        return self.reject_failed(now, RejectError::Disk(error));
                    }
                    self.unread.remove(&(index, sequence));
                    self.rejects[index].remove(&sequence);
                    if let Some(number) = self.lanes[index].number_of(sequence) {
                        self.lanes[index].step_over(number, sequence, sequence);
                    }
                }
            }
            if bytes >= REJECTS_AT_ONCE {
                break;
            }
        }
        while !records.is_empty() {
            match self.rejected.add(now, &*self.storage, &records) {
                Ok(()) => {
                    for (_, id, ..) in &records {
                        self.rejects[index].remove(&id.sequence);
                        self.lanes[index].settle_one(now, id.sequence);
                    }
                    return true;
                }
                // Some of them may fit.
                Err(RejectError::Full) if records.len() > 1 => records.truncate(records.len() / 2),
                Err(error) => return self.reject_failed(now, error),
            }
        }
        true
    }

    fn reject_failed(&mut self, now: Instant, error: RejectError) -> bool {
        let storage_error = match error {
            RejectError::Full => StorageError::Full,
            RejectError::Disk(error) => error,
        };
        let before = self.reject_trouble.map(|(_, trouble)| trouble);
        self.reject_trouble = Some((error, Trouble::after(before, storage_error, now)));
        false
    }

    /// Requests a Checkpoint after all other frames, so that the next opening knows that nothing is
    /// missing at the end.
    pub fn ask_checkpoints(&mut self) {
        self.lanes.iter_mut().for_each(LaneWriter::ask_checkpoint);
    }

    fn watch_space(&mut self, now: Instant) {
        let full = RejectError::Disk(StorageError::Full);
        let is_full = self.lanes.iter().any(LaneWriter::is_disk_full)
            || self.pool.trouble().is_some_and(|trouble| trouble.is_full())
            || self.reject_trouble.is_some_and(|(error, _)| error == full);
        let needed = u64::from(self.lanes[0].layout.size);
        if !self.space.look(now, is_full, needed, || self.storage.free_bytes()) {
            return;
        }
        self.pool.retry_full(now);
        self.lanes.iter_mut().for_each(|lane| lane.retry_full(now));
        if let Some((_, trouble)) = self.reject_trouble.as_mut().filter(|(error, _)| *error == full) {
            trouble.retry_full(now);
        }
    }

    /// Recycles files and makes spare files one slice at a time; returns whether it should be
    /// called again soon.
    pub fn maintain(&mut self, now: Instant) -> bool {
        self.watch_space(now);
        // The records of the file are released; an older witness would report them as missing.
        let freed = self.lanes.iter().any(|lane| !lane.freed.is_empty());
        if freed {
            self.note_witness();
        }
        // If that fails, only the witness is outdated; the freed space is used anyway.
        if freed {
            self.witness.sync(&*self.storage);
        }
        let (storage, pool) = (&*self.storage, &mut self.pool);
        self.wants_spare = 1;
        for lane in &mut self.lanes {
            self.wants_spare += usize::from(lane.maintain(now, storage, pool));
        }
        let counted = self.lanes.iter().all(|lane| !lane.control().is_dirty());
        let lost = self.rejected.maintain(now, storage, counted);
        if lost > 0 {
            self.lanes[Lane::Normal.index()].lose_unnamed(now, lost);
        }
        pool.work(storage, self.wants_spare, now)
    }

    /// When [`Store::maintain`] must be called even if nothing is appended, and [`Store::commit`]
    /// if it is due ([`Store::is_commit_due`]).
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.work_deadline(now).into_iter().chain(self.space.deadline()).min()
    }

    /// Whether [`Store::commit`] must be called. A look at the free space of a full disk needs
    /// none, and so writes nothing.
    pub fn is_commit_due(&self, now: Instant) -> bool {
        self.work_deadline(now).is_some_and(|deadline| deadline <= now)
    }

    fn work_deadline(&self, now: Instant) -> Option<Instant> {
        // A removal waits until its loss is committed, which has its own deadline.
        let counted = self.lanes.iter().all(|lane| !lane.control().is_dirty());
        let removable = !self.removals.is_empty() && counted;
        let rejects = removable || self.rejects.iter().any(|rejects| !rejects.is_empty());
        let rejects = rejects.then(|| self.reject_trouble.map_or(now, |(_, trouble)| trouble.retry_at));
        let lanes = self.lanes.iter().flat_map(|lane| {
            let retry = lane.trouble().map(|trouble| trouble.retry_at);
            [lane.control_deadline(), retry, lane.shelf.deadline(now)]
        });
        let pool = self.pool.deadline();
        lanes.chain([rejects, pool, self.rejected.deadline(counted)]).flatten().min()
    }

    // Queries.

    /// The view for readers of a lane.
    pub fn view(&self, lane: Lane) -> LaneView<S::File> {
        self.lane(lane).view()
    }

    /// The sequence the first record of the next batch must have.
    pub fn next_sequence(&self, lane: Lane) -> u64 {
        self.lane(lane).next_sequence()
    }

    /// The run of records stored since the opening.
    pub fn run(&self, lane: Lane) -> u64 {
        self.lane(lane).run()
    }

    /// Records after the released ones that will not be read: lost or rejected.
    pub fn settled(&self, lane: Lane) -> &RangeSet {
        self.lane(lane).settled()
    }

    /// Losses that are durable and not yet published.
    pub fn losses(&self, lane: Lane) -> Vec<LossReport> {
        self.lane(lane).control().unpublished().collect()
    }

    /// The id of a record.
    pub fn id_of(&self, lane: Lane, sequence: u64) -> RecordId {
        self.lane(lane).id_of(sequence)
    }

    /// Bytes of record frames for which a lane has room; `u64::MAX` if it drops its oldest records.
    pub fn room(&self, lane: Lane) -> u64 {
        self.lane(lane).room(self.pool.trouble().is_none())
    }

    /// Why the disk cannot be written for this lane, or no file can be made.
    pub fn trouble(&self, lane: Lane) -> Option<StorageError> {
        self.lane(lane).trouble().or(self.pool.trouble()).map(|trouble| trouble.error)
    }

    /// Whether some readings are refused because of it.
    pub fn refuses(&self, lane: Lane) -> bool {
        self.is_failing(lane) || (self.pool.trouble().is_some() && self.room(lane) < LARGEST_READING)
    }

    /// Whether this lane refuses whatever it has room for.
    pub fn is_failing(&self, lane: Lane) -> bool {
        self.lane(lane).trouble().is_some()
    }

    /// Whether a lane has reached its limit.
    pub fn is_full(&self, lane: Lane) -> bool {
        self.lane(lane).is_full()
    }

    /// Largest frame of a record, in bytes.
    pub fn record_max(&self) -> usize {
        // After the longest possible Checkpoint.
        self.lanes[0].layout.room() as usize - 4096
    }

    /// Records dropped since the last call, for the log.
    pub fn take_dropped(&mut self, lane: Lane) -> u64 {
        self.lanes[lane.index()].take_dropped()
    }

    /// The sequence whose release triggers a separate commit.
    pub fn trim_at(&self, lane: Lane) -> u64 {
        self.lane(lane).durable_released + super::commit::TRIM_RECORDS
    }

    /// The id and body of the oldest record of a lane that is not released, read from the disk.
    pub fn read_oldest(&self, lane: Lane) -> Option<(RecordId, Vec<u8>)> {
        let writer = &self.lanes[lane.index()];
        let sequence = writer.control().released + 1;
        if sequence >= writer.next_sequence() {
            return None;
        }
        let body = writer.read(&self.storage, sequence, false).ok()??;
        Some((writer.id_of(sequence), body))
    }

    /// Sets new limits of the lanes. A lane above its new limit drops nothing at once: with the
    /// next record it refuses, or drops with the next segment, as `when-full` specifies.
    pub fn set_bounds(&mut self, bounds: [LaneSettings; 2]) {
        for (writer, bounds) in self.lanes.iter_mut().zip(bounds) {
            writer.bounds = bounds;
        }
    }

    /// The state of a lane.
    pub fn lane_status(&self, lane: Lane) -> LaneStatus {
        let writer = self.lane(lane);
        let control = writer.control();
        let last = writer.next_sequence() - 1;
        let settled = writer.settled().count_in(control.released + 1, last);
        let shelf = writer.shelf.shown();
        LaneStatus {
            records: (last - control.released)
                .saturating_sub(settled + writer.uncertain_in(control.released + 1, last)),
            bytes: writer.stored_bytes(),
            file_bytes: writer.used_bytes(),
            max_bytes: writer.bounds.max_bytes,
            full: writer.is_full(),
            drops_oldest: writer.bounds.when_full == WhenFull::DropOldest,
            lost: control.totals(),
            trouble: self.trouble(lane),
            refuses: self.refuses(lane),
            unreadable: shelf.iter().map(|aside| aside.records(AsideCause::Unreadable)).sum(),
            unopened: writer.sealed.iter().filter(|segment| segment.unopened).count() as u64,
            set_aside: shelf.len() as u64,
            shelf_trouble: writer.shelf.trouble(),
        }
    }

    /// The state of the rejected store.
    pub fn rejected_status(&self) -> RejectedStatus {
        RejectedStatus {
            records: self.rejected.len() as u64,
            own_reasons: self.rejected.own_reasons(),
            bytes: self.rejected.live_bytes(),
            max_bytes: self.rejected_max,
            room: self.rejected.room(),
            trouble: self.reject_trouble.map(|(error, _)| error),
            unread: self.rejected.unread(),
            lost: self.rejected.lost(),
        }
    }

    /// The files of a lane that are set aside, or will be.
    pub fn set_aside(&self, lane: Lane) -> Arc<[Aside]> {
        self.lane(lane).shelf.shown()
    }
}
