//! A small text of the state that is read once at the start, and written whole off the path's
//! thread.
//!
//! | the file | at the start | later |
//! |---|---|---|
//! | is damaged | set aside as `NAME.damaged-N`, named by `status` and `check`; a new one is begun | written |
//! | is not given by the disk | left alone; a new one is begun in memory | asked for again every [`RETRY`]; not written until it is given: what is there may be good |
//! | cannot be written | | named, and tried again every [`RETRY`] |

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::durable::atomic_file::{self, AtomicFile, Retrieved};
use crate::durable::io::OnDisk;

/// Between two attempts where the disk errs.
pub const RETRY: Duration = Duration::from_secs(60);
/// How long a stop waits for a write under way.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// What was read, and the names under which damage was set aside.
type Found = (Retrieved<Vec<u8>>, Result<Vec<String>, String>);

/// See the module.
pub struct KeptText {
    directory: PathBuf,
    name: String,
    shape: Shape,
    /// What it costs that it cannot be read or written, as half a sentence.
    cost: &'static str,
    begun_at: Option<Instant>,
    writing: Option<Receiver<Result<(), Unwritten>>>,
    /// What is asked for again.
    reading: Option<Receiver<Found>>,
    is_unread: bool,
    failing: Option<String>,
    /// The last text could not be written because the folder is not there.
    is_missed: bool,
    aside: Vec<String>,
}

/// Why a text could not be written.
struct Unwritten {
    why: String,
    /// There is no such folder.
    is_missed: bool,
}

/// What the file may be.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Most bytes.
    pub max_bytes: u64,
    /// Whether it has a copy, so that damage to one of the two costs nothing.
    pub has_copy: bool,
}

impl Shape {
    /// The file of this name.
    pub fn file(self, name: &str) -> AtomicFile<'_> {
        let file = AtomicFile::new(name, self.max_bytes, 0o600);
        if self.has_copy { file.with_copy() } else { file }
    }
}

impl KeptText {
    /// One that is not there yet.
    pub fn new(directory: &Path, name: &str, shape: Shape, cost: &'static str) -> KeptText {
        KeptText {
            directory: directory.to_owned(),
            name: name.to_owned(),
            shape,
            cost,
            begun_at: None,
            writing: None,
            reading: None,
            is_unread: false,
            failing: None,
            is_missed: false,
            aside: Vec::new(),
        }
    }

    /// Reads it. Blocks; at the start only.
    pub fn open<T>(
        directory: &Path,
        name: &str,
        shape: Shape,
        cost: &'static str,
        parse: impl Fn(&[u8]) -> Result<T, String>,
    ) -> (KeptText, Option<T>) {
        let folder = OnDisk::new(directory);
        // What a killed process left behind is in nobody's way.
        let _ = atomic_file::sweep(&folder, name);
        let file = shape.file(name);
        let retrieved = file.read(&folder, parse);
        let mut kept = KeptText::new(directory, name, shape, cost);
        kept.is_unread = !retrieved.may_be_replaced();
        for defect in retrieved.defects.iter().filter(|_| !retrieved.is_new()) {
            let shown = format!("{}: {}; {cost}", directory.join(&defect.name).display(), defect.condition);
            log::error!("{shown}");
            kept.failing = Some(shown).filter(|_| kept.is_unread);
        }
        match file.mend(&folder, &retrieved) {
            Ok(aside) => kept.aside = aside,
            Err(error) => log::error!(reason:% = error; "a damaged {name} cannot be set aside"),
        }
        (kept, retrieved.value)
    }

