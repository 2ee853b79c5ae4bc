//! A lane reaches its bound: it refuses, or drops its oldest, as its owner chose. Every loss is
//! named, and the other lane does not notice.

use std::time::Duration;

use crate::chance::cases;
use crate::node::Transport;
use crate::product::WhenFull;
use crate::rules::Site;
use crate::world::{Setup, World};

fn fill(seed: u64, when_full: WhenFull) -> World {
    let mut setup = Setup::of(Site::usual(&["door-1", "door-2"]));
    setup.when_full = when_full;
    setup.segments = 4;
    let mut world = World::new(seed, setup);
    let node = world.busy("door-1", Transport::Dtls, Duration::from_millis(200), &["t/env"]);
    world.nodes[node].payload = 1_000;
    let alarms = world.busy("door-2", Transport::Dtls, Duration::from_secs(10), &["alarm/x"]);
    world.run_for(Duration::from_secs(5));
    world.broker_gone();
    for _ in 0..12 {
        world.run_for(Duration::from_secs(10));
        world.audit();
        assert!(world.nodes[alarms].waiting() <= 1, "an alarm waits");
    }
    world
}

#[test]
fn a_lane_that_refuses_when_it_is_full_loses_nothing_it_took() {
    cases(2, |seed| {
        let world = fill(seed, WhenFull::Refuse);
        let dropped: u64 = world.nodes.iter().map(|node| node.dropped).sum();
        assert!(dropped > 50, "the device had to keep its readings");
        let world = world.end();
        assert_eq!(world.ledger.borrow().count(|reading| reading.named.is_some()), 0);
    });
}

#[test]
fn a_lane_that_drops_its_oldest_names_each_of_them() {
    cases(2, |seed| {
        let world = fill(seed, WhenFull::DropOldest).end();
        let ledger = world.ledger.borrow();
        let dropped = ledger.count(|reading| reading.named == Some("dropped"));
        assert!(dropped > 50, "{dropped}");
        assert_eq!(ledger.count(|r| r.named.is_some() && r.device == "door-2"), 0);
    });
}
