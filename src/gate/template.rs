//! The topic of a reading: a template with placeholders.
//!
//! | placeholder | replaced by |
//! |---|---|
//! | `{prefix}` | `[topics] prefix`; only at the very beginning |
//! | `{gateway}` `{device}` `{role}` | names |
//! | `{path}` | the whole path; must be a whole level |
//! | `{1}` `{2}` … | the text that the first, second, … `+` of the rule's pattern matched |
//! | `{content-format}` | the number of the payload's content format, or `none` |
//! | `{query.NAME}` | the value of the argument `NAME=` of the request's query |
//! | `{tag.NAME}` | the value of the device's tag; without it the rule does not apply to the device |
//! | `{rest}` | the text that its `#` matched; must be a whole level, which is omitted if the text is empty |
//!
//! A parsed template begins with a literal level or with `{prefix}`, so a device cannot choose the
//! first level of a topic. The other restrictions are checked when a rule is built
//! ([`mapping`](super::mapping)).

use std::fmt;

use super::pattern::Pattern;
use crate::message::{Name, PATH_SEGMENTS_MAX, TOPIC_MAX, is_topic_character};

/// A parsed topic template of at most 1,024 bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Template {
    text: Box<str>,
    parts: Box<[Part]>,
}

/// A part of a [`Template`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// Literal text: start and end in the template.
    Text(u16, u16),
    /// `{prefix}`
    Prefix,
    /// `{gateway}`
    Gateway,
    /// `{device}`
    Device,
    /// `{role}`
    Role,
    /// `{path}`
    Path,
    /// `{1}` and up, counted from 1.
    Capture(u8),
    /// `{rest}`
    Rest,
    /// `{content-format}`
    ContentFormat,
    /// `{query.NAME}`: start and end of the name in the template; it is a valid [`Name`].
    Query(u16, u16),
    /// `{tag.NAME}`: start and end of the name in the template; it is a valid [`Name`].
    Tag(u16, u16),
}

impl Template {
    /// Parses `text` as a template.
    ///
    /// # Errors
    /// [`TemplateError`], the first rule broken.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        if text.is_empty() {
            return Err(TemplateError::Empty);
        }
        if text.len() > TOPIC_MAX {
            return Err(TemplateError::TooLong);
        }
        if text.starts_with('$') {
            return Err(TemplateError::Dollar);
        }
        let parts = split(text)?;
        for (at, level) in text.split('/').enumerate() {
            check_level(at == 0, level)?;
        }
        Ok(Template { text: text.into(), parts: parts.into() })
    }

    /// The text it was parsed from.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Checks that `pattern` has all captures that this template names.
    ///
    /// # Errors
    /// [`TemplateError::NoCapture`] or [`TemplateError::NoRest`].
    pub fn check_captures(&self, pattern: &Pattern) -> Result<(), TemplateError> {
        for part in &self.parts {
            match part {
                Part::Capture(number) if usize::from(*number) > pattern.captures() => {
                    return Err(TemplateError::NoCapture(*number));
                }
                Part::Rest if !pattern.has_rest() => return Err(TemplateError::NoRest),
                _ => {}
            }
        }
        Ok(())
    }

    /// The names of the arguments of the query that it needs.
    pub(super) fn query_names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Query(start, end) => Some(self.text(*start, *end)),
            _ => None,
        })
    }

    /// The names of the tags that it needs.
    pub fn tag_names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Tag(start, end) => Some(self.text(*start, *end)),
            _ => None,
        })
    }

    /// The parts in order.
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The text of a [`Part::Text`] of this template, or the name in a [`Part::Query`] or
    /// [`Part::Tag`].
    pub(super) fn text(&self, start: u16, end: u16) -> &str {
        &self.text[usize::from(start)..usize::from(end)]
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.text)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Begins the placeholder of an argument of the query.
const QUERY: &str = "query.";
/// Begins the placeholder of a tag of the device.
const TAG: &str = "tag.";

/// Literal text and placeholders, in order. Every brace belongs to a placeholder, and no
/// placeholder contains `/`.
fn split(text: &str) -> Result<Vec<Part>, TemplateError> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let literal = rest.find(['{', '}']).unwrap_or(rest.len());
        if literal > 0 {
            // The text has at most TOPIC_MAX bytes, so no offset is cut off.
            parts.push(Part::Text(at as u16, (at + literal) as u16));
            at += literal;
            continue;
        }
        let place = rest.strip_prefix('{').ok_or(TemplateError::Brace)?;
        let (name, _) = place.split_once('}').ok_or(TemplateError::Brace)?;
        let shown = |name: &str| name.chars().take(32).collect();
        let span = |before: &str, name: &str| {
            let start = at + 1 + before.len();
            (start as u16, (start + name.len()) as u16)
        };
        parts.push(if let Some(argument) = name.strip_prefix(QUERY) {
            Name::parse(argument).map_err(|_| TemplateError::Argument(shown(argument)))?;
            let (start, end) = span(QUERY, argument);
            Part::Query(start, end)
        } else if let Some(tag) = name.strip_prefix(TAG) {
            Name::parse(tag).map_err(|_| TemplateError::Tag(shown(tag)))?;
            let (start, end) = span(TAG, tag);
            Part::Tag(start, end)
        } else {
            place_of(name)?
        });
        at += name.len() + 2;
    }
    Ok(parts)
}

