//! What the path's thread and the journal thread hand each other, under one mutex that is held for
//! some 100 ns at a time.

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
use crate::message::{Content, Lane, RecordId, Stamp};

use crate::journal::answer::{ReadTrouble, RejectedRead, RejectedRecord, RejectedWhole, Retried};

/// Both ends of the hand-over.
pub(super) struct Shared {
    state: Mutex<State>,
    /// The journal thread waits here.
    pub(super) work: Condvar,
    /// The path waits here.
    pub(super) wake: Notify,
}

impl Shared {
    pub(super) fn new(state: State) -> Shared {
        Shared { state: Mutex::new(state), work: Condvar::new(), wake: Notify::new() }
    }

    /// Has the journal thread do something.
    pub(super) fn command(&self, command: Command) {
        let mut state = self.lock();
        state.commands.push(command);
        let tell = std::mem::take(&mut state.idle);
        drop(state);
        if tell {
            self.work.notify_one();
        }
    }

    /// A poisoned mutex is that of a thread that died, which `State::dead` says too.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A batch that is done with: the first `committed` tickets are those of durable records.
pub(super) struct Done {
    pub(super) lane: Lane,
    pub(super) tickets: Vec<Option<Ticket>>,
    pub(super) committed: usize,
    pub(super) failure: Option<Failure>,
}

/// What the path wants done beside appending.
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
        answer: oneshot::Sender<Option<(RecordId, Stamp)>>,
    },
    Bounds([LaneSettings; 2]),
    /// Not where they should be, twice.
    Damaged {
        lane: Lane,
        first: u64,
        last: u64,
    },
    /// In a segment of this number, where the disk gives nothing.
    StepOver {
        lane: Lane,
        number: u64,
        first: u64,
        last: u64,
    },
    /// Segments that could not be opened before.
    TakeUp {
        lane: Lane,
        found: Resolution,
    },
    /// These records of a file set aside are in the lane again; all on its list, if it is `None`.
    Imported {
        lane: Lane,
        number: u64,
        taken: Option<Vec<(u64, u64)>>,
    },
}

/// What both sides know of a lane.
pub(super) struct LaneState {
    /// Collected for the next commit.
    pub(super) batch: Batch,
    /// Of the next record appended.
    pub(super) next_sequence: u64,
    /// Bytes of frames it still takes.
    pub(super) room: u64,
    /// The disk does not take records: whatever the room.
    pub(super) failing: bool,
    /// No room because no file can be made.
    pub(super) disk_full: bool,
    /// Release through.
    pub(super) release: u64,
    /// A release up to here is worth a wake.
    pub(super) trim_at: u64,
    /// As of the last commit.
    pub(super) view: LaneView<DiskFile>,
    pub(super) losses: Arc<[LossReport]>,
    pub(super) status: LaneStatus,
    /// Files set aside.
    pub(super) shelf: Arc<[Aside]>,
    /// Why it is not read at present.
    pub(super) reading: Option<ReadTrouble>,
    /// Since when its reader has been at the disk.
    pub(super) reading_since: Option<Instant>,
}

/// Everything.
pub(super) struct State {
    pub(super) lanes: [LaneState; 2],
    pub(super) commands: Vec<Command>,
    /// Who waits until a record is durable (true) or has failed; put here with the record itself.
    pub(super) awaiting: Vec<(Lane, u64, mpsc::Sender<bool>)>,
    /// A file set aside is being taken up.
    pub(super) importing: bool,
    pub(super) done: Vec<Done>,
    /// Emptied ticket lists to be used again.
    pub(super) tickets: Vec<Vec<Option<Ticket>>>,
    pub(super) rejected: RejectedStatus,
    /// Largest frame of a record.
    pub(super) record_max: usize,
    /// The thread waits and must be told of the first record.
    pub(super) idle: bool,
    /// The thread waits with a deadline for trims.
    pub(super) trim_armed: bool,
    /// Since when the thread is at the disk.
    pub(super) busy_since: Option<Instant>,
    pub(super) closing: bool,
    /// The thread is no more.
    pub(super) dead: bool,
    /// A thread that reads a lane is no more.
    pub(super) reader_dead: bool,
}

impl State {
    /// Appends a record to a lane's batch: its sequence.
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
        // Its size was asked before, which is the check that can fail.
        let pushed = state.batch.push(sequence, content, original, ticket);
        debug_assert!(pushed.is_ok());
        state.next_sequence += 1;
        state.room = state.room.saturating_sub(size as u64);
        sequence
    }

    /// Whether anything waits to be committed.
    pub(super) fn has_records(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.batch.is_empty())
    }
}
