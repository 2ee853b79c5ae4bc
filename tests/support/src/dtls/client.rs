//! A DTLS 1.2 client that speaks all the server does, and on request what no client should. It
//! shares no code with the server: another PRF, another record layer, another reassembly.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aes::Aes128;
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::{aead, digest, hmac};
use ccm::Ccm;
use ccm::aead::{AeadInOut, KeyInit};
use ccm::consts::{U8, U12, U16};

pub const PSK_CCM8: u16 = 0xc0a8;
pub const PSK_CCM: u16 = 0xc0a4;
pub const PSK_GCM: u16 = 0x00a8;
pub const PSK_CHACHA: u16 = 0xccab;
pub const ECDHE_PSK_CCM8: u16 = 0xd003;
pub const ECDHE_PSK_CCM: u16 = 0xd005;
pub const ECDHE_PSK_GCM: u16 = 0xd001;
pub const ECDHE_PSK_CHACHA: u16 = 0xccac;
pub const ECDSA_CCM8: u16 = 0xc0ae;
pub const ECDSA_CCM: u16 = 0xc0ac;
pub const ECDSA_GCM: u16 = 0xc02b;
pub const ECDSA_CHACHA: u16 = 0xcca9;
pub const ALL: [u16; 12] = [
    PSK_CCM8,
    PSK_CCM,
    PSK_GCM,
    PSK_CHACHA,
    ECDHE_PSK_CCM8,
    ECDHE_PSK_CCM,
    ECDHE_PSK_GCM,
    ECDHE_PSK_CHACHA,
    ECDSA_CCM8,
    ECDSA_CCM,
    ECDSA_GCM,
    ECDSA_CHACHA,
];

/// Steps of the client's last flight; [`Config::steps`] may hold any of them in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Certificate,
    EmptyCertificate,
    KeyExchange,
    CertificateVerify,
    Finished,
    /// A Finished in the clear.
    PlainFinished,
}

/// A certificate or raw key of the client's.
#[derive(Clone)]
pub struct Own {
    pub chain: Vec<Vec<u8>>,
    pub key: Arc<EcdsaKeyPair>,
    pub spki: Vec<u8>,
    /// Signature algorithm: 0x0403 or 0x0503.
    pub algorithm: u16,
}

/// What the client says and wants.
#[derive(Clone)]
pub struct Config {
    pub suites: Vec<u16>,
    pub identity: Vec<u8>,
    pub key: Vec<u8>,
    pub own: Option<Arc<Own>>,
    /// Show a raw public key instead of a chain, and want one.
    pub raw: bool,
    pub extended_master_secret: bool,
    /// The connection id wanted in records from the server.
    pub cid: Option<Vec<u8>>,
    pub max_fragment_length: Option<u8>,
    pub groups: Vec<u16>,
    pub signature_algorithms: Vec<u16>,
    pub mtu: usize,
    /// Zeros behind the content of records with a connection id.
    pub padding: usize,
    /// The same random in every handshake, as a device without entropy.
    pub fixed_random: Option<[u8; 32]>,
    /// Extensions of any kind besides.
    pub more: Vec<(u16, Vec<u8>)>,
    pub version: u16,
    /// Whether it signals secure renegotiation (RFC 5746 §3.3).
    pub signal: bool,
    pub compressions: Vec<u8>,
    pub steps: Option<Vec<Step>>,
    /// Changes the signature of CertificateVerify.
    pub bad_signature: bool,
    pub bad_point: bool,
    /// Changes what the Finished says, under the right keys.
    pub bad_finished: bool,
    pub first_timeout: Duration,
}

impl Config {
    pub fn psk(identity: &str, key: &str) -> Config {
        Config {
            suites: vec![PSK_CCM8],
            identity: identity.into(),
            key: key.into(),
            own: None,
            raw: false,
            extended_master_secret: true,
            cid: None,
            max_fragment_length: None,
            groups: vec![23, 24],
            signature_algorithms: vec![0x0403, 0x0503],
            mtu: 1_200,
            padding: 0,
            fixed_random: None,
            more: Vec::new(),
            version: 0xfefd,
            signal: true,
            compressions: vec![0],
            steps: None,
            bad_signature: false,
            bad_point: false,
            bad_finished: false,
            first_timeout: Duration::from_secs(1),
        }
    }

