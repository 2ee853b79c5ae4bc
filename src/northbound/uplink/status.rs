//! How the uplink stands, as `tombolo status` shows it.

use std::time::Instant;

use super::attempts::Attempts;
use super::subscription::SubscriptionDoubt;
use crate::message::RecordId;
use crate::northbound::own::Own;
use crate::northbound::publisher::{Counters, HeldRecord};
use crate::northbound::session::Limits;
use crate::northbound::wire::Version;

/// Suspects and topics named.
pub const NAMED_MAX: usize = 16;

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
    /// By [`Lane::index`](crate::message::Lane::index): until when a rejected record that finds no room stops it.
    pub stopped_until: [Option<Instant>; 2],
    /// By [`Lane::index`](crate::message::Lane::index): records that the broker has and that stay in the lane behind one that is
    /// not decided.
    pub delivered_behind: [u64; 2],
    /// By [`Lane::index`](crate::message::Lane::index): records held back, suspected or on a topic that is.
    pub held_back: [usize; 2],
    /// How often the broker closed a connection in the last 10 min, and nothing showed why.
    pub closes: usize,
    /// When the broker took a reading last, over all connections.
    pub taken_at: Option<Instant>,
    /// By [`Lane::index`](crate::message::Lane::index): the record that must be decided before the lane takes more.
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
    pub counters: Counters,
    /// Readings of `qos = 0` rules dropped.
    pub volatile_dropped: u64,
}

/// What is left out at `now` because the broker refuses it or closes over it, in words.
/// `status_topic` is where the gateway's status goes.
pub fn left_out(
    now: Instant,
    attempts: &Attempts,
    subscription: &SubscriptionDoubt,
    own: &Own,
    status_topic: Option<&str>,
) -> Vec<String> {
    let mut left_out = Vec::new();
    if let Some(why) = attempts.settled().and_then(|settled| settled.why_will.as_deref()) {
        left_out.push(format!("the will, because of which {why}"));
    }
    left_out.extend(subscription.left_out(now, status_topic.unwrap_or_default()));
    left_out.extend(own.paused(now).map(|class| {
        format!(
            "messages of [topics] {}: the broker refuses them, or closes the connection over them",
            class.key()
        )
    }));
    let refused = own.refused(NAMED_MAX);
    left_out.extend(refused.iter().map(|topic| format!("messages on {topic}: the broker refuses them")));
    left_out
}
