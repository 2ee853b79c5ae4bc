//! Faults found while a backlog is read, through the handle on a real disk: a place that is
//! unreadable for a long time, and one that is damaged.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tombolo::journal::{ImportError, Imported, Journal, Next};
use tombolo::message::{Lane, RecordId};

use crate::real::{Scratch, runtime, small, store, wait};
use tombolo_test_support::disk_faults::{VARIABLE, library, write};
use tombolo_test_support::journal::harness::payload;

const CHILD: &str = "TOMBOLO_JOURNAL_WAITING_CHILD";
const RECORDS: u64 = 600;
const HOUR: Duration = Duration::from_secs(3600);

/// Stores records in several segments and ends.
fn stored(directory: &Path) -> Vec<PathBuf> {
    let runtime = runtime();
    let (mut journal, _) = Journal::open(&small(directory)).unwrap();
    for n in 1..=RECORDS {
        assert_eq!(store(&runtime, &mut journal, Lane::Normal, &payload(n, 400)), Ok(Ok(())));
    }
    drop(journal);
    let mut files: Vec<PathBuf> = std::fs::read_dir(small(directory).directory.join("normal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    files.sort();
    files
}

/// Reads until `count` records have come; their numbers, as their payloads say, and the ids they
/// had first.
fn read(journal: &mut Journal, count: usize) -> (BTreeSet<u64>, Vec<Option<RecordId>>) {
    let runtime = runtime();
    let (mut marks, mut originals) = (BTreeSet::new(), Vec::new());
    while marks.len() < count {
        match journal.next(Lane::Normal) {
            Next::Record(stored) => {
                let mark = u64::from_le_bytes(stored.content.payload[..8].try_into().unwrap());
                assert!(marks.insert(mark), "{mark} came twice");
                originals.push(stored.original);
            }
            Next::Empty | Next::Pending => wait(&runtime, journal),
        }
    }
    (marks, originals)
}

/// Waits until a condition of the journal's holds.
fn until(journal: &Journal, holds: impl Fn(&Journal) -> bool) {
    for _ in 0..3000 {
        if holds(journal) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{:?}", journal.status());
}

#[test]
fn damage_met_while_reading_is_counted_and_the_file_is_kept_until_it_can_be_read() {
    let scratch = Scratch::new("damage-met");
    let files = stored(&scratch.0);
    let whole = std::fs::read(&files[0]).unwrap();
    let file = std::fs::File::options().write(true).open(&files[0]).unwrap();
    file.write_all_at(&[0; 6000], 30_000).unwrap();
    let (mut journal, report) = Journal::open(&small(&scratch.0)).unwrap();
    assert_eq!(report.store.lanes[1].missing, 0, "a sealed segment is not scanned at the start");
    let last = RECORDS as usize;
    // The last record comes behind the damage.
    let runtime = runtime();
    let mut got = BTreeSet::new();
    while got.last() != Some(&RECORDS) {
        match journal.next(Lane::Normal) {
            Next::Record(stored) => drop(got.insert(stored.sequence)),
            Next::Empty | Next::Pending => wait(&runtime, &journal),
        }
    }
    let missing = (last - got.len()) as u64;
    assert!((10..20).contains(&missing), "{missing}");
    journal.release(Lane::Normal, RECORDS);
    until(&journal, |journal| journal.status().lanes[1].lost_records() == missing);
    let aside = files[0].with_extension("seg.damaged");
    until(&journal, |_| aside.exists());
    // It contains nothing that can be imported, unless there is a better copy.
    let importer = journal.importer();
    let taken = importer.import(&aside, false).unwrap();
    assert_eq!((taken.records, taken.missing), (0, missing));
    std::fs::write(&aside, whole).unwrap();
    let taken = importer.import(&aside, false).unwrap();
    assert_eq!((taken.records, taken.missing), (missing, 0));
    let (marks, originals) = read(&mut journal, missing as usize);
    assert!(marks.iter().all(|mark| !got.contains(mark)));
    assert!(originals.iter().all(|id| id.is_some_and(|id| marks.contains(&id.sequence))));
    until(&journal, |_| !aside.exists());
    until(&journal, |journal| journal.status().lanes[1].set_aside == 0);
}

#[test]
fn records_behind_a_damaged_opening_are_taken_up_though_the_list_has_the_run_before() {
    let scratch = Scratch::new("two-runs");
    let runtime = runtime();
    for records in [1..=40, 41..=RECORDS] {
        let (mut journal, _) = Journal::open(&small(&scratch.0)).unwrap();
        for n in records {
            assert_eq!(store(&runtime, &mut journal, Lane::Normal, &payload(n, 400)), Ok(Ok(())));
        }
    }
    let file = small(&scratch.0).directory.join("normal/0000000000000001.seg");
    let whole = std::fs::read(&file).unwrap();
    let at = |mark| {
        let wanted = payload(mark, 400);
        whole.windows(400).position(|window| window == wanted).unwrap()
    };
    let mut damaged = whole.clone();
    damaged[at(37)..at(44)].fill(0);
    std::fs::write(&file, damaged).unwrap();
    let (mut journal, _) = Journal::open(&small(&scratch.0)).unwrap();
    let mut got = BTreeSet::new();
    while got.last() != Some(&RECORDS) {
        match journal.next(Lane::Normal) {
            Next::Record(stored) => drop(got.insert(stored.sequence)),
            Next::Empty | Next::Pending => wait(&runtime, &journal),
        }
    }
    journal.release(Lane::Normal, RECORDS);
    let aside = file.with_extension("seg.damaged");
    until(&journal, |_| aside.exists());
    std::fs::write(&aside, whole).unwrap();
    let taken = journal.importer().import(&aside, false).unwrap();
    assert_eq!((taken.records, taken.missing), (RECORDS - got.len() as u64, 0), "{got:?}");
    let (marks, _) = read(&mut journal, taken.records as usize);
    assert!(marks.iter().all(|mark| !got.contains(mark)), "{marks:?}");
}

#[test]
fn an_import_takes_nothing_that_has_left_and_nothing_twice() {
    let scratch = Scratch::new("import");
    let files = stored(&scratch.0);
    let (journal, _) = Journal::open(&small(&scratch.0)).unwrap();
    let importer = journal.importer();
    // A file from elsewhere would pass every rule.
    let copy = scratch.0.join("a copy.seg");
    std::fs::copy(&files[0], &copy).unwrap();
    let link = files[0].with_file_name("link.seg");
    std::os::unix::fs::symlink(&copy, &link).unwrap();
    for outside in [&copy, &link, Path::new("../a copy.seg")] {
        let refused = importer.import(outside, true).unwrap_err();
        assert!(matches!(refused, ImportError::Outside(_)), "{refused}");
    }
    let copy = files[0].with_file_name("a copy.seg");
    std::fs::copy(&files[0], &copy).unwrap();
    let refused = importer.import(&copy, false).unwrap_err();
    assert!(refused.to_string().contains("--all"), "{refused}");
    assert_eq!(journal.status().lanes[1].records, RECORDS);
    let Imported { records, .. } = importer.import(&copy, true).unwrap();
    assert!(records > 100);
    assert_eq!(journal.status().lanes[1].records, RECORDS + records);
    for content in [&b""[..], b"TOMBJRNL", &[7; 10_000]] {
        std::fs::write(&copy, content).unwrap();
        assert!(importer.import(&copy, true).is_err());
    }
    assert!(importer.import(&scratch.0, true).is_err(), "a folder");
    assert!(importer.import(Path::new("normal/none.seg"), true).is_err());
}

/// Not a test: what runs on the disk that does not give a place.
#[test]
fn child_on_a_bad_disk() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let (directory, faults) = (Path::new(&directory), std::env::var(VARIABLE).unwrap());
    let faults = Path::new(&faults);
    let files = stored(directory);
    let name = files[0].file_name().unwrap().to_str().unwrap();
    write(faults, &format!("read 5 normal/{name} 40960 53248\n"));
    // Patient for an hour it waits; what is before the place comes.
    let (mut journal, _) = Journal::open_with(&small(directory), HOUR).unwrap();
    let before = read(&mut journal, 60).0.len();
    let runtime = runtime();
    while journal.status().reading[1].is_none() {
        assert!(!matches!(journal.next(Lane::Normal), Next::Empty), "there is more");
        std::thread::sleep(Duration::from_millis(1));
    }
    let trouble = journal.status().reading[1].unwrap();
    assert_eq!((trouble.segment, trouble.offset), (1, 40_960));
    assert_eq!(store(&runtime, &mut journal, Lane::Normal, &payload(9_000, 400)), Ok(Ok(())));
    drop(journal);
    // Patient for no time it steps over it.
    let (mut journal, _) = Journal::open_with(&small(directory), Duration::ZERO).unwrap();
    let mut got = BTreeSet::new();
    while got.last() != Some(&9_000) {
        match journal.next(Lane::Normal) {
            Next::Record(stored) => {
                got.insert(u64::from_le_bytes(stored.content.payload[..8].try_into().unwrap()));
            }
            Next::Empty | Next::Pending => wait(&runtime, &journal),
        }
    }
    let missing = RECORDS + 1 - got.len() as u64;
    assert!((20..40).contains(&missing) && before == 60, "{missing}");
    journal.release(Lane::Normal, RECORDS + 1);
    until(&journal, |journal| journal.status().lanes[1].unreadable == missing);
    let aside = files[0].with_extension("seg.unreadable");
    until(&journal, |_| aside.exists());
    assert_eq!(journal.status().lanes[1].lost_records(), 0);
    until(&journal, |journal| journal.status().lanes[1].records == 0);
    // A part of it can be read again: that is taken up, and the rest is kept.
    write(faults, &format!("read 5 normal/{name} 40960 45056\n"));
    let taken = journal.importer().import(&aside, false).unwrap();
    assert!(taken.records > 0 && taken.missing > 0 && taken.records + taken.missing == missing, "{taken:?}");
    until(&journal, |journal| journal.status().lanes[1].unreadable == taken.missing);
    assert!(aside.exists());
    for mark in read(&mut journal, taken.records as usize).0 {
        assert!(got.insert(mark), "{mark} had come");
    }
    let missing = taken.missing;
    let last = journal.status().lanes[1].records + RECORDS + 1;
    journal.release(Lane::Normal, last);
    until(&journal, |journal| journal.status().lanes[1].records == 0);
    drop(journal);
    // The list survives, and when the disk gives the place the records come by themselves.
    write(faults, "");
    let (mut journal, report) = Journal::open_with(&small(directory), Duration::ZERO).unwrap();
    assert_eq!(report.store.lanes[1].records, 0);
    let (marks, originals) = read(&mut journal, missing as usize);
    assert!(marks.iter().all(|mark| !got.contains(mark)));
    assert!(originals.iter().all(Option::is_some));
    until(&journal, |journal| journal.status().lanes[1].unreadable == 0);
    until(&journal, |_| !aside.exists());
    println!("the child has come to its end");
}

#[test]
fn a_place_that_is_not_given_stops_its_lane_then_is_stepped_over_listed_and_taken_up() {
    let scratch = Scratch::new("not-given");
    let faults = scratch.0.join("faults");
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["waiting::child_on_a_bad_disk", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, &scratch.0)
        .env("LD_PRELOAD", library())
        .env(VARIABLE, &faults)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(text.contains("has come to its end"), "{text}{}", String::from_utf8_lossy(&child.stderr));
}
