//! Which paths a rule applies to: MQTT topic filter syntax over the segments of a device's path.
//!
//! ```text
//! t/env        just this path
//! t/+/value    any one level in the middle, captured as {1}
//! t/#          t itself and all below it, the part below captured as {rest}
//! ```
//!
//! Of two different patterns that match the same path, one is always more specific: level by level,
//! a literal is more specific than `+`, `+` more than `#`, and the end of the pattern more than
//! `#`. MQTT 5.0 §4.7.1 defines the syntax. The limits are those of paths, and a leading `$` has no
//! special meaning.

use std::cmp::Ordering;
use std::fmt;

use crate::message::{PATH_MAX, PATH_SEGMENTS_MAX, Path};

/// A parsed path pattern of 1 to 16 levels and at most 255 bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    text: Box<str>,
    levels: Box<[Level]>,
}

/// One level of a [`Pattern`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Level {
    /// A literal segment: start and end in the text.
    Literal(u8, u8),
    /// `+`
    Any,
    /// `#`, always the last.
    Rest,
}

/// One level of a [`Pattern`] with its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LevelText<'a> {
    /// Exactly this segment.
    Literal(&'a str),
    /// `+`
    Any,
    /// `#`
    Rest,
}

impl Pattern {
    /// Parses `text` as a pattern.
    ///
    /// # Errors
    /// [`PatternError`], the first rule broken.
    pub fn parse(text: &str) -> Result<Pattern, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > PATH_MAX {
            return Err(PatternError::TooLong);
        }
        let mut levels = Vec::new();
        let mut start = 0;
        for level in text.split('/') {
            if levels.last() == Some(&Level::Rest) {
                return Err(PatternError::RestNotLast);
            }
            if levels.len() == PATH_SEGMENTS_MAX {
                return Err(PatternError::TooManyLevels);
            }
            let end = start + level.len();
            levels.push(match level {
                "" => return Err(PatternError::EmptyLevel),
                "+" => Level::Any,
                "#" => Level::Rest,
                _ if level.contains(['+', '#']) => return Err(PatternError::PartialWildcard),
                // A literal that is not a valid path segment could never match.
                _ => match (Path::parse(level), u8::try_from(start), u8::try_from(end)) {
                    (Ok(_), Ok(start), Ok(end)) => Level::Literal(start, end),
                    _ => return Err(PatternError::Level),
                },
            });
            start = end + 1;
        }
        let pattern = Pattern { text: text.into(), levels: levels.into() };
        let reserved = match pattern.levels().next() {
            Some(LevelText::Literal(first)) => Path::parse(first).is_ok_and(Path::is_reserved),
            _ => false,
        };
        if reserved { Err(PatternError::Reserved) } else { Ok(pattern) }
    }

    /// The text it was parsed from.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The number of `+`: the captures `{1}`, `{2}`, …
    pub fn captures(&self) -> usize {
        self.levels.iter().filter(|level| **level == Level::Any).count()
    }

    /// Whether it ends in `#`: the capture `{rest}`.
    pub fn has_rest(&self) -> bool {
        self.levels.last() == Some(&Level::Rest)
    }

    /// Whether the pattern matches `path`. This is the reference implementation; the gate matches
    /// all patterns of a role at once and is tested against it.
    pub fn matches(&self, path: Path<'_>) -> bool {
        let mut segments = path.segments();
        for level in self.levels() {
            match (level, segments.next()) {
                // `t/#` matches `t` too (MQTT 5.0 §4.7.1.2).
                (LevelText::Rest, _) => return true,
                (LevelText::Any, Some(_)) => {}
                (LevelText::Literal(text), Some(segment)) if text == segment => {}
                _ => return false,
            }
        }
        segments.next().is_none()
    }

    /// Whether it can match a path with unknown segments (`None`).
    pub fn may_match(&self, path: &[Option<&str>]) -> bool {
        let mut segments = path.iter();
        for level in self.levels() {
            match (level, segments.next()) {
                (LevelText::Rest, _) => return true,
                (LevelText::Any, Some(_)) | (LevelText::Literal(_), Some(None)) => {}
                (LevelText::Literal(text), Some(Some(segment))) if text == *segment => {}
                _ => return false,
            }
        }
        segments.next().is_none()
    }

    /// `Less` if this is the more specific of two patterns. For two that match the same path it is
    /// `Equal` only if they are the same text.
    pub fn specificity(&self, other: &Pattern) -> Ordering {
        let rank = |level: Option<&Level>| match level {
            Some(Level::Literal(..)) => 0,
            Some(Level::Any) => 1,
            None => 2,
            Some(Level::Rest) => 3,
        };
        let deeper = self.levels.len().max(other.levels.len());
        (0..deeper)
            .map(|depth| rank(self.levels.get(depth)).cmp(&rank(other.levels.get(depth))))
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    }

    /// The levels in order.
    pub(super) fn levels(&self) -> impl Iterator<Item = LevelText<'_>> {
        self.levels.iter().map(|level| match level {
            Level::Literal(start, end) => {
                LevelText::Literal(&self.text[usize::from(*start)..usize::from(*end)])
            }
            Level::Any => LevelText::Any,
            Level::Rest => LevelText::Rest,
        })
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is not a [`Pattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternError {
    /// The text is empty.
    Empty,
    /// More than 255 bytes, the limit of a path.
    TooLong,
    /// More than 16 levels, including `#`.
    TooManyLevels,
    /// A level is empty, also by a leading or trailing `/`.
    EmptyLevel,
    /// `#` before the last level.
    RestNotLast,
    /// `+` or `#` as a part of a level.
    PartialWildcard,
    /// A level that no path can have: it has more than 64 bytes, or a control character or
    /// noncharacter.
    Level,
    /// The first level is reserved for the gateway's own resources, which are never published.
    Reserved,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PatternError::Empty => "a path pattern needs at least one level",
            PatternError::TooLong => "a path pattern has at most 255 bytes",
            PatternError::TooManyLevels => "a path pattern has at most 16 levels",
            PatternError::EmptyLevel => "a path pattern has no empty level and no '/' at either end",
            PatternError::RestNotLast => "'#' can only be the last level",
            PatternError::PartialWildcard => "'+' and '#' must each be a whole level",
            PatternError::Level => "a level has at most 64 bytes and no control character",
            PatternError::Reserved => {
                "paths under .well-known, rd, firmware, time and ~ are reserved for the gateway and never published"
            }
        })
    }
}

