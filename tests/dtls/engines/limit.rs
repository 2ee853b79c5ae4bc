//! What the engine may hold is bounded, and whoever must go is the one least missed.

use std::time::Duration;

use tombolo::proto::dtls::{CloseCause, HandshakeFailure, Limits, PeerIdentity};

use super::*;

fn the_longest_idle_session_makes_room<E: Start>() {
    let limits = Limits { sessions: 3, active: Duration::ZERO, ..Limits::default() };
    let mut world = World::<E>::limited(limits, FINE, 1);
    let one = world.connected(1, psk(1));
    let two = world.connected(2, psk(2));
    world.connected(3, psk(3));
    world.assert_alive(1, one);
    world.join(4, psk(4));
    world.run(SECOND);
    let told = world.told();
    assert_eq!(told[0], Told::Closed(two, CloseCause::Evicted));
    assert!(matches!(told[1], Told::Connected(_, 4, _)));
    assert!(world.clients[&2].is_closed(), "it was told");
    assert_eq!(world.engine.session_count(), 3);
    assert_eq!(world.engine.counters().sessions_evicted, 1);
    world.assert_alive(1, one);
}

fn a_reboot_at_the_limit_evicts_nobody_else<E: Start>() {
    let mut world = World::<E>::limited(Limits { sessions: 2, ..Limits::default() }, FINE, 1);
    let one = world.connected(1, psk(1));
    world.connected(2, psk(2));
    world.reboot(2);
    world.run(SECOND);
    assert_eq!(world.engine.counters().sessions_evicted, 0);
    world.assert_alive(1, one);
}

fn a_flood_of_spoofed_hellos_keeps_nobody_out<E: Start>() {
    let mut world = World::<E>::limited(Limits { half_open: 4, ..Limits::default() }, FINE, 1);
    let session = world.connected(1, psk(1));
    world.join(2, psk(2));
    for n in 0..5_000u16 {
        world.inject(10_000 + n, &Hello::new(n as u8).datagram(0));
        if n % 500 == 0 {
            world.run(Duration::from_millis(7));
        }
    }
    world.run(Duration::from_millis(100));
    assert!(world.clients[&2].connected);
    assert_eq!(world.engine.half_open_count(), 0);
    world.assert_alive(1, session);
}

/// A handshake as far as anybody gets who receives at an address and has no key.
fn half_open(world: &mut World<impl Start>, port: u16) {
    let hello = Hello::new(1);
    let verify = world.inject(port, &hello.datagram(0));
    world.inject(port, &hello.with_cookie_of(&verify[0]).datagram(1));
}

fn half_open_handshakes_are_bounded_and_the_oldest_goes<E: Start>() {
    let limits = Limits { half_open: 20, half_open_per_source: 1_000, ..Limits::default() };
    let mut world = World::<E>::limited(limits, FINE, 1);
    let session = world.connected(1, psk(1));
    for n in 0..100 {
        half_open(&mut world, 10_000 + n);
        assert!(world.engine.half_open_count() <= 20);
    }
    let told = world.told();
    assert_eq!(told.len(), 80);
    assert_eq!(told[0], Told::Failed(10_000, HandshakeFailure::Reaped));
    // As long as it is faster than the flood, a device connects.
    world.join(2, psk(2));
    for n in 0..100 {
        half_open(&mut world, 20_000 + n);
        world.run(Duration::from_millis(2));
    }
    assert!(world.clients[&2].connected);
    world.run(60 * SECOND);
    assert_eq!(world.engine.half_open_count(), 0);
    world.assert_alive(1, session);
}

fn one_source_cannot_hold_all_handshakes<E: Start>() {
    let limits = Limits { half_open: 64, half_open_per_source: 8, ..Limits::default() };
    let mut world = World::<E>::limited(limits, FINE, 1);
    for n in 0..100 {
        half_open(&mut world, n);
    }
    assert_eq!(world.engine.half_open_count(), 8);
    assert_eq!(world.engine.counters().hellos_over_limit, 92);
    world.run(60 * SECOND);
    world.connected(1, psk(1));
}

fn an_idle_session_expires_and_one_that_speaks_does_not<E: Start>() {
    let hour = 3600 * SECOND;
    let mut world = World::<E>::fine();
    let one = world.connected(1, psk(1));
    let two = world.connected(2, psk(2));
    for _ in 0..23 {
        world.run(hour);
    }
    world.assert_alive(2, two);
    world.told();
    world.run(hour);
    assert_eq!(world.told(), [Told::Closed(one, CloseCause::Idle)]);
    assert!(world.clients[&1].is_closed(), "it was told, should it listen");
    assert_eq!(world.engine.counters().sessions_idle, 1);
    world.assert_alive(2, two);
}

