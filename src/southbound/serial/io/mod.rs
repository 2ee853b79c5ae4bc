//! The serial shell: opens ports, transfers bytes, and reopens a port after an error.
//!
//! Opening and closing can block (a driver waits for hardware, a close for unsent bytes), so both
//! run on other threads. After an error the descriptor is closed first: while it is open, the
//! kernel gives a replugged adapter another name.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

pub mod find;

use std::future::poll_fn;
use std::io;
use std::net::ToSocketAddrs as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_serial::SerialStream;

use super::settings::{FlowControl, Line, Parity, Port, PortName, Rs485};
use crate::proto::serial::idle::Idle;

/// Why a port cannot be opened that is open elsewhere.
pub const TAKEN: &str = "another program has it";
/// Most bytes per read, after which other tasks have their turn: a bound for their wait.
const CHUNK: usize = 1024;
/// How long a connection to one address may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Most addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;

/// The daemon's side of one port. All calls come from the port's own task, between two awaits.
pub trait Host {
    /// Whether to open the port now.
    fn poll_open(&self, now: Instant) -> bool;
    /// The port was opened as this device file.
    fn opened(&self, device: &Path);
    /// The port could not be opened, or failed.
    fn failed(&self, reason: &str);
    /// Bytes were received.
    fn received(&self, bytes: &[u8]);
    /// A deadline passed.
    fn timeout(&self);
    /// The next deadline.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Writes the next bytes to send to the empty `buffer`; returns whether there are any.
    fn poll_transmit(&self, buffer: &mut Vec<u8>) -> bool;
    /// Whether the bytes sent last may be sent a second time, on another connection.
    fn is_repeatable(&self) -> bool;
    /// From now on a connection that was idle for so long is replaced before bytes are sent.
    fn replaces_idle(&self, limit: Duration);
    /// Completes when a deadline may have changed, or there are bytes to send.
    fn changed(&self) -> impl Future<Output = ()>;
}

/// Keeps a port open and transfers its bytes, as long as the task runs.
pub async fn run(settings: Arc<Port>, host: impl Host) {
    let mut chunk = vec![0; CHUNK];
    let mut idle = Idle::default();
    loop {
        wait_to_open(&host).await;
        let port = Arc::clone(&settings);
        // The descriptor is registered with the runtime on the blocking thread, where the runtime
        // is entered too.
        let opened = tokio::task::spawn_blocking(move || open(&port)).await;
        let reason = match opened {
            Ok(Ok((mut port, device))) => {
                host.opened(&device);
                idle.opened(Instant::now());
                let reason = serve(&settings, &mut port, &mut idle, &host, &mut chunk).await;
                port.close().await;
                reason
            }
            Ok(Err(reason)) => reason,
            Err(error) => format!("opening it broke off: {error}"),
        };
        host.failed(&reason);
    }
}

async fn wait_to_open(host: &impl Host) {
    loop {
        let now = Instant::now();
        if host.poll_open(now) {
            return;
        }
        let due = host.poll_timeout();
        pass_time(due, host).await;
        if due.is_some_and(|due| due <= Instant::now()) {
            host.timeout();
        }
    }
}

