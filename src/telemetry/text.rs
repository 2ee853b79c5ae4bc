//! Escapes text from outside for terminals and log lines.

use std::borrow::Cow;
use std::fmt;

/// Displays a text with everything escaped that could move the cursor, start a line or reorder
/// text.
///
/// Control characters (C0, DEL, C1), line and paragraph separators, bidirectional overrides and
/// isolates, the byte order mark and the zero-width characters become `\u{…}`; a backslash is
/// doubled, so that the result is unambiguous. All other characters are unchanged.
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
    !(character.is_control()
        || matches!(character,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'))
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
        ] {
            let shown = Escaped(hostile).to_string();
            assert!(shown.chars().all(is_harmless), "{shown:?}");
            assert_ne!(shown, hostile);
        }
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
