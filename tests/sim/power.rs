//! The power fails, in the middle of any write or between two: what was acknowledged is there
//! afterwards.

use std::time::Duration;

use crate::chance::cases;
use crate::node::Transport;
use crate::rules::Site;
use crate::world::{Link, Setup, World};
use tombolo_test_support::journal::disk::Cut;

/// A power cut each round, at an operation of the disk or at a time.
fn cuts(seed: u64, rounds: u64) -> u64 {
    let mut setup = Setup::of(Site::usual(&["door-1", "door-2", "meter"]));
    setup.ports = vec!["meter".to_owned()];
    setup.segments = 12;
    setup.link = Link { loss: 2, duplication: 5, delay: 10, jitter: 50 };
    let mut world = World::new(seed, setup);
    for id in ["door-1", "door-2"] {
        world.busy(id, Transport::Dtls, Duration::from_millis(1_500), &["t/env", "alarm/x"]);
    }
    world.serial("meter", Duration::from_millis(700));
    for _ in 0..rounds {
        if world.chance.percent(30) {
            if world.broker.reachable { world.broker_gone() } else { world.broker_back() }
        }
        let before = world.cuts;
        if world.chance.percent(70) {
            let operation = world.disk.operations() + 1 + world.chance.draw(40);
            world.disk.cut_at(operation);
        }
        let time = Duration::from_millis(world.chance.draw(6_000));
        world.run_for(time);
        if world.cuts == before && world.is_sound() {
            let cut = match world.chance.draw(4) {
                0 => Cut::Nothing,
                1 => Cut::Everything,
                _ => Cut::Some(world.chance.next()),
            };
            let outage = Duration::from_secs(1 + world.chance.draw(4));
            world.cut_power(cut, outage);
        }
        world.run_for(Duration::from_secs(8));
    }
    world.end().cuts
}

#[test]
fn a_thousand_power_cuts_at_random_points_lose_nothing_that_was_acknowledged() {
    let total = std::cell::Cell::new(0);
    cases(20, |seed| total.set(total.get() + cuts(seed, 50)));
    assert!(total.get() >= 1_000 || std::env::var("SIM_SEED").is_ok(), "{}", total.get());
}
