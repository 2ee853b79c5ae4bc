//! How the uplink stands, as `tombolo status` shows it.

use std::time::{Duration, Instant};

use super::commands::Unsubscribed;
use super::stage::Stage;
use super::{STEP_WITHIN, Uplink};
use crate::message::{Lane, RecordId};
use crate::northbound::advice;
use crate::northbound::publisher::{Counters, CutOutcomes, HeldRecord, RefusedOutcomes, UNNAMED_MAX};
use crate::northbound::reason_code;
use crate::northbound::reconnect::PEACE;
use crate::northbound::session::Limits;
use crate::northbound::wire::Version;

/// Suspects and topics named.
const NAMED_MAX: usize = 16;
/// Of a message of the gateway's own that is too large.
pub const OWN_TOO_LARGE: &str = "the broker takes only";
/// A SUBSCRIBE has no SUBACK.
const UNANSWERED: &str = "the broker does not answer it";
/// A SUBACK that takes so long is named.
const SLOW_SUBACK: Duration = Duration::from_secs(2);
/// What there is to do about a topic that the gateway cannot read.
const ALLOW: &str = "allow this gateway to read it, or see the broker's log";

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
    /// The transport is there, and the broker has not answered CONNECT yet.
    pub opening: bool,
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
    /// The longest that one of these lasted.
    pub closes_lasted: Duration,
    /// Another client probably connects with our client id, and has done so in the last 10 min.
    pub rival: bool,
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
    /// What is left out of what the gateway publishes because the broker refuses it or closes over
    /// it, in words.
    pub left_out: Vec<String>,
    /// Filters of commands by which none comes.
    pub unsubscribed: Vec<Unsubscribed>,
    /// What the gateway cannot read of its own topics: no reading and no command depends on it. One
    /// sentence each.
    pub unheard: Vec<String>,
    /// Outcomes of commands that the broker refused, or that were too large for it, within the last
    /// hour: no reading depends on it.
    pub refused_outcomes: Vec<OutcomeTrouble>,
    /// The broker's Maximum Packet Size, of the last connection; `u32::MAX`: none was told.
    pub packet_limit: u32,
    /// Publishes a second at most, and whether that is because the broker complained.
    pub rate_limit: Option<(f64, bool)>,
    /// Until when a cap of the owner's lets nothing go, and its key in `[upstream]`.
    pub capped_until: Option<(&'static str, Instant)>,
    /// Connections that stood.
    pub connections: u64,
    /// Numbers since the start.
    pub counters: Counters,
    /// Readings of `qos = 0` rules dropped.
    pub volatile_dropped: u64,
    /// Commands of QoS 0 dropped for want of room.
    pub inbound_dropped: u64,
}

impl Status {
    /// How the uplink stands at `now`.
    pub(super) fn of(uplink: &Uplink, now: Instant) -> Status {
        let connected = uplink.is_connected();
        let (publisher, records) = (&uplink.publisher, uplink.publisher.records());
        let settled = uplink.attempts.settled();
        Status {
            connected,
            since: uplink.since,
            version: uplink.spoken.map(|(version, _)| version),
            version_since: uplink.spoken.map(|(_, since)| since),
            version_why: settled.and_then(|settled| settled.why_version.clone()),
            limits: connected.then_some(uplink.limits),
            window: publisher.window(),
            in_flight: publisher.in_flight(),
            waiting_since: publisher.waiting_since(),
            failure: uplink.failure.clone(),
            opening: uplink.stage == Stage::Opening,
            attempt_at: (uplink.stage == Stage::Waiting && !uplink.stopping)
                .then(|| uplink.attempts.due_at()),
            stopped_until: Lane::ALL.map(|lane| records.stopped_until(lane)),
            delivered_behind: Lane::ALL.map(|lane| records.delivered_behind(lane)),
            held_back: Lane::ALL.map(|lane| records.held_back(lane)),
            nothing_taken: records.nothing_taken(now),
            closes: uplink.attempts.closes(now),
            closes_lasted: uplink.attempts.closes_lasted(now),
            rival: uplink.attempts.reconnect.has_rival() && uplink.lasted(now) < PEACE,
            taken_at: records.taken_at(),
            blocked_by: Lane::ALL.map(|lane| publisher.blocked_by(lane)),
            suspect_count: records.suspect_count(),
            suspects: records.suspects(NAMED_MAX),
            left_out: left_out(uplink, now),
            unsubscribed: uplink.commands.unsubscribed(now, connected),
            unheard: unheard(uplink, now),
            refused_outcomes: refused_outcomes(uplink, now),
            packet_limit: uplink.limits.packet_size,
            rate_limit: publisher.rate_limit(),
            capped_until: publisher.capped_until(now),
            connections: uplink.connections,
            counters: publisher.counters(),
            volatile_dropped: publisher.volatile_dropped(),
            inbound_dropped: uplink.inbound_dropped(),
        }
    }
}

