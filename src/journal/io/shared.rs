//! The state shared by the path's thread and the journal thread, under one mutex that is held for
//! about 100 ns at a time.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Instant;

use tokio::sync::{Notify, oneshot};

use super::disk::DiskFile;
use crate::journal::aside::Aside;
use crate::journal::commit::Failure;
use crate::journal::loss::{LossCause, LossReport};
use crate::journal::record::{Batch, Ticket};
use crate::journal::recovery::Resolution;
use crate::journal::settings::LaneSettings;
use crate::journal::store::{LaneStatus, RejectedStatus};
use crate::journal::view::LaneView;
use crate::message::{Content, Lane};

use crate::journal::answer::{
    OldestRecord, ReadTrouble, RejectedRead, RejectedRecord, RejectedWhole, Retried,
};

/// The shared state and its wake-ups.
pub(super) struct Shared {
    state: Mutex<State>,
    /// Wakes the journal thread.
    pub(super) work: Condvar,
    /// Wakes the path.
    pub(super) wake: Notify,
}

impl Shared {
    pub(super) fn new(state: State) -> Shared {
        Shared { state: Mutex::new(state), work: Condvar::new(), wake: Notify::new() }
    }

    /// Sends a command to the journal thread.
    pub(super) fn command(&self, command: Command) {
        let mut state = self.lock();
        state.commands.push(command);
        let tell = std::mem::take(&mut state.idle);
        drop(state);
        if tell {
            self.work.notify_one();
        }
    }

    /// A poisoned mutex means that a thread panicked, which `State::dead` tells too.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A completed batch: the first `committed` tickets belong to durable records.
pub(super) struct Done {
    pub(super) lane: Lane,
    pub(super) tickets: Vec<Option<Ticket>>,
    pub(super) committed: usize,
    pub(super) failure: Option<Failure>,
}

/// Commands of the path apart from appending.
pub(super) enum Command {
    Reject {
        lane: Lane,
        sequence: u64,
        reason: u8,
    },
    Lose {
        lane: Lane,
        first: u64,
        last: u64,
        cause: LossCause,
    },
    LossPublished {
        lane: Lane,
        number: u64,
        count: u64,
    },
    List {
        after: u64,
        limit: usize,
        answer: oneshot::Sender<RejectedRead<RejectedRecord>>,
    },
    Export {
        after: u64,
        bytes: usize,
        answer: oneshot::Sender<RejectedRead<RejectedWhole>>,
    },
    Retry {
        number: u64,
        answer: oneshot::Sender<Retried>,
    },
    Discard {
        number: u64,
        answer: oneshot::Sender<bool>,
    },
    Oldest {
        lane: Lane,
        answer: oneshot::Sender<Option<OldestRecord>>,
    },
    Bounds([LaneSettings; 2]),
    /// Records that two readings did not find.
    Damaged {
        lane: Lane,
        first: u64,
        last: u64,
    },
    /// Records in an unreadable place of the segment with this number.
    StepOver {
        lane: Lane,
        number: u64,
        first: u64,
        last: u64,
    },
    /// The result for segments that could not be opened before.
    TakeUp {
        lane: Lane,
        found: Resolution,
    },
    /// These records of a file set aside are in the lane again; `None` = all on its list.
    Imported {
        lane: Lane,
        number: u64,
        taken: Option<Vec<(u64, u64)>>,
    },
}

/// What both sides know of a lane.
pub(super) struct LaneState {
    /// The records for the next commit.
    pub(super) batch: Batch,
    /// The sequence of the next record appended.
    pub(super) next_sequence: u64,
    /// Bytes of frames for which there is room.
    pub(super) room: u64,
    /// Whether the disk fails, so that records are refused regardless of the room.
    pub(super) failing: bool,
    /// Whether there is no room because no file can be made.
    pub(super) disk_full: bool,
    /// The sequence up to which records are released.
    pub(super) release: u64,
    /// The sequence whose release wakes the journal thread.
    pub(super) trim_at: u64,
    /// The lane as of the last commit.
    pub(super) view: LaneView<DiskFile>,
    pub(super) losses: Arc<[LossReport]>,
    pub(super) status: LaneStatus,
    /// The files set aside.
    pub(super) shelf: Arc<[Aside]>,
    /// Why it cannot be read now.
    pub(super) reading: Option<ReadTrouble>,
    /// When the current disk operation of its reading thread began.
    pub(super) reading_since: Option<Instant>,
}

/// The whole shared state.
pub(super) struct State {
    pub(super) lanes: [LaneState; 2],
    pub(super) commands: Vec<Command>,
    /// Senders to notify when a record is durable (true) or failed; added together with the record.
    pub(super) awaiting: Vec<(Lane, u64, mpsc::Sender<bool>)>,
    /// Whether an import is in progress.
    pub(super) importing: bool,
    pub(super) done: Vec<Done>,
    /// Empty ticket lists for reuse.
    pub(super) tickets: Vec<Vec<Option<Ticket>>>,
    pub(super) rejected: RejectedStatus,
    /// The largest frame of a record, in bytes.
    pub(super) record_max: usize,
    /// Whether the thread waits and must be notified of the first record.
    pub(super) idle: bool,
    /// Whether the thread waits with a deadline for trims.
    pub(super) trim_armed: bool,
    /// When the current disk operation of the thread began.
    pub(super) busy_since: Option<Instant>,
    pub(super) closing: bool,
    /// Whether the thread has ended.
    pub(super) dead: bool,
    /// Whether a reading thread has ended.
    pub(super) reader_dead: bool,
}

impl State {
    /// Appends a record to a lane's batch; returns its sequence.
    pub(super) fn push(
        &mut self,
        lane: Lane,
        content: &Content<'_>,
        size: usize,
        original: Option<crate::message::RecordId>,
        ticket: Option<Ticket>,
    ) -> u64 {
        let state = &mut self.lanes[lane.index()];
        let sequence = state.next_sequence;
        // Its size was checked before, which is the only check that can fail.
        let pushed = state.batch.push(sequence, content, original, ticket);
        debug_assert!(pushed.is_ok());
        state.next_sequence += 1;
        state.room = state.room.saturating_sub(size as u64);
        sequence
    }

    /// Whether records wait to be committed.
    pub(super) fn has_records(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.batch.is_empty())
    }
}
