//! What becomes of commands when nothing loses power.

use std::time::Duration;

use tombolo::downlink::command::{Command, Outcome, State, Status};
use tombolo::downlink::mailbox::{Arrival, Take};
use tombolo::gate::{Deliver, MailboxLimits, WhenFull};
use tombolo_test_support::journal::disk::Cut;

use crate::world::{AtBroker, Mood, World, command, device};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_command_is_acknowledged_when_it_is_stored_and_its_outcome_is_the_answer_of_the_device() {
    let mut world = World::new();
    world.publish(command(1));
    assert_eq!(world.wire.runs, [1]);
    assert_eq!(world.published, [(1, Status::Code(0x44))]);
    world.check();
}

#[test]
fn a_sleeping_device_gets_its_commands_in_order_when_it_wakes_one_at_a_time() {
    let mut world = World::new();
    world.wire.awake = false;
    for id in 1..=5 {
        world.publish(command(id));
    }
    world.pass(6 * 60 * MINUTE);
    assert!(world.wire.runs.is_empty() && world.published.is_empty());
    assert!(world.broker.values().all(|(_, at)| *at == AtBroker::Done), "held, and acknowledged");
    world.wake();
    assert_eq!(world.wire.runs, [1, 2, 3, 4, 5]);
    world.check();
}

#[test]
fn a_command_that_is_not_answered_has_the_outcome_timeout_and_is_not_sent_again() {
    for mood in [Mood::Deaf, Mood::Mute] {
        let mut world = World::new();
        world.wire.mood = mood;
        world.publish(command(1));
        world.wire.mood = Mood::Answers;
        world.pass(60 * MINUTE);
        world.wake();
        assert_eq!(world.published, [(1, Status::Timeout)]);
        assert_eq!(world.wire.sent, 1);
        world.check();
    }
}

#[test]
fn a_command_whose_line_is_closed_before_it_was_sent_waits_and_one_that_was_is_unknown() {
    let mut world = World::new();
    world.wire.mood = Mood::Closes;
    world.publish(command(1));
    world.pass(MINUTE);
    assert!(world.wire.runs.is_empty() && world.published.is_empty());
    world.wire.mood = Mood::Answers;
    world.wake();
    assert_eq!((&world.wire.runs[..], &world.published[..]), (&[1][..], &[(1, Status::Code(0x44))][..]));
    for is_idempotent in [false, true] {
        let mut world = World::new();
        world.wire.mood = Mood::BreaksOff;
        world.publish(Command { idempotent: is_idempotent, ..command(1) });
        world.wire.mood = Mood::Answers;
        world.pass(60 * MINUTE);
        world.wake();
        let (runs, status) = if is_idempotent { (2, Status::Code(0x44)) } else { (1, Status::Unknown) };
        assert_eq!((world.wire.runs.len(), &world.published[..]), (runs, &[(1, status)][..]));
    }
}

#[test]
fn an_idempotent_command_is_sent_again_with_the_next_datagram_of_the_device() {
    let mut world = World::new();
    world.wire.mood = Mood::Deaf;
    let mut set_point = command(1);
    set_point.idempotent = true;
    world.publish(set_point);
    assert!(world.published.is_empty());
    world.wire.mood = Mood::Answers;
    world.wake();
    assert_eq!(world.published, [(1, Status::Code(0x44))]);
    assert_eq!(world.wire.sent, 2);
    world.check();
}

#[test]
fn an_idempotent_command_to_a_silent_device_is_sent_again_ever_more_rarely() {
    let mut world = World::new();
    world.wire.mood = Mood::Deaf;
    let mut set_point = command(1);
    set_point.idempotent = true;
    world.publish(set_point);
    let mut sent = Vec::new();
    for _ in 0..60 {
        world.pass(MINUTE);
        sent.push(world.wire.sent);
    }
    assert!(sent[1] >= 2 && *sent.last().unwrap() < 14, "{sent:?}");
}

#[test]
fn a_response_that_does_not_come_is_waited_for_as_long_as_the_rule_says() {
    let mut world = World::new();
    world.wire.mood = Mood::Lingers;
    world.publish(command(1));
    world.pass(Duration::from_secs(59));
    assert!(world.published.is_empty());
    world.pass(Duration::from_secs(1));
    assert_eq!(world.published, [(1, Status::Timeout)]);
    world.check();
}

#[test]
fn a_device_that_resets_requests_has_refused_the_command() {
    let mut world = World::new();
    world.wire.mood = Mood::Resets;
    world.publish(command(1));
    assert_eq!(world.published, [(1, Status::Refused)]);
    world.check();
}

