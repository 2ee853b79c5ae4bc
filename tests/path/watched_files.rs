//! Certificates in files that another program renews: what is taken up, what is not, and that the
//! last good pair stays in use.

use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::Value;
use tombolo_test_support::{Daemon, Folder, wait_for};

use super::Site;
use super::renewals;
use super::rotation::{Plan, certificate_named, site_with};

/// A client certificate of the EST server's CA, as `archive/NAME.pem` and `.key`.
fn issue(folder: &Folder, name: &str, ca: &str) {
    std::fs::create_dir_all(folder.join("archive")).expect("a folder");
    let file = |end: &str| folder.join(&format!("archive/{name}{end}"));
    let extensions = folder.write(
        "client.ext",
        "basicConstraints = critical, CA:FALSE\nkeyUsage = critical, digitalSignature\nextendedKeyUsage = clientAuth\n",
    );
    let openssl = |arguments: &[&str]| {
        let done = Command::new("openssl").args(arguments).output().expect("openssl is installed");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let text = |end: &str| file(end).display().to_string();
    let of_ca = |end: &str| folder.join(&format!("est/{ca}{end}")).display().to_string();
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &text(".key")]);
    openssl(&["req", "-new", "-key", &text(".key"), "-subj", "/CN=gw", "-out", &text(".csr")]);
    let extensions = extensions.display().to_string();
    openssl(&[
        "x509",
        "-req",
        "-days",
        "90",
        "-in",
        &text(".csr"),
        "-CA",
        &of_ca(".pem"),
        "-CAkey",
        &of_ca(".key"),
        "-extfile",
        &extensions,
        "-out",
        &text(".leaf"),
    ]);
    let chain = [file(".leaf"), folder.join(&format!("est/{ca}.pem"))];
    let chain: Vec<u8> = chain.into_iter().flat_map(|file| std::fs::read(file).expect("a file")).collect();
    std::fs::write(file(".pem"), chain).expect("the chain");
}

/// As certbot does: the links in `live/` lead to other files, one after the other.
fn point(folder: &Folder, link: &str, target: &str) {
    std::fs::create_dir_all(folder.join("live")).expect("a folder");
    let (link, new) = (folder.join(&format!("live/{link}")), folder.join("live/new"));
    symlink(format!("../archive/{target}"), &new).expect("a link");
    std::fs::rename(&new, &link).expect("it takes its place");
}

fn files(daemon: &Daemon) -> Value {
    certificate_named(daemon, "upstream-files")
}

fn connected(daemon: &Daemon) -> bool {
    daemon.status()["upstream"]["connected"] == true
}

fn problem(daemon: &Daemon, words: &[&str]) -> bool {
    let problems = daemon.status()["problems"].clone();
    let named = |text: &str| words.iter().all(|word| text.contains(word));
    problems.as_array().into_iter().flatten().filter_map(Value::as_str).any(named)
}

#[test]
fn a_reload_waits_for_what_the_broker_says_of_a_new_certificate_in_watched_files() {
    let plan = Plan {
        upstream: "certificate-file = \"live/fullchain.pem\"\nkey-file = \"live/privkey.pem\"",
        table: Some(""),
        ..Plan::default()
    };
    let (site, _est) = site_with("waits", &plan, |folder| {
        for (name, ca) in [("1", "issuing"), ("2", "other"), ("3", "issuing")] {
            issue(folder, name, ca);
        }
        point(folder, "fullchain.pem", "1.pem");
        point(folder, "privkey.pem", "1.key");
    });
    let valid = || connected(&site.daemon) && files(&site.daemon)["state"] == "valid";
    wait_for("a connection", valid);
    let take = |name: &str| {
        point(&site.folder, "fullchain.pem", &format!("{name}.pem"));
        point(&site.folder, "privkey.pem", &format!("{name}.key"));
        site.daemon.command(&["reload"])
    };
    let (code, text) = take("2");
    assert!(code == 3 && text.contains("certificate upstream-files"), "{code} {text}");
    // From then on until it is put right nobody says that all is fine.
    assert_eq!(site.daemon.status()["ok"], false);
    let (code, text) = take("3");
    assert_eq!(code, 0, "{text}");
    wait_for("the new one", valid);
    assert!(!problem(&site.daemon, &["upstream-files"]));
}

