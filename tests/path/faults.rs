//! Disks that fill, files that rot, configuration that is wrong, brokers that cannot be trusted:
//! each a clear message, a working rest, and recovery without a restart.

use nix::sys::signal::Signal;

use super::{KEY, Site};
use tombolo_test_support::{Folder, wait_for};

fn refusal_count(site: &Site) -> bool {
    site.post(&["-e", "x"], "t/full").contains("5.03")
}

/// A small file system of its own, unmounted when dropped.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(folder: &Folder, name: &str, megabytes: u32) -> Small {
        let path = folder.join(name);
        std::fs::create_dir_all(&path).expect("the mount point can be made");
        let size = format!("size={megabytes}m");
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tombolo-test"])
            .arg(&path)
            .status();
        assert!(status.is_ok_and(|s| s.success()), "mounting a tmpfs needs root");
        Small(path)
    }

    fn remount(&self, option: &str) {
        let option = format!("remount,{option}");
        let status = std::process::Command::new("mount").args(["-o", &option]).arg(&self.0).status();
        assert!(status.is_ok_and(|s| s.success()), "remount {option}");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_refuses_and_heals_by_itself() {
    let folder = Folder::new("disk");
    let small = Small::mount(&folder, "state", 24);
    let extra = "[journal]\nmax-bytes = \"64MiB\"\n[lane.normal]\nmax-bytes = \"40MiB\"\n[lane.high]\nmax-bytes = \"8MiB\"\n";
    let mut site = Site::with_state("full", extra, &small.0);
    site.broker.stop();
    let ballast = small.0.join("ballast");
    site.post(&["-e", "before"], "t/full");
    // Everything the daemon has not taken yet.
    let _ = std::process::Command::new("dd")
        .args(["if=/dev/zero", "bs=64k", &format!("of={}", ballast.display())])
        .stderr(std::process::Stdio::null())
        .status();
    let large = site.folder.write("large.txt", vec![b'x'; 60_000]);
    let large = large.display().to_string();
    wait_for("5.03", || site.post(&["-f", &large, "-b", "1024"], "t/full").contains("5.03"));
    assert!(site.daemon.status()["journal"]["failing"].is_string(), "{}", site.daemon.status());
    std::fs::remove_file(&ballast).expect("the ballast goes");
    // Without a reading that would try it: what is over is not said any longer.
    wait_for("the end of the trouble", || {
        let status = site.daemon.status();
        status["journal"]["failing"].is_null() && status["problems"].as_array().is_some_and(Vec::is_empty)
    });
    wait_for("readings taken again", || !refusal_count(&site));
    site.broker.resume();
    wait_for("the first one", || {
        site.arrived("tombolo/gw/door-7/up/t/full").iter().any(|fields| fields[1] == "before")
    });
}

#[test]
fn a_full_lane_is_named_with_the_way_out_until_the_broker_takes_its_records() {
    let mut site = Site::new("lane-full", "[lane.normal]\nmax-bytes = \"512KiB\"\ndevice-share = 100\n");
    site.broker.stop();
    let large = site.folder.write("large.txt", vec![b'x'; 48_000]).display().to_string();
    let problems = |site: &Site| site.daemon.status()["problems"].to_string();
    assert!(!problems(&site).contains("is full"), "{}", problems(&site));
    wait_for("5.03", || site.post(&["-f", &large, "-b", "1024"], "t/full").contains("5.03"));
    let named = problems(&site);
    assert!(named.contains("lane normal is full: readings are refused"), "{named}");
    assert!(named.contains("max-bytes of [lane.normal]") && !named.contains("lane high"), "{named}");
    assert!(site.daemon.command(&["status"]).1.contains("lane normal is full"));
    let (_, checked) = site.daemon.command(&["check"]);
    assert!(checked.contains("lane normal is full"), "{checked}");
    site.broker.resume();
    wait_for("room", || !problems(&site).contains("is full"));
    wait_for("readings taken again", || !refusal_count(&site));
}

#[test]
fn a_state_directory_remounted_while_it_runs_stays_in_use() {
    let folder = Folder::new("readonly");
    let small = Small::mount(&folder, "state", 300);
    let site = Site::with_state("ro", "", &small.0);
    site.post(&["-e", "before"], "t/x");
    // Read-only it cannot become while the journal has files open for writing: the write that fails
    // is in the journal's own tests.
    small.remount("size=300m");
    site.post(&["-e", "after"], "t/x");
    wait_for("both", || site.arrived("tombolo/gw/door-7/up/t/x").len() == 2);
}

#[test]
fn a_bad_file_on_reload_changes_nothing_and_is_named() {
    let site = Site::new("reload", "");
    let good = std::fs::read_to_string(site.daemon.config()).expect("the configuration");
    std::fs::write(site.daemon.config(), format!("{good}\n[role.sensor\n")).expect("it can be spoiled");
    site.daemon.signal(Signal::SIGHUP);
    wait_for("the complaint", || site.daemon.log().contains("tombolo.toml:"));
    site.post(&["-e", "1"], "t/still");
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/t/still").is_empty());

    let better = format!("{good}\n[role.sensor.uplink.more]\npath = \"more/#\"\n");
    std::fs::write(site.daemon.config(), better).expect("it can be mended");
    site.daemon.signal(Signal::SIGHUP);
    wait_for("the new rule", || {
        site.post(&["-e", "1"], "more/x");
        !site.arrived("tombolo/gw/door-7/up/more/x").is_empty()
    });
}

#[test]
fn a_spoiled_device_file_disables_that_device_only() {
    let mut site = Site::new("spoiled", "");
    for id in ["one", "two"] {
        let (code, text) =
            site.daemon.command(&["device", "add", id, "--role", "sensor", "--psk", "text:open-open-open-1"]);
        assert_eq!(code, 0, "{text}");
    }
    let (_, _) = site.daemon.stop();
    site.folder.write("state/devices/one.toml", "role = [[[");
    site.daemon.resume();
    for id in ["one", "two"] {
        site.coap_client("coap-client-openssl", id, "open-open-open-1", &["-m", "post", "-e", "1"], "t/x");
    }
    site.coap_client("coap-client-openssl", "door-7", KEY, &["-m", "post", "-e", "1"], "t/x");
    wait_for("the good ones", || {
        !site.arrived("tombolo/gw/two/up/t/x").is_empty()
            && !site.arrived("tombolo/gw/door-7/up/t/x").is_empty()
    });
    assert!(site.arrived("tombolo/gw/one/up/t/x").is_empty());
    let log = site.daemon.log();
    let finding = log.lines().find(|line| line.contains("one.toml")).expect("it is named");
    // The level of the line is its severity.
    assert!(!finding.contains("fail  ") && !finding.contains("warn  "), "{finding}");
    let (code, text) = site.daemon.command(&["check", "--offline"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("one.toml"), "{text}");
}

#[test]
fn a_journal_segment_overwritten_with_garbage_costs_what_it_held_and_no_more() {
    let mut site = Site::new("rot", "");
    site.broker.stop();
    for number in 0..20 {
        site.post(&["-e", &number.to_string()], "t/n");
    }
    site.daemon.stop();
    // The middle of the segment that holds them.
    let mut segments: Vec<_> = std::fs::read_dir(site.folder.join("state/journal/normal"))
        .expect("the lane's folder")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    segments.sort();
    let mut hit = 0;
    for segment in &segments {
        let mut bytes = std::fs::read(segment).expect("a segment");
        let Some(at) = bytes.windows(3).position(|w| w == b"t/n") else { continue };
        for byte in &mut bytes[at..at + 300] {
            *byte = 0xA5;
        }
        std::fs::write(segment, bytes).expect("it can be spoiled");
        hit += 1;
    }
    assert!(hit > 0, "no segment holds the readings: {segments:?}");
    site.daemon.resume();
    site.broker.resume();
    let count = || site.arrived("tombolo/gw/door-7/up/t/n").len();
    wait_for("the rest and the account of the loss", || {
        count() >= 10 && site.arrived("tombolo/gw/gateway/loss").iter().any(|f| f[1].contains("damaged"))
    });
    assert!(count() < 20);
    let lost = site.daemon.status()["journal"]["lost"].as_u64().unwrap_or(0);
    assert_eq!(count() as u64 + lost, 20, "every reading either arrives or is accounted for");
}

#[test]
fn a_broker_nobody_vouches_for_is_refused_by_name_and_taken_once_it_is_right() {
    let other = Folder::new("other-ca");
    let stranger = tombolo_test_support::Pki::new(other.path());
    let mut site = Site::new("chain", "");
    let good = std::fs::read_to_string(site.daemon.config()).expect("the configuration");
    let bad = good.replace(&site.pki.ca().display().to_string(), &stranger.ca().display().to_string());
    std::fs::write(site.daemon.config(), &bad).expect("it can be changed");
    let (code, text) = site.daemon.command(&["reload"]);
    assert_eq!(code, 3, "{text}");
    // The connection that stands is kept; the next one is made with the other CA.
    assert_eq!(site.daemon.status()["ok"], false, "{text}");
    site.broker.stop();
    site.broker.resume();
    wait_for("the refusal", || {
        let error = site.daemon.status()["upstream"]["last_error"].to_string();
        error.contains("unknown") || error.contains("not trusted") || error.contains("issuer")
    });
    assert!(!site.post(&["-e", "kept"], "t/kept").contains("5.03"), "readings are taken meanwhile");
    let (code, text) = site.daemon.command(&["check"]);
    assert_eq!(code, 1, "{text}");
    std::fs::write(site.daemon.config(), &good).expect("it can be mended");
    site.daemon.signal(Signal::SIGHUP);
    wait_for("the reading kept meanwhile", || !site.arrived("tombolo/gw/door-7/up/t/kept").is_empty());
}

#[test]
fn a_host_name_that_does_not_resolve_is_named() {
    let site = Site::new("dns", "");
    let good = std::fs::read_to_string(site.daemon.config()).expect("the configuration");
    std::fs::write(site.daemon.config(), good.replace("mqtts://localhost", "mqtts://no-such-host.invalid"))
        .expect("it can be changed");
    site.daemon.signal(Signal::SIGHUP);
    wait_for("the failure", || {
        site.daemon.status()["upstream"]["last_error"].to_string().contains("no-such-host.invalid")
    });
    std::fs::write(site.daemon.config(), &good).expect("it can be mended");
    site.daemon.signal(Signal::SIGHUP);
    wait_for("the uplink", || site.daemon.status()["upstream"]["connected"] == true);
}

#[test]
fn a_device_that_loses_its_rights_loses_its_session_at_once() {
    let site = Site::new("revoked", "");
    let good = std::fs::read_to_string(site.daemon.config()).expect("the configuration");
    site.post(&["-e", "1"], "t/x");
    let cut = good.find("[device.door-7]").expect("the device");
    std::fs::write(site.daemon.config(), &good[..cut]).expect("it can be changed");
    site.daemon.signal(Signal::SIGHUP);
    wait_for("no session", || site.daemon.status()["devices"]["sessions"] == 0);
    site.post(&["-e", "2"], "t/x");
    assert_eq!(site.arrived("tombolo/gw/door-7/up/t/x").len(), 1);
}
