//! Commands in the daemon: the mailbox, its file, the router and the delivery in one place, between
//! the uplink that brings messages and the CoAP side that reaches devices.
//!
//! It runs within the rounds of the [hub](super::hub): [`Commands::round`] follows whatever
//! happened. Only replies that the journal does not take at once, expiry and deadlines wait for
//! [`Commands::care`], once a second.

mod line;
mod observed;
mod remote;
mod served;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

pub use self::remote::RemoteCall;
use super::reading_store::Readings;
use crate::clock::Moment;
use crate::control::tail::{CommandSeen, Tail};
use crate::downlink::command::{Command, Outcome, PAYLOAD_MAX, Status};
use crate::downlink::delivery::{Carrier, Delivery, NotSent, Told};
use crate::downlink::io::MailboxFile;
use crate::downlink::mailbox::{Arrival, Event, Mailbox, Observer, Take};
use crate::downlink::remote::Remote;
use crate::downlink::router::{Directory, Refusal, Routed, Router, Target};
use crate::downlink::settings::Settings;
use crate::gate::stage::TopicFault;
use crate::gate::{Deliver, DeviceView, Gate, reply};
use crate::journal::Refused;
use crate::message::{CommandReply, ContentFormat, Envelope, Name, PATH_MAX, RecordId};
use crate::northbound::inbound::{Answer, InboundMessage};
use crate::northbound::uplink::Inbound;
use crate::pipeline::ReplyFault;
use crate::proto::address::Peer;
use crate::proto::coap::endpoint::client::Unsent;
use crate::proto::coap::{self as protocol, Code, Method, Outgoing, RequestId, Response};
use crate::session_store::io::persistence::SessionPersistence;
use crate::southbound::coap::{Fetch, Intake};
use crate::southbound::serial::order::Lines;
use crate::southbound::{mqtt, serial};

/// Refusals that are told to the senders of commands: so many at once,
const REFUSALS_BURST: u32 = 60;
/// and one more in each of these.
const REFUSAL_EVERY: Duration = Duration::from_secs(1);
/// From one word in the log about outcomes that nobody was told to the next.
const UNTOLD_EVERY: Duration = Duration::from_secs(60);
/// Commands of the operator that are waited for at once.
const WAITERS_MAX: usize = 256;

/// An answer that the broker waits for.
#[derive(Clone, Copy, Debug)]
struct Owed {
    generation: u64,
    connection: u64,
    answer: Answer,
    packet_id: u16,
}

/// An answer for the broker.
#[derive(Clone, Copy, Debug)]
pub struct BrokerAnswer {
    /// Which uplink it is for.
    pub generation: u64,
    /// Which of its connections.
    pub connection: u64,
    /// What.
    pub answer: Answer,
    /// To which packet.
    pub packet_id: u16,
}

/// Numbers since the start, beside those of the mailbox.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Commands that no rule allows, or that cannot be carried out.
    pub refused: u64,
    /// Outcomes that were not published: too many refusals, or a topic that is not allowed.
    pub untold: u64,
    /// Commands sent to devices.
    pub sent: u64,
    /// GETs of devices that were answered with a message.
    pub fetched: u64,
    /// Registrations of observers.
    pub observed: u64,
    /// Commands to the gateway itself.
    pub remote: u64,
}

/// What becomes of the commands of a device that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// They wait: after a start a device of a fleet may be known only when it connects.
    Waits,
    /// They are refused.
    Refused,
}

/// All of it.
pub struct Commands {
    router: Router,
    /// The serial devices that take commands.
    lines: Lines,
    /// Those before the last reload.
    lines_before: Lines,
    mailbox: Mailbox,
    delivery: Delivery,
    file: Option<MailboxFile>,
    /// Notified when the file has done its work.
    wake: Arc<Notify>,
    /// Why there is no file.
    defect: Option<String>,
    requests: Requests,
    /// GETs that wait until their registration is durable, by its ticket.
    registrations: HashMap<u64, (Name, Fetch)>,
    /// GETs whose session has no number yet.
    early: Vec<Fetch>,
    /// Notifications without a command, and of which relation.
    refreshes: HashMap<RequestId, u64>,
    /// What may be asked of the gateway itself.
    remote: Remote,
    remote_calls: VecDeque<RemoteCall>,
    /// What is observed and polled of devices.
    served: served::Serving,
    owed: HashMap<u64, Owed>,
    next_ticket: u64,
    answers: Vec<BrokerAnswer>,
    waiters: HashMap<u64, oneshot::Sender<Outcome>>,
    /// Outcomes that the journal did not take yet.
    unpublished: BTreeSet<u64>,
    /// Outcomes that were not published since that was last logged.
    untold: Untold,
    refusals_left: u32,
    refusal_at: Option<Instant>,
    counts: Counts,
    tail: Tail,
}

/// Outcomes of commands that were not taken and of which their senders were not told.
#[derive(Debug, Default)]
struct Untold {
    count: u64,
    /// The first of them.
    example: String,
    logged: Option<Instant>,
}

impl Untold {
    fn note(&mut self, to: ReplyTo<'_>, status: &str) {
        if self.count == 0 {
            self.example = format!("{} for {} of {}", status, to.path, to.device);
        }
        self.count += 1;
    }

    /// How many there were since the last time, at most once in [`UNTOLD_EVERY`], and the first.
    fn poll(&mut self, now: Instant) -> Option<(u64, String)> {
        let is_due = self.logged.is_none_or(|at| now.saturating_duration_since(at) >= UNTOLD_EVERY);
        if self.count == 0 || !is_due {
            return None;
        }
        self.logged = Some(now);
        Some((std::mem::take(&mut self.count), std::mem::take(&mut self.example)))
    }
}

/// Requests on their way, by both of their numbers.
#[derive(Debug, Default)]
struct Requests {
    commands: BTreeMap<RequestId, u64>,
    requests: HashMap<u64, RequestId>,
}

/// The sides by which devices are reached.
pub struct Sides<'s> {
    /// The CoAP side.
    pub coap: &'s mut Intake,
    /// The MQTT side.
    pub mqtt: &'s mut mqtt::Intake,
    /// The serial side.
    pub serial: &'s mut serial::Intake,
}

