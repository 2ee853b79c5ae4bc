//! Commands that write configuration, where its folder is on a read-only file system: they write
//! below the state directory as `init` does, or refuse before anything has changed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use tombolo_test_support::wait_for;

use crate::init::{BOUND, OWNER, ReadOnly};
use crate::place::{Place, mode};

const QUOTA: &str = "[role.sensor.quota]\nmessages = 5\n";

/// Every file and folder below one, with the text of small ones.
fn tree(top: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        let path = entry.path();
        found.insert(path.display().to_string(), fs::read_to_string(&path).unwrap_or_default());
        if path.is_dir() {
            found.extend(tree(&path));
        }
    }
    found
}

/// The quota in force.
#[track_caller]
fn quota(site: &ReadOnly) -> Option<u64> {
    let (_, out, err) = site.run("--json config show role.sensor.quota.messages");
    let shown: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
    shown["settings"]["role.sensor.quota.messages"]["value"].as_u64()
}

/// It failed so, and nothing has changed.
#[track_caller]
fn refused(site: &ReadOnly, words: &str, status: i32, wanted: &[&str]) {
    let before = (tree(&site.0.path("etc")), tree(&site.0.path("state")));
    let (is, out, err) = site.run(words);
    assert_eq!(is, Some(status), "{words}: {out}{err}");
    for text in wanted {
        assert!(err.contains(text), "{words}: no {text} in {err}");
    }
    assert_eq!((tree(&site.0.path("etc")), tree(&site.0.path("state"))), before, "{words}");
}

#[test]
fn config_apply_writes_below_the_state_directory() {
    let Some(site) = ReadOnly::new("[log]\nlevel = \"info\"\n") else { return };
    let place = &site.0;
    place.write("new/50-quota.toml", QUOTA);
    place.write("new/60-log.toml", "[log]\nlevel = \"debug\"\n");
    place.write("new/70-wrong.toml", "[journal]\nmax-bytes = 0\n");
    let (status, out, err) = site.run("config apply new/50-quota.toml");
    assert_eq!(status, Some(0), "{out}{err}");
    let file = place.path("state/conf.d/50-quota.toml");
    let why = format!(
        "{} is below the state directory because {} is on a file system that is read-only",
        file.display(),
        place.path("etc/conf.d").display()
    );
    assert!(err.contains(&why), "no {why} in {err}");
    assert_eq!(place.read("state/conf.d/50-quota.toml"), QUOTA);
    let about = fs::metadata(&file).unwrap();
    assert_eq!((about.uid(), about.gid(), mode(&file)), (OWNER, OWNER, 0o600));
    let (_, out, err) = site.run("config show role.sensor.quota.messages");
    assert!(out.contains("state/conf.d/50-quota.toml"), "{out}{err}");
    assert_eq!(quota(&site), Some(5));

    refused(&site, "config apply new/50-quota.toml", 1, &["has this content already"]);
    refused(
        &site,
        "config apply new/50-quota.toml --main",
        1,
        &[
            "nothing was changed",
            "etc/tombolo.toml is on a file system that is read-only",
            "leave --main out",
        ],
    );
    refused(
        &site,
        "config apply new/60-log.toml",
        78,
        &["etc/tombolo.toml", "log.level: is set there, which takes precedence over", "nothing was changed"],
    );
    refused(&site, "config apply new/70-wrong.toml", 78, &["journal.max-bytes", "nothing was changed"]);

    // Something that works by the file below would not any more, and is named.
    place.write("new/80.toml", "[role.door.uplink.a]\npath = \"a\"\n");
    place.write("new/80-empty.toml", "# nothing\n");
    assert_eq!(site.run("config apply new/80.toml").0, Some(0));
    refused(&site, "config apply new/80-empty.toml --as 80.toml", 1, &["nothing was changed", "role door"]);

    // A state directory that cannot be written either.
    let both = format!("{BOUND} && mount --bind state state && mount -o remount,bind,ro state");
    let (status, out, err) = site.run_in(&both, "config apply new/50-quota.toml --as 51.toml");
    assert_eq!(status, Some(1), "{out}{err}");
    assert!(err.contains("etc/conf.d/51.toml is on a file system that is read-only; make it"), "{err}");

    // Writable again: what is below the state directory does not stay in force unseen.
    let (status, out, err) = site.run_in("true", "config apply new/50-quota.toml");
    assert_eq!(status, Some(1), "{out}{err}");
    assert!(err.contains("state/conf.d/50-quota.toml is of a time when"), "{err}");
    assert!(!place.path("etc/conf.d/50-quota.toml").exists());

    // Its user put a link there.
    fs::remove_dir_all(place.path("state/conf.d")).unwrap();
    fs::create_dir(place.path("elsewhere")).unwrap();
    symlink("../elsewhere", place.path("state/conf.d")).unwrap();
    refused(&site, "config apply new/50-quota.toml", 1, &["nothing was changed", "a symbolic link"]);
    assert_eq!(fs::read_dir(place.path("elsewhere")).unwrap().count(), 0);
}

