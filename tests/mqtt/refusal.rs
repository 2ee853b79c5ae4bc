//! What the broker refuses or closes over: whose fault it is, and that everybody else flows.

use std::time::Duration;

use tombolo::message::{Content, Envelope, Lane, Method};
use tombolo::northbound::publisher::Event as PublisherEvent;
use tombolo::northbound::publisher::Skip;
use tombolo::northbound::reason_code::Cause;
use tombolo::northbound::settings::{Protocol, Settings};
use tombolo::northbound::uplink::Event;

use crate::support::{STATUS, World, bare_settings, settings};
use tombolo_test_support::broker::{Delivered, Reply, Welcome};

const SECOND: Duration = Duration::from_secs(1);

/// Answers so to what is said on topics that begin with `bad`, and well to all else.
fn on_bad(reply: Reply) -> Box<dyn FnMut(&Delivered) -> Reply> {
    Box::new(move |delivered| if delivered.topic.starts_with("bad") { reply } else { Reply::Ack(0) })
}

fn ten_with_a_bad_third(world: &mut World) {
    for number in 1..=10 {
        let topic = if number == 3 { "bad" } else { "good" };
        world.store(Lane::Normal, topic, number.to_string().as_bytes());
    }
}

const THE_OTHERS: [&str; 9] = ["1", "2", "4", "5", "6", "7", "8", "9", "10"];

/// One reading a second on another topic.
fn traffic(world: &mut World, seconds: u64) {
    for _ in 0..seconds {
        world.store(Lane::Normal, "good", b"more");
        world.run_for(SECOND);
    }
}

#[test]
fn every_code_puts_the_one_record_aside_and_all_others_flow() {
    for code in [0x80, 0x83, 0x87, 0x90, 0x91, 0x95, 0x99, 0xC5] {
        let mut world = World::new(bare_settings());
        world.broker.policy = on_bad(Reply::Ack(code));
        ten_with_a_bad_third(&mut world);
        world.settle();
        assert_eq!(world.payloads(), THE_OTHERS, "{code:#x}");
        assert!(world.outbox.rejected.is_empty(), "nobody is condemned on the spot");
        assert_eq!(world.status().suspects.len(), 1);
        traffic(&mut world, 5);
        assert_eq!(world.outbox.rejected, [(Lane::Normal, 3, Cause::Code(code))]);
        assert_eq!(world.outbox.waiting(Lane::Normal), 0);
        assert_eq!(world.broker.links, 1);
        assert_eq!(world.status().counters.rejected, 1);
        assert_eq!(world.status().suspect_count, 0);
    }
}

#[test]
fn without_further_traffic_the_record_is_tried_four_times_within_ten_seconds_and_put_aside() {
    let mut world = World::new(bare_settings());
    world.broker.policy = on_bad(Reply::Ack(0x87));
    ten_with_a_bad_third(&mut world);
    world.run_for(10 * SECOND);
    assert_eq!(world.outbox.rejected, [(Lane::Normal, 3, Cause::Code(0x87))]);
    assert_eq!(world.status().counters.sent, 10 + 4);
}

#[test]
fn a_broker_that_refuses_everything_condemns_nobody_and_is_not_flooded() {
    for code in [0x80, 0x83, 0x87, 0x90, 0x95, 0x97, 0x99] {
        let mut world = World::new(settings());
        world.broker.policy =
            Box::new(move |d| if d.topic == STATUS { Reply::Ack(0) } else { Reply::Ack(code) });
        for number in 0..3000u32 {
            let lane = Lane::ALL[number as usize % 2];
            world.store(lane, &format!("t/{}", number % 7), number.to_string().as_bytes());
        }
        world.run_for(3600 * SECOND);
        assert!(world.outbox.rejected.is_empty(), "{code:#x}: {:?}", world.outbox.rejected);
        let sent = world.status().counters.sent;
        assert!(sent < 1000 + 200, "{code:#x}: a window, then a few a minute: {sent}");
        assert!(world.status().nothing_taken.is_some());
        world.broker.policy = Box::new(|_| Reply::Ack(0));
        world.run_for(301 * SECOND);
        // By then it flows again, at whatever rate the complaints have left.
        world.run_for(600 * SECOND);
        assert_eq!(world.outbox.waiting(Lane::Normal) + world.outbox.waiting(Lane::High), 0, "{code:#x}");
        assert!(world.outbox.rejected.is_empty(), "{code:#x}");
        assert_eq!(world.broker.links, 1);
    }
}