/// How devices are reached: over CoAP, clients of the MQTT listener, and serial lines.
struct SideCarrier<'c> {
    coap: &'c mut Intake,
    mqtt: &'c mut mqtt::Intake,
    serial: &'c mut serial::Intake,
    gate: &'c Gate,
    router: &'c Router,
    lines: &'c Lines,
    requests: &'c mut Requests,
    sent: &'c mut u64,
    /// How long ago the command was taken that is sent.
    age_s: u64,
}

impl<'c> SideCarrier<'c> {
    fn new(
        sides: &'c mut Sides<'_>,
        gate: &'c Gate,
        (router, lines): (&'c Router, &'c Lines),
        requests: &'c mut Requests,
        counts: &'c mut Counts,
    ) -> SideCarrier<'c> {
        let Sides { coap, mqtt, serial } = sides;
        let sent = &mut counts.sent;
        SideCarrier { coap, mqtt, serial, gate, router, lines, requests, sent, age_s: 0 }
    }

    /// Whether the device has a session over CoAP and can take a message now.
    fn is_awake(&mut self, now: Instant, device: &Name) -> bool {
        awake(now, self.coap, self.gate, self.router, device).is_some()
    }

    fn sent(&mut self, number: u64, sent: Result<RequestId, Unsent>) -> Result<(), NotSent> {
        match sent {
            Ok(request) => {
                self.requests.commands.insert(request, number);
                self.requests.requests.insert(number, request);
                *self.sent += 1;
                Ok(())
            }
            Err(Unsent::Busy) => Err(NotSent::Busy),
            Err(Unsent::Unproven) => Err(NotSent::Unreachable),
            Err(Unsent::TooLarge) => Err(NotSent::Never("the request does not fit a message".to_owned())),
        }
    }
}

/// Where a device over CoAP can take a message now.
fn awake(now: Instant, coap: &Intake, gate: &Gate, router: &Router, device: &Name) -> Option<Peer> {
    let index = gate.device_by_id(device.as_str())?;
    let (peer, heard) = coap.heard(index)?;
    let limits = router.limits(gate.device(now, index)?.role)?;
    let is_awake = limits
        .awake_for
        .is_none_or(|awake| heard.is_some_and(|heard| now.saturating_duration_since(heard) <= awake));
    is_awake.then_some(peer)
}

impl Carrier for SideCarrier<'_> {
    fn is_reachable(&mut self, now: Instant, command: &Command) -> bool {
        if self.lines.has(command.device.as_str()) {
            return self.serial.reserve(now, &command.device);
        }
        let device = self.gate.device_by_id(command.device.as_str());
        device.is_some_and(|device| self.mqtt.listens(device, &command.path))
            || self.is_awake(now, &command.device)
    }

    fn send(
        &mut self,
        now: Instant,
        number: u64,
        command: &Command,
        observer: Option<&Observer>,
    ) -> Result<(), NotSent> {
        if self.lines.has(command.device.as_str()) {
            return self.send_to_line(now, number, command);
        }
        let index = self.gate.device_by_id(command.device.as_str()).ok_or(NotSent::Unreachable)?;
        let holder = self.gate.holder(index).ok_or(NotSent::Unreachable)?;
        if let Some(observer) = observer.filter(|observer| !observer.takes) {
            let response = Response::new(Code::NOT_ACCEPTABLE).diagnostic("not in this format");
            return match self.coap.notify(now, holder, observer.peer, (observer.token, None), &response) {
                Ok(_) => Err(NotSent::OtherFormat),
                Err(unsent) => self.sent(number, Err(unsent)),
            };
        }
        if let Some(Observer { peer, token, block, sequence, etag, max_age_s, .. }) = observer {
            let left_s = max_age_s.saturating_sub(u32::try_from(self.age_s).unwrap_or(u32::MAX)).max(1);
            let response = Response {
                etag: Some(etag),
                observe: Some(*sequence as u32),
                ..Response::new(Code::CONTENT).max_age(left_s)
            };
            let (content_format, payload) = (command.content_format, &command.payload);
            let response = Response { content_format, payload, ..response };
            let sent = self.coap.notify(now, holder, *peer, (*token, *block), &response);
            return self.sent(number, sent);
        }
        if self.mqtt.listens(index, &command.path) {
            if !matches!(Method::from_code(Code(command.method)), Some(Method::Put | Method::Post)) {
                return Err(NotSent::Never("an MQTT client takes only PUT and POST".to_owned()));
            }
            let Command { path, payload, content_format, .. } = command;
            match self.mqtt.deliver(index, number, path, payload, *content_format) {
                Ok(()) => {
                    *self.sent += 1;
                    return Ok(());
                }
                Err(mqtt::NotDelivered::Absent) => return Err(NotSent::Busy),
                Err(mqtt::NotDelivered::TooLarge) => {
                    let why = "the MQTT client takes no message of this size";
                    return Err(NotSent::Never(why.to_owned()));
                }
            }
        }
        let (peer, _) = self.coap.heard(index).ok_or(NotSent::Unreachable)?;
        let method = Method::from_code(protocol::Code(command.method))
            .ok_or_else(|| NotSent::Never("the method is unknown".to_owned()))?;
        let outgoing = Outgoing {
            method,
            path: &command.path,
            content_format: command.content_format,
            payload: &command.payload,
        };
        let sent = self.coap.request(now, holder, peer, &outgoing);
        self.sent(number, sent)
    }

    fn abandon(&mut self, number: u64) {
        if let Some(request) = self.requests.requests.remove(&number) {
            self.requests.commands.remove(&request);
            self.coap.abandon(request);
        }
    }
}

/// The gate, as the router asks for devices.
struct Devices<'g> {
    gate: &'g Gate,
    lines: &'g Lines,
    now: Instant,
}

impl Directory for Devices<'_> {
    fn device(&self, id: &str) -> Option<(Name, Name)> {
        let view = self.gate.device(self.now, self.gate.device_by_id(id)?)?;
        Some((view.id.clone(), view.role.clone()))
    }

    fn devices_of(&self, role: &Name) -> Vec<Name> {
        let is_one = |view: &DeviceView<'_>| {
            let id = view.id.as_str();
            view.role == role && (view.has_credential || self.lines.has(id) || self.lines.has_node(id))
        };
        self.gate.devices(self.now).filter(is_one).map(|view| view.id.clone()).collect()
    }

    fn takes_copies(&self, id: &str) -> bool {
        can_reach(self.lines, self.gate, self.now, id)
    }
}

