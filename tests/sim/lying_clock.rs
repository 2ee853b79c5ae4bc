//! The clock lies: it stands in 1970, in 2036, jumps in the middle, says that it is synchronised.
//! No reading expires before its time, and everything else goes on.

use std::time::Duration;

use crate::chance::cases;
use crate::node::Transport;
use crate::rules::Site;
use crate::world::{Setup, World};
use tombolo_test_support::journal::disk::Cut;

const DAY_MS: i64 = 86_400_000;

fn world(seed: u64) -> World {
    let mut world = World::new(seed, Setup::of(Site::usual(&["door-1", "door-2"])));
    let paths = ["soon/x", "t/env", "alarm/x"];
    world.busy("door-1", Transport::Dtls, Duration::from_secs(60), &paths);
    world.busy("door-2", Transport::Dtls, Duration::from_secs(90), &paths);
    world
}

#[test]
fn with_an_honest_clock_readings_expire_in_time_and_are_named() {
    cases(2, |seed| {
        let mut world = world(seed);
        world.broker_gone();
        world.run_for(Duration::from_secs(3 * 3_600));
        let world = world.end();
        let ledger = world.ledger.borrow();
        let expired = ledger.count(|reading| reading.named == Some("expired"));
        assert!(expired > 50, "{expired}");
        assert_eq!(ledger.count(|reading| reading.named.is_some() && !reading.path.starts_with("soon")), 0);
    });
}

#[test]
fn no_lie_of_the_clock_makes_a_reading_expire_before_its_time() {
    cases(8, |seed| {
        let mut world = world(seed);
        for _ in 0..12 {
            world.kernel.lie_ms = match world.chance.draw(5) {
                0 => -57 * 365 * DAY_MS,
                1 => 9 * 365 * DAY_MS,
                2 => (world.chance.draw(800) as i64 - 400) * DAY_MS,
                // Less than a day is believed: no more than that may come of it.
                3 => 0,
                _ => world.kernel.lie_ms,
            };
            world.kernel.synchronised = world.chance.percent(70);
            if world.chance.percent(50) {
                if world.broker.reachable { world.broker_gone() } else { world.broker_back() }
            }
            let time = Duration::from_secs(30 + world.chance.draw(5_400));
            world.run_for(time);
            if world.chance.percent(30) {
                let outage = Duration::from_secs(5 + world.chance.draw(7_200));
                world.cut_power(Cut::Some(seed), outage);
            }
        }
        let world = world.end();
        assert!(world.ledger.borrow().count(|reading| reading.delivered) > 100);
    });
}
