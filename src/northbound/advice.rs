//! What to do about a broker's reason code: one sentence for each code that it may send, after
//! CONNECT and after a PUBLISH (MQTT 5.0 §3.2.2.2, §3.4.2.1), the return codes of 3.1.1 included.

use super::reason_code::{self as code, Cause};

/// About a code of CONNACK.
pub fn of_connack(connack: u8) -> &'static str {
    use code::return_code as old;
    match connack {
        code::UNSPECIFIED_ERROR | code::IMPLEMENTATION_SPECIFIC_ERROR => "the broker's log says why",
        code::MALFORMED_PACKET | code::PROTOCOL_ERROR => {
            "see in the broker's log what it does not like; [upstream] protocol = \"3.1.1\" may help, and please report it"
        }
        code::UNSUPPORTED_PROTOCOL_VERSION | old::UNACCEPTABLE_PROTOCOL_VERSION => {
            "set [upstream] protocol = \"auto\""
        }
        code::CLIENT_IDENTIFIER_NOT_VALID | old::IDENTIFIER_REJECTED => {
            "set upstream.client-id to one that the broker accepts"
        }
        code::BAD_USER_NAME_OR_PASSWORD | old::BAD_USER_NAME_OR_PASSWORD => {
            "see upstream.username and password-file"
        }
        code::NOT_AUTHORIZED | old::NOT_AUTHORIZED => {
            "see username, password-file, certificate-file and client-id in [upstream]"
        }
        code::SERVER_UNAVAILABLE | old::SERVER_UNAVAILABLE => {
            "the broker is not ready; the gateway tries again, and readings are kept meanwhile"
        }
        code::SERVER_BUSY => {
            "the broker has too much to do; the gateway tries again later, and readings are kept meanwhile"
        }
        code::BANNED => "have the ban of this client, user or address lifted by the broker's administrator",
        code::SERVER_SHUTTING_DOWN => "the broker is being stopped; the gateway tries again later",
        code::BAD_AUTHENTICATION_METHOD => {
            "the broker wants enhanced authentication (MQTT 5 AUTH), which this gateway does not have; use a password or a \
             certificate"
        }
        code::TOPIC_NAME_INVALID => {
            "the broker does not accept the topic of the will: change [topics] gateway-status or prefix"
        }
        code::PACKET_TOO_LARGE => {
            "CONNECT is too large for the broker: raise its maximum packet size, or use a shorter password or token"
        }
        code::QUOTA_EXCEEDED => {
            "a limit of the broker or of the account is used up, of connections, messages or bytes: wait until it begins anew, \
             or have it raised"
        }
        code::PAYLOAD_FORMAT_INVALID => {
            "the broker does not accept the will: set [topics] gateway-status = \"\""
        }
        code::RETAIN_NOT_SUPPORTED => {
            "the broker keeps no retained will: allow retained messages, or set [topics] gateway-status = \"\""
        }
        code::QOS_NOT_SUPPORTED => {
            "the broker does not take the will with QoS 1: allow it, or set [topics] gateway-status = \"\""
        }
        code::USE_ANOTHER_SERVER => "set upstream.url to the server that the broker's operator names",
        code::SERVER_MOVED => "the broker has moved for good: set upstream.url to its new address",
        code::CONNECTION_RATE_EXCEEDED => {
            "too many connections a second: the gateway waits longer before the next; see whether others share its address or \
             account"
        }
        _ => "the broker's log says why",
    }
}

/// About a code of PUBACK.
pub fn of_puback(puback: u8) -> &'static str {
    match puback {
        code::SUCCESS => "it was taken",
        code::NO_MATCHING_SUBSCRIBERS => "it was taken, and nobody subscribes to it",
        code::UNSPECIFIED_ERROR | code::IMPLEMENTATION_SPECIFIC_ERROR => "the broker's log says why",
        code::NOT_AUTHORIZED => "allow the topic in the broker's access list",
        code::TOPIC_NAME_INVALID => {
            "the broker does not take such a topic: change [topics], or the rule's topic"
        }
        code::PACKET_IDENTIFIER_IN_USE => {
            "the broker still knows a packet of an earlier session; it is sent again with another number"
        }
        code::PACKET_TOO_LARGE => "raise the broker's maximum packet size, or lower max-payload of the role",
        code::QUOTA_EXCEEDED => {
            "a limit of the broker or of the account is used up, of messages, bytes or retained topics: wait until it begins \
             anew, or have it raised; the gateway sends more slowly meanwhile"
        }
        code::PAYLOAD_FORMAT_INVALID => {
            "the broker checks payloads and does not accept this one: see its schema for the topic"
        }
        code::RECEIVE_MAXIMUM_EXCEEDED | code::MESSAGE_RATE_TOO_HIGH => {
            "the broker takes fewer at a time; the gateway sends more slowly, and [upstream] max-publish-rate sets a bound"
        }
        code::RETAIN_NOT_SUPPORTED => {
            "allow retained messages at the broker, or set retain = false in the rule"
        }
        code::QOS_NOT_SUPPORTED => {
            "the broker does not take QoS 1: use one that does, so that nothing is lost"
        }
        _ => "the broker's log says why",
    }
}

