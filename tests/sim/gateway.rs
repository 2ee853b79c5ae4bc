//! One process of the gateway: the product's cores put together as `src/daemon/hub.rs` does it,
//! without sockets.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::journal::{SimJournal, SimOutbox, SimStore};
use crate::ledger::{Ledger, mark_of};
use crate::plant::Plant;
use crate::product::*;
use crate::rules::Site;
use crate::serial_line;

pub type Readings = Pipeline<SimStore>;

pub struct Gateway {
    pub engine: ServerEngine,
    pub coap: coap::intake::Intake,
    pub serial: serial::intake::Intake,
    pub ports: BTreeMap<String, (u32, Port)>,
    pub pipeline: Readings,
    pub uplink: Uplink,
    pub journal: Rc<RefCell<SimJournal>>,
    pub outgoing: Vec<(Route, Vec<u8>)>,
    pub ledger: Rc<RefCell<Ledger>>,
    pub plant: Plant,
    /// Sessions established so far.
    pub established: u64,
    tickets: HashMap<SerialTicket, u64>,
    next_port: u32,
    probes: u16,
}

/// What the engine reports to: see `src/daemon/dtls_sink.rs`.
struct Side<'g> {
    moment: Moment,
    coap: &'g mut coap::intake::Intake,
    pipeline: &'g mut Readings,
    outgoing: &'g mut Vec<(Route, Vec<u8>)>,
    established: &'g mut u64,
}

impl Sink for Side<'_> {
    fn transmit(&mut self, route: &Route, datagram: &[u8]) {
        self.outgoing.push((*route, datagram.to_vec()));
    }

    fn claim(&mut self, identity: &PeerIdentity) -> Option<Holder> {
        let device = self.pipeline.gate.identify(self.moment.now, identity).ok()?;
        self.pipeline.gate.holder(device)
    }

    fn connected(&mut self, session: SessionId, _: &Route, identity: &PeerIdentity) {
        *self.established += 1;
        let now = self.moment.now;
        if let Ok(device) = self.coap.handle_connected(now, session, identity, self.pipeline) {
            self.pipeline.gate.seen(now, device);
        }
    }

    fn data(&mut self, session: SessionId, plaintext: &[u8]) {
        self.coap.handle_session_data(&self.moment, session, plaintext, self.pipeline);
    }

    fn closed(&mut self, session: SessionId, _: CloseCause) {
        self.coap.handle_closed(session);
    }

    fn failed(&mut self, _: &Route, _: &HandshakeFailure) {}

    fn moved(&mut self, session: SessionId, _: &Route) {
        self.coap.handle_moved(session);
    }
}

/// What a port offers its readings to: see `src/daemon/serial.rs`.
struct PortSide<'g> {
    moment: Moment,
    pipeline: &'g mut Readings,
    tickets: &'g mut HashMap<SerialTicket, u64>,
}

impl Taker for PortSide<'_> {
    fn take(&mut self, device: &str, ticket: SerialTicket, received: Received<'_>) -> Verdict {
        let mark = mark_of(received.payload);
        let verdict =
            serial::intake::handle_reading(self.moment.now, device, ticket, received, self.pipeline);
        if verdict == Verdict::Taken {
            self.tickets.insert(ticket, mark.unwrap_or(u64::MAX));
        }
        verdict
    }

    fn message(&mut self, _: &[u8]) {}

    fn unreadable(&mut self, _: Unreadable, _: &[u8]) {}

    fn alive(&mut self, device: &str) {
        serial::intake::handle_alive(self.moment.now, device, self.pipeline);
    }

    fn news(&mut self, _: &modbus::settings::Unit, _: &modbus::Event) {}
}

