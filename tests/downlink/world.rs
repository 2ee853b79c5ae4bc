//! The mailbox and the delivery as the daemon puts them together, between a broker, a disk and one
//! device, which are made up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tombolo::clock::{Moment, UnixTime};
use tombolo::downlink::command::{Command, Outcome, Status};
use tombolo::downlink::delivery::{Carrier, Delivery, NotSent, Told};
use tombolo::downlink::log::{Committed, MailboxLog};
use tombolo::downlink::mailbox::{Arrival, Event, Mailbox, Observer, Take};
use tombolo::gate::{Deliver, MailboxLimits};
use tombolo::message::{Name, Stamp};
use tombolo::splitmix::SplitMix64;
use tombolo_test_support::journal::disk::{Cut, FakeDisk};
use tombolo_test_support::session_store::harness::Fake;

pub fn device() -> Name {
    Name::parse("door-7").unwrap()
}

/// A command that says its own number.
pub fn command(id: u32) -> Command {
    Command {
        device: device(),
        path: "lock".to_owned(),
        topic: "tombolo/gw/door-7/down/lock".to_owned(),
        method: 3,
        content_format: None,
        payload: id.to_be_bytes().to_vec(),
        reply_topic: Some("answers".to_owned()),
        correlation: Some(id.to_be_bytes().to_vec()),
        wrapped: false,
        taken: Stamp { boottime_ms: 0, wall_ms: None },
        expires_s: 1_000_000,
        deliver: Deliver::Request,
        idempotent: false,
        latest_wins: false,
        answer_within_s: 60,
    }
}

pub fn id_of(command: &Command) -> u32 {
    u32::from_be_bytes(command.payload[..4].try_into().unwrap())
}

/// A message at the broker, QoS 2 as its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtBroker {
    Waits,
    Sent {
        again: bool,
    },
    /// PUBREC came, PUBREL is sent.
    Received,
    Done,
}

/// How the device treats the next requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Answers,
    /// Nothing arrives.
    Deaf,
    /// It runs, and no answer arrives.
    Mute,
    /// It acknowledges and never responds; it runs. Of a notification nothing is told.
    Lingers,
    Resets,
    /// Its line is closed before the command is on it.
    Closes,
    /// It runs, and its line is closed in place of the answer.
    BreaksOff,
}

/// The way to the device.
pub struct Wire {
    pub awake: bool,
    pub mood: Mood,
    /// What it ran, in order.
    pub runs: Vec<u32>,
    /// What is to be told, in order.
    pub told: Vec<(u64, Told)>,
    pub sent: usize,
    /// Sequence numbers and ids of notifications, in order.
    pub notified: Vec<(u64, u32)>,
    /// Notifications that said 4.06.
    pub not_acceptable: usize,
    pub most: usize,
    open: BTreeSet<u64>,
}

impl Carrier for Wire {
    fn is_reachable(&mut self, _now: Instant, _command: &Command) -> bool {
        self.awake
    }

    fn send(
        &mut self,
        _now: Instant,
        number: u64,
        command: &Command,
        observer: Option<&Observer>,
    ) -> Result<(), NotSent> {
        if !self.awake {
            return Err(NotSent::Unreachable);
        }
        if observer.is_some_and(|observer| !observer.takes) {
            self.not_acceptable += 1;
            return Err(NotSent::OtherFormat);
        }
        if let Some(observer) = observer {
            self.notified.push((observer.sequence, id_of(command)));
            match self.mood {
                Mood::Answers => self.told.push((number, Told::Acknowledged)),
                Mood::Resets => self.told.push((number, Told::Rejected)),
                Mood::Lingers => {}
                _ => self.told.push((number, Told::Unanswered)),
            }
            return Ok(());
        }
        self.sent += 1;
        self.open.insert(number);
        self.most = self.most.max(self.open.len());
        let id = id_of(command);
        match self.mood {
            Mood::Answers => {
                self.runs.push(id);
                let outcome = Outcome {
                    status: Status::Code(0x44),
                    content_format: None,
                    payload: id.to_be_bytes().to_vec(),
                    partial: false,
                };
                self.told.push((number, Told::Answered(outcome)));
            }
            Mood::Deaf => self.told.push((number, Told::Unanswered)),
            Mood::Mute => {
                self.runs.push(id);
                self.told.push((number, Told::Unanswered));
            }
            Mood::Lingers => {
                self.runs.push(id);
                self.told.push((number, Told::Acknowledged));
            }
            Mood::Resets => self.told.push((number, Told::Rejected)),
            Mood::Closes => {
                self.awake = false;
                self.told.push((number, Told::Unsent));
            }
            Mood::BreaksOff => {
                self.runs.push(id);
                let outcome = Outcome::of(Status::Unknown, "the line was closed");
                self.told.push((number, Told::Failed(outcome)));
            }
        }
        Ok(())
    }

