//! The whole daemon between a real mosquitto and the repositories: what it finds, fetches, refuses
//! and tells.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tombolo::update::io::floor::{on_disk, read};
use tombolo_test_support::{
    Daemon, Folder, Mosquitto, Pki, Subscriber, free_tcp_port, resident_kb, wait_for, wait_within,
};

use crate::gateway::server;

const TOPIC: &str = "tombolo/gw/gateway/update";

struct Site {
    daemon: Daemon,
    witness: Subscriber,
    broker: Mosquitto,
    folder: Folder,
}

fn table(repository: &str) -> String {
    let folder = server().folder().display();
    format!(
        "[update]\nsource = \"tuf\"\nurl = \"https://127.0.0.1:{}/{repository}/\"\n\
         root-file = \"{folder}/root.json\"\nca-file = \"{folder}/ca.pem\"\nperiod = \"1h\"\n",
        server().port()
    )
}

/// A gateway on which RAUC says that 1.0.0 runs.
fn site(name: &str, repository: &str) -> Site {
    let folder = Folder::new(name);
    let pki = Pki::new(folder.path());
    let broker = Mosquitto::start(folder.path(), &pki, "");
    let witness = Subscriber::start(&broker, folder.path(), "tombolo/#", "%t\t%r\t%p");
    std::fs::create_dir(folder.join("bin")).unwrap();
    let status = r#"{"compatible":"acme-gw2","booted":"A","slots":[{"rootfs.0":{"state":"booted",
        "bootname":"A","slot_status":{"bundle":{"version":"1.0.0"}}}}]}"#;
    folder.script("bin/rauc", &format!("#!/bin/sh\ncat <<'END'\n{status}\nEND\n"));
    let binary = Path::new(env!("CARGO_BIN_EXE_tombolo"));
    let mut daemon = Daemon::start(binary, &folder, broker.tls_port, &pki.ca(), "");
    daemon.stop();
    let path = std::env::var("PATH").unwrap();
    daemon.environment.push(("PATH".to_owned(), format!("{}:{path}", folder.join("bin").display())));
    let mut site = Site { daemon, witness, broker, folder };
    site.configure(repository);
    site.daemon.resume();
    wait_for("the broker", || site.daemon.status()["upstream"]["connected"] == true);
    site
}

impl Site {
    fn configure(&self, repository: &str) {
        self.configure_as(&table(repository));
    }

    fn configure_as(&self, table: &str) {
        std::fs::create_dir_all(self.folder.join("conf.d")).unwrap();
        self.folder.write("conf.d/50-update.toml", table);
    }

    fn reload(&self, repository: &str) {
        self.configure(repository);
        let (code, text) = self.daemon.command(&["reload"]);
        assert_eq!(code, 0, "{text}");
    }

