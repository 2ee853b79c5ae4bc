//! Takes records up again from a file that was set aside: each is appended to its lane anew, under
//! the id it had.
//!
//! Only what the list beside the file names is taken: everything else in it has left already. After
//! each part the list is shortened, so that what an interruption leaves is taken once.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use super::disk::{Disk, DiskFile, storage_error};
use super::refusal;
use super::shared::{Command, Shared};
use crate::journal::aside::Aside;
use crate::journal::frame::{Fields, Kind};
use crate::journal::record;
use crate::journal::recovery::read_header;
use crate::journal::scan::Scanner;
use crate::journal::segment::{HEADER_BLOCK, Header, HeaderBlock, Layout, segment_name};
use crate::journal::storage::{Folder, Storage, StorageError};
use crate::message::{Lane, RecordId};

/// Most records, and about how many bytes, that wait for one commit.
const PART_RECORDS: usize = 256;
const PART_BYTES: usize = 256 * 1024;
/// Longest a commit may take before it is called off.
const COMMIT_MAX: Duration = Duration::from_secs(180);

/// What was taken up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Records that are in their lane again.
    pub records: u64,
    /// Records in the file that had left already.
    pub left_out: u64,
    /// Records the list names that are not in the file, or not where it can be read.
    pub missing: u64,
}

/// Why nothing more was taken up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportError {
    /// The disk does not give the file.
    Unreadable(StorageError),
    /// Its header does not check: it is no segment, or damaged beyond use.
    NoSegment,
    /// It is of another major version of the format.
    OtherVersion(u16),
    /// It does not lie in the journal's directory, which is this: whoever may give the daemon a
    /// command could have anything published by a file of their own, past every rule.
    Outside(PathBuf),
    /// It is a folder, or something else that is no file.
    NoFile,
    /// There is no list beside it: nobody knows what in it has left already.
    NoList,
    /// The lane takes no more at present; so many records were taken up before.
    Refused(u64),
    /// Another one is under way.
    Busy,
    /// The journal is being closed.
    Closed,
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImportError::Unreadable(error) => write!(f, "the file cannot be read: {error}"),
            ImportError::NoSegment => {
                f.write_str("the file is not a journal segment, or both copies of its header are damaged")
            }
            ImportError::OtherVersion(major) => {
                write!(f, "the file is of journal format {major}, which this version does not read")
            }
            ImportError::Outside(directory) => write!(
                f,
                "the file is not in {}; only a file that was put there is taken up: copy it beside the list that names \
                 its records, as root",
                directory.display()
            ),
            ImportError::NoFile => {
                f.write_str("it is not a file; `tombolo queue verify` lists the files, like normal/FILE")
            }
            ImportError::NoList => f.write_str(
                "there is no list (.ids) of the records to take from this file; with --all every record in it is \
                 sent, those that were delivered before too",
            ),
            ImportError::Refused(taken) => write!(
                f,
                "the lane takes no more records at present; {taken} were taken up, run it again later for the rest"
            ),
            ImportError::Busy => f.write_str("another file is being taken up; run it again later"),
            ImportError::Closed => f.write_str("the journal is being closed"),
        }
    }
}

impl std::error::Error for ImportError {}

/// Takes up what a file on a lane's shelf holds of its list.
pub(super) fn from_shelf(disk: &Disk, shared: &Shared, aside: &Aside) -> Result<Imported, ImportError> {
    let folder = Folder::of(aside.lane);
    let name = segment_name(aside.number);
    let mut failed = StorageError::Missing;
    for ending in [".unreadable", ".damaged", ""] {
        match disk.open(folder, &format!("{name}{ending}")) {
            Ok(file) => return import(&file, shared, Some(aside)),
            Err(StorageError::Missing) => {}
            Err(error) => failed = error,
        }
    }
    Err(ImportError::Unreadable(failed))
}

