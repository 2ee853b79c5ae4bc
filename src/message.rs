//! The types that every stage of the path shares: names, paths, content formats, record ids.
//!
//! Every southbound protocol turns its input into the same reading: *device D sent payload B of
//! content format F to path P*. This module has the types of that reading and imports no other
//! module of the crate. A value of these types is valid by construction: code that holds a [`Path`]
//! or a [`Name`] does not check it again.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

mod query;
mod topic_filter;

pub use query::{ArgumentError, Query, QueryBuffer, QueryError};
pub use topic_filter::covers;

/// Longest version of its firmware that a device may report, in bytes.
pub const FIRMWARE_VERSION_MAX: usize = 128;

/// Whether a text can be such a version: 1 to [`FIRMWARE_VERSION_MAX`] printable ASCII characters.
pub fn is_firmware_version(text: &str) -> bool {
    (1..=FIRMWARE_VERSION_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Longest name of a device, gateway, role or port, in bytes.
pub const NAME_MAX: usize = 64;
/// Longest path, in bytes, separators included.
pub const PATH_MAX: usize = 255;
/// Most segments a path may have.
pub const PATH_SEGMENTS_MAX: usize = 16;
/// Longest path segment, in bytes.
pub const SEGMENT_MAX: usize = 64;
/// Longest MQTT topic a reading may be mapped to, in bytes.
pub const TOPIC_MAX: usize = 1024;
/// The device id that is reserved for the gateway's own topics; no device may have it.
pub const RESERVED_DEVICE: &str = "gateway";

/// A name of a device, gateway, role or port: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// Parses `text` as a name.
    ///
    /// # Errors
    /// [`NameError`], the first rule that `text` breaks. It does not contain `text`.
    pub fn parse(text: &str) -> Result<Name, NameError> {
        let bytes = text.as_bytes();
        let Some(first) = bytes.first() else {
            return Err(NameError::Empty);
        };
        if bytes.len() > NAME_MAX {
            return Err(NameError::TooLong);
        }
        if !first.is_ascii_alphanumeric() {
            return Err(NameError::FirstCharacter);
        }
        if !bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return Err(NameError::Character);
        }
        Ok(Name(Arc::from(text)))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// The text is empty.
    Empty,
    /// More than [`NAME_MAX`] bytes.
    TooLong,
    /// The first character is not an ASCII letter or digit.
    FirstCharacter,
    /// A character other than an ASCII letter, digit, `.`, `_` or `-`.
    Character,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NameError::Empty => "a name needs at least one character",
            NameError::TooLong => "a name has at most 64 characters",
            NameError::FirstCharacter => "a name begins with a letter or a digit",
            NameError::Character => "a name has only letters, digits, '.', '_' and '-'",
        })
    }
}

impl std::error::Error for NameError {}

/// A path within one device: the CoAP Uri-Path, or the serial channel.
///
/// 1 to 16 segments of 1 to 64 bytes, at most 255 bytes in all, UTF-8, without `/`, `+`, `#` or a
/// control character inside a segment. Percent-encoding is not decoded. The value is stored as
/// segments joined by `/`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Path<'a>(&'a str);

impl<'a> Path<'a> {
    /// Parses segments joined by `/`; one trailing `/` is dropped.
    ///
    /// # Errors
    /// [`PathError`], the first rule broken.
    pub fn parse(text: &'a str) -> Result<Path<'a>, PathError> {
        let text = text.strip_suffix('/').unwrap_or(text);
        if text.is_empty() {
            return Err(PathError::Empty);
        }
        if text.len() > PATH_MAX {
            return Err(PathError::TooLong);
        }
        let mut segments = 0;
        for segment in text.split('/') {
            check_segment(segment.as_bytes())?;
            segments += 1;
        }
        if segments > PATH_SEGMENTS_MAX {
            return Err(PathError::TooManySegments);
        }
        Ok(Path(text))
    }

    /// The segments joined by `/`, without a leading or trailing `/`.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// The segments in order.
    pub fn segments(self) -> impl DoubleEndedIterator<Item = &'a str> + Clone {
        self.0.split('/')
    }