    pub fn certified(own: &Arc<Own>) -> Config {
        Config { suites: vec![ECDSA_CCM8], own: Some(own.clone()), ..Config::psk("", "") }
    }

    pub fn with_suite(self, suite: u16) -> Config {
        Config { suites: vec![suite], ..self }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cipher {
    Ccm8,
    Ccm,
    Gcm,
    ChaCha,
}

fn cipher_of(suite: u16) -> Cipher {
    match suite {
        PSK_CCM8 | ECDHE_PSK_CCM8 | ECDSA_CCM8 => Cipher::Ccm8,
        PSK_CCM | ECDHE_PSK_CCM | ECDSA_CCM => Cipher::Ccm,
        PSK_GCM | ECDHE_PSK_GCM | ECDSA_GCM => Cipher::Gcm,
        _ => Cipher::ChaCha,
    }
}

fn has_psk(suite: u16) -> bool {
    ![ECDSA_CCM8, ECDSA_CCM, ECDSA_GCM, ECDSA_CHACHA].contains(&suite)
}

fn has_ecdhe(suite: u16) -> bool {
    ![PSK_CCM8, PSK_CCM, PSK_GCM, PSK_CHACHA].contains(&suite)
}

/// P_SHA256 as RFC 5246 §5 writes it down.
fn prf(secret: &[u8], label: &[u8], seed: &[u8], length: usize) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let seed = [label, seed].concat();
    let (mut a, mut out) = (hmac::sign(&key, &seed), Vec::new());
    while out.len() < length {
        out.extend(hmac::sign(&key, &[a.as_ref(), &seed].concat()).as_ref());
        a = hmac::sign(&key, a.as_ref());
    }
    out.truncate(length);
    out
}

fn sha256(content: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, content).as_ref().to_vec()
}

struct Keys {
    cipher: Cipher,
    key: [Vec<u8>; 2],
    iv: [Vec<u8>; 2],
}

impl Keys {
    fn nonce(&self, side: usize, explicit: &[u8], number: u64) -> [u8; 12] {
        let mut nonce = [0; 12];
        if self.cipher == Cipher::ChaCha {
            nonce[4..].copy_from_slice(&number.to_be_bytes());
            for (byte, iv) in nonce.iter_mut().zip(&self.iv[side]) {
                *byte ^= iv;
            }
        } else {
            nonce[..4].copy_from_slice(&self.iv[side]);
            nonce[4..].copy_from_slice(explicit);
        }
        nonce
    }

