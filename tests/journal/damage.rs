//! Damage of every kind: the scan continues after it, each record is either read back or reported
//! as lost, and no record is invented.

use std::collections::BTreeSet;

use tombolo::journal::LossCause;
use tombolo::journal::settings::WhenFull;
use tombolo::journal::storage::{Folder, Storage};
use tombolo::message::Lane;
use tombolo::splitmix::SplitMix64;

use tombolo_test_support::journal::disk::{Cut, FakeDisk};
use tombolo_test_support::journal::harness::{Rig, read_all, settings};

const LANE: Lane = Lane::Normal;

/// Four segments of records, three of them sealed, some of the oldest released, closed in order.
fn written() -> Rig {
    let mut rig = Rig::new(settings(WhenFull::Refuse, 20));
    for round in 0..40u64 {
        for n in 0..5 {
            rig.append(LANE, 300 + (round * 7 + n * 131) as usize % 900);
        }
        assert_eq!(rig.commit()[1], 5);
        rig.maintain();
        if round == 30 {
            rig.release(LANE, 3);
        }
    }
    rig.store.ask_checkpoints();
    rig.commit_with(true);
    let left = rig.disk.after_power_cut(Cut::Nothing);
    rig.reopened_on(left)
}

fn copy(rig: &Rig) -> FakeDisk {
    copy_of(&rig.disk)
}

fn copy_of(disk: &FakeDisk) -> FakeDisk {
    disk.after_power_cut(Cut::Nothing)
}

/// The files in use, the newest last.
fn in_use(rig: &Rig) -> Vec<String> {
    let view = rig.store.view(LANE);
    let active = view.active.iter().map(|active| active.segment.name());
    view.sealed.iter().map(|segment| segment.name()).chain(active).collect()
}

/// Opens `disk`, reads it all, and has what the reading finds missing named. Each record from 4 to
/// 200 must then be read back as it was written or be named, once; returns the sequences that are
/// lost.
fn account(rig: &Rig, disk: FakeDisk) -> BTreeSet<u64> {
    account_through(rig, disk, 200)
}

fn account_through(rig: &Rig, disk: FakeDisk, last: u64) -> BTreeSet<u64> {
    let mut rig = Rig::on(disk, rig.settings.clone(), rig.model.clone(), 9);
    let (_, lost) = rig.read(LANE);
    for (first, last) in lost {
        rig.store.lose(rig.now, LANE, first, last, LossCause::Damaged);
    }
    rig.commit_with(true);
    let (got, lost) = rig.read(LANE);
    assert_eq!(lost, [], "what is named is not met again");
    let read: BTreeSet<u64> = got.iter().map(|got| got.id.sequence).collect();
    assert_eq!(read.len(), got.len());
    for got in got {
        let known = &rig.model[LANE.index()].attempts[&got.id.sequence][0];
        assert!(known.payload == got.payload && known.run == got.id.run, "{:?} is made up", got.id);
    }
    let mut named = BTreeSet::new();
    let mut count = 0;
    for loss in rig.store.losses(LANE) {
        assert!(matches!(loss.cause, LossCause::Damaged | LossCause::Torn), "{loss:?}");
        count += loss.count;
        named.extend(loss.first.sequence..=loss.last.sequence);
    }
    assert_eq!(count, named.len() as u64);
    assert!(named.is_disjoint(&read));
    // What was found is not found again.
    let again = rig.disk.after_power_cut(Cut::Nothing);
    let again = Rig::on(again, rig.settings.clone(), rig.model.clone(), 10);
    assert_eq!(again.store.losses(LANE), rig.store.losses(LANE));
    let released = rig.store.view(LANE).released;
    (4.max(if named.is_empty() { 4 } else { 1 })..=last)
        .filter(|sequence| *sequence > released || named.contains(sequence))
        .filter(|sequence| !read.contains(sequence))
        .inspect(|sequence| assert!(named.contains(sequence), "record {sequence} is gone without a word"))
        .collect()
}

#[test]
fn without_damage_nothing_is_lost() {
    let rig = written();
    assert!(in_use(&rig).len() >= 4);
    assert_eq!(account(&rig, copy(&rig)), BTreeSet::new());
}

