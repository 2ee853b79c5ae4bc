//! Handshakes, data, and every named way to fail.

use std::time::Duration;

use tombolo::proto::dtls::{
    CloseCause, DimplEngine, Engine, FailureKind, HandshakeFailure, HandshakeStep, Keyring, Limits,
    PeerIdentity, SendError, SessionId,
};

use crate::client::{Hello, message, record};
use crate::link::{Told, World, keyring};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_device_connects_and_data_flows_both_ways() {
    let mut world = World::fine();
    let session = world.connected(1);
    assert!(world.clients[&1].connected);
    world.assert_alive(1, session);
    assert_eq!((world.engine.session_count(), world.engine.half_open_count()), (1, 0));
    let info = world.engine.session(session).unwrap();
    assert_eq!(*info.identity, PeerIdentity::Psk(b"dev-1"[..].into()));
    assert_eq!(info.suite, "TLS_PSK_WITH_AES_128_CCM_8");
    assert!(info.established < info.last_seen);
    let counters = world.engine.counters();
    assert_eq!((counters.handshakes_begun, counters.handshakes_completed), (1, 1));
    assert_eq!((counters.records_received, counters.records_sent), (1, 1));
    assert_eq!(counters.records_refused, 0);
}

#[test]
fn each_message_has_a_datagram_of_its_own() {
    let mut world = World::fine();
    let session = world.connected(1);
    for _ in 0..3 {
        world.engine.send(world.now, session, b"x", &mut world.recorder).unwrap();
    }
    assert_eq!(world.recorder.sent.len(), 3);
}

#[test]
fn an_idle_session_asks_only_for_its_expiry() {
    let mut world = World::fine();
    let session = world.connected(1);
    let expiry = world.engine.session(session).unwrap().last_seen + Duration::from_secs(24 * 3600);
    assert_eq!(world.engine.poll_timeout(), Some(expiry));
}

