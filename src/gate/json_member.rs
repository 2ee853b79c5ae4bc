//! Members of a JSON document (RFC 8259), by `serde_json`, which refuses more than 127 levels. What
//! is not looked for is passed over; but a text with escapes nothing is copied.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::lookup::{Lookup, Mask, Scalar, Sink};

/// Looks up members. `None`: the payload is not one JSON document.
pub(super) fn read(payload: &[u8], lookup: Lookup<'_>, sink: &mut impl Sink) -> Option<()> {
    let mut json = serde_json::Deserializer::from_slice(payload);
    Walk { lookup, sink, mask: lookup.all(), depth: 0 }.deserialize(&mut json).ok()?;
    json.end().ok()
}

/// A value below `depth` levels that the pointers in `mask` lead to.
struct Walk<'w, 'p, S> {
    lookup: Lookup<'p>,
    sink: &'w mut S,
    mask: Mask,
    depth: usize,
}

impl<S: Sink> Walk<'_, '_, S> {
    fn found(&mut self, scalar: Scalar<'_>) {
        let ending = self.lookup.ending(self.mask, self.depth);
        if ending != 0 {
            self.sink.take(ending, scalar);
        }
    }

    fn below(&mut self, mask: Mask) -> Walk<'_, '_, S> {
        Walk { lookup: self.lookup, sink: &mut *self.sink, mask, depth: self.depth + 1 }
    }
}

impl<'de, S: Sink> DeserializeSeed<'de> for Walk<'_, '_, S> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de, S: Sink> Visitor<'de> for Walk<'_, '_, S> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_i64<E: Error>(mut self, number: i64) -> Result<(), E> {
        self.found(Scalar::Integer(number.into()));
        Ok(())
    }

    fn visit_u64<E: Error>(mut self, number: u64) -> Result<(), E> {
        self.found(Scalar::Integer(number.into()));
        Ok(())
    }

    fn visit_f64<E: Error>(mut self, number: f64) -> Result<(), E> {
        self.found(Scalar::Float(number));
        Ok(())
    }

    fn visit_bool<E: Error>(mut self, flag: bool) -> Result<(), E> {
        self.found(Scalar::Flag(flag));
        Ok(())
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<(), E> {
        self.found(Scalar::Text(text));
        Ok(())
    }

    fn visit_unit<E: Error>(mut self) -> Result<(), E> {
        self.found(Scalar::Other);
        Ok(())
    }

    fn visit_map<M: MapAccess<'de>>(mut self, mut map: M) -> Result<(), M::Error> {
        self.found(Scalar::Other);
        let (lookup, mask, depth) = (self.lookup, self.mask, self.depth);
        while let Some(mask) = map.next_key_seed(Key { lookup, mask, depth })? {
            if mask != 0 {
                self.sink.forget(mask);
            }
            map.next_value_seed(self.below(mask))?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        self.found(Scalar::Other);
        for index in 0.. {
            let mask = self.lookup.in_element(self.mask, self.depth, index);
            if list.next_element_seed(self.below(mask))?.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// A key below `depth` levels: which of the pointers in `mask` go on there.
struct Key<'p> {
    lookup: Lookup<'p>,
    mask: Mask,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Mask;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Mask, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Mask;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Mask, E> {
        Ok(self.lookup.in_member(self.mask, self.depth, key))
    }
}
