//! Handshakes that fail: the alert each client gets, and the words its owner gets.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber, date_time_ymd};
use tombolo::clock::UnixTime;
use tombolo::proto::dtls::server::{Certificates, Clock, Settings, Trust};
use tombolo::proto::dtls::{CloseCause, Engine, FailureKind, Keyring};

use super::*;
use tombolo_test_support::dtls::client::*;

/// Joins and fails. Returns the alerts the client got and what was said.
fn refused(world: &mut World, config: Config) -> (Vec<(u8, u8)>, String) {
    world.join(1, config);
    world.run(Duration::from_secs(10));
    let told = world.told();
    let [Told::Failed(1, failure)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(world.engine.session_count() + world.engine.half_open_count(), 0);
    assert_eq!(world.engine.counters().failed(failure.kind()), 1);
    (std::mem::take(&mut world.client(1).alerts), failure.to_string())
}

#[test]
fn a_wrong_key_and_an_unknown_identity_look_the_same_to_the_client() {
    for suite in [PSK_CCM8, PSK_GCM, PSK_CHACHA, ECDHE_PSK_CCM8] {
        let mut looks = Vec::new();
        for (identity, key, said) in [
            ("dev-1", "another", "wrong key for \"dev-1\""),
            ("nobody", "key-1", "unknown PSK identity \"nobody\""),
            ("", "key-1", "unknown PSK identity \"\""),
        ] {
            let mut world = World::fine();
            world.join(1, Config::psk(identity, key).with_suite(suite));
            let mut look = Vec::new();
            // When each datagram comes back, and how long it is.
            for step in 0..2_000 {
                world.run(Duration::from_millis(5));
                let client = world.client(1);
                if let Some(alert) = client.alerts.pop() {
                    look.push((step, alert));
                    client.deadline = None;
                }
            }
            let told = world.told();
            let [Told::Failed(1, failure)] = &told[..] else { panic!("{told:?}") };
            assert_eq!(failure.to_string(), said);
            assert_eq!(look.len(), 1);
            assert_eq!(look[0].1, (2, 51), "decrypt_error (RFC 4279 §2)");
            looks.push(look);
        }
        assert!(looks.iter().all(|look| *look == looks[0]));
    }
}

#[test]
fn each_fault_of_a_hello_has_its_alert() {
    let psk = World::psk(1);
    let cases: Vec<(&str, Config, u8)> = vec![
        ("DTLS 1.0", Config { version: 0xfeff, ..psk.clone() }, 70),
        ("TLS", Config { version: 0x0303, ..psk.clone() }, 70),
        ("no suite of ours", psk.clone().with_suite(0x002f), 40),
        ("a suite for which there is no key", psk.clone().with_suite(ECDSA_CCM8), 40),
        ("no null compression", Config { compressions: vec![1], ..psk.clone() }, 47),
        ("an extension twice", Config { more: vec![(23, vec![])], ..psk.clone() }, 50),
        ("renegotiation", Config { more: vec![(0xff01, vec![1, 9])], ..psk.clone() }, 40),
        ("a max_fragment_length that is not", Config { max_fragment_length: Some(5), ..psk.clone() }, 47),
        (
            "an extended master secret with content",
            Config { more: vec![(23, vec![0])], extended_master_secret: false, ..psk.clone() },
            50,
        ),
        ("half a signature algorithm", Config { more: vec![(13, vec![0, 1, 4])], ..psk.clone() }, 50),
        ("an unreadable renegotiation", Config { more: vec![(0xff01, vec![])], ..psk.clone() }, 50),
        ("an unreadable connection id", Config { more: vec![(54, vec![9])], ..psk.clone() }, 50),
        ("no uncompressed points", Config { more: vec![(11, vec![1, 1])], ..psk.clone() }, 47),
        ("no common curve", Config { groups: vec![29], ..psk.clone() }.with_suite(ECDHE_PSK_CCM8), 40),
        (
            "a point not on the curve",
            Config { bad_point: true, ..psk.clone() }.with_suite(ECDHE_PSK_CCM8),
            47,
        ),
    ];
    for (name, config, alert) in cases {
        let mut world = World::fine();
        let (alerts, said) = refused(&mut world, config);
        assert_eq!(alerts, [(2, alert)], "{name}: {said}");
    }
}

#[test]
fn the_extended_master_secret_may_be_required() {
    let settings = Settings { require_extended_master_secret: true, ..Settings::default() };
    let mut world = World::new(settings, Certificates::default(), FINE, 1);
    let (alerts, said) = refused(&mut world, Config { extended_master_secret: false, ..World::psk(1) });
    assert_eq!(alerts, [(2, 40)]);
    assert_eq!(said, "client lacks extended master secret");
    world.clients.clear();
    let session = world.connected(2, World::psk(2));
    world.assert_alive(2, session);
}

#[test]
fn only_allowed_suites_are_taken_and_the_clients_order_counts() {
    let settings = Settings { suites: Some([PSK_GCM, PSK_CCM8].into()), ..Settings::default() };
    let mut world = World::new(settings, Certificates::default(), FINE, 1);
    let suites = vec![PSK_CHACHA, PSK_CCM8, PSK_GCM];
    world.connected(1, Config { suites, ..World::psk(1) });
    assert_eq!(world.client(1).learned.suite, PSK_CCM8);
}

#[test]
fn the_answer_to_a_hello_has_what_was_asked_for_and_no_more() {
    let pki = Pki::new();
    let mut world = World::certified(&pki);
    // encrypt_then_mac, session_ticket, status_request, heartbeat, ALPN: nothing of ours.
    let more = vec![(22, vec![]), (35, vec![]), (5, vec![1, 0, 0, 0, 0]), (15, vec![1])];
    world.connected(1, Config { more, ..World::psk(1) });
    assert_eq!(world.client(1).learned.extensions.keys().copied().collect::<Vec<_>>(), [23, 0xff01]);
    assert_eq!(world.client(1).learned.messages, [2, 14], "ServerHello, ServerHelloDone");
    let config = Config { raw: true, cid: Some(vec![]), ..Config::certified(&pki.device) };
    world.connected(2, config);
    let learned = &world.client(2).learned;
    assert_eq!(learned.extensions.keys().copied().collect::<Vec<_>>(), [11, 19, 20, 23, 54, 0xff01]);
    assert_eq!((&learned.extensions[&19][..], &learned.extensions[&20][..]), (&[2][..], &[2][..]));
    assert_eq!(learned.messages, [2, 11, 12, 13, 14]);
    world.connected(3, World::psk(3).with_suite(ECDHE_PSK_CCM8));
    let learned = &world.client(3).learned;
    assert_eq!(learned.extensions.keys().copied().collect::<Vec<_>>(), [11, 23, 0xff01]);
    assert_eq!(learned.messages, [2, 12, 14]);
    let bare = Config { extended_master_secret: false, ..World::psk(4) };
    world.connected(4, bare);
    assert_eq!(world.client(4).learned.extensions.keys().copied().collect::<Vec<_>>(), [0xff01]);
    // Nor a word about renegotiation to who does not signal it; and no extensions is not the same
    // as empty ones.
    let silent = Config { extended_master_secret: false, signal: false, ..World::psk(5) };
    let session = world.connected(5, silent);
    assert!(world.client(5).learned.extensions.is_empty());
    world.assert_alive(5, session);
    // By the extension instead of the signal.
    let named = Config { signal: false, more: vec![(0xff01, vec![0])], ..World::psk(6) };
    world.connected(6, named);
    assert_eq!(world.client(6).learned.extensions[&0xff01], [0]);
}

#[test]
fn each_fault_of_a_certificate_has_its_alert() {
    let pki = Pki::new();
    let more = [pki.middle.der().to_vec()];
    let stranger = authority("stranger", None);
    let mut expired = device_params("door-7");
    (expired.not_before, expired.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    let mut future = device_params("door-7");
    future.not_before = date_time_ymd(2040, 1, 1);
    let mut server_only = device_params("door-7");
    server_only.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let other_key = own(device_params("door-8"), &pki.middle, &more, false);
    let cases: Vec<(&str, Config, u8)> = vec![
        ("expired", Config::certified(&own(expired, &pki.middle, &more, false)), 45),
        ("not valid yet", Config::certified(&own(future, &pki.middle, &more, false)), 45),
        ("by a stranger", Config::certified(&own(device_params("door-7"), &stranger, &[], false)), 48),
        (
            "without what leads to the anchor",
            Config::certified(&own(device_params("x"), &pki.middle, &[], false)),
            48,
        ),
        ("for servers", Config::certified(&own(server_only, &pki.middle, &more, false)), 43),
        ("unknown raw key", Config { raw: true, ..Config::certified(&other_key) }, 40),
        ("signed by another", Config { bad_signature: true, ..Config::certified(&pki.device) }, 51),
        (
            "none",
            Config {
                steps: Some(vec![Step::EmptyCertificate, Step::KeyExchange, Step::Finished]),
                ..Config::certified(&pki.device)
            },
            40,
        ),
    ];
    for (name, config, alert) in cases {
        let mut world = World::certified(&pki);
        let (alerts, said) = refused(&mut world, config);
        assert_eq!(alerts, [(2, alert)], "{name}: {said}");
        assert_eq!(world.engine.counters().failed(FailureKind::Certificate), 1, "{name}");
    }
}

#[test]
fn a_signature_of_a_kind_not_asked_for_is_refused() {
    let pki = Pki::new();
    let more = [pki.middle.der().to_vec()];
    // SHA-1, SHA-512, RSA with SHA-256, Ed25519.
    for algorithm in [0x0203, 0x0603, 0x0401, 0x0807] {
        let device = Arc::into_inner(own(device_params("door-7"), &pki.middle, &more, false)).unwrap();
        let mut world = World::certified(&pki);
        let (alerts, _) = refused(&mut world, Config::certified(&Arc::new(Own { algorithm, ..device })));
        assert_eq!(alerts, [(2, 47)], "{algorithm:04x}");
    }
}

#[test]
fn a_finished_that_says_something_else_under_the_right_keys_is_refused() {
    let pki = Pki::new();
    for config in [World::psk(1), World::psk(1).with_suite(ECDHE_PSK_GCM), Config::certified(&pki.device)] {
        let mut world = World::certified(&pki);
        let (alerts, _) = refused(&mut world, Config { bad_finished: true, ..config });
        assert_eq!(alerts, [(2, 51)]);
    }
}

#[test]
fn certificate_types_that_do_not_fit_are_unsupported() {
    let pki = Pki::new();
    let trust = Trust::new(vec![pki.root.der().to_vec()], Vec::new(), &[], []).unwrap();
    let certificates = Certificates { trust: Arc::new(trust), ..pki.certificates() };
    let mut world = World::new(Settings::default(), certificates, FINE, 1);
    let (alerts, _) = refused(&mut world, Config { raw: true, ..Config::certified(&pki.device) });
    assert_eq!(alerts, [(2, 43)], "it has a raw key only, and none is known here");
}

#[test]
fn intermediates_may_be_configured_instead_of_sent() {
    let pki = Pki::new();
    let device = own(device_params("door-7"), &pki.middle, &[], false);
    let middle = vec![pki.middle.der().to_vec()];
    let trust = Trust::new(vec![pki.root.der().to_vec()], middle, &[], []).unwrap();
    let certificates = Certificates { trust: Arc::new(trust), ..pki.certificates() };
    let mut world = World::new(Settings::default(), certificates, FINE, 1);
    let session = world.connected(1, Config::certified(&device));
    world.assert_alive(1, session);
}

#[test]
fn keys_on_p384_are_taken_on_both_sides() {
    let pki = Pki::new();
    let device = own(device_params("door-7"), &pki.middle, &[pki.middle.der().to_vec()], true);
    let certificates = Certificates { key: Some(server_key(&pki.root, true)), ..pki.certificates() };
    let mut world = World::new(Settings::default(), certificates.clone(), FINE, 1);
    for (port, groups) in [(1, vec![24]), (2, vec![24, 23])] {
        let session = world.connected(port, Config { groups, ..Config::certified(&device) });
        world.assert_alive(port, session);
    }
    let mut world = World::new(Settings::default(), certificates, FINE, 1);
    let (alerts, _) = refused(&mut world, Config { groups: vec![23], ..Config::certified(&device) });
    assert_eq!(alerts, [(2, 40)], "the server's key is on a curve the client does not have");
}

#[test]
fn a_board_whose_clock_is_wrong_still_knows_its_devices() {
    let pki = Pki::new();
    let (year_1970, year_2100) = (UnixTime::from_secs(1_000), UnixTime::from_secs(4_102_444_800));
    let mut params = device_params("door-7");
    (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2036, 1, 1));
    let device = own(params, &pki.middle, &[pki.middle.der().to_vec()], false);
    for (time, trusted, passes) in [
        (year_1970, false, true),
        (year_1970, true, false),
        (year_2100, true, false),
        (year_2100, false, false),
        (UnixTime::from_secs(YEAR_2026), true, true),
    ] {
        let mut world = World::certified(&pki);
        world.engine.set_clock(Clock { time, trusted });
        world.join(1, Config::certified(&device));
        world.run(Duration::from_secs(10));
        assert_eq!(world.client(1).connected, passes, "{time} {trusted}");
    }
}

fn revocation_list(pki: &Pki, serial: &[u8]) -> Vec<u8> {
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: date_time_ymd(2026, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(2026, 2, 1),
        crl_number: SerialNumber::from(1u64),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&pki.middle).unwrap().der().to_vec()
}

#[test]
fn a_revoked_certificate_is_refused_and_its_session_ends() {
    let pki = Pki::new();
    let mut params = device_params("door-7");
    params.serial_number = Some(SerialNumber::from_slice(&[0x11, 0x22]));
    let device = own(params, &pki.middle, &[pki.middle.der().to_vec()], false);
    let mut world = World::certified(&pki);
    let other = world.connected(2, Config::certified(&pki.device));
    let session = world.connected(1, Config::certified(&device));
    let trust = pki.trust(&[revocation_list(&pki, &[0x11, 0x22])]);
    let certificates = Certificates { trust: Arc::new(trust), ..pki.certificates() };
    world.engine.replace_certificates(world.now, certificates, &mut world.recorder);
    assert_eq!(world.told(), [Told::Closed(session, CloseCause::CredentialChanged)]);
    world.assert_alive(2, other);
    world.clients.clear();
    world.join(1, Config::certified(&device));
    world.run(Duration::from_secs(5));
    assert_eq!(world.client(1).alerts, [(2, 44)]);
}

#[test]
fn our_certificate_can_be_replaced_without_ending_a_session() {
    let pki = Pki::new();
    let mut world = World::certified(&pki);
    let session = world.connected(1, Config::certified(&pki.device));
    let raw = world.connected(2, Config { raw: true, ..Config::certified(&pki.device) });
    let certificates = Certificates { key: Some(server_key(&pki.root, false)), ..pki.certificates() };
    world.engine.replace_certificates(world.now, certificates, &mut world.recorder);
    world.assert_alive(1, session);
    world.assert_alive(2, raw);
    // A raw key that is no longer known, and other anchors, do end theirs.
    world.told();
    world.engine.replace_certificates(world.now, Certificates::default(), &mut world.recorder);
    assert_eq!(world.told().len(), 2);
    assert_eq!(world.engine.session_count(), 0);
}

#[test]
fn a_removed_or_changed_key_ends_its_session_and_its_handshake() {
    let mut world = World::fine();
    let one = world.connected(1, World::psk(1));
    let two = world.connected(2, World::psk(2));
    world.join(3, Config { steps: Some(vec![Step::KeyExchange]), ..World::psk(3) });
    world.run(Duration::from_millis(100));
    let keyring = Keyring::new([(*b"dev-2", *b"key-2"), (*b"dev-1", *b"other")]);
    world.engine.replace_keyring(world.now, keyring, &mut world.recorder);
    let told = world.told();
    assert_eq!(told[0], Told::Closed(one, CloseCause::CredentialChanged));
    assert!(matches!(&told[1], Told::Failed(3, failure) if failure.kind() == FailureKind::CredentialChanged));
    world.assert_alive(2, two);
}

#[test]
fn a_handshake_gets_no_more_memory_than_its_budget() {
    let mut world = World::fine();
    world.join(1, World::psk(1));
    world.run(Duration::from_millis(45));
    // The key exchange it announces has 17 kB, of which one byte comes.
    let mut message = handshake_message(16, 2, &vec![0; 17_000]);
    message.truncate(13);
    message[9..12].copy_from_slice(&[0, 0, 1]);
    let answers = world.inject(1, &record(22, 0, 5, &message));
    assert_eq!(answers[0][13..], [2, 40]);
    assert_eq!(world.engine.half_open_count(), 0);
}

#[test]
fn a_client_that_gives_up_in_the_clear_is_believed_after_a_while() {
    let mut world = World::fine();
    world.join(1, Config { steps: Some(vec![]), ..World::psk(1) });
    world.run(Duration::from_millis(45));
    world.inject(1, &record(21, 0, 9, &[2, 42]));
    world.client(1).deadline = None;
    world.run(Duration::from_secs(4));
    assert_eq!(world.told(), []);
    world.run(Duration::from_secs(2));
    let told = world.told();
    assert!(
        matches!(&told[..], [Told::Failed(1, failure)] if failure.kind() == FailureKind::PeerAlert),
        "{told:?}"
    );
}

#[test]
fn a_client_that_gives_up_is_named_by_its_alert() {
    for (description, name) in [(44, "certificate_revoked (44)"), (45, "certificate_expired (45)")] {
        let mut world = World::fine();
        world.join(1, Config { steps: Some(vec![]), ..World::psk(1) });
        world.run(Duration::from_millis(45));
        world.inject(1, &record(21, 0, 9, &[2, description]));
        world.client(1).deadline = None;
        world.run(Duration::from_secs(6));
        let told = world.told();
        let [Told::Failed(1, failure)] = &told[..] else { panic!("{told:?}") };
        assert_eq!(
            failure.to_string(),
            format!("client gave up: {name}, waiting for the client's key exchange")
        );
    }
}

#[test]
fn a_fatal_alert_that_ends_a_session_is_named() {
    let cause = tombolo::proto::dtls::CloseCause::PeerAlert(45);
    assert_eq!(cause.to_string(), "fatal alert from the peer: certificate_expired (45)");
}
