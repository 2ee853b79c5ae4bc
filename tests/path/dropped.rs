//! A broker that is killed at each point between a message and the end of its acknowledgement: the
//! command runs once, and its outcome comes, whether the session was kept or lost. It speaks MQTT 5
//! by hand, so that the connection ends exactly there.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tombolo_test_support::dtls::client::Config;
use tombolo_test_support::{Daemon, Folder, wait_for};

use super::commands::RULES;
use super::device::Device;
use super::{KEY, SITE, binary};

const FILTER: &str = "tombolo/gw/+/down/#";
const PATIENCE: Duration = Duration::from_secs(60);
/// The first bytes of packets (MQTT 5.0 §2.1.2).
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;

/// What the broker has heard over all connections.
#[derive(Default)]
struct Heard {
    /// The last options of each filter (MQTT 5.0 §3.8.3.1).
    options: BTreeMap<String, u8>,
    /// Topics and bodies of what the gateway published.
    published: Vec<(String, Vec<u8>)>,
}

/// One connection of the gateway.
struct Connection<'b> {
    stream: TcpStream,
    heard: &'b mut Heard,
    maximum_qos: u8,
    /// A SUBSCRIBE for QoS 2 is not answered.
    refuses_qos_2: bool,
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

impl<'b> Connection<'b> {
    /// Waits for the gateway, which may connect for a check of its own first.
    fn accept(
        listener: &TcpListener,
        heard: &'b mut Heard,
        session_present: bool,
        maximum_qos: u8,
    ) -> Connection<'b> {
        listener.set_nonblocking(true).unwrap();
        let mut accepted = None;
        wait_for("the gateway", || {
            accepted = listener.accept().ok();
            accepted.is_some()
        });
        let (stream, _) = accepted.unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut connection = Connection { stream, heard, maximum_qos, refuses_qos_2: false };
        let (first, _) = connection.read();
        assert_eq!(first, 0x10, "CONNECT");
        let properties: &[u8] = if maximum_qos < 2 { &[0x24, maximum_qos] } else { &[] };
        let present = u8::from(session_present);
        let connack = [&[present, 0, properties.len() as u8][..], properties].concat();
        connection.write(0x20, &connack);
        connection
    }

    fn write(&mut self, first: u8, body: &[u8]) {
        assert!(body.len() < 128);
        self.stream.write_all(&[&[first, body.len() as u8][..], body].concat()).unwrap();
    }

    fn read(&mut self) -> (u8, Vec<u8>) {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).expect("a packet");
        let first = byte[0];
        let (mut length, mut shift) = (0, 0);
        loop {
            self.stream.read_exact(&mut byte).expect("its length");
            length |= usize::from(byte[0] & 0x7f) << shift;
            shift += 7;
            if byte[0] < 0x80 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).expect("its body");
        (first, body)
    }

    /// Handles one packet as any broker would; what acknowledges a message of ours is returned: the
    /// first byte and the packet id.
    fn step(&mut self) -> Option<(u8, u16)> {
        let (first, body) = self.read();
        match first & 0xf0 {
            0x30 => {
                let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
                let topic = String::from_utf8_lossy(&body[2..2 + length]).into_owned();
                if first & 6 != 0 {
                    self.write(PUBACK, &body[2 + length..4 + length]);
                }
                self.heard.published.push((topic, body));
            }
            0x80 => {
                let mut rest = &body[3 + usize::from(body[2])..];
                let mut codes = Vec::new();
                while let [high, low, after @ ..] = rest {
                    let (filter, options) = after.split_at(usize::from(u16::from_be_bytes([*high, *low])));
                    let filter = String::from_utf8_lossy(filter).into_owned();
                    self.heard.options.insert(filter, options[0]);
                    codes.push((options[0] & 3).min(self.maximum_qos));
                    rest = &options[1..];
                }
                let is_asked = self.heard.options.get(FILTER).is_some_and(|options| options & 3 == 2);
                if !(self.refuses_qos_2 && is_asked) {
                    self.write(0x90, &[&body[..2], &[0], &codes].concat());
                }
            }
            0xa0 => self.write(0xb0, &[&body[..2], &[0, 0][..]].concat()),
            0xc0 => self.write(0xd0, &[]),
            _ if [PUBACK, PUBREC, PUBCOMP].contains(&first) => {
                return Some((first, u16::from_be_bytes([body[0], body[1]])));
            }
            other => panic!("packet {other:#x}"),
        }
        None
    }

    fn until_subscribed(&mut self) {
        self.heard.options.remove(FILTER);
        while !self.heard.options.contains_key(FILTER) {
            self.step();
        }
    }

    /// Goes on until it is subscribed to at QoS 1, or is to be at QoS 2, which is not answered.
    fn is_asked_for_qos_2(&mut self) -> bool {
        self.heard.options.remove(FILTER);
        self.refuses_qos_2 = true;
        loop {
            self.step();
            if let Some(options) = self.heard.options.get(FILTER) {
                return options & 3 == 2;
            }
        }
    }

    /// Goes on until this acknowledgement has arrived.
    fn until(&mut self, first: u8, id: u16) {
        while self.step() != Some((first, id)) {}
    }

    /// A command with a response topic and correlation data.
    fn command(&mut self, qos: u8, again: bool, id: u16, value: &str) {
        let mut properties = vec![0x08];
        properties.extend(string("app/answers"));
        properties.push(0x09);
        properties.extend(string(value));
        let mut body = string("tombolo/gw/door-7/down/set/level");
        body.extend(id.to_be_bytes());
        body.push(properties.len() as u8);
        body.extend(properties);
        body.extend(value.bytes());
        self.write(0x30 | qos << 1 | u8::from(again) << 3, &body);
    }

    fn release(&mut self, id: u16) {
        self.write(PUBREL, &id.to_be_bytes());
    }

    /// The whole exchange of one message.
    fn deliver(&mut self, qos: u8, again: bool, id: u16, value: &str) {
        self.command(qos, again, id, value);
        if qos == 1 {
            return self.until(PUBACK, id);
        }
        self.until(PUBREC, id);
        self.release(id);
        self.until(PUBCOMP, id);
    }

    /// Goes on until an outcome with these correlation data has arrived.
    fn until_outcome(&mut self, value: &str) {
        let begun = Instant::now();
        let is_it = |(topic, body): &(String, Vec<u8>)| {
            let marked = [&[0x09][..], &string(value)].concat();
            topic == "app/answers" && body.windows(marked.len()).any(|bytes| bytes == marked)
        };
        while !self.heard.published.iter().any(is_it) {
            assert!(begun.elapsed() < PATIENCE, "no outcome of {value}");
            self.step();
        }
    }
}

