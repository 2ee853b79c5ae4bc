//! Whether `tombolo check` tells that readings pass, by brokers that allow one thing and not the
//! other.

use std::io::Read as _;
use std::net::TcpListener;
use std::process::Command;

use super::{Site, binary};
use tombolo_test_support::{Folder, wait_for};

fn check(site: &Site) -> (i32, String) {
    site.daemon.command(&["check"])
}

/// A finding of that level that has all these words.
fn found(text: &str, level: &str, words: &[&str]) -> bool {
    text.lines().any(|line| line.starts_with(level) && words.iter().all(|word| line.contains(word)))
}

fn about_readings(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.contains("upstream readings: ")).collect()
}

fn connected(site: &Site) -> bool {
    site.daemon.status()["upstream"]["connected"] == true
}

/// A gateway at a broker with this access list; the witness may do what it must.
fn with_acl(name: &str, acl: &str, extra: &str) -> (Site, Folder) {
    let folder = Folder::new(&format!("{name}-acl"));
    let file = folder.write("acl", format!("topic write tombolo/witness/#\ntopic read #\n{acl}"));
    // mosquitto 2.0.11 with max_queued_messages 0, which the others have, closes the connection
    // after a publish that it has denied.
    let site =
        Site::with_broker(name, extra, &format!("acl_file {}\nmax_queued_messages 100000", file.display()));
    wait_for("the broker", || connected(&site));
    (site, folder)
}

const GATEWAY_ALONE: &str = "topic write tombolo/gw/gateway/#\n";

#[test]
fn a_broker_that_takes_the_gateways_own_topics_alone_refuses_readings() {
    let (mut site, _acl) = with_acl("own-alone", GATEWAY_ALONE, "");
    let words =
        ["upstream readings: the broker refuses readings", "up/t/tombolo-check", "not authorized (0x87)"];
    let (status, text) = check(&site);
    assert_eq!(status, 1, "{text}");
    assert!(found(&text, "ok", &["upstream: connected", "a publish was acknowledged"]), "{text}");
    assert!(found(&text, "fail", &words), "{text}");
    let advice = ["allow tombolo/gw/door-7/up/", "tombolo --config", "device test ID"];
    assert!(found(&text, "fail", &advice), "{text}");
    assert!(connected(&site), "the check's own connection is another one");
    site.daemon.stop();
    let (status, text) = check(&site);
    assert_eq!(status, 1, "{text}");
    assert!(found(&text, "ok", &["upstream publish: acknowledged and back"]), "{text}");
    assert!(found(&text, "fail", &words), "{text}");
}

#[test]
fn a_broker_that_takes_the_paths_in_use_alone_is_proven_by_their_readings() {
    let acl = "topic write tombolo/gw/gateway/status\ntopic write tombolo/gw/door-7/up/t/temp\n\
               topic write tombolo/gw/door-7/up/alarm/fire\n";
    let (site, _acl) = with_acl("paths-alone", acl, "");
    // Nothing was delivered: that nothing is known is said, and how it can be proven.
    let (_, text) = check(&site);
    assert!(about_readings(&text).iter().any(|line| line.contains("device test ID")), "{text}");
    assert!(about_readings(&text).iter().all(|line| !line.starts_with("ok")), "{text}");
    // One of two rules is proven, the other is not, and nothing fails.
    assert!(site.post(&["-e", "1"], "t/temp").contains("2.04"));
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/t/temp").is_empty());
    wait_for("its acknowledgement", || site.daemon.status()["upstream"]["last_taken_s"].is_u64());
    let (status, text) = check(&site);
    assert_eq!(status, 0, "{text}");
    assert!(found(&text, "ok", &["has delivered readings of rule telemetry of role sensor"]), "{text}");
    assert!(found(&text, "warn", &["upstream readings: not proven", "rule alarm of role sensor"]), "{text}");
    // Both are: the broker is not even tried.
    assert!(site.post(&["-e", "1"], "alarm/fire").contains("2.04"));
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/alarm/fire").is_empty());
    wait_for("no record", || site.daemon.status()["journal"]["records"] == 0);
    let (status, text) = check(&site);
    assert_eq!(status, 0, "{text}");
    assert!(found(&text, "ok", &["rule alarm of role sensor, rule telemetry of role sensor"]), "{text}");
    assert!(!text.contains("tombolo-check") && !text.contains("upstream tcp"), "{text}");
    // No consumer has seen a reading that is none.
    assert!(!site.witness.text().contains("tombolo-check"), "{}", site.witness.text());
}

