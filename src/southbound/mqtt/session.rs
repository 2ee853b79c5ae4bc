//! One session of a client: what outlives its connection (MQTT 5.0 §4.1).
//!
//! **Order.** Acknowledgements leave in the order in which the publishes came (§4.6), however the
//! journal's lanes complete: an answer waits for those before it.
//!
//! **Exactly once.** A packet id of QoS 2 is known from its publish to its PUBREL, over connections
//! too:
//!
//! | state of an id | a publish with it again | completed |
//! |---|---|---|
//! | not known | a new publish | - |
//! | on its way to disk | not handed on again; answered when it is stored | stored: known as received; else not known |
//! | received | PUBREC at once | - |
//!
//! Sessions are in memory: after a restart of the gateway none is present, and a publish that was
//! stored but not released comes again under a new record id.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustls_pki_types::CertificateDer;

use super::answer::Denial;
use super::bus::{BusMessage, Subscription};
use super::credential::Credential;
use super::local_rights::{Allowed, Reception};
use super::packet::{Terms, Will};
use super::queue::{QUEUED_ID_MAX, Queue};
use crate::gate::filter::Remembered;
use crate::gate::stage::DeviceIndex;

/// What a publish is answered; `Ok` = success.
pub(super) type Outcome = Result<(), Denial>;

/// One session.
pub(super) struct Session {
    pub(super) device: DeviceIndex,
    pub(super) client_id: Box<str>,
    /// Names the device and the client id as the sender of a message, over sessions.
    pub(super) publisher: u64,
    /// Its connection, if it has one.
    pub(super) connection: Option<u64>,
    /// How long it outlives its connection.
    pub(super) expiry: Duration,
    /// When it ends, while it has no connection.
    pub(super) expires_at: Option<Instant>,
    /// What is published when the connection is lost.
    pub(super) will: Option<Will>,
    /// When the will is published.
    pub(super) will_at: Option<Instant>,
    /// What proved that its client is the device, at the last connect.
    pub(super) credential: Credential,
    /// The chain of the certificate that `credential` is, where the session may outlive its
    /// connection: it is judged again when lists or CAs change.
    pub(super) chain: Option<Rc<[CertificateDer<'static>]>>,
    pub(super) subscriptions: Vec<Subscription>,
    /// What its device may publish to local clients, and receive from them.
    pub(super) publishes: Allowed,
    pub(super) receives: Allowed,
    /// What it got last, for the filters of its rules.
    pub(super) remembered: Option<Box<Remembered>>,
    /// Messages of QoS 1 and 2 for it.
    pub(super) queue: Queue,
    /// It gets what is on the bus.
    pub(super) is_on_bus: bool,
    /// QoS 1 and 2 publishes of this connection that are not answered yet, in order.
    unanswered: VecDeque<Unanswered>,
    received: HashMap<u16, Receipt>,
    /// Messages of the broker that the client has not acknowledged, by packet id.
    pub(super) deliveries: HashMap<u16, u64>,
    count: u64,
}

struct Unanswered {
    count: u64,
    id: u16,
    exactly_once: bool,
    outcome: Option<Outcome>,
}

/// The state of a packet id of QoS 2.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Receipt {
    /// On its way to disk as the publish of this count.
    Pending(u64),
    /// Stored; PUBREL has not come.
    Stored,
}

/// A publish to be acknowledged.
pub(super) struct Acknowledgement {
    pub(super) id: u16,
    pub(super) exactly_once: bool,
    pub(super) outcome: Outcome,
}

/// Never 0, which is the sender of what no client has published.
fn publisher(device: &str, client_id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (device, client_id).hash(&mut hasher);
    hasher.finish().max(1)
}

impl Session {
    /// `id`: that of the device.
    pub(super) fn new(device: DeviceIndex, id: &str, client_id: &str, credential: Credential) -> Session {
        Session {
            device,
            client_id: client_id.into(),
            publisher: publisher(id, client_id),
            connection: None,
            expiry: Duration::ZERO,
            expires_at: None,
            will: None,
            will_at: None,
            credential,
            chain: None,
            subscriptions: Vec::new(),
            publishes: Allowed::default(),
            receives: Allowed::default(),
            remembered: None,
            queue: Queue::default(),
            is_on_bus: false,
            unanswered: VecDeque::new(),
            received: HashMap::new(),
            deliveries: HashMap::new(),
            count: 0,
        }
    }

    /// Whether it has a connection and a subscription that gets local messages. One that is on the
    /// bus stays to the end of its connection: to join is dear, and a client may subscribe and
    /// unsubscribe as fast as it writes.
    pub(super) fn wants_bus(&self) -> bool {
        let is_local = |subscription: &Subscription| subscription.is_local;
        self.connection.is_some() && (self.is_on_bus || self.subscriptions.iter().any(is_local))
    }

    /// Whether it has a subscription whose messages are queued.
    pub(super) fn wants_queue(&self) -> bool {
        self.subscriptions.iter().any(|subscription| subscription.is_local && subscription.is_queued)
    }

    /// How it gets a message, from all its subscriptions that match: with the highest QoS of them,
    /// the retain flag if one of them keeps it, and all their identifiers (MQTT 5.0 §3.3.4).
    /// `None`: none matches. `now` is the time of the bus.
    pub(super) fn terms(&self, message: &BusMessage<'_>, now: u64) -> Option<(u8, Terms)> {
        let mut found: Option<(u8, Terms)> = None;
        for known in &self.subscriptions {
            let is_own = known.options.excludes(message, self.publisher);
            if !known.is_local || is_own || !known.filter.matches(message.topic) {
                continue;
            }
            let (qos, terms) = found.get_or_insert_default();
            *qos = known.granted_qos().min(message.qos).max(*qos);
            terms.retain |= message.retain && known.options.retain_as_published;
            terms.identifiers.extend(known.options.identifier);
            terms.expiry = message.seconds_left(now);
        }
        found
    }

