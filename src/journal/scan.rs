//! Finds every valid frame of a segment, also after damaged places, and reports the missing
//! records. docs/journal-format.md §7, rules 2 to 4.

use super::frame::{self, Frame, HEADER, Kind, Parsed, SEQUENCE_MAX};
use super::loss::Control;
use super::segment::{HEADER_BLOCK, Header, Layout, RUNS_MAX, Run, Segment};
use super::storage::{StorageError, StoredFile};
use crate::message::Lane;

const BUFFER: usize = 256 * 1024;
/// The unit that a disk reads or fails to read, in bytes.
const PAGE: u32 = 4096;
/// Most unreadable pages of a segment at an opening, which must not wait long for a failing disk.
/// With more, the segment counts as unopened and is opened later by a reading thread.
pub const BAD_PAGES: u32 = 8;
/// What a place that cannot be read is called.
const EIO: i32 = 5;
/// Most control frames kept without their Checkpoint.
const LOOSE_MAX: usize = 4096;

/// Reads `length` bytes from `offset` on into `out`, less at the end of the file.
///
/// # Errors
/// The error of the storage; `out` is then empty.
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

/// Unreadable places of a file, as offsets: from, to.
pub type Holes = Vec<(u32, u32)>;

/// Reads as [`read_region`], and page by page after an error: unreadable pages are replaced by
/// zeros and added to `holes`.
///
/// # Errors
/// More than `pages_max` pages are unreadable, so the disk or file has failed, not just one place.
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

/// Yields the valid frames of a file region in order, and skips invalid bytes between them.
pub struct Scanner<'f, F> {
    file: &'f F,
    seed: u32,
    at: u32,
    limit: u32,
    base: u32,
    buffer: Vec<u8>,
    holes: Holes,
    /// Unreadable pages that are still allowed.
    pages_max: u32,
    failed: Option<StorageError>,
    cut: bool,
}

impl<'f, F: StoredFile> Scanner<'f, F> {
    /// Scans from `from` (a multiple of 8) up to `limit`. After more than `pages_max` unreadable
    /// pages it ends with [`Scanner::failed`].
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

    /// The next valid frame and its offset; `None` at the limit, at the end of the file, and after
    /// a failure.
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

    /// The read error that ended the scan before the limit, if any.
    pub fn failed(&self) -> Option<StorageError> {
        self.failed
    }

    /// Whether the file ends before the limit.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// Whether any part of `from..to` was unreadable.
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

/// Missing records between others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first missing sequence.
    pub first: u64,
    /// The last missing sequence.
    pub last: u64,
    /// Whether a later commit exists in this segment, so that this one was acknowledged.
    pub acknowledged: bool,
    /// Whether a part of the gap was unreadable, so that the records may exist.
    pub unread: bool,
}

/// What a scan found.
#[derive(Debug)]
pub struct Scan {
    /// The segment as described by its frames.
    pub segment: Segment,
    /// The gaps before `segment.last_sequence + 1` or before the next sequence named.
    pub gaps: Vec<Gap>,
    /// The control state, if its Checkpoint was found.
    pub control: Option<Control>,
    /// The highest trim seen.
    pub released: u64,
    /// The next sequence.
    pub next_sequence: u64,
    /// Whether any frame was found.
    pub any: bool,
    /// Whether all of it could be read.
    pub readable: bool,
    /// Whether a part after the last frame was unreadable.
    pub unread_end: bool,
    /// Whether the file is shorter than its configured size.
    pub cut: bool,
    /// The number of readings found.
    pub records: u64,
    loose: Vec<(Kind, u64, Vec<u8>)>,
}

impl Scan {
    /// The control state after this segment, given the one before it.
    pub fn control_after(&self, before: Control) -> Control {
        let mut control = before;
        for (kind, sequence, body) in &self.loose {
            apply(&mut control, *kind, *sequence, body);
        }
        control.released = control.released.max(self.released);
        control
    }
}

/// Scans a segment. Readings from `successor` on, the first sequence of the next segment, are
/// ignored.
///
/// # Errors
/// More than `pages_max` of its pages are unreadable.
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
    // The body of a Checkpoint has a sequence too; no sequence may exceed the limit.
    let limit = successor.unwrap_or(SEQUENCE_MAX);
    // For each gap, the number of commits that had begun before it.
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

/// Finds one reading of a segment; `None` if all of it could be read and the reading is not there:
/// it may be damaged or misread.
///
/// # Errors
/// Its place is unreadable.
pub fn find_reading<F: StoredFile>(
    file: &F,
    segment: &Segment,
    sequence: u64,
) -> Result<Option<Vec<u8>>, StorageError> {
    // Other unreadable places do not matter.
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
        // It may be in an unreadable place.
        None if !scanner.holes.is_empty() => Err(StorageError::Other(EIO)),
        None => Ok(None),
    }
}
