//! Publishes that are refused without end, and packet identifiers.

use super::*;
use crate::southbound::mqtt::refusal_rate::{BURST, RATE};
use crate::southbound::mqtt::settings::UNREAD_MAX;

const SECOND: Duration = Duration::from_secs(1);

fn refused(count: u32) -> Vec<u8> {
    publish(true, "zz", Qos::AtMostOnce, 0, b"x").repeat(count as usize)
}

fn next(world: &mut World, client: ConnectionNumber) -> Next {
    world.intake.take_output(world.moment.now, client, &mut Vec::new())
}

#[test]
fn refused_publishes_of_qos_0_are_read_no_faster_than_a_second_allows() {
    let mut world = World::new();
    let (client, other) =
        (world.client(HELLO), world.client(Hello { client_id: "other", keep_alive: 1, ..HELLO }));
    world.say(client, &refused(1_000));
    let first = world.refused.len() as u32;
    assert_eq!(first, BURST + 1, "the one too many is refused as well");
    assert_eq!(next(&mut world, client), Next::Wait);
    assert_eq!(world.pipeline.counters.value(Counter::MqttClientsHeld), 1);
    world.pass(SECOND);
    let more = world.refused.len() as u32 - first;
    assert!((RATE / 2..=RATE + 1).contains(&more), "{more}");
    // Another connection goes on, and what it may publish is taken.
    assert_eq!(next(&mut world, other), Next::Read);
    world.say(other, &one(1, "t/a"));
    assert_eq!(world.taken().len(), 1);
    // What was held back is handled in the end, and the shell is told to read on.
    while world.intake.poll_ready().is_some() {}
    world.pass(10 * SECOND);
    assert_eq!(world.refused.len(), 1_000);
    let ready = std::iter::from_fn(|| world.intake.poll_ready()).collect::<Vec<_>>();
    assert!(ready.contains(&client));
    assert_eq!(next(&mut world, client), Next::Read);
}

#[test]
fn refused_publishes_of_qos_1_are_held_to_the_same_and_those_that_pass_to_nothing() {
    let mut world = World::new();
    let client = world.client(HELLO);
    let many: Vec<u8> = (1..=1_000).flat_map(|id| one(id, "zz")).collect();
    world.say(client, &many);
    assert_eq!(world.refused.len() as u32, BURST + 1);
    let mut world = World::with(Settings::default(), 2_000);
    let client = world.client(HELLO);
    world.say(client, &publish(true, "live/a", Qos::AtMostOnce, 0, b"x").repeat(1_000));
    assert_eq!((world.refused.len(), next(&mut world, client)), (0, Next::Read));
}

#[test]
fn what_costs_no_quota_is_read_no_faster_than_a_second_allows() {
    // 300 SUBSCRIBE with three filters, UNSUBSCRIBE with one, PINGREQ: each filter counts.
    let subscribe = [&[0x82, 3 + 12, 0, 1, 0][..], &[0, 1, b'x', 0].repeat(3)].concat();
    for (packet, each) in [(subscribe, 3), (vec![0xA2, 6, 0, 1, 0, 0, 1, b'x'], 1), (vec![0xC0, 0], 1)] {
        let mut world = World::new();
        let client = world.client(HELLO);
        let other = world.client(Hello { client_id: "other", ..HELLO });
        world.say(client, &packet.repeat(300));
        assert_eq!(next(&mut world, client), Next::Wait, "{packet:02x?}");
        assert_eq!(world.pipeline.counters.value(Counter::MqttClientsHeld), 1);
        assert_eq!(next(&mut world, other), Next::Read);
        world.pass(Duration::from_secs(300 * each / u64::from(RATE) + 1));
        assert_eq!(next(&mut world, client), Next::Read, "{packet:02x?}");
    }
    let mut world = World::new();
    let client = world.client(HELLO);
    world.say(client, &[0xC0, 0].repeat(BURST as usize));
    assert_eq!(next(&mut world, client), Next::Read, "what is within bounds is not held");
}

#[test]
fn a_client_that_is_held_is_not_taken_for_silent() {
    let mut world = World::new();
    let client = world.client(Hello { keep_alive: 1, ..HELLO });
    world.say(client, &refused(BURST + 2 * RATE));
    world.pass(2 * SECOND);
    assert!(!world.is_closed(client));
    world.pass(3 * SECOND);
    assert!(world.is_closed(client), "now it is");
}

/// 200 publishes at once, of which 100 are taken.
fn unanswered(world: &mut World) -> ConnectionNumber {
    let client = world.client(Hello { keep_alive: 4, ..HELLO });
    let many: Vec<u8> = (1..=200).flat_map(|id| one(id, "t/a")).collect();
    world.say(client, &many);
    assert_eq!((world.taken().len(), next(world, client)), (100, Next::Wait));
    client
}

#[test]
fn a_client_that_is_not_read_while_the_disk_stalls_is_not_taken_for_silent() {
    let mut world = World::with(Settings::default(), 2_000);
    let client = unanswered(&mut world);
    world.pass(12 * SECOND);
    assert!(!world.is_closed(client), "its PINGREQ would not be read");
    // From then on its keep-alive counts anew.
    while !world.taken().is_empty() {
        world.commit(true);
    }
    assert_eq!(world.kinds(client), [PUBACK; 200]);
    world.pass(5 * SECOND);
    assert_eq!(next(&mut world, client), Next::Read);
    world.pass(2 * SECOND);
    assert!(world.is_closed(client), "now it is silent");
    assert_eq!(world.ended(), [Ended::Silent]);
}

#[test]
fn a_client_is_not_kept_for_ever_behind_a_disk_that_does_not_come_back() {
    let mut world = World::with(Settings::default(), 2_000);
    let client = unanswered(&mut world);
    world.pass(UNREAD_MAX - SECOND);
    assert!(!world.is_closed(client));
    world.pass(8 * SECOND);
    assert!(world.is_closed(client));
    assert_eq!(world.ended(), [Ended::Silent]);
}

#[test]
fn a_packet_identifier_of_0_is_a_protocol_error() {
    let subscribe = |five: bool| match five {
        true => vec![0x82, 8, 0, 0, 0, 0, 2, b't', b'a', 0],
        false => vec![0x82, 7, 0, 0, 0, 2, b't', b'a', 0],
    };
    let unsubscribe = |five: bool| match five {
        true => vec![0xA2, 7, 0, 0, 0, 0, 2, b't', b'a'],
        false => vec![0xA2, 6, 0, 0, 0, 2, b't', b'a'],
    };
    let publish = |five: bool, first: u8| match five {
        true => vec![first, 9, 0, 3, b't', b'/', b'a', 0, 0, 0, b'x'],
        false => vec![first, 8, 0, 3, b't', b'/', b'a', 0, 0, b'x'],
    };
    for five in [true, false] {
        let packets = [
            publish(five, 0x32),
            publish(five, 0x34),
            subscribe(five),
            unsubscribe(five),
            vec![0x40, 2, 0, 0],
        ];
        for packet in packets.into_iter().chain([vec![0x62, 2, 0, 0]]) {
            let mut world = World::new();
            let client = world.client(if five { HELLO } else { OLD });
            world.say(client, &packet);
            assert!(world.is_closed(client), "{packet:?}");
            assert!(matches!(&world.ended()[..], [Ended::Protocol(_)]), "{packet:?}");
            assert_eq!(world.taken(), [""; 0], "{packet:?}");
        }
    }
}
