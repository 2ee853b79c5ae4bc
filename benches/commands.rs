//! Compares commands to devices with libcoap's observe in one run: CPU of the process per request
//! and per notification.
//!
//! `cargo bench --bench commands` — needs `mosquitto`, `mosquitto-clients` and `libcoap3-bin`.
//! Everything runs on loopback. Tombolo takes each message from the broker over TLS at QoS 2,
//! stores it, sends it over DTLS, stores the acknowledgement, and publishes the outcome with QoS 1.
//! libcoap's `coap-server-openssl` is sent a PUT and notifies the observers of the resource; it
//! stores and publishes nothing. Devices are the same on both sides: sessions by PSK with
//! AES-128-GCM; every notification is confirmable and is acknowledged at once.
//!
//! An `own` message is for one device; `one for all` is a message, or a PUT, that reaches all of
//! them. In a closed loop the next message follows when the last one has arrived.
//!
//! `MESSAGES`, `ROUNDS` in the environment change the size (default 4,000 notifications, 3 rounds,
//! of which medians are printed); `BINARY=PATH` measures another build.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tombolo_test_support::bench::{Libcoap, median, number};
use tombolo_test_support::dtls::client::{Client, Config, PSK_GCM};
use tombolo_test_support::dtls::connect;
use tombolo_test_support::{
    Daemon, Folder, Mosquitto, Pki, Subscriber, cpu_time, program, wait_for, wait_within,
};

const KEY: &str = "benchbenchbench1";
const GET: u8 = 1;
const PUT: u8 = 3;
const CONTENT: u8 = 0x45;
/// Nothing takes longer to arrive.
const PATIENCE: Duration = Duration::from_secs(120);

const RULES: &str = r#"
[role.actuator.mailbox]
always-awake = true
[role.actuator.downlink.request]
topic = "{prefix}/{device}/down/run/+"
path = "run/{1}"
deliver = "request"
[role.actuator.downlink.observed]
topic = "{prefix}/{device}/down/state/+"
path = "state/{1}"
deliver = "observe"
[role.actuator.downlink.for-all]
topic = "site/all/+"
path = "all/{1}"
deliver = "observe"
"#;

/// How messages reach the devices.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// Each device its own, as a request.
    Requests,
    /// Each device its own, as a notification.
    Notifications,
    /// One for all of them, as notifications.
    OneForAll,
}

impl Way {
    /// The path that devices observe.
    fn path(self) -> &'static str {
        if self == Way::OneForAll { "all/level" } else { "state/level" }
    }

    fn topic(self, device: usize) -> String {
        match self {
            Way::Requests => format!("tombolo/gw/d{device}/down/run/level"),
            Way::Notifications => format!("tombolo/gw/d{device}/down/state/level"),
            Way::OneForAll => "site/all/level".to_owned(),
        }
    }
}

struct Load {
    name: &'static str,
    devices: usize,
    /// Messages a second over all devices; `None`: a closed loop.
    rate: Option<f64>,
}

/// A confirmable request with a token of one byte; the path has at most 12 bytes a segment.
fn request(code: u8, id: u16, path: &str, observe: bool, payload: &[u8]) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let mut message = vec![0x41, code, high, low, 7];
    let mut delta = 11;
    if observe {
        message.push(6 << 4);
        delta -= 6;
    }
    for segment in path.split('/') {
        message.push(delta << 4 | segment.len() as u8);
        message.extend(segment.bytes());
        delta = 0;
    }
    message.push(0xff);
    message.extend(payload);
    if payload.is_empty() {
        message.pop();
    }
    message
}

/// A session, and the socket it speaks from.
struct Device {
    client: Client,
    socket: tokio::net::UdpSocket,
}

impl Device {
    /// Connects as `d{number}`.
    fn connect(number: usize, port: u16) -> Device {
        let config = Config::psk(&format!("d{number}"), KEY).with_suite(PSK_GCM);
        let (client, socket): (Client, UdpSocket) = connect(number, port, config);
        socket.set_nonblocking(true).expect("a socket can be that");
        Device { client, socket: tokio::net::UdpSocket::from_std(socket).expect("a socket") }
    }

    async fn send(&mut self, message: &[u8]) {
        self.socket.send(&self.client.send(message)).await.expect("loopback takes it");
    }