    /// `update check --json`: exit status and what it says.
    fn check(&self) -> (i32, Value) {
        let (code, text) = self.daemon.command(&["update", "check", "--json"]);
        (code, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")))
    }

    /// What stands on the topic.
    fn told(&self) -> Vec<Value> {
        let lines = self.witness.lines();
        let payloads = lines.iter().filter_map(|line| line.strip_prefix(TOPIC)?.splitn(3, '\t').nth(2));
        payloads.filter_map(|payload| serde_json::from_str(payload).ok()).collect()
    }

    fn is_told(&self, state: &str, reason: &str) {
        wait_within(Duration::from_secs(60), state, || {
            self.told().last().is_some_and(|told| {
                told["state"] == state && told["reason"].as_str().unwrap_or_default().contains(reason)
            })
        });
    }
}

#[test]
fn a_newer_version_is_found_told_fetched_and_ready_also_after_a_restart() {
    let mut site = site("update-found", "large");
    // A message of any content on the topic of hints has it looked for.
    let port = site.broker.plain_port.to_string();
    wait_for("a check by a hint", || {
        let _ = Command::new("mosquitto_pub")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &port,
                "-t",
                "tombolo/gw/gateway/down/update/check",
                "-m",
                "now!",
            ])
            .status();
        site.daemon.status()["update"]["state"] == "available"
    });
    site.is_told("available", "");
    let told = site.told().pop().unwrap();
    assert_eq!((&told["installed"], &told["available"]["version"]), (&"1.0.0".into(), &"3.0.0".into()));
    let (code, found) = site.check();
    assert_eq!((code, &found["state"]), (0, &"available".into()), "{found}");
    for key in ["state", "installed", "available", "reason", "checked_at"] {
        assert!(found.get(key).is_some(), "{key}: {found}");
    }
    assert_eq!(found["available"]["bytes"], 200_000);
    // Nothing here installs it, so it is fetched only when somebody asks for it.
    assert!(!site.folder.join("state/update/image").exists());
    let (code, text) = site.daemon.command(&["update", "download"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("version 3.0.0 is here and verified"), "{text}");
    let image = std::fs::read(site.folder.join("state/update/image")).unwrap();
    assert_eq!((image.len(), &image[..14]), (200_000, &b"firmware 3.0.0"[..]));
    site.is_told("ready", "");
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.contains("version 3.0.0 is here and verified"), "{text}");
    let (code, text) = site.daemon.command(&["update", "history"]);
    assert!(code == 0 && text.contains("3.0.0  downloaded"), "{text}");

    let (_, text) = site.daemon.command(&["check"]);
    // No RAUC is on the path of this command: no version is newer than one that is not known.
    let warning = "warn  update: the repository verifies: version 3.0.0: the installed version is not known";
    assert!(text.contains(warning) && text.contains("IMAGE_VERSION="), "{text}");

    let (code, text) = site.daemon.command(&["update", "hold"]);
    assert_eq!(code, 0, "{text}");
    site.is_told("ineligible", "updates are held");
    // The way out once, as it has to be typed here.
    let (_, text) = site.daemon.command(&["update", "check"]);
    assert_eq!(text.matches("updates are held").count(), 1, "{text}");
    assert!(text.contains("update release` ends that") && text.contains("tombolo --config "), "{text}");
    site.daemon.command(&["update", "release"]);
    wait_for("the end of the hold", || site.daemon.status()["update"]["state"] != "ineligible");
    let (code, text) = site.daemon.command(&["update", "denied", "add", "3.0.0"]);
    assert!(code == 0 && text.contains("3.0.0"), "{text}");
    site.is_told("ineligible", "denied");
    let (code, text) = site.daemon.command(&["update", "denied", "clear", "3.0.0"]);
    assert_eq!(code, 0, "{text}");
    // The image was kept meanwhile.
    wait_for("the end of the denial", || site.daemon.status()["update"]["state"] == "ready");

    site.daemon.kill();
    site.daemon.resume();
    let (code, _) = site.check();
    assert_eq!(code, 0);
    wait_for("the image again", || site.daemon.status()["update"]["state"] == "ready");

    // Nobody looks for it any more: nothing is left on the topic.
    site.configure_as("");
    let (code, text) = site.daemon.command(&["reload"]);
    assert_eq!(code, 0, "{text}");
    wait_for("an empty topic", || {
        site.witness
            .lines()
            .iter()
            .any(|line| line.trim_end() == format!("{TOPIC}\t0") || line == &format!("{TOPIC}\t0\t"))
    });
    let (code, text) = site.daemon.command(&["update", "check"]);
    assert!(code == 1 && text.contains("[update] source"), "{text}");
}

