//! The client of the control socket: blocking, one connection per command. An answer has a deadline
//! as a whole, so that a daemon that sends it byte by byte, or accepts nobody, holds no command.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::bytes::BytesMut;
use tokio_util::codec::{Decoder as _, LinesCodec, LinesCodecError};

use crate::control::protocol::{Failure, RESPONSE_MAX, Request, Response, to_line};
use crate::control::tail::Item;
use crate::control::trace::Traced;
use crate::control::traffic::Message;

/// Timeout of a connection, where nobody accepts.
const CONNECTION: Duration = Duration::from_secs(5);
/// Timeout of an ordinary answer.
pub const ANSWER: Duration = Duration::from_secs(10);
/// Timeout of an answer that needs the disk or the network, as long as the daemon shows that it
/// runs: while such an answer is waited for, it is asked for a sign of life each [`SILENCE`].
pub const SLOW_ANSWER: Duration = Duration::from_secs(155);
/// A daemon that works answers the smallest question within this.
const SILENCE: Duration = Duration::from_secs(6);

/// Why a request to the daemon failed.
#[derive(Debug)]
pub enum ClientError {
    /// No process listens on the socket.
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// The command that starts it; `None`: the service.
        start: Option<String>,
    },
    /// The configuration, which says where the socket is, does not exist.
    NoConfiguration {
        /// The file.
        config: PathBuf,
        /// What there is to do about it.
        advice: String,
    },
    /// This user may not open the socket.
    Denied {
        /// The socket.
        socket: PathBuf,
        /// Membership in its group would not be enough either: the request is for root and the
        /// daemon's user.
        privileged: bool,
    },
    /// The daemon answered with a failure.
    Failed(Failure),
    /// It took the request, and then answered not even the smallest question.
    Lifeless {
        /// The socket.
        socket: PathBuf,
        /// For how long.
        silent: Duration,
    },
    /// The connection was closed, or the request timed out.
    Broken {
        /// The socket.
        socket: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// The answer is invalid.
    Garbled {
        /// The fault.
        reason: String,
    },
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::NotRunning { socket, start: None } => write!(
                f,
                "tombolo is not running: nothing answers on {}; start it with `systemctl start tombolo`, or `tombolo run` in a terminal; a gateway of your own is named with --config FILE",
                socket.display()
            ),
            ClientError::NotRunning { socket, start: Some(start) } => write!(
                f,
                "tombolo is not running: nothing answers on {}; start it with `{start}` in another terminal",
                socket.display()
            ),
            ClientError::NoConfiguration { config, advice } => {
                write!(f, "{} does not exist; {advice}", config.display())
            }
            ClientError::Denied { socket, privileged: false } => write!(
                f,
                "{} may not be opened by this user: use sudo, or join its group with `adduser $USER tombolo` and log in again",
                socket.display()
            ),
            ClientError::Denied { socket, privileged: true } => {
                write!(f, "{} may not be opened by this user: use sudo", socket.display())
            }
            ClientError::Failed(failure) => write!(f, "{failure}"),
            ClientError::Lifeless { socket, silent } => write!(
                f,
                "the daemon on {} has given no sign of life for {} s, so it is not waited for any longer: it may be stopped; what \
                 was asked may be done once it goes on; `journalctl -u tombolo` may say why",
                socket.display(),
                silent.as_secs()
            ),
            ClientError::Broken { socket, error } if error.kind() == io::ErrorKind::TimedOut => write!(
                f,
                "the daemon on {} does not answer; `journalctl -u tombolo` may say why",
                socket.display()
            ),
            ClientError::Broken { socket, error } => {
                write!(f, "the connection to {} broke: {error}", socket.display())
            }
            ClientError::Garbled { reason } => write!(
                f,
                "the daemon's answer cannot be read ({reason}); if it is of another version than this command, restart it"
            ),
        }
    }
}

impl ClientError {
    /// The same error of a request for root and the daemon's user
    /// ([`Request::is_privileged`]): it does not advise to join the group.
    pub fn of_privileged(self) -> ClientError {
        match self {
            ClientError::Denied { socket, .. } => ClientError::Denied { socket, privileged: true },
            other => other,
        }
    }
}

impl ClientError {
    /// Whether the time was over.
    fn is_timeout(&self) -> bool {
        matches!(self, ClientError::Broken { error, .. } if error.kind() == io::ErrorKind::TimedOut)
    }
}