    fn abandon(&mut self, number: u64) {
        self.open.remove(&number);
    }
}

pub struct World {
    pub now: Instant,
    pub boottime_ms: u64,
    boot: u32,
    pub disk: FakeDisk,
    log: Option<MailboxLog<Fake>>,
    pub mailbox: Mailbox,
    pub delivery: Delivery,
    pub wire: Wire,
    /// By packet id, which is the id of the command, too.
    pub broker: BTreeMap<u32, (Command, AtBroker)>,
    tickets: BTreeMap<u64, (u32, bool)>,
    next_ticket: u64,
    /// Outcomes that were published, with the id of their command.
    pub published: Vec<(u32, Status)>,
    /// What their payloads say, in the same order.
    pub said: Vec<String>,
    /// Outcomes of commands that were refused.
    pub refused: Vec<(u32, Status)>,
    pub limits: MailboxLimits,
    /// Relations whose registration may be answered, and tickets of those that were not stored.
    pub related: Vec<Result<u64, u64>>,
    /// Relations that are due a notification.
    pub refreshed: Vec<u64>,
}

impl World {
    pub fn new() -> World {
        World::on(FakeDisk::default())
    }

    /// With so many devices that sleep, each with one set-point of 4 bytes.
    pub fn with_sleepers(count: u32, deliver: Deliver) -> World {
        let mut world = World::new();
        world.wire.awake = false;
        let limits = MailboxLimits::default();
        for id in 0..count {
            let one = Command {
                device: Name::parse(&format!("sensor-{id:05}")).unwrap(),
                topic: format!("tombolo/gw/sensor-{id:05}/down/set/interval"),
                path: "set/interval".to_owned(),
                reply_topic: Some(format!("tombolo/gw/sensor-{id:05}/reply/set/interval")),
                payload: b"3600".to_vec(),
                deliver,
                ..command(id)
            };
            let arrival = Arrival {
                now: world.now,
                ticket: 0,
                topic_hash: u64::from(id),
                hash: u64::from(id),
                packet: Some((2, id as u16)),
                connection: 1,
                distinct: false,
                again: false,
                keeps_ids: false,
                retained: false,
            };
            assert!(matches!(world.mailbox.take(&arrival, vec![(one, &limits)]), Take::Taken(_)));
            world.settle();
        }
        assert_eq!(world.mailbox.len(), count as usize);
        world
    }

    pub fn on(disk: FakeDisk) -> World {
        let (log, entries) = match MailboxLog::open(Fake(disk.clone()), 7) {
            Ok((log, entries, _)) => (Some(log), entries),
            Err(_) => (None, Vec::new()),
        };
        World {
            now: Instant::now(),
            boottime_ms: 1_000,
            boot: 1,
            disk,
            log,
            mailbox: Mailbox::new(1, &entries),
            delivery: Delivery::default(),
            wire: Wire {
                awake: true,
                mood: Mood::Answers,
                runs: Vec::new(),
                told: Vec::new(),
                sent: 0,
                notified: Vec::new(),
                not_acceptable: 0,
                most: 0,
                open: BTreeSet::new(),
            },
            broker: BTreeMap::new(),
            tickets: BTreeMap::new(),
            next_ticket: 0,
            published: Vec::new(),
            said: Vec::new(),
            refused: Vec::new(),
            limits: MailboxLimits { messages: 64, bytes: 1 << 20, ..MailboxLimits::default() },
            related: Vec::new(),
            refreshed: Vec::new(),
        }
    }