/// What a reply needs of the message it is to.
#[derive(Clone, Copy)]
struct ReplyTo<'a> {
    device: &'a str,
    path: &'a str,
    topic: Option<&'a str>,
    correlation: Option<&'a [u8]>,
    wrapped: bool,
}

impl Commands {
    /// With what `directory` has. Never an error: without a file every command is refused.
    pub fn open(
        directory: &std::path::Path,
        settings: &Settings,
        boot: Option<[u8; 16]>,
        tail: Tail,
    ) -> Commands {
        let (mut file, mut defect, mut entries) = (None, None, Vec::new());
        let wake = Arc::new(Notify::new());
        // Without any rule nothing is made; what an earlier configuration left is still ended.
        if settings.is_wanted() || directory.join(crate::downlink::log::NAME).exists() {
            match MailboxFile::open(directory, wake.clone()) {
                Ok(found) => {
                    for defect in &found.defects {
                        log::error!("{defect}");
                    }
                    (file, entries) = (Some(found.file), found.entries);
                }
                Err(reason) => {
                    log::error!(reason = reason.as_str(); "the mailbox cannot be opened: commands to devices are refused until the next start");
                    defect = Some(reason);
                }
            }
        }
        let boot = boot.map_or(0, |boot| crc32c::crc32c(&boot));
        let mailbox = Mailbox::new(boot, &entries);
        if !mailbox.is_empty() {
            log::info!(commands = mailbox.len(); "commands for devices are held");
        }
        Commands {
            router: Router::new(settings),
            lines: Lines::default(),
            lines_before: Lines::default(),
            mailbox,
            delivery: Delivery::default(),
            file,
            wake,
            defect,
            requests: Requests::default(),
            registrations: HashMap::new(),
            early: Vec::new(),
            refreshes: HashMap::new(),
            remote: settings.remote.clone(),
            remote_calls: VecDeque::new(),
            served: served::Serving::new(&settings.served),
            owed: HashMap::new(),
            next_ticket: 0,
            answers: Vec::new(),
            waiters: HashMap::new(),
            unpublished: BTreeSet::new(),
            untold: Untold::default(),
            refusals_left: REFUSALS_BURST,
            refusal_at: None,
            counts: Counts::default(),
            tail,
        }
    }

    /// Notified when the file has done its work, so that a round is due.
    pub fn wake(&self) -> Arc<Notify> {
        self.wake.clone()
    }

    /// All commands.
    pub fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// Numbers since the start.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Commands on their way.
    pub fn in_flight(&self) -> usize {
        self.delivery.in_flight()
    }

    /// Why commands cannot be stored at present.
    pub fn trouble(&self) -> Option<&str> {
        self.defect.as_deref().or(self.mailbox.trouble())
    }

    /// Whether only another start opens the mailbox.
    pub fn is_closed(&self) -> bool {
        self.defect.is_some()
    }

    /// The size of the file and the bytes written since the start.
    pub fn bytes(&self) -> (u64, u64) {
        self.file.as_ref().map_or((0, 0), MailboxFile::bytes)
    }

    /// Since when the disk has been at it.
    pub fn busy_since(&self) -> Option<Instant> {
        self.file.as_ref().and_then(MailboxFile::busy_since)
    }

    /// Takes over what a reload changed. Commands that wait and are not allowed any more are
    /// refused.
    pub fn replace(&mut self, now: Instant, settings: &Settings, gate: &Gate, directory: &std::path::Path) {
        if self.file.is_none() && self.defect.is_none() && settings.is_wanted() {
            match MailboxFile::open(directory, self.wake.clone()) {
                Ok(found) => self.file = Some(found.file),
                Err(reason) => {
                    log::error!(reason = reason.as_str(); "the mailbox cannot be opened: commands to devices are refused until the next start");
                    self.defect = Some(reason);
                }
            }
        }
        self.router = Router::new(settings);
        self.remote = settings.remote.clone();
        self.replace_served(now, &settings.served, gate);
        self.review(now, gate, Absent::Refused);
    }

    /// Takes over which serial devices take commands.
    pub fn set_lines(&mut self, settings: &serial::Settings) {
        self.lines_before = std::mem::replace(&mut self.lines, Lines::new(settings));
    }

    /// Refuses the commands that wait and are not allowed any more.
    pub fn review(&mut self, now: Instant, gate: &Gate, absent: Absent) {
        let (lines, lines_before) = (&self.lines, &self.lines_before);
        let devices = Devices { gate, lines, now };
        let router = &self.router;
        self.mailbox.review(|command| {
            if devices.device(command.device.as_str()).is_none() {
                let removed = || Outcome::of(Status::Refused, "the device was removed");
                return (absent == Absent::Refused).then(removed);
            }
            let device = command.device.as_str();
            if lines_before.has(device) && !lines.has(device) {
                return Some(Outcome::of(Status::Refused, "the device takes no commands any more"));
            }
            let still = router.reaches(&command.topic, &command.device, &command.path, &devices);
            (!still).then(|| Outcome::of(Status::Refused, "the downlink rules do not allow it any more"))
        });
        self.mailbox.review_paths(|device, path| match devices.device(device.as_str()) {
            Some((_, role)) => router.offers(&role, path),
            None => absent == Absent::Waits,
        });
    }

    // What comes in.
    //
    // Each message is answered with success, also one that is refused, whose sender is told on its
    // reply topic: mosquitto 2.0 does not count a PUBREC with an error as an answer (against MQTT 5
    // §4.9), and sends nothing more after as many of them as the Receive Maximum allows.

    /// Takes what the broker has for devices; `generation` says which uplink brought it.
    pub fn receive(&mut self, moment: &Moment, pipeline: &mut Readings, generation: u64, inbound: Inbound) {
        match inbound {
            Inbound::Message { connection, session_present, keeps_ids, plain, message } => {
                let answer = match message.qos {
                    0 => None,
                    1 => Some(Answer::Puback),
                    _ => Some(Answer::Pubrec),
                };
                let packet_id = message.packet_id;
                let owed = answer.map(|answer| Owed { generation, connection, answer, packet_id });
                let way = Way { session_present, keeps_ids, plain };
                let is_over = self.receive_message(moment, pipeline, owed, way, &message);
                if let Some(owed) = owed.filter(|_| is_over) {
                    self.answer(owed);
                }
            }
            Inbound::Released { connection, packet_id } => {
                let owed = Owed { generation, connection, answer: Answer::Pubcomp, packet_id };
                let ticket = self.owe(owed);
                self.mailbox.handle_released(moment.now, packet_id, ticket);
            }
            Inbound::SessionLost => self.mailbox.handle_session_lost(),
            Inbound::Settled(packets) => self.mailbox.handle_settled(moment.now, &packets),
        }
    }

