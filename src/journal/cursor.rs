//! The reading end of a lane: walks the segment files behind the commits, chunk by chunk, without
//! doing any reading itself.
//!
//! It says which bytes it needs ([`Step::Fetch`]) and is handed them; so the shell decides what it
//! has in memory, and what another thread reads. Whatever backlog there is, it holds one chunk.

use std::sync::Arc;

use super::frame::{self, Kind, Parsed};
use super::range::RangeSet;
use super::record::{self, Reading};
use super::segment::{Run, Segment};
use super::view::LaneView;

/// Bytes read at once; more only for a record that is larger.
pub const CHUNK: u32 = 65_536;

/// Bytes a cursor needs.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// Of which segment.
    pub segment: Arc<Segment>,
    /// From this offset on,
    pub offset: u32,
    /// so many: less only if the file is shorter.
    pub length: u32,
    /// Whether it is the segment still being written.
    pub hot: bool,
}

/// What the next step of a cursor comes to.
#[derive(Clone, Debug)]
pub enum Step {
    /// [`Cursor::reading`] is the next record.
    Record,
    /// These bytes are needed: [`Cursor::supply`].
    Fetch(Fetch),
    /// These records are not where they should be; the cursor is behind them. To be believed only
    /// where a fresh view says that they have not left, because the file may have been recycled
    /// meanwhile, and where they are not there a second time either.
    Lost(u64, u64),
    /// These records lie where the disk gives nothing ([`Cursor::supply_hole`]), in the segment of
    /// this number; the cursor is behind them.
    Unreadable(u64, u64, u64),
    /// This segment is not open: it has to be opened before anything in it can be read.
    Unopened(Arc<Segment>),
    /// There is nothing more for now.
    Empty,
}

/// A place in a lane.
#[derive(Debug, Default)]
pub struct Cursor {
    position: u64,
    chunk: Vec<u8>,
    /// The segment the chunk is of, by number.
    number: Option<u64>,
    /// File offset of the chunk's first byte.
    base: u32,
    /// Place in the chunk.
    at: usize,
    /// The file ends here, though it should not.
    cut: Option<u32>,
    /// The disk did not give a place since the last record.
    hole: bool,
    /// The current record's body in the chunk, and its run.
    current: Option<(usize, usize, u64, Run)>,
}

impl Cursor {
    /// Before the record of this sequence.
    pub fn new(position: u64) -> Cursor {
        Cursor { position, ..Cursor::default() }
    }

    /// Sequence of the next record wanted.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Goes back, or forth.
    pub fn seek(&mut self, position: u64) {
        self.position = position;
        self.number = None;
        self.current = None;
    }

    /// The disk does not give the bytes of the [`Fetch`] asked for last, up to `to`: what lies
    /// there is stepped over.
    pub fn supply_hole(&mut self, fetch: &Fetch, to: u32) {
        if self.number == Some(fetch.segment.number) && self.end() == fetch.offset && to > fetch.offset {
            let zeros = vec![0; (to - fetch.offset) as usize];
            let whole = Fetch { length: to - fetch.offset, ..fetch.clone() };
            self.supply(&whole, &zeros);
            self.hole = true;
        }
    }

    /// Hands over the bytes of the [`Fetch`] asked for last. Others, asked for before a
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

    /// Goes to the next record that is not in `settled`.
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

    /// The record [`Cursor::advance`] came to: its sequence, run, and what was stored.
    pub fn reading(&self) -> Option<(u64, Run, Reading<'_>)> {
        let (body, length, sequence, run) = self.current?;
        Some((sequence, run, record::decode(self.chunk.get(body..body + length)?)?))
    }

    /// Sequence of that record, and the bytes of its body.
    pub fn length(&self) -> Option<(u64, u32)> {
        self.current.map(|(_, length, sequence, _)| (sequence, length as u32))
    }

    /// What will be needed after the present chunk, so that it can be read ahead.
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