    /// Whether the first segment is reserved for the gateway's own resources. A reading at such a
    /// path is never published.
    pub fn is_reserved(self) -> bool {
        let first = self.0.split('/').next().unwrap_or_default();
        matches!(first, ".well-known" | "rd" | "firmware" | "time") || first.starts_with('~')
    }

    /// Of `~CHILD/path` the child and the path there, `None` if that is missing; `None` for a path
    /// that does not begin with `~`. The child need not be a name.
    pub fn of_child(self) -> Option<(&'a str, Option<Path<'a>>)> {
        let rest = self.0.strip_prefix('~')?;
        // Whole segments of a path are a path.
        Some(rest.split_once('/').map_or((rest, None), |(child, path)| (child, Some(Path(path)))))
    }
}

impl fmt::Debug for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A buffer that joins raw segments (CoAP Uri-Path options) to a [`Path`] without allocating.
pub struct PathBuffer {
    bytes: [u8; PATH_MAX],
}

impl Default for PathBuffer {
    fn default() -> Self {
        PathBuffer { bytes: [0; PATH_MAX] }
    }
}

impl PathBuffer {
    /// Joins raw segments. One trailing empty segment is dropped (`coap://host/a/` is `a`).
    ///
    /// # Errors
    /// [`PathError`], the first rule broken. No segment at all is [`PathError::Empty`].
    pub fn join<'a, 's>(
        &'a mut self,
        segments: impl Iterator<Item = &'s [u8]>,
    ) -> Result<Path<'a>, PathError> {
        let mut length = 0;
        let mut count = 0;
        let mut trailing_empty = false;
        for segment in segments {
            if trailing_empty {
                return Err(PathError::EmptySegment);
            }
            if segment.is_empty() {
                trailing_empty = true;
                continue;
            }
            check_segment(segment)?;
            count += 1;
            if count > PATH_SEGMENTS_MAX {
                return Err(PathError::TooManySegments);
            }
            let separator = usize::from(length > 0);
            let end = length + separator + segment.len();
            let Some(room) = self.bytes.get_mut(length..end) else {
                return Err(PathError::TooLong);
            };
            if separator == 1 {
                room[0] = b'/';
            }
            room[separator..].copy_from_slice(segment);
            length = end;
        }
        if length == 0 {
            return Err(PathError::Empty);
        }
        // Every segment was checked to be UTF-8, and '/' is.
        std::str::from_utf8(&self.bytes[..length]).map(Path).map_err(|_| PathError::NotUtf8)
    }
}

fn check_segment(segment: &[u8]) -> Result<(), PathError> {
    if segment.is_empty() {
        return Err(PathError::EmptySegment);
    }
    if segment.len() > SEGMENT_MAX {
        return Err(PathError::SegmentTooLong);
    }
    if segment.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~')) {
        return Ok(());
    }
    let text = std::str::from_utf8(segment).map_err(|_| PathError::NotUtf8)?;
    if text.chars().any(|c| c == '/' || !is_topic_character(c)) {
        return Err(PathError::Character);
    }
    Ok(())
}

/// Whether `c` may stand in an MQTT topic name: no wildcard, no control character, and none of
/// Unicode's noncharacters, for which brokers close the connection (MQTT 5.0 §1.5.4).
pub fn is_topic_character(c: char) -> bool {
    let code = u32::from(c);
    !(matches!(c, '+' | '#')
        || c.is_control()
        || code & 0xFFFE == 0xFFFE
        || (0xFDD0..=0xFDEF).contains(&code))
}

