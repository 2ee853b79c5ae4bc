//! A CoAP node on a serial line (slipmux): the same answers as over DTLS.

use std::io::Read as _;
use std::process::Command;
use std::time::{Duration, Instant};

use tombolo::proto::coap::encoder::Encoder;
use tombolo::proto::coap::{Code, Message, MessageId, Token, Type};
use tombolo::proto::serial::framing::{Decoder, Framing, Settings};
use tombolo::proto::serial::slipmux::{Frame, decode, encode};

use crate::{Device, Site};
use tombolo_test_support::wait_for;

/// The next CoAP message from the gateway.
fn hear(device: &mut Device, decoder: &mut Decoder) -> Vec<u8> {
    let mut heard = None;
    wait_for("an answer", || {
        let mut chunk = [0; 256];
        let length = device.master.as_mut().unwrap().read(&mut chunk).unwrap_or(0);
        decoder.handle_bytes(Instant::now(), &chunk[..length], &mut |frame| {
            if let Ok(Frame::Coap(message)) = decode(frame) {
                heard = Some(message.to_vec());
            }
        });
        heard.is_some()
    });
    heard.unwrap()
}

/// How the gateway frames messages.
fn slip() -> Settings {
    Settings {
        framing: Framing::Slip,
        checksum: None,
        max_frame: 1024,
        start: Vec::new(),
        within: tombolo::proto::serial::framing::IDLE,
        placement: Default::default(),
        skip_first: false,
        keep: 0,
        whole: false,
        label_end: None,
        interleaved: None,
        silence: None,
    }
}

#[test]
fn a_coap_node_on_a_line_is_acknowledged_when_it_is_stored_and_refused_in_coaps_own_words() {
    let site = Site::new("node", |folder| {
        let path = folder.join("node");
        format!("[serial.node]\nport = \"{}\"\nframing = \"slipmux\"\nrole = \"meter\"\n", path.display())
    });
    let mut node = Device::plugged_in(site.folder.join("node"));
    site.wait_until_open("node");
    let mut decoder = Decoder::new(&slip(), Instant::now() - Duration::from_secs(1));
    let mut say = |device: &mut Device, message: &[u8]| {
        let mut wire = Vec::new();
        encode(message, &mut wire);
        assert!(device.say(&wire));
        hear(device, &mut decoder)
    };
    // CON POST /m/t "21.5", text/plain.
    let reading = b"\x41\x02\x00\x07\x55\xb1m\x01t\x10\xff21.5";
    assert_eq!(say(&mut node, reading)[..5], *b"\x61\x44\x00\x07\x55");
    wait_for("the reading", || site.arrived("node") == [("m/t".to_owned(), b"21.5".to_vec())]);
    // Said again, it is answered again and stored once.
    assert_eq!(say(&mut node, reading)[..5], *b"\x61\x44\x00\x07\x55");
    // A ping, and a path that no rule allows.
    assert_eq!(say(&mut node, b"\x40\x00\x00\x08"), b"\x70\x00\x00\x08");
    assert_eq!(say(&mut node, b"\x40\x02\x00\x09\xb5other\xffx")[..2], *b"\x60\x83");
    assert_eq!(site.arrived("node").len(), 1);
    // `status` counts both, as of any port.
    let port = || site.daemon.status()["serial"]["node"].clone();
    wait_for("the numbers", || port()["readings"] == 1 && port()["refused"] == 1);
}

