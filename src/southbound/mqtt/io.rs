//! The sockets of the MQTT listener.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use super::settings::PlainAddress;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 256;
/// The mode of a Unix socket: its owner and group.
const SOCKET_MODE: u32 = 0o660;
/// Seconds without a byte after which the kernel asks whether the peer is still there.
const KEEP_ALIVE_IDLE: u32 = 120;

/// A listening socket.
pub enum Listener {
    /// A TCP address.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

/// An accepted connection.
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

impl Listener {
    /// Listens on a TCP address. A kernel without IPv6 still has the other half of `[::]`.
    ///
    /// # Errors
    /// The system's.
    pub fn tcp(address: SocketAddr) -> io::Result<Listener> {
        let bind = |address: SocketAddr| {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.set_reuseaddr(true)?;
            if address.is_ipv6() {
                setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
            }
            socket.bind(address)?;
            socket.listen(BACKLOG).map(Listener::Tcp)
        };
        bind(address).or_else(|error| {
            let no_ipv6 =
                matches!(error.raw_os_error(), Some(nix::libc::EAFNOSUPPORT | nix::libc::EADDRNOTAVAIL));
            if no_ipv6 && address.is_ipv6() && address.ip().is_unspecified() {
                bind((std::net::Ipv4Addr::UNSPECIFIED, address.port()).into())
            } else {
                Err(error)
            }
        })
    }

    /// Takes a socket over on which another process has listened.
    ///
    /// # Errors
    /// The system's.
    pub fn adopt(listener: std::net::TcpListener) -> io::Result<Listener> {
        TcpListener::from_std(listener).map(Listener::Tcp)
    }

    /// The descriptor of a TCP socket, to be kept for another process.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Listener::Tcp(listener) => Some(listener.as_fd()),
            Listener::Unix(_) => None,
        }
    }

    /// Listens on an address without TLS. A Unix socket left by an earlier process is replaced.
    ///
    /// # Errors
    /// The system's; `AddrInUse` if another process listens there.
    pub fn plain(address: &PlainAddress) -> io::Result<Listener> {
        match address {
            PlainAddress::Loopback(address) => Listener::tcp(*address),
            PlainAddress::Unix(path) => {
                clear(path)?;
                let listener = UnixListener::bind(path)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
                Ok(Listener::Unix(listener))
            }
        }
    }

    /// The next connection, and its address; `None` for a Unix socket.
    ///
    /// # Errors
    /// The system's: out of file descriptors or memory.
    pub async fn accept(&self) -> io::Result<(Stream, Option<IpAddr>)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                setsockopt(&stream, sockopt::KeepAlive, &true)?;
                setsockopt(&stream, sockopt::TcpKeepIdle, &KEEP_ALIVE_IDLE)?;
                Ok((Stream::Tcp(stream), Some(peer.ip().to_canonical())))
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), None))
            }
        }
    }

    /// The address it has been given by the system.
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(_) => None,
        }
    }
}

/// Removes a socket that nobody listens on. Anything else at that path stays.
fn clear(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(about) if !about.file_type().is_socket() => Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
            Err(_) => std::fs::remove_file(path),
        },
    }
}
