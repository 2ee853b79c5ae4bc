//! A member of a CBOR document (RFC 8949): the text or the integer at some levels of maps and
//! arrays. Everything else is passed over; nothing is allocated but what is found.
//!
//! Each item takes a byte at least, so the work is at most that of reading the payload once; more
//! than [`DEPTH_MAX`] levels are no document here.

/// Most levels of a document.
const DEPTH_MAX: u32 = 16;

/// Major types (RFC 8949 §3.1).
const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const SIMPLE: u8 = 7;
/// The additional information of an indefinite length (§3.2.1).
const INDEFINITE: u8 = 31;

/// The text or the integer at these levels, as text: keys of maps, and indices of arrays. Of two
/// members with one key the last counts. `None` if the payload is not one CBOR item, or has neither
/// there.
pub(super) fn text(payload: &[u8], levels: &[Box<str>]) -> Option<String> {
    let mut items = Items(payload);
    let found = items.find(levels, 0)?;
    items.0.is_empty().then_some(found)?
}

/// The head of an item.
#[derive(Clone, Copy)]
struct Head {
    major: u8,
    /// `None`: of indefinite length, or the end of one.
    value: Option<u64>,
}

impl Head {
    fn is_break(self) -> bool {
        self.major == SIMPLE && self.value.is_none()
    }
}

/// What is left to read.
struct Items<'a>(&'a [u8]);

impl<'a> Items<'a> {
    fn head(&mut self) -> Option<Head> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        let (major, info) = (first >> 5, first & 0x1f);
        let value = match info {
            0..=23 => Some(u64::from(info)),
            24..=27 => {
                let (bytes, rest) = self.0.split_at_checked(1 << (info - 24))?;
                self.0 = rest;
                Some(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
            }
            INDEFINITE if matches!(major, BYTES | TEXT | ARRAY | MAP | SIMPLE) => None,
            _ => return None,
        };
        Some(Head { major, value })
    }

    fn bytes(&mut self, length: u64) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Reads one item. `Some(None)`: there is nothing at these levels of it.
    fn find(&mut self, levels: &[Box<str>], depth: u32) -> Option<Option<String>> {
        let head = self.head()?;
        if head.is_break() {
            return None;
        }
        self.find_in(head, Some(levels), depth)
    }

    /// The same behind the head. Without `levels` the item is passed over.
    fn find_in(&mut self, head: Head, levels: Option<&[Box<str>]>, depth: u32) -> Option<Option<String>> {
        if depth > DEPTH_MAX {
            return None;
        }
        let is_it = levels.is_some_and(<[_]>::is_empty);
        match (head.major, head.value) {
            (UNSIGNED, Some(value)) => Some(is_it.then(|| value.to_string())),
            (NEGATIVE, Some(value)) => Some(is_it.then(|| (-1 - i128::from(value)).to_string())),
            (TEXT, Some(length)) => {
                let text = std::str::from_utf8(self.bytes(length)?).ok()?;
                Some(is_it.then(|| text.to_owned()))
            }
            (BYTES, Some(length)) => self.bytes(length).map(|_| None),
            // In pieces: they are passed over.
            (BYTES | TEXT, None) => loop {
                let piece = self.head()?;
                match piece.value {
                    _ if piece.is_break() => return Some(None),
                    Some(length) if piece.major == head.major => drop(self.bytes(length)?),
                    _ => return None,
                }
            },
            (ARRAY | MAP, count) => self.find_member(head.major == MAP, count, levels, depth + 1),
            (TAG, Some(_)) => {
                let tagged = self.head()?;
                if tagged.is_break() {
                    return None;
                }
                self.find_in(tagged, levels, depth + 1)
            }
            // Simple values and floating-point numbers.
            (SIMPLE, Some(_)) => Some(None),
            _ => None,
        }
    }

