//! The reason codes of MQTT in one table, as the standard prints it: constant, text, and what
//! follows from it.
//!
//! MQTT 5.0 §2.4 for CONNACK, PUBACK, SUBACK and DISCONNECT alike; MQTT 3.1.1 §3.2.2.3 for the
//! return codes of its CONNACK, which are a code space of their own. [`Cause`] is why a record was
//! set aside: a reason code, or one of three things that are no answer at all.

use std::fmt;

/// What a code says about, and so what is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CodeClass {
    /// Below 0x80: taken.
    Success,
    /// The broker gives no reason that helps.
    Unspecified,
    /// What was sent may not be sent there, or is not what is wanted there.
    Content,
    /// Too much, or too fast: the rate is lowered.
    Quota,
    /// Another version of MQTT is wanted.
    Version,
    /// Who we are is not accepted.
    Credentials,
    /// The broker, or this part of it, is away for now.
    Unavailable,
    /// Another server is to be used.
    Elsewhere,
    /// Another connection has our client id.
    TakenOver,
    /// The protocol was broken, or a feature is not there.
    Protocol,
}

macro_rules! codes {
    ($($name:ident = $code:literal, $class:ident, $text:literal;)*) => {
        $(
            #[doc = $text]
            pub const $name: u8 = $code;
        )*

        const TABLE: &[(u8, CodeClass, &str)] = &[$(($code, CodeClass::$class, $text)),*];
    };
}

codes! {
    SUCCESS = 0x00, Success, "success";
    DISCONNECT_WITH_WILL = 0x04, Success, "disconnect with will message";
    NO_MATCHING_SUBSCRIBERS = 0x10, Success, "no matching subscribers";
    UNSPECIFIED_ERROR = 0x80, Unspecified, "unspecified error";
    MALFORMED_PACKET = 0x81, Protocol, "malformed packet";
    PROTOCOL_ERROR = 0x82, Protocol, "protocol error";
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83, Unspecified, "implementation specific error";
    UNSUPPORTED_PROTOCOL_VERSION = 0x84, Version, "unsupported protocol version";
    CLIENT_IDENTIFIER_NOT_VALID = 0x85, Credentials, "client identifier not valid";
    BAD_USER_NAME_OR_PASSWORD = 0x86, Credentials, "bad user name or password";
    NOT_AUTHORIZED = 0x87, Content, "not authorized";
    SERVER_UNAVAILABLE = 0x88, Unavailable, "server unavailable";
    SERVER_BUSY = 0x89, Unavailable, "server busy";
    BANNED = 0x8A, Credentials, "banned";
    SERVER_SHUTTING_DOWN = 0x8B, Unavailable, "server shutting down";
    BAD_AUTHENTICATION_METHOD = 0x8C, Credentials, "bad authentication method";
    KEEP_ALIVE_TIMEOUT = 0x8D, Unavailable, "keep alive timeout";
    SESSION_TAKEN_OVER = 0x8E, TakenOver, "session taken over";
    TOPIC_FILTER_INVALID = 0x8F, Content, "topic filter invalid";
    TOPIC_NAME_INVALID = 0x90, Content, "topic name invalid";
    PACKET_IDENTIFIER_IN_USE = 0x91, Protocol, "packet identifier in use";
    PACKET_IDENTIFIER_NOT_FOUND = 0x92, Protocol, "packet identifier not found";
    RECEIVE_MAXIMUM_EXCEEDED = 0x93, Quota, "receive maximum exceeded";
    TOPIC_ALIAS_INVALID = 0x94, Protocol, "topic alias invalid";
    PACKET_TOO_LARGE = 0x95, Content, "packet too large";
    MESSAGE_RATE_TOO_HIGH = 0x96, Quota, "message rate too high";
    QUOTA_EXCEEDED = 0x97, Quota, "quota exceeded";
    ADMINISTRATIVE_ACTION = 0x98, Unavailable, "administrative action";
    PAYLOAD_FORMAT_INVALID = 0x99, Content, "payload format invalid";
    RETAIN_NOT_SUPPORTED = 0x9A, Content, "retain not supported";
    QOS_NOT_SUPPORTED = 0x9B, Content, "QoS not supported";
    USE_ANOTHER_SERVER = 0x9C, Elsewhere, "use another server";
    SERVER_MOVED = 0x9D, Elsewhere, "server moved";
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E, Protocol, "shared subscriptions not supported";
    CONNECTION_RATE_EXCEEDED = 0x9F, Unavailable, "connection rate exceeded";
    MAXIMUM_CONNECT_TIME = 0xA0, Unavailable, "maximum connect time";
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1, Protocol, "subscription identifiers not supported";
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2, Protocol, "wildcard subscriptions not supported";
}

