//! A certificate whose key is in a token, through the whole daemon: SoftHSM2, the EST server of the
//! tests and a mosquitto that asks for client certificates.

use std::process::Command;

use serde_json::Value;
#[cfg(feature = "pkcs11")]
use tombolo_test_support::token::{SoftToken, private_keys, refers_to_token};
use tombolo_test_support::{Daemon, Folder, Mosquitto, Pki, Subscriber, free_tcp_port, wait_for};

use super::rotation::{Est, est};
use super::{KEY, SITE, Site, binary};

struct World {
    site: Site,
    _est: Est,
}

/// `keys`: further keys of the certificate's table.
fn world(name: &str, keys: impl FnOnce(&Folder) -> String) -> World {
    let folder = Folder::new(name);
    folder.write("door-7.psk", format!("text:{KEY}"));
    let est = est(&folder);
    let pki = Pki::new(folder.path());
    let (certificate, key) = pki.issue("strict", &["localhost", "127.0.0.1"]);
    let port = free_tcp_port();
    let listener = format!(
        "listener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n",
        folder.join("est/root.pem").display(),
        certificate.display(),
        key.display()
    );
    let broker = Mosquitto::start(folder.path(), &pki, &listener);
    let witness = Subscriber::start(&broker, folder.path(), "tombolo/#", "%t\t%p\t%C\t%P\t%r");
    let table = format!(
        "[certificate.uplink]\nest-url = \"https://127.0.0.1:{}/.well-known/est/gateways\"\n\
         est-ca-file = \"est/root.pem\"\nbootstrap-certificate-file = \"est/factory.pem\"\n\
         bootstrap-key-file = \"est/factory.key\"\n{}\n",
        est.port,
        keys(&folder)
    );
    let extra = format!("{SITE}\n{table}");
    let daemon = Daemon::start_with(binary(), &folder, port, &pki.ca(), &extra, |text| {
        text.replace("[upstream]\n", "[upstream]\ncertificate = \"uplink\"\n")
    });
    World { site: Site { daemon, witness, broker, pki, folder }, _est: est }
}

fn certificate(daemon: &Daemon) -> Value {
    let (code, text) = daemon.command(&["cert", "status", "--json"]);
    assert_eq!(code, 0, "{text}");
    serde_json::from_str::<Value>(&text).expect("JSON")["uplink"].clone()
}

fn until_confirmed(daemon: &Daemon) {
    wait_for("a connection with a confirmed certificate", || {
        daemon.status()["upstream"]["connected"] == true && certificate(daemon)["state"] == "valid"
    });
}

