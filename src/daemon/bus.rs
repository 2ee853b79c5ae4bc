//! The bus between local MQTT clients: rumqttd's router on a thread of its own, and a link for each
//! session that has a local subscription.
//!
//! ```text
//! hub ─ requests ─> thread "mqtt-bus" ─> router ─> a link a session ─> a task a session ─> hub
//! ```
//!
//! The router knows one topic and one filter, [`TOPIC`]: a log in memory of at most
//! [`SEGMENTS`] times [`SEGMENT_BYTES`], with a cursor for each link. A session that is slower than
//! the log misses messages; none waits for another. Messages are numbered, so that what a session
//! misses is counted. What rumqttd keeps by topic, filter or client
//! id is thereby bounded, and its QoS, retained messages, aliases and sessions are not used: they
//! are `southbound::mqtt`'s (docs/decisions/0029). It starts with the first session that joins.

use std::collections::HashMap;
use std::ops::RangeFrom;
use std::pin::pin;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::task::{Context, Waker};

use hyper::body::Bytes;
use rumqttd::local::{LinkBuilder, LinkRx, LinkTx};
use rumqttd::protocol::{Disconnect, DisconnectReasonCode, Packet};
use rumqttd::{Notification, Router, RouterConfig};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::bus_handle::BusHandle;
use super::round::Shared;
use crate::southbound::mqtt::BusRequest;

/// The one topic, and the one filter.
const TOPIC: &str = "bus";
/// Bytes of a segment of the router's log.
const SEGMENT_BYTES: usize = 1 << 20;
/// Segments of the log.
const SEGMENTS: usize = 4;
/// Most links: rumqttd leaves one more without an answer for ever.
const LINKS_MAX: usize = 4_096;
/// Requests that wait for the thread; a message more is dropped.
const REQUESTS_MAX: usize = 1_024;
/// Messages that one link has on its way.
const OUTGOING_MAX: u64 = 200;
/// Messages of one round of the hub.
const BATCH: usize = 64;
/// Bytes of the number of a message.
const NUMBER_BYTES: usize = 8;

/// A session's end of a link.
struct Joined {
    session: u64,
    link: LinkRx,
}

/// Starts the thread and the task that follows it. The handle is the hub's.
///
/// # Errors
/// The system has no thread for it.
pub fn start(shared: &Rc<Shared>) -> std::io::Result<BusHandle> {
    let (requests, taken) = sync_channel(REQUESTS_MAX);
    let (joined, joining) = unbounded_channel();
    std::thread::Builder::new().name("mqtt-bus".to_owned()).spawn(move || carry(&taken, &joined))?;
    tokio::task::spawn_local(follow(shared.clone(), joining));
    Ok(BusHandle::new(requests))
}

/// The thread: the only one that waits for the router.
fn carry(requests: &Receiver<BusRequest>, joined: &UnboundedSender<Joined>) {
    let mut bus = None;
    let mut is_failing = false;
    let mut numbers = 0..;
    while let Ok(request) = requests.recv() {
        let bus = match &mut bus {
            Some(bus) => bus,
            None => match open() {
                Ok(opened) => bus.insert(opened),
                Err(error) => {
                    say(&mut is_failing, &error, "the bus between local MQTT clients cannot be started");
                    continue;
                }
            },
        };
        match request {
            BusRequest::Publish(message) => {
                match bus.publisher.publish(TOPIC, numbered(message, &mut numbers)) {
                    Ok(_) => is_failing = false,
                    Err(error) => {
                        say(&mut is_failing, &error, "the bus between local MQTT clients does not answer")
                    }
                }
            }
            BusRequest::Join(session) if bus.links.len() >= LINKS_MAX => {
                log::warn!(session, links = LINKS_MAX; "too many subscribers on the bus: this one gets nothing");
            }
            BusRequest::Join(session) => match (bus.link)(&format!("s{session}")) {
                Ok((mut sender, link)) => {
                    let _ = sender.subscribe(TOPIC);
                    bus.links.insert(session, sender);
                    let _ = joined.send(Joined { session, link });
                }
                Err(error) => log::error!(reason:% = error; "the bus took no further subscriber"),
            },
            BusRequest::Leave(session) => {
                if let Some(sender) = bus.links.remove(&session) {
                    disconnect(sender);
                }
            }
        }
    }
}

/// Says once what fails with every message.
fn say(is_failing: &mut bool, error: &dyn std::fmt::Display, text: &str) {
    if !std::mem::replace(is_failing, true) {
        log::error!(reason:% = error; "{text}");
    }
}

type MakeLink = Box<dyn Fn(&str) -> Result<(LinkTx, LinkRx), String>>;

/// The router as the thread holds it.
struct Bus {
    link: MakeLink,
    publisher: LinkTx,
    /// Nothing is sent to the publisher.
    _publisher: LinkRx,
    links: HashMap<u64, LinkTx>,
}

