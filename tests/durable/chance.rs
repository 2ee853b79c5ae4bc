//! Random lives of one file: writes, full disks, power cuts at any call, damage of any kind.
//! Whatever was written last, and said to be, is read back; never anything older, never anything
//! else.

use tombolo::durable::atomic_file::{ASIDE_MAX, AtomicFile, sweep};
use tombolo::splitmix::SplitMix64;

use crate::disk::{Chance, Disk, Node};
use crate::rules::judge;

const LIVES: u64 = 400;
const EVENTS: usize = 60;

fn spoil(disk: &Disk, name: &str, chance: &mut Chance) {
    let Some(content) = disk.content(name) else { return };
    let node = match chance.draw(7) {
        0 => Node::File(Vec::new()),
        1 => Node::File(vec![0; content.len()]),
        2 => Node::File(content[..chance.draw(content.len())].to_vec()),
        3 => {
            let length = chance.draw(80);
            Node::File(chance.bytes(length))
        }
        4 => Node::File(vec![b'9'; 10_000]),
        5 => Node::Folder,
        _ => Node::Unreadable(content),
    };
    disk.put(name, node);
}

/// An unreadable file is readable again.
fn heal(disk: &Disk) {
    for name in disk.all() {
        if let Some(Node::Unreadable(bytes)) = disk.node(&name) {
            disk.file(&name, &bytes);
        }
    }
}

fn live(seed: u64, file: AtomicFile<'_>, has_copy: bool) -> [usize; 3] {
    let mut chance = Chance(SplitMix64::new(seed));
    let disk = Disk::default();
    // What was said to be written, and the newest that was tried: they may differ after a failure.
    let (mut written, mut tried) = (0u64, 0u64);
    file.write(&disk, b"0.").expect("a disk in order");
    let mut happened = [0; 3];
    for _ in 0..EVENTS {
        match chance.draw(10) {
            0..4 => {
                tried += 1;
                file.write(&disk, format!("{tried}.").as_bytes()).expect("a disk in order");
                written = tried;
            }
            4..6 => {
                tried += 1;
                disk.fail_at(1 + chance.draw(6));
                if file.write(&disk, format!("{tried}.").as_bytes()).is_ok() {
                    written = tried;
                }
                disk.calm();
                happened[0] += 1;
            }
            6..8 => {
                tried += 1;
                disk.cut_at(1 + chance.draw(6));
                if file.write(&disk, format!("{tried}.").as_bytes()).is_ok() {
                    written = tried;
                }
                disk.revive(&mut chance);
                happened[1] += 1;
            }
            _ if has_copy => {
                // Both are good and equal, as after every start: then one of them goes bad, and the
                // power while that is mended.
                file.mend(&disk, &file.read(&disk, judge)).expect("a disk in order");
                let name = ["f", "f.copy"][chance.draw(2)];
                spoil(&disk, name, &mut chance);
                disk.cut_at(1 + chance.draw(8));
                let _ = file.mend(&disk, &file.read(&disk, judge));
                disk.revive(&mut chance);
                happened[2] += 1;
            }
            _ => {}
        }
        let retrieved = file.read(&disk, judge);
        let value = retrieved.value.unwrap_or_else(|| panic!("{seed}: lost, {:?}", retrieved.defects));
        assert!((written..=tried).contains(&value), "{seed}: {value} is not of {written} to {tried}");
        heal(&disk);
        file.mend(&disk, &file.read(&disk, judge)).expect("a disk in order");
        sweep(&disk, "f").expect("a disk in order");
        let after = file.read(&disk, judge);
        assert!(after.defects.is_empty(), "{seed}: {:?}", after.defects);
        let value = after.value.expect("it was there before");
        assert!((written..=tried).contains(&value), "{seed}: {value} is not of {written} to {tried}");
        let files = disk.all().iter().filter(|name| disk.content(name).is_some()).count();
        assert!(files <= 2 + 2 * ASIDE_MAX as usize, "{seed}: {:?}", disk.all());
    }
    happened
}

#[test]
fn whatever_fails_the_last_version_that_was_written_is_read() {
    let file = AtomicFile::new("f", 64, 0o600);
    for seed in 0..LIVES {
        live(seed, file, false);
    }
    let mut happened = [0; 3];
    for seed in 0..LIVES {
        let of_this = live(seed, file.with_copy(), true);
        happened.iter_mut().zip(of_this).for_each(|(sum, count)| *sum += count);
    }
    // A test in which nothing happens would pass as well.
    assert!(happened.iter().all(|count| *count as u64 > LIVES * 5), "{happened:?}");
}

#[test]
fn any_bytes_are_judged_without_a_panic_and_without_a_copy_damage_is_only_named() {
    let file = AtomicFile::new("f", 64, 0o600);
    let mut chance = Chance(SplitMix64::new(99));
    for _ in 0..2_000 {
        let disk = Disk::default();
        file.write(&disk, b"12345.").expect("a disk in order");
        spoil(&disk, "f", &mut chance);
        let retrieved = file.read(&disk, judge);
        let aside = file.mend(&disk, &retrieved).expect("a disk in order");
        match disk.node("f") {
            Some(Node::Unreadable(_)) => assert!(!retrieved.may_be_replaced() && aside.is_empty()),
            Some(_) => assert!(retrieved.value.is_some() && aside.is_empty()),
            None => assert_eq!((retrieved.value, aside.len()), (None, 1)),
        }
    }
}
