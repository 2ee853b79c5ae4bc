//! Messages between local clients: which may be sent and received, what is retained, and the form
//! in which the bus carries them.
//!
//! The bus itself is rumqttd's router, in the shell (docs/decisions/0029). It has one topic and one
//! filter, and carries every message to every session that has a local subscription; here it is
//! decided who gets it. So what the router keeps by topic or by filter neither grows nor reaches a
//! client. It carries what is delivered with QoS 0; what is delivered with QoS 1 or 2 goes to the
//! queue of each session ([`queue`](super::queue)) without it.

use std::collections::HashMap;

use mqtt_protocol_core::mqtt::packet::{Qos, RetainHandling};

use super::filter::Filter;
use crate::gate::matcher::{DEVICE, Piece, pieces};
use crate::gate::settings::ReadingFilter;
use crate::gate::stage::Refusal;
use crate::gate::tag::Tags;
use crate::message::{ContentFormat, Name, TOPIC_MAX, is_topic_character};

/// Most topics with a retained message.
pub const RETAINED_MAX: usize = 1_000;
/// Most bytes of retained messages, with their topics.
pub const RETAINED_BYTES_MAX: usize = 1 << 20;
/// The form of a message on the bus.
const FORM: u8 = 3;
/// No content format.
const NO_FORMAT: u16 = u16::MAX;
/// The flag of a retained message that begins a subscription.
const BEGINS: u8 = 4;
/// No expiry.
const NO_EXPIRY: u64 = u64::MAX;
/// Bytes before the topic: form 1, flags (retain, begins, QoS) 1, content format 2, sender 8,
/// expiry 8, length of the properties 4, length of the topic 2. After the topic: properties,
/// payload.
const HEADER: usize = 26;
/// The QoS among the flags.
const QOS_AT: u8 = 4;

/// `[role.X.local-publish.NAME]` or `[role.X.local-subscribe.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalRule {
    /// The name; rules have no order.
    pub name: Name,
    /// The role that it is from, where its role includes that one.
    pub from: Option<Name>,
    /// A topic filter, which may contain `{device}` and, of a rule that allows, `{tag.NAME}`.
    pub topic: String,
    /// A deny rule that matches has precedence over every other rule.
    pub deny: bool,
    /// Of what is published: how it may be.
    pub grant: Grant,
    /// Of what is received: the content formats, at most
    /// [`FORMATS_MAX`](crate::gate::settings::FORMATS_MAX); `None` within is a message without one.
    /// Empty: any, and none.
    pub content_formats: Vec<Option<ContentFormat>>,
    /// Of what is received: which messages are held back.
    pub filter: ReadingFilter,
}

/// How a message to local clients may be published; what is more is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// It may be retained.
    pub retain: bool,
    /// Its highest QoS, `0..=2`.
    pub qos: u8,
}

impl Grant {
    /// What a rule grants that does not say otherwise.
    pub const ALL: Grant = Grant { retain: true, qos: 2 };
}

/// The local rules of a role.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LocalRules {
    /// What its devices may publish to other local clients.
    pub publish: Vec<LocalRule>,
    /// What they may receive.
    pub subscribe: Vec<LocalRule>,
}

/// The device of a client: what stands for the placeholders of its rules.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Its id.
    pub device: &'a str,
    /// Its tags.
    pub tags: &'a Tags,
}

/// The text with these in the place of its placeholders; `None`: there is no such tag.
fn fill<'t>(text: &'t str, device: &'t str, tag: impl Fn(&'t str) -> Option<&'t str>) -> Option<String> {
    let of = |piece| match piece {
        Piece::Text(text) => Some(text),
        Piece::Device => Some(device),
        Piece::Tag(name) => tag(name),
    };
    pieces(text).map(of).collect()
}

impl LocalRule {
    /// The filter of a device. `None`: it has not all tags that the topic needs, so it is not given
    /// the rule.
    pub fn filter(&self, client: Client<'_>) -> Option<Filter> {
        self.filled(client.device, |name| client.tags.get(name))
    }