impl Gateway {
    #[allow(clippy::too_many_arguments, reason = "what a process is made of")]
    pub fn new(
        moment: &Moment,
        site: &Site,
        ports: &[String],
        journal: SimJournal,
        upstream: northbound::Settings,
        ledger: Rc<RefCell<Ledger>>,
        plant: Plant,
        seed: [u8; 32],
    ) -> Gateway {
        let now = moment.now;
        let gate = Gate::new(site.settings(), now);
        assert_eq!(gate.problems(), [], "the site is one the gate takes");
        let settings = tombolo::proto::dtls::server::Settings::default();
        let engine = ServerEngine::new(now, settings, site.keyring(), Certificates::default(), &seed);
        let journal = Rc::new(RefCell::new(journal));
        let store = SimStore { journal: journal.clone(), ledger: ledger.clone(), plant };
        let endpoint = Endpoint::new(Default::default(), u64::from_le_bytes(seed[..8].try_into().unwrap()))
            .with_echo(&seed);
        let mut gateway = Gateway {
            engine,
            coap: coap::intake::Intake::new(endpoint),
            serial: serial::intake::Intake::default(),
            ports: BTreeMap::new(),
            pipeline: Pipeline::new(gate, store),
            uplink: Uplink::new(now, upstream),
            journal,
            outgoing: Vec::new(),
            ledger,
            plant,
            established: 0,
            tickets: HashMap::new(),
            next_port: 0,
            probes: 0,
        };
        gateway.set_insecure(site);
        gateway.set_ports(now, ports);
        gateway
    }

    fn set_insecure(&mut self, site: &Site) {
        let device = site.insecure.as_ref().and_then(|id| self.pipeline.gate.device_by_id(id));
        self.coap.set_insecure(device);
    }

    fn set_ports(&mut self, now: Instant, ports: &[String]) {
        let mut before = std::mem::take(&mut self.ports);
        for id in ports {
            let number = self.next_port;
            self.next_port += 1;
            let mut port = Port::new(Arc::new(serial_line::port(id)), number, now, u64::from(number));
            if let Some((_, old)) = before.get_mut(id) {
                port.adopt(old, now);
            }
            if port.poll_open(now) {
                port.handle_opened(now);
            }
            self.ports.insert(id.clone(), (number, port));
        }
    }

    /// The owner changed the site: see `Hub::replace`.
    pub fn reload(&mut self, moment: &Moment, site: &Site, ports: &[String]) {
        let now = moment.now;
        let replaced = self.pipeline.gate.replace(site.settings(), now);
        let (engine, mut side) = self.split(moment);
        engine.replace_keyring(now, site.keyring(), &mut side);
        let gate = &side.pipeline.gate;
        side.coap.review_sessions(|session, device| {
            let identity = engine.session(session).map(|info| info.identity);
            identity.and_then(|identity| gate.recognise(identity)) == Some(device)
        });
        self.set_insecure(site);
        for gone in replaced {
            self.uplink.clear_device_status(gone.id.as_str());
        }
        self.set_ports(now, ports);
    }

    fn split(&mut self, moment: &Moment) -> (&mut ServerEngine, Side<'_>) {
        let Gateway { engine, coap, pipeline, outgoing, established, .. } = self;
        (engine, Side { moment: *moment, coap, pipeline, outgoing, established })
    }

    pub fn receive(&mut self, moment: &Moment, route: Route, mut datagram: Vec<u8>) {
        if route.socket == 1 {
            self.coap.handle_plain(moment, &route, &datagram, &mut self.pipeline);
        } else {
            let (engine, mut side) = self.split(moment);
            engine.handle_datagram(moment.now, route, &mut datagram, &mut side);
        }
        self.flush(moment);
    }

    pub fn line_bytes(&mut self, moment: &Moment, id: &str, bytes: &[u8]) {
        let Gateway { ports, pipeline, tickets, .. } = self;
        let Some((_, port)) = ports.get_mut(id) else { return };
        let mut side = PortSide { moment: *moment, pipeline, tickets };
        port.handle_bytes(moment.now, moment.stamp(), bytes, &mut side);
        self.flush(moment);
    }

    /// A cable is pulled, and put in again.
    pub fn replug(&mut self, moment: &Moment, id: &str) {
        let Some((_, port)) = self.ports.get_mut(id) else { return };
        port.handle_failure(moment.now, "unplugged");
    }

