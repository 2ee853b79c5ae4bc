//! A CoAP node on a serial line (slipmux): the same answers as over DTLS.

use std::io::Read as _;
use std::time::{Duration, Instant};

use tombolo::proto::serial::framing::{Decoder, Framing, Settings};
use tombolo::proto::serial::slipmux::{Frame, decode, encode};

use crate::{Device, Site};
use tombolo_test_support::wait_for;

/// The next CoAP message from the gateway.
fn hear(device: &mut Device, decoder: &mut Decoder) -> Vec<u8> {
    let mut heard = None;
    wait_for("an answer", || {
        let mut chunk = [0; 256];
        let length = device.master.as_mut().unwrap().read(&mut chunk).unwrap_or(0);
        decoder.handle_bytes(Instant::now(), &chunk[..length], &mut |frame| {
            if let Ok(Frame::Coap(message)) = decode(frame) {
                heard = Some(message.to_vec());
            }
        });
        heard.is_some()
    });
    heard.unwrap()
}

/// How the gateway frames messages.
fn slip() -> Settings {
    Settings {
        framing: Framing::Slip,
        checksum: None,
        max_frame: 1024,
        start: Vec::new(),
        within: tombolo::proto::serial::framing::IDLE,
        placement: Default::default(),
        skip_first: false,
        keep: 0,
        whole: false,
        label_end: None,
        interleaved: None,
        silence: None,
    }
}

#[test]
fn a_coap_node_on_a_line_is_acknowledged_when_it_is_stored_and_refused_in_coaps_own_words() {
    let site = Site::new("node", |folder| {
        let path = folder.join("node");
        format!("[serial.node]\nport = \"{}\"\nframing = \"slipmux\"\nrole = \"meter\"\n", path.display())
    });
    let mut node = Device::plugged_in(site.folder.join("node"));
    site.wait_until_open("node");
    let mut decoder = Decoder::new(&slip(), Instant::now() - Duration::from_secs(1));
    let mut say = |device: &mut Device, message: &[u8]| {
        let mut wire = Vec::new();
        encode(message, &mut wire);
        assert!(device.say(&wire));
        hear(device, &mut decoder)
    };
    // CON POST /m/t "21.5", text/plain.
    let reading = b"\x41\x02\x00\x07\x55\xb1m\x01t\x10\xff21.5";
    assert_eq!(say(&mut node, reading)[..5], *b"\x61\x44\x00\x07\x55");
    wait_for("the reading", || site.arrived("node") == [("m/t".to_owned(), b"21.5".to_vec())]);
    // Said again, it is answered again and stored once.
    assert_eq!(say(&mut node, reading)[..5], *b"\x61\x44\x00\x07\x55");
    // A ping, and a path that no rule allows.
    assert_eq!(say(&mut node, b"\x40\x00\x00\x08"), b"\x70\x00\x00\x08");
    assert_eq!(say(&mut node, b"\x40\x02\x00\x09\xb5other\xffx")[..2], *b"\x60\x83");
    assert_eq!(site.arrived("node").len(), 1);
    // `status` counts both, as of any port.
    let port = || site.daemon.status()["serial"]["node"].clone();
    wait_for("the numbers", || port()["readings"] == 1 && port()["refused"] == 1);
}

#[test]
fn a_coap_node_on_a_line_is_sent_commands_and_its_response_is_the_outcome() {
    let rules = "[role.meter.mailbox]\nalways-awake = true\n[role.meter.downlink.all]\n\
                 topic = \"{prefix}/{device}/down/#\"\npath = \"{rest}\"\n";
    let site = Site::new("node-command", |folder| {
        let path = folder.join("node");
        format!(
            "{rules}[serial.node]\nport = \"{}\"\nframing = \"slipmux\"\nrole = \"meter\"\n",
            path.display()
        )
    });
    let mut node = Device::plugged_in(site.folder.join("node"));
    site.wait_until_open("node");
    let mut decoder = Decoder::new(&slip(), Instant::now() - Duration::from_secs(1));
    let (code, text) = std::thread::scope(|scope| {
        let sent = scope.spawn(|| site.daemon.command(&["send", "node", "led", "on"]));
        let request = hear(&mut node, &mut decoder);
        // CON PUT with a token of some bytes, Uri-Path "led".
        let token = usize::from(request[0] & 15);
        assert_eq!((request[0] >> 4, request[1]), (4, 3), "{request:02x?}");
        assert!(request.ends_with(b"\xb3led\xffon"), "{request:02x?}");
        let answer = [&[0x60 | request[0] & 15, 0x44], &request[2..4 + token], b"\xffdone"].concat();
        let mut wire = Vec::new();
        encode(&answer, &mut wire);
        assert!(node.say(&wire));
        sent.join().expect("the command")
    });
    assert!(code == 0 && text.contains("2.04") && text.contains("done"), "{text}");
}
