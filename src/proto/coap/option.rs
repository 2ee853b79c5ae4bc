//! The options of a request, checked for their format (RFC 7252 §5.4, §5.10).
//!
//! One pass over the options keeps those that are supported, skips unrecognized elective options,
//! and refuses the request for an unrecognized critical option. An option with an invalid length,
//! and a repetition of an option that is not repeatable, counts as unrecognized (§5.4.3, §5.4.5).
//! If-Match and If-None-Match (a reading has no earlier state to compare), OSCORE, EDHOC and the
//! Q-Block options are deliberately not supported, so they refuse the request.

use coap_numbers::option;

use super::block::Block;
use super::message::{Code, Options};

/// The supported options of one request.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestOptions<'a> {
    /// All options, including unsupported ones.
    pub all: Options<'a>,
    /// The Content-Format of the payload.
    pub content_format: Option<u16>,
    /// The Accept option: the Content-Format of the response.
    pub accept: Option<u16>,
    /// The Observe option: 0 registers, 1 cancels (RFC 7641 §2).
    pub observe: Option<u32>,
    /// Which block of the request's body this is (RFC 7959 §2.1).
    pub block1: Option<Block>,
    /// Which block of the response's body is asked for.
    pub block2: Option<Block>,
    /// The length of the whole request body in bytes, if the sender named it.
    pub size1: Option<u32>,
    /// Whether the sender asks for the length of the whole response body (RFC 7959 §4).
    pub wants_size2: bool,
    /// The Echo option: a value of ours that the sender received, `1..=40` bytes (RFC 9175 §2.2).
    pub echo: Option<&'a [u8]>,
    /// The response classes that the sender suppresses (RFC 7967).
    pub no_response: NoResponse,
    /// The options from the first Uri-Path on.
    path: Options<'a>,
}

/// Why the options of a request refuse it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionError {
    /// An unrecognized critical option, or one with an invalid format: 4.02, or a Reset for a NON
    /// (RFC 7252 §5.4.1).
    Unrecognized(u16),
    /// The request asks for a proxy: 5.05 (RFC 7252 §5.10.2).
    Proxy,
    /// A recognized option with an invalid value: 4.00. That is `.` or `..` in Uri-Path (RFC 7252
    /// §5.10.1), or the reserved block size 7 (RFC 7959 §2.2).
    Invalid,
}

impl OptionError {
    /// The response code for a confirmable request.
    pub fn code(self) -> Code {
        match self {
            OptionError::Unrecognized(_) => Code::BAD_OPTION,
            OptionError::Proxy => Code::PROXYING_NOT_SUPPORTED,
            OptionError::Invalid => Code::BAD_REQUEST,
        }
    }
}

impl<'a> RequestOptions<'a> {
    /// Reads the options of a request.
    ///
    /// # Errors
    /// The first option that refuses the request.
    pub fn read(options: Options<'a>) -> Result<RequestOptions<'a>, OptionError> {
        let mut read = RequestOptions { all: options, ..RequestOptions::default() };
        let mut rest = options;
        let mut previous = None;
        loop {
            let here = rest;
            let Some(option) = rest.next() else { return Ok(read) };
            let number = option.number;
            let again = previous == Some(number);
            previous = Some(number);
            if is_proxy(number) {
                return Err(OptionError::Proxy);
            }
            if !Form::of(number).is_some_and(|form| form.allows(option.value.len(), again)) {
                if number & 1 == 1 {
                    return Err(OptionError::Unrecognized(number));
                }
                continue;
            }
            read.keep(number, option.value, here, again)?;
        }
    }

    /// Keeps a supported option; the length of `value` is already checked.
    #[inline]
    fn keep(
        &mut self,
        number: u16,
        value: &'a [u8],
        here: Options<'a>,
        again: bool,
    ) -> Result<(), OptionError> {
        let uint = || uint(value);
        match number {
            option::URI_PATH => {
                if matches!(value, b"." | b"..") {
                    return Err(OptionError::Invalid);
                }
                if !again {
                    self.path = here;
                }
            }
            // Their format has at most two bytes.
            option::CONTENT_FORMAT => self.content_format = Some(uint() as u16),
            option::ACCEPT => self.accept = Some(uint() as u16),
            option::OBSERVE => self.observe = Some(uint()),
            option::BLOCK1 => self.block1 = Some(Block::from_uint(uint()).ok_or(OptionError::Invalid)?),
            option::BLOCK2 => self.block2 = Some(Block::from_uint(uint()).ok_or(OptionError::Invalid)?),
            option::SIZE1 => self.size1 = Some(uint()),
            option::SIZE2 => self.wants_size2 = true,
            option::ECHO => self.echo = Some(value),
            option::NO_RESPONSE => self.no_response = NoResponse(uint() as u8),
            _ => {}
        }
        Ok(())
    }

    /// The segments of Uri-Path, raw: neither checked to be UTF-8 nor decoded.
    pub fn uri_path(&self) -> impl Iterator<Item = &'a [u8]> + Clone {
        self.path.values(option::URI_PATH)
    }
}

