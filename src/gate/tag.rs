//! Tags of a device: names with values, which its owner gives it and topics may have as
//! `{tag.NAME}`.
//!
//! A value follows the rules of a path segment, so that it is one level of a topic, or a part of
//! one, and nothing else.

use std::fmt;

use crate::message::{Name, NameError, Path, PathError};

/// Most tags of a device.
pub const TAGS_MAX: usize = 16;

/// The tags of a device, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tags(Box<[(Name, Box<str>)]>);

impl Tags {
    /// The value of the tag of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        // At most 16, mostly one or two.
        self.iter().find_map(|(known, value)| (known.as_str() == name).then_some(value))
    }

    /// All, in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Name, &str)> {
        self.0.iter().map(|(name, value)| (name, &**value))
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets a tag; an empty value takes it away.
    ///
    /// # Errors
    /// [`TagError`]; nothing is changed.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), TagError> {
        let name = Name::parse(name).map_err(|error| TagError::Name(cut(name), error))?;
        let mut all: Vec<_> = std::mem::take(&mut self.0).into_vec();
        let place = all.binary_search_by(|(known, _)| known.cmp(&name));
        let result = match (place, value) {
            (Ok(at), "") => {
                all.remove(at);
                Ok(())
            }
            (Err(_), "") => Ok(()),
            (place, value) => match check(value) {
                Err(error) => Err(TagError::Value(name, error)),
                Ok(()) => match place {
                    Ok(at) => {
                        all[at].1 = value.into();
                        Ok(())
                    }
                    Err(_) if all.len() >= TAGS_MAX => Err(TagError::TooMany),
                    Err(at) => {
                        all.insert(at, (name, value.into()));
                        Ok(())
                    }
                },
            },
        };
        self.0 = all.into();
        result
    }
}

/// Whether a text may be the value of a tag.
fn check(value: &str) -> Result<(), PathError> {
    // A path of one segment; a trailing `/` would be dropped.
    if value.contains('/') { Err(PathError::Character) } else { Path::parse(value).map(drop) }
}

/// The beginning of a text that is too long or strange to show whole.
fn cut(text: &str) -> String {
    text.chars().take(32).collect()
}

/// Why something is not a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagError {
    /// Its name; the first 32 characters.
    Name(String, NameError),
    /// Its value.
    Value(Name, PathError),
    /// There are [`TAGS_MAX`] already.
    TooMany,
}

impl fmt::Display for TagError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TagError::Name(name, error) => write!(f, "{name:?} is not the name of a tag: {error}"),
            TagError::Value(name, _) => write!(
                f,
                "the value of tag {name} has to be 1 to 64 bytes of text without '/', '+', '#' and control characters"
            ),
            TagError::TooMany => write!(f, "a device has at most {TAGS_MAX} tags"),
        }
    }
}

impl std::error::Error for TagError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_set_replaced_and_taken_away() {
        let mut tags = Tags::default();
        for (name, value) in [("site", "north"), ("hall", "2"), ("site", "south"), ("old", ""), ("hall", "")]
        {
            assert_eq!(tags.set(name, value), Ok(()));
        }
        assert_eq!(
            tags.iter().map(|(name, value)| (name.as_str(), value)).collect::<Vec<_>>(),
            [("site", "south")]
        );
        assert_eq!((tags.get("site"), tags.get("hall")), (Some("south"), None));
    }

    #[test]
    fn a_value_is_one_level_of_a_topic_at_most_and_a_fault_changes_nothing() {
        let mut tags = Tags::default();
        tags.set("site", "north").expect("a tag");
        let long = "x".repeat(65);
        for value in ["a/b", "a/", "/", "+", "a#", "a\0", "\u{ffff}", "a\nb", &long] {
            assert!(matches!(tags.set("site", value), Err(TagError::Value(..))), "{value:?}");
            assert_eq!(tags.get("site"), Some("north"));
        }
        for name in ["", "-a", "a b", "größe", &long] {
            assert!(matches!(tags.set(name, "x"), Err(TagError::Name(..))), "{name:?}");
        }
        for value in ["größe", "$SYS", "~x", "rd", "{device}", &"x".repeat(64)] {
            assert_eq!(tags.set("other", value), Ok(()), "{value}");
        }
        for number in 2..TAGS_MAX {
            tags.set(&number.to_string(), "x").expect("a tag");
        }
        assert_eq!(tags.set("more", "x"), Err(TagError::TooMany));
        assert_eq!(tags.set("site", "south"), Ok(()), "one that is there can be changed");
    }
}
