//! The uplink as one core: session, publisher, own messages and the memory of attempts behind the five verbs.
//!
//! ```text
//! Waiting ──due──> Connecting ──transport──> Opening ──CONNACK──> Status ──> Subscribing ──> Flowing
//!    ^                 │                        │                   │             │             │
//!    └─────────────────┴── failed ──────────────┴───── lost ────────┴─────────────┴─────────────┘
//! ```
//!
//! After CONNACK the gateway's status goes out alone, then the subscription to it, then everything else:
//! a broker that closes the connection over one of these does not bring a record under suspicion.
//! The subscription shows when our own will, published late, stands there instead: then the status is repeated.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::ending::Ending;
use super::outbox::Outbox;
use super::own::{Class, Own};
use super::publication::push_json_string;
use super::publisher::{self, Publisher};
use super::reconnect::{Notice, Outcome, Reconnect};
use super::session::{self, Ended, Limits, Opening, Session, Will};
use super::settings::Settings;
use super::wire::{Acknowledgement, Version};
use crate::clock::Moment;
use crate::message::{Content, Lane};

pub use super::ending::Closed;

/// How long the broker waits with the will (MQTT 5).
pub const WILL_DELAY: Duration = Duration::from_secs(10);
/// How long a step of making the connection ready may take before it goes on without it.
const STEP_WITHIN: Duration = Duration::from_secs(10);
/// An answer to a publish that takes longer will not come on this connection.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// How long the goodbye may take.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);
/// After three closes over the subscription it is left out for so long.
const SUBSCRIBE_PAUSE: Duration = Duration::from_secs(3600);

/// What the uplink reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// CONNACK with success.
    Connected {
        /// The protocol spoken.
        version: Version,
        /// What the broker allows.
        limits: Limits,
        /// The id the broker gave us, if it did not like ours.
        assigned_client_id: Option<String>,
    },
    /// No connection came about.
    Failed {
        /// What happened and, where known, what to do.
        what: String,
        /// Until the next attempt.
        retry_in: Duration,
    },
    /// The connection is gone.
    Lost {
        /// What happened.
        what: String,
        /// Until the next attempt.
        retry_in: Duration,
    },
    /// From now on MQTT 3.1.1 is spoken; 5 is tried again by attempts an hour later.
    FellBack,
    /// The client id is probably used elsewhere: attempts are minutes apart.
    ClientIdElsewhere,
    /// Our own status topic showed us offline; it was set right.
    StatusRepaired,
    /// The broker does not let us read our own status topic.
    SubscriptionRefused {
        /// The reason code.
        code: u8,
    },
    /// Of the publisher.
    Publisher(publisher::Event),
}

/// The uplink as `tombolo status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether CONNACK came and the connection stands.
    pub connected: bool,
    /// Since when it is so; before the first connection, since the start.
    pub since: Instant,
    /// The protocol spoken.
    pub version: Option<Version>,
    /// What the broker allows.
    pub limits: Option<Limits>,
    /// The window in force.
    pub window: u16,
    /// Publishes not answered.
    pub in_flight: usize,
    /// The last failure or loss, until a connection stands.
    pub failure: Option<String>,
    /// When the next attempt is due.
    pub attempt_at: Option<Instant>,
    /// By [`Lane::index`]: until when the broker's refusal stops it.
    pub stopped_until: [Option<Instant>; 2],
    /// Connections that stood.
    pub connections: u64,
    /// Numbers since the start.
    pub counters: publisher::Counters,
    /// Readings of `qos = 0` rules dropped.
    pub volatile_dropped: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No transport; an attempt is due at the time [`Reconnect`] says.
    Waiting,
    /// The shell is making a transport.
    Connecting,
    /// CONNECT is sent.
    Opening,
    /// The status is sent, its answer awaited.
    Status { until: Instant },
    /// The subscription is sent, its answer awaited.
    Subscribing { until: Instant },
    /// All flows.
    Flowing,
    /// The last words are said.
    Closing { until: Instant },
    /// Over; the shell writes what is left and closes.
    Over,
}

