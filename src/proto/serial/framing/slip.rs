//! SLIP (RFC 1055): END ends a frame, and two escape sequences represent END and ESC inside a
//! frame.
//!
//! ESC followed by another byte makes the frame invalid; it is dropped at the next END. Frames are
//! also sent with a leading END, as the RFC recommends, which ends preceding noise.

use super::{Buffer, Step};

/// End of a frame.
pub const END: u8 = 0xC0;
/// Escape.
pub const ESC: u8 = 0xDB;
/// After ESC: END.
pub const ESC_END: u8 = 0xDC;
/// After ESC: ESC.
pub const ESC_ESC: u8 = 0xDD;

#[derive(Debug, Default)]
pub(super) struct Scanner {
    escaped: bool,
    broken: bool,
}

impl Scanner {
    pub(super) fn step(&mut self, byte: u8, buffer: &mut Buffer) -> Step {
        let byte = match (byte, std::mem::take(&mut self.escaped)) {
            (END, escaped) => {
                let broken = std::mem::take(&mut self.broken) || escaped;
                return if broken { Step::Bad } else { Step::Frame };
            }
            (ESC, false) => {
                self.escaped = true;
                return Step::More;
            }
            (ESC_END, true) => END,
            (ESC_ESC, true) => ESC,
            (_, true) => {
                self.broken = true;
                return Step::More;
            }
            (byte, false) => byte,
        };
        buffer.push(byte);
        Step::More
    }
}

/// Appends the frame to `out`.
pub fn encode(body: &[u8], out: &mut Vec<u8>) {
    out.push(END);
    for byte in body {
        match *byte {
            END => out.extend_from_slice(&[ESC, ESC_END]),
            ESC => out.extend_from_slice(&[ESC, ESC_ESC]),
            byte => out.push(byte),
        }
    }
    out.push(END);
}