    /// Once a second, where the disk did not give the file at the start: asks for it again, and
    /// returns what it is once it is given. Never waits for the disk.
    pub fn retry<T: 'static>(&mut self, now: Instant, parse: fn(&[u8]) -> Result<T, String>) -> Option<T> {
        if !self.is_unread {
            return None;
        }
        let is_due = self.begun_at.is_none_or(|at| now.saturating_duration_since(at) >= RETRY);
        if self.reading.is_none() && is_due {
            self.begun_at = Some(now);
            let (sender, receiver) = channel();
            let (directory, name, shape) = (self.directory.clone(), self.name.clone(), self.shape);
            tokio::task::spawn_blocking(move || {
                let (folder, file) = (OnDisk::new(&directory), shape.file(&name));
                let retrieved = file.read(&folder, |bytes| parse(bytes).map(|_| bytes.to_vec()));
                let aside = file.mend(&folder, &retrieved).map_err(|error| error.to_string());
                sender.send((retrieved, aside))
            });
            self.reading = Some(receiver);
        }
        let (retrieved, aside) = self.reading.as_ref()?.try_recv().ok()?;
        self.reading = None;
        match aside {
            Ok(aside) => self.aside.extend(aside),
            Err(error) => log::error!(reason:% = error; "a damaged {} cannot be set aside", self.name),
        }
        if !retrieved.may_be_replaced() {
            return None;
        }
        (self.is_unread, self.failing, self.begun_at) = (false, None, None);
        log::info!("{} is read now", self.directory.join(&self.name).display());
        parse(&retrieved.value?).ok()
    }

    /// Whether a text may be written now: none is being written, and the last one failed a while
    /// ago, if it did.
    pub fn is_ready(&mut self, now: Instant) -> bool {
        self.poll();
        let waits = self.failing.is_some()
            && self.begun_at.is_some_and(|at| now.saturating_duration_since(at) < RETRY);
        self.writing.is_none() && !self.is_unread && !waits
    }

    /// Whether the last text that was written is on disk.
    pub fn is_stored(&self) -> bool {
        self.writing.is_none() && self.failing.is_none() && self.begun_at.is_some()
    }

    /// Writes a text; [`KeptText::is_ready`] must have said so. Never waits for the disk.
    pub fn write(&mut self, now: Instant, text: String) {
        self.begun_at = Some(now);
        let (sender, receiver) = channel();
        let (directory, name, shape) = (self.directory.clone(), self.name.clone(), self.shape);
        tokio::task::spawn_blocking(move || sender.send(store(&directory, &shape.file(&name), &text)));
        self.writing = Some(receiver);
    }

    /// Whether the last text could not be written, or what is there not be read.
    pub fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    /// Whether the last text could not be written because the folder is not there.
    pub fn is_missed(&self) -> bool {
        self.is_missed
    }

    /// The folder is there: what could not be written for want of it is written at once. Whether
    /// that was so.
    pub fn hurry(&mut self) -> bool {
        if self.is_missed {
            self.begun_at = None;
        }
        self.is_missed
    }

    /// Whether a text is being written.
    pub fn is_busy(&mut self) -> bool {
        self.poll();
        self.writing.is_some()
    }

    /// At the stop: waits for a write under way. Blocks.
    pub fn finish(&mut self) {
        if let Some(written) = self.writing.take().and_then(|writing| writing.recv_timeout(LAST_WRITE).ok()) {
            self.settle(written);
        }
    }

    /// At the stop: writes the last one. Blocks.
    pub fn close(&mut self, text: &str) {
        self.finish();
        if !self.is_unread {
            self.settle(store(&self.directory, &self.shape.file(&self.name), text));
        }
    }

    /// What is wrong, one sentence each, beside what is `known`.
    pub fn problems(&self, known: &[String]) -> Vec<String> {
        self.failing.iter().cloned().chain(set_aside(&self.directory, &self.aside, known)).collect()
    }

    fn poll(&mut self) {
        if let Some(written) = self.writing.as_ref().and_then(|writing| writing.try_recv().ok()) {
            self.writing = None;
            self.settle(written);
        }
    }

    fn settle(&mut self, written: Result<(), Unwritten>) {
        self.is_missed = written.as_ref().is_err_and(|error| error.is_missed);
        let failing = written.err().map(|Unwritten { why, .. }| {
            format!("{}: cannot be written: {why}; {}", self.directory.join(&self.name).display(), self.cost)
        });
        if let Some(failing) = failing.as_ref().filter(|failing| self.failing.as_ref() != Some(*failing)) {
            log::error!("{failing}");
        }
        self.failing = failing;
    }
}

/// A sentence for each file that was set aside under one of these names, beside what is `known`.
pub(super) fn set_aside(
    directory: &Path,
    names: &[String],
    known: &[String],
) -> impl Iterator<Item = String> {
    let news = names.iter().filter(|name| !known.iter().any(|known| known.contains(name.as_str())));
    news.map(|name| {
        let path = directory.join(name);
        format!("{}: a state file was damaged, and set aside under this name", path.display())
    })
}

