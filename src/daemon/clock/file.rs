//! The clock's file: written beside and renamed, with the one before kept as a fall-back.
//!
//! | file | what |
//! |---|---|
//! | `clock` | what was written last ([`Saved`] has its text) |
//! | `clock.previous` | what was written before that |
//! | `clock.new` | on its way |
//! | `clock.damaged` | one that could not be read, set aside |
//! | `clock-floor` | left by the version before; removed when `clock` is written |

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::Path;

use nix::unistd::Uid;

use crate::clock::saved::Saved;

const CURRENT: &str = "clock";
const PREVIOUS: &str = "clock.previous";
const NEW: &str = "clock.new";
const DAMAGED: &str = "clock.damaged";
const FLOOR: &str = "clock-floor";

/// Longer ones are none of ours.
const LENGTH_MAX: u64 = 4096;

/// What is wrong with a file.
#[derive(Debug)]
pub struct Fault {
    name: &'static str,
    /// `None`: it was read, and is damaged.
    error: Option<io::Error>,
}

impl Fault {
    /// Whether it could not be read, so that nothing is known of what is in it.
    pub fn is_unread(&self) -> bool {
        self.error.is_some()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.error {
            None => write!(f, "the clock's file `{}` is damaged, or of another version", self.name),
            Some(error) => write!(f, "the clock's file `{}` cannot be read: {error}", self.name),
        }
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// The newest that can be read.
    pub saved: Option<Saved>,
    /// What was wrong with those before it.
    pub faults: Vec<Fault>,
}

/// Reads the newest that can be read. Changes nothing.
pub fn load(folder: &Path) -> Found {
    let mut found = Found::default();
    for (name, parse) in [
        (CURRENT, Saved::parse as fn(&str) -> Option<Saved>),
        (PREVIOUS, Saved::parse),
        (FLOOR, Saved::parse_floor),
    ] {
        match read(&folder.join(name)) {
            Ok(text) => match parse(&text) {
                Some(saved) => {
                    found.saved = Some(saved);
                    break;
                }
                None => found.faults.push(Fault { name, error: None }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => found.faults.push(Fault { name, error: Some(error) }),
        }
    }
    found
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LENGTH_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Moves a damaged file aside; the name it has now. What cannot be read now may be readable later, and stays.
///
/// # Errors
/// What the system said.
pub fn set_aside(folder: &Path, fault: &Fault) -> io::Result<Option<&'static str>> {
    if fault.error.is_some() {
        return Ok(None);
    }
    fs::rename(folder.join(fault.name), folder.join(DAMAGED))?;
    Ok(Some(DAMAGED))
}

/// Writes it so that a power cut at any moment leaves this one or the one before.
///
/// # Errors
/// What the system said; what was there before is then still there.
pub fn store(folder: &Path, saved: &Saved) -> io::Result<()> {
    let new = folder.join(NEW);
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(saved.encode().as_bytes())?;
    let owner = fs::metadata(folder)?;
    if Uid::effective().is_root() && owner.uid() != 0 {
        // Written by root's command, it is read by the daemon's user.
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    file.sync_all()?;
    match fs::rename(folder.join(CURRENT), folder.join(PREVIOUS)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::rename(&new, folder.join(CURRENT))?;
    File::open(folder)?.sync_all()?;
    match fs::remove_file(folder.join(FLOOR)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixTime;
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
    fn what_was_written_is_found_and_the_one_before_is_the_fall_back() {
        let folder = Folder::new("fall-back");
        assert!(load(&folder.0).saved.is_none());
        store(&folder.0, &saved(1)).unwrap();
        store(&folder.0, &saved(2)).unwrap();
        assert_eq!(load(&folder.0).saved, Some(saved(2)));
        assert_eq!(folder.names(), [CURRENT, PREVIOUS]);
        for (number, bytes) in [&b""[..], b"\0\0\0\0\0\0\0\0", b"tombolo-clock 1\ncertain 9\n", &[0xFF; 8192]]
            .into_iter()
            .enumerate()
        {
            store(&folder.0, &saved(3)).unwrap();
            store(&folder.0, &saved(4)).unwrap();
            fs::write(folder.0.join(CURRENT), bytes).unwrap();
            let found = load(&folder.0);
            assert_eq!(found.saved, Some(saved(3)), "{number}");
            assert_eq!(set_aside(&folder.0, &found.faults[0]).unwrap(), Some(DAMAGED));
            assert_eq!(fs::read(folder.0.join(DAMAGED)).unwrap(), bytes);
            assert_eq!(load(&folder.0).saved, Some(saved(3)));
        }
    }

    #[test]
    fn a_power_cut_at_any_step_leaves_one_of_the_two() {
        let folder = Folder::new("power-cut");
        store(&folder.0, &saved(1)).unwrap();
        // After the first rename, and with a new file that was never finished.
        fs::rename(folder.0.join(CURRENT), folder.0.join(PREVIOUS)).unwrap();
        fs::write(folder.0.join(NEW), "tombolo-cl").unwrap();
        let found = load(&folder.0);
        assert_eq!(found.saved, Some(saved(1)));
        assert!(found.faults.is_empty());
        store(&folder.0, &saved(2)).unwrap();
        assert_eq!(load(&folder.0).saved, Some(saved(2)));
    }

    #[test]
    fn what_the_version_before_left_is_taken_over_once() {
        let folder = Folder::new("floor");
        let text = format!("2085978496 {:08x}\n", crc32c::crc32c(b"2085978496"));
        fs::write(folder.0.join(FLOOR), text).unwrap();
        let found = load(&folder.0).saved.unwrap();
        assert_eq!(found.certain, UnixTime(0));
        assert_eq!(found.timeline.unwrap().known.wall, UnixTime::from_secs(2_085_978_496));
        store(&folder.0, &found).unwrap();
        assert_eq!(folder.names(), [CURRENT]);
        assert_eq!(load(&folder.0).saved, Some(found));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_left_where_it_is() {
        let folder = Folder::new("unreadable");
        fs::create_dir(folder.0.join(CURRENT)).unwrap();
        let found = load(&folder.0);
        assert!(found.saved.is_none());
        assert!(found.faults[0].to_string().contains("cannot be read"), "{}", found.faults[0]);
        assert_eq!(set_aside(&folder.0, &found.faults[0]).unwrap(), None);
        assert_eq!(folder.names(), [CURRENT]);
    }
}
