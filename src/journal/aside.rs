//! Segments set aside: files with records that are unreadable or damaged, and for each file the
//! list of these records. docs/journal-format.md §9.
//!
//! A file is set aside before a trim passes such a record, and kept until the record can be read or
//! the space is needed. The list names the records to import from the file: all others in it were
//! released already and must not be sent twice.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::frame::SEQUENCE_MAX;
use crate::message::{Lane, RecordId};

/// Most ranges in one list; beyond it the nearest ranges are joined.
pub const RANGES_MAX: usize = 4096;
/// Longest list in bytes.
pub const LIST_MAX: usize = 512 * 1024;

const TITLE: &str = "tombolo set-aside 1";

/// Why records of a segment were not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsideCause {
    /// Reading a part of it failed for an hour while other parts could be read. The records may
    /// still exist.
    Unreadable,
    /// A checksum was wrong in two readings. The records are counted as lost.
    Damaged,
}

impl AsideCause {
    /// The name in the list, and the suffix of the file name.
    pub fn as_str(self) -> &'static str {
        match self {
            AsideCause::Unreadable => "unreadable",
            AsideCause::Damaged => "damaged",
        }
    }

    /// Splits a file name into the name without the suffix of a set-aside file, and the cause.
    pub fn strip(name: &str) -> (&str, Option<AsideCause>) {
        for cause in [AsideCause::Unreadable, AsideCause::Damaged] {
            if let Some(plain) = name.strip_suffix(cause.as_str()).and_then(|name| name.strip_suffix('.')) {
                return (plain, Some(cause));
            }
        }
        (name, None)
    }

    fn parse(text: &str) -> Option<AsideCause> {
        [AsideCause::Unreadable, AsideCause::Damaged].into_iter().find(|cause| cause.as_str() == text)
    }
}

/// Records that were not read, between two sequences of one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsideRange {
    /// Why they were not read.
    pub cause: AsideCause,
    /// The oldest record. Run 0 = unknown.
    pub first: RecordId,
    /// The newest record.
    pub last: RecordId,
    /// The number of records that were certainly stored.
    pub records: u64,
    /// Whether the range was joined with a neighbour, so that some records between its ends were
    /// read.
    pub joined: bool,
}

/// A segment with records that were not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// The lane of the segment.
    pub lane: Lane,
    /// The number of the segment.
    pub number: u64,
    /// The records, ascending and disjoint.
    pub ranges: Vec<AsideRange>,
}

impl Aside {
    /// A segment without ranges yet.
    pub fn new(lane: Lane, number: u64) -> Aside {
        Aside { lane, number, ranges: Vec::new() }
    }

    /// [`AsideCause::Unreadable`] if any of its ranges is, else [`AsideCause::Damaged`].
    pub fn cause(&self) -> AsideCause {
        let unreadable = self.ranges.iter().any(|range| range.cause == AsideCause::Unreadable);
        if unreadable { AsideCause::Unreadable } else { AsideCause::Damaged }
    }

    /// The file name of its list.
    pub fn list_name(&self) -> String {
        list_name(self.number)
    }

    /// The number of records of this cause that were certainly stored.
    pub fn records(&self, cause: AsideCause) -> u64 {
        self.ranges.iter().filter(|range| range.cause == cause).map(|range| range.records).sum()
    }

    /// Whether the list contains the record with this sequence.
    pub fn lists(&self, sequence: u64) -> bool {
        self.range_of(sequence).is_some()
    }

    /// Whether the list contains the record with this sequence, for a file with records of these
    /// runs. A file without any run of the range belongs to another gateway or to a restored copy.
    /// The run of the record itself may be unknown: if an Opening frame was damaged too, the list
    /// has the previous run.
    pub fn wants(&self, sequence: u64, runs: &BTreeSet<u64>) -> bool {
        let is_run = |range: &AsideRange| {
            [range.first.run, range.last.run].into_iter().any(|run| run == 0 || runs.contains(&run))
        };
        self.range_of(sequence).is_some_and(is_run)
    }

