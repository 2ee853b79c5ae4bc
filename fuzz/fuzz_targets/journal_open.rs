//! Arbitrary bytes as a journal's files: opening, reading and working on never panics, hangs or
//! allocates without bound. The first byte says whether the bytes stand in the files as they are,
//! or in frames whose checks fit.
#![no_main]

use tombolo_test_support::journal::hostile::open_and_use;

libfuzzer_sys::fuzz_target!(|data: &[u8]| open_and_use(data));
