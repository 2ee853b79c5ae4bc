//! What the endpoint hands up, and what it takes back.

use std::borrow::Cow;

use coap_numbers::{code, option};

use super::PeerId;
use super::exchange::Exchange;
use super::message::Code;
use super::option::{NoResponse, RequestOptions};
use crate::message::{self, ContentFormat};

/// A request method (RFC 7252 §5.8, RFC 8132).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Method {
    /// 0.01
    Get = code::GET,
    /// 0.02
    Post = code::POST,
    /// 0.03
    Put = code::PUT,
    /// 0.04
    Delete = code::DELETE,
    /// 0.05
    Fetch = code::FETCH,
    /// 0.06
    Patch = code::PATCH,
    /// 0.07
    IPatch = code::IPATCH,
}

impl Method {
    /// The method of that request code; `None` is answered 4.05 by the endpoint itself.
    pub fn from_code(code: Code) -> Option<Method> {
        Some(match code.0 {
            code::GET => Method::Get,
            code::POST => Method::Post,
            code::PUT => Method::Put,
            code::DELETE => Method::Delete,
            code::FETCH => Method::Fetch,
            code::PATCH => Method::Patch,
            code::IPATCH => Method::IPatch,
            _ => return None,
        })
    }

    /// How a reading is said by this method, if it is one that says readings.
    pub fn reading(self) -> Option<message::Method> {
        message::Method::from_code(self as u8)
    }

    /// Whether processing it twice changes nothing, so that a duplicate may be (RFC 7252 §4.5).
    pub fn is_safe(self) -> bool {
        matches!(self, Method::Get | Method::Fetch)
    }
}

/// A request nobody has seen before, its body whole.
#[derive(Clone, Debug)]
pub struct Request<'d> {
    /// What to answer to, with [`Endpoint::respond`](super::Endpoint::respond).
    pub exchange: Exchange,
    /// What is asked.
    pub method: Method,
    /// Whether the peer wants to know that it arrived.
    pub confirmable: bool,
    /// The body: borrowed from the datagram, or owned when it came in blocks; up to 64 KiB.
    pub payload: Cow<'d, [u8]>,
    pub(super) options: RequestOptions<'d>,
}

impl<'d> Request<'d> {
    /// Whose request it is.
    pub fn peer(&self) -> PeerId {
        self.exchange.peer()
    }

    /// The segments of Uri-Path, raw: neither checked to be UTF-8 nor decoded. `.` and `..` were
    /// refused.
    pub fn uri_path(&self) -> impl Iterator<Item = &'d [u8]> + Clone {
        self.options.uri_path()
    }

    /// The arguments of Uri-Query, raw.
    pub fn uri_query(&self) -> impl Iterator<Item = &'d [u8]> + Clone {
        self.options.all.values(option::URI_QUERY)
    }

    /// What the payload is, if the peer said.
    pub fn content_format(&self) -> Option<ContentFormat> {
        self.options.content_format.map(ContentFormat)
    }

    /// What the response is to be; 4.06 when it cannot.
    pub fn accept(&self) -> Option<ContentFormat> {
        self.options.accept.map(ContentFormat)
    }

    /// 0 wants to be told of changes, 1 no longer (RFC 7641 §2).
    pub fn observe(&self) -> Option<u32> {
        self.options.observe
    }

    /// ETags of what the peer still has: 2.03 when one fits.
    pub fn etags(&self) -> impl Iterator<Item = &'d [u8]> + Clone {
        self.options.all.values(option::ETAG).filter(|tag| (1..=8).contains(&tag.len()))
    }

    /// Which responses the peer does not want. The endpoint obeys it; nobody else need look.
    pub fn no_response(&self) -> NoResponse {
        self.options.no_response
    }

    /// Whether the body came in blocks.
    pub fn is_blockwise(&self) -> bool {
        matches!(self.payload, Cow::Owned(_))
    }
}

/// An answer, without what the endpoint knows itself: type, Message ID, token, blocks.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// 2.xx, 4.xx or 5.xx.
    pub code: Code,
    /// Names this version of the body, `1..=8` bytes. A body that needs several blocks gets one
    /// from its content if it has none.
    pub etag: Option<&'a [u8]>,
    /// Where something was created.
    pub location_path: &'a [&'a str],
    /// What the payload is.
    pub content_format: Option<ContentFormat>,
    /// Seconds: how long it is fresh, and for 4.29 and 5.03 when to try again.
    pub max_age: Option<u32>,
    /// The largest request body taken, in bytes; goes with 4.13.
    pub size1: Option<u32>,
    /// Sent in blocks when it does not fit.
    pub payload: &'a [u8],
}

impl<'a> Response<'a> {
    /// A response of nothing but its code.
    pub const fn new(code: Code) -> Response<'a> {
        Response {
            code,
            etag: None,
            location_path: &[],
            content_format: None,
            max_age: None,
            size1: None,
            payload: &[],
        }
    }

    /// 2.05 with a body.
    pub const fn content(content_format: ContentFormat, payload: &'a [u8]) -> Response<'a> {
        Response { content_format: Some(content_format), payload, ..Response::new(Code::CONTENT) }
    }

    /// With Max-Age, in seconds.
    pub const fn max_age(self, seconds: u32) -> Response<'a> {
        Response { max_age: Some(seconds), ..self }
    }

    /// With Size1, in bytes.
    pub const fn size1(self, bytes: u32) -> Response<'a> {
        Response { size1: Some(bytes), ..self }
    }

    /// With a short text for people (RFC 7252 §5.5.2).
    pub const fn diagnostic(self, text: &'a str) -> Response<'a> {
        Response { payload: text.as_bytes(), ..self }
    }
}
