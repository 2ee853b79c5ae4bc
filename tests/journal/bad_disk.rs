//! A disk with read errors: nothing is lost, other records are still sent, and all records are
//! available when the disk can be read again.

use std::collections::{BTreeMap, BTreeSet};

use tombolo::journal::settings::WhenFull;
use tombolo::journal::storage::Folder;
use tombolo::journal::{AsideCause, LossCause};
use tombolo::message::Lane;
use tombolo::splitmix::SplitMix64;

use tombolo_test_support::journal::disk::{Cut, FakeDisk};
use tombolo_test_support::journal::harness::{Rig, settings};

const LANE: Lane = Lane::Normal;

/// `count` seeds; with `JOURNAL_SEEDS` so many instead, from `JOURNAL_SEED_FROM` on.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse().ok());
    let from = number("JOURNAL_SEED_FROM").unwrap_or(0);
    from..from + number("JOURNAL_SEEDS").unwrap_or(count)
}

/// Some segments of records, some of the oldest released; what is acknowledged and has not left, by
/// sequence.
fn written(seed: u64) -> Rig {
    written_in(seed, true)
}

/// With `many`, in several runs.
fn written_in(seed: u64, many: bool) -> Rig {
    let mut random = SplitMix64::new(seed);
    let mut next = |below| random.below(below);
    let mut rig = Rig::new(settings(WhenFull::Refuse, 40));
    let rounds = 10 + next(60);
    for _ in 0..rounds {
        for _ in 0..1 + next(6) {
            let length = 100 + next(1500) as usize;
            rig.append(LANE, length);
        }
        rig.commit();
        rig.maintain();
        if next(20) == 0 {
            let view = rig.store.view(LANE);
            let through = view.released + next(view.next_sequence - view.released);
            rig.release(LANE, through);
        }
        if many && next(25) == 0 {
            rig.commit_with(true);
            let disk = rig.disk.after_power_cut(Cut::Everything);
            rig = rig.reopened_on(disk);
        }
    }
    if next(2) == 0 {
        rig.store.ask_checkpoints();
    }
    rig.commit_with(true);
    rig
}

/// The lane's segments and their size in use.
fn segments(disk: &FakeDisk) -> Vec<String> {
    let is_segment = |(folder, name, bytes): &(Folder, String, Vec<u8>)| {
        *folder == Folder::Normal && name.ends_with(".seg") && bytes.starts_with(b"TOMBJRNL")
    };
    disk.files().into_iter().filter(is_segment).map(|(_, name, _)| name).collect()
}

/// What can be read, by sequence; and what cannot, as a set of sequences.
fn read(rig: &Rig) -> (BTreeMap<u64, Vec<u8>>, BTreeSet<u64>) {
    let (got, lost) = rig.read(LANE);
    let got = got.into_iter().map(|got| (got.id.sequence, got.payload)).collect();
    let limit = rig.store.next_sequence(LANE);
    let lost = lost.into_iter().flat_map(|(first, last)| first..=last.min(limit)).collect();
    (got, lost)
}

fn must_be_there(rig: &Rig) -> BTreeMap<u64, Vec<u8>> {
    rig.model[LANE.index()]
        .must_be_there()
        .into_iter()
        .map(|(sequence, got)| (sequence, got.payload))
        .collect()
}

/// Every acknowledged record is read back as it was.
fn assert_whole(rig: &Rig, seed: u64) {
    let (got, _) = read(rig);
    for (sequence, payload) in must_be_there(rig) {
        assert!(got.get(&sequence) == Some(&payload), "seed {seed}: record {sequence} is not there");
    }
    assert_eq!(rig.store.lane_status(LANE).lost_records(), 0, "seed {seed}: {:?}", rig.store.losses(LANE));
}

/// Breaks up to four places; whether anything at all.
fn break_some(disk: &FakeDisk, seed: u64) {
    let mut random = SplitMix64::new(seed);
    let mut next = |below: usize| random.below(below as u64) as usize;
    let names = segments(disk);
    for _ in 0..1 + next(4) {
        let name = &names[next(names.len())];
        match next(5) {
            0 => disk.make_unopenable(Folder::Normal, name),
            1 => {
                for at in 0..16 {
                    disk.make_unreadable(Folder::Normal, name, at * 512);
                }
            }
            2 => disk.lie_once(Folder::Normal, name, next(60_000), &vec![0; 1 + next(9000)]),
            _ => {
                let (from, count) = (next(110), 1 + next(12));
                for at in from..from + count {
                    disk.make_unreadable(Folder::Normal, name, at * 512);
                }
            }
        }
    }
}

