//! The pipeline: what happens to one reading once its sender is known.
//!
//! ```text
//!                      ┌─ Refused ── the gate does not let it pass
//!                      ├─ Filtered ─ its rule does not publish it: acknowledged all the same
//! handle_reading ─ gate ─ Passed ─── qos = 0: for the uplink, not stored
//!                      └─ store.append ─┬─ Unstored ── not taken; the quota is given back
//!                                       └─ … ─ handle_completion ─ Completed{ticket, stored}, Shown
//! ```
//!
//! It stands between the southbound sides, which call it, and the gate and the journal, which it
//! calls. It knows no side: a [`Ticket`] says whom a completion is for, and the caller routes it.
//! It logs nothing, has no clock and no socket; whatever is to be answered, logged, sent or shown
//! leaves it as the [`Disposition`] of a call or as an [`Event`].
//!
//! | file | idea |
//! |---|---|
//! | `event` | what leaves, kept in memory that is used again |
//! | `refusal` | which counter a refusal belongs to |
//! | `settling` | readings that others are measured against, until they are on disk |
//! | `watch` | readings on their way to disk, for `tail` |
//!
//! Invariants: a reading is counted once as admitted, filtered or refused, and if admitted once
//! more as stored or not; a reading that the journal does not take costs its device no quota;
//! nothing is completed as stored before the store says that it is; a reading costs no allocation,
//! unless it is refused or somebody watches.

use std::time::Instant;

use crate::gate::Gate;
use crate::gate::LocalSize;
use crate::gate::reply::Outcome;
use crate::gate::settings::QoS;
use crate::gate::stage::{Admitted, DeviceIndex, Malformed, Mapped, Received, Refusal, TopicFault};
use crate::journal::Refused;
use crate::message::{Method, Name, RecordId};
use crate::number_map::NumberMap;
use crate::proto::address::Ticket;
use crate::telemetry::counters::{Counter, Counters};

mod event;
#[cfg(test)]
pub(crate) mod fake;
mod refusal;
mod settling;
#[cfg(test)]
mod tests;
mod watch;

pub use event::{Event, Passed};
pub use watch::{Attention, PREVIEW_BYTES, Watched};

use event::Events;
use settling::{Followed, Settling};
use watch::Waiting;

/// Where readings are stored: the journal, or a fake one in a test.
pub trait ReadingStore {
    /// Takes a reading. Its ticket comes back by [`ReadingStore::poll_completion`], stored or not.
    ///
    /// # Errors
    /// [`Refused`]: nothing was taken, no completion comes.
    fn append(&mut self, reading: &Mapped<'_>, ticket: Ticket) -> Result<RecordId, Refused>;

    /// What became of a reading that was taken; `None` when all are told.
    fn poll_completion(&mut self) -> Option<Completion>;
}

/// What became of a reading that the store took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// As given to [`ReadingStore::append`].
    pub ticket: Ticket,
    /// Whether it is durable.
    pub stored: bool,
}

/// Where a reading went. A refusal is borrowed from the event that tells of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Disposition<'p> {
    /// To the store: its ticket comes back by [`Event::Completed`].
    Journaled,
    /// By a rule with `qos = 0`, straight to the uplink by [`Event::Passed`].
    Passed,
    /// Nowhere: its rule does not publish it, and it is to be acknowledged. If the reading that it
    /// was measured against is not on disk yet, it is [`Disposition::Journaled`] instead.
    Filtered,
    /// Nowhere: the gate refused it.
    Refused(&'p Refusal),
    /// Nowhere: the store does not take it. The sender may offer it again, unless it is too large.
    Unstored(Refused),
}

/// Where a reading of the operator went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tested {
    /// To the store, under this id: its ticket comes back by [`Event::Completed`].
    Journaled(RecordId),
    /// By a rule with `qos = 0`, straight to the uplink by [`Event::Passed`].
    Passed,
    /// Nowhere: the gate refused it.
    Refused(Refusal),
    /// Nowhere: the store does not take it.
    Unstored(Refused),
}