#[test]
fn a_broker_that_falls_in_and_out_of_refusing_everything_condemns_nobody() {
    for code in [0x80, 0x87, 0x99] {
        for (period, rate) in [(7, 10), (60, 3), (61, 1), (300, 2)] {
            let mut world = World::new(bare_settings());
            world.broker.delay = Duration::from_millis(40);
            world.broker.policy =
                Box::new(
                    move |d| {
                        if d.at.as_secs() / period % 2 == 1 { Reply::Ack(code) } else { Reply::Ack(0) }
                    },
                );
            for number in 0..1800u32 * rate {
                world.store(Lane::Normal, &format!("t/{}", number % 5), b"1");
                world.run_for(SECOND / rate);
            }
            assert!(
                world.outbox.rejected.is_empty(),
                "{code:#x}, every {period} s: {:?}",
                world.outbox.rejected
            );
            world.broker.policy = Box::new(|_| Reply::Ack(0));
            world.run_for(600 * SECOND);
            assert_eq!(world.outbox.waiting(Lane::Normal), 0);
        }
    }
}

#[test]
fn ten_bad_among_ten_good_hold_nobody_up() {
    for (reply, protocol, within) in [
        (Reply::Ack(0x87), Protocol::V5, 12),
        (Reply::Ack(0x83), Protocol::V5, 12),
        (Reply::Close, Protocol::V3_1_1, 150),
        (Reply::Disconnect(0x87), Protocol::V5, 150),
    ] {
        let mut settings = bare_settings();
        settings.protocol = protocol;
        let mut world = World::new(settings);
        world.broker.policy = on_bad(reply);
        for number in 0..20 {
            let topic = if number % 2 == 1 { format!("bad/{number}") } else { "good".to_owned() };
            world.store(Lane::Normal, &topic, number.to_string().as_bytes());
        }
        let good = |world: &World| world.broker.delivered.iter().filter(|d| d.payload != b"more").count();
        let mut all_good_after = None;
        for second in 0..within {
            traffic(&mut world, 1);
            if all_good_after.is_none() && good(&world) == 10 {
                all_good_after = Some(second);
            }
        }
        assert_eq!(world.outbox.rejected.len(), 10, "{reply:?}: {:?}", world.outbox.rejected);
        assert!(world.outbox.rejected.iter().all(|(_, sequence, _)| sequence % 2 == 0), "{reply:?}");
        let limit = if matches!(reply, Reply::Ack(_)) { 2 } else { 60 };
        assert!(all_good_after.is_some_and(|after| after <= limit), "{reply:?}: {all_good_after:?}");
        assert_eq!(world.outbox.waiting(Lane::Normal), 0, "{reply:?}");
    }
}

#[test]
fn a_denied_topic_that_keeps_coming_costs_few_connections_and_holds_nobody_up() {
    let mut settings = settings();
    settings.protocol = Protocol::V3_1_1;
    let mut world = World::new(settings);
    world.broker.policy = on_bad(Reply::Close);
    let mut latest = Duration::ZERO;
    for second in 0..540u64 {
        if second % 10 == 5 {
            world.store(Lane::Normal, "bad", b"bad");
        }
        let stored = world.elapsed();
        world.store(Lane::Normal, "good", second.to_string().as_bytes());
        world.run_for(SECOND);
        let seen = world.broker.delivered.iter().filter(|d| d.topic == "good").count() as u64;
        if seen <= second {
            latest = latest.max(world.elapsed() - stored);
        }
        assert!(second + 1 - seen <= 10, "{second}: {seen}");
    }
    world.run_for(60 * SECOND);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0, "{:?}", world.status());
    assert_eq!(world.outbox.rejected.len(), 54);
    assert!(world.broker.links < 90, "{}", world.broker.links);
}

#[test]
fn a_flood_on_a_denied_topic_costs_the_others_nothing() {
    let mut world = World::new(bare_settings());
    world.broker.policy = on_bad(Reply::Ack(0x87));
    world.broker.delay = Duration::from_millis(20);
    world.broker.receive_maximum = Some(20);
    for _ in 0..60 {
        for number in 0..20 {
            world.store(Lane::Normal, if number % 2 == 0 { "bad" } else { "good" }, b"1");
        }
        world.run_for(SECOND);
    }
    let good = world.broker.delivered.len();
    assert!(good >= 590, "{good}");
    world.run_for(120 * SECOND);
    // A last sign that the broker takes others.
    traffic(&mut world, 30);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0, "{:?}", world.status());
    assert_eq!(world.outbox.rejected.len(), 600);
    // Most are condemned with the one that stands for them.
    assert!(world.status().counters.sent < 600 + 60 + 300, "{:?}", world.status().counters);
}

