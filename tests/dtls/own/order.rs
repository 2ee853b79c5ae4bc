//! What comes in the wrong order, twice, or not at all.

use std::time::Duration;

use tombolo::proto::dtls::{CloseCause, Engine, HandshakeFailure};

use super::*;
use tombolo_test_support::dtls::client::{self, *};

/// All sequences of at most `length` of `steps`.
fn sequences(steps: &[Step], length: usize) -> Vec<Vec<Step>> {
    let mut all = vec![Vec::new()];
    let mut last = all.clone();
    for _ in 0..length {
        last = last
            .iter()
            .flat_map(|prefix| steps.iter().map(move |step| [&prefix[..], &[*step]].concat()))
            .collect();
        all.extend(last.clone());
    }
    all
}

#[test]
fn of_all_orders_of_messages_only_the_right_one_leads_to_a_session() {
    use Step::*;
    let pki = Pki::new();
    let every = [Certificate, EmptyCertificate, KeyExchange, CertificateVerify, Finished, PlainFinished];
    let cases = [
        (Config::certified(&pki.device), vec![Certificate, KeyExchange, CertificateVerify, Finished], 4),
        (Config { own: Some(pki.device.clone()), ..World::psk(1) }, vec![KeyExchange, Finished], 3),
        (
            Config { own: Some(pki.device.clone()), ..World::psk(1) }.with_suite(ECDHE_PSK_CCM8),
            vec![KeyExchange, Finished],
            3,
        ),
    ];
    for (config, right, length) in cases {
        for steps in sequences(&every, length) {
            let mut world = World::certified(&pki);
            world.join(1, Config { steps: Some(steps.clone()), ..config.clone() });
            world.run(Duration::from_millis(900));
            let connected = world.told().iter().any(|told| matches!(told, Told::Connected(..)));
            assert!(!connected || steps.starts_with(&right), "{steps:?}");
            assert!(connected || steps != right, "{steps:?}");
            assert_eq!(world.engine.session_count(), usize::from(connected));
            // And it is given up.
            world.run(Duration::from_secs(90));
            assert_eq!(world.engine.half_open_count(), 0, "{steps:?}");
        }
    }
}

#[test]
fn a_flight_may_arrive_in_any_order_and_any_part_of_it_twice() {
    let pki = Pki::new();
    // Certificate, ClientKeyExchange, CertificateVerify, ChangeCipherSpec, Finished.
    let mut orders = vec![vec![]];
    for n in 0..5 {
        orders = orders
            .into_iter()
            .flat_map(|order: Vec<usize>| {
                (0..=order.len()).map(move |at| {
                    let mut order = order.clone();
                    order.insert(at, n);
                    order
                })
            })
            .collect();
    }
    for cid in [None, Some(vec![3])] {
        for order in &orders {
            let mut world = World::certified(&pki);
            world.join(1, Config { cid: cid.clone(), ..Config::certified(&pki.device) });
            // Two round trips; the flight is made and has not arrived.
            world.run(Duration::from_millis(45));
            let flight = world.client(1).handshake_datagrams.clone();
            assert_eq!(flight.len(), 5);
            for at in order {
                world.inject(1, &flight[*at]);
                world.inject(1, &flight[*at]);
            }
            let told = world.told();
            assert!(matches!(told[..], [Told::Connected(..)]), "{order:?} {told:?}");
        }
    }
}

#[test]
fn records_of_other_epochs_do_not_finish_a_handshake() {
    for epoch in [0u8, 2, 3, 255] {
        let mut world = World::fine();
        world.join(1, World::psk(1));
        world.run(Duration::from_millis(45));
        let mut flight = world.client(1).handshake_datagrams.clone();
        flight[2][4] = epoch;
        for datagram in &flight {
            world.inject(1, datagram);
        }
        assert_eq!(world.told(), []);
    }
}

#[test]
fn data_before_the_finished_is_not_handed_on() {
    let mut world = World::fine();
    world.join(1, World::psk(1));
    world.run(Duration::from_millis(45));
    let flight = world.client(1).handshake_datagrams.clone();
    let data = world.client(1).send(b"early");
    world.inject(1, &flight[0]);
    world.inject(1, &data);
    assert_eq!(world.told(), []);
    world.inject(1, &flight[2]);
    let told = world.told();
    assert!(matches!(told[..], [Told::Connected(..)]), "{told:?}");
    world.inject(1, &data);
    assert_eq!(world.told(), [], "nor when it comes again under the same number");
}

