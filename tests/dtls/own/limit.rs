//! How much peers can make the engine hold, and what goes when that is reached.

use std::time::Duration;

use tombolo::proto::dtls::server::{Certificates, Settings};
use tombolo::proto::dtls::{CloseCause, Engine, FailureKind, Limits};

use super::*;
use tombolo_test_support::dtls::client::{Client, Config, PSK_CCM8, PSK_GCM, Step};

fn world(limits: Limits) -> World {
    World::new(Settings { limits, ..Settings::default() }, Certificates::default(), FINE, 1)
}

#[test]
fn spoofed_hellos_leave_nothing_behind_and_disturb_nobody() {
    let unlimited = Limits { hellos_per_second: u32::MAX, hellos_per_source: u32::MAX, ..Limits::default() };
    let mut world = world(unlimited);
    let session = world.connected(1, World::psk(1));
    for n in 0..20_000u32 {
        let mut client = Client::new(World::psk(2));
        let hello = client.start(world.now).remove(0);
        let answers = world.inject(1 + (n % 60_000) as u16, &hello);
        assert!(answers.iter().map(Vec::len).sum::<usize>() <= hello.len());
    }
    assert_eq!(world.engine.half_open_count(), 0);
    assert_eq!(world.engine.session_count(), 1);
    assert_eq!(world.engine.counters().hellos_shed, 0);
    world.assert_alive(1, session);
}

#[test]
fn a_flood_of_hellos_from_one_source_gets_its_share_and_devices_with_sessions_are_heard() {
    let mut world = World::fine();
    world.connected(1, World::psk(1));
    let mut answered = 0;
    for n in 0..20_000u16 {
        let hello = Client::new(World::psk(2)).start(world.now).remove(0);
        answered += world.inject(2 + n, &hello).len();
    }
    // The device's own took two.
    let most = Limits::default().hellos_per_source;
    assert!((most as usize - 2..=most as usize).contains(&answered), "{answered}");
    // Somebody who comes from elsewhere does not notice.
    world.connected(ELSEWHERE, World::psk(9));
    let shed = world.engine.counters().hellos_shed;
    assert_eq!(shed, 20_000 - answered as u64);
    // The device restarts in the midst of it.
    let again = world.connected(1, World::psk(1));
    world.assert_alive(1, again);
    // And when it is over, newcomers are heard again.
    let other = world.connected(2, World::psk(2));
    world.assert_alive(2, other);
}

#[test]
fn a_stolen_cookie_is_of_no_use_elsewhere_or_later() {
    let mut world = World::fine();
    world.join(1, World::psk(1));
    world.run(Duration::from_millis(25));
    let hello = world.client(1).handshake_datagrams[0].clone();
    world.clients.clear();
    let answers = world.inject(2, &hello);
    assert_eq!(answers[0][13], 3, "another HelloVerifyRequest");
    world.run(Duration::from_secs(200));
    let answers = world.inject(1, &hello);
    assert_eq!(answers[0][13], 3);
    assert_eq!(world.engine.half_open_count(), 0);
}

/// What comes back when one hello fetches the cookie and `second`, with the same random, returns
/// it.
fn returned_by(world: &mut World, first: Config, second: Config) -> Vec<Vec<u8>> {
    let mut first = Client::new(Config { fixed_random: Some([5; 32]), ..first });
    let mut second = Client::new(Config { fixed_random: Some([5; 32]), ..second });
    let hello = first.start(world.now).remove(0);
    let request = world.inject(1, &hello).remove(0);
    second.start(world.now);
    let hellos = second.handle_datagram(world.now, &request);
    hellos.iter().flat_map(|hello| world.inject(1, hello)).collect()
}

#[test]
fn a_cookie_is_good_for_the_parameters_it_was_made_for_only() {
    let base = World::psk(1);
    let suites = Config { suites: vec![PSK_CCM8, PSK_GCM], ..base.clone() };
    let compressions = Config { compressions: vec![0, 1], ..base.clone() };
    for other in [suites.clone(), compressions] {
        let mut world = World::fine();
        let answers = returned_by(&mut world, base.clone(), other);
        assert_eq!((answers.len(), answers[0][13]), (1, 3), "another HelloVerifyRequest");
        assert_eq!((world.engine.half_open_count(), world.told()), (0, vec![]));
    }
    // Whole the first time and in pieces the second, as a hello may be that the cookie made too
    // long.
    let pieces = |config| Config { mtu: 100, ..config };
    let mut world = World::fine();
    let answers = returned_by(&mut world, base.clone(), pieces(base.clone()));
    assert_eq!((answers[0][13], world.engine.half_open_count()), (2, 1), "a ServerHello");
    let mut world = World::fine();
    let answers = returned_by(&mut world, base, pieces(suites));
    assert_eq!(answers[0][13..], [2, 47], "illegal_parameter");
    assert_eq!(world.engine.half_open_count(), 0);
    assert_eq!(world.engine.counters().failed(FailureKind::Protocol), 1);
}