    fn owe(&mut self, owed: Owed) -> u64 {
        self.next_ticket += 1;
        self.owed.insert(self.next_ticket, owed);
        self.next_ticket
    }

    fn answer(&mut self, owed: Owed) {
        let Owed { generation, connection, answer, packet_id } = owed;
        self.answers.push(BrokerAnswer { generation, connection, answer, packet_id });
    }

    /// Whether it is to be answered at once; otherwise when it is stored.
    fn receive_message(
        &mut self,
        moment: &Moment,
        pipeline: &mut Readings,
        owed: Option<Owed>,
        way: Way,
        message: &InboundMessage,
    ) -> bool {
        let request = self.router.request(&message.topic);
        let wrapped = way.plain || request.is_some();
        let topic = request.as_ref().map_or(message.topic.as_str(), |request| request.topic.as_str());
        let wants_outcome = request.is_some()
            || message.response_topic.is_some()
            || message.too_long == Some("response topic");
        if let Some(asked) = self.remote.clone().asked(topic, wants_outcome) {
            let default = request.as_ref().and_then(|request| request.reply.clone());
            self.take_remote(moment, pipeline, asked, message, (default, wrapped));
            return true;
        }
        let router = std::mem::take(&mut self.router);
        let routed =
            router.route(topic, &Devices { gate: &pipeline.gate, lines: &self.lines, now: moment.now });
        let is_over = match routed {
            Routed::Nothing => true,
            Routed::Refused { device, path, refusal } => {
                let default = request
                    .as_ref()
                    .and_then(|request| request.reply.clone())
                    .or_else(|| device.as_deref().and_then(|device| router.reply_topic(device, &path)));
                let id = device.as_deref().unwrap_or("-");
                let chosen = message.response_topic.as_deref();
                let chosen = chosen.filter(|topic| pipeline.gate.check_reply_topic(topic, id).is_ok());
                let to = ReplyTo {
                    device: id,
                    path: nameable(&path),
                    topic: chosen.or(default.as_deref()),
                    correlation: message.correlation.as_deref(),
                    wrapped,
                };
                self.refuse(moment, pipeline, to, &refusal.to_string());
                true
            }
            Routed::To(targets) => {
                let default = request.as_ref().and_then(|request| request.reply.clone());
                let is_request = request.is_some();
                let source = Source { topic, default, wrapped, way, is_request };
                self.take(moment, pipeline, &router, owed, targets, message, source)
            }
        };
        self.router = router;
        is_over
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "one private place where all that a command is made of comes together"
    )]
    fn take(
        &mut self,
        moment: &Moment,
        pipeline: &mut Readings,
        router: &Router,
        owed: Option<Owed>,
        targets: Vec<Target<'_>>,
        message: &InboundMessage,
        source: Source<'_>,
    ) -> bool {
        let wish = wish(message);
        let mut commands = Vec::with_capacity(targets.len());
        for target in targets {
            let default =
                source.default.clone().or_else(|| router.reply_topic(target.device.as_str(), &target.path));
            let device = target.device.as_str();
            let chosen = message.response_topic.as_deref();
            let fault = chosen.and_then(|topic| pipeline.gate.check_reply_topic(topic, device).err());
            let reply_topic = chosen.filter(|_| fault.is_none()).map(str::to_owned).or(default);
            let refused = match &wish {
                Err(why) => Some(why.clone()),
                Ok(_) if !can_reach(&self.lines, &pipeline.gate, moment.now, device) => {
                    Some(NO_SESSION.to_owned())
                }
                Ok((method, _)) => fault.map(reply_fault).or_else(|| {
                    let checked = line::check(&self.lines, device, &target.path, *method, &message.payload);
                    checked.and_then(|()| can_tell(target.rule.deliver, *method)).err()
                }),
            };
            if let Some(why) = refused {
                let to = ReplyTo {
                    device,
                    path: &target.path,
                    topic: reply_topic.as_deref(),
                    correlation: message.correlation.as_deref(),
                    wrapped: source.wrapped,
                };
                self.refuse(moment, pipeline, to, &why);
                continue;
            }
            let Ok((method, content_format)) = wish else { continue };
            let rule = target.rule;
            let expires = rule.expires.unwrap_or(target.limits.expires);
            let most = u32::try_from(expires.as_secs()).unwrap_or(u32::MAX).max(1);
            let command = Command {
                device: target.device.clone(),
                path: target.path,
                topic: source.topic.to_owned(),
                method: method as u8,
                content_format,
                payload: message.payload.clone(),
                reply_topic,
                correlation: message.correlation.clone(),
                wrapped: source.wrapped,
                taken: moment.stamp(),
                expires_s: message.expires_s.map_or(most, |seconds| seconds.min(most)),
                deliver: rule.deliver,
                idempotent: rule.idempotent,
                latest_wins: rule.latest_wins,
                answer_within_s: u16::try_from(rule.answer_within.as_secs()).unwrap_or(u16::MAX),
            };
            commands.push((command, target.limits));
        }
        if commands.is_empty() {
            return true;
        }
        if let Some(defect) = &self.defect {
            let why = format!("commands cannot be stored: {defect}");
            for (command, _) in &commands {
                let outcome = Outcome::of(Status::Full, why.as_str());
                self.counts.refused += 1;
                self.tell(moment, pipeline, reply_to(command), &outcome);
            }
            return true;
        }
        let packet = owed.map(|owed| (message.qos, owed.packet_id));
        let ticket = match owed {
            Some(owed) => self.owe(owed),
            None => 0,
        };
        let arrival = Arrival {
            now: moment.now,
            ticket,
            topic_hash: hash(&[message.topic.as_bytes()]),
            hash: hash_of(message),
            packet,
            // The generations and the connections of each are few.
            connection: owed.map_or(1, |owed| (owed.generation << 32 | owed.connection) + 1),
            distinct: message.correlation.is_some() || source.is_request,
            again: message.duplicate && source.way.session_present,
            keeps_ids: source.way.keeps_ids,
            retained: message.retained,
        };
        let copies: Vec<Command> = commands.iter().map(|(command, _)| command.clone()).collect();
        match self.mailbox.take(&arrival, commands) {
            Take::Duplicate => false,
            Take::Repeated => {
                self.owed.remove(&ticket);
                true
            }
            Take::Taken(taken) => {
                for (command, taken) in copies.iter().zip(&taken) {
                    match taken {
                        Ok(_) => self.show(moment, command, "taken", None),
                        Err(outcome) => self.tell(moment, pipeline, reply_to(command), outcome),
                    }
                }
                if taken.iter().any(Result::is_ok) {
                    return false;
                }
                self.owed.remove(&ticket);
                true
            }
        }
    }

    /// A command of the operator: its number, and what will have its outcome.
    ///
    /// # Errors
    /// Why it is not taken.
    #[allow(clippy::too_many_arguments, reason = "the fields of the request")]
    pub fn send(
        &mut self,
        moment: &Moment,
        gate: &Gate,
        device: &str,
        path: &str,
        method: Method,
        content_format: Option<ContentFormat>,
        payload: Vec<u8>,
    ) -> Result<(u64, oneshot::Receiver<Outcome>), String> {
        let topic = self.router.command_topic(device, path);
        let topic = topic.ok_or("[topics] command is switched off, by which the downlink rules are asked")?;
        let routed = self.router.route(&topic, &Devices { gate, lines: &self.lines, now: moment.now });
        let target = match routed {
            Routed::To(targets) => targets.into_iter().find(|target| target.device.as_str() == device),
            Routed::Refused { refusal: Refusal::NoRule, .. } | Routed::Nothing => None,
            Routed::Refused { refusal, .. } => return Err(format!("{refusal} ({topic})")),
        };
        let target = target.ok_or_else(|| {
            format!(
                "no downlink rule of the device's role matches the topic {topic}; a table [role.ROLE.downlink.NAME] with topic \
                 and path, as `man tombolo.toml` shows, allows it"
            )
        })?;
        if !can_reach(&self.lines, gate, moment.now, device) {
            return Err(NO_SESSION.to_owned());
        }
        line::check(&self.lines, device, &target.path, method, &payload)?;
        can_tell(target.rule.deliver, method)?;
        if payload.len() > PAYLOAD_MAX {
            return Err(format!("the payload has more than {PAYLOAD_MAX} bytes"));
        }
        if let Some(defect) = &self.defect {
            return Err(format!("commands cannot be stored: {defect}"));
        }
        if self.waiters.len() >= WAITERS_MAX {
            return Err("too many commands are waited for; try again".to_owned());
        }
        let rule = target.rule;
        let expires = rule.expires.unwrap_or(target.limits.expires);
        let command = Command {
            device: target.device.clone(),
            path: target.path,
            topic: topic.clone(),
            method: method as u8,
            content_format,
            payload,
            reply_topic: None,
            correlation: None,
            wrapped: false,
            taken: moment.stamp(),
            expires_s: u32::try_from(expires.as_secs()).unwrap_or(u32::MAX).max(1),
            deliver: rule.deliver,
            idempotent: rule.idempotent,
            latest_wins: rule.latest_wins,
            answer_within_s: u16::try_from(rule.answer_within.as_secs()).unwrap_or(u16::MAX),
        };
        // The operator's commands are no message of the broker: nothing is compared with them.
        let own = format!("\0operator\0{topic}");
        let arrival = Arrival {
            now: moment.now,
            ticket: 0,
            topic_hash: hash(&[own.as_bytes()]),
            hash: 0,
            packet: None,
            connection: 1,
            distinct: false,
            again: false,
            keeps_ids: false,
            retained: false,
        };
        let shown = command.clone();
        let taken = self.mailbox.take(&arrival, vec![(command, target.limits)]);
        let Take::Taken(taken) = taken else { return Err("the command was not taken".to_owned()) };
        match taken.into_iter().next() {
            Some(Ok(number)) => {
                self.show(moment, &shown, "taken", None);
                let (sender, receiver) = oneshot::channel();
                self.waiters.insert(number, sender);
                Ok((number, receiver))
            }
            Some(Err(outcome)) => Err(String::from_utf8_lossy(&outcome.payload).into_owned()),
            None => Err("the command was not taken".to_owned()),
        }
    }

    /// Drops a command that is not on its way; whether there is one.
    pub fn drop_command(&mut self, number: u64) -> bool {
        let waits =
            self.mailbox.state(number).is_some_and(|state| state == crate::downlink::command::State::Waiting);
        if waits {
            self.mailbox.end(number, Outcome::of(Status::Dropped, "dropped by the operator"));
        }
        waits
    }

    // What follows.

    /// Follows up whatever happened in a round.
    pub fn round(
        &mut self,
        moment: &Moment,
        sides: &mut Sides<'_>,
        pipeline: &mut Readings,
        sessions: &SessionPersistence,
    ) {
        let now = moment.now;
        self.take_fetches(moment, sides.coap, pipeline, sessions);
        self.take_values(moment, sides.coap, pipeline);
        while let Some(index) = sides.coap.poll_contact() {
            if self.mailbox.is_empty() && !self.served.is_wanted() {
                continue;
            }
            let Some(device) = pipeline.gate.id(index).cloned() else { continue };
            if !self.mailbox.is_empty() {
                let Commands { router, lines, mailbox, delivery, requests, counts, .. } = self;
                let mut carrier = SideCarrier::new(sides, &pipeline.gate, (router, lines), requests, counts);
                delivery.handle_contact(now, &device, mailbox, &mut carrier);
            }
            self.note_served_contact(now, sides.coap, &pipeline.gate, index, &device);
        }
        while let Some(reply) = sides.coap.poll_reply() {
            if let Some(device) = sides.coap.device_of(reply.request.peer().peer()) {
                pipeline.gate.seen(now, device);
            }
            if let Some(relation) = self.refreshes.remove(&reply.request) {
                self.handle_refreshed(relation, &reply.outcome);
                continue;
            }
            let Some(&number) = self.requests.commands.get(&reply.request) else {
                self.handle_served_reply(now, reply);
                continue;
            };
            let is_over = reply.outcome != protocol::Outcome::Acknowledged;
            self.delivery.handle(now, number, told(reply.outcome), &mut self.mailbox);
            // The acknowledgement of a notification ends its request.
            if is_over || !self.delivery.is_carried(number) {
                self.requests.commands.remove(&reply.request);
                self.requests.requests.remove(&number);
            }
        }
        while let Some((number, delivered)) = sides.mqtt.poll_delivered() {
            let refused = |code: u8| {
                Outcome::of(Status::Refused, format!("the MQTT client refused it: PUBACK 0x{code:02x}"))
            };
            let told = match delivered {
                mqtt::Delivered::Sent => Told::Acknowledged,
                mqtt::Delivered::Acknowledged => Told::Answered(Outcome::notified()),
                mqtt::Delivered::Refused(code) => Told::Answered(refused(code)),
                mqtt::Delivered::Gone => Told::Gone,
            };
            self.delivery.handle(now, number, told, &mut self.mailbox);
        }
        self.take_delivered(moment, sides, pipeline);
        self.follow(moment, sides, pipeline);
    }

    /// What is due, once a second.
    pub fn care(&mut self, moment: &Moment, sides: &mut Sides<'_>, pipeline: &mut Readings) {
        if let Some((count, example)) = self.untold.poll(moment.now) {
            log::warn!(outcomes = count, example = example.as_str(); "commands were not taken, and their senders could not be told");
        }
        self.care_for_served(moment.now, sides.coap, &pipeline.gate);
        if self.file.is_none() {
            return;
        }
        self.mailbox.expire(moment);
        self.refresh_relations(moment.now, sides, pipeline);
        if !self.mailbox.is_empty() {
            let Commands { router, lines, mailbox, delivery, requests, counts, .. } = self;
            let mut carrier = SideCarrier::new(sides, &pipeline.gate, (router, lines), requests, counts);
            delivery.handle_timeout(moment.now, mailbox, &mut carrier);
            for number in std::mem::take(&mut self.unpublished) {
                self.publish(moment, pipeline, number);
            }
        }
        self.follow(moment, sides, pipeline);
    }

    /// The journal has, or has not, the reply to a command.
    pub fn handle_reply_stored(&mut self, number: u64, stored: bool) {
        if stored {
            self.mailbox.handle_published(number);
        } else if self.mailbox.outcome(number).is_some() {
            self.unpublished.insert(number);
        }
    }

    fn follow(&mut self, moment: &Moment, sides: &mut Sides<'_>, pipeline: &mut Readings) {
        let now = moment.now;
        let Some(file) = &self.file else { return };
        if let Some(committed) = file.poll_committed() {
            if let Some(reason) = committed.error.as_deref().filter(|_| self.mailbox.trouble().is_none()) {
                log::error!(reason = reason; "commands cannot be stored: they are refused until they can");
            } else if committed.error.is_none() && self.mailbox.trouble().is_some() {
                log::info!("commands are stored again");
            }
            self.mailbox.handle_committed(now, &committed);
        }
        loop {
            while let Some(event) = self.mailbox.poll_event() {
                self.handle_event(moment, sides, pipeline, event);
            }
            let Some(batch) = self.mailbox.poll_batch(now) else { break };
            if let Some(file) = &self.file {
                file.submit(batch);
            }
        }
        // Without anything for the disk a batch is followed at once.
        while let Some(event) = self.mailbox.poll_event() {
            self.handle_event(moment, sides, pipeline, event);
        }
    }

    fn handle_event(
        &mut self,
        moment: &Moment,
        sides: &mut Sides<'_>,
        pipeline: &mut Readings,
        event: Event,
    ) {
        let now = moment.now;
        match event {
            Event::Stored { ticket } => {
                if let Some(owed) = self.owed.remove(&ticket) {
                    self.answer(owed);
                }
            }
            Event::Ready(device) => {
                let Commands { router, lines, mailbox, delivery, requests, counts, .. } = self;
                let mut carrier = SideCarrier::new(sides, &pipeline.gate, (router, lines), requests, counts);
                delivery.offer(now, &device, mailbox, &mut carrier);
            }
            Event::MaySend(number) => {
                let shown = self.mailbox.command(number).cloned();
                let age_s = self.mailbox.age(number, moment).map_or(0, |age| age.as_secs());
                let Commands { router, lines, mailbox, delivery, requests, counts, .. } = self;
                let before = counts.sent;
                let mut carrier = SideCarrier::new(sides, &pipeline.gate, (router, lines), requests, counts);
                carrier.age_s = age_s;
                delivery.handle_may_send(now, number, mailbox, &mut carrier);
                if let Some(command) = shown.filter(|_| self.counts.sent > before) {
                    self.show(moment, &command, "sent", None);
                }
            }
            Event::Ended { number, device, path, outcome } => {
                let status = outcome.status.to_string();
                let seen = CommandSeen {
                    received: moment.wall,
                    boottime_ms: moment.boottime_ms,
                    device: device.as_str(),
                    path: &path,
                    method: "",
                    bytes: outcome.payload.len(),
                    preview: &outcome.payload,
                    state: "ended",
                    outcome: Some(&status),
                };
                self.tail.push_command(&seen);
                if let Some(waiter) = self.waiters.remove(&number) {
                    let _ = waiter.send(outcome);
                }
            }
            Event::Reply(number) => self.publish(moment, pipeline, number),
            Event::Related { ticket, relation } => {
                self.handle_related(moment, sides.coap, ticket, Some(relation));
            }
            Event::Unrelated { ticket } => self.handle_related(moment, sides.coap, ticket, None),
            Event::Refresh(relation) => self.send_refresh(moment, sides.coap, pipeline, relation),
        }
    }

    fn publish(&mut self, moment: &Moment, pipeline: &mut Readings, number: u64) {
        let Some((command, outcome)) = self.mailbox.outcome(number) else { return };
        let to = reply_to(command);
        let mut published = publish(moment, pipeline, number, to, outcome);
        if matches!(published, Err(ReplyFault::Topic(_))) {
            // The configuration is another one than when the command came.
            let default = self.router.reply_topic(to.device, to.path);
            let to = ReplyTo { topic: default.as_deref(), ..to };
            published = publish(moment, pipeline, number, to, outcome);
        }
        match published {
            Ok(true) => {}
            Ok(false) if to.topic.is_none() => self.mailbox.handle_published(number),
            Ok(false) | Err(ReplyFault::Topic(_)) | Err(ReplyFault::Unstored(Refused::TooLarge)) => {
                self.counts.untold += 1;
                self.untold.note(to, &outcome.status.to_string());
                self.mailbox.handle_published(number);
            }
            Err(ReplyFault::Unstored(_)) => drop(self.unpublished.insert(number)),
        }
    }

    /// Refuses a command that is not kept.
    fn refuse(&mut self, moment: &Moment, pipeline: &mut Readings, to: ReplyTo<'_>, why: &str) {
        self.counts.refused += 1;
        self.tell(moment, pipeline, to, &Outcome::of(Status::Refused, why));
    }

    /// Publishes the outcome of a command that is not kept, unless there are too many of them.
    fn tell(&mut self, moment: &Moment, pipeline: &mut Readings, to: ReplyTo<'_>, outcome: &Outcome) {
        let status = outcome.status.to_string();
        self.tail.push_command(&CommandSeen {
            received: moment.wall,
            boottime_ms: moment.boottime_ms,
            device: to.device,
            path: to.path,
            method: "",
            bytes: outcome.payload.len(),
            preview: &outcome.payload,
            state: "ended",
            outcome: Some(&status),
        });
        // Number 0 is no command's: nothing is waited for.
        if !self.may_refuse(moment.now) || !matches!(publish(moment, pipeline, 0, to, outcome), Ok(true)) {
            self.counts.untold += 1;
            self.untold.note(to, &status);
        }
    }

    fn may_refuse(&mut self, now: Instant) -> bool {
        let since = *self.refusal_at.get_or_insert(now);
        let earned = now.saturating_duration_since(since).as_secs() / REFUSAL_EVERY.as_secs();
        if earned > 0 {
            self.refusals_left =
                self.refusals_left.saturating_add(earned.min(1_000) as u32).min(REFUSALS_BURST);
            self.refusal_at = Some(now);
        }
        let may = self.refusals_left > 0;
        self.refusals_left = self.refusals_left.saturating_sub(1);
        may
    }

    fn show(&self, moment: &Moment, command: &Command, state: &str, outcome: Option<&str>) {
        self.tail.push_command(&CommandSeen {
            received: moment.wall,
            boottime_ms: moment.boottime_ms,
            device: command.device.as_str(),
            path: &command.path,
            method: method_name(command.method),
            bytes: command.payload.len(),
            preview: &command.payload,
            state,
            outcome,
        });
    }

    /// The next answer for the broker.
    pub fn poll_answer(&mut self) -> Option<BrokerAnswer> {
        if self.answers.is_empty() { None } else { Some(self.answers.remove(0)) }
    }

    /// Whether outcomes are on their way into the journal, or anything to the disk: after a stop
    /// meanwhile the next start would tell some of them once more.
    pub fn is_under_way(&self) -> bool {
        self.mailbox.is_being_stored() || self.mailbox.ended() > self.unpublished.len()
    }

    /// At the stop: what is under way on the disk is waited for.
    pub fn close(&mut self) {
        if let Some(file) = &mut self.file {
            file.close();
        }
    }
}

