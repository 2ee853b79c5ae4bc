//! What the broker took and refused on this connection, and of which topics: whether it takes
//! readings at all, and whether what it does not take is a matter of a few topics.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use crate::northbound::suspicion::{RecordPlace, TopicKey};

/// A connection on which nothing was taken stands once it has lasted so long.
const STANDS_AFTER: Duration = Duration::from_secs(10);
/// A close so shortly after a refusal is because of it.
const REFUSED_BEFORE: Duration = Duration::from_secs(2);
/// So many records unanswered at once are dropped for the rate rather than for themselves.
pub const DROPPED_FOR_THEMSELVES: usize = 4;
/// Topics told apart on a connection.
const TOPICS_MAX: usize = 1024;

/// What was taken and refused.
#[derive(Debug)]
pub struct Progress {
    /// Since when there is this connection.
    pub opened_at: Instant,
    /// Readings taken on it.
    pub taken_here: u64,
    /// When a reading was taken last, over all connections.
    pub taken_at: Option<Instant>,
    /// When something was refused on this connection last.
    pub refused_at: Option<Instant>,
    /// When the outcome of a command was refused on this connection last.
    pub refused_outcome_at: Option<Instant>,
    /// The record that was refused on this connection last, and when.
    refused_record: Option<(Instant, RecordPlace, TopicKey)>,
    /// Topics of which a reading was taken on this connection; none of more than [`TOPICS_MAX`].
    taken_topics: HashSet<TopicKey>,
    /// Topics that were too much for the broker on this connection, and none taken of them; at most
    /// as many.
    quota_topics: HashSet<TopicKey>,
}

impl Progress {
    /// None yet.
    pub fn new(now: Instant) -> Progress {
        Progress {
            opened_at: now,
            taken_here: 0,
            taken_at: None,
            refused_at: None,
            refused_outcome_at: None,
            refused_record: None,
            taken_topics: HashSet::new(),
            quota_topics: HashSet::new(),
        }
    }

    /// A connection is there.
    pub fn handle_open(&mut self, now: Instant) {
        self.opened_at = now;
        self.taken_here = 0;
        self.refused_at = None;
        self.refused_outcome_at = None;
        self.refused_record = None;
        self.taken_topics.clear();
        self.quota_topics.clear();
    }

    /// The broker took a reading on that topic.
    pub fn handle_taken(&mut self, now: Instant, topic: TopicKey) {
        self.taken_here += 1;
        self.taken_at = Some(now);
        if self.taken_topics.len() < TOPICS_MAX {
            self.taken_topics.insert(topic);
        }
    }

    /// When the connection stands: readings were taken on it, or it has lasted.
    pub fn stands_at(&self) -> Instant {
        if self.taken_here > 0 { self.opened_at } else { self.opened_at + STANDS_AFTER }
    }

    /// Whether a close at `now` follows from a refusal: some brokers refuse, and then close as
    /// well.
    pub fn was_just_refused(&self, now: Instant) -> bool {
        self.refused_at.is_some_and(|at| now < at + REFUSED_BEFORE)
    }

    /// Whether a close at `now` follows from the refusal of an outcome.
    pub fn was_outcome_just_refused(&self, now: Instant) -> bool {
        self.refused_outcome_at.is_some_and(|at| now < at + REFUSED_BEFORE)
    }

    /// The outcome of a command was refused by a code.
    pub fn handle_refused_outcome(&mut self, now: Instant) {
        (self.refused_at, self.refused_outcome_at) = (Some(now), Some(now));
    }

    /// A record was refused by a code.
    pub fn handle_refused(&mut self, now: Instant, place: RecordPlace, topic: TopicKey) {
        self.refused_at = Some(now);
        self.refused_record = Some((now, place, topic));
    }

    /// The record whose refusal a close at `now` follows from.
    pub fn just_refused(&self, now: Instant) -> Option<(RecordPlace, TopicKey)> {
        let (at, place, topic) = self.refused_record?;
        (now < at + REFUSED_BEFORE).then_some((place, topic))
    }

    /// Whether these are only a few topics, of which none was taken on this connection, while
    /// others were.
    pub fn are_few_and_none_taken(&self, topics: &BTreeSet<TopicKey>) -> bool {
        if self.taken_topics.is_empty() || self.taken_topics.len() >= TOPICS_MAX {
            return false;
        }
        topics.len() <= DROPPED_FOR_THEMSELVES
            && !topics.iter().any(|topic| self.taken_topics.contains(topic))
    }

    /// A record on that topic was too much for the broker. Whether that is a bound of the topic,
    /// because everything is taken on others.
    pub fn is_quota_of_topic(&mut self, topic: TopicKey) -> bool {
        let others_only = !self.taken_topics.is_empty()
            && self.taken_topics.len() < TOPICS_MAX
            && !self.taken_topics.contains(&topic);
        if others_only && self.quota_topics.len() < TOPICS_MAX {
            self.quota_topics.insert(topic);
        }
        others_only && self.quota_topics.len() <= DROPPED_FOR_THEMSELVES
    }
}
