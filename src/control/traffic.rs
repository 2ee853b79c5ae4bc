//! The stream of decrypted messages of one device, or of the uplink's packets, for `tombolo trace`.
//! Without a watcher nothing is built or stored.
//!
//! A watcher that did not ask for payloads never gets one: the daemon cuts it off before the
//! message enters the watcher's queue.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// The target that is the connection to the broker, and no device.
pub const UPLINK: &str = "uplink";
/// Most messages kept for a slow watcher; those that find no room are counted.
pub const BACKLOG: usize = 256;
/// Most watchers at once.
pub const WATCHERS_MAX: usize = 4;

/// One message, as one object of `tombolo trace --json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Message {
    /// A device id, or `uplink`.
    pub target: String,
    /// RFC 3339 time of the clock, trusted or not.
    pub at: String,
    /// Milliseconds of `CLOCK_BOOTTIME`, which does not depend on the clock.
    pub boottime_ms: u64,
    /// `in` to the gateway or `out` of it.
    pub direction: String,
    /// `coap` or `mqtt`.
    pub protocol: String,
    /// The other end's address and port; `None` on a serial line.
    pub peer: Option<String>,
    /// The whole length in bytes, with what is cut off.
    pub length: u64,
    /// The message without its payload, in hexadecimal.
    pub hex: String,
    /// The payload in hexadecimal, if the watcher asked for it; `None` also if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_hex: Option<String>,
    /// Messages before this one that the watcher was too slow for.
    #[serde(skip_serializing_if = "is_zero")]
    pub missed: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A message on its way to the watchers.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// RFC 3339 time.
    pub at: &'a str,
    /// Milliseconds of `CLOCK_BOOTTIME`.
    pub boottime_ms: u64,
    /// `in` or `out`.
    pub direction: &'a str,
    /// `coap` or `mqtt`.
    pub protocol: &'a str,
    /// The other end.
    pub peer: Option<SocketAddr>,
    /// The message.
    pub bytes: &'a [u8],
    /// Where its payload begins; its length if it has none.
    pub payload_at: usize,
}

#[derive(Debug)]
struct Place {
    number: usize,
    target: String,
    payload: bool,
    sender: mpsc::Sender<Message>,
    missed: u64,
}

#[derive(Debug, Default)]
struct Places {
    all: Vec<Place>,
    next: usize,
}

/// The sending end, for the path. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    places: Arc<Mutex<Places>>,
    watchers: Arc<AtomicUsize>,
}

impl Traffic {
    /// Whether there is a watcher of anything: one load.
    pub fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }

    /// Whether there is a watcher of this device, or of [`UPLINK`].
    pub fn wants(&self, target: &str) -> bool {
        self.is_watched() && self.places().all.iter().any(|place| place.target == target)
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a message to the watchers of its target. Never blocks.
    pub fn push(&self, target: &str, seen: &Seen<'_>) {
        if !self.is_watched() {
            return;
        }
        for place in self.places().all.iter_mut().filter(|place| place.target == target) {
            let (head, payload) = seen.bytes.split_at(seen.payload_at.min(seen.bytes.len()));
            let message = Message {
                target: target.to_owned(),
                at: seen.at.to_owned(),
                boottime_ms: seen.boottime_ms,
                direction: seen.direction.to_owned(),
                protocol: seen.protocol.to_owned(),
                peer: seen.peer.map(|peer| peer.to_string()),
                length: seen.bytes.len() as u64,
                hex: hex(head),
                payload_hex: (place.payload && !payload.is_empty()).then(|| hex(payload)),
                missed: place.missed,
            };
            match place.sender.try_send(message) {
                Ok(()) => place.missed = 0,
                Err(TrySendError::Full(_)) => place.missed += 1,
                // Its watcher is being dropped.
                Err(TrySendError::Closed(_)) => {}
            }
        }
    }

    /// Watches a target from now on; `None` if there are [`WATCHERS_MAX`] already.
    pub fn watch(&self, target: String, payload: bool) -> Option<TrafficWatcher> {
        let mut places = self.places();
        if places.all.len() >= WATCHERS_MAX {
            return None;
        }
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let number = places.next;
        places.next = number.wrapping_add(1);
        places.all.push(Place { number, target, payload, sender, missed: 0 });
        self.watchers.store(places.all.len(), Ordering::Relaxed);
        Some(TrafficWatcher { receiver, number, traffic: self.clone() })
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The receiving end of a watcher.
#[derive(Debug)]
pub struct TrafficWatcher {
    receiver: mpsc::Receiver<Message>,
    number: usize,
    traffic: Traffic,
}

impl TrafficWatcher {
    /// The next message. Cancellation loses nothing.
    pub async fn next(&mut self) -> Option<Message> {
        self.receiver.recv().await
    }
}

impl Drop for TrafficWatcher {
    fn drop(&mut self) {
        let mut places = self.traffic.places();
        places.all.retain(|place| place.number != self.number);
        self.traffic.watchers.store(places.all.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(traffic: &Traffic, target: &str, payload: &[u8]) {
        let bytes = [b"head", payload].concat();
        let seen = Seen {
            at: "2026-01-01T00:00:00.000Z",
            boottime_ms: 1,
            direction: "in",
            protocol: "coap",
            peer: None,
            bytes: &bytes,
            payload_at: 4,
        };
        traffic.push(target, &seen);
    }

    fn all(watcher: &mut TrafficWatcher) -> Vec<Message> {
        std::iter::from_fn(|| watcher.receiver.try_recv().ok()).collect()
    }

    #[test]
    fn a_payload_reaches_only_the_watcher_who_asked_for_it() {
        let traffic = Traffic::default();
        push(&traffic, "door-7", b"secret");
        let mut without = traffic.watch("door-7".into(), false).unwrap();
        let mut with = traffic.watch("door-7".into(), true).unwrap();
        let mut other = traffic.watch(UPLINK.into(), true).unwrap();
        assert!(traffic.wants("door-7") && !traffic.wants("door-8"));
        push(&traffic, "door-7", b"secret");
        push(&traffic, "door-8", b"secret");
        let (without, with) = (all(&mut without), all(&mut with));
        assert_eq!((without.len(), with.len(), all(&mut other).len()), (1, 1, 0));
        assert_eq!((without[0].hex.as_str(), without[0].length), ("68656164", 10));
        assert_eq!(without[0].payload_hex, None);
        assert_eq!(with[0].payload_hex.as_deref(), Some("736563726574"));
    }

    #[test]
    fn a_slow_watcher_hears_how_many_it_missed_and_hinders_nobody() {
        let traffic = Traffic::default();
        let (mut slow, mut quick) =
            (traffic.watch("a".into(), false).unwrap(), traffic.watch("a".into(), false).unwrap());
        for _ in 0..BACKLOG + 7 {
            push(&traffic, "a", b"");
            assert_eq!(all(&mut quick).len(), 1);
        }
        assert_eq!(all(&mut slow).len(), BACKLOG);
        push(&traffic, "a", b"");
        assert_eq!(all(&mut slow)[0].missed, 7);
        push(&traffic, "a", b"");
        assert_eq!(all(&mut slow)[0].missed, 0);
    }

    #[test]
    fn there_are_few_watchers_and_one_that_is_gone_costs_nothing() {
        let traffic = Traffic::default();
        let watchers: Vec<_> = (0..WATCHERS_MAX).map(|_| traffic.watch("a".into(), false).unwrap()).collect();
        assert!(traffic.watch("a".into(), false).is_none());
        drop(watchers);
        assert!(!traffic.is_watched() && traffic.places().all.is_empty());
    }
}
