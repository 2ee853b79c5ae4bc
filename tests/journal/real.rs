//! On real disks, through the handle: killed processes, a full disk, a backlog of a million
//! records, two daemons, another version.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tombolo::journal::settings::{LaneSettings, Settings, WhenFull};
use tombolo::journal::storage::StorageError;
use tombolo::journal::{Failed, Journal, LossCause, Next, OpenError, Refused, Retried, Ticket};
use tombolo::message::{Lane, RecordId};
use tombolo::splitmix::SplitMix64;

use tombolo_test_support::journal::harness::payload;
use tombolo_test_support::readings::Readings;

/// A directory of its own that goes with the test.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("tombolo-journal-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&path));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn settings(directory: &Path) -> Settings {
    let lane = |max_bytes| LaneSettings { max_bytes, when_full: WhenFull::Refuse, device_share: 100 };
    Settings {
        directory: directory.join("journal"),
        max_bytes: 256 << 20,
        commit_interval: Duration::from_millis(2),
        segment_bytes: 4 << 20,
        lanes: [lane(40 << 20), lane(192 << 20)],
        rejected_max_bytes: 16 << 20,
    }
}

pub fn small(directory: &Path) -> Settings {
    let lane = LaneSettings { max_bytes: 1 << 20, when_full: WhenFull::Refuse, device_share: 100 };
    Settings {
        max_bytes: 4 << 20,
        segment_bytes: 128 << 10,
        lanes: [lane; 2],
        rejected_max_bytes: 512 << 10,
        ..settings(directory)
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// Waits for a wake, at most ten seconds.
pub fn wait(runtime: &tokio::runtime::Runtime, journal: &Journal) {
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(10), journal.wake()).await.expect("a wake comes")
    });
}

/// Appends a record that a gate let pass.
pub fn append(journal: &mut Journal, lane: Lane, payload: &[u8], ticket: u64) -> Result<RecordId, Refused> {
    thread_local! {
        static READINGS: RefCell<Readings> = RefCell::default();
    }
    READINGS.with_borrow_mut(|readings| journal.append(&readings.pass(lane, payload), Ticket(ticket.into())))
}

/// Appends one record and waits for what becomes of it.
pub fn store(
    runtime: &tokio::runtime::Runtime,
    journal: &mut Journal,
    lane: Lane,
    payload: &[u8],
) -> Result<Result<(), Failed>, Refused> {
    append(journal, lane, payload, 7)?;
    loop {
        if let Some(completion) = journal.poll_completion() {
            assert_eq!((completion.ticket, completion.lane), (Ticket(7), lane));
            return Ok(completion.result);
        }
        wait(runtime, journal);
    }
}

/// Reads up to `limit` records of a lane.
fn read(
    runtime: &tokio::runtime::Runtime,
    journal: &mut Journal,
    lane: Lane,
    limit: usize,
) -> Vec<(u64, Vec<u8>)> {
    let mut out = Vec::new();
    while out.len() < limit {
        match journal.next(lane) {
            Next::Record(stored) => out.push((stored.sequence, stored.content.payload.to_vec())),
            Next::Empty => break,
            Next::Pending => wait(runtime, journal),
        }
    }
    out
}

#[test]
fn what_was_stored_is_read_back_by_the_next_opening() {
    let scratch = Scratch::new("again");
    let runtime = runtime();
    let (mut journal, report) = Journal::open(&small(&scratch.0)).unwrap();
    assert_eq!(report.store.lanes[1].records, 0);
    for n in 0..50u64 {
        assert_eq!(store(&runtime, &mut journal, Lane::Normal, &payload(n, 100)), Ok(Ok(())));
    }
    let Next::Record(first) = journal.next(Lane::Normal) else { panic!("nothing there") };
    assert!(first.same_boot);
    let id = first.id;
    journal.release(Lane::Normal, 10);
    journal.close();
    assert_eq!(append(&mut journal, Lane::High, b"x", 1), Err(Refused::Closed));
    drop(journal);
    let (mut journal, report) = Journal::open(&small(&scratch.0)).unwrap();
    assert_eq!(report.store.lanes[1].records, 40);
    assert_eq!(report.store.lanes[1].missing, 0);
    let got = read(&runtime, &mut journal, Lane::Normal, usize::MAX);
    let expected: Vec<_> = (10..50u64).map(|n| (n + 1, payload(n, 100))).collect();
    assert_eq!(got, expected);
    journal.rewind(Lane::Normal);
    assert_eq!(read(&runtime, &mut journal, Lane::Normal, usize::MAX), expected);
    // Another run, the sequence goes on.
    let next = append(&mut journal, Lane::Normal, b"x", 1).unwrap();
    assert_eq!(next.sequence, 51);
    assert_ne!(next.run, id.run);
}

