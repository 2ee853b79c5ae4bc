//! Members of a CBOR document (RFC 8949). What is not looked for is passed over; nothing is
//! allocated.
//!
//! Each item takes a byte at least, so the work is at most that of reading the payload once; more
//! than [`DEPTH_MAX`] levels are no document here.

use super::lookup::{Lookup, Mask, Scalar, Sink};

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
/// Simple values (§3.3).
const FALSE: u64 = 20;
const TRUE: u64 = 21;
/// The additional information of a simple value in a byte of its own, which is 32 or more, and of
/// floating-point numbers of 16, 32 and 64 bits (§3.3).
const SIMPLE_BYTE: u8 = 24;
const HALF: u8 = 25;
const SINGLE: u8 = 26;
const DOUBLE: u8 = 27;

/// Looks up members: keys of maps that are texts, and indices of arrays. `None`: the payload is not
/// one CBOR item.
pub(super) fn read(payload: &[u8], lookup: Lookup<'_>, sink: &mut impl Sink) -> Option<()> {
    let mut items = Items { rest: payload, lookup, sink };
    let head = items.head()?;
    items.item(head, Place { mask: lookup.all(), depth: 0 }, 0)?;
    items.rest.is_empty().then_some(())
}

/// The head of an item.
#[derive(Clone, Copy)]
struct Head {
    major: u8,
    info: u8,
    /// `None`: of indefinite length, or the end of one.
    value: Option<u64>,
}

impl Head {
    fn is_break(self) -> bool {
        self.major == SIMPLE && self.value.is_none()
    }

    /// The scalar of major type 7.
    fn simple(self, value: u64) -> Option<Scalar<'static>> {
        Some(match self.info {
            HALF => Scalar::Float(half(value as u16)),
            SINGLE => Scalar::Float(f32::from_bits(value as u32).into()),
            DOUBLE => Scalar::Float(f64::from_bits(value)),
            SIMPLE_BYTE if value < 32 => return None,
            _ if value == FALSE => Scalar::Flag(false),
            _ if value == TRUE => Scalar::Flag(true),
            _ => Scalar::Other,
        })
    }
}

/// A floating-point number of 16 bits (RFC 8949 appendix D).
fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => fraction * 2_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (fraction + 1024.0) * 2_f64.powi(exponent - 25),
    };
    if bits & 0x8000 == 0 { magnitude } else { -magnitude }
}

/// Which pointers lead to an item, below how many levels of them.
#[derive(Clone, Copy)]
struct Place {
    mask: Mask,
    depth: usize,
}

/// What is left to read.
struct Items<'d, 's, 'p, S> {
    rest: &'d [u8],
    lookup: Lookup<'p>,
    sink: &'s mut S,
}

impl<'d, S: Sink> Items<'d, '_, '_, S> {
    fn head(&mut self) -> Option<Head> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        let (major, info) = (first >> 5, first & 0x1f);
        let value = match info {
            0..=23 => Some(u64::from(info)),
            24..=27 => {
                let (bytes, rest) = self.rest.split_at_checked(1 << (info - 24))?;
                self.rest = rest;
                Some(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
            }
            INDEFINITE if matches!(major, BYTES | TEXT | ARRAY | MAP | SIMPLE) => None,
            _ => return None,
        };
        Some(Head { major, info, value })
    }