/// The response classes that the sender of a request suppresses (RFC 7967 §2.1). Default: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NoResponse(pub u8);

impl NoResponse {
    /// Whether a response with this code is suppressed. 2.31 Continue is always sent, because
    /// without it a block-wise transfer cannot proceed.
    pub fn suppresses(self, code: Code) -> bool {
        code != Code::CONTINUE
            && match code.class() {
                class @ (2 | 4 | 5) => self.0 & (1 << (class - 1)) != 0,
                _ => false,
            }
    }
}

/// Proxy-Uri, Proxy-Scheme, and their constrained forms.
fn is_proxy(number: u16) -> bool {
    matches!(
        number,
        option::PROXY_URI | option::PROXY_SCHEME | option::PROXY_CRI | option::PROXY_SCHEME_NUMBER
    )
}

/// The format of an option in a request.
struct Form {
    shortest: u16,
    longest: u16,
    repeatable: bool,
}

impl Form {
    /// The formats of the supported options (RFC 7252 Table 4, RFC 7641 Table 1, RFC 7959 Tables 1
    /// and 3, RFC 7967 Table 1, RFC 9175 Table 1).
    #[inline]
    fn of(number: u16) -> Option<Form> {
        let (shortest, longest, repeatable) = match number {
            option::URI_HOST => (1, 255, false),
            option::ETAG => (1, 8, true),
            option::OBSERVE => (0, 3, false),
            option::URI_PORT => (0, 2, false),
            option::URI_PATH => (0, 255, true),
            option::CONTENT_FORMAT => (0, 2, false),
            option::URI_QUERY => (0, 255, true),
            option::HOP_LIMIT => (1, 1, false),
            option::ACCEPT => (0, 2, false),
            option::BLOCK2 => (0, 3, false),
            option::BLOCK1 => (0, 3, false),
            option::SIZE2 => (0, 4, false),
            option::SIZE1 => (0, 4, false),
            option::ECHO => (1, 40, false),
            option::NO_RESPONSE => (0, 1, false),
            option::REQUEST_TAG => (0, 8, true),
            _ => return None,
        };
        Some(Form { shortest, longest, repeatable })
    }

    #[inline]
    fn allows(&self, length: usize, again: bool) -> bool {
        (usize::from(self.shortest)..=usize::from(self.longest)).contains(&length)
            && (self.repeatable || !again)
    }
}

/// A value of format `uint`, of at most 4 bytes; leading zeros are accepted (RFC 7252 §3.2).
fn uint(value: &[u8]) -> u32 {
    value.iter().fold(0, |number, &byte| number << 8 | u32::from(byte))
}

#[cfg(test)]
mod tests {
    use super::super::encoder::Encoder;
    use super::super::message::{Message, MessageId, Token, Type};
    use super::*;