#[test]
fn a_flipped_bit_costs_at_most_the_record_it_is_in() {
    let rig = written();
    let names = in_use(&rig);
    let mut random = SplitMix64::new(5);
    for _ in 0..1500 {
        let disk = copy(&rig);
        let name = &names[random.below(names.len() as u64) as usize];
        // Bits of frames, mostly, and of everything else too.
        let limit = if random.below(2) == 0 { 50_000 } else { 65_536 };
        disk.flip(Folder::Normal, name, random.below(limit * 8) as usize);
        let lost = account(&rig, disk);
        assert!(lost.len() <= 1, "{lost:?}");
    }
}

#[test]
fn destroyed_sectors_cost_the_records_in_them_and_no_others() {
    let rig = written();
    let names = in_use(&rig);
    let mut random = SplitMix64::new(6);
    for round in 0..300 {
        let disk = copy(&rig);
        let name = &names[random.below(names.len() as u64) as usize];
        let count = 1 + random.below(5) as usize;
        for _ in 0..count {
            // Behind the header block: that has a test of its own.
            let sector = (16 + random.below(112) as usize) * 512;
            match round % 3 {
                0 => disk.put(Folder::Normal, name, sector, &[0; 512]),
                1 => disk.put(Folder::Normal, name, sector, &[0xa5; 512]),
                _ => disk.make_unreadable(Folder::Normal, name, sector),
            }
        }
        // A sector touches at most four of the smallest records; unreadable ones take their 4 KiB
        // page along. What was at the very end of the newest segment cannot be known.
        let newest = *name == names[names.len() - 1];
        let lost = account_through(&rig, disk, if newest { 160 } else { 200 });
        assert!(lost.len() <= count * if round % 3 == 2 { 14 } else { 4 }, "{lost:?}");
    }
}

#[test]
fn footers_destroyed_cost_nothing_but_a_scan() {
    let rig = written();
    let disk = copy(&rig);
    for name in in_use(&rig) {
        disk.put(Folder::Normal, &name, 65_536 - 8192, &[0xff; 600]);
    }
    let reopened = Rig::on(copy(&rig), rig.settings.clone(), rig.model.clone(), 3);
    assert_eq!(reopened.report.lanes[LANE.index()].scanned, 0);
    let reopened = Rig::on(disk.after_power_cut(Cut::Nothing), rig.settings.clone(), rig.model.clone(), 3);
    assert!(reopened.report.lanes[LANE.index()].scanned >= 3);
    assert_eq!(account(&rig, disk), BTreeSet::new());
}

#[test]
fn a_file_cut_short_costs_what_was_behind_the_cut() {
    let rig = written();
    let names = in_use(&rig);
    for name in &names {
        for length in [0, 100, 4096, 8193, 20_000, 57_000, 57_344, 60_000] {
            let disk = copy(&rig);
            disk.truncate(Folder::Normal, name, length);
            let reopened = Rig::on(copy_of(&disk), rig.settings.clone(), rig.model.clone(), 3);
            let report = &reopened.report.lanes[LANE.index()];
            let said: Vec<&String> = report.damaged_files.iter().chain(&report.cut_files).collect();
            assert_eq!(said, [name]);
            // What was at the end of the newest cannot be known.
            let newest = *name == names[names.len() - 1];
            let lost = account_through(&rig, disk, if newest { 150 } else { 200 });
            assert!(lost.len() < 70, "{name} {length}: {}", lost.len());
        }
    }
}

#[test]
fn a_header_survives_in_its_copy_and_a_segment_without_either_is_set_aside_and_accounted_for() {
    let rig = written();
    let names = in_use(&rig);
    for name in &names {
        for copy_at in [0, 4096] {
            let disk = copy(&rig);
            disk.put(Folder::Normal, name, copy_at, &[0xff; 512]);
            assert_eq!(account(&rig, disk), BTreeSet::new());
        }
    }
    let disk = copy(&rig);
    disk.put(Folder::Normal, &names[1], 0, &[0xff; 8192]);
    let reopened = Rig::on(disk.after_power_cut(Cut::Nothing), rig.settings.clone(), rig.model.clone(), 3);
    assert_eq!(reopened.report.lanes[LANE.index()].damaged_files, [names[1].clone()]);
    let all = rig.disk.clone();
    let (store, _) = tombolo_test_support::journal::harness::open(&all, &rig.settings, 4, rig.now);
    let segment = store.view(LANE).sealed[1].clone();
    let expected: BTreeSet<u64> = (segment.first_sequence..=segment.last_sequence).collect();
    assert_eq!(account(&rig, disk), expected);
}

