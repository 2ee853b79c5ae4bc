//! The stages of a reading, as types: each can only be made out of the one before.
//!
//! ```text
//! Received ──identity──> Identified ──policy, quota──> Authorized ──mapping──> Mapped ──> journal
//! ```
//!
//! A southbound makes a [`Received`]; all others have private constructors, so the compiler keeps
//! the order. The journal takes a [`Mapped`] and nothing else: what no rule allowed cannot be
//! stored.
//!
//! Nobody outside the gate makes a stage that was not passed:
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
//! Nor does anybody make up who a device is; a [`DeviceIndex`] comes from the gate alone:
//!
//! ```compile_fail,E0451
//! use tombolo::gate::stage::DeviceIndex;
//! let somebody = DeviceIndex { slot: 0, generation: 0 };
//! ```

use std::fmt;

use super::matcher::Segments;
use super::policy::Rule;
use super::settings::QoS;
use crate::message::{Content, ContentFormat, Envelope, Lane, Method, Name, Path, Stamp};
use crate::slots::Key;

/// Which device, for as long as it is known under the same key. 8 bytes.
///
/// It stays valid across reloads. Once its device is removed or given another key it is stale:
/// every question about it is answered as for an unknown device, and it never comes to mean another
/// one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceIndex {
    slot: u32,
    generation: u32,
}

impl DeviceIndex {
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

/// What came in, over whatever it came: *somebody said these bytes at this path*.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Where, in the sender's own space.
    pub path: Path<'a>,
    /// How.
    pub method: Method,
    /// The bytes.
    pub payload: &'a [u8],
    /// What they are, if the sender said.
    pub content_format: Option<ContentFormat>,
    /// Whether it came in several pieces (Block1), where the larger default limit holds.
    pub blockwise: bool,
    /// When.
    pub stamp: Stamp,
}

/// A reading whose sender the transport has proved.
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

    /// What it said.
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

    /// The stage before.
    pub fn identified(&self) -> &Identified<'a> {
        &self.identified
    }
}

/// A reading with its topic: what the journal takes.
#[derive(Clone, Copy)]
pub struct Mapped<'a> {
    device: DeviceIndex,
    rule: &'a Name,
    content: Content<'a>,
    lane: Lane,
    qos: QoS,
}

impl<'a> Mapped<'a> {
    pub(super) fn new(
        authorized: &Authorized<'a>,
        rule: &'a Name,
        content: Content<'a>,
        lane: Lane,
        qos: QoS,
    ) -> Mapped<'a> {
        Mapped { device: authorized.identified.device, rule, content, lane, qos }
    }

    /// What is stored and published.
    pub fn content(&self) -> Content<'a> {
        self.content
    }

    /// Which queue of the journal.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// Upstream quality of service; what is sent at most once is not journaled.
    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// Whose reading it is.
    pub fn device(&self) -> DeviceIndex {
        self.device
    }

    /// The name of the rule that let it pass.
    pub fn rule(&self) -> &'a Name {
        self.rule
    }

    /// How the envelope, if any, wraps it.
    pub fn envelope(&self) -> Envelope {
        self.content.envelope
    }
}

/// Why a reading does not pass. Each is answered in the protocol's own words, and costs the device
/// nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The device is not, or no longer, known: end its session.
    UnknownDevice,
    /// The path is one of the gateway's own. CoAP 4.04.
    Reserved,
    /// No rule of its role speaks of the path. CoAP 4.03.
    NoRule,
    /// This rule denies it. CoAP 4.03.
    Denied {
        /// The name of the rule.
        rule: Name,
    },
    /// A rule allows the path, but not DELETE, or DELETE came with a payload. CoAP 4.05.
    NotAllowed,
    /// The payload is larger than its role may send. CoAP 4.13 with Size1.
    TooLarge {
        /// Bytes that would have been taken the way this one came.
        limit: u32,
    },
    /// Too much in too short a time. CoAP 4.29 with Max-Age (RFC 8516).
    OverQuota {
        /// Whole seconds, rounded up and at least 1, after which the same would pass.
        retry_after_s: u32,
    },
    /// Its rule makes a topic of it that it may not have. CoAP 4.03.
    Topic(TopicFault),
}

