//! `[serial.*]`: the settings of ports; a fault of one port does not affect the others.

use tombolo::proto::serial::checksum::{Checksum, Placement};
use tombolo::proto::serial::framing::{Framing, line};
use tombolo::southbound::serial::order::{Lines, Wanted};
use tombolo::southbound::serial::settings::{Duty, Parity, Port, PortName};

use crate::support::main_file;

const ROLE: &str = "[role.r.uplink.x]\npath = \"data\"\n";
const GOOD: &str = "[serial.good]\nport = \"/dev/ttyS0\"\nframing = \"line\"\nrole = \"r\"\n";

fn complaints(text: &str) -> Vec<String> {
    let (loads, complaints) = main_file(text).complaints();
    assert!(loads, "{complaints:?}");
    complaints
}

fn only(text: &str) -> Port {
    let loaded = main_file(&format!("{ROLE}{text}")).loaded();
    assert_eq!(loaded.settings.serial.len(), 1, "{:?}", loaded.findings);
    loaded.settings.serial[0].clone()
}

#[test]
fn a_port_is_a_device_of_its_name_with_defaults_for_the_rest() {
    let loaded = main_file(&format!("{ROLE}{GOOD}label = \"the meter\"\n")).loaded();
    let port = &loaded.settings.serial[0];
    assert_eq!((port.name.as_str(), port.line.baud, port.line.data_bits), ("good", 9600, 8));
    let Duty::Readings { framing, .. } = &port.duty else { panic!() };
    assert_eq!((&framing.framing, framing.max_frame), (&Framing::Line(line::End::Any), 1024));
    let device = &loaded.settings.gate.devices[0];
    assert_eq!((device.id.as_str(), device.role.as_str()), ("good", "r"));
    assert!(device.psk.is_none());
    assert_eq!(device.label.as_deref(), Some("the meter"));
    assert!(loaded.known("good").unwrap().usable);
}

#[test]
fn every_key_finds_its_place() {
    let port = only(
        "[serial.m]\nport = \"usb:0403:6001:A5\"\nrole = \"r\"\nbaud = 115200\ndata-bits = 7\nparity = \"even\"\nstop-bits = 2\n\
         rs485 = \"rts-low\"\nframing = \"length\"\nlength-bytes = 2\nlength-order = \"little\"\nlength-offset = 1\nlength-adjust = -2\n\
         checksum = \"crc16-modbus\"\nmax-frame = \"4KiB\"\nform = \"json\"\npattern = '(?<id>\\w+) (?<t>[0-9.]+)'\npath = \"m/{id}\"\n\
         [serial.m.field.t]\nfactor = 0.1\noffset = 5\n",
    );
    assert!(matches!(port.port, PortName::Usb { vendor: 0x0403, product: 0x6001, .. }));
    assert_eq!((port.line.baud, port.line.parity, port.line.stop_bits), (115_200, Parity::Even, 2));
    let Duty::Readings { framing, .. } = &port.duty else { panic!() };
    assert_eq!((framing.checksum, framing.max_frame), (Some(Checksum::Crc16Modbus), 4096));
    let Framing::Length(header) = framing.framing else { panic!() };
    assert_eq!((header.adjust, header.offset, header.little_endian), (-2, 1, true));
}

#[test]
fn a_frame_may_begin_with_a_start_and_its_checksum_stand_where_the_device_puts_it() {
    let port = only(
        "[serial.m]\nport = \"tcp://192.0.2.7:4001\"\nrole = \"r\"\nframing = \"length\"\nlength-offset = 2\nlength-bytes = 2\n\
         start = \"hex:42 4D\"\nchecksum = \"sum16\"\nchecksum-order = \"little\"\nchecksum-from = 1\nchecksum-apart = 2\nchecksum-tail = 3\nchecksum-text = true\n",
    );
    assert!(matches!(port.port, PortName::Tcp { port: 4001, has_header: false, .. }));
    let Duty::Readings { framing, .. } = &port.duty else { panic!() };
    assert_eq!((framing.checksum, framing.start.as_slice()), (Some(Checksum::Sum16), &b"BM"[..]));
    let expected = Placement { low_first: Some(true), is_text: true, from: 1, apart: 2, tail: 3, mark: None };
    assert_eq!(framing.placement, expected);
}

