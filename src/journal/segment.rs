//! The segment file: its layout, header and footer. docs/journal-format.md §2.

use super::frame::{self, Fields, SEQUENCE_MAX};
use crate::message::RecordId;

/// Bytes of the header block; frames begin after it.
pub const HEADER_BLOCK: u32 = 8192;
/// Bytes of the header itself.
pub const HEADER_SIZE: usize = 96;
/// Offset of the header's copy: in another page, so that one unreadable place does not affect both.
pub const HEADER_COPY: usize = 4096;
/// Smallest segment in bytes.
pub const SEGMENT_MIN: u32 = 65_536;
/// Largest segment in bytes.
pub const SEGMENT_MAX: u32 = 64 << 20;
/// Most runs in one segment; a further opening begins a new segment.
pub const RUNS_MAX: usize = 64;
/// Approximate distance of two marks of the index, in bytes.
pub const MARK_EVERY: u32 = 65_536;
/// The major format version that is written and read.
pub const MAJOR: u16 = 1;

const MAGIC: &[u8; 8] = b"TOMBJRNL";
const FREE: &[u8; 8] = b"TOMBFREE";
const SEALED: &[u8; 8] = b"TOMBSEAL";
const MINOR: u16 = 3;
const FOOTER_FIXED: u32 = 5_376;
const RUN_SIZE: usize = 32;
const MARK_SIZE: usize = 12;

/// The offsets of the parts of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The size of the file in bytes.
    pub size: u32,
    /// The end of the area for readings.
    pub records_limit: u32,
    /// The end of the area for frames, where the footer begins.
    pub frame_limit: u32,
}

impl Layout {
    /// The layout of a segment of `size` bytes; `None` if that is outside of
    /// [`SEGMENT_MIN`]`..=`[`SEGMENT_MAX`] or not a multiple of 4,096.
    pub fn new(size: u32) -> Option<Layout> {
        if !(SEGMENT_MIN..=SEGMENT_MAX).contains(&size) || !size.is_multiple_of(4096) {
            return None;
        }
        let footer = (FOOTER_FIXED + MARK_SIZE as u32 * (size / MARK_EVERY + 2)).next_multiple_of(4096);
        let control = if size < 1 << 20 { 8 << 10 } else { 16 << 10 };
        let frame_limit = size - footer;
        Some(Layout { size, records_limit: frame_limit - control, frame_limit })
    }

    /// Bytes for frames of readings in a segment without other frames.
    pub fn room(&self) -> u32 {
        self.records_limit - HEADER_BLOCK
    }
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// 0 and 1: [`Lane`](crate::message::Lane); 2: the rejected store.
    pub lane: u8,
    /// Bytes of the file; 0 in the rejected store.
    pub size: u32,
    /// Its number, ascending within its lane.
    pub number: u64,
    /// The run: random for each lane and opening.
    pub run: u64,
    /// Random for each segment, so that its seed cannot be guessed.
    pub salt: u64,
    /// Sequence of its first record, also if it has none yet.
    pub first_sequence: u64,
    /// The boot in which `run` began.
    pub boot: [u8; 16],
    /// All records up to this sequence were released when it was written.
    pub released: u64,
    /// From this sequence up to `first_sequence − 1`, records may never have been stored, because
    /// the end of the previous segment could not be read when this one was created. 0 = none.
    pub uncertain_from: u64,
}

/// The content of a header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderBlock {
    /// A segment; true if both copies of the header are valid.
    Valid(Header, bool),
    /// A spare or prepared file.
    Free,
    /// A format of another major version.
    OtherVersion(u16),
    /// Both copies are invalid.
    Damaged,
}

impl Header {
    /// The initial value of every CRC of this segment.
    pub fn seed(&self) -> u32 {
        crc32c::crc32c(&self.encode()[24..48])
    }

    fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut out = [0; HEADER_SIZE];
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&MAJOR.to_le_bytes());
        out[10..12].copy_from_slice(&MINOR.to_le_bytes());
        let prelude = crc32c::crc32c(&out[..12]);
        out[12..16].copy_from_slice(&prelude.to_le_bytes());
        out[16] = self.lane;
        out[20..24].copy_from_slice(&self.size.to_le_bytes());
        out[24..32].copy_from_slice(&self.number.to_le_bytes());
        out[32..40].copy_from_slice(&self.run.to_le_bytes());
        out[40..48].copy_from_slice(&self.salt.to_le_bytes());
        out[48..56].copy_from_slice(&self.first_sequence.to_le_bytes());
        out[56..72].copy_from_slice(&self.boot);
        out[72..80].copy_from_slice(&self.released.to_le_bytes());
        out[80..88].copy_from_slice(&self.uncertain_from.to_le_bytes());
        let all = crc32c::crc32c(&out[..92]);
        out[92..].copy_from_slice(&all.to_le_bytes());
        out
    }

    /// The header block, with both copies.
    pub fn encode_block(&self) -> Vec<u8> {
        let header = self.encode();
        let mut block = vec![0; HEADER_BLOCK as usize];
        block[..HEADER_SIZE].copy_from_slice(&header);
        block[HEADER_COPY..HEADER_COPY + HEADER_SIZE].copy_from_slice(&header);
        block
    }

    /// Parses a header block; bytes missing at its end count as damaged.
    pub fn parse_block(block: &[u8]) -> HeaderBlock {
        let copy = |at: usize| block.get(at..at + HEADER_SIZE).map_or(HeaderBlock::Damaged, parse_copy);
        match (copy(0), copy(HEADER_COPY)) {
            (HeaderBlock::Valid(first, _), second) => {
                HeaderBlock::Valid(first, second == HeaderBlock::Valid(first, true))
            }
            (_, HeaderBlock::Valid(second, _)) => HeaderBlock::Valid(second, false),
            (HeaderBlock::Damaged, second) => second,
            (first, _) => first,
        }
    }
}

fn parse_copy(bytes: &[u8]) -> HeaderBlock {
    read_copy(bytes).unwrap_or(HeaderBlock::Damaged)
}

fn read_copy(bytes: &[u8]) -> Option<HeaderBlock> {
    let mut fields = Fields(bytes);
    let magic = fields.bytes(8)?;
    if magic == FREE && bytes[8..].iter().all(|b| *b == 0) {
        return Some(HeaderBlock::Free);
    }
    let (major, _minor, prelude) = (fields.u16()?, fields.u16()?, fields.u32()?);
    if magic != MAGIC || prelude != crc32c::crc32c(&bytes[..12]) {
        return None;
    }
    if major != MAJOR {
        return Some(HeaderBlock::OtherVersion(major));
    }
    if bytes.get(92..96)? != crc32c::crc32c(&bytes[..92]).to_le_bytes() {
        return None;
    }
    let lane = fields.u8()?;
    fields.bytes(3)?;
    let header = Header {
        lane,
        size: fields.u32()?,
        number: fields.u64()?,
        run: fields.u64()?,
        salt: fields.u64()?,
        first_sequence: fields.u64()?,
        boot: fields.boot()?,
        released: fields.u64()?,
        uncertain_from: fields.u64()?,
    };
    let sound = header.released < header.first_sequence
        && header.uncertain_from <= header.first_sequence
        && header.number <= SEQUENCE_MAX
        && (1..=SEQUENCE_MAX).contains(&header.first_sequence);
    sound.then_some(HeaderBlock::Valid(header, true))
}

/// The header block of a file that is spare or prepared.
pub fn free_block() -> Vec<u8> {
    let mut block = vec![0; HEADER_BLOCK as usize];
    block[..8].copy_from_slice(FREE);
    block
}

/// A run: the records from `first_sequence` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first sequence of the run.
    pub first_sequence: u64,
    /// The run: random for each lane and opening.
    pub run: u64,
    /// The boot in which it began.
    pub boot: [u8; 16],
}

/// A position from which reading can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The sequence of the reading at this position.
    pub sequence: u64,
    /// Its frame's offset in the file.
    pub offset: u32,
}