#[test]
fn completions_come_in_order_and_all_of_them() {
    let scratch = Scratch::new("order");
    let runtime = runtime();
    let (mut journal, _) = Journal::open(&settings(&scratch.0)).unwrap();
    let total = 20_000u64;
    let (mut appended, mut completed) = (0, 0);
    while completed < total {
        while appended < total && appended < completed + 500 {
            let lane = if appended % 2 == 0 { Lane::High } else { Lane::Normal };
            append(&mut journal, lane, &payload(appended, 120), appended).unwrap();
            appended += 1;
        }
        let mut last = [None; 2];
        while let Some(completion) = journal.poll_completion() {
            assert_eq!(completion.result, Ok(()));
            let last = &mut last[completion.lane.index()];
            assert!(last.is_none_or(|last: Ticket| last.0 < completion.ticket.0));
            *last = Some(completion.ticket);
            completed += 1;
        }
        if completed < appended {
            wait(&runtime, &journal);
        }
    }
    for lane in Lane::ALL {
        let got = read(&runtime, &mut journal, lane, usize::MAX);
        assert_eq!(got.len() as u64, total / 2);
        assert!(got.iter().zip(1..).all(|((sequence, _), expected)| *sequence == expected));
    }
}

#[test]
fn a_commit_after_another_waits_for_the_interval() {
    let scratch = Scratch::new("interval");
    let runtime = runtime();
    let interval = Duration::from_millis(400);
    let (mut journal, _) =
        Journal::open(&Settings { commit_interval: interval, ..small(&scratch.0) }).unwrap();
    let begin = Instant::now();
    for _ in 0..3 {
        assert_eq!(store(&runtime, &mut journal, Lane::High, b"x"), Ok(Ok(())));
    }
    assert!(begin.elapsed() >= 2 * interval);
}

#[test]
fn a_second_daemon_is_told_that_the_journal_is_in_use() {
    let scratch = Scratch::new("lock");
    let (journal, _) = Journal::open(&small(&scratch.0)).unwrap();
    assert!(matches!(Journal::open(&small(&scratch.0)), Err(OpenError::InUse { .. })));
    drop(journal);
    assert!(Journal::open(&small(&scratch.0)).is_ok());
}

/// Makes every header in a journal say another major version.
fn change_major(directory: &Path, major: u16) {
    for folder in ["high", "normal"] {
        for entry in std::fs::read_dir(directory.join(folder)).into_iter().flatten().flatten() {
            let mut bytes = std::fs::read(entry.path()).unwrap();
            for at in [0, 4096] {
                if &bytes[at..at + 8] == b"TOMBJRNL" {
                    bytes[at + 8..at + 10].copy_from_slice(&major.to_le_bytes());
                    let crc = crc32c::crc32c(&bytes[at..at + 12]);
                    bytes[at + 12..at + 16].copy_from_slice(&crc.to_le_bytes());
                }
            }
            std::fs::write(entry.path(), bytes).unwrap();
        }
    }
}