    fn seal(&self, nonce: [u8; 12], aad: &[u8], content: &mut Vec<u8>) {
        let key = &self.key[0];
        match self.cipher {
            Cipher::Ccm8 => {
                let cipher = Ccm::<Aes128, U8, U12>::new_from_slice(key).unwrap();
                let tag =
                    cipher.encrypt_inout_detached(&nonce.into(), aad, (&mut content[..]).into()).unwrap();
                content.extend(&tag[..]);
            }
            Cipher::Ccm => {
                let cipher = Ccm::<Aes128, U16, U12>::new_from_slice(key).unwrap();
                let tag =
                    cipher.encrypt_inout_detached(&nonce.into(), aad, (&mut content[..]).into()).unwrap();
                content.extend(&tag[..]);
            }
            native => {
                let algorithm =
                    if native == Cipher::Gcm { &aead::AES_128_GCM } else { &aead::CHACHA20_POLY1305 };
                let cipher = aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, key).unwrap());
                let nonce = aead::Nonce::assume_unique_for_key(nonce);
                cipher.seal_in_place_append_tag(nonce, aead::Aad::from(aad), content).unwrap();
            }
        }
    }

    fn tag(&self) -> usize {
        if self.cipher == Cipher::Ccm8 { 8 } else { 16 }
    }

    fn open(&self, nonce: [u8; 12], aad: &[u8], mut content: Vec<u8>) -> Option<Vec<u8>> {
        let key = &self.key[1];
        let length = content.len().checked_sub(self.tag())?;
        match self.cipher {
            Cipher::Ccm8 => {
                let tag: [u8; 8] = content.split_off(length).try_into().unwrap();
                let cipher = Ccm::<Aes128, U8, U12>::new_from_slice(key).unwrap();
                let buffer = (&mut content[..]).into();
                cipher.decrypt_inout_detached(&nonce.into(), aad, buffer, &tag.into()).ok()?;
            }
            Cipher::Ccm => {
                let tag: [u8; 16] = content.split_off(length).try_into().unwrap();
                let cipher = Ccm::<Aes128, U16, U12>::new_from_slice(key).unwrap();
                let buffer = (&mut content[..]).into();
                cipher.decrypt_inout_detached(&nonce.into(), aad, buffer, &tag.into()).ok()?;
            }
            native => {
                let algorithm =
                    if native == Cipher::Gcm { &aead::AES_128_GCM } else { &aead::CHACHA20_POLY1305 };
                let cipher = aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, key).unwrap());
                let nonce = aead::Nonce::assume_unique_for_key(nonce);
                cipher.open_in_place(nonce, aead::Aad::from(aad), &mut content).ok()?;
                content.truncate(length);
            }
        }
        Some(content)
    }
}

fn vector(out: &mut Vec<u8>, length_bytes: usize, content: &[u8]) {
    out.extend(&(content.len() as u32).to_be_bytes()[4 - length_bytes..]);
    out.extend(content);
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte))
}

pub fn handshake_message(kind: u8, sequence: u16, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend(&(body.len() as u32).to_be_bytes()[1..]);
    out.extend(sequence.to_be_bytes());
    out.extend([0; 3]);
    vector(&mut out, 3, body);
    out
}

pub fn record(kind: u8, epoch: u16, sequence: u64, fragment: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, 0xfe, 0xfd];
    out.extend((u64::from(epoch) << 48 | sequence).to_be_bytes());
    vector(&mut out, 2, fragment);
    out
}

enum Out {
    Message(Vec<u8>),
    ChangeCipherSpec,
    Protected(Vec<u8>),
}

/// What the server said of itself.
#[derive(Default, Debug)]
pub struct Learned {
    pub suite: u16,
    pub extensions: BTreeMap<u16, Vec<u8>>,
    pub server_certificate: Vec<u8>,
    pub server_random: Vec<u8>,
    pub messages: Vec<u8>,
}

/// See the module.
pub struct Client {
    pub config: Config,
    pub connected: bool,
    pub received: Vec<Vec<u8>>,
    /// Alerts in the clear and protected ones: level, description.
    pub alerts: Vec<(u8, u8)>,
    pub protected_alerts: Vec<(u8, u8)>,
    pub deadline: Option<Instant>,
    pub learned: Learned,
    /// Every explicit nonce seen from the server.
    pub nonces: Vec<Vec<u8>>,
    /// The numbers of protected records from the server.
    pub numbers: Vec<u64>,
    pub handshake_datagrams: Vec<Vec<u8>>,
    random: [u8; 32],
    message_sequence: u16,
    record_sequence: u64,
    pub protected_sequence: u64,
    flight: Vec<Out>,
    wait: Duration,
    transcript: Vec<u8>,
    expected: u16,
    parts: BTreeMap<u16, (u8, Vec<u8>, Vec<bool>)>,
    point: Vec<u8>,
    curve: u16,
    keys: Option<Keys>,
    pub master: Vec<u8>,
    pub server_cid: Option<Vec<u8>>,
    finished_sent: bool,
    server_finished: Option<Vec<u8>>,
    window: std::collections::HashSet<u64>,
    /// Something may still come for the client that was here before: what does not open is then
    /// dropped (RFC 6347 §4.1.2.7); otherwise it fails the test.
    pub is_rebooted: bool,
}

