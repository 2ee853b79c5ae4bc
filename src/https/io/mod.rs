//! The client's shell: one connection a request, read within its limits.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

pub mod stream;

use std::error::Error as _;
use std::future::{Future as _, poll_fn};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::challenge::Challenges;
use super::message::{Failure, Limits, Method, Request, Response, media_type};
use super::unverified;
use super::url::HttpsUrl;
use super::wording::{self, Keys};
use crate::clock::WallClock;
use crate::northbound::address;
use crate::northbound::io::{files, token, transport};
use crate::northbound::revocation::RevocationSettings;
use crate::northbound::settings::{TlsSettings, TlsVersion, TokenSettings};
use crate::northbound::tls::{self, Pem, TlsError};
use crate::northbound::token_key::TokenKey;
use crate::proto::pem;

/// Fields of an answer at most.
const FIELDS_MAX: usize = 100;
/// hyper reads heads into a buffer of this size at least.
const HEAD_LEAST: usize = 8 * 1024;

/// Which servers are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The system's CAs.
    System,
    /// The CAs in this PEM file alone.
    File(PathBuf),
    /// These CA certificates alone, DER.
    Certificates(Vec<Vec<u8>>),
    /// A server whose public key has one of these SHA-256 sums; neither name nor date counts.
    Pins(Vec<[u8; 32]>),
    /// Any, for what proves itself. A request with a password is refused.
    Unverified,
}

/// A certificate chain, leaf first, and its key in PKCS#8, both DER.
#[derive(Clone)]
pub struct ClientCertificate {
    /// What to call it in messages.
    pub label: String,
    /// The chain, leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// The key, PKCS#8 DER, or a reference to one in `token`.
    pub key: Arc<Zeroizing<Vec<u8>>>,
    /// The token that has the key.
    pub token: Option<TokenSettings>,
}

impl ClientCertificate {
    fn certified(&self) -> Result<CertifiedKey, TlsError> {
        let chain = Pem { file: self.label.clone(), bytes: pem::chain(&self.chain) };
        if let Some(key) = TokenKey::parse(&self.key) {
            let none = || format!("{}: its key is in a PKCS #11 token, and none is configured", self.label);
            let token = self.token.as_ref().ok_or_else(none).map_err(TlsError::Token)?;
            let load = || token::signing_key(token, key).map_err(TlsError::Token);
            return tls::certified_with(&chain, &self.label, load);
        }
        let mut key = Pem { file: self.label.clone(), bytes: Vec::new() };
        pem::encode(pem::PRIVATE_KEY, &self.key, &mut key.bytes);
        let certified = tls::certified_key(&chain, &key);
        zeroize::Zeroize::zeroize(&mut key.bytes);
        certified
    }
}

/// Asks servers of one kind.
pub struct Client {
    config: Arc<ClientConfig>,
    verified: bool,
    limits: Limits,
    keys: Keys,
}

impl Client {
    /// Makes a client. It blocks where `trust` names a file or the system's CAs: not for the path's
    /// thread.
    ///
    /// # Errors
    /// [`Failure::Local`] names the file or certificate at fault.
    pub fn new(
        trust: &Trust,
        identity: Option<&ClientCertificate>,
        clock: Arc<dyn WallClock>,
        limits: Limits,
        keys: Keys,
    ) -> Result<Client, Failure> {
        let config = match trust {
            Trust::Unverified => unverified::client_config(),
            trust => verified(trust, identity, clock)?,
        };
        Ok(Client { config, verified: *trust != Trust::Unverified, limits, keys })
    }

