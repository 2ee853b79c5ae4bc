//! The reading end of a lane: walks the committed part of the segment files, chunk by chunk,
//! without file access of its own.
//!
//! It requests bytes ([`Step::Fetch`]) and the shell supplies them, from memory or from a reading
//! thread. It holds one chunk, regardless of the size of the backlog.

use std::sync::Arc;

use super::frame::{self, Kind, Parsed};
use super::range::RangeSet;
use super::record::{self, Reading};
use super::segment::{Run, Segment};
use super::view::LaneView;

/// Bytes per read; more only for a larger record.
pub const CHUNK: u32 = 65_536;

/// Bytes a cursor needs.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// The segment.
    pub segment: Arc<Segment>,
    /// The offset in its file.
    pub offset: u32,
    /// The number of bytes; fewer are read only at the end of the file.
    pub length: u32,
    /// Whether it is the active segment.
    pub hot: bool,
}

/// The result of a cursor's next step.
#[derive(Clone, Debug)]
pub enum Step {
    /// [`Cursor::reading`] is the next record.
    Record,
    /// These bytes are needed: [`Cursor::supply`].
    Fetch(Fetch),
    /// These records were not found at their place; the cursor is after them. They are lost only if
    /// a new view shows that they were not released (the file may have been recycled), and if a
    /// second reading does not find them either.
    Lost(u64, u64),
    /// These records are in an unreadable place ([`Cursor::supply_hole`]) of the segment with this
    /// number; the cursor is after them.
    Unreadable(u64, u64, u64),
    /// This segment must be opened before it can be read.
    Unopened(Arc<Segment>),
    /// No more records are committed.
    Empty,
}

/// A position in a lane.
#[derive(Debug, Default)]
pub struct Cursor {
    position: u64,
    chunk: Vec<u8>,
    /// The number of the chunk's segment.
    number: Option<u64>,
    /// File offset of the chunk's first byte.
    base: u32,
    /// Position in the chunk.
    at: usize,
    /// The offset at which the file ends too early.
    cut: Option<u32>,
    /// Whether an unreadable place was skipped since the last record.
    hole: bool,
    /// The current record: its body in the chunk, its sequence and its run.
    current: Option<(usize, usize, u64, Run)>,
}

impl Cursor {
    /// A cursor before the record with this sequence.
    pub fn new(position: u64) -> Cursor {
        Cursor { position, ..Cursor::default() }
    }

    /// The sequence of the next record.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Moves to this sequence, in either direction.
    pub fn seek(&mut self, position: u64) {
        self.position = position;
        self.number = None;
        self.current = None;
    }

    /// The bytes of the last [`Fetch`] cannot be read up to `to`: they are skipped.
    pub fn supply_hole(&mut self, fetch: &Fetch, to: u32) {
        if self.number == Some(fetch.segment.number) && self.end() == fetch.offset && to > fetch.offset {
            let zeros = vec![0; (to - fetch.offset) as usize];
            let whole = Fetch { length: to - fetch.offset, ..fetch.clone() };
            self.supply(&whole, &zeros);
            self.hole = true;
        }
    }

    /// Supplies the bytes of the last [`Fetch`]. Bytes of an earlier one, from before a
    /// [`Cursor::seek`], are ignored.
    pub fn supply(&mut self, fetch: &Fetch, bytes: &[u8]) {
        if self.number != Some(fetch.segment.number) || self.end() != fetch.offset {
            return;
        }
        self.current = None;
        self.chunk.drain(..self.at.min(self.chunk.len()));
        self.base += self.at as u32;
        self.at = 0;
        self.chunk.extend_from_slice(bytes);
        if bytes.len() < fetch.length as usize {
            self.cut = Some(self.end());
        }
    }

    /// File offset of the chunk's end.
    fn end(&self) -> u32 {
        self.base + self.chunk.len() as u32
    }