#[test]
fn a_topic_that_is_allowed_again_is_believed_at_once() {
    for reply in [Reply::Ack(0x87), Reply::Close] {
        let mut world = World::new(bare_settings());
        world.broker.policy = on_bad(reply);
        for _ in 0..120 {
            world.store(Lane::Normal, "bad", b"denied");
            traffic(&mut world, 1);
        }
        assert!(world.outbox.rejected.len() > 90, "{reply:?}: {}", world.outbox.rejected.len());
        world.broker.policy = Box::new(|_| Reply::Ack(0));
        traffic(&mut world, 20);
        for number in 0..50u32 {
            world.store(Lane::Normal, "bad", number.to_string().as_bytes());
            traffic(&mut world, 1);
        }
        assert_eq!(world.outbox.waiting(Lane::Normal), 0);
        let since_then: Vec<_> = world
            .broker
            .delivered
            .iter()
            .filter(|d| d.topic == "bad" && d.payload != b"denied")
            .map(|d| String::from_utf8_lossy(&d.payload).parse::<u32>().unwrap())
            .collect();
        assert_eq!(since_then, (0..50).collect::<Vec<_>>(), "{reply:?}");
    }
}

#[test]
fn a_payload_the_broker_drops_is_told_from_its_topic() {
    let mut world = World::new(bare_settings());
    world.broker.policy = Box::new(|d| if d.payload == b"bad" { Reply::Ack(0x83) } else { Reply::Ack(0) });
    for number in 0..200 {
        world.store(Lane::Normal, "a", if number % 10 == 9 { b"bad" } else { b"yes" });
        world.store(Lane::Normal, "b", b"yes");
        world.run_for(SECOND);
    }
    world.run_for(10 * SECOND);
    traffic(&mut world, 5);
    assert_eq!(world.outbox.rejected.len(), 20);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    let taken = world.broker.delivered.iter().filter(|d| d.topic == "a").count();
    assert_eq!(taken, 180);
}

#[test]
fn with_one_topic_only_nobody_is_condemned_within_minutes_and_the_others_flow() {
    let mut world = World::new(bare_settings());
    world.broker.policy = Box::new(|d| if d.payload == b"bad" { Reply::Ack(0x99) } else { Reply::Ack(0) });
    for number in 0..300 {
        world.store(Lane::Normal, "a", if number == 10 { b"bad" } else { b"yes" });
        world.run_for(SECOND);
    }
    assert_eq!(world.broker.delivered.len(), 299);
    assert!(world.outbox.rejected.is_empty());
    // Ten refusals over a quarter of an hour, with others of its own topic taken in between, are
    // evidence as well.
    for _ in 0..1200 {
        world.store(Lane::Normal, "a", b"yes");
        world.run_for(SECOND);
    }
    assert_eq!(world.outbox.rejected, [(Lane::Normal, 11, Cause::Code(0x99))]);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
}

#[test]
fn with_one_topic_only_a_close_condemns_nobody_ever() {
    let mut world = World::new(bare_settings());
    world.broker.policy = Box::new(|d| if d.payload == b"bad" { Reply::Close } else { Reply::Ack(0) });
    for number in 0..3600 {
        world.store(Lane::Normal, "a", if number == 10 { b"bad" } else { b"yes" });
        world.run_for(SECOND);
    }
    assert!(world.outbox.rejected.is_empty());
    // The owner's way out.
    let suspect = world.status().suspects[0].clone();
    assert_eq!((suspect.lane, suspect.id.sequence, suspect.cause), (Lane::Normal, 11, Cause::Closed));
    let now = world.moment.now;
    assert_eq!(world.uplink.skip(now, &mut world.outbox, suspect.id), Skip::Done);
    assert_eq!(world.outbox.rejected, [(Lane::Normal, 11, Cause::Skipped)]);
    world.run_for(60 * SECOND);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
}

