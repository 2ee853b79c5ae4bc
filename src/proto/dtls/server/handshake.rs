//! One handshake, from the hello with a valid cookie to the client's Finished.
//!
//! | state | message | action |
//! |---|---|---|
//! | Hello | the rest of a ClientHello in fragments | negotiates; ServerHello [Certificate] [ServerKeyExchange] [CertificateRequest] ServerHelloDone |
//! | Certificate | Certificate | verifies it; an empty one fails the handshake |
//! | KeyExchange | ClientKeyExchange | derives master secret and keys |
//! | CertificateVerify | CertificateVerify | verifies it over everything before it |
//! | Finished | protected Finished | verifies it; the session begins |
//!
//! Messages are handled strictly in the order of `message_seq`; the expected one follows from the
//! suite. ChangeCipherSpec is ignored: the epoch of an authentic record contains the same
//! information and cannot be forged.

use std::ops::Range;
use std::time::{Duration, Instant};

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::Zeroizing;

use super::certificate::{self, ChainFault, ECDSA_SHA256, ECDSA_SHA384, PeerKey};
use super::flight::{self, Timer};
use super::negotiation::{self as extension, Agreement, CertificateType, Fatal};
use super::outline::Malformed;
use super::protection::Protection;
use super::reassembly::{Message, Reassembly};
use super::schedule::{self, Bound, Master, VERIFY_DATA};
use super::suites::KeyExchange;
use super::wire::{Cid, Reader, Write as _};
use super::{Common, alert};
use crate::proto::dtls::cookie::COOKIE;
use crate::proto::dtls::engine::PeerIdentity;
use crate::proto::dtls::failure::{HandshakeFailure, HandshakeStep};
use crate::proto::dtls::handshake_type::{
    CERTIFICATE, CERTIFICATE_REQUEST, CERTIFICATE_VERIFY, CLIENT_HELLO, CLIENT_KEY_EXCHANGE, FINISHED,
    SERVER_HELLO, SERVER_HELLO_DONE, SERVER_KEY_EXCHANGE,
};
use crate::proto::dtls::record::{self, PLAINTEXT_MAX};

/// Timeout of a handshake.
const LIFETIME: Duration = Duration::from_secs(60);
/// The highest `message_seq` of a hello: at most six messages of the server and four of the client
/// follow.
const MESSAGE_MAX: u16 = u16::MAX - 16;
/// The highest record number of a hello: a handshake sends far fewer records than remain up to
/// 2^48.
const RECORD_MAX: u64 = (1 << 48) - (1 << 24);
/// Bytes of a whole Finished.
pub(super) const FINISHED_LENGTH: usize = record::HANDSHAKE_HEADER + VERIFY_DATA;

/// The expected message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    Hello,
    Certificate,
    KeyExchange,
    CertificateVerify,
    Finished,
}

impl Expect {
    pub fn step(self) -> HandshakeStep {
        match self {
            Expect::Hello => HandshakeStep::Hello,
            Expect::Certificate => HandshakeStep::Certificate,
            Expect::KeyExchange => HandshakeStep::KeyExchange,
            Expect::CertificateVerify => HandshakeStep::CertificateVerify,
            Expect::Finished => HandshakeStep::Finished,
        }
    }
}

/// One handshake; see the module.
pub(super) struct Handshake {
    pub expect: Expect,
    /// The client random, which identifies the attempt.
    pub random: [u8; 32],
    /// `message_seq` of the hello with the cookie.
    pub hello_sequence: u16,
    /// The cookie of the hello; a repeated hello is answered only if it has the same.
    pub cookie: [u8; COOKIE],
    /// Public-key operations charged for it.
    pub work: u32,
    /// The next number of epoch 0.
    pub record_sequence: u64,
    pub messages: Reassembly,
    pub timer: Timer,
    /// When the first fragment of its hello arrived.
    pub begun: Instant,
    /// When it times out.
    pub end: Instant,
    /// The next deadline.
    pub deadline: Instant,
    /// A plaintext alert, and when it takes effect.
    pub alert: Option<(u8, Instant)>,
    /// Set if a Finished could not be decrypted: when it counts as the client's.
    pub suspect: Option<Instant>,
    /// A protected record that arrived before the messages needed for its keys.
    pub early: Option<Box<[u8]>>,
    /// The state after the negotiation.
    pub running: Option<Box<Running>>,
}

