//! Turns the payload of a frame into a reading: a path, a content format and bytes.
//!
//! ```text
//! frame ──pattern──> captures ──┬─> path template  "m/{id}"
//!                               └─> form: raw | text | json {"id":"a7","t":23.5}
//! ```
//!
//! A frame that does not match the pattern, is not valid text or JSON as required, or whose
//! captures do not form a path, is unreadable: it is counted and skipped. Patterns are regular
//! expressions on bytes with ASCII classes; matching takes linear time (crate `regex`). A number
//! keeps the digits of the device in the JSON, unless it is scaled. A pattern is matched with the
//! bytes as they came, before they are characters of a [`Charset`]: of one byte is `\xB0` the °.
//! Alternatives of a pattern may have groups of the same name, of which one matches at most: so
//! each kind of frame has a shape of its own.

use std::borrow::Cow;
use std::fmt;

use regex::bytes::{Captures, Regex, RegexBuilder};

use super::charset::{Charset, NoText};
use super::json::{self, NotJson};
use crate::message::{ContentFormat, Path, PathError};

/// Longest pattern, in bytes.
pub const PATTERN_MAX: usize = 1024;
/// Most memory a compiled pattern may take, in bytes.
const PATTERN_MEMORY: usize = 1 << 20;
/// Default path.
pub const PATH_DEFAULT: &str = "data";

/// The form of the payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// The bytes unchanged, without a content format.
    Raw,
    /// Text, as UTF-8, `text/plain`. The default.
    #[default]
    Text,
    /// An object of the pattern's named captures; without a pattern, the frame itself is JSON.
    Json,
}

/// The type of a captured text in the JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Kind {
    /// A number if it is a valid JSON number, else a text. The default: `7` is a number, `007` and
    /// `1.` are texts.
    #[default]
    Auto,
    /// A number in any usual notation: leading zeros, a plus sign, blanks between sign and digits,
    /// a decimal comma unless [`Notation`] wants a point. Otherwise the frame is unreadable.
    Number(Scale),
    /// An integer in hexadecimal digits.
    Hexadecimal(Scale),
    /// A text.
    Text,
}

/// `value × factor + offset`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// The factor; default 1.
    pub factor: f64,
    /// The offset; default 0.
    pub offset: f64,
}

impl Default for Scale {
    fn default() -> Scale {
        Scale { factor: 1.0, offset: 0.0 }
    }
}

/// What stands between the whole part of a number and its fraction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decimal {
    /// A point, or in numbers that are declared such a comma. The default.
    #[default]
    Any,
    /// A point.
    Point,
    /// A comma.
    Comma,
}

/// How a device writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notation {
    /// How its bytes are characters.
    pub charset: Charset,
    /// How it writes numbers.
    pub decimal: Decimal,
    /// How it writes those of these fields.
    pub decimals: Vec<(String, Decimal)>,
}

impl Notation {
    fn decimal(&self, field: &str) -> Decimal {
        let own = self.decimals.iter().find(|(name, _)| name == field);
        own.map_or(self.decimal, |(_, decimal)| *decimal)
    }
}

/// A validated and compiled rule for reading frames.
#[derive(Clone, Debug)]
pub struct Extractor {
    form: Form,
    notation: Notation,
    pattern: Option<Regex>,
    /// The names of the pattern's groups in order.
    fields: Vec<Field>,
    path: Vec<Part>,
}

impl PartialEq for Extractor {
    fn eq(&self, other: &Extractor) -> bool {
        let text =
            |extractor: &Extractor| extractor.pattern.as_ref().map(|pattern| pattern.as_str().to_owned());
        self.form == other.form
            && self.notation == other.notation
            && text(self) == text(other)
            && self.fields == other.fields
            && self.path == other.path
    }
}

/// A name of groups of a pattern.
#[derive(Clone, Debug, PartialEq)]
struct Field {
    name: String,
    kind: Kind,
    /// The numbers of the groups, of which one matches at most.
    groups: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// The field with this index.
    Capture(usize),
}

/// Why the settings of an [`Extractor`] are invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExtractorError {
    /// The error of the regular expression's parser, in one line.
    Pattern(String),
    /// The pattern has no named group of this name.
    NoCapture(String),
    /// The path is invalid.
    Path(PathError),
    /// A `{` or `}` does not enclose a name.
    Brace,
    /// The path is reserved for the gateway.
    Reserved,
    /// JSON from a pattern needs at least one named group.
    NoFields,
    /// A field is used without a pattern to capture it.
    NoPattern(String),
}

