//! What a block of firmware costs that a device fetches by Block2, beside libcoap: CPU of the
//! process per block, with nothing else to do.
//!
//! `cargo bench --bench firmware` — needs `mosquitto` and `libcoap3-bin`. Everything runs on
//! loopback. Tombolo serves an image of 256 KiB from its disk cache, over DTLS, as it serves no
//! firmware without; libcoap's `coap-server-openssl` serves a body of as many blocks from memory,
//! over DTLS and without. Devices are the same on both sides: sessions by PSK with AES-128-GCM, one
//! block outstanding each, in order.
//!
//! `BLOCKS`, `ROUNDS` in the environment change the size (default 8,000 blocks a load, 3 rounds, of
//! which medians are printed); `BINARY=PATH` measures another build.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use tombolo::update::firmware::kept::{Image, Kept};
use tombolo::update::io::firmware::write;
use tombolo::update::rollout::Share;
use tombolo::update::version::Scheme;
use tombolo_test_support::bench::{Libcoap, median, number};
use tombolo_test_support::dtls::client::{Client, Config, PSK_GCM};
use tombolo_test_support::dtls::connect;
use tombolo_test_support::{Daemon, Folder, Mosquitto, Pki, cpu_time, program, wait_for};

const KEY: &str = "benchbenchbench1";
const CLASS: &str = "door";
const GET: u8 = 1;
const PUT: u8 = 3;
const CONTENT: u8 = 0x45;
const BLOCK1: u32 = 27;
const BLOCK2: u32 = 23;
const URI_PATH: u32 = 11;
/// Bytes of the image.
const IMAGE: usize = 256 << 10;
/// Of a device no more GETs than these are answered at once.
const GETS_MAX: usize = 8_000;

/// Sensors in a closed loop, and the size exponent of their blocks (RFC 7959 §2.2).
struct Load {
    sensors: usize,
    exponent: u8,
}

impl Load {
    fn size(&self) -> usize {
        16 << self.exponent
    }
}

/// A confirmable request for, or with, one block.
fn request(code: u8, id: u16, path: &str, option: u32, block: u32, payload: &[u8]) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let mut message = vec![0x42, code, high, low, high, low];
    let mut delta = URI_PATH as u8;
    for segment in path.split('/') {
        match segment.len() {
            0..=12 => message.push(delta << 4 | segment.len() as u8),
            length => message.extend([delta << 4 | 13, length as u8 - 13]),
        }
        message.extend(segment.bytes());
        delta = 0;
    }
    let value = block.to_be_bytes();
    match option - URI_PATH {
        delta @ 0..=12 => message.push((delta as u8) << 4 | 3),
        delta => message.extend([0xd3, delta as u8 - 13]),
    }
    message.extend(&value[1..]);
    if !payload.is_empty() {
        message.push(0xff);
        message.extend(payload);
    }
    message
}

/// Where a device speaks from: with a session, or without.
struct Device {
    client: Option<Client>,
    socket: UdpSocket,
    id: u16,
}

impl Device {
    fn over_dtls(number: usize, port: u16) -> Device {
        let config = Config::psk(&format!("d{number}"), KEY).with_suite(PSK_GCM);
        let (client, socket) = connect(number, port, config);
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        Device { client: Some(client), socket, id: 0 }
    }

    fn plain(server: SocketAddr) -> Device {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        socket.connect(server).expect("an address");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        Device { client: None, socket, id: 0 }
    }

    /// Its response; none is lost on loopback.
    fn ask(&mut self, code: u8, path: &str, option: u32, block: u32, payload: &[u8]) -> Vec<u8> {
        self.id = self.id.wrapping_add(1);
        let message = request(code, self.id, path, option, block, payload);
        let datagram = match &mut self.client {
            Some(client) => client.send(&message),
            None => message.clone(),
        };
        self.socket.send(&datagram).expect("loopback takes it");
        let mut buffer = [0; 2_048];
        loop {
            let length = self.socket.recv(&mut buffer).expect("an answer");
            let heard = match &mut self.client {
                Some(client) => {
                    client.handle_datagram(Instant::now(), &buffer[..length]);
                    std::mem::take(&mut client.received)
                }
                None => vec![buffer[..length].to_vec()],
            };
            if let Some(response) = heard.into_iter().find(|heard| heard[2..4] == message[2..4]) {
                return response;
            }
        }
    }

    /// Fetches `count` blocks in order, and the image again when it is whole.
    fn fetch(&mut self, path: &str, load: &Load, image: &[u8], count: usize) {
        let blocks = image.len() / load.size();
        for at in (0..blocks).cycle().take(count) {
            let block = (at as u32) << 4 | u32::from(load.exponent);
            let response = self.ask(GET, path, BLOCK2, block, b"");
            let expected = &image[at * load.size()..][..load.size()];
            assert_eq!(response[1], CONTENT, "block {at}");
            assert!(response.ends_with(expected), "block {at} is another one");
        }
    }
}