#[test]
fn what_is_tried_has_no_payload_and_leaves_nothing_behind() {
    let extra = "[role.sensor.uplink.state]\npath = \"state\"\nretain = true\n\
                 [role.sensor.uplink.mode]\npath = \"mode/+\"\nretain = true\n";
    let (site, _acl) = with_acl("harmless", "topic write tombolo/gw/#\n", extra);
    let (status, text) = check(&site);
    assert_eq!(status, 0, "{text}");
    let said = about_readings(&text);
    assert!(said.len() == 1 && said[0].starts_with("ok"), "{text}");
    assert!(said[0].contains("tombolo/gw/door-7/up/"), "{text}");
    wait_for("what was tried", || {
        let tried = |topic: &str| !site.arrived(&format!("tombolo/gw/door-7/up/{topic}")).is_empty();
        ["alarm/tombolo-check", "mode/tombolo-check", "t/tombolo-check", "tombolo-check"]
            .into_iter()
            .all(tried)
    });
    for topic in ["alarm/tombolo-check", "mode/tombolo-check", "t/tombolo-check", "tombolo-check"] {
        let seen = site.arrived(&format!("tombolo/gw/door-7/up/{topic}"));
        assert_eq!(seen[0][1], "", "{seen:?}");
        assert!(seen[0][3].contains("check:true"), "{seen:?}");
    }
    assert!(site.arrived("tombolo/gw/door-7/up/state").is_empty(), "a topic in use is not touched");
    // What is retained there comes to a new subscriber.
    let port = site.broker.plain_port.to_string();
    let output = Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &port, "-t", "tombolo/gw/#", "-W", "2", "-F", "%t"])
        .output()
        .expect("mosquitto_sub is installed");
    let retained = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(retained.contains("gateway/status") && !retained.contains("tombolo-check"), "{retained}");
}

#[test]
fn over_mqtt_3_1_1_what_does_not_come_back_is_not_proven() {
    for (name, acl, proven) in
        [("old-own-alone", GATEWAY_ALONE, false), ("old-all", "topic write tombolo/gw/#\n", true)]
    {
        let extra = "[upstream]\nprotocol = \"3.1.1\"\n";
        let (mut site, _acl) = with_acl(name, acl, "");
        site.folder.write("conf.d/50.toml", extra);
        assert_eq!(site.daemon.command(&["reload"]).0, 0);
        wait_for("3.1.1", || site.daemon.status()["upstream"]["protocol"] == "3.1.1" && connected(&site));
        // An acknowledgement is no proof there.
        assert!(site.post(&["-e", "1"], "t/temp").contains("2.04"));
        wait_for("no record", || site.daemon.status()["journal"]["records"] == 0);
        for running in [true, false] {
            if !running {
                site.daemon.stop();
            }
            let (_, text) = check(&site);
            let said = about_readings(&text);
            assert_eq!(said.iter().any(|line| line.starts_with("ok")), proven, "{running} {text}");
            let unproven = found(&text, "warn", &["not proven that readings are taken", "3.1.1"]);
            assert_eq!(unproven, !proven, "{running} {text}");
        }
    }
}

#[test]
fn the_hint_at_tls_is_there_beside_a_running_gateway_too() {
    let site = Site::new("tls-hint", "");
    wait_for("the broker", || connected(&site));
    let (tls, plain) = (site.broker.tls_port, site.broker.plain_port);
    let with = |url: &str| {
        let text = format!("[upstream]\nurl = \"{url}\"\ninsecure = true\nca-file = \"\"\n");
        site.folder.write("conf.d/50.toml", text);
        check(&site).1
    };
    let text = with(&format!("mqtt://localhost:{tls}"));
    assert!(text.lines().any(|line| line.contains("upstream mqtt") && line.contains("mqtts://")), "{text}");
    site.folder.write("conf.d/50.toml", format!("[upstream]\nurl = \"mqtts://localhost:{plain}\"\n"));
    let text = check(&site).1;
    assert!(found(&text, "fail", &["upstream tls", "perhaps this port has no TLS"]), "{text}");
    assert!(connected(&site));
}

#[test]
fn a_broker_that_binds_topics_to_the_client_id_is_not_proven_beside_the_gateway_and_is_in_its_place() {
    // %c is the client id; the gateway's is gw, the check's beside it gw-check.
    let (mut site, _acl) = with_acl("bound-topics", "pattern write tombolo/%c/#\n", "");
    let (status, text) = check(&site);
    assert_eq!(status, 0, "{text}");
    assert!(
        found(&text, "warn", &["not proven that readings are taken", "the client id gw-check"]),
        "{text}"
    );
    assert!(found(&text, "warn", &["device test ID", "stop it, then"]), "{text}");
    // What it names proves it.
    let (status, said) = site.daemon.command(&["device", "test", "door-7", "--path", "t/x"]);
    assert_eq!(status, 0, "{said}");
    let (_, text) = check(&site);
    assert!(found(&text, "ok", &["has delivered readings of rule telemetry of role sensor"]), "{text}");
    site.daemon.stop();
    let (status, text) = check(&site);
    assert_eq!(status, 0, "{text}");
    assert!(found(&text, "ok", &["upstream readings: taken on tombolo/gw/door-7/up/"]), "{text}");
}

