//! Finds every whole frame of a segment, through damage, and says which records are not among them.
//! docs/journal-format.md §7, rules 2 to 4.

use super::frame::{self, Frame, HEADER, Kind, Parsed, SEQUENCE_MAX};
use super::loss::Control;
use super::segment::{HEADER_BLOCK, Header, Layout, RUNS_MAX, Run, Segment};
use super::storage::{StorageError, StoredFile};
use crate::message::Lane;

const BUFFER: usize = 256 * 1024;
/// What a disk gives or does not give at once.
const PAGE: u32 = 4096;
/// So many pages of a segment may be unreadable at an opening, which is not to wait long for a bad
/// disk. With more the segment counts as not opened, and is opened later, beside the path.
pub const BAD_PAGES: u32 = 8;
/// What a place that cannot be read is called.
const EIO: i32 = 5;
/// Most control frames kept whose Checkpoint was not found.
const LOOSE_MAX: usize = 4096;

/// Reads `length` bytes from `offset` on into `out`, less at the end of the file.
///
/// # Errors
/// As the storage says; `out` is empty then.
pub fn read_region(
    file: &impl StoredFile,
    offset: u32,
    length: usize,
    out: &mut Vec<u8>,
) -> Result<(), StorageError> {
    out.clear();
    out.resize(length, 0);
    match file.read_at(u64::from(offset), out) {
        Ok(read) => {
            out.truncate(read);
            Ok(())
        }
        Err(error) => {
            out.clear();
            Err(error)
        }
    }
}

/// Places of a file that the disk does not give, as offsets in it: from, to.
pub type Holes = Vec<(u32, u32)>;

/// Reads as [`read_region`], page by page where the disk does not give all of it: zeros stand for
/// the pages it does not give, and `holes` gets their places.
///
/// # Errors
/// There are more than `pages_max` such pages: not a bad place but a disk, or a file, that cannot
/// be read.
fn read_around(
    file: &impl StoredFile,
    offset: u32,
    length: usize,
    out: &mut Vec<u8>,
    holes: &mut Holes,
    pages_max: &mut u32,
) -> Result<(), StorageError> {
    if read_region(file, offset, length, out).is_ok() {
        return Ok(());
    }
    out.resize(length, 0);
    let mut at = 0;
    while at < length {
        let begin = offset + at as u32;
        let page_end = (begin / PAGE + 1) * PAGE;
        let end = length.min((page_end - offset) as usize);
        match file.read_at(u64::from(begin), &mut out[at..end]) {
            Ok(read) if read < end - at => {
                out.truncate(at + read);
                return Ok(());
            }
            Ok(_) => {}
            Err(error) => {
                *pages_max = pages_max.checked_sub(1).ok_or(error)?;
                out[at..end].fill(0);
                note_hole(holes, begin, offset + end as u32);
            }
        }
        at = end;
    }
    Ok(())
}

fn note_hole(holes: &mut Holes, from: u32, to: u32) {
    match holes.last_mut() {
        Some((begin, end)) if (*begin..=*end).contains(&from) => *end = to.max(*end),
        _ => holes.push((from, to)),
    }
}

/// Yields the valid frames of a file region in order, whatever lies between them.
pub struct Scanner<'f, F> {
    file: &'f F,
    seed: u32,
    at: u32,
    limit: u32,
    base: u32,
    buffer: Vec<u8>,
    holes: Holes,
    /// Pages the disk may still not give.
    pages_max: u32,
    failed: Option<StorageError>,
    cut: bool,
}

impl<'f, F: StoredFile> Scanner<'f, F> {
    /// From `from` (a multiple of 8) up to `limit`. After more than `pages_max` pages that the disk
    /// does not give it ends with [`Scanner::failed`].
    pub fn new(file: &'f F, seed: u32, from: u32, limit: u32, pages_max: u32) -> Self {
        Scanner {
            file,
            seed,
            at: from,
            limit,
            base: from,
            buffer: Vec::new(),
            holes: Vec::new(),
            pages_max,
            failed: None,
            cut: false,
        }
    }

    /// The next valid frame and its offset; `None` at the limit, at the end of the file, and where
    /// it failed.
    pub fn next_frame(&mut self) -> Option<(u32, Frame<'_>)> {
        let (offset, length) = loop {
            if self.limit.saturating_sub(self.at) < HEADER as u32 {
                return None;
            }
            self.fill();
            let place = self.buffer.get((self.at - self.base) as usize..).unwrap_or_default();
            let offset = self.at;
            match frame::parse(place, self.seed) {
                Parsed::Valid(found) => {
                    self.at += found.step() as u32;
                    break (offset, HEADER + found.body.len());
                }
                Parsed::Short(_) | Parsed::Invalid => self.at += frame::ALIGN as u32,
            }
        };
        let bytes = &self.buffer[(offset - self.base) as usize..][..length];
        Some((offset, frame::trusted(bytes)))
    }

