//! What comes in the wrong order, twice, or not at all.

use std::time::Duration;

use tombolo::proto::dtls::{CloseCause, Engine, HandshakeFailure};

use crate::client::{self, *};
use crate::world::*;

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
