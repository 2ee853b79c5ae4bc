//! Keys that the gateway made or copied: in no support bundle, and gone once it is decommissioned.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rcgen::KeyPair;
use tombolo_test_support::wait_for;

use super::rotation::{Plan, certificate, let_a_second_pass, site_with, until_connected_and_confirmed};

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let inside = entries.flat_map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => files(&entry.path()),
        Ok(kind) if kind.is_file() => vec![entry.path()],
        _ => Vec::new(),
    });
    inside.collect()
}

/// The lines of private keys in a file.
fn key_lines(file: &Path) -> Vec<String> {
    let text = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let (mut lines, mut inside) = (Vec::new(), false);
    for line in text.lines() {
        match (line.starts_with("-----BEGIN") && line.contains("PRIVATE KEY"), line.starts_with("-----END")) {
            (true, _) => inside = true,
            (_, true) => inside = false,
            _ if inside => lines.push(line.to_owned()),
            _ => {}
        }
    }
    lines
}

#[test]
fn keys_that_the_gateway_made_or_copied_are_in_no_bundle_and_gone_after_decommission() {
    let upstream =
        "certificate = \"uplink\"\nusername = \"x\"\njwt = { audience = \"a\", key-file = \"jwt.key\" }";
    let plan = Plan { upstream, ..Plan::default() };
    let (mut site, est) = site_with("keys", &plan, |folder| {
        folder.write("jwt.key", KeyPair::generate().expect("a key").serialize_pem());
    });
    until_connected_and_confirmed(&site.daemon);
    // For devices: a key that comes from systemd, whose copy stays in memory.
    site.pki.issue("gateway", &["localhost"]);
    std::fs::create_dir(site.folder.join("credentials")).expect("a folder");
    std::fs::rename(site.folder.join("gateway.key"), site.folder.join("credentials/dtls-key"))
        .expect("it is moved");
    site.daemon.stop();
    let place = site.folder.join("credentials").display().to_string();
    site.daemon.environment.push(("CREDENTIALS_DIRECTORY".into(), place));
    let config = site.daemon.config().to_owned();
    let text = std::fs::read_to_string(&config).expect("the configuration");
    let coap = "[coap]\ncertificate-file = \"gateway.pem\"\nkey-file = \"credential:dtls-key\"\n";
    std::fs::write(&config, text.replace("[coap]\n", coap)).expect("it is written");
    site.daemon.resume();
    until_connected_and_confirmed(&site.daemon);
    let first = certificate(&site.daemon)["serial"].clone();
    let_a_second_pass();
    let (code, text) = site.daemon.command(&["cert", "renew", "uplink", "--wait"]);
    assert_eq!(code, 0, "{text}");
    assert_ne!(certificate(&site.daemon)["serial"], first);
    until_connected_and_confirmed(&site.daemon);
    // One that is being ordered.
    drop(est);
    site.daemon.command(&["cert", "renew", "uplink"]);
    let of = |name: &str| site.folder.join(&format!("state/certificates/uplink/{name}"));
    wait_for("the request", || of("request.pem").exists());

    let mut secrets: BTreeSet<String> = BTreeSet::new();
    for name in ["current.pem", "current.pem.copy", "previous.pem", "request.pem"] {
        let lines = key_lines(&of(name));
        assert!(!lines.is_empty(), "{name}");
        secrets.extend(lines);
    }
    let copies: Vec<PathBuf> = files(&site.folder.join("run/certificates"))
        .into_iter()
        .filter(|f| !key_lines(f).is_empty())
        .collect();
    assert!(!copies.is_empty(), "the copy in memory");
    assert!(
        files(&site.folder.join("state/certificates"))
            .iter()
            .all(|file| { file.parent().is_some_and(|folder| folder.ends_with("uplink")) })
    );
    let own = ["jwt.key", "est/factory.key"].map(|name| site.folder.join(name));
    let credential = site.folder.join("credentials/dtls-key");
    for file in copies.iter().chain(&own).chain([&credential]) {
        secrets.extend(key_lines(file));
    }
    // Three certificates' keys, the token's, the factory's and that of devices.
    assert!(secrets.len() >= 3 * 6, "{}", secrets.len());

    let bundle = site.folder.join("bundle.tar");
    let (code, text) = site.daemon.command(&["support-bundle", &bundle.display().to_string()]);
    assert_eq!(code, 0, "{text}");
    let bundle = String::from_utf8_lossy(&std::fs::read(&bundle).expect("the bundle")).into_owned();
    assert!(bundle.contains("request.pem") && bundle.contains("bootstrap-key-file"), "it looked there");
    for secret in &secrets {
        assert!(!bundle.contains(secret.as_str()), "a line of a key is in the bundle");
    }

    site.daemon.stop();
    let (code, text) = site.daemon.command(&["decommission", "--yes"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(files(&site.folder.join("state")), [""; 0].map(PathBuf::from));
    assert_eq!(files(&site.folder.join("run/certificates")), [""; 0].map(PathBuf::from));
    for file in files(site.folder.path()) {
        // What systemd hands over is the unit's; it is named.
        if file != credential {
            let left = key_lines(&file).into_iter().any(|line| secrets.contains(&line));
            assert!(!left, "{} has a key of ours", file.display());
        }
    }
    assert!(text.contains("coap.key-file") && text.contains("credential of the unit"), "{text}");
}
