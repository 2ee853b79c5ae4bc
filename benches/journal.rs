//! The cost of storing: CPU per record, and bytes written to the device per message, with 1, 20 and
//! 100 records per commit.
//!
//! `cargo bench --bench journal`. As root it creates an ext4 file system on a separate loop device,
//! so that the device's counter includes nothing else; otherwise it uses the temporary directory
//! without counting bytes. `JOURNAL_BENCH_RECORDS` sets the number of records.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a bench measures")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use tombolo::journal::settings::{LaneSettings, Settings, WhenFull};
use tombolo::journal::{Journal, Next, Ticket};
use tombolo::message::Lane;

use tombolo_test_support::readings::Readings;

const PAYLOAD: usize = 100;

fn main() {
    let place = Place::new();
    let records = std::env::var("JOURNAL_BENCH_RECORDS").ok().and_then(|n| n.parse().ok());
    println!("{PAYLOAD}-byte payloads in {}", place.directory.display());
    for batch in [1, 20, 100] {
        let total = records.unwrap_or(if batch == 1 { 4_000 } else { 100_000 });
        commits(&place, batch, total);
    }
    appends(&place);
    opening(&place);
}

fn settings(directory: &Path) -> Settings {
    let lane = |max_bytes| LaneSettings { max_bytes, when_full: WhenFull::Refuse, device_share: 100 };
    Settings {
        directory: directory.to_path_buf(),
        max_bytes: 256 << 20,
        commit_interval: Duration::ZERO,
        segment_bytes: 4 << 20,
        lanes: [lane(40 << 20), lane(192 << 20)],
        rejected_max_bytes: 16 << 20,
    }
}

fn open(place: &Place) -> Journal {
    let directory = place.directory.join("journal");
    Journal::open(&settings(&directory)).expect("the bench's own directory").0
}