#[test]
fn what_is_refused_is_told_with_its_reason_and_checking_recovers_by_itself() {
    let mut site = site("update-refused", "signed-anew");
    let (code, found) = site.check();
    assert_eq!((code, &found["available"]["version"]), (0, &"2.1.0".into()), "{found}");
    // The floor is in both slots of its record from here on.
    assert_eq!(site.check().0, 0);
    for (repository, state, reason) in [
        ("first", "error", "rollback: the repository offers version 1 of"),
        ("expired", "error", "rollback: "),
        ("timestamp-of-a-stranger", "error", "Failed to verify timestamp metadata"),
        ("wrong-bytes", "error", "Hash mismatch"),
        ("mixed-targets", "error", "version mismatch"),
        ("newer:endless:timestamp.json", "error", "longer than"),
        ("newer:announced:timestamp.json", "error", "longer than"),
        ("newer:gzip:timestamp.json", "error", "compressed"),
        ("newer:plain:timestamp.json", "error", "redirects (302) to http://"),
        ("newer:elsewhere:timestamp.json", "error", "redirects (302) to https://localhost"),
        ("newer:broken:timestamp.json", "error", "status 503"),
    ] {
        site.reload(repository);
        let (code, found) = site.check();
        assert_eq!((code, &found["state"]), (1, &state.into()), "{repository}: {found}");
        assert!(found["reason"].as_str().unwrap_or_default().contains(reason), "{repository}: {found}");
        assert_eq!(site.daemon.status()["update"]["reason"], found["reason"], "{repository}");
        // It is told at most every 5 s.
        if matches!(repository, "first" | "timestamp-of-a-stranger" | "newer:endless:timestamp.json") {
            site.is_told(state, reason);
        }
    }
    // Nobody is there.
    let gone = table("newer").replace(&format!(":{}/", server().port()), &format!(":{}/", free_tcp_port()));
    site.configure_as(&gone);
    assert_eq!(site.daemon.command(&["reload"]).0, 0);
    let (code, found) = site.check();
    assert!(code == 1 && found["reason"].as_str().unwrap_or_default().contains("cannot be asked"), "{found}");
    site.is_told("error", "cannot be asked");
    // One slot of the floor is torn: the rollback is refused all the same.
    site.daemon.kill();
    let floor = site.folder.join("state/update/floor");
    let mut bytes = std::fs::read(&floor).unwrap();
    bytes[..512].fill(0);
    std::fs::write(&floor, bytes).unwrap();
    site.configure("first");
    site.daemon.resume();
    let (code, found) = site.check();
    assert!(code == 1 && found["reason"].as_str().unwrap_or_default().contains("rollback"), "{found}");
    // And the right one is believed again.
    site.reload("signed-anew");
    let (code, found) = site.check();
    assert_eq!((code, &found["state"]), (0, &"available".into()), "{found}");
    site.is_told("available", "");
    assert_eq!(site.daemon.status()["upstream"]["connected"], true);
}

#[test]
fn a_repository_that_nobody_signs_anew_is_stale_and_said_since_when() {
    let site = site("update-stale", "expired");
    let (code, found) = site.check();
    assert_eq!((code, &found["state"]), (1, &"stale".into()), "{found}");
    site.is_told("stale", "timestamp.json expired at 2020-01-01T00:00:00.000Z");
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.contains("expired at 2020-01-01"), "{text}");
    let (code, text) = site.daemon.command(&["check"]);
    assert!(code == 1 && text.contains("it has to be signed anew"), "{text}");
}

#[test]
fn an_image_that_is_not_the_signed_one_is_refused_and_the_path_does_not_wait() {
    let site = site("update-image", "large:other:gateway-3.0.0.bin");
    let (code, found) = site.check();
    assert_eq!(code, 0, "{found}");
    let (code, text) = site.daemon.command(&["update", "download"]);
    assert!(code == 1 && text.contains("not the one that was signed"), "{text}");
    assert!(!site.folder.join("state/update/image").exists());
    site.is_told("error", "not the one that was signed");
    site.reload("large:silent:gateway-3.0.0.bin");
    assert_eq!(site.check().0, 0);
    let (code, text) = site.daemon.command(&["update", "download", "--no-wait"]);
    assert_eq!(code, 0, "{text}");
    site.is_told("downloading", "");
    assert_eq!(site.daemon.status()["upstream"]["connected"], true);
    // A reload in the middle of it.
    site.reload("large");
    assert_eq!(site.check().0, 0);
    let (code, text) = site.daemon.command(&["update", "download"]);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn an_image_that_was_missing_is_fetched_when_somebody_asks_and_until_then_said_to_be_not_fetched() {
    let from = server().folder().join("large");
    let repository = server().folder().join("incomplete");
    let copied = Command::new("cp").arg("-r").arg(&from).arg(&repository).status();
    assert!(copied.unwrap().success());
    std::fs::remove_dir_all(repository.join("targets")).unwrap();
    let site = site("update-incomplete", "incomplete");
    assert_eq!(site.check().0, 0);
    let (code, text) = site.daemon.command(&["update", "download"]);
    assert!(code == 1 && text.contains("status 404"), "{text}");
    // A check looks at the metadata, which is in order.
    for command in [["update", "check"].as_slice(), &["status"], &["check"]] {
        let (_, text) = site.daemon.command(command);
        assert!(!text.contains("newer firmware is not found"), "{command:?}: {text}");
    }
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.contains("version 3.0.0 is not fetched: the download is refused: status 404"), "{text}");
    assert!(text.contains("update download` tries again"), "{text}");
    let copied = Command::new("cp").arg("-r").arg(from.join("targets")).arg(&repository).status();
    assert!(copied.unwrap().success());
    let (code, text) = site.daemon.command(&["update", "download"]);
    assert!(code == 0 && text.contains("version 3.0.0 is here and verified"), "{text}");
    let (_, text) = site.daemon.command(&["status"]);
    assert!(!text.contains("is not fetched"), "{text}");
}

