//! Maps a path, the arguments of a query, the content format and the device's tags to a topic. A
//! rule's template is compiled with all constant parts filled in, and the result is checked so that
//! a device cannot reach topics of another owner.
//!
//! A **space** is a set of topics with a common head; the level after the head is the id of the
//! owner:
//!
//! | space | default head | owner |
//! |---|---|---|
//! | devices | `{prefix}/` | the device with that id; `gateway` is the gateway itself |
//! | readings | what precedes `{device}` in `[topics] reading` | the device with that id |
//! | gateways | the text before the gateway's id in `prefix`: `tombolo/` | the gateway with that id |
//!
//! A topic in a space must belong to the device that sent the reading. Literal text in a template
//! is checked when the rule is built: a literal level in the place of an id is allowed if no device
//! has that id, and no device may then take it. A rule whose owner level depends on the path or the
//! query of a reading is checked for each reading: it lists the spaces it may reach, and
//! [`Spaces::holds`] checks the topic.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write as _;
use std::sync::Arc;

use super::matcher::Segments;
use super::own_topic::{OwnTopic, OwnTopics, Shape};
use super::pattern::{LevelText, Pattern};
use super::settings::Settings;
use super::stage::{Authorized, Mapped, Received, Refusal, TopicFault};
use super::tag::Tags;
use super::template::{Part, Template};
use crate::message::{
    ArgumentError, Content, ContentFormat, Envelope, Method, Name, Query, RESERVED_DEVICE, SEGMENT_MAX,
    TOPIC_MAX, is_topic_character,
};

/// All spaces, and the topics that the gateway itself uses.
#[derive(Debug)]
pub(super) struct Spaces {
    gateway: Name,
    spaces: Vec<Space>,
    own: Arc<OwnTopics>,
    reply: Option<OwnTopic>,
}

#[derive(Debug, PartialEq, Eq)]
struct Space {
    head: Head,
    owner: Owner,
}

/// What precedes the level that identifies the owner.
#[derive(Debug, PartialEq, Eq)]
enum Head {
    /// Constant text, which ends in `/`.
    Text(String),
    /// Levels; `None` is any one level, of which a tag or a part of a reading is at least a part.
    Levels(Vec<Option<String>>),
}

impl Head {
    /// What follows the head in a topic that begins with it.
    fn tail<'t>(&self, topic: &'t str) -> Option<&'t str> {
        match self {
            Head::Text(head) => topic.strip_prefix(head.as_str()),
            Head::Levels(levels) => levels.iter().try_fold(topic, |rest, level| {
                let (first, rest) = rest.split_once('/')?;
                level.as_ref().is_none_or(|level| level == first).then_some(rest)
            }),
        }
    }

    /// Whether `topic` is the head itself, without its last slash.
    fn is(&self, topic: &str) -> bool {
        self.tail(&format!("{topic}/")) == Some("")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Device,
    Gateway,
}

impl Spaces {
    pub(super) fn new(settings: &Settings) -> Spaces {
        let head = Head::Text(format!("{}/", settings.prefix));
        let mut spaces = vec![Space { head, owner: Owner::Device }];
        if let Some(head) = settings.prefix.strip_suffix(settings.gateway.as_str())
            && head.ends_with('/')
        {
            spaces.push(Space { head: Head::Text(head.to_owned()), owner: Owner::Gateway });
        }
        if let Some(reading) = &settings.reading {
            for role in &settings.roles {
                if let Some(head) = head_of(reading, settings, &role.name) {
                    let space = Space { head, owner: Owner::Device };
                    if !spaces.contains(&space) {
                        spaces.push(space);
                    }
                }
            }
        }
        Spaces {
            gateway: settings.gateway.clone(),
            spaces,
            own: Arc::clone(&settings.own),
            reply: settings.reply.clone(),
        }
    }

