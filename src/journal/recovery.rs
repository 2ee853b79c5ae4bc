//! Finds out what a lane's files hold when the journal is opened. docs/journal-format.md §7.

use super::frame::SEQUENCE_MAX;
use super::lane::Recovered;
use super::loss::{Control, LossCause};
use super::range::RangeSet;
use super::scan::{self, Gap, Scan};
use super::segment::{self, HEADER_BLOCK, Header, HeaderBlock, Layout, RUNS_MAX, Segment};
use super::storage::{Folder, Storage, StorageError};
use crate::message::Lane;

/// Why a lane cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryError {
    /// It is of another major version: to be moved aside whole.
    OtherVersion(u16),
    /// Its folder or a file in it cannot be read.
    Storage(StorageError),
}

/// What was found in a lane, for the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneReport {
    /// Records stored and not yet released.
    pub records: u64,
    /// Segments read whole because they had no usable footer, the newest not counted.
    pub scanned: usize,
    /// Records found missing now.
    pub missing: u64,
    /// Files that are no segment; they were renamed to `.damaged`.
    pub damaged_files: Vec<String>,
    /// Segments whose file is not as long as it was made.
    pub cut_files: Vec<String>,
}

/// Looks for files of another major version.
///
/// # Errors
/// [`RecoveryError`].
pub(super) fn check_version<S: Storage>(storage: &S) -> Result<(), RecoveryError> {
    for folder in [Folder::High, Folder::Normal, Folder::Rejected] {
        let extension = if folder == Folder::Rejected { "log" } else { "seg" };
        for (name, _) in storage.list(folder).map_err(RecoveryError::Storage)? {
            if segment::parse_name(&name, extension).is_some() {
                let file = storage.open(folder, &name).map_err(RecoveryError::Storage)?;
                let mut block = Vec::new();
                scan::read_region(&file, 0, HEADER_BLOCK as usize, &mut block);
                if let HeaderBlock::OtherVersion(major) = Header::parse_block(&block) {
                    return Err(RecoveryError::OtherVersion(major));
                }
            }
        }
    }
    Ok(())
}

struct Candidate<F> {
    header: Header,
    layout: Layout,
    file: F,
    /// Both copies of the header are good and the file has its full length.
    intact: bool,
}

struct Files<F> {
    candidates: Vec<Candidate<F>>,
    free: Vec<(String, u64)>,
    next_number: u64,
}

/// Reads a lane.
///
/// # Errors
/// [`RecoveryError`]; damage is none, it is reported.
pub(super) fn recover<S: Storage>(
    storage: &S,
    lane: Lane,
) -> Result<(Recovered<S::File>, LaneReport), RecoveryError> {
    let mut report = LaneReport::default();
    let mut files = classify(storage, lane, &mut report)?;
    let mut sealed: Vec<Segment> = Vec::new();
    let mut gaps: Vec<Gap> = Vec::new();
    let mut scans: Vec<Option<Scan>> = Vec::new();
    let mut released = 0;
    let mut active = None;
    let mut footers: Vec<Option<Control>> = Vec::new();
    let mut next_sequence = 1;
    let count = files.candidates.len();
    let successors: Vec<u64> = files.candidates.iter().map(|c| c.header.first_sequence).collect();
    for (index, candidate) in files.candidates.drain(..).enumerate() {
        let Candidate { header, layout, file, intact } = candidate;
        if header.first_sequence > next_sequence {
            // Whatever was between is in no file. Before the first segment that is what has left, or it is lost.
            gaps.push(Gap { first: next_sequence, last: header.first_sequence - 1, acknowledged: true });
        }
        released = released.max(header.released);
        let successor = successors.get(index + 1).copied();
        let footer = read_footer(&file, lane, &header, layout);
        if let Some((_, control)) = &footer {
            released = released.max(control.released);
        }
        let fits = |segment: &Segment| Some(segment.last_sequence + 1) == successor;
        match footer {
            Some((segment, control)) if fits(&segment) => {
                next_sequence = segment.last_sequence + 1;
                gaps.iter_mut().for_each(|gap| gap.acknowledged = true);
                sealed.push(segment);
                footers.push(Some(control));
                scans.push(None);
            }
            other => {
                let mut scan = scan::scan_segment(&file, lane, &header, layout, successor);
                released = released.max(scan.released);
                if scan.any {
                    // What was committed here followed the commits in all segments before.
                    gaps.iter_mut().for_each(|gap| gap.acknowledged = true);
                }
                gaps.append(&mut scan.gaps);
                next_sequence = scan.next_sequence.max(header.first_sequence);
                let newest = index + 1 == count;
                report.scanned += usize::from(!newest);
                // What cannot be read now may be read another time: then it must not stand behind newer frames.
                let continued = newest
                    && other.is_none()
                    && scan.readable
                    && intact
                    && scan.any
                    && scan.segment.runs.len() < RUNS_MAX;
                if continued {
                    active = Some((scan.segment.clone(), file));
                } else {
                    sealed.push(scan.segment.clone());
                }
                footers.push(other.map(|(_, control)| control));
                scans.push(Some(scan));
            }
        }
    }
    let mut control = control_state(lane, &scans, &footers);
    control.released = control.released.max(released);
    next_sequence = next_sequence.max(control.released + 1);
    let settled = account(&mut control, &gaps, &sealed, active.as_ref().map(|(s, _)| s), &mut report);
    report.records = (next_sequence - 1).saturating_sub(control.released)
        - settled.count_in(control.released + 1, next_sequence.saturating_sub(1));
    let found = Recovered {
        sealed,
        active,
        control,
        next_sequence,
        next_number: files.next_number,
        settled,
        missing: report.missing,
        free: files.free,
    };
    Ok((found, report))
}

