//! Text for a terminal that shows ASCII alone: by its locale it has another character set than
//! UTF-8 (POSIX.1-2017, XBD 8.2: `LC_ALL`, `LC_CTYPE`, `LANG`).

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether these values of `LC_ALL`, `LC_CTYPE` and `LANG`, of which the first that is not empty
/// counts, are of a locale without UTF-8. Where none is set that is not known, and UTF-8 is
/// written.
pub fn is_narrow(values: [Option<&str>; 3]) -> bool {
    let locale = values.into_iter().flatten().find(|value| !value.is_empty());
    locale.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        !(locale.contains("utf-8") || locale.contains("utf8"))
    })
}

/// The same text in ASCII: our own signs as they are typed, everything else by its number.
pub fn narrow(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let mut narrow = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '→' => narrow.push_str("->"),
            '…' => narrow.push_str("..."),
            '–' | '—' => narrow.push('-'),
            '×' => narrow.push('x'),
            '’' => narrow.push('\''),
            character if character.is_ascii() => narrow.push(character),
            other => {
                let _ = write!(narrow, "\\u{{{:x}}}", u32::from(other));
            }
        }
    }
    Cow::Owned(narrow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locale_without_utf_8_is_known_by_the_first_variable_that_is_set() {
        assert!(is_narrow([Some("C"), None, Some("de_DE.UTF-8")]));
        assert!(is_narrow([None, Some("POSIX"), None]));
        assert!(is_narrow([Some(""), None, Some("de_DE.ISO-8859-1")]));
        assert!(!is_narrow([Some("C.UTF-8"), None, None]));
        assert!(!is_narrow([Some(""), Some("en_GB.utf8"), Some("C")]));
        assert!(!is_narrow([None, None, None]));
    }

    #[test]
    fn what_ascii_does_not_have_is_spelled_out() {
        assert_eq!(narrow("a → b…"), "a -> b...");
        assert_eq!(narrow("Küche"), "K\\u{fc}che");
        assert!(matches!(narrow("plain"), Cow::Borrowed(_)));
    }
}
