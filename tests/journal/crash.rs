//! A power cut at every operation of a script, which keeps any part of the unsynced data.

use tombolo::journal::settings::WhenFull;
use tombolo::message::Lane;
use tombolo::splitmix::SplitMix64;

use tombolo_test_support::journal::disk::{Cut, FakeDisk};
use tombolo_test_support::journal::harness::{Rig, settings};

/// A life with everything in it: rolling over, trims, rejects, losses, recycling. Stops where the
/// power goes off.
pub fn live(rig: &mut Rig) {
    let mut random = SplitMix64::new(7);
    for round in 0..60u64 {
        for _ in 0..=random.below(4) {
            let length = 200 + random.below(4096) as usize;
            rig.append(Lane::Normal, length);
        }
        if random.below(2) == 0 {
            let length = 100 + random.below(1024) as usize;
            rig.append(Lane::High, length);
        }
        let acknowledged = rig.store.next_sequence(Lane::Normal) - 1;
        rig.commit_with(round % 7 == 6);
        if rig.disk.is_off() {
            return;
        }
        rig.maintain();
        match round % 5 {
            1 => rig.release(Lane::Normal, acknowledged.saturating_sub(4)),
            2 if acknowledged > 3 => rig.reject(Lane::Normal, acknowledged - 2),
            3 if acknowledged > 3 => rig.lose(Lane::Normal, acknowledged - 1),
            4 => rig.release(Lane::High, rig.store.next_sequence(Lane::High) / 2),
            _ => {}
        }
        if rig.disk.is_off() {
            return;
        }
    }
}

fn start(disk: FakeDisk) -> Rig {
    Rig::on(disk, settings(WhenFull::Refuse, 40), Default::default(), 1)
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_acknowledged_and_invents_nothing() {
    let mut whole = start(FakeDisk::default());
    live(&mut whole);
    let operations = whole.disk.operations();
    assert!(operations > 300, "{operations}");
    whole.check();
    for operation in 1..=operations {
        for cut in [Cut::Nothing, Cut::Everything, Cut::Some(operation), Cut::Some(operation * 31)] {
            let disk = FakeDisk::default();
            disk.cut_at(operation);
            let mut rig = start(disk);
            live(&mut rig);
            assert!(rig.disk.is_off());
            let left = rig.disk.after_power_cut(cut);
            let mut rig = rig.reopened_on(left);
            rig.check();
            // Life goes on, and once more all is there.
            for lane in Lane::ALL {
                rig.append(lane, 300);
                rig.append(lane, 3000);
            }
            assert_eq!(rig.commit(), [2, 2], "operation {operation}, {cut:?}");
            rig.maintain();
            let again = rig.disk.after_power_cut(Cut::Nothing);
            let rig = rig.reopened_on(again);
            rig.check();
        }
    }
}

#[test]
fn power_cuts_in_a_row_lose_nothing_acknowledged() {
    for seed in 1..=150u64 {
        let mut rig = start(FakeDisk::default());
        let mut random = SplitMix64::new(seed);
        for life in 0..8 {
            rig.disk.cut_at(1 + random.below(250));
            live(&mut rig);
            let left = rig.disk.after_power_cut(Cut::Some(seed * 100 + life));
            rig = rig.reopened_on(left);
            rig.check();
        }
    }
}

#[test]
fn recycled_segments_never_give_back_old_records() {
    // Lives on and on in few segments, everything released, and looks each time at what can be
    // read.
    let mut rig = Rig::new(settings(WhenFull::Refuse, 4));
    for round in 0..400u64 {
        let first = rig.append(Lane::Normal, 2000);
        rig.append(Lane::Normal, 1500);
        assert_eq!(rig.commit_with(round % 3 == 0), [0, 2]);
        rig.maintain();
        rig.release(Lane::Normal, first);
        if round % 20 == 19 {
            let left = rig.disk.after_power_cut(Cut::Some(round));
            rig = rig.reopened_on(left);
            rig.check();
        }
    }
    let files = rig.disk.files().len();
    assert!(files < 16, "{files} files for a lane of four segments");
}

#[test]
fn a_record_of_a_torn_first_commit_is_never_given_the_run_before() {
    for seed in 0..300 {
        let mut rig = start(FakeDisk::default());
        rig.append(Lane::Normal, 500);
        rig.commit();
        let left = rig.disk.after_power_cut(Cut::Nothing);
        let mut rig = rig.reopened_on(left);
        rig.append(Lane::Normal, 4300);
        rig.append(Lane::Normal, 8);
        rig.disk.cut_at(rig.disk.operations() + 1 + seed % 6);
        rig.commit();
        let left = rig.disk.after_power_cut(Cut::Some(seed * 7 + 1));
        rig.reopened_on(left).check();
    }
}

#[test]
fn torn_records_are_never_called_damaged_by_a_later_opening() {
    for seed in 1..300 {
        let mut rig = start(FakeDisk::default());
        rig.append(Lane::Normal, 100);
        rig.commit();
        let mut random = SplitMix64::new(seed);
        for life in 0..6 {
            for _ in 0..6 {
                rig.append(Lane::Normal, 700);
            }
            rig.disk.cut_at(rig.disk.operations() + 1 + random.below(7));
            rig.commit();
            rig.append(Lane::Normal, 700);
            rig.commit();
            let left = rig.disk.after_power_cut(Cut::Some(seed * 11 + life));
            rig = rig.reopened_on(left);
            rig.check();
        }
    }
}