    /// Asks, and follows as many redirects as the request allows.
    ///
    /// # Errors
    /// [`Failure`] if there is no whole answer within the limits; an answer of any status is an
    /// answer.
    pub async fn send(&self, request: &Request<'_>) -> Result<Response, Failure> {
        if request.basic.is_some() && (!self.verified || request.url.plain) {
            return Err(Failure::Local("a password is not sent to a server that is not verified".to_owned()));
        }
        match timeout(self.limits.total, self.follow(request)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::Slow(self.limits.total)),
        }
    }

    async fn follow(&self, request: &Request<'_>) -> Result<Response, Failure> {
        let mut request = request.clone();
        loop {
            let response = self.ask(&request).await?;
            let Some(location) =
                response.location.as_deref().filter(|_| (300..400).contains(&response.status))
            else {
                return Ok(response);
            };
            let refused = || Failure::Redirect { status: response.status, location: location.to_owned() };
            if request.redirects == 0 || request.method != Method::Get {
                return Err(refused());
            }
            request.url = request.url.redirected(location).ok_or_else(refused)?;
            request.redirects -= 1;
        }
    }

    /// One question on one connection.
    async fn ask(&self, request: &Request<'_>) -> Result<Response, Failure> {
        let url = &request.url;
        self.exchange(url, built(request)?, async |answer| self.read(answer, &url.host).await).await
    }

    /// Sends a request on a connection of its own, and has the answer taken.
    async fn exchange<T>(
        &self,
        url: &HttpsUrl,
        request: hyper::Request<Full<Bytes>>,
        take: impl AsyncFnOnce(hyper::Response<Incoming>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let HttpsUrl { host, port, .. } = url;
        let addresses = transport::resolve(host, *port).await.map_err(Failure::Unreachable)?;
        // As many as are tried in any case: a name may have thousands.
        let addresses = address::order(&addresses, &[]);
        let (socket, _, _) = transport::dial(host, *port, &addresses).await.map_err(Failure::Unreachable)?;
        if url.plain {
            return self.exchange_on(socket, host, request, take).await;
        }
        let name = tls::server_name(host).map_err(|error| Failure::Local(error.to_string()))?;
        let handshake = TlsConnector::from(self.config.clone()).connect(name, socket);
        let stream = match timeout(self.limits.idle, handshake).await {
            Err(_) => return Err(Failure::Silent(self.limits.idle)),
            Ok(Err(error)) => return Err(self.io_failure(&error, host, "during the TLS handshake")),
            Ok(Ok(stream)) => stream,
        };
        self.exchange_on(stream, host, request, take).await
    }

    /// The question and the answer on a stream.
    async fn exchange_on<S, T>(
        &self,
        stream: S,
        host: &str,
        request: hyper::Request<Full<Bytes>>,
        take: impl AsyncFnOnce(hyper::Response<Incoming>) -> Result<T, Failure>,
    ) -> Result<T, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder.max_buf_size(self.limits.head.max(HEAD_LEAST)).max_headers(FIELDS_MAX);
        let made = builder.handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await;
        let (mut sender, connection) = made.map_err(|error| self.failure(&error, host))?;
        let exchange = async {
            let silent = || Failure::Silent(self.limits.idle);
            let answer = timeout(self.limits.idle, sender.send_request(request)).await;
            let answer = answer.map_err(|_| silent())?.map_err(|error| self.failure(&error, host))?;
            take(answer).await
        };
        // The connection moves the bytes; it is driven here and dropped with the exchange, so that
        // nothing goes on after a time-out.
        let (mut connection, mut exchange) = (pin!(connection), pin!(exchange));
        let mut ended = None;
        let result = poll_fn(|cx| {
            if ended.is_none()
                && let Poll::Ready(end) = connection.as_mut().poll(cx)
            {
                ended = Some(end);
            }
            exchange.as_mut().poll(cx)
        })
        .await;
        // What ended the connection is told to the connection, and only in part to the exchange.
        match (result, ended) {
            (Err(Failure::Broken(_)), Some(Err(error))) => Err(self.failure(&error, host)),
            (result, _) => result,
        }
    }

    /// Reads the body within its bounds.
    async fn read(&self, answer: hyper::Response<Incoming>, host: &str) -> Result<Response, Failure> {
        let mut response = read_head(answer.status().as_u16(), answer.headers())?;
        let mut body = answer.into_body();
        let too_long = || Failure::BodyTooLong(self.limits.body);
        if body.size_hint().lower() > self.limits.body as u64 {
            return Err(too_long());
        }
        loop {
            let frame = timeout(self.limits.idle, body.frame()).await;
            match frame.map_err(|_| Failure::Silent(self.limits.idle))? {
                None => return Ok(response),
                Some(Err(error)) => return Err(self.failure(&error, host)),
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if response.body.len() + data.len() > self.limits.body {
                        return Err(too_long());
                    }
                    response.body.extend_from_slice(&data);
                }
            }
        }
    }

    fn failure(&self, error: &hyper::Error, host: &str) -> Failure {
        if error.is_parse_too_large() {
            return Failure::HeadTooLong(self.limits.head.max(HEAD_LEAST));
        }
        if error.is_parse() {
            return Failure::NotHttp;
        }
        if error.is_incomplete_message() {
            return Failure::Truncated;
        }
        let mut cause = error.source();
        while let Some(inner) = cause {
            if let Some(error) = inner.downcast_ref::<std::io::Error>() {
                if error.kind() == std::io::ErrorKind::UnexpectedEof {
                    return Failure::Truncated;
                }
                return self.io_failure(error, host, "in the middle of the answer");
            }
            cause = inner.source();
        }
        Failure::Broken(error.to_string())
    }

    fn io_failure(&self, error: &std::io::Error, host: &str, when: &str) -> Failure {
        use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        if let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            let explained = wording::explain(inner, host, self.keys);
            return Failure::Tls { text: explained.text, unwelcome: explained.unwelcome };
        }
        match error.kind() {
            UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe => {
                Failure::Broken(format!("{host} closed it {when}"))
            }
            _ => Failure::Broken(error.to_string()),
        }
    }
}