#[test]
fn without_a_state_directory_it_is_made() {
    let Some(site) = ReadOnly::new("") else { return };
    let place = &site.0;
    fs::remove_dir_all(place.path("state")).unwrap();
    place.write("new/50-quota.toml", QUOTA);
    let (status, out, err) = site.run("config apply new/50-quota.toml");
    assert_eq!(status, Some(0), "{out}{err}");
    fs::remove_dir_all(place.path("state")).unwrap();
    let (status, out, err) = site.run("init --url mqtts://b.example.com");
    assert_eq!(status, Some(0), "{out}{err}");
    assert!(place.path("state/conf.d/10-site.toml").exists());
}

#[test]
fn a_trial_of_a_file_below_the_state_directory_is_taken_back() {
    let Some(site) = ReadOnly::new("") else { return };
    let place = &site.0;
    let file = place.path("state/conf.d/50-quota.toml");
    let later = "[role.sensor.quota]\nmessages = 7\n";
    let record = |before: Option<&str>| {
        place.write("state/conf.d/50-quota.toml", later);
        let record = serde_json::json!({
            "version": 1, "file": file, "candidate": later, "before": before,
            "boot": "00000000000000000000000000000000", "ends_ms": u64::MAX,
        });
        place.write("state/config-trial.json", &record.to_string());
    };
    // Cut off, and booted again: what was before is used, and comes back.
    record(Some(QUOTA));
    assert_eq!(quota(&site), Some(5));
    let (_, out, err) = site.run("check --offline");
    assert!(format!("{out}{err}").contains("not confirmed in time"), "{out}{err}");
    let (status, out, err) = site.run("config revert");
    assert_eq!(status, Some(0), "{out}{err}");
    assert_eq!(place.read("state/conf.d/50-quota.toml"), QUOTA);
    record(None);
    assert_ne!(quota(&site), Some(7));
    let (status, out, err) = site.run("config revert");
    assert_eq!(status, Some(0), "{out}{err}");
    assert!(!file.exists());

    // With the daemon.
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_tombolo"));
    daemon.arg("--config").arg(place.path("etc/tombolo.toml")).arg("run");
    daemon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut daemon = daemon.spawn().unwrap();
    wait_for("the gateway", || site.run("--json status").0 == Some(0));
    place.write("new/50-quota.toml", later);
    let mut apply = site.command_in(BOUND, "config apply new/50-quota.toml --confirm 10min");
    let child = apply.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the trial", || site.run("status").1.contains("50-quota.toml is on trial"));
    let (status, out, err) = site.run("config revert");
    let output = child.wait_with_output().unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!(status, Some(0), "{out}{err}");
    assert!(!file.exists());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("taken back"), "{said}");
}

