//! Whether the disk has room for what the journal may yet take, looked at now and then off the
//! path's thread.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;
use tokio::task::JoinHandle;

/// How often.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Less is as good as nothing: a segment of the journal, a few files of the state directory.
pub const LEAST: u64 = 16 << 20;
/// What the problem begins with.
pub const NEARLY_FULL: &str = "the disk of the journal is nearly full";

/// Bytes that are free, and that the journal's files have already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Free to this user.
    pub free: u64,
    /// Of the journal.
    pub used: u64,
}

impl Room {
    /// At a folder, with the journal's files in `directory`.
    ///
    /// # Errors
    /// Of the system call.
    pub fn look(place: &Path, directory: &Path) -> io::Result<Room> {
        let space = statvfs(place)?;
        #[allow(clippy::useless_conversion, reason = "both are narrower on 32-bit targets")]
        let free = u64::from(space.blocks_available()).saturating_mul(u64::from(space.fragment_size()));
        Ok(Room { free, used: used(directory) })
    }

    /// What of `max` is yet to come.
    pub fn to_come(&self, max: u64) -> u64 {
        max.saturating_sub(self.used)
    }

    /// There is nearly no room, and the journal needs some.
    pub fn is_nearly_full(&self, max: u64) -> bool {
        self.free < self.to_come(max) && self.free < LEAST
    }
}

/// Bytes the journal's files have on disk.
fn used(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => used(&entry.path()),
            Ok(found) => found.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Looks at it.
#[derive(Default)]
pub struct DiskRoom {
    looked: Option<Instant>,
    running: Option<JoinHandle<Option<Room>>>,
    found: Option<Room>,
}

impl DiskRoom {
    /// Once a second.
    pub async fn care(&mut self, now: Instant, directory: &Path) {
        if let Some(running) = self.running.take_if(|running| running.is_finished()) {
            self.found = running.await.ok().flatten();
        }
        let is_due = self.looked.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_EVERY);
        if is_due && self.running.is_none() {
            self.looked = Some(now);
            let directory = directory.to_owned();
            self.running = Some(tokio::task::spawn_blocking(move || Room::look(&directory, &directory).ok()));
        }
    }

    /// That it is nearly full, in words that stay the same.
    pub fn problem(&self, directory: &Path, max: u64) -> Option<String> {
        self.found.filter(|room| room.is_nearly_full(max)).map(|_| {
            format!(
                "{NEARLY_FULL}: less than 16 MiB are free on {}, and the journal may yet take more; make room, or lower \
                 [journal] max-bytes",
                directory.display()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_nearly_full_where_the_journal_needs_more_than_there_is() {
        let room = |free, used| Room { free, used };
        assert!(room(0, 1 << 20).is_nearly_full(9 << 20));
        assert!(room(LEAST - 1, 0).is_nearly_full(1 << 30));
        assert!(!room(LEAST, 0).is_nearly_full(1 << 30), "there is room for some time");
        assert!(!room(0, 9 << 20).is_nearly_full(9 << 20), "it has all that it may take");
    }

    #[test]
    fn a_nearly_full_disk_is_a_problem_that_names_the_place() {
        let (place, max) = (Path::new("/srv/journal"), 9 << 20);
        let mut disk = DiskRoom::default();
        assert_eq!(disk.problem(place, max), None, "nothing is known yet");
        disk.found = Some(Room { free: 0, used: 0 });
        assert!(disk.problem(place, max).is_some_and(|text| text.contains("/srv/journal")));
        disk.found = Some(Room { free: LEAST, used: 0 });
        assert_eq!(disk.problem(place, max), None);
    }
}
