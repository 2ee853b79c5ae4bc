//! One identity takes all there is: sessions, requests, quota, room. The others are served.

use std::time::Duration;

use crate::chance::cases;
use crate::node::Transport;
use crate::rules::Site;
use crate::world::{Setup, World};

#[test]
fn one_identity_that_takes_all_there_is_keeps_no_other_waiting() {
    cases(2, |seed| {
        let mut site = Site::usual(&["greedy", "door-1", "door-2"]);
        (site.roles[0].messages, site.roles[0].burst) = (60, 20);
        let mut setup = Setup::of(site);
        setup.segments = 20;
        let mut world = World::new(seed, setup);
        // Eight copies of it, with the same key; four sessions are what it may have.
        for _ in 0..8 {
            let node =
                world.busy("greedy", Transport::Dtls, Duration::from_millis(250), &["t/env", "alarm/x"]);
            world.nodes[node].greedy = true;
            world.nodes[node].payload = 900;
        }
        let first = world.busy("door-1", Transport::Dtls, Duration::from_secs(5), &["t/env"]);
        let second = world.busy("door-2", Transport::Dtls, Duration::from_secs(5), &["alarm/x"]);
        for _ in 0..6 {
            world.run_for(Duration::from_secs(20));
            let gateway = world.gateway.as_ref().expect("nothing ends it");
            let sessions = tombolo::proto::dtls::Engine::session_count(&gateway.engine);
            assert!(sessions <= 6, "{sessions} sessions");
            for node in [first, second] {
                assert!(world.nodes[node].waiting() <= 2, "{} waits", world.nodes[node].id);
            }
        }
        let stored = |id: &str| world.ledger.borrow().count(|r| r.device == id && r.committed);
        let (greedy, door) = (stored("greedy"), stored("door-1") + stored("door-2"));
        assert!(greedy <= 20 + 2 * 60 + 5 && door > 40, "{greedy} of it, {door} of the others");
        // Only it has readings that were not taken, and forgets them itself.
        world.nodes.iter_mut().take(8).for_each(|node| node.forget());
        world.end();
    });
}
