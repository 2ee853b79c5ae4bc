//! The journal thread: takes the batches of both lanes, commits them, and returns all results with
//! one wake.
//!
//! A commit starts at the earliest `commit-interval` after the start of the last one, so after a
//! pause it starts at once: a single reading waits only for its own write and sync, and under load
//! the number of commits per second is bounded.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::shared::{Command, Done, Shared, State};
use super::{OldestRecord, RejectedRead, RejectedRecord, RejectedWhole, Retried};
use crate::journal::commit::{Failure, Outcome};
use crate::journal::record::{self, Batch, Reading};
use crate::journal::rejected::RejectedEntry;
use crate::journal::storage::StorageError;
use crate::journal::store::Store;
use crate::message::Lane;

pub(super) struct Committer {
    pub(super) shared: Arc<Shared>,
    pub(super) store: Store<Disk>,
    pub(super) interval: Duration,
    /// The batches being committed.
    pub(super) batches: [Batch; 2],
    /// Rejected records that are in these or the next batches: lane, sequence, number in the
    /// rejected store.
    pub(super) retries: Vec<(Lane, u64, u64)>,
    /// The last logged error of each lane.
    pub(super) trouble: [Option<StorageError>; 2],
    /// Whether a command changed the view of readers.
    pub(super) changed: bool,
}

/// Approximate size of an exported record without its text and payload, in bytes.
const EXPORTED_BYTES: usize = 512;

/// The amount read from the rejected store for one answer.
#[derive(Default)]
struct Looked {
    looked_at: usize,
    /// Bytes of text and payload, with [`EXPORTED_BYTES`] per record.
    bytes: usize,
}

/// Reports that the thread has ended, also after a panic.
struct LastWords<'s>(&'s Shared);

impl Drop for LastWords<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.dead = true;
        // Dropping the senders tells the waiting receivers that no result will come.
        state.awaiting.clear();
        drop(state);
        self.0.wake.notify_one();
    }
}

impl Committer {
    pub(super) fn run(mut self) {
        let shared = self.shared.clone();
        let _last_words = LastWords(&shared);
        let mut last_start: Option<Instant> = None;
        let mut more = true;
        loop {
            let (mut state, now) = self.wait(&shared, last_start, more);
            let closing = state.closing;
            let commands = std::mem::take(&mut state.commands);
            let may_start = closing || self.may_start(last_start) <= Some(now);
            if may_start {
                for (lane, batch) in state.lanes.iter_mut().zip(&mut self.batches) {
                    std::mem::swap(&mut lane.batch, batch);
                }
                for index in 0..self.batches.len() {
                    if let Some(tickets) = state.tickets.pop() {
                        state.lanes[index].batch.tickets = tickets;
                    }
                }
            }
            let releases = [state.lanes[0].release, state.lanes[1].release];
            state.busy_since = Some(now);
            drop(state);
            // Rejects are handled before a release that passes them.
            for command in commands {
                self.obey(now, command);
            }
            self.apply_releases(now, releases);
            let records = self.batches.iter().any(|batch| !batch.is_empty());
            if closing {
                self.store.ask_checkpoints();
            }
            let due = closing || records || self.store.is_commit_due(now);
            if may_start && due {
                last_start = Some(now);
                let outcomes = self.store.commit(now, &mut self.batches, closing);
                self.hand_back(outcomes);
            }
            self.report();
            if closing {
                return;
            }
            more = self.store.maintain(now);
            if std::mem::take(&mut self.changed) {
                let mut state = shared.lock();
                self.publish(&mut state);
                drop(state);
                shared.wake.notify_one();
            }
            self.publish_room();
        }
    }

    /// When the next commit may start; `None` = now.
    fn may_start(&self, last_start: Option<Instant>) -> Option<Instant> {
        last_start.map(|start| start + self.interval)
    }

