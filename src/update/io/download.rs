//! Fetches one image: into a part that survives a restart, verified twice, renamed once.
//!
//! | what happens | what is left |
//! |---|---|
//! | the connection ends, is silent or too slow | the part; the next call continues it |
//! | the server has another file meanwhile | it answers 200 to If-Range: begun anew |
//! | the bytes are not those that were signed | nothing: the part is deleted |
//! | the disk becomes full | nothing: the part is deleted, so that readings can be stored |
//! | the day's budget is spent | the part |
//! | power cut anywhere | what the record says was synced; the rest is fetched again |
//!
//! Disk calls block: for a thread of its own.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::digest::{self, Context, SHA256};

use crate::clock::UnixTime;
use crate::durable::storage::{Storage, StoredFile};
use crate::durable::two_slot::TwoSlot;
use crate::https::io::Client;
use crate::https::io::stream::{Pace, Receiver, Resume, StreamHead};
use crate::https::message::Failure;
use crate::https::url::HttpsUrl;
use crate::update::download::{Answer, Ask, Head, ask, judge};
use crate::update::image::{FORMAT, IMAGE, PART, Record};
use crate::update::offer::Offer;

/// The part is synced after so many bytes, so that a power cut costs little and the journal's syncs
/// do not wait behind much.
pub const SYNC_EVERY: u64 = 4 << 20;
/// What is read at once to be hashed.
const CHUNK: usize = 64 * 1024;

/// Why there is no image yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoImage {
    /// It goes on later from where it is: one sentence.
    Interrupted(String),
    /// Today's bytes are used up.
    BudgetSpent,
    /// The server's answer cannot be used: one sentence.
    Refused(String),
    /// The whole image came, and is not the one that was signed.
    WrongBytes,
    /// There is no room: one sentence.
    NoRoom(String),
    /// The disk fails: one sentence.
    Disk(String),
    /// It was called off.
    Stopped,
}

impl std::fmt::Display for NoImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NoImage::Interrupted(why) => write!(f, "the download was interrupted: {why}"),
            NoImage::BudgetSpent => {
                f.write_str("today's bytes are used up ([update] daily-budget); it goes on tomorrow, UTC")
            }
            NoImage::Refused(why) => write!(f, "the download is refused: {why}"),
            NoImage::WrongBytes => f.write_str(
                "the image on the server is not the one that was signed (its SHA-256 differs); it was deleted",
            ),
            NoImage::NoRoom(why) => write!(f, "there is no room for the image: {why}"),
            NoImage::Disk(why) => write!(f, "the image cannot be stored: {why}"),
            NoImage::Stopped => f.write_str("the download was called off"),
        }
    }
}

/// What is fetched, and within which bounds.
pub struct Job {
    /// The image.
    pub offer: Offer,
    /// Where it is.
    pub url: HttpsUrl,
    /// Asks.
    pub client: std::sync::Arc<Client>,
    /// The slowest server.
    pub pace: Pace,
    /// Bytes a day.
    pub daily_budget: Option<u64>,
    /// Bytes of the disk that stay free.
    pub reserve: u64,
    /// The part is synced after so many bytes; [`SYNC_EVERY`].
    pub sync_every: u64,
}

/// What it needs of its surroundings.
pub struct Surroundings<'a, O> {
    /// Opens the update folder, which is there.
    pub storage: O,
    /// Free bytes of its disk; `None`: not known.
    pub free: &'a dyn Fn() -> Option<u64>,
    /// The wall time, or the last that was trusted.
    pub now: &'a dyn Fn() -> UnixTime,
    /// Told how many bytes are here.
    pub progress: &'a dyn Fn(u64),
    /// Calls it off.
    pub stop: &'a AtomicBool,
}

