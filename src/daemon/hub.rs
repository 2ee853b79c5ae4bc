//! The hub: the parts of the path on one thread, and what happens to a datagram, a completion, a
//! deadline.
//!
//! ```text
//! receive ─> engine ─> DtlsSink ─> coap::Intake ─> Pipeline: gate, journal
//! complete ─> Pipeline ─> events, routed by the kind of their ticket ─> coap::, serial::, mqtt::Intake
//! flush: coap::Intake ─> engine.send ─> DtlsSink ─> sendmmsg
//! uplink ─> Commands ─> coap::Intake                        commands to devices
//! ```
//!
//! It decides nothing about a reading: it reads the clocks once a round, routes the pipeline's
//! events, logs them, and drives the sockets. Everything here runs between two awaits of the tasks
//! in `run`, so that nothing in it is locked; the journal's lanes lock for the time
//! of an append.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use hyper::body::Bytes;
use rustls_pki_types::CertificateDer;
use tokio::sync::{Notify as Wake, oneshot};

use super::bus_handle::BusHandle;
use super::clock::SystemClock;
use super::commands::{Absent, Commands, Sides};
use super::dtls_sink::{DtlsSink, Reports};
use super::firmware::Firmware;
use super::line_kind::LineKind;
use super::link::Link;
use super::reading_store::Readings;
use super::tracer::Tracer;
use crate::clock::Moment;
use crate::control::tail::{Outcome, Reading, Tail};
use crate::control::traffic::Traffic;
use crate::gate::{DeviceIndex, Gate, Received};
use crate::journal::Journal;
use crate::message::{Method, Name};
use crate::number_map::NumberMap;
use crate::pipeline::{Attention, Event, Pipeline, Tested};
use crate::proto::address::{Peer, Ticket};
use crate::proto::coap::{self as protocol, Code, Endpoint};
use crate::proto::dtls::server::{Certificates, Clock};
use crate::proto::dtls::{Engine, SendError, SessionId};
use crate::session_store::io::persistence::{FoundSessions, SessionPersistence};
use crate::southbound::coap::answer;
use crate::southbound::coap::io::{Inbox, Outgoing, Socket};
use crate::southbound::coap::stray::{self, Mistake};
use crate::southbound::{coap, mqtt, serial};
use crate::system;
use crate::telemetry::counters::Counter;
use crate::telemetry::limited::Limiter;

/// All state of the path.
pub struct Hub {
    /// All clocks as they stood when this round began.
    pub moment: Moment,
    clock: Arc<SystemClock>,
    /// The DTLS sessions.
    pub engine: Box<dyn Engine>,
    /// What of them outlives the process.
    pub persistence: SessionPersistence,
    /// What the engine has reported.
    pub reports: Reports,
    /// The CoAP side.
    pub coap: coap::Intake,
    /// The serial side.
    pub serial: serial::Intake,
    /// The MQTT side.
    pub mqtt: mqtt::Intake,
    /// Woken when a password waits to be verified.
    pub mqtt_verify: Rc<Wake>,
    mqtt_wakes: NumberMap<mqtt::ConnectionNumber, Rc<Wake>>,
    /// What carries messages between MQTT clients.
    pub bus: Option<BusHandle>,
    /// From the sides to the journal.
    pub pipeline: Readings,
    /// Commands to devices.
    pub commands: Commands,
    /// Firmware for devices.
    pub firmware: Rc<Firmware>,
    uplink: Rc<Link>,
    tail: Tail,
    /// Decrypted messages, for `trace`.
    traffic: Traffic,
    /// Readings of tests that are not stored yet, by the number of their ticket.
    tests: HashMap<u32, oneshot::Sender<bool>>,
    next_test: u32,
    /// What log lines may be written.
    pub limiter: Limiter<LineKind>,
    outgoing: Outgoing,
    /// Wakes the task of a serial port with a CoAP node on its line.
    serial_wakes: HashMap<u32, Rc<Wake>>,
    /// The sessions were left to the next process: nothing more is done with them.
    left: bool,
    datagram: Vec<u8>,
}