impl fmt::Display for ExtractorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExtractorError::Pattern(text) => write!(f, "this is no regular expression: {text}"),
            ExtractorError::NoCapture(name) => write!(f, "the pattern has no group (?<{name}>…)"),
            ExtractorError::Path(error) => write!(f, "{error}"),
            ExtractorError::Brace => {
                f.write_str("'{' and '}' only enclose the name of a group of the pattern")
            }
            ExtractorError::Reserved => f.write_str("this path is one of the gateway's own"),
            ExtractorError::NoFields => {
                f.write_str("the pattern has no named group, so the JSON would be empty")
            }
            ExtractorError::NoPattern(name) => write!(f, "there is no pattern that captures {name}"),
        }
    }
}

impl std::error::Error for ExtractorError {}

/// Why a frame is unreadable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unreadable {
    /// Its check sequence is wrong, or it is of an unknown kind (slipmux).
    Broken,
    /// The pattern does not match.
    NoMatch,
    /// It is not UTF-8.
    NotText,
    /// It has a byte that Windows-1252 does not define.
    NotWindows1252,
    /// It is not JSON.
    NotJson,
    /// It is JSON in which an object has a key twice.
    DuplicateKey,
    /// It is JSON of more than [`json::DEPTH_MAX`] levels.
    TooDeep,
    /// A captured text is not the number it should be, or too large for one.
    NotANumber,
    /// The captured texts do not form a valid path.
    NoPath,
}

impl Unreadable {
    /// The name in logs and counters.
    pub fn as_str(self) -> &'static str {
        match self {
            Unreadable::Broken => "its check sequence is wrong",
            Unreadable::NoMatch => "the pattern does not match",
            Unreadable::NotText => "it is not UTF-8",
            Unreadable::NotWindows1252 => {
                "it has a byte that Windows-1252 does not define (81, 8D, 8F, 90 or 9D)"
            }
            Unreadable::NotJson => "it is not JSON",
            Unreadable::DuplicateKey => "it is JSON with a key twice in one object",
            Unreadable::TooDeep => "it is JSON of more than 32 levels",
            Unreadable::NotANumber => "a field is not a number",
            Unreadable::NoPath => "its fields make no path",
        }
    }
}

impl From<NoText> for Unreadable {
    fn from(why: NoText) -> Unreadable {
        match why {
            NoText::Utf8 => Unreadable::NotText,
            NoText::Windows1252 => Unreadable::NotWindows1252,
        }
    }
}

impl From<NotJson> for Unreadable {
    fn from(why: NotJson) -> Unreadable {
        match why {
            NotJson::Utf8 => Unreadable::NotText,
            NotJson::Syntax => Unreadable::NotJson,
            NotJson::DuplicateKey => Unreadable::DuplicateKey,
            NotJson::TooDeep => Unreadable::TooDeep,
        }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Buffers for one reading, which are reused.
#[derive(Debug, Default)]
pub struct Room {
    path: String,
    payload: Vec<u8>,
}

/// A reading, ready for the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading<'a> {
    /// The path within the device.
    pub path: Path<'a>,
    /// The content format of the payload.
    pub content_format: Option<ContentFormat>,
    /// The payload.
    pub payload: &'a [u8],
}

impl Extractor {
    /// Validates and compiles the settings. `path` may contain `{name}` for named groups of
    /// `pattern`; `kinds` has the types of fields.
    ///
    /// # Errors
    /// [`ExtractorError`].
    pub fn new(
        form: Form,
        pattern: Option<&str>,
        kinds: &[(&str, Kind)],
        path: &str,
    ) -> Result<Extractor, ExtractorError> {
        let pattern = pattern.map(compile).transpose()?;
        let mut fields: Vec<Field> = Vec::new();
        for (number, name) in pattern.iter().flat_map(|pattern| pattern.capture_names().enumerate()) {
            let Some(name) = name.map(bare) else { continue };
            match fields.iter_mut().find(|field| field.name == name) {
                Some(field) => field.groups.push(number),
                None => {
                    let (name, groups) = (name.to_owned(), vec![number]);
                    fields.push(Field { name, kind: Kind::Auto, groups });
                }
            }
        }
        for (name, kind) in kinds {
            match fields.iter_mut().find(|field| field.name == *name) {
                Some(field) => field.kind = *kind,
                None if pattern.is_none() => return Err(ExtractorError::NoPattern((*name).to_owned())),
                None => return Err(ExtractorError::NoCapture((*name).to_owned())),
            }
        }
        if form == Form::Json && pattern.is_some() && fields.is_empty() {
            return Err(ExtractorError::NoFields);
        }
        let path = parts(path, &fields, pattern.is_some())?;
        Ok(Extractor { form, notation: Notation::default(), pattern, fields, path })
    }

