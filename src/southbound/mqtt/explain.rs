//! Which local rule decides about a topic or a filter, for `tombolo acl explain` and `acl test`.
//!
//! It asks the rules as a session does ([`bus`](super::bus)); tests compare the two.

use super::bus::{Client, Grant, LocalRule, LocalRules, is_topic};
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

/// What of local clients a device may receive, for the rule that comes nearest.
pub fn receivable<'r>(
    rules: Option<&'r LocalRules>,
    client: Client<'r>,
) -> impl Iterator<Item = Candidate> + 'r {
    candidates(rules.map_or(&[][..], |rules| &rules.subscribe), "local-subscribe", client)
}

/// What a device may publish to local clients, for the rule that comes nearest.
pub fn publishable<'r>(
    rules: Option<&'r LocalRules>,
    client: Client<'r>,
) -> impl Iterator<Item = Candidate> + 'r {
    candidates(rules.map_or(&[][..], |rules| &rules.publish), "local-publish", client)
}

/// The paths at which a device may be told something, for the rule that comes nearest.
pub fn paths_of_commands(downlink: &[DownlinkRule]) -> impl Iterator<Item = Candidate> + '_ {
    let rules = downlink.iter().filter(|rule| !rule.deny);
    rules.filter_map(|rule| {
        let paths = Filter::of_template(&rule.path)?;
        Some(candidate("downlink", &rule.name, rule.from.as_ref(), &paths))
    })
}

fn candidates<'r>(
    rules: &'r [LocalRule],
    kind: &'r str,
    client: Client<'r>,
) -> impl Iterator<Item = Candidate> + 'r {
    let rules = rules.iter().filter(|rule| !rule.deny);
    rules.filter_map(move |rule| Some(candidate(kind, &rule.name, rule.from.as_ref(), &rule.filter(client)?)))
}

fn candidate(kind: &str, name: &Name, from: Option<&Name>, filter: &Filter) -> Candidate {
    (format!("{kind}.{name}"), from.map(Name::to_string), filter.as_str().to_owned())
}

/// Whether a device may publish to local clients on this topic.
pub fn publish(rules: Option<&LocalRules>, client: Client<'_>, topic: &str) -> Judged {
    if !is_topic(topic) {
        return Judged::Invalid;
    }
    let (denying, allowing): (Vec<&LocalRule>, Vec<_>) =
        publish_rules(rules, client, topic).partition(|rule| rule.deny);
    match (denying.first(), allowing.first()) {
        (Some(rule), _) => Judged::Denied((*rule).into()),
        (None, Some(rule)) => Judged::Local((*rule).into()),
        (None, None) => Judged::NoRule,
    }
}

/// How a message that [`publish`] allows may be published: each rule grants what it says.
pub fn publish_grant(rules: Option<&LocalRules>, client: Client<'_>, topic: &str) -> Grant {
    let grants = || publish_allowing(rules, client, topic).map(|rule| rule.grant);
    Grant {
        retain: grants().any(|grant| grant.retain),
        qos: grants().map(|grant| grant.qos).max().unwrap_or(0),
    }
}

/// The rules that allow a publish, if none denies it.
pub fn publish_allowing<'r>(
    rules: Option<&'r LocalRules>,
    client: Client<'r>,
    topic: &'r str,
) -> impl Iterator<Item = &'r LocalRule> {
    publish_rules(rules, client, topic).filter(|rule| !rule.deny)
}

fn publish_rules<'r>(
    rules: Option<&'r LocalRules>,
    client: Client<'r>,
    topic: &'r str,
) -> impl Iterator<Item = &'r LocalRule> {
    let rules = rules.map_or(&[][..], |rules| &rules.publish);
    rules.iter().filter(move |rule| rule.filter(client).is_some_and(|filter| filter.matches(topic)))
}

