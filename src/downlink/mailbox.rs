//! All commands of all devices, and what is durable when. Pure: batches for the disk out, what
//! became of them in.
//!
//! | call | durable before |
//! |---|---|
//! | [`Mailbox::take`] | [`Event::Stored`]: the message may be acknowledged to the broker |
//! | [`Mailbox::begin`] | [`Event::MaySend`]: the command may be sent |
//! | [`Mailbox::end`] | [`Event::Ended`] and [`Event::Reply`]: the outcome may be told |
//! | [`Mailbox::handle_released`] | [`Event::Stored`]: PUBCOMP may be sent |
//! | [`Mailbox::observe`] | [`Event::Related`]: the registration may be answered |
//!
//! A command whose device observes its path is sent as a notification, with a sequence number that
//! is stored with the note that it is about to be sent.
//!
//! **A crash.** What was not acknowledged comes again from the broker. A command that waited still
//! waits. One that was about to be sent, or sent, may have run: it is sent again if it is
//! idempotent, else its outcome is `unknown`. An outcome that was not published is published, and
//! one whose publishing was not noted is published twice, with the same correlation data.
//!
//! **A disk that errs.** What a failed write has left on the disk nobody knows. So what was being
//! stored is neither acknowledged nor refused until a write succeeds, which stores it; one is tried
//! every [`RETRY`]. Commands that come meanwhile are refused. Nothing is sent, and outcomes wait.
//!
//! **Who makes room.** A command that a newer one replaces waits on until the newer one is durable:
//! of two set-points one is always there.
//!
//! **Duplicates.** At QoS 2 a message whose packet id is held and has the same content is the one
//! that was taken; so is one that the broker marks as a duplicate although it was completed within
//! [`RECENT`]: a broker that was killed may go on from an older state. At QoS 1 that is so if the
//! broker marks it as a duplicate within the same session, until the broker is known to have the
//! acknowledgement. RabbitMQ gives the repetition another packet id: so a message that its sender
//! made distinct, by correlation data or the id of its topic, is known by its content alone. Of
//! others two may be equal and both be meant. These, and those of a broker that keeps the packet
//! ids, are known [`RECENT`] longer. A retained message that comes with a subscription is
//! not taken if it is equal to the last one on its topic.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use super::command::{Command, Outcome, State, Status};
use super::frame::{self, PacketMark, TakenMark, kind};
use super::log::{Batch, Committed, Entry};
use super::observe::{Registration, Relation, Relations};
use super::value::{DELETE, Value, Values};
use crate::clock::{Moment, UnixTime};
use crate::gate::{Deliver, MailboxLimits, WhenFull};
use crate::message::{Name, Stamp};
use crate::proto::coap::block::{Block, SIZE_EXPONENT_MAX};
use crate::proto::coap::{Code, PeerId, Token};

/// From a fault of the disk to the next attempt.
pub const RETRY: Duration = Duration::from_secs(5);
/// So long a message of QoS 2 is known after it was completed, and a distinct one of QoS 1 after
/// the broker had its acknowledgement.
pub const RECENT: Duration = Duration::from_secs(600);
/// Bytes of the largest block.
const BLOCK_MAX: usize = 16 << SIZE_EXPONENT_MAX;
/// Bytes of all commands and their outcomes, in memory and about as many on the disk.
pub const BYTES_MAX: usize = 16 << 20;
/// Bytes of an outcome for which there is room beside them.
const OUTCOME_SURE: usize = 2048;
/// Commands in all.
pub const COMMANDS_MAX: usize = 65_536;
/// Topics whose last command is remembered.
const LAST_MAX: usize = 16_384;
/// Hashes in one frame.
const MARKS_A_FRAME: usize = 4_000;
/// In the place of the QoS, in marks: a completed message of QoS 2,
const COMPLETED: u8 = 3;
/// and one of QoS 1 that its sender made distinct.
const DISTINCT: u8 = 4;
/// No number comes near this one; a file that says so is wrong.
const NUMBER_MAX: u64 = 1 << 62;
/// From one look for expired values to the next.
const SWEEP: Duration = Duration::from_secs(60);
/// Completed messages of QoS 2 that are known.
const COMPLETED_MAX: usize = 256;
/// Messages of QoS 1 whose repetition is recognised.
const QOS1_MAX: usize = 256;

/// A message from the broker with a command, as far as duplicates are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When it came.
    pub now: Instant,
    /// Comes back with [`Event::Stored`].
    pub ticket: u64,
    /// The hash of the topic.
    pub topic_hash: u64,
    /// The hash of topic, payload and properties.
    pub hash: u64,
    /// QoS 1 or 2 and the packet id; `None` at QoS 0.
    pub packet: Option<(u8, u16)>,
    /// By which connection it came; never 0.
    pub connection: u64,
    /// Its sender made it distinct: no other message that is meant has the same hash.
    pub distinct: bool,
    /// The broker says that it sent it before, and knows the session in which it did.
    pub again: bool,
    /// A repetition has the packet id of the first.
    pub keeps_ids: bool,
    /// It comes because of a subscription.
    pub retained: bool,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Take {
    /// It was taken before: [`Event::Stored`] follows.
    Duplicate,
    /// A retained message equal to the last one: nothing follows, it may be acknowledged.
    Repeated,
    /// For each device: the number of its command, or why there is none. [`Event::Stored`] follows
    /// if there is a number.
    Taken(Vec<Result<u64, Outcome>>),
}

/// What follows from what is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// All that this message made is durable.
    Stored {
        /// As given.
        ticket: u64,
    },
    /// A command waits for this device, and none is on its way.
    Ready(Name),
    /// That it is about to be sent is durable.
    MaySend(u64),
    /// The outcome of this command is durable.
    Ended {
        /// Which.
        number: u64,
        /// For which device.
        device: Name,
        /// At which path.
        path: String,
        /// What.
        outcome: Outcome,
    },
    /// The outcome of this command is to be published.
    Reply(u64),
    /// This relation is durable: its registration may be answered.
    Related {
        /// As given.
        ticket: u64,
        /// The relation.
        relation: u64,
    },
    /// It could not be stored, and is not there any more.
    Unrelated {
        /// As given.
        ticket: u64,
    },
    /// The number of a notification without a command is durable: it may be sent.
    Refresh(u64),
}

/// A device that observes the path of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observer {
    /// The relation.
    pub relation: u64,
    /// Where it is.
    pub peer: PeerId,
    /// By what it knows the notification.
    pub token: Token,
    /// The size of blocks that it asked for.
    pub block: Option<Block>,
    /// The sequence number of the notification.
    pub sequence: u64,
    /// The ETag of the value.
    pub etag: [u8; 8],
    /// For how long it is fresh, in seconds.
    pub max_age_s: u32,
    /// Whether it may be told: its format is that of the relation (RFC 7641 §4.2).
    pub takes: bool,
}

impl Observer {
    /// Most bytes of a payload that a notification to it has.
    pub fn block_bytes(&self) -> usize {
        self.block.map_or(BLOCK_MAX, |block| block.size().min(BLOCK_MAX))
    }
}

/// Numbers since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Commands taken.
    pub taken: u64,
    /// Messages recognised as taken before.
    pub duplicates: u64,
    /// Commands refused because there was no room.
    pub full: u64,
    /// Commands refused because the disk errs.
    pub unstored: u64,
    /// Commands answered by their device.
    pub answered: u64,
    /// Commands sent that were not answered.
    pub timeouts: u64,
    /// Commands that expired.
    pub expired: u64,
    /// Commands whose outcome is unknown.
    pub unknown: u64,
    /// Commands that were superseded, dropped or refused.
    pub dropped: u64,
}