/// The state of a handshake after its hello.
pub(super) struct Running {
    pub agreement: Agreement,
    /// The connection id in records to the server, if negotiated.
    pub own_cid: Option<Cid>,
    /// Both randoms, the client's first.
    randoms: [u8; 64],
    /// The transcript: all messages so far, unfragmented.
    transcript: Vec<u8>,
    flight: Range<usize>,
    next_message: u16,
    ephemeral: Option<PrivateKey>,
    peer_key: Option<PeerKey>,
    /// The identity, if known yet.
    pub identity: Option<PeerIdentity>,
    /// Whether there is a key for that identity.
    pub is_known: bool,
    master: Master,
    pub protection: Option<Protection>,
}

impl Handshake {
    pub fn new(
        now: Instant,
        random: [u8; 32],
        cookie: [u8; COOKIE],
        hello_sequence: u16,
        record_sequence: u64,
    ) -> Handshake {
        Handshake {
            expect: Expect::Hello,
            random,
            hello_sequence,
            cookie,
            work: 0,
            record_sequence,
            messages: Reassembly::new(hello_sequence),
            timer: Timer::start(now),
            begun: now,
            end: now + LIFETIME,
            deadline: now + LIFETIME,
            alert: None,
            suspect: None,
            early: None,
            running: None,
        }
    }

    /// Whether the numbers of a hello leave room for those of the server, which continue from them
    /// and must not wrap.
    pub fn fits(hello_sequence: u16, record_sequence: u64) -> bool {
        hello_sequence <= MESSAGE_MAX && record_sequence <= RECORD_MAX
    }

    /// The hello is complete and negotiated: builds the server's flight.
    pub fn run(
        &mut self,
        now: Instant,
        hello: &Message,
        agreement: Agreement,
        common: &mut Common,
    ) -> Result<(), Fatal> {
        let mut randoms = [0; 64];
        randoms[..32].copy_from_slice(&self.random);
        common.chance.fill(&mut randoms[32..]);
        let own_cid = agreement.peer_cid.is_some().then(|| common.chance.array());
        let mut running = Running {
            own_cid,
            randoms,
            transcript: record::handshake_message(CLIENT_HELLO, hello.sequence, &hello.body),
            flight: 0..0,
            next_message: hello.sequence,
            ephemeral: None,
            peer_key: None,
            identity: None,
            is_known: false,
            master: Master::new([0; 48]),
            protection: None,
            agreement,
        };
        running.write_flight(common)?;
        self.expect = match running.agreement.suite.exchange {
            KeyExchange::EcdheEcdsa => Expect::Certificate,
            _ => Expect::KeyExchange,
        };
        self.timer = Timer::start(now);
        self.running = Some(Box::new(running));
        Ok(())
    }

    /// Sends or retransmits the server's flight in datagrams.
    pub fn transmit(&mut self, mtu: usize, datagram: impl FnMut(&[u8])) {
        let Some(running) = &self.running else { return };
        let limit = running.limit();
        let messages = &running.transcript[running.flight.clone()];
        flight::pack(messages, self.timer.mtu(mtu), limit, &mut self.record_sequence, datagram);
    }

    /// Handles the next message of the client's flight.
    pub fn take(&mut self, message: &Message, common: &mut Common) -> Result<(), Fatal> {
        let expect = self.expect;
        let Some(running) = &mut self.running else { return Err(unexpected()) };
        // The client has received the flight, so the client retransmits from here on.
        self.timer.stop();
        self.alert = None;
        self.expect = match (expect, message.message_type) {
            (Expect::Certificate, CERTIFICATE) => {
                running.take_certificate(&message.body, common)?;
                Expect::KeyExchange
            }
            (Expect::KeyExchange, CLIENT_KEY_EXCHANGE) => {
                running.take_key_exchange(message, common)?;
                match running.peer_key {
                    Some(_) => Expect::CertificateVerify,
                    None => Expect::Finished,
                }
            }
            (Expect::CertificateVerify, CERTIFICATE_VERIFY) => {
                running.take_certificate_verify(&message.body)?;
                Expect::Finished
            }
            _ => return Err(unexpected()),
        };
        if message.message_type != CLIENT_KEY_EXCHANGE {
            running.note(message);
        }
        Ok(())
    }

    /// Verifies the client's decrypted Finished; returns the server's Finished if it is correct.
    pub fn finish(&mut self, message: &[u8]) -> Option<[u8; FINISHED_LENGTH]> {
        let sequence = self.messages.expected();
        let running = self.running.as_mut().filter(|_| self.expect == Expect::Finished)?;
        let expected = schedule::verify_data(&running.master, b"client finished", &running.transcript)?;
        let expected = record::handshake_message(FINISHED, sequence, &expected);
        verify_slices_are_equal(&expected, message).ok()?;
        running.transcript.extend(message);
        let ours = schedule::verify_data(&running.master, b"server finished", &running.transcript)?;
        let ours = record::handshake_message(FINISHED, running.next_message, &ours);
        ours.try_into().ok()
    }

