//! Finds the resource of a request. Pure: a request in, a resource or a response out.
//!
//! | path | GET | POST, PUT | DELETE |
//! |---|---|---|---|
//! | `/.well-known/core` | the resources (RFC 6690) | 4.05 | 4.05 |
//! | reserved first segment | 4.04 | 4.04 | 4.04 |
//! | any other path | 4.05; commands are not implemented yet | publishes | publishes an empty retained message if a rule allows `delete` |
//! | invalid path | 4.00 | 4.00 | 4.00 |

use crate::message::{ContentFormat, Method, Path, PathBuffer};
use crate::proto::coap::link_format::LinkFormat;
use crate::proto::coap::{Code, Request, Response};

/// The resource of a request.
#[derive(Debug)]
pub enum Resource<'a> {
    /// A reading for the gate.
    Reading {
        /// The path within the device.
        path: Path<'a>,
        /// The method.
        method: Method,
    },
    /// `/.well-known/core`, the list of resources.
    Core,
    /// A response without a reading.
    Answer(Response<'static>),
}

/// Finds the resource. The path borrows from `buffer`.
pub fn find<'a>(request: &Request<'_>, buffer: &'a mut PathBuffer) -> Resource<'a> {
    use crate::proto::coap::Method as Request;
    let path = match buffer.join(request.uri_path()) {
        Ok(path) => path,
        Err(_) => return Resource::Answer(Response::new(Code::BAD_REQUEST).diagnostic("not a path")),
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
        Some(method) => Resource::Reading { path, method },
        None => {
            Resource::Answer(Response::new(Code::METHOD_NOT_ALLOWED).diagnostic("only POST, PUT or DELETE"))
        }
    }
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
