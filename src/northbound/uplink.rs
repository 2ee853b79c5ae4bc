//! The uplink as one core: session, publisher, own messages and reconnect decisions behind one
//! interface.
//!
//! ```text
//! Waiting ──due──> Connecting ──transport──> Opening ──CONNACK──> Status ──> Subscribing ──> Flowing
//!    ^                 │                        │ a better variant first │      ^             │ │
//!    │                 │                        v                        │      └── Draining <┘ │
//!    └─────────────────┴── failed ──────────── Over <──────── lost ──────┴─────────────────────┘
//! ```
//!
//! After CONNACK the gateway's status goes out alone, then the subscription to it, then everything
//! else: a broker that closes the connection over one of these does not bring a record under
//! suspicion. The subscription shows when our own will, published late, stands there instead: then
//! the status is repeated. What goes along with a connection beside readings is judged like a
//! reading, by what happens without it: the will by [`super::fallback`], the status by
//! [`Publisher`], the subscription here. What is at fault is named and left out for an hour.
//!
//! **No stage is without a deadline.** Waiting has the next attempt; Connecting, Opening, Status,
//! Subscribing, Draining and Closing have their own; Flowing has the keep-alive, and the timer of
//! the oldest publish. Over is left at once: the shell closes, whatever the broker does.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::ending::Ending;
use super::fallback::{AttemptFailure, Fallback, OnAccepted, Variant};
use super::outbox::Outbox;
use super::own::{Class, Own};
use super::publication::push_json_string;
use super::publisher::{self, ConnectionEnd, HeldRecord, Hold, Publisher, Skip};
use super::reason_code;
use super::reconnect::{Lost, Outcome, QUICK, Reconnect};
use super::session::{self, Ended, Limits, Opening, Session, Will};
use super::settings::Settings;
use super::wire::{Acknowledgement, Version};
use crate::clock::Moment;
use crate::message::{Content, Lane, RecordId};

pub use super::ending::Closed;

/// What making a transport may take, over all addresses; the shell has its own, shorter times for
/// each step.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(120);
/// How long a step of making the connection ready may take before it goes on without it.
const STEP_WITHIN: Duration = Duration::from_secs(10);
/// How long the goodbye may take.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);
/// So many connections that the broker closed, and nothing shows why, are worth a warning,
pub const CLOSES: usize = 4;
/// within so long.
const CLOSES_WITHIN: Duration = Duration::from_secs(600);
/// A subscription the broker closes over is left out for so long.
const SUBSCRIPTION_LEFT_OUT: Duration = Duration::from_secs(3600);
/// So many closes over the subscription, others standing without it.
const SUBSCRIPTION_STRIKES: u8 = 2;
/// So many closes in a row are searched quickly although no record has come under suspicion.
const BLIND_SEARCHES: u32 = 8;
/// Suspects and topics named in a status.
const NAMED_MAX: usize = 16;

/// What the uplink reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// CONNACK with success, and the connection is used.
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
    /// The broker took this variant; before it is used, a better one is tried once more.
    Confirming {
        /// What it took.
        accepted: Variant,
    },
    /// From now on MQTT 3.1.1 is spoken; 5 is tried again at every reconnect.
    FellBack {
        /// What 5 failed with.
        why: String,
    },
    /// From now on and for an hour CONNECT has no will.
    WillLeftOut {
        /// What it failed with.
        why: String,
    },
    /// The broker closed the connection so often within 10 min, and nothing shows why.
    ClosedAgain {
        /// How often.
        times: usize,
    },
    /// The client id is probably used elsewhere: attempts are minutes apart.
    ClientIdElsewhere,
    /// Our own status topic showed us offline; it was set right.
    StatusRepaired,
    /// The broker does not let us read our own status topic.
    SubscriptionRefused {
        /// The reason code.
        code: u8,
    },
    /// The broker closes the connection over the subscription to our own status: it is left out for
    /// an hour.
    SubscriptionLeftOut,
    /// Of the publisher.
    Publisher(publisher::Event),
}

