//! Chance from a seed: the same seed, the same run.

/// splitmix64
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5EED)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// `0..below`
    pub fn draw(&mut self, below: u64) -> u64 {
        self.next() % below.max(1)
    }

    /// So often in a hundred.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.draw(100) < percent
    }

    pub fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&self.next().to_le_bytes()));
        bytes
    }
}

/// Runs a scenario for each of its seeds: `SIM_CASES` times as many as `cases`, or only `SIM_SEED`.
/// A failure names the seed.
pub fn cases(cases: u64, scenario: impl Fn(u64)) {
    struct Named(u64);
    impl Drop for Named {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the scenario failed with SIM_SEED={}", self.0);
            }
        }
    }
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("SIM_SEED") {
        let _named = Named(seed);
        return scenario(seed);
    }
    for seed in 1..=cases * number("SIM_CASES").unwrap_or(1) {
        let _named = Named(seed);
        scenario(seed);
    }
}
