//! The stream of decided readings for watchers, and the last ones for a watcher that begins.
//!
//! The last [`RECENT`] readings and [`RECENT_FAILURES`] failed handshakes are kept apart, so that
//! strangers do not push readings out, in memory that is used again: at most about 1.5 KiB each.
//! Nothing is formatted while nobody watches.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::clock::UnixTime;
use crate::message::{Method, RecordId};
use crate::telemetry::text::is_harmless;

/// Most readings kept for slow watchers; the oldest are dropped first.
pub const BACKLOG: usize = 256;
/// Readings kept for a watcher that begins.
pub const RECENT: usize = 128;
/// Failed handshakes kept for a watcher that begins.
pub const RECENT_FAILURES: usize = 32;
/// Bytes of a payload that are kept and shown.
pub const PREVIEW_BYTES: usize = 64;

/// The result of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// On disk and acknowledged.
    Stored(RecordId),
    /// Passed to the uplink without storing, by a rule with `qos = 0`.
    Passed,
    /// Acknowledged and not published, by a filter of its rule.
    Filtered,
    /// Refused with this CoAP code: class and detail, `(4, 3)` for 4.03.
    Refused(u8, u8),
    /// Refused with this reason code of MQTT, `0x87`.
    RefusedMqtt(u8),
}

/// What became of a stored reading at the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The broker acknowledged it.
    Delivered,
    /// The broker refused it, or did not answer; it is held back and tried again.
    HeldBack,
    /// It was moved to the rejected store.
    Rejected,
    /// It expired before it was delivered.
    Expired,
}

impl Delivery {
    /// The name in `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Delivery::Delivered => "delivered",
            Delivery::HeldBack => "held_back",
            Delivery::Rejected => "rejected",
            Delivery::Expired => "expired",
        }
    }
}

/// One reading and its result.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// The time of receipt, if the clock is trusted.
    pub received: Option<UnixTime>,
    /// Milliseconds of `CLOCK_BOOTTIME` at that time.
    pub boottime_ms: u64,
    /// The device's id.
    pub device: &'a str,
    /// The method.
    pub method: Method,
    /// The path within the device, as far as it could be parsed.
    pub path: &'a str,
    /// The query of the request, if it had one.
    pub query: Option<&'a str>,
    /// The topic, once mapped.
    pub topic: Option<&'a str>,
    /// The length of the payload in bytes.
    pub bytes: usize,
    /// The beginning of the payload; what is longer than [`PREVIEW_BYTES`] is cut.
    pub preview: &'a [u8],
    /// The result.
    pub outcome: Outcome,
    /// Why it was refused or filtered: a short constant text with names.
    pub reason: Option<&'a dyn fmt::Display>,
}

/// A handshake that failed.
#[derive(Clone, Copy)]
pub struct FailedHandshake<'a> {
    /// The time, if the clock is trusted.
    pub received: Option<UnixTime>,
    /// Milliseconds of `CLOCK_BOOTTIME` at that time.
    pub boottime_ms: u64,
    /// The source address.
    pub peer: std::net::SocketAddr,
    /// The identity the peer claimed or proved.
    pub identity: Option<&'a dyn fmt::Display>,
    /// The device that has this identity.
    pub device: Option<&'a str>,
    /// Why it failed.
    pub reason: &'a dyn fmt::Display,
}

/// A connect of an MQTT client that was refused.
#[derive(Clone, Copy)]
pub struct RefusedConnect<'a> {
    /// The time, if the clock is trusted.
    pub received: Option<UnixTime>,
    /// Milliseconds of `CLOCK_BOOTTIME` at that time.
    pub boottime_ms: u64,
    /// The source address, or `a Unix socket`.
    pub peer: &'a str,
    /// The user name it gave.
    pub username: Option<&'a str>,
    /// The device that it claimed to be.
    pub device: Option<&'a str>,
    /// Why it was refused.
    pub reason: &'a str,
}

