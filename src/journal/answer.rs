//! The results that the journal's handle returns.

use std::time::Instant;

use crate::journal::record::Ticket;
use crate::journal::rejected::RejectedEntry;
use crate::journal::storage::StorageError;
use crate::journal::store::{LaneStatus, RejectedStatus};
use crate::message::{Content, ContentFormat, Envelope, Lane, Method, RecordId, Stamp};

/// Why a record is refused. The sender gets an error response and can keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The lane is full.
    LaneFull,
    /// The records of its device have the device's share of the lane.
    DeviceShare,
    /// The disk fails now, or is too slow.
    Failing,
    /// It is larger than the limit of a frame, or than a segment of the configured size.
    TooLarge,
    /// The journal is being closed.
    Closed,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Refused::LaneFull => "the lane is full",
            Refused::DeviceShare => "its device has its share of the lane",
            Refused::Failing => "the disk fails or is too slow",
            Refused::TooLarge => "larger than the journal can store",
            Refused::Closed => "the gateway is stopping",
        })
    }
}

/// Why a record that was accepted is not stored. It may still be delivered: an error never proves
/// that it will not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The lane became full.
    LaneFull,
    /// The disk failed.
    Disk(StorageError),
    /// The journal was closed before the commit.
    Closed,
}

/// The result of an appended record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The ticket given to [`Journal::append`](super::Journal::append).
    pub ticket: Ticket,
    /// The lane.
    pub lane: Lane,
    /// `Ok` if it is durable.
    pub result: Result<(), Failed>,
}

/// Why a record cannot be moved to the rejected store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectRefused {
    /// The store is full: the lane waits until the operator removes records.
    Full,
    /// An earlier record could not be written there.
    Failing,
}

/// The next record of a lane.
#[derive(Clone, Copy, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "one at a time is handed out; a box would cost each an allocation"
)]
pub enum Next<'a> {
    /// A record.
    Record(Stored<'a>),
    /// No more records are committed. The next commit wakes the caller.
    Empty,
    /// The record is being read from the disk. The caller is woken when it is available.
    Pending,
}

/// A committed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored<'a> {
    /// The record id.
    pub id: RecordId,
    /// The lane.
    pub lane: Lane,
    /// Its sequence in the lane.
    pub sequence: u64,
    /// Whether it was received in the current boot, so that its boot time can be compared with now.
    pub same_boot: bool,
    /// The id it had before it was rejected and retried, or imported.
    pub original: Option<RecordId>,
    /// The stored content.
    pub content: Content<'a>,
}

/// A page of records of the rejected store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRead<T> {
    /// The records that could be read, oldest first.
    pub records: Vec<T>,
    /// The number of the last record examined; `None` if there is none after the requested number.
    pub last: Option<u64>,
    /// Whether there are more records after it.
    pub more: bool,
    /// Records that cannot be read now, or whose checksum is wrong.
    pub unreadable: u64,
}

impl<T> Default for RejectedRead<T> {
    fn default() -> Self {
        RejectedRead { records: Vec::new(), last: None, more: false, unreadable: 0 }
    }
}

/// The result of retrying a rejected record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retried {
    /// It is in its lane again, or is being committed to it.
    Sent,
    /// There is no record with this number, or it cannot be read now.
    NotThere,
    /// Its lane is full or failing.
    NoRoom,
}

/// The oldest record of a lane that is not released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldestRecord {
    /// The id under which it is published.
    pub id: RecordId,
    /// When it was received.
    pub received: Stamp,
    /// It was stored since the journal was opened last, so certainly in this boot.
    pub same_boot: bool,
}

/// A record in the rejected store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRecord {
    /// Its number in the store, its lane, id and reason code.
    pub entry: RejectedEntry,
    /// The id of its device.
    pub device: String,
    /// The path within the device.
    pub path: String,
    /// The topic it was published to.
    pub topic: String,
    /// The length of the payload in bytes.
    pub payload_bytes: usize,
    /// When it was received.
    pub received: Stamp,
    /// It was stored since the journal was opened last, so certainly in this boot.
    pub same_boot: bool,
    /// The id it had before it was rejected for the first time and retried.
    pub original: Option<RecordId>,
}

/// A record in the rejected store with its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedWhole {
    /// The part that a list shows.
    pub record: RejectedRecord,
    /// The method it was sent with.
    pub method: Method,
    /// The query of the request, if it had one.
    pub query: Option<String>,
    /// The content format of the payload, if the device named it.
    pub content_format: Option<ContentFormat>,
    /// Whether it was to be published with the retain flag.
    pub retain: bool,
    /// How its payload is wrapped.
    pub envelope: Envelope,
    /// Seconds after which it expires.
    pub expires_s: Option<u32>,
    /// The payload.
    pub payload: Vec<u8>,
}

/// The state of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The lanes, by [`Lane::index`].
    pub lanes: [LaneStatus; 2],
    /// The rejected store.
    pub rejected: RejectedStatus,
    /// When the current disk operation of the journal thread began, if one is in progress.
    pub busy_since: Option<Instant>,
    /// The journal thread has ended: no record can be stored.
    pub dead: bool,
    /// A reading thread has ended: the backlog of its lane cannot be sent.
    pub reader_dead: bool,
    /// By [`Lane::index`]: why the lane cannot be read now.
    pub reading: [Option<ReadTrouble>; 2],
    /// By [`Lane::index`]: when the current disk operation of its reading thread began, if one is
    /// in progress.
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
