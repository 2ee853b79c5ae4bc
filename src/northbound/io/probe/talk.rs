//! One connection to the broker, driven step by step.

use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::northbound::reason_code;
use crate::northbound::session::{Event, Limits, Session};
use crate::northbound::wire::{self, Publish, Version};

/// What the echo may take.
const ECHO_WITHIN: Duration = Duration::from_secs(10);

/// What the broker may take to answer an UNSUBSCRIBE, which nothing depends on.
const UNSUBACK_WITHIN: Duration = Duration::from_secs(3);

/// Any stream of bytes.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Wire for S {}

/// A session and its stream, driven until something happens.
pub(super) struct Talk {
    pub session: Session,
    pub stream: Box<dyn Wire>,
    pub version: Version,
    /// The first bytes received.
    pub head: Vec<u8>,
}

pub(super) enum Silence {
    /// The end of the stream, or what broke it.
    Closed(Option<std::io::Error>),
    /// Nothing in time.
    Time,
}

pub(super) enum Subscribed {
    Yes,
    Refused(u8),
    Closed,
    Silent,
}

/// What a broker says to a SUBSCRIBE with several filters.
pub(super) enum Answered {
    /// A code for each, in their order.
    Codes(Vec<u8>),
    Closed,
    Silent,
}

/// What is published.
pub(super) struct Message<'a> {
    pub topic: &'a str,
    pub retain: bool,
    /// Encoded, without their length.
    pub properties: &'a [u8],
    pub payload: &'a [u8],
}

/// What became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Taken { ms: u128, echoed: bool },
    Refused(u8),
    Closed,
    Silent,
    TooLarge,
}

impl Talk {
    async fn flush(&mut self) -> std::io::Result<()> {
        let out = std::mem::take(self.session.outgoing());
        self.stream.write_all(&out).await?;
        self.stream.flush().await
    }

    /// Writes what there is, reads once.
    async fn turn(&mut self, patience: Duration) -> Result<(), Silence> {
        let mut input = [0u8; 4096];
        let exchange = async {
            // So little is written that it fits whatever the broker reads; a failure shows when
            // reading.
            let _ = self.flush().await;
            self.stream.read(&mut input).await
        };
        match timeout(patience, exchange).await {
            Ok(Ok(0)) => Err(Silence::Closed(None)),
            Ok(Ok(length)) => {
                if self.head.is_empty() {
                    self.head = input[..length.min(4)].to_vec();
                }
                self.session.handle_bytes(Instant::now(), &input[..length]);
                Ok(())
            }
            Ok(Err(error)) => Err(Silence::Closed(Some(error))),
            Err(_) => Err(Silence::Time),
        }
    }

    pub async fn until<T>(
        &mut self,
        patience: Duration,
        mut wanted: impl FnMut(&Event) -> Option<T>,
    ) -> Result<T, Silence> {
        let begun = Instant::now();
        loop {
            while let Some(event) = self.session.poll_event() {
                if let Some(found) = wanted(&event) {
                    return Ok(found);
                }
            }
            self.turn(patience.saturating_sub(begun.elapsed())).await?;
        }
    }

    pub async fn subscribe(&mut self, filter: &str) -> Subscribed {
        self.session.subscribe(Instant::now(), 0, filter);
        let subscribed = self.until(ECHO_WITHIN, |event| match event {
            Event::Subscribed { code, .. } => Some(Some(*code)),
            Event::Ended(_) => Some(None),
            _ => None,
        });
        match subscribed.await {
            Ok(Some(code)) if reason_code::is_refusal(code) => Subscribed::Refused(code),
            Ok(Some(_)) => Subscribed::Yes,
            Ok(None) | Err(Silence::Closed(_)) => Subscribed::Closed,
            Err(Silence::Time) => Subscribed::Silent,
        }
    }

    /// Unsubscribes, and waits for the answer for a while.
    pub async fn unsubscribe(&mut self, filters: &[String]) {
        self.session.unsubscribe(Instant::now(), filters);
        let answered = self.until(UNSUBACK_WITHIN, |event| {
            matches!(event, Event::Unsubscribed | Event::Ended(_)).then_some(())
        });
        let _ = answered.await; // there is nothing else to be done
    }

    /// As the daemon subscribes to commands.
    pub async fn subscribe_commands(&mut self, filters: &[String], at_least_once: bool) -> Answered {
        self.session.subscribe_commands(Instant::now(), filters, at_least_once);
        let answered = self.until(ECHO_WITHIN, |event| match event {
            Event::CommandsSubscribed(codes) => Some(Some(codes.clone())),
            Event::Ended(_) => Some(None),
            _ => None,
        });
        match answered.await {
            Ok(Some(codes)) => Answered::Codes(codes),
            Ok(None) | Err(Silence::Closed(_)) => Answered::Closed,
            Err(Silence::Time) => Answered::Silent,
        }
    }

    /// Publishes, and waits for the answer and, where it can come, the echo.
    pub async fn publish(&mut self, message: &Message<'_>, limits: Limits, echo: bool) -> Said {
        let topic = message.topic;
        let begun = Instant::now();
        let packet_id = limits.at_least_once.then_some(1);
        let publish = Publish {
            topic: topic.as_bytes(),
            packet_id,
            retain: message.retain && limits.retain,
            properties: message.properties,
            payload: message.payload,
        };
        let size = limits.packet_size as usize;
        if wire::push_publish(self.session.outgoing(), self.version, size, &publish).is_err() {
            return Said::TooLarge;
        }
        let mut answered = packet_id.is_none();
        let mut echoed = false;
        while !answered || (echo && !echoed) {
            match self.turn(ECHO_WITHIN.saturating_sub(begun.elapsed())).await {
                Ok(()) => {}
                Err(Silence::Time) => break,
                Err(Silence::Closed(_)) if answered => break,
                Err(Silence::Closed(_)) => return Said::Closed,
            }
            if let Some(acknowledgement) = self.session.take_acknowledgements(Vec::new()).first() {
                answered = true;
                if reason_code::is_refusal(acknowledgement.code) {
                    return Said::Refused(acknowledgement.code);
                }
            }
            let mut ended = false;
            while let Some(event) = self.session.poll_event() {
                echoed |= match &event {
                    Event::Message { topic: found, .. } => found == topic,
                    // So they come where commands are wanted.
                    Event::Inbound(message) => message.topic == topic,
                    _ => false,
                };
                ended |= matches!(event, Event::Ended(_));
            }
            if (ended || self.session.is_ended()) && !answered {
                return Said::Closed;
            }
        }
        match answered {
            true => Said::Taken { ms: begun.elapsed().as_millis(), echoed },
            false => Said::Silent,
        }
    }

    pub async fn goodbye(mut self) {
        self.session.disconnect(false);
        let _ = timeout(Duration::from_secs(1), self.flush()).await; // the goodbye is a courtesy
        let _ = timeout(Duration::from_secs(1), self.stream.shutdown()).await;
    }
}