    fn range_of(&self, sequence: u64) -> Option<&AsideRange> {
        let at = self.ranges.partition_point(|range| range.last.sequence < sequence);
        self.ranges.get(at).filter(|range| range.first.sequence <= sequence)
    }

    /// Adds records; overlapping ranges are joined.
    pub fn add(&mut self, mut range: AsideRange) {
        let begin = self.ranges.partition_point(|other| other.last.sequence < range.first.sequence);
        let end = self.ranges.partition_point(|other| other.first.sequence <= range.last.sequence);
        for other in self.ranges.drain(begin..end) {
            range = joined(other, range);
        }
        self.ranges.insert(begin, range);
        self.shorten();
    }

    fn shorten(&mut self) {
        while self.ranges.len() > RANGES_MAX {
            let gap = |at: &usize| {
                self.ranges[at + 1].first.sequence.saturating_sub(self.ranges[*at].last.sequence)
            };
            if let Some(at) = (0..self.ranges.len() - 1).min_by_key(gap) {
                let next = self.ranges.remove(at + 1);
                let before = &mut self.ranges[at];
                before.last = next.last;
                before.joined = true;
                before.records = before.records.saturating_add(next.records);
                if next.cause == AsideCause::Unreadable {
                    before.cause = next.cause;
                }
            }
        }
    }

    /// Removes records that are in their lane again.
    pub fn remove(&mut self, first: u64, last: u64) {
        let mut left = Vec::with_capacity(self.ranges.len() + 1);
        for range in self.ranges.drain(..) {
            let (begin, end) = (range.first.sequence, range.last.sequence);
            if end < first || begin > last {
                left.push(range);
                continue;
            }
            let taken = end.min(last) - begin.max(first) + 1;
            let mut rest = range.records.saturating_sub(taken);
            if begin < first {
                let records = rest.min(first - begin);
                rest -= records;
                let last = RecordId { sequence: first - 1, ..range.first };
                left.push(AsideRange { last, records, ..range });
            }
            if end > last {
                let first = RecordId { sequence: last + 1, ..range.last };
                left.push(AsideRange { first, records: rest.min(end - last), ..range });
            }
        }
        self.ranges = left;
        self.shorten();
    }

    /// The list as text, with a CRC in its last line.
    pub fn encode(&self) -> String {
        let mut out = format!("{TITLE}\nlane {}\nsegment {:016x}\n", self.lane.as_str(), self.number);
        for range in &self.ranges {
            let cause = range.cause.as_str();
            let joined = if range.joined { " joined" } else { "" };
            let _ = writeln!(out, "{cause} {} {} {}{joined}", range.first, range.last, range.records);
        }
        let _ = writeln!(out, "check {:08x}", crc32c::crc32c(out.as_bytes()));
        out
    }

    /// Parses a list; `None` if it is incomplete or its CRC is wrong.
    pub fn parse(bytes: &[u8]) -> Option<Aside> {
        let text = std::str::from_utf8(bytes.get(..bytes.len().min(LIST_MAX))?).ok()?;
        let at = text.trim_end().rfind('\n')? + 1;
        let (body, check) = text.split_at(at);
        let check = u32::from_str_radix(check.trim_end().strip_prefix("check ")?, 16).ok()?;
        let mut lines = body.lines();
        if check != crc32c::crc32c(body.as_bytes()) || lines.next()? != TITLE {
            return None;
        }
        let lane = Lane::parse(lines.next()?.strip_prefix("lane ")?)?;
        let number = u64::from_str_radix(lines.next()?.strip_prefix("segment ")?, 16).ok()?;
        let mut aside = Aside::new(lane, number);
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let (words, joined) = match words[..] {
                [.., "joined"] => (&words[..words.len() - 1], true),
                _ => (&words[..], false),
            };
            let &[cause, first, last, records] = words else { return None };
            let range = AsideRange {
                cause: AsideCause::parse(cause)?,
                first: RecordId::parse(first)?,
                last: RecordId::parse(last)?,
                records: records.parse().ok()?,
                joined,
            };
            let behind = aside.ranges.last().is_none_or(|before| before.last.sequence < range.first.sequence);
            let sound = range.first.sequence <= range.last.sequence
                && range.last.sequence <= SEQUENCE_MAX
                && range.records <= range.last.sequence - range.first.sequence + 1;
            if !sound || !behind || aside.ranges.len() >= RANGES_MAX {
                return None;
            }
            aside.ranges.push(range);
        }
        Some(aside)
    }
}

