//! What a published record looks like, in which order records go, when they are released.

use std::time::Duration;

use mqtt_protocol_core::mqtt::packet::Qos;
use tombolo::clock::UnixTime;
use tombolo::message::{Content, ContentFormat, Envelope, Lane, Method, RecordId, Stamp};
use tombolo::northbound::outbox::Loss;
use tombolo::northbound::settings::Protocol;

use crate::support::{LOSS, World, bare_settings, settings};
use tombolo_test_support::broker::Reply;

#[test]
fn a_reading_carries_its_topic_payload_and_properties() {
    let mut world = World::new(bare_settings());
    world.moment.wall = Some(UnixTime(1_700_000_000_123));
    let mut item = world.item("tombolo/g/door-7/up/t/env", b"{\"t\":21}");
    item.content_format = Some(ContentFormat::JSON);
    item.method = Method::Put;
    item.retain = true;
    item.expires_s = Some(60);
    world.outbox.push(Lane::Normal, item);
    world.advance(Duration::from_secs(10));
    world.settle();
    let delivered = &world.broker.delivered[0];
    assert_eq!(delivered.topic, "tombolo/g/door-7/up/t/env");
    assert_eq!(delivered.payload, b"{\"t\":21}");
    assert_eq!(delivered.qos, Qos::AtLeastOnce);
    assert!(delivered.retain);
    assert_eq!(delivered.content_type.as_deref(), Some("application/json"));
    assert_eq!(delivered.expiry, Some(50));
    let properties: Vec<_> = delivered.user.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        properties,
        [
            ("id", "000000000000abce-1"),
            ("device", "door-7"),
            ("method", "PUT"),
            ("received", "2023-11-14T22:13:20.123Z"),
        ]
    );
    assert_eq!(world.outbox.released[1], [1]);
}

#[test]
fn what_is_unknown_is_absent_and_filled_in_once_the_clock_is_trusted() {
    let mut world = World::new(bare_settings());
    world.store(Lane::Normal, "a", b"1");
    world.settle();
    let delivered = &world.broker.delivered[0];
    assert_eq!((delivered.content_type.as_deref(), delivered.expiry), (None, None));
    assert_eq!(delivered.user("received"), None);
    world.broker.reachable = false;
    world.kill_broker();
    world.store(Lane::Normal, "a", b"2");
    world.advance(Duration::from_secs(3));
    world.moment.wall = Some(UnixTime(1_700_000_003_000));
    world.broker.reachable = true;
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.broker.delivered[1].user("received"), Some("2023-11-14T22:13:20.000Z"));
}

#[test]
fn over_3_1_1_topic_and_payload_go_and_the_envelope_where_a_rule_asks_for_it() {
    let mut settings = bare_settings();
    settings.protocol = Protocol::V3_1_1;
    let mut world = World::new(settings);
    world.store(Lane::Normal, "a", b"21.5");
    let mut item = world.item("b", b"21.5");
    item.envelope = Envelope::Json;
    world.outbox.push(Lane::Normal, item);
    world.settle();
    assert_eq!(world.broker.connects[0].version, 4);
    assert_eq!(world.broker.delivered[0].payload, b"21.5");
    let envelope: serde_json::Value = serde_json::from_slice(&world.broker.delivered[1].payload).unwrap();
    assert_eq!(
        envelope,
        serde_json::json!({"v":1,"id":"000000000000abce-2","gateway":"g","device":"door-7","path":"t/env",
            "method":"POST","text":"21.5"})
    );
}

#[test]
fn an_enveloped_delete_is_still_an_empty_retained_publish() {
    let mut world = World::new(bare_settings());
    let mut item = world.item("a", b"");
    item.envelope = Envelope::Json;
    item.method = Method::Delete;
    item.retain = true;
    world.outbox.push(Lane::Normal, item);
    world.settle();
    assert!(world.broker.delivered[0].payload.is_empty() && world.broker.delivered[0].retain);
    assert_eq!(world.broker.delivered[0].user("method"), Some("DELETE"));
}

#[test]
fn order_holds_within_a_lane() {
    let mut world = World::new(bare_settings());
    for number in 0..5000 {
        world.store(Lane::Normal, "a", number.to_string().as_bytes());
    }
    world.run_for(Duration::from_secs(1));
    let expected: Vec<_> = (0..5000).map(|number| number.to_string()).collect();
    assert_eq!(world.payloads(), expected);
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
}

