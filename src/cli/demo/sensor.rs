//! A simulated sensor: a real DTLS-PSK handshake over UDP, then confirmable CoAP requests.
//!
//! It does not use the gateway's CoAP code, so that a fault there is not hidden by the same fault
//! here. It is used by the demo, the power-cut tests, and the load bench.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dimpl::{Config, Dtls, Output, PskResolver};
use tokio::net::UdpSocket;
use tokio::time::timeout_at;

/// ACK_TIMEOUT × the middle of its random factor (RFC 7252 §4.8).
const FIRST_TIMEOUT: Duration = Duration::from_millis(2_500);
/// MAX_RETRANSMIT (RFC 7252 §4.8).
const RETRANSMIT: u32 = 4;
/// Timeout of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(20);

/// Request code 0.02 (RFC 7252 §12.1.1).
pub const POST: u8 = 2;
/// Request code 0.03.
pub const PUT: u8 = 3;

/// Why a sensor failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SensorError {
    /// The system refused a socket.
    Socket,
    /// No session within 20 s, or the session failed.
    Handshake,
    /// No response after four retransmissions.
    NoAnswer,
}

/// A response of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The response code as one byte: class × 32 + detail; 0x44 is 2.04.
    pub code: u8,
    /// The Max-Age option in seconds, if present.
    pub max_age: Option<u32>,
}

impl Answer {
    /// Whether the gateway has accepted the reading.
    pub fn is_success(&self) -> bool {
        self.code >> 5 == 2
    }
}

/// A device with a session.
pub struct Sensor {
    socket: UdpSocket,
    dtls: Dtls,
    message_id: u16,
    token: u32,
    scratch: Vec<u8>,
    datagram: Vec<u8>,
    plaintext: Vec<Vec<u8>>,
}

struct Key(Vec<u8>);

impl PskResolver for Key {
    fn resolve(&self, _identity: &[u8]) -> Option<Vec<u8>> {
        Some(self.0.clone())
    }
}

