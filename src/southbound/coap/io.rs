//! The UDP shell: receives and sends datagrams in batches, and answers each from the address it was
//! sent to.
//!
//! `recvmmsg` and `sendmmsg` transfer up to [`BATCH`] datagrams per system call, which saves about
//! 10 % of the CPU time of a reading. Neither a datagram nor a socket error ends the receive loop.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    self, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockFlag, SockType,
    SockaddrStorage, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::proto::Route;

/// Most datagrams of one system call.
pub const BATCH: usize = 64;

/// Largest datagram accepted, in bytes: a full DTLS record (RFC 6347 §4.1.1). Only the pages that
/// datagrams touch are resident.
pub const DATAGRAM_MAX: usize = 20 * 1024;

/// Receive buffer requested from the kernel, in bytes; it may grant less (`net.core.rmem_max`).
const RECEIVE_BUFFER: usize = 4 << 20;

/// A bound UDP socket.
pub struct Socket {
    fd: UdpSocket,
    index: u16,
    local: SocketAddr,
    granted: usize,
}

impl Socket {
    /// Binds `address`. `[::]` accepts IPv4 too. `index` is stored in every [`Route`] of this
    /// socket. One that this machine does not have yet is bound all the same (ip(7),
    /// `IP_FREEBIND`): it is served from the moment on that the interface is up.
    ///
    /// # Errors
    /// The error of the system call; the caller must add the address.
    pub fn bind(address: SocketAddr, index: u16) -> io::Result<Socket> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket::socket(family, SockType::Datagram, flags, None)?;
        if address.is_ipv6() {
            socket::setsockopt(&fd, sockopt::Ipv6V6Only, &!takes_both(address))?;
        }
        let bind = || socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(address));
        match bind() {
            Err(Errno::EADDRNOTAVAIL) if !address.ip().is_unspecified() => {
                socket::setsockopt(&fd, sockopt::IpFreebind, &true)?;
                bind()?;
            }
            bound => bound?,
        }
        Socket::set_up(std::net::UdpSocket::from(fd), address, index)
    }

    /// Takes a socket that another process has bound to `address`, as [`bind`](Self::bind) does.
    ///
    /// # Errors
    /// The error of the system call; `InvalidInput` if it was bound in another way.
    pub fn adopt(fd: std::net::UdpSocket, address: SocketAddr, index: u16) -> io::Result<Socket> {
        let bound = fd.local_addr()?;
        if bound.is_ipv6() && socket::getsockopt(&fd, sockopt::Ipv6V6Only)? == takes_both(bound) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Socket::set_up(fd, address, index)
    }

    fn set_up(fd: std::net::UdpSocket, address: SocketAddr, index: u16) -> io::Result<Socket> {
        let local = fd.local_addr().unwrap_or(address);
        if local.is_ipv4() {
            socket::setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?;
        } else {
            socket::setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        // SO_RCVBUFFORCE needs CAP_NET_ADMIN; otherwise the kernel caps the buffer at
        // net.core.rmem_max.
        if socket::setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            let _ = socket::setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER);
        }
        let _ = socket::setsockopt(&fd, sockopt::SndBuf, &RECEIVE_BUFFER);
        // The kernel reports twice the granted size, because it includes its own overhead
        // (socket(7)).
        let granted = socket::getsockopt(&fd, sockopt::RcvBuf).unwrap_or(0) / 2;
        Ok(Socket { fd: UdpSocket::from_std(fd)?, index, local, granted })
    }

    /// The descriptor, to be kept for another process.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The bound address, with the actual port.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Whether this machine does not have the address at present, so that nothing arrives. The
    /// kernel knows by more than its interfaces' addresses, such as local routes; so it is asked,
    /// by a socket on any port, which takes nothing from anybody.
    pub fn is_absent(&self) -> bool {
        let ip = self.local.ip();
        let of_any_port = match self.local {
            SocketAddr::V4(_) => SocketAddr::new(ip, 0),
            SocketAddr::V6(of) => SocketAddrV6::new(*of.ip(), 0, 0, of.scope_id()).into(),
        };
        !ip.is_unspecified()
            && std::net::UdpSocket::bind(of_any_port)
                .is_err_and(|error| error.raw_os_error() == Some(libc::EADDRNOTAVAIL))
    }

    /// The granted and the requested receive buffer, in bytes.
    pub fn receive_buffer(&self) -> (usize, usize) {
        (self.granted, RECEIVE_BUFFER)
    }

    /// Waits for datagrams and receives up to [`BATCH`] of them into `inbox`.
    ///
    /// # Errors
    /// The error of the system call; the caller can always call again.
    pub async fn receive(&self, inbox: &mut Inbox) -> io::Result<usize> {
        loop {
            self.fd.readable().await?;
            let mut count = 0;
            let outcome = self.fd.try_io(Interest::READABLE, || {
                count = inbox.take(self)?;
                // A short batch has emptied the queue. WouldBlock clears the readiness now and
                // saves the call that would find it empty; a later datagram triggers a new edge.
                if count < BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match outcome {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ if count > 0 => return Ok(count),
                _ => {}
            }
        }
    }
}

/// Whether a socket on this address accepts IPv4 too.
fn takes_both(address: SocketAddr) -> bool {
    address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

/// The datagrams of one `recvmmsg`.
pub struct Inbox {
    buffers: Vec<[u8; DATAGRAM_MAX]>,
    headers: MultiHeaders<SockaddrStorage>,
    received: Vec<Received>,
    /// Dropped datagrams: larger than [`DATAGRAM_MAX`], or without a source address.
    pub dropped: u64,
}

struct Received {
    slot: usize,
    length: usize,
    route: Route,
}

impl Default for Inbox {
    fn default() -> Self {
        Inbox { buffers: buffers(), headers: headers(), received: Vec::with_capacity(BATCH), dropped: 0 }
    }
}

fn buffers() -> Vec<[u8; DATAGRAM_MAX]> {
    vec![[0; DATAGRAM_MAX]; BATCH]
}

fn headers() -> MultiHeaders<SockaddrStorage> {
    // The larger of the two control messages (RFC 3542 §6.2).
    MultiHeaders::preallocate(BATCH, Some(nix::cmsg_space!(libc::in6_pktinfo)))
}

impl Inbox {
    fn take(&mut self, socket: &Socket) -> Result<usize, Errno> {
        self.received.clear();
        let mut broken = false;
        let mut count = 0;
        {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                self.buffers.iter_mut().map(|b| [IoSliceMut::new(b)]).collect();
            let results = socket::recvmmsg(
                socket.fd.as_raw_fd(),
                &mut self.headers,
                slices.iter_mut(),
                MsgFlags::MSG_DONTWAIT,
                None,
            )?;
            for (slot, message) in results.enumerate() {
                count += 1;
                let truncated = message.flags.contains(MsgFlags::MSG_TRUNC);
                let remote = message.address.as_ref().and_then(to_socket_addr);
                let Some(remote) = remote.filter(|_| !truncated) else {
                    self.dropped += 1;
                    broken |= !truncated;
                    continue;
                };
                let local = match message.cmsgs() {
                    Ok(messages) => messages.into_iter().find_map(local_address),
                    Err(_) => {
                        broken = true;
                        None
                    }
                };
                let route = Route { remote, local, socket: socket.index };
                self.received.push(Received { slot, length: message.bytes, route });
            }
        }
        if broken {
            // The kernel shortens the headers in place, so each call needs fresh ones.
            self.headers = headers();
        }
        Ok(count)
    }

    /// The datagrams in order of arrival, mutable for decryption in place.
    pub fn drain(&mut self) -> impl Iterator<Item = (Route, &mut [u8])> {
        let received = &self.received;
        let mut next = received.iter().peekable();
        self.buffers.iter_mut().enumerate().filter_map(move |(slot, buffer)| {
            let found = next.next_if(|r| r.slot == slot)?;
            Some((found.route, &mut buffer[..found.length]))
        })
    }
}

fn local_address(message: ControlMessageOwned) -> Option<IpAddr> {
    match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            // ipi_spec_dst is the local address that the kernel chose, which is also correct for
            // broadcast.
            Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr))))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr))),
        _ => None,
    }
}

