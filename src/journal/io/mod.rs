//! The journal's handle for the path's thread, which never waits for the disk.
//!
//! Appended records are collected for the next commit; their results are returned as
//! [`Completion`]s, with one wake per commit. The newest committed records are read from memory; a
//! backlog is read from the segment files by one thread per lane.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

mod directory;
mod disk;
mod import;
mod open;
mod reader;
mod shared;
mod thread;
mod verify;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

pub use disk::{Disk, DiskFile, storage_error};
pub use import::{ImportError, Imported};
pub use open::OpenReport;
pub use verify::{FileReport, Missing, verify};

use super::answer::{
    Completion, Failed, Next, OldestRecord, Refused, RejectRefused, RejectedRead, RejectedRecord,
    RejectedWhole, Retried, Status, Stored,
};
use super::aside::Aside;
use super::cursor::{Cursor, Fetch, Step};
use super::loss::{LossCause, LossReport};
use super::open_error::OpenError;
use super::range::RangeSet;
use super::record::{self, Batch, Ticket};
use super::segment::Segment;
use super::settings::{LaneSettings, Settings};
use super::share::{Share, Shares};
use super::store::LaneStatus;
use super::view::LaneView;
use crate::gate::stage::Mapped;
use crate::message::{Lane, RecordId};
use directory::Directory;
use open::open_store;
use reader::{Answer, Desk, Wanted};
use shared::{Command, Done, LaneState, Shared, State};

/// Most bytes that wait for one commit of one lane: more than collect while the disk works.
const BATCH_MAX: usize = 4 << 20;
/// Number of released records whose previous id is remembered.
const AGAIN_KEPT: u64 = 1024;
/// Most handed-out records whose length is remembered: about the number that an uplink has in
/// flight.
const HANDED_MAX: usize = 8192;
/// Longest time that closing waits for the reading threads.
const READERS_END: Duration = Duration::from_secs(2);
/// The name prefix of the threads.
const THREAD: &str = "tombolo-journal";

/// The reading state of the uplink in a lane.
struct Reader {
    cursor: Cursor,
    view: LaneView<DiskFile>,
    /// Records that must not be read: lost, rejected, or given up by the uplink.
    settled: RangeSet,
    released: u64,
    /// Records handed out and not released: sequence and length of the body.
    handed: VecDeque<(u64, u32)>,
    losses: Arc<[LossReport]>,
    /// Records that two readings did not find.
    missing: RangeSet,
    /// Whether a second reading is in progress.
    checking: bool,
}

/// The journal. It belongs to the path's thread; [`Journal::rejected`] gives handles for other
/// threads.
pub struct Journal {
    shared: Arc<Shared>,
    desks: [Arc<Desk>; 2],
    disk: Disk,
    threads: Vec<JoinHandle<()>>,
    readers: [Reader; 2],
    runs: [u64; 2],
    boot: [u8; 16],
    /// The completions being handed out, with the position in each.
    completing: VecDeque<(Done, usize)>,
    scratch: Vec<u8>,
    /// For retried and imported records handed out: the current and the first id, by lane and
    /// sequence.
    again: [BTreeMap<u64, (RecordId, RecordId)>; 2],
    shares: Shares,
    _directory: Directory,
}

impl Journal {
    /// Opens or creates the journal and starts its three threads. The time depends on the number of
    /// segments, not of records. Segments that cannot be read now are opened later.
    ///
    /// # Errors
    /// [`OpenError`]. Damage is not an error; it is in the report and in the losses.
    pub fn open(settings: &Settings) -> Result<(Journal, OpenReport), OpenError> {
        Journal::open_with(settings, reader::PATIENCE)
    }