/// The uplink without its I/O.
pub struct Uplink {
    settings: Settings,
    reconnect: Reconnect,
    publisher: Publisher,
    own: Own,
    session: Option<Session>,
    stage: Stage,
    attempt_version: Version,
    limits: Limits,
    /// What the broker said of QoS and retain when it refused our will.
    will_limits: Limits,
    accepted_at: Option<Instant>,
    records_answered: bool,
    subscribe_strikes: u8,
    subscribe_paused_until: Option<Instant>,
    repair_at: Option<Instant>,
    repaired: u32,
    repaired_at: Option<Instant>,
    online: Vec<u8>,
    stopping: bool,
    since: Instant,
    failure: Option<String>,
    connections: u64,
    acknowledgements: Vec<Acknowledgement>,
    more: bool,
    events: VecDeque<Event>,
}

impl Uplink {
    /// The first attempt is due at once. `seed` spreads a fleet's attempts.
    pub fn new(now: Instant, settings: Settings, seed: u64) -> Uplink {
        let gateway = settings.gateway.as_str();
        let publisher = Publisher::new(
            now,
            gateway,
            settings.max_in_flight,
            settings.drain_rate,
            settings.topics.loss.clone(),
        );
        let online = status_payload(gateway, true);
        Uplink {
            reconnect: Reconnect::new(now, settings.protocol, seed),
            publisher,
            own: Own::default(),
            session: None,
            stage: Stage::Waiting,
            attempt_version: Version::V5,
            limits: Limits::default(),
            will_limits: Limits::default(),
            accepted_at: None,
            records_answered: false,
            subscribe_strikes: 0,
            subscribe_paused_until: None,
            repair_at: None,
            repaired: 0,
            repaired_at: None,
            online,
            stopping: false,
            since: now,
            failure: None,
            connections: 0,
            acknowledgements: Vec::new(),
            more: false,
            events: VecDeque::new(),
            settings,
        }
    }

    /// What it was told.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    // What the shell asks and tells, in the order of a connection's life.

    /// Whether a transport is to be made now. The stage is then `Connecting`.
    pub fn poll_connect(&mut self, now: Instant) -> bool {
        let due = self.stage == Stage::Waiting && !self.stopping && now >= self.reconnect.attempt_at();
        if due {
            self.attempt_version = self.reconnect.version(now);
            self.stage = Stage::Connecting;
        }
        due
    }

    /// No transport came about. `unwelcome`: the broker refuses who we are.
    pub fn handle_connect_failed(&mut self, now: Instant, what: String, unwelcome: bool) {
        let outcome = if unwelcome { Outcome::CredentialsRefused } else { Outcome::Unreachable };
        self.wait(now, outcome, what);
    }

    /// The transport stands: CONNECT is to be written.
    pub fn handle_connected(&mut self, now: Instant, password: Option<Vec<u8>>) {
        let will = self.settings.topics.gateway_status.clone().map(|topic| Will {
            topic,
            payload: status_payload(self.settings.gateway.as_str(), false),
            at_least_once: self.will_limits.at_least_once,
            retain: self.will_limits.retain,
            delay: WILL_DELAY,
        });
        let opening = Opening {
            version: self.attempt_version,
            client_id: self.settings.client_id.clone(),
            keep_alive: self.settings.keep_alive,
            username: self.settings.username.clone(),
            password,
            will,
        };
        self.session = Some(Session::new(now, &opening));
        self.stage = Stage::Opening;
        self.accepted_at = None;
        self.records_answered = false;
        self.repair_at = None;
        self.repaired = 0;
        self.repaired_at = None;
    }

    /// Takes received bytes.
    pub fn handle_bytes(&mut self, moment: &Moment, outbox: &mut impl Outbox, bytes: &[u8]) {
        if let Some(session) = &mut self.session {
            session.handle_bytes(moment.now, bytes);
            self.handle_session(moment, outbox);
        }
    }