/// The uplink as `tombolo status` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Whether CONNACK came and the connection stands.
    pub connected: bool,
    /// Since when it is so; before the first connection, since the start.
    pub since: Instant,
    /// The protocol spoken, or spoken last.
    pub version: Option<Version>,
    /// Since when it is this one, over reconnects.
    pub version_since: Option<Instant>,
    /// Why it is not 5, where 5 would be spoken.
    pub version_why: Option<String>,
    /// What the broker allows.
    pub limits: Option<Limits>,
    /// The window in force.
    pub window: u16,
    /// Publishes not answered.
    pub in_flight: usize,
    /// Since when the oldest of them waits.
    pub waiting_since: Option<Instant>,
    /// The last failure or loss, until a connection stands.
    pub failure: Option<String>,
    /// When the next attempt is due.
    pub attempt_at: Option<Instant>,
    /// By [`Lane::index`]: until when a rejected record that finds no room stops it.
    pub stopped_until: [Option<Instant>; 2],
    /// By [`Lane::index`]: records that the broker has and that stay in the lane behind one that is
    /// not decided.
    pub delivered_behind: [u64; 2],
    /// By [`Lane::index`]: records held back, suspected or on a topic that is.
    pub held_back: [usize; 2],
    /// How often the broker closed a connection in the last 10 min, and nothing showed why.
    pub closes: usize,
    /// When the broker took a reading last, over all connections.
    pub taken_at: Option<Instant>,
    /// By [`Lane::index`]: the record that must be decided before the lane takes more.
    pub blocked_by: [Option<RecordId>; 2],
    /// Since when no reading was taken although the broker refused some, and until when all wait.
    pub nothing_taken: Option<(Instant, Option<Instant>)>,
    /// Records suspected.
    pub suspect_count: usize,
    /// Some of them.
    pub suspects: Vec<HeldRecord>,
    /// What is left out because the broker refuses it or closes over it, in words.
    pub left_out: Vec<String>,
    /// Publishes a second at most, and whether that is because the broker complained.
    pub rate_limit: Option<(f64, bool)>,
    /// Connections that stood.
    pub connections: u64,
    /// Numbers since the start.
    pub counters: publisher::Counters,
    /// Readings of `qos = 0` rules dropped.
    pub volatile_dropped: u64,
}

/// Where the transport leads, as the shell found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dialed {
    /// The other end.
    pub peer: Option<SocketAddr>,
    /// Addresses of the broker that were not tried and did not fail lately.
    pub untried: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No transport; an attempt is due at the time [`Reconnect`] says.
    Waiting,
    /// The shell is making a transport.
    Connecting { until: Instant },
    /// CONNECT is sent.
    Opening,
    /// The status is sent, its answer awaited.
    Status { until: Instant },
    /// The subscription is sent, its answer awaited.
    Subscribing { until: Instant },
    /// All flows.
    Flowing,
    /// Nothing more is sent until all is answered; then the subscription is tried once more.
    Draining { until: Instant },
    /// The last words are said.
    Closing { until: Instant },
    /// Over since then; the shell writes what is left and closes.
    Over { since: Instant },
}

/// The subscription while it is suspected of bringing the connection down.
#[derive(Clone, Copy, Debug, Default)]
struct SubscriptionDoubt {
    strikes: u8,
    /// Left out until the connection has shown that it stands without it; then tried once more.
    until_it_stands: bool,
    left_out_until: Option<Instant>,
    refused: Option<u8>,
}