#[test]
fn a_root_that_expires_within_a_month_is_named_by_the_gateway() {
    let site = site("update-root-ends", "root-ends");
    let (code, found) = site.check();
    assert_eq!((code, &found["state"]), (0, &"available".into()), "{found}");
    for command in ["status", "check"] {
        let (_, text) = site.daemon.command(&[command]);
        assert!(text.contains("the repository's root.json expires at"), "{command}: {text}");
    }
}

#[test]
fn a_fault_of_the_update_table_is_reported_once_by_check() {
    let site = site("update-once", "large");
    let gone = table("large").replace("root.json", "gone.json") + "backend = \"exec\"\n";
    let window = table("large") + "backend = \"exec\"\nmaintenance-window = \"25:00-26:00\"\n";
    for (table, fault) in [(gone, "gone.json"), (window, "25:00-26:00")] {
        site.configure_as(&table);
        let (code, text) = site.daemon.command(&["check", "--offline"]);
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(fault)).collect();
        assert!(code != 0 && lines.len() == 1 && lines[0].contains("50-update.toml:"), "{text}");
        assert!(!lines[0].contains("at every connection"), "{text}");
    }
}

#[test]
fn without_a_daemon_the_command_looks_by_itself_and_keeps_the_history() {
    let mut site = site("update-alone", "large");
    site.daemon.stop();
    let (code, text) = site.daemon.command(&["update", "check", "--json"]);
    let line = text.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{text}"));
    let found: Value = serde_json::from_str(line).unwrap();
    // No RAUC is on the path of this command.
    assert_eq!((code, &found["state"]), (0, &"ineligible".into()), "{text}");
    let (code, text) = site.daemon.command(&["update", "denied", "add", "9.9"]);
    assert_eq!(code, 0, "{text}");
    site.daemon.resume();
    assert_eq!(site.daemon.status()["update"]["denied"][0], "9.9");
}

/// A board without a battery, or with a bad time server: the floor holds meanwhile, and the checks
/// go on by themselves once the clock is right.
fn starts_at(name: &str, time: &str) {
    let mut site = site(name, "this-month");
    let table = table("this-month").replace("period = \"1h\"", "period = \"1m\"");
    site.configure_as(&table);
    let (code, found) = site.check();
    assert_eq!((code, &found["available"]["version"]), (0, &"2.1.0".into()), "{found}");
    let floor = |site: &Site| read(on_disk(&site.folder.join("state/update"))).unwrap();
    let before = floor(&site);
    assert_eq!((before.metadata.timestamp, before.metadata.targets), (3, 2));
    let library = Command::new("faketime").args(["-f", "+0d", "printenv", "LD_PRELOAD"]).output();
    let library = String::from_utf8_lossy(&library.expect("faketime is installed").stdout).trim().to_owned();
    let file = site.folder.write("time", time);
    for (name, value) in [
        ("LD_PRELOAD", library),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ] {
        site.daemon.environment.push((name.to_owned(), value));
    }
    site.daemon.stop();
    site.daemon.resume();
    wait_for("the daemon", || site.daemon.status()["update"]["source"] == "tuf");
    // With or without a daemon it is the promised object.
    let (code, found) = site.check();
    assert_eq!(code, 1, "no answer is believed at {time}");
    assert!(found["state"] != "unknown" && !found["reason"].is_null(), "{found}");
    let update = site.daemon.status()["update"].clone();
    assert!(!update["reason"].is_null(), "{update}");
    assert!(
        ["unknown", "error", "stale"].contains(&update["state"].as_str().unwrap_or_default()),
        "{update}"
    );
    assert_eq!(floor(&site), before, "at {time}");
    // The time comes, and nobody asks.
    site.folder.write("time", "+0");
    wait_within(Duration::from_secs(180), "a check by itself", || {
        site.daemon.status()["update"]["state"] == "available"
    });
    assert_eq!(floor(&site), before);
    site.reload("this-month-before");
    let (code, refused) = site.check();
    let reason = refused["reason"].as_str().unwrap_or_default();
    assert!(code == 1 && reason.starts_with("rollback: "), "{refused}");
    assert_eq!(floor(&site), before);
}