    /// The same for a device that writes so.
    #[must_use]
    pub fn with(mut self, notation: Notation) -> Extractor {
        self.notation = notation;
        self
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn read<'a>(&self, frame: &'a [u8], room: &'a mut Room) -> Result<Reading<'a>, Unreadable> {
        let captures = match &self.pattern {
            Some(pattern) => Some(pattern.captures(frame).ok_or(Unreadable::NoMatch)?),
            None => None,
        };
        room.path.clear();
        for part in &self.path {
            match part {
                Part::Literal(text) => room.path.push_str(text),
                Part::Capture(field) => {
                    let text = self.captured(captures.as_ref(), *field)?.ok_or(Unreadable::NoPath)?;
                    // A slash in a captured text would add a level to the path.
                    if text.contains('/') || text.is_empty() {
                        return Err(Unreadable::NoPath);
                    }
                    room.path.push_str(&text);
                }
            }
        }
        let Room { path, payload } = room;
        let path = Path::parse(path).map_err(|_| Unreadable::NoPath)?;
        if path.is_reserved() {
            return Err(Unreadable::NoPath);
        }
        let (content_format, payload) = match (self.form, &captures) {
            (Form::Raw, _) => (None, frame),
            (Form::Text, _) => (Some(ContentFormat::TEXT), self.text(frame, payload)?),
            (Form::Json, None) => {
                let text = self.text(frame, payload)?;
                json::check(text)?;
                (Some(ContentFormat::JSON), text)
            }
            (Form::Json, Some(captures)) => {
                payload.clear();
                self.object(captures, payload)?;
                (Some(ContentFormat::JSON), &payload[..])
            }
        };
        Ok(Reading { path, content_format, payload })
    }

    /// A frame as UTF-8.
    fn text<'a>(&self, frame: &'a [u8], room: &'a mut Vec<u8>) -> Result<&'a [u8], Unreadable> {
        match self.notation.charset.read(frame)? {
            Cow::Borrowed(text) => Ok(text.as_bytes()),
            Cow::Owned(text) => {
                *room = text.into_bytes();
                Ok(room)
            }
        }
    }

    /// The text of the field with this index, if it was captured.
    fn captured<'c>(
        &self,
        captures: Option<&Captures<'c>>,
        field: usize,
    ) -> Result<Option<Cow<'c, str>>, Unreadable> {
        let groups = self.fields.get(field).map_or(&[][..], |field| &field.groups);
        let found = captures.and_then(|captures| groups.iter().find_map(|group| captures.get(*group)));
        let Some(found) = found else { return Ok(None) };
        Ok(Some(self.notation.charset.read(found.as_bytes())?))
    }

    /// The captures as one JSON object in the pattern's order. A group without a match is omitted.
    fn object(&self, captures: &Captures<'_>, out: &mut Vec<u8>) -> Result<(), Unreadable> {
        out.push(b'{');
        for (at, Field { name, kind, .. }) in self.fields.iter().enumerate() {
            let Some(text) = self.captured(Some(captures), at)? else { continue };
            if out.len() > 1 {
                out.push(b',');
            }
            quote(name, out);
            out.push(b':');
            value(&text, *kind, self.notation.decimal(name), out)?;
        }
        out.push(b'}');
        Ok(())
    }
}

/// Compiles a pattern over bytes, within bounds of memory.
///
/// # Errors
/// [`ExtractorError::Pattern`].
pub fn compile(text: &str) -> Result<Regex, ExtractorError> {
    let built = RegexBuilder::new(&numbered(text))
        .unicode(false)
        .size_limit(PATTERN_MEMORY)
        .dfa_size_limit(PATTERN_MEMORY)
        .nest_limit(64)
        .build();
    built.map_err(|error| {
        // The parser's error shows the position in several lines; the last line is the cause.
        let text = error.to_string();
        let last = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
        ExtractorError::Pattern(last.trim_start_matches("error: ").to_owned())
    })
}

