//! The journal's cores on the fake disk, driven in virtual time: what its three threads do, as
//! events of the world.
//!
//! The order of things is that of `src/journal/io`: a commit begins once the interval has passed;
//! rejects come before the releases that would pass them; what was appended while a commit failed
//! fails with it; a read that fails is tried again after 1 s, 2 s, … 60 s, and stepped over after
//! an hour.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::chance::Chance;
use crate::ledger::{Holdings, Ledger, mark_of};
use crate::plant::Plant;
use crate::product::*;
use tombolo_test_support::journal::disk::{FakeDisk, FakeFile};

pub const SEGMENT: u32 = 65_536;
const INTERVAL: Duration = Duration::from_millis(10);
const SECTOR: u32 = 512;
const PATIENCE: Duration = Duration::from_secs(3600);
const BATCH_MAX: usize = 4 << 20;

pub fn settings(when_full: WhenFull, segments: u64, rejected: u64) -> journal::Settings {
    let lane = LaneSettings { max_bytes: segments * u64::from(SEGMENT), when_full, device_share: 100 };
    journal::Settings {
        directory: "unused".into(),
        max_bytes: (2 * segments + 6) * u64::from(SEGMENT) + rejected,
        commit_interval: INTERVAL,
        segment_bytes: SEGMENT,
        lanes: [lane; 2],
        rejected_max_bytes: rejected,
    }
}

/// One lane, as the path sees it.
struct LaneState {
    batch: Batch,
    marks: Vec<u64>,
    next_sequence: u64,
    room: u64,
    failing: bool,
    disk_full: bool,
    release: u64,
    view: LaneView<FakeFile>,
    losses: Vec<LossReport>,
}

/// Where the uplink stands in a lane.
struct Reader {
    cursor: Cursor,
    view: LaneView<FakeFile>,
    settled: RangeSet,
    released: u64,
    losses: Vec<LossReport>,
    /// Bytes that are being read: of which segment, from where, and when they are there.
    wanted: Option<(u64, u32, Instant)>,
    /// The disk does not give them: since when, and until when it is left alone.
    stuck: Option<(Instant, Instant, Duration)>,
    /// Records that were not there once: when it is looked again.
    doubt: Option<(u64, Instant)>,
    /// What cannot be opened is tried again then.
    unopened: Option<(Instant, Instant, Duration)>,
}

enum Command {
    Reject(Lane, u64, u8),
    Lose(Lane, u64, u64, LossCause),
    LossPublished(Lane, u64, u64),
    Damaged(Lane, u64, u64),
    StepOver(Lane, u64, u64, u64),
}

/// A commit whose outcome is not told yet.
struct Commit {
    until: Instant,
    outcomes: [Outcome; 2],
    tickets: [Vec<u128>; 2],
}

pub struct SimJournal {
    pub store: Store<FakeDisk>,
    disk: FakeDisk,
    boot: [u8; 16],
    now: Instant,
    lanes: [LaneState; 2],
    readers: [Reader; 2],
    commands: Vec<Command>,
    tickets: [Vec<u128>; 2],
    commit: Option<Commit>,
    last_start: Option<Instant>,
    done: VecDeque<Completion>,
    rejected_room: u64,
    chance: Chance,
    plant: Plant,
    ledger: Rc<RefCell<Ledger>>,
    /// Something happened that the uplink wants to know of.
    pub wake: bool,
    scratch: Vec<u8>,
}

impl SimJournal {
    pub fn open(
        now: Instant,
        disk: &FakeDisk,
        settings: &journal::Settings,
        seeds: Seeds,
        chance: Chance,
        plant: Plant,
        ledger: Rc<RefCell<Ledger>>,
    ) -> SimJournal {
        let (store, _) =
            Store::open(now, Arc::new(disk.clone()), settings, seeds).expect("the journal opens");
        let lane = |lane: Lane| LaneState {
            batch: Batch::default(),
            marks: Vec::new(),
            next_sequence: store.next_sequence(lane),
            room: store.room(lane),
            failing: false,
            disk_full: false,
            release: store.view(lane).released,
            view: store.view(lane),
            losses: store.losses(lane),
        };
        let reader = |lane: Lane| Reader {
            cursor: Cursor::new(store.view(lane).released + 1),
            view: store.view(lane),
            settled: store.settled(lane).clone(),
            released: store.view(lane).released,
            losses: store.losses(lane),
            wanted: None,
            stuck: None,
            doubt: None,
            unopened: None,
        };
        let mut journal = SimJournal {
            lanes: Lane::ALL.map(lane),
            readers: Lane::ALL.map(reader),
            rejected_room: store.rejected_status().room,
            store,
            disk: disk.clone(),
            boot: seeds.boot,
            now,
            commands: Vec::new(),
            tickets: Default::default(),
            commit: None,
            last_start: None,
            done: VecDeque::new(),
            chance,
            plant,
            ledger,
            wake: true,
            scratch: Vec::new(),
        };
        journal.tell_losses();
        journal
    }

