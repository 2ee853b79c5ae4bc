//! What `tombolo check` and `tombolo reload` say on a gateway that runs, beside a real broker.

use std::net::UdpSocket;
use std::process::Command;

use super::{KEY, Site};
use tombolo_test_support::{Folder, free_tcp_port, wait_for};

fn check(site: &Site) -> (i32, String) {
    site.daemon.command(&["check"])
}

/// A finding of that level that has all these words.
fn found(text: &str, level: &str, words: &[&str]) -> bool {
    text.lines().any(|line| line.starts_with(level) && words.iter().all(|word| line.contains(word)))
}

/// Of the broker. mosquitto 2.0.11 with max_queued_messages 0, which the others have, closes the
/// connection after a publish that it has denied.
fn with_acl(acl: &std::path::Path) -> String {
    format!("acl_file {}\nmax_queued_messages 100000", acl.display())
}

fn connected(site: &Site) -> bool {
    site.daemon.status()["upstream"]["connected"] == true
}

#[test]
fn check_tries_what_the_files_say_and_names_what_the_running_gateway_uses() {
    let site = Site::new("check-files", "");
    wait_for("the broker", || connected(&site));
    let (status, text) = check(&site);
    assert_eq!(status, 0, "{text}");
    assert!(found(&text, "ok", &["upstream: connected to localhost", "acknowledged in"]), "{text}");
    assert!(!text.contains("upstream tcp"), "the daemon's connection is proof enough: {text}");

    let dead = free_tcp_port();
    site.folder.write("conf.d/50-url.toml", format!("[upstream]\nurl = \"mqtts://localhost:{dead}\"\n"));
    let (status, text) = check(&site);
    assert_eq!(status, 1, "{text}");
    let used = format!("mqtts://localhost:{}", site.broker.tls_port);
    let words = ["upstream.url: the running gateway still uses", &used, "reload"];
    assert!(found(&text, "warn", &words), "{text}");
    assert!(found(&text, "fail", &["upstream tcp", &dead.to_string()]), "{text}");

    // Another way to the same broker is tried beside the gateway, which keeps its connection.
    site.folder.write("conf.d/50-url.toml", "[upstream]\nusername = \"somebody\"\n");
    let connections = |site: &Site| {
        site.daemon.status()["counters"]["tombolo_northbound_connected_sessions_total"].as_u64()
    };
    let before = connections(&site);
    let (status, text) = check(&site);
    assert_eq!(status, 0, "{text}");
    assert!(found(&text, "warn", &["upstream.username: the running gateway still uses none"]), "{text}");
    assert!(found(&text, "ok", &["upstream publish: acknowledged and back"]), "{text}");
    assert_eq!(connections(&site), before);

    // A CA file that was replaced in place is looked at as it is now.
    std::fs::remove_file(site.folder.join("conf.d/50-url.toml")).unwrap();
    let ca = std::fs::read(site.pki.ca()).unwrap();
    std::fs::write(site.pki.ca(), "nothing").unwrap();
    let (status, text) = check(&site);
    assert_eq!(status, 1, "{text}");
    assert!(found(&text, "warn", &["files that [upstream] names have changed"]), "{text}");
    assert!(found(&text, "fail", &["ca.pem", "no certificate"]), "{text}");
    std::fs::write(site.pki.ca(), ca).unwrap();
    let (status, text) = check(&site);
    assert_eq!((status, text.contains("have changed")), (0, false), "{text}");
}

#[test]
fn a_gateway_that_cannot_be_asked_keeps_its_connection_while_check_tries_the_broker() {
    let site = Site::new("check-unasked", "");
    wait_for("the broker", || connected(&site));
    let connections =
        || site.daemon.status()["counters"]["tombolo_northbound_connected_sessions_total"].as_u64();
    let before = connections();
    // As a cleaner of temporary files does it.
    let socket = site.folder.join("run/control.sock");
    let away = site.folder.join("run/away.sock");
    std::fs::rename(&socket, &away).unwrap();
    let (status, text) = check(&site);
    assert_eq!(status, 1, "{text}");
    assert!(found(&text, "fail", &["ports", "is held by another program"]), "{text}");
    assert!(found(&text, "ok", &["upstream publish"]), "{text}");
    std::fs::rename(&away, &socket).unwrap();
    assert!(connected(&site));
    assert_eq!(connections(), before);
}

