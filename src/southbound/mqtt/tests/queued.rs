//! Messages of QoS 1 for subscribers that are away, slow, or come back; of QoS 2: `forwarded`.

use super::*;

/// PUBACK.
fn puback(id: u16) -> Vec<u8> {
    v5_0::Puback::builder().packet_id(id).build().unwrap().to_continuous_buffer()
}

const AWAY: Hello<'_> = Hello { client_id: "r", clean: false, expiry: Some(3_600), ..HELLO };

/// Publishes that a client gets: packet id, payload, DUP.
fn queued(world: &mut World, client: ConnectionNumber) -> Vec<(u16, String, bool)> {
    world.carry();
    let publishes = world.heard(client).into_iter().filter(|(kind, _)| kind >> 4 == 3 && kind & 6 == 2);
    let read = |(kind, body): (u8, Vec<u8>)| {
        let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let rest = &body[2 + length..];
        let payload = String::from_utf8(rest[3 + usize::from(rest[2])..].to_vec()).unwrap();
        (u16::from_be_bytes([rest[0], rest[1]]), payload, kind & 8 != 0)
    };
    publishes.map(read).collect()
}

fn got(id: u16, payload: &str, again: bool) -> (u16, String, bool) {
    (id, payload.to_owned(), again)
}

fn send(world: &mut World, sender: ConnectionNumber, payload: &str) {
    world.say(sender, &publish(true, "home/door-7/x", Qos::AtLeastOnce, 1, payload.as_bytes()));
    world.heard(sender);
}

fn at_least_once() -> SubOpts {
    SubOpts::new().set_qos(Qos::AtLeastOnce)
}

fn world(max_queued: usize) -> (World, ConnectionNumber, ConnectionNumber) {
    let mut world = local(None);
    let settings = Settings { max_queued, local: local_rules(), ..Settings::default() };
    world.intake.replace(&settings, &roles());
    let sender = world.client(HELLO);
    let receiver = world.client(AWAY);
    world.say(receiver, &subscribe("home/#", at_least_once()));
    assert_eq!(world.heard(receiver), [(SUBACK, vec![0, 3, 0, u8::from(max_queued > 0)])]);
    (world, sender, receiver)
}

#[test]
fn a_message_is_kept_while_the_subscriber_is_away_and_sent_again_until_it_is_acknowledged() {
    let (mut world, sender, receiver) = world(10);
    send(&mut world, sender, "1");
    assert_eq!(queued(&mut world, receiver), [got(1, "1", false)]);
    world.intake.handle_closed(&world.moment, receiver, &mut world.pipeline);
    send(&mut world, sender, "2");
    world.say(sender, &publish(true, "home/door-7/x", Qos::AtMostOnce, 0, b"lost"));
    assert_eq!(world.intake.queued_count(), 2);
    let receiver = world.connect(AWAY);
    assert_eq!(queued(&mut world, receiver), [got(1, "1", true), got(2, "2", false)]);
    world.say(receiver, &[puback(1), puback(2)].concat());
    assert_eq!(world.intake.queued_count(), 0);
    world.intake.handle_closed(&world.moment, receiver, &mut world.pipeline);
    let receiver = world.connect(AWAY);
    assert_eq!(queued(&mut world, receiver), []);
    assert_eq!(world.pipeline.counters.value(Counter::MqttLocalDelivered), 2);
    // A clean start has nothing of it.
    world.intake.handle_closed(&world.moment, receiver, &mut world.pipeline);
    send(&mut world, sender, "3");
    let receiver = world.connect(Hello { clean: true, ..AWAY });
    assert_eq!((queued(&mut world, receiver), world.intake.queued_count()), (vec![], 0));
}

#[test]
fn the_oldest_gives_way_and_is_counted_and_no_neighbour_pays_for_it() {
    let (mut world, sender, receiver) = world(3);
    world.intake.handle_closed(&world.moment, receiver, &mut world.pipeline);
    for number in 1..=5 {
        send(&mut world, sender, &number.to_string());
    }
    assert_eq!((world.intake.queued_count(), world.intake.take_queued_dropped()), (3, 2));
    let receiver = world.connect(AWAY);
    let payloads: Vec<String> = queued(&mut world, receiver).into_iter().map(|(_, text, _)| text).collect();
    assert_eq!(payloads, ["3", "4", "5"]);
    // Bytes are bounded too.
    world.intake.handle_closed(&world.moment, receiver, &mut world.pipeline);
    let large = "x".repeat(60_000);
    let settings = Settings { max_queued: 10_000, local: local_rules(), ..Settings::default() };
    world.intake.replace(&settings, &roles());
    for _ in 0..10 {
        world.say(sender, &publish(true, "home/door-7/x", Qos::AtLeastOnce, 1, large.as_bytes()));
    }
    assert!(world.intake.queued_count() <= 7, "{}", world.intake.queued_count());
    assert!(world.intake.take_queued_dropped() >= 6);
}