/// A command for a device, at a step of its way.
#[derive(Clone, Copy)]
pub struct CommandSeen<'a> {
    /// The time of the step, if the clock is trusted.
    pub received: Option<UnixTime>,
    /// Milliseconds of `CLOCK_BOOTTIME` at that time.
    pub boottime_ms: u64,
    /// The device it is for.
    pub device: &'a str,
    /// The path at the device.
    pub path: &'a str,
    /// The method; empty with the outcome.
    pub method: &'a str,
    /// The length of the payload, or of the answer, in bytes.
    pub bytes: usize,
    /// The beginning of it; what is longer than [`PREVIEW_BYTES`] is cut.
    pub preview: &'a [u8],
    /// `taken`, `sent` or `ended`.
    pub state: &'a str,
    /// What became of it, if it ended: a CoAP code or a word.
    pub outcome: Option<&'a str>,
}

impl From<&CommandSeen<'_>> for Item {
    fn from(seen: &CommandSeen<'_>) -> Item {
        let preview = seen.preview.get(..PREVIEW_BYTES).unwrap_or(seen.preview);
        let (payload, payload_hex) = shown(preview, seen.bytes);
        Item {
            received: seen.received.map(|time| time.to_string()),
            boottime_ms: seen.boottime_ms,
            device: seen.device.to_owned(),
            method: seen.method.to_owned(),
            path: seen.path.to_owned(),
            bytes: seen.bytes as u64,
            payload,
            payload_hex,
            outcome: format!("command_{}", seen.state),
            code: seen.outcome.map(str::to_owned),
            ..Item::default()
        }
    }
}

/// As one object of `tombolo tail --json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Item {
    /// The time of receipt in RFC 3339, if the clock is trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<String>,
    /// Milliseconds of `CLOCK_BOOTTIME` at that time; 0 = not known.
    #[serde(skip_serializing_if = "is_zero")]
    pub boottime_ms: u64,
    /// Device id; for a failed handshake or a refused connect, of the device that has the claimed
    /// identity.
    pub device: String,
    /// `POST`, `PUT` or `DELETE`.
    pub method: String,
    /// The path within the device.
    pub path: String,
    /// The query of the request, if it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The topic; `null` if it was refused before the mapping.
    pub topic: Option<String>,
    /// The length of the payload in bytes.
    pub bytes: u64,
    /// The beginning of the payload, if it can be printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The beginning of the payload in hexadecimal, if it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_hex: Option<String>,
    /// `stored`, `passed`, `filtered` or `refused`; `handshake_failed`; `connect_refused`; or, for
    /// a reading shown before under the same `record`: `delivered`, `held_back`, `rejected` or
    /// `expired`; for a command to the device `command_taken`, `command_sent` or `command_ended`.
    pub outcome: String,
    /// The record id, if stored.
    pub record: Option<String>,
    /// What became of a stored reading at the broker since; only of those shown first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<String>,
    /// The CoAP code, if refused; what became of a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Why it was refused or filtered, or why the handshake failed or the connect was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The source address of a failed handshake or a refused connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The identity claimed or proved in a failed handshake; the user name of a refused connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The beginning of a payload as text, if all of it can be printed, or in hexadecimal.