#[test]
fn a_record_of_a_trial_about_another_file_is_not_acted_on() {
    let place = Place::new();
    place.write("victim", "mine");
    place.write("new/50-quota.toml", QUOTA);
    let record = serde_json::json!({
        "version": 1, "file": place.path("victim"), "candidate": "mine", "before": "theirs",
        "boot": "00000000000000000000000000000000", "ends_ms": 0,
    });
    place.write("state/config-trial.json", &record.to_string());
    for words in ["config apply new/50-quota.toml", "config revert", "config confirm"] {
        place.run(words).failed(1, &["nothing was changed", "victim, which is no configuration file of"]);
        assert_eq!(place.read("victim"), "mine", "{words}");
    }
}

#[test]
fn a_restore_does_what_it_can_or_nothing() {
    let Some(site) = ReadOnly::new("") else { return };
    let place = &site.0;
    site.run("device add door-7 --role sensor --psk");
    assert_eq!(site.run("backup b.tar").0, Some(0));
    // The image has the files of the backup: what is below the state directory comes back.
    site.run("device remove door-7");
    let (status, out, err) = site.run("restore b.tar");
    assert_eq!(status, Some(0), "{out}{err}");
    assert!(place.path("state/devices/door-7.toml").exists());
    // Another image.
    site.run("device remove door-7");
    place.write("etc/conf.d/30-image.toml", QUOTA);
    refused(
        &site,
        "restore b.tar",
        1,
        &[
            "nothing was changed",
            "etc is on a file system that is read-only, and its conf.d/30-image.toml would change",
            "restore b.tar --state-only",
            "tar -xf b.tar config",
        ],
    );
    let (status, out, err) = site.run("restore b.tar --state-only");
    assert_eq!(status, Some(0), "{out}{err}");
    assert!(place.path("state/devices/door-7.toml").exists());
    assert_eq!(place.read("etc/conf.d/30-image.toml"), QUOTA);
    // A backup of a board whose /etc could be written.
    let (status, out, err) = site.run_in("true", "backup c.tar");
    assert_eq!(status, Some(0), "{out}{err}");
    fs::remove_file(place.path("etc/conf.d/30-image.toml")).unwrap();
    refused(&site, "restore c.tar", 1, &["conf.d/30-image.toml would change"]);
    let tar = Command::new("tar").args(["-xf", "c.tar", "config"]).current_dir(place.path(".")).status();
    assert!(tar.unwrap().success());
    let (status, out, err) = site.run("config apply config/conf.d/30-image.toml");
    assert_eq!(status, Some(0), "{out}{err}");
    assert_eq!(place.read("state/conf.d/30-image.toml"), QUOTA);
}

#[test]
fn devices_keys_and_the_first_boot_need_the_state_directory_alone() {
    let Some(site) = ReadOnly::new("") else { return };
    site.0.write("devices.csv", "id,role,psk\ndoor-8,sensor,generate\n");
    for words in [
        "device add door-7 --role sensor --psk",
        "device set door-7 --label north",
        "device rekey door-7 --psk",
        "device import devices.csv",
        "device disable door-8",
        "device remove door-8",
        "firstboot --mark",
        "firstboot",
    ] {
        let (status, out, err) = site.run(words);
        assert_eq!(status, Some(0), "{words}: {out}{err}");
    }
    let rules = site.0.path("etc").display().to_string();
    let hash = "$7$101$oGB4I/cYdnwLBuJr$FwP87im51rvl/wRx64yBq4i4ahrRI7eAuRa3tfWF8ndg/wU3hbcV74f+ZCi+oZjGpCoqA2jGAA3qeNY938K69w==";
    site.0.write("passwords", &format!("anna:{hash}\n"));
    refused(
        &site,
        &format!("import mosquitto --password-file passwords --output {rules}"),
        1,
        &["cannot be written", "Read-only file system", "with --output"],
    );
}
