//! The RTU frame: a unit's address before the protocol data unit, a checksum behind it, and silence
//! around it.
//!
//! The standard marks a frame's end by 3.5 characters of silence. Behind a USB adapter that silence
//! cannot be seen: bytes come in lumps, 16 ms apart with some chips. So the end of an answer is
//! known from its length, which the request determines, and its checksum; silence is only kept
//! before sending, and used to give up early on what is complete but wrong.
//!
//! MODBUS over Serial Line V1.02 §2.5.1.

use std::time::Duration;

use super::super::checksum::Checksum;
use super::pdu::{Answer, EXCEPTION, PDU_MAX, Request};

/// Longest frame: address, protocol data unit, checksum.
pub const FRAME_MAX: usize = 1 + PDU_MAX + 2;
/// Most bytes kept while looking for a frame. What is older cannot belong to an answer that is
/// still to come.
const KEPT_MAX: usize = FRAME_MAX + 64;

/// CRC-16/MODBUS (§2.5.1.2). On the wire its low byte comes first.
pub fn crc16(bytes: &[u8]) -> u16 {
    // Of two bytes, so it always fits.
    Checksum::Crc16Modbus.of(bytes) as u16
}

/// How fast characters go over the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    /// Bits a second; 1 at least.
    pub baud: u32,
    /// Bits a character takes: start, data, parity, stop. 11 by the standard, 10 with 8N1.
    pub bits: u8,
}

impl Speed {
    /// How long so many characters take.
    pub fn characters(self, count: usize) -> Duration {
        let bits = u64::from(self.bits) * count as u64;
        Duration::from_nanos(bits.saturating_mul(1_000_000_000) / u64::from(self.baud.max(1)))
    }

    /// The silence between frames: 3.5 characters, above 19200 baud 1.75 ms (§2.5.1.1).
    pub fn gap(self) -> Duration {
        if self.baud > 19200 { Duration::from_micros(1750) } else { self.characters(7) / 2 }
    }
}

/// Writes a frame into an empty `out`.
pub fn encode(unit: u8, request: &Request, out: &mut Vec<u8>) {
    out.clear();
    out.push(unit);
    request.encode(out);
    let crc = crc16(out);
    out.extend_from_slice(&crc.to_le_bytes());
}

/// A whole frame with a right checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'b> {
    /// Who sent it, or to whom.
    pub unit: u8,
    /// Function code and what follows it.
    pub pdu: &'b [u8],
}

/// The frame at the beginning of `bytes`, taken as an answer: its length follows from its function
/// code.
fn whole(bytes: &[u8]) -> Option<Frame<'_>> {
    let [unit, function, third, ..] = *bytes else { return None };
    let length = match function {
        1..=4 => 5 + usize::from(third),
        5 | 6 | 15 | 16 => 8,
        EXCEPTION.. => 5,
        _ => return None,
    };
    checked(bytes.get(..length)?).map(|pdu| Frame { unit, pdu })
}

/// The protocol data unit of a frame, if the checksum is right.
fn checked(frame: &[u8]) -> Option<&[u8]> {
    let (body, crc) = frame.split_last_chunk::<2>()?;
    (crc16(body) == u16::from_le_bytes(*crc)).then(|| &body[1..])
}

/// What was found among the bytes received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'b> {
    /// The answer.
    Answer(Answer<'b>),
    /// Not yet anything; `complete` says whether as many bytes have come as an answer takes, so
    /// that silence would mean that it was damaged.
    Nothing {
        /// Enough came.
        complete: bool,
    },
}

/// Bytes received, and the search for frames in them. At most [`KEPT_MAX`] bytes, the newest.
#[derive(Debug, Default)]
pub struct Receiver {
    bytes: Vec<u8>,
    /// Up to here, frames that are not the answer were told already.
    told: usize,
    /// How many of the bytes belong to a frame.
    framed: usize,
    noise: u64,
}

