//! The server of the control socket, on the runtime of the path.
//!
//! Connections are tasks of that runtime; each has at most one request in progress and sends it
//! through a bounded channel to the daemon's loop, which answers between two rounds of the path.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::bytes::BytesMut;
use tokio_util::codec::{Decoder as _, LinesCodec, LinesCodecError};

use super::places::{CONNECTIONS_MAX, Places};
use crate::control::api::{Asker, Call, Reply};
use crate::control::protocol::{Code, Failure, REQUEST_MAX, Request, Response, to_line};
use crate::control::tail::{Seen, Tail, Watcher};
use crate::control::trace::{Trace, TraceWatcher};
use crate::control::traffic::{Traffic, TrafficWatcher, WATCHERS_MAX};
use crate::system::io::has_listener;

/// A connection that has not sent a whole request within this time is closed.
const IDLE: Duration = Duration::from_secs(60);
/// A connection whose client does not read for this time is closed.
const WRITE: Duration = Duration::from_secs(10);
/// Timeout of an answer; one disk operation may take 120 s.
const ANSWER: Duration = Duration::from_secs(150);
/// Pause after the system refused a connection, for example because of too many open files.
const PAUSE: Duration = Duration::from_millis(200);

/// Why the control socket cannot be created.
#[derive(Debug)]
pub enum BindError {
    /// Another daemon answers on it.
    InUse {
        /// The socket.
        socket: PathBuf,
    },
    /// A file that is not a socket has its name.
    NotASocket {
        /// The file.
        socket: PathBuf,
    },
    /// The system call failed.
    System {
        /// The socket.
        socket: PathBuf,
        /// The error of the system call.
        error: io::Error,
    },
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BindError::InUse { socket } => write!(
                f,
                "another tombolo answers on {}; stop it, or give this one its own [paths] runtime-dir",
                socket.display()
            ),
            BindError::NotASocket { socket } => {
                write!(f, "{} is in the way: it is not a socket; move it aside", socket.display())
            }
            BindError::System { socket, error } => {
                write!(f, "the control socket {} cannot be made: {error}", socket.display())
            }
        }
    }
}

impl std::error::Error for BindError {}

/// What a connection may watch.
#[derive(Clone, Debug, Default)]
struct Streams {
    tail: Tail,
    trace: Trace,
    traffic: Traffic,
}

/// The socket, its connections, and their calls. Dropping it closes all connections and removes the
/// socket.
#[derive(Debug)]
pub struct Server {
    socket: PathBuf,
    calls: mpsc::Receiver<Call>,
    streams: Streams,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Creates the socket with mode 0660 and starts to accept connections. Must be called on a
    /// tokio runtime with I/O and time.
    ///
    /// A socket left by an ended process is replaced; the new one has its final permissions from
    /// the start. The directory must exist.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn start(socket: &Path) -> Result<Server, BindError> {
        let listener = bind(socket)?;
        // The channel has room for one call per connection, so that sending never waits.
        let (sender, calls) = mpsc::channel(CONNECTIONS_MAX);
        let streams = Streams::default();
        let accepting = tokio::spawn(accept(listener, sender, streams.clone()));
        Ok(Server { socket: socket.to_owned(), calls, streams, accepting })
    }

    /// The next request for [`Call::dispatch`]. Cancellation does not lose a request.
    pub async fn next_call(&mut self) -> Call {
        match self.calls.recv().await {
            Some(call) => call,
            // Only if the accepting task has ended, which happens when this value is dropped.
            None => std::future::pending().await,
        }
    }

    /// The tail to which the path sends its readings.
    pub fn tail(&self) -> &Tail {
        &self.streams.tail
    }

    /// The trace to which serial ports send their bytes.
    pub fn trace(&self) -> &Trace {
        &self.streams.trace
    }

    /// The stream to which the path sends decrypted messages.
    pub fn traffic(&self) -> &Traffic {
        &self.streams.traffic
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn bind(socket: &Path) -> Result<UnixListener, BindError> {
    let system = |error| BindError::System { socket: socket.to_owned(), error };
    match std::fs::symlink_metadata(socket) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotASocket { socket: socket.to_owned() });
        }
        Ok(_) if has_listener(socket).unwrap_or(true) => {
            return Err(BindError::InUse { socket: socket.to_owned() });
        }
        _ => {}
    }
    // Created under another name until its mode is set. The name is not longer than the final one,
    // because a socket path has at most 107 bytes.
    let new = socket.with_file_name(".control.new");
    let _ = std::fs::remove_file(&new);
    let listener = UnixListener::bind(&new).map_err(system)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o660))
        .and_then(|()| std::fs::rename(&new, socket))
        .inspect_err(|_| {
            let _ = std::fs::remove_file(&new);
        })
        .map_err(system)?;
    Ok(listener)
}