    /// The transport is gone.
    pub fn handle_closed(&mut self, moment: &Moment, outbox: &mut impl Outbox, closed: Closed) {
        match self.stage {
            Stage::Waiting => return,
            Stage::Connecting => {
                let what = match closed {
                    Closed::ByPeer => "the broker closed the connection".to_owned(),
                    Closed::Broken(what) | Closed::Unwelcome(what) | Closed::Failed(what) => what,
                };
                self.handle_connect_failed(moment.now, what, false);
                return;
            }
            // After a goodbye what was not answered is the next connection's, or the next uplink's.
            Stage::Over if self.publisher.is_open() => {
                self.publisher.handle_closed(moment.now, outbox, &mut self.own, false);
            }
            Stage::Over => {}
            _ => self.finish_closed(moment.now, outbox, closed),
        }
        self.session = None;
        self.stage = Stage::Waiting;
    }

    /// Acts on deadlines that passed.
    pub fn handle_timeout(&mut self, moment: &Moment, outbox: &mut impl Outbox) {
        let now = moment.now;
        if let Some(session) = &mut self.session {
            session.handle_timeout(now);
            self.handle_session(moment, outbox);
        }
        if self.publisher.waiting_since().is_some_and(|since| now >= since + ANSWER_WITHIN) {
            let ending = Ending::unanswered(self.lasted(now));
            self.finish(now, outbox, ending);
        }
        match self.stage {
            Stage::Status { until } if now >= until => self.subscribe(now),
            Stage::Subscribing { until } if now >= until => self.flow(),
            Stage::Closing { until } if now >= until => self.say_goodbye(),
            _ => {}
        }
        if self.repair_at.is_some_and(|at| now >= at) {
            self.repair_at = None;
            self.repair_status(now);
        }
    }

    /// Appends what may be published now to the output.
    pub fn fill(&mut self, moment: &Moment, outbox: &mut impl Outbox) {
        self.more = false;
        let Some(session) = &mut self.session else {
            return;
        };
        if !session.is_open() || session.outgoing_len() >= publisher::FILL_BYTES {
            return;
        }
        let next_ping = session.pings_sent() + 1;
        let mut out = std::mem::take(session.outgoing());
        let filled = self.publisher.fill(moment, outbox, &mut self.own, &mut out, next_ping);
        *session.outgoing() = out;
        if filled.packets > 0 {
            session.note_sent(moment.now);
        }
        if filled.ping {
            session.ping(moment.now);
        }
        session.set_answers_due(moment.now, self.publisher.in_flight() > 0);
        self.more = filled.more;
        self.poll_publisher();
        self.step(moment.now);
    }

    /// Bytes to write; who writes some takes them away.
    pub fn outgoing(&mut self) -> Option<&mut Vec<u8>> {
        self.session.as_mut().map(Session::outgoing)
    }

    /// Whether the connection is over: write what is left, close, then [`Uplink::handle_closed`].
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Whether there is more to publish than one fill takes, and room for it.
    pub fn has_more(&self) -> bool {
        self.more
    }

    /// Whether every place of the window is taken: the next answer lets something go.
    pub fn is_window_full(&self) -> bool {
        self.publisher.is_window_full()
    }

