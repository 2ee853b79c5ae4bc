//! The floor of the update checks: what was acknowledged is never below again, whatever the power
//! and the disk do.

use tombolo::update::check::Fault;
use tombolo::update::floor::{FORMAT, Floor, MetadataVersions};
use tombolo::update::io::floor::{on_disk, raise, read};
use tombolo_test_support::journal::disk::Cut;

use crate::files::{Files, cuts};

/// From one slot to the next.
const STRIDE: usize = 4096;
/// Floors that are raised in a test.
const STEPS: u64 = 5;

fn seen(number: u64) -> Floor {
    if number == 0 {
        return Floor::default();
    }
    let metadata = MetadataVersions { root: 1, timestamp: number, snapshot: number, targets: number };
    let firmware = Some((format!("{number}.0"), "debian".to_owned()));
    Floor { metadata, keys: "a".to_owned(), firmware, ..Floor::default() }
}

/// What the record holds; it is a floor that was raised as a whole.
fn found(files: &Files) -> u64 {
    let floor = read(files.clone()).expect("it can be read");
    let number = floor.metadata.timestamp;
    assert_eq!(floor, seen(number), "a mixture");
    number
}

/// Raises the floor step by step, as one process after the other would; what is known to be
/// durable, and what may be there.
fn live(files: &Files, from: u64, last: u64) -> (u64, u64) {
    let (mut durable, mut tried) = (from, from);
    for number in from + 1..=last {
        tried = number;
        match raise(files.clone(), &seen(number)) {
            Ok(floor) => {
                assert_eq!(floor, seen(number));
                durable = number;
            }
            Err(_) if files.0.is_off() => break,
            Err(_) => {}
        }
    }
    (durable, tried)
}

#[test]
fn it_rises_and_nothing_lower_replaces_it() {
    let files = Files::default();
    assert_eq!(found(&files), 0);
    assert_eq!(live(&files, 0, STEPS), (STEPS, STEPS));
    assert_eq!(raise(files.clone(), &seen(2)).unwrap(), seen(STEPS));
    assert_eq!(raise(files.clone(), &Floor::default()).unwrap(), seen(STEPS));
    assert_eq!(found(&files), STEPS);
    assert_eq!(files.names(), [FORMAT.name]);
}

#[test]
fn a_power_cut_at_any_write_sync_or_rename_never_lowers_it_and_it_rises_again() {
    let whole = Files::default();
    live(&whole, 0, STEPS);
    let operations = whole.0.operations();
    assert!(operations >= 12, "{operations}");
    for operation in 1..=operations {
        for cut in cuts(operation) {
            let files = Files::default();
            files.0.cut_at(operation);
            let (durable, tried) = live(&files, 0, STEPS);
            assert!(files.0.is_off());
            let files = files.after_power_cut(cut);
            let found_now = found(&files);
            assert!(
                (durable..=tried).contains(&found_now),
                "{operation} {cut:?}: {found_now}, not {durable} to {tried}"
            );
            raise(files.clone(), &seen(9)).unwrap();
            assert_eq!(found(&files.after_power_cut(Cut::Nothing)), 9);
        }
    }
}

#[test]
fn a_full_disk_at_any_write_leaves_what_was_and_the_next_check_raises_it() {
    let whole = Files::default();
    live(&whole, 0, STEPS);
    for operation in 1..=whole.0.operations() {
        let files = Files::default();
        files.0.fail_at(operation);
        let mut failures = 0;
        for number in 1..=STEPS {
            let before = found(&files);
            match raise(files.clone(), &seen(number)) {
                Ok(_) => {}
                Err(Fault::Local(sentence)) => {
                    failures += 1;
                    assert!(sentence.contains("floor of what was seen"), "{sentence}");
                    assert!(found(&files) >= before, "{operation}");
                }
                Err(other) => panic!("{operation}: {other:?}"),
            }
        }
        assert!(failures <= 1, "{operation}: {failures}");
        raise(files.clone(), &seen(9)).unwrap();
        assert_eq!(found(&files), 9);
    }
}

#[test]
fn what_a_failed_sync_left_in_the_page_cache_is_made_durable_before_it_is_relied_on() {
    let whole = Files::default();
    live(&whole, 0, 4);
    for operation in 1..=whole.0.operations() {
        for cut in cuts(operation) {
            let files = Files::default();
            files.0.fail_at(operation);
            let (durable, _) = live(&files, 0, 4);
            // The next process sees the same versions again, raises nothing, and relies on them.
            let relied_on = raise(files.clone(), &read(files.clone()).unwrap()).unwrap();
            let left = found(&files.after_power_cut(cut));
            assert!(left >= durable, "{operation} {cut:?}: {left}, not {durable}");
            assert_eq!(left, relied_on.metadata.timestamp, "{operation} {cut:?}");
        }
    }
}

#[test]
fn a_torn_slot_leaves_the_floor_before_and_two_do_not_stop_the_checks() {
    for bit in (0..8 * 60).step_by(7) {
        let files = Files::default();
        live(&files, 0, 4);
        // The newest is in the first slot, since the first write took both; it was torn, so it was
        // acknowledged to nobody.
        files.flip(FORMAT.name, bit);
        assert_eq!(found(&files), 3, "{bit}");
        raise(files.clone(), &seen(4)).unwrap();
        assert_eq!(found(&files), 4, "{bit}");
    }
    let files = Files::default();
    live(&files, 0, 4);
    files.flip(FORMAT.name, 100);
    files.flip(FORMAT.name, 8 * STRIDE + 100);
    assert_eq!(found(&files), 0);
    raise(files.clone(), &seen(4)).unwrap();
    assert_eq!(found(&files), 4);
    assert!(files.content("floor.damaged-1").is_some());
}

#[test]
fn a_floor_that_cannot_be_read_is_not_taken_for_none_and_nothing_is_written_over_it() {
    for slot in [0, 1] {
        let files = Files::default();
        live(&files, 0, 4);
        let before = files.content(FORMAT.name).unwrap();
        files.make_unreadable(FORMAT.name, slot * STRIDE);
        assert!(matches!(read(files.clone()), Err(Fault::Local(_))));
        assert!(raise(files.clone(), &seen(9)).is_err());
        assert_eq!(files.content(FORMAT.name).unwrap(), before);
        files.0.heal();
        assert_eq!(found(&files), 4);
    }
}

#[test]
fn on_the_real_disk_it_is_read_by_the_next_process() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("floor");
    let _ = std::fs::remove_dir_all(&folder);
    assert_eq!(read(on_disk(&folder)), Ok(Floor::default()), "no folder, no floor");
    assert!(matches!(raise(on_disk(&folder), &seen(1)), Err(Fault::Local(_))));
    std::fs::create_dir(&folder).unwrap();
    for number in 1..=3 {
        raise(on_disk(&folder), &seen(number)).unwrap();
        assert_eq!(read(on_disk(&folder)), Ok(seen(number)));
    }
}