impl Client {
    pub fn new(config: Config) -> Client {
        Client {
            wait: config.first_timeout,
            config,
            connected: false,
            received: Vec::new(),
            alerts: Vec::new(),
            protected_alerts: Vec::new(),
            deadline: None,
            learned: Learned::default(),
            nonces: Vec::new(),
            numbers: Vec::new(),
            handshake_datagrams: Vec::new(),
            random: [0; 32],
            message_sequence: 0,
            record_sequence: 0,
            protected_sequence: 0,
            flight: Vec::new(),
            transcript: Vec::new(),
            expected: 0,
            parts: BTreeMap::new(),
            point: Vec::new(),
            curve: 0,
            keys: None,
            master: Vec::new(),
            server_cid: None,
            finished_sent: false,
            server_finished: None,
            window: Default::default(),
            is_rebooted: false,
        }
    }

    /// Begins: a hello without a cookie.
    pub fn start(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.random = self.config.fixed_random.unwrap_or_else(|| {
            let mut random = [0; 32];
            aws_lc_rs::rand::fill(&mut random).unwrap();
            random
        });
        let hello = self.hello(&[]);
        self.flight = vec![Out::Message(handshake_message(1, 0, &hello))];
        self.message_sequence = 1;
        self.send_flight(now)
    }

    fn hello(&self, cookie: &[u8]) -> Vec<u8> {
        let config = &self.config;
        let mut body = config.version.to_be_bytes().to_vec();
        body.extend(self.random);
        vector(&mut body, 1, &[]);
        vector(&mut body, 1, cookie);
        let pairs = |list: &[u16]| list.iter().flat_map(|n| n.to_be_bytes()).collect::<Vec<u8>>();
        let mut suites = pairs(&config.suites);
        if config.signal {
            suites.extend([0x00, 0xff]);
        }
        vector(&mut body, 2, &suites);
        vector(&mut body, 1, &config.compressions);
        let mut extensions = Vec::new();
        let mut extension = |number: u16, content: &[u8]| {
            extensions.extend(number.to_be_bytes());
            vector(&mut extensions, 2, content);
        };
        let wrapped = |length_bytes: usize, content: &[u8]| {
            let mut out = Vec::new();
            vector(&mut out, length_bytes, content);
            out
        };
        if config.extended_master_secret {
            extension(23, &[]);
        }
        if config.suites.iter().any(|suite| has_ecdhe(*suite)) {
            extension(10, &wrapped(2, &pairs(&config.groups)));
            extension(11, &[1, 0]);
            extension(13, &wrapped(2, &pairs(&config.signature_algorithms)));
        }
        if config.raw {
            extension(19, &[1, 2]);
            extension(20, &[1, 2]);
        }
        if let Some(code) = config.max_fragment_length {
            extension(1, &[code]);
        }
        if let Some(cid) = &config.cid {
            extension(54, &wrapped(1, cid));
        }
        for (number, content) in &config.more {
            extension(*number, content);
        }
        if !extensions.is_empty() {
            vector(&mut body, 2, &extensions);
        }
        body
    }

    fn send_flight(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.deadline = Some(now + self.wait);
        let mut datagrams = Vec::new();
        for at in 0..self.flight.len() {
            match &self.flight[at] {
                Out::Message(message) => {
                    let (head, body) = (message[..6].to_vec(), message[12..].to_vec());
                    let mut offset = 0;
                    loop {
                        let here = (body.len() - offset).min(self.config.mtu - 25);
                        let mut fragment = head.clone();
                        fragment.extend(&(offset as u32).to_be_bytes()[1..]);
                        vector(&mut fragment, 3, &body[offset..offset + here]);
                        datagrams.push(record(22, 0, self.record_sequence, &fragment));
                        self.record_sequence += 1;
                        offset += here;
                        if offset == body.len() {
                            break;
                        }
                    }
                }
                Out::ChangeCipherSpec => {
                    datagrams.push(record(20, 0, self.record_sequence, &[1]));
                    self.record_sequence += 1;
                }
                Out::Protected(message) => {
                    let message = message.clone();
                    datagrams.push(self.seal(22, &message));
                }
            }
        }
        self.handshake_datagrams = datagrams.clone();
        datagrams
    }

