//! What only the engine dimpl does: it says at once why a handshake failed, and requires the
//! extended master secret.

use std::time::Duration;

use tombolo::proto::dtls::{CloseCause, DimplEngine, Engine as _, FailureKind, HandshakeFailure, Keyring};

use super::forgery::forgeries;
use super::*;

type World = tombolo_test_support::dtls::World<DimplEngine>;

#[test]
fn forgeries_between_the_flights_do_not_end_a_handshake() {
    // What a spoofer can say that a client says too cannot be told from it: a key exchange, and a
    // Finished once there are keys.
    let stoppers = ["a key exchange", "a bad Finished"];
    for (name, datagram) in forgeries(0) {
        if stoppers.contains(&name) {
            continue;
        }
        for before in [5, 15, 25, 35, 45] {
            let mut world = World::fine();
            world.join(1, psk(1));
            world.run(Duration::from_millis(before));
            for _ in 0..40 {
                world.inject(1, &datagram);
            }
            world.run(Duration::from_secs(10));
            assert!(world.clients[&1].connected, "{name} after {before} ms: {:?}", world.told());
        }
    }
}

#[test]
fn a_shadow_handshake_left_half_way_leaves_the_session_alive() {
    let mut world = World::fine();
    let session = world.connected(1, psk(1));
    let hello = Hello::new(200);
    let verify = world.inject(1, &hello.datagram(0));
    world.inject(1, &hello.with_cookie_of(&verify[0]).datagram(1));
    world.assert_alive(1, session);
    world.inject(1, &record(22, 0, 5, &message(16, 2, b"\0\x05dev-2")));
    world.inject(1, &record(20, 0, 6, &[1]));
    world.assert_alive(1, session);
    world.inject(1, &record(22, 1, 0, &[9; 40]));
    assert!(matches!(world.told()[..], [Told::Failed(..)]));
    world.assert_alive(1, session);
}

#[test]
fn a_wrong_key_is_named_and_the_client_told() {
    let mut world = World::fine();
    world.join(1, Config::psk("dev-1", "another"));
    world.run(SECOND / 4);
    let failure = HandshakeFailure::WrongKey(b"dev-1"[..].into());
    assert_eq!(failure.to_string(), "wrong key for \"dev-1\"");
    assert_eq!(world.told(), [Told::Failed(1, failure)]);
    assert_eq!(world.engine.counters().failed(FailureKind::WrongKey), 1);
    assert_eq!(world.engine.half_open_count(), 0);
}

/// A handshake by hand up to a Finished that does not open. Returns the engine's last words.
fn finished_that_does_not_open(world: &mut World, identity: &str) -> Vec<Vec<u8>> {
    let hello = Hello::new(1);
    let verify = world.inject(1, &hello.datagram(0));
    let flight = world.inject(1, &hello.with_cookie_of(&verify[0]).datagram(1));
    assert_eq!(flight[0][13], 2, "a ServerHello");
    let mut claim = (identity.len() as u16).to_be_bytes().to_vec();
    claim.extend(identity.as_bytes());
    let mut datagram = record(22, 0, 2, &message(16, 2, &claim));
    datagram.extend(record(20, 0, 3, &[1]));
    datagram.extend(record(22, 1, 0, &[7; 40]));
    let alert = world.inject(1, &datagram);
    // Its number follows those of the flight, so that the client does not take it for a replay.
    assert!(alert[0][5..11] > flight[0][5..11]);
    alert
}

#[test]
fn failures_are_told_to_the_client_by_an_alert() {
    let mut world = World::fine();
    let alert = finished_that_does_not_open(&mut world, "dev-1");
    assert_eq!(alert.len(), 1);
    assert_eq!((alert[0][0], &alert[0][13..]), (21, &[2, 51][..]));
    assert_eq!(world.told(), [Told::Failed(1, HandshakeFailure::WrongKey(b"dev-1"[..].into()))]);
}

#[test]
fn an_unknown_identity_is_named_but_the_client_sees_what_a_wrong_key_shows() {
    let mut world = World::fine();
    let unknown = finished_that_does_not_open(&mut world, "nobody");
    let failure = HandshakeFailure::UnknownIdentity(b"nobody"[..].into());
    assert_eq!(failure.to_string(), "unknown PSK identity \"nobody\"");
    assert_eq!(world.told(), [Told::Failed(1, failure)]);
    assert_eq!(unknown, finished_that_does_not_open(&mut World::fine(), "dev-1"));
}

