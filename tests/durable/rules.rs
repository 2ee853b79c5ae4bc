//! What is read, restored, set aside and left alone, case by case.

use tombolo::durable::atomic_file::{ASIDE_MAX, AtomicFile, Condition, list, name_before, set_aside, sweep};
use tombolo::durable::folder::StateFolder as _;

use crate::disk::{Disk, Node};

const FILE: AtomicFile<'_> = AtomicFile::new("f", 64, 0o600).with_copy();

/// A number and a full stop.
pub fn judge(bytes: &[u8]) -> Result<u64, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
    let number = text.strip_suffix('.').ok_or_else(|| "it is cut short".to_owned())?;
    number.parse().map_err(|_| "it is no number".to_owned())
}

fn defects(disk: &Disk) -> Vec<String> {
    FILE.read(disk, judge).defects.iter().map(ToString::to_string).collect()
}

#[test]
fn what_was_written_is_read_and_lies_there_twice() {
    let disk = Disk::default();
    assert!(FILE.read(&disk, judge).is_new());
    FILE.write(&disk, b"7.").unwrap();
    let retrieved = FILE.read(&disk, judge);
    assert_eq!((retrieved.value, retrieved.defects.len(), retrieved.is_new()), (Some(7), 0, false));
    assert_eq!(disk.all(), ["f", "f.copy"]);
    assert!(disk.pauses().is_empty(), "nothing is waited for");
}

#[test]
fn each_kind_of_damage_is_named_restored_from_the_copy_and_set_aside() {
    let damage = [
        (Node::File(vec![]), "it is empty"),
        (Node::File(vec![0; 30]), "it holds nothing but zeros"),
        (Node::File(b"7".to_vec()), "it is cut short"),
        (Node::File(b"\xff\xfe".to_vec()), "it is no text"),
        (Node::File(vec![b'1'; 65]), "it is larger than 64 bytes"),
        (Node::Folder, "it is not a file"),
    ];
    for (name, other) in [("f", "f.copy"), ("f.copy", "f")] {
        for (node, why) in damage.clone() {
            let disk = Disk::default();
            FILE.write(&disk, b"7.").unwrap();
            disk.put(name, node.clone());
            let retrieved = FILE.read(&disk, judge);
            assert_eq!(retrieved.value, Some(7));
            assert_eq!(defects(&disk), [format!("{name} is damaged: {why}")]);
            assert_eq!(FILE.mend(&disk, &retrieved).unwrap(), [format!("{name}.damaged-1")]);
            assert_eq!(disk.node(&format!("{name}.damaged-1")), Some(node));
            assert_eq!(disk.content(name), disk.content(other));
            assert_eq!(defects(&disk), [""; 0]);
        }
    }
}

#[test]
fn what_looks_damaged_is_read_a_second_time_before_that_is_believed() {
    let disk = Disk::default();
    disk.file("f", b"");
    let reads = disk.reads();
    assert_eq!(FILE.look(&disk, judge), Err(Condition::Damaged("it is empty".to_owned())));
    assert_eq!((disk.reads() - reads, disk.pauses().len()), (2, 1));
    assert!(disk.pauses()[0].as_secs() >= 1);
}

#[test]
fn what_cannot_be_read_is_tried_again_and_then_neither_set_aside_nor_overwritten() {
    let disk = Disk::default();
    FILE.write(&disk, b"7.").unwrap();
    disk.fail_reads(4);
    assert_eq!(FILE.read(&disk, judge).value, Some(7));
    assert!(disk.pauses().iter().sum::<std::time::Duration>().as_secs() >= 2, "{:?}", disk.pauses());

    let old = Node::Unreadable(b"9.".to_vec());
    disk.put("f", old.clone());
    let retrieved = FILE.read(&disk, judge);
    assert_eq!((retrieved.value, retrieved.may_be_replaced()), (Some(7), false));
    assert!(defects(&disk)[0].starts_with("f cannot be read: "));
    assert_eq!(FILE.mend(&disk, &retrieved).unwrap(), [""; 0]);
    assert_eq!(disk.node("f"), Some(old.clone()));

    // Nothing good beside it: that it may not be replaced is said, and the damaged one goes aside.
    disk.file("f.copy", &[0; 9]);
    let retrieved = FILE.read(&disk, judge);
    assert_eq!((retrieved.value, retrieved.may_be_replaced(), retrieved.is_new()), (None, false, false));
    assert_eq!(FILE.mend(&disk, &retrieved).unwrap(), ["f.copy.damaged-1"]);
    assert_eq!((disk.node("f"), disk.has("f.copy")), (Some(old), false));
}

