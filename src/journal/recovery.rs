//! Reads the files of a lane when the journal is opened. docs/journal-format.md §7.
//!
//! Three cases are distinguished. *Valid* frames are read. *Unreadable* places or files stay in the
//! chain and are tried again later: a read error is not a loss. Content with a *wrong checksum* is
//! read again after a second, bypassing the page cache; only if it is wrong again it counts as
//! damaged. Nothing is written here.

use super::aside::{Aside, AsideCause, AsideRange};
use super::frame::SEQUENCE_MAX;
use super::loss::{Control, LossCause};
use super::range::RangeSet;
use super::recovered::Recovered;
use super::scan::{self, BAD_PAGES, Gap, Scan};
use super::segment::{self, HEADER_BLOCK, HEADER_COPY, Header, HeaderBlock, Layout, RUNS_MAX, Run, Segment};
use super::shelf::{self, Place, Shelved};
use super::storage::{Folder, Storage, StorageError, StoredFile};
use super::witness::LaneWitness;
use crate::message::{Lane, RecordId};

/// Smallest frame of a record, in bytes: the header, and a body with a device, a path and a topic
/// of one byte each.
const RECORD_MIN: u64 = 48;
/// The error for an unreadable place.
const EIO: i32 = 5;

/// Why a lane cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryError {
    /// It has another major version: the whole journal must be moved aside.
    OtherVersion(u16),
    /// Its folder cannot be listed.
    Storage(StorageError),
}

/// The report on a lane, for the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneReport {
    /// Records stored and not yet released.
    pub records: u64,
    /// Segments scanned because they had no valid footer, without the newest one.
    pub scanned: usize,
    /// Acknowledged records that were found missing now.
    pub missing: u64,
    /// Incomplete records of the last commit before a crash. They were never acknowledged.
    pub torn: u64,
    /// Files with an invalid header; they get the suffix `.damaged`.
    pub damaged_files: Vec<String>,
    /// Segments whose file is shorter than its configured size.
    pub cut_files: Vec<String>,
    /// Segments that cannot be read now, and why. They are opened later.
    pub unopened: Vec<(String, StorageError)>,
    /// Unreadable records in files set aside earlier.
    pub unreadable: u64,
}

/// A file with a segment's name.
enum Candidate {
    /// Its header is valid.
    Known(Box<Known>),
    /// Its header cannot be read.
    Unopened(StorageError),
    /// Its header is invalid.
    Damaged,
}

struct Known {
    header: Header,
    layout: Layout,
    /// Its footer, if valid.
    footer: Option<(Segment, Control)>,
    /// Whether both copies of the header are valid and the file has its full length.
    intact: bool,
}

struct Listed {
    number: u64,
    size: u64,
    candidate: Candidate,
}

/// A file with an invalid header.
struct DamagedFile {
    number: u64,
    size: u64,
    /// The number under which missing records are noted.
    noted: u64,
    /// Records it may contain in addition to those known to be missing.
    uncertain: Option<(u64, u64)>,
}

/// The result of reading a lane's files once.
struct Look<F> {
    sealed: Vec<Segment>,
    active: Option<(Segment, F)>,
    control: Control,
    next_sequence: u64,
    next_number: u64,
    /// From this sequence on, the content of the newest files is unknown.
    uncertain_from: Option<u64>,
    /// Records missing although their place could be read, with the number of the segment.
    gaps: Vec<(Gap, u64)>,
    /// Sequences that were never used, as far as is known.
    void: Vec<(u64, u64)>,
    /// Files with an invalid header.
    damaged: Vec<DamagedFile>,
    free: Vec<(String, u64)>,
    asides: Vec<Shelved>,
    report: LaneReport,
}

/// Reads a lane. `seen`: its witness; `layout`: the layout of new segments.
///
/// # Errors
/// [`RecoveryError`]; neither damage nor a file that cannot be read is one.
pub(super) fn recover<S: Storage>(
    storage: &S,
    lane: Lane,
    layout: Layout,
    seen: LaneWitness,
) -> Result<(Recovered<S::File>, LaneReport), RecoveryError> {
    let mut look = look(storage, lane, layout, seen, None)?;
    if look.is_doubtful() {
        let before = std::mem::take(&mut look.gaps);
        let suspects: Vec<u64> = look.damaged.iter().map(|file| file.number).collect();
        storage.wait_for_second_look();
        look = self::look(storage, lane, layout, seen, Some(&suspects))?;
        look.confirm(&before);
    }
    Ok(look.finish(lane))
}