    /// The next deadline: of an attempt, of the connection, or to fill again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let stage = match self.stage {
            Stage::Waiting => return (!self.stopping).then(|| self.reconnect.attempt_at()),
            Stage::Connecting | Stage::Over => return None,
            Stage::Status { until } | Stage::Subscribing { until } | Stage::Closing { until } => Some(until),
            Stage::Opening | Stage::Flowing => None,
        };
        let session = self.session.as_ref().and_then(Session::poll_timeout);
        let answer = self.publisher.waiting_since().map(|since| since + ANSWER_WITHIN);
        let publisher = (self.stage == Stage::Flowing).then(|| self.publisher.poll_timeout()).flatten();
        [stage, session, answer, publisher, self.own.poll_timeout(), self.repair_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    // What the daemon asks and tells.

    /// Puts a reading of a `qos = 0` rule into the ring.
    pub fn push_volatile(&mut self, content: &Content<'_>) {
        self.publisher.push_volatile(content);
    }

    /// Says what the gateway's status is while online: a JSON object that has `"online":true`.
    pub fn set_gateway_status(&mut self, json: Vec<u8>) {
        self.online = json;
        if let (Some(topic), true) = (&self.settings.topics.gateway_status, self.is_connected()) {
            self.own.set_status(Class::GatewayStatus, topic, self.online.clone());
        }
    }

    /// Says a device's status, retained; at most once a minute a device is the caller's care.
    pub fn set_device_status(&mut self, device: &str, json: Vec<u8>) {
        if let Some(topic) = &self.settings.topics.device_status {
            self.own.set_status(Class::DeviceStatus, &topic.replace("{device}", device), json);
        }
    }

    /// Clears a removed device's retained status.
    pub fn clear_device_status(&mut self, device: &str) {
        self.set_device_status(device, Vec::new());
    }

    /// Clears a retained status that belongs to nobody any more, as after renaming the gateway.
    pub fn clear_retained(&mut self, topic: &str) {
        self.own.set_status(Class::DeviceStatus, topic, Vec::new());
    }

    /// Takes an attempt up at once: something was changed that may help.
    pub fn retry_now(&mut self, now: Instant) {
        self.reconnect.retry_now(now);
    }

    /// Says goodbye: the retained status turns offline, DISCONNECT goes out, no attempt follows.
    pub fn stop(&mut self, now: Instant) {
        self.stopping = true;
        if self.is_connected() {
            self.stage = Stage::Closing { until: now + GOODBYE_WITHIN };
            self.publisher.hold(true);
            if let Some(topic) = &self.settings.topics.gateway_status {
                let offline = status_payload(self.settings.gateway.as_str(), false);
                self.own.set_status(Class::GatewayStatus, topic, offline);
            }
        } else if let Some(session) = &mut self.session {
            session.disconnect(false);
            self.stage = Stage::Over;
        }
    }

    /// Publishes the status anew, so that the connection shows whether it works. Whether there is one to show.
    pub fn begin_check(&mut self) -> bool {
        match (&self.settings.topics.gateway_status, self.stage) {
            (Some(topic), Stage::Flowing) => {
                self.own.set_status(Class::GatewayStatus, topic, self.online.clone());
                true
            }
            _ => false,
        }
    }

    /// Whether what [`Uplink::begin_check`] published is answered, or the connection gone.
    pub fn is_check_done(&self) -> bool {
        self.stage != Stage::Flowing || self.status_is_settled()
    }

    /// Whether [`Uplink::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// The window of this connection; 0 without one.
    pub fn window(&self) -> u16 {
        self.publisher.window()
    }

    /// Whether [`Uplink::stop`] was called and nothing is left to do.
    pub fn is_stopped(&self) -> bool {
        self.stopping && self.stage == Stage::Waiting
    }

    /// Whether the connection stands.
    pub fn is_connected(&self) -> bool {
        self.accepted_at.is_some()
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        let connected = self.is_connected();
        Status {
            connected,
            since: self.since,
            version: connected.then_some(self.attempt_version),
            limits: connected.then_some(self.limits),
            window: self.publisher.window(),
            in_flight: self.publisher.in_flight(),
            failure: self.failure.clone(),
            attempt_at: (self.stage == Stage::Waiting && !self.stopping).then(|| self.reconnect.attempt_at()),
            stopped_until: Lane::ALL.map(|lane| self.publisher.stopped_until(lane)),
            connections: self.connections,
            counters: self.publisher.counters(),
            volatile_dropped: self.publisher.volatile_dropped(),
        }
    }

    // What follows from the session.

    fn handle_session(&mut self, moment: &Moment, outbox: &mut impl Outbox) {
        let now = moment.now;
        let Some(session) = &mut self.session else {
            return;
        };
        let empty = std::mem::take(&mut self.acknowledgements);
        let mut acknowledgements = session.take_acknowledgements(empty);
        if !acknowledgements.is_empty() {
            if self.stage == Stage::Flowing {
                self.records_answered = true;
            }
            self.publisher.handle_acknowledgements(now, outbox, &mut self.own, &acknowledgements);
            acknowledgements.clear();
        }
        self.acknowledgements = acknowledgements;
        while let Some(event) = self.session.as_mut().and_then(Session::poll_event) {
            match event {
                session::Event::Accepted { limits, assigned_client_id } => {
                    self.handle_accepted(now, limits, assigned_client_id);
                }
                session::Event::Subscribed { code } => {
                    self.subscribe_strikes = 0;
                    if code >= 0x80 {
                        self.events.push_back(Event::SubscriptionRefused { code });
                    }
                    if matches!(self.stage, Stage::Subscribing { .. }) {
                        self.flow();
                    }
                }
                session::Event::Message { topic, payload } => self.handle_message(now, &topic, &payload),
                session::Event::PingAnswered(number) => {
                    self.publisher.handle_ping_answered(now, outbox, number);
                }
                session::Event::Ended(ended) => self.finish_ended(now, outbox, ended),
            }
        }
        if let Some(session) = &mut self.session {
            session.set_answers_due(now, self.publisher.in_flight() > 0);
        }
        self.poll_publisher();
        self.step(now);
    }

    fn handle_accepted(&mut self, now: Instant, limits: Limits, assigned_client_id: Option<String>) {
        self.accepted_at = Some(now);
        self.since = now;
        self.failure = None;
        self.connections += 1;
        self.limits = limits;
        if self.attempt_version == Version::V5 {
            self.will_limits = limits;
        }
        self.reconnect.handle_accepted(self.attempt_version);
        self.publisher.handle_open(self.attempt_version, &limits);
        self.events.push_back(Event::Connected { version: self.attempt_version, limits, assigned_client_id });
        match &self.settings.topics.gateway_status {
            Some(topic) if !self.own.is_paused(now, Class::GatewayStatus) => {
                self.own.set_status(Class::GatewayStatus, topic, self.online.clone());
                self.publisher.hold(true);
                self.stage = Stage::Status { until: now + STEP_WITHIN };
            }
            _ => self.flow(),
        }
    }

    /// Goes on from the stages that wait for an own message to be answered.
    fn step(&mut self, now: Instant) {
        let settled = self.status_is_settled();
        match self.stage {
            Stage::Status { .. } if settled => self.subscribe(now),
            Stage::Closing { .. } if settled => self.say_goodbye(),
            _ => {}
        }
    }

    fn status_is_settled(&self) -> bool {
        self.settings.topics.gateway_status.as_ref().is_none_or(|topic| !self.own.is_unsettled(topic))
    }

    fn subscribe(&mut self, now: Instant) {
        let paused = self.subscribe_paused_until.is_some_and(|until| now < until);
        match (&self.settings.topics.gateway_status, &mut self.session) {
            (Some(topic), Some(session)) if !paused => {
                session.subscribe(now, topic);
                self.stage = Stage::Subscribing { until: now + STEP_WITHIN };
            }
            _ => self.flow(),
        }
    }

    fn flow(&mut self) {
        self.stage = Stage::Flowing;
        self.publisher.hold(false);
        self.more = true;
    }

    fn handle_message(&mut self, now: Instant, topic: &str, payload: &[u8]) {
        if self.settings.topics.gateway_status.as_deref() != Some(topic)
            || !matches!(self.stage, Stage::Subscribing { .. } | Stage::Flowing)
            || !shows_offline(payload)
        {
            return;
        }
        // Somebody who says so again and again is not answered each time at once.
        let wait = Duration::from_secs(1 << self.repaired.min(8));
        let at = self.repaired_at.map_or(now, |last| now.max(last + wait));
        if at > now {
            self.repair_at.get_or_insert(at);
        } else {
            self.repair_status(now);
        }
    }

    fn repair_status(&mut self, now: Instant) {
        if let (Some(topic), true) = (&self.settings.topics.gateway_status, self.is_connected()) {
            self.own.set_status(Class::GatewayStatus, topic, self.online.clone());
            self.repaired = self.repaired.saturating_add(1);
            self.repaired_at = Some(now);
            self.more = true;
            self.events.push_back(Event::StatusRepaired);
        }
    }

    /// If the last words were not heard, the will says them.
    fn say_goodbye(&mut self) {
        let heard = self.status_is_settled();
        if let Some(session) = &mut self.session {
            session.disconnect(!heard);
        }
        self.accepted_at = None;
        self.stage = Stage::Over;
    }

    fn poll_publisher(&mut self) {
        while let Some(event) = self.publisher.poll_event() {
            self.events.push_back(Event::Publisher(event));
        }
    }

    fn lasted(&self, now: Instant) -> Duration {
        self.accepted_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }

    // How a connection ends.

    fn finish_ended(&mut self, now: Instant, outbox: &mut impl Outbox, ended: Ended) {
        match ended {
            Ended::Refused { code: 0x9A, .. } => self.will_limits.retain = false,
            Ended::Refused { code: 0x9B, .. } => self.will_limits.at_least_once = false,
            _ => {}
        }
        let lasted = self.accepted_at.map(|_| self.lasted(now));
        self.finish(now, outbox, Ending::of_session(ended, lasted));
    }

    fn finish_closed(&mut self, now: Instant, outbox: &mut impl Outbox, closed: Closed) {
        // With records in flight and none answered it is rather one of these than a rival.
        let suspicious = self.publisher.in_flight() > 0 && !self.records_answered;
        let lasted = self.accepted_at.map(|_| self.lasted(now));
        self.finish(now, outbox, Ending::of_transport(closed, lasted, suspicious));
    }

    fn finish(&mut self, now: Instant, outbox: &mut impl Outbox, ending: Ending) {
        if matches!(self.stage, Stage::Over | Stage::Waiting | Stage::Connecting) {
            return;
        }
        if ending.by_peer && matches!(self.stage, Stage::Subscribing { .. }) {
            self.subscribe_strikes += 1;
            if self.subscribe_strikes >= 3 {
                self.subscribe_strikes = 0;
                self.subscribe_paused_until = Some(now + SUBSCRIBE_PAUSE);
            }
        }
        self.publisher.handle_closed(now, outbox, &mut self.own, ending.by_peer);
        self.publisher.hold(false);
        self.poll_publisher();
        self.wait(now, ending.outcome, ending.what);
        self.stage = Stage::Over;
    }

    fn wait(&mut self, now: Instant, outcome: Outcome, what: String) {
        let notice = self.reconnect.handle_outcome(now, self.attempt_version, outcome);
        let retry_in = self.reconnect.attempt_at().saturating_duration_since(now);
        if self.accepted_at.take().is_some() {
            self.since = now;
            self.events.push_back(Event::Lost { what: what.clone(), retry_in });
        } else {
            self.events.push_back(Event::Failed { what: what.clone(), retry_in });
        }
        self.failure = Some(what);
        match notice {
            Some(Notice::FellBack) => self.events.push_back(Event::FellBack),
            Some(Notice::ClientIdElsewhere) => {
                self.failure = Some("the client id is probably used elsewhere".to_owned());
                self.events.push_back(Event::ClientIdElsewhere);
            }
            None => {}
        }
        self.stage = Stage::Waiting;
    }
}

fn status_payload(gateway: &str, online: bool) -> Vec<u8> {
    let mut json = format!("{{\"online\":{online},\"gateway\":").into_bytes();
    push_json_string(&mut json, gateway);
    json.push(b'}');
    json
}

/// Whether a status says that the gateway is offline, or says nothing at all.
fn shows_offline(payload: &[u8]) -> bool {
    if payload.is_empty() {
        return true;
    }
    serde_json::from_slice::<serde_json::Value>(payload)
        .is_ok_and(|status| status.get("online") == Some(&serde_json::Value::Bool(false)))
}
