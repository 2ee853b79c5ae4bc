//! The world: devices, a link that loses datagrams, one gateway, its disk and clocks, and a broker,
//! in virtual time.
//!
//! One event happens at a time, the earliest first; after each of them all promises are checked. A
//! power cut takes the process and what the disk had not synced; the same disk is opened again a
//! little later. Whatever is drawn follows from one seed.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::chance::Chance;
use crate::gateway::Gateway;
use crate::journal::{self, SimJournal};
use crate::ledger::Ledger;
use crate::node::{Node, Transport};
use crate::plant::Plant;
use crate::product::*;
use crate::rules::{PREFIX, Site};
use crate::serial_line::SerialLine;
use tombolo_test_support::broker::{self, Broker, Delivered, Reply};
use tombolo_test_support::journal::disk::{Cut, FakeDisk};

/// The true time at the beginning: in 2027.
const BEGINNING: UnixTime = UnixTime::from_secs(1_800_000_000);
/// The product's build date here.
const BUILD: UnixTime = UnixTime::from_secs(1_795_305_600);
/// Ports from here on are an attacker's: no device answers there.
pub const SPOOFED: u16 = 50_000;
/// Bytes, and datagrams.
type Weight = (u64, u64);
/// Lines of trace kept.
const TRACE: usize = 60;

/// What the link does to datagrams. Percentages; delays in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub loss: u64,
    pub duplication: u64,
    pub delay: u64,
    pub jitter: u64,
}

impl Link {
    /// Everything arrives once, in order, after 10 ms.
    pub const FINE: Link = Link { loss: 0, duplication: 0, delay: 10, jitter: 0 };
    /// One of seven is lost, one of four comes twice, most overtake others.
    pub const BAD: Link = Link { loss: 14, duplication: 25, delay: 10, jitter: 900 };
}

enum Flight {
    Up { node: usize, port: u16, bytes: Vec<u8> },
    Down { port: u16, bytes: Vec<u8> },
}

/// The kernel's clock: how far it is from the truth, and what it says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    pub lie_ms: i64,
    pub synchronised: bool,
}

/// What differs from world to world.
#[derive(Clone)]
pub struct Setup {
    pub site: Site,
    pub ports: Vec<String>,
    pub plant: Plant,
    pub when_full: WhenFull,
    /// Segments of each lane.
    pub segments: u64,
    pub rejected_bytes: u64,
    pub link: Link,
    pub upstream: northbound::Settings,
}

impl Setup {
    pub fn of(site: Site) -> Setup {
        Setup {
            site,
            ports: Vec::new(),
            plant: Plant::Nothing,
            when_full: WhenFull::Refuse,
            segments: 40,
            rejected_bytes: 256 * 1024,
            link: Link::FINE,
            upstream: upstream(),
        }
    }
}

pub fn upstream() -> northbound::Settings {
    northbound::Settings {
        gateway: Name::parse("gw").unwrap(),
        host: "broker.test".to_owned(),
        port: 8883,
        tls: None,
        client_id: "gw".to_owned(),
        probe_client_id: None,
        username: None,
        password_file: None,
        jwt: None,
        protocol: Protocol::Auto,
        session_expiry: Duration::from_secs(7 * 86_400),
        keep_alive: Duration::from_secs(60),
        max_in_flight: 100,
        drain_rate: 1000,
        max_publish_rate: 0,
        max_byte_rate: 0,
        answer_timeout: Duration::from_secs(30),
        retry_rejected: None,
        commands: Vec::new(),
        topics: OwnTopics {
            gateway_status: Some(format!("{PREFIX}/gateway/status")),
            loss: Some(format!("{PREFIX}/gateway/loss")),
            device_status: Some(format!("{PREFIX}/{{device}}/status")),
            update: Some(format!("{PREFIX}/gateway/update")),
            update_hint: None,
        },
    }
}