    /// For tests: [`Journal::open`] with another time than an hour until an unreadable place is
    /// skipped.
    ///
    /// # Errors
    /// As [`Journal::open`].
    #[doc(hidden)]
    pub fn open_with(settings: &Settings, patience: Duration) -> Result<(Journal, OpenReport), OpenError> {
        let (store, directory, seeds, report) = open_store(settings)?;
        let lane_state = |lane: Lane| LaneState {
            batch: Batch::default(),
            next_sequence: store.next_sequence(lane),
            room: store.room(lane),
            failing: false,
            disk_full: false,
            release: store.view(lane).released,
            trim_at: store.trim_at(lane),
            view: store.view(lane),
            losses: store.losses(lane).into(),
            status: store.lane_status(lane),
            shelf: store.set_aside(lane),
            reading: None,
            reading_since: None,
        };
        let reader = |lane: Lane| Reader {
            cursor: Cursor::new(store.view(lane).released + 1),
            view: store.view(lane),
            settled: store.settled(lane).clone(),
            released: store.view(lane).released,
            handed: VecDeque::new(),
            losses: store.losses(lane).into(),
            missing: RangeSet::default(),
            checking: false,
        };
        let readers = [reader(Lane::High), reader(Lane::Normal)];
        let shared = Arc::new(Shared::new(State {
            lanes: [lane_state(Lane::High), lane_state(Lane::Normal)],
            commands: Vec::new(),
            awaiting: Vec::new(),
            importing: false,
            done: Vec::new(),
            tickets: Vec::new(),
            rejected: store.rejected_status(),
            record_max: store.record_max(),
            idle: false,
            trim_armed: false,
            busy_since: None,
            closing: false,
            dead: false,
            reader_dead: false,
        }));
        let desks = [Arc::new(Desk::default()), Arc::new(Desk::default())];
        let committer = thread::Committer {
            shared: shared.clone(),
            store,
            interval: settings.commit_interval,
            batches: Default::default(),
            retries: Vec::new(),
            trouble: [None; 2],
            changed: false,
        };
        let disk = Disk::new(&settings.directory);
        let readers_of = Lane::ALL.map(|lane| reader::Reader {
            lane,
            disk: disk.clone(),
            desk: desks[lane.index()].clone(),
            shared: shared.clone(),
            patience,
        });
        let mut journal = Journal {
            shared,
            desks,
            disk,
            threads: Vec::new(),
            readers,
            runs: seeds.runs,
            boot: seeds.boot,
            completing: VecDeque::new(),
            scratch: Vec::new(),
            again: Default::default(),
            shares: Shares::new(&settings.lanes),
            _directory: directory,
        };
        let name = || std::thread::Builder::new().name(THREAD.to_owned());
        for reader in readers_of {
            let reading = name().spawn(move || reader.run()).map_err(OpenError::Thread)?;
            journal.threads.push(reading);
        }
        let committing = name().spawn(move || committer.run()).map_err(OpenError::Thread)?;
        journal.threads.push(committing);
        Ok((journal, report))
    }

