//! The stages of a reading, as types: each can only be made from the one before.
//!
//! ```text
//! Received ──identity──> Identified ──policy, quota──> Authorized ──mapping──> Mapped ──> journal
//! ```
//!
//! A southbound protocol makes a [`Received`]; the other stages have private constructors, so the
//! compiler enforces the order. The journal accepts only a [`Mapped`], so a reading that no rule
//! allows cannot be stored.
//!
//! Code outside the gate cannot construct a later stage:
//!
//! ```compile_fail,E0451
//! use tombolo::gate::stage::{Identified, Received};
//! fn forge(received: Received<'_>) -> Identified<'_> {
//!     Identified { received, ..todo!() } // its fields are private
//! }
//! ```
//!
//! ```compile_fail,E0624
//! use tombolo::gate::stage::{Authorized, Identified};
//! fn skip_the_policy(identified: Identified<'_>) -> Authorized<'_> {
//!     Authorized::new(identified, todo!(), todo!()) // its constructor is private
//! }
//! ```
//!
//! ```compile_fail,E0308
//! use tombolo::gate::stage::{Mapped, Received};
//! fn store(_: &Mapped<'_>) {}
//! fn skip_the_gate(received: Received<'_>) {
//!     store(&received) // not the stage that may be stored
//! }
//! ```
//!
//! Nor can it construct a [`DeviceIndex`]; only the gate makes one:
//!
//! ```compile_fail,E0451
//! use tombolo::gate::stage::DeviceIndex;
//! let somebody = DeviceIndex { slot: 0, generation: 0 };
//! ```

use std::fmt;

use super::filter::Filtered;
use super::matcher::Segments;
use super::policy::Rule;
use super::settings::QoS;
use crate::message::{
    ArgumentError, Content, ContentFormat, Envelope, Lane, Method, Name, Path, PathError, Query, QueryError,
    Stamp,
};
use crate::slots::Key;

/// Identifies a device as long as it is configured and enabled. 8 bytes.
///
/// It stays valid across reloads, also if credentials of the device change. It becomes stale when
/// the device is removed; a stale index is treated as an unknown device and never refers to another
/// one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceIndex {
    slot: u32,
    generation: u32,
}

impl DeviceIndex {
    /// Of a device that is not there.
    #[cfg(test)]
    pub fn of_slot(slot: u32) -> DeviceIndex {
        DeviceIndex { slot, generation: 0 }
    }

    pub(super) fn new(key: Key) -> DeviceIndex {
        DeviceIndex { slot: key.index, generation: key.generation }
    }

    pub(super) fn key(self) -> Key {
        Key { index: self.slot, generation: self.generation }
    }

    pub(super) fn slot(self) -> usize {
        self.slot as usize
    }

    pub(super) fn generation(self) -> u32 {
        self.generation
    }
}

impl fmt::Debug for DeviceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceIndex({}.{})", self.slot, self.generation)
    }
}

/// A reading as received, before its sender is identified. It is the same for all southbound
/// protocols.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The path within the sender.
    pub path: Path<'a>,
    /// The query of the request, if it had one; only CoAP has queries.
    pub query: Option<Query<'a>>,
    /// The method it was sent with.
    pub method: Method,
    /// The payload.
    pub payload: &'a [u8],
    /// The payload's content format, if the sender named it.
    pub content_format: Option<ContentFormat>,
    /// Whether it came in several blocks (Block1, RFC 7959), for which the larger default limit
    /// applies.
    pub blockwise: bool,
    /// When it was received.
    pub stamp: Stamp,
}

/// A reading whose sender the transport has authenticated.
#[derive(Clone, Copy)]
pub struct Identified<'a> {
    device: DeviceIndex,
    id: &'a Name,
    received: Received<'a>,
}

impl<'a> Identified<'a> {
    pub(super) fn new(device: DeviceIndex, id: &'a Name, received: Received<'a>) -> Identified<'a> {
        Identified { device, id, received }
    }

    /// The device's id.
    pub fn device(&self) -> &'a Name {
        self.id
    }

    /// The reading as received.
    pub fn received(&self) -> &Received<'a> {
        &self.received
    }
}

/// A reading that a rule of its device's role allows, within its size and quota.
#[derive(Clone, Copy)]
pub struct Authorized<'a> {
    identified: Identified<'a>,
    rule: &'a Rule,
    segments: Segments<'a>,
}

