//! What comes back for what is sent: to an address that has proven nothing never more than it sent,
//! to one a session moved to three times as much at most, whatever is sent and whatever it draws.

use std::time::Duration;

use tombolo::proto::dtls::Engine;
use tombolo::proto::dtls::server::export::{Origin, Purpose, StoreKey};
use tombolo::proto::dtls::server::{Certificates, Settings};
use tombolo::splitmix::SplitMix64;

use super::*;
use tombolo_test_support::dtls::client::*;

/// A seeded die.
struct Die(SplitMix64);

impl Die {
    fn below(&mut self, limit: u64) -> u64 {
        self.0.below(limit)
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.below(256) as u8).collect()
    }
}

/// A handshake message or a piece of one, with a header that fits it.
fn piece(die: &mut Die, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    let whole = die.below(3) > 0;
    let (offset, more) =
        if whole { (0, 0) } else { (die.below(80) as u32 * die.below(2) as u32, die.below(400) as u32) };
    let length = offset + body.len() as u32 + more;
    out.extend(&length.to_be_bytes()[1..]);
    out.extend((die.below(4) as u16).to_be_bytes());
    out.extend(&offset.to_be_bytes()[1..]);
    out.extend(&(body.len() as u32).to_be_bytes()[1..]);
    out.extend(body);
    out
}

/// One record of any type, as somebody makes it who knows no key and no cookie.
fn any_record(die: &mut Die, hello: &[u8]) -> Vec<u8> {
    let number = die.below(5);
    match die.below(12) {
        // A hello, whole, cut, or with a cookie that is none.
        0 | 1 => hello.to_vec(),
        2 => {
            let body = &hello[25..25 + (die.below(hello.len() as u64 - 24) as usize)];
            let message = piece(die, 1, body);
            record(22, 0, number, &message)
        }
        3 => {
            let mut body = hello[25..60].to_vec();
            let cookie = die.bytes(60);
            body.push(cookie.len() as u8);
            body.extend(cookie);
            body.extend(&hello[61..]);
            let message = piece(die, 1, &body);
            record(22, 0, number, &message)
        }
        // Several in one record.
        4 => {
            let mut messages = Vec::new();
            for _ in 0..=die.below(8) {
                let kind = if die.below(2) == 0 { 1 } else { die.below(26) as u8 };
                let body = if kind == 1 { hello[25..].to_vec() } else { die.bytes(50) };
                messages.extend(piece(die, kind, &body));
            }
            record(22, 0, number, &messages)
        }
        5 | 6 => {
            let (kind, body) = (die.below(256) as u8, die.bytes(60));
            let message = piece(die, kind, &body);
            record(22, die.below(3) as u16, number, &message)
        }
        7 => record(21, die.below(2) as u16, number, &[1 + die.below(2) as u8, die.below(120) as u8]),
        8 => record(20, die.below(2) as u16, number, &[1]),
        // As long as a Finished under keys.
        9 => record(22, 1, number, &[7; 40]),
        10 => {
            let body = die.bytes(80);
            record(23 + die.below(3) as u8, 1, number, &body)
        }
        _ => {
            let (kind, body) = (die.below(256) as u8, die.bytes(40));
            record(kind, die.below(3) as u16, number, &body)
        }
    }
}

fn key() -> StoreKey {
    StoreKey::new(&[42; 32])
}

/// Ports with a session, one that has a connection id, a handshake, a session in doubt, one that is
/// over, and nobody.
const PORTS: [u16; 6] = [1, 2, 3, 4, 5, 6];

fn peopled(seed: u64) -> World {
    let mut world = World::new(Settings::default(), Certificates::default(), FINE, seed);
    let doubted = world.connected(4, World::psk(4));
    let over = world.connected(5, World::psk(5).with_suite(PSK_CHACHA));
    let sealed = [doubted, over].map(|s| world.engine.export(world.now, &key(), s, Purpose::Store).unwrap());
    world.engine = engine(world.now, Settings::default(), Certificates::default(), 8);
    for sealed in sealed {
        world
            .engine
            .import(world.now, &key(), &sealed, Origin::Store { runs: 1 }, &mut world.recorder)
            .unwrap();
    }
    world.connected(1, World::psk(1));
    world.connected(2, Config { cid: Some(vec![2; 9]), ..World::psk(2) });
    handshake(&mut world);
    world
}

/// Somebody at port 3 has got our flight.
fn handshake(world: &mut World) {
    world.clients.remove(&3);
    world.join(3, Config { steps: Some(vec![]), ..World::psk(3) });
    world.run(Duration::from_millis(45));
    assert_eq!(world.engine.half_open_count(), 1);
    world.clients.remove(&3);
    world.recorder.sent.clear();
}