/// What is wrong with a topic that a rule made of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicFault {
    /// More than 1,024 bytes.
    TooLong,
    /// It would be in another device's space, or in the gateway's own.
    ForeignSpace,
    /// It would be a topic that the gateway itself publishes to or subscribes to.
    Own,
}

impl Refusal {
    /// What it is counted as.
    pub fn reason(&self) -> Reason {
        match self {
            Refusal::UnknownDevice => Reason::UnknownDevice,
            Refusal::Reserved => Reason::Reserved,
            Refusal::NoRule => Reason::NoRule,
            Refusal::Denied { .. } => Reason::Denied,
            Refusal::NotAllowed => Reason::NotAllowed,
            Refusal::TooLarge { .. } => Reason::TooLarge,
            Refusal::OverQuota { .. } => Reason::OverQuota,
            Refusal::Topic(_) => Reason::Topic,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::UnknownDevice => "the device is not known",
            Refusal::Reserved => "the path is one of the gateway's own",
            Refusal::NoRule => "no rule of its role matches the path",
            Refusal::Denied { rule } => return write!(f, "rule {rule} denies the path"),
            Refusal::NotAllowed => "the rule does not allow this method",
            Refusal::TooLarge { limit } => return write!(f, "the payload has more than {limit} bytes"),
            Refusal::OverQuota { retry_after_s } => {
                return write!(f, "the quota is used up for {retry_after_s} s");
            }
            Refusal::Topic(TopicFault::TooLong) => "the topic would have more than 1,024 bytes",
            Refusal::Topic(TopicFault::ForeignSpace) => {
                "the topic would be in a space that is not the device's"
            }
            Refusal::Topic(TopicFault::Own) => "the topic would be one of the gateway's own",
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
    /// [`Refusal::Reserved`]
    Reserved,
    /// [`Refusal::NoRule`]
    NoRule,
    /// [`Refusal::Denied`]
    Denied,
    /// [`Refusal::NotAllowed`]
    NotAllowed,
    /// [`Refusal::TooLarge`]
    TooLarge,
    /// [`Refusal::OverQuota`]
    OverQuota,
    /// [`Refusal::Topic`]
    Topic,
}

impl Reason {
    /// All kinds, in the order in which they are looked for.
    pub const ALL: [Reason; 8] = [
        Reason::UnknownDevice,
        Reason::Reserved,
        Reason::NoRule,
        Reason::Denied,
        Reason::NotAllowed,
        Reason::TooLarge,
        Reason::OverQuota,
        Reason::Topic,
    ];

    /// As logs and JSON spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::UnknownDevice => "unknown_device",
            Reason::Reserved => "reserved",
            Reason::NoRule => "no_rule",
            Reason::Denied => "denied",
            Reason::NotAllowed => "not_allowed",
            Reason::TooLarge => "too_large",
            Reason::OverQuota => "over_quota",
            Reason::Topic => "topic",
        }
    }
}

/// How often each kind of refusal happened. 32 bytes; counts stop at their maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused([u32; Reason::ALL.len()]);

impl Refused {
    pub(super) fn count(&mut self, reason: Reason) {
        let counter = &mut self.0[reason as usize];
        *counter = counter.saturating_add(1);
    }

    /// How often for this reason.
    pub fn of(&self, reason: Reason) -> u32 {
        self.0[reason as usize]
    }

    /// Each reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u32)> + '_ {
        Reason::ALL.into_iter().map(|reason| (reason, self.of(reason)))
    }

    /// How often in all.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|count| u64::from(*count)).sum()
    }
}
