//! One topic, one position or one cold disk does not take the uplink from the others.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tombolo::message::{Lane, RecordId};
use tombolo::northbound::settings::Protocol;
use tombolo::northbound::uplink::Event;

use crate::support::{STATUS, World, bare_settings, settings};
use tombolo_test_support::broker::{Delivered, Reply};

const SECOND: Duration = Duration::from_secs(1);

/// Stores a reading a second, of five topics in turn; of each the time it was delivered first, less
/// the time it was stored.
fn five_topics(world: &mut World, seconds: u64, bad: &str, lane: Lane) -> Vec<(String, Option<Duration>)> {
    let mut stored = Vec::new();
    for number in 0..seconds {
        let topic = if number % 5 == 4 { bad.to_owned() } else { format!("good/{}", number % 5) };
        world.store(lane, &topic, format!("{number}").as_bytes());
        stored.push((topic, world.elapsed()));
        world.run_for(SECOND);
    }
    let of = |number: usize| {
        let payload = number.to_string().into_bytes();
        world.broker.delivered.iter().find(|d| d.payload == payload).map(|d| d.at)
    };
    let waited = |(number, (topic, at)): (usize, (String, Duration))| {
        (topic, of(number).map(|delivered| delivered.saturating_sub(at)))
    };
    stored.into_iter().enumerate().map(waited).collect()
}

#[test]
fn a_topic_that_is_never_answered_costs_the_others_nothing_and_is_found() {
    for lane in Lane::ALL {
        let mut world = World::new(bare_settings());
        world.broker.policy = Box::new(|d| if d.topic == "bad" { Reply::Drop } else { Reply::Ack(0) });
        let waited = five_topics(&mut world, 1800, "bad", lane);
        let worst = waited
            .iter()
            .filter(|(topic, _)| topic != "bad")
            .map(|(topic, waited)| waited.unwrap_or_else(|| panic!("one of {topic} never came")))
            .max();
        assert!(worst.unwrap() <= 15 * SECOND, "{lane:?}: {worst:?}");
        assert!(world.status().rate_limit.is_none(), "it is not the rate: {:?}", world.status());
        assert!(world.outbox.rejected.len() > 50, "{}", world.outbox.rejected.len());
        assert!(world.outbox.waiting(lane) < 600, "{}", world.outbox.waiting(lane));
        // When the broker answers again, all that is left goes.
        world.broker.policy = Box::new(|_| Reply::Ack(0));
        world.run_for(900 * SECOND);
        assert_eq!(world.outbox.waiting(lane), 0);
        assert_eq!(world.status().suspect_count, 0);
    }
}

#[test]
fn where_one_publish_is_taken_at_a_time_a_silent_topic_holds_the_others_for_minutes_only() {
    let mut world = World::new(bare_settings());
    world.broker.receive_maximum = Some(1);
    world.broker.policy = Box::new(|d| if d.topic == "bad" { Reply::Drop } else { Reply::Ack(0) });
    let waited = five_topics(&mut world, 3600, "bad", Lane::Normal);
    let late: Vec<_> = waited[1200..]
        .iter()
        .filter(|(topic, waited)| topic != "bad" && waited.is_none_or(|waited| waited > 60 * SECOND))
        .collect();
    assert!(late.is_empty(), "{} late, the first {:?}", late.len(), late[0]);
}

#[test]
fn a_reading_that_is_taken_opens_its_topic_for_those_that_wait_behind_bad_ones() {
    for (code, bad) in [(0x83, 13), (0x80, 13), (0x99, 5)] {
        let mut world = World::new(bare_settings());
        let refused = move |d: &Delivered| {
            d.topic == "x" && String::from_utf8_lossy(&d.payload).parse::<u64>().is_ok_and(|n| n < bad)
        };
        world.broker.policy = Box::new(move |d| if refused(d) { Reply::Ack(code) } else { Reply::Ack(0) });
        let mut places = Vec::new();
        for number in 0..600u64 {
            if number % 2 == 0 && number < 96 {
                places.push(world.store(Lane::Normal, "x", (number / 2).to_string().as_bytes()));
            }
            world.store(Lane::Normal, &format!("good/{}", number % 3), b"good");
            world.run_for(SECOND / 2);
        }
        let aside: Vec<u64> = world.rejected().into_iter().map(|(_, sequence, _)| sequence).collect();
        assert_eq!(aside, places[..bad as usize], "{code:#x}");
        let there: BTreeSet<String> = world.payloads().into_iter().collect();
        assert!((bad..48).all(|number| there.contains(&number.to_string())), "{code:#x}");
        assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    }
}

