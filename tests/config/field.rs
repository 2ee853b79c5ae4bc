//! Settings that work and lose something in the field: `check` warns of them.

use tombolo::config::Level;

use crate::support::{lines, main_file};

const ROLE: &str = "role = \"meter\"\n[role.meter]\n[role.meter.uplink.data]\npath = \"data\"\n";

/// The warnings and faults of a configuration, without those of an upstream that is not there.
fn said(text: &str) -> String {
    let loaded = main_file(text).loaded();
    let found: Vec<_> = loaded
        .findings
        .iter()
        .filter(|finding| finding.level != Level::Ok && finding.subject != "upstream")
        .cloned()
        .collect();
    lines(&found)
}

fn port(more: &str) -> String {
    said(&format!("[serial.m]\nport = \"/dev/serial/by-id/x\"\n{more}{ROLE}"))
}

#[test]
fn frames_of_a_known_length_that_nothing_marks_are_warned_of() {
    let fixed = "framing = \"fixed\"\nsize = 8\nform = \"raw\"\n";
    let length = "framing = \"length\"\nlength-offset = 2\nform = \"raw\"\n";
    for (keys, is_warned) in [
        (fixed.to_owned(), true),
        (format!("{fixed}start = \"hex:424d\"\n"), false),
        (format!("{fixed}checksum = \"sum\"\n"), false),
        (format!("{fixed}poll = \"A\"\n"), false),
        (length.to_owned(), true),
        (format!("{length}start = \"hex:424d\"\n"), true),
        (format!("{length}checksum = \"crc16-modbus\"\n"), false),
        ("framing = \"gap\"\nform = \"raw\"\n".to_owned(), false),
        ("framing = \"line\"\n".to_owned(), false),
    ] {
        let text = port(&keys);
        let words = if keys.starts_with(fixed) { "only silences (gap) tell" } else { "a lost byte" };
        assert_eq!(text.contains(words), is_warned, "{keys}: {text}");
        assert!(is_warned || text.is_empty(), "{keys}: {text}");
    }
}

#[test]
fn the_end_of_labels_is_for_messages_of_several_lines() {
    let good = "framing = \"line\"\nline-end = \"hex:03\"\nlabel-end = \"hex:09\"\n";
    assert_eq!(port(good), "");
    for (keys, expected) in [
        ("framing = \"line\"\nlabel-end = \"hex:09\"\n", "have several lines"),
        ("framing = \"gap\"\nlabel-end = \"hex:09\"\n", "have several lines"),
        ("framing = \"line\"\nline-end = \"hex:03\"\nlabel-end = \"hex:0909\"\n", "use one byte"),
    ] {
        let text = port(keys);
        assert!(text.contains("label-end") && text.contains(expected), "{keys}: {text}");
    }
}

#[test]
fn messages_in_the_midst_of_others_are_told_by_two_bytes_and_only_in_lines_or_between_markers() {
    let both = "interleaved-start = \":\"\ninterleaved-end = \"hex:0a\"\n";
    for good in ["framing = \"line\"\n", "framing = \"markers\"\nstart = \"/\"\nend = \"!\"\n"] {
        assert_eq!(port(&format!("{good}{both}")), "");
    }
    for (keys, expected) in [
        (format!("framing = \"gap\"\n{both}"), "lines and of frames between markers only"),
        ("framing = \"line\"\ninterleaved-start = \":\"\n".to_owned(), "set interleaved-end"),
        ("framing = \"line\"\ninterleaved-end = \":\"\n".to_owned(), "set interleaved-start"),
        (format!("framing = \"line\"\n{}", both.replace("hex:0a", ":")), "the same as interleaved-start"),
        (format!("framing = \"line\"\n{}", both.replace("hex:0a", "hex:0d0a")), "use one byte"),
    ] {
        let text = port(&keys);
        assert!(text.contains("interleaved-") && text.contains(expected), "{keys}: {text}");
    }
}

