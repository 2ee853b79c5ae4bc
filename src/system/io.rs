//! Random bytes, the kernel's boot id, whether a process listens on a Unix socket, and groups of
//! processes that are ended together.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// A process group, by the id of its first process, that ends with this.
#[derive(Debug)]
pub struct ProcessGroup(pub u32);

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Ok(id) = i32::try_from(self.0) {
            // No such group: all have ended.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

/// Reads all that a program says and keeps the last `MOST` bytes, so that one that talks a lot does
/// not block.
pub async fn read_last<const MOST: usize>(pipe: Option<impl AsyncRead + Unpin>, said: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut piece = [0; MOST];
    while let Ok(length @ 1..) = pipe.read(&mut piece).await {
        said.extend_from_slice(&piece[..length]);
        let excess = said.len().saturating_sub(MOST);
        said.drain(..excess);
    }
}

/// Fills `bytes` from the system's random number generator.
///
/// # Errors
/// It has none to give.
pub fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| io::Error::other("the system has no random numbers to give"))
}

/// `N` bytes of the system's random number generator.
///
/// # Errors
/// It has none to give.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    fill_random(&mut bytes)?;
    Ok(bytes)
}

/// The kernel's boot id; `None` if it has none.
pub fn boot_id() -> Option<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let id = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32)?;
    Some(id.to_be_bytes())
}

/// Whether a process listens on the Unix socket at `path`. Does not block, even if its queue is
/// full.
///
/// # Errors
/// This user may not ask, or the path is none of a socket.
pub fn has_listener(path: &Path) -> io::Result<bool> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(probe.as_raw_fd(), &address) {
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(false),
        Err(error @ (Errno::EACCES | Errno::EPERM)) => Err(error.into()),
        // A full queue (EAGAIN), or a socket of another type (EPROTOTYPE), is one that is in use.
        Ok(()) | Err(_) => Ok(true),
    }
}