#[test]
fn the_owner_can_set_aside_what_a_lane_begins_with_though_nothing_was_sent() {
    let mut world = World::new(bare_settings());
    world.broker.reachable = false;
    ten_with_a_bad_third(&mut world);
    world.run_for(SECOND);
    let now = world.moment.now;
    let id = |sequence| tombolo::message::RecordId { run: 0xABCD + 1, sequence };
    assert_eq!(world.uplink.skip(now, &mut world.outbox, id(77)), Skip::NotFound);
    let third = world.uplink.skip(now, &mut world.outbox, id(3));
    assert_eq!(third, Skip::NotFound, "only the first is known without a connection");
    assert_eq!(world.uplink.skip(now, &mut world.outbox, id(1)), Skip::Done);
    world.broker.reachable = true;
    world.run_for(301 * SECOND);
    assert_eq!(world.outbox.rejected, [(Lane::Normal, 1, Cause::Skipped)]);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
}

#[test]
fn a_record_over_the_brokers_maximum_packet_size_is_put_aside_unsent() {
    let mut world = World::new(bare_settings());
    world.broker.maximum_packet_size = Some(500);
    world.store(Lane::Normal, "a", b"1");
    world.store(Lane::Normal, "a", &[b'x'; 600]);
    world.store(Lane::Normal, "a", b"2");
    world.settle();
    assert_eq!(world.payloads(), ["1", "2"]);
    assert!(world.outbox.rejected.is_empty(), "the limit may be the broker's mistake");
    traffic(&mut world, 5);
    assert_eq!(world.outbox.rejected, [(Lane::Normal, 2, Cause::Code(0x95))]);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
}

#[test]
fn a_maximum_packet_size_that_lets_nothing_through_condemns_nobody() {
    let mut world = World::new(bare_settings());
    world.broker.maximum_packet_size = Some(20);
    for number in 0..200 {
        world.store(Lane::Normal, &format!("t/{}", number % 7), b"fifteen or more bytes");
        world.run_for(SECOND);
    }
    assert!(world.outbox.rejected.is_empty());
    assert!(world.payloads().is_empty());
    assert!(world.status().nothing_taken.is_some());
    assert!(world.outbox.reads < 20_000, "{} reads", world.outbox.reads);
    world.broker.maximum_packet_size = None;
    world.cut();
    world.run_for(600 * SECOND);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    assert_eq!(world.payloads().len(), 200);
}

#[test]
fn when_the_rejected_store_is_full_that_lane_stops_until_there_is_room() {
    let mut world = World::new(bare_settings());
    world.outbox.rejected_room = 0;
    world.broker.policy = on_bad(Reply::Ack(0x87));
    ten_with_a_bad_third(&mut world);
    world.store(Lane::High, "good", b"high");
    world.run_for(60 * SECOND);
    world.store(Lane::Normal, "good", b"11");
    world.run_for(60 * SECOND);
    assert_eq!(world.outbox.released[1], [1, 2]);
    assert_eq!(world.outbox.released[0], [1]);
    assert!(!world.payloads().contains(&"11".to_owned()), "the lane reads nothing new");
    assert!(world.count(|e| matches!(e, Event::Publisher(PublisherEvent::RejectedFull { .. }))) > 2);
    assert!(world.status().stopped_until[1].is_some());
    world.outbox.rejected_room = 1;
    world.run_for(301 * SECOND);
    assert_eq!(world.outbox.rejected, [(Lane::Normal, 3, Cause::Code(0x87))]);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
}

#[test]
fn a_record_the_broker_closes_the_connection_over_is_found_within_seconds() {
    for (reply, protocol) in [
        (Reply::Close, Protocol::V5),
        (Reply::Close, Protocol::V3_1_1),
        (Reply::Disconnect(0x87), Protocol::V5),
        (Reply::Disconnect(0x99), Protocol::V5),
    ] {
        let mut settings = bare_settings();
        settings.protocol = protocol;
        let mut world = World::new(settings);
        world.broker.policy = on_bad(reply);
        ten_with_a_bad_third(&mut world);
        traffic(&mut world, 25);
        assert_eq!(world.outbox.rejected, [(Lane::Normal, 3, Cause::Closed)], "{reply:?}");
        assert_eq!(world.outbox.waiting(Lane::Normal), 0, "{reply:?}");
        assert!(world.broker.links <= 6, "{reply:?}: {}", world.broker.links);
        let mut others: Vec<_> = world.payloads().into_iter().filter(|p| p != "more").collect();
        others.dedup();
        assert_eq!(others, THE_OTHERS, "{reply:?}");
    }
}

