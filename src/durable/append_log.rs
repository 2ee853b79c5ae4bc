//! A log of [frames](super::frame) that is appended to, read at the start, and written anew when
//! most of it is of no use.
//!
//! | state | what the owner may do |
//! |---|---|
//! | sound | [`AppendLog::append`]; [`AppendLog::compact`] when [`AppendLog::wants_compaction`] |
//! | there is none, damage was found, or a write or sync failed | [`AppendLog::compact`] only, since nobody knows what is on the disk |
//!
//! # What survives a power cut
//!
//! | at the moment of the cut | what is read afterwards |
//! |---|---|
//! | within an append | every frame before it, and any of its own frames, each whole or not at all |
//! | behind an append that returned `Ok` | all its frames |
//! | within a compaction | the old log, or the new one; never neither, never a mixture |
//! | behind a compaction that returned `Ok` | the new one |
//!
//! What must be there together goes into one frame, or names what it needs.
//!
//! # What is damage
//!
//! A place that was read and holds no frame. It is read a second time, past the page cache, before
//! that is believed, where the [storage](Storage::pause) gives the time; the frames behind it are
//! found again. A block that the disk does not give (EIO) is no damage: [`Unread`] says what is
//! done about it.

use std::io;
use std::time::Duration;

use super::frame::{Frame, FrameFormat, HEADER, Header};
use super::storage::{Storage, StoredFile};

/// The file grows by so much.
const GROWTH: u64 = 64 << 10;
/// Bytes of no use that are not worth writing anew.
const WASTE_MIN: u64 = 256 << 10;
/// What is read or copied at a time.
const BLOCK: usize = 64 << 10;
/// Before what looks damaged is read once more.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// What is done about a block that cannot be read at the second attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// The log is not opened: it may be readable later. For what must not be lost.
    Refuse,
    /// The frames in it are left out, and gone after the next compaction. For what may be lost. The
    /// first block is never left out.
    LeaveOut,
}

/// One kind of log.
#[derive(Clone, Copy, Debug)]
pub struct LogFormat {
    /// The file's name in its folder. `NAME.new` is it while it is written anew, `NAME.damaged` one
    /// whose first bytes are damaged, `NAME.unknown-N` one of another major version.
    pub name: &'static str,
    /// Its frames.
    pub frames: FrameFormat,
    /// What is read of it at most, in bytes.
    pub read_max: u64,
    /// It does not grow beyond so many bytes.
    pub size_max: u64,
    /// See [`Unread`].
    pub unread: Unread,
}

/// Where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where it begins.
    pub offset: u64,
    /// Its bytes.
    pub size: u32,
}

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogReport {
    /// Bytes left out because they were damaged.
    pub damaged: u64,
    /// Bytes left out because they could not be read.
    pub unread: u64,
    /// Where a log of this major version was put.
    pub moved_aside: Option<(u8, String)>,
}

/// The open log.
pub struct AppendLog<S: Storage> {
    storage: S,
    format: LogFormat,
    file: Option<S::File>,
    sound: bool,
    /// Where the next frame goes, and how long the file is.
    end: u64,
    size: u64,
    written: u64,
}

