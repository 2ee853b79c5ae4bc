//! What the publisher needs of the journal, lane by lane.
//!
//! The journal implements it; tests use a list in memory. The publisher keeps these promises:
//!
//! * [`release`](Outbox::release), [`reject`](Outbox::reject) and [`expire`](Outbox::expire) are
//!   called in sequence order within a lane, only for what was handed out, and `reject` and
//!   `expire` only for the oldest record not yet released: a record answered early waits for those
//!   before it.
//! * [`rewind`](Outbox::rewind) is called once, before anything is read; [`seek`](Outbox::seek)
//!   only to what was handed out, or right behind it.

use super::reason_code::Cause;
use crate::message::{Content, Lane, RecordId};

/// The journal as the uplink sees it.
pub trait Outbox {
    /// Moves the lane's reading position on by one and hands out what stood there.
    fn next(&mut self, lane: Lane) -> Next<'_>;
    /// Moves the lane's reading position back to the oldest record neither released, rejected nor
    /// expired.
    fn rewind(&mut self, lane: Lane);
    /// Moves the lane's reading position to `sequence`, or, if that has left, to the oldest record
    /// behind it.
    fn seek(&mut self, lane: Lane, sequence: u64);
    /// The sequence of the newest record put into the lane, 0 if there was none: how fast they
    /// come.
    fn newest(&self, lane: Lane) -> u64;
    /// The broker has everything up to and including `sequence`, or has refused what of it was the
    /// outcome of a command: it may go.
    fn release(&mut self, lane: Lane, sequence: u64);
    /// The broker will never take this record: keep it aside, durably, with the cause, then let it
    /// go from the lane.
    ///
    /// # Errors
    /// [`RejectedFull`]: there is no room to keep it; it stays where it is and the lane stops.
    fn reject(&mut self, lane: Lane, sequence: u64, cause: Cause) -> Result<(), RejectedFull>;
    /// This record's time is over: account for it as a loss.
    fn expire(&mut self, lane: Lane, sequence: u64);
    /// The id under which a record that was handed out is published: the one it had first.
    fn published_id(&self, _lane: Lane, id: RecordId) -> RecordId {
        id
    }
    /// The loss at `index` in the lane's list of those durable and not reported yet; `None` behind
    /// its end.
    fn loss(&mut self, lane: Lane, index: usize) -> Option<Loss>;
    /// The broker has the report of that loss, with that count: it need not be told again.
    fn loss_reported(&mut self, lane: Lane, number: u64, count: u64);
}

/// The store of rejected records has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectedFull;

/// What stood at a lane's reading position.
#[derive(Clone, Copy, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "one at a time is handed out; a box would cost each an allocation"
)]
pub enum Next<'a> {
    /// A reading to publish.
    Record(Record<'a>),
    /// Nothing more is committed.
    Empty,
    /// Something is being read from disk; the wake-up comes.
    Pending,
}

/// A committed reading.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its id; the number in it is `sequence`.
    pub id: RecordId,
    /// Its place in the lane; greater than that of all before it.
    pub sequence: u64,
    /// The id it had before it was rejected and retried, or set aside and imported: it is published
    /// under that one.
    pub original: Option<RecordId>,
    /// Whether it was received since the machine booted, so that its boot time stamp is comparable
    /// with now.
    pub same_boot: bool,
    /// The reading.
    pub content: Content<'a>,
}

/// Records of one lane that are gone for one cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Their lane.
    pub lane: Lane,
    /// The loss's own number in its lane.
    pub number: u64,
    /// Why, as the loss topic spells it.
    pub cause: &'static str,
    /// How many records. It may grow while the number stays; then it is reported again.
    pub count: u64,
    /// The oldest.
    pub first: RecordId,
    /// The newest.
    pub last: RecordId,
}
