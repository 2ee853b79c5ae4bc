//! Root's folder on a disk that is full or read-only: what is judged is judged, a version that does
//! not work does not stay, and one that works is told READY.

use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use super::*;

/// A small file system at root's folder; gone with this.
struct Small(PathBuf);

impl Small {
    /// `None`: this user may not mount.
    fn mount(site: &Site) -> Option<Small> {
        let folder = site.folder.join(ROOT);
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let small = Small(folder);
        if small.run(&["mount", "-t", "tmpfs", "-o", "size=20m,mode=755", "none"]) {
            return Some(small);
        }
        eprintln!("skipped: nothing can be mounted here");
        None
    }

    fn run(&self, words: &[&str]) -> bool {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(&self.0).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// Leaves no byte free.
    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("fill")).unwrap();
        for size in [1 << 16, 1] {
            while file.write_all(&vec![7; size]).is_ok() {}
        }
    }

    fn hinder(&self, how: &str) {
        match how {
            "full" => self.fill(),
            _ => assert!(self.run(&["mount", "-o", "remount,ro"])),
        }
    }

    fn mend(&self) {
        assert!(self.run(&["mount", "-o", "remount,rw"]));
        let _ = fs::remove_file(self.0.join("fill"));
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        self.run(&["umount", "-l"]);
    }
}

#[test]
fn a_broken_version_is_taken_back_also_where_nothing_can_be_written_and_counted_once() {
    for how in ["full", "read-only"] {
        let mut site = site(&format!("room-broken-{how}"), "large", "exec");
        let Some(small) = Small::mount(&site) else { return };
        site.ready();
        let (code, text) = site.apply();
        assert_eq!(code, 0, "{how}: {text}");
        site.daemon.stop();
        small.hinder(how);
        let (code, seen) = site.health("2s");
        assert_eq!((code, &seen["verdict"]), (1, &"rolled-back".into()), "{how}: {seen}");
        assert_eq!(site.text("version"), "1.0.0", "{how}");
        assert!(site.text("backend.log").contains("roll-back version=3.0.0 previous=1.0.0"));
        small.mend();
        site.daemon.resume();
        // It is counted by the next run, if it was not at once.
        site.root(&["update", "apply", "--in-window"]);
        let history = site.text("state-update/history.json");
        assert_eq!(history.matches("failed-itself").count(), 1, "{how}: {history}");
        assert_eq!(site.record()["phase"], "failed", "{how}");
    }
}

#[test]
fn the_owner_goes_back_also_where_nothing_can_be_written_and_is_told_what_is_missing() {
    for (how, expected) in [("full", 0), ("read-only", 1)] {
        let site = site(&format!("room-owner-{how}"), "large", "exec");
        let Some(small) = Small::mount(&site) else { return };
        site.ready();
        assert_eq!(site.apply().0, 0, "{how}");
        small.hinder(how);
        let (code, text) = site.root(&["update", "rollback"]);
        assert_eq!((code, site.text("version").as_str()), (expected, "1.0.0"), "{how}: {text}");
        match how {
            "full" => assert!(text.contains("3.0.0 is denied"), "{text}"),
            _ => {
                for what in
                    ["the version before runs again", "Read-only file system", "update denied add 3.0.0"]
                {
                    assert!(text.contains(what), "{what}: {text}");
                }
                wait_for("the problem", || {
                    site.daemon.status()["problems"].to_string().contains("file system that is read-only")
                });
                let (_, text) = site.root(&["check"]);
                assert!(text.contains("file system that is read-only"), "{text}");
            }
        }
        small.mend();
        let (code, text) = site.root(&["update", "rollback"]);
        // On the disk that could not be written the record of the way back is missing.
        let why =
            if how == "full" { "there is nothing to go back from" } else { "one step back and no further" };
        assert!(code == 1 && text.contains(why), "{how}: {text}");
    }
}

