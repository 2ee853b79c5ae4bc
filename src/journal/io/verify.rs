//! Reads every file of a journal completely, bypassing the page cache, and reports its faults.
//! Writes nothing, so it may run while the daemon runs.

use std::path::Path;

use serde::Serialize;

use super::disk::Disk;
use crate::journal::aside::{Aside, AsideCause, AsideRange};
use crate::journal::recovered::Recovered;
use crate::journal::recovery;
use crate::journal::scan::{self, Scan};
use crate::journal::segment::{self, HeaderBlock, Layout};
use crate::journal::settings::Settings;
use crate::journal::shelf::Place;
use crate::journal::storage::{Folder, Storage, StorageError, StoredFile};
use crate::journal::witness::WitnessFile;
use crate::journal::{rejected, retention};
use crate::message::Lane;

/// The report on one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Its path relative to the journal's directory.
    pub file: String,
    /// `ok`, `damaged`, `unreadable`, `cut`, or `set-aside`.
    pub state: &'static str,
    /// The number of valid records in it.
    pub records: u64,
    /// Records that are missing in it, or that its list names.
    pub missing: Vec<Missing>,
    /// Details as text.
    pub note: Option<String>,
}

/// Consecutive records of one lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The id of the oldest. Run 0 = unknown.
    pub first: String,
    /// The id of the newest.
    pub last: String,
    /// The number of records that were certainly stored.
    pub records: u64,
}

/// Verifies the journal in `settings.directory`; calls `found` with the report on each file.
///
/// # Errors
/// A folder cannot be listed, or the journal has another format version.
pub fn verify(settings: &Settings, mut found: impl FnMut(FileReport)) -> Result<(), String> {
    let disk = Disk::new(&settings.directory);
    if !Path::is_dir(&settings.directory) {
        return Err(format!(
            "there is no journal in {}; the gateway's first start makes it; [paths] state-dir or --config names another place",
            settings.directory.display()
        ));
    }
    let layout = retention::layout(settings);
    let (_, seen) = WitnessFile::open(&disk);
    for lane in Lane::ALL {
        let seen = seen.unwrap_or_default().lanes[lane.index()];
        let (known, _) = recovery::recover(&disk, lane, layout, seen).map_err(|error| match error {
            recovery::RecoveryError::OtherVersion(major) => {
                format!("the journal is of format {major}, which this version does not read")
            }
            recovery::RecoveryError::Storage(error) => {
                format!("{}/{lane}: {error}", settings.directory.display())
            }
        })?;
        verify_lane(&disk, lane, &known, &mut found)?;
    }
    for (name, _) in list(&disk, Folder::Rejected)? {
        if let Some(report) = verify_rejected(&disk, &name) {
            found(report);
        }
    }
    Ok(())
}

fn list(disk: &Disk, folder: Folder) -> Result<Vec<(String, u64)>, String> {
    let mut files = disk.list(folder).map_err(|error| format!("{}: {error}", folder.as_str()))?;
    files.sort();
    Ok(files)
}

fn verify_lane(
    disk: &Disk,
    lane: Lane,
    known: &Recovered<super::DiskFile>,
    found: &mut impl FnMut(FileReport),
) -> Result<(), String> {
    let folder = Folder::of(lane);
    let mut files: Vec<(u64, String)> = list(disk, folder)?
        .into_iter()
        .filter_map(|(name, _)| Some((segment::parse_name(&name, "seg")?, name)))
        .collect();
    files.sort();
    let mut successor = None;
    let mut reports = Vec::new();
    for (number, name) in files.iter().rev() {
        let file = format!("{lane}/{name}");
        let shelved = known.asides.iter().find(|item| item.aside.number == *number);
        let mut looked = read(disk, lane, *number, name, successor);
        let is_whole = |scan: &Scan| scan.gaps.is_empty() && !scan.cut;
        if !matches!(&looked, Ok(None)) && !matches!(&looked, Ok(Some((_, scan))) if is_whole(scan)) {
            // The daemon may have been writing it, and one wrong checksum is not yet damage.
            disk.wait_for_second_look();
            looked = read(disk, lane, *number, name, successor);
        }
        let report = match looked {
            Ok(None) => continue,
            Ok(Some((first, scan))) => {
                successor = Some(first);
                judge(file, &scan, known, shelved.map(|item| &item.aside))
            }
            Err(Unread::Damaged) => {
                let note = Some("both copies of its header are damaged".to_owned());
                FileReport { file, state: "damaged", note, ..FileReport::default() }
            }
            Err(Unread::Disk(error)) => FileReport {
                file,
                state: "unreadable",
                note: Some(error.to_string()),
                ..FileReport::default()
            },
        };
        reports.push(report);
    }
    reports.into_iter().rev().for_each(&mut *found);
    for item in known.asides.iter().filter(|item| item.place == Place::Away) {
        found(set_aside(disk, &item.aside, &item.file_name()));
    }
    Ok(())
}