    /// The filter with these in the places. What is put in is not searched for placeholders again.
    pub fn filled<'t>(&'t self, device: &'t str, tag: impl Fn(&'t str) -> Option<&'t str>) -> Option<Filter> {
        Filter::parse(&fill(&self.topic, device, tag)?).ok()
    }

    /// The names of the tags that the topic needs.
    pub fn tag_names(&self) -> impl Iterator<Item = &str> {
        pieces(&self.topic).filter_map(|piece| match piece {
            Piece::Tag(name) => Some(name),
            _ => None,
        })
    }

    /// The filter of what the rule would be about if the device had all tags, and the first that it
    /// does not have. `None`: it has all.
    pub fn lacking(&self, client: Client<'_>) -> Option<(&str, Filter)> {
        let is_lacking = |name: &&str| client.tags.get(name).is_none();
        let first = self.tag_names().find(is_lacking)?;
        let tag = |name| client.tags.get(name);
        let level = |level| fill(level, client.device, tag).unwrap_or_else(|| "+".to_owned());
        let levels: Vec<String> = self.topic.split('/').map(level).collect();
        Some((first, Filter::parse(&levels.join("/")).ok()?))
    }
}

/// A subscription of a client.
#[derive(Clone, Debug)]
pub(super) struct Subscription {
    pub(super) filter: Filter,
    /// Whether it gets messages of the bus.
    pub(super) is_local: bool,
    /// Whether it gets messages of the broker.
    pub(super) is_downlink: bool,
    /// Its local messages are delivered with QoS 1 or 2, if they have it.
    pub(super) is_queued: bool,
    pub(super) options: Options,
    /// The QoS that its SUBACK granted.
    pub(super) granted: u8,
}

impl Subscription {
    /// The QoS of its local messages, at most.
    pub(super) fn granted_qos(&self) -> u8 {
        if self.is_queued { self.granted } else { 0 }
    }

    /// Other rules or another `max-queued` are in force; `is_local`: by them its filter may match
    /// local messages. What was granted stays granted, and brings what they allow.
    pub(super) fn review(&mut self, is_local: bool, max_queued: usize) {
        self.is_local = is_local;
        self.is_queued = self.is_local && self.granted > 0 && max_queued > 0;
    }

    /// Whether it gets a message of the broker on this path.
    pub(super) fn takes_downlink(&self, path: &str) -> bool {
        self.is_downlink && self.options.qos != Qos::AtMostOnce && self.filter.matches(path)
    }
}

/// Subscription Options (MQTT 5.0 §3.8.3.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub(super) qos: Qos,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
    pub(super) retain_handling: RetainHandling,
    /// The Subscription Identifier.
    pub(super) identifier: Option<u32>,
}

impl Options {
    /// Whether a message is not wanted because this publisher has sent it: No Local (MQTT 5.0
    /// §3.8.3.1).
    pub(super) fn excludes(&self, message: &BusMessage<'_>, publisher: u64) -> bool {
        self.no_local && message.sender == publisher
    }
}

/// A message on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusMessage<'m> {
    /// The topic, as its client wrote it.
    pub topic: &'m str,
    /// The payload.
    pub payload: &'m [u8],
    /// The content format, if CoAP has a number for the content type.
    pub content_format: Option<ContentFormat>,
    /// It was published with retain.
    pub retain: bool,
    /// Its QoS.
    pub qos: u8,
    /// Names the device and client id that published it; 0 = none.
    pub sender: u64,
    /// When it expires, on the clock of the bus: milliseconds since its first message.
    pub expires: Option<u64>,
    /// The properties of MQTT 5 that go with it unaltered, as on the wire (MQTT 5.0 §3.3.2.3).
    pub properties: &'m [u8],
}

impl<'m> BusMessage<'m> {
    /// The length of [`BusMessage::encode`].
    pub(super) fn encoded_length(&self) -> usize {
        HEADER + self.topic.len() + self.properties.len() + self.payload.len()
    }

    /// The bytes of a retained message that begins a subscription, for a queue.
    pub(super) fn encode_beginning(&self) -> Vec<u8> {
        let mut bytes = self.encode();
        bytes[1] |= BEGINS;
        bytes
    }

    /// Whether these are the bytes of one that begins a subscription.
    pub(super) fn is_beginning(bytes: &[u8]) -> bool {
        bytes.get(1).is_some_and(|flags| flags & BEGINS != 0)
    }

