//! A world for the uplink's core: a clock that jumps, a journal in memory, a broker that does as it
//! is told.

pub mod mosquitto;
pub mod outbox;
pub mod pki;
pub mod rabbitmq;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tombolo::clock::{Moment, UnixTime};
use tombolo::message::{Envelope, Lane, Method, Name};
use tombolo::northbound::address;
use tombolo::northbound::reason_code::Cause;
use tombolo::northbound::settings::{OwnTopics, Protocol, Settings};
use tombolo::northbound::uplink::{Closed, Dialed, Event, Status, Uplink};

use outbox::{Item, MemoryOutbox};
use tombolo_test_support::broker::{Broker, Link};

pub const STATUS: &str = "tombolo/g/gateway/status";
pub const LOSS: &str = "tombolo/g/gateway/loss";

pub fn settings() -> Settings {
    Settings {
        gateway: Name::parse("g").unwrap(),
        host: "broker.test".to_owned(),
        port: 8883,
        tls: None,
        client_id: "g".to_owned(),
        probe_client_id: None,
        username: None,
        password_file: None,
        jwt: None,
        protocol: Protocol::Auto,
        session_expiry: Duration::from_secs(7 * 86_400),
        keep_alive: Duration::from_secs(60),
        max_in_flight: 1000,
        drain_rate: 1000,
        max_publish_rate: 0,
        max_byte_rate: 0,
        answer_timeout: Duration::from_secs(30),
        retry_rejected: None,
        commands: Vec::new(),
        topics: OwnTopics {
            gateway_status: Some(STATUS.to_owned()),
            loss: Some(LOSS.to_owned()),
            device_status: Some("tombolo/g/{device}/status".to_owned()),
            update: Some("tombolo/g/gateway/update".to_owned()),
            update_hint: None,
        },
    }
}

/// Without topics of its own: what the broker sees are records and nothing else.
pub fn bare_settings() -> Settings {
    Settings {
        commands: Vec::new(),
        topics: OwnTopics {
            gateway_status: None,
            loss: None,
            device_status: None,
            update: None,
            update_hint: None,
        },
        ..settings()
    }
}

pub struct World {
    pub start: Instant,
    pub moment: Moment,
    pub uplink: Uplink,
    pub outbox: MemoryOutbox,
    pub broker: Broker,
    pub link: Option<Link>,
    pub events: Vec<Event>,
    /// When attempts were made.
    pub attempts: Vec<Duration>,
    /// Nothing passes in either direction, and nobody is told.
    pub frozen: bool,
    pub password: Option<Vec<u8>>,
    /// How long the password serves, if it expires.
    pub password_life: Option<Duration>,
    /// What the broker's name stands for; empty: one address nobody asks about.
    pub addresses: Vec<SocketAddr>,
    /// Behind these nobody answers CONNECT; the connection is closed.
    pub hollow: Vec<SocketAddr>,
    /// Where attempts led.
    pub dialed: Vec<SocketAddr>,
}

impl World {
    pub fn new(settings: Settings) -> World {
        let start = Instant::now();
        World {
            start,
            moment: Moment { now: start, boottime_ms: 1_000_000, wall: None, ages_from: Some(UnixTime(0)) },
            uplink: Uplink::new(start, settings),
            outbox: MemoryOutbox::default(),
            broker: Broker::default(),
            link: None,
            events: Vec::new(),
            attempts: Vec::new(),
            frozen: false,
            password: None,
            password_life: None,
            addresses: Vec::new(),
            hollow: Vec::new(),
            dialed: Vec::new(),
        }
    }

    pub fn status(&self) -> Status {
        self.uplink.status(self.moment.now)
    }

    fn dial(&mut self) -> Dialed {
        let avoid = self.uplink.avoid().to_vec();
        let order = address::order(&self.addresses, &avoid);
        let Some(peer) = order.first().copied() else { return Dialed::default() };
        self.dialed.push(peer);
        let untried = order[1..].iter().filter(|other| !avoid.contains(other)).count();
        Dialed { peer: Some(peer), untried }
    }

    pub fn elapsed(&self) -> Duration {
        self.moment.now - self.start
    }

    pub fn advance(&mut self, by: Duration) {
        self.moment.now += by;
        self.moment.boottime_ms += by.as_millis() as u64;
        if let Some(UnixTime(ms)) = &mut self.moment.wall {
            *ms += by.as_millis() as u64;
        }
    }

    /// Stores a reading as the journal would, received now.
    pub fn store(&mut self, lane: Lane, topic: &str, payload: &[u8]) -> u64 {
        let item = self.item(topic, payload);
        self.outbox.push(lane, item)
    }

    pub fn item(&self, topic: &str, payload: &[u8]) -> Item {
        Item {
            sequence: 0,
            original: None,
            same_boot: true,
            device: "door-7".to_owned(),
            path: "t/env".to_owned(),
            topic: topic.to_owned(),
            method: Method::Post,
            content_format: None,
            retain: false,
            envelope: Envelope::None,
            expires_s: None,
            received: self.moment.stamp(),
            payload: payload.to_vec(),
        }
    }

