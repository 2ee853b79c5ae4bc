//! The first boot of a copied card: a golden image, made on one board and written to many cards,
//! has the identity of that board. A marker file says so, and each copy makes an identity of its
//! own before the daemon starts.
//!
//! | in the state directory | |
//! |---|---|
//! | `first-boot` | the marker, put there before the card is copied; removed last |
//! | `gateway-id`, `gateway-id.copy` | removed, and a new id is made |
//! | what [`inventory`](super::inventory) says is of one board, with what was set aside of it | removed: keys, sessions and readings of the other board |
//! | configuration, devices, secrets that somebody put there | stay; keys that the configuration names are listed |
//! | the floors of clock, updates and revocation lists | stay: they never sink |
//! | `board-serial` | the board's serial number, as last seen |
//!
//! What the process before left in the runtime directory is removed as well: sessions and keys.
//!
//! Each step can be repeated, so a power cut costs nothing: the marker is there until all is done,
//! and while it is there the daemon does not start.

pub mod io;

/// The marker.
pub const MARKER: &str = "first-boot";
/// The file with the serial number of the board.
pub const SERIAL: &str = "board-serial";
/// What the board's serial number says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serial {
    /// The same board, or a board without a number.
    Same,
    /// The first time that one is seen.
    First(String),
    /// Another board than the last time.
    Changed {
        /// The number that was stored.
        from: String,
        /// That of this board.
        to: String,
    },
}

/// Longest serial number, in bytes.
const SERIAL_MAX: usize = 64;

/// The number in what a board says; `None` if there is none, or a filler.
pub fn parse_serial(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    let is_plain = text.len() <= SERIAL_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    let filled = text.bytes().any(|byte| byte != b'0');
    (is_plain && filled).then(|| text.to_owned())
}

/// Compares the number of this board with the stored one.
pub fn compare(stored: Option<String>, found: Option<String>) -> Serial {
    match (stored, found) {
        (_, None) => Serial::Same,
        (None, Some(found)) => Serial::First(found),
        (Some(stored), Some(found)) if stored == found => Serial::Same,
        (Some(from), Some(to)) => Serial::Changed { from, to },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_is_plain_text_and_no_filler() {
        assert_eq!(parse_serial(b"10000000abcdef01\0"), Some("10000000abcdef01".to_owned()));
        for filler in [&b""[..], b"\0", b"0000000000000000\n", b"two words", b"\xff", &[b'1'; 65]] {
            assert_eq!(parse_serial(filler), None, "{filler:?}");
        }
    }

    #[test]
    fn only_another_number_is_a_change() {
        let number = |text: &str| Some(text.to_owned());
        assert_eq!(compare(None, number("a")), Serial::First("a".to_owned()));
        assert_eq!(compare(number("a"), number("a")), Serial::Same);
        assert_eq!(compare(number("a"), None), Serial::Same);
        let changed = Serial::Changed { from: "a".to_owned(), to: "b".to_owned() };
        assert_eq!(compare(number("a"), number("b")), changed);
    }
}
