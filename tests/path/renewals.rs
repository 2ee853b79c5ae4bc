//! The life of a certificate through the whole daemon, at a real mosquitto that asks for client
//! certificates: what goes wrong on the way, and what a person does.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};
use serde_json::Value;
use tombolo::credential::store::{Held, Store};
use tombolo::durable::io::OnDisk;
use tombolo_test_support::kernel::Kernel;
use tombolo_test_support::{Daemon, Folder, Mosquitto, Pki, Subscriber, wait_for};

use super::rotation::{
    Plan, certificate, certificate_named, let_a_second_pass, site_with, until_connected_and_confirmed,
};
use super::{SITE, Site, binary};

const UPLINK: &str = "certificate = \"uplink\"";

fn history(daemon: &Daemon, name: &str) -> String {
    let (code, text) = daemon.command(&["cert", "history", name]);
    assert_eq!(code, 0, "{text}");
    text
}

fn connections(daemon: &Daemon) -> u64 {
    let counters = &daemon.status()["counters"];
    counters["tombolo_northbound_connected_sessions_total"].as_u64().expect("a number")
}

/// What the EST server was asked, one line a request.
fn asked(folder: &Folder) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("est/requests.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// A certificate of `CN=gw` that expired long ago, as the one in use.
fn expired(folder: &Folder) {
    keep(folder, |params| {
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    });
}

/// A certificate of `CN=gw` as the one in use.
fn keep(folder: &Folder, change: impl FnOnce(&mut CertificateParams)) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "gw");
    change(&mut params);
    let chain = vec![params.self_signed(&key).expect("a certificate").der().to_vec()];
    let held = Held::new(chain, Arc::new(key.serialize_der().into())).expect("a pair");
    let place = folder.join("state/certificates/uplink");
    std::fs::create_dir_all(&place).expect("the folder");
    let mut store = Store::open(OnDisk::new(&place));
    store.stage(held).and_then(|()| store.commit(None)).expect("it is stored");
}

#[test]
fn an_expired_certificate_enrols_anew_with_the_bootstrap_certificate_and_readings_flow_again() {
    let plan = Plan { upstream: UPLINK, ..Plan::default() };
    let (site, _est) = site_with("expired", &plan, expired);
    let said = site.post(&["-e", "kept"], "t/env");
    assert!(said.contains("2.04"), "{said}");
    until_connected_and_confirmed(&site.daemon);
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/t/env").is_empty());
    let orders: Vec<Value> =
        asked(&site.folder).into_iter().filter(|line| line["operation"] == "simpleenroll").collect();
    assert!(!orders.is_empty() && orders.iter().all(|line| line["client"] == "serial-0001"), "{orders:?}");
    assert!(history(&site.daemon, "uplink").contains("enrolment"));
}

#[test]
fn a_broker_that_is_away_during_the_probe_keeps_the_candidate_and_it_comes_into_use_later() {
    let plan = Plan { upstream: UPLINK, ..Plan::default() };
    let (mut site, _est) = site_with("away", &plan, |_| {});
    until_connected_and_confirmed(&site.daemon);
    let first = certificate(&site.daemon)["serial"].clone();
    let_a_second_pass();
    site.broker.stop();
    let (code, text) = site.daemon.command(&["cert", "renew", "uplink"]);
    assert_eq!(code, 0, "{text}");
    wait_for("a probe that decides nothing", || {
        history(&site.daemon, "uplink").contains("could not be tried")
    });
    let held = certificate(&site.daemon);
    assert_eq!((&held["slot"], &held["serial"]), (&Value::from("candidate"), &first), "{held}");
    // A restart in the meantime forgets nothing.
    site.daemon.kill();
    site.daemon.resume();
    assert_eq!(certificate(&site.daemon)["slot"], "candidate");
    site.broker.resume();
    wait_for("the new certificate", || {
        // It is probed by itself, too, and may be under way when a person asks.
        site.daemon.command(&["cert", "probe", "uplink"]);
        certificate(&site.daemon)["serial"] != first
    });
    until_connected_and_confirmed(&site.daemon);
}

#[test]
fn files_that_somebody_removes_are_written_anew_and_the_connection_comes_back() {
    let plan = Plan { upstream: UPLINK, ..Plan::default() };
    let (mut site, _est) = site_with("removed", &plan, |_| {});
    until_connected_and_confirmed(&site.daemon);
    let first = certificate(&site.daemon)["serial"].clone();
    std::fs::remove_dir_all(site.folder.join("state/certificates")).expect("they are removed");
    site.broker.stop();
    site.broker.resume();
    wait_for("a connection", || {
        site.folder.join("state/certificates/uplink/current.pem").exists()
            && site.daemon.status()["upstream"]["connected"] == true
    });
    assert_eq!(certificate(&site.daemon)["serial"], first);
    wait_for("the log", || site.daemon.log().contains("are written anew"));
}