fn row(code: u8) -> Option<&'static (u8, CodeClass, &'static str)> {
    TABLE.iter().find(|(known, ..)| *known == code)
}

/// What a reason code means, in the standard's words.
pub fn text(code: u8) -> &'static str {
    row(code).map_or("a reason MQTT does not define", |(.., text)| text)
}

/// What follows from a reason code. One that MQTT does not define counts by its upper half: success
/// below 0x80.
pub fn class(code: u8) -> CodeClass {
    row(code).map_or(
        if is_refusal(code) { CodeClass::Unspecified } else { CodeClass::Success },
        |(_, class, _)| *class,
    )
}

/// Whether a code refuses what it answers (MQTT 5.0 §2.4).
pub fn is_refusal(code: u8) -> bool {
    code >= 0x80
}

/// Whether a DISCONNECT of that code may be the answer to something we sent. 0x00 included: some
/// brokers say nothing more.
pub fn may_be_about_a_publish(code: u8) -> bool {
    matches!(
        class(code),
        CodeClass::Success | CodeClass::Unspecified | CodeClass::Content | CodeClass::Protocol
    ) && code != DISCONNECT_WITH_WILL
}

/// The return codes of CONNACK in MQTT 3.1.1 (§3.2.2.3).
pub mod return_code {
    use super::CodeClass;

    /// Unacceptable protocol version.
    pub const UNACCEPTABLE_PROTOCOL_VERSION: u8 = 1;
    /// Identifier rejected.
    pub const IDENTIFIER_REJECTED: u8 = 2;
    /// Server unavailable.
    pub const SERVER_UNAVAILABLE: u8 = 3;
    /// Bad user name or password.
    pub const BAD_USER_NAME_OR_PASSWORD: u8 = 4;
    /// Not authorized.
    pub const NOT_AUTHORIZED: u8 = 5;

    /// What a return code means, in the standard's words.
    pub fn text(code: u8) -> &'static str {
        match code {
            UNACCEPTABLE_PROTOCOL_VERSION => "unacceptable protocol version",
            IDENTIFIER_REJECTED => "identifier rejected",
            SERVER_UNAVAILABLE => "server unavailable",
            BAD_USER_NAME_OR_PASSWORD => "bad user name or password",
            NOT_AUTHORIZED => "not authorized",
            _ => "a return code MQTT does not define",
        }
    }

    /// What follows from a return code.
    pub fn class(code: u8) -> CodeClass {
        match code {
            0 => CodeClass::Success,
            UNACCEPTABLE_PROTOCOL_VERSION => CodeClass::Version,
            IDENTIFIER_REJECTED | BAD_USER_NAME_OR_PASSWORD => CodeClass::Credentials,
            SERVER_UNAVAILABLE => CodeClass::Unavailable,
            NOT_AUTHORIZED => CodeClass::Content,
            _ => CodeClass::Unspecified,
        }
    }
}

/// What a CONNACK's code means: a return code of 3.1.1 below 0x80, where brokers of both versions
/// answer in it, else a reason code.
pub fn connack_text(code: u8) -> &'static str {
    if is_refusal(code) { text(code) } else { return_code::text(code) }
}

/// What follows from a CONNACK's code.
pub fn connack_class(code: u8) -> CodeClass {
    if is_refusal(code) { class(code) } else { return_code::class(code) }
}