    /// The bytes that the bus carries.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_length());
        bytes.extend([FORM, u8::from(self.retain) | self.qos.min(2) << QOS_AT]);
        bytes.extend(self.content_format.map_or(NO_FORMAT, |format| format.0).to_be_bytes());
        bytes.extend(self.sender.to_be_bytes());
        bytes.extend(self.expires.unwrap_or(NO_EXPIRY).to_be_bytes());
        // A packet has at most 72 KiB, a topic 1,024 bytes.
        bytes.extend((self.properties.len() as u32).to_be_bytes());
        bytes.extend((self.topic.len() as u16).to_be_bytes());
        bytes.extend(self.topic.as_bytes());
        bytes.extend(self.properties);
        bytes.extend(self.payload);
        bytes
    }

    /// Reads what [`BusMessage::encode`] wrote; `None` for anything else.
    pub fn decode(bytes: &'m [u8]) -> Option<BusMessage<'m>> {
        let ([FORM, flags], rest) = bytes.split_first_chunk::<2>()? else { return None };
        let (format, rest) = rest.split_first_chunk::<2>()?;
        let (sender, rest) = rest.split_first_chunk::<8>()?;
        let (expires, rest) = rest.split_first_chunk::<8>()?;
        let (properties, rest) = rest.split_first_chunk::<4>()?;
        let (topic, rest) = rest.split_first_chunk::<2>()?;
        let (topic, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*topic)))?;
        let properties = usize::try_from(u32::from_be_bytes(*properties)).ok()?;
        let (properties, payload) = rest.split_at_checked(properties)?;
        let (format, expires) = (u16::from_be_bytes(*format), u64::from_be_bytes(*expires));
        Some(BusMessage {
            topic: std::str::from_utf8(topic).ok()?,
            payload,
            content_format: (format != NO_FORMAT).then_some(ContentFormat(format)),
            retain: *flags & 1 != 0,
            qos: (*flags >> QOS_AT & 3).min(2),
            sender: u64::from_be_bytes(*sender),
            expires: (expires != NO_EXPIRY).then_some(expires),
            properties,
        })
    }

    /// Whether it is not delivered any more (MQTT 5.0 §3.3.2.3.3).
    pub fn is_expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|at| at < now)
    }

    /// The Message Expiry Interval with which it is delivered: what is left of it, in seconds.
    pub fn seconds_left(&self, now: u64) -> Option<u32> {
        let left = self.expires?.saturating_sub(now).div_ceil(1_000).max(1);
        Some(u32::try_from(left).unwrap_or(u32::MAX))
    }
}

/// What the shell is to do on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusRequest {
    /// A session wants messages.
    Join(u64),
    /// It wants none any more.
    Leave(u64),
    /// A message for all that joined.
    Publish(Vec<u8>),
}

/// Whether a text may be the topic of a local message: `1..=1,024` bytes, no wildcard, no control
/// character, not below `$`.
pub(super) fn is_topic(topic: &str) -> bool {
    (1..=TOPIC_MAX).contains(&topic.len())
        && !topic.starts_with('$')
        && topic.chars().all(|c| c == '/' || is_topic_character(c))
}

/// The retained messages, in memory. Each is held by the device that published it last.
#[derive(Debug)]
pub(super) struct Retained {
    by_topic: HashMap<Box<str>, Kept>,
    all: Held,
    by_device: HashMap<Box<str>, Held>,
    /// Percent of the room that one device may have.
    share: u8,
    /// None of them expires before; there need not be one that expires then.
    expires: u64,
}

#[derive(Debug)]
struct Kept {
    device: Box<str>,
    bytes: Box<[u8]>,
}

/// How much is retained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    topics: usize,
    bytes: usize,
}

impl Held {
    /// Whether a message of so many bytes would make it too much, in the place of one that is there
    /// or not. One that takes no more than that one always has its place.
    fn is_full(self, place: Option<usize>, bytes: usize, percent: u8) -> bool {
        let part = |most: usize| (most * usize::from(percent) / 100).max(1);
        let topics = self.topics + usize::from(place.is_none());
        let grows = place.is_none_or(|before| bytes > before);
        let bytes = self.bytes - place.unwrap_or_default() + bytes;
        grows && (topics > part(RETAINED_MAX) || bytes > part(RETAINED_BYTES_MAX))
    }
}

impl Retained {
    /// None. `share`: percent of the room that one device may have, `1..=100`.
    pub(super) fn new(share: u8) -> Retained {
        let (all, by_device) = (Held::default(), HashMap::new());
        Retained { by_topic: HashMap::new(), all, by_device, share, expires: NO_EXPIRY }
    }

    /// From now on a device may have so much. What is there stays.
    pub(super) fn set_share(&mut self, share: u8) {
        self.share = share;
    }

    /// Whether a message of a device can be kept.
    ///
    /// # Errors
    /// [`Refusal::Retained`]
    pub(super) fn room(&self, device: &str, message: &BusMessage<'_>) -> Result<(), Refusal> {
        if message.payload.is_empty() {
            return Ok(());
        }
        let bytes = message.encoded_length();
        let before = self.by_topic.get(message.topic);
        if self.all.is_full(before.map(|kept| kept.bytes.len()), bytes, 100) {
            return Err(Refusal::Retained { of_device: false });
        }
        let own = self.by_device.get(device).copied().unwrap_or_default();
        let before = before.filter(|kept| *kept.device == *device);
        match own.is_full(before.map(|kept| kept.bytes.len()), bytes, self.share) {
            true => Err(Refusal::Retained { of_device: true }),
            false => Ok(()),
        }
    }

