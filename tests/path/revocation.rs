//! Revocation lists that the daemon fetches: of devices' certificates and of the broker's.

use std::path::Path;

use serde_json::Value;
use tombolo_test_support::disk_faults;
use tombolo_test_support::http::FileServer;
use tombolo_test_support::{Daemon, Folder, Pki, wait_for};

use super::Site;

/// A gateway that fetches lists: `devices.pem` of `[coap]`, `broker.pem` of `[upstream]`.
struct World {
    site: Site,
    server: FileServer,
    /// The CA of devices.
    pki: Pki,
    folder: Folder,
}

const FLEET: &str = "[fleet.doors]\nrole = \"sensor\"\ncertificate-dns = \"door-{id}.example\"\n";

impl World {
    fn new(name: &str, coap: &str, upstream: &str) -> World {
        let folder = Folder::new(&format!("{name}-pki"));
        let pki = Pki::new(folder.path());
        pki.issue("gateway", &["localhost", "127.0.0.1"]);
        for serial in 1..=2u64 {
            pki.issue_with(&format!("door-{serial}"), &[&format!("door-{serial}.example")], |params| {
                params.serial_number = Some(serial.into());
            });
        }
        // What devices know the gateway by stays as it is.
        std::fs::copy(pki.ca(), folder.join("gateway-ca.pem")).expect("a copy");
        let server = FileServer::start(folder.path());
        let place = folder.path().display().to_string();
        let (devices, broker) = (server.url("devices.pem"), server.url("broker.pem"));
        let site = Site::build(name, FLEET, "", |text| {
            let text = text.replace(
                "[coap]\n",
                &format!(
                    "[coap]\ncertificate-file = \"{place}/gateway.pem\"\nkey-file = \"{place}/gateway.key\"\n\
                     client-ca-file = \"{place}/ca.pem\"\n{}\n",
                    coap.replace("URL", &devices)
                ),
            );
            text.replace("[upstream]\n", &format!("[upstream]\n{}\n", upstream.replace("URL", &broker)))
        });
        World { site, server, pki, folder }
    }

    fn post(&self, name: &str, path: &str) -> String {
        let file = |end: &str| self.folder.join(&format!("{name}.{end}")).display().to_string();
        let output = std::process::Command::new("coap-client-openssl")
            .args(["-m", "post", "-e", "1", "-B", "5", "-v", "6", "-c", &file("pem"), "-j", &file("key")])
            .args(["-C", &self.folder.join("gateway-ca.pem").display().to_string()])
            .arg(format!("coaps://{}/{path}", self.site.daemon.coaps))
            .output()
            .expect("libcoap3-bin is installed");
        tombolo_test_support::printed(&output)
    }

    /// What `status` says of the lists of a table.
    fn lists(&self, table: &str) -> Value {
        let sources = self.site.daemon.status()["revocation"].clone();
        let own = sources.as_array().expect("a list").iter().find(|source| source["table"] == table);
        own.cloned().unwrap_or_default()
    }

    /// Starts again: then what is configured is fetched within minutes, or, with nothing in store,
    /// at once.
    fn restart_without_store(&mut self) {
        self.site.daemon.stop();
        let _ = std::fs::remove_dir_all(self.site.folder.join("state/revocation"));
        self.site.daemon.resume();
    }
}

fn says(daemon: &Daemon, parts: &[&str]) {
    let all = || daemon.log().lines().any(|line| parts.iter().all(|part| line.contains(part)));
    wait_for(&format!("a line with {parts:?}"), all);
}

