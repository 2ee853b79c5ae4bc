//! A certificate that renews itself, through the whole daemon: a real mosquitto that asks for
//! client certificates, and the EST server of the tests.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tombolo_test_support::{Daemon, Folder, Mosquitto, Pki, Subscriber, free_tcp_port, wait_for};

use super::{KEY, SITE, Site, binary};

/// It ends when its standard input is closed, so with the test.
pub(super) struct Est {
    pub(super) port: u16,
    _process: Child,
}

pub(super) fn est(folder: &Folder) -> Est {
    let mut process = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sources/est_server.py"))
        .arg(folder.join("est"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is needed for the EST server");
    let mut line = String::new();
    BufReader::new(process.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
    Est { port: line.trim().parse().expect("the EST server says its port"), _process: process }
}

/// What a site with certificates has of its own.
#[derive(Default)]
pub(super) struct Plan<'a> {
    /// The label of the EST server: how it behaves.
    pub(super) label: &'a str,
    /// Lines for `[upstream]`.
    pub(super) upstream: &'a str,
    /// Instead of the table of an EST server.
    pub(super) table: Option<&'a str>,
    /// Lines for `[coap]`.
    pub(super) coap: &'a str,
    /// Lines for the listener of the broker.
    pub(super) broker: &'a str,
    /// Further tables.
    pub(super) extra: &'a str,
}

/// A gateway without a certificate but that of its factory.
fn site(name: &str) -> (Site, Est) {
    site_with(name, &Plan { upstream: "certificate = \"uplink\"", ..Plan::default() }, |_| {})
}

/// A gateway at a broker that asks for client certificates of the EST server's CA. `prepare` comes
/// before its start.
pub(super) fn site_with(name: &str, plan: &Plan<'_>, prepare: impl FnOnce(&Folder)) -> (Site, Est) {
    let run = |folder: &Folder| {
        prepare(folder);
        binary().to_owned()
    };
    site_run_by(name, plan, "always", run)
}

/// The same, whose clock is trusted as `trust` says. `run` comes before the start, and says what to
/// start.
pub(super) fn site_run_by(
    name: &str,
    plan: &Plan<'_>,
    trust: &str,
    run: impl FnOnce(&Folder) -> PathBuf,
) -> (Site, Est) {
    let folder = Folder::new(name);
    folder.write("door-7.psk", format!("text:{KEY}"));
    let est = est(&folder);
    let program = run(&folder);
    let pki = Pki::new(folder.path());
    let (certificate, key) = pki.issue("strict", &["localhost", "127.0.0.1"]);
    let port = free_tcp_port();
    let listener = format!(
        "{}\nlistener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n",
        plan.broker,
        folder.join("est/root.pem").display(),
        certificate.display(),
        key.display()
    );
    let broker = Mosquitto::start(folder.path(), &pki, &listener);
    let witness = Subscriber::start(&broker, folder.path(), "tombolo/#", "%t\t%p\t%C\t%P\t%r");
    let label = if plan.label.is_empty() { "gateways" } else { plan.label };
    let est_table = format!(
        "[certificate.uplink]\nest-url = \"https://127.0.0.1:{}/.well-known/est/{label}\"\n\
         est-ca-file = \"est/root.pem\"\nbootstrap-certificate-file = \"est/factory.pem\"\n\
         bootstrap-key-file = \"est/factory.key\"\n",
        est.port
    );
    let table = plan.table.unwrap_or(&est_table).replace("EST_PORT", &est.port.to_string());
    let extra = format!("{SITE}\n{table}\n{}", plan.extra);
    let daemon = Daemon::start_with(&program, &folder, port, &pki.ca(), &extra, |text| {
        let text = text.replace("trust = \"always\"", &format!("trust = \"{trust}\""));
        let text = text.replace("[upstream]\n", &format!("[upstream]\n{}\n", plan.upstream));
        text.replace("[coap]\n", &format!("[coap]\n{}\n", plan.coap))
    });
    (Site { daemon, witness, broker, pki, folder }, est)
}

pub(super) fn certificate(daemon: &Daemon) -> Value {
    certificate_named(daemon, "uplink")
}

pub(super) fn certificate_named(daemon: &Daemon, name: &str) -> Value {
    let (code, text) = daemon.command(&["cert", "status", "--json"]);
    assert_eq!(code, 0, "{text}");
    serde_json::from_str::<Value>(&text).expect("JSON")[name].clone()
}

pub(super) fn until_connected_and_confirmed(daemon: &Daemon) {
    wait_for("a connection with a confirmed certificate", || {
        daemon.status()["upstream"]["connected"] == true && certificate(daemon)["state"] == "valid"
    });
}

/// notAfter has whole seconds, and the next certificate must end later.
pub(super) fn let_a_second_pass() {
    let begun = Instant::now();
    wait_for("another second", || begun.elapsed() > Duration::from_millis(1100));
}

#[test]
fn a_gateway_enrols_renews_under_load_and_rolls_back_and_nothing_is_lost() {
    let (site, _est) = site("rotation");
    let daemon = &site.daemon;
    until_connected_and_confirmed(daemon);
    let first = certificate(daemon);
    let mut keys: Vec<&str> = first.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    let contract = [
        "days_left",
        "due",
        "files",
        "issuer",
        "last_attempt",
        "last_error",
        "next",
        "not_after",
        "not_before",
        "retry_in_s",
        "serial",
        "slot",
        "state",
        "subject",
    ];
    assert_eq!(keys, contract);
    assert_eq!(first["slot"], "current");
    assert!(first["subject"].as_str().expect("a subject").contains("gw"), "{first}");
    let_a_second_pass();
    std::thread::scope(|scope| {
        let renewal = scope.spawn(|| daemon.command(&["cert", "renew", "uplink", "--wait"]));
        for n in 0..20 {
            let said = site.post(&["-e", &format!("n{n}.")], "t/env");
            assert!(said.contains("2.04"), "{said}");
        }
        let (code, text) = renewal.join().expect("it ends");
        assert_eq!(code, 0, "{text}");
    });
    until_connected_and_confirmed(daemon);
    let second = certificate(daemon);
    assert_ne!(second["serial"], first["serial"]);
    let (code, text) = daemon.command(&["cert", "rollback", "uplink"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(certificate(daemon)["serial"], first["serial"]);
    until_connected_and_confirmed(daemon);
    wait_for("all readings", || {
        let arrived = site.arrived("tombolo/gw/door-7/up/t/env");
        (0..20).all(|n| arrived.iter().any(|fields| fields[1] == format!("n{n}.")))
    });
    let (code, text) = daemon.command(&["cert", "history", "uplink"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("asking for the next certificate") && text.contains("is in use"), "{text}");
    let (code, text) = daemon.command(&["cert", "renew", "nobody"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("nobody") && text.contains("uplink"), "{text}");
    let (_, text) = daemon.command(&["status"]);
    assert!(text.contains("uplink: valid until"), "{text}");
}

#[test]
fn a_renewal_that_fails_leaves_the_certificate_in_use_and_a_restart_too() {
    let (mut site, est) = site("rotation-refused");
    until_connected_and_confirmed(&site.daemon);
    let serial = certificate(&site.daemon)["serial"].clone();
    site.daemon.stop();
    let config = site.daemon.config().to_owned();
    let text = std::fs::read_to_string(&config).expect("the configuration");
    // It issues by a CA that the broker does not know.
    std::fs::write(&config, text.replace("/est/gateways", "/est/unknown-ca")).expect("it is written");
    site.daemon.resume();
    until_connected_and_confirmed(&site.daemon);
    let_a_second_pass();
    let (code, text) = site.daemon.command(&["cert", "renew", "uplink", "--wait"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("no new certificate") && text.contains("refused"), "{text}");
    assert_eq!(certificate(&site.daemon)["serial"], serial);
    wait_for("the old one's connection", || site.daemon.status()["upstream"]["connected"] == true);
    let said = site.post(&["-e", "after"], "t/env");
    assert!(said.contains("2.04"), "{said}");
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/t/env").is_empty());
    drop(est);
    // A restart forgets neither that a person wants one nor why there is none.
    wait_for("it is resting", || certificate(&site.daemon)["state"] == "retrying");
    let why = certificate(&site.daemon)["last_error"].clone();
    wait_for("it is stored", || {
        let state = std::fs::read_to_string(site.folder.join("state/certificates/uplink/state"));
        state.is_ok_and(|state| state.contains("\"asked\":true") && state.contains("\"failures\":1"))
    });
    site.daemon.kill();
    site.daemon.resume();
    let after = certificate(&site.daemon);
    assert_eq!((&after["state"], &after["last_error"]), (&Value::from("retrying"), &why));
    // And what changes the table is no matter of a reload.
    std::fs::write(&config, std::fs::read_to_string(&config).expect("it").replace("unknown-ca", "third"))
        .expect("it is written");
    let (code, text) = site.daemon.command(&["reload"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("upstream.certificate") && text.contains("a reload cannot apply"), "{text}");
}
