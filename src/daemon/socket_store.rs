//! Listening sockets that outlive this process: systemd keeps them in the service's file descriptor
//! store and hands them to the next process, so that no datagram and no connection meets a closed
//! port during a restart. What arrives in between waits in the kernel.
//!
//! | socket | kept |
//! |---|---|
//! | CoAP, `listen` and `insecure-listen` | yes |
//! | MQTT over TCP | yes |
//! | MQTT on a Unix socket, the control socket, metrics | no: they are bound anew |
//!
//! A socket is used only for the address it is bound to, which the kernel says; names are for
//! removal alone. One that the configuration does not have any more is closed, here and in the
//! store, before anything is bound: it would hold its port. So is one on a port that the system
//! chose. Without systemd, or with a store of no room, everything is bound anew.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixDatagram;

use listenfd::ListenFd;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, getsockopt, sendmsg, sockopt};

/// How long systemd may take to close what was removed from the store, in milliseconds.
const REMOVED_WITHIN_MS: u16 = 2_000;

/// What a socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// Connections.
    Tcp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        })
    }
}

/// A socket of the process before.
enum Inherited {
    Udp(UdpSocket),
    Tcp(TcpListener),
}

struct Entry {
    /// Its name in the store; systemd's word for one without.
    name: String,
    transport: Transport,
    address: SocketAddr,
    socket: Inherited,
}

/// The sockets of the process before, until they are taken.
#[derive(Default)]
pub struct SocketStore {
    entries: RefCell<Vec<Entry>>,
}

impl SocketStore {
    /// Takes what systemd has passed to this process. Call it once, before there are threads: it
    /// removes the variables that say so from the environment.
    pub fn inherited() -> SocketStore {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let is_ours = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
        if !is_ours {
            return SocketStore::default();
        }
        let (mut passed, mut names) = (ListenFd::from_env(), names.split(':'));
        let mut entries = Vec::new();
        for index in 0..passed.len() {
            let name = names.next().unwrap_or_default().to_owned();
            let entry = match (passed.take_udp_socket(index), passed.take_tcp_listener(index)) {
                (Ok(Some(socket)), _) => Entry::udp(name, socket),
                (_, Ok(Some(socket))) => Entry::tcp(name, socket),
                _ => None,
            };
            match entry {
                Some(entry) => entries.push(entry),
                None => log::debug!(index; "a file descriptor from systemd is no listening socket of ours"),
            }
        }
        SocketStore { entries: RefCell::new(entries) }
    }

    /// Closes what is not wanted any more, and waits until systemd has done so, too.
    pub fn retain(&self, is_wanted: impl Fn(Transport, SocketAddr) -> bool) {
        let (kept, stale): (Vec<Entry>, Vec<Entry>) =
            self.entries.take().into_iter().partition(|entry| is_wanted(entry.transport, entry.address));
        self.entries.replace(kept);
        if stale.is_empty() {
            return;
        }
        for entry in stale {
            log::info!(listen:% = entry.address; "the socket of the process before is closed: its address is not configured any more");
            remove(&entry.name);
        }
        if let Err(error) = barrier() {
            log::debug!(reason:% = error; "systemd does not say whether it closed them");
        }
    }

    /// The UDP socket bound to this address.
    pub fn take_udp(&self, address: SocketAddr) -> Option<UdpSocket> {
        match self.take(Transport::Udp, address)? {
            Inherited::Udp(socket) => Some(socket),
            Inherited::Tcp(_) => None,
        }
    }

    /// The TCP socket that listens on this address.
    pub fn take_tcp(&self, address: SocketAddr) -> Option<TcpListener> {
        match self.take(Transport::Tcp, address)? {
            Inherited::Tcp(socket) => Some(socket),
            Inherited::Udp(_) => None,
        }
    }

    fn take(&self, transport: Transport, address: SocketAddr) -> Option<Inherited> {
        let mut entries = self.entries.borrow_mut();
        let fits = |entry: &Entry| entry.transport == transport && serves(entry.address, address);
        let place = entries.iter().position(fits)?;
        Some(entries.swap_remove(place).socket)
    }
}

impl Entry {
    fn udp(name: String, socket: UdpSocket) -> Option<Entry> {
        socket.set_nonblocking(true).ok()?;
        let address = socket.local_addr().ok()?;
        Some(Entry { name, transport: Transport::Udp, address, socket: Inherited::Udp(socket) })
    }

    fn tcp(name: String, socket: TcpListener) -> Option<Entry> {
        if !getsockopt(&socket, sockopt::AcceptConn).ok()? {
            return None;
        }
        socket.set_nonblocking(true).ok()?;
        let address = socket.local_addr().ok()?;
        Some(Entry { name, transport: Transport::Tcp, address, socket: Inherited::Tcp(socket) })
    }
}

