//! Byte limits: the behaviour of a full lane and a full rejected store, and exact counters.

use tombolo::journal::settings::WhenFull;
use tombolo::journal::storage::Folder;
use tombolo::journal::{LossCause, RejectError};
use tombolo::message::Lane;

use tombolo_test_support::journal::disk::{Cut, FakeDisk};
use tombolo_test_support::journal::harness::{Rig, SEGMENT, settings};

/// But for the witness, whose two pages belong to no lane.
fn file_bytes(rig: &Rig) -> usize {
    rig.disk.files().iter().filter(|(folder, ..)| *folder != Folder::Top).map(|(.., bytes)| bytes.len()).sum()
}

#[test]
fn a_lane_that_refuses_takes_what_its_bound_holds_and_again_when_released() {
    let mut rig = Rig::new(settings(WhenFull::Refuse, 5));
    let mut stored = 0;
    for _ in 0..1000 {
        let room = rig.store.room(Lane::Normal);
        rig.append(Lane::Normal, 1000);
        let taken = rig.commit()[1];
        assert_eq!(taken == 1, room >= 1088, "room said {room}");
        let is_full = rig.store.lane_status(Lane::Normal).full;
        assert!(is_full || taken == 1, "a lane that refuses says that it is full");
        assert!(!is_full || stored >= 4 * 37, "and not before");
        rig.maintain();
        stored += taken;
    }
    // Five segments of 40,960 bytes for records, 1,088 each, less what a Checkpoint takes.
    assert_eq!(stored, 5 * 37);
    assert!(file_bytes(&rig) <= 5 * SEGMENT as usize + 2 * SEGMENT as usize);
    rig.check();
    rig.release(Lane::Normal, 50);
    rig.commit_with(true);
    rig.maintain();
    assert!(!rig.store.lane_status(Lane::Normal).full);
    for _ in 0..37 {
        rig.append(Lane::Normal, 1000);
        assert_eq!(rig.commit()[1], 1);
    }
    let left = rig.disk.after_power_cut(Cut::Nothing);
    rig.reopened_on(left).check();
}

#[test]
fn a_full_lane_still_trims_and_loses() {
    let mut rig = Rig::new(settings(WhenFull::Refuse, 4));
    for _ in 0..300 {
        rig.append(Lane::Normal, 1000);
        rig.commit();
    }
    let last = rig.store.next_sequence(Lane::Normal) - 1;
    for sequence in (1..last).step_by(2) {
        rig.lose(Lane::Normal, sequence);
        rig.commit();
    }
    rig.release(Lane::Normal, last / 2);
    rig.commit_with(true);
    let left = rig.disk.after_power_cut(Cut::Nothing);
    let rig = rig.reopened_on(left);
    // The record behind it is lost, so it has left too.
    assert_eq!((last, rig.store.view(Lane::Normal).released), (148, 75));
    let lost = rig.store.lane_status(Lane::Normal).lost[LossCause::Expired as usize - 1];
    assert_eq!(lost, (1..last).step_by(2).count() as u64);
    let (got, _) = rig.read(Lane::Normal);
    assert!(got.iter().all(|got| got.id.sequence.is_multiple_of(2)));
}

fn overflow(rig: &mut Rig, rounds: u64) {
    for round in 0..rounds {
        rig.append(Lane::Normal, 700 + round as usize % 900);
        rig.append(Lane::Normal, 1000);
        if round % 10 == 3 {
            rig.append(Lane::High, 2000);
        }
        rig.commit();
        if rig.disk.is_off() {
            return;
        }
        rig.maintain();
        if round % 40 == 39 {
            // Some of them have left in the regular way.
            let view = rig.store.view(Lane::Normal);
            rig.release(Lane::Normal, view.released + 7);
        }
    }
}

fn dropped(rig: &Rig) -> u64 {
    rig.store.lane_status(Lane::Normal).lost[LossCause::Dropped as usize - 1]
}

#[test]
fn dropping_the_oldest_is_accounted_for_exactly() {
    let mut rig = Rig::new(settings(WhenFull::DropOldest, 5));
    assert!(!rig.store.lane_status(Lane::Normal).full);
    overflow(&mut rig, 500);
    let status = rig.store.lane_status(Lane::Normal);
    assert!(status.full && status.drops_oldest);
    let (got, _) = rig.read(Lane::Normal);
    let losses = rig.store.losses(Lane::Normal);
    let named: u64 = losses.iter().map(|loss| loss.count).sum();
    assert_eq!(named, dropped(&rig));
    let released = rig.model[1].attempts.len() as u64 - named - got.len() as u64;
    assert!((7..=12 * 7).contains(&released), "{released} left in the regular way");
    for (sequence, _) in rig.model[1].must_be_there() {
        let read = got.iter().filter(|got| got.id.sequence == sequence).count();
        let named = losses
            .iter()
            .filter(|loss| (loss.first.sequence..=loss.last.sequence).contains(&sequence))
            .count();
        assert_eq!(read + named, 1, "record {sequence}");
    }
    assert!(got.len() > 100);
    assert!(file_bytes(&rig) <= 13 * SEGMENT as usize);
    let before = dropped(&rig);
    let left = rig.disk.after_power_cut(Cut::Nothing);
    let rig = rig.reopened_on(left);
    rig.check();
    assert_eq!(dropped(&rig), before);
}

