//! Finds the resource of a request. Pure: a request in, a resource or a response out.
//!
//! | path | GET | POST, PUT | DELETE |
//! |---|---|---|---|
//! | `/.well-known/core` | the resources (RFC 6690) | 4.05 | 4.05 |
//! | `/time` | the time, if the clock is trusted, else 5.03 | 4.04 | 4.04 |
//! | `/firmware/…` | firmware for the device: `firmware` | 4.04 | 4.04 |
//! | any other reserved first segment | 4.04 | 4.04 | 4.04 |
//! | any other path | the newest message of the broker for it; Observe (RFC 7641) | publishes | publishes an empty retained message if a rule allows `delete` |
//! | invalid path, or query of a reading | 4.00 | 4.00 | 4.00 |

use crate::gate::stage::Malformed;
use crate::message::{ContentFormat, Method, PATH_MAX, Path, PathBuffer, Query, QueryBuffer};
use crate::proto::coap::link_format::LinkFormat;
use crate::proto::coap::{Code, Head, Response};

/// The resource of a request.
#[derive(Debug)]
pub enum Resource<'a> {
    /// A reading for the gate.
    Reading {
        /// The path within the device.
        path: Path<'a>,
        /// The query, if there is one.
        query: Option<Query<'a>>,
        /// The method.
        method: Method,
    },
    /// A reading that cannot be: its path or its query is invalid.
    Malformed {
        /// The method.
        method: Method,
        /// Why.
        malformed: Malformed,
    },
    /// The newest message of the broker for this path.
    Value(Path<'a>),
    /// Firmware for the device.
    Firmware(Path<'a>),
    /// `/.well-known/core`, the list of resources.
    Core,
    /// `/time`: in CBOR, or as text.
    Time {
        /// Whether in CBOR.
        cbor: bool,
    },
    /// A response without a reading.
    Answer(Response<'static>),
}

/// Buffers for the path and the query of a request.
#[derive(Default)]
pub struct Buffers {
    path: PathBuffer,
    query: QueryBuffer,
}

/// Finds the resource. The path and the query borrow from `buffers`.
pub fn find<'a>(request: &Head<'_>, buffers: &'a mut Buffers) -> Resource<'a> {
    use crate::proto::coap::Method as Request;
    let method = request.method.reading();
    let path = match (buffers.path.join(request.uri_path()), method) {
        (Ok(path), _) => path,
        (Err(error), Some(method)) => {
            return Resource::Malformed { method, malformed: Malformed::Path(error) };
        }
        (Err(_), None) => return Resource::Answer(bad_request("not a path")),
    };
    if path.as_str() == ".well-known/core" {
        return match request.method {
            Request::Get if request.accept().is_some_and(|format| format != ContentFormat::LINK_FORMAT) => {
                Resource::Answer(Response::new(Code::NOT_ACCEPTABLE).diagnostic("only link-format"))
            }
            Request::Get => Resource::Core,
            _ => Resource::Answer(Response::new(Code::METHOD_NOT_ALLOWED).diagnostic("only GET")),
        };
    }
    if request.method == Request::Get && path.as_str() == "time" {
        return match request.accept() {
            None | Some(ContentFormat::TEXT) => Resource::Time { cbor: false },
            Some(ContentFormat::CBOR) => Resource::Time { cbor: true },
            Some(_) => Resource::Answer(Response::new(Code::NOT_ACCEPTABLE).diagnostic("only text or CBOR")),
        };
    }
    if request.method == Request::Get && path.segments().next() == Some("firmware") {
        return Resource::Firmware(path);
    }
    if request.method == Request::Get && !path.is_reserved() {
        return match request.uri_query().next() {
            None => Resource::Value(path),
            Some(_) => Resource::Answer(Response::new(Code::BAD_OPTION).diagnostic("query")),
        };
    }
    match method {
        // The gate refuses it, so that it is counted and shown as what it is.
        Some(method) if path.is_reserved() => Resource::Reading { path, query: None, method },
        None if path.is_reserved() => Resource::Answer(Response::new(Code::NOT_FOUND).diagnostic("reserved")),
        Some(method) => match buffers.query.join(path, request.uri_query()) {
            Ok(query) => Resource::Reading { path, query, method },
            Err(error) => Resource::Malformed { method, malformed: Malformed::Query(error) },
        },
        None => Resource::Answer(
            Response::new(Code::METHOD_NOT_ALLOWED).diagnostic("only GET, POST, PUT or DELETE"),
        ),
    }
}

/// The body of `/time`: seconds since 1970 as decimal digits, or as a CBOR epoch-based time (RFC
/// 8949 §3.4.2).
pub fn time(unix_s: u64, cbor: bool) -> Vec<u8> {
    if !cbor {
        return unix_s.to_string().into_bytes();
    }
    match u32::try_from(unix_s) {
        Ok(seconds) => [&[0xc1, 0x1a][..], &seconds.to_be_bytes()].concat(),
        Err(_) => [&[0xc1, 0x1b][..], &unix_s.to_be_bytes()].concat(),
    }
}

const fn bad_request(text: &'static str) -> Response<'static> {
    Response::new(Code::BAD_REQUEST).diagnostic(text)
}

/// The path of a request for people to see, whatever its bytes are; at most [`PATH_MAX`] bytes.
pub fn shown_path(request: &Head<'_>) -> String {
    let mut shown = String::new();
    for (index, segment) in request.uri_path().enumerate() {
        if index > 0 {
            shown.push('/');
        }
        shown.push_str(&String::from_utf8_lossy(segment));
        if shown.len() > PATH_MAX {
            let mut end = PATH_MAX - '…'.len_utf8();
            while !shown.is_char_boundary(end) {
                end -= 1;
            }
            shown.truncate(end);
            shown.push('…');
            break;
        }
    }
    shown
}

/// The payload of `/.well-known/core` for a device: a link to `/.well-known/core` and one to the
/// literal beginning of each pattern that its role allows (RFC 6690).
pub fn links<'p>(patterns: impl Iterator<Item = &'p str>) -> String {
    let mut text = String::new();
    let mut links = LinkFormat::new(&mut text);
    links.link([".well-known", "core"]).number("ct", ContentFormat::LINK_FORMAT.0.into());
    for pattern in patterns {
        let literal = pattern.split('/').take_while(|level| !matches!(*level, "+" | "#"));
        links.link(literal).attribute("rt", "tombolo.reading").attribute("title", pattern);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_decimal_digits_or_a_cbor_epoch_time() {
        assert_eq!(time(1_790_000_000, false), b"1790000000");
        assert_eq!(time(1_363_896_240, true), [0xc1, 0x1a, 0x51, 0x4b, 0x67, 0xb0], "RFC 8949 appendix A");
        assert_eq!(time(1 << 32, true)[..2], [0xc1, 0x1b], "after 2106");
    }

    #[test]
    fn a_device_is_told_where_it_may_publish() {
        let links = links(["t/#", "alarm/+", "boot"].into_iter());
        assert_eq!(
            links,
            "</.well-known/core>;ct=40,</t>;rt=\"tombolo.reading\";title=\"t/#\",\
             </alarm>;rt=\"tombolo.reading\";title=\"alarm/+\",</boot>;rt=\"tombolo.reading\";title=\"boot\""
        );
    }
}