/// Fetches the image, as far as it is not here. When it returns `Ok`, the file [`IMAGE`] is durable
/// and has the signed length and SHA-256.
///
/// # Errors
/// [`NoImage`]
pub async fn download<S: Storage, O: Fn() -> S>(
    job: &Job,
    around: &Surroundings<'_, O>,
) -> Result<(), NoImage> {
    let mut shelf = Shelf::open(&around.storage)?;
    let offer = &job.offer;
    put_aside(&shelf.storage()).map_err(|error| disk(&error))?;
    if !shelf.record.is_of(offer) {
        shelf.clear()?;
        shelf.record = Record::of(offer, shelf.record.budget.clone());
        shelf.save()?;
    }
    if shelf.holds(IMAGE, offer)? {
        (around.progress)(offer.bytes);
        return Ok(());
    }
    let mut have = shelf.part_length()?.min(shelf.record.have);
    if ask(have, offer.bytes, shelf.record.etag.as_deref()) == Ask::Verify {
        if shelf.accept(offer)? {
            return Ok(());
        }
        have = 0;
    }
    if let Ask::From(0) | Ask::Discard = ask(have, offer.bytes, shelf.record.etag.as_deref()) {
        have = 0;
    }
    let room = |wanted: u64| has_room((around.free)(), wanted, job.reserve);
    room(offer.bytes - have)?;
    let left = shelf.record.budget.left(job.daily_budget, (around.now)());
    if left == 0 {
        return Err(NoImage::BudgetSpent);
    }
    let resume_etag = shelf.record.etag.clone();
    let mut hash = Context::new(&SHA256);
    let part = match have {
        0 => None,
        _ => {
            let (file, _) = shelf.storage().open(PART).map_err(|error| disk(&error))?;
            match hash_file(&file, have, &mut hash) {
                Ok(()) => Some(file),
                // A part that the disk does not give back would stop every later try.
                Err(_) => {
                    (have, hash) = (0, Context::new(&SHA256));
                    None
                }
            }
        }
    };
    let mut taker =
        Taker { job, around, room: &room, shelf, part, hash, have, left, unsynced: 0, fault: None };
    (around.progress)(have);
    let resume = resume_etag.as_deref().filter(|_| have > 0).map(|etag| Resume { from: have, etag });
    let ended = job.client.stream(&job.url, resume, job.pace, &mut taker).await;
    taker.finish(ended)
}

/// What keeps an image from being fetched, whatever its server does; `free`: bytes of the disk, of
/// which `reserve` stay so. Nothing is changed. It blocks.
///
/// # Errors
/// [`NoImage`]
pub fn admits<S: Storage>(
    open: impl Fn() -> S,
    free: Option<u64>,
    offer: &Offer,
    reserve: u64,
) -> Result<(), NoImage> {
    TwoSlot::open(open(), FORMAT).map_err(|error| disk(&error))?;
    // What is there of this image is not fetched again, and of another one it is deleted.
    let here = [IMAGE, PART].map(|name| open().open(name).map_or(0, |(_, length)| length));
    let wanted = offer.bytes.saturating_sub(here.into_iter().fold(0, u64::saturating_add));
    has_room(free, wanted, reserve)
}

fn has_room(free: Option<u64>, wanted: u64, reserve: u64) -> Result<(), NoImage> {
    match free {
        Some(free) if free < wanted.saturating_add(reserve) => Err(NoImage::NoRoom(format!(
            "it needs {wanted} bytes more, and {reserve} are kept free for the journal; {free} are free"
        ))),
        _ => Ok(()),
    }
}

/// Deletes image and part: nothing is wanted any more. It blocks.
///
/// # Errors
/// As the system says.
pub fn clear<S: Storage>(storage: &S) -> io::Result<()> {
    put_aside(storage)?;
    let is_there = storage.has(IMAGE) || storage.has(PART);
    storage.remove(PART)?;
    storage.remove(IMAGE)?;
    if is_there { storage.sync_names() } else { Ok(()) }
}

/// A folder where the image or its part is to be is moved aside, under a name that says so. There
/// are nine such names; then somebody has to look.
fn put_aside<S: Storage>(storage: &S) -> io::Result<()> {
    for name in [IMAGE, PART] {
        match storage.open(name) {
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                let mut names = (1..=9).map(|number| format!("{name}.in-the-way-{number}"));
                let free = names.find(|aside| !storage.has(aside)).ok_or_else(|| {
                    io::Error::other(format!(
                        "{name} is a folder, and nine before it were moved aside: delete them"
                    ))
                })?;
                storage.rename(name, &free)?;
                storage.sync_names()?;
            }
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn disk(error: &io::Error) -> NoImage {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            NoImage::NoRoom("the disk is full".to_owned())
        }
        _ => NoImage::Disk(error.to_string()),
    }
}