    /// Waits until there is something to do.
    fn wait<'s>(
        &mut self,
        shared: &'s Shared,
        last_start: Option<Instant>,
        more: bool,
    ) -> (MutexGuard<'s, State>, Instant) {
        let mut state = shared.lock();
        loop {
            let now = Instant::now();
            if more || state.closing || !state.commands.is_empty() {
                return (state, now);
            }
            self.apply_releases(now, [state.lanes[0].release, state.lanes[1].release]);
            let work = if state.has_records() { Some(now) } else { self.store.deadline(now) };
            let due = work.map(|work| self.may_start(last_start).map_or(work, |start| work.max(start)));
            if due.is_some_and(|due| due <= now) {
                return (state, now);
            }
            // While records wait, no notification for further records is needed.
            state.idle = !state.has_records();
            state.trim_armed = due.is_some();
            state = match due {
                Some(due) => shared
                    .work
                    .wait_timeout(state, due - now)
                    .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state),
                None => shared.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            state.idle = false;
        }
    }

    fn apply_releases(&mut self, now: Instant, releases: [u64; 2]) {
        for lane in Lane::ALL {
            self.store.release(now, lane, releases[lane.index()]);
        }
    }

    fn obey(&mut self, now: Instant, command: Command) {
        match command {
            Command::Reject { lane, sequence, reason } => self.store.reject(lane, sequence, reason),
            Command::Lose { lane, first, last, cause } => self.store.lose(now, lane, first, last, cause),
            Command::LossPublished { lane, number, count } => {
                self.store.loss_published(now, lane, number, count);
            }
            // The receiver may have been dropped.
            Command::List { after, limit, answer } => {
                let _ = answer.send(self.list(after, limit));
            }
            Command::Export { after, bytes, answer } => {
                let _ = answer.send(self.export(after, bytes));
            }
            Command::Retry { number, answer } => {
                let _ = answer.send(self.retry(number));
            }
            Command::Discard { number, answer } => {
                let _ = answer.send(self.store.discard_rejected(now, number));
            }
            Command::Oldest { lane, answer } => {
                let _ = answer.send(self.oldest(lane));
            }
            Command::Bounds(bounds) => self.store.set_bounds(bounds),
            Command::Damaged { lane, first, last } => {
                log::error!(lane = lane.as_str(), first, last; "records are damaged and lost; they are reported on the loss topic");
                self.store.damaged(now, lane, first, last);
            }
            Command::StepOver { lane, number, first, last } => {
                log::error!(
                    lane = lane.as_str(), segment:% = format_args!("{number:016x}"), first, last;
                    "records cannot be read; they are listed as unreadable and kept, and the lane continues after them"
                );
                self.store.step_over(lane, number, first, last);
            }
            Command::TakeUp { lane, found } => {
                log::info!(
                    lane = lane.as_str(), opened = found.opened.len(), damaged = found.damaged.len(),
                    unreadable = found.unreadable.len();
                    "segments that could not be opened before"
                );
                self.store.take_up(now, lane, found);
                self.changed = true;
            }
            Command::Imported { lane, number, taken } => {
                self.store.imported(lane, number, taken.as_deref());
                self.changed = true;
            }
        }
    }

    /// The runs of this opening, by lane.
    fn runs(&self) -> [u64; 2] {
        Lane::ALL.map(|lane| self.store.run(lane))
    }

    fn oldest(&self, lane: Lane) -> Option<OldestRecord> {
        let (id, body) = self.store.read_oldest(lane)?;
        let reading = record::decode(&body)?;
        let id = reading.original.unwrap_or(id);
        let same_boot = id.run == self.store.run(lane);
        Some(OldestRecord { id, received: reading.content.received, same_boot })
    }

    fn list(&self, after: u64, limit: usize) -> RejectedRead<RejectedRecord> {
        let runs = self.runs();
        self.read_rejected(
            after,
            |read| read.looked_at < limit,
            |entry, reading| listed(entry, reading, runs),
        )
    }

    /// Reads records of the rejected store after number `after`, while `go_on` returns true.
    fn read_rejected<T>(
        &self,
        after: u64,
        go_on: impl Fn(&Looked) -> bool,
        mut made: impl FnMut(RejectedEntry, &Reading<'_>) -> T,
    ) -> RejectedRead<T> {
        let numbers: Vec<u64> =
            self.store.rejected().map(|entry| entry.number).filter(|number| *number > after).collect();
        let mut out = RejectedRead::default();
        let mut looked = Looked::default();
        for number in numbers {
            if !go_on(&looked) {
                out.more = true;
                break;
            }
            out.last = Some(number);
            looked.looked_at += 1;
            let read = self.store.read_rejected(number);
            match read.as_ref().and_then(|(entry, body)| Some((*entry, record::decode(body)?))) {
                Some((entry, reading)) => {
                    let content = &reading.content;
                    let text = content.device.len() + content.path.len() + content.topic.len();
                    looked.bytes += EXPORTED_BYTES + text + content.payload.len();
                    out.records.push(made(entry, &reading));
                }
                None => out.unreadable += 1,
            }
        }
        out
    }

    /// Records after number `after`, with payload, until they have `bytes`; at least one, if there
    /// is one.
    fn export(&self, after: u64, bytes: usize) -> RejectedRead<RejectedWhole> {
        let runs = self.runs();
        let whole = |entry, reading: &Reading<'_>| {
            let content = &reading.content;
            RejectedWhole {
                record: listed(entry, reading, runs),
                method: content.method,
                query: content.query.map(str::to_owned),
                content_format: content.content_format,
                retain: content.retain,
                envelope: content.envelope,
                expires_s: content.expires_s,
                payload: content.payload.to_vec(),
            }
        };
        self.read_rejected(after, |read| read.bytes < bytes, whole)
    }

    /// Appends a rejected record to its lane again. It is removed from the store when it is durable
    /// in the lane.
    fn retry(&mut self, number: u64) -> Retried {
        if self.retries.iter().any(|(.., under_way)| *under_way == number) {
            return Retried::Sent;
        }
        let Some((entry, body)) = self.store.read_rejected(number) else { return Retried::NotThere };
        let Some(reading) = record::decode(&body) else { return Retried::NotThere };
        let original = Some(reading.original.unwrap_or(entry.id));
        let Ok(size) = record::frame_size(&reading.content, original) else { return Retried::NotThere };
        let mut state = self.shared.lock();
        if super::refusal(&state, entry.lane, size).is_some() {
            return Retried::NoRoom;
        }
        let sequence = state.push(entry.lane, &reading.content, size, original, None);
        drop(state);
        self.retries.push((entry.lane, sequence, number));
        Retried::Sent
    }

    /// Returns the results of the batches to the path.
    fn hand_back(&mut self, outcomes: [Outcome; 2]) {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        for lane in Lane::ALL {
            let index = lane.index();
            let outcome = outcomes[index];
            let batch = &mut self.batches[index];
            if !batch.is_empty() {
                let tickets = std::mem::take(&mut batch.tickets);
                state.done.push(Done { lane, tickets, committed: outcome.records, failure: outcome.failure });
            }
            batch.clear();
            if outcome.failure.is_some() {
                // Records appended meanwhile have sequences after the failed ones, so they fail
                // too.
                let waiting = std::mem::take(&mut state.lanes[index].batch);
                if !waiting.is_empty() {
                    state.done.push(Done {
                        lane,
                        tickets: waiting.tickets,
                        committed: 0,
                        failure: outcome.failure,
                    });
                }
                state.lanes[index].next_sequence = self.store.next_sequence(lane);
            }
        }
        self.publish(&mut state);
        // After a failure all appended records have failed, including those appended meanwhile.
        let store = &self.store;
        state.awaiting.retain(|(lane, sequence, answer)| {
            let durable = *sequence < store.next_sequence(*lane);
            let decided = durable || outcomes[lane.index()].failure.is_some();
            // The receiver may have been dropped.
            decided.then(|| answer.send(durable)).is_none()
        });
        drop(state);
        shared.wake.notify_one();
        self.finish_retries(outcomes);
    }

    fn finish_retries(&mut self, outcomes: [Outcome; 2]) {
        let store = &self.store;
        let mut done = Vec::new();
        self.retries.retain(|(lane, sequence, number)| {
            if *sequence < store.next_sequence(*lane) {
                done.push(*number);
                return false;
            }
            outcomes[lane.index()].failure.is_none()
        });
        if !done.is_empty()
            && let Err(error) = self.store.remove_rejected(Instant::now(), &done)
        {
            log::warn!(reason:% = error; "retried records stay in the rejected store too");
        }
    }

    fn publish(&self, state: &mut State) {
        state.rejected = self.store.rejected_status();
        for lane in Lane::ALL {
            let there = &mut state.lanes[lane.index()];
            there.view = self.store.view(lane);
            there.trim_at = self.store.trim_at(lane);
            there.status = self.store.lane_status(lane);
            there.shelf = self.store.set_aside(lane);
            let losses = self.store.losses(lane);
            if losses[..] != there.losses[..] {
                there.losses = losses.into();
            }
            self.publish_lane_room(state, lane);
        }
    }

    fn publish_lane_room(&self, state: &mut State, lane: Lane) {
        let there = &mut state.lanes[lane.index()];
        there.room = self.store.room(lane).saturating_sub(there.batch.len() as u64);
        there.failing = self.store.is_failing(lane);
        let trouble = self.store.trouble(lane);
        there.disk_full = trouble.is_some();
        // What heals between two commits is said at once, though nothing is committed.
        (there.status.trouble, there.status.refuses) = (trouble, self.store.refuses(lane));
        there.status.full = self.store.is_full(lane);
    }

    fn publish_room(&self) {
        let mut state = self.shared.lock();
        state.busy_since = None;
        for lane in Lane::ALL {
            self.publish_lane_room(&mut state, lane);
        }
    }

    /// Logs changes of state.
    fn report(&mut self) {
        for lane in Lane::ALL {
            let dropped = self.store.take_dropped(lane);
            if dropped > 0 {
                log::error!(lane = lane.as_str(), count = dropped; "oldest records dropped to make room");
            }
            let trouble = self.store.trouble(lane);
            let before = std::mem::replace(&mut self.trouble[lane.index()], trouble);
            match trouble {
                Some(error) if before != trouble => {
                    log::error!(lane = lane.as_str(), reason:% = error; "journal cannot write");
                }
                None if before.is_some() => log::info!(lane = lane.as_str(); "journal writes again"),
                _ => {}
            }
        }
    }
}

fn listed(entry: RejectedEntry, reading: &record::Reading<'_>, runs: [u64; 2]) -> RejectedRecord {
    let content = &reading.content;
    let run = reading.original.unwrap_or(entry.id).run;
    RejectedRecord {
        entry,
        device: content.device.to_owned(),
        path: content.path.to_owned(),
        topic: content.topic.to_owned(),
        payload_bytes: content.payload.len(),
        received: content.received,
        same_boot: run == runs[entry.lane.index()],
        original: reading.original,
    }
}

/// The error for the sender of a failed record.
pub(super) fn failed(failure: Option<Failure>) -> super::Failed {
    match failure {
        Some(Failure::LaneFull) => super::Failed::LaneFull,
        Some(Failure::Disk(error) | Failure::NoSegment(error)) => super::Failed::Disk(error),
        None => super::Failed::Closed,
    }
}
