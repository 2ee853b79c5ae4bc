//! Outcomes of commands that the broker refuses. Most are published on a topic that the sender of
//! the command chose, so a refusal says nothing about readings or the broker: the outcome is given
//! up, counted, and named by its topic for an hour.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::northbound::reason_code::Cause;
use crate::northbound::suspicion::TopicKey;

/// Topics of outcomes sent that are remembered by name.
const SENT_MAX: usize = 64;
/// Topics refused that are remembered.
const REFUSED_MAX: usize = 16;
/// For so long one is named.
const NAMED_FOR: Duration = Duration::from_secs(3600);

/// A topic of outcomes that the broker refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedOutcomes {
    /// The topic.
    pub topic: String,
    /// Why the newest was refused.
    pub cause: Cause,
    /// How many, each within an hour of the one before.
    pub count: u64,
}

/// What is known of them.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// By what topics are known on the way, the one used last at the end.
    sent: VecDeque<(TopicKey, Box<str>)>,
    /// The newest at the end.
    refused: VecDeque<(TopicKey, Instant, RefusedOutcomes)>,
    /// Topics over whose outcomes the broker closed the connection, and when.
    closing: VecDeque<(TopicKey, Instant)>,
}

impl Outcomes {
    /// One was sent.
    pub fn note_sent(&mut self, key: TopicKey, topic: &str) {
        let known = self.sent.iter().position(|(other, _)| *other == key);
        let entry = known.and_then(|index| self.sent.remove(index)).unwrap_or_else(|| (key, topic.into()));
        if self.sent.len() >= SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back(entry);
    }

    /// The broker took one: it is allowed now.
    pub fn note_taken(&mut self, key: TopicKey) {
        self.refused.retain(|(other, ..)| *other != key);
    }

    /// The broker closed the connection over the one that it refused last: so it would over the
    /// next ones, and each would cost a connection.
    pub fn note_closed_over(&mut self, now: Instant) {
        let Some((key, ..)) = self.refused.back() else { return };
        self.closing.retain(|(other, at)| other != key && now < *at + NAMED_FOR);
        if self.closing.len() >= REFUSED_MAX {
            self.closing.pop_front();
        }
        self.closing.push_back((*key, now));
    }

    /// Why outcomes on this topic are not sent: the broker closed the connection over one within
    /// the last hour.
    pub fn closed_over(&self, now: Instant, key: TopicKey) -> Option<Cause> {
        self.closing.iter().find(|(other, at)| *other == key && now < *at + NAMED_FOR)?;
        let of = self.refused.iter().find(|(other, ..)| *other == key);
        Some(of.map_or(Cause::Closed, |(.., of)| of.cause))
    }

    /// The broker refused one. Its topic, if it was not named yet.
    pub fn note_refused(&mut self, now: Instant, key: TopicKey, cause: Cause) -> Option<String> {
        self.refused.retain(|(_, at, _)| now < *at + NAMED_FOR);
        let known = self.refused.iter().position(|(other, ..)| *other == key);
        let mut told = None;
        let mut of = match known.and_then(|index| self.refused.remove(index)) {
            Some((.., of)) => of,
            None => {
                let topic = self.sent.iter().find(|(other, _)| *other == key)?.1.to_string();
                told = Some(topic.clone());
                RefusedOutcomes { topic, cause, count: 0 }
            }
        };
        of.cause = cause;
        of.count += 1;
        if self.refused.len() >= REFUSED_MAX {
            self.refused.pop_front();
        }
        self.refused.push_back((key, now, of));
        told
    }

    /// Those refused within the last hour, the newest first.
    pub fn refused(&self, now: Instant) -> impl Iterator<Item = &RefusedOutcomes> {
        let recent = self.refused.iter().rev().filter(move |(_, at, _)| now < *at + NAMED_FOR);
        recent.map(|(.., of)| of)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;

    const CAUSE: Cause = Cause::Code(0x87);

    #[test]
    fn a_refused_topic_is_told_once_counted_and_named_for_an_hour_or_until_it_is_taken() {
        let now = Instant::now();
        let mut outcomes = Outcomes::default();
        let (one, two) = (TopicKey::of("app/1"), TopicKey::of("app/2"));
        outcomes.note_sent(one, "app/1");
        outcomes.note_sent(two, "app/2");
        assert_eq!(outcomes.note_refused(now, one, CAUSE).as_deref(), Some("app/1"));
        assert_eq!(outcomes.note_refused(now, one, CAUSE), None);
        assert_eq!(outcomes.note_refused(now, two, CAUSE).as_deref(), Some("app/2"));
        let named = |outcomes: &Outcomes, now| -> Vec<(String, u64)> {
            outcomes.refused(now).map(|of| (of.topic.clone(), of.count)).collect()
        };
        assert_eq!(named(&outcomes, now), [("app/2".to_owned(), 1), ("app/1".to_owned(), 2)]);
        outcomes.note_taken(one);
        assert_eq!(named(&outcomes, now), [("app/2".to_owned(), 1)]);
        assert!(named(&outcomes, now + NAMED_FOR).is_empty());
    }

    #[test]
    fn however_many_topics_there_are_only_some_are_remembered() {
        let now = Instant::now();
        let mut outcomes = Outcomes::default();
        for number in 0..1000 {
            let topic = format!("app/{number}");
            outcomes.note_sent(TopicKey::of(&topic), &topic);
            outcomes.note_refused(now, TopicKey::of(&topic), CAUSE);
        }
        assert_eq!((outcomes.sent.len(), outcomes.refused.len()), (SENT_MAX, REFUSED_MAX));
        assert_eq!(outcomes.refused(now).next().unwrap().topic, "app/999");
    }
}
