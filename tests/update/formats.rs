//! What a version leaves for the one before it, should that run again: readings, and files.
//!
//! Until a version is confirmed it may write no format that the version before cannot read
//! (docs/updates.md). So far every format is that of the first release, and this holds it there.
//! Raise one, and this test asks for the other half: writing the old one until the floor rose.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tombolo::journal::settings::{LaneSettings, Settings, WhenFull};
use tombolo::journal::{Journal, Ticket};
use tombolo::message::Lane;
use tombolo_test_support::dtls::client::Config;
use tombolo_test_support::readings::Readings;
use tombolo_test_support::{Daemon, Folder, Mosquitto, Pki, Subscriber, wait_for, wait_within};

use crate::device::Device;

/// What the new version stores, and what the version before it stored and did not get rid of.
const RECORDS: usize = 10_000;
const BEFORE: usize = 200;

const KEY: &str = "sesame-sesame-77";

fn daemon(folder: &Folder, broker: &Mosquitto, pki: &Pki) -> Daemon {
    let binary = Path::new(env!("CARGO_BIN_EXE_tombolo"));
    folder.write("door-7.psk", format!("text:{KEY}"));
    let device = "[role.sensor]\nquota = { messages = 100000, bytes = \"64MiB\", per = \"1min\", burst = 1000 }\n\
                  [role.sensor.uplink.all]\npath = \"t/#\"\n[device.door-7]\nrole = \"sensor\"\n\
                  psk-file = \"door-7.psk\"\n";
    Daemon::start(binary, folder, broker.tls_port, &pki.ca(), device)
}

#[test]
fn what_the_version_before_and_ten_thousand_records_that_the_new_one_took_all_arrive_after_a_roll_back() {
    let folder = Folder::new("update-records");
    let pki = Pki::new(folder.path());
    let mut broker = Mosquitto::start(folder.path(), &pki, "max_inflight_messages 1000\n");
    // The version before made its state, acknowledged readings that no broker took, and is
    // replaced.
    let mut before = daemon(&folder, &broker, &pki);
    wait_for("the broker", || before.status()["upstream"]["connected"] == true);
    broker.stop();
    let mut device = Device::connect(before.coaps, Config::psk("door-7", KEY)).expect("a session");
    for number in 0..BEFORE {
        assert!(device.post("t/x", format!("before {number}").as_bytes()), "{number} is acknowledged");
    }
    assert_eq!(before.status()["journal"]["records"], BEFORE, "all of them wait");
    before.stop();
    // The new one takes readings, none of which reaches the broker, and dies of its fault.
    let lane = LaneSettings { max_bytes: 64 << 20, when_full: WhenFull::Refuse, device_share: 100 };
    let settings = Settings {
        directory: folder.join("state/journal"),
        max_bytes: 256 << 20,
        commit_interval: Duration::from_millis(1),
        segment_bytes: 4 << 20,
        lanes: [lane, lane],
        rejected_max_bytes: 16 << 20,
    };
    let (mut journal, _) = Journal::open(&settings).unwrap();
    let mut readings = Readings::default();
    let mut stored = 0;
    for number in 0..RECORDS {
        let payload = format!("record {number}");
        while journal
            .append(&readings.pass(Lane::Normal, payload.as_bytes()), Ticket(number as u128))
            .is_err()
        {
            stored += completed(&mut journal);
        }
    }
    wait_for("the commits", || {
        stored += completed(&mut journal);
        stored == RECORDS
    });
    journal.close();
    drop(journal);
    let found = formats(&folder.join("state"));
    assert!(found.iter().any(|(_, magic, _)| magic == "TOMBJRNL"), "{found:?}");
    for (file, magic, major) in found {
        let known = [
            ("TOMBJRNL", 1),
            ("TOMBSEEN", 1),
            ("TOMBFREE", 0),
            ("TBRJ", 1),
            ("TBUF", 1),
            ("TBUI", 1),
            ("TBSL", 1),
            ("TBSK", 1),
        ];
        assert!(
            known.contains(&(magic.as_str(), major)),
            "{}: {magic} {major} is no format of the version before",
            file.display()
        );
    }
    // And the version before runs again.
    broker.resume();
    let witness = Subscriber::start(&broker, folder.path(), "tombolo/#", "%p");
    before.resume();
    let arrived = |kind: &str| {
        let mut seen: Vec<String> =
            witness.lines().into_iter().filter(|line| line.starts_with(kind)).collect();
        seen.sort();
        seen.dedup();
        seen.len()
    };
    wait_within(Duration::from_secs(60), "every record", || arrived("record ") == RECORDS);
    wait_within(Duration::from_secs(60), "what was stored before the change", || {
        arrived("before ") == BEFORE
    });
    assert_eq!(before.status()["journal"]["lost"], 0);
}

fn completed(journal: &mut Journal) -> usize {
    std::iter::from_fn(|| journal.poll_completion()).inspect(|done| assert!(done.result.is_ok())).count()
}

/// Magic and major version of each file that begins with `TB`.
fn formats(folder: &Path) -> Vec<(PathBuf, String, u8)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(formats(&path));
        } else if let Ok(bytes) = std::fs::read(&path)
            && bytes.len() > 10
            && let Some(length) =
                [(&b"TOMB"[..], 8), (b"TB", 4)].iter().find(|(front, _)| bytes.starts_with(front))
        {
            let length = length.1;
            found.push((path, String::from_utf8_lossy(&bytes[..length]).into_owned(), bytes[length]));
        }
    }
    found
}