    /// Keeps a message that a device published with retain, or with an empty payload deletes the
    /// one of its topic. Returns whether there was room.
    pub(super) fn put(&mut self, device: &str, message: &BusMessage<'_>) -> bool {
        if self.room(device, message).is_err() {
            return false;
        }
        self.remove(message.topic);
        if message.payload.is_empty() {
            return true;
        }
        let bytes = message.encode();
        self.expires = self.expires.min(message.expires.unwrap_or(NO_EXPIRY));
        for held in [&mut self.all, self.by_device.entry(device.into()).or_default()] {
            *held = Held { topics: held.topics + 1, bytes: held.bytes + bytes.len() };
        }
        self.by_topic.insert(message.topic.into(), Kept { device: device.into(), bytes: bytes.into() });
        true
    }

    /// Removes the message of a topic.
    pub(super) fn remove(&mut self, topic: &str) {
        if let Some(Kept { device, bytes }) = self.by_topic.remove(topic) {
            let Held { topics, bytes: all } = self.all;
            self.all = Held { topics: topics - 1, bytes: all - bytes.len() };
            if let Some(own) = self.by_device.get_mut(&device) {
                *own = Held { topics: own.topics - 1, bytes: own.bytes - bytes.len() };
                if own.topics == 0 {
                    self.by_device.remove(&device);
                }
            }
        }
    }

    /// Removes those that have expired, and says how many. Looks at all of them only where one may
    /// have.
    pub(super) fn remove_expired(&mut self, now: u64) -> u64 {
        if self.expires >= now {
            return 0;
        }
        let mut gone = Vec::new();
        self.expires = NO_EXPIRY;
        for (topic, kept) in &self.by_topic {
            match BusMessage::decode(&kept.bytes).and_then(|message| message.expires) {
                Some(at) if at < now => gone.push(topic.clone()),
                at => self.expires = self.expires.min(at.unwrap_or(NO_EXPIRY)),
            }
        }
        gone.iter().for_each(|topic| self.remove(topic));
        gone.len() as u64
    }

    /// Those that a filter matches, in no particular order.
    pub(super) fn matching(&self, filter: &Filter) -> impl Iterator<Item = BusMessage<'_>> {
        let all = self.by_topic.iter().filter(|(topic, _)| filter.matches(topic));
        all.filter_map(|(_, kept)| BusMessage::decode(&kept.bytes))
    }
}

