//! Arbitrary bytes as a journal's files: opening, reading and working on never panics, hangs or
//! allocates without bound. The first byte says whether the bytes stand in the files as they are,
//! or in frames whose checks fit.
#![no_main]

#[path = "../../tests/journal/disk.rs"]
#[allow(dead_code)]
mod disk;
#[path = "../../tests/journal/harness.rs"]
#[allow(dead_code)]
mod harness;
#[path = "../../tests/journal/hostile.rs"]
mod hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::open_and_use(data));
