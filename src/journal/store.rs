//! The whole journal but for threads and clocks: both lanes, the rejected store, and the files they
//! share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::aside::{Aside, AsideCause};
use super::commit::Outcome;
use super::lane::LaneWriter;
use super::loss::{LossCause, LossReport};
use super::pool::{Pool, Trouble};
use super::range::RangeSet;
use super::record::Batch;
use super::recovery::{self, LaneReport, RecoveryError, Resolution};
use super::rejected::{RejectError, RejectedEntry, RejectedReport, RejectedStore};
use super::retention;
use super::segment::Segment;
use super::settings::{LaneSettings, Settings};
use super::storage::{SECOND_LOOK, Storage, StorageError};
use super::view::LaneView;
use super::witness::{LaneWitness, Witness, WitnessFile};
use crate::message::{Lane, RecordId};

/// Most bytes of records moved to the rejected store in one commit.
const REJECTS_AT_ONCE: usize = 512 * 1024;

/// What it is called when the disk gives something else than was written.
const EIO: i32 = 5;

/// How long a record that is to be rejected may be unreadable before it is listed as that.
const UNREAD_MAX: Duration = Duration::from_secs(3600);

/// Chance, drawn by the shell at each opening.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// The lanes' runs, by [`Lane::index`].
    pub runs: [u64; 2],
    /// What the segments' salts are made from.
    pub salt: u64,
    /// The system's boot id.
    pub boot: [u8; 16],
}

/// What was found at the opening.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreReport {
    /// By [`Lane::index`].
    pub lanes: [LaneReport; 2],
    /// The rejected store.
    pub rejected: RejectedReport,
}

/// Bytes of the frame of a reading of 64 KiB with the longest names, about.
const LARGEST_READING: u64 = 72 << 10;

/// How one lane stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneStatus {
    /// Records stored that have not left.
    pub records: u64,
    /// Bytes they take, about.
    pub bytes: u64,
    /// Bytes of all the lane's files.
    pub file_bytes: u64,
    /// Its bound.
    pub max_bytes: u64,
    /// Records lost ever, by the order of [`LossCause::ALL`].
    pub lost: [u64; 5],
    /// Why the disk is not written to at present.
    pub trouble: Option<StorageError>,
    /// Because of that trouble some readings are refused; else there is room in the file in use, and
    /// only the next one cannot be made.
    pub refuses: bool,
    /// Records that could not be read, in files set aside: not lost, and not in `records`.
    pub unreadable: u64,
    /// Segments the disk does not give at present.
    pub unopened: u64,
    /// Files set aside, or to be.
    pub set_aside: u64,
    /// Why a file cannot be set aside at present.
    pub shelf_trouble: Option<StorageError>,
}

impl LaneStatus {
    /// Records acknowledged and lost ever. What a crash tore in its last commit was never
    /// acknowledged, and is not among them.
    pub fn lost_records(&self) -> u64 {
        let counted = LossCause::ALL.iter().zip(self.lost).filter(|(cause, _)| **cause != LossCause::Torn);
        counted.map(|(_, count)| count).sum()
    }
}

/// How the rejected store stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RejectedStatus {
    /// Records in it.
    pub records: u64,
    /// Bytes they take.
    pub bytes: u64,
    /// Its bound.
    pub max_bytes: u64,
    /// Bytes of frames that still find room.
    pub room: u64,
    /// Why it takes nothing at present.
    pub trouble: Option<RejectError>,
    /// Why a part of it, or all, cannot be read at present.
    pub unread: Option<StorageError>,
    /// Records that were in it and are lost, since it was opened.
    pub lost: u64,
}

/// Both lanes and the rejected store on one storage. Every call may block on the disk but those
/// that only say something.
pub struct Store<S: Storage> {
    storage: Arc<S>,
    pool: Pool<S>,
    lanes: [LaneWriter<S>; 2],
    rejected: RejectedStore<S>,
    rejected_max: u64,
    /// Records on their way to the rejected store: sequence → reason.
    rejects: [BTreeMap<u64, u8>; 2],
    reject_trouble: Option<(RejectError, Trouble)>,
    /// What the uplink has released, ahead of rejects under way.
    wanted: [u64; 2],
    /// Entries to be taken out once the lanes' next commit is durable.
    removals: Vec<u64>,
    /// Records to be rejected that were not where they should be: looked for again, past the page
    /// cache, before they count as damaged.
    doubtful: BTreeMap<(usize, u64), Instant>,
    /// Records to be rejected that the disk does not give, since when.
    unread: BTreeMap<(usize, u64), Instant>,
    wants_spare: usize,
    witness: WitnessFile<S>,
}