#[test]
fn of_two_good_versions_the_file_counts_and_the_copy_follows() {
    let disk = Disk::default();
    FILE.write(&disk, b"7.").unwrap();
    disk.file("f", b"8.");
    let retrieved = FILE.read(&disk, judge);
    assert_eq!((retrieved.value, retrieved.defects.len()), (Some(8), 0));
    FILE.mend(&disk, &retrieved).unwrap();
    assert_eq!(disk.content("f.copy").unwrap(), b"8.");
    // One of before there were copies.
    disk.remove("f.copy").unwrap();
    FILE.mend(&disk, &FILE.read(&disk, judge)).unwrap();
    assert_eq!(disk.content("f.copy").unwrap(), b"8.");
}

#[test]
fn set_aside_overwrites_nothing_and_ends_at_a_bound() {
    let disk = Disk::default();
    for n in 1..=ASIDE_MAX + 3 {
        disk.file("f", format!("bad {n}").as_bytes());
        let aside = set_aside(&disk, "f").unwrap();
        assert_eq!(aside.is_some(), n <= ASIDE_MAX);
        assert!(!disk.has("f"));
    }
    assert_eq!(set_aside(&disk, "f").unwrap(), None);
    assert_eq!(disk.all().len() as u32, ASIDE_MAX);
    assert_eq!(disk.content("f.damaged-1").unwrap(), b"bad 1");
    assert_eq!(name_before("f.copy.damaged-12"), Some("f.copy"));
    for other in ["f", "f.damaged", "f.damaged-", "f.damaged-x", ".damaged-1"] {
        assert_eq!(name_before(other), None, "{other}");
    }
}

#[test]
fn what_a_killed_writer_left_is_swept_and_nothing_else() {
    let disk = Disk::default();
    for name in ["f", "f.copy", ".f.17", ".f.copy.18", ".f.x", ".g.17", "f.damaged-1", ".f.toml.19"] {
        disk.file(name, b"x");
    }
    sweep(&disk, "f").unwrap();
    assert_eq!(disk.all(), [".f.toml.19", ".f.x", ".g.17", "f", "f.copy", "f.damaged-1"]);
}

#[test]
fn a_failed_write_leaves_what_was_and_can_be_repeated() {
    for call in 1..=6 {
        let disk = Disk::default();
        FILE.write(&disk, b"7.").unwrap();
        disk.fail_at(call);
        assert!(FILE.write(&disk, b"8.").is_err(), "{call}");
        let value = FILE.read(&disk, judge).value.unwrap();
        assert!([7, 8].contains(&value) && defects(&disk).is_empty(), "{call}: {value}");
        FILE.write(&disk, b"8.").unwrap();
        assert_eq!(FILE.read(&disk, judge).value, Some(8));
        assert_eq!(disk.all(), ["f", "f.copy"]);
    }
}

#[test]
fn a_folder_that_cannot_be_listed_at_first_is_asked_again() {
    let disk = Disk::default();
    disk.file("f", b"x");
    assert_eq!(list(&disk), Ok(vec!["f".to_owned()]));
    disk.cut_at(1);
    assert!(disk.sync_names().is_err());
    assert!(matches!(list(&disk), Err(Condition::Unreadable(_))));
    assert_eq!(disk.pauses().len(), 4);
}
