//! `charset`, `decimal` and a field's own `decimal`, from the file to the value that is published.

use std::time::{Duration, Instant};

use tombolo::config::Level;
use tombolo::proto::serial::framing::Decoder;
use tombolo::proto::serial::reading::{Room, Unreadable};
use tombolo::southbound::serial::settings::Duty;

use crate::support::{lines, main_file};

const PORT: &str =
    "[role.r.uplink.x]\npath = \"#\"\n[serial.m]\nport = \"/dev/ttyS0\"\nrole = \"r\"\nframing = \"line\"\n";

/// What is published of these bytes from the line: path and payload.
fn published(keys: &str, bytes: &[u8]) -> Result<(String, String), Unreadable> {
    let loaded = main_file(&format!("{PORT}{keys}")).loaded();
    let faults: Vec<_> = loaded.findings.iter().filter(|f| f.level == Level::Fail).cloned().collect();
    assert_eq!(lines(&faults), "");
    let Duty::Readings { framing, extractor, .. } = &loaded.settings.serial[0].duty else { panic!() };
    let start = Instant::now();
    let mut decoder = Decoder::new(framing, start);
    let mut found = Vec::new();
    let line = [bytes, b"\r\n"].concat();
    decoder.handle_bytes(start + Duration::from_secs(10), &line, &mut |frame| found.push(frame.to_vec()));
    let [frame] = &found[..] else { panic!("{found:?}") };
    let mut room = Room::default();
    let reading = extractor.read(frame, &mut room)?;
    let payload = std::str::from_utf8(reading.payload).expect("what is published is UTF-8");
    Ok((reading.path.to_string(), payload.to_owned()))
}

fn payload(keys: &str, bytes: &[u8]) -> Result<String, Unreadable> {
    published(keys, bytes).map(|(_, payload)| payload)
}

#[test]
fn the_charset_of_the_port_decides_which_characters_are_published() {
    let charset = |word: &str, more: &str| format!("charset = \"{word}\"\n{more}");
    for (word, bytes, expected) in [
        ("utf-8", "21 °C".as_bytes(), Ok("21 °C")),
        ("utf-8", b"21 \xB0C", Err(Unreadable::NotText)),
        ("latin-1", b"21 \xB0C", Ok("21 °C")),
        // A control character there, the euro sign here.
        ("latin-1", b"\x80", Ok("\u{80}")),
        ("windows-1252", b"3 \x80, 21 \xB0C", Ok("3 €, 21 °C")),
        ("windows-1252", b"\x81", Err(Unreadable::NotWindows1252)),
    ] {
        let found = payload(&charset(word, ""), bytes);
        assert_eq!(found, expected.map(str::to_owned), "{word} {bytes:x?}");
    }
    assert_eq!(payload("", b"21 \xB0C"), Err(Unreadable::NotText), "UTF-8 is the default");
    // In fields, and in the path; the pattern sees the bytes as they came.
    let json =
        "form = \"json\"\npattern = '^(?<id>[^ ]+) (?<t>[0-9]+) (?<unit>\\xB0[CF])$'\npath = \"m/{id}\"\n";
    let expected = ("m/T\u{fc}r".to_owned(), r#"{"id":"Tür","t":21,"unit":"°C"}"#.to_owned());
    for word in ["latin-1", "windows-1252"] {
        let found = published(&charset(word, json), b"T\xFCr 21 \xB0C");
        assert_eq!(found, Ok(expected.clone()), "{word}");
    }
    assert_eq!(payload(json, b"T\xFCr 21 \xB0C"), Err(Unreadable::NotText));
    // JSON of the device's own.
    let own = charset("latin-1", "form = \"json\"\n");
    assert_eq!(payload(&own, b"{\"t\":\"21 \xB0C\"}"), Ok("{\"t\":\"21 °C\"}".to_owned()));
    assert_eq!(payload("form = \"json\"\n", b"{\"t\":\"21 \xB0C\"}"), Err(Unreadable::NotText));
}

#[test]
fn the_decimal_comma_of_the_port_and_of_a_field_decides_what_is_a_number() {
    let json = "form = \"json\"\npattern = '^(?<a>\\S+);(?<b>\\S+)$'\n";
    let keys = |port: &str, fields: &str| format!("{json}{port}{fields}");
    let comma = "decimal = \",\"\n";
    let own = |name: &str, keys: &str| format!("[serial.m.field.{name}]\n{keys}\n");
    for (port, fields, bytes, expected) in [
        // Of no kind that is declared, a number is what JSON has so.
        ("", String::new(), "21,5;21.5", Ok(r#"{"a":"21,5","b":21.5}"#)),
        (comma, String::new(), "21,5;21.5", Ok(r#"{"a":21.5,"b":"21.5"}"#)),
        (comma, String::new(), "-0,5;1.234,5", Ok(r#"{"a":-0.5,"b":"1.234,5"}"#)),
        // A field says otherwise than its port, either way.
        (comma, own("b", "decimal = \".\""), "21,5;21.5", Ok(r#"{"a":21.5,"b":21.5}"#)),
        ("", own("a", "decimal = \",\""), "21,5;21.5", Ok(r#"{"a":21.5,"b":21.5}"#)),
        ("decimal = \".\"\n", own("a", "decimal = \",\""), "21,5;21.5", Ok(r#"{"a":21.5,"b":21.5}"#)),
        // A declared number takes either, unless it is said which.
        ("", own("a", "type = \"number\""), "21,5;0", Ok(r#"{"a":21.5,"b":0}"#)),
        ("", own("a", "type = \"number\"\ndecimal = \".\""), "21,5;0", Err(Unreadable::NotANumber)),
        (comma, own("a", "type = \"number\""), "21.5;0", Err(Unreadable::NotANumber)),
        (comma, own("a", "factor = 0.1"), "0021,5;0", Ok(r#"{"a":2.15,"b":0}"#)),
        // A text stays what it is.
        (comma, own("a", "type = \"text\""), "21,5;0", Ok(r#"{"a":"21,5","b":0}"#)),
    ] {
        let found = payload(&keys(port, &fields), bytes.as_bytes());
        assert_eq!(found, expected.map(str::to_owned), "{port}{fields}{bytes}");
    }
}

#[test]
fn a_charset_or_a_decimal_mark_without_anything_to_be_read_so_is_refused_at_its_line() {
    for (keys, expected) in [
        ("form = \"raw\"\ncharset = \"latin-1\"\n", ":8: serial.m.charset: raw bytes have none; take it out"),
        ("charset = \"ebcdic\"\n", ":7: serial.m.charset: \"ebcdic\" is not accepted"),
        ("form = \"text\"\ndecimal = \",\"\n", ":8: serial.m.decimal: there are no fields to be numbers"),
        ("form = \"json\"\ndecimal = \",\"\n", ":8: serial.m.decimal: there are no fields to be numbers"),
        (
            "form = \"json\"\npattern = '(?<a>.)'\ndecimal = \"comma\"\n",
            ":9: serial.m.decimal: \"comma\" is not accepted",
        ),
        (
            "form = \"json\"\npattern = '(?<a>.)'\n[serial.m.field.a]\ndecimal = \"comma\"\n",
            ":10: serial.m.field.a.decimal: \"comma\" is not accepted",
        ),
    ] {
        let (_, complaints) = main_file(&format!("{PORT}{keys}")).complaints();
        let [complaint] = &complaints[..] else { panic!("{keys}{complaints:?}") };
        assert!(complaint.contains(expected), "{complaint}\n{expected}");
        assert!(main_file(&format!("{PORT}{keys}")).loaded().settings.serial.is_empty());
    }
}