#[test]
fn a_source_of_failing_handshakes_is_slowed_down_and_those_with_a_session_are_not() {
    let mut world = World::fine();
    let device = world.connected(1, World::psk(1));
    let wrong = || Config { key: b"wrong".to_vec(), ..World::psk(2) };
    for port in 1_000..3_000 {
        world.join(port, wrong());
    }
    world.run(Duration::from_millis(500));
    let counters = world.engine.counters();
    let limits = Limits::default();
    let most = u64::from(limits.handshakes_burst + limits.handshakes_per_second);
    assert!(counters.handshakes_begun <= 1 + most, "{counters:?}");
    assert!(counters.hellos_over_limit >= 2_000 - most, "{counters:?}");
    world.assert_alive(1, device);
    // It restarts on the same port while the bucket of all is empty.
    let again = world.connected(1, World::psk(1));
    world.assert_alive(1, again);
    assert!(world.told().iter().all(|told| !matches!(told, Told::Connected(..))));
    // A newcomer behind the same address comes in by its retransmissions once the others are
    // through.
    world.clients.retain(|port, _| *port == 1);
    world.join(2, World::psk(2));
    world.run(Duration::from_secs(30));
    assert!(world.client(2).connected);
}

#[test]
fn any_number_of_devices_with_keys_may_come_from_one_source_at_once() {
    let mut world = World::fine();
    for port in 1..=2_000 {
        world.join(port, World::psk(port));
        // So that no more are under way than the limit for that allows.
        if port % 500 == 0 {
            world.run(Duration::from_millis(100));
        }
    }
    assert_eq!(world.engine.session_count(), 2_000);
    assert_eq!(world.engine.counters().hellos_over_limit, 0);
}

#[test]
fn handshakes_beyond_the_limit_push_out_the_oldest_and_never_a_session() {
    let mut world =
        world(Limits { half_open_per_source: 100, ..Limits::new(100, 5, Duration::from_secs(3_600)) });
    let session = world.connected(1, World::psk(1));
    for port in 2..12 {
        world.join(port, Config { steps: Some(vec![Step::KeyExchange]), ..World::psk(port) });
        world.run(Duration::from_millis(50));
    }
    assert_eq!(world.engine.half_open_count(), 5);
    assert!(world.engine.counters().failed(FailureKind::Reaped) >= 5);
    world.assert_alive(1, session);
}

#[test]
fn one_source_cannot_take_all_handshakes() {
    let mut world = world(Limits { half_open_per_source: 3, ..Limits::default() });
    for port in 1..10 {
        world.join(port, Config { steps: Some(vec![]), ..World::psk(port) });
    }
    world.run(Duration::from_millis(100));
    assert_eq!(world.engine.half_open_count(), 3);
    assert_eq!(world.engine.counters().hellos_over_limit, 6);
}

#[test]
fn an_address_cannot_make_us_begin_again_and_again() {
    let pki = Pki::new();
    let mut world = World::certified(&pki);
    for _ in 0..1_000 {
        let mut client = Client::new(Config::certified(&pki.device));
        let request = {
            let hello = client.start(world.now).remove(0);
            world.inject(1, &hello).remove(0)
        };
        for hello in client.handle_datagram(world.now, &request) {
            world.inject(1, &hello);
        }
        world.run(Duration::from_millis(1));
        world.recorder.sent.clear();
    }
    assert!(world.engine.counters().handshakes_begun <= 6, "{:?}", world.engine.counters());
}

#[test]
fn the_longest_idle_session_makes_room_and_is_told() {
    let mut world =
        world(Limits { active: Duration::ZERO, ..Limits::new(2, 10, Duration::from_secs(3_600)) });
    let one = world.connected(1, World::psk(1));
    let two = world.connected(2, World::psk(2));
    world.assert_alive(1, one);
    let three = world.connected(3, World::psk(3));
    world.run(Duration::from_millis(100));
    assert_eq!(world.client(2).protected_alerts, [(1, 0)]);
    assert_eq!(world.engine.session_count(), 2);
    world.assert_alive(1, one);
    world.assert_alive(3, three);
    assert!(world.engine.session(two).is_none());
}

#[test]
fn idle_sessions_end_and_only_they() {
    let mut world = world(Limits::new(10, 10, Duration::from_secs(1_000)));
    let one = world.connected(1, World::psk(1));
    let two = world.connected(2, World::psk(2));
    world.run(Duration::from_secs(600));
    world.assert_alive(2, two);
    world.run(Duration::from_secs(600));
    assert!(world.told().contains(&Told::Closed(one, CloseCause::Idle)));
    assert_eq!(world.client(1).protected_alerts, [(1, 0)]);
    world.assert_alive(2, two);
}

#[test]
fn close_notify_is_answered_and_ends_the_session() {
    for cid in [None, Some(vec![1])] {
        let mut world = World::fine();
        let session = world.connected(1, Config { cid, ..World::psk(1) });
        let goodbye = world.client(1).seal(21, &[1, 0]);
        world.upward(1, vec![goodbye]);
        world.run(Duration::from_millis(100));
        assert_eq!(world.told(), [Told::Closed(session, CloseCause::Peer)]);
        assert_eq!(world.client(1).protected_alerts, [(1, 0)]);
        let session = world.connected(2, World::psk(2));
        let fatal = world.client(2).seal(21, &[2, 80]);
        world.upward(2, vec![fatal]);
        world.run(Duration::from_millis(100));
        assert_eq!(world.told(), [Told::Closed(session, CloseCause::PeerAlert(80))]);
        assert_eq!(world.engine.session_count(), 0);
        world.connected(3, World::psk(3));
        world.engine.close_all(world.now, &mut world.recorder);
        assert_eq!((world.engine.session_count(), world.engine.poll_timeout()), (0, None));
    }
}