/// Whether a device may subscribe to this filter.
pub fn subscribe(
    rules: Option<&LocalRules>,
    downlink: &[DownlinkRule],
    client: Client<'_>,
    filter: &str,
) -> Judged {
    let wanted = match Filter::parse(filter) {
        Ok(filter) => filter,
        Err(FilterError::Shared) => return Judged::Shared,
        Err(FilterError::Invalid) => return Judged::Invalid,
    };
    match (local_rule(rules, client, &wanted), downlink_rule(downlink, &wanted)) {
        (Judged::Local(rule), _) => Judged::Local(rule),
        (_, Some(rule)) => Judged::Downlink(rule.into()),
        (judged, None) => judged,
    }
}

/// The highest QoS that a SUBACK grants for a filter that [`subscribe`] allows: commands have QoS 1
/// at most, and without a queue (`max-queued = 0`) local messages have QoS 0.
pub fn highest_qos(
    rules: Option<&LocalRules>,
    downlink: &[DownlinkRule],
    client: Client<'_>,
    filter: &str,
    max_queued: usize,
) -> u8 {
    let Ok(wanted) = Filter::parse(filter) else { return 0 };
    match local_rule(rules, client, &wanted).is_allowed() && max_queued > 0 {
        true => 2,
        false => u8::from(downlink_rule(downlink, &wanted).is_some()),
    }
}

/// The rule that lets a device receive some of what a filter matches from local clients; if all of
/// it is denied, the rule that denies.
fn local_rule(rules: Option<&LocalRules>, client: Client<'_>, wanted: &Filter) -> Judged {
    let rules = rules.map_or(&[][..], |rules| &rules.subscribe);
    let with = |rule: &LocalRule| rule.filter(client)?.intersection(wanted);
    let met = rules.iter().filter_map(|rule| Some((rule, with(rule)?)));
    let (denying, allowing): (Vec<_>, Vec<_>) = met.partition(|(rule, _)| rule.deny);
    let denied: Vec<&Filter> = denying.iter().map(|(_, filter)| filter).collect();
    if let Some((rule, _)) = allowing.iter().find(|(_, both)| both.reaches_beyond(&denied)) {
        return Judged::Local((*rule).into());
    }
    let Some((_, both)) = allowing.first() else { return Judged::NoRule };
    match denying.iter().find(|(_, filter)| filter.overlaps(both)) {
        Some((rule, _)) => Judged::Denied((*rule).into()),
        None => Judged::NoRule,
    }
}

/// A rule that a device is not given because it has not all tags that the topic needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking<'r> {
    /// The rule's name.
    pub rule: &'r Name,
    /// The role that it is from, where the device's role includes that one.
    pub from: Option<&'r Name>,
    /// The first tag that the device does not have.
    pub tag: &'r str,
}

/// The first rule by which a device could publish on a topic if it had a tag that it has not.
pub fn publish_lacks<'r>(
    rules: Option<&'r LocalRules>,
    client: Client<'_>,
    topic: &str,
) -> Option<Lacking<'r>> {
    lacking(rules.map_or(&[], |rules| &rules.publish), client, |filter| filter.matches(topic))
}

/// The first rule by which a device could subscribe to a filter if it had a tag that it has not.
pub fn subscribe_lacks<'r>(
    rules: Option<&'r LocalRules>,
    client: Client<'_>,
    filter: &str,
) -> Option<Lacking<'r>> {
    let wanted = Filter::parse(filter).ok()?;
    lacking(rules.map_or(&[], |rules| &rules.subscribe), client, |filter| filter.overlaps(&wanted))
}

fn lacking<'r>(
    rules: &'r [LocalRule],
    client: Client<'_>,
    meets: impl Fn(&Filter) -> bool,
) -> Option<Lacking<'r>> {
    rules.iter().filter(|rule| !rule.deny).find_map(|rule| {
        let (tag, filter) = rule.lacking(client)?;
        meets(&filter).then_some(Lacking { rule: &rule.name, from: rule.from.as_ref(), tag })
    })
}

fn downlink_rule<'r>(downlink: &'r [DownlinkRule], wanted: &Filter) -> Option<&'r DownlinkRule> {
    let leads = |rule: &&DownlinkRule| {
        !rule.deny && Filter::of_template(&rule.path).is_some_and(|paths| paths.overlaps(wanted))
    };
    downlink.iter().find(leads)
}