#[test]
fn whatever_the_disk_does_not_give_at_the_start_is_there_once_it_does() {
    for seed in seeds(600) {
        let rig = written(seed);
        let before = must_be_there(&rig);
        let disk = rig.disk.after_power_cut(Cut::Everything);
        break_some(&disk, seed);
        let mut rig = rig.reopened_on(disk);
        // What is new is stored and read while the old is not given.
        for _ in 0..3 {
            rig.append(LANE, 400);
            assert_eq!(rig.commit()[1], 1, "seed {seed}");
            rig.maintain();
        }
        let (got, unread) = read(&rig);
        assert_eq!(got.iter().rev().take(3).count(), 3);
        for (sequence, payload) in &before {
            match got.get(sequence) {
                Some(there) => assert!(there == payload, "seed {seed}: {sequence} is another"),
                None => assert!(unread.contains(sequence), "seed {seed}: {sequence} is gone"),
            }
        }
        assert_eq!(
            rig.store.lane_status(LANE).lost_records(),
            0,
            "seed {seed}: {:?}",
            rig.store.losses(LANE)
        );
        // Once with a crash in between, once without; once with another opening on a bad disk
        // before.
        if seed % 3 == 0 {
            let left = rig.disk.after_power_cut(Cut::Everything);
            break_some(&left, seed + 7_000);
            rig = rig.reopened_on(left);
            rig.append(LANE, 300);
            assert_eq!(rig.commit()[1], 1, "seed {seed}");
            rig.maintain();
        }
        if seed % 2 == 0 {
            let left = rig.disk.after_power_cut(Cut::Some(seed));
            rig = rig.reopened_on(left);
        } else {
            rig.disk.heal();
            rig.store.open_unopened(rig.now, LANE, false).unwrap();
        }
        assert_whole(&rig, seed);
        rig.append(LANE, 100);
        assert_eq!(rig.commit()[1], 1, "seed {seed}");
        let left = rig.disk.after_power_cut(Cut::Nothing);
        let rig = rig.reopened_on(left);
        assert_whole(&rig, seed);
        let records = rig.store.lane_status(LANE).records;
        assert_eq!(
            records,
            must_be_there(&rig).len() as u64,
            "seed {seed}: nothing that never was is counted"
        );
    }
}

#[test]
fn records_in_an_unreadable_place_are_not_taken_for_released() {
    let rig = written_in(213, false);
    let released = rig.store.view(LANE).released;
    let disk = rig.disk.after_power_cut(Cut::Everything);
    let name = segments(&disk).remove(0);
    for at in 60..66 {
        disk.make_unreadable(Folder::Normal, &name, at * 512);
    }
    let rig = rig.reopened_on(disk);
    assert_eq!(rig.store.view(LANE).released, released);
}

#[test]
fn trims_behind_an_unreadable_place_do_not_end_the_lane() {
    let mut rig = Rig::new(settings(WhenFull::Refuse, 40));
    for _ in 0..250 {
        rig.append(LANE, 8);
    }
    rig.commit();
    // More than a page of trims.
    for through in 1..=240 {
        rig.release(LANE, through);
        rig.commit_with(true);
    }
    let model = rig.model.clone();
    for (page, witness) in (2..12).flat_map(|page| [(page, false), (page, true)]) {
        let disk = rig.disk.after_power_cut(Cut::Everything);
        let name = segments(&disk).remove(0);
        if !witness {
            tombolo::journal::storage::Storage::remove(&disk, Folder::Top, "witness").unwrap();
        }
        for at in 0..8 {
            disk.make_unreadable(Folder::Normal, &name, page * 4096 + at * 512);
        }
        let mut rig = Rig::on(disk, rig.settings.clone(), model.clone(), 2);
        assert!(rig.append(LANE, 8) > 250, "page {page}: no sequence is given twice");
        rig.commit_with(true);
        assert_eq!(rig.store.lane_status(LANE).lost_records(), 0, "page {page}");
        rig.disk.heal();
        rig.store.open_unopened(rig.now, LANE, false).unwrap();
        assert_whole(&rig, page as u64);
    }
}

