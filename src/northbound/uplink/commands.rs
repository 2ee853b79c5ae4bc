//! The subscription to commands, and the messages that come by it, until the daemon takes them.
//!
//! What the broker refuses or does not answer is asked for again on the connection that stands:
//! after [`AGAIN_FIRST`], then twice as long each time, [`AGAIN_LONGEST`] at most, and at a reload.
//! What it closes the connection over is asked for again when its time is over.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::message::covers;
use crate::northbound::inbound::InboundMessage;
use crate::northbound::reason_code;
use crate::northbound::strikes::Strikes;

/// It is left out for so long,
const LEFT_OUT: Duration = Duration::from_secs(3600);
/// after so many closes over it.
const STRIKES: u8 = 2;
/// What was refused is asked for again after so long at first,
const AGAIN_FIRST: Duration = Duration::from_secs(60);
/// and at most.
const AGAIN_LONGEST: Duration = Duration::from_secs(3600);
/// While so many messages wait for the daemon, no more are read from the broker.
pub const INBOX_MAX: usize = 256;
/// Messages of QoS 0 that wait; further ones are dropped, as QoS 0 allows.
const QOS0_MAX: usize = 256;

/// What the broker has for devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// A message; one of QoS 1 or 2 is to be answered.
    Message {
        /// Which connection it came by.
        connection: u64,
        /// The broker knew the session when this connection began.
        session_present: bool,
        /// The broker repeats a message under the packet id that it had (MQTT 5.0 §4.4), as far as
        /// is known: RabbitMQ, which grants no QoS 2, does not.
        keeps_ids: bool,
        /// MQTT 3.1.1 is spoken: its sender cannot be told anything by properties.
        plain: bool,
        /// The message.
        message: Box<InboundMessage>,
    },
    /// PUBREL came: to be answered by PUBCOMP.
    Released {
        /// Which connection it came by.
        connection: u64,
        /// Of the message that was answered by PUBREC.
        packet_id: u16,
    },
    /// The broker does not know the session: no packet id of before means anything.
    SessionLost,
    /// The broker has the PUBACKs of these packets.
    Settled(Vec<u16>),
}

/// A topic filter of commands that the broker does not let the gateway subscribe to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribed {
    /// The filter.
    pub filter: String,
    /// What the broker does instead.
    pub why: String,
}

/// What is known of the subscription, and what came by it.
#[derive(Debug)]
pub struct Commands {
    filters: Vec<String>,
    /// Those of earlier settings, which the session may still have.
    former: Vec<String>,
    /// The broker closed over QoS 2, or refused it: some have no more than QoS 1.
    at_least_once: bool,
    strikes: Strikes,
    /// What was asked for last, in the order of its answer.
    asked: Vec<String>,
    refused: Vec<(String, u8)>,
    /// When what is missing is asked for again, and how often it was asked for in vain.
    again_at: Option<Instant>,
    in_vain: u32,
    /// QoS 2 was granted.
    is_exactly_once: bool,
    /// Granted with QoS 0, though more was asked for.
    is_at_most_once: bool,
    /// It was not answered, on the last connection that it was tried on.
    silent: bool,
    inbox: VecDeque<Inbound>,
    qos0: usize,
    dropped: u64,
    /// PUBACKs sent, and those of them that the ping of this number is behind.
    sent: Vec<u16>,
    pinged: Option<(u64, Vec<u16>)>,
}

impl Commands {
    /// By these filters; empty: none are wanted.
    pub fn new(filters: Vec<String>) -> Commands {
        Commands {
            filters,
            former: Vec::new(),
            at_least_once: false,
            strikes: Strikes::new(STRIKES, LEFT_OUT),
            asked: Vec::new(),
            refused: Vec::new(),
            again_at: None,
            in_vain: 0,
            is_exactly_once: false,
            is_at_most_once: false,
            silent: false,
            inbox: VecDeque::new(),
            qos0: 0,
            dropped: 0,
            sent: Vec::new(),
            pinged: None,
        }
    }

    /// Whether commands are wanted at all.
    pub fn is_wanted(&self) -> bool {
        !self.filters.is_empty()
    }

    /// Whether messages on `topic` come by one of the filters, or will: nothing is known that keeps
    /// the broker from it.
    pub fn brings(&self, now: Instant, topic: &str) -> bool {
        let is_refused = |filter: &String| self.refused.iter().any(|(refused, _)| refused == filter);
        let is_silent = self.silent || self.strikes.is_left_out(now);
        !is_silent && self.filters.iter().any(|filter| covers(filter, topic) && !is_refused(filter))
    }

    /// Filters of earlier settings, of which those that are not wanted any more are to leave the
    /// session.
    pub fn set_former(&mut self, former: &[String]) {
        let is_left = |filter: &&String| !self.filters.contains(filter);
        self.former = former.iter().filter(is_left).cloned().collect();
    }

    /// What to unsubscribe from at the begin of a connection. A session that the broker does not
    /// know has nothing of it.
    pub fn former(&mut self, session_present: bool) -> &[String] {
        if !session_present {
            self.former.clear();
        }
        &self.former
    }

    /// The broker has unsubscribed it.
    pub fn handle_left(&mut self) {
        self.former.clear();
    }

    /// What to subscribe to at the begin of a connection; empty: nothing.
    pub fn ask(&mut self, now: Instant) -> &[String] {
        self.again_at = None;
        self.asked.clear();
        if !self.strikes.is_left_out(now) {
            self.strikes.take_up();
            self.asked.clone_from(&self.filters);
        }
        &self.asked
    }