pub struct World {
    pub seed: u64,
    pub start: Instant,
    pub now: Instant,
    pub chance: Chance,
    pub setup: Setup,
    pub ledger: Rc<RefCell<Ledger>>,
    pub disk: FakeDisk,
    pub gateway: Option<Gateway>,
    /// When the gateway is powered again.
    boot_at: Option<Instant>,
    booted_at: Instant,
    boots: u64,
    /// The boot of the running process.
    booted: u64,
    openings: u64,
    restoring: bool,
    judge: Judge,
    observed_at: Instant,
    saved: Saved,
    saved_at: Instant,
    pub kernel: Kernel,
    pub nodes: Vec<Node>,
    pub lines: Vec<SerialLine>,
    pub broker: Broker,
    pub tcp: Option<broker::Link>,
    /// Nothing passes to or from the broker, and nobody is told.
    pub frozen: bool,
    delay: Rc<RefCell<Duration>>,
    flying: BTreeMap<(Instant, u64), Flight>,
    order: u64,
    /// An image of the disk a little while ago, for [`Plant::DiskForgets`].
    earlier: (Instant, FakeDisk),
    trace: VecDeque<String>,
    pub events: u64,
    stalled: u32,
    overheard: Option<(u16, Vec<u8>)>,
    /// Bytes and datagrams from and to ports whose address is not proven.
    weighed: BTreeMap<u16, (Weight, Weight)>,
    pub cuts: u64,
    /// All that the broker took, in order.
    pub taken: Vec<(Duration, String, Vec<u8>)>,
}

impl World {
    pub fn new(seed: u64, setup: Setup) -> World {
        let start = Instant::now();
        let chance = Chance::new(seed);
        let ledger = Rc::new(RefCell::new(Ledger::new(start, setup.site.clone())));
        ledger.borrow_mut().drops_oldest = setup.when_full == WhenFull::DropOldest;
        let disk = FakeDisk::default();
        let mut world = World {
            seed,
            start,
            now: start,
            setup,
            ledger,
            gateway: None,
            boot_at: None,
            booted_at: start,
            boots: 0,
            booted: 0,
            openings: 0,
            restoring: false,
            judge: Judge::new(BUILD, None, false, None),
            observed_at: start,
            saved: Saved::default(),
            saved_at: start,
            kernel: Kernel { lie_ms: 0, synchronised: true },
            nodes: Vec::new(),
            lines: Vec::new(),
            broker: Broker::default(),
            tcp: None,
            frozen: false,
            delay: Rc::default(),
            flying: BTreeMap::new(),
            order: 0,
            earlier: (start, disk.clone()),
            disk,
            trace: VecDeque::new(),
            events: 0,
            stalled: 0,
            overheard: None,
            weighed: BTreeMap::new(),
            cuts: 0,
            taken: Vec::new(),
            chance,
        };
        world.take_everything();
        world.boot();
        world
    }

    // Who takes part.

    /// A device of the site that speaks CoAP, by its place in `nodes`.
    pub fn node(&mut self, id: &str, transport: Transport) -> usize {
        let key = self.setup.site.member(id).map(|member| member.key.clone()).unwrap_or_default();
        let (number, chance) = (self.nodes.len() as u16, Chance::new(self.chance.next()));
        self.nodes.push(Node::new(id, &key, transport, number, self.now, chance));
        self.nodes.len() - 1
    }