#[test]
fn the_witness_counts_where_the_last_opening_cannot_be_read() {
    let mut rig = Rig::new(settings(WhenFull::Refuse, 40));
    for _ in 0..100 {
        rig.append(LANE, 700);
        rig.commit();
        rig.maintain();
    }
    let disk = rig.disk.after_power_cut(Cut::Everything);
    let mut rig = rig.reopened_on(disk);
    // The run's Opening, a trim that frees the first segment, and some records.
    let through = rig.store.next_sequence(LANE) - 5;
    rig.release(LANE, through);
    rig.commit_with(true);
    rig.maintain();
    for _ in 0..5 {
        rig.append(LANE, 700);
        rig.commit();
    }
    for page in 2..12 {
        let disk = rig.disk.after_power_cut(Cut::Everything);
        let name = segments(&disk).pop().unwrap();
        for at in 0..8 {
            disk.make_unreadable(Folder::Normal, &name, page * 4096 + at * 512);
        }
        let mut reopened = Rig::on(disk, rig.settings.clone(), rig.model.clone(), 3);
        reopened.commit_with(true);
        let status = reopened.store.lane_status(LANE);
        assert_eq!(status.lost_records(), 0, "page {page}: {:?}", reopened.store.losses(LANE));
        assert_eq!(reopened.store.view(LANE).released, through, "page {page}");
    }
}

#[test]
fn what_the_disk_never_gives_is_listed_before_a_trim_passes_it_and_its_file_is_kept() {
    for seed in seeds(600) {
        let rig = written(seed);
        let before = must_be_there(&rig);
        // The process was killed: what it wrote last is in the page cache.
        let disk = rig.disk.after_power_cut(Cut::Everything);
        let whole: BTreeMap<String, Vec<u8>> =
            disk.files().into_iter().filter(|(f, ..)| *f == Folder::Normal).map(|(_, n, b)| (n, b)).collect();
        break_some(&disk, seed);
        let mut rig = rig.reopened_on(disk);
        rig.store.open_unopened(rig.now, LANE, true).unwrap();
        // As the reader does after an hour.
        let view = rig.store.view(LANE);
        let mut cursor = tombolo::journal::cursor::Cursor::new(view.released + 1);
        let mut got = BTreeMap::new();
        tombolo_test_support::journal::harness::walk(
            &rig.disk,
            &view,
            &mut cursor,
            rig.store.settled(LANE).clone(),
            LANE,
            |step| match step {
                tombolo_test_support::journal::harness::Walked::Record(id, payload) => {
                    drop(got.insert(id.sequence, payload))
                }
                tombolo_test_support::journal::harness::Walked::Unreadable(first, last, number) => {
                    rig.store.step_over(LANE, number, first, last);
                }
                tombolo_test_support::journal::harness::Walked::Lost(first, last) => {
                    panic!("seed {seed}: {first} to {last} called lost")
                }
            },
        );
        let last = rig.store.next_sequence(LANE) - 1;
        // A trim does not pass what is not listed yet.
        rig.release(LANE, last);
        rig.commit_with(true);
        rig.maintain();
        rig.commit_with(true);
        rig.maintain();
        let listed = rig.store.set_aside(LANE);
        for (sequence, payload) in &before {
            match got.get(sequence) {
                Some(there) => assert!(there == payload, "seed {seed}: {sequence}"),
                None => assert!(
                    listed.iter().any(|aside| aside.lists(*sequence)),
                    "seed {seed}: {sequence} is neither read nor listed"
                ),
            }
        }
        let status = rig.store.lane_status(LANE);
        assert_eq!(status.lost_records(), 0, "seed {seed}");
        assert_eq!(status.records, 0, "seed {seed}: the trim has passed it all");
        let missing = before.keys().filter(|sequence| !got.contains_key(sequence)).count() as u64;
        assert!(status.unreadable >= missing, "seed {seed}: {} of {missing}", status.unreadable);
        for cut in [Cut::Nothing, Cut::Everything, Cut::Some(seed)] {
            let left = rig.disk.after_power_cut(cut);
            let reopened = Rig::on(left, rig.settings.clone(), rig.model.clone(), 3);
            let again = reopened.store.set_aside(LANE);
            for aside in listed.iter() {
                let same =
                    again.iter().find(|other| other.number == aside.number).expect("the list is there");
                assert_eq!(same.records(AsideCause::Unreadable), aside.records(AsideCause::Unreadable));
            }
            let files = reopened.disk.files();
            for aside in listed.iter().filter(|aside| aside.records(AsideCause::Unreadable) > 0) {
                let name = format!("{:016x}.seg", aside.number);
                let kept = files.iter().find(|(f, n, _)| *f == Folder::Normal && n.starts_with(&name));
                assert!(
                    kept.is_some_and(|(.., bytes)| *bytes == whole[&name]),
                    "seed {seed}: {name} is kept"
                );
            }
        }
    }
}