    async fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut buffer = [0; 2_048];
        let length = self.socket.recv(&mut buffer).await.expect("the server is there");
        self.client.handle_datagram(Instant::now(), &buffer[..length]);
        std::mem::take(&mut self.client.received)
    }

    /// Sends a request and takes its response; none is lost on loopback.
    async fn ask(&mut self, message: &[u8]) -> u8 {
        self.send(message).await;
        loop {
            let heard = self.receive().await;
            if let Some(response) = heard.iter().find(|heard| heard[2..4] == message[2..4] && heard[1] != 0) {
                return response[1];
            }
        }
    }

    /// Acknowledges what it is told, carries out what it is asked, and says each time that it did.
    async fn serve(mut self, number: usize, arrived: mpsc::UnboundedSender<usize>) {
        let mut last = None;
        loop {
            for message in self.receive().await {
                let &[first, code, high, low, ..] = &message[..] else { continue };
                // Only what is confirmable.
                if first >> 4 & 3 != 0 {
                    continue;
                }
                let token = &message[4..4 + usize::from(first & 15)];
                let answer = match code {
                    // A ping.
                    0 => {
                        self.send(&[0x70, 0, high, low]).await;
                        continue;
                    }
                    1..32 => [&[0x60 | token.len() as u8, 0x44, high, low][..], token].concat(),
                    _ => vec![0x60, 0, high, low],
                };
                self.send(&answer).await;
                if last.replace((high, low)) != Some((high, low)) && arrived.send(number).is_err() {
                    return;
                }
            }
        }
    }
}

/// Where messages come from.
enum Source {
    /// One `mosquitto_pub` for each topic, which publishes the lines that it is given.
    Broker(Vec<Child>),
    /// A client of libcoap's server.
    Client(Box<Device>),
}

