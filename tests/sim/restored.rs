//! The owner puts an old backup of the disk back: what was stored since is the owner's loss, and no
//! record id names two readings.

use std::time::Duration;

use crate::chance::cases;
use crate::node::Transport;
use crate::rules::Site;
use crate::world::{Setup, World};

#[test]
fn after_a_restored_backup_no_record_id_names_two_readings() {
    cases(3, |seed| {
        let mut world = World::new(seed, Setup::of(Site::usual(&["door-1", "door-2"])));
        world.busy("door-1", Transport::Dtls, Duration::from_secs(1), &["t/env", "alarm/x"]);
        world.busy("door-2", Transport::Dtls, Duration::from_secs(2), &["t/env"]);
        for _ in 0..4 {
            let time = Duration::from_secs(20 + world.chance.draw(60));
            world.run_for(time);
            let image = world.image();
            world.run_for(time);
            world.restore(&image);
            world.run_for(Duration::from_secs(90));
        }
        let world = world.end();
        assert!(world.ledger.borrow().count(|reading| reading.delivered) > 200);
    });
}
