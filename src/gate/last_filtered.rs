//! Which reading of a device was held back last, for `device show`: kept for each device that has
//! such a reading since the start, in memory that is used again.

use std::fmt::{self, Write};
use std::time::Instant;

use super::filter::Filtered;
use super::last_refusal::PATH_KEPT;
use crate::message::{Name, beginning};

/// Bytes of the reason that are kept.
pub const REASON_KEPT: usize = 160;

/// The newest reading of a device that was acknowledged and not published.
#[derive(Clone, Debug)]
pub struct LastFiltered {
    /// When.
    pub at: Instant,
    /// The rule that held it back.
    pub rule: Option<Name>,
    path: Start,
    reason: Start,
}

impl LastFiltered {
    pub(super) fn new(now: Instant) -> LastFiltered {
        LastFiltered { at: now, rule: None, path: Start::new(PATH_KEPT), reason: Start::new(REASON_KEPT) }
    }

    /// A later one takes its place, without an allocation.
    pub(super) fn replace(&mut self, now: Instant, filtered: &Filtered<'_>) {
        (self.at, self.rule) = (now, Some(filtered.rule.clone()));
        self.path.set(&filtered.content.path);
        self.reason.set(&filtered.reason());
    }

    /// The path, and why: or their beginnings, with `…`.
    pub fn texts(&self) -> [String; 2] {
        [&self.path, &self.reason].map(|start| match start.is_cut {
            true => format!("{}…", start.text),
            false => start.text.clone(),
        })
    }
}

/// The beginning of a text; its memory never grows.
#[derive(Clone, Debug)]
struct Start {
    text: String,
    most: usize,
    is_cut: bool,
}

impl Start {
    fn new(most: usize) -> Start {
        Start { text: String::with_capacity(most), most, is_cut: false }
    }

    fn set(&mut self, text: &dyn fmt::Display) {
        self.text.clear();
        self.is_cut = false;
        // Writing to it fails once it is full, which is no fault.
        let _ = write!(self, "{text}");
    }
}

impl Write for Start {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let kept = beginning(text, self.most - self.text.len());
        self.text.push_str(kept);
        self.is_cut = kept.len() < text.len();
        if self.is_cut { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_and_its_memory_is_used_again() {
        let mut start = Start::new(7);
        let at = start.text.as_ptr();
        for (text, kept, is_cut) in [("abc", "abc", false), ("üüüü", "üüü", true), ("", "", false)] {
            start.set(&text);
            assert_eq!((start.text.as_str(), start.is_cut), (kept, is_cut));
        }
        start.set(&format_args!("{}{}", "1234567", "8"));
        assert_eq!((start.text.as_str(), start.is_cut, start.text.as_ptr()), ("1234567", true, at));
    }
}
