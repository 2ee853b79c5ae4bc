//! A sensor that wakes every six hours, behind a link that loses a third, doubles and reorders, and
//! a gateway that is killed: the endpoint, the mailbox and the delivery together, in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use tombolo::clock::Moment;
use tombolo::downlink::command::{Command, Outcome, Status};
use tombolo::downlink::delivery::{Carrier, Delivery, NotSent, Told};
use tombolo::downlink::log::MailboxLog;
use tombolo::downlink::mailbox::{Arrival, Event, Mailbox, Observer, Take};
use tombolo::gate::MailboxLimits;
use tombolo::proto::Holder;
use tombolo::proto::address::Peer;
use tombolo::proto::coap::encoder::Encoder;
use tombolo::proto::coap::{
    self, Code, Endpoint, Message, MessageId, Method, Outgoing, PeerId, RequestId, Response, Token, Type,
};
use tombolo::proto::dtls::SessionId;
use tombolo::splitmix::SplitMix64;
use tombolo_test_support::journal::disk::{Cut, FakeDisk};
use tombolo_test_support::session_store::harness::Fake;

use crate::world::{command, device, id_of};

const PEER: PeerId = Peer::Session(SessionId(1)).id();
const HOLDER: Holder = Holder { number: 1, max_sessions: 1, max_handshakes: Holder::HANDSHAKES };
const AWAKE: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum To {
    Gateway,
    Device,
}

/// When it arrives, in which order it was sent, where, and what.
type InTheAir = (Instant, u64, To, Vec<u8>);

struct Way {
    endpoint: Endpoint,
    heard: Option<Instant>,
    by_request: BTreeMap<RequestId, u64>,
    by_number: BTreeMap<u64, RequestId>,
}

impl Way {
    fn new(seed: u64) -> Way {
        let endpoint = Endpoint::new(Default::default(), seed);
        Way { endpoint, heard: None, by_request: BTreeMap::new(), by_number: BTreeMap::new() }
    }
}

impl Carrier for Way {
    fn is_reachable(&mut self, now: Instant, _command: &Command) -> bool {
        self.heard.is_some_and(|heard| now - heard <= AWAKE)
    }

    fn send(
        &mut self,
        now: Instant,
        number: u64,
        command: &Command,
        _observer: Option<&Observer>,
    ) -> Result<(), NotSent> {
        let outgoing = Outgoing {
            method: Method::Put,
            path: &command.path,
            content_format: None,
            payload: &command.payload,
        };
        let request = self.endpoint.request(now, HOLDER, PEER, &outgoing).map_err(|_| NotSent::Busy)?;
        self.by_request.insert(request, number);
        self.by_number.insert(number, request);
        Ok(())
    }

    fn abandon(&mut self, number: u64) {
        if let Some(request) = self.by_number.remove(&number) {
            self.by_request.remove(&request);
            self.endpoint.abandon(request);
        }
    }
}

/// A sensor that answers requests while it is awake, and knows duplicates (RFC 7252 §4.5).
#[derive(Default)]
struct Sensor {
    awake_until: Option<Instant>,
    seen: HashMap<u16, (Instant, Vec<u8>)>,
    runs: Vec<u32>,
    next_id: u16,
    acknowledged: bool,
}

struct Lossy {
    start: Instant,
    now: Instant,
    random: SplitMix64,
    boot: u32,
    disk: FakeDisk,
    log: MailboxLog<Fake>,
    mailbox: Mailbox,
    delivery: Delivery,
    way: Way,
    sensor: Sensor,
    air: BinaryHeap<Reverse<InTheAir>>,
    count: u64,
    /// Commands by id, and whether the broker has the acknowledgement.
    broker: BTreeMap<u32, (Command, bool)>,
    tickets: BTreeMap<u64, u32>,
    published: Vec<(u32, Status)>,
}

impl Lossy {
    fn new(seed: u64) -> Lossy {
        let disk = FakeDisk::default();
        let (log, entries, _) = MailboxLog::open(Fake(disk.clone()), 1).unwrap();
        let now = Instant::now();
        Lossy {
            start: now,
            now,
            random: SplitMix64::new(seed),
            boot: 1,
            disk,
            log,
            mailbox: Mailbox::new(1, &entries),
            delivery: Delivery::default(),
            way: Way::new(seed),
            sensor: Sensor::default(),
            air: BinaryHeap::new(),
            count: 0,
            broker: BTreeMap::new(),
            tickets: BTreeMap::new(),
            published: Vec::new(),
        }
    }

    /// A third is lost, a tenth comes twice, and anything may overtake anything.
    fn send(&mut self, to: To, datagram: &[u8]) {
        let copies = if self.random.below(10) == 0 { 2 } else { 1 };
        for _ in 0..copies {
            if self.random.below(10) < 3 {
                continue;
            }
            let at = self.now + Duration::from_millis(20 + self.random.below(1_500));
            self.count += 1;
            self.air.push(Reverse((at, self.count, to, datagram.to_vec())));
        }
    }