impl Source {
    fn broker(broker: &Mosquitto, topics: impl Iterator<Item = String>) -> Source {
        let start = |topic: String| {
            Command::new("mosquitto_pub")
                .args(["-h", "127.0.0.1", "-p", &broker.plain_port.to_string(), "-V", "5", "-q", "2", "-l"])
                .args(["-t", &topic])
                .stdin(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("mosquitto_pub is installed with mosquitto-clients")
        };
        Source::Broker(topics.map(start).collect())
    }

    /// The message of this number, of a device or for all.
    async fn publish(&mut self, device: usize, number: usize) {
        match self {
            Source::Broker(publishers) => {
                let input = publishers[device].stdin.as_mut().expect("a pipe");
                writeln!(input, "{number}").expect("mosquitto_pub reads");
            }
            Source::Client(client) => {
                let put = request(PUT, number as u16, "example_data", false, number.to_string().as_bytes());
                assert_eq!(client.ask(&put).await >> 5, 2, "the PUT is answered");
            }
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Source::Broker(publishers) = self {
            for publisher in publishers {
                let _ = publisher.kill();
                let _ = publisher.wait();
            }
        }
    }
}

/// Has `count` messages arrive, in all; how many did.
async fn drive(
    source: &mut Source,
    arrived: &mut mpsc::UnboundedReceiver<usize>,
    load: &Load,
    way: Way,
    count: usize,
) -> usize {
    // So many arrive by one message, and so many chains of messages go on beside each other.
    let (copies, chains) = if way == Way::OneForAll { (load.devices, 1) } else { (1, load.devices) };
    let messages = count.div_ceil(copies);
    let mut sent = 0;
    let mut next = tokio::time::Instant::now();
    let first = if load.rate.is_some() { messages } else { chains.min(messages) };
    while sent < first {
        if let Some(rate) = load.rate {
            tokio::time::sleep_until(next).await;
            next += Duration::from_secs_f64(copies as f64 / rate);
        }
        source.publish(sent % chains, sent).await;
        sent += 1;
    }
    for done in 1..=messages * copies {
        let device = arrived.recv().await.expect("devices serve");
        if sent < messages && done % copies == 0 {
            source.publish(if copies == 1 { device } else { 0 }, sent).await;
            sent += 1;
        }
    }
    messages * copies
}

/// Devices that observe a path, or are asked.
async fn devices(port: u16, count: usize, observed: Option<&str>) -> mpsc::UnboundedReceiver<usize> {
    let (sender, receiver) = mpsc::unbounded_channel();
    for number in 0..count {
        let mut device = Device::connect(number, port);
        let message = match observed {
            Some(path) => request(GET, 1, path, true, b""),
            // The gateway has heard it then.
            None => request(GET, 1, "time", false, b""),
        };
        assert_eq!(device.ask(&message).await, CONTENT, "d{number}");
        tokio::task::spawn_local(device.serve(number, sender.clone()));
    }
    receiver
}

fn per(cpu: Duration, count: usize) -> f64 {
    cpu.as_secs_f64() * 1e6 / count as f64
}

/// CPU microseconds a message of the daemon.
async fn tombolo(load: &Load, way: Way, count: usize) -> f64 {
    let folder = Folder::new("bench-commands");
    let pki = Pki::new(folder.path());
    let broker = Mosquitto::start(folder.path(), &pki, "log_type subscribe\n");
    let outcomes = Subscriber::start(&broker, folder.path(), "tombolo/#", "%t");
    let key = folder.write("key.psk", format!("text:{KEY}"));
    let mut extra = RULES.to_owned();
    for number in 0..load.devices {
        let _ = writeln!(extra, "[device.d{number}]\nrole = \"actuator\"\npsk-file = \"{}\"", key.display());
    }
    let binary = program(env!("CARGO_BIN_EXE_tombolo"));
    let daemon = Daemon::start(&binary, &folder, broker.tls_port, &pki.ca(), &extra);
    wait_for("the subscription", || {
        let log = std::fs::read_to_string(folder.join("mosquitto.log")).unwrap_or_default();
        daemon.status()["upstream"]["connected"] == true && log.contains("site/all/+")
    });
    let observed = (way != Way::Requests).then(|| way.path());
    let mut arrived = devices(daemon.coaps.port(), load.devices, observed).await;
    let topics = if way == Way::OneForAll { 1 } else { load.devices };
    let mut source = Source::broker(&broker, (0..topics).map(|device| way.topic(device)));
    let told = || outcomes.text().matches("/reply/").count();
    // The first ones do not count: processes start, connections are made.
    let warm = drive(&mut source, &mut arrived, load, way, 2 * load.devices).await;
    wait_within(PATIENCE, "the first outcomes", || told() >= warm);
    let before = cpu_time(daemon.pid());
    let done = drive(&mut source, &mut arrived, load, way, count).await;
    wait_within(PATIENCE, "the outcomes", || told() >= warm + done);
    per(cpu_time(daemon.pid()) - before, done)
}

/// CPU microseconds a notification of libcoap's server, its share of the PUTs included.
async fn libcoap(load: &Load, count: usize) -> f64 {
    let server = Libcoap::start(KEY, "");
    let putter = Device::connect(load.devices, server.address().port());
    let mut source = Source::Client(Box::new(putter));
    source.publish(0, 0).await;
    let mut arrived = devices(server.address().port(), load.devices, Some("example_data")).await;
    drive(&mut source, &mut arrived, load, Way::OneForAll, 2 * load.devices).await;
    let before = cpu_time(server.pid());
    let done = drive(&mut source, &mut arrived, load, Way::OneForAll, count).await;
    per(cpu_time(server.pid()) - before, done)
}

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (messages, rounds) = (number("MESSAGES", 4_000), number("ROUNDS", 3));
    let loads = [
        Load { name: "1 device, closed loop", devices: 1, rate: None },
        Load { name: "100 devices, closed loop", devices: 100, rate: None },
        Load { name: "100 devices, 200/s in all", devices: 100, rate: Some(200.0) },
    ];
    println!(
        "| load | tombolo, CPU µs per request | own notification | one for all | libcoap, one for all | ratio |"
    );
    println!("|---|---|---|---|---|---|");
    for load in &loads {
        let mut figures = [const { Vec::new() }; 4];
        // A single device waits for the disk with each, and a rate for the clock.
        let count = if load.devices == 1 { messages / 8 } else { messages };
        let count = if load.rate.is_some() { messages / 2 } else { count };
        for _ in 0..rounds {
            for (at, way) in [Way::Requests, Way::Notifications, Way::OneForAll].into_iter().enumerate() {
                // The devices end with it.
                let local = tokio::task::LocalSet::new();
                figures[at].push(local.block_on(&runtime, tombolo(load, way, count)));
            }
            let local = tokio::task::LocalSet::new();
            figures[3].push(local.block_on(&runtime, libcoap(load, count)));
        }
        let [requests, own, all, theirs] = figures.map(median);
        println!(
            "| {} | {requests:.0} | {own:.0} | {all:.0} | {theirs:.0} | {:.1} |",
            load.name,
            all / theirs
        );
    }
}
