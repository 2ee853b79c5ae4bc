//! The bytes of a port that make no frame yet, and the checksum of any part of them.
//!
//! Where a frame has a known size, the checksum is tried at every byte. So that this costs the
//! same for each size, the checksum of everything up to each byte is kept: that of a part follows
//! from two of them ([`Checksum::between`]). Bytes are taken off the front without moving the rest
//! each time.

use std::ops::{Deref, Range};

use super::super::checksum::Checksum;

/// What is known of everything up to one byte.
#[derive(Clone, Copy, Debug, Default)]
struct Prefix {
    /// [`Checksum::advance`] over it.
    sum: u32,
    /// So many equal bytes are at its end.
    run: u32,
}

/// Bytes, as a slice.
#[derive(Debug, Default)]
pub(super) struct Queue {
    bytes: Vec<u8>,
    /// So many at the front were taken off.
    head: usize,
    /// Whose parts are wanted, and what is known up to each byte.
    sums: Option<(Checksum, Vec<Prefix>)>,
    /// What is known of everything before the first.
    before: Prefix,
    /// Looks at a byte, or steps that cost about as much.
    #[cfg(test)]
    steps: std::cell::Cell<u64>,
}

impl Queue {
    /// One that tells the checksum of its parts.
    pub(super) fn new(sums: Option<Checksum>) -> Queue {
        Queue { sums: sums.map(|checksum| (checksum, Vec::new())), ..Queue::default() }
    }

    pub(super) fn push(&mut self, byte: u8) {
        self.spend(1);
        if let Some((checksum, prefixes)) = &mut self.sums {
            let last = prefixes.last().copied().unwrap_or(self.before);
            let is_same = self.bytes.last() == Some(&byte);
            let run = if is_same { last.run.saturating_add(1) } else { 1 };
            prefixes.push(Prefix { sum: checksum.advance(last.sum, byte), run });
        }
        self.bytes.push(byte);
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.push(*byte));
    }

    /// Takes so many off the front.
    pub(super) fn advance(&mut self, count: usize) {
        self.head = self.head.saturating_add(count).min(self.bytes.len());
        if self.head < self.len() {
            return;
        }
        // Less is moved than was taken off since the last time.
        self.spend(self.len());
        if let Some((_, prefixes)) = &mut self.sums {
            self.before =
                self.head.checked_sub(1).and_then(|at| prefixes.get(at)).copied().unwrap_or_default();
            prefixes.drain(..self.head.min(prefixes.len()));
        }
        self.bytes.drain(..self.head);
        self.head = 0;
    }

    /// Takes all, and forgets them.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.sums.iter_mut().for_each(|(_, prefixes)| prefixes.clear());
        (self.head, self.before) = (0, Prefix::default());
    }

    /// Takes all.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let all = self.to_vec();
        self.clear();
        all
    }

    /// The checksum of a part; `None`: there is none, or no such part.
    pub(super) fn sum(&self, part: Range<usize>) -> Option<u32> {
        let (checksum, _) = self.sums.as_ref()?;
        let length = part.end.checked_sub(part.start)?;
        self.spend(usize::BITS as usize);
        Some(checksum.between(self.prefix(part.start)?.sum, self.prefix(part.end)?.sum, length))
    }

    /// Whether all bytes of a part, which is not empty, are equal.
    pub(super) fn is_even(&self, part: Range<usize>) -> bool {
        let length = part.end.saturating_sub(part.start);
        match &self.sums {
            Some(_) => self.prefix(part.end).is_some_and(|prefix| prefix.run as usize >= length),
            None => {
                self.spend(length);
                let part = self.get(part).unwrap_or_default();
                part.windows(2).all(|pair| pair[0] == pair[1])
            }
        }
    }

    /// What is known of the bytes before this place.
    fn prefix(&self, at: usize) -> Option<Prefix> {
        let (_, prefixes) = self.sums.as_ref()?;
        match self.head.checked_add(at)?.checked_sub(1) {
            Some(last) => prefixes.get(last).copied(),
            None => Some(self.before),
        }
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Work was done.
    pub(super) fn spend(&self, steps: usize) {
        #[cfg(test)]
        self.steps.set(self.steps.get() + steps as u64);
        let _ = steps;
    }

    /// The work that was done since this was made.
    #[cfg(test)]
    pub(super) fn steps(&self) -> u64 {
        self.steps.get()
    }
}

impl Deref for Queue {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(self.head..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::ALL;
    use super::*;

    #[test]
    fn of_the_longest_frame_the_checksum_is_right_too() {
        let bytes: Vec<u8> = (0..super::super::FRAME_MAX).map(|at| (at * at / 7 + at) as u8).collect();
        for checksum in ALL {
            let mut queue = Queue::new(Some(checksum));
            queue.extend(&bytes);
            for part in [0..bytes.len(), 1..bytes.len() - 3, 4095..8192, 16_000..16_001, 7..7] {
                assert_eq!(queue.sum(part.clone()), Some(checksum.of(&bytes[part])), "{checksum:?}");
            }
            assert_eq!(checksum.between(0, 0, 200_000), checksum.of(&[0; 200_000]), "{checksum:?}");
        }
    }

    proptest! {
        #[test]
        fn each_part_has_the_checksum_and_is_even_as_the_whole_would_be(
            bytes in prop::collection::vec(prop::sample::select(vec![0, 0, 0, 0xFF, 0xFF, 1, 0x5A]), 1..400),
            takes in prop::collection::vec((1..40_usize, 0..40_usize), 1..20),
            parts in prop::collection::vec((0..400_usize, 0..400_usize), 1..20),
        ) {
            for checksum in ALL {
                let mut queue = Queue::new(Some(checksum));
                let mut model: Vec<u8> = Vec::new();
                let mut rest = &bytes[..];
                for (put, taken) in &takes {
                    let (now, later) = rest.split_at((*put).min(rest.len()));
                    rest = later;
                    queue.extend(now);
                    model.extend_from_slice(now);
                    queue.advance(*taken);
                    model.drain(..(*taken).min(model.len()));
                    prop_assert_eq!(&queue[..], &model[..]);
                    for (from, to) in &parts {
                        let part = *from.min(to)..*from.max(to);
                        let Some(known) = model.get(part.clone()) else {
                            prop_assert_eq!(queue.sum(part), None);
                            continue;
                        };
                        prop_assert_eq!(queue.sum(part.clone()), Some(checksum.of(known)));
                        if !known.is_empty() {
                            prop_assert_eq!(queue.is_even(part), known.iter().all(|byte| *byte == known[0]));
                        }
                    }
                }
            }
        }
    }
}
