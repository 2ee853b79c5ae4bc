//! A device comes and goes all the time: its presence is published at most once a minute.

use std::time::Duration;

use crate::chance::cases;
use crate::node::Transport;
use crate::rules::Site;
use crate::world::{Setup, World};

#[test]
fn a_device_that_comes_and_goes_is_told_of_at_most_once_a_minute() {
    cases(2, |seed| {
        let mut world = World::new(seed, Setup::of(Site::usual(&["door-1", "door-2"])));
        let fickle = world.busy("door-1", Transport::Dtls, Duration::from_secs(2), &["t/env"]);
        world.busy("door-2", Transport::Dtls, Duration::from_secs(60), &["t/env"]);
        for _ in 0..300 {
            let time = Duration::from_millis(500 + world.chance.draw(5_000));
            world.run_for(time);
            world.nodes[fickle].begin_anew();
        }
        let minutes = (world.now - world.start).as_secs() as usize / 60;
        let told = world.taken.iter().filter(|(_, topic, _)| topic == "tombolo/gw/door-1/status").count();
        assert!((1..=minutes + 1).contains(&told), "{told} in {minutes} min");
        let sessions = world.gateway.as_ref().map_or(0, |gateway| gateway.established);
        assert!(sessions > 100, "{sessions}");
        world.end();
    });
}