impl<S: Storage> AppendLog<S> {
    /// Reads what is there and shows `visit` every frame, in the order they were written in.
    /// Nothing is written but where a file has to be moved aside.
    ///
    /// # Errors
    /// As the system says: the log cannot be read, or not moved aside.
    pub fn open(
        storage: S,
        format: LogFormat,
        mut visit: impl FnMut(Place, Frame<'_>),
    ) -> io::Result<(AppendLog<S>, LogReport)> {
        let mut report = LogReport::default();
        let Some((file, size)) = open_file(&storage, format.name)? else {
            return Ok((AppendLog::without_file(storage, format, 0), report));
        };
        let mut content = read(&file, size, &format)?;
        if looks_damaged(&content.bytes, &format) && storage.pause(SECOND_LOOK) {
            file.forget_cached();
            content = read(&file, size, &format)?;
        }
        let bytes = &content.bytes;
        report.unread = content.unread;
        let read_size = bytes.len() as u64;
        match format.frames.parse_header(bytes) {
            _ if bytes.iter().all(|byte| *byte == 0) => {
                return Ok((AppendLog::without_file(storage, format, read_size), report));
            }
            Header::Known => {}
            Header::OtherVersion(major) => {
                let aside = free_name(&storage, &format);
                storage.rename(format.name, &aside)?;
                storage.sync_names()?;
                report.moved_aside = Some((major, aside));
                return Ok((AppendLog::without_file(storage, format, read_size), report));
            }
            Header::Damaged => {
                storage.rename(format.name, &format!("{}.damaged", format.name))?;
                storage.sync_names()?;
                report.damaged = read_size;
                return Ok((AppendLog::without_file(storage, format, read_size), report));
            }
        }
        let mut end = HEADER as u64;
        let mut frames = format.frames.frames(bytes);
        for (offset, frame) in frames.by_ref() {
            end = (offset + frame.size()) as u64;
            visit(Place { offset: offset as u64, size: frame.size() as u32 }, frame);
        }
        report.damaged = frames.damaged as u64;
        // It is written anew before it takes more. What was read may be in the page cache alone,
        // and the name not durable, after a sync that failed in an earlier process; and what is
        // damaged, and what of it could be taken for a frame one day, goes.
        let log =
            AppendLog { storage, format, file: Some(file), sound: false, end, size: read_size, written: 0 };
        Ok((log, report))
    }

    fn without_file(storage: S, format: LogFormat, size: u64) -> AppendLog<S> {
        AppendLog { storage, format, file: None, sound: false, end: HEADER as u64, size, written: 0 }
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

    /// Whether the log is to be written anew before it is appended to, where `live_bytes` of its
    /// frames are still of use.
    pub fn wants_compaction(&self, live_bytes: u64) -> bool {
        let waste = self.end.saturating_sub(HEADER as u64 + live_bytes);
        self.file.is_none() || !self.sound || waste > WASTE_MIN.max(live_bytes)
    }

    /// Makes frames durable, which [`FrameFormat::encode`] made. Returns where the first begins.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] without anything written: the log would grow beyond its
    /// bound; compact it, or give something up. Otherwise as the system says: any of the frames may
    /// be there, and the log must be compacted before it takes more.
    pub fn append(&mut self, frames: &[u8]) -> io::Result<u64> {
        let start = self.end;
        if frames.is_empty() {
            return Ok(start);
        }
        let end = start + frames.len() as u64;
        if end > self.format.size_max {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the log has reached its bound"));
        }
        let Some(file) = self.file.as_ref().filter(|_| self.sound) else {
            return Err(io::Error::other("the log must be written anew first"));
        };
        // With zeros behind where it grows, so that the commits that follow change no metadata.
        let size = if end > self.size { end.next_multiple_of(GROWTH) } else { self.size };
        let mut grown = Vec::new();
        let bytes = if end > self.size {
            grown.extend(frames);
            grown.resize((size - start) as usize, 0);
            &grown[..]
        } else {
            frames
        };
        let written = file.write_at(start, bytes).and_then(|()| file.sync());
        self.sound = written.is_ok();
        written?;
        self.written += bytes.len() as u64;
        (self.end, self.size) = (end, size);
        Ok(start)
    }

    /// Puts in place of this log one that has what `write` puts into the [`Snapshot`].
    ///
    /// The first part is what `write` returned, if this log is now the new one, whether or not that
    /// is durable: the old places are worth nothing then. The second is whether it is durable; if
    /// not, the log must be compacted again before it takes more. Where the first is `None` the log
    /// is as it was.
    pub fn compact<T>(
        &mut self,
        write: impl FnOnce(&mut Snapshot<'_, S>) -> io::Result<T>,
    ) -> (Option<T>, io::Result<()>) {
        let new_name = format!("{}.new", self.format.name);
        let (file, told, end, size) = match self.write_new(&new_name, write) {
            Ok(written) => written,
            Err(error) => {
                // It may be what fills the disk. If it cannot be deleted, the next attempt does.
                drop(self.storage.remove(&new_name));
                return (None, Err(error));
            }
        };
        (self.file, self.end, self.size) = (Some(file), end, size);
        let synced = self.storage.sync_names();
        if synced.is_err() {
            drop(self.storage.remove(&new_name));
        }
        self.sound = synced.is_ok();
        (Some(told), synced)
    }

    fn write_new<T>(
        &mut self,
        new_name: &str,
        write: impl FnOnce(&mut Snapshot<'_, S>) -> io::Result<T>,
    ) -> io::Result<(S::File, T, u64, u64)> {
        let new = self.storage.create(new_name)?;
        let mut snapshot = Snapshot {
            frames: &self.format.frames,
            new: &new,
            old: self.file.as_ref(),
            out: self.format.frames.header().to_vec(),
            flushed: 0,
            buffer: Vec::new(),
        };
        let told = write(&mut snapshot)?;
        let Snapshot { mut out, flushed, .. } = snapshot;
        let end = flushed + out.len() as u64;
        let size = (end + GROWTH / 2).next_multiple_of(GROWTH).min(self.format.size_max.max(end));
        out.resize((size - flushed) as usize, 0);
        new.write_at(flushed, &out)?;
        new.sync()?;
        self.written += size;
        self.storage.rename(new_name, self.format.name)?;
        Ok((new, told, end, size))
    }

    /// Reads the content of a frame back. `None`: that place holds another frame, or none.
    ///
    /// # Errors
    /// As the system says: it may be readable later.
    pub fn read(&self, place: Place, number: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = &self.file else { return Ok(None) };
        let mut buffer = Vec::new();
        let frame = read_frame(&self.format.frames, file, place, number, &mut buffer)?;
        Ok(frame.map(|frame| frame.content.to_vec()))
    }
}

/// A log that is being written anew.
pub struct Snapshot<'a, S: Storage> {
    frames: &'a FrameFormat,
    new: &'a S::File,
    old: Option<&'a S::File>,
    out: Vec<u8>,
    flushed: u64,
    buffer: Vec<u8>,
}

impl<S: Storage> Snapshot<'_, S> {
    /// Appends a frame; where it is.
    ///
    /// # Errors
    /// As the system says.
    pub fn push(&mut self, frame: &Frame<'_>) -> io::Result<Place> {
        let place = Place { offset: self.flushed + self.out.len() as u64, size: frame.size() as u32 };
        self.frames.encode(frame, &mut self.out);
        self.flush().map(|()| place)
    }

    /// Appends the frame of that number from the old log; where it is. `Ok(Err(_))`: it cannot be
    /// read any more, or, as [`io::ErrorKind::InvalidData`], is damaged: the owner decides whether
    /// to go on without it.
    ///
    /// # Errors
    /// As the system says of the new log.
    pub fn copy(&mut self, place: Place, number: u64) -> io::Result<io::Result<Place>> {
        let damaged = || io::Error::from(io::ErrorKind::InvalidData);
        let Some(old) = self.old else { return Ok(Err(damaged())) };
        match read_frame(self.frames, old, place, number, &mut self.buffer) {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(Err(damaged())),
            Err(error) => return Ok(Err(error)),
        }
        let copied = Place { offset: self.flushed + self.out.len() as u64, ..place };
        self.out.extend(&self.buffer);
        self.flush().map(|()| Ok(copied))
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.out.len() >= BLOCK {
            self.new.write_at(self.flushed, &self.out)?;
            self.flushed += self.out.len() as u64;
            self.out.clear();
        }
        Ok(())
    }
}

fn read_frame<'b>(
    frames: &FrameFormat,
    file: &impl StoredFile,
    place: Place,
    number: u64,
    buffer: &'b mut Vec<u8>,
) -> io::Result<Option<Frame<'b>>> {
    buffer.clear();
    buffer.resize(place.size as usize, 0);
    let read = file.read_at(place.offset, buffer)?;
    let whole = read == buffer.len();
    Ok(frames.parse(buffer).filter(|frame| whole && frame.number == number && frame.size() == read))
}

