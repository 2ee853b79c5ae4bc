//! The broker closes: at CONNECT, over one topic, at random, or takes over with our client id. What
//! is stored arrives; what it closes over is found.

use std::time::Duration;

use crate::chance::{Chance, cases};
use crate::node::Transport;
use crate::rules::Site;
use crate::world::{Setup, World};
use tombolo_test_support::broker::{Reply, Welcome};

#[test]
fn a_broker_that_closes_again_and_again_gets_everything_in_the_end() {
    cases(6, |seed| {
        let mut world = World::new(seed, Setup::of(Site::usual(&["door-1", "door-2"])));
        world.busy("door-1", Transport::Dtls, Duration::from_secs(2), &["t/env", "t/poison"]);
        world.busy("door-2", Transport::Dtls, Duration::from_secs(3), &["t/a", "alarm/x"]);
        for _ in 0..12 {
            let mut dice = Chance::new(world.chance.next());
            match world.chance.draw(5) {
                0 => world.policy(move |_| if dice.percent(5) { Reply::Close } else { Reply::Ack(0) }),
                1 => world.policy(|d| if d.topic.ends_with("poison") { Reply::Close } else { Reply::Ack(0) }),
                2 => world.policy(
                    move |_| {
                        if dice.percent(3) { Reply::Disconnect(0x8E) } else { Reply::Ack(0) }
                    },
                ),
                3 => {
                    let welcome = [Welcome::Close, Welcome::Silence, Welcome::Code(0x88), Welcome::Code(5)];
                    world.broker.v5 = welcome[world.chance.draw(4) as usize];
                    world.broker.v3 = world.broker.v5;
                    world.cut_tcp();
                }
                _ => world.cut_tcp(),
            }
            let time = Duration::from_secs(1 + world.chance.draw(90));
            world.run_for(time);
            (world.broker.v5, world.broker.v3) = (Welcome::Accept, Welcome::Accept);
            let others = world.ledger.borrow().count(|r| r.named.is_some() && !r.path.ends_with("poison"));
            assert_eq!(others, 0, "a reading was condemned that nobody refused, SIM_SEED={seed}");
        }
        let world = world.end();
        assert!(world.ledger.borrow().count(|reading| reading.delivered) > 100);
    });
}