#[test]
fn nobody_gets_more_bytes_or_packets_than_were_sent_in_its_name() {
    for seed in 0..12 {
        let (mut world, mut die) = (peopled(seed), Die(SplitMix64::new(seed)));
        let mut answered = [0u64; 6];
        for round in 0..6_000 {
            if world.engine.half_open_count() == 0 {
                handshake(&mut world);
            }
            let hello = Client::new(World::psk(7)).start(world.now).remove(0);
            let mut datagram = Vec::new();
            for _ in 0..=die.below(6) {
                datagram.extend(any_record(&mut die, &hello));
            }
            if die.below(10) == 0 {
                datagram.truncate(1 + die.below(datagram.len() as u64) as usize);
            }
            let port = PORTS[die.below(6) as usize];
            let answers = world.inject(port, &datagram);
            let bytes: usize = answers.iter().map(Vec::len).sum();
            assert!(bytes <= datagram.len(), "{seed} {round}: {bytes} for {} at {port}", datagram.len());
            // The handshake's address has shown its cookie: there an alert may go beside a cookie.
            let packets = if port == 3 { 2 } else { 1 };
            assert!(answers.len() <= packets, "{seed} {round}: {} packets at {port}", answers.len());
            answered[usize::from(port) - 1] += u64::from(!answers.is_empty());
            world.run(Duration::from_millis(1));
            world.recorder.sent.clear();
        }
        // It was not for want of answers.
        assert!(answered.iter().all(|count| *count > 20), "{answered:?}");
        assert_eq!(world.engine.session_count(), 3);
    }
}

#[test]
fn a_part_of_a_hello_draws_no_flight() {
    // 26 bytes once drew 616: a piece of a hello with the number of the one whose answer is under
    // way.
    let mut world = World::fine();
    world.join(1, Config { steps: Some(vec![]), ..World::psk(1) });
    world.run(Duration::from_millis(45));
    assert_eq!(world.engine.half_open_count(), 1);
    world.clients.clear();
    world.run(Duration::from_millis(300));
    world.recorder.sent.clear();
    for (offset, random) in [(1u8, false), (0, false), (0, true)] {
        let mut fragment = vec![1, 0, 0, 100, 0, 1, 0, 0, offset, 0, 0, 1, 0];
        if random {
            // The random may have been seen; the cookie was not.
            fragment = hello_of(&World::psk(1), world.now);
        }
        let datagram = record(22, 0, 5, &fragment);
        let answers = world.inject(1, &datagram);
        assert!(answers.iter().map(Vec::len).sum::<usize>() <= datagram.len(), "{answers:?}");
    }
}

/// The message of a hello without a cookie, numbered as the one with it.
fn hello_of(config: &Config, now: std::time::Instant) -> Vec<u8> {
    let mut message = Client::new(config.clone()).start(now).remove(0)[13..].to_vec();
    message[5] = 1;
    message
}

/// What has gone to an address, and come from it.
#[derive(Default)]
struct Account {
    received: usize,
    sent: usize,
}

#[test]
fn an_address_a_session_moved_to_gets_three_times_what_came_from_it_at_most_in_all() {
    const VICTIM: u16 = 50;
    for seed in 0..60u64 {
        let mut die = Die(SplitMix64::new(seed));
        let cid = vec![9; [0, 1, 32, 254][seed as usize % 4]];
        let suite = [PSK_CCM8, PSK_GCM, ECDHE_PSK_CHACHA][seed as usize % 3];
        let mut world = World::fine();
        let config = Config { cid: Some(cid), ..World::psk(1) }.with_suite(suite);
        let session = world.connected(1, config);
        let mut account = Account::default();
        // Before any data: our Finished may still be asked for.
        for step in 0..400 {
            let content = match die.below(8) {
                0 | 1 => world.client(1).seal(23, &[]),
                2 => world.client(1).seal(22, &handshake_message(20, 3, &[0; 12])),
                3 => world.client(1).seal(22, &handshake_message(1, 3, &[0; 60])),
                4 => world.client(1).seal(21, &[1, 100]),
                5 if step > 100 => world.client(1).send(b"x"),
                6 => {
                    let data = die.bytes(30);
                    world.client(1).seal(24, &data)
                }
                _ => Client::new(World::psk(7)).start(world.now).remove(0),
            };
            account.received += content.len();
            world.engine.handle_datagram(world.now, route(VICTIM), &mut content.clone(), &mut world.recorder);
            for _ in 0..die.below(4) {
                let answer = die.bytes(200);
                let _ = world.engine.send(world.now, session, &answer, &mut world.recorder);
            }
            let there = world.recorder.sent.drain(..).filter(|(route, _)| route.remote.port() == VICTIM);
            account.sent += there.map(|(_, datagram)| datagram.len()).sum::<usize>();
            assert!(
                account.sent <= 3 * account.received,
                "{seed} {step}: {} for {}",
                account.sent,
                account.received
            );
        }
        assert!(account.sent > account.received, "it is answered as far as it may be: {}", account.sent);
        // Nor by its end.
        world.engine.close(world.now, session, &mut world.recorder);
        account.sent += world.recorder.sent.drain(..).map(|(_, datagram)| datagram.len()).sum::<usize>();
        assert!(account.sent <= 3 * account.received);
    }
}

#[test]
fn a_session_in_doubt_asks_elsewhere_for_no_more_than_three_times_what_came_from_there() {
    for length in [0, 9, 254] {
        let mut world = World::fine();
        let session = world.connected(1, Config { cid: Some(vec![9; length]), ..World::psk(1) });
        let sealed = world.engine.export(world.now, &key(), session, Purpose::Store).unwrap();
        world.engine = engine(world.now, Settings::default(), Certificates::default(), 8);
        world
            .engine
            .import(world.now, &key(), &sealed, Origin::Store { runs: 1 }, &mut world.recorder)
            .unwrap();
        let (mut received, mut sent) = (0, 0);
        for _ in 0..40 {
            let record = world.client(1).send(b"x");
            received += record.len();
            sent += world.inject(50, &record).iter().map(Vec::len).sum::<usize>();
            assert!(sent <= 3 * received, "{length}: {sent} for {received}");
        }
        assert!(sent > 0, "but it does ask");
    }
}
