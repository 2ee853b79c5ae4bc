//! What is asked, what came back, how much of it at most, and what can go wrong on the way.

use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

use super::challenge::Challenges;
use super::url::HttpsUrl;

/// A method (RFC 9110 §9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// POST
    Post,
}

impl Method {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
        }
    }
}

/// A user name and its password (RFC 7617).
#[derive(Clone)]
pub struct Basic {
    /// Without `:`.
    pub username: String,
    /// Any bytes.
    pub password: Zeroizing<Vec<u8>>,
}

/// What goes with a POST.
#[derive(Clone, Debug)]
pub struct Body {
    /// Its Content-Type.
    pub content_type: &'static str,
    /// Its Content-Transfer-Encoding, which EST wants (RFC 7030 §4.2.1, RFC 8951 makes it
    /// meaningless).
    pub transfer_encoding: Option<&'static str>,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// One question.
#[derive(Clone)]
pub struct Request<'a> {
    /// How.
    pub method: Method,
    /// Where.
    pub url: HttpsUrl,
    /// The Accept field.
    pub accept: &'static str,
    /// What goes with it.
    pub body: Option<Body>,
    /// Sent only to a server that was verified.
    pub basic: Option<&'a Basic>,
    /// How many redirects to the same host are followed; 0 for a POST.
    pub redirects: u8,
}

impl Request<'_> {
    /// A GET without credentials that follows no redirect.
    pub fn get(url: HttpsUrl, accept: &'static str) -> Self {
        Request { method: Method::Get, url, accept, body: None, basic: None, redirects: 0 }
    }
}

/// How much of an answer is taken, and for how long it is waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Everything together, name look-up and redirects included.
    pub total: Duration,
    /// Between two pieces that arrive, and before the first.
    pub idle: Duration,
    /// Bytes of status line and fields, at least 8,192.
    pub head: usize,
    /// Bytes of the body.
    pub body: usize,
}

/// One answer, whatever its status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// `100..=999`
    pub status: u16,
    /// The media type in lower case, without parameters; empty if there is none.
    pub content_type: String,
    /// How long to wait (RFC 9110 §10.2.3), if that was said and can be read.
    pub retry_after: Option<Duration>,
    /// How to authenticate, from all WWW-Authenticate fields.
    pub challenges: Challenges,
    /// The Location field of a redirect.
    pub location: Option<String>,
    /// At most [`Limits::body`] bytes.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A file or a setting of our own is at fault.
    Local(String),
    /// No connection: name, route, port.
    Unreachable(String),
    /// TLS was refused by one of the two.
    Tls {
        /// The words, with the way out.
        text: String,
        /// The server refuses our certificate.
        unwelcome: bool,
    },
    /// Nothing came for as long.
    Silent(Duration),
    /// It was not through within this time: a server that answers drop by drop.
    Slow(Duration),
    /// Status line and fields are longer than this.
    HeadTooLong(usize),
    /// The body is longer than this.
    BodyTooLong(usize),
    /// The connection ended within the answer.
    Truncated,
    /// It is not HTTP/1.1.
    NotHttp,
    /// A redirect that is not followed.
    Redirect {
        /// Its status.
        status: u16,
        /// Where it leads.
        location: String,
    },
    /// The body is compressed, which was not asked for.
    Encoded(String),
    /// The connection failed after it was made.
    Broken(String),
    /// What received the body wanted no more of it.
    Declined,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Local(text) | Failure::Unreachable(text) | Failure::Tls { text, .. } => {
                f.write_str(text)
            }
            Failure::Silent(span) => write!(f, "no answer within {} s", span.as_secs_f32()),
            Failure::Slow(span) => write!(f, "the answer is not complete within {} s", span.as_secs_f32()),
            Failure::HeadTooLong(bytes) => write!(f, "the answer's header is longer than {bytes} bytes"),
            Failure::BodyTooLong(bytes) => write!(f, "the answer is longer than {bytes} bytes"),
            Failure::Truncated => f.write_str("the connection was closed in the middle of the answer"),
            Failure::NotHttp => f.write_str("the answer is not HTTP/1.1; is this the right port?"),
            Failure::Redirect { status, location } => {
                let shown: String = location.chars().filter(|c| !c.is_control()).take(80).collect();
                write!(
                    f,
                    "the server redirects ({status}) to {shown}, which is not followed; use the final URL"
                )
            }
            Failure::Encoded(coding) => {
                write!(f, "the answer is compressed ({coding}), which was not asked for")
            }
            Failure::Broken(text) => write!(f, "the connection failed: {text}"),
            Failure::Declined => f.write_str("the answer was not wanted"),
        }
    }
}

impl std::error::Error for Failure {}

/// The media type of a Content-Type field in lower case, without its parameters.
pub fn media_type(field: &str) -> String {
    field.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_type_has_no_parameters_and_no_case() {
        assert_eq!(media_type("Application/PKCS7-mime; smime-type=certs-only"), "application/pkcs7-mime");
        assert_eq!(media_type(" text/html;charset=utf-8"), "text/html");
        assert_eq!(media_type(""), "");
    }
}