/// Why a text or a list of segments is not a [`Path`]. CoAP answers each with 4.00 Bad Request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// No segment.
    Empty,
    /// A segment other than the last is empty.
    EmptySegment,
    /// More than [`SEGMENT_MAX`] bytes in one segment.
    SegmentTooLong,
    /// More than [`PATH_SEGMENTS_MAX`] segments.
    TooManySegments,
    /// More than [`PATH_MAX`] bytes.
    TooLong,
    /// A segment is not UTF-8.
    NotUtf8,
    /// `/`, `+`, `#`, a control character or a Unicode noncharacter inside a segment.
    Character,
    /// A segment of a command is `.` or `..`.
    Dots,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PathError::Empty => "the path is empty",
            PathError::EmptySegment => "a path segment is empty",
            PathError::SegmentTooLong => "a path segment has more than 64 bytes",
            PathError::TooManySegments => "the path has more than 16 segments",
            PathError::TooLong => "the path has more than 255 bytes",
            PathError::NotUtf8 => "the path is not UTF-8",
            PathError::Character => "a path segment has '/', '+', '#' or a control character",
            PathError::Dots => {
                "a path segment is '.' or '..', which no Uri-Path has (RFC 7252 section 5.10.1)"
            }
        })
    }
}

impl std::error::Error for PathError {}

/// The first `most` bytes of a text, or fewer so that no character is cut.
pub fn beginning(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// A CoAP Content-Format number (RFC 7252 §12.3). Readings of every southbound protocol have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentFormat(pub u16);

impl ContentFormat {
    /// `text/plain;charset=utf-8`
    pub const TEXT: ContentFormat = ContentFormat(0);
    /// `application/link-format` (RFC 6690)
    pub const LINK_FORMAT: ContentFormat = ContentFormat(40);
    /// `application/octet-stream`
    pub const OCTET_STREAM: ContentFormat = ContentFormat(42);
    /// `application/json`
    pub const JSON: ContentFormat = ContentFormat(50);
    /// `application/cbor`
    pub const CBOR: ContentFormat = ContentFormat(60);
    /// `application/senml+json` (RFC 8428)
    pub const SENML_JSON: ContentFormat = ContentFormat(110);
    /// `application/senml+cbor` (RFC 8428)
    pub const SENML_CBOR: ContentFormat = ContentFormat(112);

    /// The media type for the MQTT 5 Content Type property (MQTT 5.0 §3.3.2.3.9), as IANA's
    /// registry has it, without a content coding; `None` for a number that is not registered.
    ///
    /// The table is that of `coap-numbers` 0.2.11: the registry "CoAP Content-Formats" of
    /// 2026-03-18 or later (the date of its newest dated entry).
    pub fn media_type(self) -> Option<&'static str> {
        // Registered with a blank since RFC 7252; published without it since the first release.
        if self == ContentFormat::TEXT {
            return Some("text/plain;charset=utf-8");
        }
        let name = coap_numbers::content_format::to_str(self.0)?;
        Some(name.rsplit_once('@').map_or(name, |(media_type, _)| media_type))
    }

    /// The number of a media type without a content coding, in any case and with or without blanks
    /// at its parameters (RFC 6838 §4.2, RFC 9110 §8.3.1). Of JSON a `charset=utf-8` says nothing
    /// (RFC 8259 §8.1, §11). `None` if CoAP has none.
    pub fn from_media_type(text: &str) -> Option<ContentFormat> {
        static FORMATS: OnceLock<HashMap<String, u16>> = OnceLock::new();
        // As most write it.
        if let Some(format) = coap_numbers::content_format::from_str(text).filter(|_| !text.contains('@')) {
            return Some(ContentFormat(format));
        }
        let formats = FORMATS.get_or_init(|| {
            let mut formats = HashMap::from([("text/plain".to_owned(), ContentFormat::TEXT.0)]);
            for format in (0..=u16::MAX).map(ContentFormat) {
                if let Some(name) = format.media_type().filter(|_| format.content_coding().is_none()) {
                    formats.entry(plainest(name)).or_insert(format.0);
                }
            }
            formats
        });
        let wanted = plainest(text);
        let known = |name: &str| formats.get(name).map(|number| ContentFormat(*number));
        let of_json =
            || wanted.strip_suffix(";charset=utf-8").and_then(known).filter(|format| format.is_json());
        known(&wanted).or_else(of_json)
    }

    /// Whether a payload of it is a CBOR document: `application/cbor`, or a type with the suffix
    /// `+cbor` (RFC 8949 §9.5).
    pub fn is_cbor(self) -> bool {
        self == ContentFormat::CBOR || self.has_syntax("application/cbor", "+cbor")
    }

    /// Whether a payload of it is a JSON document: `application/json`, or a type with the suffix
    /// `+json` (RFC 6839 §3.1).
    pub fn is_json(self) -> bool {
        self == ContentFormat::JSON || self.has_syntax("application/json", "+json")
    }

    fn has_syntax(self, media_type: &str, suffix: &str) -> bool {
        let is_it = |text: &str| {
            let plain = text.split(';').next().unwrap_or_default().trim_end();
            plain == media_type || plain.ends_with(suffix)
        };
        self.media_type().is_some_and(is_it)
    }

    /// The content coding of the payload, such as `deflate` (RFC 7252 §12.3); `None` for the
    /// identity coding and for a number that is not registered.
    pub fn content_coding(self) -> Option<&'static str> {
        // The form of RFC 9193: `application/json@deflate`.
        Some(coap_numbers::content_format::to_str(self.0)?.rsplit_once('@')?.1)
    }
}