#[test]
fn a_coap_node_on_a_line_is_sent_commands_and_its_response_is_the_outcome() {
    let rules = "[role.meter.mailbox]\nalways-awake = true\n[role.meter.downlink.all]\n\
                 topic = \"{prefix}/{device}/down/#\"\npath = \"{rest}\"\n";
    let site = Site::new("node-command", |folder| {
        let path = folder.join("node");
        format!(
            "{rules}[serial.node]\nport = \"{}\"\nframing = \"slipmux\"\nrole = \"meter\"\n",
            path.display()
        )
    });
    let mut node = Device::plugged_in(site.folder.join("node"));
    site.wait_until_open("node");
    let mut decoder = Decoder::new(&slip(), Instant::now() - Duration::from_secs(1));
    let (code, text) = std::thread::scope(|scope| {
        let sent = scope.spawn(|| site.daemon.command(&["send", "node", "led", "on"]));
        let request = hear(&mut node, &mut decoder);
        // CON PUT with a token of some bytes, Uri-Path "led".
        let token = usize::from(request[0] & 15);
        assert_eq!((request[0] >> 4, request[1]), (4, 3), "{request:02x?}");
        assert!(request.ends_with(b"\xb3led\xffon"), "{request:02x?}");
        let answer = [&[0x60 | request[0] & 15, 0x44], &request[2..4 + token], b"\xffdone"].concat();
        let mut wire = Vec::new();
        encode(&answer, &mut wire);
        assert!(node.say(&wire));
        sent.join().expect("the command")
    });
    assert!(code == 0 && text.contains("2.04") && text.contains("done"), "{text}");
}

/// A node that serves `temp`, which may be observed, and `level`, and keeps what else it hears.
struct Node {
    device: Device,
    decoder: Decoder,
    temp: &'static [u8],
    /// The token by which `temp` is observed.
    observer: Option<Token>,
    heard: Vec<Vec<u8>>,
    message_id: u16,
}

