//! Handshakes that succeed: every suite, with and without what is optional.

use std::time::Duration;

use tombolo::proto::dtls::server::Settings;
use tombolo::proto::dtls::{Engine, Keyring, PeerIdentity};

use super::*;
use tombolo_test_support::dtls::client::*;

#[test]
fn every_suite_carries_data_both_ways_with_and_without_what_is_optional() {
    let pki = Pki::new();
    for suite in ALL {
        for extended_master_secret in [true, false] {
            for cid in [None, Some(vec![]), Some(vec![7]), Some(vec![9; 32])] {
                for raw in [false, true] {
                    let certified = [ECDSA_CCM8, ECDSA_CCM, ECDSA_GCM, ECDSA_CHACHA].contains(&suite);
                    if raw && !certified {
                        continue;
                    }
                    let mut world = World::certified(&pki);
                    let base = if certified { Config::certified(&pki.device) } else { World::psk(1) }
                        .with_suite(suite);
                    let config = Config { extended_master_secret, cid: cid.clone(), raw, ..base };
                    let session = world.connected(1, config);
                    world.assert_alive(1, session);
                    let info = world.engine.session(session).unwrap();
                    assert_eq!(info.extended_master_secret, extended_master_secret);
                    assert_eq!(info.connection_id, cid.is_some());
                    match info.identity {
                        PeerIdentity::Psk(identity) => assert_eq!(&identity[..], b"dev-1"),
                        PeerIdentity::RawPublicKey(key) => {
                            assert!(raw);
                            assert_eq!(**key, hash(&pki.device.spki));
                        }
                        PeerIdentity::Certificate(facts) => {
                            assert!(!raw);
                            assert_eq!(facts.uris().collect::<Vec<_>>(), ["urn:dev:door-7"]);
                            assert_eq!(facts.dns_names().collect::<Vec<_>>(), ["door-7.example"]);
                            assert_eq!(facts.common_name(), Some("door-7"));
                            assert_eq!(facts.key_hash, hash(&pki.device.spki));
                        }
                        other => panic!("{other:?}"),
                    }
                    assert!(world.recorder.largest <= 1_200);
                }
            }
        }
    }
}

#[test]
fn a_handshake_in_pieces_of_any_size_succeeds() {
    let pki = Pki::new();
    for (theirs, ours) in [(100, 200), (150, 300), (300, 300), (1_200, 1_200)] {
        for code in [None, Some(1), Some(4)] {
            let settings = Settings { mtu: ours, ..Settings::default() };
            let mut world = World::new(settings, pki.certificates(), FINE, 1);
            let base = Config::certified(&pki.device);
            let config = Config { mtu: theirs, max_fragment_length: code, cid: Some(vec![1, 2]), ..base };
            let session = world.connected(1, config);
            assert!(world.recorder.largest <= ours, "{} of {ours}", world.recorder.largest);
            world.assert_alive(1, session);
            if let Some(code) = code {
                assert_eq!(world.client(1).learned.extensions[&1], [code]);
                let long = vec![0; (256 << code) + 1];
                assert!(world.engine.send(world.now, session, &long, &mut world.recorder).is_err());
                assert!(world.engine.send(world.now, session, &long[1..], &mut world.recorder).is_ok());
                world.client_sends(1, &long);
                world.client_sends(1, &long[1..]);
                world.run(Duration::from_millis(100));
                assert_eq!(world.told(), [Told::Data(session, long[1..].to_vec())], "as long as agreed");
            }
            world.run(Duration::from_secs(1));
        }
    }
}

#[test]
fn keys_of_64_bytes_and_identities_of_128_are_taken() {
    let (identity, key) = (vec![b'i'; 128], vec![b'k'; 64]);
    let mut world = World::fine();
    let keyring = Keyring::new([(identity.clone(), key.clone())]);
    world.engine.replace_keyring(world.now, keyring, &mut world.recorder);
    for (port, suite) in (1..).zip([PSK_CCM8, ECDHE_PSK_CCM8]) {
        let config =
            Config { identity: identity.clone(), key: key.clone(), ..World::psk(1) }.with_suite(suite);
        let session = world.connected(port, config);
        world.assert_alive(port, session);
    }
}