#[derive(Clone, Debug)]
struct Held {
    command: Command,
    mark: TakenMark,
    state: State,
    outcome: Option<Outcome>,
    attempts: u8,
    /// Of its notification, once it was about to be sent.
    sequence: u64,
    /// Nothing allows it any more since it was taken: it is not sent again.
    withdrawn: Option<Outcome>,
    /// How often it was sent in vain.
    failures: u8,
    /// Bytes of the payload that the observer was sent, from the first on without a gap.
    told_bytes: usize,
    /// Its notification is acknowledged: the observer fetches the rest of the payload.
    fetching: bool,
    /// It ends so when the command of this number, which takes its place, is durable.
    leaving: Option<(u64, Outcome)>,
}

impl Held {
    fn new(command: Command, mark: TakenMark, state: State) -> Held {
        Held {
            command,
            mark,
            state,
            outcome: None,
            attempts: 0,
            sequence: 0,
            withdrawn: None,
            failures: 0,
            told_bytes: 0,
            fetching: false,
            leaving: None,
        }
    }

    /// Bytes of it and of its outcome.
    fn bytes(&self) -> usize {
        self.command.bytes() + self.outcome.as_ref().map_or(0, |outcome| outcome.payload.len())
    }

    /// An outcome that says why it was not sent, for one that was sent in vain before.
    fn truthful(&self, outcome: Outcome) -> Outcome {
        let is_plain = matches!(
            outcome.status,
            Status::Superseded | Status::Dropped | Status::Expired | Status::Refused
        );
        if self.failures == 0 || !is_plain {
            return outcome;
        }
        let payload = [&outcome.payload, MAY_HAVE_RUN.as_bytes()].concat();
        Outcome { payload, ..outcome }
    }

    /// Where a later set-point would take the place of this one.
    fn place(&self) -> (&Name, &str, u8) {
        (&self.command.device, &self.command.path, self.command.method)
    }
}

/// A message of QoS 1, and by which connection it came; 0: before this process.
#[derive(Clone, Copy, Debug)]
struct AtLeastOnce {
    mark: PacketMark,
    connection: u64,
    /// It is known [`RECENT`] longer: by its content, or by its packet id, which it keeps.
    lasts: bool,
    /// Since when the broker is known to have the acknowledgement; of one that lasts.
    settled: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Op {
    Taken(u64),
    /// The end of a group: its message is taken.
    Group {
        ticket: u64,
    },
    /// What is before this is durable.
    Barrier {
        ticket: u64,
    },
    Sent(u64),
    Unsent(u64),
    Ended(u64),
    /// With the outcome that nobody is told upstream.
    Gone {
        number: u64,
        told: Option<Box<(Name, String, Outcome)>>,
    },
    Released {
        packet: u16,
        ticket: u64,
    },
    SessionLost,
    Settled {
        packet: u16,
        hash: u64,
    },
    /// A relation, new, or with a new sequence number if there is no ticket.
    Related {
        relation: u64,
        ticket: Option<u64>,
    },
    Unrelated(u64),
}

#[derive(Clone, Debug, Default)]
struct Queue {
    numbers: VecDeque<u64>,
}

/// All commands.
#[derive(Debug)]
pub struct Mailbox {
    boot: u32,
    next: u64,
    commands: BTreeMap<u64, Held>,
    queues: HashMap<Name, Queue>,
    bytes: usize,
    last: HashMap<u64, u64>,
    last_order: VecDeque<u64>,
    qos2: BTreeMap<u16, u64>,
    qos1: VecDeque<AtLeastOnce>,
    /// The connection of the last message of QoS 1, and since when.
    connection: (u64, Option<Instant>),
    /// Completed messages of QoS 2, and when; `None`: before this process.
    completed: VecDeque<(PacketMark, Option<Instant>)>,
    values: Values,
    swept: Option<Instant>,
    relations: Relations,
    pending: Vec<Op>,
    flying: Option<Vec<Op>>,
    wants_image: bool,
    retry_at: Option<Instant>,
    trouble: Option<String>,
    events: VecDeque<Event>,
    counters: Counters,
}

/// A command that waits for its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its number.
    pub number: u64,
    /// How often it, or one before it on its path, was sent in vain.
    pub failures: u8,
}

/// A command as `mailbox list` shows it.
#[derive(Clone, Copy, Debug)]
pub struct CommandView<'a> {
    /// Its number.
    pub number: u64,
    /// The command.
    pub command: &'a Command,
    /// How far it has come.
    pub state: State,
    /// How often it was sent.
    pub attempts: u8,
    /// Its outcome, if it has one.
    pub outcome: Option<&'a Outcome>,
}

/// Why a command is not held, with the way out.
const FULL: &str = "the mailbox of the device is full: `tombolo mailbox list` shows what waits, `mailbox drop` makes \
                    room, and [role.ROLE.mailbox] sets its limits";

impl Mailbox {
    /// One with what the log had. `boot` identifies this boot.
    pub fn new(boot: u32, entries: &[Entry]) -> Mailbox {
        let mut mailbox = Mailbox {
            boot,
            next: 1,
            commands: BTreeMap::new(),
            queues: HashMap::new(),
            bytes: 0,
            last: HashMap::new(),
            last_order: VecDeque::new(),
            qos2: BTreeMap::new(),
            qos1: VecDeque::new(),
            connection: (0, None),
            completed: VecDeque::new(),
            values: Values::default(),
            swept: None,
            relations: Relations::default(),
            pending: Vec::new(),
            flying: None,
            wants_image: true,
            retry_at: None,
            trouble: None,
            events: VecDeque::new(),
            counters: Counters::default(),
        };
        mailbox.restore(entries);
        let numbers: Vec<u64> = mailbox.commands.keys().copied().collect();
        numbers.into_iter().for_each(|number| mailbox.end_removal(number));
        mailbox
    }

