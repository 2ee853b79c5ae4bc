//! The CoAP responses to the verdicts of the gate and the journal (RFC 7252 §5.9, RFC 8516 for
//! 4.29). A 4.xx or 5.03 has a diagnostic payload (RFC 7252 §5.5.2) of at most 64 bytes, which the
//! endpoint leaves out where the amplification limit of an unproven peer has no room for it. Up to
//! 12 bytes, options included, need no allocation to be remembered for duplicates.

use crate::gate::stage::{Malformed, Refusal};
use crate::message::{ArgumentError, Method, QueryError};
use crate::proto::coap::{Code, Response};

/// Max-Age of a 5.03, in seconds: longer than a commit takes, and short enough to notice a recovery
/// soon.
const UNAVAILABLE_MAX_AGE: u32 = 30;

/// The reading is on disk (or, by a rule with `qos = 0`, passed to the uplink): 2.04, for DELETE
/// 2.02.
pub fn taken(method: Method) -> Response<'static> {
    match method {
        Method::Post | Method::Put => Response::new(Code::CHANGED),
        Method::Delete => Response::new(Code::DELETED),
    }
}

/// 5.03: the journal cannot accept the reading; the device should keep it and retry after Max-Age.
pub fn unavailable() -> Response<'static> {
    Response::new(Code::SERVICE_UNAVAILABLE).max_age(UNAVAILABLE_MAX_AGE).diagnostic("not stored")
}

/// 5.03: the records of the device have its share of the lane. The device should keep the reading,
/// as for [`unavailable`].
pub fn over_share() -> Response<'static> {
    Response::new(Code::SERVICE_UNAVAILABLE).max_age(UNAVAILABLE_MAX_AGE).diagnostic("share used up")
}

/// The gate refused the reading. The diagnostic says which kind of refusal it is, and never names a
/// rule or a topic.
pub fn refused(refusal: &Refusal) -> Response<'static> {
    match refusal {
        Refusal::UnknownDevice => Response::new(Code::UNAUTHORIZED).diagnostic("not known"),
        Refusal::Malformed(Malformed::Path(_)) => Response::new(Code::BAD_REQUEST).diagnostic("not a path"),
        Refusal::Malformed(Malformed::Query(error)) => {
            Response::new(Code::BAD_REQUEST).diagnostic(match error {
                QueryError::TooLong => "query too long",
                _ => "not a query",
            })
        }
        Refusal::Reserved => Response::new(Code::NOT_FOUND).diagnostic("reserved"),
        Refusal::OnBehalf(_) => Response::new(Code::FORBIDDEN).diagnostic("on behalf"),
        Refusal::NoRule => Response::new(Code::FORBIDDEN).diagnostic("no rule"),
        Refusal::Denied { .. } => Response::new(Code::FORBIDDEN).diagnostic("denied"),
        Refusal::Topic(_) => Response::new(Code::FORBIDDEN).diagnostic("topic"),
        // Only of messages to local MQTT clients.
        Refusal::Retained { .. } => Response::new(Code::FORBIDDEN).diagnostic("retained"),
        Refusal::NotAllowed => Response::new(Code::METHOD_NOT_ALLOWED).diagnostic("not allowed"),
        Refusal::QueryUnwanted { .. } => Response::new(Code::BAD_OPTION).diagnostic("query"),
        Refusal::Argument { error, .. } => Response::new(Code::BAD_REQUEST).diagnostic(match error {
            ArgumentError::Missing => "query argument missing",
            ArgumentError::Repeated => "query argument repeated",
            ArgumentError::Value(_) => "query argument invalid",
        }),
        Refusal::ContentFormat { .. } => {
            Response::new(Code::UNSUPPORTED_CONTENT_FORMAT).diagnostic("content format")
        }
        Refusal::TooLarge { limit } => {
            Response::new(Code::REQUEST_ENTITY_TOO_LARGE).size1(*limit).diagnostic("too large")
        }
        Refusal::OverQuota { retry_after_s } => {
            Response::new(Code::TOO_MANY_REQUESTS).max_age(*retry_after_s).diagnostic("over quota")
        }
        Refusal::Muted { retry_after_s } => {
            Response::new(Code::TOO_MANY_REQUESTS).max_age(*retry_after_s).diagnostic("muted")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::stage::{OnBehalfFault, TopicFault};
    use crate::message::Name;

    #[test]
    fn each_refusal_has_a_short_diagnostic_without_a_format_that_names_no_rule() {
        let rule = Name::parse("secret-rule").expect("a name");
        let refusals = [
            Refusal::UnknownDevice,
            Refusal::Reserved,
            Refusal::OnBehalf(OnBehalfFault::Denied { rule: rule.clone() }),
            Refusal::NoRule,
            Refusal::Denied { rule: rule.clone() },
            Refusal::ContentFormat { rule, format: None },
            Refusal::NotAllowed,
            Refusal::TooLarge { limit: 7 },
            Refusal::OverQuota { retry_after_s: 7 },
            Refusal::Muted { retry_after_s: 7 },
            Refusal::Topic(TopicFault::Own),
        ];
        for response in refusals.iter().map(refused).chain([unavailable(), over_share()]) {
            let text = std::str::from_utf8(response.payload).expect("UTF-8");
            assert!((1..=64).contains(&text.len()) && !text.contains("secret"), "{text}");
            assert_eq!(response.content_format, None, "{text}");
        }
        for method in [Method::Post, Method::Put, Method::Delete] {
            assert!(taken(method).payload.is_empty());
        }
    }
}