#[test]
fn files_removed_under_a_connection_that_stands_are_written_anew_and_named_and_a_stop_loses_nothing() {
    let plan = Plan { upstream: UPLINK, ..Plan::default() };
    let (mut site, _est) = site_with("removed-standing", &plan, |_| {});
    until_connected_and_confirmed(&site.daemon);
    let first = certificate(&site.daemon)["serial"].clone();
    let before = connections(&site.daemon);
    let files = ["current.pem", "current.pem.copy"].map(|name| {
        let place = site.folder.join("state/certificates/uplink");
        place.join(name)
    });
    files.iter().for_each(|file| std::fs::remove_file(file).expect("it is removed"));
    let (_, text) = site.daemon.command(&["check"]);
    assert!(!text.contains("not enrolled yet"), "{text}");
    wait_for("the files", || files.iter().all(|file| file.exists()));
    let words = "files of it were removed or damaged while the gateway ran";
    wait_for("the problem", || site.daemon.status()["problems"].to_string().contains(words));
    let (code, text) = site.daemon.command(&["check"]);
    let named = text.lines().any(|line| line.starts_with("warn") && line.contains(words));
    assert!(code == 0 && named, "{text}");
    wait_for("the history", || history(&site.daemon, "uplink").contains("written anew"));
    assert_eq!(connections(&site.daemon), before);
    files.iter().for_each(|file| std::fs::remove_file(file).expect("it is removed"));
    site.daemon.stop();
    assert!(files.iter().all(|file| file.exists()), "{}", site.daemon.log());
    site.daemon.resume();
    until_connected_and_confirmed(&site.daemon);
    assert_eq!(certificate(&site.daemon)["serial"], first);
}

#[test]
fn the_broker_asks_for_a_renewal_and_the_certificate_is_another_one() {
    let table = "[remote]\nallow = [\"cert/renew\"]\n";
    let plan = Plan { upstream: UPLINK, extra: table, ..Plan::default() };
    let (site, _est) = site_with("renew-asked", &plan, |_| {});
    until_connected_and_confirmed(&site.daemon);
    let first = certificate(&site.daemon)["serial"].clone();
    let_a_second_pass();
    let port = site.broker.plain_port.to_string();
    let ask = |payload: &str| {
        let output = std::process::Command::new("mosquitto_rr")
            .args(["-h", "127.0.0.1", "-p", &port, "-V", "5", "-q", "1", "-W", "60", "-F", "%P|%p"])
            .args(["-t", "tombolo/gw/gateway/down/cert/renew", "-e", "app/renewed", "-m", payload])
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        tombolo_test_support::printed(&output)
    };
    // The first one may come before the subscription.
    let mut answer = String::new();
    wait_for("the outcome", || {
        answer = ask("uplink");
        !answer.trim().is_empty()
    });
    assert!(answer.contains("status:2.04"), "{answer}");
    wait_for("the new certificate", || certificate(&site.daemon)["serial"] != first);
    until_connected_and_confirmed(&site.daemon);
    let answer = ask("nothing");
    assert!(answer.contains("status:4.04"), "{answer}");
}

#[test]
fn reloads_in_the_middle_of_a_renewal_change_nothing_about_it() {
    let plan = Plan { upstream: UPLINK, ..Plan::default() };
    let (site, _est) = site_with("reloads", &plan, |_| {});
    until_connected_and_confirmed(&site.daemon);
    let first = certificate(&site.daemon)["serial"].clone();
    let_a_second_pass();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut seconds = 60;
            while !done.load(Ordering::Relaxed) {
                seconds += 1;
                // One that replaces the uplink, and one that is refused.
                site.folder
                    .write("conf.d/50-site.toml", format!("[upstream]\nkeep-alive = \"{seconds}s\"\n"));
                site.daemon.command(&["reload"]);
                site.folder.write("conf.d/50-site.toml", "[upstream\n");
                site.daemon.command(&["reload"]);
            }
        });
        let (code, text) = site.daemon.command(&["cert", "renew", "uplink", "--wait"]);
        done.store(true, Ordering::Relaxed);
        assert_eq!(code, 0, "{text}");
    });
    assert_ne!(certificate(&site.daemon)["serial"], first);
    until_connected_and_confirmed(&site.daemon);
    let said = site.post(&["-e", "after"], "t/env");
    assert!(said.contains("2.04"), "{said}");
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/t/env").is_empty());
}

