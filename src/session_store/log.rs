//! The log of sessions on a [`Storage`]: read at start, appended to, written anew when most of it
//! is of no use.
//!
//! | state | a commit |
//! |---|---|
//! | sound | appends; writes anew where more is of no use than is |
//! | after a write or sync that failed | writes anew, since nobody knows what is on the disk |
//!
//! Invariant: when [`Log::commit`] returns `Ok`, exactly the sessions told to it and not ended are
//! durable.

use std::collections::BTreeMap;
use std::io;

use super::frame::{self, Frame, Frames, HEADER, Header, Kind};
use super::storage::{Storage, StoredFile};
use super::{Batch, Kept, Number};

/// The log's name.
pub const NAME: &str = "log";
/// Its name while it is written anew.
pub const NEW: &str = "log.new";
/// Where one that cannot be read goes.
pub const DAMAGED: &str = "log.damaged";
/// What is read of a log at most.
pub const READ_MAX: u64 = 64 << 20;
/// The file grows by so much.
const GROWTH: u64 = 64 << 10;
/// Bytes of no use that are not worth writing anew.
const WASTE_MIN: u64 = 256 << 10;
/// What is copied at a time.
const COPY: usize = 64 << 10;

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Bytes left out because they were damaged.
    pub damaged: u64,
    /// Where a log of this major version was put.
    pub moved_aside: Option<(u8, String)>,
}

#[derive(Clone, Copy)]
struct Place {
    offset: u64,
    size: u32,
    run: u32,
}

/// See the module.
pub struct Log<S: Storage> {
    storage: S,
    /// `None`: there is none, or what it holds is not certain; then the next commit writes anew.
    file: Option<S::File>,
    sound: bool,
    /// Where the next frame goes, and how long the file is.
    end: u64,
    size: u64,
    live: BTreeMap<Number, Place>,
    live_bytes: u64,
    run: u32,
    written: u64,
}

impl<S: Storage> Log<S> {
    /// Reads what is there, which begins a new run. Nothing is written but where a file has to be
    /// moved aside; the first commit writes that there is a new run.
    ///
    /// # Errors
    /// As the system says: the log cannot be read, or not moved aside. There is no store then.
    pub fn open(storage: S) -> io::Result<(Log<S>, Vec<Kept>, Report)> {
        let mut report = Report::default();
        let (mut file, bytes, size) = read(&storage)?;
        match frame::parse_header(&bytes) {
            _ if bytes.iter().all(|byte| *byte == 0) => file = None,
            Header::Known => {}
            Header::OtherVersion(major) => {
                let free = |name: &String| !storage.has(name);
                let name = (1u32..).map(|n| format!("{NAME}.unknown-{n}")).find(free);
                let name = name.unwrap_or_else(|| DAMAGED.to_owned());
                storage.rename(NAME, &name)?;
                storage.sync_names()?;
                report.moved_aside = Some((major, name));
                file = None;
            }
            Header::Damaged => {
                storage.rename(NAME, DAMAGED)?;
                storage.sync_names()?;
                report.damaged = bytes.len() as u64;
                file = None;
            }
        }
        let mut log = Log {
            storage,
            sound: file.is_some(),
            file,
            end: HEADER as u64,
            size: bytes.len() as u64,
            live: BTreeMap::new(),
            live_bytes: 0,
            run: 1,
            written: 0,
        };
        if log.file.is_none() {
            return Ok((log, Vec::new(), report));
        }
        let mut frames = Frames::new(&bytes);
        let mut newest_run = 0;
        for (offset, frame) in frames.by_ref() {
            newest_run = newest_run.max(frame.run);
            log.end = (offset + frame.size()) as u64;
            match frame.kind {
                Kind::Session => {
                    let place = Place { offset: offset as u64, size: frame.size() as u32, run: frame.run };
                    log.insert(frame.number, place);
                }
                Kind::Ended => log.forget(frame.number),
                Kind::Run | Kind::Unknown(_) => {}
            }
        }
        report.damaged = frames.damaged as u64;
        // What is damaged, and what of it could be taken for a frame one day, goes.
        log.sound = frames.damaged == 0 && size == bytes.len() as u64;
        log.run = newest_run.saturating_add(1);
        // In the order they were written in: a later handshake of one device counts for more.
        let mut places: Vec<(Number, Place)> =
            log.live.iter().map(|(number, place)| (*number, *place)).collect();
        places.sort_by_key(|(_, place)| place.offset);
        let kept = places.into_iter().filter_map(|(number, place)| {
            let frame = frame::parse(bytes.get(place.offset as usize..)?)?;
            Some(Kept { number, run: place.run, sealed: frame.content.to_vec() })
        });
        let kept = kept.collect();
        Ok((log, kept, report))
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
        self.written
    }

    /// Whether the disk is known to have what it should.
    pub fn is_sound(&self) -> bool {
        self.sound
    }

    /// The log's size on the disk.
    pub fn bytes(&self) -> u64 {
        self.size
    }