impl Receiver {
    /// Takes bytes in.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if let Some(over) = self.bytes.len().checked_sub(KEPT_MAX)
            && over > 0
        {
            self.bytes.drain(..over);
            self.told = self.told.saturating_sub(over);
            let framed = over.min(self.framed);
            self.framed -= framed;
            self.noise += (over - framed) as u64;
        }
    }

    /// Whether there is any byte that belongs to no frame.
    pub fn has_noise(&self) -> bool {
        self.bytes.len() > self.framed
    }

    /// Takes an echo of `sent` off the beginning. `None`: too little has come to tell.
    /// `Some(false)`: it is not the echo.
    pub fn strip_echo(&mut self, sent: &[u8]) -> Option<bool> {
        let known = self.bytes.len().min(sent.len());
        if self.bytes[..known] != sent[..known] {
            return Some(false);
        }
        if known < sent.len() {
            return None;
        }
        self.bytes.drain(..known);
        self.told = self.told.saturating_sub(known);
        Some(true)
    }

    /// Looks for the answer of `unit` to `request`, at any place, so that noise before it does no
    /// harm.
    ///
    /// Whole frames that are something else are stepped over, so that nothing inside them is taken
    /// for an answer, and told to `other` once. A beginning that could become the answer is waited
    /// for, until `last`: then nothing more will come.
    pub fn answer(
        &mut self,
        unit: u8,
        request: &Request,
        last: bool,
        mut other: impl FnMut(Frame<'_>),
    ) -> Found<'_> {
        let shape = request.answer();
        let mut at = 0;
        let mut found = None;
        while at < self.bytes.len() {
            let rest = &self.bytes[at..];
            match candidate(rest, unit, request) {
                Candidate::Answer(length) => {
                    found = Some(at..at + length);
                    break;
                }
                Candidate::Short if !last => break,
                Candidate::Short | Candidate::No => {}
            }
            let Some(frame) = whole(rest) else {
                at += 1;
                continue;
            };
            let end = at + frame.pdu.len() + 3;
            if end > self.told {
                other(frame);
                self.told = end;
                self.framed += end - at;
            }
            at = end;
        }
        match found {
            Some(range) => {
                self.framed += range.len();
                self.told = range.end;
                let pdu = &self.bytes[range.start + 1..range.end - 2];
                // `candidate` read it already.
                match request.parse_answer(pdu) {
                    Ok(answer) => Found::Answer(answer),
                    Err(_) => Found::Nothing { complete: true },
                }
            }
            None => Found::Nothing {
                complete: self.bytes.len() - self.told.min(self.bytes.len()) >= usize::from(shape.length) + 3,
            },
        }
    }

    /// Looks for whole frames while nothing is asked, and tells each once.
    pub fn overhear(&mut self, mut other: impl FnMut(Frame<'_>)) {
        let mut at = self.told;
        while at < self.bytes.len() {
            match whole(&self.bytes[at..]) {
                Some(frame) => {
                    let length = frame.pdu.len() + 3;
                    other(frame);
                    at += length;
                    self.told = at;
                    self.framed += length;
                }
                None => at += 1,
            }
        }
    }

    /// Forgets all that came; what belonged to no frame was noise.
    pub fn clear(&mut self) {
        self.noise += self.bytes.len().saturating_sub(self.framed) as u64;
        self.bytes.clear();
        self.told = 0;
        self.framed = 0;
    }

    /// How many bytes belonged to no frame.
    pub fn noise(&self) -> u64 {
        self.noise
    }
}

enum Candidate {
    /// The answer, so many bytes with address and checksum.
    Answer(usize),
    /// Might become the answer with more bytes.
    Short,
    No,
}

fn candidate(bytes: &[u8], unit: u8, request: &Request) -> Candidate {
    let shape = request.answer();
    if bytes[0] != unit {
        return Candidate::No;
    }
    let Some(function) = bytes.get(1) else { return Candidate::Short };
    let length = match *function {
        function if function == shape.function => usize::from(shape.length) + 3,
        function if function == shape.function | EXCEPTION => 5,
        _ => return Candidate::No,
    };
    // A read says how many bytes follow: the first thing to differ in an answer of another shape.
    if matches!(*function, 1..=4) && bytes.get(2).is_some_and(|count| usize::from(*count) + 5 != length) {
        return Candidate::No;
    }
    let Some(frame) = bytes.get(..length) else { return Candidate::Short };
    match checked(frame) {
        Some(pdu) if request.parse_answer(pdu).is_ok() => Candidate::Answer(length),
        _ => Candidate::No,
    }
}
