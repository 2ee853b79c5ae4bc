//! `[metrics] listen`: the metrics over plain HTTP, on a thread of their own.
//!
//! The path is asked for its numbers once a second at most, as by `tombolo status`, whatever comes
//! from outside; everything else (connections, HTTP, the text) is this thread's work. At most
//! [`CONNECTIONS_MAX`] connections are open, each for one request and [`PATIENCE`]; more are closed
//! at once.
//!
//! | request | answer |
//! |---|---|
//! | `GET` or `HEAD /metrics` | 200 and the text, or 503 if the path does not answer |
//! | another method there | 405 |
//! | anything else | 404 |

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex as AsyncMutex, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use crate::control::api::{Call, Reply};
use crate::control::metrics::{self, render};
use crate::control::protocol;
use crate::control::snapshot::{NOT_EXPORTED, Queue, Status};
use crate::proto::dtls::server::suite_names;

/// Most connections at once.
const CONNECTIONS_MAX: usize = 8;
/// A connection is closed after this time, whatever it does.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the path may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// The path is asked at most so often; requests in between get the same text.
const FRESH: Duration = Duration::from_secs(1);
/// Most bytes of a request's head.
const HEAD_MAX: usize = 16 * 1024;
/// How often an address that cannot be bound is tried.
const AGAIN: Duration = Duration::from_secs(2);
/// Pause after the system refused a connection.
const PAUSE: Duration = Duration::from_millis(200);

/// The thread, and the way from it to the path. It ends when this is dropped.
pub struct Metrics {
    calls: mpsc::Receiver<Call>,
    sender: mpsc::Sender<Call>,
    running: Option<Running>,
    /// Why an address is not served, by address.
    trouble: Arc<Mutex<Vec<(SocketAddr, String)>>>,
}

/// The thread that serves.
struct Running {
    /// It ends when this is dropped.
    _stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
    /// Says when each address was tried once.
    tried: Option<oneshot::Receiver<()>>,
}

impl Metrics {
    /// Serves these addresses; none = no thread.
    pub fn start(listen: &[SocketAddr]) -> Metrics {
        let (sender, calls) = mpsc::channel(2);
        let mut metrics = Metrics { calls, sender, running: None, trouble: Arc::default() };
        metrics.replace(listen);
        metrics
    }

    /// Serves these instead.
    pub fn replace(&mut self, listen: &[SocketAddr]) {
        let before = self.running.take().map(|running| running.thread);
        // The thread before has its own list.
        self.trouble = Arc::default();
        if listen.is_empty() {
            return;
        }
        let (running, stop) = oneshot::channel();
        let (done, tried) = oneshot::channel();
        let (sender, trouble, listen) = (self.sender.clone(), self.trouble.clone(), listen.to_vec());
        let spawned = std::thread::Builder::new().name("metrics".to_owned()).spawn(move || {
            // It may have an address that is served on.
            let _ = before.map(std::thread::JoinHandle::join);
            serve(listen, sender, &trouble, stop, done);
        });
        match spawned {
            Ok(thread) => self.running = Some(Running { _stop: running, thread, tried: Some(tried) }),
            Err(error) => log::error!(reason:% = error; "the metrics are not exported: no thread"),
        }
    }

    /// Waits until each address was tried once since [`Metrics::replace`]; [`ANSWER`] at most.
    pub async fn settled(&mut self) {
        if let Some(tried) = self.running.as_mut().and_then(|running| running.tried.take()) {
            let _ = timeout(ANSWER, tried).await; // one that is not is shown by the next status
        }
    }

    /// The next question of the thread, for [`Call::dispatch`]. Cancellation does not lose one.
    pub async fn next_call(&mut self) -> Call {
        match self.calls.recv().await {
            Some(call) => call,
            // Never: a sender is kept.
            None => std::future::pending().await,
        }
    }

    /// Why an address is not served, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble
            .iter()
            .map(|(address, why)| format!("{NOT_EXPORTED}{address}: {why}; it is tried again"))
            .collect()
    }
}