/// A media type in one of the ways in which it can be written.
fn plainest(media_type: &str) -> String {
    media_type.to_ascii_lowercase().split(';').map(str::trim).collect::<Vec<_>>().join(";")
}

impl fmt::Display for ContentFormat {
    /// The number, with its media type where it is registered: `50 (application/json)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.media_type() {
            Some(media_type) => write!(f, "{} ({media_type})", self.0),
            None => self.0.fmt(f),
        }
    }
}

/// The method of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Method {
    /// CoAP POST; also every reading of a serial port.
    Post = 2,
    /// CoAP PUT.
    Put = 3,
    /// CoAP DELETE: published as an empty retained message.
    Delete = 4,
}

impl Method {
    /// The value of the MQTT user property `method`.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
        }
    }

    /// The method with this name; case is ignored.
    pub fn parse(text: &str) -> Option<Method> {
        [Method::Post, Method::Put, Method::Delete]
            .into_iter()
            .find(|method| method.as_str().eq_ignore_ascii_case(text))
    }

    /// The method of a CoAP request code's detail (RFC 7252 §12.1.1); `None` for GET and unknown
    /// codes.
    pub fn from_code(code: u8) -> Option<Method> {
        Some(match code {
            2 => Method::Post,
            3 => Method::Put,
            4 => Method::Delete,
            _ => return None,
        })
    }
}

/// One of the two independent queues of the journal. Order holds within a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Lane {
    /// For alarms. While both lanes have records to send, it gets three of four places in the
    /// uplink's window.
    High = 0,
    /// Everything else.
    Normal = 1,
}

impl Lane {
    /// Both lanes, the more urgent first.
    pub const ALL: [Lane; 2] = [Lane::High, Lane::Normal];

    /// The name in the configuration, in folder names and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Lane::High => "high",
            Lane::Normal => "normal",
        }
    }

    /// The lane with this name.
    pub fn parse(text: &str) -> Option<Lane> {
        Lane::ALL.into_iter().find(|lane| lane.as_str() == text)
    }

    /// The index into arrays with one value per lane.
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Identifies one stored record: `{run}-{sequence}`, published as the user property `id`.
///
/// `run` is 64 random bits, drawn for each lane each time the journal is opened, so an id is not
/// used twice, even after a backup is restored. `sequence` counts the records of the lane from 1,
/// without gaps and across runs, so a range of sequences gives the exact number of records in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId {
    /// Identifies the opening of the journal that wrote the record.
    pub run: u64,
    /// The record's number in its lane, from 1.
    pub sequence: u64,
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.run, self.sequence)
    }
}

impl RecordId {
    /// Used in a loss report when the lost records are not known.
    pub const UNKNOWN: RecordId = RecordId { run: 0, sequence: 0 };

    /// Parses the form that `Display` writes; `None` if `text` does not have it.
    pub fn parse(text: &str) -> Option<RecordId> {
        let (run, sequence) = text.split_once('-')?;
        if run.len() != 16 {
            return None;
        }
        Some(RecordId { run: u64::from_str_radix(run, 16).ok()?, sequence: sequence.parse().ok()? })
    }
}