/// Waits for the next wake.
fn wait(runtime: &tokio::runtime::Runtime, journal: &Journal) {
    runtime.block_on(journal.wake());
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

/// Stores, reads and releases `total` records, `batch` of them a commit: the whole life of a record
/// but for the network.
fn commits(place: &Place, batch: u64, total: u64) {
    let runtime = runtime();
    let mut journal = open(place);
    let payload = [0x5a; PAYLOAD];
    // Let it prepare its segments first.
    run(&runtime, &mut journal, &payload, batch, batch * 50);
    std::thread::sleep(Duration::from_millis(300));
    let (cpu, written, begin) = (cpu(), place.written(), Instant::now());
    run(&runtime, &mut journal, &payload, batch, total);
    let (cpu, took) = (self::cpu() - cpu, begin.elapsed());
    drop(journal);
    nix::unistd::sync();
    let device = match (written, place.written()) {
        (Some(before), Some(after)) => format!("{} device bytes", (after - before) / total),
        _ => "device bytes unknown".to_owned(),
    };
    println!(
        "{batch:>4} a commit: {:.2} µs of CPU a record ({:.0} a commit), {device} a record, {:.0} records/s",
        cpu / total as f64,
        cpu / total as f64 * batch as f64,
        total as f64 / took.as_secs_f64(),
    );
}

fn run(runtime: &tokio::runtime::Runtime, journal: &mut Journal, payload: &[u8], batch: u64, total: u64) {
    let mut readings = Readings::default();
    let reading = readings.pass(Lane::Normal, payload);
    let mut stored = 0;
    while stored < total {
        for _ in 0..batch {
            journal.append(&reading, Ticket(1)).expect("there is room");
        }
        let mut waiting = batch;
        while waiting > 0 {
            wait(runtime, journal);
            while let Some(completion) = journal.poll_completion() {
                completion.result.expect("the disk works");
                waiting -= 1;
            }
        }
        let mut last = 0;
        loop {
            match journal.next(Lane::Normal) {
                Next::Record(record) => last = record.sequence,
                Next::Pending => wait(runtime, journal),
                Next::Empty => break,
            }
        }
        journal.release(Lane::Normal, last);
        stored += batch;
    }
}

/// The cost of an append alone, on the path's thread.
fn appends(place: &Place) {
    let runtime = runtime();
    let mut journal = open(place);
    let mut readings = Readings::default();
    let reading = readings.pass(Lane::High, &[0x5a; PAYLOAD]);
    let rounds = 50;
    let mut spent = Duration::ZERO;
    for _ in 0..rounds {
        let begin = Instant::now();
        for n in 0..1000 {
            journal.append(&reading, Ticket(n)).expect("there is room");
        }
        spent += begin.elapsed();
        let mut waiting = 1000;
        while waiting > 0 {
            wait(&runtime, &journal);
            while journal.poll_completion().is_some() {
                waiting -= 1;
            }
        }
    }
    println!("append alone: {} ns", spent.as_nanos() / (rounds * 1000));
}

/// Opening and reading a backlog.
fn opening(place: &Place) {
    let runtime = runtime();
    let mut journal = open(place);
    let mut readings = Readings::default();
    let reading = readings.pass(Lane::Normal, &[0x5a; PAYLOAD]);
    let total = 500_000;
    let (mut appended, mut completed) = (0, 0);
    while completed < total {
        while appended < total && appended < completed + 5000 {
            journal.append(&reading, Ticket(1)).expect("there is room");
            appended += 1;
        }
        wait(&runtime, &journal);
        while journal.poll_completion().is_some() {
            completed += 1;
        }
    }
    drop(journal);
    let begin = Instant::now();
    let mut journal = open(place);
    println!("opening {total} records: {:.1} ms", begin.elapsed().as_secs_f64() * 1e3);
    let (cpu, begin) = (cpu(), Instant::now());
    let mut read = 0;
    loop {
        match journal.next(Lane::Normal) {
            Next::Record(_) => read += 1,
            Next::Pending => wait(&runtime, &journal),
            Next::Empty => break,
        }
    }
    println!(
        "reading the backlog: {:.2} µs of CPU a record, {:.0} records/s",
        (self::cpu() - cpu) / f64::from(read),
        f64::from(read) / begin.elapsed().as_secs_f64(),
    );
}

/// CPU time of this process in µs.
fn cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the process's own usage");
    (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64
}

/// Where the bench writes.
struct Place {
    directory: PathBuf,
    image: Option<PathBuf>,
    counter: Option<PathBuf>,
}

impl Place {
    fn new() -> Place {
        let base = std::env::temp_dir().join(format!("tombolo-bench-{}", std::process::id()));
        let directory = base.join("mounted");
        std::fs::create_dir_all(&directory).expect("the temporary directory");
        let image = base.join("image");
        let run = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let made = std::fs::File::create(&image).and_then(|file| file.set_len(1 << 30)).is_ok()
            && run(Command::new("mkfs.ext4").arg("-q").arg(&image))
            && run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&directory));
        let mut place = Place { directory, image: None, counter: None };
        if made {
            place.image = Some(image);
            place.counter = place.device_counter();
        } else {
            drop(std::fs::remove_file(image));
        }
        place
    }

    /// The statistics of the block device the directory is on.
    fn device_counter(&self) -> Option<PathBuf> {
        use std::os::unix::fs::MetadataExt;
        let device = std::fs::metadata(&self.directory).ok()?.dev();
        let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        Some(PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat")))
    }

    /// Bytes written to that device so far.
    fn written(&self) -> Option<u64> {
        let text = std::fs::read_to_string(self.counter.as_ref()?).ok()?;
        let sectors: u64 = text.split_whitespace().nth(6)?.parse().ok()?;
        Some(sectors * 512)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.image.is_some() {
            drop(Command::new("umount").arg("-l").arg(&self.directory).status());
        }
        if let Some(base) = self.directory.parent() {
            drop(std::fs::remove_dir_all(base));
        }
    }
}
