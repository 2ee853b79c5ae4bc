//! What an MQTT client is answered to the verdicts of the gate and the journal.
//!
//! | verdict | MQTT 5, QoS 1 and 2 | MQTT 3.1.1, QoS 1 and 2 | QoS 0 |
//! |---|---|---|---|
//! | stored | success | PUBACK, PUBREC | - |
//! | no rule, denied, reserved | 0x87 not authorized | [`DenyOn311`](super::settings::DenyOn311) | dropped |
//! | not a path | 0x90 topic name invalid | the same | dropped |
//! | payload too large, no room to retain it | 0x97 quota exceeded | the same | dropped |
//! | over quota, or the journal cannot take it | 0x97 quota exceeded | closed: the client sends it again | dropped |
//!
//! A refusal is counted by the gate in every case. 0x97 is the code of MQTT 5 for an implementation
//! or administrative limit (§3.4.2.1); 0x95 exists only in DISCONNECT, for packets over the Maximum
//! Packet Size.

use mqtt_protocol_core::mqtt::result_code::PubackReasonCode;

use crate::gate::stage::Refusal;
use crate::journal::Refused;

/// The answer to a publish that was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The reason code of PUBACK and PUBREC, which have the same.
    pub code: PubackReasonCode,
    /// The Reason String; names no rule and no topic.
    pub reason: &'static str,
    /// The same publish may pass later.
    pub is_temporary: bool,
}

impl Denial {
    const fn lasting(code: PubackReasonCode, reason: &'static str) -> Denial {
        Denial { code, reason, is_temporary: false }
    }

    const fn temporary(reason: &'static str) -> Denial {
        Denial { code: PubackReasonCode::QuotaExceeded, reason, is_temporary: true }
    }
}

/// The store failed to commit a publish it had taken.
pub const NOT_STORED: Denial = Denial::temporary("not stored");

/// The gate refused it.
pub fn refused(refusal: &Refusal) -> Denial {
    use PubackReasonCode::{NotAuthorized, QuotaExceeded, TopicNameInvalid};
    match refusal {
        Refusal::UnknownDevice => Denial::lasting(NotAuthorized, "not known"),
        Refusal::Malformed(_) => Denial::lasting(TopicNameInvalid, "not a path"),
        Refusal::Reserved => Denial::lasting(NotAuthorized, "reserved"),
        Refusal::OnBehalf(_) => Denial::lasting(NotAuthorized, "on behalf"),
        Refusal::NoRule => Denial::lasting(NotAuthorized, "no rule"),
        Refusal::Denied { .. } => Denial::lasting(NotAuthorized, "denied"),
        Refusal::NotAllowed => Denial::lasting(NotAuthorized, "not allowed"),
        Refusal::QueryUnwanted { .. } | Refusal::Argument { .. } => {
            Denial::lasting(NotAuthorized, "its topic needs a query, which MQTT has not")
        }
        Refusal::Topic(_) => Denial::lasting(NotAuthorized, "topic"),
        Refusal::ContentFormat { .. } => Denial::lasting(NotAuthorized, "content type"),
        Refusal::TooLarge { .. } => Denial::lasting(QuotaExceeded, "payload too large"),
        Refusal::Retained { .. } => Denial::lasting(QuotaExceeded, "no room to retain it"),
        Refusal::OverQuota { .. } => Denial::temporary("over quota"),
        Refusal::Muted { .. } => Denial::temporary("muted"),
    }
}

/// The journal does not take it.
pub fn unstored(refused: Refused) -> Denial {
    match refused {
        Refused::TooLarge => Denial::lasting(PubackReasonCode::QuotaExceeded, "payload too large"),
        Refused::DeviceShare => Denial::temporary("share of the lane used up"),
        Refused::LaneFull | Refused::Failing | Refused::Closed => NOT_STORED,
    }
}
