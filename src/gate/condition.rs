//! Conditions on the content of a reading: `when`, a list of comparisons.
//!
//! All conditions must hold; one that has alternatives holds if any of these does. A reading is
//! held back only if a condition certainly does not hold. What cannot be judged, because a field is
//! missing or of another type, or because the payload is no JSON or CBOR, holds nothing back.
//!
//! The fields of all conditions are looked up in one pass, and nothing is allocated.
//!
//! Texts are displayed as they are. Whatever shows them to people escapes them (`telemetry::text`),
//! once.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::field::{self, FieldPointer};
use super::lookup::{Lookup, Mask, POINTERS_MAX, Scalar, Sink};
use crate::message::{ContentFormat, beginning};

/// Most comparisons of a rule.
pub const COMPARISONS_MAX: usize = 16;
/// Most bytes of a text that is compared with.
pub const TEXT_MAX: usize = 64;
/// Each comparison may have a field of its own.
const _: () = assert!(COMPARISONS_MAX <= POINTERS_MAX);

/// The conditions of a rule. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Hash)]
pub struct When {
    conditions: Arc<[Condition]>,
    /// What the comparisons look at, each once.
    fields: Arc<[FieldPointer]>,
}

/// Alternatives, of which one has to hold.
#[derive(Debug, PartialEq, Hash)]
struct Condition(Box<[Comparison]>);

#[derive(Debug, PartialEq, Hash)]
struct Comparison {
    /// The index of the field.
    field: usize,
    test: Test,
}

/// What a value is compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// A number above this one.
    Above(f64),
    /// A number below this one.
    Below(f64),
    /// This number or one above it.
    AtLeast(f64),
    /// This number or one below it.
    AtMost(f64),
    /// This value.
    Is(Operand),
    /// Another value of the same type.
    IsNot(Operand),
    /// One of these values.
    OneOf(Box<[Operand]>),
    /// Whether the field is there at all, with whatever value.
    Present(bool),
}

/// A value in a comparison.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A number; they are compared as 64-bit floating-point numbers.
    Number(f64),
    /// A text of at most [`TEXT_MAX`] bytes.
    Text(Box<str>),
    /// True or false.
    Flag(bool),
}

impl Hash for Test {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        std::mem::discriminant(self).hash(hasher);
        match self {
            Test::Above(number) | Test::Below(number) | Test::AtLeast(number) | Test::AtMost(number) => {
                number.to_bits().hash(hasher);
            }
            Test::Is(operand) | Test::IsNot(operand) => operand.hash(hasher),
            Test::OneOf(operands) => operands.hash(hasher),
            Test::Present(is_there) => is_there.hash(hasher),
        }
    }
}

impl Hash for Operand {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        std::mem::discriminant(self).hash(hasher);
        match self {
            Operand::Number(number) => number.to_bits().hash(hasher),
            Operand::Text(text) => text.hash(hasher),
            Operand::Flag(flag) => flag.hash(hasher),
        }
    }
}

impl When {
    /// Of conditions with their alternatives, at most [`COMPARISONS_MAX`] in all. Without a field
    /// the payload itself is compared: as text, or in JSON and CBOR as the value that it is.
    ///
    /// # Errors
    /// The number of comparisons, if there are more.
    pub fn new(conditions: Vec<Vec<(Option<FieldPointer>, Test)>>) -> Result<When, usize> {
        let count = conditions.iter().map(Vec::len).sum();
        if count > COMPARISONS_MAX {
            return Err(count);
        }
        let mut fields = Vec::new();
        let mut comparison = |(field, test): (Option<FieldPointer>, Test)| {
            let field = field.unwrap_or_else(FieldPointer::whole);
            let known = fields.iter().position(|known| *known == field);
            let field = known.unwrap_or_else(|| {
                fields.push(field);
                fields.len() - 1
            });
            Comparison { field, test }
        };
        let conditions =
            conditions.into_iter().map(|any| Condition(any.into_iter().map(&mut comparison).collect()));
        let conditions = conditions.collect();
        Ok(When { conditions, fields: fields.into() })
    }