#[test]
fn each_fault_is_named_at_its_line_and_disables_that_port_only() {
    let port = |more: &str| format!("{ROLE}{GOOD}[serial.bad]\nrole = \"r\"\n{more}");
    let line =
        |line: u32, words: &str| vec![format!("fail  /etc/tombolo/tombolo.toml:{line}: serial.bad{words}")];
    let tty = "port = \"/dev/ttyS1\"\n";
    for (text, expected) in [
        (
            "framing = \"line\"\n".to_owned(),
            line(7, ": there is no port; set port, like \"/dev/serial/by-id/…\"; `tombolo serial list` shows them"),
        ),
        (
            "port = \"ttyS1\"\nframing = \"line\"\n".to_owned(),
            line(
                9,
                ".port: \"ttyS1\" is neither a whole path nor a USB adapter nor an address; \
                 use \"/dev/…\", \"usb:VVVV:PPPP\" or \"usb:VVVV:PPPP:SERIAL\" with hexadecimal numbers, \
                 \"tcp://HOST:PORT\", or \"modbus-tcp://HOST\"",
            ),
        ),
        (
            "port = \"/dev/ttyS0\"\nframing = \"line\"\n".to_owned(),
            // The first in name order has it.
            vec!["fail  /etc/tombolo/tombolo.toml:4: serial.good.port: serial.bad has this port; give each its own".to_owned()],
        ),
        (
            "port = \"/dev/ttyS0\"\nframing = \"line\"\npoll = 'A'\n".to_owned(),
            vec!["fail  /etc/tombolo/tombolo.toml:4: serial.good.port: serial.bad has this port, and only one of both devices \
                  is asked; set poll in both, or give each its own".to_owned()],
        ),
        (
            format!("{tty}framing = \"line\"\nbaud = 42\n"),
            line(11, ".baud: 42 is not accepted; use a whole number from 50 to 4000000"),
        ),
        (
            format!("{tty}framing = \"lines\"\n"),
            line(
                10,
                ".framing: \"lines\" is not accepted; use \"line\", \"slip\", \"cobs\", \"length\", \"gap\", \"fixed\", \"markers\" or \"slipmux\"",
            ),
        ),
        (
            format!("{tty}framing = \"slipmux\"\ngap = \"1s\"\n"),
            line(11, ".gap: it belongs to framing = \"gap\"; take it out, or change framing"),
        ),
        (
            format!("{tty}framing = \"line\"\npattern = '(a'\n"),
            line(
                11,
                ".pattern: this is no regular expression: unclosed group; use a regular expression in the syntax of docs.rs/regex",
            ),
        ),
        (
            format!("{tty}framing = \"line\"\npath = \"m/{{id}}\"\n"),
            line(11, ".path: there is no pattern that captures id; set pattern too"),
        ),
        (
            format!("{tty}framing = \"line\"\nchecksum-text = true\n"),
            line(7, ": there is no checksum to place; set checksum, or take checksum-… out"),
        ),
        (
            format!("{tty}framing = \"line\"\nchecksum = \"sum\"\nchecksum-tail = 1\nwritable = true\n"),
            line(12, ".checksum-tail: which bytes a command has there is not known; take writable out"),
        ),
        (
            format!("{tty}framing = \"fixed\"\nsize = 3\nchecksum = \"sum\"\nchecksum-tail = 2\n"),
            line(11, ".size: there is no room for more than the checksum; use more than 3"),
        ),
        (
            format!("{tty}framing = \"length\"\nstart = \"BM\"\n"),
            line(11, ".start: it is longer than what stands before the length; set length-offset to where the length is"),
        ),
        (
            "port = \"modbus-tcp://plc\"\nframing = \"line\"\n".to_owned(),
            line(9, ".port: modbus-tcp:// is for a Modbus bus; add a [serial.NAME.unit.ADDRESS] for each unit, or use tcp:// for plain bytes"),
        ),
        (
            format!("{tty}framing = \"markers\"\nstart = \"hex:0\"\nend = \"hex:03\"\n"),
            line(11, ".start: \"hex:0\" is not accepted; use 1 to 8 bytes, as text or as \"hex:0d0a\""),
        ),
        (
            format!("{tty}framing = \"fixed\"\nsize = 2\nchecksum = \"crc16-ccitt\"\n"),
            line(11, ".size: there is no room for more than the checksum; use more than 2"),
        ),
        (
            format!("{tty}framing = \"line\"\nform = \"text\"\n[serial.bad.field.t]\n"),
            line(12, ".field: fields are for form = \"json\"; set form = \"json\", or take them out"),
        ),
        (
            format!("{tty}framing = \"line\"\ncolour = 7\n"),
            line(11, ".colour: unknown key"),
        ),
    ] {
        let found = complaints(&port(&text));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(expected[0].as_str()), "\n{}\n{}", found[0], expected[0]);
        let settings = main_file(&port(&text)).loaded().settings;
        assert_eq!(settings.serial.len(), 1);
        assert_eq!(settings.gate.devices.len(), 1);
    }
}