/// The pattern with a number behind each name of a group that came before, which the expressions of
/// the crate cannot have twice: `a`, `a[2]`, `a[3]`.
fn numbered(text: &str) -> Cow<'_, str> {
    let (mut out, mut rest, mut seen) = (String::new(), text, Vec::new());
    let mut is_class = false;
    while let Some(first) = rest.chars().next() {
        let is_group = !is_class && (rest.starts_with("(?<") || rest.starts_with("(?P<"));
        let length = match first {
            '\\' => 1 + rest.chars().nth(1).map_or(0, char::len_utf8),
            '(' if is_group => rest.find(['>', '=', '!']).unwrap_or(1),
            _ => first.len_utf8(),
        };
        is_class = match first {
            '[' => true,
            ']' => false,
            _ => is_class,
        };
        let (head, tail) = rest.split_at(length);
        out.push_str(head);
        if is_group && tail.starts_with('>') {
            let name = head.split_once('<').map_or("", |(_, name)| name);
            seen.push(name);
            let count = seen.iter().filter(|other| **other == name).count();
            if count > 1 {
                out.push_str(&format!("[{count}]"));
            }
        }
        rest = tail;
    }
    if out == text { Cow::Borrowed(text) } else { Cow::Owned(out) }
}

/// The name of a group without that number.
fn bare(name: &str) -> &str {
    let numbered = name.strip_suffix(']').and_then(|name| name.rsplit_once('['));
    numbered
        .filter(|(_, count)| count.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or(name, |(name, _)| name)
}

fn parts(text: &str, fields: &[Field], has_pattern: bool) -> Result<Vec<Part>, ExtractorError> {
    let mut parts = Vec::new();
    let mut rest = text;
    // A placeholder for the captured text, to validate the rest.
    let mut example = String::new();
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        let (name, after) =
            from.strip_prefix('{').and_then(|inner| inner.split_once('}')).ok_or(ExtractorError::Brace)?;
        if !before.is_empty() {
            parts.push(Part::Literal(before.to_owned()));
        }
        let field = fields.iter().position(|field| field.name == name);
        match field {
            Some(field) => parts.push(Part::Capture(field)),
            None if has_pattern => return Err(ExtractorError::NoCapture(name.to_owned())),
            None => return Err(ExtractorError::NoPattern(name.to_owned())),
        }
        example.push_str(before);
        example.push('x');
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Literal(rest.to_owned()));
    }
    example.push_str(rest);
    if Path::parse(&example).map_err(ExtractorError::Path)?.is_reserved() {
        return Err(ExtractorError::Reserved);
    }
    Ok(parts)
}

fn quote(text: &str, out: &mut Vec<u8>) {
    // Serializing a text into memory does not fail.
    let _ = serde_json::to_writer(out, text);
}

/// Writes a captured text as a JSON value. A number keeps its digits where JSON has them alike.
fn value(text: &str, kind: Kind, decimal: Decimal, out: &mut Vec<u8>) -> Result<(), Unreadable> {
    match kind {
        Kind::Auto => {
            // A text with a point in it is none with a decimal comma, and the other way round.
            let number = match decimal {
                Decimal::Comma if !text.contains('.') => text.replacen(',', ".", 1).into(),
                Decimal::Comma => Cow::Borrowed(""),
                Decimal::Any | Decimal::Point => Cow::Borrowed(text),
            };
            match is_json_number(&number) {
                true => out.extend_from_slice(number.as_bytes()),
                false => quote(text, out),
            }
        }
        Kind::Text => quote(text, out),
        Kind::Number(scale) => {
            let text = text.trim();
            let (sign, digits) = match text.strip_prefix(['+', '-']) {
                Some(digits) if text.starts_with('-') => ("-", digits),
                Some(digits) => ("", digits),
                None => ("", text),
            };
            let digits = digits.trim_start_matches([' ', '\t']);
            let has_wrong_mark = match decimal {
                Decimal::Any => false,
                Decimal::Point => digits.contains(','),
                Decimal::Comma => digits.contains('.'),
            };
            let is_begun = digits.starts_with(|first: char| first.is_ascii_digit() || ".,".contains(first));
            if has_wrong_mark || !is_begun {
                return Err(Unreadable::NotANumber);
            }
            let plain = format!("{sign}{}", as_json(&digits.replacen(',', ".", 1)));
            if scale == Scale::default() && is_json_number(&plain) {
                out.extend_from_slice(plain.as_bytes());
            } else {
                let usual = plain
                    .bytes()
                    .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'e' | b'E' | b'+'));
                let number = plain.parse::<f64>().ok().filter(|_| usual).ok_or(Unreadable::NotANumber)?;
                scaled(number, scale, out)?;
            }
        }
        Kind::Hexadecimal(scale) => {
            let digits = text.trim();
            let digits = digits.strip_prefix("0x").or(digits.strip_prefix("0X")).unwrap_or(digits);
            let number = if digits.starts_with('+') { None } else { u64::from_str_radix(digits, 16).ok() };
            let number = number.ok_or(Unreadable::NotANumber)?;
            if scale == Scale::default() {
                out.extend_from_slice(number.to_string().as_bytes());
            } else {
                scaled(number as f64, scale, out)?;
            }
        }
    }
    Ok(())
}