#[test]
fn a_flight_that_is_not_answered_is_sent_again_with_growing_patience_and_then_smaller() {
    let pki = Pki::new();
    let mut world = World::new(Settings { mtu: 1_400, ..Settings::default() }, pki.certificates(), FINE, 1);
    world.join(1, Config { steps: Some(vec![]), ..Config::certified(&pki.device) });
    world.run(Duration::from_millis(25));
    let client = world.clients.remove(&1).unwrap();
    let mut times = Vec::new();
    let mut sizes = Vec::new();
    let start = world.now;
    world.inject(1, &client.handshake_datagrams[0]);
    while let Some(next) = world.engine.poll_timeout() {
        world.now = next;
        world.recorder.sent.clear();
        world.engine.handle_timeout(next, &mut world.recorder);
        if let Some(largest) = world.recorder.sent.iter().map(|(_, datagram)| datagram.len()).max() {
            times.push((next - start).as_secs());
            sizes.push(largest);
        }
        if world.engine.half_open_count() == 0 {
            break;
        }
    }
    // 1 s, then twice as long each time (RFC 6347 §4.2.4.1); a minute in all.
    assert_eq!(times[..5], [1, 3, 7, 15, 31]);
    assert!(sizes[0] > 548 && *sizes.last().unwrap() <= 548, "{sizes:?}");
}

#[test]
fn records_hold_from_nothing_to_16384_bytes() {
    let mut world = World::fine();
    let session = world.connected(1, World::psk(1));
    for (length, heard) in [(0, false), (1, true), (1 << 14, true), ((1 << 14) + 1, false)] {
        let data = vec![5; length];
        world.client_sends(1, &data);
        world.run(Duration::from_millis(100));
        let expected = if heard { vec![Told::Data(session, data.clone())] } else { Vec::new() };
        assert_eq!(world.told(), expected, "{length}");
        let sent = world.engine.send(world.now, session, &data, &mut world.recorder);
        assert_eq!(sent.is_ok(), length <= 1 << 14, "{length}");
        world.run(Duration::from_millis(100));
    }
    world.assert_alive(1, session);
}

#[test]
fn a_client_of_a_later_version_gets_ours() {
    let mut world = World::fine();
    // DTLS counts downwards.
    let session = world.connected(1, Config { version: 0xfefc, ..World::psk(1) });
    world.assert_alive(1, session);
}

#[test]
fn chacha20_is_taken_only_where_the_same_key_exchange_offers_no_aes() {
    let pki = Pki::new();
    let certified = |suites: &[u16]| Config { suites: suites.to_vec(), ..Config::certified(&pki.device) };
    let psk = |suites: &[u16]| Config { suites: suites.to_vec(), ..World::psk(1) };
    for (config, taken) in [
        (psk(&[PSK_CHACHA, PSK_GCM, PSK_CCM8]), PSK_GCM),
        (psk(&[PSK_CHACHA, PSK_CCM8, PSK_GCM]), PSK_CCM8),
        (psk(&[PSK_CHACHA]), PSK_CHACHA),
        // Forward secrecy is not given up for it.
        (psk(&[ECDHE_PSK_CHACHA, PSK_GCM]), ECDHE_PSK_CHACHA),
        (psk(&[ECDHE_PSK_CHACHA, PSK_GCM, ECDHE_PSK_CCM8]), ECDHE_PSK_CCM8),
        // Nor the client's order among the others.
        (psk(&[PSK_CCM8, ECDHE_PSK_GCM, PSK_GCM]), PSK_CCM8),
        (certified(&[ECDSA_CHACHA, PSK_GCM, ECDSA_GCM]), ECDSA_GCM),
        (certified(&[ECDSA_CHACHA, PSK_GCM]), ECDSA_CHACHA),
    ] {
        let mut world = World::certified(&pki);
        world.connected(1, config);
        assert_eq!(world.client(1).learned.suite, taken);
    }
}
