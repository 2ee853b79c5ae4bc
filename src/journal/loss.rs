//! Losses that are not yet published, and the control state that contains them.
//! docs/journal-format.md §4.
//!
//! A loss is kept until it is published *and* the lane's trim has passed it, so that the same
//! damage is not reported again when it is found after the next crash.

use super::frame::{Fields, SEQUENCE_MAX};
use crate::message::{Lane, RecordId};

/// Most separate losses; beyond it neighbours with the same cause are joined.
pub const LOSSES_MAX: usize = 64;
/// Bytes of one encoded loss.
const LOSS_SIZE: usize = 50;

/// Why records will never be delivered to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LossCause {
    /// Dropped to make room in a full lane.
    Dropped = 1,
    /// Older than the `expires` of its rule.
    Expired = 2,
    /// Stored, but its checksum is wrong in two readings.
    Damaged = 3,
    /// In the last, incomplete commit before a crash; never acknowledged.
    Torn = 4,
    /// Discarded from the rejected store by the operator.
    Discarded = 5,
}

impl LossCause {
    /// All causes, in the order of their numbers.
    pub const ALL: [LossCause; 5] =
        [LossCause::Dropped, LossCause::Expired, LossCause::Damaged, LossCause::Torn, LossCause::Discarded];

    /// The name on the `loss` topic and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            LossCause::Dropped => "dropped",
            LossCause::Expired => "expired",
            LossCause::Damaged => "damaged",
            LossCause::Torn => "torn",
            LossCause::Discarded => "discarded",
        }
    }

    fn from_byte(byte: u8) -> Option<LossCause> {
        LossCause::ALL.into_iter().find(|cause| *cause as u8 == byte)
    }

    fn index(self) -> usize {
        self as usize - 1
    }
}

/// Records of one lane lost for one cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossReport {
    /// The lane.
    pub lane: Lane,
    /// The report's number, from 1 in each lane. A report published twice has the same number,
    /// possibly with more records.
    pub number: u64,
    /// The cause.
    pub cause: LossCause,
    /// The number of records.
    pub count: u64,
    /// The oldest record.
    pub first: RecordId,
    /// The newest record. If `count` is less than the number of sequences from `first` to `last`,
    /// the others are not lost.
    pub last: RecordId,
}

impl LossReport {
    fn is_exact(&self) -> bool {
        self.last.sequence.wrapping_sub(self.first.sequence).wrapping_add(1) == self.count
    }

    fn covers(&self, sequence: u64) -> bool {
        self.is_exact() && (self.first.sequence..=self.last.sequence).contains(&sequence)
    }

    /// Appends the body of a Loss frame.
    pub(super) fn encode(&self, published: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&[self.cause as u8, u8::from(published)]);
        for value in [self.count, self.first.run, self.first.sequence, self.last.run, self.last.sequence] {
            out.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn decode(lane: Lane, fields: &mut Fields<'_>) -> Option<(LossReport, bool)> {
        let number = fields.u64()?;
        let cause = LossCause::from_byte(fields.u8()?)?;
        let published = fields.u8()? & 1 != 0;
        let count = fields.u64()?;
        let first = RecordId { run: fields.u64()?, sequence: fields.u64()? };
        let last = RecordId { run: fields.u64()?, sequence: fields.u64()? };
        let report = LossReport { lane, number, cause, count, first, last };
        let sound =
            first.sequence <= last.sequence && last.sequence <= SEQUENCE_MAX && number <= SEQUENCE_MAX;
        sound.then_some((report, published))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    report: LossReport,
    published: bool,
    /// Whether it changed since the last commit.
    dirty: bool,
}

/// The control state of a lane, which a Checkpoint contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    lane: Lane,
    /// All records up to this sequence are released.
    pub released: u64,
    entries: Vec<Entry>,
    next_number: u64,
    totals: [u64; 5],
    /// Whether losses were joined since the last commit, which only a complete Checkpoint can
    /// represent.
    joined: bool,
}

impl Control {
    /// The control state of a new lane.
    pub fn new(lane: Lane) -> Control {
        Control { lane, released: 0, entries: Vec::new(), next_number: 1, totals: [0; 5], joined: false }
    }

    /// The total of records lost for this cause.
    pub fn total(&self, cause: LossCause) -> u64 {
        self.totals[cause.index()]
    }

    /// Losses that are durable and not yet published, oldest first.
    pub fn unpublished(&self) -> impl Iterator<Item = LossReport> + '_ {
        self.entries.iter().filter(|entry| !entry.published && !entry.dirty).map(|entry| entry.report)
    }