#[test]
fn a_journal_of_another_version_is_moved_aside_and_taken_up_by_the_version_that_knows_it() {
    let scratch = Scratch::new("version");
    let runtime = runtime();
    let settings = small(&scratch.0);
    let (mut journal, _) = Journal::open(&settings).unwrap();
    assert_eq!(store(&runtime, &mut journal, Lane::High, b"for version 2"), Ok(Ok(())));
    drop(journal);
    change_major(&settings.directory, 2);
    let (mut journal, report) = Journal::open(&settings).unwrap();
    let aside = scratch.0.join("journal.unknown-1");
    assert_eq!(report.moved_aside, Some(aside.clone()));
    assert_eq!(report.waiting, std::slice::from_ref(&aside));
    assert!(matches!(journal.next(Lane::High), Next::Empty));
    assert_eq!(store(&runtime, &mut journal, Lane::High, b"for version 1"), Ok(Ok(())));
    drop(journal);
    // As if this were version 2 again; the journal in use is not empty yet.
    change_major(&aside, 1);
    let (mut journal, report) = Journal::open(&settings).unwrap();
    assert_eq!((report.taken_up, report.waiting), (None, vec![aside.clone()]));
    assert_eq!(read(&runtime, &mut journal, Lane::High, 9), [(1, b"for version 1".to_vec())]);
    journal.release(Lane::High, 1);
    drop(journal);
    let (mut journal, report) = Journal::open(&settings).unwrap();
    assert_eq!(report.taken_up, Some(aside.clone()));
    assert!(!aside.exists());
    assert_eq!(read(&runtime, &mut journal, Lane::High, 9), [(1, b"for version 2".to_vec())]);
}

#[test]
fn a_rejected_record_can_be_listed_retried_and_given_up() {
    let scratch = Scratch::new("rejected");
    let runtime = runtime();
    let (mut journal, _) = Journal::open(&small(&scratch.0)).unwrap();
    for n in 0..3u64 {
        assert_eq!(store(&runtime, &mut journal, Lane::Normal, &payload(n, 100)), Ok(Ok(())));
    }
    assert_eq!(read(&runtime, &mut journal, Lane::Normal, 3).len(), 3);
    journal.reject(Lane::Normal, 1, 0x87).unwrap();
    journal.reject(Lane::Normal, 2, 0x95).unwrap();
    journal.release(Lane::Normal, 3);
    let rejected = journal.rejected();
    let list = runtime.block_on(async {
        loop {
            let list = rejected.list(0, 10).await.records;
            if list.len() == 2 {
                return list;
            }
        }
    });
    let reasons: Vec<_> =
        list.iter().map(|r| (r.entry.id.sequence, r.entry.reason, r.payload_bytes)).collect();
    assert_eq!(reasons, [(1, 0x87, 100), (2, 0x95, 100)]);
    assert_eq!(list[0].device, "door-7");
    assert_eq!(runtime.block_on(rejected.retry(list[0].entry.number)), Retried::Sent);
    assert_eq!(runtime.block_on(rejected.retry(99)), Retried::NotThere);
    assert!(runtime.block_on(rejected.discard(list[1].entry.number)));
    assert!(!runtime.block_on(rejected.discard(99)));
    let (sequence, original, bytes) = loop {
        match journal.next(Lane::Normal) {
            Next::Record(stored) => {
                break (stored.sequence, stored.original, stored.content.payload.to_vec());
            }
            _ => wait(&runtime, &journal),
        }
    };
    assert_eq!((sequence, original, bytes), (4, Some(list[0].entry.id), payload(0, 100)));
    // Everywhere it has the id that it had first.
    let own = RecordId { sequence: 4, ..list[0].entry.id };
    assert_eq!(journal.published_id(Lane::Normal, own), list[0].entry.id);
    assert_eq!(journal.own_id(list[0].entry.id), Some(own));
    assert_eq!(journal.own_id(own), None);
    assert_eq!(runtime.block_on(rejected.oldest(Lane::Normal)).unwrap().id, list[0].entry.id);
    let loss = loop {
        if let Some(loss) = journal.loss(Lane::Normal, 0) {
            break loss;
        }
        wait(&runtime, &journal);
        journal.next(Lane::Normal);
    };
    assert_eq!((loss.cause, loss.count, loss.first), (LossCause::Discarded, 1, list[1].entry.id));
    assert_eq!(runtime.block_on(rejected.list(0, 10)).records, []);
    journal.loss_published(Lane::Normal, loss.number, loss.count);
    drop(journal);
    let (mut journal, report) = Journal::open(&small(&scratch.0)).unwrap();
    assert_eq!((report.store.rejected.records, report.store.lanes[1].records), (0, 1));
    assert_eq!(journal.loss(Lane::Normal, 0), None);
}

