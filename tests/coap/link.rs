//! Devices that follow RFC 7252 and the endpoint, over a link that loses, duplicates and reorders
//! datagrams: the result that each device sees is correct.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use tombolo::message::Method;
use tombolo::proto::address::Ticket;
use tombolo::proto::coap::{Code, Type};
use tombolo::splitmix::SplitMix64;

use super::support::*;

/// What happens at some time.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    ToGateway(usize, Vec<u8>),
    ToDevice(usize, Vec<u8>),
    /// A device takes its next reading.
    Begin(usize),
    /// A device looks whether its attempt timed out.
    Retry(usize, u16, u32),
    /// The journal's commit is done.
    Committed(u128),
}

/// A device that sends one reading after another, the next when the last is answered or given up.
struct Device {
    next: u16,
    confirmable: bool,
    waiting: Option<Waiting>,
    /// How each reading ended: `Some(code)` answered, `None` given up.
    ends: BTreeMap<u16, Option<Code>>,
}

struct Waiting {
    id: u16,
    datagram: Vec<u8>,
    attempts: u32,
    timeout: Duration,
    acknowledged: bool,
}

struct World {
    bench: Bench,
    dice: SplitMix64,
    loss: u64,
    slowest_commit: u64,
    events: BinaryHeap<Reverse<(Instant, u64, Happening)>>,
    order: u64,
    devices: Vec<Device>,
    /// How often each reading of each device was handed up.
    handed_up: HashMap<(usize, u16), u32>,
    readings: u16,
}

impl World {
    fn at(&mut self, after: Duration, happening: Happening) {
        self.order += 1;
        self.events.push(Reverse((self.bench.now + after, self.order, happening)));
    }

    /// Puts a datagram on the link: lost, or there once or several times, each after a time of its
    /// own.
    fn transmit(&mut self, make: impl Fn(Vec<u8>) -> Happening, datagram: &[u8]) {
        if self.dice.below(100) < self.loss {
            return;
        }
        let copies = 1 + u64::from(self.dice.below(100) < 20) * (1 + self.dice.below(2));
        for _ in 0..copies {
            let most = if self.dice.below(100) < 5 { 60_000 } else { 400 };
            let delay = self.dice.up_to(Duration::from_millis(most));
            self.at(delay, make(datagram.to_vec()));
        }
    }

    fn begin_reading(&mut self, device: usize) {
        let this = &mut self.devices[device];
        if this.next == self.readings {
            return;
        }
        let id = this.next;
        this.next += 1;
        this.confirmable = !id.is_multiple_of(5);
        let kind = if this.confirmable { Type::Confirmable } else { Type::NonConfirmable };
        let datagram = message(kind, POST, id, &id.to_be_bytes(), &[(11, b"t")], &id.to_be_bytes());
        let timeout = Duration::from_millis(2_000 + self.dice.below(1_001));
        self.devices[device].waiting =
            Some(Waiting { id, datagram: datagram.clone(), attempts: 1, timeout, acknowledged: false });
        self.transmit(|bytes| Happening::ToGateway(device, bytes), &datagram);
        self.at(timeout, Happening::Retry(device, id, 1));
    }

    fn end_reading(&mut self, device: usize, id: u16, end: Option<Code>) {
        self.devices[device].waiting = None;
        assert!(self.devices[device].ends.insert(id, end).is_none());
        // So that a duplicate delayed by a minute is still among the newest 32.
        let pause = Duration::from_secs(2) + self.dice.up_to(Duration::from_secs(6));
        self.at(pause, Happening::Begin(device));
    }

    fn retry(&mut self, device: usize, id: u16, attempt: u32) {
        // A non-confirmable reading is sent once; after an empty acknowledgement one waits, but not
        // for ever.
        let last = if self.devices[device].confirmable { 5 } else { 1 };
        let Some(waiting) =
            self.devices[device].waiting.as_mut().filter(|w| w.id == id && w.attempts == attempt)
        else {
            return;
        };
        if waiting.attempts >= last {
            return self.end_reading(device, id, None);
        }
        waiting.attempts += 1;
        waiting.timeout *= 2;
        let (timeout, send) = (waiting.timeout, (!waiting.acknowledged).then(|| waiting.datagram.clone()));
        if let Some(datagram) = send {
            self.transmit(|bytes| Happening::ToGateway(device, bytes), &datagram);
        }
        self.at(timeout, Happening::Retry(device, id, attempt + 1));
    }

    fn device_hears(&mut self, device: usize, datagram: &[u8]) {
        let heard = parse(datagram);
        if heard.message_type == Type::Confirmable {
            // Acknowledged however often it comes.
            let answer = empty(Type::Acknowledgement, heard.message_id.0);
            self.transmit(|bytes| Happening::ToGateway(device, bytes), &answer);
        }
        let Some(waiting) = self.devices[device].waiting.as_mut() else { return };
        if heard.message_type == Type::Acknowledgement && heard.message_id.0 == waiting.id {
            waiting.acknowledged = true;
        }
        if heard.code != Code::EMPTY && heard.token.as_bytes() == waiting.id.to_be_bytes() {
            let id = waiting.id;
            self.end_reading(device, id, Some(heard.code));
        }
    }