/// How the payload of a record is wrapped when it is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Envelope {
    /// The payload bytes unchanged.
    #[default]
    None = 0,
    /// One JSON object with the payload and the values that MQTT 5 properties would carry.
    Json = 1,
}

/// When a reading was received, as far as it was known at that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// Milliseconds of `CLOCK_BOOTTIME`; comparable only within one boot.
    pub boottime_ms: u64,
    /// Wall time in milliseconds since 1970-01-01 UTC, if the wall clock was trusted at that
    /// moment.
    pub wall_ms: Option<u64>,
}

/// What the journal stores of one reading: everything the uplink needs to publish it, also after a
/// reload or a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content<'a> {
    /// The id of the device that sent it.
    pub device: &'a str,
    /// The path within the device.
    pub path: &'a str,
    /// The query of the request ([`Query`]); `None` if it had none. Of a reply, the properties of a
    /// part: published one by one.
    pub query: Option<&'a str>,
    /// The topic it was mapped to; `1..=1024` bytes. A later change of the rules does not change
    /// it.
    pub topic: &'a str,
    /// The method it was sent with.
    pub method: Method,
    /// The payload's content format, if the device named it.
    pub content_format: Option<ContentFormat>,
    /// Publish with the retain flag.
    pub retain: bool,
    /// Sent by `tombolo device test` in the place of the device.
    pub test: bool,
    /// How the payload is wrapped.
    pub envelope: Envelope,
    /// Seconds after `received` at which it expires; `None` = never.
    pub expires_s: Option<u32>,
    /// When it was received.
    pub received: Stamp,
    /// The payload, unwrapped; may be empty.
    pub payload: &'a [u8],
    /// `Some`: it is no reading but the reply to a command.
    pub reply: Option<CommandReply<'a>>,
}

/// Longest correlation data of a command, in bytes.
pub const CORRELATION_MAX: usize = 1024;
/// Longest status of a reply, in bytes.
pub const STATUS_MAX: usize = 16;

