//! How connections come about, how they end, and when the next is tried.

use std::time::Duration;

use mqtt_protocol_core::mqtt::packet::Qos;
use tombolo::message::Lane;
use tombolo::northbound::settings::Protocol;
use tombolo::northbound::uplink::{Closed, Event, Uplink};
use tombolo::northbound::wire::Version;

use crate::support::{STATUS, World, bare_settings, settings};
use tombolo_test_support::broker::{Reply, Welcome};

fn lost(world: &World) -> Option<&str> {
    world.events.iter().rev().find_map(|event| match event {
        Event::Lost { what, .. } => Some(what.as_str()),
        _ => None,
    })
}

#[test]
fn connect_says_what_the_settings_say() {
    let mut settings = settings();
    settings.client_id = "client".to_owned();
    settings.username = Some("user".to_owned());
    settings.keep_alive = Duration::from_secs(45);
    let mut world = World::new(settings);
    world.password = Some(b"secret".to_vec());
    world.settle();
    let connect = &world.broker.connects[0];
    assert_eq!((connect.version, connect.client_id.as_str(), connect.keep_alive), (5, "client", 45));
    assert_eq!(connect.username.as_deref(), Some("user"));
    assert_eq!(connect.password.as_deref(), Some(&b"secret"[..]));
    assert_eq!((connect.clean, connect.session_expiry), (true, None));
    let (topic, payload, qos, retain) = connect.will.clone().unwrap();
    assert_eq!((topic.as_str(), qos, retain, connect.will_delay), (STATUS, Qos::AtLeastOnce, true, None));
    // The session ends with the connection: a delay would be void (MQTT 5.0 §3.1.3.2.2).
    let status: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(status["online"], false);
}

#[test]
fn unreachable_it_tries_ever_more_seldom_but_at_least_every_five_minutes() {
    let mut world = World::new(bare_settings());
    world.broker.reachable = false;
    world.run_for(Duration::from_secs(3600));
    let waits: Vec<_> = world.attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits[0] <= Duration::from_secs(2));
    assert!(waits.iter().all(|wait| *wait <= Duration::from_millis(300_001)));
    assert!(waits.len() < 50 && waits.len() > 15, "{}", waits.len());
}

fn versions(world: &World) -> Vec<u8> {
    world.broker.connects.iter().map(|connect| connect.version).collect()
}

#[test]
fn a_broker_without_5_is_spoken_to_in_3_1_1_once_5_failed_again_and_before_any_record() {
    for welcome in [Welcome::Code(0x01), Welcome::Code(0x84), Welcome::Close] {
        let mut world = World::new(bare_settings());
        world.broker.v5 = welcome;
        world.store(Lane::Normal, "a", b"1");
        world.run_for(Duration::from_secs(5));
        assert_eq!(versions(&world), [5, 4, 5, 4], "{welcome:?}");
        assert_eq!(world.payloads(), ["1"]);
        assert_eq!(world.count(|event| matches!(event, Event::FellBack { .. })), 1);
        let status = world.status();
        assert_eq!(status.version, Some(Version::V3_1_1));
        assert!(status.version_why.is_some() && status.version_since.is_some(), "{status:?}");
        // The connection that works is left alone; every reconnect tries 5 first, once.
        world.run_for(Duration::from_secs(7200));
        assert_eq!(world.broker.connects.len(), 4);
        world.cut();
        world.run_for(Duration::from_secs(10));
        assert_eq!(versions(&world)[4..], [5, 4], "{welcome:?}");
        assert_eq!(world.status().version_since, status.version_since, "since when, over reconnects");
        world.broker.v5 = Welcome::Accept;
        world.cut();
        world.run_for(Duration::from_secs(10));
        assert_eq!(versions(&world)[6..], [5]);
        assert_eq!(world.status().version_why, None);
        assert!(world.status().version_since > status.version_since);
    }
}