#[test]
fn a_port_without_a_usable_role_or_with_anothers_name_is_no_device() {
    let text = format!("{GOOD}[role.r]\nenabled = false\n");
    assert_eq!(
        complaints(&text),
        [
            "fail  /etc/tombolo/tombolo.toml:4: serial.good.role: the role \"r\" is switched off; take its enabled = false out"
        ]
    );
    assert!(main_file(&text).loaded().settings.serial.is_empty());
    let text = format!("{ROLE}{GOOD}[device.good]\nrole = \"r\"\n");
    assert_eq!(
        complaints(&text),
        [
            "fail  /etc/tombolo/tombolo.toml:3: serial.good: /etc/tombolo/tombolo.toml:7 has a device of the same id; \
          give the port another name"
        ]
    );
    let settings = main_file(&text).loaded().settings;
    assert_eq!((settings.serial.len(), settings.gate.devices.len()), (0, 1));
}

#[test]
fn a_name_that_moves_is_warned_about() {
    let text = format!("{ROLE}{GOOD}").replace("ttyS0", "ttyUSB0");
    assert_eq!(
        complaints(&text),
        [
            "warn  /etc/tombolo/tombolo.toml:4: serial.good.port: this name depends on the order in which adapters are plugged \
          in; `tombolo serial list` shows the persistent name in /dev/serial/by-id"
        ]
    );
    assert_eq!(main_file(&text).loaded().settings.serial.len(), 1);
}

#[test]
fn a_silence_within_a_frame_that_only_its_start_marks_ends_it_sooner() {
    let within = |more: &str| {
        let text =
            format!("[serial.m]\nport = \"/dev/ttyS0\"\nrole = \"r\"\nframing = \"fixed\"\nsize = 8\n{more}");
        let Duty::Readings { framing, .. } = only(&text).duty else { panic!() };
        framing.within.as_millis()
    };
    let start = "start = \"hex:AA55\"\n";
    // Without start and checksum only silences tell where one begins.
    assert_eq!(within(""), 30);
    assert_eq!(within("poll = \"A\"\n"), 1_000, "what follows a question begins one");
    assert_eq!(within(start), 100);
    assert_eq!(within(&format!("{start}checksum = \"sum\"\n")), 1_000);
    assert_eq!(within(&format!("{start}baud = 1200\n")), 183, "the time of 20 characters");
    assert_eq!(within(&format!("{start}gap = \"20ms\"\n")), 20);
    // Where only silences tell where one begins, a device that sends ten times a second has some.
    let xor = "checksum = \"xor\"\n";
    assert_eq!(within(xor), 30);
    assert_eq!(within(&format!("{xor}baud = 2400\n")), 91);
    assert_eq!(within(&format!("{start}{xor}")), 100);
    // And with those that a message moved over zeros passes, or a rotation of some.
    for (checksum, expected) in
        [("sum", 30), ("sum16", 30), ("crc16-xmodem", 30), ("crc16-arc", 30), ("crc16-modbus", 1_000)]
    {
        assert_eq!(within(&format!("checksum = \"{checksum}\"\n")), expected, "{checksum}");
    }
}