    /// Ranges of sequences above `released` that are exactly known to be lost, unordered.
    pub fn lost_ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.entries
            .iter()
            .map(|entry| &entry.report)
            .filter(|report| report.last.sequence > self.released && report.is_exact())
            .map(|report| (report.first.sequence, report.last.sequence))
    }

    /// The totals of lost records, in the order of [`LossCause::ALL`].
    pub fn totals(&self) -> [u64; 5] {
        self.totals
    }

    /// Skips report numbers that losses in unreadable places may have.
    pub(super) fn skip_numbers(&mut self) {
        self.next_number += 1 << 20;
    }

    /// Adds the losses of a control state that could not be read earlier; `base`: the totals at the
    /// opening.
    pub(super) fn take_in(&mut self, other: &Control, base: &[u64; 5]) {
        for ((total, other), base) in self.totals.iter_mut().zip(other.totals).zip(base) {
            *total = total.saturating_add(other.saturating_sub(*base));
        }
        for entry in &other.entries {
            if !self.entries.iter().any(|known| known.report.number == entry.report.number) {
                self.entries.push(Entry { dirty: true, ..*entry });
            }
        }
        while self.entries.len() > LOSSES_MAX {
            self.join();
        }
        self.released = self.released.max(other.released);
    }

    /// Whether this record is already counted as lost.
    pub fn is_lost(&self, sequence: u64) -> bool {
        self.entries.iter().any(|entry| entry.report.covers(sequence))
    }

    /// Adds a loss of `count` records from `first` to `last`. One that follows an unpublished one
    /// of the same cause extends it.
    pub fn lose(&mut self, cause: LossCause, count: u64, first: RecordId, last: RecordId) {
        if count == 0 {
            return;
        }
        self.totals[cause.index()] = self.totals[cause.index()].saturating_add(count);
        let report = LossReport { lane: self.lane, number: self.next_number, cause, count, first, last };
        let neighbour = self.entries.iter_mut().find(|entry| {
            let before = &entry.report;
            !entry.published
                && before.cause == cause
                && before.last.sequence + 1 == first.sequence
                && before.last.run == first.run
                && before.is_exact()
                && report.is_exact()
        });
        if let Some(entry) = neighbour {
            entry.report.last = last;
            entry.report.count = entry.report.count.saturating_add(count);
            entry.dirty = true;
            return;
        }
        self.next_number += 1;
        // A torn record was never acknowledged: it is remembered, so that it is not counted as
        // damage later, but not published.
        let published = cause == LossCause::Torn;
        self.entries.push(Entry { report, published, dirty: true });
        if self.entries.len() > LOSSES_MAX {
            self.join();
        }
    }

    /// Removes one entry: drops a published one, or joins two neighbours with the same cause.
    fn join(&mut self) {
        if let Some(at) = self.entries.iter().position(|entry| entry.published) {
            self.entries.remove(at);
            return;
        }
        // With five causes and more than 64 entries, two entries have the same cause.
        let mut best: Option<(u64, usize, usize)> = None;
        for (later, entry) in self.entries.iter().enumerate() {
            let before = self.entries[..later].iter().rposition(|e| e.report.cause == entry.report.cause);
            if let Some(earlier) = before {
                let gap = self.entries[earlier].report.last.sequence.abs_diff(entry.report.first.sequence);
                if best.is_none_or(|(least, ..)| gap < least) {
                    best = Some((gap, earlier, later));
                }
            }
        }
        if let Some((_, earlier, later)) = best {
            let taken = self.entries.remove(later).report;
            self.joined = true;
            let entry = &mut self.entries[earlier];
            entry.report.count = entry.report.count.saturating_add(taken.count);
            if taken.first.sequence < entry.report.first.sequence {
                entry.report.first = taken.first;
            }
            if taken.last.sequence > entry.report.last.sequence {
                entry.report.last = taken.last;
            }
            entry.dirty = true;
        }
    }

    /// The broker has acknowledged a report. A report that has grown since is published again.
    pub fn published(&mut self, number: u64, count: u64) {
        for entry in &mut self.entries {
            if entry.report.number == number && entry.report.count == count && !entry.published {
                entry.published = true;
                entry.dirty = true;
            }
        }
    }

    /// Drops losses that are published and passed by the trim.
    pub fn tidy(&mut self) {
        let released = self.released;
        self.entries.retain(|entry| !entry.published || entry.dirty || entry.report.last.sequence > released);
    }

    /// Whether a new loss must be committed without waiting for the next record.
    pub fn has_new_loss(&self) -> bool {
        self.entries.iter().any(|entry| entry.dirty && !entry.published)
    }

    /// Whether any change of losses is not durable yet.
    pub fn is_dirty(&self) -> bool {
        self.joined || self.entries.iter().any(|entry| entry.dirty)
    }

    /// Requests a complete Checkpoint in the next commit.
    pub(super) fn ask_checkpoint(&mut self) {
        self.joined = true;
    }

    /// The losses changed since the last commit.
    pub(super) fn dirty(&self) -> impl Iterator<Item = (LossReport, bool)> + '_ {
        self.entries.iter().filter(|entry| entry.dirty).map(|entry| (entry.report, entry.published))
    }

    /// Whether only a complete Checkpoint can represent the changes.
    pub(super) fn needs_checkpoint(&self) -> bool {
        self.joined
    }

    /// Marks the changes as durable.
    pub(super) fn committed(&mut self) {
        for entry in &mut self.entries {
            entry.dirty = false;
        }
        self.joined = false;
        self.tidy();
    }

    /// Appends the body of a Checkpoint.
    pub(super) fn encode(&self, next_sequence: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&next_sequence.to_le_bytes());
        out.extend_from_slice(&self.next_number.to_le_bytes());
        for total in self.totals {
            out.extend_from_slice(&total.to_le_bytes());
        }
        out.extend_from_slice(&(self.entries.len() as u16).to_le_bytes());
        for entry in &self.entries {
            entry.report.encode(entry.published, out);
        }
    }

    /// Parses the body of a Checkpoint; returns also the next sequence in it.
    pub(super) fn decode(lane: Lane, released: u64, body: &[u8]) -> Option<(Control, u64)> {
        let mut fields = Fields(body);
        let next_sequence = fields.u64()?;
        let mut control = Control { released, next_number: fields.u64()?, ..Control::new(lane) };
        if released > SEQUENCE_MAX || next_sequence > SEQUENCE_MAX || control.next_number > SEQUENCE_MAX {
            return None;
        }
        for total in &mut control.totals {
            *total = fields.u64()?;
        }
        let count = usize::from(fields.u16()?);
        if count > LOSSES_MAX || fields.0.len() < count * LOSS_SIZE {
            return None;
        }
        for _ in 0..count {
            let (report, published) = LossReport::decode(lane, &mut fields)?;
            control.entries.push(Entry { report, published, dirty: false });
        }
        Some((control, next_sequence))
    }

    /// Applies a Loss frame that follows the Checkpoint.
    pub(super) fn apply_loss(&mut self, body: &[u8]) {
        let Some((report, published)) = LossReport::decode(self.lane, &mut Fields(body)) else {
            return;
        };
        let known = self.entries.iter_mut().find(|entry| entry.report.number == report.number);
        let before = known.as_ref().map_or(0, |entry| entry.report.count);
        let total = &mut self.totals[report.cause.index()];
        *total = total.saturating_add(report.count.saturating_sub(before));
        match known {
            Some(entry) => (entry.report, entry.published) = (report, published),
            None => self.entries.push(Entry { report, published, dirty: false }),
        }
        self.next_number = self.next_number.max(report.number.saturating_add(1));
        if self.entries.len() > LOSSES_MAX {
            self.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(sequence: u64) -> RecordId {
        RecordId { run: 9, sequence }
    }

    #[test]
    fn a_loss_that_follows_another_extends_it() {
        let mut control = Control::new(Lane::High);
        control.lose(LossCause::Expired, 1, id(4), id(4));
        control.lose(LossCause::Expired, 2, id(5), id(6));
        control.lose(LossCause::Dropped, 1, id(7), id(7));
        control.committed();
        let all: Vec<_> = control.unpublished().map(|r| (r.number, r.count, r.last.sequence)).collect();
        assert_eq!(all, [(1, 3, 6), (2, 1, 7)]);
        assert_eq!(control.total(LossCause::Expired), 3);
    }

    #[test]
    fn a_report_that_grew_while_it_was_under_way_is_told_again() {
        let mut control = Control::new(Lane::High);
        control.lose(LossCause::Expired, 1, id(4), id(4));
        control.lose(LossCause::Expired, 1, id(5), id(5));
        control.committed();
        control.published(1, 1);
        assert_eq!(control.unpublished().count(), 1);
        control.published(1, 2);
        assert_eq!(control.unpublished().count(), 0);
    }

    #[test]
    fn a_published_loss_is_remembered_until_the_trim_has_passed_it() {
        let mut control = Control::new(Lane::High);
        control.lose(LossCause::Damaged, 1, id(4), id(4));
        control.published(1, 1);
        control.committed();
        assert!(control.is_lost(4));
        control.released = 4;
        control.tidy();
        assert!(!control.is_lost(4));
    }

    #[test]
    fn many_scattered_losses_stay_bounded_and_their_count_exact() {
        let mut control = Control::new(Lane::Normal);
        for n in 0..1000 {
            control.lose(LossCause::Expired, 1, id(n * 2 + 1), id(n * 2 + 1));
        }
        control.committed();
        assert_eq!(control.entries.len(), LOSSES_MAX);
        assert_eq!(control.unpublished().map(|r| r.count).sum::<u64>(), 1000);
        assert_eq!(control.total(LossCause::Expired), 1000);
        let joined = control.unpublished().find(|r| r.count > 1).unwrap();
        assert!(!joined.is_exact());
    }

    #[test]
    fn a_checkpoint_reads_back() {
        let mut control = Control::new(Lane::Normal);
        control.lose(LossCause::Dropped, 3, id(1), id(3));
        control.lose(LossCause::Torn, 1, id(9), id(9));
        control.published(1, 3);
        control.released = 5;
        control.committed();
        let mut body = Vec::new();
        control.encode(77, &mut body);
        assert_eq!(Control::decode(Lane::Normal, 5, &body), Some((control, 77)));
        assert_eq!(Control::decode(Lane::Normal, 5, &body[..60]), None);
    }
}