impl Node {
    /// Answers the GETs that have come.
    fn serve(&mut self) {
        let mut chunk = [0; 1_024];
        let length = self.device.master.as_mut().unwrap().read(&mut chunk).unwrap_or(0);
        let mut came = Vec::new();
        self.decoder.handle_bytes(Instant::now(), &chunk[..length], &mut |frame| {
            if let Ok(Frame::Coap(message)) = decode(frame) {
                came.push(message.to_vec());
            }
        });
        for bytes in came {
            let message = Message::parse(&bytes).expect("the gateway speaks CoAP");
            let path: Vec<&[u8]> = message.options.values(11).collect();
            let (payload, observe) = match (message.code, &path[..]) {
                (Code(1), [b"temp"]) => {
                    self.observer = Some(message.token);
                    (self.temp, Some(1))
                }
                (Code(1), [b"level"]) => (&b"7"[..], None),
                _ => {
                    self.heard.push(bytes);
                    continue;
                }
            };
            let (id, token) = (message.message_id, message.token);
            self.say(Type::Acknowledgement, Code::CONTENT, id, &token, observe, &[], payload);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a message")]
    fn say(
        &mut self,
        kind: Type,
        code: Code,
        id: MessageId,
        token: &Token,
        observe: Option<u32>,
        path: &[&str],
        payload: &[u8],
    ) {
        let mut bytes = Vec::new();
        let encoder = Encoder::new(&mut bytes, kind, code, id, token).maybe_uint(6, observe);
        let encoder = path.iter().fold(encoder, |encoder, segment| encoder.option(11, segment.as_bytes()));
        encoder.payload(payload).finish().expect("a short message");
        let mut wire = Vec::new();
        encode(&bytes, &mut wire);
        assert!(self.device.say(&wire));
    }

    /// GETs `state/led`; the code, Observe and payload of the response.
    fn get(&mut self, observe: Option<u32>) -> (Code, Option<u32>, Vec<u8>) {
        self.message_id += 1;
        let id = MessageId(self.message_id);
        let token = Token::new(&id.0.to_be_bytes()).unwrap();
        self.say(Type::Confirmable, Code(1), id, &token, observe, &["state", "led"], b"");
        self.response(&token)
    }

    /// The next response with that token; a confirmable one is acknowledged.
    fn response(&mut self, token: &Token) -> (Code, Option<u32>, Vec<u8>) {
        let mut found = None;
        wait_for("a response", || {
            self.serve();
            let is_it = |bytes: &Vec<u8>| {
                let message = Message::parse(bytes).unwrap();
                message.code.is_response() && message.token.as_bytes() == token.as_bytes()
            };
            found = self.heard.iter().position(is_it).map(|at| self.heard.remove(at));
            found.is_some()
        });
        let bytes = found.unwrap();
        let message = Message::parse(&bytes).unwrap();
        if message.message_type == Type::Confirmable {
            let none = Token::default();
            self.say(Type::Acknowledgement, Code::EMPTY, message.message_id, &none, None, &[], b"");
        }
        let observe = message.options.values(6).next();
        let observe = observe.map(|value| value.iter().fold(0, |all, byte| all << 8 | u32::from(*byte)));
        (message.code, observe, message.payload.to_vec())
    }
}

#[test]
fn a_coap_node_on_a_line_is_observed_and_polled_and_gets_and_observes_what_the_broker_has() {
    let rules = "[role.meter.mailbox]\nalways-awake = true\n[role.meter.downlink.state]\n\
                 topic = \"{prefix}/{device}/down/state/+\"\npath = \"state/{1}\"\ndeliver = \"observe\"\n\
                 [role.meter.observe.temp]\npath = \"temp\"\nas = \"m/temp\"\n\
                 [role.meter.poll.level]\npath = \"level\"\nas = \"m/level\"\nevery = \"1s\"\n";
    let site = Site::new("node-served", |folder| {
        let path = folder.join("node");
        format!(
            "{rules}[serial.node]\nport = \"{}\"\nframing = \"slipmux\"\nrole = \"meter\"\n",
            path.display()
        )
    });
    let mut node = Node {
        device: Device::plugged_in(site.folder.join("node")),
        decoder: Decoder::new(&slip(), Instant::now() - Duration::from_secs(1)),
        temp: b"20",
        observer: None,
        heard: Vec::new(),
        message_id: 0x100,
    };
    site.wait_until_open("node");
    let values = |path: &str| -> Vec<Vec<u8>> {
        site.arrived("node").into_iter().filter(|(of, _)| of == path).map(|(_, payload)| payload).collect()
    };
    // It is asked once it has spoken.
    let token = Token::new(b"first").unwrap();
    node.say(Type::Confirmable, Code(2), MessageId(9), &token, None, &["m", "hello"], b"hello");
    // What it serves.
    wait_for("an observed value and three polled ones", || {
        node.serve();
        values("m/temp") == [b"20"] && values("m/level").len() >= 3
    });
    assert!(values("m/level").iter().all(|value| value == b"7"));
    let observer = node.observer.expect("it is observed");
    node.say(Type::Confirmable, Code::CONTENT, MessageId(1), &observer, Some(2), &[], b"21");
    wait_for("the notification", || {
        node.serve();
        values("m/temp") == [b"20", b"21"]
    });
    wait_for("its acknowledgement", || {
        node.serve();
        node.heard.iter().any(|bytes| bytes[..] == [0x60, 0, 0, 1])
    });
    // What the broker has for it.
    assert_eq!(node.get(None).0, Code::NOT_FOUND, "nothing yet");
    let publish = |payload: &str| {
        let port = site.broker.plain_port.to_string();
        let status = Command::new("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &port, "-V", "5", "-q", "2"])
            .args(["-t", "tombolo/gw/node/down/state/led", "-m", payload])
            .status()
            .unwrap();
        assert!(status.success());
    };
    wait_for("the subscription", || {
        let log = std::fs::read_to_string(site.folder.join("mosquitto.log")).unwrap_or_default();
        log.contains("/down/state/")
    });
    publish("on");
    let mut answer = node.get(None);
    wait_for("the value", || {
        answer = node.get(None);
        answer.0 == Code::CONTENT
    });
    assert_eq!((answer.1, &answer.2[..]), (None, &b"on"[..]));
    let (code, observe, payload) = node.get(Some(0));
    assert_eq!((code, &payload[..]), (Code::CONTENT, &b"on"[..]));
    let first = observe.expect("it observes");
    let token = Token::new(&node.message_id.to_be_bytes()).unwrap();
    publish("off");
    let (code, observe, payload) = node.response(&token);
    assert_eq!((code, &payload[..]), (Code::CONTENT, &b"off"[..]));
    assert!(observe.is_some_and(|number| number > first), "{observe:?} after {first}");
    wait_for("the outcome", || site.witness.lines().iter().any(|line| line.contains("/reply/state/led")));
    // Polling went on beside it.
    let before = values("m/level").len();
    wait_for("another polled value", || {
        node.serve();
        values("m/level").len() > before
    });
}