    pub fn time(&mut self, now: Instant) {
        let before = std::mem::replace(&mut self.now, now);
        let mut reads = self.readers.iter().flat_map(Reader::deadlines).flatten();
        self.wake |= reads.any(|at| before < at && at <= now);
    }

    /// Whether readings wait to be completed.
    pub fn has_tickets(&self) -> bool {
        !self.done.is_empty() || self.commit.is_some() || self.lanes.iter().any(|lane| !lane.batch.is_empty())
    }

    // The path's side.

    pub fn append(&mut self, lane: Lane, content: &Content<'_>, ticket: u128) -> Result<RecordId, Refused> {
        let size = record::frame_size(content, None).map_err(|_| Refused::TooLarge)?;
        let record_max = self.store.record_max();
        let there = &mut self.lanes[lane.index()];
        if there.failing || there.batch.len() + size > BATCH_MAX {
            return Err(Refused::Failing);
        }
        if size > record_max {
            return Err(Refused::TooLarge);
        }
        if size as u64 > there.room {
            return Err(if there.disk_full { Refused::Failing } else { Refused::LaneFull });
        }
        let sequence = there.next_sequence;
        there.batch.push(sequence, content, None, Some(JournalTicket(ticket))).expect("its size was asked");
        there.next_sequence += 1;
        there.room = there.room.saturating_sub(size as u64);
        there.marks.push(mark_of(content.payload).unwrap_or(u64::MAX));
        self.tickets[lane.index()].push(ticket);
        Ok(RecordId { run: self.store.run(lane), sequence })
    }

    pub fn complete(&mut self, ticket: u128, stored: bool) {
        if let Some(ticket) = Ticket::unpack(ticket) {
            self.done.push_back(Completion { ticket, stored });
        }
    }

    pub fn poll_completion(&mut self) -> Option<Completion> {
        self.done.pop_front()
    }

    // The journal thread's side.

    /// When it has something to do.
    pub fn work_at(&self) -> Option<Instant> {
        if let Some(commit) = &self.commit {
            return Some(commit.until);
        }
        let now = self.now;
        let records = self.lanes.iter().any(|lane| !lane.batch.is_empty());
        let work = if records || !self.commands.is_empty() { Some(now) } else { self.store.deadline(now) };
        let may_start = self.last_start.map_or(now, |start| start + INTERVAL);
        let work = work.map(|work| work.max(may_start));
        // Once it is there, it waits until somebody asks.
        let reads = self.readers.iter().flat_map(Reader::deadlines).flatten().filter(|at| *at > now);
        if self.plant == Plant::DeadlineForgotten && records {
            return None;
        }
        reads.chain(work).min()
    }

    /// Does what is due. The disk's latency is drawn.
    pub fn work(&mut self, now: Instant) {
        self.now = now;
        if self.commit.as_ref().is_some_and(|commit| commit.until <= now) {
            self.finish();
        }
        if self.commit.is_none() && self.last_start.is_none_or(|start| start + INTERVAL <= now) {
            self.start();
        }
    }

    fn maintain(&mut self) {
        for round in 0.. {
            if !self.store.maintain(self.now) {
                break;
            }
            if round > 1_000 {
                self.ledger.borrow_mut().fail("the journal's maintenance never ends".to_owned());
                break;
            }
        }
    }

