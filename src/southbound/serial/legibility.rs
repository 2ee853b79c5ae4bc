//! Whether what comes on a line can be read. A wrong baud, checksum, framing or pattern looks like
//! this: bytes come, and no reading.
//!
//! | so far | the line is illegible after |
//! |---|---|
//! | no reading | [`FIRST`] frames in a row, or [`SLOW`] of them over [`SLOW_FOR`] |
//! | readings | [`LATER`] frames in a row, or three times the longest row that a reading ended, over [`LATER_FOR`] |
//!
//! A pattern may be meant to pick a few frames out of many, so a line that has given readings is
//! judged by what is usual on it. A reading ends the judgement.

use std::time::{Duration, Instant};

use crate::proto::serial::framing::{Bad, SHOWN_MAX};
use crate::proto::serial::reading::Unreadable;

/// Frames in a row, none a reading, on a line that never gave one.
const FIRST: u64 = 20;
/// So few are enough on a slow line,
const SLOW: u64 = 3;
/// if they came over so long.
const SLOW_FOR: Duration = Duration::from_secs(300);
/// Frames in a row, none a reading, on a line that gave some,
const LATER: u64 = 100;
/// and how long they must have come.
const LATER_FOR: Duration = Duration::from_secs(60);
/// How often the longest usual row may be exceeded.
const USUAL: u64 = 3;

/// Why a frame gave no reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It was dropped.
    Bad(Bad),
    /// It is complete, and no reading.
    Unreadable(Unreadable),
}

/// What makes a line illegible, as it was when that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Illegible {
    /// Frames in a row until then.
    pub frames: u64,
    /// Why the last of them gave no reading.
    pub cause: Cause,
    /// Its first bytes, at most [`SHOWN_MAX`].
    pub first: Vec<u8>,
}

/// The judgement of one line.
#[derive(Debug, Default)]
pub struct Legibility {
    /// Frames in a row that gave no reading.
    row: u64,
    /// Since when they come.
    since: Option<Instant>,
    /// The longest row that a reading ended; `None`: there was no reading.
    usual: Option<u64>,
    illegible: Option<Illegible>,
}

impl Legibility {
    /// What makes the line illegible.
    pub fn illegible(&self) -> Option<&Illegible> {
        self.illegible.as_ref()
    }

    /// A frame gave a reading.
    pub fn handle_reading(&mut self) {
        // One long failure must not make the next one count for nothing.
        let usual = self.usual.unwrap_or(0);
        self.usual = Some(usual.max(self.row.min(2 * needed(usual))));
        (self.row, self.since, self.illegible) = (0, None, None);
    }

    /// So many frames gave none, the last of them for this cause.
    pub fn handle_frames(&mut self, now: Instant, frames: u64, cause: Cause, frame: &[u8]) {
        self.row = self.row.saturating_add(frames);
        let lasted = now.saturating_duration_since(*self.since.get_or_insert(now));
        let found = match self.usual {
            None => self.row >= FIRST || self.row >= SLOW && lasted >= SLOW_FOR,
            Some(usual) => self.row >= needed(usual) && lasted >= LATER_FOR,
        };
        if found && self.illegible.is_none() {
            let first = frame[..frame.len().min(SHOWN_MAX)].to_vec();
            self.illegible = Some(Illegible { frames: self.row, cause, first });
        }
    }
}

/// Frames in a row that say something on a line whose usual longest row this is.
fn needed(usual: u64) -> u64 {
    LATER.max(usual.saturating_mul(USUAL))
}

