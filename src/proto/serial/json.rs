//! JSON as a device sends it, read strictly before it goes on as `application/json`.
//!
//! Consumers disagree on what they do with a key that occurs twice, with NaN and with bytes behind
//! the value; so only what all of them read alike passes (RFC 8259, RFC 7493): UTF-8, one value, no
//! key twice in an object, numbers within the range of f64, no lone surrogates, at most
//! [`DEPTH_MAX`] levels.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// Most objects and arrays within one another.
pub const DEPTH_MAX: usize = 32;

/// Why bytes are not accepted as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotJson {
    /// They are not UTF-8.
    Utf8,
    /// They are not one JSON value.
    Syntax,
    /// An object has a key twice.
    DuplicateKey,
    /// It is deeper than [`DEPTH_MAX`].
    TooDeep,
}

/// Checks that `bytes` are one JSON value.
///
/// # Errors
/// [`NotJson`].
pub fn check(bytes: &[u8]) -> Result<(), NotJson> {
    let text = std::str::from_utf8(bytes).map_err(|_| NotJson::Utf8)?;
    let mut found = None;
    let mut parser = serde_json::Deserializer::from_str(text);
    Value { depth: 0, found: &mut found }
        .deserialize(&mut parser)
        .and_then(|()| parser.end())
        .map_err(|_| found.unwrap_or(NotJson::Syntax))
}

/// One value of which only the form matters.
struct Value<'f> {
    depth: usize,
    found: &'f mut Option<NotJson>,
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Value<'_> {
    fn deeper<E: serde::de::Error>(&mut self) -> Result<usize, E> {
        if self.depth >= DEPTH_MAX {
            *self.found = Some(NotJson::TooDeep);
            return Err(E::custom("too deep"));
        }
        Ok(self.depth + 1)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let depth = self.deeper()?;
        while items.next_element_seed(Value { depth, found: &mut *self.found })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        let depth = self.deeper()?;
        let mut keys: HashSet<String> = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            if !keys.insert(key) {
                *self.found = Some(NotJson::DuplicateKey);
                return Err(A::Error::custom("a key twice"));
            }
            entries.next_value_seed(Value { depth, found: &mut *self.found })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_what_every_consumer_reads_alike_is_json() {
        for good in [
            &b"{\"t\":23.5}"[..],
            b" [1, -2.5e3, \"\\u00b0C\", null, true, {\"a\":{\"a\":1}}] \r\n",
            b"\"text\"",
            b"0",
            b"18446744073709551616",
            "{\"Temperatur\":\"23 °C\"}".as_bytes(),
        ] {
            assert_eq!(check(good), Ok(()), "{}", String::from_utf8_lossy(good));
        }
        for (bad, why) in [
            (&b""[..], NotJson::Syntax),
            (b"{\"t\":NaN}", NotJson::Syntax),
            (b"{\"t\":Infinity}", NotJson::Syntax),
            (b"{\"t\":1e999}", NotJson::Syntax),
            (b"{\"t\":01}", NotJson::Syntax),
            (b"{\"t\":+1}", NotJson::Syntax),
            (b"{\"t\":1,}", NotJson::Syntax),
            (b"{'t':1}", NotJson::Syntax),
            (b"{\"t\":1}{\"t\":2}", NotJson::Syntax),
            (b"{\"t\":1} x", NotJson::Syntax),
            (b"{\"t\":1}\0", NotJson::Syntax),
            (b"{\"t\":\"\\ud800\"}", NotJson::Syntax),
            (b"{\"t\":\"a\tb\"}", NotJson::Syntax),
            (b"\xEF\xBB\xBF{\"t\":1}", NotJson::Syntax),
            (b"{\"t\":\"23 \xB0C\"}", NotJson::Utf8),
            (b"{\"t\":1,\"t\":2}", NotJson::DuplicateKey),
            (b"[{\"a\":1,\"\\u0061\":2}]", NotJson::DuplicateKey),
        ] {
            assert_eq!(check(bad), Err(why), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn depth_is_bounded_whatever_it_is_made_of() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(check(nested(DEPTH_MAX).as_bytes()), Ok(()));
        assert_eq!(check(nested(DEPTH_MAX + 1).as_bytes()), Err(NotJson::TooDeep));
        assert_eq!(check("[".repeat(16_000).as_bytes()), Err(NotJson::TooDeep));
        assert_eq!(check("{\"a\":".repeat(4_000).as_bytes()), Err(NotJson::TooDeep));
    }

    proptest! {
        #[test]
        fn what_passes_is_read_by_others_too(bytes in r#"[\[\]{}:,"a0-9.eE \\u-]{0,40}"#) {
            if check(bytes.as_bytes()).is_ok() {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&bytes).is_ok());
            }
        }
    }
}