/// Why the reply to a command is not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyFault {
    /// Its topic is not allowed, and will not be.
    Topic(TopicFault),
    /// The store does not take it. Unless it is too large, it may later.
    Unstored(Refused),
}

/// All that lies between the southbound sides and the store.
#[derive(Debug)]
pub struct Pipeline<S> {
    /// Which devices there are and what each may do.
    pub gate: Gate,
    /// What happened so far, on the southbound sides too.
    pub counters: Counters,
    store: S,
    attention: Attention,
    mirrors: bool,
    waiting: Waiting,
    settling: Settling,
    /// Whose the readings on their way to disk are, which may be another device's than the
    /// sender's.
    owners: NumberMap<Ticket, DeviceIndex>,
    events: Events,
}

impl<S: ReadingStore> Pipeline<S> {
    /// A pipeline into this store; nobody watches.
    pub fn new(gate: Gate, store: S) -> Pipeline<S> {
        Pipeline {
            gate,
            counters: Counters::default(),
            store,
            attention: Attention::Nobody,
            mirrors: false,
            waiting: Waiting::default(),
            settling: Settling::default(),
            owners: NumberMap::default(),
            events: Events::default(),
        }
    }

    /// Says which readings have an [`Event::Shown`] once they are stored.
    pub fn watch(&mut self, attention: Attention) {
        self.attention = attention;
    }

