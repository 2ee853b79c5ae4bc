//! No custom data of a target, no output of a program and no file of ours makes a reader panic; an
//! offer that is read is bounded, and its name leads nowhere else.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tombolo::update::floor::Floor;
use tombolo::update::image::Record;
use tombolo::update::installed::{AptPolicy, dpkg_version, image_version, rauc_status};
use tombolo::update::offer::Offer;

fuzz_target!(|bytes: &[u8]| run(bytes));

fn run(bytes: &[u8]) {
    let _ = (Floor::parse(bytes), Record::parse(bytes));
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = (AptPolicy::parse(text), dpkg_version(text), image_version(text), rauc_status(text));
    let (name, json) = text.split_once('\n').unwrap_or(("gateway.bin", text));
    let Ok(custom) = serde_json::from_str::<serde_json::Value>(json) else { return };
    if let Ok(Some(offer)) = Offer::read(name, 1, [0; 32], Some(&custom)) {
        assert!(offer.target.len() <= 128 && offer.notes.is_none_or(|notes| notes.len() <= 1024));
        assert!(offer.target.split('/').all(|segment| !matches!(segment, "" | "." | "..")));
    }
}