/// Hashes the first `length` bytes.
pub(super) fn hash_file(file: &impl StoredFile, length: u64, hash: &mut Context) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < length {
        let wanted = usize::try_from((length - at).min(CHUNK as u64)).unwrap_or(CHUNK);
        let read = file.read_at(at, &mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hash.update(&buffer[..read]);
        at += read as u64;
    }
    Ok(())
}

/// The files and their record.
struct Shelf<'o, S: Storage, O: Fn() -> S> {
    open: &'o O,
    slots: TwoSlot<S>,
    record: Record,
}

impl<'o, S: Storage, O: Fn() -> S> Shelf<'o, S, O> {
    fn open(open: &'o O) -> Result<Shelf<'o, S, O>, NoImage> {
        // An earlier process may have made the file without its name being durable.
        open().sync_names().map_err(|error| disk(&error))?;
        let slots = TwoSlot::open(open(), FORMAT).map_err(|error| disk(&error))?;
        // What cannot be read is worth no more than a download.
        let record = slots.read().ok().flatten().and_then(Record::parse).unwrap_or_default();
        Ok(Shelf { open, slots, record })
    }

    fn storage(&self) -> S {
        (self.open)()
    }

    fn save(&mut self) -> Result<(), NoImage> {
        self.slots.write(&self.record.encode()).map_err(|error| disk(&error))
    }

    fn clear(&self) -> Result<(), NoImage> {
        clear(&self.storage()).map_err(|error| disk(&error))
    }

    fn part_length(&self) -> Result<u64, NoImage> {
        match self.storage().open(PART) {
            Ok((_, length)) => Ok(length),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(disk(&error)),
        }
    }

    /// Whether that file is the image, as the disk has it. One that is not is deleted.
    fn holds(&self, name: &str, offer: &Offer) -> Result<bool, NoImage> {
        let storage = self.storage();
        let (file, length) = match storage.open(name) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(disk(&error)),
        };
        file.forget_cached();
        let mut hash = Context::new(&SHA256);
        if length == offer.bytes {
            // One that the disk does not give back is as good as another.
            let is_read = hash_file(&file, length, &mut hash).is_ok();
            if is_read && hash.finish().as_ref() == offer.sha256 {
                return Ok(true);
            }
        }
        storage.remove(name).and_then(|()| storage.sync_names()).map_err(|error| disk(&error))?;
        Ok(false)
    }

    /// Makes the whole part the image, if it is.
    fn accept(&mut self, offer: &Offer) -> Result<bool, NoImage> {
        if !self.holds(PART, offer)? {
            self.record.have = 0;
            self.record.etag = None;
            self.save()?;
            return Ok(false);
        }
        let storage = self.storage();
        storage.rename(PART, IMAGE).and_then(|()| storage.sync_names()).map_err(|error| disk(&error))?;
        Ok(true)
    }
}

/// Takes the body.
struct Taker<'a, S: Storage, O: Fn() -> S> {
    job: &'a Job,
    around: &'a Surroundings<'a, O>,
    room: &'a dyn Fn(u64) -> Result<(), NoImage>,
    shelf: Shelf<'a, S, O>,
    part: Option<S::File>,
    hash: Context,
    have: u64,
    left: u64,
    unsynced: u64,
    fault: Option<NoImage>,
}