    /// Whether the reply to a command for `device` may go to `topic`.
    pub(super) fn check_reply(&self, topic: &str, device: &str) -> Result<(), TopicFault> {
        let is_reply = |own: &OwnTopic| own.key() == OwnTopic::REPLY_KEY;
        if self.own.iter().any(|own| !is_reply(own) && own.matches(topic)) {
            return Err(TopicFault::Own);
        }
        // The template's device is any but the gateway itself, whose replies have its place.
        let of_gateway = (device == RESERVED_DEVICE)
            .then(|| topic.replacen(&format!("/{RESERVED_DEVICE}/"), "/device/", 1));
        let topic_of_device = of_gateway.as_deref().unwrap_or(topic);
        let is_default = self.reply.as_ref().is_some_and(|reply| reply.matches(topic_of_device));
        let foreign = self.spaces.iter().any(|space| {
            let Some(tail) = space.head.tail(topic) else { return space.head.is(topic) };
            let whose = tail.split('/').next().unwrap_or_default();
            match space.owner {
                Owner::Device => !is_default || whose != device,
                Owner::Gateway => whose != self.gateway.as_str(),
            }
        });
        if foreign { Err(TopicFault::ForeignSpace) } else { Ok(()) }
    }

    /// Whether `topic` is, in each of the spaces numbered in `reachable`, outside the space or
    /// owned by `device`.
    fn holds(&self, reachable: &[u32], topic: &str, device: &str) -> bool {
        reachable.iter().filter_map(|number| self.spaces.get(*number as usize)).all(|space| {
            let Some(tail) = space.head.tail(topic) else { return true };
            let whose = tail.split('/').next().unwrap_or_default();
            whose
                == match space.owner {
                    Owner::Device => device,
                    Owner::Gateway => self.gateway.as_str(),
                }
        })
    }
}

/// Stands for a part of a level that is not constant. It is no character of a topic.
const UNKNOWN: char = '+';

/// What precedes `{device}` in the reading template, if `{device}` is a whole level and no
/// placeholder before it stands for several levels.
fn head_of(reading: &Template, settings: &Settings, role: &Name) -> Option<Head> {
    let mut head = String::new();
    let mut parts = reading.parts().iter();
    for part in parts.by_ref() {
        match part {
            Part::Device => break,
            Part::Path | Part::Rest => return None,
            _ => match known(reading, *part, settings, role) {
                Some(text) => head.push_str(text),
                None => head.push(UNKNOWN),
            },
        }
    }
    let next = match parts.next() {
        Some(Part::Text(start, end)) => reading.text(*start, *end),
        Some(_) => return None,
        None => "/",
    };
    if !(reading.parts().contains(&Part::Device) && head.ends_with('/') && next.starts_with('/')) {
        return None;
    }
    if !head.contains(UNKNOWN) {
        return Some(Head::Text(head));
    }
    let levels = head.trim_end_matches('/').split('/');
    Some(Head::Levels(levels.map(|level| (!level.contains(UNKNOWN)).then(|| level.to_owned())).collect()))
}

/// The text of a part that is the same for all devices of a role.
fn known<'a>(template: &'a Template, part: Part, settings: &'a Settings, role: &'a Name) -> Option<&'a str> {
    match part {
        Part::Text(start, end) => Some(template.text(start, end)),
        Part::Prefix => Some(&settings.prefix),
        Part::Gateway => Some(settings.gateway.as_str()),
        Part::Role => Some(role.as_str()),
        Part::Device
        | Part::Path
        | Part::Capture(_)
        | Part::Rest
        | Part::ContentFormat
        | Part::Query(..)
        | Part::Tag(..) => None,
    }
}

/// Whether `prefix` is valid as the beginning of a topic.
pub(super) fn is_prefix(prefix: &str) -> bool {
    !prefix.starts_with('$')
        && prefix.len() <= TOPIC_MAX
        && prefix.split('/').all(|level| !level.is_empty() && level.chars().all(is_topic_character))
}

