//! Arbitrary bytes as a journal's files: opening, reading and further use never panic, hang or
//! allocate without bound. The first byte selects whether the bytes are the content of the files,
//! or of frames with valid CRCs.
#![no_main]

use tombolo_test_support::journal::hostile::open_and_use;

libfuzzer_sys::fuzz_target!(|data: &[u8]| open_and_use(data));