    /// The next deadline.
    pub fn next_deadline(&self) -> Instant {
        let alert = self.alert.map(|(_, believed)| believed);
        let times = [alert, self.suspect, self.timer.deadline().filter(|_| self.running.is_some())];
        times.into_iter().flatten().fold(self.end, Instant::min)
    }

    /// The failure for a timeout.
    pub fn timed_out(&self) -> HandshakeFailure {
        HandshakeFailure::TimedOut { step: self.expect.step(), identity: self.claim().map(Box::from) }
    }

    /// The failure for an alert of the client.
    pub fn gave_up(&self, description: u8) -> HandshakeFailure {
        let identity = self.claim().map(Box::from);
        HandshakeFailure::PeerAlert { description, step: self.expect.step(), identity }
    }

    /// The failure for a wrong Finished.
    pub fn wrong_key(&self) -> HandshakeFailure {
        match self.claim() {
            Some(claim) if self.is_known() => HandshakeFailure::WrongKey(claim.into()),
            Some(claim) => HandshakeFailure::UnknownIdentity(claim.into()),
            None => HandshakeFailure::Protocol("its Finished is wrong".into()),
        }
    }

    /// The claimed PSK identity.
    pub fn claim(&self) -> Option<&[u8]> {
        match self.running.as_ref()?.identity.as_ref()? {
            PeerIdentity::Psk(identity) => Some(identity),
            _ => None,
        }
    }

    pub fn is_known(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.is_known)
    }
}

fn unexpected() -> Fatal {
    Fatal::protocol(alert::UNEXPECTED_MESSAGE, "a message out of order")
}

fn undecodable(what: &str) -> Fatal {
    Fatal::protocol(alert::DECODE_ERROR, what)
}

fn fault() -> Fatal {
    Fatal { alert: alert::INTERNAL_ERROR, failure: HandshakeFailure::Fault }
}

impl Running {
    /// Most plaintext in one sent record.
    pub fn limit(&self) -> usize {
        self.agreement.max_fragment_length.map_or(PLAINTEXT_MAX, |(_, limit)| limit)
    }

    fn note(&mut self, message: &Message) {
        let bytes = record::handshake_message(message.message_type, message.sequence, &message.body);
        self.transcript.extend(bytes);
    }

    fn write(&mut self, message_type: u8, body: &[u8]) {
        self.transcript.extend(record::handshake_message(message_type, self.next_message, body));
        self.next_message += 1;
    }

    fn write_flight(&mut self, common: &mut Common) -> Result<(), Fatal> {
        let start = self.transcript.len();
        let hello = self.server_hello();
        self.write(SERVER_HELLO, &hello);
        let exchange = self.agreement.suite.exchange;
        let key = common.certificates.key.clone().filter(|_| exchange == KeyExchange::EcdheEcdsa);
        if let Some(key) = &key {
            let mut body = Vec::new();
            match self.agreement.server_certificate {
                CertificateType::RawPublicKey => body.vector24(key.public_key()),
                CertificateType::X509 => {
                    let mut list = Vec::new();
                    key.chain().iter().for_each(|certificate| list.vector24(certificate));
                    body.vector24(&list);
                }
            }
            self.write(CERTIFICATE, &body);
        }
        if exchange.has_ecdhe() {
            let mut body = Vec::new();
            if exchange.has_psk() {
                body.vector16(&[]); // psk_identity_hint
            }
            let parameters = self.ecdhe_parameters()?;
            body.extend(&parameters);
            if let Some(key) = &key {
                // RFC 8422 §5.4: over both randoms and the parameters.
                let signature = key.sign(&[&self.randoms[..], &parameters].concat()).ok_or_else(fault)?;
                body.extend(key.algorithm().to_be_bytes());
                body.vector16(&signature);
            }
            self.write(SERVER_KEY_EXCHANGE, &body);
        }
        if key.is_some() {
            let mut body = Vec::new();
            body.vector8(&[64]); // ecdsa_sign
            body.vector16(&[ECDSA_SHA256.to_be_bytes(), ECDSA_SHA384.to_be_bytes()].concat());
            body.vector16(&[]); // any authority: names would only cost the device bytes
            self.write(CERTIFICATE_REQUEST, &body);
        }
        self.write(SERVER_HELLO_DONE, &[]);
        self.flight = start..self.transcript.len();
        Ok(())
    }

