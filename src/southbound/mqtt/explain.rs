//! Which local rule decides about a topic or a filter, for `tombolo acl explain` and `acl test`.
//!
//! It asks the rules as a session does ([`bus`](super::bus)); tests compare the two.

use super::bus::{LocalRule, LocalRules, is_topic};
use super::filter::{Filter, FilterError};
use crate::gate::DownlinkRule;
use crate::message::Name;

/// What decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// This local rule allows it.
    Local(Name),
    /// This downlink rule allows it: the device's own commands.
    Downlink(Name),
    /// This rule denies it.
    Denied(Name),
    /// No rule is about it.
    NoRule,
    /// It is no topic, or no filter.
    Invalid,
    /// A shared subscription, which is not offered.
    Shared,
}

impl Judged {
    /// Whether it is allowed.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Judged::Local(_) | Judged::Downlink(_))
    }
}

/// Whether a device may publish to local clients on this topic.
pub fn publish(rules: Option<&LocalRules>, device: &str, topic: &str) -> Judged {
    if !is_topic(topic) {
        return Judged::Invalid;
    }
    let rules = rules.map_or(&[][..], |rules| &rules.publish);
    let matching =
        rules.iter().filter(|rule| rule.filter(device).is_some_and(|filter| filter.matches(topic)));
    let (denying, allowing): (Vec<&LocalRule>, Vec<_>) = matching.partition(|rule| rule.deny);
    match (denying.first(), allowing.first()) {
        (Some(rule), _) => Judged::Denied(rule.name.clone()),
        (None, Some(rule)) => Judged::Local(rule.name.clone()),
        (None, None) => Judged::NoRule,
    }
}

/// Whether a device may subscribe to this filter.
pub fn subscribe(
    rules: Option<&LocalRules>,
    downlink: &[DownlinkRule],
    device: &str,
    filter: &str,
) -> Judged {
    let wanted = match Filter::parse(filter) {
        Ok(filter) => filter,
        Err(FilterError::Shared) => return Judged::Shared,
        Err(FilterError::Invalid) => return Judged::Invalid,
    };
    let rules = rules.map_or(&[][..], |rules| &rules.subscribe);
    let overlaps =
        |rule: &&LocalRule| !rule.deny && rule.filter(device).is_some_and(|filter| filter.overlaps(&wanted));
    if let Some(rule) = rules.iter().find(overlaps) {
        return Judged::Local(rule.name.clone());
    }
    let paths = |rule: &&DownlinkRule| {
        !rule.deny && Filter::of_template(&rule.path).is_some_and(|paths| paths.overlaps(&wanted))
    };
    match downlink.iter().find(paths) {
        Some(rule) => Judged::Downlink(rule.name.clone()),
        None => Judged::NoRule,
    }
}
