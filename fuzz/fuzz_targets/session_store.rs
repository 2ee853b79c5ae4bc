//! Arbitrary bytes as the log of DTLS sessions and as a handover.
#![no_main]

use tombolo_test_support::session_store::hostile::open_and_use;

libfuzzer_sys::fuzz_target!(|data: &[u8]| open_and_use(data));
