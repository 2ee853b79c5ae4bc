//! What recovery hands to the lane.

use super::loss::Control;
use super::range::RangeSet;
use super::segment::Segment;
use super::shelf::Shelved;

/// What recovery hands over; see [`super::recovery`].
pub(super) struct Recovered<F> {
    pub(super) sealed: Vec<Segment>,
    pub(super) active: Option<(Segment, F)>,
    pub(super) control: Control,
    pub(super) next_sequence: u64,
    pub(super) next_number: u64,
    pub(super) settled: RangeSet,
    /// Records named as lost for the first time.
    pub(super) missing: u64,
    pub(super) free: Vec<(String, u64)>,
    /// From this sequence up to `next_sequence − 1` nobody knows what was stored.
    pub(super) uncertain_from: Option<u64>,
    pub(super) base: Option<[u64; 5]>,
    pub(super) asides: Vec<Shelved>,
}