impl<F> Look<F> {
    /// Whether anything would count as damaged or torn.
    fn is_doubtful(&self) -> bool {
        let known = self.known();
        let is_new = |(gap, _): &(Gap, u64)| {
            !known.missing_in(gap.first.max(self.control.released + 1), gap.last).is_empty()
        };
        !self.damaged.is_empty() || !self.report.cut_files.is_empty() || self.gaps.iter().any(is_new)
    }

    /// Sequences that are already counted as lost, or were never used.
    fn known(&self) -> RangeSet {
        let mut known = RangeSet::default();
        for (first, last) in self.control.lost_ranges() {
            known.insert(first, last);
        }
        for (first, last) in &self.void {
            known.insert(*first, *last);
        }
        // In a joined range some records were read: they are read again, and missing ones are found
        // again.
        let listed = self.asides.iter().flat_map(|found| &found.aside.ranges);
        for range in listed.filter(|range| !range.joined) {
            known.insert(range.first.sequence, range.last.sequence);
        }
        known
    }

    /// Keeps only the gaps that were also found before. A gap found only now is found again when
    /// the lane is read.
    fn confirm(&mut self, before: &[(Gap, u64)]) {
        let mut missing = RangeSet::default();
        for (gap, _) in before {
            missing.insert(gap.first, gap.last);
        }
        let mut gaps = Vec::new();
        for (gap, number) in self.gaps.drain(..) {
            for (first, last) in missing.common_in(gap.first, gap.last) {
                gaps.push((Gap { first, last, ..gap }, number));
            }
        }
        self.gaps = gaps;
    }

    /// Counts as lost the missing records that are not released and not counted yet.
    fn finish(mut self, lane: Lane) -> (Recovered<F>, LaneReport) {
        let base = self.uncertain_from.map(|_| self.control.totals());
        let mut settled = self.known();
        let mut new: Vec<Aside> = Vec::new();
        for (gap, number) in &self.gaps {
            let cause = if gap.acknowledged { LossCause::Damaged } else { LossCause::Torn };
            for (first, last) in settled.missing_in(gap.first.max(self.control.released + 1), gap.last) {
                let segments = self.sealed.iter().chain(self.active.as_ref().map(|(segment, _)| segment));
                for (first, last) in segment::pieces(segments, first, last) {
                    let records = last.sequence - first.sequence + 1;
                    self.control.lose(cause, records, first, last);
                    if cause == LossCause::Damaged {
                        let range =
                            AsideRange { cause: AsideCause::Damaged, first, last, records, joined: false };
                        aside_of(&mut new, lane, *number).add(range);
                    }
                }
                let count = last - first + 1;
                *(if gap.acknowledged { &mut self.report.missing } else { &mut self.report.torn }) += count;
                settled.insert(first, last);
            }
        }
        for file in &self.damaged {
            self.report.damaged_files.push(segment::segment_name(file.number));
            let mut aside = Aside { number: file.number, ..aside_of(&mut new, lane, file.noted).clone() };
            if let Some((first, last)) = file.uncertain {
                let id = |sequence| RecordId { run: 0, sequence };
                let cause = AsideCause::Damaged;
                aside.add(AsideRange { cause, first: id(first), last: id(last), records: 0, joined: false });
            }
            self.asides.push(Shelved::new(aside, Place::Leaving, file.size, false));
        }
        let in_chain = |number: u64| {
            let active = self.active.as_ref().map(|(segment, _)| segment);
            self.sealed.iter().chain(active).any(|segment| segment.number == number)
        };
        for aside in new.into_iter().filter(|aside| in_chain(aside.number)) {
            match self.asides.iter_mut().find(|found| found.aside.number == aside.number) {
                Some(found) => {
                    aside.ranges.into_iter().for_each(|range| found.aside.add(range));
                    found.saved = false;
                }
                None => self.asides.push(Shelved::new(aside, Place::Chain, 0, false)),
            }
        }
        settled.forget_through(self.control.released);
        let last = self.next_sequence - 1;
        // Sequences that may never have been used are not counted.
        let mut gone = settled.clone();
        for (first, last) in self.sealed.iter().filter_map(|segment| segment.uncertain(1, u64::MAX - 1)) {
            gone.insert(first, last);
        }
        self.report.records =
            last.saturating_sub(self.control.released) - gone.count_in(self.control.released + 1, last);
        self.report.unreadable =
            self.asides.iter().map(|found| found.aside.records(AsideCause::Unreadable)).sum();
        let found = Recovered {
            sealed: self.sealed,
            active: self.active,
            control: self.control,
            next_sequence: self.next_sequence,
            next_number: self.next_number,
            settled,
            missing: self.report.missing + self.report.torn,
            free: self.free,
            uncertain_from: self.uncertain_from,
            base,
            asides: self.asides,
        };
        (found, self.report)
    }
}