#[test]
fn five_minute_certificates_under_load_lose_nothing_and_each_costs_one_connection() {
    const ROTATIONS: u64 = 5;
    let plan = Plan { upstream: UPLINK, label: "five-minutes", ..Plan::default() };
    let (site, _est) = site_with("five-minutes", &plan, |_| {});
    let daemon = &site.daemon;
    until_connected_and_confirmed(daemon);
    let before = connections(daemon);
    let (done, mut sent) = (AtomicBool::new(false), 0);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut sent = 0;
            while !done.load(Ordering::Relaxed) {
                let said = site.post(&["-e", &format!("n{sent}.")], "t/env");
                assert!(said.contains("2.04"), "{said}");
                sent += 1;
                // A device may make 120 handshakes a minute.
                let begun = Instant::now();
                wait_for("the next reading", || begun.elapsed() > Duration::from_millis(550));
            }
            sent
        });
        for _ in 0..ROTATIONS {
            let_a_second_pass();
            let (code, text) = daemon.command(&["cert", "renew", "uplink", "--wait"]);
            assert_eq!(code, 0, "{text}");
            until_connected_and_confirmed(daemon);
        }
        done.store(true, Ordering::Relaxed);
        sent = load.join().expect("it ends");
    });
    assert!(sent > 0);
    assert_eq!(connections(daemon) - before, ROTATIONS, "one connection a rotation");
    wait_for("all readings", || {
        let arrived = site.arrived("tombolo/gw/door-7/up/t/env");
        (0..sent).all(|n| arrived.iter().any(|fields| fields[1] == format!("n{n}.")))
    });
    let log = std::fs::read_to_string(site.folder.join("mosquitto.log")).expect("its log");
    assert!(!log.contains("already connected"), "no take-over: {log}");
}

/// Signs a request as the EST server's CA would; the chain, PEM.
fn sign(folder: &Folder, csr: &str) -> PathBuf {
    let (request, leaf) = (folder.write("gw.csr", csr), folder.join("gw-leaf.pem"));
    let extensions = folder.write(
        "gw.ext",
        "basicConstraints = critical, CA:FALSE\nkeyUsage = critical, digitalSignature\nextendedKeyUsage = clientAuth\n",
    );
    let done = Command::new("openssl")
        .args(["x509", "-req", "-days", "2", "-copy_extensions", "copy", "-in"])
        .arg(&request)
        .arg("-CA")
        .arg(folder.join("est/issuing.pem"))
        .arg("-CAkey")
        .arg(folder.join("est/issuing.key"))
        .arg("-extfile")
        .arg(&extensions)
        .arg("-out")
        .arg(&leaf)
        .output()
        .expect("openssl is installed");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let chain = [leaf, folder.join("est/issuing.pem")].map(|file| std::fs::read(file).expect("a file"));
    folder.write("gw-chain.pem", chain.concat())
}

