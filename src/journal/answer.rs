//! What the journal's handle answers with.

use std::time::Instant;

use crate::journal::record::Ticket;
use crate::journal::rejected::RejectedEntry;
use crate::journal::storage::StorageError;
use crate::journal::store::{LaneStatus, RejectedStatus};
use crate::message::{Content, ContentFormat, Envelope, Lane, Method, RecordId, Stamp};

/// Why a record is not taken. Whoever sent it is told so and can keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its lane is at its bound.
    LaneFull,
    /// The disk does not take records at present, or not fast enough.
    Failing,
    /// It is larger than a frame, or than a segment of the configured size, can hold.
    TooLarge,
    /// The journal is being closed.
    Closed,
}

/// Why a record that was taken is not stored. It may yet come: a refusal never proves non-delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// Its lane reached its bound.
    LaneFull,
    /// The disk did not take it.
    Disk(StorageError),
    /// The journal was closed before.
    Closed,
}

/// What became of an appended record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// As given to [`Journal::append`](super::Journal::append).
    pub ticket: Ticket,
    /// Its lane.
    pub lane: Lane,
    /// Whether it is durable.
    pub result: Result<(), Failed>,
}

/// A record is not put into the rejected store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectRefused {
    /// The store is full: the lane has to wait for its owner.
    Full,
    /// The disk did not take what was to go there before.
    Failing,
}

/// What stands next in a lane.
#[derive(Clone, Copy, Debug)]
pub enum Next<'a> {
    /// A record.
    Record(Stored<'a>),
    /// Nothing more is committed. A wake comes with the next commit.
    Empty,
    /// It is being read from the disk. A wake comes.
    Pending,
}

/// A committed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored<'a> {
    /// Its name for ever.
    pub id: RecordId,
    /// Its lane.
    pub lane: Lane,
    /// Its number in the lane.
    pub sequence: u64,
    /// Whether it was received since the system booted, so that its boot time can be compared with
    /// now.
    pub same_boot: bool,
    /// The id it had before it was rejected and retried.
    pub original: Option<RecordId>,
    /// What was received.
    pub content: Content<'a>,
}

/// Some records of the rejected store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRead<T> {
    /// Those that could be read, oldest first.
    pub records: Vec<T>,
    /// The number of the last that was looked at; `None`: there is none behind those asked for.
    pub last: Option<u64>,
    /// Whether there are more behind it.
    pub more: bool,
    /// Records that the disk does not give now, or whose content does not check.
    pub unreadable: u64,
}

impl<T> Default for RejectedRead<T> {
    fn default() -> Self {
        RejectedRead { records: Vec::new(), last: None, more: false, unreadable: 0 }
    }
}

/// What became of a record that was to be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retried {
    /// It is in its lane again, or on its way there.
    Sent,
    /// There is none of that number, or it cannot be read now.
    NotThere,
    /// Its lane takes no more at present.
    NoRoom,
}

/// A record in the rejected store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRecord {
    /// Its number there, its lane, id and reason.
    pub entry: RejectedEntry,
    /// Whose it is.
    pub device: String,
    /// Where in its space.
    pub path: String,
    /// Where it should have gone.
    pub topic: String,
    /// How long.
    pub payload_bytes: usize,
    /// When it was received.
    pub received: Stamp,
    /// The id it had before it was rejected for the first time and retried.
    pub original: Option<RecordId>,
}

/// A record in the rejected store, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedWhole {
    /// What a list shows of it.
    pub record: RejectedRecord,
    /// How its device said it.
    pub method: Method,
    /// What its payload is, if the device said.
    pub content_format: Option<ContentFormat>,
    /// Whether it was to be published with the retain flag.
    pub retain: bool,
    /// What its payload was to be wrapped in.
    pub envelope: Envelope,
    /// Seconds after which it expires.
    pub expires_s: Option<u32>,
    /// The bytes.
    pub payload: Vec<u8>,
}

/// How the journal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// By [`Lane::index`].
    pub lanes: [LaneStatus; 2],
    /// The rejected store.
    pub rejected: RejectedStatus,
    /// Since when the journal thread has been at one disk call or one round of them.
    pub busy_since: Option<Instant>,
    /// The journal thread is gone: nothing is stored any more.
    pub dead: bool,
    /// A thread that reads a lane is gone: its backlog does not leave any more.
    pub reader_dead: bool,
    /// By [`Lane::index`]: why it is not read at present.
    pub reading: [Option<ReadTrouble>; 2],
    /// By [`Lane::index`]: since when its reader has been at one disk call or one round of them.
    pub reading_since: [Option<Instant>; 2],
}

/// Why a lane is not read at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadTrouble {
    /// The number of the segment.
    pub segment: u64,
    /// Where in its file, in bytes.
    pub offset: u32,
    /// What the disk says.
    pub error: StorageError,
    /// Since when.
    pub since: Instant,
}