    pub fn handle_timeout(&mut self, moment: &Moment) {
        let now = moment.now;
        if self.engine.poll_timeout().is_some_and(|at| at <= now) {
            let (engine, mut side) = self.split(moment);
            engine.handle_timeout(now, &mut side);
        }
        self.coap.handle_timeout(now);
        let Gateway { ports, pipeline, tickets, .. } = self;
        for (_, port) in ports.values_mut() {
            if port.poll_open(now) {
                port.handle_opened(now);
            }
            if port.poll_timeout().is_some_and(|at| at <= now) {
                let mut side = PortSide { moment: *moment, pipeline, tickets };
                port.handle_timeout(now, moment.stamp(), &mut side);
            }
        }
        if self.uplink.is_connected() {
            while let Some(change) = self.pipeline.gate.poll_presence(now) {
                let status = serde_json::json!({ "online": change.online });
                self.uplink.set_device_status(change.id.as_str(), status.to_string().into_bytes());
            }
        }
        self.flush(moment);
    }

    /// Hands on what the journal has finished with.
    pub fn complete(&mut self, moment: &Moment) {
        while self.pipeline.handle_completion() {
            self.route_events(moment);
        }
        self.flush(moment);
    }

    fn route_events(&mut self, moment: &Moment) {
        let now = moment.now;
        let Gateway { coap, serial, pipeline, uplink, journal, plant, .. } = self;
        let mut miscounted = 0;
        while let Some(event) = pipeline.poll_event() {
            match event {
                Event::Completed { ticket: Ticket::Coap { exchange, method }, stored } => {
                    coap.handle_completion(now, exchange, method, stored);
                }
                Event::Completed {
                    ticket: Ticket::Test(_) | Ticket::Mqtt(_) | Ticket::Reply(_) | Ticket::Served(_),
                    ..
                } => {}
                Event::Completed { ticket: Ticket::Serial(ticket), stored } => {
                    serial.handle_completion(ticket, stored);
                }
                Event::Passed(passed) => uplink.push_volatile(&passed.content()),
                Event::Shown(_) | Event::Mirrored { .. } | Event::Filtered { .. } => {}
                Event::Refused { device, path, method, .. } => {
                    if *plant == Plant::RefusedCountedAsStored {
                        miscounted += 1;
                    }
                    if let (Plant::RuleBypassed, Some(device)) = (*plant, device) {
                        let topic = format!("{}/{device}/up/{path}", crate::rules::PREFIX);
                        let ledger = self.ledger.borrow();
                        let newest = ledger.readings.iter().rev().find(|reading| reading.path == path);
                        let payload = newest.map(|reading| reading.payload.clone()).unwrap_or_default();
                        drop(ledger);
                        let content = Content {
                            device,
                            path,
                            query: None,
                            topic: &topic,
                            method,
                            content_format: None,
                            retain: false,
                            test: false,
                            reply: None,
                            envelope: Envelope::None,
                            expires_s: None,
                            received: moment.stamp(),
                            payload: &payload,
                        };
                        // Nobody waits for this ticket.
                        let ticket = SerialTicket { port: u32::MAX, delivery: 0, count: 0 };
                        let ticket = Ticket::Serial(ticket).pack();
                        let _ = journal.borrow_mut().append(Lane::Normal, &content, ticket);
                    }
                }
                Event::Unstored { .. } => {
                    if *plant == Plant::RefusedCountedAsStored {
                        miscounted += 1;
                    }
                }
            }
        }
        pipeline.counters.add(Counter::ReadingsStored, miscounted);
    }

    /// Ends a round: see `Hub::flush`.
    fn flush(&mut self, moment: &Moment) {
        let now = moment.now;
        self.route_events(moment);
        while let Some((ticket, stored)) = self.serial.poll_completion() {
            let mark = self.tickets.remove(&ticket);
            if let Some((_, port)) = self.ports.values_mut().find(|(number, _)| *number == ticket.port) {
                port.handle_completion(now, ticket, stored);
                if let (Some(mark), true) = (mark, stored) {
                    self.ledger.borrow_mut().answered(mark);
                }
            }
        }
        while let Some(session) = self.coap.poll_ended() {
            let (engine, mut side) = self.split(moment);
            engine.close(now, session, &mut side);
        }
        while let Some(session) = self.coap.poll_reachable() {
            self.engine.confirm_address(session);
        }
        let mut datagram = Vec::new();
        while let Some(peer) = self.coap.poll_transmit(&mut datagram) {
            self.note_answer(&datagram);
            match peer {
                Peer::Session(session) => self.send(moment, session, &datagram),
                Peer::Plain(_) => {
                    if let Some(route) = self.coap.route(peer) {
                        self.outgoing.push((*route, datagram.clone()));
                    }
                }
                Peer::Serial(_) => {}
            }
        }
        while self.coap.poll_event().is_some() {}
    }

