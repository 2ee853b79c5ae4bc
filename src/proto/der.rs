//! Reads DER (X.690) as certificates, revocation lists and names hold it (RFC 5280 §4.1, §5.1).
//!
//! It borrows and never allocates, and a length reads no more than the bytes there are: what an
//! unproven peer sends is looked at by this reader before anything is verified. What is accepted is
//! parsed again, strictly, by rustls-webpki.
//!
//! Own code rather than the crates `der` and `x509-cert`: `x509-cert` allocates for every attribute
//! of a name and every extension, which here the peer chooses; both refuse times before 1970, which
//! here count as 1970; and they are in the binary only where the engine `dimpl` is.

use crate::clock::UnixTime;

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const PRINTABLE_STRING: u8 = 0x13;
pub(crate) const IA5_STRING: u8 = 0x16;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
/// Of a certificate: `version`, `extensions`.
pub(crate) const CONTEXT_0: u8 = 0xa0;
pub(crate) const CONTEXT_3: u8 = 0xa3;

/// The content of the first element, which must have this tag, and the bytes after it.
pub(crate) fn expect(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut der = Der(bytes);
    let content = der.expect(tag)?;
    Some((content, der.0))
}

/// One element with this tag and content.
pub(crate) fn encode(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 6);
    out.push(tag);
    match content.len() {
        short @ 0..=0x7f => out.push(short as u8),
        long => {
            let bytes = long.to_be_bytes();
            let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            out.push(0x80 | bytes.len() as u8);
            out.extend_from_slice(bytes);
        }
    }
    out.extend_from_slice(content);
    out
}

/// Takes elements from the front of bytes; after a `None` what is left is not defined.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Der<'b>(pub(crate) &'b [u8]);

impl<'b> Der<'b> {
    /// The next element: its tag and its content. Definite lengths of up to four bytes.
    pub(crate) fn element(&mut self) -> Option<(u8, &'b [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next element, which must have this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Option<&'b [u8]> {
        self.element().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// The content of the next element if it has this tag; otherwise nothing is taken.
    pub(crate) fn optional(&mut self, tag: u8) -> Option<&'b [u8]> {
        let mut ahead = *self;
        let content = ahead.expect(tag)?;
        *self = ahead;
        Some(content)
    }

    /// `Some` if nothing is left.
    pub(crate) fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }

    /// The next element, a `Time` (RFC 5280 §4.1.2.5): in UTC, to the second. A time before 1970
    /// counts as 1970.
    pub(crate) fn time(&mut self) -> Option<UnixTime> {
        let (tag, text) = self.element()?;
        let digits = text.strip_suffix(b"Z")?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let number = |at: usize, length: usize| -> Option<u64> {
            let part = digits.get(at..at + length)?;
            Some(part.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
        };
        let (year, rest) = match (tag, digits.len()) {
            (UTC_TIME, 12) => {
                let year = number(0, 2)?;
                (year + if year < 50 { 2000 } else { 1900 }, 2)
            }
            (GENERALIZED_TIME, 14) => (number(0, 4)?, 4),
            _ => return None,
        };
        let part = |at: usize| number(rest + 2 * at, 2);
        let (month, day) = (part(0)?, part(1)?);
        let (hour, minute, second) = (part(2)?, part(3)?, part(4)?);
        if year < 1970
            || !(1..=12).contains(&month)
            || !(1..=31).contains(&day)
            || hour > 23
            || minute > 59
            || second > 59
        {
            return (year < 1970).then_some(UnixTime(0));
        }
        // Days since 1970-01-01 in the Gregorian calendar, the year beginning in March.
        let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
        Some(UnixTime::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(tag: u8, text: &str) -> Option<u64> {
        let bytes = [&[tag, text.len() as u8], text.as_bytes()].concat();
        Der(&bytes).time().map(UnixTime::as_secs)
    }

    #[test]
    fn times_are_read_in_both_forms() {
        assert_eq!(time(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(time(UTC_TIME, "000229235959Z"), Some(951_868_799));
        assert_eq!(time(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(time(UTC_TIME, "500101000000Z"), Some(0), "1950");
        assert_eq!(time(GENERALIZED_TIME, "20500101000000Z"), Some(2_524_608_000));
        assert_eq!(time(GENERALIZED_TIME, "99991231235959Z"), Some(253_402_300_799));
        for text in ["700101000000", "7001010000Z", "701301000000Z", "700100000000Z", "70010100000aZ", ""] {
            assert_eq!(time(UTC_TIME, text), None, "{text}");
        }
        assert_eq!(time(GENERALIZED_TIME, "700101000000Z"), None);
    }

    #[test]
    fn days_are_counted_across_leap_years() {
        let days = |text| time(GENERALIZED_TIME, text).map(|seconds| seconds / 86_400);
        assert_eq!(days("19700101000000Z"), Some(0));
        assert_eq!(days("20000301000000Z"), Some(11_017));
        assert_eq!(days("20360207000000Z"), Some(24_143));
        assert_eq!(days("19691231000000Z"), Some(0));
    }

    #[test]
    fn lengths_have_up_to_four_bytes_and_never_reach_past_the_end() {
        let element = |bytes: &[u8]| Der(bytes).element().map(|(tag, content)| (tag, content.len()));
        assert_eq!(element(&[SET, 0]), Some((SET, 0)));
        assert_eq!(element(&[SET, 0x82, 0, 1, 7]), Some((SET, 1)));
        assert_eq!(element(&[SET, 0x84, 0, 0, 0, 2, 7, 7]), Some((SET, 2)));
        let refused: [&[u8]; 7] = [
            &[],
            &[SET],
            &[SET, 1],
            &[SET, 0x80],
            &[SET, 0x81],
            &[SET, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[SET, 0x85, 0, 0, 0, 0, 0],
        ];
        for bytes in refused {
            assert_eq!(element(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn an_optional_element_of_another_tag_stays() {
        let mut der = Der(&[SET, 1, 7, INTEGER, 0]);
        assert_eq!((der.optional(INTEGER), der.optional(SET)), (None, Some(&[7][..])));
        assert_eq!((der.expect(INTEGER), der.end()), (Some(&[][..]), Some(())));
    }
}
