//! Pre-shared keys from an argument or standard input, or generated.

use std::io::Read as _;

use zeroize::Zeroizing;

use super::error::CommandError;
use crate::config::registry::io::{random_key, random_key_bytes};
use crate::config::scalar::{parse_hex, parse_psk};

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
    /// It has so few different bytes, of which there are less than 2^40 keys of its length.
    Few(usize),
    /// Most of its bytes or hexadecimal digits follow from those before them: 0123…, aabbccdd…,
    /// a1b2c3…, qwerty…, 1q2w3e…; or it is words that everybody tries, with digits in order.
    Sequence,
}

/// Whether a pre-shared key may be guessed. Random keys of [`PSK_MIN`] bytes are not taken for such
/// a one: less than one of 2^37 is.
pub fn weakness(key: &[u8]) -> Option<Weakness> {
    if key.len() < PSK_MIN {
        return Some(Weakness::Short(key.len()));
    }
    // Digits that were meant as hexadecimal, and given as text.
    let meant = (key.len() >= 2 * PSK_MIN).then(|| parse_hex(key)).flatten();
    pattern(key).or_else(|| meant.and_then(|bytes| pattern(&bytes)))
}

/// The weakness of a key that is long enough.
fn pattern(key: &[u8]) -> Option<Weakness> {
    let repeats = |period: &usize| key.iter().zip(&key[*period..]).all(|(one, other)| one == other);
    // One of more bytes is as good as a key of its length.
    let repeated = (1..PSK_MIN).take_while(|period| period * 2 <= key.len()).find(repeats);
    // Nobody wrote a text as hexadecimal digits, and those of its characters are much alike.
    let is_text = key.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    let digits = key.iter().filter(|_| !is_text).flat_map(|byte| [byte >> 4, byte & 0xf]);
    let digits: Zeroizing<Vec<u8>> = Zeroizing::new(digits.collect());
    let is_sequence = is_sequence(key) || !is_text && is_sequence(&digits) || is_word_and_digits(key);
    repeated
        .map(Weakness::Repeated)
        .or_else(|| few(key).map(Weakness::Few))
        .or(is_sequence.then_some(Weakness::Sequence))
}

/// Whether three of four follow from those before them.
fn is_sequence(symbols: &[u8]) -> bool {
    let most = |pairs: usize, fit: usize| fit >= pairs - pairs / 4;
    // As 0123456789abcdef, in which the letters do not follow the digits, 00112233, and qwertyuiop.
    let pairs = symbols.windows(2);
    let near = pairs.clone().filter(|pair| pair[0].abs_diff(pair[1]) <= 1 || is_beside(pair)).count();
    // As 02468ace and a1b2c3d4: by the same step each time, from the one so many before.
    let steps = |period: usize| {
        let mut counts = [0_usize; 256];
        for (one, other) in symbols.iter().zip(&symbols[period..]) {
            counts[usize::from(other.wrapping_sub(*one))] += 1;
        }
        counts.into_iter().max().unwrap_or(0)
    };
    // As 1q2w3e4r: two rows of a keyboard in turn.
    let in_turn = symbols.windows(3).filter(|three| is_beside(&[three[0], three[2]])).count();
    let in_turn = symbols.len() >= PSK_MIN && most(symbols.len() - 2, in_turn);
    most(pairs.len(), near) || in_turn || (1..=4).any(|period| most(symbols.len() - period, steps(period)))
}

/// Whether it is words that everybody tries, and then six digits or more in the order of their
/// keys: Password12345678.
fn is_word_and_digits(key: &[u8]) -> bool {
    const WORDS: [&[u8]; 16] = [
        b"admin",
        b"changeme",
        b"default",
        b"device",
        b"gateway",
        b"geheim",
        b"key",
        b"letmein",
        b"passwd",
        b"password",
        b"passwort",
        b"psk",
        b"secret",
        b"sensor",
        b"test",
        b"welcome",
    ];
    let letters = key.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let (word, digits) = key.split_at(letters);
    let in_order = digits.len() >= 6
        && digits.iter().all(u8::is_ascii_digit)
        && digits.windows(2).all(|pair| pair[0] == pair[1] || is_beside(pair));
    let mut rest = word;
    while let Some(after) = WORDS.iter().find_map(|known| {
        let (begin, after) = rest.split_at_checked(known.len())?;
        begin.eq_ignore_ascii_case(known).then_some(after)
    }) {
        rest = after;
    }
    in_order && !word.is_empty() && rest.is_empty()
}

