//! Where a reading goes: a topic with places to fill in.
//!
//! | place | stands for |
//! |---|---|
//! | `{prefix}` | `[topics] prefix`; only at the very beginning |
//! | `{gateway}` `{device}` `{role}` | names |
//! | `{path}` | the whole path, a level of its own |
//! | `{1}` `{2}` … | what the first, second, … `+` of the rule's pattern matched |
//! | `{rest}` | what its `#` matched, a level of its own; if that is nothing, the level goes too |
//!
//! A template that parses begins with a literal level or with `{prefix}`, so no device chooses the
//! first level of a topic. What else a topic may not be is decided when a rule is built
//! ([`mapping`](super::mapping)).

use std::fmt;

use super::pattern::Pattern;
use crate::message::{PATH_SEGMENTS_MAX, TOPIC_MAX, is_topic_character};

/// A parsed topic template of at most 1,024 bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Template {
    text: Box<str>,
    parts: Box<[Part]>,
}

/// A stretch of a [`Template`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// From byte to byte of the text, as it stands.
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
}

impl Template {
    /// Takes `text` as a template.
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

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `pattern` captures all that this template names.
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

    /// The parts in order.
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The text of a [`Part::Text`] of this template.
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

/// Literal text and places, in order; every brace belongs to a place, and no place holds a `/`.
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
        parts.push(place_of(name)?);
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

/// `level` is a text between two `/`; all its braces are known to be places.
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
    /// There is no character at all.
    Empty,
    /// More than 1,024 bytes.
    TooLong,
    /// `{` or `}` that is not part of a place.
    Brace,
    /// No such place; its first 32 characters.
    Place(String),
    /// A level without a character; also a `/` at either end.
    EmptyLevel,
    /// `+`, `#`, a control character or a Unicode noncharacter.
    Character,
    /// The first level begins with `$`: those topics are the broker's.
    Dollar,
    /// The first level is neither literal nor `{prefix}`.
    FirstLevel,
    /// `{prefix}` elsewhere than alone in the first level.
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
            TemplateError::Brace => "'{' and '}' only enclose a place, as in {device}",
            TemplateError::Place(name) => {
                return write!(
                    f,
                    "{{{name}}} is no place; there are {{prefix}}, {{gateway}}, {{device}}, {{role}}, {{path}}, \
                     {{1}} to {{16}} and {{rest}}"
                );
            }
            TemplateError::EmptyLevel => "a topic has no empty level and no '/' at either end",
            TemplateError::Character => "a topic has no '+', no '#' and no control character",
            TemplateError::Dollar => "topics under '$' are the broker's own",
            TemplateError::FirstLevel => "the first level of a topic is literal or {prefix}",
            TemplateError::PrefixPlace => "{prefix} stands only at the beginning, a level of its own",
            TemplateError::WholeLevel => "{path} and {rest} each stand alone in their level",
            TemplateError::NoCapture(number) => {
                return write!(f, "{{{number}}} needs a pattern with {number} times '+'");
            }
            TemplateError::NoRest => "{rest} needs a pattern that ends in '#'",
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
