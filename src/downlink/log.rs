//! The mailbox's file: frames appended, or all written anew.
//!
//! It decides nothing: what is appended and what a new log holds comes from the
//! [mailbox](super::mailbox), which has everything in memory. What cannot be read for an I/O error
//! is no damage: then there is no log, and nothing is written over it.

use std::io;

use super::frame::{self, kind};
use crate::durable::append_log::{AppendLog, LogFormat, LogReport, Unread};
use crate::durable::frame::Frame;
use crate::durable::storage::Storage;

/// The log's name in its folder.
pub const NAME: &str = "log";

const FORMAT: LogFormat = LogFormat {
    name: NAME,
    frames: frame::FORMAT,
    read_max: 96 << 20,
    size_max: 64 << 20,
    unread: Unread::Refuse,
};

/// One frame of a [`Batch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// See [`kind`].
    pub kind: u8,
    /// Of what.
    pub number: u64,
    /// The content.
    pub content: Vec<u8>,
}

/// What is to be made durable at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// To be appended.
    pub entries: Vec<Entry>,
    /// `Some`: instead, the log is written anew with these.
    pub image: Option<Vec<Entry>>,
}

/// What became of a [`Batch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Why it is not durable; then the next one must be an image.
    pub error: Option<String>,
    /// Most of the log is of no use: the next batch should be an image.
    pub wants_image: bool,
}

/// The open log.
pub struct MailboxLog<S: Storage> {
    log: AppendLog<S>,
    epoch: u32,
    /// Bytes of the last image.
    live: u64,
}

impl<S: Storage> MailboxLog<S> {
    /// Reads what is there. Nothing is written but where a file has to be moved aside. The first
    /// batch must be an image. `epoch` is random: that of the next image.
    ///
    /// # Errors
    /// As the system says: the log cannot be read, or not moved aside.
    pub fn open(storage: S, epoch: u32) -> io::Result<(MailboxLog<S>, Vec<Entry>, LogReport)> {
        let mut entries = Vec::new();
        let mut known = None;
        let (log, report) = AppendLog::open(storage, FORMAT, |_, Frame { kind, number, epoch, content }| {
            // Frames of a former log, or ones that a payload made up, have another epoch.
            if *known.get_or_insert(epoch) == epoch {
                entries.push(Entry { kind, number, content: content.to_vec() });
            }
        })?;
        Ok((MailboxLog { log, epoch, live: 0 }, entries, report))
    }

    /// Makes a batch durable.
    pub fn commit(&mut self, batch: &Batch) -> Committed {
        let result = match &batch.image {
            Some(image) => self.rewrite(image),
            None => self.append(&batch.entries),
        };
        let wants_image = result.is_err() || self.log.wants_compaction(self.live);
        Committed { error: result.err().map(|error| error.to_string()), wants_image }
    }

    fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        let mut frames = Vec::new();
        for Entry { kind, number, content } in entries {
            let frame = Frame { kind: *kind, number: *number, epoch: self.epoch, content };
            frame::FORMAT.encode(&frame, &mut frames);
        }
        self.log.append(&frames).map(drop)
    }

    fn rewrite(&mut self, image: &[Entry]) -> io::Result<()> {
        // What is behind a failed or damaged place must not be taken for a part of the new log.
        self.epoch = self.epoch.wrapping_add(0x9E37_79B9);
        let epoch = self.epoch;
        let (written, durable) = self.log.compact(|snapshot| {
            let mut bytes = 0;
            let begin = Entry { kind: kind::BEGIN, number: 0, content: Vec::new() };
            for Entry { kind, number, content } in std::iter::once(&begin).chain(image) {
                let frame = Frame { kind: *kind, number: *number, epoch, content };
                bytes += frame.size() as u64;
                snapshot.push(&frame)?;
            }
            Ok(bytes)
        });
        if let Some(bytes) = written {
            self.live = bytes;
        }
        durable
    }

    /// Bytes written to the disk so far, without metadata.
    pub fn bytes_written(&self) -> u64 {
        self.log.bytes_written()
    }

    /// The log's size on the disk.
    pub fn bytes(&self) -> u64 {
        self.log.bytes()
    }
}