#[test]
fn a_device_on_a_list_that_was_fetched_is_refused_and_the_other_is_served() {
    let mut world = World::new("crl-devices", "crl-url = \"URL\"", "");
    wait_for("the first question", || world.server.asked() > 0);
    wait_for("its failure", || world.lists("coap")["last_error"].is_string());
    // Nothing there yet: devices are served, and that is said.
    assert!(world.post("door-1", "t/before").contains("2.04"));
    let problems = world.site.daemon.status()["problems"].to_string();
    assert!(
        problems.contains("no revocation list could be fetched for [coap]") && problems.contains("404"),
        "{problems}"
    );

    world.folder.write("devices.pem", world.pki.revoke(&[1]));
    world.restart_without_store();
    wait_for("the list", || world.lists("coap")["lists"].as_array().is_some_and(|lists| lists.len() == 1));
    let list = world.lists("coap")["lists"][0].clone();
    assert!(list["issuer"].as_str().is_some_and(|issuer| issuer.contains("Test CA")), "{list}");
    assert_eq!(list["next_update"], "2100-01-01T00:00:00.000Z");
    assert_eq!(list["expired"], false);
    assert!(list["age_s"].as_u64().is_some_and(|age| age > 0), "{list}");
    // A client may fail for another reason while the gateway starts.
    let is_named = |line: &str| line.contains("it is revoked") && line.contains("door-1.example");
    wait_for("the refusal, and why", || {
        !world.post("door-1", "t/after").contains("2.04") && world.site.daemon.log().lines().any(is_named)
    });
    assert!(world.post("door-2", "t/after").contains("2.04"));
    let (_, text) = world.site.daemon.command(&["status"]);
    assert!(text.contains("revocation") && text.contains("next due 2100-01-01"), "{text}");
    let (_, text) = world.site.daemon.command(&["check", "--offline"]);
    assert!(text.contains("old; its next update is due 2100-01-01"), "{text}");

    // Another certificate of the gateway's does not bring back the lists of the start.
    world.pki.issue("gateway", &["localhost", "127.0.0.1"]);
    says(&world.site.daemon, &["handshakes of devices have the new certificate"]);
    assert!(!world.post("door-1", "t/renewed").contains("2.04"));
    assert!(world.post("door-2", "t/renewed").contains("2.04"));

    // Without the server it is still there, also after a restart.
    std::fs::remove_file(world.folder.join("devices.pem")).expect("it is there");
    world.site.daemon.stop();
    world.site.daemon.resume();
    assert!(!world.post("door-1", "t/again").contains("2.04"));
    assert!(world.post("door-2", "t/again").contains("2.04"));
}

#[test]
fn with_refuse_no_device_is_served_before_there_is_a_list() {
    let mut world = World::new("crl-refuse", "crl-url = \"URL\"\ncrl-expired = \"refuse\"", "");
    assert!(!world.post("door-2", "t/x").contains("2.04"));
    says(&world.site.daemon, &["no revocation list came from coap.crl-url yet", "door-2.example"]);
    // A pre-shared key has nothing to do with it.
    assert!(world.site.post(&["-e", "1"], "t/psk").contains("2.04"));
    world.folder.write("devices.pem", world.pki.revoke(&[]));
    world.restart_without_store();
    wait_for("service", || world.post("door-2", "t/x").contains("2.04"));
}

#[test]
fn a_broker_whose_certificate_is_on_a_fetched_list_is_left_and_readings_wait() {
    let mut world = World::new("crl-broker", "", "crl-url = \"URL\"");
    wait_for("the uplink", || world.site.daemon.status()["upstream"]["connected"] == true);
    wait_for("its failure", || world.lists("upstream")["last_error"].is_string());
    let serial = serial(&world.site.folder.join("broker.pem"));
    world.folder.write("broker.pem", world.site.pki.revoke_der(&[&serial]));
    world.restart_without_store();
    // It may connect first; with the list the connection is replaced.
    wait_for("the refusal", || {
        let upstream = world.site.daemon.status()["upstream"].clone();
        upstream["connected"] == false
            && upstream["last_error"].as_str().is_some_and(|said| said.contains("was revoked by"))
    });
    assert!(world.site.post(&["-e", "waits"], "t/env").contains("2.04"));
    // The list is corrected; what waited arrives.
    world.folder.write("broker.pem", world.site.pki.revoke(&[]));
    world.restart_without_store();
    wait_for("the reading", || !world.site.arrived("tombolo/gw/door-7/up/t/env").is_empty());
}

#[test]
fn a_reload_with_a_list_that_revokes_the_broker_says_that_the_connection_ends_and_it_does() {
    let site = Site::new("crl-reload", "");
    let list = site.folder.write("broker-crl.pem", site.pki.revoke(&[]));
    let text = format!("[upstream]\ncrl-file = \"{}\"\n", list.display());
    site.folder.write("conf.d/50-crl.toml", text);
    let (code, text) = site.daemon.command(&["reload"]);
    assert_eq!(code, 0, "{text}");
    wait_for("the uplink", || site.daemon.status()["upstream"]["connected"] == true);
    std::fs::write(&list, site.pki.revoke_der(&[&serial(&site.folder.join("broker.pem"))]))
        .expect("it is written");
    let (code, text) = site.daemon.command(&["reload"]);
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("the connection is ended") && !text.contains("stands until"), "{text}");
    wait_for("the end", || {
        let upstream = site.daemon.status()["upstream"].clone();
        upstream["connected"] == false
            && upstream["last_error"].as_str().is_some_and(|said| said.contains("was revoked by"))
    });
    std::fs::write(&list, site.pki.revoke(&[])).expect("it is written");
    let (code, text) = site.daemon.command(&["reload"]);
    assert_eq!(code, 0, "{text}");
    wait_for("the uplink", || site.daemon.status()["upstream"]["connected"] == true);
}

