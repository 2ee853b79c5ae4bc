//! A body of any length, handed on piece by piece: nothing of it is kept here.
//!
//! A whole body would need memory for it, and a bound on its time. An image has neither: what is
//! bounded is the silence between two pieces, and how slow the server may be ([`Pace`]).

use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName};
use tokio::time::timeout;

use super::{Client, read_head};
use crate::https::message::{Failure, Request};
use crate::https::url::HttpsUrl;

/// The slowest server that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Bytes that arrive at least,
    pub bytes: u64,
    /// in each span of this length.
    pub within: Duration,
}

impl Pace {
    /// 100 bytes a second over a minute: a fiftieth of what GPRS gives.
    pub const SLOWEST: Pace = Pace { bytes: 6_000, within: Duration::from_secs(60) };
}

/// From where a body is continued (RFC 9110 §14.2, §13.1.5).
#[derive(Clone, Copy, Debug)]
pub struct Resume<'a> {
    /// The first byte asked for, `1..`.
    pub from: u64,
    /// The strong ETag of the answer the bytes before came from, with its quotes.
    pub etag: &'a str,
}

/// What an answer begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamHead {
    /// `100..=999`
    pub status: u16,
    /// Content-Length.
    pub length: Option<u64>,
    /// Content-Range.
    pub range: Option<String>,
    /// ETag, with its quotes.
    pub etag: Option<String>,
}

/// Takes an answer.
pub trait Receiver {
    /// Judges its head. False: the body is not wanted.
    fn handle_head(&mut self, head: &StreamHead) -> bool;

    /// Takes the next bytes of its body. False: no more are wanted.
    fn handle_piece(&mut self, piece: &[u8]) -> bool;
}

impl Client {
    /// Asks for a body and hands it on. No redirect is followed: its status is in the head. The
    /// client's bounds on silence and on the head hold, those on the whole answer do not.
    ///
    /// # Errors
    /// [`Failure`]; [`Failure::Declined`] where the receiver wanted no more.
    pub async fn stream(
        &self,
        url: &HttpsUrl,
        resume: Option<Resume<'_>>,
        pace: Pace,
        receiver: &mut impl Receiver,
    ) -> Result<(), Failure> {
        let request = Request::get(url.clone(), "application/octet-stream");
        let mut request = super::built(&request)?;
        if let Some(Resume { from, etag }) = resume {
            let invalid = |_| Failure::Local("the ETag of the part cannot be sent".to_owned());
            let range = format!("bytes={from}-").parse().map_err(invalid)?;
            request.headers_mut().insert(header::RANGE, range);
            request.headers_mut().insert(header::IF_RANGE, etag.parse().map_err(invalid)?);
        }
        self.exchange(url, request, async |answer| self.hand_on(answer, &url.host, pace, receiver).await)
            .await
    }

    async fn hand_on(
        &self,
        answer: hyper::Response<Incoming>,
        host: &str,
        pace: Pace,
        receiver: &mut impl Receiver,
    ) -> Result<(), Failure> {
        let head = read_head(answer.status().as_u16(), answer.headers())?;
        if !receiver.handle_head(&stream_head(head.status, answer.headers())) {
            return Err(Failure::Declined);
        }
        let mut body = answer.into_body();
        let (mut since, mut arrived) = (Instant::now(), 0u64);
        loop {
            let frame = timeout(self.limits.idle, body.frame()).await;
            match frame.map_err(|_| Failure::Silent(self.limits.idle))? {
                None => return Ok(()),
                Some(Err(error)) => return Err(self.failure(&error, host)),
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    arrived += data.len() as u64;
                    if !receiver.handle_piece(&data) {
                        return Err(Failure::Declined);
                    }
                }
            }
            let now = Instant::now();
            if now.duration_since(since) >= pace.within {
                if arrived < pace.bytes {
                    return Err(Failure::Slow(pace.within));
                }
                (since, arrived) = (now, 0);
            }
        }
    }
}

fn stream_head(status: u16, fields: &HeaderMap) -> StreamHead {
    let text = |name: HeaderName| fields.get(name).and_then(|value| value.to_str().ok());
    StreamHead {
        status,
        length: text(header::CONTENT_LENGTH).and_then(|field| field.parse().ok()),
        range: text(header::CONTENT_RANGE).map(str::to_owned),
        etag: text(header::ETAG).map(str::to_owned),
    }
}
