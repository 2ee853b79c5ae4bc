//! Outcomes of commands that the broker refuses. Most are published on a topic that the sender of
//! the command chose, so a refusal says nothing about readings or the broker: the outcome is given
//! up, counted, and named by its topic for an hour. One that is too large for the broker goes
//! without some or all of its payload, and is named in the same way.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::northbound::reason_code::{self, Cause};
use crate::northbound::suspicion::TopicKey;

/// Topics of outcomes sent that are remembered by name.
const SENT_MAX: usize = 64;
/// Topics refused that are remembered.
const REFUSED_MAX: usize = 16;
/// Topics beside those that are counted.
pub const UNNAMED_MAX: usize = 256;
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

/// A topic of outcomes that went without some of their payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutOutcomes {
    /// The topic.
    pub topic: String,
    /// The broker's Maximum Packet Size; `None`: it has told none, and refused the whole.
    pub limit: Option<usize>,
    /// How many, each within an hour of the one before.
    pub count: u64,
}

/// A topic of outcomes on their way.
#[derive(Debug)]
struct SentTopic {
    key: TopicKey,
    topic: Box<str>,
    /// What the last one had in topic and payload.
    bytes: usize,
}

/// A topic over whose outcomes the broker closed the connection.
#[derive(Clone, Copy, Debug)]
struct Closing {
    key: TopicKey,
    at: Instant,
    /// From this size on; 0: over any.
    from: usize,
}

/// Topics of the last hour with which something was wrong, the newest at the end.
#[derive(Debug)]
struct Lately<Of> {
    topics: VecDeque<(TopicKey, Instant, Of)>,
    /// Those that had no room beside newer ones, at most [`UNNAMED_MAX`].
    unnamed: VecDeque<(TopicKey, Instant)>,
}

impl<Of> Default for Lately<Of> {
    fn default() -> Lately<Of> {
        Lately { topics: VecDeque::new(), unnamed: VecDeque::new() }
    }
}

impl<Of> Lately<Of> {
    /// It was so with one more, on a topic that is one of `sent`. Its name, if it was not told yet.
    fn note(
        &mut self,
        now: Instant,
        key: TopicKey,
        sent: &VecDeque<SentTopic>,
        begin: impl FnOnce(String) -> Of,
        more: impl FnOnce(&mut Of),
    ) -> Option<String> {
        self.topics.retain(|(_, at, _)| now < *at + NAMED_FOR);
        let known = self.topics.iter().position(|(other, ..)| *other == key);
        let (mut of, told) = match known.and_then(|index| self.topics.remove(index)) {
            Some((.., of)) => (of, None),
            None => {
                let topic = find(sent, key)?.topic.to_string();
                (begin(topic.clone()), Some(topic))
            }
        };
        more(&mut of);
        self.unnamed.retain(|(other, at)| *other != key && now < *at + NAMED_FOR);
        if self.topics.len() >= REFUSED_MAX
            && let Some((oldest, at, _)) = self.topics.pop_front()
        {
            if self.unnamed.len() >= UNNAMED_MAX {
                self.unnamed.pop_front();
            }
            self.unnamed.push_back((oldest, at));
        }
        self.topics.push_back((key, now, of));
        told
    }

    /// How many there are beside the [recent](Lately::recent) ones, counted up to [`UNNAMED_MAX`].
    fn unnamed(&self, now: Instant) -> usize {
        self.unnamed.iter().filter(|(_, at)| now < *at + NAMED_FOR).count()
    }

    /// The newest first.
    fn recent(&self, now: Instant) -> impl Iterator<Item = &Of> {
        let recent = self.topics.iter().rev().filter(move |(_, at, _)| now < *at + NAMED_FOR);
        recent.map(|(.., of)| of)
    }
}

fn find(sent: &VecDeque<SentTopic>, key: TopicKey) -> Option<&SentTopic> {
    sent.iter().find(|of| of.key == key)
}

/// What is known of them.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// By what topics are known on the way, the one used last at the end.
    sent: VecDeque<SentTopic>,
    refused: Lately<RefusedOutcomes>,
    /// Those that went without some of their payload.
    cut: Lately<CutOutcomes>,
    /// Topics over whose outcomes the broker closed the connection.
    closing: VecDeque<Closing>,
    /// The topic of the one that was refused last, and from which size on.
    last: Option<(TopicKey, usize)>,
}

impl Outcomes {
    /// One was sent, or is about to be, with so many bytes of topic and payload.
    pub fn note_sent(&mut self, key: TopicKey, topic: &str, bytes: usize) {
        let known = self.sent.iter().position(|of| of.key == key);
        let known = known.and_then(|index| self.sent.remove(index));
        let entry = known.unwrap_or_else(|| SentTopic { key, topic: topic.into(), bytes });
        if self.sent.len() >= SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back(SentTopic { bytes, ..entry });
    }

