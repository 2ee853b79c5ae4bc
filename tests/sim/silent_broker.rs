//! The broker is silent, slow, or the way to it is: the connection is replaced, and what is
//! unanswered is sent again.

use std::time::Duration;

use crate::chance::{Chance, cases};
use crate::node::Transport;
use crate::rules::Site;
use crate::world::{Setup, World};
use tombolo_test_support::broker::Reply;

#[test]
fn a_broker_that_is_silent_for_a_while_keeps_nothing_back_for_ever() {
    cases(6, |seed| {
        let mut world = World::new(seed, Setup::of(Site::usual(&["door-1", "door-2"])));
        world.busy("door-1", Transport::Dtls, Duration::from_secs(2), &["t/env", "alarm/x"]);
        world.busy("door-2", Transport::Dtls, Duration::from_secs(3), &["t/a", "t/b", "live/x"]);
        for _ in 0..15 {
            let mut dice = Chance::new(world.chance.next());
            match world.chance.draw(5) {
                0 => world.policy(|_| Reply::Hold),
                1 => world.policy(move |_| if dice.percent(30) { Reply::Drop } else { Reply::Ack(0) }),
                2 => world.policy(|d| if d.topic.ends_with("/a") { Reply::Drop } else { Reply::Ack(0) }),
                3 => world.frozen = true,
                _ => {
                    let delay = Duration::from_millis(world.chance.draw(40_000));
                    world.answer_after(delay);
                }
            }
            let time = Duration::from_secs(1 + world.chance.draw(120));
            world.run_for(time);
            world.frozen = false;
            world.answer_after(Duration::ZERO);
            world.take_everything();
            world.run_for(Duration::from_secs(20));
        }
        let world = world.end();
        assert!(world.ledger.borrow().count(|reading| reading.delivered) > 200);
    });
}