/// The list of a segment, created if it does not exist.
fn aside_of(asides: &mut Vec<Aside>, lane: Lane, number: u64) -> &mut Aside {
    let at = match asides.iter().position(|aside| aside.number == number) {
        Some(at) => at,
        None => {
            asides.push(Aside::new(lane, number));
            asides.len() - 1
        }
    };
    &mut asides[at]
}

/// Reads a lane once. With `suspects`, it is the second reading, which bypasses the page cache;
/// only these files may count as damaged.
fn look<S: Storage>(
    storage: &S,
    lane: Lane,
    layout: Layout,
    seen: LaneWitness,
    suspects: Option<&[u64]>,
) -> Result<Look<S::File>, RecoveryError> {
    let mut look = Look {
        sealed: Vec::new(),
        active: None,
        control: Control::new(lane),
        next_sequence: 1,
        next_number: 1,
        uncertain_from: None,
        gaps: Vec::new(),
        void: Vec::new(),
        damaged: Vec::new(),
        free: Vec::new(),
        asides: Vec::new(),
        report: LaneReport::default(),
    };
    let fresh = suspects.is_some();
    let files = classify(storage, lane, suspects, &mut look)?;
    let chain = Chain {
        storage,
        lane,
        layout,
        fresh,
        look,
        released: 0,
        scans: Vec::new(),
        pending: Vec::new(),
        extended: None,
    };
    Ok(chain.read(files, seen))
}

/// A file of the chain whose records are only known from the files before and after it.
struct Pending {
    number: u64,
    size: u64,
    layout: Layout,
    /// `None` if its header is invalid.
    error: Option<StorageError>,
}

/// What follows a file of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// Nothing: it is the newest.
    Nothing,
    /// A segment whose first sequence is this.
    Segment(u64),
    /// Unreadable files, and then a segment with this first sequence, if any.
    Unread(Option<u64>),
}

impl After {
    /// The sequence from which records are in another file.
    fn first_sequence(self) -> Option<u64> {
        match self {
            After::Nothing => None,
            After::Segment(first) => Some(first),
            After::Unread(first) => first,
        }
    }
}

/// Processes the files of a lane, oldest first.
struct Chain<'s, S: Storage> {
    storage: &'s S,
    lane: Lane,
    layout: Layout,
    fresh: bool,
    look: Look<S::File>,
    released: u64,
    /// For each segment in `look.sealed` and the active one: the control state from a scan and from
    /// the footer.
    scans: Vec<(Option<Scan>, Option<Control>)>,
    pending: Vec<Pending>,
    /// The previous segment may contain records after this one, the last found in it.
    extended: Option<u64>,
}

