//! The DTLS sessions as their owner sees them, devices whose address changes, and handshakes that
//! fail.

use nix::sys::signal::Signal;

use super::device::Device;
use super::{KEY, Site};
use tombolo_test_support::dtls::client::{Config, ECDHE_PSK_CCM8, ECDSA_CCM8, PSK_CCM8, PSK_GCM};
use tombolo_test_support::wait_for;

fn door() -> Config {
    Config::psk("door-7", KEY)
}

fn counter(site: &Site, name: &str) -> u64 {
    site.daemon.status()["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}"))
}

#[test]
fn status_and_device_show_tell_how_each_device_is_connected() {
    let site = Site::new("sessions", "[device.old]\nrole = \"sensor\"\npsk-file = \"door-7.psk\"\n");
    let new = Config { cid: Some(vec![1, 2]), suites: vec![PSK_GCM, PSK_CCM8], ..door() };
    let new = Device::connect(site.daemon.coaps, new).expect("a session");
    let old = Config { extended_master_secret: false, ..Config::psk("old", KEY) };
    let old = Device::connect(site.daemon.coaps, old).expect("a session");
    let dtls = site.daemon.status()["dtls"].clone();
    assert_eq!(dtls["engine"], "tombolo");
    assert_eq!(
        (&dtls["sessions"], &dtls["connection_id"], &dtls["extended_master_secret"]),
        (&2.into(), &1.into(), &1.into())
    );
    assert_eq!(dtls["suites"]["TLS_PSK_WITH_AES_128_GCM_SHA256"], 1, "{dtls}");
    assert_eq!(dtls["suites"]["TLS_PSK_WITH_AES_128_CCM_8"], 1, "{dtls}");

    let (code, text) = site.daemon.command(&["device", "show", "door-7", "--json"]);
    assert_eq!(code, 0, "{text}");
    let shown: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let session = &shown["sessions"][0];
    assert_eq!(session["suite"], "TLS_PSK_WITH_AES_128_GCM_SHA256");
    assert_eq!((&session["connection_id"], &session["extended_master_secret"]), (&true.into(), &true.into()));
    assert_eq!(session["peer"], new.address().to_string());
    let (_, text) = site.daemon.command(&["device", "show", "old"]);
    assert!(
        text.contains("no extended master secret") && text.contains(&old.address().to_string()),
        "{text}"
    );
    let (_, text) = site.daemon.command(&["status", "--sessions"]);
    assert!(text.contains("door-7") && text.contains("connection id") && text.contains("old"), "{text}");
}

#[test]
fn a_device_goes_on_from_another_address_and_gets_large_answers_there_once_it_has_shown_to_receive() {
    let rules: String = (0..24)
        .map(|n| format!("[role.sensor.uplink.rule-{n}]\npath = \"a/long/path/number-{n}\"\n"))
        .collect();
    let site = Site::new("moving", &format!("{rules}[log]\nlevel = \"debug\"\n"));
    let mut device =
        Device::connect(site.daemon.coaps, Config { cid: Some(vec![9]), ..door() }).expect("a session");
    assert!(device.post("t/x", b"here"));
    device.move_on();
    assert!(device.post("t/x", b"there"), "an acknowledgement is small enough for any address");
    wait_for("both readings", || site.arrived("tombolo/gw/door-7/up/t/x").len() == 2);
    let unsent = counter(&site, "tombolo_southbound_unsent_datagrams_total");
    let list = device.request(1, ".well-known/core", b"").expect("an answer");
    assert!(list.len() > 1_000 && list[1] == 0x45, "the whole first block: {}", list.len());
    assert!(counter(&site, "tombolo_southbound_unsent_datagrams_total") > unsent, "it was not sent at first");
    assert_eq!(device.repeated, 1, "sent after one ping and one Reset, when asked for again");
    device.request(1, ".well-known/core", b"").expect("an answer");
    assert_eq!(device.repeated, 1, "and at once from then on");
    assert_eq!(counter(&site, "tombolo_dtls_moved_sessions_total"), 1);
    assert_eq!(site.daemon.status()["dtls"]["sessions"], 1);
    let (_, text) = site.daemon.command(&["device", "show", "door-7"]);
    assert!(text.contains(&device.address().to_string()), "{text}");
    let log = site.daemon.log();
    let line = log.lines().find(|line| line.contains("session moved")).expect("a line about it");
    assert!(line.contains("door-7"), "{line}");
}

#[test]
fn every_failed_handshake_is_named_with_its_cause_and_counted() {
    let site = Site::new("causes", "");
    let gateway = site.daemon.coaps;
    let cases = [
        (Config { key: b"another".to_vec(), ..door() }, "wrong_key", "wrong key for"),
        (Config::psk("nobody", KEY), "unknown_identity", "unknown PSK identity"),
        (Config { suites: vec![0x002f], ..door() }, "no_shared_cipher_suite", "TLS_RSA_WITH_AES_128_CBC_SHA"),
        // Certificates, where the gateway has none.
        (
            Config { suites: vec![ECDSA_CCM8], ..door() },
            "no_shared_cipher_suite",
            "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8",
        ),
        (Config { version: 0xfeff, ..door() }, "unsupported_version", "only DTLS 1.0"),
        (Config { suites: vec![ECDHE_PSK_CCM8], bad_point: true, ..door() }, "protocol", "not on the curve"),
    ];
    for (config, kind, cause) in cases {
        let name = format!("tombolo_dtls_{kind}_handshakes_total");
        let before = counter(&site, &name);
        assert!(Device::connect(gateway, config).is_none(), "{cause}");
        wait_for(cause, || {
            site.daemon.log().lines().any(|line| line.contains("handshake failed") && line.contains(cause))
        });
        wait_for(&name, || counter(&site, &name) == before + 1);
    }
    // What a reload can take up, it does: from now on, and only for new sessions.
    let mut device =
        Device::connect(gateway, Config { extended_master_secret: false, ..door() }).expect("a session");
    let good = std::fs::read_to_string(site.daemon.config()).expect("the configuration");
    std::fs::write(site.daemon.config(), good.replace("[coap]\n", "[coap]\nrequire-ems = true\n"))
        .expect("changed");
    site.daemon.signal(Signal::SIGHUP);
    wait_for("the reload", || site.daemon.log().contains("reloaded"));
    assert!(device.post("t/x", b"1"), "its session goes on");
    assert!(Device::connect(gateway, Config { extended_master_secret: false, ..door() }).is_none());
    wait_for("the cause", || site.daemon.log().contains("client lacks extended master secret"));
    assert!(Device::connect(gateway, door()).is_some());
}

#[test]
fn a_key_that_needs_a_restart_refuses_the_reload_by_name() {
    let site = Site::new("engine", "");
    let good = std::fs::read_to_string(site.daemon.config()).expect("the configuration");
    std::fs::write(site.daemon.config(), good.replace("[coap]\n", "[coap]\nmax-half-open = 7\n"))
        .expect("changed");
    site.daemon.signal(Signal::SIGHUP);
    wait_for("the refusal", || site.daemon.log().contains("coap.max-half-open"));
    let mut device = Device::connect(site.daemon.coaps, door()).expect("a session");
    assert!(device.post("t/x", b"1"));
}
