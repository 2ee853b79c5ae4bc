//! The anti-replay window over the newest 64 record numbers (RFC 6347 §4.1.2.6).

/// The width of the window.
const WIDTH: u64 = 64;

/// An anti-replay window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    /// One more than the newest number; 0 before any.
    next: u64,
    /// Bit n: `next - 1 - n` was seen.
    seen: u64,
}

impl Window {
    /// A window in which everything below `next` was seen.
    pub fn closed_below(next: u64) -> Window {
        Window { next, seen: u64::MAX }
    }

    /// A window with these values of [`Window::next`] and [`Window::seen`].
    pub fn restored(next: u64, seen: u64) -> Window {
        Window { next, seen }
    }

    /// Which of the newest 64 numbers were seen.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// One more than the newest number seen.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether a record of this number may be new.
    pub fn permits(&self, number: u64) -> bool {
        match self.next.checked_sub(number) {
            None | Some(0) => true,
            Some(back) => back <= WIDTH && self.seen & (1 << (back - 1)) == 0,
        }
    }

    /// Notes an authentic record. Returns whether it is the newest.
    pub fn accept(&mut self, number: u64) -> bool {
        let newest = number >= self.next;
        if newest {
            let ahead = number + 1 - self.next;
            self.seen = if ahead >= WIDTH { 0 } else { self.seen << ahead };
            self.next = number + 1;
        }
        let back = self.next - 1 - number;
        if back < WIDTH {
            self.seen |= 1 << back;
        }
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splitmix::SplitMix64;

    #[test]
    fn each_number_passes_once_and_old_ones_never() {
        let mut window = Window::default();
        for number in [5, 3, 0, 64, 63, 5 + 64, 1_000] {
            assert!(window.permits(number), "{number}");
            window.accept(number);
            assert!(!window.permits(number), "{number}");
        }
        assert!(!window.permits(1_000 - 64));
        assert!(window.permits(1_000 - 63));
        assert!(!Window::closed_below(7).permits(6));
        assert!(Window::closed_below(7).permits(7));
    }

    #[test]
    fn random_histories_agree_with_a_set() {
        let mut random = SplitMix64::new(1);
        let mut window = Window::default();
        let mut seen = std::collections::HashSet::new();
        let mut newest = None;
        for _ in 0..20_000 {
            let number = newest.map_or(0u64, |n: u64| (n + 40).saturating_sub(random.below(110)));
            let expected = !seen.contains(&number) && newest.is_none_or(|n| number + WIDTH > n);
            assert_eq!(window.permits(number), expected, "{number} {newest:?}");
            if expected {
                assert_eq!(window.accept(number), newest.is_none_or(|n| number > n));
                seen.insert(number);
                newest = newest.max(Some(number));
            }
        }
    }
}
