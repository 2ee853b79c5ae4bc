//! A disk that does not give what it holds, gives it wrongly, or loses a part of it: what was
//! acknowledged reaches the broker once the disk gives it, what the disk will never give is named
//! and counted, and neither stops the rest.
//!
//! The faults are those of disk_faults.c, between the daemon and the system.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use super::Site;
use super::backlog::{fill, without_limits};
use super::served::{AWAKE, Device, OBSERVE, served, values};
use tombolo_test_support::disk_faults::{VARIABLE, library, write};
use tombolo_test_support::{PATIENCE, wait_for, wait_within};

const EIO: i32 = 5;
const EACCES: i32 = 13;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

/// Where the records of these tests go.
const TOPIC: &str = "tombolo/gw/door-7/up/t/b";
const ALARM: &str = "tombolo/gw/door-7/up/alarm/b";

/// A gateway whose disk fails on demand.
struct Faulty {
    site: Site,
    faults: PathBuf,
}

impl Faulty {
    fn with(name: &str, extra: &str) -> Faulty {
        let mut site = Site::build(name, extra, "max_queued_bytes 0", without_limits);
        let faults = site.folder.write("faults", "");
        let environment = &mut site.daemon.environment;
        environment.push(("LD_PRELOAD".into(), library().display().to_string()));
        environment.push((VARIABLE.into(), faults.display().to_string()));
        site.daemon.kill();
        site.daemon.resume();
        Faulty { site, faults }
    }

    fn fail(&self, lines: &str) {
        write(&self.faults, lines);
    }

    fn heal(&self) {
        self.fail("");
    }

    /// Stores readings while the broker is away, and ends the process.
    fn stored(name: &str, extra: &str, count: u32) -> Faulty {
        let mut faulty = Faulty::with(name, extra);
        faulty.site.broker.stop();
        fill(faulty.site.daemon.coaps, count);
        assert_eq!(faulty.journal()["records"], count);
        faulty.site.daemon.kill();
        faulty
    }

    fn journal(&self) -> serde_json::Value {
        self.site.daemon.status()["journal"].clone()
    }

    fn problems(&self) -> String {
        self.site.daemon.status()["problems"].to_string()
    }

    fn lane(&self, name: &str) -> serde_json::Value {
        let (code, text) = self.site.daemon.command(&["queue", "--json"]);
        assert_eq!(code, 0, "{text}");
        let queue: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        queue["lanes"][name].clone()
    }

    fn folder(&self, lane: &str) -> PathBuf {
        self.site.folder.join("state/journal").join(lane)
    }

    /// The segments of a lane, the oldest first.
    fn segments(&self, lane: &str) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.folder(lane))
            .expect("the lane has a folder")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
            .filter(|path| std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"TOMBJRNL")))
            .collect();
        files.sort();
        files
    }

    /// Different payloads that arrived, and how many messages in all.
    fn arrived(&self, topic: &str) -> (usize, usize) {
        let lines = self.site.arrived(topic);
        let payloads: BTreeSet<&String> = lines.iter().map(|fields| &fields[1]).collect();
        (payloads.len(), lines.len())
    }

    fn wait_for_all(&self, count: usize) {
        wait_for("all records", || self.arrived(TOPIC).0 == count);
    }
}

#[test]
fn a_disk_that_gives_nothing_for_a_while_costs_nothing() {
    let mut faulty = Faulty::stored("eio", "", 5_000);
    faulty.fail(&format!("read {EIO} normal/ 8192 4000000"));
    faulty.site.broker.resume();
    faulty.site.daemon.resume();
    wait_for("the reason", || faulty.problems().contains("lane normal"));
    wait_for("the error", || faulty.lane("normal")["stopped"].to_string().contains("Input/output error"));
    let (_, line) = faulty.site.daemon.command(&["status"]);
    assert!(line.contains("Input/output error"), "{line}");
    // The other lane takes and gives, and this one takes.
    assert!(faulty.site.post(&["-e", "fire"], "alarm/b").contains("2.04"));
    wait_for("the alarm", || faulty.arrived(ALARM).0 == 1);
    assert!(faulty.site.post(&["-e", "another"], "t/b").contains("2.04"));
    assert_eq!(faulty.arrived(TOPIC).0, 0);
    faulty.heal();
    faulty.wait_for_all(5_001);
    assert_eq!(faulty.journal()["lost"], 0);
    wait_for("no problem left", || faulty.problems() == "[]");
    assert_eq!(faulty.arrived(TOPIC).1, 5_001, "none came twice");
}

