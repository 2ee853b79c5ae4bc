//! What the gateway says about itself: retained statuses, the newest of each topic, and reports of
//! losses.
//!
//! Never journaled here: a status is set anew by its owner, a loss stays in the journal until it is
//! reported. A message stays until the broker has acknowledged it; a newer one of the same key
//! takes its place. Memory is bounded by the number of devices: one message a topic, of which all
//! wait while there is no uplink; so what only a refused one has is apart. One that is refused is
//! sent again ever more seldom, from 5 s to an hour, and holds up nothing else. A class of messages
//! that brings the connection down is paused for an hour.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::strikes::Strikes;
use crate::message::Lane;

/// How long a class pauses that the broker closes connections for.
const PAUSE: Duration = Duration::from_secs(3600);
/// How long all wait after the broker had too much, and one message after its first refusal.
const RETRY: Duration = Duration::from_secs(5);
/// Messages for which there is always memory.
const KEPT: usize = 64;
/// So many closes, or answers missing, with one message of a class alone in flight.
const STRIKES: u8 = 2;

/// Which of the gateway's own messages. The first goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// `{prefix}/gateway/status`
    GatewayStatus,
    /// `{prefix}/gateway/loss`
    Loss,
    /// `{prefix}/{device}/status`
    DeviceStatus,
    /// `{prefix}/gateway/update`
    Update,
}

impl Class {
    const ALL: [Class; 4] = [Class::GatewayStatus, Class::Loss, Class::DeviceStatus, Class::Update];

    /// The `[topics]` key it belongs to.
    pub fn key(self) -> &'static str {
        match self {
            Class::GatewayStatus => "gateway-status",
            Class::DeviceStatus => "device-status",
            Class::Loss => "loss",
            Class::Update => "update",
        }
    }
}

/// What makes a message take another's place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A retained status, by its topic.
    Status(Arc<str>),
    /// A loss, by lane and number.
    Loss(Lane, u64),
}

struct Message {
    class: Class,
    payload: Box<[u8]>,
    /// Which setting of this key it is; an answer to an older one does not settle it.
    version: NonZeroU64,
    sent: Option<NonZeroU64>,
    queued: bool,
    /// Set while it is refused.
    refusal: Option<Box<Refusal>>,
}

impl Message {
    /// Until when it waits for the next try.
    fn delayed_until(&self) -> Option<Instant> {
        self.refusal.as_ref()?.delayed_until
    }
}

/// Refusals in a row.
struct Refusal {
    count: u32,
    /// What the last one was.
    by: u8,
    /// Until when the message waits for the next try.
    delayed_until: Option<Instant>,
}

/// The own messages not yet acknowledged.
pub struct Own {
    /// By class.
    queues: [VecDeque<Key>; 4],
    messages: HashMap<Key, Message>,
    /// Where losses are reported.
    loss_topic: String,
    version: NonZeroU64,
    /// By class.
    strikes: [Strikes; 4],
    delayed: BTreeSet<(Instant, Key)>,
    wait_until: Option<Instant>,
    in_flight: usize,
}

/// One message to send now.
#[derive(Debug)]
pub struct Due<'a> {
    /// What it is.
    pub key: &'a Key,
    /// Its class.
    pub class: Class,
    /// Where it goes.
    pub topic: &'a str,
    /// JSON, or empty: clears what is retained.
    pub payload: &'a [u8],
    /// Which setting of the key this is.
    pub version: u64,
}

impl Due<'_> {
    /// Whether it is retained.
    pub fn retain(&self) -> bool {
        self.class != Class::Loss
    }
}

impl Default for Own {
    fn default() -> Own {
        Own {
            queues: Default::default(),
            messages: HashMap::new(),
            loss_topic: String::new(),
            version: NonZeroU64::MIN,
            strikes: [Strikes::new(STRIKES, PAUSE); 4],
            delayed: BTreeSet::new(),
            wait_until: None,
            in_flight: 0,
        }
    }
}

impl Own {
    /// Says `payload` on `topic`, retained; replaces what was not yet acknowledged there.
    pub fn set_status(&mut self, class: Class, topic: &str, payload: Vec<u8>) {
        self.set(class, Key::Status(topic.into()), payload);
    }