impl<S: Storage> Chain<'_, S> {
    fn read(mut self, files: Vec<Listed>, seen: LaneWitness) -> Look<S::File> {
        let mut after = vec![After::Nothing; files.len()];
        for index in (1..files.len()).rev() {
            after[index - 1] = match (&files[index].candidate, after[index]) {
                (Candidate::Known(known), _) => After::Segment(known.header.first_sequence),
                (_, After::Segment(first) | After::Unread(Some(first))) => After::Unread(Some(first)),
                (_, After::Nothing | After::Unread(None)) => After::Unread(None),
            };
        }
        for (Listed { number, size, candidate }, after) in files.into_iter().zip(after) {
            match candidate {
                Candidate::Known(known) => {
                    self.come_to(&known.header);
                    self.take(*known, size, after);
                }
                Candidate::Unopened(error) => {
                    self.pending.push(Pending { number, size, layout: self.layout, error: Some(error) });
                }
                Candidate::Damaged => {
                    self.pending.push(Pending { number, size, layout: self.layout, error: None });
                }
            }
        }
        self.end(seen);
        let (control, all_read) = control_state(self.lane, &self.scans);
        self.look.control = control;
        let control = &mut self.look.control;
        control.released = control.released.max(self.released);
        self.look.next_sequence = self.look.next_sequence.max(control.released + 1);
        if self.look.uncertain_from.is_some() || !all_read {
            // Unreadable places may contain losses that it has reported.
            control.skip_numbers();
        }
        self.look
    }

    /// Handles records that are missing at the end.
    fn end(&mut self, seen: LaneWitness) {
        let next = self.look.next_sequence;
        let newest = self.look.active.as_ref().map(|(segment, _)| segment).or(self.look.sealed.last());
        let runs = newest.map_or(&[][..], |segment| &segment.runs);
        let number = newest.map_or(0, |segment| segment.number);
        // If another run follows the witness's, a version without a witness has written since. If
        // the witness's is not in its own segment, its Opening is unreadable or destroyed.
        let same = match runs.iter().rposition(|run| run.run == seen.run) {
            _ if number < seen.number || runs.is_empty() => true,
            Some(at) => at + 1 == runs.len(),
            None => number == seen.number && seen.run != 0,
        };
        let counts = !self.pending.is_empty() || same;
        let certain = if counts { next.max(seen.next_sequence) } else { next };
        if counts {
            self.released = self.released.max(seen.released);
            // Records missing below the witness were committed, whatever follows them.
            let committed = |gap: &Gap| gap.last < seen.next_sequence;
            for (gap, _) in self.look.gaps.iter_mut().filter(|(gap, _)| committed(gap)) {
                gap.acknowledged = true;
            }
        }
        let newest = newest.map_or(0, |segment| segment.number);
        if self.pending.is_empty() {
            if certain > next {
                self.miss(next, certain - 1, newest);
                // No new frames may be written after such a place.
                let active = self.look.active.take();
                self.look.sealed.extend(active.map(|(segment, _)| segment));
                if let Some(segment) = self.look.sealed.last_mut() {
                    extend(segment, certain - 1);
                }
            }
            return;
        }
        // The content of these files is unknown, so the next sequence is set after the largest
        // possible one.
        let room: u64 = self.pending.iter().map(|pending| pending.size / RECORD_MIN + 1).sum();
        let last = certain + room;
        if self.pending.iter().any(|pending| pending.error.is_some()) {
            self.place_pending(last, Some(certain));
        } else {
            let number = self.set_aside(Some((certain, last)));
            self.miss(next, certain - 1, number.unwrap_or(newest));
            self.look.void.push((certain, last));
        }
        let active = self.look.active.take();
        self.look.sealed.extend(active.map(|(segment, _)| segment));
        self.look.next_sequence = last + 1;
        self.look.uncertain_from = Some(certain);
    }

    /// Removes files with an invalid header from the chain; returns the number under which missing
    /// records are noted.
    fn set_aside(&mut self, uncertain: Option<(u64, u64)>) -> Option<u64> {
        let noted = self.pending.last()?.number;
        for Pending { number, size, .. } in self.pending.drain(..) {
            self.look.damaged.push(DamagedFile { number, size, noted, uncertain });
        }
        Some(noted)
    }

    fn miss(&mut self, first: u64, last: u64, number: u64) {
        if first <= last {
            let gap = Gap { first, last, acknowledged: true, unread: false };
            self.look.gaps.push((gap, number));
        }
        self.look.next_sequence = last + 1;
    }

    /// Assigns the sequences between the records found and the next segment with a valid header.
    fn come_to(&mut self, header: &Header) {
        let (next, first) = (self.look.next_sequence, header.first_sequence);
        let stated = (header.uncertain_from != 0).then_some(header.uncertain_from);
        if self.pending.iter().any(|pending| pending.error.is_some()) {
            self.place_pending(first.max(next) - 1, stated.map(|from| from.max(next)));
        } else {
            let number = self.set_aside(None);
            let uncertain = stated.map_or(first, |from| from.max(next));
            if let (Some(from), Some(found), Some(before)) =
                (stated, self.extended, self.look.sealed.last_mut())
            {
                before.uncertain_from = Some(from.max(found + 1));
            }
            if first > next {
                // Before the first segment these sequences are released or lost.
                let before = self.look.sealed.last().map_or(0, |segment| segment.number);
                self.miss(next, uncertain.min(first) - 1, number.unwrap_or(before));
            }
            if first > uncertain {
                self.look.void.push((uncertain, first - 1));
            }
        }
        self.look.next_sequence = first.max(next);
        self.released = self.released.max(header.released);
    }

    /// Adds files that cannot be read now to the chain; `last` is the last sequence they can
    /// contain.
    fn place_pending(&mut self, last: u64, uncertain_from: Option<u64>) {
        let first = self.look.next_sequence;
        let run = self.look.sealed.last().map_or(0, |segment| segment.run_of(first).run);
        for pending in self.pending.drain(..) {
            // A damaged file next to an unreadable one is handled together with it.
            let error = pending.error.unwrap_or(StorageError::Other(EIO));
            self.look.report.unopened.push((segment::segment_name(pending.number), error));
            let run = Run { first_sequence: first, run, boot: [0; 16] };
            let Pending { number, layout, size, .. } = pending;
            // A folder that does not tell the size of a file lists it with 0.
            let bytes = if size == 0 { u64::from(layout.size) } else { size };
            let mut segment = Segment::unopened(number, layout, bytes, first, last, run);
            segment.uncertain_from = uncertain_from;
            self.look.sealed.push(segment);
            self.scans.push((None, None));
        }
    }

    /// Adds a segment with a valid header.
    fn take(&mut self, known: Known, size: u64, after: After) {
        let Known { header, layout, footer, intact } = known;
        self.extended = None;
        if let Some((_, control)) = &footer {
            self.released = self.released.max(control.released);
        }
        match footer {
            Some((segment, control)) if after == After::Segment(segment.last_sequence + 1) => {
                self.look.next_sequence = segment.last_sequence + 1;
                self.acknowledge();
                self.look.sealed.push(segment);
                self.scans.push((None, Some(control)));
            }
            footer => {
                let (mut scan, file) = match self.scan(&header, layout, after.first_sequence()) {
                    Ok(scanned) => scanned,
                    Err(error) => return self.pend(header.number, size, layout, error),
                };
                self.released = self.released.max(scan.released);
                let found = scan.segment.last_sequence;
                match after {
                    // A reader looks for missing records up to its end.
                    After::Segment(next) if found + 1 < next => {
                        self.extended = Some(found);
                        extend(&mut scan.segment, next - 1);
                        if scan.unread_end {
                            scan.next_sequence = next;
                        }
                    }
                    // Its last sequence is known only from a segment directly after it.
                    After::Nothing | After::Unread(_) if scan.unread_end => {
                        return self.pend(header.number, size, layout, StorageError::Other(EIO));
                    }
                    _ => {}
                }
                self.look.report.scanned += usize::from(after != After::Nothing);
                if scan.any {
                    // A commit here follows the commits in all earlier segments.
                    self.acknowledge();
                }
                let read = scan.gaps.drain(..).filter(|gap| !gap.unread);
                self.look.gaps.extend(read.map(|gap| (gap, header.number)));
                self.look.next_sequence = scan.next_sequence.max(header.first_sequence);
                // An unreadable place may become readable later, so no newer frames may follow it.
                let continued = after == After::Nothing
                    && footer.is_none()
                    && scan.readable
                    && intact
                    && scan.any
                    && scan.segment.runs.len() < RUNS_MAX;
                if continued {
                    self.look.active = Some((scan.segment.clone(), file));
                } else {
                    self.look.sealed.push(scan.segment.clone());
                }
                self.scans.push((Some(scan), footer.map(|(_, control)| control)));
            }
        }
    }

    /// Adds a file that cannot be read now.
    fn pend(&mut self, number: u64, size: u64, layout: Layout, error: StorageError) {
        self.pending.push(Pending { number, size, layout, error: Some(error) });
    }

    fn acknowledge(&mut self) {
        self.look.gaps.iter_mut().for_each(|(gap, _)| gap.acknowledged = true);
    }

    fn scan(
        &self,
        header: &Header,
        layout: Layout,
        successor: Option<u64>,
    ) -> Result<(Scan, S::File), StorageError> {
        let file = self.storage.open(Folder::of(self.lane), &segment::segment_name(header.number))?;
        if self.fresh {
            file.forget_cache();
        }
        let scan = scan::scan_segment(&file, self.lane, header, layout, successor, BAD_PAGES)?;
        Ok((scan, file))
    }
}

