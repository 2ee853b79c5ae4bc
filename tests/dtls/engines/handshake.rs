//! Handshakes and data; failures that both engines name.

use std::time::Duration;

use tombolo::proto::dtls::{
    CloseCause, HandshakeFailure, HandshakeStep, Limits, PeerIdentity, SendError, SessionId,
};

use super::*;

fn a_device_connects_and_data_flows_both_ways<E: Start>() {
    let mut world = World::<E>::fine();
    let session = world.connected(1, psk(1));
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

fn each_message_has_a_datagram_of_its_own<E: Start>() {
    let mut world = World::<E>::fine();
    let session = world.connected(1, psk(1));
    for _ in 0..3 {
        world.engine.send(world.now, session, b"x", &mut world.recorder).unwrap();
    }
    assert_eq!(world.recorder.sent.len(), 3);
}

fn an_idle_session_asks_only_for_its_expiry<E: Start>() {
    let mut world = World::<E>::fine();
    let session = world.connected(1, psk(1));
    let expiry = world.engine.session(session).unwrap().last_seen + Duration::from_secs(24 * 3600);
    assert_eq!(world.engine.poll_timeout(), Some(expiry));
}

fn a_client_of_dtls_1_0_is_named<E: Start>() {
    let mut world = World::<E>::fine();
    let hello = Hello { version: 0xfeff, ..Hello::new(1) };
    let verify = world.inject(1, &hello.datagram(0));
    let alert = world.inject(1, &hello.with_cookie_of(&verify[0]).datagram(1));
    assert_eq!(&alert[0][13..], [2, 70]);
    let [Told::Failed(1, failure)] = &world.told()[..] else { panic!() };
    assert_eq!(failure.to_string(), "client speaks only DTLS 1.0");
}

fn a_client_that_goes_silent_is_named_with_how_far_it_came<E: Start>() {
    let mut world = World::<E>::fine();
    let hello = Hello::new(1);
    let verify = world.inject(1, &hello.datagram(0));
    world.inject(1, &hello.with_cookie_of(&verify[0]).datagram(1));
    world.run(60 * SECOND);
    let expected = HandshakeFailure::TimedOut { step: HandshakeStep::KeyExchange, identity: None };
    assert_eq!(world.told(), [Told::Failed(1, expected)]);
    assert_eq!(world.engine.half_open_count(), 0);
    assert_eq!(world.engine.poll_timeout(), None);
}

fn an_unproven_hello_leaves_nothing_behind<E: Start>() {
    let mut world = World::<E>::fine();
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

fn a_cookie_outlives_the_engine_that_made_it_only_by_its_secret<E: Start>() {
    let mut world = World::<E>::fine();
    let hello = Hello::new(1);
    let verify = world.inject(1, &hello.datagram(0));
    let second = hello.with_cookie_of(&verify[0]);
    world.engine = E::start(world.now, Limits::default(), 8);
    // The client is asked again, in the numbers it expects next.
    let again = world.inject(1, &second.datagram(1));
    assert_eq!(&again[0][5..11], [0, 0, 0, 0, 0, 1]);
    assert_eq!(&again[0][17..19], [0, 1]);
    let flight = world.inject(1, &hello.with_cookie_of(&again[0]).datagram(2));
    assert_eq!((flight[0][13], &flight[0][17..19]), (2, &[0, 2][..]), "a ServerHello, third message");
}

fn a_client_that_gives_up_is_named_with_its_alert<E: Start>() {
    let mut world = World::<E>::fine();
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

fn a_device_that_rebooted_on_the_same_port_comes_back_at_once<E: Start>() {
    let mut world = World::<E>::fine();
    let old = world.connected(1, psk(1));
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

fn a_device_without_entropy_comes_back_once_its_old_hellos_cannot_be_duplicates<E: Start>() {
    let mut world = World::<E>::fine();
    world.join(1, psk(1));
    let hello = world.client(1).handshake_datagrams[0].clone();
    world.run(Duration::from_millis(25));
    let with_cookie = world.client(1).handshake_datagrams[0].clone();
    let session = world.session(1);
    // The hello of the live session again: what the network held back, or the device after a
    // restart.
    let verify = world.inject(1, &hello);
    assert_eq!(verify.len(), 1);
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

fn a_lost_last_flight_is_sent_again<E: Start>() {
    let mut world = World::<E>::fine();
    world.join(1, psk(1));
    // The server's last flight is lost, and the client repeats its own.
    world.run(Duration::from_millis(55));
    world.network.loss = 100;
    world.run(Duration::from_millis(10));
    world.network.loss = 0;
    world.run(5 * SECOND);
    assert!(world.clients[&1].connected);
    let mut session = None;
    world.engine.sessions(&mut |info| session = Some(info.session));
    let session = session.expect("one session");
    world.assert_alive(1, session);
}

fn close_notify_ends_the_session_and_is_answered<E: Start>() {
    let mut world = World::<E>::fine();
    let session = world.connected(1, psk(1));
    let out = world.client(1).close();
    world.upward(1, vec![out]);
    world.run(SECOND);
    assert_eq!(world.told(), [Told::Closed(session, CloseCause::Peer)]);
    assert_eq!(world.engine.session_count(), 0);
}

fn sessions_are_closed_with_close_notify<E: Start>() {
    let mut world = World::<E>::fine();
    let one = world.connected(1, psk(1));
    let two = world.connected(2, psk(2));
    world.engine.close(world.now, one, &mut world.recorder);
    world.run(SECOND);
    assert!(world.clients[&1].is_closed());
    assert!(!world.clients[&2].is_closed());
    world.inject(9, &Hello::new(9).datagram(0));
    world.told();
    world.engine.close_all(world.now, &mut world.recorder);
    world.run(SECOND);
    assert!(world.clients[&2].is_closed());
    assert_eq!(world.told(), [Told::Closed(two, CloseCause::Requested)]);
    assert_eq!((world.engine.session_count(), world.engine.half_open_count()), (0, 0));
    assert_eq!(world.engine.poll_timeout(), None);
}

fn too_much_for_one_record_is_refused<E: Start>() {
    let mut world = World::<E>::fine();
    let session = world.connected(1, psk(1));
    let refused = world.engine.send(world.now, session, &[0; (1 << 14) + 1], &mut world.recorder);
    assert_eq!(refused, Err(SendError::TooLarge));
    let unknown = world.engine.send(world.now, SessionId(7), b"x", &mut world.recorder);
    assert_eq!(unknown, Err(SendError::UnknownSession));
    world.assert_alive(1, session);
}

of_every_engine! {
    a_device_connects_and_data_flows_both_ways
    each_message_has_a_datagram_of_its_own
    an_idle_session_asks_only_for_its_expiry
    a_client_of_dtls_1_0_is_named
    a_client_that_goes_silent_is_named_with_how_far_it_came
    an_unproven_hello_leaves_nothing_behind
    a_cookie_outlives_the_engine_that_made_it_only_by_its_secret
    a_client_that_gives_up_is_named_with_its_alert
    a_device_that_rebooted_on_the_same_port_comes_back_at_once
    a_device_without_entropy_comes_back_once_its_old_hellos_cannot_be_duplicates
    a_lost_last_flight_is_sent_again
    close_notify_ends_the_session_and_is_answered
    sessions_are_closed_with_close_notify
    too_much_for_one_record_is_refused
}