impl<'a> Authorized<'a> {
    pub(super) fn new(identified: Identified<'a>, rule: &'a Rule, segments: Segments<'a>) -> Authorized<'a> {
        Authorized { identified, rule, segments }
    }

    pub(super) fn rule(&self) -> &'a Rule {
        self.rule
    }

    pub(super) fn segments(&self) -> &Segments<'a> {
        &self.segments
    }

    /// The previous stage.
    pub fn identified(&self) -> &Identified<'a> {
        &self.identified
    }
}

/// A reading with its topic, ready for the journal.
#[derive(Clone, Copy)]
pub struct Mapped<'a> {
    device: DeviceIndex,
    rule: Option<&'a Name>,
    content: Content<'a>,
    lane: Lane,
    qos: QoS,
    number: Option<u64>,
    only: bool,
}

/// What becomes of a reading that the rules allow.
#[derive(Clone, Copy)]
pub enum Admitted<'a> {
    /// It is to be stored and published.
    Passed(Mapped<'a>),
    /// It is acknowledged and not published.
    Filtered(Filtered<'a>),
}

impl<'a> Admitted<'a> {
    /// The reading, if it is to be published.
    pub fn passed(self) -> Option<Mapped<'a>> {
        match self {
            Admitted::Passed(mapped) => Some(mapped),
            Admitted::Filtered(_) => None,
        }
    }
}

impl<'a> Mapped<'a> {
    pub(super) fn new(
        authorized: &Authorized<'a>,
        rule: &'a Name,
        content: Content<'a>,
        lane: Lane,
        qos: QoS,
    ) -> Mapped<'a> {
        let device = authorized.identified.device;
        Mapped { device, rule: Some(rule), content, lane, qos, number: None, only: false }
    }

    /// The same, which later readings are measured against under this number.
    pub(super) fn numbered(self, number: u64) -> Mapped<'a> {
        Mapped { number: Some(number), ..self }
    }

    /// The reply to a command, which no device sent.
    pub(super) fn of_reply(content: Content<'a>, lane: Lane, qos: QoS) -> Mapped<'a> {
        let device = DeviceIndex { slot: u32::MAX, generation: 0 };
        Mapped { device, rule: None, content, lane, qos, number: None, only: false }
    }

    /// The same, where the gate knows so many devices.
    pub(super) fn of_devices(self, count: usize) -> Mapped<'a> {
        Mapped { only: count == 1, ..self }
    }

    /// The same, as what the operator sends in the place of the device.
    pub(super) fn into_test(mut self) -> Mapped<'a> {
        self.content.test = true;
        self
    }

    /// The content to store and publish.
    pub fn content(&self) -> Content<'a> {
        self.content
    }

    /// The lane of the journal.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// QoS of the publish. A reading with `AtMostOnce` is not journaled.
    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// The index of the device that sent it; a stale one for a reply.
    pub fn device(&self) -> DeviceIndex {
        self.device
    }

    /// The name of the rule that allows it; a reply needs none.
    pub fn rule(&self) -> Option<&'a Name> {
        self.rule
    }

    /// The number by which later readings that are filtered name it; `None` if its rule has no
    /// filter. [`Gate::forget`](super::Gate::forget) if it is not stored.
    pub fn number(&self) -> Option<u64> {
        self.number
    }

    /// Whether its device is the only one that the gate knows.
    pub fn is_of_only_device(&self) -> bool {
        self.only
    }

    /// How the payload is wrapped.
    pub fn envelope(&self) -> Envelope {
        self.content.envelope
    }
}