#[test]
fn what_reads_wrongly_once_is_not_damaged() {
    for seed in seeds(200) {
        let rig = written(seed);
        let disk = rig.disk.after_power_cut(Cut::Everything);
        let names = segments(&disk);
        let name = &names[seed as usize % names.len()];
        match seed % 3 {
            0 => disk.lie_once(Folder::Normal, name, 0, &[0; 8192]),
            1 => disk.lie_once(Folder::Normal, name, 9000, &[0xa5; 20_000]),
            _ => disk.lie_once(Folder::Normal, name, 0, &[0; 65_536]),
        }
        let rig = rig.reopened_on(disk);
        assert!(seed % 3 == 1 || rig.disk.second_looks() > 0, "a header is always looked at");
        assert_whole(&rig, seed);
    }
}

#[test]
fn a_newest_segment_that_is_cut_or_destroyed_is_counted_to_the_last_record() {
    for seed in seeds(200) {
        let rig = written(seed);
        let before: BTreeSet<u64> = must_be_there(&rig).into_keys().collect();
        // The process was killed: what it wrote last is in the page cache.
        let disk = rig.disk.after_power_cut(Cut::Everything);
        let name = segments(&disk).pop().unwrap();
        match seed % 3 {
            0 => disk.truncate(Folder::Normal, &name, 8192 + seed as usize * 100),
            1 => disk.put(Folder::Normal, &name, 8192 + seed as usize * 50, &vec![0; 48_000]),
            _ => disk.put(Folder::Normal, &name, 0, &[0; 8192]),
        }
        let mut rig = rig.reopened_on(disk);
        rig.commit_with(true);
        let (got, _) = read(&rig);
        let missing = before.iter().filter(|sequence| !got.contains_key(sequence)).count() as u64;
        let status = rig.store.lane_status(LANE);
        assert_eq!(status.lost[LossCause::Damaged as usize - 1], missing, "seed {seed}");
        assert_eq!(rig.store.losses(LANE).iter().map(|loss| loss.count).sum::<u64>(), missing, "seed {seed}");
        let last = before.last().copied().unwrap_or(0);
        assert!(rig.store.next_sequence(LANE) > last, "seed {seed}: no sequence is given twice");
    }
}

#[test]
fn rejected_records_that_cannot_be_read_are_kept_and_taken_up_again() {
    for seed in 0..200u64 {
        let mut rig = Rig::new(settings(WhenFull::Refuse, 40));
        for _ in 0..20 {
            rig.append(LANE, 700);
        }
        rig.commit();
        for sequence in 1..=12 {
            rig.reject(LANE, sequence);
        }
        rig.commit();
        let entry = rig.store.rejected().nth(3).unwrap().number;
        rig.store.discard_rejected(rig.now, entry);
        rig.commit_with(true);
        assert_eq!(rig.store.rejected().count(), 11);
        let disk = rig.disk.after_power_cut(Cut::Nothing);
        let name = disk.files().into_iter().find(|(f, ..)| *f == Folder::Rejected).unwrap().1;
        match seed % 4 {
            0 => disk.make_unopenable(Folder::Rejected, &name),
            1 => (0..16).for_each(|at| disk.make_unreadable(Folder::Rejected, &name, at * 512)),
            2 => disk.lie_once(Folder::Rejected, &name, 8192 + seed as usize * 20, &[0; 3000]),
            _ => disk.make_unreadable(Folder::Rejected, &name, 8192 + seed as usize * 40),
        }
        let mut rig = rig.reopened_on(disk);
        rig.reject(LANE, 15);
        rig.commit();
        assert!(rig.store.rejected().any(|entry| entry.id.sequence == 15), "seed {seed}: it takes more");
        // A crash, or time: once the disk gives it all of it is there, and what was given up stays
        // so.
        if seed % 8 < 4 {
            let left = rig.disk.after_power_cut(Cut::Nothing);
            rig = rig.reopened_on(left);
        } else {
            rig.disk.heal();
        }
        rig.now += std::time::Duration::from_secs(100_000);
        rig.maintain();
        let there: Vec<u64> = rig.store.rejected().map(|entry| entry.id.sequence).collect();
        let expected: BTreeSet<u64> = (1..=12).filter(|n| *n != 4).chain([15]).collect();
        assert_eq!(there.iter().copied().collect::<BTreeSet<_>>(), expected, "seed {seed}");
        assert_eq!(there.len(), expected.len(), "seed {seed}");
        assert_eq!(rig.store.rejected_status().lost, 0, "seed {seed}");
        assert_eq!(rig.store.lane_status(LANE).lost[LossCause::Damaged as usize - 1], 0, "seed {seed}");
        let numbers: Vec<u64> = rig.store.rejected().map(|entry| entry.number).collect();
        assert!(numbers.into_iter().all(|number| rig.store.read_rejected(number).is_some()), "seed {seed}");
        let left = rig.disk.after_power_cut(Cut::Nothing);
        assert_eq!(rig.reopened_on(left).store.rejected().count(), expected.len(), "seed {seed}");
    }
}

