//! A bus in virtual time: units that answer as a test says, and a line that takes as long as a real
//! one.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tombolo::message::Name;
use tombolo::proto::serial::modbus::change::Publish;
use tombolo::proto::serial::modbus::frame::{Speed, crc16};
use tombolo::proto::serial::modbus::map::{Kind, Register};
use tombolo::proto::serial::modbus::pdu::Table;
use tombolo::proto::serial::modbus::plan::Limits;
use tombolo::proto::serial::modbus::settings::Unit;
use tombolo::proto::serial::modbus::{Bus, Event, Settings};

pub const SPEED: Speed = Speed { baud: 9600, bits: 11 };

pub fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub fn register(name: &str, table: Table, address: u16, kind: Kind) -> Register {
    Register { name: name.to_owned(), table, address, kind, ..Register::default() }
}

/// A unit with one register, `value` at address 0.
pub fn unit(address: u8) -> Unit {
    Unit {
        id: Name::parse(&format!("meter-{address}")).unwrap(),
        address,
        path: "data".to_owned(),
        period: Duration::from_secs(1),
        jitter: Duration::ZERO,
        publish: Publish::Always,
        registers: vec![register("value", Table::Holding, 0, Kind::U16)],
        limits: Limits { max_registers: 125, max_gap: 8 },
        timeout: ms(300),
        pause: Duration::ZERO,
    }
}

pub fn settings(units: Vec<Unit>) -> Settings {
    Settings {
        speed: SPEED,
        timeout: ms(300),
        interval: Duration::ZERO,
        backoff: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
        echo: false,
        ascii: false,
        is_unnumbered: false,
        units,
    }
}

/// A frame around `body`.
pub fn frame(body: &[u8]) -> Vec<u8> {
    [body, &crc16(body).to_le_bytes()].concat()
}

/// What a unit does with a request's body: bytes to send, each so long after the request was heard.
/// No bytes stand for the closing of the connection; it is open again 200 ms later, or as set.
pub type Behaviour = Box<dyn FnMut(&[u8]) -> Vec<(Duration, Vec<u8>)>>;

/// Answers like a meter whose registers hold their own address: after 5 ms.
pub fn meter(request: &[u8]) -> Vec<(Duration, Vec<u8>)> {
    vec![(ms(5), frame(&answer(request)))]
}

/// The right answer's body to a read, registers holding their own address, odd bits set.
pub fn answer(request: &[u8]) -> Vec<u8> {
    let (unit, function) = (request[0], request[1]);
    let address = u16::from_be_bytes([request[2], request[3]]);
    let quantity = u16::from_be_bytes([request[4], request[5]]);
    let mut body = vec![unit, function];
    if function <= 2 {
        body.push(quantity.div_ceil(8) as u8);
        for byte in 0..quantity.div_ceil(8) {
            let bit = |bit: u16| {
                let at = byte * 8 + bit;
                u8::from(at < quantity && (address + at) % 2 == 1) << bit
            };
            body.push((0..8).map(bit).sum());
        }
    } else {
        body.push((2 * quantity) as u8);
        (address..address + quantity).for_each(|word| body.extend(word.to_be_bytes()));
    }
    body
}

pub struct World {
    pub start: Instant,
    pub now: Instant,
    pub bus: Bus,
    units: BTreeMap<u8, Behaviour>,
    /// A unit does one thing after the other.
    busy: BTreeMap<u8, Instant>,
    on_the_way: VecDeque<(Instant, Vec<u8>)>,
    /// When each request left, and what it said, without checksum.
    pub requests: Vec<(Duration, Vec<u8>)>,
    pub events: Vec<(Duration, Event)>,
    /// Each reading with the number of requests its unit had got until then.
    pub asked: Vec<(usize, usize, String)>,
    counts: BTreeMap<u8, usize>,
    elapsed: Rc<Cell<Duration>>,
    is_closed: bool,
    /// So long the connection stays closed.
    pub closed_for: Duration,
}