#[test]
fn after_a_start_in_1970_the_floor_holds_and_the_checks_go_on_by_themselves() {
    starts_at("update-1970", "@1970-01-01 00:00:20");
}

#[test]
fn after_a_start_in_2036_the_floor_holds_and_the_checks_go_on_by_themselves() {
    starts_at("update-2036", "@2036-02-07 06:28:00");
}

#[test]
fn as_many_versions_as_can_be_are_denied_and_one_more_is_refused_and_drops_none() {
    let mut site = site("update-denied", "large");
    let list = |site: &Site| site.daemon.command(&["update", "denied", "list"]).1;
    let deny = |site: &Site, version: &str| site.daemon.command(&["update", "denied", "add", version]);
    for number in 0..32 {
        // Some of them where the daemon does not run.
        if number == 28 {
            site.daemon.stop();
        }
        let (code, text) = deny(&site, &format!("3.0.{number}"));
        assert_eq!(code, 0, "{number}: {text}");
    }
    for is_running in [false, true] {
        if is_running {
            site.daemon.resume();
        }
        let (code, text) = deny(&site, "4.0.0");
        let is_said = text.contains("is not denied: 32 versions are denied") && text.contains("denied clear");
        assert!(code == 1 && is_said, "{is_running}: {text}");
        assert_eq!(deny(&site, "3.0.0").0, 0, "it is denied already");
        let list = list(&site);
        assert!(list.contains("3.0.0\n") && list.contains("3.0.31") && !list.contains("4.0.0"), "{list}");
    }
    let (code, found) = site.check();
    assert_eq!((code, &found["state"]), (0, &"ineligible".into()), "{found}");
}

#[test]
fn an_image_that_cannot_be_stored_here_is_a_problem_at_once() {
    for (repository, file, why) in [
        ("huge", None, "there is no room for the image: it needs 4611686018427387904 bytes more"),
        ("large", Some("download"), "download is a folder, not a file; move it away"),
    ] {
        let site = site(&format!("update-room-{repository}"), repository);
        let script = site.folder.script("update-backend", "#!/bin/sh\n");
        assert!(script.exists());
        site.configure_as(&(table(repository) + "backend = \"exec\"\n"));
        if let Some(name) = file {
            std::fs::create_dir_all(site.folder.join("state/update").join(name)).unwrap();
        }
        assert_eq!(site.daemon.command(&["reload"]).0, 0);
        assert_eq!(site.check().0, 0);
        let mut problems = String::new();
        wait_for("the problem", || {
            problems = site.daemon.status()["problems"].to_string();
            problems.contains(why)
        });
        assert!(problems.contains("does not arrive") && problems.contains("update download"), "{problems}");
        let (_, text) = site.daemon.command(&["status"]);
        assert!(text.contains("NOT FINE"), "{text}");
        let output = Command::new(env!("CARGO_BIN_EXE_tombolo"))
            .arg("--config")
            .arg(site.daemon.config())
            .arg("check")
            .env("PATH", format!("{}:{}", site.folder.join("bin").display(), std::env::var("PATH").unwrap()))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!output.status.success(), "{text}");
        assert!(
            text.contains("fail  update: the image of version 3.0.0 cannot be fetched: ")
                && text.contains(why),
            "{text}"
        );
    }
}