#[test]
fn a_load_balancer_that_closes_before_connack_never_makes_us_speak_3_1_1() {
    for seconds in 1..40 {
        let mut world = World::new(settings());
        world.broker.v5 = Welcome::Close;
        world.broker.v3 = Welcome::Close;
        world.store(Lane::Normal, "bad", b"1");
        world.broker.policy = Box::new(|d| if d.topic == "bad" { Reply::Ack(0x87) } else { Reply::Ack(0) });
        world.run_for(Duration::from_secs(seconds));
        world.broker.v5 = Welcome::Accept;
        world.broker.v3 = Welcome::Accept;
        world.run_for(Duration::from_secs(120));
        assert_eq!(world.status().version, Some(Version::V5), "{seconds}");
        assert_eq!(world.status().version_why, None);
        // Over 3.1.1 it would have looked accepted.
        assert_eq!(world.outbox.waiting(Lane::Normal), 1);
        assert!(world.status().left_out.is_empty());
    }
}

#[test]
fn every_address_gets_its_turn_before_any_other_conclusion() {
    let address = |last: u8| std::net::SocketAddr::from(([192, 0, 2, last], 8883));
    let mut world = World::new(bare_settings());
    world.addresses = vec![address(1), address(2), address(3)];
    world.hollow = vec![address(1), address(2)];
    world.store(Lane::Normal, "a", b"1");
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.dialed, [address(1), address(2), address(3)]);
    assert_eq!(world.payloads(), ["1"]);
    assert_eq!(world.broker.connects.len(), 1);
    // A connection that lasted: from the first again.
    world.run_for(Duration::from_secs(60));
    world.cut();
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.dialed[3..], [address(1), address(2), address(3)]);
    // One that is lost at once: not there again first.
    world.cut();
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.dialed.last(), Some(&address(3)));
    // All of them hollow: the waits grow all the same.
    let mut world = World::new(bare_settings());
    world.addresses = vec![address(1), address(2)];
    world.hollow = world.addresses.clone();
    world.run_for(Duration::from_secs(3600));
    assert!(world.dialed.len() < 120, "{}", world.dialed.len());
}

#[test]
fn refused_credentials_are_not_tried_at_every_address_at_once() {
    let address = |last: u8| std::net::SocketAddr::from(([192, 0, 2, last], 8883));
    let mut world = World::new(bare_settings());
    world.addresses = (1..=4).map(address).collect();
    world.broker.v5 = Welcome::Code(0x86);
    world.run_for(Duration::from_secs(60));
    assert!(world.broker.connects.len() <= 3, "{}", world.broker.connects.len());
}

#[test]
fn another_server_is_named_and_not_followed() {
    for code in [0x9C, 0x9D] {
        let mut world = World::new(bare_settings());
        world.broker.v5 = Welcome::Code(code);
        world.run_for(Duration::from_secs(600));
        let failure = world.status().failure.unwrap();
        assert!(failure.contains("set upstream.url") || failure.contains("then upstream.url"), "{failure}");
        assert!(versions(&world).iter().all(|version| *version == 5));
        assert!(world.broker.connects.len() < 20, "{}", world.broker.connects.len());
    }
}

#[test]
fn a_broker_that_never_answers_connect_is_a_network_fault_and_no_reason_to_fall_back() {
    let mut world = World::new(bare_settings());
    world.broker.v5 = Welcome::Silence;
    world.run_for(Duration::from_secs(3000));
    assert!(world.broker.connects.len() > 8);
    assert!(world.broker.connects.iter().all(|connect| connect.version == 5));
    world.broker.reachable = false;
    world.run_for(Duration::from_secs(3000));
    world.broker.reachable = true;
    world.broker.v5 = Welcome::Accept;
    world.run_for(Duration::from_secs(600));
    assert_eq!(world.status().version, Some(Version::V5));
}

#[test]
fn a_version_the_owner_asked_for_is_not_given_up() {
    let mut settings = bare_settings();
    settings.protocol = Protocol::V5;
    let mut world = World::new(settings);
    world.broker.v5 = Welcome::Code(0x84);
    world.run_for(Duration::from_secs(600));
    assert!(world.broker.connects.iter().all(|connect| connect.version == 5));
}