#[test]
fn a_reader_overtaken_by_dropping_and_recycling_gets_no_wrong_record_and_each_is_read_or_named() {
    let scratch = Scratch::new("overtaken");
    let runtime = runtime();
    let mut settings = small(&scratch.0);
    settings.lanes =
        [LaneSettings { max_bytes: 512 << 10, when_full: WhenFull::DropOldest, device_share: 100 }; 2];
    let (mut journal, _) = Journal::open(&settings).unwrap();
    let total = 30_000u64;
    let (mut appended, mut completed) = (0u64, 0u64);
    let mut read = std::collections::BTreeSet::new();
    while completed < total {
        while appended < total && appended < completed + 300 {
            let bytes = payload(appended + 1, 200 + appended as usize % 300);
            append(&mut journal, Lane::Normal, &bytes, 1).unwrap();
            appended += 1;
        }
        while let Some(completion) = journal.poll_completion() {
            assert_eq!(completion.result, Ok(()));
            completed += 1;
        }
        // Slower than what comes.
        for _ in 0..7 {
            match journal.next(Lane::Normal) {
                Next::Record(stored) => {
                    let expected = payload(stored.sequence, 200 + (stored.sequence as usize - 1) % 300);
                    assert!(stored.content.payload == expected, "record {}", stored.sequence);
                    assert!(read.last().is_none_or(|last| *last < stored.sequence));
                    read.insert(stored.sequence);
                }
                Next::Empty | Next::Pending => break,
            }
        }
        if let Some(last) = read.last().filter(|last| **last % 5 == 0) {
            journal.release(Lane::Normal, *last);
        }
        if completed < appended {
            wait(&runtime, &journal);
        }
    }
    loop {
        match journal.next(Lane::Normal) {
            Next::Record(stored) => drop(read.insert(stored.sequence)),
            Next::Pending => wait(&runtime, &journal),
            Next::Empty => break,
        }
    }
    journal.close();
    let status = journal.status().lanes[1];
    assert_eq!(status.lost[LossCause::Damaged as usize - 1], 0);
    let mut named = std::collections::BTreeSet::new();
    let losses: Vec<_> = (0..).map_while(|index| journal.loss(Lane::Normal, index)).collect();
    for loss in &losses {
        assert_eq!(loss.cause, LossCause::Dropped);
        named.extend(loss.first.sequence..=loss.last.sequence);
    }
    assert!(read.len() > 500 && named.len() > 5000, "{} read, {} named", read.len(), named.len());
    for sequence in 1..=total {
        assert!(
            read.contains(&sequence) || named.contains(&sequence),
            "record {sequence} went without a word"
        );
    }
    println!("{} read, {} named, {losses:?}", read.len(), named.len());
}