/// Extends a segment that may contain records up to this sequence, up to its frame limit.
fn extend(segment: &mut Segment, last_sequence: u64) {
    segment.last_sequence = segment.last_sequence.max(last_sequence);
    segment.end = segment.layout.frame_limit;
}

/// Classifies the files of a lane: segments by number, spares, and files set aside.
fn classify<S: Storage>(
    storage: &S,
    lane: Lane,
    suspects: Option<&[u64]>,
    look: &mut Look<S::File>,
) -> Result<Vec<Listed>, RecoveryError> {
    let fresh = suspects.is_some();
    let folder = Folder::of(lane);
    let mut files = Vec::new();
    let mut away = Vec::new();
    let mut lists = Vec::new();
    let mut unread = Vec::new();
    for (name, size) in storage.list(folder).map_err(RecoveryError::Storage)? {
        let (plain, cause) = AsideCause::strip(&name);
        let list = segment::parse_name(&name, "ids");
        let number = segment::parse_name(plain, "seg").or(list).filter(|n| *n < SEQUENCE_MAX);
        let Some(number) = number else { continue };
        look.next_number = look.next_number.max(number + 1);
        if list.is_some() {
            match shelf::read_list(storage, lane, &name) {
                Ok(list) => lists.extend(list),
                Err(_) => unread.push(number),
            }
        } else if let Some(cause) = cause {
            away.push((number, size, cause));
        } else {
            match candidate(storage, lane, number, &name, size, fresh)? {
                Found::Free => look.free.push((name, size)),
                Found::Segment(mut candidate) => {
                    let suspected = suspects.is_none_or(|suspects| suspects.contains(&number));
                    if matches!(candidate, Candidate::Damaged) && !suspected {
                        // Its header was valid a second ago.
                        candidate = Candidate::Unopened(StorageError::Other(EIO));
                    }
                    let cut =
                        matches!(&candidate, Candidate::Known(known) if size < u64::from(known.header.size));
                    if cut {
                        look.report.cut_files.push(name);
                    }
                    files.push(Listed { number, size, candidate });
                }
            }
        }
    }
    files.sort_by_key(|file| file.number);
    // First sequences ascend in a chain. A file that does not fit before its successors does not
    // belong to it.
    let mut least = u64::MAX;
    for file in files.iter_mut().rev() {
        if let Candidate::Known(known) = &file.candidate {
            if known.header.first_sequence > least {
                file.candidate = Candidate::Damaged;
            } else {
                least = known.header.first_sequence;
            }
        }
    }
    // A file with a list is still in the chain if it could not be renamed or is still needed there.
    let chain = |number: u64| files.iter().any(|file| file.number == number);
    for aside in lists.iter().filter(|list: &&Aside| chain(list.number)) {
        look.asides.push(Shelved::new(aside.clone(), Place::Chain, 0, true));
    }
    for (number, size, cause) in away {
        let list = lists.iter().find(|list| list.number == number && !chain(number)).cloned();
        let aside = list.unwrap_or_else(|| Aside::new(lane, number));
        look.asides.push(Shelved::away(aside, cause, size));
    }
    // The content of an unreadable list is unknown, so its file is kept unchanged until it can be
    // read.
    for number in unread {
        match look.asides.iter_mut().find(|item| item.aside.number == number) {
            Some(item) => item.unread = true,
            None if chain(number) => {
                let mut item = Shelved::new(Aside::new(lane, number), Place::Chain, 0, true);
                item.unread = true;
                look.asides.push(item);
            }
            None => {}
        }
    }
    Ok(files)
}