#[test]
fn links_that_lead_to_a_new_pair_are_proven_and_what_the_broker_refuses_is_not_used() {
    let plan = Plan {
        upstream: "certificate-file = \"live/fullchain.pem\"\nkey-file = \"live/privkey.pem\"",
        table: Some(""),
        ..Plan::default()
    };
    let (mut site, _est) = site_with("links", &plan, |folder| {
        for (name, ca) in [("1", "issuing"), ("2", "issuing"), ("3", "other"), ("4", "issuing")] {
            issue(folder, name, ca);
        }
        point(folder, "fullchain.pem", "1.pem");
        point(folder, "privkey.pem", "1.key");
    });
    wait_for("a connection", || connected(&site.daemon) && files(&site.daemon)["state"] == "valid");
    let first = files(&site.daemon);
    assert_eq!(first["files"].as_array().map(Vec::len), Some(2), "{first}");

    // Between the two the certificate has another key: no pair, and no harm.
    point(&site.folder, "fullchain.pem", "2.pem");
    let said = site.post(&["-e", "between"], "t/env");
    assert!(said.contains("2.04"), "{said}");
    assert_eq!(files(&site.daemon)["serial"], first["serial"]);
    point(&site.folder, "privkey.pem", "2.key");
    // Before the daemon has noticed it, the check has read the files.
    let (_, text) = site.daemon.command(&["check"]);
    let taken_up = files(&site.daemon)["serial"] != first["serial"];
    let warned =
        text.lines().any(|line| line.starts_with("warn") && line.contains("upstream-files: its files have"));
    let on_trial = text.contains("its files have a new one");
    assert!(warned || on_trial || taken_up, "{text}");
    wait_for("the second pair", || files(&site.daemon)["serial"] != first["serial"]);
    wait_for("a connection", || connected(&site.daemon) && files(&site.daemon)["state"] == "valid");
    let second = files(&site.daemon)["serial"].clone();

    // One that the broker does not know.
    point(&site.folder, "fullchain.pem", "3.pem");
    point(&site.folder, "privkey.pem", "3.key");
    let words = ["upstream-files", "not used", "refused"];
    wait_for("it is named", || problem(&site.daemon, &words));
    wait_for("the connection before", || connected(&site.daemon));
    assert_eq!(files(&site.daemon)["serial"], second);
    let (_, text) = site.daemon.command(&["check"]);
    assert!(text.lines().any(|line| words.iter().all(|word| line.contains(word))), "{text}");

    // A restart does not fall for it either.
    site.daemon.kill();
    site.daemon.resume();
    wait_for("the connection before", || connected(&site.daemon));
    assert_eq!(files(&site.daemon)["serial"], second);
    wait_for("it is named again", || problem(&site.daemon, &words));

    // Half of them is named at once when a person says that they are done, and harms no connection.
    point(&site.folder, "privkey.pem", "1.key");
    let (code, text) = site.daemon.command(&["reload"]);
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("the pair before stays in use, for new connections too"), "{text}");
    wait_for("it is named", || problem(&site.daemon, &["upstream-files", "does not belong"]));
    let (_, text) = site.daemon.command(&["check"]);
    assert!(!text.contains("goes on until it breaks"), "{text}");

    point(&site.folder, "fullchain.pem", "4.pem");
    point(&site.folder, "privkey.pem", "4.key");
    wait_for("the fourth pair", || files(&site.daemon)["serial"] != second);
    wait_for("a connection", || connected(&site.daemon) && files(&site.daemon)["state"] == "valid");
    assert!(!problem(&site.daemon, &["upstream-files"]));
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/t/env").is_empty());
    let (code, text) = site.daemon.command(&["cert", "renew", "upstream-files"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("another program renews"), "{text}");
}

