//! The values of a payload: as its text, or as members of a JSON or CBOR document.

use super::lookup::{Lookup, Mask, Scalar, Sink};
pub use super::pointer::{FieldPointer, FieldPointerError, LEVELS_MAX};
use super::{cbor_member, json_member};
use crate::message::ContentFormat;

/// Reads a document, in CBOR if the content format says so and else in JSON. `None`: it is no such
/// document, and what the sink was told of it is void.
pub(super) fn read(
    lookup: Lookup<'_>,
    payload: &[u8],
    format: Option<ContentFormat>,
    sink: &mut impl Sink,
) -> Option<()> {
    match format {
        Some(format) if format.is_cbor() => cbor_member::read(payload, lookup, sink),
        _ => json_member::read(payload, lookup, sink),
    }
}

impl FieldPointer {
    /// The text or the number there, as text; `None` if the payload is not JSON, or has neither
    /// there.
    pub fn text(&self, payload: &[u8]) -> Option<String> {
        let json: serde_json::Value = serde_json::from_slice(payload).ok()?;
        match json.pointer(self.as_str())? {
            serde_json::Value::String(text) => Some(text.clone()),
            serde_json::Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// The same of a CBOR document: the text or the integer there.
    pub fn text_of_cbor(&self, payload: &[u8]) -> Option<String> {
        let mut text = Text(None);
        cbor_member::read(payload, Lookup::one(self), &mut text)?;
        text.0
    }

    /// The number there, in CBOR if the content format says so and else in JSON; `None` if the
    /// payload is no such document, or has no number there. Of two members with one name the last
    /// counts.
    pub(super) fn number(&self, payload: &[u8], format: Option<ContentFormat>) -> Option<f64> {
        let mut number = Number(None);
        read(Lookup::one(self), payload, format, &mut number)?;
        number.0
    }
}

/// The number that is the whole payload: as text, `21.5`, or in CBOR if the content format says so.
/// `None` if it is none.
pub(super) fn number(payload: &[u8], format: Option<ContentFormat>) -> Option<f64> {
    match format {
        Some(format) if format.is_cbor() => FieldPointer::whole().number(payload, Some(format)),
        _ => number_of_text(std::str::from_utf8(payload.trim_ascii()).ok()?),
    }
}

/// The number that a text is. `inf` and `nan` are none.
pub(super) fn number_of_text(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|number| number.is_finite())
}

/// Keeps a number.
struct Number(Option<f64>);

impl Sink for Number {
    fn forget(&mut self, _: Mask) {
        self.0 = None;
    }

    fn take(&mut self, _: Mask, found: Scalar<'_>) {
        self.0 = found.number();
    }
}

/// Keeps a text, or an integer as text.
struct Text(Option<String>);

impl Sink for Text {
    fn forget(&mut self, _: Mask) {
        self.0 = None;
    }

    fn take(&mut self, _: Mask, found: Scalar<'_>) {
        self.0 = match found {
            Scalar::Text(text) => Some(text.to_owned()),
            Scalar::Integer(number) => Some(number.to_string()),
            _ => None,
        };
    }
}

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
            assert_eq!(number(payload, None), expected, "{payload:?}");
            assert_eq!(number(payload, Some(ContentFormat::JSON)), expected, "{payload:?}");
        }
    }

    #[test]
    fn a_number_in_cbor_is_the_item_or_a_member_of_it() {
        let cbor = Some(ContentFormat::CBOR);
        // 21.5 as a half, 30, -1.5 as a double, infinity; the text "21.5" in CBOR, and as it is.
        for (payload, expected) in [
            (&b"\xf9\x4d\x60"[..], Some(21.5)),
            (b"\x18\x1e", Some(30.0)),
            (b"\xfb\xbf\xf8\0\0\0\0\0\0", Some(-1.5)),
            (b"\xf9\x7c\x00", None),
            (b"\x6421.5", None),
            (b"21.5", None),
        ] {
            assert_eq!(number(payload, cbor), expected, "{payload:x?}");
        }
        // {"env": {"t": 21.5}}, also as SenML's CBOR, and what is not declared as CBOR.
        let (map, at) =
            (b"\xa1\x63env\xa1\x61t\xf9\x4d\x60", FieldPointer::parse("/env/t").expect("a pointer"));
        assert_eq!(at.number(map, cbor), Some(21.5));
        assert_eq!(at.number(map, Some(ContentFormat::SENML_CBOR)), Some(21.5));
        assert_eq!((at.number(map, Some(ContentFormat::JSON)), at.number(map, None)), (None, None));
    }

    #[test]
    fn a_member_of_a_document_is_found_and_nothing_else_is_a_number() {
        let at = |pointer: &str, json: &str| {
            FieldPointer::parse(pointer).expect("a pointer").number(json.as_bytes(), None)
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
            let found = FieldPointer::parse(&pointer).expect("a pointer");
            let found = found.number(document.to_string().as_bytes(), None);
            prop_assert_eq!(found, expected, "{} in {}", pointer, document);
        }
    }
}