#[test]
fn a_power_cut_while_dropping_leaves_each_record_either_stored_or_named() {
    let start = || Rig::on(FakeDisk::default(), settings(WhenFull::DropOldest, 4), Default::default(), 1);
    let mut whole = start();
    overflow(&mut whole, 150);
    assert!(dropped(&whole) > 50);
    for operation in (1..=whole.disk.operations()).filter(|operation| operation % 3 != 1) {
        for cut in [Cut::Nothing, Cut::Everything, Cut::Some(operation)] {
            let mut rig = start();
            rig.disk.cut_at(operation);
            overflow(&mut rig, 150);
            let left = rig.disk.after_power_cut(cut);
            rig.reopened_on(left).check();
        }
    }
}

#[test]
fn a_batch_larger_than_a_small_lane_drops_its_own_beginning() {
    let mut rig = Rig::new(settings(WhenFull::DropOldest, 4));
    for _ in 0..600 {
        rig.append(Lane::Normal, 1000);
    }
    assert_eq!(rig.commit(), [0, 600]);
    let (got, _) = rig.read(Lane::Normal);
    assert_eq!(got.len() as u64 + dropped(&rig), 600);
    assert_eq!(got.last().unwrap().id.sequence, 600);
    rig.check();
}

#[test]
fn a_full_rejected_store_stops_the_trim_and_an_emptied_one_lets_it_go_on() {
    let mut rig = Rig::new(settings(WhenFull::Refuse, 40));
    for _ in 0..30 {
        for _ in 0..10 {
            rig.append(Lane::Normal, 1500);
        }
        assert_eq!(rig.commit()[1], 10);
        rig.maintain();
    }
    for sequence in 1..=300 {
        rig.reject(Lane::Normal, sequence);
    }
    rig.release(Lane::Normal, 300);
    rig.commit_with(true);
    let status = rig.store.rejected_status();
    assert_eq!(status.trouble, Some(RejectError::Full));
    let kept = status.records;
    assert!((100..200).contains(&kept), "{kept} in 256 KiB");
    assert_eq!(rig.store.view(Lane::Normal).released, kept);
    assert_eq!(rig.read(Lane::Normal).0.len() as u64, 300 - kept);
    let left = rig.disk.after_power_cut(Cut::Nothing);
    let reopened = Rig::on(left, rig.settings.clone(), rig.model.clone(), 2);
    assert_eq!(reopened.store.rejected_status().records, kept);
    assert_eq!(reopened.read(Lane::Normal).0.len() as u64, 300 - kept);
    // Its owner gives some of them up.
    let numbers: Vec<u64> = rig.store.rejected().map(|entry| entry.number).take(50).collect();
    for number in numbers {
        assert!(rig.store.discard_rejected(rig.now, number));
    }
    rig.commit_with(true);
    rig.now += std::time::Duration::from_secs(120);
    rig.commit_with(true);
    let status = rig.store.lane_status(Lane::Normal);
    assert_eq!(status.lost[LossCause::Discarded as usize - 1], 50);
    assert_eq!(rig.store.rejected_status().records, kept);
    assert_eq!(rig.store.view(Lane::Normal).released, kept + 50);
    let left = rig.disk.after_power_cut(Cut::Nothing);
    let reopened = rig.reopened_on(left);
    assert_eq!(reopened.store.rejected_status().records, kept);
    assert_eq!(reopened.store.losses(Lane::Normal).iter().map(|loss| loss.count).sum::<u64>(), 50);
}

#[test]
fn a_rejected_record_keeps_its_content_reason_and_id() {
    let mut rig = Rig::new(settings(WhenFull::Refuse, 10));
    rig.append(Lane::High, 300);
    rig.append(Lane::High, 400);
    rig.commit();
    rig.reject(Lane::High, 2);
    rig.commit();
    let entry = *rig.store.rejected().next().unwrap();
    assert_eq!((entry.lane, entry.reason, entry.id), (Lane::High, 0x87, rig.store.id_of(Lane::High, 2)));
    let (_, body) = rig.store.read_rejected(entry.number).unwrap();
    let reading = tombolo::journal::record::decode(&body).unwrap();
    assert_eq!(reading.content.payload, rig.model[0].attempts[&2][0].payload);
    // It is not read again, though the record before it has not left.
    assert_eq!(rig.read(Lane::High).0.len(), 1);
    let left = rig.disk.after_power_cut(Cut::Nothing);
    let rig = rig.reopened_on(left);
    assert_eq!(rig.read(Lane::High).0.len(), 1);
    rig.check();
}

