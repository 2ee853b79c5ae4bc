//! What anybody can send from a session's own address: none of it ends the session, none is taken
//! for the device's.

use std::time::Duration;

use tombolo::proto::dtls::server::{Certificates, Settings};
use tombolo::proto::dtls::{CloseCause, Engine};

use super::*;
use tombolo_test_support::dtls::client::{self, Client, Config};

/// Forged datagrams with their names. `good` is a record the device just made and that has not been
/// sent.
fn forgeries(world: &mut World, good: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let wire = |kind: u8, epoch: u16, fragment: &[u8]| client::record(kind, epoch, 1_000, fragment);
    let mut noise = vec![0; 200];
    for byte in &mut noise {
        *byte = world.chance(256) as u8;
    }
    let mut bad_tag = good.to_vec();
    *bad_tag.last_mut().unwrap() ^= 1;
    let mut wrong_epoch = good.to_vec();
    wrong_epoch[4] = 2;
    let mut zero_epoch = good.to_vec();
    zero_epoch[4] = 0;
    let mut truncated_hello = Client::new(World::psk(9)).start(world.now).remove(0);
    truncated_hello.truncate(40);
    let mut over_long = wire(23, 1, &[]);
    over_long[11..13].copy_from_slice(&[0xff, 0xff]);
    let named = [client::record(25, 1, 3, &[]), vec![7; 60]].concat();
    vec![
        ("one byte", vec![23]),
        ("noise", noise),
        ("a fatal alert in the clear", wire(21, 0, &[2, 40])),
        ("close_notify in the clear", wire(21, 0, &[1, 0])),
        ("data in the clear", wire(23, 0, b"data")),
        ("a bad tag", bad_tag),
        ("a record too short for a tag", wire(23, 1, &[1, 2, 3])),
        ("an epoch that is not", wrong_epoch),
        ("an epoch before keys", zero_epoch),
        ("ChangeCipherSpec in the clear", wire(20, 0, &[1])),
        ("half a hello", truncated_hello),
        ("a length beyond the datagram", over_long),
        ("a record of 2^14 bytes and more", wire(23, 1, &vec![0; (1 << 14) + 2_049])),
        ("an alert that does not open", wire(21, 1, &[9; 18])),
        ("a Finished that does not open", wire(22, 1, &[9; 40])),
        ("somebody's connection id", named),
        ("an empty datagram", Vec::new()),
    ]
}

#[test]
fn a_session_survives_every_forgery_from_its_own_address() {
    for cid in [None, Some(vec![5, 6])] {
        for suite in [client::PSK_CCM8, client::PSK_GCM, client::PSK_CHACHA] {
            let mut world = World::fine();
            let config = Config { cid: cid.clone(), ..World::psk(1) }.with_suite(suite);
            let session = world.connected(1, config);
            let good = world.client(1).send(b"not sent");
            for (name, forged) in forgeries(&mut world, &good) {
                let answers = world.inject(1, &forged);
                assert!(answers.is_empty(), "{name}: {answers:x?}");
                world.run(Duration::from_secs(10));
                assert_eq!(world.told(), [], "{name}");
                world.assert_alive(1, session);
            }
            assert_eq!(world.engine.half_open_count(), 0);
        }
    }
}

#[test]
fn a_handshake_survives_every_forgery_between_its_flights() {
    for at in 0..6 {
        let mut world = World::fine();
        let mut donor = World::fine();
        donor.connected(2, World::psk(2));
        let good = donor.client(2).send(b"of another session");
        // Of these the last but two looks like the Finished of the client with the wrong key: it is
        // told.
        for (name, forged) in forgeries(&mut world, &good) {
            let mut world = World::fine();
            world.join(1, World::psk(1));
            for step in 0..=at {
                if step == at {
                    world.inject(1, &forged);
                }
                world.run(Duration::from_millis(10));
            }
            world.run(Duration::from_secs(10));
            let told = world.told();
            assert!(matches!(told[..], [Told::Connected(..)]), "{name} at {at}: {told:?}");
        }
    }
}

#[test]
fn a_forged_flight_of_hellos_from_a_live_address_disturbs_nobody() {
    let mut world = World::fine();
    let session = world.connected(1, World::psk(1));
    let mut spoofed = Client::new(World::psk(2));
    for hello in spoofed.start(world.now) {
        let request = world.inject(1, &hello);
        assert_eq!(request.len(), 1);
        assert!(request[0].len() <= hello.len(), "no amplification");
    }
    assert_eq!(world.engine.half_open_count(), 0, "nothing is kept of an unproven address");
    world.assert_alive(1, session);
}

#[test]
fn each_record_is_taken_once() {
    for cid in [None, Some(vec![1])] {
        let mut world = World::fine();
        let config = Config { cid, ..World::psk(1) };
        world.connected(1, config);
        let records: Vec<_> = (0..100).map(|n: u8| world.client(1).send(&[n])).collect();
        for order in [0..100, 0..100] {
            for n in order {
                world.inject(1, &records[n]);
            }
        }
        let data: Vec<_> = world.told().into_iter().filter(|told| matches!(told, Told::Data(..))).collect();
        assert_eq!(data.len(), 100);
        // Far behind the newest: not taken though never seen.
        let late = world.client(1).send(b"late");
        for _ in 0..64 {
            let record = world.client(1).send(b"more");
            world.inject(1, &record);
        }
        world.told();
        world.inject(1, &late);
        assert_eq!(world.told(), []);
    }
}

#[test]
fn a_session_ends_before_a_forgery_becomes_likely() {
    let settings = Settings { forgeries: Some(1_000), ..Settings::default() };
    let mut world = World::new(settings, Certificates::default(), FINE, 1);
    let session = world.connected(1, World::psk(1));
    for n in 0..999 {
        world.inject(1, &client::record(23, 1, 100 + n, &[n as u8; 20]));
    }
    world.assert_alive(1, session);
    world.inject(1, &client::record(23, 1, 3_000, &[1; 20]));
    assert_eq!(world.told(), [Told::Closed(session, CloseCause::Forgery)]);
}

#[test]
fn plaintext_of_any_content_type_in_a_session_is_nobodys() {
    let mut world = World::fine();
    let session = world.connected(1, World::psk(1));
    for kind in 0..=255 {
        for epoch in 0..4 {
            for fragment in [&b""[..], b"\0", b"\x01\0\0\0\0\0\0\0\0\0\0\0", &[0; 40]] {
                world.inject(1, &client::record(kind, epoch, 77, fragment));
            }
        }
    }
    assert_eq!(world.told(), []);
    world.assert_alive(1, session);
}