fn place_of(name: &str) -> Result<Part, TemplateError> {
    Ok(match name {
        "prefix" => Part::Prefix,
        "gateway" => Part::Gateway,
        "device" => Part::Device,
        "role" => Part::Role,
        "path" => Part::Path,
        "rest" => Part::Rest,
        "content-format" => Part::ContentFormat,
        _ => match name.parse::<u8>() {
            // The spelling is checked too: `{+1}` and `{01}` parse as numbers.
            Ok(number)
                if (1..=PATH_SEGMENTS_MAX).contains(&usize::from(number)) && name == number.to_string() =>
            {
                Part::Capture(number)
            }
            _ => return Err(TemplateError::Place(name.chars().take(32).collect())),
        },
    })
}

/// `level` is the text between two `/`; all its braces belong to placeholders.
fn check_level(first: bool, level: &str) -> Result<(), TemplateError> {
    if level.is_empty() {
        return Err(TemplateError::EmptyLevel);
    }
    if !level.chars().all(is_topic_character) {
        return Err(TemplateError::Character);
    }
    if level.contains("{prefix}") && !(first && level == "{prefix}") {
        return Err(TemplateError::PrefixPlace);
    }
    if first && level.contains('{') && level != "{prefix}" {
        return Err(TemplateError::FirstLevel);
    }
    for whole in ["{path}", "{rest}"] {
        if level.contains(whole) && level != whole {
            return Err(TemplateError::WholeLevel);
        }
    }
    Ok(())
}

/// Why a text is not a [`Template`], or not one for its rule's pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateError {
    /// The text is empty.
    Empty,
    /// More than 1,024 bytes.
    TooLong,
    /// `{` or `}` that is not part of a placeholder.
    Brace,
    /// An unknown placeholder; its first 32 characters.
    Place(String),
    /// What follows `query.` in a placeholder is not a name; its first 32 characters.
    Argument(String),
    /// What follows `tag.` in a placeholder is not a name; its first 32 characters.
    Tag(String),
    /// A level is empty, also by a leading or trailing `/`.
    EmptyLevel,
    /// `+`, `#`, a control character or a Unicode noncharacter.
    Character,
    /// The first level begins with `$`, which is reserved for the broker (MQTT 5.0 §4.7.2).
    Dollar,
    /// The first level is neither literal nor `{prefix}`.
    FirstLevel,
    /// `{prefix}` is not the whole first level.
    PrefixPlace,
    /// `{path}` or `{rest}` as a part of a level.
    WholeLevel,
    /// Its pattern has fewer `+` than this.
    NoCapture(u8),
    /// Its pattern does not end in `#`.
    NoRest,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TemplateError::Empty => "a topic needs at least one level",
            TemplateError::TooLong => "a topic has at most 1,024 bytes",
            TemplateError::Brace => "'{' and '}' may only enclose a placeholder, as in {device}",
            TemplateError::Place(name) => {
                return write!(
                    f,
                    "{{{name}}} is not a placeholder; the placeholders are {{prefix}}, {{gateway}}, {{device}}, {{role}}, {{path}}, \
                     {{1}} to {{16}}, {{rest}}, {{content-format}}, {{query.NAME}} and {{tag.NAME}}"
                );
            }
            TemplateError::Argument(name) => {
                return write!(
                    f,
                    "{{query.{name}}} does not name an argument: a name has letters, digits, '.', '_' and '-', \
                     and begins with a letter or a digit"
                );
            }
            TemplateError::Tag(name) => {
                return write!(
                    f,
                    "{{tag.{name}}} does not name a tag: a name has letters, digits, '.', '_' and '-', \
                     and begins with a letter or a digit"
                );
            }
            TemplateError::EmptyLevel => "a topic has no empty level and no '/' at either end",
            TemplateError::Character => "a topic has no '+', no '#' and no control character",
            TemplateError::Dollar => "topics that begin with '$' are reserved for the broker",
            TemplateError::FirstLevel => "the first level of a topic must be literal text or {prefix}",
            TemplateError::PrefixPlace => "{prefix} must be the whole first level",
            TemplateError::WholeLevel => "{path} and {rest} must each be a whole level",
            TemplateError::NoCapture(number) => {
                return write!(f, "{{{number}}} needs a path pattern with at least {number} levels '+'");
            }
            TemplateError::NoRest => "{rest} needs a path pattern that ends in '#'",
        })
    }
}