/// What the reply to a command has beside a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandReply<'a> {
    /// What became of the command: the device's CoAP code, `2.04`, or a word like `timeout`;
    /// `1..=16` bytes of ASCII.
    pub status: &'a str,
    /// The correlation data of the command, `0..=1,024` bytes; `None` if it had none.
    pub correlation: Option<&'a [u8]>,
    /// The payload is not all that the device answered.
    pub partial: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_grammar() {
        assert!(Name::parse("door-7").is_ok());
        assert!(Name::parse("7.a_b").is_ok());
        assert!(Name::parse(&"x".repeat(64)).is_ok());
        assert_eq!(Name::parse(""), Err(NameError::Empty));
        assert_eq!(Name::parse(&"x".repeat(65)), Err(NameError::TooLong));
        assert_eq!(Name::parse("-a"), Err(NameError::FirstCharacter));
        assert_eq!(Name::parse("a/b"), Err(NameError::Character));
        assert_eq!(Name::parse("tür"), Err(NameError::Character));
    }

    #[test]
    fn raw_segments_and_text_make_the_same_path() {
        let mut buffer = PathBuffer::default();
        let joined = buffer.join([&b"t"[..], b"env", b""].into_iter()).unwrap();
        assert_eq!(joined, Path::parse("t/env/").unwrap());
        assert_eq!(joined.as_str(), "t/env");
    }

    #[test]
    fn hostile_segments_are_refused() {
        let mut buffer = PathBuffer::default();
        let mut join = |segments: &[&[u8]]| buffer.join(segments.iter().copied()).map(|p| p.as_str().len());
        assert_eq!(join(&[]), Err(PathError::Empty));
        assert_eq!(join(&[b""]), Err(PathError::Empty));
        assert_eq!(join(&[b"", b"a"]), Err(PathError::EmptySegment));
        assert_eq!(join(&[b"a", b"", b""]), Err(PathError::EmptySegment));
        assert_eq!(join(&[b"a/b"]), Err(PathError::Character));
        assert_eq!(join(&[b"a+"]), Err(PathError::Character));
        assert_eq!(join(&[b"#"]), Err(PathError::Character));
        assert_eq!(join(&[b"a\0"]), Err(PathError::Character));
        assert_eq!(join(&[b"\xff"]), Err(PathError::NotUtf8));
        assert_eq!(join(&["a\u{ffff}".as_bytes()]), Err(PathError::Character));
        assert_eq!(join(&["\u{fdd0}".as_bytes()]), Err(PathError::Character));
        assert_eq!(join(&["größe".as_bytes()]), Ok("größe".len()));
        assert_eq!(join(&[&[b'a'; 65]]), Err(PathError::SegmentTooLong));
        assert_eq!(join(&[&b"a"[..]; 17]), Err(PathError::TooManySegments));
        assert_eq!(join(&[&[b'a'; 64][..]; 4]), Err(PathError::TooLong));
        assert_eq!(join(&[&[b'a'; 63][..]; 4]), Ok(255));
    }

    #[test]
    fn reserved_first_segments_are_known() {
        for text in [".well-known/core", "rd", "firmware/x", "time", "~a/b"] {
            assert!(Path::parse(text).unwrap().is_reserved(), "{text}");
        }
        assert!(!Path::parse("t/rd").unwrap().is_reserved());
        let of_child = |text| {
            let of_child = Path::parse(text).unwrap().of_child();
            of_child.map(|(child, path)| (child, path.map(Path::as_str)))
        };
        assert_eq!(of_child("~a/t/b"), Some(("a", Some("t/b"))));
        assert_eq!(of_child("~a/~b/t"), Some(("a", Some("~b/t"))));
        assert_eq!((of_child("~a"), of_child("~/t")), (Some(("a", None)), Some(("", Some("t")))));
        assert_eq!((of_child("a/~b/t"), of_child("rd")), (None, None));
    }

    #[test]
    fn every_registered_content_format_has_its_media_type() {
        let media = |number| ContentFormat(number).media_type();
        for (number, name) in [
            (0, "text/plain;charset=utf-8"),
            (16, "application/cose; cose-type=\"cose-encrypt0\""),
            (42, "application/octet-stream"),
            (111, "application/sensml+json"),
            (114, "application/senml-exi"),
            (310, "application/senml+xml"),
            (11_050, "application/json"),
            (11_542, "application/vnd.oma.lwm2m+tlv"),
            (30_000, "image/svg+xml"),
        ] {
            assert_eq!(media(number), Some(name));
        }
        assert_eq!((media(1), media(64_999), media(65_535)), (None, None, None));
        let named: Vec<u16> = (0..=u16::MAX).filter(|number| media(*number).is_some()).collect();
        assert!(named.len() >= 119, "{}", named.len());
        for number in named {
            assert!(!media(number).is_some_and(|name| name.contains('@')), "{number}");
        }
        let of = |text| ContentFormat::from_media_type(text).map(|format| format.0);
        for (text, number) in [
            ("application/json", 50),
            ("Application/JSON", 50),
            ("application/json; charset=utf-8", 50),
            ("application/json;charset=UTF-8", 50),
            ("APPLICATION/CBOR", 60),
            ("text/plain", 0),
            ("text/plain; charset=utf-8", 0),
            ("application/cose;cose-type=\"cose-encrypt0\"", 16),
        ] {
            assert_eq!(of(text), Some(number), "{text}");
        }
        for text in
            ["application/xml; charset=utf-8", "application/json@deflate", "application/cbor; x=1", ""]
        {
            assert_eq!(of(text), None, "{text}");
        }
        let coding = |number| ContentFormat(number).content_coding();
        assert_eq!((coding(11_060), coding(12_000), coding(50)), (Some("deflate"), Some("zstd"), None));
    }

    #[test]
    fn a_record_id_reads_back() {
        let id = RecordId { run: 0x0102_0304_0506_0708, sequence: 42 };
        assert_eq!(id.to_string(), "0102030405060708-42");
        assert_eq!(RecordId::parse(&id.to_string()), Some(id));
        assert_eq!(RecordId::parse("12-42"), None);
    }
}