    fn gateway_hears(&mut self, device: usize, datagram: &[u8]) {
        let Some(request) = self.bench.feed(proven(device as u64), datagram) else { return };
        let id = u16::from_be_bytes(request.payload[..].try_into().unwrap());
        *self.handed_up.entry((device, id)).or_default() += 1;
        let ticket = Ticket::Coap { exchange: request.exchange, method: Method::Post }.pack();
        let commit = self.dice.up_to(Duration::from_millis(self.slowest_commit));
        self.at(commit, Happening::Committed(ticket));
    }

    fn run(&mut self) {
        for device in 0..self.devices.len() {
            self.begin_reading(device);
        }
        loop {
            let next = self.events.peek().map(|Reverse((at, ..))| *at);
            let deadline = self.bench.endpoint.poll_timeout();
            let Some(now) = next.into_iter().chain(deadline).min() else { break };
            self.bench.now = self.bench.now.max(now);
            if deadline.is_some_and(|deadline| deadline <= self.bench.now) {
                self.bench.endpoint.handle_timeout(self.bench.now);
            } else if let Some(Reverse((_, _, happening))) = self.events.pop() {
                match happening {
                    Happening::ToGateway(device, bytes) => self.gateway_hears(device, &bytes),
                    Happening::ToDevice(device, bytes) => self.device_hears(device, &bytes),
                    Happening::Begin(device) => self.begin_reading(device),
                    Happening::Retry(device, id, attempt) => self.retry(device, id, attempt),
                    Happening::Committed(ticket) => {
                        let Some(Ticket::Coap { exchange, .. }) = Ticket::unpack(ticket) else { panic!() };
                        self.bench.respond(exchange, &changed());
                    }
                }
            }
            for (peer, datagram) in self.bench.sent() {
                self.transmit(|bytes| Happening::ToDevice(peer.to_bits() as usize, bytes), &datagram);
            }
        }
    }
}

fn run(seed: u64, loss: u64, slowest_commit: u64) -> World {
    let device = || Device { next: 0, confirmable: true, waiting: None, ends: BTreeMap::new() };
    let mut world = World {
        bench: Bench::default(),
        dice: SplitMix64::new(seed),
        loss,
        slowest_commit,
        events: BinaryHeap::new(),
        order: 0,
        devices: (0..10).map(|_| device()).collect(),
        handed_up: HashMap::new(),
        readings: 60,
    };
    world.run();
    world
}

/// What must be true after every run; how many confirmable readings were answered, of how many.
fn check(world: &World) -> (usize, usize) {
    assert!(world.handed_up.values().all(|&times| times == 1), "each reading is handed up once");
    let (mut answered, mut all) = (0, 0);
    for (device, this) in world.devices.iter().enumerate() {
        assert_eq!(this.ends.len(), usize::from(world.readings), "device {device} came to its end");
        for (&id, end) in &this.ends {
            if end.is_some() {
                assert!(world.handed_up.contains_key(&(device, id)), "what is answered was handed up");
            }
            let confirmable = !id.is_multiple_of(5);
            all += usize::from(confirmable);
            answered += usize::from(confirmable && end.is_some());
        }
    }
    let endpoint = &world.bench.endpoint;
    assert_eq!((endpoint.memory(), endpoint.pending_count(), endpoint.poll_timeout()), (0, 0, None));
    (answered, all)
}

#[test]
fn on_a_link_that_loses_nothing_every_confirmable_reading_is_answered() {
    for seed in 1..20 {
        let world = run(seed, 0, 20);
        let (answered, all) = check(&world);
        assert_eq!(answered, all);
        assert_eq!(world.handed_up.len(), 600);
    }
}

#[test]
fn on_a_bad_link_each_reading_is_handed_up_once_and_nearly_all_are_answered() {
    let (mut answered, mut all) = (0, 0);
    for seed in 1..20 {
        let (a, b) = check(&run(seed, 30, 20));
        (answered, all) = (answered + a, all + b);
    }
    assert!(answered * 100 > all * 90, "{answered} of {all}");
}

#[test]
fn with_a_slow_journal_responses_of_their_own_do_as_well() {
    let (mut answered, mut all) = (0, 0);
    for seed in 1..20 {
        let world = run(seed, 20, 6_000);
        assert!(world.bench.endpoint.counters().late > 0);
        let (a, b) = check(&world);
        (answered, all) = (answered + a, all + b);
    }
    assert!(answered * 100 > all * 90, "{answered} of {all}");
}
