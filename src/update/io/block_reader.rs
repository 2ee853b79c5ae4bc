//! Reads pieces of images on a thread of its own, so that a slow disk delays no reading. It ends
//! with the [`BlockReader`].
//!
//! At most [`WAITING_MAX`] reads are asked for and not fetched, of [`PIECE_MAX`] bytes each; one
//! more is refused. A disk that hangs holds this one thread up, and nothing else.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::durable::storage::StoredFile;

/// Most reads at once.
pub const WAITING_MAX: usize = 256;
/// Most bytes of a read.
pub const PIECE_MAX: usize = 1024;

struct Order<F> {
    number: u64,
    file: Arc<F>,
    offset: u64,
    length: usize,
}

/// What was read: the number of the read, and its bytes.
pub type Done = (u64, io::Result<Vec<u8>>);

/// See the module.
pub struct BlockReader<F> {
    orders: SyncSender<Order<F>>,
    done: Arc<Mutex<VecDeque<Done>>>,
    /// Asked for and not fetched.
    open: usize,
}

impl<F: StoredFile + Sync> BlockReader<F> {
    /// Starts the thread; `wake` is notified when something was read.
    ///
    /// # Errors
    /// As the system says.
    pub fn start(wake: Arc<Notify>) -> io::Result<BlockReader<F>> {
        let (orders, receiver) = sync_channel(WAITING_MAX);
        let done = Arc::new(Mutex::new(VecDeque::with_capacity(WAITING_MAX)));
        let ours = done.clone();
        let thread = std::thread::Builder::new().name("firmware".to_owned());
        thread.spawn(move || read(&receiver, &ours, &wake))?;
        Ok(BlockReader { orders, done, open: 0 })
    }

    /// Has a piece read. False: too many are asked for already.
    pub fn ask(&mut self, number: u64, file: &Arc<F>, offset: u64, length: usize) -> bool {
        if self.open >= WAITING_MAX {
            return false;
        }
        let order = Order { number, file: file.clone(), offset, length: length.min(PIECE_MAX) };
        let is_taken = self.orders.try_send(order).is_ok();
        self.open += usize::from(is_taken);
        is_taken
    }

    /// Whether all that was asked for was fetched.
    pub fn is_idle(&self) -> bool {
        self.open == 0
    }

    /// What was read since; never waits.
    pub fn poll(&mut self) -> Option<Done> {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner).pop_front()?;
        self.open -= 1;
        Some(done)
    }
}

fn read<F: StoredFile>(orders: &Receiver<Order<F>>, done: &Mutex<VecDeque<Done>>, wake: &Notify) {
    while let Ok(Order { number, file, offset, length }) = orders.recv() {
        let mut piece = vec![0; length];
        let read = file.read_at(offset, &mut piece).and_then(|read| match read == length {
            true => Ok(piece),
            // It was whole when it was verified.
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        });
        done.lock().unwrap_or_else(PoisonError::into_inner).push_back((number, read));
        wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Sender;

    use super::*;

    /// 10 bytes, of which the disk does not give those from 6 on; a read of offset 0 waits.
    struct Slow(Mutex<Receiver<()>>);

    impl StoredFile for Slow {
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
            if offset == 0 {
                let _ = self.0.lock().expect("one reader").recv();
            }
            if offset >= 6 {
                return Err(io::Error::other("EIO"));
            }
            let count = buffer.len().min(10 - offset as usize);
            buffer[..count].fill(offset as u8);
            Ok(count)
        }

        fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (Sender<()>, Arc<Slow>) {
        let (sender, receiver) = std::sync::mpsc::channel();
        (sender, Arc::new(Slow(Mutex::new(receiver))))
    }

    #[tokio::test]
    async fn what_is_read_comes_back_by_its_number_and_a_file_that_ends_is_an_error() {
        let (_hold, file) = slow();
        let wake = Arc::new(Notify::new());
        let mut reader = BlockReader::start(wake.clone()).expect("a thread");
        for (number, offset, length) in [(1, 2, 4), (2, 6, 4), (3, 5, 6)] {
            assert!(reader.ask(number, &file, offset, length));
        }
        let mut done = Vec::new();
        while done.len() < 3 {
            wake.notified().await;
            done.extend(std::iter::from_fn(|| reader.poll()));
        }
        assert_eq!((done[0].0, done[0].1.as_ref().expect("bytes")), (1, &vec![2; 4]));
        assert_eq!(done[1].1.as_ref().expect_err("the disk").to_string(), "EIO");
        assert_eq!(done[2].1.as_ref().expect_err("short").kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_disk_that_hangs_bounds_what_waits_and_all_of_it_is_answered_when_it_is_back() {
        let (release, file) = slow();
        let wake = Arc::new(Notify::new());
        let mut reader = BlockReader::start(wake.clone()).expect("a thread");
        assert!(reader.ask(0, &file, 0, 1));
        let taken = (1..=2 * WAITING_MAX as u64).filter(|number| reader.ask(*number, &file, 1, 1)).count();
        assert_eq!(taken, WAITING_MAX - 1);
        release.send(()).expect("it waits");
        let mut done = 0;
        while done < WAITING_MAX {
            wake.notified().await;
            done += std::iter::from_fn(|| reader.poll()).count();
        }
        assert!(reader.ask(9_999, &file, 1, 1));
    }
}
