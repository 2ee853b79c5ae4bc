//! Connection ids: sessions whose address changes (RFC 9146 §3, §6).

use std::time::Duration;

use tombolo::proto::dtls::server::{Certificates, Settings};
use tombolo::proto::dtls::{CloseCause, Engine, SendError};

use super::*;
use tombolo_test_support::dtls::client::Config;

fn with_cid(n: u16) -> Config {
    Config { cid: Some(vec![n as u8; 3]), ..World::psk(n) }
}

#[test]
fn a_session_follows_its_device_to_another_port() {
    for cid in [vec![], vec![1], vec![2; 32], vec![3; 254]] {
        for padding in [0, 1, 40] {
            let mut world = World::fine();
            let session = world.connected(1, Config { cid: Some(cid.clone()), padding, ..World::psk(1) });
            world.carry(1, 2);
            world.client_sends(2, b"moved");
            world.run(Duration::from_secs(1));
            assert_eq!(world.told(), [Told::Moved(session, 2), Told::Data(session, b"moved".to_vec())]);
            world.engine.confirm_address(session);
            world.assert_alive(2, session);
            assert_eq!(world.engine.session(session).unwrap().route.remote.port(), 2);
        }
    }
}

#[test]
fn a_session_without_a_connection_id_does_not_move() {
    let mut world = World::fine();
    let session = world.connected(1, World::psk(1));
    let record = world.client(1).send(b"from elsewhere");
    world.inject(2, &record);
    assert_eq!(world.told(), []);
    world.assert_alive(1, session);
}

#[test]
fn where_connection_ids_are_off_none_is_given() {
    let settings = Settings { connection_id: false, ..Settings::default() };
    let mut world = World::new(settings, Certificates::default(), FINE, 1);
    let session = world.connected(1, with_cid(1));
    assert_eq!(world.client(1).server_cid, None);
    assert!(!world.engine.session(session).unwrap().connection_id);
    world.assert_alive(1, session);
}

#[test]
fn older_replayed_and_forged_records_do_not_move_a_session() {
    let mut world = World::fine();
    let session = world.connected(1, with_cid(1));
    let old = world.client(1).send(b"old");
    let newest = world.client(1).send(b"newest");
    world.inject(1, &newest);
    world.told();
    world.inject(2, &newest);
    assert_eq!(world.told(), [], "a replay");
    world.inject(2, &old);
    assert_eq!(world.told(), [Told::Data(session, b"old".to_vec())], "late, but taken; the address stays");
    let mut forged = world.client(1).send(b"forged");
    *forged.last_mut().unwrap() ^= 1;
    world.inject(2, &forged);
    assert_eq!(world.told(), []);
    assert_eq!(world.engine.session(session).unwrap().route.remote.port(), 1);
}

#[test]
fn a_record_in_the_wrong_form_is_dropped() {
    let mut world = World::fine();
    let one = world.connected(1, with_cid(1));
    let cid = world.client(1).server_cid.take();
    let bare = world.client(1).send(b"without");
    world.inject(1, &bare);
    assert_eq!(world.told(), [], "a session with a connection id takes no record without");
    world.client(1).server_cid = cid.clone();
    world.assert_alive(1, one);
    let two = world.connected(2, World::psk(2));
    world.client(2).server_cid = cid;
    let named = world.client(2).send(b"with another's");
    world.client(2).server_cid = None;
    world.inject(2, &named);
    assert_eq!(world.told(), []);
    world.assert_alive(2, two);
}

#[test]
fn a_move_onto_a_neighbours_address_displaces_nobody() {
    let mut world = World::fine();
    let neighbour = world.connected(2, World::psk(2));
    let mover = world.connected(1, with_cid(1));
    // Whoever has the key of device 1 pretends to be at device 2's address.
    let record = world.client(1).send(b"here");
    world.inject(2, &record);
    assert_eq!(world.told(), [Told::Moved(mover, 2), Told::Data(mover, b"here".to_vec())]);
    world.assert_alive(2, neighbour);
    world.assert_alive(1, mover);
}

