//! Frames of a fixed size whose checksum is right, too, when all is moved over zeros
//! ([`Placement::hides_zeros`](super::super::checksum::Placement::hides_zeros)): of a CRC that
//! begins with 0, a zero in front changes nothing, and one behind a right frame neither.
//!
//! ```text
//! sent   00 a b c | 00 d e f | 00 …      the first zero is lost:
//! right             00 d e f
//! late      a b c   00 | d e f   00      ends with the zero of the next one
//! early  of x y z 00 | x y z 00: 00 x y z, which begins with that of the one before
//! ```
//!
//! A frame that is late ends with a zero; one that is early begins with one, and another follows.
//!
//! | a frame with a right checksum | in step | when a place is searched |
//! |---|---|---|
//! | ends with another byte | counts | counts if it begins with another one, too, no zero follows, a silence was before it, it equals the last one that counted, or some in a row differ ([`Ends::chain`]) |
//! | ends with a zero | counts if the next one ends with another byte | none |
//! | whole ones between silences | count | count; a place that shares bytes with them is none |
//!
//! Differing frames decide because the last byte of a CRC is zero in one of 256 only; of a device
//! that was seen to send more of these, more in a row do. In step, nothing is early: bytes are
//! lost, not added. What follows a question is in step.
//!
//! Besides, such a frame has to be followed by another one, or a silence ([`mod@super::search`]).

use std::time::Instant;

use super::{Bad, Decoder, IDLE, SHOWN_MAX, Scanner};

/// Frames in a row, each other than the one before it, that tell the place, at least.
const CHAIN: usize = 3;
/// What may be said of frames whose place was told so, one in this many, is false.
const SURE: u128 = 100_000;
/// Frames of which it is remembered how they ended.
const ENDS: u32 = 32;
/// Frames at most that are looked at up to a silence.
const FRAMES_MAX: usize = 8;
/// Silences at most that are remembered, the last ones: more in a few frames divide no frames.
const SILENCES_MAX: usize = 8;

/// How the last frames ended that counted.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    /// A bit each, the newest first: with a zero.
    zeros: u32,
    /// How many, at most [`ENDS`].
    seen: u32,
}

impl Ends {
    fn push(&mut self, with_zero: bool) {
        self.zeros = self.zeros << 1 | u32::from(with_zero);
        self.seen = (self.seen + 1).min(ENDS);
    }

    /// So many frames in a row that end with another byte stand at their own place, and not one
    /// early; `None`: more than are kept.
    fn chain(self) -> Option<usize> {
        // As if one of eight had been seen to end with a zero before.
        let (zeros, of) = (u128::from(self.zeros.count_ones()) + 1, u128::from(self.seen) + 8);
        (CHAIN..=FRAMES_MAX).find(|frames| {
            // At most FRAMES_MAX, so it fits.
            let power = u32::try_from(*frames).unwrap_or(u32::MAX);
            zeros.pow(power) * SURE <= of.pow(power)
        })
    }
}

/// Where the frames of a line stand.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubt {
    /// What is at the front of the buffer begins a frame, unless bytes were lost.
    in_step: bool,
    /// It does whatever was lost.
    is_asked: bool,
    /// It came first after the opening.
    is_first: bool,
    /// A silence was before these bytes of the buffer.
    silences: Vec<usize>,
    /// The line is silent.
    is_silent: bool,
    /// The last frame that counted.
    last: Vec<u8>,
    ends: Ends,
    /// Bytes up to the end of the last frame with a right checksum that was none.
    passed: usize,
    /// Of the frames at this place that were passed over, so many were each other than the next.
    changes: usize,
}

impl Doubt {
    /// After the opening of the port.
    pub(super) fn opened() -> Doubt {
        Doubt { is_first: true, ..Doubt::default() }
    }

    /// After it was opened again: the device is the same.
    pub(super) fn reopened(&self) -> Doubt {
        Doubt { ends: self.ends, ..Doubt::opened() }
    }

    /// Whoever says so knows that the next byte begins a frame.
    pub(super) fn in_step() -> Doubt {
        Doubt { in_step: true, is_asked: true, ..Doubt::default() }
    }

    /// So many bytes were taken off the front of the buffer.
    fn drain(&mut self, count: usize) {
        self.silences.retain(|at| *at >= count);
        self.silences.iter_mut().for_each(|at| *at -= count);
        self.passed = self.passed.saturating_sub(count);
        (self.is_asked, self.is_first) = (false, false);
    }
}

