//! Sets of sequences that are mostly contiguous, such as the records settled ahead of the trim.

/// Sorted, disjoint, non-adjacent ranges, both ends included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet(Vec<(u64, u64)>);

impl RangeSet {
    /// Adds `first..=last`; adds nothing if `first > last`.
    pub fn insert(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        let begin = self.0.partition_point(|(_, end)| end.saturating_add(1) < first);
        let behind = self.0.partition_point(|(start, _)| *start <= last.saturating_add(1));
        let merged = self.0[begin..behind]
            .iter()
            .fold((first, last), |(f, l), (start, end)| (f.min(*start), l.max(*end)));
        self.0.splice(begin..behind, [merged]);
    }

    /// The end of the range that contains `sequence`.
    pub fn end_of(&self, sequence: u64) -> Option<u64> {
        let at = self.0.partition_point(|(_, end)| *end < sequence);
        self.0.get(at).filter(|(start, _)| *start <= sequence).map(|(_, end)| *end)
    }

    /// Whether `sequence` is in it.
    pub fn contains(&self, sequence: u64) -> bool {
        self.end_of(sequence).is_some()
    }

    /// How many of `first..=last` are in it.
    pub fn count_in(&self, first: u64, last: u64) -> u64 {
        self.0.iter().map(|(start, end)| (*end.min(&last) + 1).saturating_sub(*start.max(&first))).sum()
    }

    /// The parts of `first..=last` that are in it, in order.
    pub fn common_in(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let from = self.0.partition_point(|(_, end)| *end < first);
        let within = self.0[from..].iter().take_while(|(start, _)| *start <= last);
        within.map(|(start, end)| (first.max(*start), last.min(*end))).collect()
    }

    /// The parts of `first..=last` that are not in it, in order.
    pub fn missing_in(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        let mut at = first;
        for (start, end) in &self.0 {
            if *end < at {
                continue;
            }
            if *start > last {
                break;
            }
            if *start > at {
                out.push((at, start - 1));
            }
            at = end.saturating_add(1);
        }
        if at <= last {
            out.push((at, last));
        }
        out
    }

    /// Removes all sequences up to and including `sequence`.
    pub fn forget_through(&mut self, sequence: u64) {
        self.0.retain_mut(|(start, end)| {
            *start = (*start).max(sequence.saturating_add(1));
            *start <= *end
        });
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_behaves_like_a_set(ranges in proptest::collection::vec((1u64..60, 0u64..8), 0..20), trim in 0u64..60) {
            let (mut set, mut model) = (RangeSet::default(), BTreeSet::new());
            for (first, length) in ranges {
                set.insert(first, first + length);
                model.extend(first..=first + length);
            }
            set.forget_through(trim);
            model.retain(|n| *n > trim);
            for n in 0..80 {
                prop_assert_eq!(set.contains(n), model.contains(&n));
            }
            prop_assert_eq!(set.count_in(10, 40), model.range(10..=40).count() as u64);
            let missing: Vec<u64> = set.missing_in(10, 40).into_iter().flat_map(|(a, b)| a..=b).collect();
            let expected: Vec<u64> = (10..=40).filter(|n| !model.contains(n)).collect();
            prop_assert_eq!(missing, expected);
            prop_assert!(set.0.windows(2).all(|w| w[0].1 + 1 < w[1].0));
        }
    }
}
