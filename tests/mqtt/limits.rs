//! What the broker allows is kept.

use std::time::Duration;

use mqtt_protocol_core::mqtt::packet::Qos;
use tombolo::message::Lane;

use crate::support::{STATUS, World, bare_settings, settings};
use tombolo_test_support::broker::{Reply, Welcome};

#[test]
fn receive_maximum_1_still_drains_both_lanes_and_the_statuses() {
    let mut world = World::new(settings());
    world.broker.receive_maximum = Some(1);
    for number in 0..50 {
        world.store(Lane::Normal, "n", b"1");
        world.store(Lane::High, "h", b"1");
        world.uplink.set_device_status(&format!("d{number}"), b"{}".to_vec());
    }
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.outbox.waiting(Lane::Normal) + world.outbox.waiting(Lane::High), 0);
    assert_eq!(world.broker.most_in_flight, 1);
    assert_eq!(world.broker.retained.len(), 51);
}

#[test]
fn the_window_is_the_least_of_receive_maximum_and_max_in_flight() {
    for (receive_maximum, max_in_flight, window) in
        [(20, 1000, 20), (500, 100, 100), (65_535, 65_535, 65_000)]
    {
        let mut settings = bare_settings();
        settings.max_in_flight = max_in_flight;
        let mut world = World::new(settings);
        world.broker.receive_maximum = Some(receive_maximum);
        world.broker.policy = Box::new(|_| Reply::Hold);
        for _ in 0..window + 10 {
            world.store(Lane::Normal, "n", b"1");
        }
        world.run_for(Duration::from_millis(100));
        assert_eq!(world.broker.most_in_flight, usize::from(window));
        assert_eq!(world.status().window, window);
    }
}

#[test]
fn towards_a_broker_without_qos_1_a_ping_answered_stands_for_the_puback() {
    let mut world = World::new(settings());
    world.broker.maximum_qos = Some(0);
    world.broker.v5 = Welcome::Accept;
    world.run_for(Duration::from_secs(1));
    for number in 0..2500 {
        world.store(Lane::Normal, "n", number.to_string().as_bytes());
    }
    world.broker.answers_pings = false;
    world.settle();
    assert!(world.outbox.released[1].is_empty(), "written is not yet read");
    world.kill_broker();
    world.broker.answers_pings = true;
    world.broker.reachable = true;
    world.broker.delivered.clear();
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    let records: Vec<_> = world.broker.delivered.iter().filter(|d| d.topic == "n").collect();
    assert_eq!(records.len(), 2500);
    assert!(records.iter().all(|d| d.qos == Qos::AtMostOnce));
}

#[test]
fn a_will_the_broker_cannot_take_is_made_smaller() {
    let mut world = World::new(settings());
    world.broker.v5 = Welcome::Code(0x9B);
    world.settle();
    world.broker.v5 = Welcome::Code(0x9A);
    while world.broker.connects.len() < 2 {
        world.run_for(Duration::from_millis(10));
    }
    world.broker.v5 = Welcome::Accept;
    world.broker.maximum_qos = Some(0);
    world.broker.retain_available = Some(0);
    world.run_for(Duration::from_secs(10));
    let wills: Vec<_> = world.broker.connects.iter().map(|c| c.will.clone().unwrap()).collect();
    assert_eq!((wills[0].2, wills[0].3), (Qos::AtLeastOnce, true));
    assert_eq!((wills[1].2, wills[1].3), (Qos::AtMostOnce, true));
    assert_eq!((wills[2].2, wills[2].3), (Qos::AtMostOnce, false));
    assert!(world.uplink.is_connected());
    // The broker checks that neither retain nor QoS 1 is used.
    let mut item = world.item("a", b"1");
    item.retain = true;
    world.outbox.push(Lane::Normal, item);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    assert!(world.broker.delivered.iter().any(|d| d.topic == STATUS));
}

#[test]
fn a_client_id_the_broker_gives_is_reported() {
    use tombolo::northbound::uplink::Event;
    let mut world = World::new(bare_settings());
    world.broker.assigned_client_id = Some("auto-1".to_owned());
    world.settle();
    assert_eq!(
        world.count(|e| matches!(e, Event::Connected { assigned_client_id: Some(id), .. } if id == "auto-1")),
        1
    );
}
