//! A seeded random number generator, for spreading in time, starting points and tests. Its numbers
//! can be predicted: secrets come from the system or from `aws-lc-rs`.

use std::time::Duration;

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): 8 bytes of state, every seed is good, and all
/// 2^64 numbers come before one recurs.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// The generator of this seed.
    pub fn new(seed: u64) -> SplitMix64 {
        SplitMix64(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `bound`, which counts as 1 where it is 0. Uneven by `bound` in 2^64.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound.max(1)
    }

    /// One of these, each as likely.
    ///
    /// # Panics
    /// There is none.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A time of `0..=longest`, in nanoseconds; at most 584 years.
    pub fn up_to(&mut self, longest: Duration) -> Duration {
        let longest = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.below(longest.saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_published_generator() {
        // The first numbers of seed 1234567 of Sebastiano Vigna's splitmix64.c.
        let mut random = SplitMix64::new(1_234_567);
        let numbers = [(); 3].map(|()| random.next_u64());
        assert_eq!(
            numbers,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn numbers_and_times_keep_to_their_bounds_and_reach_them() {
        let mut random = SplitMix64::new(1);
        let drawn: Vec<u64> = (0..100).map(|_| random.below(3)).collect();
        assert!((0..3).all(|number| drawn.contains(&number)) && drawn.iter().all(|number| *number < 3));
        assert_eq!((random.below(1), random.below(0)), (0, 0));
        let picked: Vec<char> = (0..100).map(|_| random.pick(&['a', 'b'])).collect();
        assert!(picked.contains(&'a') && picked.contains(&'b'));
        let longest = Duration::from_nanos(2);
        let times: Vec<Duration> = (0..100).map(|_| random.up_to(longest)).collect();
        assert!(times.contains(&Duration::ZERO) && times.contains(&longest));
        assert!(times.iter().all(|time| *time <= longest));
        assert_eq!(random.up_to(Duration::ZERO), Duration::ZERO);
        assert!(random.up_to(Duration::MAX) <= Duration::from_nanos(u64::MAX));
    }
}