impl Sensor {
    /// Performs a handshake with `gateway` as `identity`. `seed` varies Message IDs and tokens.
    ///
    /// # Errors
    /// [`SensorError::Socket`], [`SensorError::Handshake`].
    pub async fn connect(
        gateway: SocketAddr,
        identity: &str,
        key: &[u8],
        seed: u32,
    ) -> Result<Sensor, SensorError> {
        let any: SocketAddr = if gateway.is_ipv4() {
            (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = UdpSocket::bind(any).await.map_err(|_| SensorError::Socket)?;
        socket.connect(gateway).await.map_err(|_| SensorError::Socket)?;
        let config = Config::builder()
            .with_psk_client(identity.as_bytes().to_vec(), Arc::new(Key(key.to_vec())))
            .build()
            .map_err(|_| SensorError::Handshake)?;
        let mut dtls = Dtls::new_12_psk(Arc::new(config), Instant::now());
        dtls.set_active(true);
        let mut sensor = Sensor {
            socket,
            dtls,
            message_id: seed as u16,
            token: seed.wrapping_mul(0x9E37_79B9),
            scratch: vec![0; 64 * 1024],
            datagram: vec![0; 4096],
            plaintext: Vec::new(),
        };
        sensor.shake_hands().await?;
        Ok(sensor)
    }

    async fn shake_hands(&mut self) -> Result<(), SensorError> {
        let give_up = Instant::now() + HANDSHAKE;
        self.dtls.handle_timeout(Instant::now()).map_err(|_| SensorError::Handshake)?;
        loop {
            let (connected, wake) = self.drain().await;
            if connected {
                return Ok(());
            }
            let until = wake.map_or(give_up, |wake| wake.min(give_up));
            self.receive(until).await.map_err(|()| SensorError::Handshake)?;
            if Instant::now() >= give_up {
                return Err(SensorError::Handshake);
            }
        }
    }

    /// Sends the pending DTLS records and stores decrypted data.
    async fn drain(&mut self) -> (bool, Option<Instant>) {
        let mut connected = false;
        loop {
            match self.dtls.poll_output(&mut self.scratch) {
                Output::Packet(bytes) => {
                    let _ = self.socket.send(bytes).await;
                }
                Output::ApplicationData(bytes) => self.plaintext.push(bytes.to_vec()),
                Output::Connected => connected = true,
                Output::Timeout(at) => return (connected, Some(at)),
                Output::BufferTooSmall { needed } => self.scratch.resize(needed, 0),
                _ => {}
            }
        }
    }

    /// Receives one datagram, or waits until `until`. `Err` if the session failed.
    async fn receive(&mut self, until: Instant) -> Result<(), ()> {
        let received = timeout_at(until.into(), self.socket.recv(&mut self.datagram)).await;
        self.dtls.handle_timeout(Instant::now()).map_err(drop)?;
        if let Ok(Ok(length)) = received {
            self.dtls.handle_packet(&self.datagram[..length]).map_err(drop)?;
        }
        Ok(())
    }

    /// Sends `payload` to `path` (segments joined by `/`) with a confirmable POST, and waits for
    /// the response.
    ///
    /// # Errors
    /// [`SensorError::NoAnswer`].
    pub async fn post(
        &mut self,
        path: &str,
        content_format: u16,
        payload: &[u8],
    ) -> Result<Answer, SensorError> {
        self.request(POST, path, content_format, payload).await
    }

    /// Sends a confirmable request with any method code and waits for the response. Retransmits as
    /// in RFC 7252 §4.2; acknowledges a separate response.
    ///
    /// # Errors
    /// [`SensorError::NoAnswer`].
    pub async fn request(
        &mut self,
        method: u8,
        path: &str,
        content_format: u16,
        payload: &[u8],
    ) -> Result<Answer, SensorError> {
        self.message_id = self.message_id.wrapping_add(1);
        self.token = self.token.wrapping_add(1);
        let (message_id, token) = (self.message_id, self.token);
        let request = encode(method, message_id, token, path, content_format, payload);
        let mut timeout = FIRST_TIMEOUT;
        let mut acknowledged = false;
        for attempt in 0..=RETRANSMIT {
            if attempt == 0 || !acknowledged {
                self.send(&request).await?;
            }
            let until = Instant::now() + timeout;
            timeout *= 2;
            while Instant::now() < until {
                self.receive(until).await.map_err(|()| SensorError::NoAnswer)?;
                self.drain().await;
                for message in std::mem::take(&mut self.plaintext) {
                    let Some(message) = Message::parse(&message) else { continue };
                    if message.confirmable {
                        self.send(&[0x60, 0, (message.id >> 8) as u8, message.id as u8]).await?;
                    }
                    if message.code == 0 && message.id == message_id {
                        acknowledged = true;
                    }
                    if message.code != 0 && message.token == token.to_be_bytes() {
                        return Ok(Answer { code: message.code, max_age: message.max_age });
                    }
                }
            }
        }
        Err(SensorError::NoAnswer)
    }

    async fn send(&mut self, message: &[u8]) -> Result<(), SensorError> {
        self.dtls.send_application_data(message).map_err(|_| SensorError::NoAnswer)?;
        self.drain().await;
        Ok(())
    }

    /// Closes the session with close_notify.
    pub async fn close(mut self) {
        if self.dtls.close().is_ok() {
            self.drain().await;
        }
    }
}

/// Encodes a confirmable request (RFC 7252 §3).
fn encode(
    method: u8,
    message_id: u16,
    token: u32,
    path: &str,
    content_format: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut out = vec![0x44, method];
    out.extend_from_slice(&message_id.to_be_bytes());
    out.extend_from_slice(&token.to_be_bytes());
    let mut number = 0;
    for segment in path.split('/') {
        option(&mut out, &mut number, 11, segment.as_bytes());
    }
    let format = content_format.to_be_bytes();
    let skip = format.iter().take_while(|b| **b == 0).count();
    option(&mut out, &mut number, 12, &format[skip..]);
    if !payload.is_empty() {
        out.push(0xFF);
        out.extend_from_slice(payload);
    }
    out
}

fn option(out: &mut Vec<u8>, last: &mut u16, number: u16, value: &[u8]) {
    let delta = (number - *last) as u8;
    *last = number;
    // Deltas here stay below 13; a length of 13 and more takes one extension byte (up to 268).
    match value.len() {
        length @ 0..=12 => out.push(delta << 4 | length as u8),
        length => out.extend_from_slice(&[delta << 4 | 13, (length - 13) as u8]),
    }
    out.extend_from_slice(value);
}

struct Message {
    confirmable: bool,
    code: u8,
    id: u16,
    token: Vec<u8>,
    max_age: Option<u32>,
}

impl Message {
    fn parse(bytes: &[u8]) -> Option<Message> {
        let (&[first, code, high, low], mut rest) = bytes.split_first_chunk::<4>()?;
        let token_length = usize::from(first & 15);
        let token = rest.get(..token_length)?.to_vec();
        rest = &rest[token_length..];
        let mut number = 0u32;
        let mut max_age = None;
        while let Some((&head, tail)) = rest.split_first() {
            if head == 0xFF {
                break;
            }
            rest = tail;
            let delta = extended(head >> 4, &mut rest)?;
            let length = extended(head & 15, &mut rest)? as usize;
            number += delta;
            let value = rest.get(..length)?;
            rest = &rest[length..];
            if number == 14 {
                max_age = Some(value.iter().fold(0, |sum, b| sum << 8 | u32::from(*b)));
            }
        }
        let id = u16::from_be_bytes([high, low]);
        Some(Message { confirmable: first >> 4 & 3 == 0, code, id, token, max_age })
    }
}

fn extended(nibble: u8, rest: &mut &[u8]) -> Option<u32> {
    let (value, used) = match nibble {
        13 => (u32::from(*rest.first()?) + 13, 1),
        14 => (u32::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])) + 269, 2),
        15 => return None,
        small => (u32::from(small), 0),
    };
    *rest = &rest[used..];
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_standard_says() {
        let bytes = encode(POST, 0x1234, 0xA1B2_C3D4, "t/env", 50, b"1");
        assert_eq!(bytes, b"\x44\x02\x12\x34\xa1\xb2\xc3\xd4\xb1t\x03env\x11\x32\xff1");
    }

    #[test]
    fn an_answer_is_read_back() {
        let message = Message::parse(b"\x64\x9d\x12\x34\xa1\xb2\xc3\xd4\xd1\x01\x3c").unwrap();
        assert_eq!((message.code, message.max_age, message.confirmable), (0x9D, Some(60), false));
    }
}