/// A segment without its frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its number, from the header.
    pub number: u64,
    /// The initial value of its CRCs.
    pub seed: u32,
    /// Its layout.
    pub layout: Layout,
    /// Bytes that its file takes; without a readable header, those that the folder lists.
    pub file_bytes: u64,
    /// Sequence of its first record, also if it has none.
    pub first_sequence: u64,
    /// Sequence of the last; `first_sequence − 1` if there is none.
    pub last_sequence: u64,
    /// The end of its frames.
    pub end: u32,
    /// Its runs, the first one at or before `first_sequence`; never empty.
    pub runs: Vec<Run>,
    /// Positions from which reading can start, ascending.
    pub marks: Vec<Mark>,
    /// Records from this sequence on may never have been stored, because its end could not be read
    /// when the journal was opened. Those that a later reading does not find are not lost.
    pub uncertain_from: Option<u64>,
    /// Its header, or too much after it, could not be read: only `number`, `first_sequence` and
    /// `last_sequence` are known, from its neighbours. It must be opened before it can be read.
    pub unopened: bool,
}

impl Segment {
    /// A segment with this header and no records.
    pub fn new(header: &Header, layout: Layout) -> Segment {
        Segment {
            number: header.number,
            seed: header.seed(),
            layout,
            file_bytes: u64::from(layout.size),
            first_sequence: header.first_sequence,
            last_sequence: header.first_sequence.saturating_sub(1),
            end: HEADER_BLOCK,
            runs: vec![Run { first_sequence: header.first_sequence, run: header.run, boot: header.boot }],
            marks: Vec::new(),
            uncertain_from: None,
            unopened: false,
        }
    }

    /// A file that cannot be read now and contains at most these records.
    pub fn unopened(
        number: u64,
        layout: Layout,
        file_bytes: u64,
        first_sequence: u64,
        last_sequence: u64,
        run: Run,
    ) -> Segment {
        Segment {
            number,
            seed: 0,
            layout,
            file_bytes,
            first_sequence,
            last_sequence,
            end: HEADER_BLOCK,
            runs: vec![run],
            marks: Vec::new(),
            uncertain_from: None,
            unopened: true,
        }
    }

    /// The part of `first..=last` that may never have been stored in it, if any.
    pub fn uncertain(&self, first: u64, last: u64) -> Option<(u64, u64)> {
        let from = self.uncertain_from?.max(first);
        let to = self.last_sequence.min(last);
        (from <= to).then_some((from, to))
    }

    /// The run a record belongs to.
    pub fn run_of(&self, sequence: u64) -> Run {
        let after = self.runs.partition_point(|run| run.first_sequence <= sequence);
        self.runs[after.saturating_sub(1)]
    }

    /// The offset at which to start reading for `sequence`.
    pub fn seek(&self, sequence: u64) -> u32 {
        match self.marks.partition_point(|mark| mark.sequence <= sequence) {
            0 => HEADER_BLOCK,
            after => self.marks[after - 1].offset,
        }
    }

    /// Adds a mark for a written reading if the last mark is far enough away.
    pub fn note(&mut self, sequence: u64, offset: u32) {
        if self.marks.last().is_none_or(|mark| offset >= mark.offset + MARK_EVERY) {
            self.marks.push(Mark { sequence, offset });
        }
        self.last_sequence = sequence;
    }

    /// The file's name.
    pub fn name(&self) -> String {
        segment_name(self.number)
    }

