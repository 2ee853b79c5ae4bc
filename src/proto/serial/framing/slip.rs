//! SLIP (RFC 1055): END closes a frame, and the two escapes let END and ESC stand inside one.
//!
//! An ESC with anything else behind it breaks the frame; it is dropped at the next END. Frames are
//! sent with an END before them too, as the RFC advises: it closes whatever noise the line picked
//! up.

use super::{Buffer, Step};

/// Frame end.
pub const END: u8 = 0xC0;
/// Escape.
pub const ESC: u8 = 0xDB;
/// Behind ESC: END.
pub const ESC_END: u8 = 0xDC;
/// Behind ESC: ESC.
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

/// Puts the frame behind what is in `out`.
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
