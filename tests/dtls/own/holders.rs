//! Bounds of one identity: what it may have, how often it may come, and that it takes nothing from
//! others.

use std::time::Duration;

use tombolo::proto::dtls::server::{Certificates, Settings};
use tombolo::proto::dtls::{CloseCause, Engine, FailureKind, HandshakeFailure, Limits};

use super::*;
use tombolo_test_support::dtls::client::*;

fn world(limits: Limits) -> World {
    World::new(Settings { limits, ..Settings::default() }, Certificates::default(), FINE, 1)
}

#[test]
fn one_key_from_as_many_ports_as_it_likes_displaces_only_its_own_sessions() {
    let mut world = world(Limits { sessions: 30, ..Limits::default() });
    let others: Vec<_> = (1..=20).map(|n| (n, world.connected(n, World::psk(n)))).collect();
    for port in 1_000..1_100 {
        world.connected(port, World::psk(500));
        assert!(world.engine.session_count() <= 24);
    }
    assert_eq!(world.engine.counters().sessions_displaced, 96);
    assert_eq!(world.engine.counters().sessions_evicted, 0);
    // Each that had to go was told; the last four are its own.
    world.run(Duration::from_millis(100));
    let told = (1_000..1_100).filter(|port| world.client(*port).protected_alerts == [(1, 0)]).count();
    assert_eq!(told, 96);
    for (port, session) in others {
        world.assert_alive(port, session);
    }
    let mut own = Vec::new();
    world.engine.sessions(&mut |info| {
        if format!("{:?}", info.identity).contains("dev-500") {
            own.push(info.route.remote.port());
        }
    });
    own.sort_unstable();
    assert_eq!(own, [1_096, 1_097, 1_098, 1_099]);
}

#[test]
fn the_longest_idle_of_a_devices_sessions_goes_and_not_the_one_in_use() {
    let mut world = world(Limits::default());
    let sessions: Vec<_> = (1..=4).map(|port| world.connected(port, World::psk(7))).collect();
    world.assert_alive(1, sessions[0]);
    world.join(5, World::psk(7));
    world.run(Duration::from_secs(1));
    assert!(world.told().contains(&Told::Closed(sessions[1], CloseCause::Displaced)));
    world.assert_alive(1, sessions[0]);
    // On a port it has already, it displaces none of the others.
    world.join(1, World::psk(7));
    world.run(Duration::from_secs(1));
    let told = world.told();
    assert!(told.contains(&Told::Closed(sessions[0], CloseCause::Replaced)), "{told:?}");
    assert_eq!(world.engine.session_count(), 4);
}

#[test]
fn a_device_completes_120_handshakes_a_minute_and_a_claimed_identity_never_counts() {
    let mut world = world(Limits { handshakes_burst: 100_000, ..Limits::default() });
    // Whoever claims to be the device has not its key.
    for port in 1_000..1_500 {
        world.join(port, Config { key: b"wrong".to_vec(), ..World::psk(7) });
    }
    world.run(Duration::from_secs(5));
    assert_eq!(world.engine.counters().failed(FailureKind::WrongKey), 500);
    let own = world.connected(1, World::psk(7));
    world.assert_alive(1, own);
    for port in 2_000..2_200 {
        world.join(port, World::psk(7));
    }
    world.told();
    world.run(Duration::from_millis(400));
    let refused: Vec<u16> = world
        .told()
        .into_iter()
        .filter_map(|told| match told {
            Told::Failed(port, failure @ HandshakeFailure::TooOften(_)) => {
                assert_eq!(failure.to_string(), "\"dev-7\" completed too many handshakes within a minute");
                Some(port)
            }
            _ => None,
        })
        .collect();
    assert!((79..=81).contains(&refused.len()), "{}", refused.len());
    assert_eq!(world.engine.counters().failed(FailureKind::TooOften), refused.len() as u64);
    for port in refused {
        assert_eq!(
            world.client(port).alerts,
            [(2, 80)],
            "internal_error, in the clear: the client can read it"
        );
    }
    // Another device is not counted with it, and it is let in again at its rate.
    let other = world.connected(3, World::psk(8));
    world.assert_alive(3, other);
    world.run(Duration::from_secs(2));
    world.told();
    world.connected(4, World::psk(7));
}

#[test]
fn a_full_table_of_active_sessions_refuses_a_newcomer_and_those_within_it_may_restart() {
    let hour = Duration::from_secs(3_600);
    let mut world = world(Limits::new(3, 10, 24 * hour));
    for port in 1..=3 {
        world.connected(port, World::psk(port));
    }
    world.join(9, World::psk(9));
    world.run(Duration::from_secs(1));
    let told = world.told();
    let [Told::Failed(9, failure @ HandshakeFailure::TableFull(_))] = &told[..] else { panic!("{told:?}") };
    assert!(failure.to_string().contains("no room for a session of \"dev-9\""), "{failure}");
    assert_eq!(world.client(9).alerts, [(2, 80)]);
    assert_eq!(world.engine.counters().failed(FailureKind::TableFull), 1);
    // A device that restarts, on its port or on another, takes its own place.
    world.connected(1, World::psk(1));
    world.connected(20, World::psk(2));
    assert_eq!((world.engine.session_count(), world.engine.counters().sessions_evicted), (3, 0));
    // When one has been silent for an hour, it makes room.
    world.run(hour - Duration::from_secs(10));
    for (port, n) in [(1, 1), (20, 2)] {
        world.client_sends(port, &[n]);
    }
    world.run(Duration::from_secs(20));
    world.told();
    world.clients.remove(&9);
    world.connected(9, World::psk(9));
    assert_eq!(world.engine.counters().sessions_evicted, 1);
    assert_eq!(world.client(3).protected_alerts, [(1, 0)]);
}

#[test]
fn an_identity_that_is_no_devices_gets_no_session_and_displaces_none() {
    let pki = Pki::new();
    let limits = Limits { active: Duration::ZERO, ..Limits::new(1, 10, Duration::from_secs(3_600)) };
    for config in [
        World::psk(5),
        Config::certified(&pki.device),
        Config { raw: true, ..Config::certified(&pki.device) },
    ] {
        let mut world = World::new(Settings { limits, ..Settings::default() }, pki.certificates(), FINE, 1);
        world.join(1, config.clone());
        world.run(Duration::from_secs(1));
        let Some(Told::Connected(session, _, identity)) = world.told().pop() else { panic!() };
        world.engine.close(world.now, session, &mut world.recorder);
        let owner = world.connected(2, World::psk(2));
        world.recorder.nobodies.push(format!("{identity:?}"));
        world.join(3, config.clone());
        world.run(Duration::from_secs(1));
        let told = world.told();
        let [Told::Failed(3, HandshakeFailure::NoDevice(who))] = &told[..] else { panic!("{told:?}") };
        assert_eq!(**who, identity);
        // access_denied only where certificates are used (RFC 7925 §6).
        let alert = if config.own.is_some() && !config.raw { 49 } else { 40 };
        assert_eq!(world.client(3).alerts, [(2, alert)]);
        world.assert_alive(2, owner);
    }
}