fn shown(preview: &[u8], bytes: usize) -> (Option<String>, Option<String>) {
    if preview.is_empty() {
        return (None, None);
    }
    let text = match std::str::from_utf8(preview) {
        Ok(text) => Some(text),
        // The preview may end within a character.
        Err(error) if error.error_len().is_none() && preview.len() < bytes => {
            std::str::from_utf8(&preview[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    };
    match text.filter(|text| text.chars().all(|c| is_harmless(c) || matches!(c, '\t' | '\n' | '\r'))) {
        Some(text) => (Some(text.to_owned()), None),
        None => (None, Some(crate::hex::format_hex(preview))),
    }
}

/// A reading as it is kept, in memory that is used again.
#[derive(Debug)]
struct Kept {
    received: Option<UnixTime>,
    boottime_ms: u64,
    device: String,
    method: Method,
    path: String,
    query: String,
    topic: String,
    is_mapped: bool,
    bytes: usize,
    preview: Vec<u8>,
    outcome: Outcome,
    reason: String,
    delivery: Option<Delivery>,
}

impl Kept {
    fn empty() -> Kept {
        Kept {
            received: None,
            boottime_ms: 0,
            device: String::new(),
            method: Method::Post,
            path: String::new(),
            query: String::new(),
            topic: String::new(),
            is_mapped: false,
            bytes: 0,
            preview: Vec::new(),
            outcome: Outcome::Passed,
            reason: String::new(),
            delivery: None,
        }
    }

    fn fill(&mut self, reading: &Reading<'_>) {
        use fmt::Write as _;
        let texts = [
            (&mut self.device, reading.device),
            (&mut self.path, reading.path),
            (&mut self.query, reading.query.unwrap_or_default()),
            (&mut self.topic, reading.topic.unwrap_or_default()),
            (&mut self.reason, ""),
        ];
        for (text, with) in texts {
            text.clear();
            text.push_str(with);
        }
        if let Some(reason) = reading.reason {
            let _ = write!(self.reason, "{reason}");
        }
        self.preview.clear();
        self.preview.extend(reading.preview.iter().take(PREVIEW_BYTES));
        (self.received, self.boottime_ms) = (reading.received, reading.boottime_ms);
        (self.method, self.outcome) = (reading.method, reading.outcome);
        (self.is_mapped, self.bytes, self.delivery) = (reading.topic.is_some(), reading.bytes, None);
    }

    fn item(&self) -> Item {
        let (outcome, record, code) = match self.outcome {
            Outcome::Stored(id) => ("stored", Some(id.to_string()), None),
            Outcome::Passed => ("passed", None, None),
            Outcome::Filtered => ("filtered", None, None),
            Outcome::Refused(class, detail) => ("refused", None, Some(format!("{class}.{detail:02}"))),
            Outcome::RefusedMqtt(code) => ("refused", None, Some(format!("0x{code:02X}"))),
        };
        let (payload, payload_hex) = shown(&self.preview, self.bytes);
        Item {
            received: self.received.map(|time| time.to_string()),
            boottime_ms: self.boottime_ms,
            device: self.device.clone(),
            method: self.method.as_str().to_owned(),
            path: self.path.clone(),
            query: (!self.query.is_empty()).then(|| self.query.clone()),
            topic: self.is_mapped.then(|| self.topic.clone()),
            bytes: self.bytes as u64,
            payload,
            payload_hex,
            outcome: outcome.to_owned(),
            record,
            delivery: self.delivery.map(|delivery| delivery.as_str().to_owned()),
            code,
            reason: (!self.reason.is_empty()).then(|| self.reason.clone()),
            ..Item::default()
        }
    }
}

impl From<&Reading<'_>> for Item {
    fn from(reading: &Reading<'_>) -> Item {
        let mut kept = Kept::empty();
        kept.fill(reading);
        kept.item()
    }
}

impl From<&FailedHandshake<'_>> for Item {
    fn from(failed: &FailedHandshake<'_>) -> Item {
        Item {
            received: failed.received.map(|time| time.to_string()),
            boottime_ms: failed.boottime_ms,
            device: failed.device.unwrap_or_default().to_owned(),
            outcome: "handshake_failed".to_owned(),
            reason: Some(failed.reason.to_string()),
            peer: Some(failed.peer.to_string()),
            identity: failed.identity.map(ToString::to_string),
            ..Item::default()
        }
    }
}

impl From<&RefusedConnect<'_>> for Item {
    fn from(refused: &RefusedConnect<'_>) -> Item {
        Item {
            received: refused.received.map(|time| time.to_string()),
            boottime_ms: refused.boottime_ms,
            device: refused.device.unwrap_or_default().to_owned(),
            outcome: "connect_refused".to_owned(),
            reason: Some(refused.reason.to_owned()),
            peer: Some(refused.peer.to_owned()),
            identity: refused.username.map(str::to_owned),
            ..Item::default()
        }
    }
}

/// What is kept for a watcher that begins.
#[derive(Debug, Default)]
struct Recent {
    readings: Vec<Kept>,
    /// The record of each of them; `None`: it has none.
    records: Vec<Option<RecordId>>,
    /// The place of the next one: that of the oldest, once there are [`RECENT`].
    next: usize,
    failures: VecDeque<Arc<Item>>,
}

