//! How fast everything goes: the owner's caps, the broker's complaints, the backlog.

use std::collections::VecDeque;
use std::time::Duration;

use tombolo::message::{Content, Envelope, Lane, Method};
use tombolo::northbound::publisher::Event as PublisherEvent;
use tombolo::northbound::uplink::Event;

use crate::support::{World, bare_settings, settings};
use tombolo_test_support::broker::{Delivered, Reply};

const SECOND: Duration = Duration::from_secs(1);

/// Takes `rate` publishes in any second and meets the others with `over`.
fn quota(rate: usize, over: Reply) -> Box<dyn FnMut(&Delivered) -> Reply> {
    let mut taken: VecDeque<Duration> = VecDeque::new();
    Box::new(move |delivered| {
        while taken.front().is_some_and(|at| *at + SECOND <= delivered.at) {
            taken.pop_front();
        }
        if taken.len() >= rate {
            return over;
        }
        taken.push_back(delivered.at);
        Reply::Ack(0)
    })
}

#[test]
fn a_burst_of_300_at_100_a_second_arrives_within_seconds_and_an_alarm_in_its_midst_within_one() {
    let mut settings = bare_settings();
    settings.max_publish_rate = 100;
    let mut world = World::new(settings);
    world.broker.policy = quota(100, Reply::Drop);
    world.broker.delay = Duration::from_millis(30);
    for number in 0..300u32 {
        world.store(Lane::Normal, "n", number.to_string().as_bytes());
    }
    world.run_for(Duration::from_millis(1500));
    let stored = world.elapsed();
    world.store(Lane::High, "alarm", b"!");
    world.run_for(2 * SECOND);
    let alarm = world.broker.delivered.iter().find(|d| d.topic == "alarm").unwrap();
    assert!(alarm.at - stored < SECOND / 10, "{:?}", alarm.at - stored);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    assert_eq!(world.broker.delivered.len(), 301);
    assert_eq!(world.broker.links, 1);
}

#[test]
fn a_broker_that_drops_what_is_too_fast_gets_all_of_2000_within_two_minutes_without_any_setting() {
    let mut world = World::new(bare_settings());
    world.broker.policy = quota(100, Reply::Drop);
    world.broker.delay = Duration::from_millis(30);
    for number in 0..2000u32 {
        world.store(Lane::Normal, &format!("t/{}", number % 9), number.to_string().as_bytes());
    }
    world.run_for(120 * SECOND);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0, "{:?}", world.status());
    assert!(world.outbox.rejected.is_empty());
    let payloads = world.payloads();
    assert!(payloads.len() < 2000 + 100, "what was answered is not repeated: {}", payloads.len());
    let (limit, lowered) = world.status().rate_limit.unwrap();
    assert!(lowered && (30.0..=250.0).contains(&limit), "{limit}");
}

#[test]
fn quota_codes_lower_the_rate_condemn_nobody_and_success_raises_it_again() {
    for code in [0x93, 0x96, 0x97] {
        let mut world = World::new(bare_settings());
        world.broker.policy = quota(50, Reply::Ack(code));
        world.broker.delay = Duration::from_millis(20);
        for number in 0..2000u32 {
            world.store(Lane::Normal, &format!("t/{}", number % 9), number.to_string().as_bytes());
        }
        world.run_for(180 * SECOND);
        assert_eq!(world.outbox.waiting(Lane::Normal), 0, "{code:#x}: {:?}", world.status());
        assert!(world.outbox.rejected.is_empty(), "{code:#x}");
        assert!(world.count(|e| matches!(e, Event::Publisher(PublisherEvent::RateLowered { .. }))) >= 1);
        assert_eq!(world.broker.links, 1);
        // The quota is lifted: within the hour nothing limits any more.
        world.broker.policy = Box::new(|_| Reply::Ack(0));
        for _ in 0..3600 {
            for _ in 0..20 {
                world.store(Lane::Normal, "n", b"1");
            }
            world.run_for(SECOND);
        }
        assert!(
            world.status().rate_limit.is_none_or(|(limit, _)| limit > 500.0),
            "{:?}",
            world.status().rate_limit
        );
    }
}