#[test]
fn rejected_records_that_are_damaged_are_counted_as_lost() {
    for seed in 0..100u64 {
        let mut rig = Rig::new(settings(WhenFull::Refuse, 40));
        for _ in 0..40 {
            rig.append(LANE, 700);
        }
        rig.commit();
        for sequence in 1..=36 {
            rig.reject(LANE, sequence);
            rig.commit();
        }
        let disk = rig.disk.after_power_cut(Cut::Everything);
        let name = disk.files().into_iter().find(|(f, ..)| *f == Folder::Rejected).unwrap().1;
        match seed % 3 {
            0 => disk.put(Folder::Rejected, &name, 8192 + seed as usize * 200, &[0; 4000]),
            1 => disk.truncate(Folder::Rejected, &name, 8192 + seed as usize * 200),
            _ => disk.put(Folder::Rejected, &name, 0, &[0; 8192]),
        }
        let mut rig = rig.reopened_on(disk);
        let left = rig.store.rejected().count() as u64;
        assert!(left < 36, "seed {seed}");
        assert_eq!(rig.report.rejected.lost, 36 - left, "seed {seed}");
        assert_eq!(rig.store.lane_status(LANE).lost_records(), 36 - left, "seed {seed}");
        // Counted once, not at every start.
        for _ in 0..3 {
            rig.commit_with(true);
            rig.maintain();
            let disk = rig.disk.after_power_cut(Cut::Everything);
            rig = rig.reopened_on(disk);
            assert_eq!(rig.store.rejected().count() as u64, left, "seed {seed}");
            assert_eq!(rig.store.lane_status(LANE).lost_records(), 36 - left, "seed {seed}");
        }
    }
}

#[test]
fn another_file_that_reads_wrongly_the_second_time_is_not_damaged_either() {
    for seed in 0..100 {
        let rig = written(seed);
        let disk = rig.disk.after_power_cut(Cut::Everything);
        let names = segments(&disk);
        let (one, other) =
            (&names[seed as usize % names.len()], &names[(seed as usize / 7 + 1) % names.len()]);
        disk.lie_once(Folder::Normal, one, 0, &[0; 8192]);
        if one != other {
            disk.lie_next(Folder::Normal, other, 0, &[0; 8192]);
        }
        let mut rig = rig.reopened_on(disk);
        rig.commit_with(true);
        tombolo::journal::storage::Storage::wait_for_second_look(&rig.disk);
        rig.store.open_unopened(rig.now, LANE, false).unwrap();
        assert_whole(&rig, seed);
    }
}

#[test]
fn damage_in_the_last_commit_is_no_torn_commit_when_it_was_acknowledged() {
    let mut rig = Rig::new(settings(WhenFull::Refuse, 20));
    for _ in 0..20 {
        rig.append(LANE, 300);
    }
    rig.commit();
    let disk = rig.disk.after_power_cut(Cut::Everything);
    let name = segments(&disk).pop().unwrap();
    // Some records in its middle, the last ones are whole.
    disk.put(Folder::Normal, &name, 8192 + 2_000, &[0xff; 1_000]);
    let mut rig = rig.reopened_on(disk);
    rig.commit_with(true);
    let (got, _) = read(&rig);
    let status = rig.store.lane_status(LANE);
    assert!((2..6).contains(&(20 - got.len())), "{}", got.len());
    assert_eq!(status.lost_records(), 20 - got.len() as u64);
    assert_eq!(rig.store.losses(LANE).iter().map(|loss| loss.count).sum::<u64>(), 20 - got.len() as u64);
}

