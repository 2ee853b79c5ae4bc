//! The CoAP message format (RFC 7252 §3): a strict decoder that borrows and never allocates.
//!
//! [`Message::parse`] walks the options once and refuses every message format error of §3 and §4,
//! so reading [`Options`] later cannot fail. Every message has exactly one encoding: a parsed
//! message that [`Encoder`](super::encoder::Encoder) writes again has the same bytes. The meaning
//! of options is in [`option`](super::option).

use std::fmt;

use coap_numbers::code;

/// The supported version; a message of any other version is silently ignored (RFC 7252 §3).
const VERSION: u8 = 1;
/// Ends the options and begins the payload.
pub(super) const PAYLOAD_MARKER: u8 = 0xff;
/// Version, type, token length; code; Message ID.
pub(super) const HEADER_LENGTH: usize = 4;
/// Longest token, in bytes.
pub const TOKEN_MAX: usize = 8;

/// How a message is to be delivered (RFC 7252 §4.2, §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Type {
    /// Retransmitted until acknowledged or reset.
    Confirmable = 0,
    /// Sent once, without acknowledgement.
    NonConfirmable = 1,
    /// Acknowledges the confirmable message with the same Message ID.
    Acknowledgement = 2,
    /// Rejects the message with the same Message ID.
    Reset = 3,
}

impl Type {
    fn from_bits(first: u8) -> Type {
        match (first >> 4) & 3 {
            0 => Type::Confirmable,
            1 => Type::NonConfirmable,
            2 => Type::Acknowledgement,
            _ => Type::Reset,
        }
    }
}

/// Matches acknowledgements to messages and detects duplicates; each sender has its own number
/// space (RFC 7252 §4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub u16);

/// A method or a response code, `class.detail` (RFC 7252 §12.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u8);

impl Code {
    /// 0.00: neither request nor response.
    pub const EMPTY: Code = Code(code::EMPTY);
    /// 2.01
    pub const CREATED: Code = Code(code::CREATED);
    /// 2.02
    pub const DELETED: Code = Code(code::DELETED);
    /// 2.03
    pub const VALID: Code = Code(code::VALID);
    /// 2.04
    pub const CHANGED: Code = Code(code::CHANGED);
    /// 2.05
    pub const CONTENT: Code = Code(code::CONTENT);
    /// 2.31 (RFC 7959 §2.9.1)
    pub const CONTINUE: Code = Code(code::CONTINUE);
    /// 4.00
    pub const BAD_REQUEST: Code = Code(code::BAD_REQUEST);
    /// 4.01
    pub const UNAUTHORIZED: Code = Code(code::UNAUTHORIZED);
    /// 4.02
    pub const BAD_OPTION: Code = Code(code::BAD_OPTION);
    /// 4.03
    pub const FORBIDDEN: Code = Code(code::FORBIDDEN);
    /// 4.04
    pub const NOT_FOUND: Code = Code(code::NOT_FOUND);
    /// 4.05
    pub const METHOD_NOT_ALLOWED: Code = Code(code::METHOD_NOT_ALLOWED);
    /// 4.06
    pub const NOT_ACCEPTABLE: Code = Code(code::NOT_ACCEPTABLE);
    /// 4.08 (RFC 7959 §2.9.2)
    pub const REQUEST_ENTITY_INCOMPLETE: Code = Code(code::REQUEST_ENTITY_INCOMPLETE);
    /// 4.13 (RFC 7959 §2.9.3)
    pub const REQUEST_ENTITY_TOO_LARGE: Code = Code(code::REQUEST_ENTITY_TOO_LARGE);
    /// 4.15
    pub const UNSUPPORTED_CONTENT_FORMAT: Code = Code(code::UNSUPPORTED_CONTENT_FORMAT);
    /// 4.29 (RFC 8516)
    pub const TOO_MANY_REQUESTS: Code = Code(code::TOO_MANY_REQUESTS);
    /// 5.00
    pub const INTERNAL_SERVER_ERROR: Code = Code(code::INTERNAL_SERVER_ERROR);
    /// 5.03
    pub const SERVICE_UNAVAILABLE: Code = Code(code::SERVICE_UNAVAILABLE);
    /// 5.05
    pub const PROXYING_NOT_SUPPORTED: Code = Code(code::PROXYING_NOT_SUPPORTED);

