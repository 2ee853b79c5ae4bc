//! The disk fails, is full or read-only for a while: stored records stay, new records are refused,
//! and the journal recovers without a restart.

use std::time::Duration;

use tombolo::journal::settings::WhenFull;
use tombolo::journal::storage::StorageError;
use tombolo::message::Lane;

use tombolo_test_support::journal::disk::{Cut, FakeDisk};
use tombolo_test_support::journal::harness::{Rig, SEGMENT, settings};

fn rig() -> Rig {
    let mut rig = Rig::new(settings(WhenFull::Refuse, 40));
    for _ in 0..3 {
        rig.append(Lane::Normal, 500);
        assert_eq!(rig.commit(), [0, 1]);
    }
    rig.maintain();
    rig
}

#[test]
fn a_failed_sync_fails_its_records_and_the_next_commit_is_in_another_segment() {
    let mut rig = rig();
    rig.disk.fail_syncs(1);
    rig.append(Lane::Normal, 500);
    rig.append(Lane::Normal, 500);
    assert_eq!(rig.commit(), [0, 0]);
    assert_eq!(rig.append(Lane::Normal, 500), 4, "the failed sequences are given again");
    assert_eq!(rig.commit(), [0, 1]);
    assert_eq!(rig.store.view(Lane::Normal).sealed.len(), 1);
    assert_eq!(rig.read(Lane::Normal).0.len(), 4);
    for cut in [Cut::Nothing, Cut::Everything] {
        let left = rig.disk.after_power_cut(cut);
        let reopened = Rig::on(left, rig.settings.clone(), rig.model.clone(), 2);
        reopened.check();
        assert_eq!(reopened.read(Lane::Normal).0.len(), 4);
    }
}

#[test]
fn a_failed_write_does_as_a_failed_sync() {
    let mut rig = rig();
    rig.disk.fail_writes(1);
    rig.append(Lane::Normal, 500);
    assert_eq!(rig.commit(), [0, 0]);
    rig.append(Lane::Normal, 500);
    assert_eq!(rig.commit(), [0, 1]);
    let left = rig.disk.after_power_cut(Cut::Everything);
    rig.reopened_on(left).check();
}

#[test]
fn a_disk_that_keeps_failing_is_left_alone_for_longer_and_longer_and_then_taken_up_again() {
    let mut rig = rig();
    rig.disk.fail_syncs(u32::MAX);
    for _ in 0..2 {
        rig.append(Lane::Normal, 500);
        assert_eq!(rig.commit(), [0, 0]);
    }
    assert!(rig.store.is_failing(Lane::Normal));
    assert!(!rig.store.is_failing(Lane::High));
    assert_eq!(rig.read(Lane::Normal).0.len(), 3, "what is stored can be read");
    let (begin, mut tries) = (rig.now, 0);
    while rig.now < begin + Duration::from_secs(600) {
        rig.now = rig.now.max(rig.store.deadline(rig.now).unwrap());
        rig.commit();
        rig.maintain();
        tries += 1;
    }
    assert!((15..60).contains(&tries), "{tries} tries in ten minutes");
    rig.disk.fail_syncs(0);
    rig.now += Duration::from_secs(60);
    rig.commit();
    assert!(!rig.store.is_failing(Lane::Normal));
    rig.append(Lane::Normal, 500);
    assert_eq!(rig.commit(), [0, 1]);
    let left = rig.disk.after_power_cut(Cut::Nothing);
    rig.reopened_on(left).check();
}

#[test]
fn a_read_only_disk_refuses_gives_what_it_has_and_heals() {
    let mut rig = rig();
    rig.disk.set_read_only(true);
    rig.append(Lane::Normal, 500);
    assert_eq!(rig.commit(), [0, 0]);
    assert_eq!(rig.store.trouble(Lane::Normal), Some(StorageError::ReadOnly));
    assert!(rig.store.is_failing(Lane::Normal));
    rig.maintain();
    rig.release(Lane::Normal, 1);
    rig.now += Duration::from_secs(2);
    rig.commit();
    assert_eq!(rig.read(Lane::Normal).0.len(), 2);
    let reopened = Rig::on(rig.disk.clone(), rig.settings.clone(), rig.model.clone(), 2);
    reopened.check();
    rig.disk.set_read_only(false);
    rig.now += Duration::from_secs(5);
    rig.commit();
    rig.append(Lane::Normal, 500);
    assert_eq!(rig.commit(), [0, 1]);
    let left = rig.disk.after_power_cut(Cut::Nothing);
    rig.reopened_on(left).check();
}