    pub fn moment(&self) -> Moment {
        Moment { now: self.now, boottime_ms: self.boottime_ms, wall: None, ages_from: None }
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.boottime_ms += time.as_millis() as u64;
        let moment = self.moment();
        self.mailbox.expire(&moment);
        self.delivery.handle_timeout(self.now, &mut self.mailbox, &mut self.wire);
        self.settle();
    }

    /// Somebody publishes this at QoS 2.
    pub fn publish(&mut self, command: Command) {
        self.broker.insert(id_of(&command), (command, AtBroker::Waits));
        self.settle();
    }

    /// The device wakes, says something, and sleeps again.
    pub fn wake(&mut self) {
        self.wire.awake = true;
        self.delivery.handle_contact(self.now, &device(), &mut self.mailbox, &mut self.wire);
        self.settle();
        self.wire.awake = false;
    }

    fn arrival(&mut self, id: u32, again: bool, release: bool) -> Arrival {
        self.next_ticket += 1;
        self.tickets.insert(self.next_ticket, (id, release));
        Arrival {
            now: self.now,
            ticket: self.next_ticket,
            topic_hash: 1,
            hash: u64::from(id) << 8,
            packet: Some((2, id as u16)),
            connection: 1,
            distinct: false,
            again,
            keeps_ids: false,
            retained: false,
        }
    }