    /// Whether a message of QoS 1 or 2 is to be queued for it, and then is noted as what it got.
    pub(super) fn receive_queued(&mut self, now: Instant, message: &BusMessage<'_>) -> Reception {
        let wants = |known: &Subscription| {
            let is_own = known.options.excludes(message, self.publisher);
            known.is_local && known.is_queued && !is_own && known.filter.matches(message.topic)
        };
        // A session that ends with its connection, and has none, gets nothing any more.
        let is_there = self.connection.is_some() || !self.expiry.is_zero();
        if !is_there || !self.subscriptions.iter().any(wants) {
            return Reception::NotAllowed;
        }
        let found = self.receives.receive(now, message, self.remembered.as_deref());
        if found == Reception::Delivered {
            self.receives.note(now, message, &mut self.remembered);
        }
        found
    }

    /// How a queued message is sent; `None`: the rules do not allow it any more. What was queued
    /// for a subscription that is gone is still sent (MQTT 5.0 §3.10.4).
    pub(super) fn queued_terms(&self, message: &BusMessage<'_>, now: u64) -> Option<(u8, Terms)> {
        let terms = || Terms { expiry: message.seconds_left(now), ..Terms::default() };
        let found = self.terms(message, now);
        self.receives.topic(message.topic).then(|| found.unwrap_or_else(|| (1, terms())))
    }

    /// The next thing due while there is no connection.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match (self.will_at, self.expires_at) {
            (Some(will), Some(end)) => Some(will.min(end)),
            (will, end) => will.or(end),
        }
    }

    /// A packet id for a message of the broker: above those of queued ones.
    pub(super) fn free_delivery_id(&self) -> Option<u16> {
        (QUEUED_ID_MAX + 1..=u16::MAX).find(|id| !self.deliveries.contains_key(id))
    }

    /// The count of a new publish.
    pub(super) fn next_count(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// Publishes that are not answered yet.
    pub(super) fn unanswered_count(&self) -> usize {
        self.unanswered.len()
    }

    /// Packet ids of QoS 2 that are known.
    pub(super) fn received_count(&self) -> usize {
        self.received.len()
    }

    /// Whether a publish of QoS 2 with this id has come before; it is then answered without being
    /// handed on again.
    pub(super) fn is_repeated(&mut self, id: u16) -> bool {
        let Some(&receipt) = self.received.get(&id) else { return false };
        let (count, outcome) = match receipt {
            Receipt::Stored => (self.next_count(), Some(Ok(()))),
            Receipt::Pending(count) if self.unanswered.iter().any(|known| known.count == count) => {
                return true;
            }
            Receipt::Pending(count) => (count, None),
        };
        self.unanswered.push_back(Unanswered { count, id, exactly_once: true, outcome });
        true
    }

    /// A QoS 1 or 2 publish was handed on, or is answered as soon as it is its turn.
    pub(super) fn note_publish(&mut self, count: u64, id: u16, exactly_once: bool, outcome: Option<Outcome>) {
        if exactly_once {
            self.received.insert(id, Receipt::Pending(count));
        }
        self.unanswered.push_back(Unanswered { count, id, exactly_once, outcome });
    }

    /// The journal is done with the publish of this count. Returns whether an answer may be due.
    pub(super) fn complete(&mut self, count: u64, outcome: Outcome) -> bool {
        if let Some(known) = self.unanswered.iter_mut().find(|known| known.count == count) {
            known.outcome = Some(outcome);
            return true;
        }
        // Its connection was lost: the client will ask for it again.
        let lost = self.received.iter().find(|(_, receipt)| **receipt == Receipt::Pending(count));
        if let Some((&id, _)) = lost {
            self.settle(id, outcome);
        }
        false
    }

    fn settle(&mut self, id: u16, outcome: Outcome) {
        match outcome {
            Ok(()) => drop(self.received.insert(id, Receipt::Stored)),
            Err(_) => drop(self.received.remove(&id)),
        }
    }

    /// The next publish to be acknowledged, if it is its turn.
    pub(super) fn poll_acknowledgement(&mut self) -> Option<Acknowledgement> {
        let outcome = self.unanswered.front()?.outcome?;
        let Unanswered { id, exactly_once, .. } = self.unanswered.pop_front()?;
        if exactly_once {
            self.settle(id, outcome);
        }
        Some(Acknowledgement { id, exactly_once, outcome })
    }

    /// PUBREL came. Returns whether all that came with this id is stored: one that is on its way to
    /// disk has had no PUBREC that could be answered. Of an id that is not known PUBCOMP was lost,
    /// or PUBREC came before a restart.
    pub(super) fn release(&mut self, id: u16) -> bool {
        match self.received.get(&id) {
            Some(Receipt::Stored) => self.received.remove(&id).is_some(),
            Some(_) => false,
            None => true,
        }
    }

    /// The connection is gone: its publishes will be sent again, and answered then.
    pub(super) fn disconnected(&mut self) {
        self.connection = None;
        for Unanswered { id, exactly_once, outcome, .. } in std::mem::take(&mut self.unanswered) {
            if let (true, Some(outcome)) = (exactly_once, outcome) {
                self.settle(id, outcome);
            }
        }
        self.unanswered = VecDeque::new();
    }
}
