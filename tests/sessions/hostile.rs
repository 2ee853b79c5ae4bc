//! Arbitrary bytes as the log of sessions and as a handover: reading and working on never panics,
//! hangs or invents.

use tombolo::splitmix::SplitMix64;
use tombolo_test_support::session_store::hostile::open_and_use;

#[test]
fn any_bytes_are_opened_and_gone_on_with() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/session_store");
    for entry in std::fs::read_dir(corpus).into_iter().flatten() {
        open_and_use(&std::fs::read(entry.unwrap().path()).unwrap());
    }
    let mut random = SplitMix64::new(77);
    for _ in 0..600 {
        let length = random.below(2_000) as usize;
        let bytes: Vec<u8> = (0..length).map(|_| random.next_u64() as u8).collect();
        open_and_use(&bytes);
    }
}
