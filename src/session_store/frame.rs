//! The bytes of the log (docs/session-store.md §1.2): its header, its frames, and how they are
//! found again.

use super::Number;

/// Bytes in front of the first frame.
pub const HEADER: usize = 16;
/// Bytes in front of a frame's content.
pub const HEAD: usize = 24;
/// Most bytes of content in a frame.
pub const CONTENT_MAX: usize = 4096;
/// After so many places that have a marker and do not fit, the rest is given up: so nobody's file
/// takes long.
const MISFITS_MAX: usize = 65_536;
/// The major version this is.
pub const MAJOR: u8 = 1;
const MINOR: u8 = 0;
const MAGIC: [u8; 4] = *b"TBSL";
const MARKER: [u8; 4] = *b"tbSf";

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

/// What the first bytes of a log say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Frames follow.
    Known,
    /// Of another major version.
    OtherVersion(u8),
    /// Nothing that can be read.
    Damaged,
}

/// The first bytes of a log.
pub fn header() -> [u8; HEADER] {
    let mut out = [0; HEADER];
    out[..4].copy_from_slice(&MAGIC);
    out[4..6].copy_from_slice(&[MAJOR, MINOR]);
    let crc = crc32c::crc32c(&out[..8]);
    out[8..12].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Reads them.
pub fn parse_header(bytes: &[u8]) -> Header {
    match bytes.first_chunk::<HEADER>() {
        Some(bytes) if bytes[..4] == MAGIC && bytes[8..12] == crc32c::crc32c(&bytes[..8]).to_le_bytes() => {
            if bytes[4] == MAJOR {
                Header::Known
            } else {
                Header::OtherVersion(bytes[4])
            }
        }
        _ => Header::Damaged,
    }
}

impl Frame<'_> {
    /// Appends it to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let kind = match self.kind {
            Kind::Session => 1,
            Kind::Ended => 2,
            Kind::Run => 3,
            Kind::Unknown(kind) => kind,
        };
        out.extend(MARKER);
        out.extend([kind, 0]);
        out.extend((self.content.len() as u16).to_le_bytes());
        out.extend(self.number.to_le_bytes());
        out.extend(self.run.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out[start..]), self.content);
        out.extend(crc.to_le_bytes());
        out.extend(self.content);
    }

    /// Bytes it takes.
    pub fn size(&self) -> usize {
        HEAD + self.content.len()
    }
}

/// The frame that begins with `bytes`, whole and sound.
pub fn parse(bytes: &[u8]) -> Option<Frame<'_>> {
    let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
    if head[..4] != MARKER {
        return None;
    }
    let length = usize::from(u16::from_le_bytes([head[6], head[7]]));
    let content = rest.get(..length).filter(|content| content.len() <= CONTENT_MAX)?;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head[..20]), content);
    if head[20..] != crc.to_le_bytes() {
        return None;
    }
    let kind = match (head[4], length) {
        (1, 1..) => Kind::Session,
        (2, 0) => Kind::Ended,
        (3, 0) => Kind::Run,
        (1..=3, _) => return None,
        (kind, _) => Kind::Unknown(kind),
    };
    let number = u64::from_le_bytes(*head[8..].first_chunk()?);
    let run = u32::from_le_bytes(*head[16..].first_chunk()?);
    Some(Frame { kind, number, run, content })
}

/// Goes through all sound frames of a log.
pub struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
    misfits: usize,
    /// Bytes that were skipped, but for the zeros behind them.
    pub damaged: usize,
}

impl<'a> Frames<'a> {
    /// Of a whole log, header included.
    pub fn new(bytes: &'a [u8]) -> Frames<'a> {
        Frames { bytes, at: HEADER.min(bytes.len()), misfits: 0, damaged: 0 }
    }

    fn skip_to(&mut self, to: usize) {
        let last = self.bytes[self.at..to].iter().rposition(|byte| *byte != 0);
        self.damaged += last.map_or(0, |last| last + 1);
        self.at = to;
    }
}

impl<'a> Iterator for Frames<'a> {
    /// Where it begins, and it.
    type Item = (usize, Frame<'a>);

    fn next(&mut self) -> Option<(usize, Frame<'a>)> {
        let bytes = self.bytes;
        let mut at = self.at;
        while at < bytes.len() && self.misfits < MISFITS_MAX {
            if let Some(frame) = parse(&bytes[at..]) {
                self.skip_to(at);
                self.at += frame.size();
                return Some((at, frame));
            }
            self.misfits += usize::from(bytes[at..].starts_with(&MARKER));
            // The next place a marker may begin at.
            let next = bytes[at + 1..].iter().position(|byte| *byte == MARKER[0]);
            at = next.map_or(bytes.len(), |next| at + 1 + next);
        }
        self.skip_to(bytes.len());
        None
    }
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
            let mut frames = Frames::new(bytes);
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
