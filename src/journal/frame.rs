//! Frames: a segment is a sequence of frames. docs/journal-format.md §2.2.
//!
//! Both CRCs of a frame start from the seed of its segment, so old content of a recycled file and
//! bytes in a device's payload are not mistaken for a frame. The header has a separate CRC, so a
//! scan over damaged bytes computes a CRC over 20 bytes per position, whatever length the bytes
//! claim.

/// Size of a frame's header in bytes.
pub const HEADER: usize = 24;
/// Longest frame in bytes, without padding.
pub const FRAME_MAX: usize = 73_728;
/// Frames begin at multiples of this.
pub const ALIGN: usize = 8;
/// Largest sequence or number, so that arithmetic on them cannot overflow.
pub const SEQUENCE_MAX: u64 = 1 << 62;
/// Flag: the first frame of a commit.
pub const FLAG_COMMIT: u8 = 1;

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A stored reading.
    Reading = 1,
    /// All records up to this sequence are released.
    Trim = 2,
    /// Another run begins within a segment.
    Opening = 3,
    /// Records are lost.
    Loss = 4,
    /// The complete control state of the lane.
    Checkpoint = 5,
    /// A record in the rejected store.
    Rejected = 6,
    /// A record was removed from the rejected store.
    Removed = 7,
    /// A kind of a later minor version, which is skipped.
    Unknown = 0,
}

impl Kind {
    fn from_byte(byte: u8) -> Kind {
        match byte {
            1 => Kind::Reading,
            2 => Kind::Trim,
            3 => Kind::Opening,
            4 => Kind::Loss,
            5 => Kind::Checkpoint,
            6 => Kind::Rejected,
            7 => Kind::Removed,
            _ => Kind::Unknown,
        }
    }
}

/// A frame with valid CRCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The kind.
    pub kind: Kind,
    /// Its meaning depends on the kind.
    pub sequence: u64,
    /// Whether it is the first frame of a commit.
    pub begins_commit: bool,
    /// Its meaning depends on the kind.
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// The distance to the next frame in bytes, with padding.
    pub fn step(&self) -> usize {
        padded(HEADER + self.body.len())
    }
}

/// The result of parsing at a position of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A complete, valid frame.
    Valid(Frame<'a>),
    /// A valid header of a frame that needs this many bytes, more than are available.
    Short(usize),
    /// No frame.
    Invalid,
}

/// Rounds a length up to a multiple of [`ALIGN`].
pub const fn padded(length: usize) -> usize {
    (length + ALIGN - 1) & !(ALIGN - 1)
}

/// Appends a frame without its CRCs: [`seal`] adds them once the segment is known. `write_body`
/// appends the body.
pub fn encode(out: &mut Vec<u8>, kind: Kind, sequence: u64, write_body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&[kind as u8, 0, 0, 0, 0, 0, 0, 0]);
    write_body(out);
    let length = out.len() - start;
    debug_assert!(length <= FRAME_MAX);
    out[start + 4..start + 8].copy_from_slice(&(length as u32).to_le_bytes());
    out.resize(start + padded(length), 0);
}

/// The length of a frame made by [`encode`], without padding.
pub fn encoded_length(frame: &[u8]) -> usize {
    frame.get(4..8).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)
}

/// Adds the CRCs to the first frame of `frames`; returns the distance to the next frame.
pub fn seal(frames: &mut [u8], seed: u32, begins_commit: bool) -> usize {
    let length = encoded_length(frames);
    frames[17] = if begins_commit { FLAG_COMMIT } else { 0 };
    let body = crc32c::crc32c_append(seed, &frames[HEADER..length]);
    frames[..4].copy_from_slice(&body.to_le_bytes());
    let header = crc32c::crc32c_append(seed, &frames[..20]);
    frames[20..HEADER].copy_from_slice(&header.to_le_bytes());
    padded(length)
}

/// Parses the frame at the beginning of `bytes`.
pub fn parse(bytes: &[u8], seed: u32) -> Parsed<'_> {
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return if bytes.is_empty() { Parsed::Invalid } else { Parsed::Short(HEADER) };
    };
    let length = word(header, 4) as usize;
    if !(HEADER..=FRAME_MAX).contains(&length)
        || header[17] > FLAG_COMMIT
        || word(header, 20) != crc32c::crc32c_append(seed, &header[..20])
    {
        return Parsed::Invalid;
    }
    let Some(body) = bytes.get(HEADER..length) else {
        return Parsed::Short(length);
    };
    if word(header, 0) != crc32c::crc32c_append(seed, body) {
        return Parsed::Invalid;
    }
    let frame = fields_of(header, body);
    if frame.sequence > SEQUENCE_MAX { Parsed::Invalid } else { Parsed::Valid(frame) }
}

/// Parses a frame that [`parse`] has validated, without checking it again. `bytes` is the frame
/// without padding.
pub(super) fn trusted(bytes: &[u8]) -> Frame<'_> {
    match bytes.split_first_chunk::<HEADER>() {
        Some((header, body)) => fields_of(header, body),
        None => Frame { kind: Kind::Unknown, sequence: 0, begins_commit: false, body: &[] },
    }
}

fn fields_of<'a>(header: &[u8; HEADER], body: &'a [u8]) -> Frame<'a> {
    Frame {
        kind: Kind::from_byte(header[16]),
        sequence: u64::from(word(header, 8)) | u64::from(word(header, 12)) << 32,
        begins_commit: header[17] & FLAG_COMMIT != 0,
        body,
    }
}

fn word(header: &[u8; HEADER], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

/// Reads little-endian fields from the front of a body; `None` if it is too short.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }
    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|b| b[0])
    }
    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    pub(super) fn boot(&mut self) -> Option<[u8; 16]> {
        self.array()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(body: &[u8], seed: u32) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out, Kind::Reading, 7, |o| o.extend_from_slice(body));
        let step = seal(&mut out, seed, true);
        assert_eq!(step, out.len());
        out
    }

    #[test]
    fn a_frame_reads_back() {
        let bytes = sealed(b"hello", 99);
        assert_eq!(bytes.len(), 32);
        let frame = Frame { kind: Kind::Reading, sequence: 7, begins_commit: true, body: b"hello" };
        assert_eq!(parse(&bytes, 99), Parsed::Valid(frame));
        assert_eq!(frame.step(), 32);
    }

    #[test]
    fn a_frame_of_another_segment_is_none() {
        assert_eq!(parse(&sealed(b"hello", 99), 98), Parsed::Invalid);
    }

    #[test]
    fn every_flipped_bit_outside_the_padding_is_noticed() {
        let bytes = sealed(b"hello", 99);
        for bit in 0..29 * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&flipped, 99), Parsed::Invalid, "bit {bit}");
        }
    }

    #[test]
    fn a_cut_frame_says_what_it_needs() {
        let bytes = sealed(b"hello", 99);
        assert_eq!(parse(&bytes[..28], 99), Parsed::Short(29));
        assert_eq!(parse(&bytes[..8], 99), Parsed::Short(24));
        assert_eq!(parse(&[], 99), Parsed::Invalid);
    }
}
