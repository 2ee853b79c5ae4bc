//! Messages for devices: the session that is kept, the subscription, answers and duplicates.

use std::time::Duration;

use tombolo::message::Lane;
use tombolo::northbound::inbound::Answer;
use tombolo::northbound::publisher::Event as PublisherEvent;
use tombolo::northbound::settings::{Protocol, Settings};
use tombolo::northbound::uplink::{Event, Inbound};

use crate::support::{World, settings};
use tombolo_test_support::broker::Reply;

const FILTER: &str = "tombolo/g/+/down/#";

fn with_commands() -> Settings {
    Settings { commands: vec![FILTER.to_owned()], ..settings() }
}

/// A PUBLISH of MQTT 5 without properties.
fn publish(qos: u8, again: bool, packet_id: u16, payload: &[u8]) -> Vec<u8> {
    let topic = b"tombolo/g/door-7/down/lock";
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend_from_slice(topic);
    if qos > 0 {
        body.extend_from_slice(&packet_id.to_be_bytes());
    }
    body.push(0);
    body.extend_from_slice(payload);
    let mut packet = vec![0x30 | qos << 1 | u8::from(again) << 3, body.len() as u8];
    packet.extend_from_slice(&body);
    packet
}

fn receive(world: &mut World, bytes: &[u8]) -> Vec<Inbound> {
    world.uplink.handle_bytes(&world.moment, &mut world.outbox, bytes);
    std::iter::from_fn(|| world.uplink.poll_inbound()).collect()
}

