//! Finds the resource of a request. Pure: a request in, a resource or a response out.
//!
//! | path | GET | POST, PUT | DELETE |
//! |---|---|---|---|
//! | `/.well-known/core` | the resources (RFC 6690) | 4.05 | 4.05 |
//! | reserved first segment | 4.04 | 4.04 | 4.04 |
//! | any other path | 4.05; commands are not implemented yet | publishes | publishes an empty retained message if a rule allows `delete` |
//! | invalid path, or query of a reading | 4.00 | 4.00 | 4.00 |

use crate::message::{ContentFormat, Method, Path, PathBuffer, Query, QueryBuffer, QueryError};
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
    let path = match buffers.path.join(request.uri_path()) {
        Ok(path) => path,
        Err(_) => return Resource::Answer(bad_request("not a path")),
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
    if path.is_reserved() {
        return Resource::Answer(Response::new(Code::NOT_FOUND).diagnostic("reserved"));
    }
    match request.method.reading() {
        Some(method) => match buffers.query.join(path, request.uri_query()) {
            Ok(query) => Resource::Reading { path, query, method },
            Err(QueryError::TooLong) => Resource::Answer(bad_request("query too long")),
            Err(_) => Resource::Answer(bad_request("not a query")),
        },
        None => {
            Resource::Answer(Response::new(Code::METHOD_NOT_ALLOWED).diagnostic("only POST, PUT or DELETE"))
        }
    }
}

const fn bad_request(text: &'static str) -> Response<'static> {
    Response::new(Code::BAD_REQUEST).diagnostic(text)
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
