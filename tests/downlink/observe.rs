//! Values, relations and notifications: over crashes, a disk that errs, and a device that stops
//! observing.

use std::time::Duration;

use tombolo::downlink::command::{Command, Status};
use tombolo::downlink::delivery::Told;
use tombolo::downlink::observe::{Formats, REFRESH, Registration};
use tombolo::gate::Deliver;
use tombolo::message::ContentFormat;
use tombolo::proto::address::Peer;
use tombolo::proto::coap::{PeerId, Token};
use tombolo::proto::dtls::SessionId;
use tombolo_test_support::journal::disk::{Cut, FakeDisk};

use crate::world::{Mood, World, command, device};

const PEER: PeerId = Peer::Session(SessionId(77)).id();
const SESSION: u64 = 5;

fn state(id: u32) -> Command {
    Command { deliver: Deliver::Observe, idempotent: true, latest_wins: true, ..command(id) }
}

fn registration(path: &str, token: &[u8]) -> Registration {
    Registration {
        device: device(),
        path: path.to_owned(),
        peer: Some(PEER),
        session: Some(SESSION),
        token: Token::new(token).unwrap(),
        block: None,
        formats: Formats::Any,
    }
}

fn observe(world: &mut World, path: &str, token: &[u8]) -> u64 {
    assert!(world.mailbox.observe(world.now, registration(path, token), 900));
    world.settle();
    world.related.pop().expect("an answer").expect("it is durable")
}

/// The process ends, and the session goes on in the next.
fn restart(world: &mut World, found: bool) {
    world.restart(Cut::Nothing);
    let name = device();
    world.mailbox.attach(world.now, |number, of| (found && number == SESSION && *of == name).then_some(PEER));
    world.settle();
}

fn value(world: &World) -> Option<u32> {
    let moment = world.moment();
    let (value, _) = world.mailbox.value(&device(), "lock", &moment)?;
    Some(u32::from_be_bytes(value.payload[..4].try_into().unwrap()))
}

#[test]
fn a_state_waits_until_the_device_observes_and_then_each_is_notified() {
    let mut world = World::new();
    world.publish(state(1));
    assert!(world.wire.notified.is_empty() && world.wire.runs.is_empty());
    observe(&mut world, "lock", b"t");
    assert_eq!(world.wire.notified.iter().map(|(_, id)| *id).collect::<Vec<_>>(), [1]);
    world.publish(state(2));
    assert_eq!(world.published, [(1, Status::Notified), (2, Status::Notified)]);
    assert_eq!(value(&world), Some(2));
}

#[test]
fn a_state_that_only_waits_for_a_fetch_does_not_hold_up_other_commands() {
    let mut world = World::new();
    world.publish(state(1));
    world.publish(command(2));
    assert_eq!(world.wire.runs, [2]);
    world.mailbox.handle_fetched(&device(), "lock");
    world.settle();
    assert_eq!(world.published, [(2, Status::Code(0x44)), (1, Status::Fetched)]);
    assert!(world.mailbox.is_empty());
}

/// A state of so many bytes.
fn large(id: u32, bytes: usize) -> Command {
    let mut command = state(id);
    command.payload.resize(bytes, 0);
    command
}

/// The device fetches these bytes.
fn part(world: &mut World, bytes: std::ops::Range<usize>) {
    world.delivery.handle_part(&device(), "lock", bytes, &mut world.mailbox);
    world.settle();
}

#[test]
fn a_large_notification_is_notified_when_its_last_block_was_fetched_and_not_before() {
    let mut world = World::new();
    observe(&mut world, "lock", b"t");
    world.publish(large(1, 2_500));
    assert_eq!((world.wire.notified.len(), world.published.len()), (1, 0), "the first block is acknowledged");
    // A last block without the one before it is not all of it.
    part(&mut world, 2_048..2_500);
    part(&mut world, 1_024..2_048);
    assert!(world.published.is_empty());
    let number = world.mailbox.view().next().unwrap().number;
    assert!(!world.delivery.is_carried(number), "of the notification nothing more is told");
    part(&mut world, 2_048..2_500);
    assert_eq!(world.published, [(1, Status::Notified)]);
    assert_eq!((world.delivery.in_flight(), world.mailbox.len()), (0, 0));
    // One that is just a block has no further one.
    world.publish(large(2, 1_024));
    assert_eq!(world.published[1..], [(2, Status::Notified)]);
}