    fn with<T>(
        options: &[(u16, &[u8])],
        check: impl FnOnce(Result<RequestOptions<'_>, OptionError>) -> T,
    ) -> T {
        let mut bytes = Vec::new();
        let encoder = Encoder::new(&mut bytes, Type::Confirmable, Code(2), MessageId(1), &Token::default());
        options.iter().fold(encoder, |e, (number, value)| e.option(*number, value)).finish().unwrap();
        check(RequestOptions::read(Message::parse(&bytes).unwrap().options))
    }

    fn error(options: &[(u16, &[u8])]) -> Option<OptionError> {
        with(options, |read| read.err())
    }

    #[test]
    fn what_a_reading_carries_is_read() {
        let options: &[(u16, &[u8])] = &[
            (option::URI_HOST, b"gw"),
            (option::OBSERVE, b""),
            (option::URI_PATH, b"t"),
            (option::URI_PATH, b"env"),
            (option::CONTENT_FORMAT, b"\x32"),
            (option::URI_QUERY, b"a=b"),
            (option::ACCEPT, b"\x01\x00"),
            (option::BLOCK1, b"\x1e"),
            (option::SIZE1, b"\x01\x00\x00"),
            (option::NO_RESPONSE, b"\x1a"),
        ];
        with(options, |read| {
            let read = read.unwrap();
            assert_eq!(read.uri_path().collect::<Vec<_>>(), [&b"t"[..], b"env"]);
            assert_eq!(read.content_format, Some(50));
            assert_eq!(read.accept, Some(256));
            assert_eq!(read.observe, Some(0));
            assert_eq!(read.block1, Some(Block { number: 1, more: true, size_exponent: 6 }));
            assert_eq!(read.size1, Some(65536));
            assert_eq!(read.all.count(), 10);
        });
    }

    #[test]
    fn unknown_critical_options_refuse_and_unknown_elective_ones_do_not() {
        assert_eq!(error(&[(65001, b"")]), Some(OptionError::Unrecognized(65001)));
        assert_eq!(error(&[(65000, b"x")]), None);
        for critical in [option::IF_MATCH, option::IF_NONE_MATCH, option::OSCORE, option::Q_BLOCK1] {
            assert_eq!(error(&[(critical, b"")]), Some(OptionError::Unrecognized(critical)));
        }
    }

    #[test]
    fn a_proxy_is_not_what_we_are() {
        for number in
            [option::PROXY_URI, option::PROXY_SCHEME, option::PROXY_CRI, option::PROXY_SCHEME_NUMBER]
        {
            assert_eq!(error(&[(number, b"coap")]), Some(OptionError::Proxy));
        }
    }

    #[test]
    fn a_length_an_option_cannot_have_makes_it_unrecognized() {
        assert_eq!(error(&[(option::URI_HOST, b"")]), Some(OptionError::Unrecognized(option::URI_HOST)));
        assert_eq!(error(&[(option::URI_PATH, &[b'a'; 255])]), None);
        assert_eq!(
            error(&[(option::URI_PATH, &[b'a'; 256])]),
            Some(OptionError::Unrecognized(option::URI_PATH))
        );
        with(&[(option::CONTENT_FORMAT, b"\0\0\x32")], |read| {
            assert_eq!(read.unwrap().content_format, None, "elective: as if it were not there");
        });
    }

    #[test]
    fn an_option_that_may_not_be_repeated_counts_once() {
        assert_eq!(
            error(&[(option::ACCEPT, b""), (option::ACCEPT, b"")]),
            Some(OptionError::Unrecognized(option::ACCEPT))
        );
        with(&[(option::CONTENT_FORMAT, b"\x32"), (option::CONTENT_FORMAT, b"\x3c")], |read| {
            assert_eq!(read.unwrap().content_format, Some(50));
        });
    }

    #[test]
    fn an_echo_of_one_to_forty_bytes_is_read_and_another_is_as_if_it_were_not_there() {
        for (length, is_read) in [(0, false), (1, true), (40, true), (41, false)] {
            let value = vec![7; length];
            with(&[(option::ECHO, &value)], |read| {
                assert_eq!(read.unwrap().echo, is_read.then_some(&value[..]), "{length}");
            });
        }
        with(&[(option::ECHO, b"a"), (option::ECHO, b"b")], |read| {
            assert_eq!(read.unwrap().echo, Some(&b"a"[..]));
        });
    }

    #[test]
    fn dots_in_the_path_and_the_reserved_block_size_are_wrong() {
        assert_eq!(error(&[(option::URI_PATH, b".")]), Some(OptionError::Invalid));
        assert_eq!(error(&[(option::URI_PATH, b"a"), (option::URI_PATH, b"..")]), Some(OptionError::Invalid));
        assert_eq!(error(&[(option::BLOCK1, b"\x07")]), Some(OptionError::Invalid));
        assert_eq!(error(&[(option::BLOCK2, b"\x1f")]), Some(OptionError::Invalid));
    }

    #[test]
    fn no_response_is_a_mask_of_classes() {
        assert!(!NoResponse::default().suppresses(Code::CHANGED));
        assert!(NoResponse(2).suppresses(Code::CHANGED));
        assert!(!NoResponse(2).suppresses(Code::BAD_OPTION));
        assert!(NoResponse(8).suppresses(Code::FORBIDDEN));
        assert!(NoResponse(16).suppresses(Code::SERVICE_UNAVAILABLE));
        assert!(NoResponse(26).suppresses(Code::CHANGED) && NoResponse(26).suppresses(Code::FORBIDDEN));
        assert!(!NoResponse(26).suppresses(Code::CONTINUE));
    }
}
