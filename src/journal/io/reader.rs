//! Reads the backlog, on one thread per lane: a slow or failing disk delays neither the path nor a
//! commit nor the other lane.
//!
//! | result of the read | action |
//! |---|---|
//! | success | the bytes are supplied to the cursor |
//! | error | the lane waits, `status` shows it, and the read is retried after 1 s, 2 s, … 60 s |
//! | error for an hour, while other places can be read | the place is skipped, and its records are listed as unreadable |
//! | wrong checksum | it is read again after a second, bypassing the page cache; if it is wrong again it counts as damaged |

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::disk::{Disk, DiskFile};
use super::import;
use super::shared::{Command, Shared};
use crate::journal::answer::ReadTrouble;
use crate::journal::aside::AsideCause;
use crate::journal::cursor::{Cursor, Fetch, Step};
use crate::journal::pool::Trouble;
use crate::journal::range::RangeSet;
use crate::journal::recovery::{self, Resolution};
use crate::journal::scan;
use crate::journal::segment::Segment;
use crate::journal::storage::{Folder, SECOND_LOOK, Storage, StorageError, StoredFile};
use crate::journal::view::LaneView;
use crate::message::Lane;

/// Time for which a place may be unreadable, while others are not, before it is skipped.
pub(super) const PATIENCE: Duration = Duration::from_secs(3600);
/// Divisor of that time for a segment in which places were skipped before.
const SHELVED: u32 = 60;
/// The unit that a disk reads or fails to read, in bytes.
const PAGE: u32 = 4096;
/// Interval between retries of files set aside as unreadable.
const SHELF_EVERY: Duration = Duration::from_secs(86_400);
/// Number of other files that are read to distinguish a bad place from a failed disk.
const OTHERS: usize = 8;

/// A request of the path to the thread.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// Read bytes.
    Bytes(Fetch),
    /// Read again whether records between these sequences of a segment are missing; its frames end
    /// at `end`.
    Check { segment: Arc<Segment>, first: u64, last: u64, end: u32 },
    /// Open these neighbours in the chain.
    Open(Vec<Arc<Segment>>),
}

impl Wanted {
    fn is_same(&self, other: &Wanted) -> bool {
        match (self, other) {
            (Wanted::Bytes(one), Wanted::Bytes(other)) => {
                one.segment.number == other.segment.number && one.offset == other.offset
            }
            (
                Wanted::Check { segment: one, first, last, .. },
                Wanted::Check { segment: other, first: of, last: ol, .. },
            ) => one.number == other.number && first == of && last == ol,
            (Wanted::Open(one), Wanted::Open(other)) => {
                one.iter().map(|segment| segment.number).eq(other.iter().map(|segment| segment.number))
            }
            _ => false,
        }
    }
}

/// The answer to a request.
#[derive(Debug)]
pub(super) enum Answer {
    Bytes(Fetch, Vec<u8>),
    /// The bytes from the requested offset up to this one are unreadable.
    Hole(Fetch, u32),
    /// These records were not found in two readings.
    Checked(Vec<(u64, u64)>),
}

/// The request and the answer of one lane.
#[derive(Default)]
pub(super) struct Desk {
    state: Mutex<DeskState>,
    work: Condvar,
}

#[derive(Default)]
struct DeskState {
    wanted: Option<Wanted>,
    ready: Option<Answer>,
    /// The request being read, or waiting for a retry.
    under_way: Option<Wanted>,
    buffers: Vec<Vec<u8>>,
    closing: bool,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, DeskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the request unless it is already set; an earlier request is dropped.
    pub(super) fn ask(&self, wanted: Wanted) {
        let mut state = self.lock();
        let known = state.under_way.as_ref().is_some_and(|under_way| under_way.is_same(&wanted))
            || matches!((&state.ready, &wanted), (Some(Answer::Bytes(there, _)), Wanted::Bytes(fetch))
                if there.segment.number == fetch.segment.number && there.offset == fetch.offset);
        if !known {
            state.wanted = Some(wanted);
            drop(state);
            self.work.notify_one();
        }
    }

