//! What the publisher reports: events, counters, and what is held back.

use std::time::Duration;

use crate::message::{Lane, RecordId};
use crate::northbound::own::Class;
use crate::northbound::reason_code::Cause;

/// What the publisher reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A record was moved to the rejected store.
    Rejected {
        /// Its lane.
        lane: Lane,
        /// Which.
        id: RecordId,
        /// Why.
        cause: Cause,
    },
    /// The broker refused a record, closed over it, or did not answer it: it is held back and tried
    /// again while others flow.
    Suspected {
        /// Its lane.
        lane: Lane,
        /// Which.
        id: RecordId,
        /// Why.
        cause: Cause,
    },
    /// The broker has too much, and nothing was taken since it said so last: everything waits.
    Throttled {
        /// The reason code.
        code: u8,
        /// For how long.
        wait: Duration,
    },
    /// The rate was lowered.
    RateLowered {
        /// Why: a quota code, or silence.
        cause: Cause,
        /// Publishes a second from now on.
        limit: u32,
    },
    /// A publish was not answered in time: the connection is replaced and it is sent again.
    Unanswered {
        /// Its lane and id; `None`: a message of the gateway's own.
        record: Option<(Lane, RecordId)>,
        /// How long it was waited for.
        waited: Duration,
        /// Records in flight that were not answered.
        unanswered: usize,
    },
    /// A lane takes no more until this record is decided.
    Blocked {
        /// The lane.
        lane: Lane,
        /// Its oldest record.
        id: RecordId,
    },
    /// A record must be rejected and there is no room for it; its lane waits.
    RejectedFull {
        /// Which lane.
        lane: Lane,
        /// For how long.
        wait: Duration,
    },
    /// The broker has a record that it had rejected before.
    Recovered {
        /// The id it had when it was rejected.
        original: RecordId,
    },
    /// The broker refused the outcome of a command, the first on its topic: these are given up.
    OutcomeRefused {
        /// Its topic.
        topic: String,
        /// Why.
        cause: Cause,
    },
    /// The outcome of a command, the first on its topic, goes without some of its payload, because
    /// the broker takes only smaller packets.
    OutcomeCut {
        /// Its topic.
        topic: String,
        /// The broker's Maximum Packet Size, if it has told one.
        limit: Option<usize>,
    },
    /// The broker refused a message of the gateway's own: it is tried ever more seldom.
    OwnRefused {
        /// Its topic.
        topic: String,
        /// The reason code.
        code: u8,
    },
    /// The broker closes the connection over the gateway's own messages, or does not answer them:
    /// they pause for an hour.
    OwnPaused {
        /// Which.
        class: Class,
    },
    /// The broker closes the connection after readings of `qos = 0` rules: these are dropped for
    /// five minutes.
    VolatilePaused,
}

/// Numbers since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Stored records sent, repeats included.
    pub sent: u64,
    /// Stored records the broker acknowledged.
    pub acknowledged: u64,
    /// Stored records moved to the rejected store because of what the broker did.
    pub rejected: u64,
    /// Stored records moved to the rejected store because the owner set them aside.
    pub skipped: u64,
    /// Outcomes of commands that the broker refused, and that were given up.
    pub refused_outcomes: u64,
    /// Outcomes of commands that went without some of their payload.
    pub cut_outcomes: u64,
    /// Stored records that expired.
    pub expired: u64,
    /// Readings of `qos = 0` rules sent.
    pub volatile_sent: u64,
    /// Answers to nothing we sent.
    pub unknown_answers: u64,
    /// Connections replaced because a publish was not answered.
    pub unanswered: u64,
    /// Times the rate was lowered.
    pub rate_lowered: u64,
}

/// A record held back, as `tombolo status` and `queue` show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldRecord {
    /// Its lane.
    pub lane: Lane,
    /// Which.
    pub id: RecordId,
    /// Its topic, once a trial has shown it.
    pub topic: Option<String>,
    /// Why it is suspected.
    pub cause: Cause,
    /// How often it was tried again.
    pub tries: u32,
}

/// What came of [`skip`](super::Publisher::skip).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The record is set aside.
    Done,
    /// The oldest record of a lane is being read from disk: ask again.
    BeingRead,
    /// It is not among those read, and not the oldest of its lane.
    NotFound,
}

/// What a fill did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Packets appended.
    pub packets: usize,
    /// More could have been appended but for the size of the output.
    pub more: bool,
    /// A PINGREQ is to follow, numbered as was said to [`Publisher::fill`](super::Publisher::fill).
    pub ping: bool,
}

/// What is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Nothing: all flows.
    Nothing,
    /// All but one own message at a time, while a connection is being made ready, or ended.
    AllButOwn,
    /// Everything, until nothing is in flight.
    Everything,
}