#[test]
fn a_check_without_a_daemon_that_is_killed_leaves_nothing_for_longer_than_to_the_next_one() {
    let mut site = site("update-killed", "newer:silent:timestamp.json");
    site.daemon.stop();
    let temporary = site.folder.join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let left = || std::fs::read_dir(&temporary).unwrap().count();
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tombolo"));
        command.arg("--config").arg(site.daemon.config()).args(["update", "check"]).env("TMPDIR", &temporary);
        command
    };
    let start = || {
        let before = left();
        let child = command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for("its working files", || left() > before);
        child
    };
    let (mut killed, mut running) = (start(), start());
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(left(), 2);
    // One that is at work keeps its own.
    site.configure("newer");
    assert!(command().output().unwrap().status.success());
    assert_eq!(left(), 1);
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(command().output().unwrap().status.success());
    assert_eq!(left(), 0);
}

/// What a terminal gets until it has `words`, or until it is closed.
fn read_until(terminal: &mut std::fs::File, words: &str) -> String {
    let (mut text, mut bytes) = (String::new(), [0; 4096]);
    while !text.contains(words) {
        match terminal.read(&mut bytes) {
            Ok(count) if count > 0 => text += &String::from_utf8_lossy(&bytes[..count]),
            // The other end is closed.
            _ => break,
        }
    }
    text
}

#[test]
fn a_download_shows_a_bar_on_a_terminal_and_erases_it() {
    let site = site("update-bar", "large:waits:gateway-3.0.0.bin");
    assert_eq!(site.check().0, 0);
    let go_on = server().folder().join("go-on");
    let _ = std::fs::remove_file(&go_on);
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tombolo"));
    command.arg("--config").arg(site.daemon.config()).args(["update", "download"]);
    command.env("TERM", "xterm").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(pty.slave);
    let child = command.spawn().unwrap();
    drop(command);
    let mut terminal = std::fs::File::from(pty.master);
    let shown = read_until(&mut terminal, " 50 % of 195.3 KiB");
    assert!(shown.contains(&format!("\r\x1b[K[{}{}]  50 %", "#".repeat(15), ".".repeat(15))), "{shown:?}");
    std::fs::write(&go_on, "").unwrap();
    let rest = read_until(&mut terminal, "until it is closed");
    let output = child.wait_with_output().unwrap();
    std::fs::remove_file(&go_on).unwrap();
    assert!(output.status.success() && rest.ends_with("\r\x1b[K"), "{rest:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text, "version 3.0.0 is here and verified\n");
    // Nothing of it where nobody looks.
    let (code, text) = site.daemon.command(&["update", "download"]);
    assert!(code == 0 && !text.contains('\x1b') && !text.contains('['), "{text:?}");
}

#[test]
fn a_folder_in_the_place_of_the_image_is_moved_aside() {
    let site = site("update-folder", "large");
    assert_eq!(site.check().0, 0);
    for name in ["image", "image.part"] {
        std::fs::create_dir_all(site.folder.join("state/update").join(name).join("x")).unwrap();
    }
    let (code, text) = site.daemon.command(&["update", "download"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(std::fs::metadata(site.folder.join("state/update/image")).unwrap().len(), 200_000);
    assert!(site.folder.join("state/update/image.in-the-way-1/x").is_dir());
}

/// The process that fetches metadata for the daemon, if there is one now.
fn fetching(daemon: u32) -> Option<u32> {
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let mut words = stat.rsplit_once(')')?.1.split_whitespace();
        let (state, parent) = (words.next()?, words.next()?);
        let words = std::fs::read(entry.path().join("cmdline")).ok()?;
        let is_it = parent == daemon.to_string() && state != "Z" && words.ends_with(b"update\0metadata\0");
        is_it.then_some(pid)
    })
}

#[test]
fn the_process_that_fetches_metadata_costs_one_check_if_it_dies_and_ends_with_the_settings() {
    let site = site("update-apart", "newer:silent:timestamp.json");
    let daemon = site.daemon.pid();
    let within = Duration::from_secs(15);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| site.check());
        wait_within(within, "the process", || fetching(daemon).is_some());
        let process = fetching(daemon).unwrap();
        assert!(Command::new("kill").args(["-9", &process.to_string()]).status().unwrap().success());
        let (code, found) = asked.join().unwrap();
        let reason = found["reason"].as_str().unwrap_or_default();
        assert!(code == 1 && reason.contains("came to no answer (signal: 9 (SIGKILL))"), "{found}");
    });
    // A server that is silent is given 20 s; settings that were replaced are not waited for.
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| site.daemon.command(&["update", "check"]));
        wait_within(within, "the process", || fetching(daemon).is_some());
        site.configure("newer");
        assert_eq!(site.daemon.command(&["reload"]).0, 0);
        let (code, text) = asked.join().unwrap();
        assert!(code == 1 && text.contains("[update] was changed meanwhile"), "{text}");
    });
    wait_within(within, "its end", || fetching(daemon).is_none());
    let (code, found) = site.check();
    assert_eq!((code, &found["available"]["version"]), (0, &"2.1.0".into()), "{found}");
    assert!(begun.elapsed() < Duration::from_secs(18), "the server's silence was waited for");
    assert!(!site.folder.join("state/update/metadata").exists(), "working files are left");
}

