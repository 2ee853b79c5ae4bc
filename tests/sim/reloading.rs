//! The owner reloads in the middle of everything: rules, keys, devices and ports change while
//! handshakes, requests and commits are under way.

use std::time::Duration;

use crate::chance::cases;
use crate::node::Transport;
use crate::rules::{Member, Rule, Site};
use crate::world::{Link, Setup, World};
use tombolo_test_support::journal::disk::Cut;

const IDS: [&str; 4] = ["door-1", "door-2", "door-3", "meter"];

#[test]
fn a_reload_in_the_middle_of_everything_breaks_no_promise() {
    cases(5, |seed| {
        let site = Site::usual(&IDS);
        let mut setup = Setup::of(site.clone());
        setup.ports = vec!["meter".to_owned()];
        setup.link = Link { loss: 5, duplication: 10, delay: 10, jitter: 200 };
        let mut world = World::new(seed, setup);
        for id in &IDS[..3] {
            let paths = ["t/env", "alarm/x", "live/x", "t/secret/x", "elsewhere"];
            world.busy(id, Transport::Dtls, Duration::from_millis(1_500), &paths);
        }
        world.serial("meter", Duration::from_secs(2));
        for _ in 0..40 {
            let mut next = site.clone();
            let role = &mut next.roles[0];
            match world.chance.draw(6) {
                // A device is gone, and comes back with the next reload.
                0 => {
                    let gone = world.chance.draw(3) as usize;
                    next.members.remove(gone);
                }
                // A device has another key.
                1 => {
                    let changed = world.chance.draw(3) as usize;
                    let key = format!("key {}", world.chance.next());
                    next.members[changed] = Member { key: key.clone(), ..next.members[changed].clone() };
                    world.nodes[changed].key = key;
                }
                2 => role.rules.push(Rule::deny("alarm/#")),
                3 => role.rules.push(Rule::to("elsewhere", "{prefix}/{device}/side")),
                4 => role.rules.retain(|rule| rule.path != "t/#"),
                _ => (role.messages, role.burst) = (30, 5),
            }
            let ports = if world.chance.percent(70) { vec!["meter".to_owned()] } else { Vec::new() };
            world.reload(next, ports);
            match world.chance.draw(8) {
                0 => world.cut_tcp(),
                1 => world.cut_power(Cut::Some(seed), Duration::from_secs(3)),
                2 => world.kill(),
                _ => {}
            }
            let time = Duration::from_millis(world.chance.draw(12_000));
            world.run_for(time);
            for (node, member) in world.nodes.iter_mut().zip(&site.members) {
                node.key.clone_from(&member.key);
            }
        }
        world.reload(site.clone(), vec!["meter".to_owned()]);
        let world = world.end();
        assert!(world.ledger.borrow().count(|reading| reading.delivered) > 100);
    });
}
