//! Pre-shared keys from an argument or standard input, or generated.

use std::io::Read as _;

use zeroize::Zeroizing;

use super::error::CommandError;
use crate::config::registry::io::{random_key, random_key_bytes};
use crate::config::scalar::parse_psk;

/// Most bytes read from standard input for a key.
const STDIN_MAX: u64 = 4096;
/// A PSK shorter than this can be guessed: 128 bits.
pub const PSK_MIN: usize = 16;

/// Why a pre-shared key may be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weakness {
    /// It has less than [`PSK_MIN`] bytes: so many.
    Short(usize),
    /// It is a pattern of so few bytes, again and again.
    Repeated(usize),
    /// Most of its bytes follow the one before them, upwards or downwards.
    Sequence,
}

/// Whether a pre-shared key may be guessed. Of random keys none is a pattern that is repeated or a
/// sequence: of those with [`PSK_MIN`] bytes it is one of 2^64.
pub fn weakness(key: &[u8]) -> Option<Weakness> {
    if key.len() < PSK_MIN {
        return Some(Weakness::Short(key.len()));
    }
    let repeats = |period: &usize| key.iter().zip(&key[*period..]).all(|(one, other)| one == other);
    // One of more bytes is as good as a key of its length.
    let repeated = (1..PSK_MIN).take_while(|period| period * 2 <= key.len()).find(repeats);
    // As 0123456789abcdef, in which the letters do not follow the digits.
    let follow = |step: u8| key.windows(2).filter(|pair| pair[0].wrapping_add(step) == pair[1]).count();
    let is_sequence = follow(1).max(follow(u8::MAX)) >= key.len() - key.len() / 4;
    repeated.map(Weakness::Repeated).or(is_sequence.then_some(Weakness::Sequence))
}

/// The key from an argument: empty = generated, `hex` = generated without text, `-` = standard
/// input, else `text:…` or `hex:…`.
///
/// # Errors
/// [`CommandError::Usage`] for an invalid key; the message does not contain it.
pub fn from_argument(argument: &str) -> Result<Zeroizing<Vec<u8>>, CommandError> {
    let text = match argument {
        "" => return random_key().map_err(CommandError::failed),
        "hex" => return random_key_bytes().map_err(CommandError::failed),
        "-" => {
            // Large enough not to grow, which would leave copies of the key in memory.
            let mut text = Zeroizing::new(Vec::with_capacity(STDIN_MAX as usize + 1));
            std::io::stdin().lock().take(STDIN_MAX).read_to_end(&mut text).map_err(|error| {
                CommandError::failed(format_args!("standard input cannot be read: {error}"))
            })?;
            text
        }
        text => Zeroizing::new(text.as_bytes().to_vec()),
    };
    parse_psk(&text).map_err(|error| {
        CommandError::Usage(format!(
            "--psk{}: {error}; write text:SECRET or hex:00ff…, or leave the value out and one is made (with `hex` alone, of 16 bytes)",
            if argument == "-" { " - (standard input)" } else { "" },
        ))
    })
}

/// Quotes a word for a shell: unchanged if possible, otherwise in single quotes.
pub fn shell_word(word: &str) -> String {
    let plain = !word.is_empty()
        && word.bytes().all(|b| {
            b.is_ascii_alphanumeric()
                || matches!(b, b'-' | b'_' | b'.' | b'/' | b':' | b'@' | b'+' | b'=' | b',')
        });
    if plain { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_key_is_refused_without_being_repeated() {
        match from_argument("secret") {
            Err(CommandError::Usage(text)) => {
                assert!(text.contains("text:") && !text.contains("secret"), "{text}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(*from_argument("hex:00ff").unwrap(), [0, 255]);
        assert_eq!(from_argument("").unwrap().len(), 22);
        let bytes = [from_argument("hex").unwrap(), from_argument("hex").unwrap()];
        assert!(bytes.iter().all(|key| key.len() == PSK_MIN) && bytes[0] != bytes[1]);
    }

    #[test]
    fn a_short_key_and_a_pattern_that_is_repeated_are_weak() {
        for (key, expected) in [
            ("short", Some(Weakness::Short(5))),
            ("aaaaaaaaaaaaaaaa", Some(Weakness::Repeated(1))),
            ("abababababababab", Some(Weakness::Repeated(2))),
            ("12345678123456781", Some(Weakness::Repeated(8))),
            ("0123456789abcdef", Some(Weakness::Sequence)),
            ("zyxwvutsrqponmlk", Some(Weakness::Sequence)),
            // The pattern is as long as a key has to be.
            ("0123456789abcdef0123456789abcdef", Some(Weakness::Sequence)),
            ("0213546879bacdfe", None),
            ("aaaaaaaaaaaaaaab", None),
        ] {
            assert_eq!(weakness(key.as_bytes()), expected, "{key}");
        }
        for _ in 0..100 {
            assert_eq!(weakness(&from_argument("hex").unwrap()), None);
        }
    }

    #[test]
    fn a_shell_takes_the_word_as_it_is_meant() {
        assert_eq!(shell_word("door-7"), "door-7");
        assert_eq!(shell_word("a b'c$"), r"'a b'\''c$'");
        assert_eq!(shell_word(""), "''");
    }
}