    /// One that says something every so often, on one of these paths.
    pub fn busy(
        &mut self,
        id: &str,
        transport: Transport,
        period: Duration,
        paths: &[&'static str],
    ) -> usize {
        let node = self.node(id, transport);
        self.nodes[node].paths = paths.to_vec();
        let now = self.now;
        self.nodes[node].every(period, now);
        node
    }

    pub fn serial(&mut self, id: &str, period: Duration) -> usize {
        let chance = Chance::new(self.chance.next());
        self.lines.push(SerialLine::new(id, period, self.now, chance));
        self.lines.len() - 1
    }

    // The broker.

    /// What the broker does with each publish.
    pub fn policy(&mut self, mut policy: impl FnMut(&Delivered) -> Reply + 'static) {
        let (ledger, delay) = (self.ledger.clone(), self.delay.clone());
        self.broker.policy = Box::new(move |delivered| {
            let reply = policy(delivered);
            ledger.borrow_mut().published(delivered, reply, *delay.borrow());
            reply
        });
    }

    pub fn take_everything(&mut self) {
        self.policy(|_| Reply::Ack(0));
    }

    pub fn answer_after(&mut self, delay: Duration) {
        *self.delay.borrow_mut() = delay;
        self.broker.delay = delay;
    }

    /// The connection breaks.
    pub fn cut_tcp(&mut self) {
        self.note("the connection to the broker breaks");
        let Some(mut link) = self.tcp.take() else { return };
        self.broker.handle_closed(&mut link);
        self.ledger.borrow_mut().disconnected();
        let moment = self.moment();
        if let Some(gateway) = &mut self.gateway {
            let how = Closed::Broken("reset".to_owned());
            gateway.with_outbox(|uplink, outbox| uplink.handle_closed(&moment, outbox, how));
        }
    }

    pub fn broker_gone(&mut self) {
        self.broker.reachable = false;
        self.cut_tcp();
    }

    pub fn broker_back(&mut self) {
        self.note("the broker is back");
        self.broker.reachable = true;
        self.frozen = false;
    }

    // The power and the process.

    /// The power fails; the disk keeps what `cut` says. It comes back after `outage`.
    pub fn cut_power(&mut self, cut: Cut, outage: Duration) {
        self.note(&format!("the power fails: {cut:?}"));
        self.cuts += 1;
        let forgets = self.setup.plant == Plant::DiskForgets;
        let from = if forgets { self.earlier.1.clone() } else { self.disk.clone() };
        self.disk = from.after_power_cut(cut);
        self.end_process();
        self.boot_at = Some(self.now + outage);
        self.boots += 1;
    }

    /// The process is killed; the system goes on.
    pub fn kill(&mut self) {
        self.note("the process is killed");
        self.disk = self.disk.after_power_cut(Cut::Everything);
        self.end_process();
        self.boot_at = Some(self.now + Duration::from_secs(1));
    }

    /// The owner puts back an image of the disk that was made earlier.
    pub fn restore(&mut self, image: &FakeDisk) {
        self.note("an old image of the disk is restored");
        self.disk = image.after_power_cut(Cut::Everything);
        self.end_process();
        self.restoring = true;
        self.boot_at = Some(self.now + Duration::from_secs(30));
        self.boots += 1;
    }

    /// An image of the disk as it is.
    pub fn image(&self) -> FakeDisk {
        self.disk.after_power_cut(Cut::Everything)
    }

    fn end_process(&mut self) {
        self.gateway = None;
        if let Some(mut link) = self.tcp.take() {
            self.broker.handle_closed(&mut link);
        }
        self.ledger.borrow_mut().restarted();
    }

    fn boot(&mut self) {
        self.boot_at = None;
        let boots = self.boots;
        if boots > self.booted {
            (self.booted, self.booted_at) = (boots, self.now);
        }
        self.openings += 1;
        let boot = [boots as u8 + 1; 16];
        self.judge = Judge::new(BUILD, Some(boot), false, Some(self.saved));
        self.observed_at = self.now;
        self.judge.observe(self.look());
        let opening = if self.setup.plant == Plant::RunRepeated { 1 } else { self.openings };
        let run = |lane: u64| Chance::new(self.seed << 20 | opening << 1 | lane).next();
        let seeds = Seeds { runs: [run(0), run(1)], salt: self.chance.next(), boot };
        let settings =
            journal::settings(self.setup.when_full, self.setup.segments, self.setup.rejected_bytes);
        let chance = Chance::new(self.chance.next());
        let (plant, ledger) = (self.setup.plant, self.ledger.clone());
        let journal = SimJournal::open(self.now, &self.disk, &settings, seeds, chance, plant, ledger.clone());
        if self.disk.is_off() {
            // The power failed again while the journal was being opened.
            let cut = Cut::Some(self.chance.next());
            return self.cut_power(cut, Duration::from_secs(2));
        }
        let holdings = journal.holdings();
        for (lane, sequence, mark) in &holdings.places {
            ledger.borrow_mut().found(*lane, *sequence, *mark);
        }
        if std::mem::take(&mut self.restoring) {
            ledger.borrow_mut().restored(&holdings);
        }
        ledger.borrow_mut().audit(&holdings);
        let moment = self.moment();
        let site = self.gateways_site();
        let Setup { ports, upstream, .. } = &self.setup;
        let seed = self.chance.bytes();
        let gateway =
            Gateway::new(&moment, &site, ports, journal, upstream.clone(), ledger.clone(), plant, seed);
        self.gateway = Some(gateway);
        self.note(&format!("the gateway runs, opening {}", self.openings));
    }

    /// The owner changes the site, and the daemon reloads.
    pub fn reload(&mut self, site: Site, ports: Vec<String>) {
        self.note("reload");
        self.ledger.borrow_mut().reloaded(site.clone());
        self.setup.site = site;
        self.setup.ports = ports;
        let moment = self.moment();
        let site = self.gateways_site();
        if let Some(gateway) = &mut self.gateway {
            gateway.reload(&moment, &site, &self.setup.ports);
        }
    }

    /// The site as the gateway is told it.
    fn gateways_site(&self) -> Site {
        let mut site = self.setup.site.clone();
        if self.setup.plant == Plant::QuotaIgnored {
            for role in &mut site.roles {
                (role.messages, role.burst) = (role.messages * 100, role.burst * 100);
            }
        }
        site
    }

    // Time.

    fn boottime_ms(&self) -> u64 {
        1_000 + (self.now - self.booted_at).as_millis() as u64
    }

    fn look(&self) -> Look {
        let truth = BEGINNING.0 + (self.now - self.start).as_millis() as u64;
        let raw = UnixTime(truth.saturating_add_signed(self.kernel.lie_ms));
        Look { boottime_ms: self.boottime_ms(), raw, synchronised: self.kernel.synchronised }
    }

    /// All clocks, as the daemon reads them.
    pub fn moment(&mut self) -> Moment {
        let look = self.look();
        if self.now >= self.observed_at + Duration::from_secs(1) {
            self.observed_at = self.now;
            self.judge.observe(look);
        }
        if self.now >= self.saved_at + Duration::from_secs(3600) {
            self.saved_at = self.now;
            self.saved = self.judge.saved();
        }
        let mut ages_from = self.judge.ages_from();
        let mut wall = self.judge.wall(look.raw, look.boottime_ms);
        if self.setup.plant == Plant::ExpiresEarly {
            (wall, ages_from) = (Some(look.raw), Some(UnixTime(0)));
        }
        Moment { now: self.now, boottime_ms: look.boottime_ms, wall, ages_from }
    }

    fn note(&mut self, what: &str) {
        let at = self.now - self.start;
        self.trace.push_back(format!("{:>12.3} s  {what}", at.as_secs_f64()));
        if self.trace.len() > TRACE {
            self.trace.pop_front();
        }
    }

    /// To an address that is not proven goes at most three times what came from it; before a
    /// cookie, not one byte or datagram more.
    fn weigh(&mut self, port: u16, plain: bool, up: bool, bytes: usize) {
        let is_spoofed = port >= SPOOFED;
        if !plain && !is_spoofed {
            return;
        }
        let (came, went) = self.weighed.entry(port).or_default();
        let (packets, most) = if plain { (u64::MAX, came.0 * 3) } else { (came.1, came.0) };
        let side = if up { &mut *came } else { &mut *went };
        side.0 += bytes as u64;
        side.1 += 1;
        if !up && (went.0 > most || went.1 > packets) {
            let why = format!("port {port} got {went:?}, more than the times what it sent {came:?}");
            self.ledger.borrow_mut().fail(why);
        }
    }

    fn launch(&mut self, flight: Flight) {
        let Link { loss, duplication, delay, jitter } = self.setup.link;
        let copies = if self.chance.percent(duplication) { 2 } else { 1 };
        for _ in 0..copies {
            if self.chance.percent(loss) {
                continue;
            }
            let wait = delay + if jitter > 0 { self.chance.draw(jitter) } else { 0 };
            self.order += 1;
            let copy = match &flight {
                Flight::Up { node, port, bytes } => {
                    Flight::Up { node: *node, port: *port, bytes: bytes.clone() }
                }
                Flight::Down { port, bytes } => Flight::Down { port: *port, bytes: bytes.clone() },
            };
            self.flying.insert((self.now + Duration::from_millis(wait), self.order), copy);
        }
    }

    fn send_up(&mut self, node: usize, datagrams: Vec<Vec<u8>>) {
        let port = self.nodes[node].port;
        for bytes in datagrams {
            self.launch(Flight::Up { node, port, bytes });
        }
    }

    /// Sends a datagram as if it came from that port, over DTLS or in the clear.
    pub fn inject(&mut self, port: u16, plain: bool, datagram: Vec<u8>) {
        let moment = self.moment();
        let route = route(port, plain);
        self.weigh(port, plain, true, datagram.len());
        if let Some(gateway) = &mut self.gateway {
            gateway.receive(&moment, route, datagram);
        }
    }

    /// A datagram on its way up, and the port it came from.
    pub fn overheard(&mut self) -> Option<(u16, Vec<u8>)> {
        let mut up = self.flying.values().filter_map(|flight| match flight {
            Flight::Up { port, bytes, .. } => Some((*port, bytes.clone())),
            Flight::Down { .. } => None,
        });
        if let Some(last) = up.next_back() {
            self.overheard = Some(last);
        }
        self.overheard.clone()
    }

    /// A serial cable is pulled, and put back.
    pub fn unplug(&mut self, id: &str) {
        let moment = self.moment();
        if let Some(gateway) = &mut self.gateway {
            gateway.replug(&moment, id);
        }
    }

    /// When something happens next.
    fn next(&self) -> Option<Instant> {
        let flight = self.flying.keys().next().map(|(at, _)| *at);
        let nodes = self.nodes.iter().filter_map(Node::poll_timeout);
        let lines = self.lines.iter().filter_map(SerialLine::poll_timeout);
        let gateway = self.gateway.iter().flat_map(|gateway| {
            let uplink = gateway.uplink.poll_timeout();
            [gateway.poll_timeout(), uplink, gateway.journal.borrow().work_at()]
        });
        let late = self.tcp.as_ref().filter(|_| !self.frozen).and_then(|link| link.late_at());
        let late = late.map(|at| self.start + at);
        [flight, self.boot_at, late].into_iter().chain(gateway).flatten().chain(nodes).chain(lines).min()
    }

    /// Lets time pass, event by event. It ends early when a promise is broken.
    pub fn run_for(&mut self, duration: Duration) {
        let until = self.now + duration;
        while self.is_sound() {
            self.settle();
            self.check();
            let Some(next) = self.next().filter(|next| *next <= until) else { break };
            if next <= self.now {
                // What is due and does not go away comes again a little later.
                self.stalled += 1;
                if self.stalled > 50_000 {
                    let why = format!("it spins at {:?}", self.deadlines());
                    self.ledger.borrow_mut().fail(why);
                    break;
                }
                self.now += Duration::from_micros(if self.stalled > 100 { 1_000 } else { 0 });
            } else {
                self.stalled = 0;
                self.now = next;
            }
            self.step();
        }
        if self.is_sound() {
            self.now = self.now.max(until);
            self.settle();
            self.check();
        }
    }

    fn deadlines(&self) -> String {
        let at = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(self.start));
        let Some(gateway) = &self.gateway else { return "no gateway".to_owned() };
        format!(
            "{:?}: gateway {:?}, uplink {:?}, journal {:?}, {:?}",
            self.now - self.start,
            at(gateway.poll_timeout()),
            at(gateway.uplink.poll_timeout()),
            at(gateway.journal.borrow().work_at()),
            gateway.uplink.status(self.now)
        )
    }

