//! An endpoint with a virtual clock, and helpers that build messages.

use std::time::{Duration, Instant};

use tombolo::proto::Holder;
use tombolo::proto::address::Peer;
use tombolo::proto::coap::encoder::Encoder;
use tombolo::proto::coap::{
    Code, Endpoint, Exchange, Message, MessageId, PeerId, Request, Response, Settings, Token, Type,
};
use tombolo::proto::dtls::SessionId;

pub const DEVICE: PeerId = proven(1);
pub const STRANGER: PeerId = unproven(1);

/// A peer whose address is proven.
pub const fn proven(number: u64) -> PeerId {
    Peer::Session(SessionId(number)).id()
}

/// A peer whose address may be spoofed.
pub const fn unproven(number: u64) -> PeerId {
    Peer::Plain(number).id()
}

pub const GET: Code = Code(1);
pub const POST: Code = Code(2);
pub const PUT: Code = Code(3);

pub struct Bench {
    pub endpoint: Endpoint,
    pub now: Instant,
}

impl Default for Bench {
    fn default() -> Self {
        Bench::new(Settings::default())
    }
}

impl Bench {
    pub fn new(settings: Settings) -> Bench {
        Bench { endpoint: Endpoint::new(settings, 1).with_echo(&[7; 32]), now: Instant::now() }
    }

    pub fn feed<'d>(&mut self, peer: PeerId, datagram: &'d [u8]) -> Option<Request<'d>> {
        self.endpoint.handle_datagram(self.now, peer, datagram)
    }

    /// The same, where the peer is one of a device's sessions.
    pub fn feed_of<'d>(&mut self, device: Holder, peer: PeerId, datagram: &'d [u8]) -> Option<Request<'d>> {
        self.endpoint.handle_datagram_of(self.now, device, peer, datagram)
    }

    /// Feeds a request that must be handed up.
    pub fn request(&mut self, peer: PeerId, datagram: &[u8]) -> Exchange {
        self.feed(peer, datagram).expect("the request is handed up").exchange
    }

    /// Feeds what must not be handed up; everything sent because of it.
    pub fn reply(&mut self, peer: PeerId, datagram: &[u8]) -> Vec<Vec<u8>> {
        assert!(self.feed(peer, datagram).is_none(), "handed up: {datagram:x?}");
        self.sent().into_iter().inspect(|(to, _)| assert_eq!(*to, peer)).map(|(_, bytes)| bytes).collect()
    }

    pub fn respond(&mut self, exchange: Exchange, response: &Response<'_>) {
        self.endpoint.respond(self.now, exchange, response);
    }

    /// Everything waiting to be sent.
    pub fn sent(&mut self) -> Vec<(PeerId, Vec<u8>)> {
        let mut sent = Vec::new();
        let mut buffer = Vec::new();
        while let Some(peer) = self.endpoint.poll_transmit(&mut buffer) {
            sent.push((peer, buffer.clone()));
        }
        sent
    }

    /// The one datagram waiting to be sent.
    pub fn sent_one(&mut self) -> Vec<u8> {
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:x?}");
        sent.remove(0).1
    }

    /// Lets time pass, stopping at each deadline on the way.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.endpoint.poll_timeout().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            self.endpoint.handle_timeout(self.now);
        }
        self.now = end;
        self.endpoint.handle_timeout(end);
    }
}

pub fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A message with options and payload.
pub fn message(
    message_type: Type,
    code: Code,
    id: u16,
    token: &[u8],
    options: &[(u16, &[u8])],
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let token = Token::new(token).unwrap();
    let encoder = Encoder::new(&mut bytes, message_type, code, MessageId(id), &token);
    let encoder = options.iter().fold(encoder, |encoder, (number, value)| encoder.option(*number, value));
    encoder.payload(payload).finish().unwrap();
    bytes
}

pub fn post(id: u16, payload: &[u8]) -> Vec<u8> {
    message(Type::Confirmable, POST, id, b"tk", &[(11, b"t"), (11, b"env")], payload)
}

pub fn non_post(id: u16, payload: &[u8]) -> Vec<u8> {
    message(Type::NonConfirmable, POST, id, b"tk", &[(11, b"t")], payload)
}

pub fn empty(message_type: Type, id: u16) -> Vec<u8> {
    message(message_type, Code::EMPTY, id, b"", &[], b"")
}

pub fn parse(datagram: &[u8]) -> Message<'_> {
    Message::parse(datagram).unwrap()
}

/// The value of the first option of that number, as `uint`.
pub fn uint(message: &Message<'_>, number: u16) -> Option<u32> {
    let value = message.options.values(number).next()?;
    Some(value.iter().fold(0, |all, byte| all << 8 | u32::from(*byte)))
}

pub fn changed() -> Response<'static> {
    Response::new(Code::CHANGED)
}