/// Whether a socket bound to `bound` is what `wanted` binds: without IPv6, `[::]` is `0.0.0.0`.
pub fn serves(bound: SocketAddr, wanted: SocketAddr) -> bool {
    let is_any6 = wanted.is_ipv6() && wanted.ip().is_unspecified();
    let any4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), wanted.port());
    wanted.port() != 0 && (bound == wanted || is_any6 && bound == any4)
}

/// Has systemd keep a socket for the next process, if `wanted`, its configured address, says where
/// that looks for it.
pub fn keep(transport: Transport, wanted: SocketAddr, bound: SocketAddr, socket: BorrowedFd<'_>) {
    if !serves(bound, wanted) {
        return;
    }
    // It is not removed when it reports an error, which the daemon gets over.
    let text = format!("FDSTORE=1\nFDNAME={}\nFDPOLL=0\n", name(transport, bound));
    if let Err(error) = send(&text, &[socket]) {
        log::debug!(listen:% = bound, reason:% = error; "systemd does not keep the socket");
    }
}

/// Has systemd close a socket that is not listened on any more.
pub fn forget(transport: Transport, bound: SocketAddr) {
    remove(&name(transport, bound));
}

fn remove(name: &str) {
    if let Err(error) = send(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), &[]) {
        log::debug!(name, reason:% = error; "systemd is not told that a socket is closed");
    }
}

/// A name in the store: no colon, since names are listed between colons.
fn name(transport: Transport, address: SocketAddr) -> String {
    format!("{transport}-{address}").replace(':', "_")
}

/// Waits until systemd has processed what was sent before (sd_notify_barrier(3)).
fn barrier() -> io::Result<()> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    if !send("BARRIER=1", &[write.as_fd()])? {
        return Ok(());
    }
    drop(write);
    let mut polled = [PollFd::new(read.as_fd(), PollFlags::POLLHUP)];
    match poll(&mut polled, PollTimeout::from(REMOVED_WITHIN_MS))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// Sends a notification with file descriptors; `false` where nobody is to be told.
fn send(text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<bool> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(false) };
    let socket = UnixDatagram::unbound()?;
    match path.as_bytes() {
        [b'@', name @ ..] => {
            socket.connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)?;
        }
        _ => socket.connect(&path)?,
    }
    let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(text.as_bytes())],
        rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn store(sockets: Vec<Option<Entry>>) -> SocketStore {
        SocketStore { entries: RefCell::new(sockets.into_iter().map(Option::unwrap).collect()) }
    }

    #[test]
    fn a_socket_serves_its_own_address_and_no_other() {
        assert!(serves(address("[::]:5684"), address("[::]:5684")));
        assert!(serves(address("0.0.0.0:5684"), address("[::]:5684")));
        for (bound, wanted) in [
            ("0.0.0.0:5684", "0.0.0.0:5685"),
            ("[::]:5684", "0.0.0.0:5684"),
            ("[::]:5684", "127.0.0.1:5684"),
            ("127.0.0.1:5684", "[::]:5684"),
            ("127.0.0.1:5684", "127.0.0.2:5684"),
            ("127.0.0.1:40000", "127.0.0.1:0"),
        ] {
            assert!(!serves(address(bound), address(wanted)), "{bound} {wanted}");
        }
    }

    #[test]
    fn an_inherited_socket_is_taken_once_for_its_address_and_transport_and_others_are_closed() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let stale = UdpSocket::bind("127.0.0.1:0").unwrap();
        let [of_udp, of_tcp, of_stale] =
            [udp.local_addr(), tcp.local_addr(), stale.local_addr()].map(Result::unwrap);
        let store = store(vec![
            Entry::udp("a".to_owned(), udp),
            Entry::tcp("b".to_owned(), tcp),
            Entry::udp("c".to_owned(), stale),
        ]);
        store.retain(|transport, at| match transport {
            Transport::Udp => at == of_udp,
            Transport::Tcp => at == of_tcp,
        });
        // Closed, the port can be bound again.
        assert!(UdpSocket::bind(of_stale).is_ok());
        assert!(store.take_udp(of_stale).is_none());
        assert!(store.take_tcp(of_udp).is_none());
        assert_eq!(store.take_udp(of_udp).unwrap().local_addr().unwrap(), of_udp);
        assert!(store.take_udp(of_udp).is_none());
        assert_eq!(store.take_tcp(of_tcp).unwrap().local_addr().unwrap(), of_tcp);
    }

    #[test]
    fn names_have_no_colon_and_differ() {
        let names = [
            name(Transport::Udp, address("[::]:5684")),
            name(Transport::Tcp, address("[::]:5684")),
            name(Transport::Udp, address("0.0.0.0:5684")),
            name(Transport::Udp, address("[::1]:5684")),
        ];
        assert_eq!(names[0], "udp-[__]_5684");
        for (at, name) in names.iter().enumerate() {
            assert!(!name.contains(':') && name.len() < 255);
            assert!(!names[..at].contains(name));
        }
    }
}
