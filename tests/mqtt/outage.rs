//! Long outages and what comes after them.

use std::time::Duration;

use tombolo::message::{Lane, Stamp};

use crate::support::{World, bare_settings};

#[test]
fn a_weeks_backlog_drains_in_order_at_the_drain_rate_while_fresh_alarms_pass() {
    let mut world = World::new(bare_settings());
    world.broker.reachable = false;
    world.settle();
    let week = Duration::from_secs(7 * 86_400);
    for number in 0..30_000u32 {
        let mut item = world.item("old", number.to_string().as_bytes());
        item.received.boottime_ms += u64::from(number) * (week.as_millis() as u64 / 30_000);
        world.outbox.push(Lane::Normal, item);
    }
    world.run_for(week);
    let attempts = world.attempts.len();
    assert!(attempts > 2000 && attempts < 4500, "{attempts}");
    world.broker.reachable = true;
    world.uplink.retry_now(world.moment.now);
    let begun = world.elapsed();
    for second in 1..=40u64 {
        world.store(Lane::High, "alarm", second.to_string().as_bytes());
        world.settle();
        let alarm = world.broker.delivered.iter().rev().find(|d| d.topic == "alarm").unwrap();
        assert_eq!(alarm.payload, second.to_string().as_bytes(), "an alarm waits for nothing");
        world.run_for(Duration::from_secs(1));
        let drained = world.broker.delivered.iter().filter(|d| d.topic == "old").count() as u64;
        assert!(drained <= 1000 * second + 200, "{drained} after {second} s");
        assert!(drained >= (1000 * second).min(30_000) - 10, "{drained} after {second} s");
    }
    let old: Vec<_> = world.broker.delivered.iter().filter(|d| d.topic == "old").collect();
    assert_eq!(old.len(), 30_000);
    assert!(old.iter().zip(0u32..).all(|(d, number)| d.payload == number.to_string().as_bytes()));
    assert!(old.last().unwrap().at - begun >= Duration::from_secs(29));
}

#[test]
fn without_a_drain_rate_the_backlog_goes_as_fast_as_it_can() {
    let mut settings = bare_settings();
    settings.drain_rate = 0;
    let mut world = World::new(settings);
    world.broker.reachable = false;
    for _ in 0..20_000 {
        world.store(Lane::Normal, "old", b"1");
    }
    world.run_for(Duration::from_secs(600));
    world.broker.reachable = true;
    world.run_for(Duration::from_secs(301));
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
}

#[test]
fn fresh_records_are_not_paced() {
    let mut settings = bare_settings();
    settings.drain_rate = 1;
    let mut world = World::new(settings);
    for _ in 0..5000 {
        world.store(Lane::Normal, "n", b"1");
    }
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
}

#[test]
fn records_of_an_earlier_boot_and_unknown_age_are_paced() {
    let mut settings = bare_settings();
    settings.drain_rate = 100;
    let mut world = World::new(settings);
    for _ in 0..1000 {
        let mut item = world.item("n", b"1");
        item.same_boot = false;
        item.received = Stamp { boottime_ms: 5, wall_ms: None };
        world.outbox.push(Lane::Normal, item);
    }
    world.run_for(Duration::from_secs(5));
    let sent = world.broker.delivered.len();
    assert!((490..=520).contains(&sent), "{sent}");
}

#[test]
fn fifty_broker_restarts_lose_nothing_and_repeat_at_most_a_window() {
    let mut settings = bare_settings();
    settings.max_in_flight = 20;
    let mut world = World::new(settings);
    let mut stored = 0;
    for round in 0..50u64 {
        for _ in 0..30 {
            stored += 1;
            world.store(Lane::Normal, "n", stored.to_string().as_bytes());
        }
        // Killed in the midst of it: the last answers of this round never come.
        let dies_after = 3 + round % 20;
        let mut seen = 0;
        world.broker.policy = Box::new(move |_| {
            seen += 1;
            use tombolo_test_support::broker::Reply;
            if seen > dies_after { Reply::Hold } else { Reply::Ack(0) }
        });
        world.run_for(Duration::from_secs(2));
        world.kill_broker();
        world.run_for(Duration::from_secs(5));
        world.broker.reachable = true;
    }
    world.broker.policy = Box::new(|_| tombolo_test_support::broker::Reply::Ack(0));
    world.run_for(Duration::from_secs(700));
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    assert!(world.outbox.rejected.is_empty());
    let payloads = world.payloads();
    let repeats = payloads.len() - stored;
    assert!(repeats <= 20 * 50, "{repeats}");
    let mut unique: Vec<u32> = payloads.iter().map(|p| p.parse().unwrap()).collect();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), stored);
}
