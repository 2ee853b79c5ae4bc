//! What the options of a request say, once each is known to be well formed (RFC 7252 §5.4, §5.10).
//!
//! One pass over the options sorts them: what a gateway understands is kept, what is elective and
//! strange is skipped, what is critical and strange refuses the request. An option of a length it
//! cannot have, and every occurrence after the first of one that may not be repeated, counts as
//! unrecognized (§5.4.3, §5.4.5). Not understood on purpose, so refused: If-Match and If-None-Match
//! (a reading has no earlier state to compare), OSCORE, EDHOC and the Q-Block options.

use coap_numbers::option;

use super::block::Block;
use super::message::{Code, Options};

/// The options of one request that means something to us.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestOptions<'a> {
    /// Every option as it came, understood or not.
    pub all: Options<'a>,
    /// What the payload is.
    pub content_format: Option<u16>,
    /// What the response should be.
    pub accept: Option<u16>,
    /// 0 registers, 1 cancels (RFC 7641 §2).
    pub observe: Option<u32>,
    /// Which block of the request's body this is (RFC 7959 §2.1).
    pub block1: Option<Block>,
    /// Which block of the response's body is asked for.
    pub block2: Option<Block>,
    /// How long the whole request body will be, if the sender said.
    pub size1: Option<u32>,
    /// Whether the sender wants to know how long the whole response body is.
    pub wants_size2: bool,
    /// Which responses the sender does not want.
    pub no_response: NoResponse,
    /// The options from the first Uri-Path on.
    path: Options<'a>,
}

/// Why a request is refused for its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionError {
    /// A critical option nobody here understands, or not in that form: 4.02, or the rejection of a
    /// NON (RFC 7252 §5.4.1).
    Unrecognized(u16),
    /// A proxy is asked for: 5.05 (RFC 7252 §5.10.2).
    Proxy,
    /// Understood and wrong: 4.00. A `.` or `..` in Uri-Path (RFC 7252 §5.10.1), the reserved block
    /// size 7 (RFC 7959 §2.2).
    Invalid,
}

impl OptionError {
    /// What a confirmable request hears.
    pub fn code(self) -> Code {
        match self {
            OptionError::Unrecognized(_) => Code::BAD_OPTION,
            OptionError::Proxy => Code::PROXYING_NOT_SUPPORTED,
            OptionError::Invalid => Code::BAD_REQUEST,
        }
    }
}

impl<'a> RequestOptions<'a> {
    /// Sorts the options of a request.
    ///
    /// # Errors
    /// The first critical option that cannot be obeyed.
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

    /// `value` has a length its option allows.
    #[inline]
    fn keep(&mut self, number: u16, value: &[u8], here: Options<'a>, again: bool) -> Result<(), OptionError> {
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
            // At most two bytes, by their forms.
            option::CONTENT_FORMAT => self.content_format = Some(uint() as u16),
            option::ACCEPT => self.accept = Some(uint() as u16),
            option::OBSERVE => self.observe = Some(uint()),
            option::BLOCK1 => self.block1 = Some(Block::from_uint(uint()).ok_or(OptionError::Invalid)?),
            option::BLOCK2 => self.block2 = Some(Block::from_uint(uint()).ok_or(OptionError::Invalid)?),
            option::SIZE1 => self.size1 = Some(uint()),
            option::SIZE2 => self.wants_size2 = true,
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

/// Which classes of response the sender of a request is not interested in (RFC 7967 §2.1). Default:
/// interested in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NoResponse(pub u8);

impl NoResponse {
    /// Whether a response of this code is not to be sent. 2.31 Continue always is: without it no
    /// body would ever be whole.
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

/// How an option may look in a request.
struct Form {
    shortest: u16,
    longest: u16,
    repeatable: bool,
}

impl Form {
    /// Of the options understood here (RFC 7252 Table 4, RFC 7641 Table 1, RFC 7959 Tables 1 and 3,
    /// RFC 7967 Table 1, RFC 9175 Table 1).
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