#[test]
fn a_trim_no_commit_carries_is_committed_after_a_second_or_a_thousand_records() {
    use std::time::Duration;
    let mut rig = Rig::new(settings(WhenFull::Refuse, 40));
    for _ in 0..1200 {
        rig.append(Lane::Normal, 10);
    }
    assert_eq!(rig.commit(), [0, 1200]);
    rig.maintain();
    assert_eq!(rig.store.deadline(rig.now), None, "nothing to do");
    let released = |rig: &Rig| {
        let left = rig.disk.after_power_cut(Cut::Nothing);
        tombolo_test_support::journal::harness::open(&left, &rig.settings, 9, rig.now)
            .0
            .view(Lane::Normal)
            .released
    };
    rig.release(Lane::Normal, 5);
    assert_eq!(rig.store.deadline(rig.now), Some(rig.now + Duration::from_secs(1)));
    rig.commit();
    assert_eq!(released(&rig), 0);
    rig.release(Lane::Normal, 9);
    rig.now += Duration::from_secs(1);
    rig.commit();
    assert_eq!(released(&rig), 9);
    // A commit that is made anyway carries it.
    rig.release(Lane::Normal, 20);
    rig.append(Lane::Normal, 10);
    rig.commit();
    assert_eq!(released(&rig), 20);
    rig.release(Lane::Normal, 1020);
    assert_eq!(rig.store.deadline(rig.now), Some(rig.now));
    rig.commit();
    assert_eq!(released(&rig), 1020);
}

/// Appends records in batches of 7 until the lane takes none, at most 700; how many it took.
fn fill(rig: &mut Rig) -> usize {
    let mut stored = 0;
    for _ in 0..100 {
        for _ in 0..7 {
            rig.append(Lane::Normal, 1000);
        }
        stored += rig.commit()[1];
        rig.maintain();
    }
    stored
}

/// A lane with records in segments of `segments` times the usual size, whose bound is then lowered
/// to four of the usual size.
fn lowered(when_full: WhenFull, segments: u32, records: usize) -> Rig {
    let mut large = settings(when_full, 64);
    large.segment_bytes = SEGMENT * segments;
    let mut rig = Rig::new(large);
    for _ in 0..records {
        rig.append(Lane::Normal, 1000);
        assert_eq!(rig.commit()[1], 1);
        rig.maintain();
    }
    rig.settings = settings(when_full, 4);
    rig
}

fn restarted(rig: Rig) -> Rig {
    let left = rig.disk.after_power_cut(Cut::Everything);
    let mut rig = rig.reopened_on(left);
    rig.maintain();
    rig
}

fn lane_bytes(rig: &Rig) -> u64 {
    let of_lane = |(folder, ..): &(Folder, String, Vec<u8>)| *folder == Folder::Normal;
    rig.disk.files().iter().filter(|file| of_lane(file)).map(|(.., bytes)| bytes.len() as u64).sum()
}

#[test]
fn a_lane_above_a_lowered_bound_does_not_grow_with_every_restart() {
    for (segments, records) in [(16, 50), (16, 2000), (4, 20), (4, 400)] {
        let mut rig = lowered(WhenFull::Refuse, segments, records);
        rig = restarted(rig);
        fill(&mut rig);
        rig = restarted(rig);
        fill(&mut rig);
        // Beyond what was there when the bound was lowered, it has one segment, for trims alone.
        let most = lane_bytes(&rig) + u64::from(SEGMENT);
        let mut stored = 0;
        for _ in 0..20 {
            rig = restarted(rig);
            let released = rig.store.view(Lane::Normal).released;
            rig.release(Lane::Normal, released + 1);
            rig.commit_with(true);
            rig.maintain();
            stored += fill(&mut rig);
            assert!(lane_bytes(&rig) <= most, "{} bytes, at most {most}", lane_bytes(&rig));
            assert_eq!(rig.store.lane_status(Lane::Normal).file_bytes, lane_bytes(&rig));
            assert_eq!(rig.store.room(Lane::Normal), 0);
        }
        assert_eq!(stored, 0, "segments of {segments}, {records} records");
        rig.check();
        // The last of the old segments may have room left, for half a new one at least; once it
        // is used up, the new bound holds.
        for least in [18, 2 * 37] {
            rig.release(Lane::Normal, rig.store.next_sequence(Lane::Normal) - 1);
            rig.commit_with(true);
            rig.maintain();
            let stored = fill(&mut rig);
            assert!(stored >= least, "{stored} of segments of {segments}, {records} records");
            while fill(&mut rig) > 0 {}
        }
        let bytes = lane_bytes(&rig);
        assert!(bytes <= 4 * u64::from(SEGMENT), "{bytes} bytes, segments of {segments}, {records} records");
        restarted(rig).check();
    }
}