    /// The answer to this request; another answer is dropped.
    pub(super) fn take(&self, fetch: &Fetch) -> Option<Answer> {
        let mut state = self.lock();
        state.ready.take_if(|ready| match ready {
            Answer::Bytes(there, _) | Answer::Hole(there, _) => {
                there.segment.number == fetch.segment.number && there.offset == fetch.offset
            }
            Answer::Checked(_) => false,
        })
    }

    /// Records found missing twice since the last call.
    pub(super) fn take_checked(&self) -> Option<Vec<(u64, u64)>> {
        let mut state = self.lock();
        match state.ready.take_if(|ready| matches!(ready, Answer::Checked(_))) {
            Some(Answer::Checked(lost)) => Some(lost),
            _ => None,
        }
    }

    /// Returns a buffer for reuse.
    pub(super) fn give_back(&self, buffer: Vec<u8>) {
        let mut state = self.lock();
        if state.buffers.is_empty() {
            state.buffers.push(buffer);
        }
    }

    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.work.notify_all();
    }

    /// Waits; false if the request changed or the journal is being closed.
    fn wait(&self, time: Duration) -> bool {
        self.wait_unless(time, |state| state.closing || state.wanted.is_some())
    }

    /// Waits, regardless of requests; false if the journal is being closed.
    fn wait_through(&self, time: Duration) -> bool {
        self.wait_unless(time, |state| state.closing)
    }

    fn wait_unless(&self, time: Duration, ended: impl Fn(&DeskState) -> bool) -> bool {
        let until = Instant::now() + time;
        let mut state = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if ended(&state) {
                return false;
            }
            if left.is_zero() {
                return true;
            }
            let waited = self.work.wait_timeout(state, left);
            state = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
    }
}

/// An unreadable place.
#[derive(Clone, Copy, Debug)]
struct Failure {
    number: u64,
    offset: u32,
    error: StorageError,
}

/// The place at which a lane is stuck.
struct Stuck {
    at: Failure,
    since: Instant,
    trouble: Trouble,
}

/// The reading thread of one lane.
pub(super) struct Reader {
    pub(super) lane: Lane,
    pub(super) disk: Disk,
    pub(super) desk: Arc<Desk>,
    pub(super) shared: Arc<Shared>,
    pub(super) patience: Duration,
}

/// Reports that the thread has ended, also after a panic.
struct LastWords<'s>(&'s Shared);

impl Drop for LastWords<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.reader_dead |= !state.closing;
        drop(state);
        self.0.wake.notify_one();
    }
}

impl Reader {
    pub(super) fn run(self) {
        let shared = self.shared.clone();
        let _last_words = LastWords(&shared);
        let mut open = None;
        let mut stuck: Option<Stuck> = None;
        let mut shelf_at = Instant::now() + self.patience.min(SHELF_EVERY);
        loop {
            let Some((wanted, buffer)) = self.next(shelf_at) else {
                if self.desk.lock().closing {
                    return;
                }
                shelf_at = Instant::now() + SHELF_EVERY;
                self.retry_shelf();
                continue;
            };
            let give_up = stuck.as_ref().is_some_and(|stuck| stuck.since.elapsed() >= self.patience);
            self.busy(Some(Instant::now()));
            let served = self.serve(&wanted, &mut open, buffer, give_up, stuck.as_ref());
            self.busy(None);
            match served {
                Ok(answer) => {
                    if stuck.take().is_some() {
                        log::info!(lane = self.lane.as_str(); "the journal can be read again");
                    }
                    self.answer(answer);
                }
                Err(failure) => {
                    open = None;
                    let stuck = self.note(&mut stuck, failure);
                    self.tell(Some(stuck));
                    let until = stuck.trouble.retry_at;
                    if self.desk.wait(until.saturating_duration_since(Instant::now())) {
                        let mut state = self.desk.lock();
                        state.under_way = None;
                        state.wanted.get_or_insert(wanted);
                    } else {
                        self.desk.lock().under_way = None;
                    }
                }
            }
        }
    }