#[test]
fn a_large_notification_whose_rest_was_fetched_before_its_acknowledgement_came_is_notified_with_it() {
    let mut world = World::new();
    observe(&mut world, "lock", b"t");
    world.wire.mood = Mood::Lingers;
    world.publish(large(1, 1_500));
    part(&mut world, 1_024..1_500);
    assert!(world.published.is_empty());
    let number = world.mailbox.view().next().unwrap().number;
    world.wire.told.push((number, Told::Acknowledged));
    world.settle();
    assert_eq!(world.published, [(1, Status::Notified)]);
}

#[test]
fn a_large_notification_whose_rest_is_not_fetched_times_out_and_one_that_is_no_state_ends_so() {
    let mut world = World::new();
    observe(&mut world, "lock", b"t");
    world.publish(Command { idempotent: false, ..large(1, 1_500) });
    world.pass(Duration::from_secs(59));
    assert!(world.published.is_empty());
    world.pass(Duration::from_secs(1));
    assert_eq!(world.published, [(1, Status::Timeout)]);
    assert!(world.said[0].contains("did not fetch the rest"), "{:?}", world.said);
    assert_eq!(world.mailbox.relation_count(), 1, "it has acknowledged the notification");
    // An idempotent one is notified again.
    world.publish(large(2, 1_500));
    world.pass(Duration::from_secs(60));
    world.pass(Duration::from_secs(60));
    assert_eq!(world.wire.notified.iter().map(|(_, id)| *id).collect::<Vec<_>>(), [1, 2, 2]);
    part(&mut world, 1_024..1_500);
    assert_eq!(world.published[1..], [(2, Status::Notified)]);
}

#[test]
fn a_later_message_ends_one_whose_rest_is_being_fetched_and_is_notified_at_once() {
    let mut world = World::new();
    observe(&mut world, "lock", b"t");
    world.publish(large(1, 1_500));
    world.publish(large(2, 1_500));
    assert_eq!(world.published, [(1, Status::Superseded)]);
    assert!(world.said[0].contains("it has a part"), "{:?}", world.said);
    assert_eq!(world.wire.notified.iter().map(|(_, id)| *id).collect::<Vec<_>>(), [1, 2]);
    part(&mut world, 1_024..1_500);
    world.pass(Duration::from_secs(3_600));
    assert_eq!(world.published, [(1, Status::Superseded), (2, Status::Notified)]);
    assert_eq!(world.delivery.in_flight(), 0);
}

#[test]
fn what_no_notification_can_tell_holds_nothing_up_where_the_device_observes_its_path() {
    let mut world = World::new();
    observe(&mut world, "lock", b"t");
    world.publish(Command { method: 1, ..state(1) });
    world.publish(Command { path: "lamp".to_owned(), ..command(3) });
    assert_eq!(world.wire.runs, [3]);
    assert!(world.wire.notified.is_empty());
}

#[test]
fn a_removal_is_carried_out_at_once_ends_what_waited_for_a_fetch_and_is_told_to_the_observer() {
    let mut world = World::new();
    world.publish(state(1));
    let relation = observe(&mut world, "lamp", b"t");
    world.publish(Command { path: "lamp".to_owned(), ..state(2) });
    world.published.clear();
    for (id, path) in [(3, "lock"), (4, "lamp")] {
        world.publish(Command { method: 4, path: path.to_owned(), ..state(id) });
    }
    let deleted = Status::Code(0x42);
    assert_eq!(world.published, [(1, Status::Superseded), (3, deleted), (4, deleted)]);
    assert!(world.mailbox.is_empty() && value(&world).is_none(), "nothing waits");
    assert!(world.wire.runs.is_empty(), "the device is sent no request");
    // The observer is told once, by a notification without a message.
    assert_eq!(world.mailbox.relations_due(world.now), [relation]);
    world.mailbox.refresh(relation);
    world.settle();
    assert_eq!(world.refreshed, [relation]);
    world.mailbox.handle_refreshed(relation);
    assert!(world.mailbox.relations_due(world.now).is_empty());
    // A new message goes as before.
    world.publish(Command { path: "lamp".to_owned(), ..state(5) });
    assert_eq!(world.published.last(), Some(&(5, Status::Notified)));
}