    fn find_member(
        &mut self,
        is_map: bool,
        count: Option<u64>,
        levels: Option<&[Box<str>]>,
        depth: u32,
    ) -> Option<Option<String>> {
        let (first, rest) = match levels.and_then(<[_]>::split_first) {
            Some((first, rest)) => (Some(&**first), rest),
            None => (None, &[][..]),
        };
        let (mut found, mut index) = (None, 0);
        while count.is_none_or(|count| index < count) {
            let head = self.head()?;
            if head.is_break() {
                return count.is_none().then_some(found);
            }
            let (is_it, head) = match is_map {
                true => (self.key(head, depth)?.is_some_and(|key| Some(key) == first), self.head()?),
                false => (first.is_some_and(|first| index.to_string() == first), head),
            };
            if head.is_break() {
                return None;
            }
            let value = self.find_in(head, is_it.then_some(rest), depth)?;
            if is_it {
                found = value;
            }
            index += 1;
        }
        Some(found)
    }

    /// Reads the key of a map behind its head; `Some(None)`: it is no text.
    fn key(&mut self, head: Head, depth: u32) -> Option<Option<&'a str>> {
        match (head.major, head.value) {
            (TEXT, Some(length)) => std::str::from_utf8(self.bytes(length)?).ok().map(Some),
            _ => self.find_in(head, None, depth).map(|_| None),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(payload: &[u8], levels: &[&str]) -> Option<String> {
        let levels: Vec<Box<str>> = levels.iter().map(|level| (*level).into()).collect();
        text(payload, &levels)
    }

    #[test]
    fn a_member_is_found_below_maps_arrays_and_tags_and_in_items_of_indefinite_length() {
        // {"n": 1, "fw": {"version": "1.4.0", "build": 300}}
        let map = b"\xa2\x61n\x01\x62fw\xa2\x67version\x651.4.0\x65build\x19\x01\x2c";
        assert_eq!(at(map, &["fw", "version"]).as_deref(), Some("1.4.0"));
        assert_eq!(at(map, &["fw", "build"]).as_deref(), Some("300"));
        assert_eq!(at(map, &["fw", "none"]), None);
        assert_eq!(at(map, &["fw"]), None, "a map is no text");
        assert_eq!(at(map, &["version"]), None, "another level");
        // {_ "a": h'00', 5: [1.5, "x", 23(-2)], "a": (_ "b", "c"), "b": null}
        let indefinite =
            b"\xbf\x61a\x41\x00\x05\x83\xf9\x3e\x00\x61x\xd7\x21\x61a\x7f\x61b\x61c\xff\x61b\xf6\xff";
        assert_eq!(at(indefinite, &["b"]), None);
        let array = b"\x82\x61x\x83\xf9\x3e\x00\x61y\xd7\x21";
        assert_eq!(at(array, &["0"]).as_deref(), Some("x"));
        assert_eq!(at(array, &["1", "1"]).as_deref(), Some("y"));
        assert_eq!(at(array, &["1", "2"]).as_deref(), Some("-2"));
        assert_eq!(at(array, &["1", "0"]), None, "a floating-point number");
        let twice = b"\xa2\x61v\x611\x61v\x612";
        assert_eq!(at(twice, &["v"]).as_deref(), Some("2"), "the last counts");
    }

    #[test]
    fn what_is_no_cbor_is_cut_short_or_too_deep_has_nothing() {
        let map = b"\xa1\x61v\x651.4.0";
        assert!(at(map, &["v"]).is_some());
        for end in 0..map.len() {
            assert_eq!(at(&map[..end], &["v"]), None, "{end}");
        }
        for bad in
            [&b"\xa1\x61v\x651.4.0\x00"[..], b"{\"v\":\"1\"}", b"\xff", b"\xa1\x61v\xff", b"\x1c", b"\x1f"]
        {
            assert_eq!(at(bad, &["v"]), None, "{bad:x?}");
        }
        // An array of 2^64-1 items, and 1,000 levels.
        assert_eq!(at(b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff\x00", &["0"]), None);
        assert_eq!(at(&[[0x81; 1_000].as_slice(), b"\x00"].concat(), &["0"]), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = at(&payload, &["a", "0"]);
        }
    }
}