#[test]
fn while_both_lanes_wait_high_gets_three_of_four_places() {
    let mut settings = bare_settings();
    settings.max_in_flight = 1;
    let mut world = World::new(settings);
    for _ in 0..30 {
        world.store(Lane::High, "h", b"h");
        world.store(Lane::Normal, "n", b"n");
    }
    world.run_for(Duration::from_secs(1));
    let order: String = world.payloads().concat();
    assert_eq!(&order[..40], "hhhn".repeat(10));
    assert_eq!(order.len(), 60);
    assert_eq!(world.broker.most_in_flight, 1);
}

#[test]
fn a_cold_lane_does_not_hold_up_the_other() {
    let mut world = World::new(bare_settings());
    world.outbox.pending[Lane::High.index()] = true;
    world.store(Lane::High, "h", b"h");
    world.store(Lane::Normal, "n", b"n");
    world.uplink.poll_connect(world.moment.now);
    let link = world.broker.accept();
    world.uplink.handle_connected(world.moment.now, None, Default::default());
    world.link = Some(link);
    world.settle();
    let mut payloads = world.payloads();
    payloads.sort();
    assert_eq!(payloads, ["h", "n"]);
}

#[test]
fn nothing_is_released_without_its_puback_and_nothing_out_of_order() {
    let mut world = World::new(bare_settings());
    world.broker.policy =
        Box::new(|delivered| if delivered.payload == b"2" { Reply::Hold } else { Reply::Ack(0) });
    for number in 1..=5 {
        world.store(Lane::Normal, "a", number.to_string().as_bytes());
    }
    world.settle();
    assert_eq!(world.outbox.released[1], [1]);
    world.broker.policy = Box::new(|_| Reply::Ack(0));
    world.kill_broker();
    world.broker.reachable = true;
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.outbox.released[1], [1, 2, 3, 4, 5]);
    // Those answered before the second were not sent again.
    assert_eq!(world.payloads(), ["1", "2", "3", "4", "5", "2"]);
}

#[test]
fn duplicates_are_bounded_by_the_window() {
    let mut settings = bare_settings();
    settings.max_in_flight = 50;
    let mut world = World::new(settings);
    for number in 0..1000 {
        world.store(Lane::Normal, "a", number.to_string().as_bytes());
    }
    let mut seen = 0;
    world.broker.policy = Box::new(move |_| {
        seen += 1;
        if seen > 500 && seen <= 600 { Reply::Hold } else { Reply::Ack(0) }
    });
    world.settle();
    assert_eq!(world.outbox.waiting(Lane::Normal), 500);
    assert_eq!(world.broker.delivered.len(), 550);
    world.kill_broker();
    world.broker.policy = Box::new(|_| Reply::Ack(0));
    world.broker.reachable = true;
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    assert_eq!(world.broker.delivered.len(), 1050);
}

#[test]
fn an_expired_record_is_lost_and_what_is_left_of_others_is_sent_along() {
    let mut world = World::new(bare_settings());
    world.broker.reachable = false;
    for expires in [5, 100] {
        let mut item = world.item("a", format!("{expires}").as_bytes());
        item.expires_s = Some(expires);
        world.outbox.push(Lane::Normal, item);
    }
    world.store(Lane::Normal, "a", b"never");
    world.run_for(Duration::from_secs(30));
    world.broker.reachable = true;
    world.uplink.retry_now(world.moment.now);
    world.settle();
    assert_eq!(world.outbox.expired, [(Lane::Normal, 1)]);
    assert_eq!(world.payloads(), ["100", "never"]);
    assert_eq!(world.broker.delivered[0].expiry, Some(70));
    assert_eq!(world.status().counters.expired, 1);
}

#[test]
fn a_clock_at_1970_or_2036_expires_nothing_of_an_earlier_boot() {
    for wall in [None, Some(UnixTime(0)), Some(UnixTime(2_082_758_400_000))] {
        let mut world = World::new(bare_settings());
        world.moment.wall = wall;
        let mut item = world.item("a", b"1");
        item.same_boot = false;
        item.expires_s = Some(10);
        item.received = Stamp { boottime_ms: 99_000_000, wall_ms: None };
        world.outbox.push(Lane::Normal, item);
        world.settle();
        assert_eq!(world.broker.delivered[0].expiry, Some(10), "{wall:?}");
        assert!(world.outbox.expired.is_empty());
    }
}

fn loss(lane: Lane, number: u64, count: u64) -> Loss {
    let id = |sequence| RecordId { run: 1, sequence };
    Loss { lane, number, cause: "dropped", count, first: id(1), last: id(count) }
}

