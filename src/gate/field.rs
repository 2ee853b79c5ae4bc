//! The number that a payload has: as its text, or as a member of a JSON document.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::cbor_member;

/// Most levels of a [`FieldPointer`].
pub const LEVELS_MAX: usize = 8;

/// Where a number stands in a JSON document: a JSON Pointer (RFC 6901), such as `/env/temperature`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct FieldPointer {
    text: Box<str>,
    /// Without escapes.
    levels: Box<[Box<str>]>,
}

impl FieldPointer {
    /// Parses a pointer of 1 to [`LEVELS_MAX`] levels.
    ///
    /// # Errors
    /// [`FieldPointerError`], the first rule broken.
    pub fn parse(text: &str) -> Result<FieldPointer, FieldPointerError> {
        let levels = text.strip_prefix('/').ok_or(FieldPointerError::Start)?;
        // RFC 6901 §3: `~0` is `~`, `~1` is `/`, and no other `~` is allowed.
        let plain = |level: &str| {
            let unescaped = level.replace("~1", "/").replace("~0", "~");
            let escapes = level.matches("~0").count() + level.matches("~1").count();
            (level.matches('~').count() == escapes).then(|| unescaped.into_boxed_str())
        };
        let levels: Option<Box<[_]>> = levels.split('/').map(plain).collect();
        let levels = levels.ok_or(FieldPointerError::Escape)?;
        if levels.len() > LEVELS_MAX {
            return Err(FieldPointerError::TooManyLevels);
        }
        Ok(FieldPointer { text: text.into(), levels })
    }

    /// The text it was parsed from.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The text or the number there, as text; `None` if the payload is not JSON, or has neither
    /// there.
    pub fn text(&self, payload: &[u8]) -> Option<String> {
        let json: serde_json::Value = serde_json::from_slice(payload).ok()?;
        match json.pointer(&self.text)? {
            serde_json::Value::String(text) => Some(text.clone()),
            serde_json::Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// The same of a CBOR document: the text or the integer there.
    pub fn text_of_cbor(&self, payload: &[u8]) -> Option<String> {
        cbor_member::text(payload, &self.levels)
    }

    /// The number there; `None` if the payload is not JSON, or has no number there. Of two members
    /// with one name the last counts.
    pub(super) fn number(&self, payload: &[u8]) -> Option<f64> {
        let mut json = serde_json::Deserializer::from_slice(payload);
        let number = Member(&self.levels).deserialize(&mut json).ok()?;
        json.end().ok()?;
        number
    }
}

impl fmt::Debug for FieldPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.text)
    }
}

/// The number that is the whole payload, as text: `21.5`. `None` if it is none.
pub(super) fn number(payload: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(payload.trim_ascii()).ok()?;
    // `inf` and `nan` parse, too.
    text.parse::<f64>().ok().filter(|number| number.is_finite())
}

/// The number at these levels below a value. Everything else is skipped, which costs an allocation
/// only if it is nested, and no more than one.
struct Member<'p>(&'p [Box<str>]);