    fn start(&mut self) {
        let now = self.now;
        for command in std::mem::take(&mut self.commands) {
            match command {
                Command::Reject(lane, sequence, reason) => self.store.reject(lane, sequence, reason),
                Command::Lose(lane, first, last, cause) => self.store.lose(now, lane, first, last, cause),
                Command::LossPublished(lane, number, count) => {
                    self.store.loss_published(now, lane, number, count);
                }
                Command::Damaged(lane, first, last) => self.store.damaged(now, lane, first, last),
                Command::StepOver(lane, number, first, last) => {
                    self.store.step_over(lane, number, first, last);
                }
            }
        }
        self.apply_releases();
        let records = self.lanes.iter().any(|lane| !lane.batch.is_empty());
        if !records && !self.store.is_commit_due(now) {
            if self.store.deadline(now).is_some_and(|deadline| deadline <= now) {
                self.maintain();
            }
            self.publish_room();
            return;
        }
        self.last_start = Some(now);
        let first = Lane::ALL.map(|lane| self.store.next_sequence(lane));
        let mut batches = [Batch::default(), Batch::default()];
        for (lane, batch) in self.lanes.iter_mut().zip(&mut batches) {
            std::mem::swap(&mut lane.batch, batch);
        }
        let outcomes = self.store.commit(now, &mut batches, false);
        // What is durable is durable now, whoever hears of it when.
        for lane in Lane::ALL {
            let (index, run) = (lane.index(), self.store.run(lane));
            let marks = std::mem::take(&mut self.lanes[index].marks);
            for (sequence, mark) in (first[index]..).zip(marks).take(outcomes[index].records) {
                self.ledger.borrow_mut().committed(lane, RecordId { run, sequence }, mark);
            }
        }
        self.maintain();
        let latency = Duration::from_micros(500 + self.chance.draw(20_000));
        let tickets = std::mem::take(&mut self.tickets);
        self.commit = Some(Commit { until: now + latency, outcomes, tickets });
    }

    /// Unless rejects wait, which come first.
    fn apply_releases(&mut self) {
        if !self.commands.is_empty() && self.plant != Plant::ReleaseBeforeReject {
            return;
        }
        for lane in Lane::ALL {
            self.store.release(self.now, lane, self.lanes[lane.index()].release);
        }
    }

    fn finish(&mut self) {
        let Some(Commit { outcomes, tickets, .. }) = self.commit.take() else { return };
        for (lane, tickets) in Lane::ALL.into_iter().zip(tickets) {
            let index = lane.index();
            let outcome = outcomes[index];
            for (number, ticket) in tickets.into_iter().enumerate() {
                self.complete(ticket, number < outcome.records);
            }
            if outcome.failure.is_some() {
                // What was appended meanwhile has sequences that follow the failed ones.
                self.lanes[index].batch.clear();
                self.lanes[index].marks.clear();
                for ticket in std::mem::take(&mut self.tickets[index]) {
                    self.complete(ticket, false);
                }
                self.lanes[index].next_sequence = self.store.next_sequence(lane);
            }
        }
        self.apply_releases();
        self.publish();
        self.wake = true;
    }

    fn publish(&mut self) {
        let before = Lane::ALL.map(|lane| self.lanes[lane.index()].view.released);
        for lane in Lane::ALL {
            let there = &mut self.lanes[lane.index()];
            there.view = self.store.view(lane);
            there.losses = self.store.losses(lane);
        }
        self.rejected_room = self.store.rejected_status().room;
        self.publish_room();
        self.tell_losses();
        // What is trimmed is gone for ever.
        for lane in Lane::ALL {
            let released = self.lanes[lane.index()].view.released;
            let mut ledger = self.ledger.borrow_mut();
            ledger.released(lane, before[lane.index()] + 1, released, &RangeSet::default());
        }
    }

    fn publish_room(&mut self) {
        for lane in Lane::ALL {
            let there = &mut self.lanes[lane.index()];
            there.room = self.store.room(lane).saturating_sub(there.batch.len() as u64);
            there.failing = self.store.is_failing(lane);
            there.disk_full = self.store.trouble(lane).is_some();
        }
    }

    fn tell_losses(&mut self) {
        let mut ledger = self.ledger.borrow_mut();
        for lane in &self.lanes {
            lane.losses.iter().for_each(|loss| ledger.lost(*loss));
        }
    }

    // The reading side.