#[test]
fn a_broker_that_refuses_and_then_closes_accuses_only_what_it_refused() {
    let mut world = World::new(bare_settings());
    world.broker.delay = Duration::from_millis(10);
    world.broker.policy = on_bad(Reply::AckAndClose(0x87));
    ten_with_a_bad_third(&mut world);
    world.run_for(60 * SECOND);
    assert_eq!(world.outbox.rejected, [(Lane::Normal, 3, Cause::Code(0x87))]);
    let suspected = |e: &Event| matches!(e, Event::Publisher(PublisherEvent::Suspected { .. }));
    assert_eq!(world.count(suspected), 1);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    assert!(world.broker.links <= 6, "{}", world.broker.links);
    // If it does so with everything, it is left in peace.
    let mut world = World::new(bare_settings());
    world.broker.policy = Box::new(|_| Reply::AckAndClose(0x87));
    for number in 0..20 {
        world.store(Lane::Normal, &format!("t/{}", number % 4), b"1");
    }
    world.run_for(3600 * SECOND);
    assert!(world.outbox.rejected.is_empty());
    assert!(world.broker.links < 60, "{}", world.broker.links);
    world.broker.policy = Box::new(|_| Reply::Ack(0));
    world.run_for(600 * SECOND);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
}

#[test]
fn of_a_window_full_of_records_only_the_culprit_is_put_aside() {
    // The broker closes at the bad one before its answers to those before it are on their way.
    let mut world = World::new(bare_settings());
    world.broker.policy = on_bad(Reply::Close);
    world.broker.delay = Duration::from_millis(20);
    for number in 0..40 {
        let topic = if number == 20 { "bad" } else { "good" };
        world.store(Lane::Normal, topic, number.to_string().as_bytes());
    }
    traffic(&mut world, 60);
    assert_eq!(world.outbox.rejected, [(Lane::Normal, 21, Cause::Closed)]);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
}

#[test]
fn two_poisons_in_two_lanes_are_both_found() {
    let mut world = World::new(bare_settings());
    world.broker.policy = on_bad(Reply::Close);
    for lane in Lane::ALL {
        for topic in ["good", "bad", "good"] {
            world.store(lane, topic, b"1");
        }
    }
    traffic(&mut world, 60);
    assert_eq!(world.rejected(), [(Lane::High, 2, Cause::Closed), (Lane::Normal, 2, Cause::Closed)]);
    assert_eq!(world.outbox.waiting(Lane::High) + world.outbox.waiting(Lane::Normal), 0);
}

#[test]
fn hours_of_a_broken_publish_path_accuse_no_record_and_heal_by_themselves() {
    for protocol in [Protocol::V5, Protocol::V3_1_1] {
        for reply in
            [Reply::Close, Reply::Disconnect(0x80), Reply::Disconnect(0x8B), Reply::Hold, Reply::Drop]
        {
            let mut settings = bare_settings();
            settings.protocol = protocol;
            let mut world = World::new(settings);
            world.broker.policy = Box::new(move |_| reply);
            let mut stored = 0;
            for minute in 0..4 * 60 {
                for number in 0..3 {
                    stored += 1;
                    world.store(Lane::ALL[number % 2], &format!("t/{}", minute % 4), b"1");
                }
                world.run_for(60 * SECOND);
            }
            assert!(world.outbox.rejected.is_empty(), "{reply:?}: {:?}", world.outbox.rejected);
            world.broker.policy = Box::new(|_| Reply::Ack(0));
            world.run_for(900 * SECOND);
            let waiting = world.outbox.waiting(Lane::Normal) + world.outbox.waiting(Lane::High);
            assert_eq!(waiting, 0, "{reply:?} {protocol:?}: {:?}", world.status());
            assert!(world.outbox.rejected.is_empty(), "{reply:?}");
            let released: usize = world.outbox.released.iter().map(Vec::len).sum();
            assert_eq!(released, stored);
        }
    }
}