#[test]
fn a_refused_reload_fails_and_is_named_everywhere_until_one_succeeds() {
    let site = Site::new("refused-reload", "");
    wait_for("the broker", || connected(&site));
    let held = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    site.folder.write("conf.d/60-listen.toml", format!("[coap]\nlisten = [\"{address}\"]\n"));
    let (status, text) = check(&site);
    assert_eq!(status, 1, "{text}");
    let used = site.daemon.coaps.to_string();
    let words = [
        "coap.listen: the running gateway still uses",
        &used,
        "stop it and start `tombolo --config",
        " run` again",
    ];
    assert!(found(&text, "warn", &words), "{text}");
    assert!(found(&text, "fail", &[&address.to_string(), "held by another program"]), "{text}");

    let (status, text) = site.daemon.command(&["reload"]);
    assert_eq!(status, 1, "{text}");
    assert!(text.contains("the reload is refused") && text.contains("60-listen.toml:2"), "{text}");
    let (status, text) = site.daemon.command(&["device", "add", "door-9", "--role", "sensor", "--psk"]);
    assert_eq!(status, 1, "{text}");
    assert!(text.contains("has not taken it up") && text.contains("60-listen.toml:2"), "{text}");

    let told = |text: &str| text.contains("the last reload was refused") && text.contains("60-listen.toml");
    assert!(told(&site.daemon.command(&["status"]).1));
    assert!(found(&check(&site).1, "fail", &["the last reload was refused", "60-listen.toml"]));
    let retained = || site.arrived("tombolo/gw/gateway/status").last().map(|fields| fields[1].clone());
    wait_for("the gateway's status", || retained().is_some_and(|json| told(&json)));

    // A file that does not parse is refused by the reload and by check alike.
    site.folder.write("conf.d/60-listen.toml", "[coap\n");
    let (status, text) = check(&site);
    assert!(status == 1 && text.contains("60-listen.toml:1"), "{text}");

    std::fs::remove_file(site.folder.join("conf.d/60-listen.toml")).unwrap();
    let (status, text) = site.daemon.command(&["reload", "--json"]);
    assert_eq!(status, 0, "{text}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["reloaded"], true);
    assert!(!told(&site.daemon.command(&["status"]).1));
    let (status, text) = check(&site);
    assert!(status == 0 && !told(&text), "{text}");
    wait_for("the gateway's status", || retained().is_some_and(|json| !told(&json)));
    assert!(
        site.coap_client("coap-client-openssl", "door-7", KEY, &["-m", "post", "-e", "1"], "t/x")
            .contains("2.04")
    );
}

#[test]
fn a_broker_that_refuses_every_publish_is_a_failure_with_and_without_the_daemon() {
    let folder = Folder::new("deny-acl");
    let acl = folder.write("acl", "topic write tombolo/witness/#\ntopic read #\n");
    let mut site = Site::with_broker("deny", "", &with_acl(&acl));
    wait_for("the broker", || connected(&site));
    let (status, text) = check(&site);
    assert_eq!(status, 1, "{text}");
    assert!(found(&text, "fail", &["refuses what this gateway publishes", "tombolo/gw/#"]), "{text}");
    site.daemon.stop();
    let (status, text) = check(&site);
    assert_eq!(status, 1, "{text}");
    assert!(found(&text, "warn", &["tombolo is not running", " run"]), "{text}");
    let words = [
        "upstream publish",
        "tombolo/gw/gateway/check: not authorized",
        "tombolo/gw/door-7/up/t/tombolo-check",
    ];
    assert!(found(&text, "fail", &words), "{text}");
}

#[test]
fn a_broker_that_takes_readings_alone_is_no_failure() {
    let folder = Folder::new("readings-acl");
    let acl = folder
        .write("acl", "topic write tombolo/witness/#\ntopic read #\ntopic write tombolo/gw/door-7/up/#\n");
    let mut site = Site::with_broker("readings", "", &with_acl(&acl));
    wait_for("the broker", || connected(&site));
    assert!(site.post(&["-e", "1"], "t/x").contains("2.04"));
    wait_for("the reading", || site.daemon.status()["upstream"]["last_taken_s"].is_u64());
    let (status, text) = check(&site);
    assert_eq!(status, 0, "{text}");
    assert!(found(&text, "warn", &["it takes readings", "tombolo/gw/#"]), "{text}");
    site.daemon.stop();
    let (status, text) = check(&site);
    assert_eq!(status, 0, "{text}");
    assert!(found(&text, "warn", &["one among the readings, on tombolo/gw/door-7/up/"]), "{text}");
}

#[test]
fn a_client_id_of_23_characters_is_tried_beside_the_gateway_and_in_its_place() {
    let id = "g".repeat(23);
    let change = |text: &str| text.replace("ca-file = ", &format!("client-id = \"{id}\"\nca-file = "));
    let mut site = Site::build("bound", "", "per_listener_settings false", change);
    site.daemon.command(&["status"]);
    wait_for("the broker", || connected(&site));
    site.folder.write("conf.d/50.toml", "[upstream]\nkeep-alive = \"50s\"\n");
    let (status, text) = check(&site);
    assert_eq!(status, 0, "{text}");
    assert!(connected(&site), "its place is not taken");
    site.daemon.stop();
    let (status, text) = check(&site);
    assert_eq!(status, 0, "{text}");
    assert!(found(&text, "ok", &["upstream publish: acknowledged and back"]), "{text}");
}

#[test]
fn a_broker_with_a_certificate_of_its_own_making_is_pinned_by_what_check_prints() {
    let site = Site::new("pin", "");
    wait_for("the broker", || connected(&site));
    // As if nobody here knew its CA.
    let stranger = Folder::new("stranger");
    let other = super::Pki::new(stranger.path());
    site.folder.write("conf.d/50.toml", format!("[upstream]\nca-file = \"{}\"\n", other.ca().display()));
    let (status, text) = check(&site);
    assert_eq!(status, 1, "{text}");
    assert!(found(&text, "fail", &["upstream tls", "leads to the CA", "which is not trusted"]), "{text}");
    let pin = text.split("pin-sha256 = [\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a pin");
    assert_eq!(pin.len(), 64, "{text}");

    // The CA does not count then.
    let by_pin = |pin: &str| format!("[upstream]\nca-file = \"\"\npin-sha256 = [\"{pin}\"]\n");
    site.folder.write("conf.d/50.toml", by_pin(pin));
    let (status, text) = check(&site);
    assert_eq!(status, 0, "{text}");
    assert!(found(&text, "ok", &["has the key of upstream.pin-sha256", "not judged"]), "{text}");
    assert_eq!(site.daemon.command(&["reload"]).0, 0);
    wait_for("the broker by its key", || connected(&site));

    let wrong = "0".repeat(64);
    site.folder.write("conf.d/50.toml", by_pin(&wrong));
    let (status, text) = check(&site);
    assert_eq!(status, 1, "{text}");
    assert!(found(&text, "fail", &["not one of upstream.pin-sha256", pin]), "{text}");
}

#[test]
fn an_encrypted_key_is_used_with_its_password_and_named_without() {
    let site = Site::new("encrypted", "");
    let (_, key) = site.pki.issue("gateway", &["gateway"]);
    let encrypted = site.folder.join("encrypted.key");
    let made = Command::new("openssl")
        .args(["pkcs8", "-topk8", "-passout", "pass:sesame", "-in"])
        .arg(&key)
        .arg("-out")
        .arg(&encrypted)
        .status()
        .expect("openssl is installed");
    assert!(made.success());
    let keys = "[upstream]\ncertificate-file = \"../gateway.pem\"\nkey-file = \"../encrypted.key\"\n";
    site.folder.write("conf.d/50.toml", keys);
    let (status, text) = check(&site);
    assert_eq!(status, 1, "{text}");
    let words =
        ["upstream.key-file", "encrypted.key: the key is encrypted", "key-password-file", "openssl pkey"];
    assert!(found(&text, "fail", &words), "{text}");

    site.folder.write("key-password", "sesame\n");
    site.folder.write("conf.d/50.toml", format!("{keys}key-password-file = \"../key-password\"\n"));
    let (status, text) = check(&site);
    assert_eq!(status, 0, "{text}");
    assert!(found(&text, "ok", &["gateway.pem", "encrypted.key belong together"]), "{text}");
    assert_eq!(site.daemon.command(&["reload"]).0, 0);
    wait_for("the broker", || connected(&site));

    site.folder.write("key-password", "wrong\n");
    let (status, text) = check(&site);
    assert_eq!(status, 1, "{text}");
    assert!(found(&text, "fail", &["cannot be decrypted with the password"]), "{text}");
}