#[test]
fn a_topic_all_of_whose_readings_are_refused_for_their_content_holds_no_other_up() {
    let mut world = World::new(bare_settings());
    world.broker.policy = Box::new(|d| if d.topic == "bad" { Reply::Ack(0x83) } else { Reply::Ack(0) });
    for number in 0..6000u64 {
        world.store(Lane::Normal, "bad", b"bad");
        if number % 10 == 0 {
            world.store(Lane::Normal, &format!("good/{}", number % 30), b"good");
        }
        world.run_for(Duration::from_millis(100));
    }
    world.run_for(30 * SECOND);
    let good = world.payloads().iter().filter(|payload| *payload == "good").count();
    assert_eq!(good, 600);
    let waiting = world.outbox.waiting(Lane::Normal);
    assert!(waiting < 200, "{waiting} wait, {} were set aside", world.outbox.rejected.len());
    assert_eq!(world.broker.links, 1);
}

#[test]
fn a_broker_that_closes_each_connection_over_its_nth_publish_condemns_nobody() {
    for nth in 2..8u64 {
        for (own, topics) in [(false, 2), (true, 2), (false, 3), (true, 3), (true, 5)] {
            let mut world = World::new(if own { settings() } else { bare_settings() });
            let (links, count) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
            let (link, published) = (links.clone(), count.clone());
            world.broker.policy = Box::new(move |_| {
                published.set(published.get() + 1);
                let _ = &link;
                if published.get() == nth { Reply::Close } else { Reply::Ack(0) }
            });
            for number in 0..2400u64 {
                let lane = if number % 4 == 3 { Lane::High } else { Lane::Normal };
                world.store(lane, &format!("good/{}", number % topics), b"good");
                for _ in 0..5 {
                    if links.replace(world.broker.links) != world.broker.links {
                        count.set(0);
                    }
                    world.run_for(SECOND / 20);
                }
            }
            assert!(world.outbox.rejected.is_empty(), "{nth}, {own}: {:?}", world.outbox.rejected);
            assert_eq!(world.count(|e| matches!(e, Event::ClientIdElsewhere)), 0, "{nth}: no rival");
            world.broker.policy = Box::new(|_| Reply::Ack(0));
            world.run_for(600 * SECOND);
            assert_eq!(world.outbox.waiting(Lane::Normal) + world.outbox.waiting(Lane::High), 0);
        }
    }
}

#[test]
fn where_half_of_twelve_topics_close_the_connection_the_other_half_flows() {
    for protocol in [Protocol::V5, Protocol::V3_1_1] {
        let mut settings = bare_settings();
        settings.protocol = protocol;
        let mut world = World::new(settings);
        world.broker.delay = Duration::from_millis(20);
        world.broker.policy =
            Box::new(|d| if d.topic.starts_with("bad") { Reply::Close } else { Reply::Ack(0) });
        for number in 0..3000u64 {
            let topic = number % 12;
            let name = if topic % 2 == 0 { format!("good/{topic}") } else { format!("bad/{topic}") };
            world.store(Lane::Normal, &name, number.to_string().as_bytes());
            world.run_for(Duration::from_millis(100));
        }
        let mut waited: Vec<Duration> = Vec::new();
        for number in (0..3000u32).step_by(2) {
            let payload = number.to_string().into_bytes();
            let delivered = world.broker.delivered.iter().find(|d| d.payload == payload).map(|d| d.at);
            waited.push(delivered.unwrap_or(world.elapsed()).saturating_sub(number * SECOND / 10));
        }
        assert!(waited.iter().max() < Some(&(60 * SECOND)), "{protocol:?}: {:?}", waited.iter().max());
        assert!(world.rejected().iter().all(|(_, sequence, _)| (sequence - 1) % 2 == 1));
    }
}

