//! Ports for servers that are started later by their number.
//!
//! A port that the kernel gave and got back may be given to an outgoing connection before the
//! server has it. These are below the kernel's range (32768 to 60999), no two alike in one process,
//! and of blocks that no other process of this machine has.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Mutex;

/// The first port of the first block.
const FIRST: u16 = 10_000;
/// Ports of a block.
const BLOCK: u16 = 100;
/// How many blocks there are.
const BLOCKS: u16 = 220;

struct Taken {
    /// The next port of the last block, and its end.
    next: u16,
    end: u16,
    /// Names of the blocks, held to the end of the process.
    blocks: Vec<UnixDatagram>,
}

static TAKEN: Mutex<Taken> = Mutex::new(Taken { next: 0, end: 0, blocks: Vec::new() });

/// The next port that is free by `is_free`.
pub(crate) fn next(is_free: impl Fn(u16) -> bool) -> u16 {
    let mut taken = TAKEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    loop {
        if taken.next == taken.end {
            let (block, name) = (0..BLOCKS)
                .map(|number| (std::process::id() as u16).wrapping_add(number) % BLOCKS)
                .find_map(|block| Some((block, hold(block)?)))
                .expect("a block of ports that no other test has");
            taken.next = FIRST + block * BLOCK;
            taken.end = taken.next + BLOCK;
            taken.blocks.push(name);
        }
        taken.next += 1;
        if is_free(taken.next - 1) {
            return taken.next - 1;
        }
    }
}

/// Takes the name of a block, which ends with the process.
fn hold(block: u16) -> Option<UnixDatagram> {
    let name = SocketAddr::from_abstract_name(format!("tombolo-test-ports-{block}")).ok()?;
    UnixDatagram::bind_addr(&name).ok()
}