/// The uplink without its I/O.
pub struct Uplink {
    settings: Settings,
    reconnect: Reconnect,
    fallback: Fallback,
    publisher: Publisher,
    own: Own,
    session: Option<Session>,
    stage: Stage,
    attempt: Variant,
    dialed: Dialed,
    /// Addresses that failed behind TCP since the last connection that lasted.
    avoid: Vec<SocketAddr>,
    /// Attempts in a row that went on to the next address at once.
    hops: usize,
    /// When the broker closed a connection and nothing showed why; at most those of
    /// [`CLOSES_WITHIN`].
    closes: VecDeque<Instant>,
    limits: Limits,
    /// What the broker said of QoS and retain when it refused our will.
    will_limits: Limits,
    accepted_at: Option<Instant>,
    /// The protocol spoken last, and since when.
    spoken: Option<(Version, Instant)>,
    blind_searches: u32,
    subscription: SubscriptionDoubt,
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
    /// The first attempt is due at once. The waits between attempts follow from the gateway's id.
    pub fn new(now: Instant, settings: Settings) -> Uplink {
        let gateway = settings.gateway.as_str();
        let fallback = Fallback::new(settings.protocol, settings.topics.gateway_status.is_some());
        Uplink {
            reconnect: Reconnect::new(now, gateway),
            publisher: Publisher::new(now, &settings),
            own: Own::default(),
            session: None,
            stage: Stage::Waiting,
            attempt: fallback.variant(),
            fallback,
            dialed: Dialed::default(),
            avoid: Vec::new(),
            hops: 0,
            closes: VecDeque::new(),
            limits: Limits::default(),
            will_limits: Limits::default(),
            accepted_at: None,
            spoken: None,
            blind_searches: 0,
            subscription: SubscriptionDoubt::default(),
            repair_at: None,
            repaired: 0,
            repaired_at: None,
            online: status_payload(gateway, true),
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
            self.attempt = self.fallback.variant();
            self.dialed = Dialed::default();
            self.stage = Stage::Connecting { until: now + CONNECT_WITHIN };
        }
        due
    }

    /// Addresses to be tried last: they failed behind TCP.
    pub fn avoid(&self) -> &[SocketAddr] {
        &self.avoid
    }

    /// No transport came about. `unwelcome`: the broker refuses who we are.
    pub fn handle_connect_failed(&mut self, now: Instant, what: String, unwelcome: bool) {
        self.fallback.handle_failed(now, AttemptFailure::Nothing, &what);
        self.avoid.clear();
        let outcome = if unwelcome { Outcome::CredentialsRefused } else { Outcome::Unreachable };
        self.wait(now, outcome, what);
        self.stage = Stage::Waiting;
    }