/// A template as one rule uses it.
#[derive(Debug)]
pub(super) struct Mapping {
    /// All literal text, concatenated.
    text: Box<str>,
    pieces: Box<[Piece]>,
    /// The arguments of the query that [`Piece::Argument`] numbers.
    arguments: Box<[Name]>,
    /// The tags that [`Piece::Tag`] numbers.
    tags: Box<[Name]>,
    /// The numbers of the spaces that the path or the query of a reading can lead into.
    reachable: Box<[u32]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    /// Literal text: start and end in `text`.
    Text(u16, u16),
    Device,
    Path,
    /// One segment of the path, counted from 0.
    Segment(u8),
    /// All segments from this one on; if there are none, the level and the `/` before it are
    /// omitted.
    Rest(u8),
    /// The number of the content format, or [`NO_FORMAT`].
    ContentFormat,
    /// The value of the argument of the query with this number.
    Argument(u16),
    /// The value of the device's tag with this number.
    Tag(u16),
}

/// What stands for the content format of a reading that has none.
pub(super) const NO_FORMAT: &str = "none";

/// What the placeholders of a topic stand for.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    pub(super) device: &'a str,
    pub(super) segments: &'a Segments<'a>,
    pub(super) query: Option<Query<'a>>,
    pub(super) content_format: Option<ContentFormat>,
    pub(super) tags: &'a Tags,
}

impl Mapping {
    /// `pattern` must have all captures that `template` names ([`Template::check_captures`]).
    ///
    /// Literal levels in the place of a device's id are added to `taken`.
    ///
    /// # Errors
    /// [`MappingError`]: the template makes no topic that is allowed.
    pub(super) fn new(
        template: &Template,
        pattern: &Pattern,
        settings: &Settings,
        role: &Name,
        spaces: &Spaces,
        taken: &mut BTreeSet<String>,
    ) -> Result<Mapping, MappingError> {
        let mut text = String::new();
        let mut pieces = Vec::new();
        let (mut arguments, mut tags) = (Vec::new(), Vec::new());
        for part in template.parts() {
            let piece = match part {
                Part::Device => Piece::Device,
                Part::Path => Piece::Path,
                Part::Capture(number) => {
                    let wildcards =
                        pattern.levels().enumerate().filter(|(_, level)| *level == LevelText::Any);
                    let depth = wildcards.map(|(depth, _)| depth).nth(usize::from(*number).saturating_sub(1));
                    Piece::Segment(depth.unwrap_or_default() as u8)
                }
                Part::Rest => Piece::Rest(pattern.levels().count().saturating_sub(1) as u8),
                Part::ContentFormat => Piece::ContentFormat,
                Part::Query(start, end) => {
                    // A template has fewer placeholders than bytes, and only valid names.
                    let number = arguments.len() as u16;
                    arguments.extend(Name::parse(template.text(*start, *end)));
                    Piece::Argument(number)
                }
                Part::Tag(start, end) => {
                    let number = tags.len() as u16;
                    tags.extend(Name::parse(template.text(*start, *end)));
                    Piece::Tag(number)
                }
                _ => {
                    let start = text.len();
                    text.push_str(known(template, *part, settings, role).unwrap_or_default());
                    if text.len() > TOPIC_MAX {
                        return Err(MappingError::TooLong);
                    }
                    match pieces.last_mut() {
                        Some(Piece::Text(_, end)) => {
                            *end = text.len() as u16;
                            continue;
                        }
                        _ => Piece::Text(start as u16, text.len() as u16),
                    }
                }
            };
            pieces.push(piece);
        }
        let (text, pieces) = (text.into(), pieces.into());
        let (arguments, tags) = (arguments.into(), tags.into());
        let mut mapping = Mapping { text, pieces, arguments, tags, reachable: Box::default() };
        let mut reachable = Vec::new();
        for (number, space) in (0_u32..).zip(&spaces.spaces) {
            if mapping.may_leave(space, taken)? {
                reachable.push(number);
            }
        }
        mapping.reachable = reachable.into();
        Ok(mapping)
    }