    /// Goes to the next record; what a `Record` is, [`SimJournal::current`] says.
    fn advance(&mut self, lane: Lane) -> Ready {
        let index = lane.index();
        let mut refreshed = false;
        if self.readers[index].doubt.is_some_and(|(_, at)| at > self.now) {
            return Ready::Pending;
        }
        loop {
            let reader = &mut self.readers[index];
            match reader.cursor.advance(&reader.view, &reader.settled) {
                Step::Record => return Ready::Record,
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
                    let reader = &mut self.readers[index];
                    let first = first.max(reader.view.released + 1);
                    if first <= last {
                        reader.settled.insert(first, last);
                        self.commands.push(Command::StepOver(lane, number, first, last));
                    }
                }
                Step::Unopened(_) if refreshed => {
                    if !self.open_unopened(lane) {
                        return Ready::Pending;
                    }
                    refreshed = false;
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

    fn is_lost(&mut self, lane: Lane, first: u64, last: u64) -> bool {
        self.refresh(lane);
        let now = self.now;
        let reader = &mut self.readers[lane.index()];
        let first = first.max(reader.view.released + 1);
        if first > last {
            return true;
        }
        match reader.doubt.take() {
            Some((doubted, at)) if doubted == first && at <= now => {
                reader.settled.insert(first, last);
                self.commands.push(Command::Damaged(lane, first, last));
                true
            }
            _ => {
                reader.doubt = Some((first, now + Duration::from_secs(1)));
                reader.cursor.seek(first);
                self.disk.wait_for_second_look();
                false
            }
        }
    }

    fn open_unopened(&mut self, lane: Lane) -> bool {
        let now = self.now;
        let reader = &mut self.readers[lane.index()];
        if reader.unopened.is_some_and(|(_, until, _)| until > now) {
            return false;
        }
        let give_up = reader.unopened.is_some_and(|(since, ..)| now >= since + PATIENCE);
        match self.store.open_unopened(now, lane, give_up) {
            Ok(()) => {
                self.readers[lane.index()].unopened = None;
                self.publish();
                self.refresh(lane);
                true
            }
            Err(_) => {
                let (since, wait) = match reader.unopened {
                    Some((since, _, wait)) => (since, (wait * 2).min(Duration::from_secs(60))),
                    None => (now, Duration::from_secs(1)),
                };
                reader.unopened = Some((since, now + wait, wait));
                false
            }
        }
    }

    fn fetch(&mut self, lane: Lane, fetch: &Fetch) -> bool {
        let now = self.now;
        let latency = Duration::from_micros(100 + self.chance.draw(3_000));
        let reader = &mut self.readers[lane.index()];
        let hot = reader.view.active.as_ref().filter(|active| active.segment.number == fetch.segment.number);
        if hot.is_some_and(|active| active.recent.read(fetch.offset, fetch.length, &mut self.scratch)) {
            reader.cursor.supply(fetch, &self.scratch);
            return true;
        }
        if reader.stuck.is_some_and(|(_, until, _)| until > now) {
            return false;
        }
        match reader.wanted {
            Some((number, offset, at)) if (number, offset) == (fetch.segment.number, fetch.offset) => {
                if at > now {
                    return false;
                }
            }
            _ => {
                reader.wanted = Some((fetch.segment.number, fetch.offset, now + latency));
                return false;
            }
        }
        reader.wanted = None;
        let read = match self.disk.open(Folder::of(lane), &fetch.segment.name()) {
            Ok(file) => read_prefix(&file, fetch.offset, fetch.length),
            // It was recycled meanwhile, or it is gone.
            Err(StorageError::Missing) => Ok(Vec::new()),
            Err(_) => Err(fetch.segment.layout.frame_limit),
        };
        match read {
            Ok(bytes) => {
                reader.stuck = None;
                let length = if bytes.is_empty() { fetch.length } else { bytes.len() as u32 };
                reader.cursor.supply(&Fetch { length, ..fetch.clone() }, &bytes);
                true
            }
            Err(to) if reader.stuck.is_some_and(|(since, ..)| now >= since + PATIENCE) => {
                reader.stuck = None;
                reader.cursor.supply_hole(fetch, to);
                true
            }
            Err(_) => {
                let (since, wait) = match reader.stuck {
                    Some((since, _, wait)) => (since, (wait * 2).min(Duration::from_secs(60))),
                    None => (now, Duration::from_secs(1)),
                };
                reader.stuck = Some((since, now + wait, wait));
                reader.wanted = Some((fetch.segment.number, fetch.offset, now + wait));
                false
            }
        }
    }

    fn refresh(&mut self, lane: Lane) {
        let there = &self.lanes[lane.index()];
        let reader = &mut self.readers[lane.index()];
        reader.view = there.view.clone();
        reader.losses = there.losses.clone();
        reader.let_go(reader.view.released);
    }

    /// All that can be read now, without the reader's patience.
    pub fn holdings(&self) -> Holdings {
        let mut holdings = Holdings::default();
        for lane in Lane::ALL {
            let view = self.store.view(lane);
            let mut cursor = Cursor::new(view.released + 1);
            loop {
                match cursor.advance(&view, self.store.settled(lane)) {
                    Step::Empty => break,
                    Step::Lost(..) => {}
                    Step::Unreadable(first, last, _) => holdings.unreadable.push((lane, first, last)),
                    Step::Unopened(segment) => {
                        holdings.unreadable.push((lane, cursor.position(), segment.last_sequence));
                        cursor.seek(segment.last_sequence + 1);
                    }
                    Step::Fetch(fetch) => {
                        let file = self.disk.open(Folder::of(lane), &fetch.segment.name());
                        let read = file.map(|file| read_prefix(&file, fetch.offset, fetch.length));
                        match read.unwrap_or(Err(fetch.segment.layout.frame_limit)) {
                            Ok(bytes) => {
                                let length = if bytes.is_empty() { fetch.length } else { bytes.len() as u32 };
                                cursor.supply(&Fetch { length, ..fetch }, &bytes);
                            }
                            Err(to) => cursor.supply_hole(&fetch, to),
                        }
                    }
                    Step::Record => {
                        let Some((sequence, _, reading)) = cursor.reading() else { continue };
                        let Some(mark) = mark_of(reading.content.payload) else { continue };
                        holdings.marks.insert(mark);
                        holdings.places.push((lane, sequence, mark));
                    }
                }
            }
            for aside in self.store.set_aside(lane).iter() {
                for range in &aside.ranges {
                    holdings.unreadable.push((lane, range.first.sequence, range.last.sequence));
                }
            }
        }
        let numbers: Vec<u64> = self.store.rejected().map(|entry| entry.number).collect();
        for number in numbers {
            let Some((_, body)) = self.store.read_rejected(number) else {
                holdings.rejected_unread = true;
                continue;
            };
            let mark = record::decode(&body).and_then(|reading| mark_of(reading.content.payload));
            holdings.marks.extend(mark);
        }
        holdings
    }
}

enum Ready {
    Record,
    Empty,
    Pending,
}

impl Reader {
    fn deadlines(&self) -> [Option<Instant>; 4] {
        let until = |stuck: Option<(Instant, Instant, Duration)>| stuck.map(|(_, until, _)| until);
        let read = self.wanted.map(|(.., at)| at);
        [read, until(self.stuck), self.doubt.map(|(_, at)| at), until(self.unopened)]
    }

    fn let_go(&mut self, sequence: u64) {
        self.released = self.released.max(sequence);
        if let Some(end) = self.settled.end_of(self.released + 1) {
            self.released = end;
        }
        self.settled.forget_through(self.released);
    }
}

/// What can be read before the first sector that cannot; the end of that one where it is the first.
fn read_prefix(file: &FakeFile, offset: u32, length: u32) -> Result<Vec<u8>, u32> {
    let mut out = vec![0; length as usize];
    if let Ok(read) = file.read_at(u64::from(offset), &mut out) {
        out.truncate(read);
        return Ok(out);
    }
    out.clear();
    let mut sector = [0; SECTOR as usize];
    while out.len() < length as usize {
        let at = offset + out.len() as u32;
        let step = (SECTOR - at % SECTOR).min(length - out.len() as u32);
        match file.read_at(u64::from(at), &mut sector[..step as usize]) {
            Ok(0) => break,
            Ok(read) => out.extend_from_slice(&sector[..read]),
            Err(_) if out.is_empty() => return Err(at + step),
            Err(_) => break,
        }
    }
    Ok(out)
}

/// The journal as the pipeline has it.
pub struct SimStore {
    pub journal: Rc<RefCell<SimJournal>>,
    pub ledger: Rc<RefCell<Ledger>>,
    pub plant: Plant,
}

impl ReadingStore for SimStore {
    fn append(&mut self, reading: &Mapped<'_>, ticket: Ticket) -> Result<RecordId, Refused> {
        let (lane, content) = (reading.lane(), reading.content());
        let mut journal = self.journal.borrow_mut();
        let appended = journal.append(lane, &content, ticket.pack());
        match appended {
            Ok(_) => self.ledger.borrow_mut().admitted(&content, lane),
            Err(_) if self.plant == Plant::RefusalSwallowed => {
                journal.complete(ticket.pack(), true);
                return Ok(RecordId { run: 0, sequence: 0 });
            }
            Err(_) => {}
        }
        if self.plant == Plant::AnswerBeforeCommit && appended.is_ok() {
            journal.complete(ticket.pack(), true);
        }
        appended
    }

    fn poll_completion(&mut self) -> Option<Completion> {
        let completion = self.journal.borrow_mut().poll_completion()?;
        self.ledger.borrow_mut().completed += u64::from(completion.stored);
        Some(completion)
    }
}

/// The journal as the uplink has it.
pub struct SimOutbox<'j> {
    pub journal: &'j mut SimJournal,
    pub plant: Plant,
}

impl SimOutbox<'_> {
    fn record(&self, lane: Lane) -> Option<Record<'_>> {
        let (sequence, run, reading) = self.journal.readers[lane.index()].cursor.reading()?;
        let mut content = reading.content;
        match self.plant {
            Plant::WrongDevice => content.topic = "tombolo/gw/other/up/t/env",
            Plant::PayloadChanged => content.payload = content.payload.split_last()?.1,
            _ => {}
        }
        Some(Record {
            id: RecordId { run: run.run, sequence },
            sequence,
            original: reading.original,
            same_boot: run.boot == self.journal.boot
                && reading.original.is_none_or(|original| original.run == run.run),
            content,
        })
    }
}

