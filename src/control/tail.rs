//! The stream of decided readings for watchers. Without a watcher nothing is built or stored.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::clock::UnixTime;
use crate::message::{Method, RecordId};

/// Most readings kept for slow watchers; the oldest are dropped first.
pub const BACKLOG: usize = 256;

/// The result of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// On disk and acknowledged.
    Stored(RecordId),
    /// Passed to the uplink without storing, by a rule with `qos = 0`.
    Passed,
    /// Refused with this CoAP code: class and detail, `(4, 3)` for 4.03.
    Refused(u8, u8),
}

/// One reading and its result.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// The time of receipt, if the clock is trusted.
    pub received: Option<UnixTime>,
    /// The device's id.
    pub device: &'a str,
    /// The method.
    pub method: Method,
    /// The path within the device, as far as it could be parsed.
    pub path: &'a str,
    /// The topic, once mapped.
    pub topic: Option<&'a str>,
    /// The length of the payload in bytes.
    pub bytes: usize,
    /// The result.
    pub outcome: Outcome,
    /// Why it was refused: a short constant text with names.
    pub reason: Option<&'a dyn fmt::Display>,
}

/// As one object of `tombolo tail --json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Item {
    /// The time of receipt in RFC 3339, if the clock is trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<String>,
    /// Device id.
    pub device: String,
    /// `POST`, `PUT` or `DELETE`.
    pub method: String,
    /// The path within the device.
    pub path: String,
    /// The topic; `null` if it was refused before the mapping.
    pub topic: Option<String>,
    /// The length of the payload in bytes.
    pub bytes: u64,
    /// `stored`, `passed` or `refused`.
    pub outcome: String,
    /// The record id, if stored.
    pub record: Option<String>,
    /// The CoAP code, if refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl From<&Reading<'_>> for Item {
    fn from(reading: &Reading<'_>) -> Item {
        let (outcome, record, code) = match reading.outcome {
            Outcome::Stored(id) => ("stored", Some(id.to_string()), None),
            Outcome::Passed => ("passed", None, None),
            Outcome::Refused(class, detail) => ("refused", None, Some(format!("{class}.{detail:02}"))),
        };
        Item {
            received: reading.received.map(|time| time.to_string()),
            device: reading.device.to_owned(),
            method: reading.method.as_str().to_owned(),
            path: reading.path.to_owned(),
            topic: reading.topic.map(str::to_owned),
            bytes: reading.bytes as u64,
            outcome: outcome.to_owned(),
            record,
            code,
            reason: reading.reason.map(ToString::to_string),
        }
    }
}

/// The sending end, for the path. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tail {
    sender: broadcast::Sender<Arc<Item>>,
    watchers: Arc<AtomicUsize>,
}

impl Default for Tail {
    fn default() -> Tail {
        Tail::new(BACKLOG)
    }
}

impl Tail {
    /// A tail that keeps up to `backlog` readings (at least 1) for slow watchers.
    pub fn new(backlog: usize) -> Tail {
        Tail { sender: broadcast::Sender::new(backlog.max(1)), watchers: Arc::new(AtomicUsize::new(0)) }
    }

    /// Whether there is a watcher. Costs one load: check it before building a [`Reading`].
    pub fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }

    /// Sends a reading to all watchers; does nothing if there are none. Never blocks.
    pub fn push(&self, reading: &Reading<'_>) {
        if self.is_watched() {
            // Fails only if the last watcher has just been dropped.
            let _ = self.sender.send(Arc::new(Item::from(reading)));
        }
    }

    /// Watches from now on, all devices or one.
    pub fn watch(&self, device: Option<String>) -> Watcher {
        let receiver = self.sender.subscribe();
        self.watchers.fetch_add(1, Ordering::Relaxed);
        Watcher { receiver, device, watchers: Arc::clone(&self.watchers) }
    }
}

/// The receiving end of a watcher.
#[derive(Debug)]
pub struct Watcher {
    receiver: broadcast::Receiver<Arc<Item>>,
    device: Option<String>,
    watchers: Arc<AtomicUsize>,
}

/// An item for a watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A reading.
    Item(Arc<Item>),
    /// This many readings, of any device, were dropped before the watcher received them.
    Missed(u64),
}

impl Watcher {
    /// The next reading of the watched device; `None` if the path has ended. Cancellation loses
    /// nothing.
    pub async fn next(&mut self) -> Option<Seen> {
        loop {
            match self.receiver.recv().await {
                Ok(item) if self.device.as_ref().is_none_or(|device| *device == item.device) => {
                    return Some(Seen::Item(item));
                }
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(count)) => return Some(Seen::Missed(count)),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(device: &str, bytes: usize) -> Reading<'_> {
        Reading {
            received: None,
            device,
            method: Method::Post,
            path: "t/env",
            topic: Some("a/b"),
            bytes,
            outcome: Outcome::Stored(RecordId { run: 1, sequence: 2 }),
            reason: None,
        }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn an_item_has_the_keys_of_the_contract() {
        let stored = serde_json::to_value(Item::from(&reading("door-7", 14))).unwrap();
        assert_eq!(
            stored,
            serde_json::json!({
                "device": "door-7", "method": "POST", "path": "t/env", "topic": "a/b", "bytes": 14,
                "outcome": "stored", "record": "0000000000000001-2"
            })
        );
        let refused = Reading {
            topic: None,
            outcome: Outcome::Refused(4, 3),
            reason: Some(&"no rule matches"),
            received: Some(UnixTime(1_700_000_000_123)),
            ..reading("door-7", 14)
        };
        assert_eq!(
            serde_json::to_value(Item::from(&refused)).unwrap(),
            serde_json::json!({
                "received": "2023-11-14T22:13:20.123Z", "device": "door-7", "method": "POST", "path": "t/env",
                "topic": null, "bytes": 14, "outcome": "refused", "record": null, "code": "4.03",
                "reason": "no rule matches"
            })
        );
    }

    #[test]
    fn nothing_is_kept_while_nobody_watches() {
        let tail = Tail::new(4);
        assert!(!tail.is_watched());
        tail.push(&reading("a", 1));
        let mut watcher = tail.watch(None);
        assert!(tail.is_watched());
        tail.push(&reading("a", 2));
        let seen = run(watcher.next());
        assert!(matches!(seen, Some(Seen::Item(item)) if item.bytes == 2));
        drop(watcher);
        assert!(!tail.is_watched());
    }

    #[test]
    fn a_watcher_that_is_behind_hears_how_many_it_missed() {
        let tail = Tail::new(4);
        let mut watcher = tail.watch(None);
        for bytes in 0..10 {
            tail.push(&reading("a", bytes));
        }
        assert_eq!(run(watcher.next()), Some(Seen::Missed(6)));
        assert!(matches!(run(watcher.next()), Some(Seen::Item(item)) if item.bytes == 6));
    }

    #[test]
    fn a_watcher_of_one_device_sees_only_that_and_ends_with_the_path() {
        let tail = Tail::new(8);
        let mut watcher = tail.watch(Some("b".into()));
        tail.push(&reading("a", 1));
        tail.push(&reading("b", 2));
        drop(tail);
        assert!(matches!(run(watcher.next()), Some(Seen::Item(item)) if item.bytes == 2));
        assert_eq!(run(watcher.next()), None);
    }
}