#[test]
fn a_broker_whose_publish_path_comes_and_goes_accuses_no_record() {
    for (reply, period) in [(Reply::Close, 5), (Reply::Close, 60), (Reply::Disconnect(0x80), 17)] {
        let mut world = World::new(bare_settings());
        world.broker.delay = Duration::from_millis(30);
        world.broker.policy =
            Box::new(move |d| if d.at.as_secs() / period % 2 == 1 { reply } else { Reply::Ack(0) });
        for number in 0..3600 {
            world.store(Lane::Normal, &format!("t/{}", number % 3), b"1");
            world.run_for(SECOND);
        }
        assert!(world.outbox.rejected.is_empty(), "{reply:?}, {period} s: {:?}", world.outbox.rejected);
        world.broker.policy = Box::new(|_| Reply::Ack(0));
        world.run_for(600 * SECOND);
        assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    }
}

#[test]
fn a_network_that_breaks_or_a_broker_that_restarts_accuses_no_record() {
    let mut world = World::new(bare_settings());
    world.broker.policy = Box::new(|_| Reply::Disconnect(0x8B)); // server shutting down
    ten_with_a_bad_third(&mut world);
    world.run_for(3600 * SECOND);
    assert!(world.outbox.rejected.is_empty());
    // Silence, again and again, with the same record in flight.
    world.broker.policy = Box::new(|_| Reply::Hold);
    world.broker.answers_pings = false;
    world.run_for(3600 * SECOND);
    assert!(world.outbox.rejected.is_empty());
    world.broker.policy = Box::new(|_| Reply::Ack(0));
    world.run_for(600 * SECOND);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
}

#[test]
fn order_is_kept_when_a_broker_that_refused_everything_recovers() {
    for reply in [Reply::Ack(0x87), Reply::Ack(0x97), Reply::Close, Reply::Drop] {
        let mut world = World::new(bare_settings());
        world.broker.delay = Duration::from_millis(10);
        world.broker.policy = Box::new(move |_| reply);
        for number in 0..500u32 {
            world.store(Lane::Normal, &format!("t/{}", number % 20), number.to_string().as_bytes());
        }
        world.run_for(600 * SECOND);
        world.broker.policy = Box::new(|_| Reply::Ack(0));
        world.run_for(1200 * SECOND);
        let arrived: Vec<u32> = world.payloads().iter().map(|p| p.parse().unwrap()).collect();
        assert_eq!(arrived.len(), 500, "{reply:?}");
        let late = arrived.windows(2).filter(|pair| pair[1] < pair[0]).count();
        assert!(late <= 10, "{reply:?}: {late} out of order");
        assert!(world.outbox.rejected.is_empty());
    }
}

#[test]
fn a_status_topic_the_broker_closes_over_costs_the_status_and_no_record() {
    let mut world = World::new(settings());
    world.broker.policy =
        Box::new(|delivered| if delivered.topic.ends_with("/status") { Reply::Close } else { Reply::Ack(0) });
    for number in 1..=10 {
        world.store(Lane::Normal, "good", number.to_string().as_bytes());
    }
    traffic(&mut world, 60);
    assert!(world.outbox.rejected.is_empty());
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    assert_eq!(world.count(|e| matches!(e, Event::Publisher(PublisherEvent::OwnPaused { .. }))), 1);
    assert!(
        world.status().left_out.iter().any(|what| what.contains("gateway-status")),
        "{:?}",
        world.status()
    );
    // An hour of peace but for the device statuses, which are given up just so.
    world.uplink.set_device_status("door-7", b"{}".to_vec());
    traffic(&mut world, 60);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    assert!(world.outbox.rejected.is_empty());
    assert_eq!(world.count(|e| matches!(e, Event::Publisher(PublisherEvent::OwnPaused { .. }))), 2);
    assert!(world.uplink.is_connected());
    let links = world.broker.links;
    traffic(&mut world, 1800);
    assert_eq!(world.broker.links, links);
}

#[test]
fn a_status_the_broker_never_answers_is_left_out_as_well() {
    let mut world = World::new(settings());
    world.broker.policy = Box::new(|d| if d.topic == STATUS { Reply::Drop } else { Reply::Ack(0) });
    traffic(&mut world, 200);
    assert!(world.outbox.rejected.is_empty());
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    assert_eq!(world.count(|e| matches!(e, Event::Publisher(PublisherEvent::OwnPaused { .. }))), 1);
    let links = world.broker.links;
    assert!(links <= 4, "{links}");
    traffic(&mut world, 1800);
    assert_eq!(world.broker.links, links);
}

