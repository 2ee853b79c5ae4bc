//! A link between devices and the gateway that loses a tenth of the datagrams each way, and doubles
//! some; or that loses those that a test names.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
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
    /// What a test names; `None`: chance decides.
    named: Option<Mutex<[Named; 2]>>,
}

/// Datagrams with DTLS application data of one direction: how many have come, and which are lost.
#[derive(Default)]
struct Named {
    come: usize,
    lose: Vec<usize>,
}

#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

/// The content type of DTLS application data (RFC 6347 §4.1).
const APPLICATION_DATA: u8 = 23;

impl LossyLink {
    pub fn to(gateway: SocketAddr) -> LossyLink {
        LossyLink::build(gateway, None)
    }

    /// A link that loses what [`LossyLink::lose`] names, and nothing else.
    pub fn named(gateway: SocketAddr) -> LossyLink {
        LossyLink::build(gateway, Some(Mutex::default()))
    }

    /// Of the CoAP messages from now on, the device's and the gateway's, those with these numbers
    /// are lost; each side counts from 0.
    pub fn lose(&self, up: &[usize], down: &[usize]) {
        let named = self.state.named.as_ref().expect("a link of named losses");
        let of = |lose: &[usize]| Named { come: 0, lose: lose.to_vec() };
        *named.lock().expect("no thread panics") = [of(up), of(down)];
    }

    fn build(gateway: SocketAddr, named: Option<Mutex<[Named; 2]>>) -> LossyLink {
        let near = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = near.local_addr().expect("its address");
        let state = State { gateway, ended: AtomicBool::new(false), lost: AtomicUsize::new(0), named };
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
    fn pass(
        &self,
        random: &mut SplitMix64,
        way: Way,
        datagram: &[u8],
        send: impl Fn() -> std::io::Result<usize>,
    ) {
        if let Some(named) = &self.named {
            return match named.lock().expect("no thread panics")[way as usize].loses(datagram) {
                true => drop(self.lost.fetch_add(1, Ordering::Relaxed)),
                false => drop(send()),
            };
        }
        match random.below(20) {
            0 | 1 => drop(self.lost.fetch_add(1, Ordering::Relaxed)),
            2 => drop((send(), send())),
            _ => drop(send()),
        }
    }
}

impl Named {
    fn loses(&mut self, datagram: &[u8]) -> bool {
        if datagram.first() != Some(&APPLICATION_DATA) {
            return false;
        }
        self.come += 1;
        self.lose.contains(&(self.come - 1))
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
        let datagram = &buffer[..bytes];
        state.pass(&mut random, Way::Up, datagram, || far.send(datagram));
    }
}

/// Takes datagrams for a device.
fn down(far: &UdpSocket, near: &UdpSocket, device: SocketAddr, state: &State) {
    far.set_read_timeout(Some(TURN)).expect("a timeout");
    let mut random = SplitMix64::new(u64::from(device.port()));
    let mut buffer = [0; 2_048];
    while !state.ended.load(Ordering::Relaxed) {
        let Ok(bytes) = far.recv(&mut buffer) else { continue };
        let datagram = &buffer[..bytes];
        state.pass(&mut random, Way::Down, datagram, || near.send_to(datagram, device));
    }
}