    /// One event.
    fn step(&mut self) {
        self.events += 1;
        let now = self.now;
        self.ledger.borrow_mut().time(now);
        if let Some(gateway) = &self.gateway {
            gateway.journal.borrow_mut().time(now);
        }
        if self.boot_at.is_some_and(|at| at <= now) {
            return self.boot();
        }
        let flight = self.flying.first_key_value().map(|(key, _)| *key).filter(|(at, _)| *at <= now);
        if let Some(flight) = flight.and_then(|key| self.flying.remove(&key)) {
            return self.arrive(flight);
        }
        for node in 0..self.nodes.len() {
            if self.nodes[node].poll_timeout().is_some_and(|at| at <= now) {
                let ledger = self.ledger.clone();
                let out = self.nodes[node].handle_timeout(now, &mut ledger.borrow_mut());
                self.send_up(node, out);
            }
        }
        for line in 0..self.lines.len() {
            if self.lines[line].poll_timeout().is_some_and(|at| at <= now) {
                let ledger = self.ledger.clone();
                let pieces = self.lines[line].handle_timeout(now, &mut ledger.borrow_mut());
                let (moment, id) = (self.moment(), self.lines[line].id.clone());
                if let Some(gateway) = &mut self.gateway {
                    pieces.iter().for_each(|piece| gateway.line_bytes(&moment, &id, piece));
                }
            }
        }
        let moment = self.moment();
        if let Some(gateway) = &mut self.gateway {
            gateway.handle_timeout(&moment);
            let due = gateway.journal.borrow().work_at().is_some_and(|at| at <= now);
            if due {
                gateway.journal.borrow_mut().work(now);
            }
        }
    }