impl Recent {
    fn keep(&mut self, reading: &Reading<'_>) -> &Kept {
        if self.readings.len() <= self.next {
            self.readings.push(Kept::empty());
            self.records.push(None);
        }
        let at = self.next;
        self.next = (at + 1) % RECENT;
        self.records[at] = match reading.outcome {
            Outcome::Stored(id) => Some(id),
            Outcome::Passed | Outcome::Filtered | Outcome::Refused(..) | Outcome::RefusedMqtt(_) => None,
        };
        self.readings[at].fill(reading);
        &self.readings[at]
    }

    /// The last `count` of one device, or of all, oldest first.
    fn last(&self, device: Option<&str>, count: usize) -> Vec<Arc<Item>> {
        let (newer, older) = self.readings.split_at(self.next.min(self.readings.len()));
        let is_of = |of: &str| device.is_none_or(|device| device == of);
        let readings = older.iter().chain(newer).filter(|kept| is_of(&kept.device));
        let failures = self.failures.iter().filter(|item| is_of(&item.device)).cloned();
        let mut all: Vec<Arc<Item>> = readings.map(|kept| Arc::new(kept.item())).chain(failures).collect();
        all.sort_by_key(|item| item.boottime_ms);
        all.drain(..all.len().saturating_sub(count));
        all
    }
}

/// The sending end, for the path. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tail {
    sender: broadcast::Sender<Arc<Item>>,
    watchers: Arc<AtomicUsize>,
    recent: Arc<Mutex<Recent>>,
}

impl Default for Tail {
    fn default() -> Tail {
        Tail::new(BACKLOG)
    }
}

impl Tail {
    /// A tail that keeps up to `backlog` readings (at least 1) for slow watchers.
    pub fn new(backlog: usize) -> Tail {
        Tail {
            sender: broadcast::Sender::new(backlog.max(1)),
            watchers: Arc::new(AtomicUsize::new(0)),
            recent: Arc::default(),
        }
    }

    /// Whether there is a watcher.
    pub fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        // Whatever panicked left at most one entry half filled.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a reading, and sends it to all watchers. Never blocks.
    pub fn push(&self, reading: &Reading<'_>) {
        let mut recent = self.recent();
        let kept = recent.keep(reading);
        if self.is_watched() {
            self.send(Arc::new(kept.item()));
        }
    }

    /// The same for a [`FailedHandshake`] or a [`RefusedConnect`].
    pub fn push_failure(&self, failed: impl Into<Item>) {
        let item = Arc::new(failed.into());
        let failures = &mut self.recent().failures;
        if failures.len() >= RECENT_FAILURES {
            failures.pop_front();
        }
        failures.push_back(Arc::clone(&item));
        self.send(item);
    }

    /// The same for a step of a command, which is shown to watchers only.
    pub fn push_command(&self, seen: &CommandSeen<'_>) {
        if self.is_watched() {
            self.send(Arc::new(Item::from(seen)));
        }
    }

    /// A stored reading was delivered, or will not be, for `reason`. One that is not among the last
    /// [`RECENT`] is not shown.
    pub fn settle(
        &self,
        record: RecordId,
        delivery: Delivery,
        reason: Option<&dyn fmt::Display>,
        received: Option<UnixTime>,
        boottime_ms: u64,
    ) {
        let mut recent = self.recent();
        let Some(at) = recent.records.iter().position(|kept| *kept == Some(record)) else { return };
        let Some(kept) = recent.readings.get_mut(at) else { return };
        kept.delivery = Some(delivery);
        if self.is_watched() {
            self.send(Arc::new(Item {
                received: received.map(|time| time.to_string()),
                boottime_ms,
                outcome: delivery.as_str().to_owned(),
                reason: reason.map(ToString::to_string),
                payload: None,
                payload_hex: None,
                delivery: None,
                ..kept.item()
            }));
        }
    }

