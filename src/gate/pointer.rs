//! Where a value stands in a document: JSON Pointers (RFC 6901).

use std::fmt;

/// Most levels of a [`FieldPointer`].
pub const LEVELS_MAX: usize = 8;

/// Where a value stands in a document: a JSON Pointer (RFC 6901), such as `/env/temperature`. In
/// CBOR its levels are keys that are texts, and indices of arrays.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct FieldPointer {
    text: Box<str>,
    levels: Box<[Level]>,
}

/// One level of a [`FieldPointer`].
#[derive(Clone, PartialEq, Eq, Hash)]
struct Level {
    /// Without escapes.
    name: Box<str>,
    /// The same as an index of an array, if it is one: without leading zeros (RFC 6901 §4).
    index: Option<u64>,
}

impl Level {
    fn new(name: &str) -> Level {
        let is_index = name == "0" || !name.starts_with(['0', '+']);
        Level { name: name.into(), index: name.parse().ok().filter(|_| is_index) }
    }
}

impl FieldPointer {
    /// Parses a pointer of 1 to [`LEVELS_MAX`] levels.
    ///
    /// # Errors
    /// [`FieldPointerError`], the first rule broken.
    pub fn parse(text: &str) -> Result<FieldPointer, FieldPointerError> {
        let levels = text.strip_prefix('/').ok_or(FieldPointerError::Start)?;
        // RFC 6901 §3: `~0` is `~`, `~1` is `/`, and no other `~` is allowed.
        let plain = |level: &str| {
            let unescaped = level.replace("~1", "/").replace("~0", "~");
            let escapes = level.matches("~0").count() + level.matches("~1").count();
            (level.matches('~').count() == escapes).then(|| Level::new(&unescaped))
        };
        let levels: Option<Box<[_]>> = levels.split('/').map(plain).collect();
        let levels = levels.ok_or(FieldPointerError::Escape)?;
        if levels.len() > LEVELS_MAX {
            return Err(FieldPointerError::TooManyLevels);
        }
        Ok(FieldPointer { text: text.into(), levels })
    }

    /// The whole document (RFC 6901 §5).
    pub(super) fn whole() -> FieldPointer {
        FieldPointer { text: "".into(), levels: Box::default() }
    }

    /// Whether it is the whole document.
    pub(super) fn is_whole(&self) -> bool {
        self.levels.is_empty()
    }

    /// The number of its levels.
    pub(super) fn depth(&self) -> usize {
        self.levels.len()
    }

    /// Whether the level below `depth` others is a member of this name.
    pub(super) fn is_name(&self, depth: usize, name: &str) -> bool {
        self.levels.get(depth).is_some_and(|level| *level.name == *name)
    }

    /// Whether the level below `depth` others is this index.
    pub(super) fn is_index(&self, depth: usize, index: u64) -> bool {
        self.levels.get(depth).is_some_and(|level| level.index == Some(index))
    }

    /// The text it was parsed from.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for FieldPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.text)
    }
}

/// Why a text is not a [`FieldPointer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldPointerError {
    /// It does not begin with `/`.
    Start,
    /// A `~` that is neither `~0` nor `~1`.
    Escape,
    /// More than [`LEVELS_MAX`] levels.
    TooManyLevels,
}

impl fmt::Display for FieldPointerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FieldPointerError::Start => f.write_str("a JSON pointer begins with '/', as in /env/temperature"),
            FieldPointerError::Escape => {
                f.write_str("in a JSON pointer '~' is written ~0, and '/' in a name ~1")
            }
            FieldPointerError::TooManyLevels => {
                write!(f, "a JSON pointer here has at most {LEVELS_MAX} levels")
            }
        }
    }
}

impl std::error::Error for FieldPointerError {}
