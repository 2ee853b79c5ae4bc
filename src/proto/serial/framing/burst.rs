//! Frames whose checksum is right for every rotation of a message
//! ([`Placement::is_cyclic`](super::super::checksum::Placement::is_cyclic)): it tells nothing of
//! where one begins. What tells is the silence around messages.
//!
//! ```text
//!  opened ──> collects ──a silence, or the closing; whole frames only──> in step
//!              ^    │ a bad frame, or too many                              │
//!    a silence │    v                                                       │
//!              └─ drops bytes <──────────── a bad frame ────────────────────┤
//!              ^                                                            │
//!              └── a silence within a frame of a device that pauses after each one
//! ```
//!
//! One silence alone is no proof: a converter that holds bytes back makes one anywhere. So what
//! comes between two of them counts only if it is one or more whole frames. A frame in step is
//! completed across a silence, if its checksum is right then; if it is not, what came behind the
//! silence is collected. Where each of the last frames began behind a silence, one that a silence
//! interrupts has lost bytes. A silence is one that the timer saw: bytes that are read late may
//! have come in time.

use std::time::Instant;

use super::{Bad, Decoder, SHOWN_MAX, Scanner, length};

/// So many frames at most between two silences.
const FRAMES_MAX: usize = 8;
/// So many frames in a row behind a silence each are those of a device that pauses after each one.
const PACED: u8 = 2;

/// Where the frames of a line stand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Burst {
    /// The next byte that is not in the buffer continues a frame, or begins one.
    in_step: bool,
    /// What is at the front of the buffer began behind a silence.
    is_behind_silence: bool,
    /// So many of the last frames in a row did, at most [`PACED`].
    paced: u8,
    /// A silence was before this byte of the buffer.
    silence_at: Option<usize>,
    /// Of what is collected, the whole frames that were found and their bytes: each is looked at
    /// once, however its bytes come.
    whole: (usize, usize),
}

impl Burst {
    /// Whoever says so knows that the next byte begins a frame.
    pub(super) fn in_step() -> Burst {
        Burst { in_step: true, is_behind_silence: true, paced: PACED, ..Burst::default() }
    }
}

/// What is at the front of the buffer.
enum Front {
    Frame(usize),
    /// The beginning of one.
    Part,
    Bad(Bad),
}

impl Decoder {
    /// Takes bytes of a line on which only a silence tells where a frame begins.
    pub(super) fn handle_burst(&mut self, now: Instant, bytes: &[u8], sink: &mut dyn FnMut(&[u8])) {
        // The timer takes it.
        let silence = self.last_byte_at.map(|at| now.saturating_duration_since(at));
        let is_behind = silence.is_none();
        self.opened_at = None;
        self.counters.bytes += bytes.len() as u64;
        self.last_byte_at = Some(now);
        if !self.burst.in_step {
            let own = silence.filter(|_| self.longest_silence.is_some()).unwrap_or_default();
            self.longest_silence = self.longest_silence.max(Some(own));
        }
        if self.awaits_silence && !is_behind {
            self.counters.dropped += bytes.len() as u64;
            return;
        }
        self.awaits_silence = false;
        if self.buffer.is_empty() {
            self.burst.is_behind_silence = is_behind;
        }
        let longest = match self.scanner {
            Scanner::Fixed(size) => size,
            _ => self.buffer.max,
        };
        for part in bytes.chunks(longest) {
            if self.awaits_silence {
                self.counters.dropped += part.len() as u64;
                continue;
            }
            self.buffer.bytes.extend_from_slice(part);
            match self.burst.in_step {
                true => self.scan_in_step(sink),
                false => self.collect(),
            }
        }
    }

    /// Whether what was collected can still be whole frames, and not too many.
    fn collect(&mut self) {
        loop {
            let (frames, at) = self.burst.whole;
            let rest = self.buffer.bytes.get(at..).unwrap_or_default();
            match self.front(rest) {
                _ if rest.is_empty() => break,
                Front::Frame(size) => self.burst.whole = (frames + 1, at + size),
                Front::Part => break,
                Front::Bad(why) => {
                    self.burst.whole = (0, 0);
                    self.fail(why);
                    self.awaits_silence = true;
                    return;
                }
            }
        }
        if self.burst.whole.0 > FRAMES_MAX {
            // Whatever they are, no silence ends them.
            self.burst.whole = (0, 0);
            self.counters.dropped += self.buffer.clear();
            self.awaits_silence = true;
        }
    }