impl Illegible {
    /// What is seen, and what to compare: one sentence.
    pub fn sentence(&self) -> String {
        let (why, advice) = match self.cause {
            Cause::Bad(Bad::Checksum) => {
                ("the checksum is wrong", "compare checksum, baud and parity with the device's manual")
            }
            Cause::Bad(Bad::TooLong) => {
                ("longer than max-frame", "compare framing, line-end, baud and max-frame")
            }
            Cause::Bad(Bad::Malformed) => ("malformed", "compare framing, baud and parity"),
            Cause::Bad(Bad::Incomplete) => ("incomplete", "compare framing, baud and parity"),
            Cause::Unreadable(Unreadable::NoMatch) => {
                (Unreadable::NoMatch.as_str(), "compare pattern with what comes, and baud and parity")
            }
            Cause::Unreadable(Unreadable::Broken) => {
                (Unreadable::Broken.as_str(), "compare baud and parity with the device's")
            }
            Cause::Unreadable(why @ (Unreadable::NotANumber | Unreadable::NoPath)) => {
                (why.as_str(), "compare pattern and path with what comes")
            }
            Cause::Unreadable(why) => (why.as_str(), "compare form, baud and parity with what comes"),
        };
        format!(
            "{} frames in a row gave no reading, the last (\"{}\"): {why}; {advice}; `tombolo serial trace` shows what comes",
            self.frames,
            self.first.escape_ascii()
        )
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;

    const NO_MATCH: Cause = Cause::Unreadable(Unreadable::NoMatch);

    /// Whether so many frames without a reading make it illegible that was not.
    fn frames(line: &mut Legibility, now: Instant, count: u64) -> bool {
        let before = line.illegible().is_some();
        (0..count).for_each(|_| line.handle_frames(now, 1, NO_MATCH, b"T=21"));
        !before && line.illegible().is_some()
    }

    #[test]
    fn a_line_that_never_gave_a_reading_is_illegible_after_twenty_frames_and_legible_with_the_first() {
        let now = Instant::now();
        let mut line = Legibility::default();
        assert!(!frames(&mut line, now, FIRST - 1));
        line.handle_frames(now, 1, Cause::Bad(Bad::Checksum), &[b'T'; 40]);
        let found = line.illegible().unwrap().clone();
        assert_eq!(
            (found.frames, found.cause, found.first.len()),
            (20, Cause::Bad(Bad::Checksum), SHOWN_MAX)
        );
        // Its words stay the same.
        assert!(!frames(&mut line, now, 500));
        assert_eq!(line.illegible(), Some(&found));
        line.handle_reading();
        assert_eq!(line.illegible(), None);
    }

    #[test]
    fn on_a_slow_line_three_frames_over_five_minutes_are_enough() {
        let now = Instant::now();
        let mut line = Legibility::default();
        assert!(!frames(&mut line, now, 1));
        assert!(!frames(&mut line, now + SLOW_FOR, 1));
        assert!(frames(&mut line, now + SLOW_FOR, 1));
    }

    #[test]
    fn a_few_bad_frames_on_a_good_line_are_none_and_a_long_row_of_them_is() {
        let now = Instant::now();
        let mut line = Legibility::default();
        for _ in 0..100 {
            line.handle_reading();
            assert!(!frames(&mut line, now, FIRST));
        }
        line.handle_reading();
        // A burst of noise is over in less.
        assert!(!frames(&mut line, now, 10 * LATER));
        assert!(frames(&mut line, now + LATER_FOR, 1));
    }

    #[test]
    fn a_pattern_that_picks_few_frames_out_of_many_is_judged_by_what_is_usual() {
        let mut now = Instant::now();
        let mut line = Legibility::default();
        let mut found = 0;
        for _ in 0..20 {
            for _ in 0..400 {
                now += Duration::from_secs(1);
                found += usize::from(frames(&mut line, now, 1));
            }
            line.handle_reading();
        }
        assert_eq!(found, 1, "before the first reading only");
        // A line that gives nothing any more is found all the same.
        assert!(!frames(&mut line, now, 3 * 400 - 1));
        assert!(frames(&mut line, now + LATER_FOR, 1));
    }

    #[test]
    fn the_sentence_names_what_to_compare_and_the_bytes_without_control_characters() {
        let of = |cause, first: &[u8]| Illegible { frames: 20, cause, first: first.to_vec() }.sentence();
        let text = of(NO_MATCH, b"T=\x1b\xff");
        let words = r#"the last ("T=\x1b\xff"): the pattern does not match; compare pattern"#;
        assert!(text.contains(words), "{text}");
        assert!(of(Cause::Bad(Bad::Checksum), b"").contains("compare checksum, baud"));
        assert!(of(Cause::Bad(Bad::Incomplete), b"").contains("framing, baud"));
    }
}