#[test]
fn scattered_damage_is_counted_once_however_often_it_is_opened() {
    let mut rig = Rig::new(settings(WhenFull::Refuse, 60));
    for _ in 0..600 {
        rig.append(LANE, 300);
        rig.commit();
    }
    let mut disk = rig.disk.after_power_cut(Cut::Everything);
    let mut damaged = 0;
    for name in segments(&disk) {
        let bytes = disk.files().into_iter().find(|(f, n, _)| *f == Folder::Normal && *n == name).unwrap().2;
        // Every fifth record, by its payload.
        for (index, at) in
            (8192..bytes.len() - 9000).step_by(408).enumerate().filter(|(index, _)| index % 5 == 2)
        {
            if bytes[at..at + 400].iter().any(|byte| *byte != 0) && index > 0 {
                disk.put(Folder::Normal, &name, at + 200, &[0xa5; 8]);
                damaged += 1;
            }
        }
    }
    assert!(damaged > 90);
    let mut counts = Vec::new();
    for _ in 0..4 {
        rig = rig.reopened_on(disk);
        let (_, lost) = rig.read(LANE);
        for (first, last) in lost {
            rig.store.damaged(rig.now, LANE, first, last);
        }
        rig.commit_with(true);
        rig.maintain();
        let (got, _) = read(&rig);
        counts.push((got.len() as u64, rig.store.lane_status(LANE).lost_records()));
        disk = rig.disk.after_power_cut(Cut::Everything);
    }
    assert_eq!(counts[0].0 + counts[0].1, 600, "{counts:?}");
    assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
}

#[test]
fn a_newest_segment_that_is_gone_is_counted() {
    let mut rig = Rig::new(settings(WhenFull::Refuse, 20));
    rig.append(LANE, 300);
    rig.commit();
    let disk = rig.disk.after_power_cut(Cut::Everything);
    let first = segments(&disk).pop().unwrap();
    // One copy of its header is damaged: the next run begins in another segment.
    disk.put(Folder::Normal, &first, 0, &[0xff; 512]);
    let mut rig = rig.reopened_on(disk);
    for _ in 0..100 {
        rig.append(LANE, 300);
    }
    rig.commit();
    let disk = rig.disk.after_power_cut(Cut::Everything);
    let newest = segments(&disk).pop().unwrap();
    assert_ne!(first, newest);
    tombolo::journal::storage::Storage::remove(&disk, Folder::Normal, &newest).unwrap();
    let mut rig = rig.reopened_on(disk);
    rig.commit_with(true);
    assert_eq!(rig.store.lane_status(LANE).lost_records(), 100);
}

#[test]
fn a_list_that_cannot_be_read_keeps_its_file() {
    let mut rig = Rig::new(settings(WhenFull::Refuse, 40));
    for _ in 0..100 {
        rig.append(LANE, 700);
    }
    rig.commit();
    let disk = rig.disk.after_power_cut(Cut::Everything);
    let name = segments(&disk).remove(0);
    for at in 40..60 {
        disk.make_unreadable(Folder::Normal, &name, at * 512);
    }
    let mut rig = rig.reopened_on(disk);
    let (_, lost) = rig.read(LANE);
    let number = u64::from_str_radix(&name[..16], 16).unwrap();
    for (first, last) in lost {
        rig.store.step_over(LANE, number, first, last);
    }
    rig.commit_with(true);
    rig.maintain();
    let listed = rig.store.lane_status(LANE).unreadable;
    assert!(listed > 0);
    let disk = rig.disk.after_power_cut(Cut::Everything);
    disk.make_unopenable(Folder::Normal, &format!("{number:016x}.ids"));
    let mut rig = rig.reopened_on(disk);
    // All that can be read leaves.
    let last = rig.store.next_sequence(LANE) - 1;
    rig.release(LANE, last);
    rig.commit_with(true);
    rig.maintain();
    assert!(
        rig.disk.files().iter().any(|(f, n, _)| *f == Folder::Normal && n.starts_with(&name)),
        "it is kept"
    );
    rig.disk.heal();
    rig.now += std::time::Duration::from_secs(120);
    rig.maintain();
    rig.maintain();
    assert_eq!(rig.store.lane_status(LANE).unreadable, listed);
}