    /// Whether there is none: nothing is held back.
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Each condition in words.
    pub fn texts(&self) -> Vec<String> {
        let any = |any: &Condition| {
            let each = any.0.iter().map(|it| format!("{} {}", Named(&self.fields[it.field]), it.test));
            each.collect::<Vec<_>>().join(" or ")
        };
        self.conditions.iter().map(any).collect()
    }

    /// Two conditions, by their places, that no value of their field meets: what they can be judged
    /// by is always held back.
    pub fn contradiction(&self) -> Option<(usize, usize)> {
        let excludes = |one: &Condition, other: &Condition| {
            let pairs = one.0.iter().flat_map(|one| other.0.iter().map(move |other| (one, other)));
            // An empty list of alternatives is a fault of its own.
            !one.0.is_empty()
                && !other.0.is_empty()
                && pairs.into_iter().all(|(one, other)| {
                    one.field == other.field
                        && (one.test.excludes(&other.test) || other.test.excludes(&one.test))
                })
        };
        let places = 0..self.conditions.len();
        let mut pairs = places.clone().flat_map(|at| (at + 1..places.end).map(move |later| (at, later)));
        pairs.find(|(at, later)| excludes(&self.conditions[*at], &self.conditions[*later]))
    }

    /// Why a payload is held back; `None`: it is not.
    pub(super) fn unmet<'a>(&'a self, format: Option<ContentFormat>, payload: &'a [u8]) -> Option<Unmet<'a>> {
        if self.is_empty() {
            return None;
        }
        let found = self.look(format, payload);
        let at = self.conditions.iter().position(|condition| condition.fails(&found))?;
        Some(Unmet { when: self, at, format, payload })
    }

    fn look(&self, format: Option<ContentFormat>, payload: &[u8]) -> Found {
        let mut found = Found([Seen::Missing; POINTERS_MAX]);
        let whole = self.fields.iter().position(FieldPointer::is_whole);
        let is_cbor = format.is_some_and(ContentFormat::is_cbor);
        let is_document = is_cbor || format.is_some_and(ContentFormat::is_json);
        if is_document || self.fields.len() > usize::from(whole.is_some()) {
            let read = field::read(Lookup::new(&self.fields), payload, format, &mut found);
            if read.is_none() {
                found.0 = [Seen::Unreadable; POINTERS_MAX];
            }
        }
        // A number, true or false in JSON is the same as text.
        if let Some(whole) = whole
            && !is_cbor
            && !(is_document && matches!(found.0[whole], Seen::Text(_)))
        {
            let text = std::str::from_utf8(payload.trim_ascii()).ok();
            found.0[whole] = Seen::Payload(text.and_then(field::number_of_text), text.map(Start::of));
        }
        found
    }
}

impl Condition {
    /// Whether certainly none of the alternatives holds.
    fn fails(&self, found: &Found) -> bool {
        self.0.iter().all(|comparison| comparison.test.holds(&found.0[comparison.field]) == Some(false))
    }
}

impl Test {
    /// Whether no value meets both: a value of a type that one of them cannot judge is not looked
    /// at.
    fn excludes(&self, other: &Test) -> bool {
        match (self, other) {
            (Test::OneOf(list), other) => {
                list.iter().all(|operand| Test::Is(operand.clone()).excludes(other))
            }
            (Test::Is(_), Test::OneOf(list)) => {
                list.iter().all(|operand| self.excludes(&Test::Is(operand.clone())))
            }
            (Test::Is(Operand::Text(one)), Test::Is(Operand::Text(other))) => one != other,
            (Test::Is(Operand::Flag(one)), Test::Is(Operand::Flag(other))) => one != other,
            (Test::Is(one), Test::IsNot(other)) => one == other,
            (Test::Present(one), Test::Present(other)) => one != other,
            _ => match (self.range(), other.range()) {
                (Some(one), Some(other)) => one.ends_before(&other) || other.ends_before(&one),
                _ => false,
            },
        }
    }

    /// The numbers that meet it, if it is about numbers.
    fn range(&self) -> Option<Range> {
        let all = Range { least: (f64::NEG_INFINITY, true), most: (f64::INFINITY, true) };
        match self {
            Test::Above(limit) => Some(Range { least: (*limit, false), ..all }),
            Test::AtLeast(limit) => Some(Range { least: (*limit, true), ..all }),
            Test::Below(limit) => Some(Range { most: (*limit, false), ..all }),
            Test::AtMost(limit) => Some(Range { most: (*limit, true), ..all }),
            Test::Is(Operand::Number(number)) => {
                Some(Range { least: (*number, true), most: (*number, true) })
            }
            _ => None,
        }
    }