/// Where the broker is killed, with the packet that it has not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// The mailbox has committed, PUBACK is on its way.
    Puback,
    /// The same with PUBREC.
    Pubrec,
    /// PUBREC was read, PUBREL was not sent.
    BeforePubrel,
    /// PUBREL was sent, PUBCOMP is on its way.
    Pubcomp,
}

/// A gateway at a broker of the test's own, and what its device ran.
fn with_gateway(name: &str, work: impl FnOnce(&TcpListener, &Mutex<Vec<String>>)) {
    let folder = Folder::new(name);
    folder.write("door-7.psk", format!("text:{KEY}"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let plain = |text: &str| {
        let lines = text.lines().map(|line| match line.starts_with("url = ") {
            true => format!("url = \"mqtt://127.0.0.1:{port}\"\ninsecure = true\nprotocol = \"5\""),
            false => line.to_owned(),
        });
        lines.filter(|line| !line.starts_with("ca-file")).collect::<Vec<_>>().join("\n")
    };
    let extra = format!("{SITE}\n{RULES}");
    let daemon = Daemon::start_with(binary(), &folder, port, folder.path(), &extra, plain);
    let (ran, is_over) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let mut device = Device::connect(daemon.coaps, Config::psk("door-7", KEY)).expect("a session");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                device.serve(|request| {
                    ran.lock().unwrap().push(String::from_utf8_lossy(request.payload).into_owned());
                    Some((Vec::new(), None))
                });
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&listener, &ran)));
        is_over.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            println!("{}", daemon.log());
            std::panic::resume_unwind(panic);
        }
    });
}