/// Whether a CONNACK's code says that user name or password are wrong.
pub fn is_bad_password(code: u8) -> bool {
    matches!(code, BAD_USER_NAME_OR_PASSWORD | return_code::BAD_USER_NAME_OR_PASSWORD)
}

/// Whether a CONNACK's code says that the client id is not accepted.
pub fn is_bad_client_id(code: u8) -> bool {
    matches!(code, CLIENT_IDENTIFIER_NOT_VALID | return_code::IDENTIFIER_REJECTED)
}

/// Whether a CONNACK's code says that we are not authorized; the will's topic included (MQTT 5.0
/// §3.1.3.3).
pub fn is_not_authorized(code: u8) -> bool {
    matches!(code, NOT_AUTHORIZED | return_code::NOT_AUTHORIZED)
}

/// Why a record was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The broker's reason code.
    Code(u8),
    /// The broker closed the connection each time the record was sent.
    Closed,
    /// The broker did not answer the record each time it was sent.
    Silent,
    /// The owner set it aside, by `tombolo queue skip`.
    Skipped,
}

/// Bytes no reason code has, for what is no answer (docs/journal-format.md §5).
const CLOSED: u8 = 0xFF;
const SILENT: u8 = 0xFE;
const SKIPPED: u8 = 0xFD;

impl Cause {
    /// As the rejected store keeps it: a reason code, or a byte above all that MQTT defines.
    pub fn to_byte(self) -> u8 {
        match self {
            Cause::Code(code) => code,
            Cause::Closed => CLOSED,
            Cause::Silent => SILENT,
            Cause::Skipped => SKIPPED,
        }
    }

    /// What [`Cause::to_byte`] made.
    pub fn from_byte(byte: u8) -> Cause {
        match byte {
            CLOSED => Cause::Closed,
            SILENT => Cause::Silent,
            SKIPPED => Cause::Skipped,
            code => Cause::Code(code),
        }
    }

    /// Whether it says that too much was sent, or sent too fast, rather than something about the
    /// record.
    pub fn is_quota(self) -> bool {
        match self {
            Cause::Code(code) => class(code) == CodeClass::Quota,
            Cause::Silent => true,
            Cause::Closed | Cause::Skipped => false,
        }
    }

    /// Whether it says that the broker took too much, or too fast: [`Cause::is_quota`] without
    /// silence.
    pub fn is_quota_code(self) -> bool {
        matches!(self, Cause::Code(_)) && self.is_quota()
    }

    /// Whether it is an answer about what a record contains, so that others of its topic may well
    /// be taken.
    pub fn is_about_content(self) -> bool {
        matches!(
            self,
            Cause::Code(
                UNSPECIFIED_ERROR | IMPLEMENTATION_SPECIFIC_ERROR | PACKET_TOO_LARGE | PAYLOAD_FORMAT_INVALID
            )
        )
    }

    /// Whether sending the same bytes again can change nothing: no timer does. Permissions (0x87)
    /// and limits (0x95) do change.
    pub fn is_definitive(self) -> bool {
        matches!(self, Cause::Code(TOPIC_NAME_INVALID | PAYLOAD_FORMAT_INVALID) | Cause::Skipped)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Code(code) => write!(f, "{} (0x{code:02x})", text(*code)),
            Cause::Closed => f.write_str("the broker closed the connection when it was sent"),
            Cause::Silent => f.write_str("the broker did not answer when it was sent"),
            Cause::Skipped => f.write_str("set aside by `tombolo queue skip`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_standards_order_and_its_classes_agree_with_the_upper_half() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (code, class, _) in TABLE {
            assert_eq!(*class != CodeClass::Success, is_refusal(*code), "{code:#x}");
        }
        assert_eq!(class(0xC5), CodeClass::Unspecified);
        assert_eq!(class(0x20), CodeClass::Success);
    }

    #[test]
    fn a_cause_survives_being_a_byte_and_no_code_is_taken_for_another_cause() {
        for byte in 0..=u8::MAX {
            assert_eq!(Cause::from_byte(byte).to_byte(), byte);
        }
        for (code, ..) in TABLE {
            assert_eq!(Cause::from_byte(*code), Cause::Code(*code));
        }
    }
}
