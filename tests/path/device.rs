//! A device of the tests' own on a real socket: speaks all the gateway does, connection ids among
//! it, moves to other ports, and retransmits as RFC 6347 §4.2.4 and RFC 7252 §4.2 have it.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use tombolo::proto::coap::encoder::Encoder;
use tombolo::proto::coap::{Code, Message, MessageId, Token, Type};
use tombolo_test_support::dtls::client::{Client, Config};

/// ACK_TIMEOUT and MAX_RETRANSMIT (RFC 7252 §4.8); the random factor is left at its middle.
const FIRST_TIMEOUT: Duration = Duration::from_millis(2_500);
const RETRANSMIT: u32 = 4;

pub struct Device {
    pub client: Client,
    socket: UdpSocket,
    gateway: SocketAddr,
    heard: VecDeque<Vec<u8>>,
    message_id: u16,
    /// How often a request had to be sent again.
    pub repeated: u32,
    /// Percent of the datagrams that are lost, each way; and where chance stands.
    pub loss: u64,
    pub chance: u64,
}

fn socket() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")
}

impl Device {
    /// Shakes hands; `None` if the gateway refuses or is silent for as long as the client's timers
    /// allow.
    pub fn connect(gateway: SocketAddr, config: Config) -> Option<Device> {
        Device::connect_from(Ipv4Addr::LOCALHOST, gateway, config)
    }

    /// The same, from another address of 127/8.
    pub fn connect_from(from: Ipv4Addr, gateway: SocketAddr, config: Config) -> Option<Device> {
        let (client, heard) = (Client::new(config), VecDeque::new());
        let socket = UdpSocket::bind((from, 0)).expect("all of 127/8 is ours");
        let mut device =
            Device { client, socket, gateway, heard, message_id: 0, repeated: 0, loss: 0, chance: 1 };
        let first = device.client.start(Instant::now());
        device.transmit(&first);
        while !device.client.connected {
            let deadline = device.client.deadline?;
            device.take(deadline);
            let now = Instant::now();
            if device.client.deadline.is_some_and(|deadline| deadline <= now) {
                let again = device.client.handle_timeout(now);
                device.transmit(&again);
            }
        }
        Some(device)
    }

    fn transmit(&mut self, datagrams: &[Vec<u8>]) {
        for datagram in datagrams {
            if !self.is_lost() {
                let _ = self.socket.send_to(datagram, self.gateway);
            }
        }
    }

    /// xorshift64.
    fn is_lost(&mut self) -> bool {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % 100 < self.loss
    }

    /// Takes one datagram, or lets `until` pass.
    fn take(&mut self, until: Instant) {
        let wait = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(wait)).expect("a timeout");
        let mut buffer = [0; 4_096];
        if let Ok((length, _)) = self.socket.recv_from(&mut buffer)
            && !self.is_lost()
        {
            let out = self.client.handle_datagram(Instant::now(), &buffer[..length]);
            self.transmit(&out);
            self.heard.extend(std::mem::take(&mut self.client.received));
        }
    }

    /// Goes on from another port.
    pub fn move_on(&mut self) {
        self.socket = socket();
    }

    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("an address")
    }

    pub fn send(&mut self, message: &[u8]) {
        let record = self.client.send(message);
        self.transmit(&[record]);
    }

    /// Sends a confirmable request and waits for its response; pings on the way are answered by
    /// Resets.
    pub fn request(&mut self, code: u8, path: &str, payload: &[u8]) -> Option<Vec<u8>> {
        self.message_id += 1;
        let [high, low] = self.message_id.to_be_bytes();
        let mut message = vec![0x42, code, high, low, high, low];
        let mut delta = 11;
        for segment in path.split('/') {
            assert!(segment.len() < 13);
            message.push(delta << 4 | segment.len() as u8);
            message.extend(segment.bytes());
            delta = 0;
        }
        if !payload.is_empty() {
            message.push(0xff);
            message.extend(payload);
        }
        self.exchange(&message)
    }

    /// Sends a confirmable request, whose token of two bytes is its Message ID, and waits for its
    /// response as [`Device::request`] does.
    pub fn exchange(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let (high, low) = (message[2], message[3]);
        let mut wait = FIRST_TIMEOUT;
        for attempt in 0..=RETRANSMIT {
            self.repeated += u32::from(attempt > 0);
            self.send(message);
            let until = Instant::now() + wait;
            wait *= 2;
            while Instant::now() < until {
                while let Some(heard) = self.heard.pop_front() {
                    match heard[..] {
                        [0x40, 0, high, low] => self.send(&[0x70, 0, high, low]),
                        [first, code, ..] if code != 0 && heard.get(4..6) == Some(&[high, low]) => {
                            // A response of its own is confirmable.
                            if first >> 4 & 3 == 0 {
                                self.send(&[0x60, 0, heard[2], heard[3]]);
                            }
                            return Some(heard);
                        }
                        _ => {}
                    }
                }
                self.take(until);
            }
        }
        None
    }

    /// Answers the GETs that come within a tenth of a second: `answer` has the payload and the
    /// Observe number, or nothing for 4.04.
    pub fn serve(&mut self, mut answer: impl FnMut(&Message<'_>) -> Option<(Vec<u8>, Option<u32>)>) {
        self.take(Instant::now() + Duration::from_millis(100));
        while let Some(heard) = self.heard.pop_front() {
            let Ok(message) = Message::parse(&heard) else { continue };
            if message.message_type != Type::Confirmable {
                continue;
            }
            if message.code == Code::EMPTY {
                self.send(&[0x70, 0, heard[2], heard[3]]);
                continue;
            }
            let found = answer(&message);
            let code = if found.is_some() { Code::CONTENT } else { Code::NOT_FOUND };
            let (payload, observe) = found.unwrap_or_default();
            let mut datagram = Vec::new();
            let kind = Type::Acknowledgement;
            Encoder::new(&mut datagram, kind, code, message.message_id, &message.token)
                .maybe_uint(6, observe)
                .payload(&payload)
                .finish()
                .expect("a short message");
            self.send(&datagram);
        }
    }

    /// A confirmable notification of the relation with that token.
    pub fn notify(&mut self, token: Token, sequence: u32, payload: &[u8]) {
        self.message_id += 1;
        let id = MessageId(self.message_id);
        let mut datagram = Vec::new();
        Encoder::new(&mut datagram, Type::Confirmable, Code::CONTENT, id, &token)
            .option_uint(6, sequence)
            .payload(payload)
            .finish()
            .expect("a short message");
        self.send(&datagram);
    }

    /// POSTs; whether the gateway says it has it.
    pub fn post(&mut self, path: &str, payload: &[u8]) -> bool {
        self.request(2, path, payload).is_some_and(|answer| answer[1] == 0x44)
    }
}
