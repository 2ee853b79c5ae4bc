//! Which counter a refusal belongs to.

use crate::gate::stage::Reason;
use crate::telemetry::counters::Counter;

/// The counter of refusals for this reason.
pub(super) fn counter(reason: Reason) -> Counter {
    match reason {
        Reason::UnknownDevice => Counter::RefusedUnknownDevice,
        Reason::Malformed => Counter::RefusedPath,
        Reason::Reserved => Counter::RefusedReserved,
        Reason::OnBehalf => Counter::RefusedOnBehalf,
        Reason::NoRule => Counter::RefusedNoRule,
        Reason::Denied => Counter::RefusedDenied,
        Reason::NotAllowed => Counter::RefusedMethod,
        Reason::Query => Counter::RefusedQuery,
        Reason::ContentFormat => Counter::RefusedContentFormat,
        Reason::TooLarge => Counter::RefusedTooLarge,
        Reason::OverQuota => Counter::RefusedQuota,
        Reason::Muted => Counter::RefusedMuted,
        Reason::Topic => Counter::RefusedTopic,
        Reason::Retained => Counter::RefusedRetained,
    }
}