#[test]
fn lists_that_the_disk_does_not_take_are_in_use_and_a_reload_keeps_them() {
    const ENOSPC: i32 = 28;
    let mut world = World::new("crl-full", "crl-url = \"URL\"", "crl-url = \"URL\"");
    let serial = serial(&world.site.folder.join("broker.pem"));
    world.folder.write("devices.pem", world.pki.revoke(&[1]));
    world.folder.write("broker.pem", world.site.pki.revoke_der(&[&serial]));
    let faults = world.site.folder.write("faults", format!("append {ENOSPC} state/revocation/"));
    let environment = &mut world.site.daemon.environment;
    environment.push(("LD_PRELOAD".into(), disk_faults::library().display().to_string()));
    environment.push((disk_faults::VARIABLE.into(), faults.display().to_string()));
    world.restart_without_store();
    wait_for("the list", || world.lists("coap")["lists"].as_array().is_some_and(|lists| lists.len() == 1));
    wait_for("the refusal", || !world.post("door-1", "t/full").contains("2.04"));
    let upstream = |world: &World| world.site.daemon.status()["upstream"].clone();
    wait_for("the refusal of the broker", || {
        upstream(&world)["last_error"].as_str().is_some_and(|said| said.contains("was revoked by"))
    });
    let problems = |world: &World| world.site.daemon.status()["problems"].to_string();
    for table in ["[coap]", "[upstream]"] {
        wait_for("the reason", || {
            let problems = problems(&world);
            problems.contains(&format!("the revocation lists of {table} are in use"))
                && problems.contains("No space left")
        });
    }
    assert!(!world.site.folder.join("state/revocation/coap.pem").exists());

    // Another CA for devices: a reload that changes certificates.
    let reload = |world: &World| {
        let (code, text) = world.site.daemon.command(&["reload"]);
        assert_eq!(code, 0, "{text}");
    };
    let reload_with = |world: &World, name: &str| {
        let other = Folder::new(name);
        let other = std::fs::read(Pki::new(other.path()).ca()).expect("a CA");
        let ca = world.folder.join("ca.pem");
        let both = [std::fs::read(&ca).expect("the CA"), other].concat();
        std::fs::write(&ca, both).expect("it is written");
        reload(world);
    };
    reload_with(&world, "crl-full-second");
    assert!(!world.post("door-1", "t/reloaded").contains("2.04"));
    assert!(world.post("door-2", "t/reloaded").contains("2.04"));
    assert!(
        !world.site.daemon.log().contains("has no revocation list any more"),
        "{}",
        world.site.daemon.log()
    );
    assert_eq!(upstream(&world)["connected"], false);

    // There is room again: they are stored, and there after a restart without the server.
    disk_faults::write(&faults, "");
    reload(&world);
    wait_for("the end of the problem", || !problems(&world).contains("revocation/"));
    for name in ["devices.pem", "broker.pem"] {
        std::fs::remove_file(world.folder.join(name)).expect("it is there");
    }
    world.site.daemon.kill();
    world.site.daemon.resume();
    assert!(!world.post("door-1", "t/again").contains("2.04"));
    assert!(world.post("door-2", "t/again").contains("2.04"));
    // One that the disk gives no more is still in use.
    disk_faults::write(&faults, "read 5 state/revocation/\nopen 5 state/revocation/");
    reload_with(&world, "crl-full-third");
    assert!(!world.post("door-1", "t/unread").contains("2.04"));
    assert!(world.post("door-2", "t/unread").contains("2.04"));
}

/// The serial number of a certificate, as its content.
fn serial(pem: &Path) -> Vec<u8> {
    let output = std::process::Command::new("openssl")
        .args(["x509", "-noout", "-serial", "-in"])
        .arg(pem)
        .output()
        .expect("openssl is installed");
    let text = String::from_utf8(output.stdout).expect("text");
    let digits = text.trim().strip_prefix("serial=").expect("a serial number");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex")).collect()
}