fn joined(one: AsideRange, other: AsideRange) -> AsideRange {
    let first = if one.first.sequence <= other.first.sequence { one.first } else { other.first };
    let last = if one.last.sequence >= other.last.sequence { one.last } else { other.last };
    let all = last.sequence - first.sequence + 1;
    let cause = if one.cause == AsideCause::Unreadable { one.cause } else { other.cause };
    let joined = one.joined || other.joined;
    AsideRange { cause, first, last, records: one.records.max(other.records).min(all), joined }
}

/// The name of the list of a segment.
pub fn list_name(number: u64) -> String {
    format!("{number:016x}.ids")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(first: u64, last: u64) -> AsideRange {
        let id = |sequence| RecordId { run: 9, sequence };
        let cause = AsideCause::Unreadable;
        AsideRange { cause, first: id(first), last: id(last), records: last - first + 1, joined: false }
    }

    #[test]
    fn a_list_reads_back_and_one_that_is_cut_or_changed_does_not() {
        let mut aside = Aside::new(Lane::Normal, 12);
        aside.add(range(5, 9));
        aside.add(range(20, 20));
        let text = aside.encode();
        assert_eq!(Aside::parse(text.as_bytes()), Some(aside.clone()));
        for length in 0..text.len() - 1 {
            assert_eq!(Aside::parse(&text.as_bytes()[..length]), None, "{length}");
        }
        assert_eq!(Aside::parse(text.replace("20 1", "21 1").as_bytes()), None);
        assert_eq!((aside.records(AsideCause::Unreadable), aside.cause()), (6, AsideCause::Unreadable));
    }

    #[test]
    fn what_is_in_the_lane_again_is_taken_out() {
        let mut aside = Aside::new(Lane::High, 1);
        aside.add(range(5, 9));
        aside.add(range(20, 25));
        aside.remove(1, 6);
        aside.remove(22, 23);
        assert_eq!(aside.ranges, [range(7, 9), range(20, 21), range(24, 25)]);
        assert!(aside.lists(24) && !aside.lists(22) && !aside.lists(26));
        let wants = |runs: &[u64]| aside.wants(24, &runs.iter().copied().collect());
        assert!(wants(&[8, 9]) && !wants(&[8]), "of another run it is another");
    }

    proptest! {
        #[test]
        fn every_record_added_is_wanted_and_the_list_stays_short(
            ranges in proptest::collection::vec((1u64..5000, 0u64..20), 1..400),
        ) {
            let mut aside = Aside::new(Lane::High, 1);
            for (first, length) in &ranges {
                aside.add(range(*first, first + length));
            }
            prop_assert!(aside.ranges.len() <= RANGES_MAX);
            prop_assert!(aside.ranges.windows(2).all(|pair| pair[0].last.sequence < pair[1].first.sequence));
            for (first, length) in ranges {
                prop_assert!((first..=first + length).all(|sequence| aside.lists(sequence)));
            }
            let text = aside.encode();
            prop_assert!(text.len() <= LIST_MAX);
            prop_assert_eq!(Aside::parse(text.as_bytes()), Some(aside));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Aside::parse(&bytes);
        }
    }
}
