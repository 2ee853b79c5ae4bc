//! Devices that speak CoAP, over DTLS or plain. They keep a reading until it is answered.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::chance::Chance;
use crate::ledger::Ledger;
use crate::product::*;
use tombolo_test_support::dtls::client::{Client, Config};

/// RFC 7252 §4.8
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_RETRANSMIT: u32 = 4;
/// How long a handshake may take before it is begun anew.
const JOIN_WITHIN: Duration = Duration::from_secs(70);
/// Readings a device keeps.
const KEPT: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Dtls,
    Plain,
}

struct Attempt {
    mark: u64,
    path: &'static str,
    payload: Vec<u8>,
    token: [u8; 8],
    id: u16,
    bytes: Vec<u8>,
    sent: u32,
    wait: Duration,
    deadline: Instant,
}

/// A device that speaks CoAP.
pub struct Node {
    pub id: String,
    pub key: String,
    pub transport: Transport,
    /// Where it sends from; another one for each handshake.
    pub port: u16,
    /// Between two readings; `None`: only what the scenario has it say.
    pub period: Option<Duration>,
    pub paths: Vec<&'static str>,
    pub payload: usize,
    /// Sends non-confirmable requests, and does not repeat them.
    pub non: bool,
    /// Does not stop at an answer that says no: takes all there is.
    pub greedy: bool,
    /// Off: says nothing and hears nothing.
    pub off: bool,
    produce_at: Instant,
    queue: VecDeque<(u64, &'static str, Vec<u8>)>,
    attempt: Option<Attempt>,
    rest_until: Option<Instant>,
    client: Option<Client>,
    join_until: Option<Instant>,
    message_id: u16,
    tries: u16,
    ports: u16,
    chance: Chance,
    /// Readings it gave up because its store was full.
    pub dropped: u64,
    pub answers: u64,
}

impl Node {
    pub fn new(id: &str, key: &str, transport: Transport, number: u16, now: Instant, chance: Chance) -> Node {
        let mut chance = chance;
        Node {
            id: id.to_owned(),
            key: key.to_owned(),
            transport,
            port: 1_000 + number * 1_000,
            period: None,
            paths: vec!["t/env"],
            payload: 24,
            non: false,
            greedy: false,
            off: false,
            produce_at: now,
            queue: VecDeque::new(),
            attempt: None,
            rest_until: None,
            client: None,
            join_until: None,
            message_id: chance.next() as u16,
            tries: 0,
            ports: 0,
            chance,
            dropped: 0,
            answers: 0,
        }
    }

    pub fn every(&mut self, period: Duration, now: Instant) {
        self.period = Some(period);
        self.produce_at = now + Duration::from_millis(self.chance.draw(period.as_millis() as u64));
    }

    /// Readings it holds and nobody has answered.
    pub fn waiting(&self) -> usize {
        self.queue.len() + usize::from(self.attempt.is_some())
    }

    /// Forgets its session and what it waits for, as after a reset.
    pub fn begin_anew(&mut self) {
        self.client = None;
        self.join_until = None;
        if let Some(attempt) = self.attempt.take() {
            self.again(attempt);
        }
    }

    /// Gives up what was not answered.
    pub fn forget(&mut self) {
        self.queue.clear();
        self.attempt = None;
    }

    /// Has something to say at once.
    pub fn say(&mut self, path: &'static str, ledger: &mut Ledger) -> u64 {
        let (mark, payload) = ledger.said(&self.id, path, self.payload);
        self.queue.push_back((mark, path, payload));
        if self.queue.len() > KEPT {
            self.queue.pop_front();
            self.dropped += 1;
        }
        mark
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.off {
            return None;
        }
        let produce = self.period.map(|_| self.produce_at);
        let client =
            self.client.as_ref().filter(|client| !client.connected).and_then(|client| client.deadline);
        let attempt = self.attempt.as_ref().map(|attempt| attempt.deadline);
        let ready = (self.attempt.is_none() && !self.queue.is_empty() && self.is_ready())
            .then(|| self.rest_until.unwrap_or(self.produce_at));
        let join = if self.transport == Transport::Dtls && !self.is_ready() && !self.queue.is_empty() {
            Some(self.join_until.unwrap_or(self.produce_at))
        } else {
            None
        };
        [produce, client, attempt, ready, join].into_iter().flatten().min()
    }