    /// Why it ended before the limit, if the disk gave too little.
    pub fn failed(&self) -> Option<StorageError> {
        self.failed
    }

    /// Whether the file ends before the limit.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// Whether the disk did not give all that lies in `from..to`.
    pub fn has_hole(&self, from: u32, to: u32) -> bool {
        self.holes.iter().any(|(begin, end)| *begin < to && *end > from)
    }

    fn fill(&mut self) {
        let end = self.base + self.buffer.len() as u32;
        let ahead = end.saturating_sub(self.at) as usize;
        if ahead >= frame::FRAME_MAX || (end >= self.limit && self.at < end) {
            return;
        }
        let wanted = BUFFER.min((self.limit - self.at) as usize);
        let read =
            read_around(self.file, self.at, wanted, &mut self.buffer, &mut self.holes, &mut self.pages_max);
        self.base = self.at;
        if let Err(error) = read {
            self.failed = Some(error);
            self.buffer.clear();
        } else {
            self.cut |= self.buffer.len() < wanted;
        }
        if self.buffer.len() < wanted {
            self.limit = self.base + self.buffer.len() as u32;
        }
    }
}

/// Records that should be between others and are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first missing.
    pub first: u64,
    /// The last missing.
    pub last: u64,
    /// Whether a later commit exists in this segment, so that this one was acknowledged.
    pub acknowledged: bool,
    /// Whether the disk did not give all that lies between: what is missing may be there.
    pub unread: bool,
}

/// What a scan found.
#[derive(Debug)]
pub struct Scan {
    /// The segment with all that its frames say.
    pub segment: Segment,
    /// What is missing before `segment.last_sequence + 1` or before the next sequence named.
    pub gaps: Vec<Gap>,
    /// The control state, if the Checkpoint it begins with was found.
    pub control: Option<Control>,
    /// The highest trim seen.
    pub released: u64,
    /// The next sequence.
    pub next_sequence: u64,
    /// Whether anything behind the header was ever written.
    pub any: bool,
    /// Whether the disk gave all of it.
    pub readable: bool,
    /// Whether the disk did not give all that lies behind the last frame that tells a sequence:
    /// there may be readings.
    pub unread_end: bool,
    /// Whether the file is shorter than it was made.
    pub cut: bool,
    /// Readings found.
    pub records: u64,
    loose: Vec<(Kind, u64, Vec<u8>)>,
}

impl Scan {
    /// The control state, given the one before this segment.
    pub fn control_after(&self, before: Control) -> Control {
        let mut control = before;
        for (kind, sequence, body) in &self.loose {
            apply(&mut control, *kind, *sequence, body);
        }
        control.released = control.released.max(self.released);
        control
    }
}