enum Found {
    /// A spare or prepared file.
    Free,
    Segment(Candidate),
}

/// Classifies a file with a segment's name.
fn candidate<S: Storage>(
    storage: &S,
    lane: Lane,
    number: u64,
    name: &str,
    size: u64,
    fresh: bool,
) -> Result<Found, RecoveryError> {
    let file = match storage.open(Folder::of(lane), name) {
        Ok(file) => file,
        Err(error) => return Ok(Found::Segment(Candidate::Unopened(error))),
    };
    if fresh {
        file.forget_cache();
    }
    Ok(match read_header(&file) {
        Err(error) => Found::Segment(Candidate::Unopened(error)),
        Ok(HeaderBlock::OtherVersion(major)) => return Err(RecoveryError::OtherVersion(major)),
        Ok(HeaderBlock::Free) => Found::Free,
        Ok(HeaderBlock::Valid(header, both)) if header.number == number && header.lane == lane as u8 => {
            let Some(layout) = Layout::new(header.size) else {
                return Ok(Found::Segment(Candidate::Damaged));
            };
            let footer = read_footer(&file, lane, &header, layout);
            let intact = both && size == u64::from(header.size) && footer.is_ok();
            let footer = footer.ok().flatten();
            Found::Segment(Candidate::Known(Box::new(Known { header, layout, footer, intact })))
        }
        Ok(HeaderBlock::Valid(..) | HeaderBlock::Damaged) => Found::Segment(Candidate::Damaged),
    })
}

