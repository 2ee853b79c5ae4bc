//! Messages that were joined, because what ended one of them was lost, and whose checksum is right
//! all the same: where that over a message and its checksum is 0
//! ([`Placement::joins`](super::super::checksum::Placement::joins)), it is over two in a row, too.
//!
//! ```text
//! sent   a b c | d e f | …      the first | is lost:
//! right  a b c   d e f | …      a message of six
//! ```
//!
//! With [`cobs`](super::cobs) a zero stands between the two, as the code byte behind it says so.
//!
//! By chance, one place in 256 of a message is such an end as well, if the checksum has 8 bits. So
//! the sizes that came before tell: a frame is in doubt if it can be divided into frames whose
//! checksums are right and that have sizes of such as counted, while its own size is none of a
//! device that sends it again and again ([`USUAL`]). It counts if it comes a second time and no
//! part of it came alone lately: the device sends it, and its parts are by chance.

use super::super::checksum::{Checksum, Placement};

/// A size is usual after so many frames that had it.
const USUAL: u8 = 3;
/// Frames of which it is remembered what they were.
const RECENT: usize = 8;
/// Places at most at which a part may end: a bound for the time.
const PARTS_MAX: usize = 32;

/// A zero in front changes none of these checksums, and that is what a lost delimiter of
/// [`cobs`](super::cobs) is decoded to.
const DELIMITER: u8 = 0;

/// What came on a line whose checksums may be joined.
#[derive(Clone, Debug)]
pub(super) struct Joined {
    checksum: Checksum,
    placement: Placement,
    is_cobs: bool,
    /// How many frames of each size counted, at most [`USUAL`]; `0..=FRAME_MAX` entries.
    sizes: Vec<u8>,
    /// What tells the last frames that counted from others, the newest last.
    recent: Vec<u32>,
    /// The last one in doubt.
    doubted: Option<u32>,
}

impl Joined {
    /// `None`: the checksum of joined messages is wrong, as any.
    pub(super) fn new(checksum: Option<Checksum>, placement: Placement, is_cobs: bool) -> Option<Joined> {
        let checksum = checksum.filter(|checksum| placement.joins(*checksum))?;
        let (sizes, recent, doubted) = Default::default();
        Some(Joined { checksum, placement, is_cobs, sizes, recent, doubted })
    }

    /// Whether this frame, whose checksum is right, counts.
    pub(super) fn judge(&mut self, frame: &[u8]) -> bool {
        let size = frame.len();
        let print = Checksum::Crc32.of(frame);
        if self.seen(size) < USUAL
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
            *seen = (*seen + 1).min(USUAL);
        }
        if self.recent.len() == RECENT {
            self.recent.remove(0);
        }
        self.recent.push(print);
        true
    }

    fn seen(&self, size: usize) -> u8 {
        self.sizes.get(size).copied().unwrap_or(0)
    }

    /// The frames that this one can be divided into, two or more, each of a size that came before.
    fn parts<'f>(&self, frame: &'f [u8]) -> Option<Vec<&'f [u8]>> {
        // Where a part ends, and where it began.
        let mut ends: Vec<(usize, usize)> = vec![(0, 0)];
        for end in self.placement.ends(self.checksum, frame) {
            // The first one that leads on: the part is as long as it can be.
            let begins = ends.iter().map(|(end, _)| self.begin(frame, *end));
            let begin = begins.clone().find(|begin| {
                let size = end.saturating_sub(*begin);
                size < frame.len() && self.seen(size) > 0
            });
            match begin {
                Some(begin) if end == frame.len() || ends.len() < PARTS_MAX => ends.push((end, begin)),
                _ => {}
            }
        }
        let mut at = frame.len();
        let mut parts = Vec::new();
        while at > 0 {
            let (_, begin) = ends.iter().find(|(end, _)| *end == at)?;
            parts.push(frame.get(*begin..at)?);
            at = *ends.iter().map(|(end, _)| end).find(|end| self.begin(frame, **end) == *begin)?;
        }
        Some(parts)
    }

    /// Where the part begins behind one that ends there.
    fn begin(&self, frame: &[u8], end: usize) -> usize {
        let is_joint = self.is_cobs && end > 0 && frame.get(end) == Some(&DELIMITER);
        end + usize::from(is_joint)
    }
}