enum Unread {
    Damaged,
    Disk(StorageError),
}

/// Reads a segment completely: its first sequence and the report. `None` if it has no records, or
/// was recycled meanwhile.
fn read(
    disk: &Disk,
    lane: Lane,
    number: u64,
    name: &str,
    successor: Option<u64>,
) -> Result<Option<(u64, Scan)>, Unread> {
    let file = match disk.open(Folder::of(lane), name) {
        Ok(file) => file,
        Err(StorageError::Missing) => return Ok(None),
        Err(error) => return Err(Unread::Disk(error)),
    };
    file.forget_cache();
    let header = match recovery::read_header(&file).map_err(Unread::Disk)? {
        HeaderBlock::Free => return Ok(None),
        HeaderBlock::Valid(header, _) if header.number == number && header.lane == lane as u8 => header,
        _ => return Err(Unread::Damaged),
    };
    let layout = Layout::new(header.size).ok_or(Unread::Damaged)?;
    let scan = scan::scan_segment(&file, lane, &header, layout, successor, u32::MAX).map_err(Unread::Disk)?;
    Ok(Some((header.first_sequence, scan)))
}

fn judge(
    file: String,
    scan: &Scan,
    known: &Recovered<super::DiskFile>,
    shelved: Option<&Aside>,
) -> FileReport {
    let mut report = FileReport { file, state: "ok", records: scan.records, ..FileReport::default() };
    let id = |sequence: u64| format!("{:016x}-{sequence}", scan.segment.run_of(sequence).run);
    for gap in &scan.gaps {
        let first = gap.first.max(known.control.released + 1);
        for (first, last) in known.settled.missing_in(first, gap.last) {
            report.missing.push(Missing { first: id(first), last: id(last), records: last - first + 1 });
            report.state = if gap.unread { "unreadable" } else { "damaged" };
        }
    }
    if let Some(aside) = shelved {
        report.missing.extend(aside.ranges.iter().map(shown));
        report.state = aside.cause().as_str();
    }
    if scan.cut {
        report.state = "cut";
        report.note = Some("the file is shorter than its configured size".to_owned());
    } else if scan.unread_end {
        report.state = "unreadable";
        report.note = Some("the end of the file cannot be read".to_owned());
    }
    report
}

fn shown(range: &AsideRange) -> Missing {
    Missing { first: range.first.to_string(), last: range.last.to_string(), records: range.records }
}

/// The report on a file set aside: how many of its listed records could be imported now.
fn set_aside(disk: &Disk, aside: &Aside, name: &str) -> FileReport {
    let mut report = FileReport {
        file: format!("{}/{name}", aside.lane),
        state: "set-aside",
        missing: aside.ranges.iter().map(shown).collect(),
        ..FileReport::default()
    };
    let listed = aside.records(AsideCause::Unreadable) + aside.records(AsideCause::Damaged);
    match super::import::count(disk, aside.lane, name, aside) {
        Ok(records) => {
            report.records = records;
            report.note = Some(match records {
                _ if aside.ranges.is_empty() => "there is no list of the records to take from it".to_owned(),
                0 => format!("none of the {listed} records listed can be read"),
                _ => format!(
                    "{records} of the {listed} records listed can be read: tombolo queue import {}/{name}",
                    aside.lane
                ),
            });
        }
        Err(error) => report.note = Some(error.to_string()),
    }
    report
}

fn verify_rejected(disk: &Disk, name: &str) -> Option<FileReport> {
    let unreadable = segment::parse_name(name, "log.unreadable");
    let number = segment::parse_name(name, "log").or(unreadable)?;
    let mut report = FileReport {
        file: format!("{}/{name}", Folder::Rejected.as_str()),
        state: "ok",
        ..FileReport::default()
    };
    match rejected::inspect(disk, name, number) {
        Ok((records, missing, unread)) => {
            report.records = records;
            if missing > 0 {
                report.state = "damaged";
                report.note = Some(format!("{missing} rejected records are missing"));
            }
            if let Some(error) = unread {
                report.state = "unreadable";
                report.note = Some(error.to_string());
            }
        }
        Err(Some(error)) => {
            report.state = "unreadable";
            report.note = Some(error.to_string());
        }
        Err(None) => {
            report.state = "damaged";
            report.note = Some("both copies of its header are damaged".to_owned());
        }
    }
    Some(report)
}
