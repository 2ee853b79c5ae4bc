//! An attacker on the devices' link repeats, changes and forges datagrams: nothing is published
//! that no device said, and nobody is kept from being heard.

use std::time::Duration;

use crate::chance::cases;
use crate::node::Transport;
use crate::rules::Site;
use crate::world::{SPOOFED, Setup, World};

#[test]
fn forged_changed_and_repeated_datagrams_become_no_reading() {
    cases(4, |seed| {
        let mut world = World::new(seed, Setup::of(Site::usual(&["door-1", "door-2"])));
        world.busy("door-1", Transport::Dtls, Duration::from_secs(1), &["t/env", "alarm/x"]);
        world.busy("door-2", Transport::Dtls, Duration::from_secs(2), &["t/env"]);
        for _ in 0..400 {
            let time = Duration::from_millis(world.chance.draw(500));
            world.run_for(time);
            let Some((port, mut datagram)) = world.overheard() else { continue };
            let elsewhere = world.chance.percent(40);
            let port = if elsewhere { SPOOFED + world.chance.draw(100) as u16 } else { port };
            for _ in 0..world.chance.draw(4) {
                let at = world.chance.draw(datagram.len() as u64) as usize;
                datagram[at] ^= 1 << world.chance.draw(8);
            }
            world.inject(port, false, datagram);
        }
        let world = world.end();
        let ledger = world.ledger.borrow();
        assert!(ledger.count(|reading| reading.delivered) > 100);
        assert_eq!(ledger.count(|reading| reading.commits > 1), 0, "a repeated datagram was stored");
    });
}