    fn server_hello(&self) -> Vec<u8> {
        let agreement = &self.agreement;
        let mut extensions = Vec::new();
        let mut extension = |number: u16, content: &[u8]| {
            extensions.extend(number.to_be_bytes());
            extensions.vector16(content);
        };
        if agreement.renegotiation_info {
            extension(extension::RENEGOTIATION_INFO, &[0]);
        }
        if agreement.extended_master_secret {
            extension(extension::EXTENDED_MASTER_SECRET, &[]);
        }
        if let Some((code, _)) = agreement.max_fragment_length {
            extension(extension::MAX_FRAGMENT_LENGTH, &[code]);
        }
        if agreement.point_formats {
            extension(extension::EC_POINT_FORMATS, &[1, 0]);
        }
        if let Some(cid) = &self.own_cid {
            let mut content = Vec::new();
            content.vector8(cid);
            extension(extension::CONNECTION_ID, &content);
        }
        if agreement.names_client_type {
            extension(extension::CLIENT_CERTIFICATE_TYPE, &[agreement.client_certificate as u8]);
        }
        if agreement.names_server_type {
            extension(extension::SERVER_CERTIFICATE_TYPE, &[agreement.server_certificate as u8]);
        }
        let mut body = record::VERSION_1_2.to_be_bytes().to_vec();
        body.extend(&self.randoms[32..]);
        body.vector8(&[]); // no session id: nothing is resumed
        body.extend(agreement.suite.number.to_be_bytes());
        body.push(0); // no compression
        if !extensions.is_empty() {
            body.vector16(&extensions);
        }
        body
    }

    fn algorithm(&self) -> &'static agreement::Algorithm {
        match self.agreement.curve {
            certificate::Curve::P256 => &agreement::ECDH_P256,
            certificate::Curve::P384 => &agreement::ECDH_P384,
        }
    }

    /// ServerECDHParams with a new key, which the library generates.
    fn ecdhe_parameters(&mut self) -> Result<Vec<u8>, Fatal> {
        let key = PrivateKey::generate(self.algorithm()).map_err(|_| fault())?;
        let point = key.compute_public_key().map_err(|_| fault())?;
        let mut parameters = vec![3]; // named_curve
        parameters.extend((self.agreement.curve as u16).to_be_bytes());
        parameters.vector8(point.as_ref());
        self.ephemeral = Some(key);
        Ok(parameters)
    }

    fn take_certificate(&mut self, body: &[u8], common: &mut Common) -> Result<(), Fatal> {
        let mut reader = Reader(body);
        let content = reader.vector24().ok_or_else(|| undecodable("its Certificate cannot be read"))?;
        reader.end().ok_or_else(|| undecodable("its Certificate cannot be read"))?;
        let refused =
            |alert: u8, why: String| Fatal { alert, failure: HandshakeFailure::Certificate(why.into()) };
        if content.is_empty() {
            return Err(refused(alert::HANDSHAKE_FAILURE, "the client has none".into()));
        }
        if self.agreement.client_certificate == CertificateType::RawPublicKey {
            let key_hash = schedule::hash(content);
            // Neither bad_certificate nor certificate_unknown with raw public keys (RFC 7925 §6).
            if !certificate::is_readable(content) {
                return Err(refused(alert::DECODE_ERROR, "the raw public key cannot be read".into()));
            }
            if !common.certificates.trust.knows(&key_hash) {
                let shown: String = key_hash.iter().map(|byte| format!("{byte:02x}")).collect();
                return Err(refused(alert::HANDSHAKE_FAILURE, format!("unknown raw public key {shown}")));
            }
            self.peer_key = Some(PeerKey::Raw(content.to_vec()));
            self.identity = Some(PeerIdentity::RawPublicKey(key_hash.into()));
        } else {
            let mut list = Reader(content);
            let mut chain = Vec::new();
            while list.end().is_none() {
                chain.push(list.vector24().ok_or_else(|| undecodable("its Certificate cannot be read"))?);
            }
            let Common { certificates, clock, paths, .. } = &mut *common;
            let mut identity = certificates.trust.verify(&chain, *clock, paths).map_err(|fault| {
                let why = certificate::refusal(&fault, chain.first().copied());
                refused(certificate_alert(&fault), why)
            })?;
            self.peer_key = chain.first().map(|first| PeerKey::Certificate(first.to_vec()));
            identity.issuer = common.issuers.share(&identity.issuer);
            self.identity = Some(PeerIdentity::Certificate(identity.into()));
        }
        self.is_known = true;
        Ok(())
    }

    fn take_key_exchange(&mut self, message: &Message, common: &mut Common) -> Result<(), Fatal> {
        let unreadable = || undecodable("its key exchange cannot be read");
        let exchange = self.agreement.suite.exchange;
        let mut reader = Reader(&message.body);
        let identity = match exchange.has_psk() {
            true => Some(reader.vector16().ok_or_else(unreadable)?),
            false => None,
        };
        let secret = match exchange.has_ecdhe() {
            true => {
                let point = reader.vector8().ok_or_else(unreadable)?;
                Some(self.agree(point)?)
            }
            false => None,
        };
        reader.end().ok_or_else(unreadable)?;
        let premaster = match (identity, secret) {
            (Some(identity), secret) => {
                // For an unknown identity the handshake continues with a decoy key of the length of
                // a real key, and fails at the same step as with a wrong key.
                let decoy = decoy(common, identity);
                let found = common.keyring.key(identity);
                self.is_known = found.is_some();
                self.identity = Some(PeerIdentity::Psk(identity.into()));
                schedule::psk_premaster(secret.as_deref().map(Vec::as_slice), found.unwrap_or(&decoy))
            }
            (None, Some(secret)) => secret,
            (None, None) => return Err(fault()),
        };
        self.note(message);
        let bound = match self.agreement.extended_master_secret {
            true => Bound::Handshake(&self.transcript),
            false => Bound::Randoms(&self.randoms),
        };
        self.master = schedule::master_secret(&premaster, bound).ok_or_else(fault)?;
        let keys =
            schedule::keys(&self.master, self.agreement.suite.aead, &self.randoms).ok_or_else(fault)?;
        self.protection = Some(Protection::new(keys, &mut common.chance));
        Ok(())
    }

    fn agree(&mut self, point: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fatal> {
        let key = self.ephemeral.take().ok_or_else(fault)?;
        let illegal = || Fatal::protocol(alert::ILLEGAL_PARAMETER, "its point is not on the curve");
        if point.first() != Some(&4) || point.len() != self.agreement.curve.point_length() {
            return Err(illegal());
        }
        let theirs = UnparsedPublicKey::new(self.algorithm(), point);
        agreement::agree(&key, theirs, illegal(), |secret| Ok(Zeroizing::new(secret.to_vec())))
    }

    fn take_certificate_verify(&mut self, body: &[u8]) -> Result<(), Fatal> {
        let mut reader = Reader(body);
        let read = (reader.u16(), reader.vector16());
        let (Some(algorithm), Some(signature), Some(())) = (read.0, read.1, reader.end()) else {
            return Err(undecodable("its CertificateVerify cannot be read"));
        };
        if ![ECDSA_SHA256, ECDSA_SHA384].contains(&algorithm) {
            return Err(Fatal::protocol(alert::ILLEGAL_PARAMETER, "a signature algorithm not asked for"));
        }
        let key = self.peer_key.as_ref().ok_or_else(fault)?;
        if !certificate::verify(key, algorithm, &self.transcript, signature) {
            let failure = HandshakeFailure::Certificate("its owner's signature is wrong".into());
            return Err(Fatal { alert: alert::DECRYPT_ERROR, failure });
        }
        Ok(())
    }
}