#[test]
fn a_command_expires_while_it_waits_and_never_runs_after_that() {
    let mut world = World::new();
    world.wire.awake = false;
    let mut short = command(1);
    short.expires_s = 30;
    world.publish(short);
    world.pass(Duration::from_secs(29));
    assert!(world.published.is_empty());
    world.pass(Duration::from_secs(1));
    assert_eq!(world.published, [(1, Status::Expired)]);
    world.wake();
    assert!(world.wire.runs.is_empty());
    world.check();
}

#[test]
fn unknown_downtime_ages_no_command() {
    let mut world = World::new();
    world.wire.awake = false;
    let mut short = command(1);
    short.expires_s = 30;
    world.publish(short);
    world.restart(Cut::Nothing);
    world.pass(60 * MINUTE);
    assert!(world.published.is_empty(), "another boot, and no trusted clock");
    world.wake();
    assert_eq!(world.published, [(1, Status::Code(0x44))]);
}

#[test]
fn the_latest_set_point_takes_the_place_of_those_that_wait() {
    let mut world = World::new();
    world.wire.awake = false;
    for id in 1..=3 {
        let mut set_point = command(id);
        set_point.latest_wins = true;
        world.publish(set_point);
    }
    let mut other = command(4);
    other.path = "lamp".to_owned();
    other.latest_wins = true;
    world.publish(other);
    assert_eq!(world.published, [(1, Status::Superseded), (2, Status::Superseded)]);
    world.wake();
    assert_eq!(world.wire.runs, [3, 4]);
    world.check();
}

#[test]
fn a_command_that_was_sent_in_vain_and_then_ends_unsent_says_that_it_may_have_run() {
    for restarted in [false, true] {
        let mut world = World::new();
        world.wire.mood = Mood::Mute;
        for (id, path) in [(1, "a"), (2, "b"), (3, "c")] {
            let idempotent = Command { idempotent: true, latest_wins: true, ..command(id) };
            world.publish(Command { path: path.to_owned(), expires_s: 200, ..idempotent });
            world.pass(Duration::from_secs(1));
        }
        let runs = world.wire.runs.clone();
        assert_eq!(runs, [1, 2, 3]);
        world.wire.awake = false;
        if restarted {
            // The log is written anew with the first batch after a start.
            world.restart(Cut::Nothing);
            world.publish(Command { path: "d".to_owned(), ..command(9) });
            world.restart(Cut::Nothing);
        }
        let newer = Command { latest_wins: true, ..command(4) };
        world.publish(Command { path: "a".to_owned(), ..newer.clone() });
        world
            .mailbox
            .review(|command| (command.path == "b").then(|| Outcome::of(Status::Refused, "no rule")));
        world.pass(Duration::from_secs(300));
        // After a restart without a clock nothing expires.
        let ends = [(1, Status::Superseded), (2, Status::Refused), (3, Status::Expired)];
        assert_eq!(world.published, ends[..if restarted { 2 } else { 3 }], "{restarted}");
        for said in &world.said {
            assert!(said.ends_with("; it was sent before: it may have run"), "{said}");
            assert!(!said.contains("it was not sent"), "{said}");
        }
        // One that was not sent says so.
        world.publish(Command { path: "a".to_owned(), payload: 5u32.to_be_bytes().to_vec(), ..newer });
        world.settle();
        assert_eq!(world.published.last(), Some(&(4, Status::Superseded)));
        assert_eq!(world.said.last().unwrap(), "a later command took its place");
    }
}

#[test]
fn a_set_point_for_which_there_is_no_room_takes_no_ones_place() {
    let mut world = World::new();
    world.limits = MailboxLimits { messages: 64, bytes: 700, ..world.limits.clone() };
    world.wire.awake = false;
    world.publish(Command { latest_wins: true, ..command(1) });
    world.publish(Command { path: "lamp".to_owned(), ..command(2) });
    let mut large = Command { latest_wins: true, ..command(3) };
    large.payload.resize(800, 0);
    world.publish(large);
    assert_eq!(world.refused, [(3, Status::Full)]);
    assert!(world.published.is_empty(), "{:?}", world.published);
    world.wake();
    assert_eq!(world.wire.runs, [1, 2]);
    world.check();
}