#[test]
fn no_shared_cipher_suite_is_named_with_what_was_offered() {
    let mut world = World::fine();
    let hello = Hello { suites: vec![0xc02b, 0x00ff, 0x00a8], ..Hello::new(1) };
    let verify = world.inject(1, &hello.datagram(0));
    assert_eq!(world.told(), [], "nothing is said of an unproven address");
    let alert = world.inject(1, &hello.with_cookie_of(&verify[0]).datagram(1));
    assert_eq!((alert[0][0], &alert[0][13..]), (21, &[2, 40][..]));
    let [Told::Failed(1, failure)] = &world.told()[..] else { panic!() };
    assert_eq!(
        failure.to_string(),
        "no shared cipher suite; offered TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, \
         TLS_PSK_WITH_AES_128_GCM_SHA256"
    );
    assert_eq!(world.engine.half_open_count(), 0);
}

#[test]
fn a_client_without_extended_master_secret_is_named() {
    let mut world = World::fine();
    let hello = Hello { extended_master_secret: false, ..Hello::new(1) };
    let verify = world.inject(1, &hello.datagram(0));
    world.inject(1, &hello.with_cookie_of(&verify[0]).datagram(1));
    let [Told::Failed(1, failure)] = &world.told()[..] else { panic!() };
    assert_eq!(failure.to_string(), "client lacks extended master secret");
}

#[test]
fn a_hello_that_cannot_be_read_is_named() {
    let mut world = World::fine();
    // Well-formed as a vector of extensions, but supported_groups has half a group.
    let hello = |hello: &Hello, sequence| {
        let mut body = hello.body();
        let extensions = body.len() - 6;
        body.truncate(extensions);
        body.extend([0, 11, 0, 23, 0, 0, 0, 10, 0, 3, 0, 1, 0]);
        record(22, 0, sequence, &message(1, sequence as u16, &body))
    };
    let plain = Hello::new(1);
    let verify = world.inject(1, &hello(&plain, 0));
    let alert = world.inject(1, &hello(&plain.with_cookie_of(&verify[0]), 1));
    assert_eq!((alert[0][0], &alert[0][13..]), (21, &[2, 40][..]));
    assert!(matches!(world.told()[..], [Told::Failed(1, HandshakeFailure::Protocol(_))]));
    assert_eq!(world.engine.half_open_count(), 0);
}

#[test]
fn another_device_on_the_address_of_a_live_session_replaces_it_only_with_its_key() {
    let mut world = World::fine();
    let session = world.connected(1, psk(1));
    let first = world.clients.remove(&1).unwrap();
    world.join(1, Config::psk("dev-2", "wrong"));
    world.run(SECOND);
    assert!(matches!(world.told()[..], [Told::Failed(1, HandshakeFailure::WrongKey(_))]));
    world.clients.insert(1, first);
    world.assert_alive(1, session);
}

#[test]
fn a_device_that_rebooted_in_its_handshake_starts_over() {
    let mut world = World::fine();
    for stop in [15, 25, 35, 45] {
        world.join(1, psk(1));
        world.run(Duration::from_millis(stop));
        world.reboot(1);
        world.run(SECOND);
        assert!(world.clients[&1].connected, "rebooted after {stop} ms");
    }
    assert_eq!(world.engine.session_count(), 1);
}

#[test]
fn removed_and_rekeyed_devices_lose_their_sessions_at_once_and_others_do_not() {
    let mut world = World::fine();
    let (one, two, three) =
        (world.connected(1, psk(1)), world.connected(2, psk(2)), world.connected(3, psk(3)));
    let keys: Keyring = Keyring::new([(*b"dev-1", b"key-1".to_vec()), (*b"dev-2", b"changed".to_vec())]);
    world.engine.replace_keyring(world.now, keys, &mut world.recorder);
    let mut told = world.told();
    told.sort_by_key(|told| format!("{told:?}"));
    assert_eq!(
        told,
        [
            Told::Closed(two, CloseCause::CredentialChanged),
            Told::Closed(three, CloseCause::CredentialChanged)
        ]
    );
    world.run(SECOND);
    assert!(world.clients[&2].is_closed() && world.clients[&3].is_closed());
    world.assert_alive(1, one);
    world.join(3, psk(3));
    world.run(SECOND);
    assert!(matches!(world.told()[..], [Told::Failed(3, HandshakeFailure::UnknownIdentity(_))]));
    world.join(2, Config::psk("dev-2", "changed"));
    world.run(SECOND);
    assert!(matches!(world.told()[..], [Told::Connected(_, 2, _)]));
}
