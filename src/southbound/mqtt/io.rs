//! The sockets of the MQTT listener.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use super::settings::PlainAddress;
use crate::system::io::has_listener;

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
    Unix(UnixSocket),
}

/// A Unix socket, whose file is removed with it.
pub struct UnixSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of a Unix socket, by which clients find it.
#[derive(Clone, Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode: one that was put in its place stays.
    identity: (u64, u64),
}

impl SocketFile {
    /// Whether it is where clients look for it.
    pub fn is_in_place(&self) -> bool {
        identity(&self.path).is_ok_and(|there| there == self.identity)
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if self.file.is_in_place() {
            // One that stays is replaced by the next listener.
            let _ = std::fs::remove_file(&self.file.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|about| (about.dev(), about.ino()))
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
                // From here on its file is removed if anything fails.
                let file = SocketFile { path: path.clone(), identity: identity(path)? };
                let socket = UnixSocket { listener, file };
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
                Ok(Listener::Unix(socket))
            }
        }
    }

    /// The file of a Unix socket.
    pub fn file(&self) -> Option<&SocketFile> {
        match self {
            Listener::Tcp(_) => None,
            Listener::Unix(socket) => Some(&socket.file),
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
            Listener::Unix(socket) => {
                let (stream, _) = socket.listener.accept().await?;
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

/// Removes a socket that no process listens on. Anything else at that path stays.
fn clear(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(about) if !about.file_type().is_socket() => Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) if has_listener(path)? => Err(io::ErrorKind::AddrInUse.into()),
        Ok(_) => std::fs::remove_file(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own, removed with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("tombolo-mqtt-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a folder");
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn at(path: &Path) -> PlainAddress {
        PlainAddress::Unix(path.to_owned())
    }

    fn refusal(path: &Path) -> io::ErrorKind {
        Listener::plain(&at(path)).err().expect("a refusal").kind()
    }

    #[tokio::test]
    async fn the_socket_of_an_ended_process_is_replaced_and_one_in_use_is_not() {
        let folder = Folder::new("ended");
        let path = folder.0.join("s");
        // A process that was killed leaves its file.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
        assert!(path.exists());
        let listener = Listener::plain(&at(&path)).expect("it is replaced");
        let mode = std::fs::symlink_metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        // A second one does not take it, and its failure leaves the file.
        assert_eq!(refusal(&path), io::ErrorKind::AddrInUse);
        assert!(path.exists());
        drop(listener);
        assert!(!path.exists(), "it goes with the listener");
    }

    #[tokio::test]
    async fn a_socket_whose_queue_is_full_is_in_use_and_does_not_block() {
        let folder = Folder::new("full");
        let path = folder.0.join("s");
        let socket = tokio::net::UnixSocket::new_stream().expect("a socket");
        socket.bind(&path).expect("an address");
        let _busy = socket.listen(0).expect("a listener");
        // It accepts nothing: its queue has room for one.
        let _waiting = std::os::unix::net::UnixStream::connect(&path).expect("the first");
        assert_eq!(refusal(&path), io::ErrorKind::AddrInUse);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn what_is_no_socket_stays_and_so_does_what_took_the_place_of_the_file() {
        let folder = Folder::new("placed");
        let path = folder.0.join("s");
        std::fs::write(&path, "mine").expect("a file");
        assert_eq!(refusal(&path), io::ErrorKind::AlreadyExists);
        std::fs::remove_file(&path).expect("it is there");
        let listener = Listener::plain(&at(&path)).expect("a listener");
        std::fs::remove_file(&path).expect("it is there");
        std::fs::write(&path, "mine").expect("a file");
        drop(listener);
        assert_eq!(std::fs::read(&path).expect("it stays"), b"mine");
    }
}