/// A mounted file system of its own; needs root.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(path: &Path, bytes: usize) -> Option<Mount> {
        let size = format!("size={bytes}");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).status();
        status.is_ok_and(|status| status.success()).then(|| Mount(path.to_path_buf()))
    }

    fn remount(&self, option: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{option}")]).arg(&self.0).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

#[test]
fn on_a_full_file_system_it_refuses_keeps_what_it_has_and_recovers_without_a_restart() {
    let scratch = Scratch::new("full");
    let Some(mount) = Mount::tmpfs(&scratch.0, 2 << 20) else {
        assert!(!is_root(), "root can mount a tmpfs");
        return;
    };
    let runtime = runtime();
    // It may use 4 MiB and the disk has 2.
    let (mut journal, _) = Journal::open(&small(&scratch.0)).unwrap();
    let mut stored = 0u64;
    let refused = loop {
        match store(&runtime, &mut journal, Lane::Normal, &payload(stored, 3000)) {
            Ok(Ok(())) => stored += 1,
            Ok(Err(failed)) => assert!(matches!(failed, Failed::Disk(_)), "{failed:?}"),
            Err(refused) => break refused,
        }
        // The lane alone may have 1 MiB.
        if stored == 200 {
            std::fs::write(scratch.0.join("ballast"), vec![0; 2 << 20]).unwrap_err();
        }
    };
    assert!(matches!(refused, Refused::Failing | Refused::LaneFull), "{refused:?}");
    drop(journal);
    let (mut journal, report) = Journal::open(&small(&scratch.0)).unwrap();
    assert_eq!(report.store.lanes[1].records, stored);
    let got = read(&runtime, &mut journal, Lane::Normal, usize::MAX);
    assert!(got.iter().zip(0u64..).all(|((_, bytes), n)| *bytes == payload(n, 3000)));
    assert_eq!(got.len() as u64, stored);
    journal.release(Lane::Normal, stored / 2);
    // What is released gives room on the disk as full as it is; the ballast going gives more.
    let begin = Instant::now();
    let mut recovered = false;
    while begin.elapsed() < Duration::from_secs(20) {
        if let Ok(Ok(())) = store(&runtime, &mut journal, Lane::Normal, &payload(1 << 50, 3000)) {
            recovered = true;
            break;
        }
        std::thread::yield_now();
    }
    assert!(recovered);
    drop(journal);
    mount.remount("size=8m");
    drop(std::fs::remove_file(scratch.0.join("ballast")));
    let (mut journal, _) = Journal::open(&small(&scratch.0)).unwrap();
    assert_eq!(store(&runtime, &mut journal, Lane::High, b"alarm"), Ok(Ok(())));
}

/// Appends until it is refused or fails; whether the first already was.
fn is_refused(runtime: &tokio::runtime::Runtime, journal: &mut Journal) -> bool {
    !matches!(store(runtime, journal, Lane::Normal, b"late"), Ok(Ok(())))
}

#[test]
fn nothing_is_acknowledged_once_the_directory_was_deleted() {
    for all in [true, false] {
        let scratch = Scratch::new(if all { "deleted" } else { "emptied" });
        let runtime = runtime();
        let (mut journal, _) = Journal::open(&small(&scratch.0)).unwrap();
        for n in 0..10u64 {
            assert_eq!(store(&runtime, &mut journal, Lane::Normal, &payload(n, 100)), Ok(Ok(())));
        }
        let gone = if all { "journal" } else { "journal/normal" };
        std::fs::remove_dir_all(scratch.0.join(gone)).unwrap();
        assert!(is_refused(&runtime, &mut journal), "{gone}");
        if all {
            let trouble = journal.status().lanes[Lane::Normal.index()];
            assert_eq!((trouble.trouble, trouble.refuses), (Some(StorageError::Gone), true));
            // Somebody made another one: what is written there now would be read by nobody.
            std::fs::create_dir_all(scratch.0.join("journal/normal")).unwrap();
            assert!(is_refused(&runtime, &mut journal));
            assert_eq!(std::fs::read_dir(scratch.0.join("journal/normal")).unwrap().count(), 0);
        }
    }
}

#[test]
fn nothing_is_acknowledged_while_the_directory_is_elsewhere_and_it_goes_on_once_it_is_back() {
    let scratch = Scratch::new("moved");
    let runtime = runtime();
    let (mut journal, _) = Journal::open(&small(&scratch.0)).unwrap();
    assert_eq!(store(&runtime, &mut journal, Lane::Normal, b"before"), Ok(Ok(())));
    let (here, elsewhere) = (scratch.0.join("journal"), scratch.0.join("elsewhere"));
    std::fs::rename(&here, &elsewhere).unwrap();
    assert!(is_refused(&runtime, &mut journal));
    std::fs::rename(&elsewhere, &here).unwrap();
    let begin = Instant::now();
    while is_refused(&runtime, &mut journal) {
        assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", journal.status());
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(journal);
    let (journal, _) = Journal::open(&small(&scratch.0)).unwrap();
    assert!(journal.status().lanes[Lane::Normal.index()].records >= 2);
}

#[test]
fn on_a_read_only_file_system_it_opens_reads_refuses_and_recovers_without_a_restart() {
    let scratch = Scratch::new("read-only");
    let Some(mount) = Mount::tmpfs(&scratch.0, 16 << 20) else {
        assert!(!is_root(), "root can mount a tmpfs");
        return;
    };
    let runtime = runtime();
    let (mut journal, _) = Journal::open(&small(&scratch.0)).unwrap();
    for n in 0..10u64 {
        assert_eq!(store(&runtime, &mut journal, Lane::Normal, &payload(n, 100)), Ok(Ok(())));
    }
    drop(journal);
    mount.remount("ro");
    let (mut journal, _) = Journal::open(&small(&scratch.0)).unwrap();
    assert_eq!(read(&runtime, &mut journal, Lane::Normal, usize::MAX).len(), 10);
    journal.release(Lane::Normal, 3);
    let failed = loop {
        match store(&runtime, &mut journal, Lane::Normal, b"x") {
            Ok(Ok(())) => panic!("stored on a read-only disk"),
            Ok(Err(_)) => {}
            Err(refused) => break refused,
        }
    };
    assert_eq!(failed, Refused::Failing);
    // Files were opened for reading only: it is a new opening that can write again, or the next
    // segment.
    mount.remount("rw");
    let begin = Instant::now();
    loop {
        if let Ok(Ok(())) = store(&runtime, &mut journal, Lane::Normal, b"y") {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", journal.status());
        std::thread::yield_now();
    }
    drop(journal);
    let (mut journal, _) = Journal::open(&small(&scratch.0)).unwrap();
    let got = read(&runtime, &mut journal, Lane::Normal, usize::MAX);
    assert_eq!(got.first().map(|(sequence, _)| *sequence), Some(4));
    assert_eq!(got.last().map(|(_, bytes)| bytes.clone()), Some(b"y".to_vec()));
}

#[test]
fn a_million_records_open_well_under_a_second_and_drain_in_flat_memory() {
    // Memory is of a process: one of its own has nothing of other tests in it.
    if std::env::var_os(ALONE).is_none() {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "real::a_million_records_open_well_under_a_second_and_drain_in_flat_memory",
                "--exact",
                "--nocapture",
            ])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout);
        print!("{text}");
        assert!(text.contains(" 1 passed"), "{}", String::from_utf8_lossy(&child.stderr));
        return;
    }
    let scratch = Scratch::new("million");
    let runtime = runtime();
    let settings = settings(&scratch.0);
    let (mut journal, _) = Journal::open(&settings).unwrap();
    let total = 1_000_000u64;
    let payload = payload(3, 60);
    let (mut appended, mut completed) = (0, 0);
    while completed < total {
        while appended < total && appended < completed + 20_000 {
            match append(&mut journal, Lane::Normal, &payload, 1) {
                Ok(_) => appended += 1,
                Err(refused) => panic!("{refused:?} after {appended}"),
            }
        }
        while let Some(completion) = journal.poll_completion() {
            assert_eq!(completion.result, Ok(()));
            completed += 1;
        }
        if completed < appended {
            wait(&runtime, &journal);
        }
    }
    // As a crash would leave it: the handle's end commits nothing more that matters here.
    drop(journal);
    let before = Instant::now();
    let (mut journal, report) = Journal::open(&settings).unwrap();
    let took = before.elapsed();
    assert_eq!(report.store.lanes[1].records, total);
    assert_eq!(report.store.lanes[1].scanned, 0);
    println!("opened {total} records in {took:?}");
    let memory = resident();
    let before = Instant::now();
    let mut next = 1;
    loop {
        match journal.next(Lane::Normal) {
            Next::Record(stored) => {
                assert_eq!(stored.sequence, next);
                next += 1;
                if next % 500 == 0 {
                    journal.release(Lane::Normal, next - 100);
                }
            }
            Next::Pending => wait(&runtime, &journal),
            Next::Empty => break,
        }
    }
    println!("drained in {:?}, memory {memory} → {} KiB", before.elapsed(), resident());
    assert_eq!(next, total + 1);
    assert!(resident() < memory + 4096, "{memory} → {} KiB", resident());
    journal.release(Lane::Normal, total);
    drop(journal);
    let files: u64 = walk(&settings.directory);
    assert!(files <= 16 * (4 << 20), "{files} bytes are kept for nothing");
}