    /// `None`: it cannot be judged.
    fn holds(&self, seen: &Seen) -> Option<bool> {
        match self {
            Test::Above(limit) => Some(seen.number()? > *limit),
            Test::Below(limit) => Some(seen.number()? < *limit),
            Test::AtLeast(limit) => Some(seen.number()? >= *limit),
            Test::AtMost(limit) => Some(seen.number()? <= *limit),
            Test::Is(operand) => seen.is(operand),
            Test::IsNot(operand) => seen.is(operand).map(|is_it| !is_it),
            Test::OneOf(operands) => {
                operands.iter().filter_map(|operand| seen.is(operand)).reduce(|one, other| one || other)
            }
            Test::Present(wanted) => match seen {
                Seen::Unreadable => None,
                Seen::Missing => Some(!wanted),
                _ => Some(*wanted),
            },
        }
    }
}

/// Numbers from one to another, each with whether it belongs to them.
struct Range {
    least: (f64, bool),
    most: (f64, bool),
}

impl Range {
    fn ends_before(&self, other: &Range) -> bool {
        let ((most, is_in), (least, is_other_in)) = (self.most, other.least);
        most < least || most == least && !(is_in && is_other_in)
    }
}

/// What stands at each field.
struct Found([Seen; POINTERS_MAX]);

#[derive(Clone, Copy, Debug)]
enum Seen {
    /// The payload is no document.
    Unreadable,
    Missing,
    Number(f64),
    Text(Start),
    Flag(bool),
    /// Of another type.
    Other,
    /// The payload as text, if it is text, and the number that this is.
    Payload(Option<f64>, Option<Start>),
}

impl Found {
    fn put(&mut self, which: Mask, seen: Seen) {
        let bits = self.0.iter_mut().enumerate().filter(|(at, _)| which & 1 << at != 0);
        bits.for_each(|(_, slot)| *slot = seen);
    }
}

impl Sink for Found {
    fn forget(&mut self, which: Mask) {
        self.put(which, Seen::Missing);
    }

    fn take(&mut self, which: Mask, found: Scalar<'_>) {
        let seen = match (found.number(), found) {
            (Some(number), _) => Seen::Number(number),
            (None, Scalar::Text(text)) => Seen::Text(Start::of(text)),
            (None, Scalar::Flag(flag)) => Seen::Flag(flag),
            (None, _) => Seen::Other,
        };
        self.put(which, seen);
    }
}

impl Seen {
    fn number(&self) -> Option<f64> {
        match self {
            Seen::Number(number) => Some(*number),
            Seen::Payload(number, _) => *number,
            _ => None,
        }
    }

    /// Whether it is this value; `None` if it is of another type.
    fn is(&self, operand: &Operand) -> Option<bool> {
        match (self, operand) {
            (_, Operand::Number(wanted)) => self.number().map(|number| number == *wanted),
            (Seen::Text(text) | Seen::Payload(_, Some(text)), Operand::Text(wanted)) => Some(text.is(wanted)),
            (Seen::Flag(flag), Operand::Flag(wanted)) => Some(flag == wanted),
            (Seen::Payload(_, Some(text)), Operand::Flag(wanted)) => {
                let flag =
                    [false, true].into_iter().find(|flag| text.is(if *flag { "true" } else { "false" }));
                flag.map(|flag| flag == *wanted)
            }
            _ => None,
        }
    }

    /// What it is, as far as it is compared with a number or not.
    fn show(&self, as_number: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Missing => f.write_str("missing"),
            Seen::Flag(flag) => write!(f, "{flag}"),
            Seen::Number(number) => write!(f, "{}", Shown(*number)),
            Seen::Payload(Some(number), _) if as_number => write!(f, "{}", Shown(*number)),
            Seen::Text(text) | Seen::Payload(_, Some(text)) => write!(f, "{text}"),
            Seen::Unreadable | Seen::Other | Seen::Payload(_, None) => f.write_str("present"),
        }
    }
}