fn what_we_send_keeps_no_session_alive<E: Start>() {
    let mut world = World::<E>::limited(Limits { idle: 100 * SECOND, ..Limits::default() }, FINE, 1);
    let session = world.connected(1, psk(1));
    world.clients.clear();
    for _ in 0..9 {
        world.run(10 * SECOND);
        world.engine.send(world.now, session, b"anybody there?", &mut world.recorder).unwrap();
    }
    world.run(20 * SECOND);
    assert_eq!(world.told(), [Told::Closed(session, CloseCause::Idle)]);
}

fn forged_records_keep_no_session_alive<E: Start>() {
    let mut world = World::<E>::limited(Limits { idle: 100 * SECOND, ..Limits::default() }, FINE, 1);
    let session = world.connected(1, psk(1));
    let genuine = world.client(1).send(b"x");
    world.inject(1, &genuine);
    world.told();
    for _ in 0..10 {
        world.run(10 * SECOND);
        world.inject(1, &genuine);
    }
    assert_eq!(world.told(), [Told::Closed(session, CloseCause::Idle)]);
}

fn five_thousand_devices_are_told_apart<E: Start>() {
    let mut world = World::<E>::limited(Limits::default(), FINE, 1);
    world.recorder.max_sessions = 100;
    for n in 0..5_000 {
        world.join(n, Config::psk(&format!("dev-{}", n % 50), &format!("key-{}", n % 50)));
        if n % 100 == 0 {
            world.run(Duration::from_millis(10));
        }
    }
    world.run(5 * SECOND);
    assert_eq!((world.engine.session_count(), world.engine.half_open_count()), (5_000, 0));
    let mut sessions = std::collections::HashMap::new();
    for told in world.told() {
        let Told::Connected(session, port, identity) = told else { panic!("{told:?}") };
        assert_eq!(identity, PeerIdentity::Psk(format!("dev-{}", port % 50).into_bytes().into()));
        assert_eq!(sessions.insert(session, port), None);
    }
    for n in 0..5_000 {
        world.client_sends(n, &n.to_be_bytes());
    }
    world.run(SECOND);
    let told = world.told();
    assert_eq!(told.len(), 5_000);
    for told in told {
        let Told::Data(session, data) = told else { panic!("{told:?}") };
        assert_eq!(sessions[&session].to_be_bytes(), data[..]);
    }
    let mut listed = Vec::new();
    world.engine.sessions(&mut |info| listed.push(info.session));
    listed.sort_unstable();
    listed.dedup();
    assert_eq!(listed.len(), 5_000);
}

fn one_key_displaces_only_its_own_sessions_and_completes_so_many_handshakes_a_minute<E: Start>() {
    let mut world = World::<E>::limited(Limits { sessions: 10, ..Limits::default() }, FINE, 1);
    world.recorder.nobodies.push("Psk(\"dev-9999\")".into());
    let others: Vec<_> = (1..=6).map(|port| (port, world.connected(port, psk(port)))).collect();
    for port in 100..300 {
        world.join(port, Config::psk("dev-50", "key-50"));
        world.run(Duration::from_millis(50));
    }
    let told = world.told();
    assert!(
        told.iter().all(|told| !matches!(told, Told::Closed(_, cause) if *cause != CloseCause::Displaced))
    );
    let refused =
        told.iter().filter(|told| matches!(told, Told::Failed(_, HandshakeFailure::TooOften(_)))).count();
    assert!((50..80).contains(&refused), "{refused}");
    assert_eq!(world.engine.session_count(), 6 + 4);
    for (port, session) in others {
        world.assert_alive(port, session);
    }
    // And there is no room for a newcomer, nor a session for an identity that is no device's.
    world.join(8, psk(8));
    world.join(9_999, psk(9_999));
    world.run(SECOND);
    let told = world.told();
    assert!(matches!(told[0], Told::Failed(8, HandshakeFailure::TableFull(_))), "{told:?}");
    assert!(matches!(told[1], Told::Failed(9_999, HandshakeFailure::NoDevice(_))), "{told:?}");
}

of_every_engine! {
    the_longest_idle_session_makes_room
    a_reboot_at_the_limit_evicts_nobody_else
    a_flood_of_spoofed_hellos_keeps_nobody_out
    half_open_handshakes_are_bounded_and_the_oldest_goes
    one_source_cannot_hold_all_handshakes
    an_idle_session_expires_and_one_that_speaks_does_not
    what_we_send_keeps_no_session_alive
    forged_records_keep_no_session_alive
    five_thousand_devices_are_told_apart
    one_key_displaces_only_its_own_sessions_and_completes_so_many_handshakes_a_minute
}
