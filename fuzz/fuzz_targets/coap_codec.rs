//! No datagram makes the decoder panic, and an accepted message is encoded to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tombolo::proto::coap::Message;
use tombolo::proto::coap::encoder::Encoder;
use tombolo::proto::coap::option::RequestOptions;

fuzz_target!(|datagram: &[u8]| run(datagram));

fn run(datagram: &[u8]) {
    let Ok(message) = Message::parse(datagram) else { return };
    let mut bytes = Vec::new();
    let encoder =
        Encoder::new(&mut bytes, message.message_type, message.code, message.message_id, &message.token);
    let encoder =
        message.options.fold(encoder, |encoder, option| encoder.option(option.number, option.value));
    let length = encoder.payload(message.payload).finish().expect("what was read can be written");
    assert_eq!((length, &bytes[..]), (datagram.len(), datagram));
    if let Ok(options) = RequestOptions::read(message.options) {
        assert!(options.uri_path().all(|segment| segment.len() <= 255));
        assert!(options.block1.is_none_or(|block| block.size() <= 1024));
    }
}