#[test]
fn a_wrong_key_is_named_and_the_client_told() {
    let mut world = World::fine();
    world.join_as(1, "dev-1", "another");
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
fn a_client_of_dtls_1_0_is_named() {
    let mut world = World::fine();
    let hello = Hello { version: 0xfeff, ..Hello::new(1) };
    let verify = world.inject(1, &hello.datagram(0));
    let alert = world.inject(1, &hello.with_cookie_of(&verify[0]).datagram(1));
    assert_eq!(&alert[0][13..], [2, 70]);
    let [Told::Failed(1, failure)] = &world.told()[..] else { panic!() };
    assert_eq!(failure.to_string(), "client speaks only DTLS 1.0");
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
fn a_client_that_goes_silent_is_named_with_how_far_it_came() {
    let mut world = World::fine();
    let hello = Hello::new(1);
    let verify = world.inject(1, &hello.datagram(0));
    world.inject(1, &hello.with_cookie_of(&verify[0]).datagram(1));
    world.run(60 * SECOND);
    let expected = HandshakeFailure::TimedOut { step: HandshakeStep::KeyExchange, identity: None };
    assert_eq!(world.told(), [Told::Failed(1, expected)]);
    assert_eq!(world.engine.half_open_count(), 0);
    assert_eq!(world.engine.poll_timeout(), None);
}

#[test]
fn an_unproven_hello_leaves_nothing_behind() {
    let mut world = World::fine();
    for _ in 0..3 {
        let hello = Hello::new(1).datagram(0);
        let answers = world.inject(1, &hello);
        assert_eq!(answers.len(), 1);
        assert!(answers[0].len() < hello.len(), "no amplification");
        // Neither does one with the cookie of another address.
        let elsewhere = Hello::new(1).with_cookie_of(&answers[0]).datagram(1);
        let answers = world.inject(2, &elsewhere);
        assert!(answers.len() == 1 && answers[0].len() < elsewhere.len());
    }
    assert_eq!(world.engine.half_open_count(), 0);
    assert_eq!(world.engine.poll_timeout(), None);
    assert_eq!(world.engine.counters().cookies_sent, 6);
    assert_eq!(world.told(), []);
}

#[test]
fn a_cookie_outlives_the_engine_that_made_it_only_by_its_secret() {
    let mut world = World::fine();
    let hello = Hello::new(1);
    let verify = world.inject(1, &hello.datagram(0));
    let second = hello.with_cookie_of(&verify[0]);
    world.engine = DimplEngine::new(world.now, Limits::default(), keyring(), &[8; 32]).unwrap();
    // The client is asked again, in the numbers it expects next.
    let again = world.inject(1, &second.datagram(1));
    assert_eq!(&again[0][5..11], [0, 0, 0, 0, 0, 1]);
    assert_eq!(&again[0][17..19], [0, 1]);
    let flight = world.inject(1, &hello.with_cookie_of(&again[0]).datagram(2));
    assert_eq!((flight[0][13], &flight[0][17..19]), (2, &[0, 2][..]), "a ServerHello, third message");
}

#[test]
fn a_client_that_gives_up_is_named_with_its_alert() {
    let mut world = World::fine();
    let hello = Hello::new(1);
    let verify = world.inject(1, &hello.datagram(0));
    world.inject(1, &hello.with_cookie_of(&verify[0]).datagram(1));
    world.inject(1, &record(21, 0, 2, &[2, 47]));
    world.run(10 * SECOND);
    let [Told::Failed(1, failure)] = &world.told()[..] else { panic!() };
    assert_eq!(
        failure.to_string(),
        "client gave up: illegal_parameter (47), waiting for the client's key exchange"
    );
}

#[test]
fn a_device_that_rebooted_on_the_same_port_comes_back_at_once() {
    let mut world = World::fine();
    let old = world.connected(1);
    world.reboot(1);
    world.run(SECOND);
    let told = world.told();
    assert_eq!(told[0], Told::Closed(old, CloseCause::Replaced));
    let Told::Connected(new, 1, _) = told[1] else { panic!("{told:?}") };
    assert_ne!(old, new);
    assert_eq!(world.engine.session_count(), 1);
    world.assert_alive(1, new);
    assert_eq!(world.engine.send(world.now, old, b"x", &mut world.recorder), Err(SendError::UnknownSession));
    assert_eq!(world.engine.counters().handshakes_shadow, 1);
}

#[test]
fn another_device_on_the_address_of_a_live_session_replaces_it_only_with_its_key() {
    let mut world = World::fine();
    let session = world.connected(1);
    let first = world.clients.remove(&1).unwrap();
    world.join_as(1, "dev-2", "wrong");
    world.run(SECOND);
    assert!(matches!(world.told()[..], [Told::Failed(1, HandshakeFailure::WrongKey(_))]));
    world.clients.insert(1, first);
    world.assert_alive(1, session);
}

#[test]
fn a_device_that_rebooted_in_its_handshake_starts_over() {
    let mut world = World::fine();
    for stop in [15, 25, 35, 45] {
        world.join(1);
        world.run(Duration::from_millis(stop));
        world.reboot(1);
        world.run(SECOND);
        assert!(world.clients[&1].connected, "rebooted after {stop} ms");
    }
    assert_eq!(world.engine.session_count(), 1);
}

#[test]
fn a_device_without_entropy_comes_back_once_its_old_hellos_cannot_be_duplicates() {
    let mut world = World::fine();
    let session = world.connected(1);
    // The hello of the live session again: what the network held back, or the device after a
    // restart.
    let hello = world.clients[&1].hello.clone();
    let verify = world.inject(1, &hello);
    assert_eq!(verify.len(), 1);
    let with_cookie = world.clients[&1].hello_with_cookie.clone();
    assert_eq!(world.inject(1, &with_cookie), Vec::<Vec<u8>>::new());
    assert_eq!(world.engine.half_open_count(), 0);
    world.assert_alive(1, session);
    world.run(61 * SECOND);
    // By then the device has fetched itself a new cookie.
    let verify = world.inject(1, &hello);
    let cookie = &verify[0][28..];
    let at = with_cookie.len() - hello.len() + 13 + 12 + 34 + 2;
    let mut fresh = with_cookie.clone();
    fresh[at - 32..at].copy_from_slice(cookie);
    assert_eq!(world.inject(1, &fresh)[0][13], 2, "a ServerHello");
    world.assert_alive(1, session);
}

#[test]
fn a_lost_last_flight_is_sent_again() {
    let mut world = World::fine();
    world.join(1);
    // The server's last flight is lost, and the client repeats its own.
    world.run(Duration::from_millis(55));
    world.network.loss = 100;
    world.run(Duration::from_millis(10));
    world.network.loss = 0;
    world.run(5 * SECOND);
    assert!(world.clients[&1].connected);
    let session = world.engine_session();
    world.assert_alive(1, session);
}

#[test]
fn close_notify_ends_the_session_and_is_answered() {
    let mut world = World::fine();
    let session = world.connected(1);
    let out = world.clients.get_mut(&1).unwrap().close();
    world.upward(1, out);
    world.run(SECOND);
    assert_eq!(world.told(), [Told::Closed(session, CloseCause::Peer)]);
    assert_eq!(world.engine.session_count(), 0);
}

#[test]
fn sessions_are_closed_with_close_notify() {
    let mut world = World::fine();
    let one = world.connected(1);
    let two = world.connected(2);
    world.engine.close(world.now, one, &mut world.recorder);
    world.run(SECOND);
    assert!(world.clients[&1].closed);
    assert!(!world.clients[&2].closed);
    world.inject(9, &Hello::new(9).datagram(0));
    world.told();
    world.engine.close_all(world.now, &mut world.recorder);
    world.run(SECOND);
    assert!(world.clients[&2].closed);
    assert_eq!(world.told(), [Told::Closed(two, CloseCause::Requested)]);
    assert_eq!((world.engine.session_count(), world.engine.half_open_count()), (0, 0));
    assert_eq!(world.engine.poll_timeout(), None);
}

#[test]
fn removed_and_rekeyed_devices_lose_their_sessions_at_once_and_others_do_not() {
    let mut world = World::fine();
    let (one, two, three) = (world.connected(1), world.connected(2), world.connected(3));
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
    assert!(world.clients[&2].closed && world.clients[&3].closed);
    world.assert_alive(1, one);
    world.join(3);
    world.run(SECOND);
    assert!(matches!(world.told()[..], [Told::Failed(3, HandshakeFailure::UnknownIdentity(_))]));
    world.join_as(2, "dev-2", "changed");
    world.run(SECOND);
    assert!(matches!(world.told()[..], [Told::Connected(_, 2, _)]));
}

#[test]
fn too_much_for_one_record_is_refused() {
    let mut world = World::fine();
    let session = world.connected(1);
    let refused = world.engine.send(world.now, session, &[0; (1 << 14) + 1], &mut world.recorder);
    assert_eq!(refused, Err(SendError::TooLarge));
    let unknown = world.engine.send(world.now, SessionId(7), b"x", &mut world.recorder);
    assert_eq!(unknown, Err(SendError::UnknownSession));
    world.assert_alive(1, session);
}

impl World {
    fn engine_session(&self) -> SessionId {
        let mut found = None;
        self.engine.sessions(&mut |info| found = Some(info.session));
        found.expect("one session")
    }
}