    /// Encodes the footer; `checkpoint` is the lane's control state (`released`, then the body of a
    /// Checkpoint).
    pub fn encode_footer(&self, checkpoint: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity((self.layout.size - self.layout.frame_limit) as usize);
        out.extend_from_slice(SEALED);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.first_sequence.to_le_bytes());
        out.extend_from_slice(&self.last_sequence.to_le_bytes());
        out.extend_from_slice(&self.end.to_le_bytes());
        out.extend_from_slice(&(self.runs.len() as u16).to_le_bytes());
        out.extend_from_slice(&(self.marks.len() as u16).to_le_bytes());
        out.extend_from_slice(&(checkpoint.len() as u16).to_le_bytes());
        out.extend_from_slice(&[0; 6]);
        for run in &self.runs {
            out.extend_from_slice(&run.first_sequence.to_le_bytes());
            out.extend_from_slice(&run.run.to_le_bytes());
            out.extend_from_slice(&run.boot);
        }
        for mark in &self.marks {
            out.extend_from_slice(&mark.sequence.to_le_bytes());
            out.extend_from_slice(&mark.offset.to_le_bytes());
        }
        out.extend_from_slice(checkpoint);
        let crc = crc32c::crc32c_append(self.seed, &out);
        out.extend_from_slice(&crc.to_le_bytes());
        debug_assert!(out.len() as u32 <= self.layout.size - self.layout.frame_limit);
        out
    }

    /// Parses the footer at the frame limit: the segment and the checkpoint; `None` if it is
    /// invalid.
    pub fn parse_footer<'a>(
        header: &Header,
        layout: Layout,
        footer: &'a [u8],
    ) -> Option<(Segment, &'a [u8])> {
        let mut segment = Segment::new(header, layout);
        let mut fields = Fields(footer);
        if fields.bytes(8)? != SEALED
            || fields.u64()? != header.number
            || fields.u64()? != header.first_sequence
        {
            return None;
        }
        segment.last_sequence = fields.u64()?;
        segment.end = fields.u32()?;
        let (runs, marks, checkpoint) = (fields.u16()?, fields.u16()?, fields.u16()?);
        fields.bytes(6)?;
        let before = footer.len() - fields.0.len();
        let length =
            before + usize::from(runs) * RUN_SIZE + usize::from(marks) * MARK_SIZE + usize::from(checkpoint);
        if footer.get(length..length + 4)?
            != crc32c::crc32c_append(segment.seed, &footer[..length]).to_le_bytes()
        {
            return None;
        }
        segment.runs.clear();
        for _ in 0..runs {
            segment.runs.push(Run {
                first_sequence: fields.u64()?,
                run: fields.u64()?,
                boot: fields.boot()?,
            });
        }
        for _ in 0..marks {
            segment.marks.push(Mark { sequence: fields.u64()?, offset: fields.u32()? });
        }
        let sound = !segment.runs.is_empty()
            && segment.last_sequence <= SEQUENCE_MAX
            && segment.last_sequence + 1 >= segment.first_sequence
            && (HEADER_BLOCK..=layout.frame_limit).contains(&segment.end)
            && segment.marks.iter().all(|mark| {
                (HEADER_BLOCK..segment.end).contains(&mark.offset)
                    && (mark.offset as usize).is_multiple_of(frame::ALIGN)
            });
        sound.then_some((segment, fields.bytes(usize::from(checkpoint))?))
    }
}

/// Splits `first..=last` at the boundaries of runs. `segments` are those of the lane, in order.
pub(super) fn pieces<'s>(
    segments: impl Iterator<Item = &'s Segment>,
    first: u64,
    last: u64,
) -> Vec<(RecordId, RecordId)> {
    let mut pieces: Vec<(RecordId, RecordId)> = Vec::new();
    let mut run = 0;
    let mut from = first;
    for start in segments.flat_map(|segment| &segment.runs) {
        if start.first_sequence > last {
            break;
        }
        if start.first_sequence > from && start.run != run && from <= last {
            pieces.push((
                RecordId { run, sequence: from },
                RecordId { run, sequence: start.first_sequence - 1 },
            ));
            from = start.first_sequence;
        }
        run = start.run;
    }
    if from <= last {
        pieces.push((RecordId { run, sequence: from }, RecordId { run, sequence: last }));
    }
    pieces
}

/// The file name of the segment with this number.
pub fn segment_name(number: u64) -> String {
    format!("{number:016x}.seg")
}

