//! The uplink as one core: session, publisher, own messages and reconnect decisions behind one
//! interface.
//!
//! | file | what it decides |
//! |---|---|
//! | `stage` | how far a connection has come; none of its stages is without a deadline |
//! | `attempts` | how, where and when the next connection is tried |
//! | `gateway_status` | what the gateway says of itself, and that it is set right |
//! | `subscription` | whether the subscription to that is left out |
//! | `echo` | whether what is published there comes back |
//! | `hint` | the subscription to update hints |
//! | `commands` | the subscription to commands, and what came by it |
//! | `apart` | what is published for `tombolo check`, and its connections beside this one |
//! | `trial` | another client certificate is tried, and its place taken by the present one again |
//! | `password_life` | when the connection is replaced because its password expires |
//! | `event`, `status` | what is reported |
//!
//! After CONNACK the gateway's status goes out alone. Then the subscriptions follow, one after the
//! other, and readings beside them: these wait for no SUBACK. A close before a SUBACK is about the
//! subscription where nothing else was in flight; where something was, nobody is blamed, and on the
//! next connection readings wait for its SUBACKs, but not for long. The subscription shows when our
//! own will, published late, stands there instead: then the status is repeated. What goes along
//! with a connection beside readings is judged like a reading, by what happens without it: the will
//! by [`super::fallback`], the status by [`Publisher`], the subscription here. What is at fault is
//! named and left out for an hour.

mod apart;
mod attempts;
mod commands;
mod echo;
mod event;
mod gateway_status;
mod hint;
mod password_life;
mod stage;
mod status;
mod subscription;
mod trial;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

pub use self::apart::ReadingAnswer;
pub use self::attempts::{CLOSES, Dialed};
pub use self::commands::{Inbound, Unsubscribed};
pub use self::event::{Event, used_elsewhere};
pub(super) use self::gateway_status::payload as status_payload;
pub use self::status::{OWN_TOO_LARGE, Status};
pub use self::trial::{Refusals, TRIAL_WITHIN, TrialVerdict};
pub(super) use self::trial::{of_session, of_transport};
pub use super::ending::Closed;

use self::apart::{Beside, ReadingTrial};
use self::attempts::Attempts;
use self::commands::Commands;
use self::echo::Echo;
use self::gateway_status::GatewayStatus;
use self::hint::UpdateHint;
use self::password_life::PasswordLife;
use self::stage::Stage;
use self::subscription::SubscriptionDoubt;
use self::trial::Trial;
use super::budget::Budget;
use super::ending::{Ending, without_advice};
use super::fallback::{AttemptFailure, OnAccepted, Variant};
use super::inbound::Answer;
use super::inbound::InboundMessage;
use super::outbox::Outbox;
use super::own::{Class, Own};
use super::publisher::{self, ConnectionEnd, Hold, Publisher, Skip};
use super::reason_code;
use super::reconnect::{Lost, Outcome};
use super::session::{self, APART_ID, Ended, Limits, Opening, Session, Will};
use super::settings::Settings;
use super::settled::Settled;
use super::taken::TakenTopic;
use super::wire::{Acknowledgement, Version};
use crate::clock::Moment;
use crate::message::{Content, RecordId};

/// What making a transport may take, over all addresses; the shell has its own, shorter times for
/// each step.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(120);
/// How long a step of making the connection ready may take before it goes on without it.
const STEP_WITHIN: Duration = Duration::from_secs(10);
/// The numbers of the subscriptions of a session: to the gateway's status, and to update hints.
const STATUS: u16 = 0;
const HINT: u16 = 1;
/// How long readings wait for SUBACKs where it has to be found out what the broker closes over.
const ALONE_WITHIN: Duration = Duration::from_secs(2);
/// How long the goodbye may take.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);
/// While so many bytes for the broker wait to be sent, nothing of it is read: a few records, or the
/// answers to 250,000 messages.
const UNSENT_MAX: usize = 1 << 20;