#[test]
fn refused_credentials_are_tried_seldom_and_named() {
    for (v5, v3, protocol) in
        [(0x86, 0, Protocol::V5), (0x87, 0, Protocol::V5), (0, 4, Protocol::V3_1_1), (0, 5, Protocol::V3_1_1)]
    {
        let mut settings = bare_settings();
        settings.protocol = protocol;
        let mut world = World::new(settings);
        world.broker.v5 = Welcome::Code(v5);
        world.broker.v3 = Welcome::Code(v3);
        world.run_for(Duration::from_secs(3600));
        assert!(world.broker.connects.len() < 25, "{}", world.broker.connects.len());
        let failure = world.status().failure.unwrap();
        assert!(failure.contains("password"), "{failure}");
        // The owner mends it and reloads.
        world.broker.v5 = Welcome::Accept;
        world.broker.v3 = Welcome::Accept;
        world.uplink.retry_now(world.moment.now);
        world.settle();
        assert!(world.uplink.is_connected());
    }
}

#[test]
fn an_idle_connection_is_kept_alive_by_pings() {
    let mut world = World::new(bare_settings());
    world.run_for(Duration::from_secs(3600));
    assert_eq!(world.broker.links, 1);
    assert!((59..=60).contains(&world.broker.pings), "{}", world.broker.pings);
}

#[test]
fn the_brokers_own_keep_alive_is_kept() {
    let mut world = World::new(bare_settings());
    world.broker.server_keep_alive = Some(10);
    world.run_for(Duration::from_secs(600));
    assert!((59..=60).contains(&world.broker.pings), "{}", world.broker.pings);
}

#[test]
fn a_dead_peer_is_noticed_within_keep_alive_and_ping_timeout() {
    let mut world = World::new(bare_settings());
    world.settle();
    assert!(world.uplink.is_connected());
    world.frozen = true;
    world.run_for(Duration::from_secs(79));
    assert!(world.uplink.is_connected());
    world.run_for(Duration::from_secs(2));
    assert!(!world.uplink.is_connected());
    assert!(lost(&world).unwrap().contains("silent"));
}

#[test]
fn a_dead_peer_is_noticed_sooner_while_answers_are_due() {
    let mut world = World::new(bare_settings());
    world.run_for(Duration::from_secs(50));
    world.frozen = true;
    world.store(Lane::Normal, "a", b"1");
    world.run_for(Duration::from_secs(36));
    assert!(!world.uplink.is_connected());
    world.frozen = false;
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.payloads(), ["1"]);
    assert!(world.outbox.rejected.is_empty());
}

#[test]
fn a_broker_that_lives_but_answers_no_publish_is_left() {
    let mut world = World::new(bare_settings());
    world.broker.policy = Box::new(|_| Reply::Hold);
    world.store(Lane::Normal, "a", b"1");
    world.run_for(Duration::from_secs(29));
    assert!(world.uplink.is_connected());
    world.broker.policy = Box::new(|_| Reply::Ack(0));
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.outbox.released[1], [1]);
    assert_eq!(world.broker.links, 2);
}

#[test]
fn a_rival_for_the_client_id_is_recognised_and_not_fought() {
    let mut world = World::new(bare_settings());
    world.settle();
    for _ in 0..5 {
        // The rival connects two seconds after us, each time.
        world.run_for(Duration::from_secs(2));
        if world.uplink.is_connected() {
            let mut link = world.link.take().unwrap();
            world.broker.handle_closed(&mut link);
            world.uplink.handle_bytes(&world.moment, &mut world.outbox, &[0xE0, 1, 0x8E]);
            world.uplink.handle_closed(&world.moment, &mut world.outbox, Closed::ByPeer);
            world.settle();
        }
        while !world.uplink.is_connected() {
            let next = world.uplink.poll_timeout().unwrap();
            world.run_for(next.max(world.moment.now + Duration::from_millis(1)) - world.moment.now);
        }
    }
    assert!(world.count(|event| *event == Event::ClientIdElsewhere) >= 3);
    assert!(world.status().rival, "connected, and the rival may be back at any time");
    let last = world.attempts.windows(2).last().unwrap();
    assert!(last[1] - last[0] >= Duration::from_secs(60), "{last:?}");
    world.run_for(Duration::from_secs(601));
    assert!(world.uplink.is_connected() && !world.status().rival, "a connection lasted");
}