#[test]
fn a_segment_somebody_deleted_is_accounted_for() {
    let rig = written();
    let names = in_use(&rig);
    for name in &names[..names.len() - 1] {
        let disk = copy(&rig);
        disk.remove(Folder::Normal, name).unwrap();
        disk.sync_folder(Folder::Normal).unwrap();
        let lost = account(&rig, disk);
        assert!((30..100).contains(&lost.len()), "{name}: {lost:?}");
    }
}

#[test]
fn a_damaged_checkpoint_brings_nothing_back_that_had_left() {
    let rig = written();
    for name in in_use(&rig) {
        let disk = copy(&rig);
        disk.put(Folder::Normal, &name, 8192, &[0xff; 24]);
        let (store, _) = tombolo_test_support::journal::harness::open(&disk, &rig.settings, 3, rig.now);
        assert_eq!(store.view(LANE).released, 3);
        assert_eq!(account(&rig, disk), BTreeSet::new());
    }
}

#[test]
fn a_payload_that_looks_like_a_frame_is_never_taken_for_one() {
    // The device knows the format, and even what one of the frames on the disk looks like; it
    // cannot know the segment's salt.
    let mut rig = Rig::new(settings(WhenFull::Refuse, 20));
    rig.append(LANE, 200);
    rig.commit();
    let file = rig
        .disk
        .files()
        .into_iter()
        .find(|(folder, name, _)| *folder == Folder::Normal && name == "0000000000000001.seg");
    let frame = file.unwrap().2[8192..8192 + 400].to_vec();
    // Its other segment holds the copies, and the frame around them is destroyed.
    for _ in 0..60 {
        rig.append(LANE, 1000);
    }
    rig.commit();
    let payload = frame.repeat(20);
    let sequence = rig.store.next_sequence(LANE);
    rig.batches[1]
        .push(sequence, &tombolo_test_support::journal::harness::content(&payload), None, None)
        .unwrap();
    rig.model[1].attempts.insert(
        sequence,
        vec![tombolo_test_support::journal::harness::Known {
            run: rig.store.run(LANE),
            payload: payload.clone(),
            acknowledged: false,
        }],
    );
    rig.commit();
    rig.append(LANE, 100);
    rig.commit();
    let disk = rig.disk.after_power_cut(Cut::Nothing);
    let name = in_use(&rig).pop().unwrap();
    let content = disk.files().into_iter().find(|(f, n, _)| *f == Folder::Normal && *n == name).unwrap().2;
    let at = content.windows(40).position(|w| w == &payload[..40]).unwrap();
    disk.put(Folder::Normal, &name, at - 85, &[0; 40]);
    let (store, _) = tombolo_test_support::journal::harness::open(&disk, &rig.settings, 3, rig.now);
    let (got, lost) = read_all(&disk, &store, LANE);
    assert_eq!(lost, []);
    assert_eq!(got.len(), 62);
    store.losses(LANE);
    assert!(store.settled(LANE).contains(sequence));
}

#[test]
fn garbage_files_are_set_aside_or_left_alone() {
    let rig = written();
    let disk = copy(&rig);
    disk.put(Folder::Normal, "ffffffffffffffff.seg", 0, b"hello");
    disk.put(Folder::Normal, "00000000000000ff.seg", 0, &[7; 70_000]);
    disk.put(Folder::Normal, "README", 0, b"hello");
    disk.put(Folder::Spare, "0000000000000001.new", 0, b"hello");
    disk.put(Folder::Rejected, "0000000000000009.log", 0, b"hello");
    assert_eq!(account(&rig, disk.after_power_cut(Cut::Nothing)), BTreeSet::new());
    let mut rig = Rig::on(disk, rig.settings.clone(), rig.model.clone(), 3);
    assert_eq!(rig.report.lanes[1].damaged_files, ["00000000000000ff.seg"]);
    rig.append(LANE, 100);
    rig.reject(LANE, 10);
    assert_eq!(rig.commit()[1], 1);
    assert_eq!(rig.store.rejected().count(), 1);
    rig.check();
}
