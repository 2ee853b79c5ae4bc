//! From a path to a topic: a rule's template with all that is known beforehand filled in, and the
//! guard over what a device may make of the rest.
//!
//! A **space** is a stretch of topics in which the level behind its head says whose they are:
//!
//! | space | head, by default | whose |
//! |---|---|---|
//! | devices | `{prefix}/` | the device of that id; `gateway` is the gateway's own |
//! | readings | what stands before `{device}` in `[topics] reading` | the device of that id |
//! | gateways | what stands before the gateway's id in `prefix`: `tombolo/` | the gateway of that id |
//!
//! A topic in a space must be in its owner's part. What the owner of the configuration wrote out is
//! judged when the rule is built; a level there that is no device's id is his to use, and no device
//! may then have that id. Only where a device's own words decide is there anything left to ask for
//! each reading: such a rule carries the spaces it may reach, and [`Spaces::holds`] looks.

use std::collections::BTreeSet;
use std::fmt;

use super::matcher::Segments;
use super::own_topic::{OwnTopic, Shape};
use super::pattern::{LevelText, Pattern};
use super::settings::Settings;
use super::stage::{Authorized, Mapped, Refusal, TopicFault};
use super::template::{Part, Template};
use crate::message::{Content, Envelope, Method, Name, RESERVED_DEVICE, TOPIC_MAX, is_topic_character};

/// Every stretch of topics that belongs to somebody, and the single topics that are the gateway's
/// own.
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

    /// Whether `topic` is in nobody else's part of the spaces numbered in `reachable`.
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

/// What stands before `{device}` in the template of readings, if that is a level of its own and all
/// before it is known.
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
        Part::Device | Part::Path | Part::Capture(_) | Part::Rest => None,
    }
}

/// Whether a prefix can begin topics.
pub(super) fn is_prefix(prefix: &str) -> bool {
    !prefix.starts_with('$')
        && prefix.len() <= TOPIC_MAX
        && prefix.split('/').all(|level| !level.is_empty() && level.chars().all(is_topic_character))
}

/// A template as one rule uses it.
#[derive(Debug)]
pub(super) struct Mapping {
    /// All literal text, one stretch after the other.
    text: Box<str>,
    pieces: Box<[Piece]>,
    /// The numbers of the spaces that a device's words might lead into.
    reachable: Box<[u32]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    /// From byte to byte of the text.
    Text(u16, u16),
    Device,
    Path,
    /// One segment of the path, counted from 0.
    Segment(u8),
    /// All segments from this one on; without any, the level goes with the `/` before it.
    Rest(u8),
}