    /// A 2.xx promises; nothing else does.
    fn note_answer(&mut self, datagram: &[u8]) {
        let message = Message::parse(datagram).expect("the gateway speaks CoAP");
        let token = message.token.as_bytes();
        if message.code == Code::CHANGED && token.len() == 8 {
            let mut mark = [0; 8];
            mark[2..].copy_from_slice(&token[..6]);
            self.ledger.borrow_mut().answered(u64::from_be_bytes(mark));
        }
    }

    fn send(&mut self, moment: &Moment, session: SessionId, datagram: &[u8]) {
        let now = moment.now;
        let (engine, mut side) = self.split(moment);
        match engine.send(now, session, datagram, &mut side) {
            Err(SendError::UnknownSession | SendError::Fault) => side.coap.forget(session),
            Err(SendError::Unproven) => {
                self.probes = self.probes.wrapping_add(40_503);
                let probes = self.probes;
                let (engine, mut side) = self.split(moment);
                if let Some(ping) = side.coap.probe(now, session, probes) {
                    let _ = engine.send(now, session, &ping, &mut side);
                }
            }
            Ok(()) | Err(SendError::TooLarge) => {}
        }
    }

    /// What of the journal the uplink holds.
    pub fn with_outbox<T>(&mut self, act: impl FnOnce(&mut Uplink, &mut SimOutbox<'_>) -> T) -> T {
        let mut journal = self.journal.borrow_mut();
        let mut outbox = SimOutbox { journal: &mut journal, plant: self.plant };
        act(&mut self.uplink, &mut outbox)
    }

    /// When [`Gateway::handle_timeout`] is wanted next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let ports = self.ports.values().filter_map(|(_, port)| port.poll_timeout());
        let presence = self.pipeline.gate.poll_timeout().filter(|_| self.uplink.is_connected());
        let own = [self.engine.poll_timeout(), self.coap.poll_timeout(), presence];
        own.into_iter().flatten().chain(ports).min()
    }

    /// What each state must have: a deadline, and counters that tell the truth.
    pub fn check(&self, now: Instant) -> Result<(), String> {
        let journal = self.journal.borrow();
        if journal.has_tickets() && journal.work_at().is_none() {
            return Err("readings wait for a commit, and the journal has no deadline".to_owned());
        }
        let pending = self.coap.pending_count();
        if pending > 0 && self.coap.poll_timeout().is_none() && !journal.has_tickets() {
            return Err(format!("{pending} requests wait, and nothing is due"));
        }
        if self.engine.half_open_count() > 0 && self.engine.poll_timeout().is_none() {
            return Err("a handshake is under way and has no deadline".to_owned());
        }
        for (id, (_, port)) in &self.ports {
            let (waiting, under_way) = port.pending();
            if waiting > 0 && port.poll_timeout().is_none() {
                return Err(format!("{waiting} readings of {id} wait, and the port has no deadline"));
            }
            if under_way > 0 && !journal.has_tickets() {
                return Err(format!("{under_way} readings of {id} are under way to nowhere"));
            }
        }
        if !self.uplink.is_stopping() && self.uplink.poll_timeout().is_none() {
            return Err(format!("the uplink has no deadline: {:?}", self.uplink.status(now)));
        }
        let counted = self.pipeline.counters.value(Counter::ReadingsStored);
        let completed = self.ledger.borrow().completed;
        if counted != completed {
            return Err(format!("{counted} readings are counted as stored, and {completed} are"));
        }
        if self.engine.counters().faults > 0 {
            return Err("the DTLS engine counts a fault of its own".to_owned());
        }
        Ok(())
    }
}