#[test]
fn a_converter_in_the_network_that_holds_bytes_back_makes_no_silence_between_messages() {
    let text = "[serial.m]\nport = \"tcp://h:4001\"\nrole = \"r\"\nframing = \"fixed\"\nsize = 8\nchecksum = \"xor\"\n";
    let Duty::Readings { framing, .. } = only(text).duty else { panic!() };
    assert_eq!(framing.within.as_millis(), 100);
    // It is warned of all the same, but for a start.
    let warned = |text: &str| {
        let complaints = complaints(&format!("{ROLE}{text}"));
        complaints.iter().any(|text| text.contains("right for each rotation of a message"))
    };
    assert!(warned(text) && !warned(&text.replace("tcp://h:4001", "/dev/ttyS0")));
    let bare = text.replace("checksum = \"xor\"\n", "");
    for (text, words) in [
        (
            bare.clone(),
            "framing: without start and checksum only silences tell where a message begins, and a converter",
        ),
        (
            bare.replace("tcp://h:4001", "/dev/ttyS0"),
            "framing: without start and checksum only silences (gap) tell",
        ),
    ] {
        let found = complaints(&format!("{ROLE}{text}"));
        assert!(found.len() == 1 && found[0].contains(words), "{found:?}");
    }
    assert!(!warned(&format!("{text}start = \"hex:AA\"\n")));
    let of = |checksum: &str| text.replace("\"xor\"", &format!("\"{checksum}\""));
    assert!(warned(&of("sum")) && warned(&of("sum16")) && !warned(&of("crc16-modbus")));
    for (checksum, expected) in [("crc16-arc", true), ("crc16-xmodem", true), ("crc16-modbus", false)] {
        let found = complaints(&format!("{ROLE}{}", of(checksum)));
        assert_eq!(found.iter().any(|text| text.contains("moved over zeros")), expected, "{checksum}");
    }
}

#[test]
fn a_length_without_a_checksum_is_warned_about_whatever_the_start() {
    for (more, warns) in [
        ("start = \"hex:42\"", true),
        ("start = \"hex:424D\"", true),
        ("start = \"hex:424D0102\"", true),
        ("start = \"hex:424D\"\nchecksum = \"sum16\"", false),
    ] {
        let table = format!("{GOOD}{more}\nlength-offset = 4\nlength-bytes = 1\n");
        let table = table.replace("\"line\"", "\"length\"");
        let complaints = complaints(&format!("{ROLE}{table}"));
        let is_it = |text: &String| text.contains("a lost byte of the length makes another one the length");
        assert_eq!(complaints.iter().any(is_it), warns, "{more}: {complaints:?}");
    }
}

#[test]
fn a_question_without_a_byte_is_refused() {
    let complaints = complaints(&format!("{ROLE}{GOOD}poll = \"\"\n"));
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(
        complaints[0].contains("serial.good.poll") && complaints[0].contains("1 to 1024 bytes"),
        "{complaints:?}"
    );
}

#[test]
fn a_line_end_that_is_written_as_its_bytes_is_refused_with_its_word() {
    for (end, word) in [("\\n", "lf"), ("\\r", "cr"), ("\\r\\n", "crlf"), ("x", "hex:03")] {
        let complaints = complaints(&format!("{ROLE}{GOOD}line-end = \"{end}\"\n"));
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        let expected = format!("\"{word}\"");
        assert!(complaints[0].contains("serial.good.line-end"), "{complaints:?}");
        assert!(complaints[0].ends_with(&expected), "{complaints:?}");
    }
}