/// Said of plain senders, and of serial devices that take no commands.
const NO_SESSION: &str = "commands reach devices over DTLS, MQTT and serial lines; this one has no credential, and on a \
                          line nothing that is writable";

/// Why a response topic is not taken.
fn reply_fault(fault: TopicFault) -> String {
    let why = match fault {
        TopicFault::TooLong => "is empty or has more than 1,024 bytes",
        TopicFault::Unpublishable => "is none that can be published to: it begins with $ or has a wildcard",
        TopicFault::ForeignSpace | TopicFault::Own => "belongs to a device or to the gateway",
    };
    format!("the response topic {why}")
}

/// Whether a command of this method can be carried out by a rule that delivers so: what the device
/// fetches or observes is a state, which is set or removed.
fn can_tell(deliver: Deliver, method: Method) -> Result<(), String> {
    if deliver != Deliver::Observe || matches!(method, Method::Put | Method::Post | Method::Delete) {
        return Ok(());
    }
    Err(format!(
        "its rule has deliver = \"observe\", by which a {} does not reach the device; use PUT, POST or DELETE",
        method_name(method as u8)
    ))
}

/// Whether the device can have a DTLS session at all, or is on a line and takes commands.
fn can_reach(lines: &Lines, gate: &Gate, now: Instant, device: &str) -> bool {
    let index = gate.device_by_id(device);
    let has_session =
        || index.and_then(|index| gate.device(now, index)).is_some_and(|view| view.has_credential);
    lines.has(device) || lines.has_node(device) || has_session()
}

