//! The search for a frame of a known length behind bytes that were lost, where its checksum has to
//! tell its place: framings [`fixed`](super::fixed) and [`length`](super::length) without a start.
//!
//! A checksum of 16 bits is right by chance at one of 65,536 places, and behind a lost byte as many
//! are tried as a frame has. So a frame that was searched for counts if
//!
//! * another one follows it ([`Decoder::is_followed`]), or nothing does, at a silence;
//! * it is where the next one was expected, had nothing been lost: that is a single place;
//! * it follows a question;
//! * as many other bytes are before it as were before the last one that none followed: the device
//!   sends a line end, say, before each;
//! * [`ALONE`] in a row were right and none followed them: it sends other bytes of any number, and
//!   each counts until two follow one another.

use super::{Decoder, Scanner, length};

/// After so many frames in a row that were right and that no other followed, the device is one that
/// sends other bytes between them.
const ALONE: u8 = 3;
/// Width of a checksum, in bytes, that is right by chance too often to tell alone where a frame
/// begins.
const SHORT: usize = 2;

/// What is known of the places at which frames begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search {
    /// Without a loss, the next frame begins so many bytes behind the front of the buffer.
    expected: Option<usize>,
    /// What comes follows a question.
    is_answer: bool,
    /// Bytes since the end of the last frame that was right, whether it counted or not; less than 0
    /// within it.
    since: i64,
    /// The same before the last one that no other followed.
    foreign: Option<i64>,
    /// Frames in a row that were right and that no other followed; at most [`ALONE`].
    alone: u8,
}

impl Search {
    /// After the opening of the port.
    pub(super) fn opened() -> Search {
        Search { expected: Some(0), is_answer: false, since: 0, foreign: None, alone: 0 }
    }

    /// After it was opened again: the device is the same.
    pub(super) fn reopen(&mut self) {
        *self = Search { foreign: self.foreign, alone: self.alone, ..Search::opened() };
    }

    /// The next byte begins the answer to a question.
    pub(super) fn ask(&mut self) {
        (self.expected, self.is_answer, self.since) = (None, true, 0);
    }

    /// The line was silent for longer than a frame may pause.
    pub(super) fn end_at_silence(&mut self) {
        self.expected = None;
    }

    /// Bytes are lost; without, the next frame begins so many bytes behind the front of the buffer.
    pub(super) fn lose(&mut self, expected: usize) {
        self.expected = Some(expected);
    }

    /// So many bytes begin no frame.
    pub(super) fn pass(&mut self, count: usize) {
        self.since = self.since.saturating_add(bytes_of(count));
    }

    /// So many bytes were taken off the front of the buffer.
    pub(super) fn advance(&mut self, count: usize) {
        self.expected = self.expected.and_then(|expected| expected.checked_sub(count));
    }

    /// Whether as many bytes as before the last one that none followed are before this frame.
    pub(super) fn is_foreign(&self) -> bool {
        self.foreign == Some(self.since)
    }

    /// No other follows a frame of this size that is right.
    pub(super) fn note_alone(&mut self, size: usize) {
        self.alone = (self.alone + 1).min(ALONE);
        self.foreign = Some(self.since);
        self.since = -bytes_of(size);
    }

    /// A frame counted. `lost`: it was searched for.
    pub(super) fn found(&mut self, lost: bool, is_followed: bool) {
        if is_followed && !(lost && self.alone >= ALONE) {
            self.alone = 0;
        }
        (self.expected, self.since) = (None, 0);
    }

    fn is_known(&self, at: usize) -> bool {
        self.is_answer || self.expected == Some(at) || self.alone >= ALONE
    }
}

/// At most a frame, [`FRAME_MAX`](super::FRAME_MAX).
fn bytes_of(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

impl Decoder {
    /// Whether bytes were lost, and a frame of a known length that is right is not found yet.
    pub(super) fn is_searching(&self) -> bool {
        self.skipping && matches!(self.scanner, Scanner::Length(_) | Scanner::Fixed(_))
    }

    /// Of a frame of this size that is right at a place that was searched for: whether it counts,
    /// as far as what follows tells. `None`: that shows when more has come.
    pub(super) fn is_followed(&self, at: usize, size: usize) -> Option<bool> {
        let is_short = self.checksum.is_some_and(|checksum| checksum.width() <= SHORT);
        if !is_short || !self.start.is_empty() || self.search.is_known(at) {
            return Some(true);
        }
        let next = at + size;
        let rest = self.buffer.bytes.get(next..)?;
        let size = match &self.scanner {
            Scanner::Length(header) => header.frame_size(rest),
            _ => length::Size::Known(size),
        };
        match size {
            length::Size::Unknown => None,
            length::Size::Known(size) if size <= self.buffer.max => {
                let frame = rest.get(..size)?;
                Some(self.strip_at(next, frame).is_some() && !self.is_blank_at(next, frame))
            }
            length::Size::Known(_) | length::Size::Impossible => Some(false),
        }
    }
}
