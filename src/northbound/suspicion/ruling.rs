//! What the suspicion rules about records, and how it names them and their topics.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

use crate::northbound::reason_code::Cause;

/// A topic, as far as it must be told from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicKey(u64);

impl TopicKey {
    /// Of a topic's text.
    pub fn of(topic: &str) -> TopicKey {
        TopicKey(BuildHasherDefault::<DefaultHasher>::default().hash_one(topic))
    }
}

/// Where a record is: its lane's index and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordPlace {
    /// By [`crate::message::Lane::index`].
    pub lane: usize,
    /// Its sequence.
    pub sequence: u64,
}

/// What is to be done with records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It goes back to its place in the lane's order.
    Release(RecordPlace),
    /// It is set aside for good.
    Condemn(RecordPlace, Cause),
    /// Records on that topic that wait go back to their places.
    Open(TopicKey),
    /// Records on that topic that waited when the last of them was sent under this number are set
    /// aside with this cause.
    CondemnWaiting(TopicKey, Cause, u64),
    /// A record on that topic that waits is to be put on trial, by `Suspicion::accuse`: the
    /// oldest, or, if `true`, the newest.
    Promote(TopicKey, bool),
    /// The broker takes readings again after it refused everything: they are to begin one by one.
    Resume,
}

/// A suspect as `tombolo status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuspectView {
    /// Which record.
    pub place: RecordPlace,
    /// Its topic, once a trial has shown it.
    pub topic: Option<String>,
    /// Why it is suspected.
    pub cause: Cause,
    /// How often it was tried again.
    pub tries: u32,
}
