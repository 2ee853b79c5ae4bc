//! The audit lines of the log: identities, first uses of keys, and who asked.

use std::process::{Command, Stdio};

use tombolo_test_support::wait_for;

use super::{Site, binary};

/// The lines of the log with this value of `audit`.
fn lines(site: &Site, audit: &str) -> Vec<String> {
    let field = format!("audit={audit}");
    let log = site.daemon.log();
    log.lines().filter(|line| line.split(' ').any(|word| word == field)).map(str::to_owned).collect()
}

#[test]
fn each_change_of_a_device_is_in_the_log_with_who_asked_for_it() {
    let site = Site::new("audit", "");
    let uid = nix::unistd::geteuid();
    let by = format!("by=uid:{uid}");
    let run = |arguments: &[&str]| {
        let (status, text) = site.daemon.command(arguments);
        assert_eq!(status, 0, "{arguments:?}: {text}");
        text
    };
    let said = |audit: &str, parts: &[&str]| {
        wait_for(audit, || {
            let is_it = |line: &String| parts.iter().all(|part| line.contains(part));
            lines(&site, audit).iter().any(is_it)
        });
    };
    let secret = "text:0123456789abcdef0123";
    run(&["device", "add", "lamp-3", "--role", "sensor", "--psk", secret]);
    said("device-added", &["device=lamp-3", "to=\"sensor psk\"", &by]);
    said("control", &[&format!("uid={uid}"), "request=reload"]);
    run(&["device", "disable", "lamp-3"]);
    said("device-disabled", &["device=lamp-3", &by]);
    run(&["device", "enable", "lamp-3"]);
    said("device-enabled", &["device=lamp-3", &by]);
    run(&["device", "rekey", "lamp-3", "--psk", "text:another-secret-000"]);
    said("key-changed", &["device=lamp-3", "key=psk", &by]);
    run(&["device", "remove", "lamp-3"]);
    said("device-removed", &["device=lamp-3", &by]);
    // A reading that no rule allows.
    site.post(&["-e", "1"], "nowhere/x");
    said("denied", &["device=door-7", "path=nowhere/x"]);
    let log = site.daemon.log();
    assert!(!log.contains("0123456789abcdef") && !log.contains("another-secret"), "{log}");
}

#[test]
fn a_device_that_a_fault_disables_and_a_tail_are_in_the_log() {
    let device = "[device.lamp-4]\nrole = \"sensor\"\npsk-file = \"door-7.psk\"\npsk-identity = \"lamp-4\"\n";
    let site = Site::new("audit-fault", device);
    let by = format!("by=uid:{}", nix::unistd::geteuid());
    let said = |audit: &str, parts: &[&str]| {
        wait_for(audit, || {
            let is_it = |line: &String| parts.iter().all(|part| line.contains(part));
            lines(&site, audit).iter().any(is_it)
        });
    };
    let config = std::fs::read_to_string(site.daemon.config()).expect("a file");
    std::fs::write(
        site.daemon.config(),
        config.replace("lamp-4]\nrole = \"sensor\"", "lamp-4]\nrole = \"nobody\""),
    )
    .expect("a file");
    site.daemon.command(&["reload"]);
    said("device-disabled", &["device=lamp-4", "reason=\"a fault in its configuration\"", &by]);
    std::fs::write(site.daemon.config(), config).expect("a file");
    site.daemon.command(&["reload"]);
    said("device-enabled", &["device=lamp-4", "to=\"sensor psk\"", &by]);
    let mut tail = Command::new(binary())
        .arg("--config")
        .arg(site.daemon.config())
        .args(["tail", "door-7"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    said("control", &["tail begins", "subject=door-7"]);
    let _ = tail.kill();
    let _ = tail.wait();
    said("control", &["tail ends", "subject=door-7", "readings=0"]);
}