/// The decoy key of an unknown identity: always the same, with the length of a configured key. It
/// is 32 secret bytes, repeated or cut, so that it costs one HMAC.
fn decoy(common: &Common, identity: &[u8]) -> Zeroizing<Vec<u8>> {
    let seed = super::chance::derive(&common.decoy, identity);
    let drawn = seed.first_chunk().map_or(0, |drawn| u64::from_be_bytes(*drawn));
    let mut key = Zeroizing::new(vec![0; common.keyring.length_of_any(drawn)]);
    key.iter_mut().zip(seed.iter().cycle()).for_each(|(byte, secret)| *byte = *secret);
    key
}

fn certificate_alert(fault: &ChainFault) -> u8 {
    use webpki::Error;
    let error = match fault {
        ChainFault::Malformed(Malformed::WrongUsage(_)) => return alert::UNSUPPORTED_CERTIFICATE,
        ChainFault::Malformed(_) => return alert::BAD_CERTIFICATE,
        ChainFault::Path(error) => error,
    };
    match error {
        Error::CertExpired { .. } | Error::CertNotValidYet { .. } => alert::CERTIFICATE_EXPIRED,
        Error::CertRevoked => alert::CERTIFICATE_REVOKED,
        Error::CrlExpired { .. } | Error::UnknownRevocationStatus => alert::CERTIFICATE_UNKNOWN,
        Error::UnknownIssuer => alert::UNKNOWN_CA,
        Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | Error::RequiredEkuNotFoundContext(_) => alert::UNSUPPORTED_CERTIFICATE,
        _ => alert::BAD_CERTIFICATE,
    }
}