#[test]
fn an_address_given_to_another_device_does_not_end_a_session_that_has_a_connection_id() {
    let mut world = World::fine();
    let first = world.connected(1, with_cid(1));
    world.carry(1, 9);
    let second = world.connected(1, World::psk(2));
    assert_eq!(world.engine.session_count(), 2);
    world.assert_alive(1, second);
    world.client_sends(9, b"awake");
    world.run(Duration::from_secs(1));
    assert_eq!(world.told(), [Told::Moved(first, 9), Told::Data(first, b"awake".to_vec())]);
    // The same device, rebooted on the same port, does replace itself.
    world.clients.remove(&9);
    world.join(9, with_cid(1));
    world.run(Duration::from_secs(1));
    assert!(world.told().contains(&Told::Closed(first, CloseCause::Replaced)));
}

#[test]
fn a_fresh_address_gets_at_most_three_times_what_came_from_it() {
    let mut world = World::fine();
    let session = world.connected(1, with_cid(1));
    // Where a session was made, nothing is capped.
    for _ in 0..10 {
        world.engine.send(world.now, session, &[0; 1_000], &mut world.recorder).unwrap();
    }
    world.recorder.sent.clear();
    let record = world.client(1).send(b"aim over there");
    world.inject(2, &record);
    let mut sent = 0;
    let refused = (0..100).find_map(|_| {
        let refused = world.engine.send(world.now, session, b"a response", &mut world.recorder).err();
        sent += world.recorder.sent.pop().map_or(0, |(_, datagram)| datagram.len());
        refused
    });
    assert_eq!(refused, Some(SendError::Unproven));
    assert!(sent > 0 && sent <= 3 * record.len(), "{sent}");
    let record = world.client(1).send(b"more");
    world.inject(2, &record);
    assert!(world.engine.send(world.now, session, b"a response", &mut world.recorder).is_ok());
    world.engine.confirm_address(session);
    for _ in 0..10 {
        world.engine.send(world.now, session, &[0; 1_000], &mut world.recorder).unwrap();
    }
}

#[test]
fn a_finished_from_another_address_is_not_taken() {
    let mut world = World::fine();
    world.join(1, with_cid(1));
    world.run(Duration::from_millis(45));
    let flight = world.client(1).handshake_datagrams.clone();
    world.inject(1, &flight[0]);
    world.inject(2, &flight[2]);
    assert_eq!(world.told(), []);
    world.inject(1, &flight[2]);
    assert!(matches!(world.told()[..], [Told::Connected(..)]));
}

#[test]
fn a_record_of_nothing_but_padding_is_dropped() {
    let mut world = World::fine();
    let session = world.connected(1, Config { cid: Some(vec![1]), ..World::psk(1) });
    for length in [0, 1, 40] {
        // The inner content type is a zero like all before it.
        let record = world.client(1).seal(0, &vec![0; length]);
        assert!(world.inject(1, &record).is_empty());
    }
    assert_eq!(world.told(), []);
    world.assert_alive(1, session);
}

#[test]
fn a_record_with_a_connection_id_holds_its_type_within_16384_bytes() {
    let mut world = World::fine();
    let session = world.connected(1, with_cid(1));
    for (length, padding, heard) in
        [((1 << 14) - 1, 0, true), (1 << 14, 0, false), (1_000, 15_383, true), (1_000, 15_384, false)]
    {
        world.client(1).config.padding = padding;
        let data = vec![5; length];
        let record = world.client(1).send(&data);
        world.inject(1, &record);
        let expected = if heard { vec![Told::Data(session, data.clone())] } else { Vec::new() };
        assert_eq!(world.told(), expected, "{length} {padding}");
    }
    for (length, sent) in [((1 << 14) - 1, true), (1 << 14, false)] {
        let result = world.engine.send(world.now, session, &vec![5; length], &mut world.recorder);
        assert_eq!(result.is_ok(), sent, "{length}");
    }
}