/// The beginning of a text: as much as can equal what it is compared with.
#[derive(Clone, Copy, Debug)]
struct Start {
    bytes: [u8; TEXT_MAX],
    length: u8,
    is_cut: bool,
}

impl Start {
    fn of(text: &str) -> Start {
        let kept = beginning(text, TEXT_MAX);
        let mut bytes = [0; TEXT_MAX];
        bytes[..kept.len()].copy_from_slice(kept.as_bytes());
        // At most 64.
        Start { bytes, length: kept.len() as u8, is_cut: kept.len() < text.len() }
    }

    fn text(&self) -> &str {
        // It was cut between characters.
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }

    fn is(&self, wanted: &str) -> bool {
        !self.is_cut && self.text() == wanted
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"{}", self.text(), if self.is_cut { "…" } else { "" })
    }
}

/// A number with a few digits, however large or small it is.
struct Shown(f64);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.0.abs();
        if size == 0.0 || (1e-6..1e16).contains(&size) {
            write!(f, "{}", self.0)
        } else {
            write!(f, "{:e}", self.0)
        }
    }
}

struct Named<'p>(&'p FieldPointer);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_whole() { "the payload" } else { self.0.as_str() })
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operand::Number(number) => Shown(*number).fmt(f),
            Operand::Text(text) => write!(f, "\"{text}\""),
            Operand::Flag(flag) => flag.fmt(f),
        }
    }
}

struct Listed<'o>(&'o [Operand]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, operand) in self.0.iter().enumerate() {
            write!(f, "{}{operand}", if at > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Test::Above(limit) => write!(f, "above {}", Shown(*limit)),
            Test::Below(limit) => write!(f, "below {}", Shown(*limit)),
            Test::AtLeast(limit) => write!(f, "at least {}", Shown(*limit)),
            Test::AtMost(limit) => write!(f, "at most {}", Shown(*limit)),
            Test::Is(operand) => write!(f, "is {operand}"),
            Test::IsNot(operand) => write!(f, "is not {operand}"),
            Test::OneOf(operands) => write!(f, "one of {}", Listed(operands)),
            Test::Present(true) => f.write_str("present"),
            Test::Present(false) => f.write_str("not present"),
        }
    }
}

/// A condition that does not hold. Its [`Display`](fmt::Display) looks at the payload again.
#[derive(Clone, Copy)]
pub struct Unmet<'a> {
    when: &'a When,
    at: usize,
    format: Option<ContentFormat>,
    payload: &'a [u8],
}