#[test]
fn a_hello_within_a_session_is_refused_with_a_warning_and_changes_nothing() {
    let mut world = World::fine();
    let session = world.connected(1, World::psk(1));
    let hello = client::handshake_message(1, 0, &[0; 60]);
    let record = world.client(1).seal(22, &hello);
    world.upward(1, vec![record]);
    world.run(Duration::from_secs(1));
    assert_eq!(world.client(1).protected_alerts, [(1, 100)]);
    world.assert_alive(1, session);
}

#[test]
fn a_lost_last_flight_is_sent_again_until_data_comes() {
    let mut world = World::fine();
    world.join(1, World::psk(1));
    world.run(Duration::from_millis(45));
    let flight = world.client(1).handshake_datagrams.clone();
    for datagram in &flight {
        world.inject(1, datagram);
    }
    let now = world.now;
    for round in 0..3 {
        let again = world.client(1).resend(now);
        let answers: Vec<_> = again.iter().flat_map(|datagram| world.inject(1, datagram)).collect();
        assert_eq!(answers.len(), 1, "round {round}");
        if round == 2 {
            world.client(1).handle_datagram(now, &answers[0]);
            assert!(world.client(1).connected);
        }
    }
    let session = world.session(1);
    world.assert_alive(1, session);
    let again = world.client(1).resend(now);
    assert!(again.iter().all(|datagram| world.inject(1, datagram).is_empty()), "it has arrived: data came");
}

#[test]
fn a_device_that_rebooted_on_its_port_replaces_its_session_only_when_it_has_proven_itself() {
    let mut world = World::fine();
    let old = world.connected(1, World::psk(1));
    let mut before = world.clients.remove(&1).unwrap();
    world.join(1, World::psk(1));
    world.run(Duration::from_millis(45));
    assert_eq!(world.engine.session_count(), 1);
    assert_eq!(world.engine.half_open_count(), 1);
    let record = before.send(b"still there");
    world.inject(1, &record);
    assert_eq!(world.told(), [Told::Data(old, b"still there".to_vec())]);
    world.run(Duration::from_secs(1));
    let told = world.told();
    let [Told::Closed(closed, CloseCause::Replaced), Told::Connected(new, 1, _)] = told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(closed, old);
    world.assert_alive(1, new);
}

#[test]
fn a_device_without_entropy_gets_in_again_after_a_reboot() {
    let config = Config { fixed_random: Some([4; 32]), ..World::psk(1) };
    let mut world = World::fine();
    let old = world.connected(1, config.clone());
    // At once its hello is taken for a late duplicate.
    world.clients.remove(&1);
    world.join(1, config.clone());
    world.run(Duration::from_secs(30));
    assert_eq!(world.told(), []);
    // When a minute is over none of that age is under way any more.
    world.clients.remove(&1);
    world.run(Duration::from_secs(30));
    world.join(1, config);
    world.run(Duration::from_secs(1));
    let told = world.told();
    assert!(
        matches!(told[..], [Told::Closed(closed, CloseCause::Replaced), Told::Connected(..)] if closed == old),
        "{told:?}"
    );
}

#[test]
fn a_late_duplicate_of_the_hello_starts_nothing() {
    let mut world = World::fine();
    world.join(1, World::psk(1));
    world.run(Duration::from_millis(25));
    let hello = world.client(1).handshake_datagrams.clone();
    world.run(Duration::from_secs(1));
    assert_eq!(world.engine.session_count(), 1);
    assert_eq!(hello.len(), 1);
    assert!(world.inject(1, &hello[0]).is_empty());
    assert_eq!(world.engine.half_open_count(), 0);
}

#[test]
fn a_handshake_that_is_abandoned_is_named_with_its_step() {
    let mut world = World::fine();
    world.join(1, Config { steps: Some(vec![Step::KeyExchange]), ..World::psk(1) });
    world.run(Duration::from_secs(120));
    let told = world.told();
    let [Told::Failed(1, HandshakeFailure::TimedOut { identity: Some(identity), .. })] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(identity[..], b"dev-1"[..]);
}

#[test]
fn change_cipher_spec_may_come_early_late_twice_or_never() {
    // ClientKeyExchange, ChangeCipherSpec, Finished.
    for order in [&[1, 0, 2][..], &[0, 2, 1], &[1, 1, 0, 1, 2, 1], &[2, 0], &[0, 2]] {
        let mut world = World::fine();
        world.join(1, World::psk(1));
        world.run(Duration::from_millis(45));
        let flight = world.client(1).handshake_datagrams.clone();
        order.iter().for_each(|at| drop(world.inject(1, &flight[*at])));
        let told = world.told();
        assert!(matches!(told[..], [Told::Connected(..)]), "{order:?}: {told:?}");
    }
    // By itself it changes nothing.
    let mut world = World::fine();
    world.join(1, World::psk(1));
    world.run(Duration::from_millis(45));
    let flight = world.client(1).handshake_datagrams.clone();
    for _ in 0..10 {
        assert!(world.inject(1, &flight[1]).is_empty());
    }
    assert_eq!(world.told(), []);
}

