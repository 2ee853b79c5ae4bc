//! The broker limits: few in flight, a quota a second, no room at times. The uplink obeys, nobody
//! is condemned, all arrives. (The scripted broker itself fails a test whose uplink breaks a
//! limit.)

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::chance::cases;
use crate::node::Transport;
use crate::rules::Site;
use crate::world::{Setup, World};
use tombolo_test_support::broker::Reply;

#[test]
fn a_broker_that_limits_the_rate_gets_everything_in_the_end() {
    cases(4, |seed| {
        let mut world = World::new(seed, Setup::of(Site::usual(&["door-1", "door-2"])));
        world.broker.receive_maximum = Some(1 + world.chance.draw(20) as u16);
        world.busy("door-1", Transport::Dtls, Duration::from_millis(400), &["t/env", "alarm/x"]);
        world.busy("door-2", Transport::Dtls, Duration::from_millis(900), &["t/a", "t/b"]);
        // So many a second; beyond it the code for that.
        let a_second = 1 + world.chance.draw(4) as u32;
        let code = [0x96, 0x97, 0x93][world.chance.draw(3) as usize];
        let taken: Rc<RefCell<(u64, u32)>> = Rc::default();
        world.policy(move |d| {
            let (second, taken) = &mut *taken.borrow_mut();
            if *second != d.at.as_secs() {
                (*second, *taken) = (d.at.as_secs(), 0);
            }
            *taken += 1;
            match (*taken <= a_second, code) {
                (true, _) => Reply::Ack(0),
                (false, 0x97) => Reply::Ack(0x97),
                (false, code) => Reply::Disconnect(code),
            }
        });
        world.run_for(Duration::from_secs(400));
        let named = world.ledger.borrow().count(|reading| reading.named.is_some());
        assert_eq!(named, 0, "{a_second} a second, {code:#x}");
        let world = world.end();
        assert!(world.ledger.borrow().count(|reading| reading.delivered) > 300);
    });
}