#[test]
fn the_goodbye_turns_the_status_offline_and_drops_the_will() {
    let mut world = World::new(settings());
    world.store(Lane::Normal, "a", b"1");
    world.run_for(Duration::from_secs(1));
    world.uplink.stop(world.moment.now);
    world.run_for(Duration::from_secs(2));
    assert!(world.uplink.is_stopped());
    assert_eq!(world.broker.disconnects, [0]);
    let status: serde_json::Value = serde_json::from_slice(&world.broker.retained[STATUS]).unwrap();
    assert_eq!(status["online"], false);
    world.run_for(Duration::from_secs(600));
    assert_eq!(world.attempts.len(), 1, "nothing follows the goodbye");
}

#[test]
fn a_goodbye_nobody_hears_leaves_the_word_to_the_will() {
    let mut world = World::new(settings());
    world.settle();
    world.broker.policy = Box::new(|_| Reply::Hold);
    world.uplink.stop(world.moment.now);
    world.run_for(Duration::from_secs(2));
    assert!(world.uplink.is_stopped());
    assert_eq!(world.broker.disconnects, [0x04]);
}

#[test]
fn stopping_while_unreachable_or_connecting_is_immediate() {
    let mut world = World::new(settings());
    world.broker.reachable = false;
    world.settle();
    world.uplink.stop(world.moment.now);
    assert!(world.uplink.is_stopped());
    let mut world = World::new(settings());
    world.broker.v5 = Welcome::Silence;
    world.settle();
    world.uplink.stop(world.moment.now);
    world.settle();
    assert!(world.uplink.is_stopped());
}

#[test]
fn nonsense_from_the_broker_ends_the_connection_and_nothing_else() {
    let nonsense: [&[u8]; 9] = [
        &[0x20, 2, 0, 0],                   // a second CONNACK
        &[0x40, 1, 0],                      // a PUBACK without an id
        &[0x40, 2, 0, 0],                   // a PUBACK for id 0
        &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1], // a length that is none
        &[0x30, 0xFF, 0xFF, 0xFF, 0x7F],    // 256 MiB
        &[0x10, 0],                         // CONNECT
        &[0x00, 0],                         // no packet type
        &[0x90, 3, 0xFF, 0xFF, 0],          // SUBACK for no subscription
        &[0x36, 5, 0, 1, b'a', 0, 1],       // QoS 3
    ];
    for bytes in nonsense {
        for protocol in [Protocol::V5, Protocol::V3_1_1] {
            let mut settings = bare_settings();
            settings.protocol = protocol;
            let mut world = World::new(settings);
            world.settle();
            world.uplink.handle_bytes(&world.moment, &mut world.outbox, bytes);
            assert!(!world.uplink.is_connected(), "{bytes:?}");
            world.store(Lane::Normal, "a", b"1");
            world.run_for(Duration::from_secs(5));
            assert_eq!(world.payloads(), ["1"], "{bytes:?}");
        }
    }
}

#[test]
fn an_answer_to_nothing_is_counted_and_ignored() {
    let mut world = World::new(bare_settings());
    world.settle();
    world.uplink.handle_bytes(&world.moment, &mut world.outbox, &[0x40, 2, 0, 9]);
    world.uplink.handle_bytes(&world.moment, &mut world.outbox, &[0x40, 2, 0xFF, 0xFF]);
    assert!(world.uplink.is_connected());
    assert_eq!(world.status().counters.unknown_answers, 2);
}