/// Whether two keys are beside each other on a keyboard.
fn is_beside(pair: &[u8]) -> bool {
    let rows: [&[u8]; 4] = [b"1234567890", b"qwertyuiop", b"asdfghjkl", b"zxcvbnm"];
    let lower = [pair[0].to_ascii_lowercase(), pair[1].to_ascii_lowercase()];
    let [one, other] = lower;
    rows.iter().any(|row| row.windows(2).any(|two| two == lower || two == [other, one]))
}

/// How many different ones there are.
fn different(symbols: &[u8]) -> usize {
    let mut is_there = [false; 256];
    symbols.iter().for_each(|symbol| is_there[usize::from(*symbol)] = true);
    is_there.into_iter().filter(|is_there| *is_there).count()
}

/// How many different ones there are, if too few.
fn few(symbols: &[u8]) -> Option<usize> {
    let (count, length) = (different(symbols), u32::try_from(symbols.len()).unwrap_or(u32::MAX));
    let of_them = u64::try_from(count).unwrap_or(u64::MAX).checked_pow(length);
    of_them.is_some_and(|keys| keys < 1 << 40).then_some(count)
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
            ("aaaabbbbccccdddd", Some(Weakness::Few(4))),
            ("a1b2c3d4e5f6g7h8", Some(Weakness::Sequence)),
            ("qwertyuiopasdfgh", Some(Weakness::Sequence)),
            ("1234567890123456", Some(Weakness::Sequence)),
            ("1q2w3e4r5t6y7u8i", Some(Weakness::Sequence)),
            ("Password12345678", Some(Weakness::Sequence)),
            ("secretkey12345678", Some(Weakness::Sequence)),
            ("Password83059172", None),
            ("Vantage123456789", None),
            // Hexadecimal digits that were given as text.
            ("00112233445566778899aabbccddeeff", Some(Weakness::Sequence)),
            ("000102030405060708090a0b0c0d0e0f", Some(Weakness::Sequence)),
            ("abcacbaabbcabacb", Some(Weakness::Few(3))),
            ("aaaaaaaaaaaaaaab", Some(Weakness::Few(2))),
            ("0213546879bacdfe", None),
            // What sets passphrases and numbers apart from patterns is their length.
            ("correct horse battery", None),
            ("8305917264408153", None),
        ] {
            assert_eq!(weakness(key.as_bytes()), expected, "{key}");
        }
        for (key, expected) in [
            ("hex:00112233445566778899aabbccddeeff", Weakness::Sequence),
            ("hex:0123456789abcdeffedcba9876543210", Weakness::Sequence),
            ("hex:12345678901234567890123456789012", Weakness::Repeated(5)),
            ("hex:ab0000ab00abab0000ababab00ab0000", Weakness::Few(2)),
            ("hex:12212112122212111211222112121221", Weakness::Few(4)),
        ] {
            assert_eq!(weakness(&from_argument(key).unwrap()), Some(expected), "{key}");
        }
        for made in ["hex", ""] {
            for _ in 0..100 {
                assert_eq!(weakness(&from_argument(made).unwrap()), None);
            }
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(10_000))]

        #[test]
        fn a_random_key_is_not_weak(key: [u8; PSK_MIN], longer: [u8; 32]) {
            proptest::prop_assert_eq!(weakness(&key), None);
            proptest::prop_assert_eq!(weakness(&longer), None);
            // Nor are its digits as text.
            let digits = crate::config::scalar::format_hex(&key);
            proptest::prop_assert_eq!(weakness(digits.as_bytes()), None);
        }
    }

    #[test]
    fn a_shell_takes_the_word_as_it_is_meant() {
        assert_eq!(shell_word("door-7"), "door-7");
        assert_eq!(shell_word("a b'c$"), r"'a b'\''c$'");
        assert_eq!(shell_word(""), "''");
    }
}