fn image() -> Vec<u8> {
    (0..IMAGE as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// CPU microseconds of this process for each of these blocks.
fn measure(pid: u32, devices: &mut [Device], path: &str, load: &Load, image: &[u8], count: usize) -> f64 {
    let each = count / devices.len();
    assert!(each <= GETS_MAX, "more than a device may ask for at once");
    let before = cpu_time(pid);
    std::thread::scope(|scope| {
        for device in &mut *devices {
            scope.spawn(|| device.fetch(path, load, image, each));
        }
    });
    (cpu_time(pid) - before).as_secs_f64() * 1e6 / (each * devices.len()) as f64
}

fn tombolo(load: &Load, count: usize) -> f64 {
    let folder = Folder::new("bench-firmware");
    let image = image();
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest(&SHA256, &image).as_ref());
    let kept = Image {
        version: "1.0.0".to_owned(),
        scheme: Scheme::Semver,
        sha256,
        bytes: image.len() as u64,
        share: Share::ALL,
        min_version: None,
        is_suit: false,
    };
    let (path, file) = (format!("firmware/{CLASS}/{}", kept.tag()), kept.file());
    let pki = Pki::new(folder.path());
    let broker = Mosquitto::start(folder.path(), &pki, "");
    let key = folder.write("key.psk", format!("text:{KEY}"));
    // The repository is not there: what is kept is served.
    let root = folder.write("root.json", "{}");
    let mut extra = format!(
        "[update]\nsource = \"tuf\"\nurl = \"https://127.0.0.1:1/\"\nroot-file = \"{}\"\n\
         [role.sensor]\nfirmware = \"{CLASS}\"\n[role.sensor.uplink.all]\npath = \"t/#\"\n",
        root.display()
    );
    for number in 0..load.sensors {
        let _ = writeln!(extra, "[device.d{number}]\nrole = \"sensor\"\npsk-file = \"{}\"", key.display());
    }
    let binary = program(env!("CARGO_BIN_EXE_tombolo"));
    let mut daemon = Daemon::start(&binary, &folder, broker.tls_port, &pki.ca(), &extra);
    daemon.stop();
    let place = folder.join("state/firmware").join(CLASS);
    std::fs::create_dir_all(&place).expect("a folder");
    std::fs::write(place.join(file), &image).expect("the image");
    write(&place, &Kept { images: vec![kept], is_withdrawn: false }).expect("its record");
    daemon.resume();
    wait_for("the broker", || daemon.status()["upstream"]["connected"] == true);
    let connect = |number| Device::over_dtls(number, daemon.coaps.port());
    let mut devices: Vec<Device> = (0..load.sensors).map(connect).collect();
    wait_for("the image is verified", || devices[0].ask(GET, &path, BLOCK2, 6, b"")[1] == CONTENT);
    measure(daemon.pid(), &mut devices, &path, load, &image, count)
}

/// CPU microseconds a block of libcoap's server.
fn libcoap(load: &Load, count: usize, is_dtls: bool) -> f64 {
    let server = Libcoap::start(KEY, "");
    let connect = |number| match is_dtls {
        true => Device::over_dtls(number, server.address().port()),
        false => Device::plain((Ipv4Addr::LOCALHOST, server.address().port() - 1).into()),
    };
    let (path, image) = ("example_data", image());
    let mut putter = Device::over_dtls(load.sensors, server.address().port());
    let parts = image.chunks(1_024);
    let last = parts.len() - 1;
    for (at, part) in parts.enumerate() {
        let block = (at as u32) << 4 | u32::from(at < last) << 3 | 6;
        let answer = putter.ask(PUT, path, BLOCK1, block, part)[1];
        assert_eq!(answer >> 5, 2, "block {at} is taken: {answer:#x}");
    }
    let mut devices: Vec<Device> = (0..load.sensors).map(connect).collect();
    devices.iter_mut().for_each(|device| device.fetch(path, load, &image, 1));
    measure(server.pid(), &mut devices, path, load, &image, count)
}

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let (blocks, rounds) = (number("BLOCKS", 8_000), number("ROUNDS", 3));
    println!("| load | Tombolo, CPU µs per block over DTLS | libcoap over DTLS | libcoap without |");
    println!("|---|---|---|---|");
    for (sensors, exponent) in [(1, 6), (16, 6), (100, 6), (16, 2)] {
        let load = Load { sensors, exponent };
        let mut figures = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            figures[0].push(tombolo(&load, blocks));
            figures[1].push(libcoap(&load, blocks, true));
            figures[2].push(libcoap(&load, blocks, false));
        }
        let [own, theirs, plain] = figures.map(median);
        println!(
            "| {sensors} sensors, {} bytes a block | {own:.1} | {theirs:.1} | {plain:.1} |",
            load.size()
        );
    }
}
