//! A DTLS-PSK client in virtual time, and ClientHellos put together by hand.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use dimpl::{Config, Dtls, Output, PskResolver};

struct Key(Vec<u8>);

impl PskResolver for Key {
    fn resolve(&self, _identity: &[u8]) -> Option<Vec<u8>> {
        Some(self.0.clone())
    }
}

/// A client of one engine.
pub struct Client {
    dtls: Dtls,
    config: Arc<Config>,
    pub connected: bool,
    pub closed: bool,
    pub received: Vec<Vec<u8>>,
    pub deadline: Option<Instant>,
    /// The first datagrams it sent since it was made or rebooted.
    pub hello: Vec<u8>,
    pub hello_with_cookie: Vec<u8>,
}

impl Client {
    pub fn new(now: Instant, identity: &str, key: &str) -> Client {
        let config = config(identity, key);
        Client {
            dtls: fresh(&config, now),
            config,
            connected: false,
            closed: false,
            received: Vec::new(),
            deadline: None,
            hello: Vec::new(),
            hello_with_cookie: Vec::new(),
        }
    }

    /// Forgets everything, as a device that lost its power.
    pub fn reboot(&mut self, now: Instant) {
        self.dtls = fresh(&self.config, now);
        (self.connected, self.closed, self.deadline) = (false, false, None);
        (self.hello, self.hello_with_cookie) = (Vec::new(), Vec::new());
    }

    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Vec<Vec<u8>> {
        let _ = self.dtls.handle_timeout(now);
        let _ = self.dtls.handle_packet(datagram);
        self.drain()
    }

    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Vec<u8>> {
        if self.dtls.handle_timeout(now).is_err() {
            self.closed = true;
        }
        self.drain()
    }

    pub fn send(&mut self, data: &[u8]) -> Vec<Vec<u8>> {
        self.dtls.send_application_data(data).expect("an open session");
        self.drain()
    }

    pub fn close(&mut self) -> Vec<Vec<u8>> {
        self.dtls.close().expect("an open session");
        self.drain()
    }

    fn drain(&mut self) -> Vec<Vec<u8>> {
        let mut scratch = [0; 2_048];
        let mut out = Vec::new();
        loop {
            match self.dtls.poll_output(&mut scratch) {
                Output::Packet(packet) => {
                    if self.hello.is_empty() {
                        self.hello = packet.to_vec();
                    } else if self.hello_with_cookie.is_empty() && packet.len() > self.hello.len() {
                        self.hello_with_cookie = packet.to_vec();
                    }
                    out.push(packet.to_vec());
                }
                Output::Connected => self.connected = true,
                Output::ApplicationData(data) => self.received.push(data.to_vec()),
                Output::CloseNotify => self.closed = true,
                Output::Timeout(deadline) => {
                    self.deadline = (!self.closed).then_some(deadline);
                    return out;
                }
                _ => {}
            }
        }
    }
}

thread_local! {
    static CONFIGS: RefCell<HashMap<(String, String), Arc<Config>>> = RefCell::default();
}

/// Building one runs dimpl's self test, which takes longer than a handshake.
fn config(identity: &str, key: &str) -> Arc<Config> {
    let make = || {
        let config = Config::builder()
            .with_psk_client(identity.into(), Arc::new(Key(key.into())))
            .dtls13_cipher_suites(&[])
            .build();
        Arc::new(config.expect("a client configuration"))
    };
    CONFIGS.with_borrow_mut(|known| known.entry((identity.into(), key.into())).or_insert_with(make).clone())
}

fn fresh(config: &Arc<Config>, now: Instant) -> Dtls {
    let mut dtls = Dtls::new_12_psk(config.clone(), now);
    dtls.set_active(true);
    dtls
}

/// One record.
pub fn record(content_type: u8, epoch: u16, sequence: u64, fragment: &[u8]) -> Vec<u8> {
    let mut bytes = vec![content_type, 0xfe, 0xfd];
    bytes.extend(epoch.to_be_bytes());
    bytes.extend(&sequence.to_be_bytes()[2..]);
    bytes.extend((fragment.len() as u16).to_be_bytes());
    bytes.extend(fragment);
    bytes
}

/// One whole handshake message.
pub fn message(message_type: u8, message_sequence: u16, body: &[u8]) -> Vec<u8> {
    let length = &(body.len() as u32).to_be_bytes()[1..];
    let mut bytes = vec![message_type];
    bytes.extend(length);
    bytes.extend(message_sequence.to_be_bytes());
    bytes.extend([0; 3]);
    bytes.extend(length);
    bytes.extend(body);
    bytes
}

/// What a hand-made ClientHello says.
#[derive(Clone)]
pub struct Hello {
    pub version: u16,
    pub random: [u8; 32],
    pub cookie: Vec<u8>,
    pub suites: Vec<u16>,
    pub extended_master_secret: bool,
}

impl Hello {
    pub fn new(random: u8) -> Hello {
        Hello {
            version: 0xfefd,
            random: [random; 32],
            cookie: Vec::new(),
            suites: vec![0xc0a8],
            extended_master_secret: true,
        }
    }

    pub fn body(&self) -> Vec<u8> {
        let mut body = self.version.to_be_bytes().to_vec();
        body.extend(self.random);
        body.push(0);
        body.push(self.cookie.len() as u8);
        body.extend(&self.cookie);
        body.extend((self.suites.len() as u16 * 2).to_be_bytes());
        body.extend(self.suites.iter().flat_map(|suite| suite.to_be_bytes()));
        body.extend([1, 0]);
        if self.extended_master_secret {
            body.extend([0, 4, 0, 23, 0, 0]);
        }
        body
    }

    /// The datagram, as the client's n-th message.
    pub fn datagram(&self, message_sequence: u16) -> Vec<u8> {
        record(22, 0, message_sequence.into(), &message(1, message_sequence, &self.body()))
    }

    /// The same hello with the cookie of a HelloVerifyRequest.
    pub fn with_cookie_of(&self, hello_verify_request: &[u8]) -> Hello {
        let body = &hello_verify_request[13 + 12..];
        assert_eq!(hello_verify_request[13], 3, "a HelloVerifyRequest");
        Hello { cookie: body[3..3 + usize::from(body[2])].to_vec(), ..self.clone() }
    }
}