#[test]
fn a_full_mailbox_refuses_or_drops_the_oldest_as_its_owner_chose() {
    for when_full in [WhenFull::Refuse, WhenFull::DropOldest] {
        let mut world = World::new();
        world.limits = MailboxLimits { messages: 2, when_full, ..world.limits.clone() };
        world.wire.awake = false;
        for id in 1..=3 {
            world.publish(command(id));
        }
        world.wake();
        match when_full {
            WhenFull::Refuse => {
                assert_eq!(world.refused, [(3, Status::Full)]);
                assert_eq!(world.wire.runs, [1, 2]);
            }
            WhenFull::DropOldest => {
                assert_eq!(world.published[0], (1, Status::Dropped));
                assert_eq!(world.wire.runs, [2, 3]);
            }
        }
        world.check();
    }
}

#[test]
fn bytes_bound_a_mailbox_too_but_for_one_command() {
    let mut world = World::new();
    world.limits = MailboxLimits { messages: 64, bytes: 1, ..world.limits.clone() };
    world.wire.awake = false;
    world.publish(command(1));
    world.publish(command(2));
    assert_eq!(world.refused, [(2, Status::Full)]);
    world.wake();
    world.check();
}

#[test]
fn a_message_of_qos_1_that_comes_again_is_taken_once_until_its_acknowledgement_is_known_to_be_there() {
    let mut world = World::new();
    world.wire.awake = false;
    let now = world.now;
    let arrival = |ticket, again| Arrival {
        now,
        ticket,
        topic_hash: 1,
        hash: 9,
        packet: Some((1, 5)),
        connection: 1,
        distinct: false,
        again,
        keeps_ids: false,
        retained: false,
    };
    let limits = MailboxLimits::default();
    let taken = world.mailbox.take(&arrival(1, false), vec![(command(1), &limits)]);
    assert!(matches!(taken, Take::Taken(_)));
    assert_eq!(world.mailbox.take(&arrival(2, true), vec![(command(1), &limits)]), Take::Duplicate);
    // Of another session, or not marked as sent before: it is another one.
    let taken = world.mailbox.take(&arrival(3, false), vec![(command(1), &limits)]);
    assert!(matches!(taken, Take::Taken(_)));
    world.mailbox.handle_settled(now, &[5]);
    let taken = world.mailbox.take(&arrival(4, true), vec![(command(1), &limits)]);
    assert!(matches!(taken, Take::Taken(_)), "the broker had the acknowledgement of the one before");
}

#[test]
fn a_broker_that_goes_on_from_an_older_state_runs_nothing_twice() {
    for (after, restart, known) in [
        (Duration::from_secs(5), false, true),
        (Duration::from_secs(5), true, true),
        (11 * MINUTE, false, false),
    ] {
        let mut world = World::new();
        world.publish(command(1));
        assert_eq!(world.broker[&1].1, AtBroker::Done);
        world.pass(after);
        if restart {
            world.restart(Cut::Nothing);
        }
        let arrival = |again| Arrival {
            now: world.now,
            ticket: 99,
            topic_hash: 1,
            hash: 1 << 8,
            packet: Some((2, 1)),
            connection: 1,
            distinct: false,
            again,
            keeps_ids: false,
            retained: false,
        };
        let limits = MailboxLimits::default();
        let taken = world.mailbox.take(&arrival(true), vec![(command(1), &limits)]);
        assert_eq!(taken == Take::Duplicate, known, "{after:?} {restart}");
        // One that was not sent before is another one.
        let taken = world.mailbox.take(&arrival(false), vec![(command(1), &limits)]);
        assert_eq!(matches!(taken, Take::Taken(_)), known, "{after:?}");
    }
}

#[test]
fn a_retained_command_equal_to_the_last_one_is_not_run_again_also_after_a_restart() {
    let mut world = World::new();
    let now = world.now;
    let retained = |hash| Arrival {
        now,
        ticket: 0,
        topic_hash: 1,
        hash,
        packet: None,
        connection: 1,
        distinct: false,
        again: false,
        keeps_ids: false,
        retained: true,
    };
    let limits = MailboxLimits::default();
    let take = |world: &mut World, hash| {
        let taken = world.mailbox.take(&retained(hash), vec![(command(1), &limits)]);
        world.settle();
        taken
    };
    assert!(matches!(take(&mut world, 7), Take::Taken(_)));
    assert_eq!(take(&mut world, 7), Take::Repeated);
    world.restart(Cut::Nothing);
    assert_eq!(take(&mut world, 7), Take::Repeated);
    assert!(matches!(take(&mut world, 8), Take::Taken(_)));
}