#[cfg(feature = "pkcs11")]
#[test]
fn a_key_in_a_token_enrols_renews_survives_a_restart_and_a_module_that_hangs_stops_no_reading() {
    let mut soft = None;
    let mut world = world("token-daemon", |folder| {
        let token = SoftToken::new(folder, "gateway");
        let keys = format!(
            "key = \"pkcs11\"\npkcs11-module = \"{}\"\npkcs11-token = \"gateway\"\npin-file = \"{}\"\n",
            token.module().display(),
            token.pin_file().display()
        );
        soft = Some(token);
        keys
    });
    let soft = soft.expect("it was made");
    let daemon = &world.site.daemon;
    until_confirmed(daemon);
    let file = world.site.folder.join("state/certificates/uplink/current.pem");
    assert!(refers_to_token(&file));
    let text = std::fs::read_to_string(&file).expect("the certificate");
    assert!(!text.contains("PRIVATE KEY"), "{text}");
    assert_eq!(private_keys(&soft.objects()), 1);

    // A new key each time; those before the one before go.
    let first = certificate(daemon)["serial"].clone();
    for _ in 0..3 {
        let begun = std::time::Instant::now();
        wait_for("another second", || begun.elapsed() > std::time::Duration::from_millis(1100));
        let (code, text) = daemon.command(&["cert", "renew", "uplink", "--wait"]);
        assert_eq!(code, 0, "{text}");
        until_confirmed(daemon);
    }
    assert_ne!(certificate(daemon)["serial"], first);
    let keys = private_keys(&soft.objects());
    assert!((2..=3).contains(&keys), "{keys} keys");
    let (_, text) = daemon.command(&["check", "--offline"]);
    assert!(!text.contains("takes the PIN"), "{text}");
    let (_, text) = daemon.command(&["check"]);
    assert!(text.contains("\"gateway\"") && text.contains("takes the PIN"), "{text}");
    assert!(!text.contains("holds no private key"), "{text}");
    assert!(text.contains("the next one is asked for on"), "{text}");

    // The module hangs: the uplink is away, and says why; devices are served.
    soft.set("wedged", true);
    world.site.broker.stop();
    wait_for("the end of the connection", || daemon.status()["upstream"]["connected"] == false);
    world.site.broker.resume();
    wait_for("the reason", || {
        daemon.status()["upstream"]["last_error"]
            .as_str()
            .is_some_and(|said| said.contains("has not answered"))
    });
    for n in 0..5 {
        let said = world.site.post(&["-e", &format!("n{n}.")], "t/env");
        assert!(said.contains("2.04"), "{said}");
    }
    soft.set("wedged", false);
    let daemon = &world.site.daemon;
    wait_for("all readings", || {
        let arrived = world.site.arrived("tombolo/gw/door-7/up/t/env");
        (0..5).all(|n| arrived.iter().any(|fields| fields[1] == format!("n{n}.")))
    });

    // After a restart the same key serves.
    let serial = certificate(daemon)["serial"].clone();
    world.site.daemon.stop();
    world.site.daemon.resume();
    until_confirmed(&world.site.daemon);
    assert_eq!(certificate(&world.site.daemon)["serial"], serial);

    // A wrong PIN: tried once, whoever asks and however often the service is restarted.
    world.site.daemon.stop();
    soft.write_pin("000000");
    let logins = soft.logins();
    for _ in 0..2 {
        world.site.daemon.resume();
        wait_for("the refusal", || {
            world.site.daemon.status()["upstream"]["last_error"]
                .as_str()
                .is_some_and(|said| said.contains("not tried again"))
        });
        let (code, text) = world.site.daemon.command(&["check"]);
        assert_eq!(code, 1);
        assert!(text.contains("not tried again"), "{text}");
        world.site.daemon.stop();
    }
    assert_eq!(soft.logins(), logins + 1);
    // The right one is taken up at the next question, not after the pause of a module that failed.
    world.site.daemon.resume();
    wait_for("the refusal", || {
        let (code, text) = world.site.daemon.command(&["cert", "renew", "uplink", "--wait"]);
        code == 1 && text.contains("not tried again")
    });
    soft.write_pin(tombolo_test_support::token::PIN);
    let (code, text) = world.site.daemon.command(&["cert", "renew", "uplink", "--wait"]);
    assert_eq!(code, 0, "{text}");
    until_confirmed(&world.site.daemon);

    // Out of service: its keys go from the token, too.
    world.site.daemon.stop();
    assert!(private_keys(&soft.objects()) > 0);
    let (code, text) = world.site.daemon.command(&["decommission", "--yes"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(private_keys(&soft.objects()), 0);
}

#[test]
fn the_cas_of_the_est_server_become_trust_in_the_broker_only_where_that_is_configured() {
    let has_anchors =
        |world: &World| world.site.folder.join("state/certificates/uplink/anchors.pem").exists();
    // The broker gets a certificate of the EST server's root, which ca-file does not have.
    let rolled = |world: &mut World| {
        let est = world.site.folder.join("est");
        let (certificate, key) = (world.site.folder.join("strict.pem"), world.site.folder.join("strict.key"));
        let script = format!(
            "openssl req -new -key {key} -subj /CN=broker -out {est}/broker.csr && \
             printf 'subjectAltName=DNS:localhost\\nextendedKeyUsage=serverAuth\\n' > {est}/broker.ext && \
             openssl x509 -req -in {est}/broker.csr -CA {est}/root.pem -CAkey {est}/root.key -set_serial 4711 -days 30 \
             -extfile {est}/broker.ext -out {certificate}",
            key = key.display(),
            est = est.display(),
            certificate = certificate.display()
        );
        let output = Command::new("sh").args(["-c", &script]).output().expect("sh");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        world.site.broker.stop();
        world.site.broker.resume();
    };
    let mut without = world("est-no-trust", |_| String::new());
    until_confirmed(&without.site.daemon);
    rolled(&mut without);
    wait_for("the refusal", || {
        without.site.daemon.status()["upstream"]["last_error"]
            .as_str()
            .is_some_and(|said| said.contains("not trusted"))
    });
    assert!(!has_anchors(&without));
    drop(without);

    let mut with = world("est-trust", |_| "trust = \"est\"\n".to_owned());
    until_confirmed(&with.site.daemon);
    wait_for("the CAs", || has_anchors(&with));
    rolled(&mut with);
    wait_for("the new CA's connection", || with.site.daemon.status()["upstream"]["connected"] == true);
    let said = with.site.post(&["-e", "after"], "t/env");
    assert!(said.contains("2.04"), "{said}");
    wait_for("the reading", || !with.site.arrived("tombolo/gw/door-7/up/t/env").is_empty());
}