/// The long form, as many segments as a lane of 64 GiB has:
/// `TOMBOLO_SEGMENTS=16384 cargo test --test journal descriptors`.
#[test]
fn many_segments_take_a_few_descriptors_and_little_time() {
    let segments = std::env::var("TOMBOLO_SEGMENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(300u64);
    let scratch = Scratch::new("descriptors");
    let runtime = runtime();
    let lane =
        LaneSettings { max_bytes: (segments + 50) << 16, when_full: WhenFull::Refuse, device_share: 100 };
    let settings = Settings {
        max_bytes: (4 * (segments + 50)) << 16,
        segment_bytes: 64 << 10,
        lanes: [lane; 2],
        commit_interval: Duration::ZERO,
        ..settings(&scratch.0)
    };
    let (mut journal, _) = Journal::open(&settings).unwrap();
    let payload = payload(3, 30_000);
    let (mut appended, mut completed) = (0, 0);
    while completed < segments {
        while appended < segments && appended < completed + 32 {
            append(&mut journal, Lane::Normal, &payload, 1).unwrap();
            appended += 1;
        }
        while let Some(completion) = journal.poll_completion() {
            assert_eq!(completion.result, Ok(()));
            completed += 1;
        }
        if completed < appended {
            wait(&runtime, &journal);
        }
    }
    drop(journal);
    let open_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let (before, begin) = (open_files(), Instant::now());
    let (mut journal, report) = Journal::open(&settings).unwrap();
    println!("{segments} segments opened in {:?}", begin.elapsed());
    assert_eq!(report.store.lanes[1].records, segments);
    // Other tests of this process open files of their own.
    assert!(open_files() < before + 100, "{} then {}", before, open_files());
    let files = std::fs::read_dir(settings.directory.join("normal")).unwrap().count();
    assert!(files as u64 >= segments, "one record a segment: {files}");
    assert_eq!(read(&runtime, &mut journal, Lane::Normal, usize::MAX).len() as u64, segments);
}

fn walk(directory: &Path) -> u64 {
    let folders = std::fs::read_dir(directory).unwrap().flatten();
    folders
        .filter(|folder| folder.path().is_dir())
        .flat_map(|folder| std::fs::read_dir(folder.path()).unwrap().flatten())
        .map(|file| file.metadata().unwrap().len())
        .sum()
}

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

const ALONE: &str = "TOMBOLO_JOURNAL_ALONE";
const CHILD: &str = "TOMBOLO_JOURNAL_CHILD";

/// Not a test: what the killed child does. Appends as fast as it can, says on its output what is
/// durable, and releases.
#[test]
fn child_that_is_killed() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let runtime = runtime();
    let (mut journal, _) = Journal::open(&small(Path::new(&directory))).unwrap();
    let mut out = std::io::stdout();
    writeln!(out).unwrap();
    let mut read_to = 0;
    let mut mark = u64::from(std::process::id()) << 32;
    loop {
        for _ in 0..20 {
            mark += 1;
            let bytes = payload(mark, 50 + mark as usize % 700);
            match append(&mut journal, Lane::Normal, &bytes, mark) {
                Ok(id) => writeln!(out, "A {} {mark}", id.sequence).unwrap(),
                Err(Refused::LaneFull) => break,
                Err(refused) => panic!("{refused:?}"),
            }
        }
        wait(&runtime, &journal);
        while let Some(completion) = journal.poll_completion() {
            assert_eq!(completion.result, Ok(()));
            writeln!(out, "D {}", completion.ticket.0).unwrap();
        }
        while let Next::Record(stored) = journal.next(Lane::Normal) {
            read_to = stored.sequence;
        }
        if let Some(through) = read_to.checked_sub(300) {
            writeln!(out, "R {through}").unwrap();
            journal.release(Lane::Normal, through);
        }
        out.flush().unwrap();
    }
}

