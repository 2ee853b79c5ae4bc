//! The RTU frame: the unit's address, the protocol data unit, and a checksum, with silence before
//! and after it.
//!
//! The standard marks the end of a frame by 3.5 characters of silence. With a USB adapter that
//! silence cannot be measured: bytes arrive in batches, up to 16 ms apart with some chips. So the
//! end of a response follows from its length, which the request determines, and its checksum.
//! Silence is only kept before sending, and used to give up a complete but invalid response early.
//!
//! MODBUS over Serial Line V1.02 §2.5.1.

use std::time::Duration;

use super::super::checksum::Checksum;
use super::pdu::{Answer, EXCEPTION, PDU_MAX, READ_BITS_MAX, READ_REGISTERS_MAX, Request};

/// Longest frame in bytes: address, protocol data unit, checksum.
pub const FRAME_MAX: usize = 1 + PDU_MAX + 2;
/// Length of the request of a read.
const REQUEST: usize = 8;
/// Most bytes kept while looking for a frame. Older bytes cannot belong to a future response.
const KEPT_MAX: usize = FRAME_MAX + 64;

/// CRC-16/MODBUS (§2.5.1.2). On the wire its low byte comes first.
pub fn crc16(bytes: &[u8]) -> u16 {
    // It has two bytes, so the cast is lossless.
    Checksum::Crc16Modbus.of(bytes) as u16
}

/// The speed of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    /// Bits per second; at least 1.
    pub baud: u32,
    /// Bits per character: start, data, parity, stop. 11 by the standard, 10 with 8N1.
    pub bits: u8,
}

impl Speed {
    /// The duration of `count` characters.
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

/// A complete frame with a valid checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'b> {
    /// The unit's address.
    pub unit: u8,
    /// The protocol data unit: function code and data.
    pub pdu: &'b [u8],
    /// It is a request: another master sent it, or it is an echo.
    pub is_request: bool,
}

/// The frame at the beginning of `bytes`, parsed as a response: its length follows from its
/// function code.
fn whole(bytes: &[u8]) -> Option<Frame<'_>> {
    let [unit, function, third, ..] = *bytes else { return None };
    let length = match function {
        1..=4 => 5 + usize::from(third),
        5 | 6 | 15 | 16 => 8,
        EXCEPTION.. => 5,
        _ => return None,
    };
    checked(bytes.get(..length)?).map(|pdu| Frame { unit, pdu, is_request: false })
}

/// The read request at the beginning of `bytes`.
fn read_request(bytes: &[u8]) -> Option<Frame<'_>> {
    let [unit, function @ 1..=4, _, _, high, low, ..] = *bytes else { return None };
    let most = if function <= 2 { READ_BITS_MAX } else { READ_REGISTERS_MAX };
    let is_one = (1..=most).contains(&u16::from_be_bytes([high, low]));
    let pdu = is_one.then(|| checked(bytes.get(..REQUEST)?)).flatten()?;
    Some(Frame { unit, pdu, is_request: true })
}

/// The protocol data unit of a frame, if the checksum is valid.
fn checked(frame: &[u8]) -> Option<&[u8]> {
    let (body, crc) = frame.split_last_chunk::<2>()?;
    (crc16(body) == u16::from_le_bytes(*crc)).then(|| &body[1..])
}

/// The result of a search in the received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'b> {
    /// The response.
    Answer(Answer<'b>),
    /// No response yet.
    Nothing {
        /// Whether enough bytes for a response came, so that silence means that it is damaged.
        complete: bool,
    },
}

/// Bytes received, and the search for frames in them. At most [`KEPT_MAX`] bytes, the newest.
#[derive(Debug, Default)]
pub struct Receiver {
    bytes: Vec<u8>,
    /// The position up to which other frames are already reported.
    told: usize,
    /// The number of bytes that belong to a frame.
    framed: usize,
    noise: u64,
}

impl Receiver {
    /// Adds received bytes.
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

    /// The number of bytes that belong to no frame.
    pub fn noise_held(&self) -> usize {
        self.bytes.len().saturating_sub(self.framed)
    }

    /// The first byte.
    pub fn first(&self) -> Option<u8> {
        self.bytes.first().copied()
    }

    /// Whether the first two bytes are those of an answer of this unit.
    pub fn begins_with(&self, unit: u8, function: u8) -> bool {
        let head = self.bytes.get(..2);
        head.is_some_and(|head| head == [unit, function] || head == [unit, function | EXCEPTION])
    }

    /// Removes an echo of `sent` from the beginning. `None`: more bytes are needed. `Some(false)`:
    /// it is not the echo.
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

    /// Looks for the response of `unit` to `request` at any position, because noise may precede it.
    ///
    /// Other complete frames are skipped, so that nothing inside them is mistaken for the response,
    /// and reported to `other` once. An incomplete response is waited for, unless `last` is set: no
    /// more bytes will come.
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
            let Some(frame) = whole(rest).or_else(|| read_request(rest)) else {
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
        // A function that is not known has no length that is known: all that came is its frame.
        let rest = self.bytes.get(self.told..).unwrap_or_default();
        if last
            && found.is_none()
            && let [address, _, ..] = *rest
            && address == unit
            && let Some(pdu) = checked(rest)
        {
            other(Frame { unit, pdu, is_request: false });
            self.framed += rest.len();
            self.told = self.bytes.len();
        }
        match found {
            Some(range) => {
                self.framed += range.len();
                self.told = range.end;
                let pdu = &self.bytes[range.start + 1..range.end - 2];
                // `candidate` has parsed it already.
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

    /// Looks for complete frames while no request is outstanding, and reports each once.
    pub fn overhear(&mut self, mut other: impl FnMut(Frame<'_>)) {
        let mut at = self.told;
        while at < self.bytes.len() {
            let rest = &self.bytes[at..];
            match whole(rest).or_else(|| read_request(rest)) {
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

    /// Drops the answer that was found, and what is before it.
    pub fn take_answer(&mut self) {
        let taken = self.told.min(self.bytes.len());
        self.noise += taken.saturating_sub(self.framed) as u64;
        self.bytes.drain(..taken);
        (self.told, self.framed) = (0, 0);
    }

    /// Drops all bytes; those that belong to no frame count as noise.
    pub fn clear(&mut self) {
        self.noise += self.bytes.len().saturating_sub(self.framed) as u64;
        self.bytes.clear();
        self.told = 0;
        self.framed = 0;
    }

    /// The number of bytes that belonged to no frame.
    pub fn noise(&self) -> u64 {
        self.noise
    }
}

enum Candidate {
    /// The response, of this many bytes with address and checksum.
    Answer(usize),
    /// May become the response with more bytes.
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
    // The byte count of a read is the first field that differs in a response of another shape.
    let is_data = *function == shape.function;
    if is_data && request.count().zip(bytes.get(2)).is_some_and(|(count, byte)| count != *byte) {
        return Candidate::No;
    }
    let Some(frame) = bytes.get(..length) else { return Candidate::Short };
    match checked(frame) {
        Some(pdu) if request.parse_answer(pdu).is_ok() => Candidate::Answer(length),
        _ => Candidate::No,
    }
}