/// Stores a reading a second for so long, of which `bad` in 12 are on topics that are refused with
/// `code` and closed over; of the others, when each was stored and how long it took.
fn refused_and_closed_over(
    world: &mut World,
    (code, bad, topics): (u8, u64, u64),
    seconds: u64,
) -> Vec<(u64, Duration)> {
    world.broker.policy =
        Box::new(move |d| if d.topic.starts_with("bad") { Reply::AckAndClose(code) } else { Reply::Ack(0) });
    for number in 0..seconds {
        let is_bad = number * 5 % 12 < bad;
        let name = if is_bad { format!("bad/{}", number % topics) } else { format!("good/{}", number % 3) };
        world.store(Lane::Normal, &name, number.to_string().as_bytes());
        world.run_for(SECOND);
    }
    world.run_for(30 * SECOND);
    let good = (0..seconds).filter(|number| number * 5 % 12 >= bad);
    let waited = |number: u64| {
        let payload = number.to_string().into_bytes();
        let at = world.broker.delivered.iter().find(|d| d.payload == payload).map(|d| d.at);
        (number, at.unwrap_or(Duration::from_secs(9999)).saturating_sub(SECOND * number as u32))
    };
    good.map(waited).collect()
}

#[test]
fn where_a_topic_is_refused_and_the_connection_closed_over_it_the_others_flow() {
    for code in [0x80, 0x83, 0x87, 0x90, 0x99] {
        for (bad, topics) in [(1, 1), (3, 1), (6, 1), (6, 4), (9, 2)] {
            let mut world = World::new(bare_settings());
            let waited = refused_and_closed_over(&mut world, (code, bad, topics), 1200);
            let context = format!("{code:#x}, {bad} of 12 on {topics}");
            for (number, waited) in waited {
                let within = if number < 60 { 60 } else { 15 };
                assert!(waited < within * SECOND, "{context}: {number} waited {waited:?}");
            }
            assert!(
                world.rejected().iter().all(|(_, sequence, _)| (sequence - 1) * 5 % 12 < bad),
                "{context}"
            );
            let (aside, left) = (world.rejected().len(), world.outbox.waiting(Lane::Normal));
            assert!(
                aside > 0 && left < 60,
                "{context}: {aside} set aside, {left} left: {:?}",
                world.status()
            );
            // Once it takes them, what is left goes.
            world.broker.policy = Box::new(|_| Reply::Ack(0));
            world.run_for(600 * SECOND);
            assert_eq!(world.outbox.waiting(Lane::Normal), 0, "{context}");
        }
    }
}

#[test]
fn a_reading_that_comes_now_and_then_does_not_wait_for_one_that_is_refused_and_closed_over() {
    let mut world = World::new(bare_settings());
    let bad = |d: &Delivered| d.topic == "bad";
    world.broker.policy = Box::new(move |d| if bad(d) { Reply::AckAndClose(0x87) } else { Reply::Ack(0) });
    let mut worst = Duration::ZERO;
    for number in 0..60u64 {
        world.store(Lane::Normal, "bad", b"bad");
        world.run_for(Duration::from_secs(31 + 7 * number));
        let (begun, payload) = (world.elapsed(), format!("good {number}"));
        world.store(Lane::Normal, &format!("good/{}", number % 2), payload.as_bytes());
        while !world.payloads().contains(&payload) {
            world.run_for(SECOND);
            assert!(world.elapsed() < begun + 300 * SECOND, "{number}: {:?}", world.status());
        }
        worst = worst.max(world.elapsed() - begun);
    }
    assert!(worst <= 15 * SECOND, "{worst:?}");
    assert!(world.rejected().iter().all(|(_, sequence, _)| sequence % 2 == 1));
}

#[test]
fn trials_and_readings_in_their_turn_do_not_take_the_disk_from_each_other() {
    let mut world = World::new(bare_settings());
    world.outbox.block = Some(64);
    world.broker.delay = Duration::from_millis(5);
    let bad = |number: u64| number % 10 == 3 || number % 10 == 7;
    world.broker.policy = Box::new(move |d| {
        let number: u64 = String::from_utf8_lossy(&d.payload).parse().unwrap_or(0);
        if bad(number) { Reply::Ack(0x83) } else { Reply::Ack(0) }
    });
    for number in 0..18_000u64 {
        world.store(Lane::Normal, &format!("t/{}", number % 50), number.to_string().as_bytes());
        if number % 30 == 0 {
            world.run_for(Duration::from_millis(100));
        }
    }
    let reads = world.outbox.reads;
    for number in 18_000..18_240u64 {
        world.store(Lane::Normal, &format!("t/{}", number % 7), number.to_string().as_bytes());
        world.run_for(SECOND / 4);
    }
    let there: BTreeSet<u64> = world.payloads().iter().filter_map(|payload| payload.parse().ok()).collect();
    let missing: Vec<u64> = (0..18_230).filter(|number| !bad(*number) && !there.contains(number)).collect();
    assert!(missing.is_empty(), "{} are missing, the first {}", missing.len(), missing[0]);
    assert!(world.rejected().iter().all(|(_, sequence, _)| bad(sequence - 1)));
    assert!(world.outbox.reads - reads < 200_000, "{} reads in a minute", world.outbox.reads - reads);
    world.run_for(60 * SECOND);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0, "{:?}", world.status());
}

