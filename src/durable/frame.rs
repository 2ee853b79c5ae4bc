//! Frames of an [append log](super::append_log): their bytes, and how they are found again behind
//! damage. All integers are little-endian; CRC means CRC-32C (Castagnoli).
//!
//! A log begins with 16 bytes: magic 4 | major 1, minor 1 | unused 2 | CRC of bytes 0–7 | unused 4.
//! Then frames, one after the other:
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 4 | marker |
//! | 4 | 1 | kind, of the log's owner |
//! | 5 | 1 | unused |
//! | 6 | 2 | length of the content |
//! | 8 | 8 | number, of the log's owner |
//! | 16 | 4 | epoch, of the log's owner |
//! | 20 | 4 | CRC of bytes 0–19 and of the content |
//! | 24 | | content |
//!
//! Zeros may follow the last frame. Where no frame is valid, the next valid one is searched for,
//! byte by byte. The content is the owner's, so what a peer can put into it could look like a
//! frame: a log whose content is not sealed or checked by its owner must not be read behind damage
//! as if it were the gateway's own word. The journal, which stores what devices send, has frames of
//! its own for that reason (see the [module](super)).

/// Bytes in front of the first frame.
pub const HEADER: usize = 16;
/// Bytes in front of a frame's content.
pub const HEAD: usize = 24;
/// After so many places that have a marker and do not fit, the rest is given up: so nobody's file
/// takes long.
const MISFITS_MAX: usize = 65_536;

/// How the frames of one kind of log are told from anything else.
#[derive(Clone, Copy, Debug)]
pub struct FrameFormat {
    /// The first bytes of the file.
    pub magic: [u8; 4],
    /// The first bytes of each frame.
    pub marker: [u8; 4],
    /// A log of another major version is not read.
    pub major: u8,
    /// Of a later minor version kinds are skipped that are not known.
    pub minor: u8,
    /// Most bytes of content in a frame, `0..=65,535`.
    pub content_max: usize,
    /// Whether a frame of that kind may have content of that length.
    pub fits: fn(kind: u8, length: usize) -> bool,
}

/// A frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it says.
    pub kind: u8,
    /// Of what.
    pub number: u64,
    /// When, as the owner counts: runs of a process, generations.
    pub epoch: u32,
    /// At most [`FrameFormat::content_max`] bytes.
    pub content: &'a [u8],
}

impl Frame<'_> {
    /// Bytes it takes.
    pub fn size(&self) -> usize {
        HEAD + self.content.len()
    }
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

impl FrameFormat {
    /// The first bytes of a log.
    pub fn header(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..4].copy_from_slice(&self.magic);
        out[4..6].copy_from_slice(&[self.major, self.minor]);
        let crc = crc32c::crc32c(&out[..8]);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads them.
    pub fn parse_header(&self, bytes: &[u8]) -> Header {
        match bytes.first_chunk::<HEADER>() {
            Some(bytes)
                if bytes[..4] == self.magic && bytes[8..12] == crc32c::crc32c(&bytes[..8]).to_le_bytes() =>
            {
                if bytes[4] == self.major {
                    Header::Known
                } else {
                    Header::OtherVersion(bytes[4])
                }
            }
            _ => Header::Damaged,
        }
    }

    /// Appends a frame to `out`. Its content must not be longer than [`FrameFormat::content_max`].
    pub fn encode(&self, frame: &Frame<'_>, out: &mut Vec<u8>) {
        debug_assert!(frame.content.len() <= self.content_max);
        let start = out.len();
        out.extend(self.marker);
        out.extend([frame.kind, 0]);
        out.extend((frame.content.len() as u16).to_le_bytes());
        out.extend(frame.number.to_le_bytes());
        out.extend(frame.epoch.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out[start..]), frame.content);
        out.extend(crc.to_le_bytes());
        out.extend(frame.content);
    }

    /// The frame that begins with `bytes`, whole and sound.
    pub fn parse<'a>(&self, bytes: &'a [u8]) -> Option<Frame<'a>> {
        let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
        if head[..4] != self.marker {
            return None;
        }
        let length = usize::from(u16::from_le_bytes([head[6], head[7]]));
        let content = rest.get(..length).filter(|content| content.len() <= self.content_max)?;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head[..20]), content);
        if head[20..] != crc.to_le_bytes() || !(self.fits)(head[4], length) {
            return None;
        }
        let number = u64::from_le_bytes(*head[8..].first_chunk()?);
        let epoch = u32::from_le_bytes(*head[16..].first_chunk()?);
        Some(Frame { kind: head[4], number, epoch, content })
    }

    /// All sound frames of a whole log, header included.
    pub fn frames<'a>(&self, bytes: &'a [u8]) -> Frames<'a> {
        Frames { format: *self, bytes, at: HEADER.min(bytes.len()), misfits: 0, damaged: 0 }
    }
}

/// Goes through all sound frames of a log.
pub struct Frames<'a> {
    format: FrameFormat,
    bytes: &'a [u8],
    at: usize,
    misfits: usize,
    /// Bytes that were skipped, but for the zeros behind them.
    pub damaged: usize,
}

impl Frames<'_> {
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
            if let Some(frame) = self.format.parse(&bytes[at..]) {
                self.skip_to(at);
                self.at += frame.size();
                return Some((at, frame));
            }
            self.misfits += usize::from(bytes[at..].starts_with(&self.format.marker));
            // The next place a marker may begin at.
            let next = bytes[at + 1..].iter().position(|byte| *byte == self.format.marker[0]);
            at = next.map_or(bytes.len(), |next| at + 1 + next);
        }
        self.skip_to(bytes.len());
        None
    }
}