/// The uplink without its I/O.
pub struct Uplink {
    settings: Settings,
    attempts: Attempts,
    publisher: Publisher,
    own: Own,
    gateway_status: GatewayStatus,
    subscription: SubscriptionDoubt,
    echo: Echo,
    hint: UpdateHint,
    commands: Commands,
    /// On this connection.
    are_commands_subscribed: bool,
    session_present: bool,
    /// A connection was closed with a subscription and readings in flight: on the next one readings
    /// wait for it, until then.
    subscribes_alone: bool,
    alone_until: Option<Instant>,
    /// Readings acknowledged when the last subscription was sent.
    acknowledged_before: u64,
    /// On this connection.
    is_hint_subscribed: bool,
    trial: Trial,
    /// The last attempt without a trial was refused for who we are.
    unwelcome: bool,
    refusals: Refusals,
    session: Option<Session>,
    stage: Stage,
    limits: Limits,
    accepted_at: Option<Instant>,
    /// Until when an end of the connection is taken for our own doing: another one was made under
    /// the same client id.
    take_over_until: Option<Instant>,
    /// What is published for a check, and what a check does beside this connection.
    reading_trial: ReadingTrial,
    /// One was not answered in time on this connection, and still has its packet identifier.
    is_reading_owed: bool,
    beside: Beside,
    /// Of the password of this connection, if it expires.
    password_life: Option<PasswordLife>,
    /// The protocol spoken last, and since when.
    spoken: Option<(Version, Instant)>,
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
        Uplink {
            attempts: Attempts::new(now, &settings),
            publisher: Publisher::new(now, &settings),
            own: Own::default(),
            gateway_status: GatewayStatus::new(
                settings.gateway.as_str(),
                settings.topics.gateway_status.clone(),
            ),
            subscription: SubscriptionDoubt::default(),
            echo: Echo::default(),
            hint: UpdateHint::new(settings.topics.update_hint.clone()),
            commands: Commands::new(settings.commands.clone()),
            are_commands_subscribed: false,
            session_present: false,
            subscribes_alone: false,
            alone_until: None,
            acknowledged_before: 0,
            is_hint_subscribed: false,
            trial: Trial::default(),
            unwelcome: false,
            refusals: Refusals::default(),
            session: None,
            stage: Stage::Waiting,
            limits: Limits::default(),
            accepted_at: None,
            take_over_until: None,
            reading_trial: ReadingTrial::default(),
            is_reading_owed: false,
            beside: Beside::default(),
            password_life: None,
            spoken: None,
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

    /// Counts what is published there, and publishes no more than it says.
    pub fn set_budget(&mut self, budget: Rc<RefCell<Budget>>) {
        self.publisher.set_budget(budget);
    }

    /// What it was told.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Says what is known of newer firmware, retained: JSON.
    pub fn set_update_status(&mut self, json: Vec<u8>) {
        if let Some(topic) = &self.settings.topics.update {
            self.own.set_status(Class::Update, topic, json);
            self.more = true;
        }
    }

    /// Whether a hint to look for newer firmware came since this was asked last.
    pub fn take_update_hint(&mut self) -> bool {
        self.hint.take()
    }

    /// The next thing that the broker has for devices.
    pub fn poll_inbound(&mut self) -> Option<Inbound> {
        self.commands.poll()
    }

    /// Whether more may be read from the broker: what it has for devices waits for the daemon no
    /// more than [`commands::INBOX_MAX`] messages long, nor do the answers for the broker.
    pub fn may_read(&self) -> bool {
        let unsent = self.session.as_ref().map_or(0, Session::outgoing_len);
        !self.commands.is_full() && unsent < UNSENT_MAX
    }

    /// Whether [`Uplink::poll_inbound`] has something.
    pub fn has_inbound(&self) -> bool {
        self.commands.has_some()
    }

    /// Messages of QoS 0 for devices that were dropped for want of room, since the start.
    pub fn inbound_dropped(&self) -> u64 {
        self.commands.dropped()
    }

    /// Answers a message for devices, or its PUBREL, that came by this connection; on another one
    /// it means nothing, and comes again.
    pub fn answer_inbound(&mut self, now: Instant, connection: u64, answer: Answer, packet_id: u16) {
        let Some(session) = self.session.as_mut().filter(|_| connection == self.connections) else { return };
        session.answer(now, answer, packet_id);
        if answer == Answer::Puback {
            self.commands.note_puback(packet_id);
            if self.commands.wants_ping() {
                self.commands.handle_ping(session.ping(now));
            }
        }
    }

    // What the shell asks and tells, in the order of a connection's life.

    /// Whether a transport is to be made now. The stage is then `Connecting`.
    pub fn poll_connect(&mut self, now: Instant) -> bool {
        let due = self.stage == Stage::Waiting && !self.stopping && now >= self.attempts.due_at();
        if due {
            self.attempts.begin();
            let until = self.trial.begin(now).unwrap_or(now + CONNECT_WITHIN);
            self.stage = Stage::Connecting { until };
        }
        due
    }

    /// Addresses to be tried last: they failed behind TCP.
    pub fn avoid(&self) -> &[SocketAddr] {
        self.attempts.avoid()
    }

    /// Tries another client certificate, PEM, and its key, in a connection in place of the present
    /// one; [`Uplink::poll_trial`] says what came of it. One that waits or runs is replaced.
    pub fn begin_trial(&mut self, now: Instant, identity: (PathBuf, PathBuf)) {
        self.trial.want(identity);
        match self.stage {
            Stage::Flowing => self.leave(now),
            Stage::Waiting => self.attempts.reconnect.retry_now(now),
            // Once it stands, or is gone.
            _ => {}
        }
    }

    /// Connects with these from the next attempt on: a certificate, PEM, and its key.
    pub fn set_identity(&mut self, identity: (PathBuf, PathBuf)) {
        if let Some(tls) = &mut self.settings.tls {
            (tls.identity, tls.key_password) = (Some(identity), None);
        }
    }

    /// Reads other files from the next attempt on; nothing else of the settings is another.
    pub fn set_files(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// The certificate and key of the attempt under way, where it is one of a trial.
    pub fn trial_identity(&self) -> Option<&(PathBuf, PathBuf)> {
        self.trial.identity()
    }

    /// What came of the last trial, once.
    pub fn poll_trial(&mut self) -> Option<TrialVerdict> {
        self.trial.take_verdict()
    }

    /// Whether the broker refused who we are when it was asked last, not counting trials.
    pub fn is_unwelcome(&self) -> bool {
        self.unwelcome
    }

    /// How the broker refused the present certificate since it accepted one, not counting trials.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Another certificate is the present one: what was said of the one before does not count.
    pub fn forget_refusals(&mut self) {
        (self.unwelcome, self.refusals) = (false, Refusals::default());
    }

    /// Another connection is about to be made under our client id: if this one ends before `until`
    /// it is for that, and the next one is made at once. `None`: it is over.
    pub fn expect_take_over(&mut self, until: Option<Instant>) {
        self.take_over_until = until;
    }

    /// The check `by` makes connections beside this one until then; `None`: no more. If the broker
    /// ends this one meanwhile, the next one is made after that, and nobody is taken for a rival.
    /// Whether it did since that was announced.
    pub fn announce_beside(&mut self, now: Instant, by: u32, until: Option<Instant>) -> bool {
        let ended = self.beside.announce(now, by, until);
        if ended && self.stage == Stage::Waiting {
            match self.beside.until() {
                Some(until) => self.attempts.reconnect.wait_until(until),
                None => self.retry_now(now),
            }
        }
        ended
    }

    /// Publishes once for a check, with nothing else in flight; [`Uplink::take_reading_answer`]
    /// says what came of it. False: not now, or never on this connection.
    pub fn begin_reading(&mut self, now: Instant, topic: &str, retain: bool) -> bool {
        let may = self.stage == Stage::Flowing && self.may_try_readings();
        let began = may && self.reading_trial.want(topic, retain);
        if began {
            self.clear(now);
        }
        began
    }

    /// Whether this connection can show whether readings are taken: by the reason codes of MQTT 5.
    pub fn may_try_readings(&self) -> bool {
        let has_codes = self.session.as_ref().is_some_and(|session| session.version() == Version::V5);
        self.is_connected()
            && !self.stopping
            && !self.is_reading_owed
            && has_codes
            && self.limits.at_least_once
    }

    /// What became of what [`Uplink::begin_reading`] published, once.
    pub fn take_reading_answer(&mut self) -> Option<ReadingAnswer> {
        self.reading_trial.take()
    }

    /// Replaces the connection in good order: what it was judged by has changed.
    pub fn replace_connection(&mut self, now: Instant) {
        if self.stage == Stage::Flowing {
            self.leave(now);
        } else {
            self.retry_now(now);
        }
    }

    /// Lets what is in flight be answered before the connection is replaced.
    fn leave(&mut self, now: Instant) {
        self.publisher.hold(Hold::Everything);
        self.stage = Stage::Renewing { until: now + STEP_WITHIN };
        self.step(now);
    }

    /// An attempt failed before CONNACK. True: it was a trial, which is over, and the present
    /// certificate is tried at once.
    fn conclude_trial(&mut self, now: Instant, verdict: TrialVerdict) -> bool {
        let concluded = self.trial.conclude(verdict);
        if concluded {
            self.attempts.reconnect.retry_now(now);
        }
        concluded
    }

    /// No transport came about. `unwelcome`: the broker refuses who we are.
    pub fn handle_connect_failed(&mut self, now: Instant, what: String, unwelcome: bool) {
        self.attempts.handle_unreachable(now, &what);
        let verdict = match unwelcome {
            true => TrialVerdict::Refused(what.clone()),
            false => TrialVerdict::Fault(what.clone()),
        };
        if self.conclude_trial(now, verdict) {
            self.stage = Stage::Waiting;
            return;
        }
        self.unwelcome = unwelcome;
        if unwelcome {
            self.refusals.note_refusal(&what);
        }
        let outcome = if unwelcome { Outcome::CredentialsRefused } else { Outcome::Unreachable };
        self.wait(now, outcome, what);
        self.stage = Stage::Waiting;
    }

    /// The transport stands: CONNECT is to be written.
    pub fn handle_connected(&mut self, now: Instant, password: Option<Vec<u8>>, dialed: Dialed) {
        let Attempts { variant, will_limits, .. } = &self.attempts;
        let will = self.gateway_status.topic().filter(|_| variant.will).map(|topic| Will {
            topic: topic.to_owned(),
            payload: self.gateway_status.offline(),
            at_least_once: will_limits.at_least_once,
            retain: will_limits.retain,
        });
        let opening = Opening {
            version: variant.version,
            client_id: self.settings.client_id.clone(),
            keep_alive: self.settings.keep_alive,
            username: self.settings.username.clone(),
            password,
            will,
            session_expiry: Some(self.settings.session_expiry).filter(|_| self.commands.is_wanted()),
        };
        let mut session = Session::new(now, &opening);
        self.stage = Stage::Opening;
        if self.stopping {
            session.disconnect(false);
            self.stage = Stage::Over { since: now };
        }
        self.session = Some(session);
        self.attempts.handle_dialed(dialed);
        self.accepted_at = None;
        self.gateway_status.handle_connected();
    }

    /// Says how long the password given with [`Uplink::handle_connected`] serves; `None`: for
    /// ever. The connection is replaced in time, when all that is in flight is answered.
    pub fn set_password_life(&mut self, now: Instant, life: Option<Duration>) {
        self.password_life = life.map(|life| PasswordLife::new(now, life));
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
        self.gateway_status.handle_closed();
        self.echo.handle_closed();
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
            self.finish(now, outbox, ending, None);
        }
        match self.stage {
            Stage::Connecting { until } if now >= until => {
                let what = format!("connecting takes more than {} s", CONNECT_WITHIN.as_secs());
                self.handle_connect_failed(now, what, false);
            }
            Stage::Status { until } if now >= until => self.subscribe(now),
            Stage::Subscribing { until } if now >= until => {
                self.subscription.handle_silence();
                self.subscribe_hint(now);
            }
            Stage::SubscribingHint { until } if now >= until => {
                self.hint.handle_silence();
                self.subscribe_commands(now);
            }
            Stage::SubscribingCommands { until } if now >= until => {
                self.commands.handle_silence(now);
                self.subscribe_hint(now);
            }
            // What is due is so once more.
            Stage::Clearing { until } if now >= until => {
                self.reading_trial.conclude(ReadingAnswer::Unsent);
                self.flow();
            }
            Stage::TryingReading { until } if now >= until => {
                self.reading_trial.conclude(ReadingAnswer::Silent);
                self.is_reading_owed = true;
                self.flow();
            }

            Stage::Draining { until } if now >= until => {
                self.subscription.handle_stood(); // with the next connection
                self.flow();
            }
            Stage::Closing { until } if now >= until => self.say_goodbye(now),
            Stage::Opening if self.trial.until().is_some_and(|at| now >= at) => {
                let what = "no CONNACK within 30 s".to_owned();
                self.conclude_trial(now, TrialVerdict::Fault(what));
                if let Some(session) = &mut self.session {
                    session.disconnect(false);
                }
                self.stage = Stage::Over { since: now };
            }
            Stage::Flowing if self.trial.is_wanted() => self.leave(now),
            Stage::Renewing { until } if now >= until => self.renew(now),
            Stage::Flowing if self.password_life.is_some_and(|life| now >= life.renew_at()) => {
                self.leave(now);
            }
            Stage::Flowing if !self.stopping && self.commands_due_at().is_some_and(|at| now >= at) => {
                self.clear(now);
            }
            Stage::Flowing if self.subscription_due_at().is_some_and(|at| now >= at) => {
                self.subscription.take_up();
                self.publisher.hold(Hold::Everything);
                self.stage = Stage::Draining { until: now + STEP_WITHIN };
                self.step(now);
            }
            _ => {}
        }
        if self.alone_until.take_if(|at| now >= *at).is_some() && self.stage.is_subscribing() {
            self.publisher.hold(Hold::Nothing);
            self.more = true;
        }
        if self.gateway_status.take_repair(now) {
            self.repair_status(now);
        }
        if self.stage == Stage::Flowing && !self.stopping && self.echo.take_due(now) {
            self.announce();
            self.more = true;
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

    /// When commands that the broker has not granted are asked for once more on this connection.
    fn commands_due_at(&self) -> Option<Instant> {
        self.commands.again_at()
    }

    /// Lets what is in flight be answered, so that what is tried then is alone on the connection: a
    /// close says what it is about.
    fn clear(&mut self, now: Instant) {
        self.publisher.hold(Hold::Everything);
        self.stage = Stage::Clearing { until: now + STEP_WITHIN };
        self.step(now);
    }

    /// Something was changed that may help: what the broker refused to subscribe to is asked for at
    /// once.
    pub fn retry_subscriptions(&mut self, now: Instant) {
        self.commands.retry_now(now);
    }

    /// When a subscription that was left out is to be tried on this connection.
    fn subscription_due_at(&self) -> Option<Instant> {
        self.subscription.due_at(self.publisher.stands_at())
    }

    /// The next deadline: of an attempt, of the connection, or to fill again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let stage = match self.stage {
            Stage::Waiting => return (!self.stopping).then(|| self.attempts.due_at()),
            Stage::Over { since } => return Some(since),
            Stage::Opening => self.trial.until(),
            Stage::Flowing => {
                let renewal = self.password_life.map(|life| life.renew_at());
                let commands = self.commands_due_at().filter(|_| !self.stopping);
                [self.subscription_due_at(), commands, renewal].into_iter().flatten().min()
            }
            stage => stage.until(),
        };
        let session = self.session.as_ref().and_then(Session::poll_timeout);
        let overdue = self.publisher.overdue_at();
        // Nothing is appended while so much waits to be written.
        let fills = self.flows()
            && self.session.as_ref().is_some_and(|session| session.outgoing_len() < publisher::FILL_BYTES);
        let publisher = fills.then(|| self.publisher.poll_timeout()).flatten();
        let repair = self.gateway_status.repair_at().filter(|_| self.is_connected());
        let echo = self.echo.poll_timeout().filter(|_| self.stage == Stage::Flowing && !self.stopping);
        let alone = self.alone_until.filter(|_| self.stage.is_subscribing());
        [stage, session, overdue, publisher, repair, echo, alone].into_iter().flatten().min()
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What became of records since the last call, in exchange for the empty `with`; from the first
    /// call on it is kept.
    pub fn swap_settled(&mut self, with: Vec<Settled>) -> Vec<Settled> {
        self.publisher.swap_settled(with)
    }

    /// The MQTT of the connection there is.
    pub fn spoken(&self) -> Option<Version> {
        self.session.as_ref().map(Session::version)
    }

    /// Whether all bytes received so far made whole packets.
    pub fn is_between_packets(&self) -> bool {
        self.session.as_ref().is_none_or(Session::is_between_packets)
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
        self.gateway_status.set_online(json);
        if self.is_connected() && !self.stopping {
            self.announce();
        }
    }

    /// Says the gateway's status on this connection. Whether there is anywhere to say it.
    fn announce(&mut self) -> bool {
        self.echo.handle_published();
        self.gateway_status.announce(&mut self.own)
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

    /// Filters of commands of earlier settings: those that are not wanted any more leave the
    /// session.
    pub fn set_former_commands(&mut self, former: &[String]) {
        // What is subscribed to for something else stays.
        let own = [self.gateway_status.topic(), self.settings.topics.update_hint.as_deref()];
        let is_former = |filter: &&String| !own.contains(&Some(filter.as_str()));
        let former: Vec<String> = former.iter().filter(is_former).cloned().collect();
        self.commands.set_former(&former);
    }

    /// Clears a retained status that belongs to nobody any more, as after renaming the gateway.
    pub fn clear_retained(&mut self, topic: &str) {
        self.own.set_status(Class::DeviceStatus, topic, Vec::new());
    }

    /// Whether what was last said on a retained topic has reached the broker.
    pub fn has_reached(&self, topic: &str) -> bool {
        !self.own.is_waiting(topic)
    }

    /// Topics of the gateway's own messages that the broker refused last time, at most `limit`.
    pub fn refused_topics(&self, limit: usize) -> Vec<String> {
        self.own.refused(limit).into_iter().map(|(topic, _)| topic).collect()
    }

    /// Takes an attempt up at once: something was changed that may help.
    pub fn retry_now(&mut self, now: Instant) {
        self.attempts.reconnect.retry_now(now);
    }

    /// Somebody waits for the connection, as
    /// [`Reconnect::hurry`](super::reconnect::Reconnect::hurry) says.
    pub fn hurry(&mut self, now: Instant) -> bool {
        self.stage == Stage::Waiting && self.attempts.reconnect.hurry(now)
    }

    /// Says goodbye: the retained status turns offline, DISCONNECT goes out, no attempt follows.
    pub fn stop(&mut self, now: Instant) {
        self.stopping = true;
        if self.is_connected() {
            self.stage = Stage::Closing { until: now + GOODBYE_WITHIN };
            self.publisher.hold(Hold::AllButOwn);
            self.gateway_status.say_offline(&mut self.own);
        } else if let Some(session) = &mut self.session {
            session.disconnect(false);
            self.stage = Stage::Over { since: now };
        }
    }

    /// Publishes the status anew, so that the connection shows whether it works. Whether there is
    /// one to show.
    pub fn begin_check(&mut self) -> bool {
        self.flows() && !self.stopping && self.announce() && !self.gateway_status.is_settled(&self.own)
    }

    /// Whether [`Uplink::begin_check`] may succeed in a moment: the connection was just accepted,
    /// and there is a status to publish.
    pub fn may_check_soon(&self) -> bool {
        self.is_connected()
            && !self.flows()
            && !self.stopping
            && self.settings.topics.gateway_status.is_some()
    }

    /// Whether what [`Uplink::begin_check`] published is answered, or the connection gone.
    pub fn is_check_done(&self) -> bool {
        !self.flows() || self.gateway_status.is_settled(&self.own)
    }

    /// Whether readings and the gateway's own messages go out.
    fn flows(&self) -> bool {
        self.stage == Stage::Flowing || self.stage.is_subscribing() && self.alone_until.is_none()
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

    /// How many connections stood, this one with them.
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// Whether the connection stands.
    pub fn is_connected(&self) -> bool {
        self.accepted_at.is_some()
    }

    /// Examples of the readings that the broker took on the connection that stands.
    pub fn taken_topics(&self) -> Vec<TakenTopic> {
        if self.is_connected() { self.publisher.records().taken().view() } else { Vec::new() }
    }

    /// How it stands at `now`.
    pub fn status(&self, now: Instant) -> Status {
        Status::of(self, now)
    }

    // What follows from the session.

    fn handle_session(&mut self, moment: &Moment, outbox: &mut impl Outbox) {
        let now = moment.now;
        let Some(session) = &mut self.session else {
            return;
        };
        let empty = std::mem::take(&mut self.acknowledgements);
        let mut acknowledgements = session.take_acknowledgements(empty);
        // One that comes late is nobody's.
        let apart = acknowledgements.iter().rfind(|it| it.packet_id == APART_ID).copied();
        acknowledgements.retain(|it| it.packet_id != APART_ID);
        self.is_reading_owed &= apart.is_none();
        if let Some(answer) = apart.filter(|_| matches!(self.stage, Stage::TryingReading { .. })) {
            self.reading_trial.conclude(ReadingAnswer::Acknowledged(answer.code));
            self.flow();
        }
        if !acknowledgements.is_empty() {
            self.publisher.handle_acknowledgements(now, outbox, &mut self.own, &acknowledgements);
            acknowledgements.clear();
        }
        self.acknowledgements = acknowledgements;
        while let Some(event) = self.session.as_mut().and_then(Session::poll_event) {
            match event {
                session::Event::Accepted { limits, assigned_client_id, session_present } => {
                    self.session_present = session_present;
                    self.is_reading_owed = false;
                    self.handle_accepted(now, limits, assigned_client_id);
                }
                session::Event::Subscribed { number: HINT, code } => {
                    if self.hint.handle_answer(code) {
                        self.events.push_back(Event::HintRefused { code });
                    }
                    if matches!(self.stage, Stage::SubscribingHint { .. }) {
                        self.subscribe_commands(now);
                    }
                }
                session::Event::CommandsSubscribed(codes) => {
                    for (filter, code) in self.commands.handle_answer(now, &codes) {
                        self.events.push_back(Event::CommandsRefused { filter, code });
                    }
                    self.settle_hint(now);
                    if matches!(self.stage, Stage::SubscribingCommands { .. }) {
                        self.subscribe_hint(now);
                    }
                }
                session::Event::Inbound(message) => self.handle_inbound(now, message),
                session::Event::Released(packet_id) => {
                    let connection = self.connections;
                    self.commands.push(Inbound::Released { connection, packet_id });
                }
                session::Event::Subscribed { code, .. } => {
                    if self.subscription.handle_answer(code) {
                        self.echo.handle_refused();
                        self.events.push_back(Event::SubscriptionRefused { code });
                    } else {
                        // The status before it is acknowledged, or its acknowledgement is late.
                        self.echo.handle_subscribed(self.limits.retain);
                    }
                    if matches!(self.stage, Stage::Subscribing { .. }) {
                        self.subscribe_hint(now);
                    }
                }
                session::Event::Unsubscribed => {
                    self.commands.handle_left();
                    if self.is_hint_brought(now) {
                        self.hint.handle_left();
                        self.is_hint_subscribed = false;
                    }
                }
                session::Event::Message { topic, payload } => self.handle_message(now, &topic, &payload),
                session::Event::PingAnswered(number) => {
                    self.handle_settled(now, number);
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
        let attempts = &mut self.attempts;
        let Variant { version, .. } = attempts.variant;
        if version == Version::V5 {
            attempts.will_limits = limits;
        }
        let before = attempts.settled().cloned();
        if attempts.fallback.handle_accepted(now) == OnAccepted::TryBetter {
            self.events.push_back(Event::Confirming { accepted: attempts.variant });
            if let Some(session) = &mut self.session {
                session.disconnect(false);
            }
            attempts.reconnect.handle_outcome(now, Outcome::TryAnother);
            self.stage = Stage::Over { since: now };
            return;
        }
        if let Some(settled) = attempts.settled().filter(|settled| before.as_ref() != Some(settled)) {
            if let Some(why) = settled.why_version.clone() {
                self.events.push_back(Event::FellBack { why });
            }
            if let Some(why) = settled.why_will.clone() {
                self.events.push_back(Event::WillLeftOut { why });
            }
        }
        if !self.trial.conclude(TrialVerdict::Accepted) {
            self.unwelcome = false;
        }
        self.refusals = Refusals::default();
        self.accepted_at = Some(now);
        self.is_hint_subscribed = false;
        self.are_commands_subscribed = false;
        self.since = now;
        if self.spoken.is_none_or(|(spoken, _)| spoken != version) {
            self.spoken = Some((version, now));
        }
        self.failure = None;
        self.connections += 1;
        self.commands.handle_closed();
        if self.commands.is_wanted() && !self.session_present {
            self.commands.push(Inbound::SessionLost);
        }
        self.limits = limits;
        self.attempts.handle_accepted();
        let afresh = !self.attempts.was_closed_over_refusal();
        self.publisher.handle_open(now, version, &limits, afresh);
        self.events.push_back(Event::Connected { version, limits, assigned_client_id });
        let may_say = !self.own.is_paused(now, Class::GatewayStatus) && !self.publisher.holds_own();
        if self.gateway_status.announce(&mut self.own) && may_say {
            self.publisher.hold(Hold::AllButOwn);
            self.stage = Stage::Status { until: now + STEP_WITHIN };
            return;
        }
        self.subscribe(now);
    }

    /// Goes on from the stages that wait for something to be answered.
    fn step(&mut self, now: Instant) {
        if self.stage == Stage::Flowing && self.gateway_status.was_heard(&self.own) {
            self.echo.handle_heard(now);
        }
        match self.stage {
            Stage::Status { .. } if self.gateway_status.is_settled(&self.own) => self.subscribe(now),
            Stage::Closing { .. } if self.gateway_status.is_settled(&self.own) => self.say_goodbye(now),
            Stage::Renewing { .. } if self.publisher.in_flight() == 0 => self.renew(now),
            Stage::Clearing { .. } if self.publisher.in_flight() == 0 => self.try_alone(now),
            Stage::Draining { .. } if self.publisher.in_flight() == 0 => {
                self.subscription.handle_stood();
                self.subscribe(now);
            }
            _ => {}
        }
    }

    fn subscribe(&mut self, now: Instant) {
        let left_out = self.subscription.is_left_out(now);
        match (self.gateway_status.topic(), &mut self.session) {
            (Some(topic), Some(session)) if !left_out => {
                session.subscribe(now, STATUS, topic);
                self.stage = Stage::Subscribing { until: now + STEP_WITHIN };
                self.note_subscribed(now);
            }
            _ => {
                self.echo.handle_refused();
                self.subscribe_hint(now);
            }
        }
    }

    /// A subscription was sent: readings go beside it.
    fn note_subscribed(&mut self, now: Instant) {
        self.acknowledged_before = self.publisher.counters().acknowledged;
        self.alone_until = self.subscribes_alone.then_some(now + ALONE_WITHIN);
        self.publisher.hold(if self.subscribes_alone { Hold::Everything } else { Hold::Nothing });
        self.more = true;
    }

    /// Whether hints come with the commands.
    fn is_hint_brought(&self, now: Instant) -> bool {
        self.hint.topic().is_some_and(|topic| self.commands.brings(now, topic))
    }

    /// The commands come: hints that come with them need no subscription of their own any more.
    fn settle_hint(&mut self, now: Instant) {
        if !self.is_hint_brought(now) {
            return;
        }
        self.hint.handle_brought();
        if let (Some(session), Some(topic), true) =
            (&mut self.session, self.hint.topic(), self.is_hint_subscribed)
        {
            session.unsubscribe(now, &[topic.to_owned()]);
        }
    }

    /// When the one before is answered: a close then says which it is about. Where the commands
    /// bring hints, too, it is only once they do not.
    fn subscribe_hint(&mut self, now: Instant) {
        let is_brought = self.is_hint_brought(now);
        match (self.hint.wanted(now), &mut self.session) {
            (Some(topic), Some(session)) if !self.is_hint_subscribed && !is_brought => {
                session.subscribe(now, HINT, topic);
                self.is_hint_subscribed = true;
                self.hint.handle_subscribed();
                self.stage = Stage::SubscribingHint { until: now + STEP_WITHIN };
                self.note_subscribed(now);
            }
            _ => self.subscribe_commands(now),
        }
    }

    /// When the two before are answered. What the session has of earlier settings goes before.
    fn subscribe_commands(&mut self, now: Instant) {
        match self.are_commands_subscribed {
            true => self.flow(),
            false => {
                let is_brought = self.is_hint_brought(now);
                let mut former = self.commands.former(self.session_present).to_vec();
                let kept = self.hint.kept(self.session_present).filter(|_| is_brought);
                former.extend(kept.map(str::to_owned));
                if let Some(session) = self.session.as_mut().filter(|_| !former.is_empty()) {
                    session.unsubscribe(now, &former);
                }
                let filters = self.commands.ask(now).to_vec();
                self.ask_for_commands(now, &filters);
            }
        }
    }

    fn ask_for_commands(&mut self, now: Instant, filters: &[String]) {
        match &mut self.session {
            Some(session) if !filters.is_empty() => {
                session.subscribe_commands(now, filters, self.commands.is_at_least_once());
                self.are_commands_subscribed = true;
                self.stage = Stage::SubscribingCommands { until: now + STEP_WITHIN };
                self.note_subscribed(now);
            }
            _ => self.flow(),
        }
    }

    /// Nothing is in flight: what the connection was cleared for.
    fn try_alone(&mut self, now: Instant) {
        if let (Some((topic, retain)), Some(session)) = (self.reading_trial.send(), &mut self.session) {
            if session.publish_apart(now, &self.limits, &topic, retain) {
                self.stage = Stage::TryingReading { until: now + STEP_WITHIN };
            } else {
                self.reading_trial.conclude(ReadingAnswer::TooLarge);
                self.flow();
            }
            return;
        }
        let filters = self.commands.ask_again().to_vec();
        self.ask_for_commands(now, &filters);
    }

    /// A message where commands are wanted: mostly one, or one that is known by its topic.
    fn handle_inbound(&mut self, now: Instant, message: Box<InboundMessage>) {
        let is_own = self.gateway_status.topic() == Some(message.topic.as_str());
        let is_hint = self.settings.topics.update_hint.as_ref() == Some(&message.topic);
        if is_own || is_hint {
            self.handle_message(now, &message.topic, &message.payload);
        }
        // With a subscription of its own beside that to commands it may be a copy.
        let may_be_copy = is_own || is_hint && self.is_hint_subscribed && self.is_hint_brought(now);
        if may_be_copy && message.qos == 0 {
            return;
        }
        let connection = self.connections;
        let plain = self.session.as_ref().is_some_and(|session| session.version() == Version::V3_1_1);
        let session_present = self.session_present;
        let keeps_ids = self.commands.is_exactly_once();
        self.commands.push(Inbound::Message { connection, session_present, keeps_ids, plain, message });
    }

    fn handle_settled(&mut self, now: Instant, number: u64) {
        self.commands.handle_ping_answered(number);
        if let Some(session) = self.session.as_mut().filter(|_| self.commands.wants_ping()) {
            self.commands.handle_ping(session.ping(now));
        }
    }

    fn flow(&mut self) {
        self.stage = Stage::Flowing;
        (self.subscribes_alone, self.alone_until) = (false, None);
        self.publisher.hold(Hold::Nothing);
        self.more = true;
    }

    fn handle_message(&mut self, now: Instant, topic: &str, payload: &[u8]) {
        self.hint.handle_message(topic);
        if self.gateway_status.topic() == Some(topic) {
            self.echo.handle_message();
        }
        let listens = matches!(
            self.stage,
            Stage::Subscribing { .. }
                | Stage::SubscribingHint { .. }
                | Stage::SubscribingCommands { .. }
                | Stage::Flowing
                | Stage::Draining { .. }
                | Stage::Clearing { .. }
                | Stage::TryingReading { .. }
        );
        if listens && self.gateway_status.handle_message(now, topic, payload) {
            self.repair_status(now);
        }
    }

    fn repair_status(&mut self, now: Instant) {
        if self.is_connected() && !self.stopping && self.gateway_status.repair(now, &mut self.own) {
            self.more = true;
            self.events.push_back(Event::StatusRepaired);
        }
    }

    /// If the last words were not heard, the will says them.
    fn say_goodbye(&mut self, now: Instant) {
        let heard = self.gateway_status.was_heard(&self.own);
        if let Some(session) = &mut self.session {
            session.disconnect(!heard);
        }
        self.accepted_at = None;
        self.stage = Stage::Over { since: now };
    }

    /// Ends the connection in good order; the next one, of a trial or with a new password, is made
    /// at once.
    fn renew(&mut self, now: Instant) {
        if let Some(session) = &mut self.session {
            session.disconnect(false);
        }
        self.publisher.hold(Hold::Nothing);
        self.accepted_at = None;
        self.since = now;
        self.stage = Stage::Over { since: now };
        if self.trial.is_wanted() {
            self.attempts.reconnect.retry_now(now);
        } else {
            self.attempts.reconnect.handle_outcome(now, Outcome::TryAnother);
            if self.password_life.is_some_and(|life| now >= life.renew_at()) {
                self.events.push_back(Event::PasswordRenewal);
            }
        }
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
        let said = ended.clone();
        let mut ending = Ending::of_session(ended, lasted);
        // A broker whose connection hangs over one record answers no PINGREQ either. A link that
        // died looks the same, but had answers to readings before.
        if silent && self.publisher.hangs_on_a_record(now) {
            ending.gone = ConnectionEnd::Unanswered;
        }
        if self.attempts.take_smaller_will(refused) {
            (ending.outcome, ending.failure) = (Outcome::TryAnother, AttemptFailure::Nothing);
        }
        let verdict = of_session(&said, &ending.what);
        let before = self.refusals.clone();
        self.finish(now, outbox, ending, Some(verdict));
        if reason_code::is_bad_password(refused) && self.has_password() {
            self.refusals = before; // that is not about the certificate
        }
    }

    fn has_password(&self) -> bool {
        let Settings { username, password_file, jwt, .. } = &self.settings;
        username.is_some() || password_file.is_some() || jwt.is_some()
    }

    fn finish_closed(&mut self, now: Instant, outbox: &mut impl Outbox, closed: Closed) {
        // With records in flight and none answered it is rather one of these than a rival.
        let suspicious = self.publisher.in_flight() > 0 && !self.publisher.has_progress(now);
        let lasted = self.accepted_at.map(|_| self.lasted(now));
        let said = closed.clone();
        let ending = Ending::of_transport(closed, lasted, suspicious);
        let verdict = of_transport(&said, &ending.what);
        self.finish(now, outbox, ending, Some(verdict));
    }

    /// `verdict`: what it says of a certificate on trial.
    fn finish(
        &mut self,
        now: Instant,
        outbox: &mut impl Outbox,
        ending: Ending,
        verdict: Option<TrialVerdict>,
    ) {
        if matches!(self.stage, Stage::Over { .. } | Stage::Waiting | Stage::Connecting { .. }) {
            return;
        }
        // The broker ends a connection whose password has expired: that is no fault, and what was
        // in flight is sent again.
        if self.is_connected() && self.password_life.is_some_and(|life| life.is_over(now)) {
            self.publisher.handle_closed(now, outbox, &mut self.own, ConnectionEnd::Otherwise);
            self.poll_publisher();
            self.renew(now);
            return;
        }
        if self.is_connected() && self.take_over_until.take().is_some_and(|until| now < until) {
            self.publisher.handle_closed(now, outbox, &mut self.own, ConnectionEnd::Otherwise);
            self.poll_publisher();
            self.renew(now);
            return;
        }
        let by_broker = matches!(ending.outcome, Outcome::Lost { how: Lost::TakenOver | Lost::Closed, .. });
        if self.is_connected()
            && by_broker
            && let Some(until) = self.beside.handle_ended(now)
        {
            self.reading_trial.conclude(ReadingAnswer::Unsent);
            self.publisher.handle_closed(now, outbox, &mut self.own, ConnectionEnd::Otherwise);
            self.poll_publisher();
            self.events.push_back(Event::EndedForCheck);
            self.renew(now);
            self.attempts.reconnect.wait_until(until);
            return;
        }
        let stage = self.stage;
        let of_reading = matches!(stage, Stage::TryingReading { .. });
        self.reading_trial.conclude(match of_reading {
            true => ReadingAnswer::Closed,
            false => ReadingAnswer::Unsent,
        });
        let Ending { outcome, gone, failure, what } = ending;
        let is_closed = gone == ConnectionEnd::Closed;
        // A broker that took a reading which was sent after it has passed the subscription over.
        let passed_over = self.publisher.counters().acknowledged > self.acknowledged_before;
        let subscribing = is_closed && stage.is_subscribing() && !passed_over;
        let in_doubt = subscribing && self.alone_until.is_none() && self.publisher.in_flight() > 0;
        // Only once: where readings did wait and it was closed later, it is about these.
        let spares = in_doubt && !std::mem::replace(&mut self.subscribes_alone, in_doubt);
        let over = if spares { ConnectionEnd::Otherwise } else { gone };
        self.alone_until = None;
        let aftermath = self.publisher.handle_closed(now, outbox, &mut self.own, over);
        self.publisher.hold(Hold::Nothing);
        self.poll_publisher();
        let outcome = if self.is_connected() {
            let blamed = subscribing && !in_doubt;
            let of_status = blamed && matches!(stage, Stage::Subscribing { .. });
            let of_hint = blamed && matches!(stage, Stage::SubscribingHint { .. });
            let of_commands = blamed && matches!(stage, Stage::SubscribingCommands { .. });
            if of_status && self.subscription.strike(now) {
                self.events.push_back(Event::SubscriptionLeftOut);
            }
            if of_hint && self.hint.strike(now) {
                self.events.push_back(Event::HintLeftOut);
            }
            if of_commands && self.commands.strike(now) {
                self.events.push_back(Event::CommandsLeftOut);
            }
            let subscription = blamed || spares || is_closed && of_reading;
            let suspects = self.publisher.records().suspect_count();
            let ended = attempts::Ended { gone, aftermath, subscription, suspects };
            let (outcome, again) = self.attempts.handle_lost(now, outcome, ended);
            if again {
                self.events.push_back(Event::ClosedAgain { times: CLOSES });
            }
            outcome
        } else {
            let next = self.attempts.handle_failed(now, outcome, failure, &what);
            if self.trial.until().is_none() && next != Outcome::TryAnother {
                self.refusals.note(verdict.as_ref());
            }
            // Another version or address may do: that is part of the trial.
            if next != Outcome::TryAnother
                && let Some(verdict) = verdict
                && self.conclude_trial(now, verdict)
            {
                self.stage = Stage::Over { since: now };
                return;
            }
            if self.trial.until().is_none() {
                self.unwelcome = outcome == Outcome::CredentialsRefused;
            }
            next
        };
        self.wait(now, outcome, what);
        self.stage = Stage::Over { since: now };
    }

    fn wait(&mut self, now: Instant, outcome: Outcome, what: String) {
        let rival = self.attempts.reconnect.handle_outcome(now, outcome);
        let retry_in = self.attempts.due_at().saturating_duration_since(now);
        if self.accepted_at.take().is_some() {
            self.since = now;
            self.events.push_back(Event::Lost { what: what.clone(), retry_in });
        } else {
            self.events.push_back(Event::Failed { what: what.clone(), retry_in });
        }
        self.failure = Some(what);
        if rival {
            self.failure = Some(used_elsewhere(&self.settings.client_id));
            self.events.push_back(Event::ClientIdElsewhere);
        }
    }
}