/// What is known of a frame with a right checksum when a place is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Right,
    /// Another place is tried.
    Wrong,
    /// The same, as no other follows it.
    Alone,
    /// Frames begin here, or none does.
    Even,
    /// Frames begin behind it; it may be of parts of two that were each cut by a zero.
    Begun,
    /// More must come.
    Open,
}

impl Decoder {
    /// Bytes came.
    pub(super) fn end_silence(&mut self) {
        self.doubt.is_silent = false;
    }

    /// When the line is silent for long enough to tell something, and then to drop what came.
    pub(super) fn poll_doubt(&self) -> Option<Instant> {
        let pause = self.pause.unwrap_or(IDLE);
        let pause = match (self.doubt.is_asked, self.doubt.is_silent) {
            (false, false) => pause,
            (true, false) => pause.max(IDLE),
            (_, true) if self.is_within() => pause.max(IDLE),
            (_, true) => return None,
        };
        self.last_byte_at?.checked_add(pause)
    }

    /// Handles the timer.
    pub(super) fn handle_doubt_timeout(&mut self, now: Instant, sink: &mut dyn FnMut(&[u8])) {
        let Some(last) = self.last_byte_at else { return };
        if self.poll_doubt().is_none_or(|at| at > now) {
            return;
        }
        if !std::mem::replace(&mut self.doubt.is_silent, true) {
            if self.doubt.silences.len() == SILENCES_MAX {
                self.doubt.silences.remove(0);
            }
            self.doubt.silences.push(self.buffer.bytes.len());
            self.scan_doubtful(sink);
        }
        if now.saturating_duration_since(last) >= self.pause.unwrap_or(IDLE).max(IDLE) {
            self.last_byte_at = None;
            self.fail(Bad::Incomplete);
            self.skipping = false;
            self.search.end_at_silence();
            let (last, ends) = (std::mem::take(&mut self.doubt.last), self.doubt.ends);
            self.doubt = Doubt { in_step: true, silences: vec![0], last, ends, ..Doubt::default() };
        }
    }

    /// Takes frames off the front of the buffer, and bytes that can begin none.
    pub(super) fn scan_doubtful(&mut self, sink: &mut dyn FnMut(&[u8])) {
        let Scanner::Fixed(size) = self.scanner else { return };
        while self.buffer.bytes.len() >= size {
            if !self.is_good(0, size) {
                (self.doubt.in_step, self.doubt.changes) = (false, 0);
                self.expect(size);
                let frame = self.buffer.bytes.get(..size).unwrap_or_default();
                let why = match size > self.buffer.max {
                    true => Bad::TooLong,
                    false if self.strip_at(0, frame).is_some() => Bad::Malformed,
                    false => Bad::Checksum,
                };
                self.pass_over(1, why);
                continue;
            }
            let verdict = if self.doubt.in_step { self.judge_next(size) } else { self.judge(size) };
            match verdict {
                Verdict::Right => self.take_doubtful(size, sink),
                Verdict::Wrong => {
                    (self.doubt.in_step, self.doubt.changes) = (false, 0);
                    self.doubt.passed = size;
                    self.expect(size);
                    self.pass_over(1, Bad::Burst);
                }
                Verdict::Alone => {
                    self.search.note_alone(size);
                    self.pass_over(1, Bad::Burst);
                }
                Verdict::Even => {
                    let (one, next) = (self.buffer.bytes.get(..size), self.buffer.bytes.get(size..2 * size));
                    self.doubt.changes += usize::from(one != next);
                    self.pass_over(size, Bad::Burst);
                }
                Verdict::Begun => {
                    self.pass_over(size, Bad::Burst);
                    self.doubt.in_step = true;
                }
                Verdict::Open => return,
            }
        }
    }

    /// Judges the frame behind one that was right.
    fn judge_next(&self, size: usize) -> Verdict {
        if self.doubt.is_asked || !self.ends_with_zero(0, size) || self.is_between_silences(0, size) {
            return Verdict::Right;
        }
        match self.buffer.bytes.len() >= 2 * size {
            true if self.is_good(size, size) && !self.ends_with_zero(size, size) => Verdict::Right,
            true => Verdict::Wrong,
            false => Verdict::Open,
        }
    }

