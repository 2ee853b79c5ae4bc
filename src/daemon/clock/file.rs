//! The clock's file: one small text with a copy, kept by [`crate::durable`].
//!
//! | file | what |
//! |---|---|
//! | `clock`, `clock.copy` | what was written last ([`Saved`] has its text) |
//! | `clock.damaged-N` | one that could not be used, set aside |
//! | `clock-floor` | left by the version before; removed when `clock` is written |

use std::io;
use std::path::Path;

use crate::clock::saved::Saved;
use crate::durable::atomic_file::{self, AtomicFile, Condition, Defect, Retrieved};
use crate::durable::folder::StateFolder;
use crate::durable::io::OnDisk;

const CLOCK: AtomicFile = AtomicFile::new("clock", 4096, 0o600).with_copy();
const FLOOR: AtomicFile = AtomicFile::new("clock-floor", 256, 0o600);

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// The newest that can be used.
    pub saved: Option<Saved>,
    /// What is wrong with the files; that there are none yet is not.
    pub defects: Vec<Defect>,
    retrieved: Retrieved<Saved>,
}

/// Reads what is there. Changes nothing.
pub fn load(folder: &Path) -> Found {
    load_from(&OnDisk::new(folder))
}

/// The same of any folder.
pub fn load_from(folder: &impl StateFolder) -> Found {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let damaged = || "its checksum is wrong, or it is of another version".to_owned();
    let retrieved = CLOCK.read(folder, |bytes| Saved::parse(&text(bytes)).ok_or_else(damaged));
    let mut defects = Vec::new();
    if !retrieved.is_new() {
        defects.extend(retrieved.defects.clone());
    }
    let mut saved = retrieved.value;
    if saved.is_none() {
        match FLOOR.look(folder, |bytes| Saved::parse_floor(&text(bytes)).ok_or_else(damaged)) {
            Ok(floor) => saved = Some(floor),
            Err(Condition::Missing) => {}
            Err(condition) => defects.push(Defect { name: "clock-floor".to_owned(), condition }),
        }
    }
    Found { saved, defects, retrieved }
}

/// Puts in order what was found: damaged files are set aside, and written anew from the other one.
/// The names of those that were set aside. To be called by the daemon alone.
///
/// # Errors
/// What the system said.
pub fn mend(folder: &Path, found: &Found) -> io::Result<Vec<String>> {
    mend_in(&OnDisk::new(folder), found)
}

/// The same in any folder.
///
/// # Errors
/// What the system said.
pub fn mend_in(folder: &impl StateFolder, found: &Found) -> io::Result<Vec<String>> {
    let aside = CLOCK.mend(folder, &found.retrieved)?;
    atomic_file::sweep(folder, "clock")?;
    Ok(aside)
}

/// Writes it, so that a power cut at any moment leaves this one or the one before.
///
/// # Errors
/// What the system said; one whole version is there all the same.
pub fn store(folder: &Path, saved: &Saved) -> io::Result<()> {
    store_in(&OnDisk::new(folder), saved)
}

/// The same in any folder.
///
/// # Errors
/// What the system said.
pub fn store_in(folder: &impl StateFolder, saved: &Saved) -> io::Result<()> {
    CLOCK.write(folder, saved.encode().as_bytes())?;
    if folder.has("clock-floor") {
        folder.remove("clock-floor")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixTime;
    use std::fs;
    use std::path::PathBuf;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("tombolo-clock-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn saved(certain: u64) -> Saved {
        Saved { certain: UnixTime(certain), ..Saved::default() }
    }

    #[test]
    fn damage_to_the_file_costs_nothing_and_is_set_aside() {
        let folder = Folder::new("damage");
        let found = load(&folder.0);
        assert!(found.saved.is_none() && found.defects.is_empty());
        store(&folder.0, &saved(1)).unwrap();
        store(&folder.0, &saved(2)).unwrap();
        fs::write(folder.0.join("clock"), "tombolo-clock 1\ncertain 9\n").unwrap();
        let found = load(&folder.0);
        assert_eq!(found.saved, Some(saved(2)));
        assert!(found.defects[0].to_string().contains("clock is damaged"), "{}", found.defects[0]);
        assert_eq!(mend(&folder.0, &found).unwrap(), ["clock.damaged-1"]);
        assert_eq!(folder.names(), ["clock", "clock.copy", "clock.damaged-1"]);
        assert!(load(&folder.0).defects.is_empty());
    }

    #[test]
    fn what_the_version_before_left_is_taken_over_once() {
        let folder = Folder::new("floor");
        let text = format!("2085978496 {:08x}\n", crc32c::crc32c(b"2085978496"));
        fs::write(folder.0.join("clock-floor"), text).unwrap();
        let found = load(&folder.0);
        assert!(found.defects.is_empty());
        let taken = found.saved.unwrap();
        assert_eq!(taken.certain, UnixTime(0));
        assert_eq!(taken.timeline.unwrap().known.wall, UnixTime::from_secs(2_085_978_496));
        store(&folder.0, &taken).unwrap();
        assert_eq!(folder.names(), ["clock", "clock.copy"]);
        assert_eq!(load(&folder.0).saved, Some(taken));
    }
}
