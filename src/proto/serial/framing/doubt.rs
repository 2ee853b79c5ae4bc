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
//! | ends with another byte | counts | counts if it begins with another one, too, no zero follows, a silence was before it, it equals the last one that counted, or [`CHAIN`] in a row differ |
//! | ends with a zero | counts if the next one ends with another byte | none |
//! | whole ones between silences | count | count; a place that shares bytes with them is none |
//!
//! Differing frames decide because the last byte of a CRC is zero in one of 256 only. In step,
//! nothing is early: bytes are lost, not added. What follows a question is in step.

use std::time::Instant;

use super::{Bad, Decoder, IDLE, SHOWN_MAX, Scanner};

/// Frames in a row, each other than the one before it, that tell the place.
const CHAIN: usize = 3;
/// Frames at most that are looked at up to a silence.
const FRAMES_MAX: usize = 8;
/// Silences at most that are remembered, the last ones: more in a few frames divide no frames.
const SILENCES_MAX: usize = 8;

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
}

impl Doubt {
    /// After the opening of the port.
    pub(super) fn opened() -> Doubt {
        Doubt { is_first: true, ..Doubt::default() }
    }

    /// Whoever says so knows that the next byte begins a frame.
    pub(super) fn in_step() -> Doubt {
        Doubt { in_step: true, is_asked: true, ..Doubt::default() }
    }

    /// So many bytes were taken off the front of the buffer.
    fn drain(&mut self, count: usize) {
        self.silences.retain(|at| *at >= count);
        self.silences.iter_mut().for_each(|at| *at -= count);
        (self.is_asked, self.is_first) = (false, false);
    }
}

/// What is known of a frame with a right checksum when a place is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Right,
    /// Another place is tried.
    Wrong,
    /// Frames begin here, or none does.
    Even,
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
            let last = std::mem::take(&mut self.doubt.last);
            self.doubt = Doubt { in_step: true, silences: vec![0], last, ..Doubt::default() };
        }
    }

    /// Takes frames off the front of the buffer, and bytes that can begin none.
    pub(super) fn scan_doubtful(&mut self, sink: &mut dyn FnMut(&[u8])) {
        let Scanner::Fixed(size) = self.scanner else { return };
        while self.buffer.bytes.len() >= size {
            if !self.is_good(0, size) {
                self.doubt.in_step = false;
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
                    self.doubt.in_step = false;
                    self.pass_over(1, Bad::Burst);
                }
                Verdict::Even => self.pass_over(size, Bad::Burst),
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
        if within.any(|at| self.is_between_silences(*at, size)) {
            return Verdict::Wrong;
        }
        if self.ends_with_zero(0, size) {
            // A silence behind it may tell.
            let is_behind_one = self.doubt.is_first || self.doubt.silences.contains(&0);
            let is_open = bytes.len() < 2 * size && is_behind_one;
            return if is_open { Verdict::Open } else { Verdict::Wrong };
        }
        let begins_with_zero = bytes.get(self.placement.from) == Some(&0);
        if !begins_with_zero
            || self.doubt.silences.contains(&0)
            || bytes.get(..size) == Some(&self.doubt.last[..])
        {
            return Verdict::Right;
        }
        match bytes.get(size) {
            None => return Verdict::Open,
            Some(0) => {}
            // Or it is one further on, whose last zero was lost: the next frame tells.
            Some(_) if bytes.len() < 2 * size => return Verdict::Open,
            Some(_) if self.is_good(size, size) && !self.ends_with_zero(size, size) => return Verdict::Right,
            Some(_) => return Verdict::Wrong,
        }
        let frames: Vec<&[u8]> = bytes.chunks_exact(size).take(CHAIN).collect();
        let is_chain = |at: usize| self.is_good(at * size, size) && !self.ends_with_zero(at * size, size);
        match (1..frames.len()).all(is_chain) {
            false => Verdict::Wrong,
            true if frames.len() < CHAIN => Verdict::Open,
            true if frames.windows(2).all(|pair| pair[0] != pair[1]) => Verdict::Right,
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
        self.buffer.bytes.advance(count);
        self.doubt.drain(count);
    }

    fn take_doubtful(&mut self, size: usize, sink: &mut dyn FnMut(&[u8])) {
        let frame = self.buffer.bytes.get(..size).unwrap_or_default().to_vec();
        self.buffer.bytes.advance(size);
        self.doubt.drain(size);
        (self.doubt.in_step, self.skipping) = (true, false);
        if let Some(payload) = self.strip(&frame).filter(|payload| !payload.is_empty()) {
            self.counters.good += 1;
            sink(payload);
        }
        self.doubt.last = frame;
    }
}
