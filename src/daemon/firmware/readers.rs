//! The threads that read blocks of firmware: one a class, so that a disk that does not answer below
//! one class stops no other.
//!
//! A thread begins with the first read of its class and ends with the class, unless the disk keeps
//! it: that one counts until it comes back. There are at most [`THREADS_MAX`], each with the reads
//! of [`BlockReader`]: 4 MiB of blocks in all.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::durable::storage::StoredFile;
use crate::message::Name;
use crate::update::firmware::settings::CLASSES_MAX;
use crate::update::io::block_reader::{BlockReader, Done};

/// Most threads: one for each class that there may be.
const THREADS_MAX: usize = CLASSES_MAX;

/// See the module.
pub struct Readers<F> {
    wake: Arc<Notify>,
    readers: Vec<(Name, BlockReader<F>)>,
    /// Whose answers are fetched next.
    next: usize,
}

impl<F: StoredFile + Sync> Readers<F> {
    /// No thread yet; `wake` is notified when something was read.
    pub fn new(wake: Arc<Notify>) -> Readers<F> {
        Readers { wake, readers: Vec::new(), next: 0 }
    }

    /// Has a piece of an image of this class read. False: too many are asked for already, or there
    /// is no thread.
    pub fn ask(&mut self, class: &Name, number: u64, file: &Arc<F>, offset: u64, length: usize) -> bool {
        if !self.readers.iter().any(|(of, _)| of == class) {
            if self.readers.len() >= THREADS_MAX {
                return false;
            }
            match BlockReader::start(self.wake.clone()) {
                Ok(reader) => self.readers.push((class.clone(), reader)),
                Err(error) => {
                    log::error!(class = class.as_str(), reason:% = error; "firmware cannot be served: no thread");
                    return false;
                }
            }
        }
        let reader = self.readers.iter_mut().find(|(of, _)| of == class);
        reader.is_some_and(|(_, reader)| reader.ask(number, file, offset, length))
    }

    /// What was read, of the classes in turn; never waits.
    pub fn poll(&mut self) -> Option<Done> {
        let count = self.readers.len();
        for step in 0..count {
            let at = (self.next + step) % count;
            let done = self.readers.get_mut(at).and_then(|(_, reader)| reader.poll());
            if done.is_some() {
                self.next = (at + 1) % count;
                return done;
            }
        }
        None
    }

    /// Ends the threads of other classes than these that have nothing to read.
    pub fn retain(&mut self, is_wanted: impl Fn(&Name) -> bool) {
        self.readers.retain(|(class, reader)| is_wanted(class) || !reader.is_idle());
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// A file whose reads wait as long as the sender is held.
    struct Held(Mutex<Receiver<()>>);

    impl StoredFile for Held {
        fn read_at(&self, _: u64, buffer: &mut [u8]) -> io::Result<usize> {
            let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).recv();
            Ok(buffer.len())
        }

        fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn held() -> (Sender<()>, Arc<Held>) {
        let (sender, receiver) = channel();
        (sender, Arc::new(Held(Mutex::new(receiver))))
    }

    fn class(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[tokio::test]
    async fn a_disk_that_does_not_answer_for_one_class_stops_no_other() {
        let wake = Arc::new(Notify::new());
        let mut readers = Readers::new(wake.clone());
        let (release, hanging) = held();
        let (gone, fine) = held();
        drop(gone);
        assert!(readers.ask(&class("a"), 1, &hanging, 0, 8));
        assert!(readers.ask(&class("b"), 2, &fine, 0, 8));
        let mut done = None;
        while done.is_none() {
            wake.notified().await;
            done = readers.poll();
        }
        assert_eq!(done.as_ref().map(|(number, _)| *number), Some(2));
        assert!(readers.poll().is_none(), "the other one hangs");
        drop(release);
        while done.as_ref().is_none_or(|(number, _)| *number != 1) {
            wake.notified().await;
            done = readers.poll();
        }
    }

    #[tokio::test]
    async fn threads_are_no_more_than_classes_also_where_the_disk_keeps_those_of_former_ones() {
        let mut readers = Readers::new(Arc::new(Notify::new()));
        let (release, hanging) = held();
        for number in 0..THREADS_MAX as u64 {
            assert!(readers.ask(&class(&format!("c{number}")), number, &hanging, 0, 8));
        }
        readers.retain(|_| false);
        assert!(!readers.ask(&class("one-more"), 99, &hanging, 0, 8));
        drop(release);
        let mut done = 0;
        while done < THREADS_MAX {
            readers.wake.clone().notified().await;
            done += std::iter::from_fn(|| readers.poll()).count();
        }
        readers.retain(|_| false);
        assert!(readers.ask(&class("one-more"), 99, &hanging, 0, 8));
    }
}
