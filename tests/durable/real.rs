//! On the real disk.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tombolo::durable::atomic_file::{AtomicFile, Condition, list};
use tombolo::durable::folder::StateFolder as _;
use tombolo::durable::io::{OnDisk, create_directory, write_atomically};

use crate::rules::judge;

struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique =
            format!("tombolo-durable-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(unique);
        fs::create_dir(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const FILE: AtomicFile<'_> = AtomicFile::new("f", 64, 0o640).with_copy();

fn names(folder: &Path) -> Vec<String> {
    let mut names = list(&OnDisk::new(folder)).unwrap();
    names.sort();
    names
}

#[test]
fn a_file_and_its_copy_are_written_with_their_mode_and_nothing_stays_beside_them() {
    let folder = Folder::new();
    let disk = OnDisk::new(&folder.0);
    for n in 0..3 {
        FILE.write(&disk, format!("{n}.").as_bytes()).unwrap();
        assert_eq!(FILE.read(&disk, judge).value, Some(n));
    }
    assert_eq!(names(&folder.0), ["f", "f.copy"]);
    for name in ["f", "f.copy"] {
        let about = fs::metadata(folder.0.join(name)).unwrap();
        assert_eq!((about.permissions().mode() & 0o7777, about.nlink()), (0o640, 1), "{name}");
    }
    write_atomically(&folder.0.join("g"), b"x", 0o600).unwrap();
    assert_eq!(fs::read(folder.0.join("g")).unwrap(), b"x");
    create_directory(&folder.0.join("a/b")).unwrap();
    assert_eq!(fs::metadata(folder.0.join("a/b")).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn whatever_stands_in_the_place_of_a_file_is_set_aside_and_restored() {
    type Spoil = fn(&Path);
    let spoils: [(Spoil, &str); 7] = [
        (|path| fs::write(path, "").unwrap(), "it is empty"),
        (|path| fs::write(path, [0; 4096]).unwrap(), "it is larger than 64 bytes"),
        (|path| fs::File::create(path).unwrap().set_len(1 << 40).unwrap(), "it is larger than 64 bytes"),
        (
            |path| {
                fs::remove_file(path).unwrap();
                fs::create_dir_all(path.join("with/content")).unwrap();
            },
            "it is not a file",
        ),
        (
            |path| {
                fs::remove_file(path).unwrap();
                nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            },
            "it is not a file",
        ),
        (
            |path| {
                fs::remove_file(path).unwrap();
                drop(UnixListener::bind(path).unwrap());
            },
            "it is not a file",
        ),
        (
            |path| {
                fs::remove_file(path).unwrap();
                symlink("/dev/zero", path).unwrap();
            },
            "it is not a file",
        ),
    ];
    for (number, (spoil, why)) in spoils.into_iter().enumerate() {
        let folder = Folder::new();
        // Only the first is looked at twice.
        let patience = Duration::from_millis(if number == 0 { 1_500 } else { 0 });
        let disk = OnDisk::with_patience(&folder.0, patience);
        FILE.write(&disk, b"7.").unwrap();
        spoil(&folder.0.join("f"));
        let retrieved = FILE.read(&disk, judge);
        assert_eq!(retrieved.value, Some(7));
        assert_eq!(retrieved.defects[0].to_string(), format!("f is damaged: {why}"));
        FILE.mend(&disk, &retrieved).unwrap();
        assert_eq!(names(&folder.0), ["f", "f.copy", "f.damaged-1"]);
        assert_eq!(fs::read(folder.0.join("f")).unwrap(), b"7.");
    }
}

#[test]
fn a_folder_in_the_place_of_a_file_does_not_stop_a_write() {
    let folder = Folder::new();
    let disk = OnDisk::new(&folder.0);
    fs::create_dir_all(folder.0.join("f/x")).unwrap();
    FILE.write(&disk, b"7.").unwrap();
    assert_eq!(names(&folder.0), ["f", "f.copy", "f.damaged-1"]);
}

#[test]
fn a_folder_that_is_none_or_not_there_is_told_apart() {
    let folder = Folder::new();
    fs::write(folder.0.join("file"), "x").unwrap();
    assert_eq!(list(&OnDisk::new(&folder.0.join("no"))), Err(Condition::Missing));
    let inside = OnDisk::new(&folder.0.join("file"));
    assert!(matches!(list(&inside), Err(Condition::Damaged(_))));
    assert_eq!(FILE.look(&inside, judge), Err(Condition::Missing));
    assert!(FILE.write(&OnDisk::new(&folder.0.join("no")), b"7.").is_err());
}

#[test]
fn waiting_ends_however_many_files_are_damaged() {
    let folder = Folder::new();
    let disk = OnDisk::with_patience(&folder.0, Duration::from_millis(10));
    assert!(disk.pause(Duration::from_millis(6)));
    assert!(!disk.pause(Duration::from_millis(6)), "more than there was patience for");
    assert!(disk.pause(Duration::from_millis(4)));
    assert!(!disk.pause(Duration::from_millis(1)));
    fs::write(folder.0.join("f"), "").unwrap();
    assert_eq!(FILE.look(&disk, judge), Err(Condition::Damaged("it is empty".to_owned())));
}