/// Scans a segment. Readings from `successor` on, the first sequence of the segment after it, do
/// not count.
///
/// # Errors
/// The disk does not give more than `pages_max` pages of it.
pub fn scan_segment<F: StoredFile>(
    file: &F,
    lane: Lane,
    header: &Header,
    layout: Layout,
    successor: Option<u64>,
    pages_max: u32,
) -> Result<Scan, StorageError> {
    let mut scan = Scan {
        segment: Segment::new(header, layout),
        gaps: Vec::new(),
        control: None,
        released: 0,
        next_sequence: header.first_sequence,
        any: false,
        readable: true,
        unread_end: false,
        cut: false,
        records: 0,
        loose: Vec::new(),
    };
    // A Checkpoint's body names a sequence of its own; no sequence is beyond the range of all.
    let limit = successor.unwrap_or(SEQUENCE_MAX);
    // A gap was found before this many commits had begun.
    let mut found_at = Vec::new();
    let mut commits = 0;
    let mut scanner = Scanner::new(file, header.seed(), HEADER_BLOCK, layout.frame_limit, pages_max);
    // Where the last frame that tells the sequence ended: what is missing from there on lies behind
    // it, and perhaps before a Trim or a Loss, which tell none. Gaps with the places they lie
    // between.
    let mut told = HEADER_BLOCK;
    let mut places = Vec::new();
    // Where the last frame ended.
    let mut end = HEADER_BLOCK;
    while let Some((offset, frame)) = scanner.next_frame() {
        let named = match frame.kind {
            Kind::Reading | Kind::Opening => Some(frame.sequence),
            Kind::Checkpoint => super::frame::Fields(frame.body).u64(),
            _ => None,
        };
        if frame.kind == Kind::Reading && (frame.sequence >= limit || frame.sequence < scan.next_sequence) {
            continue;
        }
        scan.any = true;
        if let Some(named) = named.filter(|named| *named > scan.next_sequence && *named <= limit) {
            scan.gaps.push(Gap {
                first: scan.next_sequence,
                last: named - 1,
                acknowledged: false,
                unread: false,
            });
            places.push((told, offset));
            found_at.push(commits);
            scan.next_sequence = named;
            scan.segment.last_sequence = named - 1;
        }
        commits += u32::from(frame.begins_commit);
        end = offset + frame.step() as u32;
        scan.segment.end = end;
        if frame.kind == Kind::Reading || named == Some(scan.next_sequence) {
            told = end;
        }
        match frame.kind {
            Kind::Reading => {
                scan.segment.note(frame.sequence, offset);
                scan.records += 1;
                scan.next_sequence = frame.sequence + 1;
            }
            Kind::Opening => note_run(&mut scan, frame),
            Kind::Checkpoint => {
                scan.released = scan.released.max(frame.sequence);
                if let Some((control, _)) = Control::decode(lane, frame.sequence, frame.body) {
                    scan.control = Some(control);
                    scan.loose.clear();
                }
            }
            Kind::Trim | Kind::Loss => {
                if frame.kind == Kind::Trim {
                    scan.released = scan.released.max(frame.sequence);
                }
                if let Some(control) = &mut scan.control {
                    apply(control, frame.kind, frame.sequence, frame.body);
                } else if scan.loose.len() < LOOSE_MAX {
                    scan.loose.push((frame.kind, frame.sequence, frame.body.to_vec()));
                }
            }
            Kind::Rejected | Kind::Removed | Kind::Unknown => {}
        }
    }
    if let Some(error) = scanner.failed() {
        return Err(error);
    }
    scan.readable = scanner.holes.is_empty();
    scan.unread_end = scanner.has_hole(told, layout.frame_limit);
    scan.cut = scanner.is_cut();
    for ((gap, at), (from, to)) in scan.gaps.iter_mut().zip(found_at).zip(places) {
        // A commit may begin where the disk gives nothing: what may be a loss counts as one.
        gap.acknowledged = commits > at || scanner.has_hole(to, end);
        gap.unread = scanner.has_hole(from, to);
    }
    Ok(scan)
}

fn note_run(scan: &mut Scan, frame: Frame<'_>) {
    let mut fields = frame::Fields(frame.body);
    let (Some(run), Some(boot)) = (fields.u64(), fields.boot()) else {
        return;
    };
    let run = Run { first_sequence: frame.sequence, run, boot };
    let runs = &mut scan.segment.runs;
    let full = runs.len() >= RUNS_MAX;
    match runs.last_mut() {
        Some(last) if last.first_sequence >= run.first_sequence => *last = run,
        _ if !full => runs.push(run),
        _ => {}
    }
}

fn apply(control: &mut Control, kind: Kind, sequence: u64, body: &[u8]) {
    match kind {
        Kind::Trim => control.released = control.released.max(sequence),
        Kind::Loss => control.apply_loss(body),
        _ => {}
    }
}

/// Finds one reading of a segment; `None` if the disk gave all of it and it is not there: perhaps
/// damaged, perhaps read wrongly.
///
/// # Errors
/// The disk does not give the place where it is.
pub fn find_reading<F: StoredFile>(
    file: &F,
    segment: &Segment,
    sequence: u64,
) -> Result<Option<Vec<u8>>, StorageError> {
    // What cannot be read beside it does not matter.
    let mut scanner = Scanner::new(file, segment.seed, segment.seek(sequence), segment.end, u32::MAX);
    while let Some((_, frame)) = scanner.next_frame() {
        if frame.kind == Kind::Reading {
            if frame.sequence == sequence {
                return Ok(Some(frame.body.to_vec()));
            }
            if frame.sequence > sequence {
                break;
            }
        }
    }
    match scanner.failed() {
        Some(error) => Err(error),
        // It may be where the disk gave nothing.
        None if !scanner.holes.is_empty() => Err(StorageError::Other(EIO)),
        None => Ok(None),
    }
}
