//! Arbitrary bytes as a journal's files: opening, reading and further use never panic, hang or
//! allocate without bound. The first byte selects whether the bytes are the content of the files,
//! or of frames with valid CRCs.
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
