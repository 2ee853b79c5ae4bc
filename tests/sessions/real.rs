//! On a real disk: the directory, its lock, its key, and what is left for the next process.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use tombolo::session_store::Batch;
use tombolo::session_store::io::{self, OpenError, Store};

/// A folder of its own for each test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn below(root: &str) -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique =
            format!("tombolo-store-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = PathBuf::from(root).join(unique);
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    pub fn new() -> Folder {
        Folder::below(std::env::temp_dir().to_str().unwrap())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn one(number: u64) -> Batch {
    Batch { ended: [].into(), established: [(number, vec![number as u8; 200])].into() }
}

#[test]
fn what_was_stored_is_there_again_under_the_same_key() {
    let folder = Folder::new();
    let path = folder.0.join("sessions");
    let mut keys = Vec::new();
    for round in 1..=3u64 {
        let opened = Store::open(&path).unwrap();
        assert_eq!(opened.run, round as u32);
        let numbers: Vec<u64> = opened.kept.iter().map(|kept| kept.number).collect();
        assert_eq!(numbers, (1..round).collect::<Vec<u64>>());
        assert_eq!(opened.next, round);
        let mut store = opened.store;
        store.submit(&mut one(round));
        store.close();
        assert_eq!(store.status().stored, round as usize);
        assert_eq!(store.status().trouble, None);
        for (name, mode) in [("", 0o700), ("key", 0o600), ("log", 0o600)] {
            assert_eq!(fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777, mode, "{name}");
        }
        keys.push(fs::read(path.join("key")).unwrap());
    }
    assert!(keys.iter().all(|key| *key == keys[0] && key.len() == 44));
    assert_ne!(keys[0][8..40], [0; 32]);
}

#[test]
fn one_process_has_it_at_a_time() {
    let folder = Folder::new();
    let path = folder.0.join("sessions");
    let first = Store::open(&path).unwrap();
    assert!(matches!(Store::open(&path), Err(OpenError::InUse(_))));
    assert!(matches!(io::clear(&path), Err(OpenError::InUse(_))));
    drop(first);
    assert!(Store::open(&path).is_ok());
}

#[test]
fn a_damaged_key_is_replaced_and_the_log_goes_with_it() {
    let folder = Folder::new();
    let path = folder.0.join("sessions");
    let store = Store::open(&path).unwrap().store;
    store.submit(&mut one(1));
    drop(store);
    let before = fs::read(path.join("key")).unwrap();
    for damaged in [&before[..20], &[], &[7; 44]] {
        fs::write(path.join("key"), damaged).unwrap();
        let opened = Store::open(&path).unwrap();
        assert_eq!(opened.kept, []);
        assert_ne!(fs::read(path.join("key")).unwrap(), before);
    }
    // A key of another major version may be of use again.
    let mut other = fs::read(path.join("key")).unwrap();
    other[4] = 2;
    let crc = crc32c::crc32c(&other[..40]).to_le_bytes();
    other[40..].copy_from_slice(&crc);
    fs::write(path.join("key"), &other).unwrap();
    assert_eq!(Store::open(&path).unwrap().kept, []);
    assert_eq!(fs::read(path.join("key.unknown-1")).unwrap(), other);
    assert!(path.join("log.unknown-1").exists());
}

#[test]
fn without_persistence_nothing_is_left() {
    let folder = Folder::new();
    let path = folder.0.join("sessions");
    io::clear(&path).unwrap();
    assert!(!path.exists(), "nothing is made either");
    let store = Store::open(&path).unwrap().store;
    store.submit(&mut one(1));
    drop(store);
    for name in ["log.unknown-1", "key.unknown-1", "log.damaged", "log.new", "somebody-elses"] {
        fs::write(path.join(name), b"x").unwrap();
    }
    io::clear(&path).unwrap();
    let left: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["somebody-elses"]);
}

#[test]
fn a_directory_others_can_read_is_closed_and_a_link_refused() {
    let folder = Folder::new();
    let path = folder.0.join("sessions");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    drop(Store::open(&path).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    let link = folder.0.join("link");
    symlink(&path, &link).unwrap();
    assert!(matches!(Store::open(&link), Err(OpenError::Failed(..))));
    assert!(matches!(Store::open(&folder.0.join("no/such")), Err(OpenError::Failed(..))));
}

#[test]
fn a_handover_is_taken_once_in_its_boot_from_memory_only() {
    let sessions = vec![(3, vec![1; 200]), (1, vec![2; 100])];
    let folder = Folder::below("/dev/shm");
    assert!(io::leave_handover(&folder.0, &[7; 16], &sessions).unwrap());
    let path = folder.0.join("sessions");
    let mode = fs::metadata(&path).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(io::take_handover(&folder.0, Some(&[7; 16])), sessions);
    assert!(!path.exists());
    assert_eq!(io::take_handover(&folder.0, Some(&[7; 16])), []);
    // Of another boot, readable by others, with another name beside it, a link: not taken, and
    // gone.
    assert!(io::leave_handover(&folder.0, &[8; 16], &sessions).unwrap());
    assert_eq!(io::take_handover(&folder.0, Some(&[7; 16])), []);
    assert!(io::leave_handover(&folder.0, &[7; 16], &sessions).unwrap());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(io::take_handover(&folder.0, Some(&[7; 16])), []);
    assert!(io::leave_handover(&folder.0, &[7; 16], &sessions).unwrap());
    fs::hard_link(&path, folder.0.join("copy")).unwrap();
    assert_eq!(io::take_handover(&folder.0, Some(&[7; 16])), []);
    assert!(!path.exists());
    symlink(folder.0.join("copy"), &path).unwrap();
    assert_eq!(io::take_handover(&folder.0, Some(&[7; 16])), []);
}

#[test]
fn nothing_is_handed_over_on_a_disk() {
    // The folder this is built in is on one.
    let folder = Folder::below(env!("CARGO_TARGET_TMPDIR"));
    assert!(!io::leave_handover(&folder.0, &[7; 16], &[(1, vec![1; 9])]).unwrap());
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
}