#[test]
fn a_version_that_works_is_told_ready_also_where_nothing_can_be_written() {
    for (how, verdict) in [("full", "confirmed"), ("read-only", "pending")] {
        let site = site(&format!("room-works-{how}"), "large", "exec");
        let Some(small) = Small::mount(&site) else { return };
        site.ready();
        assert_eq!(site.apply().0, 0, "{how}");
        small.hinder(how);
        let socket = std::env::temp_dir().join(format!("tombolo-ready-{how}-{}", std::process::id()));
        let _ = fs::remove_file(&socket);
        let told = UnixDatagram::bind(&socket).unwrap();
        told.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_tombolo"))
            .arg("--config")
            .arg(site.daemon.config())
            .args(["health", "--wait", "20s", "--steady", "1s", "--json"])
            .env("PATH", path(&site.folder))
            .env("NOTIFY_SOCKET", &socket)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && text.contains(&format!(r#""verdict":"{verdict}""#)),
            "{how}: {text}"
        );
        let mut bytes = [0; 512];
        let count = told.recv(&mut bytes).unwrap_or_else(|error| panic!("{how}: not told: {error}"));
        assert!(String::from_utf8_lossy(&bytes[..count]).contains("READY=1"));
        let _ = fs::remove_file(&socket);
        assert_eq!(site.text("version"), "3.0.0", "{how}");
        small.mend();
        let (_, seen) = site.health("20s");
        assert!(seen["healthy"] == true, "{how}: {seen}");
        assert_eq!(site.record()["phase"], "confirmed", "{how}");
        assert_eq!(site.text("state-update/history.json").matches("confirmed").count(), 1, "{how}");
    }
}

#[test]
fn no_reboot_is_ordered_for_a_version_whose_installation_cannot_be_written_down() {
    let site = site("room-boot", "large", "exec");
    let Some(small) = Small::mount(&site) else { return };
    site.ready();
    // It takes every byte that there is while it installs.
    let root = small.0.display();
    let greedy = format!(
        "#!/bin/sh\nrm -f '{root}/reserve' \"$2\"\ncat /dev/zero >'{root}/fill' 2>/dev/null\nexit 10\n"
    );
    site.folder.script("update-backend", &greedy);
    let (code, text) = site.root(&["update", "apply", "--in-window"]);
    assert!(
        code == 1 && text.contains("so no reboot is ordered") && text.contains("No space left"),
        "{text}"
    );
    assert_eq!(site.text("systemctl.log"), "");
    wait_for("the problem", || {
        let problems = site.daemon.status()["problems"].to_string();
        problems.contains("nor is a reboot ordered") && problems.contains("bytes free")
    });
}

#[test]
fn a_folder_of_roots_that_is_a_link_is_refused_by_its_name() {
    let site = site("room-link", "large", "exec");
    site.ready();
    let folder = site.folder.join(ROOT);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(site.folder.join("elsewhere")).unwrap();
    for target in ["elsewhere", "nowhere"] {
        symlink(target, &folder).unwrap();
        for arguments in [&["update", "apply"][..], &["update", "rollback"], &["check"]] {
            let (code, text) = site.root(arguments);
            let is_named = text.contains("state-update is a symbolic link") && text.contains("mount --bind");
            assert!(code != 0 && is_named, "{target} {arguments:?}: {code} {text}");
        }
        wait_for("the problem", || {
            site.daemon.status()["problems"].to_string().contains("state-update is a symbolic link")
        });
        fs::remove_file(&folder).unwrap();
    }
    assert_eq!(fs::read_dir(site.folder.join("elsewhere")).unwrap().count(), 0);
    assert_eq!(site.text("version"), "1.0.0");
}

#[test]
fn a_record_that_is_damaged_is_named_with_its_cure() {
    let site = site("room-record", "large", "exec");
    site.ready();
    assert_eq!(site.apply().0, 0);
    for name in ["installation.json", "installation.json.copy"] {
        site.folder.write(&format!("{ROOT}/{name}"), "{");
    }
    let (code, text) = site.apply();
    assert!(code == 1 && text.contains("delete installation.json and its copy there"), "{text}");
    wait_for("the problem", || {
        site.daemon.status()["problems"].to_string().contains("delete installation.json and its copy there")
    });
    for name in ["installation.json", "installation.json.copy"] {
        fs::remove_file(site.folder.join(ROOT).join(name)).unwrap();
    }
    let (code, text) = site.apply();
    assert!(code == 0 && text.contains("nothing newer"), "the version that runs stays: {text}");
}

#[test]
fn nothing_is_installed_where_its_records_would_have_no_room() {
    let site = site("room-none", "large", "exec");
    let Some(small) = Small::mount(&site) else { return };
    site.ready();
    small.fill();
    let (code, text) = site.apply();
    for part in ["No space left on device", "state-update", "; make room there"] {
        assert!(code == 1 && text.contains(part) && !text.contains("latest_known_time"), "{part}: {text}");
    }
    assert_eq!((site.text("backend.log").as_str(), site.text("version").as_str()), ("", "1.0.0"));
    small.mend();
    assert_eq!(site.apply().0, 0);
    assert_eq!(fs::metadata(site.folder.join(ROOT).join("reserve")).unwrap().len(), 256 << 10);
}

#[test]
fn a_history_that_is_damaged_keeps_no_version_from_being_judged() {
    let mut site = site("room-damaged", "large", "exec");
    site.ready();
    assert_eq!(site.apply().0, 0);
    for name in ["history.json", "history.json.copy"] {
        site.folder.write(&format!("{ROOT}/{name}"), "{");
    }
    site.daemon.stop();
    let (code, seen) = site.health("2s");
    assert_eq!((code, &seen["verdict"]), (1, &"rolled-back".into()), "{seen}");
    assert_eq!(site.text("version"), "1.0.0");
}

#[test]
fn a_version_that_works_is_told_ready_also_where_what_installs_is_gone() {
    let site = site("room-backend", "large", "exec");
    site.ready();
    assert_eq!(site.apply().0, 0);
    fs::rename(site.folder.join("update-backend"), site.folder.join("elsewhere")).unwrap();
    let (code, text) = site.root(&["health", "--wait", "20s", "--steady", "1s"]);
    assert!(text.contains("the gateway works"), "{text}");
    assert!(code == 1 && text.contains("what was installed is not judged: "), "{text}");
}