/// Takes up what a file in the journal's directory holds; `all`: even where there is no list.
pub(super) fn from_path(
    disk: &Disk,
    shared: &Shared,
    path: &Path,
    all: bool,
) -> Result<Imported, ImportError> {
    let real = |path: &Path| std::fs::canonicalize(path).map_err(|error| storage_error(&error));
    let directory = real(disk.directory()).map_err(ImportError::Unreadable)?;
    let path = real(path).map_err(ImportError::Unreadable)?;
    if !path.starts_with(&directory) {
        return Err(ImportError::Outside(directory));
    }
    if !path.is_file() {
        return Err(ImportError::NoFile);
    }
    let file = disk.open_path(&path).map_err(ImportError::Unreadable)?;
    let (header, _) = header_of(&file)?;
    let lane = *Lane::ALL.get(usize::from(header.lane)).ok_or(ImportError::NoSegment)?;
    if all {
        return import(&file, shared, None);
    }
    let shelf = shared.lock().lanes[lane.index()].shelf.clone();
    let known = shelf.iter().find(|aside| aside.number == header.number && !aside.ranges.is_empty());
    match known {
        Some(aside) => import(&file, shared, Some(aside)),
        None => Err(ImportError::NoList),
    }
}

/// How many of the records on its list a file holds where they can be read.
pub(super) fn count(disk: &Disk, lane: Lane, name: &str, list: &Aside) -> Result<u64, ImportError> {
    let file = disk.open(Folder::of(lane), name).map_err(ImportError::Unreadable)?;
    let (header, layout) = header_of(&file)?;
    let runs = runs_of(&file, &header, &layout);
    let mut scanner = Scanner::new(&file, header.seed(), HEADER_BLOCK, layout.frame_limit, u32::MAX);
    let mut found = 0;
    while let Some((_, frame)) = scanner.next_frame() {
        let is_wanted = frame.kind == Kind::Reading && list.wants(frame.sequence, &runs);
        found += u64::from(is_wanted && record::decode(frame.body).is_some());
    }
    Ok(found)
}

/// The runs of which there is a record in a file, as far as it can be read.
fn runs_of(file: &DiskFile, header: &Header, layout: &Layout) -> BTreeSet<u64> {
    let mut scanner = Scanner::new(file, header.seed(), HEADER_BLOCK, layout.frame_limit, u32::MAX);
    let mut runs = BTreeSet::from([header.run]);
    while let Some((_, frame)) = scanner.next_frame() {
        if frame.kind == Kind::Opening {
            runs.extend(Fields(frame.body).u64());
        }
    }
    runs
}

fn header_of(file: &DiskFile) -> Result<(Header, Layout), ImportError> {
    match read_header(file).map_err(ImportError::Unreadable)? {
        HeaderBlock::Valid(header, _) => {
            Layout::new(header.size).map(|layout| (header, layout)).ok_or(ImportError::NoSegment)
        }
        HeaderBlock::OtherVersion(major) => Err(ImportError::OtherVersion(major)),
        HeaderBlock::Free | HeaderBlock::Damaged => Err(ImportError::NoSegment),
    }
}

/// Records on their way to a commit.
#[derive(Default)]
struct Part {
    bodies: Vec<(u64, RecordId, Vec<u8>)>,
    bytes: usize,
}

/// One at a time, so that two do not take up the same records.
struct Turn<'s>(&'s Shared);