impl std::error::Error for TemplateError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> TemplateError {
        Template::parse(text).unwrap_err()
    }

    #[test]
    fn places_are_told_from_text() {
        let template = Template::parse("{prefix}/{device}/up/{1}-{2}/{rest}").unwrap();
        assert_eq!(template.as_str(), "{prefix}/{device}/up/{1}-{2}/{rest}");
        let parts = template.parts();
        assert_eq!(parts[0], Part::Prefix);
        assert_eq!(parts[2], Part::Device);
        assert!(matches!(parts[3], Part::Text(start, end) if template.text(start, end) == "/up/"));
        assert_eq!(parts[4], Part::Capture(1));
        assert_eq!(parts.last(), Some(&Part::Rest));
    }

    #[test]
    fn malformed_templates_are_refused() {
        assert_eq!(refused(""), TemplateError::Empty);
        assert_eq!(refused(&"x".repeat(1025)), TemplateError::TooLong);
        assert_eq!(refused("a/{device"), TemplateError::Brace);
        assert_eq!(refused("a/device}"), TemplateError::Brace);
        assert_eq!(refused("a/{de{vice}}"), TemplateError::Place("de{vice".into()));
        assert_eq!(refused("a/{}"), TemplateError::Place(String::new()));
        assert_eq!(refused("a/{Device}"), TemplateError::Place("Device".into()));
        for number in ["0", "17", "01", "+1", "1 ", "256"] {
            assert_eq!(refused(&format!("a/{{{number}}}")), TemplateError::Place(number.into()));
        }
        assert_eq!(refused("a//b"), TemplateError::EmptyLevel);
        assert_eq!(refused("/a"), TemplateError::EmptyLevel);
        assert_eq!(refused("a/"), TemplateError::EmptyLevel);
        for text in ["a/+", "a/#", "a\0", "a/\u{7f}", "a/\u{ffff}"] {
            assert_eq!(refused(text), TemplateError::Character, "{text:?}");
        }
    }

    #[test]
    fn an_argument_of_the_query_has_a_name() {
        let template = Template::parse("{prefix}/{device}/{query.unit}-{query.n.1}").unwrap();
        assert_eq!(template.query_names().collect::<Vec<_>>(), ["unit", "n.1"]);
        for name in ["", "-a", "a b", "a=b", "ä", &"x".repeat(65)] {
            let shown = name.chars().take(32).collect();
            assert_eq!(refused(&format!("a/{{query.{name}}}")), TemplateError::Argument(shown));
        }
        assert_eq!(refused("a/{query}"), TemplateError::Place("query".into()));
        assert_eq!(refused("{query.a}/x"), TemplateError::FirstLevel);
    }

    #[test]
    fn a_tag_has_a_name() {
        let template = Template::parse("x/{tag.site}-{tag.hall.2}/{content-format}").unwrap();
        assert_eq!(template.tag_names().collect::<Vec<_>>(), ["site", "hall.2"]);
        for name in ["", "-a", "a b", "ä"] {
            assert_eq!(refused(&format!("a/{{tag.{name}}}")), TemplateError::Tag(name.to_owned()));
        }
        assert_eq!(refused("a/{tag}"), TemplateError::Place("tag".into()));
        assert_eq!(refused("{tag.a}/x"), TemplateError::FirstLevel);
        assert_eq!(refused("{content-format}/x"), TemplateError::FirstLevel);
    }

    #[test]
    fn no_device_chooses_the_first_level() {
        assert_eq!(refused("$SYS/x"), TemplateError::Dollar);
        for text in ["{device}/x", "{path}", "{1}/x", "a{gateway}/x", "{rest}"] {
            assert_eq!(refused(text), TemplateError::FirstLevel, "{text}");
        }
        for text in ["a/{prefix}", "{prefix}x/a", "a{prefix}"] {
            assert_eq!(refused(text), TemplateError::PrefixPlace, "{text}");
        }
        assert!(Template::parse("{prefix}").is_ok());
    }

    #[test]
    fn places_of_several_levels_stand_alone() {
        for text in ["a/x{path}", "a/{rest}{rest}", "a/{1}{path}"] {
            assert_eq!(refused(text), TemplateError::WholeLevel, "{text}");
        }
    }

    #[test]
    fn a_template_names_only_what_its_pattern_captures() {
        let pattern = Pattern::parse("a/+/b").unwrap();
        let check = |text: &str| Template::parse(text).unwrap().check_captures(&pattern);
        assert_eq!(check("x/{1}"), Ok(()));
        assert_eq!(check("x/{2}"), Err(TemplateError::NoCapture(2)));
        assert_eq!(check("x/{rest}"), Err(TemplateError::NoRest));
    }
}
