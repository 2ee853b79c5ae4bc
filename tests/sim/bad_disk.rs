//! The disk errs: it fails writes and syncs, is full or read-only, does not give what it has. What
//! was acknowledged is kept and read later, or is named.

use std::time::Duration;

use crate::chance::cases;
use crate::node::Transport;
use crate::product::Folder;
use crate::rules::Site;
use crate::world::{Setup, World};
use tombolo_test_support::journal::disk::Cut;

fn world(seed: u64) -> World {
    let mut setup = Setup::of(Site::usual(&["door-1", "door-2", "meter"]));
    setup.ports = vec!["meter".to_owned()];
    setup.segments = 12;
    let mut world = World::new(seed, setup);
    for id in ["door-1", "door-2"] {
        let node = world.busy(id, Transport::Dtls, Duration::from_secs(1), &["t/env", "alarm/x"]);
        world.nodes[node].payload = 400;
    }
    world.serial("meter", Duration::from_secs(1));
    world
}

#[test]
fn a_disk_that_fails_writes_and_syncs_costs_answers_and_no_acknowledged_reading() {
    cases(5, |seed| {
        let mut world = world(seed);
        for _ in 0..40 {
            match world.chance.draw(6) {
                0 => world.disk.fail_syncs(1 + world.chance.draw(4) as u32),
                1 => world.disk.fail_writes(1 + world.chance.draw(4) as u32),
                2 => world.disk.set_capacity(Some(200_000 + world.chance.draw(400_000) as usize)),
                3 => world.disk.set_read_only(true),
                4 => world.cut_power(Cut::Some(seed), Duration::from_secs(2)),
                _ => {}
            }
            if world.chance.percent(20) {
                if world.broker.reachable { world.broker_gone() } else { world.broker_back() }
            }
            let time = Duration::from_millis(500 + world.chance.draw(15_000));
            world.run_for(time);
            world.disk.set_capacity(None);
            world.disk.set_read_only(false);
            world.audit();
        }
        let world = world.end();
        assert!(world.ledger.borrow().count(|reading| reading.delivered) > 200);
    });
}

#[test]
fn what_the_disk_does_not_give_is_read_later_and_is_no_loss() {
    cases(2, |seed| {
        let mut world = world(seed);
        for _ in 0..5 {
            world.broker_gone();
            world.run_for(Duration::from_secs(240));
            let files: Vec<_> = world
                .disk
                .files()
                .into_iter()
                .filter(|(folder, ..)| matches!(folder, Folder::High | Folder::Normal))
                .collect();
            for _ in 0..3 {
                let chosen = world.chance.draw(files.len() as u64) as usize;
                let (folder, name, content) = &files[chosen];
                if !world.disk.files().iter().any(|(f, n, _)| f == folder && n == name) {
                    continue;
                }
                match world.chance.draw(3) {
                    0 => world.disk.make_unopenable(*folder, name),
                    _ => {
                        let offset = 4_096 + world.chance.draw(content.len() as u64 - 4_096) as usize;
                        world.disk.make_unreadable(*folder, name, offset);
                    }
                }
            }
            world.broker_back();
            let time = Duration::from_secs(world.chance.draw(400));
            world.run_for(time);
            world.audit();
            world.disk.heal();
            world.run_for(Duration::from_secs(150));
        }
        let world = world.end();
        let ledger = world.ledger.borrow();
        assert!(ledger.count(|reading| reading.delivered) > 800);
        assert_eq!(ledger.count(|reading| reading.named.is_some()), 0);
    });
}