    fn restore(&mut self, entries: &[Entry]) {
        let mut seen = BTreeSet::new();
        for Entry { kind, number, content } in entries {
            let held = self.commands.get_mut(number);
            match *kind {
                kind::TAKEN => {
                    let Some((command, mark)) = frame::decode_taken(content) else { continue };
                    seen.insert(*number);
                    self.note_given(*number);
                    let is_last = mark.packet.is_some();
                    self.values.take(*number, mark.boot, &command);
                    self.insert(*number, command, mark, State::Waiting);
                    let group = mark.group..=*number;
                    if is_last && group.clone().any(|number| !seen.contains(&number)) {
                        // Cut short by a crash: it was not acknowledged, and comes again.
                        group.for_each(|number| drop(self.remove(number)));
                        continue;
                    }
                    self.remember(mark.topic_hash, mark.hash);
                    if let Some((qos, id)) = mark.packet {
                        self.note_packet(PacketMark { qos, id, hash: mark.hash }, None);
                    }
                }
                kind::SENT => {
                    if let Some(held) = held {
                        (held.state, held.attempts) = (State::Sent, held.attempts.saturating_add(1));
                        held.failures = held.failures.saturating_add(1);
                    }
                    let sequence = content.first_chunk().copied().map(u64::from_le_bytes);
                    self.note_given(sequence.unwrap_or(0));
                }
                kind::VALUE => {
                    if let Some((command, mark)) = frame::decode_taken(content) {
                        self.values.take(*number, mark.boot, &command);
                        self.note_given(*number);
                    }
                }
                kind::RELATED => {
                    if let Some((registration, sequence)) = frame::decode_related(content) {
                        match self.relations.get_mut(*number) {
                            Some(relation) => relation.sequence = sequence,
                            None => drop(self.relations.insert(*number, registration, true)),
                        }
                        self.note_given(sequence.max(*number));
                    }
                }
                kind::UNRELATED => drop(self.relations.remove(*number)),
                kind::NEXT => self.note_given(number.saturating_sub(1)),
                kind::UNSENT => {
                    if let Some(held) = held {
                        held.state = State::Waiting;
                        held.failures = held.failures.saturating_sub(1);
                    }
                }
                kind::ENDED => {
                    if let Some((held, outcome)) = held.zip(frame::decode_ended(content)) {
                        self.bytes += outcome.payload.len();
                        (held.state, held.outcome) = (State::Ended, Some(outcome));
                    }
                }
                kind::GONE => drop(self.remove(*number)),
                kind::RELEASED => {
                    let id = *number as u16;
                    if let Some(hash) = self.qos2.remove(&id) {
                        self.complete(PacketMark { qos: 2, id, hash }, None);
                    }
                }
                kind::SESSION_LOST => {
                    self.qos2.clear();
                    self.qos1.clear();
                    self.completed.clear();
                }
                kind::SETTLED => {
                    // That of an earlier release has no hash.
                    let hash = content.first_chunk().copied().map(u64::from_le_bytes);
                    self.qos1.retain(|AtLeastOnce { mark, .. }| match hash {
                        // Of an earlier release: its repetition may have had another id.
                        Some(hash) if mark.qos == DISTINCT => mark.hash != hash,
                        _ => u64::from(mark.id) != *number,
                    });
                }
                kind::MARKS => {
                    if let Some((last, packets)) = frame::decode_marks(content) {
                        last.into_iter().for_each(|(topic, hash)| self.remember(topic, hash));
                        for packet in packets {
                            match packet.qos {
                                COMPLETED => self.complete(PacketMark { qos: 2, ..packet }, None),
                                _ => self.note_packet(packet, None),
                            }
                        }
                    }
                }
                _ => {}
            }
        }
        let found: Vec<(u64, State, bool)> = self
            .commands
            .iter()
            .map(|(number, held)| (*number, held.state, held.command.idempotent))
            .collect();
        for (number, state, idempotent) in found {
            match state {
                State::Sent if !idempotent => {
                    let why = "the gateway stopped while the command was on its way: it may have run";
                    self.end(number, Outcome::of(Status::Unknown, why));
                }
                State::Sent => self.set(number, State::Waiting),
                State::Ended => self.events.push_back(Event::Reply(number)),
                _ => {}
            }
        }
        self.replace_again();
    }

    /// The gateway stopped when a set-point was durable, and that it takes the place of another one
    /// was not.
    fn replace_again(&mut self) {
        let mut newest = BTreeSet::new();
        let mut replaced = Vec::new();
        for (number, held) in self.commands.iter().rev() {
            let waits = held.state == State::Waiting && held.command.latest_wins;
            if waits && !newest.insert(held.place()) && held.attempts == 0 {
                replaced.push(*number);
            }
        }
        replaced.into_iter().for_each(|number| self.end(number, superseded()));
    }

    /// This number was given: the next one is greater.
    fn note_given(&mut self, number: u64) {
        self.next = self.next.max(number.min(NUMBER_MAX) + 1);
    }

    fn set(&mut self, number: u64, state: State) {
        if let Some(held) = self.commands.get_mut(&number) {
            held.state = state;
        }
    }

    fn insert(&mut self, number: u64, command: Command, mark: TakenMark, state: State) {
        let bytes = command.bytes();
        self.bytes += bytes;
        let queue = self.queues.entry(command.device.clone()).or_default();
        queue.numbers.push_back(number);
        self.commands.insert(number, Held::new(command, mark, state));
    }

    fn remove(&mut self, number: u64) -> Option<Held> {
        let held = self.commands.remove(&number)?;
        self.bytes -= held.bytes();
        if let Some(queue) = self.queues.get_mut(&held.command.device) {
            queue.numbers.retain(|waiting| *waiting != number);
            if queue.numbers.is_empty() {
                self.queues.remove(&held.command.device);
            }
        }
        Some(held)
    }

    fn remember(&mut self, topic_hash: u64, hash: u64) {
        if self.last.insert(topic_hash, hash).is_none() {
            self.last_order.push_back(topic_hash);
            if self.last_order.len() > LAST_MAX
                && let Some(oldest) = self.last_order.pop_front()
            {
                self.last.remove(&oldest);
            }
        }
    }

    /// `arrival`: of a message that came to this process.
    fn note_packet(&mut self, packet: PacketMark, arrival: Option<&Arrival>) {
        if packet.qos == 2 {
            self.completed.retain(|(known, _)| known.id != packet.id);
            self.qos2.insert(packet.id, packet.hash);
            return;
        }
        let connection = arrival.map_or(0, |arrival| arrival.connection);
        // The id is given to another message only when the broker has the acknowledgement; but
        // RabbitMQ counts anew on each connection.
        self.qos1.retain_mut(|known| {
            if known.mark.id != packet.id || known.mark.qos != DISTINCT {
                return known.mark.id != packet.id;
            }
            if known.connection == connection {
                known.settled = known.settled.or(arrival.map(|arrival| arrival.now));
            }
            known.mark.hash != packet.hash
        });
        let lasts = packet.qos == DISTINCT || arrival.is_some_and(|arrival| arrival.keeps_ids);
        self.qos1.push_back(AtLeastOnce { mark: packet, connection, lasts, settled: None });
        if self.qos1.len() > QOS1_MAX {
            // One that may still be without its acknowledgement stays longer.
            let settled = self.qos1.iter().position(|known| known.settled.is_some());
            self.qos1.remove(settled.unwrap_or(0));
        }
    }

    fn complete(&mut self, mark: PacketMark, at: Option<Instant>) {
        self.completed.retain(|(known, _)| known.id != mark.id);
        self.completed.push_back((mark, at));
        if self.completed.len() > COMPLETED_MAX {
            self.completed.pop_front();
        }
    }

    fn is_duplicate(&mut self, arrival: &Arrival) -> bool {
        match arrival.packet {
            Some((2, id)) => {
                let is_it = |(mark, at): &(PacketMark, Option<Instant>)| {
                    (mark.id, mark.hash) == (id, arrival.hash)
                        && at.is_none_or(|at| arrival.now.saturating_duration_since(at) <= RECENT)
                };
                self.qos2.get(&id) == Some(&arrival.hash) || arrival.again && self.completed.iter().any(is_it)
            }
            Some((_, id)) => self.is_repeated(arrival, id),
            None => false,
        }
    }

