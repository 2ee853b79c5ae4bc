//! Reads of the backlog, on a thread of their own: a cold disk keeps neither the path nor a commit waiting.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::disk::{Disk, DiskFile};
use super::shared::Shared;
use crate::journal::cursor::Fetch;
use crate::journal::scan;
use crate::journal::storage::{Folder, Storage, StorageError};
use crate::message::Lane;

/// Between two tries to open a file that is there.
const RETRY: Duration = Duration::from_secs(1);

/// What is wanted and what is there, one of each a lane.
#[derive(Default)]
pub(super) struct Desk {
    state: Mutex<DeskState>,
    work: Condvar,
}

#[derive(Default)]
struct DeskState {
    wanted: [Option<Fetch>; 2],
    ready: [Option<(Fetch, Vec<u8>)>; 2],
    /// Being read.
    under_way: [Option<(u64, u32)>; 2],
    buffers: Vec<Vec<u8>>,
    closing: bool,
}

fn is_same(one: &Fetch, other: &Fetch) -> bool {
    one.segment.number == other.segment.number && one.offset == other.offset && one.length <= other.length
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, DeskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for bytes, unless they are asked for already. What was asked for before is forgotten.
    pub(super) fn ask(&self, lane: Lane, fetch: Fetch) {
        let mut state = self.lock();
        let index = lane.index();
        let ready = state.ready[index].as_ref().is_some_and(|(there, _)| is_same(&fetch, there));
        let under_way = state.under_way[index] == Some((fetch.segment.number, fetch.offset));
        if !ready && !under_way {
            state.wanted[index] = Some(fetch);
            drop(state);
            self.work.notify_one();
        }
    }

    /// The bytes asked for, if they are there.
    pub(super) fn take(&self, lane: Lane, fetch: &Fetch) -> Option<(Fetch, Vec<u8>)> {
        let slot = &mut self.lock().ready[lane.index()];
        slot.take_if(|(there, _)| is_same(fetch, there))
    }

    /// Gives a buffer back.
    pub(super) fn give_back(&self, buffer: Vec<u8>) {
        let mut state = self.lock();
        if state.buffers.len() < 2 {
            state.buffers.push(buffer);
        }
    }

    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.work.notify_all();
    }
}

/// The thread.
pub(super) fn run(disk: &Disk, desk: &Desk, shared: &Arc<Shared>) {
    let mut open: [Option<(u64, DiskFile)>; 2] = [None, None];
    let mut state = desk.lock();
    loop {
        if state.closing {
            return;
        }
        let Some((lane, fetch)) = Lane::ALL
            .into_iter()
            .find_map(|lane| state.wanted[lane.index()].take().map(|fetch| (lane, fetch)))
        else {
            state = desk.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let index = lane.index();
        state.under_way[index] = Some((fetch.segment.number, fetch.offset));
        let mut buffer = state.buffers.pop().unwrap_or_default();
        drop(state);
        let read = read(disk, &mut open[index], lane, &fetch, &mut buffer);
        state = desk.lock();
        state.under_way[index] = None;
        match read {
            Ok(()) => {
                if let Some((_, old)) = state.ready[index].replace((fetch, buffer)) {
                    state.buffers.truncate(1);
                    state.buffers.push(old);
                }
                shared.wake.notify_one();
            }
            Err(error) => {
                log::warn!(lane = lane.as_str(), reason:% = error; "journal segment cannot be opened, trying again");
                let waited = desk.work.wait_timeout(state, RETRY);
                state = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
                state.wanted[index].get_or_insert(fetch);
            }
        }
    }
}

fn read(
    disk: &Disk,
    open: &mut Option<(u64, DiskFile)>,
    lane: Lane,
    fetch: &Fetch,
    buffer: &mut Vec<u8>,
) -> Result<(), StorageError> {
    let number = fetch.segment.number;
    let file = match open {
        Some((is, file)) if *is == number => file,
        _ => match disk.open(Folder::of(lane), &fetch.segment.name()) {
            Ok(file) => &open.insert((number, file)).1,
            Err(StorageError::Missing) => {
                // It was recycled, or somebody deleted it: the cursor finds out which.
                buffer.clear();
                return Ok(());
            }
            Err(error) => return Err(error),
        },
    };
    scan::read_region(file, fetch.offset, fetch.length as usize, buffer);
    Ok(())
}