    fn is_ready(&self) -> bool {
        self.transport == Transport::Plain || self.client.as_ref().is_some_and(|client| client.connected)
    }

    /// Does what is due; datagrams to send.
    pub fn handle_timeout(&mut self, now: Instant, ledger: &mut Ledger) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        if self.off {
            return out;
        }
        if let Some(period) = self.period.filter(|_| self.produce_at <= now) {
            let path = self.paths[self.chance.draw(self.paths.len() as u64) as usize];
            self.say(path, ledger);
            let jitter = self.chance.draw(1 + period.as_millis() as u64 / 10);
            self.produce_at = now + period - period / 20 + Duration::from_millis(jitter);
        }
        if let Some(client) = self.client.as_mut().filter(|client| !client.connected) {
            out.extend(client.handle_timeout(now));
        }
        if self.transport == Transport::Dtls
            && !self.is_ready()
            && !self.queue.is_empty()
            && self.join_until.is_none_or(|until| until <= now)
        {
            out = self.join(now);
        }
        out.extend(self.go_on(now));
        out
    }

    fn join(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.ports = (self.ports + 1) % 900;
        self.port = self.port / 1_000 * 1_000 + self.ports;
        let mut config = Config::psk(&self.id, &self.key);
        config.fixed_random = Some(self.chance.bytes());
        let mut client = Client::new(config);
        let hello = client.start(now);
        self.client = Some(client);
        self.join_until = Some(now + JOIN_WITHIN);
        hello
    }

    fn go_on(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        if !self.is_ready() {
            return out;
        }
        if let Some(attempt) = &mut self.attempt
            && attempt.deadline <= now
        {
            if attempt.sent > MAX_RETRANSMIT || self.non {
                // Nobody is there, or nobody knows the session any more.
                let attempt = self.attempt.take().expect("it is there");
                self.again(attempt);
                if self.transport == Transport::Dtls {
                    return self.join(now);
                }
            } else {
                attempt.sent += 1;
                attempt.wait *= 2;
                attempt.deadline = now + attempt.wait;
                let bytes = attempt.bytes.clone();
                out.push(self.wrap(&bytes));
            }
        }
        if self.attempt.is_none() && self.rest_until.is_none_or(|until| until <= now) {
            self.rest_until = None;
            if let Some((mark, path, payload)) = self.queue.pop_front() {
                out.push(self.post(now, mark, path, &payload));
            }
        }
        out
    }

    /// Keeps a reading that was not answered for another attempt.
    fn again(&mut self, attempt: Attempt) {
        self.queue.push_front((attempt.mark, attempt.path, attempt.payload));
    }

    fn post(&mut self, now: Instant, mark: u64, path: &'static str, payload: &[u8]) -> Vec<u8> {
        self.message_id = self.message_id.wrapping_add(1);
        self.tries = self.tries.wrapping_add(1);
        let mut token = [0; 8];
        token[..6].copy_from_slice(&mark.to_be_bytes()[2..]);
        token[6..].copy_from_slice(&self.tries.to_be_bytes());
        let mut bytes = Vec::new();
        let kind = if self.non { Type::NonConfirmable } else { Type::Confirmable };
        let words = Token::new(&token).expect("8 bytes");
        let encoder = Encoder::new(&mut bytes, kind, Code(2), MessageId(self.message_id), &words);
        let encoder =
            path.split('/').fold(encoder, |encoder, segment| encoder.option(11, segment.as_bytes()));
        encoder.payload(payload).finish().expect("it fits");
        let wait = ACK_TIMEOUT + Duration::from_millis(self.chance.draw(1_000));
        let wait = if self.non { wait * 10 } else { wait };
        let attempt = Attempt {
            mark,
            path,
            payload: payload.to_vec(),
            token,
            id: self.message_id,
            bytes: bytes.clone(),
            sent: 1,
            wait,
            deadline: now + wait,
        };
        self.attempt = Some(attempt);
        self.wrap(&bytes)
    }