#[test]
fn a_lane_that_drops_keeps_a_lowered_bound_over_restarts() {
    let mut rig = lowered(WhenFull::DropOldest, 4, 400);
    for _ in 0..5 {
        rig = restarted(rig);
        assert_eq!(fill(&mut rig), 700);
        assert!(lane_bytes(&rig) <= 4 * u64::from(SEGMENT), "{} bytes", lane_bytes(&rig));
        rig.check();
    }
}

#[test]
fn an_empty_lane_takes_records_though_its_last_segment_is_larger_than_the_bound() {
    // After a restart the segments are small; after a reload they are as large as before.
    for restart in [true, false] {
        let mut rig = lowered(WhenFull::Refuse, 16, 50);
        match restart {
            true => rig = restarted(rig),
            false => rig.store.set_bounds(rig.settings.lanes),
        }
        while fill(&mut rig) > 0 {}
        let before = lane_bytes(&rig);
        for _ in 0..3 {
            assert!(rig.store.room(Lane::Normal) < 1088);
            rig.release(Lane::Normal, rig.store.next_sequence(Lane::Normal) - 1);
            rig.commit_with(true);
            rig.maintain();
            let room = rig.store.room(Lane::Normal);
            assert!(room >= 37 * 1088, "restart {restart}: room for {room}");
            assert!(fill(&mut rig) >= 37);
            while fill(&mut rig) > 0 {}
            assert!(lane_bytes(&rig) <= before, "{} bytes, before {before}", lane_bytes(&rig));
            rig.check();
        }
        restarted(rig).check();
    }
}

#[test]
fn a_drained_lane_keeps_a_lowered_bound_from_the_next_record_on() {
    for when_full in [WhenFull::Refuse, WhenFull::DropOldest] {
        let drained = || {
            let mut rig = lowered(when_full, 16, 50);
            rig = restarted(rig);
            rig.release(Lane::Normal, rig.store.next_sequence(Lane::Normal) - 1);
            rig.commit_with(true);
            rig.maintain();
            rig
        };
        let mut rig = drained();
        let bound = 4 * u64::from(SEGMENT);
        assert!(lane_bytes(&rig) > bound, "its only segment is larger than all of the bound");
        rig.append(Lane::Normal, 1000);
        assert_eq!(rig.commit()[1], 1);
        rig.maintain();
        assert!(lane_bytes(&rig) <= bound, "{} bytes", lane_bytes(&rig));
        assert_eq!(rig.store.lane_status(Lane::Normal).lost, [0; 5]);
        rig.check();
        restarted(rig).check();

        // Without a file for another segment it goes on in this one.
        let mut rig = drained();
        rig.disk.fail_at(rig.disk.operations() + 1);
        rig.append(Lane::Normal, 1000);
        assert_eq!(rig.commit()[1], 1);
        assert!(lane_bytes(&rig) > bound, "the failing operation was that of another file");
        rig.check();

        // The power fails at each step.
        for cut in [Cut::Nothing, Cut::Everything, Cut::Some(1), Cut::Some(2)] {
            for step in 1.. {
                let mut rig = drained();
                rig.disk.cut_at(rig.disk.operations() + step);
                rig.append(Lane::Normal, 1000);
                rig.commit();
                rig.maintain();
                let is_done = !rig.disk.is_off();
                let left = rig.disk.after_power_cut(cut);
                let mut rig = rig.reopened_on(left);
                rig.check();
                rig.append(Lane::Normal, 1000);
                assert_eq!(rig.commit()[1], 1, "{cut:?}, step {step}");
                rig.check();
                if is_done {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_large_segment_that_cannot_be_read_counts_with_its_size() {
    let rig = lowered(WhenFull::Refuse, 16, 2000);
    let left = rig.disk.after_power_cut(Cut::Everything);
    let name =
        left.files().into_iter().find(|(folder, ..)| *folder == Folder::Normal).expect("there is one").1;
    left.make_unopenable(Folder::Normal, &name);
    let rig = rig.reopened_on(left);
    let status = rig.store.lane_status(Lane::Normal);
    assert_eq!((status.unopened, status.file_bytes), (1, lane_bytes(&rig)));
}