#[test]
fn headers_that_cannot_be_read_at_the_start_are_read_later() {
    let mut faulty = Faulty::stored("header", "", 600);
    faulty.fail(&format!("read {EIO} normal/ 0 8192"));
    faulty.site.broker.resume();
    faulty.site.daemon.resume();
    assert!(faulty.problems().contains("cannot be read"), "{}", faulty.problems());
    assert!(faulty.site.post(&["-e", "meanwhile"], "t/b").contains("2.04"));
    faulty.heal();
    faulty.wait_for_all(601);
    let journal = faulty.journal();
    assert_eq!((&journal["lost"], &journal["unreadable"]), (&0.into(), &0.into()));
    wait_for("nothing left", || faulty.journal()["records"] == 0);
    // And nothing is made up or sent again after the next start.
    faulty.site.daemon.kill();
    faulty.site.daemon.resume();
    assert_eq!(faulty.journal()["records"], 0);
    assert_eq!(faulty.journal()["lost"], 0);
    assert_eq!(faulty.arrived(TOPIC).1, 601);
}

#[test]
fn segments_that_cannot_be_opened_do_not_keep_the_gateway_from_starting() {
    for (name, errno) in [("eacces", EACCES), ("emfile", EMFILE)] {
        let mut faulty = Faulty::stored(name, "", 300);
        faulty.fail(&format!("open {errno} normal/00"));
        faulty.site.broker.resume();
        faulty.site.daemon.resume();
        assert!(faulty.problems().contains("lane normal"), "{}", faulty.problems());
        assert!(faulty.site.post(&["-e", "fire"], "alarm/b").contains("2.04"));
        wait_for("the alarm", || faulty.arrived(ALARM).0 == 1);
        faulty.heal();
        faulty.wait_for_all(300);
        assert_eq!(faulty.journal()["lost"], 0);
    }
}

#[test]
fn a_segment_cut_short_is_counted_to_the_last_record() {
    let mut faulty = Faulty::stored("cut", "", 200);
    let segment = faulty.segments("normal").pop().expect("a segment");
    let file = std::fs::File::options().write(true).open(&segment).expect("it opens");
    file.set_len(9_000).expect("it is cut");
    faulty.site.broker.resume();
    faulty.site.daemon.resume();
    let lost = faulty.journal()["lost"].as_u64().expect("a number");
    assert!(lost > 150, "{}", faulty.journal());
    faulty.wait_for_all(200 - lost as usize);
    wait_for("the log", || faulty.site.daemon.log().contains("shorter than it was made"));
    wait_for("the loss", || !faulty.site.arrived("tombolo/gw/gateway/loss").is_empty());
    // One that is told twice, after a connection that broke, is the same to the letter.
    let reports: BTreeSet<Vec<String>> = faulty.site.arrived("tombolo/gw/gateway/loss").into_iter().collect();
    let counted: u64 = reports
        .iter()
        .map(|fields| serde_json::from_str::<serde_json::Value>(&fields[1]).expect("JSON"))
        .inspect(|report| assert_eq!(report["cause"], "damaged"))
        .map(|report| report["count"].as_u64().expect("a count"))
        .sum();
    assert_eq!(counted, lost);
}