#[test]
fn on_a_full_disk_it_refuses_still_trims_and_recovers() {
    let mut rig = rig();
    rig.disk.set_capacity(Some(rig.disk.files().iter().map(|(.., bytes)| bytes.len()).sum()));
    let mut stored = 3;
    for _ in 0..200 {
        rig.append(Lane::Normal, 1000);
        stored += rig.commit()[1];
        rig.maintain();
    }
    assert!(stored < 150, "{stored} records in three segments");
    assert_eq!(rig.store.trouble(Lane::Normal), Some(StorageError::Full));
    assert_eq!(rig.store.room(Lane::Normal) / 1100, 0, "the handle would refuse");
    // Trims find room, one at a time, for as long as the reserve lasts; here each is forced.
    for through in 1..stored as u64 / 2 {
        rig.release(Lane::Normal, through);
        rig.commit_with(true);
        rig.maintain();
    }
    let left = rig.disk.after_power_cut(Cut::Nothing);
    let reopened = Rig::on(left, rig.settings.clone(), rig.model.clone(), 2);
    reopened.check();
    assert_eq!(reopened.store.view(Lane::Normal).released, stored as u64 / 2 - 1);
    // What was released makes room, though the disk is as full as before.
    rig.release(Lane::Normal, stored as u64);
    rig.now += Duration::from_secs(60);
    rig.commit_with(true);
    rig.maintain();
    rig.now += Duration::from_secs(60);
    rig.commit_with(true);
    rig.maintain();
    rig.append(Lane::Normal, 1000);
    assert_eq!(rig.commit()[1], 1);
    let left = rig.disk.after_power_cut(Cut::Nothing);
    rig.reopened_on(left).check();
}

#[test]
fn a_disk_full_from_the_start_is_no_reason_not_to_open() {
    let disk = FakeDisk::default();
    disk.set_capacity(Some(10));
    let mut rig = Rig::on(disk, settings(WhenFull::Refuse, 10), Default::default(), 1);
    rig.maintain();
    rig.append(Lane::High, 100);
    assert_eq!(rig.commit(), [0, 0]);
    assert_eq!(rig.store.room(Lane::High), 0);
    rig.disk.set_capacity(None);
    rig.now += Duration::from_secs(60);
    rig.maintain();
    rig.append(Lane::High, 100);
    assert_eq!(rig.commit(), [1, 0]);
    assert!(rig.store.room(Lane::High) > u64::from(SEGMENT));
}

#[test]
fn a_single_failure_of_any_operation_loses_nothing_acknowledged() {
    let start = || Rig::on(FakeDisk::default(), settings(WhenFull::Refuse, 40), Default::default(), 1);
    let mut whole = start();
    crate::crash::live(&mut whole);
    let operations = whole.disk.operations();
    for operation in 1..=operations {
        let mut rig = start();
        rig.disk.fail_at(operation);
        crate::crash::live(&mut rig);
        rig.check();
        for cut in [Cut::Nothing, Cut::Everything, Cut::Some(operation)] {
            let left = rig.disk.after_power_cut(cut);
            Rig::on(left, rig.settings.clone(), rig.model.clone(), 2).check();
        }
        // And it works on.
        rig.now += Duration::from_secs(2);
        rig.commit();
        rig.append(Lane::Normal, 100);
        rig.append(Lane::High, 100);
        assert_eq!(rig.commit(), [1, 1], "operation {operation}");
    }
}