    /// Bytes of topic and payload of the one that was sent last on this topic.
    pub fn sent_bytes(&self, key: TopicKey) -> usize {
        find(&self.sent, key).map_or(0, |of| of.bytes)
    }

    /// The broker took one: the topic is allowed now. What was refused for its size is none the
    /// better for it.
    pub fn note_taken(&mut self, key: TopicKey) {
        let for_size = Cause::Code(reason_code::PACKET_TOO_LARGE);
        let sizes = |key| self.closing.iter().any(|of| of.key == key && of.from > 0);
        self.refused.unnamed.retain(|(other, _)| *other != key);
        self.refused.topics.retain(|(other, _, of)| *other != key || of.cause == for_size || sizes(key));
    }

    /// The broker closed the connection over the one that it refused last: so it would over the
    /// next ones, and each would cost a connection.
    pub fn note_closed_over(&mut self, now: Instant) {
        if let Some((key, from)) = self.last {
            self.push_closing(Closing { key, at: now, from });
        }
    }

    /// The broker closes the connection over the one that was sent last on this topic; smaller ones
    /// may pass.
    pub fn note_closing(&mut self, now: Instant, key: TopicKey) {
        self.push_closing(Closing { key, at: now, from: self.sent_bytes(key) });
    }

    fn push_closing(&mut self, closing: Closing) {
        self.closing.retain(|of| of.key != closing.key && closing.at < of.at + NAMED_FOR);
        if self.closing.len() >= REFUSED_MAX {
            self.closing.pop_front();
        }
        self.closing.push_back(closing);
    }

    /// Why outcomes on this topic are not sent, and from which size on: the broker closed the
    /// connection over one within the last hour.
    pub fn closed_over(&self, now: Instant, key: TopicKey) -> Option<(Cause, usize)> {
        let closing = self.closing.iter().find(|of| of.key == key && now < of.at + NAMED_FOR)?;
        let of = self.refused.topics.iter().find(|(other, ..)| *other == key);
        Some((of.map_or(Cause::Closed, |(.., of)| of.cause), closing.from))
    }

    /// The broker refused the one that was sent last on this topic for its size.
    pub fn note_too_large(&mut self, key: TopicKey) {
        self.last = Some((key, self.sent_bytes(key)));
    }

    /// Whether that has a payload.
    pub fn has_payload(&self, key: TopicKey) -> bool {
        find(&self.sent, key).is_some_and(|of| of.bytes > of.topic.len())
    }

    /// One was taken without some of its payload. Its topic, if it was not named yet.
    pub fn note_cut(&mut self, now: Instant, key: TopicKey, limit: Option<usize>) -> Option<String> {
        let begin = |topic| CutOutcomes { topic, limit, count: 0 };
        self.cut.note(now, key, &self.sent, begin, |of| (of.limit, of.count) = (limit, of.count + 1))
    }

    /// Those that went without some of their payload within the last hour, the newest first.
    pub fn cut(&self, now: Instant) -> impl Iterator<Item = &CutOutcomes> {
        self.cut.recent(now)
    }

    /// On how many topics more it was so, counted up to [`UNNAMED_MAX`].
    pub fn cut_unnamed(&self, now: Instant) -> usize {
        self.cut.unnamed(now)
    }

    /// The broker refused one. Its topic, if it was not named yet.
    pub fn note_refused(&mut self, now: Instant, key: TopicKey, cause: Cause) -> Option<String> {
        let from = match cause {
            Cause::Code(reason_code::PACKET_TOO_LARGE) => self.sent_bytes(key),
            _ => 0,
        };
        self.last = Some((key, from));
        let begin = |topic| RefusedOutcomes { topic, cause, count: 0 };
        self.refused.note(now, key, &self.sent, begin, |of| (of.cause, of.count) = (cause, of.count + 1))
    }

    /// Those refused within the last hour, the newest first.
    pub fn refused(&self, now: Instant) -> impl Iterator<Item = &RefusedOutcomes> {
        self.refused.recent(now)
    }