    fn arrive(&mut self, flight: Flight) {
        let moment = self.moment();
        match flight {
            Flight::Up { node, port, bytes } => {
                let plain = self.nodes[node].transport == Transport::Plain;
                self.weigh(port, plain, true, bytes.len());
                if let Some(gateway) = &mut self.gateway {
                    gateway.receive(&moment, route(port, plain), bytes);
                }
            }
            Flight::Down { port, bytes } => {
                let Some(node) = self.nodes.iter().position(|node| node.port == port) else { return };
                let ledger = self.ledger.clone();
                let out = self.nodes[node].handle_datagram(self.now, &bytes, &mut ledger.borrow_mut());
                self.send_up(node, out);
            }
        }
    }

    /// Lets everything happen that happens at this moment.
    fn settle(&mut self) {
        for round in 0.. {
            if self.disk.is_off() {
                let (cut, outage) =
                    (Cut::Some(self.chance.next()), Duration::from_secs(2 + self.chance.draw(60)));
                self.cut_power(cut, outage);
            }
            let moment = self.moment();
            let Some(gateway) = &mut self.gateway else { return };
            gateway.complete(&moment);
            let moved = self.exchange(&moment);
            if let Some(gateway) = &mut self.gateway {
                let outgoing = std::mem::take(&mut gateway.outgoing);
                for (route, bytes) in outgoing {
                    let plain = route.socket == 1;
                    let copies = if plain && self.setup.plant == Plant::Amplifies { 40 } else { 1 };
                    for _ in 0..copies {
                        self.weigh(route.remote.port(), plain, false, bytes.len());
                    }
                    self.launch(Flight::Down { port: route.remote.port(), bytes });
                }
            }
            if !moved || !self.is_sound() {
                return;
            }
            if round > 100_000 {
                self.ledger.borrow_mut().fail("the uplink never rests".to_owned());
                return;
            }
        }
    }

