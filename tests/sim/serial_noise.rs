//! Noise on a serial line, and a cable that is pulled: a hit frame is dropped, never changed, and
//! those behind it come.

use std::time::Duration;

use crate::chance::cases;
use crate::rules::Site;
use crate::world::{Setup, World};

#[test]
fn a_frame_hit_by_noise_is_dropped_and_the_others_arrive() {
    cases(4, |seed| {
        let mut setup = Setup::of(Site::usual(&["meter", "scale"]));
        setup.ports = vec!["meter".to_owned(), "scale".to_owned()];
        let mut world = World::new(seed, setup);
        world.serial("meter", Duration::from_millis(700));
        let noisy = world.serial("scale", Duration::from_millis(300));
        world.lines[noisy].noise = 30;
        for round in 0..20 {
            world.run_for(Duration::from_secs(15));
            if round % 5 == 0 {
                world.unplug("scale");
            }
        }
        let world = world.end();
        let ledger = world.ledger.borrow();
        let said = ledger.count(|r| r.device == "scale");
        let arrived = ledger.count(|r| r.device == "scale" && r.delivered);
        // Of a hundred frames thirty are hit, and some take their neighbour along.
        assert!(arrived * 100 > said * 45 && arrived < said, "{arrived} of {said}");
        assert_eq!(ledger.count(|r| r.device == "meter" && !r.delivered), 0);
    });
}