#[test]
fn looking_for_newer_firmware_costs_a_gateway_at_most_2_mb_at_rest() {
    let mut site = site("update-memory", "large");
    let mut begin = |table: &str| {
        site.daemon.stop();
        site.configure_as(table);
        site.daemon.resume();
        wait_for("the broker", || site.daemon.status()["upstream"]["connected"] == true);
        resident_kb(site.daemon.pid())
    };
    let without = begin("[update]\nsource = \"none\"\n");
    let before = begin(&table("large"));
    let mut after = Vec::new();
    for _ in 0..10 {
        assert_eq!(site.check().0, 0);
        after.push(resident_kb(site.daemon.pid()));
    }
    println!("kB at rest: {without} without, {before} before the first check, then {after:?}");
    let most = after.iter().copied().fold(before, u64::max);
    // A check in the daemon itself left 7 MB of a build like this one.
    assert!(most <= without + 2048, "{most} instead of {without} kB");
}

/// Asks the gateway itself for a check over the broker: user properties, a bar, and the payload of
/// the outcome; empty if there is none.
fn ask(site: &Site, qos: &str, seconds: &str) -> String {
    let port = site.broker.plain_port.to_string();
    let output = Command::new("mosquitto_rr")
        .args(["-h", "127.0.0.1", "-p", &port, "-V", "5", "-q", qos, "-W", seconds, "-F", "%P|%p"])
        .args(["-t", "tombolo/gw/gateway/down/update/check", "-e", "app/check", "-m", "x"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_command_to_check_gets_its_outcome_at_each_qos_and_is_refused_where_it_is_not_listed() {
    let site = site("update-asked", "large");
    let listed = |verb: &str| {
        site.configure_as(&format!("{}[remote]\nallow = [\"{verb}\"]\n", table("large")));
        assert_eq!(site.daemon.command(&["reload"]).0, 0);
        wait_for("the broker", || site.daemon.status()["upstream"]["connected"] == true);
    };
    listed("status");
    for qos in ["0", "1", "2"] {
        // The first one may come before the subscription.
        let mut answer = String::new();
        wait_for("the outcome", || {
            answer = ask(&site, qos, "5");
            !answer.is_empty()
        });
        assert!(
            answer.contains("status:refused") && answer.contains("[remote] allow"),
            "QoS {qos}: {answer}"
        );
        assert!(answer.contains("taken as an update hint"), "{answer}");
    }
    listed("update/check");
    for qos in ["0", "1", "2"] {
        let answer = ask(&site, qos, "60");
        assert!(answer.contains("status:2.04") && answer.contains("3.0.0"), "QoS {qos}: {answer}");
    }
}