#[test]
fn a_period_below_the_default_timeout_of_a_question_shortens_it() {
    let timeout = |more: &str| {
        let port = only(&format!("{GOOD}poll = \"A\"\n{more}"));
        let Duty::Readings { poll: Some(poll), .. } = port.duty else { panic!() };
        poll.timeout.as_millis()
    };
    assert_eq!(timeout(""), 1000);
    assert_eq!(timeout("poll-period = \"500ms\"\n"), 500);
    assert_eq!(timeout("poll-period = \"500ms\"\npoll-timeout = \"200ms\"\n"), 200);
    let asked = format!("{ROLE}{GOOD}poll = \"A\"\npoll-period = \"500ms\"\npoll-timeout = \"1s\"\n");
    let complaints = complaints(&asked);
    assert!(complaints.iter().any(|line| line.contains("serial.good.poll-timeout")), "{complaints:?}");
}

#[test]
fn a_start_of_one_byte_without_a_checksum_is_warned_about() {
    let text = format!("{ROLE}{GOOD}").replace("\"line\"", "\"fixed\"\nsize = 8\nstart = \"hex:02\"");
    let complaints = complaints(&text);
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(complaints[0].contains("serial.good.start: a start of one byte (02) may occur in the data"));
    for text in [format!("{text}checksum = \"sum\"\n"), text.replace("hex:02", "hex:02AA")] {
        assert_eq!(main_file(&text).complaints().1, [""; 0]);
    }
}

#[test]
fn devices_that_are_asked_may_share_a_port_on_a_line_with_the_same_settings() {
    let device = |name: &str, more: &str| {
        format!(
            "[serial.{name}]\nport = \"/dev/ttyS1\"\nframing = \"line\"\nrole = \"r\"\npoll = 'A'\n{more}"
        )
    };
    let loaded =
        main_file(&format!("{ROLE}{}{}", device("one", ""), device("two", "poll-period = \"1s\"\n")))
            .loaded();
    assert_eq!(loaded.settings.serial.len(), 2, "{:?}", loaded.findings);
    assert_eq!(
        complaints(&format!("{ROLE}{}{}", device("one", ""), device("two", "baud = 1200\n"))),
        [
            "fail  /etc/tombolo/tombolo.toml:9: serial.two.port: serial.one has this port with other settings of the line; \
          set baud and the other keys of the line to the same in both"
        ]
    );
}

#[test]
fn a_line_that_takes_commands_has_a_pattern_of_the_answer_and_a_time_for_it() {
    let port = only(&format!("{GOOD}writable = true\nanswer = '^OK'\nanswer-timeout = \"300ms\"\n"));
    let Duty::Readings { write: Some(write), .. } = &port.duty else { panic!() };
    assert!(write.answer.as_ref().is_some_and(|answer| answer.is_match(b"OK 5")));
    assert_eq!((write.timeout.as_millis(), write.echo), (300, false));
    let Duty::Readings { write, .. } = &only(GOOD).duty else { panic!() };
    assert!(write.is_none());
    let rule = "[role.r.downlink.d]\ntopic = \"{prefix}/{device}/down/#\"\npath = \"{rest}\"\n";
    for (more, part) in [
        ("answer = '^OK'\n", "no command is written"),
        ("answer-timeout = \"1s\"\n", "no command is written"),
        ("writable = true\nanswer = '('\n", "serial.good.answer"),
        ("writable = true\nanswer-timeout = \"1h\"\n", "answer-timeout"),
        ("writable = true\n", ""),
    ] {
        let found = complaints(&format!("{ROLE}{rule}{GOOD}{more}"));
        assert_eq!(found.is_empty(), part.is_empty(), "{found:?}");
        assert!(found.iter().any(|line| line.contains(part)) || part.is_empty(), "{found:?}");
    }
    let found = complaints(&format!("{ROLE}{GOOD}writable = true\n"));
    assert!(
        found.len() == 1 && found[0].contains("no downlink rule of the role \"r\" allows any"),
        "{found:?}"
    );
    let bus = "[serial.bus]\nport = \"/dev/ttyS1\"\nwritable = true\n[serial.bus.unit.1]\nid = \"u\"\nrole = \"r\"\n\
               register.x = { address = 0 }\n";
    let found = complaints(&format!("{ROLE}{bus}"));
    assert!(found.iter().any(|line| line.contains("the registers of units are writable")), "{found:?}");
}

