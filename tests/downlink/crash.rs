//! The power goes off, or the disk errs, at every single operation.

use std::time::Duration;

use tombolo::downlink::command::Status;
use tombolo::splitmix::SplitMix64;
use tombolo_test_support::journal::disk::{Cut, FakeDisk};

use crate::world::{Mood, World, command, mood};

/// A life with sleepers, moods, set-points and duplicates; ends early where the power goes off.
fn live(world: &mut World, seed: u64) {
    let mut random = SplitMix64::new(seed);
    for id in 1..=12u32 {
        if world.disk.is_off() {
            return;
        }
        world.wire.mood = mood(&mut random);
        world.wire.awake = random.below(2) == 0;
        let mut one = command(id);
        one.idempotent = id % 3 == 0;
        one.latest_wins = id % 4 == 0;
        world.publish(one);
        if world.disk.is_off() {
            return;
        }
        if random.below(3) == 0 {
            world.wake();
        }
        if world.disk.is_off() {
            return;
        }
        world.pass(Duration::from_secs(random.below(90)));
    }
}

/// Until every command has an outcome.
fn finish(world: &mut World) {
    world.wire.mood = Mood::Answers;
    for _ in 0..40 {
        world.wire.awake = true;
        world.pass(Duration::from_secs(60));
        world.wake();
    }
    world.check();
}

#[test]
fn whatever_the_power_takes_each_command_runs_once_at_most_and_has_an_outcome() {
    for seed in 1..=4 {
        let mut whole = World::new();
        live(&mut whole, seed);
        let operations = whole.disk.operations();
        finish(&mut whole);
        assert!(operations > 20, "{operations}");
        for operation in 1..=operations {
            for cut in [Cut::Nothing, Cut::Everything, Cut::Some(operation), Cut::Some(operation * 31 + seed)]
            {
                let disk = FakeDisk::default();
                disk.cut_at(operation);
                let mut world = World::on(disk);
                live(&mut world, seed);
                assert!(world.disk.is_off());
                world.restart(cut);
                finish(&mut world);
            }
        }
    }
}

#[test]
fn power_cuts_in_a_row_run_nothing_twice() {
    for seed in 1..=60u64 {
        let mut world = World::new();
        let mut random = SplitMix64::new(seed);
        for id in 1..=30u32 {
            world.disk.cut_at(world.disk.operations() + 1 + random.below(12));
            world.wire.mood = mood(&mut random);
            world.wire.awake = random.below(2) == 0;
            world.publish(command(id));
            if !world.disk.is_off() && random.below(2) == 0 {
                world.wake();
            }
            if world.disk.is_off() || random.below(4) == 0 {
                world.restart(Cut::Some(seed * 1_000 + u64::from(id)));
            }
        }
        world.restart(Cut::Nothing);
        finish(&mut world);
    }
}

#[test]
fn an_operation_that_fails_refuses_commands_or_waits_and_loses_no_outcome() {
    for seed in 1..=4 {
        let mut whole = World::new();
        live(&mut whole, seed);
        for operation in 1..=whole.disk.operations() {
            let disk = FakeDisk::default();
            disk.fail_at(operation);
            let mut world = World::on(disk);
            live(&mut world, seed);
            finish(&mut world);
        }
    }
}

#[test]
fn the_power_goes_off_while_the_disk_errs_and_what_was_told_stays_true() {
    for seed in 1..=2 {
        let mut whole = World::new();
        live(&mut whole, seed);
        for operation in 1..=whole.disk.operations() {
            for (later, cut) in
                [(1, Cut::Nothing), (1, Cut::Everything), (2, Cut::Some(operation)), (4, Cut::Nothing)]
            {
                let disk = FakeDisk::default();
                disk.fail_at(operation);
                disk.cut_at(operation + later);
                let mut world = World::on(disk);
                live(&mut world, seed);
                if !world.disk.is_off() {
                    continue;
                }
                world.restart(cut);
                finish(&mut world);
            }
        }
    }
}

#[test]
fn a_command_under_way_in_a_crash_is_unknown_or_sent_again_where_it_may_be() {
    for idempotent in [false, true] {
        let mut world = World::new();
        world.wire.mood = Mood::Lingers;
        let mut one = command(1);
        one.idempotent = idempotent;
        world.publish(one);
        world.wire.mood = Mood::Answers;
        world.wire.awake = false;
        world.restart(Cut::Nothing);
        world.wake();
        match idempotent {
            false => {
                assert_eq!(world.published, [(1, Status::Unknown)]);
                assert_eq!(world.wire.runs, [1]);
            }
            true => {
                assert_eq!(world.published, [(1, Status::Code(0x44))]);
                assert_eq!(world.wire.runs, [1, 1]);
            }
        }
        world.check();
    }
}

#[test]
fn damage_anywhere_costs_at_most_what_it_hit_and_runs_nothing_twice() {
    let mut world = World::new();
    world.wire.awake = false;
    for id in 1..=6 {
        world.publish(command(id));
    }
    let files = world.disk.files();
    let (folder, name, content) = files.iter().find(|(_, name, _)| name == "log").unwrap();
    for at in (0..content.len().min(4_096)).step_by(7) {
        let disk = world.disk.after_power_cut(Cut::Nothing);
        disk.put(*folder, name, at, &[content[at] ^ 0x55]);
        let mut world = World::on(disk);
        world.wake();
        let mut runs = world.wire.runs.clone();
        runs.dedup();
        assert_eq!(runs, world.wire.runs, "{at}");
    }
}
