//! Whose turn it is to fetch an image, or to change a folder of images: one at a time. A disk that
//! does not answer below one folder keeps the turn for [`HANGS_AFTER`] at most; then the others go
//! on. Pure.
//!
//! A thread in a disk call cannot be called off: it is named until it comes back, and the folder is
//! left to it. There are as many such threads as there are folders, at most.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Without one more byte for so long, a download does not wait for its server, which is given up
/// sooner, but for its disk. Hashing what is here already is no progress: an image of 1 GiB takes a
/// slow card two minutes.
const HANGS_AFTER: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Default)]
pub(super) struct Turn {
    holder: Option<u64>,
    all: BTreeMap<u64, Work>,
    next: u64,
}

/// What was begun and has not ended.
struct Work {
    what: String,
    folder: PathBuf,
    have: Arc<AtomicU64>,
    seen: u64,
    moved_at: Instant,
    hangs: bool,
}

impl Turn {
    /// Whether work on this folder may begin: nobody has it, and none on that folder has not ended,
    /// which would write the same files.
    pub fn is_free(&self, folder: &Path) -> bool {
        self.holder.is_none() && self.all.values().all(|work| work.folder != folder)
    }

    /// Takes it for work on a folder; `what` it is, for people, and `have` how many bytes are here.
    /// Its number, for [`Turn::end`].
    pub fn take(&mut self, now: Instant, what: String, folder: PathBuf, have: Arc<AtomicU64>) -> u64 {
        let number = self.next;
        self.next += 1;
        let seen = have.load(Ordering::Relaxed);
        let work = Work { what, folder, have, seen, moved_at: now, hangs: false };
        self.all.insert(number, work);
        self.holder = Some(number);
        number
    }

    /// The work has ended.
    pub fn end(&mut self, number: u64) {
        if let Some(work) = self.all.remove(&number).filter(|work| work.hangs) {
            log::info!(folder:% = work.folder.display(); "the disk answers again");
        }
        self.holder = self.holder.filter(|holder| *holder != number);
    }

    /// Once a second: takes the turn from work that hangs.
    pub fn care(&mut self, now: Instant) {
        for (number, work) in &mut self.all {
            let have = work.have.load(Ordering::Relaxed);
            if have != work.seen {
                (work.seen, work.moved_at) = (have, now);
            }
            work.hangs = now.saturating_duration_since(work.moved_at) >= HANGS_AFTER;
            if work.hangs && self.holder == Some(*number) {
                self.holder = None;
                log::error!(what = work.what.as_str(), folder:% = work.folder.display();
                    "the disk does not answer: other images are fetched meanwhile");
            }
        }
    }

    /// Folders whose disk does not answer, and how many bytes of their images are here.
    pub fn hanging(&self) -> impl Iterator<Item = (&PathBuf, u64)> {
        self.all.values().filter(|work| work.hangs).map(|work| (&work.folder, work.seen))
    }

    /// One sentence for each.
    pub fn problems(&self, now: Instant) -> Vec<String> {
        let hanging = self.all.values().filter(|work| work.hangs);
        let sentence = |work: &Work| {
            format!(
                "{} has not gone on for {} min: the disk of {} does not answer; images for other folders are fetched meanwhile, \
                 and this one goes on when the disk does",
                work.what,
                now.saturating_duration_since(work.moved_at).as_secs() / 60,
                work.folder.display()
            )
        };
        hanging.map(sentence).collect()
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;

    #[test]
    fn a_folder_whose_disk_does_not_answer_holds_up_the_others_for_a_while_only() {
        let (mut turn, now) = (Turn::default(), Instant::now());
        let have: Arc<AtomicU64> = Arc::default();
        let lock = Path::new("/f/lock");
        let hung = turn.take(now, "the firmware for door".to_owned(), "/f/door".into(), have.clone());
        turn.care(now + HANGS_AFTER / 2);
        have.store(1, Ordering::Relaxed);
        turn.care(now + HANGS_AFTER);
        assert!(!turn.is_free(lock) && turn.problems(now).is_empty(), "it goes on");
        let late = now + HANGS_AFTER * 2;
        turn.care(late);
        assert!(turn.is_free(lock) && !turn.is_free(Path::new("/f/door")), "that one is left to it");
        assert_eq!(turn.hanging().collect::<Vec<_>>(), [(&PathBuf::from("/f/door"), 1)]);
        assert!(turn.problems(late)[0].contains("the firmware for door has not gone on for 10 min"));
        let other = turn.take(late, "the firmware for lock".to_owned(), "/f/lock".into(), Arc::default());
        // The first one comes back: the second one keeps its turn.
        turn.end(hung);
        assert!(!turn.is_free(Path::new("/f/bell")) && turn.hanging().next().is_none());
        turn.end(other);
        assert!(turn.is_free(lock) && turn.is_free(Path::new("/f/door")));
    }
}