const MARKED: &str = "[serial.gps]\nport = \"/dev/ttyS1\"\nrole = \"r\"\nframing = \"markers\"\nstart = \"$\"\nend = \"hex:0d0a\"\n\
                      checksum = \"xor\"\nchecksum-text = true\n";
const COMMANDS: &str =
    "writable = true\n[role.r.downlink.d]\ntopic = \"{prefix}/{device}/down/#\"\npath = \"{rest}\"\n";

#[test]
fn a_command_has_the_byte_before_its_checksum_that_the_device_expects() {
    let prepare = |more: &str, payload: &[u8]| {
        let loaded = main_file(&format!("{ROLE}{MARKED}{more}{COMMANDS}")).loaded();
        let warned = loaded.findings.iter().map(ToString::to_string);
        let warned: Vec<String> = warned.filter(|warned| warned.contains("serial.gps")).collect();
        (Lines::new(&loaded.settings.serial).prepare("gps", "x", payload), warned)
    };
    let (wanted, warned) = prepare("checksum-mark = \"*\"\n", b"PMTK220,1000");
    let Ok(Wanted::Frame { frame, .. }) = wanted else { panic!("{wanted:?}") };
    assert_eq!((String::from_utf8(frame).unwrap().as_str(), &warned[..]), ("$PMTK220,1000*1F\r\n", &[][..]));
    let (wanted, warned) = prepare("checksum-apart = 1\n", b"PMTK220,1000");
    let why = "the bytes before the checksum are not known: set checksum-mark";
    assert_eq!(wanted, Err(why.to_owned()));
    assert!(warned[0].contains("commands are refused: the bytes before the checksum"), "{warned:?}");
    assert!(warned[0].contains("set checksum-mark to what the device expects there"), "{warned:?}");
    let both = complaints(&format!("{ROLE}{GOOD}{MARKED}checksum-mark = \"*\"\nchecksum-apart = 2\n"));
    assert!(
        both[0].contains("checksum-mark: it has 1 bytes, and checksum-apart is another number"),
        "{both:?}"
    );
}

#[test]
fn what_looks_like_bytes_and_is_text_is_warned_about_and_so_is_skip_first_without_effect() {
    let fixed = "[serial.m]\nport = \"/dev/ttyS1\"\nrole = \"r\"\nframing = \"fixed\"\nsize = 12\nchecksum = \"crc16-modbus\"\n";
    let found = complaints(&format!("{ROLE}{fixed}start = \"42 4D\"\n"));
    let words = "serial.m.start: \"42 4D\" is taken as 5 characters, not as bytes; for the bytes, set start = \"hex:42 4D\"";
    assert!(found.len() == 1 && found[0].contains(words), "{found:?}");
    assert_eq!(complaints(&format!("{ROLE}{fixed}start = \"hex:42 4D\"\n")), [""; 0]);
    let found = complaints(&format!("{ROLE}{fixed}skip-first = true\n"));
    assert!(found.len() == 1 && found[0].contains("serial.m.skip-first: without effect"), "{found:?}");
}

#[test]
fn a_device_that_only_takes_commands_needs_no_rule_for_readings() {
    let relay = "[serial.relay]\nport = \"/dev/ttyS1\"\nrole = \"s\"\nframing = \"line\"\nwritable = true\nanswer = '^OK'\n";
    let rule = "[role.s.downlink.all]\ntopic = \"{prefix}/{device}/down/#\"\npath = \"{rest}\"\n";
    let found = complaints(&format!("{relay}{rule}"));
    assert_eq!(found, [""; 0]);
    let found = complaints(&format!("{relay}{rule}[role.s.uplink.x]\npath = \"t/x\"\n"));
    assert!(found.iter().any(|found| found.contains("lets its path \"data\" pass")), "{found:?}");
}
