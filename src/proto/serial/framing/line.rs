//! Lines: a frame ends with a line end or another delimiter.

use super::{Buffer, EncodeError, Step};

/// Longest delimiter, in bytes.
pub const END_MAX: usize = 16;

/// The line end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// CR, LF or both; the empty line between CR and LF is ignored. Sent as CR LF.
    Any,
    /// Exactly this sequence, `1..=16` bytes.
    Exactly(Vec<u8>),
}

impl End {
    pub(super) fn encode(&self, body: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let end = match self {
            End::Any if body.iter().any(|byte| matches!(byte, b'\r' | b'\n')) => {
                return Err(EncodeError::Delimiter);
            }
            End::Any => &b"\r\n"[..],
            End::Exactly(end) => end,
        };
        let start = out.len();
        out.extend_from_slice(body);
        out.extend_from_slice(end);
        // The search includes the delimiter, because the last bytes of the body and its first bytes
        // can form a delimiter.
        let first = out[start..].windows(end.len().max(1)).position(|window| window == end);
        if first != Some(body.len()) {
            out.truncate(start);
            return Err(EncodeError::Delimiter);
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Scanner {
    end: End,
    /// The last bytes of the current frame, which may be the beginning of a delimiter.
    tail: Vec<u8>,
}

impl Scanner {
    pub(super) fn new(end: &End) -> Scanner {
        Scanner { end: end.clone(), tail: Vec::new() }
    }

    /// What ends each line; empty if that differs.
    pub(super) fn end(&self) -> &[u8] {
        match &self.end {
            End::Any => &[],
            End::Exactly(end) => end,
        }
    }

    pub(super) fn restart(&mut self) {
        self.tail.clear();
    }

    pub(super) fn step(&mut self, byte: u8, buffer: &mut Buffer) -> Step {
        let end = match &self.end {
            End::Any if matches!(byte, b'\r' | b'\n') => return Step::Frame,
            End::Any => {
                buffer.push(byte);
                return Step::More;
            }
            End::Exactly(end) => end,
        };
        self.tail.push(byte);
        if self.tail == *end {
            self.tail.clear();
            return Step::Frame;
        }
        if self.tail.len() >= end.len() {
            buffer.push(self.tail.remove(0));
        }
        Step::More
    }
}
