//! Escapes text from outside for terminals and log lines.

use std::borrow::Cow;
use std::fmt;

/// Displays a text with everything escaped that could move the cursor, start a line or reorder
/// text.
///
/// Control characters (C0, DEL, C1), line and paragraph separators and the format characters of
/// Unicode (general category Cf: bidirectional overrides and isolates, zero-width characters, the
/// byte order mark, tags) become `\u{…}`; a backslash is doubled, so that the result is
/// unambiguous. All other characters are unchanged.
///
/// ```
/// use tombolo::telemetry::text::Escaped;
/// assert_eq!(Escaped("a\x1b[2Jb\n").to_string(), "a\\u{1b}[2Jb\\u{a}");
/// assert_eq!(Escaped("tür 7").to_string(), "tür 7");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, self.0)
    }
}

/// Writes to another [`fmt::Write`] and escapes as [`Escaped`] does, for values that only implement
/// `Display`.
pub struct Escaping<W>(pub W);

impl<W: fmt::Write> fmt::Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write_escaped(&mut self.0, text)
    }
}

fn write_escaped(out: &mut dyn fmt::Write, text: &str) -> fmt::Result {
    let mut plain_from = 0;
    for (at, character) in text.char_indices() {
        if character != '\\' && is_harmless(character) {
            continue;
        }
        out.write_str(&text[plain_from..at])?;
        if character == '\\' {
            out.write_str("\\\\")?;
        } else {
            write!(out, "\\u{{{:x}}}", u32::from(character))?;
        }
        plain_from = at + character.len_utf8();
    }
    out.write_str(&text[plain_from..])
}

/// Whether a character may be printed without escaping.
pub fn is_harmless(character: char) -> bool {
    !(character.is_control() || is_format(character))
}

/// Whether a character is not seen itself and may change how others are: the general categories
/// Cf, Zl and Zp of Unicode 16.0 (UnicodeData.txt), with what is not assigned between them.
pub fn is_format(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
        | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}' | '\u{e0020}'..='\u{e007f}')
}

/// A text of our own words for a terminal: format characters, which come from a name in it, become
/// `\u{…}`. All else is as it was: line ends and colours are meant.
pub fn without_format(text: &str) -> Cow<'_, str> {
    if !text.contains(is_format) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match is_format(character) {
            true => plain.extend(character.escape_unicode()),
            false => plain.push(character),
        }
    }
    Cow::Owned(plain)
}

/// A text in JSON, or a basic string of TOML, with the characters that are not harmless by their
/// numbers, `wide` those beyond the first 65,536: what is read from it is the same.
fn numbered(text: &str, wide: fn(&mut String, char)) -> Cow<'_, str> {
    let is_numbered = |c: char| !is_harmless(c) && !matches!(c, '\t' | '\n' | '\r');
    if !text.contains(is_numbered) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match u32::from(character) {
            _ if !is_numbered(character) => plain.push(character),
            number @ 0..=0xFFFF => {
                let _ = fmt::Write::write_fmt(&mut plain, format_args!("\\u{number:04x}"));
            }
            _ => wide(&mut plain, character),
        }
    }
    Cow::Owned(plain)
}

/// A JSON document for a terminal: it means the same, and cannot control it (RFC 8259 §7).
///
/// ```
/// use tombolo::telemetry::text::numbered_json;
/// assert_eq!(numbered_json("[\"a\u{202e}b\"]"), "[\"a\\u202eb\"]");
/// ```
pub fn numbered_json(text: &str) -> Cow<'_, str> {
    numbered(text, |plain, character| {
        for unit in character.encode_utf16(&mut [0; 2]) {
            let _ = fmt::Write::write_fmt(plain, format_args!("\\u{unit:04x}"));
        }
    })
}

/// The content of a basic string of TOML for a terminal (TOML 1.0, String).
pub fn numbered_toml(text: &str) -> Cow<'_, str> {
    numbered(text, |plain, character| {
        let _ = fmt::Write::write_fmt(plain, format_args!("\\U{:08x}", u32::from(character)));
    })
}

/// A message without the numbers of the system's errors, `(os error 13)`, which say nothing to
/// people that the words before them do not.
///
/// ```
/// use tombolo::telemetry::text::without_error_numbers;
/// let text = without_error_numbers("a.pem: Permission denied (os error 13); chmod 0640");
/// assert_eq!(text, "a.pem: Permission denied; chmod 0640");
/// ```
pub fn without_error_numbers(text: &str) -> Cow<'_, str> {
    const BEGINS: &str = " (os error ";
    if !text.contains(BEGINS) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut parts = text.split(BEGINS);
    plain.push_str(parts.next().unwrap_or_default());
    for part in parts {
        match part.split_once(')') {
            Some((number, rest)) if number.parse::<i32>().is_ok() => plain.push_str(rest),
            _ => {
                plain.push_str(BEGINS);
                plain.push_str(part);
            }
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_error_numbers_are_taken_out() {
        for same in ["", "os error 13", "x (os error )", "x (os error y)", "x (os error 1"] {
            assert_eq!(without_error_numbers(same), same);
        }
        let two = "a (os error 2); b (os error 28)";
        assert_eq!(without_error_numbers(two), "a; b");
    }
    use proptest::prelude::*;

    #[test]
    fn what_moves_a_cursor_or_reorders_text_is_escaped() {
        for hostile in [
            "\x1b]0;x\x07",
            "\r",
            "\n",
            "\u{85}",
            "\u{9b}31m",
            "\u{202e}",
            "\u{2066}",
            "\u{2028}",
            "\u{feff}",
            "\u{ad}",
            "\u{206a}",
            "\u{fff9}",
            "\u{e0041}",
        ] {
            let shown = Escaped(hostile).to_string();
            assert!(shown.chars().all(is_harmless), "{shown:?}");
            assert_ne!(shown, hostile);
        }
    }

    #[test]
    fn format_characters_of_names_are_seen_in_our_own_words_in_json_and_in_toml() {
        assert_eq!(without_format("a\u{202e}b\n\x1b[1mc"), "a\\u{202e}b\n\x1b[1mc");
        assert!(matches!(without_format("tür\n"), Cow::Borrowed(_)));
        let hostile = "a\u{202e}\u{e0041}\u{9b}\u{7f}ü";
        let json = serde_json::to_string(hostile).expect("a text");
        let shown = numbered_json(&json);
        assert_eq!(shown, "\"a\\u202e\\udb40\\udc41\\u009b\\u007fü\"");
        assert_eq!(serde_json::from_str::<String>(&shown).expect("JSON"), hostile);
        let toml = format!("x = \"{}\"", numbered_toml(hostile));
        let table: toml::Table = toml.parse().expect("TOML");
        assert_eq!(table["x"].as_str(), Some(hostile), "{toml}");
    }

    proptest! {
        #[test]
        fn whatever_goes_in_only_harmless_characters_come_out(text in any::<String>()) {
            prop_assert!(Escaped(&text).to_string().chars().all(is_harmless));
        }

        #[test]
        fn two_texts_never_look_the_same(a in "[\\\\\\n\u{1b}u{}1b]{0,8}", b in "[\\\\\\n\u{1b}u{}1b]{0,8}") {
            prop_assert_eq!(Escaped(&a).to_string() == Escaped(&b).to_string(), a == b);
        }
    }
}