    /// Lets everything happen that happens at this moment.
    pub fn settle(&mut self) {
        loop {
            let now = self.moment.now;
            let mut idle = true;
            if self.uplink.poll_connect(now) {
                idle = false;
                self.attempts.push(self.elapsed());
                if self.broker.reachable {
                    let dialed = self.dial();
                    let mut link = self.broker.accept();
                    link.hollow = dialed.peer.is_some_and(|peer| self.hollow.contains(&peer));
                    self.link = Some(link);
                    self.uplink.handle_connected(now, self.password.clone(), dialed);
                    self.uplink.set_password_life(now, self.password_life);
                } else {
                    self.uplink.handle_connect_failed(now, "connection refused".to_owned(), false);
                }
            }
            self.uplink.handle_timeout(&self.moment, &mut self.outbox);
            self.uplink.fill(&self.moment, &mut self.outbox);
            if let Some(link) = &mut self.link {
                let sent = self.uplink.outgoing().map(std::mem::take).unwrap_or_default();
                let mut received = Vec::new();
                let mut closed = None;
                link.dead |= self.frozen && !sent.is_empty();
                let passes = !self.frozen && !link.dead;
                if passes {
                    idle &= sent.is_empty();
                    let elapsed = now - self.start;
                    self.broker.handle_bytes(link, elapsed, &sent);
                    self.broker.answer_late(link, elapsed);
                    received = std::mem::take(&mut link.outgoing);
                    closed = link.closed.clone();
                }
                if !received.is_empty() {
                    idle = false;
                    self.uplink.handle_bytes(&self.moment, &mut self.outbox, &received);
                }
                if self.uplink.is_over() || closed.is_some() {
                    idle = false;
                    // What the uplink still had to say, such as DISCONNECT, is read before the end
                    // of the stream.
                    let last = self.uplink.outgoing().map(std::mem::take).unwrap_or_default();
                    if passes && closed.is_none() {
                        self.broker.handle_bytes(link, now - self.start, &last);
                    }
                    let mut link = self.link.take().unwrap();
                    self.broker.handle_closed(&mut link);
                    let how = closed.unwrap_or(Closed::ByPeer);
                    self.uplink.handle_closed(&self.moment, &mut self.outbox, how);
                }
            }
            while let Some(event) = self.uplink.poll_event() {
                idle = false;
                self.events.push(event);
            }
            if idle && !self.uplink.has_more() && !self.outbox.wake() {
                return;
            }
        }
    }

    /// Lets time pass, from deadline to deadline.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.moment.now + duration;
        loop {
            self.settle();
            if self.moment.now >= end {
                return;
            }
            // However it stands, there is a deadline, and not one that has passed and is still
            // there.
            let deadline = self.uplink.poll_timeout();
            assert!(self.uplink.is_stopping() || deadline.is_some(), "no deadline: {:?}", self.status());
            assert!(
                deadline.is_none_or(|at| at > self.moment.now) || self.frozen,
                "it would spin: {:?}",
                self.status()
            );
            let late = self.link.as_ref().and_then(|link| link.late_at()).map(|at| self.start + at);
            let next = self.uplink.poll_timeout().unwrap_or(end).min(late.unwrap_or(end)).min(end);
            let least = self.moment.now + Duration::from_millis(1);
            let by = next.max(least) - self.moment.now;
            self.advance(by);
        }
    }

    /// The broker vanishes: its process is killed.
    pub fn kill_broker(&mut self) {
        self.broker.reachable = false;
        if let Some(mut link) = self.link.take() {
            self.broker.handle_closed(&mut link);
            let how = Closed::Broken("end of stream without close_notify".to_owned());
            self.uplink.handle_closed(&self.moment, &mut self.outbox, how);
        }
        self.settle();
    }

    /// The connection is cut by the broker in good order; it stays reachable.
    pub fn cut(&mut self) {
        if let Some(mut link) = self.link.take() {
            self.broker.handle_closed(&mut link);
            self.uplink.handle_closed(&self.moment, &mut self.outbox, Closed::ByPeer);
        }
        self.settle();
    }

    /// What was set aside, in the order of the lanes.
    pub fn rejected(&self) -> Vec<(Lane, u64, Cause)> {
        let mut rejected = self.outbox.rejected.clone();
        rejected.sort_by_key(|(lane, sequence, _)| (lane.index(), *sequence));
        rejected
    }

    pub fn payloads(&self) -> Vec<String> {
        self.broker
            .delivered
            .iter()
            .map(|delivered| String::from_utf8_lossy(&delivered.payload).into_owned())
            .collect()
    }

    pub fn count(&self, matches: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|event| matches(event)).count()
    }
}
