//! Frames between a start and an end marker, such as `STX … ETX` or `$ … CR LF`.
//!
//! | markers | a start marker inside a frame | arbitrary bytes |
//! |---|---|---|
//! | no escape | begins a new frame, because the end of the previous one was lost | a payload that contains a marker cannot be sent |
//! | an escape byte | as above; if escaped, it is part of the frame | yes |
//! | start = end | is the end, and may also begin the next frame | as above |
//!
//! An escape byte precedes every byte that must be read literally. Some protocols (SML) have a
//! sequence instead that both markers begin with, and that is sent twice where it is part of the
//! data.

use std::borrow::Cow;

use super::{Buffer, Counters, EncodeError, Step};

/// Longest marker, in bytes.
pub const MARKER_MAX: usize = 8;

/// What devices send between frames of this kind, as CR and LF behind the CRC of P1, STX and ETX
/// around the groups of a Linky: nothing is lost with it.
const BETWEEN: [u8; 4] = [0x02, 0x03, b'\r', b'\n'];

/// The markers around a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Markers {
    /// The start marker; `1..=8` bytes.
    pub start: Vec<u8>,
    /// The end marker; `1..=8` bytes.
    pub end: Vec<u8>,
    /// How a marker can be part of the data.
    pub escape: Option<Escape>,
}

/// How a marker can be part of the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Escape {
    /// The byte after this one is read literally. It is in neither marker.
    Before(u8),
    /// Both markers, which differ, begin with this sequence of `2..=8` bytes; if it is sent twice,
    /// it is part of the data once.
    Doubled(Vec<u8>),
}

impl Markers {
    pub(super) fn encode(&self, body: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        out.extend_from_slice(&self.start);
        let (escape, doubled) = match &self.escape {
            Some(Escape::Before(byte)) => (Some(*byte), None),
            Some(Escape::Doubled(sequence)) => (None, Some(sequence)),
            None => (None, None),
        };
        let mut tail = 0;
        for byte in body {
            if let Some(escape) = escape
                && (*byte == escape || self.start.contains(byte) || self.end.contains(byte))
            {
                out.push(escape);
            }
            out.push(*byte);
            if let Some(sequence) = doubled {
                tail += 1;
                let since = out.len().saturating_sub(tail);
                if out.get(since..).is_some_and(|since| since.ends_with(sequence)) {
                    out.extend_from_slice(sequence);
                    tail = 0;
                }
            }
        }
        out.extend_from_slice(&self.end);
        if self.escape.is_none() && !self.is_plain(&out[start..], body.len()) {
            out.truncate(start);
            return Err(EncodeError::Delimiter);
        }
        Ok(())
    }

    /// Whether an unescaped frame contains no marker other than its own.
    fn is_plain(&self, frame: &[u8], body: usize) -> bool {
        let inside = &frame[self.start.len()..];
        let first = |marker: &[u8]| inside.windows(marker.len().max(1)).position(|window| window == marker);
        first(&self.end) == Some(body)
            && (self.start == self.end || first(&self.start).is_none_or(|at| at >= body))
    }
}

#[derive(Debug)]
pub(super) struct Scanner {
    markers: Markers,
    inside: bool,
    escaped: bool,
    /// The last unescaped bytes, which may be the beginning of a marker.
    tail: Vec<u8>,
}

impl Scanner {
    pub(super) fn new(markers: &Markers) -> Scanner {
        Scanner { markers: markers.clone(), inside: false, escaped: false, tail: Vec::new() }
    }

    pub(super) fn markers(&self) -> (&[u8], &[u8]) {
        (&self.markers.start, &self.markers.end)
    }

    /// Data in which a doubled sequence is single again.
    pub(super) fn plain<'f>(&self, frame: &'f [u8]) -> Cow<'f, [u8]> {
        let Some(Escape::Doubled(sequence)) = &self.markers.escape else { return frame.into() };
        let mut plain = Vec::with_capacity(frame.len());
        let mut rest = frame;
        while let Some((first, after)) = rest.split_first() {
            let twice = rest.strip_prefix(&sequence[..]).and_then(|rest| rest.strip_prefix(&sequence[..]));
            rest = match twice {
                Some(after) => {
                    plain.extend_from_slice(sequence);
                    after
                }
                None => {
                    plain.push(*first);
                    after
                }
            };
        }
        plain.into()
    }

    pub(super) fn restart(&mut self) {
        (self.inside, self.escaped) = (false, false);
        self.tail.clear();
    }

    pub(super) fn step(&mut self, byte: u8, buffer: &mut Buffer, counters: &mut Counters) -> Step {
        if !self.inside {
            return self.outside(byte, counters);
        }
        if std::mem::take(&mut self.escaped) {
            self.settle(0, buffer);
            buffer.push(byte);
            return Step::More;
        }
        if self.markers.escape == Some(Escape::Before(byte)) {
            self.settle(0, buffer);
            self.escaped = true;
            return Step::More;
        }
        self.tail.push(byte);
        if self.tail.ends_with(&self.markers.end) {
            let end = self.markers.end.len();
            self.settle(end, buffer);
            if self.is_data(buffer) {
                self.settle(0, buffer);
                return Step::More;
            }
            self.tail.clear();
            // If both markers are equal, the end of one frame may be the start of the next.
            self.inside = self.markers.start == self.markers.end;
            return Step::Frame;
        }
        if self.tail.ends_with(&self.markers.start) {
            let start = self.markers.start.len();
            self.settle(start, buffer);
            if self.is_data(buffer) {
                self.settle(0, buffer);
                return Step::More;
            }
            self.tail.clear();
            return Step::Bad;
        }
        let longest = self.markers.start.len().max(self.markers.end.len());
        self.settle(longest.saturating_sub(1), buffer);
        Step::More
    }

    /// Whether the marker that just came is data, because the sequence that it begins with is the
    /// second one of two.
    fn is_data(&self, buffer: &Buffer) -> bool {
        let Some(Escape::Doubled(sequence)) = &self.markers.escape else { return false };
        let mut before = &buffer.bytes[..];
        let mut copies = 0_usize;
        while let Some(shorter) = before.strip_suffix(&sequence[..]) {
            before = shorter;
            copies += 1;
        }
        copies % 2 == 1
    }

    /// Looks for a start marker.
    fn outside(&mut self, byte: u8, counters: &mut Counters) -> Step {
        self.tail.push(byte);
        if self.tail.ends_with(&self.markers.start) {
            self.tail.clear();
            self.inside = true;
        } else if self.tail.len() >= self.markers.start.len() {
            let first = self.tail.remove(0);
            counters.dropped += u64::from(!BETWEEN.contains(&first));
        }
        Step::More
    }

    /// Moves the bytes that cannot be part of a marker, all but the last `keep`, to the frame.
    fn settle(&mut self, keep: usize, buffer: &mut Buffer) {
        let certain = self.tail.len().saturating_sub(keep);
        for byte in self.tail.drain(..certain) {
            buffer.push(byte);
        }
    }
}