impl<'de> DeserializeSeed<'de> for Member<'_> {
    type Value = Option<f64>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Option<f64>, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<f64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Option<f64>, E> {
        Ok(self.0.is_empty().then_some(number as f64))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Option<f64>, E> {
        Ok(self.0.is_empty().then_some(number as f64))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Option<f64>, E> {
        Ok(self.0.is_empty().then_some(number))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Option<f64>, E> {
        Ok(None)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Option<f64>, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Option<f64>, E> {
        Ok(None)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Option<f64>, M::Error> {
        let mut found = None;
        let (first, rest) = match self.0.split_first() {
            Some((first, rest)) => (Some(&**first), rest),
            None => (None, &[][..]),
        };
        while let Some(is_it) = map.next_key_seed(Is(first))? {
            if is_it {
                found = map.next_value_seed(Member(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Option<f64>, S::Error> {
        let wanted =
            self.0.split_first().and_then(|(first, rest)| Some((first.parse::<usize>().ok()?, rest)));
        let (mut found, mut at) = (None, 0);
        loop {
            match wanted {
                Some((index, rest)) if index == at => match list.next_element_seed(Member(rest))? {
                    Some(number) => found = number,
                    None => return Ok(found),
                },
                _ => {
                    if list.next_element::<IgnoredAny>()?.is_none() {
                        return Ok(found);
                    }
                }
            }
            at += 1;
        }
    }
}

/// Whether a key is this one.
struct Is<'p>(Option<&'p str>);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        Ok(self.0 == Some(key))
    }
}

/// Why a text is not a [`FieldPointer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldPointerError {
    /// It does not begin with `/`.
    Start,
    /// A `~` that is neither `~0` nor `~1`.
    Escape,
    /// More than [`LEVELS_MAX`] levels.
    TooManyLevels,
}

impl fmt::Display for FieldPointerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FieldPointerError::Start => f.write_str("a JSON pointer begins with '/', as in /env/temperature"),
            FieldPointerError::Escape => {
                f.write_str("in a JSON pointer '~' is written ~0, and '/' in a name ~1")
            }
            FieldPointerError::TooManyLevels => {
                write!(f, "a JSON pointer here has at most {LEVELS_MAX} levels")
            }
        }
    }
}

impl std::error::Error for FieldPointerError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_payload_is_a_number_as_text_or_none() {
        for (payload, expected) in [
            (&b"21.5"[..], Some(21.5)),
            (b" -3e2\n", Some(-300.0)),
            (b"0", Some(0.0)),
            (b"", None),
            (b"nan", None),
            (b"inf", None),
            (b"1e999", None),
            (b"21.5 C", None),
            (b"{\"t\":1}", None),
            (b"\xff", None),
        ] {
            assert_eq!(number(payload), expected, "{payload:?}");
        }
    }

    #[test]
    fn a_member_of_a_document_is_found_and_nothing_else_is_a_number() {
        let at = |pointer: &str, json: &str| {
            FieldPointer::parse(pointer).expect("a pointer").number(json.as_bytes())
        };
        let json =
            r#"{"a":"x","env":{"t":21.5,"l":[1,{"v":-2}],"u":18446744073709551615},"a/b":3,"m~n":4,"":5}"#;
        for (pointer, expected) in [
            ("/env/t", Some(21.5)),
            ("/env/l/0", Some(1.0)),
            ("/env/l/1/v", Some(-2.0)),
            ("/env/l/2", None),
            ("/env/l/x", None),
            ("/a", None),
            ("/a/b", None),
            ("/a~1b", Some(3.0)),
            ("/m~0n", Some(4.0)),
            ("/", Some(5.0)),
            ("/env", None),
            ("/nothing", None),
            ("/env/u", Some(18_446_744_073_709_551_615.0)),
        ] {
            assert_eq!(at(pointer, json), expected, "{pointer}");
        }
        for broken in ["", "{", r#"{"t":1"#, r#"{"t":1} x"#, r#"{"t":1e999}"#, "21.5", "null", "\"t\""] {
            assert_eq!(at("/t", broken), None, "{broken}");
        }
        assert_eq!(at("/t", r#"{"t":1,"t":2}"#), Some(2.0), "the last of two");
        assert_eq!(at("/t", r#"{"t":956326.2684060029}"#), Some(956_326.268_406_002_9), "to the last digit");
        assert_eq!(at("/t", &format!("{{\"t\":{}1{}}}", "[".repeat(1_000), "]".repeat(1_000))), None);
    }

    #[test]
    fn a_malformed_pointer_is_refused() {
        for (text, error) in [
            ("", FieldPointerError::Start),
            ("t", FieldPointerError::Start),
            ("/a~", FieldPointerError::Escape),
            ("/a~2", FieldPointerError::Escape),
            ("/1/2/3/4/5/6/7/8/9", FieldPointerError::TooManyLevels),
        ] {
            assert_eq!(FieldPointer::parse(text), Err(error), "{text}");
        }
    }

    /// Some JSON with few names, so that pointers meet it.
    fn document() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            (-1e6..1e6).prop_map(serde_json::Value::from),
            any::<bool>().prop_map(serde_json::Value::from),
            "[a-c~/0-9]{0,3}".prop_map(serde_json::Value::from),
            Just(serde_json::Value::Null),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
                prop::collection::btree_map("[a-c~/0-2]{0,2}", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_finds_what_serde_json_finds(
            document in document(),
            levels in prop::collection::vec("[a-c~/0-2]{0,2}", 1..5),
        ) {
            let escaped = levels.iter().map(|level| level.replace('~', "~0").replace('/', "~1"));
            let pointer = format!("/{}", escaped.collect::<Vec<_>>().join("/"));
            let expected = document.pointer(&pointer).and_then(serde_json::Value::as_f64);
            // serde_json takes `01` for no index, and so does a member's name.
            prop_assume!(!levels.iter().any(|level| level.len() > 1 && level.starts_with('0')));
            let found = FieldPointer::parse(&pointer).expect("a pointer").number(document.to_string().as_bytes());
            prop_assert_eq!(found, expected, "{} in {}", pointer, document);
        }
    }
}
