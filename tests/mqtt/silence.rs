//! Publishes without an answer.

use std::time::Duration;

use tombolo::message::Lane;
use tombolo::northbound::publisher::Event as PublisherEvent;
use tombolo::northbound::reason_code::Cause;
use tombolo::northbound::settings::Protocol;
use tombolo::northbound::uplink::Event;

use crate::support::{World, bare_settings, settings};
use tombolo_test_support::broker::{Delivered, Reply};

const SECOND: Duration = Duration::from_secs(1);

fn unanswered(world: &World) -> usize {
    world.count(|e| matches!(e, Event::Publisher(PublisherEvent::Unanswered { .. })))
}

/// Drops what has this payload, the first `times` times.
fn drop_payload(payload: &'static [u8], times: usize) -> Box<dyn FnMut(&Delivered) -> Reply> {
    let mut left = times;
    Box::new(move |d| {
        if d.payload != payload || left == 0 {
            return Reply::Ack(0);
        }
        left -= 1;
        Reply::Drop
    })
}

#[test]
fn one_left_unanswered_replaces_the_connection_after_30_s_and_only_it_is_sent_again() {
    let mut world = World::new(bare_settings());
    world.broker.policy = drop_payload(b"lost", 1);
    world.store(Lane::Normal, "a", b"lost");
    for number in 1..=100u32 {
        world.store(Lane::Normal, &format!("t/{}", number % 3), number.to_string().as_bytes());
        if number <= 29 {
            world.run_for(SECOND);
            assert_eq!(world.broker.links, 1, "{number}");
        }
    }
    assert!(world.outbox.released[1].is_empty(), "the first is waited for");
    assert_eq!(world.status().waiting_since, Some(world.start));
    world.run_for(10 * SECOND);
    assert_eq!((world.broker.links, unanswered(&world)), (2, 1));
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    let payloads = world.payloads();
    assert_eq!(payloads.len(), 101, "nothing that was answered came twice");
    assert!(world.outbox.rejected.is_empty());
    let told = world.events.iter().find_map(|event| match event {
        Event::Publisher(PublisherEvent::Unanswered { record, waited, unanswered }) => {
            Some((record.unwrap().1.sequence, waited.as_secs(), *unanswered))
        }
        _ => None,
    });
    assert_eq!(told, Some((1, 30, 1)));
    let lost = world.events.iter().find_map(|event| match event {
        Event::Lost { what, .. } => Some(what.clone()),
        _ => None,
    });
    assert!(lost.unwrap().contains("not answered within 30 s"));
    // The broker is told goodbye, so that the will stays unsaid.
    assert_eq!(world.broker.disconnects, [0]);
}

#[test]
fn the_timer_is_the_owners_to_set_and_grows_with_what_answers_take() {
    let mut settings = bare_settings();
    settings.answer_timeout = 5 * SECOND;
    let mut world = World::new(settings);
    world.broker.policy = drop_payload(b"lost", 1);
    world.store(Lane::Normal, "a", b"lost");
    world.run_for(6 * SECOND);
    assert_eq!(unanswered(&world), 1);
    // A link whose answers take 20 s is no fault, however long it lasts.
    let mut world = World::new(bare_settings());
    world.broker.delay = 20 * SECOND;
    for _ in 0..600 {
        world.store(Lane::Normal, "a", b"1");
        world.run_for(SECOND);
    }
    world.broker.policy = drop_payload(b"lost", 1);
    world.store(Lane::Normal, "a", b"lost");
    world.run_for(60 * SECOND);
    assert_eq!(unanswered(&world), 0, "four times what they take is more than 30 s");
    world.run_for(60 * SECOND);
    assert_eq!(unanswered(&world), 1);
}

#[test]
fn a_slow_broker_that_answers_one_by_one_is_waited_for() {
    // A window of 1,000, 25 answers a second: the last comes after 40 s.
    let mut world = World::new(bare_settings());
    let mut busy_until = Duration::ZERO;
    world.broker.policy = Box::new(move |_| Reply::Ack(0));
    for _ in 0..1000 {
        world.store(Lane::Normal, "a", b"1");
    }
    world.settle();
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    world.broker.slow = Some(Box::new(move |at: Duration| {
        busy_until = busy_until.max(at) + Duration::from_millis(40);
        busy_until
    }));
    for _ in 0..3000 {
        world.store(Lane::Normal, "a", b"1");
    }
    world.run_for(200 * SECOND);
    assert_eq!(unanswered(&world), 0);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    assert_eq!(world.broker.links, 1);
}

#[test]
fn a_record_the_broker_drops_each_time_is_found_and_put_aside_while_others_flow() {
    let mut world = World::new(bare_settings());
    world.broker.delay = Duration::from_millis(50);
    world.broker.policy = Box::new(|d| if d.topic == "bad" { Reply::Drop } else { Reply::Ack(0) });
    world.store(Lane::Normal, "bad", b"bad");
    let mut slowest = Duration::ZERO;
    for number in 0..300u32 {
        let stored = world.elapsed();
        world.store(Lane::Normal, "good", number.to_string().as_bytes());
        world.run_for(SECOND);
        let last = number.to_string();
        if !world.broker.delivered.iter().any(|d| d.payload == last.as_bytes()) {
            slowest = slowest.max(world.elapsed() - stored);
        }
        let behind = u64::from(number) + 1 - world.broker.delivered.len() as u64;
        assert!(behind <= 9, "{number}: {behind} behind: {:?}", world.status());
    }
    assert_eq!(world.outbox.rejected, [(Lane::Normal, 1, Cause::Silent)]);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    assert!(world.broker.links <= 8, "{}", world.broker.links);
    // It was sent alone: nothing else around it within a second before.
    assert_eq!(unanswered(&world), 5);
}