    /// Reports a loss; replaces the report of the same number.
    pub fn report_loss(&mut self, lane: Lane, number: u64, topic: &str, payload: Vec<u8>) {
        topic.clone_into(&mut self.loss_topic);
        self.set(Class::Loss, Key::Loss(lane, number), payload);
    }

    fn set(&mut self, class: Class, key: Key, payload: Vec<u8>) {
        self.version = self.version.saturating_add(1);
        let version = self.version;
        let message = self.messages.entry(key.clone()).or_insert_with(|| Message {
            class,
            payload: Box::default(),
            version,
            sent: None,
            queued: false,
            refusal: None,
        });
        message.payload = payload.into();
        message.version = version;
        if message.delayed_until().is_some() {
            return; // sent with the next try
        }
        if !std::mem::replace(&mut message.queued, true) {
            self.queues[message.class as usize].push_back(key);
        }
    }

    /// The next message to send, if any may go at `now`. It counts as sent.
    pub fn next(&mut self, now: Instant) -> Option<Due<'_>> {
        if self.wait_until.is_some_and(|until| now < until) {
            return None;
        }
        self.wait_until = None;
        self.end_delays(Some(now));
        let class = self.next_class(now)?;
        let key = self.queues[class as usize].pop_front()?;
        let message = self.messages.get_mut(&key)?;
        message.queued = false;
        if message.sent.replace(message.version).is_none() {
            self.in_flight += 1;
        }
        // Borrowed from the map, where it stays until it is acknowledged.
        let (key, message) = self.messages.get_key_value(&key)?;
        let Message { class, payload, version, .. } = message;
        let topic = match key {
            Key::Status(topic) => &**topic,
            Key::Loss(..) => self.loss_topic.as_str(),
        };
        Some(Due { key, class: *class, topic, payload, version: version.get() })
    }

    fn next_class(&self, now: Instant) -> Option<Class> {
        let due = |class: &Class| !self.is_paused(now, *class) && !self.queues[*class as usize].is_empty();
        Class::ALL.into_iter().find(due)
    }

    /// Whether a message may go at `now`.
    pub fn has_due(&self, now: Instant) -> bool {
        self.wait_until.is_none_or(|until| now >= until)
            && (self.next_class(now).is_some() || self.delayed.first().is_some_and(|(at, _)| *at <= now))
    }

    /// Puts back into their queues what was delayed until `now`, or all of it.
    fn end_delays(&mut self, now: Option<Instant>) {
        while let Some((at, _)) = self.delayed.first() {
            if now.is_some_and(|now| *at > now) {
                return;
            }
            let Some((_, key)) = self.delayed.pop_first() else { return };
            if let Some(message) = self.messages.get_mut(&key) {
                message.refusal.iter_mut().for_each(|refusal| refusal.delayed_until = None);
                if !std::mem::replace(&mut message.queued, true) {
                    self.queues[message.class as usize].push_back(key);
                }
            }
        }
    }

    /// The broker refused it by this code: it is tried again ever more seldom. Whether that is new.
    pub fn refuse(&mut self, now: Instant, key: &Key, code: u8) -> bool {
        let Some(message) = self.messages.get_mut(key) else { return false };
        if message.sent.take().is_some() {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        if message.queued {
            self.queues[message.class as usize].retain(|queued| queued != key);
            message.queued = false;
        }
        let before = message.refusal.as_ref().map_or(0, |refusal| refusal.count);
        let wait = RETRY.saturating_mul(1 << before.saturating_mul(2).min(16)).min(PAUSE);
        let refusal = Refusal { count: before.saturating_add(1), by: code, delayed_until: Some(now + wait) };
        message.refusal = Some(Box::new(refusal));
        self.delayed.insert((now + wait, key.clone()));
        before == 0
    }

    /// The broker has that version, or will never have it.
    pub fn settle(&mut self, key: &Key, version: u64) {
        let Some(message) = self.messages.get_mut(key) else {
            return;
        };
        if message.sent.map(NonZeroU64::get) == Some(version) {
            message.sent = None;
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        let delayed_until = message.delayed_until();
        match &mut message.refusal {
            Some(refusal) if delayed_until.is_some() => refusal.count = 0,
            refusal => *refusal = None,
        }
        if message.version.get() == version {
            if let Some(at) = delayed_until {
                self.delayed.remove(&(at, key.clone()));
            }
            if message.queued {
                self.queues[message.class as usize].retain(|queued| queued != key);
            }
            self.messages.remove(key);
            self.give_back();
        }
    }

    /// Gives the memory back in which the messages of a time without an uplink waited.
    fn give_back(&mut self) {
        if self.messages.is_empty() && self.messages.capacity() > 2 * KEPT {
            self.messages.shrink_to(KEPT);
            self.queues.iter_mut().for_each(|queue| queue.shrink_to(KEPT));
        }
    }

    /// The broker refused it for now: it is sent again a little later.
    pub fn postpone(&mut self, now: Instant, key: &Key) {
        if let Some(message) = self.messages.get_mut(key) {
            if message.sent.take().is_some() {
                self.in_flight = self.in_flight.saturating_sub(1);
            }
            if !std::mem::replace(&mut message.queued, true) {
                self.queues[message.class as usize].push_back(key.clone());
            }
        }
        self.wait_until = Some(now + RETRY);
    }

    /// The connection is gone: what was sent and not acknowledged is sent again, and what was
    /// refused on it.
    pub fn handle_closed(&mut self) {
        self.wait_until = None;
        self.end_delays(None);
        self.in_flight = 0;
        for (key, message) in &mut self.messages {
            message.sent = None;
            if !std::mem::replace(&mut message.queued, true) {
                self.queues[message.class as usize].push_back(key.clone());
            }
        }
    }

    /// The class of that message, while it is not settled.
    pub fn class(&self, key: &Key) -> Option<Class> {
        self.messages.get(key).map(|message| message.class)
    }

    /// The classes of the messages sent and not acknowledged.
    pub fn sent_classes(&self) -> impl Iterator<Item = Class> {
        self.messages.values().filter(|message| message.sent.is_some()).map(|message| message.class)
    }

    /// Whether the status on `topic` is yet to be sent or acknowledged. One that was refused waits
    /// for nothing.
    pub fn is_unsettled(&self, topic: &str) -> bool {
        let message = self.messages.get(&Key::Status(topic.into()));
        message.is_some_and(|message| message.delayed_until().is_none())
    }

    /// Whether the status on `topic` has not reached the broker, whatever it waits for.
    pub fn is_waiting(&self, topic: &str) -> bool {
        self.messages.contains_key(&Key::Status(topic.into()))
    }

    /// Topics of messages the broker refused last time, with the reason code, at most `limit`.
    pub fn refused(&self, limit: usize) -> Vec<(String, u8)> {
        let refused = self.messages.iter().filter_map(|(key, message)| {
            let refusal = message.refusal.as_ref().filter(|refusal| refusal.count > 0)?;
            let topic = match key {
                Key::Status(topic) => &**topic,
                Key::Loss(..) => self.loss_topic.as_str(),
            };
            Some((topic.to_owned(), refusal.by))
        });
        let mut topics: Vec<_> = refused.collect();
        topics.sort_unstable();
        topics.truncate(limit);
        topics
    }

    /// The classes that pause at `now`.
    pub fn paused(&self, now: Instant) -> impl Iterator<Item = Class> {
        Class::ALL.into_iter().filter(move |class| self.is_paused(now, *class))
    }

    /// Sends nothing of that class for an hour.
    pub fn pause(&mut self, now: Instant, class: Class) {
        self.strikes[class as usize].leave_out(now);
    }

    /// The connection was lost with one message of that class alone in flight, or it stayed
    /// unanswered. Whether the class pauses from now on.
    pub fn strike(&mut self, now: Instant, class: Class) -> bool {
        self.strikes[class as usize].strike(now)
    }

    /// The broker answered that message: its class has no strikes.
    pub fn clear_strikes(&mut self, key: &Key) {
        if let Some(class) = self.class(key) {
            self.strikes[class as usize].clear();
        }
    }

    /// Whether that class pauses at `now`.
    pub fn is_paused(&self, now: Instant, class: Class) -> bool {
        self.strikes[class as usize].is_left_out(now)
    }

    /// How many messages are sent and not acknowledged.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// When a waiting message may go that may not now.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.wait_until.filter(|_| self.queues.iter().any(|queue| !queue.is_empty()));
        let delayed = self.delayed.first().map(|(at, _)| *at);
        waiting.into_iter().chain(delayed).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(topic: &str) -> Key {
        Key::Status(topic.into())
    }

    #[test]
    fn what_waited_without_an_uplink_takes_no_memory_once_it_is_acknowledged() {
        let now = Instant::now();
        let mut own = Own::default();
        for device in 0..10_000 {
            own.set_status(Class::DeviceStatus, &format!("tb/d{device}/status"), b"{}".to_vec());
        }
        while let Some(due) = own.next(now) {
            let (key, version) = (due.key.clone(), due.version);
            own.settle(&key, version);
        }
        assert!(own.messages.is_empty() && own.in_flight() == 0);
        assert!(own.messages.capacity() <= 4 * KEPT, "{}", own.messages.capacity());
        let queued: usize = own.queues.iter().map(VecDeque::capacity).sum();
        assert!(queued <= 16 * KEPT, "{queued}");
    }

    /// One of each device waits while there is no uplink.
    #[test]
    fn a_waiting_message_is_small() {
        assert!(size_of::<(Key, Message)>() <= 72, "{}", size_of::<(Key, Message)>());
    }

    #[test]
    fn the_newest_message_of_a_topic_replaces_the_older() {
        let now = Instant::now();
        let mut own = Own::default();
        own.set_status(Class::DeviceStatus, "a", b"1".to_vec());
        own.set_status(Class::DeviceStatus, "a", b"2".to_vec());
        let due = own.next(now).unwrap();
        assert_eq!((due.topic, due.payload), ("a", &b"2"[..]));
        assert!(own.next(now).is_none());
    }

    #[test]
    fn an_answer_to_an_older_message_does_not_settle_the_newer() {
        let now = Instant::now();
        let mut own = Own::default();
        own.set_status(Class::DeviceStatus, "a", b"1".to_vec());
        let first = own.next(now).unwrap().version;
        own.set_status(Class::DeviceStatus, "a", b"2".to_vec());
        own.settle(&key("a"), first);
        let due = own.next(now).unwrap();
        assert_eq!(due.payload, b"2");
        let second = due.version;
        own.settle(&key("a"), second);
        assert!(!own.is_unsettled("a"));
        assert_eq!(own.in_flight(), 0);
    }

    #[test]
    fn what_was_not_acknowledged_is_sent_again_after_a_disconnect() {
        let now = Instant::now();
        let mut own = Own::default();
        own.set_status(Class::DeviceStatus, "a", b"1".to_vec());
        own.next(now).unwrap();
        own.handle_closed();
        assert_eq!(own.next(now).unwrap().payload, b"1");
    }

    #[test]
    fn one_that_is_refused_is_tried_ever_more_seldom_and_holds_up_nothing() {
        let start = Instant::now();
        let mut own = Own::default();
        own.set_status(Class::DeviceStatus, "a", b"1".to_vec());
        let mut now = start;
        for (number, wait) in [5, 20, 80, 320, 1280, 3600, 3600].into_iter().enumerate() {
            assert_eq!(own.next(now).unwrap().topic, "a");
            assert_eq!(own.refuse(now, &key("a"), 0x87), number == 0);
            assert!(!own.is_unsettled("a") && !own.has_due(now));
            own.set_status(Class::DeviceStatus, "b", b"1".to_vec());
            let version = own.next(now).unwrap().version;
            own.settle(&key("b"), version);
            assert_eq!(own.poll_timeout(), Some(now + Duration::from_secs(wait)));
            now += Duration::from_secs(wait);
        }
        // On another connection at once.
        own.next(now).unwrap();
        own.refuse(now, &key("a"), 0x87);
        assert_eq!(own.refused(9), [("a".to_owned(), 0x87)]);
        own.handle_closed();
        assert_eq!(own.next(now).unwrap().topic, "a");
    }

    #[test]
    fn a_paused_class_does_not_hold_up_the_others() {
        let now = Instant::now();
        let mut own = Own::default();
        own.set_status(Class::DeviceStatus, "a", b"1".to_vec());
        own.set_status(Class::GatewayStatus, "g", b"2".to_vec());
        own.pause(now, Class::GatewayStatus);
        assert_eq!(own.next(now).unwrap().topic, "a");
        assert!(own.next(now).is_none());
        assert_eq!(own.next(now + PAUSE).unwrap().topic, "g");
    }
}
