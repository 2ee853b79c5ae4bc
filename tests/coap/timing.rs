//! Deadlines: none is unnecessary, none is missed, none stays in the past.

use tombolo::proto::coap::{Code, Settings, Type};

use super::support::*;

#[test]
fn an_endpoint_that_heard_nothing_waits_for_nothing() {
    let mut bench = Bench::default();
    assert_eq!(bench.endpoint.poll_timeout(), None);
    bench.reply(DEVICE, &empty(Type::Confirmable, 1));
    assert_eq!(bench.endpoint.poll_timeout(), None);
}

#[test]
fn idle_peers_wake_nobody_more_often_than_every_eight_seconds() {
    let mut bench = Bench::default();
    for peer in 0..2_000 {
        let exchange = bench.request(proven(peer), &post(1, b"x"));
        bench.respond(exchange, &changed());
        bench.now += std::time::Duration::from_millis(50);
    }
    bench.sent();
    let mut wakes = 0;
    while let Some(deadline) = bench.endpoint.poll_timeout() {
        assert!(deadline > bench.now || wakes == 0);
        bench.now = bench.now.max(deadline);
        bench.endpoint.handle_timeout(bench.now);
        wakes += 1;
    }
    assert!(wakes <= 14, "{wakes}");
    assert_eq!(bench.endpoint.memory(), 0);
}

#[test]
fn the_acknowledgement_comes_when_the_setting_says() {
    let mut bench = Bench::new(Settings { acknowledge_after: seconds(0.2), ..Settings::default() });
    bench.request(DEVICE, &post(1, b"x"));
    assert_eq!(bench.endpoint.poll_timeout(), Some(bench.now + seconds(0.2)));
    bench.pass(seconds(0.19));
    assert!(bench.sent().is_empty());
    bench.pass(seconds(0.01));
    assert_eq!(bench.sent().len(), 1);
}

#[test]
fn a_duplicate_is_known_for_247_seconds_and_no_longer() {
    let mut bench = Bench::default();
    let exchange = bench.request(DEVICE, &post(1, b"x"));
    bench.respond(exchange, &changed());
    bench.sent();
    bench.pass(seconds(246.9));
    assert_eq!(bench.reply(DEVICE, &post(1, b"x")).len(), 1);
    bench.pass(seconds(1.0));
    assert!(bench.feed(DEVICE, &post(1, b"x")).is_some());
}

#[test]
fn a_non_confirmable_duplicate_is_known_for_145_seconds() {
    let mut bench = Bench::default();
    let exchange = bench.request(DEVICE, &non_post(1, b"x"));
    bench.respond(exchange, &changed());
    bench.sent();
    bench.pass(seconds(144.9));
    assert!(bench.reply(DEVICE, &non_post(1, b"x")).is_empty());
    bench.pass(seconds(1.0));
    assert!(bench.feed(DEVICE, &non_post(1, b"x")).is_some());
}

#[test]
fn our_message_ids_do_not_recur_within_their_lifetime() {
    let mut bench = Bench::default();
    let mut last = std::collections::HashMap::new();
    let mut sent = 0;
    for round in 0..200_000u32 {
        let exchange = bench.request(DEVICE, &non_post(round as u16, &round.to_be_bytes()));
        bench.respond(exchange, &changed());
        for (_, datagram) in bench.sent() {
            sent += 1;
            assert_eq!(parse(&datagram).code, Code::CHANGED);
            if let Some(before) = last.insert(parse(&datagram).message_id, bench.now) {
                assert!(bench.now - before >= seconds(247.0));
            }
        }
        bench.now += std::time::Duration::from_millis(2);
    }
    assert!(sent >= 2 * 32_768 && bench.endpoint.counters().withheld > 0, "{sent}");
}