#[test]
fn a_message_out_of_its_number_leads_nowhere() {
    // The hellos had 0 and 1; the key exchange has 2, the Finished 3.
    for (wrong, harmless) in [(0u16, true), (1, true), (3, false), (4, true), (6, true), (65_535, true)] {
        let mut world = World::fine();
        world.join(1, World::psk(1));
        world.run(Duration::from_millis(45));
        let flight = world.client(1).handshake_datagrams.clone();
        let mut misnumbered = flight[0].clone();
        misnumbered[17..19].copy_from_slice(&wrong.to_be_bytes());
        world.inject(1, &misnumbered);
        world.inject(1, &flight[2]);
        assert_eq!(world.told(), [], "{wrong}");
        // The right one still counts, unless another stands where nothing may follow it.
        world.inject(1, &flight[0]);
        let told = world.told();
        match harmless {
            true => assert!(matches!(told[..], [Told::Connected(..)]), "{wrong}: {told:?}"),
            false => assert!(matches!(told[..], [Told::Failed(..)]), "{wrong}: {told:?}"),
        }
    }
}

#[test]
fn a_second_message_of_the_same_number_changes_nothing() {
    let mut world = World::fine();
    world.join(1, World::psk(1));
    world.run(Duration::from_millis(45));
    let flight = world.client(1).handshake_datagrams.clone();
    world.inject(1, &flight[0]);
    for kind in [11, 15, 16, 20] {
        world.inject(1, &record(22, 0, 50, &handshake_message(kind, 2, b"\0\x05dev-9")));
    }
    world.inject(1, &flight[2]);
    let told = world.told();
    assert!(
        matches!(&told[..], [Told::Connected(_, 1, identity)] if format!("{identity:?}").contains("dev-1"))
    );
}

#[test]
fn messages_under_the_keys_do_not_stand_for_those_in_the_clear() {
    let pki = Pki::new();
    for config in [World::psk(1), Config::certified(&pki.device)] {
        let mut world = World::certified(&pki);
        world.join(1, config);
        world.run(Duration::from_millis(45));
        let flight = world.client(1).handshake_datagrams.clone();
        let (finished, clear) = flight.split_last().unwrap();
        for datagram in clear {
            let message = datagram[13..].to_vec();
            let sealed = world.client(1).seal(22, &message);
            world.inject(1, &sealed);
        }
        world.inject(1, finished);
        assert_eq!(world.told(), []);
        clear.iter().for_each(|datagram| drop(world.inject(1, datagram)));
        world.inject(1, finished);
        let told = world.told();
        assert!(matches!(told[..], [Told::Connected(..)]), "{told:?}");
    }
}

#[test]
fn no_handshake_message_disturbs_a_session() {
    let mut world = World::fine();
    let session = world.connected(1, World::psk(1));
    for kind in 0..=255 {
        for sequence in 0..5 {
            let message = handshake_message(kind, sequence, &[0; 40]);
            world.inject(1, &record(22, 0, 60, &message));
            let sealed = world.client(1).seal(22, &message);
            world.inject(1, &sealed);
        }
    }
    // Warnings neither, of a kind known or not, nor what is no alert.
    for alert in [&[1, 90][..], &[1, 255], &[0, 0x7f], &[1], &[], &[1, 90, 0]] {
        let sealed = world.client(1).seal(21, alert);
        world.inject(1, &sealed);
    }
    let told = world.told();
    assert!(told.iter().all(|told| !matches!(told, Told::Closed(..) | Told::Connected(..))), "{told:?}");
    world.recorder.sent.clear();
    world.assert_alive(1, session);
    assert_eq!(world.engine.half_open_count(), 0);
}

#[test]
fn records_are_numbered_as_the_standard_has_it() {
    let number = |datagram: &[u8]| datagram[3..11].iter().fold(0, |n: u64, byte| n << 8 | u64::from(*byte));
    let mut world = World::fine();
    let mut client = client::Client::new(World::psk(1));
    let mut hello = client.start(world.now).remove(0);
    hello[10] = 41;
    let request = world.inject(1, &hello).remove(0);
    assert_eq!((number(&request), &request[25..27]), (41, &[0xfe, 0xff][..]), "that of the hello; DTLS 1.0");
    assert_eq!(request[17..19], [0, 0], "message_seq 0");
    let mut hello = client.handle_datagram(world.now, &request).remove(0);
    hello[10] = 77;
    let answer = world.inject(1, &hello).remove(0);
    assert_eq!((number(&answer), &answer[17..19]), (77, &[0, 1][..]), "that of the hello; message_seq 1");
    let flight = client.handle_datagram(world.now, &answer);
    // The same flight again has other numbers and the same messages.
    world.now = world.engine.poll_timeout().unwrap();
    world.engine.handle_timeout(world.now, &mut world.recorder);
    let (_, again) = world.recorder.sent.remove(0);
    assert!(number(&again) > 77);
    assert_eq!((again.len(), &again[13..60]), (answer.len(), &answer[13..60]));
    world.recorder.sent.clear();
    let last: Vec<Vec<u8>> = flight.iter().flat_map(|datagram| world.inject(1, datagram)).collect();
    for datagram in last {
        client.handle_datagram(world.now, &datagram);
    }
    assert!(client.connected);
    assert_eq!(client.numbers, [1 << 48], "epoch 1, number 0");
}