    /// The same at QoS 1. One that is has the acknowledgement of the packet that repeats it.
    fn is_repeated(&mut self, arrival: &Arrival, id: u16) -> bool {
        let (connection, since) = &mut self.connection;
        if *connection != arrival.connection {
            (*connection, *since) = (arrival.connection, Some(arrival.now));
        }
        // What a broker repeats comes soon after the connection.
        if since.is_some_and(|since| arrival.now.saturating_duration_since(since) > RECENT) {
            let connection = *connection;
            self.qos1.retain(|known| known.connection == connection);
        }
        // A broker that was killed has lost what it had since it last wrote it down.
        self.qos1.retain(|known| {
            known.settled.is_none_or(|at| arrival.now.saturating_duration_since(at) <= RECENT)
        });
        let is_it = |AtLeastOnce { mark, .. }: &AtLeastOnce| {
            let is_of = mark.id == id || arrival.distinct && mark.qos == DISTINCT;
            is_of && mark.hash == arrival.hash
        };
        let Some(found) = self.qos1.iter_mut().find(|known| arrival.again && is_it(known)) else {
            return false;
        };
        (found.mark.id, found.connection, found.settled) = (id, arrival.connection, None);
        true
    }

    // What comes from the broker and the operator.

    /// Takes a message: a command for each of its devices.
    pub fn take(&mut self, arrival: &Arrival, commands: Vec<(Command, &MailboxLimits)>) -> Take {
        if self.is_duplicate(arrival) {
            self.counters.duplicates += 1;
            self.pending.push(Op::Barrier { ticket: arrival.ticket });
            return Take::Duplicate;
        }
        if arrival.retained && self.last.get(&arrival.topic_hash) == Some(&arrival.hash) {
            self.counters.duplicates += 1;
            return Take::Repeated;
        }
        let group = self.next;
        let packet =
            arrival.packet.map(|(qos, id)| (if qos == 1 && arrival.distinct { DISTINCT } else { qos }, id));
        let mut taken = Vec::with_capacity(commands.len());
        for (command, limits) in commands {
            taken.push(self.make_room(&command, limits).map(|leaving| {
                let number = self.next;
                for (replaced, outcome) in leaving {
                    if let Some(held) = self.commands.get_mut(&replaced) {
                        held.leaving = Some((number, outcome));
                    }
                }
                self.next += 1;
                let mark = TakenMark {
                    boot: self.boot,
                    group,
                    topic_hash: arrival.topic_hash,
                    hash: arrival.hash,
                    packet: None,
                };
                self.insert(number, command, mark, State::Taking);
                self.pending.push(Op::Taken(number));
                number
            }));
        }
        if let Some(last) = taken.iter().rev().find_map(|taken| taken.as_ref().ok()) {
            if let Some(held) = self.commands.get_mut(last) {
                held.mark.packet = packet;
            }
            self.remember(arrival.topic_hash, arrival.hash);
            if let Some((qos, id)) = packet {
                let mark = PacketMark { qos, id, hash: arrival.hash };
                self.note_packet(mark, Some(arrival));
            }
            self.pending.push(Op::Group { ticket: arrival.ticket });
        }
        self.counters.taken += taken.iter().filter(|taken| taken.is_ok()).count() as u64;
        Take::Taken(taken)
    }

    /// What a new command replaces, or for which there is no room beside it, and the outcome of
    /// each.
    fn make_room(
        &mut self,
        command: &Command,
        limits: &MailboxLimits,
    ) -> Result<Vec<(u64, Outcome)>, Outcome> {
        if let Some(trouble) = &self.trouble {
            self.counters.unstored += 1;
            return Err(Outcome::of(Status::Full, format!("commands cannot be stored: {trouble}")));
        }
        let mut leaving: Vec<(u64, Outcome)> = Vec::new();
        if command.latest_wins {
            let replaced = self.live(&command.device).into_iter().filter(|number| {
                self.commands.get(number).is_some_and(|held| {
                    matches!(held.state, State::Waiting | State::Taking)
                        && held.command.latest_wins
                        && (&held.command.path, held.command.method) == (&command.path, command.method)
                })
            });
            leaving.extend(replaced.map(|number| (number, superseded())));
        }
        let bytes = command.bytes();
        loop {
            let is_leaving = |number: &u64| leaving.iter().any(|(leaving, _)| leaving == number);
            let live = self.live(&command.device);
            let live: Vec<u64> = live.into_iter().filter(|number| !is_leaving(number)).collect();
            let size = |number: &u64| self.commands.get(number).map_or(0, |held| held.command.bytes());
            let held: usize = live.iter().map(size).sum();
            // What has an outcome to be told stays until that is published.
            let gone = leaving.iter().map(|(number, _)| number).filter(|number| {
                self.commands.get(number).is_some_and(|held| held.command.reply_topic.is_none())
            });
            let (gone, freed) = gone.fold((0, 0), |(gone, freed), number| (gone + 1, freed + size(number)));
            let queued = self.queues.get(&command.device).map_or(0, |queue| queue.numbers.len());
            let room = queued - gone < COUNT_SLACK + limits.messages as usize;
            let fits = (live.len() as u64) < u64::from(limits.messages)
                && (live.is_empty() || (held + bytes) as u64 <= limits.bytes)
                && room;
            let all = self.bytes - freed + bytes <= BYTES_MAX && self.commands.len() - gone < COMMANDS_MAX;
            if fits && all {
                // What would leave for nothing stays.
                return Ok(leaving);
            }
            let is_waiting = |number: &u64| self.state(*number) == Some(State::Waiting);
            match live.into_iter().find(is_waiting) {
                Some(number) if limits.when_full == WhenFull::DropOldest && all && room => {
                    leaving.push((number, Outcome::of(Status::Dropped, "dropped for a newer command")));
                }
                _ => break,
            }
        }
        self.counters.full += 1;
        Err(Outcome::of(Status::Full, FULL))
    }

    /// The commands of a device that are not over and keep their places.
    fn live(&self, device: &Name) -> Vec<u64> {
        let Some(queue) = self.queues.get(device) else { return Vec::new() };
        let is_live = |number: &&u64| {
            let held = self.commands.get(number);
            held.is_some_and(|held| held.state != State::Ended && held.leaving.is_none())
        };
        queue.numbers.iter().filter(is_live).copied().collect()
    }

    /// PUBREL came: [`Event::Stored`] says that PUBCOMP may go.
    pub fn handle_released(&mut self, now: Instant, packet: u16, ticket: u64) {
        match self.qos2.remove(&packet) {
            Some(hash) => {
                self.complete(PacketMark { qos: 2, id: packet, hash }, Some(now));
                self.pending.push(Op::Released { packet, ticket });
            }
            None => self.pending.push(Op::Barrier { ticket }),
        }
    }

    /// The broker does not know the session any more: no packet id means anything.
    pub fn handle_session_lost(&mut self) {
        self.completed.clear();
        if !(self.qos2.is_empty() && self.qos1.is_empty()) {
            self.qos2.clear();
            self.qos1.clear();
            self.pending.push(Op::SessionLost);
        }
    }

    /// The broker is known to have the PUBACKs of these packets, of the connection by which the
    /// last message came: they do not come again, unless it is killed and has lost that.
    pub fn handle_settled(&mut self, now: Instant, packets: &[u16]) {
        let connection = self.connection.0;
        let Mailbox { qos1, pending, .. } = self;
        qos1.retain_mut(|known| {
            if known.connection != connection || !packets.contains(&known.mark.id) {
                return true;
            }
            if known.lasts {
                known.settled.get_or_insert(now);
                return true;
            }
            pending.push(Op::Settled { packet: known.mark.id, hash: known.mark.hash });
            false
        });
    }

    // What comes of commands.

    /// Whether a command waits for the device, and none is on its way.
    pub fn is_ready(&self, device: &Name) -> bool {
        !self.candidates(device).is_empty()
    }