#[test]
fn a_client_is_sent_as_many_as_it_takes_at_once() {
    let (mut world, sender, receiver) = world(100);
    world.intake.handle_closed(&world.moment, receiver, &mut world.pipeline);
    for number in 1..=5 {
        send(&mut world, sender, &number.to_string());
    }
    let receiver = world.connect(Hello { receive_maximum: Some(2), ..AWAY });
    assert_eq!(queued(&mut world, receiver), [got(1, "1", false), got(2, "2", false)]);
    world.say(receiver, &puback(2));
    assert_eq!(queued(&mut world, receiver), [got(3, "3", false)]);
    // One that takes fewer than are in flight gets the rest one by one, in order.
    world.intake.handle_closed(&world.moment, receiver, &mut world.pipeline);
    let receiver = world.connect(Hello { receive_maximum: Some(1), ..AWAY });
    for (id, text, again) in [(1, "1", true), (3, "3", true), (4, "4", false)] {
        assert_eq!(queued(&mut world, receiver), [got(id, text, again)]);
        world.say(receiver, &puback(id));
    }
    assert!(!world.is_closed(receiver));
}

#[test]
fn a_retained_message_comes_with_the_lower_qos_of_message_and_subscription_and_is_acknowledged() {
    let settings = Settings { max_queued: 2, local: local_rules(), ..Settings::default() };
    let mut world = World::with(settings, 100);
    let client = world.client(HELLO);
    let retained = |topic: &str, qos, id: Option<u16>| {
        let publish = v5_0::Publish::builder().topic_name(topic).unwrap().qos(qos).retain(true);
        let publish = if let Some(id) = id { publish.packet_id(id) } else { publish };
        publish.payload(b"on".to_vec()).build().unwrap().to_continuous_buffer()
    };
    world.say(client, &retained("home/door-7/low", Qos::AtMostOnce, None));
    world.say(client, &retained("home/door-7/high", Qos::AtLeastOnce, Some(1)));
    world.heard(client);
    let first_bytes = |world: &mut World, filter: &str, options| {
        world.say(client, &subscribe(filter, options));
        let heard = world.heard(client).into_iter().map(|(kind, _)| kind);
        heard.filter(|kind| kind >> 4 == 3).collect::<Vec<u8>>()
    };
    // PUBLISH with retain: QoS 0 is 0x31, QoS 1 0x33.
    assert_eq!(first_bytes(&mut world, "home/+/low", at_least_once()), [0x31]);
    assert_eq!(first_bytes(&mut world, "home/+/high", SubOpts::new()), [0x31]);
    assert_eq!(first_bytes(&mut world, "home/+/high", at_least_once()), [0x33]);
    assert_eq!(world.intake.queued_count(), 1);
    world.say(client, &puback(1));
    assert_eq!(world.intake.queued_count(), 0);
    // What the queue has no room for comes with QoS 0: nothing is dropped for it.
    for id in 2..5 {
        world.say(client, &retained(&format!("home/door-7/{id}"), Qos::AtLeastOnce, Some(id)));
    }
    world.heard(client);
    let dropped = world.intake.take_queued_dropped();
    let mut kinds = first_bytes(&mut world, "home/door-7/#", at_least_once());
    kinds.sort_unstable();
    assert_eq!(kinds, [0x31, 0x31, 0x31, 0x33, 0x33]);
    assert_eq!(world.intake.take_queued_dropped(), 0, "{dropped} before");
}

#[test]
fn nothing_is_kept_for_a_session_that_ends_or_where_it_is_switched_off() {
    let (mut world, sender, receiver) = world(0);
    send(&mut world, sender, "1");
    assert_eq!((queued(&mut world, receiver), world.intake.queued_count()), (vec![], 0));
    let (mut world, sender, receiver) = super::queued::world(10);
    world.intake.handle_closed(&world.moment, receiver, &mut world.pipeline);
    send(&mut world, sender, "1");
    world.pass(Duration::from_secs(3_601));
    assert_eq!(world.intake.queued_count(), 0, "the session has expired");
    // What the rules do not allow any more is not sent.
    let receiver = world.client(AWAY);
    world.say(receiver, &subscribe("home/#", at_least_once()));
    world.heard(receiver);
    world.intake.handle_closed(&world.moment, receiver, &mut world.pipeline);
    send(&mut world, sender, "2");
    assert_eq!(world.intake.queued_count(), 1);
    world.intake.replace(&Settings { max_queued: 10, ..Settings::default() }, &roles());
    world.intake.review(&world.moment, &mut world.pipeline);
    let receiver = world.connect(AWAY);
    assert_eq!((queued(&mut world, receiver), world.intake.queued_count()), (vec![], 0));
}

#[test]
fn another_max_queued_by_a_reload_changes_how_messages_come_and_not_whether() {
    let (mut world, sender, receiver) = world(100);
    let comes = |world: &mut World, max_queued: usize| {
        let settings = Settings { max_queued, local: local_rules(), ..Settings::default() };
        world.intake.replace(&settings, &roles());
        let World { intake, moment, pipeline, .. } = &mut *world;
        intake.review(moment, pipeline);
        world.say(sender, &publish(true, "home/door-7/x", Qos::AtLeastOnce, 1, b"1"));
        world.carry();
        let first = |(kind, _): &(u8, Vec<u8>)| *kind;
        world.heard(receiver).iter().map(first).filter(|kind| kind >> 4 == 3).collect::<Vec<_>>()
    };
    assert_eq!(comes(&mut world, 100), [0x32]);
    assert_eq!(comes(&mut world, 0), [0x30]);
    assert_eq!(comes(&mut world, 100), [0x32]);
}