/// How a message came.
#[derive(Clone, Copy)]
struct Way {
    /// The broker knew the session when the connection began.
    session_present: bool,
    /// It repeats messages under their packet ids.
    keeps_ids: bool,
    /// It speaks MQTT 3.1.1.
    plain: bool,
}

/// What is known of where a message came from.
struct Source<'a> {
    topic: &'a str,
    /// Where its reply goes by the topic it came on.
    default: Option<String>,
    wrapped: bool,
    way: Way,
    /// Its topic has an id of the sender's own.
    is_request: bool,
}

/// Publishes an outcome; `Ok(false)`: nobody wants it.
fn publish(
    moment: &Moment,
    pipeline: &mut Readings,
    number: u64,
    to: ReplyTo<'_>,
    outcome: &Outcome,
) -> Result<bool, ReplyFault> {
    publish_part(moment, pipeline, number, to, outcome, None).map(|record| record.is_some())
}

/// Publishes an outcome, or a part of it: its record; `Ok(None)`: nobody wants it.
fn publish_part(
    moment: &Moment,
    pipeline: &mut Readings,
    number: u64,
    to: ReplyTo<'_>,
    outcome: &Outcome,
    part: Option<&str>,
) -> Result<Option<RecordId>, ReplyFault> {
    let Some(topic) = to.topic else { return Ok(None) };
    let status = outcome.status.to_string();
    let told = reply::Outcome {
        device: to.device,
        path: to.path,
        topic,
        reply: CommandReply { status: &status, correlation: to.correlation, partial: outcome.partial },
        content_format: outcome.content_format,
        envelope: if to.wrapped { Envelope::Json } else { Envelope::None },
        part,
        stamp: moment.stamp(),
        payload: &outcome.payload,
    };
    pipeline.handle_reply(number, &told).map(Some)
}