/// Reads a header, or its copy if the header is unreadable or invalid.
///
/// # Errors
/// One of both cannot be read, and the other is invalid.
pub(super) fn read_header(file: &impl StoredFile) -> Result<HeaderBlock, StorageError> {
    let mut block = Vec::new();
    if scan::read_region(file, 0, HEADER_BLOCK as usize, &mut block).is_ok() {
        return Ok(Header::parse_block(&block));
    }
    let mut whole = vec![0; HEADER_BLOCK as usize];
    let mut failed = None;
    for at in [0, HEADER_COPY] {
        match scan::read_region(file, at as u32, HEADER_COPY, &mut block) {
            Ok(()) => whole[at..at + block.len()].copy_from_slice(&block),
            Err(error) => failed = Some(error),
        }
    }
    match (Header::parse_block(&whole), failed) {
        (HeaderBlock::Damaged, Some(error)) => Err(error),
        (read, _) => Ok(read),
    }
}

/// Reads a footer; `None` if there is none or it is invalid.
fn read_footer<F: StoredFile>(
    file: &F,
    lane: Lane,
    header: &Header,
    layout: Layout,
) -> Result<Option<(Segment, Control)>, StorageError> {
    let mut bytes = Vec::new();
    scan::read_region(file, layout.frame_limit, (layout.size - layout.frame_limit) as usize, &mut bytes)?;
    let read = || {
        let (segment, checkpoint) = Segment::parse_footer(header, layout, &bytes)?;
        let (released, body) = checkpoint.split_first_chunk::<8>()?;
        let released = u64::from_le_bytes(*released);
        let (control, _) = Control::decode(lane, released.min(SEQUENCE_MAX), body)?;
        Some((segment, control))
    };
    Ok(read())
}