fn connection(inbound: &Inbound) -> u64 {
    match inbound {
        Inbound::Message { connection, .. } | Inbound::Released { connection, .. } => *connection,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_session_is_kept_where_commands_are_wanted_and_only_there() {
    for protocol in [Protocol::V5, Protocol::V3_1_1] {
        let mut world = World::new(Settings { protocol, ..with_commands() });
        world.settle();
        let connect = world.broker.connects.last().unwrap();
        assert!(!connect.clean);
        if protocol == Protocol::V5 {
            assert_eq!(connect.session_expiry, Some(7 * 86_400));
        }
        assert!(world.link.as_ref().unwrap().is_subscribed(FILTER));
        let inbound: Vec<Inbound> = std::iter::from_fn(|| world.uplink.poll_inbound()).collect();
        assert_eq!(inbound, [Inbound::SessionLost], "the broker did not know the session");
    }
    let mut world = World::new(settings());
    world.settle();
    assert!(world.broker.connects.last().unwrap().clean);
}

#[test]
fn a_refused_subscription_is_named_and_readings_go_on() {
    let mut world = World::new(with_commands());
    world.broker.subscribe_reply = Reply::Ack(0x87);
    world.broker.subscribe_reply_to = Some(FILTER.to_owned());
    world.settle();
    let refused = Event::CommandsRefused { filter: FILTER.to_owned(), code: 0x87 };
    assert_eq!(world.count(|event| *event == refused), 1);
    assert!(
        world.status().unsubscribed.iter().any(|it| it.filter == FILTER && it.why.contains("refuses")),
        "{:?}",
        world.status().unsubscribed
    );
    world.store(Lane::Normal, "a", b"1");
    world.settle();
    assert!(world.broker.delivered.iter().any(|delivered| delivered.topic == "a"));
}

#[test]
fn a_refused_subscription_is_asked_for_again_ever_more_seldom_and_granted_on_the_same_connection() {
    const OTHER: &str = "tombolo/g/gateway/down/#";
    let mut world =
        World::new(Settings { commands: vec![FILTER.to_owned(), OTHER.to_owned()], ..settings() });
    world.broker.subscribe_reply = Reply::Ack(0x87);
    world.broker.subscribe_reply_to = Some(FILTER.to_owned());
    let asked = |world: &World| world.broker.subscribed.iter().filter(|filter| *filter == FILTER).count();
    let granted = |world: &World| world.broker.subscribed.iter().filter(|filter| *filter == OTHER).count();
    world.settle();
    assert_eq!((asked(&world), granted(&world)), (1, 1));
    world.run_for(Duration::from_secs(58));
    assert_eq!(asked(&world), 1);
    world.run_for(Duration::from_secs(4));
    assert_eq!((asked(&world), granted(&world)), (2, 1), "after a minute, and that one alone");
    world.run_for(Duration::from_secs(6 * 3600));
    let times = asked(&world);
    assert!((9..=14).contains(&times), "an hour apart at most: {times}");
    let refused = Event::CommandsRefused { filter: FILTER.to_owned(), code: 0x87 };
    assert_eq!(world.count(|event| *event == refused), 1, "said once");
    assert!(world.status().unsubscribed.iter().any(|it| it.filter == FILTER));
    // A reload asks at once.
    let now = world.moment.now;
    world.uplink.retry_subscriptions(now);
    world.run_for(Duration::from_secs(1));
    assert_eq!(asked(&world), times + 1);
    // It is granted now, after a minute again.
    world.broker.subscribe_reply = Reply::Ack(1);
    world.run_for(Duration::from_secs(62));
    assert!(world.status().unsubscribed.is_empty(), "{:?}", world.status().unsubscribed);
    let times = asked(&world);
    world.run_for(Duration::from_secs(2 * 3600));
    assert_eq!((asked(&world), world.broker.connects.len()), (times, 1));
    world.store(Lane::Normal, "a", b"1");
    world.settle();
    assert!(world.broker.delivered.iter().any(|delivered| delivered.topic == "a"));
}

#[test]
fn a_subscription_that_was_not_answered_is_asked_for_again_on_the_same_connection() {
    let mut world = World::new(with_commands());
    world.broker.subscribe_reply = Reply::Drop;
    world.broker.subscribe_reply_to = Some(FILTER.to_owned());
    let asked = |world: &World| world.broker.subscribed.iter().filter(|filter| *filter == FILTER).count();
    world.run_for(Duration::from_secs(300));
    let times = asked(&world);
    assert!((2..=5).contains(&times), "{times}");
    world.broker.subscribe_reply = Reply::Ack(1);
    let now = world.moment.now;
    world.uplink.retry_subscriptions(now);
    world.run_for(Duration::from_secs(15));
    assert_eq!((asked(&world), world.broker.connects.len()), (times + 1, 1));
    assert!(world.status().unsubscribed.is_empty(), "{:?}", world.status().unsubscribed);
}

#[test]
fn two_refusals_that_come_late_together_grant_nothing() {
    let mut world = World::new(with_commands());
    world.broker.subscribe_reply = Reply::Drop;
    world.broker.subscribe_reply_to = Some(FILTER.to_owned());
    world.run_for(Duration::from_secs(75));
    assert_eq!(world.broker.subscribed.iter().filter(|filter| *filter == FILTER).count(), 2);
    // SUBACK of both, with "not authorized".
    let late = [0x90, 4, 0xFF, 0xFD, 0, 0x87, 0x90, 4, 0xFF, 0xFC, 0, 0x87];
    world.uplink.handle_bytes(&world.moment, &mut world.outbox, &late);
    world.settle();
    let status = world.status();
    assert!(status.connected && status.unsubscribed.iter().any(|it| it.filter == FILTER), "{status:?}");
    // It is asked for again.
    world.broker.subscribe_reply = Reply::Ack(1);
    world.run_for(Duration::from_secs(600));
    assert!(world.status().unsubscribed.is_empty(), "{:?}", world.status().unsubscribed);
}

#[test]
fn a_subscription_that_was_left_out_is_asked_for_again_at_a_reload() {
    let mut world = World::new(with_commands());
    world.broker.subscribe_reply = Reply::Close;
    world.broker.subscribe_reply_to = Some(FILTER.to_owned());
    world.run_for(Duration::from_secs(600));
    assert_eq!(world.count(|event| *event == Event::CommandsLeftOut), 1);
    world.broker.subscribe_reply = Reply::Ack(1);
    let (now, connects) = (world.moment.now, world.broker.connects.len());
    world.uplink.retry_subscriptions(now);
    world.run_for(Duration::from_secs(15));
    assert!(world.status().unsubscribed.is_empty(), "{:?}", world.status().unsubscribed);
    assert_eq!(world.broker.connects.len(), connects);
}

#[test]
fn a_subscription_over_which_the_broker_closes_is_left_out_and_readings_go_on() {
    let mut world = World::new(with_commands());
    world.broker.subscribe_reply = Reply::Close;
    world.broker.subscribe_reply_to = Some(FILTER.to_owned());
    world.store(Lane::Normal, "a", b"1");
    world.run_for(Duration::from_secs(600));
    assert_eq!(world.count(|event| *event == Event::CommandsLeftOut), 1);
    assert!(world.broker.delivered.iter().any(|delivered| delivered.topic == "a"));
}

#[test]
fn a_message_is_answered_when_it_is_stored_and_not_before() {
    let mut world = World::new(with_commands());
    world.settle();
    let _ = receive(&mut world, b"");
    let inbound = receive(&mut world, &publish(2, false, 9, b"open"));
    let Inbound::Message { message, session_present: false, plain: false, .. } = &inbound[0] else {
        panic!("{inbound:?}")
    };
    assert_eq!((message.qos, message.packet_id, &message.payload[..]), (2, 9, &b"open"[..]));
    assert!(world.uplink.outgoing().unwrap().is_empty(), "nothing is answered yet");
    let (now, connection) = (world.moment.now, connection(&inbound[0]));
    world.uplink.answer_inbound(now, connection, Answer::Pubrec, 9);
    assert_eq!(std::mem::take(world.uplink.outgoing().unwrap()), [0x50, 2, 0, 9]);
    let inbound = receive(&mut world, &[0x62, 2, 0, 9]);
    assert_eq!(inbound, [Inbound::Released { connection, packet_id: 9 }]);
    world.uplink.answer_inbound(now, connection, Answer::Pubcomp, 9);
    assert_eq!(std::mem::take(world.uplink.outgoing().unwrap()), [0x70, 2, 0, 9]);
    // What is said of another connection means nothing here.
    world.uplink.answer_inbound(now, connection + 1, Answer::Puback, 9);
    assert!(world.uplink.outgoing().unwrap().is_empty());
}

#[test]
fn the_broker_is_known_to_have_a_puback_when_it_answers_the_ping_behind_it() {
    let mut world = World::new(with_commands());
    world.settle();
    while world.uplink.poll_inbound().is_some() {}
    let inbound = receive(&mut world, &publish(1, false, 5, b"1"));
    let (now, connection) = (world.moment.now, connection(&inbound[0]));
    world.uplink.answer_inbound(now, connection, Answer::Puback, 5);
    assert_eq!(std::mem::take(world.uplink.outgoing().unwrap()), [0x40, 2, 0, 5, 0xC0, 0], "and a PINGREQ");
    assert_eq!(receive(&mut world, &[0xD0, 0]), [Inbound::Settled(vec![5])]);
}

#[test]
fn a_broker_that_sends_more_than_the_receive_maximum_costs_no_connection_and_waits_at_256() {
    let mut world = World::new(with_commands());
    world.settle();
    while world.uplink.poll_inbound().is_some() {}
    for packet_id in 1..=255 {
        let bytes = publish(2, false, packet_id, b"x");
        world.uplink.handle_bytes(&world.moment, &mut world.outbox, &bytes);
        assert!(world.uplink.may_read(), "{packet_id} wait for the daemon");
    }
    let bytes = publish(2, false, 256, b"x");
    world.uplink.handle_bytes(&world.moment, &mut world.outbox, &bytes);
    assert!(!world.uplink.is_over() && !world.uplink.may_read(), "no more is read");
    let taken = world.uplink.poll_inbound().unwrap();
    assert!(world.uplink.may_read(), "until one is taken");
    let now = world.moment.now;
    world.uplink.answer_inbound(now, connection(&taken), Answer::Pubrec, 1);
    assert_eq!(std::mem::take(world.uplink.outgoing().unwrap()), [0x50, 2, 0, 1]);
}

#[test]
fn messages_of_qos_0_that_nobody_takes_are_dropped_and_counted() {
    let mut world = World::new(with_commands());
    world.settle();
    for _ in 0..1_000 {
        let bytes = publish(0, false, 0, b"x");
        world.uplink.handle_bytes(&world.moment, &mut world.outbox, &bytes);
    }
    assert_eq!(world.status().inbound_dropped, 1_000 - 256);
}

#[test]
fn a_malformed_message_ends_the_connection_and_nothing_panics() {
    for bytes in [
        &[0x34, 3, 0, 1, b'a'][..],
        &[0x36, 6, 0, 1, b'a', 0, 1, 0],
        &[0x34, 6, 0, 1, b'a', 0, 0, 0],
        &[0x60, 2, 0, 1],
    ] {
        let mut world = World::new(with_commands());
        world.settle();
        receive(&mut world, bytes);
        assert!(world.uplink.is_over(), "{bytes:?}");
    }
}

const ANSWERS: &str = "app/answers";

/// Outcomes go to [`ANSWERS`], where the broker answers with `code`; all else it takes.
fn with_answers(code: u8) -> World {
    let mut world = World::new(with_commands());
    world.outbox.replies.push(ANSWERS.to_owned());
    world.broker.policy =
        Box::new(move |delivered| Reply::Ack(if delivered.topic == ANSWERS { code } else { 0 }));
    world.settle();
    world
}

#[test]
fn outcomes_that_the_broker_refuses_are_given_up_counted_and_named_and_no_lane_is_held_up() {
    for code in [0x80, 0x83, 0x87, 0x90, 0x95, 0x99] {
        let mut world = with_answers(code);
        for _ in 0..7 {
            world.store(Lane::Normal, ANSWERS, b"1");
            world.run_for(Duration::from_secs(1));
        }
        // No reading has come that could have shown anything.
        world.run_for(Duration::from_secs(60));
        let status = world.status();
        assert_eq!(
            (status.nothing_taken, status.suspect_count, status.held_back),
            (None, 0, [0, 0]),
            "{code:#x}"
        );
        assert_eq!(world.outbox.waiting(Lane::Normal), 0);
        assert!(world.outbox.rejected.is_empty() && world.outbox.expired.is_empty());
        let counters = status.counters;
        assert_eq!((counters.refused_outcomes, counters.rejected, counters.expired), (7, 0, 0));
        assert_eq!(status.refused_outcomes.len(), 1);
        assert!(
            status.refused_outcomes[0].text.contains("refused 7 outcomes of commands on app/answers: "),
            "{:?}",
            status.refused_outcomes
        );
        let told = |event: &Event| matches!(event, Event::Publisher(PublisherEvent::OutcomeRefused { topic, .. }) if topic == ANSWERS);
        assert_eq!(world.count(told), 1, "once a topic");
        world.store(Lane::Normal, "a", b"1");
        world.settle();
        assert!(world.broker.delivered.iter().any(|delivered| delivered.topic == "a"));
        world.run_for(Duration::from_secs(3600));
        assert!(world.status().refused_outcomes.is_empty(), "for an hour");
    }
}

#[test]
fn a_topic_of_outcomes_that_the_broker_takes_again_is_not_named_any_more() {
    let mut world = with_answers(0x87);
    world.store(Lane::Normal, ANSWERS, b"1");
    world.settle();
    assert_eq!(world.status().refused_outcomes.len(), 1);
    world.broker.policy = Box::new(|_| Reply::Ack(0));
    world.store(Lane::Normal, ANSWERS, b"2");
    world.settle();
    assert!(world.status().refused_outcomes.is_empty());
}

#[test]
fn while_the_broker_refuses_readings_as_well_an_outcome_is_kept() {
    let mut world = with_answers(0x87);
    world.broker.policy =
        Box::new(|delivered| Reply::Ack(if ["a", ANSWERS].contains(&&*delivered.topic) { 0x87 } else { 0 }));
    world.store(Lane::Normal, "a", b"1");
    world.settle();
    world.store(Lane::Normal, ANSWERS, b"2");
    world.run_for(Duration::from_secs(600));
    assert_eq!((world.outbox.waiting(Lane::Normal), world.status().counters.refused_outcomes), (2, 0));
    world.broker.policy = Box::new(|_| Reply::Ack(0));
    world.run_for(Duration::from_secs(600));
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    assert!(world.broker.delivered.iter().any(|delivered| delivered.payload == b"2"));
}

#[test]
fn a_broker_that_refuses_an_outcome_and_then_closes_is_left_for_it_once_an_hour_and_readings_flow() {
    let mut world = with_answers(0);
    let links = world.broker.links;
    world.broker.policy = Box::new(|delivered| match delivered.topic == ANSWERS {
        true => Reply::AckAndClose(0x87),
        false => Reply::Ack(0),
    });
    for _ in 0..30 {
        world.store(Lane::Normal, ANSWERS, b"1");
    }
    world.run_for(Duration::from_secs(60));
    for _ in 0..30 {
        world.store(Lane::Normal, ANSWERS, b"1");
        world.store(Lane::Normal, "a", b"1");
        world.run_for(Duration::from_secs(1));
    }
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    assert_eq!(world.status().counters.refused_outcomes, 60);
    assert_eq!(world.broker.delivered.iter().filter(|delivered| delivered.topic == "a").count(), 30);
    assert_eq!(world.broker.links - links, 1, "one connection was lost over it");
    assert_eq!(world.count(|event| *event == Event::ClientIdElsewhere), 0);
    world.run_for(Duration::from_secs(3600));
    world.broker.policy = Box::new(|_| Reply::Ack(0));
    world.store(Lane::Normal, ANSWERS, b"again");
    world.run_for(Duration::from_secs(10));
    assert!(world.broker.delivered.iter().any(|delivered| delivered.payload == b"again"));
}

/// What came on [`ANSWERS`]: length of the payload, and whether it says that it is partial.
fn answers(world: &World) -> Vec<(usize, bool)> {
    let of = world.broker.delivered.iter().filter(|delivered| delivered.topic == ANSWERS);
    of.map(|delivered| (delivered.payload.len(), delivered.user("partial") == Some("true"))).collect()
}

#[test]
fn an_outcome_that_is_larger_than_the_brokers_packets_goes_with_what_fits_and_is_named() {
    let mut world = with_answers(0);
    world.broker.maximum_packet_size = Some(1000);
    world.cut();
    world.run_for(Duration::from_secs(60));
    world.store(Lane::Normal, ANSWERS, &[b'x'; 600]);
    world.store(Lane::Normal, ANSWERS, &[b'x'; 5000]);
    world.run_for(Duration::from_secs(10));
    let came = answers(&world);
    assert_eq!(came[0], (600, false));
    assert!((700..950).contains(&came[1].0) && came[1].1, "{came:?}");
    let status = world.status();
    assert_eq!((status.counters.cut_outcomes, status.counters.refused_outcomes), (1, 0));
    let said = &status.refused_outcomes[0].text;
    assert!(
        said.contains("1 outcome of commands on app/answers") && said.contains("packets of 1000 bytes"),
        "{said}"
    );
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
    world.run_for(Duration::from_secs(3600));
    assert!(world.status().refused_outcomes.is_empty(), "for an hour");
}

#[test]
fn an_outcome_that_the_broker_refuses_for_its_size_goes_without_its_payload() {
    let mut world = with_answers(0);
    world.broker.policy = Box::new(|delivered| {
        Reply::Ack(if delivered.topic == ANSWERS && delivered.payload.len() > 500 { 0x95 } else { 0 })
    });
    for size in [400, 5000] {
        world.store(Lane::Normal, ANSWERS, &vec![b'x'; size]);
    }
    world.run_for(Duration::from_secs(10));
    assert_eq!(answers(&world), [(400, false), (0, true)]);
    let status = world.status();
    assert_eq!((status.counters.cut_outcomes, status.counters.refused_outcomes), (1, 0));
    assert!(status.refused_outcomes[0].text.contains("went without all of their payload"));
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
}

#[test]
fn an_outcome_over_whose_size_the_broker_closes_goes_without_its_payload_and_so_do_the_next_ones() {
    let mut world = with_answers(0);
    world.broker.policy =
        Box::new(|delivered| match delivered.topic == ANSWERS && delivered.payload.len() > 3000 {
            true => Reply::Close,
            false => Reply::Ack(0),
        });
    world.store(Lane::Normal, ANSWERS, &[b'x'; 5000]);
    // Others are taken, so that it can be told whose fault it is.
    for _ in 0..360 {
        world.store(Lane::Normal, "a", b"1");
        world.run_for(Duration::from_secs(5));
    }
    assert_eq!(answers(&world).last(), Some(&(0, true)));
    let (links, refused) = (world.broker.links, world.status().counters.refused_outcomes);
    for size in [6000, 2000, 7000] {
        world.store(Lane::Normal, ANSWERS, &vec![b'x'; size]);
        world.store(Lane::Normal, "a", b"1");
        world.run_for(Duration::from_secs(1));
    }
    assert_eq!(answers(&world).split_off(answers(&world).len() - 3), [(0, true), (2000, false), (0, true)]);
    assert_eq!((world.broker.links, world.status().counters.refused_outcomes), (links, refused));
    assert_eq!(world.outbox.waiting(Lane::Normal), 0);
}

#[test]
fn commands_that_are_granted_with_qos_0_alone_are_noted() {
    let mut world = World::new(with_commands());
    world.broker.subscribe_reply_to = Some(FILTER.to_owned());
    for (code, is_noted) in [(0, true), (1, false), (2, false)] {
        world.broker.subscribe_reply = Reply::Ack(code);
        world.cut();
        world.run_for(Duration::from_secs(20));
        let unheard = world.status().unheard;
        assert_eq!(unheard.iter().any(|what| what.contains("QoS 0 only")), is_noted, "{code}: {unheard:?}");
    }
}

const HINT: &str = "tombolo/g/gateway/down/update/check";

fn with_hints(protocol: Protocol) -> Settings {
    let mut settings = Settings { protocol, ..with_commands() };
    settings.topics.update_hint = Some(HINT.to_owned());
    settings
}

fn on(topic: &str, qos: u8) -> Vec<u8> {
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend_from_slice(topic.as_bytes());
    if qos > 0 {
        body.extend_from_slice(&[0, 7]);
    }
    body.push(0);
    let mut packet = vec![0x30 | qos << 1, body.len() as u8];
    packet.extend_from_slice(&body);
    packet
}

fn messages(inbound: &[Inbound]) -> usize {
    inbound.iter().filter(|inbound| matches!(inbound, Inbound::Message { .. })).count()
}

#[test]
fn a_command_on_the_topic_of_update_hints_comes_once_whatever_its_qos_and_is_a_hint_too() {
    for protocol in [Protocol::V5, Protocol::V3_1_1] {
        let mut world = World::new(with_hints(protocol));
        world.broker.subscribe_reply = Reply::Ack(2);
        world.settle();
        let link = world.link.as_ref().unwrap();
        assert!(link.is_subscribed(FILTER) && !link.is_subscribed(HINT), "no two subscriptions match it");
        assert!(world.status().unheard.is_empty(), "{:?}", world.status().unheard);
        for qos in 0..=2 {
            assert!(!world.uplink.take_update_hint());
            let inbound = receive(&mut world, &on(HINT, qos));
            assert_eq!(messages(&inbound), 1, "QoS {qos}");
            assert!(world.uplink.take_update_hint());
        }
    }
}

#[test]
fn hints_have_a_subscription_of_their_own_while_commands_have_none_and_only_then() {
    for (protocol, reply) in
        [(Protocol::V5, Reply::Ack(0x87)), (Protocol::V3_1_1, Reply::Ack(0x80)), (Protocol::V5, Reply::Hold)]
    {
        let mut world = World::new(with_hints(protocol));
        world.broker.subscribe_reply = reply;
        world.broker.subscribe_reply_to = Some(FILTER.to_owned());
        world.run_for(Duration::from_secs(55));
        let is_subscribed = |world: &World, filter| world.link.as_ref().unwrap().is_subscribed(filter);
        assert!(is_subscribed(&world, HINT) && !is_subscribed(&world, FILTER), "{reply:?}");
        assert!(world.uplink.is_connected());
        receive(&mut world, &on(HINT, 0));
        assert!(world.uplink.take_update_hint());
        // A minute later the broker grants the commands.
        world.broker.subscribe_reply = Reply::Ack(2);
        world.run_for(Duration::from_secs(3600));
        assert!(is_subscribed(&world, FILTER) && !is_subscribed(&world, HINT), "{reply:?}");
        assert_eq!(world.broker.unsubscribed, [HINT]);
        assert_eq!(messages(&receive(&mut world, &on(HINT, 0))), 1);
        assert!(world.uplink.take_update_hint());
        assert_eq!(world.broker.connects.len(), 1);
        // The next connection, too, has one alone.
        world.cut();
        world.run_for(Duration::from_secs(60));
        assert!(is_subscribed(&world, FILTER) && !is_subscribed(&world, HINT), "{reply:?}");
    }
}

#[test]
fn a_session_that_has_the_subscription_to_hints_leaves_it_once() {
    for protocol in [Protocol::V5, Protocol::V3_1_1] {
        let mut world = World::new(with_hints(protocol));
        world.broker.session_present = true;
        world.settle();
        assert_eq!(world.broker.unsubscribed, [HINT]);
        world.cut();
        world.run_for(Duration::from_secs(60));
        assert_eq!((world.broker.unsubscribed.len(), world.broker.connects.len()), (1, 2));
        assert_eq!(messages(&receive(&mut world, &on(HINT, 0))), 1);
    }
}

#[test]
fn hints_on_a_topic_that_no_filter_of_commands_has_are_subscribed_to_beside_it() {
    let mut settings = with_hints(Protocol::V5);
    settings.topics.update_hint = Some("site/look".to_owned());
    let mut world = World::new(settings);
    world.settle();
    let link = world.link.as_ref().unwrap();
    assert!(link.is_subscribed(FILTER) && link.is_subscribed("site/look"));
    receive(&mut world, &on("site/look", 0));
    assert!(world.uplink.take_update_hint() && world.broker.unsubscribed.is_empty());
}