#[test]
fn a_subscription_the_broker_closes_over_is_found_and_left_out_for_an_hour() {
    for protocol in [Protocol::V5, Protocol::V3_1_1] {
        let mut settings = settings();
        settings.protocol = protocol;
        let mut world = World::new(settings);
        world.broker.subscribe_reply = Reply::Close;
        traffic(&mut world, 60);
        assert_eq!(world.outbox.waiting(Lane::Normal), 0);
        assert!(world.uplink.is_connected());
        assert!(world.outbox.rejected.is_empty());
        assert_eq!(world.count(|e| *e == Event::SubscriptionLeftOut), 1);
        assert!(world.status().unheard[0].contains("closes the connection"), "{:?}", world.status().unheard);
        // With readings in flight once more, and then alone.
        assert!(world.broker.links <= 4, "{}", world.broker.links);
        let links = world.broker.links;
        traffic(&mut world, 300);
        assert_eq!(world.broker.links, links);
    }
}

#[test]
fn one_unlucky_close_over_the_subscription_costs_it_nothing() {
    let mut world = World::new(settings());
    world.broker.subscribe_reply = Reply::Close;
    world.settle();
    world.broker.subscribe_reply = Reply::Ack(0);
    traffic(&mut world, 30);
    assert_eq!(world.count(|e| *e == Event::SubscriptionLeftOut), 0);
    assert!(world.link.as_ref().unwrap().is_subscribed(STATUS));
    assert!(world.status().left_out.is_empty());
}

const HINT: &str = "tombolo/g/gateway/down/update/check";

fn with_hint() -> Settings {
    let mut settings = settings();
    settings.topics.update_hint = Some(HINT.to_owned());
    settings
}

#[test]
fn a_subscription_to_update_hints_the_broker_closes_over_is_left_out_alone() {
    for protocol in [Protocol::V5, Protocol::V3_1_1] {
        let mut world = World::new(Settings { protocol, ..with_hint() });
        world.broker.subscribe_reply = Reply::Close;
        world.broker.subscribe_reply_to = Some(HINT.to_owned());
        traffic(&mut world, 60);
        assert_eq!(world.outbox.waiting(Lane::Normal), 0);
        assert!(world.uplink.is_connected() && world.outbox.rejected.is_empty());
        assert_eq!(world.count(|e| *e == Event::HintLeftOut), 1);
        assert_eq!(world.count(|e| *e == Event::SubscriptionLeftOut), 0);
        assert!(world.link.as_ref().unwrap().is_subscribed(STATUS));
        assert!(world.status().unheard[0].contains(HINT), "{:?}", world.status().unheard);
        assert!(world.broker.links <= 3, "{}", world.broker.links);
    }
}

#[test]
fn a_hint_is_one_whatever_it_says_and_its_refusal_holds_up_nothing() {
    let mut world = World::new(with_hint());
    world.settle();
    assert!(world.link.as_ref().unwrap().is_subscribed(HINT));
    assert!(!world.uplink.take_update_hint());
    for code in [0x87, 0x80] {
        let mut world = World::new(with_hint());
        world.broker.subscribe_reply = Reply::Ack(code);
        world.broker.subscribe_reply_to = Some(HINT.to_owned());
        traffic(&mut world, 30);
        assert_eq!(world.outbox.waiting(Lane::Normal), 0);
        assert_eq!(world.count(|e| matches!(e, Event::HintRefused { .. })), 1);
        assert_eq!(world.broker.links, 1);
    }
}

#[test]
fn a_will_the_broker_does_not_take_is_found_named_and_left_out() {
    for (welcome, protocol) in [
        (Welcome::Close, Protocol::Auto),
        (Welcome::Code(0x87), Protocol::Auto),
        (Welcome::Code(0x99), Protocol::V5),
        (Welcome::Code(5), Protocol::V3_1_1),
        (Welcome::Close, Protocol::V3_1_1),
    ] {
        let mut settings = settings();
        settings.protocol = protocol;
        let mut world = World::new(settings);
        world.broker.will = Some(welcome);
        world.store(Lane::Normal, "good", b"1");
        world.run_for(300 * SECOND);
        assert!(world.uplink.is_connected(), "{welcome:?}: {:?}", world.status());
        assert_eq!(world.payloads().iter().filter(|payload| *payload == "1").count(), 1);
        assert_eq!(world.count(|e| matches!(e, Event::WillLeftOut { .. })), 1, "{welcome:?}");
        assert_eq!(world.count(|e| matches!(e, Event::FellBack { .. })), 0, "{welcome:?}");
        assert!(world.status().left_out.iter().any(|what| what.contains("the will")));
        assert!(world.broker.connects.last().unwrap().will.is_none());
        // The broker is told to take it; an hour later it is there again.
        world.broker.will = None;
        world.run_for(3600 * SECOND);
        world.cut();
        world.run_for(10 * SECOND);
        assert!(world.broker.connects.last().unwrap().will.is_some());
        assert!(world.status().left_out.is_empty());
    }
}