    /// Takes a reading of this device through the gate and to the store. `ticket` comes back if it
    /// is journaled, and then only.
    pub fn handle_reading(
        &mut self,
        now: Instant,
        device: DeviceIndex,
        ticket: Ticket,
        received: Received<'_>,
    ) -> Disposition<'_> {
        self.events.of_mqtt(matches!(ticket, Ticket::Mqtt(_)));
        let told = matches!(ticket, Ticket::Coap { .. });
        let (device, received) = match self.gate.speaker(now, device, received.path) {
            Ok((device, path)) => (device, Received { path, ..received }),
            Err(refusal) => return Disposition::Refused(self.refuse(device, &received, refusal)),
        };
        if told && let Some(refusal) = self.gate.check_mute(now, device, received.path.as_str()) {
            return Disposition::Refused(self.refuse(device, &received, refusal));
        }
        let mapped = match self.gate.admit(now, device, received) {
            Ok(Admitted::Passed(mapped)) => mapped,
            Ok(Admitted::Filtered(filtered)) => {
                self.counters.count(Counter::ReadingsFiltered);
                let followed = filtered.behind.map(|behind| self.settling.follow(behind, ticket));
                let disposition = match followed.unwrap_or(Followed::Settled) {
                    Followed::Settled => Disposition::Filtered,
                    Followed::Waits => Disposition::Journaled,
                    Followed::Full => {
                        self.gate.give_back(device, received.payload.len());
                        let name = self.gate.id(device).cloned();
                        self.events.unstored(name, &received, Refused::LaneFull);
                        return Disposition::Unstored(Refused::LaneFull);
                    }
                };
                self.events.filtered(&filtered);
                return disposition;
            }
            Err(refusal) => {
                let refusal = if told { self.gate.note_over_quota(now, device, refusal) } else { refusal };
                return Disposition::Refused(self.refuse(device, &received, refusal));
            }
        };
        let number = mapped.number();
        self.counters.count(Counter::ReadingsAdmitted);
        if mapped.qos() == QoS::AtMostOnce {
            self.counters.count(Counter::ReadingsUnpromised);
            self.events.passed(&mapped);
            if self.mirrors {
                self.events.mirrored(&mapped);
            }
            return Disposition::Passed;
        }
        match self.store.append(&mapped, ticket) {
            Ok(id) => {
                self.counters.add(Counter::BytesStored, received.payload.len() as u64);
                let spare = || self.events.spare();
                self.waiting.keep(self.attention, ticket, id, &mapped.content(), spare);
                if self.mirrors {
                    self.events.mirrored(&mapped);
                }
                self.owners.insert(ticket, device);
                if let Some(number) = number {
                    self.settling.keep(ticket, device, number);
                }
                Disposition::Journaled
            }
            Err(refused) => {
                self.counters.count(Counter::ReadingsUnstored);
                self.gate.give_back(device, received.payload.len());
                if refused == Refused::DeviceShare {
                    self.counters.count(Counter::ReadingsOverShare);
                    self.gate.note_over_share(now, device);
                }
                if let Some(number) = number {
                    self.gate.forget(device, number);
                }
                let name = self.gate.id(device).cloned();
                self.events.unstored(name, &received, refused);
                Disposition::Unstored(refused)
            }
        }
    }

    /// Takes a reading that the operator sends in the place of a device, as
    /// [`Pipeline::handle_reading`] does; the device's quota, presence and counters stay as they
    /// are.
    pub fn handle_test(
        &mut self,
        now: Instant,
        device: DeviceIndex,
        ticket: Ticket,
        received: Received<'_>,
    ) -> Tested {
        let mapped = match self.gate.rehearse(now, device, received) {
            Ok(mapped) => mapped,
            Err(refusal) => return Tested::Refused(refusal),
        };
        self.counters.count(Counter::ReadingsAdmitted);
        if mapped.qos() == QoS::AtMostOnce {
            self.counters.count(Counter::ReadingsUnpromised);
            self.events.passed(&mapped);
            return Tested::Passed;
        }
        match self.store.append(&mapped, ticket) {
            Ok(id) => {
                self.counters.add(Counter::BytesStored, received.payload.len() as u64);
                let spare = || self.events.spare();
                self.waiting.keep(self.attention, ticket, id, &mapped.content(), spare);
                Tested::Journaled(id)
            }
            Err(refused) => {
                self.counters.count(Counter::ReadingsUnstored);
                Tested::Unstored(refused)
            }
        }
    }

    /// Takes the reply to a command to the store; the ticket of its number comes back by
    /// [`Event::Completed`].
    ///
    /// # Errors
    /// [`ReplyFault`]: nothing was taken.
    pub fn handle_reply(&mut self, number: u64, outcome: &Outcome<'_>) -> Result<RecordId, ReplyFault> {
        let mapped = self.gate.reply(outcome).map_err(ReplyFault::Topic)?;
        self.store.append(&mapped, Ticket::Reply(number)).map_err(ReplyFault::Unstored)
    }

    /// Decides whether a reading could pass of which only the first block has come, and whose
    /// payload will have at least `bytes`: the largest payload it may have, in bytes.
    ///
    /// # Errors
    /// The refusal, which is counted and told as that of a complete reading.
    pub fn handle_first_block(
        &mut self,
        now: Instant,
        device: DeviceIndex,
        received: Received<'_>,
        bytes: usize,
    ) -> Result<u32, &Refusal> {
        self.events.of_mqtt(false);
        let (device, received) = match self.gate.speaker(now, device, received.path) {
            Ok((device, path)) => (device, Received { path, ..received }),
            Err(refusal) => return Err(self.refuse(device, &received, refusal)),
        };
        if let Some(refusal) = self.gate.check_mute(now, device, received.path.as_str()) {
            return Err(self.refuse(device, &received, refusal));
        }
        match self.gate.announce(now, device, received, bytes) {
            Ok(limit) => Ok(limit),
            Err(refusal) => {
                let refusal = self.gate.note_over_quota(now, device, refusal);
                Err(self.refuse(device, &received, refusal))
            }
        }
    }

    /// Takes a request of a known device from which no reading can be made, so that it is counted,
    /// logged and shown as a refusal. `path`: what it asked for, as far as it is text; `bytes` of
    /// payload.
    pub fn handle_malformed(
        &mut self,
        now: Instant,
        device: DeviceIndex,
        method: Method,
        path: &str,
        bytes: usize,
        malformed: Malformed,
    ) -> &Refusal {
        self.events.of_mqtt(false);
        self.refuse_malformed(now, device, method, path, bytes, malformed)
    }

    /// The same of an MQTT publish whose topic is no path.
    pub fn handle_malformed_topic(
        &mut self,
        now: Instant,
        device: DeviceIndex,
        method: Method,
        topic: &str,
        bytes: usize,
        malformed: Malformed,
    ) -> &Refusal {
        self.events.of_mqtt(true);
        self.refuse_malformed(now, device, method, topic, bytes, malformed)
    }

    fn refuse_malformed(
        &mut self,
        now: Instant,
        device: DeviceIndex,
        method: Method,
        path: &str,
        bytes: usize,
        malformed: Malformed,
    ) -> &Refusal {
        self.refuse_unjudged(now, device, method, (path, bytes), Refusal::Malformed(malformed))
    }

    /// The same of a message to local clients that a `local-publish` rule of this name denies.
    pub fn handle_denied(
        &mut self,
        now: Instant,
        device: DeviceIndex,
        topic: &str,
        bytes: usize,
        rule: Name,
    ) -> &Refusal {
        self.events.of_mqtt(true);
        self.refuse_unjudged(now, device, Method::Post, (topic, bytes), Refusal::Denied { rule })
    }

    fn refuse_unjudged(
        &mut self,
        now: Instant,
        device: DeviceIndex,
        method: Method,
        (path, bytes): (&str, usize),
        refusal: Refusal,
    ) -> &Refusal {
        self.counters.count(refusal::counter(refusal.reason()));
        self.gate.note_unjudged(now, device, path, &refusal);
        let name = self.gate.id(device).cloned();
        self.events.refused(name, method, path, None, bytes, refusal)
    }

    /// Takes a message of a device to local clients, which goes to no store: it is held to the
    /// limits of its device, and to the `room` for it.
    ///
    /// # Errors
    /// The refusal, which is counted and told as that of a reading.
    pub fn handle_local(
        &mut self,
        now: Instant,
        device: DeviceIndex,
        topic: &str,
        size: LocalSize,
        room: Result<(), Refusal>,
    ) -> Result<(), &Refusal> {
        let Err(refusal) = self.gate.admit_local(now, device, topic, size, room) else { return Ok(()) };
        self.counters.count(refusal::counter(refusal.reason()));
        let name = self.gate.id(device).cloned();
        self.events.of_mqtt(true);
        Err(self.events.refused(name, Method::Post, topic, None, size.payload, refusal))
    }

    /// Says whether each accepted reading leaves by [`Event::Mirrored`] too.
    pub fn mirror(&mut self, on: bool) {
        self.mirrors = on;
    }

    fn refuse(&mut self, device: DeviceIndex, received: &Received<'_>, refusal: Refusal) -> &Refusal {
        self.counters.count(refusal::counter(refusal.reason()));
        let name = self.gate.id(device).cloned();
        let (path, bytes) = (received.path.as_str(), received.payload.len());
        let query = received.query.map(|query| query.as_str());
        self.events.refused(name, received.method, path, query, bytes, refusal)
    }

    /// Takes one completion from the store, if there is one; it leaves by [`Event::Completed`].
    /// Call it until `false` when the store has woken its user, and poll the events in between.
    pub fn handle_completion(&mut self) -> bool {
        let Some(Completion { ticket, stored }) = self.store.poll_completion() else { return false };
        if !matches!(ticket, Ticket::Reply(_)) {
            self.counters.count(if stored { Counter::ReadingsStored } else { Counter::ReadingsUnstored });
        }
        if let Some(device) = self.owners.remove(&ticket).filter(|_| !stored) {
            self.gate.note_unstored(device);
        }
        self.events.completed(ticket, stored);
        if let Some((device, number, followers)) = self.settling.completed(ticket) {
            if !stored {
                self.gate.forget(device, number);
            }
            for follower in followers {
                self.events.completed(follower, stored);
            }
        }
        if let Some(watched) = self.waiting.completed(ticket, stored) {
            self.events.shown(watched);
        }
        true
    }

    /// The next thing to act on; to be called until `None` after each round.
    pub fn poll_event(&mut self) -> Option<Event<'_>> {
        self.events.poll()
    }
}