#[test]
fn a_byte_order_mark_and_an_expired_ca_beside_the_good_one_keep_nobody_from_the_broker() {
    let mut site = Site::new("bundle", "");
    wait_for("the broker", || connected(&site));
    let old = Folder::new("old-ca");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Old CA");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_before = rcgen::date_time_ymd(2015, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let expired = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
    let good = std::fs::read_to_string(site.pki.ca()).unwrap();
    let file = old.write("ca.pem", format!("\u{feff}{expired}{good}"));
    site.folder.write("conf.d/50.toml", format!("[upstream]\nca-file = \"{}\"\n", file.display()));
    let (status, text) = check(&site);
    assert_eq!(status, 0, "{text}");
    assert!(found(&text, "warn", &["Old CA", "expired on 2020-01-01", "the others are in use"]), "{text}");
    assert!(found(&text, "ok", &["ca.pem has 2 CA certificates"]), "{text}");
    assert!(found(&text, "ok", &["upstream tls: TLS 1.3"]), "{text}");
    site.daemon.stop();
    site.daemon.resume();
    wait_for("a connection by it", || connected(&site));
}

/// Accepts connections and says nothing.
fn mute() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut sink = [0; 4096];
                while stream.read(&mut sink).is_ok_and(|length| length > 0) {}
            });
        }
    });
    port
}

#[test]
fn a_broker_that_accepts_connections_and_says_nothing_is_called_that() {
    let folder = Folder::new("mute");
    let port = mute();
    for (url, words) in [
        (format!("mqtt://127.0.0.1:{port}"), "accepts the connection but does not answer MQTT"),
        (format!("mqtts://127.0.0.1:{port}"), "accepts the connection but does not answer the TLS handshake"),
    ] {
        std::fs::create_dir_all(folder.join("state")).expect("a folder");
        let text = format!(
            "[paths]\nstate-dir = \"state\"\nruntime-dir = \"run\"\n[clock]\ntrust = \"always\"\n\
             [coap]\nlisten = [\"127.0.0.1:0\"]\n[upstream]\nurl = \"{url}\"\ninsecure = true\n"
        );
        let config = folder.write("tombolo.toml", text);
        let output =
            Command::new(binary()).arg("--config").arg(&config).arg("check").output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(found(&text, "fail", &[words]), "{text}");
    }
}

#[test]
fn a_running_gateway_at_a_mute_broker_says_so_from_the_first_moment_on() {
    let port = mute();
    let site = Site::build("mute-running", "", "", |text| {
        let at = text.find("url = ").expect("a url");
        let end = at + text[at..].find('\n').expect("a line");
        format!("{}url = \"mqtt://127.0.0.1:{port}\"\ninsecure = true{}", &text[..at], &text[end..])
    });
    wait_for("its words", || {
        let text = site.daemon.command(&["status"]).1;
        text.contains("the broker has not answered CONNECT yet") || text.contains("does not answer MQTT")
    });
}

/// The gateway without any device.
fn without_device(name: &str, acl: &str) -> (Site, Folder) {
    let folder = Folder::new(&format!("{name}-acl"));
    let file = folder.write("acl", format!("topic readwrite tombolo/witness/#\n{acl}"));
    let broker = format!("acl_file {}\nmax_queued_messages 100000", file.display());
    let site = Site::build(name, "", &broker, |text| {
        text.replace("[device.door-7]\nrole = \"sensor\"\npsk-file = \"door-7.psk\"\n", "")
    });
    wait_for("the broker", || connected(&site));
    (site, folder)
}