#[test]
fn damaged_headers_are_counted_and_the_file_is_taken_up_when_it_can_be_read() {
    let mut faulty = Faulty::stored("damaged", "", 400);
    let segment = faulty.segments("normal").pop().expect("a segment");
    let whole = std::fs::read(&segment).expect("it can be read");
    let mut damaged = whole.clone();
    damaged[..8192].fill(0);
    std::fs::write(&segment, &damaged).expect("it is damaged");
    faulty.site.broker.resume();
    faulty.site.daemon.resume();
    assert_eq!(faulty.journal()["lost"], 400, "{}", faulty.site.daemon.log());
    let aside = segment.with_extension("seg.damaged");
    wait_for("the file set aside", || aside.exists());
    let (code, text) = faulty.site.daemon.command(&["queue", "verify"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("set-aside") && text.contains("400 records missing"), "{text}");
    let name = format!("normal/{}", aside.file_name().expect("a name").to_string_lossy());
    let (code, text) = faulty.site.daemon.command(&["queue", "import", &name]);
    assert!(code == 1 && text.contains("header"), "{text}");
    // The disk gives it after all, or its owner has a copy.
    std::fs::write(&aside, &whole).expect("it is whole again");
    let (code, text) = faulty.site.daemon.command(&["queue", "import", &name]);
    assert!(code == 0 && text.contains("400 records imported"), "{text}");
    faulty.wait_for_all(400);
    wait_for("an empty lane", || faulty.journal()["records"] == 0);
    let (code, text) = faulty.site.daemon.command(&["queue", "import", &name]);
    assert_eq!(code, 1, "it is gone: {text}");
    assert_eq!(faulty.arrived(TOPIC).1, 400);
    let (code, text) = faulty.site.daemon.command(&["queue", "verify"]);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn more_segments_than_open_files_are_no_reason_not_to_start() {
    let extra = "[journal]\nsegment-bytes = \"64KiB\"\nmax-bytes = \"64MiB\"\n[lane.normal]\nmax-bytes = \"32MiB\"\n[lane.high]\nmax-bytes = \"8MiB\"\n";
    let mut faulty = Faulty::stored("many", extra, 20_000);
    assert!(faulty.segments("normal").len() > 40);
    let binary = super::binary();
    let config = faulty.site.daemon.config().to_owned();
    // As many descriptors as it needs for anything else.
    let mut limited = Command::new("sh")
        .arg("-c")
        .arg("ulimit -n 32; exec \"$0\" --config \"$1\" run")
        .arg(binary)
        .arg(&config)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("it starts");
    wait_for("the daemon", || faulty.site.daemon.command(&["status", "--json"]).0 == 0);
    assert_eq!(faulty.journal()["records"], 20_000);
    faulty.site.broker.resume();
    wait_within(3 * PATIENCE, "all records", || faulty.arrived(TOPIC).0 == 20_000);
    limited.kill().expect("it ends");
    limited.wait().expect("it has ended");
}

#[test]
fn a_gateway_whose_disk_takes_no_readings_is_not_healthy() {
    for (name, errno, why) in
        [("full", ENOSPC, "no space left"), ("ro", EROFS, "read-only"), ("err", EIO, "rror")]
    {
        let faulty = Faulty::with(&format!("health-{name}"), "");
        let daemon = &faulty.site.daemon;
        assert!(faulty.site.post(&["-e", "first"], "t/b").contains("2.04"));
        let (code, text) = daemon.command(&["health"]);
        assert!(code == 0 && text.contains("the gateway works"), "{code} {text}");
        faulty.fail(&format!("write {errno} journal/\nsync {errno} journal/"));
        wait_for("a refusal", || faulty.site.post(&["-e", "refused"], "t/b").contains("5.03"));
        wait_for("unhealthy", || daemon.command(&["health"]).0 == 1);
        let (code, text) = daemon.command(&["health", "--wait", "3s", "--steady", "1s", "--json"]);
        let line = text.lines().find(|line| line.starts_with('{')).unwrap_or_default();
        let said: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(
            (code, &said["healthy"], &said["verdict"]),
            (1, &false.into(), &"broken".into()),
            "{text}"
        );
        assert!(text.contains("the disk") && text.contains(why), "{text}");
        faulty.heal();
        wait_within(3 * PATIENCE, "healthy", || {
            let _ = faulty.site.post(&["-e", "again"], "t/b");
            daemon.command(&["health"]).0 == 0
        });
    }
}

#[test]
fn a_state_directory_that_was_deleted_or_moved_takes_no_readings_and_is_named() {
    for moved in [false, true] {
        let site = Site::new(if moved { "state-moved" } else { "state-deleted" }, "");
        assert!(site.post(&["-e", "first"], "t/b").contains("2.04"));
        let (state, elsewhere) = (site.folder.join("state"), site.folder.join("elsewhere"));
        match moved {
            true => std::fs::rename(&state, &elsewhere).expect("it is moved"),
            false => std::fs::remove_dir_all(&state).expect("it is deleted"),
        }
        for _ in 0..3 {
            let said = site.post(&["-e", "late"], "t/b");
            assert!(said.contains("5.03"), "{said}");
        }
        let (_, said) = site.daemon.command(&["status"]);
        assert!(
            said.contains("deleted or moved while the gateway runs") && said.contains("restart"),
            "{said}"
        );
        let (code, said) = site.daemon.command(&["check", "--offline"]);
        assert!(code == 1 && said.contains("fail  journal") && said.contains("deleted or moved"), "{said}");
        assert!(!said.contains("first start makes it") && !said.contains("can be written to"), "{said}");
        assert_eq!(site.daemon.command(&["health"]).0, 1);
        if moved {
            std::fs::rename(&elsewhere, &state).expect("it is moved back");
            wait_within(3 * PATIENCE, "readings are taken", || {
                site.post(&["-e", "x"], "t/b").contains("2.04")
            });
        }
    }
}

#[test]
fn a_file_in_the_place_of_a_folder_of_the_journal_is_named_with_the_way_out() {
    let mut site = Site::new("file-for-folder", "");
    site.daemon.kill();
    let journal = site.folder.join("state/journal");
    std::fs::remove_dir_all(&journal).expect("it is deleted");
    std::fs::create_dir(&journal).expect("it is made");
    std::fs::write(journal.join("spare"), "a file").expect("it is written");
    site.daemon.resume();
    assert!(site.post(&["-e", "x"], "t/b").contains("5.03"));
    wait_for("the way out", || {
        let (_, said) = site.daemon.command(&["status"]);
        said.contains("spare in ") && said.contains("move it aside")
    });
    std::fs::remove_file(journal.join("spare")).expect("it is moved aside");
    wait_within(3 * PATIENCE, "readings are taken", || site.post(&["-e", "x"], "t/b").contains("2.04"));
}

/// 192.0.2.0/24 is on no machine (RFC 5737).
#[test]
fn an_address_that_the_machine_does_not_have_ends_nothing_and_is_named() {
    let site = Site::build("absent", "", "", |text| {
        text.replace("[coap]\nlisten = [", "[coap]\nlisten = [\"192.0.2.77:45684\", ")
    });
    let config = std::fs::read_to_string(site.daemon.config()).expect("the configuration");
    assert!(config.contains("192.0.2.77"), "{config}");
    assert!(site.post(&["-e", "x"], "t/b").contains("2.04"));
    let said = site.daemon.status()["problems"].to_string();
    assert!(said.contains("192.0.2.77:45684 is not an address of this machine"), "{said}");
    let (code, said) = site.daemon.command(&["check", "--offline"]);
    assert!(code == 1 && said.contains("192.0.2.77:45684 is not an address"), "{said}");
}

#[test]
fn a_notification_of_a_device_that_is_observed_is_acknowledged_only_once_it_is_stored() {
    let faulty = Faulty::with("served", &format!("{AWAKE}{OBSERVE}"));
    let site = &faulty.site;
    let mut device = Device::start(site);
    wait_for("the first value", || values(site, "t/temp") == ["20"]);
    faulty.fail(&format!("sync {EIO} journal/"));
    device.set("21");
    wait_for("the reason", || served(site)[0]["trouble"].to_string().contains("journal did not take"));
    assert_eq!(values(site, "t/temp"), ["20"]);
    faulty.heal();
    wait_for("the value", || values(site, "t/temp").last().is_some_and(|last| last == "21"));
    device.set("22");
    wait_for("the next", || values(site, "t/temp").last().is_some_and(|last| last == "22"));
}