fn open() -> Result<Bus, String> {
    let router = Router::new(
        0,
        RouterConfig {
            max_connections: LINKS_MAX + 2,
            max_outgoing_packet_count: OUTGOING_MAX,
            max_segment_size: SEGMENT_BYTES,
            max_segment_count: SEGMENTS,
            initialized_filters: Some(vec![TOPIC.to_owned()]),
            ..RouterConfig::default()
        },
    );
    let router = router.spawn();
    let link: MakeLink = Box::new(move |id| {
        let (sender, receiver, _) =
            LinkBuilder::new(id, router.clone()).build().map_err(|error| error.to_string())?;
        Ok((sender, receiver))
    });
    let (publisher, receiver) = link("gateway")?;
    Ok(Bus { link, publisher, _publisher: receiver, links: HashMap::new() })
}

/// A message as the router carries it: with its number at its end.
fn numbered(mut message: Vec<u8>, numbers: &mut RangeFrom<u64>) -> Vec<u8> {
    message.extend(numbers.next().unwrap_or_default().to_be_bytes());
    message
}

/// The message without its number, and how many before it have passed this link by.
fn taken(mut carried: Bytes, expected: &mut Option<u64>) -> (Bytes, u64) {
    let number = carried.split_off(carried.len().saturating_sub(NUMBER_BYTES));
    let number = u64::from_be_bytes(number[..].try_into().unwrap_or_default());
    let missed = number.saturating_sub(expected.unwrap_or(number));
    *expected = Some(number.saturating_add(1));
    (carried, missed)
}

/// Without it the router keeps the link for ever.
fn disconnect(mut sender: LinkTx) {
    let goodbye = Disconnect { reason_code: DisconnectReasonCode::NormalDisconnection };
    let mut sent = pin!(sender.send(Packet::Disconnect(goodbye, None)));
    // It is ready at the first call: there is no await in it.
    let _ = sent.as_mut().poll(&mut Context::from_waker(Waker::noop()));
}

/// Follows the links on the path's thread.
async fn follow(shared: Rc<Shared>, mut joining: UnboundedReceiver<Joined>) {
    while let Some(Joined { session, link }) = joining.recv().await {
        let shared = shared.clone();
        tokio::task::spawn_local(async move {
            deliver(link, |messages, missed| {
                shared.round(|hub| hub.deliver_mqtt(session, messages, missed));
            })
            .await;
        });
    }
}

/// Hands the messages of one link over, each time with how many before them have passed it by,
/// until the session leaves.
async fn deliver(mut link: LinkRx, mut hand_over: impl FnMut(&[Bytes], u64)) {
    let mut messages: Vec<Bytes> = Vec::new();
    let (mut expected, mut missed) = (None, 0);
    loop {
        let next = tokio::select! {
            biased;
            next = link.next() => Some(next),
            // Nothing more is there now: what there is is delivered.
            () = std::future::ready(()), if !messages.is_empty() => None,
        };
        let (is_all, mut is_asleep) = (next.is_none(), false);
        match next {
            Some(Ok(Some(Notification::Forward(forward)))) => {
                let (message, before) = taken(forward.publish.payload, &mut expected);
                messages.push(message);
                missed += before;
            }
            // The router has sent as much as it may at once, and waits to be asked for more.
            Some(Ok(Some(Notification::Unschedule))) => is_asleep = true,
            Some(Ok(_)) => {}
            // The session has left.
            Some(Err(_)) => return,
            None => {}
        }
        if is_asleep && link.wake().await.is_err() {
            return;
        }
        if is_all || messages.len() >= BATCH {
            hand_over(&messages, std::mem::take(&mut missed));
            messages.clear();
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: u64 = 500;

    /// Delivers until the last message has come: the first of them, how many came, and how many
    /// were missed behind the first.
    async fn drain(link: LinkRx) -> (u64, u64, u64) {
        let (mut first, mut came, mut missed) = (None, 0, 0);
        let last = tokio::sync::Notify::new();
        let deliver = deliver(link, |messages, before| {
            for message in messages {
                assert_eq!(message.len(), 64 << 10, "without its number");
                let number = u64::from_be_bytes(message[..8].try_into().expect("eight bytes"));
                first.get_or_insert(number);
                came += 1;
                if number == MESSAGES - 1 {
                    last.notify_one();
                }
            }
            missed += before;
        });
        tokio::select! {
            () = deliver => panic!("the router has ended the link"),
            () = last.notified() => {}
        }
        (first.expect("a message"), came, missed)
    }

    #[tokio::test]
    async fn what_passes_a_slow_receiver_by_is_counted() {
        let bus = open().expect("a router");
        let join = |id: &str| {
            let (mut sender, link) = (bus.link)(id).expect("a link");
            sender.subscribe(TOPIC).expect("a filter");
            (sender, link)
        };
        let (_quick, quick) = join("quick");
        let (_slow, slow) = join("slow");
        let mut publisher = bus.publisher;
        let publishing = std::thread::spawn(move || {
            let mut numbers = 0..;
            for number in 0..MESSAGES {
                let mut message = vec![0; 64 << 10];
                message[..8].copy_from_slice(&number.to_be_bytes());
                publisher.publish(TOPIC, numbered(message, &mut numbers)).expect("the router runs");
            }
            publisher
        });
        // When this one has the last message, the log has forgotten what the other has not read.
        let (first, came, missed) = drain(quick).await;
        assert_eq!(first + came + missed, MESSAGES);
        let (first, came, missed) = drain(slow).await;
        assert!(missed > 0, "the log is 4 MiB of 32");
        assert_eq!(first + came + missed, MESSAGES);
        drop(publishing.join());
    }
}