#[test]
fn before_the_first_device_a_topic_of_each_rule_is_tried_all_the_same() {
    let (mut site, _acl) = without_device("no-device-deny", "topic read nothing/#\n");
    site.daemon.stop();
    let (status, text) = check(&site);
    assert_eq!(status, 1, "{text}");
    let words = ["upstream publish: the broker refuses what this gateway publishes", "up/t/tombolo-check"];
    assert!(found(&text, "fail", &words), "{text}");

    // All readings are denied, the gateway's own topics are not.
    let (mut site, _acl) = without_device("no-device-own", GATEWAY_ALONE);
    for running in [true, false] {
        if !running {
            site.daemon.stop();
        }
        let (status, text) = check(&site);
        assert_eq!(status, 1, "{text}");
        let words = [
            "upstream readings: the broker refuses readings",
            "which no device has yet",
            "allow tombolo/gw/+/up/#",
        ];
        assert!(found(&text, "fail", &words), "{running} {text}");
    }

    let (mut site, _acl) = without_device("no-device-all", "topic write tombolo/gw/#\n");
    site.daemon.stop();
    let (status, text) = check(&site);
    assert_eq!(status, 0, "{text}");
    let words = ["upstream readings: taken on tombolo/gw/tombolo-check/up/"];
    assert!(found(&text, "ok", &words), "{text}");
    // Of a fleet's role it is so, too.
    let fleet = "[fleet.doors]\nrole = \"sensor\"\ncertificate-dns = \"door-{id}.example\"\n";
    site.folder.write("conf.d/50.toml", fleet);
    let (_, text) = check(&site);
    assert!(found(&text, "ok", &words), "{text}");
}

#[test]
fn without_a_rule_nothing_proves_that_readings_are_taken() {
    let mut site = Site::new("no-rule", "");
    wait_for("the broker", || connected(&site));
    site.daemon.stop();
    site.folder.write("conf.d/50.toml", "[role.sensor]\nenabled = false\n[device.door-7]\nenabled = false\n");
    let (_, text) = check(&site);
    assert!(found(&text, "warn", &["upstream readings: not proven", "has an uplink rule"]), "{text}");
}

#[test]
fn a_broker_that_refuses_the_gateways_own_status_alone_is_no_failure_beside_it_either() {
    let (mut site, _acl) = with_acl("not-its-own", "topic write tombolo/+/+/up/#\n", "");
    for delivered in [false, true] {
        if delivered {
            assert!(site.post(&["-e", "1"], "t/temp").contains("2.04"));
            wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/t/temp").is_empty());
        }
        let (status, text) = check(&site);
        assert_eq!(status, 0, "{delivered} {text}");
        assert!(!text.contains("nothing shows that it takes readings"), "{text}");
        let words =
            ["it takes readings, but the gateway's own status was not acknowledged", "allow tombolo/gw/#"];
        assert!(found(&text, "warn", &words), "{delivered} {text}");
        assert!(found(&text, "ok", &["upstream readings: "]), "{delivered} {text}");
    }
    site.daemon.stop();
    assert_eq!(check(&site).0, 0);
}

#[test]
fn a_new_url_of_a_broker_that_binds_topics_to_the_client_id_is_not_proven_beside_the_gateway() {
    let (site, _acl) = with_acl("bound-new-url", "pattern write tombolo/%c/#\n", "");
    let text = format!("[upstream]\nurl = \"mqtts://127.0.0.1:{}\"\n", site.broker.tls_port);
    site.folder.write("conf.d/50.toml", text);
    let (status, text) = check(&site);
    assert_eq!(status, 0, "{text}");
    let words = ["upstream publish: not proven", "the client id gw-check", "stop it, then"];
    assert!(found(&text, "warn", &words), "{text}");
    assert_eq!(site.daemon.command(&["reload"]).0, 0);
    wait_for("the broker", || connected(&site));
}

#[test]
fn over_mqtt_3_1_1_an_account_that_may_not_read_is_not_proven_and_no_failure() {
    let cases = [
        (
            "old-one-device",
            "topic write tombolo/witness/#\ntopic write tombolo/+/door-7/up/#\ntopic read #\n",
            true,
        ),
        ("old-write-only", "topic write #\ntopic read tombolo/witness/#\n", false),
    ];
    for (name, acl, proven) in cases {
        let folder = Folder::new(&format!("{name}-acl"));
        let file = folder.write("acl", acl);
        let broker = format!("acl_file {}\nmax_queued_messages 100000", file.display());
        let mut site = Site::with_broker(name, "", &broker);
        wait_for("the broker", || connected(&site));
        site.daemon.stop();
        site.folder.write("conf.d/50.toml", "[upstream]\nprotocol = \"3.1.1\"\n");
        let (status, text) = check(&site);
        assert_eq!(status, 0, "{name} {text}");
        let words = ["upstream publish: a publish on", "acknowledged and did not come back"];
        assert!(found(&text, "warn", &words), "{name} {text}");
        let said = about_readings(&text);
        assert_eq!(said.iter().any(|line| line.starts_with("ok")), proven, "{name} {text}");
        let unproven = found(&text, "warn", &["not proven that readings are taken"]);
        assert_eq!(unproven, !proven, "{name} {text}");
    }
}
