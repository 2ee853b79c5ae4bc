//! The log of sessions on a [`Storage`]: an [append log](crate::durable::append_log) of sessions
//! and their ends, written anew when most of it is of no use.
//!
//! Invariant: when [`Log::commit`] returns `Ok`, exactly the sessions told to it and not ended are
//! durable. After a write or sync that failed the next commit writes everything anew.

use std::collections::BTreeMap;
use std::io;

use super::frame::{self, Frame, Kind};
use super::storage::Storage;
use super::{Batch, Kept, Number};
use crate::durable::append_log::{AppendLog, LogFormat, Place, Unread};

pub use crate::durable::append_log::LogReport as Report;

/// The log's name.
pub const NAME: &str = "log";
/// Where one that cannot be read goes.
pub const DAMAGED: &str = "log.damaged";
/// What is read of a log at most.
pub const READ_MAX: u64 = 64 << 20;
/// The store may be lost, so what cannot be read is left out, and its growth is bounded by the
/// sessions there may be.
const FORMAT: LogFormat = LogFormat {
    name: NAME,
    frames: frame::FORMAT,
    read_max: READ_MAX,
    size_max: u64::MAX,
    unread: Unread::LeaveOut,
};

/// See the module.
pub struct Log<S: Storage> {
    log: AppendLog<S>,
    live: BTreeMap<Number, Place>,
    live_bytes: u64,
    run: u32,
    /// A commit failed: what it was to end is forgotten here, but not on the disk.
    must_rewrite: bool,
}

impl<S: Storage> Log<S> {
    /// Reads what is there, which begins a new run. Nothing is written but where a file has to be
    /// moved aside; the first commit writes that there is a new run.
    ///
    /// # Errors
    /// As the system says: the log cannot be read, or not moved aside. There is no store then.
    pub fn open(storage: S) -> io::Result<(Log<S>, Vec<Kept>, Report)> {
        let mut newest_run = 0u32;
        let mut found: BTreeMap<Number, (Place, Kept)> = BTreeMap::new();
        let (log, report) = AppendLog::open(storage, FORMAT, |place, stored| {
            let Frame { kind, number, run, content } = Frame::from(stored);
            newest_run = newest_run.max(run);
            match kind {
                Kind::Session => {
                    found.insert(number, (place, Kept { number, run, sealed: content.to_vec() }));
                }
                Kind::Ended => drop(found.remove(&number)),
                Kind::Run | Kind::Unknown(_) => {}
            }
        })?;
        let run = newest_run.saturating_add(1);
        let mut log = Log { log, live: BTreeMap::new(), live_bytes: 0, run, must_rewrite: false };
        for (number, (place, _)) in &found {
            log.insert(*number, *place);
        }
        // In the order they were written in: a later handshake of one device counts for more.
        let mut kept: Vec<(Place, Kept)> = found.into_values().collect();
        kept.sort_by_key(|(place, _)| place.offset);
        Ok((log, kept.into_iter().map(|(_, kept)| kept).collect(), report))
    }

    /// The run this is.
    pub fn run(&self) -> u32 {
        self.run
    }

    /// A number higher than that of any session in it.
    pub fn next_number(&self) -> Number {
        self.live.last_key_value().map_or(1, |(number, _)| number.saturating_add(1))
    }

    /// Sessions in it.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Bytes written to the disk so far, without metadata.
    pub fn bytes_written(&self) -> u64 {
        self.log.bytes_written()
    }

    /// Whether the disk is known to have what it should.
    pub fn is_sound(&self) -> bool {
        self.log.is_sound() && !self.must_rewrite
    }

    /// The log's size on the disk.
    pub fn bytes(&self) -> u64 {
        self.log.bytes()
    }

    /// Begins the run: to be called once, before what was read is used.
    ///
    /// # Errors
    /// As [`Log::commit`].
    pub fn begin(&mut self) -> io::Result<()> {
        let mut frames = Vec::new();
        if self.is_sound() {
            Frame { kind: Kind::Run, number: 0, run: self.run, content: &[] }.encode(&mut frames);
        }
        // One that is written anew begins with it.
        self.put(&frames, &[])
    }

    /// Makes `batch` durable.
    ///
    /// # Errors
    /// As the system says. What has ended is taken note of nevertheless; what was established has
    /// to be told again. The next call writes everything anew.
    pub fn commit(&mut self, batch: &Batch) -> io::Result<()> {
        let mut frames = Vec::new();
        let run = self.run;
        // What has ended goes in front: where a session took another's place, it must not be there
        // beside it.
        for number in &batch.ended {
            self.forget(*number);
            Frame { kind: Kind::Ended, number: *number, run, content: &[] }.encode(&mut frames);
        }
        let mut places = Vec::with_capacity(batch.established.len());
        for (number, sealed) in &batch.established {
            let frame = Frame { kind: Kind::Session, number: *number, run, content: sealed };
            places.push((*number, Place { offset: frames.len() as u64, size: frame.size() as u32 }));
            frame.encode(&mut frames);
        }
        self.put(&frames, &places)
    }

    fn put(&mut self, frames: &[u8], places: &[(Number, Place)]) -> io::Result<()> {
        let wants_rewrite = self.must_rewrite || self.log.wants_compaction(self.live_bytes);
        self.must_rewrite = true;
        if wants_rewrite {
            self.rewrite()?;
        }
        let start = self.log.append(frames)?;
        for (number, place) in places {
            self.insert(*number, Place { offset: start + place.offset, ..*place });
        }
        self.must_rewrite = false;
        Ok(())
    }

    /// Writes what stands into another file and puts that in place of this one.
    fn rewrite(&mut self) -> io::Result<()> {
        let run = self.run;
        let mut places: Vec<(Number, Place)> =
            self.live.iter().map(|(number, place)| (*number, *place)).collect();
        places.sort_by_key(|(_, place)| place.offset);
        let (written, durable) = self.log.compact(|snapshot| {
            snapshot.push(&Frame { kind: Kind::Run, number: 0, run, content: &[] }.stored())?;
            let mut live = BTreeMap::new();
            for (number, place) in places {
                // One that cannot be read any more is left out: its device handshakes anew.
                if let Ok(copied) = snapshot.copy(place, number)? {
                    live.insert(number, copied);
                }
            }
            Ok(live)
        });
        if let Some(live) = written {
            self.live_bytes = live.values().map(|place| u64::from(place.size)).sum();
            self.live = live;
        }
        durable
    }

    fn insert(&mut self, number: Number, place: Place) {
        self.forget(number);
        self.live_bytes += u64::from(place.size);
        self.live.insert(number, place);
    }

    fn forget(&mut self, number: Number) {
        if let Some(place) = self.live.remove(&number) {
            self.live_bytes -= u64::from(place.size);
        }
    }
}