#[test]
fn one_silent_topic_of_twenty_does_not_stop_the_others_however_many_readings_it_has() {
    for (rate, silent) in [(6, 1), (10, 4), (4, 1)] {
        let mut world = World::new(bare_settings());
        world.broker.delay = Duration::from_millis(20);
        world.broker.policy = Box::new(move |d| {
            let topic: u64 = d.topic.trim_start_matches("t/").parse().unwrap_or(99);
            if topic < silent { Reply::Drop } else { Reply::Ack(0) }
        });
        let topics = if silent == 4 { 8 } else { 20 };
        for number in 0..rate * 400 {
            let lane = if silent == 1 && rate == 4 { Lane::High } else { Lane::Normal };
            world.store(lane, &format!("t/{}", number % topics), number.to_string().as_bytes());
            world.run_for(SECOND / rate as u32);
        }
        let mut worst = Duration::ZERO;
        for number in (0..rate * 400 - 40).filter(|number| number % topics >= silent) {
            let payload = number.to_string().into_bytes();
            let at = world.broker.delivered.iter().find(|d| d.payload == payload).map(|d| d.at);
            let stored = SECOND / rate as u32 * number as u32;
            worst = worst.max(at.unwrap_or(Duration::from_secs(9999)).saturating_sub(stored));
        }
        assert!(worst <= 20 * SECOND, "{rate} a second, {silent} silent: {worst:?}");
        assert!(world.status().rate_limit.is_none(), "{:?}", world.status().rate_limit);
    }
}

#[test]
fn a_topic_with_a_quota_of_its_own_stops_no_other() {
    for code in [0x97, 0x96, 0x93] {
        let mut world = World::new(bare_settings());
        world.broker.delay = Duration::from_millis(5);
        world.broker.policy = Box::new(move |d| Reply::Ack(if d.topic == "t/3" { code } else { 0 }));
        for number in 0..2400u64 {
            world.store(Lane::Normal, &format!("t/{}", number % 4), number.to_string().as_bytes());
            world.run_for(SECOND / 8);
        }
        let there: BTreeSet<u64> =
            world.payloads().iter().filter_map(|payload| payload.parse().ok()).collect();
        let missing = (0..2350).filter(|number| number % 4 != 3 && !there.contains(number)).count();
        assert_eq!(missing, 0, "{code:#x}: {:?}", world.status());
        world.broker.policy = Box::new(|_| Reply::Ack(0));
        world.run_for(400 * SECOND);
        assert_eq!(world.outbox.waiting(Lane::Normal), 0, "{code:#x}");
    }
}

#[test]
fn many_denied_topics_are_set_aside_and_hold_the_others_up_for_seconds() {
    let mut world = World::new(bare_settings());
    world.broker.delay = Duration::from_millis(10);
    world.broker.policy = Box::new(|d| Reply::Ack(if d.topic.starts_with("bad") { 0x87 } else { 0 }));
    let mut good = Vec::new();
    for number in 0..2000u64 {
        let is_good = number % 10 == 0;
        let topic = if is_good { format!("good/{}", number % 3) } else { format!("bad/{}", number % 1500) };
        world.store(Lane::Normal, &topic, number.to_string().as_bytes());
        if is_good {
            good.push((number, world.elapsed()));
        }
        world.run_for(SECOND / 40);
    }
    world.run_for(120 * SECOND);
    let mut waits: Vec<Duration> = Vec::new();
    for (number, stored) in good {
        let payload = number.to_string().into_bytes();
        let at = world.broker.delivered.iter().find(|d| d.payload == payload).map(|d| d.at);
        waits.push(at.unwrap_or(Duration::from_secs(9999)).saturating_sub(stored));
    }
    waits.sort_unstable();
    assert!(waits[waits.len() / 2] <= 30 * SECOND && waits.last() <= Some(&(60 * SECOND)), "{waits:?}");
}