/// Sorts a lane's files into segments, by number, and spares.
fn classify<S: Storage>(
    storage: &S,
    lane: Lane,
    report: &mut LaneReport,
) -> Result<Files<S::File>, RecoveryError> {
    let folder = Folder::of(lane);
    let mut files = Files { candidates: Vec::new(), free: Vec::new(), next_number: 1 };
    for (name, size) in storage.list(folder).map_err(RecoveryError::Storage)? {
        let plain = name.strip_suffix(".damaged").unwrap_or(&name);
        let Some(number) = segment::parse_name(plain, "seg").filter(|n| *n < SEQUENCE_MAX) else { continue };
        files.next_number = files.next_number.max(number + 1);
        if plain.len() != name.len() {
            continue;
        }
        let file = storage.open(folder, &name).map_err(RecoveryError::Storage)?;
        let mut block = Vec::new();
        scan::read_region(&file, 0, HEADER_BLOCK as usize, &mut block);
        match Header::parse_block(&block) {
            HeaderBlock::Valid(header, intact) if header.number == number && header.lane == lane as u8 => {
                if let Some(layout) = Layout::new(header.size) {
                    let whole = size == u64::from(header.size);
                    if !whole {
                        report.cut_files.push(name);
                    }
                    let intact = intact && whole;
                    files.candidates.push(Candidate { header, layout, file, intact });
                    continue;
                }
            }
            HeaderBlock::Free => {
                files.free.push((name, size));
                continue;
            }
            HeaderBlock::Valid(..) | HeaderBlock::OtherVersion(_) | HeaderBlock::Damaged => {}
        }
        drop(file);
        // On a disk that is read-only it stays and is met again.
        let _ = storage.rename((folder, &name), (folder, &format!("{name}.damaged")));
        report.damaged_files.push(name);
    }
    files.candidates.sort_by_key(|candidate| candidate.header.number);
    // A chain rises. What does not fit before its successors cannot have been written here.
    let mut least = u64::MAX;
    for index in (0..files.candidates.len()).rev() {
        let header = files.candidates[index].header;
        if header.first_sequence > least {
            files.candidates.remove(index);
            report.damaged_files.push(segment::segment_name(header.number));
        }
        least = least.min(header.first_sequence);
    }
    Ok(files)
}

fn read_footer<F: super::storage::StoredFile>(
    file: &F,
    lane: Lane,
    header: &Header,
    layout: Layout,
) -> Option<(Segment, Control)> {
    let mut bytes = Vec::new();
    scan::read_region(file, layout.frame_limit, (layout.size - layout.frame_limit) as usize, &mut bytes);
    let (segment, checkpoint) = Segment::parse_footer(header, layout, &bytes)?;
    let (released, body) = checkpoint.split_first_chunk::<8>()?;
    let released = u64::from_le_bytes(*released);
    let (control, _) = Control::decode(lane, released.min(SEQUENCE_MAX), body)?;
    Some((segment, control))
}

/// The newest Checkpoint, with all that was committed behind it.
fn control_state(lane: Lane, scans: &[Option<Scan>], footers: &[Option<Control>]) -> Control {
    let mut control = None;
    let mut from = 0;
    for (index, (scan, footer)) in scans.iter().zip(footers).enumerate().rev() {
        let scanned = scan.as_ref().and_then(|scan| scan.control.clone());
        if let Some(found) = scanned.or_else(|| footer.clone()) {
            control = Some(found);
            from = index + 1;
            break;
        }
    }
    let control = control.unwrap_or_else(|| Control::new(lane));
    scans[from..].iter().flatten().fold(control, |control, scan| scan.control_after(control))
}

/// Names as lost what is missing, has not left and is not named yet. Returns everything above `released` that nobody need wait for.
fn account(
    control: &mut Control,
    gaps: &[Gap],
    sealed: &[Segment],
    active: Option<&Segment>,
    report: &mut LaneReport,
) -> RangeSet {
    let mut settled = RangeSet::default();
    for (first, last) in control.lost_ranges() {
        settled.insert(first, last);
    }
    for gap in gaps {
        let cause = if gap.acknowledged { LossCause::Damaged } else { LossCause::Torn };
        for (first, last) in settled.missing_in(gap.first.max(control.released + 1), gap.last) {
            for (first, last) in segment::pieces(sealed.iter().chain(active), first, last) {
                control.lose(cause, last.sequence - first.sequence + 1, first, last);
            }
            report.missing += last - first + 1;
            settled.insert(first, last);
        }
    }
    settled.forget_through(control.released);
    settled
}
