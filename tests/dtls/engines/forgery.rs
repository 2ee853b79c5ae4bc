//! What anybody can send from a device's own address ends neither its session nor its handshake.

use std::time::Duration;

use tombolo::proto::dtls::SessionId;

use super::*;

/// Datagrams made without any key, by name. `sequence` is one the peer has not used yet.
pub fn forgeries(sequence: u64) -> Vec<(&'static str, Vec<u8>)> {
    let noise: Vec<u8> = (0..200u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let hello = Hello::new(3).datagram(0);
    let mut beyond = record(23, 1, sequence, &noise);
    beyond[11..13].copy_from_slice(&0xffffu16.to_be_bytes());
    let mut both = record(23, 0, 5, b"plain");
    both.extend(record(23, 1, sequence, &noise[..40]));
    vec![
        ("nothing", vec![]),
        ("one byte", vec![23]),
        ("noise", noise.clone()),
        ("a plaintext close_notify", record(21, 0, 9, &[1, 0])),
        ("a plaintext fatal alert", record(21, 0, 10, &[2, 40])),
        ("plaintext application data", record(23, 0, 11, b"do it")),
        ("a bad tag", record(23, 1, sequence, &noise[..48])),
        ("a record shorter than its tag", record(23, 1, sequence, &noise[..7])),
        ("an empty protected record", record(23, 1, sequence, b"")),
        ("an epoch that does not exist", record(23, 2, 0, &noise[..48])),
        ("the last epoch", record(22, 0xffff, 0, &noise[..48])),
        ("a plaintext ChangeCipherSpec", record(20, 0, 12, &[1])),
        ("a protected ChangeCipherSpec", record(20, 1, sequence, &[1])),
        ("a truncated hello", hello[..40].to_vec()),
        ("a hello cut inside its message", record(22, 0, 1, &hello[13..60])),
        ("a hello with a cookie from nowhere", Hello { cookie: vec![5; 32], ..Hello::new(3) }.datagram(1)),
        ("a record that claims more than it has", beyond),
        ("a record longer than any may be", record(23, 1, sequence, &[7; 16_500])),
        ("a bad protected alert", record(21, 1, sequence, &noise[..18])),
        ("a bad protected handshake message", record(22, 1, sequence, &noise[..60])),
        ("a bad Finished", record(22, 1, sequence, &noise[..40])),
        ("a plaintext Finished", record(22, 0, 13, &message(20, 3, &[0; 12]))),
        ("a plaintext HelloRequest", record(22, 0, 13, &message(0, 0, b""))),
        ("a plaintext ServerHello", record(22, 0, 13, &message(2, 1, &[0; 40]))),
        ("a key exchange", record(22, 0, 14, &message(16, 2, b"\0\x05dev-1"))),
        ("a key exchange ahead of its time", record(22, 0, 14, &message(16, 40, b"\0\x05dev-1"))),
        ("a handshake record without a message", record(22, 0, 15, &[1, 2, 3])),
        ("an unknown content type", record(99, 1, sequence, &noise[..48])),
        ("a connection id record", record(25, 1, sequence, &noise[..48])),
        ("a heartbeat", record(24, 1, sequence, &noise[..48])),
        ("a record of TLS", [&[22, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4][..], &[1; 4]].concat()),
        ("twenty empty records", record(20, 0, 1, b"").repeat(20)),
        ("a plaintext record in front of a bad one", both),
        ("the highest record number", record(23, 1, (1 << 48) - 1, &noise[..48])),
    ]
}

fn no_forgery_ends_a_session<E: Start>() {
    for (name, datagram) in forgeries(1000) {
        let mut world = World::<E>::fine();
        let session = world.connected(1, psk(1));
        world.assert_alive(1, session);
        for _ in 0..40 {
            world.inject(1, &datagram);
        }
        assert_eq!(world.told(), [], "{name}");
        world.assert_alive(1, session);
    }
}

fn no_forgery_ends_a_session_that_has_seen_no_data_yet<E: Start>() {
    for (name, datagram) in forgeries(1) {
        let mut world = World::<E>::fine();
        let session = world.connected(1, psk(1));
        for _ in 0..40 {
            world.inject(1, &datagram);
        }
        assert_eq!(world.told(), [], "{name}");
        world.assert_alive(1, session);
    }
}

fn all_forgeries_together_do_not_end_a_session<E: Start>() {
    let mut world = World::<E>::fine();
    let session = world.connected(1, psk(1));
    for round in 0..50 {
        for (_, datagram) in forgeries(1 + round) {
            world.inject(1, &datagram);
        }
        world.run(Duration::from_millis(700));
        world.assert_alive(1, session);
    }
}

fn a_spoofed_hello_leaves_the_session_alive_and_is_forgotten<E: Start>() {
    let mut world = World::<E>::fine();
    let session = world.connected(1, psk(1));
    for random in 0..100 {
        world.inject(1, &Hello::new(random).datagram(0));
    }
    assert_eq!((world.engine.session_count(), world.engine.half_open_count()), (1, 0));
    assert_eq!(world.told(), []);
    world.assert_alive(1, session);
}

fn a_replayed_record_is_delivered_once<E: Start>() {
    let mut world = World::<E>::fine();
    let session = world.connected(1, psk(1));
    let record = world.client(1).send(b"once");
    for _ in 0..5 {
        world.inject(1, &record);
    }
    assert_eq!(world.told(), [Told::Data(session, b"once".to_vec())]);
    assert_eq!(world.engine.counters().records_discarded, 4);
}

fn a_good_record_behind_or_before_a_bad_one_is_delivered<E: Start>() {
    let mut world = World::<E>::fine();
    let session = world.connected(1, psk(1));
    let good = world.client(1).send(b"good");
    world.inject(1, &[record(23, 1, 77, &[1; 40]), good].concat());
    let good = world.client(1).send(b"again");
    world.inject(1, &[&good[..], b"\x17\xfe\xfd\0"].concat());
    assert_eq!(world.told(), [Told::Data(session, b"good".to_vec()), Told::Data(session, b"again".to_vec())]);
}

fn a_neighbours_records_do_not_open_here<E: Start>() {
    let mut world = World::<E>::fine();
    let one = world.connected(1, psk(1));
    let two = world.connected(2, psk(2));
    let record = world.client(1).send(b"mine");
    world.inject(2, &record);
    assert_eq!(world.told(), []);
    world.assert_alive(2, two);
    world.inject(1, &record);
    assert_eq!(world.told(), [Told::Data(one, b"mine".to_vec())]);
}

/// Mutations of everything a session and its handshake put on the wire, from its own address.
fn mutated_traffic_ends_nothing_and_delivers_nothing<E: Start>() {
    let mut world = World::<E>::fine();
    let mut traffic = Vec::new();
    let session = world.connected(1, psk(1));
    for n in 0..20u8 {
        traffic.push(world.client(1).send(&vec![n; usize::from(n) * 5]));
    }
    traffic.push(Hello::new(1).datagram(0));
    traffic.push(record(22, 0, 14, &message(16, 2, b"\0\x05dev-1")));
    traffic.push(record(20, 0, 1, &[1]));
    let genuine: std::collections::HashSet<Vec<u8>> = traffic.iter().cloned().collect();
    for round in 0..20_000 {
        let pick = world.chance(traffic.len() as u64) as usize;
        let mut datagram = traffic[pick].clone();
        for _ in 0..=world.chance(3) {
            let at = world.chance(datagram.len() as u64) as usize;
            match world.chance(4) {
                0 => datagram[at] = world.chance(256) as u8,
                1 => datagram[at] ^= 1 << world.chance(8),
                2 => datagram.truncate(at.max(1)),
                _ => datagram.insert(at, world.chance(256) as u8),
            }
        }
        if genuine.contains(&datagram) {
            continue;
        }
        world.inject(1, &datagram);
        let told = world.told();
        // A mutation behind the first record leaves that record genuine; there is one record here,
        // so nothing but a trailing byte may deliver.
        let allowed = |told: &Told| match told {
            Told::Data(..) => genuine.iter().any(|g| g[0] == 23 && datagram.starts_with(g)),
            _ => false,
        };
        assert!(told.iter().all(allowed), "round {round}: {told:?}");
        if round % 500 == 0 {
            world.run(Duration::from_secs(1));
        }
    }
    world.run(Duration::from_secs(30));
    world.assert_alive(1, session);
    assert_eq!(world.engine.session(SessionId(0)).map(|info| info.session), None);
}

of_every_engine! {
    no_forgery_ends_a_session
    no_forgery_ends_a_session_that_has_seen_no_data_yet
    all_forgeries_together_do_not_end_a_session
    a_spoofed_hello_leaves_the_session_alive_and_is_forgotten
    a_replayed_record_is_delivered_once
    a_good_record_behind_or_before_a_bad_one_is_delivered
    a_neighbours_records_do_not_open_here
    mutated_traffic_ends_nothing_and_delivers_nothing
}