#[test]
fn a_full_disk_refuses_commands_sends_nothing_and_heals() {
    let mut world = World::new();
    world.wire.awake = false;
    world.publish(command(1));
    world.disk.fail_syncs(2);
    world.publish(command(2));
    assert!(
        world.mailbox.trouble().is_some() && world.refused.is_empty(),
        "nobody knows whether it is there"
    );
    assert_eq!(world.broker[&2].1, AtBroker::Sent { again: false }, "nor is it acknowledged");
    world.publish(command(3));
    assert_eq!(world.refused, [(3, Status::Full)], "at once, without asking the disk");
    world.wake();
    assert!(world.wire.runs.is_empty(), "what cannot be noted is not sent");
    for _ in 0..6 {
        world.pass(Duration::from_secs(5));
    }
    assert_eq!(world.mailbox.trouble(), None);
    world.publish(command(4));
    world.wake();
    assert_eq!(world.wire.runs, [1, 2, 4]);
    world.check();
}

#[test]
fn what_the_disk_may_have_after_an_error_is_not_refused() {
    for cut in [Cut::Nothing, Cut::Everything] {
        for syncs in 1..4 {
            let mut world = World::new();
            world.wire.awake = false;
            world.publish(command(1));
            world.disk.fail_syncs(syncs);
            world.publish(command(2));
            world.restart(cut);
            world.wake();
            assert_eq!((&world.wire.runs[..], world.refused.len()), (&[1, 2][..], 0), "{syncs}");
            world.check();
        }
    }
}

#[test]
fn of_two_set_points_one_is_there_whatever_the_disk_does() {
    for when_full in [WhenFull::Refuse, WhenFull::DropOldest] {
        for syncs in 0..4 {
            for cut in [None, Some(Cut::Nothing), Some(Cut::Everything)] {
                let mut world = World::new();
                world.wire.awake = false;
                let latest_wins = when_full == WhenFull::Refuse;
                world.limits = MailboxLimits { messages: 1, when_full, ..world.limits.clone() };
                world.publish(Command { latest_wins, ..command(1) });
                world.disk.fail_syncs(syncs);
                world.publish(Command { latest_wins, ..command(2) });
                if syncs > 0 {
                    assert!(world.published.is_empty(), "the newer one is not known to be there");
                }
                match cut {
                    Some(cut) => {
                        // The broker has lost the newer one.
                        if syncs > 0 {
                            world.broker.remove(&2);
                        }
                        world.restart(cut);
                    }
                    None => (0..4).for_each(|_| world.pass(Duration::from_secs(5))),
                }
                world.wake();
                let place = format!("{when_full:?} {syncs} {cut:?} {:?}", world.wire.runs);
                match (cut, syncs) {
                    (None, _) | (_, 0) => assert_eq!(world.wire.runs, [2], "{place}"),
                    _ => assert!(!world.wire.runs.is_empty(), "{place}"),
                }
            }
        }
    }
}

#[test]
fn a_set_point_that_is_sent_before_the_newer_one_is_durable_is_not_superseded() {
    let mut world = World::new();
    world.wire.awake = false;
    world.publish(Command { latest_wins: true, ..command(1) });
    world.disk.fail_syncs(1);
    world.publish(Command { latest_wins: true, ..command(2) });
    world.wake();
    for _ in 0..2 {
        world.pass(Duration::from_secs(5));
    }
    world.wake();
    assert_eq!(world.wire.runs.last(), Some(&2), "{:?}", world.wire.runs);
    world.check();
}

#[test]
fn a_command_passes_one_that_is_sent_again_unless_it_is_for_the_same_path() {
    let mut world = World::new();
    world.wire.mood = Mood::Deaf;
    world.publish(Command { idempotent: true, ..command(1) });
    world.wire.mood = Mood::Answers;
    world.publish(Command { path: "lamp".to_owned(), ..command(2) });
    assert_eq!(world.wire.runs, [2], "at once");
    world.publish(command(3));
    assert_eq!(world.wire.runs, [2], "it would come before the one that it follows");
    let (count, worst) = world.mailbox.unanswered();
    assert_eq!((count, worst.map(|view| (view.number, view.attempts))), (1, Some((1, 1))));
    world.wake();
    assert_eq!((&world.wire.runs[..], world.mailbox.unanswered().0), (&[2, 1, 3][..], 0));
    world.check();
}