    fn publish(&mut self, command: Command) {
        let id = id_of(&command);
        self.broker.insert(id, (command, false));
        self.take(id, false);
    }

    fn take(&mut self, id: u32, again: bool) {
        let mut command = self.broker[&id].0.clone();
        command.taken.boottime_ms = self.moment().boottime_ms;
        self.count += 1;
        self.tickets.insert(self.count, id);
        let arrival = Arrival {
            now: self.now,
            ticket: self.count,
            topic_hash: 1,
            hash: u64::from(id) << 8,
            packet: Some((2, id as u16)),
            connection: 1,
            distinct: false,
            again,
            keeps_ids: false,
            retained: false,
        };
        let limits = MailboxLimits { messages: 1_000, bytes: 1 << 20, ..MailboxLimits::default() };
        assert!(!matches!(self.mailbox.take(&arrival, vec![(command, &limits)]), Take::Repeated));
    }

    fn moment(&self) -> Moment {
        let boottime_ms = (self.now - self.start).as_millis() as u64;
        Moment { now: self.now, boottime_ms, wall: None, ages_from: None }
    }

    /// Everything that follows at once; `killed`: the gateway dies before the next batch is told.
    fn follow(&mut self, killed: bool) {
        while let Some(reply) = self.way.endpoint.poll_reply() {
            let Some(&number) = self.way.by_request.get(&reply.request) else { continue };
            let told = match reply.outcome {
                coap::Outcome::Acknowledged => Told::Acknowledged,
                coap::Outcome::Response { code, payload, .. } => Told::Answered(Outcome {
                    status: Status::Code(code.0),
                    content_format: None,
                    payload,
                    partial: false,
                }),
                coap::Outcome::Reset => Told::Rejected,
                coap::Outcome::Unanswered => Told::Unanswered,
                coap::Outcome::Gone => Told::Gone,
                coap::Outcome::Unintelligible(_) => panic!("no such option is sent"),
                coap::Outcome::InPart { .. } => panic!("no such body is sent"),
            };
            self.delivery.handle(self.now, number, told, &mut self.mailbox);
        }
        loop {
            while let Some(event) = self.mailbox.poll_event() {
                match event {
                    Event::Stored { ticket } => {
                        if let Some(id) = self.tickets.remove(&ticket) {
                            self.broker.get_mut(&id).unwrap().1 = true;
                        }
                    }
                    Event::Ready(device) => {
                        self.delivery.offer(self.now, &device, &mut self.mailbox, &mut self.way);
                    }
                    Event::MaySend(number) => {
                        self.delivery.handle_may_send(self.now, number, &mut self.mailbox, &mut self.way);
                    }
                    Event::Reply(number) => {
                        let (command, outcome) = self.mailbox.outcome(number).unwrap();
                        self.published.push((id_of(command), outcome.status));
                        self.mailbox.handle_published(number);
                    }
                    Event::Ended { .. } => {}
                    Event::Related { .. } | Event::Unrelated { .. } | Event::Refresh(_) => {}
                }
            }
            let Some(batch) = self.mailbox.poll_batch(self.now) else { break };
            let committed = self.log.commit(&batch);
            if killed {
                return self.restart();
            }
            self.mailbox.handle_committed(self.now, &committed);
        }
        let mut datagram = Vec::new();
        while self.way.endpoint.poll_transmit(&mut datagram).is_some() {
            self.send(To::Device, &datagram.clone());
        }
    }

    fn restart(&mut self) {
        self.boot += 1;
        self.disk = self.disk.after_power_cut(Cut::Some(self.random.below(1 << 40)));
        let (log, entries, _) = MailboxLog::open(Fake(self.disk.clone()), self.boot).unwrap();
        (self.log, self.mailbox, self.delivery) =
            (log, Mailbox::new(self.boot, &entries), Delivery::default());
        self.way = Way::new(self.random.below(u64::MAX));
        self.tickets.clear();
        let again: Vec<u32> = self.broker.iter().filter(|(_, (_, done))| !done).map(|(id, _)| *id).collect();
        again.into_iter().for_each(|id| self.take(id, true));
        self.follow(false);
    }

    fn wake(&mut self) {
        self.sensor.awake_until = Some(self.now + AWAKE);
        self.sensor.acknowledged = false;
        self.sensor.next_id = self.sensor.next_id.wrapping_add(1);
        self.post();
    }

    fn post(&mut self) {
        let mut datagram = Vec::new();
        let id = MessageId(self.sensor.next_id);
        let encoder = Encoder::new(&mut datagram, Type::Confirmable, Code(2), id, &Token::default());
        encoder.option(11, b"t").payload(b"21.5").finish().unwrap();
        self.send(To::Gateway, &datagram);
    }

    fn at_gateway(&mut self, datagram: &[u8]) {
        self.way.heard = Some(self.now);
        if let Some(request) = self.way.endpoint.handle_datagram(self.now, PEER, datagram) {
            let exchange = request.exchange;
            self.way.endpoint.respond(self.now, exchange, &Response::new(Code::CHANGED));
        }
        self.delivery.handle_contact(self.now, &device(), &mut self.mailbox, &mut self.way);
    }