impl std::error::Error for ClientError {}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    lines: LinesCodec,
    buffer: BytesMut,
    socket: PathBuf,
    /// Of the whole answer; `None`: a stream, which may be silent for as long as it likes.
    deadline: Option<Instant>,
}

/// An item of a tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// A reading.
    Item(Box<Item>),
    /// This many readings were not sent because this client reads too slowly.
    Missed(u64),
}

impl Client {
    /// Connects to the daemon.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`], [`ClientError::Denied`] or [`ClientError::Broken`].
    pub fn connect(socket: &Path) -> Result<Client, ClientError> {
        let stream = open(socket, CONNECTION).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { socket: socket.to_owned(), start: None }
            }
            io::ErrorKind::PermissionDenied => {
                ClientError::Denied { socket: socket.to_owned(), privileged: false }
            }
            _ => broken(socket, error),
        })?;
        let lines = LinesCodec::new_with_max_length(RESPONSE_MAX);
        let (buffer, socket) = (BytesMut::new(), socket.to_owned());
        Ok(Client { stream, lines, buffer, socket, deadline: None })
    }

    /// Sends a request and waits for the answer: `within` is for all of it, however it comes. A
    /// long wait ends sooner where the daemon gives no sign of life.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Failed`] has the daemon's failure.
    pub fn ask(&mut self, request: &Request, within: Duration) -> Result<Value, ClientError> {
        self.ask_attended(request, within, if within > ANSWER { SILENCE } else { within })
    }

    /// As [`Client::ask`], with a sign of life asked for each `silence`.
    pub(super) fn ask_attended(
        &mut self,
        request: &Request,
        within: Duration,
        silence: Duration,
    ) -> Result<Value, ClientError> {
        let end = Instant::now() + within;
        let attend = || Some(end.min(Instant::now() + silence));
        self.deadline = attend();
        // A daemon with too many connections answers and closes without reading the request, so its
        // line is read even if the write failed.
        let written = self.send(&to_line(request));
        let mut received = self.receive();
        while received.as_ref().is_err_and(ClientError::is_timeout) && Instant::now() < end {
            self.look_for_life(silence)?;
            self.deadline = attend();
            received = self.receive();
        }
        match received {
            Ok(Some(Response::Ok(value))) => Ok(value),
            Ok(Some(Response::Error(failure))) => Err(ClientError::Failed(failure)),
            Ok(Some(_)) => {
                Err(ClientError::Garbled { reason: "a stream's object instead of an answer".to_owned() })
            }
            Ok(None) => {
                let error = written.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                Err(broken(&self.socket, error))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the daemon still answers on another connection: any answer will do.
    fn look_for_life(&self, silence: Duration) -> Result<(), ClientError> {
        let asked = Client::connect(&self.socket);
        match asked.and_then(|mut other| other.ask_attended(&Request::Health {}, silence, silence)) {
            Err(error) if error.is_timeout() => {
                Err(ClientError::Lifeless { socket: self.socket.clone(), silent: 2 * silence })
            }
            _ => Ok(()), // that the connection broke the next look at it shows
        }
    }

    /// Sends a request and deserializes the answer.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Garbled`] if the answer has another structure.
    pub fn ask_for<T: DeserializeOwned>(
        &mut self,
        request: &Request,
        within: Duration,
    ) -> Result<T, ClientError> {
        let value = self.ask(request, within)?;
        serde_json::from_value(value).map_err(|error| ClientError::Garbled { reason: error.to_string() })
    }

    /// Starts a tail with the `last` readings before.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Failed`] if there is no such device.
    pub fn tail(mut self, device: Option<String>, last: u32) -> Result<Tailing, ClientError> {
        self.ask(&Request::Tail { device, last }, ANSWER)?;
        self.deadline = None;
        Ok(Tailing(self))
    }

    /// Starts to trace a serial port.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Failed`] if the daemon has no such port.
    pub fn trace(mut self, port: String) -> Result<Tracing, ClientError> {
        self.ask(&Request::SerialTrace { port }, ANSWER)?;
        self.deadline = None;
        Ok(Tracing(self))
    }

    /// Starts to trace a device, or the uplink.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Failed`] if there is no such device, or this user may not.
    pub fn traffic(mut self, target: String, payload: bool) -> Result<Traffic, ClientError> {
        self.ask(&Request::TrafficTrace { target, payload }, ANSWER)?;
        self.deadline = None;
        Ok(Traffic(self))
    }

    /// Bounds the next call by what is left until the deadline.
    fn bound(&self) -> io::Result<()> {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(left)?;
        self.stream.set_write_timeout(left)
    }

    fn send(&mut self, mut line: &[u8]) -> io::Result<()> {
        while !line.is_empty() {
            self.bound()?;
            match self.stream.write(line) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => line = &line[length..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Option<Response>, ClientError> {
        let mut chunk = [0; 16 * 1024];
        loop {
            match self.lines.decode(&mut self.buffer) {
                Ok(Some(line)) => {
                    return Response::parse(line.as_bytes())
                        .map(Some)
                        .map_err(|error| ClientError::Garbled { reason: error.to_string() });
                }
                Ok(None) => match self.bound().and_then(|()| self.stream.read(&mut chunk)) {
                    Ok(0) => return Ok(None),
                    Ok(length) => self.buffer.extend_from_slice(&chunk[..length]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                    Err(error) => return Err(broken(&self.socket, error)),
                },
                Err(LinesCodecError::Io(_)) => {
                    return Err(ClientError::Garbled { reason: "it is not UTF-8".to_owned() });
                }
                Err(LinesCodecError::MaxLineLengthExceeded) => {
                    return Err(ClientError::Garbled { reason: format!("more than {RESPONSE_MAX} bytes") });
                }
            }
        }
    }
}

/// Connects. Where the queue of a socket is full because nobody accepts, it waits `within`.
fn open(path: &Path, within: Duration) -> io::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let stream = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let stream = UnixStream::from(stream);
    stream.set_write_timeout(Some(within))?;
    connect(stream.as_raw_fd(), &address)?;
    Ok(stream)
}

fn broken(socket: &Path, error: io::Error) -> ClientError {
    // A blocking socket reports a timeout as EAGAIN.
    let error =
        if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error };
    ClientError::Broken { socket: socket.to_owned(), error }
}

/// A running tail: an iterator that ends when the daemon does.
#[derive(Debug)]
pub struct Tailing(Client);

impl Iterator for Tailing {
    type Item = Result<Shown, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.0.receive() {
            Ok(None) => None,
            Ok(Some(Response::Item(value))) => Some(match serde_json::from_value(value) {
                Ok(item) => Ok(Shown::Item(Box::new(item))),
                Err(error) => Err(ClientError::Garbled { reason: error.to_string() }),
            }),
            Ok(Some(Response::Missed(count))) => Some(Ok(Shown::Missed(count))),
            Ok(Some(Response::Error(failure))) => Some(Err(ClientError::Failed(failure))),
            Ok(Some(Response::Ok(_))) => self.next(),
            Err(error) => Some(Err(error)),
        }
    }
}

/// A running trace of a serial port: an iterator that ends when the daemon does. `Err` has the
/// number of missed pieces.
#[derive(Debug)]
pub struct Tracing(Client);

impl Iterator for Tracing {
    type Item = Result<Result<Box<Traced>, u64>, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.0.receive() {
            Ok(None) => None,
            Ok(Some(Response::Item(value))) => Some(match serde_json::from_value(value) {
                Ok(traced) => Ok(Ok(Box::new(traced))),
                Err(error) => Err(ClientError::Garbled { reason: error.to_string() }),
            }),
            Ok(Some(Response::Missed(count))) => Some(Ok(Err(count))),
            Ok(Some(Response::Error(failure))) => Some(Err(ClientError::Failed(failure))),
            Ok(Some(Response::Ok(_))) => self.next(),
            Err(error) => Some(Err(error)),
        }
    }
}

/// A running trace of messages: an iterator that ends when the daemon does.
#[derive(Debug)]
pub struct Traffic(Client);

impl Iterator for Traffic {
    type Item = Result<Box<Message>, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.0.receive() {
            Ok(None) => None,
            Ok(Some(Response::Item(value))) => Some(match serde_json::from_value(value) {
                Ok(message) => Ok(Box::new(message)),
                Err(error) => Err(ClientError::Garbled { reason: error.to_string() }),
            }),
            Ok(Some(Response::Error(failure))) => Some(Err(ClientError::Failed(failure))),
            Ok(Some(Response::Ok(_) | Response::Missed(_))) => self.next(),
            Err(error) => Some(Err(error)),
        }
    }
}