#[test]
fn a_refused_status_or_device_status_comes_again_once_the_broker_takes_it() {
    let mut world = World::new(settings());
    world.broker.policy = Box::new(|_| Reply::Ack(0x87));
    world.run_for(SECOND);
    world.uplink.set_device_status("door-7", b"{\"n\":1}".to_vec());
    world.run_for(120 * SECOND);
    assert_eq!(world.count(|e| matches!(e, Event::Publisher(PublisherEvent::OwnRefused { .. }))), 2);
    assert!(world.broker.retained.is_empty());
    world.broker.policy = Box::new(|_| Reply::Ack(0));
    world.run_for(600 * SECOND);
    assert_eq!(world.broker.retained.len(), 2);
}

#[test]
fn volatile_readings_the_broker_closes_over_pause_and_stored_ones_flow() {
    let mut world = World::new(bare_settings());
    world.broker.policy = on_bad(Reply::Close);
    for second in 0..600 {
        if second % 10 == 0 {
            world.store(Lane::Normal, "good", b"1");
        }
        let content = Content {
            device: "d",
            path: "p",
            query: None,
            topic: "bad",
            method: Method::Post,
            content_format: None,
            retain: false,
            test: false,
            reply: None,
            envelope: Envelope::None,
            expires_s: None,
            received: world.moment.stamp(),
            payload: b"",
        };
        world.uplink.push_volatile(&content);
        world.run_for(SECOND);
    }
    assert!(world.count(|e| matches!(e, Event::Publisher(PublisherEvent::VolatilePaused))) >= 1);
    assert!(world.outbox.waiting(Lane::Normal) <= 1);
    assert!(world.outbox.rejected.is_empty());
    assert!(world.broker.links < 40, "{}", world.broker.links);
}

#[test]
fn a_retained_record_that_was_suspected_does_not_replace_a_newer_one() {
    let mut world = World::new(bare_settings());
    let mut refused = false;
    world.broker.policy = Box::new(move |d| {
        if d.payload == b"old" && !std::mem::replace(&mut refused, true) {
            Reply::Ack(0x80)
        } else {
            Reply::Ack(0)
        }
    });
    for (topic, payload) in [("state", "old"), ("other", "x"), ("state", "new")] {
        let mut item = world.item(topic, payload.as_bytes());
        item.retain = true;
        world.advance(Duration::from_millis(10));
        item.received = world.moment.stamp();
        world.outbox.push(Lane::Normal, item);
    }
    traffic(&mut world, 10);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    assert_eq!(world.broker.retained["state"], b"new");
    let old = world.broker.delivered.iter().find(|d| d.payload == b"old").unwrap();
    assert!(!old.retain, "it is published, and no longer kept");
}

#[test]
fn a_rejected_record_sent_again_does_not_replace_a_newer_one_and_its_arrival_is_told() {
    let original = tombolo::message::RecordId { run: 0xABCD + 1, sequence: 700 };
    for (same_run, newer, retained) in [(true, false, true), (true, true, false), (false, false, false)] {
        let mut world = World::new(bare_settings());
        world.settle();
        world.store(Lane::Normal, "first", b"");
        world.settle();
        let mut item = world.item("state", b"old");
        item.retain = true;
        item.original =
            Some(if same_run { original } else { tombolo::message::RecordId { run: 9, ..original } });
        world.advance(SECOND);
        if newer {
            let mut item = world.item("state", b"new");
            item.retain = true;
            world.outbox.push(Lane::Normal, item);
            world.settle();
        }
        world.outbox.push(Lane::Normal, item);
        world.settle();
        let old = world.broker.delivered.iter().find(|d| d.payload == b"old").unwrap();
        assert_eq!(old.retain, retained, "same run: {same_run}, newer: {newer}");
        assert_eq!(world.count(|e| matches!(e, Event::Publisher(PublisherEvent::Recovered { .. }))), 1);
    }
}
