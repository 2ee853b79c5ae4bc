//! Frames between a start and an end marker, such as `STX … ETX` or `$ … CR LF`.
//!
//! | markers | a start marker inside a frame | arbitrary bytes |
//! |---|---|---|
//! | no escape | begins a new frame, because the end of the previous one was lost | a payload that contains a marker cannot be sent |
//! | an escape byte | as above; if escaped, it is part of the frame | yes |
//! | start = end | is the end, and may also begin the next frame | as above |
//!
//! The escape byte precedes every byte that must be read literally.

use super::{Buffer, Counters, EncodeError, Step};

/// Longest marker, in bytes.
pub const MARKER_MAX: usize = 8;

/// The markers around a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Markers {
    /// The start marker; `1..=8` bytes.
    pub start: Vec<u8>,
    /// The end marker; `1..=8` bytes.
    pub end: Vec<u8>,
    /// The escape byte, after which a byte is read literally. It is in neither marker.
    pub escape: Option<u8>,
}

impl Markers {
    pub(super) fn encode(&self, body: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        out.extend_from_slice(&self.start);
        for byte in body {
            if let Some(escape) = self.escape
                && (*byte == escape || self.start.contains(byte) || self.end.contains(byte))
            {
                out.push(escape);
            }
            out.push(*byte);
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
        if self.markers.escape == Some(byte) {
            self.settle(0, buffer);
            self.escaped = true;
            return Step::More;
        }
        self.tail.push(byte);
        if self.tail.ends_with(&self.markers.end) {
            let end = self.markers.end.len();
            self.settle(end, buffer);
            self.tail.clear();
            // If both markers are equal, the end of one frame may be the start of the next.
            self.inside = self.markers.start == self.markers.end;
            return Step::Frame;
        }
        if self.tail.ends_with(&self.markers.start) {
            let start = self.markers.start.len();
            self.settle(start, buffer);
            self.tail.clear();
            return Step::Bad;
        }
        let longest = self.markers.start.len().max(self.markers.end.len());
        self.settle(longest.saturating_sub(1), buffer);
        Step::More
    }

    /// Looks for a start marker.
    fn outside(&mut self, byte: u8, counters: &mut Counters) -> Step {
        self.tail.push(byte);
        if self.tail.ends_with(&self.markers.start) {
            counters.dropped += (self.tail.len() - self.markers.start.len()) as u64;
            self.tail.clear();
            self.inside = true;
        } else if self.tail.len() >= self.markers.start.len() {
            self.tail.remove(0);
            counters.dropped += 1;
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