/// The newest Checkpoint with all changes committed after it, and whether all of that was readable.
fn control_state(lane: Lane, scans: &[(Option<Scan>, Option<Control>)]) -> (Control, bool) {
    let mut control = None;
    let mut from = 0;
    for (index, (scan, footer)) in scans.iter().enumerate().rev() {
        let scanned = scan.as_ref().and_then(|scan| scan.control.clone());
        if let Some(found) = scanned.or_else(|| footer.clone()) {
            control = Some(found);
            from = index + 1;
            break;
        }
    }
    let control = control.unwrap_or_else(|| Control::new(lane));
    let control = scans[from..]
        .iter()
        .filter_map(|(scan, _)| scan.as_ref())
        .fold(control, |c, scan| scan.control_after(c));
    let read = |(scan, _): &(Option<Scan>, Option<Control>)| scan.as_ref().is_none_or(|scan| scan.readable);
    (control, scans[from.saturating_sub(1)..].iter().all(read))
}

/// A segment that could not be opened earlier and is open now.
#[derive(Debug)]
pub(super) struct Opened {
    /// The segment as found by a scan.
    pub(super) segment: Segment,
    /// The control state from its Checkpoint and the frames after it.
    pub(super) control: Option<Control>,
    /// Whether the part after its last frame is partly unreadable.
    pub(super) unread_end: bool,
    /// Whether the next file was opened too, or does not exist, so that this one contains all
    /// records up to it.
    pub(super) direct: bool,
    /// From this sequence up to its first record it is unknown what was stored, according to its
    /// header.
    pub(super) uncertain_from: Option<u64>,
}

/// The result for segments that could not be opened earlier.
#[derive(Debug, Default)]
pub(super) struct Resolution {
    /// Segments that can be read now, ascending.
    pub(super) opened: Vec<Opened>,
    /// Prepared files without records.
    pub(super) free: Vec<u64>,
    /// Files with an invalid header.
    pub(super) damaged: Vec<u64>,
    /// Segments given up as unreadable, by number.
    pub(super) unreadable: Vec<u64>,
}

/// Opens neighbours in the chain that could not be opened earlier. With `give_up`, those that still
/// cannot be opened are `unreadable`; with `fresh`, it bypasses the page cache.
///
/// # Errors
/// The number of a segment that still cannot be read, and the error; never with `give_up`.
pub(super) fn resolve<S: Storage>(
    storage: &S,
    lane: Lane,
    group: &[std::sync::Arc<Segment>],
    give_up: bool,
    fresh: bool,
) -> Result<Resolution, (u64, StorageError)> {
    let mut found = Resolution::default();
    let mut headers = Vec::new();
    for segment in group {
        let number = segment.number;
        let opened = storage.open(Folder::of(lane), &segment.name()).and_then(|file| {
            if fresh {
                file.forget_cache();
            }
            Ok((read_header(&file)?, file))
        });
        match opened {
            Ok((HeaderBlock::Valid(header, _), file))
                if header.number == number && header.lane == lane as u8 =>
            {
                match Layout::new(header.size) {
                    Some(layout) => headers.push((header, layout, file)),
                    None => found.damaged.push(number),
                }
            }
            // A prepared file that was never used.
            Ok((HeaderBlock::Free, _)) => found.free.push(number),
            Ok(_) | Err(StorageError::Missing) => found.damaged.push(number),
            Err(_) if give_up => found.unreadable.push(number),
            Err(error) => return Err((number, error)),
        }
    }
    // The sequence after the last of them is known.
    let end = group.last().map(|segment| segment.last_sequence + 1);
    for index in (0..headers.len()).rev() {
        let (header, layout, file) = &headers[index];
        let next = headers.get(index + 1).map(|(next, ..)| next.first_sequence).or(end);
        let scan = scan::scan_segment(file, lane, header, *layout, next, u32::MAX);
        let scan = scan.map_err(|error| (header.number, error))?;
        let mut segment = scan.segment.clone();
        if scan.unread_end {
            segment.end = layout.frame_limit;
        }
        let at = group.iter().position(|known| known.number == header.number);
        let behind = at.and_then(|at| group.get(at + 1)).map(|behind| behind.number);
        let control = scan.control.clone().map(|control| scan.control_after(control));
        let direct =
            behind.is_none_or(|behind| headers.get(index + 1).is_some_and(|(h, ..)| h.number == behind));
        let uncertain_from = (header.uncertain_from != 0).then_some(header.uncertain_from);
        let unread_end = scan.unread_end;
        found.opened.insert(0, Opened { segment, control, unread_end, direct, uncertain_from });
    }
    Ok(found)
}