    /// Begins the run: to be called once, before what was read is used.
    ///
    /// # Errors
    /// As [`Log::commit`].
    pub fn begin(&mut self) -> io::Result<()> {
        let mut frames = Vec::new();
        if self.sound {
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
            places.push((*number, Place { offset: frames.len() as u64, size: frame.size() as u32, run }));
            frame.encode(&mut frames);
        }
        self.put(&frames, &places)
    }

    fn put(&mut self, frames: &[u8], places: &[(Number, Place)]) -> io::Result<()> {
        let waste = self.end.saturating_sub(HEADER as u64 + self.live_bytes);
        let is_worth_it = waste > WASTE_MIN.max(self.live_bytes);
        let result = match &self.file {
            Some(_) if self.sound && !is_worth_it => self.append(frames),
            _ => self.rewrite().and_then(|()| self.append(frames)),
        };
        self.sound = result.is_ok();
        let start = self.end - if self.sound { frames.len() as u64 } else { 0 };
        if self.sound {
            for (number, place) in places {
                self.insert(*number, Place { offset: start + place.offset, ..*place });
            }
        }
        result
    }

    fn append(&mut self, frames: &[u8]) -> io::Result<()> {
        if frames.is_empty() {
            return Ok(());
        }
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let end = self.end + frames.len() as u64;
        if end > self.size {
            // With zeros behind, so that the commits that follow change no metadata.
            let size = end.next_multiple_of(GROWTH);
            let mut grown = frames.to_vec();
            grown.resize((size - self.end) as usize, 0);
            file.write_at(self.end, &grown)?;
            file.sync()?;
            self.written += grown.len() as u64;
            (self.end, self.size) = (end, size);
            return Ok(());
        }
        file.write_at(self.end, frames)?;
        file.sync()?;
        self.written += frames.len() as u64;
        self.end = end;
        Ok(())
    }

    /// Writes what stands into another file and puts that in place of this one.
    fn rewrite(&mut self) -> io::Result<()> {
        let result = self.copy();
        if result.is_err() {
            // It may be what fills the disk. If it cannot be deleted, the next attempt does.
            drop(self.storage.remove(NEW));
        }
        result
    }

    fn copy(&mut self) -> io::Result<()> {
        let new = self.storage.create(NEW)?;
        let mut places: Vec<(Number, Place)> =
            self.live.iter().map(|(number, place)| (*number, *place)).collect();
        places.sort_by_key(|(_, place)| place.offset);
        let mut out = frame::header().to_vec();
        Frame { kind: Kind::Run, number: 0, run: self.run, content: &[] }.encode(&mut out);
        let (mut live, mut live_bytes, mut flushed) = (BTreeMap::new(), 0, 0u64);
        let mut buffer = Vec::new();
        for (number, place) in places {
            buffer.clear();
            buffer.resize(place.size as usize, 0);
            let read = self.file.as_ref().map(|file| file.read_at(place.offset, &mut buffer));
            // One that cannot be read any more is left out: its device handshakes anew.
            let is_sound = matches!(read, Some(Ok(length)) if length == buffer.len())
                && frame::parse(&buffer).is_some_and(|frame| frame.number == number);
            if !is_sound {
                continue;
            }
            live.insert(number, Place { offset: flushed + out.len() as u64, ..place });
            live_bytes += u64::from(place.size);
            out.extend(&buffer);
            if out.len() >= COPY {
                new.write_at(flushed, &out)?;
                flushed += out.len() as u64;
                out.clear();
            }
        }
        let end = flushed + out.len() as u64;
        let size = (end + GROWTH / 2).next_multiple_of(GROWTH);
        out.resize((size - flushed) as usize, 0);
        new.write_at(flushed, &out)?;
        new.sync()?;
        self.written += size;
        self.storage.rename(NEW, NAME)?;
        // From here on it has the name, whether or not that is durable.
        (self.file, self.live, self.live_bytes) = (Some(new), live, live_bytes);
        (self.end, self.size) = (end, size);
        self.storage.sync_names()
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

/// The file, what of it was read, and its size. What cannot be read at the second attempt is left
/// out; it stays where it is.
///
/// # Errors
/// As the system says. Also where the beginning cannot be read: what it is nobody knows then, and
/// it may be readable later.
fn read<S: Storage>(storage: &S) -> io::Result<(Option<S::File>, Vec<u8>, u64)> {
    let (file, size) = match storage.open(NAME) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((None, Vec::new(), 0)),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; size.min(READ_MAX) as usize];
    let mut failed = Vec::new();
    for attempt in 1..=2 {
        let pieces: Vec<usize> = match attempt {
            1 => (0..bytes.len()).step_by(COPY).collect(),
            _ => std::mem::take(&mut failed),
        };
        for at in pieces {
            // It ended before.
            if at >= bytes.len() {
                break;
            }
            let end = (at + COPY).min(bytes.len());
            match file.read_at(at as u64, &mut bytes[at..end]) {
                Ok(length) if length < end - at => bytes.truncate(at + length),
                Ok(_) => {}
                Err(error) if at == 0 && attempt == 2 => return Err(error),
                Err(_) => failed.push(at),
            }
        }
    }
    Ok((Some(file), bytes, size))
}