    /// Its flight as it would send it now.
    pub fn resend(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.send_flight(now)
    }

    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Vec<u8>> {
        if self.deadline.is_none_or(|deadline| deadline > now) || self.connected {
            return Vec::new();
        }
        self.wait *= 2;
        if self.wait > Duration::from_secs(40) {
            self.deadline = None;
            return Vec::new();
        }
        self.send_flight(now)
    }

    /// One protected record.
    pub fn seal(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let sequence = self.protected_sequence;
        self.protected_sequence += 1;
        self.seal_numbered(kind, content, sequence)
    }

    pub fn seal_numbered(&self, kind: u8, content: &[u8], sequence: u64) -> Vec<u8> {
        let keys = self.keys.as_ref().expect("keys");
        let number = 1 << 48 | sequence;
        // Not the record number: the receiver has to take what stands on the wire.
        let explicit = (number ^ 0x5555_0000_0000_0000).to_be_bytes();
        let explicit: &[u8] = if keys.cipher == Cipher::ChaCha { &[] } else { &explicit };
        let nonce = keys.nonce(0, explicit, number);
        let mut inner = content.to_vec();
        let mut out = Vec::new();
        let mut aad = Vec::new();
        match self.server_cid.as_ref().filter(|cid| !cid.is_empty()) {
            Some(cid) => {
                inner.push(kind);
                inner.resize(inner.len() + self.config.padding, 0);
                aad.extend([0xff; 8]);
                aad.extend([25, cid.len() as u8, 25, 0xfe, 0xfd]);
                aad.extend(number.to_be_bytes());
                aad.extend(cid);
                aad.extend((inner.len() as u16).to_be_bytes());
                out.extend([25, 0xfe, 0xfd]);
                out.extend(number.to_be_bytes());
                out.extend(cid);
            }
            None => {
                aad.extend(number.to_be_bytes());
                aad.extend([kind, 0xfe, 0xfd]);
                aad.extend((inner.len() as u16).to_be_bytes());
                out.extend([kind, 0xfe, 0xfd]);
                out.extend(number.to_be_bytes());
            }
        }
        keys.seal(nonce, &aad, &mut inner);
        vector(&mut out, 2, &[explicit, &inner].concat());
        out
    }

    pub fn send(&mut self, data: &[u8]) -> Vec<u8> {
        self.seal(23, data)
    }

    /// A close_notify.
    pub fn close(&mut self) -> Vec<u8> {
        self.seal(21, &[1, 0])
    }

