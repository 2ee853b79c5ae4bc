//! Which command is sent when, and what comes of it. Pure; how a device is reached is the
//! [`Carrier`]'s.
//!
//! | what happened | what is done |
//! |---|---|
//! | a command waits, and the device is reachable | it is noted on the disk as about to be sent |
//! | that is durable | it is sent; if the device is not reachable any more, it waits again |
//! | an authenticated datagram of the device | the next one is begun, also after a failure |
//! | the device acknowledges | its response is waited for as long as the rule says |
//! | it responds | the response is the outcome |
//! | it resets | `refused` |
//! | it does not acknowledge, or does not respond | `timeout` |
//! | its session ends meanwhile | `unknown` |
//! | the line of a serial device is closed before it was sent | it waits again |
//!
//! A notification is over with its acknowledgement: `notified`. One whose payload has further
//! blocks (RFC 7959 §2.6) is over when the device has fetched the last of them, for which it has as
//! long as for a response. If the device resets it, or does
//! not acknowledge it, the relation ends; after a Reset the command waits again.
//!
//! In the last two rows an idempotent command waits again, until it expires: it is begun with the
//! device's next datagram, or after a rest that grows from [`REST`] to [`REST_MAX`]. Commands on
//! other paths pass it meanwhile, as they would if it had ended; those on its path wait.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use super::command::{Command, Outcome, State, Status};
use super::mailbox::{Mailbox, Observer};
use crate::gate::Deliver;
use crate::message::Name;

/// After a command that was not answered, at least.
pub const REST: Duration = Duration::from_secs(30);
/// And at most.
pub const REST_MAX: Duration = Duration::from_secs(600);
/// After a command that could not be sent for want of room.
const SHORT_REST: Duration = Duration::from_secs(1);

/// How devices are reached: a transport, or several.
pub trait Carrier {
    /// Whether the device can take this command now.
    fn is_reachable(&mut self, now: Instant, command: &Command) -> bool;

    /// Sends a command: to an observer as a notification, else as a request. What becomes of it is
    /// told by [`Delivery::handle`] with the same number.
    ///
    /// # Errors
    /// [`NotSent`].
    fn send(
        &mut self,
        now: Instant,
        number: u64,
        command: &Command,
        observer: Option<&Observer>,
    ) -> Result<(), NotSent>;

    /// Waits no longer for the response to a command that was acknowledged.
    fn abandon(&mut self, number: u64);
}

/// Why a command was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotSent {
    /// The device cannot be reached at present.
    Unreachable,
    /// There is no room for it at present.
    Busy,
    /// It has a format that the observer cannot be told, which was told so: its relation ends (RFC
    /// 7641 §4.2).
    OtherFormat,
    /// It cannot be sent at all: why.
    Never(String),
}

/// What a carrier tells of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The device has it.
    Acknowledged,
    /// The device's answer.
    Answered(Outcome),
    /// The device does not take it.
    Rejected,
    /// The device did not acknowledge it.
    Unanswered,
    /// The way to the device is gone.
    Gone,
    /// It may have run: the outcome, unless it is tried again because it is idempotent.
    Failed(Outcome),
    /// It was not sent after all: it waits again.
    Unsent,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    /// The response is waited for until then; `None`: it is not acknowledged, which the carrier
    /// decides.
    until: Option<Instant>,
    /// It is a notification of this relation.
    relation: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    until: Instant,
    length: Duration,
}

/// The commands on their way.
#[derive(Debug, Default)]
pub struct Delivery {
    flights: BTreeMap<u64, Flight>,
    rests: HashMap<Name, Rest>,
}

impl Delivery {
    /// Something changed for this device: begins its next command if that can be sent.
    pub fn offer(&mut self, now: Instant, device: &Name, mailbox: &mut Mailbox, carrier: &mut impl Carrier) {
        let rest = self.rests.get(device).filter(|rest| now < rest.until);
        if rest.is_some_and(|rest| rest.length < REST) {
            return;
        }
        // Mostly the first of them: only of a client that subscribed to some paths, others wait.
        // The rest is that of the commands that were sent in vain.
        let ready = mailbox.candidates(device).into_iter().find(|candidate| {
            (rest.is_none() || candidate.failures == 0)
                && mailbox.command(candidate.number).is_some_and(|command| carrier.is_reachable(now, command))
        });
        if let Some(candidate) = ready {
            mailbox.begin(candidate.number);
        }
    }

