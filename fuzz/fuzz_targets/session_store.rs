//! Arbitrary bytes as the log of DTLS sessions and as a handover (tests/sessions/hostile.rs).
#![no_main]

#[path = "../../tests/journal/disk.rs"]
#[allow(dead_code)]
mod disk;
#[path = "../../tests/sessions/harness.rs"]
#[allow(dead_code)]
mod harness;
#[path = "../../tests/sessions/hostile.rs"]
mod hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::open_and_use(data));