/// About the outcome of a command that was given up. What is said of readings does not help: the
/// topic is not a rule's, and the size no role's.
pub fn of_outcome(cause: Cause) -> &'static str {
    match cause {
        Cause::Code(code::NOT_AUTHORIZED) => {
            "allow this gateway to publish there, or have the command name another response topic"
        }
        Cause::Code(code::TOPIC_NAME_INVALID) => {
            "have the command name another response topic, or change [topics] reply"
        }
        Cause::Code(code::PACKET_TOO_LARGE) => {
            "raise the broker's limit of message sizes, ask for a support bundle with a smaller part-bytes, or use a shorter \
             response topic and less correlation data"
        }
        // It was given up: it is not sent again, at no pace.
        Cause::Code(code::PACKET_IDENTIFIER_IN_USE) => {
            "the broker still knows a packet of an earlier session by that number: publish the command again; where it happens \
             again, end the session of this gateway at the broker"
        }
        Cause::Code(code::QUOTA_EXCEEDED) => {
            "a limit of the broker or of the account is used up, of messages or bytes: wait until it begins anew, or have it \
             raised, and publish the command again"
        }
        Cause::Code(code::RECEIVE_MAXIMUM_EXCEEDED | code::MESSAGE_RATE_TOO_HIGH) => {
            "the broker takes fewer at a time: set [upstream] max-publish-rate, and publish the command again"
        }
        Cause::Code(code::PAYLOAD_FORMAT_INVALID) => {
            "the broker checks payloads: have it check none there, or have the command name another response topic"
        }
        Cause::Code(code::RETAIN_NOT_SUPPORTED) => {
            "no outcome is retained: see in the broker's log what it means, or have the command name another response topic"
        }
        Cause::Code(code::QOS_NOT_SUPPORTED) => "allow QoS 1 at the broker: outcomes are published with it",
        Cause::Closed | Cause::Silent => {
            "the broker's log says why: allow this gateway to publish there, or raise the broker's limit of message sizes"
        }
        Cause::Code(code) => of_puback(code),
        Cause::Skipped => "it was set aside by `tombolo queue skip`",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "the broker's log says why";

    /// Codes that say nothing more.
    const SILENT: [u8; 2] = [code::UNSPECIFIED_ERROR, code::IMPLEMENTATION_SPECIFIC_ERROR];

    #[test]
    fn every_code_of_connack_has_its_own_advice() {
        // MQTT 5.0 table 3-1, and MQTT 3.1.1 table 3.1.
        let v5 = [
            0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99,
            0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
        ];
        for code in v5.into_iter().chain(1..=5) {
            assert_eq!(of_connack(code) == PLAIN, SILENT.contains(&code), "{code:#x}");
        }
        for (old, new) in [(1, 0x84), (2, 0x85), (3, 0x88), (4, 0x86), (5, 0x87)] {
            assert_eq!(of_connack(old), of_connack(new), "{old}");
        }
    }

    #[test]
    fn every_code_of_puback_has_its_own_advice() {
        // MQTT 5.0 table 3-2, and the codes of DISCONNECT that a publish may bring about.
        for code in [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99, 0x93, 0x95, 0x96, 0x9A, 0x9B] {
            assert_eq!(of_puback(code) == PLAIN, SILENT.contains(&code), "{code:#x}");
        }
    }

    #[test]
    fn what_is_advised_for_an_outcome_is_not_what_is_advised_for_a_reading() {
        // An outcome is never retained, and one that was given up is not sent again.
        for code in 0..=u8::MAX {
            let advice = of_outcome(Cause::Code(code));
            for of_readings in
                ["the rule", "max-payload", "retain = false", "sent again", "more slowly", "nothing is lost"]
            {
                assert!(!advice.contains(of_readings), "{code:#x}: {advice}");
            }
        }
        for code in [0x87, 0x90, 0x91, 0x93, 0x95, 0x96, 0x97, 0x99, 0x9A, 0x9B] {
            assert_ne!(of_outcome(Cause::Code(code)), of_puback(code), "{code:#x}");
        }
        assert!(of_outcome(Cause::Code(code::PACKET_TOO_LARGE)).contains("part-bytes"));
    }

    #[test]
    fn no_code_at_all_is_without_a_sentence() {
        for code in 0..=u8::MAX {
            for advice in [of_connack(code), of_puback(code), of_outcome(Cause::Code(code))] {
                assert!(
                    advice.len() > 10 && !advice.ends_with('.') && !advice.contains("  "),
                    "{code:#x}: {advice}"
                );
            }
        }
    }
}