impl Hub {
    /// Puts the parts together.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        engine: Box<dyn Engine>,
        persistence: SessionPersistence,
        endpoint: Endpoint,
        mqtt: mqtt::Intake,
        gate: Gate,
        journal: Rc<RefCell<Journal>>,
        uplink: Rc<Link>,
        clock: Arc<SystemClock>,
        tail: Tail,
        traffic: Traffic,
        commands: Commands,
        firmware: Rc<Firmware>,
    ) -> Hub {
        Hub {
            moment: clock.moment(),
            clock,
            engine,
            persistence,
            reports: Reports::default(),
            coap: coap::Intake::new(endpoint),
            serial: serial::Intake::default(),
            mqtt,
            mqtt_verify: Rc::new(Wake::new()),
            mqtt_wakes: NumberMap::default(),
            bus: None,
            pipeline: Pipeline::new(gate, journal),
            commands,
            firmware,
            uplink,
            tail,
            traffic,
            tests: HashMap::new(),
            next_test: 0,
            limiter: Limiter::new(Default::default()),
            outgoing: Outgoing::default(),
            serial_wakes: HashMap::new(),
            left: false,
            datagram: Vec::with_capacity(2048),
        }
    }

    /// Begins a round: reads the clocks, and sees whether `tail` watches.
    pub fn begin(&mut self) {
        self.moment = self.clock.moment();
        self.pipeline.watch(if self.tail.is_watched() { Attention::All } else { Attention::Recent });
        self.pipeline.mirror(self.mqtt.mirrors());
    }

    /// The engine, and what it reports to.
    pub fn split(&mut self) -> (&mut dyn Engine, DtlsSink<'_>) {
        let Hub { moment, clock, engine, reports, coap, pipeline, outgoing, tail, traffic, limiter, .. } =
            self;
        let tracer = Tracer { traffic, clock, moment: *moment };
        let sink = DtlsSink {
            moment: *moment,
            pipeline,
            coap,
            outgoing,
            reports,
            tail,
            tracer,
            route: None,
            limiter,
        };
        (&mut **engine, sink)
    }

    /// Takes what one `recvmmsg` brought on a DTLS socket.
    pub fn receive(&mut self, inbox: &mut Inbox) {
        self.begin();
        let now = self.moment.now;
        let (engine, mut sink) = self.split();
        for (route, datagram) in inbox.drain() {
            sink.pipeline.counters.count(Counter::DatagramsReceived);
            if is_plain_coap(datagram) {
                sink.stray(&route, Mistake::PlainOnDtlsPort);
            }
            sink.route = Some(route);
            engine.handle_datagram(now, route, datagram, &mut sink);
        }
    }

    /// Takes what one `recvmmsg` brought on a plain socket: all from the one `insecure-device`.
    pub fn receive_plain(&mut self, inbox: &mut Inbox) {
        self.begin();
        let (_, mut sink) = self.split();
        for (route, datagram) in inbox.drain() {
            sink.pipeline.counters.count(Counter::DatagramsReceived);
            if stray::looks_like_dtls(datagram) {
                sink.stray(&route, Mistake::DtlsOnPlainPort);
            }
            if let Some(device) = sink.coap.insecure().filter(|_| sink.tracer.traffic.is_watched()) {
                sink.tracer.show(&sink.pipeline.gate, device, "in", Some(route.remote), datagram);
            }
            sink.coap.handle_plain(&sink.moment, &route, datagram, sink.pipeline);
        }
    }

    /// Answers what the journal has finished with.
    pub fn complete(&mut self) {
        self.begin();
        while self.pipeline.handle_completion() {
            self.route_events();
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self) {
        self.begin();
        let now = self.moment.now;
        if !self.left && self.engine.poll_timeout().is_some_and(|at| at <= now) {
            let (engine, mut sink) = self.split();
            engine.handle_timeout(now, &mut sink);
        }
        self.coap.handle_timeout(now);
        self.mqtt.handle_timeout(&self.moment, &mut self.pipeline);
        while let Some(suppressed) = self.limiter.poll_event(now) {
            self.pipeline.counters.add(Counter::LinesSuppressed, suppressed.count);
            log::warn!(kind:% = suppressed.kind, suppressed = suppressed.count; "lines left out");
        }
    }

    /// When [`Hub::handle_timeout`] is wanted next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadlines = [
            self.engine.poll_timeout(),
            self.coap.poll_timeout(),
            self.mqtt.poll_timeout(),
            self.limiter.poll_timeout(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Ends a round: routes the pipeline's events, and sends all answers that wait.
    pub fn flush(&mut self, sockets: &[Socket]) {
        let now = self.moment.now;
        self.route_events();
        self.follow_commands();
        self.firmware.round(&self.moment, &mut self.coap, &self.pipeline);
        while let Some(session) = self.coap.poll_ended() {
            if !self.left {
                let (engine, mut sink) = self.split();
                engine.close(now, session, &mut sink);
            }
        }
        while let Some(session) = self.coap.poll_reachable() {
            self.engine.confirm_address(session);
        }
        while let Some(peer) = self.coap.poll_transmit(&mut self.datagram) {
            self.pipeline.counters.count(Counter::DatagramsSent);
            if self.traffic.is_watched() {
                self.trace_sent(peer);
            }
            match peer {
                Peer::Session(session) if !self.left => self.send(now, session),
                Peer::Session(_) => {}
                Peer::Plain(_) => {
                    if let Some(route) = self.coap.route(peer) {
                        self.outgoing.push(route, &self.datagram);
                    }
                }
                Peer::Serial(port) => self.serial.push_message(port, &self.datagram),
            }
        }
        while let Some(port) = self.serial.poll_ready() {
            if let Some(wake) = self.serial_wakes.get(&port) {
                wake.notify_one();
            }
        }
        self.flush_mqtt();
        self.follow();
        while let Some(event) = self.coap.poll_event() {
            log::trace!(event:? = event; "CoAP exchange ended");
        }
        if !self.outgoing.is_empty() {
            self.outgoing.flush(sockets);
            let failed = std::mem::take(&mut self.outgoing.failed);
            self.pipeline.counters.add(Counter::DatagramsUnsent, failed);
        }
    }

    /// Takes what the broker has for devices.
    pub fn receive_commands(&mut self) {
        self.begin();
        while let Some((generation, inbound)) = self.uplink.poll_inbound() {
            self.commands.receive(&self.moment, &mut self.pipeline, generation, inbound);
        }
    }

    /// What is due of commands, once a second.
    pub fn care_for_commands(&mut self) {
        let Hub { commands, coap, mqtt, serial, pipeline, moment, .. } = self;
        commands.care(moment, &mut Sides { coap, mqtt, serial }, pipeline);
    }

    fn follow_commands(&mut self) {
        // Nothing leaves any more: what would be noted as sent was not.
        if self.left {
            return;
        }
        let Hub { commands, coap, mqtt, serial, pipeline, moment, uplink, persistence, .. } = self;
        commands.round(moment, &mut Sides { coap, mqtt, serial }, pipeline, persistence);
        while let Some(answer) = commands.poll_answer() {
            uplink.answer_inbound(moment.now, &answer);
        }
    }

    /// Hands each event of the pipeline to whom it concerns.
    fn route_events(&mut self) {
        let Hub { moment, coap, serial, mqtt, pipeline, commands, uplink, tail, tests, limiter, .. } = self;
        let (now, boottime_ms) = (moment.now, moment.boottime_ms);
        while let Some(event) = pipeline.poll_event() {
            match event {
                Event::Completed { ticket: Ticket::Coap { exchange, method }, stored } => {
                    coap.handle_completion(now, exchange, method, stored);
                }
                Event::Completed { ticket: Ticket::Serial(ticket), stored } => {
                    serial.handle_completion(ticket, stored);
                }
                Event::Completed { ticket: Ticket::Reply(number), stored } => {
                    commands.handle_reply_stored(number, stored);
                }
                Event::Completed { ticket: Ticket::Served(number), stored } => {
                    commands.handle_served_stored(now, coap, number, stored);
                }
                Event::Mirrored { device, path, payload, content_format, retain } => {
                    let accepted = mqtt::Accepted { device, path, payload, content_format, retain };
                    mqtt.handle_accepted(now, &accepted);
                }
                Event::Completed { ticket: Ticket::Mqtt(ticket), stored } => {
                    mqtt.handle_completion(moment, ticket, stored, pipeline);
                }
                Event::Completed { ticket: Ticket::Test(number), stored } => {
                    if let Some(waits) = tests.remove(&number) {
                        let _ = waits.send(stored);
                    }
                }
                Event::Filtered { device, method, path, query, bytes, preview, why } => {
                    tail.push(&Reading {
                        received: moment.wall,
                        boottime_ms,
                        device,
                        method,
                        path,
                        query,
                        topic: None,
                        bytes,
                        preview,
                        outcome: Outcome::Filtered,
                        reason: Some(&why),
                    });
                }
                Event::Passed(passed) => {
                    let content = passed.content();
                    tail.push(&Reading {
                        received: moment.wall,
                        boottime_ms,
                        device: content.device,
                        method: content.method,
                        path: content.path,
                        query: content.query,
                        topic: Some(content.topic),
                        bytes: content.payload.len(),
                        preview: content.payload,
                        outcome: Outcome::Passed,
                        reason: None,
                    });
                    uplink.offer(&passed);
                }
                Event::Shown(watched) => tail.push(&Reading {
                    received: moment.wall,
                    boottime_ms,
                    device: &watched.device,
                    method: watched.method,
                    path: &watched.path,
                    query: Some(watched.query.as_str()).filter(|query| !query.is_empty()),
                    topic: Some(&watched.topic),
                    bytes: watched.bytes,
                    preview: &watched.preview,
                    outcome: Outcome::Stored(watched.id),
                    reason: None,
                }),
                Event::Refused { device, method, path, query, bytes, refusal, mqtt: of_mqtt } => {
                    let permit = limiter.permit(now, LineKind::Refused);
                    let Some(device) = device else { continue };
                    if permit {
                        log::info!(device = device, path = path, reason:% = refusal, audit = "denied"; "reading refused");
                    }
                    let outcome = match of_mqtt {
                        true => {
                            Outcome::RefusedMqtt(crate::southbound::mqtt::answer::refused(refusal).code as u8)
                        }
                        false => refused_by(answer::refused(refusal).code),
                    };
                    let away = turned_away(moment, device, method, path, bytes, outcome, refusal);
                    tail.push(&Reading { query, ..away });
                }
                Event::Unstored { device, method, path, query, bytes, reason, mqtt: of_mqtt } => {
                    let outcome = match of_mqtt {
                        true => {
                            Outcome::RefusedMqtt(crate::southbound::mqtt::answer::unstored(reason).code as u8)
                        }
                        // That of the share has the same code.
                        false => refused_by(answer::unavailable().code),
                    };
                    let device = device.unwrap_or_default();
                    let away = turned_away(moment, device, method, path, bytes, outcome, &reason);
                    tail.push(&Reading { query, ..away });
                    if limiter.permit(now, LineKind::Unstored) {
                        log::warn!(device = device, path = path, reason:% = reason; "reading not stored");
                    }
                }
            }
        }
    }

    /// Sends a reading in the place of a device. What it is given to comes back when the reading is
    /// stored, or is not, if it went to the journal.
    pub fn test(&mut self, device: DeviceIndex, received: Received<'_>) -> (Tested, oneshot::Receiver<bool>) {
        self.begin();
        let number = self.next_test;
        self.next_test = number.wrapping_add(1);
        let (sender, receiver) = oneshot::channel();
        let tested = self.pipeline.handle_test(self.moment.now, device, Ticket::Test(number), received);
        if let Tested::Journaled(_) = tested {
            self.tests.insert(number, sender);
        }
        (tested, receiver)
    }

    /// Shows what is in `datagram` to who traces its device.
    fn trace_sent(&self, peer: Peer) {
        let Some(device) = self.coap.device_of(peer) else { return };
        let address = match peer {
            Peer::Session(session) => self.engine.session(session).map(|info| info.route.remote),
            Peer::Plain(_) => self.coap.route(peer).map(|route| route.remote),
            Peer::Serial(_) => None,
        };
        let Hub { traffic, clock, moment, .. } = self;
        let tracer = Tracer { traffic, clock, moment: *moment };
        tracer.show(&self.pipeline.gate, device, "out", address, &self.datagram);
    }

    /// Shows a message of the node on a serial line to who traces its device.
    pub fn trace_line(&self, device: &str, message: &[u8]) {
        if let Some(device) = self.pipeline.gate.device_by_id(device).filter(|_| self.traffic.is_watched()) {
            let Hub { traffic, clock, moment, .. } = self;
            let tracer = Tracer { traffic, clock, moment: *moment };
            tracer.show(&self.pipeline.gate, device, "in", None, message);
        }
    }

    /// Sends what is in `datagram`.
    fn send(&mut self, now: Instant, session: SessionId) {
        let datagram = std::mem::take(&mut self.datagram);
        let (engine, mut sink) = self.split();
        match engine.send(now, session, &datagram, &mut sink) {
            Ok(()) => {}
            Err(SendError::UnknownSession | SendError::Fault) => sink.coap.forget(session),
            // The device does not hear it, as if it were lost. What it repeats later may pass.
            Err(SendError::TooLarge) => sink.pipeline.counters.count(Counter::DatagramsUnsent),
            Err(SendError::Unproven) => {
                sink.pipeline.counters.count(Counter::DatagramsUnsent);
                let id = system::io::random().map(u16::from_be_bytes).ok();
                if let Some(ping) = id.and_then(|id| sink.coap.probe(now, session, id)) {
                    let _ = engine.send(now, session, &ping, &mut sink);
                }
            }
        }
        self.datagram = datagram;
    }

    /// Tells the store what became of sessions.
    fn follow(&mut self) {
        let Reports { closed, established, .. } = &mut self.reports;
        self.persistence.follow(self.moment.now, closed, established, &mut *self.engine);
    }

    /// Takes over the sessions of an earlier process; once, before anything is received.
    pub fn restore(&mut self, found: FoundSessions) {
        self.begin();
        self.reports.restoring = true;
        let (now, mut persistence) = (self.moment.now, std::mem::take(&mut self.persistence));
        let (engine, mut sink) = self.split();
        persistence.restore(now, found, engine, &mut sink);
        self.persistence = persistence;
        self.reports.restoring = false;
        self.commands.review(now, &self.pipeline.gate, Absent::Waits);
        let mut sessions = Vec::new();
        self.engine.sessions(&mut |info| {
            let device = self.coap.session_device(info.session);
            let id = device.and_then(|device| self.pipeline.gate.id(device)).cloned();
            if let Some((number, id)) = self.persistence.number(info.session).zip(id) {
                sessions.push((number, id, Peer::Session(info.session).id()));
            }
        });
        self.commands.attach(now, &sessions);
        self.commands.meet_served(now, &mut self.coap, &self.pipeline.gate);
    }

    /// The last round: sessions that are kept are left as they are, all others get a close_notify.
    /// `in_order`: no fault is the reason.
    pub fn leave(&mut self, in_order: bool) {
        self.begin();
        self.mqtt.leave(&self.moment, &mut self.pipeline);
        let (now, mut persistence) = (self.moment.now, std::mem::take(&mut self.persistence));
        let (engine, mut sink) = self.split();
        persistence.leave(now, in_order, engine, &mut sink);
        self.persistence = persistence;
        self.follow();
        self.left = true;
    }

    /// Takes over what a reload changed, `certificates` if they did. The sessions of devices that
    /// are gone are closed, and those whose own credential is: others of the device go on.
    pub fn replace(
        &mut self,
        prepared: crate::gate::Prepared,
        keyring: crate::proto::dtls::Keyring,
        certificates: Option<Certificates>,
        insecure: Option<&str>,
        downlink: (&crate::downlink::settings::Settings, &serial::Settings, &std::path::Path),
    ) {
        self.begin();
        let now = self.moment.now;
        let removed = self.pipeline.gate.replace(prepared, now);
        let (engine, mut sink) = self.split();
        engine.replace_keyring(now, keyring, &mut sink);
        if let Some(certificates) = certificates {
            engine.replace_certificates(now, certificates, &mut sink);
        }
        let gate = &sink.pipeline.gate;
        // A session whose credential is now another device's, or nobody's, has to begin anew.
        sink.coap.review_sessions(|session, device| {
            let identity = engine.session(session).map(|info| info.identity);
            identity.and_then(|identity| gate.recognise(identity)) == Some(device)
        });
        self.set_insecure(insecure);
        let (settings, lines, directory) = downlink;
        self.commands.set_lines(lines);
        self.commands.replace(now, settings, &self.pipeline.gate, directory);
        self.commands.meet_served(now, &mut self.coap, &self.pipeline.gate);
        self.mqtt.review(&self.moment, &mut self.pipeline);
        for gone in removed {
            self.uplink.clear_device(gone.id.as_str());
        }
    }

    /// Replaces certificates, anchors and revocation lists for devices alone, for handshakes from
    /// the next on.
    pub fn replace_certificates(&mut self, certificates: Certificates) {
        self.begin();
        let now = self.moment.now;
        let (engine, mut sink) = self.split();
        engine.replace_certificates(now, certificates, &mut sink);
    }

    /// Sets the device of all plain CoAP senders.
    pub fn set_insecure(&mut self, device: Option<&str>) {
        let device = device.and_then(|id| self.pipeline.gate.device_by_id(id));
        self.coap.set_insecure(device);
    }

    /// From now on this CoAP node is on the line of this port, and `wake` is notified of messages
    /// for it.
    pub fn connect_serial(&mut self, port: u32, node: &Name, wake: Rc<Wake>) {
        if let Some(device) = self.pipeline.gate.device_by_id(node.as_str()) {
            self.coap.connect_line(port, device);
        }
        self.serial.connect(port);
        self.serial_wakes.insert(port, wake);
    }

    /// From now on the port takes commands for these devices, and `wake` is notified of them.
    pub fn connect_writable(&mut self, port: u32, devices: Vec<Name>, wake: Rc<Wake>) {
        self.serial.connect_writable(port, devices);
        self.serial_wakes.insert(port, wake);
    }

    /// The port has gone.
    pub fn disconnect_serial(&mut self, port: u32) {
        self.serial_wakes.remove(&port);
        self.serial.disconnect_writable(port);
        if self.serial.disconnect(port) {
            self.coap.forget_line(port);
        }
    }

    /// A connection of an MQTT client was accepted; `wake` is notified when there is something for
    /// it.
    pub fn open_mqtt(&mut self, source: mqtt::Source, wake: Rc<Wake>) -> mqtt::ConnectionNumber {
        self.begin();
        let number = self.mqtt.handle_opened(self.moment.now, source);
        self.mqtt_wakes.insert(number, wake);
        number
    }

    /// Has the tasks of all MQTT clients look at what changed for them.
    pub fn wake_mqtt(&self) {
        self.mqtt_wakes.values().for_each(|wake| wake.notify_one());
    }

    /// Takes what an MQTT client has sent.
    pub fn receive_mqtt(&mut self, number: mqtt::ConnectionNumber, bytes: &[u8]) {
        self.begin();
        self.mqtt.handle_bytes(&self.moment, number, bytes, &mut self.pipeline);
    }

    /// The connection of an MQTT client is gone.
    pub fn close_mqtt(&mut self, number: mqtt::ConnectionNumber) {
        self.begin();
        self.mqtt_wakes.remove(&number);
        self.mqtt.handle_closed(&self.moment, number, &mut self.pipeline);
    }

    /// The certificate of an MQTT client is not trusted any more, for this reason.
    pub fn revoke_mqtt(&mut self, number: mqtt::ConnectionNumber, reason: String) {
        self.begin();
        self.mqtt.handle_revoked(&self.moment, number, reason, &mut self.pipeline);
    }

    /// Ends the sessions of MQTT clients that are away whose certificate is not trusted any more.
    pub fn end_withdrawn_mqtt(&mut self, withdrawn: impl Fn(&[CertificateDer<'_>]) -> Option<String>) {
        self.begin();
        self.mqtt.end_withdrawn(withdrawn, &mut self.pipeline);
    }

    /// The address that an MQTT client came to is not listened on any more.
    pub fn unlisten_mqtt(&mut self, number: mqtt::ConnectionNumber) {
        self.begin();
        self.mqtt.handle_unlistened(&self.moment, number, &mut self.pipeline);
    }

    /// The password that was handed out is right, or wrong.
    pub fn verified_mqtt(&mut self, right: bool) {
        self.begin();
        self.mqtt.handle_verified(&self.moment, right, &mut self.pipeline);
    }

    /// The bus has messages for a session, which has missed some before them.
    pub fn deliver_mqtt(&mut self, session: u64, messages: &[Bytes], missed: u64) {
        self.begin();
        let counters = &mut self.pipeline.counters;
        self.mqtt.handle_bus(self.moment.now, session, messages, missed, counters);
    }

    /// The times by which certificates and tokens of MQTT clients are judged.
    pub fn set_mqtt_clock(&mut self, certificates: Clock, tokens: Clock) {
        self.begin();
        self.mqtt.set_clock(&self.moment, certificates, tokens, &mut self.pipeline);
    }

    /// Wakes the tasks of MQTT clients that have something to do.
    fn flush_mqtt(&mut self) {
        while let Some(number) = self.mqtt.poll_ready() {
            if let Some(wake) = self.mqtt_wakes.get(&number) {
                wake.notify_one();
            }
        }
        if self.mqtt.has_verification() {
            self.mqtt_verify.notify_one();
        }
        while let Some(event) = self.mqtt.poll_event() {
            super::mqtt_status::say(&self.moment, &mut self.limiter, &self.tail, &event);
        }
        // Wills of connections that ended just now.
        self.route_events();
        let dropped = self.mqtt.take_queued_dropped();
        self.pipeline.counters.add(Counter::MqttQueuedDropped, dropped);
        let dropped = self.mqtt.take_retained_dropped();
        self.pipeline.counters.add(Counter::MqttRetainedDropped, dropped);
        let filtered = self.mqtt.take_local_filtered();
        self.pipeline.counters.add(Counter::MqttLocalFiltered, filtered);
        let expired = self.mqtt.take_local_expired();
        self.pipeline.counters.add(Counter::MqttLocalExpired, expired);
        while let Some(request) = self.mqtt.poll_bus() {
            let taken = self.bus.as_ref().is_some_and(|bus| bus.handle(request));
            if !taken {
                self.pipeline.counters.count(Counter::MqttLocalDropped);
            }
        }
    }

    /// Whether a line of this kind may be written now.
    pub fn may_say(&mut self, kind: LineKind) -> bool {
        self.limiter.permit(self.moment.now, kind)
    }

    /// As [`may_say`](Hub::may_say), of a line that `peer` causes: each address has its share.
    pub fn may_say_of(&mut self, kind: LineKind, peer: Option<IpAddr>) -> bool {
        match peer {
            Some(peer) => self.limiter.permit_from(self.moment.now, kind, peer),
            None => self.may_say(kind),
        }
    }
}

/// Whether a datagram on a DTLS port is a CoAP request or ping in the clear. No DTLS record begins
/// like one.
fn is_plain_coap(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first >> 6 == 1)
        && protocol::Message::parse(datagram)
            .is_ok_and(|message| message.code.is_request() || message.code == protocol::Code::EMPTY)
}

/// A reading that was not taken, for `tail`.
fn turned_away<'a>(
    moment: &Moment,
    device: &'a str,
    method: Method,
    path: &'a str,
    bytes: usize,
    outcome: Outcome,
    reason: &'a dyn std::fmt::Display,
) -> Reading<'a> {
    Reading {
        received: moment.wall,
        boottime_ms: moment.boottime_ms,
        device,
        method,
        path,
        query: None,
        topic: None,
        bytes,
        preview: b"",
        outcome,
        reason: Some(reason),
    }
}

fn refused_by(code: Code) -> Outcome {
    Outcome::Refused(code.class(), code.detail())
}