impl fmt::Display for Unmet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = self.when.look(self.format, self.payload);
        let Some(condition) = self.when.conditions.get(self.at) else { return Ok(()) };
        for (at, Comparison { field, test }) in condition.0.iter().enumerate() {
            let seen = &found.0[*field];
            write!(f, "{}{} is ", if at > 0 { ", and " } else { "" }, Named(&self.when.fields[*field]))?;
            match test {
                Test::Is(operand) => {
                    seen.show(matches!(operand, Operand::Number(_)), f)?;
                    write!(f, ", not {operand}")?;
                }
                // It is just that value.
                Test::IsNot(operand) => write!(f, "{operand}")?,
                Test::OneOf(_) => {
                    seen.show(false, f)?;
                    write!(f, ", not {test}")?;
                }
                Test::Present(true) => f.write_str("missing")?,
                Test::Present(false) => f.write_str("present")?,
                Test::Above(_) | Test::Below(_) | Test::AtLeast(_) | Test::AtMost(_) => {
                    seen.show(true, f)?;
                    write!(f, ", not {test}")?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Unmet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unmet({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    type Alternatives = Vec<(Option<FieldPointer>, Test)>;

    fn at(pointer: &str, test: Test) -> (Option<FieldPointer>, Test) {
        (Some(FieldPointer::parse(pointer).expect("a pointer")), test)
    }

    fn text(text: &str) -> Operand {
        Operand::Text(text.into())
    }

    /// Why a payload is held back.
    fn why(conditions: Vec<Alternatives>, payload: &[u8], format: Option<ContentFormat>) -> Option<String> {
        let when = When::new(conditions).expect("few comparisons");
        when.unmet(format, payload).map(|unmet| unmet.to_string())
    }

    fn json_why(conditions: Vec<Alternatives>, payload: &str) -> Option<String> {
        why(conditions, payload.as_bytes(), None)
    }

    #[test]
    fn a_condition_that_does_not_hold_is_named_with_what_was_seen() {
        let payload = r#"{"env":{"temperature":21.5},"state":"ok","a":3,"b":false,"z":null,"big":1e300}"#;
        for (pointer, test, expected) in [
            ("/env/temperature", Test::Above(30.0), Some("/env/temperature is 21.5, not above 30")),
            ("/env/temperature", Test::Above(21.5), Some("/env/temperature is 21.5, not above 21.5")),
            ("/env/temperature", Test::AtLeast(21.5), None),
            ("/a", Test::Below(3.0), Some("/a is 3, not below 3")),
            ("/a", Test::AtMost(2.5), Some("/a is 3, not at most 2.5")),
            ("/a", Test::AtMost(3.0), None),
            ("/big", Test::Below(0.0), Some("/big is 1e300, not below 0")),
            ("/state", Test::Is(text("alarm")), Some("/state is \"ok\", not \"alarm\"")),
            ("/state", Test::Is(text("ok")), None),
            ("/state", Test::IsNot(text("ok")), Some("/state is \"ok\"")),
            ("/a", Test::Is(Operand::Number(3.0)), None),
            ("/b", Test::Is(Operand::Flag(true)), Some("/b is false, not true")),
            (
                "/state",
                Test::OneOf([text("alarm"), text("warning")].into()),
                Some("/state is \"ok\", not one of \"alarm\", \"warning\""),
            ),
            ("/a", Test::OneOf([text("alarm"), Operand::Number(3.0)].into()), None),
            ("/none", Test::Present(true), Some("/none is missing")),
            ("/none", Test::Present(false), None),
            ("/z", Test::Present(false), Some("/z is present")),
            ("/env", Test::Present(true), None),
        ] {
            assert_eq!(json_why(vec![vec![at(pointer, test)]], payload).as_deref(), expected, "{pointer}");
        }
        let any = vec![at("/a", Test::AtLeast(5.0)), at("/b", Test::Is(Operand::Flag(true)))];
        assert_eq!(
            json_why(vec![any], payload).as_deref(),
            Some("/a is 3, not at least 5, and /b is false, not true")
        );
        let long = format!("{{\"state\":\"{}\"}}", "ü".repeat(100));
        let said = json_why(vec![vec![at("/state", Test::Is(text("ü")))]], &long);
        assert_eq!(said, Some(format!("/state is \"{}\"…, not \"ü\"", "ü".repeat(32))));
    }

    #[test]
    fn what_cannot_be_judged_holds_nothing_back_and_only_what_must_be_there_does_when_it_is_missing() {
        for payload in [r#"{"x":1}"#, r#"{"t":"21.5"}"#, r#"{"t":null}"#, r#"{"t":[1]}"#, "21.5", "{", ""] {
            for test in [
                Test::Above(30.0),
                Test::Is(Operand::Number(5.0)),
                Test::IsNot(Operand::Flag(true)),
                Test::OneOf([Operand::Number(5.0)].into()),
            ] {
                assert_eq!(json_why(vec![vec![at("/t", test)]], payload), None, "{payload}");
            }
        }
        let must = || vec![vec![at("/t", Test::Present(true))]];
        assert!(json_why(must(), r#"{"x":1}"#).is_some() && json_why(must(), "21.5").is_some());
        assert_eq!(json_why(must(), "{"), None, "no document");
        // One that does not hold is enough, whatever others are; one alternative that cannot be
        // judged is enough to publish.
        let cold = || at("/t", Test::Above(30.0));
        let other = || at("/none", Test::Above(0.0));
        assert!(json_why(vec![vec![other()], vec![cold()]], r#"{"t":1}"#).is_some());
        assert_eq!(json_why(vec![vec![other(), cold()]], r#"{"t":1}"#), None);
    }

    #[test]
    fn without_a_field_the_payload_is_compared() {
        let judge = |test: Test, payload: &[u8], format: Option<ContentFormat>| {
            why(vec![vec![(None, test)]], payload, format)
        };
        let above = || Test::Above(30.0);
        assert_eq!(judge(above(), b" 21.5\n", None).as_deref(), Some("the payload is 21.5, not above 30"));
        assert_eq!(judge(above(), b"31", None), None);
        assert_eq!(judge(above(), b"hot", None), None);
        let alarm = || Test::Is(text("alarm"));
        assert_eq!(judge(alarm(), b"ok", None).as_deref(), Some("the payload is \"ok\", not \"alarm\""));
        assert_eq!(judge(alarm(), b"alarm\r\n", None), None);
        assert_eq!(judge(alarm(), b"\xff", None), None, "no text");
        assert_eq!(judge(Test::Is(Operand::Flag(true)), b"true", None), None);
        assert!(judge(Test::Is(Operand::Flag(true)), b"false", None).is_some());
        // A text of JSON has quotes, which belong to it only without a declared type.
        let json = Some(ContentFormat::JSON);
        assert_eq!(judge(alarm(), b"\"alarm\"", json), None);
        assert!(judge(alarm(), b"\"alarm\"", None).is_some());
        assert!(judge(above(), b"21.5", json).is_some());
        let cbor = Some(ContentFormat::CBOR);
        assert!(judge(above(), b"\x15", cbor).is_some());
        assert_eq!((judge(above(), b"\x18\x1f", cbor), judge(above(), b"21", cbor)), (None, None));
        assert_eq!(judge(alarm(), b"\x65alarm", cbor), None);
        assert!(judge(alarm(), b"\x62ok", cbor).is_some());
    }

    #[test]
    fn there_are_at_most_so_many_comparisons_and_the_words_name_all() {
        let one = || vec![at("/a", Test::AtLeast(5.0)), at("/b", Test::Is(Operand::Flag(true)))];
        assert_eq!(When::new(vec![one(); 8]).map(|when| when.fields.len()), Ok(2));
        assert_eq!(When::new(vec![one(); 9]), Err(18));
        // As they are: what shows them escapes them.
        let hostile = When::new(vec![vec![at("/s", Test::Is(text("a\u{1b}\\b")))]]).expect("few");
        assert_eq!(hostile.texts(), ["/s is \"a\u{1b}\\b\""]);
        let unmet = hostile.unmet(None, br#"{"s":"\u001b[2J"}"#).map(|unmet| unmet.to_string());
        assert_eq!(unmet.as_deref(), Some("/s is \"\u{1b}[2J\", not \"a\u{1b}\\b\""));
        let when = When::new(vec![one(), vec![(None, Test::IsNot(text("x")))]]).expect("few");
        assert_eq!(when.texts(), ["/a at least 5 or /b is true", "the payload is not \"x\""]);
    }

    #[test]
    fn conditions_that_exclude_each_other_are_found() {
        let is = |number: f64| Test::Is(Operand::Number(number));
        let of = |texts: &[&str]| Test::OneOf(texts.iter().map(|it| text(it)).collect());
        let found = |one: Test, other: Test| {
            let conditions = |one: Test, other: Test| vec![vec![at("/t", one)], vec![at("/t", other)]];
            let when = When::new(conditions(one.clone(), other.clone())).expect("few");
            let reverse = When::new(conditions(other, one)).expect("few");
            assert_eq!(when.contradiction(), reverse.contradiction());
            when.contradiction().is_some()
        };
        for (one, other) in [
            (Test::Above(10.0), Test::Below(5.0)),
            (Test::Above(5.0), Test::AtMost(5.0)),
            (is(5.0), Test::Above(5.0)),
            (is(5.0), is(6.0)),
            (is(5.0), Test::IsNot(Operand::Number(5.0))),
            (Test::Is(text("a")), Test::Is(text("b"))),
            (Test::Is(text("a")), of(&["b", "c"])),
            (of(&["a", "b"]), of(&["c"])),
            (Test::Is(Operand::Flag(true)), Test::Is(Operand::Flag(false))),
            (Test::Present(true), Test::Present(false)),
        ] {
            assert!(found(one.clone(), other.clone()), "{one} and {other}");
        }
        for (one, other) in [
            (Test::Above(5.0), Test::Below(10.0)),
            (Test::AtLeast(5.0), Test::AtMost(5.0)),
            (is(5.0), Test::AtMost(5.0)),
            (is(5.0), is(5.0)),
            // What one of them cannot judge is published.
            (is(5.0), Test::Is(text("a"))),
            (Test::OneOf([text("a"), Operand::Number(3.0)].into()), Test::Above(10.0)),
            (of(&["a", "b"]), of(&["b"])),
            (Test::Is(text("a")), Test::IsNot(text("b"))),
            (Test::Present(false), Test::Above(1.0)),
        ] {
            assert!(!found(one.clone(), other.clone()), "{one} and {other}");
        }
        let other_field = vec![vec![at("/a", is(1.0))], vec![at("/b", is(2.0))]];
        assert_eq!(When::new(other_field).expect("few").contradiction(), None);
        let any = vec![at("/t", is(1.0)), at("/t", is(2.0))];
        let conditions = vec![vec![at("/u", is(1.0))], any.clone(), vec![at("/t", Test::Above(3.0))]];
        assert_eq!(When::new(conditions).expect("few").contradiction(), Some((1, 2)));
        let conditions = vec![any, vec![at("/t", Test::Above(1.0))]];
        assert_eq!(When::new(conditions).expect("few").contradiction(), None);
    }

    /// Some JSON with few names and values, so that conditions meet it.
    fn document() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            (-4..5_i32).prop_map(|number| Value::from(f64::from(number) / 2.0)),
            (-3..4_i32).prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            "[ab]{0,1}".prop_map(Value::from),
            Just(Value::Null),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[ab0]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn operand() -> impl Strategy<Value = Operand> {
        prop_oneof![
            (-3..4_i32).prop_map(|number| Operand::Number(number.into())),
            "[ab]{0,1}".prop_map(|text| Operand::Text(text.into())),
            any::<bool>().prop_map(Operand::Flag),
        ]
    }

    fn comparison() -> impl Strategy<Value = (Option<FieldPointer>, Test)> {
        let number = || (-3..4_i32).prop_map(f64::from);
        let test = prop_oneof![
            number().prop_map(Test::Above),
            number().prop_map(Test::Below),
            number().prop_map(Test::AtLeast),
            number().prop_map(Test::AtMost),
            operand().prop_map(Test::Is),
            operand().prop_map(Test::IsNot),
            prop::collection::vec(operand(), 1..4).prop_map(|list| Test::OneOf(list.into())),
            any::<bool>().prop_map(Test::Present),
        ];
        let levels = prop::collection::vec("[ab0]", 1..4);
        (levels, test).prop_map(|(levels, test)| at(&format!("/{}", levels.join("/")), test))
    }

    /// What a comparison says by `serde_json` alone.
    fn naive(document: &Value, (pointer, test): &(Option<FieldPointer>, Test)) -> Option<bool> {
        let value = document.pointer(pointer.as_ref().map_or("", FieldPointer::as_str));
        if let Test::Present(wanted) = test {
            return Some(value.is_some() == *wanted);
        }
        let value = value?;
        let is = |operand: &Operand| match (value, operand) {
            (Value::Number(number), Operand::Number(wanted)) => Some(number.as_f64()? == *wanted),
            (Value::String(text), Operand::Text(wanted)) => Some(**text == **wanted),
            (Value::Bool(flag), Operand::Flag(wanted)) => Some(flag == wanted),
            _ => None,
        };
        match test {
            Test::Above(limit) => Some(value.as_f64()? > *limit),
            Test::Below(limit) => Some(value.as_f64()? < *limit),
            Test::AtLeast(limit) => Some(value.as_f64()? >= *limit),
            Test::AtMost(limit) => Some(value.as_f64()? <= *limit),
            Test::Is(operand) => is(operand),
            Test::IsNot(operand) => Some(!is(operand)?),
            Test::OneOf(list) => {
                let judged: Vec<bool> = list.iter().filter_map(is).collect();
                (!judged.is_empty()).then(|| judged.contains(&true))
            }
            Test::Present(_) => None,
        }
    }

    /// The head of a CBOR item (RFC 8949 §3).
    fn head(major: u8, value: u64, out: &mut Vec<u8>) {
        match value {
            0..24 => out.push(major << 5 | value as u8),
            24..0x100 => out.extend([major << 5 | 24, value as u8]),
            0x100..0x1_0000 => {
                out.push(major << 5 | 25);
                out.extend((value as u16).to_be_bytes());
            }
            _ => {
                out.push(major << 5 | 27);
                out.extend(value.to_be_bytes());
            }
        }
    }

    /// The same document in CBOR; `wide`: floating-point numbers in 64 bits, and items of
    /// indefinite length.
    fn cbor(value: &Value, wide: bool, out: &mut Vec<u8>) {
        let begin = |major: u8, count: usize, out: &mut Vec<u8>| match wide {
            true => out.push(major << 5 | 31),
            false => head(major, count as u64, out),
        };
        match value {
            Value::Null => out.push(0xf6),
            Value::Bool(flag) => out.push(0xf4 + u8::from(*flag)),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => head(0, number, out),
                (None, Some(number)) => head(1, (-1 - number) as u64, out),
                (None, None) if wide => {
                    out.push(0xfb);
                    out.extend(number.as_f64().expect("a number").to_be_bytes());
                }
                (None, None) => {
                    out.push(0xfa);
                    out.extend((number.as_f64().expect("a number") as f32).to_be_bytes());
                }
            },
            Value::String(text) => {
                head(3, text.len() as u64, out);
                out.extend(text.as_bytes());
            }
            Value::Array(list) => {
                begin(4, list.len(), out);
                list.iter().for_each(|item| cbor(item, wide, out));
            }
            Value::Object(map) => {
                begin(5, map.len(), out);
                for (key, value) in map {
                    cbor(&Value::from(key.as_str()), wide, out);
                    cbor(value, wide, out);
                }
            }
        }
        if wide && (value.is_array() || value.is_object()) {
            out.push(0xff);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn json_and_cbor_are_judged_as_serde_json_has_it(
            document in document(),
            conditions in prop::collection::vec(prop::collection::vec(comparison(), 1..4), 1..5),
        ) {
            let fails = |any: &Alternatives| any.iter().all(|one| naive(&document, one) == Some(false));
            let expected = conditions.iter().any(fails);
            let json = document.to_string();
            let first = json_why(conditions.clone(), &json);
            // Where two conditions exclude each other, only what they cannot judge is published.
            let when = When::new(conditions.clone()).expect("few");
            if let Some((at, later)) = when.contradiction() {
                let is_judged = |any: &Alternatives| any.iter().all(|one| naive(&document, one).is_some());
                let both = is_judged(&conditions[at]) && is_judged(&conditions[later]);
                prop_assert!(!both || expected, "{:?}: {}", conditions, json);
            }
            prop_assert_eq!(first.is_some(), expected, "{:?}: {}", conditions, json);
            for wide in [false, true] {
                let mut bytes = Vec::new();
                cbor(&document, wide, &mut bytes);
                let said = why(conditions.clone(), &bytes, Some(ContentFormat::CBOR));
                prop_assert_eq!(&said, &first, "{:?}: {} as {:x?}", conditions, json, bytes);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            payload in prop::collection::vec(any::<u8>(), 0..100),
            conditions in prop::collection::vec(prop::collection::vec(comparison(), 1..4), 1..5),
        ) {
            for format in [None, Some(ContentFormat::JSON), Some(ContentFormat::CBOR)] {
                let _ = why(conditions.clone(), &payload, format);
            }
        }
    }

    #[test]
    fn a_document_that_is_nested_too_deep_is_not_judged_and_the_last_of_two_members_counts() {
        let cold = || vec![vec![at("/t", Test::Above(30.0))]];
        let deep = |depth: usize| format!("{{\"x\":{}{},\"t\":1}}", "[".repeat(depth), "]".repeat(depth));
        assert!(json_why(cold(), &deep(100)).is_some());
        assert_eq!(json_why(cold(), &deep(1_000)), None);
        assert_eq!(json_why(cold(), &deep(30_000)), None);
        assert_eq!(json_why(cold(), r#"{"t":1,"t":{"t":1}}"#), None);
        assert_eq!(json_why(vec![vec![at("/t/u", Test::Above(30.0))]], r#"{"t":{"u":1},"t":5}"#), None);
        assert!(json_why(cold(), &json!({"t": 1}).to_string()).is_some());
    }
}
