//! Frames of which only a silence tells where one begins ([`Begin::Silence`](super::Begin)): their
//! checksum is right for every rotation of a message, or for some.
//!
//! ```text
//!  opened ──> collects ──a silence, or the closing; whole frames only──> they count
//!              ^    │ a bad frame, or too many
//!    a silence │    v
//!              └─ drops bytes
//! ```
//!
//! One silence alone is no proof: a converter that holds bytes back makes one anywhere. So what
//! comes between two of them counts only if it is one or more whole frames. Nothing is completed
//! across a silence: a frame that lost a byte would be by one of the next, and its checksum can be
//! right. A silence is one that the timer saw: bytes that are read late may have come in time.
//!
//! What follows a question begins a frame, and counts at once.

use std::time::{Duration, Instant};

use super::{Bad, Decoder, Scanner, length};

/// So many frames at most between two silences.
const FRAMES_MAX: usize = 8;
/// Bytes at most of two messages of which the length tells the size.
const WINDOW: usize = 128;

/// Where the frames of a line stand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Burst {
    /// What is at the front of the buffer begins a frame.
    in_step: bool,
    /// Of what is collected, the whole frames that were found and their bytes: each is looked at
    /// once, however its bytes come.
    whole: (usize, usize),
}

impl Burst {
    /// Whoever says so knows that the next byte begins a frame.
    pub(super) fn in_step() -> Burst {
        Burst { in_step: true, ..Burst::default() }
    }
}

/// The pauses of a line that is never silent: the longest of as many bytes as two messages have
/// comes between messages, and the shortest of these comes again and again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pauses {
    longest: Duration,
    bytes: usize,
    regular: Option<Duration>,
}

impl Pauses {
    /// So many bytes came after such a pause.
    fn add(&mut self, pause: Duration, bytes: usize, window: usize) {
        self.longest = self.longest.max(pause);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes >= window {
            let longest = std::mem::take(&mut self.longest);
            self.regular = Some(self.regular.map_or(longest, |regular| regular.min(longest)));
            self.bytes = 0;
        }
    }

    /// The longest that comes again and again, as far as is known.
    pub(super) fn regular(&self) -> Duration {
        self.regular.unwrap_or(self.longest)
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
            let window = match self.scanner {
                Scanner::Fixed(size) => size.saturating_mul(2),
                _ => self.buffer.max.min(WINDOW),
            };
            // One that was long enough and that the timer did not see was none: it was read late.
            let own = silence.filter(|own| self.pause.is_none_or(|pause| *own < pause));
            let own = own.filter(|_| self.pauses.is_some()).unwrap_or_default();
            self.pauses.get_or_insert_default().add(own, bytes.len(), window);
        }
        if self.awaits_silence && !is_behind {
            self.counters.dropped += bytes.len() as u64;
            return;
        }
        self.awaits_silence = false;
        let longest = match self.scanner {
            Scanner::Fixed(size) => size,
            _ => self.buffer.max,
        };
        for part in bytes.chunks(longest) {
            if self.awaits_silence {
                self.counters.dropped += part.len() as u64;
                continue;
            }
            self.buffer.bytes.extend(part);
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

    /// The line is silent.
    pub(super) fn end_burst(&mut self, sink: &mut dyn FnMut(&[u8])) {
        self.burst.whole = (0, 0);
        if std::mem::take(&mut self.burst.in_step) {
            return self.fail(Bad::Incomplete);
        }
        let sizes = match self.sizes() {
            (sizes, Front::Frame(_)) => sizes,
            (_, Front::Part) => return self.fail(Bad::Burst),
            (_, Front::Bad(why)) => return self.fail(why),
        };
        sizes.into_iter().for_each(|size| self.take_frame(size, sink));
    }

    /// Takes whole frames off the front of the buffer.
    fn scan_in_step(&mut self, sink: &mut dyn FnMut(&[u8])) {
        while !self.buffer.is_empty() {
            match self.front(&self.buffer.bytes) {
                Front::Frame(size) => self.take_frame(size, sink),
                Front::Part => return,
                Front::Bad(why) => {
                    self.burst = Burst::default();
                    self.awaits_silence = true;
                    return self.fail(why);
                }
            }
        }
    }

    fn front(&self, bytes: &[u8]) -> Front {
        self.buffer.bytes.spend(1);
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
        let frame = self.buffer.bytes.get(..size).unwrap_or_default().to_vec();
        self.buffer.bytes.advance(size);
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