    /// Whether a command is on its way to a device, or is to be sent when the device can take it,
    /// unless it was sent in vain before.
    pub fn is_occupied(&self, device: &Name) -> bool {
        let numbers = self.queues.get(device).map(|queue| &queue.numbers);
        numbers.into_iter().flatten().filter_map(|number| self.commands.get(number)).any(|held| {
            match held.state {
                State::Preparing | State::Sent => true,
                State::Waiting => held.failures == 0 && self.can_go(&held.command),
                State::Taking | State::Ended => false,
            }
        })
    }

    /// The commands that wait for a device, in order; none if one is on its way. One that is only a
    /// state waits for a device that observes its path. One that was sent in vain lets those on
    /// other paths pass that were not sent as often; on one path the order stays.
    pub fn candidates(&self, device: &Name) -> Vec<Candidate> {
        let mut waiting = Vec::new();
        let mut paths: BTreeMap<&str, u8> = BTreeMap::new();
        let numbers = self.queues.get(device).map(|queue| &queue.numbers);
        for number in numbers.into_iter().flatten() {
            let Some(held) = self.commands.get(number) else { continue };
            match held.state {
                State::Preparing | State::Sent => return Vec::new(),
                State::Waiting if self.can_go(&held.command) => {
                    let failures = paths.entry(&held.command.path).or_default();
                    *failures = held.failures.max(*failures);
                    waiting.push(Candidate { number: *number, failures: *failures });
                }
                State::Waiting | State::Taking | State::Ended => {}
            }
        }
        waiting.sort_by_key(|candidate| candidate.failures);
        waiting
    }

    /// How many commands were sent in vain and are to be sent again, and the one of them that was
    /// most often.
    pub fn unanswered(&self) -> (usize, Option<CommandView<'_>>) {
        let tried = |number: u64| self.commands.get(&number).map_or(0, |held| held.failures);
        let again = |view: &CommandView<'_>| view.state != State::Ended && tried(view.number) > 0;
        let worst = self.view().filter(again).max_by_key(|view| (tried(view.number), u64::MAX - view.number));
        (self.view().filter(again).count(), worst)
    }

    /// A notification tells a value: PUT or POST (RFC 7641 §4.2). What else is only a state waits
    /// to be fetched.
    fn can_go(&self, command: &Command) -> bool {
        command.deliver != Deliver::Observe
            || matches!(command.method, 2 | 3)
                && self.relations.find(&command.device, &command.path).is_some()
    }

    /// The device that observes the path of a command that is about to be sent, if that is to be
    /// told by a notification.
    pub fn observer(&self, number: u64) -> Option<Observer> {
        let held = self.commands.get(&number)?;
        let Command { device, path, method, deliver, .. } = &held.command;
        if *deliver == Deliver::Request || !matches!(method, 2 | 3) {
            return None;
        }
        let (relation, found) = self.relations.find(device, path)?;
        let Registration { peer, token, block, formats, .. } = &found.registration;
        let value = Value {
            number,
            content_format: held.command.content_format,
            payload: held.command.payload.clone(),
            taken: held.command.taken,
            boot: held.mark.boot,
            expires_s: held.command.expires_s,
        };
        Some(Observer {
            relation,
            peer: (*peer)?,
            token: *token,
            block: *block,
            sequence: held.sequence,
            etag: value.etag(),
            max_age_s: held.command.expires_s,
            takes: formats.allow(held.command.content_format),
        })
    }

    /// Why a command is not to be sent any more, although it was to be.
    pub fn withdrawn(&self, number: u64) -> Option<Outcome> {
        self.commands.get(&number)?.withdrawn.clone()
    }

    /// Stores that a waiting command is about to be sent.
    pub fn begin(&mut self, number: u64) {
        if let Some(outcome) = self.withdrawn(number) {
            return self.end(number, outcome);
        }
        if let Some(held) = self.commands.get_mut(&number).filter(|held| held.state == State::Waiting) {
            held.state = State::Preparing;
            // What is sent before that is durable does not leave.
            held.leaving = None;
            held.attempts = held.attempts.saturating_add(1);
            held.sequence = self.next;
            (held.told_bytes, held.fetching) = (0, false);
            self.next += 1;
            self.pending.push(Op::Sent(number));
        }
    }

    /// It was not sent after all, and waits again.
    pub fn unsend(&mut self, number: u64) {
        if let Some(held) = self.commands.get_mut(&number).filter(|held| held.state == State::Sent) {
            held.state = State::Waiting;
            self.pending.push(Op::Unsent(number));
        }
    }

    /// It was sent in vain and may run twice: it waits again.
    pub fn again(&mut self, number: u64) {
        if let Some(held) = self.commands.get_mut(&number).filter(|held| held.state == State::Sent) {
            held.state = State::Waiting;
            held.failures = held.failures.saturating_add(1);
        }
    }

    /// Its outcome is known.
    pub fn end(&mut self, number: u64, outcome: Outcome) {
        let Some(held) = self.commands.get_mut(&number).filter(|held| held.state != State::Ended) else {
            return;
        };
        let outcome = held.truthful(outcome);
        let counter = match outcome.status {
            Status::Code(_)
            | Status::Notified
            | Status::Fetched
            | Status::Exception
            | Status::Unconfirmed
            | Status::Written => &mut self.counters.answered,
            Status::Timeout => &mut self.counters.timeouts,
            Status::Expired => &mut self.counters.expired,
            Status::Unknown => &mut self.counters.unknown,
            Status::Refused | Status::Full | Status::Superseded | Status::Dropped => {
                &mut self.counters.dropped
            }
        };
        *counter += 1;
        held.state = State::Ended;
        if held.command.reply_topic.is_some() {
            let mut outcome = outcome;
            if self.bytes + outcome.payload.len() > BYTES_MAX && outcome.payload.len() > OUTCOME_SURE {
                outcome.payload.truncate(OUTCOME_SURE);
                outcome.partial = true;
            }
            self.bytes += outcome.payload.len();
            held.outcome = Some(outcome);
            self.pending.push(Op::Ended(number));
        } else if let Some(held) = self.remove(number) {
            let Command { device, path, .. } = held.command;
            self.pending.push(Op::Gone { number, told: Some(Box::new((device, path, outcome))) });
        }
    }

    /// Its outcome is published, or cannot be: nothing is left of it.
    pub fn handle_published(&mut self, number: u64) {
        if self.commands.get(&number).is_some_and(|held| held.state == State::Ended) {
            self.remove(number);
            self.pending.push(Op::Gone { number, told: None });
        }
    }

    /// Ends what waits and has expired, or lost its rule while it was on its way.
    pub fn expire(&mut self, moment: &Moment) {
        let over: Vec<(u64, Outcome)> = self
            .commands
            .iter()
            .filter(|(_, held)| held.state == State::Waiting)
            .filter_map(|(number, held)| {
                let outcome = match self.is_expired(held, moment) {
                    true if held.failures > 0 => Outcome::of(Status::Expired, "it expired"),
                    true => Outcome::of(Status::Expired, "it was not sent before it expired"),
                    false => held.withdrawn.clone()?,
                };
                Some((*number, outcome))
            })
            .collect();
        for (number, outcome) in over {
            self.end(number, outcome);
        }
        self.relations.care(moment.now);
        if self.swept.is_none_or(|at| moment.now.saturating_duration_since(at) >= SWEEP) {
            self.swept = Some(moment.now);
            let boot = self.boot;
            self.values.retain(|_, _, value| left_s(value, boot, moment).is_some());
        }
    }