#[test]
fn silence_about_everything_condemns_nobody() {
    for answers_pings in [true, false] {
        let mut world = World::new(bare_settings());
        world.broker.policy = Box::new(|_| Reply::Drop);
        world.broker.answers_pings = answers_pings;
        for number in 0..200u32 {
            world.store(Lane::Normal, &format!("t/{}", number % 5), b"1");
        }
        world.run_for(3 * 3600 * SECOND);
        assert!(world.outbox.rejected.is_empty());
        world.broker.policy = Box::new(|_| Reply::Ack(0));
        world.broker.answers_pings = true;
        world.run_for(900 * SECOND);
        assert_eq!(world.outbox.waiting(Lane::Normal), 0, "{:?}", world.status());
        assert!(world.outbox.rejected.is_empty());
    }
}

#[test]
fn with_a_window_of_one_a_silent_record_lets_the_others_pass() {
    let mut world = World::new(bare_settings());
    world.broker.receive_maximum = Some(1);
    world.broker.policy = Box::new(|d| if d.topic == "bad" { Reply::Drop } else { Reply::Ack(0) });
    for number in 0..20 {
        world.store(Lane::Normal, if number == 5 { "bad" } else { "good" }, b"1");
    }
    for _ in 0..600 {
        world.store(Lane::Normal, "good", b"1");
        world.run_for(SECOND);
    }
    assert_eq!(world.outbox.rejected, [(Lane::Normal, 6, Cause::Silent)]);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
}

#[test]
fn a_connection_that_is_over_is_closed_and_made_anew_without_being_woken() {
    let mut world = World::new(bare_settings());
    world.broker.policy = Box::new(|_| Reply::Drop);
    world.store(Lane::Normal, "a", b"1");
    world.settle();
    // Only the core's own deadlines are followed from here on.
    for _ in 0..200 {
        let next = world.uplink.poll_timeout().expect("there is work, so there is a deadline");
        let by = next.saturating_duration_since(world.moment.now);
        world.advance(by);
        let (moment, outbox) = (world.moment, &mut world.outbox);
        world.uplink.handle_timeout(&moment, outbox);
        if world.uplink.is_over() {
            assert!(world.uplink.poll_timeout().unwrap() <= world.moment.now, "at once");
        }
        world.settle();
    }
    assert!(world.broker.links > 5, "{}", world.broker.links);
}

#[test]
fn connections_that_we_end_ourselves_are_no_sign_of_a_rival_for_the_client_id() {
    let mut settings = bare_settings();
    settings.answer_timeout = 5 * SECOND;
    let mut world = World::new(settings);
    world.broker.policy = Box::new(|_| Reply::Drop);
    world.store(Lane::Normal, "a", b"1");
    world.run_for(Duration::from_secs(1_800));
    assert!(unanswered(&world) > 12, "{}", unanswered(&world));
    assert_eq!(world.count(|event| *event == Event::ClientIdElsewhere), 0);
    assert!(!world.status().rival);
    world.broker.policy = Box::new(|_| Reply::Ack(0));
    world.run_for(Duration::from_secs(400));
    assert_eq!(world.outbox.released[1], [1]);
}

#[test]
fn readings_go_beside_a_subscription_that_is_not_answered() {
    let mut world = World::new(settings());
    world.broker.subscribe_reply = Reply::Drop;
    world.store(Lane::Normal, "a", b"1");
    world.run_for(SECOND);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    assert!(world.status().unheard.is_empty());
    world.run_for(2 * SECOND);
    assert!(
        world.status().unheard[0].contains("has waited 3 s for its answer"),
        "{:?}",
        world.status().unheard
    );
    // Nor on a connection that ends before anybody could be sure that there is no answer.
    for number in 2..6u32 {
        world.cut();
        while !world.uplink.is_connected() {
            world.run_for(SECOND / 10);
        }
        world.store(Lane::Normal, "a", number.to_string().as_bytes());
        world.run_for(2 * SECOND);
        assert_eq!(world.outbox.waiting(Lane::Normal), 0, "{number}");
    }
}

#[test]
fn a_close_over_a_subscription_beside_readings_is_found_out_and_no_reading_is_blamed() {
    for protocol in [Protocol::V5, Protocol::V3_1_1] {
        let mut settings = settings();
        settings.protocol = protocol;
        let mut world = World::new(settings);
        world.broker.subscribe_reply = Reply::Close;
        for _ in 0..120 {
            world.store(Lane::Normal, "a", b"1");
            world.run_for(SECOND);
        }
        assert_eq!(world.outbox.waiting(Lane::Normal), 0, "{protocol:?}");
        assert!(world.outbox.rejected.is_empty() && world.status().suspect_count == 0);
        let suspected = |e: &Event| matches!(e, Event::Publisher(PublisherEvent::Suspected { .. }));
        assert_eq!(world.count(suspected), 0);
        assert_eq!(world.count(|e| matches!(e, Event::SubscriptionLeftOut)), 1);
        assert!(world.uplink.is_connected(), "{:?}", world.status());
    }
}
