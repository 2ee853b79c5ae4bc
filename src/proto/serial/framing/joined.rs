//! Messages that were joined, because what ended one of them was lost, and whose checksum is right
//! all the same: where that over a message and its checksum is 0
//! ([`Placement::joins`](super::super::checksum::Placement::joins)), it is over two in a row, too.
//!
//! ```text
//! sent   a b c | d e f | …      the first | is lost:
//! right  a b c   d e f | …      a message of six
//! ```
//!
//! A zero may stand between the two, which changes none of these checksums: the code byte behind a
//! delimiter of [`cobs`](super::cobs) that was lost says so, and a delimiter may be damaged to one.
//!
//! By chance, one place in 256 of a message is such an end as well, if the checksum has 8 bits. So
//! the sizes that came before tell: a frame is in doubt if it can be divided into frames whose
//! checksums are right and that have sizes of such as counted, while its own size is none of a
//! device that sends it again and again ([`USUAL`]). It counts if it comes a second time and no
//! part of it came alone lately: the device sends it, and its parts are by chance. Of a device of
//! many sizes too many frames would be in doubt, so none is ([`Joined::is_many`]).

use std::ops::Range;

use super::super::checksum::{Checksum, Placement};

/// A size is usual after so many frames that had it.
const USUAL: u8 = 3;
/// Frames of which it is remembered what they were.
const RECENT: usize = 8;
/// Places at most at which a part may end: a bound for the time.
const PARTS_MAX: usize = 32;

/// What may stand between two parts.
const BETWEEN: u8 = 0;
/// Most sizes of a device whose frames are doubted, with a checksum of one byte: of frames with
/// another size, 1.5 % are divided by chance then.
const SIZES_SHORT: usize = 4;
/// The same with a longer one: 0.1 %.
const SIZES_LONG: usize = 64;

/// What came on a line whose checksums may be joined.
#[derive(Clone, Debug)]
pub(super) struct Joined {
    checksum: Checksum,
    placement: Placement,
    /// How many frames of each size counted, at most [`USUAL`]; `0..=FRAME_MAX` entries.
    sizes: Vec<u8>,
    /// Sizes that came.
    count: usize,
    /// What tells the last frames that counted from others, the newest last.
    recent: Vec<u32>,
    /// The last one in doubt.
    doubted: Option<u32>,
}

impl Joined {
    /// `None`: the checksum of joined messages is wrong, as any.
    pub(super) fn new(checksum: Option<Checksum>, placement: Placement) -> Option<Joined> {
        let checksum = checksum.filter(|checksum| placement.joins(*checksum))?;
        let (sizes, count, recent, doubted) = Default::default();
        Some(Joined { checksum, placement, sizes, count, recent, doubted })
    }

    /// Whether this frame, whose checksum is right, counts.
    pub(super) fn judge(&mut self, frame: &[u8]) -> bool {
        let size = frame.len();
        let print = Checksum::Crc32.of(frame);
        if self.seen(size) < USUAL
            && !self.is_many()
            && let Some(parts) = self.parts(frame)
        {
            let is_again = self.doubted.replace(print) == Some(print);
            let is_part = |part: &[u8]| self.recent.contains(&Checksum::Crc32.of(part));
            if !is_again || parts.into_iter().any(is_part) {
                return false;
            }
        }
        if self.sizes.len() <= size {
            self.sizes.resize(size + 1, 0);
        }
        if let Some(seen) = self.sizes.get_mut(size) {
            self.count += usize::from(*seen == 0);
            *seen = (*seen + 1).min(USUAL);
        }
        if self.recent.len() == RECENT {
            self.recent.remove(0);
        }
        self.recent.push(print);
        true
    }

    /// Whether the device sends messages of many sizes.
    fn is_many(&self) -> bool {
        self.count > if self.checksum.width() == 1 { SIZES_SHORT } else { SIZES_LONG }
    }

    fn seen(&self, size: usize) -> u8 {
        self.sizes.get(size).copied().unwrap_or(0)
    }

    /// The frames that this one can be divided into, two or more, each of a size that came before.
    fn parts<'f>(&self, frame: &'f [u8]) -> Option<Vec<&'f [u8]>> {
        // Parts that lead on from the begin, and the place in this list of the one before each.
        let mut found: Vec<(Range<usize>, usize)> = vec![(0..0, 0)];
        for end in self.placement.ends(self.checksum, frame) {
            let is_last = end == frame.len();
            let part = found.iter().enumerate().find_map(|(at, (before, _))| {
                let begins = [Some(before.end), Joined::behind_zero(frame, before.end)];
                let mut parts = begins.into_iter().flatten().map(|begin| begin..end);
                let part = parts.find(|part| part.len() < frame.len() && self.seen(part.len()) > 0)?;
                Some((part, at))
            });
            found.extend(part.filter(|_| is_last || found.len() < PARTS_MAX));
        }
        let (mut part, mut before) = found.last().filter(|(part, _)| part.end == frame.len())?.clone();
        let mut parts = Vec::new();
        while !part.is_empty() {
            parts.push(frame.get(part)?);
            (part, before) = found.get(before)?.clone();
        }
        Some(parts)
    }

    /// Where a part may begin behind one that ends there, if a zero is between them.
    fn behind_zero(frame: &[u8], end: usize) -> Option<usize> {
        (end > 0 && frame.get(end) == Some(&BETWEEN)).then_some(end + 1)
    }
}