    fn at_device(&mut self, datagram: &[u8]) {
        if self.sensor.awake_until.is_none_or(|until| until < self.now) {
            return;
        }
        self.sensor.awake_until = Some(self.now + AWAKE);
        let Ok(message) = Message::parse(datagram) else { return };
        match message.message_type {
            Type::Acknowledgement => self.sensor.acknowledged = true,
            Type::Confirmable if message.code == Code(3) => {
                let now = self.now;
                self.sensor.seen.retain(|_, (at, _)| now - *at < Duration::from_secs(247));
                let id = message.message_id.0;
                let answer = match self.sensor.seen.get(&id) {
                    Some((_, answer)) => answer.clone(),
                    None => {
                        self.sensor.runs.push(u32::from_be_bytes(message.payload[..4].try_into().unwrap()));
                        let mut answer = Vec::new();
                        Encoder::new(
                            &mut answer,
                            Type::Acknowledgement,
                            Code::CHANGED,
                            message.message_id,
                            &message.token,
                        )
                        .finish()
                        .unwrap();
                        self.sensor.seen.insert(id, (now, answer.clone()));
                        answer
                    }
                };
                self.send(To::Gateway, &answer);
            }
            _ => {}
        }
    }

    /// Lets time pass; the gateway dies once in so many rounds.
    fn run(&mut self, time: Duration, kill_in: Option<u64>) {
        let end = self.now + time;
        let mut posted = self.now;
        let mut cared = self.now;
        while self.now < end {
            let air = self.air.peek().map(|Reverse((at, ..))| *at);
            let next = [air, self.way.endpoint.poll_timeout(), Some(self.now + Duration::from_secs(1))];
            let next = next.into_iter().flatten().min().unwrap_or(end).max(self.now);
            // Nothing moves while it sleeps and nothing is on its way.
            let idle = air.is_none() && self.delivery.in_flight() == 0;
            let asleep = self.sensor.awake_until.is_none_or(|until| until < self.now);
            self.now = if idle && asleep { (self.now + Duration::from_secs(60)).min(end) } else { next };
            if self.way.endpoint.poll_timeout().is_some_and(|at| at <= self.now) {
                self.way.endpoint.handle_timeout(self.now);
            }
            while let Some(Reverse((at, _, to, datagram))) = self.air.peek().cloned() {
                if at > self.now {
                    break;
                }
                self.air.pop();
                match to {
                    To::Gateway => self.at_gateway(&datagram),
                    To::Device => self.at_device(&datagram),
                }
            }
            let awake = self.sensor.awake_until.is_some_and(|until| until >= self.now);
            if awake && !self.sensor.acknowledged && self.now - posted >= Duration::from_secs(3) {
                posted = self.now;
                self.post();
            }
            if self.now - cared >= Duration::from_secs(1) {
                cared = self.now;
                let moment = self.moment();
                self.mailbox.expire(&moment);
                self.delivery.handle_timeout(self.now, &mut self.mailbox, &mut self.way);
            }
            let killed = kill_in.is_some_and(|many| self.random.below(many) == 0);
            self.follow(killed);
            if killed && self.random.below(3) == 0 {
                self.restart();
            }
        }
    }
}

#[test]
fn a_sensor_that_wakes_every_six_hours_gets_each_command_once_over_a_link_that_loses_a_third() {
    let (mut answered, mut all) = (0, 0);
    for seed in 1..=12 {
        for kill_in in [None, Some(40)] {
            let mut lossy = Lossy::new(seed);
            for id in 1..=20u32 {
                let mut one = command(id);
                one.idempotent = id % 2 == 0;
                lossy.publish(one);
                lossy.follow(kill_in.is_some() && id % 5 == 0);
                if id % 4 == 0 {
                    lossy.wake();
                    lossy.run(6 * HOUR, kill_in);
                }
            }
            for _ in 0..30 {
                lossy.wake();
                lossy.run(6 * HOUR, None);
            }
            assert!(lossy.mailbox.is_empty(), "seed {seed}: {:?}", lossy.mailbox.view().next());
            for (id, (command, done)) in &lossy.broker {
                assert!(done, "seed {seed}: {id} is acknowledged");
                let runs = lossy.sensor.runs.iter().filter(|run| *run == id).count();
                let outcomes: Vec<Status> =
                    lossy.published.iter().filter(|(of, _)| of == id).map(|(_, status)| *status).collect();
                assert!(!outcomes.is_empty(), "seed {seed}: {id} has an outcome");
                assert!(command.idempotent || runs <= 1, "seed {seed}: {id} ran {runs} times");
                let code = outcomes.iter().any(|status| matches!(status, Status::Code(_)));
                assert!(!code || runs >= 1, "seed {seed}: {id} was answered and did not run");
                assert!(!command.idempotent || code, "seed {seed}: {id} is idempotent: {outcomes:?}");
                all += 1;
                answered += usize::from(code);
            }
        }
    }
    println!("{answered} of {all} commands were answered, half of them sent once only");
    assert!(answered * 10 > all * 7, "{answered} of {all}");
}