#[test]
fn a_new_connection_finds_out_at_once_that_the_broker_is_sane_again() {
    let mut world = World::new(bare_settings());
    world.broker.policy = Box::new(|_| Reply::Ack(0x87));
    for number in 0..300u64 {
        world.store(Lane::Normal, &format!("t/{}", number % 5), b"1");
        world.run_for(SECOND);
    }
    world.run_for(600 * SECOND);
    world.kill_broker();
    world.broker.policy = Box::new(|_| Reply::Ack(0));
    world.broker.reachable = true;
    while !world.status().connected {
        world.run_for(SECOND);
    }
    world.run_for(15 * SECOND);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0, "{:?}", world.status());
    assert!(world.outbox.rejected.is_empty());
}

#[test]
fn what_comes_while_a_suspect_is_tried_waits_seconds_and_not_for_the_suspects_back_off() {
    let mut world = World::new(bare_settings());
    world.broker.policy = Box::new(|d| if d.topic == "bad" { Reply::Close } else { Reply::Ack(0) });
    world.store(Lane::Normal, "good", b"before");
    world.run_for(60 * SECOND);
    world.store(Lane::Normal, "bad", b"bad");
    // Hours in which nothing else comes, but one reading now and then.
    let mut worst = Duration::ZERO;
    for number in 0..40u64 {
        world.run_for(Duration::from_secs(97 + 13 * number));
        let begun = world.elapsed();
        let payload = format!("good {number}");
        world.store(if number % 2 == 0 { Lane::High } else { Lane::Normal }, "good", payload.as_bytes());
        while !world.payloads().contains(&payload) {
            world.run_for(SECOND);
            assert!(world.elapsed() < begun + 300 * SECOND, "{number}: {:?}", world.status());
        }
        worst = worst.max(world.elapsed() - begun);
    }
    assert!(worst <= 10 * SECOND, "{worst:?}");
    assert!(world.broker.links < 200, "{}", world.broker.links);
}

#[test]
fn closes_again_and_again_without_a_reason_are_told_with_what_may_be_behind_them() {
    let mut world = World::new(bare_settings());
    for number in 0..6 {
        world.store(Lane::Normal, "good", b"good");
        world.run_for(40 * SECOND);
        assert_eq!(
            world.count(|e| matches!(e, Event::ClosedAgain { .. })),
            usize::from(number >= 4),
            "{number}"
        );
        world.cut();
        world.run_for(20 * SECOND);
    }
    assert!(world.status().closes >= 4);
    world.run_for(700 * SECOND);
    assert_eq!(world.status().closes, 0);
}

#[test]
fn records_that_come_again_are_released_by_their_places() {
    let mut world = World::new(bare_settings());
    for number in 0..20u64 {
        let mut item = world.item("a", number.to_string().as_bytes());
        item.original = (number % 3 == 0).then_some(RecordId { run: 5, sequence: 2 });
        world.outbox.push(Lane::Normal, item);
    }
    world.run_for(SECOND);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    assert_eq!(world.payloads().len(), 20);
    let ids: Vec<_> = world.broker.delivered.iter().filter_map(|d| d.user("id")).collect();
    assert_eq!(ids[0], "0000000000000005-2", "under the id it had first");
    assert!(ids[1].ends_with("-2") && !ids[1].starts_with("0000000000000005"), "{ids:?}");
}

#[test]
fn somebody_who_says_we_are_offline_does_not_keep_the_next_attempt_from_having_a_deadline() {
    let mut world = World::new(settings());
    world.run_for(SECOND);
    let say = |world: &mut World| {
        let World { broker, link: Some(link), .. } = world else { panic!("a connection") };
        broker.send_message(link, STATUS, b"{\"online\":false}");
        world.settle();
    };
    say(&mut world);
    say(&mut world);
    world.cut();
    world.broker.reachable = true;
    for _ in 0..600 {
        world.run_for(SECOND / 2);
    }
    assert!(world.status().connected, "{:?}", world.status());
}
