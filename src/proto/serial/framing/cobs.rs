//! Consistent overhead byte stuffing (Cheshire and Baker, 1999): a frame contains no zero and ends
//! with a zero.
//!
//! A code byte n means that n−1 literal bytes follow, and then a zero, unless n is 255 or the frame
//! ends. A zero within the n−1 bytes makes the frame invalid.

use super::{Buffer, Step};

#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// Remaining bytes of the current block.
    left: u8,
    /// Whether a zero must be inserted before the next block, if there is one.
    zero_due: bool,
}

impl Scanner {
    pub(super) fn step(&mut self, byte: u8, buffer: &mut Buffer) -> Step {
        if byte == 0 {
            let broken = self.left > 0;
            *self = Scanner::default();
            return if broken { Step::Bad } else { Step::Frame };
        }
        if self.left > 0 {
            self.left -= 1;
            buffer.push(byte);
        } else {
            if self.zero_due {
                buffer.push(0);
            }
            self.left = byte - 1;
            self.zero_due = byte != 0xFF;
        }
        Step::More
    }
}

/// Appends the frame to `out`.
pub fn encode(body: &[u8], out: &mut Vec<u8>) {
    let mut code_at = out.len();
    out.push(1);
    let mut rest = body;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != 0 {
            out.push(byte);
            out[code_at] += 1;
            if out[code_at] < 0xFF || rest.is_empty() {
                continue;
            }
        }
        code_at = out.len();
        out.push(1);
    }
    out.push(0);
}
