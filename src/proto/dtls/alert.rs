//! The alerts of TLS and DTLS in one table, as the IANA registry "TLS Alerts" prints it: number,
//! name, and the RFC that defines it; for those of TLS 1.2, RFC 5246 §7.2.
//!
//! The level of an alert is [`WARNING`] or [`FATAL`].

use std::fmt;

/// The peer may go on.
pub const WARNING: u8 = 1;
/// The connection is over.
pub const FATAL: u8 = 2;

macro_rules! alerts {
    ($($constant:ident = $number:literal, $name:literal, $rfc:literal;)*) => {
        $(
            #[doc = concat!("`", $name, "` (RFC ", stringify!($rfc), ")")]
            pub const $constant: u8 = $number;
        )*

        /// Number, name, RFC; by number.
        const TABLE: &[(u8, &str, u16)] = &[$(($number, $name, $rfc)),*];
    };
}

alerts! {
    CLOSE_NOTIFY = 0, "close_notify", 5246;
    UNEXPECTED_MESSAGE = 10, "unexpected_message", 5246;
    BAD_RECORD_MAC = 20, "bad_record_mac", 5246;
    DECRYPTION_FAILED = 21, "decryption_failed", 5246;
    RECORD_OVERFLOW = 22, "record_overflow", 5246;
    DECOMPRESSION_FAILURE = 30, "decompression_failure", 5246;
    HANDSHAKE_FAILURE = 40, "handshake_failure", 5246;
    NO_CERTIFICATE = 41, "no_certificate", 5246;
    BAD_CERTIFICATE = 42, "bad_certificate", 5246;
    UNSUPPORTED_CERTIFICATE = 43, "unsupported_certificate", 5246;
    CERTIFICATE_REVOKED = 44, "certificate_revoked", 5246;
    CERTIFICATE_EXPIRED = 45, "certificate_expired", 5246;
    CERTIFICATE_UNKNOWN = 46, "certificate_unknown", 5246;
    ILLEGAL_PARAMETER = 47, "illegal_parameter", 5246;
    UNKNOWN_CA = 48, "unknown_ca", 5246;
    ACCESS_DENIED = 49, "access_denied", 5246;
    DECODE_ERROR = 50, "decode_error", 5246;
    DECRYPT_ERROR = 51, "decrypt_error", 5246;
    TOO_MANY_CIDS_REQUESTED = 52, "too_many_cids_requested", 9147;
    EXPORT_RESTRICTION = 60, "export_restriction", 5246;
    PROTOCOL_VERSION = 70, "protocol_version", 5246;
    INSUFFICIENT_SECURITY = 71, "insufficient_security", 5246;
    INTERNAL_ERROR = 80, "internal_error", 5246;
    INAPPROPRIATE_FALLBACK = 86, "inappropriate_fallback", 7507;
    USER_CANCELED = 90, "user_canceled", 5246;
    NO_RENEGOTIATION = 100, "no_renegotiation", 5246;
    MISSING_EXTENSION = 109, "missing_extension", 8446;
    UNSUPPORTED_EXTENSION = 110, "unsupported_extension", 5246;
    CERTIFICATE_UNOBTAINABLE = 111, "certificate_unobtainable", 6066;
    UNRECOGNIZED_NAME = 112, "unrecognized_name", 6066;
    BAD_CERTIFICATE_STATUS_RESPONSE = 113, "bad_certificate_status_response", 6066;
    BAD_CERTIFICATE_HASH_VALUE = 114, "bad_certificate_hash_value", 6066;
    UNKNOWN_PSK_IDENTITY = 115, "unknown_psk_identity", 4279;
    CERTIFICATE_REQUIRED = 116, "certificate_required", 8446;
    GENERAL_ERROR = 117, "general_error", 9846;
    NO_APPLICATION_PROTOCOL = 120, "no_application_protocol", 7301;
    ECH_REQUIRED = 121, "ech_required", 9849;
}

/// The name of an alert; `None` if the registry has none.
pub fn name(number: u8) -> Option<&'static str> {
    TABLE.iter().find(|(known, ..)| *known == number).map(|(_, name, _)| *name)
}

/// An alert as it is printed: name and number, such as `certificate_expired (45)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert(pub u8);

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match name(self.0) {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "alert {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_registrys_order() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn every_alert_is_printed_by_its_name_and_number() {
        for (number, name, _) in TABLE {
            assert_eq!(Alert(*number).to_string(), format!("{name} ({number})"));
        }
        assert_eq!(Alert(CERTIFICATE_REVOKED).to_string(), "certificate_revoked (44)");
        assert_eq!(Alert(CERTIFICATE_EXPIRED).to_string(), "certificate_expired (45)");
        assert_eq!(Alert(255).to_string(), "alert 255");
    }
}