/// The topic under which an accepted reading is copied to the bus.
pub(super) fn mirrored(template: &str, device: &str, path: &str) -> String {
    // The path last: what it contains is not looked at again.
    match template.split_once("{path}") {
        Some((before, after)) => {
            [&before.replace(DEVICE, device), path, &after.replace(DEVICE, device)].concat()
        }
        None => template.replace(DEVICE, device),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<'m>(topic: &'m str, payload: &'m [u8]) -> BusMessage<'m> {
        let (expires, properties) = (None, &[][..]);
        BusMessage {
            topic,
            payload,
            content_format: None,
            retain: true,
            qos: 1,
            sender: 7,
            expires,
            properties,
        }
    }

    #[test]
    fn a_message_reads_back_and_nothing_else_is_one() {
        for format in [None, Some(ContentFormat::JSON)] {
            for (qos, expires, properties) in [(0, None, &[][..]), (1, Some(0), &[1]), (2, Some(7), &[1, 1])]
            {
                let known = message("a/b", b"{}");
                let message = BusMessage { content_format: format, qos, expires, properties, ..known };
                let bytes = message.encode();
                assert_eq!(BusMessage::decode(&bytes), Some(message));
                for length in 0..HEADER + 3 + properties.len() {
                    assert_eq!(BusMessage::decode(&bytes[..length]), None);
                }
            }
        }
        assert_eq!(BusMessage::decode(&[3; 40]), None);
    }

    #[test]
    fn a_message_expires_after_its_interval_and_says_what_is_left_of_it() {
        let lasts = BusMessage { expires: Some(6_000), ..message("a", b"") };
        assert_eq!((lasts.seconds_left(0), lasts.seconds_left(3_001)), (Some(6), Some(3)));
        assert!(!lasts.is_expired(6_000) && lasts.is_expired(6_001));
        assert_eq!(lasts.seconds_left(9_000), Some(1), "of one that is sent again");
        assert_eq!(
            (message("a", b"").seconds_left(1), message("a", b"").is_expired(u64::MAX)),
            (None, false)
        );
    }

    #[test]
    fn retained_messages_are_bounded_and_an_empty_one_deletes() {
        let mut retained = Retained::new(100);
        let all = Filter::parse("#").expect("a filter");
        assert!(retained.put("d", &message("a", b"1")) && retained.put("d", &message("a", b"22")));
        assert_eq!(retained.matching(&all).map(|m| m.payload.len()).collect::<Vec<_>>(), [2]);
        assert!(retained.put("e", &message("a", b"")) && retained.matching(&all).next().is_none());
        assert_eq!((retained.all, retained.by_device.len()), (Held::default(), 0));
        let topics: Vec<String> = (0..RETAINED_MAX + 5).map(|n| n.to_string()).collect();
        let kept = topics.iter().filter(|topic| retained.put("d", &message(topic, b"x"))).count();
        assert_eq!(kept, RETAINED_MAX);
        let full = Err(Refusal::Retained { of_device: false });
        assert_eq!(retained.room("e", &message("one more", b"x")), full);
        let mut retained = Retained::new(100);
        let large = vec![0; 64 << 10];
        assert!((0..100).filter(|n| retained.put("d", &message(&n.to_string(), &large))).count() < 17);
    }

    #[test]
    fn expired_messages_are_removed_at_their_time_and_the_others_stay() {
        let mut retained = Retained::new(100);
        let all = Filter::parse("#").expect("a filter");
        for (topic, expires) in [("a", None), ("b", Some(5)), ("c", Some(9)), ("d", Some(7))] {
            assert!(retained.put("d", &BusMessage { expires, ..message(topic, b"x") }));
        }
        let left = |retained: &Retained| {
            let mut topics: Vec<String> = retained.matching(&all).map(|m| m.topic.to_owned()).collect();
            topics.sort();
            topics
        };
        assert_eq!((retained.remove_expired(5), left(&retained).len()), (0, 4));
        assert_eq!(
            (retained.remove_expired(6), left(&retained)),
            (1, ["a", "c", "d"].map(str::to_owned).into())
        );
        assert_eq!((retained.remove_expired(10), left(&retained)), (2, ["a".to_owned()].into()));
        assert!(retained.put("d", &BusMessage { expires: Some(11), ..message("e", b"x") }));
        assert_eq!((retained.remove_expired(u64::MAX), left(&retained)), (1, ["a".to_owned()].into()));
    }

    #[test]
    fn a_device_takes_no_more_than_its_share_of_the_retained_messages() {
        let mut retained = Retained::new(30);
        let topics: Vec<String> = (0..RETAINED_MAX).map(|n| n.to_string()).collect();
        let kept = topics.iter().filter(|topic| retained.put("greedy", &message(topic, b"x"))).count();
        assert_eq!(kept, 300);
        let full = Err(Refusal::Retained { of_device: true });
        assert_eq!(retained.room("greedy", &message("one more", b"x")), full);
        assert!(retained.put("other", &message("one more", b"x")), "others have their room");
        // What is there stays as it was if a message has no room, and may be replaced.
        let all = Filter::parse("0").expect("a filter");
        let now = |retained: &Retained| retained.matching(&all).map(|m| m.payload.len()).collect::<Vec<_>>();
        assert!(!retained.put("greedy", &message("0", &vec![0; 400 << 10])));
        assert_eq!(now(&retained), [1]);
        assert!(retained.put("greedy", &message("0", b"yy")), "a larger one within the share");
        retained.set_share(1);
        assert!(retained.put("greedy", &message("0", b"zz")), "one that takes no more");
        assert!(!retained.put("greedy", &message("0", b"zzz")));
        assert!(retained.put("greedy", &message("0", b"")) && now(&retained).is_empty());
        // A topic is of the device that published it last.
        retained.set_share(30);
        assert!(retained.put("other", &message("1", b"x")));
        assert_eq!((retained.by_device["greedy"].topics, retained.by_device["other"].topics), (298, 2));
        assert_eq!(retained.all.topics, 300);
    }

    #[test]
    fn a_path_is_not_read_as_a_template() {
        assert_eq!(mirrored("{device}/{path}", "a", "{device}/x"), "a/{device}/x");
        assert_eq!(mirrored("m/{path}/of/{device}", "a", "p"), "m/p/of/a");
    }
}