/// As much of a refused path as the record of its outcome has room for.
fn nameable(path: &str) -> &str {
    let end = (0..=path.len().min(PATH_MAX)).rev().find(|end| path.is_char_boundary(*end)).unwrap_or(0);
    if end == 0 { "-" } else { &path[..end] }
}

fn reply_to(command: &Command) -> ReplyTo<'_> {
    ReplyTo {
        device: command.device.as_str(),
        path: &command.path,
        topic: command.reply_topic.as_deref(),
        correlation: command.correlation.as_deref(),
        wrapped: command.wrapped,
    }
}

fn told(outcome: protocol::Outcome) -> Told {
    match outcome {
        protocol::Outcome::Acknowledged => Told::Acknowledged,
        protocol::Outcome::Response { code, content_format, payload, partial } => {
            Told::Answered(Outcome { status: Status::Code(code.0), content_format, payload, partial })
        }
        protocol::Outcome::InPart { code, sent, of, names_another_block } => {
            let code = Status::Code(code.0);
            let why = match names_another_block {
                true => "with the Block1 option of another block",
                false => "without a Block1 option: it does not know blocks (RFC 7959)",
            };
            Told::Answered(Outcome::of(
                Status::Unknown,
                format!(
                    "the device answered {code} when it had {sent} of {of} bytes, {why}; it may have run with that part. Send \
                     at most 1,024 bytes"
                ),
            ))
        }
        protocol::Outcome::Unintelligible(option) => Told::Answered(Outcome::of(
            Status::Unknown,
            format!(
                "the device's answer has the critical option {option}, which is not known here: it may have run"
            ),
        )),
        protocol::Outcome::Reset => Told::Rejected,
        protocol::Outcome::Unanswered => Told::Unanswered,
        protocol::Outcome::Gone => Told::Gone,
    }
}

