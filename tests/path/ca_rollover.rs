//! The CAs on both sides of the uplink roll over, one after the other, at a real mosquitto: no step
//! of it refuses the gateway, and no reading is lost.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tombolo_test_support::{Folder, wait_for};

use super::Site;
use super::rotation::{Plan, certificate, let_a_second_pass, site_with, until_connected_and_confirmed};

/// The broker starts again with these CAs for its clients.
fn accept_clients_of(site: &mut Site, cas: &[&str]) {
    let read = |name: &&str| std::fs::read(site.folder.join(&format!("est/{name}.pem"))).expect("a CA");
    let cas: Vec<u8> = cas.iter().flat_map(read).collect();
    std::fs::write(site.folder.join("clients.pem"), cas).expect("it is written");
    site.broker.stop();
    let config = site.folder.join("mosquitto.conf");
    let text = std::fs::read_to_string(&config).expect("its configuration");
    std::fs::write(&config, text.replace("est/root.pem", "clients.pem")).expect("it is written");
    site.broker.resume();
}

/// The broker starts again with a certificate of this CA.
fn issue_to_broker(site: &mut Site, ca: &Path, ca_key: &Path) {
    let request = site.folder.join("strict.csr");
    let extensions =
        site.folder.write("strict.ext", "subjectAltName = DNS:localhost\nextendedKeyUsage = serverAuth\n");
    let run = |command: &mut Command| {
        let done = command.output().expect("openssl is installed");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    run(Command::new("openssl")
        .args(["req", "-new", "-subj", "/CN=broker", "-key"])
        .arg(site.folder.join("strict.key"))
        .arg("-out")
        .arg(&request));
    run(Command::new("openssl")
        .args(["x509", "-req", "-days", "30", "-set_serial", "4711", "-in"])
        .arg(&request)
        .arg("-CA")
        .arg(ca)
        .arg("-CAkey")
        .arg(ca_key)
        .arg("-extfile")
        .arg(&extensions)
        .arg("-out")
        .arg(site.folder.join("strict.pem")));
    site.broker.stop();
    site.broker.resume();
}

/// A self-signed CA of this name in the folder.
fn make_ca(folder: &Folder, name: &str) -> [std::path::PathBuf; 2] {
    let files = [folder.join(&format!("{name}.pem")), folder.join(&format!("{name}.key"))];
    let done = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "30",
        ])
        .args(["-addext", "keyUsage=critical,keyCertSign,cRLSign", "-subj"])
        .arg(format!("/CN={name}"))
        .arg("-keyout")
        .arg(&files[1])
        .arg("-out")
        .arg(&files[0])
        .output()
        .expect("openssl is installed");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    files
}

/// What was written between two lines of a PEM file, to be found in another one.
fn body(pem: &Path) -> String {
    let text = std::fs::read_to_string(pem).expect("a certificate");
    text.lines().find(|line| !line.starts_with("-----")).expect("a line").to_owned()
}

#[test]
fn the_cas_of_clients_and_of_the_broker_roll_over_without_a_refusal_and_nothing_is_lost() {
    let table = "[certificate.uplink]\nest-url = \"https://127.0.0.1:EST_PORT/.well-known/est/gateways\"\n\
                 est-ca-file = \"est/root.pem\"\nbootstrap-certificate-file = \"est/factory.pem\"\n\
                 bootstrap-key-file = \"est/factory.key\"\ntrust = \"est\"\n";
    let plan = Plan { upstream: "certificate = \"uplink\"", table: Some(table), ..Plan::default() };
    let (mut site, _est) = site_with("ca-rollover", &plan, |_| {});
    until_connected_and_confirmed(&site.daemon);
    let anchors = site.folder.join("state/certificates/uplink/anchors.pem");
    wait_for("the CAs", || anchors.exists());
    let done = AtomicBool::new(false);
    // The load knows nothing of the broker.
    let coaps = site.daemon.coaps.to_string();
    let sent = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut sent = 0;
            while !done.load(Ordering::Relaxed) {
                let output = Command::new("coap-client-openssl")
                    .args(["-m", "post", "-u", "door-7", "-k", super::KEY, "-B", "5", "-v", "6"])
                    .args(["-e", &format!("n{sent}.")])
                    .arg(format!("coaps://{coaps}/t/env"))
                    .output()
                    .expect("libcoap3-bin is installed");
                let said = tombolo_test_support::printed(&output);
                assert!(said.contains("2.04"), "{said}");
                sent += 1;
                // A device may make 120 handshakes a minute.
                let begun = Instant::now();
                wait_for("the next reading", || begun.elapsed() > Duration::from_millis(550));
            }
            sent
        });
        roll_over(&mut site, &anchors);
        done.store(true, Ordering::Relaxed);
        load.join().expect("it ends")
    });
    assert!(sent > 0);
    wait_for("all readings", || {
        let arrived = site.arrived("tombolo/gw/door-7/up/t/env");
        (0..sent).all(|n| arrived.iter().any(|fields| fields[1] == format!("n{n}.")))
    });
    let log = site.daemon.log();
    // That the broker, restarted, closes a connection over a record is another matter.
    let refused = ["not trusted", "refuses the connection", "refuses our client certificate"];
    assert!(refused.iter().all(|words| !log.contains(words)), "{log}");
}

fn roll_over(site: &mut Site, anchors: &Path) {
    // Clients: the broker accepts both, the new CA issues, the broker accepts that alone.
    accept_clients_of(site, &["root", "other"]);
    until_connected_and_confirmed(&site.daemon);
    site.folder.write("est/issuer", "other");
    std::fs::copy(site.folder.join("est/other.pem"), site.folder.join("est/offered.pem")).expect("a copy");
    let_a_second_pass();
    let (code, text) = site.daemon.command(&["cert", "renew", "uplink", "--wait"]);
    assert_eq!(code, 0, "{text}");
    let issuer = certificate(&site.daemon)["issuer"].clone();
    assert!(issuer.as_str().is_some_and(|issuer| issuer.contains("Somebody Else")), "{issuer}");
    accept_clients_of(site, &["other"]);
    until_connected_and_confirmed(&site.daemon);

    // The broker, by the EST server: it was asked again after the renewal.
    let other = body(&site.folder.join("est/other.pem"));
    wait_for("the new CA", || std::fs::read_to_string(anchors).is_ok_and(|text| text.contains(&other)));
    let files = ["est/other.pem", "est/other.key"].map(|name| site.folder.join(name));
    issue_to_broker(site, &files[0], &files[1]);
    until_connected_and_confirmed(&site.daemon);

    // The broker, by hand: the new CA into ca-file beside the old one, without a reload.
    let [new, new_key] = make_ca(&site.folder, "next-ca");
    let ca_file = site.pki.ca();
    let both = [&ca_file, &new].map(|file| std::fs::read(file).expect("a CA")).concat();
    std::fs::write(&ca_file, both).expect("it is written");
    issue_to_broker(site, &new, &new_key);
    until_connected_and_confirmed(&site.daemon);
    std::fs::copy(&new, &ca_file).expect("the old one is taken out");
    site.broker.stop();
    site.broker.resume();
    until_connected_and_confirmed(&site.daemon);
}
