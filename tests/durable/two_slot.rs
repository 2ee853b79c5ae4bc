//! The two-slot record: old or new, never neither, whatever the power and the disk do.

use tombolo::durable::storage::Storage as _;
use tombolo::durable::two_slot::{SlotCondition, SlotFormat, TwoSlot};
use tombolo::splitmix::SplitMix64;

use crate::files::{Files, cuts};
use tombolo_test_support::journal::disk::Cut;

/// Larger than a page, so that a write is torn within its content.
const FORMAT: SlotFormat = SlotFormat { name: "record", magic: *b"TBtt", major: 1, content_max: 9_000 };
/// From one slot to the next.
const STRIDE: usize = 12_288;

fn open(files: &Files) -> TwoSlot<Files> {
    TwoSlot::open(files.clone(), FORMAT).expect("it opens")
}

/// A version that names itself in each of its parts.
fn content(version: u64) -> Vec<u8> {
    let length = [0, 7, 600, 9_000, 2_500][version as usize % 5];
    version.to_le_bytes().into_iter().cycle().take(8 + length.min(8_992)).collect()
}

fn version(record: &TwoSlot<Files>) -> u64 {
    let bytes = record.read().expect("it can be read");
    let Some(bytes) = bytes else { return 0 };
    let version = u64::from_le_bytes(*bytes.first_chunk().expect("at least a number"));
    assert_eq!(bytes, content(version), "a mixture");
    version
}

#[test]
fn what_was_written_is_read_by_the_next_process() {
    let files = Files::default();
    assert_eq!(open(&files).read().unwrap(), None);
    for number in 1..=20 {
        let mut record = open(&files);
        assert_eq!(version(&record), number - 1);
        record.write(&content(number)).unwrap();
        assert_eq!((version(&record), record.generation()), (number, number));
    }
    assert_eq!(files.names(), ["record"]);
    assert_eq!(files.content("record").unwrap().len(), 2 * STRIDE);
    let mut record = open(&files);
    assert!(record.write(&[1; 9_001]).is_err());
    assert_eq!(version(&record), 20);
}

/// Writes versions up to `last`; returns what is known to be durable and what may be there.
fn live(files: &Files, from: u64, last: u64) -> (u64, u64) {
    let (mut durable, mut tried) = (from, from);
    let Ok(mut record) = TwoSlot::open(files.clone(), FORMAT) else { return (durable, tried) };
    for number in from + 1..=last {
        tried = number;
        match record.write(&content(number)) {
            Ok(()) => durable = number,
            Err(_) if files.0.is_off() => break,
            Err(_) => {}
        }
    }
    (durable, tried)
}

#[test]
fn a_power_cut_at_any_write_sync_or_rename_leaves_old_or_new() {
    let whole = Files::default();
    live(&whole, 0, 5);
    let operations = whole.0.operations();
    assert!(operations >= 12, "{operations}");
    for operation in 1..=operations {
        for cut in cuts(operation) {
            let files = Files::default();
            files.0.cut_at(operation);
            let (durable, tried) = live(&files, 0, 5);
            assert!(files.0.is_off());
            let files = files.after_power_cut(cut);
            let record = open(&files);
            let found = version(&record);
            assert!(
                (durable..=tried).contains(&found),
                "{operation} {cut:?}: {found}, not {durable} to {tried}"
            );
            drop(record);
            // Life goes on, and is durable.
            open(&files).write(&content(9)).unwrap();
            assert_eq!(version(&open(&files.after_power_cut(Cut::Nothing))), 9);
        }
    }
}

#[test]
fn power_cuts_in_a_row_never_lose_what_was_durable() {
    for seed in 1..=60u64 {
        let mut files = Files::default();
        let mut durable = 0;
        for life in 0..10 {
            files.0.cut_at(1 + (seed * 7 + life * 5) % 9);
            let (reached, tried) = live(&files, durable, durable + 4);
            files = files.after_power_cut(Cut::Some(seed * 1_000 + life));
            let found = version(&open(&files));
            assert!((reached..=tried).contains(&found), "{seed} {life}: {found}, not {reached} to {tried}");
            durable = found;
        }
    }
}

#[test]
fn an_operation_that_fails_leaves_old_or_new_even_if_the_process_ends_and_then_the_power() {
    // Also if the very write whose operation fails is the process's last.
    for last in 1..=4 {
        let whole = Files::default();
        live(&whole, 0, last);
        for operation in 1..=whole.0.operations() {
            ends_behind_a_failure(operation, last);
        }
    }
}

/// A process writes `last` versions, and the operation of that number fails.
fn ends_behind_a_failure(operation: u64, last: u64) {
    let failed = || {
        let files = Files::default();
        files.0.fail_at(operation);
        let (durable, tried) = live(&files, 0, last);
        (files, durable, tried)
    };
    let (files, durable, tried) = failed();
    assert!((durable..=tried).contains(&version(&open(&files))), "{last} {operation}");
    // The next process believes what the page cache has; the power goes within its first write, or
    // behind it.
    for within in 1..=6 {
        for cut in cuts(within) {
            let (files, durable, _) = failed();
            let mut record = open(&files);
            files.0.cut_at(files.0.operations() + within);
            let written = record.write(&content(8)).is_ok();
            let found = version(&open(&files.after_power_cut(cut)));
            assert!(found >= durable, "{last} {operation} {within} {cut:?}: {found} is older than {durable}");
            assert!(!written || found == 8, "{last} {operation} {within} {cut:?}: {found}");
        }
    }
}