/// The method and format that a message asks for, or why it cannot be carried out.
fn wish(message: &InboundMessage) -> Result<(Method, Option<ContentFormat>), String> {
    if let Some(what) = message.too_long {
        return Err(format!("the {what} has more than 1,024 bytes"));
    }
    if message.payload_length > PAYLOAD_MAX {
        return Err(format!("the payload has more than {PAYLOAD_MAX} bytes"));
    }
    let method = match message.method.as_deref() {
        None => Method::Put,
        Some(text) => parse_method(text).ok_or_else(|| format!("there is no method {text:?}"))?,
    };
    if matches!(method, Method::Get | Method::Delete) && message.payload_length > 0 {
        return Err(format!("a {} has no payload", method_name(method as u8)));
    }
    let format = match (&message.content_format, &message.content_type) {
        (Some(number), _) => {
            let number = number.parse().map_err(|_| format!("{number:?} is no content format"))?;
            Some(ContentFormat(number))
        }
        (None, Some(media_type)) => ContentFormat::from_media_type(media_type),
        (None, None) => None,
    };
    Ok((method, format))
}

const METHODS: [(Method, &str); 7] = [
    (Method::Get, "GET"),
    (Method::Post, "POST"),
    (Method::Put, "PUT"),
    (Method::Delete, "DELETE"),
    (Method::Fetch, "FETCH"),
    (Method::Patch, "PATCH"),
    (Method::IPatch, "IPATCH"),
];

/// The method of this name, in any case.
pub fn parse_method(text: &str) -> Option<Method> {
    METHODS.into_iter().find(|(_, name)| name.eq_ignore_ascii_case(text)).map(|(method, _)| method)
}

/// The name of a method code.
pub fn method_name(code: u8) -> &'static str {
    METHODS.into_iter().find(|(method, _)| *method as u8 == code).map_or("", |(_, name)| name)
}

/// The first 64 bits of SHA-256 over parts, each with its length.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    let digest = context.finish();
    digest.as_ref().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn hash_of(message: &InboundMessage) -> u64 {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    hash(&[
        message.topic.as_bytes(),
        &message.payload,
        text(&message.response_topic).as_bytes(),
        message.correlation.as_deref().unwrap_or_default(),
        text(&message.method).as_bytes(),
        text(&message.content_type).as_bytes(),
        text(&message.content_format).as_bytes(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_asks_for_a_method_and_a_format() {
        let message = InboundMessage::default();
        assert_eq!(wish(&message), Ok((Method::Put, None)));
        let with = |method: &str, content_type: &str| InboundMessage {
            method: Some(method.to_owned()),
            content_type: Some(content_type.to_owned()),
            ..InboundMessage::default()
        };
        assert_eq!(wish(&with("get", "application/cbor")), Ok((Method::Get, Some(ContentFormat::CBOR))));
        assert_eq!(
            wish(&with("POST", "text/plain; charset=utf-8")),
            Ok((Method::Post, Some(ContentFormat::TEXT)))
        );
        assert_eq!(wish(&with("PUT", "text/plain")), Ok((Method::Put, Some(ContentFormat::TEXT))));
        assert_eq!(wish(&with("PUT", "application/x-unknown")), Ok((Method::Put, None)));
        assert!(wish(&with("OPEN", "")).is_err());
        let long = InboundMessage { payload_length: PAYLOAD_MAX + 1, ..InboundMessage::default() };
        assert!(wish(&long).is_err());
        let body = InboundMessage { payload_length: 1, ..with("DELETE", "") };
        assert!(wish(&body).is_err());
    }

    #[test]
    fn outcomes_that_nobody_was_told_are_named_once_a_minute() {
        let (mut untold, now) = (Untold::default(), Instant::now());
        let to = |device| ReplyTo { device, path: "set", topic: None, correlation: None, wrapped: false };
        assert_eq!(untold.poll(now), None);
        untold.note(to("a"), "full");
        untold.note(to("b"), "refused");
        assert_eq!(untold.poll(now), Some((2, "full for set of a".to_owned())));
        untold.note(to("c"), "refused");
        assert_eq!(untold.poll(now + Duration::from_secs(59)), None);
        assert_eq!(untold.poll(now + UNTOLD_EVERY), Some((1, "refused for set of c".to_owned())));
    }

    #[test]
    fn messages_that_differ_in_anything_have_different_hashes() {
        let plain = InboundMessage { topic: "a".to_owned(), ..InboundMessage::default() };
        let moved = InboundMessage { payload: b"a".to_vec(), ..InboundMessage::default() };
        let asked = InboundMessage { correlation: Some(vec![1]), ..plain.clone() };
        let hashes: BTreeSet<u64> = [&plain, &moved, &asked].map(hash_of).into();
        assert_eq!(hashes.len(), 3);
        let again = InboundMessage { duplicate: true, packet_id: 9, ..plain.clone() };
        assert_eq!(hash_of(&plain), hash_of(&again), "what the broker adds does not count");
    }
}