impl World {
    /// A bus whose units all answer like meters.
    pub fn new(settings: Settings) -> World {
        let addresses: Vec<u8> = settings.units.iter().map(|unit| unit.address).collect();
        let now = Instant::now();
        let mut world = World {
            start: now,
            now,
            bus: Bus::new(settings, now, 7),
            units: BTreeMap::new(),
            busy: BTreeMap::new(),
            on_the_way: VecDeque::new(),
            requests: Vec::new(),
            events: Vec::new(),
            asked: Vec::new(),
            counts: BTreeMap::new(),
            elapsed: Rc::default(),
            is_closed: false,
            closed_for: ms(200),
        };
        addresses.into_iter().for_each(|address| world.behave(address, meter));
        world.bus.line_up(now);
        // For so long answers to requests of before are waited for.
        world.now += ms(300);
        world.start = world.now;
        world
    }

    pub fn behave(
        &mut self,
        address: u8,
        behaviour: impl FnMut(&[u8]) -> Vec<(Duration, Vec<u8>)> + 'static,
    ) {
        self.units.insert(address, Box::new(behaviour));
    }

    /// Bytes on the line that nobody asked for.
    pub fn inject(&mut self, after: Duration, bytes: &[u8]) {
        self.put(self.now + after, bytes.to_vec());
    }

    fn put(&mut self, at: Instant, bytes: Vec<u8>) {
        let place = self.on_the_way.partition_point(|(other, _)| *other <= at);
        self.on_the_way.insert(place, (at, bytes));
    }

    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// The time, for a unit that behaves by it.
    pub fn clock(&self) -> Rc<Cell<Duration>> {
        self.elapsed.clone()
    }

    /// Lets so much time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut standing = 0;
        self.step();
        loop {
            let next_bytes = self.on_the_way.front().map(|(at, _)| *at);
            let next = self.bus.poll_timeout().into_iter().chain(next_bytes).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            standing = if next > self.now { 0 } else { standing + 1 };
            assert!(standing < 100, "the bus wants to be called again and again without time passing");
            self.now = self.now.max(next);
            self.elapsed.set(self.elapsed());
            while self.on_the_way.front().is_some_and(|(at, _)| *at <= self.now) {
                let (_, bytes) = self.on_the_way.pop_front().unwrap();
                if bytes.is_empty() {
                    self.toggle();
                    continue;
                }
                self.bus.handle_bytes(self.now, &bytes);
                self.step();
            }
            if self.bus.poll_timeout().is_some_and(|at| at <= self.now) {
                self.bus.handle_timeout(self.now);
            }
            self.step();
        }
        self.now = end;
    }

    /// The connection is closed, or open again.
    fn toggle(&mut self) {
        self.is_closed = !self.is_closed;
        if self.is_closed {
            self.bus.line_down(self.now);
            self.on_the_way.clear();
            self.busy.clear();
            self.put(self.now + self.closed_for, Vec::new());
        } else {
            self.bus.line_up(self.now);
        }
        self.step();
    }

    fn step(&mut self) {
        let mut sent = Vec::new();
        while self.bus.poll_transmit(&mut sent) {
            let (body, crc) = sent.split_last_chunk::<2>().expect("a frame has a checksum");
            assert_eq!(crc16(body), u16::from_le_bytes(*crc));
            self.requests.push((self.elapsed(), body.to_vec()));
            *self.counts.entry(body[0]).or_default() += 1;
            let heard = self.now + SPEED.characters(sent.len());
            let free = self.busy.get(&body[0]).copied().unwrap_or(heard).max(heard);
            let Some(behaviour) = self.units.get_mut(&body[0]) else { continue };
            let answers = behaviour(body);
            let mut last = free;
            for (delay, bytes) in answers {
                last = last.max(free + delay) + SPEED.characters(bytes.len());
                self.put(last, bytes);
            }
            self.busy.insert(sent[0], last);
        }
        while let Some(event) = self.bus.poll_event() {
            if let Event::Reading { unit, payload } = &event {
                let address = self.bus.unit(*unit).unwrap().address;
                let asked = self.counts.get(&address).copied().unwrap_or_default();
                self.asked.push((*unit, asked, String::from_utf8(payload.clone()).unwrap()));
            }
            self.events.push((self.elapsed(), event));
        }
    }

    /// When this unit's readings came, and what they said.
    pub fn readings(&self, unit: usize) -> Vec<(Duration, String)> {
        let own = self.events.iter().filter_map(|(at, event)| match event {
            Event::Reading { unit: of, payload } if *of == unit => {
                Some((*at, String::from_utf8(payload.clone()).unwrap()))
            }
            _ => None,
        });
        own.collect()
    }

    pub fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|(_, event)| wanted(event)).count()
    }
}