    /// The first own topic of the gateway that this mapping could produce for some path of
    /// `pattern` and any device.
    pub(super) fn meets<'s>(&self, pattern: &Pattern, spaces: &'s Spaces) -> Option<&'s OwnTopic> {
        let mut shape = Shape::default();
        for piece in &self.pieces {
            match piece {
                Piece::Text(start, end) => shape.text(self.text(*start, *end)),
                Piece::Device => shape.device(),
                Piece::Path => shape.path(pattern),
                Piece::Segment(_) | Piece::ContentFormat | Piece::Argument(_) | Piece::Tag(_) => {
                    shape.segment();
                }
                Piece::Rest(_) => shape.rest(),
            }
        }
        shape.meets(&spaces.own)
    }

    /// The first tag that its topic needs and a device does not have.
    pub(super) fn lacks(&self, tags: &Tags) -> Option<&Name> {
        self.tags.iter().find(|name| tags.get(name.as_str()).is_none())
    }

    fn text(&self, start: u16, end: u16) -> &str {
        &self.text[usize::from(start)..usize::from(end)]
    }

    /// Whether the path or the query of a reading, its content format or a tag could lead to
    /// another owner's topics in `space`.
    fn may_leave(&self, space: &Space, taken: &mut BTreeSet<String>) -> Result<bool, MappingError> {
        let leading = match self.pieces.first() {
            Some(Piece::Text(start, end)) => self.text(*start, *end),
            _ => "",
        };
        let head = match &space.head {
            Head::Text(head) => head.as_str(),
            // Each topic is looked at, unless it certainly begins with another level.
            Head::Levels(levels) => {
                let own = leading.split_once('/').map(|(level, _)| level);
                let wanted = levels.first().and_then(Option::as_deref);
                return Ok(own.zip(wanted).is_none_or(|(own, wanted)| own == wanted));
            }
        };
        let Some(behind) = leading.strip_prefix(head) else {
            // The literal text either differs from the head, or is a prefix of it, so the next
            // piece may complete it.
            return Ok(head.starts_with(leading) && self.pieces.len() > 1);
        };
        // The owner level: literal text, then the remaining pieces before the next '/'.
        let mut literal = String::new();
        let (mut devices, mut chosen, mut ended) = (0, false, false);
        for (number, piece) in self.pieces.iter().enumerate() {
            match piece {
                Piece::Text(start, end) => {
                    let text = if number == 0 { behind } else { self.text(*start, *end) };
                    let (level, next) =
                        text.split_once('/').map_or((text, None), |(level, next)| (level, Some(next)));
                    literal.push_str(level);
                    ended = next.is_some();
                }
                Piece::Device => devices += 1,
                Piece::Path
                | Piece::Segment(_)
                | Piece::Rest(_)
                | Piece::ContentFormat
                | Piece::Argument(_)
                | Piece::Tag(_) => chosen = true,
            }
            if ended {
                break;
            }
        }
        match (space.owner, devices, chosen) {
            // If the level is constant, no device can influence it.
            (Owner::Gateway, _, chosen) => Ok(chosen),
            (Owner::Device, 1, false) if literal.is_empty() => Ok(false),
            (Owner::Device, 0, true) => Ok(true),
            (Owner::Device, 0, false) if literal == RESERVED_DEVICE => Err(MappingError::GatewaySpace),
            (Owner::Device, 0, false) => {
                taken.insert(literal);
                Ok(false)
            }
            // `x{device}` is not the device's own id, but may be another device's id.
            (Owner::Device, _, _) => Err(MappingError::DeviceLevel),
        }
    }

    /// Writes the topic into `topic`, which is cleared first and never grows beyond [`TOPIC_MAX`]
    /// bytes.
    ///
    /// # Errors
    /// [`Refusal::Topic`], [`Refusal::Argument`]; the contents of `topic` are then unspecified.
    /// [`Refusal::NoRule`] if the device lacks a tag, which the choice of the rule excludes.
    pub(super) fn expand(
        &self,
        spaces: &Spaces,
        places: &Places<'_>,
        topic: &mut String,
    ) -> Result<(), Refusal> {
        let Places { device, segments, query, content_format, tags } = *places;
        topic.clear();
        let mut buffer = [0; SEGMENT_MAX];
        for piece in &self.pieces {
            let text = match piece {
                Piece::Text(start, end) => self.text(*start, *end),
                Piece::Device => device,
                Piece::Path => segments.text(),
                Piece::Segment(index) => segments.get(usize::from(*index)),
                Piece::Rest(index) => {
                    let rest = segments.rest(usize::from(*index));
                    if rest.is_empty() && topic.ends_with('/') {
                        topic.pop();
                    }
                    rest
                }
                Piece::ContentFormat => match content_format {
                    Some(ContentFormat(number)) => digits(number, &mut buffer),
                    None => NO_FORMAT,
                },
                Piece::Tag(number) => {
                    let name = self.tags.get(usize::from(*number));
                    name.and_then(|name| tags.get(name.as_str())).ok_or(Refusal::NoRule)?
                }
                Piece::Argument(number) => {
                    let Some(name) = self.arguments.get(usize::from(*number)) else { continue };
                    let value = query.ok_or(ArgumentError::Missing);
                    value
                        .and_then(|query| query.value(name, &mut buffer))
                        .map_err(|error| Refusal::Argument { name: name.clone(), error })?
                }
            };
            if topic.len() + text.len() > TOPIC_MAX {
                return Err(Refusal::Topic(TopicFault::TooLong));
            }
            topic.push_str(text);
        }
        if !self.reachable.is_empty() && !spaces.holds(&self.reachable, topic, device) {
            return Err(Refusal::Topic(TopicFault::ForeignSpace));
        }
        // Defence in depth: building a rule already excludes these topics, and this check is cheap.
        if spaces.own.iter().any(|own| own.matches(topic)) {
            return Err(Refusal::Topic(TopicFault::Own));
        }
        Ok(())
    }
}

