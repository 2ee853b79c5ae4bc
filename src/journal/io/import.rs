//! Imports records from a file that was set aside: each is appended to its lane again, with its
//! previous id.
//!
//! Only the records named in the list of the file are imported: all others were released already.
//! The list is shortened after each part, so that an interrupted import does not import a record
//! twice.

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

/// Most records, and the approximate number of bytes, per commit.
const PART_RECORDS: usize = 256;
const PART_BYTES: usize = 256 * 1024;
/// Longest time to wait for a commit before the import is aborted.
const COMMIT_MAX: Duration = Duration::from_secs(180);

/// The result of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Records imported to their lane.
    pub records: u64,
    /// Records in the file that were already released.
    pub left_out: u64,
    /// Records that the list names but that are not in a readable part of the file.
    pub missing: u64,
}

/// Why an import ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportError {
    /// The file cannot be read.
    Unreadable(StorageError),
    /// Its header is invalid: it is not a segment, or both copies of the header are damaged.
    NoSegment,
    /// It has another major format version.
    OtherVersion(u16),
    /// It is not in the journal's directory (given here). Otherwise a user with access to the
    /// control socket could publish any content with a forged file, without any rule allowing it.
    Outside(PathBuf),
    /// It is not a regular file.
    NoFile,
    /// It has no list, so it is unknown which of its records were already released.
    NoList,
    /// The lane is full or failing; this many records were imported before.
    Refused(u64),
    /// Another import is in progress.
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
                "the file is not in {}; only a file in it can be imported: copy it to the folder with the list that names \
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
                "the lane accepts no more records now; {taken} were imported; run the import again later for the rest"
            ),
            ImportError::Busy => f.write_str("another import is in progress; run it again later"),
            ImportError::Closed => f.write_str("the journal is being closed"),
        }
    }
}

impl std::error::Error for ImportError {}

/// Imports the records of a list from a file on a lane's shelf.
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

/// Imports the records of a file in the journal's directory; with `all`, also without a list.
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

/// The number of records on the list that can be read from the file.
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

/// The runs of the records in a file, as far as it can be read.
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

/// Records collected for a commit.
#[derive(Default)]
struct Part {
    bodies: Vec<(u64, RecordId, Vec<u8>)>,
    bytes: usize,
}

/// Allows one import at a time, so that two do not import the same records.
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
    // Read again, because an import that has just ended may have shortened the list.
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
            // A failed commit may have left frames whose sequences were reused in another segment.
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