impl<'s> Turn<'s> {
    fn take(shared: &'s Shared) -> Result<Turn<'s>, ImportError> {
        match std::mem::replace(&mut shared.lock().importing, true) {
            true => Err(ImportError::Busy),
            false => Ok(Turn(shared)),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().importing = false;
    }
}

fn import(file: &DiskFile, shared: &Shared, list: Option<&Aside>) -> Result<Imported, ImportError> {
    let _turn = Turn::take(shared)?;
    // As it is now: one that was under way before may have shortened it.
    let current = list.map(|list| {
        let shelf = shared.lock().lanes[list.lane.index()].shelf.clone();
        shelf.iter().find(|aside| aside.number == list.number).cloned()
    });
    let list = match &current {
        None => None,
        Some(Some(list)) => Some(list),
        Some(None) => return Ok(Imported::default()),
    };
    let (header, layout) = header_of(file)?;
    let lane = *Lane::ALL.get(usize::from(header.lane)).ok_or(ImportError::NoSegment)?;
    let runs = runs_of(file, &header, &layout);
    let mut scanner = Scanner::new(file, header.seed(), HEADER_BLOCK, layout.frame_limit, u32::MAX);
    let mut run = header.run;
    let mut done = Imported::default();
    let mut part = Part::default();
    let mut before = 0;
    while let Some((_, frame)) = scanner.next_frame() {
        match frame.kind {
            Kind::Opening => run = Fields(frame.body).u64().unwrap_or(run),
            // A failed commit may have left frames whose sequences were given again in another
            // segment.
            Kind::Reading if frame.sequence <= before || record::decode(frame.body).is_none() => {}
            Kind::Reading => {
                before = frame.sequence;
                let id = RecordId { run, sequence: frame.sequence };
                if list.is_some_and(|list| !list.wants(frame.sequence, &runs)) {
                    done.left_out += 1;
                    continue;
                }
                part.bytes += frame.body.len();
                part.bodies.push((frame.sequence, id, frame.body.to_vec()));
                if part.bodies.len() >= PART_RECORDS || part.bytes >= PART_BYTES {
                    commit(shared, lane, std::mem::take(&mut part), list, &mut done)?;
                }
            }
            _ => {}
        }
    }
    commit(shared, lane, part, list, &mut done)?;
    let whole = scanner.failed().is_none() && !scanner.has_hole(0, u32::MAX);
    if let Some(list) = list {
        done.missing =
            list.ranges.iter().map(|range| range.records).sum::<u64>().saturating_sub(done.records);
        if whole && done.missing == 0 {
            shared.command(Command::Imported { lane, number: list.number, taken: None });
        }
    }
    Ok(done)
}

/// Appends these records and waits until they are durable.
fn commit(
    shared: &Shared,
    lane: Lane,
    part: Part,
    list: Option<&Aside>,
    done: &mut Imported,
) -> Result<(), ImportError> {
    if part.bodies.is_empty() {
        return Ok(());
    }
    let mut state = shared.lock();
    if state.closing || state.dead {
        return Err(ImportError::Closed);
    }
    let mut readings = Vec::new();
    let mut total = 0;
    for (_, id, body) in &part.bodies {
        if let Some(reading) = record::decode(body) {
            let original = Some(reading.original.unwrap_or(*id));
            if let Ok(size) = record::frame_size(&reading.content, original) {
                total += size;
                readings.push((reading.content, original, size));
            }
        }
    }
    // All or none, so that nothing is appended twice.
    if readings.iter().any(|(.., size)| refusal(&state, lane, *size).is_some())
        || refusal(&state, lane, total.min(state.record_max)).is_some()
        || total as u64 > state.lanes[lane.index()].room
    {
        return Err(ImportError::Refused(done.records));
    }
    let mut last = 0;
    for (content, original, size) in &readings {
        last = state.push(lane, content, *size, *original, None);
    }
    let (answer, committed) = mpsc::channel();
    state.awaiting.push((lane, last, answer));
    state.idle = false;
    drop(state);
    shared.work.notify_one();
    match committed.recv_timeout(COMMIT_MAX) {
        Ok(true) => {}
        Ok(false) => return Err(ImportError::Refused(done.records)),
        Err(_) => return Err(ImportError::Closed),
    }
    done.records += readings.len() as u64;
    if let Some(list) = list {
        let mut taken: Vec<(u64, u64)> = Vec::new();
        for (sequence, ..) in &part.bodies {
            match taken.last_mut() {
                Some((_, last)) if *last + 1 == *sequence => *last = *sequence,
                _ => taken.push((*sequence, *sequence)),
            }
        }
        shared.command(Command::Imported { lane, number: list.number, taken: Some(taken) });
    }
    Ok(())
}