impl<S: Storage> Store<S> {
    /// Reads what is there and gets ready to write. Neither damage nor what the disk does not give
    /// keeps it from opening.
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
        // Nothing is renamed or deleted before all is read: another version's files are not this
        // one's to tidy.
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
            // It moved there and the crash came before the trim.
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
        };
        Ok((store, report))
    }

    fn lane(&self, lane: Lane) -> &LaneWriter<S> {
        &self.lanes[lane.index()]
    }

    // What the reading end says.

    /// All records up to and with `through` may go.
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

    /// This record is to go to the rejected store. Until it is there the trim stays before it.
    pub fn reject(&mut self, lane: Lane, sequence: u64, reason: u8) {
        let writer = self.lane(lane);
        if sequence > writer.control().released
            && sequence < writer.next_sequence()
            && !writer.settled().contains(sequence)
        {
            self.rejects[lane.index()].insert(sequence, reason);
        }
    }

    /// These records will never be published.
    pub fn lose(&mut self, now: Instant, lane: Lane, first: u64, last: u64, cause: LossCause) {
        self.lanes[lane.index()].lose(now, first, last, cause);
    }

    /// What was read of these records did not check, twice: they are lost, and the file is kept.
    pub fn damaged(&mut self, now: Instant, lane: Lane, first: u64, last: u64) {
        self.lanes[lane.index()].damaged(now, first, last);
    }

    /// The disk does not give these records of a segment, though it gives others: they are listed,
    /// and the file is kept for when it does.
    pub fn step_over(&mut self, lane: Lane, number: u64, first: u64, last: u64) {
        self.lanes[lane.index()].step_over(number, first, last);
    }

    /// Segments that could not be opened before are open now, or given up.
    pub(super) fn take_up(&mut self, now: Instant, lane: Lane, found: Resolution) {
        self.lanes[lane.index()].take_up(now, found);
    }

    /// Opens what could not be opened before, as the reading thread does; `give_up`: what still
    /// cannot be is unreadable. For tests on a disk in memory.
    ///
    /// # Errors
    /// Something still cannot be opened; not with `give_up`.
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

    /// These records of a file set aside are in their lane again, durably; all that is on its list,
    /// if it is `None`.
    pub fn imported(&mut self, lane: Lane, number: u64, taken: Option<&[(u64, u64)]>) {
        self.lanes[lane.index()].imported(&*self.storage, number, taken);
    }

    /// A loss has reached the broker, as far as it was told.
    pub fn loss_published(&mut self, now: Instant, lane: Lane, number: u64, count: u64) {
        self.lanes[lane.index()].loss_published(now, number, count);
    }

    // What the owner says.

    /// The entries of the rejected store, oldest first.
    pub fn rejected(&self) -> impl Iterator<Item = &RejectedEntry> {
        self.rejected.entries()
    }

    /// The body of a rejected reading; [`super::record::decode`] reads it. `None`: no such entry,
    /// or the disk does not give it now.
    pub fn read_rejected(&self, number: u64) -> Option<(RejectedEntry, Vec<u8>)> {
        Some((*self.rejected.entry(number)?, self.rejected.read(number).ok().flatten()?))
    }

    /// Gives a rejected record up: its loss is committed, then it is taken out. False: no such
    /// entry.
    pub fn discard_rejected(&mut self, now: Instant, number: u64) -> bool {
        let Some(entry) = self.rejected.entry(number).copied() else { return false };
        if !self.removals.contains(&number) {
            self.lanes[entry.lane.index()].discard(now, entry.id);
            self.removals.push(number);
        }
        true
    }

    /// A rejected record is in its lane again: it is taken out.
    ///
    /// # Errors
    /// As the storage says; then it is in both places.
    pub fn remove_rejected(&mut self, now: Instant, numbers: &[u64]) -> Result<(), StorageError> {
        self.rejected.remove(now, &*self.storage, numbers)
    }

    // Commits.

    /// Commits a batch for each lane, by [`Lane::index`], and whatever control state is due;
    /// `force`: all of it. The batches keep their bytes; the caller clears them.
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
        // All below the next sequence was committed: that is not so while what a crash tore is not
        // named as that.
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

    /// The losses of discarded entries come first, so that none goes unnamed.
    fn finish_removals(&mut self, now: Instant) {
        let waiting = self
            .reject_trouble
            .is_some_and(|(error, trouble)| error != RejectError::Full && now < trouble.retry_at);
        if !waiting && !self.removals.is_empty() && self.lanes.iter().all(|lane| !lane.control().is_dirty()) {
            let removals = std::mem::take(&mut self.removals);
            match self.rejected.remove(now, &*self.storage, &removals) {
                // There is room again for what waits.
                Ok(()) => self.reject_trouble = None,
                Err(error) => {
                    self.removals = removals;
                    self.reject_failed(now, RejectError::Disk(error));
                }
            }
        }
    }

    /// Moves records the broker refused. They are durable in the rejected store before a trim may
    /// pass them.
    fn move_rejected(&mut self, now: Instant) {
        if self.reject_trouble.is_some_and(|(_, trouble)| now < trouble.retry_at) {
            return;
        }
        let mut moved = true;
        for lane in Lane::ALL {
            while !self.rejects[lane.index()].is_empty() {
                if !self.move_some(now, lane) {
                    // The other lane's may be readable.
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
        // Some may have been dropped to make room meanwhile.
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
                    // As long as the reading end would wait; then it is listed as unreadable like
                    // any other.
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
                // Perhaps some of them fit.
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

    /// Asks for a mark behind all else, so that the next opening knows that nothing is missing at
    /// the end.
    pub fn ask_checkpoints(&mut self) {
        self.lanes.iter_mut().for_each(LaneWriter::ask_checkpoint);
    }

    /// Recycles, and makes spare files a slice at a time; whether to be called again soon.
    pub fn maintain(&mut self, now: Instant) -> bool {
        // What a file held has left; a witness that says less would call it missing.
        let freed = self.lanes.iter().any(|lane| !lane.freed.is_empty());
        if freed {
            self.note_witness();
        }
        // Where that fails it is only worse informed: what has left makes room all the same.
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

    /// When [`Store::commit`] or [`Store::maintain`] has something to do though nothing is
    /// appended.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        // A removal waits for its loss to be committed, which has a deadline of its own.
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

    // What it says.

    /// What readers of a lane need.
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

    /// Records above the released that will not be read: lost or rejected.
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

    /// Bytes of frames of records a lane still takes; `u64::MAX` where it drops its oldest.
    pub fn room(&self, lane: Lane) -> u64 {
        self.lane(lane).room(self.pool.trouble().is_none())
    }

    /// Why the disk is not written to for this lane, or no file can be made.
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

    /// Largest frame of a record, in bytes.
    pub fn record_max(&self) -> usize {
        // Behind the longest Checkpoint there can be.
        self.lanes[0].layout.room() as usize - 4096
    }

    /// Records dropped since it was last asked, for the log.
    pub fn take_dropped(&mut self, lane: Lane) -> u64 {
        self.lanes[lane.index()].take_dropped()
    }

    /// The sequence whose release is worth a commit of its own.
    pub fn trim_at(&self, lane: Lane) -> u64 {
        self.lane(lane).durable_released + super::commit::TRIM_RECORDS
    }

    /// The id and body of the oldest record of a lane that has not left, read from the disk.
    pub fn read_oldest(&self, lane: Lane) -> Option<(RecordId, Vec<u8>)> {
        let writer = &self.lanes[lane.index()];
        let sequence = writer.control().released + 1;
        if sequence >= writer.next_sequence() {
            return None;
        }
        let body = writer.read(&self.storage, sequence, false).ok()??;
        Some((writer.id_of(sequence), body))
    }

    /// Takes new bounds of the lanes. A lane that is over its new bound gives nothing up at once;
    /// it takes nothing, or makes room with the next record, as its bound says.
    pub fn set_bounds(&mut self, bounds: [LaneSettings; 2]) {
        for (writer, bounds) in self.lanes.iter_mut().zip(bounds) {
            writer.bounds = bounds;
        }
    }

    /// How a lane stands.
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
            lost: control.totals(),
            trouble: self.trouble(lane),
            refuses: self.refuses(lane),
            unreadable: shelf.iter().map(|aside| aside.records(AsideCause::Unreadable)).sum(),
            unopened: writer.sealed.iter().filter(|segment| segment.unopened).count() as u64,
            set_aside: shelf.len() as u64,
            shelf_trouble: writer.shelf.trouble(),
        }
    }

    /// How the rejected store stands.
    pub fn rejected_status(&self) -> RejectedStatus {
        RejectedStatus {
            records: self.rejected.len() as u64,
            bytes: self.rejected.live_bytes(),
            max_bytes: self.rejected_max,
            room: self.rejected.room(),
            trouble: self.reject_trouble.map(|(error, _)| error),
            unread: self.rejected.unread(),
            lost: self.rejected.lost(),
        }
    }

    /// Files of a lane that are set aside, or are to be.
    pub fn set_aside(&self, lane: Lane) -> Arc<[Aside]> {
        self.lane(lane).shelf.shown()
    }
}