#[test]
fn what_wakes_a_device_is_for_one_that_is_asked_and_fits_into_its_period() {
    let line = "framing = \"line\"\n";
    for good in ["poll = 'A\\r'\nwake = '\\x00'\n", "poll = 'A'\nwake = 'hex:0000'\nwake-pause = \"2s\"\n"] {
        assert_eq!(port(&format!("{line}{good}")), "");
    }
    for (keys, expected) in [
        ("wake = 'x'\n", "set poll, or take it out"),
        ("poll = 'A'\nwake-pause = \"1s\"\n", "set wake, or take it out"),
        ("poll = 'A'\nwake = '\\q'\n", "is not accepted"),
        // One character of 12 bits takes 1.25 ms at 9600 baud.
        (
            "poll = 'A'\npoll-period = \"1s\"\npoll-timeout = \"900ms\"\nwake = 'x'\nwake-pause = \"100ms\"\n",
            "use 1001 ms or more",
        ),
    ] {
        let text = port(&format!("{line}{keys}"));
        assert!(text.contains(expected), "{keys}: {text}");
    }
}

#[test]
fn an_answer_that_is_shorter_than_its_type_is_for_whole_numbers() {
    let unit = |register: &str| {
        said(&format!(
            "[serial.b]\nport = \"/dev/serial/by-id/x\"\n[serial.b.unit.1]\nid = \"u\"\npath = \"data\"\n\
             register.r = {{ address = 0, {register} }}\n{ROLE}"
        ))
    };
    for good in ["answer-bytes = 1", "type = \"i32\", answer-bytes = 1", "type = \"f32\", answer-bytes = 12"]
    {
        assert_eq!(unit(good), "", "{good}");
    }
    for bad in ["type = \"f32\", answer-bytes = 1", "type = \"string\", length = 4, answer-bytes = 7"] {
        let text = unit(bad);
        assert!(text.contains("answer-bytes") && text.contains("this type has"), "{bad}: {text}");
    }
}

#[test]
fn queries_that_mqtt_3_1_1_cannot_carry_are_warned_of() {
    let site = |protocol: &str, rule: &str| {
        said(&format!(
            "[upstream]\nurl = \"mqtts://broker.example\"\n{protocol}[role.meter]\n[role.meter.uplink.data]\n\
             path = \"data\"\n{rule}"
        ))
    };
    let old = "protocol = \"3.1.1\"\n";
    let text = site(old, "");
    assert!(text.contains("no user properties") && text.contains("data"), "{text}");
    for (protocol, rule) in [
        ("", ""),
        ("protocol = \"5\"\n", ""),
        (old, "query = \"refuse\"\n"),
        (old, "envelope = \"json\"\n"),
        (old, "deny = true\n"),
    ] {
        let text = site(protocol, rule);
        assert!(!text.contains("user properties"), "{protocol}{rule}: {text}");
    }
}

#[test]
fn the_transaction_identifier_is_one_of_modbus_tcp_and_the_byte_count_one_of_a_unit() {
    let bus = |port: &str, keys: &str| {
        said(&format!(
            "[serial.b]\nport = \"{port}\"\n[serial.b.modbus]\n{keys}\n[serial.b.unit.1]\nid = \"u\"\n\
             path = \"data\"\nbyte-count = \"registers\"\nregister.r = {{ address = 0 }}\n{ROLE}"
        ))
    };
    let ignored = "transaction-id = \"ignore\"";
    assert_eq!(bus("modbus-tcp://plc", ignored), "");
    for port in ["tcp://converter:4001", "/dev/serial/by-id/x"] {
        let text = bus(port, ignored);
        assert!(text.contains("transaction-id") && text.contains("modbus-tcp://"), "{text}");
    }
    let text = bus("modbus-tcp://plc", "transaction-id = \"none\"");
    assert!(text.contains("transaction-id") && text.contains("ignore"), "{text}");
}