#[test]
fn a_disconnect_for_the_rate_lowers_it_and_accuses_nobody() {
    for code in [0x93, 0x96, 0x97] {
        let mut world = World::new(bare_settings());
        world.broker.policy = quota(50, Reply::Disconnect(code));
        world.broker.delay = Duration::from_millis(20);
        for number in 0..1000u32 {
            world.store(Lane::Normal, &format!("t/{}", number % 9), number.to_string().as_bytes());
        }
        world.run_for(300 * SECOND);
        assert_eq!(world.outbox.waiting(Lane::Normal), 0, "{code:#x}: {:?}", world.status());
        assert!(world.outbox.rejected.is_empty(), "{code:#x}");
    }
}

#[test]
fn a_record_that_is_too_much_whenever_it_is_sent_is_put_aside_after_three_trials_alone() {
    for reply in [Reply::Ack(0x97), Reply::Ack(0x96), Reply::Disconnect(0x97)] {
        let mut world = World::new(bare_settings());
        world.broker.delay = Duration::from_millis(20);
        world.broker.policy = Box::new(move |d| if d.topic == "bad" { reply } else { Reply::Ack(0) });
        world.store(Lane::Normal, "bad", b"1");
        for _ in 0..120 {
            world.store(Lane::Normal, "good", b"1");
            world.run_for(SECOND);
        }
        assert_eq!(world.outbox.rejected.len(), 1, "{reply:?}: {:?}", world.status());
        assert_eq!(world.outbox.rejected[0].1, 1);
        world.run_for(60 * SECOND);
        assert_eq!(world.outbox.waiting(Lane::Normal), 0, "{reply:?}");
    }
}

#[test]
fn the_cap_holds_for_everything_that_is_published() {
    let mut settings = settings();
    settings.max_publish_rate = 50;
    let mut world = World::new(settings);
    world.broker.policy = quota(50, Reply::Disconnect(0x96));
    for number in 0..500u32 {
        let content = Content {
            device: "d",
            path: "p",
            query: None,
            topic: "v",
            method: Method::Post,
            content_format: None,
            retain: false,
            test: false,
            reply: None,
            envelope: Envelope::None,
            expires_s: None,
            received: world.moment.stamp(),
            payload: b"1",
        };
        world.uplink.push_volatile(&content);
        world.uplink.set_device_status(&format!("d{number}"), b"{}".to_vec());
        world.store(Lane::ALL[number as usize % 2], "n", b"1");
    }
    world.run_for(40 * SECOND);
    assert_eq!(world.broker.links, 1, "the broker was never asked too much");
    assert_eq!(world.broker.delivered.len(), 1501);
}

#[test]
fn bytes_are_capped_too() {
    let mut settings = bare_settings();
    settings.max_byte_rate = 10_000;
    let mut world = World::new(settings);
    for _ in 0..200 {
        world.store(Lane::Normal, "n", &[b'x'; 900]);
    }
    world.run_for(10 * SECOND);
    let bytes: usize = world.broker.delivered.iter().map(|d| d.payload.len()).sum();
    assert!((75_000..=100_000).contains(&bytes), "{bytes}");
    world.run_for(12 * SECOND);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
}

#[test]
fn a_backlog_shrinks_by_the_drain_rate_whatever_comes_in() {
    let mut settings = bare_settings();
    settings.drain_rate = 20;
    let mut world = World::new(settings);
    world.broker.reachable = false;
    for number in 0..40_000u32 {
        world.store(Lane::Normal, "old", number.to_string().as_bytes());
    }
    world.run_for(120 * SECOND);
    world.broker.reachable = true;
    world.uplink.retry_now(world.moment.now);
    // 200 readings a second come in, ten times the drain rate.
    let mut left = Vec::new();
    for _ in 0..120 {
        for _ in 0..200 {
            world.store(Lane::Normal, "new", b"1");
        }
        world.run_for(SECOND);
        left.push(world.outbox.waiting(Lane::Normal));
    }
    let shrunk = left[40] - left[119];
    assert!((20 * 79 * 8 / 10..20 * 79 * 13 / 10).contains(&shrunk), "{shrunk}: {left:?}");
}