    fn send(&self, item: Arc<Item>) {
        // Fails only if there is no watcher.
        let _ = self.sender.send(item);
    }

    /// Watches from now on, all devices or one, after the `last` readings before.
    pub fn watch(&self, device: Option<String>, last: usize) -> Watcher {
        let recent = self.recent();
        let first = recent.last(device.as_deref(), last.min(RECENT)).into();
        let receiver = self.sender.subscribe();
        self.watchers.fetch_add(1, Ordering::Relaxed);
        Watcher { receiver, first, device, watchers: Arc::clone(&self.watchers) }
    }
}

/// The receiving end of a watcher.
#[derive(Debug)]
pub struct Watcher {
    receiver: broadcast::Receiver<Arc<Item>>,
    /// What was before it began.
    first: VecDeque<Arc<Item>>,
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
        if let Some(item) = self.first.pop_front() {
            return Some(Seen::Item(item));
        }
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
            boottime_ms: bytes as u64,
            device,
            method: Method::Post,
            path: "t/env",
            query: None,
            topic: Some("a/b"),
            bytes,
            preview: b"21.5",
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
                "boottime_ms": 14, "device": "door-7", "method": "POST", "path": "t/env", "topic": "a/b",
                "bytes": 14, "payload": "21.5", "outcome": "stored", "record": "0000000000000001-2"
            })
        );
        let refused = Reading {
            query: Some("unit=C"),
            topic: None,
            preview: b"\xff",
            outcome: Outcome::Refused(4, 3),
            reason: Some(&"no rule matches"),
            received: Some(UnixTime(1_700_000_000_123)),
            ..reading("door-7", 14)
        };
        assert_eq!(
            serde_json::to_value(Item::from(&refused)).unwrap(),
            serde_json::json!({
                "received": "2023-11-14T22:13:20.123Z", "boottime_ms": 14, "device": "door-7", "method": "POST", "path": "t/env",
                "query": "unit=C", "topic": null, "bytes": 14, "payload_hex": "ff", "outcome": "refused", "record": null, "code": "4.03",
                "reason": "no rule matches"
            })
        );
    }

    fn all(watcher: &mut Watcher) -> Vec<Arc<Item>> {
        let mut items = Vec::new();
        while let Some(item) = watcher.first.pop_front() {
            items.push(item);
        }
        while let Ok(item) = watcher.receiver.try_recv() {
            items.push(item);
        }
        items
    }

    #[test]
    fn a_refused_mqtt_publish_has_the_code_of_mqtt() {
        let refused = Reading { topic: None, outcome: Outcome::RefusedMqtt(0x87), ..reading("a", 1) };
        let item = Item::from(&refused);
        assert_eq!((item.outcome.as_str(), item.code.as_deref()), ("refused", Some("0x87")));
    }

    #[test]
    fn a_watcher_begins_with_the_last_readings_of_its_device_and_the_oldest_first() {
        let tail = Tail::new(4);
        for bytes in 1..=RECENT + 10 {
            tail.push(&reading(if bytes % 2 == 0 { "a" } else { "b" }, bytes));
        }
        assert!(!tail.is_watched());
        let bytes = |watcher: &mut Watcher| all(watcher).iter().map(|item| item.bytes).collect::<Vec<_>>();
        assert_eq!(bytes(&mut tail.watch(Some("a".into()), 3)), [134, 136, 138]);
        assert_eq!(bytes(&mut tail.watch(None, 2)), [137, 138]);
        assert_eq!(bytes(&mut tail.watch(None, usize::MAX)).len(), RECENT);
        let mut watcher = tail.watch(None, 0);
        assert!(tail.is_watched());
        tail.push(&reading("a", 2));
        assert_eq!(bytes(&mut watcher), [2]);
        drop(watcher);
        assert!(!tail.is_watched());
    }

    #[test]
    fn the_delivery_of_a_reading_is_shown_once_and_with_it_afterwards() {
        let tail = Tail::new(4);
        let (first, second) = (RecordId { run: 1, sequence: 2 }, RecordId { run: 1, sequence: 3 });
        let mut watcher = tail.watch(None, 0);
        tail.push(&reading("a", 14));
        tail.settle(first, Delivery::Delivered, None, None, 20);
        tail.settle(second, Delivery::Delivered, None, None, 20);
        let seen = all(&mut watcher);
        let outcomes: Vec<&str> = seen.iter().map(|item| item.outcome.as_str()).collect();
        assert_eq!(outcomes, ["stored", "delivered"]);
        assert_eq!((&seen[1].record, seen[1].device.as_str()), (&seen[0].record, "a"));
        let later = all(&mut tail.watch(Some("a".into()), 10));
        assert_eq!((later.len(), later[0].delivery.as_deref()), (1, Some("delivered")));
    }

    #[test]
    fn failed_handshakes_stand_among_the_readings_and_do_not_push_them_out() {
        let tail = Tail::new(4);
        tail.push(&reading("door-7", 7));
        for boottime_ms in 0..1_000 {
            tail.push_failure(&FailedHandshake {
                received: None,
                boottime_ms,
                peer: ([192, 0, 2, 7], 9).into(),
                identity: Some(&"door-7"),
                device: (boottime_ms == 999).then_some("door-7"),
                reason: &"wrong key",
            });
        }
        let seen = all(&mut tail.watch(None, usize::MAX));
        assert_eq!((seen.len(), seen[0].outcome.as_str()), (RECENT_FAILURES + 1, "stored"));
        let own = all(&mut tail.watch(Some("door-7".into()), 10));
        assert_eq!((own.len(), own[1].peer.as_deref()), (2, Some("192.0.2.7:9")));
        assert_eq!(
            (own[1].outcome.as_str(), own[1].identity.as_deref()),
            ("handshake_failed", Some("door-7"))
        );
    }

    #[test]
    fn a_refused_connect_is_shown_for_the_device_that_it_claims_to_be() {
        let tail = Tail::new(4);
        tail.push_failure(&RefusedConnect {
            received: None,
            boottime_ms: 3,
            peer: "192.0.2.7",
            username: Some("cam"),
            device: Some("cam-1"),
            reason: "wrong password",
        });
        let own = all(&mut tail.watch(Some("cam-1".into()), 10));
        let item = own.first().expect("an item");
        assert_eq!((item.outcome.as_str(), item.identity.as_deref()), ("connect_refused", Some("cam")));
        assert!(all(&mut tail.watch(Some("cam-2".into()), 10)).is_empty());
    }

    #[test]
    fn a_payload_is_shown_as_text_or_in_hexadecimal_and_its_beginning_only() {
        assert_eq!(shown(b"", 0), (None, None));
        assert_eq!(shown("tür\n".as_bytes(), 5), (Some("tür\n".into()), None));
        assert_eq!(shown(b"\x1b[2J", 4), (None, Some("1b5b324a".into())));
        assert_eq!(shown(b"a\xc3", 9), (Some("a".into()), None), "cut within a character");
        assert_eq!(shown(b"a\xc3", 2), (None, Some("61c3".into())));
        let long = Reading { preview: &[b'x'; 200], ..reading("a", 200) };
        assert_eq!(Item::from(&long).payload.map(|text| text.len()), Some(PREVIEW_BYTES));
    }

    #[test]
    fn a_watcher_that_is_behind_hears_how_many_it_missed() {
        let tail = Tail::new(4);
        let mut watcher = tail.watch(None, 0);
        for bytes in 0..10 {
            tail.push(&reading("a", bytes));
        }
        assert_eq!(run(watcher.next()), Some(Seen::Missed(6)));
        assert!(matches!(run(watcher.next()), Some(Seen::Item(item)) if item.bytes == 6));
    }

    #[test]
    fn a_watcher_of_one_device_sees_only_that_and_ends_with_the_path() {
        let tail = Tail::new(8);
        let mut watcher = tail.watch(Some("b".into()), 0);
        tail.push(&reading("a", 1));
        tail.push(&reading("b", 2));
        drop(tail);
        assert!(matches!(run(watcher.next()), Some(Seen::Item(item)) if item.bytes == 2));
        assert_eq!(run(watcher.next()), None);
    }
}
