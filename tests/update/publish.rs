//! `tombolo update verify`: what a publisher is told before a repository goes live.

use std::path::{Path, PathBuf};
use std::process::Command;

use tombolo_test_support::Folder;

use crate::gateway::server;

fn verify(folder: &Path) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tombolo"))
        .args(["update", "verify", "--root"])
        .arg(server().folder().join("root.json"))
        .arg(folder)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
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
    let folder = Folder::new("update-publish");
    let image = folder.write("gw-2.0.0.raucb", "x".repeat(100_000));
    let image = image.display().to_string();
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers/bin/python");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/publish-updates.py");
    let mut root = None;
    for step in [
        "init",
        &format!("add {image} 2.0.0 version-scheme=semver compatible=acme-gw2 rollout=1"),
        "set 2.0.0 rollout=25",
        "set 2.0.0 rollout=100",
        "refresh",
        "rotate timestamp",
        "rotate root",
        "refresh",
        "remove 2.0.0",
    ] {
        let mut command = Command::new(python);
        command.arg(script).arg(folder.join("repository")).arg(folder.join("keys")).args(step.split(' '));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stderr));
        // What gateways were delivered with at the beginning.
        let root = root.get_or_insert_with(|| {
            let first = folder.join("root.json");
            std::fs::copy(folder.join("repository/metadata/1.root.json"), &first).unwrap();
            first
        });
        let verified = Command::new(env!("CARGO_BIN_EXE_tombolo"))
            .args(["update", "verify", "--json", "--root"])
            .args([root.as_path(), &folder.join("repository")])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&verified.stdout).into_owned();
        assert!(verified.status.success(), "{step}: {text}{}", String::from_utf8_lossy(&verified.stderr));
        let is_offered = step != "init" && !step.starts_with("remove");
        assert_eq!(text.contains(r#""firmware":["2.0.0"]"#), is_offered, "{step}: {text}");
    }
}

#[test]
fn one_file_name_is_one_version() {
    let folder = Folder::new("update-publish-twice");
    let image = folder.write("gw.raucb", "x").display().to_string();
    let publish = |step: &str| {
        let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers/bin/python");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/publish-updates.py");
        let mut command = Command::new(python);
        command.arg(script).arg(folder.join("repository")).arg(folder.join("keys")).args(step.split(' '));
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert!(publish("init").0 && publish(&format!("add {image} 1.0.0 version-scheme=semver")).0);
    let (done, text) = publish(&format!("add {image} 2.0.0 version-scheme=semver"));
    assert!(!done && text.contains("gw.raucb is version 1.0.0 already"), "{text}");
    // The same version anew is a correction.
    assert!(publish(&format!("add {image} 1.0.0 version-scheme=semver rollout=5")).0);
    assert!(publish("remove 1.0.0").0 && publish(&format!("add {image} 2.0.0 version-scheme=semver")).0);
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
