//! Which readings the broker has taken: examples, as the proof that what the rules map to may be
//! published.
//!
//! Only an MQTT 5 PUBACK below 0x80 is one: a PUBACK of 3.1.1 may hide a refusal (MQTT 5.0
//! §3.4.2.1 has reason codes, 3.1.1 §3.4 none), and only on the connection that stands: the next
//! one may lead to a broker that has changed. A later refusal on the same topic takes the example
//! away.
//!
//! Two small tables, the least recently sent out first: one example for each of [`KEPT`] paths, so
//! that many devices with one path do not drive out a rare one, and one for each of [`KEPT`]
//! devices, so that roles with the same paths are both there.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::time::Instant;

use super::suspicion::TopicKey;
use crate::message::Content;

/// Examples in each of the two tables.
const KEPT: usize = 32;

/// A reading's topic that the broker took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenTopic {
    /// The device.
    pub device: String,
    /// The path within the device.
    pub path: String,
    /// The topic.
    pub topic: String,
    /// When the broker took a reading on it last.
    pub at: Instant,
}

/// One example, sent and perhaps taken.
struct Example {
    /// What it is an example of: a path, or a device.
    of: u64,
    key: TopicKey,
    device: String,
    path: String,
    topic: String,
    sent: Instant,
    taken: Option<Instant>,
}

/// The examples.
#[derive(Default)]
pub struct TakenTopics {
    proves: bool,
    by_path: Vec<Example>,
    by_device: Vec<Example>,
}

impl TakenTopics {
    /// A connection is there; `proves`: its PUBACKs have reason codes, and readings are sent with
    /// QoS 1.
    pub fn handle_open(&mut self, proves: bool) {
        *self = TakenTopics { proves, ..TakenTopics::default() };
    }

    /// A reading is sent.
    pub fn note_sent(&mut self, now: Instant, key: TopicKey, content: &Content<'_>) {
        if !self.proves {
            return;
        }
        let hash = |text: &str| BuildHasherDefault::<DefaultHasher>::default().hash_one(text);
        note(&mut self.by_path, now, hash(content.path), key, content);
        note(&mut self.by_device, now, hash(content.device), key, content);
    }

    /// The broker took one on this topic.
    pub fn handle_taken(&mut self, now: Instant, key: TopicKey) {
        for example in self.all_mut().filter(|example| example.key == key) {
            example.taken = Some(now);
        }
    }

    /// The broker refused one on this topic.
    pub fn handle_refused(&mut self, key: TopicKey) {
        for example in self.all_mut().filter(|example| example.key == key) {
            example.taken = None;
        }
    }

    /// Those that were taken, at most `2 * 32`, each topic once.
    pub fn view(&self) -> Vec<TakenTopic> {
        let mut view: Vec<TakenTopic> = Vec::new();
        for example in self.by_path.iter().chain(&self.by_device) {
            let Some(at) = example.taken else { continue };
            if view.iter().all(|known| known.topic != example.topic) {
                let Example { device, path, topic, .. } = example;
                let (device, path, topic) = (device.clone(), path.clone(), topic.clone());
                view.push(TakenTopic { device, path, topic, at });
            }
        }
        view
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Example> {
        self.by_path.iter_mut().chain(&mut self.by_device)
    }
}

fn note(table: &mut Vec<Example>, now: Instant, of: u64, key: TopicKey, content: &Content<'_>) {
    if let Some(known) = table.iter_mut().find(|example| example.of == of) {
        // One that was taken stays the example, until it is refused.
        if known.key == key || known.taken.is_some() {
            known.sent = now;
        } else {
            *known = example(now, of, key, content);
        }
        return;
    }
    if table.len() < KEPT {
        return table.push(example(now, of, key, content));
    }
    if let Some(oldest) = table.iter_mut().min_by_key(|example| example.sent) {
        *oldest = example(now, of, key, content);
    }
}

fn example(now: Instant, of: u64, key: TopicKey, content: &Content<'_>) -> Example {
    Example {
        of,
        key,
        device: content.device.to_owned(),
        path: content.path.to_owned(),
        topic: content.topic.to_owned(),
        sent: now,
        taken: None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::message::{Envelope, Method, Stamp};

    fn sent(taken: &mut TakenTopics, now: Instant, device: &str, path: &str) -> TopicKey {
        let topic = format!("p/{device}/up/{path}");
        let key = TopicKey::of(&topic);
        let content = Content {
            device,
            path,
            query: None,
            topic: &topic,
            method: Method::Post,
            content_format: None,
            test: false,
            reply: None,
            retain: false,
            envelope: Envelope::None,
            expires_s: None,
            received: Stamp { boottime_ms: 0, wall_ms: None },
            payload: b"",
        };
        taken.note_sent(now, key, &content);
        key
    }

    fn topics(taken: &TakenTopics) -> Vec<String> {
        taken.view().into_iter().map(|example| example.topic).collect()
    }

    #[test]
    fn what_was_taken_is_an_example_until_it_is_refused() {
        let (mut taken, now) = (TakenTopics::default(), Instant::now());
        taken.handle_open(true);
        let a = sent(&mut taken, now, "a", "t/x");
        assert_eq!(topics(&taken), Vec::<String>::new(), "sent is not taken");
        taken.handle_taken(now, a);
        assert_eq!(topics(&taken), ["p/a/up/t/x"]);
        taken.handle_refused(a);
        assert_eq!(topics(&taken), Vec::<String>::new());
    }

    #[test]
    fn a_rare_path_and_a_rare_role_stay_among_many_devices() {
        let (mut taken, start) = (TakenTopics::default(), Instant::now());
        taken.handle_open(true);
        let alarm = sent(&mut taken, start, "door-7", "alarm/fire");
        taken.handle_taken(start, alarm);
        for n in 0..10_000u32 {
            let now = start + Duration::from_millis(u64::from(n));
            let key = sent(&mut taken, now, &format!("d{n}"), "t/x");
            taken.handle_taken(now, key);
        }
        assert!(topics(&taken).iter().any(|topic| topic == "p/door-7/up/alarm/fire"));
        assert!(topics(&taken).len() <= 2 * KEPT);
        // Of many paths the ones in use stay.
        for n in 0..1_000u32 {
            let now = start + Duration::from_secs(60) + Duration::from_millis(u64::from(n));
            for path in ["alarm/fire".to_owned(), format!("t/{n}")] {
                let key = sent(&mut taken, now, "door-7", &path);
                taken.handle_taken(now, key);
            }
        }
        assert!(topics(&taken).iter().any(|topic| topic == "p/door-7/up/alarm/fire"));
        assert!(topics(&taken).len() <= 2 * KEPT);
    }

    #[test]
    fn a_connection_without_reason_codes_proves_nothing_and_the_next_one_begins_anew() {
        let (mut taken, now) = (TakenTopics::default(), Instant::now());
        for (proves, found) in [(true, 1), (false, 0), (true, 1)] {
            taken.handle_open(proves);
            assert_eq!(taken.view(), []);
            let key = sent(&mut taken, now, "a", "t/x");
            taken.handle_taken(now, key);
            assert_eq!(taken.view().len(), found);
        }
    }
}