#[test]
fn a_command_that_is_never_answered_is_sent_ever_more_rarely_while_others_are() {
    let mut world = World::new();
    world.wire.mood = Mood::Deaf;
    world.publish(Command { idempotent: true, ..command(1) });
    let before = world.wire.sent;
    for id in 2..62 {
        world.wire.mood = Mood::Answers;
        world.publish(Command { path: "lamp".to_owned(), ..command(id) });
        world.wire.mood = Mood::Deaf;
        world.pass(MINUTE);
    }
    assert_eq!(world.wire.runs.len(), 60);
    let again = world.wire.sent - before - 60;
    assert!((5..14).contains(&again), "{again}");
}

/// A message of QoS 1 on the `n`th connection.
fn at_least_once(
    world: &World,
    connection: u64,
    id: u16,
    hash: u64,
    (distinct, again): (bool, bool),
) -> Arrival {
    Arrival {
        now: world.now,
        ticket: 0,
        topic_hash: 1,
        hash,
        packet: Some((1, id)),
        connection,
        distinct,
        again,
        keeps_ids: false,
        retained: false,
    }
}

/// Whether it is taken for one that came before.
fn is_repeated(world: &mut World, arrival: Arrival) -> bool {
    let taken = world.mailbox.take(&arrival, vec![(command(1), &MailboxLimits::default())]);
    world.settle();
    taken == Take::Duplicate
}

#[test]
fn a_distinct_message_of_qos_1_is_known_by_its_content_when_the_broker_changes_the_packet_id() {
    for restart in [false, true] {
        let mut world = World::new();
        world.wire.awake = false;
        let take = |world: &mut World, connection, id, hash, how| {
            is_repeated(world, at_least_once(world, connection, id, hash, how))
        };
        let first = [(8, 80), (1, 10), (2, 20), (3, 30)];
        for (id, hash) in first {
            assert!(!take(&mut world, 1, id, hash, (true, false)));
        }
        if restart {
            world.restart(Cut::Nothing);
        }
        // RabbitMQ counts anew: the ids of others are given to those that are repeated.
        for (id, hash) in [(1, 80), (2, 10), (3, 20)] {
            assert!(take(&mut world, 2, id, hash, (true, true)), "{restart} {hash}");
        }
        // On the next connection as well.
        for (id, hash) in [(1, 10), (2, 30), (3, 80)] {
            assert!(take(&mut world, 3, id, hash, (true, true)), "{restart} {hash}");
        }
    }
}

#[test]
fn a_distinct_message_of_qos_1_does_not_run_again_where_a_killed_broker_lost_its_acknowledgement() {
    let minutes = |count: u32| count * MINUTE;
    for (after, restart, known) in [
        (Duration::from_millis(50), false, true),
        (Duration::from_millis(50), true, true),
        (minutes(9), false, true),
        (minutes(11), false, false),
    ] {
        let mut world = World::new();
        world.wire.awake = false;
        let take = |world: &mut World, connection, id, hash, how| {
            is_repeated(world, at_least_once(world, connection, id, hash, how))
        };
        assert!(!take(&mut world, 1, 5, 50, (true, false)));
        assert!(!take(&mut world, 1, 6, 60, (true, false)));
        // The broker is known to have one, and gives the id of the other to the next message.
        world.mailbox.handle_settled(world.now, &[5]);
        assert!(!take(&mut world, 1, 6, 70, (true, false)));
        world.pass(after);
        if restart {
            world.restart(Cut::Nothing);
        }
        for (id, hash) in [(1, 50), (2, 60)] {
            assert_eq!(take(&mut world, 2, id, hash, (true, true)), known, "{after:?} {restart} {hash}");
        }
        assert!(!take(&mut world, 2, 3, 50, (true, false)), "one that is not repeated is another");
    }
}

#[test]
fn a_broker_that_keeps_packet_ids_and_lost_an_acknowledgement_of_qos_1_runs_nothing_twice() {
    for keeps_ids in [true, false] {
        let mut world = World::new();
        world.wire.awake = false;
        let take = |world: &mut World, connection, id, again| {
            let arrival = at_least_once(world, connection, id, 50, (false, again));
            is_repeated(world, Arrival { keeps_ids, ..arrival })
        };
        assert!(!take(&mut world, 1, 5, false));
        world.mailbox.handle_settled(world.now, &[5]);
        world.pass(Duration::from_millis(20));
        assert_eq!(take(&mut world, 2, 5, true), keeps_ids);
        assert!(!take(&mut world, 2, 6, true), "under another id it is another one");
        world.mailbox.handle_settled(world.now, &[5]);
        world.pass(11 * MINUTE);
        assert!(!take(&mut world, 2, 5, true), "by then it is another one");
    }
}