    /// Adds a record to the next commit of its lane. [`Journal::poll_completion`] returns its
    /// ticket when it is durable or failed.
    ///
    /// It takes nothing else, so what no gate let pass is not stored; tests get theirs from a gate.
    ///
    /// ```compile_fail,E0308
    /// use tombolo::journal::{Journal, Ticket};
    /// use tombolo::message::Content;
    /// fn store_what_no_rule_allows(journal: &mut Journal, content: &Content<'_>) {
    ///     let _ = journal.append(content, Ticket(1));
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Refused`]: the record was not accepted and has no completion.
    pub fn append(&mut self, record: &Mapped<'_>, ticket: Ticket) -> Result<RecordId, Refused> {
        let (lane, content) = (record.lane(), &record.content());
        let size = record::frame_size(content, None).map_err(|_| Refused::TooLarge)?;
        // The reply to a command is the gateway's own record.
        let device = record.rule().map(|_| content.device);
        if let Some(device) = device
            && !record.is_of_only_device()
            && !self.is_within_share(lane, device, size)
        {
            return Err(Refused::DeviceShare);
        }
        let mut state = self.shared.lock();
        if let Some(refused) = refusal(&state, lane, size) {
            return Err(refused);
        }
        let sequence = state.push(lane, content, size, None, Some(ticket));
        let tell = std::mem::take(&mut state.idle);
        drop(state);
        if tell {
            self.shared.work.notify_one();
        }
        self.shares.take(lane, device, sequence, size);
        Ok(RecordId { run: self.runs[lane.index()], sequence })
    }

    fn is_within_share(&mut self, lane: Lane, device: &str, size: usize) -> bool {
        let Journal { readers, shares, .. } = self;
        shares.release(lane, readers[lane.index()].released);
        if shares.allows(lane, device, size) {
            return true;
        }
        // What was dropped or rejected in the meantime is not known here yet.
        self.refresh(lane);
        self.shares.release(lane, self.readers[lane.index()].released);
        if self.shares.is_settled(lane) && self.shared.lock().lanes[lane.index()].status.records == 0 {
            self.shares.clear(lane);
        }
        self.shares.allows(lane, device, size)
    }

    /// What the records of a device take of each lane, by [`Lane::index`], since the journal was
    /// opened.
    pub fn share_of(&mut self, device: &str) -> [Share; 2] {
        let mut found = [Share::default(); 2];
        for lane in Lane::ALL {
            self.shares.release(lane, self.readers[lane.index()].released);
            found[lane.index()] = self.shares.of(lane, device);
        }
        found
    }

    /// The next completion; `None` if there is none.
    pub fn poll_completion(&mut self) -> Option<Completion> {
        loop {
            let Some((done, at)) = self.completing.front_mut() else {
                let mut state = self.shared.lock();
                if state.done.is_empty() {
                    return None;
                }
                self.completing.extend(state.done.drain(..).map(|done| (done, 0)));
                continue;
            };
            let Some(ticket) = done.tickets.get(*at).copied() else {
                let mut tickets = std::mem::take(&mut done.tickets);
                self.completing.pop_front();
                tickets.clear();
                let mut state = self.shared.lock();
                if state.tickets.len() < 4 {
                    state.tickets.push(tickets);
                }
                continue;
            };
            let result = if *at < done.committed { Ok(()) } else { Err(thread::failed(done.failure)) };
            *at += 1;
            if let Some(ticket) = ticket {
                self.shares.complete(done.lane, result.is_ok());
                return Some(Completion { ticket, lane: done.lane, result });
            }
        }
    }

    /// Completes when there are completions, committed records or losses, or when a record that was
    /// [`Next::Pending`] is available. An event before the call is not missed.
    pub async fn wake(&self) {
        self.shared.wake.notified().await;
    }

    /// A handle to await the journal without borrowing it.
    pub fn waker(&self) -> Waker {
        Waker(self.shared.clone())
    }

    /// Returns the record at the reading position of a lane and advances the position.
    pub fn next(&mut self, lane: Lane) -> Next<'_> {
        match self.advance(lane) {
            Ready::Record => {}
            Ready::Empty => return Next::Empty,
            Ready::Pending => return Next::Pending,
        }
        let reader = &self.readers[lane.index()];
        let Some((sequence, run, reading)) = reader.cursor.reading() else { return Next::Empty };
        let id = RecordId { run: run.run, sequence };
        if let Some(original) = reading.original {
            note_again(&mut self.again[lane.index()], reader.released, id, original);
        }
        Next::Record(Stored {
            id,
            lane,
            sequence,
            // The boot of a retried or imported record is known only if it is still in the same
            // run.
            same_boot: run.boot == self.boot
                && reading.original.is_none_or(|original| original.run == run.run),
            original: reading.original,
            content: reading.content,
        })
    }

    fn advance(&mut self, lane: Lane) -> Ready {
        let mut refreshed = false;
        if let Some(missing) = self.desks[lane.index()].take_checked() {
            let reader = &mut self.readers[lane.index()];
            missing.into_iter().for_each(|(first, last)| reader.missing.insert(first, last));
            reader.missing.forget_through(reader.released);
            reader.checking = false;
        }
        if self.readers[lane.index()].checking {
            return Ready::Pending;
        }
        loop {
            let reader = &mut self.readers[lane.index()];
            match reader.cursor.advance(&reader.view, &reader.settled) {
                Step::Record => {
                    if let Some((sequence, length)) = reader.cursor.length() {
                        reader.note_handed(sequence, length);
                    }
                    return Ready::Record;
                }
                Step::Empty if refreshed => return Ready::Empty,
                Step::Empty => {
                    refreshed = true;
                    self.refresh(lane);
                }
                Step::Lost(first, last) => {
                    if !self.is_lost(lane, first, last) {
                        return Ready::Pending;
                    }
                }
                Step::Unreadable(first, last, number) => {
                    self.refresh(lane);
                    let first = first.max(self.readers[lane.index()].view.released + 1);
                    if first <= last {
                        self.readers[lane.index()].settled.insert(first, last);
                        self.shared.command(Command::StepOver { lane, number, first, last });
                    }
                }
                Step::Unopened(segment) if refreshed => {
                    let group = unopened_group(&reader.view, &segment);
                    self.desks[lane.index()].ask(Wanted::Open(group));
                    return Ready::Pending;
                }
                Step::Unopened(_) => {
                    refreshed = true;
                    self.refresh(lane);
                }
                Step::Fetch(fetch) => {
                    if !self.fetch(lane, &fetch) {
                        return Ready::Pending;
                    }
                }
            }
        }
    }

    /// Whether missing records are lost, which a second reading of their segment decides. While
    /// that is in progress it returns false, and the cursor is before them again.
    fn is_lost(&mut self, lane: Lane, first: u64, last: u64) -> bool {
        self.refresh(lane);
        let reader = &mut self.readers[lane.index()];
        let first = first.max(reader.view.released + 1);
        if first > last {
            // They were released, and their file was recycled.
            return true;
        }
        // Between two segments there is no place to read again.
        let place = reader.view.locate(first).filter(|place| place.segment.first_sequence <= first);
        let confirmed = reader.missing.missing_in(first, last).is_empty();
        let Some(place) = place.filter(|_| !confirmed) else {
            reader.settled.insert(first, last);
            self.shared.command(Command::Damaged { lane, first, last });
            return true;
        };
        let (segment, last, end) = (place.segment.clone(), place.last_sequence, place.end);
        reader.cursor.seek(first);
        reader.checking = true;
        self.desks[lane.index()].ask(Wanted::Check { segment, first, last, end });
        false
    }

    /// Supplies the bytes that a cursor requests; false if they are being read.
    fn fetch(&mut self, lane: Lane, fetch: &Fetch) -> bool {
        let reader = &mut self.readers[lane.index()];
        let desk = &self.desks[lane.index()];
        let recent = reader
            .view
            .active
            .as_ref()
            .filter(|active| active.segment.number == fetch.segment.number)
            .is_some_and(|active| active.recent.read(fetch.offset, fetch.length, &mut self.scratch));
        if recent {
            reader.cursor.supply(fetch, &self.scratch);
            return true;
        }
        match desk.take(fetch) {
            Some(Answer::Bytes(fetched, bytes)) => {
                reader.cursor.supply(&fetched, &bytes);
                desk.give_back(bytes);
                if let Some(ahead) = reader.cursor.ahead(&reader.view).filter(|ahead| !ahead.hot) {
                    desk.ask(Wanted::Bytes(ahead));
                }
                true
            }
            Some(Answer::Hole(fetched, to)) => {
                reader.cursor.supply_hole(&fetched, to);
                true
            }
            Some(Answer::Checked(_)) | None => {
                desk.ask(Wanted::Bytes(fetch.clone()));
                false
            }
        }
    }

    fn refresh(&mut self, lane: Lane) {
        let state = self.shared.lock();
        let there = &state.lanes[lane.index()];
        let reader = &mut self.readers[lane.index()];
        reader.view = there.view.clone();
        reader.losses = there.losses.clone();
        drop(state);
        // Records dropped to make room need no separate release.
        reader.let_go(reader.view.released);
    }

    /// The id under which a handed-out record is published: the first one, if it was retried or
    /// imported.
    pub fn published_id(&self, lane: Lane, id: RecordId) -> RecordId {
        match self.again[lane.index()].get(&id.sequence) {
            Some((own, first)) if *own == id => *first,
            _ => id,
        }
    }

    /// The current id of a handed-out record that is published under this id; `None` if both are
    /// the same or the id is unknown.
    pub fn own_id(&self, published: RecordId) -> Option<RecordId> {
        // The last one, because earlier ones were released.
        let mut all = self.again.iter().flat_map(|lane| lane.values().rev());
        all.find(|(_, first)| *first == published).map(|(own, _)| *own)
    }

    /// Moves the reading position of a lane back to the oldest record that is neither released,
    /// rejected nor lost.
    pub fn rewind(&mut self, lane: Lane) {
        let reader = &mut self.readers[lane.index()];
        reader.handed.clear();
        reader.cursor.seek(reader.released + 1);
    }

    /// Moves the reading position of a lane to this record, or to the next one that is not
    /// released.
    pub fn seek(&mut self, lane: Lane, sequence: u64) {
        let reader = &mut self.readers[lane.index()];
        reader.cursor.seek(sequence.max(reader.released + 1));
    }

    /// The sequence of the newest record appended to a lane, durable or not yet.
    pub fn newest(&self, lane: Lane) -> u64 {
        self.shared.lock().lanes[lane.index()].next_sequence.saturating_sub(1)
    }

    /// Releases all records of a lane up to and including `sequence`: the broker has acknowledged
    /// them.
    pub fn release(&mut self, lane: Lane, sequence: u64) {
        let reader = &mut self.readers[lane.index()];
        reader.let_go(sequence);
        let mut state = self.shared.lock();
        let there = &mut state.lanes[lane.index()];
        there.release = there.release.max(sequence);
        let urgent =
            !state.commands.is_empty() || !state.trim_armed || sequence >= state.lanes[lane.index()].trim_at;
        let tell = urgent && std::mem::take(&mut state.idle);
        drop(state);
        if tell {
            self.shared.work.notify_one();
        }
    }

    /// Moves a record that the broker refused to the rejected store, with the reason code of the
    /// PUBACK. It counts as released when it is durable there; until then the lane's trim stays
    /// before it.
    ///
    /// # Errors
    /// [`RejectRefused`]: the record stays in the lane, and the lane must wait.
    pub fn reject(&mut self, lane: Lane, sequence: u64, reason: u8) -> Result<(), RejectRefused> {
        let reader = &mut self.readers[lane.index()];
        let length = reader.length_of(sequence).unwrap_or(super::frame::FRAME_MAX as u32);
        let size = u64::from(length) + 64;
        let mut state = self.shared.lock();
        if state.rejected.room < size {
            return Err(RejectRefused::Full);
        }
        match state.rejected.trouble {
            Some(super::RejectError::Full) | None => {}
            Some(super::RejectError::Disk(_)) => return Err(RejectRefused::Failing),
        }
        state.rejected.room -= size;
        drop(state);
        reader.settled.insert(sequence, sequence);
        self.command(Command::Reject { lane, sequence, reason });
        Ok(())
    }

    /// The loss at `index` in the lane's list of durable, unpublished losses; `None` beyond its
    /// end.
    pub fn loss(&mut self, lane: Lane, index: usize) -> Option<LossReport> {
        let reader = &mut self.readers[lane.index()];
        if index == 0 {
            reader.losses = self.shared.lock().lanes[lane.index()].losses.clone();
        }
        reader.losses.get(index).copied()
    }

    /// The broker has acknowledged the report of a loss with this count.
    pub fn loss_published(&mut self, lane: Lane, number: u64, count: u64) {
        self.command(Command::LossPublished { lane, number, count });
    }

    /// Gives up a record: it is reported and counted as lost, and counts as released.
    pub fn lose(&mut self, lane: Lane, sequence: u64, cause: LossCause) {
        self.lose_range(lane, sequence, sequence, cause);
    }

    fn lose_range(&mut self, lane: Lane, first: u64, last: u64, cause: LossCause) {
        if first <= last {
            self.readers[lane.index()].settled.insert(first, last);
            self.command(Command::Lose { lane, first, last, cause });
        }
    }

    fn command(&self, command: Command) {
        self.shared.command(command);
    }

    /// Sets new limits of the lanes; the other settings are fixed while the journal is open.
    pub fn set_bounds(&mut self, bounds: [LaneSettings; 2]) {
        self.shares.set_bounds(&bounds);
        self.command(Command::Bounds(bounds));
    }

    /// The state as of the last commit.
    pub fn status(&self) -> Status {
        let state = self.shared.lock();
        let mut lanes = [LaneStatus::default(); 2];
        for (status, lane) in lanes.iter_mut().zip(&state.lanes) {
            *status = lane.status;
        }
        Status {
            lanes,
            rejected: state.rejected,
            busy_since: state.busy_since,
            dead: state.dead,
            reader_dead: state.reader_dead,
            reading: [state.lanes[0].reading, state.lanes[1].reading],
            reading_since: [state.lanes[0].reading_since, state.lanes[1].reading_since],
        }
    }

    /// A handle that imports files set aside, for any thread.
    pub fn importer(&self) -> Importer {
        Importer { shared: self.shared.clone(), disk: self.disk.clone() }
    }

    /// The files of a lane that are set aside, or will be.
    pub fn set_aside(&self, lane: Lane) -> Arc<[Aside]> {
        self.shared.lock().lanes[lane.index()].shelf.clone()
    }

    /// A handle on the rejected store, for any thread.
    pub fn rejected(&self) -> Rejected {
        Rejected(self.shared.clone())
    }

    /// Commits all records and releases, and ends the threads. Completions can still be polled.
    pub fn close(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_all();
        self.desks.iter().for_each(|desk| desk.close());
        // The committing thread is the last one. A hanging read is not waited for.
        if let Some(committing) = self.threads.pop() {
            // A panic was already reported.
            drop(committing.join());
        }
        let until = std::time::Instant::now() + READERS_END;
        for reading in self.threads.drain(..) {
            while !reading.is_finished() && std::time::Instant::now() < until {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

enum Ready {
    Record,
    Empty,
    Pending,
}

/// Remembers the first id of a retried or imported record. Ids of released records are kept for a
/// while, because their results arrive later.
fn note_again(
    again: &mut BTreeMap<u64, (RecordId, RecordId)>,
    released: u64,
    id: RecordId,
    original: RecordId,
) {
    again.insert(id.sequence, (id, original));
    let left = released.saturating_sub(AGAIN_KEPT);
    while again.first_key_value().is_some_and(|(first, _)| *first < left) {
        again.pop_first();
    }
}

impl Reader {
    /// Remembers the length of a record's body; a record read again is already known.
    fn note_handed(&mut self, sequence: u64, length: u32) {
        if self.handed.back().is_none_or(|(last, _)| *last < sequence) {
            self.handed.push_back((sequence, length));
        } else if let Err(at) = self.handed.binary_search_by_key(&sequence, |(handed, _)| *handed) {
            self.handed.insert(at, (sequence, length));
        }
        if self.handed.len() > HANDED_MAX {
            self.handed.pop_front();
        }
    }

    fn length_of(&self, sequence: u64) -> Option<u32> {
        let at = self.handed.binary_search_by_key(&sequence, |(handed, _)| *handed).ok()?;
        Some(self.handed[at].1)
    }

    fn let_go(&mut self, sequence: u64) {
        self.released = self.released.max(sequence);
        while self.handed.front().is_some_and(|(at, _)| *at <= sequence) {
            self.handed.pop_front();
        }
        if let Some(end) = self.settled.end_of(self.released + 1) {
            self.released = end;
        }
        self.settled.forget_through(self.released);
    }
}

/// The segment and its unopened neighbours in the chain: which records each contains is only known
/// for all of them together.
fn unopened_group(view: &LaneView<DiskFile>, segment: &Segment) -> Vec<Arc<Segment>> {
    let at = view.sealed.iter().position(|other| other.number == segment.number).unwrap_or(0);
    let before = view.sealed[..at].iter().rev().take_while(|other| other.unopened).count();
    view.sealed[at - before..].iter().take_while(|other| other.unopened).cloned().collect()
}

/// Imports files that were set aside. It blocks on the disk and on commits, so it needs a separate
/// thread.
#[derive(Clone)]
pub struct Importer {
    shared: Arc<Shared>,
    disk: Disk,
}

impl Importer {
    /// Appends the records of a segment file that its list names to their lane, with their previous
    /// ids; with `all`, every record in it. `file` is a path in the journal's directory, absolute
    /// or relative to it.
    ///
    /// # Errors
    /// [`ImportError`]
    pub fn import(&self, file: &Path, all: bool) -> Result<Imported, ImportError> {
        let path = self.disk.directory().join(file);
        import::from_path(&self.disk, &self.shared, &path, all)
    }
}

/// A handle to await the journal without borrowing it.
#[derive(Clone)]
pub struct Waker(Arc<Shared>);

impl Waker {
    /// As [`Journal::wake`].
    pub async fn wake(&self) {
        self.0.wake.notified().await;
    }
}

/// The rejected store, for the operator's commands. Each call may take as long as a commit.
#[derive(Clone)]
pub struct Rejected(Arc<Shared>);

impl Rejected {
    /// Up to `limit` records with a number above `after`, oldest first. Also empty if the journal
    /// is closed.
    pub async fn list(&self, after: u64, limit: usize) -> RejectedRead<RejectedRecord> {
        let (answer, receiver) = oneshot::channel();
        self.tell(Command::List { after, limit, answer });
        receiver.await.unwrap_or_default()
    }

    /// Records with a number above `after`, with payload and oldest first, up to about `bytes`; at
    /// least one, if there is one.
    pub async fn export(&self, after: u64, bytes: usize) -> RejectedRead<RejectedWhole> {
        let (answer, receiver) = oneshot::channel();
        self.tell(Command::Export { after, bytes, answer });
        receiver.await.unwrap_or_default()
    }

    /// Appends a record to its lane again, as a new record that contains the old id.
    pub async fn retry(&self, number: u64) -> Retried {
        let (answer, receiver) = oneshot::channel();
        self.tell(Command::Retry { number, answer });
        receiver.await.unwrap_or(Retried::NoRoom)
    }

    /// The publication id and time of receipt of the oldest record of a lane that is not released.
    pub async fn oldest(&self, lane: Lane) -> Option<OldestRecord> {
        let (answer, receiver) = oneshot::channel();
        self.tell(Command::Oldest { lane, answer });
        receiver.await.ok().flatten()
    }

    /// Discards a record: it is counted and reported as lost. Returns false if there is no such
    /// record.
    pub async fn discard(&self, number: u64) -> bool {
        let (answer, receiver) = oneshot::channel();
        self.tell(Command::Discard { number, answer });
        receiver.await.unwrap_or_default()
    }

    fn tell(&self, command: Command) {
        let mut state = self.0.lock();
        if state.dead || state.closing {
            return;
        }
        state.commands.push(command);
        state.idle = false;
        drop(state);
        self.0.work.notify_one();
    }
}

/// Why a record of this size is refused now.
fn refusal(state: &State, lane: Lane, size: usize) -> Option<Refused> {
    let there = &state.lanes[lane.index()];
    if state.closing {
        return Some(Refused::Closed);
    }
    if state.dead || there.failing || there.batch.len() + size > BATCH_MAX {
        return Some(Refused::Failing);
    }
    if size > state.record_max {
        return Some(Refused::TooLarge);
    }
    if (size as u64) > there.room {
        return Some(if there.disk_full { Refused::Failing } else { Refused::LaneFull });
    }
    None
}
