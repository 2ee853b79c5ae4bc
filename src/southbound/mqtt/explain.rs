//! Which local rule decides about a topic or a filter, for `tombolo acl explain` and `acl test`.
//!
//! It asks the rules as a session does ([`bus`](super::bus)); tests compare the two.

use super::bus::{LocalRule, LocalRules, is_topic};
use super::filter::{Filter, FilterError};
use crate::gate::DownlinkRule;
use crate::gate::explain::Candidate;
use crate::gate::settings::ReadingFilter;
use crate::message::{ContentFormat, Name};

/// What decides.
#[derive(Clone, Debug, PartialEq)]
pub enum Judged {
    /// This local rule allows it.
    Local(Deciding),
    /// This downlink rule allows it: the device's own commands.
    Downlink(Deciding),
    /// This rule denies it.
    Denied(Deciding),
    /// No rule is about it.
    NoRule,
    /// It is no topic, or no filter.
    Invalid,
    /// A shared subscription, which is not offered.
    Shared,
}

/// A rule that decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Deciding {
    /// Its name.
    pub name: Name,
    /// The role that it is from, where the device's role includes that one.
    pub from: Option<Name>,
    /// Of a local-subscribe rule: the content formats it takes, if not any.
    pub content_formats: Vec<Option<ContentFormat>>,
    /// Of a local-subscribe rule: which messages are held back.
    pub filter: ReadingFilter,
}

impl From<&LocalRule> for Deciding {
    fn from(rule: &LocalRule) -> Deciding {
        Deciding {
            name: rule.name.clone(),
            from: rule.from.clone(),
            content_formats: rule.content_formats.clone(),
            filter: rule.filter.clone(),
        }
    }
}

impl From<&DownlinkRule> for Deciding {
    fn from(rule: &DownlinkRule) -> Deciding {
        let (content_formats, filter) = (Vec::new(), ReadingFilter::default());
        Deciding { name: rule.name.clone(), from: rule.from.clone(), content_formats, filter }
    }
}

impl Judged {
    /// Whether it is allowed.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Judged::Local(_) | Judged::Downlink(_))
    }
}

/// What a device may subscribe to, for the rule that comes nearest.
pub fn subscribable<'r>(
    rules: Option<&'r LocalRules>,
    downlink: &'r [DownlinkRule],
    device: &'r str,
) -> impl Iterator<Item = Candidate> + 'r {
    let own = rules.map_or(&[][..], |rules| &rules.subscribe).iter().filter(|rule| !rule.deny);
    let own =
        own.filter_map(move |rule| Some(("local-subscribe", &rule.name, &rule.from, rule.filter(device)?)));
    let paths = downlink.iter().filter(|rule| !rule.deny);
    let paths =
        paths.filter_map(|rule| Some(("downlink", &rule.name, &rule.from, Filter::of_template(&rule.path)?)));
    own.chain(paths).map(|(kind, name, from, filter)| {
        (format!("{kind}.{name}"), from.as_ref().map(Name::to_string), filter.as_str().to_owned())
    })
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
        (Some(rule), _) => Judged::Denied((*rule).into()),
        (None, Some(rule)) => Judged::Local((*rule).into()),
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
        return Judged::Local(rule.into());
    }
    let paths = |rule: &&DownlinkRule| {
        !rule.deny && Filter::of_template(&rule.path).is_some_and(|paths| paths.overlaps(&wanted))
    };
    match downlink.iter().find(paths) {
        Some(rule) => Judged::Downlink(rule.into()),
        None => Judged::NoRule,
    }
}
