//! `tombolo update verify`: what a publisher is told before a repository goes live.

use std::path::{Path, PathBuf};
use std::process::Command;

use tombolo_test_support::Folder;

use crate::gateway::server;

fn verify(folder: &Path) -> (i32, String) {
    verify_by(&server().folder().join("root.json"), folder)
}

fn verify_by(root: &Path, folder: &Path) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tombolo"));
    said(command.args(["update", "verify", "--root"]).arg(root).arg(folder))
}

/// Its exit status, and all that it prints.
fn said(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

/// The publishing machine: `repository` and `keys` in a folder.
struct Publisher(Folder);

impl Publisher {
    fn new(name: &str) -> Publisher {
        Publisher(Folder::new(name))
    }

    fn image(&self, name: &str) -> String {
        self.0.write(name, name).display().to_string()
    }

    fn repository(&self) -> PathBuf {
        self.0.join("repository")
    }

    fn metadata(&self, name: &str) -> PathBuf {
        self.repository().join("metadata").join(name)
    }

    fn run(&self, arguments: &[&str]) -> (i32, String) {
        self.run_at("+0d", &self.0.join("keys"), arguments)
    }

    /// As that many days ago, with that folder of keys.
    fn run_at(&self, days: &str, keys: &Path, arguments: &[&str]) -> (i32, String) {
        let mut command = Command::new("faketime");
        command.args(["-f", days, concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers/bin/python")]);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/publish-updates.py"));
        said(command.arg(self.repository()).arg(keys).args(arguments))
    }

    fn does(&self, step: &str) -> String {
        let (code, text) = self.run(&step.split(' ').collect::<Vec<_>>());
        assert_eq!(code, 0, "{step}: {text}");
        text
    }

    fn refuses(&self, step: &str, why: &str) {
        let (code, text) = self.run(&step.split(' ').collect::<Vec<_>>());
        assert!(code == 1 && text.contains(why) && !text.contains("Traceback"), "{step}: {code} {text}");
    }

    /// What `rsync -a` does with these words: a file, or a folder without what is excluded.
    fn upload(&self, words: &str, web: &Path) {
        let (mut excluded, mut paths) = (Vec::new(), Vec::new());
        for word in words.split(' ').map(|word| word.replace('\'', "")) {
            match word.strip_prefix("--exclude=") {
                Some(name) => excluded.push(name.to_owned()),
                None => paths.push(word),
            }
        }
        let [from, to] = &paths[..] else { panic!("{words}") };
        let from = self.0.join(from);
        let to = web.join(to.strip_prefix("HOST:/srv/gateways/").unwrap_or_else(|| panic!("{words}")));
        if from.is_file() {
            std::fs::copy(&from, to.join(from.file_name().unwrap())).unwrap();
            return;
        }
        let to = to.join(from.file_name().unwrap());
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(from).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let is_it = |of: &String| of.strip_prefix('*').map_or(*of == name, |end| name.ends_with(end));
            if !excluded.iter().any(is_it) {
                std::fs::copy(entry.path(), to.join(name)).unwrap();
            }
        }
    }

    fn verify(&self) -> (i32, String) {
        verify_by(&self.metadata("1.root.json"), &self.repository())
    }
}

/// A copy of that repository.
fn copy(folder: &Folder, repository: &str) -> PathBuf {
    let to = folder.join(repository);
    let copied = Command::new("cp").arg("-r").arg(server().folder().join(repository)).arg(&to).status();
    assert!(copied.unwrap().success());
    to
}

