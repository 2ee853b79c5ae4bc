//! Requests that the endpoint hands up, and responses that it accepts.

use std::borrow::Cow;

use coap_numbers::{code, option};

use super::PeerId;
use super::block::Block;
use super::exchange::Exchange;
use super::message::{Code, Token};
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
    /// The method of this request code; the endpoint answers an unknown one with 4.05.
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

    /// The method of a reading; `None` for methods that do not send readings.
    pub fn reading(self) -> Option<message::Method> {
        message::Method::from_code(self as u8)
    }

    /// Whether the method is safe, so that a duplicate may be processed again (RFC 7252 §4.5,
    /// §5.1).
    pub fn is_safe(self) -> bool {
        matches!(self, Method::Get | Method::Fetch)
    }
}

/// What a request asks for, without its body.
#[derive(Clone, Copy, Debug)]
pub struct Head<'d> {
    /// The method.
    pub method: Method,
    options: RequestOptions<'d>,
}

impl<'d> Head<'d> {
    /// The segments of Uri-Path, raw: neither checked to be UTF-8 nor decoded. `.` and `..` were
    /// refused.
    pub fn uri_path(&self) -> impl Iterator<Item = &'d [u8]> + Clone {
        self.options.uri_path()
    }

    /// The arguments of Uri-Query, raw.
    pub fn uri_query(&self) -> impl Iterator<Item = &'d [u8]> + Clone {
        self.options.all.values(option::URI_QUERY)
    }

    /// The Content-Format of the payload, if the peer named it.
    pub fn content_format(&self) -> Option<ContentFormat> {
        self.options.content_format.map(ContentFormat)
    }

    /// The Accept option: the Content-Format of the response; answer 4.06 if it is not available.
    pub fn accept(&self) -> Option<ContentFormat> {
        self.options.accept.map(ContentFormat)
    }
}

/// The first block of a request whose body comes in several.
#[derive(Clone, Copy, Debug)]
pub struct FirstBlock<'d> {
    /// What it asks for.
    pub head: Head<'d>,
    /// The payload of the block.
    pub payload: &'d [u8],
    /// The bytes of the body as far as they are known: up to the end of this block, or what Size1
    /// says if that is more.
    pub bytes: usize,
}

impl<'d> FirstBlock<'d> {
    pub(super) fn new(
        method: Method,
        options: RequestOptions<'d>,
        payload: &'d [u8],
        bytes: usize,
    ) -> FirstBlock<'d> {
        FirstBlock { head: Head { method, options }, payload, bytes }
    }
}

/// A new request with its complete body.
#[derive(Clone, Debug)]
pub struct Request<'d> {
    /// Identifies the request for [`Endpoint::respond`](super::Endpoint::respond).
    pub exchange: Exchange,
    /// The method.
    pub method: Method,
    /// The token, by which the peer knows the response.
    pub token: Token,
    /// Whether it was sent as a confirmable message.
    pub confirmable: bool,
    /// The body: borrowed from the datagram, or owned if it came in blocks; at most
    /// [`Settings::body`](super::endpoint::Settings::body) bytes.
    pub payload: Cow<'d, [u8]>,
    pub(super) options: RequestOptions<'d>,
}

impl<'d> Request<'d> {
    /// What it asks for.
    pub fn head(&self) -> Head<'d> {
        Head { method: self.method, options: self.options }
    }

    /// The peer that sent it.
    pub fn peer(&self) -> PeerId {
        self.exchange.peer()
    }

    /// The Observe option: 0 registers, 1 cancels (RFC 7641 §2).
    pub fn observe(&self) -> Option<u32> {
        self.options.observe
    }

    /// Which block of the response's body is asked for (RFC 7959 §2.2).
    pub fn block2(&self) -> Option<Block> {
        self.options.block2
    }

    /// ETags of the representations that the peer has stored: answer 2.03 if one matches.
    pub fn etags(&self) -> impl Iterator<Item = &'d [u8]> + Clone {
        self.options.all.values(option::ETAG).filter(|tag| (1..=8).contains(&tag.len()))
    }

    /// The response classes that the peer suppresses. The endpoint applies it.
    pub fn no_response(&self) -> NoResponse {
        self.options.no_response
    }

    /// Whether the body came in blocks.
    pub fn is_blockwise(&self) -> bool {
        matches!(self.payload, Cow::Owned(_))
    }
}

/// A response without the fields that the endpoint sets: type, Message ID, token, blocks.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// 2.xx, 4.xx or 5.xx.
    pub code: Code,
    /// The ETag of the body, `1..=8` bytes. A body that needs several blocks and has none gets a
    /// hash of its content.
    pub etag: Option<&'a [u8]>,
    /// The Location-Path of a created resource.
    pub location_path: &'a [&'a str],
    /// The Content-Format of the payload.
    pub content_format: Option<ContentFormat>,
    /// Max-Age in seconds: the freshness of the response; for 4.29 and 5.03 the time until a retry.
    pub max_age: Option<u32>,
    /// Size1 with 4.13: the largest request body accepted, in bytes.
    pub size1: Option<u32>,
    /// The sequence number of a notification, of which 24 bits are sent (RFC 7641 §3.4).
    pub observe: Option<u32>,
    /// The payload; sent in blocks if it does not fit.
    pub payload: &'a [u8],
    /// The length in bytes of a body of which `payload` is the block that was asked for, and no
    /// more; `None`: the payload is the whole body.
    pub whole: Option<u64>,
}

impl<'a> Response<'a> {
    /// A response with only a code.
    pub const fn new(code: Code) -> Response<'a> {
        Response {
            code,
            etag: None,
            location_path: &[],
            content_format: None,
            max_age: None,
            size1: None,
            observe: None,
            payload: &[],
            whole: None,
        }
    }

    /// A 2.05 Content response with a body.
    pub const fn content(content_format: ContentFormat, payload: &'a [u8]) -> Response<'a> {
        Response { content_format: Some(content_format), payload, ..Response::new(Code::CONTENT) }
    }

    /// Sets Max-Age, in seconds.
    pub const fn max_age(self, seconds: u32) -> Response<'a> {
        Response { max_age: Some(seconds), ..self }
    }

    /// Sets Size1, in bytes.
    pub const fn size1(self, bytes: u32) -> Response<'a> {
        Response { size1: Some(bytes), ..self }
    }

    /// Sets a diagnostic payload (RFC 7252 §5.5.2).
    pub const fn diagnostic(self, text: &'a str) -> Response<'a> {
        Response { payload: text.as_bytes(), ..self }
    }
}