    /// On how many topics more it refused some, counted up to [`UNNAMED_MAX`].
    pub fn refused_unnamed(&self, now: Instant) -> usize {
        self.refused.unnamed(now)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;

    const CAUSE: Cause = Cause::Code(0x87);

    #[test]
    fn topics_beside_those_that_are_named_are_counted_until_they_are_taken_or_named_again() {
        let mut outcomes = Outcomes::default();
        let now = Instant::now();
        let topics: Vec<String> = (0..REFUSED_MAX + 3).map(|number| format!("app/{number}")).collect();
        let keys: Vec<TopicKey> = topics.iter().map(|topic| TopicKey::of(topic)).collect();
        let refuse = |outcomes: &mut Outcomes, at: usize| {
            outcomes.note_sent(keys[at], &topics[at], 9);
            outcomes.note_refused(now, keys[at], CAUSE)
        };
        (0..REFUSED_MAX).for_each(|at| drop(refuse(&mut outcomes, at)));
        assert_eq!(outcomes.refused_unnamed(now), 0);
        (REFUSED_MAX..REFUSED_MAX + 3).for_each(|at| drop(refuse(&mut outcomes, at)));
        assert_eq!((outcomes.refused(now).count(), outcomes.refused_unnamed(now)), (REFUSED_MAX, 3));
        refuse(&mut outcomes, 0);
        assert_eq!(outcomes.refused_unnamed(now), 3, "one is named again, and another is not");
        outcomes.note_taken(keys[1]);
        assert_eq!(outcomes.refused_unnamed(now), 2);
        assert_eq!(outcomes.refused_unnamed(now + NAMED_FOR), 0);
        let many = (0..2 * UNNAMED_MAX).map(|number| format!("more/{number}"));
        for topic in many {
            let key = TopicKey::of(&topic);
            outcomes.note_sent(key, &topic, 9);
            outcomes.note_refused(now, key, CAUSE);
        }
        assert_eq!(outcomes.refused_unnamed(now), UNNAMED_MAX);
    }

    #[test]
    fn a_refused_topic_is_told_once_counted_and_named_for_an_hour_or_until_it_is_taken() {
        let now = Instant::now();
        let mut outcomes = Outcomes::default();
        let (one, two) = (TopicKey::of("app/1"), TopicKey::of("app/2"));
        outcomes.note_sent(one, "app/1", 9);
        outcomes.note_sent(two, "app/2", 9);
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
    fn what_the_broker_closes_over_for_its_size_says_nothing_about_smaller_ones() {
        let now = Instant::now();
        let mut outcomes = Outcomes::default();
        let (one, two) = (TopicKey::of("app/1"), TopicKey::of("app/2"));
        // It refuses this one by a code that is not about its size.
        outcomes.note_sent(one, "app/1", 4000);
        outcomes.note_refused(now, one, CAUSE);
        outcomes.note_closed_over(now);
        assert_eq!(outcomes.closed_over(now, one), Some((CAUSE, 0)));
        for too_large in [Cause::Code(reason_code::PACKET_TOO_LARGE), Cause::Closed] {
            outcomes.note_sent(two, "app/2", 4000);
            outcomes.note_refused(now, two, too_large);
            match too_large {
                Cause::Closed => outcomes.note_closing(now, two),
                _ => outcomes.note_closed_over(now),
            }
            assert_eq!(outcomes.closed_over(now, two), Some((too_large, 4000)));
            // A smaller one passes.
            outcomes.note_taken(two);
            assert_eq!(outcomes.refused(now).filter(|of| of.topic == "app/2").count(), 1);
        }
        assert_eq!(outcomes.closed_over(now + NAMED_FOR, two), None);
    }

    #[test]
    fn one_that_goes_without_its_payload_is_told_once_and_named_for_an_hour_though_it_is_taken() {
        let now = Instant::now();
        let mut outcomes = Outcomes::default();
        let key = TopicKey::of("app/1");
        outcomes.note_sent(key, "app/1", 4000);
        assert_eq!(outcomes.note_cut(now, key, Some(2048)).as_deref(), Some("app/1"));
        assert_eq!(outcomes.note_cut(now, key, None), None);
        outcomes.note_taken(key);
        let of = outcomes.cut(now).next().unwrap();
        assert_eq!((of.count, of.limit), (2, None));
        assert!(outcomes.cut(now + NAMED_FOR).next().is_none());
        for number in 0..1000 {
            let topic = format!("app/{number}");
            outcomes.note_sent(TopicKey::of(&topic), &topic, 9);
            outcomes.note_cut(now, TopicKey::of(&topic), None);
        }
        assert_eq!(outcomes.cut.topics.len(), REFUSED_MAX);
    }

    #[test]
    fn however_many_topics_there_are_only_some_are_remembered() {
        let now = Instant::now();
        let mut outcomes = Outcomes::default();
        for number in 0..1000 {
            let topic = format!("app/{number}");
            outcomes.note_sent(TopicKey::of(&topic), &topic, 9);
            outcomes.note_refused(now, TopicKey::of(&topic), CAUSE);
        }
        assert_eq!((outcomes.sent.len(), outcomes.refused.topics.len()), (SENT_MAX, REFUSED_MAX));
        assert_eq!(outcomes.refused(now).next().unwrap().topic, "app/999");
    }
}