fn store(directory: &Path, file: &AtomicFile<'_>, text: &str) -> Result<(), Unwritten> {
    file.write(&OnDisk::new(directory), text.as_bytes()).map_err(|error| {
        let is_missed = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
        Unwritten { why: error.to_string(), is_missed }
    })
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { max_bytes: 64, has_copy: false };

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("tombolo-kept-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).expect("a folder");
            Folder(path)
        }

        fn open(&self) -> (KeptText, Option<String>) {
            let parse = |bytes: &[u8]| match bytes.starts_with(b"good") {
                true => Ok(String::from_utf8_lossy(bytes).into_owned()),
                false => Err("its checksum is wrong".to_owned()),
            };
            KeptText::open(&self.0, "kept", SHAPE, "it is counted anew", parse)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// Waits until it is written, as the daemon does once a second.
    fn written(kept: &mut KeptText) {
        while kept.writing.is_some() {
            kept.poll();
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_a_restart() {
        let (folder, now) = (Folder::new("restart"), Instant::now());
        let (mut kept, before) = folder.open();
        assert_eq!((before, kept.is_ready(now), kept.is_stored()), (None, true, false));
        kept.write(now, "good 1".to_owned());
        assert!(!kept.is_ready(now), "one is being written");
        written(&mut kept);
        assert!(kept.is_stored() && kept.is_ready(now) && kept.problems(&[]).is_empty());
        kept.close("good 2");
        assert_eq!(folder.open().1.as_deref(), Some("good 2"));
    }

    #[tokio::test]
    async fn a_damaged_one_is_set_aside_and_named_and_the_next_is_written() {
        let (folder, now) = (Folder::new("damaged"), Instant::now());
        std::fs::write(folder.0.join("kept"), "bad").expect("a file");
        let (mut kept, before) = folder.open();
        assert_eq!((before, kept.is_ready(now)), (None, true));
        assert!(kept.problems(&[])[0].contains("kept.damaged-1"), "{:?}", kept.problems(&[]));
        assert!(kept.problems(&["x kept.damaged-1 y".to_owned()]).is_empty(), "said by others");
        kept.close("good 3");
        assert_eq!(folder.open().1.as_deref(), Some("good 3"));
    }

    #[tokio::test]
    async fn a_disk_that_does_not_take_it_is_named_and_asked_again_after_a_while() {
        let (folder, now) = (Folder::new("full"), Instant::now());
        let (mut kept, _) = folder.open();
        std::fs::remove_dir_all(&folder.0).expect("the folder goes");
        kept.write(now, "good 1".to_owned());
        written(&mut kept);
        let problem = kept.problems(&[]).concat();
        assert!(problem.contains("kept: cannot be written") && problem.contains("counted anew"), "{problem}");
        assert!(!kept.is_stored() && !kept.is_ready(now + Duration::from_secs(59)));
        assert!(kept.is_ready(now + RETRY) && kept.is_missed());
        std::fs::create_dir_all(&folder.0).expect("the folder comes back");
        let soon = now + Duration::from_secs(1);
        assert!(!kept.is_ready(soon) && kept.hurry() && kept.is_ready(soon), "it is not waited for");
        kept.write(soon, "good 2".to_owned());
        written(&mut kept);
        assert!(kept.is_stored() && kept.problems(&[]).is_empty());
    }

    #[tokio::test]
    async fn one_that_the_disk_does_not_give_is_left_alone() {
        let (folder, now) = (Folder::new("unread"), Instant::now());
        std::fs::write(folder.0.join("kept"), "good 0").expect("a file");
        let (mut kept, _) = folder.open();
        // As root, a test cannot have a file that is not given.
        kept.is_unread = true;
        assert!(!kept.is_ready(now));
        kept.close("good 1");
        assert_eq!(folder.open().1.as_deref(), Some("good 0"));
    }

    /// Asks until an attempt is over.
    fn retried(kept: &mut KeptText, now: Instant) -> Option<String> {
        let parse = |bytes: &[u8]| Ok(String::from_utf8_lossy(bytes).into_owned());
        loop {
            let found = kept.retry(now, parse);
            if found.is_some() || kept.reading.is_none() {
                return found;
            }
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn one_that_the_disk_did_not_give_is_asked_for_again_and_written_afterwards() {
        let (folder, now) = (Folder::new("again"), Instant::now());
        std::fs::write(folder.0.join("kept"), "good 0").expect("a file");
        let (mut kept, _) = folder.open();
        // As root, a test cannot have a file that is not given: the attempt at `now` failed.
        (kept.is_unread, kept.failing, kept.begun_at) = (true, Some("kept: EIO".to_owned()), Some(now));
        let soon = now + RETRY - Duration::from_secs(1);
        assert_eq!(retried(&mut kept, soon), None, "not before its time");
        assert!(!kept.is_ready(soon) && !kept.problems(&[]).is_empty());
        assert_eq!(retried(&mut kept, now + RETRY).as_deref(), Some("good 0"));
        assert!(kept.is_ready(now + RETRY) && kept.problems(&[]).is_empty());
        kept.close("good 1");
        assert_eq!(folder.open().1.as_deref(), Some("good 1"));
    }
}