    /// The device has spoken.
    pub fn handle_contact(
        &mut self,
        now: Instant,
        device: &Name,
        mailbox: &mut Mailbox,
        carrier: &mut impl Carrier,
    ) {
        if let Some(rest) = self.rests.get_mut(device) {
            rest.until = now;
        }
        self.offer(now, device, mailbox, carrier);
    }

    /// That a command is about to be sent is durable: sends it.
    pub fn handle_may_send(
        &mut self,
        now: Instant,
        number: u64,
        mailbox: &mut Mailbox,
        carrier: &mut impl Carrier,
    ) {
        if let Some(outcome) = mailbox.withdrawn(number) {
            return mailbox.end(number, outcome);
        }
        let observer = mailbox.observer(number);
        let Some(command) = mailbox.command(number) else { return };
        if command.deliver == Deliver::Observe && observer.is_none() {
            // The device has stopped observing meanwhile.
            return mailbox.unsend(number);
        }
        match carrier.send(now, number, command, observer.as_ref()) {
            Ok(()) => {
                let relation = observer.as_ref().map(|observer| observer.relation);
                let first = observer.as_ref().map(|observer| observer.block_bytes());
                self.flights.insert(number, Flight { until: None, relation });
                if let Some(Observer { relation, sequence, .. }) = observer {
                    mailbox.note_notified(now, relation, sequence);
                }
                if let Some(first) = first {
                    mailbox.note_told(number, first);
                }
            }
            Err(NotSent::Unreachable) => mailbox.unsend(number),
            Err(NotSent::Busy) => {
                self.rests
                    .insert(command.device.clone(), Rest { until: now + SHORT_REST, length: SHORT_REST });
                mailbox.unsend(number);
            }
            Err(NotSent::OtherFormat) => {
                observer.iter().for_each(|observer| mailbox.end_relation(observer.relation));
                mailbox.unsend(number);
            }
            Err(NotSent::Never(why)) => mailbox.end(number, Outcome::of(Status::Refused, why)),
        }
    }

    /// What a carrier tells of a command.
    pub fn handle(&mut self, now: Instant, number: u64, told: Told, mailbox: &mut Mailbox) {
        let Some(command) = mailbox.command(number) else {
            self.flights.remove(&number);
            return;
        };
        let Some(flight) = self.flights.get_mut(&number) else { return };
        if let Some(relation) = flight.relation {
            return self.handle_notified(now, number, relation, told, mailbox);
        }
        match told {
            Told::Acknowledged => {
                flight.until = Some(now + Duration::from_secs(command.answer_within_s.into()));
            }
            Told::Answered(outcome) => {
                self.flights.remove(&number);
                let device = command.device.clone();
                mailbox.end(number, outcome);
                self.forget_rest(&device, mailbox);
            }
            Told::Rejected => {
                self.flights.remove(&number);
                let why = "the device rejects requests (Reset)";
                mailbox.end(number, Outcome::of(Status::Refused, why));
            }
            Told::Unanswered => {
                let why = "the device did not acknowledge it: it may have run";
                self.fail(now, number, Outcome::of(Status::Timeout, why), mailbox);
            }
            Told::Gone => {
                let why = "the session of the device ended while the command was on its way: it may have run";
                self.fail(now, number, Outcome::of(Status::Unknown, why), mailbox);
            }
            Told::Failed(outcome) => self.fail(now, number, outcome, mailbox),
            Told::Unsent => {
                self.flights.remove(&number);
                mailbox.unsend(number);
            }
        }
    }

