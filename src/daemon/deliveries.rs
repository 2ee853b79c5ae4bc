//! Follows what becomes of records at the broker: for `tail`, for the counter of each device, and
//! for a test that waits for its reading. Gives the uplink's packets to `trace`.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::clock::SystemClock;
use crate::clock::WallClock as _;
use crate::control::tail::{Delivery, Tail};
use crate::control::traffic::{self, Traffic};
use crate::message::RecordId;
use crate::northbound::anatomy;
use crate::northbound::io::observer::{Direction, Observer};
use crate::northbound::reason_code::Cause;
use crate::northbound::settled::{DeviceKey, Settled, Verdict};
use crate::northbound::wire::Version;

/// Devices that are counted, at most; 16 bytes each.
const COUNTED_MAX: usize = 65_536;
/// Readings of tests that are followed, at most; the oldest goes first.
const TESTS_MAX: usize = 16;

/// What became of records since the start.
pub struct Deliveries {
    tail: Tail,
    traffic: Traffic,
    clock: Arc<SystemClock>,
    counts: RefCell<HashMap<DeviceKey, u64>>,
    tests: RefCell<VecDeque<Test>>,
    parts: RefCell<Parts>,
}

/// What became of the parts of one answer.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Those of which nothing is known yet.
    pub open: BTreeSet<RecordId>,
    /// How many the broker took.
    pub taken: u64,
    /// How many it refused, or are lost otherwise.
    pub refused: u64,
    /// Why the last of these was.
    pub cause: Option<Cause>,
}

/// A reading of a test.
struct Test {
    record: RecordId,
    verdict: Option<Verdict>,
    waits: Option<oneshot::Sender<Verdict>>,
}

impl Deliveries {
    /// Nothing was delivered yet.
    pub fn new(tail: Tail, traffic: Traffic, clock: Arc<SystemClock>) -> Deliveries {
        let (counts, tests, parts) = Default::default();
        Deliveries { tail, traffic, clock, counts, tests, parts }
    }

    /// Readings of this device that the broker acknowledged since the start.
    pub fn of(&self, device: &str) -> u64 {
        self.counts.borrow().get(&DeviceKey::of(device)).copied().unwrap_or_default()
    }

    /// Forgets all devices but these.
    pub fn retain<'d>(&self, devices: impl Iterator<Item = &'d str>) {
        let counts = &mut *self.counts.borrow_mut();
        let kept = devices.filter_map(|device| counts.remove_entry(&DeviceKey::of(device))).collect();
        *counts = kept;
    }

    /// Follows the parts of another answer from now on: one at a time.
    pub fn follow_parts(&self) {
        *self.parts.borrow_mut() = Parts::default();
    }

    /// Follows this part, too.
    pub fn follow_part(&self, record: RecordId) {
        self.parts.borrow_mut().open.insert(record);
    }

    /// What became of them so far.
    pub fn parts(&self) -> Parts {
        self.parts.borrow().clone()
    }

    /// Follows the reading of a test from now on.
    pub fn follow(&self, record: RecordId) {
        let mut tests = self.tests.borrow_mut();
        if tests.len() >= TESTS_MAX {
            tests.pop_front();
        }
        tests.push_back(Test { record, verdict: None, waits: None });
    }

    /// What becomes of the reading of a test; `None` if it is not followed. The second to wait
    /// takes the place of the first.
    pub fn wait(&self, record: RecordId) -> Option<oneshot::Receiver<Verdict>> {
        let mut tests = self.tests.borrow_mut();
        let test = tests.iter_mut().find(|test| test.record == record)?;
        let (sender, receiver) = oneshot::channel();
        match test.verdict {
            Some(verdict) => drop(sender.send(verdict)),
            None => test.waits = Some(sender),
        }
        Some(receiver)
    }
}

impl Parts {
    fn settle(&mut self, record: RecordId, verdict: Verdict) {
        let is_over = !matches!(verdict, Verdict::HeldBack(_));
        if self.open.is_empty() || !is_over || !self.open.remove(&record) {
            return;
        }
        match verdict {
            Verdict::Delivered => self.taken += 1,
            Verdict::Rejected(cause) => (self.refused, self.cause) = (self.refused + 1, Some(cause)),
            Verdict::Expired | Verdict::HeldBack(_) => self.refused += 1,
        }
    }
}

impl Observer for Deliveries {
    fn settled(&self, settled: &[Settled]) {
        let moment = self.clock.moment();
        for Settled { id, device, verdict, .. } in settled {
            if let (Verdict::Delivered, Some(device)) = (verdict, device)
                && *device != DeviceKey::NOBODY
                && !device.is_reply()
            {
                let mut counts = self.counts.borrow_mut();
                if counts.len() < COUNTED_MAX || counts.contains_key(device) {
                    *counts.entry(*device).or_default() += 1;
                }
            }
            let (delivery, reason): (Delivery, Option<&dyn Display>) = match verdict {
                Verdict::Delivered => (Delivery::Delivered, None),
                Verdict::HeldBack(cause) => (Delivery::HeldBack, Some(cause)),
                Verdict::Rejected(cause) => (Delivery::Rejected, Some(cause)),
                Verdict::Expired => (Delivery::Expired, None),
            };
            self.tail.settle(*id, delivery, reason, moment.wall, moment.boottime_ms);
            self.parts.borrow_mut().settle(*id, *verdict);
            for test in self.tests.borrow_mut().iter_mut().filter(|test| test.record == *id) {
                test.verdict = Some(*verdict);
                if let Some(waits) = test.waits.take() {
                    let _ = waits.send(*verdict);
                }
            }
        }
    }

    fn wants_packets(&self) -> bool {
        self.traffic.wants(traffic::UPLINK)
    }

    fn packet(&self, broker: SocketAddr, version: Version, direction: Direction, packet: &[u8]) {
        // The password is nobody's business, whatever is asked for.
        let without_password = anatomy::without_password(packet);
        let seen = traffic::Seen {
            at: &self.clock.raw().to_string(),
            boottime_ms: self.clock.moment().boottime_ms,
            direction: match direction {
                Direction::In => "in",
                Direction::Out => "out",
            },
            protocol: "mqtt",
            peer: Some(broker),
            payload_at: anatomy::payload_at(version, packet),
            bytes: without_password.as_deref().unwrap_or(packet),
        };
        self.traffic.push(traffic::UPLINK, &seen);
    }
}