    fn is_expired(&self, held: &Held, moment: &Moment) -> bool {
        let same_boot = held.mark.boot == self.boot;
        age_ms(held.command.taken, same_boot, moment)
            .is_some_and(|age| age >= u64::from(held.command.expires_s) * 1000)
    }

    /// Ends each waiting command for which `why` has a reason; one that is on its way ends so if it
    /// would wait again.
    pub fn review(&mut self, mut why: impl FnMut(&Command) -> Option<Outcome>) {
        let mut ended = Vec::new();
        for (number, held) in self.commands.iter_mut().filter(|(_, held)| held.state != State::Ended) {
            held.withdrawn = why(&held.command);
            if held.state == State::Waiting {
                ended.extend(held.withdrawn.clone().map(|outcome| (*number, outcome)));
            }
        }
        for (number, outcome) in ended {
            self.end(number, outcome);
        }
    }

    /// Forgets the values of devices, and ends the relations, for which `keep` says no.
    pub fn review_paths(&mut self, mut keep: impl FnMut(&Name, &str) -> bool) {
        self.values.retain(|device, path, _| keep(device, path));
        self.end_relations(|registration| !keep(&registration.device, &registration.path));
    }

    // What devices observe.

    /// The newest message on a path, and for how many seconds it is still worth something.
    pub fn value(&self, device: &Name, path: &str, moment: &Moment) -> Option<(&Value, u32)> {
        let value = self.values.get(device, path)?;
        Some((value, left_s(value, self.boot, moment)?))
    }

    /// The notification of a command was sent, with the first `bytes` of its payload.
    pub fn note_told(&mut self, number: u64, bytes: usize) {
        if let Some(held) = self.commands.get_mut(&number) {
            held.told_bytes = bytes;
        }
    }

    /// The notification of a command is acknowledged. Whether the device has all of the payload;
    /// else it fetches the rest.
    pub fn handle_told(&mut self, number: u64) -> bool {
        let Some(held) = self.commands.get_mut(&number) else { return true };
        held.fetching = held.told_bytes < held.command.payload.len();
        !held.fetching
    }

    /// The device was sent these bytes of the newest message on a path. The command whose
    /// notification is acknowledged, if the device has all of it now.
    pub fn handle_part(&mut self, device: &Name, path: &str, bytes: Range<usize>) -> Option<u64> {
        let newest = self.values.get(device, path)?.number;
        let (number, _) = self.sent_on(device, path).find(|(number, _)| *number == newest)?;
        let held = self.commands.get_mut(&number)?;
        if bytes.start <= held.told_bytes {
            held.told_bytes = held.told_bytes.max(bytes.end);
        }
        let is_whole = held.fetching && held.told_bytes >= held.command.payload.len();
        is_whole.then_some(number)
    }

    /// The device has fetched the newest message on a path: those that only wait for that are over.
    pub fn handle_fetched(&mut self, device: &Name, path: &str) {
        let Some(value) = self.values.get(device, path) else { return };
        let (newest, queue) = (value.number, self.queues.get(device));
        let waiting: Vec<u64> = queue
            .iter()
            .flat_map(|queue| &queue.numbers)
            .filter(|number| **number <= newest)
            .filter(|number| {
                self.commands.get(number).is_some_and(|held| {
                    held.state == State::Waiting
                        && held.command.deliver == Deliver::Observe
                        && held.command.path == path
                })
            })
            .copied()
            .collect();
        for number in waiting {
            self.end(number, Outcome::of(Status::Fetched, ""));
        }
    }

    /// A device observes a path from now on. [`Event::Related`] or [`Event::Unrelated`] follows;
    /// false: there is no room, or it registers too often, and nothing follows.
    pub fn observe(&mut self, now: Instant, registration: Registration, ticket: u64) -> bool {
        if self.trouble.is_some() || !self.relations.may_register(now, &registration.device) {
            return false;
        }
        let relation = self.next;
        self.next += 1;
        for replaced in self.relations.insert(relation, registration, false) {
            self.pending.push(Op::Unrelated(replaced));
        }
        self.pending.push(Op::Related { relation, ticket: Some(ticket) });
        true
    }

    /// A relation.
    pub fn relation(&self, relation: u64) -> Option<&Relation> {
        self.relations.get(relation)
    }

    /// How many relations there are.
    pub fn relation_count(&self) -> usize {
        self.relations.len()
    }

    /// How many values there are, and their bytes.
    pub fn values(&self) -> (usize, usize) {
        (self.values.len(), self.values.bytes())
    }

    /// Ends a relation.
    pub fn end_relation(&mut self, relation: u64) {
        if self.relations.remove(relation).is_some() {
            self.pending.push(Op::Unrelated(relation));
        }
    }

    /// Ends the relations for which `ends` says so.
    pub fn end_relations(&mut self, mut ends: impl FnMut(&Registration) -> bool) {
        let ended: Vec<u64> = self
            .relations
            .iter()
            .filter(|(_, relation)| ends(&relation.registration))
            .map(|(id, _)| id)
            .collect();
        ended.into_iter().for_each(|relation| self.end_relation(relation));
    }

    /// A notification, or the answer to a registration, was sent.
    pub fn note_notified(&mut self, now: Instant, relation: u64, sequence: u64) {
        self.relations.note_sent(now, relation, sequence);
    }

    /// Relations to which nothing was sent for most of a day.
    pub fn relations_due(&self, now: Instant) -> Vec<u64> {
        self.relations.due(now)
    }

    /// Draws a number for a notification without a command; [`Event::Refresh`] follows.
    pub fn refresh(&mut self, relation: u64) {
        let sequence = self.next;
        if let Some(found) = self.relations.get_mut(relation) {
            (found.sequence, found.refreshing, found.is_changed) = (sequence, true, false);
            self.next += 1;
            self.pending.push(Op::Related { relation, ticket: None });
        }
    }

    /// The notification without a command is over, or was not sent.
    pub fn handle_refreshed(&mut self, relation: u64) {
        if let Some(found) = self.relations.get_mut(relation) {
            found.refreshing = false;
        }
    }

    /// The sessions of the process before are there, or not: `find` says which peer the session of
    /// this number of this device is. The relations of the others end.
    pub fn attach(&mut self, now: Instant, mut find: impl FnMut(u64, &Name) -> Option<PeerId>) {
        let lost: Vec<u64> = self
            .relations
            .iter()
            .filter(|(_, relation)| relation.registration.peer.is_none())
            .map(|(id, _)| id)
            .collect();
        for id in lost {
            let Some(relation) = self.relations.get_mut(id) else { continue };
            let Registration { session, device, .. } = &relation.registration;
            match session.and_then(|session| find(session, device)) {
                Some(peer) => {
                    relation.registration.peer = Some(peer);
                    let sequence = relation.sequence;
                    self.relations.note_sent(now, id, sequence);
                }
                None => self.end_relation(id),
            }
        }
    }

    // What is asked.

    /// A command.
    pub fn command(&self, number: u64) -> Option<&Command> {
        self.commands.get(&number).map(|held| &held.command)
    }

    /// The outcome of a command that is to be published.
    pub fn outcome(&self, number: u64) -> Option<(&Command, &Outcome)> {
        let held = self.commands.get(&number)?;
        Some((&held.command, held.outcome.as_ref()?))
    }

    /// How far a command has come.
    pub fn state(&self, number: u64) -> Option<State> {
        self.commands.get(&number).map(|held| held.state)
    }