/// What is left out at `now` because the broker refuses it or closes over it, in words.
fn left_out(uplink: &Uplink, now: Instant) -> Vec<String> {
    let mut left_out = Vec::new();
    if let Some(why) = uplink.attempts.settled().and_then(|settled| settled.why_will.as_deref()) {
        let topic = uplink.gateway_status.topic().unwrap_or_default();
        let why = super::without_advice(why);
        left_out.push(format!(
            "the will on {topic}: with it {why}; the gateway connects without it; allow a retained message there, or set \
             [topics] gateway-status = \"\""
        ));
    }
    left_out.extend(uplink.own.paused(now).map(|class| {
        format!(
            "messages of [topics] {}: the broker refuses them, or closes the connection over them",
            class.key()
        )
    }));
    let refused = uplink.own.refused(NAMED_MAX);
    let limit = uplink.limits.packet_size;
    left_out.extend(refused.iter().map(|(topic, code)| match *code {
        reason_code::PACKET_TOO_LARGE if limit < u32::MAX => format!(
            "messages on {topic}: {OWN_TOO_LARGE} packets of {limit} bytes (Maximum Packet Size); smaller ones pass"
        ),
        reason_code::PACKET_TOO_LARGE => {
            format!("messages on {topic}: {OWN_TOO_LARGE} smaller packets; smaller ones pass")
        }
        code => format!("messages on {topic}: the broker refuses them: {} (0x{code:02x})", reason_code::text(code)),
    }));
    left_out
}

/// What the gateway cannot read of its own topics at `now`. What is not answered or does not come
/// ends with the answer, or the message, that was missing; without a connection nothing is known of
/// it.
fn unheard(uplink: &Uplink, now: Instant) -> Vec<String> {
    let mut unheard = Vec::new();
    let connected = uplink.is_connected();
    if let Some(until) = uplink.stage.until().filter(|_| uplink.stage.is_subscribing()) {
        // Readings do not wait for it.
        let waited = STEP_WITHIN.saturating_sub(until.saturating_duration_since(now));
        if waited >= SLOW_SUBACK {
            let seconds = waited.as_secs();
            let what = match uplink.stage {
                Stage::SubscribingCommands { .. } => "commands",
                Stage::SubscribingHint { .. } => "update hints",
                _ => "the gateway's own status",
            };
            unheard.push(format!(
                "the subscription to {what} has waited {seconds} s for its answer; readings do not wait for it"
            ));
        }
    }
    if let Some(topic) = uplink.gateway_status.topic() {
        let silent = connected && uplink.subscription.is_unanswered();
        let why = uplink.subscription.left_out(now).or_else(|| silent.then(|| UNANSWERED.to_owned()));
        unheard.extend(why.map(|why| {
            format!(
                "the subscription to {topic}: {why}; a will of this gateway that is published late is not noticed and not \
                 put right; {ALLOW}"
            )
        }));
        if connected && uplink.echo.is_missing() {
            let commands = match uplink.commands.is_wanted() {
                true => "; where it may read nothing, no command reaches a device either",
                false => "",
            };
            unheard.push(format!(
                "the broker acknowledges what is published on {topic} and accepts the subscription to it, but does not \
                 deliver it{commands}; {ALLOW}"
            ));
        }
    }
    if connected && uplink.commands.is_at_most_once() {
        unheard.push(
            "the broker grants the subscription to commands with QoS 0 only: a command that comes while the connection is \
             away is lost; see who may subscribe with QoS 1 at the broker"
                .to_owned(),
        );
    }
    if let Some(topic) = uplink.hint.topic() {
        let silent = connected && uplink.hint.is_unanswered();
        let why = uplink.hint.left_out(now).or_else(|| silent.then(|| UNANSWERED.to_owned()));
        unheard.extend(why.map(|why| {
            format!(
                "the subscription to {topic}: {why}; no update hint is heard, and newer firmware is looked for at its \
                 times; {ALLOW}"
            )
        }));
    }
    unheard
}

/// What was wrong with outcomes of commands on one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutcomeTrouble {
    /// One sentence, which says how many they are.
    pub text: String,
    /// One that stays the same while they become more.
    pub lasting: String,
}

/// The topics on which outcomes of commands were refused, or cut, lately.
fn refused_outcomes(uplink: &Uplink, now: Instant) -> Vec<OutcomeTrouble> {
    let outcomes = uplink.publisher.records().outcomes();
    let counted = |count: u64| format!("{count} outcome{}", if count == 1 { "" } else { "s" });
    let refused = |of: &RefusedOutcomes| {
        let RefusedOutcomes { topic, cause, count } = of;
        let rest =
            format!("of commands on {topic}: {cause}; they are given up; {}", advice::of_outcome(*cause));
        OutcomeTrouble {
            text: format!("the broker refused {} {rest}", counted(*count)),
            lasting: format!("the broker refused outcomes {rest}"),
        }
    };
    let cut = |of: &CutOutcomes| {
        let CutOutcomes { topic, limit, count } = of;
        let why = match limit {
            Some(limit) => format!("the broker takes packets of {limit} bytes (Maximum Packet Size)"),
            None => "the broker refuses it, or closes the connection over it".to_owned(),
        };
        let rest = format!(
            "of commands on {topic} went without all of their payload: with it {why}; raise its limit of message sizes"
        );
        OutcomeTrouble { text: format!("{} {rest}", counted(*count)), lasting: format!("outcomes {rest}") }
    };
    let more = |count: usize, what: &str| {
        let number = match count {
            UNNAMED_MAX.. => format!("{UNNAMED_MAX} topics or more"),
            1 => "1 topic".to_owned(),
            _ => format!("{count} topics"),
        };
        let text = |number| format!("{what} on {number} beside these within an hour");
        (count > 0).then(|| OutcomeTrouble { text: text(number), lasting: text("topics".to_owned()) })
    };
    let refused_more = more(outcomes.refused_unnamed(now), "the broker refused outcomes of commands");
    let cut_more = more(outcomes.cut_unnamed(now), "outcomes of commands went without all of their payload");
    let refused = outcomes.refused(now).map(refused).chain(refused_more);
    refused.chain(outcomes.cut(now).map(cut)).chain(cut_more).collect()
}
