//! Every framing over a real line.

use tombolo::proto::serial::checksum::Checksum;
use tombolo::proto::serial::framing::length::{Header, Width};
use tombolo::proto::serial::framing::markers::{Escape, Markers};
use tombolo::proto::serial::framing::{Framing, Settings, encode, line};

use crate::{Device, Site};
use tombolo_test_support::wait_for;

#[test]
fn every_framing_brings_its_bytes_to_the_broker() {
    let markers = |escape: Option<u8>| {
        Framing::Markers(Markers { start: vec![2], end: vec![3], escape: escape.map(Escape::Before) })
    };
    let header = Header { width: Width::Two, little_endian: true, offset: 1, adjust: 0 };
    let crc = Some(Checksum::Crc16Modbus);
    let cases = [
        ("line", Framing::Line(line::End::Any), None, "framing = \"line\""),
        (
            "crlf",
            Framing::Line(line::End::Exactly(b"\r\n".to_vec())),
            None,
            "framing = \"line\"\nline-end = \"crlf\"",
        ),
        ("slip", Framing::Slip, crc, "framing = \"slip\"\nchecksum = \"crc16-modbus\""),
        ("cobs", Framing::Cobs, Some(Checksum::Crc32), "framing = \"cobs\"\nchecksum = \"crc32\""),
        (
            "length",
            Framing::Length(header),
            Some(Checksum::Crc16Ccitt),
            "framing = \"length\"\nlength-bytes = 2\nlength-order = \"little\"\nlength-offset = 1\nchecksum = \"crc16-ccitt\"",
        ),
        (
            "gap",
            Framing::Gap(std::time::Duration::from_millis(40)),
            crc,
            "framing = \"gap\"\ngap = \"40ms\"\nchecksum = \"crc16-modbus\"",
        ),
        (
            "fixed",
            Framing::Fixed(12),
            // After a sum it would begin behind a silence only.
            Some(Checksum::Crc16X25),
            "framing = \"fixed\"\nsize = 12\nchecksum = \"crc16-x25\"",
        ),
        (
            "markers",
            markers(Some(0x10)),
            Some(Checksum::Sum),
            "framing = \"markers\"\nstart = \"hex:02\"\nend = \"hex:03\"\nescape = \"hex:10\"\nchecksum = \"sum\"",
        ),
    ];
    let site = Site::new("framings", |folder| {
        let port = |(name, _, _, keys): &(&str, Framing, Option<Checksum>, &str)| {
            let path = folder.join(name);
            format!(
                "[serial.{name}]\nport = \"{}\"\nrole = \"meter\"\nform = \"raw\"\n{keys}\n",
                path.display()
            )
        };
        cases.iter().map(port).collect()
    });
    for (name, framing, checksum, _) in cases {
        let mut device = Device::plugged_in(site.folder.join(name));
        site.wait_until_open(name);
        let settings = Settings {
            framing: framing.clone(),
            checksum,
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
        };
        // Ten bytes each, as the fixed one needs; all values in those that carry any.
        let text = matches!(framing, Framing::Line(_));
        let payloads: Vec<Vec<u8>> = (0..32_u8)
            .map(|n| {
                (0..10)
                    .map(|i| if text { b'a' + (n + i) % 26 } else { n.wrapping_mul(8).wrapping_add(i) })
                    .collect()
            })
            .collect();
        // Whatever the line said before is over.
        match framing {
            Framing::Line(_) => device.say(b"\r\n"),
            Framing::Slip => device.say(&[0xC0]),
            Framing::Cobs => device.say(&[0]),
            _ => true,
        };
        for (at, payload) in payloads.iter().enumerate() {
            let mut frame = Vec::new();
            encode(&settings, payload, &mut frame).unwrap();
            // In two pieces, a different cut each time.
            let (one, two) = frame.split_at(at % frame.len());
            assert!(device.say(one) && device.say(two));
            if matches!(framing, Framing::Gap(_)) {
                wait_for("the pause", || site.ports()[name]["frames"].as_u64() == Some(at as u64 + 1));
            }
        }
        wait_for(name, || site.arrived(name).len() >= payloads.len());
        let arrived: Vec<Vec<u8>> = site.arrived(name).into_iter().map(|(_, payload)| payload).collect();
        assert_eq!(arrived, payloads, "{name}");
    }
}

#[test]
fn messages_of_a_time_in_which_the_process_was_stopped_are_not_joined() {
    let gap = std::time::Duration::from_millis(200);
    let site = Site::new("stopped", |folder| {
        let port = |name: &str, keys: &str| {
            let path = folder.join(name);
            format!(
                "[serial.{name}]\nport = \"{}\"\nrole = \"meter\"\nframing = \"gap\"\ngap = \"200ms\"\nform = \"raw\"\n{keys}",
                path.display()
            )
        };
        port("plain", "") + &port("crc", "checksum = \"crc16-modbus\"\n")
    });
    let mut plain = Device::plugged_in(site.folder.join("plain"));
    let mut crc = Device::plugged_in(site.folder.join("crc"));
    site.wait_until_open("plain");
    site.wait_until_open("crc");
    let mut say = |number: u32| {
        let payload = format!("T={number}").into_bytes();
        let mut frame = payload.clone();
        Checksum::Crc16Modbus.append(&mut frame, 0);
        assert!(plain.say(&payload) && crc.say(&frame));
    };
    let frames = |port: &str| site.ports()[port]["frames"].as_u64().unwrap_or_default();
    say(0);
    wait_for("the first", || frames("plain") == 1 && frames("crc") == 1);
    site.daemon.signal(nix::sys::signal::Signal::SIGSTOP);
    for number in 1..4 {
        say(number);
        // Between messages a device is silent for longer than `gap`.
        std::thread::sleep(gap * 2);
    }
    site.daemon.signal(nix::sys::signal::Signal::SIGCONT);
    let reason = "read late, after a stall of the gateway";
    wait_for("the reason", || site.ports()["plain"]["bad_reasons"][reason] == 1);
    wait_for("those with a CRC", || frames("crc") == 4);
    say(4);
    wait_for("the last", || frames("plain") == 2 && frames("crc") == 5);
    wait_for("readings", || site.payloads("plain").len() == 2 && site.payloads("crc").len() == 5);
    assert_eq!(site.payloads("plain"), ["T=0", "T=4"]);
    assert_eq!(site.payloads("crc"), ["T=0", "T=1", "T=2", "T=3", "T=4"]);
}