    /// All commands, oldest first.
    pub fn view(&self) -> impl Iterator<Item = CommandView<'_>> {
        self.commands.iter().map(|(number, held)| CommandView {
            number: *number,
            command: &held.command,
            state: held.state,
            attempts: held.attempts,
            outcome: held.outcome.as_ref(),
        })
    }

    /// The age of a command, if it is known.
    pub fn age(&self, number: u64, moment: &Moment) -> Option<Duration> {
        let held = self.commands.get(&number)?;
        age_ms(held.command.taken, held.mark.boot == self.boot, moment).map(Duration::from_millis)
    }

    /// The devices for which commands wait.
    pub fn waiting_devices(&self) -> impl Iterator<Item = &Name> {
        self.queues.keys()
    }

    /// Commands held.
    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// Commands that are over and whose outcome the journal is to have yet.
    pub fn ended(&self) -> usize {
        self.commands.values().filter(|held| held.state == State::Ended).count()
    }

    /// Whether something is on its way to the disk, which takes it.
    pub fn is_being_stored(&self) -> bool {
        self.trouble.is_none() && !(self.pending.is_empty() && self.flying.is_none())
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Bytes of all commands.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Why nothing can be stored at present.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Numbers since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    // The disk.

    /// What is to be made durable next; `None` if nothing is, or a batch is under way, or the disk
    /// is given a rest.
    pub fn poll_batch(&mut self, now: Instant) -> Option<Batch> {
        if self.flying.is_some() || self.retry_at.is_some_and(|at| now < at) {
            return None;
        }
        if self.pending.is_empty() && self.trouble.is_none() {
            return None;
        }
        let ops = std::mem::take(&mut self.pending);
        let entries: Vec<Entry> = ops.iter().filter_map(|op| self.entry(op)).collect();
        if entries.is_empty() && self.trouble.is_none() {
            self.follow(ops);
            return None;
        }
        self.flying = Some(ops);
        self.retry_at = None;
        if self.wants_image {
            return Some(Batch { entries: Vec::new(), image: Some(self.image()) });
        }
        Some(Batch { entries, image: None })
    }

    fn entry(&self, op: &Op) -> Option<Entry> {
        let plain = |kind, number| Some(Entry { kind, number, content: Vec::new() });
        match op {
            Op::Taken(number) => {
                let held = self.commands.get(number)?;
                let content = frame::encode_taken(&held.command, &held.mark);
                Some(Entry { kind: kind::TAKEN, number: *number, content })
            }
            Op::Sent(number) => {
                let content = self.commands.get(number).map(sequence_of).unwrap_or_default();
                Some(Entry { kind: kind::SENT, number: *number, content })
            }
            Op::Unsent(number) => plain(kind::UNSENT, *number),
            Op::Ended(number) => {
                let content = frame::encode_ended(self.commands.get(number)?.outcome.as_ref()?);
                Some(Entry { kind: kind::ENDED, number: *number, content })
            }
            Op::Gone { number, .. } => plain(kind::GONE, *number),
            Op::Released { packet, .. } => plain(kind::RELEASED, u64::from(*packet)),
            Op::SessionLost => plain(kind::SESSION_LOST, 0),
            Op::Settled { packet, hash } => {
                let content = hash.to_le_bytes().to_vec();
                Some(Entry { kind: kind::SETTLED, number: u64::from(*packet), content })
            }
            Op::Related { relation, .. } => related(*relation, self.relations.get(*relation)?),
            Op::Unrelated(relation) => plain(kind::UNRELATED, *relation),
            Op::Group { .. } | Op::Barrier { .. } => None,
        }
    }

    /// All that is worth keeping.
    fn image(&self) -> Vec<Entry> {
        let mut image = vec![Entry { kind: kind::NEXT, number: self.next, content: Vec::new() }];
        for (device, path, value) in self.values.iter() {
            let mark =
                TakenMark { boot: value.boot, group: value.number, topic_hash: 0, hash: 0, packet: None };
            let content = frame::encode_taken(&value.to_command(device, path), &mark);
            image.push(Entry { kind: kind::VALUE, number: value.number, content });
        }
        image.extend(self.relations.iter().filter_map(|(id, relation)| related(id, relation)));
        let last: Vec<(u64, u64)> =
            self.last_order.iter().filter_map(|topic| Some((*topic, *self.last.get(topic)?))).collect();
        let qos2 = self.qos2.iter().map(|(id, hash)| PacketMark { qos: 2, id: *id, hash: *hash });
        let completed = self.completed.iter().map(|(mark, _)| PacketMark { qos: COMPLETED, ..*mark });
        let packets: Vec<PacketMark> =
            qos2.chain(self.qos1.iter().map(|known| known.mark)).chain(completed).collect();
        let mut mark = |last: &[(u64, u64)], packets: &[PacketMark]| {
            let content = frame::encode_marks(last, packets);
            image.push(Entry { kind: kind::MARKS, number: 0, content });
        };
        last.chunks(MARKS_A_FRAME).for_each(|some| mark(some, &[]));
        packets.chunks(MARKS_A_FRAME).for_each(|some| mark(&[], some));
        for (number, held) in &self.commands {
            let packet = held.mark.packet.filter(|_| held.state == State::Taking);
            let group = if packet.is_some() { held.mark.group } else { *number };
            let content = frame::encode_taken(&held.command, &TakenMark { packet, group, ..held.mark });
            image.push(Entry { kind: kind::TAKEN, number: *number, content });
            // One that waits again was sent, which is not to be forgotten.
            let was_sent = held.state == State::Waiting && held.failures > 0;
            if was_sent || matches!(held.state, State::Preparing | State::Sent) {
                image.push(Entry { kind: kind::SENT, number: *number, content: sequence_of(held) });
            }
            if let Some(outcome) = &held.outcome {
                let content = frame::encode_ended(outcome);
                image.push(Entry { kind: kind::ENDED, number: *number, content });
            }
        }
        image
    }

    /// The batch is durable, or not.
    pub fn handle_committed(&mut self, now: Instant, committed: &Committed) {
        let Some(ops) = self.flying.take() else { return };
        self.wants_image = committed.wants_image;
        match &committed.error {
            None => {
                self.trouble = None;
                self.follow(ops);
            }
            Some(error) => {
                self.wants_image = true;
                self.trouble = Some(error.clone());
                self.retry_at = Some(now + RETRY);
                self.undo(ops);
            }
        }
    }

    fn follow(&mut self, ops: Vec<Op>) {
        let mut ready = BTreeSet::new();
        for op in ops {
            match op {
                Op::Taken(number) => {
                    if let Some(held) =
                        self.commands.get_mut(&number).filter(|held| held.state == State::Taking)
                    {
                        held.state = State::Waiting;
                        ready.insert(held.command.device.clone());
                    }
                    if let Some(held) = self.commands.get(&number) {
                        self.values.take(number, held.mark.boot, &held.command);
                        self.leave(number);
                        self.cut_off(number);
                        self.end_removal(number);
                    }
                }
                Op::Related { relation, ticket: Some(ticket) } => {
                    let event = match self.relations.get_mut(relation) {
                        Some(found) => {
                            found.is_made = true;
                            ready.insert(found.registration.device.clone());
                            Event::Related { ticket, relation }
                        }
                        None => Event::Unrelated { ticket },
                    };
                    self.events.push_back(event);
                }
                Op::Related { relation, ticket: None } => self.events.push_back(Event::Refresh(relation)),
                Op::Group { ticket } | Op::Barrier { ticket } | Op::Released { ticket, .. } => {
                    self.events.push_back(Event::Stored { ticket });
                }
                Op::Sent(number) => {
                    if let Some(held) =
                        self.commands.get_mut(&number).filter(|held| held.state == State::Preparing)
                    {
                        held.state = State::Sent;
                        self.events.push_back(Event::MaySend(number));
                    }
                }
                Op::Ended(number) => {
                    if let Some(held) = self.commands.get(&number)
                        && let Some(outcome) = &held.outcome
                    {
                        let Command { device, path, .. } = &held.command;
                        ready.insert(device.clone());
                        let (device, path, outcome) = (device.clone(), path.clone(), outcome.clone());
                        self.events.push_back(Event::Ended { number, device, path, outcome });
                        self.events.push_back(Event::Reply(number));
                    }
                }
                Op::Gone { number, told: Some(told) } => {
                    let (device, path, outcome) = *told;
                    ready.insert(device.clone());
                    self.events.push_back(Event::Ended { number, device, path, outcome });
                }
                Op::Unsent(_) | Op::Gone { .. } | Op::SessionLost | Op::Settled { .. } | Op::Unrelated(_) => {
                }
            }
        }
        let ready = ready.into_iter().filter(|device| self.is_ready(device));
        self.events.extend(ready.map(Event::Ready).collect::<Vec<_>>());
    }

    /// The command is durable: those end whose places it takes, if they still wait.
    fn leave(&mut self, number: u64) {
        let Some(held) = self.commands.get(&number) else { return };
        let queue = self.queues.get(&held.command.device);
        let leaving: Vec<(u64, Outcome)> = queue
            .iter()
            .flat_map(|queue| &queue.numbers)
            .filter_map(|older| {
                let held = self.commands.get(older).filter(|held| held.state == State::Waiting)?;
                let (by, outcome) = held.leaving.clone()?;
                (by == number).then_some((*older, outcome))
            })
            .collect();
        leaving.into_iter().for_each(|(older, outcome)| self.end(older, outcome));
    }

    /// The command is durable. Of a message that is not the newest on its path any more nothing
    /// further can be fetched.
    fn cut_off(&mut self, number: u64) {
        let Some(held) = self.commands.get(&number) else { return };
        let Command { device, path, .. } = &held.command;
        let newest = self.values.get(device, path).map(|value| value.number);
        let is_cut = |(older, held): &(u64, &Held)| held.fetching && Some(*older) != newest;
        let cut: Vec<u64> = self.sent_on(device, path).filter(is_cut).map(|(older, _)| older).collect();
        for older in cut {
            let why = "a later message took its place while the device fetched the rest of it: it has a part";
            self.end(older, Outcome::of(Status::Superseded, why));
        }
    }

    /// A DELETE whose rule says that the device fetches or observes the path is carried out here:
    /// the message that was there is gone. What waited to be fetched is not there any more, and
    /// those that observe the path are told.
    fn end_removal(&mut self, number: u64) {
        let Some(held) = self.commands.get(&number).filter(|held| held.state == State::Waiting) else {
            return;
        };
        if held.command.deliver != Deliver::Observe || held.command.method != DELETE {
            return;
        }
        let (device, path) = (held.command.device.clone(), held.command.path.clone());
        let is_gone = |held: &Held| {
            let Command { deliver, path: of, .. } = &held.command;
            held.state == State::Waiting && *deliver == Deliver::Observe && *of == path
        };
        let queue = self.queues.get(&device);
        let older = queue.iter().flat_map(|queue| &queue.numbers).filter(|older| **older < number);
        let gone: Vec<u64> =
            older.filter(|older| self.commands.get(older).is_some_and(is_gone)).copied().collect();
        gone.into_iter().for_each(|older| self.end(older, superseded()));
        let why = "the message on the path is removed: a GET of the device is answered with 4.04";
        self.end(number, Outcome::of(Status::Code(Code::DELETED.0), why));
        self.relations.note_changed(&device, &path);
    }

    /// The commands on their way to a path of a device.
    fn sent_on(&self, device: &Name, path: &str) -> impl Iterator<Item = (u64, &Held)> {
        let numbers = self.queues.get(device).map(|queue| &queue.numbers);
        let held =
            numbers.into_iter().flatten().filter_map(|number| Some((*number, self.commands.get(number)?)));
        held.filter(move |(_, held)| held.state == State::Sent && held.command.path == path)
    }

    /// The disk did not take a batch: nobody knows what of it is there. The next one is an image,
    /// and says it all. What was being stored is neither acknowledged nor refused until then: after
    /// a crash it may be there.
    fn undo(&mut self, ops: Vec<Op>) {
        let mut again = Vec::new();
        for op in ops {
            match op {
                Op::Related { relation, ticket: Some(ticket) } => {
                    self.relations.remove(relation);
                    self.events.push_back(Event::Unrelated { ticket });
                }
                Op::Related { relation, ticket: None } => self.handle_refreshed(relation),
                Op::Sent(number) => {
                    if self.state(number) == Some(State::Preparing) {
                        self.set(number, State::Waiting);
                    }
                }
                other => again.push(other),
            }
        }
        again.append(&mut self.pending);
        self.pending = again;
    }

    /// When [`Mailbox::poll_batch`] is to be asked again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.retry_at.filter(|_| self.flying.is_none())
    }

    /// What follows, in order.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

