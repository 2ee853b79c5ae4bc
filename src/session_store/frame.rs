//! The frames of the log (docs/session-store.md §1.2), as [`crate::durable::frame`] has them.

use super::Number;
use crate::durable::frame::{self, FrameFormat};

pub use crate::durable::frame::{HEAD, HEADER, Header};

/// Most bytes of content in a frame.
pub const CONTENT_MAX: usize = 4096;
/// The major version this is.
pub const MAJOR: u8 = 1;
const SESSION: u8 = 1;
const ENDED: u8 = 2;
const RUN: u8 = 3;

/// The bytes of the log.
pub const FORMAT: FrameFormat = FrameFormat {
    magic: *b"TBSL",
    marker: *b"tbSf",
    major: MAJOR,
    minor: 0,
    content_max: CONTENT_MAX,
    fits: |kind, length| match (kind, length) {
        (SESSION, 1..) | (ENDED | RUN, 0) => true,
        (SESSION | ENDED | RUN, _) => false,
        _ => true,
    },
};

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A session, sealed.
    Session,
    /// It is over.
    Ended,
    /// The daemon has started once more.
    Run,
    /// Of a later minor version: skipped.
    Unknown(u8),
}

/// A frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it says.
    pub kind: Kind,
    /// Of which session; 0 in a run.
    pub number: Number,
    /// In which run, counted from 1.
    pub run: u32,
    /// At most [`CONTENT_MAX`] bytes.
    pub content: &'a [u8],
}

impl<'a> Frame<'a> {
    /// As the log stores it.
    pub fn stored(&self) -> frame::Frame<'a> {
        let kind = match self.kind {
            Kind::Session => SESSION,
            Kind::Ended => ENDED,
            Kind::Run => RUN,
            Kind::Unknown(kind) => kind,
        };
        frame::Frame { kind, number: self.number, epoch: self.run, content: self.content }
    }

    /// Appends it to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        FORMAT.encode(&self.stored(), out);
    }

    /// Bytes it takes.
    pub fn size(&self) -> usize {
        HEAD + self.content.len()
    }
}

impl<'a> From<frame::Frame<'a>> for Frame<'a> {
    fn from(stored: frame::Frame<'a>) -> Frame<'a> {
        let kind = match stored.kind {
            SESSION => Kind::Session,
            ENDED => Kind::Ended,
            RUN => Kind::Run,
            kind => Kind::Unknown(kind),
        };
        Frame { kind, number: stored.number, run: stored.epoch, content: stored.content }
    }
}

/// The first bytes of a log.
pub fn header() -> [u8; HEADER] {
    FORMAT.header()
}

/// Reads them.
pub fn parse_header(bytes: &[u8]) -> Header {
    FORMAT.parse_header(bytes)
}

/// The frame that begins with `bytes`, whole and sound.
pub fn parse(bytes: &[u8]) -> Option<Frame<'_>> {
    FORMAT.parse(bytes).map(Frame::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Frame<'_> = Frame { kind: Kind::Session, number: 7, run: 3, content: b"sealed" };

    #[test]
    fn a_frame_is_read_as_it_was_written_and_as_nothing_else() {
        let mut bytes = Vec::new();
        FRAME.encode(&mut bytes);
        assert_eq!((parse(&bytes), bytes.len()), (Some(FRAME), FRAME.size()));
        for at in 0..bytes.len() {
            assert_eq!(parse(&bytes[..at]), None);
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert_eq!(parse(&damaged), None, "{at}");
            }
        }
    }

    #[test]
    fn behind_damage_the_next_frame_is_found() {
        let mut bytes = header().to_vec();
        for number in 0..5 {
            Frame { number, ..FRAME }.encode(&mut bytes);
        }
        bytes.extend([0; 100]);
        let found = |bytes: &[u8]| {
            let mut frames = FORMAT.frames(bytes);
            let numbers: Vec<u64> = frames.by_ref().map(|(_, frame)| frame.number).collect();
            (numbers, frames.damaged)
        };
        assert_eq!(found(&bytes), (vec![0, 1, 2, 3, 4], 0));
        bytes[HEADER + 2 * FRAME.size() + 6] = 0xff;
        assert_eq!(found(&bytes), (vec![0, 1, 3, 4], FRAME.size()));
        bytes.truncate(HEADER + 5 * FRAME.size() - 1);
        assert_eq!(found(&bytes).0, [0, 1, 3]);
    }

    #[test]
    fn a_header_says_its_version() {
        assert_eq!(parse_header(&header()), Header::Known);
        let mut other = header();
        other[4] = 9;
        assert_eq!(parse_header(&other), Header::Damaged);
        let crc = crc32c::crc32c(&other[..8]).to_le_bytes();
        other[8..12].copy_from_slice(&crc);
        assert_eq!(parse_header(&other), Header::OtherVersion(9));
    }
}