#[test]
fn a_process_killed_while_it_stores_loses_nothing_it_has_acknowledged() {
    let scratch = Scratch::new("kill");
    let runtime = runtime();
    let rounds = std::env::var("JOURNAL_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let mut random = SplitMix64::new(99);
    // Sequence → mark of what was appended; marks that are durable; what may be gone.
    let mut appended: BTreeMap<u64, u64> = BTreeMap::new();
    let mut durable: BTreeMap<u64, u64> = BTreeMap::new();
    let mut released = 0;
    for _ in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["real::child_that_is_killed", "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, &scratch.0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let enough = 200 + random.below(4000);
        let mut marks = BTreeMap::new();
        for (count, line) in lines.map_while(Result::ok).enumerate() {
            if count as u64 == enough {
                child.kill().unwrap();
            }
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["A", sequence, mark] => {
                    let (sequence, mark) = (sequence.parse().unwrap(), mark.parse().unwrap());
                    appended.insert(sequence, mark);
                    marks.insert(mark, sequence);
                }
                ["D", mark] => {
                    let mark = mark.parse().unwrap();
                    durable.insert(marks[&mark], mark);
                }
                ["R", through] => released = through.parse().unwrap_or(released),
                _ => {}
            }
        }
        child.wait().unwrap();
        let (mut journal, report) = Journal::open(&small(&scratch.0)).unwrap();
        assert_eq!(report.store.lanes[1].missing, 0, "the page cache survives a kill");
        let got: BTreeMap<u64, Vec<u8>> =
            read(&runtime, &mut journal, Lane::Normal, usize::MAX).into_iter().collect();
        for (sequence, mark) in durable.range(released + 1..) {
            assert_eq!(got.get(sequence), Some(&payload(*mark, 50 + *mark as usize % 700)));
        }
        for (sequence, bytes) in &got {
            let mark = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            let known = appended.get(sequence);
            assert!(known.is_none_or(|known| *known == mark), "record {sequence} is made up");
            durable.insert(*sequence, mark);
        }
    }
    assert!(durable.len() > 500, "{}", durable.len());
}