#[track_caller]
fn assert_ran_once(ran: &Mutex<Vec<String>>, value: &str) {
    let ran = ran.lock().unwrap();
    assert_eq!(ran.iter().filter(|run| *run == value).count(), 1, "{value}: {ran:?}");
}

/// Kills the broker there, with each message a new packet id.
fn each_runs_once(name: &str, points: &[At], is_kept: bool) {
    with_gateway(name, |listener, ran| {
        let mut heard = Heard::default();
        let mut connection = Connection::accept(listener, &mut heard, false, 2);
        connection.until_subscribed();
        for (id, &at) in (7..).zip(points) {
            let value = format!("{at:?}");
            let qos = if at == At::Puback { 1 } else { 2 };
            connection.command(qos, false, id, &value);
            match at {
                At::Puback => connection.until(PUBACK, id),
                At::Pubrec | At::BeforePubrel => connection.until(PUBREC, id),
                At::Pubcomp => {
                    connection.until(PUBREC, id);
                    connection.release(id);
                    connection.until(PUBCOMP, id);
                }
            }
            drop(connection);
            connection = Connection::accept(listener, &mut heard, is_kept, 2);
            match (is_kept, at) {
                (true, At::Puback | At::Pubrec) => connection.deliver(qos, true, id, &value),
                (true, At::BeforePubrel | At::Pubcomp) => {
                    connection.release(id);
                    connection.until(PUBCOMP, id);
                }
                // The broker has forgotten the message, and gives its id to another one.
                (false, _) => {
                    connection.until_subscribed();
                    let other = format!("after-{at:?}");
                    connection.deliver(qos, false, id, &other);
                    connection.until_outcome(&other);
                    assert_ran_once(ran, &other);
                }
            }
            connection.until_outcome(&value);
            assert_ran_once(ran, &value);
        }
        // The next one is no repetition of any.
        connection.deliver(2, false, 7, "end");
        connection.until_outcome("end");
        let expected = if is_kept { points.len() } else { 2 * points.len() };
        assert_eq!(ran.lock().unwrap().len(), expected + 1, "{:?}", ran.lock().unwrap());
    });
}

const POINTS: [At; 4] = [At::Puback, At::Pubrec, At::BeforePubrel, At::Pubcomp];

#[test]
fn a_broker_killed_at_any_point_of_the_acknowledgement_that_keeps_the_session_has_each_command_run_once() {
    each_runs_once("dropped-kept", &POINTS, true);
}

#[test]
fn a_broker_killed_at_any_point_of_the_acknowledgement_that_loses_the_session_has_each_command_run_once() {
    each_runs_once("dropped-lost", &POINTS, false);
}

#[test]
fn commands_are_subscribed_to_at_qos_2_with_retain_handling_1_and_at_qos_1_after_a_close_over_it() {
    with_gateway("dropped-options", |listener, ran| {
        let mut heard = Heard::default();
        // Maximum QoS bounds what the gateway publishes; a broker grants less than it is asked for
        // (MQTT 5.0 §3.2.2.3.4).
        for maximum_qos in [2, 1] {
            let mut connection = Connection::accept(listener, &mut heard, false, maximum_qos);
            connection.until_subscribed();
            let options = connection.heard.options[FILTER];
            assert_eq!((options & 3, options >> 4 & 3), (2, 1), "{options:#x}");
            let value = format!("granted-{maximum_qos}");
            connection.deliver(maximum_qos, false, 9, &value);
            connection.until_outcome(&value);
            assert_ran_once(ran, &value);
        }
        // One that closes the connection whenever it is asked for QoS 2.
        let mut closed = 0;
        loop {
            let mut connection = Connection::accept(listener, &mut heard, false, 1);
            if connection.is_asked_for_qos_2() {
                closed += 1;
                assert!(closed < 5, "it is asked for it again and again");
                continue;
            }
            let options = connection.heard.options[FILTER];
            assert_eq!((options & 3, options >> 4 & 3), (1, 1), "{options:#x}");
            connection.deliver(1, false, 9, "least");
            connection.until_outcome("least");
            assert_ran_once(ran, "least");
            break;
        }
        assert!(closed > 0);
    });
}