    /// The transport stands: CONNECT is to be written.
    pub fn handle_connected(&mut self, now: Instant, password: Option<Vec<u8>>, dialed: Dialed) {
        let topic = self.settings.topics.gateway_status.clone().filter(|_| self.attempt.will);
        let will = topic.map(|topic| Will {
            topic,
            payload: status_payload(self.settings.gateway.as_str(), false),
            at_least_once: self.will_limits.at_least_once,
            retain: self.will_limits.retain,
        });
        let opening = Opening {
            version: self.attempt.version,
            client_id: self.settings.client_id.clone(),
            keep_alive: self.settings.keep_alive,
            username: self.settings.username.clone(),
            password,
            will,
        };
        let mut session = Session::new(now, &opening);
        self.stage = Stage::Opening;
        if self.stopping {
            session.disconnect(false);
            self.stage = Stage::Over { since: now };
        }
        self.session = Some(session);
        self.dialed = dialed;
        self.accepted_at = None;
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
            Stage::Connecting { .. } => {
                let what = match closed {
                    Closed::ByPeer => "the broker closed the connection".to_owned(),
                    Closed::Broken(what) | Closed::Unwelcome(what) | Closed::Failed(what) => what,
                };
                self.handle_connect_failed(moment.now, what, false);
                return;
            }
            // After a goodbye what was not answered is the next connection's, or the next uplink's.
            Stage::Over { .. } if self.publisher.is_open() => {
                self.publisher.handle_closed(moment.now, outbox, &mut self.own, ConnectionEnd::Otherwise);
            }
            Stage::Over { .. } => {}
            _ => self.finish_closed(moment.now, outbox, closed),
        }
        self.session = None;
        self.stage = Stage::Waiting;
        self.repair_at = None;
    }

    /// Acts on deadlines that passed.
    pub fn handle_timeout(&mut self, moment: &Moment, outbox: &mut impl Outbox) {
        let now = moment.now;
        if let Some(session) = &mut self.session {
            session.handle_timeout(now);
            self.handle_session(moment, outbox);
        }
        if self.is_connected() && self.publisher.overdue_at().is_some_and(|at| now >= at) {
            let since = self.publisher.waiting_since().unwrap_or(now);
            let ending = Ending::unanswered(self.lasted(now), now.saturating_duration_since(since));
            if let Some(session) = &mut self.session {
                session.disconnect(false); // the will is not for this
            }
            self.finish(now, outbox, ending);
        }
        match self.stage {
            Stage::Connecting { until } if now >= until => {
                let what = format!("connecting takes more than {} s", CONNECT_WITHIN.as_secs());
                self.handle_connect_failed(now, what, false);
            }
            Stage::Status { until } if now >= until => self.subscribe(now),
            Stage::Subscribing { until } if now >= until => self.flow(),
            Stage::Draining { until } if now >= until => {
                self.subscription.until_it_stands = false; // with the next connection
                self.flow();
            }
            Stage::Closing { until } if now >= until => self.say_goodbye(now),
            Stage::Flowing if self.subscription_due_at().is_some_and(|at| now >= at) => {
                self.subscription.left_out_until = None;
                self.publisher.hold(Hold::Everything);
                self.stage = Stage::Draining { until: now + STEP_WITHIN };
                self.step(now);
            }
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
        matches!(self.stage, Stage::Over { .. })
    }

    /// Whether a transport is still wanted after [`Uplink::poll_connect`].
    pub fn is_connecting(&self) -> bool {
        matches!(self.stage, Stage::Connecting { .. })
    }

    /// Whether there is more to publish than one fill takes, and room for it.
    pub fn has_more(&self) -> bool {
        self.more
    }

    /// Whether every place of the window is taken: the next answer lets something go.
    pub fn is_window_full(&self) -> bool {
        self.publisher.is_window_full()
    }

    /// When a subscription that was left out is to be tried on this connection.
    fn subscription_due_at(&self) -> Option<Instant> {
        let stands = self.subscription.until_it_stands.then(|| self.publisher.stands_at());
        stands.into_iter().chain(self.subscription.left_out_until).max()
    }

    /// The next deadline: of an attempt, of the connection, or to fill again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let stage = match self.stage {
            Stage::Waiting => return (!self.stopping).then(|| self.reconnect.attempt_at()),
            Stage::Over { since } => return Some(since),
            Stage::Connecting { until }
            | Stage::Status { until }
            | Stage::Subscribing { until }
            | Stage::Draining { until }
            | Stage::Closing { until } => Some(until),
            Stage::Flowing => self.subscription_due_at(),
            Stage::Opening => None,
        };
        let session = self.session.as_ref().and_then(Session::poll_timeout);
        let overdue = self.publisher.overdue_at();
        // Nothing is appended while so much waits to be written.
        let fills = self.stage == Stage::Flowing
            && self.session.as_ref().is_some_and(|session| session.outgoing_len() < publisher::FILL_BYTES);
        let publisher = fills.then(|| self.publisher.poll_timeout()).flatten();
        let repair = self.repair_at.filter(|_| self.is_connected());
        [stage, session, overdue, publisher, repair].into_iter().flatten().min()
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

    /// Sets a record aside because its owner says so.
    pub fn skip(&mut self, now: Instant, outbox: &mut impl Outbox, id: RecordId) -> Skip {
        let found = self.publisher.skip(now, outbox, id);
        self.poll_publisher();
        found
    }

    /// Says what the gateway's status is while online: a JSON object that has `"online":true`.
    pub fn set_gateway_status(&mut self, json: Vec<u8>) {
        self.online = json;
        if let (Some(topic), true, false) =
            (&self.settings.topics.gateway_status, self.is_connected(), self.stopping)
        {
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
            self.publisher.hold(Hold::AllButOwn);
            if let Some(topic) = &self.settings.topics.gateway_status {
                let offline = status_payload(self.settings.gateway.as_str(), false);
                self.own.set_status(Class::GatewayStatus, topic, offline);
            }
        } else if let Some(session) = &mut self.session {
            session.disconnect(false);
            self.stage = Stage::Over { since: now };
        }
    }

    /// Publishes the status anew, so that the connection shows whether it works. Whether there is
    /// one to show.
    pub fn begin_check(&mut self) -> bool {
        match (&self.settings.topics.gateway_status, self.stage) {
            (Some(topic), Stage::Flowing) if !self.stopping => {
                self.own.set_status(Class::GatewayStatus, topic, self.online.clone());
                self.own.is_unsettled(topic)
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

    /// How it stands at `now`.
    pub fn status(&self, now: Instant) -> Status {
        let connected = self.is_connected();
        let settled = self.fallback.settled();
        Status {
            connected,
            since: self.since,
            version: self.spoken.map(|(version, _)| version),
            version_since: self.spoken.map(|(_, since)| since),
            version_why: settled.and_then(|settled| settled.why_version.clone()),
            limits: connected.then_some(self.limits),
            window: self.publisher.window(),
            in_flight: self.publisher.in_flight(),
            waiting_since: self.publisher.waiting_since(),
            failure: self.failure.clone(),
            attempt_at: (self.stage == Stage::Waiting && !self.stopping).then(|| self.reconnect.attempt_at()),
            stopped_until: Lane::ALL.map(|lane| self.publisher.stopped_until(lane)),
            delivered_behind: Lane::ALL.map(|lane| self.publisher.delivered_behind(lane)),
            held_back: Lane::ALL.map(|lane| self.publisher.held_back(lane)),
            nothing_taken: self.publisher.nothing_taken(now),
            closes: self.closes(now),
            taken_at: self.publisher.taken_at(),
            blocked_by: Lane::ALL.map(|lane| self.publisher.blocked_by(lane)),
            suspect_count: self.publisher.suspect_count(),
            suspects: self.publisher.suspects(NAMED_MAX),
            left_out: self.left_out(now),
            rate_limit: self.publisher.rate_limit(),
            connections: self.connections,
            counters: self.publisher.counters(),
            volatile_dropped: self.publisher.volatile_dropped(),
        }
    }

    fn left_out(&self, now: Instant) -> Vec<String> {
        let mut left_out = Vec::new();
        if let Some(why) = self.fallback.settled().and_then(|settled| settled.why_will.as_deref()) {
            left_out.push(format!("the will, because of which {why}"));
        }
        let topic = self.settings.topics.gateway_status.as_deref().unwrap_or_default();
        if self.subscription.left_out_until.is_some_and(|until| now < until) {
            left_out.push(format!("the subscription to {topic}: the broker closes the connection over it"));
        } else if let Some(code) = self.subscription.refused {
            let text = reason_code::text(code);
            left_out
                .push(format!("the subscription to {topic}: the broker refuses it: {text} (0x{code:02x})"));
        }
        left_out.extend(self.own.paused(now).map(|class| {
            format!(
                "messages of [topics] {}: the broker refuses them, or closes the connection over them",
                class.key()
            )
        }));
        let refused = self.own.refused(NAMED_MAX);
        left_out.extend(refused.iter().map(|topic| format!("messages on {topic}: the broker refuses them")));
        left_out
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
                    self.subscription = SubscriptionDoubt::default();
                    if reason_code::is_refusal(code) {
                        self.subscription.refused = Some(code);
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
        if self.attempt.version == Version::V5 {
            self.will_limits = limits;
        }
        let before = self.fallback.settled().cloned();
        if self.fallback.handle_accepted(now) == OnAccepted::TryBetter {
            self.events.push_back(Event::Confirming { accepted: self.attempt });
            if let Some(session) = &mut self.session {
                session.disconnect(false);
            }
            self.reconnect.handle_outcome(now, Outcome::TryAnother);
            self.stage = Stage::Over { since: now };
            return;
        }
        if let Some(settled) = self.fallback.settled().filter(|settled| before.as_ref() != Some(settled)) {
            if let Some(why) = settled.why_version.clone() {
                self.events.push_back(Event::FellBack { why });
            }
            if let Some(why) = settled.why_will.clone() {
                self.events.push_back(Event::WillLeftOut { why });
            }
        }
        let version = self.attempt.version;
        self.accepted_at = Some(now);
        self.since = now;
        if self.spoken.is_none_or(|(spoken, _)| spoken != version) {
            self.spoken = Some((version, now));
        }
        self.failure = None;
        self.connections += 1;
        self.limits = limits;
        self.hops = 0;
        self.reconnect.handle_accepted();
        self.publisher.handle_open(now, version, &limits);
        self.events.push_back(Event::Connected { version, limits, assigned_client_id });
        if let Some(topic) = &self.settings.topics.gateway_status {
            self.own.set_status(Class::GatewayStatus, topic, self.online.clone());
            if !self.own.is_paused(now, Class::GatewayStatus) && !self.publisher.holds_own() {
                self.publisher.hold(Hold::AllButOwn);
                self.stage = Stage::Status { until: now + STEP_WITHIN };
                return;
            }
        }
        self.subscribe(now);
    }

    /// Goes on from the stages that wait for something to be answered.
    fn step(&mut self, now: Instant) {
        match self.stage {
            Stage::Status { .. } if self.status_is_settled() => self.subscribe(now),
            Stage::Closing { .. } if self.status_is_settled() => self.say_goodbye(now),
            Stage::Draining { .. } if self.publisher.in_flight() == 0 => {
                self.subscription.until_it_stands = false;
                self.subscribe(now);
            }
            _ => {}
        }
    }

    fn status_is_settled(&self) -> bool {
        self.settings.topics.gateway_status.as_ref().is_none_or(|topic| !self.own.is_unsettled(topic))
    }

    fn subscribe(&mut self, now: Instant) {
        let doubt = &self.subscription;
        let left_out = doubt.until_it_stands || doubt.left_out_until.is_some_and(|until| now < until);
        match (&self.settings.topics.gateway_status, &mut self.session) {
            (Some(topic), Some(session)) if !left_out => {
                session.subscribe(now, topic);
                self.publisher.hold(Hold::Everything);
                self.stage = Stage::Subscribing { until: now + STEP_WITHIN };
            }
            _ => self.flow(),
        }
    }

    fn flow(&mut self) {
        self.stage = Stage::Flowing;
        self.publisher.hold(Hold::Nothing);
        self.more = true;
    }

    fn handle_message(&mut self, now: Instant, topic: &str, payload: &[u8]) {
        if self.settings.topics.gateway_status.as_deref() != Some(topic)
            || !matches!(self.stage, Stage::Subscribing { .. } | Stage::Flowing | Stage::Draining { .. })
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
        if let (Some(topic), true, false) =
            (&self.settings.topics.gateway_status, self.is_connected(), self.stopping)
        {
            self.own.set_status(Class::GatewayStatus, topic, self.online.clone());
            self.repaired = self.repaired.saturating_add(1);
            self.repaired_at = Some(now);
            self.more = true;
            self.events.push_back(Event::StatusRepaired);
        }
    }

    /// If the last words were not heard, the will says them.
    fn say_goodbye(&mut self, now: Instant) {
        let topic = self.settings.topics.gateway_status.as_deref();
        let heard = topic.is_none_or(|topic| !self.own.is_waiting(topic));
        if let Some(session) = &mut self.session {
            session.disconnect(!heard);
        }
        self.accepted_at = None;
        self.stage = Stage::Over { since: now };
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
        let lasted = self.accepted_at.map(|_| self.lasted(now));
        let refused = match &ended {
            Ended::Refused(answer) => answer.code,
            _ => reason_code::SUCCESS,
        };
        let silent = matches!(ended, Ended::Silent);
        let mut ending = Ending::of_session(ended, lasted);
        // A broker whose connection hangs over one record answers no PINGREQ either. A link that
        // died looks the same, but had answers to readings before.
        if silent && self.publisher.hangs_on_a_record(now) {
            ending.gone = ConnectionEnd::Unanswered;
        }
        // A smaller will may do.
        let smaller = match refused {
            reason_code::RETAIN_NOT_SUPPORTED => std::mem::take(&mut self.will_limits.retain),
            reason_code::QOS_NOT_SUPPORTED => std::mem::take(&mut self.will_limits.at_least_once),
            _ => false,
        };
        if smaller {
            (ending.outcome, ending.failure) = (Outcome::TryAnother, AttemptFailure::Nothing);
        }
        self.finish(now, outbox, ending);
    }

    fn finish_closed(&mut self, now: Instant, outbox: &mut impl Outbox, closed: Closed) {
        // With records in flight and none answered it is rather one of these than a rival.
        let suspicious = self.publisher.in_flight() > 0 && !self.publisher.has_progress(now);
        let lasted = self.accepted_at.map(|_| self.lasted(now));
        self.finish(now, outbox, Ending::of_transport(closed, lasted, suspicious));
    }

    fn finish(&mut self, now: Instant, outbox: &mut impl Outbox, ending: Ending) {
        if matches!(self.stage, Stage::Over { .. } | Stage::Waiting | Stage::Connecting { .. }) {
            return;
        }
        let stage = self.stage;
        let Ending { outcome, gone, failure, what } = ending;
        let aftermath = self.publisher.handle_closed(now, outbox, &mut self.own, gone);
        self.publisher.hold(Hold::Nothing);
        self.poll_publisher();
        let outcome = if self.is_connected() {
            let subscription = gone == ConnectionEnd::Closed && matches!(stage, Stage::Subscribing { .. });
            if subscription {
                self.strike_subscription(now);
            }
            self.fallback.handle_lost(now);
            self.outcome_of_loss(now, outcome, gone, aftermath, subscription)
        } else {
            self.outcome_of_failure(now, outcome, failure, &what)
        };
        self.wait(now, outcome, what);
        self.stage = Stage::Over { since: now };
    }

    /// The broker closed the connection over the subscription, or so it seems.
    fn strike_subscription(&mut self, now: Instant) {
        let doubt = &mut self.subscription;
        doubt.strikes += 1;
        doubt.until_it_stands = true;
        if doubt.strikes >= SUBSCRIPTION_STRIKES {
            *doubt = SubscriptionDoubt {
                left_out_until: Some(now + SUBSCRIPTION_LEFT_OUT),
                ..SubscriptionDoubt::default()
            };
            self.events.push_back(Event::SubscriptionLeftOut);
        }
    }

    /// The broker closed a connection that stood, and nothing shows why.
    fn note_close(&mut self, now: Instant) {
        let lately = self.closes(now);
        self.closes.drain(..self.closes.len() - lately);
        self.closes.push_back(now);
        if lately + 1 == CLOSES {
            self.events.push_back(Event::ClosedAgain { times: CLOSES });
        }
    }

    /// How often the broker closed the connection lately, and nothing showed why.
    fn closes(&self, now: Instant) -> usize {
        self.closes.iter().filter(|at| now.saturating_duration_since(**at) < CLOSES_WITHIN).count()
    }

    /// Of a connection that stood.
    fn outcome_of_loss(
        &mut self,
        now: Instant,
        outcome: Outcome,
        gone: ConnectionEnd,
        aftermath: publisher::Aftermath,
        subscription: bool,
    ) -> Outcome {
        let Outcome::Lost { lasted, how } = outcome else { return outcome };
        if lasted >= QUICK {
            self.avoid.clear();
            self.blind_searches = 0;
        } else {
            self.avoid_peer();
        }
        if matches!(how, Lost::TakenOver | Lost::Away) {
            return outcome;
        }
        let suspicious =
            gone == ConnectionEnd::Unanswered || (aftermath.suspicious && gone != ConnectionEnd::Otherwise);
        // What goes along with a connection is left out after its second strike: that is soon found
        // out. A suspect that was tried has its own back-off; what comes meanwhile does not wait
        // for that.
        let search = suspicious && (aftermath.progress || aftermath.own || aftermath.trial) || subscription;
        if !search && !aftermath.suspicious && gone == ConnectionEnd::Closed {
            self.note_close(now);
        }
        if !search {
            // Where readings were answered it is rather a broker, or what stands before it, that
            // does not last than a rival.
            let how = if aftermath.suspicious || aftermath.progress { Lost::Explained } else { how };
            return Outcome::Lost { lasted, how };
        }
        if self.publisher.suspect_count() > 0 {
            self.blind_searches = 0;
        } else {
            self.blind_searches += 1;
        }
        let how = if self.blind_searches > BLIND_SEARCHES { Lost::Closed } else { Lost::Search };
        Outcome::Lost { lasted, how }
    }

    /// Of an attempt that had no CONNACK, or a CONNACK that refuses.
    fn outcome_of_failure(
        &mut self,
        now: Instant,
        outcome: Outcome,
        failure: AttemptFailure,
        what: &str,
    ) -> Outcome {
        let of_the_address = matches!(failure, AttemptFailure::Closed | AttemptFailure::Nothing);
        if of_the_address && !matches!(outcome, Outcome::CredentialsRefused | Outcome::TryAnother) {
            // A name whose addresses change each time it is asked for never runs out of them.
            if self.dialed.untried > 0
                && self.hops < super::address::ADDRESSES_MAX
                && outcome != Outcome::Away
            {
                self.hops += 1;
                self.avoid_peer();
                return Outcome::TryAnother;
            }
            self.hops = 0;
            self.avoid.clear(); // all were tried: from the first again
        }
        if self.fallback.handle_failed(now, failure, what) { Outcome::TryAnother } else { outcome }
    }

    fn avoid_peer(&mut self) {
        if let Some(peer) = self.dialed.peer.filter(|peer| !self.avoid.contains(peer)) {
            self.avoid.push(peer);
            // As many as are tried at once; more than these have long passed.
            if self.avoid.len() > super::address::ADDRESSES_MAX {
                self.avoid.remove(0);
            }
        }
    }

    fn wait(&mut self, now: Instant, outcome: Outcome, what: String) {
        let rival = self.reconnect.handle_outcome(now, outcome);
        let retry_in = self.reconnect.attempt_at().saturating_duration_since(now);
        if self.accepted_at.take().is_some() {
            self.since = now;
            self.events.push_back(Event::Lost { what: what.clone(), retry_in });
        } else {
            self.events.push_back(Event::Failed { what: what.clone(), retry_in });
        }
        self.failure = Some(what);
        if rival {
            self.failure = Some("the client id is probably used elsewhere".to_owned());
            self.events.push_back(Event::ClientIdElsewhere);
        }
    }
}

pub(super) fn status_payload(gateway: &str, online: bool) -> Vec<u8> {
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