    /// The first digit, `0..=7`.
    pub const fn class(self) -> u8 {
        self.0 >> 5
    }

    /// The digits after the point, `0..=31`.
    pub const fn detail(self) -> u8 {
        self.0 & 0x1f
    }

    /// 0.01 to 0.31.
    pub const fn is_request(self) -> bool {
        self.class() == 0 && self.0 != code::EMPTY
    }

    /// 2.xx, 4.xx, 5.xx.
    pub const fn is_response(self) -> bool {
        matches!(self.class(), 2 | 4 | 5)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        code::format_dotted(self.0, f)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A token, `0..=8` bytes: pairs a response with its request (RFC 7252 §5.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Token {
    length: u8,
    bytes: [u8; TOKEN_MAX],
}

impl Token {
    /// A token of `bytes`; `None` if there are more than [`TOKEN_MAX`].
    pub fn new(bytes: &[u8]) -> Option<Token> {
        let mut token = Token { length: bytes.len() as u8, bytes: [0; TOKEN_MAX] };
        token.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(token)
    }

    /// The bytes of the token.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// One message, borrowed from its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The message type.
    pub message_type: Type,
    /// The method or response code.
    pub code: Code,
    /// The Message ID.
    pub message_id: MessageId,
    /// The token, which matches a response to its request.
    pub token: Token,
    /// The options, in ascending order of their numbers.
    pub options: Options<'a>,
    /// The payload; empty if there is no payload marker, which at least one byte must follow.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Parses one datagram without allocating.
    ///
    /// # Errors
    /// [`FormatError`]: the fault, and whether RFC 7252 §4.2 requires a Reset.
    pub fn parse(datagram: &'a [u8]) -> Result<Message<'a>, FormatError> {
        let &[first, code, id_high, id_low, ..] = datagram else {
            return Err(FormatError { fault: Fault::Header, reset: None });
        };
        if first >> 6 != VERSION {
            return Err(FormatError { fault: Fault::Version, reset: None });
        }
        let message_type = Type::from_bits(first);
        let message_id = MessageId(u16::from_be_bytes([id_high, id_low]));
        let code = Code(code);
        Self::parse_rest(datagram, message_type, code, message_id).map_err(|fault| FormatError {
            fault,
            reset: (message_type == Type::Confirmable).then_some(message_id),
        })
    }

    fn parse_rest(
        datagram: &'a [u8],
        message_type: Type,
        code: Code,
        message_id: MessageId,
    ) -> Result<Message<'a>, Fault> {
        let rest = &datagram[HEADER_LENGTH..];
        let token_length = usize::from(datagram[0] & 0x0f);
        if token_length > TOKEN_MAX {
            return Err(Fault::TokenLength);
        }
        check_code(message_type, code)?;
        if code == Code::EMPTY && (token_length > 0 || !rest.is_empty()) {
            return Err(Fault::EmptyWithContent);
        }
        let (token, rest) = rest.split_at_checked(token_length).ok_or(Fault::TokenLength)?;
        let (options, payload) = split_payload(rest)?;
        Ok(Message {
            message_type,
            code,
            message_id,
            token: Token::new(token).ok_or(Fault::TokenLength)?,
            options,
            payload,
        })
    }
}

/// Which codes a message of each type may carry (RFC 7252 §4.1–§4.3, Table 1).
fn check_code(message_type: Type, code: Code) -> Result<(), Fault> {
    let fits = match message_type {
        // Empty and confirmable is a ping.
        Type::Confirmable => code.is_request() || code.is_response() || code == Code::EMPTY,
        Type::NonConfirmable => code.is_request() || code.is_response(),
        Type::Acknowledgement => code.is_response() || code == Code::EMPTY,
        Type::Reset => code == Code::EMPTY,
    };
    if fits { Ok(()) } else { Err(Fault::Code) }
}

/// Checks all options and splits off the payload.
fn split_payload(bytes: &[u8]) -> Result<(Options<'_>, &[u8]), Fault> {
    let mut rest = bytes;
    let mut number = 0u16;
    loop {
        match rest {
            [] => return Ok((Options::new(bytes), &[])),
            [PAYLOAD_MARKER] => return Err(Fault::PayloadMarker),
            [PAYLOAD_MARKER, ..] => {
                let (options, payload) = bytes.split_at(bytes.len() - rest.len());
                return Ok((Options::new(options), &payload[1..]));
            }
            _ => (number, _, rest) = next_option(number, rest)?,
        }
    }
}

/// The number and value of the first option in `bytes`, which follows option `previous`, and the
/// bytes after it (RFC 7252 §3.1).
#[inline]
fn next_option(previous: u16, bytes: &[u8]) -> Result<(u16, &[u8], &[u8]), Fault> {
    let (&head, rest) = bytes.split_first().ok_or(Fault::Option)?;
    let (delta, rest) = extended(head >> 4, rest)?;
    let (length, rest) = extended(head & 0x0f, rest)?;
    let number = u32::from(previous) + delta;
    let number = u16::try_from(number).map_err(|_| Fault::OptionNumber)?;
    let (value, rest) = rest.split_at_checked(length as usize).ok_or(Fault::Option)?;
    Ok((number, value, rest))
}

/// A nibble and the bytes that extend it: at most `269 + 65535`.
#[inline]
fn extended(nibble: u8, rest: &[u8]) -> Result<(u32, &[u8]), Fault> {
    match (nibble, rest) {
        (0..=12, _) => Ok((u32::from(nibble), rest)),
        (13, [byte, rest @ ..]) => Ok((u32::from(*byte) + 13, rest)),
        (14, [high, low, rest @ ..]) => Ok((u32::from(u16::from_be_bytes([*high, *low])) + 269, rest)),
        // 15 that is not a payload marker, or the datagram ends within the option.
        _ => Err(Fault::Option),
    }
}

/// The options of a message, in ascending order of their numbers. It is an iterator over borrowed
/// bytes; a copy continues at the same position.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Options<'a> {
    rest: &'a [u8],
    number: u16,
}

impl<'a> Options<'a> {
    /// `bytes` must have been checked by [`split_payload`].
    fn new(bytes: &'a [u8]) -> Options<'a> {
        Options { rest: bytes, number: 0 }
    }

    /// All values of option `number`.
    pub fn values(self, number: u16) -> impl Iterator<Item = &'a [u8]> + Clone {
        self.skip_while(move |o| o.number < number).take_while(move |o| o.number == number).map(|o| o.value)
    }
}

/// One option of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionValue<'a> {
    /// The option number; `coap_numbers::option` has the names.
    pub number: u16,
    /// The value, `0..=65804` bytes, uninterpreted.
    pub value: &'a [u8],
}

impl<'a> Iterator for Options<'a> {
    type Item = OptionValue<'a>;