    fn bytes(&mut self, length: u64) -> Option<&'d [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(usize::try_from(length).ok()?)?;
        self.rest = rest;
        Some(bytes)
    }

    fn text(&mut self, length: u64) -> Option<&'d str> {
        std::str::from_utf8(self.bytes(length)?).ok()
    }

    fn found(&mut self, place: Place, scalar: Scalar<'_>) {
        let ending = self.lookup.ending(place.mask, place.depth);
        if ending != 0 {
            self.sink.take(ending, scalar);
        }
    }

    /// Reads one item behind its head, which lies below `nesting` others.
    fn item(&mut self, head: Head, place: Place, nesting: u32) -> Option<()> {
        if nesting > DEPTH_MAX || head.is_break() {
            return None;
        }
        match (head.major, head.value) {
            (UNSIGNED, Some(value)) => self.found(place, Scalar::Integer(value.into())),
            (NEGATIVE, Some(value)) => self.found(place, Scalar::Integer(-1 - i128::from(value))),
            (TEXT, Some(length)) => {
                let text = self.text(length)?;
                self.found(place, Scalar::Text(text));
            }
            (BYTES, Some(length)) => {
                self.bytes(length)?;
                self.found(place, Scalar::Other);
            }
            (BYTES | TEXT, None) => {
                self.pieces(head.major)?;
                self.found(place, Scalar::Other);
            }
            (ARRAY | MAP, count) => {
                self.found(place, Scalar::Other);
                self.members(head.major == MAP, count, place, nesting + 1)?;
            }
            (TAG, Some(_)) => {
                let tagged = self.head()?;
                self.item(tagged, place, nesting + 1)?;
            }
            (SIMPLE, Some(value)) => self.found(place, head.simple(value)?),
            _ => return None,
        }
        Some(())
    }

    /// A string in pieces (§3.2.3) is passed over.
    fn pieces(&mut self, major: u8) -> Option<()> {
        loop {
            let piece = self.head()?;
            match piece.value {
                _ if piece.is_break() => return Some(()),
                Some(length) if piece.major == major => drop(self.bytes(length)?),
                _ => return None,
            }
        }
    }

    fn members(&mut self, is_map: bool, count: Option<u64>, place: Place, nesting: u32) -> Option<()> {
        let mut index = 0;
        while count.is_none_or(|count| index < count) {
            let head = self.head()?;
            if head.is_break() {
                return count.is_none().then_some(());
            }
            let (mask, head) = if is_map {
                let mask = self.key(head, place, nesting)?;
                (mask, self.head()?)
            } else {
                (self.lookup.in_element(place.mask, place.depth, index), head)
            };
            if is_map && mask != 0 {
                self.sink.forget(mask);
            }
            self.item(head, Place { mask, depth: place.depth + 1 }, nesting)?;
            index += 1;
        }
        Some(())
    }

    /// Reads the key of a map behind its head: which pointers go on there.
    fn key(&mut self, head: Head, place: Place, nesting: u32) -> Option<Mask> {
        match (head.major, head.value) {
            (TEXT, Some(length)) => {
                let key = self.text(length)?;
                Some(self.lookup.in_member(place.mask, place.depth, key))
            }
            _ => self.item(head, Place { mask: 0, depth: 0 }, nesting).map(|()| 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::gate::field::FieldPointer;

    fn at(payload: &[u8], levels: &[&str]) -> Option<String> {
        FieldPointer::parse(&format!("/{}", levels.join("/"))).expect("a pointer").text_of_cbor(payload)
    }

    #[test]
    fn numbers_of_every_width_are_read_and_what_is_not_well_formed_is_no_document() {
        let number =
            |payload: &[u8]| FieldPointer::whole().number(payload, Some(crate::message::ContentFormat::CBOR));
        // RFC 8949 appendix A.
        for (payload, expected) in [
            (&b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff"[..], Some(18_446_744_073_709_551_615.0)),
            (b"\x3b\xff\xff\xff\xff\xff\xff\xff\xff", Some(-18_446_744_073_709_551_616.0)),
            (b"\xf9\x80\x00", Some(-0.0)),
            (b"\xf9\x7b\xff", Some(65_504.0)),
            (b"\xf9\x00\x01", Some(5.960_464_477_539_063e-8)),
            (b"\xf9\x04\x00", Some(0.000_061_035_156_25)),
            (b"\xf9\xc4\x00", Some(-4.0)),
            (b"\xfa\x47\xc3\x50\x00", Some(100_000.0)),
            (b"\xfb\x3f\xf1\x99\x99\x99\x99\x99\x9a", Some(1.1)),
            (b"\xc1\xfb\x41\xd4\x52\xd9\xec\x20\x00\x00", Some(1_363_896_240.5)),
            (b"\xf9\x7e\x00", None),
            (b"\xf9\x7c\x00", None),
            (b"\xf5", None),
            (b"\xf9\x4d", None),
        ] {
            assert_eq!(number(payload), expected, "{payload:x?}");
        }
        // A simple value below 32 in two bytes (§3.3).
        assert_eq!(at(b"\xa2\x61v\x01\x61w\xf8\x20", &["v"]).as_deref(), Some("1"));
        assert_eq!(at(b"\xa2\x61v\x01\x61w\xf8\x14", &["v"]), None);
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
