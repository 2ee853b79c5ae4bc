//! Slipmux frames: arbitrary frames are decoded without a panic, messages are decoded as encoded,
//! and a port handles both.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use tombolo::proto::coap::Message;
use tombolo::proto::serial::framing::{Decoder, Framing, Settings};
use tombolo::proto::serial::slipmux::{Frame, decode, encode};

fuzz_target!(|data: &[u8]| {
    if let Ok(Frame::Coap(message)) = decode(data) {
        assert_eq!(message.len() + 3, data.len());
        let _ = Message::parse(message);
    }
    if data.is_empty() {
        return;
    }
    let mut wire = data.to_vec();
    encode(data, &mut wire);
    encode(data, &mut wire);
    let settings = Settings {
        framing: Framing::Slip,
        checksum: None,
        max_frame: 16 * 1024,
        start: Vec::new(),
        within: tombolo::proto::serial::framing::IDLE,
        placement: Default::default(),
        skip_first: false,
        keep: 0,
        whole: false,
        label_end: None,
        interleaved: None,
        silence: None,
    };
    let start = Instant::now();
    let mut last = Vec::new();
    let mut decoder = Decoder::new(&settings, start);
    decoder.handle_bytes(start + Duration::from_secs(1), &wire, &mut |frame| {
        if let Ok(Frame::Coap(message)) = decode(frame) {
            last = message.to_vec();
        }
    });
    // Whatever noise came before, the second of two is heard.
    assert_eq!(last, data);
});