impl<S: Storage, O: Fn() -> S> Taker<'_, S, O> {
    fn try_head(&mut self, head: &StreamHead) -> Result<(), NoImage> {
        let seen = Head {
            status: head.status,
            length: head.length,
            range: head.range.as_deref(),
            is_encoded: false,
        };
        match judge(seen, self.have, self.job.offer.bytes) {
            Answer::Append => return Ok(()),
            Answer::Restart => {}
            Answer::Refuse(why) if head.status == 416 => {
                // The next call begins anew.
                self.shelf.record.have = 0;
                self.shelf.save()?;
                return Err(NoImage::Interrupted(why));
            }
            Answer::Refuse(why) if matches!(head.status, 408 | 429 | 500..=599) => {
                return Err(NoImage::Interrupted(why));
            }
            Answer::Refuse(why) => return Err(NoImage::Refused(why)),
        }
        let storage = self.shelf.storage();
        self.part = Some(storage.create(PART).map_err(|error| disk(&error))?);
        storage.sync_names().map_err(|error| disk(&error))?;
        (self.have, self.unsynced, self.hash) = (0, 0, Context::new(&SHA256));
        self.shelf.record.have = 0;
        self.shelf.record.set_etag(head.etag.as_deref());
        self.shelf.save()
    }

    fn try_piece(&mut self, piece: &[u8]) -> Result<(), NoImage> {
        let length = piece.len() as u64;
        if self.around.stop.load(Ordering::Relaxed) {
            return Err(NoImage::Stopped);
        }
        if self.have + length > self.job.offer.bytes {
            return Err(NoImage::Refused("the server sends more bytes than the signed length".to_owned()));
        }
        if length > self.left {
            return Err(NoImage::BudgetSpent);
        }
        let Some(part) = &self.part else { return Err(NoImage::Disk("there is no part".to_owned())) };
        part.write_at(self.have, piece).map_err(|error| disk(&error))?;
        self.hash.update(piece);
        self.have += length;
        self.left -= length;
        self.unsynced += length;
        self.shelf.record.budget.spend(length);
        if self.unsynced >= self.job.sync_every {
            self.sync()?;
            (self.room)(self.job.offer.bytes - self.have)?;
        }
        (self.around.progress)(self.have);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), NoImage> {
        if let Some(part) = self.part.as_ref().filter(|_| self.unsynced > 0) {
            part.sync().map_err(|error| disk(&error))?;
            self.unsynced = 0;
            self.shelf.record.have = self.have;
            self.shelf.save()?;
        }
        Ok(())
    }

    fn keep(&mut self, result: Result<(), NoImage>) -> bool {
        self.fault = result.err();
        self.fault.is_none()
    }

    /// What came of it.
    fn finish(mut self, ended: Result<(), Failure>) -> Result<(), NoImage> {
        let fault = match (self.fault.take(), ended) {
            (Some(fault), _) => fault,
            (None, Ok(())) if self.have == self.job.offer.bytes => return self.conclude(),
            (None, Ok(())) => NoImage::Interrupted(format!(
                "the answer ended after {} of {} bytes",
                self.have, self.job.offer.bytes
            )),
            (None, Err(failure @ (Failure::Redirect { .. } | Failure::Encoded(_) | Failure::NotHttp))) => {
                NoImage::Refused(failure.to_string())
            }
            (None, Err(failure)) => NoImage::Interrupted(failure.to_string()),
        };
        match &fault {
            NoImage::NoRoom(_) => {
                // Room for readings first. What cannot be deleted is said, too.
                self.part = None;
                self.shelf.clear()?;
                self.shelf.record.have = 0;
                self.shelf.save()?;
            }
            NoImage::Disk(_) => {}
            _ => self.sync()?,
        }
        Err(fault)
    }

    /// All of it is here.
    fn conclude(mut self) -> Result<(), NoImage> {
        self.sync()?;
        let streamed = std::mem::replace(&mut self.hash, Context::new(&SHA256)).finish();
        // What was received, and what the disk has of it.
        let is_right = is_of(&streamed, &self.job.offer);
        self.part = None;
        if is_right && self.shelf.accept(&self.job.offer)? {
            return Ok(());
        }
        self.shelf.clear()?;
        self.shelf.record.have = 0;
        self.shelf.record.etag = None;
        self.shelf.save()?;
        Err(if is_right {
            NoImage::Disk("it does not give back what was written; the part was deleted".to_owned())
        } else {
            NoImage::WrongBytes
        })
    }
}

fn is_of(digest: &digest::Digest, offer: &Offer) -> bool {
    digest.as_ref() == offer.sha256
}

impl<S: Storage, O: Fn() -> S> Receiver for Taker<'_, S, O> {
    fn handle_head(&mut self, head: &StreamHead) -> bool {
        let result = self.try_head(head);
        self.keep(result)
    }

    fn handle_piece(&mut self, piece: &[u8]) -> bool {
        let result = self.try_piece(piece);
        self.keep(result)
    }
}