/// A number in decimal, without an allocation.
fn digits(number: u16, buffer: &mut [u8; SEGMENT_MAX]) -> &str {
    let mut free = &mut buffer[..];
    // A u16 has at most 5 digits.
    let _ = write!(free, "{number}");
    let used = SEGMENT_MAX - free.len();
    std::str::from_utf8(&buffer[..used]).unwrap_or_default()
}

/// The third stage: the reading gets its topic.
pub(super) fn map<'a>(
    authorized: Authorized<'a>,
    spaces: &Spaces,
    tags: &Tags,
    topic: &'a mut String,
) -> Result<Mapped<'a>, Refusal> {
    let (identified, rule) = (authorized.identified(), authorized.rule());
    let received = identified.received();
    let device = identified.device().as_str();
    let Some(action) = &rule.action else { return Err(Refusal::NoRule) };
    let Received { query, content_format, .. } = *received;
    let places = Places { device, segments: authorized.segments(), query, content_format, tags };
    action.mapping.expand(spaces, &places, topic)?;
    // An empty retained message deletes the retained message (MQTT 5.0 §3.3.1.3), so it needs
    // DELETE or a rule that allows `delete`. A wrapped payload is never empty.
    let deletes = received.method == Method::Delete;
    let envelope = if deletes { Envelope::None } else { action.envelope };
    let clears = received.payload.is_empty() && envelope == Envelope::None;
    let content = Content {
        device,
        path: received.path.as_str(),
        query: received.query.map(Query::as_str),
        topic,
        method: received.method,
        content_format: received.content_format,
        retain: action.retain && (!clears || action.delete),
        test: false,
        reply: None,
        envelope,
        expires_s: action.expires_s,
        received: received.stamp,
        payload: received.payload,
    };
    Ok(Mapped::new(&authorized, &rule.name, content, action.lane, action.qos))
}

/// Why a template cannot produce an allowed topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingError {
    /// The literal text alone has more than 1,024 bytes.
    TooLong,
    /// The topic is under `{prefix}/gateway`, which is reserved for the gateway.
    GatewaySpace,
    /// The level that identifies the device has more than `{device}`.
    DeviceLevel,
}

impl fmt::Display for MappingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MappingError::TooLong => "the topic has more than 1,024 bytes before any path is filled in",
            MappingError::GatewaySpace => "topics under {prefix}/gateway are reserved for the gateway",
            MappingError::DeviceLevel => "the level that identifies the device must be exactly {device}",
        })
    }
}

impl std::error::Error for MappingError {}