#[test]
fn a_reset_ends_the_relation_and_the_command_becomes_a_request_where_it_may() {
    let mut world = World::new();
    let relation = observe(&mut world, "lock", b"t");
    world.wire.mood = Mood::Resets;
    world.publish(Command { deliver: Deliver::Auto, ..command(1) });
    assert!(world.mailbox.relation(relation).is_none() && world.published.is_empty());
    world.wire.mood = Mood::Answers;
    world.pass(Duration::from_secs(1));
    assert_eq!(
        (world.wire.runs.as_slice(), world.published.as_slice()),
        (&[1][..], &[(1, Status::Code(0x44))][..])
    );
}

#[test]
fn a_message_of_another_format_ends_the_relation_over_a_restart_too_and_waits_or_becomes_a_request() {
    let mut world = World::new();
    let text = |id: u32| Command { content_format: Some(ContentFormat::TEXT), ..state(id) };
    let cbor = |id: u32| Command { content_format: Some(ContentFormat::CBOR), ..state(id) };
    let only = |format| Registration { formats: Formats::Only(format), ..registration("lock", b"t") };
    for formats in [Some(ContentFormat::TEXT), None] {
        assert!(world.mailbox.observe(world.now, only(formats), 900));
        world.settle();
        restart(&mut world, true);
        let told = world.wire.not_acceptable;
        world.publish(Command { content_format: formats, ..state(1) });
        assert_eq!((world.wire.notified.len(), world.wire.not_acceptable), (1, told), "{formats:?}");
        world.publish(cbor(2));
        assert_eq!((world.wire.not_acceptable, world.mailbox.relation_count()), (told + 1, 0), "{formats:?}");
        world.pass(Duration::from_secs(60));
        assert_eq!(world.mailbox.len(), 1, "nobody observes");
        assert_eq!(world.wire.not_acceptable, told + 1, "once");
        world.mailbox.handle_fetched(&device(), "lock");
        world.settle();
        world.wire.notified.clear();
    }
    // A command that may become a request.
    assert!(world.mailbox.observe(world.now, only(Some(ContentFormat::TEXT)), 900));
    world.settle();
    world.publish(Command { deliver: Deliver::Auto, ..cbor(3) });
    world.pass(Duration::from_secs(1));
    assert_eq!(world.wire.runs, [3]);
    // Where there was no message, and no Accept option, any is told.
    observe(&mut world, "lock", b"t");
    world.publish(text(4));
    world.publish(cbor(5));
    assert_eq!(world.wire.notified.iter().map(|(_, id)| *id).collect::<Vec<_>>(), [4, 5]);
}

#[test]
fn a_notification_that_is_not_acknowledged_ends_the_relation_and_a_state_waits_again() {
    let mut world = World::new();
    observe(&mut world, "lock", b"t");
    world.wire.mood = Mood::Deaf;
    world.publish(state(1));
    assert_eq!((world.mailbox.relation_count(), world.published.len()), (0, 0));
    world.wire.mood = Mood::Answers;
    world.pass(Duration::from_secs(3_600));
    assert!(world.published.is_empty(), "nobody observes");
    observe(&mut world, "lock", b"u");
    world.pass(Duration::from_secs(1));
    assert_eq!(world.published, [(1, Status::Notified)]);
    // One that is no state may have been taken.
    world.wire.mood = Mood::Deaf;
    world.publish(Command { deliver: Deliver::Auto, ..command(2) });
    assert_eq!(world.published[1], (2, Status::Timeout));
}