/// The number in a name of the form `{16 hex digits}.{extension}`; `None` for any other name.
pub fn parse_name(name: &str, extension: &str) -> Option<u64> {
    let digits = name.strip_suffix(extension)?.strip_suffix('.')?;
    let hex = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    hex.then(|| u64::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            lane: 1,
            size: 65_536,
            number: 3,
            run: 4,
            salt: 5,
            first_sequence: 6,
            boot: [7; 16],
            released: 5,
            uncertain_from: 0,
        }
    }

    #[test]
    fn a_header_reads_back_from_either_copy() {
        let block = header().encode_block();
        assert_eq!(Header::parse_block(&block), HeaderBlock::Valid(header(), true));
        for at in [0, HEADER_COPY] {
            let mut damaged = block.clone();
            damaged[at + 30] ^= 1;
            assert_eq!(Header::parse_block(&damaged), HeaderBlock::Valid(header(), false));
        }
        let mut damaged = block;
        damaged[30] ^= 1;
        damaged[HEADER_COPY + 30] ^= 1;
        assert_eq!(Header::parse_block(&damaged), HeaderBlock::Damaged);
    }

    #[test]
    fn another_major_version_is_told_from_damage() {
        let mut block = header().encode_block();
        for at in [0, HEADER_COPY] {
            block[at + 8] = 2;
        }
        assert_eq!(Header::parse_block(&block), HeaderBlock::Damaged);
        for at in [0, HEADER_COPY] {
            let prelude = crc32c::crc32c(&block[at..at + 12]);
            block[at + 12..at + 16].copy_from_slice(&prelude.to_le_bytes());
        }
        assert_eq!(Header::parse_block(&block), HeaderBlock::OtherVersion(2));
        assert_eq!(Header::parse_block(&free_block()), HeaderBlock::Free);
        assert_eq!(Header::parse_block(&[]), HeaderBlock::Damaged);
        assert_eq!(Header::parse_block(&[0; 4096]), HeaderBlock::Damaged);
    }

    #[test]
    fn a_footer_reads_back_and_fits_in_its_room() {
        for size in [SEGMENT_MIN, 4 << 20, SEGMENT_MAX] {
            let layout = Layout::new(size).unwrap();
            let mut segment = Segment::new(&header(), layout);
            for extra in 1..RUNS_MAX as u64 {
                segment.runs.push(Run { first_sequence: 6 + extra, run: extra, boot: [1; 16] });
            }
            let mut offset = HEADER_BLOCK;
            let mut sequence = 6;
            while offset < layout.records_limit {
                segment.note(sequence, offset);
                offset += 104;
                sequence += 1;
            }
            segment.end = offset;
            let checkpoint = vec![9; 8 + 58 + 64 * 50];
            let footer = segment.encode_footer(&checkpoint);
            assert!(footer.len() as u32 <= size - layout.frame_limit);
            assert_eq!(Segment::parse_footer(&header(), layout, &footer), Some((segment, &checkpoint[..])));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_footer_is_noticed() {
        let layout = Layout::new(SEGMENT_MIN).unwrap();
        let mut segment = Segment::new(&header(), layout);
        segment.note(6, HEADER_BLOCK);
        segment.end = HEADER_BLOCK + 64;
        let footer = segment.encode_footer(&[1, 2, 3]);
        for bit in 0..footer.len() * 8 {
            let mut flipped = footer.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Segment::parse_footer(&header(), layout, &flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn a_range_is_cut_where_the_run_changes() {
        let layout = Layout::new(SEGMENT_MIN).unwrap();
        let mut one = Segment::new(&Header { first_sequence: 6, run: 1, ..header() }, layout);
        one.runs.push(Run { first_sequence: 8, run: 2, boot: [0; 16] });
        let two = Segment::new(&Header { first_sequence: 10, run: 2, ..header() }, layout);
        let cut = |first, last| -> Vec<_> {
            let pieces = pieces([&one, &two].into_iter(), first, last);
            pieces.iter().map(|(a, b)| (a.run, a.sequence, b.sequence)).collect()
        };
        assert_eq!(cut(6, 12), [(1, 6, 7), (2, 8, 12)]);
        assert_eq!(cut(7, 7), [(1, 7, 7)]);
        assert_eq!(cut(8, 9), [(2, 8, 9)]);
        assert_eq!(cut(5, 4), []);
    }

    #[test]
    fn names_carry_the_number() {
        assert_eq!(segment_name(12), "000000000000000c.seg");
        assert_eq!(parse_name("000000000000000c.seg", "seg"), Some(12));
        for other in ["c.seg", "000000000000000C.seg", "000000000000000c.seg.bak", "+00000000000000c.seg"] {
            assert_eq!(parse_name(other, "seg"), None, "{other}");
        }
    }
}