    /// Until nothing moves any more.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.step() || self.disk.is_off() {
                return;
            }
        }
        panic!("it does not settle");
    }

    fn step(&mut self) -> bool {
        // The broker: one packet.
        let next = self.broker.iter().find(|(_, (_, at))| *at == AtBroker::Waits).map(|(id, _)| *id);
        if let Some(id) = next {
            self.send(id, false);
            return true;
        }
        if !self.wire.told.is_empty() {
            let (number, told) = self.wire.told.remove(0);
            if told != Told::Acknowledged {
                self.wire.open.remove(&number);
            }
            self.delivery.handle(self.now, number, told, &mut self.mailbox);
            return true;
        }
        if let Some(event) = self.mailbox.poll_event() {
            self.handle(event);
            return true;
        }
        match self.mailbox.poll_batch(self.now) {
            Some(batch) => {
                let committed = match &mut self.log {
                    Some(log) => log.commit(&batch),
                    None => Committed { error: Some("no log".to_owned()), wants_image: true },
                };
                if !self.disk.is_off() {
                    self.mailbox.handle_committed(self.now, &committed);
                }
                true
            }
            None => false,
        }
    }

    fn send(&mut self, id: u32, again: bool) {
        let Some((command, at)) = self.broker.get_mut(&id) else { return };
        *at = AtBroker::Sent { again };
        let mut command = command.clone();
        command.taken.boottime_ms = self.boottime_ms;
        let arrival = self.arrival(id, again, false);
        match self.mailbox.take(&arrival, vec![(command, &self.limits.clone())]) {
            Take::Taken(taken) => {
                for outcome in taken.into_iter().filter_map(Result::err) {
                    self.refused.push((id, outcome.status));
                    self.tickets.remove(&arrival.ticket);
                    self.broker.get_mut(&id).unwrap().1 = AtBroker::Done;
                }
            }
            Take::Duplicate => {}
            Take::Repeated => panic!("nothing is retained here"),
        }
    }

    fn release(&mut self, id: u32) {
        let ticket = self.arrival(id, false, true).ticket;
        self.mailbox.handle_released(self.now, id as u16, ticket);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Stored { ticket } => {
                let Some((id, release)) = self.tickets.remove(&ticket) else { return };
                let at = &mut self.broker.get_mut(&id).unwrap().1;
                if release {
                    *at = AtBroker::Done;
                } else if *at != AtBroker::Done {
                    *at = AtBroker::Received;
                    self.release(id);
                }
            }
            Event::Ready(device) => {
                self.delivery.offer(self.now, &device, &mut self.mailbox, &mut self.wire);
            }
            Event::MaySend(number) => {
                self.delivery.handle_may_send(self.now, number, &mut self.mailbox, &mut self.wire);
            }
            Event::Ended { .. } => {}
            Event::Related { relation, .. } => {
                self.mailbox.note_notified(self.now, relation, relation);
                self.related.push(Ok(relation));
            }
            Event::Unrelated { ticket } => self.related.push(Err(ticket)),
            Event::Refresh(relation) => self.refreshed.push(relation),
            Event::Reply(number) => {
                let (command, outcome) = self.mailbox.outcome(number).unwrap();
                self.published.push((id_of(command), outcome.status));
                self.said.push(String::from_utf8_lossy(&outcome.payload).into_owned());
                self.mailbox.handle_published(number);
            }
        }
    }

    /// The gateway loses power and starts again; `cut` is what of the disk's cache survives.
    pub fn restart(&mut self, cut: Cut) {
        self.disk = self.disk.after_power_cut(cut);
        self.boot += 1;
        self.boottime_ms = 1_000;
        let (log, entries, _) = MailboxLog::open(Fake(self.disk.clone()), self.boot).unwrap();
        self.log = Some(log);
        self.mailbox = Mailbox::new(self.boot, &entries);
        self.delivery = Delivery::default();
        self.tickets.clear();
        self.wire.told.clear();
        self.wire.open.clear();
        // The session is still there: PUBLISH again with DUP, or PUBREL again.
        let unfinished: Vec<(u32, AtBroker)> = self
            .broker
            .iter()
            .map(|(id, (_, at))| (*id, *at))
            .filter(|(_, at)| !matches!(at, AtBroker::Done | AtBroker::Waits))
            .collect();
        for (id, at) in unfinished {
            match at {
                AtBroker::Received => self.release(id),
                _ => self.send(id, true),
            }
        }
        self.settle();
    }

    /// What must be true when all is over.
    pub fn check(&self) {
        for (id, (command, at)) in &self.broker {
            assert_eq!(*at, AtBroker::Done, "{id}");
            let runs = self.wire.runs.iter().filter(|run| *run == id).count();
            let outcomes: Vec<Status> = self
                .published
                .iter()
                .chain(&self.refused)
                .filter(|(of, _)| of == id)
                .map(|(_, s)| *s)
                .collect();
            assert!(!outcomes.is_empty(), "{id} has an outcome");
            assert!(command.idempotent || runs <= 1, "{id} ran {runs} times");
            let answered = outcomes.iter().any(|status| matches!(status, Status::Code(_)));
            if answered {
                assert!(runs >= 1, "{id} was answered and did not run");
                assert!(
                    outcomes.iter().all(|status| matches!(status, Status::Code(_))),
                    "{id}: {outcomes:?}"
                );
            }
            if outcomes.iter().all(|status| matches!(status, Status::Expired | Status::Full)) {
                assert_eq!(runs, 0, "{id} ran although it was not sent");
            }
        }
        assert!(self.mailbox.is_empty(), "nothing is left");
        assert!(self.wire.most <= 1, "one command of a device is on its way");
    }
}

/// Draws moods.
pub fn mood(random: &mut SplitMix64) -> Mood {
    [Mood::Answers, Mood::Answers, Mood::Deaf, Mood::Mute, Mood::Lingers][random.below(5) as usize]
}

/// Trusted wall time.
#[allow(dead_code, reason = "of one test")]
pub fn at_wall(moment: Moment, ms: u64) -> Moment {
    Moment { wall: Some(UnixTime(ms)), ages_from: Some(UnixTime(0)), ..moment }
}