/// Fills the rejected store with what is given up again, until it has to be written anew; then goes
/// on.
fn rewrite_rejected(rig: &mut Rig) {
    for round in 0..8 {
        let first = rig.store.next_sequence(Lane::Normal);
        for _ in 0..20 {
            rig.append(Lane::Normal, 1500);
        }
        for sequence in first..first + rig.commit()[1] as u64 {
            rig.reject(Lane::Normal, sequence);
        }
        rig.maintain();
        rig.now += Duration::from_secs(2);
        rig.commit_with(true);
        if round < 6 {
            let numbers: Vec<u64> = rig.store.rejected().map(|entry| entry.number).skip(3).collect();
            for number in numbers {
                let entry = *rig.store.rejected().find(|entry| entry.number == number).unwrap();
                rig.model[entry.lane.index()].losing.insert(entry.id.sequence);
                rig.store.discard_rejected(rig.now, number);
            }
            rig.commit_with(true);
        }
        if rig.disk.is_off() {
            return;
        }
    }
}

#[test]
fn a_failure_or_a_power_cut_while_the_rejected_store_is_written_anew_costs_nothing() {
    let start = || Rig::on(FakeDisk::default(), settings(WhenFull::Refuse, 40), Default::default(), 1);
    let mut whole = start();
    rewrite_rejected(&mut whole);
    let logs = whole.disk.files().into_iter().filter(|(_, name, _)| name.ends_with(".log")).count();
    assert_eq!(logs, 1);
    assert!(whole.disk.files().iter().any(|(_, name, _)| name == "0000000000000002.log"));
    for operation in 1..=whole.disk.operations() {
        for (power, cut) in [(true, Cut::Some(operation)), (false, Cut::Nothing), (false, Cut::Everything)] {
            let mut rig = start();
            if power {
                rig.disk.cut_at(operation);
            } else {
                rig.disk.fail_at(operation);
            }
            rewrite_rejected(&mut rig);
            let left = rig.disk.after_power_cut(cut);
            rig.reopened_on(left).check();
        }
    }
}

/// Does what the journal thread does, at each deadline until `end`.
fn pass_until(rig: &mut Rig, end: std::time::Instant) {
    while let Some(at) = rig.store.deadline(rig.now).filter(|at| *at <= end) {
        rig.now = rig.now.max(at);
        if rig.store.is_commit_due(rig.now) {
            rig.commit();
        }
        rig.maintain();
    }
    rig.now = rig.now.max(end);
}

#[test]
fn a_full_disk_is_used_again_within_seconds_and_is_not_written_to_see_that() {
    let mut rig = rig();
    let used: usize = rig.disk.files().iter().map(|(.., bytes)| bytes.len()).sum();
    rig.disk.set_capacity(Some(used + 1000));
    let mut refused = false;
    for _ in 0..200 {
        rig.append(Lane::Normal, 1000);
        refused |= rig.commit()[1] == 0;
        rig.maintain();
    }
    assert!(refused && rig.store.refuses(Lane::Normal));
    for minutes in [10, 17, 30] {
        let end = rig.now + Duration::from_secs(minutes * 60);
        pass_until(&mut rig, end);
        // A minute is the back-off: making a file, a write that fails, and its deletion.
        let before = rig.disk.operations();
        let end = rig.now + Duration::from_secs(600);
        pass_until(&mut rig, end);
        let written = rig.disk.operations() - before;
        assert!((10..=60).contains(&written), "{written} operations in ten minutes");
        assert!(rig.store.refuses(Lane::Normal));
        rig.disk.set_capacity(None);
        let end = rig.now + Duration::from_secs(5);
        pass_until(&mut rig, end);
        assert!(!rig.store.refuses(Lane::Normal), "after 5 s");
        rig.append(Lane::Normal, 1000);
        assert_eq!(rig.commit()[1], 1);
        let used: usize = rig.disk.files().iter().map(|(.., bytes)| bytes.len()).sum();
        rig.disk.set_capacity(Some(used + 1000));
        for _ in 0..500 {
            rig.append(Lane::Normal, 1000);
            rig.commit();
            rig.maintain();
        }
        assert!(rig.store.refuses(Lane::Normal));
    }
    rig.check();
}
