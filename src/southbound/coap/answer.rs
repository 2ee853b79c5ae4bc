//! The CoAP responses to the verdicts of the gate and the journal (RFC 7252 §5.9, RFC 8516 for
//! 4.29).

use crate::gate::stage::Refusal;
use crate::message::{ArgumentError, Method};
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
    Response::new(Code::SERVICE_UNAVAILABLE).max_age(UNAVAILABLE_MAX_AGE)
}

/// The gate refused the reading.
pub fn refused(refusal: &Refusal) -> Response<'static> {
    match refusal {
        Refusal::UnknownDevice => Response::new(Code::UNAUTHORIZED),
        Refusal::Reserved => Response::new(Code::NOT_FOUND),
        Refusal::NoRule => Response::new(Code::FORBIDDEN).diagnostic("no rule"),
        Refusal::Denied { .. } => Response::new(Code::FORBIDDEN).diagnostic("denied"),
        Refusal::Topic(_) => Response::new(Code::FORBIDDEN).diagnostic("topic"),
        Refusal::NotAllowed => Response::new(Code::METHOD_NOT_ALLOWED),
        Refusal::QueryUnwanted { .. } => Response::new(Code::BAD_OPTION).diagnostic("query"),
        Refusal::Argument { error, .. } => Response::new(Code::BAD_REQUEST).diagnostic(match error {
            ArgumentError::Missing => "query argument missing",
            ArgumentError::Repeated => "query argument repeated",
            ArgumentError::Value(_) => "query argument invalid",
        }),
        Refusal::TooLarge { limit } => Response::new(Code::REQUEST_ENTITY_TOO_LARGE).size1(*limit),
        Refusal::OverQuota { retry_after_s } => {
            Response::new(Code::TOO_MANY_REQUESTS).max_age(*retry_after_s)
        }
    }
}