/// Datagrams waiting to be sent, in one arena.
#[derive(Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    waiting: Vec<Waiting>,
    headers: [Option<MultiHeaders<SockaddrStorage>>; 3],
    /// Datagrams that the system refused: congestion, unreachable, port 0.
    pub failed: u64,
}

struct Waiting {
    route: Route,
    start: usize,
    end: usize,
}

impl Outgoing {
    /// Queues a copy of `datagram`.
    pub fn push(&mut self, route: &Route, datagram: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(datagram);
        self.waiting.push(Waiting { route: *route, start, end: self.bytes.len() });
    }

    /// Whether no datagram is queued.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Sends all queued datagrams. A datagram that the system refuses is dropped and counted; the
    /// peer's retransmission replaces it.
    pub fn flush(&mut self, sockets: &[Socket]) {
        let mut at = 0;
        while at < self.waiting.len() {
            let first = self.waiting[at].route;
            let run = self.waiting[at..]
                .iter()
                .take(BATCH)
                .take_while(|w| w.route.socket == first.socket && w.route.local == first.local)
                .count();
            if let Some(socket) = sockets.iter().find(|s| s.index == first.socket) {
                self.send(socket, at, run);
            } else {
                self.failed += run as u64;
            }
            at += run;
        }
        self.waiting.clear();
        self.bytes.clear();
        if self.bytes.capacity() > 1 << 20 {
            self.bytes.shrink_to(64 * 1024);
        }
    }

