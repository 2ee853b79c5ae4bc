//! Maps a path, and the arguments of a query, to a topic. A rule's template is compiled with all
//! constant parts filled in, and the result is checked so that a device cannot reach topics of
//! another owner.
//!
//! A **space** is a set of topics with a common head; the level after the head is the id of the
//! owner:
//!
//! | space | default head | owner |
//! |---|---|---|
//! | devices | `{prefix}/` | the device with that id; `gateway` is the gateway itself |
//! | readings | the text before `{device}` in `[topics] reading` | the device with that id |
//! | gateways | the text before the gateway's id in `prefix`: `tombolo/` | the gateway with that id |
//!
//! A topic in a space must belong to the device that sent the reading. Literal text in a template
//! is checked when the rule is built: a literal level in the place of an id is allowed if no device
//! has that id, and no device may then take it. A rule whose owner level depends on the path or the
//! query of a reading is checked for each reading: it lists the spaces it may reach, and
//! [`Spaces::holds`] checks the topic.

use std::collections::BTreeSet;
use std::fmt;

use super::matcher::Segments;
use super::own_topic::{OwnTopic, Shape};
use super::pattern::{LevelText, Pattern};
use super::settings::Settings;
use super::stage::{Authorized, Mapped, Refusal, TopicFault};
use super::template::{Part, Template};
use crate::message::{
    ArgumentError, Content, Envelope, Method, Name, Query, RESERVED_DEVICE, SEGMENT_MAX, TOPIC_MAX,
    is_topic_character,
};

/// All spaces, and the topics that the gateway itself uses.
#[derive(Debug)]
pub(super) struct Spaces {
    gateway: Name,
    spaces: Vec<Space>,
    own: Vec<OwnTopic>,
}

#[derive(Debug, PartialEq, Eq)]
struct Space {
    /// Ends in `/`.
    head: String,
    owner: Owner,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Device,
    Gateway,
}

impl Spaces {
    pub(super) fn new(settings: &Settings) -> Spaces {
        let mut spaces = vec![Space { head: format!("{}/", settings.prefix), owner: Owner::Device }];
        if let Some(head) = settings.prefix.strip_suffix(settings.gateway.as_str())
            && head.ends_with('/')
        {
            spaces.push(Space { head: head.to_owned(), owner: Owner::Gateway });
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
        Spaces { gateway: settings.gateway.clone(), spaces, own: settings.own.clone() }
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
        let is_default = self.own.iter().any(|own| is_reply(own) && own.matches(topic_of_device));
        let foreign = self.spaces.iter().any(|space| {
            let Some(tail) = topic.strip_prefix(space.head.as_str()) else { return false };
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
            let Some(tail) = topic.strip_prefix(space.head.as_str()) else { return true };
            let whose = tail.split('/').next().unwrap_or_default();
            whose
                == match space.owner {
                    Owner::Device => device,
                    Owner::Gateway => self.gateway.as_str(),
                }
        })
    }
}

/// The text before `{device}` in the reading template, if `{device}` is a whole level and all text
/// before it is constant.
fn head_of(reading: &Template, settings: &Settings, role: &Name) -> Option<String> {
    let mut head = String::new();
    let mut parts = reading.parts().iter();
    for part in parts.by_ref() {
        match part {
            Part::Device => break,
            _ => head.push_str(known(reading, *part, settings, role)?),
        }
    }
    let next = match parts.next() {
        Some(Part::Text(start, end)) => reading.text(*start, *end),
        Some(_) => return None,
        None => "/",
    };
    (reading.parts().contains(&Part::Device) && head.ends_with('/') && next.starts_with('/')).then_some(head)
}

/// The text of a part that is the same for all devices of a role.
fn known<'a>(template: &'a Template, part: Part, settings: &'a Settings, role: &'a Name) -> Option<&'a str> {
    match part {
        Part::Text(start, end) => Some(template.text(start, end)),
        Part::Prefix => Some(&settings.prefix),
        Part::Gateway => Some(settings.gateway.as_str()),
        Part::Role => Some(role.as_str()),
        Part::Device | Part::Path | Part::Capture(_) | Part::Rest | Part::Query(..) => None,
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
    /// The value of the argument of the query with this number.
    Argument(u16),
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
        let mut arguments = Vec::new();
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
                Part::Query(start, end) => {
                    // A template has fewer placeholders than bytes, and only valid names.
                    let number = arguments.len() as u16;
                    arguments.extend(Name::parse(template.text(*start, *end)));
                    Piece::Argument(number)
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
        let (text, pieces, arguments) = (text.into(), pieces.into(), arguments.into());
        let mut mapping = Mapping { text, pieces, arguments, reachable: Box::default() };
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
                Piece::Segment(_) | Piece::Argument(_) => shape.segment(),
                Piece::Rest(_) => shape.rest(),
            }
        }
        shape.meets(&spaces.own)
    }

    fn text(&self, start: u16, end: u16) -> &str {
        &self.text[usize::from(start)..usize::from(end)]
    }

    /// Whether the path or the query of a reading could lead to another owner's topics in `space`.
    fn may_leave(&self, space: &Space, taken: &mut BTreeSet<String>) -> Result<bool, MappingError> {
        let head = space.head.as_str();
        let leading = match self.pieces.first() {
            Some(Piece::Text(start, end)) => self.text(*start, *end),
            _ => "",
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
                Piece::Path | Piece::Segment(_) | Piece::Rest(_) | Piece::Argument(_) => chosen = true,
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

    /// Writes the topic for `segments` and `device` into `topic`, which is cleared first and never
    /// grows beyond [`TOPIC_MAX`] bytes.
    ///
    /// # Errors
    /// [`Refusal::Topic`], [`Refusal::Argument`]; the contents of `topic` are then unspecified.
    pub(super) fn expand(
        &self,
        spaces: &Spaces,
        device: &str,
        segments: &Segments<'_>,
        query: Option<Query<'_>>,
        topic: &mut String,
    ) -> Result<(), Refusal> {
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

/// The third stage: the reading gets its topic.
pub(super) fn map<'a>(
    authorized: Authorized<'a>,
    spaces: &Spaces,
    topic: &'a mut String,
) -> Result<Mapped<'a>, Refusal> {
    let (identified, rule) = (authorized.identified(), authorized.rule());
    let received = identified.received();
    let device = identified.device().as_str();
    let Some(action) = &rule.action else { return Err(Refusal::NoRule) };
    action.mapping.expand(spaces, device, authorized.segments(), received.query, topic)?;
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