#[test]
fn equal_messages_of_qos_1_that_nothing_makes_distinct_are_all_taken_under_other_packet_ids() {
    let mut world = World::new();
    let limits = MailboxLimits::default();
    for (connection, id, again) in [(1, 8, false), (2, 1, true), (2, 2, true)] {
        let arrival = at_least_once(&world, connection, id, 9, (false, again));
        let taken = world.mailbox.take(&arrival, vec![(command(1), &limits)]);
        assert!(matches!(taken, Take::Taken(_)), "{id}");
    }
    // One that is not marked as repeated is another one also where it is distinct.
    for id in [3, 4] {
        let arrival = at_least_once(&world, 2, id, 7, (true, false));
        assert!(matches!(world.mailbox.take(&arrival, vec![(command(1), &limits)]), Take::Taken(_)));
    }
}

#[test]
fn what_a_broker_does_not_repeat_within_ten_minutes_of_a_connection_is_forgotten() {
    let mut world = World::new();
    world.wire.awake = false;
    let limits = MailboxLimits::default();
    let take = |world: &mut World, connection, id, hash, again| {
        let arrival = at_least_once(world, connection, id, hash, (true, again));
        world.mailbox.take(&arrival, vec![(command(1), &limits)]) == Take::Duplicate
    };
    assert!(!take(&mut world, 1, 8, 80, false));
    // However long the connection was away.
    world.now += 600 * MINUTE;
    assert!(!take(&mut world, 2, 1, 10, false));
    world.now += 11 * MINUTE;
    assert!(!take(&mut world, 2, 2, 80, true));
}

#[test]
fn a_command_for_a_device_that_is_gone_is_refused_unless_it_is_on_its_way() {
    let mut world = World::new();
    world.wire.awake = false;
    world.publish(command(1));
    world.mailbox.review(|held| {
        (held.device == device()).then(|| Outcome::of(Status::Refused, "the device was removed"))
    });
    world.settle();
    assert_eq!(world.published, [(1, Status::Refused)]);
    world.check();
}

#[test]
fn an_idempotent_command_whose_rule_goes_while_it_is_on_its_way_is_not_sent_again() {
    for is_back in [false, true] {
        let mut world = World::new();
        world.wire.mood = Mood::Lingers;
        world.publish(Command { idempotent: true, ..command(1) });
        world.mailbox.review(|_| Some(Outcome::of(Status::Refused, "no rule allows it")));
        if is_back {
            world.mailbox.review(|_| None);
        }
        for _ in 0..5 {
            world.pass(MINUTE);
        }
        match is_back {
            false => {
                assert_eq!((world.wire.sent, &world.published[..]), (1, &[(1, Status::Timeout)][..]));
                world.check();
            }
            true => assert!(world.wire.sent > 1 && world.published.is_empty(), "{}", world.wire.sent),
        }
    }
}

#[test]
fn the_log_is_written_anew_and_stays_small() {
    let mut world = World::new();
    for id in 1..=3_000 {
        let mut long = command(id);
        long.payload.resize(1_024, 7);
        world.publish(long);
    }
    assert_eq!(world.wire.runs.len(), 3_000);
    let bytes: usize = world.disk.files().iter().map(|(_, _, content)| content.len()).sum();
    assert!(bytes < 2 << 20, "{bytes}");
    world.check();
}

#[test]
fn a_command_says_how_far_it_has_come() {
    let mut world = World::new();
    world.wire.awake = false;
    world.publish(command(1));
    let view = world.mailbox.view().next().unwrap();
    assert_eq!((view.state, view.attempts), (State::Waiting, 0));
    assert!(world.mailbox.bytes() < 1_000, "{}", world.mailbox.bytes());
    world.wire.awake = true;
    world.wire.mood = Mood::Lingers;
    world.pass(Duration::from_secs(1));
    let view = world.mailbox.view().next().unwrap();
    assert_eq!((view.state, view.attempts), (State::Sent, 1));
}

#[test]
fn ten_thousand_sleepers_have_their_commands_in_a_few_megabytes_of_memory_and_disk() {
    let world = World::with_sleepers(10_000, Deliver::Request);
    let memory = world.mailbox.bytes() / 10_000;
    let disk: usize = world.disk.files().iter().map(|(_, _, content)| content.len()).sum();
    println!("a command: {memory} bytes of memory, {} of disk", disk / 10_000);
    assert!(memory < 500 && disk / 10_000 < 300, "{memory} {disk}");
}