impl Mapping {
    /// `pattern` captures all that `template` names ([`Template::check_captures`]).
    ///
    /// `taken` gets the levels written out where the id of a device would stand.
    ///
    /// # Errors
    /// [`MappingError`]: no topic it makes, or only a wrong one, could be allowed.
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
        let mut mapping = Mapping { text: text.into(), pieces: pieces.into(), reachable: Box::default() };
        let mut reachable = Vec::new();
        for (number, space) in (0_u32..).zip(&spaces.spaces) {
            if mapping.may_leave(space, taken)? {
                reachable.push(number);
            }
        }
        mapping.reachable = reachable.into();
        Ok(mapping)
    }

    /// The topic of the gateway's own that this could make of some path of `pattern`, whatever the
    /// device.
    pub(super) fn meets<'s>(&self, pattern: &Pattern, spaces: &'s Spaces) -> Option<&'s OwnTopic> {
        let mut shape = Shape::default();
        for piece in &self.pieces {
            match piece {
                Piece::Text(start, end) => shape.text(self.text(*start, *end)),
                Piece::Device => shape.device(),
                Piece::Path => shape.path(pattern),
                Piece::Segment(_) => shape.segment(),
                Piece::Rest(_) => shape.rest(),
            }
        }
        shape.meets(&spaces.own)
    }

    fn text(&self, start: u16, end: u16) -> &str {
        &self.text[usize::from(start)..usize::from(end)]
    }

    /// Whether the words of a device might make a topic in somebody else's part of `space`.
    fn may_leave(&self, space: &Space, taken: &mut BTreeSet<String>) -> Result<bool, MappingError> {
        let head = space.head.as_str();
        let leading = match self.pieces.first() {
            Some(Piece::Text(start, end)) => self.text(*start, *end),
            _ => "",
        };
        let Some(behind) = leading.strip_prefix(head) else {
            // Either it goes another way, or what comes next may lead there.
            return Ok(head.starts_with(leading) && self.pieces.len() > 1);
        };
        // The level that says whose it is: literal text, then what else stands before the next '/'.
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
                Piece::Path | Piece::Segment(_) | Piece::Rest(_) => chosen = true,
            }
            if ended {
                break;
            }
        }
        match (space.owner, devices, chosen) {
            // What the configuration decides alone is no device's doing.
            (Owner::Gateway, _, chosen) => Ok(chosen),
            (Owner::Device, 1, false) if literal.is_empty() => Ok(false),
            (Owner::Device, 0, true) => Ok(true),
            (Owner::Device, 0, false) if literal == RESERVED_DEVICE => Err(MappingError::GatewaySpace),
            (Owner::Device, 0, false) => {
                taken.insert(literal);
                Ok(false)
            }
            // `x{device}` is not its id, but may be that of another.
            (Owner::Device, _, _) => Err(MappingError::DeviceLevel),
        }
    }

    /// Writes the topic of `segments` for `device` into `topic`, which is cleared first and never
    /// grows beyond [`TOPIC_MAX`].
    ///
    /// # Errors
    /// [`TopicFault`]; `topic` then holds anything.
    pub(super) fn expand(
        &self,
        spaces: &Spaces,
        device: &str,
        segments: &Segments<'_>,
        topic: &mut String,
    ) -> Result<(), TopicFault> {
        topic.clear();
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
            };
            if topic.len() + text.len() > TOPIC_MAX {
                return Err(TopicFault::TooLong);
            }
            topic.push_str(text);
        }
        if !self.reachable.is_empty() && !spaces.holds(&self.reachable, topic, device) {
            return Err(TopicFault::ForeignSpace);
        }
        // No rule that could make one is built; what this looks at costs little.
        if spaces.own.iter().any(|own| own.matches(topic)) {
            return Err(TopicFault::Own);
        }
        Ok(())
    }
}

/// The third step: *this is where it goes*.
pub(super) fn map<'a>(
    authorized: Authorized<'a>,
    spaces: &Spaces,
    topic: &'a mut String,
) -> Result<Mapped<'a>, Refusal> {
    let (identified, rule) = (authorized.identified(), authorized.rule());
    let received = identified.received();
    let device = identified.device().as_str();
    let Some(action) = &rule.action else { return Err(Refusal::NoRule) };
    action.mapping.expand(spaces, device, authorized.segments(), topic).map_err(Refusal::Topic)?;
    // An empty retained message deletes what is retained (MQTT 5.0 §3.3.1.3): that is for DELETE,
    // or for a rule that allows it. A wrapped payload is never empty.
    let deletes = received.method == Method::Delete;
    let envelope = if deletes { Envelope::None } else { action.envelope };
    let clears = received.payload.is_empty() && envelope == Envelope::None;
    let content = Content {
        device,
        path: received.path.as_str(),
        topic,
        method: received.method,
        content_format: received.content_format,
        retain: action.retain && (!clears || action.delete),
        envelope,
        expires_s: action.expires_s,
        received: received.stamp,
        payload: received.payload,
    };
    Ok(Mapped::new(&authorized, &rule.name, content, action.lane, action.qos))
}

/// Why a template can make no topic that would be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingError {
    /// Its literal text alone has more than 1,024 bytes.
    TooLong,
    /// It leads under `{prefix}/gateway`, which is the gateway's own.
    GatewaySpace,
    /// The level that says which device a topic belongs to has `{device}` and more.
    DeviceLevel,
}

impl fmt::Display for MappingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MappingError::TooLong => "the topic has more than 1,024 bytes before any path is filled in",
            MappingError::GatewaySpace => "topics under {prefix}/gateway are the gateway's own",
            MappingError::DeviceLevel => "where a device's id belongs, {device} stands alone in its level",
        })
    }
}

impl std::error::Error for MappingError {}