fn open_file<S: Storage>(storage: &S, name: &str) -> io::Result<Option<(S::File, u64)>> {
    match storage.open(name) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn free_name<S: Storage>(storage: &S, format: &LogFormat) -> String {
    let mut names = (1u32..).map(|n| format!("{}.unknown-{n}", format.name));
    names.find(|name| !storage.has(name)).unwrap_or_else(|| format!("{}.damaged", format.name))
}

fn looks_damaged(bytes: &[u8], format: &LogFormat) -> bool {
    match format.frames.parse_header(bytes) {
        _ if bytes.iter().all(|byte| *byte == 0) => false,
        Header::OtherVersion(_) => false,
        Header::Damaged => true,
        Header::Known => {
            let mut frames = format.frames.frames(bytes);
            frames.by_ref().for_each(drop);
            frames.damaged > 0
        }
    }
}

struct LogContent {
    bytes: Vec<u8>,
    /// Bytes that could not be read, which are zeros here.
    unread: u64,
}

/// What can be read of a file. A block that cannot be at the second attempt is dealt with as the
/// format says.
///
/// # Errors
/// As the system says. Also where the beginning cannot be read: what it is nobody knows then.
fn read(file: &impl StoredFile, size: u64, format: &LogFormat) -> io::Result<LogContent> {
    let mut bytes = vec![0; size.min(format.read_max) as usize];
    let mut failed: Vec<usize> = (0..bytes.len()).step_by(BLOCK).collect();
    for attempt in 1..=2 {
        for at in std::mem::take(&mut failed) {
            // It ended before.
            if at >= bytes.len() {
                break;
            }
            let end = (at + BLOCK).min(bytes.len());
            let is_needed = at == 0 || format.unread == Unread::Refuse;
            match file.read_at(at as u64, &mut bytes[at..end]) {
                Ok(length) if length < end - at => bytes.truncate(at + length),
                Ok(_) => {}
                Err(error) if is_needed && attempt == 2 => return Err(error),
                Err(_) => failed.push(at),
            }
        }
    }
    let mut unread = 0;
    let length = bytes.len();
    for at in failed.into_iter().filter(|at| *at < length) {
        let end = (at + BLOCK).min(length);
        bytes[at..end].fill(0);
        unread += (end - at) as u64;
    }
    Ok(LogContent { bytes, unread })
}
