//! A journal of arbitrary bytes: it can be opened, read to its end, and used.

use proptest::prelude::*;
use tombolo_test_support::journal::hostile::open_and_use;

fn config() -> ProptestConfig {
    let cases = std::env::var("JOURNAL_HOSTILE_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: cases.unwrap_or(500), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn arbitrary_bytes_open_read_and_work_on(data in proptest::collection::vec(any::<u8>(), 0..3000)) {
        open_and_use(&data);
    }

    #[test]
    fn arbitrary_small_numbers_open_read_and_work_on(
        data in proptest::collection::vec(prop_oneof![3 => 0u8..12, 1 => any::<u8>()], 0..3000)
    ) {
        open_and_use(&data);
    }
}

/// Found by the fuzzer: a sequence at the end of its range.
#[test]
fn a_sequence_at_the_end_of_its_range_is_no_sequence() {
    open_and_use(&[
        171, 157, 0, 100, 100, 97, 100, 100, 100, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
        255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 100,
        8, 9, 100, 209,
    ]);
}