/// Why a reading is refused. Each southbound protocol has its own response for it. A refusal takes
/// no tokens from the quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The device is unknown or its index is stale: close its session.
    UnknownDevice,
    /// The request names no path or no query that a reading may have. CoAP 4.00.
    Malformed(Malformed),
    /// The path is reserved for the gateway. CoAP 4.04.
    Reserved,
    /// The path is one of a child, for which the device may not speak. CoAP 4.03.
    OnBehalf(OnBehalfFault),
    /// No rule of its role matches the path. CoAP 4.03.
    NoRule,
    /// A rule denies the path. CoAP 4.03.
    Denied {
        /// The name of the rule.
        rule: Name,
    },
    /// The rule does not allow DELETE, or DELETE has a payload. CoAP 4.05.
    NotAllowed,
    /// The request has a query, which the rule does not want. CoAP 4.02, as for a critical option
    /// that is not processed (RFC 7252 §5.4.1: Uri-Query is critical).
    QueryUnwanted {
        /// The name of the rule.
        rule: Name,
    },
    /// The topic of the rule needs an argument that the query does not have, or not once and in a
    /// form that is safe in a topic. CoAP 4.00.
    Argument {
        /// The name of the argument.
        name: Name,
        /// What is wrong with it.
        error: ArgumentError,
    },
    /// The rule does not take this content format. CoAP 4.15.
    ContentFormat {
        /// The name of the rule.
        rule: Name,
        /// The content format; `None`: it has none.
        format: Option<ContentFormat>,
    },
    /// The payload is larger than its role or its rule allows. CoAP 4.13 with Size1.
    TooLarge {
        /// The limit in bytes for the way it was sent (datagram or Block1).
        limit: u32,
    },
    /// The quota is exhausted. CoAP 4.29 with Max-Age (RFC 8516).
    OverQuota {
        /// Seconds, rounded up and at least 1, after which the same reading would pass.
        retry_after_s: u32,
    },
    /// The device kept sending although it was told to wait. CoAP 4.29 with Max-Age.
    Muted {
        /// Seconds of silence after which it is heard again.
        retry_after_s: u32,
    },
    /// The rule maps it to a topic that it may not publish to. CoAP 4.03.
    Topic(TopicFault),
    /// Of a message to local clients alone: it is to be retained, and there is no room for one
    /// more.
    Retained {
        /// Its device has its share of the room.
        of_device: bool,
    },
}

/// What of a request is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Its path.
    Path(PathError),
    /// Its query.
    Query(QueryError),
}

/// Why a device may not forward a reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnBehalfFault {
    /// It has no child of this id.
    NoChild,
    /// No on-behalf rule of its role matches.
    NoRule,
    /// An on-behalf rule of its role denies it.
    Denied {
        /// The name of the rule.
        rule: Name,
    },
}

/// Why the topic of a reading is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicFault {
    /// More than 1,024 bytes.
    TooLong,
    /// It is in the space of another device or of the gateway.
    ForeignSpace,
    /// The gateway itself publishes to it or subscribes to it.
    Own,
    /// Nothing can be published to it: it begins with `$` or has a wildcard.
    Unpublishable,
}

impl Refusal {
    /// The kind of refusal, as it is counted.
    pub fn reason(&self) -> Reason {
        match self {
            Refusal::UnknownDevice => Reason::UnknownDevice,
            Refusal::Malformed(_) => Reason::Malformed,
            Refusal::Reserved => Reason::Reserved,
            Refusal::OnBehalf(_) => Reason::OnBehalf,
            Refusal::NoRule => Reason::NoRule,
            Refusal::Denied { .. } => Reason::Denied,
            Refusal::NotAllowed => Reason::NotAllowed,
            Refusal::QueryUnwanted { .. } | Refusal::Argument { .. } => Reason::Query,
            Refusal::ContentFormat { .. } => Reason::ContentFormat,
            Refusal::TooLarge { .. } => Reason::TooLarge,
            Refusal::OverQuota { .. } => Reason::OverQuota,
            Refusal::Muted { .. } => Reason::Muted,
            Refusal::Topic(_) => Reason::Topic,
            Refusal::Retained { .. } => Reason::Retained,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::UnknownDevice => "the device is not known",
            Refusal::Malformed(Malformed::Path(error)) => return write!(f, "malformed: {error}"),
            Refusal::Malformed(Malformed::Query(error)) => return write!(f, "malformed: {error}"),
            Refusal::Reserved => "the path is reserved for the gateway",
            Refusal::OnBehalf(OnBehalfFault::NoChild) => "no device behind it has this id",
            Refusal::OnBehalf(OnBehalfFault::NoRule) => {
                "no on-behalf rule of its role lets it speak for this device there"
            }
            Refusal::OnBehalf(OnBehalfFault::Denied { rule }) => {
                return write!(f, "on-behalf rule {rule} denies it to speak for this device there");
            }
            Refusal::NoRule => "no rule of its role matches the path",
            Refusal::Denied { rule } => return write!(f, "rule {rule} denies the path"),
            Refusal::NotAllowed => "the rule does not allow this method",
            Refusal::QueryUnwanted { rule } => return write!(f, "rule {rule} refuses requests with a query"),
            Refusal::Argument { name, error } => {
                return write!(f, "the topic needs the query argument {name}: {error}");
            }
            Refusal::ContentFormat { rule, format: None } => {
                return write!(f, "rule {rule} takes no reading without a content format");
            }
            Refusal::ContentFormat { rule, format: Some(format) } => {
                return write!(f, "rule {rule} does not take the content format {format}");
            }
            Refusal::TooLarge { limit } => return write!(f, "the payload has more than {limit} bytes"),
            Refusal::OverQuota { retry_after_s } => {
                return write!(f, "the quota is exhausted; retry after {retry_after_s} s");
            }
            Refusal::Muted { retry_after_s } => {
                return write!(
                    f,
                    "muted, because it ignored 4.29; heard again after {retry_after_s} s of silence"
                );
            }
            Refusal::Topic(TopicFault::TooLong) => "the topic would have more than 1,024 bytes",
            Refusal::Topic(TopicFault::ForeignSpace) => {
                "the topic belongs to another device or to the gateway"
            }
            Refusal::Topic(TopicFault::Own) => "the topic is reserved for the gateway",
            Refusal::Topic(TopicFault::Unpublishable) => "the topic begins with $ or has a wildcard",
            Refusal::Retained { of_device: true } => {
                "its device has its share of the retained messages (mqtt.retained-share)"
            }
            Refusal::Retained { of_device: false } => "there is no room for a further retained message",
        })
    }
}