async fn accept(listener: UnixListener, calls: mpsc::Sender<Call>, streams: Streams) {
    let places = Places::new();
    // Aborts the connections when this task ends.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!(reason:% = error; "control connection not accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let peer = Peer::of(&stream);
        match places.connect(is_privileged(peer.uid)) {
            Ok(place) => {
                let (calls, streams, places) = (calls.clone(), streams.clone(), Arc::clone(&places));
                connections.spawn(serve(stream, peer, place, places, calls, streams));
                // Its request is read before the next connection could take its place.
                tokio::task::yield_now().await;
            }
            // The buffer of a new socket has room for one line; if the write fails, the client gets
            // no answer.
            Err(failure) => drop(stream.try_write(&to_line(&Response::Error(failure)))),
        }
    }
}

/// The process at the other end.
#[derive(Clone, Copy)]
struct Peer {
    uid: i64,
    pid: i32,
}

impl Peer {
    fn of(stream: &UnixStream) -> Peer {
        let peer = stream.peer_cred().ok();
        let uid = peer.map_or(-1, |peer| i64::from(peer.uid()));
        Peer { uid, pid: peer.and_then(|peer| peer.pid()).unwrap_or(0) }
    }
}

/// What a client sent.
enum Sent {
    Request(Result<Request, Failure>),
    /// More than a request may have.
    TooLong,
}

/// The next request; `None`: the client is gone.
async fn receive(stream: &mut UnixStream, lines: &mut LinesCodec, buffer: &mut BytesMut) -> Option<Sent> {
    loop {
        match lines.decode(buffer) {
            Ok(Some(line)) if line.is_empty() => {}
            Ok(Some(line)) => return Some(Sent::Request(Request::parse(line.as_bytes()))),
            Ok(None) => {
                buffer.reserve(4096);
                if !matches!(stream.read_buf(buffer).await, Ok(length) if length > 0) {
                    return None;
                }
            }
            Err(LinesCodecError::Io(_)) => {
                let failure = Failure::new(Code::BadRequest, "the request is not UTF-8");
                return Some(Sent::Request(Err(failure)));
            }
            Err(LinesCodecError::MaxLineLengthExceeded) => return Some(Sent::TooLong),
        }
    }
}

async fn serve(
    mut stream: UnixStream,
    peer: Peer,
    place: OwnedSemaphorePermit,
    places: Arc<Places>,
    calls: mpsc::Sender<Call>,
    streams: Streams,
) {
    let Peer { uid, pid } = peer;
    let mut lines = LinesCodec::new_with_max_length(REQUEST_MAX);
    let mut buffer = BytesMut::new();
    let mut connection = Some(place);
    while let Some(place) = connection.take() {
        let waiting = places.wait(place);
        let gone = Arc::clone(&waiting.gone);
        let sent = tokio::select! {
            biased;
            sent = timeout(IDLE, receive(&mut stream, &mut lines, &mut buffer)) => sent.ok().flatten(),
            () = gone.notified() => None,
        };
        connection = waiting.take();
        if connection.is_none() {
            let text = "closed: no request came, and other connections wait for a place; try again";
            let _ = stream.try_write(&to_line(&Response::Error(Failure::new(Code::Busy, text))));
            return;
        }
        let request = match sent {
            Some(Sent::Request(request)) => request,
            Some(Sent::TooLong) => {
                let message = format!("a request has at most {REQUEST_MAX} bytes");
                let _ = send(&mut stream, &Response::Error(Failure::new(Code::BadRequest, message))).await;
                return;
            }
            None => return,
        };
        let served = request.and_then(|request| {
            // What this user may not ask takes no place from others.
            let is_refused = request.is_privileged() && !is_privileged(uid);
            let place = if is_refused { None } else { places.serve(&request)? };
            Ok((request, place))
        });
        let (request, _place) = match served {
            Ok((request, place)) => (Ok(request), place),
            Err(failure) => (Err(failure), None),
        };
        let response = match request {
            Err(failure) => Response::Error(failure),
            Ok(request) if request.is_privileged() && !is_privileged(uid) => {
                log::warn!(uid = uid, pid = pid, request:% = request, audit = "control-refused"; "control request refused");
                let message = "only root and the user of the daemon may ask this: use sudo";
                Response::Error(Failure::new(Code::Denied, message))
            }
            Ok(Request::Tail { device, last }) => {
                // Subscribed before the request, so that no reading after the answer is missed.
                let watcher = streams.tail.watch(device.clone(), last as usize);
                let subject = device.clone().unwrap_or_else(|| "all devices".to_owned());
                match ask(uid, Request::Tail { device, last }, &calls).await {
                    Response::Ok(_) => {
                        let subject = subject.as_str();
                        log::info!(uid = uid, pid = pid, subject = subject, audit = "control"; "tail begins");
                        let shown = stream_tail(stream, watcher).await;
                        log::info!(uid = uid, pid = pid, subject = subject, readings = shown, audit = "control"; "tail ends");
                        return;
                    }
                    response => response,
                }
            }
            Ok(Request::TrafficTrace { target, payload }) => {
                match ask(uid, Request::TrafficTrace { target: target.clone(), payload }, &calls).await {
                    Response::Ok(_) => match streams.traffic.watch(target.clone(), payload) {
                        Some(watcher) => {
                            let target = target.as_str();
                            log::info!(uid = uid, pid = pid, subject = target, payload = payload, audit = "control"; "trace begins");
                            let shown = stream_traffic(stream, watcher).await;
                            log::info!(uid = uid, pid = pid, subject = target, messages = shown, audit = "control"; "trace ends");
                            return;
                        }
                        None => Response::Error(Failure::new(
                            Code::Busy,
                            format!("{WATCHERS_MAX} traces are open already; end one of them"),
                        )),
                    },
                    response => response,
                }
            }
            Ok(Request::SerialTrace { port }) => {
                // Subscribed before the request, so that no piece after the answer is missed.
                let watcher = streams.trace.watch(port.clone());
                match ask(uid, Request::SerialTrace { port: port.clone() }, &calls).await {
                    Response::Ok(_) => {
                        let subject = port.as_str();
                        log::info!(uid = uid, pid = pid, subject = subject, audit = "control"; "serial trace begins");
                        let shown = stream_trace(stream, watcher).await;
                        log::info!(uid = uid, pid = pid, subject = subject, pieces = shown, audit = "control"; "serial trace ends");
                        return;
                    }
                    response => response,
                }
            }
            Ok(request) => {
                if request.changes_something() {
                    log::info!(uid = uid, pid = pid, request:% = request, audit = "control"; "control request");
                }
                ask(uid, request, &calls).await
            }
        };
        if send(&mut stream, &response).await.is_err() {
            return;
        }
    }
}

