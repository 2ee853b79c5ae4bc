//! The query of a request: its Uri-Query options as the query component of its URI.
//!
//! Each argument is percent-encoded as RFC 7252 §6.5 (step 8) requires and the arguments are joined
//! by `&`, so the text is ASCII and two different lists of arguments never have the same text.

use std::fmt;

use super::{Name, PATH_MAX, Path, PathError, SEGMENT_MAX, check_segment};

/// The query component of a request's URI, without the leading `?`. May be empty: one empty
/// argument.
///
/// ASCII. With its path and the `?` between them it has at most [`PATH_MAX`] bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// The text, such as `unit=C&place=K%C3%B6ln`.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// The value of the argument `name=VALUE`, decoded into `buffer`. It follows the rules of a
    /// path segment, so it is safe in a topic.
    ///
    /// # Errors
    /// [`ArgumentError`]: there is no such argument, there are two, or its value is not a segment.
    pub fn value<'b>(self, name: &Name, buffer: &'b mut [u8; SEGMENT_MAX]) -> Result<&'b str, ArgumentError> {
        let name = name.as_str();
        // A name has only unreserved characters, which are never percent-encoded.
        let mut values = self.0.split('&').filter_map(|argument| {
            let rest = argument.strip_prefix(name)?;
            if rest.is_empty() { Some("") } else { rest.strip_prefix('=') }
        });
        let value = values.next().ok_or(ArgumentError::Missing)?;
        if values.next().is_some() {
            return Err(ArgumentError::Repeated);
        }
        let mut length = 0;
        let mut rest = value.bytes();
        while let Some(byte) = rest.next() {
            let byte = match byte {
                b'%' => hex(rest.next()) << 4 | hex(rest.next()),
                byte => byte,
            };
            let place = buffer.get_mut(length).ok_or(ArgumentError::Value(PathError::SegmentTooLong))?;
            *place = byte;
            length += 1;
        }
        let value = &buffer[..length];
        check_segment(value).map_err(ArgumentError::Value)?;
        std::str::from_utf8(value).map_err(|_| ArgumentError::Value(PathError::NotUtf8))
    }
}

impl fmt::Debug for Query<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for Query<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The value of a hexadecimal digit that [`QueryBuffer::join`] wrote.
fn hex(digit: Option<u8>) -> u8 {
    digit.and_then(|digit| char::from(digit).to_digit(16)).unwrap_or_default() as u8
}

/// A buffer that joins raw arguments (CoAP Uri-Query options) to a [`Query`] without allocating.
pub struct QueryBuffer {
    bytes: [u8; PATH_MAX],
    length: usize,
    most: usize,
}

impl Default for QueryBuffer {
    fn default() -> Self {
        QueryBuffer { bytes: [0; PATH_MAX], length: 0, most: 0 }
    }
}

impl QueryBuffer {
    /// Joins the arguments of a request for `path`; `None` if there is none.
    ///
    /// # Errors
    /// [`QueryError`], the first rule broken.
    pub fn join<'a, 's>(
        &'a mut self,
        path: Path<'_>,
        arguments: impl Iterator<Item = &'s [u8]>,
    ) -> Result<Option<Query<'a>>, QueryError> {
        self.length = 0;
        self.most = PATH_MAX.saturating_sub(path.as_str().len() + 1);
        let mut first = true;
        for argument in arguments {
            if !first {
                self.push(b"&")?;
            } else if path.as_str().len() == PATH_MAX {
                return Err(QueryError::TooLong);
            }
            first = false;
            if std::str::from_utf8(argument).is_err() {
                return Err(QueryError::NotUtf8);
            }
            for &byte in argument {
                if is_literal(byte) {
                    self.push(&[byte])?;
                } else {
                    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                    let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
                    self.push(&[b'%', DIGITS[high], DIGITS[low]])?;
                }
            }
        }
        // Only ASCII was written.
        let text = std::str::from_utf8(&self.bytes[..self.length]).map_err(|_| QueryError::NotUtf8)?;
        Ok((!first).then_some(Query(text)))
    }

    /// As [`QueryBuffer::join`], for the query component of a URI: the arguments are separated by
    /// `&` and percent-encoded, possibly in another way than [`Query`] has them.
    ///
    /// # Errors
    /// [`QueryError`], the first rule broken.
    pub fn parse<'a>(&'a mut self, path: Path<'_>, text: &str) -> Result<Query<'a>, QueryError> {
        let arguments: Option<Vec<Vec<u8>>> = text.split('&').map(decode).collect();
        let arguments = arguments.ok_or(QueryError::Percent)?;
        // There is always one argument, which may be empty.
        Ok(self.join(path, arguments.iter().map(Vec::as_slice))?.unwrap_or(Query("")))
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), QueryError> {
        let end = self.length + bytes.len();
        if end > self.most {
            return Err(QueryError::TooLong);
        }
        self.bytes[self.length..end].copy_from_slice(bytes);
        self.length = end;
        Ok(())
    }
}