    /// The sizes of the whole frames in the buffer, and what is behind them.
    fn sizes(&self) -> (Vec<usize>, Front) {
        let mut sizes = Vec::new();
        let mut at = 0;
        loop {
            let rest = self.buffer.bytes.get(at..).unwrap_or_default();
            match self.front(rest) {
                _ if rest.is_empty() => return (sizes, Front::Frame(0)),
                Front::Frame(size) => {
                    sizes.push(size);
                    at += size;
                }
                other => return (sizes, other),
            }
        }
    }

    /// The line is silent, and something is in the buffer.
    pub(super) fn end_burst(&mut self, sink: &mut dyn FnMut(&[u8])) {
        self.burst.whole = (0, 0);
        let is_paced = self.burst.is_behind_silence && self.burst.paced >= PACED;
        if self.burst.in_step && !is_paced {
            self.burst.silence_at = Some(self.buffer.bytes.len());
            return;
        }
        if self.burst.in_step {
            self.burst = Burst::default();
            return self.fail(Bad::Incomplete);
        }
        let sizes = match self.sizes() {
            (sizes, Front::Frame(_)) => sizes,
            (_, Front::Part) => return self.fail(Bad::Burst),
            (_, Front::Bad(why)) => return self.fail(why),
        };
        sizes.into_iter().for_each(|size| self.take_frame(size, sink));
        self.burst.in_step = true;
    }

    /// Takes whole frames off the front of the buffer.
    fn scan_in_step(&mut self, sink: &mut dyn FnMut(&[u8])) {
        while !self.buffer.is_empty() {
            let why = match self.front(&self.buffer.bytes) {
                Front::Frame(size) => {
                    self.take_frame(size, sink);
                    let was_behind = std::mem::take(&mut self.burst.is_behind_silence);
                    self.burst.paced = if was_behind { (self.burst.paced + 1).min(PACED) } else { 0 };
                    self.burst.silence_at = None;
                    continue;
                }
                Front::Part => return,
                Front::Bad(why) => why,
            };
            let Some(at) = self.burst.silence_at.filter(|at| *at < self.buffer.bytes.len()) else {
                self.burst = Burst::default();
                self.awaits_silence = true;
                return self.fail(why);
            };
            let shown = self.buffer.bytes.len().min(SHOWN_MAX);
            self.last_bad = Some((why, self.buffer.bytes[..shown].to_vec()));
            self.counters.count(why);
            self.counters.dropped += at as u64;
            self.buffer.bytes.drain(..at);
            self.burst = Burst { is_behind_silence: true, ..Burst::default() };
            return;
        }
    }

    fn front(&self, bytes: &[u8]) -> Front {
        let known = bytes.len().min(self.start.len());
        if bytes[..known] != self.start[..known] {
            return Front::Bad(Bad::Malformed);
        }
        let size = match &self.scanner {
            Scanner::Length(header) => header.frame_size(bytes),
            Scanner::Fixed(size) => length::Size::Known(*size),
            _ => length::Size::Impossible,
        };
        match size {
            length::Size::Unknown => Front::Part,
            length::Size::Impossible => Front::Bad(Bad::Malformed),
            length::Size::Known(size) if size > self.buffer.max => Front::Bad(Bad::TooLong),
            length::Size::Known(size) => match bytes.get(..size) {
                None => Front::Part,
                Some(frame) if self.strip(frame).is_none() => Front::Bad(Bad::Checksum),
                Some(frame) if self.is_blank(frame) => Front::Bad(Bad::Malformed),
                Some(_) => Front::Frame(size),
            },
        }
    }

    /// Takes a frame of so many bytes off the front of the buffer, which has it.
    fn take_frame(&mut self, size: usize, sink: &mut dyn FnMut(&[u8])) {
        let frame: Vec<u8> = self.buffer.bytes.drain(..size.min(self.buffer.bytes.len())).collect();
        let payload = self.strip(&frame).and_then(|body| match &self.scanner {
            Scanner::Length(header) => header.payload(body),
            _ => body.get(self.start.len()..),
        });
        if let Some(payload) = payload.filter(|payload| !payload.is_empty()) {
            self.counters.good += 1;
            sink(payload);
        }
    }
}