async fn ask(uid: i64, request: Request, calls: &mpsc::Sender<Call>) -> Response {
    let unavailable = |message: &str| Response::Error(Failure::new(Code::Unavailable, message));
    let (reply, response) = Reply::channel_to(Asker::User(uid));
    if calls.send(Call { request, reply }).await.is_err() {
        return unavailable("the daemon is stopping");
    }
    match timeout(ANSWER, response).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => unavailable("the daemon is starting or stopping; try again in a moment"),
        Err(_) => unavailable("the daemon does not answer in time; `journalctl -u tombolo` may say why"),
    }
}

/// Root, or the user that runs the daemon.
fn is_privileged(uid: i64) -> bool {
    uid == 0 || uid == i64::from(nix::unistd::geteuid().as_raw())
}

/// How many readings were sent.
async fn stream_tail(mut stream: UnixStream, mut watcher: Watcher) -> u64 {
    let mut count = 0;
    if send(&mut stream, &Response::Ok(serde_json::json!({}))).await.is_err() {
        return count;
    }
    let mut ignored = [0; 64];
    loop {
        let seen = tokio::select! {
            seen = watcher.next() => seen,
            // Any input or the end of the connection ends a tail.
            _ = stream.read(&mut ignored) => return count,
        };
        let sent = match seen {
            Some(Seen::Item(item)) => match serde_json::to_value(&*item) {
                Ok(value) => {
                    count += 1;
                    send(&mut stream, &Response::Item(value)).await
                }
                Err(_) => Ok(()),
            },
            Some(Seen::Missed(count)) => send(&mut stream, &Response::Missed(count)).await,
            None => return count,
        };
        if sent.is_err() {
            return count;
        }
    }
}

/// How many pieces were sent.
async fn stream_trace(mut stream: UnixStream, mut watcher: TraceWatcher) -> u64 {
    let mut count = 0;
    if send(&mut stream, &Response::Ok(serde_json::json!({}))).await.is_err() {
        return count;
    }
    let mut ignored = [0; 64];
    loop {
        let seen = tokio::select! {
            seen = watcher.next() => seen,
            _ = stream.read(&mut ignored) => return count,
        };
        let response = match seen {
            Some(Ok(traced)) => match serde_json::to_value(&*traced) {
                Ok(value) => {
                    count += 1;
                    Response::Item(value)
                }
                Err(_) => continue,
            },
            Some(Err(missed)) => Response::Missed(missed),
            None => return count,
        };
        if send(&mut stream, &response).await.is_err() {
            return count;
        }
    }
}

/// How many messages were sent. A trace that ends with the daemon ends without its last line in the
/// log: the daemon's own says that it stops.
async fn stream_traffic(mut stream: UnixStream, mut watcher: TrafficWatcher) -> u64 {
    let mut count = 0;
    if send(&mut stream, &Response::Ok(serde_json::json!({}))).await.is_err() {
        return count;
    }
    let mut ignored = [0; 64];
    loop {
        let message = tokio::select! {
            message = watcher.next() => message,
            _ = stream.read(&mut ignored) => return count,
        };
        let Some(message) = message else { return count };
        let Ok(value) = serde_json::to_value(&message) else { continue };
        if send(&mut stream, &Response::Item(value)).await.is_err() {
            return count;
        }
        count += 1;
    }
}

async fn send(stream: &mut UnixStream, response: &Response) -> io::Result<()> {
    match timeout(WRITE, stream.write_all(&to_line(response))).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