#[test]
fn losses_are_reported_once_each_and_again_when_they_grow() {
    let mut world = World::new(settings());
    world.outbox.slow = true;
    world.outbox.losses = vec![loss(Lane::Normal, 1, 12), loss(Lane::Normal, 2, 1), loss(Lane::High, 1, 3)];
    world.store(Lane::Normal, "a", b"1");
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.outbox.reported, [(Lane::High, 1, 3), (Lane::Normal, 1, 12), (Lane::Normal, 2, 1)]);
    world.outbox.losses[1].count = 5;
    world.settle();
    assert_eq!(world.outbox.reported[3..], [(Lane::Normal, 2, 5)]);
    let reports: Vec<_> = world.broker.delivered.iter().filter(|d| d.topic == LOSS).collect();
    assert_eq!(reports.len(), 4);
    assert!(reports.iter().all(|d| !d.retain && d.qos == Qos::AtLeastOnce));
    let report: serde_json::Value = serde_json::from_slice(&reports[1].payload).unwrap();
    assert_eq!((&report["lane"], &report["count"]), (&"normal".into(), &12.into()));
}

#[test]
fn a_loss_nobody_heard_of_is_reported_on_the_next_connection() {
    let mut world = World::new(settings());
    world.broker.policy = Box::new(|d| if d.topic == LOSS { Reply::Hold } else { Reply::Ack(0) });
    world.outbox.losses = vec![loss(Lane::Normal, 1, 12)];
    world.run_for(Duration::from_secs(1));
    assert!(world.outbox.reported.is_empty());
    world.kill_broker();
    world.broker.policy = Box::new(|_| Reply::Ack(0));
    world.broker.reachable = true;
    // The report was alone in flight when the connection went: the next one has to stand without it
    // first.
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.outbox.reported, [(Lane::Normal, 1, 12)]);
}

#[test]
fn without_a_loss_topic_losses_count_as_reported_and_a_refused_report_stays_in_the_journal() {
    let mut world = World::new(bare_settings());
    world.outbox.losses = vec![loss(Lane::Normal, 1, 12)];
    world.settle();
    assert!(world.broker.delivered.is_empty());
    assert_eq!(world.outbox.reported, [(Lane::Normal, 1, 12)]);

    let mut world = World::new(settings());
    world.broker.policy = Box::new(|d| if d.topic == LOSS { Reply::Ack(0x87) } else { Reply::Ack(0) });
    world.outbox.losses = vec![loss(Lane::Normal, 1, 12)];
    world.store(Lane::Normal, "a", b"1");
    world.run_for(Duration::from_secs(60));
    assert!(world.outbox.reported.is_empty());
    assert!(world.payloads().contains(&"1".to_owned()));
    world.broker.policy = Box::new(|_| Reply::Ack(0));
    world.run_for(Duration::from_secs(3600));
    assert_eq!(world.outbox.reported, [(Lane::Normal, 1, 12)]);
}

#[test]
fn a_qos_0_reading_goes_once_and_is_forgotten() {
    let mut world = World::new(bare_settings());
    world.moment.wall = Some(UnixTime(1_700_000_000_000));
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
        expires_s: Some(5),
        received: world.moment.stamp(),
        payload: b"1",
    };
    world.uplink.push_volatile(&content);
    world.settle();
    let delivered = &world.broker.delivered[0];
    assert_eq!(
        (delivered.qos, delivered.user("id"), delivered.user("device")),
        (Qos::AtMostOnce, None, Some("d"))
    );
    assert_eq!(delivered.expiry, Some(5));
    // Expired while there was no connection: dropped and counted.
    world.kill_broker();
    world.uplink.push_volatile(&content);
    world.advance(Duration::from_secs(6));
    world.broker.reachable = true;
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.broker.delivered.len(), 1);
    assert_eq!(world.status().volatile_dropped, 1);
}

#[test]
fn records_the_journal_dropped_meanwhile_are_not_waited_for() {
    let mut world = World::new(bare_settings());
    world.broker.policy = Box::new(|_| Reply::Hold);
    for number in 1..=10 {
        world.store(Lane::Normal, "a", number.to_string().as_bytes());
    }
    world.settle();
    world.kill_broker();
    world.outbox.drop_oldest(Lane::Normal, 4);
    world.broker.policy = Box::new(|_| Reply::Ack(0));
    world.broker.reachable = true;
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.outbox.released[1], [5, 6, 7, 8, 9, 10]);
}