    #[inline]
    fn next(&mut self) -> Option<OptionValue<'a>> {
        // `Message::parse` has checked the bytes, so an error here is their end.
        let (number, value, rest) = next_option(self.number, self.rest).ok()?;
        *self = Options { rest, number };
        Some(OptionValue { number, value })
    }
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.map(|o| (o.number, o.value))).finish()
    }
}

/// Why a datagram is not a message, and whether to answer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatError {
    /// The fault.
    pub fault: Fault,
    /// A malformed confirmable message is rejected by a Reset with this Message ID (RFC 7252 §4.2);
    /// all others are silently ignored (§4.3).
    pub reset: Option<MessageId>,
}

/// The faults of a datagram, in the order of the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Fewer than four bytes.
    Header,
    /// Not version 1: silently ignored (§3).
    Version,
    /// A token length of 9 to 15, or beyond the end of the datagram (§3).
    TokenLength,
    /// A reserved class, or a code that this message type cannot have (§4.2, §4.3).
    Code,
    /// Code 0.00 with a token or anything after the Message ID (§4.1).
    EmptyWithContent,
    /// A reserved nibble, or the datagram ends within an option (§3.1).
    Option,
    /// An option number above 65535 (§3.1).
    OptionNumber,
    /// A payload marker without a payload (§3).
    PayloadMarker,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Header => "shorter than a header",
            Fault::Version => "unknown version",
            Fault::TokenLength => "token length",
            Fault::Code => "code not allowed for this message type",
            Fault::EmptyWithContent => "empty message with content",
            Fault::Option => "broken option",
            Fault::OptionNumber => "option number beyond 65535",
            Fault::PayloadMarker => "payload marker without payload",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(datagram: &[u8]) -> (Fault, bool) {
        let error = Message::parse(datagram).unwrap_err();
        (error.fault, error.reset.is_some())
    }

    #[test]
    fn a_whole_request_is_read_without_copying() {
        let datagram = b"\x42\x02\x12\x34\xca\xfe\xb1t\x03env\x11\x32\xff21.5";
        let message = Message::parse(datagram).unwrap();
        assert_eq!(message.message_type, Type::Confirmable);
        assert_eq!(message.code.to_string(), "0.02");
        assert_eq!(message.message_id, MessageId(0x1234));
        assert_eq!(message.token.as_bytes(), b"\xca\xfe");
        let options: Vec<_> = message.options.map(|o| (o.number, o.value)).collect();
        assert_eq!(options, [(11, &b"t"[..]), (11, b"env"), (12, b"\x32")]);
        assert_eq!(message.options.values(11).count(), 2);
        assert_eq!(message.payload, b"21.5");
    }

    #[test]
    fn extended_deltas_and_lengths_are_read() {
        let mut datagram = b"\x40\x01\x00\x01\xed\xfe\xf2\x02".to_vec(); // number 269 + 0xfef2, length 13 + 2
        datagram.extend_from_slice(&[7; 15]);
        let message = Message::parse(&datagram).unwrap();
        assert_eq!(message.options.map(|o| (o.number, o.value.len())).collect::<Vec<_>>(), [(65535, 15)]);
    }

    #[test]
    fn too_short_or_another_version_is_ignored_whatever_it_is() {
        assert_eq!(fault(b""), (Fault::Header, false));
        assert_eq!(fault(b"\x40\x01\x00"), (Fault::Header, false));
        for version in [0x00, 0x80, 0xc0] {
            assert_eq!(fault(&[version, 0x01, 0, 1]), (Fault::Version, false));
        }
    }

    #[test]
    fn token_lengths_from_nine_to_fifteen_are_format_errors() {
        for length in 9..=15 {
            let mut datagram = vec![0x40 | length, 0x01, 0, 1];
            datagram.extend_from_slice(&[0xaa; 15]);
            assert_eq!(fault(&datagram), (Fault::TokenLength, true));
        }
        assert_eq!(fault(b"\x44\x01\x00\x01\xaa\xbb"), (Fault::TokenLength, true));
    }

    #[test]
    fn a_payload_marker_needs_a_payload() {
        assert_eq!(fault(b"\x40\x02\x00\x01\xff"), (Fault::PayloadMarker, true));
        assert_eq!(fault(b"\x50\x02\x00\x01\xff"), (Fault::PayloadMarker, false));
    }

    #[test]
    fn an_empty_message_has_nothing_but_its_header() {
        assert!(Message::parse(b"\x40\x00\x00\x01").is_ok());
        assert_eq!(fault(b"\x40\x00\x00\x01\xff\x01"), (Fault::EmptyWithContent, true));
        assert_eq!(fault(b"\x41\x00\x00\x01\xaa"), (Fault::EmptyWithContent, true));
        assert_eq!(fault(b"\x60\x00\x00\x01\x00"), (Fault::EmptyWithContent, false));
        assert_eq!(fault(b"\x50\x00\x00\x01"), (Fault::Code, false));
    }

    #[test]
    fn reserved_classes_and_misplaced_codes_are_format_errors() {
        for code in [0x20, 0x60, 0xc0, 0xe1, 0xff] {
            assert_eq!(fault(&[0x40, code, 0, 1]), (Fault::Code, true), "{code:#x}");
        }
        assert_eq!(fault(b"\x60\x01\x00\x01"), (Fault::Code, false), "a request in an acknowledgement");
        assert_eq!(fault(b"\x70\x44\x00\x01"), (Fault::Code, false), "a response in a reset");
    }

    #[test]
    fn an_option_number_past_65535_is_refused() {
        assert_eq!(fault(b"\x40\x01\x00\x01\xe0\xff\xff"), (Fault::OptionNumber, true));
        assert_eq!(fault(b"\x40\x01\x00\x01\xe0\xfe\xf2\x10"), (Fault::OptionNumber, true));
    }

    #[test]
    fn broken_options_are_refused() {
        for tail in [&b"\xd0"[..], b"\xe0\x00", b"\x0d", b"\x0e\x00", b"\xb5tem", b"\xf0", b"\x0f", b"\xb1"] {
            let mut datagram = b"\x40\x01\x00\x01".to_vec();
            datagram.extend_from_slice(tail);
            assert_eq!(fault(&datagram), (Fault::Option, true), "{tail:x?}");
        }
    }
}
