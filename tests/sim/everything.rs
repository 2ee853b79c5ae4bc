//! All of it at once, in whatever order chance has it: the promise as a whole.

use std::time::Duration;

use crate::chance::{Chance, cases};
use crate::node::Transport;
use crate::rules::{Rule, Site};
use crate::world::{Link, Setup, World};
use tombolo_test_support::broker::Reply;
use tombolo_test_support::journal::disk::Cut;

fn run(seed: u64) -> World {
    let mut site = Site::usual(&["door-1", "door-2", "lab", "meter"]);
    site.insecure = Some("lab".to_owned());
    let mut setup = Setup::of(site.clone());
    setup.ports = vec!["meter".to_owned()];
    setup.segments = 8;
    let mut world = World::new(seed, setup);
    let paths = ["t/env", "alarm/x", "live/x", "soon/x", "log/a/b/c", "t/secret/x", "nowhere"];
    world.busy("door-1", Transport::Dtls, Duration::from_secs(2), &paths);
    let node = world.busy("door-2", Transport::Dtls, Duration::from_secs(3), &paths);
    world.nodes[node].payload = 700;
    world.busy("lab", Transport::Plain, Duration::from_secs(4), &paths);
    world.serial("meter", Duration::from_secs(3));
    world.lines[0].noise = 5;
    for _ in 0..30 {
        let mut dice = Chance::new(world.chance.next());
        match world.chance.draw(14) {
            0 => world.setup.link = Link::BAD,
            1 => world.setup.link = Link::FINE,
            2 => world.broker_gone(),
            3 => world.broker_back(),
            4 => world.frozen = !world.frozen,
            5 => world.policy(move |_| if dice.percent(10) { Reply::Hold } else { Reply::Ack(0) }),
            6 => world.policy(move |_| if dice.percent(5) { Reply::Close } else { Reply::Ack(0) }),
            7 => world.take_everything(),
            8 => world.disk.fail_syncs(1 + world.chance.draw(3) as u32),
            9 => {
                let operation = world.disk.operations() + world.chance.draw(80);
                world.disk.cut_at(operation);
            }
            10 => {
                let cut = Cut::Some(world.chance.next());
                world.cut_power(cut, Duration::from_secs(3));
            }
            11 => world.kill(),
            12 => {
                let mut next = site.clone();
                if world.chance.percent(50) {
                    next.roles[0].rules.push(Rule::deny("log/#"));
                }
                world.reload(next, vec!["meter".to_owned()]);
            }
            _ => world.kernel.lie_ms = (world.chance.draw(800) as i64 - 400) * 86_400_000,
        }
        let time = Duration::from_millis(world.chance.draw(20_000));
        world.run_for(time);
        world.audit();
    }
    world.kernel.lie_ms = 0;
    world.end()
}

#[test]
fn whatever_happens_in_whatever_order_the_promise_is_kept() {
    cases(12, |seed| {
        run(seed);
    });
}

#[test]
fn a_seed_is_a_run() {
    cases(2, |seed| {
        let (one, other) = (run(seed), run(seed));
        let difference = one.taken.iter().zip(&other.taken).find(|(one, other)| one != other);
        assert_eq!(difference, None);
        assert_eq!((one.events, one.taken.len()), (other.events, other.taken.len()));
        assert_ne!(one.taken, run(seed + 1).taken);
    });
}