/// Whether RFC 7252 §6.5 (step 8) leaves this byte of an argument as it is: unreserved, sub-delims
/// without `&`, and `:` `@` `/` `?` (RFC 3986 §2.2, §2.3).
fn is_literal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$'()*+,;=:@/?".contains(&byte)
}

/// Decodes percent-encoding; `None` if a `%` has no two hexadecimal digits after it.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let digit = |digit: Option<u8>| char::from(digit?).to_digit(16);
                (digit(rest.next())? << 4 | digit(rest.next())?) as u8
            }
            byte => byte,
        };
        bytes.push(byte);
    }
    Some(bytes)
}

/// Why a list of arguments is not a [`Query`]. CoAP answers each with 4.00 Bad Request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryError {
    /// More than [`PATH_MAX`] bytes with the path, percent-encoded.
    TooLong,
    /// An argument is not UTF-8 (RFC 7252 §3.2).
    NotUtf8,
    /// A `%` without two hexadecimal digits; only in a URI.
    Percent,
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            QueryError::TooLong => "the path and the query have more than 255 bytes together",
            QueryError::NotUtf8 => "the query is not UTF-8",
            QueryError::Percent => "a '%' in the query has no two hexadecimal digits after it",
        })
    }
}

impl std::error::Error for QueryError {}

/// Why an argument of the query cannot be used in a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgumentError {
    /// The request has no such argument.
    Missing,
    /// The request has it more than once.
    Repeated,
    /// Its value is not a valid path segment.
    Value(PathError),
}

impl fmt::Display for ArgumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ArgumentError::Missing => "the query does not have it",
            ArgumentError::Repeated => "the query has it more than once",
            ArgumentError::Value(PathError::Empty | PathError::EmptySegment) => "its value is empty",
            ArgumentError::Value(PathError::SegmentTooLong) => "its value has more than 64 bytes",
            ArgumentError::Value(PathError::NotUtf8) => "its value is not UTF-8",
            ArgumentError::Value(_) => "its value has '/', '+', '#' or a control character",
        })
    }
}