/// Appends records of this device until one is refused, and waits for all.
fn fill(
    runtime: &tokio::runtime::Runtime,
    journal: &mut Journal,
    readings: &mut Readings,
    device: &str,
) -> (u64, Refused) {
    readings.turn_to(device);
    let (mut taken, mut done) = (0, 0);
    let refused = loop {
        match journal.append(&readings.pass(Lane::Normal, &[7; 1_000]), Ticket(1)) {
            Ok(_) => taken += 1,
            Err(refused) => break refused,
        }
        while taken - done > 100 {
            match journal.poll_completion() {
                Some(completion) => done += u64::from(completion.result.is_ok()),
                None => wait(runtime, journal),
            }
        }
    };
    while done < taken {
        match journal.poll_completion() {
            Some(completion) => done += u64::from(completion.result.is_ok()),
            None => wait(runtime, journal),
        }
    }
    (taken, refused)
}

#[test]
fn a_device_fills_its_share_of_the_lane_and_its_neighbour_is_stored_all_the_same() {
    let scratch = Scratch::new("share");
    let mut settings = small(&scratch.0);
    settings.lanes.iter_mut().for_each(|lane| lane.device_share = 50);
    let runtime = runtime();
    let mut readings = Readings::of(&["loud", "calm"]);
    let (mut journal, _) = Journal::open(&settings).unwrap();
    let (taken, refused) = fill(&runtime, &mut journal, &mut readings, "loud");
    assert_eq!(refused, Refused::DeviceShare);
    assert!((450..530).contains(&taken), "{taken} of about 1,060 bytes in 512 KiB");
    let [_, share] = journal.share_of("loud");
    assert!(share.bytes <= share.max_bytes && share.max_bytes == 512 << 10, "{share:?}");
    let (others, _) = fill(&runtime, &mut journal, &mut readings, "calm");
    assert!(others >= 300, "{others}");
    // Another share, without a restart.
    readings.turn_to("loud");
    journal.set_bounds(settings.lanes.map(|lane| LaneSettings { device_share: 100, ..lane }));
    let told = journal.append(&readings.pass(Lane::Normal, &[7; 1_000]), Ticket(1));
    assert!(!matches!(told, Err(Refused::DeviceShare)), "{told:?}");
    journal.set_bounds(settings.lanes);
    // The broker takes the oldest, and the share is free again.
    for _ in 0..taken {
        assert!(!read(&runtime, &mut journal, Lane::Normal, 1).is_empty());
    }
    journal.release(Lane::Normal, taken);
    let told = journal.append(&readings.pass(Lane::Normal, &[7; 1_000]), Ticket(1));
    assert!(!matches!(told, Err(Refused::DeviceShare)), "{told:?}");
    assert!(journal.share_of("loud")[Lane::Normal.index()].bytes < 80_000, "the last part at most");
    // What was stored before the journal was opened is of no device.
    drop(journal);
    let (mut journal, _) = Journal::open(&settings).unwrap();
    assert_eq!(journal.share_of("calm")[Lane::Normal.index()].bytes, 0);
}

#[test]
fn the_only_device_of_a_gateway_has_all_of_the_lane() {
    let scratch = Scratch::new("share-only");
    let mut settings = small(&scratch.0);
    settings.lanes.iter_mut().for_each(|lane| lane.device_share = 10);
    let mut readings = Readings::default();
    let (mut journal, _) = Journal::open(&settings).unwrap();
    let (taken, refused) = fill(&runtime(), &mut journal, &mut readings, "door-7");
    assert_eq!(refused, Refused::LaneFull);
    assert!(taken > 700, "{taken}");
}