    /// A round of the uplink with the broker; whether anything moved.
    fn exchange(&mut self, moment: &Moment) -> bool {
        let World { gateway, broker, tcp, frozen, ledger, start, .. } = self;
        let Some(gateway) = gateway else { return false };
        let (now, elapsed) = (moment.now, moment.now - *start);
        let mut moved = false;
        if gateway.uplink.poll_connect(now) {
            moved = true;
            if broker.reachable && !*frozen {
                *tcp = Some(broker.accept());
                gateway.uplink.handle_connected(now, None, Default::default());
            } else {
                gateway.uplink.handle_connect_failed(now, "connection refused".to_owned(), false);
            }
        }
        gateway.with_outbox(|uplink, outbox| {
            uplink.handle_timeout(moment, outbox);
            uplink.fill(moment, outbox);
        });
        if let Some(link) = tcp {
            let sent = gateway.uplink.outgoing().map(std::mem::take).unwrap_or_default();
            link.dead |= *frozen && !sent.is_empty();
            let passes = !*frozen && !link.dead;
            let (mut received, mut closed) = (Vec::new(), None);
            if passes {
                moved |= !sent.is_empty();
                broker.handle_bytes(link, elapsed, &sent);
                broker.answer_late(link, elapsed);
                received = std::mem::take(&mut link.outgoing);
                closed = link.closed.clone();
            }
            if !received.is_empty() {
                moved = true;
                gateway.with_outbox(|uplink, outbox| uplink.handle_bytes(moment, outbox, &received));
            }
            if gateway.uplink.is_over() || closed.is_some() {
                moved = true;
                let last = gateway.uplink.outgoing().map(std::mem::take).unwrap_or_default();
                if passes && closed.is_none() {
                    broker.handle_bytes(link, elapsed, &last);
                }
                if let Some(mut link) = tcp.take() {
                    broker.handle_closed(&mut link);
                }
                ledger.borrow_mut().disconnected();
                let how = closed.unwrap_or(Closed::ByPeer);
                gateway.with_outbox(|uplink, outbox| uplink.handle_closed(moment, outbox, how));
            }
        }
        let mut told = Vec::new();
        while let Some(event) = gateway.uplink.poll_event() {
            told.push(format!("uplink: {event:?}"));
        }
        moved |= std::mem::take(&mut gateway.journal.borrow_mut().wake);
        moved |= gateway.uplink.has_more() || !told.is_empty();
        told.iter().for_each(|event| self.note(event));
        moved
    }