    /// What to subscribe to once more on the connection that stands: what was not granted.
    pub fn ask_again(&mut self) -> &[String] {
        self.again_at = None;
        let whole = self.silent || self.strikes.left_out_until().is_some();
        self.strikes.take_up();
        self.asked = match whole {
            true => self.filters.clone(),
            false => self.refused.iter().map(|(filter, _)| filter.clone()).collect(),
        };
        &self.asked
    }

    /// When that is due on a connection that stands; `None`: nothing is missing.
    pub fn again_at(&self) -> Option<Instant> {
        let left_out = self.strikes.left_out_until().filter(|_| self.is_wanted());
        left_out.into_iter().chain(self.again_at).min()
    }

    /// Something was changed that may help: it is due at once, where something is missing.
    pub fn retry_now(&mut self, now: Instant) {
        if self.again_at().is_some() {
            (self.again_at, self.in_vain) = (Some(now), 0);
        }
    }

    fn note_in_vain(&mut self, now: Instant) {
        let wait = AGAIN_FIRST.saturating_mul(1 << self.in_vain.min(16)).min(AGAIN_LONGEST);
        self.in_vain = self.in_vain.saturating_add(1);
        self.again_at = Some(now + wait);
    }

    /// Whether QoS 1 is asked for instead of 2.
    pub fn is_at_least_once(&self) -> bool {
        self.at_least_once
    }

    /// The broker answered, one code for each filter that was asked for. Those it refused anew;
    /// what is asked for later is with QoS 1.
    pub fn handle_answer(&mut self, now: Instant, codes: &[u8]) -> Vec<(String, u8)> {
        if self.asked.is_empty() {
            // An earlier one is answered late: what was granted is known from the later one.
            return Vec::new();
        }
        self.strikes.clear();
        self.silent = false;
        self.at_least_once |= codes.iter().any(|code| reason_code::is_refusal(*code));
        self.is_exactly_once = codes.iter().all(|code| *code == 2);
        self.is_at_most_once = codes.contains(&0);
        let before = std::mem::take(&mut self.refused);
        let answered = std::mem::take(&mut self.asked).into_iter().zip(codes.iter().copied());
        self.refused = answered.filter(|(_, code)| reason_code::is_refusal(*code)).collect();
        match self.refused.is_empty() {
            true => (self.again_at, self.in_vain) = (None, 0),
            false => self.note_in_vain(now),
        }
        self.refused.iter().filter(|of| !before.contains(of)).cloned().collect()
    }

    /// Whether the broker granted QoS 2.
    pub fn is_exactly_once(&self) -> bool {
        self.is_exactly_once
    }

    /// Whether commands come with QoS 0 alone, though more was asked for.
    pub fn is_at_most_once(&self) -> bool {
        self.is_at_most_once
    }

    /// The broker has not answered it in time.
    pub fn handle_silence(&mut self, now: Instant) {
        self.silent = true;
        self.note_in_vain(now);
    }

    /// The broker closed the connection over it, or so it seems. Whether it is left out from now
    /// on.
    pub fn strike(&mut self, now: Instant) -> bool {
        // Once more with less before it counts.
        if !self.at_least_once {
            self.at_least_once = true;
            return false;
        }
        self.strikes.strike(now)
    }

    /// The filters by which no command comes. `connected`: without a connection nothing is known of
    /// an answer that did not come.
    pub fn unsubscribed(&self, now: Instant, connected: bool) -> Vec<Unsubscribed> {
        let of = |filter: &String, why: String| Unsubscribed { filter: filter.clone(), why };
        let all = |why: &str| self.filters.iter().map(|filter| of(filter, why.to_owned())).collect();
        if self.strikes.is_left_out(now) {
            return all("the broker closes the connection over the subscription");
        }
        if self.silent && connected {
            return all("the broker does not answer the subscription");
        }
        let told = |(filter, code): &(String, u8)| {
            let text = reason_code::text(*code);
            of(filter, format!("the broker refuses the subscription: {text} (0x{code:02x})"))
        };
        self.refused.iter().map(told).collect()
    }

    /// Something for devices came.
    pub fn push(&mut self, inbound: Inbound) {
        if let Inbound::Message { message, .. } = &inbound
            && message.qos == 0
        {
            if self.qos0 >= QOS0_MAX {
                self.dropped += 1;
                return;
            }
            self.qos0 += 1;
        }
        self.inbox.push_back(inbound);
    }

    /// The oldest.
    pub fn poll(&mut self) -> Option<Inbound> {
        let inbound = self.inbox.pop_front()?;
        if let Inbound::Message { message, .. } = &inbound
            && message.qos == 0
        {
            self.qos0 -= 1;
        }
        Some(inbound)
    }

    /// Whether so much waits for the daemon that no more is to be read.
    pub fn is_full(&self) -> bool {
        self.inbox.len() >= INBOX_MAX
    }

    /// Whether something waits for the daemon.
    pub fn has_some(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Messages of QoS 0 dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// A PUBACK was sent.
    pub fn note_puback(&mut self, packet_id: u16) {
        self.sent.push(packet_id);
    }

    /// Whether a ping is wanted, by whose answer the broker is known to have read PUBACKs.
    pub fn wants_ping(&self) -> bool {
        self.pinged.is_none() && !self.sent.is_empty()
    }

    /// It is sent, with this number.
    pub fn handle_ping(&mut self, number: u64) {
        self.pinged = Some((number, std::mem::take(&mut self.sent)));
    }

    /// All pings up to this number are answered.
    pub fn handle_ping_answered(&mut self, number: u64) {
        if let Some((_, packets)) = self.pinged.take_if(|(pinged, _)| *pinged <= number) {
            self.inbox.push_back(Inbound::Settled(packets));
        }
    }

    /// The connection is gone: whatever is not known to be read may come again.
    pub fn handle_closed(&mut self) {
        self.sent.clear();
        self.pinged = None;
    }
}