    /// Judges a frame at a place that may be another one.
    fn judge(&self, size: usize) -> Verdict {
        let bytes = &self.buffer.bytes;
        if self.is_between_silences(0, size) {
            return Verdict::Right;
        }
        // This one would be of parts of two then.
        let mut within = self.doubt.silences.iter().filter(|at| (1..size).contains(*at));
        if within.clone().any(|at| self.is_good(*at, size)) {
            return Verdict::Wrong;
        }
        if !self.doubt.is_silent && within.any(|at| bytes.len() < at + size) {
            return Verdict::Open;
        }
        if self.ends_with_zero(0, size) {
            // A silence behind it may tell.
            let is_behind_one = self.doubt.is_first || self.doubt.silences.contains(&0);
            let is_open = bytes.len() < 2 * size && is_behind_one;
            return if is_open { Verdict::Open } else { Verdict::Wrong };
        }
        if bytes.get(..size) == Some(&self.doubt.last[..]) {
            return Verdict::Right;
        }
        let begins_with_zero = bytes.get(self.placement.from) == Some(&0);
        let right = if self.doubt.passed > 0 { Verdict::Even } else { Verdict::Right };
        if !begins_with_zero || self.doubt.silences.contains(&0) {
            return match self.is_followed(0, size) {
                Some(true) => right,
                Some(false) if self.search.is_foreign() => Verdict::Right,
                Some(false) => Verdict::Alone,
                None if self.doubt.silences.contains(&size) => Verdict::Right,
                None => Verdict::Open,
            };
        }
        match bytes.get(size) {
            None => return Verdict::Open,
            Some(0) => {}
            // Or it is one further on, whose last zero was lost: the next frame tells.
            Some(_) if bytes.len() < 2 * size => return Verdict::Open,
            Some(_) if self.is_good(size, size) && !self.ends_with_zero(size, size) => return right,
            Some(_) => return Verdict::Wrong,
        }
        let Some(chain) = self.doubt.ends.chain() else { return Verdict::Wrong };
        let frames: Vec<&[u8]> = bytes.chunks_exact(size).take(chain).collect();
        let is_chain = |at: usize| self.is_good(at * size, size) && !self.ends_with_zero(at * size, size);
        let changes = frames.windows(2).filter(|pair| pair[0] != pair[1]).count();
        match (1..frames.len()).all(is_chain) {
            false => Verdict::Wrong,
            true if frames.len() < chain => Verdict::Open,
            true if self.doubt.changes + changes + 1 >= chain => Verdict::Begun,
            true => Verdict::Even,
        }
    }

    /// Whether whole frames begin there behind a silence and end with one; the opening is one, too.
    fn is_between_silences(&self, at: usize, size: usize) -> bool {
        let begins = self.doubt.is_first && at == 0 || self.doubt.silences.contains(&at);
        let mut whole =
            (0..FRAMES_MAX).map(|count| at + count * size).take_while(|at| self.is_good(*at, size));
        begins && whole.any(|at| self.doubt.silences.contains(&(at + size)))
    }

    /// Bytes are lost here; without, the next frame begins so many further on.
    fn expect(&mut self, size: usize) {
        if !self.skipping {
            self.search.lose(size);
        }
    }

    fn ends_with_zero(&self, at: usize, size: usize) -> bool {
        self.buffer.bytes.get(at + size - 1) == Some(&0)
    }

    fn is_good(&self, at: usize, size: usize) -> bool {
        let frame = self.buffer.bytes.get(at..at + size).filter(|_| size <= self.buffer.max);
        frame.is_some_and(|frame| self.strip_at(at, frame).is_some() && !self.is_blank_at(at, frame))
    }

    /// These bytes begin no frame.
    fn pass_over(&mut self, count: usize, why: Bad) {
        // Bytes dropped one after the other are one bad frame.
        if !std::mem::replace(&mut self.skipping, true) {
            let shown = self.buffer.bytes.len().min(SHOWN_MAX);
            self.last_bad = Some((why, self.buffer.bytes[..shown].to_vec()));
            self.counters.count(why);
        }
        self.counters.dropped += count as u64;
        self.search.pass(count);
        self.search.advance(count);
        self.buffer.bytes.advance(count);
        self.doubt.drain(count);
    }

    fn take_doubtful(&mut self, size: usize, sink: &mut dyn FnMut(&[u8])) {
        let frame = self.buffer.bytes.get(..size).unwrap_or_default().to_vec();
        self.doubt.ends.push(self.ends_with_zero(0, size));
        self.search.found(self.skipping, true);
        self.buffer.bytes.advance(size);
        self.doubt.drain(size);
        (self.doubt.in_step, self.skipping) = (true, false);
        (self.doubt.passed, self.doubt.changes) = (0, 0);
        if let Some(payload) = self.strip(&frame).filter(|payload| !payload.is_empty()) {
            self.counters.good += 1;
            sink(payload);
        }
        self.doubt.last = frame;
    }
}
