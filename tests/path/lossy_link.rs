//! A link between devices and the gateway that loses a tenth of the datagrams each way, and doubles
//! some.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tombolo::splitmix::SplitMix64;

/// See the module. It ends with its owner.
pub struct LossyLink {
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    gateway: SocketAddr,
    ended: AtomicBool,
    lost: AtomicUsize,
}

impl LossyLink {
    pub fn to(gateway: SocketAddr) -> LossyLink {
        let near = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = near.local_addr().expect("its address");
        let state = State { gateway, ended: AtomicBool::new(false), lost: AtomicUsize::new(0) };
        let state = Arc::new(state);
        let of_thread = state.clone();
        std::thread::spawn(move || up(&near, &of_thread));
        LossyLink { address, state }
    }

    /// Datagrams that it has lost.
    pub fn lost(&self) -> usize {
        self.state.lost.load(Ordering::Relaxed)
    }
}

impl Drop for LossyLink {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
    }
}

impl State {
    /// Sends a datagram on: not at all, once, or twice.
    fn pass(&self, random: &mut SplitMix64, send: impl Fn() -> std::io::Result<usize>) {
        match random.below(20) {
            0 | 1 => drop(self.lost.fetch_add(1, Ordering::Relaxed)),
            2 => drop((send(), send())),
            _ => drop(send()),
        }
    }
}

/// So often a thread looks whether it is to end.
const TURN: Duration = Duration::from_millis(200);

/// Takes datagrams of devices; each device has a port of its own towards the gateway.
fn up(near: &UdpSocket, state: &Arc<State>) {
    near.set_read_timeout(Some(TURN)).expect("a timeout");
    let mut random = SplitMix64::new(7);
    let mut ports: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut buffer = [0; 2_048];
    while !state.ended.load(Ordering::Relaxed) {
        let Ok((bytes, device)) = near.recv_from(&mut buffer) else { continue };
        let far = ports.entry(device).or_insert_with(|| {
            let far = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("a port"));
            far.connect(state.gateway).expect("a way");
            let (of_thread, state) = (far.clone(), state.clone());
            let near = near.try_clone().expect("the same socket");
            std::thread::spawn(move || down(&of_thread, &near, device, &state));
            far
        });
        state.pass(&mut random, || far.send(&buffer[..bytes]));
    }
}

/// Takes datagrams for a device.
fn down(far: &UdpSocket, near: &UdpSocket, device: SocketAddr, state: &State) {
    far.set_read_timeout(Some(TURN)).expect("a timeout");
    let mut random = SplitMix64::new(u64::from(device.port()));
    let mut buffer = [0; 2_048];
    while !state.ended.load(Ordering::Relaxed) {
        let Ok(bytes) = far.recv(&mut buffer) else { continue };
        state.pass(&mut random, || near.send_to(&buffer[..bytes], device));
    }
}
