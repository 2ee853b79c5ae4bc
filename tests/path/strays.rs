//! Source addresses whose datagrams cannot be served: the log names the cause once an hour,
//! `status` for 24 h.

use std::net::{Ipv4Addr, UdpSocket};

use super::device::Device;
use super::{KEY, Site};
use tombolo_test_support::dtls::client::{Client, Config, ECDSA_CCM8, record};
use tombolo_test_support::{free_udp_port, wait_for};

/// The lines of the log that say so.
fn said(site: &Site, words: &str) -> usize {
    site.daemon.log().lines().filter(|line| line.contains(words)).count()
}

#[test]
fn mistakes_of_devices_are_named_in_the_log_and_by_status() {
    let plain = free_udp_port();
    let change = |text: &str| {
        let keys =
            format!("[coap]\ninsecure-listen = [\"127.0.0.1:{plain}\"]\ninsecure-device = \"door-7\"\n");
        text.replace("[coap]\n", &keys)
    };
    let site = Site::build("strays", "", "", change);
    let coaps = site.daemon.coaps;
    let from = |last: u8| UdpSocket::bind((Ipv4Addr::new(127, 3, 0, last), 0)).expect("an address of 127/8");
    let hello = Client::new(Config::psk("door-7", KEY)).start(std::time::Instant::now()).remove(0);
    let get = b"\x42\x01\x00\x01ab\xbb.well-known\x04core";
    for _ in 0..5 {
        // DTLS to the port for plain CoAP.
        from(1).send_to(&hello, (Ipv4Addr::LOCALHOST, plain)).expect("sent");
        // Plain CoAP to the port for DTLS.
        from(2).send_to(get, coaps).expect("sent");
        // Records of a session that does not exist.
        from(3).send_to(&record(23, 1, 7, &[9; 40]), coaps).expect("sent");
    }
    // A handshake that needs a certificate, which is not configured.
    let certificates = Config { suites: vec![ECDSA_CCM8], ..Config::psk("door-7", KEY) };
    assert!(Device::connect_from(Ipv4Addr::new(127, 3, 0, 4), coaps, certificates).is_none());

    let strays = || site.daemon.status()["strays"].as_array().expect("a list").clone();
    let of = |last: u8| {
        let source = format!("127.3.0.{last}");
        strays().into_iter().find(|stray| stray["source"] == source)
    };
    for (last, mistake, count, words) in [
        (1, "dtls_on_plain_port", 5, "sends DTLS to a plain CoAP port"),
        (2, "plain_on_dtls_port", 5, "sends plain CoAP to a DTLS port"),
        (3, "unknown_session", 5, "sends records of a DTLS session that does not exist"),
        (4, "not_configured", 1, "no shared cipher suite: coap.certificate-file and coap.key-file"),
    ] {
        wait_for(mistake, || of(last).is_some_and(|stray| stray["count"] == count));
        let stray = of(last).expect("it is there");
        assert_eq!(stray["mistake"], mistake);
        wait_for(words, || said(&site, words) > 0);
        assert_eq!(said(&site, words), 1, "one line a source an hour: {}", site.daemon.log());
    }
    let (_, text) = site.daemon.command(&["status"]);
    assert!(
        text.contains("unserved") && text.contains("127.3.0.2 sends plain CoAP to a DTLS port"),
        "{text}"
    );
    // A device that is served is not among them.
    let mut device = Device::connect(coaps, Config::psk("door-7", KEY)).expect("a session");
    assert!(device.post("t/x", b"1"));
    assert_eq!(strays().len(), 4);
}

#[test]
fn a_device_has_as_many_sessions_as_its_role_allows_and_the_oldest_is_ended_for_another() {
    let more = "[role.twins]\nmax-sessions = 2\n[role.twins.uplink.t]\npath = \"t/#\"\n\
                [device.twin]\nrole = \"twins\"\npsk-file = \"door-7.psk\"\n";
    let site = Site::new("share", more);
    let connect = || Device::connect(site.daemon.coaps, Config::psk("twin", KEY)).expect("a session");
    let mut other = Device::connect(site.daemon.coaps, Config::psk("door-7", KEY)).expect("a session");
    let mut twins: Vec<Device> = (0..3).map(|_| connect()).collect();
    assert_eq!(site.daemon.status()["dtls"]["sessions"], 3);
    assert!(twins[2].post("t/x", b"1") && twins[1].post("t/x", b"2") && other.post("t/x", b"3"));
    assert_eq!(site.daemon.status()["counters"]["tombolo_dtls_displaced_sessions_total"], 1);
    assert_eq!(site.daemon.status()["counters"]["tombolo_dtls_evicted_sessions_total"], 0);
    // A reload with a lower bound closes no session; it applies from the next handshake on.
    let good = std::fs::read_to_string(site.daemon.config()).expect("the configuration");
    let changed = good.replace("max-sessions = 2", "max-sessions = 1");
    std::fs::write(site.daemon.config(), changed).expect("changed");
    site.daemon.signal(nix::sys::signal::Signal::SIGHUP);
    wait_for("the reload", || site.daemon.log().contains("reloaded"));
    assert!(twins[1].post("t/x", b"4") && twins[2].post("t/x", b"5"));
    let mut last = connect();
    assert!(last.post("t/x", b"6"));
    assert_eq!(site.daemon.status()["dtls"]["sessions"], 2);
}