    /// What a carrier tells of a notification (RFC 7641 §3.6, §4.5).
    fn handle_notified(
        &mut self,
        now: Instant,
        number: u64,
        relation: u64,
        told: Told,
        mailbox: &mut Mailbox,
    ) {
        match told {
            Told::Acknowledged | Told::Answered(_) if mailbox.handle_told(number) => {
                self.end_notified(number, mailbox);
            }
            Told::Acknowledged | Told::Answered(_) => {
                let within = mailbox.command(number).map_or(0, |command| command.answer_within_s);
                if let Some(flight) = self.flights.get_mut(&number) {
                    flight.until = Some(now + Duration::from_secs(within.into()));
                }
            }
            Told::Rejected | Told::Unsent => {
                // It does not observe any more, so it has not taken it.
                self.flights.remove(&number);
                mailbox.end_relation(relation);
                mailbox.unsend(number);
            }
            Told::Unanswered => {
                mailbox.end_relation(relation);
                let why = "the device did not acknowledge the notification: it may have it";
                self.fail(now, number, Outcome::of(Status::Timeout, why), mailbox);
            }
            Told::Gone | Told::Failed(_) => {
                mailbox.end_relation(relation);
                let why = "the session of the device ended during the notification: it may have it";
                self.fail(now, number, Outcome::of(Status::Unknown, why), mailbox);
            }
        }
    }

    /// The device was sent these bytes of the newest message on a path.
    pub fn handle_part(&mut self, device: &Name, path: &str, bytes: Range<usize>, mailbox: &mut Mailbox) {
        if let Some(number) = mailbox.handle_part(device, path, bytes) {
            self.end_notified(number, mailbox);
        }
    }

    fn end_notified(&mut self, number: u64, mailbox: &mut Mailbox) {
        self.flights.remove(&number);
        let device = mailbox.command(number).map(|command| command.device.clone());
        mailbox.end(number, Outcome::notified());
        if let Some(device) = device {
            self.forget_rest(&device, mailbox);
        }
    }

    /// The device has answered: unless another command was sent to it in vain, nothing rests.
    fn forget_rest(&mut self, device: &Name, mailbox: &Mailbox) {
        if mailbox.candidates(device).iter().all(|candidate| candidate.failures == 0) {
            self.rests.remove(device);
        }
    }

    fn fail(&mut self, now: Instant, number: u64, outcome: Outcome, mailbox: &mut Mailbox) {
        self.flights.remove(&number);
        let Some(command) = mailbox.command(number) else { return };
        let device = command.device.clone();
        if !command.idempotent || mailbox.withdrawn(number).is_some() {
            return mailbox.end(number, outcome);
        }
        let before = self.rests.get(&device).map_or(Duration::ZERO, |rest| rest.length);
        let length = (before * 2).clamp(REST, REST_MAX);
        self.rests.insert(device, Rest { until: now + length, length });
        mailbox.again(number);
    }

    /// Acts on deadlines, and looks again at every device that something waits for; once a second.
    pub fn handle_timeout(&mut self, now: Instant, mailbox: &mut Mailbox, carrier: &mut impl Carrier) {
        // A later message on the path has ended one that was being fetched.
        self.flights.retain(|number, _| mailbox.state(*number).is_some_and(|state| state != State::Ended));
        let due: Vec<u64> = self
            .flights
            .iter()
            .filter(|(_, flight)| flight.until.is_some_and(|until| until <= now))
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            carrier.abandon(number);
            let why = match self.flights.get(&number).and_then(|flight| flight.relation) {
                Some(_) => "the device acknowledged the notification and did not fetch the rest in time",
                None => "the device acknowledged it and did not respond in time: it may have run",
            };
            self.fail(now, number, Outcome::of(Status::Timeout, why), mailbox);
        }
        let devices: Vec<Name> = mailbox.waiting_devices().cloned().collect();
        let waiting: HashSet<&Name> = devices.iter().collect();
        self.rests.retain(|device, _| waiting.contains(device));
        for device in &devices {
            self.offer(now, device, mailbox, carrier);
        }
    }

    /// Whether the carrier will tell more of this command: not of one that is over, nor of a
    /// notification that is acknowledged.
    pub fn is_carried(&self, number: u64) -> bool {
        self.flights.get(&number).is_some_and(|flight| flight.relation.is_none() || flight.until.is_none())
    }

    /// Commands on their way.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }
}