    /// Whether the server has sent a close_notify.
    pub fn is_closed(&self) -> bool {
        self.protected_alerts.contains(&(1, 0))
    }

    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let mut rest = datagram;
        while rest.len() >= 13 {
            let cid = match (rest[0], &self.config.cid) {
                (25, Some(cid)) => cid.len(),
                _ => 0,
            };
            let length = number(&rest[11 + cid..13 + cid]);
            let (this, behind) = rest.split_at(13 + cid + length);
            rest = behind;
            out.extend(self.handle_record(now, this));
        }
        assert!(rest.is_empty(), "the server's datagrams are whole");
        out
    }

    fn handle_record(&mut self, now: Instant, bytes: &[u8]) -> Vec<Vec<u8>> {
        let (kind, epoch) = (bytes[0], number(&bytes[3..5]));
        // OpenSSL's HelloVerifyRequest comes in a record of DTLS 1.0, as RFC 6347 §4.2.1 has it.
        assert!(bytes[1..3] == [0xfe, 0xfd] || epoch == 0 && bytes[1..3] == [0xfe, 0xff]);
        if epoch == 1 {
            self.handle_protected(bytes);
            return Vec::new();
        }
        match kind {
            22 => {
                let limit = self.config.max_fragment_length.map_or(1 << 14, |code| 256 << code);
                assert!(bytes.len() - 13 <= limit, "the record is longer than agreed");
                return self.handle_fragment(now, &bytes[13..]);
            }
            21 => {
                self.alerts.push((bytes[13], bytes[14]));
                if bytes[13] == 2 && !self.connected {
                    self.deadline = None;
                }
            }
            _ => {}
        }
        Vec::new()
    }

    fn handle_fragment(&mut self, now: Instant, fragment: &[u8]) -> Vec<Vec<u8>> {
        let (kind, length) = (fragment[0], number(&fragment[1..4]));
        let sequence = number(&fragment[4..6]) as u16;
        let (offset, here) = (number(&fragment[6..9]), number(&fragment[9..12]));
        let body = &fragment[12..12 + here];
        if kind == 3 {
            if self.transcript.is_empty() && self.parts.is_empty() && self.learned.messages.is_empty() {
                return self.take_cookie(now, sequence, body);
            }
            return Vec::new();
        }
        let part = self.parts.entry(sequence).or_insert((kind, vec![0; length], vec![false; length]));
        part.1[offset..offset + here].copy_from_slice(body);
        part.2[offset..offset + here].fill(true);
        while let Some((kind, body, present)) = self.parts.get(&self.expected).cloned() {
            if present.contains(&false) || self.finished_sent {
                break;
            }
            self.expected += 1;
            self.learned.messages.push(kind);
            self.transcript.extend(handshake_message(kind, self.expected - 1, &body));
            let out = self.handle_message(now, kind, &body);
            if !out.is_empty() {
                return out;
            }
        }
        Vec::new()
    }

    fn take_cookie(&mut self, now: Instant, sequence: u16, body: &[u8]) -> Vec<Vec<u8>> {
        if self.expected != 0 || sequence != 0 {
            return Vec::new();
        }
        let cookie = body[3..3 + usize::from(body[2])].to_vec();
        let hello = handshake_message(1, 1, &self.hello(&cookie));
        self.message_sequence = 2;
        self.expected = 1;
        self.transcript = hello.clone();
        self.flight = vec![Out::Message(hello)];
        self.wait = self.config.first_timeout;
        self.send_flight(now)
    }

    fn handle_message(&mut self, now: Instant, kind: u8, body: &[u8]) -> Vec<Vec<u8>> {
        match kind {
            2 => {
                self.learned.server_random = body[2..34].to_vec();
                let at = 35 + usize::from(body[34]);
                self.learned.suite = number(&body[at..at + 2]) as u16;
                assert!(self.config.suites.contains(&self.learned.suite));
                let mut rest = body.get(at + 5..).unwrap_or_default();
                while rest.len() >= 4 {
                    let length = number(&rest[2..4]);
                    let before = self
                        .learned
                        .extensions
                        .insert(number(&rest[..2]) as u16, rest[4..4 + length].to_vec());
                    assert!(before.is_none());
                    rest = &rest[4 + length..];
                }
                if let Some(cid) = self.learned.extensions.get(&54) {
                    self.server_cid = Some(cid[1..].to_vec());
                }
            }
            11 => self.learned.server_certificate = body.to_vec(),
            12 => {
                let mut at = 0;
                if has_psk(self.learned.suite) {
                    at = 2 + number(&body[..2]);
                }
                let parameters = &body[at..at + 4 + usize::from(body[at + 3])];
                self.curve = number(&parameters[1..3]) as u16;
                self.point = parameters[4..].to_vec();
                if !has_psk(self.learned.suite) {
                    let signed = &body[at + parameters.len()..];
                    self.check_signature(parameters, number(&signed[..2]) as u16, &signed[4..]);
                }
            }
            14 => return self.answer(now),
            _ => {}
        }
        Vec::new()
    }

    fn check_signature(&self, parameters: &[u8], algorithm: u16, signature: &[u8]) {
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ParsedPublicKey};
        let algorithm = if algorithm == 0x0403 { &ECDSA_P256_SHA256_ASN1 } else { &ECDSA_P384_SHA384_ASN1 };
        let message = [&self.random[..], &self.learned.server_random, parameters].concat();
        let certificate = &self.learned.server_certificate;
        // A raw key as it is; in a certificate it is found by its prefix.
        let key = if self.config.raw {
            certificate[3..].to_vec()
        } else {
            let at = certificate.windows(5).position(|w| w == b"\x06\x07\x2a\x86\x48").unwrap();
            let at = certificate[at + 1..]
                .windows(5)
                .position(|w| w == b"\x06\x07\x2a\x86\x48")
                .map_or(at, |n| at + 1 + n);
            let start = certificate[..at].iter().rposition(|byte| *byte == 0x30).unwrap();
            let start = certificate[..start].iter().rposition(|byte| *byte == 0x30).unwrap();
            certificate[start..start + 2 + usize::from(certificate[start + 1])].to_vec()
        };
        let key = ParsedPublicKey::new(algorithm, &key).expect("the server's key");
        key.verify_sig(&message, signature).expect("the server's signature");
    }

    /// The last flight.
    fn answer(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let certified = !has_psk(self.learned.suite);
        let usual = if certified {
            vec![Step::Certificate, Step::KeyExchange, Step::CertificateVerify, Step::Finished]
        } else {
            vec![Step::KeyExchange, Step::Finished]
        };
        let steps = self.config.steps.clone().unwrap_or(usual);
        self.flight = Vec::new();
        for step in steps {
            match step {
                Step::Certificate => {
                    let own = self.config.own.clone().unwrap();
                    let mut body = Vec::new();
                    if self.config.raw {
                        vector(&mut body, 3, &own.spki);
                    } else {
                        let mut list = Vec::new();
                        own.chain.iter().for_each(|certificate| vector(&mut list, 3, certificate));
                        vector(&mut body, 3, &list);
                    }
                    self.push(11, &body);
                }
                Step::EmptyCertificate => self.push(11, &[0, 0, 0]),
                Step::KeyExchange => self.key_exchange(),
                Step::CertificateVerify => {
                    let own = self.config.own.clone().unwrap();
                    let mut message = self.transcript.clone();
                    if self.config.bad_signature {
                        message.push(0);
                    }
                    let signature = own.key.sign(&SystemRandom::new(), &message).unwrap();
                    let mut body = own.algorithm.to_be_bytes().to_vec();
                    vector(&mut body, 2, signature.as_ref());
                    self.push(15, &body);
                }
                Step::Finished | Step::PlainFinished => {
                    let mut verify = prf(&self.master, b"client finished", &sha256(&self.transcript), 12);
                    verify[11] ^= u8::from(self.config.bad_finished);
                    let message = handshake_message(20, self.message_sequence, &verify);
                    self.message_sequence += 1;
                    self.transcript.extend(&message);
                    if step == Step::PlainFinished || self.keys.is_none() {
                        self.flight.push(Out::Message(message));
                    } else {
                        let expected = prf(&self.master, b"server finished", &sha256(&self.transcript), 12);
                        self.server_finished.get_or_insert(expected);
                        self.flight.push(Out::ChangeCipherSpec);
                        self.flight.push(Out::Protected(message));
                    }
                }
            }
        }
        self.finished_sent = true;
        self.wait = self.config.first_timeout;
        self.send_flight(now)
    }

    fn push(&mut self, kind: u8, body: &[u8]) {
        let message = handshake_message(kind, self.message_sequence, body);
        self.message_sequence += 1;
        self.transcript.extend(&message);
        self.flight.push(Out::Message(message));
    }

    fn key_exchange(&mut self) {
        let suite = self.learned.suite;
        let mut body = Vec::new();
        if has_psk(suite) {
            vector(&mut body, 2, &self.config.identity);
        }
        let mut secret = vec![0; self.config.key.len()];
        if has_ecdhe(suite) {
            let algorithm = if self.curve == 23 { &agreement::ECDH_P256 } else { &agreement::ECDH_P384 };
            let key = PrivateKey::generate(algorithm).unwrap();
            let mut point = key.compute_public_key().unwrap().as_ref().to_vec();
            if self.config.bad_point {
                point[40] ^= 1;
            }
            vector(&mut body, 1, &point);
            let theirs = UnparsedPublicKey::new(algorithm, &self.point);
            secret = agreement::agree(&key, theirs, (), |z| Ok(z.to_vec())).expect("the server's point");
        }
        let premaster = if has_psk(suite) {
            let mut premaster = Vec::new();
            vector(&mut premaster, 2, &secret);
            vector(&mut premaster, 2, &self.config.key);
            premaster
        } else {
            secret
        };
        self.push(16, &body);
        let randoms = [&self.random[..], &self.learned.server_random].concat();
        self.master = if self.learned.extensions.contains_key(&23) {
            prf(&premaster, b"extended master secret", &sha256(&self.transcript), 48)
        } else {
            prf(&premaster, b"master secret", &randoms, 48)
        };
        let cipher = cipher_of(suite);
        let (key, iv) = if cipher == Cipher::ChaCha { (32, 12) } else { (16, 4) };
        let turned = [&self.learned.server_random[..], &self.random].concat();
        let block = prf(&self.master, b"key expansion", &turned, 2 * (key + iv));
        self.keys = Some(Keys {
            cipher,
            key: [block[..key].to_vec(), block[key..2 * key].to_vec()],
            iv: [block[2 * key..2 * key + iv].to_vec(), block[2 * key + iv..].to_vec()],
        });
    }

    fn handle_protected(&mut self, bytes: &[u8]) {
        let Some(keys) = &self.keys else { return };
        let cid = self.config.cid.as_ref().filter(|cid| !cid.is_empty() && self.server_cid.is_some());
        let number = u64::from_be_bytes(bytes[3..11].try_into().unwrap());
        let explicit = if keys.cipher == Cipher::ChaCha { 0 } else { 8 };
        let mut aad = Vec::new();
        let header = match cid {
            Some(cid) => {
                assert_eq!(bytes[0], 25, "a record without the agreed connection id");
                assert_eq!(bytes[11..11 + cid.len()], cid[..]);
                13 + cid.len()
            }
            None => {
                assert_ne!(bytes[0], 25);
                13
            }
        };
        let fragment = &bytes[header..];
        self.nonces.push(fragment[..explicit].to_vec());
        self.numbers.push(number);
        if !self.window.insert(number) {
            return;
        }
        let inner = fragment.len() - explicit - keys.tag();
        match cid {
            Some(cid) => {
                aad.extend([0xff; 8]);
                aad.extend([25, cid.len() as u8, 25, 0xfe, 0xfd]);
                aad.extend(number.to_be_bytes());
                aad.extend(cid);
            }
            None => {
                aad.extend(number.to_be_bytes());
                aad.extend([bytes[0], 0xfe, 0xfd]);
            }
        }
        aad.extend((inner as u16).to_be_bytes());
        let nonce = keys.nonce(1, &fragment[..explicit], number);
        let opened = keys.open(nonce, &aad, fragment[explicit..].to_vec());
        if opened.is_none() && self.is_rebooted {
            return;
        }
        let mut content = opened.expect("the server's records open");
        let mut kind = bytes[0];
        if cid.is_some() {
            while content.last() == Some(&0) {
                content.pop();
            }
            kind = content.pop().expect("an inner content type");
        }
        match kind {
            22 => {
                let expected = self.server_finished.as_ref().expect("a Finished was sent");
                let expected = handshake_message(20, self.expected, expected);
                assert_eq!(content, expected, "the server's Finished");
                self.connected = true;
                self.deadline = None;
            }
            23 => self.received.push(content),
            21 => self.protected_alerts.push((content[0], content[1])),
            other => panic!("type {other}"),
        }
    }
}