    fn send(&mut self, socket: &Socket, mut at: usize, run: usize) {
        let end = at + run;
        while at < end {
            let batch = &self.waiting[at..end];
            let slices: Vec<[IoSlice<'_>; 1]> =
                batch.iter().map(|w| [IoSlice::new(&self.bytes[w.start..w.end])]).collect();
            let addresses: Vec<Option<SockaddrStorage>> =
                batch.iter().map(|w| Some(SockaddrStorage::from(w.route.remote))).collect();
            let (v4, v6);
            let (v4_message, v6_message);
            // A socket bound to one address always answers from it.
            let local = batch[0].route.local.filter(|_| socket.local.ip().is_unspecified());
            // The space for a control message is part of the headers and is sent with them, so each
            // kind has its own headers.
            let (kind, room) = match local {
                None => (0, None),
                Some(IpAddr::V4(_)) => (1, Some(nix::cmsg_space!(libc::in_pktinfo))),
                Some(IpAddr::V6(_)) => (2, Some(nix::cmsg_space!(libc::in6_pktinfo))),
            };
            let headers = self.headers[kind].get_or_insert_with(|| MultiHeaders::preallocate(BATCH, room));
            let source: &[ControlMessage<'_>] = match local {
                Some(IpAddr::V4(address)) => {
                    let source = libc::in_addr { s_addr: u32::from(address).to_be() };
                    let any = libc::in_addr { s_addr: 0 };
                    v4 = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: any };
                    v4_message = [ControlMessage::Ipv4PacketInfo(&v4)];
                    &v4_message
                }
                Some(IpAddr::V6(address)) => {
                    let source = libc::in6_addr { s6_addr: address.octets() };
                    v6 = libc::in6_pktinfo { ipi6_addr: source, ipi6_ifindex: 0 };
                    v6_message = [ControlMessage::Ipv6PacketInfo(&v6)];
                    &v6_message
                }
                None => &[],
            };
            let sent = socket::sendmmsg(
                socket.fd.as_raw_fd(),
                headers,
                slices.iter(),
                &addresses,
                source,
                MsgFlags::MSG_DONTWAIT,
            );
            match sent.map(Iterator::count) {
                Ok(0) => return,
                Ok(count) => at += count,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS) => {
                    self.failed += (end - at) as u64;
                    return;
                }
                // The first unsent datagram was refused; the others may succeed.
                Err(_) => {
                    self.failed += 1;
                    at += 1;
                }
            }
        }
    }
}

