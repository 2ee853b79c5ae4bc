//! Frames of fixed size. Without a start and a checksum only silences tell where one begins
//! ([`super::Begin::Silence`]); with a checksum, every position is tried until it matches.
//!
//! With a start and without a checksum ([`look`]), the bytes of the start may occur in the data,
//! too. A frame counts if the next one begins behind it. If it does not, bytes were lost or added,
//! and the frames go on at another place: at the one nearest to where they were expected, of those
//! at which [`CHAIN`] frames in a row begin; rather before that place than behind it, for bytes are
//! lost more often than added. So one lost byte does not make the reader go on at data that look
//! like a start, though they do so in every frame.

/// Smallest configurable frame, in bytes with the checksum.
pub const SIZE_MIN: usize = 1;

/// Frames in a row that must begin with the start after bytes were lost.
const CHAIN: usize = 4;

/// What is at the front of the bytes that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A frame.
    Frame,
    /// So many bytes that belong to no frame.
    Skip(usize),
    /// That shows when more has come.
    More,
    /// No frame, and none began.
    Nothing,
}

/// Looks for a frame of `size` bytes that begins with `start`, which is shorter. `last`: the line
/// is silent behind `bytes`. `spend` counts the steps.
pub(super) fn look(bytes: &[u8], start: &[u8], size: usize, last: bool, spend: &dyn Fn(usize)) -> Found {
    let begins = |at: usize| {
        spend(1);
        let rest = bytes.get(at..).unwrap_or_default();
        let known = rest.len().min(start.len());
        (rest[..known] == start[..known], known == start.len())
    };
    if begins(0).0 {
        if bytes.len() < size && !last {
            return Found::More;
        }
        if bytes.len() >= size {
            match begins(size) {
                (true, is_whole) if is_whole || last => return Found::Frame,
                (true, _) => return Found::More,
                (false, _) => {}
            }
        }
    }
    // Places are searched up to half a frame behind that of the next frame but one.
    if !last && bytes.len() < (3 + CHAIN) * size {
        return Found::More;
    }
    let is_chain = |at: usize| {
        for at in (0..CHAIN).map(|frame| at + frame * size) {
            // The silence came exactly behind a frame.
            if last && at == bytes.len() {
                return true;
            }
            if begins(at) != (true, true) {
                return false;
            }
        }
        true
    };
    let farness = |at: usize| {
        let beyond = at % size;
        let is_added = beyond <= size / 2;
        (if is_added { beyond } else { size - beyond }, is_added, at)
    };
    (1..=(2 * size + size / 2).min(bytes.len().saturating_sub(1)))
        .filter(|at| is_chain(*at))
        .min_by_key(|at| farness(*at))
        .map_or(if last { Found::Nothing } else { Found::Skip(size) }, Found::Skip)
}