impl std::error::Error for Refusal {}

/// The kinds of refusal, for counters and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// [`Refusal::UnknownDevice`]
    UnknownDevice,
    /// [`Refusal::Malformed`]
    Malformed,
    /// [`Refusal::Reserved`]
    Reserved,
    /// [`Refusal::OnBehalf`]
    OnBehalf,
    /// [`Refusal::NoRule`]
    NoRule,
    /// [`Refusal::Denied`]
    Denied,
    /// [`Refusal::NotAllowed`]
    NotAllowed,
    /// [`Refusal::QueryUnwanted`], [`Refusal::Argument`]
    Query,
    /// [`Refusal::ContentFormat`]
    ContentFormat,
    /// [`Refusal::TooLarge`]
    TooLarge,
    /// [`Refusal::OverQuota`]
    OverQuota,
    /// [`Refusal::Muted`]
    Muted,
    /// [`Refusal::Topic`]
    Topic,
    /// [`Refusal::Retained`]
    Retained,
}

impl Reason {
    /// All kinds, in the order of the checks.
    pub const ALL: [Reason; 14] = [
        Reason::UnknownDevice,
        Reason::Malformed,
        Reason::Reserved,
        Reason::OnBehalf,
        Reason::NoRule,
        Reason::Denied,
        Reason::NotAllowed,
        Reason::Query,
        Reason::ContentFormat,
        Reason::TooLarge,
        Reason::OverQuota,
        Reason::Muted,
        Reason::Topic,
        Reason::Retained,
    ];

    /// The name in logs and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::UnknownDevice => "unknown_device",
            Reason::Malformed => "malformed",
            Reason::Reserved => "reserved",
            Reason::OnBehalf => "on_behalf",
            Reason::NoRule => "no_rule",
            Reason::Denied => "denied",
            Reason::NotAllowed => "not_allowed",
            Reason::Query => "query",
            Reason::ContentFormat => "content_format",
            Reason::TooLarge => "too_large",
            Reason::OverQuota => "over_quota",
            Reason::Muted => "muted",
            Reason::Topic => "topic",
            Reason::Retained => "retained",
        }
    }
}

/// The number of refusals of each kind. 56 bytes; the counters saturate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused([u32; Reason::ALL.len()]);

impl Refused {
    pub(super) fn count(&mut self, reason: Reason) {
        let counter = &mut self.0[reason as usize];
        *counter = counter.saturating_add(1);
    }

    /// The number of refusals with this reason.
    pub fn of(&self, reason: Reason) -> u32 {
        self.0[reason as usize]
    }

    /// Each reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u32)> + '_ {
        Reason::ALL.into_iter().map(|reason| (reason, self.of(reason)))
    }

    /// The total number of refusals.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|count| u64::from(*count)).sum()
    }
}