#[test]
fn a_damaged_slot_leaves_the_other_and_both_are_set_aside() {
    for bit in (0..8 * 40).step_by(3) {
        let files = Files::default();
        live(&files, 0, 2);
        // Generation 2 is in the second slot.
        files.flip("record", 8 * STRIDE + bit);
        let mut record = open(&files);
        let [first, second] = record.conditions();
        assert!(matches!(second, SlotCondition::Damaged(_)), "{bit}: {second:?}");
        assert_eq!((first, version(&record)), (SlotCondition::Sound(1), 1));
        record.write(&content(5)).unwrap();
        assert_eq!(version(&open(&files)), 5);
        assert_eq!(files.names(), ["record"]);
    }
    let files = Files::default();
    live(&files, 0, 2);
    let damaged = {
        files.flip("record", 100);
        files.flip("record", 8 * STRIDE + 100);
        files.content("record").unwrap()
    };
    let mut record = open(&files);
    assert_eq!(record.read().unwrap(), None);
    record.write(&content(3)).unwrap();
    assert_eq!(version(&open(&files)), 3);
    assert_eq!(files.content("record.damaged-1"), Some(damaged));
}

#[test]
fn zeros_and_cut_files_are_damage_unless_nothing_was_written_there() {
    let files = Files::default();
    live(&files, 0, 1);
    assert_eq!(open(&files).conditions(), [SlotCondition::Sound(1), SlotCondition::Empty]);
    live(&files, 1, 3);
    files.put("record", STRIDE, &[0; STRIDE]);
    let record = open(&files);
    assert_eq!(version(&record), 3);
    assert!(matches!(record.conditions()[1], SlotCondition::Damaged(_)));
    for length in [0, 10, STRIDE, 2 * STRIDE - 1] {
        let files = Files::default();
        live(&files, 0, 3);
        files.truncate("record", length);
        let mut record = open(&files);
        assert_eq!(version(&record), if length < STRIDE { 0 } else { 3 }, "{length}");
        assert!(matches!(record.conditions()[1], SlotCondition::Damaged(_)), "{length}");
        record.write(&content(4)).unwrap();
        assert_eq!(version(&open(&files)), 4, "{length}");
    }
}

#[test]
fn what_looks_damaged_is_read_a_second_time_before_that_is_believed() {
    let files = Files::default();
    live(&files, 0, 4);
    files.lie_once("record", STRIDE + 30, b"another");
    let record = open(&files);
    assert_eq!((version(&record), files.0.second_looks()), (4, 1));
}

#[test]
fn a_slot_that_cannot_be_read_is_no_damage_and_nothing_older_is_written_over_it() {
    for (slot, known) in [(0, 4), (1, 3)] {
        let files = Files::default();
        live(&files, 0, 4);
        let before = files.content("record").unwrap();
        files.make_unreadable("record", slot * STRIDE);
        let mut record = open(&files);
        assert!(matches!(record.conditions()[slot], SlotCondition::Unreadable(_)));
        assert!(record.read().is_err(), "a newer version may be there");
        let last_known = record.last_known().unwrap().to_vec();
        assert_eq!(last_known, content(known));
        assert!(record.write(&content(9)).is_err());
        assert_eq!(files.content("record").unwrap(), before);
        assert_eq!(files.names(), ["record"]);
        // It is readable again: nothing was lost, and the record goes on.
        files.0.heal();
        assert_eq!(version(&open(&files)), 4);
        record.write(&content(9)).unwrap();
        assert_eq!((version(&record), version(&open(&files))), (9, 9));
        assert_eq!(record.generation(), 5);
    }
}

#[test]
fn a_record_of_another_major_version_is_neither_read_nor_written_over() {
    let files = Files::default();
    let other = SlotFormat { major: 2, ..FORMAT };
    TwoSlot::open(files.clone(), other).unwrap().write(b"later").unwrap();
    let before = files.content("record").unwrap();
    let mut record = open(&files);
    assert!(record.read().is_err() && record.write(&content(1)).is_err());
    assert_eq!(record.conditions()[0], SlotCondition::OtherVersion(2));
    assert_eq!(files.content("record").unwrap(), before);
}

#[test]
fn any_bytes_are_read_without_a_panic() {
    let mut random = SplitMix64::new(7);
    for round in 0..500u64 {
        let files = Files::default();
        live(&files, 0, 1 + round % 4);
        for _ in 0..1 + round % 5 {
            let at = random.next_u64() as usize % (2 * STRIDE);
            let bytes = random.next_u64().to_le_bytes();
            files.put("record", at, &bytes);
        }
        let mut record = open(&files);
        // Whatever it reads, it is a version that was written, or none.
        if record.read().is_ok_and(|bytes| bytes.is_some()) {
            version(&record);
        }
        if record.write(&content(7)).is_ok() {
            assert_eq!(version(&open(&files)), 7);
        }
        assert!(files.has("record"));
    }
}
