//! What a gateway that stood still reads of a line whose messages only pauses divide.
//!
//! ```text
//!  looked ──within the pause──> looked ──within the pause──> looked
//!     └──nobody looked for that long, and bytes wait──> stalled ──a silence that the timer saw──> looked
//! ```
//!
//! A process that is stopped, swapped out, or waits for a disk finds all messages of that time at
//! once, and no pause between them. So while a message is under way a shell that is awake says so
//! twice a pause ([`Decoder::looked`]). While nothing is, no timer wakes it: it says with the first
//! bytes for how long they may have waited ([`Decoder::woken`]). Bytes that came while nobody
//! looked, with what was begun before them and whatever follows without a pause, count only if a
//! CRC says that they are whole messages, one behind the other; anything else is dropped as
//! [`Bad::Stalled`].

use std::time::{Duration, Instant};

use super::super::checksum::Checksum;
use super::{Bad, Decoder, FRAME_MAX, Scanner};

/// The shortest stall that is noticed: shorter ones are those of any busy machine.
pub const STALL_MIN: Duration = Duration::from_millis(20);
/// Bytes that are looked at, over all beginnings of messages in one stall: a bound for the time.
const WORK_MAX: usize = 1 << 20;

impl Decoder {
    /// From now on [`Decoder::looked`] is called in time while the port is open.
    pub fn watch(&mut self, now: Instant) {
        self.looked_at = Some(now);
    }

    /// The line was looked at: what waited until now was read.
    pub fn looked(&mut self, now: Instant) {
        self.looked_at = self.looked_at.map(|at| at.max(now));
    }

    /// Bytes are read now that have waited for so long at most. That says nothing of a message that
    /// is under way: its pauses were to be looked for in time.
    pub fn woken(&mut self, now: Instant, waited: Duration) {
        if self.is_at_rest()
            && let Some(at) = now.checked_sub(waited)
        {
            self.looked(at);
        }
    }

    /// Whether nothing is under way, so that no pause can be missed.
    fn is_at_rest(&self) -> bool {
        !self.is_within() && !self.is_stalled && self.last_byte_at.is_none()
    }

    /// When [`Decoder::looked`] must be called next, though nothing else is to be done; `None` if
    /// nothing is under way.
    pub fn poll_look(&self) -> Option<Instant> {
        self.looked_at.filter(|_| !self.is_at_rest())?.checked_add(self.stall()? / 2)
    }

    /// So long nobody looks in a stall; `None`: it changes nothing.
    fn stall(&self) -> Option<Duration> {
        let pause = self.pause.filter(|_| matches!(self.scanner, Scanner::Gap))?;
        Some(pause.max(STALL_MIN))
    }

    /// Whether bytes that are read now may have waited for longer than a pause.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        let stood = self.looked_at.map(|at| now.saturating_duration_since(at));
        stood.zip(self.stall()).is_some_and(|(stood, stall)| stood >= stall)
    }

    /// Most bytes between two pauses.
    pub(super) fn room(&self) -> usize {
        if self.is_stalled { FRAME_MAX } else { self.buffer.max }
    }

    /// What came during a stall is over.
    pub(super) fn end_stall(&mut self, sink: &mut dyn FnMut(&[u8])) {
        self.is_stalled = false;
        let Some(sizes) = self.whole_frames() else { return self.fail(Bad::Stalled) };
        let bytes = self.buffer.bytes.take();
        let mut rest = &bytes[..];
        for size in sizes {
            let (frame, behind) = rest.split_at(size.min(rest.len()));
            rest = behind;
            let payload = self.strip(frame).and_then(|body| body.get(self.start.len()..));
            if let Some(payload) = payload.filter(|payload| !payload.is_empty()) {
                self.counters.good += 1;
                sink(payload);
            }
        }
    }

    /// The sizes of the frames in the buffer, if a CRC says that it is nothing but whole ones.
    pub(super) fn whole_frames(&self) -> Option<Vec<usize>> {
        // Where a zero in front changes nothing, one that a checksum ends in can as well be the
        // first byte of the next frame.
        let tells = |checksum: &Checksum| checksum.is_crc() && checksum.of(&[0]) != 0;
        let checksum = self.checksum.filter(tells)?;
        let bytes = &self.buffer.bytes[..];
        if self.skipping || self.buffer.over > 0 || bytes.is_empty() || self.is_blank(bytes) {
            return None;
        }
        let least = self.start.len() + self.placement.width(checksum) + 1;
        // Where a frame begins, the ends that were tried, and those at which none leads on.
        let mut begun: Vec<(usize, std::vec::IntoIter<usize>)> = Vec::new();
        let mut dead = vec![false; bytes.len()];
        let mut work = 0;
        let mut at = 0;
        loop {
            if at == bytes.len() {
                let begins = begun.iter().map(|(at, _)| *at).skip(1).chain([at]);
                return Some(begun.iter().zip(begins).map(|((from, _), to)| to - from).collect());
            }
            let rest = bytes.get(at..).unwrap_or_default();
            // No frame is longer.
            let rest = &rest[..rest.len().min(self.buffer.max)];
            let blank = rest.iter().take_while(|byte| rest.first() == Some(byte)).count();
            let blank = if matches!(rest.first(), Some(0 | 0xFF)) { blank } else { 0 };
            let is_begin = rest.starts_with(&self.start) && !dead.get(at).copied().unwrap_or(true);
            let mut ends = Vec::new();
            if is_begin {
                work += rest.len();
                self.buffer.bytes.spend(rest.len());
                if work > WORK_MAX {
                    return None;
                }
                ends = self.placement.ends(checksum, rest);
                ends.retain(|end| *end >= least && *end > blank);
            }
            begun.push((at, ends.into_iter()));
            // The next end to try, of the last beginning that has one.
            loop {
                let (from, ends) = begun.last_mut()?;
                if let Some(end) = ends.next() {
                    at = *from + end;
                    break;
                }
                if let Some(dead) = dead.get_mut(*from) {
                    *dead = true;
                }
                begun.pop();
            }
        }
    }
}