#[test]
fn a_person_takes_the_request_to_a_ca_and_installs_what_it_issued() {
    let table = "[certificate.uplink]\nsource = \"manual\"\nsubject = \"CN=gw\"\n";
    let plan = Plan { upstream: UPLINK, table: Some(table), ..Plan::default() };
    let (site, _est) = site_with("by-hand", &plan, |_| {});
    let daemon = &site.daemon;
    wait_for("the first attempt", || daemon.status()["upstream"]["last_error"].is_string());
    let (_, text) = daemon.command(&["status"]);
    assert!(!text.contains("cannot be read"), "{text}");
    assert!(text.contains("uplink is missing") && text.contains("cert csr uplink"), "{text}");
    let once = |text: &str| text.matches("not enrolled yet").count();
    assert!(once(&text) <= 1, "{text}");
    let (code, text) = daemon.command(&["check"]);
    assert_eq!(code, 1, "{text}");
    assert!(once(&text) == 1 && !text.contains("cannot be read"), "{text}");
    let (code, text) = daemon.command(&["cert", "renew", "uplink"]);
    assert_eq!(code, 1);
    assert!(text.contains("comes by hand"), "{text}");

    let (code, csr) = daemon.command(&["cert", "csr", "uplink"]);
    assert_eq!(code, 0, "{csr}");
    assert_eq!(daemon.command(&["cert", "csr", "uplink"]).1, csr, "the open request stays");
    let (code, text) = daemon.command(&["cert", "csr", "uplink", "--json"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON")["csr"], csr.as_str());
    let strange = site.pki.issue("strange", &[]).0.display().to_string();
    let (code, text) = daemon.command(&["cert", "install", "uplink", &strange, "--wait"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("key is neither"), "{text}");
    let key = site.folder.join("strange.key").display().to_string();
    let (code, text) = daemon.command(&["cert", "install", "uplink", &key]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("private key"), "{text}");
    let count = |text: &str| text.lines().filter(|line| line.starts_with("fail")).count();
    let (_, text) = daemon.command(&["check"]);
    assert!(count(&text) <= 2 && text.contains("cert install uplink"), "one cause, and what it does: {text}");
    // In whatever order the CA put them.
    let chain = sign(&site.folder, &csr);
    let (leaf, issuer) = (site.folder.join("gw-leaf.pem"), site.folder.join("est/issuing.pem"));
    let turned = [issuer, leaf].map(|file| std::fs::read(file).expect("a file")).concat();
    std::fs::write(&chain, turned).expect("it is written");
    let chain = chain.display().to_string();
    let (code, text) = daemon.command(&["cert", "install", "uplink", &chain, "--wait"]);
    assert_eq!(code, 0, "{text}");
    until_connected_and_confirmed(daemon);
    let log = history(daemon, "uplink");
    assert!(log.contains("was provided") && !log.contains("issued"), "{log}");
    let (code, text) = daemon.command(&["cert", "probe", "uplink"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("no new certificate that waits"), "{text}");

    // The next one, with a new key.
    let (_, next) = daemon.command(&["cert", "csr", "uplink"]);
    assert_ne!(next, csr);
    let first = certificate(daemon)["serial"].clone();
    let_a_second_pass();
    let chain = sign(&site.folder, &next).display().to_string();
    let (code, text) = daemon.command(&["cert", "install", "uplink", &chain, "--wait"]);
    assert_eq!(code, 0, "{text}");
    assert_ne!(certificate(daemon)["serial"], first);
}

#[test]
fn a_person_enrols_anew_although_the_certificate_is_valid() {
    let plan = Plan { upstream: UPLINK, ..Plan::default() };
    let (site, est) = site_with("enroll", &plan, |_| {});
    until_connected_and_confirmed(&site.daemon);
    let first = certificate(&site.daemon)["serial"].clone();
    let_a_second_pass();
    let (code, text) = site.daemon.command(&["cert", "enroll", "uplink", "--wait"]);
    assert_eq!(code, 0, "{text}");
    assert_ne!(certificate(&site.daemon)["serial"], first);
    let operations = asked(&site.folder);
    assert!(operations.iter().all(|line| line["operation"] != "simplereenroll"), "{operations:?}");

    // One that fails is named while it is wanted, and can be taken back.
    let second = certificate(&site.daemon)["serial"].clone();
    let port = est.port;
    drop(est);
    wait_for("its end", || std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    let (code, text) = site.daemon.command(&["cert", "enroll", "uplink"]);
    assert_eq!(code, 0, "{text}");
    let wanted = || {
        let next = certificate(&site.daemon)["next"].clone();
        next.as_str().is_some_and(|next| next.contains("1 of at most 8") && next.contains("--cancel"))
    };
    wait_for("a failure", wanted);
    let problems = site.daemon.status()["problems"].to_string();
    assert!(problems.contains("cert enroll uplink --cancel"), "{problems}");
    let (code, text) = site.daemon.command(&["cert", "enroll", "uplink", "--cancel"]);
    assert!(code == 0 && text.contains("taken back"), "{text}");
    let now = certificate(&site.daemon);
    assert_eq!((&now["state"], &now["serial"]), (&Value::from("valid"), &second));
    assert!(now["last_error"].is_null() && now["next"].is_null(), "{now}");
    let (code, text) = site.daemon.command(&["cert", "enroll", "uplink", "--cancel"]);
    assert!(code == 1 && text.contains("no enrolment is asked for"), "{text}");
}

#[test]
fn a_certificate_on_trial_is_named_until_the_broker_has_decided() {
    let plan = Plan { upstream: UPLINK, ..Plan::default() };
    let (site, _est) = site_with("on-trial", &plan, |_| {});
    until_connected_and_confirmed(&site.daemon);
    let first = certificate(&site.daemon)["serial"].clone();
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &site.broker.pid().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{name}");
    };
    let named = || site.daemon.status()["problems"].to_string().contains("a new one is there");
    assert!(!named());
    let_a_second_pass();
    // A broker that does not answer yet.
    signal("-STOP");
    let (code, text) = site.daemon.command(&["cert", "renew", "uplink"]);
    assert_eq!(code, 0, "{text}");
    wait_for("the notice", named);
    assert_eq!(site.daemon.status()["ok"], false);
    signal("-CONT");
    wait_for("the new certificate", || certificate(&site.daemon)["serial"] != first);
    until_connected_and_confirmed(&site.daemon);
    assert!(!named());
}

#[test]
fn a_gateway_that_got_no_certificate_yet_has_one_failure_in_check_with_its_cause() {
    let plan = Plan { upstream: UPLINK, label: "status-403", ..Plan::default() };
    let (mut site, est) = site_with("never-issued", &plan, |_| {});
    wait_for("a refusal", || !certificate(&site.daemon)["last_error"].is_null());
    // Before the gateway runs that is as it should be.
    site.daemon.stop();
    let (_, text) = site.daemon.command(&["check"]);
    let lines = |level: &str| {
        let of = text.lines().filter(|line| line.starts_with(level) && line.contains("certificate uplink"));
        of.map(str::to_owned).collect::<Vec<_>>()
    };
    let warned = lines("warn").iter().any(|line| line.contains("not enrolled yet"));
    assert!(warned && text.contains("enrols at its start") && lines("fail").is_empty(), "{text}");
    site.daemon.resume();
    wait_for("a refusal", || !certificate(&site.daemon)["last_error"].is_null());
    let failures = || {
        let (code, text) = site.daemon.command(&["check"]);
        let lines: Vec<String> =
            text.lines().filter(|line| line.starts_with("fail")).map(str::to_owned).collect();
        assert!(code == 1 && lines.len() == 1, "{text}");
        lines[0].clone()
    };
    let found = failures();
    let words = ["certificate uplink", "not enrolled yet", "403", "cert enroll uplink --wait"];
    assert!(words.iter().all(|word| found.contains(word)), "{found}");
    let port = est.port;
    drop(est);
    wait_for("its end", || std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    let found = failures();
    let words = ["certificate uplink", "not enrolled yet", "the EST server cannot be used"];
    assert!(words.iter().all(|word| found.contains(word)), "{found}");
}

#[test]
fn damaged_files_of_a_certificate_are_named_until_another_one_is_in_use() {
    let plan = Plan { upstream: UPLINK, ..Plan::default() };
    let (mut site, _est) = site_with("set-aside", &plan, |_| {});
    until_connected_and_confirmed(&site.daemon);
    site.daemon.stop();
    let place = site.folder.join("state/certificates/uplink");
    for name in ["state", "state.copy"] {
        std::fs::write(place.join(name), "{").expect("it is written");
    }
    for _ in 0..2 {
        site.daemon.resume();
        until_connected_and_confirmed(&site.daemon);
        let problems = site.daemon.status()["problems"].to_string();
        assert!(problems.matches("state.damaged-1").count() == 1, "{problems}");
        wait_for("the log", || site.daemon.log().contains("damaged files of a certificate are set aside"));
        let (_, text) = site.daemon.command(&["check"]);
        let said = |line: &str| line.starts_with("warn") && line.contains("state.damaged-1");
        assert!(text.lines().any(said) && text.contains("then delete them"), "{text}");
        site.daemon.stop();
    }
    site.daemon.resume();
    until_connected_and_confirmed(&site.daemon);
    let_a_second_pass();
    let (code, text) = site.daemon.command(&["cert", "renew", "uplink", "--wait"]);
    assert_eq!(code, 0, "{text}");
    let problems = site.daemon.status()["problems"].to_string();
    assert!(!problems.contains("set aside") && !place.join("state.damaged-1").exists(), "{problems}");
}

#[test]
fn with_a_client_id_for_it_the_probe_is_made_beside_the_connection() {
    let upstream = "certificate = \"uplink\"\nprobe-client-id = \"gw-probe\"";
    let plan = Plan { upstream, ..Plan::default() };
    let (mut site, _est) = site_with("beside", &plan, |_| {});
    until_connected_and_confirmed(&site.daemon);
    let first = certificate(&site.daemon)["serial"].clone();
    let before = connections(&site.daemon);
    let_a_second_pass();
    let (code, text) = site.daemon.command(&["cert", "renew", "uplink", "--wait"]);
    assert_eq!(code, 0, "{text}");
    assert_ne!(certificate(&site.daemon)["serial"], first);
    wait_for("the connection with it", || connections(&site.daemon) == before + 1);
    until_connected_and_confirmed(&site.daemon);
    let log = || std::fs::read_to_string(site.folder.join("mosquitto.log")).expect("its log");
    assert!(log().contains("as gw-probe"), "{}", log());

    // One that the broker refuses costs no connection at all.
    let before = connections(&site.daemon);
    site.daemon.stop();
    let config = site.daemon.config().to_owned();
    let text = std::fs::read_to_string(&config).expect("the configuration");
    std::fs::write(&config, text.replace("/est/gateways", "/est/unknown-ca")).expect("it is written");
    site.daemon.resume();
    until_connected_and_confirmed(&site.daemon);
    assert!(before > 0);
    let before = connections(&site.daemon);
    let_a_second_pass();
    let (code, text) = site.daemon.command(&["cert", "renew", "uplink", "--wait"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("refused"), "{text}");
    assert_eq!(connections(&site.daemon), before);
}

/// Has the broker admit only client ids that begin with `prefix`, if there is one, from a restart
/// on.
fn admit(site: &mut Site, prefix: &str) {
    let file = site.folder.join("mosquitto.conf");
    let text = std::fs::read_to_string(&file).expect("the broker's configuration");
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with("clientid_prefixes"))
        .map(|line| format!("{line}\n"))
        .collect();
    let line = if prefix.is_empty() { String::new() } else { format!("clientid_prefixes {prefix}\n") };
    let before = connections(&site.daemon);
    site.broker.stop();
    std::fs::write(&file, line + &text).expect("it is written");
    site.broker.resume();
    // A certificate may be waiting for its proof, which is tried again in a minute.
    wait_for("another connection", || {
        connections(&site.daemon) > before && site.daemon.status()["upstream"]["connected"] == true
    });
}

/// Asks for a probe and does not wait for what comes of it.
fn nudge(site: &Site) {
    let _ = Command::new("timeout")
        .arg("1")
        .arg(binary())
        .arg("--config")
        .arg(site.daemon.config())
        .args(["cert", "probe", "uplink"])
        .stdin(Stdio::null())
        .output();
}

#[test]
fn a_client_id_for_probes_that_the_broker_does_not_admit_is_named_and_gives_no_certificate_up() {
    let upstream = "certificate = \"uplink\"\nprobe-client-id = \"probe-gw\"";
    let plan = Plan { upstream, ..Plan::default() };
    let (mut site, _est) = site_with("not-admitted", &plan, |_| {});
    until_connected_and_confirmed(&site.daemon);
    let first = certificate(&site.daemon)["serial"].clone();
    let orders =
        |site: &Site| asked(&site.folder).iter().filter(|line| line["operation"] == "simplereenroll").count();
    admit(&mut site, "gw");
    let_a_second_pass();
    let before = connections(&site.daemon);
    let (code, text) = site.daemon.command(&["cert", "renew", "uplink"]);
    assert_eq!(code, 0, "{text}");
    wait_for("a probe that shows nothing", || {
        let log = history(&site.daemon, "uplink");
        log.contains("could not be tried") && log.contains("probe-gw")
    });
    let held = certificate(&site.daemon);
    assert_eq!((&held["slot"], &held["serial"]), (&Value::from("candidate"), &first), "{held}");
    let next = held["next"].as_str().unwrap_or_default();
    assert!(next.contains("not given up") && next.contains("cert probe uplink"), "{held}");
    let warned = |site: &Site| {
        site.daemon.status()["upstream"]["warnings"].to_string().contains("upstream.probe-client-id")
    };
    assert!(warned(&site));
    let (code, text) = site.daemon.command(&["cert", "renew", "uplink"]);
    assert!(code == 1 && text.contains("cert probe uplink"), "{text}");
    let said = |text: &str| {
        text.lines().any(|line| {
            line.starts_with("warn")
                && line.contains("upstream.probe-client-id")
                && line.contains("allow that client id")
        })
    };
    let (_, text) = site.daemon.command(&["check"]);
    assert!(said(&text), "{text}");
    assert_eq!(connections(&site.daemon), before, "the one that stands is not touched");

    // It was so only for a while: the candidate comes into use.
    admit(&mut site, "");
    wait_for("the new certificate", || {
        nudge(&site);
        certificate(&site.daemon)["serial"] != first
    });
    assert_eq!(orders(&site), 1, "none was given up");
    until_connected_and_confirmed(&site.daemon);
    let (_, text) = site.daemon.command(&["check"]);
    assert!(!said(&text) && text.contains("lets probe-gw connect"), "{text}");
    assert!(!warned(&site));

    // It stays so: the connection gives way to the probe that a person asks for.
    admit(&mut site, "gw");
    let second = certificate(&site.daemon)["serial"].clone();
    let_a_second_pass();
    let (code, text) = site.daemon.command(&["cert", "renew", "uplink"]);
    assert_eq!(code, 0, "{text}");
    wait_for("the next certificate", || {
        nudge(&site);
        certificate(&site.daemon)["serial"] != second
    });
    until_connected_and_confirmed(&site.daemon);
    assert_eq!(orders(&site), 2, "none was given up");
    assert!(!warned(&site), "nothing waits any more");
    // Without a connection it is tried with the own client id at once.
    let_a_second_pass();
    site.broker.stop();
    let (code, text) = site.daemon.command(&["cert", "renew", "uplink"]);
    assert_eq!(code, 0, "{text}");
    wait_for("a probe in vain", || certificate(&site.daemon)["slot"] == "candidate");
    let third = certificate(&site.daemon)["serial"].clone();
    site.broker.resume();
    wait_for("the last certificate", || {
        nudge(&site);
        certificate(&site.daemon)["serial"] != third
    });
    until_connected_and_confirmed(&site.daemon);
}

#[test]
fn what_the_broker_refuses_is_counted_over_restarts_and_replaced_by_one_that_ends_sooner() {
    let plan = Plan { upstream: UPLINK, ..Plan::default() };
    let (mut site, _est) = site_with("refused-for-good", &plan, |_| {});
    until_connected_and_confirmed(&site.daemon);
    let first = certificate(&site.daemon);
    // Another CA issues now, for shorter, and the broker knows no other one.
    site.daemon.stop();
    site.broker.stop();
    let change = |file: &Path, from: &str, to: &str| {
        let text = std::fs::read_to_string(file).expect("a file");
        assert!(text.contains(from), "{text}");
        std::fs::write(file, text.replace(from, to)).expect("it is written");
    };
    change(&site.folder.join("mosquitto.conf"), "est/root.pem", "est/other.pem");
    std::fs::write(site.folder.join("est/issuer"), "other").expect("the issuer");
    std::fs::copy(site.folder.join("est/other.pem"), site.folder.join("est/offered.pem")).expect("a CA");
    change(site.daemon.config(), "/est/gateways", "/est/five-minutes");
    site.broker.resume();
    let state = site.folder.join("state/certificates/uplink/state");
    for times in 1..=2 {
        site.daemon.resume();
        wait_for("a refusal that is stored", || {
            std::fs::read_to_string(&state).is_ok_and(|text| text.contains(&format!("\"refusals\":{times}")))
        });
        assert_eq!(certificate(&site.daemon)["serial"], first["serial"]);
        site.daemon.kill();
    }
    site.daemon.resume();
    wait_for("a connection", || site.daemon.status()["upstream"]["connected"] == true);
    until_connected_and_confirmed(&site.daemon);
    let now = certificate(&site.daemon);
    assert!(
        now["serial"] != first["serial"] && now["not_after"].as_str() < first["not_after"].as_str(),
        "{now}"
    );
}

/// Devices' side: what the gateway shows as its certificate, PEM.
pub(super) fn served(site: &Site, ca: &Path) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-dtls1_2", "-connect", &site.daemon.coaps.to_string(), "-verify_return_error"])
        .arg("-CAfile")
        .arg(ca)
        .args(device_proof(site))
        .stdin(Stdio::null())
        .output()
        .expect("openssl is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let begin = text.find("-----BEGIN CERTIFICATE-----").unwrap_or(0);
    let end = text.find("-----END CERTIFICATE-----").unwrap_or(0);
    text[begin..end].to_owned()
}

fn device_proof(site: &Site) -> [String; 4] {
    let file = |name: &str| site.folder.join(name).display().to_string();
    ["-cert".to_owned(), file("front.pem"), "-key".to_owned(), file("front.key")]
}

/// A device that stays connected.
fn stay(site: &Site, ca: &Path) -> Child {
    let child = Command::new("openssl")
        .args(["s_client", "-dtls1_2", "-quiet", "-connect", &site.daemon.coaps.to_string()])
        .arg("-CAfile")
        .arg(ca)
        .args(device_proof(site))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl is installed");
    wait_for("the session", || site.daemon.status()["devices"]["sessions"] == 1);
    child
}

#[test]
fn the_certificate_for_devices_renews_for_new_handshakes_and_no_session_ends() {
    let table = "[certificate.devices]\nest-url = \"https://127.0.0.1:EST_PORT/.well-known/est/dtls-server\"\n\
                 est-ca-file = \"est/root.pem\"\nbootstrap-certificate-file = \"est/factory.pem\"\n\
                 bootstrap-key-file = \"est/factory.key\"\ndns = [\"gw.example\"]\n\
                 [device.front]\nrole = \"sensor\"\ncertificate-dns = \"front.example\"\n";
    let coap = "certificate = \"devices\"\nclient-ca-file = \"ca.pem\"";
    let plan = Plan { table: Some(table), coap, ..Plan::default() };
    let (mut site, _est) = site_with("for-devices", &plan, |_| {});
    site.pki.issue("front", &["front.example"]);
    let ca = site.folder.join("est/root.pem");
    let of = |site: &Site| certificate_named(&site.daemon, "devices");
    wait_for("the first certificate", || of(&site)["state"] == "valid");
    let first = of(&site);
    wait_for("a handshake with it", || served(&site, &ca).contains("BEGIN"));
    let shown = served(&site, &ca);
    wait_for("no session", || site.daemon.status()["devices"]["sessions"] == 0);
    let mut device = stay(&site, &ca);
    let_a_second_pass();
    let (code, text) = site.daemon.command(&["cert", "renew", "devices", "--wait"]);
    assert_eq!(code, 0, "{text}");
    // It is in use: new handshakes have it, and what is in use is what is in the files.
    let (_, text) = site.daemon.command(&["check"]);
    assert!(!text.contains("coap certificates"), "{text}");
    assert_ne!(of(&site)["serial"], first["serial"]);
    let now = served(&site, &ca);
    assert!(now.contains("BEGIN") && now != shown, "{now}");
    assert!(site.daemon.status()["devices"]["sessions"].as_u64().is_some_and(|sessions| sessions >= 1));
    let (_, text) = site.daemon.command(&["check"]);
    assert!(!text.contains("coap certificates"), "what is in use is what is in the files: {text}");
    let pem = |file: &str| {
        std::fs::read_to_string(site.folder.join(&format!("state/certificates/devices/{file}")))
            .expect("a file")
    };
    let key = |text: String| text[text.find("-----BEGIN PRIVATE KEY").expect("a key")..].to_owned();
    assert_eq!(key(pem("current.pem")), key(pem("previous.pem")), "devices may pin the key");
    let (code, text) = site.daemon.command(&["cert", "rollback", "devices"]);
    assert_eq!(code, 0, "{text}");
    wait_for("the first one again", || served(&site, &ca) == shown);
    // And after a restart.
    let _ = device.kill();
    let _ = device.wait();
    site.daemon.stop();
    site.daemon.resume();
    assert_eq!(served(&site, &ca), shown);
}

#[test]
fn a_token_is_made_as_soon_as_the_clock_is_trusted() {
    let folder = Folder::new("token-clock");
    folder.write("jwt.key", KeyPair::generate().expect("a key").serialize_pem());
    let pki = Pki::new(folder.path());
    let broker = Mosquitto::start(folder.path(), &pki, "");
    let _witness = Subscriber::start(&broker, folder.path(), "tombolo/#", "%t");
    let mut kernel = Kernel::new(&folder, 0);
    kernel.synchronise(false);
    let wrapper = kernel.wrap(&folder, binary());
    folder.write("door-7.psk", format!("text:{}", super::KEY));
    let jwt = "[upstream]\nusername = \"x\"\njwt = { audience = \"a\", key-file = \"jwt.key\" }\n";
    let daemon = Daemon::start_with(&wrapper, &folder, broker.tls_port, &pki.ca(), SITE, |text| {
        text.replace("trust = \"always\"", "trust = \"kernel\"").replace("[upstream]\n", jwt)
    });
    wait_for("the reason", || {
        daemon.status()["upstream"]["last_error"].as_str().is_some_and(|why| why.contains("no token"))
    });
    kernel.synchronise(true);
    wait_for("a connection", || daemon.status()["upstream"]["connected"] == true);
    wait_for("the log", || daemon.log().contains("so a token can be made"));
}

#[test]
fn check_judges_whether_the_certificate_will_be_renewed() {
    let plan = Plan { upstream: UPLINK, ..Plan::default() };
    let (site, est) = site_with("plan", &plan, |_| {});
    until_connected_and_confirmed(&site.daemon);
    let (code, text) = site.daemon.command(&["check"]);
    assert_eq!(code, 0, "{text}");
    let found = |text: &str, level: &str, words: &[&str]| {
        text.lines().any(|line| line.starts_with(level) && words.iter().all(|word| line.contains(word)))
    };
    let subject = "certificate uplink";
    assert!(found(&text, "ok", &[subject, "valid until", "the next one is asked for on"]), "{text}");
    assert!(found(&text, "ok", &[subject, "bootstrap", "9999-12-31"]), "{text}");
    assert!(found(&text, "ok", &[subject, "EST server", "answers"]), "{text}");
    let port = est.port;
    drop(est);
    wait_for("its end", || std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    std::fs::copy(site.folder.join("est/stranger.key"), site.folder.join("est/factory.key")).expect("a copy");
    let (code, text) = site.daemon.command(&["check"]);
    assert_eq!(code, 1, "{text}");
    assert!(found(&text, "fail", &[subject, "key does not belong"]), "{text}");
    assert!(found(&text, "warn", &[subject, "the EST server cannot be used"]), "{text}");
    let (_, text) = site.daemon.command(&["check", "--offline"]);
    assert!(!text.contains("the EST server"), "{text}");
}

#[test]
fn a_certificate_that_nears_its_end_is_named_once_in_the_log_and_always_in_status_and_check() {
    let table = "[certificate.uplink]\nsource = \"manual\"\nsubject = \"CN=gw\"\n";
    let plan = Plan { upstream: UPLINK, table: Some(table), ..Plan::default() };
    let (site, _est) = site_with("near-the-end", &plan, |folder| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let day = |days: i64| {
            let seconds = now.as_secs() as i64 + days * 86_400;
            date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds as u64)
        };
        keep(folder, |params| (params.not_before, params.not_after) = (day(-190), day(10)));
    });
    let daemon = &site.daemon;
    let words = ["certificate uplink expires on", "less than 14 days"];
    let named = |text: &str| words.iter().all(|word| text.contains(word));
    wait_for("the warning", || {
        let problems = daemon.status()["problems"].to_string();
        named(&problems)
    });
    assert!(daemon.command(&["status"]).1.contains("(9 d)"));
    let (_, text) = daemon.command(&["check"]);
    assert!(named(&text) && text.contains("cert csr uplink"), "{text}");
    wait_for("a line in the log", || daemon.log().contains("the certificate expires soon"));
    let begun = Instant::now();
    wait_for("some rounds", || begun.elapsed() > Duration::from_millis(2_500));
    assert_eq!(daemon.log().matches("the certificate expires soon").count(), 1);
}
