//! The link loses, doubles and reorders: each reading arrives, and a duplicate is no second
//! reading.

use std::time::Duration;

use crate::chance::cases;
use crate::node::Transport;
use crate::rules::Site;
use crate::world::{Link, Setup, World};

fn world(seed: u64, link: Link) -> World {
    let mut site = Site::usual(&["door-1", "door-2", "lab"]);
    site.insecure = Some("lab".to_owned());
    let mut setup = Setup::of(site);
    setup.link = link;
    let mut world = World::new(seed, setup);
    world.busy("door-1", Transport::Dtls, Duration::from_secs(7), &["t/env", "alarm/x"]);
    let quiet = world.busy("door-2", Transport::Dtls, Duration::from_secs(9), &["t/a/b", "log/x/y/z"]);
    world.nodes[quiet].non = true;
    world.busy("lab", Transport::Plain, Duration::from_secs(5), &["t/env", "live/x"]);
    world
}

#[test]
fn over_a_bad_link_every_reading_that_is_acknowledged_arrives() {
    cases(6, |seed| {
        let mut world = world(seed, Link::BAD);
        world.run_for(Duration::from_secs(1_800));
        let world = world.end();
        let ledger = world.ledger.borrow();
        assert!(ledger.count(|reading| reading.answered) > 300);
        // Repeated until answered: none is missing but what a full device forgot itself.
        let dropped: u64 = world.nodes.iter().map(|node| node.dropped).sum();
        assert!(dropped < 20, "{dropped}");
        let refused = ledger.readings.iter().find(|reading| reading.refused.is_some());
        assert!(refused.is_none(), "{refused:?}");
        assert!(ledger.count(|reading| !reading.answered) <= dropped as usize);
    });
}

#[test]
fn a_datagram_that_comes_three_times_is_one_reading() {
    cases(3, |seed| {
        let doubled = Link { loss: 0, duplication: 100, delay: 10, jitter: 400 };
        let mut world = world(seed, doubled);
        world.run_for(Duration::from_secs(900));
        let world = world.end();
        let ledger = world.ledger.borrow();
        assert!(ledger.count(|reading| reading.committed) > 200);
        assert_eq!(ledger.count(|reading| reading.commits > 1), 0, "stored twice");
    });
}