/// A hello with its cookie, its message and its record under these numbers; what comes back.
fn numbered(world: &mut World, port: u16, message: u16, record: u64) -> Vec<Vec<u8>> {
    let mut client = client::Client::new(World::psk(1));
    let hello = client.start(world.now).remove(0);
    let request = world.inject(port, &hello).remove(0);
    let mut hello = client.handle_datagram(world.now, &request).remove(0);
    hello[5..11].copy_from_slice(&record.to_be_bytes()[2..]);
    hello[17..19].copy_from_slice(&message.to_be_bytes());
    world.inject(port, &hello)
}

#[test]
fn a_hello_whose_numbers_leave_none_for_the_answer_ends_the_handshake() {
    let mut world = World::fine();
    for (message, record) in
        [(u16::MAX, 1), (u16::MAX - 1, 1), (u16::MAX - 8, 1), (1, (1 << 48) - 1), (1, (1 << 48) - 5)]
    {
        let answers = numbered(&mut world, 1, message, record);
        assert_eq!(answers.len(), 1, "{message} {record}");
        assert_eq!(answers[0][13..], [2, 47], "illegal_parameter");
        assert_eq!(world.engine.half_open_count(), 0);
        world.run(Duration::from_secs(1));
    }
    assert_eq!(world.told().len(), 5);
    // As high as they may be: all of ours still follow one another.
    for (port, message, record) in [(2, u16::MAX - 16, 1), (3, 1, (1 << 48) - (1 << 24))] {
        let answers = numbered(&mut world, port, message, record);
        assert_eq!((answers[0][13], &answers[0][17..19]), (2, &message.to_be_bytes()[..]), "a ServerHello");
        for _ in 0..100 {
            let Some(next) = world.engine.poll_timeout() else { break };
            world.now = next;
            world.engine.handle_timeout(next, &mut world.recorder);
        }
        let numbers =
            world.recorder.sent.drain(..).map(|(_, datagram)| {
                datagram[5..11].iter().fold(0, |n: u64, byte| n << 8 | u64::from(*byte))
            });
        assert!(numbers.collect::<Vec<_>>().is_sorted_by(|a, b| a < b));
    }
}

#[test]
fn a_message_of_a_wrapped_number_is_not_taken_for_the_one_expected() {
    let mut world = World::fine();
    numbered(&mut world, 1, u16::MAX - 16, 1);
    // What the client would send next, with numbers behind the last.
    for sequence in [0u16, 1, u16::MAX] {
        world.inject(1, &record(22, 0, 9, &handshake_message(16, sequence, b"\0\x05dev-1")));
    }
    assert_eq!(world.told(), []);
    assert_eq!(world.engine.half_open_count(), 1);
}

#[test]
fn a_goodbye_under_the_keys_before_the_finished_ends_the_handshake() {
    for alert in [[1, 0], [2, 0], [2, 90]] {
        let mut world = World::fine();
        world.join(1, World::psk(1));
        world.run(Duration::from_millis(45));
        let flight = world.client(1).handshake_datagrams.clone();
        world.inject(1, &flight[0]);
        let goodbye = world.client(1).seal(21, &alert);
        assert!(world.inject(1, &goodbye).is_empty());
        let told = world.told();
        let [Told::Failed(1, HandshakeFailure::PeerAlert { description, .. })] = told[..] else {
            panic!("{told:?}")
        };
        assert_eq!((description, world.engine.half_open_count()), (alert[1], 0));
        // Any other warning does not.
        world.clients.clear();
        world.join(2, World::psk(2));
        world.run(Duration::from_millis(45));
        let flight = world.client(2).handshake_datagrams.clone();
        world.inject(2, &flight[0]);
        let warning = world.client(2).seal(21, &[1, 90]);
        world.inject(2, &warning);
        assert_eq!((world.told(), world.engine.half_open_count()), (vec![], 1));
    }
}