fn to_socket_addr(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::V4(SocketAddrV4::from(*v4)));
    }
    storage.as_sockaddr_in6().map(|v6| SocketAddr::V6(SocketAddrV6::from(*v6)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `datagram` to the socket at `to` from a separate socket; returns the answer and its
    /// source.
    async fn ask(socket: &Socket, to: SocketAddr) -> (Vec<u8>, SocketAddr) {
        let unspecified: IpAddr = match to.ip() {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let peer = UdpSocket::bind((unspecified, 0)).await.unwrap();
        peer.send_to(b"ask", to).await.unwrap();
        let (mut inbox, mut outgoing) = (Inbox::default(), Outgoing::default());
        assert_eq!(socket.receive(&mut inbox).await.unwrap(), 1);
        for (route, datagram) in inbox.drain() {
            assert_eq!(datagram, b"ask");
            outgoing.push(&route, b"answer");
        }
        outgoing.flush(std::slice::from_ref(socket));
        assert_eq!(outgoing.failed, 0);
        let mut buffer = [0; 64];
        let (length, from) = peer.recv_from(&mut buffer).await.unwrap();
        (buffer[..length].to_vec(), from)
    }

    #[tokio::test]
    async fn an_address_that_no_interface_has_is_absent_and_that_of_the_loopback_is_not() {
        for (address, expected) in
            [("127.0.0.1:0", false), ("127.0.0.77:0", false), ("0.0.0.0:0", false), ("192.0.2.77:0", true)]
        {
            let socket = Socket::bind(address.parse().expect("an address"), 0).expect("it is bound");
            assert_eq!(socket.is_absent(), expected, "{address}");
        }
    }

    #[tokio::test]
    async fn an_answer_comes_from_the_address_that_was_asked() {
        let any6 = Socket::bind((Ipv6Addr::UNSPECIFIED, 0).into(), 0).unwrap();
        let any4 = Socket::bind((Ipv4Addr::UNSPECIFIED, 0).into(), 0).unwrap();
        let one4 = Socket::bind((Ipv4Addr::new(127, 0, 0, 3), 0).into(), 0).unwrap();
        let asked: [(&Socket, IpAddr); 5] = [
            (&any6, Ipv4Addr::new(127, 0, 0, 1).into()),
            (&any6, Ipv4Addr::new(127, 0, 0, 2).into()),
            (&any6, Ipv6Addr::LOCALHOST.into()),
            (&any4, Ipv4Addr::new(127, 0, 0, 2).into()),
            (&one4, Ipv4Addr::new(127, 0, 0, 3).into()),
        ];
        for (socket, address) in asked {
            let to = SocketAddr::new(address, socket.local().port());
            assert_eq!(ask(socket, to).await, (b"answer".to_vec(), to));
        }
    }

    #[tokio::test]
    async fn a_datagram_nobody_can_send_hurts_no_other() {
        let socket = Socket::bind((Ipv4Addr::LOCALHOST, 0).into(), 0).unwrap();
        let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let good = Route { remote: peer.local_addr().unwrap(), local: None, socket: 0 };
        let port_0 = Route { remote: (Ipv4Addr::LOCALHOST, 0).into(), ..good };
        let elsewhere = Route { socket: 7, ..good };
        let mut outgoing = Outgoing::default();
        for route in [port_0, good, port_0, elsewhere, good] {
            outgoing.push(&route, b"x");
        }
        outgoing.flush(std::slice::from_ref(&socket));
        assert_eq!(outgoing.failed, 3);
        let mut buffer = [0; 8];
        for _ in 0..2 {
            assert_eq!(peer.recv(&mut buffer).await.unwrap(), 1);
        }
    }

    #[tokio::test]
    async fn a_datagram_larger_than_any_record_is_dropped_and_the_next_one_taken() {
        let socket = Socket::bind((Ipv4Addr::LOCALHOST, 0).into(), 0).unwrap();
        let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        peer.send_to(&[0; DATAGRAM_MAX + 1], socket.local()).await.unwrap();
        peer.send_to(b"fine", socket.local()).await.unwrap();
        let mut inbox = Inbox::default();
        let mut taken = Vec::new();
        while taken.is_empty() {
            socket.receive(&mut inbox).await.unwrap();
            taken.extend(inbox.drain().map(|(_, datagram)| datagram.to_vec()));
        }
        assert_eq!((taken, inbox.dropped), (vec![b"fine".to_vec()], 1));
    }
}