    // Promises.

    pub fn is_sound(&self) -> bool {
        self.ledger.borrow().broken.is_none()
    }

    fn check(&mut self) {
        for delivered in self.broker.delivered.drain(..) {
            self.taken.push((delivered.at, delivered.topic, delivered.payload));
        }
        if let Some(gateway) = &self.gateway
            && let Err(why) = gateway.check(self.now)
        {
            self.ledger.borrow_mut().fail(why);
        }
        if self.setup.plant == Plant::DiskForgets && self.now >= self.earlier.0 + Duration::from_secs(120) {
            self.earlier = (self.now, self.disk.after_power_cut(Cut::Nothing));
        }
    }

    /// Compares what is owed with what is on the disk now.
    pub fn audit(&mut self) {
        let Some(gateway) = &self.gateway else { return };
        let holdings = gateway.journal.borrow().holdings();
        self.ledger.borrow_mut().audit(&holdings);
    }

    /// Everything is well again, and all is given time to arrive. Then each promise is looked at.
    pub fn finish(&mut self) -> Result<(), String> {
        self.note("everything is well again");
        self.disk.heal();
        self.disk.set_capacity(None);
        self.disk.set_read_only(false);
        self.disk.fail_syncs(0);
        self.disk.fail_writes(0);
        self.setup.link = Link::FINE;
        self.take_everything();
        self.answer_after(Duration::ZERO);
        let broker = Broker::default();
        self.broker = Broker { policy: std::mem::replace(&mut self.broker.policy, broker.policy), ..broker };
        self.broker_back();
        for node in &mut self.nodes {
            node.period = None;
            node.off = false;
        }
        self.lines.iter_mut().for_each(|line| line.period = None);
        let mut rounds = 0;
        for _ in 0..60 {
            self.run_for(Duration::from_secs(300));
            self.audit();
            rounds += 1;
            // The losses are told last.
            if !self.is_sound() || self.is_drained() && (self.is_told() || rounds > 6) {
                break;
            }
        }
        if self.is_sound() && !self.is_drained() {
            let waiting: Vec<_> = self.nodes.iter().map(|node| (&node.id, node.waiting())).collect();
            let why = format!("it does not drain: {waiting:?}, {}", self.deadlines());
            self.ledger.borrow_mut().fail(why);
        }
        self.ledger.borrow_mut().close();
        self.verdict()
    }

    fn is_drained(&self) -> bool {
        let Some(gateway) = &self.gateway else { return false };
        let journal = gateway.journal.borrow();
        let empty = Lane::ALL.into_iter().all(|lane| {
            let view = journal.store.view(lane);
            view.released + 1 == view.next_sequence
        });
        empty && !journal.has_tickets() && self.nodes.iter().all(|node| node.waiting() == 0)
    }

    fn is_told(&self) -> bool {
        let Some(gateway) = &self.gateway else { return false };
        let journal = gateway.journal.borrow();
        Lane::ALL.into_iter().all(|lane| journal.store.losses(lane).is_empty())
    }

    /// Whether all promises were kept; the seed and the last events, if not.
    pub fn verdict(&self) -> Result<(), String> {
        let Some(why) = self.ledger.borrow().broken.clone() else { return Ok(()) };
        let trace: Vec<_> = self.trace.iter().cloned().collect();
        Err(format!(
            "{why}\nat {:?}, after {} events, with SIM_SEED={}:\n{}",
            self.now - self.start,
            self.events,
            self.seed,
            trace.join("\n")
        ))
    }

    /// The last events, for a scenario that fails by itself.
    pub fn story(&self) -> String {
        let trace: Vec<_> = self.trace.iter().map(String::as_str).collect();
        format!("SIM_SEED={}: {}\n{}", self.seed, self.deadlines(), trace.join("\n"))
    }

    /// Ends the scenario; it fails if a promise was broken.
    pub fn end(mut self) -> World {
        if let Err(why) = self.finish() {
            panic!("{why}");
        }
        self
    }
}

fn route(port: u16, plain: bool) -> Route {
    Route { remote: SocketAddr::from(([192, 0, 2, 7], port)), local: None, socket: u16::from(plain) }
}
