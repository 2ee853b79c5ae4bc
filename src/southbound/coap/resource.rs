//! Finds the resource of a request. Pure: a request in, a resource or a response out.
//!
//! | path | GET | POST, PUT | DELETE |
//! |---|---|---|---|
//! | `/.well-known/core` | the resources (RFC 6690) | 4.05 | 4.05 |
//! | reserved first segment | 4.04 | 4.04 | 4.04 |
//! | any other path | 4.05; commands are not implemented yet | publishes | publishes an empty retained message if a rule allows `delete` |
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
    /// `/.well-known/core`, the list of resources.
    Core,
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
    match method {
        // The gate refuses it, so that it is counted and shown as what it is.
        Some(method) if path.is_reserved() => Resource::Reading { path, query: None, method },
        None if path.is_reserved() => Resource::Answer(Response::new(Code::NOT_FOUND).diagnostic("reserved")),
        Some(method) => match buffers.query.join(path, request.uri_query()) {
            Ok(query) => Resource::Reading { path, query, method },
            Err(error) => Resource::Malformed { method, malformed: Malformed::Query(error) },
        },
        None => {
            Resource::Answer(Response::new(Code::METHOD_NOT_ALLOWED).diagnostic("only POST, PUT or DELETE"))
        }
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
    fn a_device_is_told_where_it_may_publish() {
        let links = links(["t/#", "alarm/+", "boot"].into_iter());
        assert_eq!(
            links,
            "</.well-known/core>;ct=40,</t>;rt=\"tombolo.reading\";title=\"t/#\",\
             </alarm>;rt=\"tombolo.reading\";title=\"alarm/+\",</boot>;rt=\"tombolo.reading\";title=\"boot\""
        );
    }
}