/// Commands of a device whose outcomes wait to be published, beside those that are not over.
const COUNT_SLACK: usize = 64;

/// What is said beside an outcome of a command that was sent in vain before.
const MAY_HAVE_RUN: &str = "; it was sent before: it may have run";

fn superseded() -> Outcome {
    Outcome::of(Status::Superseded, "a later command took its place")
}

/// The frame of a relation; none for one that ends with the process.
fn related(id: u64, relation: &Relation) -> Option<Entry> {
    let Relation { registration, sequence, .. } = relation;
    let content = frame::encode_related(registration, registration.session?, *sequence);
    Some(Entry { kind: kind::RELATED, number: id, content })
}

/// The content of [`kind::SENT`].
fn sequence_of(held: &Held) -> Vec<u8> {
    match held.command.deliver {
        Deliver::Request => Vec::new(),
        Deliver::Observe | Deliver::Auto => held.sequence.to_le_bytes().to_vec(),
    }
}

/// For how many seconds a value is still worth something, at least one; `None`: not any more.
fn left_s(value: &Value, boot: u32, moment: &Moment) -> Option<u32> {
    // Time that is not known ages nothing.
    let age_s = age_ms(value.taken, value.boot == boot, moment).unwrap_or(0) / 1000;
    let left = u64::from(value.expires_s).checked_sub(age_s).filter(|left| *left > 0)?;
    Some(left as u32)
}

/// How long ago a stamp was made, in milliseconds; `None` if nothing trustworthy says so.
fn age_ms(stamp: Stamp, same_boot: bool, moment: &Moment) -> Option<u64> {
    if same_boot {
        return Some(moment.boottime_ms.saturating_sub(stamp.boottime_ms));
    }
    let comparable = |stamped: &UnixTime| moment.ages_from.is_some_and(|from| *stamped >= from);
    let stamped = stamp.wall_ms.map(UnixTime).filter(comparable)?;
    Some(moment.wall?.0.saturating_sub(stamped.0))
}