impl std::error::Error for PatternError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn a_path_of_which_a_level_is_not_known_may_match_what_any_of_its_kind_does() {
        let may = |pattern: &str| Pattern::parse(pattern).unwrap().may_match(&[Some("m"), None, Some("t")]);
        assert!(["m/+/t", "m/a7/t", "m/#", "#", "+/+/+", "m/+/t/#"].into_iter().all(may));
        assert!(!["m/+", "m", "m/a7", "x/#", "m/+/u", "m/+/t/+"].into_iter().any(may));
    }

    fn matches(text: &str, path: &str) -> bool {
        pattern(text).matches(Path::parse(path).unwrap())
    }

    #[test]
    fn wildcards_match_as_in_mqtt() {
        assert!(matches("t/env", "t/env"));
        assert!(!matches("t/env", "t"));
        assert!(!matches("t", "t/env"));
        assert!(matches("+", "t"));
        assert!(!matches("+", "t/env"));
        assert!(matches("t/+/v", "t/1/v"));
        assert!(!matches("t/+/v", "t/1/2/v"));
        assert!(matches("#", "a/b/c"));
        assert!(matches("t/#", "t"));
        assert!(matches("t/#", "t/a/b"));
        assert!(!matches("t/#", "ta"));
        assert!(matches("+/#", "t"));
        assert!(!matches("+/+/#", "t"));
    }

    #[test]
    fn captures_are_counted() {
        assert_eq!(pattern("a/+/b/+/#").captures(), 2);
        assert!(pattern("a/+/b/+/#").has_rest());
        assert!(!pattern("a/+").has_rest());
    }

    #[test]
    fn what_could_never_match_is_refused() {
        let refused = |text: &str| Pattern::parse(text).unwrap_err();
        assert_eq!(refused(""), PatternError::Empty);
        assert_eq!(refused("/"), PatternError::EmptyLevel);
        assert_eq!(refused("a/"), PatternError::EmptyLevel);
        assert_eq!(refused("a//b"), PatternError::EmptyLevel);
        assert_eq!(refused("#/a"), PatternError::RestNotLast);
        assert_eq!(refused("#/#"), PatternError::RestNotLast);
        assert_eq!(refused("a+"), PatternError::PartialWildcard);
        assert_eq!(refused("a/b#"), PatternError::PartialWildcard);
        assert_eq!(refused("++"), PatternError::PartialWildcard);
        assert_eq!(refused("a\0b"), PatternError::Level);
        assert_eq!(refused(&"x".repeat(65)), PatternError::Level);
        assert_eq!(refused(&"x".repeat(256)), PatternError::TooLong);
        assert_eq!(refused(&["+"; 17].join("/")), PatternError::TooManyLevels);
        assert_eq!(refused("rd/x"), PatternError::Reserved);
        assert_eq!(refused("~x"), PatternError::Reserved);
        assert!(Pattern::parse(&["+"; 16].join("/")).is_ok());
        assert!(Pattern::parse("t/rd").is_ok());
    }

    #[test]
    fn the_more_specific_is_known_level_by_level() {
        let order = ["a/b/c", "a/b/+", "a/b", "a/b/#", "a/+/c", "a/+/#", "a/#", "+/b", "+/#", "#"];
        for (i, first) in order.iter().enumerate() {
            for (j, second) in order.iter().enumerate() {
                let both_match = |path: &str| matches(first, path) && matches(second, path);
                if ["a/b/c", "a/b", "a"].iter().any(|path| both_match(path)) {
                    assert_eq!(pattern(first).specificity(&pattern(second)), i.cmp(&j), "{first} {second}");
                }
            }
        }
    }
}