#[test]
fn bytes_may_come_one_at_a_time() {
    let mut world = World::new(bare_settings());
    world.broker.policy = Box::new(|_| Reply::Hold);
    for _ in 0..3 {
        world.store(Lane::Normal, "a", b"1");
    }
    world.settle();
    for byte in [0x40, 2, 0, 1, 0x40, 4, 0, 2, 0x10, 0, 0x40, 3, 0, 3, 0] {
        world.uplink.handle_bytes(&world.moment, &mut world.outbox, &[byte]);
    }
    assert_eq!(world.outbox.released[1], [1, 2, 3]);
}

#[test]
fn what_was_in_flight_at_the_goodbye_is_the_next_uplinks() {
    let mut world = World::new(settings());
    world.broker.policy = Box::new(|d| if d.topic == "a" { Reply::Hold } else { Reply::Ack(0) });
    for _ in 0..5 {
        world.store(Lane::Normal, "a", b"1");
    }
    world.run_for(Duration::from_secs(1));
    world.uplink.stop(world.moment.now);
    world.run_for(Duration::from_secs(2));
    assert!(world.uplink.is_stopped());
    world.broker.policy = Box::new(|_| Reply::Ack(0));
    world.uplink = Uplink::new(world.moment.now, settings());
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.outbox.released[1], [1, 2, 3, 4, 5]);
}

#[test]
fn a_connection_that_is_closed_again_and_again_over_mqtt_5_is_nobody_elses_doing_by_that() {
    for (protocol, rival) in [(Protocol::V5, false), (Protocol::V3_1_1, true)] {
        let mut settings = bare_settings();
        settings.protocol = protocol;
        let mut world = World::new(settings);
        world.settle();
        for _ in 0..8 {
            while !world.uplink.is_connected() {
                world.run_for(Duration::from_millis(100));
            }
            world.run_for(Duration::from_secs(1));
            world.cut();
        }
        // What has 0x8E says so of a take-over.
        assert_eq!(world.count(|event| *event == Event::ClientIdElsewhere) > 0, rival, "{protocol:?}");
        let status = world.status();
        assert!(status.rival == rival && status.closes >= 4, "{protocol:?}: {status:?}");
        assert!(
            status.closes_lasted >= Duration::from_secs(1) && status.closes_lasted < Duration::from_secs(3)
        );
    }
    // One that stood for longer was not taken over by a client that connects again at once.
    let mut settings = bare_settings();
    settings.protocol = Protocol::V3_1_1;
    let mut world = World::new(settings);
    world.settle();
    for _ in 0..8 {
        while !world.uplink.is_connected() {
            world.run_for(Duration::from_millis(100));
        }
        world.run_for(Duration::from_secs(6));
        world.cut();
    }
    assert_eq!(world.count(|event| *event == Event::ClientIdElsewhere), 0);
}

#[test]
fn a_will_that_may_not_be_there_is_left_out_at_once_and_in_words_about_the_will() {
    let mut world = World::new(settings());
    world.broker.will = Some(Welcome::Code(0x87));
    world.run_for(Duration::from_secs(3));
    assert!(world.uplink.is_connected(), "{:?}", world.status());
    let left_out = world.status().left_out.join("; ");
    assert!(left_out.contains("the will on") && left_out.contains("not authorized"), "{left_out}");
    assert!(left_out.contains("the gateway connects without it"), "{left_out}");
    assert!(!left_out.contains("upstream.username"), "{left_out}");
    // A broker that knows us not at all is asked once more, and then seldom.
    let mut world = World::new(settings());
    (world.broker.v5, world.broker.v3) = (Welcome::Code(0x87), Welcome::Code(0x87));
    world.run_for(Duration::from_secs(29));
    assert_eq!(world.attempts.len(), 2);
}

#[test]
fn a_status_that_is_too_large_is_called_that() {
    let mut world = World::new(settings());
    world.broker.maximum_packet_size = Some(60);
    world.run_for(Duration::from_secs(3));
    let left_out = world.status().left_out.join("; ");
    assert!(left_out.contains("takes only packets of 60 bytes"), "{left_out}");
    assert!(!left_out.contains("refuses"), "{left_out}");
}