/// Digits of a device as JSON writes them, each kept that says something: without zeros in front,
/// with one before the point, and with the point only before others. What is no number stays none.
fn as_json(digits: &str) -> String {
    let end = digits.find(['e', 'E']).unwrap_or(digits.len());
    let (mantissa, exponent) = digits.split_at(end);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return digits.to_owned();
    }
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        whole => whole,
    };
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{whole}{point}{fraction}{exponent}")
}

fn scaled(number: f64, scale: Scale, out: &mut Vec<u8>) -> Result<(), Unreadable> {
    let number = number * scale.factor + scale.offset;
    if !number.is_finite() {
        return Err(Unreadable::NotANumber);
    }
    // Fifteen digits, because binary fractions add digits (235 × 0.1 = 23.500000000000004) that the
    // device did not send.
    let rounded: f64 = format!("{number:.14e}").parse().map_err(|_| Unreadable::NotANumber)?;
    let text = if rounded.fract() == 0.0 && rounded.abs() < 1e15 {
        format!("{rounded:.0}")
    } else {
        rounded.to_string()
    };
    out.extend_from_slice(if text == "-0" { "0" } else { &text }.as_bytes());
    Ok(())
}

/// A number of RFC 8259 §6 within the range of f64.
fn is_json_number(text: &str) -> bool {
    let rest = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let digits = |bytes: &[u8]| bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest[0] == b'0') || text.len() > 40 {
        return false;
    }
    let mut rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let count = digits(fraction);
        if count == 0 {
            return false;
        }
        rest = &fraction[count..];
    }
    if let Some(exponent) = rest.strip_prefix(b"e").or(rest.strip_prefix(b"E")) {
        let exponent = exponent.strip_prefix(b"-").or(exponent.strip_prefix(b"+")).unwrap_or(exponent);
        let count = digits(exponent);
        if count == 0 || count > 3 {
            return false;
        }
        rest = &exponent[count..];
    }
    rest.is_empty() && text.parse::<f64>().is_ok_and(f64::is_finite)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(extractor: &Extractor, frame: &[u8]) -> Result<(String, String), Unreadable> {
        let mut room = Room::default();
        let reading = extractor.read(frame, &mut room)?;
        Ok((reading.path.to_string(), String::from_utf8_lossy(reading.payload).into_owned()))
    }

    fn json(pattern: &str, kinds: &[(&str, Kind)], frame: &str) -> Result<String, Unreadable> {
        let extractor = Extractor::new(Form::Json, Some(pattern), kinds, "data").unwrap();
        read(&extractor, frame.as_bytes()).map(|(_, payload)| payload)
    }

    #[test]
    fn each_form_says_what_it_is() {
        let form = |form| Extractor::new(form, None, &[], "a/b").unwrap();
        let mut room = Room::default();
        let mut format = |extractor: &Extractor, frame: &[u8]| {
            extractor.read(frame, &mut room).map(|reading| reading.content_format)
        };
        assert_eq!(format(&form(Form::Raw), b"\xff\0"), Ok(None));
        assert_eq!(format(&form(Form::Text), "23 °C".as_bytes()), Ok(Some(ContentFormat::TEXT)));
        assert_eq!(format(&form(Form::Text), b"\xff"), Err(Unreadable::NotText));
        assert_eq!(format(&form(Form::Json), b" {\"t\": 1} "), Ok(Some(ContentFormat::JSON)));
        assert_eq!(format(&form(Form::Json), b"{\"t\": 1} x"), Err(Unreadable::NotJson));
    }

    #[test]
    fn alternatives_may_name_their_groups_alike_and_each_has_its_own_shape() {
        let pattern = r"^(?:(?<label>T[1-3]) (?P<value>\d{4})|(?<label>S) (?<value>[A-Z(?<]+)|(?<next>\+) (?<value>x))$";
        let kinds = [("value", Kind::Text)];
        let extractor = Extractor::new(Form::Json, Some(pattern), &kinds, "m/{label}").unwrap();
        let ok = |path: &str, payload: &str| Ok((path.to_owned(), payload.to_owned()));
        assert_eq!(read(&extractor, b"T2 0041"), ok("m/T2", r#"{"label":"T2","value":"0041"}"#));
        assert_eq!(read(&extractor, b"S ON"), ok("m/S", r#"{"label":"S","value":"ON"}"#));
        for wrong in [&b"S 0041"[..], b"T2 ON", b"T2 041"] {
            assert_eq!(read(&extractor, wrong), Err(Unreadable::NoMatch));
        }
        assert_eq!(read(&extractor, b"+ x"), Err(Unreadable::NoPath), "no group of that name matched");
        // What looks like a group and is none stays as it is.
        for same in [r"\(?<a>(?<a>x)", r"[(?<a>](?<a>x)", "(?<a>x)(?<b>y)", "(?<a", "(?", r"\"] {
            assert_eq!(numbered(same), same);
        }
    }

    #[test]
    fn captures_become_fields_and_the_path() {
        let pattern = r"^(?<id>\w+) T=(?<t>[-+0-9.,]+)(?: H=(?<h>\d+))?$";
        let extractor = Extractor::new(Form::Json, Some(pattern), &[], "m/{id}/env").unwrap();
        let ok = |path: &str, payload: &str| Ok((path.to_owned(), payload.to_owned()));
        assert_eq!(read(&extractor, b"a7 T=23.50 H=41"), ok("m/a7/env", r#"{"id":"a7","t":23.50,"h":41}"#));
        assert_eq!(read(&extractor, b"007 T=23,5"), ok("m/007/env", r#"{"id":"007","t":"23,5"}"#));
        assert_eq!(read(&extractor, b"T=23,5"), Err(Unreadable::NoMatch));
    }

    #[test]
    fn numbers_are_written_as_json_writes_them() {
        let number = Kind::Number(Scale::default());
        let tenth = Kind::Number(Scale { factor: 0.1, offset: -5.0 });
        for (kind, text, expected) in [
            (Kind::Auto, "-0.50", Ok("-0.50")),
            (Kind::Auto, "1e3", Ok("1e3")),
            (Kind::Auto, "00.5", Ok("\"00.5\"")),
            (Kind::Auto, "nan", Ok("\"nan\"")),
            (Kind::Text, "7", Ok("\"7\"")),
            (number, "+007", Ok("7")),
            (number, "23,50", Ok("23.50")),
            (number, " 00012.340 ", Ok("12.340")),
            // A counter of a meter: no digit is lost for the zeros in front.
            (number, "00012345678901234567.8", Ok("12345678901234567.8")),
            (number, "-0009007199254740993", Ok("-9007199254740993")),
            (number, "0000", Ok("0")),
            (number, "000.0", Ok("0.0")),
            (number, "7.", Ok("7")),
            (number, ".50", Ok("0.50")),
            (number, "0012e3", Ok("12e3")),
            (number, ".", Err(Unreadable::NotANumber)),
            (number, ",", Err(Unreadable::NotANumber)),
            (number, ".e1", Err(Unreadable::NotANumber)),
            (number, "1..2", Err(Unreadable::NotANumber)),
            (number, "0x10", Err(Unreadable::NotANumber)),
            (number, "00 12", Err(Unreadable::NotANumber)),
            (number, "nan", Err(Unreadable::NotANumber)),
            (number, "inf", Err(Unreadable::NotANumber)),
            (number, "1e999", Err(Unreadable::NotANumber)),
            (tenth, "235", Ok("18.5")),
            (Kind::Hexadecimal(Scale::default()), "00Ff", Ok("255")),
            (Kind::Hexadecimal(Scale::default()), "0x10", Ok("16")),
            (Kind::Hexadecimal(Scale::default()), "+10", Err(Unreadable::NotANumber)),
            (Kind::Hexadecimal(Scale { factor: 0.5, offset: 0.0 }), "3", Ok("1.5")),
        ] {
            let found = json("^(?<v>.*)$", &[("v", kind)], text);
            assert_eq!(found, expected.map(|value| format!("{{\"v\":{value}}}")), "{kind:?} {text:?}");
        }
    }

    #[test]
    fn a_decimal_comma_is_read_where_it_is_declared_and_a_point_is_no_number_there() {
        let pattern = "^(?<v>.*)$";
        let read = |decimal, kind, text: &str| {
            let extractor = Extractor::new(Form::Json, Some(pattern), &[("v", kind)], "data").unwrap();
            let extractor = extractor.with(Notation { decimal, ..Notation::default() });
            self::read(&extractor, text.as_bytes()).map(|(_, payload)| payload)
        };
        let number = Kind::Number(Scale::default());
        let tenth = Kind::Number(Scale { factor: 0.1, offset: 0.0 });
        let no = Err(Unreadable::NotANumber);
        for (decimal, kind, text, expected) in [
            (Decimal::Comma, Kind::Auto, "23,50", Ok("23.50")),
            (Decimal::Comma, Kind::Auto, "23.50", Ok("\"23.50\"")),
            (Decimal::Comma, Kind::Auto, "1.234,5", Ok("\"1.234,5\"")),
            (Decimal::Comma, Kind::Auto, "1,234,5", Ok("\"1,234,5\"")),
            (Decimal::Any, Kind::Auto, "23,50", Ok("\"23,50\"")),
            (Decimal::Comma, number, "-0023,50", Ok("-23.50")),
            // A comma between thousands is one like any other, unless a point is declared.
            (Decimal::Any, number, "1,234", Ok("1.234")),
            (Decimal::Point, number, "1,234", no),
            (Decimal::Point, number, "1,234.5", no),
            (Decimal::Any, number, "1,234,567", no),
            (Decimal::Any, number, "1.234.567", no),
            (Decimal::Any, number, "1'234.5", no),
            (Decimal::Comma, number, "1 234,5", no),
            (Decimal::Comma, number, "23.50", no),
            (Decimal::Comma, number, "1.234,5", no),
            (Decimal::Point, number, "23,50", no),
            (Decimal::Point, number, "23.50", Ok("23.50")),
            (Decimal::Any, number, "23,50", Ok("23.50")),
            (Decimal::Any, number, "1,234.5", no),
            (Decimal::Comma, tenth, "+ 23,5", Ok("2.35")),
        ] {
            let expected = expected.map(|value| format!("{{\"v\":{value}}}"));
            assert_eq!(read(decimal, kind, text), expected, "{decimal:?} {kind:?} {text:?}");
        }
    }

    #[test]
    fn blanks_may_stand_between_sign_and_digits_of_a_number() {
        let number = Kind::Number(Scale::default());
        for (text, expected) in [
            ("-  12.5", Ok("{\"v\":-12.5}")),
            ("+\t7", Ok("{\"v\":7}")),
            ("  - 0012,5 ", Ok("{\"v\":-12.5}")),
            ("- .5", Ok("{\"v\":-0.5}")),
            ("-", Err(Unreadable::NotANumber)),
            ("- -5", Err(Unreadable::NotANumber)),
            ("+-5", Err(Unreadable::NotANumber)),
            ("1 000", Err(Unreadable::NotANumber)),
            ("5-", Err(Unreadable::NotANumber)),
        ] {
            assert_eq!(json("^(?<v>.*)$", &[("v", number)], text), expected.map(str::to_owned), "{text:?}");
        }
    }

    #[test]
    fn a_pattern_sees_the_bytes_as_they_came_and_what_it_captures_becomes_utf_8() {
        let notation = |charset| Notation { charset, ..Notation::default() };
        let pattern = r"^(?<t>[0-9.]+) (?<unit>\xB0.)$";
        let extractor = Extractor::new(Form::Json, Some(pattern), &[], "m/{unit}").unwrap();
        assert_eq!(read(&extractor, b"21.5 \xB0C"), Err(Unreadable::NotText));
        let latin = extractor.clone().with(notation(Charset::Latin1));
        let expected = ("m/°C".to_owned(), "{\"t\":21.5,\"unit\":\"°C\"}".to_owned());
        assert_eq!(read(&latin, b"21.5 \xB0C"), Ok(expected));
        // The bytes of UTF-8 are two, and the pattern wants one.
        assert_eq!(read(&latin, "21.5 °C".as_bytes()), Err(Unreadable::NoMatch));
        let windows = extractor.with(notation(Charset::Windows1252));
        assert_eq!(read(&windows, b"21.5 \xB0\x81"), Err(Unreadable::NotWindows1252));
        for (form, frame, expected) in [
            (Form::Text, &b"\x80 5"[..], Ok("€ 5")),
            (Form::Text, b"\x8D", Err(Unreadable::NotWindows1252)),
            (Form::Json, b"{\"unit\":\"\xB0C\"}", Ok("{\"unit\":\"°C\"}")),
            (Form::Json, b"{\"\xB0\":1,\"\xB0\":2}", Err(Unreadable::DuplicateKey)),
        ] {
            let whole = Extractor::new(form, None, &[], "data").unwrap().with(notation(Charset::Windows1252));
            let expected = expected.map(|text| ("data".to_owned(), text.to_owned()));
            assert_eq!(read(&whole, frame), expected);
        }
        let utf8 = Extractor::new(Form::Json, None, &[], "data").unwrap();
        assert_eq!(read(&utf8, b"{\"unit\":\"\xB0C\"}"), Err(Unreadable::NotText));
    }

    #[test]
    fn a_captured_text_cannot_leave_its_place_in_the_path() {
        let extractor = Extractor::new(Form::Raw, Some("(?<id>.*)"), &[], "m/{id}").unwrap();
        for hostile in ["a/b", "", "+", "#", "a\0b", &"x".repeat(65)] {
            assert_eq!(read(&extractor, hostile.as_bytes()), Err(Unreadable::NoPath), "{hostile:?}");
        }
        let extractor = Extractor::new(Form::Raw, Some("(?<id>.*)"), &[], "{id}").unwrap();
        assert_eq!(read(&extractor, b"~x"), Err(Unreadable::NoPath));
        assert_eq!(read(&extractor, b"rd"), Err(Unreadable::NoPath));
    }

    #[test]
    fn what_cannot_be_read_is_told_before_it_runs() {
        let new =
            |form, pattern, kinds: &[(&str, Kind)], path| Extractor::new(form, pattern, kinds, path).err();
        let Some(ExtractorError::Pattern(text)) = new(Form::Text, Some("(a"), &[], "data") else { panic!() };
        assert_eq!(text, "unclosed group");
        let big = new(Form::Text, Some("(a{1000}){1000}"), &[], "data");
        assert!(matches!(big, Some(ExtractorError::Pattern(_))), "{big:?}");
        assert_eq!(new(Form::Text, None, &[], "m/{id}"), Some(ExtractorError::NoPattern("id".into())));
        assert_eq!(
            new(Form::Text, Some("(?<a>.)"), &[], "{id}"),
            Some(ExtractorError::NoCapture("id".into()))
        );
        assert_eq!(new(Form::Text, None, &[], "a}"), Some(ExtractorError::Brace));
        assert_eq!(new(Form::Text, None, &[], "a//b"), Some(ExtractorError::Path(PathError::EmptySegment)));
        assert_eq!(new(Form::Text, None, &[], "rd"), Some(ExtractorError::Reserved));
        assert_eq!(new(Form::Json, Some("."), &[], "data"), Some(ExtractorError::NoFields));
        assert_eq!(
            new(Form::Json, Some("(?<a>.)"), &[("b", Kind::Text)], "data"),
            Some(ExtractorError::NoCapture("b".into()))
        );
    }

    #[test]
    fn a_pattern_made_to_be_slow_is_not() {
        let extractor = Extractor::new(Form::Text, Some("^(a+)+$"), &[], "data").unwrap();
        let frame = [&[b'a'; 16_000][..], b"!"].concat();
        assert_eq!(read(&extractor, &frame), Err(Unreadable::NoMatch));
    }

    proptest! {
        #[test]
        fn whatever_is_captured_the_object_is_json(frame: Vec<u8>, scaled: bool) {
            let kind = if scaled { Kind::Number(Scale { factor: 1e300, offset: 1.0 }) } else { Kind::Auto };
            let extractor = Extractor::new(Form::Json, Some("(?s)^(?<a>.)?(?<b>.*)$"), &[("b", kind)], "data").unwrap();
            let mut room = Room::default();
            if let Ok(reading) = extractor.read(&frame, &mut room) {
                let value: serde_json::Value = serde_json::from_slice(reading.payload).unwrap();
                prop_assert!(value.is_object());
            }
        }

        #[test]
        fn numbers_of_devices_become_json(number in "[-+ ]?[0-9]{0,20}[.,]?[0-9]{0,5}(e-?[0-9]{1,4})?") {
            for kind in [Kind::Auto, Kind::Number(Scale::default()), Kind::Number(Scale { factor: 0.001, offset: 7.5 })] {
                if let Ok(text) = json("(?s)^(?<v>.*)$", &[("v", kind)], &number) {
                    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                    prop_assert!(kind == Kind::Auto || value["v"].is_number());
                }
            }
        }
    }
}
