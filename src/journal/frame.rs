//! Frames: what a segment is a sequence of. docs/journal-format.md §2.2.
//!
//! Both CRCs of a frame begin with its segment's seed, so neither a leftover of the file's former
//! life nor bytes a device chose for its payload are taken for a frame. The header has a CRC of its
//! own: a scan over damaged bytes spends 20 bytes of CRC at each place, whatever length those bytes
//! pretend.

/// Size of a frame's header in bytes.
pub const HEADER: usize = 24;
/// Longest frame in bytes, padding left out.
pub const FRAME_MAX: usize = 73_728;
/// Frames begin at multiples of this.
pub const ALIGN: usize = 8;
/// No sequence or number is higher: arithmetic on them cannot overflow.
pub const SEQUENCE_MAX: u64 = 1 << 62;
/// Flag: the first frame of a commit.
pub const FLAG_COMMIT: u8 = 1;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A stored reading.
    Reading = 1,
    /// All up to this sequence have left.
    Trim = 2,
    /// Another run begins within a segment.
    Opening = 3,
    /// Records were lost.
    Loss = 4,
    /// The lane's whole control state.
    Checkpoint = 5,
    /// A record in the rejected store.
    Rejected = 6,
    /// It is no longer there.
    Removed = 7,
    /// A later minor version's; skipped.
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

/// A frame whose CRCs fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: Kind,
    /// Meaning by kind.
    pub sequence: u64,
    /// Whether a commit begins with it.
    pub begins_commit: bool,
    /// Meaning by kind.
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// How far behind its first byte the next frame begins.
    pub fn step(&self) -> usize {
        padded(HEADER + self.body.len())
    }
}

/// What stands at a place in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A whole, undamaged frame.
    Valid(Frame<'a>),
    /// A header that fits, of a frame that needs so many bytes, more than there are.
    Short(usize),
    /// No frame.
    Invalid,
}

/// Rounds a length up to the next place where a frame may begin.
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

/// The length a frame made by [`encode`] says it has, padding left out.
pub fn encoded_length(frame: &[u8]) -> usize {
    frame.get(4..8).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)
}

/// Completes the frame at the beginning of `frames`; returns how far behind it the next begins.
pub fn seal(frames: &mut [u8], seed: u32, begins_commit: bool) -> usize {
    let length = encoded_length(frames);
    frames[17] = if begins_commit { FLAG_COMMIT } else { 0 };
    let body = crc32c::crc32c_append(seed, &frames[HEADER..length]);
    frames[..4].copy_from_slice(&body.to_le_bytes());
    let header = crc32c::crc32c_append(seed, &frames[..20]);
    frames[20..HEADER].copy_from_slice(&header.to_le_bytes());
    padded(length)
}

/// Reads the frame that begins with `bytes`.
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

/// Reads a frame that [`parse`] found valid, without checking it again. `bytes` is the frame
/// without its padding.
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

/// Takes little-endian fields off the front of a body; `None` where it is too short.
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
