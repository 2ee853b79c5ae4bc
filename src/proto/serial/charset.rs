//! How the bytes of devices are characters.

use std::borrow::Cow;

use serde::Deserialize;

/// How the bytes of a text are characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
pub enum Charset {
    /// UTF-8, ASCII among it; what is none becomes U+FFFD.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    /// ISO 8859-1.
    #[serde(rename = "latin-1")]
    Latin1,
    /// Windows-1252: ISO 8859-1 with characters in 0x80 to 0x9F.
    #[serde(rename = "windows-1252")]
    Windows1252,
}

impl Charset {
    /// The text; what is no character becomes U+FFFD in UTF-8, and a control character in
    /// Windows-1252.
    pub fn decode(self, bytes: &[u8]) -> String {
        /// The characters of 0x80 to 0x9F (WHATWG Encoding §9, index windows-1252).
        const C1: &[char; 32] = &[
            '\u{20AC}', '\u{81}', '\u{201A}', '\u{192}', '\u{201E}', '\u{2026}', '\u{2020}', '\u{2021}',
            '\u{2C6}', '\u{2030}', '\u{160}', '\u{2039}', '\u{152}', '\u{8D}', '\u{17D}', '\u{8F}', '\u{90}',
            '\u{2018}', '\u{2019}', '\u{201C}', '\u{201D}', '\u{2022}', '\u{2013}', '\u{2014}', '\u{2DC}',
            '\u{2122}', '\u{161}', '\u{203A}', '\u{153}', '\u{9D}', '\u{17E}', '\u{178}',
        ];
        match self {
            Charset::Utf8 => String::from_utf8_lossy(bytes).into_owned(),
            Charset::Latin1 => bytes.iter().copied().map(char::from).collect(),
            Charset::Windows1252 => bytes
                .iter()
                .map(|byte| match byte {
                    0x80..=0x9F => C1[usize::from(byte - 0x80)],
                    byte => char::from(*byte),
                })
                .collect(),
        }
    }

    /// The text, if every byte of it is a character.
    ///
    /// # Errors
    /// [`NoText`].
    pub fn read(self, bytes: &[u8]) -> Result<Cow<'_, str>, NoText> {
        match self {
            Charset::Utf8 => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| NoText::Utf8),
            Charset::Latin1 => Ok(self.decode(bytes).into()),
            Charset::Windows1252 if bytes.iter().any(|byte| UNDEFINED.contains(byte)) => {
                Err(NoText::Windows1252)
            }
            Charset::Windows1252 => Ok(self.decode(bytes).into()),
        }
    }
}

/// Bytes that Windows-1252 has no character for.
const UNDEFINED: [u8; 5] = [0x81, 0x8D, 0x8F, 0x90, 0x9D];

/// Bytes are no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoText {
    /// They are not UTF-8.
    Utf8,
    /// One of them is 81, 8D, 8F, 90 or 9D, which Windows-1252 does not define.
    Windows1252,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_that_windows_1252_does_not_define_is_no_text_and_all_others_are() {
        for byte in 0..=255_u8 {
            let read = Charset::Windows1252.read(std::slice::from_ref(&byte)).map(Cow::into_owned);
            match UNDEFINED.contains(&byte) {
                true => assert_eq!(read, Err(NoText::Windows1252)),
                false => assert_eq!(read.map(|text| text.chars().count()), Ok(1)),
            }
        }
        assert_eq!(Charset::Windows1252.read(b"21 \xB0C \x80").unwrap(), "21 °C €");
        assert_eq!(Charset::Latin1.read(b"21 \xB0C").unwrap(), "21 °C");
        assert_eq!(Charset::Utf8.read(b"21 \xB0C"), Err(NoText::Utf8));
    }
}