fn serve(
    listen: Vec<SocketAddr>,
    calls: mpsc::Sender<Call>,
    trouble: &Arc<Mutex<Vec<(SocketAddr, String)>>>,
    stop: oneshot::Receiver<()>,
    tried: oneshot::Sender<()>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return log::error!(reason:% = error; "the metrics are not exported: no runtime"),
    };
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let source = Rc::new(Source { calls, text: AsyncMutex::new(None) });
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let untried = Rc::new(RefCell::new((listen.len(), Some(tried))));
        for address in listen {
            let untried = untried.clone();
            let first = move || {
                let (left, done) = &mut *untried.borrow_mut();
                *left -= 1;
                if *left == 0 {
                    let _ = done.take().map(|done| done.send(()));
                }
            };
            let (source, places, trouble) = (source.clone(), places.clone(), trouble.clone());
            tokio::task::spawn_local(accept(address, source, places, trouble, first));
        }
        // Dropped by the daemon.
        let _ = stop.await;
    });
}

async fn accept(
    address: SocketAddr,
    source: Rc<Source>,
    places: Arc<Semaphore>,
    trouble: Arc<Mutex<Vec<(SocketAddr, String)>>>,
    first: impl FnOnce(),
) {
    let mut first = Some(first);
    let said = RefCell::new(String::new());
    let listener = loop {
        let reason = match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                format!("another program has the port; `ss -ltnp sport = :{}` names it", address.port())
            }
            Err(error) => error.to_string(),
        };
        {
            let mut list = trouble.lock().unwrap_or_else(PoisonError::into_inner);
            list.retain(|(other, _)| *other != address);
            list.push((address, reason.clone()));
        }
        if said.replace(reason.clone()) != reason {
            log::error!(listen:% = address, reason = reason.as_str(); "the metrics are not exported");
        }
        if let Some(first) = first.take() {
            first();
        }
        tokio::time::sleep(AGAIN).await;
    };
    trouble.lock().unwrap_or_else(PoisonError::into_inner).retain(|(other, _)| *other != address);
    if let Some(first) = first.take() {
        first();
    }
    let bound = listener.local_addr().unwrap_or(address);
    log::info!(listen:% = bound; "the metrics are exported");
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::debug!(reason:% = error; "a connection for the metrics was not accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // More are closed at once.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let source = source.clone();
        tokio::task::spawn_local(async move {
            let _ = timeout(PATIENCE, converse(stream, source)).await;
            drop(place);
        });
    }
}

/// One connection, one request.
async fn converse(stream: TcpStream, source: Rc<Source>) {
    let answer = service_fn(|request| {
        let source = source.clone();
        async move { Ok::<_, Infallible>(answer(&request, &source).await) }
    });
    let mut connection = hyper::server::conn::http1::Builder::new();
    connection.keep_alive(false).max_buf_size(HEAD_MAX);
    // What a client does wrong concerns nobody else.
    let _ = connection.serve_connection(TokioIo::new(stream), answer).await;
}

async fn answer(request: &Request<Incoming>, source: &Source) -> Response<Full<Bytes>> {
    let plain = |status: StatusCode, text: &'static str| {
        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    };
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n");
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match source.text().await {
        Some(text) => {
            let mut response = Response::new(Full::new(text));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
            response
        }
        None => plain(StatusCode::SERVICE_UNAVAILABLE, "the gateway does not answer in time\n"),
    }
}

/// Where the text comes from.
struct Source {
    calls: mpsc::Sender<Call>,
    text: AsyncMutex<Option<(Instant, Bytes)>>,
}

impl Source {
    /// The text, at most [`FRESH`] old. Requests that come together wait for one answer.
    async fn text(&self) -> Option<Bytes> {
        let mut kept = self.text.lock().await;
        if let Some((_, text)) = kept.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Some(text.clone());
        }
        let mut status: Status = self.ask(protocol::Request::Status {}).await?;
        // A series does not end where no session has its suite.
        for suite in suite_names() {
            status.dtls.suites.entry(suite.to_owned()).or_default();
        }
        let queue: Queue = self.ask(protocol::Request::Queue {}).await?;
        let text = Bytes::from(render(&status, &queue));
        *kept = Some((Instant::now(), text.clone()));
        Some(text)
    }

    async fn ask<T: DeserializeOwned>(&self, request: protocol::Request) -> Option<T> {
        let (reply, answer) = Reply::channel();
        let answered = async {
            self.calls.send(Call { request, reply }).await.ok()?;
            answer.await.ok()
        };
        match timeout(ANSWER, answered).await.ok()?? {
            protocol::Response::Ok(value) => serde_json::from_value(value).ok(),
            _ => None,
        }
    }
}
