//! Newcomers while spoofed hellos come in from everywhere.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tombolo::proto::Route;
use tombolo::proto::dtls::server::{Certificates, Settings};
use tombolo::proto::dtls::{Engine, Limits};

use super::*;
use tombolo_test_support::dtls::client::Client;

const MS: Duration = Duration::from_millis(1);

/// A hello with a cookie that is none of ours.
fn hello_with_false_cookie(world: &World) -> Vec<u8> {
    let mut hello = Client::new(World::psk(2)).start(world.now).remove(0);
    // Behind the random and an empty session id: the cookie's length, and the cookie.
    hello[13 + 12 + 35] = 32;
    hello.splice(13 + 12 + 36..13 + 12 + 36, [7; 32]);
    for (at, bytes) in [(11, 2), (13 + 2, 2), (13 + 10, 2)] {
        let length = u16::from_be_bytes([hello[at], hello[at + 1]]) + 32;
        hello[at..at + bytes].copy_from_slice(&length.to_be_bytes());
    }
    hello
}

/// Lets time pass, with so many hellos a millisecond from addresses that nobody has; whether they
/// have a cookie, which is none of ours.
fn pass_flooded(world: &mut World, time: Duration, per_ms: u32, with_cookie: bool) {
    let mut hello = if with_cookie {
        hello_with_false_cookie(world)
    } else {
        Client::new(World::psk(2)).start(world.now).remove(0)
    };
    let end = world.now + time;
    while world.now < end {
        for _ in 0..per_ms {
            let address = Ipv4Addr::from(world.chance(1 << 32) as u32);
            let port = 1_024 + world.chance(60_000) as u16;
            hello[30..38].copy_from_slice(&world.chance(u64::MAX >> 1).to_be_bytes());
            let route = Route { remote: SocketAddr::from((address, port)), local: None, socket: 0 };
            world.engine.handle_datagram(world.now, route, &mut hello.clone(), &mut world.recorder);
        }
        // Answers to nobody.
        world.recorder.sent.retain(|(route, _)| {
            [self::route(1).remote.ip(), self::route(ELSEWHERE).remote.ip()].contains(&route.remote.ip())
        });
        let next = world.now + MS;
        world.run_until(next);
    }
}

#[test]
fn a_hundred_newcomers_get_in_within_15_seconds_whatever_20_000_spoofed_hellos_a_second_do() {
    for with_cookie in [false, true] {
        let mut world = World::new(Settings::default(), Certificates::default(), FINE, 7);
        let session = world.connected(1, World::psk(1));
        pass_flooded(&mut world, 500 * MS, 20, with_cookie);
        for port in 100..200 {
            world.join(port, World::psk(port));
            pass_flooded(&mut world, 70 * MS, 20, with_cookie);
        }
        pass_flooded(&mut world, Duration::from_secs(8), 20, with_cookie);
        let inside = (100..200).filter(|port| world.client(*port).connected).count();
        assert_eq!(inside, 100, "with cookies: {with_cookie}");
        assert_eq!(world.engine.half_open_count(), 0);
        world.assert_alive(1, session);
    }
}

#[test]
fn a_hello_with_a_good_cookie_does_not_compete_with_junk() {
    let limits = Limits { hellos_per_second: 1_000, ..Limits::default() };
    let mut world = World::new(Settings { limits, ..Settings::default() }, Certificates::default(), FINE, 7);
    // They have their cookies; only then the flood begins, ten times what is answered.
    for port in 100..200 {
        world.join(port, World::psk(port));
    }
    world.run(15 * MS);
    assert_eq!(world.engine.counters().cookies_sent, 100);
    pass_flooded(&mut world, 500 * MS, 10, false);
    let inside = (100..200).filter(|port| world.client(*port).connected).count();
    assert_eq!(inside, 100);
    assert!(world.engine.counters().hellos_shed > 3_000);
}

#[test]
fn a_flood_of_a_few_real_sources_leaves_all_others_alone() {
    let limits = Limits { hellos_per_second: 2_000, hellos_per_source: 500, ..Limits::default() };
    let mut world = World::new(Settings { limits, ..Settings::default() }, Certificates::default(), FINE, 7);
    for round in 0..100u16 {
        let hello = Client::new(World::psk(2)).start(world.now).remove(0);
        for port in 0..300 {
            world.inject(1 + port, &hello);
        }
        if round == 50 {
            world.join(ELSEWHERE, World::psk(9));
        }
        world.run(5 * MS);
    }
    assert!(world.client(ELSEWHERE).connected, "at its first hello");
    assert!(world.engine.counters().cookies_sent < 1_000 + 2);
}

#[test]
fn one_source_of_false_cookies_does_not_use_up_what_verifies_the_cookies_of_others() {
    let limits = Limits { hellos_per_second: 20, hellos_per_source: 8, ..Limits::default() };
    let mut world = World::new(Settings { limits, ..Settings::default() }, Certificates::default(), FINE, 7);
    let device = world.connected(1, World::psk(1));
    for round in 0..500u16 {
        let hello = hello_with_false_cookie(&world);
        for port in 0..20 {
            world.inject(1_000 + port, &hello);
        }
        match round {
            100 => world.join(ELSEWHERE, World::psk(9)),
            // A device at the address of the flood restarts on its port.
            300 => world.join(1, World::psk(1)),
            _ => {}
        }
        world.run(MS);
    }
    assert!(world.client(ELSEWHERE).connected, "somebody from elsewhere, at its first hello");
    assert!(world.client(1).connected, "a device at the address of the flood that has a session");
    assert!(world.engine.session(device).is_none(), "its new session took the place of the old");
}

#[test]
fn a_device_that_restarts_on_its_port_is_let_in_whatever_false_cookies_come_from_everywhere() {
    let limits = Limits { hellos_per_second: 20, ..Limits::default() };
    let mut world = World::new(Settings { limits, ..Settings::default() }, Certificates::default(), FINE, 7);
    world.connected(1, World::psk(1));
    pass_flooded(&mut world, 500 * MS, 20, true);
    world.join(1, World::psk(1));
    pass_flooded(&mut world, 100 * MS, 20, true);
    assert!(world.client(1).connected);
    assert_eq!(world.engine.session_count(), 1);
}