    fn wrap(&mut self, bytes: &[u8]) -> Vec<u8> {
        match &mut self.client {
            Some(client) if self.transport == Transport::Dtls => client.send(bytes),
            _ => bytes.to_vec(),
        }
    }

    /// Takes a datagram of the gateway; datagrams to send.
    pub fn handle_datagram(&mut self, now: Instant, bytes: &[u8], ledger: &mut Ledger) -> Vec<Vec<u8>> {
        if self.off {
            return Vec::new();
        }
        let mut out = Vec::new();
        let mut messages = vec![bytes.to_vec()];
        if self.transport == Transport::Dtls {
            let Some(client) = &mut self.client else { return out };
            out = client.handle_datagram(now, bytes);
            messages = std::mem::take(&mut client.received);
            if !client.alerts.is_empty() || !client.protected_alerts.is_empty() {
                // The session is over: a new one, a little later.
                self.client = None;
                self.join_until = Some(now + Duration::from_millis(500 + self.chance.draw(5_000)));
                if let Some(attempt) = self.attempt.take() {
                    self.again(attempt);
                }
                return out;
            }
        }
        for message in messages {
            out.extend(self.handle_message(now, &message, ledger));
        }
        out.extend(self.go_on(now));
        out
    }

    fn handle_message(&mut self, now: Instant, bytes: &[u8], ledger: &mut Ledger) -> Option<Vec<u8>> {
        let message = Message::parse(bytes).expect("the gateway speaks CoAP");
        let reply = |kind: Type| {
            let mut reply = Vec::new();
            let encoder = Encoder::new(&mut reply, kind, Code::EMPTY, message.message_id, &Token::default());
            encoder.finish().expect("it fits");
            reply
        };
        let answer = match message.message_type {
            Type::Confirmable if message.code == Code::EMPTY => return Some(self.wrap(&reply(Type::Reset))),
            Type::Confirmable => Some(reply(Type::Acknowledgement)),
            _ => None,
        };
        let answer = answer.map(|bytes| self.wrap(&bytes));
        let Some(attempt) = &mut self.attempt else { return answer };
        if message.message_type == Type::Acknowledgement && message.code == Code::EMPTY {
            if attempt.id == message.message_id.0 {
                // The response comes by itself.
                attempt.sent = MAX_RETRANSMIT + 1;
                attempt.deadline = now + Duration::from_secs(60);
            }
            return answer;
        }
        if message.token.as_bytes() != attempt.token {
            return answer;
        }
        self.answers += 1;
        let attempt = self.attempt.take().expect("it is there");
        let max_age = message
            .options
            .values(14)
            .next()
            .map_or(60, |value| value.iter().fold(0, |seconds, byte| seconds << 8 | u64::from(*byte)));
        match message.code {
            Code::CHANGED => {}
            Code::SERVICE_UNAVAILABLE | Code::TOO_MANY_REQUESTS => {
                self.again(attempt);
                let rest =
                    if self.greedy { Duration::from_millis(150) } else { Duration::from_secs(max_age) };
                self.rest_until = Some(now + rest);
            }
            Code::UNAUTHORIZED if self.transport == Transport::Dtls => {
                self.again(attempt);
                self.rest_until = Some(now + Duration::from_secs(10));
            }
            _ => ledger.refused(attempt.mark, message.code.0),
        }
        answer
    }
}
