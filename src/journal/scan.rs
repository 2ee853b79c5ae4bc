//! Finds every whole frame of a segment, through damage, and says which records are not among them.
//! docs/journal-format.md §7, rules 2 to 4.

use super::frame::{self, Frame, HEADER, Kind, Parsed, SEQUENCE_MAX};
use super::loss::Control;
use super::segment::{HEADER_BLOCK, Header, Layout, RUNS_MAX, Run, Segment};
use super::storage::StoredFile;
use crate::message::Lane;

const BUFFER: usize = 256 * 1024;
const PIECE: usize = 4096;
/// Most control frames kept whose Checkpoint was not found.
const LOOSE_MAX: usize = 4096;

/// Reads `length` bytes from `offset` on into `out`, less at the end of the file. What the disk cannot read becomes zeros; false if
/// there was any.
pub fn read_region(file: &impl StoredFile, offset: u32, length: usize, out: &mut Vec<u8>) -> bool {
    out.clear();
    out.resize(length, 0);
    let offset = u64::from(offset);
    if let Ok(read) = file.read_at(offset, out) {
        out.truncate(read);
        return true;
    }
    // Somewhere in there is a place that cannot be read: come as close to it as pages allow.
    let mut end = 0;
    for (index, piece) in out.chunks_mut(PIECE).enumerate() {
        let at = index * PIECE;
        match file.read_at(offset + at as u64, piece) {
            Ok(read) if read < piece.len() => {
                end = at + read;
                break;
            }
            Ok(_) => {}
            Err(_) => piece.fill(0),
        }
        end = at + piece.len();
    }
    out.truncate(end);
    false
}

/// Yields the valid frames of a file region in order, whatever lies between them.
pub struct Scanner<'f, F> {
    file: &'f F,
    seed: u32,
    at: u32,
    limit: u32,
    base: u32,
    buffer: Vec<u8>,
    readable: bool,
}

impl<'f, F: StoredFile> Scanner<'f, F> {
    /// From `from` (a multiple of 8) up to `limit`.
    pub fn new(file: &'f F, seed: u32, from: u32, limit: u32) -> Self {
        Scanner { file, seed, at: from, limit, base: from, buffer: Vec::new(), readable: true }
    }

    /// The next valid frame and its offset; `None` at the limit.
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

    fn fill(&mut self) {
        let end = self.base + self.buffer.len() as u32;
        let ahead = end.saturating_sub(self.at) as usize;
        if ahead >= frame::FRAME_MAX || (end >= self.limit && self.at < end) {
            return;
        }
        let wanted = BUFFER.min((self.limit - self.at) as usize);
        self.readable &= read_region(self.file, self.at, wanted, &mut self.buffer);
        self.base = self.at;
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

/// Scans a segment. Readings from `successor` on, the first sequence of the segment after it, do not count.
pub fn scan_segment<F: StoredFile>(
    file: &F,
    lane: Lane,
    header: &Header,
    layout: Layout,
    successor: Option<u64>,
) -> Scan {
    let mut scan = Scan {
        segment: Segment::new(header, layout),
        gaps: Vec::new(),
        control: None,
        released: 0,
        next_sequence: header.first_sequence,
        any: false,
        readable: true,
        loose: Vec::new(),
    };
    // A Checkpoint's body names a sequence of its own; no sequence is beyond the range of all.
    let limit = successor.unwrap_or(SEQUENCE_MAX);
    // A gap was found before this many commits had begun.
    let mut found_at = Vec::new();
    let mut commits = 0;
    let mut scanner = Scanner::new(file, header.seed(), HEADER_BLOCK, layout.frame_limit);
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
            scan.gaps.push(Gap { first: scan.next_sequence, last: named - 1, acknowledged: false });
            found_at.push(commits);
            scan.next_sequence = named;
            scan.segment.last_sequence = named - 1;
        }
        commits += u32::from(frame.begins_commit);
        scan.segment.end = offset + frame.step() as u32;
        match frame.kind {
            Kind::Reading => {
                scan.segment.note(frame.sequence, offset);
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
    scan.readable = scanner.readable;
    for (gap, at) in scan.gaps.iter_mut().zip(found_at) {
        gap.acknowledged = commits > at;
    }
    scan
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

/// Finds one reading of a segment; `None` if it is damaged or the file cannot be read.
pub fn find_reading<F: StoredFile>(file: &F, segment: &Segment, sequence: u64) -> Option<Vec<u8>> {
    let mut scanner = Scanner::new(file, segment.seed, segment.seek(sequence), segment.end);
    while let Some((_, frame)) = scanner.next_frame() {
        if frame.kind == Kind::Reading {
            if frame.sequence == sequence {
                return Some(frame.body.to_vec());
            }
            if frame.sequence > sequence {
                return None;
            }
        }
    }
    None
}
