//! A client of MQTT 3.1.1, as small as the load needs it.

use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Of every client that is known.
pub const PASSWORD: &str = "a password of the bench";
/// What is published, and where.
pub const PAYLOAD: &[u8] = b"{\"t\":21.5,\"rh\":40.25,\"battery\":3.01,\"n\":1}";
/// See [`PAYLOAD`].
pub const TOPIC: &str = "t/env";

/// CONNECT of `d{number}` with a keep-alive of 600 s.
pub fn connect(number: usize, password: &str) -> Vec<u8> {
    let name = format!("d{number}");
    let mut body = b"\0\x04MQTT\x04\xC2\x02\x58".to_vec();
    for text in [name.as_str(), name.as_str(), password] {
        body.extend_from_slice(&(text.len() as u16).to_be_bytes());
        body.extend_from_slice(text.as_bytes());
    }
    let mut packet = vec![0x10, body.len() as u8];
    packet.extend_from_slice(&body);
    packet
}

/// PUBLISH of QoS 1.
pub fn publish(packet_id: u16) -> Vec<u8> {
    let length = 2 + TOPIC.len() + 2 + PAYLOAD.len();
    let mut packet = vec![0x32, length as u8, 0, TOPIC.len() as u8];
    packet.extend_from_slice(TOPIC.as_bytes());
    packet.extend_from_slice(&packet_id.to_be_bytes());
    packet.extend_from_slice(PAYLOAD);
    packet
}

/// That of the publish of this count, from 1 on; never 0.
fn packet_id(count: usize) -> u16 {
    ((count - 1) % usize::from(u16::MAX)) as u16 + 1
}

/// A client that is let in.
pub struct Client<S>(pub S);

impl Client<TcpStream> {
    /// Connects as `d{number}` without TLS.
    pub async fn plain(address: std::net::SocketAddr, number: usize) -> Client<TcpStream> {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        Client::open(stream, number).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Connects as `d{number}`.
    pub async fn open(mut stream: S, number: usize) -> Client<S> {
        stream.write_all(&connect(number, PASSWORD)).await.expect("CONNECT");
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.expect("CONNACK");
        assert_eq!(answer, [0x20, 2, 0, 0], "d{number} is let in");
        Client(stream)
    }

    async fn acknowledged(&mut self) {
        let mut answer = [0; 4];
        self.0.read_exact(&mut answer).await.expect("PUBACK");
        assert_eq!(answer[..2], [0x40, 2], "a PUBACK");
    }

    /// Publishes `count` messages with at most `window` unanswered, one each `gap`.
    pub async fn publish(&mut self, count: usize, window: usize, gap: Option<Duration>) {
        let mut next = tokio::time::Instant::now();
        let (mut sent, mut answered) = (0, 0);
        while answered < count {
            if sent == count || sent - answered == window {
                self.acknowledged().await;
                answered += 1;
                continue;
            }
            if let Some(gap) = gap {
                tokio::time::sleep_until(next).await;
                next += gap;
            }
            sent += 1;
            self.0.write_all(&publish(packet_id(sent))).await.expect("PUBLISH");
        }
    }

    /// Publishes `count` messages, one each `gap`; how long each waited for its PUBACK.
    pub async fn timed(&mut self, count: usize, gap: Duration) -> Vec<Duration> {
        let mut next = tokio::time::Instant::now();
        let mut waited = Vec::with_capacity(count);
        for number in 1..=count {
            tokio::time::sleep_until(next).await;
            next += gap;
            let sent = Instant::now();
            self.0.write_all(&publish(packet_id(number))).await.expect("PUBLISH");
            self.acknowledged().await;
            waited.push(sent.elapsed());
        }
        waited
    }
}
