//! The bytes that a lane may publish in a day.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tombolo::clock::UnixTime;
use tombolo::message::Lane;
use tombolo::northbound::budget::Budget;

use super::support::{World, bare_settings};

const HOUR: Duration = Duration::from_secs(3_600);
/// A publish of it has a little more than 1,000 bytes.
const PAYLOAD: [u8; 1_000] = [7; 1_000];

/// A connected world, at noon UTC, whose normal lane may publish so many bytes a day.
fn world(limit: u64) -> (World, Rc<RefCell<Budget>>) {
    let budget = Rc::new(RefCell::new(Budget::default()));
    budget.borrow_mut().set_limits([None, Some(limit)]);
    let mut world = World::new(bare_settings());
    world.uplink.set_budget(budget.clone());
    world.moment.wall = Some(UnixTime(20_000 * 86_400_000 + 12 * 3_600_000));
    world.settle();
    (world, budget)
}

/// How many records wait.
fn waiting(world: &World, lane: Lane) -> usize {
    world.outbox.waiting(lane)
}

#[test]
fn a_lane_that_has_used_its_bytes_keeps_its_records_until_midnight_and_alarms_go_on() {
    let (mut world, budget) = world(5_000);
    for _ in 0..20 {
        world.store(Lane::Normal, "t", &PAYLOAD);
    }
    world.run_for(HOUR);
    assert_eq!(waiting(&world, Lane::Normal), 15, "the fifth goes beyond it");
    let used = budget.borrow().spent().used[Lane::Normal.index()];
    assert!((5_000..6_200).contains(&used), "{used}");
    world.store(Lane::High, "alarm", &PAYLOAD);
    world.run_for(HOUR);
    assert_eq!((waiting(&world, Lane::High), waiting(&world, Lane::Normal)), (0, 15));
    assert_eq!(world.status().connections, 1, "the connection stays");
    world.run_for(10 * HOUR - Duration::from_secs(1));
    assert_eq!(waiting(&world, Lane::Normal), 15);
    world.run_for(Duration::from_secs(2));
    assert_eq!(waiting(&world, Lane::Normal), 10);
    world.run_for(48 * HOUR);
    assert_eq!(waiting(&world, Lane::Normal), 0);
}

#[test]
fn a_limit_that_is_raised_or_taken_away_counts_at_once_and_keeps_the_connection() {
    let (mut world, budget) = world(2_000);
    for _ in 0..10 {
        world.store(Lane::Normal, "t", &PAYLOAD);
    }
    world.run_for(HOUR);
    assert_eq!(waiting(&world, Lane::Normal), 8);
    budget.borrow_mut().set_limits([None, Some(4_000)]);
    world.run_for(Duration::from_secs(61));
    assert_eq!(waiting(&world, Lane::Normal), 6);
    budget.borrow_mut().set_limits([None, None]);
    world.run_for(Duration::from_secs(61));
    assert_eq!((waiting(&world, Lane::Normal), world.status().connections), (0, 1));
}

#[test]
fn a_record_that_is_sent_again_counts_again() {
    let (mut world, budget) = world(100_000);
    world.store(Lane::Normal, "t", &PAYLOAD);
    world.frozen = true;
    world.settle();
    let once = budget.borrow().spent().used[Lane::Normal.index()];
    world.frozen = false;
    world.kill_broker();
    world.broker.reachable = true;
    world.run_for(HOUR);
    assert_eq!(waiting(&world, Lane::Normal), 0);
    let twice = budget.borrow().spent().used[Lane::Normal.index()];
    assert!(once > 1_000 && twice >= 2 * once, "{once} {twice}");
}