impl Outbox for SimOutbox<'_> {
    fn next(&mut self, lane: Lane) -> Next<'_> {
        match self.journal.advance(lane) {
            Ready::Empty => return Next::Empty,
            Ready::Pending => return Next::Pending,
            Ready::Record => {}
        }
        if self.plant == Plant::ReleaseBeforePuback {
            let sequence = self.record(lane).map(|record| record.sequence);
            sequence.into_iter().for_each(|sequence| self.release(lane, sequence));
        }
        match self.record(lane) {
            Some(record) => Next::Record(record),
            None => Next::Empty,
        }
    }

    fn rewind(&mut self, lane: Lane) {
        let reader = &mut self.journal.readers[lane.index()];
        reader.cursor.seek(reader.released + 1);
    }

    fn seek(&mut self, lane: Lane, sequence: u64) {
        let reader = &mut self.journal.readers[lane.index()];
        reader.cursor.seek(sequence.max(reader.released + 1));
    }

    fn newest(&self, lane: Lane) -> u64 {
        self.journal.lanes[lane.index()].next_sequence.saturating_sub(1)
    }

    fn release(&mut self, lane: Lane, sequence: u64) {
        let journal = &mut *self.journal;
        let reader = &mut journal.readers[lane.index()];
        journal.ledger.borrow_mut().released(lane, reader.released + 1, sequence, &reader.settled);
        reader.let_go(sequence);
        let there = &mut journal.lanes[lane.index()];
        there.release = there.release.max(sequence);
        if journal.commit.is_none() {
            journal.apply_releases();
        }
    }

    fn reject(&mut self, lane: Lane, sequence: u64, cause: Cause) -> Result<(), RejectedFull> {
        let journal = &mut *self.journal;
        let status = journal.store.rejected_status();
        let size = 2_048;
        if journal.rejected_room < size {
            return Err(RejectedFull);
        }
        if status.trouble.is_some_and(|trouble| trouble != journal::RejectError::Full) {
            return Err(RejectedFull);
        }
        journal.rejected_room -= size;
        journal.readers[lane.index()].settled.insert(sequence, sequence);
        journal.commands.push(Command::Reject(lane, sequence, cause.to_byte()));
        journal.ledger.borrow_mut().set_aside(lane, sequence);
        Ok(())
    }

    fn expire(&mut self, lane: Lane, sequence: u64) {
        let journal = &mut *self.journal;
        journal.ledger.borrow_mut().expired(lane, sequence);
        journal.readers[lane.index()].settled.insert(sequence, sequence);
        journal.commands.push(Command::Lose(lane, sequence, sequence, LossCause::Expired));
    }

    fn loss(&mut self, lane: Lane, index: usize) -> Option<Loss> {
        let journal = &mut *self.journal;
        if self.plant == Plant::LossUntold {
            return None;
        }
        let there = journal.lanes[lane.index()].losses.clone();
        let reader = &mut journal.readers[lane.index()];
        if index == 0 {
            reader.losses = there;
        }
        let report = reader.losses.get(index)?;
        Some(Loss {
            lane: report.lane,
            number: report.number,
            cause: report.cause.as_str(),
            count: report.count,
            first: report.first,
            last: report.last,
        })
    }

    fn loss_reported(&mut self, lane: Lane, number: u64, count: u64) {
        self.journal.commands.push(Command::LossPublished(lane, number, count));
    }
}