#[test]
fn a_repository_that_gateways_will_take_verifies() {
    let (code, text) = verify(&server().folder().join("large"));
    assert_eq!(code, 0, "{text}");
    for part in [
        "timestamp.json version 1, until 2090-01-01",
        "gateway 3.0.0: gateway-3.0.0.bin",
        "it can be published",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// What docs/updates.md has a publisher run.
#[test]
fn the_documented_commands_make_a_repository_that_verifies_at_each_step() {
    let publisher = Publisher::new("update-publish");
    let image = publisher.image("gw-2.0.0.raucb");
    let mut root = None;
    for step in [
        "init",
        &format!("add {image} 2.0.0 version-scheme=semver compatible=acme-gw2 rollout=1"),
        "set 2.0.0 rollout=25",
        "set gw-2.0.0.raucb rollout=100",
        "refresh",
        "renew-root",
        "rotate timestamp",
        "rotate snapshot",
        "rotate targets",
        "renew-targets",
        "rotate root",
        "renew-root",
        "refresh",
        "remove 2.0.0",
    ] {
        publisher.does(step);
        // What gateways were delivered with at the beginning.
        let root = root.get_or_insert_with(|| {
            let first = publisher.0.join("root.json");
            std::fs::copy(publisher.metadata("1.root.json"), &first).unwrap();
            first
        });
        let verified = Command::new(env!("CARGO_BIN_EXE_tombolo"))
            .args(["update", "verify", "--json", "--root"])
            .args([root.as_path(), &publisher.repository()])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&verified.stdout).into_owned();
        assert!(verified.status.success(), "{step}: {text}{}", String::from_utf8_lossy(&verified.stderr));
        let is_offered = step != "init" && !step.starts_with("remove");
        assert_eq!(text.contains(r#""firmware":["2.0.0"]"#), is_offered, "{step}: {text}");
        let warnings = match is_offered {
            true => r#""warnings":[]"#,
            false => r#""warnings":["no target has custom data"#,
        };
        assert!(text.contains(warnings), "{step}: {text}");
    }
}

#[test]
fn one_file_name_is_one_version() {
    let publisher = Publisher::new("update-publish-twice");
    let image = publisher.image("gw.raucb");
    publisher.does("init");
    publisher.does(&format!("add {image} 1.0.0 version-scheme=semver"));
    publisher
        .refuses(&format!("add {image} 2.0.0 version-scheme=semver"), "gw.raucb is version 1.0.0 already");
    // The same version anew is a correction.
    publisher.does(&format!("add {image} 1.0.0 version-scheme=semver rollout=5"));
    publisher.does("remove 1.0.0");
    publisher.does(&format!("add {image} 2.0.0 version-scheme=semver"));
}

#[test]
fn a_version_for_two_products_is_changed_and_removed_for_both_and_a_file_name_means_one() {
    let publisher = Publisher::new("update-publish-products");
    publisher.does("init");
    for (file, product) in [("a.raucb", "acme-gw2"), ("b.raucb", "acme-gw3")] {
        let image = publisher.image(file);
        publisher.does(&format!("add {image} 2.4.1 min-version=2.0 compatible={product} rollout=1"));
    }
    assert!(publisher.does("set 2.4.1 rollout=25").contains("a.raucb b.raucb"));
    publisher.does("set b.raucb not-before=2020-12-01T00:00:00Z rollout=50");
    let (code, text) = publisher.verify();
    assert_eq!(code, 0, "{text}");
    for line in [
        "gateway 2.4.1: a.raucb, 7 B, rollout 25 %, compatible acme-gw2, min-version 2.0\n",
        "rollout 50 %, compatible acme-gw3, min-version 2.0, not-before 2020-12-01T00:00:00",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    publisher.refuses("set 2.4.1 compatible=acme-gw4", "name one by its file: a.raucb, b.raucb");
    publisher.does("remove b.raucb");
    assert!(publisher.verify().1.contains("a.raucb") && !publisher.verify().1.contains("b.raucb"));
    publisher.does(&format!("add {} 2.4.1 compatible=acme-gw3", publisher.image("b.raucb")));
    assert!(publisher.does("remove 2.4.1").contains("a.raucb b.raucb"));
    assert!(publisher.verify().1.contains("nothing is offered"));
}

#[test]
fn what_gateways_could_not_use_and_a_wrong_command_are_refused_in_a_sentence() {
    let publisher = Publisher::new("update-publish-refused");
    let image = publisher.image("gw.raucb");
    publisher.refuses(&format!("add {image} 1.0.0"), "begin one with `init`");
    publisher.does("init");
    publisher.does(&format!("add {image} 1.0.0"));
    let empty = publisher.0.write("empty.raucb", "").display().to_string();
    let add = |more: &str| format!("add {image} {more}");
    for (step, why) in [
        (add("1.0.0 rollout=abc"), "0 to 100 percent"),
        (add("1.0.0 rollout=250"), "0 to 100 percent"),
        (add("1.0.0 rollout=nan"), "0 to 100 percent"),
        (add("1.0.0 rollout=0.5"), "a whole number of 0 to 100 percent"),
        (add("1: rollout=5"), "'1:' is no version"),
        (add("2.4.1:"), "'2.4.1:' is no version"),
        (add("1.0.0 not-before=2026-2-1T0:0:0Z"), "2026-12-01T00:00:00Z"),
        (add("1.0.0 not-before=1960-01-01T00:00:00Z"), "2026-12-01T00:00:00Z"),
        (add("banana"), "'banana' is no version"),
        (add("1.0 version-scheme=semver"), "no version by the scheme semver"),
        (add("1.0.0 version-scheme=other"), "not one of debian, semver"),
        (add("1.0.0 min-version=x"), "no min-version"),
        (add("1.0.0 not-before=tomorrow"), "2026-12-01T00:00:00Z"),
        (add("1.0.0 compatible="), "1 to 128 bytes"),
        (add("1.0.0 color=blue"), "is not KEY=VALUE"),
        (format!("add {empty} 1.0.0"), "is empty"),
        ("add gone.raucb 1.0.0".to_owned(), "is not a file"),
        (format!("add {image}"), "add: missing a required argument"),
        ("set 1.0.0".to_owned(), "set: missing a required argument"),
        ("set 9 rollout=5".to_owned(), "no target of version 9"),
        ("rotate".to_owned(), "rotate: missing a required argument"),
        ("rotate everything".to_owned(), "one of root, targets, snapshot, timestamp"),
    ] {
        publisher.refuses(&step, why);
    }
    let blank = publisher.0.write("g w.raucb", "x").display().to_string();
    let (code, text) = publisher.run(&["add", &blank, "1.0.0"]);
    assert!(code == 1 && text.contains("'g w.raucb'"), "{text}");
    // Keys that are not there, and those of another repository, sign nothing.
    let before = std::fs::read(publisher.metadata("timestamp.json")).unwrap();
    let other = Publisher::new("update-publish-other");
    other.does("init");
    for (keys, why) in [
        (publisher.0.join("gone"), "KEYS is the folder with the key of each role"),
        (other.0.join("keys"), "is not the key of timestamp in 1.root.json"),
    ] {
        for step in ["refresh", "renew-root", "rotate"] {
            let arguments = if step == "rotate" { vec![step, "snapshot"] } else { vec![step] };
            let (code, text) = publisher.run_at("+0d", &keys, &arguments);
            let why = if step == "refresh" { why.to_owned() } else { why.replace("timestamp", "root") };
            assert!(code == 1 && text.contains(&why) && !text.contains("Traceback"), "{step}: {text}");
        }
    }
    assert_eq!(std::fs::read(publisher.metadata("timestamp.json")).unwrap(), before);
    assert!(!publisher.metadata("2.root.json").exists());
    assert_eq!(publisher.verify().0, 0);
}

#[test]
fn the_end_of_root_is_named_two_months_before_and_a_new_one_is_signed_by_the_root_key_alone() {
    for (days, is_over) in [("-310d", false), ("-400d", true)] {
        let publisher = Publisher::new("update-publish-year");
        let keys = publisher.0.join("keys");
        assert_eq!(publisher.run_at(days, &keys, &["init"]).0, 0);
        let (code, text) = publisher.run(&["refresh"]);
        assert_eq!((code, text.contains("renew-root")), (i32::from(is_over), true), "{text}");
        let (code, text) = publisher.verify();
        let said = match is_over {
            true => "fail  root.json expired at",
            false => "warn  root.json expires at",
        };
        assert_eq!(code, i32::from(is_over), "{text}");
        assert!(text.contains(said) && text.contains("renew-root"), "{text}");
        // Where the root key is, the others are not.
        let offline = publisher.0.join("offline");
        std::fs::create_dir(&offline).unwrap();
        std::fs::rename(keys.join("root.pem"), offline.join("root.pem")).unwrap();
        publisher.refuses("renew-root", "root.pem: No such file");
        let (code, text) = publisher.run_at("+0d", &offline, &["renew-root"]);
        assert!(code == 0 && text.contains("2.root.json is valid until"), "{text}");
        assert_eq!(publisher.does("refresh"), "");
        let (code, text) = publisher.verify();
        assert!(code == 0 && !text.contains("json expire"), "{text}");
        assert!(text.contains("root.json version 2"), "{text}");
    }
}

/// The keys of a publisher as docs/updates.md has them lie: of root, of who releases, of the
/// publishing machine.
fn apart(publisher: &Publisher) -> [PathBuf; 3] {
    let keys = publisher.0.join("keys");
    let [offline, release, online] = ["offline", "release", "online"].map(|name| publisher.0.join(name));
    for (folder, roles) in
        [(&offline, ["root"].as_slice()), (&release, &["targets"]), (&online, &["snapshot", "timestamp"])]
    {
        std::fs::create_dir(folder).unwrap();
        for role in roles {
            let name = format!("{role}.pem");
            std::fs::rename(keys.join(&name), folder.join(&name)).unwrap();
        }
    }
    [offline, release, online]
}

#[test]
fn the_daily_refresh_needs_the_keys_of_the_publishing_machine_alone_and_keeps_all_fresh_for_a_year() {
    let publisher = Publisher::new("update-publish-apart");
    let image = publisher.image("gw.raucb");
    assert_eq!(publisher.run_at("-310d", &publisher.0.join("keys"), &["init"]).0, 0);
    let [offline, release, online] = apart(&publisher);
    for day in (0..=310).step_by(31) {
        let (code, text) = publisher.run_at(&format!("{:+}d", day - 310), &online, &["refresh"]);
        assert_eq!(code, 0, "day {day}: {text}");
        let is_soon = day > 305;
        assert_eq!(
            text.contains("1.targets.json expires on") && text.contains("renew-targets"),
            is_soon,
            "{text}"
        );
    }
    let (code, text) = publisher.verify();
    let warning = "warn  targets.json expires at";
    assert!(code == 0 && text.contains(warning) && text.contains("renew-targets"), "{text}");
    // Who releases signs what is released, and says what is left to do.
    let by_release = |arguments: &[&str]| {
        let (code, text) = publisher.run_at("+0d", &release, arguments);
        assert!(code == 0 && text.contains("run `refresh` there"), "{arguments:?}: {text}");
    };
    by_release(&["renew-targets"]);
    by_release(&["add", &image, "1.0.0", "rollout=1"]);
    let (code, text) = publisher.verify();
    assert!(code == 0 && !text.contains("gw.raucb"), "it is not published yet: {text}");
    let (code, text) = publisher.run_at("+0d", &online, &["refresh"]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = publisher.verify();
    assert!(code == 0 && text.contains("gw.raucb") && !text.contains(warning), "{text}");
    assert_eq!(publisher.run_at("+0d", &offline, &["renew-root"]).0, 0);
    // With the key of the timestamp alone it is stamped, and the rest is named.
    by_release(&["set", "1.0.0", "rollout=2"]);
    std::fs::rename(online.join("snapshot.pem"), release.join("snapshot.pem")).unwrap();
    let before = std::fs::read(publisher.metadata("timestamp.json")).unwrap();
    let (code, text) = publisher.run_at("+0d", &online, &["refresh"]);
    assert!(code == 1 && text.contains("run `refresh` where snapshot.pem is"), "{text}");
    assert_ne!(std::fs::read(publisher.metadata("timestamp.json")).unwrap(), before);
    assert_eq!(publisher.verify().0, 0);
    // A key that lies elsewhere is not to be made.
    let (code, text) = publisher.run_at("+0d", &online, &["set", "1.0.0", "rollout=3"]);
    assert!(code == 1 && text.contains("that of targets lies with whoever releases"), "{text}");
}

#[test]
fn a_targets_file_that_is_not_whole_is_named_and_the_timestamp_is_signed_for_the_snapshot_before() {
    let publisher = Publisher::new("update-publish-torn");
    publisher.does("init");
    publisher.does(&format!("add {} 1.0.0", publisher.image("gw.raucb")));
    let whole = std::fs::read(publisher.metadata("2.targets.json")).unwrap();
    let snapshot = publisher.metadata("3.snapshot.json");
    let other = std::fs::read(publisher.metadata("1.root.json")).unwrap();
    for torn in [&[][..], &whole[..whole.len() / 2], &other] {
        let before = std::fs::read(publisher.metadata("timestamp.json")).unwrap();
        std::fs::write(publisher.metadata("3.targets.json"), torn).unwrap();
        publisher.refuses("refresh", "3.targets.json is not whole, or no targets.json: copy it here again");
        assert_ne!(std::fs::read(publisher.metadata("timestamp.json")).unwrap(), before);
        assert!(!snapshot.exists());
        let (code, text) = publisher.verify();
        assert!(code == 0 && text.contains("gw.raucb"), "{text}");
        publisher.refuses("set 1.0.0 rollout=5", "3.targets.json is not whole");
    }
    std::fs::remove_file(publisher.metadata("3.targets.json")).unwrap();
    publisher.does("set 1.0.0 rollout=5");
    assert!(snapshot.exists());
}

#[test]
fn where_the_copies_of_a_machine_are_old_it_says_what_to_copy_there() {
    let publisher = Publisher::new("update-publish-old-copy");
    let image = publisher.image("gw.raucb");
    let keys = publisher.0.join("keys");
    assert_eq!(publisher.run_at("-400d", &keys, &["init"]).0, 0);
    // Another key is not put over a state that may be old, but by the publisher's word.
    let all = publisher.0.join("all");
    assert!(Command::new("cp").arg("-r").args([&keys, &all]).status().unwrap().success());
    publisher.refuses("rotate timestamp", "copy the newest metadata/ of the publishing machine here first");
    publisher.refuses("rotate timestamp --stale", "'--stale' is not --stale-copy");
    assert!(!publisher.metadata("2.root.json").exists() && !keys.join("timestamp.new.pem").exists());
    let [offline, release, online] = apart(&publisher);
    assert_eq!(publisher.run_at("+0d", &offline, &["renew-root"]).0, 0);
    let root = publisher.metadata("2.root.json");
    std::fs::rename(&root, publisher.0.join("2.root.json")).unwrap();
    // Who releases has the root before, and does not know whether that is the newest.
    let (code, text) = publisher.run_at("+0d", &release, &["add", &image, "1.0.0"]);
    let hint = "if there is a later one, copy the newest N.root.json into";
    assert!(code == 0 && text.contains(hint) && !text.contains("no gateway"), "{code} {text}");
    let (code, text) = publisher.run_at("+0d", &online, &["refresh"]);
    assert!(code == 1 && text.contains(hint) && text.contains("no gateway"), "{code} {text}");
    std::fs::rename(publisher.0.join("2.root.json"), &root).unwrap();
    for (keys, step) in [(&release, "renew-targets"), (&online, "refresh")] {
        let (code, text) = publisher.run_at("+0d", keys, &[step]);
        assert!(code == 0 && !text.contains("root.json"), "{step}: {text}");
    }
    // A new key where the root that names it is not yet.
    assert_eq!(publisher.run_at("+0d", &all, &["rotate", "targets"]).0, 0);
    std::fs::remove_file(publisher.metadata("3.root.json")).unwrap();
    let (code, text) = publisher.run_at("+0d", &all, &["renew-targets"]);
    assert!(code == 1 && text.contains("or is the newest N.root.json not in"), "{code} {text}");
    // The key of the timestamp is lost with it expired.
    let lost = Publisher::new("update-publish-lost");
    let keys = lost.0.join("keys");
    assert_eq!(lost.run_at("-20d", &keys, &["init"]).0, 0);
    std::fs::remove_file(keys.join("timestamp.pem")).unwrap();
    lost.refuses("rotate timestamp", "timestamp.json expired on");
    lost.does("rotate timestamp --stale-copy");
    assert_eq!(lost.verify().0, 0);
}

/// Has the script end at its n-th rename, or fail there as on a disk that is read-only. `None`: it
/// has not so many.
fn interrupted(publisher: &Publisher, number: usize, how: &str, arguments: &[&str]) -> Option<String> {
    const RUN: &str = "import os, pathlib, runpy, sys\n\
        how, left, rename = sys.argv[1], [int(sys.argv[2])], pathlib.Path.rename\n\
        def falls(path, target):\n    \
            left[0] -= 1\n    \
            if not left[0] and how == 'killed': os._exit(9)\n    \
            if not left[0]: raise OSError(30, 'Read-only file system')\n    \
            return rename(path, target)\n\
        pathlib.Path.rename = falls\n\
        sys.argv = sys.argv[3:]\n\
        runpy.run_path(sys.argv[0], run_name='__main__')\n";
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers/bin/python"));
    command.args(["-c", RUN, how, &number.to_string()]);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/publish-updates.py"));
    let (code, text) =
        said(command.arg(publisher.repository()).arg(publisher.0.join("keys")).args(arguments));
    assert!(!text.contains("Traceback"), "{text}");
    (code != 0).then_some(text)
}

#[test]
fn a_rotate_that_is_killed_or_cannot_write_leaves_a_repository_that_verifies_and_can_be_repeated() {
    for (role, renames) in [("timestamp", 4), ("snapshot", 5), ("targets", 6), ("root", 3)] {
        for how in ["killed", "cannot write"] {
            let publisher = Publisher::new(&format!("update-publish-rotate-{role}-{}", how.len()));
            publisher.does("init");
            let mut count = 0;
            while let Some(text) = interrupted(&publisher, count + 1, how, &["rotate", role]) {
                count += 1;
                let at = format!("{role} {how} at {count}");
                assert!(how == "killed" || text.contains("nothing more was done"), "{at}: {text}");
                let (code, text) = publisher.verify();
                assert_eq!(code, 0, "{at}: {text}");
                publisher.does("refresh");
                let (code, text) = publisher.verify();
                assert_eq!(code, 0, "{at}, refreshed: {text}");
            }
            // And the last one came to its end.
            assert_eq!(count, renames, "{role} {how}");
            publisher.does("refresh");
            publisher.does("renew-root");
            let (code, text) = publisher.verify();
            assert_eq!(code, 0, "{role} {how}: {text}");
            let (code, text) = publisher.run(&["rotate", role]);
            assert_eq!(code, 0, "{role} {how}: {text}");
        }
    }
}

#[test]
fn uploaded_in_the_documented_order_a_repository_verifies_at_each_step_also_with_another_key() {
    let publisher = Publisher::new("update-publish-upload");
    let image = publisher.image("gw.raucb");
    publisher.does("init");
    let web = publisher.0.join("web");
    std::fs::create_dir(&web).unwrap();
    let documented = include_str!("../../docs/updates.md");
    let uploads: Vec<&str> = documented.lines().filter_map(|line| line.strip_prefix("rsync -a ")).collect();
    assert_eq!(uploads.len(), 4, "{uploads:?}");
    let root = publisher.metadata("1.root.json");
    let add = format!("add {image} 1.0.0");
    for step in [
        "init",
        &add,
        "rotate timestamp",
        "rotate snapshot",
        "rotate targets",
        "rotate root",
        "set 1.0.0 rollout=5",
    ] {
        if step != "init" {
            publisher.does(step);
        }
        for (number, upload) in uploads.iter().enumerate() {
            publisher.upload(upload, &web);
            // Before the first time there was nothing.
            let (code, text) = verify_by(&root, &web);
            assert!(code == 0 || (step == "init" && number < 3), "{step}, after {upload:?}: {text}");
        }
    }
    assert!(verify_by(&root, &web).1.contains("rollout 5 %"));
}

#[test]
fn more_roots_than_a_gateway_follows_and_more_files_than_it_fetches_are_named_before() {
    let folder = Folder::new("update-verify-many");
    for (repository, code, why) in [
        (
            "roots-without-end",
            1,
            "more than 64 versions of root.json follow the root-file: put the repository's newest",
        ),
        ("roots-many", 0, "warn  60 versions of root.json follow the one it was verified by"),
        ("delegations-many", 1, "the metadata has more than 100 files"),
    ] {
        let (found, text) = verify(&copy(&folder, repository));
        assert!(found == code && text.contains(why), "{repository}: {text}");
        assert_eq!(text.contains("it can be published"), code == 0, "{repository}: {text}");
    }
}

#[test]
fn a_root_that_is_missing_between_others_is_named() {
    let publisher = Publisher::new("update-verify-hole");
    publisher.does("init");
    publisher.does("rotate root");
    publisher.does("rotate root");
    let second = publisher.metadata("2.root.json");
    let kept = std::fs::read(&second).unwrap();
    std::fs::remove_file(&second).unwrap();
    let (code, text) = publisher.verify();
    assert!(code == 1 && text.contains("metadata/2.root.json is missing"), "{text}");
    assert!(!text.contains("it can be published"), "{text}");
    // With another key for the timestamp since, nothing verifies: it is said by what.
    std::fs::write(&second, &kept).unwrap();
    publisher.does("rotate timestamp");
    publisher.does("refresh");
    std::fs::remove_file(&second).unwrap();
    let (code, text) = publisher.verify();
    assert!(code == 1 && text.contains("in metadata 2.root.json is missing"), "{text}");
    std::fs::write(&second, &kept).unwrap();
    assert_eq!(publisher.verify().0, 0);
}

#[test]
fn a_private_key_and_another_file_are_no_root_of_trust() {
    let repository = server().folder().join("large");
    for (file, why) in [("ca.key", "it is a private key"), ("ca.pem", "it is no root.json of TUF")] {
        let (code, text) = verify_by(&server().folder().join(file), &repository);
        assert!(code == 1 && text.contains(why) && text.contains(file), "{text}");
    }
}

#[test]
fn whatever_a_gateway_would_refuse_or_miss_is_named() {
    let folder = Folder::new("update-verify");
    let changed = copy(&folder, "large");
    let is_large = |path: &PathBuf| path.metadata().is_ok_and(|about| about.len() == 200_000);
    let mut files = std::fs::read_dir(changed.join("targets")).unwrap().flatten().map(|entry| entry.path());
    let file = files.find(is_large).unwrap();
    let mut content = std::fs::read(&file).unwrap();
    content[5] ^= 1;
    std::fs::write(&file, &content).unwrap();
    let (code, text) = verify(&changed);
    assert!(code == 1 && text.contains("its SHA-256 is not the signed one"), "{text}");
    content.pop();
    std::fs::write(&file, &content).unwrap();
    let (code, text) = verify(&changed);
    assert!(code == 1 && text.contains("199999 bytes, and 200000 were signed"), "{text}");
    std::fs::remove_file(&file).unwrap();
    std::fs::remove_file(changed.join("metadata/1.root.json")).unwrap();
    let (code, text) = verify(&changed);
    assert!(code == 1 && text.contains("No such file") && text.contains("1.root.json is missing"), "{text}");
    for (repository, why) in [
        ("expired", "timestamp.json expired at 2020-01-01"),
        ("unusable", "its custom data"),
        ("targets-of-a-stranger", "Failed to verify targets metadata"),
    ] {
        let (code, text) = verify(&server().folder().join(repository));
        assert!(code == 1 && text.contains(why), "{repository}: {text}");
    }
    let (code, text) = verify(&folder.join("nothing"));
    assert!(code == 1 && text.contains("nothing"), "{text}");
}