async fn pass_time(due: Option<Instant>, host: &impl Host) {
    let due = async {
        match due {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = due => {}
        () = host.changed() => {}
    }
}

/// Transfers bytes until the port fails; returns the reason.
async fn serve(
    settings: &Arc<Port>,
    port: &mut Opened,
    idle: &mut Idle,
    host: &impl Host,
    chunk: &mut [u8],
) -> String {
    let (is_network, has_header) = match settings.port {
        PortName::Tcp { has_header, .. } => (true, has_header),
        PortName::Path(_) | PortName::Usb { .. } => (false, false),
    };
    let mut outgoing = Vec::new();
    let mut last = Vec::new();
    let mut sent = 0;
    // Since the deadline passed, what waits was read.
    let mut is_read = false;
    loop {
        if sent == outgoing.len() {
            outgoing.clear();
            sent = 0;
            if host.poll_transmit(&mut outgoing) && is_network {
                if idle.is_stale(Instant::now())
                    && let Err(reason) = port.replace(settings, idle).await
                {
                    return reason;
                }
                idle.sent(Instant::now());
                last.clone_from(&outgoing);
            }
        }
        let due = host.poll_timeout();
        tokio::select! {
            // Bytes that are available arrived before a deadline that has just passed.
            biased;
            moved = transfer(port.stream(), chunk, &outgoing[sent..]) => {
                let reason = match moved {
                    Ok(Moved::Read(0)) => "it hung up".to_owned(),
                    Ok(Moved::Read(length)) => {
                        idle.received(Instant::now());
                        host.received(&chunk[..length]);
                        is_read = false;
                        // A line that never pauses does not hold up the others.
                        tokio::task::yield_now().await;
                        continue;
                    }
                    Ok(Moved::Written(length)) => {
                        sent += length;
                        continue;
                    }
                    Err(error) => lost(&error),
                };
                let was_idle = is_network && idle.closed(Instant::now());
                if let Some(limit) = idle.poll_news() {
                    host.replaces_idle(limit);
                }
                // Sent twice, a request may be answered twice: no harm where it has a header.
                let may_repeat = was_idle && has_header && host.is_repeatable();
                if !may_repeat || port.replace(settings, idle).await.is_err() {
                    return reason;
                }
                idle.sent(Instant::now());
                outgoing.clone_from(&last);
                sent = 0;
            },
            () = pass_time(due, host) => {
                if due.is_none_or(|due| due > Instant::now()) {
                    is_read = false;
                } else if std::mem::replace(&mut is_read, true) {
                    is_read = false;
                    host.timeout();
                } else {
                    // A stop of the process ends a wait for bytes and deadlines without telling of
                    // the bytes: the runtime looks once more.
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

enum Moved {
    Read(usize),
    Written(usize),
}

async fn transfer(stream: Option<&mut Stream>, chunk: &mut [u8], outgoing: &[u8]) -> io::Result<Moved> {
    let Some(stream) = stream else { return Ok(Moved::Read(0)) };
    poll_fn(|context| {
        if !outgoing.is_empty()
            && let Poll::Ready(written) = stream.poll_write(context, outgoing)
        {
            return Poll::Ready(written.map(Moved::Written));
        }
        let mut buffer = ReadBuf::new(chunk);
        stream.poll_read(context, &mut buffer).map(|read| read.map(|()| Moved::Read(buffer.filled().len())))
    })
    .await
}

fn lost(error: &io::Error) -> String {
    match error.raw_os_error() {
        // The errors of a driver whose hardware was unplugged, and of a pseudo-terminal whose other
        // end is closed.
        Some(nix::libc::EIO | nix::libc::ENXIO | nix::libc::ENODEV) => "it was unplugged".to_owned(),
        _ => error.to_string(),
    }
}

/// An open port, which is always closed on another thread.
#[derive(Debug)]
pub struct Opened(Option<Stream>);

/// What bytes go through.
#[derive(Debug)]
enum Stream {
    Serial(SerialStream),
    Tcp(TcpStream),
}

impl Stream {
    fn poll_read(
        &mut self,
        context: &mut std::task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Stream::Serial(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }

    fn poll_write(&mut self, context: &mut std::task::Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Serial(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }
}

impl Opened {
    fn stream(&mut self) -> Option<&mut Stream> {
        self.0.as_mut()
    }

    /// The device number of the open descriptor, read through `/proc`, even if its path refers to
    /// another device now.
    fn device_number(&self) -> Option<u64> {
        use std::os::fd::AsRawFd as _;
        use std::os::unix::fs::MetadataExt as _;
        let Stream::Serial(stream) = self.0.as_ref()? else { return None };
        let descriptor = stream.as_raw_fd();
        std::fs::metadata(format!("/proc/self/fd/{descriptor}")).ok().map(|found| found.rdev())
    }

    /// Reads available bytes; 0 if the port was hung up.
    ///
    /// # Errors
    /// The error of the system call.
    pub async fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        match transfer(self.stream(), chunk, &[]).await? {
            Moved::Read(length) | Moved::Written(length) => Ok(length),
        }
    }

    /// Opens the port anew.
    async fn replace(&mut self, settings: &Arc<Port>, idle: &mut Idle) -> Result<(), String> {
        // Some converters take one connection at a time.
        std::mem::replace(self, Opened(None)).close().await;
        let settings = Arc::clone(settings);
        let opened = tokio::task::spawn_blocking(move || open(&settings)).await;
        (*self, _) = opened.map_err(|error| format!("opening it broke off: {error}"))??;
        idle.opened(Instant::now());
        Ok(())
    }

    /// Closes the port and waits until it is closed.
    async fn close(mut self) {
        if let Some(stream) = self.0.take() {
            let _ = tokio::task::spawn_blocking(move || drop(stream)).await;
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let (Some(stream), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(move || drop(stream));
        }
    }
}

/// Opens a port with its configured parameters, for exclusive use. Blocks; must be called within a
/// runtime.
///
/// # Errors
/// The reason as text.
pub fn open(port: &Port) -> Result<(Opened, PathBuf), String> {
    if let PortName::Tcp { host, port: number, .. } = &port.port {
        let stream = connect(host, *number)?;
        return Ok((Opened(Some(Stream::Tcp(stream))), PathBuf::from(port.port.to_string())));
    }
    let device = find::resolve(&port.port)?;
    let stream = open_device(&device, &port.line)?;
    Ok((stream, device))
}

/// Connects to a converter in the network, within [`CONNECT`] for each of its addresses. Blocks.
fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let addresses =
        (bare, port).to_socket_addrs().map_err(|error| format!("its name is not known: {error}"))?;
    let mut reason = "its name has no address".to_owned();
    for address in addresses.take(ADDRESSES_MAX) {
        let made = std::net::TcpStream::connect_timeout(&address, CONNECT).and_then(|stream| {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            watch(&stream)?;
            TcpStream::from_std(stream)
        });
        match made {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => reason = "it does not answer".to_owned(),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(reason)
}

/// A converter that went away without a word is noticed within half a minute, whether or not
/// anything is sent to it.
fn watch(stream: &std::net::TcpStream) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &10)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &5)?;
    setsockopt(stream, sockopt::TcpKeepCount, &4)?;
    setsockopt(stream, sockopt::TcpUserTimeout, &30_000)?;
    Ok(())
}

/// A device file that can be opened, and has no line to be set.
fn is_no_terminal(device: &Path) -> bool {
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(device);
    opened.is_ok_and(|file| nix::sys::termios::tcgetattr(&file) == Err(nix::errno::Errno::ENOTTY))
}

/// Opens a device file. Blocks; must be called within a runtime.
///
/// # Errors
/// The reason as text.
pub fn open_device(device: &Path, line: &Line) -> Result<Opened, String> {
    use std::os::unix::fs::FileTypeExt as _;
    // Checked first, because the error of the open below does not distinguish the causes.
    let found = std::fs::metadata(device).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "it is not there".to_owned(),
        _ => error.to_string(),
    })?;
    if !found.file_type().is_char_device() || is_no_terminal(device) {
        return Err("it is not a serial port".to_owned());
    }
    if let Some(mode) = line.rs485 {
        set_rs485(device, mode)?;
    }
    let path = device.to_str().ok_or("its name is not UTF-8")?;
    let builder = tokio_serial::new(path, line.baud)
        .data_bits(match line.data_bits {
            5 => tokio_serial::DataBits::Five,
            6 => tokio_serial::DataBits::Six,
            7 => tokio_serial::DataBits::Seven,
            _ => tokio_serial::DataBits::Eight,
        })
        .parity(match line.parity {
            Parity::None => tokio_serial::Parity::None,
            Parity::Even => tokio_serial::Parity::Even,
            Parity::Odd => tokio_serial::Parity::Odd,
        })
        .stop_bits(if line.stop_bits == 2 {
            tokio_serial::StopBits::Two
        } else {
            tokio_serial::StopBits::One
        })
        .flow_control(match line.flow_control {
            FlowControl::None => tokio_serial::FlowControl::None,
            FlowControl::Hardware => tokio_serial::FlowControl::Hardware,
            FlowControl::Software => tokio_serial::FlowControl::Software,
        })
        .exclusive(true);
    let stream = SerialStream::open(&builder).map_err(|error| match error.kind {
        tokio_serial::ErrorKind::Io(io::ErrorKind::PermissionDenied) => {
            "this user may not open it; the group of serial ports is dialout: as root `adduser USER dialout`, and log in again"
                .to_owned()
        }
        tokio_serial::ErrorKind::Io(io::ErrorKind::NotFound) => "it is not there".to_owned(),
        tokio_serial::ErrorKind::NoDevice => TAKEN.to_owned(),
        _ => error.to_string(),
    })?;
    let opened = Opened(Some(Stream::Serial(stream)));
    // A name may go over to another device while it is being opened: then this one is not ours to
    // read.
    let same = opened.device_number().zip(std::fs::metadata(device).ok()).is_some_and(|(number, found)| {
        use std::os::unix::fs::MetadataExt as _;
        found.rdev() == number
    });
    if same { Ok(opened) } else { Err("it has just been unplugged".to_owned()) }
}

/// The mode belongs to the port, not to the descriptor, so it persists after the close.
fn set_rs485(device: &Path, mode: Rs485) -> Result<(), String> {
    let port = serial2::SerialPort::open(device, serial2::KeepSettings).map_err(|error| error.to_string())?;
    let mut config = serial2::rs4xx::Rs485Config::new();
    config.set_invert_rts(mode == Rs485::RtsLow);
    port.set_rs4xx_mode(config).map_err(|error| format!("its driver does not switch RS-485: {error}"))
}