#[test]
fn relations_and_values_survive_with_the_session_and_sequence_numbers_never_fall() {
    let mut world = World::new();
    observe(&mut world, "lock", b"t");
    for id in 1..=30 {
        world.publish(state(id));
        if id % 3 == 0 {
            restart(&mut world, true);
            assert_eq!((world.mailbox.relation_count(), value(&world)), (1, Some(id)));
        }
    }
    assert_eq!(world.wire.notified.len(), 30);
    let numbers: Vec<u64> = world.wire.notified.iter().map(|(sequence, _)| *sequence).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    restart(&mut world, false);
    assert_eq!(world.mailbox.relation_count(), 0, "its session is gone");
    restart(&mut world, true);
    assert_eq!(world.mailbox.relation_count(), 0, "for good");
}

#[test]
fn a_registration_the_disk_does_not_take_is_none() {
    let disk = FakeDisk::default();
    let mut world = World::on(disk.clone());
    world.publish(state(1));
    disk.fail_at(disk.operations() + 1);
    assert!(world.mailbox.observe(world.now, registration("lock", b"t"), 7));
    world.settle();
    assert_eq!((world.related.as_slice(), world.mailbox.relation_count()), (&[Err(7)][..], 0));
    assert!(!world.mailbox.observe(world.now, registration("lock", b"t"), 8), "the disk errs");
    world.pass(Duration::from_secs(10));
    observe(&mut world, "lock", b"t");
    world.pass(Duration::from_secs(1));
    assert_eq!(world.published, [(1, Status::Notified)]);
}

#[test]
fn a_value_ends_with_its_message_and_the_time_that_passed_is_taken_off() {
    let mut world = World::new();
    world.publish(Command { expires_s: 100, deliver: Deliver::Auto, ..command(1) });
    world.pass(Duration::from_secs(40));
    let left = |world: &World| world.mailbox.value(&device(), "lock", &world.moment()).map(|(_, left)| left);
    assert_eq!(left(&world), Some(60));
    restart(&mut world, true);
    assert_eq!(left(&world), Some(100), "unknown time ages nothing");
    world.pass(Duration::from_secs(100));
    assert_eq!(left(&world), Some(100), "of another boot, without a clock");
    let mut world = World::new();
    world.publish(Command { expires_s: 100, deliver: Deliver::Auto, ..command(1) });
    world.pass(Duration::from_secs(101));
    assert_eq!((left(&world), world.mailbox.values().0), (None, 0));
}

#[test]
fn a_relation_without_news_is_refreshed_before_a_day_is_over() {
    let mut world = World::new();
    let relation = observe(&mut world, "lock", b"t");
    world.pass(REFRESH - Duration::from_secs(60));
    assert!(world.mailbox.relations_due(world.now).is_empty());
    world.pass(Duration::from_secs(60));
    assert_eq!(world.mailbox.relations_due(world.now), [relation]);
    let before = world.mailbox.relation(relation).unwrap().sequence;
    world.mailbox.refresh(relation);
    world.settle();
    assert_eq!(world.refreshed, [relation]);
    assert!(world.mailbox.relation(relation).unwrap().sequence > before);
    assert!(world.mailbox.relations_due(world.now).is_empty(), "one is on its way");
}

#[test]
fn a_crash_at_any_operation_lowers_no_sequence_number_and_makes_no_relation_up() {
    let mut whole = World::new();
    let live = |world: &mut World| {
        if world.mailbox.observe(world.now, registration("lock", b"t"), 900) {
            world.settle();
        }
        for id in 1..=6 {
            world.publish(state(id));
        }
    };
    live(&mut whole);
    for operation in 1..=whole.disk.operations() {
        let disk = FakeDisk::default();
        disk.cut_at(operation);
        let mut world = World::on(disk);
        live(&mut world);
        let told = world.related.iter().any(Result::is_ok);
        restart(&mut world, true);
        assert!(!told || world.mailbox.relation_count() == 1, "{operation}: it was answered");
        for id in 7..=9 {
            world.publish(state(id));
        }
        let numbers: Vec<u64> = world.wire.notified.iter().map(|(sequence, _)| *sequence).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{operation}: {numbers:?}");
    }
}
