//! The power goes off, or the disk fails, at every single operation.

use tombolo_test_support::journal::disk::{Cut, FakeDisk};
use tombolo_test_support::session_store::harness::{Fake, Model, Rig, live};

const SEEDS: [u64; 2] = [3, 11];

fn start(disk: FakeDisk) -> Rig {
    Rig::on(Fake(disk), Model::default())
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_committed_and_brings_nothing_back() {
    for seed in [SEEDS[0]] {
        let mut whole = start(FakeDisk::default());
        live(&mut whole, seed);
        let operations = whole.disk.0.operations();
        assert!(operations > 60, "{operations}");
        assert!(whole.log.bytes_written() > 2 * whole.log.bytes(), "it was written anew on the way");
        whole.reopened().check();
        for operation in 1..=operations {
            for cut in [Cut::Nothing, Cut::Everything, Cut::Some(operation), Cut::Some(operation * 31)] {
                let disk = FakeDisk::default();
                disk.cut_at(operation);
                let mut rig = start(disk);
                live(&mut rig, seed);
                assert!(rig.disk.0.is_off());
                let left = rig.disk.0.after_power_cut(cut);
                let mut rig = rig.reopened_on(left);
                // Life goes on, and once more all is there.
                let number = rig.establish(300);
                rig.commit().unwrap();
                let left = rig.disk.0.after_power_cut(Cut::Nothing);
                let rig = rig.reopened_on(left);
                assert_eq!(rig.kept.last().unwrap().number, number);
                assert_eq!(rig.report.damaged, 0, "what was torn is gone");
            }
        }
    }
}

#[test]
fn power_cuts_in_a_row_bring_nothing_back() {
    for seed in 1..=40u64 {
        let mut rig = start(FakeDisk::default());
        for life in 0..8 {
            rig.disk.0.cut_at(1 + (seed * 7 + life * 13) % 90);
            live(&mut rig, seed * 100 + life);
            let left = rig.disk.0.after_power_cut(Cut::Some(seed * 1_000 + life));
            rig = rig.reopened_on(left);
        }
    }
}

#[test]
fn an_operation_that_fails_costs_nothing_once_the_disk_works_again() {
    for seed in SEEDS {
        let mut whole = start(FakeDisk::default());
        live(&mut whole, seed);
        for operation in 1..=whole.disk.0.operations() {
            let disk = FakeDisk::default();
            disk.fail_at(operation);
            let mut rig = start(disk);
            live(&mut rig, seed);
            // The last operation may be the one that failed.
            rig.commit().unwrap();
            assert!(rig.log.is_sound());
            let left = rig.disk.0.after_power_cut(Cut::Nothing);
            let standing = rig.standing();
            let rig = rig.reopened_on(left);
            let numbers: Vec<u64> = rig.kept.iter().map(|kept| kept.number).collect();
            assert_eq!(numbers.len(), standing.len());
            assert_eq!(rig.report.damaged, 0);
        }
    }
}

#[test]
fn a_full_disk_is_waited_for_and_leaves_no_half_files() {
    let mut rig = Rig::new();
    for _ in 0..100 {
        rig.establish(300);
    }
    rig.commit().unwrap();
    rig.disk.0.set_capacity(Some(rig.disk.content("log").unwrap().len()));
    for _ in 0..300 {
        rig.establish(300);
    }
    for _ in 0..3 {
        assert_eq!(rig.commit().unwrap_err().raw_os_error(), Some(28));
    }
    assert_eq!(rig.disk.names(), ["log"]);
    rig.disk.0.set_capacity(None);
    rig.commit().unwrap();
    assert_eq!(rig.log.len(), 400);
    assert_eq!(rig.reopened().kept.len(), 400);
}

#[test]
fn a_read_only_disk_gives_what_it_has() {
    let mut rig = Rig::new();
    let first = rig.establish(300);
    rig.commit().unwrap();
    rig.disk.0.set_read_only(true);
    let mut rig = rig.reopened();
    assert_eq!(rig.kept.len(), 1);
    rig.end(first);
    assert_eq!(rig.commit().unwrap_err().raw_os_error(), Some(30));
    rig.disk.0.set_read_only(false);
    rig.commit().unwrap();
    assert_eq!(rig.reopened().kept, []);
}