impl std::error::Error for ArgumentError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> Path<'_> {
        Path::parse(text).unwrap()
    }

    fn joined(arguments: &[&[u8]]) -> Result<Option<String>, QueryError> {
        let mut buffer = QueryBuffer::default();
        let query = buffer.join(path("t"), arguments.iter().copied())?;
        Ok(query.map(|query| query.as_str().to_owned()))
    }

    fn value(arguments: &[&[u8]], name: &str) -> Result<String, ArgumentError> {
        let mut buffer = QueryBuffer::default();
        let query = buffer.join(path("t"), arguments.iter().copied()).unwrap().unwrap();
        query.value(&Name::parse(name).unwrap(), &mut [0; SEGMENT_MAX]).map(str::to_owned)
    }

    #[test]
    fn arguments_are_encoded_as_in_a_uri_and_joined() {
        assert_eq!(joined(&[]), Ok(None));
        assert_eq!(joined(&[b""]), Ok(Some(String::new())), "an empty query is a query");
        assert_eq!(joined(&[b"unit=C", b"n=1"]), Ok(Some("unit=C&n=1".into())));
        assert_eq!(joined(&["ort=Köln".as_bytes()]), Ok(Some("ort=K%C3%B6ln".into())));
        assert_eq!(joined(&[b"a=1&b", b"c"]), Ok(Some("a=1%26b&c".into())), "an '&' that separates nothing");
        assert_eq!(joined(&[b"p=50%", b"x=a/b?c:d@e+f"]), Ok(Some("p=50%25&x=a/b?c:d@e+f".into())));
        assert_eq!(joined(&[b"x=\0#\" {}"]), Ok(Some("x=%00%23%22%20%7B%7D".into())));
        assert_eq!(joined(&[b"x=\xff"]), Err(QueryError::NotUtf8));
    }

    #[test]
    fn the_path_and_the_query_are_bounded_together() {
        let mut buffer = QueryBuffer::default();
        let long = [b'a'; 255];
        assert!(buffer.join(path("t"), [&long[..253]].into_iter()).is_ok());
        assert_eq!(buffer.join(path("t"), [&long[..254]].into_iter()), Err(QueryError::TooLong));
        let deep = ["a".repeat(63), "a".repeat(63), "a".repeat(63), "a".repeat(62)].join("/");
        assert!(buffer.join(path(&deep), [&b""[..]].into_iter()).is_ok());
        let deep = deep + "a";
        assert_eq!(buffer.join(path(&deep), [&b""[..]].into_iter()), Err(QueryError::TooLong));
        assert!(buffer.join(path(&deep), [].into_iter()).is_ok_and(|query| query.is_none()));
    }

    #[test]
    fn fifty_arguments_are_kept_in_their_order_and_those_without_a_name_stay() {
        let arguments: Vec<String> = (0..50).map(|number| format!("{}=1", number % 10)).collect();
        let bytes: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
        assert_eq!(joined(&bytes), Ok(Some(arguments.join("&"))));
        assert_eq!(value(&bytes, "3"), Err(ArgumentError::Repeated));
        let mut own = bytes.clone();
        own[49] = b"unit=C";
        assert_eq!(value(&own, "unit").as_deref(), Ok("C"));
        // Sixty-four would be longer than a path may be.
        assert_eq!(joined(&[&b"a=1"[..]; 64]), Err(QueryError::TooLong));
        let nameless: &[&[u8]] = &[b"=x", b"", b"=", b"n=1", b""];
        assert_eq!(joined(nameless), Ok(Some("=x&&=&n=1&".into())));
        assert_eq!(value(nameless, "n").as_deref(), Ok("1"));
        assert_eq!(joined(&[b"n=\xC3"]), Err(QueryError::NotUtf8));
        assert_eq!(joined(&[b"n=\xED\xA0\x80"]), Err(QueryError::NotUtf8), "a surrogate");
        assert_eq!(joined(&[b"n=%FF"]), Ok(Some("n=%25FF".into())), "text, and no byte FF");
    }

    #[test]
    fn a_value_is_found_by_its_name_and_decoded() {
        let query: &[&[u8]] = &[b"unit=C", b"place=K\xc3\xb6ln", b"flag", b"twice=1", b"twice=2", b"long="];
        assert_eq!(value(query, "unit").as_deref(), Ok("C"));
        assert_eq!(value(query, "place").as_deref(), Ok("Köln"));
        assert_eq!(value(query, "uni"), Err(ArgumentError::Missing));
        assert_eq!(value(query, "twice"), Err(ArgumentError::Repeated));
        assert_eq!(value(query, "flag"), Err(ArgumentError::Value(PathError::EmptySegment)));
        assert_eq!(value(query, "long"), Err(ArgumentError::Value(PathError::EmptySegment)));
    }

    #[test]
    fn a_value_that_is_not_a_segment_is_refused() {
        for bad in [&b"n=a/b"[..], b"n=+", b"n=#", b"n=a\0", b"n=\xef\xbf\xbf"] {
            assert_eq!(value(&[bad], "n"), Err(ArgumentError::Value(PathError::Character)), "{bad:?}");
        }
        let long = [&b"n="[..], &[b'x'; 65]].concat();
        assert_eq!(value(&[&long], "n"), Err(ArgumentError::Value(PathError::SegmentTooLong)));
        assert!(value(&[&long[..66]], "n").is_ok());
    }

    #[test]
    fn a_uri_is_brought_to_the_same_form() {
        let mut buffer = QueryBuffer::default();
        let mut parse = |text| buffer.parse(path("t"), text).map(|query| query.as_str().to_owned());
        assert_eq!(parse("ort=Köln&x=%2f"), Ok("ort=K%C3%B6ln&x=/".into()));
        assert_eq!(parse(""), Ok(String::new()));
        assert_eq!(parse("x=%4"), Err(QueryError::Percent));
        assert_eq!(parse("x=%ff"), Err(QueryError::NotUtf8));
    }

    proptest! {
        #[test]
        fn no_two_lists_of_arguments_have_the_same_text(
            one in prop::collection::vec("[a&=%é]{0,4}", 1..4),
            other in prop::collection::vec("[a&=%é]{0,4}", 1..4),
        ) {
            let bytes = |list: &[String]| {
                let list: Vec<&[u8]> = list.iter().map(|text| text.as_bytes()).collect();
                joined(&list)
            };
            prop_assert_eq!(bytes(&one) == bytes(&other), one == other);
        }

        #[test]
        fn what_is_joined_reads_back(value_in in "[a-z &%=é]{1,20}") {
            let argument = format!("n={value_in}");
            prop_assert_eq!(value(&[argument.as_bytes()], "n"), Ok(value_in));
        }
    }
}