    /// The next request; `None` if it is time to retry the shelf, or to end.
    fn next(&self, shelf_at: Instant) -> Option<(Wanted, Vec<u8>)> {
        let mut state = self.desk.lock();
        loop {
            if state.closing {
                return None;
            }
            if let Some(wanted) = state.wanted.take() {
                state.under_way = Some(wanted.clone());
                return Some((wanted, state.buffers.pop().unwrap_or_default()));
            }
            let left = shelf_at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.desk.work.wait_timeout(state, left);
            state = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
    }

    fn answer(&self, answer: Option<Answer>) {
        self.tell(None);
        let mut state = self.desk.lock();
        state.under_way = None;
        if let Some(answer) = answer {
            state.ready = Some(answer);
        }
        drop(state);
        self.shared.wake.notify_one();
    }

    fn note<'s>(&self, stuck: &'s mut Option<Stuck>, at: Failure) -> &'s Stuck {
        let now = Instant::now();
        let same = stuck.take_if(|stuck| (stuck.at.number, stuck.at.offset) == (at.number, at.offset));
        if same.is_none() {
            log::error!(
                lane = self.lane.as_str(), segment:% = format_args!("{:016x}", at.number), offset = at.offset,
                reason:% = at.error;
                "the journal cannot be read; the lane waits, and the read is retried"
            );
        }
        let since = same.as_ref().map_or(now, |stuck| stuck.since);
        let before = same.map(|stuck| stuck.trouble);
        stuck.insert(Stuck { at, since, trouble: Trouble::after(before, at.error, now) })
    }

    /// Updates what `status` shows.
    fn tell(&self, stuck: Option<&Stuck>) {
        let trouble = stuck.map(|stuck| ReadTrouble {
            segment: stuck.at.number,
            offset: stuck.at.offset,
            error: stuck.at.error,
            since: stuck.since,
        });
        let mut state = self.shared.lock();
        state.lanes[self.lane.index()].reading = trouble;
    }

    fn busy(&self, since: Option<Instant>) {
        self.shared.lock().lanes[self.lane.index()].reading_since = since;
    }

    fn folder(&self) -> Folder {
        Folder::of(self.lane)
    }

    fn serve(
        &self,
        wanted: &Wanted,
        open: &mut Option<(u64, DiskFile)>,
        buffer: Vec<u8>,
        give_up: bool,
        stuck: Option<&Stuck>,
    ) -> Result<Option<Answer>, Failure> {
        match wanted {
            Wanted::Bytes(fetch) => {
                let read = self.bytes(fetch, open, buffer);
                let Err(failure) = read else { return read.map(Some) };
                let same = stuck.filter(|s| (s.at.number, s.at.offset) == (failure.number, failure.offset));
                // In a segment with skipped places the wait is shorter than an hour.
                let patience =
                    if self.is_shelved(failure.number) { self.patience / SHELVED } else { self.patience };
                let over = same.is_some_and(|stuck| stuck.since.elapsed() >= patience);
                if over && self.others_can_be_read(failure) {
                    return Ok(Some(Answer::Hole(fetch.clone(), self.end_of_hole(fetch))));
                }
                Err(failure)
            }
            Wanted::Check { segment, first, last, end } => {
                let missing = || self.missing(segment, *first, *last, *end);
                let mut once = RangeSet::default();
                missing()?.into_iter().for_each(|(first, last)| once.insert(first, last));
                if !self.desk.wait_through(SECOND_LOOK) {
                    return Ok(None);
                }
                let twice = missing()?;
                let lost = twice.into_iter().flat_map(|(first, last)| once.common_in(first, last)).collect();
                Ok(Some(Answer::Checked(lost)))
            }
            Wanted::Open(group) => {
                let found = self.open(group, give_up)?;
                if let Some(found) = found {
                    self.shared.command(Command::TakeUp { lane: self.lane, found });
                }
                Ok(None)
            }
        }
    }

    /// Reads the requested bytes up to the first unreadable place.
    fn bytes(
        &self,
        fetch: &Fetch,
        open: &mut Option<(u64, DiskFile)>,
        mut buffer: Vec<u8>,
    ) -> Result<Answer, Failure> {
        let number = fetch.segment.number;
        let failed = |error| Failure { number, offset: fetch.offset / PAGE * PAGE, error };
        let file = match open {
            Some((is, file)) if *is == number => file,
            _ => match self.disk.open(self.folder(), &fetch.segment.name()) {
                Ok(file) => &open.insert((number, file)).1,
                Err(StorageError::Missing) if self.is_folder_there() => {
                    // It was recycled or deleted; the cursor finds out which.
                    buffer.clear();
                    return Ok(Answer::Bytes(fetch.clone(), buffer));
                }
                Err(error) => return Err(failed(error)),
            },
        };
        let read = scan::read_region(file, fetch.offset, fetch.length as usize, &mut buffer);
        let Err(error) = read else { return Ok(Answer::Bytes(fetch.clone(), buffer)) };
        let mut page = Vec::new();
        let mut length = 0;
        while length < fetch.length {
            let at = fetch.offset + length;
            let step = (PAGE - at % PAGE).min(fetch.length - length);
            if scan::read_region(file, at, step as usize, &mut page).is_err() || page.len() < step as usize {
                break;
            }
            buffer.extend_from_slice(&page);
            length += step;
        }
        if length == 0 {
            return Err(failed(error));
        }
        Ok(Answer::Bytes(Fetch { length, ..fetch.clone() }, buffer))
    }

    /// Whether places in this segment were skipped before.
    fn is_shelved(&self, number: u64) -> bool {
        let shelf = self.shared.lock().lanes[self.lane.index()].shelf.clone();
        shelf.iter().any(|aside| aside.number == number && aside.cause() == AsideCause::Unreadable)
    }

    /// Whether the folder exists, so that a missing file was deleted and the folder is not just
    /// unmounted.
    fn is_folder_there(&self) -> bool {
        self.disk.list(self.folder()).is_ok_and(|files| !files.is_empty())
    }

    /// Whether other files can be read: otherwise the disk has failed, not just one place.
    fn others_can_be_read(&self, failure: Failure) -> bool {
        let own = crate::journal::segment::segment_name(failure.number);
        let mut tried = 0;
        let mut page = Vec::new();
        for folder in [self.folder(), Folder::High, Folder::Normal, Folder::Rejected, Folder::Spare] {
            for (name, size) in self.disk.list(folder).unwrap_or_default() {
                let is_own = folder == self.folder() && name == own;
                if size == 0 || tried >= OTHERS || is_own && failure.offset < PAGE {
                    continue;
                }
                tried += 1;
                let read = self.disk.open(folder, &name).and_then(|file| {
                    file.forget_cache();
                    scan::read_region(&file, 0, PAGE as usize, &mut page)
                });
                if read.is_ok() {
                    return true;
                }
            }
        }
        false
    }

    /// The end of the unreadable place, at most the end of the frames.
    fn end_of_hole(&self, fetch: &Fetch) -> u32 {
        let limit = fetch.segment.layout.frame_limit;
        let Ok(file) = self.disk.open(self.folder(), &fetch.segment.name()) else { return limit };
        let mut page = Vec::new();
        let mut at = (fetch.offset / PAGE + 1) * PAGE;
        while at < limit && scan::read_region(&file, at, PAGE as usize, &mut page).is_err() {
            at += PAGE;
        }
        at.min(limit)
    }

    /// The records of a segment that are missing although their place can be read, bypassing the
    /// page cache.
    fn missing(
        &self,
        segment: &Segment,
        first: u64,
        last: u64,
        end: u32,
    ) -> Result<Vec<(u64, u64)>, Failure> {
        let failed = |error| Failure { number: segment.number, offset: 0, error };
        let file = match self.disk.open(self.folder(), &segment.name()) {
            Ok(file) => file,
            Err(StorageError::Missing) if self.is_folder_there() => return Ok(vec![(first, last)]),
            Err(error) => return Err(failed(error)),
        };
        file.forget_cache();
        let segment = Segment { end, last_sequence: last, unopened: false, ..segment.clone() };
        let view: LaneView<DiskFile> = LaneView {
            sealed: Arc::from([Arc::new(segment)]),
            active: None,
            next_sequence: last + 1,
            released: first - 1,
        };
        let mut cursor = Cursor::new(first);
        let (mut lost, mut bytes) = (Vec::new(), Vec::new());
        loop {
            match cursor.advance(&view, &RangeSet::default()) {
                Step::Record | Step::Unreadable(..) => {}
                Step::Lost(first, last) => lost.push((first, last)),
                Step::Empty | Step::Unopened(_) => return Ok(lost),
                Step::Fetch(mut fetch) => {
                    if scan::read_region(&file, fetch.offset, fetch.length as usize, &mut bytes).is_err() {
                        fetch.length = fetch.length.min(PAGE - fetch.offset % PAGE);
                        if scan::read_region(&file, fetch.offset, fetch.length as usize, &mut bytes).is_err()
                        {
                            let to = fetch.offset + fetch.length;
                            cursor.supply_hole(&fetch, to);
                            continue;
                        }
                    }
                    cursor.supply(&fetch, &bytes);
                }
            }
        }
    }

    /// Opens segments that could not be opened before; `None` if the journal is being closed.
    fn open(&self, group: &[Arc<Segment>], give_up: bool) -> Result<Option<Resolution>, Failure> {
        let failed = |(number, error)| Failure { number, offset: 0, error };
        let resolve = |give_up, fresh| recovery::resolve(&self.disk, self.lane, group, give_up, fresh);
        let once = match resolve(false, false) {
            Ok(found) => found,
            Err(failure) if give_up && self.others_can_be_read(failed(failure)) => {
                resolve(true, false).map_err(failed)?
            }
            Err(failure) => return Err(failed(failure)),
        };
        if once.damaged.is_empty() {
            return Ok(Some(once));
        }
        if !self.desk.wait_through(SECOND_LOOK) {
            return Ok(None);
        }
        let twice = resolve(give_up, true).map_err(failed)?;
        match twice.damaged.iter().find(|number| !once.damaged.contains(number)) {
            Some(number) => Err(failed((*number, StorageError::Other(EIO)))),
            None => Ok(Some(twice)),
        }
    }

    /// Tries to import the unreadable records.
    fn retry_shelf(&self) {
        let shelf = self.shared.lock().lanes[self.lane.index()].shelf.clone();
        for aside in shelf.iter().filter(|aside| aside.cause() == AsideCause::Unreadable) {
            let taken = import::from_shelf(&self.disk, &self.shared, aside);
            match taken {
                Ok(taken) if taken.records > 0 => log::warn!(
                    lane = self.lane.as_str(), segment:% = format_args!("{:016x}", aside.number),
                    records = taken.records;
                    "records that could not be read before are in the journal again"
                ),
                Ok(_) => {}
                Err(error) => log::info!(
                    lane = self.lane.as_str(), segment:% = format_args!("{:016x}", aside.number), reason:% = error;
                    "a file set aside still cannot be read"
                ),
            }
        }
    }
}

/// The error for a place that returns different content at each read.
const EIO: i32 = 5;