#[test]
fn what_the_broker_refused_of_the_files_is_tried_again_by_a_proof_that_a_person_asks_for() {
    let plan = Plan {
        upstream: "certificate-file = \"live/fullchain.pem\"\nkey-file = \"live/privkey.pem\"",
        table: Some(""),
        ..Plan::default()
    };
    let (mut site, _est) = site_with("again", &plan, |folder| {
        for (name, ca) in [("1", "issuing"), ("2", "other")] {
            issue(folder, name, ca);
        }
        point(folder, "fullchain.pem", "1.pem");
        point(folder, "privkey.pem", "1.key");
    });
    let valid = |site: &Site| connected(&site.daemon) && files(&site.daemon)["state"] == "valid";
    wait_for("a connection", || valid(&site));
    let first = files(&site.daemon)["serial"].clone();
    point(&site.folder, "fullchain.pem", "2.pem");
    point(&site.folder, "privkey.pem", "2.key");
    wait_for("it is named", || problem(&site.daemon, &["upstream-files", "not used", "refused"]));
    // The broker gets the CA of the new one, and does not know that of the present one any more.
    let file = site.folder.join("mosquitto.conf");
    let text = std::fs::read_to_string(&file).expect("the broker's configuration");
    site.broker.stop();
    std::fs::write(&file, text.replace("est/root.pem", "est/other.pem")).expect("it is written");
    site.broker.resume();
    let (code, text) = site.daemon.command(&["cert", "probe", "upstream-files"]);
    assert_eq!(code, 0, "{text}");
    wait_for("a connection", || valid(&site));
    assert_ne!(files(&site.daemon)["serial"], first);
}

#[test]
fn files_for_devices_are_taken_up_by_themselves_and_half_a_file_is_not() {
    let devices = "[device.front]\nrole = \"sensor\"\ncertificate-dns = \"front.example\"\n";
    let coap = "[coap]\ncertificate-file = \"gateway.pem\"\nkey-file = \"gateway.key\"\nclient-ca-file = \"ca.pem\"\n";
    let site = Site::build("half-files", devices, "", |text| text.replace("[coap]\n", coap));
    site.pki.issue("front", &["front.example"]);
    // Where the files were not there at the start, they are taken up when they come.
    let served = || renewals::served(&site, &site.folder.join("ca.pem"));
    assert_eq!(served(), "");
    site.pki.issue("gateway", &["localhost"]);
    wait_for("a handshake", || served().contains("BEGIN"));
    // Nothing is disabled by what was missing then.
    wait_for("they are good", || {
        site.daemon.status()["gateway"]["disabled"].as_array().is_some_and(Vec::is_empty)
    });
    let first = served();
    let before = std::fs::read(site.folder.join("gateway.pem")).expect("a file");
    site.pki.issue("gateway", &["localhost"]);
    wait_for("the next one", || {
        let now = served();
        now.contains("BEGIN") && now != first
    });
    let second = served();
    let serial = certificate_named(&site.daemon, "coap-files")["serial"].clone();
    // The program that writes it died in the middle, and left the old certificate with the new key.
    std::fs::write(site.folder.join("gateway.pem"), &before[..before.len() / 2]).expect("it is written");
    assert_eq!(served(), second);
    std::fs::write(site.folder.join("gateway.pem"), &before).expect("it is written");
    assert_eq!(served(), second);
    assert_eq!(certificate_named(&site.daemon, "coap-files")["serial"], serial);
}

#[test]
fn files_for_devices_that_the_configuration_names_no_more_are_not_used_any_more() {
    let devices = "[device.front]\nrole = \"sensor\"\ncertificate-dns = \"front.example\"\n";
    let files = "certificate-file = \"gateway.pem\"\nkey-file = \"gateway.key\"\n";
    let coap = format!("[coap]\nclient-ca-file = \"ca.pem\"\n{files}");
    let site = Site::build("files-taken-out", devices, "", |text| text.replace("[coap]\n", &coap));
    site.pki.issue("front", &["front.example"]);
    site.pki.issue("gateway", &["localhost"]);
    let served = || renewals::served(&site, &site.folder.join("ca.pem"));
    wait_for("a handshake", || served().contains("BEGIN"));
    let main = site.folder.join("tombolo.toml");
    let text = std::fs::read_to_string(&main).expect("the configuration");
    std::fs::write(&main, text.replace(files, "")).expect("it is written");
    let reload = || {
        let (code, answer) = site.daemon.command(&["reload", "--json"]);
        assert_eq!(code, 0, "{answer}");
        serde_json::from_str::<Value>(&answer).expect("JSON")["changed"].clone()
    };
    assert_eq!(reload(), serde_json::json!(["coap certificates"]));
    assert_eq!(served(), "");
    assert_eq!(reload(), serde_json::json!([]));
}