    /// Advances to the next record that is not in `settled`.
    pub fn advance<F>(&mut self, view: &LaneView<F>, settled: &RangeSet) -> Step {
        self.current = None;
        self.position = self.position.max(view.released + 1);
        while let Some(end) = settled.end_of(self.position) {
            self.position = end + 1;
        }
        let Some(place) = view.locate(self.position) else { return Step::Empty };
        let segment = place.segment;
        if segment.first_sequence > self.position {
            self.hole = false;
            return self.lost_to(segment.first_sequence);
        }
        if segment.unopened {
            self.number = None;
            return Step::Unopened(segment.clone());
        }
        if self.number != Some(segment.number) {
            self.number = Some(segment.number);
            self.base = segment.seek(self.position);
            self.at = 0;
            self.cut = None;
            self.hole = false;
            self.chunk.clear();
        }
        let end = self.cut.map_or(place.end, |cut| cut.min(place.end));
        loop {
            let offset = self.base + self.at as u32;
            if offset >= end {
                return self.lost_to(place.last_sequence + 1);
            }
            let rest = self.chunk.get(self.at..).unwrap_or_default();
            let rest = rest.get(..(end - offset) as usize).unwrap_or(rest);
            let known = rest.len() as u32 >= end - offset;
            let frame = match frame::parse(rest, segment.seed) {
                Parsed::Valid(frame) => frame,
                Parsed::Short(needed) if !known => {
                    let missing = needed.saturating_sub(rest.len());
                    return Step::Fetch(fetch(&place, self.end(), missing as u32, end));
                }
                Parsed::Invalid if rest.is_empty() => {
                    return Step::Fetch(fetch(&place, self.end(), 0, end));
                }
                Parsed::Short(_) | Parsed::Invalid => {
                    self.at += frame::ALIGN;
                    continue;
                }
            };
            let (step, sequence, length) = (frame.step(), frame.sequence, frame.body.len());
            if frame.kind != Kind::Reading || sequence < self.position || sequence > place.last_sequence {
                self.at += step;
                continue;
            }
            if sequence > self.position {
                return self.lost_to(sequence);
            }
            if record::decode(frame.body).is_none() {
                self.at += step;
                return self.lost_to(sequence + 1);
            }
            let body = self.at + frame::HEADER;
            self.current = Some((body, length, sequence, segment.run_of(sequence)));
            self.at += step;
            self.position = sequence + 1;
            self.hole = false;
            return Step::Record;
        }
    }

    fn lost_to(&mut self, next: u64) -> Step {
        let first = std::mem::replace(&mut self.position, next);
        match self.number {
            Some(number) if std::mem::take(&mut self.hole) => Step::Unreadable(first, next - 1, number),
            _ => Step::Lost(first, next - 1),
        }
    }

    /// The record that [`Cursor::advance`] reached: its sequence, run and content.
    pub fn reading(&self) -> Option<(u64, Run, Reading<'_>)> {
        let (body, length, sequence, run) = self.current?;
        Some((sequence, run, record::decode(self.chunk.get(body..body + length)?)?))
    }

    /// The sequence of that record and the length of its body in bytes.
    pub fn length(&self) -> Option<(u64, u32)> {
        self.current.map(|(_, length, sequence, _)| (sequence, length as u32))
    }

    /// The bytes needed after the current chunk, for reading ahead.
    pub fn ahead<F>(&self, view: &LaneView<F>) -> Option<Fetch> {
        let place = view.locate(self.position).filter(|place| Some(place.segment.number) == self.number)?;
        let offset = self.end();
        (self.cut.is_none() && offset < place.end).then(|| fetch(&place, offset, 0, place.end))
    }
}

fn fetch<F>(place: &super::view::Place<'_, F>, offset: u32, needed: u32, end: u32) -> Fetch {
    Fetch {
        segment: place.segment.clone(),
        offset,
        length: CHUNK.max(needed).min(end - offset),
        hot: place.active.is_some(),
    }
}