fn verified(
    trust: &Trust,
    identity: Option<&ClientCertificate>,
    clock: Arc<dyn WallClock>,
) -> Result<Arc<ClientConfig>, Failure> {
    let (anchors, place) = match trust {
        Trust::System => files::system_anchors(),
        Trust::File(path) => (vec![files::pem(path).map_err(Failure::Local)?], path.display().to_string()),
        Trust::Certificates(certificates) => {
            let place = "the pinned CA".to_owned();
            (vec![Pem { file: place.clone(), bytes: pem::chain(certificates) }], place)
        }
        Trust::Pins(_) | Trust::Unverified => (Vec::new(), String::new()),
    };
    let pins = if let Trust::Pins(pins) = trust { pins.clone() } else { Vec::new() };
    let settings = TlsSettings {
        ca_file: None,
        pins,
        identity: None,
        key_password: None,
        alpn: Vec::new(),
        minimum: TlsVersion::V1_2,
        revocation: RevocationSettings::default(),
        est_anchors: None,
        token: None,
    };
    let identity = identity.map(ClientCertificate::certified).transpose();
    let config = identity
        .and_then(|identity| tls::client_config_with(&settings, &anchors, &place, identity, None, clock));
    config.map_err(|error| {
        Failure::Local(error.to_string().replace("; install ca-certificates or set upstream.ca-file", ""))
    })
}

fn built(request: &Request<'_>) -> Result<hyper::Request<Full<Bytes>>, Failure> {
    let invalid = |_| Failure::Local("the request cannot be written as HTTP".to_owned());
    let mut builder = hyper::Request::builder()
        .method(request.method.name())
        .uri(&request.url.path)
        .header(header::HOST, request.url.authority())
        .header(header::USER_AGENT, concat!("tombolo/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, request.accept)
        .header(header::CONNECTION, "close");
    if let Some(basic) = request.basic {
        let pair = Zeroizing::new([basic.username.as_bytes(), b":", &basic.password].concat());
        let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(&*pair)));
        let mut value =
            HeaderValue::from_str(&text).map_err(|_| Failure::Local("the user name is invalid".into()))?;
        value.set_sensitive(true);
        builder = builder.header(header::AUTHORIZATION, value);
    }
    let mut bytes = Bytes::new();
    if let Some(body) = &request.body {
        builder = builder.header(header::CONTENT_TYPE, body.content_type);
        if let Some(encoding) = body.transfer_encoding {
            builder = builder.header(HeaderName::from_static("content-transfer-encoding"), encoding);
        }
        bytes = Bytes::from(body.bytes.clone());
    }
    builder.body(Full::new(bytes)).map_err(invalid)
}

fn read_head(status: u16, fields: &HeaderMap) -> Result<Response, Failure> {
    let text = |name: HeaderName| fields.get(name).and_then(|value| value.to_str().ok());
    if let Some(coding) =
        text(header::CONTENT_ENCODING).filter(|coding| !coding.eq_ignore_ascii_case("identity"))
    {
        return Err(Failure::Encoded(coding.chars().take(20).collect()));
    }
    let mut challenges = Challenges::default();
    for field in fields.get_all(header::WWW_AUTHENTICATE) {
        challenges.add(&String::from_utf8_lossy(field.as_bytes()));
    }
    Ok(Response {
        status,
        content_type: text(header::CONTENT_TYPE).map(media_type).unwrap_or_default(),
        retry_after: text(header::RETRY_AFTER)
            .and_then(|field| super::retry_after::parse(field, text(header::DATE))),
        challenges,
        location: text(header::LOCATION).map(str::to_owned),
        body: Vec::new(),
    })
}

/// The default bounds: a minute, 20 s of silence, 16 KiB of header.
pub const fn limits(body: usize) -> Limits {
    Limits { total: Duration::from_secs(60), idle: Duration::from_secs(20), head: 16 * 1024, body }
}
